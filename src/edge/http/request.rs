//! What handlers take out of a request: who asks, the parameters of its path and query, and its JSON body within every bound.
//!
//! Who asks is settled first, before a byte of the body is read or inflated. Start at [`Caller`] and [`JsonBody`].

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::App;
use crate::{
    edge::{
        auth::proven_agent,
        json::{self, EdgeError, Errors, FieldError, Place, Problem},
    },
    frame::{AgentId, MessageId, TraceContext, limits::TOPIC_BYTES_MAX},
    router::{error::FabricError, surface::Principal},
};

/// The unit in which the memory of request bodies is counted, in bytes.
const MEMORY_UNIT: usize = 1024;
/// Room for what stands beside a message's body in a send request, in bytes: 16 KiB of headers, escaped at worst sixfold, and two topics
/// whose every character is escaped by a backslash.
const ENVELOPE_JSON_BYTES: usize = 128 * 1024 + 4 * TOPIC_BYTES_MAX;

/// Who asks, as proven.
#[derive(Clone, Debug)]
pub struct Caller {
    pub principal: Principal,
    pub trace: TraceContext,
}

impl Caller {
    /// The proven agent, where there is one.
    pub fn agent(&self) -> Option<&AgentId> {
        proven_agent(&self.principal)
    }
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let traceparent = parts.headers.get("traceparent").and_then(|value| value.to_str().ok());
        Ok(Self {
            principal: app.authenticator.principal(parts)?,
            trace: traceparent.and_then(TraceContext::from_traceparent).unwrap_or_default(),
        })
    }
}

/// `Idempotency-Key`: the message id where the body names none.
#[derive(Clone, Debug)]
pub struct IdempotencyKey(pub Option<MessageId>);

impl FromRequestParts<Arc<App>> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _app: &Arc<App>) -> Result<Self, Problem> {
        header_value(&parts.headers, "idempotency-key").map(Self)
    }
}

/// `Last-Event-ID` and its kind: a header with a grammar of its own, once at most.
pub fn header_value<T: FromStr<Err: fmt::Display>>(
    headers: &HeaderMap,
    name: &'static str,
) -> Result<Option<T>, Problem> {
    let mut values = headers.get_all(name).iter();
    let wrong = |detail: String| {
        Problem::of_fields(vec![FieldError {
            place: Place::Header(name.into()),
            detail,
        }])
    };
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(wrong("stands twice".into())),
        (Some(value), None) => {
            let text = value.to_str().map_err(|_| wrong("is not ASCII text".into()))?;
            text.parse().map(Some).map_err(|error: T::Err| wrong(error.to_string()))
        }
    }
}

/// The parameters of a path, decoded (`%2F` is a slash inside an id).
#[derive(Debug)]
pub struct PathIds(Vec<(String, String)>);

impl FromRequestParts<Arc<App>> for PathIds {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        match Path::<Vec<(String, String)>>::from_request_parts(parts, app).await {
            Ok(Path(ids)) => Ok(Self(ids)),
            Err(_) => Err(wrong_path("id", "is not percent-encoded UTF-8")),
        }
    }
}

impl PathIds {
    /// The parameter of that name, which the route declares.
    pub fn get<T: FromStr<Err: fmt::Display>>(&self, name: &'static str) -> Result<T, Problem> {
        let text = self
            .0
            .iter()
            .find(|(given, _)| given == name)
            .map(|(_, text)| text.as_str());
        text.unwrap_or_default()
            .parse()
            .map_err(|error: T::Err| wrong_path(name, &error.to_string()))
    }
}

fn wrong_path(name: &str, detail: &str) -> Problem {
    Problem::of_fields(vec![FieldError {
        place: Place::Path(name.into()),
        detail: detail.into(),
    }])
}

/// The parameters of a query, taken one by one; what is left is unknown, and an error.
#[derive(Debug)]
pub struct Params {
    pairs: Vec<(String, String)>,
    errors: Errors,
}

impl FromRequestParts<Arc<App>> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        if !parts.uri.query().is_none_or(is_percent_encoded_utf8) {
            return Err(FabricError::invalid("", "the query is not percent-encoded UTF-8").into());
        }
        match Query::<Vec<(String, String)>>::from_request_parts(parts, app).await {
            Ok(Query(pairs)) => Ok(Self {
                pairs,
                errors: Errors::default(),
            }),
            Err(error) => Err(Problem::from(FabricError::invalid("", error.body_text()))),
        }
    }
}

/// The form decoder replaces what it cannot decode, and another value than the sent one would be looked for.
fn is_percent_encoded_utf8(query: &str) -> bool {
    let mut decoded = Vec::with_capacity(query.len());
    let mut rest = query.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digits = [rest.next(), rest.next()].map(|digit| digit.and_then(|digit| char::from(digit).to_digit(16)));
        match digits {
            [Some(high), Some(low)] => decoded.push((high * 16 + low) as u8),
            _ => return false,
        }
    }
    std::str::from_utf8(&decoded).is_ok()
}

impl Params {
    /// The parameter of that name, where it is given.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(given, _)| given == name)?;
        let (_, value) = self.pairs.remove(at);
        if self.pairs.iter().any(|(given, _)| given == name) {
            self.pairs.retain(|(given, _)| given != name);
            self.wrong(name, "stands twice");
        }
        Some(value)
    }

    /// A parameter with a grammar of its own.
    pub fn parsed<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Option<T> {
        let text = self.text(name)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(name, &error.to_string());
                None
            }
        }
    }

    /// A whole number within bounds, or its default.
    pub fn count(&mut self, name: &str, default: usize, max: usize) -> usize {
        let Some(text) = self.text(name) else { return default };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && (1..=max).contains(&number) => number,
            _ => {
                self.wrong(name, &format!("must be a whole number from 1 to {max}"));
                default
            }
        }
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &str) -> Option<bool> {
        match self.text(name)?.as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => {
                self.wrong(name, "is neither true nor false");
                None
            }
        }
    }

    /// A duration, or its default.
    pub fn duration(&mut self, name: &str, default: Duration) -> Duration {
        self.parsed::<json::Duration>(name)
            .map_or(default, |duration| duration.0)
    }

    /// Notes that a parameter is wrong.
    pub fn wrong(&mut self, name: &str, detail: &str) {
        self.errors.add(Place::Query(name.into()), detail);
    }

    /// Ends reading.
    pub fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in &self.pairs {
            self.errors.add(Place::Query(name.clone()), "is not a known parameter");
        }
        self.errors.into_result()
    }
}

/// How large a body a route takes.
#[derive(Clone, Copy, Debug)]
pub enum BodySize {
    /// One message, as base64 at worst.
    Message,
    /// Many.
    Batch,
}

/// The text of a JSON body, read within its time, its size and the memory of all requests. The memory is given back when this is
/// dropped.
#[derive(Debug)]
pub struct JsonBody {
    pub text: Bytes,
    _memory: Option<OwnedSemaphorePermit>,
}

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        Self::read(request, app, BodySize::Message).await
    }
}

/// [`JsonBody`] of a route that takes many messages or ids at once.
#[derive(Debug)]
pub struct BatchBody(pub JsonBody);

impl FromRequest<Arc<App>> for BatchBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        JsonBody::read(request, app, BodySize::Batch).await.map(Self)
    }
}

impl JsonBody {
    async fn read(request: Request, app: &Arc<App>, size: BodySize) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        check_media_type(&parts.headers)?;
        let message_max = app.fabric.config().message_bytes_max.div_ceil(3) * 4 + ENVELOPE_JSON_BYTES;
        let max = match size {
            BodySize::Message => message_max,
            BodySize::Batch => message_max.max(app.config.batch_bytes_max),
        };
        // What is declared to be too large is not waited for. Compressed bodies declare nothing of what they inflate to.
        if body.size_hint().lower() > max as u64 {
            return Err(EdgeError::RequestTooLarge { max }.into());
        }
        let patience = Duration::from_millis(app.config.body_timeout_ms);
        match tokio::time::timeout(patience, collect(body, max, &app.request_memory)).await {
            Ok(read) => read,
            Err(_) => Err(EdgeError::RequestTimeout(patience).into()),
        }
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<(), EdgeError> {
    let given = headers
        .get(header::CONTENT_TYPE)
        .map_or("", |value| value.to_str().unwrap_or("(not ASCII)"));
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(EdgeError::MediaType { given: given.into() })
}

async fn collect(mut body: Body, max: usize, memory: &Arc<Semaphore>) -> Result<JsonBody, Problem> {
    let mut text = BytesMut::new();
    let mut first: Option<Bytes> = None;
    let mut permit: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| EdgeError::Malformed {
            detail: format!("it could not be read to its end: {error}"),
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let have = first.as_ref().map_or(text.len(), Bytes::len);
        if have + data.len() > max {
            return Err(EdgeError::RequestTooLarge { max }.into());
        }
        reserve(memory, &mut permit, have + data.len())?;
        match first.take() {
            None if text.is_empty() => first = Some(data),
            head => {
                text.extend_from_slice(&head.unwrap_or_default());
                text.extend_from_slice(&data);
            }
        }
    }
    Ok(JsonBody {
        text: first.unwrap_or_else(|| text.freeze()),
        _memory: permit,
    })
}

/// Takes memory for `bytes` in all, or refuses the request: waiting for it could deadlock requests that hold some already.
fn reserve(memory: &Arc<Semaphore>, held: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), FabricError> {
    let held_units = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let Some(missing) = bytes
        .div_ceil(MEMORY_UNIT)
        .checked_sub(held_units)
        .filter(|units| *units > 0)
    else {
        return Ok(());
    };
    let units = u32::try_from(missing).unwrap_or(u32::MAX);
    match Arc::clone(memory).try_acquire_many_owned(units) {
        Ok(more) => {
            match held {
                Some(held) => held.merge(more),
                None => *held = Some(more),
            }
            Ok(())
        }
        Err(_) => Err(FabricError::Overloaded {
            what: "request bodies in memory",
            retry_after: Duration::from_secs(1),
        }),
    }
}

/// The memory for the bodies of all requests.
pub fn request_memory(bytes_max: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((bytes_max / MEMORY_UNIT).min(Semaphore::MAX_PERMITS)))
}
