//! Judges a history by the guarantees: which of them does what the clients saw break?
//!
//! Owns the rules and nothing of how a history came about; pure. Leans on two habits of the clients: a producer has one stream
//! at a time and sends what is unanswered again, in order, before anything new; a recipient has one consumer at a time, which
//! has left its old session before it opens the next. Start at [`faults`]; `model.rs` plants each fault and sees it caught.

use std::collections::HashMap;

use super::history::{Event, History, Message, MessageNo, Taken, Verdict};

/// A guarantee that was broken, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// G1, G13: acknowledged to its sender, then neither delivered nor settled truthfully.
    Lost(MessageNo),
    /// G4: acknowledged as new twice.
    TakenTwice(MessageNo),
    /// G4: delivered out of two places, so it was stored twice.
    StoredTwice(MessageNo),
    /// G5: `later` was handed out for the first time before `earlier` was.
    OutOfOrder { earlier: MessageNo, later: MessageNo },
    /// G7: handed out after its acknowledgement was confirmed.
    Resurrected(MessageNo),
    /// The receipt says what did not happen.
    FalseVerdict(MessageNo, Verdict),
    /// Delivered though nobody sent it there, or damaged.
    Strange(String),
}

/// What was seen of one message. Indices are positions in the history.
#[derive(Clone, Debug, Default)]
struct Seen {
    first_submit: Option<usize>,
    /// The last time it was sent before its first positive answer.
    last_submit: Option<usize>,
    accepted: bool,
    taken_first: u32,
    places: Vec<String>,
    first_delivery: Option<usize>,
    ack_sent: bool,
    ack_confirmed: bool,
    verdict: Option<Verdict>,
}

/// Every fault in a history whose queues were drained at its end.
pub fn faults(history: &History) -> Vec<Fault> {
    let mut seen = vec![Seen::default(); history.messages.len()];
    let mut found = Vec::new();
    for (at, event) in history.events.iter().enumerate() {
        note(&mut seen, at, event, &mut found);
    }
    for (number, seen) in seen.iter().enumerate() {
        judge(MessageNo(number), seen, &mut found);
    }
    out_of_order(history, &seen, &mut found);
    found
}

fn note(seen: &mut [Seen], at: usize, event: &Event, found: &mut Vec<Fault>) {
    match event {
        Event::Submitted(message) => {
            let seen = &mut seen[message.0];
            seen.first_submit.get_or_insert(at);
            if !seen.accepted {
                seen.last_submit = Some(at);
            }
        }
        Event::Accepted(message, taken) => {
            let seen = &mut seen[message.0];
            seen.accepted = true;
            seen.taken_first += u32::from(*taken == Taken::First);
        }
        Event::Delivered { message, place } => {
            let seen = &mut seen[message.0];
            if seen.ack_confirmed {
                found.push(Fault::Resurrected(*message));
            }
            seen.first_delivery.get_or_insert(at);
            if !seen.places.contains(place) {
                seen.places.push(place.clone());
            }
        }
        Event::AckSent(message) => seen[message.0].ack_sent = true,
        Event::AckConfirmed(message) => seen[message.0].ack_confirmed = true,
        Event::Strange(what) => found.push(Fault::Strange(what.clone())),
        Event::Killed => {}
        Event::Judged(message, verdict) => seen[message.0].verdict = Some(*verdict),
    }
}

/// The rules that look at one message alone.
fn judge(message: MessageNo, seen: &Seen, found: &mut Vec<Fault>) {
    if seen.taken_first > 1 {
        found.push(Fault::TakenTwice(message));
    }
    if seen.places.len() > 1 {
        found.push(Fault::StoredTwice(message));
    }
    let Some(verdict) = seen.verdict else {
        // Nobody asked the fabric: only a delivery proves that it was kept.
        if seen.accepted && seen.first_delivery.is_none() {
            found.push(Fault::Lost(message));
        }
        return;
    };
    match verdict {
        // Drained, and still not handed out; or no word of it.
        Verdict::Waiting | Verdict::Unknown if seen.accepted && seen.first_delivery.is_none() => {
            found.push(Fault::Lost(message));
        }
        Verdict::Waiting | Verdict::Unknown if seen.ack_confirmed => found.push(Fault::FalseVerdict(message, verdict)),
        Verdict::Waiting | Verdict::Unknown => {}
        Verdict::Delivered if !seen.ack_sent => found.push(Fault::FalseVerdict(message, verdict)),
        Verdict::Delivered => {}
        // Nothing of the kind was asked for: no time to live ran out and nobody refused a message for good.
        Verdict::Expired | Verdict::Rejected => found.push(Fault::FalseVerdict(message, verdict)),
        Verdict::DeadLettered if seen.ack_confirmed => found.push(Fault::FalseVerdict(message, verdict)),
        // Too many nodes died under it; it is kept and can be replayed.
        Verdict::DeadLettered => {}
    }
}

/// The stream that a message's order is promised in.
type Lane<'a> = (&'a str, &'a str, &'a str, u8);

/// G5. A message whose last sending before its answer came before another's first sending was taken first, so it is handed out
/// first. Messages without a positive answer are left out: when they were taken is not known.
fn out_of_order(history: &History, seen: &[Seen], found: &mut Vec<Fault>) {
    let mut lanes: HashMap<Lane<'_>, Vec<(usize, MessageNo)>> = HashMap::new();
    for (number, seen) in seen.iter().enumerate().filter(|(_, seen)| seen.accepted) {
        let Message {
            sender,
            recipient,
            priority,
            qos,
            ..
        } = &history.messages[number];
        if let Some(delivered) = seen.first_delivery {
            let lane = lanes.entry((sender, recipient, priority, *qos)).or_default();
            lane.push((delivered, MessageNo(number)));
        }
    }
    for lane in lanes.values_mut() {
        lane.sort_unstable();
        // Of those handed out so far, the one that was first sent last.
        let mut latest: Option<(usize, MessageNo)> = None;
        for &(_, message) in lane.iter() {
            let seen = &seen[message.0];
            let (Some(first), Some(last)) = (seen.first_submit, seen.last_submit) else {
                continue;
            };
            match latest {
                Some((latest_first, later)) if last < latest_first => {
                    found.push(Fault::OutOfOrder {
                        earlier: message,
                        later,
                    });
                }
                _ => {}
            }
            if latest.is_none_or(|(latest_first, _)| latest_first < first) {
                latest = Some((first, message));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history of messages of one lane, with these events.
    fn history(messages: usize, events: Vec<Event>) -> History {
        let message = |number: usize| Message {
            sender: "producer".into(),
            id: format!("m{number}"),
            recipient: "consumer".into(),
            priority: "normal",
            qos: 1,
        };
        History {
            messages: (0..messages).map(message).collect(),
            events,
        }
    }

    const A: MessageNo = MessageNo(0);
    const B: MessageNo = MessageNo(1);

    fn delivered(message: MessageNo) -> Event {
        Event::Delivered {
            message,
            place: format!("place {}", message.0),
        }
    }

    /// Sent, taken, delivered, acknowledged, judged: nothing wrong with it.
    fn whole_life(message: MessageNo) -> Vec<Event> {
        vec![
            Event::Submitted(message),
            Event::Accepted(message, Taken::First),
            delivered(message),
            Event::AckSent(message),
            Event::AckConfirmed(message),
            Event::Judged(message, Verdict::Delivered),
        ]
    }

    #[test]
    fn a_whole_life_has_no_fault() {
        assert_eq!(faults(&history(1, whole_life(A))), []);
    }

    #[test]
    fn an_acknowledged_message_that_nobody_was_handed_is_lost() {
        for verdict in [None, Some(Verdict::Waiting), Some(Verdict::Unknown)] {
            let mut events = vec![Event::Submitted(A), Event::Accepted(A, Taken::First)];
            events.extend(verdict.map(|verdict| Event::Judged(A, verdict)));
            assert_eq!(faults(&history(1, events)), [Fault::Lost(A)], "{verdict:?}");
        }
    }

    #[test]
    fn a_message_without_a_positive_answer_may_be_gone() {
        assert_eq!(faults(&history(1, vec![Event::Submitted(A)])), []);
    }

    #[test]
    fn a_delivery_after_a_confirmed_acknowledgement_is_caught_and_after_a_sent_one_is_not() {
        let mut confirmed = whole_life(A);
        confirmed.insert(5, delivered(A));
        assert_eq!(faults(&history(1, confirmed)), [Fault::Resurrected(A)]);
        let mut sent = whole_life(A);
        sent.insert(4, delivered(A));
        assert_eq!(faults(&history(1, sent)), []);
    }

    #[test]
    fn a_second_first_answer_is_caught_and_a_duplicate_one_is_not() {
        let mut again = whole_life(A);
        again.extend([Event::Submitted(A), Event::Accepted(A, Taken::Again)]);
        assert_eq!(faults(&history(1, again)), []);
        let mut twice = whole_life(A);
        twice.extend([Event::Submitted(A), Event::Accepted(A, Taken::First)]);
        assert_eq!(faults(&history(1, twice)), [Fault::TakenTwice(A)]);
    }

    #[test]
    fn a_message_out_of_two_places_was_stored_twice() {
        let mut events = whole_life(A);
        let place = "elsewhere".into();
        events.insert(3, Event::Delivered { message: A, place });
        assert_eq!(faults(&history(1, events)), [Fault::StoredTwice(A)]);
    }

    #[test]
    fn swapped_first_deliveries_are_caught() {
        let events = vec![
            Event::Submitted(A),
            Event::Submitted(B),
            Event::Accepted(A, Taken::First),
            Event::Accepted(B, Taken::First),
            delivered(B),
            delivered(A),
        ];
        let caught = Fault::OutOfOrder { earlier: A, later: B };
        assert_eq!(faults(&history(2, events)), [caught]);
    }

    #[test]
    fn a_message_that_was_sent_again_after_another_may_come_after_it() {
        let events = vec![
            Event::Submitted(A),
            Event::Submitted(B),
            Event::Accepted(B, Taken::First),
            Event::Submitted(A),
            Event::Accepted(A, Taken::First),
            delivered(B),
            delivered(A),
        ];
        assert_eq!(faults(&history(2, events)), []);
    }

    #[test]
    fn order_is_promised_on_first_deliveries_only_and_in_one_lane_only() {
        let mut events = vec![
            Event::Submitted(A),
            Event::Submitted(B),
            Event::Accepted(A, Taken::First),
            Event::Accepted(B, Taken::First),
            delivered(A),
            delivered(B),
            delivered(A),
        ];
        assert_eq!(faults(&history(2, events.clone())), []);
        events.swap(4, 5);
        let mut two_lanes = history(2, events);
        two_lanes.messages[1].priority = "critical";
        assert_eq!(faults(&two_lanes), []);
    }

    #[test]
    fn a_receipt_that_says_what_did_not_happen_is_caught() {
        for verdict in [
            Verdict::Expired,
            Verdict::Rejected,
            Verdict::DeadLettered,
            Verdict::Waiting,
        ] {
            let mut events = whole_life(A);
            events[5] = Event::Judged(A, verdict);
            assert_eq!(faults(&history(1, events)), [Fault::FalseVerdict(A, verdict)]);
        }
        let never_acknowledged = vec![
            Event::Submitted(A),
            Event::Accepted(A, Taken::First),
            delivered(A),
            Event::Judged(A, Verdict::Delivered),
        ];
        let caught = Fault::FalseVerdict(A, Verdict::Delivered);
        assert_eq!(faults(&history(1, never_acknowledged)), [caught]);
    }

    #[test]
    fn strange_deliveries_are_faults() {
        let what = "m9 was never sent".to_owned();
        let found = faults(&history(0, vec![Event::Strange(what.clone())]));
        assert_eq!(found, [Fault::Strange(what)]);
    }
}
