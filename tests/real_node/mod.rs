//! A real node: the `weft` binary as a process of its own, started, killed for real and started again where it was.
//!
//! Owns the process and its addresses; knows nothing of what is sent. Start at [`RealNode::start`].
#![allow(dead_code, reason = "each test binary uses its own part of it")]

pub mod http;

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// How long a node may take until it is ready, its recovery included: generous, for a debug build on a busy machine.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// Lines of a node's log that are shown when it did not start.
const LOG_LINES_SHOWN: usize = 40;

/// Where a node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listeners {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub quic: SocketAddr,
}

/// How long a node of the tests keeps receipts, in milliseconds: 12 h, longer than any torture.
const RECEIPT_WINDOW_MS: u64 = 12 * 3_600 * 1_000;

impl Listeners {
    /// Free ports of loopback, chosen by the system.
    pub fn free() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            http: any,
            grpc: any,
            quic: any,
        }
    }
}

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub struct RealNode {
    child: Child,
    data: PathBuf,
    pub listeners: Listeners,
}

impl RealNode {
    /// Starts a node on a data folder and waits until it says that it is ready.
    pub fn start(data: &Path, listeners: Listeners) -> Self {
        let log = File::create(log_of(data)).expect("the test's folder takes a log file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        // Settings of the tests, or of whoever runs them, are none of the node's.
        let settings = std::env::vars_os().map(|(name, _)| name);
        for name in settings.filter(|name| name.to_string_lossy().starts_with("WEFT_")) {
            command.env_remove(name);
        }
        let mut child = command
            .arg("serve")
            .arg("--data-dir")
            .arg(data)
            .arg(format!("--http-listen={}", listeners.http))
            .arg(format!("--grpc-listen={}", listeners.grpc))
            .arg(format!("--quic-listen={}", listeners.quic))
            // A long torture outlasts the default window, behind which a settled message is honestly unknown.
            .env("WEFT_ROUTER__RECEIPT_WINDOW_MS", RECEIPT_WINDOW_MS.to_string())
            // A `weft.yaml` or `.env` of the package is none of the node's either.
            .current_dir(data.parent().expect("the data folder is in the test's folder"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the weft binary was built with this test");
        let stdout = child.stdout.take().expect("stdout was piped");
        let (ready_line, ready) = mpsc::channel();
        // Reads to the end, so that the node never waits for its reader.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.starts_with("weft ready") {
                    let _ = ready_line.send(line);
                }
            }
        });
        // A node that fails closes its stdout, which drops the sender and ends the wait.
        let Ok(line) = ready.recv_timeout(READY_DEADLINE) else {
            let _ = child.kill();
            let status = child.wait();
            panic!(
                "no `weft ready` line; the node ended with {status:?}; its log:\n{}",
                log_tail(data)
            );
        };
        let address = |name: &str| listener(&line, name).unwrap_or_else(|| panic!("no {name} listener in: {line}"));
        Self {
            listeners: Listeners {
                http: address("http"),
                grpc: address("grpc"),
                quic: address("quic"),
            },
            child,
            data: data.to_owned(),
        }
    }

    /// Ends the process by SIGKILL, at whatever it is doing, and starts it again on the same ports and data.
    pub fn kill_and_restart(mut self) -> Self {
        self.kill();
        Self::start(&self.data, self.listeners)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn http_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listeners.http)
    }

    pub fn grpc_url(&self) -> String {
        format!("http://{}", self.listeners.grpc)
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        log_tail(&self.data)
    }

    fn kill(&mut self) {
        // On Unix this is SIGKILL. It fails only where the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for RealNode {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The address of a listener in a ready line such as `weft ready http=127.0.0.1:8000 grpc=127.0.0.1:50051`.
fn listener(line: &str, name: &str) -> Option<SocketAddr> {
    let values = line.split([' ', ',']).filter_map(|word| word.split_once('='));
    let value = values.filter(|(key, _)| *key == name).map(|(_, value)| value).next()?;
    value.rsplit('/').next()?.parse().ok()
}

fn log_of(data: &Path) -> PathBuf {
    data.with_extension("log")
}

fn log_tail(data: &Path) -> String {
    let log = std::fs::read_to_string(log_of(data)).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}
