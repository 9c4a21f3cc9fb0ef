//! Groups: named sets of agents.

use std::time::Duration;

use serde::Serialize;

use super::{Client, Error, KeptMessage, Page, message::some_time};
use crate::{
    frame::{AgentId, CommunicationMode, GroupId, MemberPermissions},
    rpc::v1,
    time::Timestamp,
};

/// A group to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupDraft {
    pub name: String,
    pub agents: Vec<AgentId>,
    pub communication_mode: CommunicationMode,
    /// With [`CommunicationMode::Partitioned`]: `sender`, `header:NAME` or a JSON pointer into the body. Empty: `sender`.
    pub partition_key: String,
    /// Preferred protocols of the last hop.
    pub protocols: Vec<String>,
    /// Largest body, in bytes; 0: the node's limit.
    pub message_bytes_max: u64,
    /// How long messages stay readable as history, in whole seconds; zero: no history.
    pub message_retention: Duration,
    pub member_permissions: MemberPermissions,
    /// The moderator, in development mode; a proven identity stands in front of it.
    pub created_by: Option<AgentId>,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    pub group_id: String,
    pub name: String,
    pub agents: Vec<String>,
    pub communication_mode: CommunicationMode,
    pub partition_key: String,
    pub protocols: Vec<String>,
    pub message_bytes_max: u64,
    pub message_retention: Duration,
    pub member_permissions: MemberPermissions,
    pub created_by: Option<String>,
    pub created_at: Option<Timestamp>,
}

impl From<CommunicationMode> for v1::CommunicationMode {
    fn from(mode: CommunicationMode) -> Self {
        match mode {
            CommunicationMode::Broadcast => Self::Broadcast,
            CommunicationMode::RoundRobin => Self::RoundRobin,
            CommunicationMode::LeastLoaded => Self::LeastLoaded,
            CommunicationMode::Partitioned => Self::Partitioned,
        }
    }
}

fn to_proto(group: &GroupId, draft: GroupDraft) -> v1::Group {
    v1::Group {
        group_id: group.as_str().into(),
        name: draft.name,
        agents: texts(&draft.agents),
        communication_mode: v1::CommunicationMode::from(draft.communication_mode).into(),
        partition_key: draft.partition_key,
        protocols: draft.protocols,
        policies: Some(v1::GroupPolicies {
            message_bytes_max: draft.message_bytes_max,
            message_retention_s: draft.message_retention.as_secs(),
            member_permissions: Some(v1::MemberPermissions {
                send_messages: Some(draft.member_permissions.send_messages),
                invite_members: draft.member_permissions.invite_members,
                moderate: draft.member_permissions.moderate,
            }),
        }),
        created_by: draft.created_by.map_or_else(String::new, |agent| agent.as_str().into()),
        created_at_ms: 0,
    }
}

fn from_proto(group: v1::Group) -> Result<Group, Error> {
    let communication_mode = match group.communication_mode() {
        v1::CommunicationMode::Broadcast => CommunicationMode::Broadcast,
        v1::CommunicationMode::RoundRobin => CommunicationMode::RoundRobin,
        v1::CommunicationMode::LeastLoaded => CommunicationMode::LeastLoaded,
        v1::CommunicationMode::Partitioned => CommunicationMode::Partitioned,
        v1::CommunicationMode::Unspecified => return Err(Error::protocol("a group has no known mode")),
    };
    let policies = group.policies.unwrap_or_default();
    let permissions = policies.member_permissions.unwrap_or_default();
    Ok(Group {
        group_id: group.group_id,
        name: group.name,
        agents: group.agents,
        communication_mode,
        partition_key: group.partition_key,
        protocols: group.protocols,
        message_bytes_max: policies.message_bytes_max,
        message_retention: Duration::from_secs(policies.message_retention_s),
        member_permissions: MemberPermissions {
            send_messages: permissions.send_messages.unwrap_or(true),
            invite_members: permissions.invite_members,
            moderate: permissions.moderate,
        },
        created_by: Some(group.created_by).filter(|text| !text.is_empty()),
        created_at: some_time(group.created_at_ms),
    })
}

fn texts(agents: &[AgentId]) -> Vec<String> {
    agents.iter().map(ToString::to_string).collect()
}

fn acting_text(acting: Option<&AgentId>) -> String {
    acting.map_or_else(String::new, |agent| agent.as_str().into())
}

impl Client {
    /// Creates a group.
    pub async fn create_group(&self, group: &GroupId, draft: GroupDraft) -> Result<Group, Error> {
        let request = v1::CreateGroupRequest {
            group: Some(to_proto(group, draft)),
        };
        from_proto(self.groups_service().create_group(request).await?.into_inner())
    }

    /// One group.
    pub async fn group(&self, group: &GroupId) -> Result<Group, Error> {
        let request = v1::GetGroupRequest {
            group_id: group.as_str().into(),
        };
        from_proto(self.groups_service().get_group(request).await?.into_inner())
    }

    /// Groups in order of id, and the token of the next page: empty after the last.
    pub async fn groups(&self, page: Page) -> Result<(Vec<Group>, String), Error> {
        let request = v1::ListGroupsRequest {
            page_size: page.size,
            page_token: page.token,
        };
        let answer = self.groups_service().list_groups(request).await?.into_inner();
        let groups = answer.groups.into_iter().map(from_proto).collect::<Result<_, _>>()?;
        Ok((groups, answer.next_page_token))
    }

    /// Deletes a group. `acting`: who does it, where nobody proved an identity.
    pub async fn delete_group(&self, group: &GroupId, acting: Option<&AgentId>) -> Result<(), Error> {
        let request = v1::DeleteGroupRequest {
            group_id: group.as_str().into(),
            acting_agent: acting_text(acting),
        };
        self.groups_service().delete_group(request).await?;
        Ok(())
    }

    /// Adds members.
    pub async fn add_members(
        &self,
        group: &GroupId,
        agents: &[AgentId],
        acting: Option<&AgentId>,
    ) -> Result<Group, Error> {
        let request = v1::AddMembersRequest {
            group_id: group.as_str().into(),
            agents: texts(agents),
            acting_agent: acting_text(acting),
        };
        from_proto(self.groups_service().add_members(request).await?.into_inner())
    }

    /// Removes a member.
    pub async fn remove_member(
        &self,
        group: &GroupId,
        agent: &AgentId,
        acting: Option<&AgentId>,
    ) -> Result<Group, Error> {
        let request = v1::RemoveMemberRequest {
            group_id: group.as_str().into(),
            agent_id: agent.as_str().into(),
            acting_agent: acting_text(acting),
        };
        from_proto(self.groups_service().remove_member(request).await?.into_inner())
    }

    /// A group's messages within its retention, oldest first, and the token of the next page: empty after the last.
    pub async fn group_history(&self, group: &GroupId, page: Page) -> Result<(Vec<KeptMessage>, String), Error> {
        let request = v1::HistoryRequest {
            group_id: group.as_str().into(),
            page_size: page.size,
            page_token: page.token,
        };
        let answer = self.groups_service().history(request).await?.into_inner();
        let messages = answer
            .messages
            .into_iter()
            .map(KeptMessage::from_proto)
            .collect::<Result<_, _>>()?;
        Ok((messages, answer.next_page_token))
    }
}
