//! Who is proven to be one agent neither reads, nor settles, nor sends as another, on any edge: HTTP, WebSocket and gRPC of one
//! fabric, with an authenticator that takes the agent's id out of a header, and a policy that lets agents send and nothing else.

#![cfg(feature = "server")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::http::{HeaderMap, Request, header, request::Parts};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Error as WebSocketError, Message, client::IntoClientRequest},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};
use weft::{
    edge::{
        auth::Authenticator,
        counters::Counters,
        grpc::{self, Door},
        http::{self, Mount, ProtocolView, Protocols, Services},
        origin::Origins,
        websocket,
    },
    frame::AgentId,
    router::{
        Fabric,
        config::Config,
        error::FabricError,
        port::{Action, Decision, Policy, Ports},
        surface::{Principal, Protocol},
    },
    rpc::v1::{self, messaging_client::MessagingClient, registry_client::RegistryClient},
    store::memory::MemoryStore,
};

const PATIENCE: Duration = Duration::from_secs(30);
/// Takes the place of credentials.
const PROOF: &str = "x-agent";

#[derive(Debug)]
struct ByHeader;

impl Authenticator for ByHeader {
    fn principal(&self, parts: &Parts) -> Result<Principal, FabricError> {
        let name = parts.headers.get(PROOF).and_then(|value| value.to_str().ok());
        let name = name.expect("every request of these tests says who sends it");
        Ok(Principal::Agent(AgentId::new(name).unwrap()))
    }
}

/// Nobody may look at what is another's; what is one's own is never asked for.
#[derive(Debug)]
struct SendOnly;

impl Policy for SendOnly {
    fn decide(&self, _agent: &str, action: Action<'_>) -> Decision {
        match action {
            Action::Inspect => Decision::Deny,
            _ => Decision::Allow,
        }
    }
}

#[derive(Debug)]
struct NoneShown;

impl Protocols for NoneShown {
    fn list(&self) -> Vec<ProtocolView> {
        Vec::new()
    }
}

/// A fabric behind all of its edges.
struct Node {
    http: SocketAddr,
    grpc: SocketAddr,
}

impl Node {
    async fn start() -> Self {
        let ports = Ports {
            store: Arc::new(MemoryStore::new(7, 1 << 30)),
            policy: Arc::new(SendOnly),
        };
        let config = Config {
            workers: 2,
            ..Config::default()
        };
        let fabric = Fabric::start(ports, config).await.unwrap();
        Self {
            http: serve_http(&fabric).await,
            grpc: serve_grpc(&fabric).await,
        }
    }

    /// A request in an agent's name: its status and, where it has one, its document.
    async fn ask(&self, agent: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.http))
            .header(PROOF, agent)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        let answer = within(client.request(request)).await.unwrap();
        let status = answer.status().as_u16();
        let body = within(answer.into_body().collect()).await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.grpc)).unwrap();
        within(endpoint.connect()).await.unwrap()
    }

    /// Alice sends to Bob, and Bob polls it: the delivery id is his.
    async fn delivered_to_bob(&self) -> String {
        let sent = self.ask(
            "alice",
            "POST",
            "/messages/send",
            json!({"to_agent": "bob", "body": "for bob"}),
        );
        assert_eq!(sent.await.0, 202);
        let (status, polled) = self
            .ask("bob", "GET", "/agents/bob/messages?wait=20s", Value::Null)
            .await;
        assert_eq!(
            (status, &polled["messages"][0]["from_agent"]),
            (200, &json!("alice")),
            "{polled}"
        );
        polled["messages"][0]["delivery_id"].as_str().unwrap().into()
    }

    /// Bob settles what was his all the time.
    async fn assert_still_bobs(&self, delivery_id: &str) {
        let ack = json!({"delivery_ids": [delivery_id]});
        let (_, settled) = self.ask("bob", "POST", "/agents/bob/messages/ack", ack).await;
        assert_eq!(settled["results"][0]["status"], "acknowledged", "{settled}");
        let (_, polled) = self
            .ask("bob", "GET", "/agents/bob/messages?wait=100ms", Value::Null)
            .await;
        assert_eq!(polled, json!({"messages": []}), "nothing was sent in another's name");
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("it took far too long")
}

async fn serve_http(fabric: &Fabric) -> SocketAddr {
    let counters: Arc<Counters> = Arc::default();
    let websockets = websocket::router(
        fabric.clone(),
        websocket::Config::default(),
        Arc::new(ByHeader),
        Arc::new(Origins::default()),
        Arc::clone(&counters),
    );
    let services = Services {
        fabric: fabric.clone(),
        authenticator: Arc::new(ByHeader),
        protocols: Arc::new(NoneShown),
        metrics: Arc::new(String::new),
        counters: Arc::clone(&counters),
    };
    let mount = Mount {
        routes: websockets.with_state(()),
        ..Mount::default()
    };
    let router = http::router(services, http::Config::default(), vec![mount]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let until = std::future::pending();
    tokio::spawn(http::serve(
        listener,
        router,
        http::Config::default(),
        counters,
        until,
        PATIENCE,
    ));
    address
}

async fn serve_grpc(fabric: &Fabric) -> SocketAddr {
    let door = Door {
        fabric: fabric.clone(),
        authenticator: Arc::new(ByHeader),
        counters: Arc::default(),
        protocols: Arc::from([Protocol::Grpc]),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    tokio::spawn(grpc::serve(listener, door, grpc::Config::default(), shutdown, PATIENCE));
    address
}

#[tokio::test]
async fn nobody_acts_as_another_over_http() {
    let node = Node::start().await;
    let delivery_id = node.delivered_to_bob().await;
    let ids = json!({"delivery_ids": [&delivery_id]});
    let forged = json!({"from_agent": "bob", "to_agent": "bob", "body": "forged"});
    let team = json!({"group_id": "team", "created_by": "bob"});
    for (method, path, body) in [
        ("GET", "/agents/bob/messages", Value::Null),
        ("GET", "/agents/bob/messages/stream", Value::Null),
        ("POST", "/agents/bob/messages/ack", ids.clone()),
        ("POST", "/agents/bob/messages/nack", ids),
        ("GET", "/agents/bob/subscriptions", Value::Null),
        ("PUT", "/agents/bob/subscriptions", json!({"topics": ["a"]})),
        ("DELETE", "/agents/bob/subscriptions", Value::Null),
        ("GET", "/agents/bob/dead-letters", Value::Null),
        ("POST", "/agents/bob/dead-letters/m/replay", Value::Null),
        ("POST", "/agents/bob/heartbeat", Value::Null),
        ("DELETE", "/agents/bob", Value::Null),
        ("POST", "/agents/register", json!({"agent_id": "bob"})),
        ("POST", "/messages/send", forged.clone()),
        ("POST", "/messages/request", forged.clone()),
        ("GET", "/messages/m/status?from_agent=alice", Value::Null),
    ] {
        let (status, problem) = node.ask("mallory", method, path, body).await;
        assert_eq!(status, 403, "{method} {path}: {problem}");
        assert!(
            ["WEFT-1100", "WEFT-1101"].contains(&problem["code"].as_str().unwrap()),
            "{method} {path}: {problem}"
        );
    }
    let batch = json!({"messages": [forged, {"to_agent": "carol", "body": "in her own name"}]});
    let (_, answer) = node.ask("mallory", "POST", "/messages/send/batch", batch).await;
    assert_eq!(answer["results"][0]["status"], 403, "{answer}");
    assert_eq!(answer["results"][1]["status"], "queued", "{answer}");
    // A group's creator is who proved to be it, whatever the request says.
    let (status, created) = node.ask("mallory", "POST", "/groups/create", team).await;
    assert_eq!((status, &created["created_by"]), (201, &json!("mallory")), "{created}");
    let (_, seen) = node
        .ask("mallory", "GET", "/debug/messages?agent=bob", Value::Null)
        .await;
    let seen = seen["messages"].as_array().unwrap();
    assert!(seen.iter().all(|one| one["from_agent"] == "mallory"), "{seen:?}");
    let (_, open) = node.ask("mallory", "GET", "/agents/connections", Value::Null).await;
    assert_eq!(open["connections"], json!([]), "only one's own are shown");
    node.assert_still_bobs(&delivery_id).await;
}

#[tokio::test]
async fn nobody_acts_as_another_over_websocket() {
    let node = Node::start().await;
    let delivery_id = node.delivered_to_bob().await;
    let connect = async |agent: &str| {
        let url = format!("ws://{}/ws?agent_id={agent}", node.http);
        let mut request = url.into_client_request().unwrap();
        let headers: &mut HeaderMap = request.headers_mut();
        headers.insert(PROOF, "mallory".parse().unwrap());
        headers.insert("sec-websocket-protocol", websocket::SUBPROTOCOL.parse().unwrap());
        within(connect_async(request)).await
    };
    match connect("bob").await {
        Err(WebSocketError::Http(refused)) => assert_eq!(refused.status(), 403),
        other => panic!("{other:?}"),
    }
    let (mut mallory, _) = connect("mallory").await.unwrap();
    let mut ask = async |operation: Value| {
        mallory.send(Message::text(operation.to_string())).await.unwrap();
        loop {
            let text = within(mallory.next()).await.unwrap().unwrap().into_text().unwrap();
            let event: Value = serde_json::from_str(&text).unwrap_or_default();
            if event["ref"] == operation["ref"] {
                return event;
            }
        }
    };
    let forged = json!({"op": "send", "ref": "1", "from_agent": "bob", "to_agent": "bob", "body": "forged"});
    let error = ask(forged).await;
    assert_eq!(
        (&error["op"], &error["status"]),
        (&json!("error"), &json!(403)),
        "{error}"
    );
    for op in ["ack", "nack"] {
        let settled = ask(json!({"op": op, "ref": op, "delivery_ids": [&delivery_id]})).await;
        assert_eq!(settled["results"][0]["status"], "stale", "{settled}");
    }
    node.assert_still_bobs(&delivery_id).await;
}

/// A call in Mallory's name.
fn as_mallory<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert(PROOF, "mallory".parse().unwrap());
    request
}

/// The code of a call that must be refused.
async fn refused<T: std::fmt::Debug>(call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Code {
    within(call).await.expect_err("it is another's").code()
}

#[tokio::test]
async fn nobody_acts_as_another_over_grpc() {
    let node = Node::start().await;
    let delivery_id = node.delivered_to_bob().await;
    let mut messaging = MessagingClient::new(node.channel().await);
    let bob = || String::from("bob");
    let forged = || {
        Some(v1::Message {
            from: bob(),
            to: "agent:bob".into(),
            ..Default::default()
        })
    };
    let receive = v1::ReceiveRequest {
        agent: bob(),
        ..Default::default()
    };
    let ack = v1::AckRequest {
        agent: bob(),
        ids: vec![v1::DeliveryId::default()],
    };
    let nack = v1::NackRequest {
        agent: bob(),
        ids: vec![v1::DeliveryId::default()],
        ..Default::default()
    };
    let ask = v1::RequestRequest {
        message: forged(),
        timeout_ms: 100,
    };
    let dead = v1::ListDeadLettersRequest {
        address: "agent:bob".into(),
        ..Default::default()
    };
    let replay = v1::ReplayDeadLetterRequest {
        address: "agent:bob".into(),
        message_id: "m".into(),
    };
    let send = v1::SendRequest { message: forged() };
    let codes = [
        refused(messaging.clone().send(as_mallory(send))).await,
        refused(messaging.clone().receive(as_mallory(receive))).await,
        refused(messaging.clone().ack(as_mallory(ack))).await,
        refused(messaging.clone().nack(as_mallory(nack))).await,
        refused(messaging.clone().request(as_mallory(ask))).await,
        refused(messaging.clone().list_dead_letters(as_mallory(dead))).await,
        refused(messaging.clone().replay_dead_letter(as_mallory(replay))).await,
    ];
    assert_eq!(codes, [Code::PermissionDenied; 7]);

    let mut registry = RegistryClient::new(node.channel().await);
    let register = v1::RegisterAgentRequest {
        agent_id: bob(),
        ..Default::default()
    };
    let subscribe = v1::SetSubscriptionsRequest {
        agent_id: bob(),
        filters: vec!["a".into()],
        ..Default::default()
    };
    let codes = [
        refused(registry.register_agent(as_mallory(register))).await,
        refused(registry.remove_agent(as_mallory(v1::RemoveAgentRequest { agent_id: bob() }))).await,
        refused(registry.heartbeat(as_mallory(v1::HeartbeatRequest { agent_id: bob() }))).await,
        refused(registry.set_subscriptions(as_mallory(subscribe))).await,
    ];
    assert_eq!(codes, [Code::PermissionDenied; 4]);

    let attach = v1::client_frame::Frame::Attach(v1::Attach {
        agent: bob(),
        ..Default::default()
    });
    let frames = [v1::ClientFrame { frame: Some(attach) }];
    let outbound = StreamExt::chain(futures_util::stream::iter(frames), futures_util::stream::pending());
    let mut inbound = within(messaging.session(as_mallory(outbound)))
        .await
        .unwrap()
        .into_inner();
    let end = within(inbound.message()).await.expect_err("the session is another's");
    assert_eq!(end.code(), Code::PermissionDenied);
    node.assert_still_bobs(&delivery_id).await;
}

/// An agent has one queue of topic subscriptions for all its polls: made over HTTP they bring their messages to gRPC, and back.
#[tokio::test]
async fn subscriptions_made_over_one_protocol_come_with_the_polls_of_the_other() {
    let node = Node::start().await;
    let mut messaging = MessagingClient::new(node.channel().await);
    let mut receive = async |expected: usize| {
        let mut request = tonic::Request::new(v1::ReceiveRequest {
            agent: "bob".into(),
            wait_ms: if expected == 0 { 100 } else { 20_000 },
            ack_mode: v1::AckMode::Auto.into(),
            ..Default::default()
        });
        request.metadata_mut().insert(PROOF, "bob".parse().unwrap());
        let received = within(messaging.receive(request))
            .await
            .unwrap()
            .into_inner()
            .deliveries;
        assert_eq!(received.len(), expected);
    };
    let publish = || {
        node.ask(
            "alice",
            "POST",
            "/messages/send",
            json!({"to_topic": "news/1", "body": 1}),
        )
    };
    let poll = || node.ask("bob", "GET", "/agents/bob/messages?wait=20s&ack=auto", Value::Null);
    // Both have a session that knows of no subscription yet.
    receive(0).await;
    node.ask("bob", "GET", "/agents/bob/messages", Value::Null).await;
    let put = node.ask("bob", "PUT", "/agents/bob/subscriptions", json!({"topics": ["news/+"]}));
    assert_eq!(put.await.0, 200);
    for _ in 0..2 {
        assert_eq!(publish().await.0, 202);
        receive(1).await;
        assert_eq!(publish().await.0, 202);
        let (_, polled) = poll().await;
        assert_eq!(polled["messages"][0]["to"], "topic:news/1", "{polled}");
    }
}
