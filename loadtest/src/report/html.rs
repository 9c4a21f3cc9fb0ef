//! One page that needs nothing beside itself: tables, and plots as inline SVG.

use std::fmt::Write as _;

use super::{
    Report, Run, Verdict,
    svg::{Axis, Line, Scale, escape, plot},
    text::short,
};
use crate::measure::latency::Latency;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;\
color:#1f2937;background:#fff}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th,td{text-align:right;padding:.25rem .5rem;\
border-bottom:1px solid #e5e7eb}th:first-child,td:first-child{text-align:left}svg{width:100%;height:auto}\
svg text{font-size:11px;fill:#4b5563}.grid{stroke:#e5e7eb;fill:none}.legend span{margin-right:1.2rem}\
.legend i{display:inline-block;width:.8rem;height:.8rem;margin-right:.35rem;border-radius:2px}\
.bad{color:#b91c1c;font-weight:600}.scroll{overflow-x:auto}small{color:#6b7280}\
@media(prefers-color-scheme:dark){body{background:#111827;color:#e5e7eb}th,td{border-color:#374151}\
.grid{stroke:#374151}svg text{fill:#9ca3af}}";

/// The page.
pub fn page(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>weft load test</title><style>{STYLE}</style></head><body><h1>weft load test</h1>"
    );
    let _ = write!(
        page,
        "<p>{}, {}; {}, {} cores.</p>",
        escape(&report.program),
        report.started_at,
        escape(&report.machine.system),
        report.machine.cores
    );
    if !report.lifted.is_empty() {
        let _ = write!(
            page,
            "<p><small>Lifted for the test: {}.</small></p>",
            escape(&report.lifted.join(", "))
        );
    }
    page.push_str(&summary(report));
    page.push_str(&sweep(report));
    page.push_str("<h2>Latency by percentile</h2>");
    page.push_str(&latency_plot(report.runs.iter().flat_map(latency_lines).collect()));
    for run in &report.runs {
        page.push_str(&details(run));
    }
    page + "</body></html>\n"
}

fn summary(report: &Report) -> String {
    let mut table = String::from(
        "<h2>Runs</h2><div class=\"scroll\"><table><tr><th>run</th><th>load</th><th>deliveries/s</th><th>p50 µs</th><th>p99 µs</th>\
         <th>p99.9 µs</th><th>server s/M</th><th>clients s/M</th><th>lost</th><th>doubled</th><th>reordered</th></tr>",
    );
    let none = Latency::default();
    for run in &report.runs {
        let latency = run.main_latency().unwrap_or(&none);
        let seconds = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.2}"));
        let class = match run.verdict() {
            Verdict::Clean => "",
            Verdict::Faulty => " class=\"bad\"",
        };
        let _ = write!(
            table,
            "<tr{class}><td>{}</td><td>{}</td><td>{:.0}</td><td>{:.0}</td><td>{:.0}</td><td>{:.0}</td><td>{}</td><td>{}</td>\
             <td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&run.title),
            escape(&run.load),
            run.deliveries_per_s,
            latency.p50_us,
            latency.p99_us,
            latency.p999_us,
            seconds(run.server_cpu_s_per_million),
            seconds(run.clients_cpu_s_per_million),
            run.findings.lost,
            run.findings.doubled,
            run.findings.reordered,
        );
    }
    table + "</table></div>"
}

/// Latency and throughput against offered load, where a sweep was run.
fn sweep(report: &Report) -> String {
    let points: Vec<(f64, &Run)> = report
        .runs
        .iter()
        .filter_map(|run| Some((run.offered_share? * 100.0, run)))
        .collect();
    if points.is_empty() {
        return String::new();
    }
    let offered = || Axis {
        name: "offered load, % of saturation",
        scale: Scale::Linear,
        ticks: Vec::new(),
    };
    let of = |name: &str, value: fn(&Latency) -> f64| Line {
        name: name.into(),
        points: points
            .iter()
            .filter_map(|(share, run)| Some((*share, value(run.main_latency()?))))
            .collect(),
    };
    let throughput = Line {
        name: "deliveries/s".into(),
        points: points
            .iter()
            .map(|(share, run)| (*share, run.deliveries_per_s))
            .collect(),
    };
    let latencies = [
        of("p50", |latency| latency.p50_us),
        of("p99", |latency| latency.p99_us),
        of("p99.9", |latency| latency.p999_us),
    ];
    format!(
        "<h2>Throughput against offered load</h2>{}<h2>Latency against offered load</h2>{}",
        plot(&[throughput], &offered(), &linear("deliveries/s")),
        plot(&latencies, &offered(), &logarithmic("latency, µs"))
    )
}

fn linear(name: &'static str) -> Axis {
    Axis {
        name,
        scale: Scale::Linear,
        ticks: Vec::new(),
    }
}

fn logarithmic(name: &'static str) -> Axis {
    Axis {
        name,
        scale: Scale::Logarithmic,
        ticks: Vec::new(),
    }
}

fn latency_lines(run: &Run) -> Vec<Line> {
    let line = |(class, latency): (&String, &Latency)| Line {
        name: format!("{} {}: {class}", run.title, run.load),
        points: latency
            .distribution
            .iter()
            // The last point lies at infinity on this axis.
            .filter(|point| point.quantile < 1.0)
            .map(|point| (1.0 / (1.0 - point.quantile), point.value_us))
            .collect(),
    };
    run.latency.iter().map(line).collect()
}

fn latency_plot(lines: Vec<Line>) -> String {
    let percentiles = [
        (1.0, "0"),
        (10.0, "90"),
        (100.0, "99"),
        (1e3, "99.9"),
        (1e4, "99.99"),
        (1e5, "99.999"),
        (1e6, "99.9999"),
    ];
    let axis = Axis {
        ticks: percentiles.map(|(value, label)| (value, format!("{label} %"))).into(),
        ..logarithmic("percentile")
    };
    plot(&lines, &axis, &logarithmic("latency, µs"))
}

fn details(run: &Run) -> String {
    let mut part = format!("<h2>{} <small>{}</small></h2>", escape(&run.title), escape(&run.load));
    if !run.figures.is_empty() {
        part.push_str("<table>");
        for (name, value) in &run.figures {
            let _ = write!(part, "<tr><td>{}</td><td>{}</td></tr>", escape(name), short(*value));
        }
        part.push_str("</table>");
    }
    let of = |name: &str, value: fn(&crate::measure::timeline::Slot) -> f64| Line {
        name: name.into(),
        points: run.timeline.iter().map(|slot| (slot.until_s, value(slot))).collect(),
    };
    let throughput = [of("deliveries/s", |slot| slot.deliveries_per_s)];
    let latencies = [of("p50", |slot| slot.p50_us), of("p99", |slot| slot.p99_us)];
    part.push_str(&plot(&throughput, &linear("seconds"), &linear("deliveries/s")));
    part.push_str(&plot(&latencies, &linear("seconds"), &logarithmic("latency, µs")));
    if let Some(fairness) = run.fairness {
        let _ = write!(part, "<p>Jain's fairness between sessions: {fairness:.3}</p>");
    }
    for error in &run.errors {
        let _ = write!(part, "<p class=\"bad\">{}</p>", escape(error));
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample_run;

    /// Every opened element is closed in order; enough to know that nothing is cut off or unescaped.
    fn assert_well_formed(page: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = page;
        while let Some(start) = rest.find('<') {
            let end = start + rest[start..].find('>').expect("every tag ends");
            let tag = &rest[start + 1..end];
            rest = &rest[end + 1..];
            let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or_default();
            if tag.starts_with('!') || tag.ends_with('/') || name == "meta" {
                continue;
            }
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "closed in order");
            } else {
                open.push(name);
            }
        }
        assert_eq!(open, Vec::<&str>::new());
    }

    #[test]
    fn the_page_is_well_formed_and_needs_nothing_from_elsewhere() {
        let mut report = Report::new(vec!["WEFT_A=1 & <more>".into()]);
        for (share, rate) in [(0.1, 1_000.0), (0.5, 5_000.0), (1.1, 9_000.0)] {
            let mut run = sample_run(rate, 80_000);
            run.offered_share = Some(share);
            run.errors.push("a <b> & \"c\"".into());
            run.figures.insert("attach_per_s".into(), 12.5);
            report.runs.push(run);
        }
        let page = page(&report);
        assert_well_formed(&page);
        assert!(page.contains("Throughput against offered load"));
        assert!(page.matches("<svg").count() >= 3);
        for outside in ["http://", "https://", "src=", "url(", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
