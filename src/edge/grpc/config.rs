//! The gRPC edge's settings and bounds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Settings of the gRPC edge. Every bound has a decided behaviour, said here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Connections at once; further ones are closed at once and counted.
    pub connections_max: usize,
    /// Connections of one address at once; further ones are closed at once and counted.
    pub connections_per_address_max: usize,
    /// HTTP/2 streams of one connection; the peer is told, and a stream beyond it is refused.
    pub streams_per_connection_max: u32,
    /// How long a connection may take to send HTTP/2's preface, in milliseconds; then it is closed.
    pub handshake_timeout_ms: u64,
    /// How often a quiet connection is probed, in milliseconds.
    pub keepalive_interval_ms: u64,
    /// How long a probe may stay unanswered, in milliseconds; then the connection is closed.
    pub keepalive_timeout_ms: u64,
    /// Bytes of all streams of a connection that may be under way unread. Below 8 MiB one connection that carries much stalls.
    pub connection_window_bytes: u32,
    /// Bytes of one stream that may be under way unread.
    pub stream_window_bytes: u32,
    /// Longest call that is no stream, in milliseconds, its request's arrival included; then it is DEADLINE_EXCEEDED.
    pub call_timeout_ms: u64,
    /// Compresses large answers of single calls where the caller accepts it. Streams are never compressed: item by item it
    /// took one from 1,880,000 to 22,000 messages a second.
    pub compress_answers: bool,
    /// Serves the proto files by gRPC reflection.
    pub reflection: bool,
    /// Agents with a poll session at once; further ones are RESOURCE_EXHAUSTED.
    pub poll_sessions_max: usize,
    /// How long a poll session without a call and without unsettled deliveries is kept, in milliseconds.
    pub poll_session_idle_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_address_max: 256,
            streams_per_connection_max: 128,
            handshake_timeout_ms: 5_000,
            keepalive_interval_ms: 30_000,
            keepalive_timeout_ms: 10_000,
            connection_window_bytes: 8 * 1024 * 1024,
            stream_window_bytes: 4 * 1024 * 1024,
            call_timeout_ms: 330_000,
            compress_answers: false,
            reflection: true,
            poll_sessions_max: 10_000,
            poll_session_idle_ms: 60_000,
        }
    }
}

impl Config {
    pub(super) const fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }
}
