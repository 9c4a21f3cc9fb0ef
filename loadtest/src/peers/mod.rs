//! `loadtest peers`: the same work for weft, for other brokers and for bare limits, in turn, and the goals held against it.
//!
//! Owns the rounds and the table. [`goals`] has the goals, [`case`] what is run, [`workload`] the peers' clients at work.
//! Rounds interleave: each runs every case once, so that a machine that slows down slows all of them.

pub mod case;
mod certificates;
mod client;
pub mod figures;
pub mod goals;
pub mod limits;
mod mqtt;
mod nats;
mod ours;
mod raw;
mod redis;
mod slim;
mod table;
mod wire;
mod workload;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use case::{Absent, Case, Growth, Setting};
use certificates::Certificates;
use figures::Figures;
use goals::{BESIDE, GOALS, Goal};
use workload::Extent;

use crate::{progress::Progress, report::Machine};

/// Bytes of a body where nothing else is asked for, and over MQTT: what the goals are set in.
const BODY_BYTES: usize = 256;
const MQTT_BODY_BYTES: usize = 128;

/// What is compared, and how long.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The `weft` binary to compare.
    #[arg(long, value_name = "PATH")]
    serve: PathBuf,
    /// Rounds; each runs every case once. What takes minutes to set up is run in the first alone.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these goals, such as P1,P4.
    #[arg(long, value_delimiter = ',', value_name = "GOAL")]
    goals: Vec<String>,
    /// Measured seconds of a case.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Seconds of a case before measuring starts.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Bytes of a body, 32 at least. Without it 256, and 128 over MQTT.
    #[arg(long, visible_alias = "body")]
    body_bytes: Option<usize>,
    /// Pairs of agents of the cases that are otherwise one to one; 500 are 1,000 agents.
    #[arg(long, default_value_t = 1)]
    pairs: usize,
    /// Agents of fan-out and fan-in.
    #[arg(long, default_value_t = 100)]
    fan: usize,
    /// Mailboxes of P10; a tenth of them is attached. 100,000 is what the goal asks for.
    #[arg(long, default_value_t = 100_000)]
    mailboxes: usize,
    /// Registered agents of P10. 1,000,000 is what the goal asks for.
    #[arg(long, default_value_t = 1_000_000)]
    registered: usize,
    /// Stored messages of P10. 1,000,000 is what the goal asks for.
    #[arg(long, default_value_t = 1_000_000)]
    stored: u64,
    /// Where a peer's program is that is not on the path, such as `--program slimctl=/opt/slim/slimctl`; may be given again.
    #[arg(long = "program", value_name = "NAME=PATH", value_parser = program)]
    programs: Vec<(String, PathBuf)>,
    /// Folder for the data of everything that is started; it decides what the durable cases measure.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    data_parent: PathBuf,
    /// Writes every round's figures here as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What each case gave, round by round.
type Results = BTreeMap<Case, Vec<Result<Figures, Absent>>>;

/// Runs the comparison and prints its table. The exit code does not judge: goals are for people.
pub async fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    let setting = setting(arguments)?;
    let goals = wanted(&arguments.goals)?;
    let cases = cases_of(&goals);
    let mut results = Results::new();
    for round in 1..=arguments.rounds.max(1) {
        for case in cases.iter().filter(|case| round <= case.rounds_max()) {
            let progress = Progress::new(&format!("round {round}/{}: {}", arguments.rounds, case.name()));
            progress.show(0, 0, 1);
            let outcome = case.run(&setting).await;
            progress.end();
            results.entry(*case).or_default().push(outcome);
        }
    }
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&table::json(&results)).map_err(|error| error.to_string())?;
        fs::write(file, text).map_err(|error| format!("can't write {}: {error}", file.display()))?;
    }
    show(&format!(
        "{}, {} cores; {} rounds of {} s, {}-byte bodies ({} over MQTT), {} pair(s)\n\n{}",
        Machine::this().system,
        Machine::this().cores,
        arguments.rounds,
        arguments.seconds,
        setting.extent.body_bytes,
        setting.mqtt_body_bytes,
        arguments.pairs,
        table::text(&goals, &results)
    ));
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "the table is what was asked for")]
fn show(text: &str) {
    println!("{text}");
}

fn setting(arguments: &Arguments) -> Result<Setting, String> {
    let body_bytes = |otherwise| arguments.body_bytes.unwrap_or(otherwise).max(crate::head::HEAD_BYTES);
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    Ok(Setting {
        weft: arguments.serve.clone(),
        data_parent: arguments.data_parent.clone(),
        extent: Extent {
            warm_up: seconds(arguments.warm_up)?,
            time: seconds(arguments.seconds)?,
            body_bytes: body_bytes(BODY_BYTES),
        },
        mqtt_body_bytes: body_bytes(MQTT_BODY_BYTES),
        pairs: arguments.pairs.max(1),
        fan: arguments.fan.max(1),
        growth: Growth {
            mailboxes: arguments.mailboxes,
            attached: arguments.mailboxes / 10,
            agents: arguments.registered,
            messages: arguments.stored,
        },
        certificates: Certificates::new()?,
        programs: arguments.programs.clone(),
    })
}

fn program(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("is not NAME=PATH")?;
    match PathBuf::from(file) {
        file if file.is_file() => Ok((name.to_owned(), file)),
        file => Err(format!("there is no file {}", file.display())),
    }
}

fn wanted(ids: &[String]) -> Result<Vec<Goal>, String> {
    let known: BTreeSet<&str> = GOALS.iter().map(|goal| goal.id).collect();
    if let Some(unknown) = ids.iter().find(|id| !known.contains(id.as_str())) {
        let known: Vec<&str> = known.into_iter().collect();
        return Err(format!("no goal {unknown}; there are {}", known.join(", ")));
    }
    let is_wanted = |goal: &&Goal| ids.is_empty() || ids.iter().any(|id| id == goal.id);
    Ok(GOALS.iter().filter(is_wanted).copied().collect())
}

/// Every case that the goals name, once, what belongs together side by side.
fn cases_of(goals: &[Goal]) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |case: Case| {
        if !cases.contains(&case) {
            cases.push(case);
        }
    };
    for goal in goals {
        add(goal.ours);
        goal.bound.other().into_iter().for_each(&mut add);
    }
    for (ids, beside) in BESIDE {
        if goals.iter().any(|goal| ids.contains(&goal.id)) {
            beside.iter().copied().for_each(&mut add);
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_named_with_the_file_that_it_is() {
        let own = std::env::current_exe().expect("a test is a file");
        let text = format!("slimctl={}", own.display());
        assert_eq!(program(&text), Ok(("slimctl".to_owned(), own)));
        assert!(program("slimctl").is_err_and(|error| error.contains("NAME=PATH")));
        assert!(program("slimctl=/nowhere/slimctl").is_err_and(|error| error.contains("no file")));
    }

    #[test]
    fn a_goal_brings_its_own_case_and_the_one_it_is_held_against() {
        let goals = wanted(&["P6".to_owned()]).expect("a goal");
        assert_eq!(cases_of(&goals), [Case::WeftHttpRaw, Case::BareAxum, Case::WeftHttp]);
        assert!(
            wanted(&["P9".to_owned()])
                .expect_err("comes with the cluster")
                .contains("P12")
        );
    }
}
