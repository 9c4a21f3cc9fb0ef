//! The `Groups` service.

use tonic::{Request, Response, Status};

use super::{
    Edge,
    error::{invalid, status},
    identify::principal,
    show,
};
use crate::{
    frame::{AgentId, GroupId},
    router::{
        error::FabricError,
        registry::{GroupRecord, PartitionKey},
    },
    rpc::{
        convert::{FieldError, optional, required},
        v1,
    },
    time::Timestamp,
};

#[tonic::async_trait]
impl v1::groups_server::Groups for Edge {
    async fn create_group(&self, request: Request<v1::CreateGroupRequest>) -> Result<Response<v1::Group>, Status> {
        let principal = principal(&request)?;
        let group = request.into_inner().group.unwrap_or_default();
        let record = record(group).map_err(status)?;
        let created = self
            .door
            .fabric
            .create_group(&principal, record)
            .await
            .map_err(status)?;
        Ok(self.answer(show::group(&created)))
    }

    async fn get_group(&self, request: Request<v1::GetGroupRequest>) -> Result<Response<v1::Group>, Status> {
        let principal = principal(&request)?;
        let group = group_id(&request.get_ref().group_id)?;
        let record = self.door.fabric.group(&principal, &group).map_err(status)?;
        Ok(self.answer(show::group(&record)))
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        let principal = principal(&request)?;
        let request = request.get_ref();
        let size = show::page_size(request.page_size).map_err(wrong)?;
        let after = optional("page_token", &request.page_token, |text| GroupId::new(text)).map_err(wrong)?;
        let groups = self
            .door
            .fabric
            .groups(&principal, after.as_ref(), size)
            .map_err(status)?;
        Ok(self.answer(v1::ListGroupsResponse {
            next_page_token: show::next_token(&groups, size, |last| last.group_id.to_string()),
            groups: groups.iter().map(|record| show::group(record)).collect(),
        }))
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        let principal = principal(&request)?;
        let request = request.get_ref();
        let (group, acting) = (group_id(&request.group_id)?, acting(&request.acting_agent)?);
        let removed = self.door.fabric.remove_group(&principal, acting.as_ref(), &group);
        removed.await.map_err(status)?;
        Ok(self.answer(v1::DeleteGroupResponse {}))
    }

    async fn add_members(&self, request: Request<v1::AddMembersRequest>) -> Result<Response<v1::Group>, Status> {
        let principal = principal(&request)?;
        let request = request.into_inner();
        let (group, acting) = (group_id(&request.group_id)?, acting(&request.acting_agent)?);
        let members = show::agents("agents", request.agents).map_err(status)?;
        let added = self
            .door
            .fabric
            .add_members(&principal, acting.as_ref(), &group, members);
        let group = added.await.map_err(status)?;
        Ok(self.answer(show::group(&group)))
    }

    async fn remove_member(&self, request: Request<v1::RemoveMemberRequest>) -> Result<Response<v1::Group>, Status> {
        let principal = principal(&request)?;
        let request = request.get_ref();
        let (group, acting) = (group_id(&request.group_id)?, acting(&request.acting_agent)?);
        let member = required("agent_id", &request.agent_id, |text| AgentId::new(text)).map_err(wrong)?;
        let removed = self
            .door
            .fabric
            .remove_member(&principal, acting.as_ref(), &group, &member);
        let group = removed.await.map_err(status)?;
        Ok(self.answer(show::group(&group)))
    }

    async fn history(&self, request: Request<v1::HistoryRequest>) -> Result<Response<v1::HistoryResponse>, Status> {
        let principal = principal(&request)?;
        let request = request.get_ref();
        let group = group_id(&request.group_id)?;
        let size = show::page_size(request.page_size).map_err(wrong)?;
        let after = optional("page_token", &request.page_token, show::tracking).map_err(wrong)?;
        let kept = self.door.fabric.group_history(&principal, &group, after, size);
        let kept = kept.await.map_err(status)?;
        Ok(self.answer(v1::HistoryResponse {
            next_page_token: show::next_token(&kept, size, |last| last.tracking.to_string()),
            messages: kept.iter().map(show::kept).collect(),
        }))
    }
}

fn wrong(error: FieldError) -> Status {
    status(invalid(error))
}

fn group_id(text: &str) -> Result<GroupId, Status> {
    required("group_id", text, |text| GroupId::new(text)).map_err(wrong)
}

fn acting(text: &str) -> Result<Option<AgentId>, Status> {
    optional("acting_agent", text, |text| AgentId::new(text)).map_err(wrong)
}

fn record(group: v1::Group) -> Result<GroupRecord, FabricError> {
    let read = |group: &v1::Group| {
        Ok((
            required("group.group_id", &group.group_id, |text| GroupId::new(text))?,
            show::mode(group.communication_mode)?,
            optional("group.partition_key", &group.partition_key, |text| {
                PartitionKey::try_from(text.to_owned())
            })?,
            optional("group.created_by", &group.created_by, |text| AgentId::new(text))?,
        ))
    };
    let (group_id, communication_mode, partition_key, created_by) = read(&group).map_err(invalid)?;
    Ok(GroupRecord {
        group_id,
        name: group.name,
        agents: show::agents("group.agents", group.agents)?,
        communication_mode,
        partition_key: partition_key.unwrap_or_default(),
        protocols: group.protocols,
        policies: show::policies(group.policies),
        created_by,
        created_at: Timestamp::NEVER,
    })
}
