//! Receiving: long polls, event streams, acknowledgements, topic subscriptions and dead letters of an agent.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode},
};
use serde::Serialize;

use super::{
    App,
    agents::page_of,
    messages::within,
    request::{Caller, JsonBody, Params, PathIds, header_value},
    respond::{self, Answer},
    session::desk::{AckMode, Terms},
};
use crate::{
    edge::json::{self, Errors, Problem},
    frame::{Address, AgentId, MessageId, TopicFilter, TrackingId},
    router::surface::{DeliveryId, KeptMessage, POLL_QUEUE, Refusal, Settled},
};

/// Messages of one poll where it does not say.
const POLL_MESSAGES_DEFAULT: usize = 10;
/// Most messages of one poll: what a session may have in flight.
pub(super) const POLL_MESSAGES_MAX: usize = 256;
/// A poll waits at least this long: the time that a shard may take to hand out what is there already.
const POLL_WAIT_MIN: Duration = Duration::from_millis(100);
/// Longest wait before a redelivery that a refusal may ask for, in seconds.
pub(super) const RETRY_AFTER_SECONDS_MAX: u64 = 86_400;
/// Filters of one agent in one request; the router's own limit is checked behind it.
pub(super) const TOPICS_MAX: usize = 1024;

/// `GET /agents/{agent_id}/messages`
pub(super) async fn poll(State(app): State<Arc<App>>, caller: Caller, ids: PathIds, mut params: Params) -> Answer {
    let max = params.count("max", POLL_MESSAGES_DEFAULT, POLL_MESSAGES_MAX);
    let longest = Duration::from_millis(app.config.poll_wait_max_ms);
    let wait = params
        .duration("wait", Duration::ZERO)
        .clamp(POLL_WAIT_MIN, longest.max(POLL_WAIT_MIN));
    let terms = read_terms(&app, &mut params);
    params.finish()?;
    let agent: AgentId = ids.get("agent_id")?;
    let hand_out = app.sessions.poll(&caller.principal, &agent, max, wait, terms).await?;
    let media_type = HeaderValue::from_static("application/json");
    Ok(respond::with_body(
        StatusCode::OK,
        media_type,
        Body::new(hand_out.into_body()),
    ))
}

/// Who acknowledges, and how long a message stays with its receiver.
fn read_terms(app: &App, params: &mut Params) -> Terms {
    let ack = match params.text("ack").as_deref() {
        None | Some("manual") => AckMode::Manual,
        Some("auto") => AckMode::Auto,
        Some(_) => {
            params.wrong("ack", "is neither manual nor auto");
            AckMode::Manual
        }
    };
    let default = Duration::from_millis(app.config.visibility_timeout_ms);
    let longest = Duration::from_millis(app.config.visibility_timeout_max_ms);
    let visibility_timeout = params.duration("visibility_timeout", default);
    if visibility_timeout.is_zero() || visibility_timeout > longest {
        let detail = format!("must be more than nothing and at most {}", json::Duration(longest));
        params.wrong("visibility_timeout", &detail);
    }
    Terms {
        ack,
        visibility_timeout,
    }
}

/// `GET /agents/{agent_id}/messages/stream`
pub(super) async fn stream(
    State(app): State<Arc<App>>,
    caller: Caller,
    ids: PathIds,
    mut params: Params,
    headers: HeaderMap,
) -> Answer {
    let terms = read_terms(&app, &mut params);
    params.finish()?;
    let agent: AgentId = ids.get("agent_id")?;
    let last = header_value::<LastEventId>(&headers, "last-event-id")?;
    let resume = last.and_then(|last| last.0);
    let events = app.sessions.stream(&caller.principal, &agent, terms, resume).await?;
    let media_type = HeaderValue::from_static("text/event-stream");
    Ok(respond::with_body(
        StatusCode::OK,
        media_type,
        Body::from_stream(events),
    ))
}

/// `Last-Event-ID`: a delivery id. Anything else names no event of ours, and the stream starts afresh.
struct LastEventId(Option<DeliveryId>);

impl std::str::FromStr for LastEventId {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.parse().ok()))
    }
}

/// `POST /agents/{agent_id}/messages/ack`
pub(super) async fn ack(
    State(app): State<Arc<App>>,
    caller: Caller,
    ids: PathIds,
    params: Params,
    body: JsonBody,
) -> Answer {
    params.finish()?;
    let agent: AgentId = ids.get("agent_id")?;
    let (delivery_ids, ()) = read_settling(&body, |_, _| ())?;
    let settled = within(&app, app.fabric.ack(&caller.principal, &agent, &delivery_ids)).await?;
    app.sessions
        .note_settled(&caller.principal, &agent, &delivery_ids)
        .await;
    Ok(settled_answer(&delivery_ids, settled, "acknowledged"))
}

/// `POST /agents/{agent_id}/messages/nack`
pub(super) async fn nack(
    State(app): State<Arc<App>>,
    caller: Caller,
    ids: PathIds,
    params: Params,
    body: JsonBody,
) -> Answer {
    params.finish()?;
    let agent: AgentId = ids.get("agent_id")?;
    let (delivery_ids, refusal) = read_settling(&body, json_refusal)?;
    let settled = within(&app, app.fabric.nack(&caller.principal, &agent, &delivery_ids, refusal)).await?;
    app.sessions
        .note_settled(&caller.principal, &agent, &delivery_ids)
        .await;
    Ok(settled_answer(&delivery_ids, settled, "refused"))
}

/// `delivery_ids`, and what else `more` reads.
fn read_settling<T>(
    body: &JsonBody,
    more: impl FnOnce(&mut json::Object<'_>, &mut Errors) -> T,
) -> Result<(Vec<DeliveryId>, T), Problem> {
    let mut errors = Errors::default();
    let mut object = json::read_object(&body.text)?;
    let delivery_ids = json::delivery_ids(&mut object, &mut errors);
    let more = more(&mut object, &mut errors);
    object.finish("", &mut errors);
    Ok((errors.finish(delivery_ids)?, more))
}

/// `retry_after` (seconds) and `dead_letter`, which exclude each other.
fn json_refusal(object: &mut json::Object<'_>, errors: &mut Errors) -> Refusal {
    let retry_after = object.take("retry_after");
    let wait = retry_after
        .as_ref()
        .and_then(|field| field.integer(0..=RETRY_AFTER_SECONDS_MAX, errors));
    let dead_letter = object.take("dead_letter").and_then(|field| field.boolean(errors));
    match (dead_letter, retry_after) {
        (Some(true), Some(field)) => {
            errors.at(
                field.pointer(),
                "stands beside `dead_letter: true`: a dead letter is not retried",
            );
            Refusal::DeadLetter
        }
        (Some(true), None) => Refusal::DeadLetter,
        _ => Refusal::Retry(wait.map(Duration::from_secs)),
    }
}

#[derive(Serialize)]
struct SettledResult {
    delivery_id: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

#[derive(Serialize)]
struct SettledAnswer {
    results: Vec<SettledResult>,
}

/// `done` says what became of those that were settled as asked.
fn settled_answer(ids: &[DeliveryId], settled: Vec<Settled>, done: &'static str) -> axum::response::Response {
    let result = |(id, settled): (&DeliveryId, Settled)| {
        let (status, problem) = match settled {
            Settled::Done => (done, None),
            Settled::Stale => ("stale", None),
            Settled::Failed(error) => ("failed", Some(error.into())),
        };
        SettledResult {
            delivery_id: id.to_string(),
            status,
            problem,
        }
    };
    let results = ids.iter().zip(settled).map(result).collect();
    respond::json(StatusCode::OK, &SettledAnswer { results })
}

#[derive(Serialize)]
struct Topics {
    agent_id: AgentId,
    topics: Vec<TopicFilter>,
}

/// `PUT /agents/{agent_id}/subscriptions`
pub(super) async fn put_subscriptions(
    State(app): State<Arc<App>>,
    caller: Caller,
    ids: PathIds,
    params: Params,
    body: JsonBody,
) -> Answer {
    params.finish()?;
    let agent: AgentId = ids.get("agent_id")?;
    let mut errors = Errors::default();
    let mut object = json::read_object(&body.text)?;
    let topics = object.require("topics", &mut errors);
    object.finish("", &mut errors);
    let topics = topics.and_then(|field| field.parsed_set::<TopicFilter>(TOPICS_MAX, &mut errors));
    let topics = errors.finish(topics)?;
    let setting = app
        .fabric
        .set_subscriptions(&caller.principal, &agent, POLL_QUEUE, topics);
    within(&app, setting).await?;
    app.sessions.note_subscriptions(&caller.principal, &agent).await;
    show_subscriptions(&app, &caller, agent)
}

/// `GET /agents/{agent_id}/subscriptions`
pub(super) async fn get_subscriptions(
    State(app): State<Arc<App>>,
    caller: Caller,
    ids: PathIds,
    params: Params,
) -> Answer {
    params.finish()?;
    show_subscriptions(&app, &caller, ids.get("agent_id")?)
}

fn show_subscriptions(app: &App, caller: &Caller, agent_id: AgentId) -> Answer {
    let topics = app.fabric.subscriptions(&caller.principal, &agent_id, POLL_QUEUE)?;
    Ok(respond::json(StatusCode::OK, &Topics { agent_id, topics }))
}

/// `DELETE /agents/{agent_id}/subscriptions`: with whatever waits in their queue.
pub(super) async fn delete_subscriptions(
    State(app): State<Arc<App>>,
    caller: Caller,
    ids: PathIds,
    params: Params,
) -> Answer {
    params.finish()?;
    let agent: AgentId = ids.get("agent_id")?;
    within(
        &app,
        app.fabric.remove_session_queue(&caller.principal, &agent, POLL_QUEUE),
    )
    .await?;
    app.sessions.note_subscriptions(&caller.principal, &agent).await;
    Ok(respond::no_content())
}

/// `GET /agents/{agent_id}/dead-letters`
pub(super) async fn dead_letters(
    State(app): State<Arc<App>>,
    caller: Caller,
    ids: PathIds,
    mut params: Params,
) -> Answer {
    let (size, after) = page_of::<TrackingToken>(&mut params);
    params.finish()?;
    let agent: AgentId = ids.get("agent_id")?;
    let address = Address::agent(&agent);
    let after = after.map(|token| token.0);
    let asking = app.fabric.dead_letters(&caller.principal, &address, after, size + 1);
    let kept = within(&app, asking).await?;
    Ok(kept_page(kept, size))
}

/// `POST /agents/{agent_id}/dead-letters/{message_id}/replay`
pub(super) async fn replay(State(app): State<Arc<App>>, caller: Caller, ids: PathIds, params: Params) -> Answer {
    params.finish()?;
    let agent: AgentId = ids.get("agent_id")?;
    let message: MessageId = ids.get("message_id")?;
    let address = Address::agent(&agent);
    let replaying = app.fabric.replay_dead_letter(&caller.principal, &address, &message);
    let tracking = within(&app, replaying).await?;
    let answer = Replayed {
        message_id: message,
        tracking_id: tracking.to_string(),
        status: "queued",
    };
    Ok(respond::json(StatusCode::ACCEPTED, &answer))
}

#[derive(Serialize)]
struct Replayed {
    message_id: MessageId,
    tracking_id: String,
    status: &'static str,
}

/// A page token that is a tracking id.
pub(super) struct TrackingToken(pub TrackingId);

impl std::str::FromStr for TrackingToken {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        text.parse()
            .map(Self)
            .map_err(|()| "is not a page token; take `next_page_token` of the page before")
    }
}

/// A page of kept messages: of `size + 1` asked for, the last only says that there are more.
pub(super) fn kept_page(mut kept: Vec<KeptMessage>, size: usize) -> axum::response::Response {
    let more = kept.len() > size;
    kept.truncate(size);
    let mut text = b"{\"messages\":[".to_vec();
    for (index, message) in kept.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        json::kept_message_into(message, &mut text);
    }
    text.extend_from_slice(b"],\"next_page_token\":");
    match kept.last().filter(|_| more) {
        Some(last) => text.extend_from_slice(format!("\"{}\"", last.tracking).as_bytes()),
        None => text.extend_from_slice(b"null"),
    }
    text.push(b'}');
    respond::json_text(StatusCode::OK, text.into())
}
