//! Commits that fail: nothing is said to be done that is not, and the shard goes on where the store does.

use std::time::Duration;

use super::world::{World, accepted, address, mail};
use crate::{
    delivery::{Nack, Verdict},
    frame::{
        Seq, ShardId,
        record::{IdHash, Status},
    },
};

const SOURCE: ShardId = ShardId::of_hash(5);

fn attached() -> World {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 10);
    world
}

#[test]
fn g2_an_enqueue_that_failed_is_undone_and_every_sender_of_it_is_told() {
    let mut world = attached();
    let first = world.publish(&mail("m1", "agent:a"));
    let same_commit = world.publish(&mail("m1", "agent:a"));
    world.begin_commit();
    let next_commit = world.publish(&mail("m1", "agent:a"));
    world.begin_commit();
    world.fail();
    assert_eq!(
        (world.answer(first), world.answer(same_commit)),
        (Verdict::Failed, Verdict::Failed)
    );
    assert_eq!((world.depth("agent:a"), world.shard.held().messages), (0, 0));
    world.complete();
    assert_eq!(
        world.answer(next_commit),
        Verdict::Failed,
        "what it is a duplicate of does not exist"
    );
    let retry = accepted(world.send(&mail("m1", "agent:a")));
    assert!(!retry.duplicate);
    assert_eq!(world.handed_ids(), ["m1"]);
}

#[test]
fn g7_a_settle_that_failed_leaves_the_message_in_doubt_until_it_is_settled_again() {
    let mut world = attached();
    world.send(&mail("m1", "agent:a"));
    let taken = world.taken();
    let first = world.ack(taken.lease(), "a");
    world.begin_commit();
    let second = world.ack(taken.lease(), "a");
    world.begin_commit();
    world.fail();
    assert_eq!(world.answer(first), Verdict::Failed);
    world.complete();
    assert_eq!(
        world.answer(second),
        Verdict::Failed,
        "the settle that it followed is not committed"
    );
    assert_eq!(
        (world.receipt(taken.seq()).status, world.depth("agent:a")),
        (Status::Sent, 1)
    );
    world.commit();
    assert!(world.hand_outs().is_empty(), "the store may have the settle");
    let stranger = world.ack(taken.lease(), "mallory");
    assert_eq!(world.answer(stranger), Verdict::Stale);
    let again = world.ack(taken.lease(), "a");
    world.commit();
    assert_eq!(
        (world.answer(again), world.receipt(taken.seq()).status),
        (Verdict::Settled, Status::Delivered)
    );
}

#[test]
fn a_settle_that_failed_is_tried_again_by_itself() {
    let mut world = attached();
    world.send(&mail("m1", "agent:a"));
    let taken = world.taken();
    world.nack(taken.lease(), "a", Nack::DeadLetter);
    for _ in 0..3 {
        world.begin_commit();
        world.fail();
        world.wait_secs(1);
    }
    world.commit();
    assert_eq!(world.shard.dead_letters(&address("agent:a"), Seq::ZERO, 9).len(), 1);
    assert_eq!((world.out.counts.dead_lettered, world.depth("agent:a")), (1, 0));
}

#[test]
fn an_expiry_that_failed_is_tried_again_and_the_message_is_not_handed_out_meanwhile() {
    let mut world = World::new();
    let seq = accepted(world.send(&mail("m1", "agent:a").ttl_secs(1))).seq.unwrap();
    world.wait_secs(1);
    world.begin_commit();
    world.fail();
    world.attach("agent:a", 1, "a", 10);
    world.commit();
    assert!(world.hand_outs().is_empty());
    world.wait_secs(1);
    world.commit();
    assert_eq!(
        (world.receipt(seq).status, world.out.counts.expired),
        (Status::Expired, 1)
    );
}

#[test]
fn a_queue_removed_under_a_failing_store_ends_clean() {
    let mut world = World::new();
    let tag = world.publish(&mail("m1", "agent:a"));
    world.begin_commit();
    let of = address("agent:a");
    world.run(|shard, now, out, _| shard.handle_remove_queue(&of, now, out));
    world.begin_commit();
    world.fail();
    assert_eq!(world.answer(tag), Verdict::Failed);
    world.complete();
    assert_eq!((world.shard.held().messages, world.shard.held().queues), (0, 0));
}

#[test]
fn g13_copies_that_failed_are_applied_again_and_confirmed_only_then() {
    // The cursor stood above them, so that they were lost, and the source waited for ever.
    let mut world = World::new();
    world.copies(&mail("m1", "group:g"), SOURCE, Some(1), &["agent:x"]);
    world.begin_commit();
    world.fail();
    world.copies(&mail("m2", "group:g"), SOURCE, Some(2), &["agent:x"]);
    world.commit();
    assert_eq!(world.out.relayed, [(SOURCE, Seq::from_raw(2))]);
    let cursor = world.store.cursors.get(&SOURCE).copied().unwrap_or_default();
    assert!(
        cursor < Seq::from_raw(1),
        "a crash now must not drop the first as a repeat"
    );
    world.wait_secs(1);
    world.commit();
    assert_eq!(world.out.relayed.last(), Some(&(SOURCE, Seq::from_raw(1))));
    assert_eq!(
        (world.depth("agent:x"), world.store.cursors[&SOURCE]),
        (2, Seq::from_raw(2))
    );
}

#[test]
fn g13_a_crash_before_failed_copies_were_applied_again_does_not_lose_them() {
    let mut world = World::new();
    world.copies(&mail("m1", "group:g"), SOURCE, Some(1), &["agent:x"]);
    world.begin_commit();
    world.fail();
    world.copies(&mail("m2", "group:g"), SOURCE, Some(2), &["agent:x"]);
    world.commit();
    world.crash();
    // The source's shard had no confirmation of the first, and relays it again.
    world.copies(&mail("m1", "group:g"), SOURCE, Some(1), &["agent:x"]);
    world.commit();
    assert_eq!(world.depth("agent:x"), 2);
}

#[test]
fn a_fan_out_whose_settle_failed_is_settled_again_without_being_relayed_again() {
    let mut world = World::new();
    world.fan_out(&mail("m1", "group:g"), &["agent:x"], Duration::ZERO);
    world.commit();
    let relay = world.relays().remove(0);
    world.run(|shard, now, out, _| shard.handle_relay_done(relay.seq.unwrap(), now, out));
    world.begin_commit();
    world.fail();
    world.wait_secs(1);
    world.commit();
    assert!(world.relays().is_empty());
    assert_eq!(world.receipt(relay.seq.unwrap()).status, Status::Delivered);
}

#[test]
fn a_replay_that_failed_leaves_the_dead_letter_and_its_receipt() {
    let mut world = attached();
    world.send(&mail("m1", "agent:a"));
    let taken = world.taken();
    world.nack(taken.lease(), "a", Nack::DeadLetter);
    world.commit();
    let frame = world.store.messages[&taken.seq()].1.clone();
    let tag = world.tag();
    world.run(|shard, now, out, _| shard.handle_replay(taken.seq(), frame, Some(tag), now, out));
    world.begin_commit();
    world.fail();
    assert_eq!(world.answer(tag), Verdict::Failed);
    let letter = world.shard.find_dead_letter(&address("agent:a"), IdHash::new("m1"));
    assert_eq!(letter, Some(taken.seq()));
    let duplicate = accepted(world.send(&mail("m1", "agent:a")));
    assert_eq!(
        (duplicate.duplicate, duplicate.status),
        (true, Some(Status::DeadLettered))
    );
}
