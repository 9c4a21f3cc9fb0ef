//! The two ends of a session that an edge holds: what it may do, and what comes to it.
//!
//! Owns the receiving half of the lane and the end of the session: dropping the receiver detaches. Start at [`SessionReceiver::next`].

use std::sync::Arc;

use super::{
    attach::Visibility,
    directory::Agent,
    error::FabricError,
    fabric::Fabric,
    session::{Chunk, SessionCore},
    settling::nack_of,
    subscriptions::SubscriptionChange,
    surface::{Delivery, DeliveryId, Goodbye, Inbox, Piece, Refusal, SessionEvent, SessionId, Settled, Window},
    workers::{Command, Control},
};
use crate::{
    delivery::{Nack, QueueKind},
    frame::{Address, AgentId, Priority, TopicFilter},
    queue::{self, Readiness},
};

/// Chunks taken out of a lane in one go.
const LANE_BUDGET: usize = 64;
/// Control messages that wait for a worker before acknowledgements that nobody waits for are let go (their messages come again).
const CONTROL_BACKLOG_MAX: usize = 65_536;

/// What handle and receiver share; dropping the receiver detaches.
#[derive(Debug)]
struct Session {
    fabric: Fabric,
    agent: Arc<Agent>,
    core: Arc<SessionCore>,
    visibility: Visibility,
}

/// The two ends of a new session.
pub(super) fn pair(
    fabric: Fabric,
    agent: Arc<Agent>,
    core: Arc<SessionCore>,
    visibility: Visibility,
    lane: queue::Receiver<Chunk>,
) -> (SessionHandle, SessionReceiver) {
    let session = Arc::new(Session {
        fabric,
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
    (SessionHandle(session), receiver)
}

/// What a session may do besides receiving. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SessionHandle(Arc<Session>);

impl SessionHandle {
    /// The session's number on this node.
    pub fn id(&self) -> SessionId {
        self.0.core.id
    }

    /// The agent that it is a session of.
    pub fn agent(&self) -> &AgentId {
        &self.0.core.agent
    }

    pub(super) fn parts(&self) -> (&Arc<Agent>, &Arc<SessionCore>) {
        (&self.0.agent, &self.0.core)
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

    /// Begins or ends taking the agent's inbox (and what comes by its capabilities and one-of groups) in this session.
    pub fn set_inbox(&self, inbox: Inbox) {
        self.0.fabric.set_inbox(&self.0.agent, &self.0.core, inbox);
    }

    /// Adds topic subscriptions; of a durable queue they outlast the session, and are committed when this returns.
    pub async fn subscribe(&self, filters: Vec<TopicFilter>) -> Result<(), FabricError> {
        self.change_subscriptions(SubscriptionChange::Add(filters)).await
    }

    /// Ends topic subscriptions; those that are not there are no error.
    pub async fn unsubscribe(&self, filters: Vec<TopicFilter>) -> Result<(), FabricError> {
        self.change_subscriptions(SubscriptionChange::Remove(filters)).await
    }

    async fn change_subscriptions(&self, change: SubscriptionChange) -> Result<(), FabricError> {
        let Session {
            fabric, agent, core, ..
        } = &*self.0;
        match core.own_queue_kind {
            QueueKind::DurableSession => fabric.change_durable(core.own_queue.clone(), change).await,
            _ => fabric.change_own(agent, core, &change),
        }
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
    waiting: std::collections::VecDeque<Piece>,
}

impl SessionReceiver {
    /// Waits for deliveries and appends those that are there, at most `max`, higher priorities first. Cancel safe.
    pub async fn next(&mut self, into: &mut Vec<Delivery>, max: usize) -> SessionEvent {
        loop {
            if self.try_next(into, max) > 0 {
                return SessionEvent::Deliveries;
            }
            if let Some(end) = self.ready().await {
                return end;
            }
        }
    }

    /// [`SessionReceiver::next`], with what came together left together; `max` counts deliveries.
    pub async fn next_pieces(&mut self, into: &mut Vec<Piece>, max: usize) -> SessionEvent {
        loop {
            if self.try_next_pieces(into, max) > 0 {
                return SessionEvent::Deliveries;
            }
            if let Some(end) = self.ready().await {
                return end;
            }
        }
    }

    /// Waits for the end alone, and takes nothing: what comes meanwhile stays in the lane, up to its bounds. Cancel safe.
    pub async fn end(&mut self) -> SessionEvent {
        self.lane.closed().await;
        self.goodbye()
    }

    fn goodbye(&self) -> SessionEvent {
        SessionEvent::Goodbye(self.session.core.goodbye().unwrap_or(Goodbye::Kicked))
    }

    /// Something is there; or the end of the session.
    async fn ready(&mut self) -> Option<SessionEvent> {
        (self.lane.ready().await == Readiness::Closed).then(|| self.goodbye())
    }

    /// The deliveries that are there already, without waiting; returns how many.
    pub fn try_next(&mut self, into: &mut Vec<Delivery>, max: usize) -> usize {
        self.take(max, |piece| piece.unpack(into))
    }

    /// [`SessionReceiver::try_next`], with what came together left together; `max` and what is returned count deliveries.
    pub fn try_next_pieces(&mut self, into: &mut Vec<Piece>, max: usize) -> usize {
        self.take(max, |piece| into.push(piece))
    }

    fn take(&mut self, max: usize, mut each: impl FnMut(Piece)) -> usize {
        let mut taken = 0;
        while taken < max && (!self.waiting.is_empty() || self.refill() > 0) {
            let Some(front) = self.waiting.front_mut() else { break };
            let fits = front.frames() <= max - taken;
            let piece = if fits {
                self.waiting.pop_front()
            } else {
                front.split_to(max - taken)
            };
            let Some(piece) = piece else { break };
            taken += piece.frames();
            each(piece);
        }
        taken
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
