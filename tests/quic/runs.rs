//! Runs: many alike messages sent at once, over every pair of protocols, against a fabric on the memory store.

use std::collections::{BTreeMap, BTreeSet};

use weft::{
    client::{Client, Delivery, Error, GroupDraft, Message, Session, SessionOptions},
    frame::{AgentId, CommunicationMode, GroupId, Priority, Qos, TopicFilter, TopicName},
    router::{
        config::Config,
        surface::{Attach, Inbox, Principal, Protocol, SessionQueue, Window},
    },
};

use crate::quic_node::{PATIENCE, Server, until, within};

/// Messages under way at once: below what a session's lane holds.
const AT_ONCE: usize = 1_000;

fn id(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

async fn open(client: &Client, agent: &str, options: SessionOptions) -> Session {
    within(client.session(&id(agent), options)).await.unwrap()
}

fn passed(agent: &str) -> Message {
    Message::to_agent(&id(agent)).qos(Qos::AtMostOnce)
}

fn numbers(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    range.map(|number| number.to_string())
}

/// Receives so many, one by one and in batches by turns.
async fn receive(session: &Session, count: usize) -> Vec<Delivery> {
    let mut got = Vec::with_capacity(count);
    while got.len() < count {
        if got.len().is_multiple_of(3) {
            got.push(within(session.recv()).await.unwrap());
        } else {
            let max = (count - got.len()).min(77);
            within(session.recv_batch(&mut got, max)).await.unwrap();
        }
    }
    got
}

fn text(delivery: &Delivery) -> &str {
    str::from_utf8(delivery.body()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_arrive_in_order_and_as_they_were_sent_whatever_either_side_speaks() {
    let server = Server::start().await;
    let clients = [server.client().await, server.grpc_client().await];
    for (from, sending) in clients.iter().enumerate() {
        for (to, receiving) in clients.iter().enumerate() {
            let (alice, bob) = (format!("alice-{from}{to}"), format!("bob-{from}{to}"));
            let sender = open(sending, &alice, SessionOptions::send_only()).await;
            let receiver = open(receiving, &bob, SessionOptions::default()).await;
            let message = passed(&bob)
                .priority(Priority::High)
                .header("k", "v")
                .correlation("c")
                .message_type("note");
            let mut ids = BTreeSet::new();
            for first in (0..5 * AT_ONCE).step_by(AT_ONCE) {
                within(sender.send_run(message.clone(), numbers(first..first + AT_ONCE)))
                    .await
                    .unwrap();
                let got = receive(&receiver, AT_ONCE).await;
                let read: Vec<_> = got.iter().map(|one| text(one).to_owned()).collect();
                assert_eq!(
                    read,
                    numbers(first..first + AT_ONCE).collect::<Vec<_>>(),
                    "G5: in order"
                );
                for one in &got {
                    assert_eq!((one.from(), one.to()), (&*alice, &*format!("agent:{bob}")));
                    assert_eq!((one.priority(), one.qos()), (Priority::High, Qos::AtMostOnce));
                    assert_eq!((one.header("k"), one.correlation()), (Some("v"), &b"c"[..]));
                    assert_eq!((one.message_type(), one.delivery_id()), ("note", None));
                    assert!(one.expires_at() > one.accepted_at());
                }
                ids.extend(got.iter().map(|one| one.id().to_owned()));
            }
            assert_eq!(ids.len(), 5 * AT_ONCE, "each has an id of its own");
            assert_eq!(sender.stats().sent, 5 * AT_ONCE as u64);
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn single_messages_and_runs_of_one_sender_keep_their_order() {
    let server = Server::start().await;
    for client in [server.client().await, server.grpc_client().await] {
        let sender = open(&client, "alice", SessionOptions::send_only()).await;
        let receiver = open(&client, "bob", SessionOptions::default()).await;
        for round in 0..40 {
            let run = numbers(round * 10..round * 10 + 9);
            within(sender.send_run(passed("bob"), run)).await.unwrap();
            let last = passed("bob").text((round * 10 + 9).to_string());
            within(sender.send(last)).await.unwrap().await.unwrap();
        }
        let got = receive(&receiver, 400).await;
        let read: Vec<_> = got.iter().map(|one| text(one).to_owned()).collect();
        assert_eq!(read, numbers(0..400).collect::<Vec<_>>());
        drop(receiver);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_fans_out_to_every_subscriber_and_is_shared_by_competing_sessions() {
    let server = Server::start().await;
    let clients = [server.client().await, server.grpc_client().await];
    let mut subscribers = Vec::new();
    for (n, client) in clients.iter().cycle().take(6).enumerate() {
        let session = open(client, &format!("subscriber-{n}"), SessionOptions::default()).await;
        let filter = TopicFilter::new("news/+").unwrap();
        within(session.subscribe(&[filter])).await.unwrap();
        subscribers.push(session);
    }
    let sender = open(&clients[0], "alice", SessionOptions::send_only()).await;
    let news = Message::to_topic(&TopicName::new("news/today").unwrap()).qos(Qos::AtMostOnce);
    within(sender.send_run(news, numbers(0..AT_ONCE))).await.unwrap();
    for subscriber in &subscribers {
        let got = receive(subscriber, AT_ONCE).await;
        assert!(got.iter().map(text).eq(numbers(0..AT_ONCE)));
    }

    let competing = [
        open(&clients[0], "bob", SessionOptions::default()).await,
        open(&clients[1], "bob", SessionOptions::default()).await,
    ];
    within(sender.send_run(passed("bob"), numbers(0..AT_ONCE)))
        .await
        .unwrap();
    let mut all = BTreeSet::new();
    for session in &competing {
        let got = receive(session, AT_ONCE / 2).await;
        all.extend(got.iter().map(|one| text(one).to_owned()));
    }
    assert_eq!(all.len(), AT_ONCE, "each message went to one of them");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_go_as_a_run_is_refused_before_anything_is_sent() {
    let server = Server::start().await;
    let client = server.client().await;
    let sender = open(&client, "alice", SessionOptions::send_only()).await;
    let durable = sender.send_run(Message::to_agent(&id("bob")), ["1"]).await.unwrap_err();
    assert!(durable.to_string().contains("qos"), "{durable}");
    let reserved = sender.send_run(passed("bob").header("weft-from", "eve"), ["1"]).await;
    assert!(reserved.unwrap_err().to_string().contains("weft-from"));
    assert_eq!(sender.stats().sent, 0);
    within(sender.close(PATIENCE)).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_does_not_read_holds_no_more_than_its_lane_and_the_rest_is_counted() {
    let config = Config {
        lane_frames_max: 500,
        ..Config::default()
    };
    let server = Server::with(config, weft::edge::quic::Config::default()).await;
    let client = server.client().await;
    let attach = Attach {
        agent: id("bob"),
        protocol: Protocol::Quic,
        inbox: Inbox::Open,
        queue: SessionQueue::Ephemeral,
        window: Window::DEFAULT,
        visibility_timeout: None,
    };
    let (_session, mut lane) = server.fabric.attach(&Principal::Anyone, attach).await.unwrap();
    let sender = open(&client, "alice", SessionOptions::send_only()).await;
    within(sender.send_run(passed("bob"), numbers(0..2_000))).await.unwrap();
    until(|| async { (server.fabric.counters().dropped == 1_500).then_some(()) }).await;
    let mut deliveries = Vec::new();
    assert_eq!(lane.try_next(&mut deliveries, 10_000), 500);
    let bodies: Vec<_> = deliveries.iter().map(|one| one.frame.body.clone()).collect();
    assert_eq!(bodies, numbers(0..500).collect::<Vec<_>>(), "the oldest stay, in order");
    within(sender.send_run(passed("bob"), numbers(0..10))).await.unwrap();
    deliveries.clear();
    within(lane.next(&mut deliveries, 10)).await;
    assert_eq!(deliveries[0].frame.body, "0", "what was taken out leaves room");
    drop(lane);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_a_connection_is_dropped_and_said_so() {
    let server = Server::start().await;
    let client = server.client().await;
    let sender = open(&client, "alice", SessionOptions::send_only()).await;
    server.stop().await;
    until(|| async {
        let sent = sender.send_run(passed("bob"), ["1"]).await;
        matches!(sent, Err(Error::Dropped)).then_some(())
    })
    .await;
    assert!(sender.stats().dropped > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_to_a_group_that_is_parted_by_its_bodies_goes_where_each_body_says() {
    let server = Server::start().await;
    let client = server.client().await;
    let members = [id("m-1"), id("m-2"), id("m-3")];
    let group = GroupId::new("parted").unwrap();
    let draft = GroupDraft {
        agents: members.to_vec(),
        communication_mode: CommunicationMode::Partitioned,
        partition_key: "/key".into(),
        ..GroupDraft::default()
    };
    within(client.create_group(&group, draft)).await.unwrap();
    let mut sessions = Vec::new();
    for member in &members {
        sessions.push(open(&client, member.as_str(), SessionOptions::default()).await);
    }
    let sender = open(&client, "alice", SessionOptions::send_only()).await;
    let bodies = (0..200).map(|number| format!("{{\"key\":{},\"number\":{number}}}", number % 20));
    let message = Message::to_group(&group).qos(Qos::AtMostOnce);
    within(sender.send_run(message, bodies)).await.unwrap();
    let (mut owner_of, mut last_of) = (BTreeMap::new(), BTreeMap::new());
    let mut left = 200;
    while left > 0 {
        for (member, session) in sessions.iter().enumerate() {
            let mut got = Vec::new();
            let soon = session.recv_batch(&mut got, 200);
            // Whoever has nothing for now is asked again.
            let _ = tokio::time::timeout(std::time::Duration::from_millis(20), soon).await;
            left -= got.len();
            for one in got {
                let body: serde_json::Value = serde_json::from_slice(one.body()).unwrap();
                let (key, number) = (body["key"].as_u64().unwrap(), body["number"].as_u64().unwrap());
                assert_eq!(
                    *owner_of.entry(key).or_insert(member),
                    member,
                    "key {key} went to two members"
                );
                assert!(last_of.insert(key, number).is_none_or(|last| last < number), "in order");
            }
        }
    }
    assert!(
        owner_of.values().collect::<BTreeSet<_>>().len() > 1,
        "all keys went to one member"
    );
    server.stop().await;
}
