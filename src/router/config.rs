//! The router's settings and bounds, with their defaults.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::port::Durability;

/// Settings of the router. Every bound has a decided behaviour, said here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of this node, shown in routes and sessions.
    pub node_id: String,
    /// Shard workers (threads); 0: one per core.
    pub workers: usize,
    /// False: a commit counts once it is in memory (development and measurement only).
    pub fsync: bool,
    /// True: senders, addressees and members must be registered.
    pub registration_required: bool,
    /// Agents that are known by being named alone; above it they are refused (429).
    pub unregistered_agents_max: usize,
    /// Largest body, in bytes; above it 413. Never above 16 MiB.
    pub message_bytes_max: usize,
    /// Time to live where the sender names none, in milliseconds.
    pub ttl_default_ms: u64,
    /// Longest time to live, in milliseconds; longer ones are refused.
    pub ttl_max_ms: u64,
    /// Messages in one inbox or one-of queue; above it the sender is refused (429).
    pub inbox_messages_max: usize,
    /// Bytes in one inbox or one-of queue; above it the sender is refused (429).
    pub inbox_bytes_max: u64,
    /// Messages in one session queue; above it the copy is rejected and counted.
    pub session_messages_max: usize,
    /// Bytes in one session queue; above it the copy is rejected and counted.
    pub session_bytes_max: u64,
    /// QoS 0 messages parked for an agent that polls; above it the oldest is dropped and counted.
    pub parked_messages_max: usize,
    /// Frames and acknowledgements waiting for one worker; above it QoS 0 is dropped and counted, others wait or are refused (429).
    pub worker_frames_max: usize,
    /// Bytes waiting for one worker; as above.
    pub worker_bytes_max: usize,
    /// Frames waiting for one session's writer; above it QoS 0 is dropped and counted, others stay queued.
    pub lane_frames_max: usize,
    /// Bytes waiting for one session's writer; as above.
    pub lane_bytes_max: usize,
    /// Messages that one session may have in flight.
    pub in_flight_messages_max: u32,
    /// Bytes that one session may have in flight.
    pub in_flight_bytes_max: u64,
    /// Memory for the index of stored messages on this node, in bytes; above it senders are refused (429).
    pub index_bytes_max: u64,
    /// Memory for bodies of waiting messages on this node, in bytes; above it they are read from the store again.
    pub body_cache_bytes_max: u64,
    /// Settled receipts on this node; above it the oldest go early, which is counted.
    pub receipts_max: usize,
    /// How long a settled receipt is kept, in milliseconds.
    pub receipt_window_ms: u64,
    /// Deliveries begun before a message becomes a dead letter.
    pub max_deliver: u32,
    /// First wait before a redelivery, in milliseconds; it doubles each time.
    pub backoff_first_ms: u64,
    /// Longest wait before a redelivery, in milliseconds.
    pub backoff_max_ms: u64,
    /// Dead letters of one address; above it the oldest goes, which is counted.
    pub dead_letters_max: usize,
    /// How long a dead letter is kept, in milliseconds.
    pub dead_letter_retention_ms: u64,
    /// Messages of one group's history; above it the oldest goes.
    pub history_messages_max: usize,
    /// Sessions of one agent; above it attaching is refused.
    pub sessions_per_agent_max: usize,
    /// Sessions of this node; above it attaching is refused.
    pub sessions_max: usize,
    /// Topic subscriptions of one agent; above it subscribing is refused.
    pub subscriptions_per_agent_max: usize,
    /// Bytes of one agent's topic subscriptions, each counted as its filter's bytes and 24 for each level; above it subscribing is refused.
    pub subscription_bytes_per_agent_max: usize,
    /// Retained messages of this node; above it a further topic's is refused (429), and at QoS 0 passed on without being retained.
    pub retained_messages_max: usize,
    /// Bytes of retained messages on this node, all of them in memory; as above.
    pub retained_bytes_max: u64,
    /// Envelopes kept for debugging; 0: none.
    pub debug_envelopes: usize,
    /// Status questions by bare message id, a second.
    pub status_scans_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        const DAY_MS: u64 = 24 * 3600 * 1000;
        Self {
            node_id: "node_1".into(),
            workers: 0,
            fsync: true,
            registration_required: false,
            unregistered_agents_max: 10_000,
            message_bytes_max: MIB as usize,
            ttl_default_ms: DAY_MS,
            ttl_max_ms: 30 * DAY_MS,
            inbox_messages_max: 100_000,
            inbox_bytes_max: 256 * MIB,
            session_messages_max: 1_000,
            session_bytes_max: 8 * MIB,
            parked_messages_max: 1_000,
            worker_frames_max: 65_536,
            worker_bytes_max: 64 * MIB as usize,
            lane_frames_max: 32_768,
            lane_bytes_max: 8 * MIB as usize,
            in_flight_messages_max: 256,
            in_flight_bytes_max: MIB,
            index_bytes_max: 2048 * MIB,
            body_cache_bytes_max: 256 * MIB,
            receipts_max: 4_000_000,
            receipt_window_ms: 10 * 60 * 1000,
            max_deliver: 16,
            backoff_first_ms: 1_000,
            backoff_max_ms: 5 * 60 * 1000,
            dead_letters_max: 10_000,
            dead_letter_retention_ms: 7 * DAY_MS,
            history_messages_max: 10_000,
            sessions_per_agent_max: 8,
            sessions_max: 100_000,
            subscriptions_per_agent_max: 1_024,
            // 1,024 filters of 255 bytes in 32 levels, or fifteen of the longest.
            subscription_bytes_per_agent_max: MIB as usize,
            retained_messages_max: 100_000,
            retained_bytes_max: 256 * MIB,
            debug_envelopes: 1_000,
            status_scans_per_second: 50,
        }
    }
}

impl Config {
    /// How safe a commit is before it counts.
    pub const fn durability(&self) -> Durability {
        if self.fsync {
            Durability::Fsync
        } else {
            Durability::Memory
        }
    }

    /// How long a settled receipt is kept.
    pub const fn receipt_window(&self) -> Duration {
        Duration::from_millis(self.receipt_window_ms)
    }
}
