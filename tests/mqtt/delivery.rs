//! Order, quotas, sizes.

use crate::mqtt_driver::{Version::*, *};

#[test]
fn order_is_kept() {
    let broker = Broker::start();
    for version in BOTH {
        for qos in 0..3 {
            let mut subscriber = broker.client(version, "sub");
            subscriber.subscribe("order", qos);
            let mut client = broker.client(version, "pub");
            for number in 0..200 {
                client.publish(Publish::new("order", &number.to_string()).qos(qos, 0));
            }
            // QoS 0 is taken, too, before another client's fence.
            client.alive();
            let heard = subscriber.until_fence(&broker);
            let expected: Vec<String> = (0..200).map(|number: u32| number.to_string()).collect();
            assert_eq!(payloads(&heard), expected);
        }
    }
}

#[test]
fn a_server_keeps_to_the_receive_maximum_and_answers_meanwhile() {
    let broker = Broker::start();
    for qos in [1, 2] {
        let (mut client, _) = broker.connect(&Connect::new(V5, "slow").with(two(id::RECEIVE_MAX, 2)));
        client.subscribe("quota", qos);
        let mut other = broker.client(V5, "pub");
        for number in 0..5 {
            other.publish(Publish::new("quota", &number.to_string()).qos(qos, 0));
        }
        let mut open = vec![client.hear(), client.hear()];
        // Other packets, and QoS 0, go on.
        client.alive();
        client.subscribe("more", 0);
        for number in 2..5 {
            let done = open.remove(0);
            if qos == 1 {
                client.acknowledge(PUBACK, done.id);
            } else {
                client.acknowledge(PUBREC, done.id);
                client.expect(&packet(PUBREL, &[&done.id.to_be_bytes()]));
                client.alive();
                client.acknowledge(PUBCOMP, done.id);
            }
            let next = client.hear();
            assert_eq!(next.text(), number.to_string());
            open.push(next);
            client.alive();
        }
    }
}

#[test]
fn a_client_beyond_the_receive_maximum_is_disconnected_with_0x93() {
    let broker = Broker::start();
    let mut client = broker.client(V5, "floods");
    let all: Vec<u8> = (1..=21)
        .flat_map(|id| Publish::new("flood", "x").qos(2, id).bytes(V5))
        .collect();
    client.send_whatever(&all);
    for id in 1..=20 {
        match client.packet() {
            packet if packet.kind() == DISCONNECT => {
                assert_eq!(packet.reason(), 0x93);
                assert!(client.next().is_none());
                return;
            }
            packet => assert_eq!((packet.kind(), packet.id()), (PUBREC, id)),
        }
    }
    assert_eq!(client.closed(), Some(0x93));
}

#[test]
fn the_receive_maximum_is_free_again_after_acknowledgements() {
    let broker = Broker::start();
    let mut client = broker.client(V5, "fair");
    for round in 0..3 {
        for id in 1..=20 {
            client.send(&Publish::new("fair", "x").qos(2, id).bytes(V5));
            client.answered(PUBREC, id);
        }
        for id in 1..=20 {
            client.acknowledge(PUBREL, id);
            client.expect(&packet(PUBCOMP, &[&u16::to_be_bytes(id)]));
        }
        client.publish(Publish::new("fair", &round.to_string()).qos(1, 0));
    }
}

#[test]
fn packets_larger_than_a_client_takes_are_dropped_and_the_rest_goes_on() {
    let broker = Broker::start();
    for qos in 0..3 {
        let (mut client, _) = broker.connect(&Connect::new(V5, "small").with(four(id::PACKET_MAX, 100)));
        client.subscribe("sizes", qos);
        let mut other = broker.client(V5, "pub");
        for payload in ["before".to_owned(), "x".repeat(200), "after".to_owned()] {
            other.publish(Publish::new("sizes", &payload).qos(qos, 0));
        }
        assert_eq!(payloads(&client.until_fence(&broker)), ["before", "after"]);
    }
}

#[test]
fn words_and_user_properties_are_left_out_where_they_do_not_fit() {
    let broker = Broker::start();
    let (mut client, packet) = broker.connect(&Connect::new(V5, "tiny").with(four(id::PACKET_MAX, 20)));
    assert!(packet.bytes().len() <= 20, "{packet:02x?}");
    client.send(&subscribe(V5, 1, &[("a", 0), ("b", 0)], &[]));
    assert!(client.packet().bytes().len() <= 20);
    client.send(&unsubscribe(V5, 2, &["a", "nothing"]));
    assert!(client.packet().bytes().len() <= 20);
    for qos in [1, 2] {
        client.send(&Publish::new("nobody", "x").qos(qos, 3).bytes(V5));
        assert!(client.packet().bytes().len() <= 20);
    }
    client.acknowledge(PUBREL, 3);
    assert!(client.packet().bytes().len() <= 20);
    client.send(&Publish::new("a/#", "x").bytes(V5));
    while let Some(packet) = client.next() {
        assert!(packet.bytes().len() <= 20, "{packet:02x?}");
    }
}

#[test]
fn a_client_may_have_many_subscriptions() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = broker.client(version, "hundreds");
        for number in 0..300 {
            client.subscribe(&format!("many/{number}/+"), 1);
        }
        broker
            .client(version, "pub")
            .publish(Publish::new("many/299/x", "last").qos(1, 0));
        assert_eq!(client.take().text(), "last");
    }
}
