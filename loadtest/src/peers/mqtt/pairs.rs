//! Publishers and subscribers at work: one thread a connection, prepared bytes, many packets a write and a read.
//!
//! Every message carries its number and every subscriber checks that it is the next one: a message that was lost, doubled or out of
//! order, an answer that is not the one that is due, or a lesser quality of service than was asked for fails the run.

use std::{
    io::{Error, ErrorKind, Result},
    net::SocketAddr,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::task::{JoinSet, spawn_blocking};
use weft::time::monotonic;

use super::{Mqtt, Work};
use crate::{
    measure::process::Pid,
    mqtt::{self, Answer, Packet, id_of},
    peers::{client::Security, figures::Figures, limits, workload::Extent},
    plan::Quality,
};

/// Messages that a publisher has unanswered at QoS 1.
const WINDOW: u64 = 90;
/// Bytes of publications that are written at once at QoS 0.
const CHUNK_BYTES: usize = 32 * 1024;
/// Messages under way, of all pairs together: 2 MiB of 128-byte messages keep every broker busy, and make none drop any.
const UNDER_WAY_MAX: u64 = 16_384;
/// How long a publisher with all under way waits between two looks.
const LOOK: Duration = Duration::from_micros(50);
/// How long a connection waits for bytes before it looks whether the run is over.
const PATIENCE: Duration = Duration::from_millis(50);
/// So long without progress: the broker has lost messages.
const STALL: Duration = Duration::from_secs(5);
/// Where a message's number is, at the start of its body.
const NUMBER_BYTES: usize = 8;

/// What a publisher and its subscriber share.
#[derive(Debug, Default)]
struct Flow {
    stop: AtomicBool,
    /// The publisher sends nothing more: written after `sent`, with release; read before it, with acquire.
    ended: AtomicBool,
    sent: AtomicU64,
    got: AtomicU64,
}

/// Deliveries a second of so many pairs, and the broker's processor time.
pub async fn run(
    server: SocketAddr,
    pid: Option<Pid>,
    work: Work,
    pairs: super::Pairs,
    extent: Extent,
) -> std::result::Result<Figures, String> {
    let pairs = pairs as u64;
    let opening = spawn_blocking(move || {
        (0..pairs)
            .map(|pair| Pair::open(server, work, pair, pairs, extent))
            .collect()
    });
    let opened: Result<Vec<Pair>> = opening.await.map_err(|error| error.to_string())?;
    let mut flows = Vec::new();
    let mut threads = JoinSet::new();
    for pair in opened.map_err(|error| error.to_string())? {
        flows.push(pair.publisher.flow.clone());
        let named = |who, ended: Result<()>| ended.map_err(|error| format!("a {who}: {error}"));
        threads.spawn_blocking(move || named("subscriber", pair.subscriber.take_all()));
        threads.spawn_blocking(move || named("publisher", pair.publisher.publish()));
    }
    let got = || flows.iter().map(|flow| flow.got.load(Ordering::Relaxed)).sum();
    let figures = tokio::select! {
        biased;
        ended = threads.join_next() => Err(match ended {
            Some(Ok(Err(error))) => error,
            ended => format!("a client ended early: {ended:?}"),
        }),
        figures = limits::measure(pid, got, extent) => figures,
    };
    flows.iter().for_each(|flow| flow.stop.store(true, Ordering::Relaxed));
    let figures = figures?;
    while let Some(ended) = threads.join_next().await {
        ended.map_err(|error| error.to_string())??;
    }
    Ok(figures)
}

struct Pair {
    publisher: Publisher,
    subscriber: Subscriber,
}

impl Pair {
    /// Opens both connections; subscribed when it returns.
    fn open(server: SocketAddr, work: Work, pair: u64, pairs: u64, extent: Extent) -> Result<Self> {
        let open = |name: String| Mqtt::open(server, &Security::Plain, &name, work.lasting());
        let (topic, quality) = (format!("load/{pair}"), work.quality());
        let mut subscriber = open(format!("subscriber-{pair}"))?;
        subscriber.subscribe(&topic, quality)?;
        let publisher = open(format!("publisher-{pair}"))?;
        // Greetings and subscriptions may take longer.
        [&subscriber, &publisher]
            .map(|client| client.wire.wait_at_most(PATIENCE))
            .into_iter()
            .collect::<Result<()>>()?;
        let flow = Arc::new(Flow::default());
        Ok(Self {
            subscriber: Subscriber {
                client: subscriber,
                quality,
                flow: flow.clone(),
            },
            publisher: Publisher {
                client: publisher,
                batch: Batch::new(&topic, quality, extent.body_bytes),
                quality,
                under_way_max: UNDER_WAY_MAX / pairs,
                flow,
            },
        })
    }
}

/// Publications one behind the other, encoded but for their numbers and identifiers.
#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    each: usize,
    /// Where in a publication its body is; the identifier, where it has one, lies before it.
    body: usize,
    quality: Quality,
}

impl Batch {
    fn new(topic: &str, quality: Quality, body_bytes: usize) -> Self {
        let body_bytes = body_bytes.max(NUMBER_BYTES);
        let mut one = Vec::new();
        mqtt::publish(topic, quality, 0, &vec![b'.'; body_bytes], &mut one);
        let messages = match quality {
            Quality::AtMostOnce => (CHUNK_BYTES / one.len()).max(1),
            _ => WINDOW as usize,
        };
        Self {
            bytes: one.repeat(messages),
            each: one.len(),
            body: one.len() - body_bytes,
            quality,
        }
    }

    fn messages(&self) -> u64 {
        (self.bytes.len() / self.each) as u64
    }

    /// So many publications, at most as many as there are, from this number on.
    fn from(&mut self, first: u64, messages: u64) -> &[u8] {
        let bytes = self.each * usize::try_from(messages).unwrap_or(usize::MAX);
        for (number, one) in (first..).zip(self.bytes[..bytes].chunks_mut(self.each)) {
            let (head, body) = one.split_at_mut(self.body);
            body[..NUMBER_BYTES].copy_from_slice(&number.to_be_bytes());
            if self.quality != Quality::AtMostOnce {
                head[self.body - 2..].copy_from_slice(&id_of(number).to_be_bytes());
            }
        }
        &self.bytes[..bytes]
    }
}

/// Gives up where nothing has moved for too long.
#[derive(Debug)]
struct LastMove(Instant);

impl LastMove {
    fn new() -> Self {
        Self(monotonic())
    }

    fn moved(&mut self) {
        self.0 = monotonic();
    }

    fn check(&self, waits_for: &str) -> Result<()> {
        match monotonic() - self.0 > STALL {
            true => Err(Error::other(format!(
                "nothing came for {STALL:?}, waiting for {waits_for}"
            ))),
            false => Ok(()),
        }
    }
}

/// Reads more; `Continue` where nothing came in time.
fn fill(client: &mut Mqtt) -> Result<ControlFlow<()>> {
    match client.wire.fill() {
        Ok(()) => Ok(ControlFlow::Break(())),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(ControlFlow::Continue(()))
        }
        Err(error) => Err(error),
    }
}

struct Publisher {
    client: Mqtt,
    batch: Batch,
    quality: Quality,
    under_way_max: u64,
    flow: Arc<Flow>,
}

impl Publisher {
    fn publish(mut self) -> Result<()> {
        match self.quality {
            Quality::AtMostOnce => self.stream()?,
            _ => self.window()?,
        }
        self.flow.ended.store(true, Ordering::Release);
        // The connection stays until the subscriber has all: a broker may throw away what is left of one that ended.
        let last_move = LastMove::new();
        while self.flow.got.load(Ordering::Relaxed) < self.sent() {
            last_move.check("the subscriber")?;
            thread::sleep(PATIENCE);
        }
        self.client.wire.write(&mqtt::DISCONNECT)
    }

    /// Full batches, as far as the subscriber is near enough.
    fn stream(&mut self) -> Result<()> {
        let each = self.batch.messages();
        let mut last_move = LastMove::new();
        while !self.stopped() {
            if self.room() < each {
                last_move.check("the subscriber")?;
                thread::sleep(LOOK);
                continue;
            }
            self.send(each)?;
            last_move.moved();
        }
        Ok(())
    }

    /// As many as are answered, at once.
    fn window(&mut self) -> Result<()> {
        let (mut answered, mut last_move) = (0, LastMove::new());
        loop {
            let unanswered = self.sent() - answered;
            let free = (WINDOW - unanswered).min(self.room());
            let goes_on = !self.stopped();
            if goes_on && free > 0 {
                self.send(free)?;
            } else if unanswered == 0 && !goes_on {
                return Ok(());
            } else if unanswered == 0 {
                last_move.check("the subscriber")?;
                thread::sleep(LOOK);
                continue;
            }
            if fill(&mut self.client)?.is_continue() {
                last_move.check("answers")?;
                continue;
            }
            self.client.each(|packet| {
                if packet != Packet::Answer(Answer::Puback, id_of(answered)) {
                    return Err(Error::other(format!(
                        "{packet:?} is not the answer to message {answered}"
                    )));
                }
                answered += 1;
                Ok(())
            })?;
            last_move.moved();
        }
    }

    fn send(&mut self, messages: u64) -> Result<()> {
        let first = self.flow.sent.fetch_add(messages, Ordering::Relaxed);
        self.client.wire.write(self.batch.from(first, messages))
    }

    fn sent(&self) -> u64 {
        self.flow.sent.load(Ordering::Relaxed)
    }

    /// How many more may be under way.
    fn room(&self) -> u64 {
        let under_way = self.sent().saturating_sub(self.flow.got.load(Ordering::Relaxed));
        self.under_way_max.saturating_sub(under_way)
    }

    fn stopped(&self) -> bool {
        self.flow.stop.load(Ordering::Relaxed)
    }
}

struct Subscriber {
    client: Mqtt,
    quality: Quality,
    flow: Arc<Flow>,
}

impl Subscriber {
    /// Takes and answers messages until it has all that were sent.
    fn take_all(mut self) -> Result<()> {
        let (mut next, mut answers) = (0, Vec::new());
        let mut last_move = LastMove::new();
        loop {
            let wanted = self.quality;
            self.client.each(|packet| match packet {
                Packet::Publish { quality, id, body } if quality == wanted && number_of(body) == Some(next) => {
                    if quality != Quality::AtMostOnce {
                        mqtt::answer(Answer::Puback, id, &mut answers);
                    }
                    next += 1;
                    Ok(())
                }
                Packet::Publish { quality, body, .. } => Err(Error::other(format!(
                    "message {:?} at QoS {quality} where message {next} at QoS {wanted} was due",
                    number_of(body)
                ))),
                other => Err(Error::other(format!("was sent {other:?}"))),
            })?;
            if !answers.is_empty() {
                self.client.wire.write(&answers)?;
                answers.clear();
            }
            self.flow.got.store(next, Ordering::Relaxed);
            if self.flow.ended.load(Ordering::Acquire) && next == self.flow.sent.load(Ordering::Relaxed) {
                return self.client.wire.write(&mqtt::DISCONNECT);
            }
            if fill(&mut self.client)?.is_break() {
                last_move.moved();
            } else {
                last_move.check(&format!("message {next} of {}", self.flow.sent.load(Ordering::Relaxed)))?;
            }
        }
    }
}

fn number_of(body: &[u8]) -> Option<u64> {
    let digits = body.get(..NUMBER_BYTES)?.try_into().ok()?;
    Some(u64::from_be_bytes(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publications_of_a_batch_count_on_and_have_identifiers_of_their_own() {
        for quality in [Quality::AtMostOnce, Quality::AtLeastOnce] {
            let mut batch = Batch::new("load/0", quality, 128);
            assert!(batch.messages() >= WINDOW);
            let mut bytes = batch.from(65_533, 4);
            let mut seen = Vec::new();
            while let Some((packet, length)) = mqtt::read(bytes).expect("packets") {
                let Packet::Publish { id, body, .. } = packet else {
                    panic!("{packet:?}")
                };
                assert_eq!(body.len(), 128);
                seen.push((number_of(body).expect("a number"), id));
                bytes = &bytes[length..];
            }
            let ids = match quality {
                Quality::AtMostOnce => [0; 4],
                _ => [65_534, 65_535, 1, 2],
            };
            assert_eq!(seen, (65_533..).zip(ids).collect::<Vec<_>>());
        }
    }

    /// A broker for one connection after the other, which changes nothing or breaks what is said.
    fn subscriber_of(messages: &[(u64, Quality)]) -> Result<()> {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let mut sent = b"\x20\x02\0\0".to_vec();
        for (number, quality) in messages {
            mqtt::publish("t", *quality, id_of(*number), &number.to_be_bytes(), &mut sent);
        }
        let broker = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.write_all(&sent).expect("written");
            let mut heard = Vec::new();
            // Whatever the client thinks of it: until it goes.
            let _ = stream.read_to_end(&mut heard);
        });
        let client = Mqtt::open(address, &Security::Plain, "x", mqtt::Lasting::Clean)?;
        client.wire.wait_at_most(PATIENCE)?;
        let flow = Flow::default();
        flow.sent.store(messages.len() as u64, Ordering::Relaxed);
        flow.ended.store(true, Ordering::Relaxed);
        let subscriber = Subscriber {
            client,
            quality: Quality::AtLeastOnce,
            flow: flow.into(),
        };
        let taken = subscriber.take_all();
        broker.join().expect("the broker ends");
        taken
    }

    #[test]
    fn a_message_that_is_not_the_next_one_or_of_less_quality_fails_the_run() {
        const ONE: Quality = Quality::AtLeastOnce;
        assert!(subscriber_of(&[(0, ONE), (1, ONE)]).is_ok());
        for wrong in [&[(0, ONE), (0, ONE)][..], &[(0, ONE), (2, ONE)], &[(1, ONE), (0, ONE)]] {
            let error = subscriber_of(wrong).expect_err("not the next one").to_string();
            assert!(error.contains("was due"), "{error}");
        }
        let error = subscriber_of(&[(0, Quality::AtMostOnce)])
            .expect_err("less")
            .to_string();
        assert!(error.contains("at QoS 0 where message 0 at QoS 1"), "{error}");
    }
}
