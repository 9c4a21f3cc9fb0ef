//! What operators ask: is it alive, is it ready, what does it measure, what passed.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode},
};
use serde::Serialize;

use super::{
    App,
    agents::shown_time,
    request::{Caller, Params},
    respond::{self, Answer},
};
use crate::{edge::json::EdgeError, frame::AgentId, router::surface::PassedEnvelope};

/// Envelopes shown where the request does not say.
const ENVELOPES_DEFAULT: usize = 100;
/// Most envelopes shown.
pub(super) const ENVELOPES_MAX: usize = 1000;

#[derive(Serialize)]
struct HealthAnswer<'a> {
    status: &'static str,
    node: &'a str,
    version: &'static str,
}

/// `GET /health`: the process lives and answers.
pub(super) async fn health(State(app): State<Arc<App>>, params: Params) -> Answer {
    params.finish()?;
    let answer = HealthAnswer {
        status: "ok",
        node: &app.fabric.config().node_id,
        version: env!("CARGO_PKG_VERSION"),
    };
    Ok(respond::json(StatusCode::OK, &answer))
}

#[derive(Serialize)]
struct ReadyAnswer {
    ready: bool,
    missing: Option<String>,
}

/// `GET /ready`: it may take traffic.
pub(super) async fn ready(State(app): State<Arc<App>>, params: Params) -> Answer {
    params.finish()?;
    let missing = app.fabric.not_ready();
    let (status, ready) = match missing {
        None => (StatusCode::OK, true),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, false),
    };
    Ok(respond::json(status, &ReadyAnswer { ready, missing }))
}

/// `GET /metrics`
pub(super) async fn metrics(State(app): State<Arc<App>>, params: Params) -> Answer {
    params.finish()?;
    let render = Arc::clone(&app.metrics);
    // Rendering walks every series: not on a thread that serves connections.
    let text = tokio::task::spawn_blocking(move || render())
        .await
        .map_err(|_| EdgeError::Internal)?;
    let media_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(respond::with_body(StatusCode::OK, media_type, text.into()))
}

#[derive(Serialize)]
struct ShownEnvelope<'a> {
    message_id: &'a str,
    from_agent: &'a str,
    to: &'a str,
    priority: &'static str,
    qos: u8,
    message_type: &'a str,
    content_type: &'a str,
    /// Names alone: values may be secret.
    header_names: Vec<&'a str>,
    accepted_at: Option<String>,
    expires_at: Option<String>,
    body_bytes: usize,
    shard: u16,
}

impl<'a> ShownEnvelope<'a> {
    fn of(passed: &'a PassedEnvelope) -> Self {
        let envelope = &passed.envelope;
        Self {
            message_id: envelope.id(),
            from_agent: envelope.from(),
            to: envelope.to(),
            priority: envelope.priority().name(),
            qos: envelope.qos() as u8,
            message_type: envelope.message_type(),
            content_type: envelope.content_type(),
            header_names: envelope.headers().map(|(name, _)| name).collect(),
            accepted_at: shown_time(passed.stamp.accepted_at),
            expires_at: shown_time(passed.stamp.expires_at),
            body_bytes: passed.body_bytes,
            shard: passed.shard.get(),
        }
    }
}

#[derive(Serialize)]
struct EnvelopesAnswer<'a> {
    messages: Vec<ShownEnvelope<'a>>,
}

/// `GET /debug/messages`: a proven caller sees its own alone.
pub(super) async fn debug_messages(State(app): State<Arc<App>>, caller: Caller, mut params: Params) -> Answer {
    let asked: Option<AgentId> = params.parsed("agent");
    let limit = params.count("limit", ENVELOPES_DEFAULT, ENVELOPES_MAX);
    params.finish()?;
    let agent = caller.agent().cloned().or(asked);
    let passed = app.fabric.passed_envelopes(agent.as_ref(), limit).await;
    let answer = EnvelopesAnswer {
        messages: passed.iter().map(ShownEnvelope::of).collect(),
    };
    Ok(respond::json(StatusCode::OK, &answer))
}
