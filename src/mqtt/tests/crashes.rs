//! Connections cut and nodes killed at any instant: QoS 2 happens once, in both directions, in both versions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::world::{World, ack, filter, lasting, publish};
use crate::{
    frame::Qos,
    mqtt::{Action, Config, Packet, Saved, Version},
};

/// Messages of a run.
const MESSAGES: u64 = 12;
/// Cuts of a run, and then a connection that lasts.
const CUTS_MAX: usize = 12;

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V311), Just(Version::V5)]
}

proptest! {
    /// A client that sends each message until it reads PUBCOMP, and a fabric that takes a message id once (G4). The connection is cut
    /// after any number of steps; saves that were not confirmed by then may or may not have happened.
    #[test]
    fn g8_what_a_client_publishes_at_qos_2_is_taken_once(
        version in version(),
        cuts in proptest::collection::vec((0usize..40, any::<bool>()), 0..CUTS_MAX),
    ) {
        let mut saved = None;
        let mut taken: BTreeSet<String> = BTreeSet::new();
        let mut bodies: Vec<u64> = Vec::new();
        // The client: number -> released?; ids are the numbers' small ones, so that they come again.
        let mut client: VecDeque<(u64, bool)> = (0..MESSAGES).map(|number| (number, false)).collect();
        for (steps, is_last_save_kept) in cuts.into_iter().chain([(usize::MAX, false)]) {
            let mut world = World::connected_with(Config::default(), lasting(version), saved.take());
            let mut inbox: VecDeque<Packet> = VecDeque::new();
            let mut resend = true;
            for _ in 0..steps.min(2_000) {
                let Some((number, released)) = client.front().copied() else { break };
                let packet_id = 1 + (number % 3) as u16;
                if resend {
                    resend = false;
                    let packet = match released {
                        true => Packet::Pubrel(ack(packet_id)),
                        false => {
                            let mut publish = publish("a", Qos::ExactlyOnce, packet_id);
                            publish.payload = number.to_be_bytes().to_vec().into();
                            Packet::Publish(publish)
                        }
                    };
                    world.packet(packet);
                } else if let Some((ticket, change)) = world.take_save() {
                    world.saved.apply(change);
                    world.session.handle_saved(ticket, &mut world.out);
                } else if let Some((ticket, frame)) = world.published().pop() {
                    if taken.insert(frame.envelope.id().to_owned()) {
                        bodies.push(u64::from_be_bytes(frame.body[..].try_into().unwrap()));
                    }
                    world.accept_only(ticket);
                } else if let Some(packet) = inbox.pop_front() {
                    match packet {
                        Packet::Pubrec(_) => {
                            client.front_mut().unwrap().1 = true;
                            resend = true;
                        }
                        Packet::Pubcomp(_) => {
                            client.pop_front();
                            resend = true;
                        }
                        other => panic!("{other:?}"),
                    }
                }
                inbox.extend(world.sent());
            }
            if is_last_save_kept && let Some((_, change)) = world.take_save() {
                world.saved.apply(change);
            }
            // What was published and not answered may have been taken.
            if is_last_save_kept && let Some((_, frame)) = world.published().pop() && taken.insert(frame.envelope.id().to_owned()) {
                bodies.push(u64::from_be_bytes(frame.body[..].try_into().unwrap()));
            }
            saved = Some(world.saved);
        }
        prop_assert!(client.is_empty());
        prop_assert_eq!(bodies, (0..MESSAGES).collect::<Vec<_>>());
    }

    /// A queue that hands a message out again until it is settled, and a client that forgets a packet id with its PUBREL.
    #[test]
    fn g8_what_is_sent_to_a_client_at_qos_2_arrives_once(
        version in version(),
        cuts in proptest::collection::vec((0usize..40, any::<bool>()), 0..CUTS_MAX),
    ) {
        let mut saved: Option<Saved> = None;
        let mut queue: BTreeMap<u64, String> = (0..MESSAGES).map(|seq| (seq, format!("t{seq}"))).collect();
        let mut known: BTreeSet<u16> = BTreeSet::new();
        let mut arrived: Vec<String> = Vec::new();
        for (lease, (steps, is_last_save_kept)) in cuts.into_iter().chain([(usize::MAX, false)]).enumerate() {
            let mut world = World::fresh(Config { send_max: 3, ..Config::default() });
            let is_first = saved.is_none();
            world.connect(lasting(version), saved.take());
            // The client's way: CONNACK and PUBRELs come over it too.
            let mut down: VecDeque<Packet> = world.sent().into();
            if is_first {
                world.subscribe(&[filter("#", Qos::ExactlyOnce)], None);
            }
            let mut to_hand_out: VecDeque<u64> = queue.keys().copied().collect();
            for _ in 0..steps.min(2_000) {
                if let Some(packet) = down.pop_front() {
                    match packet {
                        Packet::Publish(publish) => {
                            let number = publish.packet_id.unwrap().get();
                            if known.insert(number) {
                                arrived.push(publish.topic);
                            }
                            world.packet(Packet::Pubrec(ack(number)));
                        }
                        Packet::Pubrel(released) => {
                            known.remove(&released.packet_id.get());
                            world.packet(Packet::Pubcomp(ack(released.packet_id.get())));
                        }
                        _ => {}
                    }
                } else if let Some((ticket, change)) = world.take_save() {
                    world.saved.apply(change);
                    world.session.handle_saved(ticket, &mut world.out);
                } else if let Some(seq) = to_hand_out.pop_front() {
                    let topic = queue[&seq].clone();
                    world.deliver(seq, lease as u64, &topic, Qos::ExactlyOnce);
                }
                for key in world.settled() {
                    queue.remove(&key.place.seq);
                }
                world.out.retain(|action| !matches!(action, Action::Release(_)));
                down.extend(world.sent());
            }
            if is_last_save_kept && let Some((_, change)) = world.take_save() {
                world.saved.apply(change);
            }
            saved = Some(world.saved);
        }
        prop_assert!(queue.is_empty());
        arrived.sort();
        let mut wanted: Vec<_> = (0..MESSAGES).map(|seq| format!("t{seq}")).collect();
        wanted.sort();
        prop_assert_eq!(arrived, wanted);
    }
}

#[test]
fn mqtt_4_4_0_1_pubrels_and_messages_that_an_earlier_connection_left_go_out_again_under_their_ids() {
    for version in [Version::V311, Version::V5] {
        let mut world = World::connected(lasting(version));
        world.subscribe(&[filter("#", Qos::ExactlyOnce)], None);
        for seq in 1..=3 {
            world.deliver(seq, 1, "a", Qos::ExactlyOnce);
        }
        world.save_all();
        assert_eq!(world.publishes().len(), 3);
        world.packet(Packet::Pubrec(ack(2)));
        world.save_all();
        let saved = world.saved.clone();
        let mut world = World::fresh(Config::default());
        world.connect(lasting(version), Some(saved));
        assert_eq!(world.sent()[1..], [Packet::Pubrel(ack(2))]);
        for seq in [1, 3] {
            world.deliver(seq, 2, "a", Qos::ExactlyOnce);
        }
        world.save_all();
        let again: Vec<_> = world
            .publishes()
            .iter()
            .map(|publish| (publish.packet_id.unwrap().get(), publish.dup))
            .collect();
        assert_eq!(again, [(1, true), (3, true)]); // [MQTT-3.3.1-1]
        world.packet(Packet::Pubrec(ack(1)));
        world.save_all();
        assert_eq!(world.settled(), [super::world::key(1, 2)]);
    }
}

#[test]
fn g7_a_message_that_the_client_has_is_settled_when_it_is_handed_out_once_more() {
    let mut world = World::connected(lasting(Version::V5));
    world.subscribe(&[filter("#", Qos::ExactlyOnce)], None);
    world.deliver(1, 1, "a", Qos::ExactlyOnce);
    world.save_all();
    world.packet(Packet::Pubrec(ack(1)));
    // Durable, and then the node is killed before the settle.
    let (_, change) = world.take_save().unwrap();
    world.saved.apply(change);
    let saved = world.saved.clone();
    let mut world = World::fresh(Config::default());
    world.connect(lasting(Version::V5), Some(saved));
    world.sent();
    world.deliver(1, 2, "a", Qos::ExactlyOnce);
    world.save_all();
    assert!(world.publishes().is_empty());
    assert_eq!(world.settled(), [super::world::key(1, 2)]);
}

#[test]
fn mqtt_4_4_0_1_a_qos_1_message_goes_out_again_under_its_id_while_the_node_lives() {
    for version in [Version::V311, Version::V5] {
        let mut world = World::connected(lasting(version));
        world.subscribe(&[filter("#", Qos::AtLeastOnce)], None);
        for seq in 1..=3 {
            world.deliver(seq, 1, "a", Qos::AtLeastOnce);
        }
        world.packet(Packet::Puback(ack(2)));
        world.out.clear();
        world.session.handle_lost(world.now, &mut world.out);
        let Some(Action::End(end)) = world.out.pop() else {
            panic!()
        };
        let mut next = World::fresh(Config::default());
        next.in_flight = end.in_flight;
        next.connect(lasting(version), Some(world.saved));
        for seq in [1, 3, 4] {
            next.deliver(seq, 2, "a", Qos::AtLeastOnce);
        }
        let publishes = next.publishes();
        let again: Vec<_> = publishes
            .iter()
            .map(|publish| (publish.packet_id.unwrap().get(), publish.dup))
            .collect();
        assert_eq!(again, [(1, true), (3, true), (2, false)]);
        next.packet(Packet::Puback(ack(1)));
        assert_eq!(next.settled(), [super::world::key(1, 2)]);
    }
}
