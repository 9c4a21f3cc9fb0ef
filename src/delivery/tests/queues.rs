//! Queues of sessions, and queues that come and go.

use std::time::Duration;

use super::world::{World, accepted, address, kind_of, mail};
use crate::{
    delivery::{Nack, QueueKind, Verdict},
    frame::record::{Reason, Status},
};

impl World {
    fn remove(&mut self, of: &str) {
        let of = address(of);
        self.run(|shard, now, out, _| shard.handle_remove_queue(&of, now, out));
    }

    fn open_durable(&mut self, of: &str) {
        let of = address(of);
        self.run(|shard, _, _, _| shard.handle_open_durable(&of));
    }
}

#[test]
fn an_in_memory_queue_ends_with_its_last_session_and_what_it_held_is_rejected() {
    let mut world = World::new();
    let credit = world.attach("agent:a#mem1", 1, "a", 1);
    let held = world.publish(&mail("m1", "agent:a#mem1"));
    let waiting = world.publish(&mail("m2", "agent:a#mem1"));
    let seqs = [held, waiting].map(|tag| accepted(world.answer(tag)).seq.unwrap());
    world.detach("agent:a#mem1", 1);
    world.pump();
    for seq in seqs {
        let receipt = world.receipt(seq);
        assert_eq!((receipt.status, receipt.reason), (Status::Rejected, Reason::Removed));
    }
    assert_eq!(
        (world.shard.held().queues, world.shard.held().messages, credit.taken()),
        (0, 0, (0, 0))
    );
    let late = world.publish(&mail("m3", "agent:a#mem1"));
    assert_eq!(world.answer(late), Verdict::Unknown);
    assert!(!world.shard.has_commit());
}

#[test]
fn a_delayed_message_goes_with_its_in_memory_queue() {
    let mut world = World::new();
    world.attach("agent:a#mem1", 1, "a", 1);
    world.publish(&mail("m1", "agent:a#mem1"));
    let taken = world.taken();
    world.nack(taken.lease(), "a", Nack::Retry(Some(Duration::from_secs(60))));
    world.detach("agent:a#mem1", 1);
    world.pump();
    assert_eq!((world.shard.held().queues, world.shard.held().messages), (0, 0));
}

#[test]
fn a_durable_session_queue_keeps_its_messages_while_the_session_is_away_and_through_a_crash() {
    let mut world = World::new();
    world.open_durable("agent:a#tok1");
    world.send(&mail("m1", "agent:a#tok1"));
    world.attach("agent:a#tok1", 1, "a", 10);
    assert_eq!(world.handed_ids(), ["m1"]);
    world.detach("agent:a#tok1", 1);
    world.commit();
    world.crash();
    world.attach("agent:a#tok1", 2, "a", 10);
    world.commit();
    let taken = world.taken();
    world.ack(taken.lease(), "a");
    world.commit();
    world.detach("agent:a#tok1", 2);
    world.commit();
    assert_eq!(world.shard.held().queues, 1, "it stays until it is removed");
    world.remove("agent:a#tok1");
    world.pump();
    assert_eq!(world.shard.held().queues, 0);
}

#[test]
fn session_queues_have_their_own_bounds() {
    let mut world = World::new();
    world.open_durable("agent:a#tok1");
    for at in 0..10 {
        accepted(world.send(&mail(&format!("m{at}"), "agent:a#tok1")));
    }
    let bound = "session_messages_max";
    assert_eq!(world.send(&mail("m10", "agent:a#tok1")), Verdict::QueueFull { bound });
    let bound = "session_bytes_max";
    world.open_durable("agent:a#tok2");
    let large = mail("large", "agent:a#tok2").body(1 << 16);
    assert_eq!(world.send(&large), Verdict::QueueFull { bound });
}

#[test]
fn a_removed_queue_rejects_all_it_held_in_whatever_state_and_takes_nothing_more() {
    let mut world = World::new();
    let credit = world.attach("agent:a", 1, "a", 3);
    for id in ["leased", "delayed", "dead"] {
        world.send(&mail(id, "agent:a"));
    }
    let taken = world.hand_outs();
    world.nack(taken[1].lease, "a", Nack::Retry(Some(Duration::from_secs(60))));
    world.nack(taken[2].lease, "a", Nack::DeadLetter);
    credit.set_window(1, 1 << 20).iter().for_each(drop);
    let ready = accepted(world.send(&mail("ready", "agent:a"))).seq.unwrap();
    let committing = world.publish(&mail("committing", "agent:a"));
    world.begin_commit();
    world.remove("agent:a");
    assert_eq!((world.depth("agent:a"), credit.taken()), (0, (0, 0)));
    // Registered anew while the old queue's settles are under way.
    let fresh = world.publish(&mail("fresh", "agent:a"));
    world.commit();
    assert_eq!(accepted(world.answer(committing)).status, Some(Status::Rejected));
    assert_eq!(world.receipt(ready).reason, Reason::Removed);
    assert_eq!(accepted(world.answer(fresh)).status, Some(Status::Queued));
    assert!(world.hand_outs().is_empty());
    let held = world.shard.held();
    assert_eq!((held.queues, held.messages, world.depth("agent:a")), (1, 1, 1));
    assert_eq!(world.store.messages.len(), 1, "the store keeps no dead letter of it");
}

#[test]
fn a_removed_group_keeps_no_history() {
    let mut world = World::new();
    let retention = Duration::from_secs(600);
    world.fan_out(&mail("kept", "group:g"), &["agent:x"], retention);
    world.commit();
    world.relays();
    let seq = *world.shard.messages.iter().next().unwrap().0;
    world.run(|shard, now, out, _| shard.handle_relay_done(seq, now, out));
    world.begin_commit();
    world.fan_out(&mail("relayed", "group:g"), &["agent:x"], retention);
    world.commit();
    world.remove("group:g");
    world.commit();
    let held = world.shard.held();
    assert_eq!((held.queues, held.messages, world.store.messages.len()), (0, 0, 0));
    assert_eq!(world.shard.relaying, 0, "its slot among the relays is free");
}

#[test]
fn an_inbox_is_forgotten_once_it_is_empty_unattended_and_keeps_nothing() {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 10);
    world.send(&mail("m1", "agent:a"));
    let taken = world.taken();
    world.nack(taken.lease(), "a", Nack::DeadLetter);
    world.commit();
    world.detach("agent:a", 1);
    world.commit();
    assert_eq!(world.shard.held().queues, 1, "its dead letter is there");
    world.wait_secs(3600);
    world.commit();
    let held = world.shard.held();
    assert_eq!((held.queues, held.messages, world.store.messages.len()), (0, 0, 0));
}

#[test]
fn a_queues_kind_follows_what_the_router_says_of_it() {
    let mut world = World::new();
    world.send(&mail("m1", "group:turns"));
    assert_eq!(world.shard.queue(0).kind, kind_of(&address("group:turns")));
    world.fan_out(&mail("m2", "group:turns"), &["agent:x"], Duration::ZERO);
    assert_eq!(world.shard.queue(0).kind, QueueKind::FanOut);
    assert!(world.shard.is_fan_out(&address("group:turns")));
}
