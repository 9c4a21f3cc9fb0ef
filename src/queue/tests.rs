use std::{
    collections::{HashSet, VecDeque},
    future::Future,
    num::NonZeroUsize,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use proptest::{collection::vec, prelude::*};

use super::{BatchError, Bound, Bounds, PushError, Readiness, Receiver, Sender, Weigh, lanes, thread_waker};
use crate::frame::Priority;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Item {
    number: usize,
    weight: usize,
}

impl Weigh for Item {
    fn weight_bytes(&self) -> usize {
        self.weight
    }

    fn parts(&self) -> usize {
        self.weight % 4
    }
}

const fn item(number: usize, weight: usize) -> Item {
    Item { number, weight }
}

fn queue(items_per_lane_max: usize, bytes_max: usize) -> (Sender<Item>, Receiver<Item>) {
    queue_of_parts(items_per_lane_max, bytes_max, usize::MAX)
}

fn queue_of_parts(items_per_lane_max: usize, bytes_max: usize, parts_max: usize) -> (Sender<Item>, Receiver<Item>) {
    let bound = |max| NonZeroUsize::new(max).expect("tests use bounds above 0");
    lanes(Bounds {
        items_per_lane_max: bound(items_per_lane_max),
        bytes_max: bound(bytes_max),
        parts_max: bound(parts_max),
    })
}

fn drain_all(receiver: &mut Receiver<Item>) -> Vec<usize> {
    let mut out = Vec::new();
    receiver.drain(usize::MAX, &mut out);
    out.into_iter().map(|item| item.number).collect()
}

/// How many times it was woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Wakes {
    fn counted() -> (Arc<Self>, Waker) {
        let wakes = Arc::new(Self::default());
        (Arc::clone(&wakes), Waker::from(wakes))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

// Order and shares.

/// `per_lane` items in each lane; an item's number is its priority's index.
fn full_lanes(per_lane: usize) -> (Sender<Item>, Receiver<Item>) {
    let (sender, receiver) = queue(per_lane, usize::MAX);
    for priority in Priority::DESCENDING {
        for _ in 0..per_lane {
            sender
                .try_push(priority, item(priority.index(), 1))
                .expect("the lane has room");
        }
    }
    (sender, receiver)
}

fn count_by_lane(items: &[Item]) -> [usize; Priority::COUNT] {
    let mut counts = [0; Priority::COUNT];
    for item in items {
        counts[item.number] += 1;
    }
    counts
}

#[test]
fn one_round_over_full_lanes_goes_from_the_most_urgent_down_with_the_weights() {
    let (_sender, mut receiver) = full_lanes(8);
    let mut out = Vec::new();
    assert_eq!(receiver.drain(15, &mut out), 15);
    let order: Vec<_> = out.into_iter().map(|item| item.number).collect();
    assert_eq!(order, [3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 0]);
}

proptest! {
    #[test]
    fn shares_are_exact_while_all_lanes_are_full_however_the_budget_is_cut(
        budgets in vec(1_usize..40, 1..60),
    ) {
        let total: usize = budgets.iter().sum();
        let (_sender, mut receiver) = full_lanes(8 * (total / 15 + 1));
        let mut out = Vec::new();
        for budget in budgets {
            prop_assert_eq!(receiver.drain(budget, &mut out), budget);
        }
        let rounds = total / 15;
        let counts = count_by_lane(&out[..rounds * 15]);
        prop_assert_eq!(counts, Priority::WEIGHTS.map(|weight| weight * rounds));
    }

    #[test]
    fn a_waiting_item_is_passed_by_at_most_fourteen_more_urgent_ones_for_each_in_front_of_it(
        budgets in vec(1_usize..10, 1..20),
    ) {
        let per_lane = 200;
        let (_sender, mut receiver) = full_lanes(per_lane);
        let mut out = Vec::new();
        for budget in budgets {
            receiver.drain(budget, &mut out);
        }
        let low = count_by_lane(&out)[Priority::Low.index()];
        prop_assert!(out.len() < (low + 1) * 15, "{} taken, {low} of them low", out.len());
    }
}

#[test]
fn what_a_priority_does_not_need_goes_to_the_others() {
    let (sender, mut receiver) = queue(100, usize::MAX);
    for number in 0..100 {
        sender
            .try_push(Priority::Low, item(number, 1))
            .expect("the lane has room");
    }
    sender
        .try_push(Priority::Critical, item(1_000, 1))
        .expect("the lane has room");
    let mut out = Vec::new();
    assert_eq!(receiver.drain(64, &mut out), 64);
    assert_eq!(out[0].number, 1_000);
    assert!(out[1..].iter().map(|item| item.number).eq(0..63));
}

#[test]
fn low_gets_through_while_critical_never_runs_dry() {
    let (sender, mut receiver) = queue(64, usize::MAX);
    sender.try_push(Priority::Low, item(7, 1)).expect("the lane has room");
    let mut out = Vec::new();
    for taken in 0..9 {
        while sender.try_push(Priority::Critical, item(0, 1)).is_ok() {}
        receiver.drain(1, &mut out);
        assert_eq!(out.len(), taken + 1);
    }
    assert_eq!(out[8].number, 7, "the ninth, after a critical round of eight");
}

// Against a model.

#[derive(Clone, Debug)]
enum Step {
    Push(Priority, usize),
    Batch(Priority, Vec<usize>),
    Drain(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let priority = || prop::sample::select(Priority::DESCENDING.to_vec());
    prop_oneof![
        4 => (priority(), 0_usize..60).prop_map(|(priority, weight)| Step::Push(priority, weight)),
        2 => (priority(), vec(0_usize..30, 0..8)).prop_map(|(priority, weights)| Step::Batch(priority, weights)),
        3 => (0_usize..12).prop_map(Step::Drain),
    ]
}

const MODEL_ITEMS_MAX: usize = 5;
const MODEL_BYTES_MAX: usize = 50;
const MODEL_PARTS_MAX: usize = 7;

/// The queue as four deques and a sum.
#[derive(Default)]
struct Model {
    lanes: [VecDeque<Item>; Priority::COUNT],
}

impl Model {
    fn bytes(&self) -> usize {
        self.lanes.iter().flatten().map(Self::charge).sum()
    }

    fn charge(item: &Item) -> usize {
        item.weight.clamp(1, MODEL_BYTES_MAX)
    }

    fn parts(&self) -> usize {
        self.lanes.iter().flatten().map(Self::charge_parts).sum()
    }

    fn charge_parts(item: &Item) -> usize {
        item.parts().clamp(1, MODEL_PARTS_MAX)
    }

    /// Which bounds the push may be refused for; all that it meets.
    fn refusals(&self, priority: Priority, item: &Item) -> Vec<Bound> {
        let mut bounds = Vec::new();
        if self.lanes[priority.index()].len() == MODEL_ITEMS_MAX {
            bounds.push(Bound::Items);
        }
        if self.bytes() + Self::charge(item) > MODEL_BYTES_MAX {
            bounds.push(Bound::Bytes);
        }
        if self.parts() + Self::charge_parts(item) > MODEL_PARTS_MAX {
            bounds.push(Bound::Parts);
        }
        bounds
    }

    fn push(&mut self, priority: Priority, item: Item) {
        self.lanes[priority.index()].push_back(item);
    }

    /// Removes `item`, which must be the first of some lane.
    fn pop(&mut self, item: &Item) -> bool {
        let lane = self.lanes.iter_mut().find(|lane| lane.front() == Some(item));
        lane.and_then(VecDeque::pop_front).is_some()
    }

    fn lengths(&self) -> [usize; Priority::COUNT] {
        std::array::from_fn(|index| self.lanes[index].len())
    }
}

proptest! {
    #[test]
    fn any_sequence_of_pushes_batches_and_drains_agrees_with_a_deque_per_priority(steps in vec(step(), 0..80)) {
        let (sender, mut receiver) = queue_of_parts(MODEL_ITEMS_MAX, MODEL_BYTES_MAX, MODEL_PARTS_MAX);
        let mut model = Model::default();
        let mut numbers = 0..;
        let mut next = |weight| item(numbers.next().expect("the range has no end"), weight);
        for step in steps {
            match step {
                Step::Push(priority, weight) => {
                    let item = next(weight);
                    let refusals = model.refusals(priority, &item);
                    match sender.try_push(priority, item.clone()) {
                        Ok(()) => {
                            prop_assert!(refusals.is_empty(), "let in beyond {refusals:?}");
                            model.push(priority, item);
                        }
                        Err(PushError::Full { bound, item: back }) => {
                            prop_assert!(refusals.contains(&bound), "{bound:?} is not among {refusals:?}");
                            prop_assert_eq!(back, item);
                        }
                        Err(PushError::Closed(_)) => prop_assert!(false, "nobody closed"),
                    }
                }
                Step::Batch(priority, weights) => {
                    let mut batch: VecDeque<_> = weights.into_iter().map(&mut next).collect();
                    let whole = batch.clone();
                    let outcome = sender.try_push_batch(priority, &mut batch);
                    let accepted = whole.len() - batch.len();
                    prop_assert!(whole.iter().skip(accepted).eq(&batch), "the rest stays in its order");
                    for item in whole.into_iter().take(accepted) {
                        prop_assert_eq!(model.refusals(priority, &item), []);
                        model.push(priority, item);
                    }
                    match (outcome, batch.front()) {
                        (Ok(()), None) => {}
                        (Err(BatchError::Full(bound)), Some(first)) => {
                            let refusals = model.refusals(priority, first);
                            prop_assert!(refusals.contains(&bound), "{bound:?} is not among {refusals:?}");
                        }
                        (outcome, first) => prop_assert!(false, "{outcome:?} with {first:?} left"),
                    }
                }
                Step::Drain(budget) => {
                    let mut out = Vec::new();
                    let drained = receiver.drain(budget, &mut out);
                    prop_assert_eq!(drained, out.len());
                    prop_assert_eq!(drained, budget.min(model.lengths().iter().sum()));
                    for item in out {
                        prop_assert!(model.pop(&item), "{item:?} is the first of no lane");
                    }
                }
            }
            let occupancy = sender.occupancy();
            prop_assert_eq!(occupancy.items, model.lengths());
            prop_assert_eq!((occupancy.bytes, occupancy.parts), (model.bytes(), model.parts()));
        }
        drain_all(&mut receiver);
        prop_assert_eq!(receiver.occupancy(), super::Occupancy::default());
    }
}

// Bounds and the end.

#[test]
fn a_full_lane_refuses_its_priority_only_and_gives_the_item_back() {
    let (sender, _receiver) = queue(1, 100);
    sender
        .try_push(Priority::Normal, item(0, 1))
        .expect("the queue is empty");
    let refused = sender
        .try_push(Priority::Normal, item(1, 1))
        .expect_err("the lane is full");
    assert_eq!(
        refused,
        PushError::Full {
            bound: Bound::Items,
            item: item(1, 1)
        }
    );
    sender
        .try_push(Priority::High, refused.into_item())
        .expect("the other lane is empty");
    assert_eq!(sender.occupancy().bytes, 2, "a refused push leaves no bytes behind");
}

#[test]
fn the_bytes_bound_holds_over_all_priorities() {
    let (sender, mut receiver) = queue(8, 100);
    sender.try_push(Priority::Low, item(0, 60)).expect("the queue is empty");
    let refused = sender
        .try_push(Priority::Critical, item(1, 41))
        .expect_err("41 do not fit");
    assert!(matches!(
        refused,
        PushError::Full {
            bound: Bound::Bytes,
            ..
        }
    ));
    sender.try_push(Priority::Critical, item(2, 40)).expect("40 fit");
    assert_eq!(drain_all(&mut receiver), [2, 0]);
    sender
        .try_push(Priority::Critical, item(3, 41))
        .expect("the room is back");
}

#[test]
fn the_parts_bound_holds_over_all_priorities_and_more_parts_than_it_come_in_alone() {
    let (sender, mut receiver) = queue_of_parts(8, 100, 3);
    sender.try_push(Priority::Low, item(0, 2)).expect("two parts");
    let refused = sender
        .try_push(Priority::Critical, item(1, 2))
        .expect_err("two more do not fit");
    assert!(matches!(
        refused,
        PushError::Full {
            bound: Bound::Parts,
            ..
        }
    ));
    sender.try_push(Priority::Critical, item(2, 1)).expect("one fits");
    assert_eq!(sender.occupancy().parts, 3);
    assert_eq!(drain_all(&mut receiver), [2, 0]);
    let (sender, mut receiver) = queue_of_parts(8, 100, 2);
    sender.try_push(Priority::Low, item(3, 3)).expect("three parts, alone");
    sender
        .try_push(Priority::Low, item(4, 1))
        .expect_err("nothing beside them");
    assert_eq!(drain_all(&mut receiver), [3]);
    assert_eq!(sender.occupancy().parts, 0);
}

#[tokio::test]
async fn a_push_out_of_a_slot_that_is_given_up_leaves_its_item_there() {
    let (sender, mut receiver) = queue(1, 100);
    sender.try_push(Priority::Low, item(0, 1)).expect("the queue is empty");
    let mut slot = Some(item(1, 1));
    let given_up = futures_util::FutureExt::now_or_never(sender.push_from(Priority::Low, &mut slot));
    assert_eq!((given_up, &slot), (None, &Some(item(1, 1))));
    assert_eq!(drain_all(&mut receiver), [0]);
    assert_eq!(sender.push_from(Priority::Low, &mut slot).await, Ok(()));
    assert_eq!((slot.take(), drain_all(&mut receiver)), (None, vec![1]));
    sender.close();
    slot = Some(item(2, 1));
    assert_eq!(
        sender.push_from(Priority::Low, &mut slot).await,
        Err(BatchError::Closed)
    );
    assert_eq!(slot, Some(item(2, 1)));
}

#[test]
fn an_item_heavier_than_the_bound_comes_in_alone() {
    let (sender, mut receiver) = queue(8, 100);
    sender.try_push(Priority::Low, item(0, 1)).expect("the queue is empty");
    sender
        .try_push(Priority::Low, item(1, 1_000))
        .expect_err("not beside another");
    assert_eq!(drain_all(&mut receiver), [0]);
    sender.try_push(Priority::Low, item(1, 1_000)).expect("alone");
    sender
        .try_push(Priority::Low, item(2, 0))
        .expect_err("nothing beside it");
    assert_eq!(drain_all(&mut receiver), [1]);
    assert_eq!(sender.occupancy().bytes, 0);
}

#[test]
fn a_batch_that_meets_a_full_lane_leaves_its_rest_and_gives_the_bytes_back() {
    let (sender, mut receiver) = queue(3, 1_000);
    let mut batch: VecDeque<_> = (0..5).map(|number| item(number, 10)).collect();
    let outcome = sender.try_push_batch(Priority::Normal, &mut batch);
    assert_eq!(outcome, Err(BatchError::Full(Bound::Items)));
    assert_eq!(batch.iter().map(|item| item.number).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(sender.occupancy().bytes, 30);
    assert_eq!(drain_all(&mut receiver), [0, 1, 2]);
    assert_eq!(sender.try_push_batch(Priority::Normal, &mut batch), Ok(()));
    assert_eq!(drain_all(&mut receiver), [3, 4]);
}

#[test]
fn a_closed_queue_refuses_pushes_and_is_drained_before_it_ends() {
    let (sender, mut receiver) = queue(8, 100);
    sender
        .try_push(Priority::Normal, item(0, 1))
        .expect("the queue is empty");
    sender.close();
    assert!(sender.is_closed());
    let refused = sender.try_push(Priority::Normal, item(1, 1));
    assert_eq!(refused, Err(PushError::Closed(item(1, 1))));
    let mut batch = VecDeque::from([item(2, 1)]);
    assert_eq!(
        sender.try_push_batch(Priority::Normal, &mut batch),
        Err(BatchError::Closed)
    );
    assert_eq!(batch.len(), 1);
    assert_eq!(receiver.park_timeout(Duration::MAX), Some(Readiness::Items));
    assert_eq!(drain_all(&mut receiver), [0]);
    assert_eq!(receiver.park_timeout(Duration::MAX), Some(Readiness::Closed));
}

#[test]
fn the_last_sender_to_go_closes() {
    let (sender, mut receiver) = queue(8, 100);
    let other = sender.clone();
    drop(sender);
    other
        .try_push(Priority::Normal, item(0, 1))
        .expect("one sender still holds it open");
    drop(other);
    assert_eq!(drain_all(&mut receiver), [0]);
    assert_eq!(receiver.park_timeout(Duration::MAX), Some(Readiness::Closed));
}

#[test]
fn a_dropped_receiver_drops_what_was_queued_and_refuses_the_rest() {
    let (sender, receiver) = lanes::<Held>(Bounds {
        items_per_lane_max: NonZeroUsize::MIN,
        bytes_max: NonZeroUsize::MIN,
        parts_max: NonZeroUsize::MAX,
    });
    let token = Arc::new(());
    sender
        .try_push(Priority::Low, Held(Arc::clone(&token)))
        .expect("the queue is empty");
    drop(receiver);
    assert_eq!(Arc::strong_count(&token), 1);
    assert_eq!(sender.occupancy().bytes, 0);
    let refused = sender.try_push(Priority::Low, Held(token));
    assert!(matches!(refused, Err(PushError::Closed(Held(_)))));
}

#[derive(Debug)]
struct Held(Arc<()>);

impl Weigh for Held {
    fn weight_bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}

// Sleeping and waking.

#[test]
fn a_sleeping_consumer_is_woken_once_for_any_number_of_pushes_and_a_running_one_never() {
    let (sender, mut receiver) = queue(64, 1_000);
    let (wakes, waker) = Wakes::counted();
    let mut context = Context::from_waker(&waker);
    sender.try_push(Priority::Low, item(0, 1)).expect("the lane has room");
    assert_eq!(wakes.count(), 0);
    assert_eq!(drain_all(&mut receiver), [0]);
    assert_eq!(receiver.poll_ready(&mut context), Poll::Pending);
    for number in 1..=10 {
        sender
            .try_push(Priority::Low, item(number, 1))
            .expect("the lane has room");
    }
    let mut batch = VecDeque::from([item(11, 1), item(12, 1)]);
    sender
        .try_push_batch(Priority::High, &mut batch)
        .expect("the lane has room");
    assert_eq!(wakes.count(), 1);
    assert_eq!(receiver.poll_ready(&mut context), Poll::Ready(Readiness::Items));
}

#[test]
fn closing_wakes_a_sleeping_consumer_and_every_waiting_producer() {
    let (sender, mut receiver) = queue(1, 1_000);
    let (wakes, waker) = Wakes::counted();
    let mut context = Context::from_waker(&waker);
    assert_eq!(receiver.poll_ready(&mut context), Poll::Pending);
    receiver.close();
    assert_eq!(wakes.count(), 1);
    assert_eq!(receiver.poll_ready(&mut context), Poll::Ready(Readiness::Closed));

    let (other, other_receiver) = queue(1, 1_000);
    other.try_push(Priority::Low, item(0, 1)).expect("the queue is empty");
    let mut first = pin!(other.push(Priority::Low, item(1, 1)));
    let mut second = pin!(other.push(Priority::Low, item(2, 1)));
    assert_eq!(first.as_mut().poll(&mut context), Poll::Pending);
    assert_eq!(second.as_mut().poll(&mut context), Poll::Pending);
    drop(other_receiver);
    assert_eq!(wakes.count(), 3);
    assert_eq!(
        first.poll(&mut context),
        Poll::Ready(Err(PushError::Closed(item(1, 1))))
    );
    assert_eq!(
        second.poll(&mut context),
        Poll::Ready(Err(PushError::Closed(item(2, 1))))
    );
    drop(sender);
}

#[test]
fn a_waiting_producer_that_is_cancelled_leaves_neither_its_item_nor_its_place_in_the_list() {
    let (sender, mut receiver) = queue(1, 1_000);
    let (wakes, waker) = Wakes::counted();
    let mut context = Context::from_waker(&waker);
    sender.try_push(Priority::Low, item(0, 1)).expect("the queue is empty");
    {
        let mut cancelled = pin!(sender.push(Priority::Low, item(1, 1)));
        assert_eq!(cancelled.as_mut().poll(&mut context), Poll::Pending);
    }
    let mut patient = pin!(sender.push(Priority::Low, item(2, 1)));
    assert_eq!(patient.as_mut().poll(&mut context), Poll::Pending);
    assert_eq!(
        patient.as_mut().poll(&mut context),
        Poll::Pending,
        "asked again, it is listed once"
    );
    assert_eq!(drain_all(&mut receiver), [0]);
    assert_eq!(wakes.count(), 1);
    assert_eq!(patient.poll(&mut context), Poll::Ready(Ok(())));
    assert_eq!(drain_all(&mut receiver), [2]);
    assert_eq!(wakes.count(), 1, "a drain that nobody waits for wakes nobody");
}

#[test]
fn a_waiting_producer_is_told_of_room_once_half_a_bound_is_free_or_all_is_drained() {
    let (wakes, waker) = Wakes::counted();
    let mut context = Context::from_waker(&waker);
    let mut drained_until_woken = |weight: usize, queued: usize, waiting: usize| {
        let (sender, mut receiver) = queue(8, 100);
        for number in 0..queued {
            sender
                .try_push(Priority::Low, item(number, weight))
                .expect("the lane has room");
        }
        let mut push = pin!(sender.push(Priority::Low, item(queued, waiting)));
        assert_eq!(push.as_mut().poll(&mut context), Poll::Pending);
        let before = wakes.count();
        let mut out = Vec::new();
        while wakes.count() == before {
            assert_eq!(receiver.drain(1, &mut out), 1, "drained, and nobody was told");
        }
        out.len()
    };
    assert_eq!(drained_until_woken(1, 8, 1), 4, "half of eight items");
    assert_eq!(drained_until_woken(20, 5, 1), 3, "half of 100 bytes");
    assert_eq!(drained_until_woken(20, 1, 100), 1, "all that there was");
}

#[test]
fn beyond_the_most_waiters_a_producer_is_told_that_the_queue_is_full() {
    let (sender, _receiver) = queue(1, 1_000);
    let mut context = Context::from_waker(Waker::noop());
    sender.try_push(Priority::Low, item(0, 1)).expect("the queue is empty");
    let mut waiting: Vec<_> = (0..super::space::WAITERS_MAX)
        .map(|number| Box::pin(sender.push(Priority::Low, item(number, 1))))
        .collect();
    for push in &mut waiting {
        assert_eq!(push.as_mut().poll(&mut context), Poll::Pending);
    }
    let outcome = pin!(sender.push(Priority::Low, item(7, 1))).poll(&mut context);
    let refused = PushError::Full {
        bound: Bound::Items,
        item: item(7, 1),
    };
    assert_eq!(outcome, Poll::Ready(Err(refused)));
}

#[test]
fn a_parked_thread_is_woken_by_a_push_by_the_end_and_by_its_own_waker() {
    let (sender, mut receiver) = queue(8, 1_000);
    thread_waker().wake();
    assert_eq!(receiver.park_timeout(Duration::MAX), None, "unparked by another source");
    let consumer = thread::spawn(move || {
        let (mut out, mut seen) = (Vec::new(), 0);
        loop {
            match receiver.park_timeout(Duration::MAX) {
                Some(Readiness::Items) => seen += receiver.drain(usize::MAX, &mut out),
                Some(Readiness::Closed) => return seen,
                None => {}
            }
        }
    });
    for number in 0..1_000 {
        let mut pending = Some(item(number, 1));
        while let Some(item) = pending.take() {
            pending = sender.try_push(Priority::Normal, item).err().map(PushError::into_item);
            thread::yield_now();
        }
    }
    drop(sender);
    assert_eq!(consumer.join().expect("the consumer does not panic"), 1_000);
}

#[test]
fn a_park_without_a_push_ends_by_its_timeout() {
    let (_sender, mut receiver) = queue(8, 1_000);
    assert_eq!(receiver.park_timeout(Duration::from_millis(1)), None);
}

// Everything at once.

const PRODUCERS: usize = 8;
const ITEMS_EACH: usize = 20_000;

/// A number that tells the producer and the position among its items.
const fn number_of(producer: usize, position: usize) -> usize {
    producer * ITEMS_EACH + position
}

async fn produce(sender: Sender<Item>, producer: usize) {
    let priority = Priority::DESCENDING[producer % Priority::COUNT];
    let mut batch = VecDeque::new();
    for position in 0..ITEMS_EACH {
        let item = item(number_of(producer, position), position % 7);
        // Every third run of items goes as a batch, the rest one by one.
        if position / 16 % 3 == 0 {
            batch.push_back(item);
            continue;
        }
        while let Err(error) = sender.try_push_batch(priority, &mut batch) {
            assert!(matches!(error, BatchError::Full(_)));
            let first = batch.pop_front().expect("a refused batch is not empty");
            sender.push(priority, first).await.expect("nobody closes");
        }
        sender.push(priority, item).await.expect("nobody closes");
    }
    for item in batch {
        sender.push(priority, item).await.expect("nobody closes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_producers_deliver_each_item_once_and_in_their_order_through_a_small_queue() {
    let (sender, mut receiver) = queue(16, 100);
    for producer in 0..PRODUCERS {
        tokio::spawn(produce(sender.clone(), producer));
    }
    drop(sender);
    let mut out = Vec::new();
    while receiver.ready().await == Readiness::Items {
        receiver.drain(5, &mut out);
        tokio::task::yield_now().await;
    }
    assert_eq!(receiver.occupancy(), super::Occupancy::default());
    assert_eq!(
        out.iter().map(|item| item.number).collect::<HashSet<_>>().len(),
        out.len()
    );
    assert_eq!(out.len(), PRODUCERS * ITEMS_EACH);
    for producer in 0..PRODUCERS {
        let own = out.iter().filter(|item| item.number / ITEMS_EACH == producer);
        assert!(
            own.map(|item| item.number)
                .eq((0..ITEMS_EACH).map(|position| number_of(producer, position)))
        );
    }
}
