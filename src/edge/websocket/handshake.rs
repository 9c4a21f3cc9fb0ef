//! The upgrade: everything that is judged before a session exists, answered as problem documents.
//!
//! Start at [`upgrade`].

use std::sync::Arc;

use aws_lc_rs::digest;
use axum::{
    body::Body,
    extract::{Query, Request},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, request::Parts, uri::Authority},
    response::Response,
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{Edge, SUBPROTOCOL, codec::Compression, deflate, operation_bytes_max, session::Session, socket::Socket};
use crate::{
    edge::{
        auth::proven_agent,
        counters::Counters,
        json::{EdgeError, FieldError, Place, Problem},
    },
    frame::AgentId,
    router::{
        SessionHandle, SessionReceiver,
        error::FabricError,
        surface::{Attach, Inbox, Principal, Protocol, SessionQueue, Window},
    },
};

/// What RFC 6455 §4.2.2 appends to the client's key.
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The length of a key's nonce (RFC 6455 §4.1), in bytes.
const KEY_BYTES: usize = 16;
/// The only version of the protocol.
const VERSION: &[u8] = b"13";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    agent_id: Option<String>,
}

/// What was agreed on with a client.
struct Agreed {
    accept: String,
    on_upgrade: OnUpgrade,
    extension: Option<&'static str>,
}

/// Answers an upgrade request: 101 and a session, or a problem document.
pub(super) async fn upgrade(edge: &Arc<Edge>, request: Request) -> Response {
    match accept(edge, request).await {
        Ok(response) => response,
        Err(problem) => {
            Counters::add(&edge.counters.errors, 1);
            refused(&problem)
        }
    }
}

async fn accept(edge: &Arc<Edge>, request: Request) -> Result<Response, Problem> {
    let (mut parts, _body) = request.into_parts();
    check_origin(edge, &parts)?;
    let principal = edge.authenticator.principal(&parts)?;
    let agreed = negotiate(edge, &mut parts)?;
    let agent = agent_of(&parts, &principal)?;
    let Ok(permit) = Arc::clone(&edge.room).try_acquire_owned() else {
        Counters::add(&edge.counters.connections_refused, 1);
        return Err(EdgeError::TooManyConnections {
            max: edge.config.max_connections,
        }
        .into());
    };
    // Attached before the upgrade, so that a refusal is an HTTP answer.
    let session = edge.fabric.attach(&principal, attachment(edge, agent)).await?;
    let response = switching_protocols(&agreed);
    tokio::spawn(run(Arc::clone(edge), agreed, session, permit));
    Ok(response)
}

fn attachment(edge: &Edge, agent: AgentId) -> Attach {
    let limits = edge.fabric.config();
    Attach {
        agent,
        protocol: Protocol::WebSocket,
        inbox: Inbox::Open,
        queue: SessionQueue::Ephemeral,
        window: Window {
            messages: limits.in_flight_messages_max,
            bytes: limits.in_flight_bytes_max,
        },
        visibility_timeout: None,
    }
}

async fn run(
    edge: Arc<Edge>,
    agreed: Agreed,
    (handle, receiver): (SessionHandle, SessionReceiver),
    permit: OwnedSemaphorePermit,
) {
    let upgraded = match timeout(edge.config.handshake_timeout(), agreed.on_upgrade).await {
        Ok(Ok(upgraded)) => TokioIo::new(upgraded),
        Ok(Err(error)) => {
            tracing::debug!(agent = %handle.agent(), %error, "a WebSocket upgrade failed");
            return;
        }
        Err(_) => {
            tracing::debug!(agent = %handle.agent(), "a WebSocket upgrade took too long");
            return;
        }
    };
    let compression = match agreed.extension {
        Some(_) => Compression::Deflate,
        None => Compression::Off,
    };
    let bytes_max = operation_bytes_max(edge.fabric.config().message_bytes_max);
    let counters = Arc::clone(&edge.counters);
    let session = Session::new(
        edge.fabric.clone(),
        Arc::clone(&edge.config),
        Arc::clone(&counters),
        handle,
        Socket::new(upgraded, bytes_max, compression),
    );
    drop(edge);
    let _open = Open::new(counters);
    session.run(receiver).await;
    drop(permit);
}

/// Counts a connection for as long as it lives, however it ends.
struct Open(Arc<Counters>);

impl Open {
    fn new(counters: Arc<Counters>) -> Self {
        Counters::add(&counters.connections_total, 1);
        Counters::add(&counters.connections, 1);
        Self(counters)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

// --- what is judged ----------------------------------------------------------------------------------------------

fn check_origin(edge: &Edge, parts: &Parts) -> Result<(), EdgeError> {
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| parts.uri.authority().map(Authority::as_str));
    if edge.origins.check(&parts.headers, host).is_allowed() {
        return Ok(());
    }
    let origin = parts.headers.get(header::ORIGIN);
    Err(EdgeError::OriginDenied {
        origin: origin.map_or_else(String::new, |origin| {
            String::from_utf8_lossy(origin.as_bytes()).into_owned()
        }),
    })
}

/// RFC 6455 §4.2.1, the subprotocol and the extension.
fn negotiate(edge: &Edge, parts: &mut Parts) -> Result<Agreed, Problem> {
    let headers = &parts.headers;
    if parts.method != Method::GET || parts.version != Version::HTTP_11 {
        return Err(EdgeError::UpgradeRequired.into());
    }
    if !has_token(headers, header::UPGRADE, "websocket") || !has_token(headers, header::CONNECTION, "upgrade") {
        return Err(EdgeError::UpgradeRequired.into());
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes) != Some(VERSION) {
        return Err(wrong_header(
            "Sec-WebSocket-Version",
            "is not 13, the only version of RFC 6455",
        ));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let Some(key) = key.filter(|key| BASE64.decode(key).is_ok_and(|nonce| nonce.len() == KEY_BYTES)) else {
        return Err(wrong_header("Sec-WebSocket-Key", "is not the base64 of 16 bytes"));
    };
    // A client that asks for no subprotocol gets the only one; one that asks for others must not be answered in this one.
    if headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL)
        && !has_token(headers, header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
    {
        return Err(wrong_header("Sec-WebSocket-Protocol", "does not offer `weft.v1.json`"));
    }
    let accept = accept_of(key);
    let offers = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter();
    let extension = match edge.config.compression {
        true => deflate::agree(offers.filter_map(|offer| offer.to_str().ok())),
        false => None,
    };
    let on_upgrade = parts
        .extensions
        .remove::<OnUpgrade>()
        .ok_or(EdgeError::UpgradeRequired)?;
    Ok(Agreed {
        accept,
        on_upgrade,
        extension,
    })
}

fn agent_of(parts: &Parts, principal: &Principal) -> Result<AgentId, Problem> {
    let Query(parameters) = Query::<Parameters>::try_from_uri(&parts.uri).map_err(|error| {
        FabricError::invalid(
            "",
            format!("the query is wrong: {}; it takes `agent_id`", error.body_text()),
        )
    })?;
    match (parameters.agent_id, proven_agent(principal)) {
        (Some(text), _) => AgentId::new(&text).map_err(|error| wrong_parameter(error.to_string())),
        (None, Some(proven)) => Ok(proven.clone()),
        (None, None) => Err(wrong_parameter("is missing; name the agent that attaches".into())),
    }
}

fn wrong_parameter(detail: String) -> Problem {
    Problem::of_fields(vec![FieldError {
        place: Place::Query("agent_id".into()),
        detail,
    }])
}

fn wrong_header(name: &str, detail: &str) -> Problem {
    Problem::of_fields(vec![FieldError {
        place: Place::Header(name.into()),
        detail: detail.into(),
    }])
}

/// True where one of the header's comma-separated values is `token`, in any case.
fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

fn accept_of(key: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(ACCEPT_SUFFIX);
    BASE64.encode(context.finish())
}

// --- what is answered --------------------------------------------------------------------------------------------

fn switching_protocols(agreed: &Agreed) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    let accept = HeaderValue::from_str(&agreed.accept).expect("base64 is visible ASCII");
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(extension) = agreed.extension {
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(extension));
    }
    response
}

fn refused(problem: &Problem) -> Response {
    let mut response = Response::new(Body::from(problem.to_json()));
    *response.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(Problem::MEDIA_TYPE));
    if problem.status == StatusCode::UPGRADE_REQUIRED.as_u16() {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if let Some(seconds) = problem.retry_after_seconds() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rfcs_own_key_gives_the_rfcs_own_answer() {
        assert_eq!(accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn tokens_are_found_in_lists_and_in_any_case() {
        let mut headers = HeaderMap::new();
        headers.append(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        assert!(has_token(&headers, header::CONNECTION, "upgrade"));
        assert!(!has_token(&headers, header::UPGRADE, "websocket"));
    }
}
