//! Messages a second through the whole fabric in one process, without an edge: door, shard worker, store, lane.
//!
//! Each sample sends a fixed number of 256-byte messages from one stream to one session and waits until all are received (QoS 0) or
//! acknowledged and settled (QoS 1). Run with `cargo bench --bench fabric --profile ci`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weft::{
    frame::{AgentId, Draft, Frame, Qos},
    router::{
        Fabric,
        config::Config,
        port::{AllowAll, Ports, Store},
        surface::{Attach, Inbox, Principal, Protocol, Sending, SessionQueue, Window},
    },
    store::{embedded, memory::MemoryStore},
};

/// Messages of one sample, and of one batch into the door.
const MESSAGES: u64 = 20_000;
const BATCH: u64 = 64;

fn fabric(runtime: &tokio::runtime::Runtime, store: Arc<dyn Store>) -> Fabric {
    let ports = Ports {
        store,
        policy: Arc::new(AllowAll),
    };
    runtime
        .block_on(Fabric::start(ports, Config::default()))
        .expect("an empty store opens")
}

async fn pass(fabric: &Fabric, qos: Qos) {
    let attach = Attach {
        agent: AgentId::new("bob").expect("well-formed"),
        protocol: Protocol::Grpc,
        inbox: Inbox::Open,
        queue: SessionQueue::Ephemeral,
        window: Window::DEFAULT,
        visibility_timeout: None,
    };
    let (session, mut receiver) = fabric.attach(&Principal::Anyone, attach).await.expect("attached");
    let (mut publisher, mut answers) = fabric.publisher(Principal::Anyone, Protocol::Grpc);
    let frames = frames(fabric, qos);
    let sending = tokio::spawn(async move {
        let mut batch = Vec::new();
        for chunk in frames.chunks(BATCH as usize) {
            batch.extend(
                chunk
                    .iter()
                    .enumerate()
                    .map(|(at, frame)| Sending::one(at as u64, frame.clone(), false)),
            );
            publisher.publish(&mut batch).await;
        }
    });
    let answering = tokio::spawn(async move {
        let mut into = Vec::new();
        while answers.next(&mut into).await {
            into.clear();
        }
    });
    let (mut received, mut deliveries) = (0, Vec::new());
    while received < MESSAGES {
        let more = tokio::time::timeout(Duration::from_secs(2), receiver.next(&mut deliveries, 256)).await;
        if more.is_err() {
            // QoS 0 to a session that fell behind: dropped and counted.
            break;
        }
        received += deliveries.len() as u64;
        if qos.is_durable() {
            session.ack_unanswered(deliveries.iter().filter_map(|delivery| delivery.id).collect());
        }
        deliveries.clear();
    }
    sending.await.expect("sent");
    answering.await.expect("answered");
}

fn frames(fabric: &Fabric, qos: Qos) -> Vec<Frame> {
    let body = Bytes::from(vec![7; 256]);
    let frame = |_| {
        let to = "agent:bob".parse().expect("well-formed");
        let mut draft = Draft::new(fabric.new_message_id(), AgentId::new("alice").expect("well-formed"), to);
        draft.qos = qos;
        Frame::new(draft.archive().expect("within the limits"), body.clone()).expect("within the limits")
    };
    (0..MESSAGES).map(frame).collect()
}

fn bench(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    let embedded = embedded::EmbeddedStore::open(directory.path(), &embedded::Config::default()).expect("opens");
    let mut group = criterion.benchmark_group("fabric");
    group
        .throughput(Throughput::Elements(MESSAGES))
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    let memory = fabric(&runtime, Arc::new(MemoryStore::new(7, 1 << 32)));
    group.bench_function("qos0_memory", |b| {
        b.iter(|| runtime.block_on(pass(&memory, Qos::AtMostOnce)))
    });
    group.bench_function("qos1_memory", |b| {
        b.iter(|| runtime.block_on(pass(&memory, Qos::AtLeastOnce)))
    });
    let durable = fabric(&runtime, Arc::new(embedded));
    group.bench_function("qos1_fsync", |b| {
        b.iter(|| runtime.block_on(pass(&durable, Qos::AtLeastOnce)))
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
