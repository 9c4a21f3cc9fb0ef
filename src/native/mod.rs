//! The native protocol over QUIC (`weft/1`): what the edge and the client say to each other, in `docs/quic.md` byte by byte.
//!
//! Owns the control frames, the streams and their first bytes, the lanes that batches are written through, close codes and
//! the transport's settings. Must never know the router, a session's state or how a client reconnects. Start at [`control`];
//! [`lanes`] writes batches, [`reader`] reads them, [`link`] sets a connection up.

pub mod control;
mod control_codec;
pub mod lanes;
pub mod link;
pub mod reader;

use quinn::VarInt;

use crate::frame::Priority;

/// The protocol's name in TLS (ALPN); the number changes when an old peer could not go on.
pub const ALPN: &[u8] = b"weft/1";
/// The first byte of the connection's one control stream, which the client opens.
pub const STREAM_CONTROL: u8 = 1;
/// The first byte of a stream that carries calls: gRPC over HTTP/2 from its second byte on.
pub const STREAM_CALLS: u8 = 2;
/// The first byte of a one-way stream of batches of the lowest priority; the others follow by one.
const STREAM_BATCHES: u8 = 16;
/// One-way streams in each direction: one for each priority.
pub const BATCH_STREAMS_MAX: u32 = Priority::COUNT as u32;

/// The first byte of a stream of batches.
pub const fn stream_of(priority: Priority) -> u8 {
    STREAM_BATCHES + priority as u8
}

/// The priority of a stream of batches, by its first byte.
pub fn priority_of(first: u8) -> Option<Priority> {
    first.checked_sub(STREAM_BATCHES).and_then(Priority::from_u8)
}

/// Why a connection was closed by its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Close {
    /// All is said; nothing is left.
    Done = 0,
    /// A control frame, or a stream's first byte, that is not one; or one at the wrong time.
    Control = 1,
    /// Bytes that are not a batch.
    Batch = 2,
    /// A control frame or a batch above the limit.
    TooLarge = 3,
    /// No control stream, or no greeting on it, in time.
    Silent = 4,
    /// The greeting or the attach was refused: the frame before it says why.
    Refused = 5,
    /// The node is shutting down.
    Draining = 6,
    /// The client resumed this session by another connection.
    Resumed = 7,
    /// The fabric ended the session: the goodbye before it says why.
    Ended = 8,
}

impl Close {
    /// The application error code on the wire.
    pub const fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    /// In words, for the reason beside the code.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Control => "not a control frame, or at the wrong time",
            Self::Batch => "not a batch",
            Self::TooLarge => "above the limit",
            Self::Silent => "no greeting in time",
            Self::Refused => "refused",
            Self::Draining => "draining",
            Self::Resumed => "resumed by another connection",
            Self::Ended => "the session was ended",
        }
    }
}
