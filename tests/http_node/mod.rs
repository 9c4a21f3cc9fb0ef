//! A node's HTTP edge in this process, on the memory store, and a real client for it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, StatusCode, body::Incoming};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use weft::{
    edge::{
        auth::{Authenticator, DevelopmentMode},
        counters::Counters,
        http::{Capabilities, Config, Health, ProtocolView, Protocols, Services, router, serve},
    },
    router::{
        Fabric,
        config::Config as RouterConfig,
        port::{AllowAll, Ports},
    },
    store::memory::MemoryStore,
};

/// Far longer than anything here takes; only a hang meets it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// HTTP and WebSocket are served, MQTT is not.
#[derive(Debug)]
struct TwoProtocols(Arc<Counters>);

impl Protocols for TwoProtocols {
    fn list(&self) -> Vec<ProtocolView> {
        let view = |name: &str, health| ProtocolView {
            name: name.into(),
            health,
            version: "1".into(),
            endpoint: Some(format!("{name}://127.0.0.1")),
            capabilities: Capabilities {
                encryption: false,
                compression: true,
                streaming: true,
                qos_levels: vec![0, 1, 2],
                max_message_size: 1 << 20,
            },
            counters: self.0.snapshot(),
        };
        vec![
            view("http", Health::Healthy),
            view("websocket", Health::Healthy),
            view("mqtt", Health::Disabled),
            view("grpc", Health::Unhealthy("no listener".into())),
        ]
    }
}

/// A served fabric.
pub struct Node {
    pub address: SocketAddr,
    pub fabric: Fabric,
    pub counters: Arc<Counters>,
    client: Client<HttpConnector, Full<Bytes>>,
    shutdown: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

/// An answer whose body was read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn media_type(&self) -> &str {
        self.headers
            .get("content-type")
            .map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts a problem of this status and code, and returns it.
    #[track_caller]
    pub fn problem(&self, status: u16, code: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.media_type(), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["code"], format!("WEFT-{code}"));
        assert_eq!(problem["type"], format!("/docs/errors#WEFT-{code}"));
        problem
    }

    /// Asserts the status and returns the document.
    #[track_caller]
    pub fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }
}

/// Where a problem says that the request is wrong.
pub fn pointers(problem: &Value) -> Vec<String> {
    let place = |error: &Value| {
        error["pointer"]
            .as_str()
            .or(error["parameter"].as_str())
            .unwrap()
            .to_string()
    };
    problem["errors"].as_array().unwrap().iter().map(place).collect()
}

/// What a node is started with.
pub struct Setup {
    pub http: Config,
    pub router: RouterConfig,
    pub authenticator: Arc<dyn Authenticator>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            http: Config::default(),
            router: RouterConfig {
                workers: 2,
                ..RouterConfig::default()
            },
            authenticator: Arc::new(DevelopmentMode),
        }
    }
}

impl Node {
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> Self {
        let ports = Ports {
            store: Arc::new(MemoryStore::new(7, 1 << 30)),
            policy: Arc::new(AllowAll),
        };
        let fabric = Fabric::start(ports, setup.router).await.unwrap();
        let counters: Arc<Counters> = Arc::default();
        let services = Services {
            fabric: fabric.clone(),
            authenticator: setup.authenticator,
            protocols: Arc::new(TwoProtocols(Arc::clone(&counters))),
            metrics: Arc::new(|| "# TYPE weft_up gauge\nweft_up 1\n".into()),
            counters: Arc::clone(&counters),
        };
        let router = router(services, setup.http.clone(), Vec::new()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, stopped) = oneshot::channel::<()>();
        let shutdown_wish = async {
            let _ = stopped.await;
        };
        let serving = serve(
            listener,
            router,
            setup.http,
            Arc::clone(&counters),
            shutdown_wish,
            PATIENCE,
        );
        // A multiplexed future: the listener lives as long as this task.
        let serving = tokio::spawn(serving);
        Self {
            address,
            fabric,
            counters,
            client: Client::builder(TokioExecutor::new()).build_http(),
            shutdown: Some(shutdown),
            serving,
        }
    }

    /// Ends the fabric's sessions, then the listener, and waits for both.
    pub async fn stop(mut self) {
        self.fabric.drain();
        drop(self.shutdown.take());
        tokio::time::timeout(PATIENCE, self.serving).await.unwrap().unwrap();
        self.fabric.stop(PATIENCE).await.unwrap();
    }

    pub fn request(&self, method: &str, path: &str) -> hyper::http::request::Builder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
    }

    /// The answer's head, with its body still to be read.
    pub async fn open(&self, request: Request<Full<Bytes>>) -> hyper::Response<Incoming> {
        let sending = self.client.request(request);
        tokio::time::timeout(PATIENCE, sending)
            .await
            .expect("an answer in time")
            .unwrap()
    }

    pub async fn answer(&self, request: Request<Full<Bytes>>) -> Answer {
        let (head, body) = self.open(request).await.into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect())
            .await
            .expect("a body in time")
            .unwrap();
        Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.answer(self.request("GET", path).body(Full::default()).unwrap())
            .await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.answer(self.request("DELETE", path).body(Full::default()).unwrap())
            .await
    }

    pub async fn post_text(&self, path: &str, text: impl Into<Bytes>) -> Answer {
        self.with_text("POST", path, text).await
    }

    pub async fn with_text(&self, method: &str, path: &str, text: impl Into<Bytes>) -> Answer {
        let request = self.request(method, path).header("content-type", "application/json");
        self.answer(request.body(Full::new(text.into())).unwrap()).await
    }

    pub async fn post(&self, path: &str, value: Value) -> Answer {
        self.post_text(path, value.to_string()).await
    }

    pub async fn put(&self, path: &str, value: Value) -> Answer {
        self.with_text("PUT", path, value.to_string()).await
    }

    /// Polls an agent's messages.
    pub async fn poll(&self, agent: &str, query: &str) -> Vec<Value> {
        let answer = self.get(&format!("/agents/{agent}/messages?{query}")).await;
        answer.ok(200)["messages"].as_array().unwrap().clone()
    }
}
