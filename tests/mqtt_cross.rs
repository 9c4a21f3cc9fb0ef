//! MQTT agents among others: messages from and to gRPC, HTTP and WebSocket, by the same names, with properties and headers kept.

#![cfg(feature = "server")]

#[path = "mqtt_cross/addresses.rs"]
mod addresses;
mod mqtt_driver;
#[path = "real_node/http.rs"]
#[allow(dead_code, reason = "shared with the torture, which uses all of it")]
mod real_http;
#[path = "mqtt_cross/requests.rs"]
mod requests;
#[path = "mqtt_cross/topics.rs"]
mod topics;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use mqtt_driver::{Version::*, *};
use real_http::Http;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message as Frame, client::IntoClientRequest};
use weft::{
    client::{self, Delivery, Message, Session, SessionOptions},
    frame::{AgentId, TopicFilter, TopicName},
};

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("it took far too long")
}

async fn grpc(broker: &Broker, agent: &str) -> Session {
    let client = client::Client::connect(&format!("grpc://{}", broker.at.grpc))
        .await
        .expect("the node listens");
    let agent = AgentId::new(agent).expect("well-formed");
    client
        .session(&agent, SessionOptions::default())
        .await
        .expect("a session")
}

async fn receive(session: &Session) -> Delivery {
    let mut came = Vec::new();
    within(session.recv_batch(&mut came, 1))
        .await
        .expect("the session stands");
    came.pop().expect("one message")
}

async fn post(broker: &Broker, message: Value) {
    call(broker, "/messages/send", message).await;
}

/// The answer to a POST that is a success.
async fn call(broker: &Broker, path: &str, request: Value) -> Value {
    let http = Http::new(format!("http://{}", broker.at.http));
    let answer = http.post(path, &request).await.expect("an answer");
    answer.success().expect("it is taken")
}

/// The next messages of an agent that polls, acknowledged with it.
async fn poll(broker: &Broker, agent: &str, max: usize) -> Vec<Value> {
    let http = Http::new(format!("http://{}", broker.at.http));
    let path = format!("/agents/{agent}/messages?max={max}&wait=20s&ack=auto");
    let answer = http.get(&path).await.expect("an answer").success();
    match answer.expect("it is taken")["messages"].take() {
        Value::Array(messages) if !messages.is_empty() => messages,
        other => panic!("no message for {agent}: {other}"),
    }
}

fn string_of(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// The body of a message that was polled, as it was published.
fn text_of(message: &Value) -> String {
    match message["body_base64"].as_str() {
        Some(coded) => {
            use base64::Engine;
            let bytes = base64::engine::general_purpose::STANDARD.decode(coded).expect("base64");
            String::from_utf8(bytes).expect("UTF-8")
        }
        None => message["body"].to_string(),
    }
}

/// Its user properties.
fn users(publish: &Publish) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let pair = |bytes: Vec<u8>| {
        let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        (text(&bytes[2..2 + length]), text(&bytes[4 + length..]))
    };
    publish.property(id::USER).into_iter().map(pair).collect()
}

fn has(publish: &Publish, name: &str, value: &str) -> bool {
    users(publish).contains(&(name.into(), value.into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_to_grpc() {
    let broker = Broker::start();
    let bob = grpc(&broker, "bob").await;
    for version in BOTH {
        let mut alice = broker.client(version, "alice");
        let list = [
            user("x", "1"),
            user("y", "2"),
            string(id::CONTENT_TYPE, "text/x"),
            string(id::CORRELATION, [7, 0]),
        ]
        .concat();
        let list = if version == V5 { list } else { Vec::new() };
        alice.publish(Publish::new("$weft/agent/bob", "hello").qos(1, 0).with(list));
        let came = receive(&bob).await;
        assert_eq!(
            (came.from(), came.to(), &came.body()[..]),
            ("alice", "agent:bob", &b"hello"[..])
        );
        if version == V5 {
            assert_eq!(came.headers().collect::<Vec<_>>(), [("x", "1"), ("y", "2")]);
            assert_eq!(came.correlation(), [7, 0]);
        }
        came.ack().await.expect("it is acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_to_the_inbox_and_back() {
    let broker = Broker::start();
    let bob = grpc(&broker, "bob").await;
    for version in BOTH {
        let mut alice = broker.client(version, &format!("alice-{version:?}"));
        alice.subscribe("$weft/inbox", 1);
        let to = AgentId::new(format!("alice-{version:?}")).expect("well-formed");
        let message = Message::to_agent(&to)
            .header("x", "1")
            .header("y", "2")
            .correlation(vec![7, 0])
            .text("hi");
        within(async { bob.send(message).await?.await })
            .await
            .expect("it is taken");
        let came = alice.take();
        assert_eq!((came.topic(), came.text(), came.qos), ("$weft/inbox", "hi", 1));
        if version == V5 {
            assert!(
                has(&came, "x", "1") && has(&came, "y", "2") && has(&came, "weft-from", "bob"),
                "{:?}",
                users(&came)
            );
            assert_eq!(came.property(id::CORRELATION), [[7, 0]]);
        }
        // `#` never sees it.
        let mut all = broker.client(version, "all");
        all.subscribe("#", 0);
        let message = Message::to_agent(&to).text("hidden");
        within(async { bob.send(message).await?.await })
            .await
            .expect("it is taken");
        assert_eq!(alice.take().text(), "hidden");
        assert!(
            all.until_fence(&broker)
                .iter()
                .all(|publish| publish.text() != "hidden")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_one_in_grpc_and_mqtt() {
    let broker = Broker::start();
    let bob = grpc(&broker, "bob").await;
    bob.subscribe(&[TopicFilter::new("from/mqtt/+").expect("well-formed")])
        .await
        .expect("subscribed");
    for version in BOTH {
        let mut alice = broker.client(version, "alice");
        alice.subscribe("from/grpc/+", 2);
        alice.publish(Publish::new("from/mqtt/x", "one").qos(2, 0));
        let came = receive(&bob).await;
        assert_eq!((came.to(), &came.body()[..]), ("topic:from/mqtt/x", &b"one"[..]));
        came.ack().await.expect("it is acknowledged");
        let topic = TopicName::new("from/grpc/y").expect("well-formed");
        within(async {
            bob.send(Message::to_topic(&topic).header("k", "v").text("two"))
                .await?
                .await
        })
        .await
        .expect("taken");
        let came = alice.take();
        assert_eq!((came.topic(), came.text()), ("from/grpc/y", "two"));
        assert!(version == V3 || has(&came, "k", "v"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_to_a_shared_subscription() {
    let broker = Broker::start();
    for version in BOTH {
        let mut members: Vec<Client> = (0..2)
            .map(|number| broker.client(version, &format!("member-{number}")))
            .collect();
        for member in &mut members {
            member.subscribe("$share/workers/jobs/#", 1);
        }
        for number in 0..10 {
            let headers = json!({"n": number.to_string()});
            post(
                &broker,
                json!({"from_agent": "web", "to_topic": "jobs/x", "body": number, "headers": headers}),
            )
            .await;
        }
        let heard: Vec<Publish> = members
            .iter_mut()
            .flat_map(|member| member.until_fence(&broker))
            .collect();
        let mut numbers: Vec<u32> = heard
            .iter()
            .map(|publish| publish.text().parse().expect("a number"))
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..10).collect::<Vec<_>>());
        assert!(
            version == V3 || heard.iter().all(|publish| has(publish, "n", publish.text())),
            "headers are kept"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_to_mqtt_and_back() {
    let broker = Broker::start();
    let mut request = format!("ws://{}/ws?agent_id=web", broker.at.http)
        .into_client_request()
        .expect("a URL");
    request.headers_mut().insert(
        "sec-websocket-protocol",
        weft::edge::websocket::SUBPROTOCOL.parse().expect("a header"),
    );
    let (mut web, _) = within(tokio_tungstenite::connect_async(request))
        .await
        .expect("the node upgrades");
    for version in BOTH {
        let name = format!("alice-{version:?}");
        let mut alice = broker.client(version, &name);
        alice.subscribe("$weft/inbox", 1);
        let send = json!({"op": "send", "ref": "r", "to_agent": name, "body": {"n": 1}, "headers": {"x": "1"}});
        web.send(Frame::text(send.to_string())).await.expect("it is sent");
        let came = alice.take();
        assert_eq!(
            serde_json::from_str::<Value>(came.text()).expect("JSON"),
            json!({"n": 1})
        );
        assert!(
            version == V3 || has(&came, "x", "1") && has(&came, "weft-from", "web"),
            "{:?}",
            users(&came)
        );
        let marker = format!("answer to {name}");
        alice.publish(Publish::new("$weft/agent/web", &marker).qos(1, 0));
        // Receipts and the welcome come too.
        loop {
            let frame = within(web.next()).await.expect("it stands").expect("a frame");
            let whole = frame.into_data();
            if String::from_utf8_lossy(&whole).contains("\"from_agent\"")
                || String::from_utf8_lossy(&whole).contains(&marker)
            {
                break;
            }
        }
    }
}
