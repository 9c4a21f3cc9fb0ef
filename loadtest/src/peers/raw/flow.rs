//! How far publishers of one subject may run ahead of its subscribers, and whether everything arrived in the end.
//!
//! Plain counters beside a semaphore: publishers take room, subscribers give it back. Knows nothing of what is sent.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::{sync::Semaphore, time::sleep};
use weft::time::monotonic;

/// So long without a delivery after the last send: what is missing is lost.
const QUIET: Duration = Duration::from_secs(3);
/// Between two looks at whether all has arrived.
const LOOK: Duration = Duration::from_millis(10);

/// One subject's messages. Every counter is written with relaxed ordering: nothing else is published by them.
#[derive(Debug)]
pub struct Flow {
    /// Messages that may be sent now.
    room: Semaphore,
    stopped: AtomicBool,
    /// Written by publishers; a number is given out once.
    sent: AtomicU64,
    /// Of each subscriber, written by it alone.
    got: Vec<AtomicU64>,
    /// How far the slowest subscriber was when room was last given back.
    reached: AtomicU64,
}

impl Flow {
    /// Nothing sent yet to so many subscribers, who get every message each; so many may be under way.
    pub fn new(subscribers: usize, under_way_max: usize) -> Self {
        let mut got = Vec::new();
        got.resize_with(subscribers, AtomicU64::default);
        Self {
            room: Semaphore::new(under_way_max),
            stopped: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            got,
            reached: AtomicU64::new(0),
        }
    }

    /// Waits for room for so many messages, and returns the number of the first; `None` once it was stopped.
    pub async fn send(&self, messages: u32) -> Option<u64> {
        let room = self.room.acquire_many(messages).await.ok()?;
        if self.stopped.load(Ordering::Relaxed) {
            return None;
        }
        room.forget();
        Some(self.sent.fetch_add(messages.into(), Ordering::Relaxed))
    }

    /// A subscriber got so many.
    pub fn got(&self, subscriber: usize, messages: u64) {
        self.got[subscriber].fetch_add(messages, Ordering::Relaxed);
        let slowest = self.slowest();
        let before = self.reached.fetch_max(slowest, Ordering::Relaxed);
        if slowest > before {
            self.room
                .add_permits(usize::try_from(slowest - before).unwrap_or_default());
        }
    }

    fn slowest(&self) -> u64 {
        let got = self.got.iter().map(|got| got.load(Ordering::Relaxed));
        got.min().unwrap_or_default()
    }

    /// What all subscribers got together.
    pub fn delivered(&self) -> u64 {
        self.got.iter().map(|got| got.load(Ordering::Relaxed)).sum()
    }

    /// What they must get together.
    pub fn expected(&self) -> u64 {
        self.sent.load(Ordering::Relaxed) * self.got.len() as u64
    }

    /// Nothing more is sent from now on.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.room.close();
    }
}

/// Waits until everything that was sent has arrived; an error where something was lost or doubled.
pub async fn settled(delivered: impl Fn() -> u64, expected: impl Fn() -> u64) -> Result<(), String> {
    let (mut seen, mut moved) = (delivered(), monotonic());
    while seen < expected() && monotonic() - moved < QUIET {
        sleep(LOOK).await;
        let now = delivered();
        if now != seen {
            (seen, moved) = (now, monotonic());
        }
    }
    match expected() {
        expected if seen == expected => Ok(()),
        expected => Err(format!("{seen} of {expected} messages arrived")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_slowest_subscriber_gives_room_back() {
        let flow = Flow::new(2, 64);
        assert_eq!(flow.send(32).await, Some(0));
        assert_eq!(flow.send(32).await, Some(32));
        assert_eq!(flow.room.available_permits(), 0);
        flow.got(0, 64);
        assert_eq!(flow.room.available_permits(), 0);
        flow.got(1, 40);
        assert_eq!(flow.room.available_permits(), 40);
        assert_eq!((flow.delivered(), flow.expected()), (104, 128));
    }

    #[tokio::test]
    async fn a_stopped_flow_wakes_whoever_waits_for_room() {
        let flow = Flow::new(1, 32);
        assert_eq!(flow.send(32).await, Some(0));
        let (waiting, ()) = tokio::join!(flow.send(32), async { flow.stop() });
        assert_eq!(waiting, None);
        assert_eq!(flow.expected(), 32);
    }

    #[tokio::test]
    async fn all_that_was_sent_must_arrive_once() {
        let late = AtomicU64::new(0);
        let delivered = || late.fetch_add(1, Ordering::Relaxed).min(5);
        assert_eq!(settled(delivered, || 5).await, Ok(()));
        let doubled = settled(|| 6, || 5).await;
        assert!(doubled.is_err_and(|error| error.contains("6 of 5")));
        let lost = settled(|| 4, || 5).await;
        assert!(lost.is_err_and(|error| error.contains("4 of 5")));
    }
}
