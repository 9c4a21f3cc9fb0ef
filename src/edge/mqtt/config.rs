//! The MQTT edge's settings and bounds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::mqtt;

/// Settings of the MQTT edge. Every bound has a decided behaviour, said here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Connections at once, those by WebSocket too; further ones are closed and counted.
    pub connections_max: usize,
    /// Connections of one address at once; further ones are closed and counted.
    pub connections_per_address_max: usize,
    /// How long a connection may take until its CONNECT is whole, in milliseconds; then it is closed.
    pub connect_timeout_ms: u64,
    /// How long a client may take nothing of what is written to it, in milliseconds; then it is closed.
    pub slow_consumer_timeout_ms: u64,
    /// QoS 1 and 2 messages that a client may have unanswered (Receive Maximum); an MQTT 5 client that sends more is disconnected (0x93).
    pub receive_max: u16,
    /// QoS 1 and 2 messages that are sent to a client and not acknowledged; its own Receive Maximum counts where it is smaller.
    pub send_max: u16,
    /// Topic aliases that a client may set, and that are set towards it; 0: none.
    pub topic_alias_max: u16,
    /// Largest packet that is taken, in bytes, and told to MQTT 5 clients (Maximum Packet Size); 0: what the largest message needs, untold.
    pub packet_bytes_max: u32,
    /// Longest keep-alive in seconds, told to MQTT 5 clients that ask for a longer one or none; 0: theirs counts.
    pub keep_alive_max_s: u16,
    /// Longest that a session outlives its connection, in seconds; longer wishes are cut to it. 4294967295: for ever.
    pub session_expiry_max_s: u32,
    /// Subscriptions of one session; further ones are refused (0x97).
    pub subscriptions_max: usize,
    /// True: MQTT 5 clients hear of a subscription that policy denies that it is not authorized (0x87); false: only that it failed (0x80).
    pub explain_denials: bool,
    /// How often `$SYS` topics are published to those who subscribed to them, in milliseconds; 0: only when they subscribe.
    pub sys_interval_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections_max: 50_000,
            connections_per_address_max: 20_000,
            connect_timeout_ms: 5_000,
            slow_consumer_timeout_ms: 10_000,
            receive_max: 20,
            send_max: 100,
            topic_alias_max: 10,
            packet_bytes_max: 0,
            keep_alive_max_s: 0,
            session_expiry_max_s: u32::MAX,
            subscriptions_max: 1_000,
            explain_denials: true,
            sys_interval_ms: 10_000,
        }
    }
}

impl Config {
    pub(super) const fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(super) const fn slow_consumer_timeout(&self) -> Duration {
        Duration::from_millis(self.slow_consumer_timeout_ms)
    }

    /// What the machine of each connection is started with.
    pub(super) fn of_sessions(&self, expiry_max: Duration) -> mqtt::Config {
        mqtt::Config {
            connect_timeout: self.connect_timeout(),
            receive_max: self.receive_max.max(1),
            send_max: self.send_max.max(1),
            topic_alias_max: self.topic_alias_max,
            topic_alias_out_max: self.topic_alias_max,
            packet_bytes_max: (self.packet_bytes_max > 0).then_some(self.packet_bytes_max),
            keep_alive_max_s: (self.keep_alive_max_s > 0).then_some(self.keep_alive_max_s),
            session_expiry_max_s: self.session_expiry_max_s,
            subscriptions_max: self.subscriptions_max,
            message_expiry_max: expiry_max,
            ..mqtt::Config::default()
        }
    }
}
