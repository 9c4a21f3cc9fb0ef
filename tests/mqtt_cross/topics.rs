//! Topics of MQTT's length, by other protocols too.

use super::*;

/// As long as a string of MQTT gets, with what JSON escapes.
fn longest(begin: &str) -> String {
    let mut topic = format!("{begin}{}", "\"\\".repeat(32_000));
    topic.extend(std::iter::repeat_n('x', 65_535 - topic.len()));
    topic
}

#[tokio::test(flavor = "multi_thread")]
async fn http_and_grpc_publish_to_the_longest_topics_of_mqtt_clients() {
    let broker = Broker::start();
    let bob = grpc(&broker, "bob").await;
    for version in BOTH {
        let mut alice = broker.client(version, "alice");
        for topic in [longest("cross/"), "/".repeat(200), format!("{}d", "abc/".repeat(199))] {
            alice.subscribe(&topic, 2);
            post(
                &broker,
                json!({"from_agent": "carol", "to_topic": topic, "body": "by http"}),
            )
            .await;
            assert!(alice.take().topic() == topic);
            let name = TopicName::new(&topic).expect("well-formed");
            let sent = within(bob.send(Message::to_topic(&name).text("by grpc"))).await;
            assert_eq!(within(sent.expect("queued")).await.expect("taken").recipients, 1);
            let heard = alice.take();
            assert!(heard.topic() == topic && heard.text() == "by grpc");
            alice.unsubscribe(&[&topic], &[0]);
        }
        alice.disconnect();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_mqtt_clients_publish_to_the_longest_topics_reaches_grpc_http_and_websocket() {
    let broker = Broker::start();
    let bob = grpc(&broker, "bob").await;
    let topic = longest("cross/");
    let filter = TopicFilter::new(&topic).expect("well-formed");
    within(bob.subscribe(std::slice::from_ref(&filter)))
        .await
        .expect("subscribed");
    let carol = AgentId::new("carol").expect("well-formed");
    let client = client::Client::connect(&format!("grpc://{}", broker.at.grpc)).await;
    let kept = within(
        client
            .expect("the node listens")
            .set_subscriptions(&carol, "", std::slice::from_ref(&filter)),
    )
    .await;
    assert!(kept.expect("subscribed") == [topic.as_str()]);
    for version in BOTH {
        let mut alice = broker.client(version, "alice");
        for qos in 1..3 {
            alice.publish(Publish::new(&topic, "hello").qos(qos, 0));
            let came = receive(&bob).await;
            assert!(came.to() == format!("topic:{topic}") && &came.body()[..] == b"hello");
            came.ack().await.expect("it is acknowledged");
            let polled = poll(&broker, "carol", 1).await;
            assert!(string_of(&polled[0]["to"]) == format!("topic:{topic}"));
        }
    }
}
