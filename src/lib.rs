//! weft: a messaging fabric for AI agents.
//!
//! The modules form layers, lowest first; `tests/layers.rs` fails on an import that breaks them:
//! [`frame`] (the message and everything written of it), `queue` (lock-free lanes), `delivery`
//! (a pure state machine), `mqtt` (another: MQTT's sessions), `router` (the door, the directory, the workers and the ports), `store`
//! (implementations of a port), `native` (QUIC's own protocol), `edge` (one adapter per protocol), `client` (what users link), `node`, which wires them all,
//! and `cli`, the command line.

#[cfg(all(feature = "server", feature = "client"))]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod delivery;
#[cfg(feature = "server")]
pub mod edge;
pub mod frame;
#[cfg(feature = "server")]
pub mod mqtt;
#[cfg(any(feature = "server", feature = "client"))]
pub mod native;
#[cfg(feature = "server")]
pub mod node;
#[cfg(feature = "queue")]
pub mod queue;
#[cfg(feature = "server")]
pub mod router;
#[cfg(feature = "rpc")]
pub mod rpc;
#[cfg(feature = "server")]
pub mod store;
pub mod time;
