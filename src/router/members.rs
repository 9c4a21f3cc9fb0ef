//! Agents and groups: registration, discovery, membership. A change is durable before it shows.

use std::sync::Arc;

use super::{
    changes::to_the_end,
    error::FabricError,
    fabric::{Fabric, LIST_MAX, seq_of},
    port::{Action, RecordOp, Table},
    registry::{
        AgentFilter, AgentRecord, AgentView, CAPABILITIES_MAX, GROUP_MEMBERS_MAX, GroupRecord, METADATA_BYTES_MAX,
        PROTOCOLS_MAX, Registered, Registration, RegistrationId, TEXT_BYTES_MAX,
    },
    surface::{Goodbye, KeptMessage, Principal},
};
use crate::{
    frame::{Address, AgentId, GroupId, TrackingId},
    time,
};

impl Fabric {
    /// Registers an agent, or updates what is known of it.
    pub async fn register_agent(
        &self,
        principal: &Principal,
        agent: AgentId,
        registration: Registration,
    ) -> Result<(Arc<AgentRecord>, Registered), FabricError> {
        self.speaks_for(principal, &agent)?;
        self.authorize(&agent, Action::ManageAgent { agent: agent.as_str() })?;
        check_registration(&registration)?;
        if self.is_draining() {
            return Err(FabricError::Draining);
        }
        let fabric = self.clone();
        to_the_end(async move { fabric.decide_registration(agent, registration).await }).await
    }

    async fn decide_registration(
        &self,
        agent: AgentId,
        registration: Registration,
    ) -> Result<(Arc<AgentRecord>, Registered), FabricError> {
        // Two registrations of one agent show in the order in which they are stored; those of others are committed together with them.
        let _one_change = self.0.changes.of(&agent).await;
        let now = time::now();
        let earlier = self.0.directory.agent(agent.as_str()).and_then(|known| known.record());
        let record = Arc::new(AgentRecord {
            agent_id: agent.clone(),
            registration_id: match &earlier {
                Some(earlier) => earlier.registration_id,
                None => RegistrationId::fresh(),
            },
            name: registration.name,
            capabilities: sorted(registration.capabilities),
            protocols: registration.protocols,
            metadata: registration.metadata,
            endpoints: registration.endpoints,
            registered_at: earlier.as_ref().map_or(now, |earlier| earlier.registered_at),
            updated_at: now,
        });
        self.put_record(Table::Agents, agent.as_str(), &*record).await?;
        let replaced = self.0.directory.put_agent(record.clone(), now);
        self.reopen_shared_queues(&agent);
        let registered = if replaced.is_some() {
            Registered::Updated
        } else {
            Registered::New
        };
        Ok((record, registered))
    }

    async fn put_record(&self, table: Table, key: &str, record: &impl serde::Serialize) -> Result<(), FabricError> {
        let value = serde_json::to_vec(record).map_err(|error| FabricError::invalid(key, error.to_string()))?;
        Ok(self
            .0
            .store
            .write_records(vec![RecordOp::Put {
                table,
                key: key.into(),
                value,
            }])
            .await?)
    }

    async fn delete_record(&self, table: Table, key: &str) -> Result<(), FabricError> {
        let key = key.to_owned();
        Ok(self
            .0
            .store
            .write_records(vec![RecordOp::Delete { table, key }])
            .await?)
    }

    /// Sessions of an agent take from the one-of queues that its capabilities and groups now name, and from no others.
    fn reopen_shared_queues(&self, agent: &AgentId) {
        let Some(known) = self.0.directory.agent(agent.as_str()) else {
            return;
        };
        let wanted = self.shared_queues(&known);
        let sessions = known.sessions().clone();
        for session in sessions.iter().filter(|session| session.takes_inbox()) {
            let is_one_of = |queue: &Address| {
                use crate::frame::AddressKind::{Any, Group};
                matches!(queue.kind(), Any | Group)
            };
            let opened = session.holdings().opened();
            for queue in opened {
                if is_one_of(&queue) && wanted.iter().all(|(wanted, _)| *wanted != queue) {
                    self.close_queue(session, &queue);
                }
            }
            wanted
                .iter()
                .for_each(|(queue, kind)| self.open_queue(session, queue, *kind));
        }
    }

    /// Removes an agent: its sessions end, its mailbox and what waits there goes (the senders' receipts say so).
    pub async fn remove_agent(&self, principal: &Principal, agent: &AgentId) -> Result<(), FabricError> {
        self.speaks_for(principal, agent)?;
        self.authorize(agent, Action::ManageAgent { agent: agent.as_str() })?;
        let (fabric, agent) = (self.clone(), agent.clone());
        to_the_end(async move { fabric.decide_removal(&agent).await }).await
    }

    async fn decide_removal(&self, agent: &AgentId) -> Result<(), FabricError> {
        let _one_change = self.0.changes.of(agent).await;
        let _one_change_of_groups = self.0.registry.lock().await;
        let known = self.0.directory.agent(agent.as_str());
        let known = known.ok_or_else(|| FabricError::UnknownAgent(agent.clone()))?;
        for group in known.groups() {
            self.change_group(&group, |record| record.agents.retain(|member| member != agent))
                .await?;
        }
        self.delete_record(Table::Agents, agent.as_str()).await?;
        self.0.directory.remove_agent(agent);
        let sessions = known.sessions().clone();
        sessions
            .iter()
            .for_each(|session| session.say_goodbye(Goodbye::AgentRemoved));
        for queue in self.durable_queues_of(agent) {
            self.forget_durable_queue(&queue).await?;
        }
        self.remove_queue(&Address::agent(agent)).await
    }

    /// Forgets an agent that is not registered, in no group and without sessions and durable queues. What waits in its inbox stays, and
    /// whoever names it makes it known again: for clients that come once, under a name that nobody uses afterwards.
    pub fn forget_named(&self, agent: &AgentId) {
        if self.durable_queues_of(agent).is_empty() {
            self.0.directory.forget_named(agent);
        }
    }

    /// Notes that an agent is alive; [`FabricError::UnknownAgent`] where it is not known at all.
    pub fn heartbeat(&self, principal: &Principal, agent: &AgentId) -> Result<AgentView, FabricError> {
        self.speaks_for(principal, agent)?;
        let known = self.0.directory.agent(agent.as_str());
        let known = known.ok_or_else(|| FabricError::UnknownAgent(agent.clone()))?;
        known.touch(time::now());
        Ok(known.view())
    }

    pub fn agent(&self, _principal: &Principal, agent: &AgentId) -> Result<AgentView, FabricError> {
        let known = self.0.directory.agent(agent.as_str());
        known
            .map(|known| known.view())
            .ok_or_else(|| FabricError::UnknownAgent(agent.clone()))
    }

    /// Agents in order of id that pass a filter; discovery is open to everyone who may speak to the node.
    pub fn agents(&self, _principal: &Principal, filter: &AgentFilter) -> Result<Vec<AgentView>, FabricError> {
        Ok(self.0.directory.list(filter, filter.limit.min(LIST_MAX)))
    }

    /// `group.created_at` and, for a proven principal, `group.created_by` are set here.
    pub async fn create_group(
        &self,
        principal: &Principal,
        mut group: GroupRecord,
    ) -> Result<Arc<GroupRecord>, FabricError> {
        check_group(&group)?;
        if let Principal::Agent(own) = principal {
            self.authorize(
                own,
                Action::ManageGroup {
                    group: group.group_id.as_str(),
                },
            )?;
            group.created_by = Some(own.clone());
        }
        if self.is_draining() {
            return Err(FabricError::Draining);
        }
        let now = time::now();
        group.created_at = now;
        group.agents = unique(std::mem::take(&mut group.agents));
        for member in &group.agents {
            self.know(member.as_str(), "agents", now)?;
        }
        let fabric = self.clone();
        to_the_end(async move { fabric.decide_creation(group).await }).await
    }

    async fn decide_creation(&self, group: GroupRecord) -> Result<Arc<GroupRecord>, FabricError> {
        let _one_change = self.0.registry.lock().await;
        if self.0.directory.group(group.group_id.as_str()).is_some() {
            return Err(FabricError::GroupExists(group.group_id));
        }
        self.put_record(Table::Groups, group.group_id.as_str(), &group).await?;
        let record = Arc::new(group);
        self.0.directory.put_group(record.clone());
        record
            .agents
            .iter()
            .for_each(|member| self.reopen_shared_queues(member));
        Ok(record)
    }

    pub fn group(&self, _principal: &Principal, group: &GroupId) -> Result<Arc<GroupRecord>, FabricError> {
        let known = self.0.directory.group(group.as_str());
        known
            .map(|known| known.record.clone())
            .ok_or_else(|| FabricError::UnknownGroup(group.clone()))
    }

    /// Groups in order of id, after `after`.
    pub fn groups(
        &self,
        _principal: &Principal,
        after: Option<&GroupId>,
        limit: usize,
    ) -> Result<Vec<Arc<GroupRecord>>, FabricError> {
        Ok(self.0.directory.list_groups(after, limit.min(LIST_MAX)))
    }

    /// `acting`: who does it, checked against the group's permissions; `None` in development mode where nobody said.
    pub async fn remove_group(
        &self,
        principal: &Principal,
        acting: Option<&AgentId>,
        group: &GroupId,
    ) -> Result<(), FabricError> {
        let record = self.group(principal, group)?;
        self.may_change(principal, acting, &record, Change::Moderate)?;
        let (fabric, group) = (self.clone(), group.clone());
        to_the_end(async move { fabric.decide_group_removal(&group).await }).await
    }

    async fn decide_group_removal(&self, group: &GroupId) -> Result<(), FabricError> {
        let _one_change = self.0.registry.lock().await;
        let known = self.0.directory.group(group.as_str());
        let known = known.ok_or_else(|| FabricError::UnknownGroup(group.clone()))?;
        self.delete_record(Table::Groups, group.as_str()).await?;
        self.0.directory.remove_group(group);
        let members = &known.record.agents;
        members.iter().for_each(|member| self.reopen_shared_queues(member));
        self.remove_queue(&Address::group(group)).await
    }

    pub async fn add_members(
        &self,
        principal: &Principal,
        acting: Option<&AgentId>,
        group: &GroupId,
        members: Vec<AgentId>,
    ) -> Result<Arc<GroupRecord>, FabricError> {
        let record = self.group(principal, group)?;
        self.may_change(principal, acting, &record, Change::Invite)?;
        for member in &members {
            self.know(member.as_str(), "agents", time::now())?;
        }
        let (fabric, group) = (self.clone(), group.clone());
        to_the_end(async move {
            let _one_change = fabric.0.registry.lock().await;
            let added = fabric.change_group(&group, |record| {
                record.agents = unique(record.agents.iter().cloned().chain(members).collect());
            });
            added.await
        })
        .await
    }

    pub async fn remove_member(
        &self,
        principal: &Principal,
        acting: Option<&AgentId>,
        group: &GroupId,
        member: &AgentId,
    ) -> Result<Arc<GroupRecord>, FabricError> {
        let record = self.group(principal, group)?;
        let actor = acting.or(match principal {
            Principal::Agent(own) => Some(own),
            Principal::Anyone => None,
        });
        // Everyone may leave.
        if actor != Some(member) {
            self.may_change(principal, acting, &record, Change::Moderate)?;
        }
        if !record.agents.contains(member) {
            return Err(FabricError::UnknownAgent(member.clone()));
        }
        let (fabric, group, member) = (self.clone(), group.clone(), member.clone());
        to_the_end(async move {
            let _one_change = fabric.0.registry.lock().await;
            let changed = fabric
                .change_group(&group, |record| record.agents.retain(|known| *known != member))
                .await?;
            fabric.reopen_shared_queues(&member);
            Ok(changed)
        })
        .await
    }

    /// Under the registry lock: changes a group's record, durable first.
    async fn change_group(
        &self,
        group: &GroupId,
        change: impl FnOnce(&mut GroupRecord),
    ) -> Result<Arc<GroupRecord>, FabricError> {
        let known = self.0.directory.group(group.as_str());
        let known = known.ok_or_else(|| FabricError::UnknownGroup(group.clone()))?;
        let mut record = (*known.record).clone();
        change(&mut record);
        check_group(&record)?;
        self.put_record(Table::Groups, group.as_str(), &record).await?;
        let record = Arc::new(record);
        self.0.directory.put_group(record.clone());
        record
            .agents
            .iter()
            .for_each(|member| self.reopen_shared_queues(member));
        Ok(record)
    }

    fn may_change(
        &self,
        principal: &Principal,
        acting: Option<&AgentId>,
        record: &GroupRecord,
        change: Change,
    ) -> Result<(), FabricError> {
        if let Some(acting) = acting {
            self.speaks_for(principal, acting)?;
        }
        let actor = match (acting, principal) {
            (Some(acting), _) => acting,
            (None, Principal::Agent(own)) => own,
            // Development mode, and nobody said who acts.
            (None, Principal::Anyone) => return Ok(()),
        };
        let permissions = record.policies.member_permissions;
        let as_member = match change {
            Change::Invite => permissions.invite_members || permissions.moderate,
            Change::Moderate => permissions.moderate,
        };
        if record.created_by.as_ref() == Some(actor) || (as_member && record.agents.contains(actor)) {
            return self.authorize(
                actor,
                Action::ManageGroup {
                    group: record.group_id.as_str(),
                },
            );
        }
        let action = format!("change group {}; its creator or a moderator may", record.group_id);
        Err(FabricError::Denied {
            agent: actor.clone(),
            action,
        })
    }

    /// A group's messages within its retention, oldest first, after `after`.
    pub async fn group_history(
        &self,
        principal: &Principal,
        group: &GroupId,
        after: Option<TrackingId>,
        limit: usize,
    ) -> Result<Vec<KeptMessage>, FabricError> {
        let record = self.group(principal, group)?;
        if let Principal::Agent(own) = principal
            && !record.agents.contains(own)
            && record.created_by.as_ref() != Some(own)
        {
            self.authorize(own, Action::Inspect)?;
        }
        if record.policies.retention().is_zero() {
            return Ok(Vec::new());
        }
        let address = Address::group(group);
        let (shard, after, limit) = (address.home_shard(), seq_of(after), limit.min(LIST_MAX));
        let listed = self
            .0
            .workers
            .inspect(shard, move |shards| shards.state(shard).history(&address, after, limit));
        self.read_listed(shard, listed.await?).await
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Invite,
    Moderate,
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort_unstable();
    items.dedup();
    items
}

/// The same agents in the same order, each once.
fn unique(agents: Vec<AgentId>) -> Vec<AgentId> {
    let mut seen = std::collections::HashSet::new();
    agents.into_iter().filter(|agent| seen.insert(agent.clone())).collect()
}

fn check_registration(registration: &Registration) -> Result<(), FabricError> {
    let too_many = |field: &str, count: usize, max: usize| {
        Err(FabricError::invalid(
            field,
            format!("has {count} entries; at most {max} are allowed"),
        ))
    };
    check_text("name", &registration.name)?;
    if registration.capabilities.len() > CAPABILITIES_MAX {
        return too_many("capabilities", registration.capabilities.len(), CAPABILITIES_MAX);
    }
    if registration.protocols.len() > PROTOCOLS_MAX {
        return too_many("protocols", registration.protocols.len(), PROTOCOLS_MAX);
    }
    if registration.endpoints.len() > PROTOCOLS_MAX {
        return too_many("endpoints", registration.endpoints.len(), PROTOCOLS_MAX);
    }
    for protocol in &registration.protocols {
        check_text("protocols", protocol)?;
    }
    for (protocol, url) in &registration.endpoints {
        check_text("endpoints", protocol)?;
        check_text("endpoints", url)?;
    }
    match registration
        .metadata
        .as_ref()
        .map_or(0, |metadata| metadata.get().len())
    {
        bytes if bytes > METADATA_BYTES_MAX => {
            let detail = format!("has {bytes} bytes; at most {METADATA_BYTES_MAX} are allowed");
            Err(FabricError::invalid("metadata", detail))
        }
        _ => Ok(()),
    }
}

fn check_group(group: &GroupRecord) -> Result<(), FabricError> {
    check_text("name", &group.name)?;
    for protocol in &group.protocols {
        check_text("protocols", protocol)?;
    }
    match (group.agents.len(), group.protocols.len()) {
        (count, _) if count > GROUP_MEMBERS_MAX => {
            let detail = format!("has {count} members; at most {GROUP_MEMBERS_MAX} are allowed");
            Err(FabricError::invalid("agents", detail))
        }
        (_, count) if count > PROTOCOLS_MAX => Err(FabricError::invalid(
            "protocols",
            format!("has {count} entries; at most {PROTOCOLS_MAX} are allowed"),
        )),
        _ => Ok(()),
    }
}

fn check_text(field: &str, text: &str) -> Result<(), FabricError> {
    if text.len() > TEXT_BYTES_MAX {
        let detail = format!("has {} bytes; at most {TEXT_BYTES_MAX} are allowed", text.len());
        return Err(FabricError::invalid(field, detail));
    }
    Ok(())
}
