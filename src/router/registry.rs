//! What is known of agents and groups: the records that registration writes and discovery reads.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

pub use crate::frame::{CommunicationMode, MemberPermissions};
use crate::{
    frame::{AgentId, Capability, GroupId},
    time::Timestamp,
};

/// Most agents named in one group.
pub const GROUP_MEMBERS_MAX: usize = 10_000;
/// Most capabilities that one agent declares.
pub const CAPABILITIES_MAX: usize = 128;
/// Largest `metadata` of an agent, in bytes of JSON.
pub const METADATA_BYTES_MAX: usize = 16 * 1024;
/// Longest name or endpoint, in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Most protocols or endpoints that one agent or group names.
pub const PROTOCOLS_MAX: usize = 16;

/// What an agent says of itself when it registers.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    pub name: String,
    pub capabilities: Vec<Capability>,
    pub protocols: Vec<String>,
    /// A JSON object, kept as written.
    pub metadata: Option<Box<RawValue>>,
    /// Protocol name to URL.
    pub endpoints: BTreeMap<String, String>,
}

/// Names an agent's registration; stays the same while it is updated. As text `reg_` and 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct RegistrationId(Uuid);

impl RegistrationId {
    /// One that no other registration has.
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for RegistrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reg_{}", self.0.as_simple())
    }
}

impl From<RegistrationId> for String {
    fn from(id: RegistrationId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for RegistrationId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let id = text.strip_prefix("reg_").and_then(|id| Uuid::try_parse(id).ok());
        id.map(Self).ok_or_else(|| format!("{text:?} is not `reg_` and a UUID"))
    }
}

/// A registered agent, as stored. A node keeps all of them in memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentRecord {
    pub agent_id: AgentId,
    pub registration_id: RegistrationId,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub capabilities: Vec<Capability>,
    #[serde(default)]
    pub protocols: Vec<String>,
    #[serde(default)]
    pub metadata: Option<Box<RawValue>>,
    #[serde(default)]
    pub endpoints: BTreeMap<String, String>,
    pub registered_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Whether a registration made a new agent or changed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    New,
    Updated,
}

/// An agent as discovery shows it.
#[derive(Clone, Debug)]
pub struct AgentView {
    pub agent_id: AgentId,
    /// `None` for an agent that was named but never registered.
    pub record: Option<std::sync::Arc<AgentRecord>>,
    /// Sessions attached now.
    pub sessions: usize,
    /// When a session, poll or heartbeat was last seen; [`Timestamp::NEVER`] since this node started.
    pub last_seen: Timestamp,
}

/// Which agents a listing shows; all conditions hold together.
#[derive(Clone, Debug, Default)]
pub struct AgentFilter {
    pub capability: Option<Capability>,
    pub protocol: Option<String>,
    pub online: Option<bool>,
    pub prefix: Option<String>,
    /// Ids after this one, in order of id.
    pub after: Option<AgentId>,
    /// At most this many; the door caps it at 1,000.
    pub limit: usize,
}

/// Where a partitioned group finds a message's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum PartitionKey {
    #[default]
    Sender,
    Header(String),
    /// A JSON pointer (RFC 6901) into the body.
    BodyPointer(String),
}

impl From<PartitionKey> for String {
    fn from(key: PartitionKey) -> Self {
        match key {
            PartitionKey::Sender => "sender".into(),
            PartitionKey::Header(name) => format!("header:{name}"),
            PartitionKey::BodyPointer(pointer) => pointer,
        }
    }
}

impl TryFrom<String> for PartitionKey {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.strip_prefix("header:") {
            Some(name) if !name.is_empty() => Ok(Self::Header(name.into())),
            _ if text == "sender" => Ok(Self::Sender),
            _ if text.starts_with('/') => Ok(Self::BodyPointer(text)),
            _ => Err(format!(
                "{text:?} is not `sender`, `header:<name>` or a JSON pointer such as `/task/id`"
            )),
        }
    }
}

/// A group's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupPolicies {
    /// Largest body, in bytes; 0: the node's limit.
    pub max_message_size: u64,
    /// How long messages stay readable as history, in seconds; 0: no history.
    pub message_retention: u64,
    pub member_permissions: MemberPermissions,
}

impl GroupPolicies {
    /// How long messages stay readable as history; zero: no history.
    pub const fn retention(&self) -> Duration {
        Duration::from_secs(self.message_retention)
    }
}

/// A group, as stored and as shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupRecord {
    pub group_id: GroupId,
    #[serde(default)]
    pub name: String,
    /// Members, in the order in which they joined.
    pub agents: Vec<AgentId>,
    #[serde(default)]
    pub communication_mode: CommunicationMode,
    #[serde(default)]
    pub partition_key: PartitionKey,
    #[serde(default)]
    pub protocols: Vec<String>,
    #[serde(default)]
    pub policies: GroupPolicies,
    /// The group's moderator; `None` where nobody said who created it (development mode).
    #[serde(default)]
    pub created_by: Option<AgentId>,
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrations_id_is_stored_as_the_text_that_it_is_shown_as() {
        let id = RegistrationId::fresh();
        let stored = serde_json::to_string(&id).unwrap();
        assert_eq!(stored, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<RegistrationId>(&stored).unwrap(), id);
        assert_eq!(stored.len(), 38);
        assert!(serde_json::from_str::<RegistrationId>("\"reg_1\"").is_err());
    }
}
