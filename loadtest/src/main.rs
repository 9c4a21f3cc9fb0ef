//! Load scenarios against a weft node: throughput, latency percentiles, processor time, memory, and whether everything arrived.
//!
//! Speaks to the node as a user's program does, through weft's client or plain sockets, and never looks inside it.
//!
//! ```text
//! cargo build --profile ci --workspace
//! target/ci/weft-loadtest grpc-qos0 grpc-qos1-durable --spawn target/ci/weft --json report.json
//! target/ci/weft-loadtest idle-websockets --spawn target/ci/weft --sessions 5000
//! target/ci/weft-loadtest grpc-qos0 --server 127.0.0.1:50051 --pid "$(pidof weft)"
//! ```

#![allow(clippy::print_stdout, reason = "a command-line program whose report is its output")]

mod idle;
mod pair;
mod process;
mod verify;

use std::{fs, path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use serde::Serialize;
use weft::frame::Qos;

use idle::Idle;
use pair::{Outcome, Plan};
use process::Node;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// One producer, one consumer, gRPC streams, fire and forget.
    GrpcQos0,
    /// One producer, one consumer, gRPC streams, on stable storage before the answer, acknowledged by the consumer.
    GrpcQos1Durable,
    /// WebSocket sessions that do nothing: memory each.
    IdleWebsockets,
}

/// Load scenarios against a weft node.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// What to run, one after the other, each on a node of its own where `--spawn` is given.
    #[arg(required = true)]
    scenarios: Vec<Scenario>,
    /// A `weft` binary: each scenario starts its own node with it, on free ports and an empty data folder.
    #[arg(long, value_name = "PATH", required_unless_present_any = ["server", "http"])]
    spawn: Option<PathBuf>,
    /// Folder for the data of spawned nodes; it decides what the durable scenarios measure.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    data_parent: PathBuf,
    /// A further argument of spawned nodes, such as `--node-arg=--config=bench.yaml`; may be given again.
    #[arg(long = "node-arg", value_name = "ARG", allow_hyphen_values = true)]
    node_arguments: Vec<String>,
    /// The gRPC listener of a node that runs already.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "spawn")]
    server: Option<String>,
    /// The HTTP listener of a node that runs already.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "spawn")]
    http: Option<String>,
    /// The process of that node on this machine: its processor time and memory are then reported.
    #[arg(long, conflicts_with = "spawn")]
    pid: Option<u32>,
    /// Messages under way at once [default: 2048 at QoS 0, 128 at QoS 1].
    #[arg(long)]
    in_flight: Option<usize>,
    /// Messages measured, at most [default: 2,000,000 at QoS 0, 300,000 at QoS 1].
    #[arg(long)]
    messages: Option<u64>,
    /// Measured seconds, at most.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Messages before measuring starts.
    #[arg(long, default_value_t = 10_000)]
    warm_up: u64,
    #[arg(long, default_value_t = 256)]
    body_bytes: usize,
    /// WebSocket sessions of `idle-websockets`.
    #[arg(long, default_value_t = 1_000)]
    sessions: usize,
    /// Writes the results here as JSON too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One scenario's result.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Measured {
    Pair(Outcome),
    Idle(Idle),
}

#[derive(Debug, Serialize)]
struct Entry {
    scenario: String,
    #[serde(flatten)]
    measured: Measured,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(Verdict::Clean) => ExitCode::SUCCESS,
        Ok(Verdict::Faulty) => ExitCode::from(2),
        Err(error) => {
            eprintln!("weft-loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every message of every scenario arrived as promised.
enum Verdict {
    Clean,
    Faulty,
}

async fn run(arguments: &Arguments) -> Result<Verdict, String> {
    let mut entries = Vec::new();
    for &scenario in &arguments.scenarios {
        let entry = Entry {
            scenario: scenario
                .to_possible_value()
                .map_or_else(String::new, |value| value.get_name().to_owned()),
            measured: measure(arguments, scenario).await?,
        };
        show(&entry);
        entries.push(entry);
    }
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&entries).map_err(|error| error.to_string())?;
        fs::write(file, text).map_err(|error| format!("can't write {}: {error}", file.display()))?;
    }
    let clean = entries.iter().all(|entry| entry.measured.is_clean());
    Ok(if clean { Verdict::Clean } else { Verdict::Faulty })
}

async fn measure(arguments: &Arguments, scenario: Scenario) -> Result<Measured, String> {
    let node = match &arguments.spawn {
        Some(binary) => Node::spawn(binary, &arguments.data_parent, &arguments.node_arguments)?,
        None => Node::running(arguments.server.clone(), arguments.http.clone(), arguments.pid),
    };
    let plan = |qos, in_flight, messages| Plan {
        qos,
        in_flight: arguments.in_flight.unwrap_or(in_flight).max(1),
        messages: arguments.messages.unwrap_or(messages),
        seconds: arguments.seconds,
        warm_up: arguments.warm_up,
        body_bytes: arguments.body_bytes,
    };
    Ok(match scenario {
        Scenario::GrpcQos0 => Measured::Pair(pair::run(&node, plan(Qos::AtMostOnce, 2_048, 2_000_000)).await?),
        Scenario::GrpcQos1Durable => Measured::Pair(pair::run(&node, plan(Qos::AtLeastOnce, 128, 300_000)).await?),
        Scenario::IdleWebsockets => Measured::Idle(idle::run(&node, arguments.sessions).await?),
    })
}

impl Measured {
    /// At QoS 0 loss is allowed, though it is shown.
    fn is_clean(&self) -> bool {
        match self {
            Self::Pair(outcome) => {
                let mut findings = outcome.findings;
                if outcome.plan.qos == Qos::AtMostOnce {
                    findings.lost = 0;
                }
                findings.is_clean() && outcome.failed_sends == 0 && outcome.failed_acks == 0 && outcome.measured > 0
            }
            Self::Idle(idle) => idle.lost == 0,
        }
    }
}

fn show(entry: &Entry) {
    println!("{}", entry.scenario);
    let row = |name: &str, value: String| println!("  {name:<28} {value}");
    match &entry.measured {
        Measured::Pair(outcome) => {
            row("messages/s", format!("{:.0}", outcome.messages_per_second));
            row("measured", format!("{} in {:.2} s", outcome.measured, outcome.seconds));
            row("in flight", outcome.plan.in_flight.to_string());
            row("delivery p50/p99/p99.9 us", percentiles(&outcome.delivery));
            if let Some(answer) = &outcome.answer {
                row("answer p50/p99/p99.9 us", percentiles(answer));
            }
            if let Some(cpu) = outcome.server_cpu_s_per_million {
                row("server CPU s/M", format!("{cpu:.2}"));
            }
            let findings = outcome.findings;
            row(
                "lost/doubled/reordered",
                format!("{}/{}/{}", findings.lost, findings.doubled, findings.reordered),
            );
            if findings.foreign + outcome.failed_sends + outcome.failed_acks > 0 {
                let failed = (findings.foreign, outcome.failed_sends, outcome.failed_acks);
                row(
                    "foreign/failed sends/acks",
                    format!("{}/{}/{}", failed.0, failed.1, failed.2),
                );
            }
        }
        Measured::Idle(idle) => {
            row("sessions", idle.sessions.to_string());
            row("server bytes/session", format!("{:.0}", idle.bytes_per_session));
            row(
                "server RSS before/after",
                format!("{}/{}", idle.rss_bytes_before, idle.rss_bytes_after),
            );
            row("lost", idle.lost.to_string());
        }
    }
}

fn percentiles(latency: &pair::Latency) -> String {
    format!(
        "{:.0}/{:.0}/{:.0} (max {:.0})",
        latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us
    )
}
