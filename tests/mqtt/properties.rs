//! Properties of PUBLISH on their way through the server, and topic aliases.

use std::time::Duration;

use crate::mqtt_driver::{Version::*, *};

/// The user properties of a message, in order.
pub fn users(publish: &Publish) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let pair = |bytes: Vec<u8>| {
        let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        (text(&bytes[2..2 + length]), text(&bytes[4 + length..]))
    };
    publish.property(id::USER).into_iter().map(pair).collect()
}

#[test]
fn all_properties_of_a_message_come_unaltered_and_in_order() {
    let broker = Broker::start();
    let mut subscriber = broker.client(V5, "sub");
    subscriber.subscribe("props/#", 2);
    let mut client = broker.client(V5, "pub");
    let pairs = [("b", "1"), ("a", "2"), ("b", "3"), ("", ""), ("ü", "€ \u{FEFF}")];
    for qos in 0..3 {
        let mut publish = Publish::new("props/x", "text").qos(qos, 0);
        publish.properties = [
            byte(id::PAYLOAD_FORMAT, 1),
            string(id::CONTENT_TYPE, "application/x-thing; v=1"),
            string(id::RESPONSE_TOPIC, "answers/to/me"),
            string(id::CORRELATION, [0, 1, 255, 0]),
        ]
        .concat();
        for (name, value) in pairs {
            publish.properties.extend(user(name, value));
        }
        client.publish(publish);
        let heard = subscriber.take();
        assert_eq!(heard.property(id::PAYLOAD_FORMAT), [[1]]);
        assert_eq!(heard.property(id::CONTENT_TYPE), [b"application/x-thing; v=1"]);
        assert_eq!(heard.property(id::RESPONSE_TOPIC), [b"answers/to/me"]);
        assert_eq!(heard.property(id::CORRELATION), [[0, 1, 255, 0]]);
        assert_eq!(
            users(&heard),
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}

#[test]
fn a_message_without_properties_has_none() {
    let broker = Broker::start();
    let mut subscriber = broker.client(V5, "sub");
    subscriber.subscribe("bare", 0);
    broker.client(V5, "pub").publish(Publish::new("bare", "x"));
    subscriber.expect(&Publish::new("bare", "x").bytes(V5));
    let mut old = broker.client(V3, "old");
    old.subscribe("bare", 0);
    broker
        .client(V5, "pub")
        .publish(Publish::new("bare", "x").with(user("lost", "here")));
    old.expect(&Publish::new("bare", "x").bytes(V3));
    broker.client(V3, "pub").publish(Publish::new("bare", "y"));
    assert_eq!(subscriber.take().properties, user("lost", "here"));
    subscriber.expect(&Publish::new("bare", "y").bytes(V5));
}

#[test]
fn response_topics_with_wildcards_and_doubled_properties_end_it() {
    let broker = Broker::start();
    let wrong = [
        string(id::RESPONSE_TOPIC, "a/+"),
        string(id::RESPONSE_TOPIC, "a/#"),
        [string(id::CONTENT_TYPE, "a"), string(id::CONTENT_TYPE, "b")].concat(),
        [byte(id::PAYLOAD_FORMAT, 0), byte(id::PAYLOAD_FORMAT, 0)].concat(),
        byte(id::PAYLOAD_FORMAT, 2),
        [four(id::MESSAGE_EXPIRY, 1), four(id::MESSAGE_EXPIRY, 1)].concat(),
        four(id::SESSION_EXPIRY, 1),
    ];
    for list in wrong {
        let mut client = broker.client(V5, "wrong");
        client.send(&Publish::new("wrong", "x").with(list).bytes(V5));
        client.closed_for(&[0x81, 0x82, 0x90, 0x99]);
    }
}

#[test]
fn a_message_expires_and_tells_what_is_left_of_its_time() {
    let broker = Broker::start();
    let lasting = Connect::lasting(V5, "late");
    let mut client = broker.resume(&lasting, false);
    client.subscribe("expiry", 1);
    client.disconnect();
    let mut other = broker.client(V5, "pub");
    other.publish(
        Publish::new("expiry", "short")
            .qos(1, 0)
            .with(four(id::MESSAGE_EXPIRY, 1)),
    );
    other.publish(
        Publish::new("expiry", "long")
            .qos(1, 0)
            .with(four(id::MESSAGE_EXPIRY, 1000)),
    );
    std::thread::sleep(Duration::from_secs(2));
    let mut client = broker.resume(&lasting, true);
    let heard = client.until_fence(&broker);
    assert_eq!(payloads(&heard), ["long"]);
    let left = u32::from_be_bytes(
        heard[0].property(id::MESSAGE_EXPIRY)[0]
            .clone()
            .try_into()
            .expect("four bytes"),
    );
    assert!((900..1000).contains(&left), "{left} s of 1000 are left after two");
}

#[test]
fn aliases_of_a_client_stand_for_topics() {
    let broker = Broker::start();
    let mut subscriber = broker.client(V5, "sub");
    subscriber.subscribe("alias/#", 2);
    let mut client = broker.client(V5, "pub");
    let most = 10;
    for number in 1..=most {
        client.publish(Publish::new(&format!("alias/{number}"), "first").with(two(id::ALIAS, number)));
        assert_eq!(subscriber.take().topic(), format!("alias/{number}"));
    }
    for number in 1..=most {
        client.publish(Publish::new("", "second").qos(1, 0).with(two(id::ALIAS, number)));
        assert_eq!(subscriber.take().topic(), format!("alias/{number}"));
    }
    client.publish(Publish::new("alias/changed", "third").qos(2, 0).with(two(id::ALIAS, 1)));
    client.publish(Publish::new("", "fourth").qos(2, 0).with(two(id::ALIAS, 1)));
    let heard = subscriber.until_fence(&broker);
    assert!(
        heard
            .iter()
            .all(|publish| publish.topic() == "alias/changed" && publish.property(id::ALIAS).is_empty())
    );
    assert_eq!(payloads(&heard), ["third", "fourth"]);
}

#[test]
fn aliases_that_are_none_end_it() {
    let broker = Broker::start();
    for (topic, alias) in [("a", 0), ("a", 11), ("a", 65_535), ("", 3)] {
        let mut client = broker.client(V5, "wrong");
        client.send(&Publish::new(topic, "x").with(two(id::ALIAS, alias)).bytes(V5));
        client.closed_for(&[0x94, 0x82]);
    }
    // Those of a connection end with it.
    let lasting = Connect::lasting(V5, "before");
    let mut client = broker.resume(&lasting, false);
    client.publish(Publish::new("a", "x").qos(1, 0).with(two(id::ALIAS, 1)));
    client.cut();
    let mut client = broker.resume(&lasting, true);
    client.send(&Publish::new("", "x").with(two(id::ALIAS, 1)).bytes(V5));
    client.closed_for(&[0x94, 0x82]);
}

#[test]
fn aliases_of_the_server_keep_to_what_the_client_allows() {
    let broker = Broker::start();
    for most in [0, 1, 3] {
        let list = if most > 0 { two(id::ALIAS_MAX, most) } else { Vec::new() };
        let (mut client, _) = broker.connect(&Connect::new(V5, "sub").with(list));
        client.subscribe("server/#", 0);
        let mut other = broker.client(V5, "pub");
        let mut known = std::collections::HashMap::new();
        for round in 0..3 {
            for number in 0..5 {
                other.publish(Publish::new(&format!("server/{number}"), &format!("{number} {round}")));
                let heard = client.take();
                let mut topic = heard.topic().to_owned();
                if let Some(alias) = heard.property(id::ALIAS).first() {
                    let alias = u16::from_be_bytes([alias[0], alias[1]]);
                    assert!((1..=most).contains(&alias), "alias {alias} of {most}");
                    if topic.is_empty() {
                        topic.clone_from(&known[&alias]);
                    } else {
                        known.insert(alias, topic.clone());
                    }
                }
                assert_eq!(
                    (topic, heard.text()),
                    (format!("server/{number}"), format!("{number} {round}").as_str())
                );
            }
        }
    }
}

#[test]
fn a_qos_2_handshake_goes_on_past_the_expiry() {
    let broker = Broker::start();
    let mut client = broker.client(V5, "pub");
    client.send(
        &Publish::new("past", "x")
            .qos(2, 9)
            .with(four(id::MESSAGE_EXPIRY, 1))
            .bytes(V5),
    );
    client.answered(PUBREC, 9);
    std::thread::sleep(Duration::from_secs(2));
    client.acknowledge(PUBREL, 9);
    client.expect(&[PUBCOMP, 2, 0, 9]);
}
