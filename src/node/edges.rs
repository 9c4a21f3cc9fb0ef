//! Starts every edge on its listener and ends them in order. One task an edge; an edge that ends by itself ends the node.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use tokio::{net::TcpListener, runtime::Handle, sync::mpsc, task::JoinSet, time::timeout};

use super::{
    Stop,
    bind::Sockets,
    config::Config,
    failure::{Exit, Failure},
    protocols::{Addresses, EdgeCounters, Served},
    telemetry::metrics::{Metrics, Readings},
};
use crate::{
    edge::{
        auth::DevelopmentMode,
        grpc, http, mqtt,
        origin::Origins,
        quic,
        stream::Calls,
        tls::{Fingerprint, Material, TlsError},
        webhook, websocket,
    },
    router::{Fabric, surface::Protocol},
};

/// Streams of calls that QUIC connections opened and gRPC has not taken: beyond it they wait.
const CALLS_MAX: usize = 64;

/// WebSocket connections that speak MQTT and that its edge has not taken: beyond it their clients wait.
const CARRIED_MAX: usize = 64;

/// The running edges.
#[derive(Debug)]
pub(super) struct Edges {
    addresses: Addresses,
    tls: Option<Material>,
    stop: Stop,
    tasks: JoinSet<()>,
    failures: mpsc::Receiver<Failure>,
}

/// What every edge is started with.
struct Starter<'a> {
    config: &'a Config,
    fabric: &'a Fabric,
    counters: EdgeCounters,
    /// Runs what serves QUIC.
    runtime_of_quic: &'a Handle,
    stop: Stop,
    tasks: JoinSet<()>,
    failed: mpsc::Sender<Failure>,
}

impl Edges {
    /// QUIC is served by `quic`, everything else here: all connections of a QUIC socket go through one task, so that many threads only
    /// wake one another.
    pub fn start(config: &Config, fabric: &Fabric, sockets: Sockets, quic: &Handle) -> Result<Self, Failure> {
        let addresses =
            addresses(&sockets).map_err(|error| Failure::new(Exit::Io, "a listener has no address", error, ""))?;
        let tls = match addresses.grpc_tls.or(addresses.quic).or(addresses.mqtt_tls) {
            Some(_) => Some(material(config)?),
            None => None,
        };
        let (failed, failures) = mpsc::channel(1);
        let mut starter = Starter {
            config,
            fabric,
            counters: EdgeCounters::default(),
            runtime_of_quic: quic,
            stop: Stop::new(),
            tasks: JoinSet::new(),
            failed,
        };
        let served = Served::new(config, fabric, &starter.counters, &addresses);
        let protocols = served.protocols().into();
        // MQTT by WebSocket is carried from one edge to the other as bytes.
        let (tunnel, tunnelled) = mpsc::channel(CARRIED_MAX);
        if let Some(listener) = sockets.http {
            let tunnel = addresses.has_mqtt().then_some(tunnel);
            starter.http(listener, served, tunnel)?;
        }
        let (calls, carried) = mpsc::channel(CALLS_MAX);
        let tls_of = |what, protocols: &[&[u8]]| match &tls {
            Some(tls) => tls.server(protocols).map_err(|error| tls_failure(what, &error)),
            None => unreachable!("the certificate is loaded wherever a listener needs it"),
        };
        let grpc_tls = match sockets.grpc_tls {
            Some(listener) => Some((listener, tls_of("gRPC", &[b"h2"])?)),
            None => None,
        };
        let listeners = grpc::Listeners {
            plain: sockets.grpc,
            tls: grpc_tls,
            carried: Some(carried),
        };
        starter.grpc(listeners, protocols);
        if let Some(socket) = sockets.quic {
            starter.quic(socket, tls_of("QUIC", &[])?, calls);
        }
        if addresses.has_mqtt() {
            let mqtt_tls = match sockets.mqtt_tls {
                Some(listener) => Some((listener, tls_of("MQTT", &[])?)),
                None => None,
            };
            let listeners = mqtt::Listeners {
                plain: sockets.mqtt,
                tls: mqtt_tls,
                carried: Some(tunnelled),
            };
            starter.mqtt(listeners);
        }
        starter.webhook();
        Ok(Self {
            addresses,
            tls,
            stop: starter.stop,
            tasks: starter.tasks,
            failures,
        })
    }

    /// The listeners that are on, by the names of their flags.
    pub fn listeners(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let Addresses {
            http,
            grpc,
            grpc_tls,
            quic,
            mqtt,
            mqtt_tls,
        } = self.addresses;
        let all = [
            ("http", http),
            ("grpc", grpc),
            ("grpc-tls", grpc_tls),
            ("quic", quic),
            ("mqtt", mqtt),
            ("mqtts", mqtt_tls),
        ];
        all.into_iter().filter_map(|(name, address)| Some((name, address?)))
    }

    /// The certificate's fingerprint, where a listener shows one.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.tls.as_ref().map(|tls| tls.fingerprint)
    }

    /// The first three things to try, for whoever sits at a terminal.
    pub fn first_steps(&self) -> String {
        let mut steps = String::from("try, in another terminal:\n");
        if let Some(http) = self.addresses.http {
            steps.push_str(&format!("  curl http://{http}/health\n"));
        }
        if let Some(grpc) = self.addresses.grpc {
            steps.push_str(&format!("  weft --server grpc://{grpc} send --from alice bob hello\n"));
            steps.push_str(&format!("  weft --server grpc://{grpc} recv bob\n"));
        }
        if let (Some(quic), Some(tls)) = (self.addresses.quic, &self.tls) {
            let trust = match &tls.own_file {
                Some(file) => format!("--tls-ca {}", file.display()),
                None => format!("--tls-pin {}", tls.fingerprint),
            };
            steps.push_str(&format!("  weft --server weft://{quic} {trust} recv bob\n"));
        }
        steps
    }

    /// Waits until an edge ended by itself.
    pub async fn failed(&mut self) -> Failure {
        match self.failures.recv().await {
            Some(failure) => failure,
            // No edge is left that could fail.
            None => std::future::pending().await,
        }
    }

    /// Takes no new connections, lets what is under way finish for at most `patience`, then cuts it off.
    pub async fn stop(mut self, patience: Duration) {
        self.stop.cancel();
        let ended = timeout(patience, async { while self.tasks.join_next().await.is_some() {} });
        if ended.await.is_err() {
            tracing::warn!("connections were still busy and are cut off");
        }
    }
}

fn addresses(sockets: &Sockets) -> io::Result<Addresses> {
    let tcp = |listener: &Option<TcpListener>| listener.as_ref().map(TcpListener::local_addr).transpose();
    Ok(Addresses {
        http: tcp(&sockets.http)?,
        grpc: tcp(&sockets.grpc)?,
        grpc_tls: tcp(&sockets.grpc_tls)?,
        quic: sockets.quic.as_ref().map(UdpSocket::local_addr).transpose()?,
        mqtt: tcp(&sockets.mqtt)?,
        mqtt_tls: tcp(&sockets.mqtt_tls)?,
    })
}

/// The certificate: given, or the node's own.
fn material(config: &Config) -> Result<Material, Failure> {
    let folder = (!config.node.memory).then_some(&*config.node.data_dir);
    let material = Material::load(&config.tls, folder).map_err(|error| tls_failure("TLS", &error))?;
    tracing::info!(fingerprint = %material.fingerprint, "certificate");
    Ok(material)
}

fn tls_failure(what: &str, error: &TlsError) -> Failure {
    let fix = "name a certificate and its key with tls.certificate_file and tls.key_file, or neither for one of the node's own";
    Failure::new(Exit::Config, format!("{what} has no usable certificate"), error, fix)
}

impl Starter<'_> {
    /// HTTP and, on the same listener, WebSocket.
    fn http(
        &mut self,
        listener: TcpListener,
        served: Served,
        tunnel: Option<mpsc::Sender<Calls>>,
    ) -> Result<(), Failure> {
        let mut settings = self.config.http.settings.clone();
        if self.config.node.insecure {
            // Other machines know this one by names of their own.
            settings.hosts.push("*".into());
        }
        let wrong = |cause: String| {
            Failure::new(
                Exit::Config,
                "http.origins is wrong",
                cause,
                "write https://HOST or http://HOST:PORT",
            )
        };
        let services = http::Services {
            fabric: self.fabric.clone(),
            authenticator: Arc::new(DevelopmentMode),
            protocols: Arc::new(served),
            metrics: self.metrics(),
            counters: Arc::clone(&self.counters.http),
        };
        let mounts = self.websocket(&settings, tunnel).map_err(wrong)?;
        let router = http::router(services, settings.clone(), mounts).map_err(wrong)?;
        let (stop, counters) = (self.stop.clone(), Arc::clone(&self.counters.http));
        let patience = self.config.node.drain_timeout();
        self.tasks.spawn(async move {
            http::serve(listener, router, settings, counters, stop.cancelled_owned(), patience).await;
        });
        Ok(())
    }

    fn websocket(&self, http: &http::Config, tunnel: Option<mpsc::Sender<Calls>>) -> Result<Vec<http::Mount>, String> {
        let mount = |router: Router| http::Mount {
            routes: router.with_state(()),
            ..http::Mount::default()
        };
        let (mut mounts, origins) = (Vec::new(), Arc::new(Origins::new(&http.origins)?));
        if self.config.websocket.enabled {
            mounts.push(mount(websocket::router(
                self.fabric.clone(),
                self.config.websocket.settings.clone(),
                Arc::new(DevelopmentMode),
                Arc::clone(&origins),
                Arc::clone(&self.counters.websocket),
            )));
        }
        if let Some(tunnel) = tunnel {
            mounts.push(mount(websocket::tunnel("/mqtt", "mqtt", tunnel, origins)));
        }
        Ok(mounts)
    }

    fn mqtt(&mut self, listeners: mqtt::Listeners) {
        let door = mqtt::Door {
            fabric: self.fabric.clone(),
            authenticator: Arc::new(DevelopmentMode),
            counters: Arc::clone(&self.counters.mqtt),
        };
        let (settings, stop) = (self.config.mqtt.settings.clone(), self.stop.clone());
        let (patience, failed) = (self.config.node.drain_timeout(), self.failed.clone());
        self.tasks.spawn(async move {
            if let Err(error) = mqtt::serve(listeners, door, settings, stop, patience).await {
                let failure = Failure::new(Exit::Software, "the MQTT edge could not start", error, "see the log");
                // Full: another failure ends the node already.
                let _second = failed.try_send(failure);
            }
        });
    }

    fn quic(&mut self, socket: UdpSocket, tls: Arc<rustls::ServerConfig>, calls: mpsc::Sender<Calls>) {
        let door = quic::Door {
            fabric: self.fabric.clone(),
            authenticator: Arc::new(DevelopmentMode),
            counters: Arc::clone(&self.counters.quic),
            calls: Some(calls),
        };
        let (settings, stop) = (self.config.quic.settings.clone(), self.stop.clone());
        let (patience, failed) = (self.config.node.drain_timeout(), self.failed.clone());
        let serving = async move {
            if let Err(error) = quic::serve(socket, tls, door, settings, stop, patience).await {
                let fix = "check tls.certificate_file and tls.key_file, or switch it off with --quic-listen off";
                let failure = Failure::new(Exit::Config, "the QUIC edge ended", error, fix);
                // Full: another failure ends the node already.
                let _second = failed.try_send(failure);
            }
        };
        self.tasks.spawn_on(serving, self.runtime_of_quic);
    }

    /// gRPC on its own listeners, and for the calls that QUIC connections carry.
    fn grpc(&mut self, listeners: grpc::Listeners, protocols: Arc<[Protocol]>) {
        let door = grpc::Door {
            fabric: self.fabric.clone(),
            authenticator: Arc::new(DevelopmentMode),
            counters: Arc::clone(&self.counters.grpc),
            protocols,
        };
        let (settings, stop) = (self.config.grpc.settings.clone(), self.stop.clone());
        let (patience, failed) = (self.config.node.drain_timeout(), self.failed.clone());
        self.tasks.spawn(async move {
            if let Err(error) = grpc::serve_on(listeners, door, settings, stop, patience).await {
                let failure = Failure::new(Exit::Software, "the gRPC edge ended", error, "restart the node");
                // Full: another failure ends the node already.
                let _second = failed.try_send(failure);
            }
        });
    }

    /// Pushes to agents that have an endpoint and no session.
    fn webhook(&mut self) {
        let settings = self.config.webhook.clone();
        let (fabric, stop) = (self.fabric.clone(), self.stop.clone());
        let (counters, failed) = (Arc::clone(&self.counters.webhook), self.failed.clone());
        self.tasks.spawn(async move {
            if let Err(error) = webhook::run(fabric, settings, counters, stop).await {
                let fix = "name a readable file with webhook.secret_file, or set webhook.secret";
                let failure = Failure::new(Exit::Config, "webhooks cannot be signed", error, fix);
                // Full: another failure ends the node already.
                let _second = failed.try_send(failure);
            }
        });
    }

    /// What `GET /metrics` answers.
    fn metrics(&self) -> Arc<dyn Fn() -> String + Send + Sync> {
        if !self.config.metrics.enabled {
            return Arc::new(|| "# metrics.enabled is false\n".into());
        }
        let (metrics, fabric, counters) = (Metrics::default(), self.fabric.clone(), self.counters.clone());
        Arc::new(move || {
            let edges = counters
                .all()
                .map(|(protocol, counters)| (protocol, counters.snapshot()));
            metrics.render(&Readings {
                ready: fabric.not_ready().is_none(),
                router: fabric.counters(),
                store: fabric.store_stats(),
                edges: edges.to_vec(),
            })
        })
    }
}
