//! Strings, lengths, packet ids, and topic names and filters.

use crate::mqtt_driver::{Version::*, *};

/// Bytes that are no UTF-8 of MQTT: surrogates, too long, cut, U+0000.
const ILL_FORMED: [&[u8]; 6] = [
    &[0xED, 0xA0, 0x80],
    &[0xED, 0xBF, 0xBF],
    &[0xC0, 0xAF],
    &[0xFF],
    &[b'a', 0xC3],
    &[b'a', 0, b'b'],
];

#[test]
fn ill_formed_strings_end_it() {
    let broker = Broker::start();
    for version in BOTH {
        let empty = properties(version, &[]);
        for wrong in ILL_FORMED {
            let field = text(wrong);
            let mut all = vec![
                packet(0x30, &[&field, &empty, b"x"]),
                packet(SUBSCRIBE, &[&[0, 1], &empty, &field, &[0]]),
                packet(UNSUBSCRIBE, &[&[0, 1], &empty, &field]),
            ];
            if version == V5 {
                for list in [
                    string(id::CONTENT_TYPE, wrong),
                    string(id::RESPONSE_TOPIC, wrong),
                    user(wrong, "v"),
                    user("n", wrong),
                ] {
                    all.push(Publish::new("strings", "x").with(list).bytes(V5));
                }
            }
            for bytes in all {
                let mut client = broker.client(version, "strings");
                client.send(&bytes);
                client.closed_for(&[0x81, 0x82, 0x90, 0x8F]);
            }
        }
    }
}

#[test]
fn ill_formed_strings_of_a_connect_end_it() {
    let broker = Broker::start();
    for version in BOTH {
        for wrong in ILL_FORMED {
            let whole = Connect::new(version, "c").will("t", "p", 0, false);
            let (mut client, mut will, mut name) = (whole.clone(), whole.clone(), whole);
            client.client = wrong.into();
            will.will.as_mut().expect("it has one").topic = wrong.into();
            name.user = Some(wrong.into());
            for connect in [client, will, name] {
                let mut client = broker.raw(version);
                client.send(&connect.bytes());
                if let Some(packet) = client.next() {
                    assert_eq!(packet.kind(), CONNACK);
                    // An id or topic that can't be taken is also what these two say.
                    assert!(
                        matches!(packet.body[1], 0x81 | 0x82 | 0x85 | 0x90 | 0x02),
                        "{wrong:02x?}: {packet:02x?}"
                    );
                    assert!(client.next().is_none());
                }
            }
        }
    }
}

#[test]
fn a_byte_order_mark_is_a_character() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "bom");
        client.subscribe("\u{FEFF}bom/+", 0);
        client.publish(Publish::new("bom/x", "without"));
        client.publish(Publish::new("\u{FEFF}bom/\u{FEFF}", "with"));
        let heard = client.hear();
        assert_eq!((heard.topic(), heard.text()), ("\u{FEFF}bom/\u{FEFF}", "with"));
    }
}

#[test]
fn lengths_that_are_no_lengths_end_it() {
    let broker = Broker::start();
    for version in BOTH {
        // Five bytes of length; a string longer than its packet; a packet without its fields.
        for bytes in [
            vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
            vec![0x30, 4, 0, 9, b'a', b'b'],
            vec![0x30, 0],
            vec![0x32, 3, 0, 1, b'a'],
            vec![SUBSCRIBE, 1, 0],
        ] {
            let mut client = broker.client(version, "lengths");
            client.send(&bytes);
            client.closed_for(&[0x81, 0x82, 0x95]);
        }
    }
    // A property length beyond the packet, and one that cuts a property.
    for list in [
        &[0x7F][..],
        &[0x02, id::MESSAGE_EXPIRY, 0],
        &[0x80, 0x80, 0x80, 0x80, 0x01],
    ] {
        let mut client = broker.client(V5, "lengths");
        client.send(&packet(0x30, &[&text("a"), list]));
        client.closed_for(&[0x81, 0x82]);
    }
}

#[test]
fn packet_id_0_ends_it() {
    let broker = Broker::start();
    for version in BOTH {
        let wrong = [
            Publish::new("ids", "x").qos(1, 0).bytes(version),
            Publish::new("ids", "x").qos(2, 0).bytes(version),
            subscribe(version, 0, &[("ids", 0)], &[]),
            unsubscribe(version, 0, &["ids"]),
        ];
        for bytes in wrong {
            let mut client = broker.client(version, "ids");
            client.send(&bytes);
            client.closed_for(&[0x81, 0x82]);
        }
    }
}

#[test]
fn wildcards_in_a_topic_name_end_it() {
    let broker = Broker::start();
    for version in BOTH {
        for topic in ["a/+", "#", "a/#", "a+b", "+"] {
            for qos in 0..3 {
                let mut client = broker.client(version, "wild");
                client.send(&Publish::new(topic, "x").qos(qos, 1).bytes(version));
                client.closed_for(&[0x81, 0x82, 0x90]);
            }
        }
    }
}

#[test]
fn ill_formed_filters_are_refused() {
    let broker = Broker::start();
    for version in BOTH {
        for filter in ["a/#/b", "a#", "#a", "a+", "+a/b", "a/b+/c", ""] {
            let mut client = broker.client(version, "filters");
            client.send(&subscribe(version, 1, &[(filter, 0)], &[]));
            match client.next() {
                Some(packet) if packet.kind() == SUBACK => {
                    assert_eq!(
                        *packet.body.last().expect("a code"),
                        if version == V5 { 0x8F } else { 0x80 },
                        "{filter}"
                    );
                }
                Some(packet) => assert!(matches!(packet.reason(), 0x81 | 0x82 | 0x8F), "{filter}: {packet:02x?}"),
                None => {}
            }
        }
    }
}

#[test]
fn an_empty_topic_name_ends_it() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "empty");
        client.send(&Publish::new("", "x").bytes(version));
        client.closed_for(&[0x81, 0x82, 0x90]);
    }
}

#[test]
fn filters_match_as_the_specifications_say() {
    let broker = Broker::start();
    let matching = [
        ("sport/#", "sport"),
        ("sport/#", "sport/tennis/player1"),
        ("#", "a/b/c"),
        ("+", "sport"),
        ("+/+", "/finance"),
        ("/+", "/finance"),
        ("sport/+", "sport/"),
        ("a//b", "a//b"),
        ("a/+/b", "a//b"),
        ("+/tennis/#", "sport/tennis"),
        ("a b", "a b"),
        ("/", "/"),
    ];
    let apart = [
        ("sport/+", "sport"),
        ("+", "/finance"),
        ("ACCOUNTS", "Accounts"),
        ("a/b", "a/b/"),
        ("/a", "a"),
        ("sport/tennis/+", "sport/tennis/player1/ranking"),
        ("a", "\u{61}\u{301}"),
        ("\u{E9}", "e\u{301}"),
    ];
    for version in BOTH {
        for (filter, topic) in matching {
            let mut client = broker.client(version, "matches");
            client.subscribe(filter, 0);
            client.publish(Publish::new(topic, "m"));
            assert_eq!(client.hear().topic(), topic, "{filter}");
        }
        for (filter, topic) in apart {
            let mut client = broker.client(version, "matches");
            client.subscribe(filter, 0);
            client.publish(Publish::new(topic, "m"));
            assert!(client.until_fence(&broker).is_empty(), "{filter} and {topic}");
        }
    }
}

#[test]
fn wildcards_do_not_see_topics_of_the_server() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "dollar");
        for filter in ["#", "+/#", "+/broker/version"] {
            client.subscribe(filter, 0);
        }
        let heard = client.until_fence(&broker);
        assert!(
            heard.iter().all(|publish| !publish.topic.starts_with(b"$")),
            "{heard:?}"
        );
        let mut client = broker.client(version, "dollar-itself");
        client.subscribe("$SYS/broker/version", 0);
        assert_eq!(client.hear().topic(), "$SYS/broker/version");
    }
}
