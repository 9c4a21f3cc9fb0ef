//! The desk of an agent's HTTP session: who waits for messages, what was handed to whom, and what becomes of it.
//!
//! Pure: times come in, [`Effect`]s go out. Polls are served first, in their order, then event streams. What comes when nobody waits
//! any more is kept for the next poll for a moment ([`super::spare::SPARE_KEEP`]), so that it comes in order and as what it is, a first delivery;
//! then it goes back and reaches the agent's other sessions. Knows no socket, task or clock. Start at [`Desk`].
//!
//! A hand-out is settled by the agent's own acknowledgement, comes back when its visibility timeout runs out, or, on a stream with
//! automatic acknowledgement, is acknowledged once the connection lived on for a grace period after it was written, or once a
//! resume with `Last-Event-ID` covers it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

pub use super::streams::STREAM_EVENTS_MAX;
use super::{log::Progress, spare::Spare, streams::Streams};
use crate::{
    router::surface::{Delivery, DeliveryId},
    time::Timestamp,
};

/// Polls of one agent that may wait at once; above it a poll is refused (429).
pub const POLLS_MAX: usize = 64;
/// Event streams of one agent; above it a stream is refused (429).
pub const STREAMS_MAX: usize = 8;
/// How often automatic acknowledgements are looked after.
const GRACE_TICK: Duration = Duration::from_secs(1);

/// A poll's number in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollId(pub u64);

/// A stream's number in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId(pub u64);

/// Who acknowledges what was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckMode {
    /// The agent, by `POST …/messages/ack`.
    Manual,
    /// The edge, once it was written.
    Auto,
}

/// How long hand-outs stay and who settles them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub ack: AckMode,
    pub visibility_timeout: Duration,
}

/// Spans that the whole desk goes by.
#[derive(Clone, Copy, Debug)]
pub struct Spans {
    /// How long the session stays after its last poll or stream.
    pub keep: Duration,
    /// See [`super::super::Config::auto_ack_grace_ms`].
    pub grace: Duration,
}

/// A poll that waits.
#[derive(Clone, Copy, Debug)]
pub struct Poll {
    pub id: PollId,
    pub max: usize,
    pub terms: Terms,
    pub deadline: Instant,
}

/// What the session is to do.
#[derive(Debug)]
pub enum Effect {
    /// Answer a poll; an empty list ends its wait.
    Answer { poll: PollId, deliveries: Vec<Delivery> },
    /// Write an event.
    Event { stream: StreamId, delivery: Delivery },
    /// Another connection resumed this stream.
    CloseStream(StreamId),
    /// Acknowledge.
    Acknowledge(Vec<DeliveryId>),
    /// Give back, untouched.
    Release(Vec<DeliveryId>),
    /// Give back: the visibility timeout ran out.
    Retry(Vec<DeliveryId>),
    /// Nobody polled for long and nothing is out: end the session.
    End,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    id: DeliveryId,
    until: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Desk {
    spans: Spans,
    polls: VecDeque<Poll>,
    streams: Streams,
    leases: Vec<Lease>,
    spare: Spare,
    idle_since: Instant,
    next_tick: Instant,
}

/// Why a poll or stream was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeskFull {
    pub what: &'static str,
    pub max: usize,
}

impl Desk {
    /// A desk nobody waits at.
    pub fn new(spans: Spans, now: Instant) -> Self {
        Self {
            spans,
            polls: VecDeque::new(),
            streams: Streams::default(),
            leases: Vec::new(),
            spare: Spare::default(),
            idle_since: now,
            next_tick: now,
        }
    }

    /// How many more messages are wanted now, beyond those in flight.
    pub fn demand(&self) -> usize {
        let polls: usize = self.polls.iter().map(|poll| poll.max).sum();
        polls + self.streams.demand()
    }

    /// Takes a poll in; messages that wait for it answer it at once.
    pub fn handle_poll(
        &mut self,
        poll: Poll,
        wall: Timestamp,
        now: Instant,
        out: &mut Vec<Effect>,
    ) -> Result<(), DeskFull> {
        self.touch(now);
        if self.polls.len() >= POLLS_MAX {
            return Err(DeskFull {
                what: "polls of one agent at once",
                max: POLLS_MAX,
            });
        }
        self.polls.push_back(poll);
        self.idle_since = now;
        let spare = self.spare.take();
        self.handle_deliveries(spare, wall, now, out);
        Ok(())
    }

    /// A poll's client went away.
    pub fn handle_poll_gone(&mut self, id: PollId, now: Instant) {
        self.touch(now);
        self.polls.retain(|poll| poll.id != id);
    }

    /// Opens a stream; `resume` is the last event that its client saw.
    pub fn handle_stream(
        &mut self,
        id: StreamId,
        terms: Terms,
        resume: Option<DeliveryId>,
        now: Instant,
        out: &mut Vec<Effect>,
    ) -> Result<(), DeskFull> {
        self.touch(now);
        if let Some(last) = resume {
            self.resume(last, out);
        }
        if self.streams.len() >= STREAMS_MAX {
            return Err(DeskFull {
                what: "event streams of one agent",
                max: STREAMS_MAX,
            });
        }
        self.streams.open(id, terms);
        push_nonempty(out, self.spare.give_back(), Effect::Release);
        self.idle_since = now;
        self.next_tick = now + GRACE_TICK;
        Ok(())
    }

    /// Settles what the resumed stream's client saw, if that is automatic, and gives back what it did not see.
    fn resume(&mut self, last: DeliveryId, out: &mut Vec<Effect>) {
        let Some((closed, mut log)) = self.streams.take_with(last) else {
            return;
        };
        out.extend(closed.map(Effect::CloseStream));
        let seen = log.position(last).map_or(0, |at| at + 1);
        if log.terms.ack == AckMode::Auto {
            let ids = log.settle(..seen, |_| true);
            self.forget_leases(&ids);
            push_nonempty(out, ids, Effect::Acknowledge);
        }
        let unseen = log.settle(seen.., |_| true);
        self.forget_leases(&unseen);
        push_nonempty(out, unseen, Effect::Release);
    }

    /// A stream's connection ended after it had taken `written` events in all.
    pub fn handle_stream_gone(&mut self, id: StreamId, written: u64, now: Instant, out: &mut Vec<Effect>) {
        self.touch(now);
        let Some(mut stream) = self.streams.close(id) else {
            return;
        };
        stream.log.note_written(written, now);
        let unwritten = stream.log.settle(.., |progress| progress == Progress::Queued);
        self.forget_leases(&unwritten);
        push_nonempty(out, unwritten, Effect::Release);
        if stream.log.terms.ack == AckMode::Auto {
            let until = now + stream.log.terms.visibility_timeout;
            self.leases.extend(stream.log.open_ids().map(|id| Lease { id, until }));
        }
        self.streams.keep(stream.log, now + self.spans.keep);
    }

    /// A stream's connection has taken `written` events in all.
    pub fn handle_written(&mut self, id: StreamId, written: u64, now: Instant) {
        self.streams.note_written(id, written, now);
    }

    /// Hands messages to those who wait; the rest waits or goes back. What expired meanwhile is handed to nobody.
    pub fn handle_deliveries(
        &mut self,
        deliveries: Vec<Delivery>,
        wall: Timestamp,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        self.touch(now);
        let (expired, mut waiting): (VecDeque<_>, VecDeque<_>) =
            deliveries.into_iter().partition(|delivery| has_expired(delivery, wall));
        let expired = expired.into_iter().filter_map(|delivery| delivery.id).collect();
        push_nonempty(out, expired, Effect::Release);
        while !waiting.is_empty()
            && let Some(poll) = self.polls.pop_front()
        {
            let taken: Vec<_> = waiting.drain(..poll.max.min(waiting.len())).collect();
            if poll.terms.ack == AckMode::Manual {
                self.lease(&taken, now + poll.terms.visibility_timeout);
            }
            out.push(Effect::Answer {
                poll: poll.id,
                deliveries: taken,
            });
        }
        for (stream, terms, delivery) in self.streams.share_out(&mut waiting) {
            if terms.ack == AckMode::Manual {
                self.lease(std::slice::from_ref(&delivery), now + terms.visibility_timeout);
            }
            out.push(Effect::Event { stream, delivery });
        }
        let back = match self.streams.is_empty() {
            true => self.spare.keep(waiting, now),
            // The streams' windows are full: what is too much may reach the agent's other sessions.
            false => {
                let (handed_out, loose): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|late| late.id.is_some());
                self.spare.keep(loose, now);
                handed_out.into_iter().filter_map(|late| late.id).collect()
            }
        };
        push_nonempty(out, back, Effect::Release);
    }

    /// An answer found its client gone: its messages are handed out anew.
    pub fn handle_unread_answer(
        &mut self,
        deliveries: Vec<Delivery>,
        wall: Timestamp,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let ids: Vec<_> = deliveries.iter().filter_map(|delivery| delivery.id).collect();
        self.forget_leases(&ids);
        // Older than what waits.
        let anew = deliveries.into_iter().chain(self.spare.take()).collect();
        self.handle_deliveries(anew, wall, now, out);
    }

    /// The agent settled messages: they are no longer out.
    pub fn handle_settled(&mut self, ids: &[DeliveryId]) {
        self.forget_leases(ids);
        self.streams.note_settled(ids);
    }

    /// When [`Desk::handle_timeout`] has something to do; `None` where only an event can be next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let polls = self.polls.iter().map(|poll| poll.deadline);
        let leases = self.leases.iter().map(|lease| lease.until);
        let tick = self.streams.have_graces().then_some(self.next_tick);
        let end = self.is_idle().then_some(self.idle_since + self.spans.keep);
        polls
            .chain(leases)
            .chain(self.spare.until())
            .chain(tick)
            .chain(end)
            .min()
    }

    /// Ends waits, brings back what was out too long, acknowledges what outlived its grace, ends an idle session.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.touch(now);
        while let Some(at) = self.polls.iter().position(|poll| poll.deadline <= now) {
            if let Some(poll) = self.polls.remove(at) {
                out.push(Effect::Answer {
                    poll: poll.id,
                    deliveries: Vec::new(),
                });
            }
        }
        let due: Vec<_> = self
            .leases
            .iter()
            .filter(|lease| lease.until <= now)
            .map(|lease| lease.id)
            .collect();
        if !due.is_empty() {
            self.handle_settled(&due);
            out.push(Effect::Retry(due));
        }
        if self.spare.until().is_some_and(|until| until <= now) {
            push_nonempty(out, self.spare.give_back(), Effect::Release);
        }
        self.acknowledge_outlived(now, out);
        self.streams.forget_ended(now);
        if self.is_idle() && now >= self.idle_since + self.spans.keep {
            out.push(Effect::End);
        }
    }

    fn acknowledge_outlived(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + GRACE_TICK;
        for ids in self.streams.settle_outlived(self.spans.grace, now) {
            push_nonempty(out, ids, Effect::Acknowledge);
        }
    }

    fn is_idle(&self) -> bool {
        self.polls.is_empty() && self.streams.is_empty() && self.leases.is_empty() && self.spare.until().is_none()
    }

    /// The keep time runs from when nobody waits any more: every handler calls this before it changes who waits.
    fn touch(&mut self, now: Instant) {
        if !self.polls.is_empty() || !self.streams.is_empty() {
            self.idle_since = now;
        }
    }

    fn lease(&mut self, deliveries: &[Delivery], until: Instant) {
        let ids = deliveries.iter().filter_map(|delivery| delivery.id);
        self.leases.extend(ids.map(|id| Lease { id, until }));
    }

    fn forget_leases(&mut self, ids: &[DeliveryId]) {
        self.leases.retain(|lease| !ids.contains(&lease.id));
    }
}

fn has_expired(delivery: &Delivery, wall: Timestamp) -> bool {
    let expires_at = delivery.frame.stamp.expires_at;
    !expires_at.is_never() && expires_at <= wall
}

fn push_nonempty(out: &mut Vec<Effect>, ids: Vec<DeliveryId>, effect: fn(Vec<DeliveryId>) -> Effect) {
    if !ids.is_empty() {
        out.push(effect(ids));
    }
}

#[cfg(test)]
mod tests;
