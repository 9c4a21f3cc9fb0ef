//! The way out of a shard: acknowledgements, refusals, expiry, dead letters, receipts and what ages out.

use super::{
    message::{Lease, Message, State, Stored},
    output::{After, GivenUp, Out, Verdict},
    queue::{Consumer, QueueIx, QueueKind},
    receipts::CopyKey,
    state::{ShardState, Timer},
};
use crate::{
    frame::{
        Address, AgentId, Seq,
        record::{IdHash, Keep, MessageKey, Op, Reason, Receipt, Status},
    },
    time::Timestamp,
};

/// How a receiver refuses a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nack {
    /// Hand it out again after this long, or after the usual back-off.
    Retry(Option<std::time::Duration>),
    /// Hand it out again at once; the attempt does not count.
    Release,
    /// Not again.
    DeadLetter,
}

impl<A> ShardState<A> {
    /// A receiver acknowledges. Answered once the settle is committed.
    pub fn handle_ack(
        &mut self,
        seq: Seq,
        lease: Lease,
        agent: &AgentId,
        answer: Option<A>,
        now: Timestamp,
        out: &mut Out<A>,
    ) {
        match self.holding(seq, lease, agent) {
            Holding::Leased | Holding::InDoubt => {
                out.counts.acknowledged += 1;
                self.settle(seq, Status::Delivered, Reason::None, answer, now, out);
            }
            Holding::Settling => self.after.push(After::SettledToo { seq, answer }),
            Holding::Stale => out.answers.extend(answer.map(|answer| (answer, Verdict::Stale))),
        }
    }

    /// A receiver refuses. A retry is answered at once (nothing is lost if its record is), a dead letter once it is committed.
    pub fn handle_nack(
        &mut self,
        seq: Seq,
        lease: Lease,
        agent: &AgentId,
        nack: Nack,
        answer: Option<A>,
        now: Timestamp,
        out: &mut Out<A>,
    ) {
        match (self.holding(seq, lease, agent), nack) {
            (Holding::Leased | Holding::InDoubt, Nack::DeadLetter) => {
                self.settle(seq, Status::DeadLettered, Reason::Refused, answer, now, out);
            }
            (Holding::Leased, Nack::Release) => {
                self.release(seq, now, out);
                out.answers.extend(answer.map(|answer| (answer, Verdict::Settled)));
            }
            (Holding::Leased, Nack::Retry(after)) => {
                let attempts = self.messages.get(&seq).map_or(1, |message| message.attempts);
                let wait = after.unwrap_or_else(|| self.limits.backoff(attempts));
                self.end_attempt(seq, Some(wait), now, out);
                out.answers.extend(answer.map(|answer| (answer, Verdict::Settled)));
            }
            (Holding::Settling | Holding::InDoubt | Holding::Stale, _) => {
                out.answers.extend(answer.map(|answer| (answer, Verdict::Stale)));
            }
        }
    }

    fn holding(&self, seq: Seq, lease: Lease, agent: &AgentId) -> Holding {
        let Some(message) = self.messages.get(&seq) else {
            return Holding::Stale;
        };
        let (held_by, held, holding) = match message.state {
            State::Leased { consumer, lease } => (consumer, lease, Holding::Leased),
            State::Settling { consumer, lease } => (consumer, lease, Holding::Settling),
            State::InDoubt { consumer, lease, .. } => (consumer, lease, Holding::InDoubt),
            _ => return Holding::Stale,
        };
        let is_holder = |known: &Consumer| known.id == held_by && known.agent == *agent;
        let consumers = &self.queue(message.queue).consumers;
        if held == lease && consumers.iter().any(is_holder) {
            holding
        } else {
            Holding::Stale
        }
    }

    /// Gives a hand-out's credit back, once: a message that ends with its attempt comes by here a second time.
    fn end_lease(&mut self, seq: Seq, out: &mut Out<A>) {
        let Some(message) = self.messages.get(&seq) else { return };
        let State::Leased { consumer, .. } = message.state else {
            return;
        };
        let (ix, weight) = (message.queue, message.weight());
        let queue = self.queue_mut(ix);
        if !queue.leased.remove(&seq) {
            return;
        }
        if let Some(consumer) = queue.consumers.iter().find(|known| known.id == consumer) {
            let waiting = consumer.credit.give_back(1, weight);
            if !waiting.is_empty() {
                out.credited.push((consumer.id, waiting));
            }
        }
        self.mark_dirty(ix);
    }

    /// An attempt failed: the message waits and comes again, or it had its last chance.
    pub(super) fn end_attempt(
        &mut self,
        seq: Seq,
        wait: Option<std::time::Duration>,
        now: Timestamp,
        out: &mut Out<A>,
    ) {
        self.end_lease(seq, out);
        let Some(message) = self.messages.get_mut(&seq) else {
            return;
        };
        // Its timer may have passed while it was handed out; a message has one end, and expiry came first.
        if message.is_expired(now) {
            return self.expire(seq, now, out);
        }
        if message.attempts >= self.limits.max_deliver {
            return self.settle(seq, Status::DeadLettered, Reason::MaxDeliver, None, now, out);
        }
        let not_before = wait.map_or(Timestamp::NEVER, |wait| now + wait);
        if message.stored == Stored::Yes {
            self.ops.push(Op::Attempt {
                seq,
                attempts: message.attempts,
                not_before,
            });
        }
        if not_before <= now {
            self.return_to_lane(seq);
        } else {
            message.state = State::Delayed;
            self.set_timer(not_before, Timer::BackoffEnds(seq));
        }
    }

    fn release(&mut self, seq: Seq, now: Timestamp, out: &mut Out<A>) {
        self.end_lease(seq, out);
        let Some(message) = self.messages.get_mut(&seq) else {
            return;
        };
        message.attempts = message.attempts.saturating_sub(1);
        if message.is_expired(now) {
            return self.expire(seq, now, out);
        }
        self.return_to_lane(seq);
    }

    /// A message that was handed out, delayed or parked waits again; one that was settled meanwhile does not (G7).
    pub(super) fn return_to_lane(&mut self, seq: Seq) {
        let Some(message) = self.messages.get_mut(&seq) else {
            return;
        };
        if !matches!(message.state, State::Leased { .. } | State::Delayed | State::Parked) {
            return;
        }
        message.state = State::Ready;
        let (ix, priority) = (message.queue, message.priority);
        self.queue_mut(ix).push_returned(priority, seq);
        self.mark_dirty(ix);
    }

    pub(super) fn expire(&mut self, seq: Seq, now: Timestamp, out: &mut Out<A>) {
        self.settle(seq, Status::Expired, Reason::None, None, now, out);
    }

    pub(super) fn reject_damaged(&mut self, seq: Seq, now: Timestamp, out: &mut Out<A>) {
        self.outbox.retain(|waiting| *waiting != seq);
        self.settle(seq, Status::Rejected, Reason::Damaged, None, now, out);
    }

    /// Ends a message: the receipt goes into the commit, and only after it is the message gone.
    pub(super) fn settle(
        &mut self,
        seq: Seq,
        status: Status,
        reason: Reason,
        answer: Option<A>,
        now: Timestamp,
        out: &mut Out<A>,
    ) {
        let before = self.messages.get(&seq).map(|message| message.state);
        let (consumer, lease) = match before {
            None | Some(State::Settling { .. } | State::Kept { .. }) => {
                out.answers.extend(answer.map(|answer| (answer, Verdict::Stale)));
                return;
            }
            Some(State::Leased { consumer, lease }) => {
                self.end_lease(seq, out);
                (consumer, lease)
            }
            Some(State::InDoubt { consumer, lease, .. }) => (consumer, lease),
            Some(State::Relaying { shards_left: 1.. }) => {
                self.relaying -= 1;
                Default::default()
            }
            Some(_) => Default::default(),
        };
        // In doubt it was counted when it was settled first.
        if !matches!(before, Some(State::InDoubt { .. })) {
            self.note_given_up(seq, status, reason, out);
        }
        self.end_reservation(seq);
        let keep = self.keep_of(seq, status, reason, now);
        let Some(message) = self.messages.get_mut(&seq) else {
            return;
        };
        message.state = State::Settling { consumer, lease };
        let receipt = message.receipt(seq, status, reason, now);
        let (ix, weight, stored) = (message.queue, message.weight(), message.stored);
        if matches!(before, Some(State::Ready | State::Parked)) {
            self.leave_lane(seq);
        }
        let queue = self.queue_mut(ix);
        queue.messages -= 1;
        queue.bytes -= weight;
        queue.settling += usize::from(stored != Stored::InMemory);
        self.drop_frame(seq);
        let settle_no = self.next_settle;
        self.next_settle = settle_no.next();
        match stored {
            Stored::Yes | Stored::Committing => {
                self.expect_ops();
                self.ops.push(Op::Settle {
                    settle_no,
                    receipt,
                    keep,
                });
                self.receipts.push(settle_no, receipt);
                let (ops, after) = &mut self.unhurried;
                *ops += usize::from(answer.is_none());
                *after += usize::from(answer.is_none());
                self.after.push(After::Settled { seq, keep, answer });
            }
            Stored::InMemory => {
                self.receipts.push(settle_no, receipt);
                self.drop_settled(seq, Keep::Nothing, out);
                out.answers.extend(answer.map(|answer| (answer, Verdict::Settled)));
            }
        }
    }

    /// The settle whose commit failed, once more.
    pub(super) fn settle_again(&mut self, seq: Seq, now: Timestamp, out: &mut Out<A>) {
        if let Some(State::InDoubt { status, reason, .. }) = self.messages.get(&seq).map(|message| message.state) {
            self.settle(seq, status, reason, None, now, out);
        }
    }

    fn leave_lane(&mut self, seq: Seq) {
        let messages = &self.messages;
        let Some(message) = messages.get(&seq) else { return };
        let is_ready = |seq| messages.get(&seq).is_some_and(|message| message.state == State::Ready);
        let queue = self.queues[message.queue as usize]
            .as_mut()
            .expect("an index is given out only while its queue is there");
        queue.withdraw(message.priority, seq, is_ready);
    }

    fn keep_of(&self, seq: Seq, status: Status, reason: Reason, now: Timestamp) -> Keep {
        let Some(message) = self.messages.get(&seq) else {
            return Keep::Nothing;
        };
        let queue = self.queue(message.queue);
        let history_until = message.accepted_at + queue.retention;
        match (status, queue.kind) {
            (_, QueueKind::Ephemeral) => Keep::Nothing,
            (Status::DeadLettered, _) => Keep::DeadLetter(self.limits.dead_letter_until(now)),
            _ if reason == Reason::Removed => Keep::Nothing,
            _ if !queue.retention.is_zero() && history_until > now => Keep::History(history_until),
            _ => Keep::Nothing,
        }
    }

    /// A commit is done: what followed from it happens now, in order.
    pub fn handle_committed(&mut self, after: Vec<After<A>>, now: Timestamp, out: &mut Out<A>, gate: &super::Gate<'_>) {
        for item in &after {
            if let After::Enqueued { seq, .. } | After::Replayed { seq, .. } = item {
                self.enter_lane(*seq, now, out);
            }
        }
        self.pump(now, out, gate);
        for item in after {
            match item {
                After::Enqueued { seq, answer } => self.answer_accepted(seq, answer, out),
                After::Duplicate { seq, answer } => self.answer_known(seq, answer, out),
                After::Settled { seq, keep, answer } => {
                    self.drop_settled(seq, keep, out);
                    out.answers.extend(answer.map(|answer| (answer, Verdict::Settled)));
                }
                After::SettledToo { seq, answer } => {
                    // Still here: the first one's commit failed.
                    let is_settled = self.messages.get(&seq).is_none_or(Message::is_kept);
                    let verdict = if is_settled { Verdict::Settled } else { Verdict::Failed };
                    out.answers.extend(answer.map(|answer| (answer, verdict)));
                }
                After::Rejected { seq, answer } => self.answer_accepted(seq, answer, out),
                After::Relayed { source, seq, .. } => self.copies_committed(source, seq, out),
                After::Replayed { seq, answer } => {
                    self.replayed(seq);
                    out.answers
                        .extend(answer.map(|answer| (answer, Verdict::Replayed { seq })));
                }
            }
        }
        self.pump(now, out, gate);
        self.bound_memory();
    }

    /// The settle is committed: the message leaves, or stays as what its keep says.
    fn drop_settled(&mut self, seq: Seq, keep: Keep, out: &mut Out<A>) {
        let Some(message) = self.messages.get(&seq) else { return };
        let (ix, is_stored) = (message.queue, message.stored != Stored::InMemory);
        let queue = self.queue_mut(ix);
        queue.settling -= usize::from(is_stored);
        let is_removed = queue.removed;
        match keep {
            Keep::Nothing => {
                self.remove_message(seq);
            }
            Keep::DeadLetter(_) | Keep::History(_) => self.keep(seq, keep, out),
        }
        if is_removed {
            self.forget_kept(seq);
        }
        self.mark_dirty(ix);
    }

    /// Counts a message that will reach nobody, and names it for the log.
    fn note_given_up(&self, seq: Seq, status: Status, reason: Reason, out: &mut Out<A>) {
        match status {
            Status::Expired => out.counts.expired += 1,
            Status::DeadLettered => out.counts.dead_lettered += 1,
            Status::Rejected => out.counts.rejected += 1,
            Status::Delivered | Status::Queued | Status::Sent => return,
        }
        let Some(message) = self.messages.get(&seq) else { return };
        out.given_up.push(GivenUp {
            seq,
            message_id: message.frame.as_ref().map(|frame| frame.envelope.id().to_owned()),
            queue: self.queue(message.queue).address.clone(),
            status,
            reason,
        });
    }

    /// A copy that its queue has no room for, or whose queue is gone: a receipt says so, and nothing else is kept of it.
    pub(super) fn reject_copy(
        &mut self,
        (key, id_hash, address): (MessageKey, IdHash, &Address),
        reason: Reason,
        answer: Option<A>,
        now: Timestamp,
        out: &mut Out<A>,
    ) {
        out.counts.rejected += 1;
        let seq = self.next_seq;
        self.next_seq = seq.next();
        let settle_no = self.next_settle;
        self.next_settle = settle_no.next();
        let receipt = Receipt {
            key,
            address: address.hash64(),
            id_hash,
            seq,
            status: Status::Rejected,
            reason,
            attempts: 0,
            recipients: 1,
            accepted_at: now,
            sent_at: Timestamp::NEVER,
            settled_at: now,
        };
        self.newest.insert(CopyKey::new(key, receipt.address), seq);
        self.by_id.insert((id_hash, seq));
        self.ops.push(Op::Settle {
            settle_no,
            receipt,
            keep: Keep::Nothing,
        });
        self.receipts.push(settle_no, receipt);
        self.after.push(After::Rejected { seq, answer });
    }

    /// Ends every message of a queue: its agent, group or session is gone.
    pub(super) fn purge_queue(&mut self, ix: QueueIx, now: Timestamp, out: &mut Out<A>) {
        if self.queue(ix).messages > 0 {
            let is_held = |message: &&Message| message.queue == ix && message.is_unsettled();
            let held = |seq: Seq| self.messages.get(&seq).filter(is_held).map(|_| seq);
            let mut seqs: Vec<Seq> = self.queue(ix).listed().filter_map(held).collect();
            if seqs.len() < self.queue(ix).messages {
                // Some are committing, delayed or relayed: rare where queues are removed, so that no list of them is kept.
                let held = self.messages.iter().filter(|(_, message)| is_held(message));
                seqs = held.map(|(seq, _)| *seq).collect();
            }
            seqs.sort_unstable();
            for seq in seqs {
                self.settle(seq, Status::Rejected, Reason::Removed, None, now, out);
            }
        }
        let queue = self.queue(ix);
        let kept: Vec<Seq> = queue.dead_letters.iter().chain(&queue.history).copied().collect();
        kept.into_iter().for_each(|seq| self.forget_kept(seq));
    }
}

enum Holding {
    Leased,
    Settling,
    InDoubt,
    Stale,
}
