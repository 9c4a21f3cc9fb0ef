//! Sessions: clean start, expiry, resumption, redelivery, what waits for who is away.

use std::time::Duration;

use crate::mqtt_driver::{Version::*, *};

#[test]
fn session_present_says_whether_there_was_one() {
    let broker = Broker::start();
    for version in BOTH {
        let name = format!("present-{version:?}");
        let lasting = Connect::lasting(version, &name);
        broker.resume(&lasting, false).disconnect();
        broker.resume(&lasting, true).disconnect();
        // A clean start ends the session; what it begins in 3.1.1 ends with its connection.
        broker.resume(&Connect::new(version, &name), false).disconnect();
        broker.resume(&lasting, false).disconnect();
    }
}

#[test]
fn a_session_keeps_its_subscriptions_and_messages() {
    let broker = Broker::start();
    for version in BOTH {
        let lasting = Connect::lasting(version, "away");
        let mut client = broker.resume(&lasting, false);
        client.subscribe("away/#", 2);
        client.disconnect();
        let mut other = broker.client(version, "pub");
        for number in 0..6 {
            other.publish(Publish::new("away/x", &number.to_string()).qos(1 + number % 2, 0));
        }
        let mut client = broker.resume(&lasting, true);
        let mut heard = client.until_fence(&broker);
        // Order is promised for one QoS only; the sort keeps what there is within each.
        heard.sort_by_key(|publish| publish.qos);
        assert_eq!(payloads(&heard), ["0", "2", "4", "1", "3", "5"]);
        assert!(heard.iter().all(|publish| !publish.dup), "none of them was sent before");
        client.disconnect();
        broker.resume(&Connect::new(version, "away"), false).disconnect();
    }
}

#[test]
fn a_clean_start_discards_what_was() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.resume(&Connect::lasting(version, "fresh"), false);
        client.subscribe("fresh", 1);
        client.disconnect();
        broker
            .client(version, "pub")
            .publish(Publish::new("fresh", "old").qos(1, 0));
        let mut client = broker.resume(&Connect::new(version, "fresh"), false);
        broker
            .client(version, "pub")
            .publish(Publish::new("fresh", "new").qos(1, 0));
        assert!(client.until_fence(&broker).is_empty());
        client.disconnect();
    }
}

#[test]
fn unacknowledged_messages_are_sent_again_with_dup_and_their_ids() {
    let broker = Broker::start();
    for version in BOTH {
        for qos in [1, 2] {
            let name = format!("again-{version:?}-{qos}");
            let lasting = Connect::lasting(version, &name);
            let mut client = broker.resume(&lasting, false);
            client.subscribe("again", qos);
            let mut other = broker.client(version, "pub");
            for payload in ["a", "b", "c"] {
                other.publish(Publish::new("again", payload).qos(qos, 0));
            }
            let first: Vec<Publish> = (0..3).map(|_| client.hear()).collect();
            // Nothing is sent again while the connection stands.
            client.alive();
            client.cut();
            let mut client = broker.resume(&lasting, true);
            let second: Vec<Publish> = (0..3).map(|_| client.hear()).collect();
            for (before, after) in first.iter().zip(&second) {
                assert_eq!(
                    (before.id, before.text()),
                    (after.id, after.text()),
                    "order and ids stay"
                );
                assert!(!before.dup && after.dup);
            }
            client.disconnect();
        }
    }
}

#[test]
fn an_unacknowledged_pubrel_is_sent_again_and_not_the_message() {
    let broker = Broker::start();
    for version in BOTH {
        let lasting = Connect::lasting(version, &format!("rel-{version:?}"));
        let mut client = broker.resume(&lasting, false);
        client.subscribe("rel", 2);
        broker
            .client(version, "pub")
            .publish(Publish::new("rel", "x").qos(2, 0));
        let heard = client.hear();
        let release = packet(PUBREL, &[&heard.id.to_be_bytes()]);
        client.acknowledge(PUBREC, heard.id);
        client.expect(&release);
        client.cut();
        let mut client = broker.resume(&lasting, true);
        client.expect(&release);
        client.acknowledge(PUBCOMP, heard.id);
        client.alive();
        client.disconnect();
        let mut client = broker.resume(&lasting, true);
        assert!(client.until_fence(&broker).is_empty());
    }
}

#[test]
fn a_qos_2_message_sent_again_in_the_next_connection_is_delivered_once() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = broker.client(version, "witness");
        witness.subscribe("twice", 2);
        let lasting = Connect::lasting(version, &format!("sender-{version:?}"));
        let mut client = broker.resume(&lasting, false);
        let mut publish = Publish::new("twice", "x").qos(2, 11);
        client.send(&publish.bytes(version));
        client.answered(PUBREC, 11);
        client.cut();
        let mut client = broker.resume(&lasting, true);
        publish.dup = true;
        client.send(&publish.bytes(version));
        client.answered(PUBREC, 11);
        client.acknowledge(PUBREL, 11);
        client.expect(&[PUBCOMP, 2, 0, 11]);
        assert_eq!(payloads(&witness.until_fence(&broker)), ["x"]);
    }
}

#[test]
fn sessions_survive_a_kill() {
    if peer() {
        return; // mosquitto writes to disk only when it ends in order
    }
    let mut broker = Broker::start();
    for version in BOTH {
        let lasting = Connect::lasting(version, &format!("killed-{version:?}"));
        let mut client = broker.resume(&lasting, false);
        client.subscribe("killed", 2);
        let mut other = broker.client(version, "pub");
        for payload in ["half", "sent", "waits"] {
            other.publish(Publish::new("killed", payload).qos(2, 0));
        }
        let (half, sent) = (client.hear(), client.hear());
        client.acknowledge(PUBREC, half.id);
        // The PUBREL may come behind further messages.
        let mut heard = client.packet();
        while heard.kind() != PUBREL & 0xF0 {
            heard = client.packet();
        }
        assert_eq!(heard.id(), half.id);
        broker.kill_and_restart();
        let mut client = broker.resume(&lasting, true);
        let heard = client.until_fence(&broker);
        assert_eq!(payloads(&heard), ["sent", "waits"]);
        assert_eq!((heard[0].id, heard[0].dup), (sent.id, true));
        client.disconnect();
        broker
            .resume(&Connect::new(version, &format!("killed-{version:?}")), false)
            .disconnect();
    }
}

#[test]
fn a_qos_2_id_is_remembered_through_a_kill() {
    if peer() {
        return; // as above
    }
    let mut broker = Broker::start();
    for version in BOTH {
        let listener = Connect::lasting(version, &format!("listener-{version:?}"));
        let mut witness = broker.resume(&listener, false);
        witness.subscribe("id/kept", 2);
        let lasting = Connect::lasting(version, &format!("sender-{version:?}"));
        let mut client = broker.resume(&lasting, false);
        let mut publish = Publish::new("id/kept", "x").qos(2, 11);
        client.send(&publish.bytes(version));
        client.answered(PUBREC, 11);
        broker.kill_and_restart();
        let mut client = broker.resume(&lasting, true);
        publish.dup = true;
        client.send(&publish.bytes(version));
        client.answered(PUBREC, 11);
        client.acknowledge(PUBREL, 11);
        client.expect(&[PUBCOMP, 2, 0, 11]);
        let mut witness = broker.resume(&listener, true);
        // Its copy may have been under way from the topic to the session's queue: what comes behind it on other topics may be first.
        let mut heard = vec![witness.take()];
        heard.extend(witness.until_fence(&broker));
        assert_eq!(payloads(&heard), ["x"]);
    }
}

#[test]
fn what_was_sent_and_not_answered_comes_again_past_its_expiry() {
    for (qos, is_killed, is_away) in [(2, false, true), (2, true, true), (2, true, false), (1, false, true)] {
        let mut broker = Broker::start();
        let connect = Connect::lasting(V5, "sent").with(two(id::RECEIVE_MAX, 1));
        let mut client = broker.resume(&connect, false);
        client.subscribe("sent", 2);
        let mut publisher = broker.client(V5, "pub");
        for payload in ["sent", "not sent"] {
            let publish = Publish::new("sent", payload).with(four(id::MESSAGE_EXPIRY, 1));
            publisher.publish(publish.qos(qos, 0));
        }
        let first = client.hear();
        assert_eq!((first.text(), first.qos), ("sent", qos));
        let client = if is_away {
            client.cut();
            None
        } else {
            Some(client)
        };
        std::thread::sleep(Duration::from_secs(2));
        if is_killed {
            broker.kill_and_restart();
        }
        drop(client);
        let mut client = broker.resume(&connect, true);
        let again = client.take();
        assert_eq!((again.text(), again.id, again.dup), ("sent", first.id, true));
        assert!(
            client.until_fence(&broker).is_empty(),
            "a message that was not sent expires"
        );
        client.disconnect();
        let mut client = broker.resume(&connect, true);
        assert!(client.until_fence(&broker).is_empty());
    }
}

#[test]
fn a_session_ends_when_its_expiry_has_passed() {
    let broker = Broker::start();
    let mut connect = Connect::new(V5, "short").with(four(id::SESSION_EXPIRY, 1));
    connect.clean = false;
    broker.resume(&connect, false).disconnect();
    // Asking makes it again, so only every other second.
    let ended = (0..10).any(|_| {
        std::thread::sleep(Duration::from_secs(2));
        let (client, packet) = broker.connect(&connect);
        client.disconnect();
        packet.body[0] == 0
    });
    assert!(ended, "the session does not expire");
}

#[test]
fn a_session_of_expiry_0_ends_with_its_connection() {
    let broker = Broker::start();
    let mut connect = Connect::new(V5, "none");
    connect.clean = false;
    broker.resume(&connect, false).disconnect();
    broker.resume(&connect, false).disconnect();
}

#[test]
fn a_disconnect_may_change_the_expiry() {
    let broker = Broker::start();
    let lasting = Connect::lasting(V5, "changes");
    let mut client = broker.resume(&lasting, false);
    client.send(&packet(DISCONNECT, &[&[0, 5], &four(id::SESSION_EXPIRY, 0)]));
    assert!(client.next().is_none());
    broker.resume(&lasting, false).disconnect();
    // For ever, and then to an hour.
    let mut connect = Connect::new(V5, "changes").with(four(id::SESSION_EXPIRY, u32::MAX));
    connect.clean = false;
    let mut client = broker.resume(&connect, true);
    client.send(&packet(DISCONNECT, &[&[0, 5], &four(id::SESSION_EXPIRY, 3600)]));
    assert!(client.next().is_none());
    broker.resume(&lasting, true).disconnect();
}

#[test]
fn a_session_is_one_in_both_versions() {
    let broker = Broker::start();
    let mut client = broker.resume(&Connect::lasting(V3, "both"), false);
    client.subscribe("both", 1);
    client.disconnect();
    broker.client(V3, "pub").publish(Publish::new("both", "x").qos(1, 0));
    let mut client = broker.resume(&Connect::lasting(V5, "both"), true);
    assert_eq!(client.take().text(), "x");
}

#[test]
fn taken_over_with_its_session_the_new_connection_goes_on() {
    let broker = Broker::start();
    for version in BOTH {
        let lasting = Connect::lasting(version, &format!("moves-{version:?}"));
        let mut old = broker.resume(&lasting, false);
        old.subscribe("moves", 1);
        broker
            .client(version, "pub")
            .publish(Publish::new("moves", "x").qos(1, 0));
        let before = old.hear();
        let mut new = broker.resume(&lasting, true);
        let after = new.hear();
        assert_eq!((before.id, "x", true), (after.id, after.text(), after.dup));
        let _ = old.closed();
    }
}
