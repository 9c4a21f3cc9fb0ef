//! Producers and consumers at work: the engine under every scenario that moves messages.
//!
//! Owns the run's phases (warm-up, measured time, draining what is under way) and brings together what the tasks saw. A scenario
//! is a [`Layout`]: who sends to whom, and which copies must arrive where. Start at [`run`].

mod consumer;
mod gate;
mod producer;

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, task::JoinSet, time::sleep};
use weft::frame::{Address, Priority};

use crate::{
    clock::{Clock, nanos},
    driver::{Connector, Failure},
    measure::{
        fairness::jain,
        latency,
        process::{Pid, Sample},
        timeline,
    },
    node::Node,
    pacer::Pacer,
    plan::{Load, Plan, Verification},
    progress::Progress,
    schedule::Schedule,
    verify::{Findings, Seen},
};
use consumer::{Consumed, Stream};
use gate::Gate;
use producer::Produced;

/// So long without a delivery after the last send: what is missing is lost.
const QUIET: Duration = Duration::from_secs(3);
/// Between two looks at memory and at whether all is over.
const LOOK: Duration = Duration::from_millis(20);
/// Errors of sessions that the report quotes.
const ERRORS_SHOWN_MAX: usize = 5;

/// Who sends, who receives, and what must arrive.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Told apart from other runs by this, in bodies and in the names of agents.
    pub run: u16,
    pub producers: Vec<ProducerPlan>,
    pub consumers: Vec<ConsumerPlan>,
    /// Latencies are told apart by these names; every producer belongs to one.
    pub classes: Vec<String>,
    /// Agents that send back what they get to whom it came from: consumer of requests, producer of replies.
    pub echoes: Vec<EchoPlan>,
    /// Messages of each producer that were sent before; where this is not empty, producers send nothing.
    pub already_sent: Vec<u64>,
}

impl Layout {
    /// Nobody yet, in a run of its own.
    pub fn new() -> Self {
        static RUNS: AtomicU16 = AtomicU16::new(0);
        // The process's number keeps runs of two programs on one node apart, the count those of one.
        let process = std::process::id().wrapping_mul(0x9e37) >> 4;
        let run = RUNS
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(process.to_le_bytes()[0].into());
        Self {
            run: run ^ u16::from_le_bytes([0, process.to_le_bytes()[1]]),
            producers: Vec::new(),
            consumers: Vec::new(),
            classes: Vec::new(),
            echoes: Vec::new(),
            already_sent: Vec::new(),
        }
    }

    /// An agent's name in this run.
    pub fn agent(&self, role: &str, index: usize) -> String {
        format!("loadtest/{:04x}/{role}-{index}", self.run)
    }
}

impl Default for Layout {
    fn default() -> Self {
        Self::new()
    }
}

/// A producer.
#[derive(Clone, Debug)]
pub struct ProducerPlan {
    pub agent: String,
    pub to: Address,
    pub class: usize,
    pub load: Load,
    pub priority: Priority,
    /// Consumers (by index) that get its messages.
    pub consumers: Vec<usize>,
    pub sharing: Sharing,
}

/// Which of a producer's consumers get a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Each of them.
    Each,
    /// One of them.
    OneOf,
}

/// A consumer.
#[derive(Clone, Debug)]
pub struct ConsumerPlan {
    pub agent: String,
    pub topics: Vec<String>,
    /// Messages a second that it takes at most; `None`: all that come.
    pub pace_per_s: Option<f64>,
    /// Whether what it gets counts. What a slow consumer loses at QoS 0 is the point of it.
    pub counting: Counting,
}

/// Whether a consumer's deliveries are part of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    Counted,
    Aside,
}

/// An agent that sends back what it gets.
#[derive(Clone, Debug)]
pub struct EchoPlan {
    pub agent: String,
    /// Where the message of each producer, by number, is sent back to.
    pub reply_to: Vec<Address>,
}

/// What a run brought to light.
#[derive(Debug)]
pub struct Outcome {
    pub sent: u64,
    /// What each producer sent and was not refused.
    pub sent_by: Vec<u64>,
    /// Sends that were refused or failed.
    pub refused: u64,
    /// Deliveries of the measured time, and how long that was.
    pub delivered: u64,
    pub seconds: f64,
    /// Deliveries from the run's start to its end.
    pub delivered_in_all: u64,
    /// From the intended send until a consumer had it in hand, for each class.
    pub latency: Vec<(String, latency::Recorder)>,
    /// From the intended send until the producer had its answer; QoS 1 and 2.
    pub answer: Option<latency::Recorder>,
    pub findings: Findings,
    /// Deliveries put aside (see [`Counting`]) and what of them did not arrive.
    pub aside_lost: u64,
    /// Acknowledgements that did not settle.
    pub unsettled: u64,
    pub fairness: Option<f64>,
    pub timeline: Vec<timeline::Slot>,
    pub server: Usage,
    pub clients: Usage,
    pub errors: Vec<String>,
}

/// What a process used while it was measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu_s: Option<f64>,
    pub rss_before: Option<u64>,
    pub rss_peak: Option<u64>,
}

/// What producers and consumers share.
#[derive(Debug)]
struct Shared {
    plan: Plan,
    layout: Layout,
    clock: Clock,
    /// When measuring begins and sending ends, on the run's clock.
    measure_ns: u64,
    end_ns: u64,
    gates: Vec<Gate>,
    /// Messages left to send, of all producers together.
    left: AtomicU64,
    delivered: AtomicU64,
    delivered_measured: AtomicU64,
    last_delivery_ns: AtomicU64,
    recorders: Mutex<Recorders>,
    errors: Mutex<Vec<String>>,
    progress: Progress,
}

#[derive(Debug)]
struct Recorders {
    classes: Vec<latency::Recorder>,
    timeline: timeline::Recorder,
}

impl Shared {
    fn recorders(&self) -> MutexGuard<'_, Recorders> {
        self.recorders
            .lock()
            .expect("nothing panics while it holds the recorders")
    }

    fn fail(&self, error: Failure) {
        let mut errors = self.errors.lock().expect("nothing panics while it holds the errors");
        if errors.len() < ERRORS_SHOWN_MAX && !errors.contains(&error) {
            errors.push(error);
        }
    }

    /// Takes up to so many messages from what is left to send.
    fn claim(&self, wanted: u64) -> u64 {
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            Some(left.saturating_sub(wanted))
        });
        before.map_or(0, |before| before.min(wanted))
    }

    /// A consumer that takes only so much has as much time.
    fn is_counted(&self, consumer: usize) -> bool {
        self.layout.consumers[consumer].counting == Counting::Counted
    }
}

/// Runs a layout against a node.
pub async fn run(
    node: &Node,
    connector: &Connector,
    plan: &Plan,
    layout: Layout,
    progress: &Progress,
) -> Result<Outcome, Failure> {
    let receivers = consumer::open(connector, plan, &layout).await?;
    let echoes = consumer::open_echoes(connector, plan, &layout).await?;
    let senders = producer::open(connector, plan, &layout).await?;
    let shared = Arc::new(share(plan, layout, progress));
    let (done, over) = watch::channel(false);
    let mut consumers = JoinSet::new();
    for (index, receiver) in receivers.into_iter().enumerate() {
        consumers.spawn(consumer::consume(shared.clone(), index, receiver, over.clone()));
    }
    let mut echoing = JoinSet::new();
    for (index, (receiver, sender)) in echoes.into_iter().enumerate() {
        echoing.spawn(consumer::echo(shared.clone(), index, receiver, sender));
    }
    let sampling = tokio::spawn(sample(shared.clone(), node.pid(), over.clone()));
    let _pacer = Pacer::start(shared.clock, schedules(&shared));
    let mut producers = JoinSet::new();
    for (index, sender) in senders.into_iter().enumerate() {
        producers.spawn(producer::produce(shared.clone(), index, sender));
    }
    let produced = joined(producers).await;
    drain(&shared, &produced).await;
    done.send_replace(true);
    let consumed = joined(consumers).await;
    echoing.shutdown().await;
    let (server, clients) = sampling.await.unwrap_or_default();
    Ok(conclude(&shared, &produced, &consumed, server, clients))
}

fn share(plan: &Plan, layout: Layout, progress: &Progress) -> Shared {
    let measure_ns = nanos(plan.bounds.warm_up);
    let gate = |(index, producer): (usize, &ProducerPlan)| {
        Gate::new(
            producer.sharing,
            producer.consumers.len(),
            layout.already_sent.get(index).copied().unwrap_or_default(),
        )
    };
    let gates = layout.producers.iter().enumerate().map(gate).collect();
    let left = if layout.already_sent.is_empty() {
        plan.bounds.messages
    } else {
        0
    };
    let classes = vec![latency::Recorder::default(); layout.classes.len()];
    Shared {
        plan: plan.clone(),
        layout,
        clock: Clock::start(),
        measure_ns,
        end_ns: measure_ns.saturating_add(nanos(plan.bounds.time)),
        gates,
        left: AtomicU64::new(left),
        delivered: AtomicU64::new(0),
        delivered_measured: AtomicU64::new(0),
        last_delivery_ns: AtomicU64::new(0),
        recorders: Mutex::new(Recorders {
            classes,
            timeline: timeline::Recorder::default(),
        }),
        errors: Mutex::new(Vec::new()),
        progress: progress.clone(),
    }
}

fn schedules(shared: &Shared) -> Vec<(Schedule, Arc<tokio::sync::Notify>)> {
    let producers = shared.layout.producers.iter().zip(&shared.gates);
    let schedule = |(index, (producer, gate)): (usize, (&ProducerPlan, &Gate))| {
        Some((producer::schedule(shared, producer, index)?, gate.wake()))
    };
    producers.enumerate().filter_map(schedule).collect()
}

async fn joined<T: 'static>(mut tasks: JoinSet<T>) -> Vec<T> {
    let mut outcomes = Vec::with_capacity(tasks.len());
    while let Some(outcome) = tasks.join_next().await {
        outcomes.push(outcome.expect("a task of a run does not panic"));
    }
    outcomes
}

/// Waits until everything accepted has arrived, or nothing arrives any more.
async fn drain(shared: &Shared, produced: &[Produced]) {
    let copies = |produced: &Produced| {
        let producer = &shared.layout.producers[produced.index];
        let counted = producer.consumers.iter().filter(|index| shared.is_counted(**index));
        match producer.sharing {
            Sharing::Each => counted.count() as u64,
            Sharing::OneOf => 1,
        }
    };
    let expected: u64 = produced
        .iter()
        .map(|produced| (produced.sent - produced.refused) * copies(produced))
        .sum();
    let begun_ns = shared.clock.now_ns();
    while shared.delivered.load(Ordering::Relaxed) < expected {
        let last = shared.last_delivery_ns.load(Ordering::Relaxed).max(begun_ns);
        if shared.clock.now_ns().saturating_sub(last) > nanos(QUIET) {
            return;
        }
        sleep(LOOK).await;
    }
}

/// Watches both processes: what they used from the warm-up's end to the end of the measured time, or of the run.
async fn sample(shared: Arc<Shared>, server: Option<Pid>, mut over: watch::Receiver<bool>) -> (Usage, Usage) {
    let pids = [server, Some(Pid::own())];
    let take = || pids.map(|pid| pid.and_then(Pid::sample));
    let wait = shared.clock.until(shared.measure_ns);
    let _ = tokio::time::timeout(wait, over.wait_for(|over| *over)).await;
    let before = take();
    let mut peak = before;
    while !*over.borrow() && shared.clock.now_ns() < shared.end_ns {
        let _ = tokio::time::timeout(LOOK * 5, over.changed()).await;
        for (peak, now) in peak.iter_mut().zip(take()) {
            raise(peak, now);
        }
        shared.progress.show(
            shared.clock.now_ns(),
            shared.delivered.load(Ordering::Relaxed),
            shared.end_ns,
        );
    }
    let after = take();
    let usage = |index: usize| Usage {
        cpu_s: after[index]
            .zip(before[index])
            .map(|(after, before)| after.cpu_s - before.cpu_s),
        rss_before: before[index].map(|sample| sample.rss_bytes),
        rss_peak: peak[index].map(|sample| sample.rss_bytes),
    };
    (usage(0), usage(1))
}

fn raise(peak: &mut Option<Sample>, now: Option<Sample>) {
    if let (Some(peak), Some(now)) = (peak.as_mut(), now) {
        peak.rss_bytes = peak.rss_bytes.max(now.rss_bytes);
    }
}

fn conclude(shared: &Shared, produced: &[Produced], consumed: &[Consumed], server: Usage, clients: Usage) -> Outcome {
    let (findings, aside_lost) = match shared.plan.verification {
        Verification::On => findings(shared, produced, consumed),
        Verification::Off => (Findings::default(), 0),
    };
    let mut answer = latency::Recorder::default();
    for produced in produced {
        answer.add(&produced.answers);
    }
    let last = shared.last_delivery_ns.load(Ordering::Relaxed);
    let measured_ns = last.min(shared.end_ns).saturating_sub(shared.measure_ns);
    let recorders = shared.recorders();
    let classes = shared.layout.classes.iter().cloned();
    let mut errors = shared.errors.lock().expect("the tasks are over").clone();
    errors.sort();
    let mut sent_by = vec![0; shared.layout.producers.len()];
    for produced in produced {
        sent_by[produced.index] = produced.sent - produced.refused;
    }
    Outcome {
        sent: produced.iter().map(|produced| produced.sent).sum(),
        sent_by,
        refused: produced.iter().map(|produced| produced.refused).sum(),
        delivered: shared.delivered_measured.load(Ordering::Relaxed),
        seconds: Duration::from_nanos(measured_ns).as_secs_f64(),
        delivered_in_all: shared.delivered.load(Ordering::Relaxed),
        latency: classes.zip(recorders.classes.iter().cloned()).collect(),
        answer: (answer.count() > 0).then_some(answer),
        findings,
        aside_lost,
        unsettled: consumed.iter().map(|consumed| consumed.unsettled).sum(),
        fairness: fairness(shared, consumed),
        timeline: recorders.timeline.slots(),
        server,
        clients,
        errors,
    }
}

/// What is wrong with what arrived, and what was lost on the way to consumers that do not count.
fn findings(shared: &Shared, produced: &[Produced], consumed: &[Consumed]) -> (Findings, u64) {
    let mut findings = Findings {
        foreign: consumed.iter().map(|consumed| consumed.foreign).sum(),
        ..Findings::default()
    };
    let mut aside_lost = 0;
    let nothing = Seen::default();
    let seen = |producer: usize, consumer: usize| {
        let consumed = consumed.iter().find(|consumed| consumed.index == consumer);
        let stream = consumed.and_then(|consumed| consumed.streams.get(&producer));
        stream.map_or(&nothing, |stream: &Stream| &stream.seen)
    };
    for produced in produced {
        let accepted = produced.sent - produced.refused;
        let plan = &shared.layout.producers[produced.index];
        let parts = plan.consumers.iter();
        match plan.sharing {
            Sharing::OneOf => findings.add(Seen::findings_of_shared(
                parts.map(|consumer| seen(produced.index, *consumer)),
                accepted,
            )),
            Sharing::Each => {
                for consumer in parts {
                    let mut found = seen(produced.index, *consumer).findings(accepted);
                    if !shared.is_counted(*consumer) {
                        aside_lost += std::mem::take(&mut found.lost);
                    }
                    findings.add(found);
                }
            }
        }
    }
    (findings, aside_lost)
}

/// How evenly the sessions of the larger side were served.
fn fairness(shared: &Shared, consumed: &[Consumed]) -> Option<f64> {
    let mut by_producer = vec![0; shared.layout.producers.len()];
    let mut by_consumer = vec![0; shared.layout.consumers.len()];
    for consumed in consumed.iter().filter(|consumed| shared.is_counted(consumed.index)) {
        for (producer, stream) in &consumed.streams {
            by_producer[*producer] += stream.measured;
            by_consumer[consumed.index] += stream.measured;
        }
    }
    if by_producer.len() >= by_consumer.len() {
        jain(&by_producer)
    } else {
        jain(&by_consumer)
    }
}
