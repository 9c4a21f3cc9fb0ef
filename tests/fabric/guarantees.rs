//! The guarantees of docs/guarantees.md through a running fabric, each with a test that fails where it is broken.

use std::{pin::pin, sync::Arc};

use futures_util::{FutureExt, future::join_all, poll};
use weft::{
    frame::{MessageId, ShardId},
    router::port::{Store, StoreError},
};

use super::*;
use crate::steered::{Censor, Mode, SteeredStore};

pub async fn on(store: &Arc<SteeredStore>, config: Config) -> Fabric {
    let ports = Ports {
        store: store.clone(),
        policy: Arc::new(AllowAll),
    };
    Fabric::start(ports, Config { workers: 2, ..config }).await.unwrap()
}

/// What comes after `kill -9`: a fabric that knows only what was committed, while the old one still thinks that it owns the shards.
async fn after_a_crash(store: &Arc<SteeredStore>) -> Fabric {
    store.crash();
    on(store, Config::default()).await
}

pub async fn attach_with(fabric: &Fabric, agent: &str, window: Window) -> (SessionHandle, SessionReceiver) {
    let attach = Attach {
        agent: id(agent),
        protocol: Protocol::Grpc,
        inbox: Inbox::Open,
        queue: SessionQueue::Ephemeral,
        window,
        visibility_timeout: None,
    };
    fabric.attach(&ANYONE, attach).await.unwrap()
}

fn window(messages: u32) -> Window {
    Window {
        messages,
        bytes: 1 << 20,
    }
}

/// A round through the worker of an address: whatever it was asked before is done.
async fn round(fabric: &Fabric, address: &str) {
    fabric.depth(&ANYONE, &address.parse().unwrap()).await.unwrap();
}

fn unknown() -> StoreError {
    StoreError::Unknown {
        what: "the disk did not say".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_nothing_is_acknowledged_or_handed_out_before_it_is_committed() {
    let store = SteeredStore::new();
    let fabric = on(&store, Config::default()).await;
    let (session, mut receiver) = attach(&fabric, "bob").await;
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        store.set(Mode::Hold);
        let mut message = draft(&fabric, "alice", "agent:bob");
        message.qos = qos;
        let mut sending = pin!(send(&fabric, message, "x"));
        assert!(poll!(&mut sending).is_pending());
        until(|| async { (store.held() == 1).then_some(()) }).await;
        round(&fabric, "agent:bob").await;
        assert!(poll!(&mut sending).is_pending(), "acknowledged before its commit");
        assert_eq!(receiver.try_next(&mut Vec::new(), 1), 0, "handed out before its commit");
        store.let_go();
        sending.await.unwrap();
        let delivery = next(&mut receiver).await.id.unwrap();
        store.set(Mode::Hold);
        let ids = [delivery];
        let mut settling = pin!(session.ack(&ids));
        assert!(poll!(&mut settling).is_pending());
        until(|| async { (store.held() == 1).then_some(()) }).await;
        round(&fabric, "agent:bob").await;
        assert!(poll!(&mut settling).is_pending(), "settled before its commit");
        store.let_go();
        assert_eq!(settling.await, [Settled::Done]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_an_unknown_outcome_is_called_so_and_a_retry_with_the_same_id_is_taken_once_whatever_it_was() {
    for mode in [Mode::Fail(unknown()), Mode::WriteAndFail(unknown())] {
        let store = SteeredStore::new();
        let fabric = on(&store, Config::default()).await;
        let message = draft(&fabric, "alice", "agent:bob");
        store.set(mode);
        let error = send(&fabric, message.clone(), "x").await.unwrap_err();
        assert!(
            matches!(error, FabricError::OutcomeUnknown { .. }) && error.code().retryable,
            "{error}"
        );
        let fabric = after_a_crash(&store).await;
        send(&fabric, message, "x").await.unwrap();
        send(&fabric, draft(&fabric, "alice", "agent:bob"), "last")
            .await
            .unwrap();
        let (_session, mut receiver) = attach(&fabric, "bob").await;
        let bodies = [next(&mut receiver).await, next(&mut receiver).await].map(|delivery| delivery.frame.body);
        assert_eq!(bodies, ["x", "last"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_an_owner_that_was_replaced_writes_nothing_and_says_so() {
    let store = SteeredStore::new();
    let fabric = on(&store, Config::default()).await;
    send(&fabric, draft(&fabric, "alice", "agent:bob"), "before")
        .await
        .unwrap();
    store.claim(ShardId::all().collect()).await.unwrap();
    let refused = send(&fabric, draft(&fabric, "alice", "agent:bob"), "after").await;
    assert_eq!(refused.unwrap_err(), FabricError::NotOwner);
    assert_eq!(store.stats().messages, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn g4_one_id_sent_many_times_at_once_is_taken_once_and_still_known_after_it_is_settled_and_after_a_crash() {
    let store = SteeredStore::new();
    let mut fabric = on(&store, Config::default()).await;
    let message = draft(&fabric, "alice", "agent:bob");
    let sends = (0..20).map(|_| send(&fabric, message.clone(), "x"));
    let answers: Vec<Accepted> = join_all(sends).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| !answer.duplicate).count(), 1);
    assert!(answers.iter().all(|answer| answer.tracking == answers[0].tracking));
    let (session, mut receiver) = attach(&fabric, "bob").await;
    session.ack(&[next(&mut receiver).await.id.unwrap()]).await;
    for _ in 0..2 {
        let again = send(&fabric, message.clone(), "x").await.unwrap();
        assert!(again.duplicate && again.tracking == answers[0].tracking);
        assert_eq!(again.status, AcceptedStatus::Is(Status::Delivered));
        fabric = after_a_crash(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_a_mailbox_that_filled_up_is_emptied_in_shares_of_8_4_2_1() {
    let fabric = fabric(Config::default()).await;
    for priority in Priority::DESCENDING.into_iter().rev() {
        for _ in 0..20 {
            let mut message = draft(&fabric, "alice", "agent:bob");
            message.priority = priority;
            send(&fabric, message, "x").await.unwrap();
        }
    }
    let (session, mut receiver) = attach_with(&fabric, "bob", window(1)).await;
    let mut taken = [0; Priority::COUNT];
    for _ in 0..30 {
        let delivery = next(&mut receiver).await;
        taken[delivery.frame.envelope.priority().index()] += 1;
        session.ack(&[delivery.id.unwrap()]).await;
    }
    assert_eq!(taken, [2, 4, 8, 16]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g7_what_was_settled_does_not_come_again_after_a_crash_and_what_was_not_does() {
    let store = SteeredStore::new();
    let fabric = on(&store, Config::default()).await;
    for body in ["acknowledged", "refused", "held"] {
        send(&fabric, draft(&fabric, "alice", "agent:bob"), body).await.unwrap();
    }
    let (session, mut receiver) = attach(&fabric, "bob").await;
    let first = next(&mut receiver).await.id.unwrap();
    let second = next(&mut receiver).await.id.unwrap();
    let third = next(&mut receiver).await.id.unwrap();
    assert_eq!(session.ack(&[first]).await, [Settled::Done]);
    assert_eq!(session.nack(&[second], Refusal::DeadLetter).await, [Settled::Done]);
    let fabric = after_a_crash(&store).await;
    let (session, mut receiver) = attach(&fabric, "bob").await;
    let again = next(&mut receiver).await;
    assert_eq!(&again.frame.body[..], b"held");
    assert!(again.frame.stamp.flags.is_redelivered());
    assert_eq!(
        session.ack(&[third]).await,
        [Settled::Stale],
        "its lease ended with the process"
    );
    assert_eq!(session.ack(&[again.id.unwrap()]).await, [Settled::Done]);
    send(&fabric, draft(&fabric, "alice", "agent:bob"), "last")
        .await
        .unwrap();
    assert_eq!(&next(&mut receiver).await.frame.body[..], b"last");
}

#[tokio::test(flavor = "multi_thread")]
async fn g8_at_qos_2_a_message_that_is_sent_acknowledged_and_sent_again_is_handled_once() {
    let store = SteeredStore::new();
    let fabric = on(&store, Config::default()).await;
    let mut message = draft(&fabric, "alice", "agent:bob");
    message.qos = Qos::ExactlyOnce;
    let (session, mut receiver) = attach(&fabric, "bob").await;
    send(&fabric, message.clone(), "once").await.unwrap();
    send(&fabric, message.clone(), "once").await.unwrap();
    let delivery = next(&mut receiver).await.id.unwrap();
    assert_eq!(session.ack(&[delivery]).await, [Settled::Done]);
    assert_eq!(session.ack(&[delivery]).await, [Settled::Stale]);
    let fabric = after_a_crash(&store).await;
    let (_session, mut receiver) = attach(&fabric, "bob").await;
    assert!(send(&fabric, message, "once").await.unwrap().duplicate);
    send(&fabric, draft(&fabric, "alice", "agent:bob"), "last")
        .await
        .unwrap();
    assert_eq!(&next(&mut receiver).await.frame.body[..], b"last");
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_what_expired_is_not_handed_out_and_shows_in_its_receipt_and_in_the_counters() {
    let fabric = fabric(Config::default()).await;
    // One mailbox that nobody attends, and one whose session has no credit.
    let (slow, mut slows) = attach_with(&fabric, "carol", Window::CLOSED).await;
    let mut short_lived = Vec::new();
    for to in ["agent:bob", "agent:carol"] {
        send(&fabric, draft(&fabric, "alice", to), "head").await.unwrap();
        let mut message = draft(&fabric, "alice", to);
        message.ttl_ms = 30;
        short_lived.push(send(&fabric, message, "short-lived").await.unwrap());
        send(&fabric, draft(&fabric, "alice", to), "tail").await.unwrap();
    }
    for accepted in &short_lived {
        until(|| async { (status(&fabric, accepted).await == Status::Expired).then_some(()) }).await;
    }
    let (_session, mut bobs) = attach(&fabric, "bob").await;
    slow.set_window(Window::DEFAULT);
    for receiver in [&mut bobs, &mut slows] {
        let bodies = [next(receiver).await, next(receiver).await].map(|delivery| delivery.frame.body);
        assert_eq!(bodies, ["head", "tail"]);
    }
    until(|| async { (fabric.counters().expired == 2).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_a_message_reaches_its_addressees_alone_and_of_them_only_whom_policy_lets_receive() {
    let censor = Arc::new(Censor::default());
    let ports = Ports {
        store: SteeredStore::new(),
        policy: censor.clone(),
    };
    let fabric = Fabric::start(ports, Config::default()).await.unwrap();
    for agent in ["mallory", "bob"] {
        let registration = Registration {
            capabilities: vec!["sum".parse().unwrap()],
            ..Registration::default()
        };
        fabric.register_agent(&ANYONE, id(agent), registration).await.unwrap();
    }
    fabric
        .create_group(&ANYONE, group(CommunicationMode::Broadcast, &["mallory", "bob"]))
        .await
        .unwrap();
    let (_mallory, mut mallorys) = attach(&fabric, "mallory").await;
    let (_carol, mut carols) = attach(&fabric, "carol").await;
    censor.forbid("mallory");
    for (to, qos) in [
        ("agent:mallory", Qos::AtLeastOnce),
        ("any:sum", Qos::AtLeastOnce),
        ("group:team", Qos::AtLeastOnce),
        ("any:sum", Qos::AtMostOnce),
        ("group:team", Qos::AtMostOnce),
    ] {
        let mut message = draft(&fabric, "alice", to);
        message.qos = qos;
        send(&fabric, message, to).await.unwrap();
    }
    // Bob may have what the forbidden one may not; whoever is no addressee gets only what is for them.
    let (_bob, mut bobs) = attach(&fabric, "bob").await;
    let mut bodies = Vec::new();
    while bodies.len() < 2 {
        let delivery = next(&mut bobs).await;
        // At QoS 0 it depends on when he came.
        bodies.extend(delivery.id.map(|_| delivery.frame.body));
    }
    bodies.sort();
    assert_eq!(bodies, ["any:sum", "group:team"]);
    send(&fabric, draft(&fabric, "alice", "agent:carol"), "yours")
        .await
        .unwrap();
    assert_eq!(&next(&mut carols).await.frame.body[..], b"yours");
    for to in ["agent:mallory", "any:sum", "group:team"] {
        round(&fabric, to).await;
    }
    assert_eq!(
        mallorys.try_next(&mut Vec::new(), 9),
        0,
        "policy was not asked at delivery"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_a_workers_inbox_takes_so_many_frames_however_they_are_batched_and_a_stream_that_gave_up_waiting_loses_none()
 {
    let store = SteeredStore::new();
    let bounds = Config {
        worker_frames_max: 10,
        ..Config::default()
    };
    let fabric = on(&store, bounds).await;
    store.set(Mode::Hold);
    let mut first = Vec::new();
    for under_way in 1..=3 {
        // The worker has three commits under way and takes nothing more out of its inbox.
        let mut sending = Box::pin(send(&fabric, draft(&fabric, "alice", "agent:bob"), "first"));
        assert!(poll!(&mut sending).is_pending());
        until(|| async { (store.held() == under_way).then_some(()) }).await;
        first.push(sending);
    }
    let (mut publisher, mut answers) = fabric.publisher(ANYONE, Protocol::Grpc);
    let frame = |tag: u64| {
        let envelope = draft(&fabric, "alice", "agent:bob").archive().unwrap();
        let body = Bytes::from(tag.to_string());
        Sending::one(tag, weft::frame::Frame::new(envelope, body).unwrap(), true)
    };
    let mut batch: Vec<_> = (0..25).map(frame).collect();
    assert!(
        publisher.publish(&mut batch).now_or_never().is_none(),
        "25 frames went into an inbox of 10"
    );
    let mut more: Vec<_> = (25..30).map(frame).collect();
    assert!(publisher.publish(&mut more).now_or_never().is_none());
    assert_eq!(
        (batch.len(), more.len()),
        (0, 5),
        "nothing is taken in before what was taken is on its way"
    );
    let refused = send(&fabric, draft(&fabric, "alice", "agent:bob"), "x").await;
    assert!(matches!(refused, Err(FabricError::Overloaded { .. })), "{refused:?}");
    store.let_go();
    join_all(first)
        .await
        .into_iter()
        .for_each(|answer| assert!(answer.is_ok(), "{answer:?}"));
    publisher.publish(&mut more).await;
    drop(publisher);
    let mut given = Vec::new();
    while answers.next(&mut given).await {}
    assert!(given.iter().all(|(_, answer)| answer.is_ok()));
    let mut tags: Vec<_> = given.into_iter().map(|(tag, _)| tag).collect();
    tags.sort_unstable();
    assert!(tags.into_iter().eq(0..30), "each is answered once");
    let (_session, mut receiver) = attach(&fabric, "bob").await;
    for _ in 0..3 {
        assert_eq!(&next(&mut receiver).await.frame.body[..], b"first");
    }
    for tag in 0..30 {
        assert_eq!(next(&mut receiver).await.frame.body, tag.to_string(), "in order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g13_everything_acknowledged_is_there_after_a_crash_in_order_and_nothing_is_there_twice() {
    let store = SteeredStore::new();
    let fabric = on(&store, Config::default()).await;
    let acknowledged: Vec<Draft> = (0..50).map(|_| draft(&fabric, "alice", "agent:bob")).collect();
    for message in &acknowledged {
        send(&fabric, message.clone(), "x").await.unwrap();
    }
    store.set(Mode::Hold);
    let lost = draft(&fabric, "alice", "agent:bob");
    let mut sending = pin!(send(&fabric, lost, "never acknowledged"));
    assert!(poll!(&mut sending).is_pending());
    until(|| async { (store.held() == 1).then_some(()) }).await;
    let fabric = after_a_crash(&store).await;
    for message in &acknowledged {
        assert!(send(&fabric, message.clone(), "x").await.unwrap().duplicate);
    }
    send(&fabric, draft(&fabric, "alice", "agent:bob"), "last")
        .await
        .unwrap();
    let (_session, mut receiver) = attach(&fabric, "bob").await;
    for message in &acknowledged {
        let delivery = next(&mut receiver).await;
        assert_eq!(delivery.frame.envelope.id().parse::<MessageId>().unwrap(), message.id);
    }
    assert_eq!(&next(&mut receiver).await.frame.body[..], b"last");
}

#[tokio::test(flavor = "multi_thread")]
async fn g13_a_broadcast_that_a_crash_interrupted_reaches_every_member_once_and_stays_in_the_groups_history() {
    let store = SteeredStore::new();
    let fabric = on(&store, Config::default()).await;
    let members = ["bob", "carol", "dave"];
    fabric
        .create_group(&ANYONE, group(CommunicationMode::Broadcast, &members))
        .await
        .unwrap();
    store.set(Mode::Hold);
    let sending = send(&fabric, draft(&fabric, "alice", "group:team"), "all");
    let letting_go = async {
        until(|| async { store.let_one_go().then_some(()) }).await;
    };
    assert_eq!(tokio::join!(sending, letting_go).0.unwrap().recipients, 3);
    // Some of the copies are committed, and nobody has told their source.
    until(|| async { (store.held() >= 1).then_some(()) }).await;
    store.let_one_go();
    let fabric = after_a_crash(&store).await;
    for member in members {
        let (session, mut receiver) = attach(&fabric, member).await;
        let delivery = next(&mut receiver).await;
        assert_eq!(&delivery.frame.body[..], b"all");
        assert_eq!(session.ack(&[delivery.id.unwrap()]).await, [Settled::Done]);
        send(&fabric, draft(&fabric, "alice", &format!("agent:{member}")), "last")
            .await
            .unwrap();
        assert_eq!(&next(&mut receiver).await.frame.body[..], b"last");
    }
    let team = "team".parse().unwrap();
    let history = until(|| async {
        let history = fabric.group_history(&ANYONE, &team, None, 10).await.unwrap();
        history
            .first()
            .is_some_and(|kept| !kept.settled_at.is_never())
            .then_some(history)
    });
    assert_eq!(history.await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn g13_what_a_crash_left_in_the_outbox_reaches_durable_sessions_whose_queues_were_empty() {
    let store = SteeredStore::new();
    let fabric = on(&store, Config::default()).await;
    let listener = |fabric: Fabric| async move {
        let attach = Attach {
            agent: id("bob"),
            protocol: Protocol::Grpc,
            inbox: Inbox::Closed,
            queue: SessionQueue::Durable("listener".into()),
            window: Window::DEFAULT,
            visibility_timeout: None,
        };
        fabric.attach(&ANYONE, attach).await.unwrap()
    };
    let (session, receiver) = listener(fabric.clone()).await;
    session.subscribe(vec![TopicFilter::new("t").unwrap()]).await.unwrap();
    drop((session, receiver));
    store.set(Mode::Hold);
    let sending = send(&fabric, draft(&fabric, "alice", "topic:t"), "x");
    let letting_go = async {
        until(|| async { store.let_one_go().then_some(()) }).await;
    };
    tokio::join!(sending, letting_go).0.unwrap();
    until(|| async { (store.held() >= 1).then_some(()) }).await;
    // The topic has it, and no copy is committed. What is read at the start takes its time.
    let fabric = after_a_crash(&store).await;
    let (_session, mut receiver) = listener(fabric).await;
    assert_eq!(&next(&mut receiver).await.frame.body[..], b"x");
}
