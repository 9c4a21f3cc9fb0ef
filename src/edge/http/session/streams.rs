//! The event streams of one agent: those that are open, and the logs of those that ended, kept for a resume.
//!
//! Pure, as the [`super::desk`] that owns it; knows no poll and no lease. Start at [`Streams`].

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    desk::{AckMode, StreamId, Terms},
    log::{Log, Progress},
};
use crate::router::surface::{Delivery, DeliveryId};

/// Events of one stream that are neither written nor settled; above it no more are asked for.
pub const STREAM_EVENTS_MAX: usize = 256;
/// Logs of ended streams kept for a resume; the oldest goes first, and its messages come again after their visibility timeout.
const ENDED_LOGS_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Stream {
    pub id: StreamId,
    pub log: Log,
}

#[derive(Debug)]
struct EndedLog {
    log: Log,
    until: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Streams {
    live: VecDeque<Stream>,
    ended: VecDeque<EndedLog>,
}

impl Streams {
    /// Streams that are open.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// True where none is open.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// How many more events they want.
    pub fn demand(&self) -> usize {
        let room = |stream: &Stream| STREAM_EVENTS_MAX.saturating_sub(stream.log.open());
        self.live.iter().map(room).sum()
    }

    /// Opens one; its owner bounds how many there are.
    pub fn open(&mut self, id: StreamId, terms: Terms) {
        self.live.push_back(Stream {
            id,
            log: Log::new(terms),
        });
    }

    /// Closes one.
    pub fn close(&mut self, id: StreamId) -> Option<Stream> {
        let at = self.live.iter().position(|stream| stream.id == id)?;
        self.live.remove(at)
    }

    /// Keeps an ended stream's log for a resume.
    pub fn keep(&mut self, log: Log, until: Instant) {
        if self.ended.len() == ENDED_LOGS_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(EndedLog { log, until });
    }

    /// Forgets logs that were kept long enough.
    pub fn forget_ended(&mut self, now: Instant) {
        self.ended.retain(|ended| ended.until > now);
    }

    /// Takes out the log that has this event, and says which open stream it was taken from.
    pub fn take_with(&mut self, event: DeliveryId) -> Option<(Option<StreamId>, Log)> {
        let has = |log: &Log| log.position(event).is_some();
        if let Some(at) = self.live.iter().position(|stream| has(&stream.log)) {
            return self.live.remove(at).map(|stream| (Some(stream.id), stream.log));
        }
        let at = self.ended.iter().position(|ended| has(&ended.log))?;
        self.ended.remove(at).map(|ended| (None, ended.log))
    }

    /// Hands messages to the streams in turns, so that several connections of an agent share its messages.
    pub fn share_out(&mut self, waiting: &mut VecDeque<Delivery>) -> Vec<(StreamId, Terms, Delivery)> {
        let mut shared = Vec::new();
        let mut full_in_a_row = 0;
        while full_in_a_row < self.live.len()
            && let Some(mut stream) = self.live.pop_front()
        {
            if stream.log.open() >= STREAM_EVENTS_MAX {
                full_in_a_row += 1;
            } else if let Some(delivery) = waiting.pop_front() {
                full_in_a_row = 0;
                stream.log.push(delivery.id);
                shared.push((stream.id, stream.log.terms, delivery));
            } else {
                self.live.push_front(stream);
                break;
            }
            self.live.push_back(stream);
        }
        shared
    }

    /// Notes how many events a stream's connection has taken in all.
    pub fn note_written(&mut self, id: StreamId, written: u64, now: Instant) {
        if let Some(stream) = self.live.iter_mut().find(|stream| stream.id == id) {
            stream.log.note_written(written, now);
        }
    }

    /// Notes that these were settled elsewhere.
    pub fn note_settled(&mut self, ids: &[DeliveryId]) {
        let live = self.live.iter_mut().map(|stream| &mut stream.log);
        for log in live.chain(self.ended.iter_mut().map(|ended| &mut ended.log)) {
            log.note_settled(ids);
        }
    }

    /// True where automatic acknowledgements may come due.
    pub fn have_graces(&self) -> bool {
        let waits = |stream: &Stream| stream.log.terms.ack == AckMode::Auto && stream.log.open() > 0;
        self.live.iter().any(waits)
    }

    /// Settles what was written so long ago that its connection outlived its grace, stream by stream.
    pub fn settle_outlived(&mut self, grace: Duration, now: Instant) -> Vec<Vec<DeliveryId>> {
        let outlived = |progress| matches!(progress, Progress::Written(at) if at + grace <= now);
        let automatic = self
            .live
            .iter_mut()
            .filter(|stream| stream.log.terms.ack == AckMode::Auto);
        automatic.map(|stream| stream.log.settle(.., outlived)).collect()
    }
}
