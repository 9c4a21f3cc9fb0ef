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
    pub quic: Arc<Counters>,
    pub mqtt: Arc<Counters>,
    pub webhook: Arc<Counters>,
}

impl EdgeCounters {
    pub fn all(&self) -> [(Protocol, &Counters); 6] {
        [
            (Protocol::Http, &self.http),
            (Protocol::WebSocket, &self.websocket),
            (Protocol::Grpc, &self.grpc),
            (Protocol::Quic, &self.quic),
            (Protocol::Mqtt, &self.mqtt),
            (Protocol::Webhook, &self.webhook),
        ]
    }
}

/// Where a node listens; `None` where it does not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Addresses {
    pub http: Option<SocketAddr>,
    pub grpc: Option<SocketAddr>,
    pub grpc_tls: Option<SocketAddr>,
    pub quic: Option<SocketAddr>,
    pub mqtt: Option<SocketAddr>,
    pub mqtt_tls: Option<SocketAddr>,
}

impl Addresses {
    /// True where MQTT is served at all: then it is by WebSocket too.
    pub fn has_mqtt(&self) -> bool {
        self.mqtt.or(self.mqtt_tls).is_some()
    }
}

/// The protocols of this node.
pub(super) struct Served {
    fabric: Fabric,
    counters: EdgeCounters,
    addresses: Addresses,
    websocket: bool,
    websocket_compression: bool,
    message_bytes_max: usize,
}

impl Served {
    pub fn new(config: &Config, fabric: &Fabric, counters: &EdgeCounters, addresses: &Addresses) -> Self {
        Self {
            fabric: fabric.clone(),
            counters: counters.clone(),
            addresses: *addresses,
            websocket: config.websocket.enabled,
            websocket_compression: config.websocket.settings.compression,
            message_bytes_max: config.router.message_bytes_max,
        }
    }

    /// Those that this node serves.
    pub fn protocols(&self) -> Vec<Protocol> {
        let served = [
            (Protocol::Http, self.addresses.http.is_some()),
            (Protocol::WebSocket, self.addresses.http.is_some() && self.websocket),
            (
                Protocol::Grpc,
                self.addresses.grpc.or(self.addresses.grpc_tls).is_some(),
            ),
            (Protocol::Quic, self.addresses.quic.is_some()),
            (Protocol::Mqtt, self.addresses.has_mqtt()),
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
        let counters = self.counters.all().into_iter().find(|(known, _)| *known == protocol);
        ProtocolView {
            name: protocol.name().into(),
            health,
            version: version.into(),
            endpoint,
            capabilities: Capabilities {
                encryption: match protocol {
                    Protocol::Quic => true,
                    Protocol::Grpc => self.addresses.grpc_tls.is_some(),
                    Protocol::Mqtt => self.addresses.mqtt_tls.is_some(),
                    _ => false,
                },
                compression: match protocol {
                    Protocol::WebSocket => self.websocket_compression,
                    Protocol::Mqtt => false,
                    _ => true,
                },
                streaming: true,
                qos_levels: vec![0, 1, 2],
                max_message_size: self.message_bytes_max,
            },
            counters: counters.map(|(_, counters)| counters.snapshot()).unwrap_or_default(),
        }
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served")
            .field("http", &self.addresses.http)
            .field("grpc", &self.addresses.grpc)
            .finish_non_exhaustive()
    }
}

impl Protocols for Served {
    fn list(&self) -> Vec<ProtocolView> {
        let http = self.addresses.http.map(|address| format!("http://{address}"));
        let websocket = self
            .addresses
            .http
            .filter(|_| self.websocket)
            .map(|address| format!("ws://{address}/ws"));
        let plain = self.addresses.grpc.map(|address| format!("grpc://{address}"));
        let grpc = plain.or(self.addresses.grpc_tls.map(|address| format!("grpcs://{address}")));
        let quic = self.addresses.quic.map(|address| format!("weft://{address}"));
        let plain = self.addresses.mqtt.map(|address| format!("mqtt://{address}"));
        let mqtt = plain.or(self.addresses.mqtt_tls.map(|address| format!("mqtts://{address}")));
        vec![
            self.view(Protocol::Http, "1.1, 2", http),
            self.view(Protocol::WebSocket, "13", websocket),
            self.view(Protocol::Grpc, "weft.v1", grpc),
            self.view(Protocol::Quic, "weft/1", quic),
            self.view(Protocol::Mqtt, "3.1.1, 5", mqtt),
        ]
    }
}
