//! Metrics for Prometheus: read from the plain counters of the inner layers when somebody asks, never pushed.
//!
//! [`CATALOGUE`] is the one list of what exists; `docs/metrics.md` and the output are tested against it. Labels are `protocol`,
//! `qos` and `version`: nothing whose values grow with the number of agents, messages or topics. Start at [`Metrics::render`].

use std::fmt::Write;

use metrics::{Label, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::{
    edge::counters::Snapshot as EdgeCounters,
    router::{
        counters::{CountersSnapshot, HistogramSnapshot, LATENCY_BOUNDS_US},
        port::StoreStats,
        surface::Protocol,
    },
};

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the node restarts.
    Counter,
    Gauge,
    Histogram,
}

/// A metric that exists.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    pub name: &'static str,
    pub kind: Kind,
    /// The name of its label, where it has one.
    pub label: Option<&'static str>,
    pub help: &'static str,
}

const fn counter(name: &'static str, help: &'static str) -> Definition {
    define(name, Kind::Counter, None, help)
}

const fn gauge(name: &'static str, help: &'static str) -> Definition {
    define(name, Kind::Gauge, None, help)
}

const fn by_protocol(name: &'static str, kind: Kind, help: &'static str) -> Definition {
    define(name, kind, Some("protocol"), help)
}

const fn by_qos(name: &'static str, help: &'static str) -> Definition {
    define(name, Kind::Counter, Some("qos"), help)
}

const fn define(name: &'static str, kind: Kind, label: Option<&'static str>, help: &'static str) -> Definition {
    Definition {
        name,
        kind,
        label,
        help,
    }
}

/// Values of the label `qos`, in their order.
const QOS_LABELS: [&str; 3] = ["0", "1", "2"];

/// Every metric of a node.
pub const CATALOGUE: &[Definition] = &[
    define(
        "weft_build_info",
        Kind::Gauge,
        Some("version"),
        "1; the label says which version runs.",
    ),
    gauge("weft_ready", "1 while the node takes traffic, else 0."),
    // What the edges see.
    by_protocol("weft_connections", Kind::Gauge, "Connections open now."),
    by_protocol("weft_connections_opened_total", Kind::Counter, "Connections opened."),
    by_protocol(
        "weft_connections_refused_total",
        Kind::Counter,
        "Connections closed at once because a limit was reached.",
    ),
    by_protocol(
        "weft_received_bytes_total",
        Kind::Counter,
        "Bytes read from connections.",
    ),
    by_protocol("weft_sent_bytes_total", Kind::Counter, "Bytes written to connections."),
    by_protocol(
        "weft_messages_received_total",
        Kind::Counter,
        "Messages that came from agents.",
    ),
    by_protocol(
        "weft_messages_sent_total",
        Kind::Counter,
        "Messages that went to agents.",
    ),
    by_protocol(
        "weft_errors_total",
        Kind::Counter,
        "Requests or operations answered with an error.",
    ),
    by_protocol("weft_sessions", Kind::Gauge, "Sessions attached now."),
    // What the router does.
    by_qos("weft_messages_accepted_total", "Messages taken in."),
    counter("weft_accepted_body_bytes_total", "Bodies of messages taken in."),
    counter(
        "weft_messages_duplicate_total",
        "Messages answered with an earlier one's receipt.",
    ),
    counter(
        "weft_messages_refused_total",
        "Messages refused because a queue was full.",
    ),
    counter("weft_messages_dropped_total", "QoS 0 messages that nobody took."),
    counter(
        "weft_messages_acknowledged_total",
        "Messages that their recipient acknowledged.",
    ),
    counter(
        "weft_messages_expired_total",
        "Messages that expired before they were delivered.",
    ),
    counter(
        "weft_messages_dead_lettered_total",
        "Messages given up and kept as dead letters.",
    ),
    counter("weft_messages_rejected_total", "Messages that were rejected."),
    by_qos("weft_deliveries_total", "Deliveries begun."),
    counter(
        "weft_redeliveries_total",
        "Deliveries begun of messages that may have been delivered before.",
    ),
    define(
        "weft_delivery_latency_seconds",
        Kind::Histogram,
        None,
        "From acceptance to hand-out.",
    ),
    define(
        "weft_commit_latency_seconds",
        Kind::Histogram,
        None,
        "From handing a commit to the store until it completed.",
    ),
    counter("weft_commits_total", "Commits handed to the store."),
    counter(
        "weft_commits_failed_total",
        "Commits that failed or whose outcome is unknown.",
    ),
    gauge("weft_messages_held", "Messages held now, waiting and kept."),
    gauge("weft_queues_held", "Queues held now."),
    gauge(
        "weft_worker_commands_waiting",
        "Commands that wait for a shard worker now.",
    ),
    gauge("weft_receipts_held", "Settled receipts held now."),
    gauge(
        "weft_receipt_window_held_seconds",
        "Age of the oldest settled receipt held: the duplicate window that really holds.",
    ),
    counter(
        "weft_receipts_evicted_early_total",
        "Settled receipts that went before their window was over.",
    ),
    counter(
        "weft_dead_letters_evicted_total",
        "Dead letters that went because their address had too many.",
    ),
    // The store.
    gauge(
        "weft_store_messages",
        "Messages that the store holds, waiting and kept.",
    ),
    gauge("weft_store_live_bytes", "Bytes of records that still count."),
    gauge("weft_store_disk_bytes", "Bytes that the store takes on disk."),
    counter("weft_store_commits_total", "Commits that the store completed."),
    counter("weft_store_syncs_total", "Calls that made data stable on disk."),
    counter("weft_store_written_bytes_total", "Bytes written to the log."),
    gauge("weft_store_read_only", "1 once the store takes no more writes, else 0."),
    // The process.
    counter(
        "weft_process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
    ),
    gauge("weft_process_open_fds", "Number of open file descriptors."),
    gauge("weft_process_max_fds", "Maximum number of open file descriptors."),
    gauge("weft_process_virtual_memory_bytes", "Virtual memory size in bytes."),
    gauge(
        "weft_process_virtual_memory_max_bytes",
        "Maximum amount of virtual memory available in bytes.",
    ),
    gauge("weft_process_resident_memory_bytes", "Resident memory size in bytes."),
    gauge(
        "weft_process_start_time_seconds",
        "Start time of the process since the Unix epoch in seconds.",
    ),
    gauge("weft_process_threads", "Number of OS threads in the process."),
];

/// Everything that is read for one answer.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    pub ready: bool,
    pub router: CountersSnapshot,
    pub store: StoreStats,
    /// What each edge that runs counted.
    pub edges: Vec<(Protocol, EdgeCounters)>,
}

/// Turns readings into Prometheus' text format.
#[derive(Debug)]
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    process: metrics_process::Collector,
}

impl Default for Metrics {
    fn default() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let process = metrics_process::Collector::new("weft_");
        with_local_recorder(&recorder, || {
            process.describe();
            for definition in CATALOGUE {
                match definition.kind {
                    Kind::Counter => metrics::describe_counter!(definition.name, definition.help),
                    Kind::Gauge => metrics::describe_gauge!(definition.name, definition.help),
                    Kind::Histogram => {}
                }
            }
        });
        Self {
            recorder,
            handle,
            process,
        }
    }
}

impl Metrics {
    /// The text of one answer. Only counters and gauges pass through the recorder, so nothing piles up between answers.
    pub fn render(&self, readings: &Readings) -> String {
        with_local_recorder(&self.recorder, || {
            self.process.collect();
            node(readings);
            for (protocol, counters) in &readings.edges {
                edge(*protocol, counters);
            }
            router(&readings.router);
            store(&readings.store);
        });
        let mut page = self.handle.render();
        let router = &readings.router;
        histogram(&mut page, "weft_delivery_latency_seconds", &router.delivery_latency);
        histogram(&mut page, "weft_commit_latency_seconds", &router.commit_latency);
        page
    }
}

fn node(readings: &Readings) {
    metrics::gauge!("weft_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    set("weft_ready", u64::from(readings.ready));
    for protocol in Protocol::ALL {
        let sessions = readings.router.sessions[protocol.index()];
        metrics::gauge!("weft_sessions", label(protocol)).set(sessions as f64);
    }
}

fn edge(protocol: Protocol, counters: &EdgeCounters) {
    metrics::gauge!("weft_connections", label(protocol)).set(counters.connections as f64);
    for (name, value) in [
        ("weft_connections_opened_total", counters.connections_total),
        ("weft_connections_refused_total", counters.connections_refused),
        ("weft_received_bytes_total", counters.bytes_in),
        ("weft_sent_bytes_total", counters.bytes_out),
        ("weft_messages_received_total", counters.messages_in),
        ("weft_messages_sent_total", counters.messages_out),
        ("weft_errors_total", counters.errors),
    ] {
        metrics::counter!(name, label(protocol)).absolute(value);
    }
}

fn router(counters: &CountersSnapshot) {
    for (name, value) in [
        ("weft_accepted_body_bytes_total", counters.body_bytes),
        ("weft_messages_duplicate_total", counters.duplicates),
        ("weft_messages_refused_total", counters.refused_full),
        ("weft_messages_dropped_total", counters.dropped),
        ("weft_messages_acknowledged_total", counters.acknowledged),
        ("weft_messages_expired_total", counters.expired),
        ("weft_messages_dead_lettered_total", counters.dead_lettered),
        ("weft_messages_rejected_total", counters.rejected),
        ("weft_redeliveries_total", counters.redelivered),
        ("weft_commits_total", counters.commits),
        ("weft_commits_failed_total", counters.commits_failed),
        ("weft_receipts_evicted_early_total", counters.receipts_evicted_early),
        ("weft_dead_letters_evicted_total", counters.dead_letters_evicted),
    ] {
        metrics::counter!(name).absolute(value);
    }
    for (name, values) in [
        ("weft_messages_accepted_total", counters.accepted),
        ("weft_deliveries_total", counters.handed_out),
    ] {
        for (qos, value) in QOS_LABELS.into_iter().zip(values) {
            metrics::counter!(name, "qos" => qos).absolute(value);
        }
    }
    set("weft_messages_held", counters.messages_held);
    set("weft_queues_held", counters.queues_held);
    set("weft_worker_commands_waiting", counters.inbox_depth);
    set("weft_receipts_held", counters.receipts_held);
    let window = counters.receipt_window_held_ms as f64 / 1000.0;
    metrics::gauge!("weft_receipt_window_held_seconds").set(window);
}

fn store(stats: &StoreStats) {
    for (name, value) in [
        ("weft_store_commits_total", stats.commits),
        ("weft_store_syncs_total", stats.syncs),
        ("weft_store_written_bytes_total", stats.written_bytes),
    ] {
        metrics::counter!(name).absolute(value);
    }
    set("weft_store_messages", stats.messages);
    set("weft_store_live_bytes", stats.live_bytes);
    set("weft_store_disk_bytes", stats.disk_bytes);
    set("weft_store_read_only", u64::from(stats.read_only));
}

fn set(name: &'static str, value: u64) {
    metrics::gauge!(name).set(value as f64);
}

fn label(protocol: Protocol) -> Vec<Label> {
    vec![Label::from_static_parts("protocol", protocol.name())]
}

/// A histogram that was counted in buckets below, which the recorder cannot take.
fn histogram(page: &mut String, name: &str, counted: &HistogramSnapshot) {
    const WRITES: &str = "writing to a String succeeds";
    let help = CATALOGUE
        .iter()
        .find(|definition| definition.name == name)
        .map_or("", |definition| definition.help);
    write!(page, "# HELP {name} {help}\n# TYPE {name} histogram\n").expect(WRITES);
    let mut below = 0;
    for (bound, count) in LATENCY_BOUNDS_US.iter().zip(&counted.buckets) {
        below += count;
        let bound = *bound as f64 / 1e6;
        writeln!(page, "{name}_bucket{{le=\"{bound}\"}} {below}").expect(WRITES);
    }
    let count = counted.count();
    writeln!(page, "{name}_bucket{{le=\"+Inf\"}} {count}").expect(WRITES);
    let sum = counted.sum_us as f64 / 1e6;
    write!(page, "{name}_sum {sum}\n{name}_count {count}\n\n").expect(WRITES);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn readings() -> Readings {
        let mut readings = Readings {
            ready: true,
            edges: Protocol::ALL
                .map(|protocol| (protocol, EdgeCounters::default()))
                .to_vec(),
            ..Readings::default()
        };
        readings.edges[0].1.messages_in = 7;
        readings.router.accepted = [2, 5, 0];
        readings.router.sessions[Protocol::WebSocket.index()] = 3;
        readings.router.commit_latency.buckets[0] = 2;
        readings.router.commit_latency.buckets[LATENCY_BOUNDS_US.len()] = 1;
        readings.router.commit_latency.sum_us = 1_500_000;
        readings
    }

    /// The kind of every metric in a page, and that each has a help text.
    fn kinds(page: &str) -> BTreeMap<String, String> {
        let mut kinds = BTreeMap::new();
        for line in page.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                assert!(page.contains(&format!("# HELP {name} ")), "{name} has no help");
                kinds.insert(name.to_string(), kind.to_string());
            }
        }
        kinds
    }

    fn catalogue() -> BTreeMap<String, String> {
        let kind = |kind| format!("{kind:?}").to_lowercase();
        CATALOGUE
            .iter()
            .map(|definition| (definition.name.into(), kind(definition.kind)))
            .collect()
    }

    #[test]
    fn what_is_exported_is_what_the_catalogue_lists() {
        assert_eq!(kinds(&Metrics::default().render(&readings())), catalogue());
    }

    #[test]
    fn the_page_of_metrics_lists_the_catalogue() {
        let page = include_str!("../../../docs/metrics.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `weft_"));
        let documented = rows.map(|row| {
            let cells: Vec<_> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            (
                format!("weft_{}", cells[0].trim_end_matches('`')),
                (cells[1].to_string(), cells[2].to_string(), cells[3].to_string()),
            )
        });
        let listed = CATALOGUE.iter().map(|definition| {
            let kind = format!("{:?}", definition.kind).to_lowercase();
            let label = definition.label.unwrap_or_default().to_string();
            (definition.name.to_string(), (kind, label, definition.help.to_string()))
        });
        assert_eq!(
            documented.collect::<BTreeMap<_, _>>(),
            listed.collect::<BTreeMap<_, _>>()
        );
    }

    #[test]
    fn values_stand_where_they_were_counted() {
        let page = Metrics::default().render(&readings());
        for line in [
            "weft_messages_received_total{protocol=\"http\"} 7",
            "weft_messages_accepted_total{qos=\"0\"} 2",
            "weft_messages_accepted_total{qos=\"1\"} 5",
            "weft_deliveries_total{qos=\"2\"} 0",
            "weft_sessions{protocol=\"websocket\"} 3",
            "weft_ready 1",
            "weft_commit_latency_seconds_bucket{le=\"0.00005\"} 2",
            "weft_commit_latency_seconds_bucket{le=\"100\"} 2",
            "weft_commit_latency_seconds_bucket{le=\"+Inf\"} 3",
            "weft_commit_latency_seconds_sum 1.5",
            "weft_commit_latency_seconds_count 3",
        ] {
            assert!(page.lines().any(|found| found == line), "no line {line} in\n{page}");
        }
    }

    #[test]
    fn no_label_can_grow_with_the_number_of_agents() {
        assert!(
            CATALOGUE
                .iter()
                .all(|definition| matches!(definition.label, None | Some("protocol" | "qos" | "version")))
        );
    }
}
