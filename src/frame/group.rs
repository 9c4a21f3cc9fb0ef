//! The words of a group that its users, its records and the node share: how it reaches its members, and what they may do.

use serde::{Deserialize, Serialize};

/// How a group's messages reach its members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommunicationMode {
    /// Every member but the sender.
    #[default]
    Broadcast,
    /// One member after the other.
    RoundRobin,
    /// The attached member with the fewest messages outstanding.
    LeastLoaded,
    /// The member that the message's key falls to; equal keys in order.
    Partitioned,
}

/// What a group's members may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemberPermissions {
    pub send_messages: bool,
    pub invite_members: bool,
    pub moderate: bool,
}

impl Default for MemberPermissions {
    fn default() -> Self {
        Self {
            send_messages: true,
            invite_members: false,
            moderate: false,
        }
    }
}
