//! `weft.v1` messages to drafts and frames back to messages. Everything from outside is checked here or by the types that
//! it becomes; an unknown enum number is refused, never guessed.

use bytes::Bytes;
use thiserror::Error;

use super::v1;
use crate::frame::{
    Address, AgentId, Draft, Envelope, Frame, LastHop, MessageId, Priority, Qos, TraceContext, limits::FIELD_BYTES_MAX,
    record,
};

/// A field that is not what it should be. The caller's fault; never worth a retry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{field}` {detail}")]
pub struct FieldError {
    /// The field, as in the proto file.
    pub field: &'static str,
    pub detail: String,
}

impl FieldError {
    /// A field and what is wrong with it, as a sentence that the field's name begins.
    pub fn new(field: &'static str, detail: impl ToString) -> Self {
        Self {
            field,
            detail: detail.to_string(),
        }
    }
}

/// A text that may be left out: `None` where it is empty.
pub fn optional<T, E: ToString>(
    field: &'static str,
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, FieldError> {
    match text {
        "" => Ok(None),
        text => required(field, text, parse).map(Some),
    }
}

/// A text that must be there.
pub fn required<T, E: ToString>(
    field: &'static str,
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, FieldError> {
    parse(text).map_err(|error| FieldError::new(field, error.to_string()))
}

/// An enum's number: unknown ones are refused.
pub fn known<E: TryFrom<i32>>(field: &'static str, number: i32) -> Result<E, FieldError> {
    E::try_from(number).map_err(|_| FieldError::new(field, format!("is {number}, which this version does not know")))
}

/// A priority's number; unspecified is normal.
pub fn priority(number: i32) -> Result<Priority, FieldError> {
    Ok(match known("priority", number)? {
        v1::Priority::Unspecified | v1::Priority::Normal => Priority::Normal,
        v1::Priority::Low => Priority::Low,
        v1::Priority::High => Priority::High,
        v1::Priority::Critical => Priority::Critical,
    })
}

/// A QoS's number; unspecified is at least once.
pub fn qos(number: i32) -> Result<Qos, FieldError> {
    Ok(match known("qos", number)? {
        v1::Qos::Unspecified | v1::Qos::AtLeastOnce => Qos::AtLeastOnce,
        v1::Qos::AtMostOnce => Qos::AtMostOnce,
        v1::Qos::ExactlyOnce => Qos::ExactlyOnce,
    })
}

impl From<Priority> for v1::Priority {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Low => Self::Low,
            Priority::Normal => Self::Normal,
            Priority::High => Self::High,
            Priority::Critical => Self::Critical,
        }
    }
}

impl From<Qos> for v1::Qos {
    fn from(qos: Qos) -> Self {
        match qos {
            Qos::AtMostOnce => Self::AtMostOnce,
            Qos::AtLeastOnce => Self::AtLeastOnce,
            Qos::ExactlyOnce => Self::ExactlyOnce,
        }
    }
}

impl From<record::Status> for v1::Status {
    fn from(status: record::Status) -> Self {
        match status {
            record::Status::Queued => Self::Queued,
            record::Status::Sent => Self::Sent,
            record::Status::Delivered => Self::Delivered,
            record::Status::Expired => Self::Expired,
            record::Status::DeadLettered => Self::DeadLettered,
            record::Status::Rejected => Self::Rejected,
        }
    }
}

/// A message from outside, checked: what the door takes.
#[derive(Debug)]
pub struct Incoming {
    pub draft: Draft,
    pub body: Bytes,
    pub trace: TraceContext,
}

/// Parses the ids and addresses of a stream's messages, keeping the last of each: most messages of a stream repeat them,
/// and a repeated one costs a comparison and a reference count instead of a check and an allocation.
#[derive(Debug, Default)]
pub struct Parser {
    from: Option<AgentId>,
    to: Option<Address>,
}

impl Parser {
    /// Checks a message. `sender` stands in where the message names none; `new_id` where it has no id.
    pub fn incoming(
        &mut self,
        message: v1::Message,
        sender: Option<&AgentId>,
        new_id: impl FnOnce() -> MessageId,
    ) -> Result<Incoming, FieldError> {
        let id = optional("id", &message.id, |text| MessageId::new(text))?.unwrap_or_else(new_id);
        let mut draft = Draft::new(id, self.from(&message.from, sender)?, self.to(&message.to)?);
        draft.priority = priority(message.priority)?;
        draft.qos = qos(message.qos)?;
        draft.ttl_ms = message.ttl_ms;
        draft.reply_to = optional("reply_to", &message.reply_to, str::parse::<Address>)?;
        draft.correlation = short("correlation", message.correlation.len()).map(|()| message.correlation.to_vec())?;
        draft.message_type = message.message_type;
        draft.content_type = message.content_type;
        draft.last_hop = last_hop(message.protocol, message.protocol_required)?;
        draft.headers = message.headers.into_iter().map(|h| (h.name, h.value)).collect();
        Ok(Incoming {
            draft,
            body: message.body,
            // A malformed one is ignored, as W3C Trace Context §3.2.2 asks.
            trace: TraceContext::from_traceparent(&message.traceparent).unwrap_or_default(),
        })
    }

    fn from(&mut self, text: &str, sender: Option<&AgentId>) -> Result<AgentId, FieldError> {
        match (&self.from, text, sender) {
            (_, "", Some(sender)) => Ok(sender.clone()),
            (_, "", None) => Err(FieldError::new(
                "from",
                "is empty, and no attached agent stands in for it",
            )),
            (Some(last), text, _) if last.as_str() == text => Ok(last.clone()),
            (_, text, _) => {
                let from = required("from", text, |text| AgentId::new(text))?;
                self.from = Some(from.clone());
                Ok(from)
            }
        }
    }

    fn to(&mut self, text: &str) -> Result<Address, FieldError> {
        match &self.to {
            Some(last) if last.as_str() == text => Ok(last.clone()),
            _ => {
                let to = required("to", text, str::parse::<Address>)?;
                self.to = Some(to.clone());
                Ok(to)
            }
        }
    }
}

/// Before it is copied: the draft's own check comes after.
fn short(field: &'static str, bytes: usize) -> Result<(), FieldError> {
    if bytes > FIELD_BYTES_MAX {
        let detail = format!("has {bytes} bytes; at most {FIELD_BYTES_MAX} are allowed");
        return Err(FieldError::new(field, detail));
    }
    Ok(())
}

fn last_hop(protocol: String, required: bool) -> Result<LastHop, FieldError> {
    match (protocol.as_str(), required) {
        ("", false) => Ok(LastHop::Any),
        ("", true) => Err(FieldError::new(
            "protocol_required",
            "is set, but `protocol` names no protocol",
        )),
        (_, false) => Ok(LastHop::Preferred(protocol)),
        (_, true) => Ok(LastHop::Required(protocol)),
    }
}

/// A frame as a message. The body is a reference count, the rest small copies.
pub fn outgoing(frame: &Frame) -> v1::Message {
    let mut message = envelope(&frame.envelope);
    message.traceparent = frame.stamp.trace.to_traceparent().unwrap_or_default();
    message.body = frame.body.clone();
    message
}

fn envelope(envelope: &Envelope) -> v1::Message {
    v1::Message {
        id: envelope.id().into(),
        from: envelope.from().into(),
        to: envelope.to().into(),
        priority: v1::Priority::from(envelope.priority()).into(),
        qos: v1::Qos::from(envelope.qos()).into(),
        ttl_ms: envelope.ttl_ms(),
        reply_to: envelope.reply_to().unwrap_or_default().into(),
        correlation: Bytes::copy_from_slice(envelope.correlation()),
        message_type: envelope.message_type().into(),
        content_type: envelope.content_type().into(),
        protocol: envelope.protocol().into(),
        protocol_required: envelope.is_protocol_required(),
        headers: envelope.headers().map(header).collect(),
        body: Bytes::new(),
        traceparent: String::new(),
    }
}

fn header((name, value): (&str, &str)) -> v1::Header {
    v1::Header {
        name: name.into(),
        value: value.into(),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn message() -> v1::Message {
        v1::Message {
            id: "m1".into(),
            from: "alice".into(),
            to: "agent:bob".into(),
            priority: v1::Priority::High.into(),
            qos: v1::Qos::AtMostOnce.into(),
            ttl_ms: 5,
            reply_to: "agent:alice#r".into(),
            correlation: Bytes::from_static(&[0, 255]),
            message_type: "t".into(),
            content_type: "text/plain".into(),
            protocol: "grpc".into(),
            protocol_required: true,
            headers: vec![header(("k", "v")), header(("k", "w"))],
            body: Bytes::from_static(b"body"),
            traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
        }
    }

    fn refuse(change: impl FnOnce(&mut v1::Message)) -> &'static str {
        let mut message = message();
        change(&mut message);
        let unused = || MessageId::new("made").unwrap();
        Parser::default().incoming(message, None, unused).unwrap_err().field
    }

    #[test]
    fn a_message_comes_out_of_a_frame_as_it_went_in() {
        let incoming = Parser::default()
            .incoming(message(), None, || unreachable!("it has an id"))
            .unwrap();
        let mut frame = Frame::new(incoming.draft.archive().unwrap(), incoming.body).unwrap();
        frame.stamp.trace = incoming.trace;
        assert_eq!(outgoing(&frame), message());
    }

    #[test]
    fn what_is_left_out_takes_its_default() {
        let sparse = v1::Message {
            to: "topic:a/b".into(),
            ..Default::default()
        };
        let alice = AgentId::new("alice").unwrap();
        let made = MessageId::new("made").unwrap();
        let draft = Parser::default()
            .incoming(sparse, Some(&alice), || made.clone())
            .unwrap()
            .draft;
        assert_eq!((draft.id, draft.from, draft.qos), (made, alice, Qos::AtLeastOnce));
        assert_eq!((draft.priority, draft.last_hop), (Priority::Normal, LastHop::Any));
    }

    #[test]
    fn wrong_fields_are_refused_by_name() {
        assert_eq!(refuse(|m| m.id = "a b".into()), "id");
        assert_eq!(refuse(|m| m.from = "a//b".into()), "from");
        assert_eq!(refuse(|m| m.from = String::new()), "from");
        assert_eq!(refuse(|m| m.to = "bob".into()), "to");
        assert_eq!(refuse(|m| m.to = String::new()), "to");
        assert_eq!(refuse(|m| m.reply_to = "bob".into()), "reply_to");
        assert_eq!(refuse(|m| m.priority = 5), "priority");
        assert_eq!(refuse(|m| m.qos = -1), "qos");
        assert_eq!(refuse(|m| m.correlation = vec![0; 1025].into()), "correlation");
        assert_eq!(refuse(|m| m.protocol = String::new()), "protocol_required");
    }

    #[test]
    fn a_changed_sender_or_address_is_not_taken_for_the_last_one() {
        let mut parser = Parser::default();
        let unused = || MessageId::new("made").unwrap();
        parser.incoming(message(), None, unused).unwrap();
        let other = v1::Message {
            from: "carol".into(),
            to: "agent:dave".into(),
            ..message()
        };
        let draft = parser.incoming(other, None, unused).unwrap().draft;
        assert_eq!((draft.from.as_str(), draft.to.as_str()), ("carol", "agent:dave"));
    }

    #[test]
    fn a_decoded_body_is_a_slice_of_the_buffer_it_came_in() {
        let bytes = Bytes::from(message().encode_to_vec());
        let decoded = v1::Message::decode(bytes.clone()).unwrap();
        let buffer = bytes.as_ptr_range();
        assert!(buffer.contains(&decoded.body.as_ptr()), "the body was copied");
    }
}
