//! The HTTP surface against a real client: every endpoint of the description, both body forms, errors, polls and event streams.

#![cfg(feature = "server")]

mod http_node;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use http_node::{Node, PATIENCE, Setup, pointers};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weft::{
    edge::{auth::Authenticator, http::Config},
    frame::AgentId,
    router::{config::Config as RouterConfig, error::FabricError, surface::Principal},
};

async fn send(node: &Node, from: &str, to: &str, body: Value) -> Value {
    let answer = node
        .post(
            "/messages/send",
            json!({"from_agent": from, "to_agent": to, "body": body}),
        )
        .await;
    answer.ok(202)
}

fn ids(messages: &[Value]) -> Vec<&str> {
    messages
        .iter()
        .map(|message| message["delivery_id"].as_str().unwrap())
        .collect()
}

// --- the quick start and sending ---------------------------------------------------------------------------------

#[tokio::test]
async fn the_quick_start_works_as_users_know_it() {
    let node = Node::start().await;
    let registered = node
        .post(
            "/agents/register",
            json!({"agent_id": "agent_1", "capabilities": ["text_processing", "data_analysis"], "protocols": ["websocket", "http"]}),
        )
        .await
        .ok(201);
    assert_eq!(registered["status"], "registered");
    assert_eq!(registered["protocols_accepted"], json!(["websocket", "http"]));
    assert!(registered["registration_id"].as_str().unwrap().starts_with("reg_"));
    let sent = node
        .post(
            "/messages/send",
            json!({"from_agent": "agent_1", "to_agent": "agent_2", "protocol": "websocket",
                   "message": {"type": "task_request", "content": "Analyze this dataset", "priority": "high"}}),
        )
        .await
        .ok(202);
    assert_eq!((&sent["status"], &sent["duplicate"]), (&json!("queued"), &json!(false)));
    let messages = node.poll("agent_2", "wait=10s&ack=auto").await;
    assert_eq!(messages[0]["body"], "Analyze this dataset");
    assert_eq!(messages[0]["headers"], json!({"message_type": "task_request"}));
    assert_eq!(
        (&messages[0]["priority"], &messages[0]["from_agent"]),
        (&json!("high"), &json!("agent_1"))
    );
    node.stop().await;
}

#[tokio::test]
async fn a_full_message_arrives_byte_for_byte_and_its_receipt_follows_it() {
    let node = Node::start().await;
    let body = r#"{ "task": "process_data", "n": 1.50, "é":"\u00e9" }"#;
    let text = format!(
        r#"{{"message_id": "msg_789", "from_agent": "agent_123", "to_agent": "agent_456", "protocol": "websocket",
            "priority": "normal", "qos": 1, "ttl": 3600, "reply_to": "agent:agent_123",
            "headers": {{"correlation_id": "corr_123", "message_type": "task_request", "x": "y"}}, "body": {body}}}"#
    );
    let receipt = node.post_text("/messages/send", text.clone()).await.ok(202);
    assert_eq!(receipt["message_id"], "msg_789");
    assert_eq!(receipt["routing_info"]["route_taken"][0], "node_1");
    assert_eq!(receipt["routing_info"]["protocol_used"], Value::Null);
    let again = node.post_text("/messages/send", text).await.ok(202);
    assert_eq!(
        (&again["duplicate"], &again["tracking_id"]),
        (&json!(true), &receipt["tracking_id"])
    );

    let status = node.get("/messages/msg_789/status").await.ok(200);
    assert_eq!(
        (&status["status"], &status["recipient_acknowledged"]),
        (&json!("queued"), &json!(false))
    );
    let answer = node.get("/agents/agent_456/messages?wait=10s").await;
    assert!(String::from_utf8_lossy(&answer.body).contains(body), "{answer:?}");
    let messages = answer.json()["messages"].as_array().unwrap().clone();
    assert_eq!(messages.len(), 1);
    let message = &messages[0];
    assert_eq!(
        message["headers"],
        json!({"correlation_id": "corr_123", "message_type": "task_request", "x": "y"})
    );
    assert_eq!(
        (&message["to"], &message["reply_to"]),
        (&json!("agent:agent_456"), &json!("agent:agent_123"))
    );
    assert_eq!(
        (&message["redelivered"], &message["delivery_attempt"]),
        (&json!(false), &json!(1))
    );

    let acked = node
        .post(
            "/agents/agent_456/messages/ack",
            json!({"delivery_ids": ids(&messages)}),
        )
        .await
        .ok(200);
    assert_eq!(acked["results"][0]["status"], "acknowledged");
    let acked = node
        .post(
            "/agents/agent_456/messages/ack",
            json!({"delivery_ids": ids(&messages)}),
        )
        .await
        .ok(200);
    assert_eq!(acked["results"][0]["status"], "stale");
    for id in ["msg_789", receipt["tracking_id"].as_str().unwrap()] {
        let status = node
            .get(&format!("/messages/{id}/status?from_agent=agent_123"))
            .await
            .ok(200);
        assert_eq!(
            (&status["status"], &status["recipient_acknowledged"]),
            (&json!("delivered"), &json!(true))
        );
        assert_eq!(
            (&status["delivery_attempts"], &status["recipients"]),
            (&json!(1), &json!(1))
        );
        assert_eq!(status["delivered_at"], status["acknowledged_at"]);
    }
    node.get("/messages/nothing/status").await.problem(404, 1203);
    node.stop().await;
}

#[tokio::test]
async fn binary_bodies_the_idempotency_key_and_the_trace_context_travel() {
    let node = Node::start().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = node
        .request("POST", "/messages/send")
        .header("content-type", "application/json; charset=utf-8")
        .header("idempotency-key", "key-1")
        .header("traceparent", trace)
        .body(Full::from(
            json!({"from_agent": "a", "to_agent": "b", "body_base64": "AP8=", "content_type": "image/png"}).to_string(),
        ));
    let receipt = node.answer(request.unwrap()).await.ok(202);
    assert_eq!(receipt["message_id"], "key-1");
    let message = &node.poll("b", "wait=10s&ack=auto").await[0];
    assert_eq!(
        (&message["body_base64"], &message["content_type"]),
        (&json!("AP8="), &json!("image/png"))
    );
    assert_eq!(message["headers"]["traceparent"], trace);
    node.stop().await;
}

#[tokio::test]
async fn qos_0_has_no_receipt_and_is_dropped_where_nobody_polls() {
    let node = Node::start().await;
    let send = || {
        node.post(
            "/messages/send",
            json!({"from_agent": "a", "to_agent": "b", "qos": 0, "body": 1}),
        )
    };
    let dropped = send().await.ok(202);
    assert_eq!(
        (&dropped["status"], &dropped["tracking_id"]),
        (&json!("dropped"), &Value::Null)
    );
    let polling = node.poll("b", "wait=20s");
    let sending = async {
        loop {
            if send().await.ok(202)["status"] != "dropped" {
                return;
            }
        }
    };
    let (messages, ()) = tokio::join!(polling, sending);
    assert_eq!(
        (&messages[0]["delivery_id"], &messages[0]["qos"]),
        (&Value::Null, &json!(0))
    );
    node.stop().await;
}

#[tokio::test]
async fn a_batch_is_answered_in_order_and_refused_whole_where_one_is_malformed() {
    let node = Node::start().await;
    node.post("/agents/register", json!({"agent_id": "b"})).await.ok(201);
    let message = |n: usize| json!({"message_id": format!("m{n}"), "from_agent": "a", "to_agent": "b", "body": n});
    let mut messages: Vec<_> = (0..50).map(message).collect();
    messages[20] = json!({"message_id": "m20", "from_agent": "a", "to_group": "nowhere", "body": 0});
    let answer = node
        .post("/messages/send/batch", json!({"messages": messages}))
        .await
        .ok(202);
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 50);
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result["message_id"], format!("m{n}"));
        match n {
            20 => assert_eq!((&result["status"], &result["code"]), (&json!(404), &json!("WEFT-1201"))),
            _ => assert_eq!(result["status"], "queued", "{result}"),
        }
    }
    let mut bodies = Vec::new();
    while bodies.len() < 49 {
        let messages = node.poll("b", "max=256&wait=20s&ack=auto").await;
        bodies.extend(messages.iter().map(|message| message["body"].as_u64().unwrap()));
    }
    assert_eq!(bodies, (0..50).filter(|n| *n != 20).collect::<Vec<_>>());

    let bad = json!({"messages": [message(1), {"from_agent": "a", "to_agent": "b c"}, 7]});
    let problem = node.post("/messages/send/batch", bad).await.problem(400, 1000);
    assert_eq!(pointers(&problem), ["/messages/1/to_agent", "/messages/2"]);
    assert!(node.poll("b", "wait=200ms").await.is_empty(), "nothing of it was sent");
    node.stop().await;
}

#[tokio::test]
async fn a_request_waits_for_its_reply() {
    let node = Node::start().await;
    let asking = node.post(
        "/messages/request?timeout=20s",
        json!({"from_agent": "asker", "to_agent": "worker", "body": {"question": 1}}),
    );
    let answering = async {
        let message = node.poll("worker", "wait=20s&ack=auto").await.remove(0);
        // As it is shown, with `agent:` in front.
        send(
            &node,
            "worker",
            message["reply_to"].as_str().unwrap(),
            json!({"answer": 2}),
        )
        .await;
    };
    let (reply, ()) = tokio::join!(asking, answering);
    let reply = reply.ok(200);
    assert_eq!(
        (&reply["body"], &reply["from_agent"]),
        (&json!({"answer": 2}), &json!("worker"))
    );
    let silent = node
        .post(
            "/messages/request?timeout=100ms",
            json!({"from_agent": "asker", "to_agent": "nobody"}),
        )
        .await;
    silent.problem(504, 1401);
    for timeout in [json!("100ms"), json!(0)] {
        let body = json!({"from_agent": "asker", "to_agent": "nobody", "timeout": timeout});
        node.post("/messages/request", body).await.problem(504, 1401);
    }
    for (path, timeout) in [
        ("/messages/request?timeout=1s", json!("1s")),
        ("/messages/request", json!(-1)),
    ] {
        let body = json!({"from_agent": "asker", "to_agent": "nobody", "timeout": timeout});
        let problem = node.post(path, body).await.problem(400, 1000);
        assert_eq!(pointers(&problem), ["/timeout"]);
    }
    let own = json!({"from_agent": "asker", "to_agent": "x", "reply_to": "agent:asker"});
    let problem = node.post("/messages/request", own).await.problem(400, 1000);
    assert_eq!(pointers(&problem), ["/reply_to"]);
    node.stop().await;
}

// --- receiving -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_poll_without_messages_ends_empty_and_one_that_waits_gets_the_next() {
    let node = Node::start().await;
    assert!(node.poll("b", "").await.is_empty());
    let (messages, _) = tokio::join!(node.poll("b", "wait=20s"), send(&node, "a", "b", json!(1)));
    assert_eq!(messages.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn concurrent_polls_share_the_messages_and_lose_none() {
    let node = Arc::new(Node::start().await);
    const MESSAGES: u64 = 300;
    let consumer = |node: Arc<Node>| async move {
        let mut seen = Vec::new();
        loop {
            let messages = node.poll("b", "max=7&wait=2s&ack=auto").await;
            if messages.is_empty() {
                return seen;
            }
            seen.extend(messages.iter().map(|message| message["body"].as_u64().unwrap()));
        }
    };
    let consumers: Vec<_> = (0..4).map(|_| tokio::spawn(consumer(Arc::clone(&node)))).collect();
    for n in 0..MESSAGES {
        send(&node, "a", "b", json!(n)).await;
    }
    let mut all = Vec::new();
    for consumer in consumers {
        all.extend(consumer.await.unwrap());
    }
    all.sort_unstable();
    assert_eq!(all, (0..MESSAGES).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_poll_whose_client_leaves_takes_nothing_with_it() {
    let node = Node::start().await;
    for _ in 0..10 {
        let request = node
            .request("GET", "/agents/b/messages?wait=20s&ack=auto&max=5")
            .body(Full::default())
            .unwrap();
        let left = tokio::time::timeout(Duration::from_millis(20), node.open(request)).await;
        assert!(left.is_err(), "nothing to answer yet");
    }
    for n in 0..5 {
        send(&node, "a", "b", json!(n)).await;
    }
    let mut bodies = Vec::new();
    while bodies.len() < 5 {
        let messages = node.poll("b", "wait=20s&ack=auto").await;
        bodies.extend(messages.iter().map(|message| message["body"].as_u64().unwrap()));
    }
    bodies.sort_unstable();
    assert_eq!(bodies, [0, 1, 2, 3, 4]);
    node.stop().await;
}

#[tokio::test]
async fn what_is_not_acknowledged_comes_again_after_its_visibility_timeout() {
    let node = Node::start().await;
    send(&node, "a", "b", json!(1)).await;
    let first = node.poll("b", "wait=20s&visibility_timeout=300ms").await;
    let second = node.poll("b", "wait=20s").await;
    assert_eq!(
        (&second[0]["redelivered"], &second[0]["delivery_attempt"]),
        (&json!(true), &json!(2))
    );
    let stale = node
        .post("/agents/b/messages/ack", json!({"delivery_ids": ids(&first)}))
        .await
        .ok(200);
    assert_eq!(stale["results"][0]["status"], "stale");
    let done = node
        .post("/agents/b/messages/ack", json!({"delivery_ids": ids(&second)}))
        .await
        .ok(200);
    assert_eq!(done["results"][0]["status"], "acknowledged");
    node.stop().await;
}

#[tokio::test]
async fn a_refused_message_comes_again_or_becomes_a_dead_letter_that_can_be_replayed() {
    let node = Node::start().await;
    let receipt = send(&node, "a", "b", json!("work")).await;
    let message_id = receipt["message_id"].as_str().unwrap();
    let messages = node.poll("b", "wait=20s").await;
    let nack = json!({"delivery_ids": ids(&messages), "retry_after": 0});
    assert_eq!(
        node.post("/agents/b/messages/nack", nack).await.ok(200)["results"][0]["status"],
        "refused"
    );
    let messages = node.poll("b", "wait=20s").await;
    assert_eq!(messages[0]["redelivered"], true);
    let nack = json!({"delivery_ids": ids(&messages), "dead_letter": true});
    assert_eq!(
        node.post("/agents/b/messages/nack", nack).await.ok(200)["results"][0]["status"],
        "refused"
    );
    let status = node.get(&format!("/messages/{message_id}/status")).await.ok(200);
    assert_eq!(
        (&status["status"], &status["reason"]),
        (&json!("dead_lettered"), &json!("refused"))
    );

    let page = node.get("/agents/b/dead-letters").await.ok(200);
    assert_eq!(
        (&page["messages"][0]["message_id"], &page["next_page_token"]),
        (&json!(message_id), &Value::Null)
    );
    assert_eq!(page["messages"][0]["reason"], "refused");
    let replayed = node
        .post_text(&format!("/agents/b/dead-letters/{message_id}/replay"), "")
        .await
        .ok(202);
    assert_eq!(replayed["status"], "queued");
    assert_eq!(node.poll("b", "wait=20s&ack=auto").await[0]["body"], "work");
    node.post_text(&format!("/agents/b/dead-letters/{message_id}/replay"), "")
        .await
        .problem(404, 1203);
    let both = json!({"delivery_ids": ["d_001-1-1"], "dead_letter": true, "retry_after": 1});
    let problem = node.post("/agents/b/messages/nack", both).await.problem(400, 1000);
    assert_eq!(pointers(&problem), ["/retry_after"]);
    node.stop().await;
}

#[tokio::test]
async fn dead_letters_come_in_pages() {
    let node = Node::start().await;
    for n in 0..5 {
        send(&node, "a", "b", json!(n)).await;
    }
    let mut taken = Vec::new();
    while taken.len() < 5 {
        taken.extend(node.poll("b", "wait=20s").await);
    }
    let nack = json!({"delivery_ids": ids(&taken), "dead_letter": true});
    node.post("/agents/b/messages/nack", nack).await.ok(200);
    let (mut bodies, mut token) = (Vec::new(), String::new());
    loop {
        let page = node
            .get(&format!("/agents/b/dead-letters?page_size=2{token}"))
            .await
            .ok(200);
        let messages = page["messages"].as_array().unwrap();
        assert!(messages.len() <= 2);
        bodies.extend(messages.iter().map(|message| message["body"].as_u64().unwrap()));
        match page["next_page_token"].as_str() {
            Some(next) => token = format!("&page_token={next}"),
            None => break,
        }
    }
    bodies.sort_unstable();
    assert_eq!(bodies, [0, 1, 2, 3, 4]);
    node.stop().await;
}

#[tokio::test]
async fn subscribed_topics_come_with_the_polls() {
    let node = Node::start().await;
    let publish = |topic: &'static str| {
        node.post(
            "/messages/send",
            json!({"from_agent": "a", "to_topic": topic, "body": topic}),
        )
    };
    // A session is there already when the first subscription is made.
    assert!(node.poll("b", "").await.is_empty());
    let put = node
        .put("/agents/b/subscriptions", json!({"topics": ["a/+"]}))
        .await
        .ok(200);
    assert_eq!(put, json!({"agent_id": "b", "topics": ["a/+"]}));
    publish("a/1").await.ok(202);
    publish("c/1").await.ok(202);
    let messages = node.poll("b", "wait=20s&ack=auto").await;
    assert_eq!(
        (messages.len(), &messages[0]["body"], &messages[0]["to"]),
        (1, &json!("a/1"), &json!("topic:a/1"))
    );
    assert_eq!(
        node.get("/agents/b/subscriptions").await.ok(200)["topics"],
        json!(["a/+"])
    );
    assert_eq!(node.delete("/agents/b/subscriptions").await.status, 204);
    assert_eq!(node.get("/agents/b/subscriptions").await.ok(200)["topics"], json!([]));
    publish("a/2").await.ok(202);
    assert!(node.poll("b", "wait=200ms").await.is_empty());
    let wrong = node
        .put("/agents/b/subscriptions", json!({"topics": ["a/#/b", "ok"]}))
        .await
        .problem(400, 1000);
    assert_eq!(pointers(&wrong), ["/topics/0"]);
    node.stop().await;
}

/// The events of a stream, as they come.
struct Events {
    body: hyper::body::Incoming,
    text: String,
}

impl Events {
    async fn open(node: &Node, agent: &str, query: &str, last: Option<&str>) -> Self {
        let mut request = node.request("GET", &format!("/agents/{agent}/messages/stream?{query}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = node.open(request.body(Full::default()).unwrap()).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: response.into_body(),
            text: String::new(),
        }
    }

    /// The next event: its id and its message.
    async fn next(&mut self) -> (String, Value) {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_string(), rest.to_string());
                self.text = rest;
                if let Some(event) = parse(&event) {
                    return event;
                }
                continue;
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .expect("an event in time");
            let data = frame.expect("the stream goes on").unwrap().into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }
}

fn parse(event: &str) -> Option<(String, Value)> {
    let field = |name: &str| {
        event
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .collect::<Vec<_>>()
            .join("\n")
    };
    event
        .contains("data: ")
        .then(|| (field("id: "), serde_json::from_str(&field("data: ")).unwrap()))
}

#[tokio::test]
async fn a_stream_delivers_and_is_acknowledged_by_hand() {
    let node = Node::start().await;
    let mut events = Events::open(&node, "b", "", None).await;
    let pretty = "{\n  \"a\": [\r\n 1]\n}";
    let text = format!(r#"{{"message_id": "m1", "from_agent": "a", "to_agent": "b", "body": {pretty}}}"#);
    node.post_text("/messages/send", text).await.ok(202);
    let (id, message) = events.next().await;
    assert_eq!(
        (message["delivery_id"].as_str(), &message["body"]),
        (Some(id.as_str()), &json!({"a": [1]}))
    );
    let acked = node
        .post("/agents/b/messages/ack", json!({"delivery_ids": [id]}))
        .await
        .ok(200);
    assert_eq!(acked["results"][0]["status"], "acknowledged");
    node.stop().await;
}

#[tokio::test]
async fn a_resumed_stream_settles_what_was_seen_and_repeats_what_was_not() {
    let node = Node::start().await;
    let mut events = Events::open(&node, "b", "ack=auto", None).await;
    for n in 0..3 {
        send(&node, "a", "b", json!(n)).await;
    }
    let (first, message) = events.next().await;
    assert_eq!(message["body"], 0);
    events.next().await;
    events.next().await;
    drop(events);
    let mut events = Events::open(&node, "b", "ack=auto", Some(&first)).await;
    let mut again = [events.next().await.1, events.next().await.1];
    again.sort_by_key(|message| message["body"].as_u64());
    assert_eq!((&again[0]["body"], &again[1]["body"]), (&json!(1), &json!(2)));
    let acked = node
        .post("/agents/b/messages/ack", json!({"delivery_ids": [first]}))
        .await
        .ok(200);
    assert_eq!(acked["results"][0]["status"], "stale", "the resume settled it");
    node.stop().await;
}

#[tokio::test]
async fn an_automatic_stream_acknowledges_once_the_connection_outlived_the_write() {
    let setup = Setup {
        http: Config {
            auto_ack_grace_ms: 200,
            ..Config::default()
        },
        ..Setup::default()
    };
    let node = Node::with(setup).await;
    let mut events = Events::open(&node, "b", "ack=auto", None).await;
    let receipt = send(&node, "a", "b", json!(1)).await;
    events.next().await;
    let status = format!("/messages/{}/status", receipt["tracking_id"].as_str().unwrap());
    let delivered = async {
        while node.get(&status).await.ok(200)["status"] != "delivered" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, delivered)
        .await
        .expect("acknowledged without the client's doing");
    node.stop().await;
}

#[tokio::test]
async fn draining_ends_polls_and_streams_and_refuses_messages() {
    let node = Node::start().await;
    let mut events = Events::open(&node, "b", "", None).await;
    let draining = async {
        while node.get("/agents/connections").await.ok(200)["connections"]
            .as_array()
            .unwrap()
            .len()
            < 2
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        node.fabric.drain();
    };
    let (poll, ()) = tokio::join!(node.get("/agents/c/messages?wait=20s"), draining);
    poll.problem(503, 1504);
    while let Some(frame) = tokio::time::timeout(PATIENCE, events.body.frame())
        .await
        .expect("an end")
    {
        frame.unwrap();
    }
    let refused = node
        .post("/messages/send", json!({"from_agent": "a", "to_agent": "b"}))
        .await;
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.problem(503, 1504)["retryable"], true);
    let ready = node.get("/ready").await.ok(503);
    assert_eq!((&ready["ready"], ready["missing"].is_string()), (&json!(false), true));
    assert_eq!(node.get("/health").await.ok(200)["status"], "ok");
    node.stop().await;
}

// --- agents and groups ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn agents_are_registered_listed_shown_and_removed() {
    let node = Node::start().await;
    let full = json!({
        "agent_id": "acme/planner", "name": "Planner <b>", "capabilities": ["plan"], "protocols": ["http", "mqtt", "grpc", "x-own"],
        "metadata": {"version": "1.0.0", "specialized_capabilities": ["deep"]}, "endpoints": {"websocket": "ws://127.0.0.1:9/ws"}
    });
    let registered = node.post("/agents/register", full.clone()).await.ok(201);
    assert_eq!(
        registered["protocols_accepted"],
        json!(["http"]),
        "mqtt is off, grpc is ill, x-own is not served"
    );
    let again = node.post("/agents/register", full).await.ok(200);
    assert_eq!(again["registration_id"], registered["registration_id"]);
    let all = node
        .post("/agents/register", json!({"agent_id": "acme/worker"}))
        .await
        .ok(201);
    assert_eq!(all["protocols_accepted"], json!(["http", "websocket"]));

    let shown = node.get("/agents/acme%2Fplanner").await.ok(200);
    assert_eq!(shown["metadata"]["specialized_capabilities"], json!(["deep"]));
    assert_eq!(
        (&shown["status"], &shown["online"]),
        (&json!("registered"), &json!(false))
    );
    let node_ref = &node;
    let listed = |query: &'static str| async move {
        let page = node_ref.get(&format!("/agents?{query}")).await.ok(200);
        let ids = page["agents"]
            .as_array()
            .unwrap()
            .iter()
            .map(|agent| agent["agent_id"].as_str().unwrap().to_string());
        (ids.collect::<Vec<_>>(), page["next_page_token"].clone())
    };
    assert_eq!(listed("capability=plan").await.0, ["acme/planner"]);
    assert_eq!(listed("protocol=mqtt").await.0, ["acme/planner"]);
    assert_eq!(listed("prefix=acme/w").await.0, ["acme/worker"]);
    assert_eq!(listed("online=true").await.0.len(), 0);
    let (first, token) = listed("page_size=1").await;
    assert_eq!(
        (first, token),
        (vec!["acme/planner".to_string()], json!("acme/planner"))
    );
    assert_eq!(
        listed("page_size=1&page_token=acme%2Fplanner").await,
        (vec!["acme/worker".into()], Value::Null)
    );

    let beat = node.post_text("/agents/acme%2Fworker/heartbeat", "").await.ok(200);
    assert!(beat["last_seen"].is_string());
    assert_eq!(node.delete("/agents/acme%2Fworker").await.status, 204);
    node.get("/agents/acme%2Fworker").await.problem(404, 1200);
    node.delete("/agents/acme%2Fworker").await.problem(404, 1200);
    node.post_text("/agents/nobody/heartbeat", "").await.problem(404, 1200);
    node.stop().await;
}

#[tokio::test]
async fn an_agent_that_was_only_named_is_shown_as_unregistered_and_refused_where_registration_is_required() {
    let node = Node::start().await;
    send(&node, "a", "b", json!(1)).await;
    assert_eq!(node.get("/agents/b").await.ok(200)["status"], "unregistered");
    node.stop().await;
    let setup = Setup {
        router: RouterConfig {
            registration_required: true,
            workers: 1,
            ..RouterConfig::default()
        },
        ..Setup::default()
    };
    let node = Node::with(setup).await;
    let refused = node
        .post("/messages/send", json!({"from_agent": "a", "to_agent": "b"}))
        .await;
    assert!(
        refused.problem(404, 1200)["detail"]
            .as_str()
            .unwrap()
            .contains("agent a "),
        "{refused:?}"
    );
    node.stop().await;
}

#[tokio::test]
async fn live_sessions_are_listed_with_their_credit() {
    let node = Node::start().await;
    let _events = Events::open(&node, "b", "", None).await;
    let page = node.get("/agents/connections").await.ok(200);
    let session = &page["connections"][0];
    assert_eq!(
        (&session["agent_id"], &session["protocol"], &session["node"]),
        (&json!("b"), &json!("http"), &json!("node_1"))
    );
    assert_eq!(session["credit"]["messages"], 256);
    assert_eq!(node.get("/agents/b").await.ok(200)["online"], true);
    node.stop().await;
}

#[tokio::test]
async fn groups_are_created_changed_and_remembered() {
    let node = Node::start().await;
    let request = json!({
        "group_id": "analysis_team", "name": "Data Analysis Team", "agents": ["agent_123", "agent_456"],
        "communication_mode": "broadcast", "protocols": ["websocket"], "created_by": "boss",
        "policies": {"max_message_size": 1000, "message_retention": 86400,
                     "member_permissions": {"send_messages": true, "invite_members": false, "moderate": false}}
    });
    let created = node.post("/groups/create", request.clone()).await.ok(201);
    assert_eq!(created["policies"], request["policies"]);
    assert_eq!(
        (&created["agents"], &created["created_by"]),
        (&request["agents"], &json!("boss"))
    );
    assert_eq!(
        node.post("/groups/create", request).await.problem(409, 1205)["retryable"],
        false
    );
    node.post("/groups/create", json!({"group_id": "b_team"})).await.ok(201);
    let page = node.get("/groups?page_size=1").await.ok(200);
    assert_eq!(
        (&page["groups"][0]["group_id"], &page["next_page_token"]),
        (&json!("analysis_team"), &json!("analysis_team"))
    );
    let page = node.get("/groups?page_token=analysis_team").await.ok(200);
    assert_eq!(
        (&page["groups"][0]["group_id"], &page["next_page_token"]),
        (&json!("b_team"), &Value::Null)
    );

    let send = |body: Value| {
        node.post(
            "/messages/send",
            json!({"from_agent": "agent_123", "to_group": "analysis_team", "body": body}),
        )
    };
    assert_eq!(send(json!("hello")).await.ok(202)["recipients"], 1);
    assert_eq!(
        node.poll("agent_456", "wait=20s&ack=auto").await[0]["to"],
        "group:analysis_team"
    );
    send(json!("x".repeat(1001))).await.problem(413, 1300);
    let history = node.get("/groups/analysis_team/messages").await.ok(200);
    assert_eq!(
        (&history["messages"][0]["body"], &history["next_page_token"]),
        (&json!("hello"), &Value::Null)
    );

    let add = |who: Value| {
        node.post(
            "/groups/analysis_team/members",
            json!({"agents": ["agent_789"], "acting_agent": who}),
        )
    };
    add(json!("agent_123")).await.problem(403, 1101);
    assert_eq!(
        add(json!("boss")).await.ok(200)["agents"],
        json!(["agent_123", "agent_456", "agent_789"])
    );
    let removed = node
        .delete("/groups/analysis_team/members/agent_456?acting_agent=boss")
        .await
        .ok(200);
    assert_eq!(removed["agents"], json!(["agent_123", "agent_789"]));
    node.delete("/groups/analysis_team?acting_agent=agent_123")
        .await
        .problem(403, 1101);
    assert_eq!(node.delete("/groups/analysis_team?acting_agent=boss").await.status, 204);
    node.get("/groups/analysis_team").await.problem(404, 1201);
    send(json!(1)).await.problem(404, 1201);
    let wrong = json!({"group_id": "g", "communication_mode": "anycast", "partition_key": "x", "policies": {"max_message_size": -1, "other": 1}});
    let problem = node.post("/groups/create", wrong).await.problem(400, 1000);
    assert_eq!(
        pointers(&problem),
        [
            "/communication_mode",
            "/partition_key",
            "/policies/max_message_size",
            "/policies/other"
        ]
    );
    node.stop().await;
}

// --- protocols and operations --------------------------------------------------------------------------------------

#[tokio::test]
async fn the_node_shows_its_protocols_its_health_and_its_documents() {
    let node = Node::start().await;
    let listed = node.get("/protocols").await.ok(200);
    let mqtt = &listed["protocols"][2];
    assert_eq!((&mqtt["name"], &mqtt["enabled"]), (&json!("mqtt"), &json!(false)));
    let health = node.get("/protocols/health").await.ok(200);
    assert_eq!(
        (&health["status"], &health["protocols"][3]["detail"]),
        (&json!("degraded"), &json!("no listener"))
    );
    let status = node.get("/protocols/status").await.ok(200);
    assert!(status["protocols"][0]["bytes_in"].as_u64().unwrap() > 0);
    assert_eq!(node.get("/ready").await.ok(200)["ready"], true);
    let metrics = node.get("/metrics").await;
    assert_eq!((metrics.status.as_u16(), &metrics.body[..7]), (200, &b"# TYPE "[..]));

    send(&node, "a", "b", json!({"secret": "canary"})).await;
    let passed = node.get("/debug/messages?agent=b&limit=5").await;
    assert_eq!(passed.ok(200)["messages"][0]["from_agent"], "a");
    assert!(!String::from_utf8_lossy(&passed.body).contains("canary"));
    assert_eq!(node.get("/debug/messages?agent=c").await.ok(200)["messages"], json!([]));

    let openapi = node.get("/openapi.json").await.ok(200);
    assert_eq!(openapi["openapi"], "3.1.0");
    assert_eq!(node.get("/docs").await.headers["location"], "/docs/index.html");
    for file in [
        "index.html",
        "swagger-ui-bundle.js",
        "swagger-ui.css",
        "swagger-initializer.js",
    ] {
        let page = node.get(&format!("/docs/{file}")).await;
        assert_eq!(page.status, 200, "{file}");
        assert!(page.headers.contains_key("content-security-policy"));
    }
    let errors = node.get("/docs/errors").await;
    assert!(String::from_utf8_lossy(&errors.body).contains("id=\"WEFT-1302\""));
    node.get("/docs/nothing.js").await.problem(404, 2001);
    node.stop().await;
}

// --- errors --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong() {
    let node = Node::start().await;
    node.get("/nowhere").await.problem(404, 2001);
    let wrong_method = node.get("/messages/send").await;
    assert_eq!(wrong_method.headers["allow"], "POST");
    wrong_method.problem(405, 2002);
    node.post_text("/messages/send", "{").await.problem(400, 2000);
    node.post_text("/messages/send", "{\"a\": ".repeat(70))
        .await
        .problem(400, 2000);
    let twice = r#"{"from_agent": "a", "from_agent": "b", "to_agent": "c"}"#;
    assert_eq!(
        pointers(&node.post_text("/messages/send", twice).await.problem(400, 1000)),
        ["/from_agent"]
    );
    let wrong = json!({"from_agent": "a b", "to_agent": "register", "ttl": "1", "qos": -1, "x": 1});
    let problem = node.post("/messages/send", wrong).await.problem(400, 1000);
    assert_eq!(pointers(&problem), ["/from_agent", "/to_agent", "/qos", "/ttl", "/x"]);
    let long = json!({"from_agent": "a", "to_agent": "b", "ttl": 40 * 24 * 3600});
    node.post("/messages/send", long).await.problem(400, 1000);
    let reserved = json!({"from_agent": "a", "to_agent": "b", "headers": {"Weft-From": "x"}});
    assert_eq!(
        pointers(&node.post("/messages/send", reserved).await.problem(400, 1000)),
        ["/headers/Weft-From"]
    );
    let poll = node
        .get("/agents/b/messages?max=0&wait=-1s&ack=maybe&visibility_timeout=0s&foo=1&max=2")
        .await;
    assert_eq!(
        pointers(&poll.problem(400, 1000)),
        ["max", "max", "wait", "ack", "visibility_timeout", "foo"]
    );
    for bad in ["a%20b", "..", "%2F", "register%00", &"x".repeat(300), "%ff", "a%2F%2Fb"] {
        node.get(&format!("/agents/{bad}/messages")).await.problem(400, 1000);
    }
    let form = node
        .request("POST", "/messages/send")
        .header("content-type", "application/x-www-form-urlencoded");
    node.answer(form.body(Full::from("a=b")).unwrap())
        .await
        .problem(415, 2003);
    let own_keys = json!({"agent_id": "a", "specialized_capabilities": []});
    let problem = node.post("/agents/register", own_keys).await.problem(400, 1000);
    assert!(problem["detail"].as_str().unwrap().contains("metadata"));
    node.stop().await;
}

fn zstd(bytes: &[u8]) -> Bytes {
    zstd::bulk::compress(bytes, 1).unwrap().into()
}

#[tokio::test]
async fn bodies_are_bounded_inflated_or_not() {
    let node = Node::start().await;
    let send = |encoding: &'static str, body: Bytes| {
        let request = node
            .request("POST", "/messages/send")
            .header("content-type", "application/json")
            .header("content-encoding", encoding);
        node.answer(request.body(Full::new(body)).unwrap())
    };
    let small = json!({"from_agent": "a", "to_agent": "b", "body": "x".repeat(5000)}).to_string();
    send("zstd", zstd(small.as_bytes())).await.ok(202);
    let bomb = zstd(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 100_000);
    send("zstd", bomb).await.problem(413, 2005);
    send("zstd", Bytes::from_static(b"no zstd")).await.problem(400, 2000);
    send("br", Bytes::from_static(b"x")).await.problem(415, 2004);
    send("gzip, gzip", Bytes::from_static(b"x")).await.problem(415, 2004);
    let large = json!({"from_agent": "a", "to_agent": "b", "body": "x".repeat((1 << 20) + 1)});
    node.post("/messages/send", large).await.problem(413, 1300);
    let huge = json!({"from_agent": "a", "to_agent": "b", "body": "x".repeat(3 << 20)});
    node.post("/messages/send", huge).await.problem(413, 2005);
    node.stop().await;
}

#[tokio::test]
async fn large_answers_are_compressed_where_the_client_asks() {
    let node = Node::start().await;
    let request = node.request("GET", "/openapi.json").header("accept-encoding", "zstd");
    let answer = node.answer(request.body(Full::default()).unwrap()).await;
    assert_eq!(answer.headers["content-encoding"], "zstd");
    let text = zstd::stream::decode_all(&answer.body[..]).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&text).unwrap()["openapi"], "3.1.0");
    let small = node.request("GET", "/health").header("accept-encoding", "zstd");
    let answer = node.answer(small.body(Full::default()).unwrap()).await;
    assert!(!answer.headers.contains_key("content-encoding"));
    node.stop().await;
}

#[tokio::test]
async fn foreign_pages_are_refused_unless_they_are_listed() {
    let setup = Setup {
        http: Config {
            origins: vec!["https://console.example".into()],
            ..Config::default()
        },
        ..Setup::default()
    };
    let node = Node::with(setup).await;
    let from = |origin: &str| {
        node.answer(
            node.request("GET", "/agents")
                .header("origin", origin)
                .body(Full::default())
                .unwrap(),
        )
    };
    from("https://evil.example").await.problem(403, 2007);
    let listed = from("https://console.example").await;
    assert_eq!(listed.headers["access-control-allow-origin"], "https://console.example");
    listed.ok(200);
    from(&format!("http://{}", node.address)).await.ok(200);
    let preflight = node
        .request("OPTIONS", "/messages/send")
        .header("origin", "https://console.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type");
    let preflight = node.answer(preflight.body(Full::default()).unwrap()).await;
    assert_eq!(
        (
            preflight.status.as_u16(),
            &preflight.headers["access-control-allow-origin"]
        ),
        (200, &"https://console.example".parse().unwrap())
    );
    let image = node
        .request("GET", "/agents/b/messages?ack=auto")
        .header("sec-fetch-site", "cross-site")
        .header("sec-fetch-mode", "no-cors");
    node.answer(image.body(Full::default()).unwrap())
        .await
        .problem(403, 2007);
    node.stop().await;
}

/// Takes the agent's id out of a header, for want of credentials.
#[derive(Debug)]
struct ByHeader;

impl Authenticator for ByHeader {
    fn principal(&self, parts: &axum::http::request::Parts) -> Result<Principal, FabricError> {
        let name = parts
            .headers
            .get("x-agent")
            .and_then(|value| value.to_str().ok())
            .unwrap_or("nobody");
        Ok(Principal::Agent(AgentId::new(name).unwrap()))
    }
}

#[tokio::test]
async fn a_proven_agent_acts_as_itself_and_as_nobody_else() {
    let setup = Setup {
        authenticator: Arc::new(ByHeader),
        ..Setup::default()
    };
    let node = Node::with(setup).await;
    let request = |method: &str, path: &str, agent: &str, body: Value| {
        let request = node
            .request(method, path)
            .header("x-agent", agent)
            .header("content-type", "application/json");
        node.answer(request.body(Full::from(body.to_string())).unwrap())
    };
    let send = request(
        "POST",
        "/messages/send",
        "mallory",
        json!({"from_agent": "alice", "to_agent": "bob"}),
    );
    send.await.problem(403, 1100);
    request("POST", "/messages/send", "alice", json!({"to_agent": "bob", "body": 1}))
        .await
        .ok(202);
    request("GET", "/agents/bob/messages", "mallory", Value::Null)
        .await
        .problem(403, 1100);
    // Bob's own session does not open the door for Mallory.
    let polled = request("GET", "/agents/bob/messages?wait=20s", "bob", Value::Null)
        .await
        .ok(200);
    assert_eq!(polled["messages"][0]["from_agent"], "alice");
    request("GET", "/agents/bob/messages", "mallory", Value::Null)
        .await
        .problem(403, 1100);
    request("GET", "/agents/bob/messages/stream", "mallory", Value::Null)
        .await
        .problem(403, 1100);
    request(
        "POST",
        "/agents/bob/messages/ack",
        "mallory",
        json!({"delivery_ids": ["d_001-1-1"]}),
    )
    .await
    .problem(403, 1100);
    node.stop().await;
}

// --- connections ---------------------------------------------------------------------------------------------------

async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    // A reset is an end too.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut read))
        .await
        .expect("the node closes");
    read
}

#[tokio::test]
async fn connections_that_say_nothing_or_half_a_request_are_closed() {
    let setup = Setup {
        http: Config {
            header_timeout_ms: 200,
            body_timeout_ms: 200,
            ..Config::default()
        },
        ..Setup::default()
    };
    let node = Node::with(setup).await;
    for start in [
        "",
        "P",
        "PRI * HT",
        "GET /health HT",
        "POST /messages/send HTTP/1.1\r\nhost: localhost\r\n",
    ] {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        read_to_end(&mut stream).await;
    }
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let half = "POST /messages/send HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{";
    stream.write_all(half.as_bytes()).await.unwrap();
    let answer = String::from_utf8(read_to_end(&mut stream).await).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 408") && answer.contains("WEFT-2006"),
        "{answer}"
    );
    node.stop().await;
}

#[tokio::test]
async fn connections_of_one_address_are_bounded() {
    let setup = Setup {
        http: Config {
            connections_per_address_max: 2,
            ..Config::default()
        },
        ..Setup::default()
    };
    let node = Node::with(setup).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream
            .write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .unwrap();
        assert!(stream.read(&mut [0; 1]).await.unwrap() > 0);
        held.push(stream);
    }
    let mut refused = TcpStream::connect(node.address).await.unwrap();
    assert!(read_to_end(&mut refused).await.is_empty());
    assert_eq!(node.counters.snapshot().connections_refused, 1);
    drop(held);
    let again = async {
        loop {
            let mut stream = TcpStream::connect(node.address).await.unwrap();
            let _ = stream
                .write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                .await;
            if !read_to_end(&mut stream).await.is_empty() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again)
        .await
        .expect("the address is let in again");
    node.stop().await;
}

#[tokio::test]
async fn http_2_is_spoken_on_the_same_port() {
    let node = Node::start().await;
    let stream = TcpStream::connect(node.address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(executor, io)
        .await
        .unwrap();
    let driving = tokio::spawn(connection);
    let request = hyper::Request::get(format!("http://{}/health", node.address))
        .body(Full::default())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.version()),
        (200, hyper::Version::HTTP_2)
    );
    driving.abort();
    node.stop().await;
}

#[tokio::test]
async fn oversized_headers_are_refused() {
    let node = Node::start().await;
    let request = node.request("GET", "/health").header("x-large", "x".repeat(20 * 1024));
    node.answer(request.body(Full::default()).unwrap())
        .await
        .problem(431, 2014);
    let mut request = node.request("GET", "/health");
    for n in 0..100 {
        request = request.header(format!("x-{n}"), "1");
    }
    node.answer(request.body(Full::default()).unwrap())
        .await
        .problem(431, 2014);
    node.stop().await;
}

/// What a node answers to bytes, up to the end of the connection.
async fn raw(node: &Node, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    String::from_utf8(read_to_end(&mut stream).await).unwrap()
}

/// Asserts that an answer is a whole problem document of this status and code.
#[track_caller]
fn assert_problem(answer: &str, status: u16, code: u16, what: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
    assert!(
        head.contains("content-type: application/problem+json"),
        "{what}: {answer}"
    );
    assert!(
        head.contains(&format!("content-length: {}", body.len())),
        "{what}: {answer}"
    );
    let problem: Value = serde_json::from_str(body).expect("a JSON document");
    assert_eq!(problem["code"], format!("WEFT-{code}"), "{what}: {answer}");
    assert_eq!(problem["status"], status, "{what}: {answer}");
}

/// hyper answers these by itself, with an empty body; the connection exchanges its answer for a problem. Another version of hyper
/// that writes it differently is noticed here.
#[tokio::test]
async fn what_no_route_ever_sees_is_refused_with_a_problem_too() {
    let node = Node::start().await;
    let get = "GET /health HTTP/1.1\r\nhost: localhost\r\n";
    for (status, code, request) in [
        (400, 2013, "HELLO WORLD\r\n\r\n".to_string()),
        (400, 2013, "GET /health HTTP/3.7\r\n\r\n".into()),
        (400, 2013, "GET /he alth HTTP/1.1\r\n\r\n".into()),
        (400, 2013, format!("{get}x y: 1\r\n\r\n")),
        (
            400,
            2013,
            format!("{get}content-length: 1\r\ncontent-length: 2\r\n\r\n"),
        ),
        (400, 2013, format!("{get}transfer-encoding: xchunked\r\n\r\n")),
        (431, 2014, format!("{get}x: {}\r\n\r\n", "a".repeat(20_000))),
        (
            431,
            2014,
            format!("GET /agents?prefix={} HTTP/1.1\r\n\r\n", "a".repeat(70_000)),
        ),
        (431, 2014, format!("{get}{}\r\n", "x: 1\r\n".repeat(70))),
    ] {
        let answer = raw(&node, request.as_bytes()).await;
        assert_problem(&answer, status, code, request.get(..60).unwrap_or(&request));
    }
    assert_eq!(node.counters.snapshot().errors, 9);
    node.get("/health").await.ok(200);
    node.stop().await;
}

#[tokio::test]
async fn a_request_names_one_host_that_the_node_is_known_by() {
    let setup = Setup {
        http: Config {
            hosts: vec!["weft.internal".into()],
            ..Config::default()
        },
        ..Setup::default()
    };
    let node = Node::with(setup).await;
    let close = "connection: close\r\n\r\n";
    for host in ["localhost", "127.0.0.1:1", "[::1]:8000", "weft.internal"] {
        let answer = raw(
            &node,
            format!("GET /agents HTTP/1.1\r\nhost: {host}\r\n{close}").as_bytes(),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{host}: {answer}");
    }
    // A page whose own name was made to point here: to its browser this node is the page's own origin.
    let rebound = "GET /agents/b/messages HTTP/1.1\r\nhost: evil.example\r\norigin: http://evil.example\r\n";
    assert_problem(
        &raw(&node, format!("{rebound}{close}").as_bytes()).await,
        421,
        2015,
        "rebound",
    );
    for (headers, what) in [
        ("", "none"),
        ("host: localhost\r\nhost: localhost\r\n", "two"),
        ("host: a b\r\n", "malformed"),
        (
            "host: localhost\r\ntransfer-encoding: gzip, chunked\r\n",
            "another coding",
        ),
    ] {
        let answer = raw(
            &node,
            format!("POST /messages/send HTTP/1.1\r\n{headers}{close}").as_bytes(),
        )
        .await;
        assert_problem(&answer, 400, 2013, what);
    }
    node.stop().await;
}

/// Closing over what a client still sends resets the connection, and it would never read why it was refused.
#[tokio::test]
async fn a_client_that_is_still_sending_reads_its_refusal() {
    let node = Node::start().await;
    for path in ["/messages/send", "/nothing/here"] {
        for _ in 0..10 {
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 8000000\r\n\r\n"
            );
            let mut stream = TcpStream::connect(node.address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            stream
                .write_all(&vec![b' '; 8_000_000])
                .await
                .expect("the body is taken, or thrown away");
            let mut answer = vec![0; 12];
            stream.read_exact(&mut answer).await.expect("an answer");
            let expected = if path == "/messages/send" {
                "HTTP/1.1 413"
            } else {
                "HTTP/1.1 404"
            };
            assert_eq!(String::from_utf8_lossy(&answer), expected);
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn a_body_that_is_declared_too_large_is_not_waited_for() {
    let node = Node::start().await;
    let head = "POST /messages/send HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 10000000000\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n";
    assert_problem(&raw(&node, head.as_bytes()).await, 413, 2005, "declared");
    node.stop().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_over_http_2_is_a_problem_as_well() {
    let node = Node::start().await;
    let stream = TcpStream::connect(node.address).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(executor, hyper_util::rt::TokioIo::new(stream))
            .await
            .unwrap();
    let driving = tokio::spawn(connection);
    let request = hyper::Request::get(format!("http://{}/health", node.address)).header("x-large", "x".repeat(20_000));
    let response = sender
        .send_request(request.body(Full::default()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 431);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["code"], "WEFT-2014");
    driving.abort();
    node.stop().await;
}

#[tokio::test]
async fn what_is_created_says_where_it_is() {
    let node = Node::start().await;
    let agent = node.post("/agents/register", json!({"agent_id": "acme/planner"})).await;
    assert_eq!(agent.headers["location"], "/agents/acme%2Fplanner");
    let group = node.post("/groups/create", json!({"group_id": "acme/team"})).await;
    assert_eq!(group.headers["location"], "/groups/acme%2Fteam");
    let sent = node
        .post("/messages/send", json!({"from_agent": "a", "to_agent": "b"}))
        .await;
    for created in [agent, group, sent] {
        node.get(created.headers["location"].to_str().unwrap()).await.ok(200);
    }
    node.stop().await;
}

#[tokio::test]
async fn metadata_is_shown_as_it_was_given() {
    let node = Node::start().await;
    let metadata = r#"{"z": 1.50, "a": 12345678901234567890123, "huge": 1e400, "half": "\ud800"}"#;
    let text = format!(r#"{{"agent_id": "odd", "metadata": {metadata}}}"#);
    node.post_text("/agents/register", text).await.ok(201);
    for path in ["/agents/odd", "/agents?prefix=odd"] {
        let answer = node.get(path).await;
        assert!(String::from_utf8_lossy(&answer.body).contains(metadata), "{answer:?}");
    }
    node.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_nothing_could_be_pushed_to_is_refused_at_once() {
    let node = Node::start().await;
    let register = |url: &str| node.post("/agents/register", json!({"agent_id": "a", "endpoints": {"http": url}}));
    for bad in [
        "ftp://127.0.0.1/",
        "http:///x",
        "http://a:b@127.0.0.1/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:/",
        "http://[::1",
        "mailto:x",
    ] {
        let problem = register(bad).await.problem(400, 1000);
        assert_eq!(pointers(&problem), ["/endpoints/http"], "{bad}");
    }
    for good in [
        "http://127.0.0.1:8080/api?x=1",
        "https://agent.example",
        "http://[::1]:80/",
    ] {
        let answer = register(good).await;
        assert!(answer.status.is_success(), "{good}: {answer:?}");
    }
    node.stop().await;
}

#[tokio::test]
async fn queries_that_do_not_decode_are_refused() {
    let node = Node::start().await;
    for query in ["prefix=%FF", "prefix=%zz", "prefix=a%", "%ff=1"] {
        node.get(&format!("/agents?{query}")).await.problem(400, 1000);
    }
    node.get("/agents?prefix=%C3%A9+x").await.ok(200);
    node.stop().await;
}

/// The description's methods of each path are those that the node serves there: `Allow` tells them.
#[tokio::test]
async fn each_path_takes_the_methods_that_its_description_lists() {
    let node = Node::start().await;
    let document = node.get("/openapi.json").await.ok(200);
    for (path, item) in document["paths"].as_object().unwrap() {
        let concrete = path.replace(['{', '}'], "");
        let refused = node
            .answer(node.request("PATCH", &concrete).body(Full::default()).unwrap())
            .await;
        refused.problem(405, 2002);
        let allowed = refused.headers["allow"].to_str().unwrap().to_ascii_lowercase();
        let mut allowed: Vec<_> = allowed
            .split(',')
            .map(str::trim)
            .filter(|method| *method != "head")
            .collect();
        allowed.sort_unstable();
        let described: Vec<_> = item.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(allowed, described, "{path}");
    }
    node.stop().await;
}

/// Statuses that no well-meant request meets, so that the property-based tester seldom does.
#[tokio::test]
async fn every_problem_is_described_where_it_can_come() {
    let node = Node::start().await;
    let document = node.get("/openapi.json").await.ok(200);
    for (path, item) in document["paths"].as_object().unwrap() {
        let concrete = path.replace(['{', '}'], "");
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_ascii_uppercase();
            let ask = |name: &'static str, value: &'static str, body: &'static str| {
                let request = node.request(&method, &concrete).header(name, value);
                // The head alone: an event stream does not end.
                node.open(request.body(Full::from(body)).unwrap())
            };
            let answers = [
                ask("origin", "http://evil.example", "").await,
                ask("content-type", "text/plain", "x").await,
                ask("content-encoding", "br", "x").await,
                ask("content-type", "application/json", "{").await,
            ];
            for answer in answers {
                let status = answer.status();
                if status.is_success() {
                    continue;
                }
                let status = status.as_str();
                assert!(
                    operation["responses"].get(status).is_some(),
                    "{method} {path}: {answer:?}"
                );
            }
        }
    }
    node.stop().await;
}
