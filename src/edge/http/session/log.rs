//! What was sent on an event stream and how far each event has come: what a resume and automatic acknowledgement go by.

use std::{collections::VecDeque, ops::RangeBounds, time::Instant};

use super::desk::Terms;
use crate::router::surface::DeliveryId;

/// Settled events that a log still knows, for a resume that names one of them.
const SETTLED_EVENTS_KNOWN: usize = 256;

/// How far an event has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Queued,
    /// The connection took it.
    Written(Instant),
    Settled,
}

#[derive(Debug)]
struct Event {
    /// Its place among all events of its stream, from 0 on.
    index: u64,
    /// `None`: nothing is to be acknowledged (QoS 0).
    id: Option<DeliveryId>,
    progress: Progress,
}

/// A stream's events in order. Its owner bounds those that are open; settled ones are bounded here.
#[derive(Debug)]
pub(super) struct Log {
    pub terms: Terms,
    events: VecDeque<Event>,
    /// Events queued so far.
    queued: u64,
}

impl Log {
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            events: VecDeque::new(),
            queued: 0,
        }
    }

    /// Appends an event.
    pub fn push(&mut self, id: Option<DeliveryId>) {
        self.forget_old();
        self.events.push_back(Event {
            index: self.queued,
            id,
            progress: Progress::Queued,
        });
        self.queued += 1;
    }

    /// Events that are not settled.
    pub fn open(&self) -> usize {
        self.events
            .iter()
            .filter(|event| event.progress != Progress::Settled)
            .count()
    }

    /// Ids of events that are not settled.
    pub fn open_ids(&self) -> impl Iterator<Item = DeliveryId> {
        let open = self.events.iter().filter(|event| event.progress != Progress::Settled);
        open.filter_map(|event| event.id)
    }

    /// An event's place in the log.
    pub fn position(&self, id: DeliveryId) -> Option<usize> {
        self.events.iter().position(|event| event.id == Some(id))
    }

    /// Settles the open events of a range that satisfy `which`, and returns their ids.
    pub fn settle(&mut self, range: impl RangeBounds<usize>, which: impl Fn(Progress) -> bool) -> Vec<DeliveryId> {
        let mut ids = Vec::new();
        for event in self.events.range_mut(range) {
            if event.progress != Progress::Settled && which(event.progress) {
                event.progress = Progress::Settled;
                ids.extend(event.id);
            }
        }
        ids
    }

    /// Notes that these were settled elsewhere.
    pub fn note_settled(&mut self, ids: &[DeliveryId]) {
        for event in &mut self.events {
            if event.id.is_some_and(|id| ids.contains(&id)) {
                event.progress = Progress::Settled;
            }
        }
    }

    /// Notes that the connection has taken `written` events in all.
    pub fn note_written(&mut self, written: u64, now: Instant) {
        let is_news = |event: &&mut Event| event.index < written && event.progress == Progress::Queued;
        for event in self.events.iter_mut().filter(is_news) {
            event.progress = match event.id {
                Some(_) => Progress::Written(now),
                // Nothing will be acknowledged of a QoS 0 message.
                None => Progress::Settled,
            };
        }
    }

    fn forget_old(&mut self) {
        let is_settled = |event: &&Event| event.progress == Progress::Settled;
        let settled_ahead = self.events.iter().take_while(is_settled).count();
        self.events.drain(..settled_ahead.saturating_sub(SETTLED_EVENTS_KNOWN));
    }
}
