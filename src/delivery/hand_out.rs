//! From a queue to a session: attaching, the pump, and relays from a shard's outbox.

use std::sync::Arc;

use super::{
    message::{ConsumerId, Lease, Message, State},
    output::{HandOut, Load, Out},
    queue::{Consumer, NoConsumer, QueueIx, QueueKind, Wish},
    state::{Reserved, ShardState, Timer},
};
use crate::{
    frame::{Address, Envelope, Frame, Priority, Seq},
    time::Timestamp,
};

/// Messages read ahead from the store in one go: enough to hide a read behind a session's window.
pub(super) const READ_AHEAD: usize = 64;
/// Bytes read ahead in one go, the first message aside: a session's usual window.
pub(super) const READ_AHEAD_BYTES: u64 = 1 << 20;

/// Messages of one queue that a pump steps over because no session that fits them has credit (a protocol that the sender demands, an
/// agent that policy demands); behind so many the queue waits. Each is looked at again by every pump of the queue, at some 50 ns.
pub(super) const STEPPED_OVER_MAX: usize = 256;
/// Bytes of such messages, the first aside: they stay in memory.
pub(super) const STEPPED_OVER_BYTES_MAX: u64 = 1 << 20;

/// Decides whether a consumer may have a message (G10); asked at every hand-out.
pub type Gate<'a> = dyn Fn(&Consumer, &Envelope) -> bool + 'a;

pub(super) fn wish_of(envelope: &Envelope) -> Wish<'_> {
    Wish {
        protocol: envelope.protocol(),
        required: envelope.is_protocol_required(),
    }
}

enum Step {
    HandedOut,
    /// This priority cannot go on until a read completes.
    LaneWaits,
    /// No consumer that may go on has credit: the queue cannot go on.
    QueueWaits,
    /// Nobody that fits the message has credit, but others have: go on behind it, without those that fit.
    SteppedOver,
    /// The message was skipped, parked or expired: go on.
    Skipped,
}

/// What one pump of a queue stepped over.
#[derive(Default)]
struct SteppedOver {
    messages: Vec<(Priority, Seq)>,
    bytes: u64,
    /// Consumers that get nothing more in this pump: something older waits for them.
    held_back: Vec<ConsumerId>,
}

impl SteppedOver {
    fn is_full(&self) -> bool {
        self.messages.len() >= STEPPED_OVER_MAX || self.bytes >= STEPPED_OVER_BYTES_MAX
    }
}

impl<A> ShardState<A> {
    /// A session opens a queue. Its messages that waited for such a session go back to their lanes.
    pub fn handle_attach(&mut self, address: &Address, kind: QueueKind, consumer: Consumer) {
        let ix = self.open_queue(address, kind);
        let queue = self.queue_mut(ix);
        queue.kind = kind;
        match queue.consumers.iter_mut().find(|known| known.id == consumer.id) {
            Some(known) => {
                // Leases are given back to the window that they were taken from.
                debug_assert!(Arc::ptr_eq(&known.credit, &consumer.credit), "a session has one credit");
                *known = consumer;
            }
            None => {
                // Most queues have one consumer, and growing by itself a vector makes room for four.
                if queue.consumers.is_empty() {
                    queue.consumers.reserve_exact(1);
                }
                queue.consumers.push(consumer);
            }
        }
        for seq in self.queue_mut(ix).unpark() {
            self.return_to_lane(seq);
        }
        self.mark_dirty(ix);
    }

    /// A session leaves a queue: what it had not settled goes back. An ephemeral queue goes with it.
    pub fn handle_detach(&mut self, address: &Address, consumer: ConsumerId, now: Timestamp, out: &mut Out<A>) {
        let Some(ix) = self.find_queue(address.hash64(), address.as_str()) else {
            return;
        };
        let mut leased: Vec<Seq> = self.queue(ix).leased.iter().copied().collect();
        leased.sort_unstable();
        for seq in leased {
            let held = matches!(self.messages.get(&seq), Some(m) if matches!(m.state, State::Leased { consumer: c, .. } if c == consumer));
            if held {
                // Not released before: it leaves the queue, and its session goes on.
                self.end_reservation(seq);
                self.end_attempt(seq, None, now, out);
            }
        }
        // Only now: what was leased gives its credit back, which the session may use in other queues.
        self.queue_mut(ix).consumers.retain(|known| known.id != consumer);
        if self.queue(ix).kind == QueueKind::Ephemeral && self.queue(ix).consumers.is_empty() {
            self.purge_queue(ix, now, out);
        }
        self.mark_dirty(ix);
        self.forget_idle_queue(ix);
    }

    /// A session was sent a message, is gone and may be back: until then it does not expire, and where the queue is shared and `session`
    /// is given, no other gets it.
    pub fn handle_hold(&mut self, seq: Seq, until: Timestamp, session: Option<u64>) {
        let unsettled = |message: &&Message| message.is_unsettled();
        let Some(ix) = self.messages.get(&seq).filter(unsettled).map(|message| message.queue) else {
            return;
        };
        let only = match self.queue(ix).kind {
            QueueKind::Inbox | QueueKind::DurableSession => None,
            QueueKind::OneOf(_) if session.is_some() => session,
            _ => return,
        };
        let Some(message) = self.messages.get_mut(&seq) else {
            return;
        };
        if let Some(session) = only {
            let expires_at = message.expires_at;
            self.reserved.entry(seq).or_insert(Reserved { session, expires_at });
        }
        let expires_at = message.expires_at.later(until);
        if expires_at != message.expires_at {
            message.expires_at = expires_at;
            if !expires_at.is_never() {
                self.set_timer(expires_at, Timer::Expire(seq));
            }
        }
    }

    /// The session that alone may have a message will not be back: to the others, or it expires at last. Other messages are left alone.
    pub fn handle_let_go(&mut self, seq: Seq, now: Timestamp, out: &mut Out<A>) {
        if !self.end_reservation(seq) {
            return;
        }
        let Some(message) = self.messages.get(&seq) else { return };
        match (message.state, message.queue) {
            (State::Ready | State::Delayed | State::Parked, _) if message.is_expired(now) => self.expire(seq, now, out),
            (State::Parked, ix) => {
                self.queue_mut(ix).parked.remove(&seq);
                self.return_to_lane(seq);
            }
            _ => {}
        }
    }

    /// A message is for everyone again, and expires when it would have. False: it was.
    pub(super) fn end_reservation(&mut self, seq: Seq) -> bool {
        // Nothing is reserved as a rule.
        let reserved = match self.reserved.is_empty() {
            true => None,
            false => self.reserved.remove(&seq),
        };
        if let (Some(reserved), Some(message)) = (reserved, self.messages.get_mut(&seq)) {
            message.expires_at = reserved.expires_at;
        }
        reserved.is_some()
    }

    /// A session has credit again, or a new window.
    pub fn handle_credit(&mut self, address: &Address) {
        if let Some(ix) = self.find_queue(address.hash64(), address.as_str()) {
            self.mark_dirty(ix);
        }
    }

    /// Hands out what the queues that changed allow, and relays what waits in the outbox.
    pub fn pump(&mut self, now: Timestamp, out: &mut Out<A>, gate: &Gate<'_>) {
        self.latest = now;
        self.apply_due_copies(now, out, gate);
        while let Some(ix) = self.dirty.pop() {
            if let Some(queue) = self.queues[ix as usize].as_mut() {
                queue.dirty = false;
                self.pump_queue(ix, now, out, gate);
                self.forget_idle_queue(ix);
            }
        }
        self.pump_outbox(now, out);
        self.settle_down();
    }

    /// Hands out what one queue may.
    ///
    /// A message whose fitting consumers are all out of credit does not hold up what others can take: it is stepped over, and those
    /// consumers get nothing younger in this pump. Every pump begins with what was stepped over, so that each consumer gets what it can
    /// get in the order of its lane; between two consumers no order is promised.
    fn pump_queue(&mut self, ix: QueueIx, now: Timestamp, out: &mut Out<A>, gate: &Gate<'_>) {
        let queue = self.queue(ix);
        if queue.consumers.is_empty() {
            if queue.kind == QueueKind::Inbox && queue.has_waiting() {
                out.unattended.push(queue.address.clone());
            }
            return;
        }
        let mut open = [true; Priority::COUNT];
        let mut stepped = SteppedOver::default();
        while let Some(priority) = self.queue_mut(ix).turn(open) {
            let seq = self
                .queue(ix)
                .front(priority)
                .expect("a turn goes to a priority that has a message");
            match self.hand_out_front(ix, priority, seq, &mut stepped, now, out, gate) {
                Step::HandedOut => self.queue_mut(ix).spend(priority),
                Step::Skipped | Step::SteppedOver => {}
                Step::LaneWaits => open[priority.index()] = false,
                Step::QueueWaits => break,
            }
        }
        for (priority, seq) in stepped.messages {
            self.queue_mut(ix).push_returned(priority, seq);
        }
    }

    fn hand_out_front(
        &mut self,
        ix: QueueIx,
        priority: Priority,
        seq: Seq,
        stepped: &mut SteppedOver,
        now: Timestamp,
        out: &mut Out<A>,
        gate: &Gate<'_>,
    ) -> Step {
        let ready = self.messages.get(&seq).filter(|message| message.state == State::Ready);
        let Some(message) = ready else {
            self.queue_mut(ix).pop_stale(priority);
            return Step::Skipped;
        };
        if message.is_expired(now) {
            self.expire(seq, now, out);
            return Step::Skipped;
        }
        let Some(frame) = message.frame.as_deref() else {
            // A body is read for someone who can take it; otherwise stalled sessions would fill the memory.
            if !self
                .queue(ix)
                .has_credit(message.weight(), self.worker, &stepped.held_back)
            {
                return Step::QueueWaits;
            }
            self.read_ahead(ix, priority, out);
            return Step::LaneWaits;
        };
        let (bytes, worker) = (message.weight(), self.worker);
        let queue = self.queues[ix as usize]
            .as_mut()
            .expect("the queue being pumped is there");
        let is_alone = queue.consumers.len() == 1;
        let envelope = &frame.envelope;
        let only = self.reserved.get(&seq);
        let is_for = |consumer: &Consumer| only.is_none_or(|only| only.session == consumer.session);
        let (wish, may_have) = (wish_of(envelope), |consumer: &Consumer| {
            is_for(consumer) && gate(consumer, envelope)
        });
        match queue.pick(wish, bytes, worker, &stepped.held_back, may_have) {
            Ok(consumer) => {
                let consumer = consumer.clone();
                self.queue_mut(ix).pop(priority);
                self.lease(ix, seq, &consumer, now, out);
                Step::HandedOut
            }
            // Alone it is all there is to wait for: the usual case, and one without an allocation.
            Err(NoConsumer::NoCredit) if is_alone || stepped.is_full() => Step::QueueWaits,
            Err(NoConsumer::NoCredit) => {
                queue.hold_back(wish, may_have, &mut stepped.held_back);
                if stepped.held_back.len() == queue.consumers.len() {
                    return Step::QueueWaits;
                }
                queue.pop(priority);
                stepped.bytes += bytes;
                stepped.messages.push((priority, seq));
                Step::SteppedOver
            }
            Err(NoConsumer::NoneFits) => {
                queue.pop(priority);
                queue.parked.insert(seq);
                if let Some(message) = self.messages.get_mut(&seq) {
                    message.state = State::Parked;
                }
                // It was perhaps read only to see what it asks for.
                self.drop_frame_above_budget(seq);
                Step::Skipped
            }
        }
    }

    fn lease(&mut self, ix: QueueIx, seq: Seq, consumer: &Consumer, now: Timestamp, out: &mut Out<A>) {
        let lease = Lease(self.next_lease);
        self.next_lease += 1;
        let Some(message) = self.messages.get_mut(&seq) else {
            return;
        };
        message.state = State::Leased {
            consumer: consumer.id,
            lease,
        };
        message.attempts += 1;
        if message.sent_at.is_never() {
            message.sent_at = now;
        }
        let (attempts, is_redelivered) = (message.attempts, message.redelivered);
        message.redelivered = true;
        let mut frame = self.take_frame(seq).expect("checked by the pump");
        frame.stamp.attempt = attempts - 1;
        if is_redelivered {
            frame.stamp.flags = frame.stamp.flags.with_redelivered();
            out.counts.redelivered += 1;
        }
        out.counts.handed_out[frame.envelope.qos() as usize] += 1;
        let queue = self.queue_mut(ix);
        queue.leased.insert(seq);
        let address = queue.address.clone();
        out.hand_outs.push(HandOut {
            consumer: consumer.id,
            lease: (seq, lease),
            frame,
            queue: address,
        });
        if let Some(visible_again) = consumer.visibility_timeout {
            self.set_timer(now + visible_again, Timer::VisibilityEnds(seq, lease));
        }
    }

    fn read_ahead(&mut self, ix: QueueIx, priority: Priority, out: &mut Out<A>) {
        let mut next = Vec::with_capacity(READ_AHEAD);
        let mut bytes = 0;
        for seq in self.queue(ix).in_order(priority) {
            let Some(message) = self.messages.get(&seq).filter(|message| message.state == State::Ready) else {
                continue;
            };
            bytes += message.weight();
            if next.len() == READ_AHEAD || (bytes > READ_AHEAD_BYTES && !next.is_empty()) {
                break;
            }
            next.push(seq);
        }
        for seq in next {
            self.load(seq, out);
        }
    }

    pub(super) fn load(&mut self, seq: Seq, out: &mut Out<A>) {
        let Some(message) = self.messages.get_mut(&seq) else {
            return;
        };
        if message.frame.is_none() && !message.loading && message.wants_frame() {
            message.loading = true;
            out.loads.push(Load(seq));
        }
    }

    /// A read completed. A message that can no longer be read is rejected, counted and never silently skipped.
    pub fn handle_loaded(&mut self, seq: Seq, frame: Option<Frame>, now: Timestamp, out: &mut Out<A>) {
        let Some(message) = self.messages.get_mut(&seq) else {
            return;
        };
        message.loading = false;
        let (ix, is_fan_out) = (message.queue, message.targets.is_some());
        match frame {
            // It was settled while the read was under way.
            Some(_) if !message.wants_frame() => {}
            Some(frame) => {
                self.cache_frame(seq, frame);
                if !is_fan_out {
                    self.mark_dirty(ix);
                }
            }
            None if !message.wants_frame() => {}
            None => self.reject_damaged(seq, now, out),
        }
    }
}
