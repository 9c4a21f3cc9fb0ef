//! Retained messages.

use crate::mqtt_driver::{Version::*, *};

#[test]
fn the_last_retained_message_of_each_topic_is_sent_to_a_new_subscription() {
    let broker = Broker::start();
    for version in BOTH {
        for qos in 0..3 {
            let mut client = broker.client(version, "keeper");
            for (topic, payload) in [("r/a", "old"), ("r/a", "a"), ("r/b", "b")] {
                client.publish(Publish::new(topic, payload).qos(qos, 0).retained());
            }
            // Not retained: neither stored nor a replacement.
            client.publish(Publish::new("r/a", "passing").qos(qos, 0));
            client.alive();
            let mut subscriber = broker.client(version, "late");
            subscriber.subscribe("r/+", 2);
            let mut heard = subscriber.until_fence(&broker);
            heard.sort_by_key(|publish| publish.topic.clone());
            assert_eq!(payloads(&heard), ["a", "b"]);
            assert!(
                heard
                    .iter()
                    .all(|publish| publish.retain && !publish.dup && publish.qos == qos),
                "{heard:?}"
            );
        }
    }
}

#[test]
fn an_empty_retained_message_removes_and_is_passed_on() {
    let broker = Broker::start();
    for version in BOTH {
        let mut present = broker.client(version, "present");
        present.subscribe("gone", 1);
        let mut client = broker.client(version, "keeper");
        client.publish(Publish::new("gone", "x").qos(1, 0).retained());
        client.publish(Publish::new("gone", "").qos(1, 0).retained());
        let heard = present.until_fence(&broker);
        assert_eq!(payloads(&heard), ["x", ""]);
        assert!(
            heard.iter().all(|publish| !publish.retain),
            "an established subscription sees no flag: {heard:?}"
        );
        let mut late = broker.client(version, "late");
        late.subscribe("gone", 1);
        assert!(late.until_fence(&broker).is_empty());
    }
}

#[test]
fn retained_messages_outlive_sessions_and_kills() {
    let mut broker = Broker::start();
    if peer() {
        return; // mosquitto writes to disk only when it ends in order
    }
    for version in BOTH {
        let mut client = broker.client(version, "keeper");
        for qos in [1, 2] {
            client.publish(Publish::new(&format!("kept/{qos}"), "x").qos(qos, 0).retained());
        }
        client.disconnect();
    }
    broker.kill_and_restart();
    for version in BOTH {
        let mut late = broker.client(version, "late");
        late.subscribe("kept/#", 2);
        assert_eq!(late.until_fence(&broker).len(), 2);
    }
}

#[test]
fn a_subscription_made_again_sends_retained_messages_again() {
    let broker = Broker::start();
    for version in BOTH {
        broker
            .client(version, "keeper")
            .publish(Publish::new("again", "x").qos(1, 0).retained());
        let mut client = broker.client(version, "twice");
        for options in [0, 1] {
            client.subscribe("again", options);
            let heard = client.take();
            assert_eq!((heard.text(), heard.retain, heard.qos), ("x", true, options));
        }
    }
}

#[test]
fn retain_handling_decides_on_retained_messages() {
    let broker = Broker::start();
    broker
        .client(V5, "keeper")
        .publish(Publish::new("handling", "x").qos(1, 0).retained());
    // Options, and how many retained messages come at the first and the second subscription.
    for (options, first, second) in [(0x01, 1, 1), (0x11, 1, 0), (0x21, 0, 0)] {
        let mut client = broker.client(V5, "handles");
        client.subscribe("handling", options);
        assert_eq!(client.until_fence(&broker).len(), first, "{options:02x}");
        client.subscribe("handling", options);
        assert_eq!(client.until_fence(&broker).len(), second, "{options:02x}");
    }
}

#[test]
fn retain_as_published_keeps_the_flag() {
    let broker = Broker::start();
    let mut keeps = broker.client(V5, "keeps");
    keeps.subscribe("flag", 0x08 | 1);
    let mut clears = broker.client(V5, "clears");
    clears.subscribe("flag", 1);
    let mut client = broker.client(V5, "pub");
    client.publish(Publish::new("flag", "1").qos(1, 0).retained());
    client.publish(Publish::new("flag", "0").qos(1, 0));
    assert_eq!([keeps.take().retain, keeps.take().retain], [true, false]);
    assert_eq!([clears.take().retain, clears.take().retain], [false, false]);
    // Sent for a new subscription, the flag is set in any case.
    let mut late = broker.client(V5, "late");
    late.subscribe("flag", 1);
    assert!(late.take().retain);
}

#[test]
fn retained_messages_keep_their_properties_and_expire() {
    let broker = Broker::start();
    let mut client = broker.client(V5, "keeper");
    let list = [
        string(id::CONTENT_TYPE, "text/x"),
        user("k", "1"),
        user("k", "2"),
        string(id::CORRELATION, [9, 0]),
    ]
    .concat();
    client.publish(
        Publish::new("kept", "x")
            .qos(1, 0)
            .retained()
            .with(list)
            .with(four(id::MESSAGE_EXPIRY, 3600)),
    );
    client.publish(
        Publish::new("expires", "x")
            .qos(1, 0)
            .retained()
            .with(four(id::MESSAGE_EXPIRY, 1)),
    );
    // The only wait for a time: two seconds, beyond the one that the message lives.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let mut late = broker.client(V5, "late");
    late.subscribe("expires", 1);
    late.subscribe("kept", 1);
    let heard = late.take();
    assert_eq!(heard.topic(), "kept");
    assert_eq!(heard.property(id::CONTENT_TYPE), [b"text/x"]);
    assert_eq!(heard.property(id::CORRELATION), [[9, 0]]);
    assert_eq!(heard.property(id::USER).len(), 2);
    let left = u32::from_be_bytes(
        heard.property(id::MESSAGE_EXPIRY)[0]
            .clone()
            .try_into()
            .expect("four bytes"),
    );
    assert!((3000..3600).contains(&left), "{left} s of 3600 are left after two");
}
