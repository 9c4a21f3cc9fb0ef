//! Retained messages: what stays, what is found, what is bounded, and what a restart finds.

use weft::frame::{Frame, MessageId, TopicName};

use super::*;
use crate::{guarantees::on, steered::SteeredStore};

fn message(topic: &str, body: &'static str, ttl_ms: u64) -> Frame {
    let to = Address::topic(&TopicName::new(topic).unwrap());
    let mut draft = Draft::new(
        MessageId::new(format!("m-{}-{body}", topic.replace(['/', '$'], "."))).unwrap(),
        id("alice"),
        to,
    );
    draft.ttl_ms = ttl_ms;
    Frame::new(draft.archive().unwrap(), Bytes::from_static(body.as_bytes())).unwrap()
}

async fn retain(fabric: &Fabric, topic: &str, body: &'static str) -> Result<(), FabricError> {
    fabric.retain(&ANYONE, &message(topic, body, 0))?.durable().await
}

fn found(fabric: &Fabric, filter: &str) -> Vec<(String, String)> {
    let filter = TopicFilter::new(filter).unwrap();
    let found = fabric.retained(&id("bob"), &filter, None, 100);
    let text = |frame: &Frame| String::from_utf8(frame.body.to_vec()).unwrap();
    found
        .iter()
        .map(|(topic, frame)| (topic.as_str().to_owned(), text(frame)))
        .collect()
}

fn row(topic: &str, body: &str) -> (String, String) {
    (topic.to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_message_of_a_topic_is_found_by_filters_and_by_the_next_start() {
    let store = SteeredStore::new();
    let fabric = on(&store, Config::default()).await;
    for (topic, body) in [
        ("a/b", "1"),
        ("a/b", "2"),
        ("a", "3"),
        ("ab", "4"),
        ("$x/y", "5"),
        ("a/c/d", "6"),
    ] {
        retain(&fabric, topic, body).await.unwrap();
    }
    retain(&fabric, "ab", "").await.unwrap();
    let check = |fabric: &Fabric| {
        assert_eq!(found(fabric, "a/b"), [row("a/b", "2")]);
        assert_eq!(
            found(fabric, "a/#"),
            [row("a", "3"), row("a/b", "2"), row("a/c/d", "6")]
        );
        assert_eq!(found(fabric, "+"), [row("a", "3")]);
        assert_eq!(found(fabric, "+/+"), [row("a/b", "2")]);
        assert_eq!(found(fabric, "$x/#"), [row("$x/y", "5")]);
        assert_eq!(fabric.retained_count(), 4);
    };
    check(&fabric);
    // As after a crash: the first one still thinks that it owns the shards.
    check(&on(&store, Config::default()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_not_found_and_what_is_too_much_is_refused() {
    let store = SteeredStore::new();
    let config = Config {
        retained_messages_max: 2,
        ..Config::default()
    };
    let fabric = on(&store, config).await;
    fabric
        .retain(&ANYONE, &message("soon", "1", 1))
        .unwrap()
        .durable()
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(found(&fabric, "#"), []);
    retain(&fabric, "a", "1").await.unwrap();
    let refused = retain(&fabric, "b", "1").await;
    assert!(
        matches!(refused, Err(FabricError::TooMany { max: 2, .. })),
        "{refused:?}"
    );
    retain(&fabric, "a", "2").await.unwrap();
    assert_eq!(found(&fabric, "#"), [row("a", "2")]);
    let not_a_topic = Draft::new(MessageId::new("m").unwrap(), id("alice"), Address::agent(&id("bob")));
    let frame = Frame::new(not_a_topic.archive().unwrap(), Bytes::new()).unwrap();
    assert!(matches!(
        fabric.retain(&ANYONE, &frame),
        Err(FabricError::Invalid { .. })
    ));
}
