//! A node's edges on the memory store, in this process: QUIC, gRPC (plain, over TLS and carried by QUIC) and HTTP.

pub mod raw;
pub mod relay;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use weft::{
    client::{Client, ClientBuilder, Pin},
    edge::{
        auth::DevelopmentMode,
        counters::Counters,
        grpc,
        quic::{self, Door},
        tls::{self, Material},
    },
    native::link::Link,
    router::{
        Fabric,
        config::Config,
        port::{AllowAll, Ports},
        surface::Protocol,
    },
    store::memory::MemoryStore,
};

/// Far longer than anything here takes; only a hang meets it.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of the memory store.
const STORE_BYTES: u64 = 1 << 30;

pub struct Server {
    pub quic: SocketAddr,
    pub grpc: SocketAddr,
    pub grpc_tls: SocketAddr,
    pub fabric: Fabric,
    pub counters: Arc<Counters>,
    pub material: Arc<Material>,
    shutdown: CancellationToken,
    served: Vec<JoinHandle<()>>,
}

impl Server {
    pub async fn start() -> Self {
        Self::with(Config::default(), quic::Config::default()).await
    }

    pub async fn with(config: Config, edge: quic::Config) -> Self {
        let ports = Ports {
            store: Arc::new(MemoryStore::new(7, STORE_BYTES)),
            policy: Arc::new(AllowAll),
        };
        let fabric = Fabric::start(ports, Config { workers: 2, ..config }).await.unwrap();
        let material = Arc::new(Material::load(&tls::Config::default(), None).unwrap());
        let (shutdown, counters) = (CancellationToken::new(), Arc::new(Counters::default()));
        let (calls, carried) = mpsc::channel(16);
        let socket = edge.link.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let (plain, tls) = (listener().await, listener().await);
        let addresses = (
            socket.local_addr().unwrap(),
            plain.local_addr().unwrap(),
            tls.local_addr().unwrap(),
        );
        let door = Door {
            fabric: fabric.clone(),
            authenticator: Arc::new(DevelopmentMode),
            counters: Arc::clone(&counters),
            calls: Some(calls),
        };
        let serving = quic::serve(
            socket,
            material.server(&[]).unwrap(),
            door,
            edge,
            shutdown.clone(),
            PATIENCE,
        );
        let quic = tokio::spawn(async move { serving.await.unwrap() });
        let door = grpc::Door {
            fabric: fabric.clone(),
            authenticator: Arc::new(DevelopmentMode),
            counters: Arc::default(),
            protocols: Arc::from([Protocol::Grpc, Protocol::Quic]),
        };
        let listeners = grpc::Listeners {
            plain: Some(plain),
            tls: Some((tls, material.server(&[b"h2"]).unwrap())),
            carried: Some(carried),
        };
        let serving = grpc::serve_on(listeners, door, grpc::Config::default(), shutdown.clone(), PATIENCE);
        let grpc = tokio::spawn(async move { serving.await.unwrap() });
        Self {
            quic: addresses.0,
            grpc: addresses.1,
            grpc_tls: addresses.2,
            fabric,
            counters,
            material,
            shutdown,
            served: vec![quic, grpc],
        }
    }

    pub fn pin(&self) -> Pin {
        self.material.fingerprint.to_string().parse().unwrap()
    }

    /// The certificate as PEM, as a node keeps its own.
    pub fn certificate_pem(&self) -> String {
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, self.material.certificate());
        format!("-----BEGIN CERTIFICATE-----\n{encoded}\n-----END CERTIFICATE-----\n")
    }

    pub fn builder(&self) -> ClientBuilder {
        Client::builder(&format!("weft://{}", self.quic)).tls_pin(self.pin())
    }

    /// A client that reaches the server by another address.
    pub fn builder_at(&self, address: SocketAddr) -> ClientBuilder {
        Client::builder(&format!("weft://{address}")).tls_pin(self.pin())
    }

    pub async fn client(&self) -> Client {
        within(self.builder().connect()).await.unwrap()
    }

    pub async fn client_with(&self, link: Link) -> Client {
        within(self.builder().quic_link(link).connect()).await.unwrap()
    }

    pub async fn grpc_client(&self) -> Client {
        within(Client::connect(&format!("grpc://{}", self.grpc))).await.unwrap()
    }

    /// A planned end: drains, says goodbye, waits for connections and calls.
    pub async fn stop(self) {
        self.fabric.drain();
        self.shutdown.cancel();
        for served in self.served {
            within(served).await.unwrap();
        }
        self.fabric.stop(PATIENCE).await.unwrap();
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it took far too long")
}

/// Asks until there is an answer.
pub async fn until<T, F: Future<Output = Option<T>>>(mut probe: impl FnMut() -> F) -> T {
    for _ in 0..4000 {
        if let Some(found) = probe().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not happen in time");
}
