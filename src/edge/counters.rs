//! What an edge counts of itself: plain atomics, read by the node's metrics and by `/protocols/status`.
//!
//! Knows no metrics library. Start at [`Counters`].

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Buckets of [`Latencies`]: two for each power of two of microseconds, up to 2^32 µs (71 minutes).
const LATENCY_BUCKETS: usize = 64;

/// Counters of one protocol. All relaxed: each stands for itself, and none guards other memory.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections open now.
    pub connections: AtomicU64,
    /// Connections since the start.
    pub connections_total: AtomicU64,
    /// Connections closed at once because a limit was reached.
    pub connections_refused: AtomicU64,
    /// Bytes read from connections.
    pub bytes_in: AtomicU64,
    /// Bytes written to connections.
    pub bytes_out: AtomicU64,
    /// Messages that came from agents.
    pub messages_in: AtomicU64,
    /// Messages that went to agents.
    pub messages_out: AtomicU64,
    /// Requests or operations that were answered with an error.
    pub errors: AtomicU64,
    /// How long requests or operations took; waiting ones (long polls, streams) are left out.
    pub latencies: Latencies,
}

impl Counters {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, amount: usize) {
        counter.fetch_add(amount as u64, Relaxed);
    }

    /// The values now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            connections: self.connections.load(Relaxed),
            connections_total: self.connections_total.load(Relaxed),
            connections_refused: self.connections_refused.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            messages_in: self.messages_in.load(Relaxed),
            messages_out: self.messages_out.load(Relaxed),
            errors: self.errors.load(Relaxed),
            latency_p50: self.latencies.percentile(50),
            latency_p95: self.latencies.percentile(95),
            latency_p99: self.latencies.percentile(99),
        }
    }
}

/// The values of [`Counters`] at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub connections: u64,
    pub connections_total: u64,
    pub connections_refused: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub messages_in: u64,
    pub messages_out: u64,
    pub errors: u64,
    /// `None` before anything was measured.
    pub latency_p50: Option<Duration>,
    pub latency_p95: Option<Duration>,
    pub latency_p99: Option<Duration>,
}

/// A histogram of durations in fixed memory, right within a factor of 1.5.
#[derive(Debug)]
pub struct Latencies([AtomicU64; LATENCY_BUCKETS]);

impl Default for Latencies {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; LATENCY_BUCKETS])
    }
}

impl Latencies {
    /// Counts one duration.
    pub fn record(&self, took: Duration) {
        self.0[bucket_of(took)].fetch_add(1, Relaxed);
    }

    /// The upper edge of the bucket in which the given percentile falls.
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let counts = self.0.each_ref().map(|bucket| bucket.load(Relaxed));
        let total: u64 = counts.iter().sum();
        let wanted = (total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let at = counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(upper_edge(at))
    }
}

/// The power of two below the duration and the half of it in which it falls.
fn bucket_of(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let power = micros.ilog2();
    let half = if power == 0 { 0 } else { (micros >> (power - 1)) & 1 };
    (power as usize * 2 + half as usize).min(LATENCY_BUCKETS - 1)
}

fn upper_edge(bucket: usize) -> Duration {
    let (power, half) = (bucket / 2, bucket as u64 % 2);
    Duration::from_micros(((1u64 << power) * (3 + half)).div_ceil(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_bracket_what_was_recorded() {
        let latencies = Latencies::default();
        assert_eq!(latencies.percentile(50), None);
        (0..99).for_each(|_| latencies.record(Duration::from_micros(1000)));
        latencies.record(Duration::from_secs(1));
        let p50 = latencies.percentile(50).unwrap();
        assert!(
            p50 >= Duration::from_micros(1000) && p50 <= Duration::from_micros(1500),
            "{p50:?}"
        );
        assert!(latencies.percentile(100).unwrap() >= Duration::from_secs(1));
        latencies.record(Duration::MAX);
        latencies.record(Duration::ZERO);
        assert_eq!(latencies.percentile(1).unwrap(), p50);
    }

    #[test]
    fn every_duration_lies_below_its_buckets_upper_edge() {
        for micros in (1..5000).chain([1 << 20, (1 << 31) + 5]) {
            let took = Duration::from_micros(micros);
            assert!(upper_edge(bucket_of(took)) >= took, "{took:?}");
        }
    }
}
