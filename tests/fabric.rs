//! The fabric through its door, on the memory store: what every edge relies on.
//!
//! `fabric/guarantees.rs` goes through the guarantees one by one, `fabric/changes.rs` through changes that meet,
//! `fabric/retained.rs` through retained messages, and `fabric/random.rs` holds random traffic against what may become of a message.

#[path = "fabric/changes.rs"]
mod changes;
#[path = "fabric/guarantees.rs"]
mod guarantees;
#[path = "fabric/random.rs"]
mod random;
#[path = "fabric/retained.rs"]
mod retained;
#[path = "fabric/steered.rs"]
mod steered;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use weft::{
    frame::{Address, AgentId, Draft, Priority, Qos, RunBuilder, TopicFilter, TraceContext, record::Status},
    router::{
        Fabric, SessionHandle, SessionReceiver,
        config::Config,
        error::FabricError,
        port::{AllowAll, Ports},
        registry::{CommunicationMode, GroupRecord, Registration},
        surface::{
            Accepted, AcceptedStatus, Attach, Delivery, Goodbye, Inbox, Principal, Protocol, Refusal, Sending,
            SessionEvent, SessionQueue, Settled, StatusQuery, Window,
        },
    },
    store::memory::MemoryStore,
    time::Timestamp,
};

const ANYONE: Principal = Principal::Anyone;
/// Far longer than anything here takes; only a hang meets it.
const PATIENCE: Duration = Duration::from_secs(20);

async fn fabric(config: Config) -> Fabric {
    let ports = Ports {
        store: Arc::new(MemoryStore::new(7, 1 << 30)),
        policy: Arc::new(AllowAll),
    };
    Fabric::start(ports, Config { workers: 2, ..config }).await.unwrap()
}

fn id(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

fn draft(fabric: &Fabric, from: &str, to: &str) -> Draft {
    Draft::new(fabric.new_message_id(), id(from), to.parse().unwrap())
}

async fn send(fabric: &Fabric, draft: Draft, body: &str) -> Result<Accepted, FabricError> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    fabric
        .send(&ANYONE, Protocol::Grpc, draft, body, TraceContext::default())
        .await
}

async fn attach(fabric: &Fabric, agent: &str) -> (SessionHandle, SessionReceiver) {
    let attach = Attach {
        agent: id(agent),
        protocol: Protocol::Grpc,
        inbox: Inbox::Open,
        queue: SessionQueue::Ephemeral,
        window: Window::DEFAULT,
        visibility_timeout: None,
    };
    fabric.attach(&ANYONE, attach).await.unwrap()
}

async fn next(receiver: &mut SessionReceiver) -> Delivery {
    let mut deliveries = Vec::new();
    let event = tokio::time::timeout(PATIENCE, receiver.next(&mut deliveries, 1))
        .await
        .expect("a delivery");
    assert_eq!(event, SessionEvent::Deliveries);
    deliveries.pop().unwrap()
}

async fn status(fabric: &Fabric, accepted: &Accepted) -> Status {
    let query = StatusQuery::Tracking(accepted.tracking.unwrap());
    fabric.status(&ANYONE, query).await.unwrap().status
}

async fn until<T, F: Future<Output = Option<T>>>(mut probe: impl FnMut() -> F) -> T {
    for _ in 0..2000 {
        if let Some(found) = probe().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not happen in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_waits_for_its_agent_and_is_settled_once() {
    let fabric = fabric(Config::default()).await;
    let mut first = draft(&fabric, "alice", "agent:bob");
    first.priority = Priority::High;
    let message_id = first.id.clone();
    let accepted = send(&fabric, first.clone(), "hello").await.unwrap();
    assert_eq!(accepted.status, AcceptedStatus::Is(Status::Queued));
    let again = send(&fabric, first, "hello").await.unwrap();
    assert!(again.duplicate && again.tracking == accepted.tracking);

    let (session, mut receiver) = attach(&fabric, "bob").await;
    let delivery = next(&mut receiver).await;
    assert_eq!(
        (&delivery.frame.body[..], delivery.frame.envelope.from()),
        (&b"hello"[..], "alice")
    );
    assert_eq!(status(&fabric, &accepted).await, Status::Sent);
    let delivery_id = delivery.id.unwrap();
    assert_eq!(session.ack(&[delivery_id]).await, [Settled::Done]);
    assert_eq!(session.ack(&[delivery_id]).await, [Settled::Stale]);
    let by_id = fabric
        .status(
            &ANYONE,
            StatusQuery::Message {
                id: message_id,
                from: None,
            },
        )
        .await
        .unwrap();
    assert_eq!(
        (by_id.status, by_id.attempts, by_id.recipients),
        (Status::Delivered, 1, 1)
    );
    drop((session, receiver));
    fabric.stop(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_session_had_comes_to_the_next_one() {
    let fabric = fabric(Config::default()).await;
    let (session, mut receiver) = attach(&fabric, "bob").await;
    send(&fabric, draft(&fabric, "alice", "agent:bob"), "1").await.unwrap();
    send(&fabric, draft(&fabric, "alice", "agent:bob"), "2").await.unwrap();
    let lost = next(&mut receiver).await;
    drop((session, receiver));
    let (session, mut receiver) = attach(&fabric, "bob").await;
    let (one, two) = (next(&mut receiver).await, next(&mut receiver).await);
    assert_eq!((&one.frame.body[..], &two.frame.body[..]), (&b"1"[..], &b"2"[..]));
    assert!(one.frame.stamp.flags.is_redelivered());
    assert_eq!(
        session.ack(&[lost.id.unwrap(), one.id.unwrap()]).await,
        [Settled::Stale, Settled::Done]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_0_reaches_who_is_there_and_is_dropped_where_nobody_is() {
    let fabric = fabric(Config::default()).await;
    let quick = |fabric: &Fabric| {
        let mut draft = draft(fabric, "alice", "agent:bob");
        draft.qos = Qos::AtMostOnce;
        draft
    };
    let nobody = send(&fabric, quick(&fabric), "x").await.unwrap();
    assert_eq!(nobody.status, AcceptedStatus::Dropped);
    let (_session, mut receiver) = attach(&fabric, "bob").await;
    let somebody = send(&fabric, quick(&fabric), "y").await.unwrap();
    assert_eq!(somebody.status, AcceptedStatus::Is(Status::Sent));
    let delivery = next(&mut receiver).await;
    assert_eq!((delivery.id, &delivery.frame.body[..]), (None, &b"y"[..]));
    assert_eq!(fabric.counters().dropped, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_reaches_every_member_but_the_sender() {
    let fabric = fabric(Config::default()).await;
    let record = group(CommunicationMode::Broadcast, &["alice", "bob", "carol"]);
    fabric.create_group(&ANYONE, record).await.unwrap();
    let accepted = send(&fabric, draft(&fabric, "alice", "group:team"), "all")
        .await
        .unwrap();
    assert_eq!(accepted.recipients, 2);
    for agent in ["bob", "carol"] {
        let (session, mut receiver) = attach(&fabric, agent).await;
        let delivery = next(&mut receiver).await;
        assert_eq!(delivery.frame.envelope.to(), "group:team");
        assert_eq!(session.ack(&[delivery.id.unwrap()]).await, [Settled::Done]);
    }
    let query = StatusQuery::Tracking(accepted.tracking.unwrap());
    let status = fabric.status(&ANYONE, query).await.unwrap();
    assert_eq!(
        (status.status, status.recipients, status.counts[2]),
        (Status::Delivered, 2, 2)
    );
}

fn group(mode: CommunicationMode, agents: &[&str]) -> GroupRecord {
    let agents: Vec<_> = agents.iter().map(|agent| id(agent)).collect();
    let record = serde_json::json!({
        "group_id": "team", "agents": agents, "communication_mode": mode, "created_at": Timestamp::NEVER,
        "policies": {"message_retention": 60},
    });
    serde_json::from_value(record).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_robin_group_takes_turns_and_keeps_history() {
    let fabric = fabric(Config::default()).await;
    fabric
        .create_group(&ANYONE, group(CommunicationMode::RoundRobin, &["bob", "carol"]))
        .await
        .unwrap();
    let (bob, mut bobs) = attach(&fabric, "bob").await;
    let (carol, mut carols) = attach(&fabric, "carol").await;
    for body in ["1", "2"] {
        send(&fabric, draft(&fabric, "alice", "group:team"), body)
            .await
            .unwrap();
    }
    let (one, other) = (next(&mut bobs).await, next(&mut carols).await);
    assert_ne!(one.frame.body, other.frame.body);
    bob.ack(&[one.id.unwrap()]).await;
    carol.ack(&[other.id.unwrap()]).await;
    let group_id = "team".parse().unwrap();
    let history = fabric.group_history(&ANYONE, &group_id, None, 10).await.unwrap();
    assert_eq!(
        history.iter().map(|kept| kept.frame.body.to_vec()).collect::<Vec<_>>(),
        [b"1", b"2"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_reach_subscribers_while_they_last() {
    let fabric = fabric(Config::default()).await;
    let (session, mut receiver) = attach(&fabric, "bob").await;
    session
        .subscribe(vec![
            TopicFilter::new("news/+").unwrap(),
            TopicFilter::new("#").unwrap(),
        ])
        .await
        .unwrap();
    let accepted = send(&fabric, draft(&fabric, "alice", "topic:news/today"), "n")
        .await
        .unwrap();
    assert_eq!(accepted.recipients, 1, "overlapping filters are one copy");
    let delivery = next(&mut receiver).await;
    assert_eq!(delivery.frame.envelope.to(), "topic:news/today");
    assert_eq!(session.ack(&[delivery.id.unwrap()]).await, [Settled::Done]);
    drop((session, receiver));
    until(|| async {
        let accepted = send(&fabric, draft(&fabric, "alice", "topic:news/today"), "n")
            .await
            .unwrap();
        (accepted.recipients == 0 && accepted.status == AcceptedStatus::Is(Status::Rejected)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_subscription_gives_each_message_to_one() {
    let fabric = fabric(Config::default()).await;
    let (one, mut ones) = attach(&fabric, "bob").await;
    let (two, mut twos) = attach(&fabric, "carol").await;
    let filter = || vec![TopicFilter::new("$share/pool/jobs/#").unwrap()];
    one.subscribe(filter()).await.unwrap();
    two.subscribe(filter()).await.unwrap();
    for body in ["1", "2", "3", "4"] {
        send(&fabric, draft(&fabric, "alice", "topic:jobs/x"), body)
            .await
            .unwrap();
    }
    let mut bodies = [
        next(&mut ones).await,
        next(&mut ones).await,
        next(&mut twos).await,
        next(&mut twos).await,
    ];
    bodies.sort_by(|a, b| a.frame.body.cmp(&b.frame.body));
    assert_eq!(bodies.iter().map(|d| d.frame.body[0]).collect::<Vec<_>>(), b"1234");
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_subscriptions_gather_while_nobody_is_attached() {
    let fabric = fabric(Config::default()).await;
    let filters = vec![TopicFilter::new("a/+").unwrap()];
    fabric
        .set_subscriptions(&ANYONE, &id("bob"), "http", filters.clone())
        .await
        .unwrap();
    assert_eq!(fabric.subscriptions(&ANYONE, &id("bob"), "http").unwrap(), filters);
    send(&fabric, draft(&fabric, "alice", "topic:a/b"), "kept")
        .await
        .unwrap();
    let attach = Attach {
        agent: id("bob"),
        protocol: Protocol::Http,
        inbox: Inbox::Open,
        queue: SessionQueue::Durable("http".into()),
        window: Window::DEFAULT,
        visibility_timeout: None,
    };
    let (session, mut receiver) = fabric.attach(&ANYONE, attach).await.unwrap();
    let delivery = next(&mut receiver).await;
    assert_eq!(&delivery.frame.body[..], b"kept");
    session.ack(&[delivery.id.unwrap()]).await;
    fabric.remove_session_queue(&ANYONE, &id("bob"), "http").await.unwrap();
    let accepted = send(&fabric, draft(&fabric, "alice", "topic:a/b"), "late")
        .await
        .unwrap();
    assert_eq!(accepted.recipients, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_finds_an_agent_with_the_capability_or_says_that_there_is_none() {
    let fabric = fabric(Config::default()).await;
    let nobody = send(&fabric, draft(&fabric, "alice", "any:sum"), "x").await;
    assert!(matches!(nobody, Err(FabricError::UnknownCapability(_))));
    let registration = Registration {
        capabilities: vec!["sum".parse().unwrap()],
        ..Registration::default()
    };
    fabric
        .register_agent(&ANYONE, id("worker"), registration)
        .await
        .unwrap();
    send(&fabric, draft(&fabric, "alice", "any:sum"), "x").await.unwrap();
    let (session, mut receiver) = attach(&fabric, "worker").await;
    let delivery = next(&mut receiver).await;
    assert_eq!(
        session.nack(&[delivery.id.unwrap()], Refusal::DeadLetter).await,
        [Settled::Done]
    );
    let address: Address = "any:sum".parse().unwrap();
    let dead = fabric.dead_letters(&ANYONE, &address, None, 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    let message_id = dead[0].frame.envelope.id().parse().unwrap();
    fabric.replay_dead_letter(&ANYONE, &address, &message_id).await.unwrap();
    let again = next(&mut receiver).await;
    assert_eq!(again.frame.envelope.id(), dead[0].frame.envelope.id());
    assert!(
        fabric
            .dead_letters(&ANYONE, &address, None, 10)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_gets_its_reply_or_times_out() {
    let fabric = fabric(Config::default()).await;
    let (_session, mut receiver) = attach(&fabric, "bob").await;
    let server = fabric.clone();
    tokio::spawn(async move {
        let request = next(&mut receiver).await;
        let reply_to = request.frame.envelope.reply_to().expect("a reply address").to_owned();
        send(&server, draft(&server, "bob", &reply_to), "42").await.unwrap();
        next(&mut receiver).await
    });
    let ask = |timeout| {
        let question = draft(&fabric, "alice", "agent:bob");
        fabric.request(
            &ANYONE,
            Protocol::Http,
            question,
            Bytes::new(),
            TraceContext::default(),
            timeout,
        )
    };
    assert_eq!(&ask(PATIENCE).await.unwrap().body[..], b"42");
    assert!(matches!(
        ask(Duration::from_millis(20)).await,
        Err(FabricError::ReplyTimeout(_))
    ));
    let gone = send(&fabric, draft(&fabric, "bob", "agent:alice#s.gone"), "late").await;
    assert!(matches!(gone, Err(FabricError::ReplyAddressGone(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_mailbox_refuses_its_senders_and_nobody_else() {
    let fabric = fabric(Config {
        inbox_messages_max: 3,
        ..Config::default()
    })
    .await;
    for _ in 0..3 {
        send(&fabric, draft(&fabric, "alice", "agent:bob"), "x").await.unwrap();
    }
    let full = send(&fabric, draft(&fabric, "alice", "agent:bob"), "x")
        .await
        .unwrap_err();
    assert!(
        matches!(full, FabricError::QueueFull { .. }) && full.retry_after().is_some(),
        "{full}"
    );
    send(&fabric, draft(&fabric, "alice", "agent:carol"), "x")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_agents_are_named_where_registration_is_required() {
    let fabric = fabric(Config {
        registration_required: true,
        ..Config::default()
    })
    .await;
    fabric
        .register_agent(&ANYONE, id("alice"), Registration::default())
        .await
        .unwrap();
    let unknown = send(&fabric, draft(&fabric, "alice", "agent:bob"), "x")
        .await
        .unwrap_err();
    assert_eq!(unknown, FabricError::UnknownAgent(id("bob")));
    let unknown = send(&fabric, draft(&fabric, "mallory", "agent:alice"), "x")
        .await
        .unwrap_err();
    assert_eq!(unknown, FabricError::UnknownAgent(id("mallory")));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sends_in_anothers_name() {
    let fabric = fabric(Config::default()).await;
    let eve = Principal::Agent(id("eve"));
    let forged = draft(&fabric, "alice", "agent:bob");
    let refused = fabric
        .send(&eve, Protocol::Grpc, forged, Bytes::new(), TraceContext::default())
        .await;
    assert!(matches!(refused, Err(FabricError::NotYourself { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_1_is_kept_for_queues_that_last_and_passed_to_those_that_end_with_their_session() {
    let fabric = fabric(Config::default()).await;
    let session = |agent: &str, queue| Attach {
        agent: id(agent),
        protocol: Protocol::Mqtt,
        inbox: Inbox::Closed,
        queue,
        window: Window::DEFAULT,
        visibility_timeout: None,
    };
    let filter = || vec![TopicFilter::new("t").unwrap()];
    let (passing, mut passed) = fabric
        .attach(&ANYONE, session("bob", SessionQueue::OnDemand))
        .await
        .unwrap();
    passing.subscribe(filter()).await.unwrap();
    let (mut publisher, mut answers) = fabric.publisher(ANYONE, Protocol::Mqtt);
    let mut next = 0;
    let mut publish = async |messages: u64| {
        let frame = |number: u64| {
            let mut draft = draft(&fabric, "alice", "topic:t");
            draft.qos = Qos::AtLeastOnce;
            weft::frame::Frame::new(draft.archive().unwrap(), Bytes::from(number.to_string())).unwrap()
        };
        let mut run = RunBuilder::new(frame(next));
        for number in next + 1..next + messages {
            let id = fabric.new_message_id();
            assert!(run.push(id.as_str().as_bytes(), number.to_string().as_bytes(), 0));
        }
        publisher
            .publish(&mut vec![Sending::KeepOrPass(100 + next, run.finish())])
            .await;
        let (mut all, mut some) = (Vec::new(), Vec::new());
        while (all.len() as u64) < messages {
            assert!(answers.next(&mut some).await);
            all.append(&mut some);
        }
        all.sort_by_key(|(tag, _)| *tag);
        let tags: Vec<_> = all.iter().map(|(tag, _)| *tag).collect();
        assert_eq!(tags, (100 + next..100 + next + messages).collect::<Vec<_>>());
        next += messages;
        let accepted = all.into_iter().map(|(_, answer)| answer.unwrap());
        accepted
            .map(|accepted| (accepted.recipients, accepted.tracking.is_some()))
            .collect::<Vec<_>>()
    };

    assert_eq!(publish(3).await, [(1, false); 3], "nothing is kept");
    let (lasting, mut kept) = fabric
        .attach(&ANYONE, session("carol", SessionQueue::Durable("d".into())))
        .await
        .unwrap();
    lasting.subscribe(filter()).await.unwrap();
    assert_eq!(publish(2).await, [(1, true); 2], "the answer is of what is kept");
    // As many as are taken at once, and more.
    assert_eq!(publish(2_500).await, [(1, true); 2_500]);

    let mut got = Vec::new();
    while got.len() < 2_505 {
        let event = tokio::time::timeout(PATIENCE, passed.next(&mut got, 5_000));
        assert_eq!(event.await.expect("deliveries"), SessionEvent::Deliveries);
    }
    let numbers = |got: &[Delivery]| -> Vec<u64> {
        let body = |delivery: &Delivery| String::from_utf8(delivery.frame.body.to_vec()).unwrap();
        got.iter().map(|delivery| body(delivery).parse().unwrap()).collect()
    };
    assert_eq!(numbers(&got), (0..2_505).collect::<Vec<_>>());
    assert!(got.iter().all(|delivery| delivery.id.is_none()));
    let mut got = Vec::new();
    while got.len() < 1_000 {
        let event = tokio::time::timeout(PATIENCE, kept.next(&mut got, 5_000));
        assert_eq!(event.await.expect("deliveries"), SessionEvent::Deliveries);
        lasting.ack_unanswered(got.iter().filter_map(|delivery| delivery.id).collect());
    }
    assert_eq!(numbers(&got[..1_000]), (3..1_003).collect::<Vec<_>>());

    drop((passing, passed));
    lasting.unsubscribe(filter()).await.unwrap();
    assert_eq!(publish(2).await, [(0, false); 2], "nobody is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_sends_is_answered_under_its_tags_and_keeps_order() {
    let fabric = fabric(Config::default()).await;
    let (session, mut receiver) = attach(&fabric, "bob").await;
    let (mut publisher, mut answers) = fabric.publisher(ANYONE, Protocol::Grpc);
    let count = 5000u64;
    let sender = fabric.clone();
    let sending = tokio::spawn(async move {
        for first in (0..count).step_by(50) {
            let frame = |tag: u64| {
                let envelope = draft(&sender, "alice", "agent:bob").archive().unwrap();
                let frame = weft::frame::Frame::new(envelope, Bytes::from(tag.to_string())).unwrap();
                Sending::one(tag, frame, true)
            };
            publisher.publish(&mut (first..first + 50).map(frame).collect()).await;
        }
    });
    let answered = tokio::spawn(async move {
        let (mut all, mut some) = (Vec::new(), Vec::new());
        while answers.next(&mut some).await {
            all.append(&mut some);
        }
        all
    });
    let (mut got, mut deliveries) = (Vec::new(), Vec::new());
    while (got.len() as u64) < count {
        let event = tokio::time::timeout(PATIENCE, receiver.next(&mut deliveries, 100))
            .await
            .expect("deliveries");
        assert_eq!(event, SessionEvent::Deliveries);
        session.ack_unanswered(deliveries.iter().filter_map(|delivery| delivery.id).collect());
        got.extend(
            deliveries
                .drain(..)
                .map(|delivery| String::from_utf8(delivery.frame.body.to_vec()).unwrap()),
        );
    }
    sending.await.unwrap();
    let answered = answered.await.unwrap();
    assert_eq!(answered.len() as u64, count);
    assert!(answered.iter().all(|(_, answer)| answer.is_ok()));
    assert!(
        got.iter().enumerate().all(|(at, body)| *body == at.to_string()),
        "in order, each once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_attach_takes_no_durable_queue_over_and_an_admitted_one_does() {
    let limited = Config {
        sessions_per_agent_max: 1,
        ..Config::default()
    };
    let fabric = fabric(limited).await;
    let attach_as = |token: &str| Attach {
        agent: id("bob"),
        protocol: Protocol::Http,
        inbox: Inbox::Open,
        queue: SessionQueue::Durable(token.into()),
        window: Window::DEFAULT,
        visibility_timeout: None,
    };
    let (first, mut receiver) = fabric.attach(&ANYONE, attach_as("one")).await.unwrap();
    let refused = fabric.attach(&ANYONE, attach_as("two")).await;
    assert!(matches!(refused, Err(FabricError::TooMany { .. })));
    let filter = || vec![TopicFilter::new("a/+").unwrap()];
    first.subscribe(filter()).await.unwrap();
    assert_eq!(fabric.subscriptions(&ANYONE, &id("bob"), "one").unwrap(), filter());
    send(&fabric, draft(&fabric, "alice", "topic:a/b"), "n").await.unwrap();
    assert_eq!(&next(&mut receiver).await.frame.body[..], b"n");
    first.unsubscribe(filter()).await.unwrap();
    assert_eq!(fabric.subscriptions(&ANYONE, &id("bob"), "one").unwrap(), []);
    let _second = fabric
        .attach(&ANYONE, attach_as("one"))
        .await
        .expect("it takes the place of the first");
    let event = tokio::time::timeout(PATIENCE, receiver.next(&mut Vec::new(), 1))
        .await
        .unwrap();
    assert_eq!(event, SessionEvent::Goodbye(Goodbye::TakenOver));
}
