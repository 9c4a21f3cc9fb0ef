//! Which messages have their bytes in memory.

use super::world::{World, address, mail};
use crate::{
    delivery::{Limits, Nack, message::Message},
    frame::LastHop,
};

fn cached(world: &World) -> (u64, usize) {
    let with_frame = world
        .shard
        .messages
        .iter()
        .filter(|(_, message)| message.frame.is_some());
    (world.shard.cached_bytes(), with_frame.count())
}

#[test]
fn a_messages_entry_stays_small() {
    assert!(size_of::<Message>() <= 160, "{} bytes", size_of::<Message>());
}

#[test]
fn what_waits_is_in_buffers_of_its_own_and_what_is_handed_out_keeps_none() {
    let mut world = World::new();
    let message = mail("m1", "agent:a").body(100);
    world.publish(&message);
    let arrived = world
        .shard
        .messages
        .iter()
        .next()
        .unwrap()
        .1
        .frame
        .as_ref()
        .unwrap()
        .body
        .as_ptr();
    world.commit();
    let (_, entry) = world.shard.messages.iter().next().unwrap();
    assert_ne!(entry.frame.as_ref().unwrap().body.as_ptr(), arrived);
    assert_eq!(cached(&world), (entry.weight(), 1));
    world.attach("agent:a", 1, "a", 10);
    assert_eq!((world.taken().0.frame.body.len(), cached(&world)), (100, (0, 0)));
}

#[test]
fn a_second_delivery_reads_the_body_again() {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 10);
    world.send(&mail("m1", "agent:a").body(100));
    let taken = world.taken();
    world.nack(taken.lease(), "a", Nack::Release);
    world.pump();
    assert!(world.hand_outs().is_empty());
    assert_eq!(world.out.loads.len(), 1);
    world.commit();
    let again = world.taken();
    assert_eq!((again.0.frame.body.len(), again.is_redelivered()), (100, true));
}

#[test]
fn g11_above_the_budget_what_begins_to_wait_lets_go_of_its_bytes_and_is_read_near_the_head() {
    let mut world = World::with(Limits {
        inbox_messages_max: 1000,
        inbox_bytes_max: 64 << 20,
        ..Limits::default()
    });
    world.shard.set_body_budget(10_000);
    for at in 0..300 {
        world.publish(&mail(&format!("m{at:03}"), "agent:a").body(900));
        world.commit();
    }
    let (bytes, frames) = cached(&world);
    assert!(
        bytes <= 10_000 + 2000 && frames > 5,
        "{bytes} bytes of {frames} messages"
    );
    let credit = world.attach("agent:a", 1, "a", 0);
    world.pump();
    assert!(world.out.loads.is_empty(), "nothing is read for who cannot take it");
    credit.set_window(8, 1 << 20).iter().for_each(drop);
    let mut order = Vec::new();
    while order.len() < 300 {
        world.run(|shard, _, _, _| shard.handle_credit(&address("agent:a")));
        world.pump();
        assert!(world.out.loads.len() <= 64);
        world.serve_loads();
        for taken in world.hand_outs() {
            order.push(taken.frame.envelope.id().to_owned());
            world.ack(taken.lease, "a");
        }
        world.commit();
    }
    assert!(order.is_sorted());
    assert_eq!(cached(&world), (0, 0));
}

#[test]
fn g11_reads_ahead_are_bounded_by_bytes() {
    let mut world = World::with(Limits {
        inbox_bytes_max: 64 << 20,
        ..Limits::default()
    });
    world.shard.set_body_budget(0);
    for at in 0..20 {
        world.publish(&mail(&format!("m{at}"), "agent:a").body(400_000));
    }
    world.commit();
    assert_eq!(cached(&world), (0, 0));
    let mut consumer = world.consumer(1, "a", 1);
    consumer.credit = std::sync::Arc::new(crate::delivery::Credit::new(1, 8 << 20));
    world.attach_as("agent:a", consumer);
    assert_eq!(world.out.loads.len(), 2, "400,000 bytes each, a mebibyte at once");
}

#[test]
fn what_was_read_only_to_be_parked_lets_go_above_the_budget() {
    let mut world = World::new();
    world.shard.set_body_budget(0);
    for at in 0..5 {
        world.publish(&mail(&format!("m{at}"), "agent:a").over(LastHop::Required("mqtt".into())));
    }
    world.commit();
    world.attach("agent:a", 1, "a", 10);
    world.commit();
    assert_eq!((world.shard.queue(0).parked.len(), cached(&world)), (5, (0, 0)));
}

#[test]
fn an_in_memory_queue_keeps_its_bytes_whatever_the_budget() {
    let mut world = World::new();
    world.shard.set_body_budget(0);
    let credit = world.attach("agent:a#mem1", 1, "a", 1);
    for id in ["m1", "m2"] {
        world.publish(&mail(id, "agent:a#mem1").body(100));
    }
    let first = world.taken();
    world.nack(first.lease(), "a", Nack::Release);
    world.pump();
    assert_eq!(world.taken().id(), "m1", "it is in no store to be read from");
    assert_eq!((cached(&world).1, credit.taken().0), (2, 1));
    world.detach("agent:a#mem1", 1);
    world.pump();
    assert_eq!(cached(&world), (0, 0));
}

#[test]
fn a_read_that_completes_after_its_message_left_keeps_nothing() {
    let mut world = World::new();
    world.shard.set_body_budget(0);
    world.send(&mail("m1", "agent:a").ttl_secs(5));
    world.attach("agent:a", 1, "a", 10);
    world.pump();
    let load = world.out.loads.pop().unwrap();
    let frame = world.store.messages[&load.0].1.clone();
    world.wait_secs(5);
    world.run(|shard, now, out, _| shard.handle_loaded(load.0, Some(frame), now, out));
    assert_eq!(cached(&world), (0, 0));
    world.run(|shard, now, out, _| shard.handle_loaded(load.0, None, now, out));
    world.commit();
    assert!(world.hand_outs().is_empty());
    assert_eq!((world.out.counts.expired, world.out.counts.rejected), (1, 0));
}

#[test]
fn a_message_that_cannot_be_read_is_rejected_as_damaged_and_the_next_one_goes() {
    let mut world = World::new();
    world.shard.set_body_budget(0);
    for id in ["m1", "m2"] {
        world.publish(&mail(id, "agent:a"));
    }
    world.commit();
    world.attach("agent:a", 1, "a", 10);
    let loads: Vec<_> = world.out.loads.drain(..).collect();
    assert_eq!(loads.len(), 2);
    world.run(|shard, now, out, _| shard.handle_loaded(loads[0].0, None, now, out));
    let frame = world.store.messages[&loads[1].0].1.clone();
    world.run(|shard, now, out, _| shard.handle_loaded(loads[1].0, Some(frame), now, out));
    world.commit();
    assert_eq!(world.handed_ids(), ["m2"]);
    let receipt = world.receipt(loads[0].0);
    assert_eq!(receipt.reason, crate::frame::record::Reason::Damaged);
}
