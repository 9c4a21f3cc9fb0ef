//! The webhook edge on a running router, against a real receiver on loopback.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::hmac;
use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use weft::{
    edge::{counters::Counters, webhook},
    frame::{Address, AgentId, Draft, MessageId, TraceContext, TrackingId, record::Status},
    router::{
        Fabric, SessionHandle, SessionReceiver,
        config::Config,
        port::{AllowAll, Ports},
        registry::Registration,
        surface::{Attach, Inbox, Principal, Protocol, SessionQueue, StatusQuery, Window},
    },
    store::memory::{BYTES_MAX_DEFAULT, MemoryStore},
};

/// Nothing here takes this long unless it hangs.
const DEADLINE: Duration = Duration::from_secs(30);
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

// --- the receiver ------------------------------------------------------------------------------------------------

/// What the receiver does with a request.
#[derive(Clone, Debug)]
enum Behaviour {
    Answer(u16),
    RedirectTo(String),
    Hang,
}

#[derive(Debug)]
struct Hit {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Hit {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("pushes are JSON")
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().expect("visible ASCII")
    }
}

#[derive(Clone)]
struct Script {
    /// What to do with the next requests; 204 once they are used up.
    behaviours: Arc<Mutex<VecDeque<Behaviour>>>,
    hits: mpsc::UnboundedSender<Hit>,
}

struct Receiver {
    address: SocketAddr,
    hits: mpsc::UnboundedReceiver<Hit>,
    behaviours: Arc<Mutex<VecDeque<Behaviour>>>,
    server: JoinHandle<()>,
}

impl Receiver {
    async fn start(behaviours: &[Behaviour]) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), behaviours).await
    }

    async fn start_at(address: SocketAddr, behaviours: &[Behaviour]) -> Self {
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let address = listener.local_addr().expect("it is bound");
        let (sender, hits) = mpsc::unbounded_channel();
        let behaviours = Arc::new(Mutex::new(behaviours.iter().cloned().collect::<VecDeque<_>>()));
        let script = Script {
            behaviours: Arc::clone(&behaviours),
            hits: sender,
        };
        let router = Router::new().fallback(any(receive)).with_state(script);
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self {
            address,
            hits,
            behaviours,
            server,
        }
    }

    fn url(&self) -> String {
        format!("http://{}/inbox", self.address)
    }

    async fn hit(&mut self) -> Hit {
        timeout(DEADLINE, self.hits.recv())
            .await
            .expect("no push came")
            .expect("the receiver serves")
    }

    fn is_quiet(&mut self) -> bool {
        self.hits.try_recv().is_err()
    }
}

async fn receive(State(script): State<Script>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20)
        .await
        .expect("pushes are small here");
    assert_eq!(parts.method, "POST");
    let behaviour = script.behaviours.lock().unwrap().pop_front();
    script
        .hits
        .send(Hit {
            path: parts.uri.path().into(),
            headers: parts.headers,
            body,
        })
        .ok();
    match behaviour.unwrap_or(Behaviour::Answer(204)) {
        Behaviour::Answer(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Behaviour::RedirectTo(url) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, url)]).into_response(),
        Behaviour::Hang => std::future::pending().await,
    }
}

// --- the node ----------------------------------------------------------------------------------------------------

struct Node {
    fabric: Fabric,
    counters: Arc<Counters>,
    shutdown: CancellationToken,
    edge: JoinHandle<()>,
}

fn config() -> webhook::Config {
    webhook::Config {
        secret: Some(SECRET.parse().expect("well-formed")),
        allow_loopback: true,
        idle_ms: 1_000,
        ..Default::default()
    }
}

fn agent(id: &str) -> AgentId {
    AgentId::new(id).expect("well-formed")
}

impl Node {
    async fn start(config: webhook::Config) -> Self {
        let ports = Ports {
            store: Arc::new(MemoryStore::new(7, BYTES_MAX_DEFAULT)),
            policy: Arc::new(AllowAll),
        };
        let router_config = Config {
            workers: 1,
            fsync: false,
            backoff_first_ms: 10,
            backoff_max_ms: 50,
            ..Config::default()
        };
        let fabric = Fabric::start(ports, router_config)
            .await
            .expect("an empty store starts");
        let (counters, shutdown) = (Arc::new(Counters::default()), CancellationToken::new());
        let run = webhook::run(fabric.clone(), config, Arc::clone(&counters), shutdown.clone());
        let edge = tokio::spawn(async move { run.await.expect("the secret is good") });
        Self {
            fabric,
            counters,
            shutdown,
            edge,
        }
    }

    async fn register(&self, id: &str, url: &str) {
        let registration = Registration {
            endpoints: [("http".into(), url.into())].into(),
            ..Registration::default()
        };
        self.fabric
            .register_agent(&Principal::Anyone, agent(id), registration)
            .await
            .expect("it registers");
    }

    async fn send(&self, id: &str, to: &str, body: &'static str) -> TrackingId {
        let mut draft = Draft::new(MessageId::new(id).unwrap(), agent("alice"), Address::agent(&agent(to)));
        draft.content_type = "application/json".into();
        let trace = TraceContext::from_traceparent(TRACEPARENT).expect("well-formed");
        let sent = self
            .fabric
            .send(
                &Principal::Anyone,
                Protocol::Http,
                draft,
                Bytes::from_static(body.as_bytes()),
                trace,
            )
            .await;
        sent.expect("it is accepted").tracking.expect("QoS 1 is tracked")
    }

    async fn status(&self, message: TrackingId) -> Status {
        let query = StatusQuery::Tracking(message);
        self.fabric
            .status(&Principal::Anyone, query)
            .await
            .expect("it is known")
            .status
    }

    async fn until_status(&self, message: TrackingId, wanted: Status) {
        let there = async {
            while self.status(message).await != wanted {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, there)
            .await
            .expect("the message never had that status");
    }

    async fn until_errors(&self, count: u64) {
        let counted = async {
            while self.counters.snapshot().errors < count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, counted)
            .await
            .expect("the failures were never counted");
    }

    async fn attach(&self, id: &str) -> (SessionHandle, SessionReceiver) {
        let attach = Attach {
            agent: agent(id),
            protocol: Protocol::Http,
            inbox: Inbox::Open,
            queue: SessionQueue::Ephemeral,
            window: Window::DEFAULT,
            visibility_timeout: None,
        };
        self.fabric
            .attach(&Principal::Anyone, attach)
            .await
            .expect("it attaches")
    }
}

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

// --- what is pushed ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_message_is_pushed_signed_and_acknowledged_by_the_answer() {
    let mut receiver = Receiver::start(&[]).await;
    let node = Node::start(config()).await;
    node.register("bob", &receiver.url()).await;
    let message = node.send("m1", "bob", r#"{ "n" : 1.50 }"#).await;
    let hit = receiver.hit().await;
    assert_eq!(hit.path, "/inbox");
    assert_eq!(hit.header("content-type"), "application/json");
    assert_eq!(hit.header("webhook-id"), "m1");
    assert!(hit.header("traceparent").contains("4bf92f3577b34da6a3ce929d0e0e4736"));
    assert!(
        String::from_utf8_lossy(&hit.body).contains(r#""body":{ "n" : 1.50 }"#),
        "the sender's bytes"
    );
    assert_eq!(hit.json()["from_agent"], "alice");

    let signed = [hit.header("webhook-id"), ".", hit.header("webhook-timestamp"), "."].concat();
    let signed = [signed.as_bytes(), &hit.body].concat();
    let key = BASE64.decode(SECRET.trim_start_matches("whsec_")).unwrap();
    let given = BASE64
        .decode(hit.header("webhook-signature").trim_start_matches("v1,"))
        .unwrap();
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key), &signed, &given).expect("the signature holds");

    node.until_status(message, Status::Delivered).await;
    assert!(receiver.is_quiet(), "once is enough");
}

#[tokio::test]
async fn messages_of_one_sender_arrive_in_order() {
    const MESSAGES: usize = 100;
    let mut receiver = Receiver::start(&[]).await;
    let node = Node::start(config()).await;
    node.register("bob", &receiver.url()).await;
    for number in 0..MESSAGES {
        node.send(&format!("m{number}"), "bob", "1").await;
    }
    for number in 0..MESSAGES {
        assert_eq!(receiver.hit().await.header("webhook-id"), format!("m{number}"));
    }
}

#[tokio::test]
async fn a_failed_push_is_made_again_until_it_is_taken() {
    let failures = [500, 404, 429, 503].map(Behaviour::Answer);
    let mut receiver = Receiver::start(&failures).await;
    let node = Node::start(config()).await;
    node.register("bob", &receiver.url()).await;
    let message = node.send("m1", "bob", "1").await;
    for attempt in 1..=5 {
        let hit = receiver.hit().await;
        assert_eq!(hit.header("webhook-id"), "m1");
        assert_eq!(hit.json()["delivery_attempt"], attempt);
    }
    node.until_status(message, Status::Delivered).await;
    assert_eq!(node.counters.snapshot().errors, 4);
}

#[tokio::test]
async fn an_endpoint_that_fails_on_is_left_alone_and_gets_everything_once_it_is_well() {
    let failures = vec![Behaviour::Answer(500); 5];
    let mut receiver = Receiver::start(&failures).await;
    let node = Node::start(config()).await;
    node.register("bob", &receiver.url()).await;
    let mut messages = Vec::new();
    for number in 0..10 {
        messages.push(node.send(&format!("m{number}"), "bob", "1").await);
    }
    node.until_errors(5).await;
    for message in messages {
        node.until_status(message, Status::Delivered).await;
    }
    for _ in 0..15 {
        receiver.hit().await;
    }
    assert!(receiver.is_quiet(), "five failures and ten messages");
}

#[tokio::test]
async fn an_endpoint_that_is_down_costs_its_messages_no_attempt() {
    let placeholder = Receiver::start(&[]).await;
    let (address, url) = (placeholder.address, placeholder.url());
    placeholder.server.abort();
    let _ = placeholder.server.await;
    let node = Node::start(config()).await;
    node.register("bob", &url).await;
    let message = node.send("m1", "bob", "1").await;
    node.until_errors(5).await;
    assert_ne!(node.status(message).await, Status::DeadLettered);
    let mut receiver = Receiver::start_at(address, &[]).await;
    assert_eq!(receiver.hit().await.json()["delivery_attempt"], 1);
    node.until_status(message, Status::Delivered).await;
}

#[tokio::test]
async fn a_slow_endpoint_is_not_waited_for() {
    let mut receiver = Receiver::start(&[Behaviour::Hang]).await;
    let config = webhook::Config {
        timeout_ms: 300,
        ..config()
    };
    let node = Node::start(config).await;
    node.register("bob", &receiver.url()).await;
    let message = node.send("m1", "bob", "1").await;
    assert_eq!(receiver.hit().await.json()["delivery_attempt"], 1);
    assert_eq!(receiver.hit().await.json()["delivery_attempt"], 2);
    node.until_status(message, Status::Delivered).await;
}

#[tokio::test]
async fn a_slow_endpoint_holds_up_no_other_agent() {
    let stuck = Receiver::start(&vec![Behaviour::Hang; 100]).await;
    let mut receiver = Receiver::start(&[]).await;
    let node = Node::start(config()).await;
    node.register("stuck", &stuck.url()).await;
    node.register("bob", &receiver.url()).await;
    node.send("m1", "stuck", "1").await;
    node.send("m2", "bob", "1").await;
    assert_eq!(receiver.hit().await.header("webhook-id"), "m2");
    assert!(!stuck.behaviours.lock().unwrap().is_empty());
}

// --- what is not -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let mut target = Receiver::start(&[]).await;
    let mut receiver = Receiver::start(&[Behaviour::RedirectTo(target.url())]).await;
    let node = Node::start(config()).await;
    node.register("bob", &receiver.url()).await;
    let message = node.send("m1", "bob", "1").await;
    assert_eq!(receiver.hit().await.json()["delivery_attempt"], 1);
    assert_eq!(receiver.hit().await.json()["delivery_attempt"], 2);
    node.until_status(message, Status::Delivered).await;
    assert!(target.is_quiet(), "the redirect's target must not be called");
}

#[tokio::test]
async fn an_address_that_is_not_public_is_not_called_and_the_mailbox_keeps_the_message() {
    let mut receiver = Receiver::start(&[]).await;
    let config = webhook::Config {
        allow_loopback: false,
        ..config()
    };
    let node = Node::start(config).await;
    let port = receiver.address.port();
    let mut messages = Vec::new();
    for (name, host) in [
        ("ip", "127.0.0.1"),
        ("name", "localhost"),
        ("short", "127.1"),
        ("mapped", "[::ffff:127.0.0.1]"),
    ] {
        node.register(name, &format!("http://{host}:{port}/inbox")).await;
        messages.push(node.send("m1", name, "1").await);
    }
    node.until_errors(20).await;
    for message in messages {
        assert!(matches!(node.status(message).await, Status::Queued | Status::Sent));
    }
    assert!(receiver.is_quiet());
}

#[tokio::test]
async fn a_listed_network_is_called_though_it_is_not_public() {
    let mut receiver = Receiver::start(&[]).await;
    let config = webhook::Config {
        allow_loopback: false,
        allowed_networks: vec!["127.0.0.0/8".parse().unwrap()],
        ..config()
    };
    let node = Node::start(config).await;
    node.register("bob", &receiver.url()).await;
    node.send("m1", "bob", "1").await;
    receiver.hit().await;
}

#[tokio::test]
async fn an_agent_that_is_here_itself_gets_no_pushes() {
    let mut receiver = Receiver::start(&[]).await;
    let node = Node::start(config()).await;
    node.register("bob", &receiver.url()).await;
    let (handle, mut session) = node.attach("bob").await;
    node.send("m1", "bob", "1").await;
    let mut deliveries = Vec::new();
    timeout(DEADLINE, session.next(&mut deliveries, 10))
        .await
        .expect("the session gets it");
    handle.ack(&[deliveries[0].id.expect("QoS 1")]).await;
    assert!(receiver.is_quiet());
    drop(session);
    node.send("m2", "bob", "1").await;
    assert_eq!(receiver.hit().await.header("webhook-id"), "m2", "the session is gone");
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_called_again_only_after_a_registration() {
    let mut receiver = Receiver::start(&[Behaviour::Answer(410)]).await;
    let node = Node::start(config()).await;
    node.register("bob", &receiver.url()).await;
    let first = node.send("m1", "bob", "1").await;
    receiver.hit().await;
    let detached = async {
        while !node.fabric.connections(&Principal::Anyone).unwrap().is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, detached)
        .await
        .expect("the edge must let go of the agent");
    node.send("m2", "bob", "1").await;
    // Another agent's push shows that the dispatcher has passed bob's message.
    node.register("carol", &receiver.url()).await;
    node.send("m3", "carol", "1").await;
    assert_eq!(receiver.hit().await.header("webhook-id"), "m3");
    assert!(matches!(node.status(first).await, Status::Queued | Status::Sent));
    node.register("bob", &receiver.url()).await;
    node.send("m4", "bob", "1").await;
    node.until_status(first, Status::Delivered).await;
}

#[tokio::test]
async fn shutting_down_settles_what_is_on_its_way() {
    let mut receiver = Receiver::start(&[]).await;
    let node = Node::start(config()).await;
    node.register("bob", &receiver.url()).await;
    let message = node.send("m1", "bob", "1").await;
    receiver.hit().await;
    node.shutdown.cancel();
    timeout(DEADLINE, node.edge)
        .await
        .expect("it must end")
        .expect("without a panic");
    let query = StatusQuery::Tracking(message);
    let delivered = async {
        while node
            .fabric
            .status(&Principal::Anyone, query.clone())
            .await
            .unwrap()
            .status
            != Status::Delivered
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, delivered).await.expect("the answer was 204");
}

#[tokio::test]
async fn a_secret_that_cannot_be_used_is_said_at_once() {
    let ports = Ports {
        store: Arc::new(MemoryStore::new(7, BYTES_MAX_DEFAULT)),
        policy: Arc::new(AllowAll),
    };
    let fabric = Fabric::start(ports, Config::default())
        .await
        .expect("an empty store starts");
    let config = webhook::Config {
        secret_file: Some(PathBuf::from("/nowhere/webhook.secret")),
        ..Default::default()
    };
    let error = webhook::run(fabric, config, Arc::default(), CancellationToken::new()).await;
    assert!(
        error
            .expect_err("there is no such folder")
            .to_string()
            .contains("/nowhere/webhook.secret")
    );
}
