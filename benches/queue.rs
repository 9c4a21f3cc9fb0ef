//! What a queue costs an item: our lanes beside what else could carry it, with two producers and one consumer.
//!
//! Run it with `cargo bench --bench queue --profile ci`. Every queue holds 4,096 items and is drained 256 at a time
//! by its own best means; producers and consumer are tasks on a runtime of two threads, and wait asynchronously.
//! The spinning `ArrayQueue` shows what the ring under the lanes does when nobody ever sleeps.

use std::{collections::VecDeque, hint::black_box, num::NonZeroUsize, sync::Arc, time::Duration};

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use crossbeam::queue::ArrayQueue;
use tokio::{
    runtime::{Builder, Runtime},
    task::yield_now,
};
use weft::{
    frame::Priority,
    queue::{BatchError, Bounds, Readiness, Receiver, Sender, Weigh, lanes},
    time::monotonic,
};

const PRODUCERS: u64 = 2;
const CAPACITY: usize = 4_096;
const BUDGET: usize = 256;
/// Items that a producer has at hand when it pushes batches, as a worker has after a commit.
const BATCH: usize = 16;

/// As large as a frame: two `Bytes` and the fabric part.
#[derive(Clone, Copy, Default)]
struct Item([u64; 12]);

impl Item {
    fn new(number: u64) -> Self {
        Self([number; 12])
    }
}

impl Weigh for Item {
    fn weight_bytes(&self) -> usize {
        size_of_val(&self.0)
    }
}

fn ours() -> (Sender<Item>, Receiver<Item>) {
    lanes(Bounds {
        items_per_lane_max: NonZeroUsize::new(CAPACITY).expect("above 0"),
        bytes_max: NonZeroUsize::new(64 << 20).expect("above 0"),
        parts_max: NonZeroUsize::MAX,
    })
}

/// Runs the producers and the consumer to their end and returns how long that took.
fn race<P, C>(runtime: &Runtime, producer: impl Fn() -> P, consumer: C) -> Duration
where
    P: Future<Output = ()> + Send + 'static,
    C: Future<Output = u64> + Send + 'static,
{
    runtime.block_on(async {
        let begin = monotonic();
        let consumer = tokio::spawn(consumer);
        let producers: Vec<_> = (0..PRODUCERS).map(|_| tokio::spawn(producer())).collect();
        for producer in producers {
            producer.await.expect("a producer does not panic");
        }
        black_box(consumer.await.expect("the consumer does not panic"));
        begin.elapsed()
    })
}

async fn consume_lanes(mut receiver: Receiver<Item>, count: u64) {
    let mut out = Vec::with_capacity(BUDGET);
    let mut left = count;
    while left > 0 && receiver.ready().await == Readiness::Items {
        left -= receiver.drain(BUDGET, &mut out) as u64;
        black_box(&out);
        out.clear();
    }
}

fn lanes_one_by_one(runtime: &Runtime, each: u64) -> Duration {
    let (sender, receiver) = ours();
    let produce = || {
        let sender = sender.clone();
        async move {
            for number in 0..each {
                let pushed = sender.push(Priority::Normal, Item::new(number)).await;
                assert!(pushed.is_ok());
            }
        }
    };
    race(runtime, produce, async move {
        consume_lanes(receiver, each * PRODUCERS).await;
        each
    })
}

fn lanes_in_batches(runtime: &Runtime, each: u64) -> Duration {
    let (sender, receiver) = ours();
    let produce = || {
        let sender = sender.clone();
        async move {
            let (mut batch, mut number) = (VecDeque::with_capacity(BATCH), 0);
            while number < each || !batch.is_empty() {
                while batch.len() < BATCH && number < each {
                    batch.push_back(Item::new(number));
                    number += 1;
                }
                if let Err(error) = sender.try_push_batch(Priority::Normal, &mut batch) {
                    assert!(matches!(error, BatchError::Full(_)));
                    let first = batch.pop_front().expect("a refused batch is not empty");
                    assert!(sender.push(Priority::Normal, first).await.is_ok());
                }
            }
        }
    };
    race(runtime, produce, async move {
        consume_lanes(receiver, each * PRODUCERS).await;
        each
    })
}

fn flume_channel(runtime: &Runtime, each: u64) -> Duration {
    let (sender, receiver) = flume::bounded(CAPACITY);
    let produce = || {
        let sender = sender.clone();
        async move {
            for number in 0..each {
                assert!(sender.send_async(Item::new(number)).await.is_ok());
            }
        }
    };
    race(runtime, produce, async move {
        let mut out = Vec::with_capacity(BUDGET);
        let mut left = each * PRODUCERS;
        while left > 0 {
            out.push(receiver.recv_async().await.expect("a sender is kept"));
            out.extend(receiver.try_iter().take(BUDGET - 1));
            left -= out.len() as u64;
            black_box(&out);
            out.clear();
        }
        left
    })
}

fn tokio_channel(runtime: &Runtime, each: u64) -> Duration {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(CAPACITY);
    let produce = || {
        let sender = sender.clone();
        async move {
            for number in 0..each {
                assert!(sender.send(Item::new(number)).await.is_ok());
            }
        }
    };
    race(runtime, produce, async move {
        let mut out = Vec::with_capacity(BUDGET);
        let mut left = each * PRODUCERS;
        while left > 0 {
            left -= receiver.recv_many(&mut out, BUDGET).await as u64;
            black_box(&out);
            out.clear();
        }
        left
    })
}

fn spinning_ring(runtime: &Runtime, each: u64) -> Duration {
    let ring = Arc::new(ArrayQueue::new(CAPACITY));
    let produce = || {
        let ring = Arc::clone(&ring);
        async move {
            for number in 0..each {
                while ring.push(Item::new(number)).is_err() {
                    yield_now().await;
                }
            }
        }
    };
    let consumed = Arc::clone(&ring);
    race(runtime, produce, async move {
        let mut out = Vec::with_capacity(BUDGET);
        let mut left = each * PRODUCERS;
        while left > 0 {
            out.extend(std::iter::from_fn(|| consumed.pop()).take(BUDGET));
            if out.is_empty() {
                yield_now().await;
            }
            left -= out.len() as u64;
            black_box(&out);
            out.clear();
        }
        left
    })
}

fn two_producers(criterion: &mut Criterion) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .expect("two threads can be had");
    let mut group = criterion.benchmark_group("two_producers_one_async_consumer");
    group.throughput(Throughput::Elements(PRODUCERS));
    let mut bench = |name, run: fn(&Runtime, u64) -> Duration| {
        group.bench_function(name, |bencher| bencher.iter_custom(|each| run(&runtime, each)));
    };
    bench("lanes", lanes_one_by_one);
    bench("lanes_in_batches_of_16", lanes_in_batches);
    bench("flume", flume_channel);
    bench("tokio_mpsc", tokio_channel);
    bench("array_queue_spinning", spinning_ring);
    group.finish();
}

/// Filling with 256 items and draining them again, on one thread: the cost without contention or sleep.
fn one_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one_thread_push_and_drain");
    group.throughput(Throughput::Elements(BUDGET as u64));
    one_thread_lanes(&mut group);
    let mut out = Vec::with_capacity(BUDGET);
    let (flume_sender, flume_receiver) = flume::bounded(CAPACITY);
    group.bench_function("flume", |bencher| {
        bencher.iter(|| {
            (0..BUDGET as u64).for_each(|number| assert!(flume_sender.try_send(Item::new(number)).is_ok()));
            out.extend(flume_receiver.try_iter().take(BUDGET));
            black_box(&out);
            out.clear();
        });
    });
    let (tokio_sender, mut tokio_receiver) = tokio::sync::mpsc::channel(CAPACITY);
    group.bench_function("tokio_mpsc", |bencher| {
        bencher.iter(|| {
            (0..BUDGET as u64).for_each(|number| assert!(tokio_sender.try_send(Item::new(number)).is_ok()));
            out.extend(std::iter::from_fn(|| tokio_receiver.try_recv().ok()).take(BUDGET));
            black_box(&out);
            out.clear();
        });
    });
    let ring = ArrayQueue::new(CAPACITY);
    group.bench_function("array_queue", |bencher| {
        bencher.iter(|| {
            (0..BUDGET as u64).for_each(|number| assert!(ring.push(Item::new(number)).is_ok()));
            out.extend(std::iter::from_fn(|| ring.pop()).take(BUDGET));
            black_box(&out);
            out.clear();
        });
    });
    group.finish();
}

fn one_thread_lanes(group: &mut BenchmarkGroup<'_, WallTime>) {
    let mut out = Vec::with_capacity(BUDGET);
    let (sender, mut receiver) = ours();
    group.bench_function("lanes", |bencher| {
        bencher.iter(|| {
            for number in 0..BUDGET as u64 {
                assert!(sender.try_push(Priority::Normal, Item::new(number)).is_ok());
            }
            receiver.drain(BUDGET, &mut out);
            black_box(&out);
            out.clear();
        });
    });
    group.bench_function("lanes_all_four_priorities", |bencher| {
        bencher.iter(|| {
            for number in 0..BUDGET as u64 {
                let priority = Priority::DESCENDING[number as usize % Priority::COUNT];
                assert!(sender.try_push(priority, Item::new(number)).is_ok());
            }
            receiver.drain(BUDGET, &mut out);
            black_box(&out);
            out.clear();
        });
    });
    let mut batch = VecDeque::with_capacity(BUDGET);
    group.bench_function("lanes_in_batches_of_16", |bencher| {
        bencher.iter(|| {
            for number in 0..BUDGET as u64 {
                batch.push_back(Item::new(number));
                if batch.len() == BATCH {
                    assert!(sender.try_push_batch(Priority::Normal, &mut batch).is_ok());
                }
            }
            receiver.drain(BUDGET, &mut out);
            black_box(&out);
            out.clear();
        });
    });
}

criterion_group! {
    name = queue;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20)
        .without_plots();
    targets = two_producers, one_thread
}
criterion_main!(queue);
