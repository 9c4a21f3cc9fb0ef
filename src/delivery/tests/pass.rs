//! Runs of QoS 0: whole to one session, in turns to several, no further than lanes have room.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;

use super::world::{World, accepted, address, mail};
use crate::{
    delivery::{Credit, LaneBounds, QueueKind, Route},
    frame::record::Status,
};

const INBOX: &str = "agent:a";

fn to_inbox() -> Route {
    Route::Envelope {
        hash: address(INBOX).hash64(),
        kind: QueueKind::Inbox,
        retention: Duration::ZERO,
    }
}

fn ids(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|at| format!("m{at:02}")).collect()
}

fn attach_with(world: &mut World, id: u64, lane: LaneBounds) -> Arc<Credit> {
    let credit = Arc::new(Credit::with_lane(1, 1, lane));
    let mut consumer = world.consumer(id, "a", 1);
    consumer.credit = credit.clone();
    world.attach_as(INBOX, consumer);
    credit
}

#[test]
fn a_run_goes_whole_to_the_only_session_and_is_answered_once() {
    let mut world = World::new();
    world.attach(INBOX, 7, "a", 0);
    let tag = world.tag();
    world.pass(world.run_of(&mail("", INBOX), 9), to_inbox(), Some(tag));
    let taken = accepted(world.answer(tag));
    assert_eq!((taken.status, taken.attended), (Some(Status::Sent), true));
    assert_eq!(world.passed(), [(7, ids(0..9))]);
    assert_eq!(world.out.counts.accepted[0], 9);
    assert_eq!(world.out.counts.handed_out[0], 9);
    assert!(!world.shard.has_commit());
}

#[test]
fn a_run_to_nobody_counts_every_message_as_dropped() {
    let mut world = World::new();
    world.pass(world.run_of(&mail("", INBOX), 5), to_inbox(), None);
    let expired = mail("", INBOX).ttl_secs(0);
    world.attach(INBOX, 1, "a", 0);
    world.pass(world.run_of(&expired, 3), to_inbox(), None);
    assert!(world.passed().is_empty());
    assert_eq!((world.out.counts.dropped, world.out.counts.expired), (8, 3));
}

#[test]
fn a_lane_takes_the_front_of_a_run_and_the_rest_is_dropped() {
    let mut world = World::new();
    let bounds = LaneBounds {
        frames_max: 6,
        ..LaneBounds::default()
    };
    let credit = attach_with(&mut world, 1, bounds);
    world.pass(world.run_of(&mail("", INBOX), 4), to_inbox(), None);
    world.pass(world.run_of(&mail("", INBOX), 4), to_inbox(), None);
    world.pass(world.run_of(&mail("", INBOX), 4), to_inbox(), None);
    assert_eq!(world.passed(), [(1, ids(0..4)), (1, ids(0..2))]);
    assert_eq!((credit.in_lane(), world.out.counts.dropped), (6, 6));
}

#[test]
fn several_sessions_take_turns_within_a_run() {
    let mut world = World::new();
    world.attach(INBOX, 1, "a", 9);
    world.attach(INBOX, 2, "a", 9);
    world.pass(world.run_of(&mail("", INBOX), 4), to_inbox(), None);
    let takers: Vec<_> = world.passed().into_iter().map(|(to, _)| to).collect();
    assert_eq!(takers, [1, 2, 1, 2]);
}

proptest! {
    /// However runs come and lanes empty: what a lane holds stays within its bounds, order holds, and all is counted.
    #[test]
    fn lanes_stay_within_their_bounds(
        runs in proptest::collection::vec((1usize..30, any::<bool>()), 1..20),
        frames_max in 1usize..40,
        bytes_max in 300usize..4_000,
    ) {
        let mut world = World::new();
        let bounds = LaneBounds { frames_max, bytes_max, ..LaneBounds::default() };
        let credit = attach_with(&mut world, 1, bounds);
        let (mut sent, mut got) = (0, 0);
        for (messages, leaves) in runs {
            world.pass(world.run_of(&mail("", INBOX), messages), to_inbox(), None);
            sent += messages;
            let in_lane: Vec<_> = world.out.passed_on.drain(..).collect();
            let frames: usize = in_lane.iter().map(|one| one.run.frames()).sum();
            let bytes: usize = in_lane.iter().map(|one| one.run.weight_bytes()).sum();
            prop_assert!(credit.in_lane() <= frames_max);
            prop_assert!(credit.lane_room().takes(frames_max - credit.in_lane(), 0));
            let mut read = Vec::new();
            in_lane.iter().for_each(|one| one.run.visit(|id, _| read.push(id.to_owned())));
            prop_assert_eq!(read, ids(0..frames), "the front, in order");
            got += frames;
            // What stays leaves less room for the next run.
            if leaves {
                credit.leave_lane(frames, bytes);
            }
        }
        prop_assert_eq!(world.out.counts.dropped as usize, sent - got);
    }
}
