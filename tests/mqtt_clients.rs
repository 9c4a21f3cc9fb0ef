//! Real clients of MQTT against a node: paho-mqtt (Python), MQTT.js (Node), rumqttc (Rust) and mosquitto's own; each does everything on
//! [`CHECKS`] in 3.1.1 and 5, by TCP, TLS and WebSocket. The test command installs them (`check`, step `tools`); what is missing fails
//! and is named.
//!
//! `WEFT_MQTT_PYTHON` names a python3 that has paho-mqtt, `WEFT_MQTT_NODE_PATH` the `node_modules` that has MQTT.js. rumqttc is built
//! here, from a package and a lock file of its own.

#![cfg(feature = "server")]

#[path = "mqtt_clients/mosquitto.rs"]
mod mosquitto;
mod mqtt_driver;

use std::{
    collections::BTreeSet,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use mqtt_driver::*;
use weft::time::monotonic;

/// What each client shows; the scripts say what that is.
const CHECKS: [&str; 6] = ["qos", "retained", "will", "shared", "resume", "addresses"];
/// What there is in version 5 only.
const CHECKS_OF_5: [&str; 2] = ["will_delay", "properties"];
const TRANSPORTS: [&str; 3] = ["tcp", "tls", "ws"];
/// For a client's whole run, and rumqttc's build before it: below the ten minutes that nextest gives a test.
const RUN_PATIENCE: Duration = Duration::from_secs(540);
/// Between two looks at whether it has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Ends its process with itself.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It fails only where the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command to its end, within [`RUN_PATIENCE`], and returns what it said.
#[track_caller]
fn ends_well(command: &mut Command) -> String {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}: run `./check tools`"));
    let mut running = Running(child);
    let (out, err) = (
        read(running.0.stdout.take().expect("piped")),
        read(running.0.stderr.take().expect("piped")),
    );
    let started = monotonic();
    let status = loop {
        if let Some(status) = running.0.try_wait().expect("the child can be asked") {
            break Some(status);
        }
        if started.elapsed() > RUN_PATIENCE {
            break None;
        }
        thread::sleep(LOOK);
    };
    drop(running);
    let (out, err) = (
        out.join().expect("reading does not panic"),
        err.join().expect("reading does not panic"),
    );
    assert!(
        status.is_some_and(|status| status.success()),
        "{command:?}: {status:?} within {RUN_PATIENCE:?}\n{out}\n{err}"
    );
    out
}

/// To its end, so that the writer never waits for its reader.
fn read(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is worth its showing.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Runs a client's program, and compares what it says has held with everything there is to hold.
#[track_caller]
fn holds_everything(broker: &Broker, client: &str, program: &mut Command) {
    program
        .args([broker.at.mqtt, broker.at.mqtts, broker.at.http].map(|address| address.port().to_string()))
        .arg(broker.certificate());
    let said = ends_well(program);
    let held: BTreeSet<&str> = said.lines().filter_map(|line| line.strip_prefix("ok ")).collect();
    let mut expected = BTreeSet::new();
    for transport in TRANSPORTS {
        expected.extend(CHECKS.map(|check| format!("{client} v4 {transport} {check}")));
        expected.extend(CHECKS.map(|check| format!("{client} v5 {transport} {check}")));
        expected.extend(CHECKS_OF_5.map(|check| format!("{client} v5 {transport} {check}")));
    }
    let expected: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
    assert_eq!(held, expected);
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mqtt_clients")
}

#[test]
fn paho_mqtt_does_everything() {
    let broker = Broker::start();
    let python = std::env::var("WEFT_MQTT_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut command = Command::new(python);
    holds_everything(&broker, "paho", command.arg(folder().join("paho_client.py")));
}

#[test]
fn mqtt_js_does_everything() {
    let broker = Broker::start();
    let mut command = Command::new("node");
    if let Ok(modules) = std::env::var("WEFT_MQTT_NODE_PATH") {
        command.env("NODE_PATH", modules);
    }
    holds_everything(&broker, "mqtt.js", command.arg(folder().join("mqtt_js_client.js")));
}

#[test]
fn rumqttc_does_everything() {
    let broker = Broker::start();
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["run", "--quiet", "--locked", "--manifest-path"])
        .arg(folder().join("rumqttc/Cargo.toml"))
        .arg("--target-dir")
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("rumqttc"))
        .arg("--");
    holds_everything(&broker, "rumqttc", &mut command);
}

/// Debian's are without WebSocket.
#[test]
fn mosquitto_pub_and_mosquitto_sub_do_everything_by_tcp_and_tls() {
    let broker = Broker::start();
    for version in BOTH {
        for transport in [mosquitto::Transport::Tcp, mosquitto::Transport::Tls] {
            mosquitto::everything(&broker, version, transport);
        }
    }
}
