//! Shared subscriptions.

use std::{collections::BTreeSet, time::Duration};

use crate::mqtt_driver::{Version::*, *};

#[test]
fn each_message_goes_to_one_member() {
    let broker = Broker::start();
    for version in BOTH {
        let mut members: Vec<Client> = (0..3)
            .map(|number| broker.client(version, &format!("member-{number}")))
            .collect();
        for member in &mut members {
            member.subscribe("$share/group/work/+", 1);
        }
        let mut outside = broker.client(version, "outside");
        outside.subscribe("work/#", 1);
        let mut client = broker.client(version, "pub");
        for number in 0..30 {
            client.publish(Publish::new("work/x", &number.to_string()).qos(1, 0));
        }
        let heard: Vec<String> = members
            .iter_mut()
            .flat_map(|member| member.until_fence(&broker))
            .map(|publish| publish.text().to_owned())
            .collect();
        assert_eq!(heard.len(), 30, "{heard:?}");
        assert_eq!(heard.iter().collect::<BTreeSet<_>>().len(), 30);
        assert_eq!(outside.until_fence(&broker).len(), 30);
    }
}

#[test]
fn groups_are_apart() {
    let broker = Broker::start();
    for version in BOTH {
        let mut one = broker.client(version, "one");
        one.subscribe("$share/one/apart", 1);
        let mut two = broker.client(version, "two");
        two.subscribe("$share/two/apart", 1);
        broker
            .client(version, "pub")
            .publish(Publish::new("apart", "x").qos(1, 0));
        assert_eq!(payloads(&one.until_fence(&broker)), ["x"]);
        assert_eq!(payloads(&two.until_fence(&broker)), ["x"]);
    }
}

#[test]
fn the_granted_qos_is_kept() {
    let broker = Broker::start();
    for version in BOTH {
        for granted in 0..3 {
            let mut member = broker.client(version, "member");
            member.subscribe("$share/g/qos", granted);
            broker
                .client(version, "pub")
                .publish(Publish::new("qos", "x").qos(2, 0));
            assert_eq!(member.take().qos, granted);
        }
    }
}

#[test]
fn ill_formed_shared_filters_are_refused() {
    let broker = Broker::start();
    for version in BOTH {
        for filter in [
            "$share//a",
            "$share/g",
            "$share/g/",
            "$share/+/a",
            "$share/#/a",
            "$share/g+/a",
            "$share/g/a#",
        ] {
            let mut client = broker.client(version, "wrong");
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
fn retained_messages_are_not_sent_to_shared_subscriptions() {
    let broker = Broker::start();
    for version in BOTH {
        broker
            .client(version, "keeper")
            .publish(Publish::new("kept", "x").qos(1, 0).retained());
        let mut member = broker.client(version, "member");
        // A group of its own: the last one's member may still be leaving.
        member.subscribe(&format!("$share/{version:?}/kept"), 1);
        let heard = member.until_fence(&broker);
        assert!(heard.is_empty(), "{heard:?}");
    }
}

#[test]
fn what_a_dead_member_did_not_acknowledge_goes_to_another() {
    let broker = Broker::start();
    for version in BOTH {
        let mut dying = broker.client(version, "dying");
        dying.subscribe("$share/g/heirs", 1);
        let mut client = broker.client(version, "pub");
        client.publish(Publish::new("heirs", "x").qos(1, 0));
        assert_eq!(dying.hear().text(), "x");
        let mut heir = broker.client(version, "heir");
        heir.subscribe("$share/g/heirs", 1);
        dying.cut();
        if !peer() {
            assert_eq!(heir.take().text(), "x");
        }
        client.publish(Publish::new("heirs", "next").qos(1, 0));
        assert_eq!(heir.take().text(), "next");
    }
}

#[test]
fn an_unsubscribed_member_gets_nothing_more() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "member");
        client.subscribe("$share/g/ends", 1);
        client.unsubscribe(&["$share/g/ends"], &[0]);
        client.unsubscribe(&["$share/g/ends"], &[0x11]);
        broker
            .client(version, "pub")
            .publish(Publish::new("ends", "x").qos(1, 0));
        assert!(client.until_fence(&broker).is_empty());
    }
}

#[test]
fn what_a_member_acknowledged_right_before_it_unsubscribed_goes_to_nobody_else() {
    let broker = Broker::start();
    for version in BOTH {
        let filter = format!("$share/g/right/{version:?}");
        let mut member = broker.client(version, "member");
        member.subscribe(&filter, 1);
        broker
            .client(version, "pub")
            .publish(Publish::new(&format!("right/{version:?}"), "x").qos(1, 0));
        let heard = member.hear();
        let mut other = broker.client(version, "other");
        other.subscribe(&filter, 1);
        // In one segment, so that they are most likely read together.
        let acknowledged = packet(PUBACK, &[&heard.id.to_be_bytes()]);
        member.send(&[acknowledged, unsubscribe(version, 9, &[&filter])].concat());
        member.expect(&unsuback(version, 9, &[0]));
        assert!(other.until_fence(&broker).is_empty());
    }
}

#[test]
fn a_refused_message_of_a_shared_subscription_is_dropped() {
    let broker = Broker::start();
    let mut refuses = broker.client(V5, "refuses");
    refuses.subscribe("$share/g/refuse", 1);
    broker.client(V5, "pub").publish(Publish::new("refuse", "x").qos(1, 0));
    let heard = refuses.hear();
    refuses.send(&packet(PUBACK, &[&heard.id.to_be_bytes(), &[0x80]]));
    refuses.alive();
    let mut other = broker.client(V5, "other");
    other.subscribe("$share/g/refuse", 1);
    refuses.disconnect();
    assert!(other.until_fence(&broker).is_empty());
}

#[test]
fn a_qos_2_message_that_was_not_acknowledged_waits_for_its_member() {
    for (is_killed, expiry) in [(false, None), (true, None), (true, Some(1))] {
        let mut broker = Broker::start();
        let lasting = Connect::lasting(V5, "chosen");
        let mut chosen = broker.resume(&lasting, false);
        chosen.subscribe("$share/g/wait", 2);
        let expiry = expiry.map_or_else(Vec::new, |seconds| four(id::MESSAGE_EXPIRY, seconds));
        broker
            .client(V5, "pub")
            .publish(Publish::new("wait", "x").with(expiry).qos(2, 0));
        let before = chosen.hear();
        let mut other = broker.client(V5, "other");
        other.subscribe("$share/g/wait", 2);
        if is_killed {
            std::thread::sleep(Duration::from_secs(2));
            broker.kill_and_restart();
            other = broker.client(V5, "other");
            other.subscribe("$share/g/wait", 2);
        } else {
            chosen.cut();
        }
        assert!(other.until_fence(&broker).is_empty());
        // What comes meanwhile is not held up.
        broker.client(V5, "pub").publish(Publish::new("wait", "y").qos(2, 0));
        assert_eq!(payloads(&other.until_fence(&broker)), ["y"]);
        let mut chosen = broker.resume(&lasting, true);
        let again = chosen.hear();
        assert_eq!((again.text(), again.id, again.dup), ("x", before.id, true));
        chosen.answer(&again);
        assert!(chosen.until_fence(&broker).is_empty());
        assert!(other.until_fence(&broker).is_empty());
    }
}

#[test]
fn a_qos_2_message_that_was_not_acknowledged_goes_to_another_when_the_session_ends() {
    let broker = Broker::start();
    for expiry_s in [0, 1, 3600] {
        let connect = Connect::new(V5, "ends").with(four(id::SESSION_EXPIRY, expiry_s));
        let (mut chosen, _) = broker.connect(&connect);
        chosen.subscribe("$share/g/end", 2);
        broker.client(V5, "pub").publish(Publish::new("end", "x").qos(2, 0));
        assert_eq!(chosen.hear().text(), "x");
        let mut other = broker.client(V5, "other");
        other.subscribe("$share/g/end", 2);
        chosen.cut();
        if expiry_s == 3600 {
            assert!(other.until_fence(&broker).is_empty());
            broker.client(V5, "ends").disconnect();
        }
        assert_eq!(other.take().text(), "x");
        other.disconnect();
    }
}

#[test]
fn a_qos_2_message_that_was_sent_is_completed_with_its_member() {
    let broker = Broker::start();
    let lasting = Connect::lasting(V5, "chosen");
    let mut chosen = broker.resume(&lasting, false);
    chosen.subscribe("$share/g/two", 2);
    broker.client(V5, "pub").publish(Publish::new("two", "x").qos(2, 0));
    let before = chosen.hear();
    chosen.acknowledge(PUBREC, before.id);
    chosen.expect(&packet(PUBREL, &[&before.id.to_be_bytes()]));
    let mut other = broker.client(V5, "other");
    other.subscribe("$share/g/two", 2);
    chosen.cut();
    assert!(other.until_fence(&broker).is_empty());
    let mut chosen = broker.resume(&lasting, true);
    chosen.expect(&packet(PUBREL, &[&before.id.to_be_bytes()]));
    chosen.acknowledge(PUBCOMP, before.id);
    chosen.alive();
}

#[test]
fn a_qos_2_message_of_a_session_that_ended_goes_to_nobody_else() {
    let broker = Broker::start();
    let mut chosen = broker.client(V5, "chosen");
    chosen.subscribe("$share/g/ended", 2);
    broker.client(V5, "pub").publish(Publish::new("ended", "x").qos(2, 0));
    let before = chosen.hear();
    chosen.acknowledge(PUBREC, before.id);
    chosen.expect(&packet(PUBREL, &[&before.id.to_be_bytes()]));
    let mut other = broker.client(V5, "other");
    other.subscribe("$share/g/ended", 2);
    chosen.disconnect();
    assert!(other.until_fence(&broker).is_empty());
}
