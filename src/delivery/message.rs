//! One message while a shard holds it.

use std::sync::Arc;

use super::queue::QueueIx;
use crate::{
    frame::{
        Address, Frame, Priority, Seq,
        record::{IdHash, MessageKey, Reason, Receipt, Status, StoredMessage},
    },
    time::Timestamp,
};

/// The number of one hand-out of one message in its shard; never repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease(pub u64);

/// A session, as its queues know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId(pub u64);

/// Where a message stands between entering and leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its enqueue is not committed yet; nobody may have it.
    Committing,
    /// In its queue's lane.
    Ready,
    /// Waiting for its back-off to end.
    Delayed,
    /// Waiting for a session that speaks the protocol it demands, or that may have it.
    Parked,
    /// Handed out.
    Leased { consumer: ConsumerId, lease: Lease },
    /// Its settle is not committed yet.
    Settling { consumer: ConsumerId, lease: Lease },
    /// The commit of its settle failed: the store may have it or not. Nobody may have the message; it is settled again.
    InDoubt {
        consumer: ConsumerId,
        lease: Lease,
        status: Status,
        reason: Reason,
    },
    /// A fan-out whose copies are under way to so many shards.
    Relaying { shards_left: u32 },
    /// Settled, and kept as a dead letter or as history: longer than its receipt, so that it knows itself why.
    Kept { reason: Reason, settled_at: Timestamp },
}

/// Whether the store has a message too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Yes,
    /// Its enqueue is under way. Nothing positive is said of it yet (G1).
    Committing,
    /// In an ephemeral session queue.
    InMemory,
}

#[derive(Debug)]
pub(super) struct Message {
    pub queue: QueueIx,
    pub key: MessageKey,
    pub address: u64,
    pub id_hash: IdHash,
    pub priority: Priority,
    pub stored: Stored,
    pub state: State,
    /// A read of its frame is under way.
    pub loading: bool,
    /// Handed out before, or perhaps handed out before a restart.
    pub redelivered: bool,
    pub attempts: u32,
    /// The frame's encoded size.
    pub bytes: u32,
    pub accepted_at: Timestamp,
    pub expires_at: Timestamp,
    pub sent_at: Timestamp,
    /// Boxed, so that the entry of a message whose body lives in the store alone stays small.
    pub frame: Option<Box<Frame>>,
    /// The queues that a fan-out's copies go to.
    pub targets: Option<Arc<[Address]>>,
}

impl Message {
    pub fn recovered(stored: &StoredMessage, queue: QueueIx, state: State) -> Self {
        Self {
            queue,
            key: stored.key,
            address: stored.queue.hash64(),
            id_hash: stored.id_hash,
            priority: stored.priority,
            stored: Stored::Yes,
            state,
            loading: false,
            // It may have been handed out before the restart; only the store of the failed attempts is certain.
            redelivered: true,
            attempts: stored.attempts,
            bytes: stored.bytes,
            accepted_at: stored.accepted_at,
            expires_at: stored.expires_at,
            sent_at: Timestamp::NEVER,
            frame: None,
            targets: (!stored.targets.is_empty()).then(|| stored.targets.clone()),
        }
    }

    /// The same message as it enters its queue anew, with every attempt ahead of it.
    pub fn replayed(&self, frame: &Frame) -> Self {
        Self {
            stored: Stored::Committing,
            state: State::Committing,
            attempts: 0,
            accepted_at: frame.stamp.accepted_at,
            expires_at: frame.stamp.expires_at,
            sent_at: Timestamp::NEVER,
            frame: Some(Box::new(frame.clone())),
            targets: None,
            ..*self
        }
    }

    /// True where the message is in the store and not settled.
    pub fn is_committed_and_waits(&self) -> bool {
        !matches!(
            self.state,
            State::Committing | State::Settling { .. } | State::InDoubt { .. } | State::Kept { .. }
        )
    }

    pub fn is_in_doubt(&self) -> bool {
        matches!(self.state, State::InDoubt { .. })
    }

    pub fn is_kept(&self) -> bool {
        matches!(self.state, State::Kept { .. })
    }

    /// True where the message is handed out under that lease.
    pub fn is_leased_as(&self, lease: Lease) -> bool {
        matches!(self.state, State::Leased { lease: held, .. } if held == lease)
    }

    /// True where the message counts against its queue's bounds.
    pub fn is_unsettled(&self) -> bool {
        !matches!(self.state, State::Settling { .. } | State::Kept { .. })
    }

    /// True where the message will be handed out or relayed yet, for which its bytes are needed.
    pub fn wants_frame(&self) -> bool {
        matches!(
            self.state,
            State::Ready | State::Delayed | State::Parked | State::Relaying { shards_left: 0 }
        )
    }

    pub fn is_expired(&self, now: Timestamp) -> bool {
        !self.expires_at.is_never() && self.expires_at <= now
    }

    /// Bytes that count against queue and credit bounds.
    pub fn weight(&self) -> u64 {
        u64::from(self.bytes)
    }

    pub fn status(&self) -> Status {
        if self.sent_at.is_never() {
            Status::Queued
        } else {
            Status::Sent
        }
    }

    pub fn recipients(&self) -> u32 {
        self.targets
            .as_ref()
            .map_or(1, |targets| u32::try_from(targets.len()).unwrap_or(u32::MAX))
    }

    pub fn receipt(&self, seq: Seq, status: Status, reason: Reason, settled_at: Timestamp) -> Receipt {
        Receipt {
            key: self.key,
            address: self.address,
            id_hash: self.id_hash,
            seq,
            status,
            reason,
            attempts: self.attempts,
            recipients: self.recipients(),
            accepted_at: self.accepted_at,
            sent_at: self.sent_at,
            settled_at,
        }
    }
}
