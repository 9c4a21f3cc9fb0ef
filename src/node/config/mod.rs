//! The node's configuration: every module's `Config`, gathered from defaults, one YAML file, the environment and flags.
//!
//! Each module owns its settings; this one knows only where they are written, which source wins and how to say what is
//! wrong. What exists is read off the tree of defaults, so a new field of a module's `Config` is a setting at once.
//! Start at [`gather()`]; the sections are in [`Config`], the rules across them in `rules`.

pub mod environment;
pub mod file;
mod gather;
pub mod listen;
pub mod protocols;
mod rules;
pub mod setting;
mod suggest;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZero,
    path::PathBuf,
    sync::OnceLock,
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use gather::{Gathered, Inputs, gather};
pub use listen::Listen;

use crate::{
    edge::{grpc, http, mqtt, quic, tls, webhook, websocket},
    node::{policy, telemetry},
    router,
    store::embedded,
};

/// All settings of a node, section by section.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Config {
    pub node: Node,
    pub registration: Registration,
    pub policy: policy::Config,
    pub http: Http,
    pub grpc: Grpc,
    pub quic: Quic,
    pub tls: tls::Config,
    pub mqtt: Mqtt,
    pub websocket: Websocket,
    pub webhook: webhook::Config,
    pub router: router::config::Config,
    pub store: embedded::Config,
    pub log: telemetry::log::Config,
    pub metrics: telemetry::Config,
}

/// The node itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Its name in routes, sessions and logs.
    pub id: String,
    /// Where the embedded store keeps everything.
    pub data_dir: PathBuf,
    /// True: nothing is written to disk and nothing survives a restart.
    pub memory: bool,
    /// Bytes of messages held where `memory` is set; above it senders are refused (429).
    pub memory_bytes_max: u64,
    /// True: listeners may be reachable from other machines although nobody has to prove who they are.
    pub insecure: bool,
    /// How long sessions get to end at shutdown, in milliseconds.
    pub drain_timeout_ms: u64,
    /// Threads that serve QUIC; 0: one less than there are cores, and one at least.
    pub quic_threads: usize,
    /// Threads that serve HTTP, WebSocket and gRPC; 0: one per core.
    pub tcp_threads: usize,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            id: "node_1".into(),
            data_dir: "./data".into(),
            memory: false,
            memory_bytes_max: 1024 * 1024 * 1024,
            insecure: false,
            // Container runtimes kill after 10 s to 30 s; this leaves room for the store to close.
            drain_timeout_ms: 5_000,
            quic_threads: 0,
            tcp_threads: 0,
        }
    }
}

impl Node {
    /// How long sessions get to end at shutdown.
    pub const fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }

    /// Threads that serve QUIC. All connections of a socket go through one task, and shard workers, the store and the system's own part
    /// of networking need a core too: with a thread on each, messages cost a seventh more, in threads that wake one another.
    pub fn quic_threads(&self) -> usize {
        match self.quic_threads {
            0 => cores().saturating_sub(1).max(1),
            chosen => chosen,
        }
    }

    /// Threads that serve HTTP, WebSocket and gRPC.
    pub fn tcp_threads(&self) -> usize {
        match self.tcp_threads {
            0 => cores(),
            chosen => chosen,
        }
    }
}

/// What the process may use of the machine; 1 where the system does not say.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Who may take part without being registered first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registration {
    /// True: senders, addressees and members must be registered. False is the default of development mode, which is every
    /// node that asks nobody to prove who they are.
    pub required: bool,
    /// Agents that are known by being named alone; above it they are refused (429).
    pub unregistered_agents_max: usize,
}

impl Default for Registration {
    fn default() -> Self {
        let router = router::config::Config::default();
        Self {
            required: router.registration_required,
            unregistered_agents_max: router.unregistered_agents_max,
        }
    }
}

/// A listener that is off, for each repetition of a macro.
macro_rules! off {
    ($which:ident) => {
        Listen::Off
    };
}

/// An edge's settings, with where it listens in front of them.
macro_rules! listening {
    ($(#[$doc:meta])* $name:ident, $default:expr $(, $settings:ty $(, $tls:ident)?)?) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name {
            /// `host:port` (port 0 picks a free one), or `off`.
            pub listen: Listen,
            $(
                $(#[doc = concat!("The same over TLS, beside it: `host:port` or `off` (", stringify!($tls), ").")]
                pub tls_listen: Listen,)?
                #[serde(flatten)] pub settings: $settings,
            )?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    listen: $default,
                    $($(tls_listen: off!($tls),)? settings: <$settings>::default(),)?
                }
            }
        }
    };
}

listening!(
    /// HTTP and, on the same listener, WebSocket.
    Http, Listen::loopback(8000), http::Config
);
listening!(
    /// gRPC.
    Grpc, Listen::loopback(50051), grpc::Config, tls
);
listening!(
    /// QUIC for agents: the native protocol.
    Quic, Listen::loopback(4433), quic::Config
);
listening!(
    /// MQTT 3.1.1 and 5; by WebSocket at `/mqtt` of HTTP's listener too, wherever one of its own is on.
    Mqtt, Listen::Off, mqtt::Config, tls
);

/// WebSocket, which shares HTTP's listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Websocket {
    /// False: `/ws` answers 404.
    pub enabled: bool,
    #[serde(flatten)]
    pub settings: websocket::Config,
}

impl Default for Websocket {
    fn default() -> Self {
        Self {
            enabled: true,
            settings: websocket::Config::default(),
        }
    }
}

impl Config {
    /// Every setting with its default. The router's settings that stand in another section are left out of its own.
    fn tree_of_defaults() -> Value {
        let mut tree =
            serde_json::to_value(Self::default()).expect("defaults are numbers, texts, lists and maps with text keys");
        if let Value::Object(router) = &mut tree["router"] {
            for key in ["node_id", "registration_required", "unregistered_agents_max"] {
                router.remove(key);
            }
        }
        tree
    }

    /// The settings in a tree; an error says what was expected.
    fn from_tree(tree: &Value) -> Result<Self, String> {
        let mut config = Self::deserialize(tree).map_err(|error| error.to_string())?;
        config.router.node_id.clone_from(&config.node.id);
        config.router.registration_required = config.registration.required;
        config.router.unregistered_agents_max = config.registration.unregistered_agents_max;
        Ok(config)
    }
}

/// The keys of all settings, in order.
fn known_keys() -> &'static BTreeSet<String> {
    static KEYS: OnceLock<BTreeSet<String>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let mut values = BTreeMap::new();
        gather::flatten("", &Config::tree_of_defaults(), &mut values);
        values.into_keys().collect()
    })
}
