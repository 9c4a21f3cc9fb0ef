//! Who gets a message, and in what order.

use std::time::Duration;

use super::world::{World, agent, mail};
use crate::{
    delivery::{ConsumerId, Nack},
    frame::{LastHop, Priority},
};

fn consumers(world: &mut World) -> Vec<u64> {
    world.hand_outs().iter().map(|hand_out| hand_out.consumer.0).collect()
}

#[test]
fn g5_first_deliveries_are_in_order_of_acceptance_within_a_priority() {
    let mut world = World::new();
    for at in 0..10 {
        world.publish(&mail(&format!("m{at}"), "agent:a"));
        if at % 3 == 0 {
            world.begin_commit();
        }
    }
    world.commit();
    world.commit();
    world.attach("agent:a", 1, "a", 100);
    world.commit();
    let order = world.handed_ids();
    assert!(order.is_sorted() && order.len() == 10, "{order:?}");
}

#[test]
fn a_detach_brings_back_what_was_not_settled_in_its_old_order_before_what_is_younger() {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 3);
    for at in 0..6 {
        world.publish(&mail(&format!("m{at}"), "agent:a"));
    }
    world.commit();
    let held = world.hand_outs();
    world.ack(held[1].lease.unwrap(), "a");
    world.detach("agent:a", 1);
    world.commit();
    world.attach("agent:a", 2, "a", 100);
    world.commit();
    let again = world.hand_outs();
    let redelivered: Vec<bool> = again.iter().map(|h| h.frame.stamp.flags.is_redelivered()).collect();
    let ids: Vec<&str> = again.iter().map(|h| h.frame.envelope.id()).collect();
    assert_eq!(ids, ["m0", "m2", "m3", "m4", "m5"]);
    assert_eq!(redelivered, [true, true, false, false, false]);
}

#[test]
fn competing_sessions_share_by_what_they_have_outstanding() {
    let mut world = World::new();
    world.attach("any:work", 1, "a", 2);
    world.attach("any:work", 2, "b", 100);
    for at in 0..6 {
        world.publish(&mail(&format!("m{at}"), "any:work"));
    }
    world.commit();
    let taken = world.hand_outs();
    let of = |id| taken.iter().filter(|h| h.consumer == ConsumerId(id)).count();
    assert_eq!((of(1), of(2)), (2, 4), "the first has no credit for more");
    let mut ids: Vec<_> = taken.iter().map(|h| h.frame.envelope.id().to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 6, "each message goes to one of them");
    for held in taken.iter().filter(|h| h.consumer == ConsumerId(2)) {
        world.ack(held.lease.unwrap(), "b");
    }
    world.commit();
    world.send(&mail("next", "any:work"));
    assert_eq!(consumers(&mut world), [2]);
}

#[test]
fn a_lost_member_gives_its_message_to_another() {
    let mut world = World::new();
    world.attach("any:work", 1, "a", 1);
    world.send(&mail("m1", "any:work"));
    assert_eq!(consumers(&mut world), [1]);
    world.attach("any:work", 2, "b", 1);
    world.detach("any:work", 1);
    world.commit();
    assert_eq!(consumers(&mut world), [2]);
}

#[test]
fn round_robin_takes_turns_whatever_is_outstanding() {
    let mut world = World::new();
    for id in 1..=3 {
        world.attach("group:turns", id, "a", 100);
    }
    for at in 0..7 {
        world.publish(&mail(&format!("m{at}"), "group:turns"));
    }
    world.commit();
    assert_eq!(consumers(&mut world), [1, 2, 3, 1, 2, 3, 1]);
}

#[test]
fn a_preferred_protocol_goes_first_while_it_has_credit_and_any_other_does_after() {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 10);
    let mut mqtt = world.consumer(2, "a", 1);
    mqtt.protocol = "mqtt";
    world.attach_as("agent:a", mqtt);
    for at in 0..3 {
        let message = mail(&format!("m{at}"), "agent:a").over(LastHop::Preferred("mqtt".into()));
        world.publish(&message);
    }
    world.commit();
    assert_eq!(consumers(&mut world), [2, 1, 1]);
}

#[test]
fn a_required_protocol_parks_the_message_until_such_a_session_attaches_and_lets_others_pass() {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 10);
    world.publish(&mail("m1", "agent:a").over(LastHop::Required("mqtt".into())));
    world.publish(&mail("m2", "agent:a").over(LastHop::Required(String::new())));
    world.publish(&mail("m3", "agent:a"));
    world.commit();
    assert_eq!(world.handed_ids(), ["m2", "m3"]);
    assert_eq!(world.depth("agent:a"), 3);
    let mut mqtt = world.consumer(2, "a", 10);
    mqtt.protocol = "mqtt";
    world.attach_as("agent:a", mqtt);
    world.commit();
    let taken = world.taken();
    assert_eq!(
        (taken.id(), taken.0.consumer, taken.is_redelivered()),
        ("m1", ConsumerId(2), false)
    );
}

#[test]
fn g10_a_session_that_may_not_have_a_message_does_not_get_it_and_another_may() {
    let mut world = World::new();
    world.denied.insert(agent("mallory"));
    world.attach("any:work", 1, "mallory", 10);
    world.send(&mail("m1", "any:work"));
    assert!(world.hand_outs().is_empty());
    world.attach("any:work", 2, "bob", 10);
    world.commit();
    assert_eq!(consumers(&mut world), [2]);
}

#[test]
fn g6_a_lower_priority_gets_a_turn_while_a_higher_one_never_ends() {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 1);
    world.publish(&mail("low", "agent:a").priority(Priority::Low));
    let mut handed = Vec::new();
    for at in 0..40 {
        world.publish(&mail(&format!("c{at}"), "agent:a").priority(Priority::Critical));
        world.publish(&mail(&format!("d{at}"), "agent:a").priority(Priority::Critical));
        world.commit();
        for taken in world.hand_outs() {
            handed.push(taken.frame.envelope.id().to_owned());
            world.ack(taken.lease.unwrap(), "a");
        }
    }
    let turn = handed.iter().position(|id| id == "low");
    assert!(turn.is_some_and(|turn| turn <= 15), "{handed:?}");
}

#[test]
fn an_inbox_that_nobody_attends_is_named_when_something_waits_there() {
    let mut world = World::new();
    world.send(&mail("m1", "agent:a"));
    let named = |world: &mut World| std::mem::take(&mut world.out.unattended).len();
    assert_eq!(named(&mut world), 1);
    world.attach("agent:a", 1, "a", 10);
    assert_eq!(named(&mut world), 0);
    world.commit();
    world.detach("agent:a", 1);
    world.pump();
    assert_eq!(named(&mut world), 1, "its last session left");
    world.attach("agent:a", 1, "a", 10);
    world.commit();
    let taken = world.hand_outs().pop().unwrap();
    world.nack(taken.lease.unwrap(), "a", Nack::Retry(Some(Duration::from_secs(9))));
    world.detach("agent:a", 1);
    world.pump();
    assert_eq!(named(&mut world), 0, "nothing is ready");
    world.wait_secs(9);
    assert_eq!(named(&mut world), 1, "its back-off ended");
    world.commit();
    world.crash();
    world.pump();
    assert_eq!(named(&mut world), 1, "after a restart too");
}
