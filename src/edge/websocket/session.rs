//! One session from its welcome to its goodbye: one task, which reads operations, hands them to the door, and writes whatever
//! waits in one flush per wake-up.
//!
//! Knows neither HTTP nor the handshake. Start at [`Session::run`].

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tungstenite::protocol::frame::coding::CloseCode;

use super::{
    Config,
    codec::{Incoming, Violation},
    event,
    operation::{Operation, Reference, Request},
    outbox::{Answered, Outbox},
    socket::{FlushError, Socket},
};
use crate::{
    edge::{
        counters::Counters,
        json::{Problem, SendDefaults},
    },
    frame::TraceContext,
    router::{
        Fabric, SessionHandle, SessionReceiver,
        error::FabricError,
        surface::{Delivery, Goodbye, Principal, SessionEvent, Window},
    },
    time::monotonic,
};

/// Deliveries taken from the lane at once.
const DELIVERIES_MAX: usize = 256;
/// Bytes gathered before they are flushed although more waits.
const GATHERED_BYTES_MAX: usize = 256 * 1024;
/// Acknowledgements and refusals that may wait for their commit; above it the session stops reading.
const SETTLES_MAX: usize = 256;
/// Pings without a sign of life in between after which the client counts as gone.
const MISSED_PONGS_MAX: u32 = 2;
/// How long a session that the client ended may still hand over what the client had sent.
const FINISH: Duration = Duration::from_secs(5);
/// Sessions that the node ends together come back within this many seconds, not all at once.
const RECONNECT_SPREAD_SECONDS: u64 = 10;

/// Why a session is over.
#[derive(Debug)]
enum End {
    /// The client closed it.
    Client,
    /// The connection broke; there is nobody to tell.
    Broken(io::Error),
    /// The client broke the protocol.
    Violation(Violation),
    /// The client did not read what it was sent.
    SlowConsumer,
    /// The client did not finish a message that it began.
    SlowSender,
    /// The client showed no sign of life.
    Silent,
    /// The fabric ends it.
    Fabric(Goodbye),
}

impl From<FlushError> for End {
    fn from(error: FlushError) -> Self {
        match error {
            FlushError::Stalled => Self::SlowConsumer,
            FlushError::Io(error) => Self::Broken(error),
        }
    }
}

impl From<Violation> for End {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// What an operation that took time has to say: the text of its answer, where somebody waits for one.
type Done = Option<Vec<u8>>;

/// What a wake-up was for.
enum Wake {
    Read(io::Result<usize>),
    Fabric(SessionEvent),
    Answers,
    Settled(Option<Done>),
    Beat,
}

/// Whether what was read may be worked on now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Intake {
    Open,
    /// Something that came before has to finish first.
    Held,
}

/// One session.
pub(super) struct Session<I> {
    fabric: Fabric,
    config: Arc<Config>,
    counters: Arc<Counters>,
    handle: SessionHandle,
    socket: Socket<I>,
    outbox: Outbox,
    /// Acknowledgements, refusals and subscriptions that wait for their commit.
    settles: FuturesUnordered<BoxFuture<'static, Done>>,
    /// A change of subscriptions is under way: the next operation waits, so that changes take effect in their order.
    is_subscribing: bool,
    /// Something was read since the last ping.
    heard: bool,
    missed_pongs: u32,
    /// Since when a message has been arriving.
    message_since: Option<Instant>,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Session<I> {
    pub(super) fn new(
        fabric: Fabric,
        config: Arc<Config>,
        counters: Arc<Counters>,
        handle: SessionHandle,
        socket: Socket<I>,
    ) -> Self {
        // Whoever attached as an agent sends as that agent, in development mode too.
        let principal = Principal::Agent(handle.agent().clone());
        Self {
            outbox: Outbox::new(fabric.clone(), principal),
            fabric,
            config,
            counters,
            handle,
            socket,
            settles: FuturesUnordered::new(),
            is_subscribing: false,
            heard: true,
            missed_pongs: 0,
            message_since: None,
        }
    }

    /// Runs the session to its end. What was handed out and not settled then goes back to its queues.
    pub(super) async fn run(mut self, mut receiver: SessionReceiver) {
        let end = match self.serve(&mut receiver).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        if matches!(end, End::Client | End::Violation(_)) {
            // What the client sent before still counts.
            let _ = timeout(FINISH, self.finish()).await;
        }
        // Before the farewell: another session may have the messages while this one waits for its client.
        drop(receiver);
        self.handle.close();
        self.part(end).await;
    }

    async fn serve(&mut self, receiver: &mut SessionReceiver) -> Result<std::convert::Infallible, End> {
        let mut beat = heartbeat(self.config.heartbeat_interval()).await;
        self.welcome();
        let (mut deliveries, mut answers) = (Vec::new(), Vec::new());
        loop {
            while self.work_on_input()? == Intake::Held && self.socket.gathered() > 0 {
                self.flush().await?;
            }
            self.flush().await?;
            let intake = self.intake();
            let wake = tokio::select! {
                read = self.socket.fill(), if intake == Intake::Open => Wake::Read(read),
                event = receiver.next(&mut deliveries, DELIVERIES_MAX) => Wake::Fabric(event),
                () = self.outbox.progress(&mut answers) => Wake::Answers,
                done = self.settles.next(), if !self.settles.is_empty() => Wake::Settled(done),
                _ = beat.tick() => Wake::Beat,
            };
            match wake {
                Wake::Read(read) => self.was_read(read)?,
                Wake::Answers => {}
                Wake::Settled(done) => self.settled(done.flatten()),
                Wake::Beat => self.beat()?,
                Wake::Fabric(SessionEvent::Deliveries) => {}
                Wake::Fabric(SessionEvent::Goodbye(goodbye)) => {
                    self.deliver(&mut deliveries).await?;
                    return Err(End::Fabric(goodbye));
                }
            }
            // Whatever else is there already goes out with the same flush.
            self.outbox.ready(&mut answers);
            self.answer(&mut answers);
            while let Some(Some(done)) = self.settles.next().now_or_never() {
                self.settled(done);
            }
            let room = DELIVERIES_MAX.saturating_sub(deliveries.len());
            receiver.try_next(&mut deliveries, room);
            self.deliver(&mut deliveries).await?;
        }
    }

    fn welcome(&mut self) {
        let limits = self.fabric.config();
        let mut text = Vec::new();
        let welcome = event::Welcome {
            agent_id: self.handle.agent().as_str(),
            node: &limits.node_id,
            heartbeat_interval: self.config.heartbeat_interval().as_secs_f64(),
            credit: limits.in_flight_messages_max,
            limits: event::Limits {
                max_message_size: limits.message_bytes_max,
                max_operation_size: super::operation_bytes_max(limits.message_bytes_max),
                max_bytes_in_flight: limits.in_flight_bytes_max,
                max_unanswered_sends: self.config.unanswered_sends_max,
            },
            reply_address: self.handle.reply_address().as_str(),
        };
        event::welcome(&welcome, &mut text);
        self.socket.text(&text);
    }

    // --- what the client sends -----------------------------------------------------------------------------------

    /// The client is read on only while everything that it asked for fits its bounds: that is its back-pressure.
    fn intake(&self) -> Intake {
        let is_full = self.outbox.unanswered() >= self.config.unanswered_sends_max
            || self.settles.len() >= SETTLES_MAX
            || self.is_subscribing;
        if is_full || !self.outbox.is_handed_over() {
            return Intake::Held;
        }
        Intake::Open
    }

    fn was_read(&mut self, read: io::Result<usize>) -> Result<(), End> {
        match read {
            Ok(0) => Err(End::Client),
            Ok(bytes) => {
                Counters::add(&self.counters.bytes_in, bytes);
                self.heard = true;
                Ok(())
            }
            Err(error) => Err(End::Broken(error)),
        }
    }

    /// Works on the whole messages among what was read, as far as bounds allow.
    fn work_on_input(&mut self) -> Result<Intake, End> {
        while !self.is_held_back() {
            match self.socket.next()? {
                Some(Incoming::Text(text)) => self.operate(&text),
                // Binary messages are refused before they are whole.
                Some(Incoming::Binary(_) | Incoming::Ping | Incoming::Pong) => {}
                Some(Incoming::Close) => return Err(End::Client),
                None => {
                    let is_arriving = self.socket.is_mid_message();
                    self.message_since = is_arriving.then(|| self.message_since.unwrap_or_else(monotonic));
                    return Ok(Intake::Open);
                }
            }
        }
        // What is left may be whole: its sender is not the slow one.
        self.message_since = None;
        Ok(Intake::Held)
    }

    /// Like [`Session::intake`], but the messages of one read may still gather into one batch for the door.
    fn is_held_back(&self) -> bool {
        self.outbox.unanswered() >= self.config.unanswered_sends_max
            || self.settles.len() >= SETTLES_MAX
            || self.is_subscribing
            || self.socket.gathered() > GATHERED_BYTES_MAX
    }

    fn operate(&mut self, text: &bytes::Bytes) {
        let fabric = &self.fabric;
        let defaults = SendDefaults {
            from: Some(self.handle.agent()),
            message_id: None,
            trace: TraceContext::default(),
            new_message_id: &|| fabric.new_message_id(),
        };
        let Request { reference, operation } = Request::read(text, defaults);
        let refused = match operation {
            Ok(operation) => self.start(reference.as_ref(), operation).err(),
            Err(problem) => Some(problem),
        };
        if let Some(problem) = refused {
            self.refuse(reference.as_ref(), &problem);
        }
    }

    fn start(&mut self, reference: Option<&Reference>, operation: Operation) -> Result<(), Problem> {
        let (handle, reference) = (self.handle.clone(), reference.cloned());
        match operation {
            Operation::Send(request) => {
                Counters::add(&self.counters.messages_in, 1);
                self.outbox.push(reference.as_ref(), *request)?;
            }
            Operation::Ack(ids) => match reference {
                None => handle.ack_unanswered(ids),
                Some(reference) => self.settles.push(Box::pin(async move {
                    let settled = handle.ack(&ids).await;
                    Some(said(|into| {
                        event::settled(&reference, &ids, &settled, "acknowledged", into)
                    }))
                })),
            },
            Operation::Nack(ids, refusal) => self.settles.push(Box::pin(async move {
                let settled = handle.nack(&ids, refusal).await;
                let reference = reference?;
                Some(said(|into| event::settled(&reference, &ids, &settled, "refused", into)))
            })),
            Operation::Subscribe(topics) => {
                self.subscribing(async move { subscribed(reference, handle.subscribe(topics).await) }.boxed());
            }
            Operation::Unsubscribe(topics) => {
                self.subscribing(async move { subscribed(reference, handle.unsubscribe(topics).await) }.boxed());
            }
            Operation::Credit(window) => {
                handle.set_window(capped(window, &self.fabric));
                if let Some(reference) = reference {
                    self.socket.text(&said(|into| event::done(&reference, into)));
                }
            }
        }
        Ok(())
    }

    fn subscribing(&mut self, change: BoxFuture<'static, Done>) {
        self.is_subscribing = true;
        self.settles.push(change);
    }

    fn settled(&mut self, done: Done) {
        // A change of subscriptions holds back whatever came after it, so the end of all settles is its end too.
        self.is_subscribing &= !self.settles.is_empty();
        if let Some(text) = done {
            self.socket.text(&text);
        }
    }

    // --- what the client is sent ---------------------------------------------------------------------------------

    fn refuse(&mut self, reference: Option<&Reference>, problem: &Problem) {
        Counters::add(&self.counters.errors, 1);
        self.socket.text(&said(|into| event::error(reference, problem, into)));
    }

    fn answer(&mut self, answers: &mut Vec<Answered>) {
        for answered in std::mem::take(answers) {
            self.counters
                .latencies
                .record(monotonic().saturating_duration_since(answered.since));
            match &answered.result {
                Ok(receipt) => {
                    let text = said(|into| event::receipt(answered.reference.as_ref(), receipt, into));
                    self.socket.text(&text);
                }
                Err(problem) => self.refuse(answered.reference.as_ref(), problem),
            }
        }
    }

    async fn deliver(&mut self, deliveries: &mut Vec<Delivery>) -> Result<(), End> {
        let mut text = Vec::new();
        // Taken, so that an idle session keeps no room for deliveries.
        for delivery in std::mem::take(deliveries) {
            text.clear();
            event::message(&delivery, &mut text);
            self.socket.text(&text);
            Counters::add(&self.counters.messages_out, 1);
            if self.socket.gathered() > GATHERED_BYTES_MAX {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), End> {
        let bytes = self.socket.flush(self.config.slow_consumer_timeout()).await?;
        Counters::add(&self.counters.bytes_out, bytes);
        Ok(())
    }

    fn beat(&mut self) -> Result<(), End> {
        // A session that is held back reads no pong either.
        if std::mem::take(&mut self.heard) || self.intake() == Intake::Held {
            self.missed_pongs = 0;
        } else {
            self.missed_pongs += 1;
        }
        if self.missed_pongs >= MISSED_PONGS_MAX {
            return Err(End::Silent);
        }
        let since = self
            .message_since
            .map(|since| monotonic().saturating_duration_since(since));
        if since.is_some_and(|since| since > self.config.receive_timeout()) {
            return Err(End::SlowSender);
        }
        self.socket.ping();
        Ok(())
    }

    // --- the end -------------------------------------------------------------------------------------------------

    /// Hands over what the client had sent before it closed; the answers go nowhere.
    async fn finish(&mut self) {
        let mut answers = Vec::new();
        while !self.outbox.is_handed_over() {
            self.outbox.progress(&mut answers).await;
        }
        while self.settles.next().await.is_some() {}
    }

    /// Says goodbye as far as there is somebody to say it to, and closes.
    async fn part(mut self, end: End) {
        let Some((farewell, code)) = farewell(&end, self.handle.id().0) else {
            if let End::Broken(error) = &end {
                tracing::debug!(agent = %self.handle.agent(), %error, "a WebSocket connection broke");
            }
            // The answer to the client's close frame is what there is to flush.
            if matches!(end, End::Client) && self.flush().await.is_ok() {
                self.socket.linger().await;
            }
            return;
        };
        Counters::add(&self.counters.errors, usize::from(!matches!(end, End::Fabric(_))));
        tracing::info!(agent = %self.handle.agent(), reason = farewell.reason, "a WebSocket session ends");
        self.socket.text(&said(|into| event::goodbye(&farewell, into)));
        let reason = farewell.detail.unwrap_or(farewell.reason);
        self.socket.close(code, reason);
        if self.flush().await.is_ok() {
            self.socket.linger().await;
        }
    }
}

/// The ticks of a heartbeat, the first of them one period from now.
async fn heartbeat(period: Duration) -> Interval {
    let mut beat = interval(period);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat.tick().await;
    beat
}

fn said(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut text = Vec::new();
    write(&mut text);
    text
}

fn subscribed(reference: Option<Reference>, result: Result<(), FabricError>) -> Done {
    match (result, reference) {
        (Ok(()), reference) => reference.map(|reference| said(|into| event::done(&reference, into))),
        (Err(error), reference) => Some(said(|into| event::error(reference.as_ref(), &error.into(), into))),
    }
}

fn capped(window: Window, fabric: &Fabric) -> Window {
    let limits = fabric.config();
    Window {
        messages: window.messages.min(limits.in_flight_messages_max),
        bytes: window.bytes.min(limits.in_flight_bytes_max),
    }
}

/// What a client is told at the end; `None` where it closed itself or is gone.
fn farewell(end: &End, session: u64) -> Option<(event::Farewell, CloseCode)> {
    let soon = Some(1 + session % RECONNECT_SPREAD_SECONDS);
    let (reason, detail, reconnect_after, code) = match end {
        End::Client | End::Broken(_) => return None,
        End::Violation(violation) => ("protocol_error", Some(violation.detail()), None, violation.close_code()),
        End::SlowConsumer => ("slow_consumer", None, soon, CloseCode::Policy),
        End::SlowSender => (
            "slow_sender",
            Some("a message did not arrive whole in time"),
            soon,
            CloseCode::Policy,
        ),
        End::Silent => ("heartbeat_timeout", None, Some(0), CloseCode::Policy),
        End::Fabric(goodbye) => match goodbye {
            Goodbye::Draining => (goodbye.name(), None, soon, CloseCode::Restart),
            Goodbye::SlowConsumer => (goodbye.name(), None, soon, CloseCode::Policy),
            Goodbye::AgentRemoved | Goodbye::Kicked | Goodbye::TakenOver => {
                (goodbye.name(), None, None, CloseCode::Policy)
            }
        },
    };
    let farewell = event::Farewell {
        reason,
        detail,
        reconnect_after,
    };
    Some((farewell, code))
}

#[cfg(test)]
mod tests {
    use hyper::upgrade::Upgraded;
    use hyper_util::rt::TokioIo;

    use super::*;

    fn future_bytes<I, F: Future>(_: fn(Session<I>, SessionReceiver) -> F) -> usize {
        size_of::<F>()
    }

    /// The task is what an idle session costs besides its socket and its place in the router.
    #[test]
    fn a_sessions_task_stays_within_3_kib() {
        let bytes = future_bytes::<TokioIo<Upgraded>, _>(Session::run);
        assert!(bytes <= 3 * 1024, "{bytes} bytes");
    }

    #[test]
    fn every_end_but_the_clients_own_is_said_with_a_reason_and_a_code() {
        let said =
            |end: &End| farewell(end, 13).map(|(farewell, code)| (farewell.reason, farewell.reconnect_after, code));
        assert_eq!(said(&End::Client), None);
        assert_eq!(said(&End::Broken(io::ErrorKind::ConnectionReset.into())), None);
        assert_eq!(
            said(&End::Violation(Violation::TooLarge)),
            Some(("protocol_error", None, CloseCode::Size))
        );
        assert_eq!(
            said(&End::SlowConsumer),
            Some(("slow_consumer", Some(4), CloseCode::Policy))
        );
        assert_eq!(
            said(&End::Fabric(Goodbye::Draining)),
            Some(("draining", Some(4), CloseCode::Restart))
        );
        assert_eq!(
            said(&End::Fabric(Goodbye::Kicked)),
            Some(("kicked", None, CloseCode::Policy))
        );
    }
}
