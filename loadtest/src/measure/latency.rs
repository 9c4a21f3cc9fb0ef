//! Latencies: recorded into an HdrHistogram, shown as percentiles.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest latency told apart, in nanoseconds; longer ones count as this.
const NS_MAX: u64 = 120_000_000_000;
/// Significant digits: values are right to a thousandth.
const DIGITS: u8 = 3;
/// Steps per halving of the distance to the 100th percentile, in the stored distribution.
const STEPS_PER_HALF: u32 = 5;

/// Collects latencies.
#[derive(Clone, Debug)]
pub struct Recorder(Histogram<u64>);

/// Percentiles, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub min_us: f64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub p9999_us: f64,
    pub max_us: f64,
    /// The whole distribution, for plots and `.hgrm`.
    pub distribution: Vec<Point>,
}

/// So many latencies are at most this.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// 0 to 1.
    pub quantile: f64,
    pub value_us: f64,
    pub count: u64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, NS_MAX, DIGITS).expect("the bounds are in order"))
    }
}

impl Recorder {
    /// Notes a latency in nanoseconds.
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Notes what another recorder noted.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// How many were noted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The percentiles.
    pub fn summary(&self) -> Latency {
        let at = |quantile| micros(self.0.value_at_quantile(quantile));
        Latency {
            count: self.0.len(),
            min_us: micros(self.0.min()),
            mean_us: self.0.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: micros(self.0.max()),
            distribution: self.distribution(),
        }
    }

    fn distribution(&self) -> Vec<Point> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let mut count = 0;
        let points = self.0.iter_quantiles(STEPS_PER_HALF).map(|step| {
            count += step.count_since_last_iteration();
            Point {
                quantile: step.quantile_iterated_to(),
                value_us: micros(step.value_iterated_to()),
                count,
            }
        });
        points.collect()
    }
}

#[allow(clippy::cast_precision_loss, reason = "nanoseconds of at most minutes")]
fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

impl Latency {
    /// `p50/p99/p99.9` and the maximum, for a line of text.
    pub fn brief(&self) -> String {
        format!(
            "{:.0}/{:.0}/{:.0} (max {:.0})",
            self.p50_us, self.p99_us, self.p999_us, self.max_us
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_a_thousandth() {
        let mut recorder = Recorder::default();
        (1..=100_000).for_each(|micros| recorder.record(micros * 1_000));
        let latency = recorder.summary();
        for (is, should) in [
            (latency.p50_us, 50_000.0),
            (latency.p99_us, 99_000.0),
            (latency.p999_us, 99_900.0),
            (latency.max_us, 100_000.0),
        ] {
            assert!((is / should - 1.0_f64).abs() < 0.002, "{is} instead of {should}");
        }
        let last = latency.distribution.last().expect("not empty");
        assert_eq!((last.quantile, last.count), (1.0, 100_000));
    }

    #[test]
    fn nothing_recorded_is_all_zero() {
        assert_eq!(Recorder::default().summary(), Latency::default());
    }
}
