//! Receiving: sessions from attach to detach, acknowledgements, and topic subscriptions.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use super::{
    ask::{Ask, SettleBatch},
    directory::{Agent, lock},
    error::FabricError,
    fabric::{Fabric, decode_filters},
    port::{Action, RecordOp, Table},
    session::{Chunk, NewSession, SessionCore},
    surface::{
        Attach, ConnectionView, Delivery, DeliveryId, Goodbye, Inbox, Principal, Protocol, Refusal, SessionEvent,
        SessionId, SessionQueue, Settled, Window,
    },
    workers::{Command, Control, SettleCommand},
};
use crate::{
    delivery::{Nack, QueueKind, WaitingWorkers},
    frame::{Address, AgentId, Priority, TopicFilter},
    queue::{self, Readiness},
    time,
};

/// Chunks taken out of a lane in one go.
const LANE_BUDGET: usize = 64;
/// Delivery ids in one acknowledgement.
const SETTLES_MAX: usize = 10_000;
/// Control messages that wait for a worker before acknowledgements that nobody waits for are let go (their messages come again).
const CONTROL_BACKLOG_MAX: usize = 65_536;

/// Live sessions by protocol.
#[derive(Debug, Default)]
pub(super) struct SessionCounts([AtomicU64; Protocol::COUNT], AtomicUsize);

impl SessionCounts {
    pub fn by_protocol(&self) -> [u64; Protocol::COUNT] {
        std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed))
    }

    /// Sessions that operators see; those that only wait for one reply are not among them.
    pub fn total(&self) -> u64 {
        self.by_protocol().iter().sum()
    }
}

/// Durable session queues with their subscriptions, attached or not.
#[derive(Debug, Default)]
pub(super) struct DurableQueues {
    filters: Mutex<HashMap<Address, Vec<TopicFilter>>>,
    /// Sessions that take from each shared subscription's queue.
    shares: Mutex<HashMap<Address, usize>>,
}

/// Who sees a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visibility {
    Listed,
    /// It only waits for one reply.
    Hidden,
}

impl Fabric {
    /// Attaches an agent. The receiver is the one consumer of the session's lane; the handle may be cloned.
    /// The session ends when the receiver is dropped: what was not settled goes back to its queues.
    pub async fn attach(
        &self,
        principal: &Principal,
        attach: Attach,
    ) -> Result<(SessionHandle, SessionReceiver), FabricError> {
        let config = self.config();
        if self.0.sessions.total() >= config.sessions_max as u64 {
            return Err(FabricError::TooMany {
                what: "sessions of this node",
                max: config.sessions_max,
            });
        }
        let durable = match &attach.queue {
            SessionQueue::Durable(token) => Some(session_address(&attach.agent, token)?),
            SessionQueue::Ephemeral => None,
        };
        let (handle, receiver) = self.attach_session(principal, attach, Visibility::Listed)?;
        if let Some(queue) = durable {
            self.resume_subscriptions(&handle.0, &queue);
        }
        Ok((handle, receiver))
    }

    /// A session that only waits for replies: it counts against `max` and not against the agent's sessions.
    pub(super) fn attach_hidden(
        &self,
        principal: &Principal,
        attach: Attach,
        max: usize,
    ) -> Result<(SessionHandle, SessionReceiver), FabricError> {
        if self.0.sessions.1.load(Ordering::Relaxed) >= max {
            let retry_after = std::time::Duration::from_secs(1);
            return Err(FabricError::Overloaded {
                what: "requests that wait for a reply",
                retry_after,
            });
        }
        self.attach_session(principal, attach, Visibility::Hidden)
    }

    fn attach_session(
        &self,
        principal: &Principal,
        attach: Attach,
        visibility: Visibility,
    ) -> Result<(SessionHandle, SessionReceiver), FabricError> {
        if self.is_draining() {
            return Err(FabricError::Draining);
        }
        self.speaks_for(principal, &attach.agent)?;
        let now = time::now();
        self.know(attach.agent.as_str(), "agent_id", now)?;
        let agent = self.known(&attach.agent)?;
        let id = SessionId(self.0.next_session.fetch_add(1, Ordering::Relaxed));
        let (own_queue, own_queue_kind) = match &attach.queue {
            SessionQueue::Ephemeral => {
                let token = format!("s.{}.{}", self.config().node_id, uuid::Uuid::now_v7().as_simple());
                (session_address(&attach.agent, &token)?, QueueKind::Ephemeral)
            }
            SessionQueue::Durable(token) => (session_address(&attach.agent, token)?, QueueKind::DurableSession),
        };
        let new = NewSession {
            id,
            agent: attach.agent,
            protocol: attach.protocol,
            since: now,
            window: self.capped(attach.window),
            visibility_timeout: attach.visibility_timeout,
            own_queue,
            own_queue_kind,
            takes_inbox: attach.inbox == Inbox::Open,
        };
        let (core, lane) = SessionCore::new(new, self.config());
        if visibility == Visibility::Listed {
            self.list_session(&agent, &core)?;
            self.0.sessions.0[core.protocol.index()].fetch_add(1, Ordering::Relaxed);
        } else {
            self.0.sessions.1.fetch_add(1, Ordering::Relaxed);
        }
        self.open_queues(&agent, &core);
        let session = Arc::new(Session {
            fabric: self.clone(),
            agent,
            core,
            visibility,
        });
        let receiver = SessionReceiver {
            session: session.clone(),
            lane,
            chunks: Vec::new(),
            waiting: Vec::new().into(),
        };
        Ok((SessionHandle(session), receiver))
    }

    fn list_session(&self, agent: &Agent, core: &Arc<SessionCore>) -> Result<(), FabricError> {
        let max = self.config().sessions_per_agent_max;
        let mut sessions = agent.sessions();
        let is_earlier = |session: &&Arc<SessionCore>| {
            core.own_queue_kind == QueueKind::DurableSession && session.own_queue == core.own_queue
        };
        let earlier: Vec<_> = sessions.iter().filter(is_earlier).cloned().collect();
        // Refused before anyone is told to go: an attach that fails takes nothing over.
        if sessions.len() - earlier.len() >= max {
            return Err(FabricError::TooMany {
                what: "sessions of one agent",
                max,
            });
        }
        // A durable queue has one session; a second one takes over.
        earlier
            .iter()
            .for_each(|session| session.say_goodbye(Goodbye::TakenOver));
        sessions.push(core.clone());
        Ok(())
    }

    /// The agent's record, for one that was just made known.
    fn known(&self, id: &AgentId) -> Result<Arc<Agent>, FabricError> {
        self.0
            .directory
            .agent(id.as_str())
            .ok_or_else(|| FabricError::UnknownAgent(id.clone()))
    }

    fn capped(&self, window: Window) -> Window {
        let config = self.config();
        Window {
            messages: window.messages.min(config.in_flight_messages_max),
            bytes: window.bytes.min(config.in_flight_bytes_max),
        }
    }

    fn open_queues(&self, agent: &Agent, core: &Arc<SessionCore>) {
        self.open_queue(core, &core.own_queue, core.own_queue_kind);
        if core.takes_inbox {
            for (queue, kind) in self.shared_queues(agent) {
                self.open_queue(core, &queue, kind);
            }
            self.open_queue(core, &Address::agent(&core.agent), QueueKind::Inbox);
        }
    }

    /// The one-of queues that an agent takes from: its capabilities and its one-of groups.
    pub(super) fn shared_queues(&self, agent: &Agent) -> Vec<(Address, QueueKind)> {
        let capabilities = agent
            .record()
            .map(|record| record.capabilities.clone())
            .unwrap_or_default();
        let any = capabilities.iter().map(|capability| {
            (
                Address::any(capability),
                QueueKind::OneOf(crate::delivery::Selection::LeastOutstanding),
            )
        });
        let groups = agent.groups().into_iter().filter_map(|id| {
            let kind = self.0.directory.group(id.as_str())?.one_of()?;
            Some((Address::group(&id), kind))
        });
        any.chain(groups).collect()
    }

    pub(super) fn open_queue(&self, core: &Arc<SessionCore>, queue: &Address, kind: QueueKind) {
        if core.note_opened(queue, kind) {
            let control = Control::Attach {
                session: core.clone(),
                queue: queue.clone(),
                kind,
            };
            self.0.workers.of(queue.home_shard()).control(control);
        }
    }

    /// Closes a queue behind every acknowledgement that the session sent before.
    pub(super) fn close_queue(&self, core: &Arc<SessionCore>, queue: &Address) {
        if !core.note_closed(queue) {
            return;
        }
        let worker = self.0.workers.index_of(queue.home_shard());
        let detach = Command::Detach {
            session: core.clone(),
            queue: queue.clone(),
        };
        if self.0.workers.try_push(worker, Priority::Critical, detach).is_err() {
            let detach = Control::Detach {
                session: core.clone(),
                queue: queue.clone(),
            };
            self.0.workers.handles[worker].control(detach);
        }
    }

    fn detach(&self, agent: &Agent, core: &Arc<SessionCore>, visibility: Visibility) {
        core.close_lane();
        let filters: Vec<TopicFilter> = lock(&core.subscriptions).iter().cloned().collect();
        for filter in filters {
            self.drop_subscription(agent, core, &filter);
        }
        for (queue, _) in core.opened() {
            self.close_queue(core, &queue);
        }
        agent.touch(time::now());
        if visibility == Visibility::Listed {
            agent.sessions().retain(|session| session.id != core.id);
            self.0.sessions.0[core.protocol.index()].fetch_sub(1, Ordering::Relaxed);
        } else {
            self.0.sessions.1.fetch_sub(1, Ordering::Relaxed);
        }
    }

    // --- settling ------------------------------------------------------------------------------------------------

    /// Acknowledges without a session at hand (HTTP): the agent must be the one that the messages were handed to.
    pub async fn ack(
        &self,
        principal: &Principal,
        agent: &AgentId,
        ids: &[DeliveryId],
    ) -> Result<Vec<Settled>, FabricError> {
        self.speaks_for(principal, agent)?;
        self.settle(agent, ids, None).await
    }

    /// Refuses without a session at hand (HTTP).
    pub async fn nack(
        &self,
        principal: &Principal,
        agent: &AgentId,
        ids: &[DeliveryId],
        refusal: Refusal,
    ) -> Result<Vec<Settled>, FabricError> {
        self.speaks_for(principal, agent)?;
        self.settle(agent, ids, Some(nack_of(refusal))).await
    }

    async fn settle(
        &self,
        agent: &AgentId,
        ids: &[DeliveryId],
        nack: Option<Nack>,
    ) -> Result<Vec<Settled>, FabricError> {
        if ids.len() > SETTLES_MAX {
            return Err(FabricError::TooMany {
                what: "delivery ids in one request",
                max: SETTLES_MAX,
            });
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (batch, answer) = SettleBatch::new(ids.len());
        for (worker, commands) in self.settles_by_worker(agent, ids, nack, Some(&batch)) {
            let command = Command::Settle(commands);
            if let Err((Command::Settle(refused), error)) =
                self.0.workers.push(worker, Priority::Critical, command).await
            {
                refused
                    .into_iter()
                    .filter_map(|settle| settle.ask)
                    .for_each(|ask| ask.fail(error.clone()));
            }
        }
        let stopped = || FabricError::OutcomeUnknown {
            what: "the node stopped before it answered".into(),
        };
        answer.await.map_err(|_| stopped())
    }

    fn settles_by_worker(
        &self,
        agent: &AgentId,
        ids: &[DeliveryId],
        nack: Option<Nack>,
        batch: Option<&Arc<SettleBatch>>,
    ) -> Vec<(usize, Vec<SettleCommand>)> {
        let mut by_worker: Vec<(usize, Vec<SettleCommand>)> = Vec::new();
        for (index, id) in ids.iter().enumerate() {
            let settle = SettleCommand {
                shard: id.shard,
                seq: id.seq,
                lease: id.lease,
                agent: agent.clone(),
                nack,
                ask: batch.map(|batch| Ask::Settle {
                    batch: batch.clone(),
                    index,
                }),
            };
            let worker = self.0.workers.index_of(id.shard);
            match by_worker.iter_mut().find(|(known, _)| *known == worker) {
                Some((_, commands)) => commands.push(settle),
                None => by_worker.push((worker, vec![settle])),
            }
        }
        by_worker
    }

    pub(super) fn tell_credit(&self, session: SessionId, waiting: WaitingWorkers) {
        let handles = waiting.iter().filter_map(|worker| self.0.workers.handles.get(worker));
        handles.for_each(|handle| handle.control(Control::Credit { session }));
    }

    // --- subscriptions -------------------------------------------------------------------------------------------

    fn check_subscriptions(&self, agent: &Agent, filters: &[TopicFilter]) -> Result<(), FabricError> {
        for filter in filters {
            self.authorize(
                &agent.id,
                Action::Subscribe {
                    filter: filter.as_str(),
                },
            )?;
        }
        let max = self.config().subscriptions_per_agent_max;
        if agent.subscriptions.load(Ordering::Relaxed) + filters.len() > max {
            return Err(FabricError::TooMany {
                what: "topic subscriptions of one agent",
                max,
            });
        }
        Ok(())
    }

    fn add_subscription(&self, agent: &Agent, core: &Arc<SessionCore>, filter: &TopicFilter) {
        if !lock(&core.subscriptions).insert(filter.clone()) {
            return;
        }
        agent.subscriptions.fetch_add(1, Ordering::Relaxed);
        if filter.share().is_some() {
            let shared = Address::shared(filter);
            *lock(&self.0.durable_queues.shares).entry(shared.clone()).or_default() += 1;
            self.0.directory.topics.insert(filter, &shared);
            self.open_queue(core, &shared, QueueKind::OneOf(crate::delivery::Selection::RoundRobin));
        } else {
            self.0.directory.topics.insert(filter, &core.own_queue);
        }
    }

    /// Ends a subscription of a session; that of a durable queue goes on without it.
    fn drop_subscription(&self, agent: &Agent, core: &Arc<SessionCore>, filter: &TopicFilter) {
        if !lock(&core.subscriptions).remove(filter) {
            return;
        }
        agent.subscriptions.fetch_sub(1, Ordering::Relaxed);
        if filter.share().is_some() {
            let shared = Address::shared(filter);
            self.close_queue(core, &shared);
            let mut shares = lock(&self.0.durable_queues.shares);
            let left = shares.get_mut(&shared).map_or(0, |members| {
                *members -= 1;
                *members
            });
            if left == 0 {
                shares.remove(&shared);
                self.0.directory.topics.remove(filter, &shared);
            }
        } else if core.own_queue_kind == QueueKind::Ephemeral {
            self.0.directory.topics.remove(filter, &core.own_queue);
        }
    }

    /// A session took up a durable queue: it holds the queue's subscriptions while it lasts.
    fn resume_subscriptions(&self, session: &Arc<Session>, queue: &Address) {
        let filters = lock(&self.0.durable_queues.filters)
            .get(queue)
            .cloned()
            .unwrap_or_default();
        for filter in &filters {
            self.add_subscription(&session.agent, &session.core, filter);
        }
    }

    /// Subscriptions of an agent's durable session queue, whether attached or not (HTTP's `PUT /subscriptions`): replaces them all.
    pub async fn set_subscriptions(
        &self,
        principal: &Principal,
        agent: &AgentId,
        token: &str,
        filters: Vec<TopicFilter>,
    ) -> Result<(), FabricError> {
        self.speaks_for(principal, agent)?;
        self.know(agent.as_str(), "agent_id", time::now())?;
        let known = self.known(agent)?;
        let queue = session_address(agent, token)?;
        let earlier = lock(&self.0.durable_queues.filters)
            .get(&queue)
            .cloned()
            .unwrap_or_default();
        let added: Vec<_> = filters
            .iter()
            .filter(|filter| !earlier.contains(filter))
            .cloned()
            .collect();
        self.check_subscriptions(&known, &added)?;
        let _one_change = self.0.registry.lock().await;
        let value = serde_json::to_vec(&filters).expect("filters are plain strings");
        let key = queue.as_str().to_owned();
        self.0
            .store
            .write_records(vec![RecordOp::Put {
                table: Table::Subscriptions,
                key,
                value,
            }])
            .await?;
        self.open_durable(&queue);
        let topics = &self.0.directory.topics;
        let unshared = |filters: &[TopicFilter]| -> Vec<TopicFilter> {
            filters
                .iter()
                .filter(|filter| filter.share().is_none())
                .cloned()
                .collect()
        };
        unshared(&filters)
            .iter()
            .for_each(|filter| topics.insert(filter, &queue));
        let gone: Vec<_> = earlier.into_iter().filter(|filter| !filters.contains(filter)).collect();
        unshared(&gone).iter().for_each(|filter| topics.remove(filter, &queue));
        lock(&self.0.durable_queues.filters).insert(queue.clone(), filters.clone());
        let attached = known
            .sessions()
            .iter()
            .find(|session| session.own_queue == queue)
            .cloned();
        if let Some(session) = attached {
            gone.iter()
                .for_each(|filter| self.drop_subscription(&known, &session, filter));
            filters
                .iter()
                .for_each(|filter| self.add_subscription(&known, &session, filter));
        }
        Ok(())
    }

    fn open_durable(&self, queue: &Address) {
        self.0
            .workers
            .of(queue.home_shard())
            .control(Control::OpenDurable { queue: queue.clone() });
    }

    pub fn subscriptions(
        &self,
        principal: &Principal,
        agent: &AgentId,
        token: &str,
    ) -> Result<Vec<TopicFilter>, FabricError> {
        self.may_inspect(principal, agent)?;
        let queue = session_address(agent, token)?;
        Ok(lock(&self.0.durable_queues.filters)
            .get(&queue)
            .cloned()
            .unwrap_or_default())
    }

    /// Removes a durable session queue with its subscriptions and whatever waits in it.
    pub async fn remove_session_queue(
        &self,
        principal: &Principal,
        agent: &AgentId,
        token: &str,
    ) -> Result<(), FabricError> {
        self.speaks_for(principal, agent)?;
        let queue = session_address(agent, token)?;
        let _one_change = self.0.registry.lock().await;
        self.forget_durable_queue(&queue).await
    }

    pub(super) async fn forget_durable_queue(&self, queue: &Address) -> Result<(), FabricError> {
        let key = queue.as_str().to_owned();
        self.0
            .store
            .write_records(vec![RecordOp::Delete {
                table: Table::Subscriptions,
                key,
            }])
            .await?;
        let filters = lock(&self.0.durable_queues.filters).remove(queue).unwrap_or_default();
        filters
            .iter()
            .for_each(|filter| self.0.directory.topics.remove(filter, queue));
        let agent = queue.agent_id().and_then(|agent| self.0.directory.agent(agent));
        if let Some(agent) = agent {
            let attached = agent
                .sessions()
                .iter()
                .find(|session| session.own_queue == *queue)
                .cloned();
            if let Some(session) = attached {
                filters
                    .iter()
                    .for_each(|filter| self.drop_subscription(&agent, &session, filter));
            }
        }
        self.remove_queue(queue).await
    }

    pub(super) async fn remove_queue(&self, queue: &Address) -> Result<(), FabricError> {
        let (done, removed) = tokio::sync::oneshot::channel();
        self.0.workers.of(queue.home_shard()).control(Control::RemoveQueue {
            queue: queue.clone(),
            done,
        });
        removed.await.map_err(|_| FabricError::Draining)
    }

    /// Durable queues of an agent.
    pub(super) fn durable_queues_of(&self, agent: &AgentId) -> Vec<Address> {
        let filters = lock(&self.0.durable_queues.filters);
        filters
            .keys()
            .filter(|queue| queue.agent_id() == Some(agent.as_str()))
            .cloned()
            .collect()
    }

    /// At start: durable queues take copies again before anyone attaches.
    pub(super) async fn restore_subscriptions(&self) -> Result<(), FabricError> {
        for (key, value) in self.0.store.scan_records(Table::Subscriptions).await? {
            let filters = decode_filters(&key, &value)?;
            let what = || format!("the stored subscriptions of {key:?} are not those of a session");
            let queue: Address = key.parse().map_err(|_| FabricError::StoreFailed { what: what() })?;
            if let Some(agent) = queue.agent_id() {
                self.know(agent, "agent_id", time::now())?;
            }
            self.open_durable(&queue);
            let unshared = filters.iter().filter(|filter| filter.share().is_none());
            unshared.for_each(|filter| self.0.directory.topics.insert(filter, &queue));
            lock(&self.0.durable_queues.filters).insert(queue, filters);
        }
        Ok(())
    }

    /// Live sessions.
    pub fn connections(&self, principal: &Principal) -> Result<Vec<ConnectionView>, FabricError> {
        let sessions = match principal {
            Principal::Anyone => self.0.directory.all_sessions(),
            Principal::Agent(own) => match self.authorize(own, Action::Inspect) {
                Ok(()) => self.0.directory.all_sessions(),
                Err(_) => self
                    .0
                    .directory
                    .agent(own.as_str())
                    .map(|a| a.sessions().clone())
                    .unwrap_or_default(),
            },
        };
        let mut views: Vec<_> = sessions.iter().map(|session| session.view()).collect();
        views.sort_by_key(|view| view.session);
        Ok(views)
    }
}

fn session_address(agent: &AgentId, token: &str) -> Result<Address, FabricError> {
    Address::session(agent, token).map_err(|error| FabricError::invalid("token", error.to_string()))
}

fn nack_of(refusal: Refusal) -> Nack {
    match refusal {
        Refusal::Retry(after) => Nack::Retry(after),
        Refusal::Release => Nack::Release,
        Refusal::DeadLetter => Nack::DeadLetter,
    }
}

/// What handle and receiver share; dropping the receiver detaches.
#[derive(Debug)]
struct Session {
    fabric: Fabric,
    agent: Arc<Agent>,
    core: Arc<SessionCore>,
    visibility: Visibility,
}

/// What a session may do besides receiving. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SessionHandle(Arc<Session>);

impl SessionHandle {
    pub fn id(&self) -> SessionId {
        self.0.core.id
    }

    pub fn agent(&self) -> &AgentId {
        &self.0.core.agent
    }

    /// `agent:ID#TOKEN`: replies sent here reach this session.
    pub fn reply_address(&self) -> &Address {
        &self.0.core.own_queue
    }

    /// Acknowledges; answers once the settles are committed, in the order given.
    pub async fn ack(&self, ids: &[DeliveryId]) -> Vec<Settled> {
        self.settle(ids, None).await
    }

    /// Refuses; answers in the order given.
    pub async fn nack(&self, ids: &[DeliveryId], refusal: Refusal) -> Vec<Settled> {
        self.settle(ids, Some(nack_of(refusal))).await
    }

    async fn settle(&self, ids: &[DeliveryId], nack: Option<Nack>) -> Vec<Settled> {
        match self.0.fabric.settle(self.agent(), ids, nack).await {
            Ok(settled) => settled,
            Err(error) => vec![Settled::Failed(error); ids.len()],
        }
    }

    /// Acknowledges without waiting for the commit: for edges whose protocol has no answer to an acknowledgement.
    pub fn ack_unanswered(&self, ids: Vec<DeliveryId>) {
        let workers = &self.0.fabric.0.workers;
        for (worker, commands) in self.0.fabric.settles_by_worker(self.agent(), &ids, None, None) {
            let Err((Command::Settle(refused), _)) =
                workers.try_push(worker, Priority::Critical, Command::Settle(commands))
            else {
                continue;
            };
            let handle = &workers.handles[worker];
            if handle.control.len() < CONTROL_BACKLOG_MAX {
                handle.control(Control::Settle(refused));
            } else {
                tracing::warn!(agent = %self.agent(), count = refused.len(), "acknowledgements let go: the node is overloaded");
            }
        }
    }

    /// Grants an absolute window, capped at the node's own limit.
    pub fn set_window(&self, window: Window) {
        let window = self.0.fabric.capped(window);
        let waiting = self.0.core.credit.set_window(window.messages, window.bytes);
        self.0.fabric.tell_credit(self.id(), waiting);
    }

    /// Handed out and not settled yet.
    pub fn in_flight(&self) -> Window {
        let (messages, bytes) = self.0.core.credit.taken();
        Window { messages, bytes }
    }

    pub async fn subscribe(&self, filters: Vec<TopicFilter>) -> Result<(), FabricError> {
        let Session {
            fabric, agent, core, ..
        } = &*self.0;
        if core.own_queue_kind == QueueKind::DurableSession {
            return self
                .change_durable(|all| {
                    all.extend(filters);
                    all.sort_unstable();
                    all.dedup();
                })
                .await;
        }
        fabric.check_subscriptions(agent, &filters)?;
        filters
            .iter()
            .for_each(|filter| fabric.add_subscription(agent, core, filter));
        Ok(())
    }

    pub async fn unsubscribe(&self, filters: Vec<TopicFilter>) -> Result<(), FabricError> {
        let Session {
            fabric, agent, core, ..
        } = &*self.0;
        if core.own_queue_kind == QueueKind::DurableSession {
            return self
                .change_durable(|all| all.retain(|filter| !filters.contains(filter)))
                .await;
        }
        filters
            .iter()
            .for_each(|filter| fabric.drop_subscription(agent, core, filter));
        Ok(())
    }

    async fn change_durable(&self, change: impl FnOnce(&mut Vec<TopicFilter>)) -> Result<(), FabricError> {
        let queues = &self.0.fabric.0.durable_queues;
        let mut filters = lock(&queues.filters)
            .get(self.reply_address())
            .cloned()
            .unwrap_or_default();
        change(&mut filters);
        let token = self.reply_address().token().unwrap_or_default().to_owned();
        let principal = Principal::Agent(self.agent().clone());
        self.0
            .fabric
            .set_subscriptions(&principal, self.agent(), &token, filters)
            .await
    }

    /// Ends the session from the edge's side, as dropping the receiver does.
    pub fn close(&self) {
        self.0.core.close_lane();
    }
}

/// The receiving half of a session.
#[derive(Debug)]
pub struct SessionReceiver {
    session: Arc<Session>,
    lane: queue::Receiver<Chunk>,
    chunks: Vec<Chunk>,
    /// Taken out of the lane and not asked for yet.
    waiting: std::collections::VecDeque<Delivery>,
}

impl SessionReceiver {
    /// Waits for deliveries and appends those that are there, at most `max`, higher priorities first. Cancel safe.
    pub async fn next(&mut self, into: &mut Vec<Delivery>, max: usize) -> SessionEvent {
        loop {
            if self.try_next(into, max) > 0 {
                return SessionEvent::Deliveries;
            }
            if self.lane.ready().await == Readiness::Closed {
                return SessionEvent::Goodbye(self.session.core.goodbye().unwrap_or(Goodbye::Kicked));
            }
        }
    }

    /// The deliveries that are there already, without waiting; returns how many.
    pub fn try_next(&mut self, into: &mut Vec<Delivery>, max: usize) -> usize {
        let before = into.len();
        while into.len() - before < max {
            if self.waiting.is_empty() && self.refill() == 0 {
                break;
            }
            let wanted = (max - (into.len() - before)).min(self.waiting.len());
            into.extend(self.waiting.drain(..wanted));
        }
        into.len() - before
    }

    fn refill(&mut self) -> usize {
        let taken = self.lane.drain(LANE_BUDGET, &mut self.chunks);
        for chunk in self.chunks.drain(..) {
            self.session.core.taken(&chunk);
            self.waiting.extend(chunk.0);
        }
        taken
    }
}

impl Drop for SessionReceiver {
    fn drop(&mut self) {
        let Session {
            fabric,
            agent,
            core,
            visibility,
        } = &*self.session;
        fabric.detach(agent, core, *visibility);
    }
}
