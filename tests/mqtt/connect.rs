//! CONNECT, CONNACK, PINGREQ, DISCONNECT, AUTH.

use crate::mqtt_driver::{Version::*, *};

/// CONNACK with return code 0 and nothing else, or with the two properties that are always told.
fn yes(version: Version, present: u8) -> Vec<u8> {
    match version {
        V3 => vec![CONNACK, 2, present, 0],
        V5 => vec![CONNACK, 9, present, 0, 6, id::ALIAS_MAX, 0, 10, id::RECEIVE_MAX, 0, 20],
    }
}

#[test]
fn connack_is_exact_and_first() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.raw(version);
        client.send(&Connect::new(version, "exact").bytes());
        client.expect(&yes(version, 0));
        client.alive();
    }
}

#[test]
fn a_first_packet_that_is_no_connect_ends_it() {
    let broker = Broker::start();
    for version in BOTH {
        for first in [
            PINGREQ.to_vec(),
            Publish::new("a", "b").bytes(version),
            vec![DISCONNECT, 0],
            subscribe(version, 1, &[("a", 0)], &[]),
        ] {
            let mut client = broker.raw(version);
            client.send(&first);
            assert!(client.next().is_none(), "nothing is sent before a CONNACK");
        }
    }
}

#[test]
fn a_second_connect_ends_it() {
    let broker = Broker::start();
    for version in BOTH {
        let connect = Connect::new(version, "twice");
        let (mut client, _) = broker.connect(&connect);
        client.send(&connect.bytes());
        client.closed_for(&[0x82]);
    }
}

#[test]
fn a_wrong_protocol_name_ends_it() {
    let broker = Broker::start();
    for version in BOTH {
        for name in [&b"MQTX"[..], b"mqtt", b"MQT", b""] {
            let connect = Connect::new(version, "name");
            let mut client = broker.raw(version);
            client.send(&connect.bytes_with(name, if version == V5 { 5 } else { 4 }, connect.flags()));
            if let Some(packet) = client.next() {
                assert_eq!((packet.first, packet.body[0]), (CONNACK, 0), "{packet:02x?}");
                assert!(packet.body[1] > 0, "{packet:02x?}");
                assert!(client.next().is_none());
            }
        }
    }
}

#[test]
fn an_unknown_level_is_refused_with_1_or_0x84() {
    let broker = Broker::start();
    for level in [0, 2, 6, 99, 127] {
        let connect = Connect::new(V3, "level");
        let mut client = broker.raw(V3);
        client.send(&connect.bytes_with(b"MQTT", level, connect.flags()));
        let answer = client.packet();
        // A server can't know which of both forms such a client reads.
        assert!(
            answer.body == [0, 1] || answer.body.starts_with(&[0, 0x84]),
            "{answer:02x?}"
        );
        assert!(client.next().is_none());
    }
}

#[test]
fn reserved_and_contradicting_connect_flags_end_it() {
    let broker = Broker::start();
    for version in BOTH {
        // The reserved bit; a will's QoS without a will; retain without a will; QoS 3; in 3.1.1 a password without a user.
        let mut wrong = vec![0x03, 0x0A, 0x12, 0x22, 0x1E];
        if version == V3 {
            wrong.push(0x42);
        }
        for flags in wrong {
            let mut connect = Connect::new(version, "flags");
            if flags & 0x04 > 0 {
                connect = connect.will("will/topic", "x", 0, false);
            }
            if flags & 0x40 > 0 {
                connect.password = Some(b"secret".into());
            }
            let mut client = broker.raw(version);
            client.send(&connect.bytes_with(b"MQTT", if version == V5 { 5 } else { 4 }, flags));
            if let Some(packet) = client.next() {
                assert_eq!(version, V5, "flags {flags:02x}: 3.1.1 hears nothing: {packet:02x?}");
                assert!(
                    matches!(packet.reason(), 0x81 | 0x82),
                    "flags {flags:02x}: {packet:02x?}"
                );
                assert!(client.next().is_none());
            }
        }
    }
}

#[test]
fn fields_that_the_flags_promise_must_be_there_and_no_others() {
    let broker = Broker::start();
    for version in BOTH {
        // User, password and will promised and missing; then a field that nobody promised.
        let connect = Connect::new(version, "promised");
        for flags in [0x82, 0xC2, 0x06] {
            let mut client = broker.raw(version);
            client.send(&connect.bytes_with(b"MQTT", if version == V5 { 5 } else { 4 }, flags));
            refused(&mut client, &[0x81, 0x82]);
        }
        let mut more = connect.clone();
        more.user = Some(b"nobody".into());
        let mut client = broker.raw(version);
        client.send(&more.bytes_with(b"MQTT", if version == V5 { 5 } else { 4 }, 0x02));
        refused(&mut client, &[0x81, 0x82]);
    }
}

/// Ends, in version 5 perhaps behind a CONNACK for one of these reasons.
#[track_caller]
fn refused(client: &mut Client, reasons: &[u8]) {
    if let Some(packet) = client.next() {
        assert_eq!(
            (client.version, packet.first, packet.body[0]),
            (V5, CONNACK, 0),
            "{packet:02x?}"
        );
        assert!(reasons.contains(&packet.reason()), "{packet:02x?}");
        assert!(client.next().is_none());
    }
}

#[test]
fn all_fields_of_a_connect_are_taken_in_their_order() {
    let broker = Broker::start();
    for version in BOTH {
        let mut connect = Connect::new(version, "whole").will("will/topic", "gone", 2, true);
        connect.user = Some(b"somebody".into());
        connect.password = Some(vec![0, 255, 1]);
        connect.keep_alive = 600;
        broker.connect(&connect).0.disconnect();
    }
}

#[test]
fn client_ids_of_letters_and_digits_are_allowed() {
    let broker = Broker::start();
    let all = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for version in BOTH {
        for name in ["a", "0", "Z", &all[..23], &all[20..43], &all[39..]] {
            broker.client(version, name).alive();
        }
    }
}

#[test]
fn a_client_without_an_id_gets_one() {
    let broker = Broker::start();
    let (mut client, _) = broker.connect(&Connect::new(V3, ""));
    client.alive();
    let mut ids = Vec::new();
    for clean in [true, false] {
        let mut connect = Connect::new(V5, "");
        connect.clean = clean;
        let (mut client, packet) = broker.connect(&connect);
        client.alive();
        let list = packet.properties(2);
        let assigned: Vec<_> = list.iter().filter(|(id, _)| *id == id::ASSIGNED_ID).collect();
        assert_eq!(assigned.len(), 1, "{packet:02x?}");
        ids.push(String::from_utf8(assigned[0].1.clone()).expect("an id is UTF-8"));
    }
    assert_ne!(ids[0], ids[1], "an id is unique");
    broker.client(V5, &ids[0]).alive();
}

#[test]
fn v3_without_an_id_and_without_a_clean_session_is_refused_with_2() {
    let broker = Broker::start();
    let mut connect = Connect::new(V3, "");
    connect.clean = false;
    let mut client = broker.raw(V3);
    client.send(&connect.bytes());
    client.expect(&[CONNACK, 2, 0, 2]);
    assert!(client.next().is_none());
}

#[test]
fn a_refused_client_is_not_heard_any_more() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = broker.client(version, "witness");
        witness.subscribe("refused/#", 0);
        let connect = Connect::new(version, "refused");
        let mut client = broker.raw(version);
        let mut bytes = connect.bytes_with(b"MQTT", 9, connect.flags());
        bytes.extend(Publish::new("refused/one", "no").bytes(version));
        client.send(&bytes);
        while let Some(packet) = client.next() {
            assert_eq!(packet.kind(), CONNACK);
        }
        assert!(witness.until_fence(&broker).is_empty());
    }
}

#[test]
fn packets_behind_a_connect_without_waiting_are_taken() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.raw(version);
        let connect = Connect::new(version, "hasty");
        let subscription = subscribe(version, 7, &[("hasty", 0)], &[]);
        client.send(&[connect.bytes(), subscription, PINGREQ.to_vec()].concat());
        client.expect(&yes(version, 0));
        // Nothing says in which order.
        let mut answers = [client.packet().bytes(), client.packet().bytes()];
        answers.sort();
        assert_eq!(
            answers[0],
            packet(SUBACK, &[&7u16.to_be_bytes(), &properties(version, &[]), &[0]])
        );
        assert_eq!(answers[1], PINGRESP);
    }
}

#[test]
fn a_connection_of_the_same_id_takes_over() {
    let broker = Broker::start();
    for version in BOTH {
        for next in BOTH {
            let mut old = broker.client(version, "taken");
            let mut new = broker.client(next, "taken");
            let reason = old.closed();
            if version == V5 {
                assert_eq!(reason, Some(0x8E));
            }
            new.alive();
        }
    }
}

#[test]
fn ping_is_answered() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "ping");
        for _ in 0..3 {
            client.alive();
        }
    }
}

#[test]
fn silence_beyond_the_keep_alive_ends_it() {
    let broker = Broker::start();
    for version in BOTH {
        let mut connect = Connect::new(version, "silent");
        connect.keep_alive = 1;
        let (mut client, packet) = broker.connect(&connect);
        assert!(
            packet
                .properties(2)
                .iter()
                .all(|(id, _)| version == V3 || *id != id::SERVER_KEEP_ALIVE)
        );
        client.closed_for(&[0x8D]);
    }
}

#[test]
fn keep_alive_0_is_allowed() {
    let broker = Broker::start();
    for version in BOTH {
        let mut connect = Connect::new(version, "patient");
        connect.keep_alive = 0;
        broker.connect(&connect).0.alive();
    }
}

#[test]
fn a_server_keep_alive_is_told_and_kept() {
    if peer() {
        return; // mosquitto has another setting for it
    }
    let broker = Broker::with(&[("WEFT_MQTT__KEEP_ALIVE_MAX_S", "1")]);
    let mut connect = Connect::new(V5, "asks-long");
    connect.keep_alive = 600;
    let (mut client, packet) = broker.connect(&connect);
    assert!(
        packet.properties(2).contains(&(id::SERVER_KEEP_ALIVE, vec![0, 1])),
        "{packet:02x?}"
    );
    client.closed_for(&[0x8D]);
}

#[test]
fn disconnect_closes_and_nothing_comes_behind_it() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "leaves");
        client.subscribe("leaves", 0);
        client.send(&[vec![DISCONNECT, 0], PINGREQ.to_vec()].concat());
        assert!(client.next().is_none());
    }
    for body in [&[0x00][..], &[0x00, 0x00], &[0x04], &[0x04, 0x00]] {
        let mut client = broker.client(V5, "leaves");
        client.send(&packet(DISCONNECT, &[body]));
        assert!(client.next().is_none());
    }
}

#[test]
fn reserved_bits_of_a_fixed_header_end_it() {
    let broker = Broker::start();
    for version in BOTH {
        let empty = properties(version, &[]);
        let subscription = packet(0x80, &[&[0, 1], &empty, &text("a"), &[0]]);
        let unsubscription = packet(0xA0, &[&[0, 1], &empty, &text("a")]);
        let wrong = [
            subscription.clone(),
            [&[0x83][..], &subscription[1..]].concat(),
            unsubscription.clone(),
            [&[0xA3][..], &unsubscription[1..]].concat(),
            vec![0x60, 2, 0, 1],
            vec![0x63, 2, 0, 1],
            vec![0x41, 2, 0, 1],
            vec![0x51, 2, 0, 1],
            vec![0x71, 2, 0, 1],
            vec![0xC1, 0],
            vec![0xE1, 0],
            vec![0x00, 0],
            vec![0xF1, 0],
        ];
        for bytes in wrong {
            let mut client = broker.client(version, "reserved");
            client.send(&bytes);
            client.closed_for(&[0x81, 0x82]);
        }
        let mut client = broker.raw(version);
        let mut bytes = Connect::new(version, "reserved").bytes();
        bytes[0] = 0x11;
        client.send(&bytes);
        refused(&mut client, &[0x81, 0x82]);
    }
}

#[test]
fn packets_that_only_servers_send_end_it() {
    let broker = Broker::start();
    for version in BOTH {
        for bytes in [
            vec![CONNACK, 2, 0, 0],
            vec![SUBACK, 3, 0, 1, 0],
            vec![UNSUBACK, 2, 0, 1],
            PINGRESP.to_vec(),
        ] {
            let mut client = broker.client(version, "server");
            client.send(&bytes);
            client.closed_for(&[0x81, 0x82]);
        }
    }
}

#[test]
fn v3_knows_no_auth() {
    let broker = Broker::start();
    let mut client = broker.client(V3, "auth");
    client.send(&[AUTH, 0]);
    client.closed();
}

#[test]
fn an_unknown_authentication_method_is_refused_with_0x8c() {
    let broker = Broker::start();
    let mut client = broker.raw(V5);
    client.send(
        &Connect::new(V5, "auth")
            .with(string(id::AUTH_METHOD, "no-such-method"))
            .bytes(),
    );
    let answer = client.packet();
    assert_eq!((answer.first, answer.body[0]), (CONNACK, 0), "{answer:02x?}");
    assert!(matches!(answer.reason(), 0x8C | 0x87), "{answer:02x?}");
    assert!(client.next().is_none());
}

#[test]
fn auth_without_a_method_in_connect_ends_it() {
    let broker = Broker::start();
    for body in [
        vec![],
        vec![0x19, 0],
        [vec![0x18, 9], string(id::AUTH_METHOD, "method")].concat(),
        vec![0x77, 0],
    ] {
        let mut client = broker.client(V5, "auth");
        client.send(&packet(AUTH, &[&body]));
        client.closed_for(&[0x81, 0x82]);
    }
}

#[test]
fn authentication_data_without_a_method_ends_it() {
    let broker = Broker::start();
    let mut client = broker.raw(V5);
    client.send(&Connect::new(V5, "auth").with(string(id::AUTH_DATA, [1, 2])).bytes());
    refused(&mut client, &[0x81, 0x82]);
}

#[test]
fn a_disconnect_with_an_expiry_where_connect_had_none_ends_with_a_protocol_error() {
    let broker = Broker::start();
    let mut client = broker.client(V5, "expiry");
    client.send(&packet(DISCONNECT, &[&[0, 5], &four(id::SESSION_EXPIRY, 9)]));
    client.closed_for(&[0x82]);
}

#[test]
fn properties_of_connect_that_are_doubled_or_wrong_end_it() {
    let broker = Broker::start();
    let wrong = [
        [four(id::SESSION_EXPIRY, 1), four(id::SESSION_EXPIRY, 1)].concat(),
        two(id::RECEIVE_MAX, 0),
        [two(id::RECEIVE_MAX, 1), two(id::RECEIVE_MAX, 1)].concat(),
        four(id::PACKET_MAX, 0),
        byte(id::REQUEST_PROBLEM, 2),
        byte(id::REQUEST_RESPONSE, 2),
        [two(id::ALIAS_MAX, 1), two(id::ALIAS_MAX, 1)].concat(),
        string(id::CONTENT_TYPE, "not in a CONNECT"),
        vec![0x7F, 0],
        vec![id::RECEIVE_MAX, 0],
    ];
    for list in wrong {
        let mut client = broker.raw(V5);
        client.send(&Connect::new(V5, "wrong").with(list).bytes());
        refused(&mut client, &[0x81, 0x82]);
    }
}

#[test]
fn response_information_is_not_told_unless_asked_for() {
    let broker = Broker::start();
    for asked in [vec![], byte(id::REQUEST_RESPONSE, 0)] {
        let (_, packet) = broker.connect(&Connect::new(V5, "asks").with(asked));
        assert!(
            packet
                .properties(2)
                .iter()
                .all(|(id, _)| *id != id::RESPONSE_INFORMATION)
        );
    }
}

#[test]
fn no_reasons_in_words_where_they_are_not_wanted() {
    let broker = Broker::start();
    let (mut client, _) = broker.connect(&Connect::new(V5, "wordless").with(byte(id::REQUEST_PROBLEM, 0)));
    client.send(&subscribe(V5, 1, &[("a/#/b", 0)], &[]));
    match client.packet() {
        packet if packet.kind() == SUBACK => assert!(packet.properties(2).is_empty(), "{packet:02x?}"),
        // A DISCONNECT may have words in any case.
        packet => assert_eq!(packet.kind(), DISCONNECT),
    }
    let (mut client, _) = broker.connect(&Connect::new(V5, "wordless").with(byte(id::REQUEST_PROBLEM, 0)));
    client.send(&unsubscribe(V5, 1, &["never/subscribed"]));
    client.expect(&unsuback(V5, 1, &[0x11]));
    client.send(&Publish::new("nobody/hears", "x").qos(1, 2).bytes(V5));
    client.answered(PUBACK, 2);
}

#[test]
fn transport_is_tcp_in_any_pieces() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.raw(version);
        for piece in Connect::new(version, "pieces").bytes().chunks(1) {
            client.send(piece);
        }
        client.expect(&yes(version, 0));
        let whole = [
            Publish::new("pieces", "one").bytes(version),
            PINGREQ.to_vec(),
            PINGREQ.to_vec(),
        ]
        .concat();
        for piece in whole.chunks(3) {
            client.send(piece);
        }
        client.expect(&PINGRESP);
        client.expect(&PINGRESP);
    }
}
