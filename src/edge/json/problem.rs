//! Problem documents (RFC 9457): what every error looks like to a user, on HTTP and in WebSocket frames alike.

use std::{borrow::Cow, time::Duration};

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

use super::codes::{EdgeError, status_of};
use crate::{
    frame::EnvelopeError,
    router::error::{Code, FabricError},
};

/// Most wrong fields that one problem lists; further ones are left out.
pub const FIELD_ERRORS_MAX: usize = 32;

/// Where in a request something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A JSON pointer (RFC 6901) into the body; empty for the body as a whole.
    Pointer(String),
    /// A query parameter.
    Query(String),
    /// A part of the path.
    Path(String),
    /// A header.
    Header(String),
}

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub place: Place,
    pub detail: String,
}

impl FieldError {
    /// At a place of the body.
    pub fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            place: Place::Pointer(pointer.into()),
            detail: detail.into(),
        }
    }
}

impl Serialize for FieldError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match &self.place {
            Place::Pointer(pointer) => map.serialize_entry("pointer", pointer)?,
            Place::Query(name) => serialize_parameter(&mut map, "query", name)?,
            Place::Path(name) => serialize_parameter(&mut map, "path", name)?,
            Place::Header(name) => serialize_parameter(&mut map, "header", name)?,
        }
        map.serialize_entry("detail", &self.detail)?;
        map.end()
    }
}

fn serialize_parameter<M: SerializeMap>(map: &mut M, place: &str, name: &str) -> Result<(), M::Error> {
    map.serialize_entry("in", place)?;
    map.serialize_entry("parameter", name)
}

/// An error as its receiver reads it.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The stable code's number.
    pub number: u16,
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    pub detail: String,
    /// True where the very same request may succeed later.
    pub retryable: bool,
    pub retry_after: Option<Duration>,
    pub errors: Vec<FieldError>,
    /// Members of this problem alone, such as the current document of a version conflict.
    pub extensions: Vec<(&'static str, Box<RawValue>)>,
}

impl Problem {
    /// The document's media type.
    pub const MEDIA_TYPE: &'static str = "application/problem+json";

    fn of_code(code: Code, status: u16, detail: String) -> Self {
        Self {
            number: code.number,
            title: code.title,
            status,
            detail,
            retryable: code.retryable,
            retry_after: None,
            errors: Vec::new(),
            extensions: Vec::new(),
        }
    }

    /// A request whose fields are wrong; the first error becomes the detail.
    pub fn of_fields(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [] => String::from("the request is invalid"),
            [only] => describe(only).into_owned(),
            [first, rest @ ..] => format!("{} (and {} more)", describe(first), rest.len()),
        };
        let code = FabricError::invalid("", "").code();
        Self {
            errors,
            ..Self::of_code(code, 400, detail)
        }
    }

    /// Adds a member of this problem's own. `name` is none of the standard ones.
    #[must_use]
    pub fn with_extension(mut self, name: &'static str, value: Box<RawValue>) -> Self {
        self.extensions.push((name, value));
        self
    }

    /// The code as users quote it.
    pub fn code(&self) -> String {
        format!("WEFT-{}", self.number)
    }

    /// The document's text.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a problem has text keys only, and memory takes every write")
    }

    /// `Retry-After` in whole seconds, at least 1, where a retry makes sense and its time is known or the status asks for one.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);
        let wait = match self.status {
            429 | 503 => self.retry_after.unwrap_or(RETRY_AFTER_DEFAULT),
            _ => self.retry_after?,
        };
        Some(wait.as_millis().div_ceil(1000).clamp(1, 86_400) as u64)
    }
}

fn describe(error: &FieldError) -> Cow<'_, str> {
    match &error.place {
        Place::Pointer(pointer) if pointer.is_empty() => Cow::Borrowed(&error.detail),
        Place::Pointer(pointer) => Cow::Owned(format!("`{pointer}` {}", error.detail)),
        Place::Query(name) => Cow::Owned(format!("query parameter `{name}` {}", error.detail)),
        Place::Path(name) => Cow::Owned(format!("path parameter `{name}` {}", error.detail)),
        Place::Header(name) => Cow::Owned(format!("header `{name}` {}", error.detail)),
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let code = self.code();
        map.serialize_entry("type", &format!("/docs/errors#{code}"))?;
        map.serialize_entry("title", self.title)?;
        map.serialize_entry("status", &self.status)?;
        map.serialize_entry("detail", &self.detail)?;
        map.serialize_entry("code", &code)?;
        map.serialize_entry("retryable", &self.retryable)?;
        if let Some(seconds) = self.retry_after_seconds() {
            map.serialize_entry("retry_after", &seconds)?;
        }
        if !self.errors.is_empty() {
            map.serialize_entry("errors", &self.errors)?;
        }
        for (name, value) in &self.extensions {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl From<FabricError> for Problem {
    fn from(error: FabricError) -> Self {
        let mut problem = Self::of_code(error.code(), status_of(&error), error.to_string());
        problem.retry_after = error.retry_after();
        problem.errors = match error {
            FabricError::Invalid { field, detail } if !field.is_empty() => {
                vec![FieldError::at(format!("/{field}"), detail)]
            }
            FabricError::Envelope(error) => envelope_field(&error)
                .map(|pointer| FieldError::at(pointer, error.to_string()))
                .into_iter()
                .collect(),
            _ => Vec::new(),
        };
        problem
    }
}

/// The field of a send request that an envelope's error is about.
fn envelope_field(error: &EnvelopeError) -> Option<String> {
    match error {
        EnvelopeError::TooLarge { .. } | EnvelopeError::Archive(_) => None,
        EnvelopeError::MessageId(_) => Some("/message_id".into()),
        EnvelopeError::From(_) => Some("/from_agent".into()),
        EnvelopeError::To(_) => Some("/to_agent".into()),
        EnvelopeError::ReplyTo(_) => Some("/reply_to".into()),
        EnvelopeError::Priority(_) => Some("/priority".into()),
        EnvelopeError::Qos(_) => Some("/qos".into()),
        EnvelopeError::TooManyHeaders { .. }
        | EnvelopeError::HeadersTooLarge { .. }
        | EnvelopeError::HeaderName
        | EnvelopeError::ReservedHeader(_) => Some("/headers".into()),
        EnvelopeError::FieldTooLong { field, .. } => Some(match *field {
            "correlation" => "/headers/correlation_id".into(),
            "message_type" => "/headers/message_type".into(),
            other => format!("/{other}"),
        }),
    }
}

impl From<EdgeError> for Problem {
    fn from(error: EdgeError) -> Self {
        Self::of_code(error.code(), error.status(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(problem: &Problem) -> serde_json::Value {
        serde_json::from_slice(&problem.to_json()).unwrap()
    }

    #[test]
    fn a_problem_names_its_code_its_type_and_every_wrong_field() {
        let problem = Problem::of_fields(vec![
            FieldError::at("/qos", "is 3; it is 0, 1 or 2"),
            FieldError {
                place: Place::Query("wait".into()),
                detail: "is wrong".into(),
            },
        ]);
        assert_eq!(
            json(&problem),
            serde_json::json!({
                "type": "/docs/errors#WEFT-1000", "title": "Invalid request", "status": 400,
                "detail": "`/qos` is 3; it is 0, 1 or 2 (and 1 more)", "code": "WEFT-1000", "retryable": false,
                "errors": [{"pointer": "/qos", "detail": "is 3; it is 0, 1 or 2"},
                           {"in": "query", "parameter": "wait", "detail": "is wrong"}]
            })
        );
    }

    #[test]
    fn load_problems_say_when_to_retry() {
        let problem = Problem::from(FabricError::Overloaded {
            what: "x",
            retry_after: Duration::from_millis(1500),
        });
        assert_eq!((problem.status, problem.retry_after_seconds()), (429, Some(2)));
        assert_eq!(Problem::from(FabricError::Draining).retry_after_seconds(), Some(1));
        assert_eq!(
            Problem::from(FabricError::UnknownMessage("m".into())).retry_after_seconds(),
            None
        );
    }

    #[test]
    fn an_extension_stands_beside_the_standard_members() {
        let value = RawValue::from_string("{\"a\":1}".into()).unwrap();
        let problem = Problem::from(EdgeError::NoSuchPath).with_extension("current", value);
        assert_eq!(json(&problem)["current"]["a"], 1);
    }
}
