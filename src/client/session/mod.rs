//! A session: one long-lived stream to send and receive on, kept alive over lost connections.
//!
//! What is sent is batched without a timer: whatever queued up while the item before was written goes as one. QoS 1 and 2
//! messages are kept until they are answered and are sent again, in order and under the same ids, after a reconnect; the fabric
//! takes each once. QoS 0 messages are dropped and counted while there is no connection. Deliveries that a lost
//! connection brought are void: they come again. Start at [`Session`]; `driver` connects, `outbound` is what is written.

mod arrivals;
mod driver;
mod outbound;
mod runs;
mod shared;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use uuid::Uuid;

pub(super) use outbound::{Next, Outbound};
pub(super) use shared::Shared;

use super::{Accepted, Client, Delivery, Error, Message, Received, SettleOutcome};
use crate::{
    frame::{Address, AgentId, TopicFilter},
    rpc::{convert::FieldError, v1},
};
use arrivals::{Arrivals, Empty};
use runs::Runs;
use shared::{Control, Queued, QueuedMessage};

/// Filters of one call, in bytes: as many as a node takes of an agent at all. It would end the connection over a larger frame.
const FILTERS_BYTES_MAX: usize = 1024 * 1024;

/// Whether and how a session receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Inbox {
    /// Takes the agent's inbox messages, competing with its other sessions.
    #[default]
    Open,
    /// Only what the session subscribes to and replies to its own address.
    Closed,
    /// Receives nothing: the session sends only.
    Unattached,
}

/// Who acknowledges deliveries, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Acks {
    /// The caller, with [`Delivery::ack`].
    #[default]
    Manual,
    /// By itself: in a session when [`Session::recv`] hands the delivery over, in [`Client::receive`] when the node wrote
    /// it. A caller that dies while it works on a delivery then loses it.
    Auto,
}

impl Acks {
    pub(super) const fn to_proto(self) -> v1::AckMode {
        match self {
            Self::Manual => v1::AckMode::Manual,
            Self::Auto => v1::AckMode::Auto,
        }
    }
}

/// How a session comes back after its connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// The wait before the first attempt; it doubles with each further one. A random part of up to a half is taken off.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
    /// How long to keep trying before the session is closed; `None`: for ever.
    pub give_up_after: Option<Duration>,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            max: Duration::from_secs(30),
            give_up_after: None,
        }
    }
}

/// What a session is like. The default attaches to the inbox with manual acknowledgements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    pub inbox: Inbox,
    pub acks: Acks,
    /// Token of a durable queue for topic subscriptions, 1 to 64 of `[A-Za-z0-9._~-]`: they outlast the session.
    pub durable_queue: Option<String>,
    /// Messages that may be handed out and not settled yet; the node caps it (256).
    pub window_messages: u32,
    /// Bytes that may be handed out and not settled yet; the node caps it (1 MiB).
    pub window_bytes: u64,
    /// How long a delivery may stay unsettled before it comes back; `None`: as long as the session lasts.
    pub visibility_timeout: Option<Duration>,
    /// QoS 1 and 2 messages that may be sent and not answered yet; [`Session::send`] waits beyond it.
    pub unanswered_max: usize,
    pub reconnect: Reconnect,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            inbox: Inbox::Open,
            acks: Acks::Manual,
            durable_queue: None,
            window_messages: 256,
            window_bytes: 1024 * 1024,
            visibility_timeout: None,
            unanswered_max: 1024,
            reconnect: Reconnect::default(),
        }
    }
}

impl SessionOptions {
    /// Of a session that sends only.
    pub fn send_only() -> Self {
        Self {
            inbox: Inbox::Unattached,
            ..Self::default()
        }
    }
}

/// Where a session stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// The first connection is being made.
    Connecting,
    /// Attached, or, for a session that sends only, connected.
    Connected {
        /// The node's name; empty for a session that sends only.
        node: String,
    },
    /// The connection was lost; the next attempt is under way or waits.
    Reconnecting { attempt: u32, cause: String },
    /// Over: closed by its owner, by the fabric or by an error that a retry does not mend.
    Closed { reason: String },
}

/// What a session has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// Messages written, resent ones counted again.
    pub sent: u64,
    /// Of these, sent again after a reconnect.
    pub resent: u64,
    /// Messages that the fabric answered.
    pub answered: u64,
    /// QoS 0 messages dropped for want of a connection.
    pub dropped: u64,
    /// Deliveries received.
    pub received: u64,
    /// QoS 0 deliveries dropped because the caller did not receive while it waited for answers.
    pub received_dropped: u64,
    /// Connections made after the first.
    pub reconnects: u64,
    /// Messages sent and not answered yet.
    pub unanswered: usize,
}

/// A session. A clone is the same session; it ends when the last clone is dropped (what is queued is then lost: see
/// [`Session::close`]).
#[derive(Clone, Debug)]
pub struct Session(Arc<Owner>);

struct Owner {
    shared: Arc<Shared>,
    arrivals: Arc<Arrivals>,
    driver: JoinHandle<()>,
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("agent", self.shared.agent()).finish()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The fabric's answer to a message, once it comes. Dropping it does not take the message back.
#[derive(Debug)]
#[must_use = "the answer tells whether the message was taken"]
pub struct SendHandle(Handle);

#[derive(Debug)]
enum Handle {
    /// QoS 0: there is no answer to wait for.
    Ready(Option<Result<Accepted, Error>>),
    Waiting(oneshot::Receiver<Result<Accepted, Error>>, Arc<Shared>),
}

impl Future for SendHandle {
    type Output = Result<Accepted, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Handle::Ready(answer) => Poll::Ready(answer.take().unwrap_or_else(|| Ok(Accepted::unconfirmed()))),
            Handle::Waiting(answer, shared) => Pin::new(answer)
                .poll(cx)
                .map(|answer| answer.unwrap_or_else(|_| Err(shared.closed_error()))),
        }
    }
}

impl Client {
    /// Opens a session of an agent. Fails where the first attempt does; later losses are mended by reconnecting.
    pub async fn session(&self, agent: &AgentId, options: SessionOptions) -> Result<Session, Error> {
        let (shared, arrivals) = driver::open(self.clone(), agent.clone(), options).await?;
        let (shared, driver) = shared;
        Ok(Session(Arc::new(Owner {
            shared,
            arrivals,
            driver,
        })))
    }
}

impl Session {
    /// The session's agent.
    pub fn agent(&self) -> &AgentId {
        self.0.shared.agent()
    }

    /// `agent:ID#TOKEN`: what is sent here reaches this session. It changes with each reconnect; `None` without a connection.
    pub fn reply_address(&self) -> Option<Address> {
        self.0.shared.lock().reply_address.clone()
    }

    /// Queues a message; waits where the bounds of what is queued and unanswered are reached. The handle gives the fabric's answer.
    /// At QoS 0 there is none: the handle is ready at once.
    pub async fn send(&self, message: Message) -> Result<SendHandle, Error> {
        let shared = &self.0.shared;
        shared.check_open()?;
        if !message.is_durable() {
            return self.send_unanswered(message).await;
        }
        let (waiter, answer) = oneshot::channel();
        shared
            .enqueue(Queued::One(Box::new(QueuedMessage {
                message: message.0,
                waiter: Some(waiter),
            })))
            .await;
        Ok(SendHandle(Handle::Waiting(answer, Arc::clone(shared))))
    }

    async fn send_unanswered(&self, message: Message) -> Result<SendHandle, Error> {
        let shared = &self.0.shared;
        if !shared.is_connected() {
            shared.counters.dropped(1);
            return Ok(SendHandle(Handle::Ready(Some(Err(Error::Dropped)))));
        }
        shared
            .enqueue(Queued::One(Box::new(QueuedMessage {
                message: message.0,
                waiter: None,
            })))
            .await;
        Ok(SendHandle(Handle::Ready(None)))
    }

    /// Queues many QoS 0 messages that differ in nothing but their bodies, one for each, at a fraction of what as many calls of
    /// [`Session::send`] cost. What `message` says holds for all of them; each has a fresh id. Bodies are copied. Waits where the
    /// bounds of what is queued are reached; where it fails or is dropped, messages before are on their way.
    ///
    /// Fails where the message is not at most once, where something in it is not well-formed, and with [`Error::Dropped`] where
    /// there is no connection.
    pub async fn send_run<B: AsRef<[u8]>>(
        &self,
        message: Message,
        bodies: impl IntoIterator<Item = B>,
    ) -> Result<(), Error> {
        let shared = &self.0.shared;
        shared.check_open()?;
        if message.is_durable() {
            let detail = "is not at most once; send each such message by itself, as each has its own answer";
            return Err(FieldError::new("qos", detail).into());
        }
        let mut runs = Runs::new(message, self.agent());
        for body in bodies {
            if !shared.is_connected() {
                shared.counters.dropped(runs.gathered() + 1);
                return Err(Error::Dropped);
            }
            if let Some(run) = runs.add(body.as_ref())? {
                shared.enqueue_run(run).await;
            }
        }
        if let Some(run) = runs.finish() {
            shared.enqueue_run(run).await;
        }
        Ok(())
    }

    /// Sends a message to which another will reply, and waits for the reply. Its reply address and, where it has none, its
    /// correlation are set here. Needs an attached session.
    pub async fn request(&self, message: Message, patience: Duration) -> Result<Received, Error> {
        let shared = &self.0.shared;
        let reply_address = self.reply_address().ok_or(Error::Lost {
            cause: "the session is not attached".into(),
        })?;
        let mut message = message.reply_to(&reply_address);
        if message.0.correlation.is_empty() {
            message.0.correlation = Bytes::copy_from_slice(Uuid::now_v7().as_bytes());
        }
        let correlation = message.0.correlation.clone();
        let reply = shared.expect_reply(correlation.clone())?;
        let exchange = async {
            self.send(message).await?.await?;
            reply.await.map_err(|_| Error::Lost {
                cause: "the session's reply address went with its connection".into(),
            })
        };
        let outcome = timeout(patience, exchange).await;
        shared.forget_reply(&correlation);
        outcome.unwrap_or(Err(Error::Timeout(patience)))
    }

    /// Waits for a delivery. [`Error::Closed`] once the session is over and everything received was taken.
    pub async fn recv(&self) -> Result<Delivery, Error> {
        let Owner { shared, arrivals, .. } = &*self.0;
        loop {
            match arrivals.take_one() {
                Ok(delivery) => {
                    arrivals.pass_on();
                    if shared.take(&delivery).await {
                        return Ok(delivery);
                    }
                }
                Err(Empty::Closed) => return Err(shared.closed_error()),
                Err(Empty::Yet) => arrivals.wait().await,
            }
        }
    }

    /// Waits for deliveries and appends those that are there, at most `max`; returns how many.
    pub async fn recv_batch(&self, into: &mut Vec<Delivery>, max: usize) -> Result<usize, Error> {
        let Owner { shared, arrivals, .. } = &*self.0;
        let before = into.len();
        loop {
            match arrivals.take(into, max.max(1)) {
                Ok(_) => {
                    arrivals.pass_on();
                    let mut at = before;
                    while let Some(delivery) = into.get(at) {
                        if delivery.delivery_id().is_none() || shared.take(delivery).await {
                            at += 1;
                        } else {
                            into.remove(at);
                        }
                    }
                    if at > before {
                        return Ok(at - before);
                    }
                }
                Err(Empty::Closed) => return Err(shared.closed_error()),
                Err(Empty::Yet) => arrivals.wait().await,
            }
        }
    }

    /// Acknowledges many deliveries of this session; one outcome each, in order, once they are committed.
    pub async fn ack_all(&self, deliveries: &[Delivery]) -> Vec<SettleOutcome> {
        let acks = deliveries.iter().map(Delivery::ack);
        let outcomes = futures_util::future::join_all(acks).await;
        outcomes.into_iter().map(SettleOutcome::from).collect()
    }

    /// Subscribes the session's own queue to topics. Kept over reconnects.
    pub async fn subscribe(&self, filters: &[TopicFilter]) -> Result<(), Error> {
        self.change_subscriptions(filters, |filters, done| Control::Subscribe { filters, done })
            .await
    }

    /// Ends subscriptions.
    pub async fn unsubscribe(&self, filters: &[TopicFilter]) -> Result<(), Error> {
        self.change_subscriptions(filters, |filters, done| Control::Unsubscribe { filters, done })
            .await
    }

    async fn change_subscriptions(
        &self,
        filters: &[TopicFilter],
        control: fn(Vec<String>, oneshot::Sender<Result<(), Error>>) -> Control,
    ) -> Result<(), Error> {
        let shared = &self.0.shared;
        shared.check_attachable()?;
        let bytes: usize = filters.iter().map(|filter| filter.as_str().len()).sum();
        if bytes > FILTERS_BYTES_MAX {
            let detail = format!("have {bytes} bytes; at most {FILTERS_BYTES_MAX} are allowed in one call");
            return Err(FieldError::new("filters", detail).into());
        }
        let (done, outcome) = oneshot::channel();
        let filters = filters.iter().map(ToString::to_string).collect();
        shared.control(control(filters, done)).await?;
        outcome.await.unwrap_or_else(|_| Err(shared.lost_error()))
    }

    /// Grants an absolute window of deliveries; the node caps it. 0 messages pauses the session.
    pub async fn set_window(&self, messages: u32, bytes: u64) -> Result<(), Error> {
        let shared = &self.0.shared;
        shared.check_attachable()?;
        shared.lock().window = (messages, bytes);
        shared.control(Control::Credit { messages, bytes }).await
    }

    /// Where the session stands now.
    pub fn state(&self) -> SessionState {
        self.0.shared.state.borrow().clone()
    }

    /// Every change of where the session stands.
    pub fn states(&self) -> watch::Receiver<SessionState> {
        self.0.shared.state.subscribe()
    }

    /// What the session has done.
    pub fn stats(&self) -> SessionStats {
        self.0.shared.stats()
    }

    /// Takes nothing more to send, waits until everything queued is written and answered, and ends the session. After
    /// `patience` it ends regardless: [`Error::Timeout`], and what is unanswered is unknown.
    pub async fn close(self, patience: Duration) -> Result<(), Error> {
        let shared = &self.0.shared;
        let mut states = shared.state.subscribe();
        shared.begin_close();
        let closed = states.wait_for(|state| matches!(state, SessionState::Closed { .. }));
        let outcome = timeout(patience, closed).await;
        self.0.driver.abort();
        match outcome {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Timeout(patience)),
        }
    }
}

impl SessionOptions {
    fn check(&self) -> Result<(), FieldError> {
        if self.unanswered_max == 0 {
            return Err(FieldError::new(
                "unanswered_max",
                "is 0; at least 1 is needed to send anything",
            ));
        }
        Ok(())
    }
}
