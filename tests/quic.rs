//! The QUIC edge and the client, over real sockets against a fabric on the memory store.

mod quic_node;
#[path = "quic/runs.rs"]
mod runs;

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use proptest::{prelude::*, strategy::ValueTree};
use quic_node::{
    PATIENCE, Server,
    raw::{self, Raw},
    relay::Relay,
    until, within,
};
use weft::{
    client::{
        self, Accepted, Client, Error, Health, Message, ReceiveOptions, Refusal, Registration, Session, SessionOptions,
        SessionState, SettleOutcome, Status, StatusQuery,
    },
    edge::quic,
    frame::{
        Address, AgentId, MessageId, Priority, Qos, TopicFilter, TopicName,
        batch::{Compression, Packer},
    },
    native::{
        Close,
        control::{ToClient, ToNode},
        link::Link,
        stream_of,
    },
    router::{config::Config, surface::Principal},
};

fn id(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

fn to(agent: &str) -> Message {
    Message::to_agent(&id(agent))
}

async fn session(client: &Client, agent: &str) -> Session {
    within(client.session(&id(agent), SessionOptions::default()))
        .await
        .unwrap()
}

async fn sender(client: &Client, agent: &str) -> Session {
    within(client.session(&id(agent), SessionOptions::send_only()))
        .await
        .unwrap()
}

fn text(delivery: &client::Delivery) -> String {
    String::from_utf8(delivery.body().to_vec()).unwrap()
}

async fn send(session: &Session, message: Message) -> Result<Accepted, Error> {
    within(async { session.send(message).await?.await }).await
}

async fn recv(session: &Session) -> client::Delivery {
    within(session.recv()).await.unwrap()
}

// --- messages in both directions -------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_session_carries_messages_receipts_and_acknowledgements() {
    let server = Server::start().await;
    let client = server.client().await;
    let (alice, bob) = (sender(&client, "alice").await, session(&client, "bob").await);
    let mut handles = Vec::new();
    for n in 0..500 {
        let message = to("bob").header("n", n.to_string()).text(format!("message {n}"));
        handles.push(within(alice.send(message)).await.unwrap());
    }
    let mut received = Vec::new();
    while received.len() < 500 {
        let before = received.len();
        within(bob.recv_batch(&mut received, 100)).await.unwrap();
        let outcomes = within(bob.ack_all(&received[before..])).await;
        assert!(
            outcomes.iter().all(|one| matches!(one, SettleOutcome::Done)),
            "{outcomes:?}"
        );
    }
    let bodies: Vec<_> = received.iter().map(text).collect();
    let sent: Vec<_> = (0..500).map(|n| format!("message {n}")).collect();
    assert_eq!(bodies, sent, "G5: in order");
    assert!(received.iter().all(|one| one.from() == "alice" && one.attempt() == 1));
    assert_eq!(received[7].header("n"), Some("7"));
    for handle in handles {
        let accepted = within(handle).await.unwrap();
        assert!(accepted.tracking_id.is_some() && !accepted.duplicate);
        // A call, carried by QUIC too.
        let status = client
            .status(StatusQuery::Tracking(accepted.tracking_id.unwrap()))
            .await;
        assert_eq!(status.unwrap().status, Status::Delivered);
    }
    assert_eq!(alice.stats().answered, 500);
    within(alice.close(PATIENCE)).await.unwrap();
    within(bob.close(PATIENCE)).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_quality_of_service_passes_in_both_directions() {
    let server = Server::start().await;
    let client = server.client().await;
    let (alice, bob) = (session(&client, "alice").await, session(&client, "bob").await);
    for (from, other, name) in [(&alice, &bob, "bob"), (&bob, &alice, "alice")] {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            for n in 0..100 {
                let accepted = send(from, to(name).qos(qos).text(format!("{n}"))).await.unwrap();
                assert_eq!(accepted.tracking_id.is_some(), qos.is_durable());
            }
            for n in 0..100 {
                let delivery = recv(other).await;
                assert_eq!((text(&delivery), delivery.qos()), (format!("{n}"), qos));
                assert_eq!(delivery.delivery_id().is_some(), qos.is_durable());
                within(delivery.ack()).await.unwrap();
            }
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_a_message_arrives_as_it_was_sent() {
    let server = Server::start().await;
    let client = server.client().await;
    let (alice, bob) = (session(&client, "alice").await, session(&client, "bob").await);
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let message = to("bob")
        .id(&MessageId::new("mine:1").unwrap())
        .priority(Priority::High)
        .qos(Qos::ExactlyOnce)
        .ttl(Duration::from_secs(60))
        .reply_to(&alice.reply_address().unwrap())
        .correlation(Bytes::from_static(&[0, 255, 7]))
        .message_type("task_request")
        .content_type("application/json")
        .prefer_protocol("quic")
        .header("k", "v")
        .header("k", "w")
        .traceparent(traceparent)
        .body(vec![9; 300_000]);
    send(&alice, message).await.unwrap();
    let delivery = recv(&bob).await;
    assert_eq!(
        (delivery.id(), delivery.from(), delivery.to()),
        ("mine:1", "alice", "agent:bob")
    );
    assert_eq!(
        (delivery.priority(), delivery.qos()),
        (Priority::High, Qos::ExactlyOnce)
    );
    assert_eq!(
        (delivery.ttl(), delivery.correlation()),
        (Duration::from_secs(60), &[0, 255, 7][..])
    );
    assert_eq!(
        (delivery.message_type(), delivery.content_type()),
        ("task_request", "application/json")
    );
    assert_eq!(delivery.headers().collect::<Vec<_>>(), [("k", "v"), ("k", "w")]);
    assert_eq!((&*delivery.traceparent(), delivery.queue()), (traceparent, ""));
    assert_eq!(delivery.body(), &vec![9; 300_000]);
    // The reply reaches the session's own queue.
    send(&bob, delivery.reply().unwrap().text("done")).await.unwrap();
    let reply = recv(&alice).await;
    assert_eq!((text(&reply), reply.correlation()), ("done".into(), &[0, 255, 7][..]));
    assert!(reply.queue().starts_with("agent:alice#"), "{}", reply.queue());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_all_priorities_arrive_each_priority_in_order() {
    let server = Server::start().await;
    let client = server.client().await;
    let (alice, bob) = (sender(&client, "alice").await, session(&client, "bob").await);
    let mut handles = Vec::new();
    for n in 0..400 {
        let priority = Priority::DESCENDING[n % 4];
        let message = to("bob").priority(priority).text(format!("{n}"));
        handles.push(within(alice.send(message)).await.unwrap());
    }
    let mut last = [None; Priority::COUNT];
    for _ in 0..400 {
        let delivery = recv(&bob).await;
        let (number, lane) = (text(&delivery).parse::<usize>().unwrap(), delivery.priority().index());
        assert!(last[lane].is_none_or(|last| number > last), "G5: in order");
        last[lane] = Some(number);
        within(delivery.ack()).await.unwrap();
    }
    for handle in handles {
        within(handle).await.unwrap();
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_over_the_session_and_over_a_call() {
    let server = Server::start().await;
    let client = server.client().await;
    let (alice, bob) = (session(&client, "alice").await, session(&client, "bob").await);
    let answering = tokio::spawn(async move {
        for _ in 0..2 {
            let request = recv(&bob).await;
            let answer = request.reply().unwrap().text(format!("{} too", text(&request)));
            send(&bob, answer).await.unwrap();
            within(request.ack()).await.unwrap();
        }
    });
    let reply = within(alice.request(to("bob").text("one"), PATIENCE)).await.unwrap();
    assert_eq!(&reply.body()[..], b"one too");
    let request = to("bob").from(&id("alice")).text("two");
    let reply = within(client.request(request, PATIENCE)).await.unwrap();
    assert_eq!(&reply.body()[..], b"two too");
    answering.await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_reach_their_subscribers_until_they_unsubscribe() {
    let server = Server::start().await;
    let client = server.client().await;
    let (alice, bob) = (sender(&client, "alice").await, session(&client, "bob").await);
    let filter = TopicFilter::new("weather/+").unwrap();
    let topic = || Message::to_topic(&TopicName::new("weather/oslo").unwrap());
    within(bob.subscribe(std::slice::from_ref(&filter))).await.unwrap();
    send(&alice, topic().text("rain")).await.unwrap();
    let delivery = recv(&bob).await;
    assert_eq!(text(&delivery), "rain");
    within(delivery.ack()).await.unwrap();
    within(bob.unsubscribe(&[filter])).await.unwrap();
    assert_eq!(send(&alice, topic().text("snow")).await.unwrap().recipients, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_topics_travel_in_batches_that_are_not_too_large_to_read() {
    let server = Server::start().await;
    let client = server.client().await;
    let (alice, bob) = (sender(&client, "alice").await, session(&client, "bob").await);
    let long = format!("long/{}", "x".repeat(65_530));
    let topic = || Message::to_topic(&TopicName::new(&long).unwrap());
    // Twins, whose envelopes together are more than a batch may unpack to.
    let mut sent = Vec::new();
    for number in 0..600 {
        sent.push(alice.send(topic().text(number.to_string())).await.unwrap());
    }
    for sent in sent {
        assert_eq!(within(sent).await.unwrap().recipients, 0);
    }
    within(bob.subscribe(&[TopicFilter::new(&long).unwrap()]))
        .await
        .unwrap();
    for number in 0..50 {
        assert_eq!(
            send(&alice, topic().text(number.to_string())).await.unwrap().recipients,
            1
        );
    }
    for number in 0..50 {
        let delivery = recv(&bob).await;
        assert_eq!(
            (text(&delivery), delivery.to().len()),
            (number.to_string(), 6 + long.len())
        );
        within(delivery.ack()).await.unwrap();
    }
    let many: Vec<_> = (0..17)
        .map(|number| TopicFilter::new(format!("{number}/{long}").split_at(65_000).0).unwrap())
        .collect();
    assert!(
        within(bob.subscribe(&many)).await.is_err(),
        "refused, and the session goes on"
    );
    within(bob.subscribe(&many[..14])).await.unwrap();
    assert!(within(bob.subscribe(&many[14..16])).await.is_err());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_answered_for_itself_whether_the_client_or_the_fabric_refuses_it() {
    let config = Config {
        registration_required: true,
        ..Config::default()
    };
    let server = Server::with(config, quic::Config::default()).await;
    let client = server.client().await;
    for agent in ["alice", "bob"] {
        let agent = id(agent);
        within(client.register_agent(&agent, Registration::default()))
            .await
            .unwrap();
    }
    let alice = sender(&client, "alice").await;
    let before = alice.send(to("bob").text("1")).await.unwrap();
    let unknown = alice.send(to("nobody")).await.unwrap();
    let reserved = alice.send(to("bob").header("weft-from", "eve")).await.unwrap();
    let large = alice.send(to("bob").body(vec![0; 1_100_000])).await.unwrap();
    let after = alice.send(to("bob").text("2")).await.unwrap();
    within(before).await.unwrap();
    let unknown = within(unknown).await.unwrap_err();
    assert_eq!((unknown.code(), unknown.is_retryable()), (Some("WEFT-1200"), false));
    assert_eq!(unknown.refused().unwrap().grpc_status, "NOT_FOUND");
    let reserved = within(reserved).await.unwrap_err();
    assert_eq!(reserved.code(), Some("WEFT-1001"));
    assert_eq!(reserved.refused().unwrap().fields[0].0, "headers");
    let large = within(large).await.unwrap_err();
    assert_eq!(large.code(), Some("WEFT-1300"));
    within(after).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_batches_carry_the_same() {
    let server = Server::start().await;
    let client = within(server.builder().zstd().connect()).await.unwrap();
    let (alice, bob) = (sender(&client, "alice").await, session(&client, "bob").await);
    for n in 0..50 {
        let message = to("bob").qos(Qos::AtMostOnce).text(format!("{n} ").repeat(2000));
        let _unanswered = within(alice.send(message)).await.unwrap();
    }
    for n in 0..50 {
        assert_eq!(text(&recv(&bob).await), format!("{n} ").repeat(2000));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_with_large_datagrams_on_both_ends_carries_the_same() {
    let link = Link {
        mtu: 6400,
        segmentation_offload: false,
        ..Link::default()
    };
    let edge = quic::Config {
        link: link.clone(),
        ..quic::Config::default()
    };
    let server = Server::with(Config::default(), edge).await;
    let client = server.client_with(link).await;
    let (alice, bob) = (sender(&client, "alice").await, session(&client, "bob").await);
    for n in 0u8..20 {
        let message = to("bob").qos(Qos::AtMostOnce).body(vec![n; 100_000]);
        let _unanswered = within(alice.send(message)).await.unwrap();
    }
    for n in 0u8..20 {
        assert_eq!(recv(&bob).await.body(), &vec![n; 100_000]);
    }
    server.stop().await;
}

// --- credit and settling ---------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn credit_bounds_what_is_handed_out_and_is_granted_anew() {
    let server = Server::start().await;
    let client = server.client().await;
    let alice = sender(&client, "alice").await;
    let options = SessionOptions {
        window_messages: 2,
        ..SessionOptions::default()
    };
    let bob = within(client.session(&id("bob"), options)).await.unwrap();
    for n in 0..5 {
        send(&alice, to("bob").text(format!("{n}"))).await.unwrap();
    }
    let (first, second) = (recv(&bob).await, recv(&bob).await);
    let in_flight = |server: &Server| {
        let views = server.fabric.connections(&Principal::Anyone).unwrap();
        views.iter().map(|view| view.in_flight.messages).sum::<u32>()
    };
    assert_eq!(in_flight(&server), 2, "no more than the window");
    within(first.ack()).await.unwrap();
    assert_eq!(text(&recv(&bob).await), "2");
    within(bob.set_window(4, 1 << 20)).await.unwrap();
    assert_eq!(
        (text(&recv(&bob).await), text(&recv(&bob).await)),
        ("3".into(), "4".into())
    );
    drop(second);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_delivery_comes_again_and_a_stale_id_changes_nothing() {
    let server = Server::start().await;
    let client = server.client().await;
    let (alice, bob) = (sender(&client, "alice").await, session(&client, "bob").await);
    send(&alice, to("bob").text("again")).await.unwrap();
    let first = recv(&bob).await;
    within(first.nack(Refusal::Release)).await.unwrap();
    let second = recv(&bob).await;
    assert_eq!(
        (text(&second), second.attempt(), second.is_redelivered()),
        ("again".into(), 1, true)
    );
    within(second.nack(Refusal::RetryAfter(Duration::from_millis(1))))
        .await
        .unwrap();
    let third = recv(&bob).await;
    assert_eq!(third.attempt(), 2);
    assert!(matches!(within(first.ack()).await, Err(Error::Stale)));
    within(third.nack(Refusal::DeadLetter)).await.unwrap();
    let letters = within(client.dead_letters(&Address::agent(&id("bob")), Default::default())).await;
    assert_eq!(letters.unwrap().0.len(), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attach_is_refused_with_its_reason() {
    let config = Config {
        registration_required: true,
        ..Config::default()
    };
    let server = Server::with(config, quic::Config::default()).await;
    let client = server.client().await;
    let error = within(client.session(&id("nobody"), SessionOptions::default()))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some("WEFT-1200"), "{error}");
    server.stop().await;
}

// --- lost and moved connections --------------------------------------------------------------------------------------

/// Gives a silent peer up soon.
fn impatient() -> Link {
    Link {
        idle_timeout_ms: 1_000,
        keep_alive_ms: 200,
        ..Link::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_loses_and_doubles_nothing() {
    let edge = quic::Config {
        link: impatient(),
        ..quic::Config::default()
    };
    let server = Server::with(Config::default(), edge).await;
    let relay = Relay::start(server.quic).await;
    let builder = server.builder_at(relay.address).quic_link(impatient());
    let client = within(builder.connect()).await.unwrap();
    let (alice, bob) = (sender(&client, "alice").await, session(&client, "bob").await);
    let sending = tokio::spawn(async move {
        let mut handles = Vec::new();
        for n in 0..600 {
            let qos = if n % 2 == 0 { Qos::AtLeastOnce } else { Qos::ExactlyOnce };
            handles.push(
                within(alice.send(to("bob").qos(qos).text(format!("{n}"))))
                    .await
                    .unwrap(),
            );
        }
        for handle in handles {
            within(handle).await.unwrap();
        }
    });
    let (mut seen, mut settled, mut cuts) = (BTreeSet::new(), BTreeSet::new(), 0);
    while seen.len() < 600 {
        let delivery = recv(&bob).await;
        assert!(
            !settled.contains(&text(&delivery)),
            "G7: {} came again",
            text(&delivery)
        );
        seen.insert(text(&delivery));
        if cuts < 2 && seen.len() >= 100 * (cuts + 1) {
            cuts += 1;
            relay.cut();
            let mut states = bob.states();
            let lost = states.wait_for(|state| matches!(state, SessionState::Reconnecting { .. }));
            within(lost).await.unwrap();
            relay.mend();
        }
        if within(delivery.ack()).await.is_ok() {
            settled.insert(text(&delivery));
        }
    }
    within(sending).await.unwrap();
    assert!(bob.stats().reconnects >= 2, "{:?}", bob.stats());
    // What was sent again was answered with the first one's receipt.
    assert_eq!(server.fabric.counters().accepted.iter().sum::<u64>(), 600);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_moves_to_another_socket_goes_on_with_its_connection() {
    let server = Server::start().await;
    let (still, moving) = (server.client().await, server.client().await);
    let (alice, bob) = (sender(&still, "alice").await, session(&moving, "bob").await);
    for n in 0..20 {
        send(&alice, to("bob").text(format!("{n}"))).await.unwrap();
        if n % 5 == 0 {
            let socket = Link::default().bind("127.0.0.1:0".parse().unwrap()).unwrap();
            assert!(moving.rebind(socket).unwrap());
        }
        let delivery = recv(&bob).await;
        assert_eq!(text(&delivery), format!("{n}"));
        within(delivery.ack()).await.unwrap();
    }
    assert_eq!(bob.stats().reconnects, 0, "the connection itself moved");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_gone_on_with_gives_its_deliveries_back_at_once() {
    let server = Server::start().await;
    let client = server.client().await;
    let alice = sender(&client, "alice").await;
    let mut first = Raw::greeted(&server).await;
    let key = first.attach("bob", Default::default()).await.resume;
    send(&alice, to("bob").text("held")).await.unwrap();
    let held = first.deliveries().await;
    assert_eq!(&held[0].0[..], b"held");
    // Its client lost it, and knows it before the node does.
    let mut second = Raw::greeted(&server).await;
    second.attach("bob", key).await;
    assert_eq!(
        within(first.connection.closed()).await,
        raw::closed_with(Close::Resumed)
    );
    let again = second.deliveries().await;
    assert_eq!(&again[0].0[..], b"held");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_end_says_goodbye_and_asks_to_come_back() {
    let server = Server::start().await;
    let client = server.client().await;
    let (alice, bob) = (sender(&client, "alice").await, session(&client, "bob").await);
    send(&alice, to("bob").text("last")).await.unwrap();
    let delivery = recv(&bob).await;
    within(delivery.ack()).await.unwrap();
    let mut states = bob.states();
    server.stop().await;
    let gone =
        states.wait_for(|state| matches!(state, SessionState::Reconnecting { cause, .. } if cause == "draining"));
    within(gone).await.unwrap();
}

// --- across protocols ------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn quic_grpc_and_grpc_over_tls_reach_each_other() {
    let server = Server::start().await;
    let tls = Client::builder(&format!("grpcs://{}", server.grpc_tls)).tls_pin(server.pin());
    let clients = [
        server.client().await,
        server.grpc_client().await,
        within(tls.connect()).await.unwrap(),
    ];
    let mut sessions = Vec::new();
    for (n, client) in clients.iter().enumerate() {
        sessions.push(session(client, &format!("agent-{n}")).await);
    }
    for from in 0..3 {
        for other in 0..3 {
            let body = format!("{from} to {other}");
            let message = to(&format!("agent-{other}")).header("k", "v").text(body.clone());
            send(&sessions[from], message).await.unwrap();
            let delivery = recv(&sessions[other]).await;
            assert_eq!((text(&delivery), delivery.header("k")), (body, Some("v")));
            within(delivery.ack()).await.unwrap();
        }
    }
    // What waits is polled by a call, over each of them.
    for client in &clients {
        send(&sessions[0], to("carol").text("polled")).await.unwrap();
        let polled = within(client.receive(&id("carol"), ReceiveOptions::default()))
            .await
            .unwrap();
        assert_eq!(text(&polled[0]), "polled");
        within(polled[0].ack()).await.unwrap();
    }
    assert_eq!(within(clients[0].health("")).await.unwrap(), Health::Serving);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_the_trusted_one_is_refused() {
    let (server, other) = (Server::start().await, Server::start().await);
    for scheme in ["weft", "grpcs"] {
        let address = if scheme == "weft" { server.quic } else { server.grpc_tls };
        let pinned = Client::builder(&format!("{scheme}://{address}")).tls_pin(other.pin());
        assert!(within(pinned.connect()).await.is_err(), "{scheme}");
        let wrong_name = Client::builder(&format!("{scheme}://{address}"))
            .tls_ca_pem(server.certificate_pem())
            .tls_server_name("node.example");
        assert!(within(wrong_name.connect()).await.is_err(), "{scheme}");
        let right = Client::builder(&format!("{scheme}://{address}")).tls_ca_pem(server.certificate_pem());
        within(right.connect()).await.unwrap();
    }
    server.stop().await;
    other.stop().await;
}

// --- what breaks the rules -------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn another_protocols_name_is_refused_in_the_handshake() {
    let server = Server::start().await;
    for name in [&b"h3"[..], b"weft/2", b""] {
        let connected = raw::connect(&server, name).await;
        assert!(connected.is_err(), "{}", String::from_utf8_lossy(name));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_greet_is_closed_in_time() {
    let edge = quic::Config {
        handshake_timeout_ms: 300,
        ..quic::Config::default()
    };
    let server = Server::with(Config::default(), edge).await;
    let silent = raw::connect(&server, b"weft/1").await.unwrap();
    assert_eq!(within(silent.closed()).await, raw::closed_with(Close::Silent));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_frames_out_of_order_end_the_connection() {
    let server = Server::start().await;
    let ack = ToNode::Ack { tag: 1, ids: vec![] };
    let credit = ToNode::Credit { messages: 1, bytes: 1 };
    let hello = ToNode::Hello {
        token: String::new(),
        program: String::new(),
    };
    for frame in [ack, credit, hello, ToNode::Detach { streams: 5 }] {
        let mut raw = Raw::greeted(&server).await;
        raw.say(&frame).await;
        assert_eq!(
            within(raw.connection.closed()).await,
            raw::closed_with(Close::Control),
            "{frame:?}"
        );
    }
    let mut raw = Raw::greeted(&server).await;
    raw.attach("bob", Default::default()).await;
    raw.say(&ToNode::Attach(raw::attach("bob", Default::default()))).await;
    assert_eq!(within(raw.connection.closed()).await, raw::closed_with(Close::Control));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_above_the_limit_ends_the_connection_before_its_bytes_come() {
    let server = Server::start().await;
    // A control frame before and after the greeting, and a batch.
    let early = raw::connect(&server, b"weft/1").await.unwrap();
    let (mut control, _answers) = early.open_bi().await.unwrap();
    control.write_all(&[1, 0xff, 0xff, 0xff, 0x7f]).await.unwrap();
    assert_eq!(within(early.closed()).await, raw::closed_with(Close::TooLarge));
    let mut late = Raw::greeted(&server).await;
    late.send_bytes(&[0xff, 0xff, 0xff, 0x7f]).await;
    assert_eq!(
        within(late.connection.closed()).await,
        raw::closed_with(Close::TooLarge)
    );
    let large = Raw::greeted(&server).await;
    let frame = raw::frame("alice", "bob", &vec![0; 4 << 20]);
    let mut packer = Packer::with_capacity(0);
    packer.push(&frame, None, "");
    let mut parts = Vec::new();
    packer.finish(1, Compression::None, &mut parts);
    let mut stream = large.connection.open_uni().await.unwrap();
    stream.write_all(&[stream_of(Priority::Normal)]).await.unwrap();
    stream.write_all(&parts[0][..36]).await.unwrap();
    assert_eq!(
        within(large.connection.closed()).await,
        raw::closed_with(Close::TooLarge)
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_its_own_connection_and_no_other() {
    let server = Server::start().await;
    let client = server.client().await;
    let (alice, bob) = (sender(&client, "alice").await, session(&client, "bob").await);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for round in 0..40 {
        let bytes = proptest::collection::vec(any::<u8>(), 1..4000);
        let bytes = bytes.new_tree(&mut runner).unwrap().current();
        let mut raw = Raw::greeted(&server).await;
        match round % 4 {
            0 => raw.send_bytes(&bytes).await,
            1 => raw.stream(&bytes).await,
            2 => raw.stream(&[&[stream_of(Priority::High)], &bytes[..]].concat()).await,
            _ => {
                raw.stream(&[&[stream_of(Priority::Low)], &b"wftb\x02\0\0\0"[..], &bytes].concat())
                    .await
            }
        }
        raw.connection.close(0u32.into(), b"");
        send(&alice, to("bob").text("alive")).await.unwrap();
        within(recv(&bob).await.ack()).await.unwrap();
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_say_what_only_nodes_may() {
    let server = Server::start().await;
    let client = server.client().await;
    let bob = session(&client, "bob").await;
    let raw = Raw::greeted(&server).await;
    let mut frame = raw::frame("alice", "bob", b"hello");
    frame.stamp.attempt = 9;
    frame.stamp.flags = frame.stamp.flags.with_redelivered();
    let mut packer = Packer::with_capacity(0);
    packer.push(&frame, None, "agent:eve");
    let mut parts = vec![Bytes::from_static(&[17])];
    packer.finish(1, Compression::None, &mut parts);
    raw.stream(&parts.concat()).await;
    let delivery = recv(&bob).await;
    assert_eq!(
        (delivery.attempt(), delivery.is_redelivered(), delivery.queue()),
        (1, false, "")
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_of_one_address_are_refused_and_counted() {
    let edge = quic::Config {
        connections_per_address_max: 2,
        ..quic::Config::default()
    };
    let server = Server::with(Config::default(), edge).await;
    let first = Raw::greeted(&server).await;
    let _second = Raw::greeted(&server).await;
    assert!(raw::connect(&server, b"weft/1").await.is_err());
    assert_eq!(server.counters.snapshot().connections_refused, 1);
    first.connection.close(0u32.into(), b"");
    // The place is free once the node has noticed.
    until(|| async { raw::connect(&server, b"weft/1").await.ok() }).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_is_let_go_and_others_are_served_meanwhile() {
    let edge = quic::Config {
        slow_consumer_timeout_ms: 500,
        ..quic::Config::default()
    };
    let server = Server::with(Config::default(), edge).await;
    let client = server.client().await;
    let (alice, bob) = (sender(&client, "alice").await, session(&client, "bob").await);
    let mut lazy = Raw::greeted(&server).await;
    lazy.attach("lazy", Default::default()).await;
    let flooding = tokio::spawn({
        let alice = alice.clone();
        async move {
            // More than its windows hold; then it goes on until the node has let it go.
            loop {
                let message = to("lazy").qos(Qos::AtMostOnce).body(vec![0; 16_000]);
                let _unanswered = alice.send(message).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    assert!(matches!(lazy.hear().await, ToClient::Goodbye { reason, .. } if reason == "slow_consumer"));
    flooding.abort();
    assert_eq!(within(lazy.connection.closed()).await, raw::closed_with(Close::Ended));
    send(&alice, to("bob").text("served")).await.unwrap();
    assert_eq!(text(&recv(&bob).await), "served");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_a_client_proves_its_address_first() {
    let edge = quic::Config {
        handshakes_unproven_max: 0,
        ..quic::Config::default()
    };
    let server = Server::with(Config::default(), edge).await;
    let client = server.client().await;
    let (alice, bob) = (sender(&client, "alice").await, session(&client, "bob").await);
    send(&alice, to("bob").text("after a Retry")).await.unwrap();
    assert_eq!(text(&recv(&bob).await), "after a Retry");
    server.stop().await;
}
