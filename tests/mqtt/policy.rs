//! What policy denies.

use crate::mqtt_driver::{Version::*, *};

const CLOSED: [(&str, &str); 2] = [
    ("WEFT_POLICY__DENY_SUBSCRIBE", "test/nosubscribe,secret/#"),
    ("WEFT_POLICY__DENY_PUBLISH", "test/nopublish/#"),
];

#[test]
fn a_denied_subscription_is_answered_0x80_or_0x87_beside_granted_ones() {
    if peer() {
        return;
    }
    let broker = Broker::with(&CLOSED);
    for (version, denied) in [(V3, 0x80), (V5, 0x87)] {
        let mut client = broker.client(version, "denied");
        client.subscribe_as(
            &[("a", 2), ("test/nosubscribe", 2), ("test/other", 1)],
            &[],
            &[2, denied, 1],
        );
        let mut wide = broker.client(version, "wide");
        wide.subscribe("test/#", 1);
        let mut other = broker.client(version, "pub");
        for topic in ["test/nosubscribe", "test/other"] {
            other.publish(Publish::new(topic, topic).qos(1, 0));
        }
        for client in [&mut client, &mut wide] {
            assert_eq!(client.take().topic(), "test/other", "what is closed reaches nobody");
            client.alive();
        }
    }
}

#[test]
fn a_denial_is_not_explained_where_that_is_off() {
    if peer() {
        return;
    }
    let [subscribe, publish] = CLOSED;
    let broker = Broker::with(&[subscribe, publish, ("WEFT_MQTT__EXPLAIN_DENIALS", "false")]);
    for version in BOTH {
        let mut client = broker.client(version, "silent");
        client.subscribe_as(&[("test/nosubscribe", 0), ("b", 0)], &[], &[0x80, 0]);
    }
}

#[test]
fn a_denied_publish_is_answered_as_its_version_can_and_reaches_nobody() {
    if peer() {
        return;
    }
    let broker = Broker::with(&CLOSED);
    for version in BOTH {
        let mut hearer = broker.client(version, "hearer");
        hearer.subscribe("test/#", 2);
        let mut client = broker.client(version, "denied");
        // [3.1.1 MQTT-3.3.5-2]: acknowledged, or the end of the connection; version 5 says why.
        for (qos, kind) in [(1, PUBACK), (2, PUBREC)] {
            let message = Publish::new("test/nopublish/x", "no").qos(qos, 7).retained();
            client.send(&message.bytes(version));
            let answer = client.packet();
            assert_eq!((answer.kind(), answer.id()), (kind, 7));
            if version == V5 {
                assert_eq!(answer.body[2], 0x87);
            } else if qos == 2 {
                client.send(&packet(0x62, &[&[0, 7]]));
                assert_eq!(client.packet().kind(), PUBCOMP);
            }
        }
        client.send(&Publish::new("test/nopublish/x", "no").bytes(version));
        client.publish(Publish::new("test/other", "yes").qos(1, 0));
        assert_eq!(hearer.take().text(), "yes");
        let mut late = broker.client(version, "late");
        late.subscribe("test/nopublish/#", 1);
        assert!(late.until_fence(&broker).is_empty(), "nothing was retained");
    }
}

#[test]
fn what_is_closed_takes_no_room_from_wider_subscriptions() {
    if peer() {
        return;
    }
    let [closed, _] = CLOSED;
    let bounds = ["WEFT_ROUTER__SESSION_MESSAGES_MAX", "WEFT_ROUTER__INBOX_MESSAGES_MAX"].map(|bound| (bound, "3"));
    let broker = Broker::with(&[closed, bounds[0], bounds[1]]);
    for (number, filter) in ["#", "$share/g/#"].into_iter().enumerate() {
        let lasting = Connect::lasting(V5, &format!("wide-{number}"));
        let mut wide = broker.resume(&lasting, false);
        wide.subscribe(filter, 1);
        wide.disconnect();
        let mut other = broker.client(V5, "pub");
        for _ in 0..10 {
            other.publish(Publish::new("secret/x", "closed").qos(1, 0));
        }
        for payload in ["one", "two"] {
            other.publish(Publish::new("open", payload).qos(1, 0));
        }
        let mut wide = broker.resume(&lasting, true);
        assert_eq!(
            [wide.take(), wide.take()].map(|heard| heard.text().to_owned()),
            ["one", "two"]
        );
        wide.unsubscribe(&[filter], &[0]);
    }
}

#[test]
fn a_filter_that_is_closed_by_now_is_not_granted_again() {
    if peer() {
        return;
    }
    let mut broker = Broker::start();
    let lasting = Connect::lasting(V5, "had");
    let mut client = broker.resume(&lasting, false);
    client.subscribe("secret/x", 1);
    client.disconnect();
    broker.restart_with(&CLOSED);
    let mut client = broker.resume(&lasting, true);
    client.subscribe_as(&[("secret/x", 1)], &[], &[0x87]);
}

#[test]
fn closed_topics_of_the_broker_itself_reach_nobody() {
    if peer() {
        return;
    }
    let broker = Broker::with(&[("WEFT_POLICY__DENY_SUBSCRIBE", "$SYS/broker/version")]);
    for version in BOTH {
        let mut client = broker.client(version, "operator");
        client.subscribe_as(&[("$SYS/broker/+", 0)], &[], &[0]);
        let heard = client.until_fence(&broker);
        assert!(!heard.is_empty());
        assert!(heard.iter().all(|publish| publish.topic() != "$SYS/broker/version"));
    }
}
