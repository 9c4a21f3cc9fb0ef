//! Who may begin a handshake: bounds on connections, on handshakes at once and in a second, and Retry under load.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Config;
use crate::{
    edge::{
        counters::Counters,
        gate::{Gate, Pass},
    },
    time::monotonic,
};

/// A connection that may begin.
#[derive(Debug)]
pub(super) struct Guest {
    pub incoming: Incoming,
    pub pass: Pass,
    /// Given back once the greeting is over.
    pub handshake: OwnedSemaphorePermit,
}

/// Decides over connections before anything was computed for them.
#[derive(Debug)]
pub(super) struct Doorman {
    gate: Arc<Gate>,
    handshakes: Arc<Semaphore>,
    handshakes_max: usize,
    unproven_max: usize,
    rate: Rate,
    counters: Arc<Counters>,
}

impl Doorman {
    pub fn new(config: &Config, counters: Arc<Counters>) -> Self {
        Self {
            gate: Arc::new(Gate::new(
                config.connections_max,
                config.connections_per_address_max,
                Arc::clone(&counters),
            )),
            handshakes: Arc::new(Semaphore::new(config.handshakes_max.min(Semaphore::MAX_PERMITS))),
            handshakes_max: config.handshakes_max.min(Semaphore::MAX_PERMITS),
            unproven_max: config.handshakes_unproven_max,
            rate: Rate {
                per_second_max: config.handshakes_per_second_max,
                begun: monotonic(),
                in_second: 0,
            },
            counters,
        }
    }

    /// Lets a connection begin; or answers it with a Retry or a refusal, and with it is done.
    pub fn judge(&mut self, incoming: Incoming) -> Option<Guest> {
        let under_way = self.handshakes_max - self.handshakes.available_permits();
        if under_way >= self.unproven_max && incoming.may_retry() {
            if let Err(error) = incoming.retry() {
                error.into_incoming().refuse();
            }
            return None;
        }
        let permit = match self.rate.allows(monotonic()) {
            true => Arc::clone(&self.handshakes).try_acquire_owned().ok(),
            false => None,
        };
        let Some(handshake) = permit else {
            Counters::add(&self.counters.connections_refused, 1);
            incoming.refuse();
            return None;
        };
        match self.gate.enter(incoming.remote_address().ip()) {
            Some(pass) => Some(Guest {
                incoming,
                pass,
                handshake,
            }),
            None => {
                incoming.refuse();
                None
            }
        }
    }
}

/// At most so many in each second, counted from the first of it.
#[derive(Debug)]
struct Rate {
    per_second_max: u32,
    begun: Instant,
    in_second: u32,
}

impl Rate {
    fn allows(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.begun) >= Duration::from_secs(1) {
            self.begun = now;
            self.in_second = 0;
        }
        self.in_second = self.in_second.saturating_add(1);
        self.in_second <= self.per_second_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_allows_its_share_and_the_next_one_its_own() {
        let begun = monotonic();
        let mut rate = Rate {
            per_second_max: 2,
            begun,
            in_second: 0,
        };
        let at = |millis| begun + Duration::from_millis(millis);
        assert!(rate.allows(at(0)) && rate.allows(at(1)));
        assert!(!rate.allows(at(2)) && !rate.allows(at(999)));
        assert!(rate.allows(at(1000)));
    }
}
