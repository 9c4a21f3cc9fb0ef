//! A frame: envelope, body and the fabric's part, and its wire form. The same bytes go over links and into stores.
//!
//! ```text
//!  0        4        5      6     7        8              12           16
//!  | "weft" | version| flags| hops| zero   | envelope_len | body_len   |
//!  16                       24                     32
//!  | accepted_at_ms         | expires_at_ms        |
//!  32                                              48                       56
//!  | trace_id (16)                                 | span_id (8)            |
//!  56           57         60          64                       72
//!  | trace_flags| zero (3) | attempt   | xxh3-64 of all others  | envelope … | body … |
//! ```
//!
//! Integers are little-endian. The checksum covers bytes 0–63 and everything behind the prefix. An unknown version, flag or
//! a non-zero reserved byte is refused by name, never guessed: [`WireError`]. Start at [`Frame`].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3Default;

use super::{
    envelope::{Envelope, EnvelopeError},
    limits::{BODY_BYTES_MAX, ENVELOPE_BYTES_MAX},
};
use crate::time::Timestamp;

const MAGIC: [u8; 4] = *b"weft";
/// The version of the prefix and of the envelope archive behind it.
pub const VERSION: u8 = 1;

const VERSION_AT: usize = 4;
const FLAGS_AT: usize = VERSION_AT + 1;
const HOPS_AT: usize = FLAGS_AT + 1;
const RESERVED_AT: usize = HOPS_AT + 1;
const ENVELOPE_LEN_AT: usize = RESERVED_AT + 1;
const BODY_LEN_AT: usize = ENVELOPE_LEN_AT + 4;
const ACCEPTED_AT: usize = BODY_LEN_AT + 4;
const EXPIRES_AT: usize = ACCEPTED_AT + 8;
const TRACE_ID_AT: usize = EXPIRES_AT + 8;
const SPAN_ID_AT: usize = TRACE_ID_AT + 16;
const TRACE_FLAGS_AT: usize = SPAN_ID_AT + 8;
const RESERVED_2_AT: usize = TRACE_FLAGS_AT + 1;
const ATTEMPT_AT: usize = RESERVED_2_AT + 3;
const CHECKSUM_AT: usize = ATTEMPT_AT + 4;
/// Bytes before the envelope.
pub const PREFIX_BYTES: usize = CHECKSUM_AT + 8;

const _: () = assert!(PREFIX_BYTES == 72);

/// Set where the message may have been delivered before.
const FLAG_REDELIVERED: u8 = 1;
/// Set where an MQTT publisher asked that the message be retained.
const FLAG_RETAIN: u8 = 2;
const FLAGS_KNOWN: u8 = FLAG_REDELIVERED | FLAG_RETAIN;

/// Why bytes are not a frame. The peer's fault, or damage on the way; never worth a retry with the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    #[error("the bytes end inside a frame: {have} of {need}")]
    Truncated { have: usize, need: usize },
    #[error("the bytes do not start with a frame's magic number")]
    Magic,
    #[error("frame version {0} is not known; this build knows version {VERSION}")]
    Version(u8),
    #[error("a frame flag is not known: {0:#04x}")]
    Flags(u8),
    #[error("a reserved byte is not zero")]
    Reserved,
    #[error("the body has {bytes} bytes; at most {BODY_BYTES_MAX} are allowed")]
    BodyTooLarge { bytes: usize },
    #[error("the checksum does not match: the frame was damaged")]
    Checksum,
    #[error("{0}")]
    Envelope(#[from] EnvelopeError),
}

/// W3C trace context as it travels; all zero where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub flags: u8,
}

impl TraceContext {
    /// From a `traceparent` header (W3C Trace Context §3.2); `None` where it is malformed or all zero.
    pub fn from_traceparent(text: &str) -> Option<Self> {
        let mut parts = text.trim().splitn(4, '-');
        let (version, trace, span, rest) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let flags = rest.get(..2)?;
        // A later version may append fields behind the flags; version 00 may not, and ff is forbidden.
        if version == "ff" || version.len() != 2 || (version == "00" && rest.len() != 2) {
            return None;
        }
        let mut context = Self::default();
        decode_hex(trace, &mut context.trace_id)?;
        decode_hex(span, &mut context.span_id)?;
        let mut flag = [0];
        decode_hex(flags, &mut flag)?;
        context.flags = flag[0];
        (context.trace_id != [0; 16] && context.span_id != [0; 8]).then_some(context)
    }

    /// As a `traceparent` header; `None` where there is no context.
    pub fn to_traceparent(self) -> Option<String> {
        if self.trace_id == [0; 16] {
            return None;
        }
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Some(format!(
            "00-{}-{}-{:02x}",
            hex(&self.trace_id),
            hex(&self.span_id),
            self.flags
        ))
    }
}

fn decode_hex(text: &str, into: &mut [u8]) -> Option<()> {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != into.len() * 2 || !text.bytes().all(lower) {
        return None;
    }
    for (at, byte) in into.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(())
}

/// The fabric's part of a message: what nodes stamp and change on its way, outside of what a sender may sign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// When the fabric took the message.
    pub accepted_at: Timestamp,
    /// No delivery starts after this; never set to [`Timestamp::NEVER`] by the door unless the node allows it.
    pub expires_at: Timestamp,
    pub trace: TraceContext,
    /// Earlier delivery attempts that failed.
    pub attempt: u32,
    /// Node-to-node links that the message went over.
    pub hops: u8,
    pub flags: Flags,
}

/// Marks on a message that nodes set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// All bits that have a meaning.
    pub(super) const KNOWN: u8 = FLAGS_KNOWN;

    pub(super) const fn bits(self) -> u8 {
        self.0
    }

    /// From bits that were checked to be known.
    pub(super) const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The message may have been delivered before.
    pub const fn is_redelivered(self) -> bool {
        self.0 & FLAG_REDELIVERED != 0
    }

    /// Marks the message as perhaps delivered before.
    #[must_use]
    pub const fn with_redelivered(self) -> Self {
        Self(self.0 | FLAG_REDELIVERED)
    }

    /// The publisher asked that the message be retained.
    pub const fn is_retain(self) -> bool {
        self.0 & FLAG_RETAIN != 0
    }

    /// Marks the message as one to be retained.
    #[must_use]
    pub const fn with_retain(self) -> Self {
        Self(self.0 | FLAG_RETAIN)
    }
}

/// A message: two reference-counted slices and the fabric's small part. A clone is two reference counts.
#[derive(Clone, Debug)]
pub struct Frame {
    pub envelope: Envelope,
    pub body: Bytes,
    pub stamp: Stamp,
}

impl Frame {
    /// A frame that no node has stamped yet. The body is at most 16 MiB.
    pub fn new(envelope: Envelope, body: Bytes) -> Result<Self, WireError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(WireError::BodyTooLarge { bytes: body.len() });
        }
        Ok(Self {
            envelope,
            body,
            stamp: Stamp::default(),
        })
    }

    /// Bytes on the wire and on disk.
    pub fn encoded_len(&self) -> usize {
        PREFIX_BYTES + self.envelope.as_bytes().len() + self.body.len()
    }

    /// Appends the wire form.
    pub fn encode(&self, into: &mut BytesMut) {
        let envelope = self.envelope.as_bytes();
        into.reserve(self.encoded_len());
        let start = into.len();
        into.put_slice(&MAGIC);
        into.put_slice(&[VERSION, self.stamp.flags.0, self.stamp.hops, 0]);
        into.put_u32_le(length(envelope));
        into.put_u32_le(length(&self.body));
        into.put_u64_le(self.stamp.accepted_at.as_millis());
        into.put_u64_le(self.stamp.expires_at.as_millis());
        into.put_slice(&self.stamp.trace.trace_id);
        into.put_slice(&self.stamp.trace.span_id);
        into.put_slice(&[self.stamp.trace.flags, 0, 0, 0]);
        into.put_u32_le(self.stamp.attempt);
        let checksum = checksum(&into[start..], &[envelope, &self.body]);
        into.put_u64_le(checksum);
        into.put_slice(envelope);
        into.put_slice(&self.body);
    }

    /// Takes one frame off the front of bytes from outside and validates it whole. Envelope and body are slices of `from`.
    /// On an error `from` is unchanged.
    pub fn decode(from: &mut Bytes) -> Result<Self, WireError> {
        Self::decode_with(from, Envelope::validate)
    }

    #[cfg(feature = "server")]
    /// [`Frame::decode`] for bytes that this process wrote itself: the fields' grammar is not checked again.
    pub(crate) fn decode_stored(from: &mut Bytes) -> Result<Self, WireError> {
        Self::decode_with(from, Envelope::from_stored)
    }

    fn decode_with(
        from: &mut Bytes,
        envelope: fn(Bytes) -> Result<Envelope, EnvelopeError>,
    ) -> Result<Self, WireError> {
        let prefix = Prefix::decode(from)?;
        let body_at = PREFIX_BYTES + prefix.envelope_len;
        let end = body_at + prefix.body_len;
        if from.len() < end {
            return Err(WireError::Truncated {
                have: from.len(),
                need: end,
            });
        }
        if checksum(&from[..CHECKSUM_AT], &[&from[PREFIX_BYTES..end]]) != prefix.checksum {
            return Err(WireError::Checksum);
        }
        let envelope = envelope(from.slice(PREFIX_BYTES..body_at))?;
        let body = from.slice(body_at..end);
        from.advance(end);
        Ok(Self {
            envelope,
            body,
            stamp: prefix.stamp,
        })
    }

    /// The same frame in buffers of its own, so that what waits does not pin a large read buffer.
    pub fn compact(&self) -> Self {
        Self {
            envelope: self.envelope.compact(),
            body: Bytes::copy_from_slice(&self.body),
            stamp: self.stamp,
        }
    }
}

fn length(bytes: &Bytes) -> u32 {
    u32::try_from(bytes.len()).expect("envelope and body limits are far below 4 GiB and were checked on the way in")
}

fn checksum(prefix: &[u8], parts: &[&[u8]]) -> u64 {
    let mut hasher = Xxh3Default::new();
    hasher.update(prefix);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.digest()
}

struct Prefix {
    envelope_len: usize,
    body_len: usize,
    stamp: Stamp,
    checksum: u64,
}

impl Prefix {
    fn decode(from: &Bytes) -> Result<Self, WireError> {
        if from.len() < PREFIX_BYTES {
            return Err(WireError::Truncated {
                have: from.len(),
                need: PREFIX_BYTES,
            });
        }
        let mut bytes = &from[..PREFIX_BYTES];
        if bytes[..MAGIC.len()] != MAGIC {
            return Err(WireError::Magic);
        }
        match (bytes[VERSION_AT], bytes[FLAGS_AT]) {
            (VERSION, flags) if flags & !FLAGS_KNOWN == 0 => {}
            (VERSION, flags) => return Err(WireError::Flags(flags)),
            (version, _) => return Err(WireError::Version(version)),
        }
        if bytes[RESERVED_AT] != 0 || bytes[RESERVED_2_AT..ATTEMPT_AT] != [0; 3] {
            return Err(WireError::Reserved);
        }
        let (flags, hops) = (Flags(bytes[FLAGS_AT]), bytes[HOPS_AT]);
        bytes.advance(ENVELOPE_LEN_AT);
        let (envelope_len, body_len) = (bytes.get_u32_le() as usize, bytes.get_u32_le() as usize);
        if envelope_len > ENVELOPE_BYTES_MAX {
            return Err(EnvelopeError::TooLarge { bytes: envelope_len }.into());
        }
        if body_len > BODY_BYTES_MAX {
            return Err(WireError::BodyTooLarge { bytes: body_len });
        }
        let mut stamp = Stamp {
            flags,
            hops,
            ..Stamp::default()
        };
        stamp.accepted_at = Timestamp::from_millis(bytes.get_u64_le());
        stamp.expires_at = Timestamp::from_millis(bytes.get_u64_le());
        bytes.copy_to_slice(&mut stamp.trace.trace_id);
        bytes.copy_to_slice(&mut stamp.trace.span_id);
        stamp.trace.flags = bytes.get_u8();
        bytes.advance(3);
        stamp.attempt = bytes.get_u32_le();
        Ok(Self {
            envelope_len,
            body_len,
            stamp,
            checksum: bytes.get_u64_le(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::envelope::tests::draft;

    pub(crate) fn frame(body: &[u8]) -> Frame {
        let mut frame = Frame::new(draft().archive().unwrap(), Bytes::copy_from_slice(body)).unwrap();
        frame.stamp = Stamp {
            accepted_at: Timestamp::from_millis(1_000),
            expires_at: Timestamp::from_millis(2_000),
            trace: TraceContext {
                trace_id: [1; 16],
                span_id: [2; 8],
                flags: 1,
            },
            attempt: 3,
            hops: 4,
            flags: Flags::default().with_redelivered(),
        };
        frame
    }

    fn encoded(frame: &Frame) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        bytes.to_vec()
    }

    #[test]
    fn the_golden_bytes_never_change() {
        let bytes = encoded(&frame(b"hello"));
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("golden_v1.hex").trim());
    }

    #[test]
    fn each_field_of_the_prefix_is_checked() {
        let good = encoded(&frame(b"hello"));
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Frame::decode(&mut Bytes::from(bytes)).map(|_| ()).unwrap_err()
        };
        assert_eq!(with(0, b'W'), WireError::Magic);
        assert_eq!(with(VERSION_AT, 2), WireError::Version(2));
        assert_eq!(with(FLAGS_AT, 0x80), WireError::Flags(0x80));
        assert_eq!(with(HOPS_AT, 9), WireError::Checksum);
        assert_eq!(with(RESERVED_AT, 1), WireError::Reserved);
        assert!(matches!(
            with(ENVELOPE_LEN_AT + 3, 1),
            WireError::Envelope(EnvelopeError::TooLarge { .. })
        ));
        assert!(matches!(with(BODY_LEN_AT + 3, 2), WireError::BodyTooLarge { .. }));
        assert!(matches!(with(BODY_LEN_AT, 200), WireError::Truncated { .. }));
        for at in [
            ACCEPTED_AT,
            EXPIRES_AT,
            TRACE_ID_AT,
            SPAN_ID_AT,
            TRACE_FLAGS_AT,
            ATTEMPT_AT,
            CHECKSUM_AT,
        ] {
            assert_eq!(with(at, 0xEE), WireError::Checksum, "at {at}");
        }
        assert_eq!(with(RESERVED_2_AT, 1), WireError::Reserved);
        assert_eq!(with(good.len() - 1, 0), WireError::Checksum);
    }

    #[test]
    fn traceparent_round_trips_and_refuses_bad_forms() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(
            TraceContext::from_traceparent(text)
                .unwrap()
                .to_traceparent()
                .as_deref(),
            Some(text)
        );
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert_eq!(TraceContext::from_traceparent(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn frames_round_trip_and_leave_what_follows(body in proptest::collection::vec(any::<u8>(), 0..2000), tail in 0usize..50) {
            let original = frame(&body);
            let mut bytes = encoded(&original);
            bytes.extend(vec![7; tail]);
            let mut bytes = Bytes::from(bytes);
            let decoded = Frame::decode(&mut bytes).unwrap();
            prop_assert_eq!(&decoded.body[..], &body[..]);
            prop_assert_eq!(decoded.stamp, original.stamp);
            prop_assert_eq!(decoded.envelope.as_bytes(), original.envelope.as_bytes());
            prop_assert_eq!(bytes.len(), tail);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), with_magic in any::<bool>()) {
            if with_magic && bytes.len() > 8 {
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[4..8].copy_from_slice(&[VERSION, 0, 0, 0]);
            }
            let _ = Frame::decode(&mut Bytes::from(bytes));
        }

        #[test]
        fn every_truncation_is_refused(cut in 0usize..1000) {
            let bytes = encoded(&frame(b"hello"));
            let cut = cut % bytes.len();
            let outcome = Frame::decode(&mut Bytes::from(bytes[..cut].to_vec()));
            let truncated = matches!(outcome, Err(WireError::Truncated { .. }));
            prop_assert!(truncated);
        }
    }
}
