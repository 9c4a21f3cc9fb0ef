//! The desk of an agent's HTTP session: who waits for messages, what was handed to whom, and what becomes of it.
//!
//! Pure: times come in, [`Effect`]s go out. Polls are served first, in their order, then event streams; what nobody waits for goes
//! back at once, so that it reaches the agent's other sessions. Knows no socket, task or clock. Start at [`Desk`].
//!
//! A hand-out is settled by the agent's own acknowledgement, comes back when its visibility timeout runs out, or, on a stream with
//! automatic acknowledgement, is acknowledged once the connection lived on for a grace period after it was written, or once a
//! resume with `Last-Event-ID` covers it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::log::{Log, Progress};
use crate::{
    router::surface::{Delivery, DeliveryId},
    time::Timestamp,
};

/// Polls of one agent that may wait at once; above it a poll is refused (429).
pub const POLLS_MAX: usize = 64;
/// Event streams of one agent; above it a stream is refused (429).
pub const STREAMS_MAX: usize = 8;
/// Events of one stream that are neither written nor settled; above it no more are asked for.
pub const STREAM_EVENTS_MAX: usize = 256;
/// Logs of ended streams kept for a resume; the oldest goes first, and its messages come again after their visibility timeout.
const ENDED_LOGS_MAX: usize = 8;
/// QoS 0 messages that came too late for a poll and wait for the next; the oldest is dropped first.
const SPARE_MAX: usize = 256;
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

#[derive(Debug)]
struct Stream {
    id: StreamId,
    log: Log,
}

#[derive(Debug)]
struct EndedLog {
    log: Log,
    until: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Desk {
    spans: Spans,
    polls: VecDeque<Poll>,
    streams: VecDeque<Stream>,
    ended: VecDeque<EndedLog>,
    leases: Vec<Lease>,
    spare: VecDeque<Delivery>,
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
            streams: VecDeque::new(),
            ended: VecDeque::new(),
            leases: Vec::new(),
            spare: VecDeque::new(),
            idle_since: now,
            next_tick: now,
        }
    }

    /// How many more messages are wanted now, beyond those in flight.
    pub fn demand(&self) -> usize {
        let polls: usize = self.polls.iter().map(|poll| poll.max).sum();
        let streams: usize = self
            .streams
            .iter()
            .map(|stream| STREAM_EVENTS_MAX.saturating_sub(stream.log.open()))
            .sum();
        polls + streams
    }

    /// Takes a poll in; QoS 0 messages that wait for it answer it at once.
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
        let spare = std::mem::take(&mut self.spare).into();
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
        self.streams.push_back(Stream {
            id,
            log: Log::new(terms),
        });
        self.idle_since = now;
        self.next_tick = now + GRACE_TICK;
        Ok(())
    }

    /// Settles what the resumed stream's client saw, if that is automatic, and gives back what it did not see.
    fn resume(&mut self, last: DeliveryId, out: &mut Vec<Effect>) {
        let live = self
            .streams
            .iter()
            .position(|stream| stream.log.position(last).is_some());
        let ended = self.ended.iter().position(|ended| ended.log.position(last).is_some());
        let mut log = match (live.and_then(|at| self.streams.remove(at)), ended) {
            (Some(stream), _) => {
                out.push(Effect::CloseStream(stream.id));
                stream.log
            }
            (None, Some(at)) => match self.ended.remove(at) {
                Some(ended) => ended.log,
                None => return,
            },
            (None, None) => return,
        };
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
        let Some(at) = self.streams.iter().position(|stream| stream.id == id) else {
            return;
        };
        let Some(mut stream) = self.streams.remove(at) else {
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
        if self.ended.len() == ENDED_LOGS_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(EndedLog {
            log: stream.log,
            until: now + self.spans.keep,
        });
    }

    /// A stream's connection has taken `written` events in all.
    pub fn handle_written(&mut self, id: StreamId, written: u64, now: Instant) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) {
            stream.log.note_written(written, now);
        }
    }

    /// Hands messages to those who wait; the rest goes back.
    pub fn handle_deliveries(
        &mut self,
        deliveries: Vec<Delivery>,
        wall: Timestamp,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        self.touch(now);
        let mut waiting: VecDeque<Delivery> = deliveries
            .into_iter()
            .filter(|delivery| delivery.id.is_some() || !has_expired(delivery, wall))
            .collect();
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
        self.feed_streams(&mut waiting, now, out);
        self.give_back(waiting, out);
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
        self.handle_deliveries(deliveries, wall, now, out);
    }

    /// The streams take turns, so that several connections of an agent share its messages.
    fn feed_streams(&mut self, waiting: &mut VecDeque<Delivery>, now: Instant, out: &mut Vec<Effect>) {
        let mut full_in_a_row = 0;
        while full_in_a_row < self.streams.len()
            && let Some(mut stream) = self.streams.pop_front()
        {
            if stream.log.open() >= STREAM_EVENTS_MAX {
                full_in_a_row += 1;
            } else if let Some(delivery) = waiting.pop_front() {
                full_in_a_row = 0;
                if stream.log.terms.ack == AckMode::Manual {
                    self.lease(
                        std::slice::from_ref(&delivery),
                        now + stream.log.terms.visibility_timeout,
                    );
                }
                stream.log.push(delivery.id);
                out.push(Effect::Event {
                    stream: stream.id,
                    delivery,
                });
            } else {
                self.streams.push_front(stream);
                return;
            }
            self.streams.push_back(stream);
        }
    }

    fn give_back(&mut self, unwanted: VecDeque<Delivery>, out: &mut Vec<Effect>) {
        let mut ids = Vec::new();
        for delivery in unwanted {
            match delivery.id {
                Some(id) => ids.push(id),
                None => {
                    if self.spare.len() == SPARE_MAX {
                        self.spare.pop_front();
                    }
                    self.spare.push_back(delivery);
                }
            }
        }
        push_nonempty(out, ids, Effect::Release);
    }

    /// The agent settled messages: they are no longer out.
    pub fn handle_settled(&mut self, ids: &[DeliveryId]) {
        self.forget_leases(ids);
        for log in self.logs_mut() {
            log.note_settled(ids);
        }
    }

    /// When [`Desk::handle_timeout`] has something to do; `None` where only an event can be next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let polls = self.polls.iter().map(|poll| poll.deadline);
        let leases = self.leases.iter().map(|lease| lease.until);
        let tick = self.has_graces().then_some(self.next_tick);
        let end = self.is_idle().then_some(self.idle_since + self.spans.keep);
        polls.chain(leases).chain(tick).chain(end).min()
    }

    fn has_graces(&self) -> bool {
        self.streams
            .iter()
            .any(|stream| stream.log.terms.ack == AckMode::Auto && stream.log.open() > 0)
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
        self.acknowledge_outlived(now, out);
        self.ended.retain(|ended| ended.until > now);
        if self.is_idle() && now >= self.idle_since + self.spans.keep {
            out.push(Effect::End);
        }
    }

    fn acknowledge_outlived(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + GRACE_TICK;
        let grace = self.spans.grace;
        for stream in &mut self.streams {
            let log = &mut stream.log;
            let outlived = |progress| matches!(progress, Progress::Written(at) if at + grace <= now);
            if log.terms.ack == AckMode::Auto {
                let ids = log.settle(.., outlived);
                push_nonempty(out, ids, Effect::Acknowledge);
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.polls.is_empty() && self.streams.is_empty() && self.leases.is_empty()
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

    fn logs_mut(&mut self) -> impl Iterator<Item = &mut Log> {
        let live = self.streams.iter_mut().map(|stream| &mut stream.log);
        live.chain(self.ended.iter_mut().map(|ended| &mut ended.log))
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
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        frame::{Address, AgentId, Draft, Frame, MessageId, Seq, ShardId},
        router::surface::Lease as LeaseNo,
        time,
    };

    const KEEP: Duration = Duration::from_secs(60);
    const GRACE: Duration = Duration::from_secs(5);
    const MANUAL: Terms = Terms {
        ack: AckMode::Manual,
        visibility_timeout: Duration::from_secs(30),
    };
    const AUTO: Terms = Terms {
        ack: AckMode::Auto,
        ..MANUAL
    };
    const WALL: Timestamp = Timestamp::from_millis(1_000_000);

    fn id(number: u64) -> DeliveryId {
        DeliveryId {
            shard: ShardId::new(1).unwrap(),
            seq: Seq::from_raw(number),
            lease: LeaseNo(number),
        }
    }

    fn delivery(number: Option<u64>) -> Delivery {
        let to = Address::agent(&AgentId::new("b").unwrap());
        let draft = Draft::new(MessageId::new("m").unwrap(), AgentId::new("a").unwrap(), to.clone());
        Delivery {
            id: number.map(id),
            frame: Frame::new(draft.archive().unwrap(), Bytes::new()).unwrap(),
            queue: to,
        }
    }

    fn deliveries(numbers: std::ops::Range<u64>) -> Vec<Delivery> {
        numbers.map(|number| delivery(Some(number))).collect()
    }

    fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<DeliveryId> {
        numbers.into_iter().map(id).collect()
    }

    /// A desk, its time and what it said last.
    struct Harness {
        desk: Desk,
        now: Instant,
        polls: u64,
    }

    /// What a desk said, in a form that can be compared.
    #[derive(Debug, PartialEq)]
    enum Said {
        Answer(u64, Vec<DeliveryId>),
        Event(u64, Option<DeliveryId>),
        Close(u64),
        Acknowledge(Vec<DeliveryId>),
        Release(Vec<DeliveryId>),
        Retry(Vec<DeliveryId>),
        End,
    }

    fn said(out: Vec<Effect>) -> Vec<Said> {
        let say = |effect| match effect {
            Effect::Answer { poll, deliveries } => {
                Said::Answer(poll.0, deliveries.iter().filter_map(|delivery| delivery.id).collect())
            }
            Effect::Event { stream, delivery } => Said::Event(stream.0, delivery.id),
            Effect::CloseStream(stream) => Said::Close(stream.0),
            Effect::Acknowledge(ids) => Said::Acknowledge(ids),
            Effect::Release(ids) => Said::Release(ids),
            Effect::Retry(ids) => Said::Retry(ids),
            Effect::End => Said::End,
        };
        out.into_iter().map(say).collect()
    }

    impl Harness {
        fn new() -> Self {
            let now = time::monotonic();
            let spans = Spans {
                keep: KEEP,
                grace: GRACE,
            };
            Self {
                desk: Desk::new(spans, now),
                now,
                polls: 0,
            }
        }

        fn poll(&mut self, max: usize, wait_seconds: u64, terms: Terms) -> Vec<Said> {
            let mut out = Vec::new();
            let poll = Poll {
                id: PollId(self.polls),
                max,
                terms,
                deadline: self.now + Duration::from_secs(wait_seconds),
            };
            self.polls += 1;
            self.desk.handle_poll(poll, WALL, self.now, &mut out).unwrap();
            said(out)
        }

        fn stream(&mut self, number: u64, terms: Terms, resume: Option<u64>) -> Vec<Said> {
            let mut out = Vec::new();
            self.desk
                .handle_stream(StreamId(number), terms, resume.map(id), self.now, &mut out)
                .unwrap();
            said(out)
        }

        fn arrive(&mut self, deliveries: Vec<Delivery>) -> Vec<Said> {
            let mut out = Vec::new();
            self.desk.handle_deliveries(deliveries, WALL, self.now, &mut out);
            said(out)
        }

        fn written(&mut self, stream: u64, events: u64) {
            self.desk.handle_written(StreamId(stream), events, self.now);
        }

        fn gone(&mut self, stream: u64, written: u64) -> Vec<Said> {
            let mut out = Vec::new();
            self.desk
                .handle_stream_gone(StreamId(stream), written, self.now, &mut out);
            said(out)
        }

        /// Lets time pass to each deadline until nothing is due before `seconds` from now.
        fn pass(&mut self, seconds: u64) -> Vec<Said> {
            let until = self.now + Duration::from_secs(seconds);
            let mut all = Vec::new();
            while let Some(deadline) = self.desk.next_deadline().filter(|deadline| *deadline <= until) {
                self.now = self.now.max(deadline);
                let mut out = Vec::new();
                self.desk.handle_timeout(self.now, &mut out);
                all.extend(said(out));
                if all.last() == Some(&Said::End) {
                    break;
                }
            }
            self.now = self.now.max(until);
            all
        }
    }

    #[test]
    fn polls_are_answered_in_their_order_and_the_rest_goes_back() {
        let mut desk = Harness::new();
        assert!(desk.poll(2, 20, MANUAL).is_empty());
        assert!(desk.poll(3, 20, MANUAL).is_empty());
        assert_eq!(desk.desk.demand(), 5);
        assert_eq!(
            desk.arrive(deliveries(0..7)),
            [
                Said::Answer(0, ids(0..2)),
                Said::Answer(1, ids(2..5)),
                Said::Release(ids(5..7))
            ]
        );
        assert_eq!(desk.desk.demand(), 0);
    }

    #[test]
    fn a_poll_that_gets_nothing_is_answered_when_its_wait_ends() {
        let mut desk = Harness::new();
        desk.poll(1, 20, MANUAL);
        assert_eq!(desk.pass(19), []);
        assert_eq!(desk.pass(1), [Said::Answer(0, vec![])]);
    }

    #[test]
    fn what_is_not_acknowledged_comes_again_and_what_is_does_not() {
        let mut desk = Harness::new();
        desk.poll(2, 20, MANUAL);
        desk.arrive(deliveries(0..2));
        desk.desk.handle_settled(&[id(0)]);
        assert_eq!(desk.pass(29), []);
        assert_eq!(desk.pass(1), [Said::Retry(ids([1]))]);
    }

    #[test]
    fn a_session_ends_a_minute_after_its_last_poll_but_not_while_something_is_out() {
        let mut desk = Harness::new();
        desk.poll(1, 20, MANUAL);
        assert_eq!(desk.pass(79), [Said::Answer(0, vec![])]);
        assert_eq!(desk.pass(1), [Said::End]);

        let mut desk = Harness::new();
        let long = Terms {
            visibility_timeout: Duration::from_secs(300),
            ..MANUAL
        };
        desk.poll(1, 20, long);
        desk.arrive(deliveries(0..1));
        assert_eq!(desk.pass(299), []);
        assert_eq!(desk.pass(1), [Said::Retry(ids([0])), Said::End]);
    }

    #[test]
    fn an_answer_nobody_reads_is_handed_to_the_next_poll() {
        let mut desk = Harness::new();
        desk.poll(1, 20, MANUAL);
        desk.poll(1, 20, MANUAL);
        assert_eq!(desk.arrive(deliveries(0..1)), [Said::Answer(0, ids([0]))]);
        let mut out = Vec::new();
        desk.desk
            .handle_unread_answer(deliveries(0..1), WALL, desk.now, &mut out);
        assert_eq!(said(out), [Said::Answer(1, ids([0]))]);
        assert_eq!(desk.pass(30), [Said::Retry(ids([0]))], "leased once, not twice");
    }

    #[test]
    fn a_poll_whose_client_left_wants_nothing_more() {
        let mut desk = Harness::new();
        desk.poll(5, 20, MANUAL);
        desk.desk.handle_poll_gone(PollId(0), desk.now);
        assert_eq!(desk.desk.demand(), 0);
        assert_eq!(desk.arrive(deliveries(0..1)), [Said::Release(ids([0]))]);
    }

    #[test]
    fn qos_0_messages_that_come_late_wait_for_the_next_poll_unless_they_expire() {
        let mut desk = Harness::new();
        assert_eq!(desk.arrive(vec![delivery(None)]), []);
        let mut expired = delivery(None);
        expired.frame.stamp.expires_at = WALL;
        desk.arrive(vec![expired]);
        let mut out = Vec::new();
        let poll = Poll {
            id: PollId(0),
            max: 9,
            terms: AUTO,
            deadline: desk.now,
        };
        desk.desk.handle_poll(poll, WALL, desk.now, &mut out).unwrap();
        assert!(
            matches!(&out[..], [Effect::Answer { deliveries, .. }] if deliveries.len() == 1),
            "{out:?}"
        );
    }

    #[test]
    fn polls_and_streams_beyond_the_bound_are_refused() {
        let mut desk = Harness::new();
        (0..POLLS_MAX).for_each(|_| drop(desk.poll(1, 20, MANUAL)));
        let poll = Poll {
            id: PollId(999),
            max: 1,
            terms: MANUAL,
            deadline: desk.now,
        };
        assert!(desk.desk.handle_poll(poll, WALL, desk.now, &mut Vec::new()).is_err());
        (0..STREAMS_MAX as u64).for_each(|number| drop(desk.stream(number, MANUAL, None)));
        assert!(
            desk.desk
                .handle_stream(StreamId(99), MANUAL, None, desk.now, &mut Vec::new())
                .is_err()
        );
    }

    #[test]
    fn streams_take_turns_and_none_gets_more_than_its_window() {
        let mut desk = Harness::new();
        desk.stream(1, MANUAL, None);
        desk.stream(2, MANUAL, None);
        let window = STREAM_EVENTS_MAX as u64;
        let said = desk.arrive(deliveries(0..2 * window + 3));
        assert_eq!(said[..2], [Said::Event(1, Some(id(0))), Said::Event(2, Some(id(1)))]);
        assert_eq!(said.last(), Some(&Said::Release(ids(2 * window..2 * window + 3))));
        assert_eq!(desk.desk.demand(), 0);
        desk.desk.handle_settled(&[id(0)]);
        assert_eq!(desk.desk.demand(), 1);
    }

    #[test]
    fn automatic_acknowledgement_waits_until_the_connection_outlived_the_write() {
        let mut desk = Harness::new();
        desk.stream(1, AUTO, None);
        desk.arrive(deliveries(0..2));
        assert_eq!(desk.pass(10), [], "nothing was written");
        desk.written(1, 1);
        assert_eq!(desk.pass(4), []);
        assert_eq!(desk.pass(2), [Said::Acknowledge(ids([0]))]);
    }

    #[test]
    fn a_connection_that_dies_gives_back_what_was_not_written_and_keeps_the_rest_for_a_resume() {
        let mut desk = Harness::new();
        desk.stream(1, AUTO, None);
        desk.arrive(deliveries(0..3));
        assert_eq!(desk.gone(1, 2), [Said::Release(ids([2]))]);
        assert_eq!(
            desk.stream(2, AUTO, Some(0)),
            [Said::Acknowledge(ids([0])), Said::Release(ids([1]))]
        );
        assert_eq!(desk.pass(100), [], "nothing is out any more");
    }

    #[test]
    fn without_a_resume_written_events_come_again_after_the_visibility_timeout() {
        for terms in [AUTO, MANUAL] {
            let mut desk = Harness::new();
            desk.stream(1, terms, None);
            desk.arrive(deliveries(0..1));
            assert_eq!(desk.gone(1, 1), []);
            assert_eq!(desk.pass(30), [Said::Retry(ids([0]))], "{terms:?}");
        }
    }

    #[test]
    fn a_manual_resume_leaves_seen_messages_out_and_brings_unseen_ones_again() {
        let mut desk = Harness::new();
        desk.stream(1, MANUAL, None);
        desk.arrive(deliveries(0..3));
        desk.gone(1, 3);
        assert_eq!(desk.stream(2, MANUAL, Some(1)), [Said::Release(ids([2]))]);
        assert_eq!(desk.pass(30), [Said::Retry(ids([0, 1]))]);
    }

    #[test]
    fn a_resume_takes_over_a_stream_that_does_not_know_yet_that_it_is_dead() {
        let mut desk = Harness::new();
        desk.stream(1, AUTO, None);
        desk.arrive(deliveries(0..2));
        desk.written(1, 2);
        assert_eq!(
            desk.stream(2, AUTO, Some(0)),
            [Said::Close(1), Said::Acknowledge(ids([0])), Said::Release(ids([1]))]
        );
        assert_eq!(desk.arrive(deliveries(5..6)), [Said::Event(2, Some(id(5)))]);
    }

    #[test]
    fn a_resume_that_names_an_acknowledged_event_still_finds_its_stream() {
        let mut desk = Harness::new();
        desk.stream(1, AUTO, None);
        desk.arrive(deliveries(0..1));
        desk.written(1, 1);
        assert_eq!(desk.pass(7), [Said::Acknowledge(ids([0]))]);
        desk.arrive(deliveries(1..2));
        desk.gone(1, 2);
        assert_eq!(desk.stream(2, AUTO, Some(0)), [Said::Release(ids([1]))]);
        assert_eq!(desk.stream(3, AUTO, Some(77)), [], "an unknown event resumes nothing");
    }

    #[test]
    fn an_event_acknowledged_before_its_write_was_noted_is_not_mistaken_for_another() {
        let mut desk = Harness::new();
        desk.stream(1, AUTO, None);
        desk.arrive(deliveries(0..2));
        desk.desk.handle_settled(&[id(0)]);
        desk.written(1, 1);
        assert_eq!(desk.pass(20), [], "only the first was written, and that is settled");
    }
}
