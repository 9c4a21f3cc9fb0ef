//! One packet's bytes, by mqtt-protocol-core: the only place that names it.
//!
//! The library reads strings, properties and reason codes and knows which property may stand where. Added here is what it lets pass:
//! U+0000 in strings, reserved and contradicting CONNECT flags, option bits that 3.1.1 has not, packet id 0, bytes behind the last
//! field, lengths longer than they need be, wildcards in names; and a password without a user name, which MQTT 5 allows and it refuses.
//! It would copy a PUBLISH whole: it is given the part before the payload alone. Start at [`packet`] and [`connect`].

use bytes::Bytes;
use mqtt_protocol_core::mqtt::{
    common::Arc as LibraryArc,
    packet::{self as library, Property, v3_1_1, v5_0},
    prelude::PropertyValueAccess,
    result_code::MqttError,
};

use super::{
    decode::{Malformed, kind, length_bytes, read_length},
    packet::{
        Ack, Connect, Disconnect, Filter, Packet, PacketId, Publish, PublishProperties, RetainHandling, Subscribe,
        Unsubscribe, Version, Will,
    },
    reason::Reason,
};
use crate::frame::{Qos, TopicError, TopicFilter};

/// A reason and what is wrong, for people.
type Failure = (Reason, &'static str);

const USERNAME: u8 = 0x80;
const PASSWORD: u8 = 0x40;
const WILL_RETAIN: u8 = 0x20;
const WILL_QOS: u8 = 0x18;
const WILL: u8 = 0x04;
const CLEAN_START: u8 = 0x02;
const RESERVED: u8 = 0x01;
/// Where CONNECT's flags stand: behind the name `MQTT` with its length, and the level.
const FLAGS_AT: usize = 7;
/// Receive Maximum where CONNECT has none (§3.1.2.11.3).
const RECEIVE_MAX_DEFAULT: u16 = 65_535;

fn malformed(what: &'static str) -> Failure {
    (Reason::MALFORMED_PACKET, what)
}

fn failure(error: MqttError) -> Failure {
    // Codes above one byte are the library's own; they all say that bytes are missing or wrong.
    match u8::try_from(error as u16) {
        // The library's word for a user name or password that cannot be read; ours is for one that is wrong.
        Ok(code) if Reason(code) == Reason::BAD_CREDENTIALS => malformed("a user name or password that is none"),
        Ok(code) => (Reason(code), "refused by the packet's grammar"),
        Err(_) => malformed("refused by the packet's grammar"),
    }
}

/// The first packet of a connection.
pub(super) fn connect(body: &Bytes) -> Result<Packet, Malformed> {
    let version = match body.get(..FLAGS_AT) {
        Some([0, 4, b'M', b'Q', b'T', b'T', 4]) => Version::V311,
        Some([0, 4, b'M', b'Q', b'T', b'T', 5]) => Version::V5,
        Some([0, 4, b'M', b'Q', b'T', b'T', _]) => {
            // [3.1.1 MQTT-3.1.2-2], which has to be answered; MQTT 5 leaves it open.
            return Err(unsupported(Some(Version::V311)));
        }
        Some([0, 6, b'M', b'Q', b'I', b's', b'd']) => return Err(unsupported(Some(Version::V311))),
        _ => return Err(unsupported(None)),
    };
    connect_of(version, body).map_err(|(reason, what)| Malformed {
        reason,
        version: Some(version),
        what,
    })
}

fn unsupported(version: Option<Version>) -> Malformed {
    Malformed {
        reason: Reason::UNSUPPORTED_VERSION,
        version,
        what: "neither MQTT 3.1.1 nor MQTT 5",
    }
}

/// What is wrong with a SUBSCRIBE or UNSUBSCRIBE is always called malformed, as other brokers do: a property of another packet is
/// (§2.2.2.2), no filter at all (§3.8.3) and subscription identifier 0 (§3.8.2.1.2) are protocol errors to the letter.
fn in_subscription(error: MqttError) -> Failure {
    malformed(failure(error).1)
}

/// Any packet after CONNECT. Its first byte was judged before.
pub(super) fn packet(version: Version, first: u8, body: Bytes) -> Result<Packet, Failure> {
    let is_v5 = version == Version::V5;
    match first >> 4 {
        kind::CONNECT => Err((Reason::PROTOCOL_ERROR, "a second CONNECT")),
        kind::PUBLISH => publish(version, first & 0x0f, body),
        kind::PUBACK | kind::PUBREC | kind::PUBREL | kind::PUBCOMP => ack(version, first >> 4, &body),
        kind::SUBSCRIBE => subscribe(version, &body),
        kind::UNSUBSCRIBE => unsubscribe(version, &body),
        kind::PINGREQ if body.is_empty() => Ok(Packet::Pingreq),
        kind::DISCONNECT if is_v5 => disconnect(&body),
        kind::DISCONNECT if body.is_empty() => Ok(Packet::Disconnect(Disconnect {
            reason: Reason::SUCCESS,
            session_expiry_s: None,
            reason_string: None,
        })),
        _ => Err(malformed("bytes in a packet that has none")),
    }
}

// --- fields ----------------------------------------------------------------------------------------------------------

/// A name of the packet: a client id, a user name, a topic or a filter. Without control characters and noncharacters, which MQTT
/// lets a receiver refuse (§1.5.4): in names they are mistakes, or meant to deceive who reads a log.
fn name(given: &str) -> Result<String, Failure> {
    let is_odd =
        |char: char| char.is_control() || matches!(char, '\u{fdd0}'..='\u{fdef}') || char as u32 & 0xfffe == 0xfffe;
    match given.chars().any(is_odd) {
        true => Err(malformed("a control character in a name")),
        false => Ok(given.to_owned()),
    }
}

/// The name of a will's topic, or a filter [MQTT-4.7.3-1].
fn topic(given: &str) -> Result<String, Failure> {
    match given.is_empty() {
        true => Err(malformed("an empty topic")),
        false => name(given),
    }
}

/// A filter, whose wildcards stand where they may [MQTT-4.7.1-1], [MQTT-4.7.1-2].
fn filter(given: &str) -> Result<String, Failure> {
    match TopicFilter::new(given) {
        Err(TopicError::WildcardNotAlone | TopicError::HashNotLast) => Err(malformed("a wildcard out of place")),
        // What else is wrong with it is the answer's to say.
        _ => topic(given),
    }
}

/// What a filter of MQTT 5 that starts with `$share/` has to be [MQTT-4.8.2-1], [MQTT-4.8.2-2].
fn shared(filter: &str) -> Result<(), Failure> {
    let Some(rest) = filter.strip_prefix("$share/") else {
        return Ok(());
    };
    match rest.split_once('/') {
        Some((share, filter)) if !share.is_empty() && !has_wildcard(share) && !filter.is_empty() => Ok(()),
        _ => Err((
            Reason::PROTOCOL_ERROR,
            "a shared subscription without a name or a filter",
        )),
    }
}

fn texts(properties: &[Property]) -> Result<(), Failure> {
    let is_clean = |property: &Property| {
        let pair = property.as_key_value().unwrap_or_default();
        !property.as_str().unwrap_or_default().contains('\0') && !pair.0.contains('\0') && !pair.1.contains('\0')
    };
    match properties.iter().all(is_clean) {
        true => Ok(()),
        false => Err(malformed("U+0000 in a property")),
    }
}

fn whole(consumed: usize, body: &[u8]) -> Result<(), Failure> {
    match consumed == body.len() {
        true => Ok(()),
        false => Err(malformed("bytes behind the last field")),
    }
}

/// The library writes lengths as short as they can be; what it would write in other bytes had a longer one [MQTT-1.5.5-1].
fn minimal(size: usize, body: &[u8]) -> Result<(), Failure> {
    match size == 1 + length_bytes(body.len()) + body.len() {
        true => Ok(()),
        false => Err(malformed("a length of more bytes than it needs, or a missing one")),
    }
}

fn qos(qos: library::Qos) -> Qos {
    match qos {
        library::Qos::AtMostOnce => Qos::AtMostOnce,
        library::Qos::AtLeastOnce => Qos::AtLeastOnce,
        library::Qos::ExactlyOnce => Qos::ExactlyOnce,
    }
}

/// Properties of a message; `None` where there are none.
fn message_properties(properties: &[Property]) -> Result<Option<Box<PublishProperties>>, Failure> {
    if properties.is_empty() {
        return Ok(None);
    }
    texts(properties)?;
    let mut read = PublishProperties::default();
    for property in properties {
        let owned = || property.as_str().map(str::to_owned);
        match property {
            Property::PayloadFormatIndicator(_) => read.payload_format = property.as_u8(),
            Property::MessageExpiryInterval(_) => read.message_expiry_s = property.as_u32(),
            Property::ContentType(_) => read.content_type = owned(),
            Property::ResponseTopic(_) => read.response_topic = owned(),
            Property::CorrelationData(_) => read.correlation = property.as_bytes().map(Bytes::copy_from_slice),
            Property::SubscriptionIdentifier(_) => read.subscription_ids.extend(property.as_u32()),
            Property::TopicAlias(_) => read.topic_alias = property.as_u16(),
            Property::UserProperty(_) => {
                let pair = property.as_key_value();
                read.user
                    .extend(pair.map(|(name, value)| (name.to_owned(), value.to_owned())));
            }
            // A will's delay is read apart; anything else the library refused.
            _ => {}
        }
    }
    if read
        .response_topic
        .as_deref()
        .is_some_and(|topic| topic.is_empty() || has_wildcard(topic))
    {
        return Err((Reason::PROTOCOL_ERROR, "a response topic that is none")); // [MQTT-3.3.2-14]
    }
    Ok((!read.is_empty()).then(|| Box::new(read)))
}

fn has_wildcard(topic: &str) -> bool {
    topic.contains(['+', '#'])
}

// --- packets ---------------------------------------------------------------------------------------------------------

fn connect_of(version: Version, body: &Bytes) -> Result<Packet, Failure> {
    let flags = *body.get(FLAGS_AT).ok_or(malformed("a CONNECT without flags"))?;
    if flags & RESERVED != 0 {
        return Err(malformed("the reserved CONNECT flag")); // [MQTT-3.1.2-3]
    }
    if flags & WILL == 0 && flags & (WILL_QOS | WILL_RETAIN) != 0 {
        return Err(malformed("flags of a will that is not there")); // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
    }
    if flags & WILL_QOS == WILL_QOS {
        return Err(malformed("a will of QoS 3")); // [MQTT-3.1.2-12]
    }
    match version {
        Version::V311 => {
            let (read, consumed) = v3_1_1::Connect::parse(body).map_err(failure)?;
            whole(consumed, body)?;
            connect_v311(&read)
        }
        Version::V5 => connect_v5(flags, body),
    }
}

fn connect_v311(read: &v3_1_1::Connect) -> Result<Packet, Failure> {
    let will = match (read.will_topic(), read.will_payload()) {
        (Some(will), payload) => Some(Will {
            topic: topic(will)?,
            payload: Bytes::copy_from_slice(payload.unwrap_or_default()),
            qos: qos(read.will_qos()),
            retain: read.will_retain(),
            delay_s: 0,
            properties: None,
        }),
        _ => None,
    };
    Ok(Packet::Connect(Box::new(Connect {
        version: Version::V311,
        clean_start: read.clean_session(),
        keep_alive_s: read.keep_alive(),
        client_id: name(read.client_id())?,
        username: read.user_name().map(name).transpose()?,
        password: read.password().map(Bytes::copy_from_slice),
        will,
        session_expiry_s: 0,
        receive_max: RECEIVE_MAX_DEFAULT,
        packet_bytes_max: None,
        topic_alias_max: 0,
        wants_problems: true,
        auth_method: None,
        user_properties: Vec::new(),
    })))
}

fn connect_v5(flags: u8, body: &Bytes) -> Result<Packet, Failure> {
    // The library wants a user name before a password, as 3.1.1 did (§3.1.2.9 has no such rule): it reads all but the password.
    let is_password_alone = flags & (USERNAME | PASSWORD) == PASSWORD;
    let (read, password) = if is_password_alone {
        let mut without = body.to_vec();
        without[FLAGS_AT] &= !PASSWORD;
        let (read, consumed) = v5_0::Connect::parse(&without).map_err(failure)?;
        (read, Some(last_binary(&body[consumed..])?))
    } else {
        let (read, consumed) = v5_0::Connect::parse(body).map_err(failure)?;
        whole(consumed, body)?;
        let password = read.password().map(Bytes::copy_from_slice);
        (read, password)
    };
    texts(read.props())?;
    let mut connect = Connect {
        version: Version::V5,
        clean_start: flags & CLEAN_START != 0,
        keep_alive_s: read.keep_alive(),
        client_id: name(read.client_id())?,
        username: read.user_name().map(name).transpose()?,
        password,
        will: will_v5(&read)?,
        session_expiry_s: 0,
        receive_max: RECEIVE_MAX_DEFAULT,
        packet_bytes_max: None,
        topic_alias_max: 0,
        wants_problems: true,
        auth_method: None,
        user_properties: Vec::new(),
    };
    let mut has_auth_data = false;
    for property in read.props() {
        match property {
            Property::SessionExpiryInterval(_) => connect.session_expiry_s = property.as_u32().unwrap_or_default(),
            Property::ReceiveMaximum(_) => connect.receive_max = property.as_u16().unwrap_or(RECEIVE_MAX_DEFAULT),
            Property::MaximumPacketSize(_) => connect.packet_bytes_max = property.as_u32(),
            Property::TopicAliasMaximum(_) => connect.topic_alias_max = property.as_u16().unwrap_or_default(),
            Property::RequestProblemInformation(_) => connect.wants_problems = property.as_u8() != Some(0),
            Property::AuthenticationMethod(_) => connect.auth_method = property.as_str().map(str::to_owned),
            Property::UserProperty(_) => {
                let pair = property.as_key_value();
                connect
                    .user_properties
                    .extend(pair.map(|(name, value)| (name.to_owned(), value.to_owned())));
            }
            Property::AuthenticationData(_) => has_auth_data = true,
            // Response information is not offered.
            _ => {}
        }
    }
    if has_auth_data && connect.auth_method.is_none() {
        return Err((Reason::PROTOCOL_ERROR, "authentication data without a method")); // §3.1.2.11.10
    }
    Ok(Packet::Connect(Box::new(connect)))
}

fn last_binary(bytes: &[u8]) -> Result<Bytes, Failure> {
    match bytes.split_first_chunk::<2>() {
        Some((length, value)) if usize::from(u16::from_be_bytes(*length)) == value.len() => {
            Ok(Bytes::copy_from_slice(value))
        }
        _ => Err(malformed("a password of another length than it says")),
    }
}

fn will_v5(read: &v5_0::Connect) -> Result<Option<Will>, Failure> {
    let Some(will) = read.will_topic() else {
        return Ok(None);
    };
    let delay = read
        .will_props()
        .iter()
        .find(|property| matches!(property, Property::WillDelayInterval(_)));
    Ok(Some(Will {
        topic: topic(will)?,
        payload: Bytes::copy_from_slice(read.will_payload().unwrap_or_default()),
        qos: qos(read.will_qos()),
        retain: read.will_retain(),
        delay_s: delay.and_then(PropertyValueAccess::as_u32).unwrap_or_default(),
        properties: message_properties(read.will_props())?,
    }))
}

fn publish(version: Version, flags: u8, body: Bytes) -> Result<Packet, Failure> {
    let head = head_bytes(version, flags, &body)?;
    let mut payload = body;
    let head = payload.split_to(head);
    let (topic, id, properties) = match version {
        Version::V311 => {
            let (read, consumed) = v3_1_1::Publish::parse(flags, LibraryArc::from(&head[..])).map_err(failure)?;
            whole(consumed, &head)?;
            (name(read.topic_name())?, read.packet_id(), None)
        }
        Version::V5 => {
            let (read, _) = v5_0::Publish::parse(flags, LibraryArc::from(&head[..])).map_err(failure)?;
            minimal(read.size(), &head)?;
            (
                name(read.topic_name())?,
                read.packet_id(),
                message_properties(read.props())?,
            )
        }
    };
    if has_wildcard(&topic) {
        return Err(malformed("a wildcard in a topic name")); // [MQTT-3.3.2-2]
    }
    let alias = properties.as_ref().and_then(|properties| properties.topic_alias);
    match (topic.is_empty(), version, alias) {
        (true, Version::V5, None) => return Err((Reason::PROTOCOL_ERROR, "neither a topic nor an alias")),
        (true, Version::V311, _) => return Err(malformed("an empty topic name")), // [MQTT-4.7.3-1]
        _ => {}
    }
    if properties
        .as_ref()
        .is_some_and(|properties| !properties.subscription_ids.is_empty())
    {
        return Err((Reason::PROTOCOL_ERROR, "a subscription identifier from a client")); // [MQTT-3.3.4-6]
    }
    let qos = Qos::from_u8(flags >> 1 & 0b11).ok_or(malformed("QoS 3"))?;
    let packet_id = match (qos, id.and_then(PacketId::new)) {
        (Qos::AtMostOnce, _) => None,
        (_, Some(id)) => Some(id),
        (_, None) => return Err((Reason::PROTOCOL_ERROR, "packet id 0")), // [MQTT-2.2.1-3]
    };
    Ok(Packet::Publish(Publish {
        dup: flags & 0b1000 != 0,
        retain: flags & 0b0001 != 0,
        qos,
        topic,
        packet_id,
        properties,
        payload,
    }))
}

/// Bytes of a PUBLISH before its payload.
fn head_bytes(version: Version, flags: u8, body: &[u8]) -> Result<usize, Failure> {
    let missing = malformed("a PUBLISH that ends before its payload");
    let topic = body.first_chunk::<2>().ok_or(missing)?;
    let mut head = 2 + usize::from(u16::from_be_bytes(*topic));
    if flags & 0b0110 != 0 {
        head += 2;
    }
    if version == Version::V5 {
        let properties = read_length(body.get(head..).ok_or(missing)?).ok().flatten();
        let (length, bytes) = properties.ok_or(missing)?;
        head += length + bytes;
    }
    match head <= body.len() {
        true => Ok(head),
        false => Err(missing),
    }
}

fn ack(version: Version, kind: u8, body: &Bytes) -> Result<Packet, Failure> {
    let id = body
        .first_chunk::<2>()
        .ok_or(malformed("an acknowledgement without an id"))?;
    let id = PacketId::new(u16::from_be_bytes(*id)).ok_or((Reason::PROTOCOL_ERROR, "packet id 0"))?;
    let reason = match version {
        Version::V311 => {
            whole(2, body)?;
            Reason::SUCCESS
        }
        Version::V5 => {
            let consumed = match kind {
                kind::PUBACK => v5_0::Puback::parse(body).map(|(_, consumed)| consumed),
                kind::PUBREC => v5_0::Pubrec::parse(body).map(|(_, consumed)| consumed),
                kind::PUBREL => v5_0::Pubrel::parse(body).map(|(_, consumed)| consumed),
                _ => v5_0::Pubcomp::parse(body).map(|(_, consumed)| consumed),
            };
            let reason = body.get(2).map_or(Reason::SUCCESS, |code| Reason(*code));
            if !reason.is_of_ack(matches!(kind, kind::PUBACK | kind::PUBREC)) {
                return Err((Reason::PROTOCOL_ERROR, "a reason code that the packet has not")); // [MQTT-3.4.2-1]
            }
            whole(consumed.map_err(failure)?, body)?;
            reason
        }
    };
    let ack = Ack::new(id, reason);
    Ok(match kind {
        kind::PUBACK => Packet::Puback(ack),
        kind::PUBREC => Packet::Pubrec(ack),
        kind::PUBREL => Packet::Pubrel(ack),
        _ => Packet::Pubcomp(ack),
    })
}

fn subscribe(version: Version, body: &Bytes) -> Result<Packet, Failure> {
    let (id, entries, subscription_id) = match version {
        Version::V311 => {
            let (read, consumed) = v3_1_1::Subscribe::parse(body).map_err(failure)?;
            whole(consumed, body)?;
            let options = |entry: &library::SubEntry| entry.sub_opts().to_buffer()[0];
            if read.entries().iter().any(|entry| options(entry) & !0b11 != 0) {
                return Err(malformed("reserved bits of a requested QoS")); // [3.1.1 MQTT-3.8.3-4]
            }
            (read.packet_id(), read.entries().clone(), None)
        }
        Version::V5 => {
            let (read, consumed) = v5_0::Subscribe::parse(body).map_err(in_subscription)?;
            whole(consumed, body)?;
            texts(read.props())?;
            for entry in read.entries() {
                shared(entry.topic_filter())?;
            }
            let is_id = |property: &&Property| matches!(property, Property::SubscriptionIdentifier(_));
            let mut ids = read.props().iter().filter(is_id);
            let id = ids.next().and_then(PropertyValueAccess::as_u32);
            if ids.next().is_some() {
                return Err((Reason::PROTOCOL_ERROR, "two subscription identifiers")); // §3.8.2.1.2
            }
            (read.packet_id(), read.entries().clone(), id)
        }
    };
    let wanted = |entry: &library::SubEntry| {
        let options = entry.sub_opts();
        Ok(Filter {
            text: filter(entry.topic_filter())?,
            qos: qos(options.qos()),
            no_local: options.nl(),
            retain_as_published: options.rap(),
            retain_handling: match options.rh() {
                library::RetainHandling::SendRetained => RetainHandling::Always,
                library::RetainHandling::SendRetainedIfNotExists => RetainHandling::IfNew,
                library::RetainHandling::DoNotSendRetained => RetainHandling::Never,
            },
        })
    };
    Ok(Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(id).ok_or(malformed("packet id 0"))?,
        subscription_id,
        filters: entries.iter().map(wanted).collect::<Result<_, _>>()?,
    }))
}

fn unsubscribe(version: Version, body: &Bytes) -> Result<Packet, Failure> {
    let (id, filters) = match version {
        Version::V311 => {
            let (read, consumed) = v3_1_1::Unsubscribe::parse(body).map_err(failure)?;
            whole(consumed, body)?;
            (read.packet_id(), read.entries().clone())
        }
        Version::V5 => {
            let (read, consumed) = v5_0::Unsubscribe::parse(body).map_err(in_subscription)?;
            whole(consumed, body)?;
            texts(read.props())?;
            (read.packet_id(), read.entries().clone())
        }
    };
    Ok(Packet::Unsubscribe(Unsubscribe {
        packet_id: PacketId::new(id).ok_or(malformed("packet id 0"))?,
        filters: filters
            .iter()
            .map(|entry| filter(entry.as_str()))
            .collect::<Result<_, _>>()?,
    }))
}

fn disconnect(body: &Bytes) -> Result<Packet, Failure> {
    let (read, consumed) = v5_0::Disconnect::parse(body).map_err(failure)?;
    whole(consumed, body)?;
    let properties = read.props().as_deref().unwrap_or_default();
    texts(properties)?;
    let is_expiry = |property: &&Property| matches!(property, Property::SessionExpiryInterval(_));
    Ok(Packet::Disconnect(Disconnect {
        reason: body.first().map_or(Reason::SUCCESS, |code| Reason(*code)),
        session_expiry_s: properties.iter().find(is_expiry).and_then(PropertyValueAccess::as_u32),
        reason_string: None,
    }))
}
