//! Wakes the producers of open loops when messages of theirs are due.
//!
//! A thread of its own, because the runtime's timer is no finer than a millisecond, which is ten times the latency that is measured.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::Notify;

use crate::{clock::Clock, schedule::Schedule};

/// Longest sleep, so that the end of the run is noticed.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// Wakes until it is dropped.
#[derive(Debug)]
pub struct Pacer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pacer {
    /// Starts to wake each of these whenever something of its schedule falls due.
    pub fn start(clock: Clock, producers: Vec<(Schedule, Arc<Notify>)>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = (!producers.is_empty()).then(|| {
            let stop = stop.clone();
            thread::spawn(move || pace(clock, &producers, &stop))
        });
        Self { stop, thread }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn pace(clock: Clock, producers: &[(Schedule, Arc<Notify>)], stop: &AtomicBool) {
    let first = producers.iter().enumerate();
    let mut due: BinaryHeap<_> = first
        .map(|(index, (schedule, _))| Reverse((schedule.due_at(0), index)))
        .collect();
    while let Some(Reverse((at, index))) = due.pop() {
        loop {
            let wait = clock.until(at);
            if stop.load(Ordering::Relaxed) {
                return;
            }
            if wait.is_zero() {
                break;
            }
            thread::sleep(wait.min(SLEEP_MAX));
        }
        let (schedule, wake) = &producers[index];
        wake.notify_one();
        due.push(Reverse((schedule.due_at(schedule.due_by(clock.now_ns())), index)));
    }
}
