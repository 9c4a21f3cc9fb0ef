//! What the node says of its protocols (`GET /protocols`): which it serves, where, and what they can do.

use std::{fmt, net::SocketAddr, sync::Arc};

use super::config::Config;
use crate::{
    edge::{
        counters::Counters,
        http::{Capabilities, Health, ProtocolView, Protocols},
    },
    router::{Fabric, surface::Protocol},
};

/// What each edge counts, by protocol. The node reads it for `/metrics` and `/protocols/status`.
#[derive(Clone, Debug, Default)]
pub(super) struct EdgeCounters {
    pub http: Arc<Counters>,
    pub websocket: Arc<Counters>,
    pub grpc: Arc<Counters>,
    pub webhook: Arc<Counters>,
}

impl EdgeCounters {
    pub fn all(&self) -> [(Protocol, &Counters); 4] {
        [
            (Protocol::Http, &self.http),
            (Protocol::WebSocket, &self.websocket),
            (Protocol::Grpc, &self.grpc),
            (Protocol::Webhook, &self.webhook),
        ]
    }
}

/// The protocols of this node.
pub(super) struct Served {
    fabric: Fabric,
    counters: EdgeCounters,
    http: Option<SocketAddr>,
    grpc: Option<SocketAddr>,
    websocket: bool,
    websocket_compression: bool,
    message_bytes_max: usize,
}

impl Served {
    pub fn new(
        config: &Config,
        fabric: &Fabric,
        counters: &EdgeCounters,
        http: Option<SocketAddr>,
        grpc: Option<SocketAddr>,
    ) -> Self {
        Self {
            fabric: fabric.clone(),
            counters: counters.clone(),
            http,
            grpc,
            websocket: config.websocket.enabled,
            websocket_compression: config.websocket.settings.compression,
            message_bytes_max: config.router.message_bytes_max,
        }
    }

    /// Those that this node serves.
    pub fn protocols(&self) -> Vec<Protocol> {
        let served = [
            (Protocol::Http, self.http.is_some()),
            (Protocol::WebSocket, self.http.is_some() && self.websocket),
            (Protocol::Grpc, self.grpc.is_some()),
        ];
        served
            .into_iter()
            .filter(|(_, on)| *on)
            .map(|(protocol, _)| protocol)
            .collect()
    }

    fn view(&self, protocol: Protocol, version: &str, endpoint: Option<String>) -> ProtocolView {
        let health = match (&endpoint, self.fabric.not_ready()) {
            (None, _) => Health::Disabled,
            (Some(_), None) => Health::Healthy,
            (Some(_), Some(missing)) => Health::Unhealthy(missing),
        };
        let exists = matches!(protocol, Protocol::Http | Protocol::WebSocket | Protocol::Grpc);
        let counters = self.counters.all().into_iter().find(|(known, _)| *known == protocol);
        ProtocolView {
            name: protocol.name().into(),
            health,
            version: version.into(),
            endpoint,
            capabilities: Capabilities {
                // No listener has TLS yet.
                encryption: false,
                compression: exists && (protocol != Protocol::WebSocket || self.websocket_compression),
                streaming: exists,
                qos_levels: if exists { vec![0, 1, 2] } else { Vec::new() },
                max_message_size: self.message_bytes_max,
            },
            counters: counters.map(|(_, counters)| counters.snapshot()).unwrap_or_default(),
        }
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served")
            .field("http", &self.http)
            .field("grpc", &self.grpc)
            .finish_non_exhaustive()
    }
}

impl Protocols for Served {
    fn list(&self) -> Vec<ProtocolView> {
        let http = self.http.map(|address| format!("http://{address}"));
        let websocket = self
            .http
            .filter(|_| self.websocket)
            .map(|address| format!("ws://{address}/ws"));
        let grpc = self.grpc.map(|address| format!("grpc://{address}"));
        vec![
            self.view(Protocol::Http, "1.1, 2", http),
            self.view(Protocol::WebSocket, "13", websocket),
            self.view(Protocol::Grpc, "weft.v1", grpc),
            self.view(Protocol::Quic, "", None),
            self.view(Protocol::Mqtt, "", None),
        ]
    }
}
