//! What a node would have answered to a message that this side refuses already.

use crate::{
    frame::EnvelopeError,
    rpc::{
        convert::{FieldError, IncomingError},
        v1,
    },
};

/// Why a message cannot be sent, as the node would have said.
pub(super) fn wrong(error: IncomingError) -> v1::Problem {
    match error {
        IncomingError::Field(error) => wrong_field(error),
        IncomingError::Envelope(error) => wrong_envelope(&error),
        IncomingError::Malformed(_) => wrong_field(FieldError::new("message", error)),
        IncomingError::BodyTooLarge { .. } => wrong_body(&error),
    }
}

/// [`wrong`] for one field.
pub(super) fn wrong_field(error: FieldError) -> v1::Problem {
    v1::Problem {
        field: error.field.into(),
        ..problem(
            "WEFT-1000",
            "Invalid request",
            error.to_string(),
            tonic::Code::InvalidArgument,
        )
    }
}

fn wrong_envelope(error: &EnvelopeError) -> v1::Problem {
    v1::Problem {
        field: "headers".into(),
        ..problem(
            "WEFT-1001",
            "Invalid message",
            error.to_string(),
            tonic::Code::InvalidArgument,
        )
    }
}

fn wrong_body(error: &IncomingError) -> v1::Problem {
    v1::Problem {
        field: "body".into(),
        ..problem(
            "WEFT-1300",
            "Body too large",
            error.to_string(),
            tonic::Code::ResourceExhausted,
        )
    }
}

fn problem(code: &str, title: &str, detail: String, status: tonic::Code) -> v1::Problem {
    v1::Problem {
        code: code.into(),
        title: title.into(),
        detail,
        grpc_code: u32::try_from(i32::from(status)).unwrap_or_default(),
        ..Default::default()
    }
}
