//! What a session tells its client: one JSON object per text frame, told apart by `op`.
//!
//! Each function appends one object. Knows no socket. Start at [`message`].

use serde::Serialize;

use super::operation::Reference;
use crate::{
    edge::json::{Problem, Receipt, delivered_message_into},
    router::surface::{Delivery, DeliveryId, Settled},
};

/// The first event of a session.
#[derive(Debug, Serialize)]
pub(super) struct Welcome<'a> {
    pub agent_id: &'a str,
    pub node: &'a str,
    /// Seconds between pings.
    pub heartbeat_interval: f64,
    /// Messages that the session may have in flight.
    pub credit: u32,
    pub limits: Limits,
    /// `reply_to` for answers that shall reach this session and no other of the agent.
    pub reply_address: &'a str,
}

/// What a session may do at most.
#[derive(Debug, Serialize)]
pub(super) struct Limits {
    /// A message's body, in bytes.
    pub max_message_size: usize,
    /// One operation's text, in bytes.
    pub max_operation_size: usize,
    /// What may be in flight, in bytes.
    pub max_bytes_in_flight: u64,
    /// Sends that may wait for their answer; above it the node stops reading.
    pub max_unanswered_sends: usize,
}

/// The last event of a session.
#[derive(Debug, Serialize)]
pub(super) struct Farewell {
    pub reason: &'static str,
    /// What to do about it, where the reason alone does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'static str>,
    /// Seconds to wait before coming back; null: do not, until something has changed.
    pub reconnect_after: Option<u64>,
}

#[derive(Serialize)]
struct SettledOne<'a> {
    delivery_id: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a Problem>,
}

#[derive(Serialize)]
struct SettledAll<'a> {
    results: Vec<SettledOne<'a>>,
}

#[derive(Serialize)]
struct Empty {}

pub(super) fn welcome(welcome: &Welcome<'_>, into: &mut Vec<u8>) {
    append("welcome", None, into, |into| json(welcome, into));
}

pub(super) fn goodbye(farewell: &Farewell, into: &mut Vec<u8>) {
    append("goodbye", None, into, |into| json(farewell, into));
}

pub(super) fn message(delivery: &Delivery, into: &mut Vec<u8>) {
    append("message", None, into, |into| delivered_message_into(delivery, into));
}

/// The answer to a send.
pub(super) fn receipt(reference: Option<&Reference>, receipt: &Receipt, into: &mut Vec<u8>) {
    append("receipt", reference, into, |into| json(receipt, into));
}

/// The answer to an operation that has nothing more to say.
pub(super) fn done(reference: &Reference, into: &mut Vec<u8>) {
    append("receipt", Some(reference), into, |into| json(&Empty {}, into));
}

/// The answer to an acknowledgement or refusal: what became of each delivery id, in the order given.
pub(super) fn settled(
    reference: &Reference,
    ids: &[DeliveryId],
    settled: &[Settled],
    done: &'static str,
    into: &mut Vec<u8>,
) {
    let problems: Vec<Option<Problem>> = settled
        .iter()
        .map(|settled| match settled {
            Settled::Failed(error) => Some(error.clone().into()),
            Settled::Done | Settled::Stale => None,
        })
        .collect();
    let results = ids.iter().zip(settled).zip(&problems);
    let results = results.map(|((id, settled), problem)| SettledOne {
        delivery_id: id.to_string(),
        status: match settled {
            Settled::Done => done,
            Settled::Stale => "stale",
            Settled::Failed(_) => "failed",
        },
        problem: problem.as_ref(),
    });
    let all = SettledAll {
        results: results.collect(),
    };
    append("receipt", Some(reference), into, |into| json(&all, into));
}

pub(super) fn error(reference: Option<&Reference>, problem: &Problem, into: &mut Vec<u8>) {
    append("error", reference, into, |into| json(problem, into));
}

fn json(value: &impl Serialize, into: &mut Vec<u8>) {
    serde_json::to_writer(into, value).expect("events have text keys only, and memory takes every write");
}

/// Appends an object that `fields` writes, with `op` and `ref` in front of its fields.
fn append(op: &str, reference: Option<&Reference>, into: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>)) {
    into.extend_from_slice(br#"{"op":""#);
    into.extend_from_slice(op.as_bytes());
    into.push(b'"');
    if let Some(reference) = reference {
        into.extend_from_slice(br#","ref":"#);
        json(reference, into);
    }
    let at = into.len();
    fields(into);
    match into.get_mut(at..) {
        Some([b'{', b'}']) => drop(into.remove(at)),
        Some([brace @ b'{', ..]) => *brace = b',',
        _ => unreachable!("every event's fields are an object"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::router::error::FabricError;

    fn value(write: impl FnOnce(&mut Vec<u8>)) -> Value {
        let mut text = Vec::new();
        write(&mut text);
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn every_event_is_one_object_that_says_what_it_is() {
        let reference: Reference = "a\"b".into();
        assert_eq!(
            value(|into| done(&reference, into)),
            json!({"op": "receipt", "ref": "a\"b"})
        );
        let farewell = Farewell {
            reason: "draining",
            detail: None,
            reconnect_after: Some(3),
        };
        assert_eq!(
            value(|into| goodbye(&farewell, into)),
            json!({"op": "goodbye", "reason": "draining", "reconnect_after": 3})
        );
        let problem = FabricError::Draining.into();
        let shown = value(|into| error(Some(&reference), &problem, into));
        assert_eq!(
            (&shown["op"], &shown["ref"], &shown["code"]),
            (&json!("error"), &json!("a\"b"), &json!("WEFT-1504"))
        );
    }

    #[test]
    fn a_settle_is_reported_per_delivery_id() {
        let ids: Vec<DeliveryId> = ["d_001-2-3", "d_001-2-4", "d_001-2-5"]
            .map(|text| text.parse().unwrap())
            .into();
        let outcomes = [Settled::Done, Settled::Stale, Settled::Failed(FabricError::NotOwner)];
        let shown = value(|into| settled(&"7".into(), &ids, &outcomes, "acknowledged", into));
        let statuses: Vec<_> = shown["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["status"])
            .collect();
        assert_eq!(statuses, ["acknowledged", "stale", "failed"]);
        assert_eq!(
            shown["results"][0],
            json!({"delivery_id": "d_001-2-3", "status": "acknowledged"})
        );
        assert_eq!(shown["results"][2]["problem"]["retryable"], true);
    }
}
