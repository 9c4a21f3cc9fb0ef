//! The door's errors and answers in the control stream's words. A new error does not compile before it has its place here.

use crate::{
    frame::{EnvelopeError, Seq, record},
    native::control::{Accepted, PROTOCOLS, Problem, Receipt, SettleFailure, Status, Switch},
    router::{
        error::FabricError,
        surface::{AcceptedStatus, Answer, Settled},
    },
    time::Timestamp,
};

/// Longest detail of a problem, in bytes: so that the receipts of one frame stay far below its limit.
const DETAIL_BYTES_MAX: usize = 1024;

/// google.rpc.Code, by which every client library knows what to do about an error that it does not know.
mod code {
    pub const UNKNOWN: u8 = 2;
    pub const INVALID_ARGUMENT: u8 = 3;
    pub const DEADLINE_EXCEEDED: u8 = 4;
    pub const NOT_FOUND: u8 = 5;
    pub const ALREADY_EXISTS: u8 = 6;
    pub const PERMISSION_DENIED: u8 = 7;
    pub const RESOURCE_EXHAUSTED: u8 = 8;
    pub const FAILED_PRECONDITION: u8 = 9;
    pub const ABORTED: u8 = 10;
    pub const UNAVAILABLE: u8 = 14;
}

/// The status and the wrong field, where it is one.
fn place(error: &FabricError) -> (u8, &str) {
    match error {
        FabricError::Invalid { field, .. } => (code::INVALID_ARGUMENT, field),
        FabricError::Envelope(envelope) => (code::INVALID_ARGUMENT, envelope_field(envelope)),
        FabricError::NotYourself { .. } | FabricError::Denied { .. } => (code::PERMISSION_DENIED, ""),
        FabricError::UnknownAgent(_)
        | FabricError::UnknownGroup(_)
        | FabricError::UnknownCapability(_)
        | FabricError::UnknownMessage(_)
        | FabricError::ReplyAddressGone(_) => (code::NOT_FOUND, ""),
        FabricError::GroupExists(_) => (code::ALREADY_EXISTS, ""),
        FabricError::BodyTooLarge { .. } => (code::RESOURCE_EXHAUSTED, "body"),
        FabricError::TooMany { .. }
        | FabricError::Overloaded { .. }
        | FabricError::RateLimited { .. }
        | FabricError::QueueFull { .. }
        | FabricError::StoreFull { .. } => (code::RESOURCE_EXHAUSTED, ""),
        FabricError::Rejected { .. } => (code::FAILED_PRECONDITION, ""),
        FabricError::ReplyTimeout(_) => (code::DEADLINE_EXCEEDED, ""),
        FabricError::SessionClosed => (code::ABORTED, ""),
        // Not UNAVAILABLE: that is retried blindly, which is right only under the same id.
        FabricError::OutcomeUnknown { .. } => (code::UNKNOWN, ""),
        FabricError::StoreFailed { .. } | FabricError::NotOwner | FabricError::Draining => (code::UNAVAILABLE, ""),
    }
}

const fn envelope_field(error: &EnvelopeError) -> &'static str {
    match error {
        EnvelopeError::TooLarge { .. } | EnvelopeError::Archive(_) => "message",
        EnvelopeError::MessageId(_) => "id",
        EnvelopeError::From(_) => "from",
        EnvelopeError::To(_) => "to",
        EnvelopeError::ReplyTo(_) => "reply_to",
        EnvelopeError::Priority(_) => "priority",
        EnvelopeError::Qos(_) => "qos",
        EnvelopeError::TooManyHeaders { .. }
        | EnvelopeError::HeadersTooLarge { .. }
        | EnvelopeError::HeaderName
        | EnvelopeError::ReservedHeader(_) => "headers",
        EnvelopeError::FieldTooLong { field, .. } => field,
    }
}

/// Why something was refused.
pub(super) fn problem(error: &FabricError) -> Problem {
    let (known, (status, field)) = (error.code(), place(error));
    let mut detail = error.to_string();
    let end = (0..=detail.len().min(DETAIL_BYTES_MAX))
        .rev()
        .find(|at| detail.is_char_boundary(*at));
    detail.truncate(end.unwrap_or_default());
    Problem {
        number: known.number,
        status,
        retryable: Switch::of(known.retryable),
        retry_after_ms: error
            .retry_after()
            .map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1)),
        title: known.title.into(),
        detail,
        field: field.into(),
    }
}

/// The answer to a message.
pub(super) fn receipt((tag, outcome): Answer) -> (u64, Receipt) {
    let receipt = match outcome {
        Err(error) => Receipt::Refused(problem(&error)),
        Ok(accepted) => Receipt::Accepted(Accepted {
            status: match accepted.status {
                AcceptedStatus::Dropped => Status::Dropped,
                AcceptedStatus::Is(record::Status::Queued) => Status::Queued,
                AcceptedStatus::Is(record::Status::Sent) => Status::Sent,
                AcceptedStatus::Is(record::Status::Delivered) => Status::Delivered,
                AcceptedStatus::Is(record::Status::Expired) => Status::Expired,
                AcceptedStatus::Is(record::Status::DeadLettered) => Status::DeadLettered,
                AcceptedStatus::Is(record::Status::Rejected) => Status::Rejected,
            },
            duplicate: Switch::of(accepted.duplicate),
            shard: accepted.shard,
            seq: accepted.tracking.map_or(Seq::ZERO, |tracking| tracking.seq),
            recipients: accepted.recipients,
            protocol: accepted.protocol.map_or(0, |protocol| number_of(protocol.name())),
            estimated_delivery_at_ms: accepted.estimated_delivery.map_or(0, Timestamp::as_millis),
        }),
    };
    (tag, receipt)
}

fn number_of(protocol: &str) -> u8 {
    let at = PROTOCOLS.iter().position(|known| *known == protocol);
    at.and_then(|at| u8::try_from(at + 1).ok()).unwrap_or(0)
}

/// What did not settle.
pub(super) fn failures(outcomes: Vec<Settled>) -> Vec<SettleFailure> {
    let failure = |(index, outcome)| {
        let problem = match outcome {
            Settled::Done => return None,
            Settled::Stale => None,
            Settled::Failed(error) => Some(problem(&error)),
        };
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        Some(SettleFailure { index, problem })
    };
    outcomes.into_iter().enumerate().filter_map(failure).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::router::surface::Protocol;

    #[test]
    fn every_protocol_has_a_number() {
        for protocol in Protocol::ALL {
            assert!(number_of(protocol.name()) > 0, "{protocol}");
        }
    }

    #[test]
    fn load_says_when_to_retry_and_a_wrong_field_its_name() {
        let busy = problem(&FabricError::Overloaded {
            what: "frames",
            retry_after: Duration::from_millis(250),
        });
        assert_eq!((busy.status, busy.retry_after_ms), (code::RESOURCE_EXHAUSTED, 250));
        let wrong = problem(&FabricError::invalid("to", "is empty"));
        assert_eq!((wrong.status, wrong.field.as_str()), (code::INVALID_ARGUMENT, "to"));
    }

    #[test]
    fn a_long_detail_is_cut() {
        let long = problem(&FabricError::invalid("to", "ä".repeat(4000)));
        assert!(long.detail.len() <= DETAIL_BYTES_MAX && long.detail.len() > DETAIL_BYTES_MAX - 2);
    }
}
