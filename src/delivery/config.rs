//! Bounds and times of delivery.

use std::time::Duration;

use crate::time::Timestamp;

/// The bounds and times that a shard's state machine keeps. Set from the router's settings.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Messages and bytes in an inbox, one-of or fan-out queue; above it the sender is refused.
    pub inbox_messages_max: usize,
    pub inbox_bytes_max: u64,
    /// Messages and bytes in a session queue; above it the copy is rejected.
    pub session_messages_max: usize,
    pub session_bytes_max: u64,
    /// Deliveries begun before a message becomes a dead letter.
    pub max_deliver: u32,
    pub backoff_first: Duration,
    pub backoff_max: Duration,
    pub receipt_window: Duration,
    /// Dead letters kept of one address, and for how long.
    pub dead_letters_max: usize,
    pub dead_letter_retention: Duration,
    /// Messages kept as one group's history.
    pub history_messages_max: usize,
}

impl Limits {
    /// The wait after the given number of failed attempts: the first wait, doubled each time, up to the longest.
    pub fn backoff(&self, failed_attempts: u32) -> Duration {
        let doublings = failed_attempts.saturating_sub(1).min(31);
        self.backoff_first.saturating_mul(1 << doublings).min(self.backoff_max)
    }

    /// When a dead letter of now ages out.
    pub fn dead_letter_until(&self, now: Timestamp) -> Timestamp {
        now + self.dead_letter_retention
    }
}

#[cfg(test)]
impl Default for Limits {
    fn default() -> Self {
        Self {
            inbox_messages_max: 100,
            inbox_bytes_max: 1 << 20,
            session_messages_max: 10,
            session_bytes_max: 1 << 16,
            max_deliver: 4,
            backoff_first: Duration::from_secs(1),
            backoff_max: Duration::from_secs(5),
            receipt_window: Duration::from_secs(600),
            dead_letters_max: 3,
            dead_letter_retention: Duration::from_secs(3600),
            history_messages_max: 5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_bound() {
        let limits = Limits::default();
        let waits: Vec<_> = [1, 2, 3, 4, 40].map(|n| limits.backoff(n).as_secs()).into();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
    }
}
