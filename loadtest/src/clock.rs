//! A run's clock: nanoseconds since the run began, small enough for a body's head.

use std::time::{Duration, Instant};

use weft::time::monotonic;

/// Counts from the moment it was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that stands at 0 now.
    pub fn start() -> Self {
        Self(monotonic())
    }

    /// Nanoseconds since the start.
    pub fn now_ns(self) -> u64 {
        nanos(monotonic() - self.0)
    }

    /// How long from now until this time of the clock; zero where it has passed.
    pub fn until(self, ns: u64) -> Duration {
        Duration::from_nanos(ns.saturating_sub(self.now_ns()))
    }
}

/// A duration in whole nanoseconds, at most 584 years.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
