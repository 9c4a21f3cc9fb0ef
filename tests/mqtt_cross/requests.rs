//! Requests and their replies between MQTT 5 and other protocols, and what becomes of each property on the way there and back.

use weft::frame::Qos;

use super::*;

const CORRELATION: [u8; 4] = [0, 255, 7, 0];

/// A question with a response topic and correlation data.
fn question(to: &str, response: &str) -> Publish {
    Publish::new(to, "question")
        .qos(1, 0)
        .with(string(id::RESPONSE_TOPIC, response))
        .with(string(id::CORRELATION, CORRELATION))
        .with(user("k", "v"))
}

#[track_caller]
fn is_answer(came: &Publish, topic: &str) {
    assert_eq!((came.topic(), came.text()), (topic, "answer"));
    assert_eq!(came.property(id::CORRELATION), [CORRELATION]);
    assert!(has(came, "a", "b"), "{:?}", users(came));
}

/// Where a requester wants its answer, and where that arrives.
const RESPONSES: [(&str, &str); 2] = [("answers/alice", "answers/alice"), ("$weft/agent/alice", "$weft/inbox")];

fn requester(broker: &Broker) -> Client {
    let mut alice = broker.client(V5, "alice");
    alice.subscribe("answers/+", 2);
    alice.subscribe("$weft/inbox", 2);
    alice
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_answers_mqtt() {
    let broker = Broker::start();
    let bob = grpc(&broker, "bob").await;
    let mut alice = requester(&broker);
    for (response, arrives) in RESPONSES {
        alice.publish(question("$weft/agent/bob", response));
        let came = receive(&bob).await;
        assert_eq!((came.correlation(), came.header("k")), (&CORRELATION[..], Some("v")));
        let reply = came.reply().expect("it wants one").header("a", "b").text("answer");
        within(async { bob.send(reply).await?.await }).await.expect("taken");
        came.ack().await.expect("it is acknowledged");
        is_answer(&alice.take(), arrives);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_answers_mqtt() {
    let broker = Broker::start();
    let mut alice = requester(&broker);
    for (response, arrives) in RESPONSES {
        alice.publish(question("$weft/agent/web", response));
        let came = poll(&broker, "web", 1).await.remove(0);
        let (kind, name) = came["reply_to"]
            .as_str()
            .and_then(|to| to.split_once(':'))
            .expect("an address");
        // As it is shown, it can be sent.
        let correlation = &came["headers"]["correlation_id_base64"];
        let headers = json!({"a": "b", "correlation_id_base64": correlation});
        let answer =
            json!({"from_agent": "web", format!("to_{kind}"): name, "body_base64": "YW5zd2Vy", "headers": headers});
        post(&broker, answer).await;
        is_answer(&alice.take(), arrives);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_answers_grpc() {
    let broker = Broker::start();
    let bob = grpc(&broker, "bob").await;
    let mut alice = broker.client(V5, "alice");
    alice.subscribe("$weft/inbox", 2);
    call(
        &broker,
        "/agents/register",
        json!({"agent_id": "alice", "capabilities": ["sum"]}),
    )
    .await;
    let client = client::Client::connect(&format!("grpc://{}", broker.at.grpc))
        .await
        .expect("the node listens");
    let sum = "sum".parse().expect("well-formed");
    let agent = AgentId::new("alice").expect("well-formed");
    for message in [Message::to_agent(&agent), Message::to_capability(&sum)] {
        // By a call, and by a session.
        let by_call = message
            .clone()
            .from(&AgentId::new("carol").expect("well-formed"))
            .text("question");
        let by_session = message.text("question");
        let answered = async {
            let call = client.request(by_call, Duration::from_secs(20));
            let session = bob.request(by_session, Duration::from_secs(20));
            tokio::join!(call, session)
        };
        let answering = tokio::task::spawn_blocking(move || {
            for question in [alice.take(), alice.take()] {
                answer(&mut alice, &question);
            }
            alice
        });
        let ((by_call, by_session), back) = tokio::join!(answered, answering);
        alice = back.expect("it does not panic");
        for reply in [by_call, by_session] {
            let reply = reply.expect("it is answered");
            assert_eq!((&reply.body()[..], reply.header("a")), (&b"answer"[..], Some("b")));
            assert_eq!((reply.from(), reply.content_type()), ("alice", "text/x"));
        }
    }
}

/// Answers a request that came to the inbox.
fn answer(client: &mut Client, came: &Publish) {
    assert_eq!((came.topic(), came.text()), ("$weft/inbox", "question"));
    let response = came.property(id::RESPONSE_TOPIC).remove(0);
    let response = String::from_utf8(response).expect("a topic is UTF-8");
    assert!(response.starts_with("$weft/reply/"), "{response}");
    let mut reply = Publish::new(&response, "answer").qos(1, 0);
    for correlation in came.property(id::CORRELATION) {
        reply = reply.with(string(id::CORRELATION, correlation));
    }
    client.publish(reply.with(user("a", "b")).with(string(id::CONTENT_TYPE, "text/x")));
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_answers_http() {
    let broker = Broker::start();
    let mut alice = broker.client(V5, "alice");
    alice.subscribe("$weft/inbox", 1);
    let answering = tokio::task::spawn_blocking(move || {
        let came = alice.take();
        assert_eq!(came.property(id::CORRELATION), [b"c-1"]);
        let response = String::from_utf8(came.property(id::RESPONSE_TOPIC).remove(0)).expect("UTF-8");
        let reply = Publish::new(&response, r#"{"sum":3}"#).qos(1, 0).with(user("a", "b"));
        alice.publish(reply.with(string(id::CORRELATION, "c-1")));
    });
    let question =
        json!({"from_agent": "web", "to_agent": "alice", "body": [1, 2], "headers": {"correlation_id": "c-1"}});
    let reply = call(&broker, "/messages/request", question).await;
    answering.await.expect("it does not panic");
    assert_eq!(reply["body"], json!({"sum": 3}), "{reply}");
    assert_eq!(
        (&reply["headers"]["a"], &reply["headers"]["correlation_id"]),
        (&json!("b"), &json!("c-1"))
    );
}

/// The properties that MQTT 5 has for a PUBLISH and that reach its subscribers: the alias is a connection's own, and the subscription
/// identifier a subscription's.
fn every_property(response: &str) -> Vec<u8> {
    let pairs = [
        ("b", "1"),
        ("a", "2"),
        ("b", "3"),
        ("empty", ""),
        ("", "x"),
        ("ü \u{1F980}", "€"),
        ("mqtt-x", "y"),
    ];
    let pairs = pairs.map(|(name, value)| user(name, value)).concat();
    [
        byte(id::PAYLOAD_FORMAT, 1),
        string(id::CONTENT_TYPE, "application/x-thing; v=1"),
        string(id::RESPONSE_TOPIC, response),
        string(id::CORRELATION, CORRELATION),
        pairs,
    ]
    .concat()
}

/// Sorted, without its expiry, which counts down.
fn sorted(publish: &Publish) -> Vec<(u8, Vec<u8>)> {
    let mut all = read_properties(&publish.properties);
    all.retain(|(id, _)| *id != id::MESSAGE_EXPIRY);
    // Stable: user properties keep their order.
    all.sort_by_key(|(id, _)| *id);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_property_goes_to_grpc_and_comes_back() {
    let broker = Broker::start();
    let bob = grpc(&broker, "bob").await;
    let mut alice = broker.client(V5, "alice");
    alice.subscribe("echo/+", 2);
    // The last is no address of the fabric's.
    for response in [
        "answers/x",
        "$weft/agent/alice",
        "$weft/group/team",
        "$weft/any/sum",
        "$weft/reply/alice/t",
        "$weft/x",
    ] {
        let sent = Publish::new("$weft/agent/bob", "text")
            .qos(2, 0)
            .with(every_property(response))
            .with(four(id::MESSAGE_EXPIRY, 600))
            .with(user("weft-type", "task"))
            .with(user("weft-priority", "high"));
        alice.publish(sent.clone());
        let came = receive(&bob).await;
        let types = (came.content_type(), came.message_type(), came.priority().name());
        assert_eq!(types, ("application/x-thing; v=1", "task", "high"));
        assert!(came.ttl() == Duration::from_secs(600), "{:?}", came.ttl());
        assert_eq!(came.header("empty"), Some(""));
        // Sent on as it came, field by field.
        let topic = TopicName::new("echo/x").expect("well-formed");
        let mut back = Message::to_topic(&topic)
            .content_type(came.content_type())
            .message_type(came.message_type())
            .correlation(came.correlation().to_vec())
            .priority(came.priority())
            .qos(came.qos())
            .ttl(came.ttl())
            .body(came.body().clone());
        if let Some(to) = came.reply_to() {
            back = back.reply_to(&to.parse().expect("an address"));
        }
        for (name, value) in came.headers() {
            back = back.header(name, value);
        }
        came.ack().await.expect("it is acknowledged");
        within(async { bob.send(back).await?.await }).await.expect("taken");
        let echo = alice.take();
        assert_eq!((echo.qos, echo.text()), (2, "text"));
        let expiry = echo.property(id::MESSAGE_EXPIRY).remove(0);
        let left = u32::from_be_bytes(expiry.try_into().expect("four bytes"));
        assert!((1..=600).contains(&left), "{left} s");
        assert_eq!(sorted(&echo), sorted(&sent), "{response}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_grpc_goes_to_mqtt_and_comes_back() {
    let broker = Broker::start();
    let bob = grpc(&broker, "bob").await;
    let mut alice = broker.client(V5, "alice");
    alice.subscribe("$weft/inbox", 2);
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let sent = Message::to_agent(&AgentId::new("alice").expect("well-formed"))
        .id(&"message-1".parse().expect("well-formed"))
        .priority("critical".parse().expect("a priority"))
        .qos(Qos::ExactlyOnce)
        .ttl(Duration::from_secs(600))
        .reply_to(&"group:team".parse().expect("an address"))
        .correlation(CORRELATION.to_vec())
        .message_type("task")
        .content_type("text/x")
        .header("b", "1")
        .header("a", "2")
        .header("b", "3")
        .traceparent(traceparent)
        .body("hello");
    within(async { bob.send(sent).await?.await }).await.expect("taken");
    let came = alice.take();
    assert_eq!((came.topic(), came.text(), came.qos), ("$weft/inbox", "hello", 2));
    for (name, value) in [
        ("weft-id", "message-1"),
        ("weft-from", "bob"),
        ("weft-priority", "critical"),
        ("weft-type", "task"),
        ("traceparent", traceparent),
    ] {
        assert!(has(&came, name, value), "{name}: {:?}", users(&came));
    }
    let headers: Vec<_> = users(&came).into_iter().take(3).collect();
    assert_eq!(
        headers,
        [("b", "1"), ("a", "2"), ("b", "3")].map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    // Back as it came, but for who sent it, and under an id of its own.
    let mut back = Publish::new("$weft/agent/bob", "hello").qos(2, 0);
    for (id, value) in read_properties(&came.properties) {
        match id {
            id::USER => {}
            id::MESSAGE_EXPIRY => back.properties.extend([&[id][..], &value].concat()),
            _ => back.properties.extend(string(id, value)),
        }
    }
    for (name, value) in users(&came) {
        if name != "weft-from" && name != "weft-id" {
            back.properties.extend(user(name, value));
        }
    }
    alice.publish(back.with(user("weft-id", "message-2")));
    let echo = receive(&bob).await;
    assert_eq!(
        (echo.id(), echo.from(), echo.priority().name()),
        ("message-2", "alice", "critical")
    );
    assert_eq!((echo.message_type(), echo.content_type()), ("task", "text/x"));
    assert_eq!(
        (echo.correlation(), echo.reply_to()),
        (&CORRELATION[..], Some("group:team"))
    );
    assert_eq!(echo.traceparent(), traceparent);
    let headers: Vec<_> = echo.headers().filter(|(name, _)| *name != "traceparent").collect();
    assert_eq!(headers, [("b", "1"), ("a", "2"), ("b", "3")]);
    assert!(echo.ttl() <= Duration::from_secs(600) && echo.ttl() > Duration::ZERO);
}

#[test]
fn mqtt_speaks_in_nobody_elses_name() {
    let broker = Broker::start();
    let mut alice = broker.client(V5, "alice");
    for (name, value, reason) in [
        ("weft-from", "bob", 0x87),
        ("weft-anything", "x", 0x87),
        ("weft-priority", "urgent", 0x83),
        ("weft-id", "a b", 0x83),
    ] {
        alice.send(
            &Publish::new("$weft/agent/bob", "x")
                .qos(1, 7)
                .with(user(name, value))
                .bytes(V5),
        );
        let came = alice.packet();
        assert_eq!((came.kind(), came.id(), came.reason()), (PUBACK, 7, reason), "{name}");
    }
    alice.alive();
}
