//! What a client asks for: one JSON object per text frame, told apart by `op`.
//!
//! Owns the reading of operations; knows no socket and no session. Start at [`Request::read`].

use bytes::Bytes;

use crate::{
    edge::json::{self, Errors, Field, Object, Problem, SendDefaults, SendRequest},
    frame::TopicFilter,
    router::surface::{DeliveryId, Refusal, Window},
};

/// Longest `ref`, in bytes: it is kept until its answer went out.
const REFERENCE_BYTES_MAX: usize = 128;
/// Longest `retry_after`, in seconds.
const RETRY_AFTER_SECONDS_MAX: u64 = 24 * 3600;
/// Most topic filters of one operation; a session's own limit is the router's.
const TOPICS_MAX: usize = 1024;

/// A client's own name for an operation; its answer carries it.
pub(super) type Reference = Box<str>;

/// An operation with the name that its answer goes under.
#[derive(Debug)]
pub(super) struct Request {
    pub reference: Option<Reference>,
    pub operation: Result<Operation, Problem>,
}

/// What a client asks for.
#[derive(Debug)]
pub(super) enum Operation {
    Send(Box<SendRequest>),
    Ack(Vec<DeliveryId>),
    Nack(Vec<DeliveryId>, Refusal),
    Subscribe(Vec<TopicFilter>),
    Unsubscribe(Vec<TopicFilter>),
    Credit(Window),
}

#[derive(Clone, Copy)]
enum Op {
    Send,
    Ack,
    Nack,
    Subscribe,
    Unsubscribe,
    Credit,
}

const OPS: [(&str, Op); 6] = [
    ("send", Op::Send),
    ("ack", Op::Ack),
    ("nack", Op::Nack),
    ("subscribe", Op::Subscribe),
    ("unsubscribe", Op::Unsubscribe),
    ("credit", Op::Credit),
];

impl Request {
    /// Reads a frame's text. The `ref` is found wherever the text is a JSON object, so that errors reach who waits for them.
    pub(super) fn read(text: &Bytes, defaults: SendDefaults<'_>) -> Self {
        let mut object = match json::read_object(text) {
            Ok(object) => object,
            Err(problem) => {
                return Self {
                    reference: None,
                    operation: Err(problem),
                };
            }
        };
        let mut errors = Errors::default();
        let reference = object
            .take("ref")
            .and_then(|field| field.bounded_string(REFERENCE_BYTES_MAX, &mut errors))
            .map(|text| text.into());
        let op = object
            .require("op", &mut errors)
            .and_then(|field| field.one_of(&OPS, &mut errors));
        // An unknown `op` makes every other field unknown too; saying so would bury the cause.
        let operation = op.and_then(|op| read_fields(op, object, text, defaults, &mut errors));
        Self {
            reference,
            operation: errors.finish(operation),
        }
    }
}

fn read_fields(
    op: Op,
    mut object: Object<'_>,
    text: &Bytes,
    defaults: SendDefaults<'_>,
    errors: &mut Errors,
) -> Option<Operation> {
    let operation = match op {
        Op::Send => {
            let request = SendRequest::read(object, text, defaults, errors)?;
            return Some(Operation::Send(Box::new(request)));
        }
        Op::Ack => json::delivery_ids(&mut object, errors).map(Operation::Ack),
        Op::Nack => {
            let (ids, refusal) = (
                json::delivery_ids(&mut object, errors),
                read_refusal(&mut object, errors),
            );
            ids.zip(refusal).map(|(ids, refusal)| Operation::Nack(ids, refusal))
        }
        Op::Subscribe => read_topics(&mut object, errors).map(Operation::Subscribe),
        Op::Unsubscribe => read_topics(&mut object, errors).map(Operation::Unsubscribe),
        Op::Credit => read_window(&mut object, errors).map(Operation::Credit),
    };
    object.finish("", errors);
    operation
}

fn read_topics(object: &mut Object<'_>, errors: &mut Errors) -> Option<Vec<TopicFilter>> {
    let field = object.require("topics", errors)?;
    let topics: Vec<TopicFilter> = field.parsed_set(TOPICS_MAX, errors)?;
    if topics.is_empty() {
        errors.at(field.pointer(), "is empty; name at least one topic filter");
        return None;
    }
    Some(topics)
}

fn read_refusal(object: &mut Object<'_>, errors: &mut Errors) -> Option<Refusal> {
    let retry_after = match object.take("retry_after") {
        Some(field) => Some(read_retry_after(&field, errors)?),
        None => None,
    };
    let dead_letter = match object.take("dead_letter") {
        Some(field) => field.boolean(errors)?,
        None => false,
    };
    match (dead_letter, retry_after) {
        (true, Some(_)) => {
            errors.at(
                "/retry_after",
                "stands beside `dead_letter`; a dead letter is not handed out again",
            );
            None
        }
        (true, None) => Some(Refusal::DeadLetter),
        (false, after) => Some(Refusal::Retry(after)),
    }
}

/// Seconds as a bare number, or a text such as `500ms`.
fn read_retry_after(field: &Field<'_>, errors: &mut Errors) -> Option<std::time::Duration> {
    if !field.raw().get().starts_with('"') {
        let seconds = field.integer(0..=RETRY_AFTER_SECONDS_MAX, errors)?;
        return Some(std::time::Duration::from_secs(seconds));
    }
    let json::Duration(after) = field.parsed(errors)?;
    if after.as_secs() > RETRY_AFTER_SECONDS_MAX {
        errors.at(
            field.pointer(),
            format!("is longer than {RETRY_AFTER_SECONDS_MAX} seconds"),
        );
        return None;
    }
    Some(after)
}

/// A session's window; the router caps it at its own limit.
fn read_window(object: &mut Object<'_>, errors: &mut Errors) -> Option<Window> {
    let messages = object
        .require("messages", errors)?
        .integer(0..=u64::from(u32::MAX), errors)
        .map(|messages| u32::try_from(messages).expect("bounded by the line above"))?;
    let bytes = match object.take("bytes") {
        Some(field) => field.integer(0..=u64::MAX, errors)?,
        None => Window::DEFAULT.bytes,
    };
    Some(Window { messages, bytes })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::frame::{AgentId, MessageId, TraceContext};

    fn read(text: &str) -> Request {
        let agent = AgentId::new("alice").unwrap();
        Request::read(
            &Bytes::copy_from_slice(text.as_bytes()),
            SendDefaults {
                from: Some(&agent),
                message_id: None,
                trace: TraceContext::default(),
                new_message_id: &|| MessageId::new("fresh").unwrap(),
            },
        )
    }

    fn refused(text: &str) -> (Option<Reference>, String) {
        let request = read(text);
        (request.reference, request.operation.expect_err(text).detail)
    }

    #[test]
    fn a_send_takes_its_sender_from_the_session() {
        let request = read(r#"{"op":"send","ref":"1","to_agent":"bob","body":{"a":1}}"#);
        assert_eq!(request.reference.as_deref(), Some("1"));
        let Ok(Operation::Send(send)) = request.operation else {
            panic!("{request:?}")
        };
        assert_eq!(
            (send.draft.from.as_str(), send.draft.to.as_str()),
            ("alice", "agent:bob")
        );
        assert_eq!((send.draft.id.as_str(), &send.body[..]), ("fresh", &br#"{"a":1}"#[..]));
    }

    #[test]
    fn acknowledgements_and_refusals_are_read() {
        assert!(matches!(
            read(r#"{"op":"ack","delivery_ids":["d_001-2-3"]}"#).operation,
            Ok(Operation::Ack(ids)) if ids.len() == 1
        ));
        for (fields, expected) in [
            ("", Refusal::Retry(None)),
            (r#","retry_after":5"#, Refusal::Retry(Some(Duration::from_secs(5)))),
            (
                r#","retry_after":"500ms""#,
                Refusal::Retry(Some(Duration::from_millis(500))),
            ),
            (r#","dead_letter":true"#, Refusal::DeadLetter),
        ] {
            let text = format!(r#"{{"op":"nack","delivery_ids":["d_001-2-3"]{fields}}}"#);
            assert!(
                matches!(read(&text).operation, Ok(Operation::Nack(_, refusal)) if refusal == expected),
                "{text}"
            );
        }
    }

    #[test]
    fn topics_and_credit_are_read() {
        assert!(matches!(
            read(r#"{"op":"subscribe","topics":["a/+"]}"#).operation,
            Ok(Operation::Subscribe(topics)) if topics[0].as_str() == "a/+"
        ));
        assert!(matches!(
            read(r#"{"op":"unsubscribe","topics":["a/+"]}"#).operation,
            Ok(Operation::Unsubscribe(_))
        ));
        assert!(matches!(
            read(r#"{"op":"credit","messages":0}"#).operation,
            Ok(Operation::Credit(Window { messages: 0, .. }))
        ));
    }

    #[test]
    fn a_wrong_operation_is_refused_by_name_and_under_its_ref() {
        for (text, part) in [
            (r#"{"op":"fly","ref":"7","height":1}"#, "`/op` is none of send"),
            (r#"{"ref":"7"}"#, "`/op` is missing"),
            (r#"{"op":1,"ref":"7"}"#, "`/op`"),
            (
                r#"{"op":"ack","ref":"7","delivery_ids":["d_001-2-3"],"also":1}"#,
                "`/also`",
            ),
            (
                r#"{"op":"ack","ref":"7","delivery_ids":["nonsense"]}"#,
                "`/delivery_ids/0`",
            ),
            (r#"{"op":"subscribe","ref":"7","topics":["a/#/b"]}"#, "`/topics/0`"),
            (r#"{"op":"subscribe","ref":"7","topics":[]}"#, "`/topics`"),
            (
                r#"{"op":"send","ref":"7","to_agent":"bob","colour":"blue"}"#,
                "`/colour`",
            ),
            (r#"{"op":"credit","ref":"7","messages":-1}"#, "`/messages`"),
            (
                r#"{"op":"nack","ref":"7","delivery_ids":["d_001-2-3"],"retry_after":1,"dead_letter":true}"#,
                "`/retry_after`",
            ),
        ] {
            let (reference, detail) = refused(text);
            assert_eq!(reference.as_deref(), Some("7"), "{text}");
            assert!(detail.contains(part), "{text}: {detail}");
        }
    }

    #[test]
    fn text_that_is_no_object_is_refused_without_a_ref() {
        for text in [
            "",
            "nonsense",
            "[]",
            "1",
            r#"{"op":"send""#,
            r#"{"op":"ack","op":"ack"}"#,
        ] {
            assert_eq!(refused(text).0, None, "{text}");
        }
        assert!(
            refused(&format!(r#"{{"op":"ack","ref":"{}"}}"#, "x".repeat(129)))
                .1
                .contains("/ref")
        );
    }
}
