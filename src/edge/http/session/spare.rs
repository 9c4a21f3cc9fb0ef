//! Messages that came too late for one poll and wait for the next, which keeps their place in the order.
//!
//! Pure: times come in. Knows neither polls nor streams; `desk.rs` says when nobody waits.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::router::surface::{Delivery, DeliveryId};

/// Messages of either kind that wait.
pub const SPARE_MAX: usize = 256;
/// How long hand-outs wait: a client that polls again at once needs far less, and the agent's other sessions can have them after it.
pub const SPARE_KEEP: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub struct Spare {
    /// Handed out to this session, oldest first; the newest goes back where they are too many.
    held: VecDeque<Delivery>,
    /// Of QoS 0, which nothing brings again: they wait for as long as the session; the oldest is dropped where they are too many.
    loose: VecDeque<Delivery>,
    /// When what is held goes back.
    until: Option<Instant>,
}

impl Spare {
    /// Keeps messages; returns those that go back at once because there is no room.
    pub fn keep(&mut self, late: impl IntoIterator<Item = Delivery>, now: Instant) -> Vec<DeliveryId> {
        let mut refused = Vec::new();
        for delivery in late {
            match delivery.id {
                Some(id) if self.held.len() == SPARE_MAX => refused.push(id),
                Some(_) => self.held.push_back(delivery),
                None => {
                    if self.loose.len() == SPARE_MAX {
                        self.loose.pop_front();
                    }
                    self.loose.push_back(delivery);
                }
            }
        }
        if !self.held.is_empty() {
            self.until.get_or_insert(now + SPARE_KEEP);
        }
        refused
    }

    /// All that waits.
    pub fn take(&mut self) -> Vec<Delivery> {
        self.until = None;
        self.held.drain(..).chain(self.loose.drain(..)).collect()
    }

    /// The hand-outs, to go back.
    pub fn give_back(&mut self) -> Vec<DeliveryId> {
        self.until = None;
        self.held.drain(..).filter_map(|delivery| delivery.id).collect()
    }

    /// When [`Spare::give_back`] is due; `None` where nothing is held.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }
}
