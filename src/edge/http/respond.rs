//! Answers: problems and JSON as HTTP responses.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Serialize;

use crate::edge::json::Problem;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static(Problem::MEDIA_TYPE);
/// Answers are about now: no cache keeps them.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// What a handler gives: an answer, or a problem.
pub type Answer = Result<Response, Problem>;

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = with_body(status, PROBLEM, self.to_json().into());
        if let Some(seconds) = self.retry_after_seconds() {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// A JSON answer.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let text = serde_json::to_vec(value).expect("answers have text keys only, and memory takes every write");
    json_text(status, text.into())
}

/// A JSON answer whose text is written already.
pub fn json_text(status: StatusCode, text: Bytes) -> Response {
    with_body(status, JSON, text.into())
}

/// An answer with a body of the given type.
pub fn with_body(status: StatusCode, media_type: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
    response
}

/// The answer with `Location`: where what it is about is shown.
pub fn located(mut answer: Response, path: &str) -> Response {
    let location = HeaderValue::from_str(path).expect("ids and tokens are visible ASCII");
    answer.headers_mut().insert(header::LOCATION, location);
    answer
}

/// An id as one segment of a path.
pub fn segment(id: &str) -> String {
    id.replace('/', "%2F")
}

/// An answer without a body.
pub fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}
