//! From bytes to packets: finds where each packet ends, judges its first byte and its length before waiting for the rest.
//!
//! Owns the bounds of what a client may send: 16 KiB until its CONNECT was read, the node's largest packet afterwards. What a packet
//! says is read in `parse.rs`. Never keeps bytes: the buffer is the caller's. Start at [`Decoder::next`].

use bytes::{Buf, Bytes, BytesMut};

use super::{
    packet::{Ack, Packet, PacketId, Publish, Version},
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
    /// The last packet, where it was a PUBLISH that others may be like.
    last: Option<Head>,
}

/// What stands before the payload of a PUBLISH.
#[derive(Clone, Debug)]
struct Head {
    first: u8,
    /// From the topic to the properties, as they came.
    bytes: Bytes,
    /// QoS 1: where the packet id stands in it.
    packet_id_at: Option<usize>,
}

impl Head {
    /// The same but for the packet id, which it says.
    fn is_like(&self, body: &[u8]) -> Option<Option<PacketId>> {
        let Some(at) = self.packet_id_at else {
            return body.starts_with(&self.bytes).then_some(None);
        };
        let is_like = body.len() >= self.bytes.len()
            && body[..at] == self.bytes[..at]
            && body[at + 2..].starts_with(&self.bytes[at + 2..]);
        let packet_id = PacketId::new(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]))?;
        is_like.then_some(Some(packet_id))
    }
}

/// A packet that differs from the one before in nothing but its payload and its packet id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twin {
    /// At QoS 1.
    pub packet_id: Option<PacketId>,
    /// Where the payload stands in the buffer, to whose front the packet belongs.
    pub payload: std::ops::Range<usize>,
}

impl Decoder {
    /// One that waits for a CONNECT.
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            version: None,
            last: None,
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
        if let Some(packet_id) = plain_puback(buffer) {
            buffer.advance(PLAIN_PUBACK_BYTES);
            self.last = None;
            return Ok(Some(Packet::Puback(Ack::new(packet_id, Reason::SUCCESS))));
        }
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
        self.last = None;
        let packet = match self.version {
            None => parse::connect(&body)?,
            Some(version) => {
                let whole = matches!(first, PLAIN_PUBLISH | PLAIN_PUBLISH_QOS_1).then(|| body.clone());
                let packet = parse::packet(version, first, body).map_err(|(reason, what)| refuse(reason, what))?;
                if let (Some(whole), Packet::Publish(publish)) = (whole, &packet)
                    && may_have_twins(publish)
                {
                    let bytes = whole.slice(..whole.len() - publish.payload.len());
                    // Behind the topic, whose length is its first two bytes.
                    let packet_id_at = publish
                        .packet_id
                        .map(|_| 2 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]])));
                    self.last = Some(Head {
                        first,
                        bytes,
                        packet_id_at,
                    });
                }
                packet
            }
        };
        if let Packet::Connect(connect) = &packet {
            self.version = Some(connect.version);
        }
        Ok(Some(packet))
    }

    /// Where the buffer begins with a whole packet that differs from the last one in its payload and its packet id alone. Comparing
    /// bytes costs a small part of reading a packet. Whoever takes it advances the buffer to its payload's end.
    pub fn twin(&self, buffer: &BytesMut) -> Option<Twin> {
        let head = self.last.as_ref()?;
        if *buffer.first()? != head.first {
            return None;
        }
        let (body, bytes) = read_length(&buffer[1..]).ok()??;
        let (start, end) = (1 + bytes, 1 + bytes + body);
        let fits = bytes == length_bytes(body) && end <= self.limits.packet_bytes_max && end <= buffer.len();
        let packet_id = fits.then(|| head.is_like(&buffer[start..end])).flatten()?;
        Some(Twin {
            packet_id,
            payload: start + head.bytes.len()..end,
        })
    }

    /// Lets go of what [`Decoder::twin`] compares with, which holds on to a buffer.
    pub fn rest(&mut self) {
        self.last = None;
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
            kind::SUBACK | kind::UNSUBACK if flags != 0 => return Err((Reason::MALFORMED_PACKET, "reserved flags")),
            kind::CONNACK | kind::SUBACK | kind::UNSUBACK | kind::PINGRESP => {
                return Err((Reason::PROTOCOL_ERROR, "a packet that only servers send"));
            }
            kind::CONNECT | kind::PUBACK | kind::PUBREC | kind::PUBCOMP | kind::PINGREQ | kind::DISCONNECT => 0,
            // No connection has an authentication method: whatever it says is out of place [MQTT-4.12.0-6].
            kind::AUTH if self.version == Some(Version::V5) => {
                return Err((Reason::PROTOCOL_ERROR, "AUTH without an authentication method"));
            }
            _ => return Err((Reason::PROTOCOL_ERROR, "a packet type that does not exist")),
        };
        match flags == wanted {
            true => Ok(()),
            false => Err((Reason::MALFORMED_PACKET, "reserved flags")),
        }
    }
}

/// QoS 0, neither a duplicate nor to be retained.
const PLAIN_PUBLISH: u8 = kind::PUBLISH << 4;
/// The same of QoS 1.
const PLAIN_PUBLISH_QOS_1: u8 = PLAIN_PUBLISH | 0b0010;
/// A PUBACK that says nothing but the packet id: its first byte and its length are always the same, and it is half of what a client
/// of QoS 1 sends.
const PLAIN_PUBACK: [u8; 2] = [kind::PUBACK << 4, 2];
const PLAIN_PUBACK_BYTES: usize = 4;

/// The packet id, where the buffer begins with such a PUBACK. An id of 0 is not looked at here: reading says what is wrong with it.
fn plain_puback(buffer: &[u8]) -> Option<PacketId> {
    let packet = buffer.get(..PLAIN_PUBACK_BYTES)?;
    let is_plain = packet.starts_with(&PLAIN_PUBACK);
    is_plain
        .then(|| PacketId::new(u16::from_be_bytes([packet[2], packet[3]])))
        .flatten()
}

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
