//! What is seen of a node from outside: logs ([`log`]) and metrics ([`metrics`]).
//!
//! The only module that knows Prometheus. Inner layers hold plain counters; they are read here when somebody asks. Bodies,
//! secrets, and agent or message ids as labels never get here.

pub mod log;
pub mod metrics;

use serde::{Deserialize, Serialize};

/// Settings of the metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// False: `GET /metrics` answers with an empty page.
    pub enabled: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { enabled: true }
    }
}
