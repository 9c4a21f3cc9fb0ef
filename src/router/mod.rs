//! L3: the door, the directory, the workers and the ports.
//!
//! Owns the way of a message between an edge and a store: who may do what, where an address lives, who is attached.
//! Must never know a protocol, a socket or a file. Start at [`Fabric`]; [`port`] names what the node plugs in.

pub mod config;
pub mod error;
mod fabric;
pub mod port;
pub mod registry;
pub mod surface;

pub use fabric::{Answers, Fabric, Publisher, SessionHandle, SessionReceiver};
