//! Messages that come and go as runs: those that no queue keeps, and those that clients publish one behind the other.

use bytes::Bytes;
use proptest::prelude::*;

use super::world::{World, ack, at, connect, filter, frame, id, publish};
use crate::{
    frame::{Qos, Run, RunBuilder},
    mqtt::{Action, Config, Connect, Outcome, Packet, Publish, Reason, Version},
    time::Timestamp,
};

const QUEUE: &str = "agent:me#mqtt.c1";

/// So many messages to topic `a`; the bodies are their numbers, from `first`.
fn run(first: usize, messages: usize, expires_at: Timestamp) -> Run {
    let mut begun = frame("topic:a", Qos::AtLeastOnce);
    begun.body = Bytes::from(first.to_string());
    begun.stamp.expires_at = expires_at;
    let mut run = RunBuilder::new(begun);
    for number in first + 1..first + messages {
        let message_id = format!("m-{}", number % 10);
        assert!(run.push(message_id.as_bytes(), number.to_string().as_bytes(), 64));
    }
    run.finish()
}

fn come(world: &mut World, run: Run) {
    let queue = QUEUE.parse().unwrap();
    world.session.handle_run(run, &queue, world.now, &mut world.out);
}

fn bodies(publishes: &[Publish]) -> Vec<usize> {
    let number = |publish: &Publish| std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
    publishes.iter().map(number).collect()
}

fn subscribed(connect: Connect, send_max: u16, qos: Qos) -> World {
    let config = Config {
        send_max,
        ..Config::default()
    };
    let mut world = World::connected_with(config, connect, None);
    world.subscribe(&[filter("a", qos)], None);
    world
}

#[test]
fn a_run_goes_out_as_far_as_the_window_has_room_and_goes_on_with_each_puback() {
    let mut world = subscribed(connect(Version::V311), 3, Qos::AtLeastOnce);
    come(&mut world, run(0, 5, Timestamp::NEVER));
    come(&mut world, run(5, 1, Timestamp::NEVER));
    let sent = world.publishes();
    assert_eq!(bodies(&sent), [0, 1, 2]);
    let ids: Vec<_> = sent.iter().map(|publish| publish.packet_id.unwrap()).collect();
    assert_eq!(ids, [id(1), id(2), id(3)]);
    assert!(
        sent.iter()
            .all(|publish| publish.qos == Qos::AtLeastOnce && !publish.dup)
    );
    assert_eq!(world.session.held_up(), 3);
    world.packet(Packet::Puback(ack(2)));
    world.packet(Packet::Puback(ack(2)));
    assert_eq!(bodies(&world.publishes()), [3], "a second PUBACK counts for nothing");
    world.packet(Packet::Puback(ack(1)));
    world.packet(Packet::Puback(ack(3)));
    assert_eq!(bodies(&world.publishes()), [4, 5]);
    assert_eq!((world.session.held_up(), world.settled().len()), (0, 0));
}

#[test]
fn what_waited_longer_than_it_may_is_not_sent() {
    let mut world = subscribed(connect(Version::V5), 1, Qos::AtLeastOnce);
    come(&mut world, run(0, 3, at(10)));
    come(&mut world, run(3, 2, Timestamp::NEVER));
    assert_eq!(bodies(&world.publishes()), [0]);
    world.now = at(10);
    world.packet(Packet::Puback(ack(1)));
    assert_eq!(bodies(&world.publishes()), [3]);
    assert_eq!(world.session.held_up(), 1);
}

#[test]
fn nothing_more_is_to_be_brought_while_enough_waits() {
    let mut world = subscribed(connect(Version::V311), 1, Qos::AtLeastOnce);
    let waiting_max = Config::default().waiting_max;
    come(&mut world, run(0, waiting_max, Timestamp::NEVER));
    assert!(!world.session.is_backed_up());
    come(&mut world, run(waiting_max, 1, Timestamp::NEVER));
    assert!(world.session.is_backed_up());
    world.packet(Packet::Puback(ack(1)));
    assert!(!world.session.is_backed_up());
}

#[test]
fn large_messages_are_enough_before_they_are_many() {
    let mut world = subscribed(connect(Version::V311), 1, Qos::AtLeastOnce);
    let large = || {
        let mut large = frame("topic:a", Qos::AtLeastOnce);
        large.body = Bytes::from(vec![0; 600 * 1024]);
        Run::one(large)
    };
    come(&mut world, large());
    come(&mut world, large());
    assert!(!world.session.is_backed_up(), "one is under way, one waits");
    come(&mut world, large());
    assert!(world.session.is_backed_up());
    world.packet(Packet::Puback(ack(1)));
    assert!(!world.session.is_backed_up());
}

#[test]
fn a_subscription_of_qos_0_gets_a_run_at_qos_0() {
    let mut world = subscribed(connect(Version::V311), 1, Qos::AtMostOnce);
    come(&mut world, run(0, 3, Timestamp::NEVER));
    let sent = world.publishes();
    assert_eq!(bodies(&sent), [0, 1, 2]);
    assert!(
        sent.iter()
            .all(|publish| publish.qos == Qos::AtMostOnce && publish.packet_id.is_none())
    );
}

#[test]
fn mqtt_3_1_2_26_the_first_message_of_a_run_sets_the_alias() {
    let connect = Connect {
        topic_alias_max: 1,
        ..connect(Version::V5)
    };
    let mut world = subscribed(connect, 2, Qos::AtLeastOnce);
    come(&mut world, run(0, 3, Timestamp::NEVER));
    world.packet(Packet::Puback(ack(1)));
    let sent = world.publishes();
    let topics: Vec<_> = sent.iter().map(|publish| publish.topic.as_str()).collect();
    assert_eq!((topics, bodies(&sent)), (vec!["a", "", ""], vec![0, 1, 2]));
    let alias = |publish: &Publish| publish.properties.as_ref().and_then(|given| given.topic_alias);
    assert!(sent.iter().all(|publish| alias(publish) == Some(1)));
}

#[test]
fn mqtt_3_1_2_25_only_those_of_a_run_that_are_too_large_are_left_out() {
    let connect = Connect {
        packet_bytes_max: Some(10),
        ..connect(Version::V5)
    };
    let mut world = subscribed(connect, 10, Qos::AtLeastOnce);
    // 1 + 1 + 2 + 1 + 2 + 1 bytes and the payload.
    come(&mut world, run(98, 4, Timestamp::NEVER));
    assert_eq!(bodies(&world.publishes()), [98, 99]);
}

/// Publishes once, and the same again under these packet ids as far as they are taken; the runs that were published and how many were.
fn publish_run(world: &mut World, first: u16, ids: &[u16]) -> (Run, usize) {
    world.packet(Packet::Publish(publish("a", Qos::AtLeastOnce, first)));
    let (ticket, frame) = world.published().remove(0);
    assert!(ticket.is_some());
    let mut run = RunBuilder::new(frame);
    let taken = ids
        .iter()
        .take_while(|number| world.session.handle_twin(&mut run, Some(id(**number)), b"again", 64));
    let taken = taken.count();
    (run.finish(), taken)
}

#[test]
fn twins_have_tickets_one_behind_the_other_and_are_answered_in_order() {
    let mut world = World::connected(connect(Version::V311));
    world.packet(Packet::Publish(publish("a", Qos::AtLeastOnce, 7)));
    let (ticket, frame) = world.published().remove(0);
    let first = ticket.unwrap();
    let mut run = RunBuilder::new(frame);
    for number in [9, 8] {
        assert!(world.session.handle_twin(&mut run, Some(id(number)), b"again", 64));
    }
    let run = run.finish();
    let ids: std::collections::BTreeSet<_> = run.iter().map(|frame| frame.envelope.id().to_owned()).collect();
    assert_eq!(ids.len(), 3, "each message has an id of its own");
    let answer = |world: &mut World, at: u64| {
        let ticket = crate::mqtt::Ticket(first.0 + at);
        let outcome = Outcome::Accepted { recipients: 1 };
        world
            .session
            .handle_published(ticket, outcome, world.now, &mut world.out);
        world.sent()
    };
    assert!(answer(&mut world, 1).is_empty(), "the first one's answer is before it");
    assert_eq!(answer(&mut world, 0), [7, 9].map(|number| Packet::Puback(ack(number))));
    assert_eq!(answer(&mut world, 2), [Packet::Puback(ack(8))]);
}

#[test]
fn mqtt_3_3_4_9_twins_are_taken_up_to_receive_maximum_alone() {
    let mut world = World::connected(connect(Version::V5));
    let receive_max = usize::from(Config::default().receive_max);
    let ids: Vec<u16> = (2..=100).collect();
    let (_, taken) = publish_run(&mut world, 1, &ids);
    assert_eq!(taken, receive_max - 1);
    world.packet(Packet::Publish(publish("a", Qos::AtLeastOnce, 101)));
    assert_eq!(world.closed_with(), Some(Reason::RECEIVE_MAXIMUM_EXCEEDED));
}

#[test]
fn a_packet_id_of_a_qos_2_handshake_makes_no_twin() {
    let mut world = World::connected(connect(Version::V311));
    world.packet(Packet::Publish(publish("a", Qos::ExactlyOnce, 5)));
    let (ticket, _) = world.published().remove(0);
    world.accept(ticket);
    world.sent();
    let (run, taken) = publish_run(&mut world, 1, &[2, 5, 6]);
    assert_eq!((run.frames(), taken), (2, 1));
}

proptest! {
    /// Whatever comes together and whichever PUBACKs come: each message is sent once, in order, never more than the window.
    #[test]
    fn every_message_is_sent_once_and_in_order(
        version in prop_oneof![Just(Version::V311), Just(Version::V5)],
        window in 1u16..6,
        steps in proptest::collection::vec((1usize..8, proptest::collection::vec(0usize..6, 0..8)), 1..30),
    ) {
        let mut world = subscribed(connect(version), window, Qos::AtLeastOnce);
        let (mut came, mut sent, mut open) = (0, 0, Vec::new());
        let take = |world: &mut World, sent: &mut usize, open: &mut Vec<_>| {
            for publish in world.publishes() {
                assert_eq!(bodies(std::slice::from_ref(&publish)), [*sent]);
                *sent += 1;
                let id = publish.packet_id.unwrap();
                assert!(!open.contains(&id), "{id} is in use");
                open.push(id);
            }
            assert!(open.len() <= usize::from(window));
        };
        for (messages, acks) in steps {
            come(&mut world, run(came, messages, Timestamp::NEVER));
            came += messages;
            take(&mut world, &mut sent, &mut open);
            for at in acks {
                if at < open.len() {
                    let id = open.remove(at);
                    world.packet(Packet::Puback(ack(id.get())));
                    take(&mut world, &mut sent, &mut open);
                }
            }
            prop_assert_eq!(world.session.held_up(), came - sent);
        }
        while let Some(id) = open.pop() {
            world.packet(Packet::Puback(ack(id.get())));
            take(&mut world, &mut sent, &mut open);
        }
        prop_assert_eq!(sent, came);
        prop_assert!(!world.out.iter().any(|action| matches!(action, Action::Settle(_) | Action::Release(_))));
    }
}
