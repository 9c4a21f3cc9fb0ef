//! Two reports side by side: what became faster, slower, larger or wrong.
//!
//! Runs are paired by title and load. Pure: two reports in, rows out.

use std::fmt::Write as _;

use crate::report::{Report, Run};

/// Which way a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

/// What changed between two reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    pub rows: Vec<Row>,
    /// Runs that only one of the reports has.
    pub unpaired: Vec<String>,
}

/// One figure of one run in both reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub run: String,
    pub figure: &'static str,
    pub before: f64,
    pub after: f64,
    pub change: Change,
}

/// What a difference means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Same,
    Better,
    Worse,
}

type Figure = (&'static str, Better, fn(&Run) -> Option<f64>);

const FIGURES: [Figure; 7] = [
    ("deliveries/s", Better::More, |run| {
        (run.delivered > 0).then_some(run.deliveries_per_s)
    }),
    ("p50 us", Better::Less, |run| {
        run.main_latency().map(|latency| latency.p50_us)
    }),
    ("p99 us", Better::Less, |run| {
        run.main_latency().map(|latency| latency.p99_us)
    }),
    ("p99.9 us", Better::Less, |run| {
        run.main_latency().map(|latency| latency.p999_us)
    }),
    ("server CPU s/M", Better::Less, |run| run.server_cpu_s_per_million),
    ("server RSS peak", Better::Less, |run| {
        run.server_rss_bytes_peak.map(crate::report::count)
    }),
    ("lost+doubled+reordered", Better::Less, |run| {
        let findings = run.findings;
        Some(crate::report::count(
            findings.lost + findings.doubled + findings.reordered,
        ))
    }),
];

/// Compares two reports; a difference of at most `tolerance` (0.1 is 10 %) counts as none.
pub fn compare(before: &Report, after: &Report, tolerance: f64) -> Comparison {
    let key = |run: &Run| format!("{} ({})", run.title, share_or_load(run));
    let mut comparison = Comparison {
        rows: Vec::new(),
        unpaired: Vec::new(),
    };
    let mut left: Vec<&Run> = after.runs.iter().collect();
    for run in &before.runs {
        let Some(at) = left.iter().position(|other| key(other) == key(run)) else {
            comparison.unpaired.push(format!("{}: only before", key(run)));
            continue;
        };
        let other = left.remove(at);
        for (figure, better, value) in FIGURES {
            if let (Some(before), Some(after)) = (value(run), value(other)) {
                comparison.rows.push(Row {
                    run: key(run),
                    figure,
                    before,
                    after,
                    change: judge(before, after, better, tolerance),
                });
            }
        }
    }
    let only_after = left.iter().map(|run| format!("{}: only after", key(run)));
    comparison.unpaired.extend(only_after);
    comparison
}

/// Points of a sweep are at shares of a saturation that differs from run to run.
fn share_or_load(run: &Run) -> String {
    run.offered_share.map_or_else(
        || run.load.clone(),
        |share| format!("{:.0} % of saturation", share * 100.0),
    )
}

fn judge(before: f64, after: f64, better: Better, tolerance: f64) -> Change {
    let (gained, lost) = match better {
        Better::More => (after, before),
        Better::Less => (before, after),
    };
    if gained > lost * (1.0 + tolerance) {
        Change::Better
    } else if lost > gained * (1.0 + tolerance) {
        Change::Worse
    } else {
        Change::Same
    }
}

impl Comparison {
    /// True where something is worse.
    pub fn has_worse(&self) -> bool {
        self.rows.iter().any(|row| row.change == Change::Worse)
    }

    /// As a table.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut run = "";
        for row in &self.rows {
            if row.run != run {
                run = &row.run;
                let _ = writeln!(text, "{run}");
            }
            let ratio = if row.before == 0.0 {
                "–".into()
            } else {
                format!("{:.2}x", row.after / row.before)
            };
            let mark = match row.change {
                Change::Same => "",
                Change::Better => "better",
                Change::Worse => "WORSE",
            };
            let numbers = [row.before, row.after].map(crate::report::text::short);
            let line = format!(
                "  {:<24} {:>14} {:>14} {ratio:>8}  {mark}",
                row.figure, numbers[0], numbers[1]
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        for unpaired in &self.unpaired {
            let _ = writeln!(text, "{unpaired}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample_run;

    fn report(runs: Vec<Run>) -> Report {
        let mut report = Report::new(Vec::new());
        report.runs = runs;
        report
    }

    fn change_of(comparison: &Comparison, figure: &str) -> Change {
        let row = comparison.rows.iter().find(|row| row.figure == figure);
        row.expect("the figure is compared").change
    }

    #[test]
    fn more_messages_are_better_and_more_latency_is_worse() {
        let before = report(vec![sample_run(1_000.0, 80_000)]);
        let mut run = sample_run(1_500.0, 120_000);
        run.findings.doubled = 1;
        let comparison = compare(&before, &report(vec![run]), 0.1);
        assert_eq!(change_of(&comparison, "deliveries/s"), Change::Better);
        assert_eq!(change_of(&comparison, "p99 us"), Change::Worse);
        assert_eq!(change_of(&comparison, "server CPU s/M"), Change::Same);
        assert_eq!(change_of(&comparison, "lost+doubled+reordered"), Change::Worse);
        assert!(comparison.has_worse() && comparison.text().contains("1.50x"));
    }

    #[test]
    fn differences_within_the_tolerance_are_none() {
        let reports = [1_000.0, 950.0].map(|rate| report(vec![sample_run(rate, 80_000)]));
        let comparison = compare(&reports[0], &reports[1], 0.1);
        assert!(comparison.rows.iter().all(|row| row.change == Change::Same));
    }

    #[test]
    fn runs_that_only_one_report_has_are_named() {
        let mut other = sample_run(1.0, 1_000);
        other.title = "fan-in grpc qos0".into();
        let comparison = compare(&report(vec![sample_run(1.0, 1_000)]), &report(vec![other]), 0.1);
        assert!(comparison.rows.is_empty());
        assert_eq!(comparison.unpaired.len(), 2);
    }
}
