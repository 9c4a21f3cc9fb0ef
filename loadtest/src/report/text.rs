//! Results as lines for a terminal.

use std::fmt::Write as _;

use super::Run;

/// A run, one figure a line.
pub fn run(run: &Run) -> String {
    let mut text = format!("{} ({})\n", run.title, run.load);
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<28} {value}");
    };
    if run.delivered > 0 {
        row("deliveries/s", format!("{:.0}", run.deliveries_per_s));
        row("measured", format!("{} in {:.2} s", run.delivered, run.seconds));
    }
    for (class, latency) in run.latency.iter().filter(|(_, latency)| latency.count > 0) {
        row(&format!("{class} p50/p99/p99.9 us"), latency.brief());
    }
    if let Some(answer) = &run.answer {
        row("answer p50/p99/p99.9 us", answer.brief());
    }
    for (name, value) in &run.figures {
        row(name, short(*value));
    }
    let cpu = [run.server_cpu_s_per_million, run.clients_cpu_s_per_million];
    if let [Some(server), Some(clients)] = cpu {
        row("CPU s/M server, clients", format!("{server:.2}, {clients:.2}"));
    }
    if let (Some(before), Some(peak)) = (run.server_rss_bytes_before, run.server_rss_bytes_peak) {
        row(
            "server RSS before, peak",
            format!("{}, {}", mebibytes(before), mebibytes(peak)),
        );
    }
    if let Some(fairness) = run.fairness {
        row("Jain's fairness", format!("{fairness:.3}"));
    }
    let findings = run.findings;
    row(
        "lost/doubled/reordered",
        format!("{}/{}/{}", findings.lost, findings.doubled, findings.reordered),
    );
    for (name, number) in [
        ("foreign", findings.foreign),
        ("refused sends", run.refused),
        ("unsettled", run.unsettled),
        ("lost by the slow consumer", run.aside_lost),
    ] {
        if number > 0 {
            row(name, number.to_string());
        }
    }
    for error in &run.errors {
        row("error", error.clone());
    }
    text
}

/// A number with as many digits as matter.
pub fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 1_000.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", super::count(bytes) / f64::from(1 << 20))
}
