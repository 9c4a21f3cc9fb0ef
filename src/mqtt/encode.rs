//! From packets to bytes: what a server sends, written once into the connection's buffer.
//!
//! Ours, not the library's: byte for byte the shortest form (acknowledgements without a reason where it is success), CONNACK's
//! properties in the order that clients' test suites expect, and a payload copied once. Start at [`Encoder::encode`].

use bytes::{BufMut, BytesMut};
use thiserror::Error;

use super::{
    decode::{kind, length_bytes},
    packet::{Ack, Connack, Disconnect, Packet, PacketId, Publish, PublishProperties, Version},
    reason::Reason,
};
use crate::frame::{Qos, Run};

/// Longest body of any packet (§2.1.4), in bytes.
const BODY_BYTES_MAX: usize = 268_435_455;

/// The packet has more bytes than the client takes [MQTT-3.1.2-24]. It was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the packet has {bytes} bytes; the client takes {max} at most")]
pub struct TooLarge {
    pub bytes: usize,
    pub max: usize,
}

/// Property identifiers that a server sends (§2.2.2.2).
mod property {
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION: u8 = 0x09;
    pub const SUBSCRIPTION_ID: u8 = 0x0b;
    pub const SESSION_EXPIRY: u8 = 0x11;
    pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const REASON_STRING: u8 = 0x1f;
    pub const RECEIVE_MAX: u8 = 0x21;
    pub const TOPIC_ALIAS_MAX: u8 = 0x22;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const USER: u8 = 0x26;
    pub const PACKET_BYTES_MAX: u8 = 0x27;
}

/// Writes one connection's packets.
#[derive(Clone, Debug)]
pub struct Encoder {
    version: Version,
    packet_bytes_max: usize,
    /// Properties on their way into a packet: their length goes before them.
    scratch: BytesMut,
}

impl Encoder {
    /// For a client that takes packets of so many bytes, `None`: of any size.
    pub fn new(version: Version, packet_bytes_max: Option<u32>) -> Self {
        let given = packet_bytes_max.map_or(usize::MAX, |bytes| bytes as usize);
        Self {
            version,
            packet_bytes_max: given.min(BODY_BYTES_MAX + 5),
            scratch: BytesMut::new(),
        }
    }

    /// Appends a packet. A reason string is left out where the packet would be too large with it [MQTT-3.4.2-2]; where it is
    /// too large all the same nothing is written.
    ///
    /// Packets that only clients send are not written: that would be a fault of the session, and asserts.
    pub fn encode(&mut self, packet: &Packet, into: &mut BytesMut) -> Result<(), TooLarge> {
        match packet {
            Packet::Connack(connack) => self.connack(connack, into),
            Packet::Publish(publish) => self.publish(publish, into),
            Packet::Puback(ack) => self.ack(kind::PUBACK << 4, ack, into),
            Packet::Pubrec(ack) => self.ack(kind::PUBREC << 4, ack, into),
            Packet::Pubrel(ack) => self.ack(kind::PUBREL << 4 | 0b0010, ack, into),
            Packet::Pubcomp(ack) => self.ack(kind::PUBCOMP << 4, ack, into),
            Packet::Suback(id, codes) => self.codes(kind::SUBACK, id.get(), codes, into),
            Packet::Unsuback(id, codes) => {
                let codes = if self.version == Version::V5 { codes } else { &[][..] };
                self.codes(kind::UNSUBACK, id.get(), codes, into)
            }
            Packet::Pingresp => self.whole(kind::PINGRESP << 4, 0, into),
            Packet::Disconnect(disconnect) => self.disconnect(disconnect, into),
            Packet::Connect(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_) | Packet::Pingreq => {
                unreachable!("the session sends no client's packet")
            }
        }
    }

    /// The fixed header of a packet whose body has so many bytes; they are to be appended next.
    fn whole(&self, first: u8, body: usize, into: &mut BytesMut) -> Result<(), TooLarge> {
        let bytes = 1 + length_bytes(body) + body;
        if bytes > self.packet_bytes_max {
            return Err(TooLarge {
                bytes,
                max: self.packet_bytes_max,
            });
        }
        into.reserve(bytes);
        into.put_u8(first);
        put_length(body, into);
        Ok(())
    }

    fn connack(&mut self, connack: &Connack, into: &mut BytesMut) -> Result<(), TooLarge> {
        if self.version == Version::V311 {
            self.whole(kind::CONNACK << 4, 2, into)?;
            let code = connack.reason.connect_return_code().unwrap_or(3);
            into.put_slice(&[u8::from(connack.session_present), code]);
            return Ok(());
        }
        let mut properties = std::mem::take(&mut self.scratch);
        let p = &mut properties;
        put_u16(property::SERVER_KEEP_ALIVE, connack.server_keep_alive_s, p);
        put_u16(property::TOPIC_ALIAS_MAX, connack.topic_alias_max, p);
        put_text(property::ASSIGNED_CLIENT_ID, connack.assigned_client_id.as_deref(), p);
        put_u32(property::SESSION_EXPIRY, connack.session_expiry_s, p);
        put_u32(property::PACKET_BYTES_MAX, connack.packet_bytes_max, p);
        put_text(property::REASON_STRING, connack.reason_string.as_deref(), p);
        put_u16(property::RECEIVE_MAX, connack.receive_max, p);
        let written = self.whole(kind::CONNACK << 4, 2 + length_bytes(p.len()) + p.len(), into);
        if written.is_ok() {
            into.put_slice(&[u8::from(connack.session_present), connack.reason.0]);
            put_length(p.len(), into);
            into.put_slice(p);
        }
        self.keep(properties);
        written
    }

    fn publish(&mut self, publish: &Publish, into: &mut BytesMut) -> Result<(), TooLarge> {
        let mut properties = std::mem::take(&mut self.scratch);
        if let (Version::V5, Some(given)) = (self.version, &publish.properties) {
            put_message_properties(given, &mut properties);
        }
        let mut head = 2 + publish.topic.len() + if publish.packet_id.is_some() { 2 } else { 0 };
        if self.version == Version::V5 {
            head += length_bytes(properties.len()) + properties.len();
        }
        let flags = u8::from(publish.dup) << 3 | qos_number(publish.qos) << 1 | u8::from(publish.retain);
        let written = self.whole(kind::PUBLISH << 4 | flags, head + publish.payload.len(), into);
        if written.is_ok() {
            put_string(&publish.topic, into);
            if let Some(id) = publish.packet_id {
                into.put_u16(id.get());
            }
            if self.version == Version::V5 {
                put_length(properties.len(), into);
                into.put_slice(&properties);
            }
            into.put_slice(&publish.payload);
        }
        self.keep(properties);
        written
    }

    /// Appends a PUBLISH for each frame of a run: as the given one, whose payload is empty, with the frame's body, and at QoS 1 with
    /// the next of the packet ids, of which there are as many as frames.
    pub fn encode_run(
        &mut self,
        publish: &Publish,
        run: &Run,
        packet_ids: &[PacketId],
        into: &mut BytesMut,
    ) -> Result<(), TooLarge> {
        let mut properties = std::mem::take(&mut self.scratch);
        let mut head = BytesMut::new();
        put_string(&publish.topic, &mut head);
        let packet_id_at = head.len();
        head.put_bytes(0, if packet_ids.is_empty() { 0 } else { 2 });
        if self.version == Version::V5 {
            if let Some(given) = &publish.properties {
                put_message_properties(given, &mut properties);
            }
            put_length(properties.len(), &mut head);
            head.put_slice(&properties);
        }
        self.keep(properties);
        let bytes = 1 + length_bytes(head.len() + run.body_bytes_max()) + head.len() + run.body_bytes_max();
        if bytes > self.packet_bytes_max {
            return Err(TooLarge {
                bytes,
                max: self.packet_bytes_max,
            });
        }
        into.reserve(run.body_bytes() + run.frames() * (head.len() + 5));
        let first = kind::PUBLISH << 4 | qos_number(publish.qos) << 1 | u8::from(publish.retain);
        let mut packet_ids = packet_ids.iter();
        run.visit(|_, body| {
            if let Some(packet_id) = packet_ids.next() {
                head[packet_id_at..packet_id_at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
            }
            into.put_u8(first);
            put_length(head.len() + body.len(), into);
            into.put_slice(&head);
            into.put_slice(body);
        });
        Ok(())
    }

    fn ack(&mut self, first: u8, ack: &Ack, into: &mut BytesMut) -> Result<(), TooLarge> {
        let id = ack.packet_id.get();
        let is_plain = self.version == Version::V311 || (ack.reason == Reason::SUCCESS && ack.reason_string.is_none());
        if is_plain {
            self.whole(first, 2, into)?;
            into.put_u16(id);
            return Ok(());
        }
        if let Some(text) = &ack.reason_string {
            let properties = 3 + text.len();
            let body = 3 + length_bytes(properties) + properties;
            if self.whole(first, body, into).is_ok() {
                into.put_u16(id);
                into.put_u8(ack.reason.0);
                put_length(properties, into);
                put_text(property::REASON_STRING, Some(text), into);
                return Ok(());
            }
        }
        self.whole(first, 3, into)?;
        into.put_u16(id);
        into.put_u8(ack.reason.0);
        Ok(())
    }

    fn codes(&mut self, kind: u8, id: u16, codes: &[Reason], into: &mut BytesMut) -> Result<(), TooLarge> {
        let properties = usize::from(self.version == Version::V5);
        self.whole(kind << 4, 2 + properties + codes.len(), into)?;
        into.put_u16(id);
        into.put_bytes(0, properties);
        for code in codes {
            // 3.1.1 has one code for every failure [3.1.1 MQTT-3.9.3-2].
            let is_old_failure = self.version == Version::V311 && code.is_failure();
            into.put_u8(if is_old_failure { 0x80 } else { code.0 });
        }
        Ok(())
    }

    /// 3.1.1 has no DISCONNECT from servers: nothing is written.
    fn disconnect(&mut self, disconnect: &Disconnect, into: &mut BytesMut) -> Result<(), TooLarge> {
        if self.version == Version::V311 {
            return Ok(());
        }
        if let Some(text) = &disconnect.reason_string {
            let properties = 3 + text.len();
            let body = 1 + length_bytes(properties) + properties;
            if self.whole(kind::DISCONNECT << 4, body, into).is_ok() {
                into.put_u8(disconnect.reason.0);
                put_length(properties, into);
                put_text(property::REASON_STRING, Some(text), into);
                return Ok(());
            }
        }
        self.whole(kind::DISCONNECT << 4, 1, into)?;
        into.put_u8(disconnect.reason.0);
        Ok(())
    }

    fn keep(&mut self, mut scratch: BytesMut) {
        scratch.clear();
        self.scratch = scratch;
    }
}

/// Bytes of a PUBLISH on the wire, with so many bytes beside its own payload. Its packet id counts, whether or not it has it yet.
pub(super) fn publish_bytes(version: Version, publish: &Publish, more: usize) -> usize {
    let mut body = 2 + publish.topic.len() + publish.payload.len() + more;
    body += if publish.qos == Qos::AtMostOnce { 0 } else { 2 };
    if version == Version::V5 {
        let mut properties = BytesMut::new();
        if let Some(given) = &publish.properties {
            put_message_properties(given, &mut properties);
        }
        body += length_bytes(properties.len()) + properties.len();
    }
    1 + length_bytes(body) + body
}

const fn qos_number(qos: Qos) -> u8 {
    qos as u8
}

fn put_length(mut value: usize, into: &mut BytesMut) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            return into.put_u8(low);
        }
        into.put_u8(low | 0x80);
    }
}

fn put_string(text: &str, into: &mut BytesMut) {
    put_binary(text.as_bytes(), into);
}

/// Whatever is written was read from a packet or is bounded by the frame's limits: 65,535 bytes at most.
fn put_binary(bytes: &[u8], into: &mut BytesMut) {
    let length = u16::try_from(bytes.len()).expect("no text or binary of a packet is longer than 65,535 bytes");
    into.put_u16(length);
    into.put_slice(bytes);
}

fn put_u16(id: u8, value: Option<u16>, into: &mut BytesMut) {
    if let Some(value) = value {
        into.put_u8(id);
        into.put_u16(value);
    }
}

fn put_u32(id: u8, value: Option<u32>, into: &mut BytesMut) {
    if let Some(value) = value {
        into.put_u8(id);
        into.put_u32(value);
    }
}

fn put_text(id: u8, value: Option<&str>, into: &mut BytesMut) {
    if let Some(value) = value {
        into.put_u8(id);
        put_string(value, into);
    }
}

fn put_message_properties(given: &PublishProperties, into: &mut BytesMut) {
    for id in &given.subscription_ids {
        into.put_u8(property::SUBSCRIPTION_ID);
        put_length(*id as usize, into);
    }
    put_u16(property::TOPIC_ALIAS, given.topic_alias, into);
    if let Some(format) = given.payload_format {
        into.put_slice(&[property::PAYLOAD_FORMAT, format]);
    }
    put_text(property::CONTENT_TYPE, given.content_type.as_deref(), into);
    put_text(property::RESPONSE_TOPIC, given.response_topic.as_deref(), into);
    if let Some(correlation) = &given.correlation {
        into.put_u8(property::CORRELATION);
        put_binary(correlation, into);
    }
    for (name, value) in &given.user {
        into.put_u8(property::USER);
        put_string(name, into);
        put_string(value, into);
    }
    put_u32(property::MESSAGE_EXPIRY, given.message_expiry_s, into);
}
