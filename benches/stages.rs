//! The way of a message, stage by stage, for counting instructions: each stage alone, on as many messages as are asked for.
//!
//! Times on a shared machine move by a fifth from run to run; the number of instructions does not. `benches/instructions` runs
//! this under callgrind with two numbers of messages and takes the difference, so that what is done once falls out. The threads of
//! the stages `fabric-…` are counted together: a shard's step runs on the sender's or on its own, as it happens.
//!
//! ```text
//! cargo bench --profile ci --bench stages -- shard-qos0 10000
//! ```

mod common;

use std::{hint::black_box, num::NonZeroUsize, process::ExitCode, sync::Arc};

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use weft::{
    frame::{
        Address, Frame, MessageId, Priority, Qos, Run, Seq, ShardId,
        batch::{Compression, Packer},
        record::{Enqueue, IdHash, MessageKey, Op},
    },
    queue::{Bounds, Readiness, Weigh, lanes},
    router::{
        Fabric,
        config::Config,
        port::{AllowAll, Durability, Ports, ShardCommit, Store},
        surface::{Attach, Inbox, Piece, Principal, Protocol, Sending, SessionQueue, Window},
    },
    rpc::{
        self, BATCH_MESSAGES, Deliveries, Gatherer, Parcel, SendFrame,
        convert::{incoming, outgoing},
        v1,
    },
    store::{
        embedded::{self, EmbeddedStore},
        memory::MemoryStore,
    },
};

use common::{Shard, body, decode_batch, encode_batch, frame, receiver};

// As the program has it: its cost is part of the count.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Messages of a batch inside the node.
const BATCH: usize = 64;
/// Messages of a commit.
const COMMIT: u64 = 100;

type Stage = (&'static str, fn(u64));

const STAGES: [Stage; 10] = [
    ("decode-native", decode_native),
    ("decode-grpc", decode_grpc),
    ("fabric-runs", fabric_runs),
    ("fabric-single", fabric_single),
    ("shard-qos0", shard_qos0),
    ("shard-qos1", shard_qos1),
    ("store", store),
    ("lane", lane),
    ("encode-native", encode_native),
    ("encode-grpc", encode_grpc),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (Some(name), count) = (arguments.next(), arguments.next()) else {
        let names = STAGES.map(|(name, _)| name).join(" ");
        eprintln!("stages: one of {names}, and a number of messages; benches/instructions counts them all");
        return ExitCode::SUCCESS;
    };
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(10_000);
    let Some((_, stage)) = STAGES.iter().find(|(known, _)| *known == name) else {
        eprintln!("stages: there is no stage {name}");
        return ExitCode::from(2);
    };
    stage(count);
    ExitCode::SUCCESS
}

fn inbox() -> Address {
    Address::agent(&receiver(0))
}

fn frames(count: usize, qos: Qos) -> Vec<Frame> {
    let body = body();
    (0..count as u64).map(|at| frame(at, &inbox(), qos, &body)).collect()
}

/// How often a batch is worked on, for so many messages.
fn rounds(count: u64, batch: usize) -> u64 {
    count.div_ceil(batch as u64)
}

/// A batch as bytes to runs for the door.
fn decode_native(count: u64) {
    let mut encoded = BytesMut::new();
    encode_batch(&frames(BATCH, Qos::AtMostOnce), &mut encoded);
    let encoded = encoded.freeze();
    let mut into = Vec::with_capacity(BATCH);
    for _ in 0..rounds(count, BATCH) {
        into.clear();
        decode_batch(black_box(encoded.clone()), &mut into);
        black_box(&into);
    }
}

/// A session's runs to a batch as bytes.
fn encode_native(count: u64) {
    let mut encoded = BytesMut::new();
    encode_batch(&frames(BATCH, Qos::AtMostOnce), &mut encoded);
    let mut batch = Vec::new();
    decode_batch(encoded.freeze(), &mut batch);
    let mut parts = Vec::new();
    for _ in 0..rounds(count, BATCH) {
        let mut packer = Packer::with_capacity(32 * 1024);
        for sending in black_box(&batch) {
            if let Sending::Pass(_, run) = sending {
                packer.push_run(run, "");
            }
        }
        packer.finish(0, Compression::None, &mut parts);
        black_box(&parts);
        parts.clear();
    }
}

/// A stream's item as bytes to runs for the door.
fn decode_grpc(count: u64) {
    let messages = frames(BATCH_MESSAGES, Qos::AtMostOnce)
        .iter()
        .map(|frame| Parcel::Message(outgoing(frame)))
        .collect();
    let send = SendFrame {
        messages,
        ..Default::default()
    };
    let item = v1::ClientFrame {
        frame: Some(v1::client_frame::Frame::Send(send)),
    };
    let encoded = Bytes::from(item.encode_to_vec());
    for _ in 0..rounds(count, BATCH_MESSAGES) {
        let item = v1::ClientFrame::decode(black_box(encoded.clone())).expect("an item");
        let Some(v1::client_frame::Frame::Send(send)) = item.frame else {
            panic!("a send was encoded");
        };
        let mut gatherer = Gatherer::default();
        for parcel in send.messages {
            let Parcel::Encoded(bytes) = &parcel else {
                panic!("it came as bytes");
            };
            if !gatherer.add(bytes) {
                let (bytes, new_id) = (bytes.clone(), || MessageId::new("none").expect("well-formed"));
                let frame = incoming(parcel, None, new_id).expect("well-formed");
                black_box(gatherer.begin(bytes, frame, BATCH_MESSAGES));
            }
        }
        black_box(gatherer.finish());
    }
}

/// Deliveries to a stream's item as bytes.
fn encode_grpc(count: u64) {
    let mut encoded = BytesMut::new();
    encode_batch(&frames(BATCH_MESSAGES, Qos::AtMostOnce), &mut encoded);
    let mut batch = Vec::new();
    decode_batch(encoded.freeze(), &mut batch);
    let mut into = BytesMut::with_capacity(64 * 1024);
    for _ in 0..rounds(count, BATCH_MESSAGES) {
        let mut deliveries = Deliveries::default();
        for sending in &batch {
            if let Sending::Pass(_, run) = sending {
                deliveries.push_run(run, &rpc::Delivery::default());
            }
        }
        let item = v1::ServerFrame {
            frame: Some(v1::server_frame::Frame::Deliveries(deliveries)),
        };
        into.clear();
        item.encode(&mut into).expect("the buffer grows");
        black_box(&into);
    }
}

/// Door, worker and lane together, QoS 0: a batch as it came from a connection, in runs.
fn fabric_runs(count: u64) {
    let mut encoded = BytesMut::new();
    encode_batch(&frames(BATCH, Qos::AtMostOnce), &mut encoded);
    let mut batch = Vec::new();
    decode_batch(encoded.freeze(), &mut batch);
    fabric(count, &batch);
}

/// The same, message by message.
fn fabric_single(count: u64) {
    let frames = frames(BATCH, Qos::AtMostOnce);
    let batch: Vec<_> = frames.into_iter().map(|frame| Sending::one(0, frame, false)).collect();
    fabric(count, &batch);
}

fn fabric(count: u64, batch: &[Sending]) {
    let count = rounds(count, BATCH) * BATCH as u64;
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let main = runtime();
    let ports = Ports {
        store: Arc::new(MemoryStore::new(7, 1 << 30)) as Arc<dyn Store>,
        policy: Arc::new(AllowAll),
    };
    let config = Config {
        workers: 1,
        ..Config::default()
    };
    let fabric = main
        .block_on(Fabric::start(ports, config))
        .expect("an empty store opens");
    let attach = Attach {
        agent: receiver(0),
        protocol: Protocol::Grpc,
        inbox: Inbox::Open,
        queue: SessionQueue::Ephemeral,
        window: Window::DEFAULT,
        visibility_timeout: None,
    };
    let attached = main.block_on(fabric.attach(&Principal::Anyone, attach));
    let (session, mut receiver) = attached.expect("attached");
    let (taken, took) = std::sync::mpsc::channel();
    let consuming = std::thread::spawn(move || {
        let mut pieces = Vec::new();
        runtime().block_on(async {
            let mut left = count;
            while left > 0 {
                receiver.next_pieces(&mut pieces, 256).await;
                let count: usize = pieces.iter().map(Piece::frames).sum();
                left = left.saturating_sub(count as u64);
                let _ = taken.send(count);
                pieces.clear();
            }
        });
    });
    let (mut publisher, _answers) = fabric.publisher(Principal::Anyone, Protocol::Grpc);
    let mut publishing = Vec::with_capacity(batch.len());
    let mut left = count;
    while left > 0 {
        publishing.extend(batch.iter().cloned());
        main.block_on(publisher.publish(&mut publishing));
        left = left.saturating_sub(BATCH as u64);
        // One batch under way: whoever runs ahead would be dropped, and the threads take turns as they always do.
        let mut arrived = 0;
        while arrived < BATCH {
            arrived += took.recv().expect("the session lives");
        }
    }
    consuming.join().expect("the session's thread ends");
    drop(session);
}

/// The shard's machine alone, among 100 mailboxes.
fn shard_qos0(count: u64) {
    let mut shard = Shard::new(100);
    let frames = to_all(&shard, Qos::AtMostOnce);
    for _ in 0..rounds(count, BATCH) {
        assert_eq!(shard.pass_at_once(frames.iter().cloned().map(Run::one)), BATCH);
    }
}

fn shard_qos1(count: u64) {
    let mut shard = Shard::new(100);
    let body = body();
    let mut number = 0;
    for _ in 0..rounds(count, BATCH) {
        let inboxes = shard.inboxes.clone();
        let frames = inboxes.iter().cycle().take(BATCH).map(|inbox| {
            number += 1;
            frame(number, inbox, Qos::AtLeastOnce, &body)
        });
        let frames: Vec<Frame> = frames.collect();
        assert_eq!(shard.pass_durable(frames.into_iter()), BATCH);
    }
}

fn to_all(shard: &Shard, qos: Qos) -> Vec<Frame> {
    let body = body();
    let inboxes = shard.inboxes.iter().cycle().take(BATCH);
    inboxes
        .zip(0..)
        .map(|(inbox, at)| frame(at, inbox, qos, &body))
        .collect()
}

/// A frame through the lanes of a queue, pushed in batches as a worker pushes them.
fn lane(count: u64) {
    struct Item(Frame);
    impl Weigh for Item {
        fn weight_bytes(&self) -> usize {
            self.0.encoded_len()
        }
    }
    let (sender, mut receiver) = lanes(Bounds {
        items_per_lane_max: NonZeroUsize::new(4_096).expect("above 0"),
        bytes_max: NonZeroUsize::new(8 << 20).expect("above 0"),
        parts_max: NonZeroUsize::new(4_096).expect("above 0"),
    });
    let frames = frames(BATCH, Qos::AtMostOnce);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let mut batch = std::collections::VecDeque::with_capacity(BATCH);
    let mut out = Vec::with_capacity(BATCH);
    for _ in 0..rounds(count, BATCH) {
        batch.extend(frames.iter().cloned().map(Item));
        assert!(sender.try_push_batch(Priority::Normal, &mut batch).is_ok());
        assert_eq!(runtime.block_on(receiver.ready()), Readiness::Items);
        assert_eq!(receiver.drain(BATCH, &mut out), BATCH);
        black_box(&out);
        out.clear();
    }
}

/// Commits of 100 messages by the embedded store, each synced: the log's records, its index, its writer.
fn store(count: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = EmbeddedStore::open(folder.path(), &embedded::Config::default()).expect("opens");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let shard = ShardId::new(0).expect("a shard");
    let fence = runtime.block_on(store.claim(vec![shard])).expect("nobody else claims")[0];
    let (done, answered) = std::sync::mpsc::channel();
    let frame = frame(0, &inbox(), Qos::AtLeastOnce, &body());
    let mut next = 0;
    for _ in 0..count.div_ceil(COMMIT) {
        let ops = (next..next + COMMIT).map(|number| {
            Op::Enqueue(Enqueue {
                seq: Seq::from_raw(number + 1),
                queue: frame.envelope.address(),
                key: MessageKey::from_raw(u128::from(number)),
                id_hash: IdHash::from_raw(number),
                frame: frame.clone(),
                targets: [].into(),
            })
        });
        let ops = ops.collect();
        next += COMMIT;
        let done = done.clone();
        let outcome = Box::new(move |outcome| drop(done.send(outcome)));
        store.commit(vec![ShardCommit { shard, fence, ops }], Durability::Fsync, outcome);
        let outcome = answered.recv().expect("every commit is answered");
        assert!(outcome.iter().all(Result::is_ok));
    }
}
