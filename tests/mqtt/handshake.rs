//! Acknowledgements that are out of place, and packets that no version has.

use crate::mqtt_driver::{Version::*, *};

/// Without anything but the id.
fn ack(kind: u8, id: u16) -> Vec<u8> {
    packet(kind, &[&id.to_be_bytes()])
}

#[test]
fn an_acknowledgement_of_the_other_qos_ends_it() {
    let broker = Broker::start();
    for version in BOTH {
        for (qos, wrong) in [(1, PUBREC), (1, PUBCOMP), (2, PUBACK), (2, PUBCOMP)] {
            let mut client = broker.client(version, "wrong");
            client.subscribe("w", qos);
            broker.client(version, "pub").publish(Publish::new("w", "x").qos(2, 0));
            let heard = client.hear();
            assert_eq!(heard.qos, qos);
            client.send(&ack(wrong, heard.id));
            client.closed_for(&[0x82]);
        }
        let mut client = broker.client(version, "wrong");
        client.subscribe("w", 2);
        broker.client(version, "pub").publish(Publish::new("w", "x").qos(2, 0));
        let heard = client.hear();
        client.send(&ack(PUBREC, heard.id));
        client.expect(&ack(PUBREL, heard.id));
        client.send(&ack(PUBACK, heard.id));
        client.closed_for(&[0x82]);
    }
}

#[test]
fn a_refusal_of_a_message_that_is_not_known_is_not_answered() {
    let broker = Broker::start();
    let mut client = broker.client(V5, "refuses");
    for bytes in [&[0x50, 3, 0, 1, 0x80][..], &[0x50, 4, 0, 1, 0x97, 0]] {
        client.send(bytes);
        client.alive();
    }
}

#[test]
fn a_reason_that_an_acknowledgement_has_not_ends_it() {
    let broker = Broker::start();
    for bytes in [
        &[0x40, 4, 0, 1, 0xFF, 0][..],
        &[0x40, 3, 0, 1, 0x92],
        &[0x50, 4, 0, 1, 0xFF, 0],
        &[0x62, 4, 0, 1, 0xFF, 0],
        &[0x70, 3, 0, 1, 0x80],
        &[0x70, 3, 0, 1, 0x20],
    ] {
        let mut client = broker.client(V5, "reasons");
        client.send(bytes);
        client.closed_for(&[0x82]);
    }
}

#[test]
fn properties_of_other_packets_are_malformed() {
    let broker = Broker::start();
    // A content type, a topic alias, a receive maximum.
    for property in [string(0x03, "x"), two(0x23, 1), two(0x21, 1)] {
        let mut client = broker.client(V5, "properties");
        client.send(&subscribe(V5, 1, &[("a", 0)], &property));
        client.closed_for(&[0x81]);
    }
}

#[test]
fn names_without_characters_or_with_control_characters_are_malformed() {
    let broker = Broker::start();
    for version in BOTH {
        let mut wrong = Vec::new();
        for name in [
            "",
            "a\u{1}b",
            "a\u{1f}b",
            "a\u{7f}b",
            "a\u{9f}b",
            "a\u{ffff}b",
            "\u{fdd0}",
        ] {
            wrong.push(subscribe(version, 1, &[("a", 0), (name, 0)], &[]));
            wrong.push(unsubscribe(version, 1, &[name, "a"]));
            wrong.push(Publish::new(name, "x").qos(1, 1).bytes(version));
        }
        for bytes in wrong {
            let mut client = broker.client(version, "names");
            client.send(&bytes);
            // An empty topic without an alias is a protocol error [MQTT-3.3.2-8].
            client.closed_for(&[0x81, 0x82]);
        }
        let mut client = broker.raw(version);
        client.send(&Connect::new(version, "a\u{7f}b").bytes());
        assert_eq!(client.next().map(|packet| packet.bytes()), None);
    }
}

#[test]
fn a_shared_filter_without_a_name_or_a_filter_is_a_protocol_error() {
    let broker = Broker::start();
    for filter in ["$share/p", "$share/p/", "$share//a", "$share/p+/a"] {
        let mut client = broker.client(V5, "shares");
        client.send(&subscribe(V5, 1, &[(filter, 0)], &[]));
        client.closed_for(&[0x81, 0x82]);
    }
}

#[test]
fn a_connack_that_the_client_cannot_take_ends_it() {
    let broker = Broker::start();
    let mut client = broker.raw(V5);
    client.send(&Connect::new(V5, "tiny").with(four(0x27, 2)).bytes());
    assert!(client.next().is_none());
}

#[test]
fn a_packet_above_the_told_maximum_ends_it() {
    if peer() {
        return;
    }
    let broker = Broker::with(&[("WEFT_MQTT__PACKET_BYTES_MAX", "30")]);
    let (mut client, connack) = broker.connect(&Connect::new(V5, "large"));
    assert_eq!(connack.body[3..], [0x22, 0, 10, 0x27, 0, 0, 0, 30, 0x21, 0, 20]);
    client.publish(Publish::new("t", "12345678901234567890").qos(1, 0));
    client.send(&Publish::new("t", "1234567890123456789012345").qos(1, 9).bytes(V5));
    client.closed_for(&[0x95]);
}
