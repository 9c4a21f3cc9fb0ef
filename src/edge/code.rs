//! The door's errors as google.rpc codes, by which every client library knows what to do about an error that it does not know.
//!
//! Owns the one decision for the edges that speak in these codes (gRPC, QUIC). Start at [`Code::of`].

use crate::router::error::FabricError;

/// google.rpc.Code, as far as the fabric's errors need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    Unavailable = 14,
}

impl Code {
    /// A new error does not compile before it has its place here.
    pub const fn of(error: &FabricError) -> Self {
        match error {
            FabricError::Invalid { .. } | FabricError::Envelope(_) => Self::InvalidArgument,
            FabricError::NotYourself { .. } | FabricError::Denied { .. } => Self::PermissionDenied,
            FabricError::UnknownAgent(_)
            | FabricError::UnknownGroup(_)
            | FabricError::UnknownCapability(_)
            | FabricError::UnknownMessage(_)
            | FabricError::ReplyAddressGone(_) => Self::NotFound,
            FabricError::GroupExists(_) => Self::AlreadyExists,
            // A body that is too large: gRPC's own answer to such an item.
            FabricError::BodyTooLarge { .. }
            | FabricError::TooMany { .. }
            | FabricError::Overloaded { .. }
            | FabricError::RateLimited { .. }
            | FabricError::QueueFull { .. }
            | FabricError::StoreFull { .. } => Self::ResourceExhausted,
            FabricError::Rejected { .. } => Self::FailedPrecondition,
            FabricError::ReplyTimeout(_) => Self::DeadlineExceeded,
            FabricError::SessionClosed => Self::Aborted,
            // Not UNAVAILABLE: generic clients retry that by themselves, which is right only with an id of the caller's own.
            FabricError::OutcomeUnknown { .. } => Self::Unknown,
            FabricError::StoreFailed { .. } | FabricError::NotOwner | FabricError::Draining => Self::Unavailable,
        }
    }
}

/// The wrong field, where the error is about one; else empty.
pub fn field_of(error: &FabricError) -> &str {
    match error {
        FabricError::Invalid { field, .. } => field,
        FabricError::Envelope(envelope) => envelope.field(),
        FabricError::BodyTooLarge { .. } => "body",
        _ => "",
    }
}
