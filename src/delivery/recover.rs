//! The start of a shard from what the store holds of it.

use std::{sync::Arc, time::Duration};

use super::{
    config::Limits,
    credit::WorkerMark,
    message::{Message, State},
    queue::QueueKind,
    receipts::CopyKey,
    state::{ShardState, Timer},
};
use crate::{
    frame::{
        Address, Seq,
        record::{Keep, Reason, ShardImage, StoredMessage},
    },
    time::Timestamp,
};

/// What a queue is for, and how long its messages stay readable as history; asked at recovery, before anyone publishes or attaches.
pub type Known<'a> = dyn Fn(&Address) -> (QueueKind, Duration) + 'a;

impl<A> ShardState<A> {
    /// The shard as its image says, under a new claim. Messages wait in their lanes in order of sequence, fan-outs that were not
    /// marked done go out again, and everything may have been delivered before.
    ///
    /// `known` says what a queue is for: the store has messages, and not the modes and retentions of groups.
    pub fn recover(
        epoch: u64,
        image: ShardImage,
        limits: Arc<Limits>,
        worker: WorkerMark,
        known: &Known<'_>,
        now: Timestamp,
    ) -> Self {
        let mut shard = Self::new(epoch, limits, worker);
        shard.cursors = image.cursors.into_iter().collect();
        shard.receipt_floor = image.receipt_floor;
        for (settle_no, receipt) in image.receipts {
            shard
                .newest
                .insert(CopyKey::new(receipt.key, receipt.address), receipt.seq);
            shard.by_id.insert((receipt.id_hash, receipt.seq));
            shard.receipts.push(settle_no, receipt);
        }
        for stored in &image.messages {
            shard.recover_message(stored, known, now);
        }
        shard
    }

    fn recover_message(&mut self, stored: &StoredMessage, known: &Known<'_>, now: Timestamp) {
        let (kind, retention) = known(&stored.queue);
        let ix = self.open_queue(&stored.queue, kind);
        self.queue_mut(ix).retention = retention;
        let seq = stored.seq;
        match stored.keep {
            Keep::Nothing => self.recover_waiting(stored, ix, now),
            Keep::DeadLetter(until) => {
                self.recover_kept(stored, ix, until);
                self.queue_mut(ix).dead_letters.insert(seq);
            }
            Keep::History(until) => {
                self.recover_kept(stored, ix, until);
                self.queue_mut(ix).history.insert(seq);
            }
        }
    }

    fn recover_kept(&mut self, stored: &StoredMessage, ix: u32, until: Timestamp) {
        let receipt = self.receipts.get(stored.seq);
        let state = State::Kept {
            reason: receipt.map_or(Reason::None, |receipt| receipt.reason),
            settled_at: receipt.map_or(Timestamp::NEVER, |receipt| receipt.settled_at),
        };
        let mut message = Message::recovered(stored, ix, state);
        // The store counts failed attempts that were followed by another; the receipt counts the last one too.
        message.attempts = receipt.map_or(message.attempts, |receipt| receipt.attempts);
        self.insert_message(stored.seq, message);
        self.set_timer(until, Timer::KeptAgesOut(stored.seq));
    }

    fn recover_waiting(&mut self, stored: &StoredMessage, ix: u32, now: Timestamp) {
        let seq: Seq = stored.seq;
        let (is_fan_out, delayed) = (!stored.targets.is_empty(), stored.not_before > now);
        let state = match (is_fan_out, delayed) {
            (true, _) => State::Relaying { shards_left: 0 },
            (false, true) => State::Delayed,
            (false, false) => State::Ready,
        };
        let message = Message::recovered(stored, ix, state);
        let queue = self.queue_mut(ix);
        queue.messages += 1;
        queue.bytes += message.weight();
        self.insert_message(seq, message);
        match state {
            State::Ready => {
                self.queue_mut(ix).push(stored.priority, seq);
                // The first pump names inboxes that nobody attends.
                self.mark_dirty(ix);
            }
            State::Delayed => self.set_timer(stored.not_before, Timer::BackoffEnds(seq)),
            _ => self.outbox.push_back(seq),
        }
        if !stored.expires_at.is_never() {
            self.set_timer(stored.expires_at, Timer::Expire(seq));
        }
        self.newest.insert(CopyKey::new(stored.key, stored.queue.hash64()), seq);
        self.by_id.insert((stored.id_hash, seq));
    }

    /// Removes a queue with everything in it: its agent, group or durable session is gone.
    pub fn handle_remove_queue(&mut self, address: &Address, now: Timestamp, out: &mut super::Out<A>) {
        let Some(ix) = self.find_queue(address.hash64(), address.as_str()) else {
            return;
        };
        self.purge_queue(ix, now, out);
        // Unlinked at once, so that nothing enters it any more; its place is free once its settles are committed.
        if let Ok(entry) = self.by_address.find_entry(address.hash64(), |other| *other == ix) {
            entry.remove();
        }
        let queue = self.queue_mut(ix);
        queue.removed = true;
        queue.consumers.clear();
        self.forget_idle_queue(ix);
    }

    /// Makes a durable session's queue, so that copies for it are kept while the session is away.
    pub fn handle_open_durable(&mut self, address: &Address) {
        let ix = self.open_queue(address, QueueKind::DurableSession);
        self.queue_mut(ix).kind = QueueKind::DurableSession;
    }
}
