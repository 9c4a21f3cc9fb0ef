//! `weft.v1` messages to drafts and frames back to messages. Everything from outside is checked here or by the types that
//! it becomes; an unknown enum number is refused, never guessed.

use bytes::Bytes;
use thiserror::Error;

use super::{
    send::{Parcel, View},
    v1,
};
use crate::frame::{
    AgentId, Envelope, EnvelopeError, Fields, Frame, MessageId, Priority, Qos, TraceContext, limits::BODY_BYTES_MAX,
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

/// Why a message from outside is no frame. The caller's fault; never worth a retry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IncomingError {
    #[error("{0}")]
    Field(#[from] FieldError),
    #[error("{0}")]
    Envelope(#[from] EnvelopeError),
    #[error("the body has {bytes} bytes; at most {BODY_BYTES_MAX} can be sent")]
    BodyTooLarge { bytes: usize },
    #[error("the message is not a well-formed weft.v1.Message: {0}")]
    Malformed(String),
}

impl From<prost::DecodeError> for IncomingError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// A message from outside as a checked frame: what the door takes. `sender` stands in where the message names none; `new_id`
/// where it has no id. The texts are copied once, into the envelope's archive; the body is not copied.
pub fn incoming(
    parcel: Parcel,
    sender: Option<&AgentId>,
    new_id: impl FnOnce() -> MessageId,
) -> Result<Frame, IncomingError> {
    let (envelope, body, trace) = match parcel {
        Parcel::Message(message) => {
            let view = View::of(&message);
            let (envelope, trace) = (archive(&view, sender, new_id)?, trace(&view));
            (envelope, message.body, trace)
        }
        Parcel::Encoded(bytes) => {
            let view = View::read(&bytes)?;
            (
                archive(&view, sender, new_id)?,
                bytes.slice_ref(view.body),
                trace(&view),
            )
        }
    };
    let bytes = body.len();
    let mut frame = Frame::new(envelope, body).map_err(|_| IncomingError::BodyTooLarge { bytes })?;
    frame.stamp.trace = trace;
    Ok(frame)
}

/// A malformed one is ignored, as W3C Trace Context §3.2.2 asks.
fn trace(view: &View<'_>) -> TraceContext {
    match view.traceparent {
        "" => TraceContext::default(),
        text => TraceContext::from_traceparent(text).unwrap_or_default(),
    }
}

fn archive(
    view: &View<'_>,
    sender: Option<&AgentId>,
    new_id: impl FnOnce() -> MessageId,
) -> Result<Envelope, IncomingError> {
    let made;
    let id = match view.id {
        "" => {
            made = new_id();
            made.as_str()
        }
        id => id,
    };
    let fields = Fields {
        id,
        from: from(view.from, sender)?,
        to: view.to,
        reply_to: view.reply_to,
        correlation: view.correlation,
        message_type: view.message_type,
        content_type: view.content_type,
        protocol: protocol(view)?,
        protocol_required: view.protocol_required,
        headers: &view.headers,
        ttl_ms: view.ttl_ms,
        priority: priority(view.priority)?,
        qos: qos(view.qos)?,
    };
    Ok(fields.archive()?)
}

fn from<'a>(text: &'a str, sender: Option<&'a AgentId>) -> Result<&'a str, FieldError> {
    match (text, sender) {
        ("", Some(sender)) => Ok(sender.as_str()),
        ("", None) => Err(FieldError::new(
            "from",
            "is empty, and no attached agent stands in for it",
        )),
        (text, _) => Ok(text),
    }
}

fn protocol<'a>(view: &View<'a>) -> Result<&'a str, FieldError> {
    match (view.protocol, view.protocol_required) {
        ("", true) => Err(FieldError::new(
            "protocol_required",
            "is set, but `protocol` names no protocol",
        )),
        (protocol, _) => Ok(protocol),
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

    fn refuse(change: impl FnOnce(&mut v1::Message)) -> IncomingError {
        let mut message = message();
        change(&mut message);
        incoming(Parcel::Message(message), None, || MessageId::new("made").unwrap()).unwrap_err()
    }

    fn refused_field(change: impl FnOnce(&mut v1::Message)) -> &'static str {
        match refuse(change) {
            IncomingError::Field(error) => error.field,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_message_comes_out_of_a_frame_as_it_went_in() {
        let frame = incoming(Parcel::Message(message()), None, || unreachable!("it has an id")).unwrap();
        assert_eq!(outgoing(&frame), message());
    }

    #[test]
    fn what_is_left_out_takes_its_default() {
        let sparse = v1::Message {
            to: "topic:a/b".into(),
            ..Default::default()
        };
        let alice = AgentId::new("alice").unwrap();
        let envelope = incoming(Parcel::Message(sparse), Some(&alice), || {
            MessageId::new("made").unwrap()
        })
        .unwrap()
        .envelope;
        assert_eq!((envelope.id(), envelope.from()), ("made", "alice"));
        assert_eq!(
            (envelope.priority(), envelope.qos()),
            (Priority::Normal, Qos::AtLeastOnce)
        );
        assert_eq!((envelope.protocol(), envelope.is_protocol_required()), ("", false));
    }

    #[test]
    fn wrong_fields_are_refused_by_name() {
        assert!(matches!(
            refuse(|m| m.id = "a b".into()),
            IncomingError::Envelope(EnvelopeError::MessageId(_))
        ));
        assert!(matches!(
            refuse(|m| m.from = "a//b".into()),
            IncomingError::Envelope(EnvelopeError::From(_))
        ));
        for to in ["bob", ""] {
            let refused = refuse(|m| m.to = to.into());
            assert!(matches!(refused, IncomingError::Envelope(EnvelopeError::To(_))));
        }
        assert!(matches!(
            refuse(|m| m.reply_to = "bob".into()),
            IncomingError::Envelope(EnvelopeError::ReplyTo(_))
        ));
        let long = EnvelopeError::FieldTooLong {
            field: "correlation",
            bytes: 1025,
        };
        assert_eq!(
            refuse(|m| m.correlation = vec![0; 1025].into()),
            IncomingError::Envelope(long)
        );
        assert_eq!(refused_field(|m| m.from = String::new()), "from");
        assert_eq!(refused_field(|m| m.priority = 5), "priority");
        assert_eq!(refused_field(|m| m.qos = -1), "qos");
        assert_eq!(refused_field(|m| m.protocol = String::new()), "protocol_required");
    }

    #[test]
    fn a_decoded_body_is_a_slice_of_the_buffer_it_came_in() {
        let bytes = Bytes::from(message().encode_to_vec());
        let decoded = v1::Message::decode(bytes.clone()).unwrap();
        let buffer = bytes.as_ptr_range();
        assert!(buffer.contains(&decoded.body.as_ptr()), "the body was copied");
    }
}
