//! L3: the door, the directory, the workers and the ports.
//!
//! Owns the way of a message between an edge and a store: who may do what, where an address lives, who is attached.
//! Must never know a protocol, a socket or a file. Start at [`Fabric`]; [`port`] names what the node plugs in.

mod ask;
mod attach;
mod changes;
mod chunks;
pub mod config;
pub mod counters;
mod directory;
mod door;
pub mod error;
mod fabric;
mod handle;
mod holds;
mod members;
mod passed;
pub mod port;
mod publisher;
mod records;
pub mod registry;
pub mod retained;
mod runner;
mod session;
mod settling;
mod shares;
mod subscriptions;
pub mod surface;
pub mod topics;
mod worker;
mod workers;

pub use fabric::Fabric;
pub use handle::{SessionHandle, SessionReceiver};
pub use holds::Hold;
pub use publisher::{Answers, Publisher};
