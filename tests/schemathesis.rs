//! The OpenAPI description held against a running node: schemathesis makes requests out of it, valid ones and others, and checks
//! every answer (statuses, schemas, `Allow`, that wrong data is refused and right data is not, that nothing answers 500).
//!
//! Needs the executable: `pip install schemathesis` (4 or newer), on `PATH` or named by `WEFT_SCHEMATHESIS`.

#![cfg(feature = "server")]

#[allow(dead_code, reason = "shared with tests/http.rs, which uses all of it")]
mod http_node;

use std::{ffi::OsString, process::Stdio};

use http_node::{Node, Setup};
use tokio::process::Command;
use weft::{edge::http::Config, router::config::Config as RouterConfig};

/// Requests that fuzzing makes of each operation; the other phases make some 3,000 in all. `WEFT_SCHEMATHESIS_EXAMPLES` asks for more.
const EXAMPLES: &str = "10";
/// One seed, so that a failure comes again; another may be named to look further.
const SEED: &str = "20260102";

fn executable() -> OsString {
    std::env::var_os("WEFT_SCHEMATHESIS").unwrap_or_else(|| "schemathesis".into())
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.into())
}

/// Waits are cut short, and bounds that a flood of requests from one agent would meet are lifted.
fn setup() -> Setup {
    Setup {
        http: Config {
            poll_wait_max_ms: 100,
            reply_wait_max_ms: 100,
            connections_per_address_max: 10_000,
            ..Config::default()
        },
        router: RouterConfig {
            workers: 2,
            status_scans_per_second: 100_000,
            ..RouterConfig::default()
        },
        ..Setup::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_is_what_the_node_does() {
    let node = Node::with(setup()).await;
    let run = Command::new(executable())
        .args([
            "--config-file",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis.toml"),
        ])
        .args(["run", &format!("http://{}/openapi.json", node.address)])
        .args(["--checks", "all", "--max-examples", EXAMPLES])
        .args(["--seed", &setting("WEFT_SCHEMATHESIS_SEED", SEED)])
        .args([
            "--generation-database",
            "none",
            "--request-timeout",
            "20",
            "--no-color",
            "--continue-on-failure",
        ])
        // An event stream does not end; tests/http.rs reads it.
        .args(["--exclude-path-regex", "/messages/stream$"])
        .stdin(Stdio::null())
        .output()
        .await;
    let output = run.unwrap_or_else(|error| {
        panic!("schemathesis did not start ({error}): install it with `pip install schemathesis`, or name it in WEFT_SCHEMATHESIS")
    });
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    node.stop().await;
}
