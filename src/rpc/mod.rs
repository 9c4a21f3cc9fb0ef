//! The generated messages and services of package `weft.v1`, and their conversions to and from frames.
//!
//! Owns what the gRPC edge and the client share. Must never know the router, a session or a socket: a conversion takes
//! values and gives values. Start at [`v1`]; [`convert`] checks what comes from outside.

pub mod codec;
pub mod convert;
mod deliveries;
mod delivery;
pub mod health;
mod run;
mod send;

pub use deliveries::Deliveries;
pub use delivery::{Content, Delivery};
pub use run::{Gatherer, messages_of};
pub use send::{Parcel, SendFrame};

/// The generated code of `proto/weft/v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::nursery)]
pub mod v1 {
    tonic::include_proto!("weft.v1");
}

/// The file descriptor set of `proto/weft/v1`, as gRPC reflection serves it.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weft_v1_descriptor.bin"));

/// Most messages, or delivery ids, in one frame or call. Bounds what one item costs before anything of it is answered.
pub const ITEM_MESSAGES_MAX: usize = 1_000;
/// Messages that a sender puts into one frame: 16 to 32 measured best on tonic, 128 worse.
pub const BATCH_MESSAGES: usize = 32;
/// Bytes of bodies at which a frame is closed: larger ones only add latency and memory.
pub const BATCH_BYTES: usize = 64 * 1024;
/// The `domain` of every `google.rpc.ErrorInfo` that weft sends.
pub const ERROR_DOMAIN: &str = "weft";
