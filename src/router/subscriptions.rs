//! Topic subscriptions: a session's own, which end with it, and those of a durable session queue, attached or not.
//!
//! Owns the filters of durable queues; who is behind a shared subscription is in `shares.rs`. Changes of one agent's durable
//! subscriptions are decided one at a time: read, changed, committed and shown under one lock. Start at [`Fabric::set_subscriptions`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, atomic::Ordering},
};

use super::{
    attach::session_address,
    changes::to_the_end,
    directory::{Agent, lock},
    error::FabricError,
    fabric::{Fabric, decode_filters},
    handle::SessionHandle,
    port::{Action, RecordOp, Store, Table},
    session::{Holdings, SessionCore},
    shares::Member,
    surface::Principal,
    topics::Subscriber,
    workers::Control,
};
use crate::{
    delivery::{QueueKind, Selection},
    frame::{Address, AgentId, TopicFilter},
    time,
};

/// Durable session queues with their subscriptions, attached or not.
#[derive(Debug, Default)]
pub(super) struct DurableQueues {
    of_agents: Mutex<HashMap<AgentId, BTreeMap<Address, Vec<TopicFilter>>>>,
}

impl DurableQueues {
    fn filters(&self, agent: &AgentId, queue: &Address) -> Vec<TopicFilter> {
        let of_agents = lock(&self.of_agents);
        let filters = of_agents.get(agent).and_then(|queues| queues.get(queue));
        filters.cloned().unwrap_or_default()
    }

    fn put(&self, agent: AgentId, queue: Address, filters: Vec<TopicFilter>) {
        lock(&self.of_agents).entry(agent).or_default().insert(queue, filters);
    }

    fn remove(&self, agent: &AgentId, queue: &Address) -> Vec<TopicFilter> {
        let mut of_agents = lock(&self.of_agents);
        let Some(queues) = of_agents.get_mut(agent) else {
            return Vec::new();
        };
        let removed = queues.remove(queue);
        if queues.is_empty() {
            of_agents.remove(agent);
        }
        removed.unwrap_or_default()
    }

    fn of_agent(&self, agent: &AgentId) -> Vec<Address> {
        let of_agents = lock(&self.of_agents);
        of_agents
            .get(agent)
            .map(|queues| queues.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// Subscriptions in the agent's other durable queues; one without any counts as one. And their bytes.
    fn held_beside(&self, agent: &AgentId, queue: &Address) -> (usize, usize) {
        let of_agents = lock(&self.of_agents);
        let others = of_agents
            .get(agent)
            .into_iter()
            .flatten()
            .filter(|(other, _)| *other != queue);
        others.fold((0, 0), |(count, bytes), (_, filters)| {
            (count + filters.len().max(1), bytes + weight_bytes(filters))
        })
    }
}

/// A change of the subscriptions behind one queue.
#[derive(Clone, Debug)]
pub(super) enum SubscriptionChange {
    Add(Vec<TopicFilter>),
    Remove(Vec<TopicFilter>),
    Replace(Vec<TopicFilter>),
}

impl SubscriptionChange {
    fn asked(&self) -> &[TopicFilter] {
        match self {
            Self::Add(filters) | Self::Replace(filters) => filters,
            Self::Remove(_) => &[],
        }
    }

    /// The filters afterwards, each once.
    fn applied_to(self, earlier: &[TopicFilter]) -> Vec<TopicFilter> {
        let mut filters = match self {
            Self::Add(added) => earlier.iter().cloned().chain(added).collect(),
            Self::Remove(gone) => earlier
                .iter()
                .filter(|filter| !gone.contains(filter))
                .cloned()
                .collect(),
            Self::Replace(filters) => filters,
        };
        filters.sort_unstable();
        filters.dedup();
        filters
    }
}

/// Bytes that filters count: their texts, and 24 for each level, which is a node of the trie.
pub(super) fn weight_bytes<'a>(filters: impl IntoIterator<Item = &'a TopicFilter>) -> usize {
    const LEVEL_BYTES: usize = 24;
    let weight = |filter: &TopicFilter| {
        let text = filter.as_str();
        text.len() + LEVEL_BYTES * text.split('/').count()
    };
    filters.into_iter().map(weight).sum()
}

impl Fabric {
    /// Subscriptions of an agent's durable session queue, whether attached or not (HTTP's `PUT /subscriptions`): replaces them all.
    pub async fn set_subscriptions(
        &self,
        principal: &Principal,
        agent: &AgentId,
        token: &str,
        filters: Vec<TopicFilter>,
    ) -> Result<(), FabricError> {
        self.speaks_for(principal, agent)?;
        let queue = session_address(agent, token)?;
        self.change_durable(queue, SubscriptionChange::Replace(filters)).await
    }

    /// Changes the subscriptions of a durable queue. Once decided it is done, whether or not the caller waits.
    pub(super) async fn change_durable(&self, queue: Address, change: SubscriptionChange) -> Result<(), FabricError> {
        let fabric = self.clone();
        to_the_end(async move { fabric.decide_subscriptions(&queue, change).await }).await
    }

    async fn decide_subscriptions(&self, queue: &Address, change: SubscriptionChange) -> Result<(), FabricError> {
        let agent = agent_of(queue)?;
        let _one_change = self.0.changes.of(&agent).await;
        self.know(agent.as_str(), "agent_id", time::now())?;
        let known = self.known(&agent)?;
        // Also those that it has: what is allowed may have changed since.
        self.may_subscribe(&agent, change.asked())?;
        let earlier = self.0.durable_queues.filters(&agent, queue);
        let filters = change.applied_to(&earlier);
        let added: Vec<_> = filters.iter().filter(|filter| !earlier.contains(filter)).collect();
        if !added.is_empty() || filters.is_empty() {
            let (count, bytes) = self.0.durable_queues.held_beside(&agent, queue);
            self.check_bounds(count + filters.len().max(1), bytes + weight_bytes(&filters))?;
        }
        let value = serde_json::to_vec(&filters).expect("filters are plain strings");
        self.write_subscriptions(RecordOp::Put {
            table: Table::Subscriptions,
            key: queue.as_str().to_owned(),
            value,
        })
        .await?;
        self.open_durable(queue);
        let gone: Vec<_> = earlier.into_iter().filter(|filter| !filters.contains(filter)).collect();
        added.iter().for_each(|filter| self.show(filter, queue));
        gone.iter().for_each(|filter| self.hide(filter, queue));
        self.0.durable_queues.put(agent, queue.clone(), filters.clone());
        for session in sessions_at(&known, queue) {
            gone.iter()
                .for_each(|filter| self.drop_subscription(&known, &session, filter));
            filters
                .iter()
                .for_each(|filter| self.add_subscription(&known, &session, filter));
        }
        Ok(())
    }

    async fn write_subscriptions(&self, op: RecordOp) -> Result<(), FabricError> {
        Ok(self.0.store.write_records(vec![op]).await?)
    }

    /// The subscriptions of an agent's durable session queue.
    pub fn subscriptions(
        &self,
        principal: &Principal,
        agent: &AgentId,
        token: &str,
    ) -> Result<Vec<TopicFilter>, FabricError> {
        self.may_inspect(principal, agent)?;
        let queue = session_address(agent, token)?;
        Ok(self.0.durable_queues.filters(agent, &queue))
    }

    /// Removes a durable session queue with its subscriptions and whatever waits in it.
    pub async fn remove_session_queue(
        &self,
        principal: &Principal,
        agent: &AgentId,
        token: &str,
    ) -> Result<(), FabricError> {
        self.speaks_for(principal, agent)?;
        let (fabric, agent, queue) = (self.clone(), agent.clone(), session_address(agent, token)?);
        to_the_end(async move {
            let _one_change = fabric.0.changes.of(&agent).await;
            fabric.forget_durable_queue(&queue).await
        })
        .await
    }

    /// Under the lock of the queue's agent.
    pub(super) async fn forget_durable_queue(&self, queue: &Address) -> Result<(), FabricError> {
        let agent = agent_of(queue)?;
        self.write_subscriptions(RecordOp::Delete {
            table: Table::Subscriptions,
            key: queue.as_str().to_owned(),
        })
        .await?;
        let filters = self.0.durable_queues.remove(&agent, queue);
        filters.iter().for_each(|filter| self.hide(filter, queue));
        if let Some(known) = self.0.directory.agent(agent.as_str()) {
            for session in sessions_at(&known, queue) {
                filters
                    .iter()
                    .for_each(|filter| self.drop_subscription(&known, &session, filter));
            }
        }
        self.remove_queue(queue).await
    }

    /// A durable queue gets what is published under a filter, or the share does that it is a member of from now on.
    fn show(&self, filter: &TopicFilter, queue: &Address) {
        match filter.share() {
            Some(_) => self.join_share(filter, Member::Lasting),
            None => self.0.directory.topics.insert(filter, queue),
        }
    }

    /// Ends what [`Fabric::show`] began.
    fn hide(&self, filter: &TopicFilter, queue: &Address) {
        match filter.share() {
            Some(_) => self.leave_share(filter, Member::Lasting),
            None => self.0.directory.topics.remove(filter, queue),
        }
    }

    /// Durable queues of an agent.
    pub(super) fn durable_queues_of(&self, agent: &AgentId) -> Vec<Address> {
        self.0.durable_queues.of_agent(agent)
    }

    fn open_durable(&self, queue: &Address) {
        let control = Control::OpenDurable { queue: queue.clone() };
        self.0.workers.of(queue.home_shard()).control(control);
    }

    /// Removes a queue with whatever waits in it, and waits until the shard has.
    pub(super) async fn remove_queue(&self, queue: &Address) -> Result<(), FabricError> {
        let (done, removed) = tokio::sync::oneshot::channel();
        self.0.workers.of(queue.home_shard()).control(Control::RemoveQueue {
            queue: queue.clone(),
            done,
        });
        removed.await.map_err(|_| FabricError::Draining)
    }

    /// At start: durable queues, which their shards have open already, get what is published.
    pub(super) fn restore_subscriptions(&self, loaded: Vec<(Address, Vec<TopicFilter>)>) -> Result<(), FabricError> {
        for (queue, filters) in loaded {
            let agent = agent_of(&queue)?;
            self.know(agent.as_str(), "agent_id", time::now())?;
            filters.iter().for_each(|filter| self.show(filter, &queue));
            self.0.durable_queues.put(agent, queue, filters);
        }
        Ok(())
    }

    // --- of a live session ---------------------------------------------------------------------------------------

    /// Changes the subscriptions of a session whose queue ends with it.
    pub(super) fn change_own(
        &self,
        agent: &Agent,
        core: &Arc<SessionCore>,
        change: &SubscriptionChange,
    ) -> Result<(), FabricError> {
        match change {
            SubscriptionChange::Add(filters) => {
                self.may_subscribe(&agent.id, filters)?;
                let holdings = core.holdings();
                if holdings.has_ended() {
                    return Err(FabricError::SessionClosed);
                }
                let new = || filters.iter().filter(|filter| !holdings.is_subscribed(filter));
                let count = agent.subscriptions.load(Ordering::Relaxed) + new().count();
                let bytes = agent.subscription_bytes.load(Ordering::Relaxed) + weight_bytes(new());
                drop(holdings);
                self.check_bounds(count, bytes)?;
                self.open_queue(core, &core.own_queue, core.own_queue_kind);
                filters
                    .iter()
                    .for_each(|filter| self.add_subscription(agent, core, filter));
            }
            SubscriptionChange::Remove(filters) => {
                filters
                    .iter()
                    .for_each(|filter| self.drop_subscription(agent, core, filter));
            }
            SubscriptionChange::Replace(_) => unreachable!("only a durable queue's subscriptions are replaced"),
        }
        Ok(())
    }

    fn may_subscribe<'a>(
        &self,
        agent: &AgentId,
        filters: impl IntoIterator<Item = &'a TopicFilter>,
    ) -> Result<(), FabricError> {
        let allowed = |filter: &TopicFilter| {
            let filter = filter.as_str();
            self.authorize(agent, Action::Subscribe { filter })
        };
        filters.into_iter().try_for_each(allowed)
    }

    fn check_bounds(&self, count: usize, bytes: usize) -> Result<(), FabricError> {
        let config = self.config();
        let (count_max, bytes_max) = (
            config.subscriptions_per_agent_max,
            config.subscription_bytes_per_agent_max,
        );
        let too_many = |what, max| Err(FabricError::TooMany { what, max });
        match () {
            () if count > count_max => too_many("topic subscriptions of one agent", count_max),
            () if bytes > bytes_max => too_many("bytes of one agent's topic subscriptions", bytes_max),
            () => Ok(()),
        }
    }

    fn add_subscription(&self, agent: &Agent, core: &Arc<SessionCore>, filter: &TopicFilter) {
        let mut holdings = core.holdings();
        if !holdings.subscribe(filter) {
            return;
        }
        agent.subscriptions.fetch_add(1, Ordering::Relaxed);
        agent
            .subscription_bytes
            .fetch_add(weight_bytes([filter]), Ordering::Relaxed);
        if filter.share().is_some() {
            self.join_share(filter, Member::Session);
            let one_of = QueueKind::OneOf(Selection::RoundRobin);
            self.open_held(core, &mut holdings, &Address::shared(filter), one_of);
        } else {
            let subscriber = Subscriber {
                passes: core.passes,
                queue: core.own_queue.clone(),
            };
            self.0.directory.topics.insert(filter, subscriber);
        }
    }

    /// Ends a subscription of a session; that of a durable queue goes on without it.
    fn drop_subscription(&self, agent: &Agent, core: &Arc<SessionCore>, filter: &TopicFilter) {
        let mut holdings = core.holdings();
        if holdings.unsubscribe(filter) {
            self.end_subscription(agent, core, &mut holdings, filter);
        }
    }

    /// What follows once a session's holdings have the subscription no more.
    pub(super) fn end_subscription(
        &self,
        agent: &Agent,
        core: &Arc<SessionCore>,
        holdings: &mut Holdings,
        filter: &TopicFilter,
    ) {
        agent.subscriptions.fetch_sub(1, Ordering::Relaxed);
        agent
            .subscription_bytes
            .fetch_sub(weight_bytes([filter]), Ordering::Relaxed);
        if filter.share().is_some() {
            self.close_held(core, holdings, &Address::shared(filter));
            self.leave_share(filter, Member::Session);
        } else if core.own_queue_kind == QueueKind::Ephemeral {
            self.0.directory.topics.remove(filter, &core.own_queue);
        }
    }

    /// A session took up a durable queue: it holds the queue's subscriptions while it lasts. Under the lock of its agent.
    pub(super) fn resume_subscriptions(&self, session: &SessionHandle) {
        let (agent, core) = session.parts();
        for filter in self.0.durable_queues.filters(&agent.id, &core.own_queue) {
            self.add_subscription(agent, core, &filter);
        }
    }
}

/// Durable queues and their subscriptions.
pub(super) async fn load_subscriptions(store: &dyn Store) -> Result<Vec<(Address, Vec<TopicFilter>)>, FabricError> {
    let records = store.scan_records(Table::Subscriptions).await?;
    let read = |(key, value): (String, Vec<u8>)| {
        let filters = decode_filters(&key, &value)?;
        let queue = key.parse().map_err(|_| FabricError::StoreFailed {
            what: format!("the stored subscriptions of {key:?} are not those of a session"),
        })?;
        Ok((queue, filters))
    };
    records.into_iter().map(read).collect()
}

fn agent_of(queue: &Address) -> Result<AgentId, FabricError> {
    let agent = queue.agent_id().and_then(|agent| AgentId::new(agent).ok());
    agent.ok_or_else(|| FabricError::StoreFailed {
        what: format!("{queue} is not the queue of a session"),
    })
}

fn sessions_at(agent: &Agent, queue: &Address) -> Vec<Arc<SessionCore>> {
    let sessions = agent.sessions();
    sessions
        .iter()
        .filter(|session| session.own_queue == *queue)
        .cloned()
        .collect()
}
