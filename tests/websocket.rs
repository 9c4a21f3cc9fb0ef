//! The WebSocket edge on a running router: with a real client, and by raw bytes where no real client would misbehave.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest, protocol::frame::coding::CloseCode},
};
use weft::{
    edge::{
        auth::DevelopmentMode,
        counters::Counters,
        origin::Origins,
        websocket::{self, SUBPROTOCOL},
    },
    frame::{Address, AgentId},
    router::{
        Fabric,
        config::Config,
        port::{AllowAll, Ports},
        surface::Principal,
    },
    store::memory::{BYTES_MAX_DEFAULT, MemoryStore},
};

/// Nothing here takes this long unless it hangs.
const DEADLINE: Duration = Duration::from_secs(30);

// --- the node and its clients ------------------------------------------------------------------------------------

struct Node {
    fabric: Fabric,
    address: SocketAddr,
    counters: Arc<Counters>,
}

impl Node {
    async fn start() -> Self {
        Self::with(websocket::Config::default()).await
    }

    async fn with(config: websocket::Config) -> Self {
        let ports = Ports {
            store: Arc::new(MemoryStore::new(7, BYTES_MAX_DEFAULT)),
            policy: Arc::new(AllowAll),
        };
        let router_config = Config {
            workers: 1,
            fsync: false,
            backoff_first_ms: 10,
            ..Config::default()
        };
        let fabric = Fabric::start(ports, router_config)
            .await
            .expect("an empty store starts");
        let counters = Arc::new(Counters::default());
        let origins = Origins::new(&["https://console.example".into()]).expect("well-formed");
        let router = websocket::router(
            fabric.clone(),
            config,
            Arc::new(DevelopmentMode),
            Arc::new(origins),
            Arc::clone(&counters),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            fabric,
            address,
            counters,
        }
    }

    /// Connects and reads the welcome.
    async fn client(&self, agent: &str) -> Client {
        let mut client = self.unwelcomed(agent).await;
        assert_eq!(client.hear().await["op"], "welcome");
        client
    }

    async fn unwelcomed(&self, agent: &str) -> Client {
        let url = format!("ws://{}/ws?agent_id={agent}", self.address);
        let mut request = url.into_client_request().expect("a URL");
        request
            .headers_mut()
            .insert("sec-websocket-protocol", SUBPROTOCOL.parse().expect("a header"));
        let (stream, response) = connect_async(request).await.expect("the node upgrades");
        assert_eq!(response.headers()["sec-websocket-protocol"], SUBPROTOCOL);
        Client(stream)
    }

    /// Upgrades by hand and leaves the frames to the caller; the welcome is not read yet.
    async fn raw(&self, agent: &str, more_headers: &str) -> Raw {
        let mut stream = TcpStream::connect(self.address).await.expect("the node listens");
        let head = format!("GET /ws?agent_id={agent} HTTP/1.1\r\n{UPGRADE}{more_headers}\r\n");
        stream.write_all(head.as_bytes()).await.expect("the node reads");
        let mut raw = Raw {
            stream,
            head: String::new(),
        };
        while !raw.head.ends_with("\r\n\r\n") {
            raw.head
                .push(char::from(raw.stream.read_u8().await.expect("the answer's head")));
        }
        assert!(raw.head.starts_with("HTTP/1.1 101"), "{}", raw.head);
        raw
    }

    /// The status, head and body of a request that is no upgrade or is refused.
    async fn refused(&self, target: &str, headers: &str) -> (u16, String, Value) {
        let mut stream = TcpStream::connect(self.address).await.expect("the node listens");
        let head = format!("GET {target} HTTP/1.1\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.expect("the node reads");
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push(char::from(stream.read_u8().await.expect("the answer's head")));
        }
        let head = head.to_lowercase();
        let length = head.split_once("content-length: ").expect("a body").1;
        let mut body = vec![
            0;
            length
                .lines()
                .next()
                .and_then(|line| line.parse().ok())
                .expect("a length")
        ];
        stream.read_exact(&mut body).await.expect("the answer's body");
        let status = head[9..12].parse().expect("a status");
        (status, head, serde_json::from_slice(&body).expect("a document"))
    }

    async fn until_connections(&self, count: u64) {
        let all_there = async {
            while self.counters.snapshot().connections != count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, all_there)
            .await
            .expect("the connections never came to that number");
    }

    async fn until_sessions(&self, count: usize) {
        let all_there = async {
            while self
                .fabric
                .connections(&Principal::Anyone)
                .expect("anyone may look")
                .len()
                != count
            {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, all_there)
            .await
            .expect("the sessions never came to that number");
    }
}

/// The upgrade's headers that every good request has.
const UPGRADE: &str = "Host: node.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn say(&mut self, operation: Value) {
        self.say_text(&operation.to_string()).await;
    }

    async fn say_text(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.expect("the node reads");
    }

    /// The next event.
    async fn hear(&mut self) -> Value {
        match self.next().await {
            Message::Text(text) => serde_json::from_str(&text).expect("events are JSON"),
            other => panic!("not an event: {other:?}"),
        }
    }

    async fn next(&mut self) -> Message {
        loop {
            let next = timeout(DEADLINE, self.0.next()).await.expect("nothing came");
            match next.expect("the connection ended").expect("the connection broke") {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    /// Reads a goodbye and the close frame behind it.
    async fn hear_goodbye(&mut self) -> (Value, CloseCode) {
        let goodbye = self.hear().await;
        assert_eq!(goodbye["op"], "goodbye", "{goodbye}");
        match self.next().await {
            Message::Close(Some(close)) => (goodbye, close.code),
            other => panic!("not a close frame: {other:?}"),
        }
    }

    async fn ask(&mut self, operation: Value) -> Value {
        self.say(operation).await;
        self.hear().await
    }
}

/// A connection whose frames the test writes itself.
struct Raw {
    stream: TcpStream,
    head: String,
}

impl Raw {
    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the node reads");
    }

    /// The next frame's first byte and payload.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        timeout(DEADLINE, self.read_frame()).await.expect("nothing came")
    }

    async fn read_frame(&mut self) -> (u8, Vec<u8>) {
        let first = self.stream.read_u8().await.expect("a frame");
        let length = match self.stream.read_u8().await.expect("a length") {
            126 => usize::from(self.stream.read_u16().await.expect("a length")),
            127 => usize::try_from(self.stream.read_u64().await.expect("a length")).expect("a frame that fits"),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await.expect("the payload");
        (first, payload)
    }

    async fn event(&mut self) -> Value {
        let (first, payload) = self.frame().await;
        assert_eq!(first, 0x81, "an event");
        serde_json::from_slice(&payload).expect("events are JSON")
    }

    /// Reads on until the goodbye and the close frame, whose code it returns, and the end of the stream behind it.
    async fn end(&mut self) -> (Value, u16) {
        let mut goodbye = Value::Null;
        loop {
            match self.frame().await {
                (0x81, payload) => goodbye = serde_json::from_slice(&payload).expect("events are JSON"),
                (0x88, payload) => {
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    let rest = timeout(DEADLINE, self.stream.read_u8())
                        .await
                        .expect("the node must close");
                    assert!(rest.is_err(), "nothing may follow a close frame");
                    return (goodbye, code);
                }
                (_, _) => {}
            }
        }
    }
}

/// A client's frame, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | short as u8),
        medium @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((medium as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

// --- what a session does -----------------------------------------------------------------------------------------

#[tokio::test]
async fn the_welcome_says_who_and_where_one_is_and_what_one_may_do() {
    let node = Node::start().await;
    let welcome = node.unwelcomed("acme%2Falice").await.hear().await;
    assert_eq!(welcome["op"], "welcome");
    assert_eq!(welcome["agent_id"], "acme/alice");
    assert_eq!(welcome["node"], "node_1");
    assert_eq!(welcome["heartbeat_interval"], 30.0);
    assert_eq!(welcome["credit"], 256);
    assert_eq!(welcome["limits"]["max_message_size"], 1024 * 1024);
    assert!(
        welcome["reply_address"]
            .as_str()
            .unwrap()
            .starts_with("agent:acme/alice#")
    );
}

#[tokio::test]
async fn a_message_goes_from_one_session_to_another_and_is_acknowledged_once() {
    let node = Node::start().await;
    let (mut alice, mut bob) = (node.client("alice").await, node.client("bob").await);
    alice
        .say_text(r#"{"op":"send","ref":"r1","message_id":"m1","to_agent":"bob","body":{ "n" : 1.50 }}"#)
        .await;
    let receipt = alice.hear().await;
    assert_eq!(
        (&receipt["op"], &receipt["ref"], &receipt["message_id"]),
        (&json!("receipt"), &json!("r1"), &json!("m1"))
    );
    assert_eq!(receipt["duplicate"], false);
    let Message::Text(text) = bob.next().await else {
        panic!("not text")
    };
    assert!(
        text.contains(r#""body":{ "n" : 1.50 }"#),
        "the body must be the sender's bytes: {text}"
    );
    let message: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&message["op"], &message["from_agent"]),
        (&json!("message"), &json!("alice"))
    );

    let ack = json!({"op": "ack", "ref": "a1", "delivery_ids": [message["delivery_id"]]});
    let acked = bob.ask(ack.clone()).await;
    assert_eq!(acked["ref"], "a1");
    assert_eq!(acked["results"][0]["status"], "acknowledged");
    assert_eq!(bob.ask(ack).await["results"][0]["status"], "stale");
    let again = json!({"op": "send", "ref": "r2", "message_id": "m1", "to_agent": "bob", "body": 1});
    assert_eq!(alice.ask(again).await["duplicate"], true);
}

#[tokio::test]
async fn pipelined_sends_keep_their_order_and_each_is_answered() {
    const SENDS: usize = 2_000;
    let node = Node::start().await;
    let (mut alice, mut bob) = (node.client("alice").await, node.client("bob").await);
    let sending = async {
        let mut answered = vec![false; SENDS];
        for number in 0..SENDS {
            let operation = json!({"op": "send", "ref": number.to_string(), "to_agent": "bob", "body": number});
            alice.0.feed(Message::text(operation.to_string())).await.unwrap();
        }
        alice.0.flush().await.unwrap();
        for _ in 0..SENDS {
            let receipt = alice.hear().await;
            assert_eq!(receipt["op"], "receipt", "{receipt}");
            let number: usize = receipt["ref"].as_str().unwrap().parse().unwrap();
            assert!(!std::mem::replace(&mut answered[number], true), "answered twice");
        }
    };
    let receiving = async {
        for number in 0..SENDS {
            let message = bob.hear().await;
            assert_eq!(message["body"], number);
            bob.say(json!({"op": "ack", "delivery_ids": [message["delivery_id"]]}))
                .await;
        }
    };
    tokio::join!(sending, receiving);
}

#[tokio::test]
async fn qos_0_is_answered_under_its_ref_and_not_without_one() {
    let node = Node::start().await;
    let (mut alice, mut bob) = (node.client("alice").await, node.client("bob").await);
    alice
        .say(json!({"op": "send", "to_agent": "bob", "qos": 0, "body": 1}))
        .await;
    let receipt = alice
        .ask(json!({"op": "send", "ref": "2", "to_agent": "bob", "qos": 0, "body": 2}))
        .await;
    assert_eq!((&receipt["ref"], &receipt["tracking_id"]), (&json!("2"), &Value::Null));
    for body in [1, 2] {
        let message = bob.hear().await;
        assert_eq!(
            (&message["body"], &message["delivery_id"]),
            (&json!(body), &Value::Null)
        );
    }
}

#[tokio::test]
async fn a_wrong_operation_is_an_error_under_its_ref_and_the_session_goes_on() {
    let node = Node::start().await;
    let mut alice = node.client("alice").await;
    for (text, reference, code) in [
        ("nonsense", Value::Null, "WEFT-2000"),
        (r#"{"op":"fly","ref":"1"}"#, json!("1"), "WEFT-1000"),
        (
            r#"{"op":"send","ref":"2","to_agent":"bob","body":1,"colour":"blue"}"#,
            json!("2"),
            "WEFT-1000",
        ),
        (r#"{"op":"send","ref":"3","body":1}"#, json!("3"), "WEFT-1000"),
        (
            r#"{"op":"ack","ref":"4","delivery_ids":["x"]}"#,
            json!("4"),
            "WEFT-1000",
        ),
    ] {
        alice.say_text(text).await;
        let error = alice.hear().await;
        assert_eq!(
            (&error["op"], &error["code"]),
            (&json!("error"), &json!(code)),
            "{error}"
        );
        assert_eq!(error.get("ref").unwrap_or(&Value::Null), &reference, "{error}");
    }
    let receipt = alice
        .ask(json!({"op": "send", "ref": "5", "to_agent": "bob", "body": 1}))
        .await;
    assert_eq!(receipt["op"], "receipt");
}

#[tokio::test]
async fn a_session_sends_in_its_own_name_only() {
    let node = Node::start().await;
    let (mut alice, mut bob) = (node.client("alice").await, node.client("bob").await);
    let error = alice
        .ask(json!({"op": "send", "ref": "1", "message_id": "forged", "from_agent": "carol", "to_agent": "bob", "body": 1}))
        .await;
    assert_eq!(
        (&error["op"], &error["status"]),
        (&json!("error"), &json!(403)),
        "{error}"
    );
    assert_eq!(error["message_id"], "forged");
    alice
        .ask(json!({"op": "send", "ref": "2", "from_agent": "alice", "to_agent": "bob", "body": 2}))
        .await;
    assert_eq!(bob.hear().await["body"], 2, "the forged one must not arrive");
}

#[tokio::test]
async fn topics_arrive_between_subscribing_and_unsubscribing() {
    let node = Node::start().await;
    let (mut alice, mut bob) = (node.client("alice").await, node.client("bob").await);
    assert_eq!(
        bob.ask(json!({"op": "subscribe", "ref": "s", "topics": ["a/+"]})).await,
        json!({"op": "receipt", "ref": "s"})
    );
    alice
        .ask(json!({"op": "send", "ref": "1", "to_topic": "a/b", "body": 1}))
        .await;
    let message = bob.hear().await;
    assert_eq!((&message["to"], &message["body"]), (&json!("topic:a/b"), &json!(1)));
    assert_eq!(
        bob.ask(json!({"op": "unsubscribe", "ref": "u", "topics": ["a/+"]}))
            .await["ref"],
        "u"
    );
    alice
        .ask(json!({"op": "send", "ref": "2", "to_topic": "a/b", "body": 2}))
        .await;
    alice
        .ask(json!({"op": "send", "ref": "3", "to_agent": "bob", "body": 3}))
        .await;
    assert_eq!(bob.hear().await["body"], 3);
}

#[tokio::test]
async fn credit_holds_messages_back_and_lets_them_go() {
    let node = Node::start().await;
    let (mut alice, mut bob) = (node.client("alice").await, node.client("bob").await);
    assert_eq!(
        bob.ask(json!({"op": "credit", "ref": "c", "messages": 0})).await["ref"],
        "c"
    );
    let receipt = alice
        .ask(json!({"op": "send", "ref": "1", "to_agent": "bob", "body": 1}))
        .await;
    assert_eq!(receipt["status"], "queued");
    bob.say(json!({"op": "credit", "ref": "d", "messages": 1})).await;
    let heard = [bob.hear().await, bob.hear().await];
    assert!(
        heard.iter().any(|event| event["op"] == "message" && event["body"] == 1),
        "{heard:?}"
    );
}

#[tokio::test]
async fn a_refused_message_comes_again_or_becomes_a_dead_letter() {
    let node = Node::start().await;
    let (mut alice, mut bob) = (node.client("alice").await, node.client("bob").await);
    alice
        .ask(json!({"op": "send", "ref": "1", "message_id": "m", "to_agent": "bob", "body": 1}))
        .await;
    let first = bob.hear().await;
    assert_eq!(first["redelivered"], false);
    bob.say(json!({"op": "nack", "delivery_ids": [first["delivery_id"]], "retry_after": 0}))
        .await;
    let second = bob.hear().await;
    assert_eq!(
        (&second["message_id"], &second["redelivered"]),
        (&json!("m"), &json!(true))
    );
    let refused = bob
        .ask(json!({"op": "nack", "ref": "n", "delivery_ids": [second["delivery_id"]], "dead_letter": true}))
        .await;
    assert_eq!(refused["results"][0]["status"], "refused");
    let bobs = Address::agent(&AgentId::new("bob").unwrap());
    let dead = node
        .fabric
        .dead_letters(&Principal::Anyone, &bobs, None, 10)
        .await
        .unwrap();
    assert_eq!(dead.len(), 1);
}

#[tokio::test]
async fn what_a_session_did_not_acknowledge_goes_to_the_next_one() {
    let node = Node::start().await;
    let (mut alice, mut bob) = (node.client("alice").await, node.client("bob").await);
    alice
        .ask(json!({"op": "send", "ref": "1", "message_id": "m", "to_agent": "bob", "body": 1}))
        .await;
    assert_eq!(bob.hear().await["message_id"], "m");
    bob.0.close(None).await.unwrap();
    node.until_sessions(1).await;
    assert_eq!(node.client("bob").await.hear().await["message_id"], "m");
}

#[tokio::test]
async fn acknowledgements_that_came_right_before_the_close_count() {
    let node = Node::start().await;
    let (mut alice, mut bob) = (node.client("alice").await, node.client("bob").await);
    alice
        .ask(json!({"op": "send", "ref": "1", "message_id": "m", "to_agent": "bob", "body": 1}))
        .await;
    let message = bob.hear().await;
    let ack = json!({"op": "ack", "ref": "a", "delivery_ids": [message["delivery_id"]]});
    bob.0.feed(Message::text(ack.to_string())).await.unwrap();
    let farewell = json!({"op": "send", "to_agent": "alice", "body": "bye"});
    bob.0.feed(Message::text(farewell.to_string())).await.unwrap();
    bob.0.close(None).await.unwrap();
    assert_eq!(
        alice.hear().await["body"],
        "bye",
        "a send right before the close counts too"
    );
    node.until_sessions(1).await;
    let mut bob = node.client("bob").await;
    alice
        .ask(json!({"op": "send", "ref": "2", "to_agent": "bob", "body": 2}))
        .await;
    assert_eq!(bob.hear().await["body"], 2, "the acknowledged one must not come again");
}

#[tokio::test]
async fn a_reply_reaches_the_session_that_asked() {
    let node = Node::start().await;
    let mut alice = node.unwelcomed("alice").await;
    let reply_address = alice.hear().await["reply_address"].clone();
    let mut bob = node.client("bob").await;
    alice
        .ask(json!({"op": "send", "ref": "1", "to_agent": "bob", "reply_to": reply_address, "body": "?"}))
        .await;
    assert_eq!(bob.hear().await["reply_to"], reply_address);
    let to_agent = reply_address.as_str().unwrap().strip_prefix("agent:").unwrap();
    bob.say(json!({"op": "send", "to_agent": to_agent, "body": "!"})).await;
    assert_eq!(alice.hear().await["body"], "!");
}

// --- how a session ends ------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_draining_node_says_goodbye_with_a_time_to_come_back() {
    let node = Node::start().await;
    let mut alice = node.client("alice").await;
    node.fabric.drain();
    let (goodbye, code) = alice.hear_goodbye().await;
    assert_eq!(goodbye["reason"], "draining");
    assert!((1..=10).contains(&goodbye["reconnect_after"].as_u64().unwrap()));
    assert_eq!(u16::from(code), 1012);
    let (status, head, _) = node.refused("/ws?agent_id=bob", UPGRADE).await;
    assert!(status == 503 && head.contains("retry-after:"), "{head}");
}

#[tokio::test]
async fn an_agent_that_is_removed_is_told_so() {
    let node = Node::start().await;
    let mut alice = node.client("alice").await;
    node.fabric
        .remove_agent(&Principal::Anyone, &AgentId::new("alice").unwrap())
        .await
        .unwrap();
    let (goodbye, code) = alice.hear_goodbye().await;
    assert_eq!(
        (&goodbye["reason"], &goodbye["reconnect_after"]),
        (&json!("agent_removed"), &Value::Null)
    );
    assert_eq!(u16::from(code), 1008);
}

#[tokio::test]
async fn two_missed_pongs_end_a_session_and_a_pong_keeps_one() {
    let config = websocket::Config {
        heartbeat_interval_ms: 100,
        ..Default::default()
    };
    let node = Node::with(config).await;
    let mut silent = node.raw("silent", "").await;
    let mut lively = node.raw("lively", "").await;
    let answering = async {
        let _welcome = lively.event().await;
        for _ in 0..6 {
            let (first, _) = lively.frame().await;
            assert_eq!(first, 0x89, "pings and nothing else");
            lively.write(&frame(0x8a, b"")).await;
        }
    };
    let (_, (goodbye, code)) = tokio::join!(answering, silent.end());
    assert_eq!((&goodbye["reason"], code), (&json!("heartbeat_timeout"), 1008));
}

#[tokio::test]
async fn a_message_that_never_ends_is_not_waited_for() {
    let config = websocket::Config {
        heartbeat_interval_ms: 50,
        receive_timeout_ms: 200,
        ..Default::default()
    };
    let node = Node::with(config).await;
    let mut raw = node.raw("slow", "").await;
    let dripping = async {
        raw.write(&[0x81, 0xfe, 0x10, 0x00, 0, 0, 0, 0]).await;
        loop {
            match timeout(Duration::from_millis(20), raw.read_frame()).await {
                Ok((0x81, payload)) => {
                    let event: Value = serde_json::from_slice(&payload).unwrap();
                    if event["op"] == "goodbye" {
                        return event;
                    }
                }
                Ok(_) => {}
                Err(_) => raw.write(b"x").await,
            }
        }
    };
    let goodbye = timeout(DEADLINE, dripping).await.expect("it was waited for");
    assert_eq!(goodbye["reason"], "slow_sender");
}

#[tokio::test]
async fn a_client_that_never_reads_is_let_go_and_others_are_served_meanwhile() {
    let config = websocket::Config {
        slow_consumer_timeout_ms: 300,
        ..Default::default()
    };
    let node = Node::with(config).await;
    let _sleeper = node.raw("sleeper", "").await;
    let (mut alice, mut bob) = (node.client("alice").await, node.client("bob").await);
    node.until_sessions(3).await;
    let body = "x".repeat(512 * 1024);
    // More than the sockets' buffers and the lane hold.
    for number in 0.. {
        let send = |to: &str| json!({"op": "send", "ref": "s", "to_agent": to, "qos": 0, "body": body});
        alice.ask(send("sleeper")).await;
        if number % 8 == 0 {
            alice.ask(send("bob")).await;
            assert_eq!(bob.hear().await["body"], body);
        }
        if node.fabric.connections(&Principal::Anyone).unwrap().len() == 2 {
            break;
        }
        assert!(number < 2_000, "the sleeper was never let go");
    }
}

// --- what is refused ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn frames_that_break_the_rfc_close_the_connection_with_1002() {
    let node = Node::start().await;
    let endless = |between: &[u8]| -> Vec<u8> {
        let fragments = (0..5_000).flat_map(|_| [between, &frame(0x00, b"")].concat());
        frame(0x01, b"").into_iter().chain(fragments).collect()
    };
    let (endless, among_pings) = (endless(b""), endless(&frame(0x89, b"")));
    let cases: [(&str, &[u8]); 11] = [
        ("a length of 2^63", &[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("an unmasked frame", b"\x81\x05Hello"),
        ("fragments without end", &endless),
        ("fragments without end among pings", &among_pings),
        ("an oversized ping", &[0x89, 0xfe, 0x10, 0x00, 0, 0, 0, 0]),
        ("an oversized pong", &[0x8a, 0xfe, 0x10, 0x00, 0, 0, 0, 0]),
        ("an oversized close", &[0x88, 0xfe, 0x10, 0x00, 0, 0, 0, 0]),
        ("a fragmented ping", &[0x09, 0x80, 0, 0, 0, 0]),
        ("a reserved opcode", &[0x83, 0x80, 0, 0, 0, 0]),
        ("compression that was not agreed on", &[0xc1, 0x80, 0, 0, 0, 0]),
        ("a compressed ping", &[0xc9, 0x80, 0, 0, 0, 0]),
    ];
    for (case, bytes) in cases {
        let mut raw = node.raw("mallory", "").await;
        raw.write(bytes).await;
        let (goodbye, code) = raw.end().await;
        assert_eq!((&goodbye["reason"], code), (&json!("protocol_error"), 1002), "{case}");
    }
    node.until_sessions(0).await;
    node.until_connections(0).await;
    assert_eq!(node.counters.snapshot().errors, 11);
}

#[tokio::test]
async fn every_ping_is_answered_in_order_and_a_close_with_its_own_code() {
    let node = Node::start().await;
    let mut raw = node.raw("alice", "").await;
    assert_eq!(raw.event().await["op"], "welcome");
    let operation = r#"{"op":"credit","ref":"é","messages":5}"#.as_bytes();
    // The fragments part the letter's two bytes.
    let (head, tail) = operation.split_at(23);
    assert!(std::str::from_utf8(head).is_err());
    let wire = [
        frame(0x01, head),
        frame(0x89, b"1"),
        frame(0x89, b"2"),
        frame(0x80, tail),
    ]
    .concat();
    for byte in wire {
        raw.write(&[byte]).await;
    }
    assert_eq!(raw.frame().await, (0x8a, b"1".to_vec()));
    assert_eq!(raw.frame().await, (0x8a, b"2".to_vec()));
    assert_eq!(raw.event().await, json!({"op": "receipt", "ref": "é"}));
    raw.write(&frame(0x88, &4000_u16.to_be_bytes())).await;
    assert_eq!(raw.end().await, (Value::Null, 4000));
}

#[tokio::test]
async fn binary_text_that_is_none_and_too_much_of_it_have_their_own_close_codes() {
    let node = Node::start().await;
    let too_long = ((1024_u64 * 1024 * 4 / 3) + 400_000).to_be_bytes();
    let too_large = [&[0x81, 0xff][..], &too_long, &[0; 4]].concat();
    for (bytes, expected) in [
        (frame(0x82, b"x"), 1003),
        (frame(0x81, &[0xff]), 1007),
        (too_large, 1009),
    ] {
        let mut raw = node.raw("mallory", "").await;
        raw.write(&bytes).await;
        assert_eq!(raw.end().await.1, expected);
    }
}

#[tokio::test]
async fn compression_is_agreed_on_used_both_ways_and_a_bomb_is_stopped_at_the_limit() {
    use flate2::{Compress, Compression, FlushCompress};
    let deflate = |text: &[u8]| {
        let mut out = Vec::with_capacity(text.len() + 100);
        Compress::new(Compression::best(), false)
            .compress_vec(text, &mut out, FlushCompress::Sync)
            .unwrap();
        out.truncate(out.len() - 4);
        out
    };
    let node = Node::start().await;
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let mut alice = node.raw("alice", offer).await;
    assert!(
        alice
            .head
            .contains("permessage-deflate; server_no_context_takeover; client_no_context_takeover")
    );
    assert_eq!(alice.event().await["op"], "welcome");
    let body = "weft ".repeat(1_000);
    let send = json!({"op": "send", "ref": "1", "to_agent": "alice", "body": body}).to_string();
    alice.write(&frame(0xc1, &deflate(send.as_bytes()))).await;
    let mut is_deflated = false;
    for _ in 0..2 {
        let (first, payload) = alice.frame().await;
        is_deflated |= first == 0xc1 && payload.len() < 1_000;
    }
    assert!(is_deflated, "the message comes back compressed");

    let mut mallory = node.raw("mallory", offer).await;
    mallory
        .write(&frame(0xc1, &deflate(&vec![b' '; 8 * 1024 * 1024])))
        .await;
    assert_eq!(mallory.end().await.1, 1009);
    let off = websocket::Config {
        compression: false,
        ..Default::default()
    };
    assert!(
        !Node::with(off)
            .await
            .raw("alice", offer)
            .await
            .head
            .contains("permessage-deflate")
    );
}

#[tokio::test]
async fn pages_of_foreign_origins_are_refused_and_own_and_listed_ones_are_not() {
    let node = Node::start().await;
    let (status, _, problem) = node
        .refused(
            "/ws?agent_id=alice",
            &format!("{UPGRADE}Origin: https://evil.example\r\n"),
        )
        .await;
    assert_eq!((status, &problem["code"]), (403, &json!("WEFT-2007")));
    let two = format!("{UPGRADE}Origin: http://node.example\r\nOrigin: https://evil.example\r\n");
    assert_eq!(node.refused("/ws?agent_id=alice", &two).await.0, 403);
    node.raw("alice", "Origin: http://node.example\r\n").await;
    node.raw("alice", "Origin: https://console.example\r\n").await;
}

#[tokio::test]
async fn the_connection_limit_is_said_before_the_upgrade_and_room_comes_back() {
    let config = websocket::Config {
        max_connections: 1,
        ..Default::default()
    };
    let node = Node::with(config).await;
    let mut alice = node.client("alice").await;
    let (status, head, problem) = node.refused("/ws?agent_id=bob", UPGRADE).await;
    assert_eq!((status, &problem["code"]), (503, &json!("WEFT-2012")));
    assert!(head.contains("retry-after:"), "{head}");
    assert_eq!(node.counters.snapshot().connections_refused, 1);
    alice.0.close(None).await.unwrap();
    drop(alice);
    node.until_connections(0).await;
    node.raw("bob", "").await;
}

#[tokio::test]
async fn a_request_that_is_no_good_upgrade_gets_a_problem_that_says_why() {
    let node = Node::start().await;
    let without = |line: &str| UPGRADE.replace(line, "");
    for (target, headers, status, part) in [
        ("/ws?agent_id=a", without("Upgrade: websocket\r\n"), 426, "WebSocket"),
        (
            "/ws?agent_id=a",
            UPGRADE.replace("Version: 13", "Version: 8"),
            400,
            "Sec-WebSocket-Version",
        ),
        (
            "/ws?agent_id=a",
            UPGRADE.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"),
            400,
            "Sec-WebSocket-Key",
        ),
        (
            "/ws?agent_id=a",
            format!("{UPGRADE}Sec-WebSocket-Protocol: mqtt\r\n"),
            400,
            "weft.v1.json",
        ),
        ("/ws", UPGRADE.into(), 400, "agent_id"),
        ("/ws?agent_id=..", UPGRADE.into(), 400, "agent_id"),
        ("/ws?agent_id=a&colour=blue", UPGRADE.into(), 400, "colour"),
    ] {
        let (got, _, problem) = node.refused(target, &headers).await;
        assert_eq!(got, status, "{target} {headers} {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(part), "{problem}");
    }
}

#[tokio::test]
async fn what_passes_counts_in_the_edges_counters() {
    let node = Node::start().await;
    let mut alice = node.client("alice").await;
    alice
        .ask(json!({"op": "send", "ref": "1", "to_agent": "bob", "body": 1}))
        .await;
    let counted = node.counters.snapshot();
    assert_eq!(
        (counted.connections, counted.connections_total, counted.messages_in),
        (1, 1, 1)
    );
    assert!(counted.bytes_in > 0 && counted.bytes_out > 0 && counted.latency_p50.is_some());
}
