//! Random traffic held against what may become of a message: senders of all kinds, receivers that acknowledge, refuse, hold back, are
//! slow and break off, on queues that many share.
//!
//! Every message that was accepted ends in exactly one of: acknowledged once, dead letter with a reason, expired, rejected with a reason,
//! still kept. `WEFT_RANDOM_SEED` repeats a run's choices; which thread goes first is not among them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    env,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};
use weft::{
    delivery::Lease,
    frame::{Seq, ShardId, record::Reason},
    router::surface::{DeliveryId, SessionId},
};

use super::*;

const ROUNDS: u64 = 3;
const SENDERS: usize = 4;
const MESSAGES: usize = 150;
const WORKERS: [&str; 3] = ["w0", "w1", "w2"];
/// Each address with those who may get what is sent there.
const ADDRESSES: [(&str, &[&str]); 6] = [
    ("any:work", &WORKERS),
    ("group:turns", &["w0", "w1"]),
    ("group:least", &["w1", "w2"]),
    ("topic:jobs/x", &WORKERS),
    ("agent:w0", &["w0"]),
    // Nobody attends it: what is sent there is kept.
    ("agent:nobody", &[]),
];
const SHARED: &str = "$share/pool/jobs/#";
/// Small enough to be met now and then.
const INBOX_MESSAGES_MAX: usize = 150;

/// A message that was accepted.
struct Sent {
    message: Draft,
    accepted: Accepted,
}

/// What receivers saw.
#[derive(Default)]
struct Seen {
    /// Every hand-out of a message, by its place.
    leases: HashMap<(ShardId, Seq), Vec<Lease>>,
    /// The lease under which it was settled, and by which word.
    settled: HashMap<(ShardId, Seq), (Lease, Word)>,
    acknowledged: HashMap<String, usize>,
    refused: HashSet<String>,
    delivered: HashSet<String>,
    /// The newest first delivery of each line.
    newest: BTreeMap<Line, Seq>,
    faults: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Acknowledged,
    Refused,
}

/// Within one session, queue, sender, priority and QoS first deliveries are in order (G5).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    session: SessionId,
    queue: String,
    from: String,
    priority: Priority,
    qos: u8,
}

impl Seen {
    fn delivery(&mut self, session: &SessionHandle, delivery: &Delivery) -> DeliveryId {
        let (envelope, id) = (&delivery.frame.envelope, delivery.id.expect("QoS 1 and 2"));
        let members = ADDRESSES
            .iter()
            .find(|(to, _)| *to == envelope.to())
            .map(|(_, members)| *members);
        if !members.is_some_and(|members| members.contains(&session.agent().as_str())) {
            self.faults
                .push(format!("G10: {} got {}", session.agent(), envelope.to()));
        }
        if !delivery.frame.stamp.flags.is_redelivered() {
            let line = Line {
                session: session.id(),
                queue: delivery.queue.to_string(),
                from: envelope.from().to_owned(),
                priority: envelope.priority(),
                qos: envelope.qos() as u8,
            };
            let before = self.newest.insert(line.clone(), id.seq);
            if before >= Some(id.seq) {
                self.faults
                    .push(format!("G5: {line:?} got {:?} after {before:?}", id.seq));
            }
        }
        self.delivered.insert(envelope.id().to_owned());
        self.leases.entry((id.shard, id.seq)).or_default().push(id.lease);
        id
    }

    fn settled(&mut self, id: DeliveryId, message: &str, word: Word) {
        let before = self.settled.insert((id.shard, id.seq), (id.lease, word));
        if let Some(before) = before {
            self.faults
                .push(format!("G8: {message} was settled by {before:?} and by {word:?}"));
        }
        match word {
            Word::Acknowledged => *self.acknowledged.entry(message.to_owned()).or_default() += 1,
            Word::Refused => drop(self.refused.insert(message.to_owned())),
        }
    }

    /// G7: no hand-out is younger than the one that was settled.
    fn check_ends(&mut self) {
        for (place, (lease, word)) in &self.settled {
            if self.leases[place].iter().any(|later| later > lease) {
                self.faults
                    .push(format!("G7: {place:?} came again after it was {word:?}"));
            }
        }
    }
}

fn session(rng: &mut StdRng, agent: &str) -> Attach {
    Attach {
        agent: id(agent),
        protocol: Protocol::Grpc,
        inbox: Inbox::Open,
        queue: SessionQueue::Ephemeral,
        window: Window {
            messages: rng.random_range(1..8),
            bytes: rng.random_range(300..5_000),
        },
        visibility_timeout: rng
            .random_bool(0.3)
            .then(|| Duration::from_millis(rng.random_range(3..30))),
    }
}

/// Receives in sessions that end at random, until it is told to stop.
async fn receive(fabric: Fabric, agent: &'static str, seed: u64, seen: Arc<Mutex<Seen>>, stop: Arc<AtomicBool>) {
    let mut rng = StdRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let (session, mut receiver) = fabric.attach(&ANYONE, session(&mut rng, agent)).await.unwrap();
        session
            .subscribe(vec![TopicFilter::new(SHARED).unwrap()])
            .await
            .unwrap();
        for _ in 0..rng.random_range(1..60) {
            let mut deliveries = Vec::new();
            // A session that holds all that its window allows gets nothing more: it breaks off.
            let patience = Duration::from_millis(20);
            if tokio::time::timeout(patience, receiver.next(&mut deliveries, 1))
                .await
                .is_err()
            {
                break;
            }
            let Some(delivery) = deliveries.pop() else { break };
            let delivery_id = seen.lock().unwrap().delivery(&session, &delivery);
            let message = delivery.frame.envelope.id();
            let word = match rng.random_range(0..100) {
                0..55 => Some(Word::Acknowledged),
                55..65 => {
                    tokio::time::sleep(Duration::from_millis(rng.random_range(0..8))).await;
                    Some(Word::Acknowledged)
                }
                65..75 => {
                    let wait = rng
                        .random_bool(0.5)
                        .then(|| Duration::from_millis(rng.random_range(0..4)));
                    session.nack(&[delivery_id], Refusal::Retry(wait)).await;
                    None
                }
                75..85 => {
                    session.nack(&[delivery_id], Refusal::Release).await;
                    None
                }
                85..90 => Some(Word::Refused),
                _ => None,
            };
            let settled = match word {
                Some(Word::Acknowledged) => session.ack(&[delivery_id]).await,
                Some(Word::Refused) => session.nack(&[delivery_id], Refusal::DeadLetter).await,
                None => continue,
            };
            if let (Some(word), [Settled::Done]) = (word, &settled[..]) {
                seen.lock().unwrap().settled(delivery_id, message, word);
            }
        }
    }
}

/// Acknowledges whatever comes until it is told to stop.
async fn drain(fabric: Fabric, agent: &'static str, seen: Arc<Mutex<Seen>>, stop: Arc<AtomicBool>) {
    let (session, mut receiver) = attach(&fabric, agent).await;
    session
        .subscribe(vec![TopicFilter::new(SHARED).unwrap()])
        .await
        .unwrap();
    while !stop.load(Ordering::Relaxed) {
        let mut deliveries = Vec::new();
        let some = receiver.next(&mut deliveries, 32);
        let _quiet = tokio::time::timeout(Duration::from_millis(20), some).await;
        for delivery in deliveries {
            let delivery_id = seen.lock().unwrap().delivery(&session, &delivery);
            if session.ack(&[delivery_id]).await == [Settled::Done] {
                let message = delivery.frame.envelope.id();
                seen.lock().unwrap().settled(delivery_id, message, Word::Acknowledged);
            }
        }
    }
}

/// Sends one after the other, some again, and returns what was accepted.
async fn produce(fabric: Fabric, number: usize, seed: u64) -> Vec<Sent> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut sent = Vec::new();
    for _ in 0..MESSAGES {
        let (to, _) = ADDRESSES[rng.random_range(0..ADDRESSES.len())];
        let mut message = draft(&fabric, &format!("sender-{number}"), to);
        message.priority = Priority::DESCENDING[rng.random_range(0..Priority::COUNT)];
        message.qos = if rng.random_bool(0.5) {
            Qos::AtLeastOnce
        } else {
            Qos::ExactlyOnce
        };
        message.ttl_ms = if rng.random_bool(0.2) {
            rng.random_range(1..40)
        } else {
            0
        };
        let body = "x".repeat(rng.random_range(0..400));
        let accepted = match send(&fabric, message.clone(), &body).await {
            Ok(accepted) => accepted,
            Err(FabricError::QueueFull { .. }) => {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            }
            Err(other) => panic!("{to} refused: {other}"),
        };
        assert!(!accepted.duplicate);
        if rng.random_bool(0.2) {
            let again = send(&fabric, message.clone(), &body).await.unwrap();
            assert!(
                again.duplicate && again.tracking == accepted.tracking,
                "G4: taken twice"
            );
        }
        sent.push(Sent { message, accepted });
    }
    sent
}

async fn prepare() -> Fabric {
    let fabric = fabric(Config {
        inbox_messages_max: INBOX_MESSAGES_MAX,
        max_deliver: 5,
        backoff_first_ms: 1,
        backoff_max_ms: 4,
        ..Config::default()
    })
    .await;
    for agent in WORKERS {
        let registration = Registration {
            capabilities: vec!["work".parse().unwrap()],
            ..Registration::default()
        };
        fabric.register_agent(&ANYONE, id(agent), registration).await.unwrap();
    }
    for (name, mode) in [
        ("turns", CommunicationMode::RoundRobin),
        ("least", CommunicationMode::LeastLoaded),
    ] {
        let (_, members) = ADDRESSES.iter().find(|(to, _)| *to == format!("group:{name}")).unwrap();
        let record = GroupRecord {
            group_id: name.parse().unwrap(),
            ..group(mode, members)
        };
        fabric.create_group(&ANYONE, record).await.unwrap();
    }
    fabric
}

/// The queue that a message to an address waits in.
fn queue_of(to: &str) -> Address {
    match to {
        "topic:jobs/x" => Address::shared(&TopicFilter::new(SHARED).unwrap()),
        other => other.parse().unwrap(),
    }
}

async fn dead_letters(fabric: &Fabric) -> HashSet<String> {
    let mut ids = HashSet::new();
    for (to, _) in ADDRESSES {
        let letters = fabric.dead_letters(&ANYONE, &queue_of(to), None, 1_000).await.unwrap();
        ids.extend(letters.iter().map(|letter| letter.frame.envelope.id().to_owned()));
    }
    ids
}

/// What is wrong with the end of one message; `None`: nothing.
async fn fault_of(fabric: &Fabric, sent: &Sent, seen: &Seen, letters: &HashSet<String>) -> Option<String> {
    let query = StatusQuery::Tracking(sent.accepted.tracking.unwrap());
    let end = fabric.status(&ANYONE, query).await.unwrap();
    let (message, to) = (sent.message.id.as_str(), sent.message.to.to_string());
    let acknowledged = seen.acknowledged.get(message).copied().unwrap_or_default();
    let (was_refused, is_letter) = (seen.refused.contains(message), letters.contains(message));
    let is_right = match (end.status, end.reason) {
        (Status::Delivered, _) => acknowledged == 1 && !was_refused && !is_letter,
        (Status::DeadLettered, Reason::Refused) => acknowledged == 0 && was_refused && is_letter,
        (Status::DeadLettered, Reason::MaxDeliver) => acknowledged == 0 && !was_refused && is_letter,
        (Status::Expired, _) => acknowledged == 0 && !was_refused && !is_letter && sent.message.ttl_ms > 0,
        (Status::Rejected, Reason::NobodyThere | Reason::QueueFull) => {
            acknowledged == 0 && !seen.delivered.contains(message) && to.starts_with("topic:")
        }
        (Status::Queued, _) => !seen.delivered.contains(message) && to == "agent:nobody",
        _ => false,
    };
    let facts = format!("acknowledged {acknowledged} times, refused: {was_refused}, dead letter: {is_letter}");
    (!is_right).then(|| format!("{message} to {to} ended as {end:?}, but: {facts}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_accepted_message_has_one_end_whatever_its_receivers_do() {
    let seed = env::var("WEFT_RANDOM_SEED")
        .ok()
        .map(|text| text.parse().expect("a number"));
    for round in 0..ROUNDS {
        let seed = seed.unwrap_or_else(rand::random::<u64>);
        eprintln!("round {round}: WEFT_RANDOM_SEED={seed}");
        run(seed).await;
    }
}

async fn run(seed: u64) {
    let fabric = prepare().await;
    let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
    let receivers = (0..2 * WORKERS.len()).map(|at| {
        let (agent, seed) = (WORKERS[at % WORKERS.len()], seed.wrapping_add(100 + at as u64));
        tokio::spawn(receive(fabric.clone(), agent, seed, seen.clone(), stop.clone()))
    });
    let receivers: Vec<_> = receivers.collect();
    let producers = (0..SENDERS).map(|at| tokio::spawn(produce(fabric.clone(), at, seed.wrapping_add(at as u64))));
    let sent: Vec<Sent> = join_all(producers).await.into_iter().flat_map(Result::unwrap).collect();
    stop.store(true, Ordering::Relaxed);
    join_all(receivers).await.into_iter().for_each(Result::unwrap);

    stop.store(false, Ordering::Relaxed);
    let drains = WORKERS.map(|agent| tokio::spawn(drain(fabric.clone(), agent, seen.clone(), stop.clone())));
    for (to, _) in ADDRESSES.iter().filter(|(_, members)| !members.is_empty()) {
        until(|| async {
            let relays = fabric.depth(&ANYONE, &to.parse().unwrap()).await.unwrap().0;
            let waiting = fabric.depth(&ANYONE, &queue_of(to)).await.unwrap().0;
            (relays + waiting == 0).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    join_all(drains).await.into_iter().for_each(Result::unwrap);
    // What expires while nobody is there does so by itself.
    let kept_for_good = |sent: &&Sent| sent.message.to.to_string() == "agent:nobody" && sent.message.ttl_ms == 0;
    let kept = sent.iter().filter(kept_for_good).count();
    until(|| async {
        let depth = fabric.depth(&ANYONE, &queue_of("agent:nobody")).await.unwrap().0;
        (depth == kept).then_some(())
    })
    .await;

    let letters = dead_letters(&fabric).await;
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    seen.check_ends();
    for sent in &sent {
        let fault = fault_of(&fabric, sent, &seen, &letters).await;
        seen.faults.extend(fault);
    }
    let accepted: HashSet<&str> = sent.iter().map(|sent| sent.message.id.as_str()).collect();
    let invented = seen
        .delivered
        .iter()
        .filter(|message| !accepted.contains(message.as_str()));
    assert_eq!(invented.count(), 0, "what was refused was delivered");
    assert!(
        seen.faults.is_empty(),
        "{} faults: {:#?}",
        seen.faults.len(),
        &seen.faults[..seen.faults.len().min(5)]
    );
    assert!(
        !seen.acknowledged.is_empty() && !letters.is_empty(),
        "the run shows nothing"
    );
    fabric.stop(PATIENCE).await.unwrap();
}
