//! L6: the command line. Reads arguments, asks a node through the client (or starts one), and prints for people or programs.
//!
//! Must never touch a node's inside: what an operator sees here, any user could build on the client. Start at [`main`];
//! each command has a module with its arguments and its work.

mod agents;
mod dead_letters;
mod failure;
mod groups;
mod health;
mod input;
mod messages;
mod output;
mod receive;
mod serve;
mod settings;
mod shape;

use std::{env, fs, io, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::{
    client::{Client, ClientBuilder},
    node::failure::{Exit, Failure},
};
use output::{Format, Printer, Stop};

/// The server that commands talk to unless told otherwise.
const SERVER_DEFAULT: &str = "grpc://127.0.0.1:50051";
/// The variable that names another one.
const SERVER_VARIABLE: &str = "WEFT_SERVER";
/// The variables that name whom encrypted URLs trust.
const CA_VARIABLE: &str = "WEFT_TLS_CA";
const PIN_VARIABLE: &str = "WEFT_TLS_PIN";

/// A messaging fabric for AI agents: durable mailboxes, honest delivery, one binary.
#[derive(Debug, Parser)]
#[command(name = "weft", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Examples:
  weft serve                                  a development node on loopback, data in ./data
  weft send --from alice bob 'hello'          into bob's mailbox
  weft recv bob                               what waits there
  weft health                                 is it serving?

Exit codes are those of sysexits.h: 64 usage, 65 wrong input, 66 no such agent, group or message,
69 unavailable, 75 try again later, 77 not permitted, 78 wrong configuration.")]
struct Cli {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// table for people, json for programs (one object a line where there are several)
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    output: Format,

    /// The node to talk to: weft:// (QUIC), grpc:// or grpcs:// [default: $WEFT_SERVER, else grpc://127.0.0.1:50051]
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,

    /// PEM file of the authority that signed the node's certificate, or of that certificate [default: $WEFT_TLS_CA]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "tls_pin")]
    tls_ca: Option<PathBuf>,

    /// The node's certificate by its fingerprint, as `weft serve` logs it: sha256:… [default: $WEFT_TLS_PIN]
    #[arg(long, global = true, value_name = "FINGERPRINT")]
    tls_pin: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Serve(serve::ServeArgs),
    #[command(flatten)]
    Ask(Question),
    /// Show or check the configuration
    #[command(subcommand)]
    Config(settings::ConfigCommand),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  weft completions bash > /etc/bash_completion.d/weft")]
    Completions { shell: clap_complete::Shell },
}

/// The commands that talk to a node.
#[derive(Debug, Subcommand)]
enum Question {
    /// Send a message
    Send(messages::SendArgs),
    /// Receive an agent's messages
    Recv(receive::RecvArgs),
    /// Send a message and wait for the reply
    Request(messages::RequestArgs),
    /// Show what became of a message
    Status(messages::StatusArgs),
    /// Register, list, inspect and remove agents
    #[command(subcommand)]
    Agent(agents::AgentCommand),
    /// Create, list, change and delete groups
    #[command(subcommand)]
    Group(groups::GroupCommand),
    /// List and replay dead letters
    #[command(subcommand)]
    Dlq(dead_letters::DlqCommand),
    /// Ask whether a node is serving
    #[command(after_help = health::EXAMPLES)]
    Health,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, not errors. Nothing is left to do where even this cannot be printed.
            let _unprinted = error.print();
            return if error.use_stderr() {
                code(Exit::Usage)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let format = cli.common.output;
    match run(cli) {
        Ok(()) | Err(Stop::ReaderGone) => ExitCode::SUCCESS,
        Err(Stop::Failed(failure)) => {
            output::print_failure(format, &failure);
            code(failure.exit)
        }
    }
}

fn code(exit: Exit) -> ExitCode {
    ExitCode::from(exit as u8)
}

fn run(cli: Cli) -> Result<(), Stop> {
    let mut printer = Printer::stdout(cli.common.output);
    match cli.command {
        Command::Serve(args) => Ok(serve::run(&args)?),
        Command::Config(command) => settings::run(&command, &mut printer),
        Command::Completions { shell } => completions(shell, &mut printer),
        Command::Ask(question) => on_runtime(ask(question, &cli.common, &mut printer)),
    }
}

async fn ask(question: Question, common: &Common, printer: &mut Printer) -> Result<(), Stop> {
    let client = connect(common).await?;
    match question {
        Question::Send(args) => messages::send(&client, args, printer).await,
        Question::Recv(args) => receive::recv(&client, args, printer).await,
        Question::Request(args) => messages::request(&client, args, printer).await,
        Question::Status(args) => messages::status(&client, args, printer).await,
        Question::Agent(command) => agents::run(&client, command, printer).await,
        Question::Group(command) => groups::run(&client, command, printer).await,
        Question::Dlq(command) => dead_letters::run(&client, command, printer).await,
        Question::Health => health::run(&client, printer).await,
    }
}

async fn connect(common: &Common) -> Result<Client, Failure> {
    let variable = || env::var(SERVER_VARIABLE).ok().filter(|url| !url.is_empty());
    let url = common
        .server
        .clone()
        .or_else(variable)
        .unwrap_or_else(|| SERVER_DEFAULT.into());
    let builder = trusting(Client::builder(&url), common)?;
    let connected = builder.connect().await;
    connected.map_err(|error| failure::from_client("cannot talk to the node", error))
}

/// With whom an encrypted URL trusts: flags before variables, the fingerprint before the authority.
fn trusting(builder: ClientBuilder, common: &Common) -> Result<ClientBuilder, Failure> {
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let flags = (common.tls_ca.clone(), common.tls_pin.clone());
    let (ca, pin) = match flags {
        (None, None) => (variable(CA_VARIABLE).map(PathBuf::from), variable(PIN_VARIABLE)),
        given => given,
    };
    let wrong = |cause: String, fix: &str| Failure::new(Exit::Usage, "cannot tell whom to trust", cause, fix);
    if let Some(pin) = pin {
        let fix = "copy the fingerprint from the node's log, or from its `weft ready` line";
        return Ok(builder.tls_pin(pin.parse().map_err(|error| wrong(error, fix))?));
    }
    let Some(file) = ca else { return Ok(builder) };
    let fix = "name a readable PEM file; a node keeps its own certificate in its data directory";
    let pem = fs::read(&file).map_err(|error| wrong(format!("{}: {error}", file.display()), fix))?;
    Ok(builder.tls_ca_pem(pem))
}

/// Runs a command on a runtime of one thread: these wait for one connection.
fn on_runtime(work: impl Future<Output = Result<(), Stop>>) -> Result<(), Stop> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::new(Exit::Io, "cannot start", error, "free file descriptors or memory"))?;
    runtime.block_on(work)
}

fn completions(shell: clap_complete::Shell, printer: &mut Printer) -> Result<(), Stop> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "weft", &mut script);
    printer.bytes(&script)
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::ReaderGone;
        }
        Failure::new(Exit::Io, "cannot write the output", error, "check where it goes").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
