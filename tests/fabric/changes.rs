//! Changes that meet: subscriptions, registrations, sessions that come and go.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use futures_util::future::join_all;
use weft::{
    frame::LastHop,
    router::{
        port::{Store, Table},
        registry::Registered,
    },
};

use super::*;
use crate::{
    guarantees::{attach_with, on},
    steered::SteeredStore,
};

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).unwrap()
}

fn durable(agent: &str, token: &str) -> Attach {
    Attach {
        agent: id(agent),
        protocol: Protocol::Grpc,
        inbox: Inbox::Open,
        queue: SessionQueue::Durable(token.into()),
        window: Window::DEFAULT,
        visibility_timeout: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_of_one_durable_session_that_change_at_once_all_take_effect() {
    let store = SteeredStore::new();
    let fabric = on(&store, Config::default()).await;
    let (session, mut receiver) = fabric.attach(&ANYONE, durable("bob", "q")).await.unwrap();
    session
        .subscribe((0..10).map(|at| filter(&format!("gone/{at}"))).collect())
        .await
        .unwrap();
    let changes = (0..20).map(|at| {
        let session = session.clone();
        tokio::spawn(async move {
            match at % 2 {
                0 => session.subscribe(vec![filter(&format!("kept/{at}"))]).await,
                _ => session.unsubscribe(vec![filter(&format!("gone/{}", at / 2))]).await,
            }
        })
    });
    join_all(changes)
        .await
        .into_iter()
        .for_each(|change| change.unwrap().unwrap());
    let wanted: BTreeSet<_> = (0..20).step_by(2).map(|at| filter(&format!("kept/{at}"))).collect();
    let shown = fabric.subscriptions(&ANYONE, &id("bob"), "q").unwrap();
    assert_eq!(shown.into_iter().collect::<BTreeSet<_>>(), wanted);
    let stored = store.scan_records(Table::Subscriptions).await.unwrap();
    let stored: BTreeSet<TopicFilter> = serde_json::from_slice(&stored[0].1).unwrap();
    assert_eq!(stored, wanted);
    for at in (0..20).step_by(2) {
        let accepted = send(&fabric, draft(&fabric, "alice", &format!("topic:kept/{at}")), "x")
            .await
            .unwrap();
        assert_eq!(accepted.recipients, 1);
        next(&mut receiver).await;
    }
    let gone = send(&fabric, draft(&fabric, "alice", "topic:gone/1"), "x")
        .await
        .unwrap();
    assert_eq!(gone.recipients, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_of_one_agent_at_once_show_as_they_are_stored_under_one_registration() {
    let store = SteeredStore::new();
    let fabric = on(&store, Config::default()).await;
    for round in 0..5 {
        let agent = id(&format!("bob-{round}"));
        let registrations = (0..20).map(|at| {
            let (fabric, agent) = (fabric.clone(), agent.clone());
            let registration = Registration {
                name: format!("name {at}"),
                ..Registration::default()
            };
            tokio::spawn(async move { fabric.register_agent(&ANYONE, agent, registration).await })
        });
        let done: Vec<_> = join_all(registrations)
            .await
            .into_iter()
            .map(|done| done.unwrap().unwrap())
            .collect();
        assert_eq!(
            done.iter()
                .filter(|(_, registered)| *registered == Registered::New)
                .count(),
            1
        );
        assert!(
            done.iter()
                .all(|(record, _)| record.registration_id == done[0].0.registration_id)
        );
        let shown = fabric.agent(&ANYONE, &agent).unwrap().record.unwrap();
        let stored = store.scan_records(Table::Agents).await.unwrap();
        let (_, stored) = stored.iter().find(|(key, _)| *key == agent.as_str()).unwrap();
        let stored: weft::router::registry::AgentRecord = serde_json::from_slice(stored).unwrap();
        assert_eq!(shown.name, stored.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_caller_goes_away_is_shown_once_it_is_stored() {
    let store = SteeredStore::new();
    let fabric = on(&store, Config::default()).await;
    let registering = fabric.register_agent(&ANYONE, id("bob"), Registration::default());
    // Polled once: it is decided, and nobody waits for it.
    drop(futures_util::FutureExt::now_or_never(registering));
    until(|| async {
        let shown = fabric
            .agent(&ANYONE, &id("bob"))
            .is_ok_and(|view| view.record.is_some());
        shown.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g11_durable_subscriptions_are_bounded_whether_or_not_anyone_is_attached() {
    let bounds = Config {
        subscriptions_per_agent_max: 3,
        ..Config::default()
    };
    let fabric = fabric(bounds).await;
    let set = |token: &'static str, filters: &[&str]| {
        let filters = filters.iter().map(|text| filter(text)).collect();
        let fabric = fabric.clone();
        async move { fabric.set_subscriptions(&ANYONE, &id("bob"), token, filters).await }
    };
    set("one", &["a", "b"]).await.unwrap();
    set("two", &[]).await.unwrap();
    assert!(matches!(set("three", &[]).await, Err(FabricError::TooMany { .. })));
    assert!(matches!(
        set("two", &["a", "b"]).await,
        Err(FabricError::TooMany { .. })
    ));
    set("one", &["a"]).await.unwrap();
    set("two", &["a", "b"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_subscription_that_is_ended_and_taken_up_again_at_once_goes_on() {
    let fabric = fabric(Config::default()).await;
    // The queue of the second one's share is removed each time.
    let passing = attach(&fabric, "bob").await;
    let lasting = fabric.attach(&ANYONE, durable("bob", "q")).await.unwrap();
    for (session, mut receiver) in [passing, lasting] {
        let jobs = || vec![filter("$share/pool/jobs")];
        for round in 0..100 {
            session.subscribe(jobs()).await.unwrap();
            session.unsubscribe(jobs()).await.unwrap();
            session.subscribe(jobs()).await.unwrap();
            send(&fabric, draft(&fabric, "alice", "topic:jobs"), &round.to_string())
                .await
                .unwrap();
            let delivery = next(&mut receiver).await;
            session.ack(&[delivery.id.unwrap()]).await;
            session.unsubscribe(jobs()).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_durable_queues_keeps_what_comes_until_the_last_of_them_goes() {
    let fabric = fabric(Config::default()).await;
    let jobs = || vec![filter("$share/pool/jobs")];
    for agent in ["bob", "carol"] {
        fabric
            .set_subscriptions(&ANYONE, &id(agent), "q", jobs())
            .await
            .unwrap();
    }
    let publish = || send(&fabric, draft(&fabric, "alice", "topic:jobs"), "x");
    let kept = publish().await.unwrap();
    assert_eq!(kept.recipients, 1);
    // Once more is no further membership.
    fabric
        .set_subscriptions(&ANYONE, &id("carol"), "q", jobs())
        .await
        .unwrap();
    fabric.remove_session_queue(&ANYONE, &id("bob"), "q").await.unwrap();
    assert_eq!(publish().await.unwrap().recipients, 1);
    let share = Address::shared(&jobs()[0]);
    // A topic's message is answered when it is durable, and copied then.
    until(|| async { (fabric.depth(&ANYONE, &share).await.unwrap().0 == 2).then_some(()) }).await;
    fabric
        .set_subscriptions(&ANYONE, &id("carol"), "q", Vec::new())
        .await
        .unwrap();
    assert_eq!(publish().await.unwrap().recipients, 0);
    assert_eq!(fabric.depth(&ANYONE, &share).await.unwrap(), (0, 0));
    assert_eq!(status(&fabric, &kept).await, Status::Rejected);
    // Two that were kept, and one that nobody subscribed to.
    until(|| async { (fabric.counters().rejected == 3).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_has_ended_takes_up_nothing_more() {
    let fabric = fabric(Config::default()).await;
    let (session, receiver) = attach(&fabric, "bob").await;
    drop(receiver);
    let refused = session.subscribe(vec![filter("a")]).await;
    assert_eq!(refused, Err(FabricError::SessionClosed));
    let accepted = send(&fabric, draft(&fabric, "alice", "topic:a"), "x").await.unwrap();
    assert_eq!(accepted.recipients, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_not_held_up_by_messages_for_another_protocol_that_has_no_credit() {
    let fabric = fabric(Config::default()).await;
    let websocket = Attach {
        protocol: Protocol::WebSocket,
        window: Window::CLOSED,
        queue: SessionQueue::Ephemeral,
        ..durable("bob", "q")
    };
    let (slow, mut slows) = fabric.attach(&ANYONE, websocket).await.unwrap();
    let (_quick, mut quicks) = attach_with(&fabric, "bob", Window::DEFAULT).await;
    for body in ["slow 1", "quick 1", "slow 2", "quick 2"] {
        let mut message = draft(&fabric, "alice", "agent:bob");
        if body.starts_with("slow") {
            message.last_hop = LastHop::Required(Protocol::WebSocket.name().into());
        }
        send(&fabric, message, body).await.unwrap();
    }
    let quick = [next(&mut quicks).await, next(&mut quicks).await].map(|delivery| delivery.frame.body);
    assert_eq!(quick, ["quick 1", "quick 2"]);
    slow.set_window(Window::DEFAULT);
    let slow = [next(&mut slows).await, next(&mut slows).await].map(|delivery| delivery.frame.body);
    assert_eq!(slow, ["slow 1", "slow 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_forgotten_at_the_instant_of_an_attach_is_named_again() {
    let fabric = fabric(Config::default()).await;
    // Ended also where an assertion below ends the test.
    struct Over(Arc<AtomicBool>);
    impl Drop for Over {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = Over(Arc::default());
    let forgetting = tokio::task::spawn_blocking({
        let (fabric, is_over) = (fabric.clone(), over.0.clone());
        move || {
            while !is_over.load(Ordering::Relaxed) {
                fabric.forget_named(&id("bob"));
            }
        }
    });
    for _ in 0..2_000 {
        let (session, receiver) = attach(&fabric, "bob").await;
        let sessions = fabric.agent(&ANYONE, &id("bob")).map(|agent| agent.sessions);
        assert_eq!(sessions, Ok(1), "it stands with the agent that others find");
        drop((session, receiver));
    }
    drop(over);
    forgetting.await.unwrap();
}
