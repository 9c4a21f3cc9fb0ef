//! Shared subscriptions whose members are away: what is kept for them, for whom, and until when.

use std::time::Duration;

use crate::mqtt_driver::{Version::*, *};

/// MQTT 5's reason for "nobody subscribed to that".
const NOBODY: u8 = 0x10;
/// Looks at what ends by itself, 100 ms apart.
const LOOKS_MAX: u32 = 200;

/// Publishes, goes through the handshake, and returns the reason of the first answer; in 3.1.1 that is always 0.
fn publish(client: &mut Client, topic: &str, payload: &str, qos: u8) -> u8 {
    let id = client.id();
    client.send(&Publish::new(topic, payload).qos(qos, id).bytes(client.version));
    let answer = client.packet();
    assert_eq!(answer.id(), id, "{answer:02x?}");
    if qos == 2 {
        client.acknowledge(PUBREL, id);
        client.expect(&packet(PUBCOMP, &[&id.to_be_bytes()]));
    }
    answer.reason()
}

/// A lasting session that subscribed, and left.
fn away(broker: &Broker, member: &Connect, filter: &str, qos: u8) {
    let mut client = broker.resume(member, false);
    client.subscribe(filter, qos);
    client.disconnect();
}

/// Waits until what is published to a topic reaches nobody.
fn until_nobody(publisher: &mut Client, topic: &str) {
    let is_over = (0..LOOKS_MAX).any(|_| {
        let is_over = publish(publisher, topic, "look", 1) == NOBODY;
        if !is_over {
            std::thread::sleep(Duration::from_millis(100));
        }
        is_over
    });
    assert!(is_over, "somebody is still there");
}

/// So many messages, in their order, through their handshakes: after a kill they are read from disk, and a fence may overtake them.
fn take_many(client: &mut Client, count: usize) -> Vec<String> {
    let (mut heard, mut unreleased) = (Vec::new(), 0);
    while heard.len() < count || unreleased > 0 {
        let packet = client.packet();
        if packet.kind() == PUBREL & 0xF0 {
            unreleased -= 1;
            client.acknowledge(PUBCOMP, packet.id());
            continue;
        }
        let publish = packet.publish(client.version);
        let answer = if publish.qos == 2 { PUBREC } else { PUBACK };
        unreleased += u32::from(publish.qos == 2);
        client.acknowledge(answer, publish.id);
        heard.push(publish.text().to_owned());
    }
    heard
}

/// [`take_many`] of messages of which some come back late from a member that left: in no order.
fn take_any(client: &mut Client, count: usize) -> Vec<String> {
    let mut heard = take_many(client, count);
    heard.sort_unstable();
    heard
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn what_comes_while_all_members_are_away_waits_for_the_first_that_is_back() {
    let broker = Broker::start();
    for version in BOTH {
        for qos in [1, 2] {
            let topic = format!("away/{version:?}/{qos}");
            let members = ["one", "two"].map(|name| Connect::lasting(version, &format!("{name}-{version:?}-{qos}")));
            for member in &members {
                away(&broker, member, &format!("$share/g/{topic}"), qos);
            }
            let mut client = broker.client(version, "pub");
            for payload in numbers(0..20) {
                // What nobody asked to be kept is not.
                client.publish(Publish::new(&topic, "fleeting"));
                assert_eq!(publish(&mut client, &topic, &payload, qos), 0);
            }
            let mut second = broker.resume(&members[1], true);
            let heard = second.until_fence(&broker);
            assert_eq!(payloads(&heard), numbers(0..20));
            assert!(heard.iter().all(|publish| publish.qos == qos));
            let mut first = broker.resume(&members[0], true);
            assert!(first.until_fence(&broker).is_empty());
        }
    }
}

#[test]
fn what_waits_for_a_share_survives_a_kill_and_so_do_its_members() {
    if peer() {
        return; // mosquitto writes to disk only when it ends in order
    }
    let mut broker = Broker::start();
    for version in BOTH {
        for qos in [1, 2] {
            let topic = format!("killed/{version:?}/{qos}");
            let member = Connect::lasting(version, &format!("killed-{version:?}-{qos}"));
            away(&broker, &member, &format!("$share/g/{topic}"), qos);
            let mut client = broker.client(version, "pub");
            for payload in numbers(0..10) {
                assert_eq!(publish(&mut client, &topic, &payload, qos), 0);
            }
            broker.kill_and_restart();
            let mut client = broker.client(version, "pub");
            for payload in numbers(10..20) {
                assert_eq!(publish(&mut client, &topic, &payload, qos), 0);
            }
            let mut member = broker.resume(&member, true);
            assert_eq!(take_many(&mut member, 20), numbers(0..20));
            assert!(member.until_fence(&broker).is_empty());
        }
    }
}

#[test]
fn a_connected_member_of_a_killed_node_is_one_that_is_away() {
    if peer() {
        return; // as above
    }
    let mut broker = Broker::start();
    for version in BOTH {
        let topic = format!("cut/{version:?}");
        let lasting = Connect::lasting(version, &format!("cut-{version:?}"));
        let mut member = broker.resume(&lasting, false);
        member.subscribe(&format!("$share/g/{topic}"), 1);
        let mut client = broker.client(version, "pub");
        assert_eq!(publish(&mut client, &topic, "unanswered", 1), 0);
        assert_eq!(member.hear().text(), "unanswered");
        broker.kill_and_restart();
        let mut client = broker.client(version, "pub");
        assert_eq!(publish(&mut client, &topic, "later", 1), 0);
        let mut member = broker.resume(&lasting, true);
        assert_eq!(take_many(&mut member, 2), ["unanswered", "later"]);
    }
}

#[test]
fn what_the_last_connected_member_did_not_acknowledge_waits() {
    let broker = Broker::start();
    for version in BOTH {
        let topic = format!("unanswered/{version:?}");
        let filter = format!("$share/g/{topic}");
        let [one, two] = ["one", "two"].map(|name| Connect::lasting(version, &format!("{name}-waits-{version:?}")));
        away(&broker, &one, &filter, 1);
        let mut dying = broker.resume(&two, false);
        dying.subscribe(&filter, 1);
        let mut client = broker.client(version, "pub");
        for payload in ["a", "b"] {
            assert_eq!(publish(&mut client, &topic, payload, 1), 0);
            assert_eq!(dying.hear().text(), payload);
        }
        dying.cut();
        assert_eq!(publish(&mut client, &topic, "c", 1), 0);
        let mut heir = broker.resume(&one, true);
        assert_eq!(take_any(&mut heir, 3), ["a", "b", "c"]);
    }
}

#[test]
fn a_passing_member_takes_what_comes_and_the_lasting_one_what_it_leaves() {
    let broker = Broker::start();
    for version in BOTH {
        let topic = format!("mixed/{version:?}");
        let filter = format!("$share/g/{topic}");
        let lasting = Connect::lasting(version, &format!("mixed-{version:?}"));
        away(&broker, &lasting, &filter, 1);
        let mut client = broker.client(version, "pub");
        assert_eq!(publish(&mut client, &topic, "kept", 1), 0);
        let mut passing = broker.client(version, "passing");
        passing.subscribe(&filter, 1);
        assert_eq!(passing.take().text(), "kept");
        assert_eq!(publish(&mut client, &topic, "taken", 1), 0);
        assert_eq!(passing.take().text(), "taken");
        assert_eq!(publish(&mut client, &topic, "left", 1), 0);
        assert_eq!(passing.hear().text(), "left");
        passing.cut();
        assert_eq!(publish(&mut client, &topic, "alone", 1), 0);
        let mut member = broker.resume(&lasting, true);
        assert_eq!(take_any(&mut member, 2), ["alone", "left"]);
        // Without the lasting one the share goes on for whoever is there.
        let mut passing = broker.client(version, "passing");
        passing.subscribe(&filter, 1);
        member.unsubscribe(&[&filter], &[0]);
        assert_eq!(publish(&mut client, &topic, "last", 1), 0);
        assert_eq!(passing.take().text(), "last");
    }
}

#[test]
fn a_share_of_passing_members_alone_keeps_nothing_that_comes_later() {
    let broker = Broker::start();
    let mut member = broker.client(V5, "member");
    member.subscribe("$share/g/passing", 1);
    let mut client = broker.client(V5, "pub");
    assert_eq!(publish(&mut client, "passing", "x", 1), 0);
    assert_eq!(member.take().text(), "x");
    member.disconnect();
    until_nobody(&mut client, "passing");
}

#[test]
fn what_a_share_keeps_ends_with_its_last_member() {
    type End = fn(&Broker, &Connect, &str);
    let unsubscribes: End = |broker, member, filter| {
        // Nothing is read: what was handed out meanwhile is not acknowledged.
        let mut client = broker.resume(member, true);
        let id = client.id();
        client.send(&unsubscribe(V5, id, &[filter]));
        while client.packet().kind() != UNSUBACK {}
        client.cut();
    };
    let starts_clean: End = |broker, member, _| {
        let mut clean = member.clone();
        clean.clean = true;
        broker.resume(&clean, false).disconnect();
    };
    let says_so: End = |broker, member, _| {
        let mut client = broker.resume(member, true);
        client.send(&packet(DISCONNECT, &[&[0, 5], &four(id::SESSION_EXPIRY, 0)]));
        while client.next().is_some() {}
    };
    let expires: End = |broker, member, _| {
        let mut client = broker.resume(member, true);
        client.send(&packet(DISCONNECT, &[&[0, 5], &four(id::SESSION_EXPIRY, 1)]));
        while client.next().is_some() {}
    };
    let ends: [(&str, End); 4] = [
        ("unsubscribes", unsubscribes),
        ("clean", starts_clean),
        ("says so", says_so),
        ("expires", expires),
    ];
    let broker = Broker::start();
    for (name, end) in ends {
        let topic = format!("over/{name}");
        let filter = format!("$share/g/{topic}");
        let (first, last) = (
            Connect::lasting(V5, &format!("first {name}")),
            Connect::lasting(V5, &format!("last {name}")),
        );
        away(&broker, &first, &filter, 1);
        away(&broker, &last, &filter, 1);
        let mut client = broker.client(V5, "pub");
        assert_eq!(publish(&mut client, &topic, "old", 1), 0, "{name}");
        let mut clean = first.clone();
        clean.clean = true;
        broker.resume(&clean, false).disconnect();
        assert_eq!(publish(&mut client, &topic, "old", 1), 0, "{name}: one is left");
        end(&broker, &last, &filter);
        until_nobody(&mut client, &topic);
        let mut new = broker.client(V5, "new");
        new.subscribe(&filter, 1);
        assert_eq!(publish(&mut client, &topic, "new", 1), 0, "{name}");
        assert_eq!(payloads(&new.until_fence(&broker)), ["new"], "{name}");
    }
}

#[test]
fn a_share_that_was_kept_through_a_kill_ends_with_its_last_member() {
    if peer() {
        return; // as above
    }
    let mut broker = Broker::start();
    let member = Connect::lasting(V5, "ends");
    away(&broker, &member, "$share/g/ends", 1);
    let mut client = broker.client(V5, "pub");
    assert_eq!(publish(&mut client, "ends", "old", 1), 0);
    broker.kill_and_restart();
    broker.resume(&Connect::new(V5, "ends"), false).disconnect();
    let mut client = broker.client(V5, "pub");
    assert_eq!(publish(&mut client, "ends", "to nobody", 1), NOBODY);
    let mut new = broker.client(V5, "new");
    new.subscribe("$share/g/ends", 1);
    assert_eq!(publish(&mut client, "ends", "new", 1), 0);
    assert_eq!(payloads(&new.until_fence(&broker)), ["new"]);
}

#[test]
fn what_waits_for_a_share_expires() {
    let broker = Broker::start();
    let member = Connect::lasting(V5, "late");
    away(&broker, &member, "$share/g/expiry", 1);
    let mut client = broker.client(V5, "pub");
    let short = Publish::new("expiry", "short").with(four(id::MESSAGE_EXPIRY, 1));
    client.publish(short.qos(1, 0));
    client.publish(Publish::new("expiry", "long").qos(1, 0));
    std::thread::sleep(Duration::from_secs(2));
    let mut member = broker.resume(&member, true);
    assert_eq!(payloads(&member.until_fence(&broker)), ["long"]);
}

#[test]
fn what_a_share_keeps_is_bounded() {
    let broker = Broker::with(&[("WEFT_ROUTER__INBOX_MESSAGES_MAX", "5")]);
    for version in BOTH {
        let topic = format!("bound/{version:?}");
        let member = Connect::lasting(version, &format!("bound-{version:?}"));
        away(&broker, &member, &format!("$share/g/{topic}"), 1);
        let mut client = broker.client(version, "pub");
        for payload in numbers(0..8) {
            publish(&mut client, &topic, &payload, 1);
        }
        let mut member = broker.resume(&member, true);
        assert_eq!(payloads(&member.until_fence(&broker)), numbers(0..5));
    }
}
