//! One shard's step, without an edge, a store or a thread: what a message costs among few and among many mailboxes, and what a
//! duplicate costs that only its receipt remembers.
//!
//! `cargo bench --profile ci --bench delivery`. Batches of 64 messages, as a worker takes them; figures are for each message.

mod common;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use weft::frame::{Frame, Qos, Run};

use common::{Shard, body, frame};

const MAILBOXES: [usize; 3] = [1, 100, 100_000];
const BATCH: u64 = 64;
/// Messages whose receipts are asked for.
const RECEIPTS: u64 = 10_000;

/// A batch to mailboxes spread over all there are, with ids that no batch before had.
fn batch(shard: &Shard, next: &mut u64, qos: Qos) -> Vec<Frame> {
    let body = body();
    let frames = (0..BATCH).map(|_| {
        *next += 1;
        // A prime step visits every mailbox in turn, near ones never one after the other.
        let to = usize::try_from(*next * 7_919).unwrap_or_default() % shard.inboxes.len();
        frame(*next, &shard.inboxes[to], qos, &body)
    });
    frames.collect()
}

fn steps(criterion: &mut Criterion) {
    for mailboxes in MAILBOXES {
        let mut group = criterion.benchmark_group(format!("shard_of_{mailboxes}_mailboxes"));
        group.throughput(Throughput::Elements(BATCH)).sample_size(20);
        let mut next = 0;
        let mut shard = Shard::new(mailboxes);
        group.bench_function("qos_0", |bencher| {
            // Made outside of what is timed, used inside: the same shard must not be borrowed by both.
            let shard = std::cell::RefCell::new(&mut shard);
            bencher.iter_batched(
                || batch(&shard.borrow(), &mut next, Qos::AtMostOnce),
                |frames| {
                    let passed = shard.borrow_mut().pass_at_once(frames.into_iter().map(Run::one));
                    assert_eq!(passed as u64, BATCH);
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_function("qos_1_to_acknowledged", |bencher| {
            let shard = std::cell::RefCell::new(&mut shard);
            bencher.iter_batched(
                || batch(&shard.borrow(), &mut next, Qos::AtLeastOnce),
                |frames| {
                    let passed = shard.borrow_mut().pass_durable(frames.into_iter());
                    assert_eq!(passed as u64, BATCH);
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

/// Messages that come a second time while the first one is unsettled: answered from what the shard remembers.
fn receipts(criterion: &mut Criterion) {
    let mut shard = Shard::new(100);
    let body = body();
    let frames: Vec<Frame> = (0..RECEIPTS)
        .map(|number| {
            let to = &shard.inboxes[usize::try_from(number).unwrap_or_default() % 100];
            frame(number, to, Qos::AtLeastOnce, &body)
        })
        .collect();
    frames.iter().cloned().for_each(|frame| shard.publish(frame));
    shard.commit();
    shard.clear();
    let mut group = criterion.benchmark_group("receipts");
    group.throughput(Throughput::Elements(RECEIPTS)).sample_size(20);
    group.bench_function("duplicate", |bencher| {
        bencher.iter(|| {
            frames.iter().cloned().for_each(|frame| shard.publish(frame));
            shard.clear();
        });
    });
    group.finish();
    black_box(&shard.state);
}

criterion_group!(benches, steps, receipts);
criterion_main!(benches);
