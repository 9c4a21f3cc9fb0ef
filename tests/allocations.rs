//! What a QoS 0 message costs in memory on its way: no allocation of its own, and no copy of its body.
//!
//! Counted with an allocator of the test's own, in a process of its own. The bounds are far below one a message: what is left are a
//! batch's buffers, its place in a worker's inbox and in a lane.

#![allow(unsafe_code, reason = "an allocator that counts")]

#[allow(dead_code, reason = "one of its users needs the rest")]
mod quic_node;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use quic_node::{Server, within};
use weft::{
    client::{Message, SessionOptions},
    frame::{
        AgentId, Draft, Frame, Qos, Run, RunBuilder,
        batch::{self, Compression, Packer, Part},
    },
    router::{
        Fabric, Publisher, SessionReceiver,
        config::Config,
        port::{AllowAll, Ports},
        surface::{Attach, Inbox, Piece, Principal, Protocol, Sending, SessionQueue, Window},
    },
    store::memory::MemoryStore,
};

/// Counts what is asked for.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: the system's allocator does all of it; a counter is added to.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Messages of a batch: 64 KiB of them.
const BATCH: usize = 250;
const BODY_BYTES: usize = 256;

fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

/// Allocations a message.
fn each(allocations: u64, messages: usize) -> f64 {
    allocations as f64 / messages as f64
}

fn run() -> Run {
    let frame = |number: usize| {
        let (from, to) = ("alice".parse().unwrap(), "agent:bob".parse().unwrap());
        let mut draft = Draft::new(format!("message-{number:08}").parse().unwrap(), from, to);
        draft.qos = Qos::AtMostOnce;
        Frame::new(draft.archive().unwrap(), Bytes::from(vec![7; BODY_BYTES])).unwrap()
    };
    let mut builder = RunBuilder::new(frame(0));
    for number in 1..BATCH {
        let frame = frame(number);
        assert!(builder.push(frame.envelope.id().as_bytes(), &frame.body, 0));
    }
    builder.finish()
}

/// A batch as bytes, as a connection brings it.
fn encoded() -> Bytes {
    let mut packer = Packer::with_capacity(0);
    packer.push_run(&run(), "");
    let mut parts = Vec::new();
    packer.finish(0, Compression::None, &mut parts);
    parts.concat().into()
}

/// From the bytes of one connection to the parts that another is given to write, as the native edge does it.
async fn pass(
    mut came: Bytes,
    publisher: &mut Publisher,
    receiver: &mut SessionReceiver,
    work: &mut (Vec<Sending>, Vec<Piece>, Vec<Bytes>),
) {
    let (sendings, pieces, parts) = work;
    let sending = |part: Part<'_>| match part {
        Part::Run { run, .. } => Sending::Pass(None, run),
        Part::Frame(item) => panic!("QoS 0 comes in runs: {item:?}"),
    };
    batch::decode(&mut came, |part| sendings.push(sending(part))).unwrap();
    publisher.publish(sendings).await;
    within(receiver.next_pieces(pieces, 10_000)).await;
    let mut packer = Packer::with_capacity(512);
    for piece in pieces.drain(..) {
        match piece {
            Piece::Run { run, .. } => packer.push_run(&run, ""),
            Piece::One(one) => panic!("it came as a run: {one:?}"),
        }
    }
    assert_eq!(packer.frames(), BATCH);
    packer.finish(0, Compression::None, parts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qos_0_message_costs_no_allocation_and_no_copy_of_its_body() {
    through_the_fabric().await;
    between_two_sessions().await;
}

async fn through_the_fabric() {
    let ports = Ports {
        store: Arc::new(MemoryStore::new(7, 1 << 30)),
        policy: Arc::new(AllowAll),
    };
    let fabric = Fabric::start(ports, Config::default()).await.unwrap();
    let attach = Attach {
        agent: AgentId::new("bob").unwrap(),
        protocol: Protocol::Quic,
        inbox: Inbox::Open,
        queue: SessionQueue::Ephemeral,
        window: Window::DEFAULT,
        visibility_timeout: None,
    };
    let (_session, mut receiver) = fabric.attach(&Principal::Anyone, attach).await.unwrap();
    let (mut publisher, _answers) = fabric.publisher(Principal::Anyone, Protocol::Quic);
    let mut work = Default::default();
    let came = encoded();
    for _ in 0..50 {
        pass(came.clone(), &mut publisher, &mut receiver, &mut work).await;
        work.2.clear();
    }
    let (rounds, before) = (200, allocations());
    for _ in 0..rounds {
        pass(came.clone(), &mut publisher, &mut receiver, &mut work).await;
        let bodies = work
            .2
            .iter()
            .filter(|part| came.as_ptr_range().contains(&part.as_ptr()));
        let untouched: usize = bodies.map(Bytes::len).sum();
        assert!(
            untouched >= BATCH * BODY_BYTES,
            "bodies were copied: {untouched} bytes were not"
        );
        work.2.clear();
    }
    let cost = each(allocations() - before, rounds * BATCH);
    assert!(cost < 0.1, "{cost} allocations a message through the fabric");
}

/// The same over sockets, with both clients and the transport in the count.
async fn between_two_sessions() {
    const AT_ONCE: usize = 4 * BATCH;
    let server = Server::start().await;
    let client = server.client().await;
    let agent = |name: &str| AgentId::new(name).unwrap();
    let sender = client
        .session(&agent("alice"), SessionOptions::send_only())
        .await
        .unwrap();
    let receiver = client.session(&agent("bob"), SessionOptions::default()).await.unwrap();
    let message = || Message::to_agent(&agent("bob")).qos(Qos::AtMostOnce);
    let bodies = vec![[7; BODY_BYTES]; AT_ONCE];
    let mut got = Vec::with_capacity(AT_ONCE);
    let (mut counted, rounds) = (0, 60);
    for round in 0..2 * rounds {
        let before = allocations();
        within(sender.send_run(message(), &bodies)).await.unwrap();
        while got.len() < AT_ONCE {
            within(receiver.recv_batch(&mut got, AT_ONCE)).await.unwrap();
        }
        if round >= rounds {
            counted += allocations() - before;
        }
        got.clear();
    }
    let cost = each(counted, rounds * AT_ONCE);
    assert!(cost < 0.75, "{cost} allocations a message from client to client");
    server.stop().await;
}
