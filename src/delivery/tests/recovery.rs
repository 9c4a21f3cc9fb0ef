//! The start from a store's image: what was committed is there, and nothing else.

use std::time::Duration;

use super::world::{World, accepted, mail};
use crate::{
    delivery::Nack,
    frame::{Priority, record::Status},
};

#[test]
fn g13_a_crash_loses_what_was_not_committed_and_nothing_that_was() {
    let mut world = World::new();
    for id in ["m1", "m2"] {
        world.send(&mail(id, "agent:a"));
    }
    let lost = world.publish(&mail("m3", "agent:a"));
    world.begin_commit();
    world.crash();
    assert!(world.answered(lost).is_none());
    world.attach("agent:a", 1, "a", 10);
    world.commit();
    let again = world.hand_outs();
    assert_eq!(again.len(), 2);
    assert!(
        again.iter().all(|h| h.frame.stamp.flags.is_redelivered()),
        "they may have been delivered before"
    );
    assert!(!accepted(world.send(&mail("m3", "agent:a"))).duplicate);
    assert!(accepted(world.send(&mail("m1", "agent:a"))).duplicate);
}

#[test]
fn g7_an_acknowledgement_that_was_not_committed_does_not_count_and_one_that_was_does() {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 10);
    for id in ["m1", "m2"] {
        world.send(&mail(id, "agent:a"));
    }
    let taken = world.hand_outs();
    world.ack(taken[0].lease, "a");
    world.commit();
    world.ack(taken[1].lease, "a");
    world.begin_commit();
    world.crash();
    world.attach("agent:a", 1, "a", 10);
    world.commit();
    assert_eq!(world.handed_ids(), ["m2"]);
    let stale = world.ack(taken[1].lease, "a");
    assert_eq!(
        world.answer(stale),
        crate::delivery::Verdict::Stale,
        "leases end with the process"
    );
    assert_eq!(world.receipt(taken[0].lease.0).status, Status::Delivered);
}

#[test]
fn delayed_messages_wait_on_after_a_crash_with_their_attempts() {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 10);
    world.send(&mail("m1", "agent:a"));
    let taken = world.taken();
    world.nack(taken.lease(), "a", Nack::Retry(Some(Duration::from_secs(60))));
    world.commit();
    world.crash();
    world.attach("agent:a", 1, "a", 10);
    world.commit();
    world.wait_secs(59);
    assert!(world.hand_outs().is_empty());
    world.wait_secs(1);
    world.commit();
    assert_eq!(world.taken().0.frame.stamp.attempt, 1);
}

#[test]
fn g9_what_expired_while_nobody_owned_the_shard_expires_at_the_start() {
    let mut world = World::new();
    for at in 0..10 {
        world.publish(&mail(&format!("m{at}"), "agent:a").ttl_secs(5));
    }
    world.commit();
    world.now = world.now + Duration::from_secs(9);
    world.crash();
    world.attach("agent:a", 1, "a", 10);
    world.wait_secs(0);
    world.commit();
    assert!(world.hand_outs().is_empty());
    assert_eq!((world.out.counts.expired, world.store.messages.len()), (10, 0));
}

#[test]
fn everything_that_the_store_holds_comes_back_as_it_was() {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 1);
    for (at, priority) in Priority::DESCENDING.into_iter().enumerate() {
        world.publish(&mail(&format!("m{at}"), "agent:a").priority(priority).ttl_secs(1000));
    }
    world.commit();
    let taken = world.taken();
    world.nack(taken.lease(), "a", Nack::DeadLetter);
    world.commit();
    let second = world.taken();
    world.ack(second.lease(), "a");
    world.fan_out(&mail("f1", "group:g"), &["agent:x"], Duration::ZERO);
    world.commit();
    let before = world.store.image();
    world.crash();
    world.commit();
    let after = world.store.image();
    assert_eq!((before.messages, before.receipts), (after.messages, after.receipts));
    assert_eq!(world.depth("agent:a"), 2);
    let held = world.shard.held();
    assert_eq!((held.messages, held.receipts, held.queues), (4, 2, 2));
}

#[test]
fn sequences_and_leases_of_a_new_claim_are_above_those_of_the_old_one() {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 10);
    world.send(&mail("m1", "agent:a"));
    let old = world.taken().lease();
    world.crash();
    world.attach("agent:a", 1, "a", 10);
    world.commit();
    let new = world.taken().lease();
    assert!(new.0 == old.0 && new.1 > old.1);
    assert!(accepted(world.send(&mail("m2", "agent:a"))).seq.unwrap() > old.0);
}
