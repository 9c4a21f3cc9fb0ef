//! The way out: acknowledgements, refusals, time-outs and dead letters.

use std::time::Duration;

use super::world::{World, accepted, address, agent, mail};
use crate::{
    delivery::{Lease, Nack, Verdict},
    frame::record::{IdHash, Reason, Status},
};

fn attached() -> World {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 10);
    world
}

#[test]
fn g7_an_acknowledgement_is_answered_once_its_settle_is_committed_and_the_message_never_comes_again() {
    let mut world = attached();
    world.send(&mail("m1", "agent:a"));
    let taken = world.taken();
    let (first, second) = (world.ack(taken.lease(), "a"), world.ack(taken.lease(), "a"));
    assert!(world.answered(first).is_none() && world.answered(second).is_none());
    assert_eq!(world.receipt(taken.seq()).status, Status::Sent);
    world.commit();
    assert_eq!(
        (world.answer(first), world.answer(second)),
        (Verdict::Settled, Verdict::Settled)
    );
    assert_eq!(world.receipt(taken.seq()).status, Status::Delivered);
    let late = world.ack(taken.lease(), "a");
    assert_eq!(world.answer(late), Verdict::Stale);
    world.detach("agent:a", 1);
    world.crash();
    world.attach("agent:a", 2, "a", 10);
    world.commit();
    assert!(world.hand_outs().is_empty());
}

#[test]
fn what_nobody_waits_for_does_not_hurry_a_commit() {
    let mut world = attached();
    let mut leases = Vec::new();
    for id in ["m1", "m2", "m3"] {
        world.send(&mail(id, "agent:a"));
        leases.push(world.taken().lease());
    }
    world.commit();
    assert!(!world.shard.is_hurried());
    let by = agent("a");
    for (seq, lease) in [leases[0], leases[1]] {
        world.run(|shard, now, out, _| shard.handle_ack(seq, lease, &by, None, now, out));
        assert!(world.shard.has_commit() && !world.shard.is_hurried());
    }
    world.ack(leases[2], "a");
    assert!(world.shard.is_hurried());
    world.commit();
    assert!(!world.shard.is_hurried());
    world.publish(&mail("m4", "agent:a"));
    assert!(world.shard.is_hurried());
}

#[test]
fn an_acknowledgement_by_another_agent_or_under_another_lease_is_stale_and_changes_nothing() {
    let mut world = attached();
    world.send(&mail("m1", "agent:a"));
    let taken = world.taken();
    let (seq, lease) = taken.lease();
    let stranger = world.ack(taken.lease(), "mallory");
    let guess = world.ack((seq, Lease(lease.0 + 1)), "a");
    assert_eq!(
        (world.answer(stranger), world.answer(guess)),
        (Verdict::Stale, Verdict::Stale)
    );
    let refusal = world.nack(taken.lease(), "mallory", Nack::DeadLetter);
    assert_eq!(world.answer(refusal), Verdict::Stale);
    let own = world.ack(taken.lease(), "a");
    let stranger = world.ack(taken.lease(), "mallory");
    assert_eq!(world.answer(stranger), Verdict::Stale, "not even while it is settled");
    world.commit();
    assert_eq!(world.answer(own), Verdict::Settled);
}

#[test]
fn a_refused_message_comes_again_after_its_back_off_and_counts_its_attempts() {
    let mut world = attached();
    world.send(&mail("m1", "agent:a"));
    for (attempt, wait) in [(0, 1), (1, 2)] {
        let taken = world.taken();
        assert_eq!(
            (taken.0.frame.stamp.attempt, taken.is_redelivered()),
            (attempt, attempt > 0)
        );
        let tag = world.nack(taken.lease(), "a", Nack::Retry(None));
        assert_eq!(world.answer(tag), Verdict::Settled);
        world.commit();
        world.wait(Duration::from_millis(wait * 1000 - 1));
        assert!(world.hand_outs().is_empty());
        world.wait(Duration::from_millis(1));
        world.commit();
    }
    let taken = world.taken();
    world.nack(taken.lease(), "a", Nack::Retry(Some(Duration::from_secs(77))));
    world.commit();
    world.wait_secs(76);
    assert!(world.hand_outs().is_empty());
    world.wait_secs(1);
    world.commit();
    assert_eq!(world.taken().0.frame.stamp.attempt, 3);
    assert_eq!(world.out.counts.redelivered, 3);
}

#[test]
fn a_released_message_comes_again_at_once_and_the_attempt_does_not_count() {
    let mut world = attached();
    world.send(&mail("m1", "agent:a"));
    for _ in 0..20 {
        let taken = world.taken();
        assert_eq!(taken.0.frame.stamp.attempt, 0);
        world.nack(taken.lease(), "a", Nack::Release);
        world.commit();
    }
    assert_eq!(world.hand_outs().len(), 1);
}

#[test]
fn a_message_becomes_a_dead_letter_when_it_is_refused_for_good_or_its_attempts_are_used_up() {
    let mut world = attached();
    world.send(&mail("refused", "agent:a"));
    let taken = world.taken();
    let tag = world.nack(taken.lease(), "a", Nack::DeadLetter);
    assert!(world.answered(tag).is_none(), "answered once it is committed");
    world.commit();
    assert_eq!(world.answer(tag), Verdict::Settled);
    world.send(&mail("failing", "agent:a"));
    for _ in 0..world.limits.max_deliver {
        let taken = world.taken();
        world.nack(taken.lease(), "a", Nack::Retry(Some(Duration::ZERO)));
        world.commit();
    }
    assert!(world.hand_outs().is_empty());
    let letters = world
        .shard
        .dead_letters(&address("agent:a"), crate::frame::Seq::ZERO, 10);
    let reasons: Vec<_> = letters.iter().map(|letter| (letter.reason, letter.attempts)).collect();
    assert_eq!(reasons, [(Reason::Refused, 1), (Reason::MaxDeliver, 4)]);
    let failing = world
        .shard
        .find_dead_letter(&address("agent:a"), IdHash::new("failing"));
    assert_eq!(failing, Some(letters[1].seq));
    assert_eq!((world.out.counts.dead_lettered, world.depth("agent:a")), (2, 0));
    world.crash();
    assert_eq!(
        world
            .shard
            .dead_letters(&address("agent:a"), crate::frame::Seq::ZERO, 10),
        letters
    );
    let past_every_one = crate::frame::Seq::from_raw(u64::MAX);
    assert!(
        world
            .shard
            .dead_letters(&address("agent:a"), past_every_one, 10)
            .is_empty()
    );
}

#[test]
fn the_last_message_of_an_idle_inbox_becomes_a_dead_letter_of_that_inbox() {
    // A queue without messages or consumers was forgotten while the settle was under way, and its place given to another.
    let mut world = World::with(crate::delivery::Limits {
        max_deliver: 1,
        ..Default::default()
    });
    world.attach("agent:a", 1, "a", 10);
    world.send(&mail("m1", "agent:a"));
    world.taken();
    world.detach("agent:a", 1);
    world.pump();
    world.send(&mail("m2", "agent:b"));
    world.commit();
    let letters = |world: &World, of| {
        world
            .shard
            .dead_letters(&address(of), crate::frame::Seq::ZERO, 10)
            .len()
    };
    assert_eq!((letters(&world, "agent:a"), letters(&world, "agent:b")), (1, 0));
}

#[test]
fn a_visibility_timeout_ends_the_lease_and_the_old_delivery_id_is_stale() {
    let mut world = World::new();
    let mut consumer = world.consumer(1, "a", 1);
    consumer.visibility_timeout = Some(Duration::from_secs(30));
    let credit = consumer.credit.clone();
    world.attach_as("agent:a", consumer);
    world.send(&mail("m1", "agent:a"));
    let first = world.taken();
    world.wait_secs(29);
    assert!(world.hand_outs().is_empty());
    world.wait_secs(1);
    world.commit();
    let second = world.taken();
    assert!(second.is_redelivered() && second.lease().1 > first.lease().1);
    let stale = world.ack(first.lease(), "a");
    assert_eq!(world.answer(stale), Verdict::Stale);
    world.wait_secs(29);
    assert_eq!(
        (world.hand_outs().len(), credit.taken().0),
        (0, 1),
        "the first lease's timer is no longer its own"
    );
    let current = world.ack(second.lease(), "a");
    world.commit();
    assert_eq!(world.answer(current), Verdict::Settled);
}

#[test]
fn refusals_of_a_message_that_is_being_settled_are_stale() {
    let mut world = attached();
    world.send(&mail("m1", "agent:a"));
    let taken = world.taken();
    world.ack(taken.lease(), "a");
    for nack in [Nack::Release, Nack::Retry(None), Nack::DeadLetter] {
        let tag = world.nack(taken.lease(), "a", nack);
        assert_eq!(world.answer(tag), Verdict::Stale);
    }
    world.commit();
    assert_eq!(world.receipt(taken.seq()).status, Status::Delivered);
    assert!(world.hand_outs().is_empty());
}

#[test]
fn a_receipt_tells_the_whole_story() {
    let mut world = attached();
    let start = world.now;
    let seq = accepted(world.send(&mail("m1", "agent:a"))).seq.unwrap();
    let taken = world.taken();
    world.wait_secs(2);
    world.ack(taken.lease(), "a");
    world.commit();
    let receipt = world.receipt(seq);
    assert_eq!(
        (receipt.accepted_at, receipt.sent_at, receipt.settled_at),
        (start, start, world.now)
    );
    assert_eq!(
        (receipt.attempts, receipt.recipients, receipt.reason),
        (1, 1, Reason::None)
    );
}
