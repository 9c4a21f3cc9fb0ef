//! What clients publish.

use super::world::{World, ack, connect, id, lasting, publish, with_alias};
use crate::{
    frame::{Priority, Qos},
    mqtt::{Ack, Action, Change, Config, Outcome, Packet, PublishProperties, Reason, Version},
};

const BOTH: [Version; 2] = [Version::V311, Version::V5];

#[test]
fn mqtt_3_3_4_1_a_puback_follows_the_commit_and_a_qos_0_message_has_none() {
    for version in BOTH {
        let mut world = World::connected(connect(version));
        world.packet(Packet::Publish(publish("a/b", Qos::AtMostOnce, 0)));
        let (ticket, frame) = world.published().remove(0);
        assert_eq!((ticket, frame.envelope.to()), (None, "topic:a/b"));
        world.packet(Packet::Publish(publish("a/b", Qos::AtLeastOnce, 7)));
        assert!(world.sent().is_empty());
        let (ticket, _) = world.published().remove(0);
        world.accept(ticket);
        assert_eq!(world.sent(), [Packet::Puback(ack(7))]);
    }
}

#[test]
fn mqtt_4_6_0_2_and_3_answers_go_out_in_the_order_of_the_questions() {
    let mut world = World::connected(connect(Version::V311));
    for (number, qos) in [(1, Qos::AtLeastOnce), (2, Qos::ExactlyOnce), (3, Qos::AtLeastOnce)] {
        world.packet(Packet::Publish(publish("a", qos, number)));
    }
    let tickets: Vec<_> = world.published().into_iter().map(|(ticket, _)| ticket).collect();
    world.accept(tickets[2]);
    world.accept(tickets[1]);
    assert!(world.sent().is_empty());
    world.accept(tickets[0]);
    let wanted = [Packet::Puback(ack(1)), Packet::Pubrec(ack(2)), Packet::Puback(ack(3))];
    assert_eq!(world.sent(), wanted);
}

#[test]
fn mqtt_4_3_3_8_to_12_a_qos_2_message_is_taken_once_until_it_is_released() {
    for version in BOTH {
        let mut world = World::connected(lasting(version));
        world.packet(Packet::Publish(publish("a", Qos::ExactlyOnce, 5)));
        assert!(world.published().is_empty(), "its id is durable first");
        world.save_all();
        let (ticket, _) = world.published().remove(0);
        world.accept(ticket);
        assert_eq!(world.sent(), [Packet::Pubrec(ack(5))]);
        let mut again = publish("a", Qos::ExactlyOnce, 5);
        again.dup = true;
        world.packet(Packet::Publish(again));
        assert!(world.published().is_empty());
        assert_eq!(world.sent(), [Packet::Pubrec(ack(5))]);
        world.packet(Packet::Pubrel(ack(5)));
        assert!(world.sent().is_empty(), "it is forgotten durably first");
        world.save_all();
        assert_eq!(world.sent(), [Packet::Pubcomp(ack(5))]);
        assert!(world.saved.received.is_empty());
        world.packet(Packet::Publish(publish("a", Qos::ExactlyOnce, 5)));
        world.save_all();
        assert_eq!(world.published().len(), 1, "the id is free again");
    }
}

#[test]
fn a_pubrel_for_an_id_that_nobody_knows_is_completed_all_the_same() {
    let mut world = World::connected(connect(Version::V5));
    world.packet(Packet::Pubrel(ack(9)));
    assert_eq!(
        world.sent(),
        [Packet::Pubcomp(Ack::new(id(9), Reason::PACKET_ID_NOT_FOUND))]
    );
    let mut world = World::connected(connect(Version::V311));
    world.packet(Packet::Pubrel(ack(9)));
    assert_eq!(world.sent(), [Packet::Pubcomp(ack(9))]);
}

#[test]
fn mqtt_3_3_4_9_one_message_above_receive_maximum_ends_the_connection() {
    let mut world = World::connected(connect(Version::V5));
    for number in 1..=20 {
        let qos = if number % 2 == 0 {
            Qos::AtLeastOnce
        } else {
            Qos::ExactlyOnce
        };
        world.packet(Packet::Publish(publish("a", qos, number)));
    }
    let tickets: Vec<_> = world.published().into_iter().map(|(ticket, _)| ticket).collect();
    tickets.into_iter().for_each(|ticket| world.accept(ticket));
    world.sent();
    // QoS 2 counts until PUBCOMP: ten are left.
    for number in 101..=110 {
        world.packet(Packet::Publish(publish("a", Qos::AtLeastOnce, number)));
    }
    assert_eq!(world.closed_with(), None);
    world.packet(Packet::Publish(publish("a", Qos::AtMostOnce, 0)));
    assert_eq!(world.closed_with(), None);
    world.packet(Packet::Publish(publish("a", Qos::AtLeastOnce, 200)));
    assert_eq!(world.closed_with(), Some(Reason::RECEIVE_MAXIMUM_EXCEEDED));
}

#[test]
fn ids_that_are_never_released_are_bounded_in_3_1_1_too() {
    let config = Config {
        unreleased_max: 30,
        ..Config::default()
    };
    let mut world = World::connected_with(config, connect(Version::V311), None);
    for number in 1..=31 {
        world.packet(Packet::Publish(publish("a", Qos::ExactlyOnce, number)));
        assert_eq!(world.closed_with().is_some(), number == 31);
    }
}

#[test]
fn mqtt_3_3_2_8_an_alias_stands_for_its_topic() {
    let mut world = World::connected(connect(Version::V5));
    world.packet(Packet::Publish(with_alias(publish("a", Qos::AtMostOnce, 0), 3)));
    world.packet(Packet::Publish(with_alias(publish("", Qos::AtMostOnce, 0), 3)));
    let topics: Vec<_> = world
        .published()
        .into_iter()
        .map(|(_, frame)| frame.envelope.to().to_owned())
        .collect();
    assert_eq!(topics, ["topic:a", "topic:a"]);
    world.packet(Packet::Publish(with_alias(publish("b", Qos::AtMostOnce, 0), 11)));
    assert_eq!(world.closed_with(), Some(Reason::TOPIC_ALIAS_INVALID));
}

#[test]
fn a_refused_publish_is_answered_as_the_version_can() {
    let outcomes = [
        (Outcome::Denied, Reason::NOT_AUTHORIZED, Ok(())),
        (
            Outcome::Refused(Reason::QUOTA_EXCEEDED),
            Reason::QUOTA_EXCEEDED,
            Err(Reason::QUOTA_EXCEEDED),
        ),
    ];
    for (outcome, in_v5, in_v311) in outcomes {
        let mut world = World::connected(connect(Version::V5));
        world.packet(Packet::Publish(publish("a", Qos::AtLeastOnce, 1)));
        let (ticket, _) = world.published().remove(0);
        world
            .session
            .handle_published(ticket.unwrap(), outcome, world.now, &mut world.out);
        assert!(
            matches!(&world.sent()[..], [Packet::Puback(ack)] if ack.reason == in_v5 && ack.reason_string.is_some())
        );
        let mut world = World::connected(connect(Version::V311));
        world.packet(Packet::Publish(publish("a", Qos::AtLeastOnce, 1)));
        let (ticket, _) = world.published().remove(0);
        world
            .session
            .handle_published(ticket.unwrap(), outcome, world.now, &mut world.out);
        match in_v311 {
            Ok(()) => assert_eq!(world.sent(), [Packet::Puback(ack(1))]), // [3.1.1 MQTT-3.3.5-2]
            Err(reason) => assert_eq!((world.sent(), world.closed_with()), (vec![], Some(reason))),
        }
    }
}

#[test]
fn mqtt_3_1_2_29_problems_go_without_words_where_the_client_wants_none() {
    let mut quiet = connect(Version::V5);
    quiet.wants_problems = false;
    let mut world = World::connected(quiet);
    world.packet(Packet::Publish(publish("$SYS/x", Qos::AtLeastOnce, 1)));
    assert_eq!(world.sent(), [Packet::Puback(Ack::new(id(1), Reason::NOT_AUTHORIZED))]);
}

#[test]
fn a_message_whose_fate_is_unknown_is_not_acknowledged() {
    for version in BOTH {
        let mut world = World::connected(connect(version));
        world.packet(Packet::Publish(publish("a", Qos::AtLeastOnce, 1)));
        let (ticket, _) = world.published().remove(0);
        world.session.handle_published(
            ticket.unwrap(),
            Outcome::Unknown(Reason::UNSPECIFIED),
            world.now,
            &mut world.out,
        );
        assert!(!world.sent().iter().any(|packet| matches!(packet, Packet::Puback(_))));
        assert!(world.closed_with().is_some());
    }
}

#[test]
fn a_refused_qos_2_message_is_forgotten_before_the_client_hears_of_it() {
    let mut world = World::connected(lasting(Version::V5));
    world.packet(Packet::Publish(publish("a", Qos::ExactlyOnce, 1)));
    world.save_all();
    let (ticket, _) = world.published().remove(0);
    world
        .session
        .handle_published(ticket.unwrap(), Outcome::Denied, world.now, &mut world.out);
    assert!(world.sent().is_empty());
    let (ticket, change) = world.take_save().unwrap();
    assert_eq!(change, Change::Forgotten { packet_id: 1 });
    world.session.handle_saved(ticket, &mut world.out);
    assert!(matches!(&world.sent()[..], [Packet::Pubrec(ack)] if ack.reason == Reason::NOT_AUTHORIZED));
}

#[test]
fn no_subscriber_is_said_in_mqtt_5() {
    let mut world = World::connected(connect(Version::V5));
    world.packet(Packet::Publish(publish("a", Qos::AtLeastOnce, 1)));
    let (ticket, _) = world.published().remove(0);
    let outcome = Outcome::Accepted { recipients: 0 };
    world
        .session
        .handle_published(ticket.unwrap(), outcome, world.now, &mut world.out);
    assert_eq!(
        world.sent(),
        [Packet::Puback(Ack::new(id(1), Reason::NO_MATCHING_SUBSCRIBERS))]
    );
}

#[test]
fn a_client_sends_as_itself_and_says_priority_type_and_id_in_properties() {
    let mut world = World::connected(connect(Version::V5));
    let with = |user: &[(&str, &str)]| {
        let mut publish = publish("$weft/agent/bob", Qos::AtLeastOnce, 1);
        let user = user
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        publish.properties = Some(Box::new(PublishProperties {
            user,
            ..PublishProperties::default()
        }));
        Packet::Publish(publish)
    };
    world.packet(with(&[
        ("weft-priority", "high"),
        ("weft-type", "task"),
        ("weft-id", "x1"),
        ("k", "v"),
        ("k", "w"),
    ]));
    let (ticket, frame) = world.published().remove(0);
    let envelope = &frame.envelope;
    assert_eq!(
        (envelope.to(), envelope.from(), envelope.id()),
        ("agent:bob", "me", "x1")
    );
    assert_eq!((envelope.priority(), envelope.message_type()), (Priority::High, "task"));
    assert_eq!(envelope.headers().collect::<Vec<_>>(), [("k", "v"), ("k", "w")]);
    world.accept(ticket);
    world.sent();
    for forged in [("weft-from", "bob"), ("Weft-Anything", "x")] {
        world.packet(with(&[forged]));
        assert!(matches!(&world.sent()[..], [Packet::Puback(ack)] if ack.reason == Reason::NOT_AUTHORIZED));
        assert!(world.published().is_empty());
    }
}

#[test]
fn mqtt_3_3_1_5_a_retained_message_is_published_as_one() {
    let mut world = World::connected(connect(Version::V311));
    let mut kept = publish("a", Qos::AtMostOnce, 0);
    kept.retain = true;
    world.packet(Packet::Publish(kept));
    assert!(matches!(&world.out[..], [Action::Publish { retain: true, .. }]));
}
