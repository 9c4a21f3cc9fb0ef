//! What can go wrong for a client, and what a program may do about it.

use std::time::Duration;

use serde::Serialize;
use thiserror::Error;
use tonic_types::StatusExt;

use crate::rpc::{ERROR_DOMAIN, convert::FieldError, v1};

/// Why an operation failed. [`Error::is_retryable`] says whether the very same one may succeed later.
#[derive(Clone, Debug, Error)]
pub enum Error {
    /// The fabric refused, or could not.
    #[error("{0}")]
    Refused(Box<Refused>),
    /// The URL is not one that this client can use.
    #[error("`{url}` {detail}")]
    Url { url: String, detail: String },
    #[error("no connection to {url}: {cause}; check that the server runs there and that the scheme is right")]
    Connect { url: String, cause: String },
    /// The call broke off. Where it was a send, it is not known whether it took effect: retry with the same message id.
    #[error("the connection was lost: {cause}; it is not known whether this took effect")]
    Lost { cause: String },
    /// A message or an option is not what it should be; nothing was sent.
    #[error("{0}")]
    Invalid(#[from] FieldError),
    /// Nobody answered in time.
    #[error("no answer within {0:?}; the message itself was delivered or is still queued")]
    Timeout(Duration),
    /// QoS 0 only: the connection was lost before the message was written.
    #[error("the message was dropped: the connection was lost before it was written, and QoS 0 is never resent")]
    Dropped,
    /// The delivery was handed out again or settled meanwhile: nothing changed.
    #[error("the delivery id is stale: the message was handed out again or settled meanwhile; drop this copy")]
    Stale,
    /// QoS 0: there is nothing to settle.
    #[error("the delivery has no id, as it needs no acknowledgement (QoS 0)")]
    NothingToSettle,
    #[error("the session is closed ({reason}); open another")]
    Closed { reason: String },
    /// The server said something that this client does not understand.
    #[error("the server's answer makes no sense: {0}; the versions may not fit")]
    Protocol(String),
}

/// The fabric's own account of an error.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize)]
#[error("{detail}{}", if code.is_empty() { String::new() } else { format!(" [{code}]") })]
pub struct Refused {
    /// Stable: `WEFT-NNNN`. Empty where something between the client and the fabric refused.
    pub code: String,
    /// Short, does not change with the occurrence.
    pub title: String,
    /// What happened and what to do.
    pub detail: String,
    /// The very same request may succeed later.
    pub retryable: bool,
    /// How long to wait before that, where the fabric knows.
    pub retry_after: Option<Duration>,
    /// Wrong fields, with what is wrong about each.
    pub fields: Vec<(String, String)>,
    /// gRPC's name of the status, such as `NOT_FOUND`.
    pub grpc_status: &'static str,
}

impl Error {
    /// The stable code, `WEFT-NNNN`, where the fabric itself answered.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(refused) if !refused.code.is_empty() => Some(&refused.code),
            _ => None,
        }
    }

    /// True where the very same operation may succeed later. A send is retried with the same message id.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(refused) => refused.retryable,
            Self::Connect { .. } | Self::Lost { .. } | Self::Timeout(_) | Self::Dropped => true,
            Self::Url { .. }
            | Self::Invalid(_)
            | Self::Stale
            | Self::NothingToSettle
            | Self::Closed { .. }
            | Self::Protocol(_) => false,
        }
    }

    /// How long to wait before a retry, where the fabric knows.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refused) => refused.retry_after,
            _ => None,
        }
    }

    /// The fabric's own account, where it gave one.
    pub fn refused(&self) -> Option<&Refused> {
        match self {
            Self::Refused(refused) => Some(refused),
            _ => None,
        }
    }

    pub(super) fn closed(reason: impl Into<String>) -> Self {
        Self::Closed { reason: reason.into() }
    }

    pub(super) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol(what.into())
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        let info = status
            .get_details_error_info()
            .filter(|info| info.domain == ERROR_DOMAIN);
        if info.is_none() && is_transport(&status) {
            return Self::Lost {
                cause: root_cause(&status),
            };
        }
        let (code, title, retryable) = match info {
            Some(info) => {
                let entry = |key: &str| info.metadata.get(key).cloned().unwrap_or_default();
                (info.reason, entry("title"), entry("retryable") == "true")
            }
            None => (String::new(), String::new(), is_retryable_code(status.code())),
        };
        let violations = status.get_details_bad_request().map(|bad| bad.field_violations);
        Self::Refused(Box::new(Refused {
            code,
            title,
            detail: status.message().to_owned(),
            retryable,
            retry_after: status.get_details_retry_info().and_then(|info| info.retry_delay),
            fields: violations
                .unwrap_or_default()
                .into_iter()
                .map(|violation| (violation.field, violation.description))
                .collect(),
            grpc_status: status_name(status.code()),
        }))
    }
}

impl From<v1::Problem> for Error {
    fn from(problem: v1::Problem) -> Self {
        let code = i32::try_from(problem.grpc_code).map_or(tonic::Code::Unknown, tonic::Code::from_i32);
        Self::Refused(Box::new(Refused {
            fields: match problem.field.as_str() {
                "" => Vec::new(),
                _ => vec![(problem.field, problem.detail.clone())],
            },
            code: problem.code,
            title: problem.title,
            detail: problem.detail,
            retryable: problem.retryable,
            retry_after: (problem.retry_after_ms > 0).then(|| Duration::from_millis(problem.retry_after_ms)),
            grpc_status: status_name(code),
        }))
    }
}

/// Made on this side: no server sets a source, and tonic gives a broken connection one of these codes.
fn is_transport(status: &tonic::Status) -> bool {
    use tonic::Code::{Cancelled, Internal, Unavailable, Unknown};
    std::error::Error::source(status).is_some() && matches!(status.code(), Unavailable | Unknown | Internal | Cancelled)
}

fn root_cause(status: &tonic::Status) -> String {
    let mut error: &dyn std::error::Error = status;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

const fn is_retryable_code(code: tonic::Code) -> bool {
    use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, ResourceExhausted, Unavailable};
    matches!(
        code,
        Unavailable | ResourceExhausted | DeadlineExceeded | Aborted | Cancelled
    )
}

const fn status_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
