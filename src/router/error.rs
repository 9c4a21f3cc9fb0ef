//! Why the door refuses: one exhaustive list for every operation, with the stable code of each.
//!
//! Edges map these in one `match` each; nothing here knows HTTP, gRPC or any other protocol.

use std::time::Duration;

use thiserror::Error;

use super::port::StoreError;
use crate::frame::{Address, AgentId, Capability, EnvelopeError, GroupId, excerpt, record::Reason};

/// Whose fault an error is, which is also what decides an edge's status class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The caller's: the same request fails again.
    Caller,
    /// The load's: the same request may pass later.
    Load,
    /// The node's.
    Node,
}

/// Why an operation was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FabricError {
    /// A field of the request is wrong. `field` is a JSON pointer without its leading slash.
    #[error("`{field}` {detail}")]
    Invalid { field: String, detail: String },
    #[error("{0}")]
    Envelope(#[from] EnvelopeError),
    #[error("you are {principal}, so you cannot act as {claimed}; leave the sender out or use your own id")]
    NotYourself { principal: AgentId, claimed: AgentId },
    #[error("policy does not let {agent} {action}; ask an operator for the permission")]
    Denied { agent: AgentId, action: String },
    #[error("agent {0} is not registered; register it first")]
    UnknownAgent(AgentId),
    #[error("group {0} does not exist; create it first")]
    UnknownGroup(GroupId),
    #[error("no registered agent has the capability {0}")]
    UnknownCapability(Capability),
    #[error("no message {0} is known; its receipt may have aged out")]
    UnknownMessage(String),
    #[error("the session behind {0} is gone; replies reach it only while it lasts")]
    ReplyAddressGone(Address),
    #[error("group {0} exists already; change its members, or delete it first")]
    GroupExists(GroupId),
    #[error("the body has {bytes} bytes; at most {max} are allowed here")]
    BodyTooLarge { bytes: usize, max: usize },
    #[error("{what}: at most {max} are allowed; close or remove some first")]
    TooMany { what: &'static str, max: usize },
    #[error("{} holds all that it may ({bound}); retry once its receiver has caught up", excerpt(.address.as_str()))]
    QueueFull {
        address: Address,
        bound: &'static str,
        retry_after: Duration,
    },
    #[error("the node has more work waiting than it takes ({what}); retry shortly")]
    Overloaded { what: &'static str, retry_after: Duration },
    #[error("too many requests of this kind ({what}); slow down")]
    RateLimited { what: &'static str, retry_after: Duration },
    #[error("the message was rejected: {}", .reason.name())]
    Rejected { reason: Reason },
    #[error("nobody answered within {0:?}; the request itself was delivered or is still queued")]
    ReplyTimeout(Duration),
    /// It may or may not have happened (G2).
    #[error("it is not known whether this took effect ({what}); retry with the same message id")]
    OutcomeUnknown { what: String },
    #[error("the store takes no more messages ({what}); free space or raise its limit")]
    StoreFull { what: String },
    #[error("the store failed: {what}")]
    StoreFailed { what: String },
    #[error("another node owns this address now; retry")]
    NotOwner,
    #[error("the session is closed; attach again")]
    SessionClosed,
    #[error("this node is shutting down; connect to another or retry after its restart")]
    Draining,
}

/// An error's stable code and what a program needs to act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// Shown as `WEFT-NNNN`; never given a second meaning.
    pub number: u16,
    /// A short title that does not change with the occurrence.
    pub title: &'static str,
    pub fault: Fault,
    /// True where the very same request may succeed later.
    pub retryable: bool,
}

impl FabricError {
    /// The stable code.
    pub const fn code(&self) -> Code {
        let (number, title, fault, retryable) = match self {
            Self::Invalid { .. } => (1000, "Invalid request", Fault::Caller, false),
            Self::Envelope(_) => (1001, "Invalid message", Fault::Caller, false),
            Self::NotYourself { .. } => (1100, "Not your own identity", Fault::Caller, false),
            Self::Denied { .. } => (1101, "Permission denied", Fault::Caller, false),
            Self::UnknownAgent(_) => (1200, "Unknown agent", Fault::Caller, false),
            Self::UnknownGroup(_) => (1201, "Unknown group", Fault::Caller, false),
            Self::UnknownCapability(_) => (1202, "Unknown capability", Fault::Caller, false),
            Self::UnknownMessage(_) => (1203, "Unknown message", Fault::Caller, false),
            Self::ReplyAddressGone(_) => (1204, "Reply address gone", Fault::Caller, false),
            Self::GroupExists(_) => (1205, "Group exists", Fault::Caller, false),
            Self::BodyTooLarge { .. } => (1300, "Body too large", Fault::Caller, false),
            Self::TooMany { .. } => (1301, "Limit reached", Fault::Load, true),
            Self::QueueFull { .. } => (1302, "Mailbox full", Fault::Load, true),
            Self::Overloaded { .. } => (1303, "Node overloaded", Fault::Load, true),
            Self::RateLimited { .. } => (1304, "Rate limited", Fault::Load, true),
            Self::Rejected { .. } => (1400, "Message rejected", Fault::Caller, false),
            Self::ReplyTimeout(_) => (1401, "No reply in time", Fault::Load, true),
            Self::SessionClosed => (1402, "Session closed", Fault::Caller, true),
            Self::OutcomeUnknown { .. } => (1500, "Outcome unknown", Fault::Node, true),
            Self::StoreFull { .. } => (1501, "Store full", Fault::Node, true),
            Self::StoreFailed { .. } => (1502, "Store failed", Fault::Node, true),
            Self::NotOwner => (1503, "Shard moved", Fault::Node, true),
            Self::Draining => (1504, "Shutting down", Fault::Node, true),
        };
        Code {
            number,
            title,
            fault,
            retryable,
        }
    }

    /// How long to wait before a retry, where that is known.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::QueueFull { retry_after, .. }
            | Self::Overloaded { retry_after, .. }
            | Self::RateLimited { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// A wrong field, by its JSON pointer without the leading slash.
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            detail: detail.into(),
        }
    }
}

impl From<StoreError> for FabricError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Fenced { .. } => Self::NotOwner,
            StoreError::Full { what } => Self::StoreFull { what },
            StoreError::Unknown { what } => Self::OutcomeUnknown { what },
            StoreError::ReadOnly { what } | StoreError::Damaged { what } => Self::StoreFailed { what },
            StoreError::Closed => Self::Draining,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_repeats_no_more_than_the_beginning_of_a_long_topic() {
        let full = FabricError::QueueFull {
            address: format!("topic:{}", "ä".repeat(32_000)).parse().unwrap(),
            bound: "messages",
            retry_after: Duration::ZERO,
        };
        assert!(full.to_string().len() < 256);
    }
}
