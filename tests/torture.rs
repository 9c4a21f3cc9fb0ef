//! Kills a loaded node again and again, for real, and holds what its clients saw against the guarantees (G1, G4, G5, G7, G13).
//!
//! Producers send over gRPC and HTTP and send again what was not answered; consumers receive and acknowledge; the node is ended by
//! SIGKILL at random moments and started again on the same ports and data. `torture/checker.rs` judges the history that the clients
//! wrote, `torture/model.rs` examines the judge. Settings: `WEFT_TORTURE_KILLS` (5, or 20 in `./check`) and `WEFT_TORTURE_SEED`.

#[path = "torture/checker.rs"]
mod checker;
#[path = "torture/grpc_clients.rs"]
mod grpc_clients;
#[path = "torture/history.rs"]
mod history;
#[path = "torture/http_clients.rs"]
mod http_clients;
#[path = "torture/model.rs"]
mod model;
mod real_node;
#[path = "torture/recorder.rs"]
mod recorder;

use std::{env, sync::Arc, time::Duration};

use checker::{Fault, faults};
use history::{Event, History, MessageNo, Verdict};
use rand::{Rng, SeedableRng, rngs::StdRng};
use real_node::{Listeners, RealNode, http::Http};
use recorder::{Phase, RECIPIENTS, Recorder, consumer};
use serde_json::json;
use tokio::{runtime::Runtime, task::JoinSet};

/// Longest life of a node before it is killed, in milliseconds; the shortest is the tenth part.
const LIFE_MS_MAX: u64 = 1_500;
/// Producers of each protocol.
const PRODUCERS: usize = 2;
/// A producer's pause between two messages: bounds the history's length, not the node's load alone.
const PRODUCER_PAUSE: Duration = Duration::from_millis(5);
/// How long producers may take to have everything answered, and consumers to drain everything.
const END_DEADLINE: Duration = Duration::from_secs(90);
/// Receipts that are asked for at once.
const QUESTIONS_AT_ONCE: usize = 8;
/// Faults that are shown in full.
const FAULTS_SHOWN: usize = 5;

fn setting(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn nothing_acknowledged_is_lost_doubled_or_reordered_by_killing_a_loaded_node() {
    let kills = setting("WEFT_TORTURE_KILLS").unwrap_or(5);
    let seed = setting("WEFT_TORTURE_SEED").unwrap_or_else(|| rand::rng().random());
    eprintln!("{kills} kills, WEFT_TORTURE_SEED={seed}");
    let folder = tempfile::tempdir().expect("the system has a temporary folder");
    let runtime = Runtime::new().expect("the system has threads");
    let node = RealNode::start(&folder.path().join("data"), Listeners::free());
    let recorder = Arc::new(Recorder::default());
    runtime.block_on(torture(node, &recorder, kills, seed));

    let history = recorder.history();
    let found = faults(&history);
    let shown: Vec<String> = found
        .iter()
        .take(FAULTS_SHOWN)
        .map(|fault| explain(&history, fault))
        .collect();
    assert!(
        found.is_empty(),
        "WEFT_TORTURE_SEED={seed}: {} faults\n{}",
        found.len(),
        shown.join("\n")
    );
    assert_it_was_torture(&history, kills);
}

async fn torture(mut node: RealNode, recorder: &Arc<Recorder>, kills: u64, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let http = Http::new(node.http_url(""));
    for index in 0..RECIPIENTS {
        let agent = json!({"agent_id": consumer(index)});
        http.post("/agents/register", &agent)
            .await
            .expect("the node answers")
            .success()
            .expect("it registers agents");
    }
    let (mut producers, mut consumers) = (JoinSet::new(), JoinSet::new());
    let url = node.grpc_url();
    for index in 0..PRODUCERS {
        let (name, seed) = (format!("http-producer-{index}"), rng.random());
        producers.spawn(http_clients::produce(
            http.clone(),
            recorder.clone(),
            name,
            seed,
            PRODUCER_PAUSE,
        ));
        let (name, seed) = (format!("grpc-producer-{index}"), rng.random());
        producers.spawn(grpc_clients::produce(
            url.clone(),
            recorder.clone(),
            name,
            seed,
            PRODUCER_PAUSE,
        ));
    }
    // Every other recipient over each protocol, so that each producer's messages leave over both.
    for index in 0..RECIPIENTS {
        let (name, seed) = (consumer(index), rng.random());
        if index % 2 == 0 {
            consumers.spawn(http_clients::consume(http.clone(), recorder.clone(), name, seed));
        } else {
            consumers.spawn(grpc_clients::consume(url.clone(), recorder.clone(), name, seed));
        }
    }
    for _ in 0..kills {
        // The torture itself: a life of random length.
        tokio::time::sleep(Duration::from_millis(rng.random_range(LIFE_MS_MAX / 10..LIFE_MS_MAX))).await;
        node = tokio::task::spawn_blocking(|| node.kill_and_restart())
            .await
            .expect("the node starts again");
        recorder.note(Event::Killed);
    }
    recorder.enter(Phase::Finish);
    ended("producers", &mut producers).await;
    drained(recorder).await;
    // Once more, to see that what was settled stays settled through a restart: whatever comes back comes before the markers.
    node = tokio::task::spawn_blocking(|| node.kill_and_restart())
        .await
        .expect("the node starts again");
    recorder.note(Event::Killed);
    http_clients::send_markers(&http, recorder).await;
    drained(recorder).await;
    recorder.enter(Phase::Done);
    ended("consumers", &mut consumers).await;
    ask_verdicts(&http, recorder).await;
    drop(node);
}

async fn ended(who: &str, tasks: &mut JoinSet<()>) {
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            ended.expect("a client does not panic");
        }
    };
    let late = tokio::time::timeout(END_DEADLINE, all).await;
    late.unwrap_or_else(|_| panic!("{who} did not end within {END_DEADLINE:?}"));
}

/// Waits until everything that was accepted was acknowledged, or nothing moves any more: then the checker says what is missing.
async fn drained(recorder: &Recorder) {
    /// So long without any event: nothing comes any more. Above the visibility timeout of 30 s after which a message whose
    /// hand-out was lost on its way comes again.
    const QUIET_MS: u64 = 35_000;
    const STEP_MS: u64 = 100;
    let mut quiet_ms = 0;
    let mut before = recorder.progress();
    while quiet_ms < QUIET_MS && before.unacknowledged > 0 {
        tokio::time::sleep(Duration::from_millis(STEP_MS)).await;
        let now = recorder.progress();
        quiet_ms = if now == before { quiet_ms + STEP_MS } else { 0 };
        before = now;
    }
}

async fn ask_verdicts(http: &Http, recorder: &Arc<Recorder>) {
    let questions = recorder.tracked();
    let mut asked = JoinSet::new();
    for chunk in questions.chunks(questions.len().div_ceil(QUESTIONS_AT_ONCE).max(1)) {
        let (chunk, http, recorder) = (chunk.to_vec(), http.clone(), recorder.clone());
        asked.spawn(async move {
            for (number, tracking) in chunk {
                let answer = http
                    .get(&format!("/messages/{tracking}/status"))
                    .await
                    .expect("the node answers");
                let verdict = match answer.body["status"].as_str() {
                    Some("queued" | "sent") => Verdict::Waiting,
                    Some("delivered") => Verdict::Delivered,
                    Some("expired") => Verdict::Expired,
                    Some("dead_lettered") => Verdict::DeadLettered,
                    Some("rejected") => Verdict::Rejected,
                    _ => Verdict::Unknown,
                };
                recorder.note(Event::Judged(number, verdict));
            }
        });
    }
    ended("questions", &mut asked).await;
}

/// A history without load or without a kill under load proves nothing.
fn assert_it_was_torture(history: &History, kills: u64) {
    let count = |wanted: fn(&Event) -> bool| history.events.iter().filter(|event| wanted(event)).count();
    let accepted = count(|event| matches!(event, Event::Accepted(..)));
    let submitted = count(|event| matches!(event, Event::Submitted(_)));
    let confirmed = count(|event| matches!(event, Event::AckConfirmed(_)));
    let least = usize::try_from(kills).expect("kills are few") * 10;
    eprintln!(
        "{submitted} sends, {accepted} accepted, {confirmed} acknowledgements confirmed, {kills} kills under load"
    );
    assert!(
        accepted > least && confirmed > least,
        "{accepted} accepted, {confirmed} confirmed: no load to speak of"
    );
    assert!(kills < 5 || submitted > accepted, "no kill hit a message on its way");
}

/// A fault with everything that was seen of its messages.
fn explain(history: &History, fault: &Fault) -> String {
    let about: Vec<MessageNo> = match fault {
        Fault::Lost(message)
        | Fault::TakenTwice(message)
        | Fault::StoredTwice(message)
        | Fault::Resurrected(message)
        | Fault::FalseVerdict(message, _) => vec![*message],
        Fault::OutOfOrder { earlier, later } => vec![*earlier, *later],
        Fault::Strange(_) => vec![],
    };
    let mut lines = vec![format!("{fault:?}")];
    lines.extend(
        about
            .iter()
            .map(|number| format!("  {number:?}: {:?}", history.message(*number))),
    );
    for (at, event) in history.events.iter().enumerate() {
        let shown = match event {
            Event::Killed => !about.is_empty(),
            Event::Submitted(message)
            | Event::Accepted(message, _)
            | Event::Delivered { message, .. }
            | Event::AckSent(message)
            | Event::AckConfirmed(message)
            | Event::Judged(message, _) => about.contains(message),
            Event::Strange(_) => false,
        };
        if shown {
            lines.push(format!("  {at:>6} {event:?}"));
        }
    }
    lines.join("\n")
}
