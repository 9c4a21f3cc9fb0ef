//! How far a producer of a closed loop may run ahead of its answers and its consumers.
//!
//! Written by consumers and by the producer's answers, read by the producer, with plain counters; the producer is woken by
//! whoever moves one. A message that was lost would keep its place for ever: after a stall the producer forgives what is missing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use super::Sharing;

/// So long without any progress: what is under way is lost.
pub const STALL: Duration = Duration::from_secs(1);
/// Acknowledged messages that a producer may be ahead of its consumers: half of what an inbox holds by default.
const AHEAD_MAX: u64 = 50_000;

/// The gate of one producer.
#[derive(Debug)]
pub struct Gate {
    sharing: Sharing,
    /// Of each consumer: one above the highest number it got (each), or how many it got (one of).
    reached: Vec<AtomicU64>,
    /// Messages that the fabric has answered; only counts where there are answers.
    answered: AtomicU64,
    /// Messages that nobody waits for any more.
    forgiven: AtomicU64,
    wake: Arc<Notify>,
}

/// What bounds a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Messages under way until they are delivered (QoS 0).
    Delivered,
    /// Messages under way until they are answered (QoS 1 and 2).
    Answered,
}

impl Gate {
    pub fn new(sharing: Sharing, consumers: usize, already_sent: u64) -> Self {
        let mut reached = Vec::new();
        reached.resize_with(consumers, AtomicU64::default);
        Self {
            sharing,
            reached,
            answered: AtomicU64::new(already_sent),
            forgiven: AtomicU64::new(0),
            wake: Arc::new(Notify::new()),
        }
    }

    /// What wakes the producer.
    pub fn wake(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    /// The fabric has answered one more.
    pub fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// A consumer got messages: the highest number, and how many.
    pub fn reached(&self, consumer: usize, highest: u64, count: u64) {
        match self.sharing {
            Sharing::Each => self.reached[consumer].fetch_max(highest + 1, Ordering::Relaxed),
            Sharing::OneOf => self.reached[consumer].fetch_add(count, Ordering::Relaxed),
        };
        self.wake.notify_one();
    }

    fn delivered(&self) -> u64 {
        let forgiven = self.forgiven.load(Ordering::Relaxed);
        let reached = self.reached.iter().map(|reached| reached.load(Ordering::Relaxed));
        match self.sharing {
            Sharing::Each => reached.min().unwrap_or(u64::MAX).max(forgiven),
            Sharing::OneOf => reached.sum::<u64>() + forgiven,
        }
    }

    /// How many more may be sent now, with so many sent already.
    pub fn room(&self, until: Until, sent: u64, in_flight: u64) -> u64 {
        let delivered = self.delivered();
        let limit = match until {
            Until::Delivered => delivered.saturating_add(in_flight),
            Until::Answered => {
                let answered = self.answered.load(Ordering::Relaxed).saturating_add(in_flight);
                answered.min(delivered.saturating_add(AHEAD_MAX))
            }
        };
        limit.saturating_sub(sent)
    }

    /// Waits until something moved; forgives what is missing where nothing does.
    pub async fn wait(&self, until: Until, sent: u64) {
        let before = self.delivered();
        let woken = timeout(STALL, self.wake.notified()).await;
        if woken.is_err() && until == Until::Delivered && self.delivered() == before {
            self.forgive(sent);
        }
    }

    fn forgive(&self, sent: u64) {
        match self.sharing {
            Sharing::Each => self.forgiven.fetch_max(sent, Ordering::Relaxed),
            Sharing::OneOf => {
                let missing = sent.saturating_sub(self.delivered());
                self.forgiven.fetch_add(missing, Ordering::Relaxed)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_consumer_of_each_message_holds_the_producer() {
        let gate = Gate::new(Sharing::Each, 2, 0);
        assert_eq!(gate.room(Until::Delivered, 0, 4), 4);
        gate.reached(0, 9, 1);
        assert_eq!(gate.room(Until::Delivered, 4, 4), 0);
        gate.reached(1, 2, 1);
        assert_eq!(gate.room(Until::Delivered, 4, 4), 3);
    }

    #[test]
    fn consumers_that_share_add_up() {
        let gate = Gate::new(Sharing::OneOf, 2, 0);
        gate.reached(0, 7, 2);
        gate.reached(1, 3, 1);
        assert_eq!(gate.room(Until::Delivered, 4, 4), 3);
    }

    #[test]
    fn answers_hold_a_producer_that_waits_for_them_and_so_do_consumers_far_behind() {
        let gate = Gate::new(Sharing::Each, 1, 0);
        assert_eq!(gate.room(Until::Answered, 2, 2), 0);
        gate.answered();
        assert_eq!(gate.room(Until::Answered, 2, 2), 1);
        let without = Gate::new(Sharing::Each, 0, 0);
        assert_eq!(without.room(Until::Answered, 0, 2), 2, "nobody there to wait for");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_lost_is_forgiven_after_a_stall() {
        for sharing in [Sharing::Each, Sharing::OneOf] {
            let gate = Gate::new(sharing, 1, 0);
            gate.reached(0, 0, 1);
            assert_eq!(gate.room(Until::Delivered, 5, 4), 0);
            // The first wait takes the wake-up that `reached` left.
            gate.wait(Until::Delivered, 5).await;
            assert_eq!(gate.room(Until::Delivered, 5, 4), 0);
            gate.wait(Until::Delivered, 5).await;
            assert_eq!(gate.room(Until::Delivered, 5, 4), 4, "{sharing:?}");
        }
    }
}
