//! What stays after a message is settled: dead letters, group history, and receipts in their window.

use super::{
    message::{Message, State},
    output::{After, Out, Verdict},
    queue::QueueIx,
    receipts::CopyKey,
    state::{ShardState, Timer},
};
use crate::{
    frame::{
        Address, Frame, Seq,
        record::{Enqueue, IdHash, Keep, Op, Reason},
    },
    time::Timestamp,
};

/// Receipts that leave their window before the store is told; it is also told with every commit.
const FLOOR_EVERY: usize = 1024;

impl<A> ShardState<A> {
    pub(super) fn keep(&mut self, seq: Seq, keep: Keep, out: &mut Out<A>) {
        let Some(message) = self.messages.get_mut(&seq) else {
            return;
        };
        let ix = message.queue;
        let receipt = self.receipts.get(seq);
        message.state = State::Kept {
            reason: receipt.map_or(Reason::None, |receipt| receipt.reason),
            settled_at: receipt.map_or(Timestamp::NEVER, |receipt| receipt.settled_at),
        };
        match keep {
            Keep::Nothing => {}
            Keep::DeadLetter(until) => {
                self.set_timer(until, Timer::KeptAgesOut(seq));
                self.queue_mut(ix).dead_letters.insert(seq);
            }
            Keep::History(until) => {
                self.set_timer(until, Timer::KeptAgesOut(seq));
                self.queue_mut(ix).history.insert(seq);
            }
        }
        self.bound_kept(ix, out);
    }

    /// Above a bound the oldest goes; of dead letters that is counted.
    fn bound_kept(&mut self, ix: QueueIx, out: &mut Out<A>) {
        while self.queue(ix).dead_letters.len() > self.limits.dead_letters_max {
            let oldest = self
                .queue(ix)
                .dead_letters
                .first()
                .copied()
                .expect("longer than its bound");
            out.counts.dead_letters_evicted += 1;
            self.forget_kept(oldest);
        }
        while self.queue(ix).history.len() > self.limits.history_messages_max {
            let oldest = self.queue(ix).history.first().copied().expect("longer than its bound");
            self.forget_kept(oldest);
        }
    }

    fn is_replaying(&self, dead: Seq) -> bool {
        self.replaying.values().any(|letter| *letter == dead)
    }

    /// A replay is committed: its dead letter, which the same commit took out of the store, goes.
    pub(super) fn replayed(&mut self, seq: Seq) {
        if let Some(dead) = self.replaying.remove(&seq) {
            self.drop_kept(dead);
        }
    }

    pub(super) fn forget_kept(&mut self, seq: Seq) {
        if self.drop_kept(seq) {
            self.ops.push(Op::Forget { seq });
        }
    }

    /// False: it is not kept (any more).
    fn drop_kept(&mut self, seq: Seq) -> bool {
        let kept = self.messages.get(&seq).filter(|message| message.is_kept());
        let Some(ix) = kept.map(|message| message.queue) else {
            return false;
        };
        let queue = self.queue_mut(ix);
        queue.dead_letters.remove(&seq);
        queue.history.remove(&seq);
        self.remove_message(seq);
        // It may have been the last that held its queue.
        self.mark_dirty(ix);
        true
    }

    /// The newest dead letter of an address with that message id.
    pub fn find_dead_letter(&self, address: &Address, id: IdHash) -> Option<Seq> {
        let queue = self.queue(self.find_queue(address.hash64(), address.as_str())?);
        let has_id = |seq: Seq| self.messages.get(&seq).is_some_and(|message| message.id_hash == id);
        let with_id = |seq: &&Seq| has_id(**seq) && !self.is_replaying(**seq);
        queue.dead_letters.iter().rev().find(with_id).copied()
    }

    /// Puts a dead letter back into its queue as a new message with the same id and a fresh time to live. `frame` is what the
    /// store had of it.
    pub fn handle_replay(&mut self, dead: Seq, mut frame: Frame, answer: Option<A>, now: Timestamp, out: &mut Out<A>) {
        let letter = self.messages.get(&dead).filter(|message| message.is_kept());
        let Some(letter) = letter.filter(|_| !self.is_replaying(dead)) else {
            out.answers.extend(answer.map(|answer| (answer, Verdict::Unknown)));
            return;
        };
        if let Some(bound) = self.full(letter.queue, frame.encoded_len()) {
            out.counts.refused_full += 1;
            out.answers
                .extend(answer.map(|answer| (answer, Verdict::QueueFull { bound })));
            return;
        }
        let (ix, key, id_hash, address) = (letter.queue, letter.key, letter.id_hash, letter.address);
        let time_to_live = letter.expires_at.since(letter.accepted_at);
        frame.stamp.accepted_at = now;
        frame.stamp.expires_at = if letter.expires_at.is_never() {
            letter.expires_at
        } else {
            now + time_to_live
        };
        let message = letter.replayed(&frame);
        let queue_address = self.queue(ix).address.clone();
        let seq = self.next_seq;
        self.next_seq = seq.next();
        let queue = self.queue_mut(ix);
        queue.messages += 1;
        queue.bytes += message.weight();
        let expires_at = message.expires_at;
        self.newest.insert(CopyKey::new(key, address), seq);
        self.by_id.insert((id_hash, seq));
        self.insert_message(seq, message);
        if !expires_at.is_never() {
            self.set_timer(expires_at, Timer::Expire(seq));
        }
        let targets = std::sync::Arc::from([]);
        self.ops.push(Op::Enqueue(Enqueue {
            seq,
            queue: queue_address,
            key,
            id_hash,
            frame,
            targets,
        }));
        // The letter itself stays until that is committed.
        self.ops.push(Op::Forget { seq: dead });
        self.replaying.insert(seq, dead);
        self.after.push(After::Replayed { seq, answer });
    }

    /// Receipts that are out of their window, or above `receipts_max`, go; the oldest first.
    pub fn evict_receipts(&mut self, now: Timestamp, receipts_max: usize, out: &mut Out<A>) {
        let mut evicted = 0;
        while let Some((settle_no, receipt)) = self.receipts.oldest() {
            let seq = receipt.seq;
            let aged = receipt.settled_at + self.limits.receipt_window <= now;
            if !aged && self.receipts.len() <= receipts_max {
                break;
            }
            // Unsettled as far as the store knows: whatever the bound, it is a duplicate's answer yet (G4).
            let is_settling = |message: &Message| matches!(message.state, State::Settling { .. });
            if self.messages.get(&seq).is_some_and(is_settling) {
                break;
            }
            self.receipt_floor = settle_no.next();
            out.counts.receipts_evicted_early += u64::from(!aged);
            evicted += 1;
            self.evict_receipt(seq);
        }
        self.floor_pending += evicted;
        if self.floor_pending >= FLOOR_EVERY || (self.floor_pending > 0 && !self.ops.is_empty()) {
            self.floor_pending = 0;
            self.ops.push(Op::ReceiptFloor {
                settle_no: self.receipt_floor,
            });
            self.unhurried.0 += 1;
        }
    }

    pub(super) fn evict_receipt(&mut self, seq: Seq) {
        let Some(receipt) = self.receipts.take_back(seq) else {
            return;
        };
        self.by_id.remove(&(receipt.id_hash, seq));
        let copy = CopyKey::new(receipt.key, receipt.address);
        if self.newest.get(&copy) == Some(&seq) {
            self.newest.remove(&copy);
        }
    }

    /// Settled receipts held.
    pub fn receipts_held(&self) -> usize {
        self.receipts.len()
    }

    /// When the oldest settled receipt was settled.
    pub fn oldest_receipt(&self) -> Option<Timestamp> {
        self.receipts.oldest().map(|(_, receipt)| receipt.settled_at)
    }
}
