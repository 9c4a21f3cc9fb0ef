//! What clients are sent.

use std::time::Duration;

use proptest::prelude::*;

use super::world::{World, ack, at, connect, delivery, filter, frame, id, key, lasting, publish};
use crate::{
    frame::{AgentId, Qos},
    mqtt::{Ack, Config, Connect, Packet, PublishProperties, Reason, Sender, Source, Version, to_frame, to_publish},
};

fn subscribed(connect: Connect, text: &str, qos: Qos) -> World {
    let mut world = World::connected(connect);
    world.subscribe(&[filter(text, qos)], None);
    world
}

#[test]
fn mqtt_3_8_4_8_a_message_is_sent_at_the_smaller_of_both_qos() {
    for (sent, granted, wanted) in [(2, 1, 1), (1, 2, 1), (2, 0, 0), (0, 2, 0), (2, 2, 2)] {
        let qos = |number| Qos::from_u8(number).unwrap();
        let mut world = subscribed(connect(Version::V311), "a", qos(granted));
        world.deliver(1, 1, "a", qos(sent));
        let publish = world.publishes().remove(0);
        assert_eq!((publish.qos, publish.packet_id.is_some()), (qos(wanted), wanted > 0));
        assert_eq!(world.settled().len(), usize::from(sent > 0 && wanted == 0));
    }
}

#[test]
fn mqtt_4_3_2_1_to_3_a_qos_1_message_is_settled_by_its_puback() {
    let mut world = subscribed(connect(Version::V5), "a", Qos::AtLeastOnce);
    world.deliver(1, 4, "a", Qos::AtLeastOnce);
    let publish = world.publishes().remove(0);
    assert!(!publish.dup && publish.packet_id == Some(id(1)));
    world.packet(Packet::Puback(ack(9)));
    assert!(world.settled().is_empty());
    world.packet(Packet::Puback(ack(1)));
    assert_eq!(world.settled(), [key(1, 4)]);
    world.packet(Packet::Puback(ack(1)));
    assert!(world.settled().is_empty());
}

#[test]
fn an_acknowledgement_of_the_other_qos_ends_the_connection() {
    let answers = [
        (Qos::AtLeastOnce, Packet::Pubrec(ack(1))),
        (Qos::AtLeastOnce, Packet::Pubcomp(ack(1))),
        (Qos::ExactlyOnce, Packet::Puback(ack(1))),
        (Qos::ExactlyOnce, Packet::Pubcomp(ack(1))),
    ];
    for (qos, answer) in answers {
        let mut world = subscribed(connect(Version::V5), "a", qos);
        world.deliver(1, 4, "a", qos);
        assert_eq!(world.publishes().len(), 1);
        world.packet(answer.clone());
        assert_eq!(world.closed_with(), Some(Reason::PROTOCOL_ERROR), "{qos:?} {answer:?}");
        assert!(world.settled().is_empty());
    }
}

#[test]
fn mqtt_4_3_3_1_to_6_a_qos_2_message_is_settled_by_its_pubrec_and_over_with_pubcomp() {
    for version in [Version::V311, Version::V5] {
        let mut world = subscribed(lasting(version), "a", Qos::ExactlyOnce);
        world.deliver(1, 4, "a", Qos::ExactlyOnce);
        assert!(world.sent().is_empty(), "its packet id is durable first");
        world.save_all();
        assert_eq!(world.publishes()[0].packet_id, Some(id(1)));
        world.packet(Packet::Pubrec(ack(1)));
        assert!(
            world.sent().is_empty() && world.settled().is_empty(),
            "PUBREC is durable first"
        );
        world.save_all();
        assert_eq!(
            (world.sent(), world.settled()),
            (vec![Packet::Pubrel(ack(1))], vec![key(1, 4)])
        );
        world.packet(Packet::Pubrec(ack(1)));
        assert_eq!(world.sent(), [Packet::Pubrel(ack(1))]);
        world.packet(Packet::Pubcomp(ack(1)));
        world.save_all();
        assert!(world.saved.sending.is_empty());
    }
}

#[test]
fn a_refused_qos_2_message_is_over_at_once() {
    let mut world = subscribed(lasting(Version::V5), "a", Qos::ExactlyOnce);
    world.deliver(1, 4, "a", Qos::ExactlyOnce);
    world.save_all();
    world.sent();
    world.packet(Packet::Pubrec(Ack::new(id(1), Reason::QUOTA_EXCEEDED)));
    assert_eq!(world.settled(), [key(1, 4)]);
    world.save_all();
    assert!(world.sent().is_empty() && world.saved.sending.is_empty());
}

#[test]
fn mqtt_3_3_4_9_no_more_than_the_clients_receive_maximum_is_in_flight() {
    let small = Connect {
        receive_max: 2,
        ..connect(Version::V5)
    };
    let mut world = subscribed(small, "a", Qos::AtLeastOnce);
    for seq in 1..=5 {
        world.deliver(seq, 1, "a", Qos::AtLeastOnce);
    }
    world.deliver(6, 1, "a", Qos::AtMostOnce);
    assert_eq!(world.publishes().len(), 3);
    world.packet(Packet::Puback(ack(1)));
    assert_eq!(world.publishes()[0].packet_id, Some(id(3)));
}

#[test]
fn what_finds_no_room_goes_back_to_its_queue() {
    let config = Config {
        send_max: 1,
        waiting_max: 2,
        ..Config::default()
    };
    let mut world = World::connected_with(config, connect(Version::V311), None);
    world.subscribe(&[filter("a", Qos::AtLeastOnce)], None);
    for seq in 1..=5 {
        world.deliver(seq, 1, "a", Qos::AtLeastOnce);
    }
    assert_eq!((world.publishes().len(), world.released()), (1, 2));
}

#[test]
fn mqtt_3_1_2_25_what_is_too_large_for_the_client_is_done_with() {
    let small = Connect {
        packet_bytes_max: Some(10),
        ..connect(Version::V5)
    };
    let mut world = subscribed(small, "a", Qos::AtLeastOnce);
    world.deliver(1, 1, "a", Qos::AtLeastOnce);
    assert!(world.sent().is_empty());
    assert_eq!(world.settled(), [key(1, 1)]);
}

#[test]
fn mqtt_3_10_4_2_nothing_new_is_sent_for_a_subscription_that_ended() {
    let mut world = World::connected(connect(Version::V311));
    world.deliver(1, 1, "a", Qos::AtLeastOnce);
    assert!(world.sent().is_empty());
    assert_eq!(world.settled(), [key(1, 1)]);
}

#[test]
fn mqtt_3_3_4_3_and_4_one_copy_carries_the_identifiers_of_all_subscriptions() {
    let mut world = World::connected(connect(Version::V5));
    world.subscribe(&[filter("a/#", Qos::AtMostOnce)], Some(1));
    world.subscribe(&[filter("a/+", Qos::AtLeastOnce)], Some(2));
    world.deliver(1, 1, "a/b", Qos::AtLeastOnce);
    let publishes = world.publishes();
    assert_eq!((publishes.len(), publishes[0].qos), (1, Qos::AtLeastOnce));
    let mut ids = publishes[0].properties.as_ref().unwrap().subscription_ids.clone();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
}

#[test]
fn mqtt_3_3_1_8_12_and_13_the_retain_flag_says_why_a_message_is_sent() {
    let agent = AgentId::new("other").unwrap();
    let sender = Sender {
        agent: &agent,
        message_id: "m",
        expiry_max: Duration::MAX,
    };
    let mut kept = publish("a", Qos::AtMostOnce, 0);
    kept.retain = true;
    let kept = to_frame(&kept, sender).unwrap();
    for (as_published, source, retain) in [
        (false, Source::Live, false),
        (true, Source::Live, true),
        (false, Source::Retained("a".into()), true),
    ] {
        let mut world = World::connected(connect(Version::V5));
        let mut filter = filter("a", Qos::AtMostOnce);
        filter.retain_as_published = as_published;
        world.subscribe(&[filter], None);
        let mut delivery = delivery(1, 1, "a", Qos::AtMostOnce);
        (delivery.frame, delivery.source) = (kept.clone(), source);
        world.session.handle_delivery(delivery, at(0), &mut world.out);
        let sent = world.publishes().remove(0);
        assert_eq!((sent.retain, sent.properties), (retain, None));
    }
}

#[test]
fn mqtt_3_8_3_3_a_clients_own_message_stays_away_from_no_local_subscriptions() {
    let mut world = World::connected(connect(Version::V5));
    let mut mine = filter("a", Qos::AtMostOnce);
    mine.no_local = true;
    world.subscribe(&[mine], None);
    world.packet(Packet::Publish(publish("a", Qos::AtMostOnce, 0)));
    let (_, own) = world.published().remove(0);
    let mut back = delivery(1, 1, "a", Qos::AtMostOnce);
    back.frame = own;
    world.session.handle_delivery(back, at(0), &mut world.out);
    assert!(world.publishes().is_empty());
    world.deliver(2, 1, "a", Qos::AtMostOnce);
    assert_eq!(world.publishes().len(), 1);
}

#[test]
fn mqtt_3_1_2_26_aliases_are_set_once_and_used_then() {
    let asking = Connect {
        topic_alias_max: 1,
        ..connect(Version::V5)
    };
    let mut world = subscribed(asking, "#", Qos::AtMostOnce);
    for topic in ["a", "a", "b"] {
        world.deliver(1, 1, topic, Qos::AtMostOnce);
    }
    let alias = |publish: &crate::mqtt::Publish| publish.properties.as_ref().and_then(|given| given.topic_alias);
    let sent = world.publishes();
    let named: Vec<_> = sent.iter().map(|publish| (&*publish.topic, alias(publish))).collect();
    assert_eq!(named, [("a", Some(1)), ("", Some(1)), ("b", None)]);
}

#[test]
fn the_inbox_arrives_once_it_was_asked_for_and_says_who_sent() {
    let mut world = subscribed(connect(Version::V5), "$weft/inbox", Qos::AtLeastOnce);
    let mut letter = delivery(1, 1, "x", Qos::AtLeastOnce);
    letter.frame = frame("agent:me", Qos::AtLeastOnce);
    world.session.handle_delivery(letter, at(0), &mut world.out);
    let publish = world.publishes().remove(0);
    assert_eq!(publish.topic, "$weft/inbox");
    let user = publish.properties.unwrap().user;
    for wanted in [("weft-from", "sender"), ("weft-id", "m-1"), ("weft-priority", "normal")] {
        assert!(user.contains(&(wanted.0.into(), wanted.1.into())), "{user:?}");
    }
}

#[test]
fn packet_ids_go_round_and_leave_out_those_in_flight() {
    let mut world = subscribed(connect(Version::V311), "a", Qos::AtLeastOnce);
    world.deliver(0, 1, "a", Qos::AtLeastOnce);
    for seq in 1..70_000 {
        world.deliver(seq, 1, "a", Qos::AtLeastOnce);
        let publish = world.publishes().pop().unwrap();
        let number = publish.packet_id.unwrap();
        assert_ne!(number, id(1), "it is in flight");
        world.packet(Packet::Puback(Ack::new(number, Reason::SUCCESS)));
        world.out.clear();
    }
}

#[test]
fn mqtt_3_3_2_6_what_is_left_of_an_expiry_is_sent_along() {
    let agent = AgentId::new("other").unwrap();
    let sender = Sender {
        agent: &agent,
        message_id: "m",
        expiry_max: Duration::MAX,
    };
    let mut given = publish("a", Qos::AtLeastOnce, 1);
    given.properties = Some(Box::new(PublishProperties {
        message_expiry_s: Some(60),
        ..PublishProperties::default()
    }));
    let mut frame = to_frame(&given, sender).unwrap();
    assert_eq!(frame.envelope.ttl_ms(), 60_000);
    frame.stamp.expires_at = at(60);
    let left = to_publish(&frame, Version::V5, at(45))
        .properties
        .unwrap()
        .message_expiry_s;
    assert_eq!(left, Some(15));
}

proptest! {
    /// Whatever MQTT 5 lets a client say of a message, another one hears.
    #[test]
    fn nothing_is_lost_between_publish_and_frame(
        payload_format in proptest::option::of(0u8..=1),
        content_type in proptest::option::of("[a-z/]{1,20}"),
        response_topic in proptest::option::of("[a-z]{1,10}|\\$weft/agent/[a-z]{1,5}|\\$weft/reply/[a-z]{1,5}/[a-z]{1,5}|(x/){33}x"),
        correlation in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..40)),
        user in proptest::collection::vec(("[a-z-]{0,6}|mqtt-[a-z]{1,9}|\t", "\\PC{0,12}"), 0..6),
        retain in any::<bool>(),
    ) {
        prop_assume!(user.iter().all(|(name, _)| !name.starts_with("weft-")));
        let properties = PublishProperties {
            payload_format,
            content_type,
            response_topic,
            correlation: correlation.map(Into::into),
            user,
            ..PublishProperties::default()
        };
        let mut given = publish("a/b", Qos::AtLeastOnce, 1);
        given.retain = retain;
        given.properties = (!properties.is_empty()).then(|| Box::new(properties));
        let agent = AgentId::new("other").unwrap();
        let frame = to_frame(&given, Sender { agent: &agent, message_id: "m", expiry_max: Duration::MAX }).unwrap();
        let mut back = to_publish(&frame, Version::V5, at(0));
        // Names that a header cannot have come back too; only what stands in one header's stead may stand elsewhere.
        let sort = |publish: &mut crate::mqtt::Publish| if let Some(given) = &mut publish.properties { given.user.sort() };
        sort(&mut given);
        sort(&mut back);
        prop_assert_eq!(back.properties, given.properties);
        prop_assert_eq!(back.payload.as_ptr(), given.payload.as_ptr());
    }
}
