//! The coordinator: sends the tasks, gathers the answers, counts each of them once.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use serde_json::{Value, json};
use weft::{
    client::{Client, Delivery, Message, SendHandle, Session, SessionOptions},
    frame::{AgentId, Capability, MessageId},
    time::{monotonic, now},
};

use crate::{
    Failure,
    corpus::{self, Counts},
    workers::{self, CAPABILITY, Server},
};

/// The coordinator's address: its inbox, which outlasts its session.
pub const COORDINATOR: &str = "word-count/coordinator";
/// Answers taken at once.
const BATCH: usize = 64;
/// How long the session may take to have everything answered at the end.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// How far it has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub counted: usize,
    pub tasks: usize,
}

/// What came out.
#[derive(Debug)]
pub struct Outcome {
    pub counts: Counts,
    /// What counting directly gives.
    pub expected: Counts,
    pub tasks: usize,
    /// Tasks that each worker did.
    pub by_worker: BTreeMap<String, usize>,
    /// Answers to tasks that had one already.
    pub repeated: usize,
    pub took: Duration,
}

impl Outcome {
    /// Whether the workers' counts are what counting directly gives.
    pub fn is_exact(&self) -> bool {
        self.counts == self.expected
    }
}

/// Counts the tasks' words on this server, with workers of its own.
pub async fn count(server: &Server, tasks: Vec<String>, progress: impl Fn(Progress)) -> Result<Outcome, Failure> {
    let mut expected = Counts::new();
    tasks
        .iter()
        .for_each(|text| corpus::add(&mut expected, &corpus::count(text)));
    let start = monotonic();
    let client = Client::connect(&format!("grpc://{}", server.grpc)).await?;
    let session = client
        .session(&AgentId::new(COORDINATOR)?, SessionOptions::default())
        .await?;
    let _workers = workers::start(server).await?;
    // Answers of an earlier run may still wait in the inbox: this run's tasks have a name of their own.
    let run = format!("run-{}", now().as_millis());
    let sending = tokio::spawn(send_all(session.clone(), run.clone(), tasks.clone()));
    let mut outcome = gather(&session, &run, tasks.len(), progress).await?;
    sending.await??;
    session.close(CLOSE_DEADLINE).await?;
    outcome.expected = expected;
    outcome.took = monotonic() - start;
    Ok(outcome)
}

/// Sends the tasks and waits until the fabric has all of them. The session sends again what a lost connection left unanswered.
async fn send_all(session: Session, run: String, tasks: Vec<String>) -> Result<(), Failure> {
    let capability = Capability::new(CAPABILITY)?;
    let mut handles: Vec<SendHandle> = Vec::with_capacity(tasks.len());
    for (number, text) in tasks.iter().enumerate() {
        let task = Message::to_capability(&capability)
            .id(&MessageId::new(format!("{run}:{number}"))?)
            .message_type("count_words")
            .json(&json!({"text": text}))?;
        handles.push(session.send(task).await?);
    }
    for handle in handles {
        handle.await?;
    }
    Ok(())
}

async fn gather(session: &Session, run: &str, tasks: usize, progress: impl Fn(Progress)) -> Result<Outcome, Failure> {
    let mut outcome = Outcome {
        counts: Counts::new(),
        expected: Counts::new(),
        tasks,
        by_worker: BTreeMap::new(),
        repeated: 0,
        took: Duration::ZERO,
    };
    let mut counted = HashSet::new();
    let mut batch = Vec::new();
    while counted.len() < tasks {
        session.recv_batch(&mut batch, BATCH).await?;
        for answer in &batch {
            let Some((task, counts)) = read_answer(answer, run) else {
                continue;
            };
            if counted.insert(task) {
                corpus::add(&mut outcome.counts, &counts);
                *outcome.by_worker.entry(answer.from().to_owned()).or_default() += 1;
                let counted = counted.len();
                progress(Progress { counted, tasks });
            } else {
                outcome.repeated += 1;
            }
        }
        // An acknowledgement that got lost brings the answer again, which is then known.
        let _ = session.ack_all(&batch).await;
        batch.clear();
    }
    Ok(outcome)
}

/// The task's number and its counts; `None` for answers of another run.
fn read_answer(answer: &Delivery, run: &str) -> Option<(usize, Counts)> {
    let body: Value = serde_json::from_slice(answer.body()).ok()?;
    let number = body["task"]
        .as_str()?
        .strip_prefix(run)?
        .strip_prefix(':')?
        .parse()
        .ok()?;
    let counts = serde_json::from_value(body["counts"].clone()).ok()?;
    Some((number, counts))
}
