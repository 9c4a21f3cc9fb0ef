//! The door's errors and answers in the control stream's words.

use crate::{
    edge::code::{Code, field_of},
    frame::{Seq, record},
    native::control::{Accepted, PROTOCOLS, Problem, Receipt, SettleFailure, Status, Switch},
    router::{
        error::FabricError,
        surface::{AcceptedStatus, Answer, Settled},
    },
    time::Timestamp,
};

/// Longest detail of a problem, in bytes: so that the receipts of one frame stay far below its limit.
const DETAIL_BYTES_MAX: usize = 1024;

/// Why something was refused.
pub(super) fn problem(error: &FabricError) -> Problem {
    let known = error.code();
    let mut detail = error.to_string();
    let end = (0..=detail.len().min(DETAIL_BYTES_MAX))
        .rev()
        .find(|at| detail.is_char_boundary(*at));
    detail.truncate(end.unwrap_or_default());
    Problem {
        number: known.number,
        status: Code::of(error) as u8,
        retryable: Switch::of(known.retryable),
        retry_after_ms: error
            .retry_after()
            .map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1)),
        title: known.title.into(),
        detail,
        field: field_of(error).into(),
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
        assert_eq!((busy.status, busy.retry_after_ms), (Code::ResourceExhausted as u8, 250));
        let wrong = problem(&FabricError::invalid("to", "is empty"));
        assert_eq!(
            (wrong.status, wrong.field.as_str()),
            (Code::InvalidArgument as u8, "to")
        );
    }

    #[test]
    fn a_long_detail_is_cut() {
        let long = problem(&FabricError::invalid("to", "ä".repeat(4000)));
        assert!(long.detail.len() <= DETAIL_BYTES_MAX && long.detail.len() > DETAIL_BYTES_MAX - 2);
    }
}
