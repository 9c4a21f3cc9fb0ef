//! The QUIC edge's settings and bounds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::native::link::Link;

/// Settings of the QUIC edge. Every bound has a decided behaviour, said here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Connections at once; further ones are refused and counted.
    pub connections_max: usize,
    /// Connections of one address at once; further ones are refused and counted.
    pub connections_per_address_max: usize,
    /// Handshakes under way at once; further ones are refused and counted.
    pub handshakes_max: usize,
    /// Handshakes begun in one second; further ones are refused and counted.
    pub handshakes_per_second_max: u32,
    /// Handshakes under way from which on a client must first prove its address, which costs it a round trip (Retry).
    pub handshakes_unproven_max: usize,
    /// How long a connection may take until its greeting, in milliseconds; then it is closed.
    pub handshake_timeout_ms: u64,
    /// How long a client may take nothing of what is written to it, in milliseconds; then it is told `slow_consumer` and closed.
    pub slow_consumer_timeout_ms: u64,
    /// Streams of gRPC calls of one connection at once; the peer is told, and cannot open more.
    pub call_streams_max: u32,
    /// Windows, MTU, segmentation offload, timeouts.
    #[serde(flatten)]
    pub link: Link,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_address_max: 256,
            handshakes_max: 1_024,
            handshakes_per_second_max: 1_000,
            handshakes_unproven_max: 64,
            handshake_timeout_ms: 5_000,
            slow_consumer_timeout_ms: 10_000,
            call_streams_max: 4,
            link: Link {
                // The client says that it lives.
                keep_alive_ms: 0,
                ..Link::default()
            },
        }
    }
}

impl Config {
    pub(super) const fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }

    pub(super) const fn slow_consumer_timeout(&self) -> Duration {
        Duration::from_millis(self.slow_consumer_timeout_ms)
    }
}
