//! Credit: what a session may have in flight, and that all of it comes back.

use std::{sync::Arc, time::Duration};

use super::world::{World, mail};
use crate::{
    delivery::{Credit, Limits, Nack, QueueKind},
    frame::Priority,
};

fn fill(world: &mut World, to: &str, count: usize) {
    for at in 0..count {
        world.publish(&mail(&format!("m{at}"), to));
    }
    world.commit();
}

#[test]
fn credit_bounds_what_is_in_flight_by_messages_and_comes_back_with_every_settle() {
    let mut world = World::new();
    let credit = world.attach("agent:a", 1, "a", 3);
    fill(&mut world, "agent:a", 9);
    let taken = world.hand_outs();
    assert_eq!((taken.len(), credit.taken().0), (3, 3));
    world.ack(taken[0].lease, "a");
    world.nack(taken[1].lease, "a", Nack::DeadLetter);
    world.nack(taken[2].lease, "a", Nack::Retry(Some(Duration::from_secs(5))));
    assert_eq!(credit.taken(), (0, 0));
    world.commit();
    assert_eq!(world.handed_ids(), ["m3", "m4", "m5"]);
}

#[test]
fn credit_bounds_bytes_and_a_message_larger_than_the_window_passes_alone() {
    let mut world = World::new();
    let mut consumer = world.consumer(1, "a", 10);
    consumer.credit = Arc::new(Credit::new(10, 1500));
    let credit = consumer.credit.clone();
    world.attach_as("agent:a", consumer);
    for (id, body) in [("small", 1), ("large", 5000), ("last", 1)] {
        world.publish(&mail(id, "agent:a").body(body));
    }
    world.commit();
    let small = world.taken();
    assert_eq!(small.id(), "small");
    world.ack(small.lease(), "a");
    world.commit();
    let large = world.taken();
    assert_eq!(large.id(), "large");
    assert!(credit.taken().1 > 5000);
    world.ack(large.lease(), "a");
    world.commit();
    assert_eq!(world.taken().id(), "last");
}

#[test]
fn a_session_without_credit_gets_nothing_until_its_window_opens() {
    let mut world = World::new();
    let credit = world.attach("agent:a", 1, "a", 0);
    fill(&mut world, "agent:a", 2);
    assert!(world.hand_outs().is_empty());
    let waiting = credit.set_window(1, 1 << 20);
    assert_eq!(waiting.iter().collect::<Vec<_>>(), [0], "this worker waits for it");
    world.run(|shard, _, _, _| shard.handle_credit(&super::world::address("agent:a")));
    world.commit();
    assert_eq!(world.handed_ids(), ["m0"]);
}

#[test]
fn a_session_that_leaves_one_queue_has_the_credit_of_its_leases_there_for_the_others() {
    // The leases went back to the queue, and their credit was never given back.
    let mut world = World::new();
    let credit = world.attach("agent:a", 1, "a", 2);
    let mut same = world.consumer(1, "a", 0);
    same.credit = credit.clone();
    world.attach_as("agent:a#mem1", same);
    fill(&mut world, "agent:a", 2);
    assert_eq!((world.hand_outs().len(), credit.taken().0), (2, 2));
    world.publish(&mail("reply", "agent:a#mem1"));
    assert!(world.hand_outs().is_empty());
    world.detach("agent:a", 1);
    assert_eq!(credit.taken(), (0, 0));
    assert!(!world.out.credited.is_empty(), "who waits for the credit is told");
    world.run(|shard, _, _, _| shard.handle_credit(&super::world::address("agent:a#mem1")));
    world.pump();
    assert_eq!(world.handed_ids(), ["reply"]);
}

#[test]
fn g6_priorities_share_8_4_2_1_however_small_the_window_and_however_often_nothing_can_go() {
    // A turn that ended for want of credit cost a share: with a window of one, low priority got up to half of its due, or none.
    for idle_pumps in 0..6 {
        let mut world = World::with(Limits {
            inbox_messages_max: 1000,
            ..Limits::default()
        });
        let credit = world.attach("agent:a", 1, "a", 1);
        for at in 0..90 {
            for priority in Priority::DESCENDING {
                world.publish(&mail(&format!("{priority}{at}"), "agent:a").priority(priority));
            }
        }
        world.commit();
        let mut handed = [0; Priority::COUNT];
        for _ in 0..150 {
            let taken = world.taken();
            handed[taken.0.frame.envelope.priority().index()] += 1;
            for _ in 0..idle_pumps {
                world.run(|shard, _, _, _| shard.handle_credit(&super::world::address("agent:a")));
                world.pump();
            }
            world.ack(taken.lease(), "a");
            world.commit();
        }
        assert_eq!(credit.taken().0, 1);
        for (share, due) in handed.into_iter().zip([10, 20, 40, 80]) {
            assert!(
                (due - 8..=due + 8).contains(&share),
                "{handed:?} with {idle_pumps} idle pumps"
            );
        }
        assert!(handed[0] >= 9, "{handed:?}");
    }
}

#[test]
fn a_session_that_opens_its_queue_again_keeps_what_it_holds() {
    let mut world = World::new();
    let consumer = world.consumer(1, "a", 2);
    let credit = consumer.credit.clone();
    world.attach_as("agent:a", consumer.clone());
    fill(&mut world, "agent:a", 3);
    let taken = world.hand_outs();
    world.attach_as("agent:a", consumer);
    assert!(world.hand_outs().is_empty());
    world.ack(taken[0].lease, "a");
    world.commit();
    assert_eq!((world.hand_outs().len(), credit.taken().0), (1, 2));
    assert_eq!(world.shard.queue(0).kind, QueueKind::Inbox);
}

#[test]
fn credit_comes_back_once_however_a_message_ends() {
    // A message that ended with its attempt (its last one, or expired meanwhile) gave its credit back twice: the count went below zero.
    for nack in [Nack::Retry(None), Nack::Release] {
        let mut world = World::with(Limits {
            max_deliver: 1,
            ..Limits::default()
        });
        let credit = world.attach("agent:a", 1, "a", 10);
        world.send(&mail("last-attempt", "agent:a"));
        let taken = world.taken();
        world.nack(taken.lease(), "a", Nack::Retry(None));
        assert_eq!(credit.taken(), (0, 0));
        world.send(&mail("expires", "agent:a").ttl_secs(5));
        let taken = world.taken();
        world.wait_secs(5);
        assert_eq!(credit.taken().0, 1);
        world.nack(taken.lease(), "a", nack);
        assert_eq!(credit.taken(), (0, 0));
        world.send(&mail("detached", "agent:a").ttl_secs(5));
        assert_eq!(world.hand_outs().len(), 1);
        world.wait_secs(5);
        world.detach("agent:a", 1);
        assert_eq!(credit.taken(), (0, 0));
    }
}
