//! Wills.

use crate::{
    mqtt_driver::{Version::*, *},
    properties::users,
};

fn witness(broker: &Broker, version: Version) -> Client {
    let mut witness = broker.client(version, "witness");
    witness.subscribe("will/#", 2);
    witness
}

#[test]
fn a_will_is_published_when_a_connection_is_cut() {
    let broker = Broker::start();
    for version in BOTH {
        for qos in 0..3 {
            let mut witness = witness(&broker, version);
            let connect = Connect::new(version, "dies").will("will/x", "gone", qos, false);
            broker.connect(&connect).0.cut();
            let heard = witness.take();
            assert_eq!(
                (heard.topic(), heard.text(), heard.qos, heard.retain),
                ("will/x", "gone", qos, false)
            );
            // It was published once, and not retained.
            assert!(witness.until_fence(&broker).is_empty());
            let mut late = broker.client(version, "late");
            late.subscribe("will/#", 0);
            assert!(late.until_fence(&broker).is_empty());
        }
    }
}

#[test]
fn a_will_may_be_retained() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = witness(&broker, version);
        let topic = format!("will/kept/{version:?}");
        broker
            .connect(&Connect::new(version, "dies").will(&topic, "gone", 1, true))
            .0
            .cut();
        assert!(!witness.take_of(&topic).retain);
        let mut late = broker.client(version, "late");
        late.subscribe(&topic, 1);
        let heard = late.take();
        assert_eq!((heard.text(), heard.retain), ("gone", true));
    }
}

#[test]
fn disconnect_discards_the_will() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = witness(&broker, version);
        broker
            .connect(&Connect::new(version, "leaves").will("will/x", "never", 1, false))
            .0
            .disconnect();
        assert!(witness.until_fence(&broker).is_empty());
        // Nor does a later connection without a will have it.
        broker.client(version, "leaves").cut();
        assert!(witness.until_fence(&broker).is_empty());
    }
}

#[test]
fn disconnect_with_will_publishes_it() {
    let broker = Broker::start();
    let mut witness = witness(&broker, V5);
    let (mut client, _) = broker.connect(&Connect::new(V5, "leaves").will("will/x", "told", 1, false));
    client.send(&packet(DISCONNECT, &[&[4]]));
    assert!(client.next().is_none());
    assert_eq!(witness.take().text(), "told");
}

#[test]
fn a_protocol_error_a_silence_and_a_takeover_publish_the_will() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = witness(&broker, version);
        let mut connect = Connect::new(version, "errs").will("will/x", "gone", 1, false);
        let (mut client, _) = broker.connect(&connect);
        client.send(&[0x00, 0]);
        client.closed();
        assert_eq!(witness.take().text(), "gone");
        connect.keep_alive = 1;
        let (mut client, _) = broker.connect(&connect);
        client.closed();
        assert_eq!(witness.take().text(), "gone");
        let (_client, _) = broker.connect(&connect);
        broker.client(version, "errs").alive();
        assert_eq!(witness.take().text(), "gone");
    }
}

#[test]
fn properties_of_a_will_come_with_it() {
    let broker = Broker::start();
    let mut witness = witness(&broker, V5);
    let mut connect = Connect::new(V5, "dies").will("will/x", "gone", 1, false);
    let list = [
        byte(id::PAYLOAD_FORMAT, 1),
        string(id::CONTENT_TYPE, "text/plain"),
        string(id::RESPONSE_TOPIC, "answers"),
    ]
    .concat();
    let list = [
        list,
        string(id::CORRELATION, [1, 2]),
        user("a", "1"),
        user("b", "2"),
        user("a", "3"),
    ]
    .concat();
    connect.will.as_mut().expect("it has one").properties = list;
    broker.connect(&connect).0.cut();
    let heard = witness.take();
    assert_eq!(heard.property(id::PAYLOAD_FORMAT), [[1]]);
    assert_eq!(heard.property(id::CONTENT_TYPE), [b"text/plain"]);
    assert_eq!(heard.property(id::RESPONSE_TOPIC), [b"answers"]);
    assert_eq!(heard.property(id::CORRELATION), [[1, 2]]);
    assert_eq!(
        users(&heard),
        [("a", "1"), ("b", "2"), ("a", "3")].map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[test]
fn a_delayed_will_waits_and_a_new_connection_stops_it() {
    let broker = Broker::start();
    let mut witness = witness(&broker, V5);
    let mut connect = Connect::lasting(V5, "delays").will("will/late", "gone", 1, false);
    connect.will.as_mut().expect("it has one").properties = four(id::WILL_DELAY, 1);
    // Back at once, and again: nothing was published.
    for present in [false, true, true] {
        broker.resume(&connect, present).cut();
    }
    let mut client = broker.resume(&connect, true);
    client.alive();
    assert!(witness.until_fence(&broker).is_empty());
    client.cut();
    assert_eq!(witness.take().text(), "gone");
}

#[test]
fn a_delayed_will_is_published_when_its_session_ends() {
    let broker = Broker::start();
    let mut witness = witness(&broker, V5);
    for expiry in [0, 1] {
        let name = format!("ends-{expiry}");
        let mut connect = Connect::new(V5, &name)
            .will("will/end", "gone", 1, false)
            .with(four(id::SESSION_EXPIRY, expiry));
        connect.will.as_mut().expect("it has one").properties = four(id::WILL_DELAY, 3600);
        broker.connect(&connect).0.cut();
        assert_eq!(witness.take().text(), "gone");
    }
    // A clean start ends the session too.
    let mut connect = Connect::lasting(V5, "wiped").will("will/end", "wiped", 1, false);
    connect.will.as_mut().expect("it has one").properties = four(id::WILL_DELAY, 3600);
    broker.connect(&connect).0.cut();
    broker.client(V5, "wiped").alive();
    assert_eq!(witness.take().text(), "wiped");
}

#[test]
fn a_will_survives_a_kill() {
    if peer() {
        return; // mosquitto writes to disk only when it ends in order
    }
    let mut broker = Broker::start();
    for version in BOTH {
        let lasting = Connect::lasting(version, &format!("witness-{version:?}"));
        let mut witness = broker.resume(&lasting, false);
        witness.subscribe("will/#", 1);
        let (_client, _) =
            broker.connect(&Connect::lasting(version, &format!("dies-{version:?}")).will("will/k", "gone", 1, false));
        broker.kill_and_restart();
        let mut witness = broker.resume(&lasting, true);
        assert_eq!(witness.take_of("will/k").text(), "gone");
    }
}
