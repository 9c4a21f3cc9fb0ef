//! Plain counters and histograms of the router, exported on scrape by whoever knows a metrics format.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::delivery::{ByQos, Counts};

use super::surface::Protocol;

/// Upper bounds of latency buckets, in microseconds: 50 us to 100 s, three a decade.
pub const LATENCY_BOUNDS_US: [u64; 20] = [
    50,
    100,
    200,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
];

/// A histogram of spans. Written by one thread, read by any.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One bucket a bound and one for everything above; not cumulative.
    buckets: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Records `count` spans of so many microseconds each.
    pub fn record(&self, micros: u64, count: u64) {
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(count, Ordering::Relaxed);
        self.sum_us.fetch_add(micros.saturating_mul(count), Ordering::Relaxed);
    }

    fn add_to(&self, snapshot: &mut HistogramSnapshot) {
        for (sum, bucket) in snapshot.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.load(Ordering::Relaxed);
        }
        snapshot.sum_us += self.sum_us.load(Ordering::Relaxed);
    }
}

/// What a [`Histogram`] held at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// One count a bound of [`LATENCY_BOUNDS_US`] and one for everything above; not cumulative.
    pub buckets: [u64; LATENCY_BOUNDS_US.len() + 1],
    pub sum_us: u64,
}

impl Default for HistogramSnapshot {
    fn default() -> Self {
        Self {
            buckets: [0; LATENCY_BOUNDS_US.len() + 1],
            sum_us: 0,
        }
    }
}

impl HistogramSnapshot {
    /// How many spans were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The upper bound of the bucket that the given share of all spans (0 to 1) falls in, in microseconds; `None` while empty,
    /// and where it lies above every bound.
    pub fn quantile_us(&self, share: f64) -> Option<u64> {
        let total = self.count();
        let rank = ((total as f64) * share).ceil() as u64;
        let mut seen = 0;
        let at = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank.max(1)
        })?;
        LATENCY_BOUNDS_US.get(at).copied()
    }
}

fn add_by_qos(counters: &[AtomicU64; 3], sums: &mut ByQos) {
    for (sum, counter) in sums.iter_mut().zip(counters) {
        *sum += counter.load(Ordering::Relaxed);
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// One worker's counters. Written by the worker alone, so that no cache line is fought over.
        #[derive(Debug, Default)]
        pub(super) struct WorkerCounters {
            $(pub $name: AtomicU64,)*
            pub accepted: [AtomicU64; 3],
            pub handed_out: [AtomicU64; 3],
            pub delivery_latency: Histogram,
            pub commit_latency: Histogram,
        }

        /// Sums over all workers at one instant.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct CountersSnapshot {
            $($(#[$doc])* pub $name: u64,)*
            /// Messages taken in, by quality of service.
            pub accepted: ByQos,
            /// Deliveries begun, by quality of service.
            pub handed_out: ByQos,
            /// From acceptance to hand-out.
            pub delivery_latency: HistogramSnapshot,
            /// From handing a commit to the store until it completed.
            pub commit_latency: HistogramSnapshot,
            /// Live sessions, indexed by [`Protocol::index`].
            pub sessions: [u64; Protocol::COUNT],
        }

        impl WorkerCounters {
            pub fn add_to(&self, snapshot: &mut CountersSnapshot) {
                $(snapshot.$name += self.$name.load(Ordering::Relaxed);)*
                add_by_qos(&self.accepted, &mut snapshot.accepted);
                add_by_qos(&self.handed_out, &mut snapshot.handed_out);
                self.delivery_latency.add_to(&mut snapshot.delivery_latency);
                self.commit_latency.add_to(&mut snapshot.commit_latency);
            }
        }
    };
}

counters! {
    /// Messages answered with an earlier one's receipt.
    duplicates,
    /// Messages refused because a queue was full.
    refused_full,
    /// QoS 0 messages that nobody took.
    dropped,
    /// Deliveries begun of messages that may have been delivered before.
    redelivered,
    acknowledged,
    expired,
    dead_lettered,
    rejected,
    /// Settled receipts that went before their window was over.
    receipts_evicted_early,
    /// Dead letters that went because their address had too many.
    dead_letters_evicted,
    /// Bodies of messages taken in, in bytes.
    body_bytes,
    commits,
    commits_failed,
    /// Messages held now, waiting and kept.
    messages_held,
    /// Settled receipts held now.
    receipts_held,
    /// Queues held now.
    queues_held,
    /// Age of the oldest settled receipt held, in milliseconds; the largest over all workers is what counts.
    receipt_window_held_ms,
    /// Commands that wait for a worker now.
    inbox_depth,
}

impl WorkerCounters {
    pub fn add(&self, counts: &Counts) {
        let pairs = [
            (&self.duplicates, counts.duplicates),
            (&self.refused_full, counts.refused_full),
            (&self.dropped, counts.dropped),
            (&self.redelivered, counts.redelivered),
            (&self.acknowledged, counts.acknowledged),
            (&self.expired, counts.expired),
            (&self.dead_lettered, counts.dead_lettered),
            (&self.rejected, counts.rejected),
            (&self.receipts_evicted_early, counts.receipts_evicted_early),
            (&self.dead_letters_evicted, counts.dead_letters_evicted),
        ];
        let accepted = self.accepted.iter().zip(counts.accepted);
        let handed_out = self.handed_out.iter().zip(counts.handed_out);
        for (counter, count) in pairs.into_iter().chain(accepted).chain(handed_out) {
            if count > 0 {
                counter.fetch_add(count, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_name_the_bucket_that_holds_them() {
        let histogram = Histogram::default();
        histogram.record(80, 90);
        histogram.record(3_000, 10);
        let mut snapshot = HistogramSnapshot::default();
        histogram.add_to(&mut snapshot);
        assert_eq!(
            (snapshot.quantile_us(0.5), snapshot.quantile_us(0.99)),
            (Some(100), Some(5_000))
        );
        assert_eq!((snapshot.count(), snapshot.sum_us), (100, 80 * 90 + 30_000));
        assert_eq!(HistogramSnapshot::default().quantile_us(0.5), None);
        histogram.record(u64::MAX, 1000);
        histogram.add_to(&mut snapshot);
        assert_eq!(snapshot.quantile_us(0.9), None, "no bucket bounds it");
    }
}
