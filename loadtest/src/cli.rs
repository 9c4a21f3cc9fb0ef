//! The command line: what can be asked for, as clap reads it.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::plan::{Load, Plan, Protocol, Quality, Scenario, Verification};

/// Load scenarios against a weft node, and comparisons with other brokers.
#[derive(Debug, Parser)]
#[command(
    name = "loadtest",
    version,
    after_help = "`loadtest run one-to-one --serve PATH/TO/weft` is a first run."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run scenarios, each on a node of its own where --serve is given.
    Run(RunArguments),
    /// Measure a scenario's saturation, then offer shares of it: latency and throughput against load.
    Sweep(SweepArguments),
    /// Compare two reports; exit code 3 where the second is worse.
    Compare(CompareArguments),
    /// Run the same workloads against other brokers and bare limits, in turn, and show the ratios.
    Peers(crate::peers::Arguments),
    /// A bare limit's server, as `peers` starts it.
    #[command(hide = true)]
    Limit(crate::peers::limits::Arguments),
}

#[derive(Debug, Args)]
pub struct RunArguments {
    /// What to run, one after the other.
    #[arg(required = true)]
    pub scenarios: Vec<Scenario>,
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub shape: Shape,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct SweepArguments {
    /// What to run; `n-to-n` shows fairness between sessions too.
    #[arg(default_value = "n-to-n")]
    pub scenario: Scenario,
    /// Percentages of the saturation to offer.
    #[arg(long, value_delimiter = ',', default_value = "10,50,80,110", value_name = "PERCENT")]
    pub shares: Vec<f64>,
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub shape: Shape,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct CompareArguments {
    /// A report's `report.json`.
    pub before: PathBuf,
    /// Another one.
    pub after: PathBuf,
    /// Differences up to this count as none, in per cent.
    #[arg(long, default_value_t = 10.0)]
    pub tolerance: f64,
}

/// The node under load.
#[derive(Debug, Args)]
pub struct Target {
    /// A `weft` binary: a node of its own is started with it, on free ports of loopback and an empty data folder.
    #[arg(long, value_name = "PATH", required_unless_present = "url", conflicts_with = "url")]
    pub serve: Option<PathBuf>,
    /// Folder for the data of such a node; it decides what durable scenarios measure.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    pub data_parent: PathBuf,
    /// A further argument of such a node, such as `--node-arg=--config=bench.yaml`; may be given again.
    #[arg(long = "node-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub node_arguments: Vec<String>,
    /// A setting of such a node by its variable, such as `--node-env=WEFT_ROUTER__FSYNC=false`; may be given again.
    #[arg(long = "node-env", value_name = "NAME=VALUE", value_parser = variable)]
    pub node_variables: Vec<(String, String)>,
    /// Encrypt gRPC between such a node and its clients.
    #[arg(long, requires = "serve")]
    pub tls: bool,
    /// Largest UDP payload of QUIC, in bytes, 1,200 to 6,500: of clients, and of the node where it is started here. 6,400 suits
    /// loopback and jumbo frames.
    #[arg(long, value_name = "BYTES")]
    pub quic_mtu: Option<u16>,
    /// A node that runs already: grpc://, grpcs://, weft://, http:// or mqtt://HOST:PORT; once for each listener that is needed.
    #[arg(long, value_name = "URL")]
    pub url: Vec<String>,
    /// The authority that signed its certificate, as PEM.
    #[arg(long, value_name = "FILE", requires = "url")]
    pub ca: Option<PathBuf>,
    /// Its process, where it runs on this machine: processor time and memory are then reported.
    #[arg(long, requires = "url")]
    pub pid: Option<u32>,
}

/// What is run and how much of it.
#[derive(Debug, Args)]
pub struct Shape {
    #[arg(long, short, default_value = "grpc")]
    pub protocol: Protocol,
    /// Protocol of the consumers, where it is another one.
    #[arg(long, value_name = "PROTOCOL")]
    pub receive_over: Option<Protocol>,
    /// Pairs, consumers, producers, members or sessions, as the scenario has them.
    #[arg(long)]
    pub agents: Option<usize>,
    /// Messages of a producer under way at once.
    #[arg(long, conflicts_with = "rate")]
    pub in_flight: Option<usize>,
    /// Open loop: messages a second of all producers together, whatever becomes of them; latency counts from when each was due.
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Quality of service: 0, 1 or 2.
    #[arg(long)]
    pub qos: Option<Quality>,
    /// Bytes of a body, 32 at least.
    #[arg(long, visible_alias = "body")]
    pub body_bytes: Option<usize>,
    /// Measured seconds, at most.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Seconds before measuring starts.
    #[arg(long, value_name = "SECONDS")]
    pub warm_up: Option<f64>,
    /// Messages sent, at most, the warm-up's included.
    #[arg(long)]
    pub messages: Option<u64>,
    /// Sessions of the client library that share a connection (100 at most).
    #[arg(long)]
    pub sessions_per_connection: Option<usize>,
    /// Do not check every message.
    #[arg(long)]
    pub no_verify: bool,
}

/// Where results go.
#[derive(Debug, Args)]
pub struct Output {
    /// A folder for `report.json`, `report.html` and `.hgrm` files.
    #[arg(long, short, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').ok_or("is not NAME=VALUE")?;
    Ok((parts.0.to_owned(), parts.1.to_owned()))
}

impl Shape {
    /// The plan of a scenario in this shape.
    pub fn plan(&self, scenario: Scenario) -> Plan {
        let mut plan = Plan::new(scenario, self.protocol);
        plan.receive_over = self.receive_over.unwrap_or(self.protocol);
        if let Some(qos) = self.qos {
            plan.quality = qos;
            plan.load = Load::Closed {
                in_flight: scenario.in_flight_default(qos),
            };
        }
        if let Some(in_flight) = self.in_flight {
            plan.load = Load::Closed {
                in_flight: in_flight.max(1),
            };
        }
        if let Some(rate_per_s) = self.rate {
            plan.load = Load::Open { rate_per_s };
        }
        let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        plan.bounds.time = self.seconds.map_or(plan.bounds.time, seconds);
        plan.bounds.warm_up = self.warm_up.map_or(plan.bounds.warm_up, seconds);
        plan.bounds.messages = self.messages.unwrap_or(plan.bounds.messages);
        plan.body_bytes = self.body_bytes.unwrap_or(plan.body_bytes);
        plan.agents = self.agents.unwrap_or(plan.agents);
        plan.sessions_per_connection = self.sessions_per_connection.unwrap_or(plan.sessions_per_connection);
        if self.no_verify {
            plan.verification = Verification::Off;
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_rate_makes_an_open_loop_and_qos_1_fewer_in_flight() {
        let plan = |arguments: &[&str]| {
            let arguments = [&["loadtest", "run", "one-to-one", "--serve", "weft"], arguments].concat();
            let Command::Run(run) = Cli::parse_from(arguments).command else {
                panic!("asked for a run");
            };
            run.shape.plan(run.scenarios[0])
        };
        assert_eq!(plan(&["--rate", "500"]).load, Load::Open { rate_per_s: 500.0 });
        assert_eq!(plan(&["--qos", "1"]).load, Load::Closed { in_flight: 128 });
        assert_eq!(plan(&["--no-verify"]).verification, Verification::Off);
    }
}
