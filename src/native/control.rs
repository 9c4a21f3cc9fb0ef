//! The control stream: its frames as values, and their checks.
//!
//! A frame is `length (u32) | kind (u8) | payload`, length counting what follows it. Integers are little-endian, a text is two
//! bytes of length and UTF-8. `control_codec` has each payload's layout. Start at [`ToNode`] and [`ToClient`].

use bytes::{Buf, BufMut, Bytes, BytesMut};

pub use super::control_codec::ControlError;
use crate::frame::{Seq, ShardId};

/// Bytes of a frame's length.
pub const LENGTH_BYTES: usize = 4;
/// Longest frame, in bytes, behind its length: 1,000 delivery ids, 1,000 refusals with some hundred bytes of text each, or all the filters
/// that an agent may have, 1 MiB.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024 + 128 * 1024;
/// Longest frame before the peer is known: a greeting with a large token.
pub const GREETING_BYTES_MAX: usize = 16 * 1024;
/// Most delivery ids, filters, receipts or failures of one frame.
pub const ITEMS_MAX: usize = 1_000;

/// What a resumed session is known by: 16 random bytes, told to its client alone. Zero: none.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ResumeKey(pub [u8; 16]);

impl ResumeKey {
    /// True where there is none.
    pub fn is_none(&self) -> bool {
        self.0 == [0; 16]
    }
}

impl std::fmt::Debug for ResumeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResumeKey(…)")
    }
}

/// One hand-out of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryId {
    pub shard: ShardId,
    pub seq: Seq,
    pub lease: u64,
}

/// How a session wants to receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    pub agent: String,
    pub takes_inbox: Switch,
    /// Token of a durable session queue; empty: one in memory.
    pub durable_queue: String,
    pub window_messages: u32,
    pub window_bytes: u64,
    /// 0: as long as the session lasts.
    pub visibility_timeout_ms: u64,
    /// Of the session that this one goes on with, whose connection was lost.
    pub resume: ResumeKey,
}

/// On or off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Switch {
    #[default]
    Off,
    On,
}

impl Switch {
    /// From what a condition says.
    pub const fn of(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }

    /// True for [`Switch::On`].
    pub const fn is_on(self) -> bool {
        matches!(self, Self::On)
    }
}

/// How a receiver refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// After the usual back-off.
    Retry,
    RetryAfter {
        ms: u64,
    },
    Release,
    DeadLetter,
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToNode {
    /// The first frame: who is speaking, by a bearer token (empty in development mode), and the program's name for logs.
    Hello {
        token: String,
        program: String,
    },
    Attach(Attach),
    /// Answered by [`ToClient::Settled`] under the tag once committed; 0: no answer.
    Ack {
        tag: u64,
        ids: Vec<DeliveryId>,
    },
    Nack {
        tag: u64,
        refusal: Refusal,
        ids: Vec<DeliveryId>,
    },
    /// An absolute window.
    Credit {
        messages: u32,
        bytes: u64,
    },
    /// Answered by [`ToClient::Subscribed`]; with tag 0 only where it is refused.
    Subscribe {
        tag: u64,
        filters: Vec<String>,
    },
    Unsubscribe {
        tag: u64,
        filters: Vec<String>,
    },
    /// The last frame: so many streams of batches were opened, and each is finished or will be. What was sent is answered, then
    /// the node says goodbye.
    Detach {
        streams: u8,
    },
}

/// Why something was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// The N of `WEFT-N`.
    pub number: u16,
    /// The google.rpc.Code that a call would have ended with.
    pub status: u8,
    pub retryable: Switch,
    /// 0: not known.
    pub retry_after_ms: u64,
    pub title: String,
    pub detail: String,
    /// The wrong field; empty: none in particular.
    pub field: String,
}

/// What the sender of a message learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receipt {
    Accepted(Accepted),
    Refused(Problem),
}

/// The answer to a message that was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub status: Status,
    pub duplicate: Switch,
    pub shard: ShardId,
    /// Zero: there is no receipt (QoS 0).
    pub seq: Seq,
    pub recipients: u32,
    /// The place of the protocol's name in [`PROTOCOLS`], from 1; 0: handed to nobody yet.
    pub protocol: u8,
    /// 0: not known.
    pub estimated_delivery_at_ms: u64,
}

/// The names of protocols as numbers on the wire, from 1.
pub const PROTOCOLS: [&str; 6] = ["http", "websocket", "grpc", "quic", "mqtt", "webhook"];

/// A message's status, with its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    Queued = 1,
    Sent = 2,
    Delivered = 3,
    Expired = 4,
    DeadLettered = 5,
    Rejected = 6,
    Dropped = 7,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Sent,
        Self::Delivered,
        Self::Expired,
        Self::DeadLettered,
        Self::Rejected,
        Self::Dropped,
    ];
}

/// A delivery id among several that did not settle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettleFailure {
    /// Its place in the frame that named it.
    pub index: u32,
    /// `None`: it was stale.
    pub problem: Option<Problem>,
}

/// The answer to an attach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Welcome {
    pub node: String,
    pub reply_address: String,
    pub window_messages: u32,
    pub window_bytes: u64,
    pub resume: ResumeKey,
}

/// What a node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToClient {
    /// The answer to the greeting: the client may send.
    Ready {
        node: String,
        message_bytes_max: u64,
    },
    Welcome(Welcome),
    /// The greeting or the attach is refused, and the connection with it.
    Refused(Problem),
    /// Each under the tag of its message.
    Receipts(Vec<(u64, Receipt)>),
    Settled {
        tag: u64,
        failures: Vec<SettleFailure>,
    },
    Subscribed {
        tag: u64,
        problem: Option<Problem>,
    },
    Goodbye {
        reason: String,
        reconnect: Switch,
        reconnect_after_ms: u32,
    },
}

/// A frame that goes one way.
pub trait Frame: Sized {
    /// Appends kind and payload.
    fn put(&self, into: &mut BytesMut);
    /// Reads kind and payload, all of them.
    fn read(from: Bytes) -> Result<Self, ControlError>;
}

/// Appends a whole frame.
pub fn encode(frame: &impl Frame, into: &mut BytesMut) {
    let at = into.len();
    into.put_u32_le(0);
    frame.put(into);
    let length =
        u32::try_from(into.len() - at - LENGTH_BYTES).expect("frames are far below 4 GiB: their items are counted");
    into[at..at + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
}

/// Takes one frame off the front of what was read; `None` until it is all there. A length above `bytes_max` is an error at once.
pub fn decode<F: Frame>(from: &mut BytesMut, bytes_max: usize) -> Result<Option<F>, ControlError> {
    let Some(length) = from.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let bytes = u32::from_le_bytes(*length) as usize;
    if bytes > bytes_max {
        return Err(ControlError::TooLarge { bytes, max: bytes_max });
    }
    if from.len() < LENGTH_BYTES + bytes {
        return Ok(None);
    }
    from.advance(LENGTH_BYTES);
    F::read(from.split_to(bytes).freeze()).map(Some)
}
