//! One producer, one consumer: how many messages a second get through, how late, and whether all of them do.
//!
//! Owns the closed loop: the producer sends on only while fewer than so many of its messages are under way, so what is measured is
//! the fabric and not a queue that grows. Start at [`run`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::{
    sync::{Semaphore, mpsc},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use weft::{
    client::{Client, Delivery, Message, SendHandle, Session, SessionOptions, SettleOutcome},
    frame::{AgentId, Qos},
    time::monotonic,
};

use crate::{
    process::Node,
    verify::{Findings, Verifier},
};

/// Deliveries taken at once.
const BATCH: usize = 256;
/// Sends between two looks at the loop's credit.
const SEND_BATCH: u32 = 32;
/// Messages of QoS 1 sent and not yet acknowledged by the consumer, at most: half of what an inbox holds by default.
const AHEAD_MAX: usize = 50_000;
/// Batches of acknowledgements under way at once.
const ACKS_AT_ONCE: usize = 4;
/// So long without a delivery: what is missing is lost.
const QUIET: Duration = Duration::from_secs(5);
/// Between two looks at whether the producer has ended.
const LOOK: Duration = Duration::from_millis(100);
/// Sequence and sending time at a body's start, in bytes.
const HEAD_BYTES: usize = 16;
/// Longest latency that is told apart, in nanoseconds.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// What is run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Plan {
    #[serde(skip)]
    pub qos: Qos,
    /// Messages under way at once: delivered (QoS 0), answered (QoS 1).
    pub in_flight: usize,
    /// Messages measured, at most.
    pub messages: u64,
    /// Measured time, at most, in seconds.
    pub seconds: u64,
    /// Messages sent before measuring starts.
    pub warm_up: u64,
    pub body_bytes: usize,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Outcome {
    pub plan: Plan,
    pub measured: u64,
    pub seconds: f64,
    pub messages_per_second: f64,
    /// From just before the send until the consumer has it in hand.
    pub delivery: Latency,
    /// From just before the send until the producer has its answer; QoS 1 only.
    pub answer: Option<Latency>,
    /// Processor seconds of the node per million messages; none where its process is not known.
    pub server_cpu_s_per_million: Option<f64>,
    pub findings: Findings,
    /// Sends that were refused or failed.
    pub failed_sends: u64,
    /// Acknowledgements that did not settle.
    pub failed_acks: u64,
}

/// What producer and consumer share.
struct Loop {
    plan: Plan,
    start: Instant,
    credit: Semaphore,
    stop: AtomicBool,
    /// How many messages there are to wait for; the producer says so when it ends early.
    total: AtomicU64,
}

impl Loop {
    fn nanos(&self) -> u64 {
        u64::try_from((monotonic() - self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

struct Produced {
    sent: u64,
    failed: u64,
    answers: Option<Histogram<u64>>,
}

struct Consumed {
    verifier: Verifier,
    latency: Histogram<u64>,
    measured: u64,
    /// When measuring began and ended, by the loop's clock.
    from_ns: u64,
    to_ns: u64,
    cpu_s: Option<f64>,
    failed_acks: u64,
}

/// Runs it once against a node.
pub async fn run(node: &Node, plan: Plan) -> Result<Outcome, String> {
    let server = node.grpc.as_deref().ok_or("the node has no gRPC listener")?;
    // A connection each, as two programs would have.
    let connect = async || {
        Client::connect(&format!("grpc://{server}"))
            .await
            .map_err(|error| error.to_string())
    };
    let (producer, consumer) = (connect().await?, connect().await?);
    let (from, to) = (agent("loadtest/producer"), agent("loadtest/consumer"));
    let receiving = SessionOptions {
        window_messages: u32::MAX,
        window_bytes: u64::MAX,
        ..SessionOptions::default()
    };
    let sending = SessionOptions {
        unanswered_max: plan.in_flight,
        ..SessionOptions::send_only()
    };
    let receiving = consumer
        .session(&to, receiving)
        .await
        .map_err(|error| error.to_string())?;
    let sending = producer
        .session(&from, sending)
        .await
        .map_err(|error| error.to_string())?;
    let under_way = if plan.qos == Qos::AtMostOnce {
        plan.in_flight
    } else {
        AHEAD_MAX
    };
    let shared = Arc::new(Loop {
        plan,
        start: monotonic(),
        credit: Semaphore::new(under_way),
        stop: AtomicBool::new(false),
        total: AtomicU64::new(plan.warm_up + plan.messages),
    });

    let produced: JoinHandle<Produced> = tokio::spawn(produce(shared.clone(), sending, to));
    let consumed = consume(shared.clone(), receiving, node).await;
    // A producer that waits for credit ends by seeing it closed.
    shared.stop.store(true, Ordering::Relaxed);
    shared.credit.close();
    let produced = produced.await.map_err(|error| error.to_string())?;
    Ok(outcome(plan, produced, consumed))
}

fn agent(id: &str) -> AgentId {
    AgentId::new(id).expect("the load test's own ids follow the grammar")
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are in order")
}

async fn produce(shared: Arc<Loop>, session: Session, to: AgentId) -> Produced {
    let plan = shared.plan;
    let total = plan.warm_up + plan.messages;
    let (handles, answers) = mpsc::channel(plan.in_flight.max(1));
    let answers = tokio::spawn(gather_answers(shared.clone(), answers));
    let mut body = vec![b'.'; plan.body_bytes.max(HEAD_BYTES)];
    let (mut sent, mut failed) = (0, 0);
    'sending: while sent < total && !shared.stop.load(Ordering::Relaxed) {
        let wanted = SEND_BATCH
            .min(u32::try_from(plan.in_flight).unwrap_or(SEND_BATCH))
            .max(1);
        let Ok(permits) = shared.credit.acquire_many(wanted).await else {
            break;
        };
        permits.forget();
        for _ in 0..u64::from(wanted).min(total - sent) {
            let at = shared.nanos();
            body[..8].copy_from_slice(&sent.to_le_bytes());
            body[8..16].copy_from_slice(&at.to_le_bytes());
            let message = Message::to_agent(&to).qos(plan.qos).body(Bytes::copy_from_slice(&body));
            match session.send(message).await {
                Ok(handle) if plan.qos != Qos::AtMostOnce => {
                    if handles.send((at, handle)).await.is_err() {
                        break 'sending;
                    }
                }
                Ok(_) => {}
                Err(_) => failed += 1,
            }
            sent += 1;
        }
    }
    shared.total.store(sent, Ordering::Relaxed);
    drop(handles);
    let (latency, refused) = answers.await.unwrap_or_else(|_| (histogram(), 0));
    let _ = session.close(QUIET).await;
    Produced {
        sent,
        failed: failed + refused,
        answers: (plan.qos != Qos::AtMostOnce).then_some(latency),
    }
}

/// Waits for the answers in the order of the sends, which is the order in which one shard gives them.
async fn gather_answers(shared: Arc<Loop>, mut handles: mpsc::Receiver<(u64, SendHandle)>) -> (Histogram<u64>, u64) {
    let (mut latency, mut failed, mut number) = (histogram(), 0, 0);
    while let Some((at, handle)) = handles.recv().await {
        match handle.await {
            Ok(_) if number >= shared.plan.warm_up => latency.saturating_record(shared.nanos().saturating_sub(at)),
            Ok(_) => {}
            Err(_) => failed += 1,
        }
        number += 1;
    }
    (latency, failed)
}

async fn consume(shared: Arc<Loop>, session: Session, node: &Node) -> Consumed {
    let plan = shared.plan;
    let mut consumed = Consumed {
        verifier: Verifier::default(),
        latency: histogram(),
        measured: 0,
        from_ns: 0,
        to_ns: 0,
        cpu_s: None,
        failed_acks: 0,
    };
    let mut cpu_before = None;
    let mut acks: JoinSet<u64> = JoinSet::new();
    let mut deadline_ns = u64::MAX;
    let mut batch = Vec::with_capacity(BATCH);
    let mut quiet = Duration::ZERO;
    while consumed.verifier.distinct() < shared.total.load(Ordering::Relaxed) && quiet < QUIET {
        let count = match timeout(LOOK, session.recv_batch(&mut batch, BATCH)).await {
            Ok(Ok(count)) => count,
            Ok(Err(_)) => break,
            Err(_) => {
                quiet += LOOK;
                continue;
            }
        };
        quiet = Duration::ZERO;
        let now = shared.nanos();
        for delivery in &batch {
            let Some((sequence, at)) = head_of(delivery) else {
                consumed.verifier.foreign();
                continue;
            };
            let first = consumed.verifier.see(sequence);
            if first && sequence >= plan.warm_up {
                consumed.latency.saturating_record(now.saturating_sub(at));
                consumed.measured += 1;
                consumed.to_ns = now;
            }
        }
        if cpu_before.is_none() && consumed.verifier.distinct() >= plan.warm_up {
            cpu_before = Some(node.cpu_seconds());
            consumed.from_ns = now;
            deadline_ns = now.saturating_add(plan.seconds.saturating_mul(1_000_000_000));
        }
        if plan.qos == Qos::AtMostOnce {
            shared.credit.add_permits(count);
            batch.clear();
        } else {
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
            acks.spawn(acknowledge(shared.clone(), session.clone(), full));
            while acks.len() > ACKS_AT_ONCE {
                consumed.failed_acks += acks.join_next().await.and_then(Result::ok).unwrap_or(0);
            }
        }
        if now > deadline_ns {
            // Past the time: the producer ends, and what is under way still comes.
            shared.stop.store(true, Ordering::Relaxed);
        }
    }
    while let Some(failed) = acks.join_next().await {
        consumed.failed_acks += failed.unwrap_or(0);
    }
    consumed.cpu_s = node
        .cpu_seconds()
        .zip(cpu_before.flatten())
        .map(|(after, before)| after - before);
    consumed
}

/// Acknowledges a batch, gives the producer its credit back, and says how many did not settle.
async fn acknowledge(shared: Arc<Loop>, session: Session, batch: Vec<Delivery>) -> u64 {
    let outcomes = session.ack_all(&batch).await;
    shared.credit.add_permits(batch.len());
    let failed = outcomes
        .iter()
        .filter(|outcome| !matches!(outcome, SettleOutcome::Done));
    failed.count() as u64
}

/// The sequence and the sending time that a body starts with.
fn head_of(delivery: &Delivery) -> Option<(u64, u64)> {
    let head = delivery.body().get(..HEAD_BYTES)?;
    let (sequence, at) = head.split_at(8);
    Some((
        u64::from_le_bytes(sequence.try_into().ok()?),
        u64::from_le_bytes(at.try_into().ok()?),
    ))
}

#[allow(clippy::cast_precision_loss, reason = "counts and nanoseconds far below 2^52")]
fn outcome(plan: Plan, produced: Produced, consumed: Consumed) -> Outcome {
    let seconds = consumed.to_ns.saturating_sub(consumed.from_ns) as f64 / 1e9;
    let per_million = |cpu: f64| cpu / (consumed.measured as f64 / 1e6);
    Outcome {
        plan,
        measured: consumed.measured,
        seconds,
        messages_per_second: consumed.measured as f64 / seconds.max(1e-9),
        delivery: percentiles(&consumed.latency),
        answer: produced.answers.as_ref().map(percentiles),
        server_cpu_s_per_million: consumed.cpu_s.filter(|_| consumed.measured > 0).map(per_million),
        findings: consumed.verifier.findings(produced.sent),
        failed_sends: produced.failed,
        failed_acks: consumed.failed_acks,
    }
}

#[allow(clippy::cast_precision_loss, reason = "nanoseconds of at most a minute")]
fn percentiles(histogram: &Histogram<u64>) -> Latency {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    Latency {
        p50_us: at(0.5),
        p99_us: at(0.99),
        p999_us: at(0.999),
        max_us: histogram.max() as f64 / 1e3,
    }
}
