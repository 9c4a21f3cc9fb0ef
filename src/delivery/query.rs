//! Questions that change nothing: what became of a message, what is kept, how much waits.

use std::ops::Bound;

use super::{
    message::{State, Stored},
    receipts::CopyKey,
    state::ShardState,
};
use crate::frame::{
    Address, Seq,
    record::{IdHash, MessageKey, Reason, Receipt},
};
use crate::time::Timestamp;

/// How many messages and bytes a shard holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub messages: usize,
    pub receipts: usize,
    pub queues: usize,
    /// Bytes of messages in memory ([`ShardState::cached_bytes`]).
    pub cached_bytes: u64,
}

/// A kept or waiting message in a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    pub seq: Seq,
    pub attempts: u32,
    pub reason: Reason,
    /// [`Timestamp::NEVER`] while it waits.
    pub settled_at: Timestamp,
}

/// `after` comes from outside and may be the largest number there is.
fn later_than(after: Seq) -> (Bound<Seq>, Bound<Seq>) {
    (Bound::Excluded(after), Bound::Unbounded)
}

impl<A> ShardState<A> {
    /// The receipt of a message as it stands now, settled or not.
    pub fn receipt(&self, seq: Seq) -> Option<Receipt> {
        let message = match (self.messages.get(&seq), self.receipts.get(seq)) {
            // Neither an enqueue nor a settle counts before it is committed.
            (Some(message), _) if message.stored == Stored::Committing => return None,
            (Some(message), _) if matches!(message.state, State::Settling { .. } | State::InDoubt { .. }) => message,
            (_, Some(receipt)) => return Some(*receipt),
            (message, None) => message?,
        };
        let reason = if message.targets.is_some() {
            Reason::FannedOut
        } else {
            Reason::None
        };
        Some(message.receipt(seq, message.status(), reason, Timestamp::NEVER))
    }

    /// Receipts of every message with that id here; of one (key, address) only the newest.
    pub fn receipts_of_id(&self, id: IdHash) -> Vec<Receipt> {
        let range = (id, Seq::from_raw(0))..=(id, Seq::from_raw(u64::MAX));
        let of_id = self.by_id.range(range).filter_map(|(_, seq)| self.receipt(*seq));
        of_id
            .filter(|receipt| self.newest.get(&CopyKey::new(receipt.key, receipt.address)) == Some(&receipt.seq))
            .collect()
    }

    /// Receipts of one message at every address here.
    pub fn receipts_of_key(&self, key: MessageKey, id: IdHash) -> Vec<Receipt> {
        self.receipts_of_id(id)
            .into_iter()
            .filter(|receipt| receipt.key == key)
            .collect()
    }

    /// True where a message is a fan-out, whose copies have receipts of their own.
    pub fn is_fan_out(&self, address: &Address) -> bool {
        self.find_queue(address.hash64(), address.as_str())
            .is_some_and(|ix| matches!(self.queue(ix).kind, super::QueueKind::FanOut))
    }

    /// Dead letters of an address, oldest first.
    pub fn dead_letters(&self, address: &Address, after: Seq, limit: usize) -> Vec<Listed> {
        let Some(ix) = self.find_queue(address.hash64(), address.as_str()) else {
            return Vec::new();
        };
        let later = self.queue(ix).dead_letters.range(later_than(after));
        later.take(limit).map(|seq| self.listed(*seq)).collect()
    }

    /// A group's messages: those kept as history and those that still wait, oldest first.
    pub fn history(&self, address: &Address, after: Seq, limit: usize) -> Vec<Listed> {
        let Some(ix) = self.find_queue(address.hash64(), address.as_str()) else {
            return Vec::new();
        };
        let queue = self.queue(ix);
        let kept = queue.history.range(later_than(after)).copied();
        let waiting = self
            .messages
            .iter()
            .filter(|(seq, message)| message.queue == ix && **seq > after && message.is_committed_and_waits());
        let mut all: Vec<Seq> = kept.chain(waiting.map(|(seq, _)| *seq)).collect();
        all.sort_unstable();
        all.into_iter().take(limit).map(|seq| self.listed(seq)).collect()
    }

    fn listed(&self, seq: Seq) -> Listed {
        let message = self.messages.get(&seq);
        let (reason, settled_at) = match message.map(|message| message.state) {
            Some(State::Kept { reason, settled_at }) => (reason, settled_at),
            _ => (Reason::None, Timestamp::NEVER),
        };
        Listed {
            seq,
            attempts: message.map_or(0, |message| message.attempts),
            reason,
            settled_at,
        }
    }

    /// Messages and bytes that wait in an address's queue.
    pub fn depth(&self, address: &Address) -> (usize, u64) {
        let queue = self
            .find_queue(address.hash64(), address.as_str())
            .map(|ix| self.queue(ix));
        queue.map_or((0, 0), |queue| (queue.messages, queue.bytes))
    }

    /// What the shard holds.
    pub fn held(&self) -> Held {
        Held {
            messages: self.messages.len(),
            receipts: self.receipts.len(),
            queues: self.queues.len() - self.free_queues.len(),
            cached_bytes: self.cached_bytes,
        }
    }
}
