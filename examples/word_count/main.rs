//! Counts the words of a text corpus with workers that speak three different protocols, and checks the sum.
//!
//! ```text
//! cargo run --example word_count
//! cargo run --example word_count -- --http 127.0.0.1:8000 --grpc 127.0.0.1:50051     # a node that runs already
//! ```
//!
//! A coordinator sends every piece of text as a task to `any:word_count`, and the fabric gives it to one of the agents that
//! declared this capability: one is attached over gRPC, one over WebSocket, one polls over HTTP. Each answers into the
//! coordinator's inbox and acknowledges its task only after its answer was taken. Whoever dies in between, worker or node, a task
//! that was not acknowledged comes again; the coordinator counts an answer once, by its id. So the sum is exact, though nobody here
//! keeps anything on disk but the fabric.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

mod coordinator;
mod corpus;
mod own_node;
mod workers;

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::Parser;
use coordinator::{Outcome, Progress};
use own_node::OwnNode;

/// What goes wrong in an example is shown, not told apart.
type Failure = Box<dyn Error + Send + Sync>;

#[derive(Debug, Parser)]
struct Arguments {
    /// HTTP listener of a node that runs already.
    #[arg(long, value_name = "HOST:PORT", requires = "grpc")]
    http: Option<String>,
    /// gRPC listener of the same node.
    #[arg(long, value_name = "HOST:PORT", requires = "http")]
    grpc: Option<String>,
    /// Texts to count: files, or folders with files.
    #[arg(default_values = ["/usr/share/common-licenses", "/usr/share/doc"])]
    corpus: Vec<PathBuf>,
    /// Read no more files than this.
    #[arg(long, default_value_t = 400)]
    files: usize,
}

fn main() -> ExitCode {
    // This program is its own node: it starts itself again as `word_count serve …`, which is `weft serve …`.
    if std::env::args().nth(1).is_some_and(|first| first == "serve") {
        return weft::cli::main();
    }
    example()
}

#[tokio::main]
async fn example() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(outcome) => {
            show(&outcome);
            if outcome.is_exact() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("word_count: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<Outcome, Failure> {
    let tasks = corpus::tasks(&arguments.corpus, arguments.files);
    println!("{} tasks", tasks.len());
    let say = |progress: Progress| {
        if progress.counted.is_multiple_of(100) {
            println!("{} of {} counted", progress.counted, progress.tasks);
        }
    };
    match (arguments.http, arguments.grpc) {
        (Some(http), Some(grpc)) => coordinator::count(&workers::Server { http, grpc }, tasks, say).await,
        _ => {
            let node = OwnNode::start(&std::env::current_exe()?)?;
            coordinator::count(&node.server, tasks, say).await
        }
    }
}

fn show(outcome: &Outcome) {
    let mut frequent: Vec<(&String, &u64)> = outcome.counts.iter().collect();
    frequent.sort_by_key(|(word, count)| (std::cmp::Reverse(**count), *word));
    for (word, count) in frequent.iter().take(10) {
        println!("{count:>10}  {word}");
    }
    for (worker, tasks) in &outcome.by_worker {
        println!("{tasks:>10}  tasks by {worker}");
    }
    let words: u64 = outcome.counts.values().sum();
    println!(
        "{words} words in {} tasks, {:.2} s",
        outcome.tasks,
        outcome.took.as_secs_f64()
    );
    let verdict = if outcome.is_exact() {
        "the same"
    } else {
        "ANOTHER RESULT"
    };
    println!(
        "{} answers came more than once; counting directly gives {verdict}",
        outcome.repeated
    );
}
