//! Sessions from attach to detach: which queues one opens, which bounds it meets, and that it leaves nothing behind.
//!
//! Owns the count of sessions. What a session does meanwhile is in `handle.rs`, `settling.rs` and `subscriptions.rs`; who it is, in
//! `session.rs`. Start at [`Fabric::attach`].

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use super::{
    directory::Agent,
    error::FabricError,
    fabric::Fabric,
    handle::{self, SessionHandle, SessionReceiver},
    port::Action,
    session::{Holdings, NewSession, SessionCore},
    surface::{Attach, ConnectionView, Goodbye, Inbox, Principal, Protocol, SessionId, SessionQueue, Window},
    workers::{Command, Control},
};
use crate::{
    delivery::{QueueKind, WaitingWorkers},
    frame::{Address, AgentId, Priority},
    time::{self, Timestamp},
};

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

/// Who sees a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visibility {
    Listed,
    /// It only waits for one reply.
    Hidden,
}

/// Whether a session stands among its agent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    Done,
    /// Its agent is not in the directory any more.
    Forgotten,
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
        match attach.queue {
            SessionQueue::Ephemeral | SessionQueue::OnDemand => {
                self.attach_session(principal, attach, Visibility::Listed)
            }
            SessionQueue::Durable(_) => {
                // No change of the queue's subscriptions comes in between.
                let agent = attach.agent.clone();
                let _one_change = self.0.changes.of(&agent).await;
                let (handle, receiver) = self.attach_session(principal, attach, Visibility::Listed)?;
                self.resume_subscriptions(&handle);
                Ok((handle, receiver))
            }
        }
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
        let id = SessionId(self.0.next_session.fetch_add(1, Ordering::Relaxed));
        let (own_queue, own_queue_kind) = match &attach.queue {
            SessionQueue::Ephemeral | SessionQueue::OnDemand => {
                let token = format!("s.{}.{}", self.config().node_id, uuid::Uuid::now_v7().as_simple());
                (session_address(&attach.agent, &token)?, QueueKind::Ephemeral)
            }
            SessionQueue::Durable(token) => (session_address(&attach.agent, token)?, QueueKind::DurableSession),
        };
        let passes = attach.queue == SessionQueue::OnDemand;
        let new = NewSession {
            id,
            agent: attach.agent,
            protocol: attach.protocol,
            since: now,
            window: self.capped(attach.window),
            visibility_timeout: attach.visibility_timeout,
            own_queue,
            own_queue_kind,
            passes,
            takes_inbox: attach.inbox == Inbox::Open,
        };
        let (core, lane) = SessionCore::new(new, self.config());
        let agent = self.host(&core, visibility, now)?;
        if visibility == Visibility::Listed {
            self.0.sessions.0[core.protocol.index()].fetch_add(1, Ordering::Relaxed);
        } else {
            self.0.sessions.1.fetch_add(1, Ordering::Relaxed);
        }
        if !passes {
            self.open_queue(&core, &core.own_queue, core.own_queue_kind);
        }
        if core.takes_inbox() {
            self.open_inbox_queues(&agent, &core);
        }
        Ok(handle::pair(self.clone(), agent, core, visibility, lane))
    }

    /// The session's agent, with the session among its others where it is listed. One that is only known by name may be forgotten at the
    /// very instant: then it is named again, and the session is listed before anyone can forget it once more.
    fn host(&self, core: &Arc<SessionCore>, visibility: Visibility, now: Timestamp) -> Result<Arc<Agent>, FabricError> {
        self.know(core.agent.as_str(), "agent_id", now)?;
        let take_in = |agent: &Arc<Agent>| match visibility {
            Visibility::Hidden => Ok(Listing::Done),
            Visibility::Listed => self.list_session(agent, core),
        };
        if let Some(agent) = self.0.directory.agent(core.agent.as_str())
            && take_in(&agent)? == Listing::Done
        {
            return Ok(agent);
        }
        self.name(&core.agent, now, |agent| take_in(agent).map(|_| agent.clone()))?
    }

    fn list_session(&self, agent: &Agent, core: &Arc<SessionCore>) -> Result<Listing, FabricError> {
        let max = self.config().sessions_per_agent_max;
        let mut sessions = agent.sessions();
        if agent.is_forgotten() {
            return Ok(Listing::Forgotten);
        }
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
        Ok(Listing::Done)
    }

    /// The agent's record, for one that was just made known.
    pub(super) fn known(&self, id: &AgentId) -> Result<Arc<Agent>, FabricError> {
        self.0
            .directory
            .agent(id.as_str())
            .ok_or_else(|| FabricError::UnknownAgent(id.clone()))
    }

    pub(super) fn capped(&self, window: Window) -> Window {
        let config = self.config();
        Window {
            messages: window.messages.min(config.in_flight_messages_max),
            bytes: window.bytes.min(config.in_flight_bytes_max),
        }
    }

    fn open_inbox_queues(&self, agent: &Agent, core: &Arc<SessionCore>) {
        for (queue, kind) in self.shared_queues(agent) {
            self.open_queue(core, &queue, kind);
        }
        self.open_queue(core, &Address::agent(&core.agent), QueueKind::Inbox);
    }

    /// Opens the inbox in a live session, or closes it there; nothing where it is as wanted already.
    pub(super) fn set_inbox(&self, agent: &Agent, core: &Arc<SessionCore>, inbox: Inbox) {
        if !core.set_takes_inbox(inbox == Inbox::Open) {
            return;
        }
        match inbox {
            Inbox::Open => self.open_inbox_queues(agent, core),
            Inbox::Closed => {
                for (queue, _) in self.shared_queues(agent) {
                    self.close_queue(core, &queue);
                }
                self.close_queue(core, &Address::agent(&core.agent));
            }
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
        self.open_held(core, &mut core.holdings(), queue, kind);
    }

    pub(super) fn open_held(&self, core: &Arc<SessionCore>, holdings: &mut Holdings, queue: &Address, kind: QueueKind) {
        if let Some(opening) = holdings.open(queue) {
            let control = Control::Attach {
                session: core.clone(),
                queue: queue.clone(),
                kind,
                opening,
            };
            self.0.workers.of(queue.home_shard()).control(control);
        }
    }

    /// Closes a queue behind every acknowledgement that the session sent before.
    pub(super) fn close_queue(&self, core: &Arc<SessionCore>, queue: &Address) {
        self.close_held(core, &mut core.holdings(), queue);
    }

    pub(super) fn close_held(&self, core: &Arc<SessionCore>, holdings: &mut Holdings, queue: &Address) {
        let Some(opening) = holdings.close(queue) else { return };
        let worker = self.0.workers.index_of(queue.home_shard());
        let detach = Command::Detach {
            session: core.clone(),
            queue: queue.clone(),
            opening,
        };
        if self.0.workers.try_push(worker, Priority::Critical, detach).is_err() {
            let detach = Control::Detach {
                session: core.clone(),
                queue: queue.clone(),
                opening,
            };
            self.0.workers.handles[worker].control(detach);
        }
    }

    pub(super) fn detach(&self, agent: &Agent, core: &Arc<SessionCore>, visibility: Visibility) {
        core.close_lane();
        let mut holdings = core.holdings();
        for filter in holdings.end() {
            self.end_subscription(agent, core, &mut holdings, &filter);
        }
        for queue in holdings.opened() {
            self.close_held(core, &mut holdings, &queue);
        }
        drop(holdings);
        agent.touch(time::now());
        if visibility == Visibility::Listed {
            agent.sessions().retain(|session| session.id != core.id);
            self.0.sessions.0[core.protocol.index()].fetch_sub(1, Ordering::Relaxed);
        } else {
            self.0.sessions.1.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn tell_credit(&self, session: SessionId, waiting: WaitingWorkers) {
        let handles = waiting.iter().filter_map(|worker| self.0.workers.handles.get(worker));
        handles.for_each(|handle| handle.control(Control::Credit { session }));
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

pub(super) fn session_address(agent: &AgentId, token: &str) -> Result<Address, FabricError> {
    Address::session(agent, token).map_err(|error| FabricError::invalid("token", error.to_string()))
}
