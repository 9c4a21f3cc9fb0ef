//! `loadtest`: load scenarios against a weft node, sweeps, comparisons. The library beside it does the work.
//!
//! ```text
//! cargo build --profile ci --workspace
//! target/ci/loadtest run one-to-one durable --serve target/ci/weft --out report
//! target/ci/loadtest sweep n-to-n --serve target/ci/weft --out sweep
//! target/ci/loadtest peers --serve target/ci/weft
//! ```
//!
//! Exit codes: 0, 1 where something failed, 2 where messages were lost, doubled or reordered, 3 where a comparison is worse.

#![allow(clippy::print_stdout, reason = "a command-line program whose report is its output")]

use std::{fs, process::ExitCode};

use clap::Parser;
use loadtest::{
    cli::{Cli, Command, CompareArguments, Output, RunArguments, SweepArguments, Target},
    compare,
    node::{Encryption, Node, Serve},
    peers,
    plan::Protocol,
    progress::Progress,
    report::{Report, Verdict, text},
    scenario, sweep,
};

// As the node has it: what clients cost is then their own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FAULTY: u8 = 2;
const WORSE: u8 = 3;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(until_interrupted(run(cli)));
            // Threads that still talk to a peer end with the process.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(error.to_string()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("loadtest: {error}");
        ExitCode::FAILURE
    })
}

/// Dropping what runs ends the node that it started and removes its folder.
async fn until_interrupted(work: impl Future<Output = Result<ExitCode, String>>) -> Result<ExitCode, String> {
    tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
    }
}

async fn run(cli: Cli) -> Result<ExitCode, String> {
    match cli.command {
        Command::Run(arguments) => scenarios(&arguments).await,
        Command::Sweep(arguments) => sweeping(&arguments).await,
        Command::Compare(arguments) => comparing(&arguments),
        Command::Peers(arguments) => peers::run(&arguments).await,
        Command::Limit(arguments) => peers::limits::serve(&arguments).await,
    }
}

async fn scenarios(arguments: &RunArguments) -> Result<ExitCode, String> {
    let mut report = Report::new(Vec::new());
    for scenario in &arguments.scenarios {
        let plan = arguments.shape.plan(*scenario);
        let node = node_of(&arguments.target, [plan.protocol, plan.receive_over])?;
        report.lifted = node.lifted();
        let run = scenario::run(&node, &plan, &Progress::new(&plan.title())).await?;
        println!("{}", text::run(&run));
        report.runs.push(run);
    }
    finish(&report, &arguments.output)
}

async fn sweeping(arguments: &SweepArguments) -> Result<ExitCode, String> {
    let plan = arguments.shape.plan(arguments.scenario);
    let node = node_of(&arguments.target, [plan.protocol, plan.receive_over])?;
    let mut report = Report::new(node.lifted());
    let shares: Vec<f64> = arguments.shares.iter().map(|percent| percent / 100.0).collect();
    report.runs = sweep::run(&node, &plan, &shares).await?;
    println!("{}\n{}", plan.title(), sweep::table(&report.runs));
    finish(&report, &arguments.output)
}

fn comparing(arguments: &CompareArguments) -> Result<ExitCode, String> {
    let reports = (Report::read(&arguments.before)?, Report::read(&arguments.after)?);
    let comparison = compare::compare(&reports.0, &reports.1, arguments.tolerance / 100.0);
    println!("{}", comparison.text());
    Ok(if comparison.has_worse() {
        ExitCode::from(WORSE)
    } else {
        ExitCode::SUCCESS
    })
}

fn node_of(target: &Target, protocols: [Protocol; 2]) -> Result<Node, String> {
    let Some(binary) = &target.serve else {
        let read = |file| fs::read(file).map_err(|error| format!("{}: {error}", std::path::Path::display(file)));
        let ca = target.ca.as_deref().map(read).transpose()?;
        let mut node = Node::at(&target.url, ca, target.pid)?;
        node.endpoints.quic_mtu = target.quic_mtu;
        return Ok(node);
    };
    Node::serve(&Serve {
        data_parent: target.data_parent.clone(),
        arguments: target.node_arguments.clone(),
        variables: target.node_variables.clone(),
        protocols: protocols.into(),
        encryption: if target.tls { Encryption::Tls } else { Encryption::Plain },
        quic_mtu: target.quic_mtu,
        ..Serve::new(binary)
    })
}

fn finish(report: &Report, output: &Output) -> Result<ExitCode, String> {
    if let Some(folder) = &output.out {
        report.write(folder)?;
        println!("{}", folder.join("report.html").display());
    }
    Ok(match report.verdict() {
        Verdict::Clean => ExitCode::SUCCESS,
        Verdict::Faulty => ExitCode::from(FAULTY),
    })
}
