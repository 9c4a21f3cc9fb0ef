//! When each message of an open loop is due, whatever the system under load makes of it.
//!
//! The schedule is fixed before the run: latency is measured from the time at which a message was due, so a fabric that stalls a
//! sender pays for every message that should have gone out meanwhile (no coordinated omission). Pure; the [`super::pacer`] wakes.
//!
//! A rate above 4,000 a second comes in bursts of equal spacing, as timers are no finer than that: the burst is the schedule.
//! Producers side by side take turns, so that all their bursts together are no more than that either.

/// Least time between two bursts, in nanoseconds: what a sleeping thread is woken after with a few per cent of error.
const TICK_NS_MIN: f64 = 250_000.0;
/// The same between two bursts of one producer among many, at most.
const TICK_NS_MIN_AMONG_MANY: f64 = 10_000_000.0;
const SECOND_NS: f64 = 1e9;

/// The due times of one producer's messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// First tick, in nanoseconds on the run's clock.
    start_ns: u64,
    tick_ns: f64,
    /// Messages of one tick; may have a fraction, which is carried on.
    per_tick: f64,
}

impl Schedule {
    /// A schedule of this many messages a second. `share` of `of` producers that run side by side are spread over a tick.
    pub fn new(rate_per_s: f64, share: usize, of: usize) -> Self {
        let rate = rate_per_s.max(1e-3);
        #[allow(clippy::cast_precision_loss, reason = "counts of producers")]
        let (share, of) = (share as f64, of.max(1) as f64);
        let tick_ns = (SECOND_NS / rate).max((TICK_NS_MIN * of).min(TICK_NS_MIN_AMONG_MANY));
        let offset = tick_ns * share / of;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "below 1,000 s in nanoseconds"
        )]
        Self {
            start_ns: offset as u64,
            tick_ns,
            per_tick: tick_ns * rate / SECOND_NS,
        }
    }

    /// When a message is due, by its number from 0.
    pub fn due_at(&self, number: u64) -> u64 {
        self.tick_at(self.tick_of(number))
    }

    /// How many messages are due by a time.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "runs are bounded far below 2^52 nanoseconds and messages"
    )]
    pub fn due_by(&self, now_ns: u64) -> u64 {
        let Some(since) = now_ns.checked_sub(self.start_ns) else {
            return 0;
        };
        let ticks = (since as f64 / self.tick_ns).floor() + 1.0;
        let mut count = (ticks * self.per_tick + 1e-6).floor() as u64;
        // Rounding of the two divisions may differ by one; the due time decides.
        while count > 0 && self.due_at(count - 1) > now_ns {
            count -= 1;
        }
        while self.due_at(count) <= now_ns {
            count += 1;
        }
        count
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "as above"
    )]
    fn tick_of(&self, number: u64) -> u64 {
        // Message n belongs to the first tick by whose end n + 1 messages are due.
        (((number + 1) as f64 / self.per_tick) - 1e-6).ceil().max(1.0) as u64 - 1
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "as above"
    )]
    fn tick_at(&self, tick: u64) -> u64 {
        self.start_ns + (tick as f64 * self.tick_ns) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::latency::Recorder;

    #[test]
    fn a_slow_rate_is_one_message_after_the_other() {
        let schedule = Schedule::new(100.0, 0, 1);
        assert_eq!(
            [0, 1, 2].map(|number| schedule.due_at(number)),
            [0, 10_000_000, 20_000_000]
        );
        assert_eq!(schedule.due_by(0), 1);
        assert_eq!(schedule.due_by(9_999_999), 1);
        assert_eq!(schedule.due_by(10_000_000), 2);
    }

    #[test]
    fn a_fast_rate_comes_in_bursts_and_keeps_its_sum() {
        for rate in [4_001.0, 12_345.0, 1_000_000.0] {
            let schedule = Schedule::new(rate, 0, 1);
            let due = schedule.due_by(1_000_000_000);
            let off = (due as f64 - rate).abs();
            assert!(off <= rate * 250e-6 + 2.0, "{due} of {rate} are due after a second");
            assert!(schedule.due_at(due - 1) <= 1_000_000_000);
            assert!(schedule.due_at(due) > 1_000_000_000);
        }
    }

    #[test]
    fn what_is_due_by_a_time_is_what_has_a_due_time_up_to_it() {
        let schedule = Schedule::new(7_777.0, 1, 3);
        for now in (0..50_000_000).step_by(77_777) {
            let due = schedule.due_by(now);
            assert!(due == 0 || schedule.due_at(due - 1) <= now, "at {now}");
            assert!(schedule.due_at(due) > now, "at {now}");
        }
    }

    #[test]
    fn producers_side_by_side_are_spread_over_a_tick() {
        let starts = [0, 1, 2, 3].map(|share| Schedule::new(1_000.0, share, 4).due_at(0));
        assert_eq!(starts, [0, 250_000, 500_000, 750_000]);
    }

    #[test]
    fn many_producers_wake_no_more_often_than_one() {
        for of in [1, 8, 40] {
            let ticks = (0..of).flat_map(|share| {
                let schedule = Schedule::new(50_000.0, share, of);
                let due: std::collections::BTreeSet<u64> = (0..)
                    .map(|number| schedule.due_at(number))
                    .take_while(|due| *due < 100_000_000)
                    .collect();
                due
            });
            let ticks = ticks.count();
            assert!(
                (380..=420).contains(&ticks),
                "{ticks} ticks of {of} producers in a tenth of a second"
            );
        }
    }

    /// The fabric stalls for a second in the middle of two; a sender that waits for it and measures from its own late sends sees
    /// one slow message. Measured from when they were due, half of them waited, the longest for the whole stall.
    #[test]
    fn a_stall_is_paid_by_every_message_that_was_due_meanwhile() {
        const STALL_NS: std::ops::Range<u64> = 500_000_000..1_500_000_000;
        const SERVICE_NS: u64 = 100_000;
        let schedule = Schedule::new(1_000.0, 0, 1);
        let (mut naive, mut corrected, mut free_at) = (Recorder::default(), Recorder::default(), 0);
        for number in 0..2_000 {
            let due = schedule.due_at(number);
            let sent = due.max(free_at);
            let begun = if STALL_NS.contains(&sent) { STALL_NS.end } else { sent };
            free_at = begun + SERVICE_NS;
            naive.record(free_at - sent);
            corrected.record(free_at - due);
        }
        let (naive, corrected) = (naive.summary(), corrected.summary());
        assert!(naive.p99_us < 1_000.0, "{naive:?}");
        assert!(
            corrected.p50_us > 10_000.0 && corrected.p99_us > 900_000.0,
            "{corrected:?}"
        );
    }
}
