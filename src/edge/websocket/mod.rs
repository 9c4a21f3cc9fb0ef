//! The WebSocket edge: `GET /ws?agent_id=…`, subprotocol `weft.v1.json`, on the HTTP edge's port.
//!
//! Owns the upgrade, the frames, the operations of docs/websocket.md and the session's loop. Must never know another edge, a
//! store or how credentials are checked. A session is one task that owns no buffer while idle. Start at [`router`], then
//! [`session`].

mod codec;
mod deflate;
mod event;
mod handshake;
mod operation;
mod outbox;
mod session;
mod socket;
mod tunnel;

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, routing::get};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{auth::Authenticator, counters::Counters, origin::Origins};
use crate::{frame::limits::TOPIC_BYTES_MAX, router::Fabric};

pub use tunnel::tunnel;

/// The subprotocol that this edge speaks.
pub const SUBPROTOCOL: &str = "weft.v1.json";
/// Room for an operation's fields beside its body, in bytes: full headers, the longest ids, and two topics whose every character is
/// escaped by a backslash.
const FIELDS_BYTES_MAX: usize = 64 * 1024 + 4 * TOPIC_BYTES_MAX;

/// Settings of the WebSocket edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Sessions at once; above it an upgrade is refused (503).
    pub max_connections: usize,
    /// Milliseconds between pings; two of them without a sign of life end the session.
    pub heartbeat_interval_ms: u64,
    /// Milliseconds for an upgrade to complete once it was answered; a client that takes longer is dropped.
    pub handshake_timeout_ms: u64,
    /// Milliseconds that a client may take no byte of what it is sent; then it is told goodbye as a slow consumer.
    pub slow_consumer_timeout_ms: u64,
    /// Milliseconds within which a message that began must be whole, checked with every heartbeat; then the client is told goodbye.
    pub receive_timeout_ms: u64,
    /// Sends of one session that may wait for their answer; above it the node stops reading.
    pub unanswered_sends_max: usize,
    /// Whether permessage-deflate is offered.
    pub compression: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: 50_000,
            heartbeat_interval_ms: 30_000,
            handshake_timeout_ms: 5_000,
            slow_consumer_timeout_ms: 10_000,
            receive_timeout_ms: 60_000,
            unanswered_sends_max: 1_024,
            compression: true,
        }
    }
}

impl Config {
    /// Between pings; at least a millisecond, which a timer needs.
    fn heartbeat_interval(&self) -> Duration {
        Duration::from_millis(self.heartbeat_interval_ms.max(1))
    }

    const fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }

    const fn slow_consumer_timeout(&self) -> Duration {
        Duration::from_millis(self.slow_consumer_timeout_ms)
    }

    const fn receive_timeout(&self) -> Duration {
        Duration::from_millis(self.receive_timeout_ms)
    }
}

/// What an upgrade needs. One for all sessions.
#[derive(Debug)]
struct Edge {
    fabric: Fabric,
    config: Arc<Config>,
    authenticator: Arc<dyn Authenticator>,
    origins: Arc<Origins>,
    counters: Arc<Counters>,
    /// One permit a session.
    room: Arc<Semaphore>,
}

/// The edge's one route, to be merged beside the HTTP edge's. Its server must allow upgrades.
pub fn router(
    fabric: Fabric,
    config: Config,
    authenticator: Arc<dyn Authenticator>,
    origins: Arc<Origins>,
    counters: Arc<Counters>,
) -> Router {
    let edge = Edge {
        fabric,
        room: Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS))),
        config: Arc::new(config),
        authenticator,
        origins,
        counters,
    };
    let upgrade = |State(edge): State<Arc<Edge>>, request| async move { handshake::upgrade(&edge, request).await };
    Router::new().route("/ws", get(upgrade)).with_state(Arc::new(edge))
}

/// The largest operation, in bytes, where a body has at most so many: base64 makes four bytes of three.
const fn operation_bytes_max(message_bytes_max: usize) -> usize {
    message_bytes_max.div_ceil(3) * 4 + FIELDS_BYTES_MAX
}
