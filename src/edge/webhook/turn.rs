//! One agent's turn: attach as it, push what its mailbox hands out, settle, and leave once nothing comes any more.
//!
//! Keeps the order that the door keeps: of one sender, queue, priority and QoS, one message at a time is on its way. Start at
//! [`Turn::run`].

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::Uri;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::Xxh3;

use super::{
    Config, circuits, connector,
    push::{Pushed, Pusher},
};
use crate::{
    edge::counters::Counters,
    frame::AgentId,
    router::{
        Fabric, SessionHandle, SessionReceiver,
        error::FabricError,
        surface::{
            Attach, Delivery, DeliveryId, Inbox, Principal, Protocol, Refusal, SessionEvent, SessionQueue, Window,
        },
    },
    time::{Timestamp, monotonic},
};

/// How often a turn looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(500);

/// How a turn ended, for the circuits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Nothing was pushed: there was nothing, or it was not ours to push.
    Untried,
    /// The endpoint takes messages.
    Well,
    /// It failed too often in a row.
    Failing,
    /// It answered 410, as it was registered then.
    Gone(Timestamp),
}

/// What all turns share.
#[derive(Debug)]
pub(super) struct Shared {
    pub fabric: Fabric,
    pub config: Config,
    pub pusher: Pusher,
    pub counters: Arc<Counters>,
    pub shutdown: CancellationToken,
}

/// How long a turn that ends waits for a hand-out that was on its way when the window closed. What counts as out for longer are
/// acknowledgements whose commit is under way.
const LATE_HAND_OUT: Duration = Duration::from_millis(100);

/// Order is kept within a lane: sender, queue, priority and QoS, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Lane(u64);

impl Lane {
    fn of(delivery: &Delivery) -> Self {
        let envelope = &delivery.frame.envelope;
        let mut hash = Xxh3::new();
        hash.update(envelope.from().as_bytes());
        hash.update(&[0]);
        hash.update(delivery.queue.as_str().as_bytes());
        hash.update(&[envelope.priority() as u8, envelope.qos() as u8]);
        Self(hash.digest())
    }
}

/// One agent's turn under way.
pub(super) struct Turn {
    shared: Arc<Shared>,
    agent: AgentId,
    endpoint: Uri,
    registered: Timestamp,
    handle: SessionHandle,
    /// Handed out, and not on their way yet.
    waiting: VecDeque<Delivery>,
    lanes_busy: HashSet<Lane>,
    pushes: FuturesUnordered<BoxFuture<'static, (Lane, Delivery, Pushed)>>,
    /// Pushes that may be on their way at once: one while the endpoint is on trial.
    pushes_max: usize,
    failures: u32,
    failures_max: u32,
    ended: Ended,
    began: Instant,
    active: Instant,
}

impl Turn {
    /// Does an agent's whole turn.
    pub(super) async fn run(shared: Arc<Shared>, agent: AgentId, kind: circuits::Turn) -> Ended {
        match Self::begin(shared, agent.clone(), kind).await {
            Ok(Some((turn, receiver))) => turn.serve(receiver).await,
            Ok(None) => Ended::Untried,
            Err(error) => {
                tracing::debug!(agent_id = %agent, %error, "an agent's messages cannot be pushed now");
                Ended::Untried
            }
        }
    }

    async fn begin(
        shared: Arc<Shared>,
        agent: AgentId,
        kind: circuits::Turn,
    ) -> Result<Option<(Self, SessionReceiver)>, FabricError> {
        let principal = Principal::Agent(agent.clone());
        let view = shared.fabric.agent(&principal, &agent)?;
        let Some(record) = view.record.filter(|_| view.sessions == 0) else {
            return Ok(None);
        };
        let Some(text) = record.endpoints.get("http") else {
            return Ok(None);
        };
        let endpoint = match connector::endpoint(text) {
            Ok(endpoint) => endpoint,
            Err(detail) => {
                tracing::warn!(agent_id = %agent, detail, "an agent's `endpoints.http` cannot be pushed to");
                return Ok(None);
            }
        };
        let (pushes_max, failures_max) = match kind {
            circuits::Turn::Full => (shared.config.pushes_per_agent_max, shared.config.failures_max),
            circuits::Turn::Probe | circuits::Turn::Skip => (1, 1),
        };
        let attach = Attach {
            agent: agent.clone(),
            protocol: Protocol::Webhook,
            inbox: Inbox::Open,
            queue: SessionQueue::Ephemeral,
            window: window(pushes_max),
            visibility_timeout: None,
        };
        let (handle, receiver) = shared.fabric.attach(&principal, attach).await?;
        let turn = Self {
            registered: record.updated_at,
            shared,
            agent,
            endpoint,
            handle,
            waiting: VecDeque::new(),
            lanes_busy: HashSet::new(),
            pushes: FuturesUnordered::new(),
            pushes_max,
            failures: 0,
            failures_max,
            ended: Ended::Untried,
            began: monotonic(),
            active: monotonic(),
        };
        Ok(Some((turn, receiver)))
    }

    async fn serve(mut self, mut receiver: SessionReceiver) -> Ended {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deliveries = Vec::new();
        while self.is_wanted() {
            let room = self.pushes_max.saturating_sub(self.waiting.len() + self.pushes.len());
            let shutdown = self.shared.shutdown.clone();
            tokio::select! {
                event = receiver.next(&mut deliveries, room.max(1)), if room > 0 => {
                    self.waiting.extend(deliveries.drain(..));
                    if matches!(event, SessionEvent::Goodbye(_)) {
                        break;
                    }
                }
                Some((lane, delivery, pushed)) = self.pushes.next(), if !self.pushes.is_empty() => self.note(lane, &delivery, pushed),
                _ = look.tick() => {
                    if !self.is_due() {
                        break;
                    }
                }
                () = shutdown.cancelled() => break,
            }
            self.start_pushes();
        }
        self.give_back(&mut receiver).await;
        while let Some((lane, delivery, pushed)) = self.pushes.next().await {
            self.note(lane, &delivery, pushed);
        }
        // What the last refusals brought back once more.
        self.give_back(&mut receiver).await;
        drop(receiver);
        self.handle.close();
        self.ended
    }

    /// Takes no more, and gives back what was handed out and not pushed: released, it counts as no attempt, which merely ending the
    /// session would. A hand-out may be on its way while the window closes, so it is waited for as long as something is out.
    async fn give_back(&mut self, receiver: &mut SessionReceiver) {
        self.handle.set_window(Window::CLOSED);
        let mut deliveries: Vec<Delivery> = std::mem::take(&mut self.waiting).into();
        let at_once = self.shared.config.pushes_per_agent_max;
        receiver.try_next(&mut deliveries, at_once);
        loop {
            let ids: Vec<DeliveryId> = deliveries.drain(..).filter_map(|delivery| delivery.id).collect();
            if !ids.is_empty() {
                // What fails to be released comes back with the end of the session all the same.
                let _ = self.handle.nack(&ids, Refusal::Release).await;
            }
            if self.handle.in_flight().messages == 0 || !self.pushes.is_empty() {
                return;
            }
            match timeout(LATE_HAND_OUT, receiver.next(&mut deliveries, at_once)).await {
                Ok(SessionEvent::Deliveries) => {}
                Ok(SessionEvent::Goodbye(_)) | Err(_) => return,
            }
        }
    }

    /// False once the endpoint showed that it is not to be called on.
    const fn is_wanted(&self) -> bool {
        match self.ended {
            Ended::Untried | Ended::Well => true,
            Ended::Failing | Ended::Gone(_) => false,
        }
    }

    /// False once the turn has nothing to do, is no longer this edge's to do, or has had its time.
    fn is_due(&self) -> bool {
        let now = monotonic();
        let since = |then: Instant| now.saturating_duration_since(then);
        let is_idle =
            self.waiting.is_empty() && self.pushes.is_empty() && since(self.active) > self.shared.config.idle();
        if is_idle || since(self.began) > self.shared.config.turn() {
            return false;
        }
        let principal = Principal::Agent(self.agent.clone());
        self.shared.fabric.agent(&principal, &self.agent).is_ok_and(|view| {
            let is_same = view.record.is_some_and(|record| record.updated_at == self.registered);
            // One session is this turn's own: a second means that the agent itself is here.
            is_same && view.sessions <= 1
        })
    }

    /// Starts every push that its lane lets start, in the order handed out. A message that is held holds those of its lane behind
    /// it too: its lane stays busy, or the pushes stay at their bound.
    fn start_pushes(&mut self) {
        if !self.is_wanted() {
            return;
        }
        for delivery in std::mem::take(&mut self.waiting) {
            let lane = Lane::of(&delivery);
            if self.pushes.len() < self.pushes_max && self.lanes_busy.insert(lane) {
                self.start_push(lane, delivery);
            } else {
                self.waiting.push_back(delivery);
            }
        }
    }

    fn start_push(&mut self, lane: Lane, delivery: Delivery) {
        Counters::add(&self.shared.counters.messages_out, 1);
        Counters::add(&self.shared.counters.bytes_out, delivery.frame.body.len());
        let (shared, handle, endpoint) = (Arc::clone(&self.shared), self.handle.clone(), self.endpoint.clone());
        self.pushes.push(
            async move {
                let began = monotonic();
                let pushed = shared.pusher.push(endpoint, &delivery).await;
                shared
                    .counters
                    .latencies
                    .record(monotonic().saturating_duration_since(began));
                settle(&handle, &delivery, &pushed).await;
                (lane, delivery, pushed)
            }
            .boxed(),
        );
    }

    fn note(&mut self, lane: Lane, delivery: &Delivery, pushed: Pushed) {
        self.lanes_busy.remove(&lane);
        self.active = monotonic();
        let detail = match pushed {
            Pushed::Taken => {
                self.failures = 0;
                if self.is_wanted() {
                    self.ended = Ended::Well;
                    self.trust();
                }
                return;
            }
            Pushed::Gone => {
                self.ended = Ended::Gone(self.registered);
                return;
            }
            Pushed::Refused(detail) | Pushed::Unreachable(detail) => detail,
        };
        Counters::add(&self.shared.counters.errors, 1);
        let (agent_id, message_id) = (&self.agent, delivery.frame.envelope.id());
        tracing::debug!(%agent_id, message_id, detail, "a push failed");
        self.failures += 1;
        if self.failures >= self.failures_max && self.is_wanted() {
            tracing::warn!(%agent_id, message_id, detail, "an agent's endpoint is left alone for a while");
            self.ended = Ended::Failing;
        }
    }

    /// An endpoint that stood its trial gets its messages in full.
    fn trust(&mut self) {
        let config = &self.shared.config;
        if self.pushes_max < config.pushes_per_agent_max {
            self.pushes_max = config.pushes_per_agent_max;
            self.failures_max = config.failures_max;
            self.handle.set_window(window(self.pushes_max));
        }
    }
}

/// Tells the queue what became of its message.
async fn settle(handle: &SessionHandle, delivery: &Delivery, pushed: &Pushed) {
    let Some(id) = delivery.id else { return };
    let refusal = match pushed {
        // No order waits for this acknowledgement's commit; where it is lost, the message comes again.
        Pushed::Taken => return handle.ack_unanswered(vec![id]),
        Pushed::Refused(_) => Refusal::Retry(None),
        // The message is not to blame, so that the attempt does not count towards its dead letter.
        Pushed::Unreachable(_) | Pushed::Gone => Refusal::Release,
    };
    // A refusal that fails is made good by the end of the session, which gives everything back.
    let _ = handle.nack(&[id], refusal).await;
}

fn window(pushes_max: usize) -> Window {
    Window {
        messages: u32::try_from(pushes_max).unwrap_or(u32::MAX),
        bytes: Window::DEFAULT.bytes,
    }
}
