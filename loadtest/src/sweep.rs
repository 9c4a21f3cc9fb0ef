//! Latency and throughput against offered load: what saturates a scenario, and how it behaves below and above that.
//!
//! Measures the saturation by a closed loop, then offers shares of it by an open loop, one after the other on the same node.

use crate::{
    driver::Failure,
    node::Node,
    plan::{Load, Plan},
    progress::Progress,
    report::Run,
    scenario,
};

/// Shares of the saturation that are offered where nothing else is asked for.
pub const SHARES: [f64; 4] = [0.1, 0.5, 0.8, 1.1];

/// Runs a plan at its saturation and at these shares of it. The saturation comes first.
pub async fn run(node: &Node, plan: &Plan, shares: &[f64]) -> Result<Vec<Run>, Failure> {
    let saturation = scenario::run(node, plan, &Progress::new(&format!("{}: saturation", plan.title()))).await?;
    // What was sent to many counts once.
    let copies = crate::report::count(saturation.delivered) / crate::report::count(saturation.sent.max(1));
    let sends_per_s = if copies > 1.5 {
        saturation.deliveries_per_s / copies.round()
    } else {
        saturation.deliveries_per_s
    };
    let mut runs = vec![saturation];
    for share in shares {
        let mut offered = plan.clone();
        offered.load = Load::Open {
            rate_per_s: sends_per_s * share,
        };
        let title = format!("{}: {:.0} %", plan.title(), share * 100.0);
        let mut run = scenario::run(node, &offered, &Progress::new(&title)).await?;
        run.offered_share = Some(*share);
        runs.push(run);
    }
    Ok(runs)
}

/// The sweep as a table.
pub fn table(runs: &[Run]) -> String {
    let mut text = format!(
        "{:<14} {:>13} {:>11} {:>11} {:>11} {:>9} {:>8}\n",
        "load", "deliveries/s", "p50 us", "p99 us", "p99.9 us", "lost", "Jain"
    );
    for run in runs {
        let load = run
            .offered_share
            .map_or("saturation".to_owned(), |share| format!("{:.0} %", share * 100.0));
        let (p50, p99, p999) = run.main_latency().map_or((0.0, 0.0, 0.0), |latency| {
            (latency.p50_us, latency.p99_us, latency.p999_us)
        });
        let fairness = run.fairness.map_or("–".to_owned(), |fairness| format!("{fairness:.3}"));
        text.push_str(&format!(
            "{load:<14} {:>13.0} {p50:>11.0} {p99:>11.0} {p999:>11.0} {:>9} {fairness:>8}\n",
            run.deliveries_per_s, run.findings.lost
        ));
    }
    text
}
