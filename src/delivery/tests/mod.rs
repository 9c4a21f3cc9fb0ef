//! Proof of the shard's state machine: behaviour by behaviour, and as properties of random runs.
//!
//! Start at [`world::World`], a shard with a model of its store around it. `invariants.rs` looks inside after every step.

mod bodies;
mod credit;
mod failing;
mod fan_out;
mod hand_out;
mod invariants;
mod kept;
mod pass;
mod properties;
mod publish;
mod queues;
mod recovery;
mod relaying;
mod settling;
mod store;
mod straight;
mod time;
mod world;
