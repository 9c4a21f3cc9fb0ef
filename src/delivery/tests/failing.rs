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
fn g5_copies_that_failed_are_applied_again_before_the_next_ones_of_their_source() {
    // The cursor stood above them, so that they were lost, and the source waited for ever.
    let mut world = World::new();
    world.attach("agent:x", 1, "x", 10);
    world.copies(&mail("m1", "group:g"), SOURCE, 1, &["agent:x"]);
    world.begin_commit();
    world.fail();
    world.copies(&mail("m2", "group:g"), SOURCE, 2, &["agent:x"]);
    world.copies(&mail("other", "group:h"), ShardId::of_hash(6), 1, &["agent:x"]);
    world.commit();
    assert_eq!(world.handed_ids(), ["other"], "other sources go on");
    assert!(!world.store.cursors.contains_key(&SOURCE));
    world.wait_secs(1);
    world.commit();
    assert_eq!(world.handed_ids(), ["m1", "m2"]);
    assert_eq!(world.out.relayed.len(), 3);
    assert_eq!(world.store.cursors[&SOURCE], Seq::from_raw(2));
}

#[test]
fn g13_a_cursor_never_stands_above_copies_whose_commit_may_yet_fail() {
    // The second commit's cursor vouched for the first one's copies while that was under way; it failed (the disk was full), the second
    // did not, and a crash before the copies were applied again lost them: the source's repeat was dropped.
    let mut world = World::new();
    world.copies(&mail("m1", "group:g"), SOURCE, 1, &["agent:x"]);
    world.begin_commit();
    world.copies(&mail("m2", "group:g"), SOURCE, 2, &["agent:x"]);
    world.publish(&mail("direct", "agent:y"));
    world.begin_commit();
    world.fail();
    world.complete();
    assert_eq!(world.store.cursors.get(&SOURCE), None);
    world.crash();
    world.copies(&mail("m1", "group:g"), SOURCE, 1, &["agent:x"]);
    world.copies(&mail("m2", "group:g"), SOURCE, 2, &["agent:x"]);
    world.commit();
    assert_eq!((world.depth("agent:x"), world.depth("agent:y")), (2, 1));
}

#[test]
fn a_fan_out_whose_settle_failed_is_settled_again_without_being_relayed_again() {
    let mut world = World::new();
    world.fan_out(&mail("m1", "group:g"), &["agent:x"], Duration::ZERO);
    world.commit();
    let relay = world.relays().remove(0);
    world.run(|shard, now, out, _| shard.handle_relay_done(relay.seq, now, out));
    world.begin_commit();
    world.fail();
    world.wait_secs(1);
    world.commit();
    assert!(world.relays().is_empty());
    assert_eq!(world.receipt(relay.seq).status, Status::Delivered);
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

#[test]
fn the_receipt_of_a_rejected_copy_whose_commit_failed_is_written_again() {
    let mut world = World::new();
    let message = mail("m1", "group:g");
    world.copies(&message, SOURCE, 1, &["agent:gone#tok1", "agent:x"]);
    world.begin_commit();
    world.fail();
    world.wait_secs(1);
    world.commit();
    assert_eq!(world.out.relayed, [(SOURCE, Seq::from_raw(1))]);
    world.crash();
    let mut ends: Vec<_> = world
        .shard
        .receipts_of_key(message.key(), IdHash::new("m1"))
        .iter()
        .map(|receipt| receipt.status)
        .collect();
    ends.sort_by_key(|status| *status as u8);
    assert_eq!(ends, [Status::Queued, Status::Rejected]);
}
