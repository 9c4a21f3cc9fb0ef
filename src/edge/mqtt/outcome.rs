//! What the fabric's answers are in MQTT: reasons of PUBACK, SUBACK and CONNACK.

use crate::{
    mqtt::{Goodbye, Outcome, Reason},
    router::{
        error::FabricError,
        surface::{self, Accepted},
    },
};

/// What became of a message that was published.
pub(super) fn outcome(answer: &Result<Accepted, FabricError>) -> Outcome {
    match answer {
        Ok(accepted) => Outcome::Accepted {
            recipients: accepted.recipients,
        },
        Err(FabricError::Denied { .. } | FabricError::NotYourself { .. }) => Outcome::Denied,
        Err(
            error @ (FabricError::OutcomeUnknown { .. }
            | FabricError::StoreFailed { .. }
            | FabricError::NotOwner
            | FabricError::SessionClosed
            | FabricError::ReplyTimeout(_)
            | FabricError::Draining),
        ) => Outcome::Unknown(reason(error)),
        Err(error) => Outcome::Refused(reason(error)),
    }
}

/// Why something is refused.
pub(super) const fn reason(error: &FabricError) -> Reason {
    match error {
        FabricError::Invalid { .. }
        | FabricError::UnknownAgent(_)
        | FabricError::UnknownGroup(_)
        | FabricError::UnknownCapability(_)
        | FabricError::ReplyAddressGone(_) => Reason::TOPIC_NAME_INVALID,
        FabricError::NotYourself { .. } | FabricError::Denied { .. } => Reason::NOT_AUTHORIZED,
        FabricError::BodyTooLarge { .. } => Reason::PACKET_TOO_LARGE,
        FabricError::TooMany { .. }
        | FabricError::QueueFull { .. }
        | FabricError::Overloaded { .. }
        | FabricError::RateLimited { .. }
        | FabricError::StoreFull { .. } => Reason::QUOTA_EXCEEDED,
        FabricError::Draining => Reason::SERVER_SHUTTING_DOWN,
        FabricError::Envelope(_) | FabricError::Rejected { .. } | FabricError::GroupExists(_) => {
            Reason::IMPLEMENTATION_SPECIFIC
        }
        FabricError::UnknownMessage(_)
        | FabricError::ReplyTimeout(_)
        | FabricError::OutcomeUnknown { .. }
        | FabricError::StoreFailed { .. }
        | FabricError::NotOwner
        | FabricError::SessionClosed => Reason::UNSPECIFIED,
    }
}

/// Why a client is not let in.
pub(super) const fn refusal(error: &FabricError) -> Reason {
    match error {
        FabricError::Invalid { .. } => Reason::CLIENT_ID_NOT_VALID,
        FabricError::UnknownAgent(_) | FabricError::NotYourself { .. } | FabricError::Denied { .. } => {
            Reason::NOT_AUTHORIZED
        }
        FabricError::TooMany { .. } | FabricError::Overloaded { .. } | FabricError::RateLimited { .. } => {
            Reason::SERVER_BUSY
        }
        FabricError::Draining => Reason::SERVER_SHUTTING_DOWN,
        _ => Reason::SERVER_UNAVAILABLE,
    }
}

/// Why the fabric ends a session.
pub(super) const fn goodbye(goodbye: surface::Goodbye) -> Goodbye {
    match goodbye {
        surface::Goodbye::Draining => Goodbye::Draining,
        surface::Goodbye::AgentRemoved => Goodbye::AgentRemoved,
        surface::Goodbye::Kicked => Goodbye::Kicked,
        surface::Goodbye::SlowConsumer => Goodbye::SlowConsumer,
        surface::Goodbye::TakenOver => Goodbye::TakenOver,
    }
}
