//! MQTT's names and weft's: topics and addresses, client ids and agent ids, and the token of a client's session queue.
//!
//! `a/b` is `topic:a/b`. Below `$weft/`, which `#` never sees [MQTT-4.7.2-1], stand the addresses that are no topics: `$weft/agent/<id>`,
//! `$weft/group/<id>`, `$weft/any/<capability>` and, to answer a session, `$weft/reply/<id>/<token>`. `$weft/inbox` is where the
//! client's own inbox arrives. Start at [`address_of_topic`].

use std::fmt::Write;

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128;

use super::reason::Reason;
use crate::frame::{
    Address, AddressKind, AgentId, Capability, GroupId, TopicError, TopicFilter, TopicName, excerpt,
    limits::TOKEN_BYTES_MAX,
};

/// The filter that opens the client's inbox, and the topic that its messages arrive on.
pub const INBOX_FILTER: &str = "$weft/inbox";
/// Where addresses that are no topics stand.
const OWN: &str = "$weft/";
/// What queue tokens of MQTT sessions start with, so that they never meet those of other protocols.
const TOKEN_PREFIX: &str = "mqtt.";
/// Bytes of a segment of an agent's id that an escaped client id fills, leaving room for what marks a segment that goes on.
const SEGMENT_FILL_MAX: usize = 60;
/// Stands at the end of a segment that goes on in the next one.
const GOES_ON: &str = "~-";

/// Why a topic, a filter or a client id has no counterpart here. The client's fault; never worth a retry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    #[error("the topic {0}")]
    Topic(#[from] TopicError),
    #[error("`{0}` is none of $weft/agent/<id>, $weft/group/<id>, $weft/any/<capability>, $weft/reply/<id>/<token>")]
    NoAddress(String),
    #[error("topics below `$SYS` and `$share` are the node's own")]
    Reserved,
    #[error("of the filters below `$weft/` there is only {INBOX_FILTER}")]
    NoFilter,
    #[error("the client identifier is too long: escaped it has {bytes} bytes, and an agent's id has 255 at most")]
    ClientId { bytes: usize },
}

impl NameError {
    /// What the client is answered.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Topic(_) | Self::NoAddress(_) => Reason::TOPIC_NAME_INVALID,
            Self::Reserved => Reason::NOT_AUTHORIZED,
            Self::NoFilter => Reason::TOPIC_FILTER_INVALID,
            Self::ClientId { .. } => Reason::CLIENT_ID_NOT_VALID,
        }
    }
}

/// Where a message to this topic goes.
pub(super) fn address_of_topic(topic: &str) -> Result<Address, NameError> {
    if !topic.starts_with('$') {
        return Ok(Address::topic(&TopicName::new(topic)?));
    }
    if is_nodes_own(topic) || topic.starts_with("$share/") {
        return Err(NameError::Reserved);
    }
    let Some(own) = topic.strip_prefix(OWN) else {
        return Ok(Address::topic(&TopicName::new(topic)?));
    };
    let parse = || match own.split_once('/')? {
        ("agent", id) => AgentId::new(id).ok().map(|id| Address::agent(&id)),
        ("group", id) => GroupId::new(id).ok().map(|id| Address::group(&id)),
        ("any", id) => Capability::new(id).ok().map(|id| Address::any(&id)),
        ("reply", session) => {
            let (id, token) = session.rsplit_once('/')?;
            Address::session(&AgentId::new(id).ok()?, token).ok()
        }
        _ => None,
    };
    parse().ok_or_else(|| NameError::NoAddress(excerpt(topic).to_owned()))
}

/// The topic that a message to this address is answered or sent on. The inverse of [`address_of_topic`].
pub(super) fn topic_of_address(address: &str) -> Option<String> {
    let (kind, name) = address.split_once(':')?;
    match (kind, name.split_once('#')) {
        ("topic", _) => Some(name.to_owned()),
        ("agent", Some((id, token))) => Some(format!("{OWN}reply/{id}/{token}")),
        ("agent" | "group" | "any", None) => Some(format!("{OWN}{kind}/{name}")),
        _ => None,
    }
}

/// The topic that a message arrives on: its own, or the inbox's for what was sent to an agent, a group or a capability.
pub(super) fn arrival_topic(address: &str) -> &str {
    match address.strip_prefix("topic:") {
        Some(topic) => topic,
        None => INBOX_FILTER,
    }
}

/// A filter as the fabric has it; `None` for the inbox.
pub(super) fn filter_of(text: &str) -> Result<Option<TopicFilter>, NameError> {
    if text == INBOX_FILTER {
        return Ok(None);
    }
    let filter = TopicFilter::new(text)?;
    match filter.filter().starts_with(OWN) {
        true => Err(NameError::NoFilter),
        false => Ok(Some(filter)),
    }
}

/// Whether a topic is, or a filter asks for, one of the node's own.
pub fn is_nodes_own(text: &str) -> bool {
    text.split('/').next() == Some("$SYS")
}

/// Where a queue is the one of a shared subscription: its filter.
pub(super) fn shared_filter(queue: &Address) -> Option<&str> {
    let is_shared = queue.kind() == AddressKind::Topic && queue.name().starts_with("$share/");
    is_shared.then(|| queue.name())
}

// --- client ids --------------------------------------------------------------------------------------------------------

/// The agent id of an anonymous client: its client id where the grammar of agent ids allows it, else one that
/// [`client_of_agent`] turns back into it.
///
/// Bytes outside the grammar become `~XX`, as do `~` itself and a segment's leading dot; an empty segment becomes `~`; a segment
/// above 60 bytes goes on in the next, behind `~-`.
pub fn agent_of_client(client_id: &str) -> Result<AgentId, NameError> {
    let mut escaped = String::with_capacity(client_id.len());
    for (at, segment) in client_id.split('/').enumerate() {
        if at > 0 {
            escaped.push('/');
        }
        escape_segment(segment, &mut escaped);
    }
    let bytes = escaped.len();
    match AgentId::new(&escaped) {
        Ok(id) => Ok(id),
        // Too long, or a word of the grammar's own such as `send`: its first letter is escaped.
        Err(_) if bytes <= 255 => {
            let (first, rest) = escaped.split_at(1.min(bytes));
            let marked = format!("~{:02X}{rest}", first.bytes().next().unwrap_or_default());
            AgentId::new(marked).map_err(|_| NameError::ClientId { bytes })
        }
        Err(_) => Err(NameError::ClientId { bytes }),
    }
}

fn escape_segment(segment: &str, into: &mut String) {
    if segment.is_empty() {
        return into.push('~');
    }
    let mut filled = 0;
    for (at, byte) in segment.bytes().enumerate() {
        let is_plain = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || (byte == b'.' && at > 0);
        let bytes = if is_plain { 1 } else { 3 };
        if filled + bytes > SEGMENT_FILL_MAX {
            into.push_str(GOES_ON);
            into.push('/');
            filled = 0;
        }
        filled += bytes;
        match is_plain {
            true => into.push(char::from(byte)),
            false => write!(into, "~{byte:02X}").expect("writing to a string does not fail"),
        }
    }
}

/// The client id behind an agent id that [`agent_of_client`] made; `None` where it made none such.
pub fn client_of_agent(agent: &AgentId) -> Option<String> {
    let mut bytes = Vec::with_capacity(agent.as_str().len());
    let mut goes_on = true;
    for segment in agent.as_str().split('/') {
        if !goes_on {
            bytes.push(b'/');
        }
        goes_on = segment.ends_with(GOES_ON);
        let segment = if goes_on {
            &segment[..segment.len() - GOES_ON.len()]
        } else {
            segment
        };
        let mut rest = if segment == "~" { "" } else { segment };
        while let Some((plain, escaped)) = rest.split_once('~') {
            bytes.extend_from_slice(plain.as_bytes());
            bytes.push(u8::from_str_radix(escaped.get(..2)?, 16).ok()?);
            rest = &escaped[2..];
        }
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// The token of a client's session queue among its agent's: the session's key is (principal, client id). One that does not fit a token
/// stands there as its 128-bit hash; only an agent's own clients could meet in one.
pub fn queue_token(client_id: &str) -> String {
    let mut token = String::from(TOKEN_PREFIX);
    for byte in client_id.bytes() {
        match byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-') {
            true => token.push(char::from(byte)),
            false => write!(token, "~{byte:02X}").expect("writing to a string does not fail"),
        }
    }
    match token.len() <= TOKEN_BYTES_MAX {
        true => token,
        // `~` followed by no two hexadecimal digits: no escaped client id looks like this.
        false => format!("{TOKEN_PREFIX}~.{:032x}", xxh3_128(client_id.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn topics_and_addresses_turn_into_each_other() {
        for (topic, address) in [
            ("a/b", "topic:a/b"),
            ("/a//b", "topic:/a//b"),
            ("$weft/agent/acme/planner", "agent:acme/planner"),
            ("$weft/group/team", "group:team"),
            ("$weft/any/translate", "any:translate"),
            ("$weft/reply/acme/planner/s.1", "agent:acme/planner#s.1"),
            ("$other/x", "topic:$other/x"),
        ] {
            assert_eq!(address_of_topic(topic).unwrap().as_str(), address);
            assert_eq!(topic_of_address(address).as_deref(), Some(topic));
        }
    }

    #[test]
    fn topics_of_the_node_and_malformed_targets_are_refused() {
        for topic in [
            "$weft/inbox",
            "$weft/agent/",
            "$weft/agent/a b",
            "$weft/reply/x",
            "$weft/",
        ] {
            let error = address_of_topic(topic).unwrap_err();
            assert_eq!(error.reason(), Reason::TOPIC_NAME_INVALID, "{topic}");
        }
        for topic in ["$SYS/x", "$share/g/x"] {
            assert_eq!(
                address_of_topic(topic).unwrap_err().reason(),
                Reason::NOT_AUTHORIZED,
                "{topic}"
            );
        }
        assert_eq!(filter_of("$weft/agent/x"), Err(NameError::NoFilter));
        assert_eq!(filter_of("$share/g/$weft/inbox"), Err(NameError::NoFilter));
        assert_eq!(filter_of(INBOX_FILTER), Ok(None));
        assert!(filter_of("$SYS/#").unwrap().is_some());
    }

    #[test]
    fn a_usual_client_id_is_its_own_agent_id() {
        for id in ["sensor-1", "acme/planner", "a.b_c", "0123456789abcdefABCDEF"] {
            assert_eq!(agent_of_client(id).unwrap().as_str(), id);
        }
        assert_eq!(
            agent_of_client("mosqpub|12-host").unwrap().as_str(),
            "mosqpub~7C12-host"
        );
        assert_eq!(agent_of_client("a//.x").unwrap().as_str(), "a/~/~2Ex");
        assert_eq!(agent_of_client("send").unwrap().as_str(), "~73end");
        assert!(agent_of_client(&"x".repeat(300)).is_err());
    }

    #[test]
    fn a_client_id_that_fits_no_token_gets_one_that_no_other_has() {
        let long = "x".repeat(100);
        assert_eq!(queue_token("c-1"), "mqtt.c-1");
        assert_eq!(queue_token("a/b"), "mqtt.a~2Fb");
        assert!(queue_token(&long).len() <= TOKEN_BYTES_MAX);
        assert_ne!(queue_token(&long), queue_token(&long[1..]));
    }

    proptest! {
        #[test]
        fn client_ids_come_back_from_their_agent_ids(id in "\\PC{1,60}|[a-z/~.|]{1,120}|x{59,130}") {
            if let Ok(agent) = agent_of_client(&id) {
                prop_assert_eq!(client_of_agent(&agent), Some(id));
            }
        }

        #[test]
        fn different_short_client_ids_have_different_tokens(a in "\\PC{0,30}", b in "\\PC{0,30}") {
            prop_assert_eq!(a == b, queue_token(&a) == queue_token(&b));
            prop_assert!(Address::session(&AgentId::new("x").unwrap(), &queue_token(&a)).is_ok());
        }
    }
}
