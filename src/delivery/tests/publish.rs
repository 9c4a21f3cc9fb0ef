//! How messages enter: the commit, duplicates, bounds, QoS 0.

use super::world::{World, accepted, address, mail};
use crate::{
    delivery::{LaneBounds, Limits, Verdict},
    frame::{
        LastHop, Qos,
        record::{Op, Status},
    },
};

#[test]
fn g1_nothing_is_answered_or_handed_out_before_the_commit() {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 10);
    let first = world.publish(&mail("m1", "agent:a"));
    let again = world.publish(&mail("m1", "agent:a"));
    world.pump();
    world.begin_commit();
    let later = world.publish(&mail("m1", "agent:a"));
    world.pump();
    assert!(world.out.answers.is_empty() && world.out.hand_outs.is_empty());
    let seq = *world.shard.messages.iter().next().unwrap().0;
    assert_eq!(world.shard.receipt(seq), None, "a question learns of it no earlier");
    assert!(world.shard.receipts_of_id(mail_id("m1")).is_empty());
    assert!(world.complete());
    let acceptance = accepted(world.answer(first));
    assert_eq!((acceptance.status, acceptance.duplicate), (Some(Status::Sent), false));
    assert!(accepted(world.answer(again)).duplicate);
    assert_eq!(world.taken().id(), "m1");
    assert!(world.answered(later).is_none(), "its own commit is to come");
    world.commit();
    assert!(accepted(world.answer(later)).duplicate);
    assert!(world.hand_outs().is_empty());
}

fn mail_id(id: &str) -> crate::frame::record::IdHash {
    crate::frame::record::IdHash::new(id)
}

#[test]
fn g4_a_duplicate_gets_the_first_ones_receipt_while_it_waits_is_leased_and_in_its_window_after() {
    let mut world = World::new();
    let message = mail("m1", "agent:a");
    let first = accepted(world.send(&message));
    let queued = accepted(world.send(&message));
    assert_eq!(
        (queued.seq, queued.status, queued.duplicate),
        (first.seq, Some(Status::Queued), true)
    );
    world.attach("agent:a", 1, "a", 1);
    world.commit();
    let taken = world.taken();
    assert_eq!(accepted(world.send(&message)).status, Some(Status::Sent));
    world.ack(taken.lease(), "a");
    let settling = world.publish(&message);
    assert_eq!(
        accepted(world.answer(settling)).status,
        Some(Status::Sent),
        "its settle is not committed"
    );
    world.commit();
    world.wait_secs(599);
    let settled = accepted(world.send(&message));
    assert_eq!((settled.seq, settled.status), (first.seq, Some(Status::Delivered)));
    assert_eq!(world.out.counts.duplicates, 4);

    world.wait_secs(2);
    world.run(|shard, now, out, _| shard.evict_receipts(now, usize::MAX, out));
    let fresh = accepted(world.send(&message));
    assert!(!fresh.duplicate && fresh.seq > first.seq, "the window is over");
}

#[test]
fn one_message_at_two_addresses_of_a_shard_is_two_messages() {
    let mut world = World::new();
    let one = accepted(world.send(&mail("m1", "agent:a")));
    let other = accepted(world.send(&mail("m1", "agent:b")));
    let from_bob = accepted(world.send(&mail("m1", "agent:a").from("bob")));
    assert!(!other.duplicate && !from_bob.duplicate && one.seq != other.seq);
    let id = mail_id("m1");
    assert_eq!(world.shard.receipts_of_id(id).len(), 3);
    assert_eq!(world.shard.receipts_of_key(mail("m1", "").key(), id).len(), 2);
}

#[test]
fn a_full_queue_refuses_at_once_and_names_its_bound() {
    let mut world = World::with(Limits {
        inbox_messages_max: 2,
        inbox_bytes_max: 3000,
        ..Limits::default()
    });
    for id in ["m1", "m2"] {
        accepted(world.send(&mail(id, "agent:a")));
    }
    let refused = world.publish(&mail("m3", "agent:a"));
    let bound = "inbox_messages_max";
    assert_eq!(world.answer(refused), Verdict::QueueFull { bound });
    let duplicate = world.publish(&mail("m1", "agent:a"));
    assert!(
        accepted(world.answer(duplicate)).duplicate,
        "a full queue still knows what it has"
    );
    let large = world.publish(&mail("m1", "agent:b").body(3000));
    let bound = "inbox_bytes_max";
    assert_eq!(world.answer(large), Verdict::QueueFull { bound });
    assert_eq!((world.out.counts.refused_full, world.shard.held().queues), (2, 1));
    assert!(!world.shard.has_commit(), "a refusal writes nothing");
}

#[test]
fn a_settled_message_makes_room_before_its_settle_is_committed_but_keeps_its_place_in_the_table() {
    let mut world = World::with(Limits {
        inbox_messages_max: 1,
        ..Limits::default()
    });
    world.attach("agent:a", 1, "a", 10);
    world.send(&mail("m1", "agent:a"));
    let taken = world.taken();
    world.ack(taken.lease(), "a");
    accepted(world.send(&mail("m2", "agent:a")));
    assert_eq!(world.depth("agent:a"), 1);
}

#[test]
fn qos_0_is_dropped_where_nobody_is_and_handed_on_without_credit_where_someone_is() {
    let mut world = World::new();
    let message = mail("m1", "agent:a").qos(Qos::AtMostOnce);
    let nobody = world.publish(&message);
    let dropped = accepted(world.answer(nobody));
    assert_eq!((dropped.status, dropped.seq, dropped.attended), (None, None, false));
    let credit = world.attach("agent:a", 1, "a", 0);
    let someone = world.publish(&message);
    let handed = accepted(world.answer(someone));
    assert_eq!((handed.status, handed.seq), (Some(Status::Sent), None));
    assert_eq!(world.passed(), [(1, vec!["m1".to_owned()])]);
    assert_eq!(credit.taken(), (0, 0));
    assert_eq!((world.out.counts.dropped, world.shard.has_commit()), (1, false));
}

#[test]
fn g9_g10_qos_0_asks_the_gate_the_protocol_the_lane_and_the_clock() {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 1);
    let message = mail("m1", "agent:a").qos(Qos::AtMostOnce);
    world.denied.insert(super::world::agent("a"));
    world.publish(&message);
    world.denied.clear();
    world.publish(&message.clone().over(LastHop::Required("mqtt".into())));
    let expired = message.clone().ttl_secs(0);
    world.publish(&expired);
    assert!(world.passed().is_empty());
    assert_eq!((world.out.counts.dropped, world.out.counts.expired), (3, 1));

    world.publish(&message.clone().over(LastHop::Required(String::new())));
    assert_eq!(world.passed().len(), 1, "a demand for no protocol demands nothing");
    let narrow = crate::delivery::Credit::with_lane(
        1,
        1,
        LaneBounds {
            frames_max: 1,
            ..LaneBounds::default()
        },
    );
    narrow.enter_lane(1, 100);
    let mut consumer = world.consumer(2, "b", 1);
    consumer.credit = std::sync::Arc::new(narrow);
    world.attach_as("agent:b", consumer);
    world.publish(&mail("m2", "agent:b").qos(Qos::AtMostOnce));
    assert!(world.passed().is_empty(), "its lane is full");
}

#[test]
fn an_in_memory_queue_takes_messages_without_operations_and_asks_the_gate() {
    let mut world = World::new();
    let reply = mail("m1", "agent:a#mem1");
    let gone = world.publish(&reply);
    assert_eq!(world.answer(gone), Verdict::Unknown, "no session, no queue");
    world.attach("agent:a#mem1", 1, "a", 10);
    let tag = world.publish(&reply);
    assert_eq!(accepted(world.answer(tag)).status, Some(Status::Sent));
    let taken = world.taken();
    world.ack(taken.lease(), "a");
    assert!(!world.shard.has_commit() && world.store.enqueued.is_empty());
    assert_eq!(world.receipt(taken.seq()).status, Status::Delivered);

    world.denied.insert(super::world::agent("a"));
    world.publish(&mail("m2", "agent:a#mem1"));
    assert!(world.hand_outs().is_empty());
    assert_eq!(world.depth("agent:a#mem1"), 1);
}

#[test]
fn a_denied_inbox_is_not_opened_by_someone_elses_in_memory_message() {
    let mut world = World::new();
    world.denied.insert(super::world::agent("a"));
    world.send(&mail("m1", "agent:a"));
    world.attach("agent:b#mem1", 2, "b", 10);
    world.attach("agent:a", 1, "a", 10);
    world.publish(&mail("m2", "agent:b#mem1"));
    world.commit();
    assert_eq!(world.handed_ids(), ["m2"]);
}

#[test]
fn a_refusal_and_a_duplicate_leave_no_queue_behind() {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 10);
    world.send(&mail("m1", "agent:a"));
    let taken = world.taken();
    world.ack(taken.lease(), "a");
    world.commit();
    world.detach("agent:a", 1);
    world.pump();
    assert_eq!(world.shard.held().queues, 0);
    assert!(accepted(world.send(&mail("m1", "agent:a"))).duplicate);
    assert_eq!(world.shard.held().queues, 0);
}

#[test]
fn an_enqueue_carries_what_a_store_needs() {
    let mut world = World::new();
    let message = mail("m1", "agent:a").ttl_secs(9);
    world.publish(&message);
    let (ops, _) = world.shard.take_commit();
    let [Op::Enqueue(enqueue)] = &ops[..] else {
        panic!("{ops:?}")
    };
    assert_eq!((enqueue.queue.as_str(), enqueue.key), ("agent:a", message.key()));
    assert_eq!(enqueue.queue, address("agent:a"));
    assert!(enqueue.targets.is_empty());
}
