//! Results: what a run measured, as it is written to files and shown.
//!
//! Owns the JSON form ([`Report`]); text, `.hgrm` and HTML are made from it. Knows nothing of how it was measured.

pub mod hgrm;
pub mod html;
mod svg;
pub mod text;

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};
use weft::time::Timestamp;

use crate::{
    measure::{latency::Latency, timeline::Slot},
    plan::{Plan, Quality, Verification},
    traffic::Outcome,
    verify::Findings,
};

/// Version of the JSON form; a file of another one is refused.
const FORMAT: u32 = 1;

/// Everything that one call of the program measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub format: u32,
    pub program: String,
    pub started_at: Timestamp,
    pub machine: Machine,
    /// The node's bounds that were lifted for the test.
    pub lifted: Vec<String>,
    pub runs: Vec<Run>,
}

/// Where it ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub cores: usize,
    pub system: String,
}

/// One run's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Scenario, protocol and quality; with `load` it names the run.
    pub title: String,
    pub load: String,
    pub plan: Plan,
    /// Part of the saturation that was offered, for the points of a sweep.
    pub offered_share: Option<f64>,
    pub sent: u64,
    pub refused: u64,
    pub delivered: u64,
    pub seconds: f64,
    pub deliveries_per_s: f64,
    /// By class of message.
    pub latency: BTreeMap<String, Latency>,
    pub answer: Option<Latency>,
    pub server_cpu_s_per_million: Option<f64>,
    pub clients_cpu_s_per_million: Option<f64>,
    pub server_rss_bytes_before: Option<u64>,
    pub server_rss_bytes_peak: Option<u64>,
    pub clients_rss_bytes_peak: Option<u64>,
    pub verification: Verification,
    pub findings: Findings,
    /// Lost on the way to consumers that are slow on purpose.
    pub aside_lost: u64,
    pub unsettled: u64,
    /// Jain's index between sessions.
    pub fairness: Option<f64>,
    /// Figures of one scenario alone, by name with unit.
    pub figures: BTreeMap<String, f64>,
    pub timeline: Vec<Slot>,
    pub errors: Vec<String>,
}

/// Whether a run kept the fabric's promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Clean,
    Faulty,
}

impl Report {
    /// A report without runs, of this machine and moment.
    pub fn new(lifted: Vec<String>) -> Self {
        Self {
            format: FORMAT,
            program: format!("loadtest {}", env!("CARGO_PKG_VERSION")),
            started_at: weft::time::now(),
            machine: Machine::this(),
            lifted,
            runs: Vec::new(),
        }
    }

    /// Faulty where one of its runs is.
    pub fn verdict(&self) -> Verdict {
        let is_clean = self.runs.iter().all(|run| run.verdict() == Verdict::Clean);
        if is_clean { Verdict::Clean } else { Verdict::Faulty }
    }

    /// Reads a report that [`Report::write`] wrote.
    pub fn read(file: &Path) -> Result<Self, String> {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let text = fs::read_to_string(file).map_err(|error| named(&error))?;
        let report: Self = serde_json::from_str(&text).map_err(|error| named(&error))?;
        if report.format != FORMAT {
            return Err(named(&format!("format {}; this program reads {FORMAT}", report.format)));
        }
        Ok(report)
    }

    /// Writes `report.json`, a `.hgrm` for each run and class, and `report.html` into a folder.
    pub fn write(&self, folder: &Path) -> Result<(), String> {
        let put = |name: &str, text: String| {
            let file = folder.join(name);
            fs::write(&file, text).map_err(|error| format!("can't write {}: {error}", file.display()))
        };
        fs::create_dir_all(folder).map_err(|error| format!("can't make {}: {error}", folder.display()))?;
        let json = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        put("report.json", json)?;
        put("report.html", html::page(self))?;
        for (number, run) in self.runs.iter().enumerate() {
            for (class, latency) in &run.latency {
                let name = format!("{:02}-{}-{class}.hgrm", number + 1, slug(&run.title));
                put(&name, hgrm::text(latency))?;
            }
        }
        Ok(())
    }
}

fn slug(title: &str) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
    title.chars().map(plain).collect()
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            system: format!("{} {}", std::env::consts::OS, release.trim()).trim().to_owned(),
        }
    }
}

impl Run {
    /// A run of which nothing is measured yet.
    pub fn of_plan(plan: &Plan) -> Self {
        Self {
            title: plan.title(),
            load: plan.load.to_string(),
            plan: plan.clone(),
            offered_share: None,
            sent: 0,
            refused: 0,
            delivered: 0,
            seconds: 0.0,
            deliveries_per_s: 0.0,
            latency: BTreeMap::new(),
            answer: None,
            server_cpu_s_per_million: None,
            clients_cpu_s_per_million: None,
            server_rss_bytes_before: None,
            server_rss_bytes_peak: None,
            clients_rss_bytes_peak: None,
            verification: plan.verification,
            findings: Findings::default(),
            aside_lost: 0,
            unsettled: 0,
            fairness: None,
            figures: BTreeMap::new(),
            timeline: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// The result of messages moved.
    pub fn of_outcome(plan: &Plan, outcome: Outcome) -> Self {
        let per_million = |cpu_s: Option<f64>| {
            cpu_s
                .filter(|_| outcome.delivered > 0)
                .map(|cpu_s| cpu_s * 1e6 / count(outcome.delivered))
        };
        Self {
            sent: outcome.sent,
            refused: outcome.refused,
            delivered: outcome.delivered,
            seconds: outcome.seconds,
            deliveries_per_s: count(outcome.delivered) / outcome.seconds.max(1e-9),
            server_cpu_s_per_million: per_million(outcome.server.cpu_s),
            clients_cpu_s_per_million: per_million(outcome.clients.cpu_s),
            server_rss_bytes_before: outcome.server.rss_before,
            server_rss_bytes_peak: outcome.server.rss_peak,
            clients_rss_bytes_peak: outcome.clients.rss_peak,
            latency: outcome
                .latency
                .iter()
                .map(|(class, recorder)| (class.clone(), recorder.summary()))
                .collect(),
            answer: outcome.answer.map(|answer| answer.summary()),
            findings: outcome.findings,
            aside_lost: outcome.aside_lost,
            unsettled: outcome.unsettled,
            fairness: outcome.fairness,
            timeline: outcome.timeline,
            errors: outcome.errors,
            ..Self::of_plan(plan)
        }
    }

    /// At QoS 0 loss is allowed, though it is shown; everything else is not.
    pub fn verdict(&self) -> Verdict {
        let mut findings = self.findings;
        if self.plan.quality == Quality::AtMostOnce {
            findings.lost = 0;
        }
        let has_result = self.delivered > 0 || !self.figures.is_empty();
        if findings.is_clean() && self.unsettled == 0 && has_result {
            Verdict::Clean
        } else {
            Verdict::Faulty
        }
    }

    /// The latency of the class that the scenario is about.
    pub fn main_latency(&self) -> Option<&Latency> {
        self.latency
            .get("critical")
            .or_else(|| self.latency.get("bystander"))
            .or_else(|| self.latency.values().next())
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(crate) fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        measure::latency::Recorder,
        plan::{Protocol, Scenario},
    };

    /// A run with everything that a report shows.
    pub(crate) fn sample_run(deliveries_per_s: f64, p99_ns: u64) -> Run {
        let mut recorder = Recorder::default();
        (0..1_000).for_each(|number| recorder.record(if number < 985 { p99_ns / 4 } else { p99_ns }));
        let mut run = Run::of_plan(&Plan::new(Scenario::OneToOne, Protocol::Grpc));
        run.delivered = 1_000;
        run.seconds = 2.0;
        run.deliveries_per_s = deliveries_per_s;
        run.latency = [("all".to_owned(), recorder.summary())].into();
        run.server_cpu_s_per_million = Some(1.5);
        run.server_rss_bytes_peak = Some(64 << 20);
        run.timeline = vec![
            Slot {
                until_s: 0.25,
                deliveries_per_s,
                p50_us: 100.0,
                p99_us: 200.0,
                max_us: 300.0,
            };
            4
        ];
        run
    }

    #[test]
    fn a_report_comes_back_from_its_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut report = Report::new(vec!["A=1".into()]);
        report.runs.push(sample_run(1_000.0, 80_000));
        report.write(folder.path()).expect("written");
        let read = Report::read(&folder.path().join("report.json")).expect("read");
        // Numbers come back to 15 digits; all that is shown has fewer.
        let shown = |report: &Report| {
            (
                html::page(report),
                text::run(&report.runs[0]),
                report.runs[0].plan.clone(),
            )
        };
        assert_eq!(shown(&read), shown(&report));
        assert!(folder.path().join("01-one-to-one-grpc-qos0-all.hgrm").is_file());
    }

    #[test]
    fn loss_is_a_fault_above_qos_0_and_doubles_always_are() {
        let mut run = sample_run(1_000.0, 80_000);
        run.findings.lost = 1;
        assert_eq!(run.verdict(), Verdict::Clean);
        run.plan.quality = Quality::AtLeastOnce;
        assert_eq!(run.verdict(), Verdict::Faulty);
        run.findings.lost = 0;
        run.findings.doubled = 1;
        assert_eq!(run.verdict(), Verdict::Faulty);
    }
}
