//! Fan-out: the outbox at the source, the cursor at the target.

use std::time::Duration;

use super::world::{World, accepted, address, agent, mail};
use crate::{
    delivery::{Limits, Relay, copies::COPIES_BYTES_MAX, relay::RELAYS_MAX},
    frame::{
        Qos, Seq, ShardId,
        record::{Reason, Status},
    },
};

const SOURCE: ShardId = ShardId::of_hash(5);
const OTHER: ShardId = ShardId::of_hash(6);

impl World {
    fn relay_done(&mut self, relay: &Relay) {
        let seq = relay.seq;
        self.run(|shard, now, out, _| shard.handle_relay_done(seq, now, out));
    }
}

#[test]
fn a_fan_out_is_answered_once_it_is_committed_and_relayed_once_to_each_shard() {
    let mut world = World::new();
    let targets = ["agent:x", "agent:y", "agent:z#tok1", "agent:x"];
    let tag = world.fan_out(&mail("m1", "group:g"), &targets[..3], Duration::ZERO);
    world.pump();
    assert!(world.out.relays.is_empty());
    world.commit();
    let acceptance = accepted(world.answer(tag));
    assert_eq!((acceptance.recipients, acceptance.status), (3, Some(Status::Queued)));
    let relays = world.relays();
    let mut reached: Vec<_> = relays
        .iter()
        .flat_map(|relay| &relay.targets)
        .map(|t| t.as_str())
        .collect();
    reached.sort_unstable();
    assert_eq!(reached, targets[..3]);
    assert!(
        relays
            .iter()
            .all(|r| r.targets.iter().all(|target| target.home_shard() == r.to))
    );
    let seq = acceptance.seq.unwrap();
    for relay in &relays {
        assert_eq!(world.receipt(seq).status, Status::Queued);
        world.relay_done(relay);
    }
    world.commit();
    assert_eq!(
        (world.receipt(seq).status, world.receipt(seq).recipients),
        (Status::Delivered, 3)
    );
    assert_eq!((world.shard.held().messages, world.shard.held().queues), (0, 0));
}

#[test]
fn a_fan_out_to_nobody_is_rejected_in_its_own_commit() {
    let mut world = World::new();
    let tag = world.fan_out(&mail("m1", "group:g"), &[], Duration::ZERO);
    let again = world.fan_out(&mail("m1", "group:g"), &[], Duration::ZERO);
    assert!(
        world.out.answers.is_empty(),
        "not even a duplicate is answered before the commit"
    );
    world.begin_commit();
    world.complete();
    let acceptance = accepted(world.answer(tag));
    assert_eq!((acceptance.status, acceptance.recipients), (Some(Status::Rejected), 0));
    assert!(accepted(world.answer(again)).duplicate);
    assert_eq!(world.receipt(acceptance.seq.unwrap()).reason, Reason::NobodyThere);
    world.crash();
    assert_eq!(world.shard.held().messages, 0, "a restart finds nothing that waits");
    assert_eq!(world.receipt(acceptance.seq.unwrap()).reason, Reason::NobodyThere);
}

#[test]
fn g11_the_outbox_relays_in_order_and_a_bounded_number_at_once() {
    let mut world = World::with(Limits {
        inbox_messages_max: 1000,
        ..Limits::default()
    });
    for at in 0..RELAYS_MAX + 10 {
        world.fan_out(&mail(&format!("m{at}"), "group:g"), &["agent:x"], Duration::ZERO);
    }
    world.commit();
    let first = world.relays();
    assert_eq!(first.len(), RELAYS_MAX);
    assert!(first.is_sorted_by_key(|relay| relay.seq));
    for relay in &first[..4] {
        world.relay_done(relay);
    }
    world.pump();
    let next = world.relays();
    assert_eq!(next.len(), 4);
    assert!(next[0].seq > first[RELAYS_MAX - 1].seq);
    world.relay_done(&first[0]);
    world.pump();
    assert!(world.relays().is_empty(), "a repeated word of done frees nothing");
}

#[test]
fn g9_a_fan_out_that_expires_in_the_outbox_is_not_relayed() {
    let mut world = World::with(Limits {
        inbox_messages_max: 1000,
        ..Limits::default()
    });
    for at in 0..=RELAYS_MAX {
        world.fan_out(
            &mail(&format!("m{at}"), "group:g").ttl_secs(5),
            &["agent:x"],
            Duration::ZERO,
        );
    }
    world.commit();
    let under_way = world.relays();
    world.wait_secs(5);
    world.relay_done(&under_way[0]);
    world.commit();
    assert!(world.relays().is_empty());
    assert_eq!(world.out.counts.expired, 1);
}

#[test]
fn a_target_commits_its_copies_confirms_them_after_and_drops_repeats() {
    let mut world = World::new();
    world.attach("agent:x", 1, "x", 10);
    let message = mail("m1", "group:g");
    world.copies(&message, SOURCE, 7, &["agent:x", "agent:y"]);
    world.pump();
    assert!(world.out.relayed.is_empty() && world.out.hand_outs.is_empty());
    world.copies(&message, SOURCE, 7, &["agent:x", "agent:y"]);
    world.begin_commit();
    world.complete();
    let seven = Seq::from_raw(7);
    assert_eq!(
        std::mem::take(&mut world.out.relayed),
        [(SOURCE, seven)],
        "one confirmation answers what was repeated before it"
    );
    assert_eq!((world.handed_ids(), world.depth("agent:y")), (vec!["m1".to_owned()], 1));
    assert_eq!(world.store.cursors[&SOURCE], seven);

    world.crash();
    world.copies(&message, SOURCE, 7, &["agent:x", "agent:y"]);
    world.copies(&message, SOURCE, 6, &["agent:x"]);
    world.commit();
    assert_eq!(world.out.relayed.len(), 2, "a repeat is confirmed again");
    assert_eq!((world.depth("agent:x"), world.depth("agent:y")), (1, 1));
    world.copies(&mail("m2", "group:g"), OTHER, 7, &["agent:x"]);
    world.commit();
    assert_eq!(world.depth("agent:x"), 2, "each source has a cursor of its own");
}

#[test]
fn a_copy_that_finds_no_room_or_no_session_leaves_a_receipt_that_says_so() {
    let mut world = World::with(Limits {
        inbox_messages_max: 1,
        ..Limits::default()
    });
    world.send(&mail("first", "agent:x"));
    let message = mail("m1", "group:g");
    world.copies(&message, SOURCE, 1, &["agent:x", "agent:gone#tok1", "agent:y"]);
    world.commit();
    let mut found: Vec<_> = world
        .shard
        .receipts_of_key(message.key(), crate::frame::record::IdHash::new("m1"))
        .iter()
        .map(|receipt| (receipt.status, receipt.reason))
        .collect();
    found.sort_by_key(|(_, reason)| *reason as u8);
    let rejected = |reason| (Status::Rejected, reason);
    assert_eq!(
        found,
        [
            (Status::Queued, Reason::None),
            rejected(Reason::QueueFull),
            rejected(Reason::Removed)
        ]
    );
    assert_eq!(world.out.relayed, [(SOURCE, Seq::from_raw(1))]);
    assert_eq!(world.store.receipts.len(), 2);
    // The same message by another way, such as a second group: the rejections stand.
    world.copies(&message, OTHER, 1, &["agent:x", "agent:gone#tok1"]);
    world.commit();
    assert_eq!(world.store.receipts.len(), 2);
}

#[test]
fn a_copy_that_its_session_had_already_is_not_rejected_when_the_session_is_gone() {
    let mut world = World::new();
    world.attach("agent:a#mem1", 1, "a", 10);
    let message = mail("m1", "topic:t");
    world.copies(&message, SOURCE, 1, &["agent:a#mem1"]);
    let taken = world.taken();
    world.ack(taken.lease(), "a");
    world.detach("agent:a#mem1", 1);
    world.pump();
    world.copies(&message, OTHER, 1, &["agent:a#mem1"]);
    world.commit();
    assert_eq!(world.receipt(taken.seq()).status, Status::Delivered);
    assert_eq!(world.out.counts.rejected, 0);
}

#[test]
fn qos_0_copies_go_to_who_is_there_and_leave_nothing() {
    let mut world = World::new();
    let message = mail("m1", "topic:t").qos(Qos::AtMostOnce);
    let tag = world.fan_out(&message, &["agent:a#mem1", "agent:b"], Duration::ZERO);
    assert_eq!(accepted(world.answer(tag)).status, Some(Status::Sent));
    let targets: Vec<_> = world
        .out
        .passed_relays
        .drain(..)
        .flat_map(|relay| relay.targets.to_vec())
        .collect();
    assert_eq!(targets.len(), 2);
    world.attach("agent:a#mem1", 1, "a", 0);
    world.passed_copies(&message, &["agent:a#mem1", "agent:b"]);
    assert_eq!(world.passed(), [(1, vec!["m1".to_owned()])]);
    world.denied.insert(agent("a"));
    world.passed_copies(&message, &["agent:a#mem1"]);
    assert!(world.passed().is_empty());
    assert!(!world.shard.has_commit());
    let nobody = world.fan_out(&message, &[], Duration::ZERO);
    assert_eq!(accepted(world.answer(nobody)).status, None);
    assert_eq!(world.out.counts.dropped, 3);
}

#[test]
fn fan_outs_under_way_go_out_again_after_a_crash_in_their_order() {
    let mut world = World::new();
    for id in ["m1", "m2", "m3"] {
        world.fan_out(&mail(id, "group:g"), &["agent:x", "agent:y"], Duration::ZERO);
    }
    world.commit();
    let before = world.relays();
    let of_first: Vec<&Relay> = before.iter().filter(|relay| relay.seq == before[0].seq).collect();
    of_first.into_iter().for_each(|relay| world.relay_done(relay));
    world.commit();
    world.crash();
    world.commit();
    let again = world.relays();
    let ids: Vec<_> = again.iter().map(|relay| relay.frame.envelope.id().to_owned()).collect();
    assert_eq!(ids, ["m2", "m2", "m3", "m3"]);
    again.iter().for_each(|relay| world.relay_done(relay));
    world.commit();
    assert_eq!((world.shard.held().messages, world.depth("group:g")), (0, 0));
    assert_eq!(
        world
            .shard
            .find_dead_letter(&address("group:g"), crate::frame::record::IdHash::new("m1")),
        None
    );
}

#[test]
fn g11_copies_beyond_the_bytes_of_one_commit_wait_for_the_next_and_the_cursor_with_them() {
    let mut world = World::with(Limits {
        inbox_bytes_max: 1 << 30,
        ..Limits::default()
    });
    let large = mail("m1", "group:g").body(COPIES_BYTES_MAX / 2);
    world.copies(&large, SOURCE, 1, &["agent:x", "agent:y", "agent:z"]);
    world.copies(&mail("m2", "group:g"), SOURCE, 2, &["agent:x"]);
    world.copies(&mail("m3", "group:g"), OTHER, 1, &["agent:w"]);
    world.begin_commit();
    world.complete();
    assert_eq!(world.store.enqueued.len(), 2, "the last copy passes the bound");
    assert!(world.store.cursors.is_empty() && world.out.relayed.is_empty());
    world.begin_commit();
    world.fail();
    world.crash();
    assert_eq!((world.depth("agent:x"), world.depth("agent:z")), (1, 0));
    world.copies(&large, SOURCE, 1, &["agent:x", "agent:y", "agent:z"]);
    world.copies(&mail("m2", "group:g"), SOURCE, 2, &["agent:x"]);
    world.copies(&mail("m3", "group:g"), OTHER, 1, &["agent:w"]);
    world.commit();
    let depths = ["agent:x", "agent:y", "agent:z", "agent:w"].map(|to| world.depth(to));
    assert_eq!(depths, [2, 1, 1, 1]);
    assert_eq!(
        (world.store.cursors[&SOURCE], world.out.relayed.len()),
        (Seq::from_raw(2), 3)
    );
}

#[test]
fn history_of_a_fan_out_that_a_restart_interrupted_is_kept() {
    let mut world = World::new();
    world.retention = Duration::from_secs(60);
    world.fan_out(&mail("m1", "group:g"), &["agent:x"], Duration::from_secs(60));
    world.commit();
    world.crash();
    world.commit();
    let relay = world.relays().remove(0);
    world.relay_done(&relay);
    world.commit();
    let history = world.shard.history(&address("group:g"), Seq::ZERO, 10);
    assert_eq!(history.iter().map(|kept| kept.seq).collect::<Vec<_>>(), [relay.seq]);
}
