//! `weft.v1.Delivery`, written by hand: a node encodes one straight from the frame that it delivers.
//!
//! The generated type would copy every text of the envelope into a `String` first, about six allocations a delivery, only
//! for the encoder to copy them again. The wire form is the generated one's, held to it by a property test.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message as _,
    encoding::{self, DecodeContext, WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

use super::{convert::outgoing, v1};
use crate::frame::{Envelope, Frame, Priority, Stamp};

/// Tags of `Delivery`.
const ID: u32 = 1;
const ATTEMPT: u32 = 2;
const REDELIVERED: u32 = 3;
const ACCEPTED_AT: u32 = 4;
const EXPIRES_AT: u32 = 5;
const QUEUE: u32 = 6;
const MESSAGE: u32 = 7;

/// A message handed to a receiver. See the proto file for its fields.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    pub id: Option<v1::DeliveryId>,
    pub attempt: u32,
    pub redelivered: bool,
    pub accepted_at_ms: u64,
    pub expires_at_ms: u64,
    pub queue: String,
    pub message: Content,
}

/// A delivery's message: each side has its own form.
#[derive(Clone, Debug, Default)]
pub enum Content {
    #[default]
    Missing,
    /// To be encoded, with the length of its encoded form: every message around it asks for that again.
    Frame(Frame, usize),
    /// As it came in: the bytes of a `weft.v1.Message`, unread.
    Encoded(Bytes),
}

impl Delivery {
    /// With a message that is still a frame; the body is not copied.
    #[must_use]
    pub fn with_frame(mut self, frame: Frame) -> Self {
        let bytes = frame_len(&frame);
        self.message = Content::Frame(frame, bytes);
        self
    }

    /// The message, decoded; `None` where the sender left it out.
    pub fn into_message(self) -> Result<Option<v1::Message>, DecodeError> {
        match self.message {
            Content::Missing => Ok(None),
            Content::Frame(frame, _) => Ok(Some(outgoing(&frame))),
            Content::Encoded(bytes) => v1::Message::decode(bytes).map(Some),
        }
    }
}

impl PartialEq for Delivery {
    fn eq(&self, other: &Self) -> bool {
        self.encode_to_vec() == other.encode_to_vec()
    }
}

impl prost::Message for Delivery {
    fn encode_raw(&self, into: &mut impl BufMut) {
        if let Some(id) = &self.id {
            encoding::message::encode(ID, id, into);
        }
        if self.attempt != 0 {
            encoding::uint32::encode(ATTEMPT, &self.attempt, into);
        }
        if self.redelivered {
            encoding::bool::encode(REDELIVERED, &self.redelivered, into);
        }
        put_number(ACCEPTED_AT, self.accepted_at_ms, into);
        put_number(EXPIRES_AT, self.expires_at_ms, into);
        put_slice(QUEUE, self.queue.as_bytes(), into);
        match &self.message {
            Content::Missing => {}
            Content::Encoded(bytes) => {
                encode_key(MESSAGE, WireType::LengthDelimited, into);
                encode_varint(bytes.len() as u64, into);
                into.put_slice(bytes);
            }
            Content::Frame(frame, bytes) => {
                encode_key(MESSAGE, WireType::LengthDelimited, into);
                encode_varint(*bytes as u64, into);
                put_frame(frame, into);
            }
        }
    }

    fn encoded_len(&self) -> usize {
        let id = self.id.as_ref().map_or(0, |id| encoding::message::encoded_len(ID, id));
        let attempt = match self.attempt {
            0 => 0,
            attempt => encoding::uint32::encoded_len(ATTEMPT, &attempt),
        };
        let redelivered = if self.redelivered { key_len(REDELIVERED) + 1 } else { 0 };
        let message = match &self.message {
            Content::Missing => 0,
            Content::Encoded(bytes) => delimited_len(MESSAGE, bytes.len()),
            Content::Frame(_, bytes) => delimited_len(MESSAGE, *bytes),
        };
        let times = number_len(ACCEPTED_AT, self.accepted_at_ms) + number_len(EXPIRES_AT, self.expires_at_ms);
        id + attempt + redelivered + times + slice_len(QUEUE, self.queue.as_bytes()) + message
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        from: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            ID => encoding::message::merge(wire_type, self.id.get_or_insert_default(), from, context),
            ATTEMPT => encoding::uint32::merge(wire_type, &mut self.attempt, from, context),
            REDELIVERED => encoding::bool::merge(wire_type, &mut self.redelivered, from, context),
            ACCEPTED_AT => encoding::uint64::merge(wire_type, &mut self.accepted_at_ms, from, context),
            EXPIRES_AT => encoding::uint64::merge(wire_type, &mut self.expires_at_ms, from, context),
            QUEUE => encoding::string::merge(wire_type, &mut self.queue, from, context),
            MESSAGE => {
                let mut bytes = Bytes::new();
                encoding::bytes::merge(wire_type, &mut bytes, from, context)?;
                // A field that stands twice counts as both, one behind the other.
                self.message = match std::mem::take(&mut self.message) {
                    Content::Encoded(before) => Content::Encoded([before, bytes].concat().into()),
                    Content::Missing | Content::Frame(..) => Content::Encoded(bytes),
                };
                Ok(())
            }
            _ => encoding::skip_field(wire_type, tag, from, context),
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

// --- a frame as `weft.v1.Message` ------------------------------------------------------------------------------------

/// Bytes of a `traceparent`: version, trace id, span id and flags in hexadecimal, with dashes.
const TRACEPARENT_BYTES: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;

/// The texts of an envelope between its id and its numbers, under their tags in `Message`.
fn slices(envelope: &Envelope) -> [(u32, &[u8]); 2] {
    [(2, envelope.from().as_bytes()), (3, envelope.to().as_bytes())]
}

fn numbers(envelope: &Envelope) -> [(u32, u64); 3] {
    let qos = v1::Qos::from(envelope.qos()) as i32;
    [
        (4, priority_number(envelope.priority())),
        (5, u64::from(qos.unsigned_abs())),
        (6, envelope.ttl_ms()),
    ]
}

fn priority_number(priority: Priority) -> u64 {
    u64::from((v1::Priority::from(priority) as i32).unsigned_abs())
}

fn more_slices(envelope: &Envelope) -> [(u32, &[u8]); 5] {
    [
        (7, envelope.reply_to().unwrap_or_default().as_bytes()),
        (8, envelope.correlation()),
        (9, envelope.message_type().as_bytes()),
        (10, envelope.content_type().as_bytes()),
        (11, envelope.protocol().as_bytes()),
    ]
}

const PROTOCOL_REQUIRED: u32 = 12;
const HEADERS: u32 = 13;
const BODY: u32 = 15;
const TRACEPARENT: u32 = 16;

fn header_len((name, value): (&str, &str)) -> usize {
    slice_len(1, name.as_bytes()) + slice_len(2, value.as_bytes())
}

fn frame_len(frame: &Frame) -> usize {
    let envelope = &frame.envelope;
    let slices = slices(envelope).into_iter().chain(more_slices(envelope));
    let texts: usize = slices.map(|(tag, bytes)| slice_len(tag, bytes)).sum();
    let texts = texts + slice_len(1, envelope.id().as_bytes());
    let numbers: usize = numbers(envelope).into_iter().map(|(tag, n)| number_len(tag, n)).sum();
    let required = if envelope.is_protocol_required() {
        key_len(PROTOCOL_REQUIRED) + 1
    } else {
        0
    };
    let headers: usize = envelope
        .headers()
        .map(|one| delimited_len(HEADERS, header_len(one)))
        .sum();
    let trace = match frame.stamp.trace.trace_id {
        [0, ..] if frame.stamp.trace.trace_id == [0; 16] => 0,
        _ => delimited_len(TRACEPARENT, TRACEPARENT_BYTES),
    };
    texts + numbers + required + headers + slice_len(BODY, &frame.body) + trace
}

fn put_frame(frame: &Frame, into: &mut impl BufMut) {
    put_id(frame.envelope.id(), into);
    put_middle(&frame.envelope, into);
    put_body(&frame.body, into);
    put_trace(&frame.stamp, into);
}

pub(super) fn put_id(id: &str, into: &mut impl BufMut) {
    put_slice(1, id.as_bytes(), into);
}

pub(super) fn put_body(body: &[u8], into: &mut impl BufMut) {
    put_slice(BODY, body, into);
}

/// What stands between id and body.
pub(super) fn put_middle(envelope: &Envelope, into: &mut impl BufMut) {
    for (tag, bytes) in slices(envelope) {
        put_slice(tag, bytes, into);
    }
    for (tag, number) in numbers(envelope) {
        put_number(tag, number, into);
    }
    for (tag, bytes) in more_slices(envelope) {
        put_slice(tag, bytes, into);
    }
    if envelope.is_protocol_required() {
        encoding::bool::encode(PROTOCOL_REQUIRED, &true, into);
    }
    for header in envelope.headers() {
        encode_key(HEADERS, WireType::LengthDelimited, into);
        encode_varint(header_len(header) as u64, into);
        put_slice(1, header.0.as_bytes(), into);
        put_slice(2, header.1.as_bytes(), into);
    }
}

/// What stands behind the body.
pub(super) fn put_trace(stamp: &Stamp, into: &mut impl BufMut) {
    if let Some(traceparent) = stamp.trace.to_traceparent() {
        put_slice(TRACEPARENT, traceparent.as_bytes(), into);
    }
}

fn delimited_len(tag: u32, bytes: usize) -> usize {
    key_len(tag) + encoded_len_varint(bytes as u64) + bytes
}

/// Nothing for an empty one, as proto3 has it.
fn slice_len(tag: u32, bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        0
    } else {
        delimited_len(tag, bytes.len())
    }
}

fn put_slice(tag: u32, bytes: &[u8], into: &mut impl BufMut) {
    if !bytes.is_empty() {
        encode_key(tag, WireType::LengthDelimited, into);
        encode_varint(bytes.len() as u64, into);
        into.put_slice(bytes);
    }
}

/// Nothing for a zero, as proto3 has it.
fn number_len(tag: u32, number: u64) -> usize {
    if number == 0 {
        0
    } else {
        key_len(tag) + encoded_len_varint(number)
    }
}

fn put_number(tag: u32, number: u64, into: &mut impl BufMut) {
    if number != 0 {
        encode_key(tag, WireType::Varint, into);
        encode_varint(number, into);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        frame::{Draft, LastHop, MessageId, Qos, TraceContext},
        rpc::{Parcel, convert::incoming},
    };

    /// What the proto file's compiler would have made of `Delivery`.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Generated {
        #[prost(message, optional, tag = "1")]
        id: Option<v1::DeliveryId>,
        #[prost(uint32, tag = "2")]
        attempt: u32,
        #[prost(bool, tag = "3")]
        redelivered: bool,
        #[prost(uint64, tag = "4")]
        accepted_at_ms: u64,
        #[prost(uint64, tag = "5")]
        expires_at_ms: u64,
        #[prost(string, tag = "6")]
        queue: String,
        #[prost(message, optional, tag = "7")]
        message: Option<v1::Message>,
    }

    fn arbitrary_draft() -> impl Strategy<Value = Draft> {
        let short = "[a-z]{0,20}";
        let headers = proptest::collection::vec(("[a-v][a-z]{0,9}", "[ -~]{0,200}"), 0..5);
        let fields = (
            short,
            short,
            "[a-z]{1,9}",
            proptest::option::of("[a-z]{1,9}"),
            any::<bool>(),
        );
        (
            fields,
            headers,
            0u8..4,
            0u8..3,
            any::<u64>(),
            proptest::collection::vec(any::<u8>(), 0..40),
        )
            .prop_map(
                |((message_type, content_type, name, reply, required), headers, priority, qos, ttl_ms, correlation)| {
                    let id = MessageId::new(&name).unwrap();
                    let mut draft = Draft::new(id, "a/b".parse().unwrap(), format!("topic:{name}").parse().unwrap());
                    draft.priority = Priority::from_u8(priority).unwrap();
                    draft.qos = Qos::from_u8(qos).unwrap();
                    draft.reply_to = reply.map(|token| format!("agent:a/b#{token}").parse().unwrap());
                    draft.last_hop = if required {
                        LastHop::Required(name)
                    } else {
                        LastHop::Any
                    };
                    (draft.message_type, draft.content_type, draft.headers) = (message_type, content_type, headers);
                    (draft.ttl_ms, draft.correlation) = (ttl_ms, correlation);
                    draft
                },
            )
    }

    proptest! {
        #[test]
        fn a_frame_is_encoded_as_the_generated_code_would_and_reads_back(
            draft in arbitrary_draft(),
            body in proptest::collection::vec(any::<u8>(), 0..400),
            numbers in any::<(Option<(u32, u64, u64)>, u32, bool, u64, u64)>(),
            queue in "[a-z:]{0,12}",
            trace in any::<Option<[u8; 16]>>(),
        ) {
            let mut frame = Frame::new(draft.archive().unwrap(), Bytes::from(body)).unwrap();
            if let Some(trace_id) = trace {
                frame.stamp.trace = TraceContext { trace_id, span_id: [7; 8], flags: 1 };
            }
            let id = numbers.0.map(|(shard, seq, lease)| v1::DeliveryId { shard, seq, lease });
            let generated = Generated {
                id,
                attempt: numbers.1,
                redelivered: numbers.2,
                accepted_at_ms: numbers.3,
                expires_at_ms: numbers.4,
                queue: queue.clone(),
                message: Some(outgoing(&frame)),
            };
            let by_hand = Delivery {
                id,
                attempt: numbers.1,
                redelivered: numbers.2,
                accepted_at_ms: numbers.3,
                expires_at_ms: numbers.4,
                queue,
                message: Content::Missing,
            }
            .with_frame(frame);
            let bytes = by_hand.encode_to_vec();
            prop_assert_eq!(bytes.len(), by_hand.encoded_len());
            prop_assert_eq!(&bytes, &generated.encode_to_vec());
            let read = Delivery::decode(&bytes[..]).unwrap();
            prop_assert_eq!(&read, &by_hand);
            prop_assert_eq!(read.into_message().unwrap(), generated.message);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(read) = Delivery::decode(&bytes[..]) {
                let _ = read.into_message();
            }
        }
    }

    #[test]
    fn a_decoded_body_is_a_slice_of_the_buffer_it_came_in() {
        let message = v1::Message {
            id: "m".into(),
            from: "a".into(),
            to: "agent:b".into(),
            body: Bytes::from_static(b"0123456789"),
            ..Default::default()
        };
        let frame = incoming(Parcel::Message(message), None, || unreachable!("it has an id")).unwrap();
        let bytes = Bytes::from(Delivery::default().with_frame(frame).encode_to_vec());
        let read = Delivery::decode(bytes.clone())
            .unwrap()
            .into_message()
            .unwrap()
            .unwrap();
        assert!(
            bytes.as_ptr_range().contains(&read.body.as_ptr()),
            "the body was copied"
        );
        assert_eq!(&read.body[..], b"0123456789");
    }
}
