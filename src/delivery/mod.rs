//! L2: what happens to messages inside one shard, as a pure state machine.
//!
//! Owns queues, priorities, credit, leases, redelivery, dead letters, expiry, receipts and the two ends of a relay. Must never
//! know a clock, a store, a thread or a protocol: `now` is an argument, operations for the store come out of
//! [`ShardState::take_commit`], everything else comes out in an [`Out`]. Start at [`ShardState`].

mod bodies;
mod config;
mod copies;
mod credit;
mod failed;
mod hand_out;
mod kept;
mod message;
mod output;
mod parted;
mod pass;
mod query;
mod queue;
mod receipts;
mod recover;
mod relay;
mod settle;
mod state;
mod straight;
mod timers;

#[cfg(test)]
mod tests;

pub use config::Limits;
pub use copies::Copies;
pub use credit::{Credit, LaneBounds, LaneRoom, WORKERS_MAX, WaitingWorkers, WorkerMark};
pub use hand_out::Gate;
pub use message::{ConsumerId, Lease};
pub use output::{
    Acceptance, After, ByQos, Counts, GivenUp, HandOut, Load, Out, PassedOn, PassedRelay, Relay, Straight, Targets,
    Verdict,
};
pub use pass::Pass;
pub use query::{Held, Listed};
pub use queue::{Consumer, QueueKind, Selection};
pub use recover::Known;
pub use settle::Nack;
pub use state::{Publish, Route, ShardState};
