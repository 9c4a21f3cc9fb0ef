//! PUBLISH and its acknowledgements, as a receiver of the server's messages and as their sender.

use crate::mqtt_driver::{Version::*, *};

#[test]
fn every_qos_is_answered_as_it_must_be() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "answers");
        client.subscribe("other", 0);
        client.send(&Publish::new("nobody", "0").bytes(version));
        client.alive();
        client.send(&Publish::new("nobody", "1").qos(1, 513).bytes(version));
        client.answered(PUBACK, 513);
        client.send(&Publish::new("nobody", "2").qos(2, 65_535).bytes(version));
        client.answered(PUBREC, 65_535);
        client.acknowledge(PUBREL, 65_535);
        client.expect(&[PUBCOMP, 2, 255, 255]);
    }
}

#[test]
fn puback_with_a_subscriber_is_exact() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = broker.client(version, "sub");
        subscriber.subscribe("exact", 2);
        let mut client = broker.client(version, "pub");
        client.send(&Publish::new("exact", "1").qos(1, 9).bytes(version));
        client.expect(&[PUBACK, 2, 0, 9]);
        client.send(&Publish::new("exact", "2").qos(2, 10).bytes(version));
        client.expect(&[PUBREC, 2, 0, 10]);
        client.acknowledge(PUBREL, 10);
        client.expect(&[PUBCOMP, 2, 0, 10]);
        assert_eq!(payloads(&subscriber.until_fence(&broker)), ["1", "2"]);
    }
}

#[test]
fn both_qos_bits_end_it() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "three");
        client.send(&packet(0x36, &[&text("a"), &[0, 1], &properties(version, &[]), b"x"]));
        client.closed_for(&[0x81, 0x82, 0x9B]);
    }
}

#[test]
fn dup_with_qos_0_ends_it() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "dup");
        client.send(&packet(0x38, &[&text("a"), &properties(version, &[]), b"x"]));
        client.closed_for(&[0x81, 0x82]);
    }
}

#[test]
fn dup_is_not_passed_on() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = broker.client(version, "sub");
        subscriber.subscribe("dup", 2);
        let mut client = broker.client(version, "pub");
        for qos in [1, 2] {
            let mut publish = Publish::new("dup", "again").qos(qos, 5);
            publish.dup = true;
            client.publish(publish);
            let heard = subscriber.take();
            assert_eq!((heard.qos, heard.dup), (qos, false));
        }
    }
}

#[test]
fn messages_are_sent_with_the_lesser_qos() {
    let broker = Broker::start();
    for version in BOTH {
        for granted in 0..3 {
            for published in 0..3 {
                let mut subscriber = broker.client(version, "sub");
                subscriber.subscribe("lesser", granted);
                let mut client = broker.client(version, "pub");
                client.publish(Publish::new("lesser", "x").qos(published, 0));
                let heard = subscriber.take();
                assert_eq!(
                    (heard.qos, heard.dup, heard.retain),
                    (granted.min(published), false, false)
                );
                assert_eq!(heard.topic(), "lesser");
            }
        }
    }
}

#[test]
fn a_message_is_its_bytes() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = broker.client(version, "sub");
        subscriber.subscribe("bytes/#", 2);
        let mut client = broker.client(version, "pub");
        let all: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        for payload in [Vec::new(), vec![0], all] {
            for qos in 0..3 {
                let mut publish = Publish::new("bytes/of/it", "").qos(qos, 0);
                publish.payload.clone_from(&payload);
                client.publish(publish);
                let heard = subscriber.take();
                assert!(
                    heard.payload == payload,
                    "{} bytes came, {} went",
                    heard.payload.len(),
                    payload.len()
                );
            }
        }
    }
}

#[test]
fn qos_2_sent_again_is_delivered_once() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = broker.client(version, "sub");
        subscriber.subscribe("once", 2);
        let mut client = broker.client(version, "pub");
        let mut publish = Publish::new("once", "first").qos(2, 3);
        client.send(&publish.bytes(version));
        client.answered(PUBREC, 3);
        publish.dup = true;
        for _ in 0..3 {
            client.send(&publish.bytes(version));
            client.answered(PUBREC, 3);
        }
        client.acknowledge(PUBREL, 3);
        client.expect(&[PUBCOMP, 2, 0, 3]);
        // The id is free: what comes with it is new.
        client.publish(Publish::new("once", "second").qos(2, 3));
        assert_eq!(payloads(&subscriber.until_fence(&broker)), ["first", "second"]);
    }
}

#[test]
fn qos_1_with_an_id_that_was_acknowledged_is_new() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = broker.client(version, "sub");
        subscriber.subscribe("new", 1);
        let mut client = broker.client(version, "pub");
        for payload in ["one", "two"] {
            let mut publish = Publish::new("new", payload).qos(1, 3);
            publish.dup = payload == "two";
            client.publish(publish);
        }
        assert_eq!(payloads(&subscriber.until_fence(&broker)), ["one", "two"]);
    }
}

#[test]
fn a_pubrel_of_an_unknown_id_is_answered() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "unknown");
        client.acknowledge(PUBREL, 77);
        let answer = client.packet();
        assert_eq!((answer.first, answer.id()), (PUBCOMP, 77));
        // 0x92: packet identifier not found.
        assert!(matches!(answer.reason(), 0 | 0x92), "{answer:02x?}");
        assert!(version == V5 || answer.body.len() == 2);
        client.alive();
    }
}

#[test]
fn a_server_uses_ids_that_are_free_and_not_0() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = broker.client(version, "sub");
        subscriber.subscribe("ids", 2);
        let mut client = broker.client(version, "pub");
        for number in 0..18 {
            client.publish(Publish::new("ids", "x").qos(1 + number % 2, 0));
        }
        let mut ids: Vec<u16> = (0..18).map(|_| subscriber.hear().id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 18, "an id was used twice at once: {ids:?}");
    }
}

#[test]
fn a_pubrec_is_answered_by_pubrel_and_the_message_is_not_sent_again() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = broker.client(version, "sub");
        subscriber.subscribe("release", 2);
        broker
            .client(version, "pub")
            .publish(Publish::new("release", "x").qos(2, 0));
        let heard = subscriber.hear();
        assert_eq!(heard.qos, 2);
        for _ in 0..2 {
            subscriber.acknowledge(PUBREC, heard.id);
            subscriber.expect(&packet(PUBREL, &[&heard.id.to_be_bytes()]));
        }
        subscriber.acknowledge(PUBCOMP, heard.id);
        assert!(subscriber.until_fence(&broker).is_empty());
    }
}

#[test]
fn a_refusal_by_the_receiver_ends_a_delivery() {
    let broker = Broker::start();
    for qos in [1, 2] {
        let lasting = Connect::lasting(V5, "refuses");
        let mut subscriber = broker.resume(&lasting, qos == 2);
        subscriber.subscribe("refusals", qos);
        broker
            .client(V5, "pub")
            .publish(Publish::new("refusals", "x").qos(qos, 0));
        let heard = subscriber.hear();
        let kind = if qos == 1 { PUBACK } else { PUBREC };
        subscriber.send(&packet(kind, &[&heard.id.to_be_bytes(), &[0x83]]));
        subscriber.alive();
        subscriber.disconnect();
        // Nothing is sent again.
        let mut subscriber = broker.resume(&lasting, true);
        assert!(subscriber.until_fence(&broker).is_empty());
        subscriber.disconnect();
    }
}

#[test]
fn an_id_whose_message_was_refused_is_new() {
    if peer() {
        return; // it refuses nothing
    }
    let broker = Broker::start();
    let mut witness = broker.client(V5, "witness");
    witness.subscribe("after/refusal", 2);
    let mut client = broker.client(V5, "pub");
    client.send(&Publish::new("$weft/group/nobody", "lost").qos(2, 9).bytes(V5));
    let refusal = client.packet();
    assert_eq!((refusal.kind(), refusal.id(), refusal.reason()), (PUBREC, 9, 0x90));
    // Not the refused one once more, whatever DUP says.
    for dup in [false, true] {
        let mut publish = Publish::new("after/refusal", "x").qos(2, 9);
        publish.dup = dup;
        client.send(&publish.bytes(V5));
        client.answered(PUBREC, 9);
        client.acknowledge(PUBREL, 9);
        client.expect(&[PUBCOMP, 2, 0, 9]);
        client.send(&Publish::new("$weft/group/nobody", "lost").qos(2, 9).bytes(V5));
        assert_eq!(client.packet().reason(), 0x90);
    }
    assert_eq!(payloads(&witness.until_fence(&broker)), ["x", "x"]);
}

#[test]
fn a_message_of_v3_that_may_not_be_sent_ends_its_connection() {
    if peer() {
        return; // it takes messages below `$SYS`
    }
    let broker = Broker::start();
    let mut witness = broker.client(V3, "witness");
    witness.subscribe("$SYS/forged", 2);
    for qos in [1, 2] {
        let mut client = broker.client(V3, "forger");
        client.send(&Publish::new("$SYS/forged", "x").qos(qos, 9).bytes(V3));
        assert!(client.next().is_none(), "there is no other way to say no");
    }
    assert!(witness.until_fence(&broker).is_empty());
}

#[test]
fn acknowledgements_of_v5_in_their_three_lengths_are_taken() {
    let broker = Broker::start();
    for tail in [&[][..], &[0], &[0, 0]] {
        let mut subscriber = broker.client(V5, "lengths");
        subscriber.subscribe("lengths", 2);
        let mut client = broker.client(V5, "pub");
        for qos in [1, 2] {
            client.publish(Publish::new("lengths", "x").qos(qos, 0));
            let heard = subscriber.hear();
            let id = heard.id.to_be_bytes();
            if qos == 1 {
                subscriber.send(&packet(PUBACK, &[&id, tail]));
            } else {
                subscriber.send(&packet(PUBREC, &[&id, tail]));
                subscriber.expect(&packet(PUBREL, &[&id]));
                subscriber.send(&packet(PUBCOMP, &[&id, tail]));
            }
            subscriber.alive();
        }
        client.send(&Publish::new("lengths", "x").qos(2, 99).bytes(V5));
        client.answered(PUBREC, 99);
        client.send(&packet(PUBREL, &[&99u16.to_be_bytes(), tail]));
        client.expect(&[PUBCOMP, 2, 0, 99]);
    }
}

#[test]
fn no_local_publisher_of_v3_hears_itself() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "self");
        client.subscribe("self", 0);
        client.publish(Publish::new("self", "echo"));
        assert_eq!(client.hear().text(), "echo");
    }
}

#[test]
fn what_is_like_a_refused_message_is_refused_too_and_goes_nowhere_else() {
    if peer() {
        return; // it takes messages below `$SYS`
    }
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = broker.client(version, "like-sub");
        subscriber.subscribe("like", 1);
        let mut client = broker.client(version, "like-pub");
        let good = |payload, id| Publish::new("like", payload).qos(1, id).bytes(version);
        let lost = Publish::new("$SYS/x", "lost").bytes(version);
        client.send(&[good("1", 1), lost.clone(), lost.clone(), good("2", 2)].concat());
        client.answered(PUBACK, 1);
        client.answered(PUBACK, 2);
        if version == V5 {
            let refused = |id| Publish::new("$SYS/x", "lost").qos(1, id).bytes(version);
            client.send(&[good("3", 3), refused(4), refused(5), good("4", 6)].concat());
            for (id, is_refused) in [(3, false), (4, true), (5, true), (6, false)] {
                let packet = client.packet();
                assert_eq!((packet.kind(), packet.body[1]), (PUBACK, id));
                assert_eq!(packet.body.get(2).is_some_and(|reason| *reason >= 0x80), is_refused);
            }
        }
        let wanted: &[&str] = if version == V5 {
            &["1", "2", "3", "4"]
        } else {
            &["1", "2"]
        };
        assert_eq!(payloads(&subscriber.until_fence(&broker)), wanted);
    }
}
