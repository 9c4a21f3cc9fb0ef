//! Sessions of agents that receive by single calls: kept between calls, so that what was handed out stays theirs to settle.
//!
//! Owns the map of poll sessions and the window that opens for a call only: a message that nobody waits for stays in its
//! queue. Must never know a call's wire form. Start at [`Polls::receive`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync, time};
use tokio_util::sync::CancellationToken;

use crate::{
    frame::AgentId,
    router::{
        Fabric, SessionHandle, SessionReceiver,
        error::FabricError,
        surface::{Attach, Delivery, Goodbye, Inbox, Principal, Protocol, SessionEvent, SessionQueue, Window},
    },
    time::monotonic,
};

/// What even a poll that does not want to wait gives the shard to hand out what is there: attaching is not synchronous with it.
const WAIT_MIN: std::time::Duration = std::time::Duration::from_millis(100);

/// How often idle poll sessions are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How often a call attaches anew where another protocol's poll takes the agent's queue from under it.
const ATTEMPTS_MAX: usize = 3;

/// What one call got: who settles it, the deliveries, and why the session is over where it is.
type Taken = (SessionHandle, Vec<Delivery>, Option<Goodbye>);

/// What one call asks for.
#[derive(Debug)]
pub struct Ask {
    pub max: usize,
    pub wait: Duration,
    pub visibility_timeout: Duration,
    /// Token of the durable queue whose messages come too.
    pub durable_queue: String,
}

/// The poll sessions of a listener.
#[derive(Debug)]
pub struct Polls {
    fabric: Fabric,
    sessions: Mutex<HashMap<AgentId, Arc<PollSession>>>,
    sessions_max: usize,
    idle_max: Duration,
}

#[derive(Debug)]
struct PollSession {
    handle: SessionHandle,
    /// The queue beside the inbox.
    queue: SessionQueue,
    /// One call at a time receives; others wait their turn within their own patience.
    receiver: sync::Mutex<SessionReceiver>,
    used_at: Mutex<Instant>,
}

impl Polls {
    pub fn new(fabric: Fabric, sessions_max: usize, idle_max: Duration) -> Self {
        Self {
            fabric,
            sessions: Mutex::default(),
            sessions_max,
            idle_max,
        }
    }

    /// Waits for deliveries: empty where none came in time.
    pub async fn receive(
        &self,
        principal: &Principal,
        agent: &AgentId,
        ask: Ask,
    ) -> Result<(SessionHandle, Vec<Delivery>), FabricError> {
        check_self(principal, agent)?;
        for _ in 1..ATTEMPTS_MAX {
            match self.take_once(principal, agent, &ask).await? {
                // A poll over another protocol took the agent's queue since the last call; whoever asks last has it.
                (_, taken, Some(Goodbye::TakenOver)) if taken.is_empty() => {}
                answer => return finish(answer, agent),
            }
        }
        finish(self.take_once(principal, agent, &ask).await?, agent)
    }

    async fn take_once(&self, principal: &Principal, agent: &AgentId, ask: &Ask) -> Result<Taken, FabricError> {
        let session = self.session(principal, agent, ask).await?;
        let mut taken = Vec::new();
        let ended = match time::timeout(ask.wait.max(WAIT_MIN), session.take(ask.max, &mut taken)).await {
            Ok(ended) => ended,
            Err(_elapsed) => session.take_late(ask.max, &mut taken),
        };
        *lock(&session.used_at) = monotonic();
        if ended.is_some() && taken.is_empty() {
            self.forget(agent);
        }
        Ok((session.handle.clone(), taken, ended))
    }

    /// Ends an agent's poll session, so that the next call attaches anew.
    pub fn forget(&self, agent: &AgentId) {
        lock(&self.sessions).remove(agent);
    }

    async fn session(
        &self,
        principal: &Principal,
        agent: &AgentId,
        ask: &Ask,
    ) -> Result<Arc<PollSession>, FabricError> {
        let subscribed = self.fabric.subscriptions(principal, agent, &ask.durable_queue)?;
        let queue = match subscribed.is_empty() {
            false => SessionQueue::Durable(ask.durable_queue.clone()),
            true => SessionQueue::Ephemeral,
        };
        if let Some(session) = lock(&self.sessions).get(agent)
            && session.queue == queue
        {
            *lock(&session.used_at) = monotonic();
            return Ok(Arc::clone(session));
        }
        // It was attached before the subscriptions changed, over whichever protocol that was.
        self.forget(agent);
        if lock(&self.sessions).len() >= self.sessions_max {
            return Err(FabricError::TooMany {
                what: "poll sessions of this node",
                max: self.sessions_max,
            });
        }
        let attach = Attach {
            agent: agent.clone(),
            protocol: Protocol::Grpc,
            inbox: Inbox::Open,
            queue: queue.clone(),
            window: Window::CLOSED,
            visibility_timeout: Some(ask.visibility_timeout),
        };
        let (handle, receiver) = self.fabric.attach(principal, attach).await?;
        let session = Arc::new(PollSession {
            handle,
            queue,
            receiver: sync::Mutex::new(receiver),
            used_at: Mutex::new(monotonic()),
        });
        // Where two calls attached at once, the first one's stays; the other's ends with its last reference.
        let mut sessions = lock(&self.sessions);
        Ok(Arc::clone(sessions.entry(agent.clone()).or_insert(session)))
    }

    /// Ends poll sessions that nobody uses, until `shutdown`; then all of them.
    pub async fn sweep(&self, shutdown: CancellationToken) {
        let mut ticks = time::interval(SWEEP_INTERVAL);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let now = monotonic();
            lock(&self.sessions).retain(|_, session| {
                let idle = now.saturating_duration_since(*lock(&session.used_at)) > self.idle_max;
                let waited_for = Arc::strong_count(session) > 1;
                waited_for || !idle || session.handle.in_flight().messages > 0
            });
        }
        lock(&self.sessions).clear();
    }
}

impl PollSession {
    /// Opens the window for one call and takes what comes first. Some: the session is over.
    async fn take(&self, max: usize, into: &mut Vec<Delivery>) -> Option<Goodbye> {
        let mut receiver = self.receiver.lock().await;
        self.open_window(max);
        match receiver.next(into, max).await {
            SessionEvent::Deliveries => {
                self.handle.set_window(Window::CLOSED);
                // What was on its way before the window closed; at most what it allowed.
                receiver.try_next(into, max.saturating_sub(into.len()));
                None
            }
            SessionEvent::Goodbye(goodbye) => Some(goodbye),
        }
    }

    /// What came between the end of the patience and the window's closing.
    fn take_late(&self, max: usize, into: &mut Vec<Delivery>) -> Option<Goodbye> {
        // Another call may have its turn by now: then the window and what comes are its own.
        if let Ok(mut receiver) = self.receiver.try_lock() {
            self.handle.set_window(Window::CLOSED);
            receiver.try_next(into, max);
        }
        None
    }

    fn open_window(&self, max: usize) {
        let out = self.handle.in_flight();
        let more = u32::try_from(max).unwrap_or(u32::MAX);
        self.handle.set_window(Window {
            messages: out.messages.saturating_add(more),
            bytes: out.bytes.saturating_add(Window::DEFAULT.bytes),
        });
    }
}

/// Before a session that another call opened is used: the door checked only who opened it.
fn check_self(principal: &Principal, agent: &AgentId) -> Result<(), FabricError> {
    match principal {
        Principal::Agent(own) if own != agent => Err(FabricError::NotYourself {
            principal: own.clone(),
            claimed: agent.clone(),
        }),
        Principal::Anyone | Principal::Agent(_) => Ok(()),
    }
}

fn finish((handle, taken, ended): Taken, agent: &AgentId) -> Result<(SessionHandle, Vec<Delivery>), FabricError> {
    match ended {
        Some(goodbye) if taken.is_empty() => Err(goodbye_error(goodbye, agent)),
        _ => Ok((handle, taken)),
    }
}

fn goodbye_error(goodbye: Goodbye, agent: &AgentId) -> FabricError {
    match goodbye {
        Goodbye::Draining => FabricError::Draining,
        Goodbye::AgentRemoved => FabricError::UnknownAgent(agent.clone()),
        Goodbye::Kicked | Goodbye::SlowConsumer | Goodbye::TakenOver => FabricError::SessionClosed,
    }
}

/// Locks, also after another thread panicked: each holder changes one entry in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
