//! What a message costs as bytes: built, checked, read in place, and in batches.
//!
//! `cargo bench --profile ci --bench frame`. Bodies have 256 bytes; a batch's figures are for each of its messages.

mod common;

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weft::frame::{Address, Envelope, Frame, Qos};

use common::{body, decode_batch, draft, encode_batch, frame, receiver};

const BATCHES: [u64; 3] = [1, 32, 256];

fn single(criterion: &mut Criterion) {
    let to = Address::agent(&receiver(0));
    let body = body();
    let built = frame(1, &to, Qos::AtMostOnce, &body);
    let archived = built.envelope.as_bytes().clone();
    let mut encoded = BytesMut::new();
    built.encode(&mut encoded);
    let encoded = encoded.freeze();
    let mut group = criterion.benchmark_group("frame");
    group.bench_function("build", |bencher| {
        let draft = draft(1, &to, Qos::AtMostOnce);
        bencher.iter(|| {
            let envelope = draft.clone().archive().expect("within the limits");
            Frame::new(envelope, body.clone()).expect("within the limits")
        });
    });
    group.bench_function("validate", |bencher| {
        bencher.iter(|| Envelope::validate(archived.clone()).expect("an envelope"));
    });
    group.bench_function("access", |bencher| {
        bencher.iter(|| {
            let envelope = black_box(&built.envelope);
            black_box((
                envelope.from(),
                envelope.to(),
                envelope.id(),
                envelope.qos(),
                envelope.priority(),
            ));
        });
    });
    group.bench_function("encode", |bencher| {
        let mut into = BytesMut::with_capacity(encoded.len());
        bencher.iter(|| {
            into.clear();
            black_box(&built).encode(&mut into);
        });
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| Frame::decode(&mut black_box(encoded.clone())).expect("a frame"));
    });
    group.finish();
}

fn batches(criterion: &mut Criterion) {
    let to = Address::agent(&receiver(0));
    let body = body();
    for count in BATCHES {
        let frames: Vec<Frame> = (0..count).map(|at| frame(at, &to, Qos::AtMostOnce, &body)).collect();
        let mut encoded = BytesMut::new();
        encode_batch(&frames, &mut encoded);
        let encoded = encoded.freeze();
        let mut group = criterion.benchmark_group(format!("batch_of_{count}"));
        group.throughput(Throughput::Elements(count));
        group.bench_function("encode", |bencher| {
            let mut into = BytesMut::with_capacity(encoded.len());
            bencher.iter(|| {
                into.clear();
                encode_batch(black_box(&frames), &mut into);
            });
        });
        group.bench_function("decode", |bencher| {
            let mut into = Vec::with_capacity(frames.len());
            bencher.iter(|| {
                into.clear();
                decode_batch(black_box(encoded.clone()), &mut into);
            });
        });
        group.finish();
    }
}

criterion_group!(benches, single, batches);
criterion_main!(benches);
