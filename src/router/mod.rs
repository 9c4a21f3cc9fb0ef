//! L3: the door, the directory, the workers and the ports.
//!
//! Owns the way of a message between an edge and a store: who may do what, where an address lives, who is attached.
//! Must never know a protocol, a socket or a file. Start at [`Fabric`]; [`port`] names what the node plugs in.

mod ask;
mod attach;
pub mod config;
pub mod counters;
mod directory;
mod door;
pub mod error;
mod fabric;
mod members;
mod passed;
pub mod port;
pub mod registry;
mod session;
pub mod surface;
pub mod topics;
mod worker;
mod workers;

pub use attach::{SessionHandle, SessionReceiver};
pub use door::{Answers, Publisher};
pub use fabric::Fabric;
