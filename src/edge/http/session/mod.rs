//! HTTP sessions: one per agent that polls or streams, shared by all its polls and streams at once.
//!
//! A session is a task ([`actor`]) around a pure [`desk`]; it attaches the agent at the first poll and stays for a while after the
//! last. What was handed out and never reached its client is given back. Knows no routes. Start at [`Sessions`].

mod actor;
pub mod desk;
mod events;
mod hand_out;
mod log;
mod spare;
mod streams;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use self::desk::{Spans, Terms};
pub use self::{events::EventSource, hand_out::HandOut};
use crate::{
    edge::{auth::proven_agent, counters::Counters},
    frame::AgentId,
    router::{
        Fabric,
        error::FabricError,
        surface::{DeliveryId, Principal},
    },
};

/// Commands that wait for one session; above it their requests wait.
const COMMANDS_MAX: usize = 128;
/// How often a request that met a session at its end tries the next one.
const ATTEMPTS_MAX: usize = 3;

/// Whose session it is: principals never share one, so that the door checks each at its attach.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    agent: AgentId,
    proven: Option<AgentId>,
}

/// What a poll or stream asks of its session.
pub(super) enum Command {
    Poll {
        max: usize,
        wait: Duration,
        terms: Terms,
        reply: oneshot::Sender<Result<HandOut, FabricError>>,
    },
    Stream {
        terms: Terms,
        resume: Option<DeliveryId>,
        reply: oneshot::Sender<Result<EventSource, FabricError>>,
    },
    /// The agent settled these.
    Settled(Vec<DeliveryId>),
    /// The agent's topic subscriptions changed.
    Subscriptions,
    /// A client went away: look which.
    Look,
}

/// Bounds and spans of all sessions.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub sessions_max: usize,
    pub spans: Spans,
    pub heartbeat_interval: Duration,
}

/// All HTTP sessions of this node. A clone is a reference count.
#[derive(Clone)]
pub struct Sessions(Arc<Shared>);

pub(super) struct Shared {
    fabric: Fabric,
    settings: Settings,
    counters: Arc<Counters>,
    /// At most [`Settings::sessions_max`]; above it a poll is refused.
    open: Mutex<HashMap<Key, mpsc::Sender<Command>>>,
    next_stream: AtomicU64,
}

impl Sessions {
    /// None yet.
    pub fn new(fabric: Fabric, settings: Settings, counters: Arc<Counters>) -> Self {
        Self(Arc::new(Shared {
            fabric,
            settings,
            counters,
            open: Mutex::default(),
            next_stream: AtomicU64::new(0),
        }))
    }

    /// Waits for messages of an agent: at least one of them, or none after `wait`.
    pub async fn poll(
        &self,
        principal: &Principal,
        agent: &AgentId,
        max: usize,
        wait: Duration,
        terms: Terms,
    ) -> Result<HandOut, FabricError> {
        self.ask(principal, agent, |reply| Command::Poll {
            max,
            wait,
            terms,
            reply,
        })
        .await
    }

    /// Opens a stream of an agent's messages.
    pub async fn stream(
        &self,
        principal: &Principal,
        agent: &AgentId,
        terms: Terms,
        resume: Option<DeliveryId>,
    ) -> Result<EventSource, FabricError> {
        self.ask(principal, agent, |reply| Command::Stream { terms, resume, reply })
            .await
    }

    /// Tells the agent's session, where it has one, that messages were settled.
    pub async fn note_settled(&self, principal: &Principal, agent: &AgentId, ids: &[DeliveryId]) {
        self.tell(principal, agent, || Command::Settled(ids.to_vec())).await;
    }

    /// Tells the agent's session, where it has one, that its topic subscriptions changed.
    pub async fn note_subscriptions(&self, principal: &Principal, agent: &AgentId) {
        self.tell(principal, agent, || Command::Subscriptions).await;
    }

    async fn ask<T>(
        &self,
        principal: &Principal,
        agent: &AgentId,
        command: impl Fn(oneshot::Sender<Result<T, FabricError>>) -> Command,
    ) -> Result<T, FabricError> {
        let key = Key {
            agent: agent.clone(),
            proven: proven_agent(principal).cloned(),
        };
        for _ in 0..ATTEMPTS_MAX {
            let session = self.open(&key, principal)?;
            let (reply, answer) = oneshot::channel();
            if session.send(command(reply)).await.is_err() {
                self.0.forget(&key, &session);
                continue;
            }
            // Dropped with this future where the client goes away, so that the session looks.
            let _look = LookOnDrop(session);
            match answer.await {
                Ok(answer) => return answer,
                Err(_ended) => {}
            }
        }
        Err(FabricError::SessionClosed)
    }

    async fn tell(&self, principal: &Principal, agent: &AgentId, command: impl FnOnce() -> Command) {
        let key = Key {
            agent: agent.clone(),
            proven: proven_agent(principal).cloned(),
        };
        let session = self.0.lock().get(&key).cloned();
        if let Some(session) = session {
            // An ended session has nothing to be told.
            let _ = session.send(command()).await;
        }
    }

    fn open(&self, key: &Key, principal: &Principal) -> Result<mpsc::Sender<Command>, FabricError> {
        let mut open = self.0.lock();
        if let Some(session) = open.get(key) {
            return Ok(session.clone());
        }
        let max = self.0.settings.sessions_max;
        if open.len() >= max {
            return Err(FabricError::TooMany {
                what: "HTTP sessions of this node",
                max,
            });
        }
        let (session, commands) = mpsc::channel(COMMANDS_MAX);
        open.insert(key.clone(), session.clone());
        drop(open);
        let task = actor::run(
            Arc::clone(&self.0),
            key.clone(),
            principal.clone(),
            session.clone(),
            commands,
        );
        tokio::spawn(task);
        Ok(session)
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, mpsc::Sender<Command>>> {
        // Nothing panics while the lock is held; a poisoned map is still a whole one.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a session from the map, unless another has taken its place.
    fn forget(&self, key: &Key, session: &mpsc::Sender<Command>) {
        let mut open = self.lock();
        if open.get(key).is_some_and(|known| known.same_channel(session)) {
            open.remove(key);
        }
    }
}

struct LookOnDrop(mpsc::Sender<Command>);

impl Drop for LookOnDrop {
    fn drop(&mut self) {
        // A full channel wakes the session anyway.
        let _ = self.0.try_send(Command::Look);
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions")
            .field("open", &self.0.lock().len())
            .finish_non_exhaustive()
    }
}
