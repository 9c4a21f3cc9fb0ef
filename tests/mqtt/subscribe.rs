//! SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK.

use crate::mqtt_driver::{Version::*, *};

#[test]
fn suback_has_the_id_and_a_code_for_each_filter_in_order() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "codes");
        client.send(&subscribe(
            version,
            0xABCD,
            &[("a", 2), ("b/+", 0), ("c/#", 1), ("d", 2)],
            &[],
        ));
        client.expect(&packet(
            SUBACK,
            &[&[0xAB, 0xCD], &properties(version, &[]), &[2, 0, 1, 2]],
        ));
    }
}

#[test]
fn many_filters_are_as_many_subscriptions() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "many");
        client.subscribe_as(&[("m/a", 0), ("m/b", 1), ("m/c", 2)], &[], &[0, 1, 2]);
        let mut other = broker.client(version, "pub");
        for topic in ["m/a", "m/b", "m/c"] {
            other.publish(Publish::new(topic, topic).qos(2, 0));
            let heard = client.take();
            assert_eq!(heard.topic(), topic);
        }
    }
}

#[test]
fn no_filters_end_it() {
    let broker = Broker::start();
    for version in BOTH {
        for bytes in [subscribe(version, 1, &[], &[]), unsubscribe(version, 1, &[])] {
            let mut client = broker.client(version, "none");
            client.send(&bytes);
            client.closed_for(&[0x81, 0x82]);
        }
    }
}

#[test]
fn reserved_bits_of_options_end_it() {
    let broker = Broker::start();
    for (version, wrong) in [
        (V3, &[0x03, 0x04, 0x08, 0x40, 0x80][..]),
        (V5, &[0x03, 0x30, 0x40, 0x80, 0xC1]),
    ] {
        for options in wrong {
            let mut client = broker.client(version, "options");
            client.send(&subscribe(version, 1, &[("a", *options)], &[]));
            client.closed_for(&[0x81, 0x82]);
        }
    }
}

#[test]
fn the_same_filter_replaces_its_subscription() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "same");
        client.subscribe("same/+", 2);
        client.subscribe("same/+", 0);
        broker
            .client(version, "pub")
            .publish(Publish::new("same/x", "once").qos(2, 0));
        let heard = client.until_fence(&broker);
        assert_eq!(payloads(&heard), ["once"]);
        assert_eq!(heard[0].qos, 0);
        client.unsubscribe(&["same/+"], &[0]);
        broker
            .client(version, "pub")
            .publish(Publish::new("same/x", "none").qos(2, 0));
        assert!(client.until_fence(&broker).is_empty());
    }
}

#[test]
fn a_replaced_subscription_loses_no_messages() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "replaces");
        client.subscribe("stream", 1);
        let mut other = broker.client(version, "pub");
        for number in 0..10 {
            other.publish(Publish::new("stream", &number.to_string()).qos(1, 0));
            client.send(&subscribe(version, 100, &[("stream", 1)], &[]));
        }
        let heard: Vec<String> = client
            .until_fence(&broker)
            .iter()
            .map(|publish| publish.text().into())
            .collect();
        assert_eq!(heard, (0..10).map(|number: u32| number.to_string()).collect::<Vec<_>>());
    }
}

#[test]
fn unsubscribe_is_answered_and_compares_characters() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "un");
        client.subscribe_as(&[("u/+", 1), ("u/#", 1), ("v", 1)], &[], &[1, 1, 1]);
        client.send(&unsubscribe(version, 0x1234, &["u/x", "v", "never"]));
        client.expect(&unsuback(version, 0x1234, &[0x11, 0, 0x11]));
        broker
            .client(version, "pub")
            .publish(Publish::new("u/x", "still").qos(1, 0));
        assert!(
            client
                .until_fence(&broker)
                .iter()
                .any(|publish| publish.text() == "still")
        );
        client.unsubscribe(&["u/+", "u/#"], &[0, 0]);
        broker
            .client(version, "pub")
            .publish(Publish::new("u/x", "no").qos(1, 0));
        broker.client(version, "pub").publish(Publish::new("v", "no").qos(1, 0));
        assert!(client.until_fence(&broker).is_empty());
    }
}

#[test]
fn what_was_sent_before_an_unsubscribe_is_completed() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "completes");
        client.subscribe("rest", 2);
        broker
            .client(version, "pub")
            .publish(Publish::new("rest", "x").qos(2, 0));
        let heard = client.hear();
        client.unsubscribe(&["rest"], &[0]);
        client.acknowledge(PUBREC, heard.id);
        client.expect(&packet(PUBREL, &[&heard.id.to_be_bytes()]));
        client.acknowledge(PUBCOMP, heard.id);
        client.alive();
    }
}

#[test]
fn overlapping_subscriptions_give_one_copy_at_the_highest_qos() {
    if peer() {
        return; // mosquitto sends a copy for each by default
    }
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "overlap");
        client.subscribe("o/#", 0);
        client.subscribe("o/+", 2);
        client.subscribe("o/x", 1);
        broker
            .client(version, "pub")
            .publish(Publish::new("o/x", "once").qos(2, 0));
        let heard = client.until_fence(&broker);
        assert_eq!(payloads(&heard), ["once"]);
        assert_eq!(heard[0].qos, 2);
    }
}

#[test]
fn subscription_identifiers_come_with_messages() {
    let broker = Broker::start();
    let mut client = broker.client(V5, "identifiers");
    client.subscribe_as(&[("i/#", 1)], &[&[id::SUBSCRIPTION][..], &variable(1)].concat(), &[1]);
    client.subscribe_as(
        &[("i/+", 1)],
        &[&[id::SUBSCRIPTION][..], &variable(268_435_455)].concat(),
        &[1],
    );
    client.subscribe_as(&[("i/x", 1)], &[], &[1]);
    broker.client(V5, "pub").publish(Publish::new("i/x", "x").qos(1, 0));
    let heard = client.until_fence(&broker);
    let mut identifiers: Vec<Vec<u8>> = heard
        .iter()
        .flat_map(|publish| publish.property(id::SUBSCRIPTION))
        .collect();
    identifiers.sort();
    assert_eq!(identifiers, [variable(1), variable(268_435_455)]);
    if !peer() {
        assert_eq!(heard.len(), 1);
    }
    // Replaced without an identifier: then it has none.
    client.subscribe_as(&[("i/#", 1), ("i/+", 1)], &[], &[1, 1]);
    broker.client(V5, "pub").publish(Publish::new("i/x", "x").qos(1, 0));
    assert!(
        client
            .until_fence(&broker)
            .iter()
            .all(|publish| publish.property(id::SUBSCRIPTION).is_empty())
    );
}

#[test]
fn wrong_subscription_identifiers_end_it() {
    let broker = Broker::start();
    let twice = [id::SUBSCRIPTION, 1, id::SUBSCRIPTION, 2];
    for list in [
        &[id::SUBSCRIPTION, 0][..],
        &twice,
        &[id::SUBSCRIPTION, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
    ] {
        let mut client = broker.client(V5, "wrong");
        client.send(&subscribe(V5, 1, &[("a", 0)], list));
        let answer = client.next();
        assert!(
            answer.as_ref().is_none_or(|packet| packet.kind() == DISCONNECT),
            "{list:02x?}: {answer:02x?}"
        );
    }
    let mut client = broker.client(V5, "wrong");
    client.send(&Publish::new("a", "x").with(vec![id::SUBSCRIPTION, 1]).bytes(V5));
    client.closed_for(&[0x81, 0x82]);
}

#[test]
fn no_local_keeps_a_client_from_its_own_messages() {
    let broker = Broker::start();
    let mut client = broker.client(V5, "local");
    client.subscribe("local", 0x04 | 1);
    client.publish(Publish::new("local", "own"));
    broker
        .client(V5, "other")
        .publish(Publish::new("local", "foreign").qos(1, 0));
    assert_eq!(payloads(&client.until_fence(&broker)), ["foreign"]);
}

#[test]
fn no_local_on_a_shared_subscription_ends_it() {
    let broker = Broker::start();
    let mut client = broker.client(V5, "local");
    client.send(&subscribe(V5, 1, &[("$share/g/local", 0x04)], &[]));
    client.closed_for(&[0x82]);
}
