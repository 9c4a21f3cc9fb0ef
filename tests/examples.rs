//! The examples, run as tests: the word count on a node of its own, and on one that is killed in the middle.

#[path = "../examples/word_count/coordinator.rs"]
mod coordinator;
#[path = "../examples/word_count/corpus.rs"]
mod corpus;
#[path = "../examples/word_count/own_node.rs"]
mod own_node;
mod real_node;
#[path = "../examples/word_count/workers.rs"]
mod workers;

use std::{error::Error, path::Path, sync::mpsc, thread, time::Duration};

use coordinator::{Outcome, Progress};
use own_node::OwnNode;
use real_node::{Listeners, RealNode};
use tokio::runtime::Runtime;
use workers::Server;

type Failure = Box<dyn Error + Send + Sync>;

/// Longest that a count may take, on a debug build and a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// This project's own sources: the same texts wherever the test runs.
fn sources() -> Vec<String> {
    corpus::tasks(&[Path::new(env!("CARGO_MANIFEST_DIR")).join("src")], usize::MAX)
}

fn count(server: &Server, progress: impl Fn(Progress)) -> Outcome {
    let runtime = Runtime::new().expect("the system has threads");
    let counting = async { tokio::time::timeout(DEADLINE, coordinator::count(server, sources(), progress)).await };
    let outcome = runtime
        .block_on(counting)
        .unwrap_or_else(|_| panic!("not done within {DEADLINE:?}"));
    outcome.unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn assert_exact(outcome: &Outcome) {
    assert!(outcome.tasks > 30, "{} tasks only", outcome.tasks);
    assert!(
        outcome.counts.values().sum::<u64>() > 10_000,
        "too few words to mean anything"
    );
    assert_eq!(outcome.by_worker.values().sum::<usize>(), outcome.tasks);
    assert!(outcome.is_exact(), "{:?} is not {:?}", outcome.counts, outcome.expected);
}

#[test]
fn the_word_count_is_exact_with_workers_over_grpc_websocket_and_http() {
    let node = OwnNode::start(Path::new(env!("CARGO_BIN_EXE_weft"))).expect("the node starts");
    let outcome = count(&node.server, |_| {});
    assert_exact(&outcome);
    let idle: Vec<&str> = ["grpc", "websocket", "http"]
        .into_iter()
        .filter(|name| !outcome.by_worker.contains_key(&format!("word-count/worker-{name}")))
        .collect();
    assert!(idle.is_empty(), "{idle:?} did nothing: {:?}", outcome.by_worker);
}

#[test]
fn the_word_count_is_exact_though_the_node_is_killed_in_the_middle() {
    let folder = tempfile::tempdir().expect("the system has a temporary folder");
    let node = RealNode::start(&folder.path().join("data"), Listeners::free());
    let server = Server {
        http: node.listeners.http.to_string(),
        grpc: node.listeners.grpc.to_string(),
    };
    let (counted, counts) = mpsc::channel();
    // Kills at a third of the way; what was counted till then and what was under way is anything.
    let killer = thread::spawn(move || {
        let middle = |progress: &Progress| progress.counted * 3 >= progress.tasks;
        let reached = counts.iter().find(middle).expect("the count comes this far");
        (reached, node.kill_and_restart())
    });
    let outcome = count(&server, move |progress| {
        // After the kill nobody listens any more.
        let _ = counted.send(progress);
    });
    let (reached, _node) = killer.join().expect("the node starts again");
    assert!(reached.counted < reached.tasks, "killed only after the end");
    assert_exact(&outcome);
}

#[test]
fn no_word_is_cut_in_two_or_lost_by_cutting_texts_into_tasks() {
    let folder = tempfile::tempdir().expect("the system has a temporary folder");
    let text = "häuser And houses, 42 times; ".repeat(5_000);
    std::fs::write(folder.path().join("text"), &text).expect("the folder takes a file");
    let tasks = corpus::tasks(&[folder.path().to_owned()], 10);
    assert!(tasks.len() > 5, "{} tasks", tasks.len());
    let mut sum = corpus::Counts::new();
    tasks
        .iter()
        .for_each(|task| corpus::add(&mut sum, &corpus::count(task)));
    assert_eq!(sum, corpus::count(&text));
    assert_eq!((sum["häuser"], sum["and"], sum["42"]), (5_000, 5_000, 5_000));
}
