//! The protocols that this node serves, as it shows them: which, where, how well and how much.

use std::{fmt, sync::Arc};

use axum::{extract::State, http::StatusCode};
use serde::Serialize;

use super::{
    App,
    request::{Caller, Params},
    respond::{self, Answer},
};
use crate::edge::counters::Snapshot;

/// What the node knows of its protocols. Must answer from memory.
pub trait Protocols: Send + Sync + fmt::Debug + 'static {
    /// Every protocol that this build knows, served or not.
    fn list(&self) -> Vec<ProtocolView>;
}

/// One protocol.
#[derive(Clone, Debug)]
pub struct ProtocolView {
    /// The name that users write, such as `websocket`.
    pub name: String,
    pub health: Health,
    /// The protocol's own version, such as `1.1, 2`.
    pub version: String,
    /// Where it listens, as a URL.
    pub endpoint: Option<String>,
    pub capabilities: Capabilities,
    pub counters: Snapshot,
}

/// How a protocol fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not configured.
    Disabled,
    Healthy,
    /// Configured, but not serving: why.
    Unhealthy(String),
}

/// What a protocol can do.
#[derive(Clone, Debug, Serialize)]
pub struct Capabilities {
    pub encryption: bool,
    pub compression: bool,
    pub streaming: bool,
    pub qos_levels: Vec<u8>,
    /// In bytes.
    pub max_message_size: usize,
}

impl ProtocolView {
    /// True where agents can use it now.
    pub fn is_serving(&self) -> bool {
        self.health == Health::Healthy
    }
}

#[derive(Serialize)]
struct Listed<T> {
    protocols: Vec<T>,
}

#[derive(Serialize)]
struct ShownProtocol {
    name: String,
    enabled: bool,
    version: String,
    endpoint: Option<String>,
    capabilities: Capabilities,
}

/// `GET /protocols`
pub(super) async fn list(State(app): State<Arc<App>>, _caller: Caller, params: Params) -> Answer {
    params.finish()?;
    let shown = |view: ProtocolView| ShownProtocol {
        enabled: view.health != Health::Disabled,
        name: view.name,
        version: view.version,
        endpoint: view.endpoint,
        capabilities: view.capabilities,
    };
    let protocols = app.protocols.list().into_iter().map(shown).collect();
    Ok(respond::json(StatusCode::OK, &Listed { protocols }))
}

#[derive(Serialize)]
struct ProtocolHealth {
    name: String,
    status: &'static str,
    detail: Option<String>,
}

#[derive(Serialize)]
struct HealthAnswer {
    status: &'static str,
    protocols: Vec<ProtocolHealth>,
}

/// `GET /protocols/health`
pub(super) async fn health(State(app): State<Arc<App>>, _caller: Caller, params: Params) -> Answer {
    params.finish()?;
    let views = app.protocols.list();
    let degraded = views.iter().any(|view| matches!(view.health, Health::Unhealthy(_)));
    let shown = |view: ProtocolView| {
        let (status, detail) = match view.health {
            Health::Disabled => ("disabled", None),
            Health::Healthy => ("healthy", None),
            Health::Unhealthy(why) => ("unhealthy", Some(why)),
        };
        ProtocolHealth {
            name: view.name,
            status,
            detail,
        }
    };
    let answer = HealthAnswer {
        status: if degraded { "degraded" } else { "healthy" },
        protocols: views.into_iter().map(shown).collect(),
    };
    Ok(respond::json(StatusCode::OK, &answer))
}

#[derive(Serialize)]
struct ProtocolStatus {
    name: String,
    enabled: bool,
    connections: u64,
    connections_total: u64,
    connections_refused: u64,
    bytes_in: u64,
    bytes_out: u64,
    messages_in: u64,
    messages_out: u64,
    errors: u64,
    latency_seconds: LatencySeconds,
}

#[derive(Serialize)]
struct LatencySeconds {
    p50: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
}

/// `GET /protocols/status`
pub(super) async fn status(State(app): State<Arc<App>>, _caller: Caller, params: Params) -> Answer {
    params.finish()?;
    let shown = |view: ProtocolView| ProtocolStatus {
        enabled: view.health != Health::Disabled,
        name: view.name,
        connections: view.counters.connections,
        connections_total: view.counters.connections_total,
        connections_refused: view.counters.connections_refused,
        bytes_in: view.counters.bytes_in,
        bytes_out: view.counters.bytes_out,
        messages_in: view.counters.messages_in,
        messages_out: view.counters.messages_out,
        errors: view.counters.errors,
        latency_seconds: LatencySeconds {
            p50: view.counters.latency_p50.map(|span| span.as_secs_f64()),
            p95: view.counters.latency_p95.map(|span| span.as_secs_f64()),
            p99: view.counters.latency_p99.map(|span| span.as_secs_f64()),
        },
    };
    let protocols = app.protocols.list().into_iter().map(shown).collect();
    Ok(respond::json(StatusCode::OK, &Listed { protocols }))
}
