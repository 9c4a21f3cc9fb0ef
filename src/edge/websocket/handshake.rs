//! The upgrade: everything that is judged before a session exists, answered as problem documents.
//!
//! Start at [`upgrade`].

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Query, Request},
    http::{self, HeaderMap, HeaderValue, StatusCode, Uri, Version, header, request::Parts, uri::Authority},
    response::Response,
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tungstenite::{Error as HandshakeError, error::ProtocolError, handshake::server::create_response_with_body};

use super::{Edge, SUBPROTOCOL, codec::Compression, deflate, operation_bytes_max, session::Session, socket::Socket};
use crate::{
    edge::{
        auth::proven_agent,
        counters::Counters,
        json::{EdgeError, FieldError, Place, Problem},
        origin::Origins,
    },
    frame::AgentId,
    router::{
        SessionHandle, SessionReceiver,
        error::FabricError,
        surface::{Attach, Inbox, Principal, Protocol, SessionQueue, Window},
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    agent_id: Option<String>,
}

/// What was agreed on with a client.
struct Agreed {
    /// 101, with all its headers.
    response: Response,
    on_upgrade: OnUpgrade,
    compression: Compression,
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
    let (parts, _body) = request.into_parts();
    check_origin(&edge.origins, &parts)?;
    let principal = edge.authenticator.principal(&parts)?;
    let mut request = http::Request::from_parts(parts, ());
    let agreed = negotiate(edge, &mut request)?;
    let agent = agent_of(request.uri(), &principal)?;
    let Ok(permit) = Arc::clone(&edge.room).try_acquire_owned() else {
        Counters::add(&edge.counters.connections_refused, 1);
        return Err(EdgeError::TooManyConnections {
            max: edge.config.max_connections,
        }
        .into());
    };
    // Attached before the upgrade, so that a refusal is an HTTP answer.
    let session = edge.fabric.attach(&principal, attachment(edge, agent)).await?;
    let upgrading = (agreed.on_upgrade, agreed.compression);
    tokio::spawn(run(Arc::clone(edge), upgrading, session, permit));
    Ok(agreed.response)
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
    (on_upgrade, compression): (OnUpgrade, Compression),
    (handle, receiver): (SessionHandle, SessionReceiver),
    permit: OwnedSemaphorePermit,
) {
    let upgraded = match timeout(edge.config.handshake_timeout(), on_upgrade).await {
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

pub(super) fn check_origin(origins: &Origins, parts: &Parts) -> Result<(), EdgeError> {
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| parts.uri.authority().map(Authority::as_str));
    if origins.check(&parts.headers, host).is_allowed() {
        return Ok(());
    }
    let origin = parts.headers.get(header::ORIGIN);
    Err(EdgeError::OriginDenied {
        origin: origin.map_or_else(String::new, |origin| {
            String::from_utf8_lossy(origin.as_bytes()).into_owned()
        }),
    })
}

/// Whether a client must offer the subprotocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// One that asks for none gets the only one.
    Optional,
    Required,
}

/// The handshake itself is tungstenite's; the subprotocol is judged here.
pub(super) fn shake(
    request: &mut http::Request<()>,
    subprotocol: &'static str,
    offer: Offer,
) -> Result<(Response, OnUpgrade), Problem> {
    // HTTP/2 opens WebSockets in another way (RFC 8441).
    if request.version() != Version::HTTP_11 {
        return Err(EdgeError::UpgradeRequired.into());
    }
    let mut response = create_response_with_body(request, Body::empty).map_err(|error| not_a_handshake(&error))?;
    // One that asks for others must not be answered in this one.
    let asks = offer == Offer::Required || request.headers().contains_key(header::SEC_WEBSOCKET_PROTOCOL);
    if asks && !has_token(request.headers(), header::SEC_WEBSOCKET_PROTOCOL, subprotocol) {
        let detail = format!("does not offer `{subprotocol}`");
        return Err(wrong_header("Sec-WebSocket-Protocol", &detail));
    }
    let answer = response.headers_mut();
    answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    let on_upgrade = request.extensions_mut().remove::<OnUpgrade>();
    Ok((response, on_upgrade.ok_or(EdgeError::UpgradeRequired)?))
}

/// [`shake`], and the extension.
fn negotiate(edge: &Edge, request: &mut http::Request<()>) -> Result<Agreed, Problem> {
    let (mut response, on_upgrade) = shake(request, SUBPROTOCOL, Offer::Optional)?;
    let answer = response.headers_mut();
    let extension = match edge.config.compression {
        true => {
            let offers = request.headers().get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter();
            deflate::agree(offers.filter_map(|offer| offer.to_str().ok()))
        }
        false => None,
    };
    let compression = match extension {
        Some(extension) => {
            let extension = HeaderValue::from_static(extension);
            answer.insert(header::SEC_WEBSOCKET_EXTENSIONS, extension);
            Compression::Deflate
        }
        None => Compression::Off,
    };
    Ok(Agreed {
        response,
        on_upgrade,
        compression,
    })
}

fn not_a_handshake(error: &HandshakeError) -> Problem {
    match error {
        HandshakeError::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => {
            wrong_header("Sec-WebSocket-Version", "is not 13, the only version of RFC 6455")
        }
        HandshakeError::Protocol(ProtocolError::MissingSecWebSocketKey | ProtocolError::InvalidSecWebSocketKey) => {
            wrong_header("Sec-WebSocket-Key", "is not the base64 of 16 bytes")
        }
        _ => EdgeError::UpgradeRequired.into(),
    }
}

fn agent_of(uri: &Uri, principal: &Principal) -> Result<AgentId, Problem> {
    let Query(parameters) = Query::<Parameters>::try_from_uri(uri).map_err(|error| {
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

// --- what is answered --------------------------------------------------------------------------------------------

pub(super) fn refused(problem: &Problem) -> Response {
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
    fn tokens_are_found_in_lists_and_in_any_case() {
        let mut headers = HeaderMap::new();
        headers.append(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static("mqtt, Weft.v1.json"),
        );
        assert!(has_token(&headers, header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL));
        assert!(!has_token(&headers, header::SEC_WEBSOCKET_PROTOCOL, "weft"));
        assert!(!has_token(&headers, header::UPGRADE, SUBPROTOCOL));
    }
}
