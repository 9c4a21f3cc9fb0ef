//! Expiry, wherever a message stands when its time comes (G9).

use std::time::Duration;

use super::world::{World, accepted, mail};
use crate::{
    delivery::{Nack, Verdict},
    frame::{LastHop, Priority, record::Status},
    time::Timestamp,
};

#[test]
fn g9_a_waiting_message_expires_without_anyone_there_and_shows_in_its_receipt() {
    let mut world = World::new();
    let seq = accepted(world.send(&mail("m1", "agent:a").ttl_secs(10))).seq.unwrap();
    world.send(&mail("m2", "agent:a"));
    world.wait(Duration::from_millis(9999));
    assert_eq!(world.depth("agent:a"), 2);
    world.wait(Duration::from_millis(1));
    world.commit();
    assert_eq!(
        (world.receipt(seq).status, world.depth("agent:a")),
        (Status::Expired, 1)
    );
    assert_eq!(world.out.counts.expired, 1);
    world.attach("agent:a", 1, "a", 10);
    world.commit();
    assert_eq!(world.handed_ids(), ["m2"]);
}

#[test]
fn g9_a_message_whose_time_passes_while_it_is_committed_expires_and_its_sender_learns_it() {
    // Its timer had gone off before the commit was done, and nothing looked at it again.
    let mut world = World::new();
    let tag = world.publish(&mail("m1", "agent:a").ttl_secs(1));
    world.begin_commit();
    world.wait_secs(2);
    world.complete();
    assert_eq!(accepted(world.answer(tag)).status, Some(Status::Expired));
    world.commit();
    assert_eq!((world.depth("agent:a"), world.shard.held().messages), (0, 0));
}

#[test]
fn g9_a_message_whose_time_passes_while_it_is_handed_out_may_be_acknowledged_but_does_not_come_again() {
    for nack in [Nack::Release, Nack::Retry(None), Nack::Retry(Some(Duration::ZERO))] {
        let mut world = World::new();
        world.attach("agent:a", 1, "a", 10);
        for id in ["m1", "m2"] {
            world.send(&mail(id, "agent:a").ttl_secs(5));
        }
        let taken = world.hand_outs();
        world.wait_secs(6);
        let ack = world.ack(taken[0].lease, "a");
        world.nack(taken[1].lease, "a", nack);
        world.detach("agent:a", 1);
        world.commit();
        assert_eq!(world.answer(ack), Verdict::Settled);
        assert_eq!(world.receipt(taken[0].lease.0).status, Status::Delivered);
        assert_eq!(world.receipt(taken[1].lease.0).status, Status::Expired, "{nack:?}");
        assert_eq!(world.depth("agent:a"), 0);
    }
}

#[test]
fn g9_a_message_that_is_held_comes_again_past_its_expiry_and_expires_when_the_hold_ends() {
    for nack in [None, Some(Nack::Release)] {
        let mut world = World::new();
        world.attach("agent:a", 1, "a", 10);
        for id in ["held", "other"] {
            world.send(&mail(id, "agent:a").ttl_secs(5));
        }
        let taken = world.hand_outs();
        let (lease, until) = (taken[0].lease, world.now + Duration::from_secs(20));
        world.wait_secs(6);
        world.run(|shard, _, _, _| shard.handle_hold(lease.0, until, None));
        if let Some(nack) = nack {
            world.nack(lease, "a", nack);
        }
        world.detach("agent:a", 1);
        world.commit();
        world.attach("agent:a", 2, "a", 10);
        world.commit();
        assert_eq!(world.handed_ids(), ["held"]);
        world.detach("agent:a", 2);
        world.wait_secs(14);
        world.commit();
        assert_eq!(world.receipt(lease.0).status, Status::Expired);
        assert_eq!(world.depth("agent:a"), 0);
    }
}

#[test]
fn g9_what_would_go_to_another_is_not_held() {
    let mut world = World::new();
    world.attach("any:work", 1, "a", 10);
    world.send(&mail("m1", "any:work").ttl_secs(5));
    let lease = world.taken().lease();
    world.wait_secs(6);
    let until = world.now + Duration::from_secs(20);
    world.run(|shard, _, _, _| shard.handle_hold(lease.0, until, None));
    world.detach("any:work", 1);
    world.attach("any:work", 2, "b", 10);
    world.commit();
    assert!(world.handed_ids().is_empty());
    assert_eq!(world.receipt(lease.0).status, Status::Expired);
}

#[test]
fn what_is_held_for_a_session_goes_to_no_other_and_holds_up_nothing() {
    let mut world = World::new();
    world.attach("any:work", 1, "a", 10);
    for id in ["m1", "m2"] {
        world.send(&mail(id, "any:work").ttl_secs(100));
    }
    let lease = world.hand_outs()[0].lease;
    let until = world.now + Duration::from_secs(20);
    world.run(|shard, _, _, _| shard.handle_hold(lease.0, until, Some(1)));
    world.nack(lease, "a", Nack::Release);
    world.detach("any:work", 1);
    world.attach("any:work", 2, "b", 10);
    world.commit();
    assert_eq!(world.handed_ids(), ["m2"]);
    world.wait_secs(6);
    world.commit();
    assert_eq!(world.depth("any:work"), 2);
    // The session is known by its own queue, not by its connection.
    let mut back = world.consumer(3, "a", 10);
    back.session = 1;
    world.attach_as("any:work", back);
    world.commit();
    let again = world.taken();
    assert_eq!((again.id(), again.seq()), ("m1", lease.0));
    // It leaves the queue, but is not gone: to whoever is there.
    world.detach("any:work", 3);
    world.commit();
    let again = world.taken();
    assert_eq!((again.id(), again.seq()), ("m1", lease.0));
    world.ack(again.lease(), "b");
    world.commit();
    assert_eq!(world.receipt(lease.0).status, Status::Delivered);
}

#[test]
fn what_was_held_for_a_session_that_has_ended_goes_to_another_unless_it_has_expired() {
    let mut world = World::new();
    world.attach("any:work", 1, "a", 10);
    world.send(&mail("m1", "any:work"));
    world.send(&mail("short", "any:work").ttl_secs(5));
    let leases: Vec<_> = world.hand_outs().iter().map(|handed| handed.lease).collect();
    for lease in &leases {
        world.run(|shard, _, _, _| shard.handle_hold(lease.0, Timestamp::NEVER, Some(1)));
        world.nack(*lease, "a", Nack::Release);
    }
    world.detach("any:work", 1);
    world.attach("any:work", 2, "b", 10);
    world.wait_secs(6);
    world.commit();
    assert!(world.hand_outs().is_empty());
    for lease in &leases {
        world.run(|shard, now, out, _| shard.handle_let_go(lease.0, now, out));
    }
    world.commit();
    assert_eq!(world.handed_ids(), ["m1"]);
    assert_eq!(world.receipt(leases[1].0).status, Status::Expired);
}

#[test]
fn g9_a_hold_neither_shortens_a_life_nor_brings_back_what_has_ended() {
    let mut world = World::new();
    let seq = accepted(world.send(&mail("long", "agent:a").ttl_secs(100)))
        .seq
        .unwrap();
    let never = accepted(world.send(&mail("never", "agent:a"))).seq.unwrap();
    let gone = accepted(world.send(&mail("gone", "agent:a").ttl_secs(1))).seq.unwrap();
    world.wait_secs(2);
    world.commit();
    let until = world.now + Duration::from_secs(1);
    for seq in [seq, never, gone] {
        world.run(|shard, _, _, _| shard.handle_hold(seq, until, None));
    }
    world.wait_secs(2);
    world.commit();
    world.attach("agent:a", 1, "a", 10);
    assert_eq!(world.handed_ids(), ["long", "never"]);
    assert_eq!(world.receipt(gone).status, Status::Expired);
}

#[test]
fn g9_delayed_and_parked_messages_expire_too_and_a_later_attach_does_not_bring_them_back() {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 10);
    world.send(&mail("delayed", "agent:a").ttl_secs(5));
    let taken = world.taken();
    world.nack(taken.lease(), "a", Nack::Retry(Some(Duration::from_secs(60))));
    world.send(
        &mail("parked", "agent:a")
            .ttl_secs(5)
            .over(LastHop::Required("mqtt".into())),
    );
    world.wait_secs(5);
    // Their settles are under way when a session attaches that the parked one would fit.
    let mut mqtt = world.consumer(2, "a", 10);
    mqtt.protocol = "mqtt";
    world.attach_as("agent:a", mqtt);
    world.commit();
    world.wait_secs(100);
    world.commit();
    assert_eq!(
        (
            world.hand_outs().len(),
            world.out.counts.expired,
            world.depth("agent:a")
        ),
        (0, 2, 0)
    );
}

#[test]
fn g9_a_message_is_looked_at_when_it_is_handed_out_even_if_its_timer_is_late() {
    let mut world = World::new();
    world.send(&mail("m1", "agent:a").ttl_secs(5));
    world.now = world.now + Duration::from_secs(5);
    world.attach("agent:a", 1, "a", 10);
    assert!(world.hand_outs().is_empty());
    assert_eq!(world.out.counts.expired, 1);
}

#[test]
fn g11_messages_that_expire_behind_the_head_of_a_lane_do_not_pile_up_in_it() {
    let mut world = World::new();
    world.send(&mail("head", "agent:a"));
    for round in 0..20 {
        for at in 0..50 {
            world.publish(&mail(&format!("m{round}-{at}"), "agent:a").ttl_secs(1));
        }
        world.commit();
        world.wait_secs(1);
        world.commit();
    }
    let queue = world.shard.queue(0);
    let entries = queue.in_order(Priority::Normal).count();
    assert!(entries <= 66, "{entries} entries for one message");
}

#[test]
fn g11_parked_messages_that_expire_leave_at_once() {
    let mut world = World::new();
    world.attach("agent:a", 1, "a", 10);
    for at in 0..50 {
        world.publish(
            &mail(&format!("m{at}"), "agent:a")
                .ttl_secs(1)
                .over(LastHop::Required("mqtt".into())),
        );
    }
    world.commit();
    assert_eq!(world.shard.queue(0).parked.len(), 50);
    world.wait_secs(1);
    assert_eq!(world.shard.queue(0).parked.len(), 0);
}

#[test]
fn g11_timers_follow_the_messages_held_and_not_their_rate() {
    let mut world = World::new();
    world.look_every = 997;
    let mut consumer = world.consumer(1, "a", 100);
    consumer.visibility_timeout = Some(Duration::from_secs(3600));
    world.attach_as("agent:a", consumer);
    for round in 0..100 {
        for at in 0..50 {
            world.publish(&mail(&format!("m{round}-{at}"), "agent:a").ttl_secs(86_400));
        }
        world.commit();
        for taken in world.hand_outs() {
            world.ack(taken.lease, "a");
        }
        world.commit();
    }
    assert_eq!(world.out.counts.acknowledged, 5000);
    assert!(world.shard.timers.len() <= 1024 + 4, "{}", world.shard.timers.len());
    assert!(
        world.shard.timers.capacity() <= 4096,
        "{}",
        world.shard.timers.capacity()
    );
}

#[test]
fn timers_that_count_survive_the_sweep() {
    let mut world = World::with(crate::delivery::Limits {
        inbox_messages_max: 10_000,
        ..Default::default()
    });
    world.look_every = 997;
    let kept = accepted(world.send(&mail("kept", "agent:a").ttl_secs(50))).seq.unwrap();
    world.attach("agent:b", 1, "b", 10);
    world.send(&mail("delayed", "agent:b"));
    let taken = world.taken();
    world.nack(taken.lease(), "b", Nack::Retry(Some(Duration::from_secs(40))));
    for at in 0..5000 {
        world.publish(&mail(&format!("m{at}"), "agent:b").ttl_secs(86_400));
        world.commit();
        let taken = world.taken();
        world.ack(taken.lease(), "b");
        world.commit();
    }
    world.wait_secs(40);
    world.commit();
    assert_eq!(world.handed_ids(), ["delayed"]);
    world.wait_secs(10);
    world.commit();
    assert_eq!(world.receipt(kept).status, Status::Expired);
}
