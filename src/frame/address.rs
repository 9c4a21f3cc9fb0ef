//! Where a message goes: `agent:ID`, `agent:ID#TOKEN`, `group:ID`, `topic:NAME`, `any:CAPABILITY`.
//!
//! An address is one text with a checked form; its hash decides its home shard, on every node and in every version alike.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    grammar::{check_segmented, excerpt, is_token},
    id::{AgentId, Capability, GroupId, IdError, ShardId},
    limits::TOKEN_BYTES_MAX,
    topic::{TopicError, TopicFilter, TopicName},
};

/// Why a text is not an address. Always the caller's fault; never worth a retry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    #[error("starts with none of `agent:`, `group:`, `topic:`, `any:`")]
    Kind,
    #[error("{0}")]
    Id(#[from] IdError),
    #[error("{0}")]
    Topic(#[from] TopicError),
    #[error("has a token that is not 1 to {TOKEN_BYTES_MAX} of A-Z a-z 0-9 . _ ~ -")]
    Token,
}

/// What an address names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressKind {
    /// An agent's inbox.
    Agent,
    /// A session's own queue: a reply address, or the queue of its topic subscriptions.
    Session,
    Group,
    Topic,
    /// Any agent with a capability.
    Any,
}

/// A checked address. A clone is a reference count.
#[derive(Clone)]
pub struct Address {
    text: Arc<str>,
    kind: AddressKind,
    /// The hash of the whole text: it decides the home shard and serves maps as their hash.
    hash: u64,
}

impl Address {
    /// The address of an agent's inbox.
    pub fn agent(id: &AgentId) -> Self {
        Self::checked(format!("agent:{id}"), AddressKind::Agent)
    }

    /// The address of a session's own queue. The token is 1–64 of `[A-Za-z0-9._~-]`.
    pub fn session(id: &AgentId, token: &str) -> Result<Self, AddressError> {
        check_token(token)?;
        Ok(Self::checked(format!("agent:{id}#{token}"), AddressKind::Session))
    }

    /// The address of a group.
    pub fn group(id: &GroupId) -> Self {
        Self::checked(format!("group:{id}"), AddressKind::Group)
    }

    /// The address of a topic.
    pub fn topic(name: &TopicName) -> Self {
        Self::checked(format!("topic:{name}"), AddressKind::Topic)
    }

    /// The address of the queue that the subscribers of a shared filter compete for.
    pub fn shared(filter: &TopicFilter) -> Self {
        Self::checked(format!("topic:{filter}"), AddressKind::Topic)
    }

    /// The address of any agent that has a capability.
    pub fn any(capability: &Capability) -> Self {
        Self::checked(format!("any:{capability}"), AddressKind::Any)
    }

    /// Takes a text that was checked when it was written: one from a validated frame or a store record.
    pub(crate) fn from_trusted(text: &str) -> Self {
        let kind = match text.split_once(':') {
            Some(("agent", rest)) if rest.contains('#') => AddressKind::Session,
            Some(("group", _)) => AddressKind::Group,
            Some(("topic", _)) => AddressKind::Topic,
            Some(("any", _)) => AddressKind::Any,
            _ => AddressKind::Agent,
        };
        Self::checked(text, kind)
    }

    fn checked(text: impl Into<Arc<str>>, kind: AddressKind) -> Self {
        let text = text.into();
        let hash = hash_address(&text);
        Self { text, kind, hash }
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What it names.
    pub fn kind(&self) -> AddressKind {
        self.kind
    }

    /// The part behind the kind's prefix, with the token of a session address still on it.
    pub fn name(&self) -> &str {
        self.text.split_once(':').map_or("", |(_, name)| name)
    }

    /// The agent of an agent or session address.
    pub fn agent_id(&self) -> Option<&str> {
        match self.kind {
            AddressKind::Agent => Some(self.name()),
            AddressKind::Session => self.name().split_once('#').map(|(agent, _)| agent),
            AddressKind::Group | AddressKind::Topic | AddressKind::Any => None,
        }
    }

    /// The token of a session address.
    pub fn token(&self) -> Option<&str> {
        match self.kind {
            AddressKind::Session => self.name().split_once('#').map(|(_, token)| token),
            _ => None,
        }
    }

    /// The hash of the whole text, the same on every node and in every version.
    pub fn hash64(&self) -> u64 {
        self.hash
    }

    /// The shard that orders and keeps this address's messages.
    pub fn home_shard(&self) -> ShardId {
        ShardId::of_hash(self.hash)
    }
}

/// The placement hash: XXH3-64 with seed 0. Part of the format: changing it moves every mailbox.
pub fn hash_address(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}

fn check_token(token: &str) -> Result<(), AddressError> {
    if is_token(token) {
        Ok(())
    } else {
        Err(AddressError::Token)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let kind = check(text)?;
        Ok(Self::checked(text, kind))
    }
}

/// Checks a text without keeping it; what a received envelope's addresses go through.
pub(crate) fn check(text: &str) -> Result<AddressKind, AddressError> {
    // Byte by byte, the prefixes being known: a search for the colon is a call of its own.
    if let Some(rest) = text.strip_prefix("agent:") {
        return match rest.bytes().position(|byte| byte == b'#') {
            Some(hash) => {
                check_segmented(&rest[..hash])?;
                check_token(&rest[hash + 1..])?;
                Ok(AddressKind::Session)
            }
            None => Ok(check_segmented(rest).map(|()| AddressKind::Agent)?),
        };
    }
    if let Some(rest) = text.strip_prefix("topic:") {
        return Ok(TopicName::check(rest).map(|()| AddressKind::Topic)?);
    }
    if let Some(rest) = text.strip_prefix("group:") {
        return Ok(check_segmented(rest).map(|()| AddressKind::Group)?);
    }
    match text.strip_prefix("any:") {
        Some(rest) => Ok(check_segmented(rest).map(|()| AddressKind::Any)?),
        None => Err(AddressError::Kind),
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.text == other.text
    }
}

impl Eq for Address {}

impl std::hash::Hash for Address {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl PartialOrd for Address {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Address {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|error| serde::de::Error::custom(format!("{:?} {error}", excerpt(&text))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_round_trips_through_its_text() {
        for (text, kind) in [
            ("agent:acme/planner", AddressKind::Agent),
            ("agent:acme/planner#r-1", AddressKind::Session),
            ("group:team", AddressKind::Group),
            ("topic:a/b", AddressKind::Topic),
            ("any:summarize", AddressKind::Any),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.as_str(), address.kind()), (text, kind));
            assert_eq!(Address::from_trusted(text).kind(), kind);
        }
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for bad in [
            "",
            "agent",
            "agent:",
            "bob",
            "group:a#t",
            "agent:a#",
            "agent:a#x y",
            "topic:a/+",
            "mail:a",
            "any:",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn home_shards_are_part_of_the_format_and_never_move() {
        // Written down once: a change here would orphan every stored mailbox.
        for (text, shard) in [("agent:agent_1", 603), ("topic:a/b", 552)] {
            assert_eq!(text.parse::<Address>().unwrap().home_shard().get(), shard, "{text}");
        }
    }

    #[test]
    fn parts_of_a_session_address() {
        let address: Address = "agent:a/b#tok".parse().unwrap();
        assert_eq!((address.agent_id(), address.token()), (Some("a/b"), Some("tok")));
    }
}
