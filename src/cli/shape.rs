//! The JSON of answers: the shapes and names of the HTTP surface, so that a script reads both alike. Stable.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    client::{Agent, Connection, Delivery, Group, KeptMessage, MessageStatus, Received, Sent},
    time::Timestamp,
};

pub(super) fn sent(sent: &Sent) -> Value {
    let accepted = &sent.accepted;
    json!({
        "message_id": sent.message_id,
        "status": accepted.status.name(),
        "tracking_id": accepted.tracking_id.map(|id| id.to_string()),
        "duplicate": accepted.duplicate,
        "recipients": accepted.recipients,
        "routing_info": {
            "protocol_used": Some(&accepted.protocol).filter(|name| !name.is_empty()),
            "route_taken": [sent.node, format!("shard_{}", accepted.shard)],
            "estimated_delivery": time(accepted.estimated_delivery_at),
        },
    })
}

pub(super) fn delivery(delivery: &Delivery) -> Value {
    let mut shape = message(delivery.message());
    shape.insert(
        "delivery_id".into(),
        json!(delivery.delivery_id().map(|id| id.to_string())),
    );
    shape.insert("redelivered".into(), delivery.is_redelivered().into());
    shape.insert("delivery_attempt".into(), delivery.attempt().into());
    shape.insert("sent_at".into(), json!(time(Some(delivery.accepted_at()))));
    shape.insert("expires_at".into(), json!(time(Some(delivery.expires_at()))));
    Value::Object(shape)
}

pub(super) fn received(received: &Received) -> Value {
    Value::Object(message(received))
}

/// What is a message's own. A JSON body stands as JSON, a text as text, anything else as Base64.
fn message(message: &Received) -> Map<String, Value> {
    let correlation = String::from_utf8_lossy(message.correlation());
    let mut shape = Map::new();
    let mut put = |name: &str, value: Value| shape.insert(name.into(), value);
    put("message_id", message.id().into());
    put("from_agent", message.from().into());
    put("to", message.to().into());
    put("priority", message.priority().name().into());
    put("qos", (message.qos() as u8).into());
    put(
        "headers",
        message
            .headers()
            .map(|(name, value)| (name.to_owned(), Value::from(value)))
            .collect::<Map<_, _>>()
            .into(),
    );
    put("content_type", message.content_type().into());
    put("message_type", message.message_type().into());
    put("reply_to", json!(message.reply_to()));
    put("correlation_id", correlation.into());
    match body(message) {
        Ok(value) => put("body", value),
        Err(base64) => put("body_base64", base64.into()),
    };
    shape
}

fn body(message: &Received) -> Result<Value, String> {
    let bytes = message.body();
    let json = message.content_type().starts_with("application/json");
    match std::str::from_utf8(bytes) {
        // Parsed only to be embedded; numbers beyond 64 bits keep their digits as text would.
        Ok(text) if json && serde_json::from_str::<&RawValue>(text).is_ok() => {
            serde_json::from_str(text).map_err(|_| STANDARD.encode(bytes))
        }
        Ok(text) if message.content_type().starts_with("text/") => Ok(text.into()),
        _ => Err(STANDARD.encode(bytes)),
    }
}

pub(super) fn status(status: &MessageStatus) -> Value {
    json!({
        "tracking_id": status.tracking_id,
        "status": status.status.name(),
        "reason": Some(&status.reason).filter(|reason| !reason.is_empty()),
        "recipients": status.recipients,
        "counts": status.counts,
        "delivery_attempts": status.attempts,
        "accepted_at": time(status.accepted_at),
        "sent_at": time(status.sent_at),
        "settled_at": time(status.settled_at),
    })
}

pub(super) fn kept(kept: &KeptMessage) -> Value {
    let mut shape = message(&kept.message);
    shape.insert("tracking_id".into(), kept.tracking_id.as_str().into());
    shape.insert("reason".into(), kept.reason.as_str().into());
    shape.insert("delivery_attempts".into(), kept.attempts.into());
    shape.insert("accepted_at".into(), json!(time(kept.accepted_at)));
    shape.insert("settled_at".into(), json!(time(kept.settled_at)));
    Value::Object(shape)
}

pub(super) fn agent(agent: &Agent) -> Value {
    json!({
        "agent_id": agent.agent_id,
        "status": if agent.registered { "registered" } else { "unregistered" },
        "registration_id": Some(&agent.registration_id).filter(|id| !id.is_empty()),
        "name": agent.name,
        "capabilities": agent.capabilities,
        "protocols": agent.protocols,
        "metadata": agent.metadata,
        "endpoints": agent.endpoints,
        "online": agent.sessions > 0,
        "sessions": agent.sessions,
        "registered_at": time(agent.registered_at),
        "updated_at": time(agent.updated_at),
        "last_seen": time(agent.last_seen_at),
    })
}

pub(super) fn connection(connection: &Connection) -> Value {
    json!({
        "agent_id": connection.agent_id,
        "session": connection.session,
        "protocol": connection.protocol,
        "node": connection.node,
        "since": time(Some(connection.since)),
        "credit": {"messages": connection.window_messages, "bytes": connection.window_bytes},
        "in_flight": {"messages": connection.in_flight_messages, "bytes": connection.in_flight_bytes},
        "queue_depth": connection.queue_depth,
        "subscriptions": connection.subscriptions,
    })
}

pub(super) fn group(group: &Group) -> Value {
    json!({
        "group_id": group.group_id,
        "name": group.name,
        "agents": group.agents,
        "communication_mode": group.communication_mode,
        "partition_key": group.partition_key,
        "protocols": group.protocols,
        "policies": {
            "max_message_size": group.message_bytes_max,
            "message_retention": group.message_retention.as_secs(),
            "member_permissions": group.member_permissions,
        },
        "created_by": group.created_by,
        "created_at": time(group.created_at),
    })
}

/// RFC 3339, or null for never.
pub(super) fn time(time: Option<Timestamp>) -> Option<String> {
    time.filter(|time| !time.is_never()).map(Timestamp::to_rfc3339)
}

/// A time for a cell of a table.
pub(super) fn cell(time: Option<Timestamp>) -> String {
    self::time(time).unwrap_or_else(|| "-".into())
}

/// A message for people: a line of who and what, its headers, its body.
pub(super) fn text(message: &Received) -> String {
    let mut text = format!("{}  from {} to {}", message.id(), message.from(), message.to());
    if let Some(reply_to) = message.reply_to() {
        text.push_str(&format!("  reply to {reply_to}"));
    }
    for (name, value) in message.headers() {
        text.push_str(&format!("\n  {name}: {value}"));
    }
    match std::str::from_utf8(message.body()) {
        Ok(body) => text.push_str(&format!("\n  {}", body.trim_end().replace('\n', "\n  "))),
        Err(_) => text.push_str(&format!(
            "\n  ({} bytes of {})",
            message.body().len(),
            message.content_type()
        )),
    }
    text
}
