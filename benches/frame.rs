//! What a message costs as bytes: built, checked, read in place, and in batches.
//!
//! `cargo bench --profile ci --bench frame`. Bodies have 256 bytes; a batch's figures are for each of its messages.

mod common;

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weft::frame::{
    Address, Envelope, Frame, Qos,
    batch::{self, Compression, Packer},
};

use common::{body, draft, frame, receiver};

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

fn encode(frames: &[Frame], into: &mut BytesMut) {
    let mut packer = Packer::with_capacity(into.capacity());
    frames.iter().for_each(|frame| packer.push(frame, None, ""));
    let mut parts = Vec::new();
    packer.finish(0, Compression::None, &mut parts);
    parts.iter().for_each(|part| into.extend_from_slice(part));
}

fn decode(mut encoded: Bytes, into: &mut Vec<Frame>) {
    batch::decode(&mut encoded, |item| into.push(item.frame)).expect("a batch");
}

fn batches(criterion: &mut Criterion) {
    let to = Address::agent(&receiver(0));
    let body = body();
    for count in BATCHES {
        let frames: Vec<Frame> = (0..count).map(|at| frame(at, &to, Qos::AtMostOnce, &body)).collect();
        let mut encoded = BytesMut::new();
        encode(&frames, &mut encoded);
        let encoded = encoded.freeze();
        let mut group = criterion.benchmark_group(format!("batch_of_{count}"));
        group.throughput(Throughput::Elements(count));
        group.bench_function("encode", |bencher| {
            let mut into = BytesMut::with_capacity(encoded.len());
            bencher.iter(|| {
                into.clear();
                encode(black_box(&frames), &mut into);
            });
        });
        group.bench_function("decode", |bencher| {
            let mut into = Vec::with_capacity(frames.len());
            bencher.iter(|| {
                into.clear();
                decode(black_box(encoded.clone()), &mut into);
            });
        });
        group.finish();
    }
}

criterion_group!(benches, single, batches);
criterion_main!(benches);
