//! The send request in its two body forms, as HTTP and WebSocket take it.

use std::time::Duration;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;

use super::{
    problem::Problem,
    read::{Errors, Field, Object, read_object},
};
use crate::{
    frame::{
        Address, AgentId, Capability, Draft, GroupId, LastHop, MessageId, Priority, Qos, TopicName, TraceContext,
        limits::{BODY_BYTES_MAX, FIELD_BYTES_MAX, HEADERS_MAX},
    },
    router::surface::DeliveryId,
};

/// Longest name of a protocol, in bytes.
const PROTOCOL_BYTES_MAX: usize = 64;
/// Longest time to live that a request may name: the router's own limit is lower and checked there.
const TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Most delivery ids in one acknowledgement.
const DELIVERY_IDS_MAX: usize = 1000;
/// Trailing bits are let pass, so that the documented pattern says all.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// What stands for the fields that a request leaves out.
#[derive(Clone, Copy)]
pub struct SendDefaults<'a> {
    /// The proven sender, where there is one: `from_agent` may then be left out.
    pub from: Option<&'a AgentId>,
    /// The message id where the request names none (an `Idempotency-Key`).
    pub message_id: Option<&'a MessageId>,
    /// The trace context that came beside the request; a header `traceparent` in it counts where this is none.
    pub trace: TraceContext,
    /// Makes a message id where there is none.
    pub new_message_id: &'a dyn Fn() -> MessageId,
}

/// A message to send, as the door takes it.
#[derive(Clone, Debug)]
pub struct SendRequest {
    pub draft: Draft,
    pub body: Bytes,
    pub trace: TraceContext,
}

impl SendRequest {
    /// Reads a whole request. `source` is the request's text; the body becomes a slice of it where it is most of it.
    pub fn parse(source: &Bytes, defaults: SendDefaults<'_>) -> Result<Self, Problem> {
        let object = read_object(source)?;
        let mut errors = Errors::default();
        let request = Self::read(object, source, defaults, &mut errors);
        errors.finish(request)
    }

    /// Reads an object that lies in `source`, with fields of the caller's own already taken out.
    pub fn read(
        mut object: Object<'_>,
        source: &Bytes,
        defaults: SendDefaults<'_>,
        errors: &mut Errors,
    ) -> Option<Self> {
        let id = match object.take("message_id") {
            Some(field) => field.parsed(errors),
            None => Some(defaults.message_id.cloned().unwrap_or_else(defaults.new_message_id)),
        };
        let from = match (object.take("from_agent"), defaults.from) {
            (Some(field), _) => field.parsed(errors),
            (None, Some(proven)) => Some(proven.clone()),
            (None, None) => {
                errors.at(format!("{}/from_agent", object.pointer()), "is missing");
                None
            }
        };
        let to = read_address(&mut object, errors);
        let mut parts = Parts {
            trace: defaults.trace,
            ..Parts::default()
        };
        parts.read_content(&mut object, source, errors);
        parts.read_service(&mut object, errors);
        object.finish("", errors);
        let mut draft = Draft::new(id?, from?, to?);
        parts.fill(&mut draft);
        Some(Self {
            draft,
            body: parts.body,
            trace: parts.trace,
        })
    }
}

/// What a request says besides its id, sender and address.
#[derive(Default)]
struct Parts {
    body: Bytes,
    content_type: String,
    message_type: String,
    correlation: Vec<u8>,
    headers: Vec<(String, String)>,
    trace: TraceContext,
    priority: Option<Priority>,
    qos: Qos,
    ttl_ms: u64,
    reply_to: Option<Address>,
    last_hop: LastHop,
}

impl Parts {
    fn fill(&mut self, draft: &mut Draft) {
        draft.priority = self.priority.unwrap_or_default();
        draft.qos = self.qos;
        draft.ttl_ms = self.ttl_ms;
        draft.reply_to = self.reply_to.take();
        draft.correlation = std::mem::take(&mut self.correlation);
        draft.message_type = std::mem::take(&mut self.message_type);
        draft.content_type = std::mem::take(&mut self.content_type);
        draft.last_hop = std::mem::take(&mut self.last_hop);
        draft.headers = std::mem::take(&mut self.headers);
    }

    /// The body in one of its forms, its type, and the headers.
    fn read_content(&mut self, object: &mut Object<'_>, source: &Bytes, errors: &mut Errors) {
        if let Some(headers) = object.take("headers").and_then(|field| field.object(errors)) {
            self.read_headers(headers, errors);
        }
        let content_type = object
            .take("content_type")
            .and_then(|field| field.bounded_string(FIELD_BYTES_MAX, errors));
        let mut default_type = "application/json";
        let forms = (object.take("body"), object.take("body_base64"), object.take("message"));
        match forms {
            (None, None, None) => default_type = "",
            (Some(body), None, None) => self.body = slice_of(source, body.raw().get()),
            (None, Some(body), None) => {
                default_type = "application/octet-stream";
                self.body = read_base64(&body, BODY_BYTES_MAX, errors).unwrap_or_default().into();
            }
            (None, None, Some(message)) => self.read_message(&message, source, errors),
            (body, base64, message) => {
                for field in [body, base64, message].into_iter().flatten().skip(1) {
                    errors.at(
                        field.pointer(),
                        "stands beside another body; give one of body, body_base64 and message",
                    );
                }
            }
        }
        self.content_type = content_type.map_or_else(|| default_type.into(), Into::into);
    }

    /// The shorthand: `type`, `priority` and `content`, or an open object that is the body itself.
    fn read_message(&mut self, field: &Field<'_>, source: &Bytes, errors: &mut Errors) {
        let Some(mut message) = field.object(errors) else {
            return;
        };
        if let Some(kind) = message
            .take("type")
            .and_then(|field| field.bounded_string(FIELD_BYTES_MAX, errors))
            && self.message_type.is_empty()
        {
            self.message_type = kind.into();
        }
        if let Some(priority) = message.take("priority") {
            self.priority = read_priority(&priority, errors);
        }
        let content = message.take("content");
        self.body = match content {
            Some(content) if message.names().len() == 0 => slice_of(source, content.raw().get()),
            _ => slice_of(source, message.text()),
        };
    }

    fn read_headers(&mut self, headers: Object<'_>, errors: &mut Errors) {
        if headers.names().len() > HEADERS_MAX {
            errors.at(
                headers.pointer(),
                format!(
                    "has {} entries; at most {HEADERS_MAX} are allowed",
                    headers.names().len()
                ),
            );
            return;
        }
        let has_text_correlation = headers.names().any(|name| name == "correlation_id");
        for (name, field) in headers.into_fields() {
            let Some(value) = field.string(errors) else { continue };
            match name.as_ref() {
                "correlation_id" => match field.bounded_string(FIELD_BYTES_MAX, errors) {
                    Some(value) => self.correlation = value.into_owned().into_bytes(),
                    None => continue,
                },
                // As a delivered message shows what is no text: a reply to it says the same.
                "correlation_id_base64" if has_text_correlation => errors.at(
                    field.pointer(),
                    "stands beside another correlation; give one of correlation_id and correlation_id_base64",
                ),
                "correlation_id_base64" => match read_base64(&field, FIELD_BYTES_MAX, errors) {
                    Some(bytes) => self.correlation = bytes,
                    None => continue,
                },
                "message_type" => match field.bounded_string(FIELD_BYTES_MAX, errors) {
                    Some(value) => self.message_type = value.into(),
                    None => continue,
                },
                "traceparent" => {
                    if self.trace == TraceContext::default() {
                        self.trace = TraceContext::from_traceparent(&value).unwrap_or_default();
                    }
                }
                _ => {
                    check_header_name(&name, &field, errors);
                    self.headers.push((name.into_owned(), value.into_owned()));
                }
            }
        }
    }

    /// Priority, quality of service, time to live, reply address and the last hop.
    fn read_service(&mut self, object: &mut Object<'_>, errors: &mut Errors) {
        if let Some(field) = object.take("priority") {
            self.priority = read_priority(&field, errors);
        }
        if let Some(field) = object.take("qos") {
            let number = field
                .integer(0..=2, errors)
                .and_then(|number| u8::try_from(number).ok());
            self.qos = number.and_then(Qos::from_u8).unwrap_or_default();
        }
        self.ttl_ms = read_ttl(object, errors).unwrap_or_default();
        self.reply_to = object
            .take("reply_to")
            .and_then(|field| read_reply_address(&field, errors));
        let required = object
            .take("protocol_required")
            .map(|field| (field.boolean(errors), field));
        let protocol = object.take("protocol").and_then(|field| protocol_name(&field, errors));
        self.last_hop = match (protocol, required) {
            (Some(protocol), Some((Some(true), _))) => LastHop::Required(protocol),
            (Some(protocol), _) => LastHop::Preferred(protocol),
            (None, Some((Some(true), field))) => {
                errors.at(field.pointer(), "is true, but no `protocol` is named");
                LastHop::Any
            }
            (None, _) => LastHop::Any,
        };
    }
}

/// Names that the fabric keeps for itself, and those that no protocol could carry.
fn check_header_name(name: &str, field: &Field<'_>, errors: &mut Errors) {
    if name.is_empty() || name.chars().any(char::is_control) {
        errors.at(field.pointer(), "has a name that is empty or has a control character");
    } else if name.get(..5).is_some_and(|prefix| prefix.eq_ignore_ascii_case("weft-")) {
        errors.at(
            field.pointer(),
            "is reserved: names that start with `weft-` are the fabric's own",
        );
    }
}

fn read_priority(field: &Field<'_>, errors: &mut Errors) -> Option<Priority> {
    field.one_of(
        &Priority::DESCENDING.map(|priority| (priority.name(), priority)),
        errors,
    )
}

/// `ttl` in seconds or `ttl_ms`.
fn read_ttl(object: &mut Object<'_>, errors: &mut Errors) -> Option<u64> {
    match (object.take("ttl"), object.take("ttl_ms")) {
        (None, None) => None,
        (Some(seconds), None) => Some(seconds.integer(1..=TTL_MAX.as_secs(), errors)? * 1000),
        (None, Some(millis)) => millis.integer(1..=TTL_MAX.as_secs() * 1000, errors),
        (Some(_), Some(millis)) => {
            errors.at(millis.pointer(), "stands beside `ttl`; give one of them");
            None
        }
    }
}

/// The one address that the request names.
fn read_address(object: &mut Object<'_>, errors: &mut Errors) -> Option<Address> {
    const TARGETS: [&str; 4] = ["to_agent", "to_group", "to_topic", "to_capability"];
    let mut given: Vec<_> = TARGETS
        .into_iter()
        .filter_map(|name| object.take(name).map(|field| (name, field)))
        .collect();
    let Some((name, field)) = given.pop() else {
        errors.at(
            format!("{}/to_agent", object.pointer()),
            "is missing; give one of to_agent, to_group, to_topic and to_capability",
        );
        return None;
    };
    if !given.is_empty() {
        errors.at(
            field.pointer(),
            "stands beside another addressee; give one of to_agent, to_group, to_topic and to_capability",
        );
        return None;
    }
    match name {
        "to_group" => field.parsed::<GroupId>(errors).map(|id| Address::group(&id)),
        "to_topic" => field.parsed::<TopicName>(errors).map(|topic| Address::topic(&topic)),
        "to_capability" => field
            .parsed::<Capability>(errors)
            .map(|capability| Address::any(&capability)),
        _ => read_agent_address(&field, errors),
    }
}

/// An agent's id, or `ID#TOKEN`, the session behind a reply address; `agent:` may stand before either, as `reply_to` shows it.
fn read_agent_address(field: &Field<'_>, errors: &mut Errors) -> Option<Address> {
    let text = field.string(errors)?;
    parse_address(
        &format!("agent:{}", text.strip_prefix("agent:").unwrap_or(&text)),
        field,
        errors,
    )
}

/// Any address; without a kind it is an agent's.
fn read_reply_address(field: &Field<'_>, errors: &mut Errors) -> Option<Address> {
    let text = field.string(errors)?;
    if text.contains(':') {
        return parse_address(&text, field, errors);
    }
    parse_address(&format!("agent:{text}"), field, errors)
}

fn parse_address(text: &str, field: &Field<'_>, errors: &mut Errors) -> Option<Address> {
    match text.parse::<Address>() {
        Ok(address) => Some(address),
        Err(error) => {
            errors.at(field.pointer(), error.to_string());
            None
        }
    }
}

/// Base64 of at most so many bytes, or two more.
fn read_base64(field: &Field<'_>, bytes_max: usize, errors: &mut Errors) -> Option<Vec<u8>> {
    let text = field.bounded_string(bytes_max.div_ceil(3) * 4, errors)?;
    match BASE64.decode(text.as_bytes()) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            errors.at(field.pointer(), format!("is not base64 (RFC 4648 §4, padded): {error}"));
            None
        }
    }
}

/// A part of the request's text as bytes: a slice of its buffer where the part is at least half of it, else a copy, so that a
/// small body that waits does not pin a large buffer.
fn slice_of(source: &Bytes, part: &str) -> Bytes {
    if part.len() * 2 >= source.len() {
        source.slice_ref(part.as_bytes())
    } else {
        Bytes::copy_from_slice(part.as_bytes())
    }
}

/// The name of a protocol, such as `websocket`: any well-formed one, for custom protocols have names too.
pub fn protocol_name(field: &Field<'_>, errors: &mut Errors) -> Option<String> {
    let text = field.string(errors)?;
    if !is_protocol_name(&text) {
        errors.at(
            field.pointer(),
            "is not a protocol's name: a letter or digit, then up to 63 of A-Z a-z 0-9 _ . + -",
        );
        return None;
    }
    Some(text.into_owned())
}

/// True for a text that may name a protocol.
pub fn is_protocol_name(text: &str) -> bool {
    text.len() <= PROTOCOL_BYTES_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.+-".contains(&b))
}

/// `delivery_ids` of an acknowledgement: at least one.
pub fn delivery_ids(object: &mut Object<'_>, errors: &mut Errors) -> Option<Vec<DeliveryId>> {
    let field = object.require("delivery_ids", errors)?;
    let items = field.array(DELIVERY_IDS_MAX, errors)?;
    if items.is_empty() {
        errors.at(items.pointer(), "is empty; name at least one delivery id");
        return None;
    }
    items
        .into_items()
        .map(|item| match item.string(errors)?.parse() {
            Ok(id) => Some(id),
            Err(crate::router::error::FabricError::Invalid { detail, .. }) => {
                errors.at(item.pointer(), detail);
                None
            }
            Err(error) => {
                errors.at(item.pointer(), error.to_string());
                None
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::edge::json::Place;

    fn generated() -> MessageId {
        MessageId::new("generated").unwrap()
    }

    const BARE: SendDefaults<'_> = SendDefaults {
        from: None,
        message_id: None,
        trace: TraceContext {
            trace_id: [0; 16],
            span_id: [0; 8],
            flags: 0,
        },
        new_message_id: &generated,
    };

    fn parse(text: &str) -> Result<SendRequest, Problem> {
        SendRequest::parse(&Bytes::copy_from_slice(text.as_bytes()), BARE)
    }

    /// The pointers of what is wrong with a request, in order.
    fn wrong(text: &str) -> Vec<String> {
        let pointer = |error: &super::super::FieldError| match &error.place {
            Place::Pointer(pointer) => pointer.clone(),
            other => panic!("{other:?}"),
        };
        parse(text).unwrap_err().errors.iter().map(pointer).collect()
    }

    #[test]
    fn the_full_form_is_taken_field_by_field() {
        let request = parse(
            r#"{"message_id": "msg_789", "from_agent": "agent_123", "to_agent": "agent_456", "protocol": "websocket",
                "priority": "high", "qos": 2, "ttl": 3600, "reply_to": "agent:agent_123#r1",
                "headers": {"correlation_id": "corr_123", "message_type": "task_request", "x": "y",
                            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
                "body": {"task": "process_data", "n": 1.50}}"#,
        )
        .unwrap();
        let draft = request.draft;
        assert_eq!((draft.id.as_str(), draft.from.as_str()), ("msg_789", "agent_123"));
        assert_eq!(draft.to.as_str(), "agent:agent_456");
        assert_eq!(
            (draft.priority, draft.qos, draft.ttl_ms),
            (Priority::High, Qos::ExactlyOnce, 3_600_000)
        );
        assert_eq!(draft.last_hop, LastHop::Preferred("websocket".into()));
        assert_eq!(draft.reply_to.unwrap().as_str(), "agent:agent_123#r1");
        assert_eq!(
            (draft.correlation.as_slice(), draft.message_type.as_str()),
            (&b"corr_123"[..], "task_request")
        );
        assert_eq!(draft.headers, [("x".to_string(), "y".to_string())]);
        assert_eq!(draft.content_type, "application/json");
        assert_eq!(request.body, r#"{"task": "process_data", "n": 1.50}"#);
        assert_eq!(request.trace.flags, 1);
    }

    #[test]
    fn the_shorthand_with_content_alone_carries_the_content() {
        let request = parse(
            r#"{"from_agent": "agent_1", "to_agent": "agent_2", "protocol": "websocket",
                "message": {"type": "task_request", "content": "Analyze this dataset", "priority": "high"}}"#,
        )
        .unwrap();
        assert_eq!(request.body, r#""Analyze this dataset""#);
        assert_eq!(request.draft.message_type, "task_request");
        assert_eq!(request.draft.priority, Priority::High);
        assert_eq!(request.draft.id.as_str(), "generated");
    }

    #[test]
    fn the_shorthand_with_other_keys_arrives_as_sent() {
        let whole = r#"{"type": "task_result", "task_id": 7, "result": null, "status": "completed"}"#;
        let request = parse(&format!(
            r#"{{"from_agent": "a", "to_group": "g", "message": {whole}}}"#
        ))
        .unwrap();
        assert_eq!(request.body, whole);
        assert_eq!(request.draft.message_type, "task_result");
        let both = r#"{"content": 1, "other": 2}"#;
        let request = parse(&format!(r#"{{"from_agent": "a", "to_group": "g", "message": {both}}}"#)).unwrap();
        assert_eq!(request.body, both);
    }

    #[test]
    fn binary_bodies_come_as_base64() {
        let request =
            parse(r#"{"from_agent": "a", "to_topic": "t/x", "body_base64": "AP8=", "content_type": "image/png"}"#);
        let request = request.unwrap();
        assert_eq!(
            (&request.body[..], request.draft.content_type.as_str()),
            (&[0, 255][..], "image/png")
        );
        for bad in ["AP8", "A", "AP8 ", "AP8=\\n", "_w==", "===="] {
            let text = format!(r#"{{"from_agent": "a", "to_topic": "t", "body_base64": "{bad}"}}"#);
            assert_eq!(wrong(&text), ["/body_base64"], "{bad}");
        }
    }

    #[test]
    fn a_binary_correlation_comes_as_base64() {
        let sent = |headers: &str| format!(r#"{{"from_agent": "a", "to_agent": "b", "headers": {headers}}}"#);
        let request = parse(&sent(r#"{"correlation_id_base64": "AP8=", "x": "y"}"#)).unwrap();
        assert_eq!(request.draft.correlation, [0, 255]);
        assert_eq!(request.draft.headers, [("x".to_string(), "y".to_string())]);
        let long = format!(r#"{{"correlation_id_base64": "{}"}}"#, "A".repeat(FIELD_BYTES_MAX * 2));
        for headers in [
            r#"{"correlation_id_base64": "AP8"}"#,
            r#"{"correlation_id": "", "correlation_id_base64": ""}"#,
            &long,
        ] {
            assert_eq!(wrong(&sent(headers)), ["/headers/correlation_id_base64"], "{headers}");
        }
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        assert_eq!(
            wrong(
                r#"{"message_id": "a b", "from_agent": 1, "to_agent": "x y", "priority": "urgent", "qos": 3, "ttl": -1,
                      "headers": {"a": 1, "weft-x": "", "": ""}, "protocol": "a b", "unknown": 1, "body": 1, "message": {}}"#
            ),
            [
                "/message_id",
                "/from_agent",
                "/to_agent",
                "/headers/a",
                "/headers/weft-x",
                "/headers/",
                "/message",
                "/priority",
                "/qos",
                "/ttl",
                "/protocol",
                "/unknown"
            ]
        );
        assert_eq!(wrong("{}"), ["/from_agent", "/to_agent"]);
        assert_eq!(
            wrong(r#"{"from_agent": "a", "to_agent": "b", "to_topic": "c"}"#),
            ["/to_topic"]
        );
        assert_eq!(
            wrong(r#"{"from_agent": "a", "to_agent": "b", "ttl": 1, "ttl_ms": 1}"#),
            ["/ttl_ms"]
        );
        assert_eq!(
            wrong(r#"{"from_agent": "a", "to_agent": "b", "protocol_required": true}"#),
            ["/protocol_required"]
        );
        assert_eq!(wrong(r#"{"from_agent": "a", "to_agent": "register"}"#), ["/to_agent"]);
        assert_eq!(
            wrong(r#"{"from_agent": "a", "to_agent": "b", "message": {"priority": 3, "type": 1}}"#),
            ["/message/type", "/message/priority"]
        );
    }

    #[test]
    fn a_reply_goes_to_the_session_that_waits() {
        for to in ["b/c#r-1", "agent:b/c#r-1"] {
            let request = parse(&format!(r#"{{"from_agent": "a", "to_agent": "{to}"}}"#)).unwrap();
            assert_eq!(request.draft.to.as_str(), "agent:b/c#r-1");
        }
        assert_eq!(
            wrong(r#"{"from_agent": "a", "to_agent": "agent:agent:b"}"#),
            ["/to_agent"]
        );
        assert_eq!(wrong(r#"{"from_agent": "a", "to_agent": "group:b"}"#), ["/to_agent"]);
    }

    #[test]
    fn a_reply_address_is_any_address_or_an_agents_id() {
        for (given, read) in [
            ("b", "agent:b"),
            ("b/c#r-1", "agent:b/c#r-1"),
            ("agent:b#r-1", "agent:b#r-1"),
            ("group:team", "group:team"),
            ("topic:a/b", "topic:a/b"),
        ] {
            let request = parse(&format!(
                r#"{{"from_agent": "a", "to_agent": "b", "reply_to": "{given}"}}"#
            ))
            .unwrap();
            assert_eq!(request.draft.reply_to.unwrap().as_str(), read);
        }
        assert_eq!(
            wrong(r#"{"from_agent": "a", "to_agent": "b", "reply_to": "x:b"}"#),
            ["/reply_to"]
        );
    }

    #[test]
    fn what_the_request_leaves_out_comes_from_beside_it() {
        let (agent, key) = (AgentId::new("me").unwrap(), MessageId::new("key").unwrap());
        let defaults = SendDefaults {
            from: Some(&agent),
            message_id: Some(&key),
            ..BARE
        };
        let request = SendRequest::parse(&Bytes::from_static(br#"{"to_agent": "b"}"#), defaults);
        let draft = request.unwrap().draft;
        assert_eq!((draft.from.as_str(), draft.id.as_str()), ("me", "key"));
        assert_eq!(
            (draft.ttl_ms, draft.qos, draft.content_type.as_str()),
            (0, Qos::AtLeastOnce, "")
        );
    }

    #[test]
    fn a_small_body_does_not_pin_the_buffer_it_came_in() {
        let padding = "x".repeat(5000);
        let text = format!(r#"{{"from_agent": "a", "to_agent": "b", "headers": {{"p": "{padding}"}}, "body": 1}}"#);
        let source = Bytes::from(text);
        let body = SendRequest::parse(&source, BARE).unwrap().body;
        let range = source.as_ptr_range();
        assert!(!range.contains(&body.as_ptr()));
        let large = format!(r#"{{"from_agent": "a", "to_agent": "b", "body": "{padding}"}}"#);
        let source = Bytes::from(large);
        let body = SendRequest::parse(&source, BARE).unwrap().body;
        assert!(source.as_ptr_range().contains(&body.as_ptr()));
    }

    #[test]
    fn delivery_ids_are_read_and_each_wrong_one_is_named() {
        let read = |text: &str| {
            let mut errors = Errors::default();
            let ids = delivery_ids(&mut read_object(text.as_bytes()).unwrap(), &mut errors);
            errors.finish(ids).map_err(|problem| problem.errors.len())
        };
        assert_eq!(read(r#"{"delivery_ids": ["d_001-2-3"]}"#).unwrap().len(), 1);
        assert_eq!(read(r#"{"delivery_ids": ["x", 1, "d_001-2-3"]}"#), Err(1));
        assert_eq!(read(r#"{"delivery_ids": []}"#), Err(1));
        assert_eq!(read("{}"), Err(1));
    }

    proptest! {
        #[test]
        fn any_json_value_arrives_byte_for_byte(number in any::<f64>().prop_filter("JSON has none", |n| n.is_finite()), text in ".*") {
            let body = serde_json::to_string(&serde_json::json!([number, {"k": text}])).unwrap();
            let request = parse(&format!(r#"{{"from_agent": "a", "to_agent": "b", "body": {body}}}"#)).unwrap();
            prop_assert_eq!(&request.body[..], body.as_bytes());
        }
    }
}
