//! `config`: what a node would run with, where each value comes from, and what is wrong.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    output::{Printer, Stop},
    serve::{self, ConfigArgs},
};
use crate::node::config::{
    Inputs, file, gather,
    setting::{Source, is_secret, shown},
};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Show every setting with its value and its source, as `weft serve` would run
    #[command(after_help = "Examples:
  weft config show
  weft config show --config weft.yaml --http-listen 127.0.0.1:9000 -o json")]
    Show(Box<ConfigArgs>),
    /// Check a configuration file, without the environment
    #[command(after_help = "Example:\n  weft config check weft.yaml   exit code 0: good, 78: not")]
    Check {
        /// The YAML file
        #[arg(default_value = "weft.yaml")]
        file: PathBuf,
    },
}

pub(super) fn run(command: &ConfigCommand, printer: &mut Printer) -> Result<(), Stop> {
    match command {
        ConfigCommand::Show(args) => show(args, printer),
        ConfigCommand::Check { file } => check(file, printer),
    }
}

fn show(args: &ConfigArgs, printer: &mut Printer) -> Result<(), Stop> {
    let gathered = serve::configuration(args)?;
    let settings: Vec<_> = gathered.settings().collect();
    printer.listing(
        &["setting", "value", "source"],
        &settings,
        json_row,
        |(key, value, source)| vec![(*key).into(), shown(key, value), source.to_string()],
    )
}

fn json_row((key, value, source): &(&str, &Value, &Source)) -> Value {
    let value = if is_secret(key) {
        json!(shown(key, value))
    } else {
        (*value).clone()
    };
    json!({"key": key, "value": value, "source": source})
}

fn check(path: &std::path::Path, printer: &mut Printer) -> Result<(), Stop> {
    let name = path.display().to_string();
    let inputs = Inputs {
        file: Some((name.clone(), file::read_text(path)?)),
        ..Inputs::default()
    };
    let gathered = gather(&inputs).map_err(|problems| serve::wrong_configuration(&problems))?;
    let written = gathered
        .settings()
        .filter(|(_, _, source)| source.name.starts_with(&name))
        .count();
    let value = json!({"file": name, "status": "ok", "settings": written});
    printer.answer(&value, || format!("{name}  ok  {written} settings"))
}
