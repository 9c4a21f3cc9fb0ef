//! `serve`: the flags of a node, and where its configuration is read from.

use std::{
    env,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::node::{
    self,
    config::{
        Gathered, Inputs, file, gather,
        setting::{Change, Origin, Problem, Setting, Source},
    },
    failure::{Exit, Failure},
};

/// The variable that names the configuration file.
const CONFIG_VARIABLE: &str = "WEFT_CONFIG";

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft serve
  weft serve --data-dir /var/lib/weft --http-listen 127.0.0.1:8000 --grpc-listen off
  weft serve --memory --http-listen 127.0.0.1:0     nothing on disk, a free port
  weft serve --config weft.yaml

Ready is one line on standard output that starts with `weft ready` and names every listener.
SIGTERM or Ctrl-C drains and ends with exit code 0; a second one ends at once.")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Where settings come from, and those that have a flag.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// The YAML file [default: $WEFT_CONFIG, else weft.yaml where the working directory has it]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the node keeps everything [default: ./data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// HTTP and WebSocket: host:port or off [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDR")]
    http_listen: Option<String>,
    /// gRPC: host:port or off [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDR")]
    grpc_listen: Option<String>,
    /// QUIC, the native protocol: host:port or off [default: 127.0.0.1:4433]
    #[arg(long, value_name = "ADDR")]
    quic_listen: Option<String>,
    /// MQTT 3.1.1 and 5: host:port or off; where it is on, also WebSocket at /mqtt of the HTTP port [default: off]
    #[arg(long, value_name = "ADDR")]
    mqtt_listen: Option<String>,
    /// Short for --mqtt-listen 127.0.0.1:N
    #[arg(long, value_name = "N", conflicts_with = "mqtt_listen")]
    mqtt_port: Option<u16>,
    /// MQTT over TLS: host:port or off [default: off]
    #[arg(long, value_name = "ADDR")]
    mqtts_listen: Option<String>,
    /// Let other machines connect although nobody has to prove who they are
    #[arg(long)]
    insecure: bool,
    /// Keep everything in memory: nothing survives a restart
    #[arg(long)]
    memory: bool,
    /// The node's name in routes and logs [default: node_1]
    #[arg(long, value_name = "NAME")]
    node_id: Option<String>,
    /// error, warn, info, debug, trace, or by module: info,weft::router=debug
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// auto, pretty or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl ConfigArgs {
    /// The settings that flags name.
    fn flags(&self) -> Vec<Setting> {
        let mqtt_port = self.mqtt_port.map(|port| format!("127.0.0.1:{port}"));
        let switch = |on: bool| on.then(|| "true".to_string());
        let flags = [
            ("--data-dir", "node.data_dir", self.data_dir.clone()),
            ("--http-listen", "http.listen", self.http_listen.clone()),
            ("--grpc-listen", "grpc.listen", self.grpc_listen.clone()),
            ("--quic-listen", "quic.listen", self.quic_listen.clone()),
            ("--mqtt-listen", "mqtt.listen", self.mqtt_listen.clone()),
            ("--mqtt-port", "mqtt.listen", mqtt_port),
            ("--mqtts-listen", "mqtt.tls_listen", self.mqtts_listen.clone()),
            ("--insecure", "node.insecure", switch(self.insecure)),
            ("--memory", "node.memory", switch(self.memory)),
            ("--node-id", "node.id", self.node_id.clone()),
            ("--log-level", "log.level", self.log_level.clone()),
            ("--log-format", "log.format", self.log_format.clone()),
        ];
        flags
            .into_iter()
            .filter_map(|(flag, key, value)| Some((flag, key, value?)))
            .map(setting)
            .collect()
    }
}

fn setting((flag, key, value): (&str, &str, String)) -> Setting {
    Setting {
        key: key.into(),
        change: Change::Text(value),
        source: Source::new(Origin::Flag, flag),
    }
}

pub(super) fn run(args: &ServeArgs) -> Result<(), Failure> {
    node::run(configuration(&args.config)?)
}

/// The configuration that this process's file, environment and flags make.
pub(super) fn configuration(args: &ConfigArgs) -> Result<Gathered, Failure> {
    let inputs = Inputs {
        file: config_file(args.config.as_deref())?,
        dotenv: present(Path::new(file::DOTENV_FILE))?,
        environment: env::vars_os()
            // Names and values that are not text cannot be settings.
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        flags: args.flags(),
    };
    gather(&inputs).map_err(|problems| wrong_configuration(&problems))
}

/// The file that was asked for, or the default one where it exists: its name and text.
fn config_file(flag: Option<&Path>) -> Result<Option<(String, String)>, Failure> {
    let variable = env::var_os(CONFIG_VARIABLE)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    if let Some(path) = flag.map(Path::to_path_buf).or(variable) {
        return Ok(Some((path.display().to_string(), file::read_text(&path)?)));
    }
    let text = present(Path::new(file::DEFAULT_FILE))?;
    Ok(text.map(|text| (file::DEFAULT_FILE.into(), text)))
}

/// The text of a file that need not be there.
fn present(path: &Path) -> Result<Option<String>, Failure> {
    if path.is_file() {
        file::read_text(path).map(Some)
    } else {
        Ok(None)
    }
}

/// Everything that is wrong, as one failure.
pub(super) fn wrong_configuration(problems: &[Problem]) -> Failure {
    let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
    let fix = "correct what is listed; `weft config show` prints all settings and where they come from";
    Failure::new(Exit::Config, "the configuration is wrong", lines.join("\n"), fix)
}
