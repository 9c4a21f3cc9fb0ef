//! Sending: one message, a batch in order, a request that waits for its reply, and what became of a message.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, http::StatusCode};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    App,
    agents::shown_time,
    request::{BatchBody, Caller, IdempotencyKey, JsonBody, Params, PathIds},
    respond::{self, Answer},
};
use crate::{
    edge::{
        counters::Counters,
        json::{self, Errors, Problem, SendDefaults, SendRequest},
    },
    frame::{AgentId, Frame, MessageId, TrackingId, limits::BODY_BYTES_MAX, record::Status},
    router::{
        error::FabricError,
        surface::{Accepted, MessageStatus, Protocol, Sending, StatusQuery},
    },
};

/// How long a request waits for its reply where it does not say.
const REPLY_WAIT_DEFAULT: Duration = Duration::from_secs(30);

/// `POST /messages/send`
pub(super) async fn send(
    State(app): State<Arc<App>>,
    caller: Caller,
    IdempotencyKey(key): IdempotencyKey,
    params: Params,
    body: JsonBody,
) -> Answer {
    params.finish()?;
    let request = read_send(&app, &caller, key.as_ref(), &body.text)?;
    let (id, from) = (request.draft.id.clone(), request.draft.from.clone());
    Counters::add(&app.counters.messages_in, 1);
    let sending = app.fabric.send(
        &caller.principal,
        Protocol::Http,
        request.draft,
        request.body,
        request.trace,
    );
    let sent = within(&app, sending).await;
    let accepted = sent.inspect_err(|error| log_refused(&id, &from, error))?;
    let receipt = json::receipt(&accepted, id.as_str(), &app.fabric.config().node_id);
    let answer = respond::json(StatusCode::ACCEPTED, &receipt);
    Ok(match &receipt.tracking_id {
        Some(tracking) => respond::located(answer, &format!("/messages/{tracking}/status")),
        None => answer,
    })
}

/// Whoever misses the message finds it in the log.
fn log_refused(id: &MessageId, from: &AgentId, error: &FabricError) {
    let code = error.code().number;
    tracing::debug!(message_id = %id, agent_id = %from, code, detail = %error, "a message was refused");
}

fn read_send(app: &App, caller: &Caller, key: Option<&MessageId>, text: &Bytes) -> Result<SendRequest, Problem> {
    SendRequest::parse(text, defaults(caller, key, &|| app.fabric.new_message_id()))
}

fn defaults<'a>(
    caller: &'a Caller,
    key: Option<&'a MessageId>,
    new_message_id: &'a dyn Fn() -> MessageId,
) -> SendDefaults<'a> {
    SendDefaults {
        from: caller.agent(),
        message_id: key,
        trace: caller.trace,
        new_message_id,
    }
}

/// Waits for the fabric as long as a request may; then the outcome is unknown.
pub(super) async fn within<T>(app: &App, work: impl Future<Output = Result<T, FabricError>>) -> Result<T, FabricError> {
    match tokio::time::timeout(app.config.request_timeout(), work).await {
        Ok(result) => result,
        Err(_) => Err(FabricError::OutcomeUnknown {
            what: format!("no answer within {:?}", app.config.request_timeout()),
        }),
    }
}

/// One message of a batch, as it came out of the text.
struct BatchItem {
    id: MessageId,
    from: AgentId,
    frame: Frame,
}

/// `POST /messages/send/batch`: malformed messages refuse the whole batch; what the fabric refuses is told message by message.
pub(super) async fn send_batch(
    State(app): State<Arc<App>>,
    caller: Caller,
    params: Params,
    BatchBody(body): BatchBody,
) -> Answer {
    params.finish()?;
    let items = read_batch(&app, &caller, &body.text)?;
    let ids: Vec<_> = items.iter().map(|item| (item.id.clone(), item.from.clone())).collect();
    Counters::add(&app.counters.messages_in, items.len());
    let answers = publish(&app, &caller, items).await;
    let node = &app.fabric.config().node_id;
    let results = ids.iter().zip(answers).map(|((id, from), answer)| match answer {
        Ok(accepted) => to_raw(&json::receipt(&accepted, id.as_str(), node)),
        Err(error) => {
            log_refused(id, from, &error);
            to_raw(&BatchProblem {
                message_id: id.as_str(),
                problem: error.into(),
            })
        }
    });
    let results: Vec<_> = results.collect();
    Ok(respond::json(StatusCode::ACCEPTED, &BatchResults { results }))
}

#[derive(Serialize)]
struct BatchResults {
    results: Vec<Box<RawValue>>,
}

#[derive(Serialize)]
struct BatchProblem<'a> {
    message_id: &'a str,
    #[serde(flatten)]
    problem: Problem,
}

fn to_raw(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("receipts and problems have text keys only")
}

fn read_batch(app: &App, caller: &Caller, text: &Bytes) -> Result<Vec<BatchItem>, Problem> {
    let mut errors = Errors::default();
    let mut object = json::read_object(text)?;
    let messages = object.require("messages", &mut errors);
    object.finish("", &mut errors);
    let messages = messages.and_then(|field| field.array(app.config.batch_messages_max, &mut errors));
    let items = messages.map(|messages| {
        let new_message_id = || app.fabric.new_message_id();
        let defaults = defaults(caller, None, &new_message_id);
        let mut read = |item: json::Field<'_>| {
            let object = item.object(&mut errors)?;
            let request = SendRequest::read(object, text, defaults, &mut errors)?;
            let checked = check_ttl(app, &request).and_then(|()| batch_item(request));
            checked
                .map_err(|error| note_batch_error(&item, &error, &mut errors))
                .ok()
        };
        messages.into_items().filter_map(&mut read).collect()
    });
    errors.finish(items)
}

/// The door would refuse this message alone; a batch with a field out of its bounds is refused whole.
fn check_ttl(app: &App, request: &SendRequest) -> Result<(), FabricError> {
    let max = app.fabric.config().ttl_max_ms;
    if request.draft.ttl_ms > max {
        return Err(FabricError::invalid(
            "ttl",
            format!("is more than {} seconds", max / 1000),
        ));
    }
    Ok(())
}

fn note_batch_error(item: &json::Field<'_>, error: &FabricError, errors: &mut Errors) {
    match error {
        FabricError::Invalid { field, detail } => errors.at(format!("{}/{field}", item.pointer()), detail.clone()),
        other => errors.at(item.pointer(), other.to_string()),
    }
}

fn batch_item(request: SendRequest) -> Result<BatchItem, FabricError> {
    let (id, from) = (request.draft.id.clone(), request.draft.from.clone());
    let bytes = request.body.len();
    let too_large = |_| FabricError::BodyTooLarge {
        bytes,
        max: BODY_BYTES_MAX,
    };
    let mut frame = Frame::new(request.draft.archive()?, request.body).map_err(too_large)?;
    frame.stamp.trace = request.trace;
    Ok(BatchItem { id, from, frame })
}

/// Publishes in order and waits for every answer; what is not answered in time is unknown.
async fn publish(app: &App, caller: &Caller, items: Vec<BatchItem>) -> Vec<Result<Accepted, FabricError>> {
    let unknown = || {
        Err(FabricError::OutcomeUnknown {
            what: format!("no answer within {:?}", app.config.request_timeout()),
        })
    };
    let mut results: Vec<_> = items.iter().map(|_| unknown()).collect();
    let mut messages: Vec<_> = items
        .into_iter()
        .zip(0..)
        .map(|(item, tag)| Sending::one(tag, item.frame, true))
        .collect();
    let (mut publisher, mut answers) = app.fabric.publisher(caller.principal.clone(), Protocol::Http);
    let deadline = tokio::time::sleep(app.config.request_timeout());
    // Owns the publisher, which ends with it, and so do the answers once all are given.
    let publishing = async move { publisher.publish(&mut messages).await };
    let collecting = async {
        let mut some = Vec::new();
        loop {
            let more = answers.next(&mut some).await;
            for (tag, answer) in some.drain(..) {
                if let Some(result) = usize::try_from(tag).ok().and_then(|at| results.get_mut(at)) {
                    *result = answer;
                }
            }
            if !more {
                return;
            }
        }
    };
    tokio::select! {
        _ = async { tokio::join!(publishing, collecting) } => {}
        () = deadline => {}
    }
    results
}

/// `POST /messages/request`
pub(super) async fn request(
    State(app): State<Arc<App>>,
    caller: Caller,
    IdempotencyKey(key): IdempotencyKey,
    mut params: Params,
    body: JsonBody,
) -> Answer {
    let in_query = params.parsed::<json::Duration>("timeout");
    params.finish()?;
    let new_message_id = || app.fabric.new_message_id();
    let defaults = defaults(&caller, key.as_ref(), &new_message_id);
    let (request, in_body) = read_request(&body.text, defaults, in_query)?;
    let longest = Duration::from_millis(app.config.reply_wait_max_ms);
    let timeout = in_query
        .or(in_body)
        .map_or(REPLY_WAIT_DEFAULT, |given| given.0)
        .min(longest);
    if request.draft.reply_to.is_some() {
        return Err(FabricError::invalid("reply_to", "is set by the fabric for a request; leave it out").into());
    }
    Counters::add(&app.counters.messages_in, 1);
    let SendRequest { draft, body, trace } = request;
    let reply = app
        .fabric
        .request(&caller.principal, Protocol::Http, draft, body, trace, timeout)
        .await?;
    Counters::add(&app.counters.messages_out, 1);
    Ok(respond::json_text(StatusCode::OK, json::reply_message(&reply)))
}

/// A send request with a `timeout` of its own, which may stand in the query instead.
fn read_request(
    text: &Bytes,
    defaults: SendDefaults<'_>,
    in_query: Option<json::Duration>,
) -> Result<(SendRequest, Option<json::Duration>), Problem> {
    let mut object = json::read_object(text)?;
    let mut errors = Errors::default();
    let timeout = object.take("timeout");
    if let (Some(field), Some(_)) = (&timeout, in_query) {
        errors.at(field.pointer(), "stands in the query too; give it once");
    }
    let timeout = timeout.and_then(|field| field.duration(&mut errors));
    let request = SendRequest::read(object, text, defaults, &mut errors);
    Ok((errors.finish(request)?, timeout))
}

/// `GET /messages/{message_id}/status`
pub(super) async fn status(State(app): State<Arc<App>>, caller: Caller, ids: PathIds, mut params: Params) -> Answer {
    let from: Option<AgentId> = params.parsed("from_agent");
    params.finish()?;
    let id: MessageId = ids.get("message_id")?;
    let by_id = StatusQuery::Message { id: id.clone(), from };
    let (status, asked) = match id.as_str().parse::<TrackingId>() {
        Err(()) => (ask_status(&app, &caller, by_id).await?, Some(id)),
        // A message id may look like a tracking id.
        Ok(tracking) => match ask_status(&app, &caller, StatusQuery::Tracking(tracking)).await {
            Err(FabricError::UnknownMessage(_)) => (ask_status(&app, &caller, by_id).await?, Some(id)),
            found => (found?, None),
        },
    };
    Ok(respond::json(StatusCode::OK, &StatusAnswer::of(&status, asked)))
}

async fn ask_status(app: &App, caller: &Caller, query: StatusQuery) -> Result<MessageStatus, FabricError> {
    within(app, app.fabric.status(&caller.principal, query)).await
}

#[derive(Serialize)]
struct StatusAnswer {
    /// `None` where the tracking id was asked for: receipts keep no message id.
    message_id: Option<MessageId>,
    tracking_id: String,
    status: &'static str,
    reason: Option<&'static str>,
    accepted_at: Option<String>,
    sent_at: Option<String>,
    delivered_at: Option<String>,
    delivery_attempts: u32,
    recipient_acknowledged: bool,
    acknowledged_at: Option<String>,
    settled_at: Option<String>,
    recipients: u32,
    counts: Counts,
}

#[derive(Serialize)]
struct Counts {
    queued: u32,
    sent: u32,
    delivered: u32,
    expired: u32,
    dead_lettered: u32,
    rejected: u32,
}

impl StatusAnswer {
    fn of(status: &MessageStatus, message_id: Option<MessageId>) -> Self {
        let delivered = status.status == Status::Delivered;
        let settled_at = shown_time(status.settled_at);
        let count = |status_of: Status| status.counts[status_of as usize];
        Self {
            message_id,
            tracking_id: status.tracking.to_string(),
            status: status.status.name(),
            reason: Some(status.reason.name()).filter(|name| !name.is_empty()),
            accepted_at: shown_time(status.accepted_at),
            sent_at: shown_time(status.sent_at),
            delivered_at: settled_at.clone().filter(|_| delivered),
            delivery_attempts: status.attempts,
            // QoS 0 has no receipt, so that whatever has one was acknowledged.
            recipient_acknowledged: delivered,
            acknowledged_at: settled_at.clone().filter(|_| delivered),
            settled_at,
            recipients: status.recipients,
            counts: Counts {
                queued: count(Status::Queued),
                sent: count(Status::Sent),
                delivered: count(Status::Delivered),
                expired: count(Status::Expired),
                dead_lettered: count(Status::DeadLettered),
                rejected: count(Status::Rejected),
            },
        }
    }
}
