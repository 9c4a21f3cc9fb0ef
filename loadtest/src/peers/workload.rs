//! The same work for every peer: publish and subscribe, request and reply, acknowledged streams.
//!
//! One thread a connection. Publishers keep at most so many messages under way, as weft's scenarios do, so that nobody is measured
//! by what it drops. Start at [`publish_subscribe`].

use std::{
    io::Result,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use weft::time::monotonic;

use super::{
    client::{Client, Language, Security},
    figures::{Figure, Figures},
    nats::Nats,
    redis::Redis,
};
use crate::{child::Server, clock::nanos, measure::latency::Recorder, report::count};

/// Bytes of publications that are written at once, by all publishers together and by one at least.
const CHUNK_BYTES: usize = 64 * 1024;
const CHUNK_BYTES_MIN: usize = 8 * 1024;
/// Messages under way, of all subjects together: 4 MiB of 256-byte messages keep every peer busy.
const UNDER_WAY_MAX: u64 = 16_384;
/// How long a publisher with all under way waits between two looks; as many times longer as there are publishers, but no longer
/// than the second, so that all their looks together cost the same.
const LOOK: Duration = Duration::from_micros(50);
const LOOK_MAX: Duration = Duration::from_millis(5);
/// So long without progress: the peer has lost messages.
const STALL: Duration = Duration::from_secs(5);
/// Stack of a connection's thread: it only moves buffers.
const STACK_BYTES: usize = 128 * 1024;

/// How long to warm up and to measure, and how large bodies are.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub warm_up: Duration,
    pub time: Duration,
    pub body_bytes: usize,
}

/// Who publishes to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// So many pairs, each with a subject of its own.
    Pairs(usize),
    /// One publisher, so many subscribers.
    FanOut(usize),
    /// So many publishers, one subscriber.
    FanIn(usize),
}

/// A peer that runs.
#[derive(Debug)]
pub struct Peer {
    pub server: Server,
    pub address: SocketAddr,
    pub language: Language,
    pub security: Security,
}

#[derive(Debug, Default)]
struct Run {
    stop: AtomicBool,
    /// Messages that publishers of the same subject sent; only where there are several.
    sent: AtomicU64,
    /// Messages that each subscriber got.
    got: Vec<AtomicU64>,
}

impl Run {
    fn delivered(&self) -> u64 {
        self.got.iter().map(|got| got.load(Ordering::Relaxed)).sum()
    }
}

fn spawn(work: impl FnOnce() -> Result<()> + Send + 'static) -> std::result::Result<JoinHandle<Result<()>>, String> {
    let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(work);
    thread.map_err(|error| format!("no further thread: {error}"))
}

/// Deliveries a second and the server's processor time, in this shape.
pub fn publish_subscribe(peer: Peer, shape: Shape, extent: Extent) -> std::result::Result<Figures, String> {
    let (publishers, subscribers) = match shape {
        Shape::Pairs(pairs) => (pairs, pairs),
        Shape::FanOut(subscribers) => (1, subscribers),
        Shape::FanIn(publishers) => (publishers, 1),
    };
    let subject = |index: usize| match shape {
        Shape::Pairs(_) => format!("load.{index}"),
        Shape::FanOut(_) | Shape::FanIn(_) => "load.0".to_owned(),
    };
    let mut run = Run::default();
    run.got.resize_with(subscribers, AtomicU64::default);
    let run = Arc::new(run);
    let mut threads = Vec::new();
    for index in 0..subscribers {
        let mut client = peer.client(&format!("subscriber-{index}"))?;
        client.subscribe(&subject(index)).map_err(|error| error.to_string())?;
        let run = run.clone();
        threads.push(spawn(move || {
            loop {
                let messages = client.messages()?;
                run.got[index].fetch_add(messages, Ordering::Relaxed);
            }
        })?);
    }
    for index in 0..publishers {
        let client = peer.client(&format!("publisher-{index}"))?;
        let publisher = Publisher {
            publication: client.publication(&subject(index), &vec![b'.'; extent.body_bytes]),
            client,
            run: run.clone(),
            subscribers: match shape {
                Shape::Pairs(_) => index..index + 1,
                Shape::FanOut(_) | Shape::FanIn(_) => 0..subscribers,
            },
            shape,
            publishers,
        };
        threads.push(spawn(move || publisher.publish())?);
    }
    let figures = measure(&peer.server, &run, extent);
    run.stop.store(true, Ordering::Relaxed);
    // Its end is the end of every subscriber's connection.
    drop(peer);
    for thread in threads {
        let _ = thread.join();
    }
    figures
}

fn measure(server: &Server, run: &Run, extent: Extent) -> std::result::Result<Figures, String> {
    let look = || (monotonic(), run.delivered(), server.pid().sample());
    thread::sleep(extent.warm_up);
    let before = look();
    thread::sleep(extent.time);
    let after = look();
    let delivered = after.1 - before.1;
    if delivered == 0 {
        return Err("nothing was delivered".into());
    }
    let mut figures = Figures::default();
    let seconds = (after.0 - before.0).as_secs_f64();
    figures.set(Figure::PerSecond, count(delivered) / seconds);
    if let Some((before, after)) = before.2.zip(after.2) {
        figures.set(Figure::ServerCpu, (after.cpu_s - before.cpu_s) * 1e6 / count(delivered));
    }
    Ok(figures)
}

impl Peer {
    fn client(&self, name: &str) -> std::result::Result<Client, String> {
        let client = Client::open(self.language, self.address, &self.security, name);
        client.map_err(|error| format!("{name}: {error}"))
    }
}

struct Publisher {
    client: Client,
    publication: Vec<u8>,
    run: Arc<Run>,
    subscribers: std::ops::Range<usize>,
    shape: Shape,
    publishers: usize,
}

impl Publisher {
    fn publish(mut self) -> Result<()> {
        let bytes = (CHUNK_BYTES / self.publishers).max(CHUNK_BYTES_MIN);
        let each = (bytes / self.publication.len()).max(1);
        let chunk = self.publication.repeat(each);
        let under_way = (UNDER_WAY_MAX / self.subjects()).max(each as u64 * 2);
        let look = (LOOK * u32::try_from(self.publishers).unwrap_or(u32::MAX)).min(LOOK_MAX);
        let (mut sent, mut moved) = (0, monotonic());
        while !self.run.stop.load(Ordering::Relaxed) {
            let of_subject = match self.shape {
                Shape::FanIn(_) => self.run.sent.load(Ordering::Relaxed),
                Shape::Pairs(_) | Shape::FanOut(_) => sent,
            };
            if of_subject + each as u64 > self.reached() + under_way {
                if monotonic() - moved > STALL {
                    return Err(std::io::Error::other("the peer lost messages"));
                }
                thread::sleep(look);
                continue;
            }
            self.run.sent.fetch_add(each as u64, Ordering::Relaxed);
            self.client.publish(&chunk, each as u64)?;
            sent += each as u64;
            moved = monotonic();
        }
        Ok(())
    }

    fn subjects(&self) -> u64 {
        match self.shape {
            Shape::Pairs(pairs) => pairs as u64,
            Shape::FanOut(_) | Shape::FanIn(_) => 1,
        }
    }

    /// How far the slowest subscriber is.
    fn reached(&self) -> u64 {
        let got = self.run.got[self.subscribers.clone()].iter();
        got.map(|got| got.load(Ordering::Relaxed)).min().unwrap_or_default()
    }
}

/// Round trips through NATS, one at a time.
pub fn nats_request_reply(peer: Peer, extent: Extent) -> std::result::Result<Figures, String> {
    let text = |error: std::io::Error| error.to_string();
    let open = || Nats::open(peer.address, &peer.security).map_err(text);
    let (mut responder, mut requester) = (open()?, open()?);
    responder.subscribe("echo").map_err(text)?;
    requester.subscribe("_INBOX.a").map_err(text)?;
    let echo = spawn(move || {
        loop {
            let (reply, body) = responder.message()?;
            let reply = reply.unwrap_or_default();
            responder.wire.write(&Nats::publication(&reply, None, &body))?;
        }
    })?;
    let request = Nats::publication("echo", Some("_INBOX.a"), &vec![b'.'; extent.body_bytes]);
    let begun = monotonic();
    let mut recorder = Recorder::default();
    loop {
        let at = monotonic();
        if at - begun > extent.warm_up + extent.time {
            break;
        }
        requester.wire.write(&request).map_err(text)?;
        requester.message().map_err(text)?;
        if at - begun > extent.warm_up {
            recorder.record(nanos(monotonic() - at));
        }
    }
    drop(peer);
    let _ = echo.join();
    Ok(Figures::of_latency(&recorder.summary()))
}

/// A Redis stream from a producer to a consumer that acknowledges, with so many additions under way.
pub fn redis_stream(peer: Peer, extent: Extent, in_flight: u64) -> std::result::Result<Figures, String> {
    let text = |error: std::io::Error| error.to_string();
    let open = || Redis::open(peer.address).map_err(text);
    let (mut producer, mut consumer) = (open()?, open()?);
    producer
        .wire
        .write(&Redis::command(&[b"XGROUP", b"CREATE", b"s", b"g", b"$", b"MKSTREAM"]))
        .map_err(text)?;
    producer.answer().map_err(text)?;
    let mut run = Run::default();
    run.got.resize_with(1, AtomicU64::default);
    let run = Arc::new(run);
    let (producing, consuming) = (run.clone(), run.clone());
    let body = vec![b'.'; extent.body_bytes];
    let producing = spawn(move || {
        let addition = Redis::command(&[b"XADD", b"s", b"MAXLEN", b"~", b"1000000", b"*", b"p", &body]);
        let mut free = in_flight;
        while !producing.stop.load(Ordering::Relaxed) {
            let additions = addition.repeat(usize::try_from(free).unwrap_or_default());
            producer.wire.write(&additions)?;
            free = 0;
            // At least one answer, and those that came with it: `$n` and the id each.
            while free == 0 || (free < in_flight && !producer.wire.buffered().is_empty()) {
                producer.answer()?;
                producer.answer()?;
                free += 1;
            }
        }
        Ok(())
    })?;
    let consuming = spawn(move || {
        while !consuming.stop.load(Ordering::Relaxed) {
            let taken = take_and_acknowledge(&mut consumer)?;
            consuming.got[0].fetch_add(taken, Ordering::Relaxed);
        }
        Ok(())
    })?;
    let figures = measure(&peer.server, &run, extent);
    run.stop.store(true, Ordering::Relaxed);
    drop(peer);
    let _ = (producing.join(), consuming.join());
    figures
}

/// Reads up to 128 entries for the group and acknowledges them; they count once that is answered.
fn take_and_acknowledge(consumer: &mut Redis) -> Result<u64> {
    let read: [&[u8]; 11] = [
        b"XREADGROUP",
        b"GROUP",
        b"g",
        b"c",
        b"COUNT",
        b"128",
        b"BLOCK",
        b"1000",
        b"STREAMS",
        b"s",
        b">",
    ];
    consumer.wire.write(&Redis::command(&read))?;
    if Redis::number(&consumer.answer()?) < 0 {
        return Ok(0);
    }
    // *2, $1, s, then the number of entries; each: *2, $n, id, *2, $1, p, $m, body.
    for _ in 0..3 {
        consumer.answer()?;
    }
    let entries = Redis::number(&consumer.answer()?).max(0);
    let mut ids = Vec::new();
    for _ in 0..entries {
        for _ in 0..2 {
            consumer.answer()?;
        }
        ids.push(consumer.answer()?);
        for _ in 0..3 {
            consumer.answer()?;
        }
        let body = Redis::number(&consumer.answer()?).max(0);
        consumer.wire.skip(usize::try_from(body).unwrap_or_default() + 2)?;
    }
    let mut acknowledge: Vec<&[u8]> = vec![b"XACK", b"s", b"g"];
    acknowledge.extend(ids.iter().map(Vec::as_slice));
    consumer.wire.write(&Redis::command(&acknowledge))?;
    consumer.answer()?;
    Ok(entries.unsigned_abs())
}

/// Acknowledged publishing to a JetStream file stream, with so many under way. There is no consumer: the peer has less to do.
pub fn jetstream(peer: Peer, extent: Extent, in_flight: u64) -> std::result::Result<Figures, String> {
    const STREAM: &str = "{\"name\":\"S\",\"subjects\":[\"js.S\"],\"retention\":\"limits\",\"storage\":\"file\",\
        \"discard\":\"old\",\"max_msgs\":1000000,\"num_replicas\":1}";
    let text = |error: std::io::Error| error.to_string();
    let mut client = Nats::open(peer.address, &peer.security).map_err(text)?;
    client.subscribe("_INBOX.a").map_err(text)?;
    let made = client
        .ask("$JS.API.STREAM.CREATE.S", "_INBOX.a", STREAM)
        .map_err(text)?;
    if made.contains("\"error\"") {
        return Err(made);
    }
    let mut run = Run::default();
    run.got.resize_with(1, AtomicU64::default);
    let run = Arc::new(run);
    let publishing = run.clone();
    let publication = Nats::publication("js.S", Some("_INBOX.a"), &vec![b'.'; extent.body_bytes]);
    let publishing = spawn(move || {
        let mut free = in_flight;
        while !publishing.stop.load(Ordering::Relaxed) {
            let publications = publication.repeat(usize::try_from(free).unwrap_or_default());
            client.wire.write(&publications)?;
            free = client.messages()?;
            publishing.got[0].fetch_add(free, Ordering::Relaxed);
        }
        Ok(())
    })?;
    let figures = measure(&peer.server, &run, extent);
    run.stop.store(true, Ordering::Relaxed);
    drop(peer);
    let _ = publishing.join();
    figures
}
