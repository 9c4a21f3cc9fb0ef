//! Load scenarios against a weft node, as its users reach it, and comparisons with other brokers.
//!
//! Speaks to nodes through weft's client or plain sockets and never looks inside them. The program is `main.rs`; from below:
//! [`plan`] (what is asked for), [`node`] (what is under load), [`driver`] (protocols), [`traffic`] (the engine), [`scenario`],
//! [`report`], [`compare`], [`sweep`] and [`peers`].

pub mod child;
pub mod cli;
pub mod clock;
pub mod compare;
pub mod driver;
pub mod head;
pub mod measure;
mod mqtt;
pub mod node;
mod pacer;
pub mod peers;
pub mod plan;
pub mod progress;
pub mod report;
pub mod scenario;
pub mod schedule;
pub mod sweep;
pub mod traffic;
pub mod verify;
