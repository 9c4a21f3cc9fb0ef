//! What stores write: operations on a shard, the fence that proves who may write, and receipts.
//!
//! These are the words that the shards' state machines and every store share; how a store lays them out in bytes is its
//! own matter. Start at [`Op`].

use std::sync::Arc;

use bytes::{Buf, BufMut};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use super::{
    address::Address,
    class::{Priority, Qos},
    id::{Seq, ShardId},
    wire::Frame,
};
use crate::time::Timestamp;

/// Proof of ownership of a shard. The store refuses writes under any fence but the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    /// Grows by one with each claim of the shard.
    pub epoch: u64,
    /// Tells two claims of one epoch apart, should a store ever hand out one twice.
    pub nonce: u64,
}

/// A fingerprint of (sender, message id): what duplicates are detected by. Keyed with the store's own seed, so that nobody
/// outside can make two ids collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageKey(u128);

impl MessageKey {
    /// The fingerprint under a store's seed.
    pub fn new(seed: u64, from: &str, message_id: &str) -> Self {
        let mut text = [0u8; 384];
        let len = from.len() + 1 + message_id.len();
        // `\0` is in no id, so that the pair reads back one way only.
        match text.get_mut(..len) {
            Some(text) => {
                text[..from.len()].copy_from_slice(from.as_bytes());
                text[from.len() + 1..].copy_from_slice(message_id.as_bytes());
                Self(xxh3_128_with_seed(text, seed))
            }
            None => Self(xxh3_128_with_seed(format!("{from}\0{message_id}").as_bytes(), seed)),
        }
    }

    /// From the number that stands in records.
    pub const fn from_raw(raw: u128) -> Self {
        Self(raw)
    }

    /// The number that stands in records.
    pub const fn raw(self) -> u128 {
        self.0
    }
}

/// A hash of a message id alone, for the question "what became of message X" without a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdHash(u64);

impl IdHash {
    /// The hash of a message id.
    pub fn new(message_id: &str) -> Self {
        Self(xxh3_64(message_id.as_bytes()))
    }

    /// From the number that stands in records.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The number that stands in records.
    pub const fn raw(self) -> u64 {
        self.0
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// Committed, not handed out yet.
    Queued = 0,
    /// Handed to a session, not confirmed.
    Sent = 1,
    /// The recipient acknowledged it, or, at QoS 0, a session took it.
    Delivered = 2,
    Expired = 3,
    DeadLettered = 4,
    Rejected = 5,
}

impl Status {
    /// How many there are.
    pub const COUNT: usize = 6;
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Queued,
        Self::Sent,
        Self::Delivered,
        Self::Expired,
        Self::DeadLettered,
        Self::Rejected,
    ];

    /// The name that users read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Expired => "expired",
            Self::DeadLettered => "dead_lettered",
            Self::Rejected => "rejected",
        }
    }

    /// True where nothing more will happen to the message.
    pub const fn is_settled(self) -> bool {
        !matches!(self, Self::Queued | Self::Sent)
    }

    fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// Why a message ended as it did, where its status alone does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    #[default]
    None = 0,
    /// Every delivery attempt failed.
    MaxDeliver = 1,
    /// The receiver refused it and asked that it not come again.
    Refused = 2,
    /// The queue was full.
    QueueFull = 3,
    /// Policy lets none of the receivers have it.
    Denied = 4,
    /// The agent, group or session that it was for was removed.
    Removed = 5,
    /// Nobody was there to take a QoS 0 message.
    NobodyThere = 6,
    /// The receiver does not take bodies this large.
    TooLarge = 7,
    /// The stored message can no longer be read.
    Damaged = 8,
    /// Its copies are made; each has a receipt of its own, which says more.
    FannedOut = 9,
}

impl Reason {
    const ALL: [Self; 10] = [
        Self::None,
        Self::MaxDeliver,
        Self::Refused,
        Self::QueueFull,
        Self::Denied,
        Self::Removed,
        Self::NobodyThere,
        Self::TooLarge,
        Self::Damaged,
        Self::FannedOut,
    ];

    /// The name that users read; empty for [`Reason::None`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::MaxDeliver => "max_deliver",
            Self::Refused => "refused",
            Self::QueueFull => "queue_full",
            Self::Denied => "denied",
            Self::Removed => "removed",
            Self::NobodyThere => "nobody_there",
            Self::TooLarge => "too_large",
            Self::Damaged => "damaged",
            Self::FannedOut => "fanned_out",
        }
    }

    fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// The record of one message at one address: what became of it, and the duplicate detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub key: MessageKey,
    /// The hash of the address ([`Address::hash64`]): one key has a receipt at each address that it went to.
    pub address: u64,
    pub id_hash: IdHash,
    pub seq: Seq,
    pub status: Status,
    pub reason: Reason,
    /// Deliveries begun.
    pub attempts: u32,
    /// Queues that the message went to: 1, or what a fan-out reached.
    pub recipients: u32,
    pub accepted_at: Timestamp,
    /// When it was first handed to a session; [`Timestamp::NEVER`] before.
    pub sent_at: Timestamp,
    /// When it was settled; [`Timestamp::NEVER`] before.
    pub settled_at: Timestamp,
}

impl Receipt {
    /// Bytes of [`Receipt::encode`].
    pub const ENCODED_BYTES: usize = 16 + 8 + 8 + 8 + 2 + 4 + 4 + 3 * 8;

    /// Appends the receipt's fixed-size form, little-endian, fields in their order.
    pub fn encode(&self, into: &mut impl BufMut) {
        into.put_u128_le(self.key.0);
        into.put_u64_le(self.address);
        into.put_u64_le(self.id_hash.0);
        into.put_u64_le(self.seq.raw());
        into.put_u8(self.status as u8);
        into.put_u8(self.reason as u8);
        into.put_u32_le(self.attempts);
        into.put_u32_le(self.recipients);
        for time in [self.accepted_at, self.sent_at, self.settled_at] {
            into.put_u64_le(time.as_millis());
        }
    }

    /// Reads what [`Receipt::encode`] wrote; `None` where bytes are missing or a number is unknown.
    pub fn decode(from: &mut impl Buf) -> Option<Self> {
        if from.remaining() < Self::ENCODED_BYTES {
            return None;
        }
        Some(Self {
            key: MessageKey(from.get_u128_le()),
            address: from.get_u64_le(),
            id_hash: IdHash(from.get_u64_le()),
            seq: Seq::from_raw(from.get_u64_le()),
            status: Status::from_u8(from.get_u8())?,
            reason: Reason::from_u8(from.get_u8())?,
            attempts: from.get_u32_le(),
            recipients: from.get_u32_le(),
            accepted_at: Timestamp::from_millis(from.get_u64_le()),
            sent_at: Timestamp::from_millis(from.get_u64_le()),
            settled_at: Timestamp::from_millis(from.get_u64_le()),
        })
    }
}

/// A receipt's place in the order in which its shard's messages were settled. Like [`Seq`], it never repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SettleNo(u64);

impl SettleNo {
    /// From the number that stands in records.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The first of a claim: above every number of earlier claims, as with [`Seq::first_of`].
    pub const fn first_of(epoch: u64) -> Self {
        Self(Seq::first_of(epoch).raw())
    }

    /// The number that stands in records.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The one after.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What remains of a message once it is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing but its receipt.
    Nothing,
    /// The whole message, as a dead letter, until someone replays it, or it ages out at this time.
    DeadLetter(Timestamp),
    /// The whole message, as history of its group, until this time.
    History(Timestamp),
}

/// A message that enters a queue.
#[derive(Clone, Debug)]
pub struct Enqueue {
    pub seq: Seq,
    pub queue: Address,
    pub key: MessageKey,
    pub id_hash: IdHash,
    pub frame: Frame,
    /// For a fan-out: the queues that still get their copy. Empty for a message that waits in `queue` itself.
    pub targets: Arc<[Address]>,
}

/// One change of a shard. A store applies the operations of a commit all or none, in order.
#[derive(Clone, Debug)]
pub enum Op {
    Enqueue(Enqueue),
    /// A delivery attempt of a message failed; it waits until `not_before`.
    Attempt {
        seq: Seq,
        attempts: u32,
        not_before: Timestamp,
    },
    /// A message is done: it leaves its queue, its receipt stays, and of the message what `keep` says.
    Settle {
        settle_no: SettleNo,
        receipt: Receipt,
        keep: Keep,
    },
    /// A message leaves without a trace: one that was kept, or one whose settled receipt already stands elsewhere.
    Forget {
        seq: Seq,
    },
    /// Receipts settled before this are out of the window of duplicate detection.
    ReceiptFloor {
        settle_no: SettleNo,
    },
    /// Everything that shard `source` relayed here up to and including `upto` has been applied.
    Cursor {
        source: ShardId,
        upto: Seq,
    },
}

/// A stored message without its bytes: what a shard's owner needs of it when it takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    pub seq: Seq,
    pub queue: Address,
    pub key: MessageKey,
    pub id_hash: IdHash,
    pub priority: Priority,
    pub qos: Qos,
    pub accepted_at: Timestamp,
    pub expires_at: Timestamp,
    /// The frame's encoded size.
    pub bytes: u32,
    pub attempts: u32,
    pub not_before: Timestamp,
    pub keep: Keep,
    pub targets: Arc<[Address]>,
}

/// All that a store holds of a shard, in order of sequence and of settle number.
#[derive(Clone, Debug, Default)]
pub struct ShardImage {
    /// Waiting messages ([`Keep::Nothing`]) and kept ones.
    pub messages: Vec<StoredMessage>,
    pub receipts: Vec<(SettleNo, Receipt)>,
    pub cursors: Vec<(ShardId, Seq)>,
    pub receipt_floor: SettleNo,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_round_trips_and_an_unknown_status_is_refused() {
        let receipt = Receipt {
            key: MessageKey::new(7, "alice", "m1"),
            address: 5,
            id_hash: IdHash::new("m1"),
            seq: Seq::from_raw(9),
            status: Status::DeadLettered,
            reason: Reason::MaxDeliver,
            attempts: 16,
            recipients: 1,
            accepted_at: Timestamp::from_millis(1),
            sent_at: Timestamp::from_millis(2),
            settled_at: Timestamp::from_millis(3),
        };
        let mut bytes = Vec::new();
        receipt.encode(&mut bytes);
        assert_eq!(bytes.len(), Receipt::ENCODED_BYTES);
        assert_eq!(Receipt::decode(&mut &bytes[..]), Some(receipt));
        assert_eq!(Receipt::decode(&mut &bytes[..10]), None);
        bytes[40] = 6;
        assert_eq!(Receipt::decode(&mut &bytes[..]), None);
    }

    #[test]
    fn keys_tell_sender_and_id_apart_and_depend_on_the_seed() {
        let key = MessageKey::new(1, "a", "bc");
        assert_ne!(key, MessageKey::new(1, "ab", "c"));
        assert_ne!(key, MessageKey::new(2, "a", "bc"));
        assert_eq!(key, MessageKey::new(1, "a", "bc"));
        let (long_from, long_id) = ("f".repeat(255), "i".repeat(128));
        assert_eq!(
            MessageKey::new(1, &long_from, &long_id),
            MessageKey::new(1, &long_from, &long_id)
        );
    }
}
