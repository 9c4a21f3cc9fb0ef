//! L0: the message and everything that is written of it.
//!
//! Owns the envelope's archive, the frame's and the batch's wire form, ids, addresses, topics, priorities, limits and the
//! words that stores write ([`record`]). Knows nothing of queues, clocks, sockets or files. Start at [`Frame`] and [`Draft`].

mod address;
mod archive;
pub mod batch;
mod class;
mod entry;
mod envelope;
mod grammar;
mod group;
mod id;
pub mod limits;
pub mod record;
mod run;
mod topic;
mod wire;

pub use address::{Address, AddressError, AddressKind, hash_address};
pub use class::{Priority, Qos};
pub use envelope::{Draft, Envelope, EnvelopeError, Fields, LastHop};
#[cfg(feature = "server")]
pub(crate) use grammar::excerpt;
pub use group::{CommunicationMode, MemberPermissions};
pub use id::{AgentId, Capability, GroupId, IdError, MessageId, Seq, ShardId, TrackingId};
pub use run::{Frames, Run, RunBuilder};
pub use topic::{TopicError, TopicFilter, TopicName};
pub use wire::{Flags, Frame, PREFIX_BYTES, Stamp, TraceContext, VERSION, WireError};
