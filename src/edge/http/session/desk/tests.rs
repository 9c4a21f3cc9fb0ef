//! The desk, event by event, against times that the tests choose.

use bytes::Bytes;

use super::{
    super::spare::{SPARE_KEEP, SPARE_MAX},
    *,
};
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
fn polls_are_answered_in_their_order_and_the_rest_waits_for_the_next() {
    let mut desk = Harness::new();
    assert!(desk.poll(2, 20, MANUAL).is_empty());
    assert!(desk.poll(3, 20, MANUAL).is_empty());
    assert_eq!(desk.desk.demand(), 5);
    assert_eq!(
        desk.arrive(deliveries(0..7)),
        [Said::Answer(0, ids(0..2)), Said::Answer(1, ids(2..5))]
    );
    assert_eq!(desk.desk.demand(), 0);
    assert_eq!(desk.arrive(deliveries(7..9)), []);
    assert_eq!(desk.poll(3, 20, MANUAL), [Said::Answer(2, ids(5..8))], "in their order");
    assert_eq!(
        desk.pass(SPARE_KEEP.as_secs()),
        [Said::Release(ids([8]))],
        "nobody asked"
    );
    assert_eq!(desk.poll(3, 20, MANUAL), []);
}

#[test]
fn what_waits_for_a_poll_is_bounded_and_not_handed_out_once_it_expired() {
    let mut desk = Harness::new();
    let (room, late) = (SPARE_MAX as u64, SPARE_MAX as u64 + 5);
    assert_eq!(desk.arrive(deliveries(0..late)), [Said::Release(ids(room..late))]);
    assert_eq!(desk.pass(SPARE_KEEP.as_secs()), [Said::Release(ids(0..room))]);
    let mut expiring = delivery(Some(1));
    expiring.frame.stamp.expires_at = Timestamp::from_millis(WALL.as_millis() + 1);
    assert_eq!(desk.arrive(vec![expiring]), []);
    let poll = Poll {
        id: PollId(0),
        max: 9,
        terms: MANUAL,
        deadline: desk.now,
    };
    let (mut out, late) = (Vec::new(), Timestamp::from_millis(WALL.as_millis() + 1));
    desk.desk.handle_poll(poll, late, desk.now, &mut out).unwrap();
    assert_eq!(said(out), [Said::Release(ids([1]))]);
}

#[test]
fn an_answer_nobody_reads_goes_before_what_waits_already() {
    let mut desk = Harness::new();
    desk.poll(1, 20, MANUAL);
    assert_eq!(desk.arrive(deliveries(0..3)), [Said::Answer(0, ids([0]))]);
    let mut out = Vec::new();
    desk.desk
        .handle_unread_answer(deliveries(0..1), WALL, desk.now, &mut out);
    assert_eq!(said(out), []);
    assert_eq!(desk.poll(9, 20, MANUAL), [Said::Answer(1, ids(0..3))]);
}

#[test]
fn a_stream_that_opens_sends_back_what_waits_for_a_poll() {
    let mut desk = Harness::new();
    desk.arrive(deliveries(0..1));
    assert_eq!(desk.stream(1, MANUAL, None), [Said::Release(ids([0]))]);
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
    assert_eq!(desk.arrive(deliveries(0..1)), []);
    assert_eq!(desk.pass(SPARE_KEEP.as_secs()), [Said::Release(ids([0]))]);
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
