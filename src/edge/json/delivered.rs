//! A delivered message as JSON. A JSON body stands in it byte for byte; any other as `body_base64`.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeStruct},
};
use serde_json::value::RawValue;

use super::read::is_embeddable;
use crate::{
    frame::{Envelope, Frame},
    router::surface::{Delivery, KeptMessage},
    time::Timestamp,
};

/// Room for the fields beside the body, in bytes.
const FIELDS_BYTES: usize = 512;

/// A delivered message as one JSON object.
pub fn delivered_message(delivery: &Delivery) -> Bytes {
    let mut text = Vec::with_capacity(delivery.frame.body.len() + FIELDS_BYTES);
    delivered_message_into(delivery, &mut text);
    text.into()
}

/// Appends a delivered message as one JSON object.
pub fn delivered_message_into(delivery: &Delivery, into: &mut Vec<u8>) {
    let id = delivery.id.map(|id| id.to_string());
    append(&Message::of(&delivery.frame, Some(id)), into);
}

/// A reply that nothing is to be acknowledged of, as one JSON object: its `delivery_id` is null.
pub fn reply_message(frame: &Frame) -> Bytes {
    let mut text = Vec::with_capacity(frame.body.len() + FIELDS_BYTES);
    append(&Message::of(frame, Some(None)), &mut text);
    text.into()
}

/// Appends a dead letter or a message of a group's history: a delivered message without `delivery_id`, with its `tracking_id`,
/// `delivery_attempts`, `reason` and `settled_at`.
pub fn kept_message_into(kept: &KeptMessage, into: &mut Vec<u8>) {
    let mut message = Message::of(&kept.frame, None);
    message.kept = Some(kept);
    append(&message, into);
}

fn append(message: &Message<'_>, into: &mut Vec<u8>) {
    serde_json::to_writer(into, message).expect("the message has text keys only, and memory takes every write");
}

struct Message<'a> {
    frame: &'a Frame,
    /// `None`: leave the field out.
    delivery_id: Option<Option<String>>,
    kept: Option<&'a KeptMessage>,
}

impl<'a> Message<'a> {
    const fn of(frame: &'a Frame, delivery_id: Option<Option<String>>) -> Self {
        Self {
            frame,
            delivery_id,
            kept: None,
        }
    }
}

impl Serialize for Message<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (envelope, stamp) = (&self.frame.envelope, &self.frame.stamp);
        let mut object = serializer.serialize_struct("Message", 16)?;
        object.serialize_field("message_id", envelope.id())?;
        if let Some(id) = &self.delivery_id {
            object.serialize_field("delivery_id", id)?;
        }
        object.serialize_field("from_agent", envelope.from())?;
        object.serialize_field("to", envelope.to())?;
        if let Some(reply_to) = envelope.reply_to() {
            object.serialize_field("reply_to", reply_to)?;
        }
        object.serialize_field("priority", envelope.priority().name())?;
        object.serialize_field("qos", &(envelope.qos() as u8))?;
        object.serialize_field("sent_at", &time(stamp.accepted_at))?;
        object.serialize_field("expires_at", &time(stamp.expires_at))?;
        object.serialize_field("headers", &Headers(self.frame))?;
        object.serialize_field("content_type", envelope.content_type())?;
        match embeddable(envelope, &self.frame.body) {
            Some(body) => object.serialize_field("body", &body)?,
            None => object.serialize_field("body_base64", &STANDARD.encode(&self.frame.body))?,
        }
        match self.kept {
            None => {
                object.serialize_field("redelivered", &stamp.flags.is_redelivered())?;
                object.serialize_field("delivery_attempt", &(u64::from(stamp.attempt) + 1))?;
            }
            Some(kept) => {
                object.serialize_field("tracking_id", &kept.tracking.to_string())?;
                object.serialize_field("delivery_attempts", &kept.attempts)?;
                object.serialize_field("reason", &Some(kept.reason.name()).filter(|name| !name.is_empty()))?;
                object.serialize_field("settled_at", &time(kept.settled_at))?;
            }
        }
        object.end()
    }
}

/// The body where it is JSON, by its content type and in fact.
fn embeddable(envelope: &Envelope, body: &[u8]) -> Option<Box<RawValue>> {
    if !is_json_type(envelope.content_type()) || !is_embeddable(body) {
        return None;
    }
    // Validated just now, so that this only copies.
    let text = std::str::from_utf8(body).ok()?;
    RawValue::from_string(text.to_owned()).ok()
}

/// True for JSON's media types, and where the sender named none.
fn is_json_type(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.is_empty() || essence.eq_ignore_ascii_case("application/json") || {
        let suffix = essence
            .len()
            .checked_sub("+json".len())
            .and_then(|at| essence.get(at..));
        suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json"))
    }
}

fn time(time: Timestamp) -> Option<String> {
    (!time.is_never()).then(|| time.to_rfc3339())
}

/// The sender's headers as an object, with the envelope's own fields that users write as headers. Values of a name that stands
/// more than once are joined with `, `, as HTTP does.
struct Headers<'a>(&'a Frame);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let envelope = &self.0.envelope;
        let mut pairs: Vec<(&str, Cow<'_, str>)> = Vec::with_capacity(envelope.headers().len() + 3);
        if !envelope.correlation().is_empty() {
            pairs.push(match std::str::from_utf8(envelope.correlation()) {
                Ok(text) => ("correlation_id", text.into()),
                Err(_) => ("correlation_id_base64", STANDARD.encode(envelope.correlation()).into()),
            });
        }
        if !envelope.message_type().is_empty() {
            pairs.push(("message_type", envelope.message_type().into()));
        }
        if let Some(traceparent) = self.0.stamp.trace.to_traceparent() {
            pairs.push(("traceparent", traceparent.into()));
        }
        for (name, value) in envelope.headers() {
            match pairs.iter_mut().find(|(known, _)| *known == name) {
                Some((_, joined)) => *joined = format!("{joined}, {value}").into(),
                None => pairs.push((name, value.into())),
            }
        }
        let mut map = serializer.serialize_map(Some(pairs.len()))?;
        for (name, value) in pairs {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        frame::{Address, AgentId, Draft, Flags, MessageId, Seq, ShardId},
        router::surface::{DeliveryId, Lease},
    };

    fn delivery(body: &[u8], change: impl FnOnce(&mut Draft)) -> Delivery {
        let to = Address::agent(&AgentId::new("agent_456").unwrap());
        let mut draft = Draft::new(
            MessageId::new("msg_789").unwrap(),
            AgentId::new("agent_123").unwrap(),
            to.clone(),
        );
        change(&mut draft);
        let mut frame = Frame::new(draft.archive().unwrap(), Bytes::copy_from_slice(body)).unwrap();
        frame.stamp.attempt = 1;
        frame.stamp.flags = Flags::default().with_redelivered();
        Delivery {
            id: Some(DeliveryId {
                shard: ShardId::new(1).unwrap(),
                seq: Seq::from_raw(2),
                lease: Lease(3),
            }),
            frame,
            queue: to,
        }
    }

    fn value(delivery: &Delivery) -> Value {
        serde_json::from_slice(&delivered_message(delivery)).unwrap()
    }

    #[test]
    fn a_message_shows_all_its_fields() {
        let delivery = delivery(b"[1]", |draft| {
            draft.correlation = b"corr_123".to_vec();
            draft.message_type = "task_request".into();
            draft.content_type = "application/json".into();
            draft.headers = vec![("k".into(), "v".into()), ("k".into(), "w".into())];
        });
        assert_eq!(
            value(&delivery),
            json!({
                "message_id": "msg_789", "delivery_id": "d_001-2-3", "from_agent": "agent_123", "to": "agent:agent_456",
                "priority": "normal", "qos": 1, "sent_at": null, "expires_at": null,
                "headers": {"correlation_id": "corr_123", "message_type": "task_request", "k": "v, w"},
                "content_type": "application/json", "body": [1], "redelivered": true, "delivery_attempt": 2
            })
        );
    }

    #[test]
    fn a_json_body_stands_byte_for_byte_and_any_other_as_base64() {
        let body = br#"{ "a" : 1.50, "b":[ ], "a":"\u00e9" }"#;
        let text = delivered_message(&delivery(body, |_| ()));
        assert!(text.windows(body.len()).any(|window| window == body));
        let deep = "[".repeat(65) + &"]".repeat(65);
        for (bytes, content_type) in [
            (&b"{\"a\":1} }, \"from_agent\": \"x\""[..], ""),
            (b"plain text", ""),
            (b"123", "text/plain"),
            (b"", "application/json"),
            (b"\xff\x00", ""),
            (deep.as_bytes(), ""),
        ] {
            let value = value(&delivery(bytes, |draft| draft.content_type = content_type.into()));
            assert_eq!(value.get("body"), None, "{bytes:?}");
            assert_eq!(value["body_base64"], STANDARD.encode(bytes), "{bytes:?}");
        }
        let typed = delivery(b"1", |draft| draft.content_type = "application/vnd.x+JSON; v=1".into());
        assert_eq!(value(&typed)["body"], 1);
    }

    #[test]
    fn a_binary_correlation_is_shown_as_base64() {
        let delivery = delivery(b"1", |draft| draft.correlation = vec![0xff]);
        assert_eq!(value(&delivery)["headers"], json!({"correlation_id_base64": "/w=="}));
    }
}
