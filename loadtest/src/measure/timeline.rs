//! How a run went from moment to moment: deliveries and latency in equal intervals.
//!
//! Latencies are kept in eighths of a power of two, coarse but small enough for every interval of a run.

use serde::{Deserialize, Serialize};

/// Length of an interval, in nanoseconds.
const INTERVAL_NS: u64 = 250_000_000;
/// Intervals that are kept; what comes later counts as the last one. Longer than any run that is bounded by default.
const INTERVALS_MAX: usize = 4 * 3_600;
const STEPS_BITS: u32 = 3;
const BUCKETS: usize = 64 << STEPS_BITS;

/// Collects a time line.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    intervals: Vec<Interval>,
}

#[derive(Clone, Debug)]
struct Interval {
    count: u64,
    max_ns: u64,
    buckets: Box<[u32; BUCKETS]>,
}

/// One interval of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// Its end, in seconds since the run's start.
    pub until_s: f64,
    pub deliveries_per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

impl Recorder {
    /// Notes a delivery at a time of the run's clock.
    pub fn record(&mut self, at_ns: u64, latency_ns: u64) {
        let index = usize::try_from(at_ns / INTERVAL_NS).unwrap_or(usize::MAX);
        let index = index.min(INTERVALS_MAX - 1);
        if self.intervals.len() <= index {
            self.intervals.resize_with(index + 1, || Interval {
                count: 0,
                max_ns: 0,
                buckets: Box::new([0; BUCKETS]),
            });
        }
        let interval = &mut self.intervals[index];
        interval.count += 1;
        interval.max_ns = interval.max_ns.max(latency_ns);
        interval.buckets[bucket_of(latency_ns)] += 1;
    }

    /// The time line.
    pub fn slots(&self) -> Vec<Slot> {
        let slot = |(index, interval): (usize, &Interval)| Slot {
            until_s: seconds((index as u64 + 1) * INTERVAL_NS),
            deliveries_per_s: count(interval.count) / seconds(INTERVAL_NS),
            p50_us: interval.quantile_us(0.5),
            p99_us: interval.quantile_us(0.99),
            max_us: seconds(interval.max_ns) * 1e6,
        };
        self.intervals.iter().enumerate().map(slot).collect()
    }
}

impl Interval {
    fn quantile_us(&self, quantile: f64) -> f64 {
        let wanted = count(self.count) * quantile;
        let mut below = 0.0;
        for (bucket, held) in self.buckets.iter().enumerate() {
            below += f64::from(*held);
            if below >= wanted && below > 0.0 {
                return seconds(top_of(bucket).min(self.max_ns)) * 1e6;
            }
        }
        0.0
    }
}

/// Values below 8 are exact; above, each power of two has eight buckets.
fn bucket_of(value: u64) -> usize {
    if value < 1 << STEPS_BITS {
        return usize::try_from(value).unwrap_or_default();
    }
    let power = value.ilog2();
    let step = (value >> (power - STEPS_BITS)) & ((1 << STEPS_BITS) - 1);
    (((power - STEPS_BITS + 1) as usize) << STEPS_BITS) + usize::try_from(step).unwrap_or_default()
}

/// The largest value of a bucket.
fn top_of(bucket: usize) -> u64 {
    let (power, step) = (bucket >> STEPS_BITS, (bucket & ((1 << STEPS_BITS) - 1)) as u64);
    match u32::try_from(power) {
        Ok(0) | Err(_) => step,
        Ok(power) => {
            let shift = power - 1;
            ((step + (1 << STEPS_BITS)) << shift) + ((1 << shift) - 1)
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts and nanoseconds far below 2^52")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[allow(clippy::cast_precision_loss, reason = "as above")]
fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_no_bucket_is_wider_than_an_eighth() {
        for value in (0..10_000).chain([1 << 20, (1 << 20) + 1, u64::MAX >> 2]) {
            let bucket = bucket_of(value);
            assert!(value <= top_of(bucket), "{value}");
            assert!(bucket == 0 || value > top_of(bucket - 1), "{value}");
            assert!(top_of(bucket) - value <= value / 8, "{value}");
        }
    }

    #[test]
    fn intervals_show_what_fell_into_them() {
        let mut recorder = Recorder::default();
        (0..100).for_each(|_| recorder.record(0, 8_000));
        recorder.record(INTERVAL_NS, 80_000);
        recorder.record(u64::MAX, 1);
        let slots = recorder.slots();
        assert_eq!(slots[0].deliveries_per_s, 400.0);
        assert!((slots[0].p99_us - 8.0).abs() < 1.0, "{:?}", slots[0]);
        assert_eq!(slots[1].max_us, 80.0);
        assert_eq!(slots.len(), INTERVALS_MAX, "a wrong clock costs no more than this");
    }
}
