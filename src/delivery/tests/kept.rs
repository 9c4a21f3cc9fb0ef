//! What stays: dead letters, history, receipts.

use std::time::Duration;

use super::world::{World, accepted, address, mail};
use crate::{
    delivery::{Limits, Nack, Verdict},
    frame::{
        Seq,
        record::{IdHash, Reason, Status},
    },
};

/// Makes a dead letter of a new message; returns its sequence.
fn dead_letter(world: &mut World, id: &str) -> Seq {
    world.send(&mail(id, "agent:a").ttl_secs(100));
    let taken = world.taken();
    world.nack(taken.lease(), "a", Nack::DeadLetter);
    world.commit();
    taken.seq()
}

fn attached() -> World {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 10);
    world
}

impl World {
    fn replay(&mut self, dead: Seq) -> u32 {
        let tag = self.tag();
        let frame = self.store.messages[&dead].1.clone();
        self.run(|shard, now, out, _| shard.handle_replay(dead, frame, Some(tag), now, out));
        tag
    }

    fn evict(&mut self, receipts_max: usize) {
        self.run(|shard, now, out, _| shard.evict_receipts(now, receipts_max, out));
    }
}

#[test]
fn a_replayed_dead_letter_is_a_new_message_with_every_attempt_and_a_fresh_time_to_live() {
    let mut world = attached();
    let dead = dead_letter(&mut world, "m1");
    world.wait_secs(1000);
    let letter = world.shard.find_dead_letter(&address("agent:a"), IdHash::new("m1"));
    assert_eq!(letter, Some(dead));
    let tag = world.replay(dead);
    let second = world.replay(dead);
    assert_eq!(world.answer(second), Verdict::Unknown, "it is on its way already");
    assert!(world.answered(tag).is_none() && world.hand_outs().is_empty());
    world.commit();
    let taken = world.taken();
    assert_eq!(world.answer(tag), Verdict::Replayed { seq: taken.seq() });
    assert!(taken.seq() > dead && taken.0.frame.stamp.attempt == 0);
    assert_eq!(taken.0.frame.stamp.expires_at, world.now + Duration::from_secs(100));
    assert_eq!(world.store.messages.len(), 1, "the letter is gone");
    world.ack(taken.lease(), "a");
    world.commit();
    let receipts = world.shard.receipts_of_id(IdHash::new("m1"));
    assert_eq!(
        receipts.iter().map(|r| (r.seq, r.status)).collect::<Vec<_>>(),
        [(taken.seq(), Status::Delivered)]
    );
}

#[test]
fn a_replay_that_never_was_or_finds_no_room_changes_nothing() {
    let mut world = World::with(Limits {
        inbox_messages_max: 1,
        ..Limits::default()
    });
    world.attach("agent:a", 1, "a", 1);
    let dead = dead_letter(&mut world, "m1");
    world.send(&mail("m2", "agent:a"));
    let tag = world.replay(dead);
    let bound = "inbox_messages_max";
    assert_eq!(world.answer(tag), Verdict::QueueFull { bound });
    assert_eq!(world.shard.dead_letters(&address("agent:a"), Seq::ZERO, 9).len(), 1);
    let frame = mail("m2", "agent:a").frame(world.now);
    let tag = world.tag();
    let waiting = world.taken().seq();
    world.run(|shard, now, out, _| shard.handle_replay(waiting, frame, Some(tag), now, out));
    assert_eq!(world.answer(tag), Verdict::Unknown, "it is no dead letter");
}

#[test]
fn g11_dead_letters_are_bounded_in_number_and_time_and_know_their_reason_longer_than_their_receipt() {
    let mut world = attached();
    for at in 0..5 {
        dead_letter(&mut world, &format!("m{at}"));
    }
    world.commit();
    assert_eq!(world.out.counts.dead_letters_evicted, 2);
    assert_eq!(world.store.messages.len(), 3);
    world.wait_secs(700);
    world.evict(usize::MAX);
    world.commit();
    assert_eq!(world.shard.receipts_held(), 0);
    let letters = world.shard.dead_letters(&address("agent:a"), Seq::ZERO, 10);
    assert!(
        letters
            .iter()
            .all(|letter| letter.reason == Reason::Refused && letter.settled_at == super::world::START)
    );
    assert_eq!(letters.len(), 3);
    let later = world.shard.dead_letters(&address("agent:a"), letters[0].seq, 1);
    assert_eq!(later, [letters[1]]);
    world.wait_secs(3600);
    world.commit();
    assert_eq!((world.store.messages.len(), world.shard.held().messages), (0, 0));
}

#[test]
fn g11_a_groups_history_is_bounded_in_number_and_time() {
    let mut world = World::new();
    let retention = Duration::from_secs(60);
    for at in 0..7 {
        world.fan_out(&mail(&format!("m{at}"), "group:g"), &["agent:x"], retention);
        world.commit();
        let relay = world.relays().remove(0);
        world.run(|shard, now, out, _| shard.handle_relay_done(relay.seq, now, out));
        world.commit();
    }
    let of = |world: &World| world.shard.history(&address("group:g"), Seq::ZERO, 100).len();
    assert_eq!((of(&world), world.store.messages.len()), (5, 5));
    world.fan_out(&mail("waiting", "group:g"), &["agent:x"], retention);
    world.commit();
    let all = world.shard.history(&address("group:g"), Seq::ZERO, 100);
    assert_eq!((all.len(), all.is_sorted_by_key(|listed| listed.seq)), (6, true));
    world.crash();
    assert_eq!(of(&world), 6);
    world.wait_secs(61);
    world.commit();
    assert_eq!(of(&world), 1);
}

#[test]
fn g4_receipts_leave_by_age_and_above_their_bound_by_count_which_is_counted_and_the_store_is_told() {
    let mut world = attached();
    for at in 0..6 {
        world.send(&mail(&format!("m{at}"), "agent:a"));
        let taken = world.taken();
        world.ack(taken.lease(), "a");
        world.commit();
        world.wait_secs(1);
    }
    world.evict(4);
    assert_eq!(
        (world.shard.receipts_held(), world.out.counts.receipts_evicted_early),
        (4, 2)
    );
    assert_eq!(
        world.shard.oldest_receipt(),
        Some(super::world::START + Duration::from_secs(2))
    );
    assert!(accepted(world.send(&mail("m2", "agent:a"))).duplicate);
    assert!(
        !accepted(world.send(&mail("m0", "agent:a"))).duplicate,
        "its window was cut"
    );
    world.evict(4);
    world.commit();
    assert_eq!(
        world.store.receipts.len(),
        6,
        "the floor is told together with other operations"
    );
    world.publish(&mail("next", "agent:a"));
    world.evict(4);
    world.commit();
    assert_eq!(world.store.receipts.len(), 4);

    let before = world.out.counts.receipts_evicted_early;
    world.wait_secs(598);
    world.evict(usize::MAX);
    assert_eq!(
        (world.shard.receipts_held(), world.out.counts.receipts_evicted_early),
        (1, before)
    );
    world.crash();
    world.evict(usize::MAX);
    assert_eq!(
        world.shard.receipts_held(),
        1,
        "what the store still had ages out as well"
    );
}

#[test]
fn g4_the_receipt_of_a_settle_under_way_is_not_evicted_whatever_the_bound() {
    let mut world = attached();
    world.send(&mail("m1", "agent:a"));
    let taken = world.taken();
    world.ack(taken.lease(), "a");
    world.begin_commit();
    world.evict(0);
    let tag = world.publish(&mail("m1", "agent:a"));
    assert!(accepted(world.answer(tag)).duplicate);
    world.commit();
    world.evict(0);
    assert_eq!(world.shard.receipts_held(), 0);
}
