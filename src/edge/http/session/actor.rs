//! The task of one HTTP session: carries what happens to the desk and does what the desk says.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

use super::{
    Command, Key, Shared,
    desk::{Desk, DeskFull, Effect, Poll, PollId, STREAM_EVENTS_MAX, StreamId, Terms},
    events::EventSource,
    hand_out::HandOut,
};
use crate::{
    frame::AgentId,
    router::{
        SessionHandle, SessionReceiver,
        error::FabricError,
        surface::{
            Attach, Delivery, DeliveryId, Goodbye, Inbox, POLL_QUEUE, Principal, Protocol, Refusal, SessionEvent,
            SessionQueue, Window,
        },
    },
    time,
};

/// Deliveries taken from a lane at once.
const DELIVERIES_AT_ONCE: usize = 256;

/// One attachment: the inbox, or the queue of the agent's topic subscriptions.
struct Attached {
    handle: SessionHandle,
    receiver: SessionReceiver,
    window: Window,
    arrived: Vec<Delivery>,
}

impl Attached {
    /// Waits for deliveries. Cancel safe: they wait in `arrived`.
    async fn next(&mut self) -> SessionEvent {
        let event = self.receiver.next(&mut self.arrived, DELIVERIES_AT_ONCE).await;
        let room = DELIVERIES_AT_ONCE.saturating_sub(self.arrived.len());
        self.receiver.try_next(&mut self.arrived, room);
        event
    }
}

async fn next_of(attached: &mut Option<Attached>) -> SessionEvent {
    match attached {
        Some(attached) => attached.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

type PollReply = oneshot::Sender<Result<HandOut, FabricError>>;

struct Waiting {
    terms: Terms,
    reply: PollReply,
}

struct Connection {
    events: mpsc::Sender<Delivery>,
    /// Written by the connection, read here; relaxed: it guards no other memory.
    written: Arc<AtomicU64>,
}

struct Session {
    shared: Arc<Shared>,
    principal: Principal,
    agent: AgentId,
    /// For streams to say that they ended.
    myself: mpsc::WeakSender<Command>,
    desk: Desk,
    polls: HashMap<u64, Waiting>,
    streams: HashMap<u64, Connection>,
    next_poll: u64,
    inbox: Attached,
    topics: Option<Attached>,
}

/// Runs a session until it is idle or the fabric ends it.
pub(super) async fn run(
    shared: Arc<Shared>,
    key: Key,
    principal: Principal,
    myself: mpsc::Sender<Command>,
    mut commands: mpsc::Receiver<Command>,
) {
    let started = start(&shared, &key.agent, principal, myself.downgrade()).await;
    let error = match started {
        Ok(mut session) => session.serve(&mut commands).await,
        Err(error) => Some(error),
    };
    shared.forget(&key, &myself);
    commands.close();
    // Whoever still asks learns why, or, where the session just ended, tries the next one.
    while let Ok(command) = commands.try_recv() {
        if let Some(error) = &error {
            refuse(command, error);
        }
    }
}

fn refuse(command: Command, error: &FabricError) {
    match command {
        // Where the client is gone too, nobody needs to know.
        Command::Poll { reply, .. } => drop(reply.send(Err(error.clone()))),
        Command::Stream { reply, .. } => drop(reply.send(Err(error.clone()))),
        Command::Settled(_) | Command::Subscriptions | Command::Look => {}
    }
}

async fn start(
    shared: &Arc<Shared>,
    agent: &AgentId,
    principal: Principal,
    myself: mpsc::WeakSender<Command>,
) -> Result<Session, FabricError> {
    let inbox = attach(shared, &principal, agent, Inbox::Open, SessionQueue::Ephemeral).await?;
    let mut session = Session {
        desk: Desk::new(shared.settings.spans, time::monotonic()),
        shared: Arc::clone(shared),
        principal,
        agent: agent.clone(),
        myself,
        polls: HashMap::new(),
        streams: HashMap::new(),
        next_poll: 0,
        inbox,
        topics: None,
    };
    session.follow_subscriptions().await;
    Ok(session)
}

async fn attach(
    shared: &Shared,
    principal: &Principal,
    agent: &AgentId,
    inbox: Inbox,
    queue: SessionQueue,
) -> Result<Attached, FabricError> {
    let wish = Attach {
        agent: agent.clone(),
        protocol: Protocol::Http,
        inbox,
        queue,
        window: Window::CLOSED,
        // The desk sees to it: each poll has its own.
        visibility_timeout: None,
    };
    let (handle, receiver) = shared.fabric.attach(principal, wish).await?;
    Ok(Attached {
        handle,
        receiver,
        window: Window::CLOSED,
        arrived: Vec::new(),
    })
}

impl Session {
    /// `None` where it ended because it was idle.
    async fn serve(&mut self, commands: &mut mpsc::Receiver<Command>) -> Option<FabricError> {
        loop {
            self.grant();
            let mut out = Vec::new();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command, &mut out).await,
                    None => return None,
                },
                event = self.inbox.next() => match event {
                    SessionEvent::Deliveries => {
                        let arrived = std::mem::take(&mut self.inbox.arrived);
                        self.desk.handle_deliveries(arrived, time::now(), time::monotonic(), &mut out);
                    }
                    SessionEvent::Goodbye(reason) => return Some(self.say_goodbye(reason)),
                },
                event = next_of(&mut self.topics) => match (event, &mut self.topics) {
                    (SessionEvent::Deliveries, Some(topics)) => {
                        let arrived = std::mem::take(&mut topics.arrived);
                        self.desk.handle_deliveries(arrived, time::now(), time::monotonic(), &mut out);
                    }
                    (SessionEvent::Deliveries, None) => {}
                    // The inbox says goodbye too where the whole session is meant.
                    (SessionEvent::Goodbye(_), topics) => *topics = None,
                },
                () = sleep_until(self.desk.next_deadline()) => {
                    self.note_written();
                    self.desk.handle_timeout(time::monotonic(), &mut out);
                }
            }
            if !self.carry_out(out) {
                return None;
            }
        }
    }

    async fn obey(&mut self, command: Command, out: &mut Vec<Effect>) {
        if matches!(command, Command::Poll { .. } | Command::Stream { .. }) && self.topics.is_none() {
            // Another protocol's poll may have taken the queue meanwhile: whoever asks last has it.
            self.follow_subscriptions().await;
        }
        let (wall, now) = (time::now(), time::monotonic());
        match command {
            Command::Poll {
                max,
                wait,
                terms,
                reply,
            } => {
                let id = self.next_poll;
                self.next_poll += 1;
                let poll = Poll {
                    id: PollId(id),
                    max,
                    terms,
                    deadline: now + wait,
                };
                self.polls.insert(id, Waiting { terms, reply });
                if let Err(full) = self.desk.handle_poll(poll, wall, now, out)
                    && let Some(waiting) = self.polls.remove(&id)
                {
                    // A client that is gone needs no refusal.
                    let _ = waiting.reply.send(Err(too_many(full)));
                }
            }
            Command::Stream { terms, resume, reply } => self.open_stream(terms, resume, reply, out),
            Command::Settled(ids) => self.desk.handle_settled(&ids),
            Command::Subscriptions => self.follow_subscriptions().await,
            Command::Look => {}
        }
        // After every command: a `Look` that met a full channel was dropped.
        self.look(out);
    }

    fn open_stream(
        &mut self,
        terms: Terms,
        resume: Option<DeliveryId>,
        reply: oneshot::Sender<Result<EventSource, FabricError>>,
        out: &mut Vec<Effect>,
    ) {
        self.note_written();
        let id = self.shared.next_stream.fetch_add(1, Ordering::Relaxed);
        let now = time::monotonic();
        if let Err(full) = self.desk.handle_stream(StreamId(id), terms, resume, now, out) {
            // A client that is gone needs no refusal.
            let _ = reply.send(Err(too_many(full)));
            return;
        }
        let (events, queued) = mpsc::channel(STREAM_EVENTS_MAX);
        let written = Arc::new(AtomicU64::new(0));
        let source = EventSource::new(
            queued,
            Arc::clone(&written),
            self.myself.clone(),
            Arc::clone(&self.shared.counters),
            self.shared.settings.heartbeat_interval,
        );
        self.streams.insert(id, Connection { events, written });
        if reply.send(Ok(source)).is_err() {
            self.look(out);
        }
    }

    /// Finds the polls and streams whose clients are gone.
    fn look(&mut self, out: &mut Vec<Effect>) {
        let now = time::monotonic();
        let desk = &mut self.desk;
        self.polls.retain(|id, waiting| {
            let gone = waiting.reply.is_closed();
            if gone {
                desk.handle_poll_gone(PollId(*id), now);
            }
            !gone
        });
        self.streams.retain(|id, connection| {
            let gone = connection.events.is_closed();
            if gone {
                let written = connection.written.load(Ordering::Relaxed);
                desk.handle_stream_gone(StreamId(*id), written, now, out);
            }
            !gone
        });
    }

    fn note_written(&mut self) {
        let now = time::monotonic();
        for (id, connection) in &self.streams {
            self.desk
                .handle_written(StreamId(*id), connection.written.load(Ordering::Relaxed), now);
        }
    }

    /// Does what the desk says; false at the session's end.
    fn carry_out(&mut self, mut effects: Vec<Effect>) -> bool {
        while !effects.is_empty() {
            let mut more = Vec::new();
            for effect in effects {
                match effect {
                    Effect::Answer { poll, deliveries } => self.answer(poll, deliveries, &mut more),
                    Effect::Event { stream, delivery } => self.write_event(stream, delivery, &mut more),
                    Effect::CloseStream(id) => drop(self.streams.remove(&id.0)),
                    Effect::Acknowledge(ids) => self.settle(ids, None),
                    Effect::Release(ids) => self.settle(ids, Some(Refusal::Release)),
                    Effect::Retry(ids) => self.settle(ids, Some(Refusal::Retry(Some(std::time::Duration::ZERO)))),
                    Effect::End => return false,
                }
            }
            effects = more;
        }
        true
    }

    fn answer(&mut self, poll: PollId, deliveries: Vec<Delivery>, out: &mut Vec<Effect>) {
        let (wall, now) = (time::now(), time::monotonic());
        let Some(waiting) = self.polls.remove(&poll.0) else {
            self.desk.handle_unread_answer(deliveries, wall, now, out);
            return;
        };
        let hand_out = HandOut::new(
            deliveries,
            waiting.terms.ack,
            super::Sessions(Arc::clone(&self.shared)),
            (self.principal.clone(), self.agent.clone()),
        );
        if let Err(Ok(unread)) = waiting.reply.send(Ok(hand_out)) {
            self.desk.handle_unread_answer(unread.take_back(), wall, now, out);
        }
    }

    fn write_event(&mut self, id: StreamId, delivery: Delivery, out: &mut Vec<Effect>) {
        let sent = match self.streams.get(&id.0) {
            Some(connection) => connection.events.try_send(delivery),
            None => return,
        };
        match sent {
            Ok(()) => {}
            // The desk's log has it: looking gives it back.
            Err(TrySendError::Closed(_)) => self.look(out),
            Err(TrySendError::Full(_)) => self.drop_slow_stream(id, out),
        }
    }

    /// Its client took nothing for so long that hand-outs in its queue timed out and made room for more.
    fn drop_slow_stream(&mut self, id: StreamId, out: &mut Vec<Effect>) {
        if let Some(connection) = self.streams.remove(&id.0) {
            tracing::info!(agent_id = %self.agent, "an event stream was closed because its client does not read");
            let written = connection.written.load(Ordering::Relaxed);
            self.desk.handle_stream_gone(id, written, time::monotonic(), out);
        }
    }

    /// Acknowledges or refuses without waiting: what fails comes again when the session ends, which is the guarantee.
    fn settle(&self, ids: Vec<DeliveryId>, refusal: Option<Refusal>) {
        let (fabric, principal, agent) = (self.shared.fabric.clone(), self.principal.clone(), self.agent.clone());
        tokio::spawn(async move {
            let settled = match refusal {
                None => fabric.ack(&principal, &agent, &ids).await,
                Some(refusal) => fabric.nack(&principal, &agent, &ids, refusal).await,
            };
            if let Err(error) = settled {
                tracing::debug!(agent_id = %agent, %error, "messages of an HTTP session were not settled");
            }
        });
    }

    /// Opens the windows as far as somebody waits, and closes them where nobody does.
    fn grant(&mut self) {
        let config = self.shared.fabric.config();
        let demand = u32::try_from(self.desk.demand()).unwrap_or(u32::MAX);
        for attached in [Some(&mut self.inbox), self.topics.as_mut()].into_iter().flatten() {
            let window = match demand {
                0 => Window::CLOSED,
                _ => Window {
                    messages: attached.handle.in_flight().messages.saturating_add(demand),
                    bytes: config.in_flight_bytes_max,
                },
            };
            if window != attached.window {
                attached.window = window;
                attached.handle.set_window(window);
            }
        }
    }

    /// Attaches the queue of the agent's topic subscriptions where it has some, and lets go of it where it has none.
    async fn follow_subscriptions(&mut self) {
        let fabric = &self.shared.fabric;
        let subscribed = match fabric.subscriptions(&self.principal, &self.agent, POLL_QUEUE) {
            Ok(filters) => !filters.is_empty(),
            Err(error) => {
                tracing::debug!(agent_id = %self.agent, %error, "the subscriptions of an HTTP session were not read");
                false
            }
        };
        if !subscribed {
            self.topics = None;
            return;
        }
        if self.topics.is_some() {
            return;
        }
        let queue = SessionQueue::Durable(POLL_QUEUE.into());
        match attach(&self.shared, &self.principal, &self.agent, Inbox::Closed, queue).await {
            Ok(attached) => self.topics = Some(attached),
            // Topic messages wait in their queue; the next session tries again.
            Err(error) => {
                tracing::warn!(agent_id = %self.agent, %error, "the topics of an HTTP session were not attached")
            }
        }
    }

    /// Ends every wait with the reason; what is out goes back to its queues with the session.
    fn say_goodbye(&mut self, reason: Goodbye) -> FabricError {
        let error = match reason {
            Goodbye::Draining => FabricError::Draining,
            Goodbye::AgentRemoved => FabricError::UnknownAgent(self.agent.clone()),
            Goodbye::Kicked | Goodbye::SlowConsumer | Goodbye::TakenOver => FabricError::SessionClosed,
        };
        for (_, waiting) in self.polls.drain() {
            // A client that is gone needs no reason.
            let _ = waiting.reply.send(Err(error.clone()));
        }
        self.streams.clear();
        error
    }
}

const fn too_many(full: DeskFull) -> FabricError {
    FabricError::TooMany {
        what: full.what,
        max: full.max,
    }
}
