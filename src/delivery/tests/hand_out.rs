//! Who gets a message, and in what order.

use std::time::Duration;

use super::world::{World, agent, mail};
use crate::{
    delivery::{ConsumerId, Nack, hand_out::STEPPED_OVER_MAX},
    frame::{LastHop, Priority, Qos},
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
    world.ack(held[1].lease, "a");
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
fn qos_0_goes_to_a_session_that_closed_its_window_only_where_no_other_takes_it() {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 0);
    world.attach("agent:a", 2, "a", 10);
    for at in 0..4 {
        world.publish(&mail(&format!("m{at}"), "agent:a").qos(Qos::AtMostOnce));
    }
    let takers = |world: &mut World| world.passed().iter().map(|(to, _)| *to).collect::<Vec<_>>();
    assert_eq!(takers(&mut world), [2, 2, 2, 2]);
    world.detach("agent:a", 2);
    world.publish(&mail("m4", "agent:a").qos(Qos::AtMostOnce));
    assert_eq!(takers(&mut world), [1]);
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
        world.ack(held.lease, "b");
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
fn a_message_whose_only_fitting_session_has_no_credit_is_stepped_over_and_comes_first_when_it_has() {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 100);
    let mut mqtt = world.consumer(2, "a", 1);
    mqtt.protocol = "mqtt";
    world.attach_as("agent:a", mqtt);
    for at in 0..6 {
        let message = mail(&format!("m{at}"), "agent:a");
        let demands = [0, 1, 3].contains(&at);
        world.publish(&if demands {
            message.over(LastHop::Required("mqtt".into()))
        } else {
            message
        });
    }
    world.commit();
    let first = world.hand_outs();
    let got: Vec<(u64, &str)> = first.iter().map(|h| (h.consumer.0, h.frame.envelope.id())).collect();
    assert_eq!(got, [(2, "m0"), (1, "m2"), (1, "m4"), (1, "m5")]);
    world.send(&mail("m6", "agent:a"));
    assert_eq!(consumers(&mut world), [1], "what comes later passes too");
    world.ack(first[0].lease, "a");
    world.commit();
    let next = world.taken();
    assert_eq!(
        (next.id(), next.0.consumer, next.is_redelivered()),
        ("m1", ConsumerId(2), false)
    );
    world.ack(next.lease(), "a");
    world.commit();
    assert_eq!(world.handed_ids(), ["m3"]);
}

#[test]
fn g5_a_session_whose_window_is_too_small_for_what_it_alone_may_have_gets_nothing_younger_meanwhile() {
    let mut world = World::new();
    let mut mqtt = world.consumer(1, "a", 10);
    (mqtt.protocol, mqtt.credit) = ("mqtt", std::sync::Arc::new(crate::delivery::Credit::new(10, 2000)));
    world.attach_as("agent:a", mqtt);
    world.attach("agent:a", 2, "a", 0);
    world.send(&mail("m0", "agent:a").body(1000));
    let first = world.taken();
    world.publish(&mail("m1", "agent:a").body(1500).over(LastHop::Required("mqtt".into())));
    world.publish(&mail("m2", "agent:a"));
    world.commit();
    assert!(
        world.hand_outs().is_empty(),
        "the small one would fit, and stands behind the large one"
    );
    world.ack(first.lease(), "a");
    world.commit();
    assert_eq!(world.handed_ids(), ["m1", "m2"]);
}

#[test]
fn g11_a_bounded_number_of_messages_is_stepped_over() {
    let mut world = World::with(crate::delivery::Limits {
        inbox_messages_max: 1000,
        ..crate::delivery::Limits::default()
    });
    world.attach("agent:a", 1, "a", 10);
    let mut mqtt = world.consumer(2, "a", 0);
    mqtt.protocol = "mqtt";
    world.attach_as("agent:a", mqtt);
    let demanding = |at: usize| mail(&format!("r{at}"), "agent:a").over(LastHop::Required("mqtt".into()));
    for at in 0..STEPPED_OVER_MAX {
        world.publish(&demanding(at));
    }
    world.publish(&mail("passes", "agent:a"));
    world.commit();
    assert_eq!(world.handed_ids(), ["passes"]);
    world.publish(&demanding(STEPPED_OVER_MAX));
    world.publish(&mail("waits", "agent:a"));
    world.commit();
    assert!(world.hand_outs().is_empty());
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
            world.ack(taken.lease, "a");
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
    world.nack(taken.lease, "a", Nack::Retry(Some(Duration::from_secs(9))));
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
