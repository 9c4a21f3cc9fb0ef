//! L6: the node, the only place that knows all the others: it configures, binds, wires, announces and drains them.
//!
//! Must never hold what a message is or does; that is below. Start at [`config`] for what can be set.

pub mod config;
pub mod failure;
pub mod telemetry;
