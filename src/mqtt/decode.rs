//! From bytes to packets: finds where each packet ends, judges its first byte and its length before waiting for the rest.
//!
//! Owns the bounds of what a client may send: 16 KiB until its CONNECT was read, the node's largest packet afterwards. What a packet
//! says is read in `parse.rs`. Never keeps bytes: the buffer is the caller's. Start at [`Decoder::next`].

use bytes::{Buf, Bytes, BytesMut};

use super::{
    packet::{Packet, Publish, Version},
    parse,
    reason::Reason,
};

/// Longest first packet, in bytes: whoever has proven nothing may not make the node wait with a larger buffer.
const CONNECT_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a length (§1.5.5).
const LENGTH_BYTES_MAX: usize = 4;

/// Packet types (§2.1.2), as the upper half of the first byte.
pub(super) mod kind {
    pub const CONNECT: u8 = 1;
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const PUBREC: u8 = 5;
    pub const PUBREL: u8 = 6;
    pub const PUBCOMP: u8 = 7;
    pub const SUBSCRIBE: u8 = 8;
    pub const SUBACK: u8 = 9;
    pub const UNSUBSCRIBE: u8 = 10;
    pub const UNSUBACK: u8 = 11;
    pub const PINGREQ: u8 = 12;
    pub const PINGRESP: u8 = 13;
    pub const DISCONNECT: u8 = 14;
    pub const AUTH: u8 = 15;
}

/// Why bytes are no packet. The connection ends with it; [`super::Session::handle_malformed`] says how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    pub reason: Reason,
    /// The version that the client speaks, as far as it could be read.
    pub version: Option<Version>,
    /// What is wrong, for people.
    pub what: &'static str,
}

/// Bounds of what is read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the largest packet after CONNECT, its fixed header included.
    pub packet_bytes_max: usize,
}

/// Reads one connection's packets. Knows the version once CONNECT was read.
#[derive(Clone, Debug)]
pub struct Decoder {
    limits: Limits,
    version: Option<Version>,
    /// Topic and properties of the last packet as they came, where it was a PUBLISH of QoS 0.
    twin: Option<Bytes>,
}

/// A packet that differs from the one before in nothing but its payload: where that stands in the buffer, to whose front it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twin {
    pub payload: std::ops::Range<usize>,
}

impl Decoder {
    /// One that waits for a CONNECT.
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            version: None,
            twin: None,
        }
    }

    /// The version of the CONNECT that was read.
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// Takes the next whole packet off the buffer; `None` until it is whole. A payload shares the buffer's memory.
    ///
    /// After an error the connection is to be closed; nothing that follows is read.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Packet>, Malformed> {
        let refuse = |reason, what| Malformed {
            reason,
            version: self.version,
            what,
        };
        let Some(&first) = buffer.first() else { return Ok(None) };
        self.check_first(first).map_err(|(reason, what)| refuse(reason, what))?;
        let (body, header) = match read_length(&buffer[1..]) {
            Ok(Some((length, bytes))) => (length, 1 + bytes),
            Ok(None) => return Ok(None),
            Err(what) => return Err(refuse(Reason::MALFORMED_PACKET, what)),
        };
        if self.version == Some(Version::V5) && header - 1 > length_bytes(body) {
            return Err(refuse(Reason::MALFORMED_PACKET, "a length of more bytes than it needs"));
        }
        let bytes_max = match self.version {
            None => CONNECT_BYTES_MAX,
            Some(_) => self.limits.packet_bytes_max,
        };
        if header + body > bytes_max {
            return Err(refuse(Reason::PACKET_TOO_LARGE, "a packet above the limit"));
        }
        if buffer.len() < header + body {
            return Ok(None);
        }
        buffer.advance(header);
        let body: Bytes = buffer.split_to(body).freeze();
        self.twin = None;
        let packet = match self.version {
            None => parse::connect(&body)?,
            Some(version) => {
                let whole = (first == PLAIN_PUBLISH).then(|| body.clone());
                let packet = parse::packet(version, first, body).map_err(|(reason, what)| refuse(reason, what))?;
                if let (Some(whole), Packet::Publish(publish)) = (whole, &packet)
                    && may_have_twins(publish)
                {
                    self.twin = Some(whole.slice(..whole.len() - publish.payload.len()));
                }
                packet
            }
        };
        if let Packet::Connect(connect) = &packet {
            self.version = Some(connect.version);
        }
        Ok(Some(packet))
    }

    /// Where the buffer begins with a whole packet that differs from the last one in its payload alone: that payload. Comparing bytes
    /// costs a small part of reading a packet. Whoever takes it advances the buffer to its end.
    pub fn twin(&self, buffer: &BytesMut) -> Option<Twin> {
        let head = self.twin.as_ref()?;
        if *buffer.first()? != PLAIN_PUBLISH {
            return None;
        }
        let (body, bytes) = read_length(&buffer[1..]).ok()??;
        let (start, end) = (1 + bytes, 1 + bytes + body);
        let fits = bytes == length_bytes(body) && end <= self.limits.packet_bytes_max && end <= buffer.len();
        let is_twin = fits && body >= head.len() && buffer[start..].starts_with(head);
        is_twin.then(|| Twin {
            payload: start + head.len()..end,
        })
    }

    /// Lets go of what [`Decoder::twin`] compares with, which holds on to a buffer.
    pub fn rest(&mut self) {
        self.twin = None;
    }

    /// The type is one that clients send, and the flags are those of the type [MQTT-2.1.3-1].
    fn check_first(&self, first: u8) -> Result<(), (Reason, &'static str)> {
        let (kind, flags) = (first >> 4, first & 0x0f);
        if self.version.is_none() && kind != kind::CONNECT {
            return Err((Reason::PROTOCOL_ERROR, "the first packet is no CONNECT"));
        }
        let wanted = match kind {
            kind::PUBLISH if flags & 0b0110 == 0b0110 => return Err((Reason::MALFORMED_PACKET, "QoS 3")),
            kind::PUBLISH if flags & 0b1110 == 0b1000 => {
                return Err((Reason::MALFORMED_PACKET, "DUP with QoS 0"));
            }
            kind::PUBLISH => flags,
            kind::PUBREL | kind::SUBSCRIBE | kind::UNSUBSCRIBE => 0b0010,
            kind::CONNACK | kind::SUBACK | kind::UNSUBACK | kind::PINGRESP => {
                return Err((Reason::PROTOCOL_ERROR, "a packet that only servers send"));
            }
            kind::CONNECT | kind::PUBACK | kind::PUBREC | kind::PUBCOMP | kind::PINGREQ | kind::DISCONNECT => 0,
            kind::AUTH if self.version == Some(Version::V5) => 0,
            _ => return Err((Reason::MALFORMED_PACKET, "a packet type that does not exist")),
        };
        match flags == wanted {
            true => Ok(()),
            false => Err((Reason::MALFORMED_PACKET, "reserved flags")),
        }
    }
}

/// QoS 0, neither a duplicate nor to be retained.
const PLAIN_PUBLISH: u8 = kind::PUBLISH << 4;

/// What a payload says may decide whether it is let in, and a message may have an id of its own: such messages are read one by one.
fn may_have_twins(publish: &Publish) -> bool {
    let properties = publish.properties.as_deref();
    properties.is_none_or(|properties| properties.payload_format.is_none() && properties.user.is_empty())
}

/// A variable byte integer at the front and how many bytes it has; `None` where its end is not there yet.
pub(super) fn read_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, &'static str> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(LENGTH_BYTES_MAX).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    match bytes.len() < LENGTH_BYTES_MAX {
        true => Ok(None),
        false => Err("a length of more than four bytes"),
    }
}

/// Bytes that a length takes at least [MQTT-1.5.5-1].
pub(super) const fn length_bytes(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}
