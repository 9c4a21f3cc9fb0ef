//! A PUBLISH and a frame, one into the other: what MQTT says becomes the envelope's fields, and comes back as it was.
//!
//! What the envelope has no field for travels in headers that start with `mqtt-`: the payload format, a response topic that is no address,
//! and user properties whose names are no header's. What MQTT has no field for travels in user properties that start with `weft-`;
//! of them a client may send its own id, priority and type, and no sender but itself. Start at [`to_frame`] and [`to_publish`].

use std::time::Duration;

use bytes::Bytes;

use super::{
    names::{INBOX_FILTER, address_of_topic, arrival_topic, topic_of_address},
    packet::{Publish, PublishProperties, UserProperties, Version},
    reason::Reason,
};
use crate::{
    frame::{AgentId, Fields, Frame, MessageId, Priority, TraceContext},
    time::Timestamp,
};

/// Properties of weft's own.
const ID: &str = "weft-id";
const FROM: &str = "weft-from";
const PRIORITY: &str = "weft-priority";
const TYPE: &str = "weft-type";
const PROTOCOL: &str = "weft-protocol";
const RESERVED: &str = "weft-";
const TRACEPARENT: &str = "traceparent";
/// Headers that carry what the envelope has no field for.
const CARRIED: &str = "mqtt-";
const PAYLOAD_FORMAT: &str = "mqtt-payload-format";
const RESPONSE_TOPIC: &str = "mqtt-response-topic";
/// It was published with the retain flag: what Retain As Published asks for.
const RETAIN: &str = "mqtt-retain";
/// A user property under a name that is no header's: its length, `:`, the name and the value.
const USER_PROPERTY: &str = "mqtt-user-property";

/// Who sends, and the id that the message gets where its sender gave none.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    pub agent: &'a AgentId,
    pub message_id: &'a str,
    /// Longest message expiry; longer ones are cut to it.
    pub expiry_max: Duration,
}

/// The frame of a PUBLISH whose alias was resolved. The body is the payload's own memory.
///
/// Fails with the reason that the client is answered: a topic that is no address, another's name as sender, a field beyond the
/// envelope's limits.
pub fn to_frame(publish: &Publish, sender: Sender<'_>) -> Result<Frame, Reason> {
    let to = address_of_topic(&publish.topic).map_err(|error| error.reason())?;
    let empty = PublishProperties::default();
    let properties = publish.properties.as_deref().unwrap_or(&empty);
    let mut own = Own::read(&properties.user, sender.agent)?;
    let reply_to = properties.response_topic.as_deref().map(address_of_topic).transpose();
    if let (Err(_), Some(topic)) = (&reply_to, properties.response_topic.as_deref()) {
        own.headers.push((RESPONSE_TOPIC.into(), topic.into()));
    }
    if let Some(format) = properties.payload_format {
        own.headers.push((PAYLOAD_FORMAT.into(), format.to_string()));
    }
    if publish.retain {
        own.headers.push((RETAIN.into(), "1".into()));
    }
    let is_utf8 = properties.payload_format != Some(1) || std::str::from_utf8(&publish.payload).is_ok();
    if !is_utf8 {
        return Err(Reason::PAYLOAD_FORMAT_INVALID);
    }
    let reply_to = reply_to.ok().flatten();
    let headers: Vec<_> = own.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    let envelope = Fields {
        id: own.id.unwrap_or(sender.message_id),
        from: sender.agent.as_str(),
        to: to.as_str(),
        reply_to: reply_to.as_ref().map_or("", |address| address.as_str()),
        correlation: properties.correlation.as_deref().unwrap_or_default(),
        message_type: own.message_type,
        content_type: properties.content_type.as_deref().unwrap_or_default(),
        protocol: "",
        protocol_required: false,
        headers: &headers,
        ttl_ms: ttl_ms(properties.message_expiry_s, sender.expiry_max),
        priority: own.priority,
        qos: publish.qos,
    }
    .archive()
    .map_err(|_| Reason::QUOTA_EXCEEDED)?;
    let mut frame = Frame::new(envelope, publish.payload.clone()).map_err(|_| Reason::PACKET_TOO_LARGE)?;
    frame.stamp.trace = own.trace;
    Ok(frame)
}

/// An expiry of 0 s is one, and the envelope's 0 is none.
fn ttl_ms(expiry_s: Option<u32>, max: Duration) -> u64 {
    let max_ms = u64::try_from(max.as_millis()).unwrap_or(u64::MAX);
    expiry_s.map_or(0, |seconds| (u64::from(seconds) * 1000).max(1).min(max_ms))
}

/// What user properties make of a message.
struct Own<'a> {
    id: Option<&'a str>,
    priority: Priority,
    message_type: &'a str,
    trace: TraceContext,
    headers: UserProperties,
}

impl<'a> Own<'a> {
    fn read(user: &'a UserProperties, agent: &AgentId) -> Result<Self, Reason> {
        let mut own = Self {
            id: None,
            priority: Priority::default(),
            message_type: "",
            trace: TraceContext::default(),
            headers: Vec::with_capacity(user.len()),
        };
        for (name, value) in user {
            match name.as_str() {
                ID => {
                    own.id = Some(
                        MessageId::new(value)
                            .map(|_| value)
                            .map_err(|_| Reason::IMPLEMENTATION_SPECIFIC)?,
                    )
                }
                FROM if value == agent.as_str() => {}
                PRIORITY => own.priority = value.parse().map_err(|()| Reason::IMPLEMENTATION_SPECIFIC)?,
                TYPE => own.message_type = value,
                _ if is_reserved(name) => return Err(Reason::NOT_AUTHORIZED),
                _ => {
                    if let (TRACEPARENT, Some(trace)) = (name.as_str(), TraceContext::from_traceparent(value)) {
                        own.trace = trace;
                    }
                    own.headers.push(header_of(name, value));
                }
            }
        }
        Ok(own)
    }
}

fn is_reserved(name: &str) -> bool {
    name.get(..RESERVED.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(RESERVED))
}

fn header_of(name: &str, value: &str) -> (String, String) {
    let is_header = !name.is_empty() && !name.chars().any(char::is_control) && !name.starts_with(CARRIED);
    match is_header {
        true => (name.to_owned(), value.to_owned()),
        false => (USER_PROPERTY.to_owned(), format!("{}:{name}{value}", name.len())),
    }
}

fn property_of(carried: &str) -> Option<(String, String)> {
    let (length, text) = carried.split_once(':')?;
    let (name, value) = text.split_at_checked(length.parse().ok()?)?;
    Some((name.to_owned(), value.to_owned()))
}

/// The PUBLISH of a frame: at the frame's QoS, without packet id, retain flag and subscription identifiers, which are the
/// session's to set. 3.1.1 gets topic and payload.
pub fn to_publish(frame: &Frame, version: Version, now: Timestamp) -> Publish {
    let topic = arrival_topic(frame.envelope.to());
    let properties = match version {
        Version::V311 => None,
        Version::V5 => Some(properties_of(frame, topic, now)).filter(|properties| !properties.is_empty()),
    };
    Publish {
        dup: false,
        retain: false,
        qos: frame.envelope.qos(),
        topic: topic.to_owned(),
        packet_id: None,
        properties: properties.map(Box::new),
        payload: frame.body.clone(),
    }
}

/// True where the message was published with the retain flag.
pub(super) fn was_retained(frame: &Frame) -> bool {
    frame.envelope.header(RETAIN).is_some()
}

fn properties_of(frame: &Frame, topic: &str, now: Timestamp) -> PublishProperties {
    let envelope = &frame.envelope;
    let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut properties = PublishProperties {
        message_expiry_s: expiry_s(frame, now),
        content_type: filled(envelope.content_type()),
        response_topic: envelope.reply_to().and_then(topic_of_address),
        correlation: (!envelope.correlation().is_empty()).then(|| Bytes::copy_from_slice(envelope.correlation())),
        ..PublishProperties::default()
    };
    for (name, value) in envelope.headers() {
        match name {
            PAYLOAD_FORMAT => properties.payload_format = value.parse().ok().filter(|format| *format <= 1),
            RESPONSE_TOPIC => properties.response_topic = Some(value.to_owned()),
            USER_PROPERTY => properties.user.extend(property_of(value)),
            RETAIN => {}
            _ => properties.user.push((name.to_owned(), value.to_owned())),
        }
    }
    add_own(frame, topic, &mut properties.user);
    properties
}

/// What MQTT has no field for. Who sent and under which id only the inbox says: topics stay byte for byte what was published.
fn add_own(frame: &Frame, topic: &str, user: &mut UserProperties) {
    let envelope = &frame.envelope;
    let mut add = |name: &str, value: &str| user.push((name.to_owned(), value.to_owned()));
    if !envelope.message_type().is_empty() {
        add(TYPE, envelope.message_type());
    }
    let is_inbox = topic == INBOX_FILTER;
    if is_inbox || envelope.priority() != Priority::default() {
        add(PRIORITY, envelope.priority().name());
    }
    if !envelope.protocol().is_empty() {
        add(PROTOCOL, envelope.protocol());
    }
    if !is_inbox {
        return;
    }
    add(ID, envelope.id());
    add(FROM, envelope.from());
    let trace = frame.stamp.trace.to_traceparent();
    if let (None, Some(trace)) = (envelope.header(TRACEPARENT), trace) {
        add(TRACEPARENT, &trace);
    }
}

/// What is left of the expiry that the sender set [MQTT-3.3.2-6]; the node's own default is no property.
fn expiry_s(frame: &Frame, now: Timestamp) -> Option<u32> {
    if frame.envelope.ttl_ms() == 0 || frame.stamp.expires_at.is_never() {
        return None;
    }
    Some(left_s(frame.stamp.expires_at, now))
}

/// Seconds until then, a part of one as a whole one.
pub(super) fn left_s(expires_at: Timestamp, now: Timestamp) -> u32 {
    let left = expires_at.since(now);
    u32::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}
