//! loom models: every interleaving (within the preemption bound) of two producers and the consumer.
//!
//! A lost wake-up shows as loom's deadlock report, since all the threads that are left then sleep. Capacities are
//! shrunk to one or two items, so that every bound is met. Each protocol is modelled alone over bare atomics first:
//! there nothing but its own fences orders the threads.

use std::{future::poll_fn, num::NonZeroUsize, task::Poll};

use loom::{
    future::block_on,
    model,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::spawn,
};

use super::{Bounds, PushError, Readiness, Receiver, Sender, Weigh, lanes, parker::Parker, space::Space};
use crate::frame::Priority;

#[derive(Debug, PartialEq, Eq)]
struct Item(u8);

/// As heavy as two light ones.
const HEAVY: Item = Item(2);
/// As heavy as four.
const HEAVIEST: Item = Item(4);

impl Weigh for Item {
    fn weight_bytes(&self) -> usize {
        usize::from(self.0).max(1)
    }
}

fn small(items_per_lane_max: usize, bytes_max: usize) -> (Sender<Item>, Receiver<Item>) {
    lanes(Bounds {
        items_per_lane_max: NonZeroUsize::new(items_per_lane_max).expect("tests use bounds above 0"),
        bytes_max: NonZeroUsize::new(bytes_max).expect("tests use bounds above 0"),
        parts_max: NonZeroUsize::MAX,
    })
}

/// Drains to the end; every return of `ready` must have been worth it.
fn drain_to_the_end(receiver: &mut Receiver<Item>) -> Vec<Item> {
    let mut items = Vec::new();
    while block_on(receiver.ready()) == Readiness::Items {
        assert_ne!(receiver.drain(2, &mut items), 0, "ready without an item");
    }
    items
}

#[test]
fn a_parked_consumer_sees_what_two_producers_published() {
    model(|| {
        let shared = Arc::new((Parker::new(), AtomicUsize::new(0)));
        for _ in 0..2 {
            let shared = Arc::clone(&shared);
            spawn(move || {
                shared.1.fetch_add(1, Relaxed);
                shared.0.notify();
            });
        }
        block_on(poll_fn(|context| {
            if shared.1.load(Relaxed) == 2 {
                return Poll::Ready(());
            }
            shared.0.prepare(context.waker());
            if shared.1.load(Relaxed) == 2 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }));
    });
}

#[test]
fn two_waiting_producers_see_the_room_that_was_made() {
    model(|| {
        let shared = Arc::new((Space::new(), AtomicUsize::new(0)));
        let producers: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                spawn(move || {
                    let mut waiter = shared.0.waiter();
                    block_on(poll_fn(|context| {
                        waiter.prepare(context.waker()).expect("two waiters are few");
                        if shared.1.load(Relaxed) == 1 {
                            Poll::Ready(())
                        } else {
                            Poll::Pending
                        }
                    }));
                })
            })
            .collect();
        shared.1.store(1, Relaxed);
        shared.0.notify();
        for producer in producers {
            producer.join().expect("the producer does not panic");
        }
    });
}

#[test]
fn every_item_of_two_producers_arrives_and_then_the_end() {
    model(|| {
        let (sender, mut receiver) = small(2, 8);
        for number in 0..2 {
            let sender = sender.clone();
            spawn(move || {
                sender
                    .try_push(Priority::Normal, Item(number))
                    .expect("there is room for both");
            });
        }
        drop(sender);
        let mut items = drain_to_the_end(&mut receiver);
        items.sort_by_key(|item| item.0);
        assert_eq!(items, [Item(0), Item(1)]);
        assert_eq!(receiver.occupancy().bytes, 0);
    });
}

#[test]
fn producers_that_wait_for_a_slot_get_it() {
    model(|| {
        let (sender, mut receiver) = small(1, 8);
        let other = sender.clone();
        spawn(move || block_on(other.push(Priority::Normal, Item(1))).expect("nobody closes"));
        spawn(move || block_on(sender.push(Priority::Normal, Item(0))).expect("nobody closes"));
        assert_eq!(drain_to_the_end(&mut receiver).len(), 2);
    });
}

#[test]
fn a_producer_that_waits_for_bytes_gets_them_from_another_lane() {
    model(|| {
        let (sender, mut receiver) = small(1, 1);
        sender.try_push(Priority::Normal, Item(0)).expect("the queue is empty");
        spawn(move || block_on(sender.push(Priority::High, Item(1))).expect("nobody closes"));
        assert_eq!(drain_to_the_end(&mut receiver), [Item(0), Item(1)]);
        assert_eq!(receiver.occupancy().bytes, 0);
    });
}

#[test]
fn room_that_is_too_little_to_be_told_is_told_once_all_is_drained() {
    model(|| {
        let (sender, mut receiver) = small(8, 4);
        sender.try_push(Priority::Normal, Item(0)).expect("the queue is empty");
        spawn(move || block_on(sender.push(Priority::High, HEAVIEST)).expect("nobody closes"));
        let mut items = Vec::new();
        while block_on(receiver.ready()) == Readiness::Items {
            receiver.drain(1, &mut items);
        }
        assert_eq!(items, [Item(0), HEAVIEST]);
    });
}

#[test]
fn a_producer_that_waits_for_bytes_gets_those_that_an_aborted_push_gives_back() {
    model(|| {
        let (sender, receiver) = small(1, 3);
        sender.try_push(Priority::Normal, Item(0)).expect("the queue is empty");
        let other = sender.clone();
        // Meets the full lane with a byte reserved. Nothing is drained, so nobody else can wake the heavy one.
        spawn(move || other.try_push(Priority::Normal, Item(1)).expect_err("the lane is full"));
        block_on(sender.push(Priority::High, HEAVY)).expect("nobody closes");
        drop(receiver);
    });
}

#[test]
fn an_item_is_either_refused_by_a_closed_queue_or_drained_before_the_end() {
    model(|| {
        let (sender, mut receiver) = small(1, 8);
        // The lane starts full, so the push may also abort, which must not keep the end from the consumer.
        sender.try_push(Priority::Low, Item(0)).expect("the queue is empty");
        // Kept, since the last sender's end would close once more, and wake.
        let _kept = sender.clone();
        let closer = sender.clone();
        let producer = spawn(move || sender.try_push(Priority::Low, Item(1)).is_ok());
        spawn(move || closer.close());
        let drained = drain_to_the_end(&mut receiver).len();
        let accepted = producer.join().expect("the producer does not panic");
        assert_eq!(drained, 1 + usize::from(accepted));
    });
}

#[test]
fn a_producer_that_waits_learns_that_the_consumer_is_gone() {
    model(|| {
        let (sender, receiver) = small(1, 8);
        sender.try_push(Priority::Normal, Item(0)).expect("the queue is empty");
        let producer = spawn(move || block_on(sender.push(Priority::Normal, Item(1))));
        drop(receiver);
        // Accepted only where its reservation came before the end; then it goes down with the queue.
        let outcome = producer.join().expect("the producer does not panic");
        assert!(matches!(outcome, Ok(()) | Err(PushError::Closed(Item(1)))));
    });
}
