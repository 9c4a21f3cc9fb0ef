//! Packets as this house speaks of them: one set of types for both versions, free of the library that parses them.
//!
//! Owns no bytes of its own beyond what a packet says; a payload is a slice of the buffer that it came in. Start at [`Packet`].

use std::num::NonZeroU16;

use bytes::Bytes;

use super::reason::Reason;
use crate::frame::Qos;

/// A protocol version that is spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V311,
    V5,
}

/// Names one message in flight in one direction; never 0 [MQTT-2.2.1-3].
pub type PacketId = NonZeroU16;

/// Names and values in their order; a name may stand more than once [MQTT-3.3.2-18].
pub type UserProperties = Vec<(String, String)>;

/// A whole packet. Clients send some of them, the server others; which, the session judges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    Connect(Box<Connect>),
    Connack(Box<Connack>),
    Publish(Publish),
    Puback(Ack),
    Pubrec(Ack),
    Pubrel(Ack),
    Pubcomp(Ack),
    Subscribe(Subscribe),
    /// A code for each filter, in their order.
    Suback(PacketId, Vec<Reason>),
    Unsubscribe(Unsubscribe),
    /// A code for each filter, in their order; 3.1.1 has none of them on the wire.
    Unsuback(PacketId, Vec<Reason>),
    Pingreq,
    Pingresp,
    Disconnect(Disconnect),
}

/// CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    pub version: Version,
    /// Clean Session in 3.1.1.
    pub clean_start: bool,
    /// Seconds; 0: none.
    pub keep_alive_s: u16,
    pub client_id: String,
    pub username: Option<String>,
    pub password: Option<Bytes>,
    pub will: Option<Will>,
    /// Seconds; 0 where it is unset, `u32::MAX` never expires.
    pub session_expiry_s: u32,
    pub receive_max: u16,
    /// Bytes of the largest packet that the client takes.
    pub packet_bytes_max: Option<u32>,
    pub topic_alias_max: u16,
    /// Request Problem Information; on where it is unset.
    pub wants_problems: bool,
    pub auth_method: Option<String>,
    pub user_properties: UserProperties,
}

/// The message that a client leaves for the case that its connection ends without a goodbye.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    pub topic: String,
    pub payload: Bytes,
    pub qos: Qos,
    pub retain: bool,
    /// Seconds.
    pub delay_s: u32,
    pub properties: Option<Box<PublishProperties>>,
}

/// CONNACK. Properties that are `None` do not go out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connack {
    pub session_present: bool,
    pub reason: Reason,
    pub topic_alias_max: Option<u16>,
    pub assigned_client_id: Option<String>,
    pub server_keep_alive_s: Option<u16>,
    pub session_expiry_s: Option<u32>,
    pub packet_bytes_max: Option<u32>,
    pub receive_max: Option<u16>,
    pub reason_string: Option<String>,
}

impl Connack {
    /// One that refuses, with nothing but the reason.
    pub const fn refusing(reason: Reason) -> Self {
        Self {
            session_present: false,
            reason,
            topic_alias_max: None,
            assigned_client_id: None,
            server_keep_alive_s: None,
            session_expiry_s: None,
            packet_bytes_max: None,
            receive_max: None,
            reason_string: None,
        }
    }
}

/// PUBLISH, in either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    pub dup: bool,
    pub retain: bool,
    pub qos: Qos,
    /// Empty where an alias stands for it.
    pub topic: String,
    /// Set for QoS 1 and 2, and for them alone [MQTT-2.2.1-2].
    pub packet_id: Option<PacketId>,
    /// `None` where there are none, as always in 3.1.1.
    pub properties: Option<Box<PublishProperties>>,
    pub payload: Bytes,
}

/// Properties of a PUBLISH and of a will.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties {
    /// 0: bytes, 1: UTF-8.
    pub payload_format: Option<u8>,
    /// Seconds.
    pub message_expiry_s: Option<u32>,
    pub content_type: Option<String>,
    pub response_topic: Option<String>,
    pub correlation: Option<Bytes>,
    pub subscription_ids: Vec<u32>,
    pub topic_alias: Option<u16>,
    pub user: UserProperties,
}

impl PublishProperties {
    /// True where nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    pub packet_id: PacketId,
    pub reason: Reason,
    pub reason_string: Option<String>,
}

impl Ack {
    /// One without a reason string.
    pub const fn new(packet_id: PacketId, reason: Reason) -> Self {
        Self {
            packet_id,
            reason,
            reason_string: None,
        }
    }
}

/// When a new subscription gets retained messages (§3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    #[default]
    Always = 0,
    IfNew = 1,
    Never = 2,
}

/// One filter of a SUBSCRIBE with its options. 3.1.1 has the QoS alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub text: String,
    pub qos: Qos,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
}

/// SUBSCRIBE. Has at least one filter [MQTT-3.8.3-2].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    pub packet_id: PacketId,
    /// 1 to 268,435,455.
    pub subscription_id: Option<u32>,
    pub filters: Vec<Filter>,
}

/// UNSUBSCRIBE. Has at least one filter [MQTT-3.10.3-2].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    pub packet_id: PacketId,
    pub filters: Vec<String>,
}

/// DISCONNECT, in either direction; 3.1.1 has it from clients only, and without a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    pub reason: Reason,
    /// Seconds; from clients only [MQTT-3.14.2-2].
    pub session_expiry_s: Option<u32>,
    pub reason_string: Option<String>,
}
