//! The HTTP edge's settings and bounds, with their defaults.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Settings of the HTTP edge. Every bound has a decided behaviour, said here. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Origins of web pages that may call this node besides its own (`https://console.example`); others get 403.
    pub origins: Vec<String>,
    /// Names that this node may be called by besides `localhost` and its addresses; `*` is any. Others get 421, so that no web
    /// page can make its own name point here and read along (DNS rebinding).
    pub hosts: Vec<String>,
    /// Connections of this listener; further ones are closed at once and counted.
    pub connections_max: usize,
    /// Connections from one address; further ones are closed at once and counted.
    pub connections_per_address_max: usize,
    /// HTTP/2 streams of one connection; further ones wait at the client.
    pub streams_per_connection_max: u32,
    /// Header bytes of a request; above it 431.
    pub header_bytes_max: usize,
    /// Headers of a request; above it 431.
    pub headers_max: usize,
    /// How long a connection may take for a request's headers, and be idle between requests; then it is closed.
    pub header_timeout_ms: u64,
    /// How long a request's body may take; then 408.
    pub body_timeout_ms: u64,
    /// How long a connection may refuse to take what is written to it; then it is closed.
    pub write_timeout_ms: u64,
    /// How long a request may wait for the fabric; then its outcome is unknown (503).
    pub request_timeout_ms: u64,
    /// Memory for the bodies of all requests under way, in bytes; above it 429.
    pub request_memory_bytes_max: usize,
    /// Body of a batch or of a group's members, in bytes; above it 413.
    pub batch_bytes_max: usize,
    /// Messages of a batch; above it 400.
    pub batch_messages_max: usize,
    /// Longest wait of a poll; a longer one is taken as this.
    pub poll_wait_max_ms: u64,
    /// Longest wait for a reply; a longer one is taken as this.
    pub reply_wait_max_ms: u64,
    /// How long an agent's HTTP session stays after its last poll.
    pub session_keep_ms: u64,
    /// Agents with an HTTP session on this node; above it polls get 429.
    pub sessions_max: usize,
    /// How long an unacknowledged message stays with a poll or stream that did not say.
    pub visibility_timeout_ms: u64,
    /// Longest time that a poll or stream may ask for; above it 400.
    pub visibility_timeout_max_ms: u64,
    /// Comments on an idle event stream.
    pub heartbeat_interval_ms: u64,
    /// How long a connection must live on after an event was written, for `ack=auto` to acknowledge it.
    pub auto_ack_grace_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            origins: Vec::new(),
            hosts: Vec::new(),
            connections_max: 10_000,
            connections_per_address_max: 256,
            streams_per_connection_max: 128,
            header_bytes_max: 16 * 1024,
            headers_max: 64,
            header_timeout_ms: 5_000,
            body_timeout_ms: 30_000,
            write_timeout_ms: 30_000,
            request_timeout_ms: 30_000,
            request_memory_bytes_max: 256 * MIB,
            batch_bytes_max: 8 * MIB,
            batch_messages_max: 1_000,
            poll_wait_max_ms: 60_000,
            reply_wait_max_ms: 5 * 60_000,
            session_keep_ms: 60_000,
            sessions_max: 10_000,
            visibility_timeout_ms: 30_000,
            visibility_timeout_max_ms: 12 * 3_600_000,
            heartbeat_interval_ms: 15_000,
            auto_ack_grace_ms: 5_000,
        }
    }
}

impl Config {
    /// How long a request may wait for the fabric.
    pub const fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// How long an agent's HTTP session stays after its last poll.
    pub const fn session_keep(&self) -> Duration {
        Duration::from_millis(self.session_keep_ms)
    }
}
