//! The door's errors in gRPC's words: a status with google.rpc details, or a problem inside a batch.
//!
//! Which code an error has is decided for all edges in [`edge::code`]. Start at [`status`].

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    edge::{self, code::field_of},
    frame::excerpt,
    router::error::FabricError,
    rpc::{ERROR_DOMAIN, convert::FieldError, v1},
};

/// Where every code is explained; relative to the node's HTTP listener.
const HELP_URL: &str = "/docs/errors";

/// What an error is about, beyond its code.
enum About {
    Nothing,
    /// A wrong field of the request.
    Field(String),
    /// Something that is not there, is there already or is full: its kind and its name.
    Resource(&'static str, String),
}

fn code(error: &FabricError) -> Code {
    Code::from_i32(edge::code::Code::of(error) as i32)
}

fn about(error: &FabricError) -> About {
    match error {
        FabricError::NotYourself { claimed, .. } => About::Resource("agent", claimed.to_string()),
        FabricError::Denied { agent, .. } | FabricError::UnknownAgent(agent) => {
            About::Resource("agent", agent.to_string())
        }
        FabricError::UnknownGroup(group) | FabricError::GroupExists(group) => {
            About::Resource("group", group.to_string())
        }
        FabricError::UnknownCapability(name) => About::Resource("capability", name.to_string()),
        FabricError::UnknownMessage(id) => About::Resource("message", id.clone()),
        FabricError::ReplyAddressGone(address) | FabricError::QueueFull { address, .. } => {
            About::Resource("address", excerpt(address.as_str()).to_owned())
        }
        error => match field_of(error) {
            "" => About::Nothing,
            field => About::Field(field.into()),
        },
    }
}

fn code_text(error: &FabricError) -> String {
    format!("WEFT-{:04}", error.code().number)
}

/// The end of a call.
pub fn status(error: FabricError) -> Status {
    let (code, about) = (code(&error), about(&error));
    let (known, detail) = (error.code(), error.to_string());
    let metadata = HashMap::from([
        ("title".to_owned(), known.title.to_owned()),
        ("retryable".to_owned(), known.retryable.to_string()),
    ]);
    let mut details = ErrorDetails::with_error_info(code_text(&error), ERROR_DOMAIN, metadata);
    match about {
        About::Nothing => {}
        About::Field(field) => {
            details.add_bad_request_violation(field, &detail);
        }
        About::Resource(kind, name) => {
            details.set_resource_info(kind, name, "", &detail);
        }
    }
    if let Some(wait) = error.retry_after() {
        details.set_retry_info(Some(wait));
    }
    details.add_help_link(known.title, format!("{HELP_URL}#{}", code_text(&error)));
    Status::with_error_details(code, detail, details)
}

/// The answer to one message among many.
pub fn problem(error: &FabricError) -> v1::Problem {
    let code = code(error);
    let known = error.code();
    v1::Problem {
        code: code_text(error),
        title: known.title.into(),
        detail: error.to_string(),
        retryable: known.retryable,
        retry_after_ms: error
            .retry_after()
            .map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1)),
        field: field_of(error).into(),
        grpc_code: u32::try_from(i32::from(code)).unwrap_or_default(),
    }
}

/// A wrong field, as the door would say it.
pub fn invalid(error: FieldError) -> FabricError {
    FabricError::invalid(error.field, error.detail)
}

/// Wrong use of a stream by itself: in the right form at the wrong time.
pub fn precondition(detail: &str) -> Status {
    let metadata = HashMap::from([
        ("title".to_owned(), "Wrong order".to_owned()),
        ("retryable".to_owned(), "false".to_owned()),
    ]);
    let details = ErrorDetails::with_error_info("WEFT-1000", ERROR_DOMAIN, metadata);
    Status::with_error_details(Code::FailedPrecondition, detail, details)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::frame::AgentId;

    #[test]
    fn a_status_says_code_resource_and_help() {
        let bob = AgentId::new("bob").unwrap();
        let status = status(FabricError::UnknownAgent(bob));
        assert_eq!(status.code(), Code::NotFound);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("WEFT-1200", "weft"));
        assert_eq!(info.metadata["retryable"], "false");
        let resource = status.get_details_resource_info().unwrap();
        assert_eq!(
            (resource.resource_type.as_str(), resource.resource_name.as_str()),
            ("agent", "bob")
        );
        assert_eq!(
            status.get_details_help().unwrap().links[0].url,
            "/docs/errors#WEFT-1200"
        );
    }

    #[test]
    fn load_says_when_to_retry_and_a_wrong_field_its_name() {
        let busy = FabricError::Overloaded {
            what: "frames",
            retry_after: Duration::from_millis(250),
        };
        assert_eq!(problem(&busy).retry_after_ms, 250);
        let busy = status(busy);
        assert_eq!(busy.code(), Code::ResourceExhausted);
        let wait = busy.get_details_retry_info().unwrap().retry_delay;
        assert_eq!(wait, Some(Duration::from_millis(250)));
        let wrong = status(FabricError::invalid("to", "is empty"));
        let violations = wrong.get_details_bad_request().unwrap().field_violations;
        assert_eq!(
            (wrong.code(), violations[0].field.as_str()),
            (Code::InvalidArgument, "to")
        );
    }

    #[test]
    fn an_unknown_outcome_is_never_called_a_refusal() {
        let unknown = FabricError::OutcomeUnknown { what: "fsync".into() };
        let problem = problem(&unknown);
        assert!(problem.retryable);
        assert_eq!(problem.grpc_code, Code::Unknown as u32);
    }
}
