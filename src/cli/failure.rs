//! A client's error as a failure of a command: what, cause, fix, code, and the exit code that says whether to retry.

use crate::{
    client::{Error, Refused},
    node::failure::{Exit, Failure},
};

/// The failure that an error of the client makes. `what` says what did not happen.
pub(super) fn from_client(what: &str, error: Error) -> Failure {
    let (cause, advice) = split(&error);
    let fix = if advice.is_empty() {
        retry_advice(&error)
    } else {
        advice
    };
    Failure {
        what: what.into(),
        cause,
        fix,
        code: error.code().map(Into::into),
        exit: exit(&error),
    }
}

/// The fabric writes `cause; what to do`.
fn split(error: &Error) -> (String, String) {
    let text = error
        .refused()
        .map_or_else(|| error.to_string(), |refused| refused.detail.clone());
    match text.split_once("; ") {
        Some((cause, fix)) => (cause.into(), fix.into()),
        None => (text, String::new()),
    }
}

fn retry_advice(error: &Error) -> String {
    match (error.is_retryable(), error.retry_after()) {
        (true, Some(wait)) => format!("retry in {}", humantime::format_duration(wait)),
        (true, None) => "retry; a send keeps its message with --id".into(),
        (false, _) => String::new(),
    }
}

fn exit(error: &Error) -> Exit {
    match error {
        Error::Refused(refused) => exit_of_refusal(refused),
        Error::Url { .. } => Exit::Usage,
        Error::Connect { .. } => Exit::Unavailable,
        Error::Lost { .. } | Error::Timeout(_) | Error::Dropped | Error::Closed { .. } => Exit::TempFail,
        Error::Invalid(_) | Error::Stale => Exit::Data,
        Error::NothingToSettle | Error::Protocol(_) => Exit::Software,
    }
}

fn exit_of_refusal(refused: &Refused) -> Exit {
    match refused.grpc_status {
        "INVALID_ARGUMENT" | "OUT_OF_RANGE" | "FAILED_PRECONDITION" => Exit::Data,
        "NOT_FOUND" => Exit::NoInput,
        "ALREADY_EXISTS" => Exit::CantCreate,
        "PERMISSION_DENIED" | "UNAUTHENTICATED" => Exit::NoPerm,
        _ if refused.retryable => Exit::TempFail,
        _ => Exit::Software,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: &'static str, detail: &str, retryable: bool) -> Error {
        Error::Refused(Box::new(Refused {
            code: "WEFT-1200".into(),
            title: "Unknown agent".into(),
            detail: detail.into(),
            retryable,
            retry_after: None,
            fields: Vec::new(),
            grpc_status: status,
        }))
    }

    #[test]
    fn a_refusal_is_told_as_what_cause_fix_and_code() {
        let failure = from_client(
            "cannot send",
            refused("NOT_FOUND", "agent bob is not registered; register it first", false),
        );
        assert_eq!(failure.exit, Exit::NoInput);
        assert_eq!(
            failure.to_string(),
            "error: cannot send\n  cause: agent bob is not registered\n    fix: register it first\n   code: WEFT-1200"
        );
    }

    #[test]
    fn exit_codes_tell_a_retry_from_a_mistake() {
        assert_eq!(exit(&refused("RESOURCE_EXHAUSTED", "full", true)), Exit::TempFail);
        assert_eq!(exit(&refused("INVALID_ARGUMENT", "bad", false)), Exit::Data);
        assert_eq!(exit(&refused("PERMISSION_DENIED", "no", false)), Exit::NoPerm);
        assert_eq!(
            exit(&Error::Connect {
                url: "u".into(),
                cause: "c".into()
            }),
            Exit::Unavailable
        );
    }
}
