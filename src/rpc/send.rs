//! `weft.v1.SendFrame`, by hand: a node keeps its messages as the slices that they came in.
//!
//! The generated type would decode every text into a `String` first, only for the envelope's archive to copy it again. What a
//! slice says is read by [`View`], which borrows from it. The wire form is the generated one's, held to it by a property test.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message as _,
    encoding::{self, DecodeContext, WireType, decode_key, decode_varint},
};

use super::{convert::IncomingError, v1};

/// Tags of `SendFrame`.
const FIRST_TAG: u32 = 1;
const MESSAGES: u32 = 2;
const RECEIPTS: u32 = 3;
const FROM: u32 = 4;

/// Messages to send. See the proto file for its fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SendFrame {
    pub first_tag: u64,
    pub messages: Vec<Parcel>,
    pub receipts: i32,
    pub from: String,
}

/// A frame's message: each side has its own form.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a box would be an allocation a message on the sending side; a node has a few of these for a moment"
)]
pub enum Parcel {
    /// To be encoded.
    Message(v1::Message),
    /// As it came in: the bytes of a `weft.v1.Message`, unread.
    Encoded(Bytes),
}

impl PartialEq for Parcel {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |parcel: &Self| match parcel {
            Self::Message(message) => message.encode_to_vec().into(),
            Self::Encoded(bytes) => bytes.clone(),
        };
        bytes(self) == bytes(other)
    }
}

impl Parcel {
    /// The message, decoded where it is not yet.
    pub fn into_message(self) -> Result<v1::Message, DecodeError> {
        match self {
            Self::Message(message) => Ok(message),
            Self::Encoded(bytes) => v1::Message::decode(bytes),
        }
    }

    /// Bytes of the body, or, where that is not known yet, of all of it.
    pub fn body_len(&self) -> usize {
        match self {
            Self::Message(message) => message.body.len(),
            Self::Encoded(bytes) => bytes.len(),
        }
    }

    fn encode(&self, into: &mut impl BufMut) {
        match self {
            Self::Message(message) => encoding::message::encode(MESSAGES, message, into),
            Self::Encoded(bytes) => encoding::bytes::encode(MESSAGES, bytes, into),
        }
    }

    fn encoded_len(&self) -> usize {
        match self {
            Self::Message(message) => encoding::message::encoded_len(MESSAGES, message),
            Self::Encoded(bytes) => encoding::bytes::encoded_len(MESSAGES, bytes),
        }
    }
}

impl prost::Message for SendFrame {
    fn encode_raw(&self, into: &mut impl BufMut) {
        if self.first_tag != 0 {
            encoding::uint64::encode(FIRST_TAG, &self.first_tag, into);
        }
        self.messages.iter().for_each(|parcel| parcel.encode(into));
        if self.receipts != 0 {
            encoding::int32::encode(RECEIPTS, &self.receipts, into);
        }
        if !self.from.is_empty() {
            encoding::string::encode(FROM, &self.from, into);
        }
    }

    fn encoded_len(&self) -> usize {
        let first_tag = match self.first_tag {
            0 => 0,
            _ => encoding::uint64::encoded_len(FIRST_TAG, &self.first_tag),
        };
        let receipts = match self.receipts {
            0 => 0,
            _ => encoding::int32::encoded_len(RECEIPTS, &self.receipts),
        };
        let from = match self.from.as_str() {
            "" => 0,
            _ => encoding::string::encoded_len(FROM, &self.from),
        };
        first_tag + self.messages.iter().map(Parcel::encoded_len).sum::<usize>() + receipts + from
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        from: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            FIRST_TAG => encoding::uint64::merge(wire_type, &mut self.first_tag, from, context),
            MESSAGES => {
                if self.messages.capacity() == 0 {
                    self.messages.reserve(super::BATCH_MESSAGES);
                }
                let mut bytes = Bytes::new();
                encoding::bytes::merge(wire_type, &mut bytes, from, context)?;
                self.messages.push(Parcel::Encoded(bytes));
                Ok(())
            }
            RECEIPTS => encoding::int32::merge(wire_type, &mut self.receipts, from, context),
            FROM => encoding::string::merge(wire_type, &mut self.from, from, context),
            _ => encoding::skip_field(wire_type, tag, from, context),
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What a `weft.v1.Message` says, borrowed. Fields as in the proto file.
#[derive(Debug, Default)]
pub struct View<'a> {
    pub id: &'a str,
    pub from: &'a str,
    pub to: &'a str,
    pub priority: i32,
    pub qos: i32,
    pub ttl_ms: u64,
    pub reply_to: &'a str,
    pub correlation: &'a [u8],
    pub message_type: &'a str,
    pub content_type: &'a str,
    pub protocol: &'a str,
    pub protocol_required: bool,
    pub headers: Vec<(&'a str, &'a str)>,
    pub body: &'a [u8],
    pub traceparent: &'a str,
}

impl<'a> View<'a> {
    /// Of a message that was decoded whole.
    pub fn of(message: &'a v1::Message) -> Self {
        Self {
            id: &message.id,
            from: &message.from,
            to: &message.to,
            priority: message.priority,
            qos: message.qos,
            ttl_ms: message.ttl_ms,
            reply_to: &message.reply_to,
            correlation: &message.correlation,
            message_type: &message.message_type,
            content_type: &message.content_type,
            protocol: &message.protocol,
            protocol_required: message.protocol_required,
            headers: message.headers.iter().map(|h| (&*h.name, &*h.value)).collect(),
            body: &message.body,
            traceparent: &message.traceparent,
        }
    }

    /// Reads an encoded message. As protobuf has it, the last of a field that stands twice counts, and unknown ones are passed
    /// over.
    pub fn read(mut from: &'a [u8]) -> Result<Self, IncomingError> {
        let mut view = Self::default();
        while !from.is_empty() {
            let (tag, wire_type) = decode_key(&mut from)?;
            match wire_type {
                WireType::LengthDelimited => view.set_slice(tag, slice(&mut from)?)?,
                WireType::Varint => view.set_number(tag, decode_varint(&mut from)?)?,
                _ if is_known(tag) => return Err(wrong_type(tag)),
                _ => encoding::skip_field(wire_type, tag, &mut from, DecodeContext::default())?,
            }
        }
        Ok(view)
    }

    fn set_slice(&mut self, tag: u32, bytes: &'a [u8]) -> Result<(), IncomingError> {
        match tag {
            1 => self.id = text("id", bytes)?,
            2 => self.from = text("from", bytes)?,
            3 => self.to = text("to", bytes)?,
            7 => self.reply_to = text("reply_to", bytes)?,
            8 => self.correlation = bytes,
            9 => self.message_type = text("message_type", bytes)?,
            10 => self.content_type = text("content_type", bytes)?,
            11 => self.protocol = text("protocol", bytes)?,
            13 => self.headers.push(header(bytes)?),
            15 => self.body = bytes,
            16 => self.traceparent = text("traceparent", bytes)?,
            tag if is_known(tag) => return Err(wrong_type(tag)),
            _ => {}
        }
        Ok(())
    }

    /// Numbers as protobuf narrows them: an enum is its lower 32 bits, a bool anything but 0.
    fn set_number(&mut self, tag: u32, number: u64) -> Result<(), IncomingError> {
        match tag {
            4 => self.priority = number as i32,
            5 => self.qos = number as i32,
            6 => self.ttl_ms = number,
            12 => self.protocol_required = number != 0,
            tag if is_known(tag) => return Err(wrong_type(tag)),
            _ => {}
        }
        Ok(())
    }
}

/// `Message`'s tags; 14 was never given.
const fn is_known(tag: u32) -> bool {
    matches!(tag, 1..=13 | 15 | 16)
}

fn header(mut from: &[u8]) -> Result<(&str, &str), IncomingError> {
    let (mut name, mut value) = ("", "");
    while !from.is_empty() {
        match decode_key(&mut from)? {
            (1, WireType::LengthDelimited) => name = text("headers", slice(&mut from)?)?,
            (2, WireType::LengthDelimited) => value = text("headers", slice(&mut from)?)?,
            (tag @ (1 | 2), _) => return Err(wrong_type(tag)),
            (tag, wire_type) => encoding::skip_field(wire_type, tag, &mut from, DecodeContext::default())?,
        }
    }
    Ok((name, value))
}

/// A length and so many bytes.
fn slice<'a>(from: &mut &'a [u8]) -> Result<&'a [u8], IncomingError> {
    let length = usize::try_from(decode_varint(from)?).unwrap_or(usize::MAX);
    let (bytes, rest) = from
        .split_at_checked(length)
        .ok_or_else(|| IncomingError::Malformed("it ends within a field".into()))?;
    *from = rest;
    Ok(bytes)
}

fn text<'a>(field: &'static str, bytes: &'a [u8]) -> Result<&'a str, IncomingError> {
    str::from_utf8(bytes).map_err(|_| IncomingError::Malformed(format!("`{field}` is not UTF-8")))
}

fn wrong_type(tag: u32) -> IncomingError {
    IncomingError::Malformed(format!("field {tag} has another type than in the proto file"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the proto file's compiler would have made of `SendFrame`.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Generated {
        #[prost(uint64, tag = "1")]
        first_tag: u64,
        #[prost(message, repeated, tag = "2")]
        messages: Vec<v1::Message>,
        #[prost(int32, tag = "3")]
        receipts: i32,
        #[prost(string, tag = "4")]
        from: String,
    }

    fn message() -> impl Strategy<Value = v1::Message> {
        let texts = (
            ".{0,8}", ".{0,8}", ".{0,8}", ".{0,8}", ".{0,8}", ".{0,8}", ".{0,8}", ".{0,8}",
        );
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        let headers = proptest::collection::vec((".{0,5}", ".{0,5}"), 0..3);
        (texts, any::<(i32, i32, u64, bool)>(), bytes(), bytes(), headers).prop_map(
            |(texts, (priority, qos, ttl_ms, protocol_required), correlation, body, headers)| v1::Message {
                id: texts.0,
                from: texts.1,
                to: texts.2,
                priority,
                qos,
                ttl_ms,
                reply_to: texts.3,
                correlation: correlation.into(),
                message_type: texts.4,
                content_type: texts.5,
                protocol: texts.6,
                protocol_required,
                headers: headers
                    .into_iter()
                    .map(|(name, value)| v1::Header { name, value })
                    .collect(),
                body: body.into(),
                traceparent: texts.7,
            },
        )
    }

    /// Everything of a view, owned.
    fn owned(view: &View<'_>) -> v1::Message {
        let header = |&(name, value): &(&str, &str)| v1::Header {
            name: name.into(),
            value: value.into(),
        };
        v1::Message {
            id: view.id.into(),
            from: view.from.into(),
            to: view.to.into(),
            priority: view.priority,
            qos: view.qos,
            ttl_ms: view.ttl_ms,
            reply_to: view.reply_to.into(),
            correlation: Bytes::copy_from_slice(view.correlation),
            message_type: view.message_type.into(),
            content_type: view.content_type.into(),
            protocol: view.protocol.into(),
            protocol_required: view.protocol_required,
            headers: view.headers.iter().map(header).collect(),
            body: Bytes::copy_from_slice(view.body),
            traceparent: view.traceparent.into(),
        }
    }

    proptest! {
        #[test]
        fn a_frame_is_encoded_as_the_generated_code_would_and_reads_back(
            first_tag in any::<u64>(),
            messages in proptest::collection::vec(message(), 0..4),
            receipts in any::<i32>(),
            from in ".{0,5}",
        ) {
            let parcels = messages.iter().cloned().map(Parcel::Message).collect();
            let by_hand = SendFrame { first_tag, messages: parcels, receipts, from: from.clone() };
            let generated = Generated { first_tag, messages: messages.clone(), receipts, from };
            let bytes = by_hand.encode_to_vec();
            prop_assert_eq!(bytes.len(), by_hand.encoded_len());
            prop_assert_eq!(&bytes, &generated.encode_to_vec());
            let read = SendFrame::decode(&bytes[..]).unwrap();
            prop_assert_eq!(&read, &by_hand);
            prop_assert_eq!(read.encode_to_vec(), bytes);
            for (parcel, message) in read.messages.iter().zip(&messages) {
                let Parcel::Encoded(encoded) = parcel else { panic!("{parcel:?}") };
                prop_assert_eq!(&owned(&View::read(encoded).unwrap()), message);
            }
        }

        /// A view takes what the generated code takes and refuses what it refuses.
        #[test]
        fn a_damaged_message_is_read_as_the_generated_code_reads_it(
            message in message(),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = message.encode_to_vec();
            if !bytes.is_empty() {
                for (at, byte) in damage {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                if cut.index(4) == 0 {
                    bytes.truncate(cut.index(bytes.len()));
                }
            }
            let generated = v1::Message::decode(&bytes[..]);
            let view = View::read(&bytes);
            prop_assert_eq!(view.is_ok(), generated.is_ok(), "{:?} {:?}", view, generated);
            if let (Ok(view), Ok(generated)) = (view, generated) {
                prop_assert_eq!(owned(&view), generated);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = View::read(&bytes);
            let _ = SendFrame::decode(&bytes[..]);
        }
    }
}
