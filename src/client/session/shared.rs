//! What the caller's side of a session and its driver share: queues, what is unanswered, counters.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst},
    },
    time::Instant,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::{Acks, Inbox, SessionOptions, SessionState, SessionStats};
use crate::{
    client::{
        Accepted, Delivery, DeliveryId, Error, Received, Refusal, SettleOutcome, message::is_durable, settle::Settler,
        unary::outcomes,
    },
    frame::{Address, AgentId, Run},
    native::control::ResumeKey,
    rpc::{convert::FieldError, v1},
    time::monotonic,
};

/// Messages queued and not taken by the writer yet; [`super::Session::send`] waits beyond it.
const SEND_QUEUE_MESSAGES: usize = 1024;
/// Runs of messages queued and not taken by the writer yet, 64 KiB each: [`super::Session::send_run`] waits beyond it.
const SEND_QUEUE_RUNS: usize = 16;
/// Acknowledgements and the like queued and not taken by the writer yet; their calls wait beyond it.
const CONTROL_QUEUE_ITEMS: usize = 4096;
/// Requests of a session that wait for replies; further ones are refused.
const REQUESTS_MAX: usize = 4096;

pub(super) type Waiter<T> = oneshot::Sender<Result<T, Error>>;

/// What is on its way to the writer.
#[derive(Debug)]
pub(super) enum Queued {
    One(Box<QueuedMessage>),
    /// QoS 0 messages.
    Run {
        run: Run,
        /// Given back once the writer takes the run.
        _room: OwnedSemaphorePermit,
    },
}

/// A message on its way to the writer.
#[derive(Debug)]
pub(super) struct QueuedMessage {
    pub message: v1::Message,
    /// `None` at QoS 0.
    pub waiter: Option<Waiter<Accepted>>,
}

impl Queued {
    /// QoS 0 messages among it.
    fn undurable(&self) -> usize {
        match self {
            Self::One(one) => usize::from(!is_durable(&one.message)),
            Self::Run { run, .. } => run.frames(),
        }
    }
}

/// A message that was written, or will be again, and has no answer yet.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub message: v1::Message,
    pub waiter: Option<Waiter<Accepted>>,
    /// When it was first written; `None`: never yet.
    pub first_sent: Option<Instant>,
}

/// What a caller wants of the stream besides sending.
#[derive(Debug)]
pub(super) enum Control {
    Settle {
        epoch: u64,
        id: DeliveryId,
        /// `None`: acknowledge.
        refusal: Option<Refusal>,
        done: Option<Waiter<()>>,
    },
    Subscribe {
        filters: Vec<String>,
        done: Waiter<()>,
    },
    Unsubscribe {
        filters: Vec<String>,
        done: Waiter<()>,
    },
    Credit {
        messages: u32,
        bytes: u64,
    },
}

/// A change of subscriptions that is under way.
#[derive(Debug)]
pub(super) struct Subscribing {
    pub add: Vec<String>,
    pub remove: Vec<String>,
    pub done: Waiter<()>,
}

/// What is guarded together.
#[derive(Debug, Default)]
pub(super) struct Inner {
    /// The connection's number; a writer of an earlier one finds itself outdated.
    pub epoch: u64,
    /// Grows over reconnects: a message keeps its tag.
    pub next_tag: u64,
    /// By tag, which is the order of sending. At most `unanswered_max` and, after a loss, the send queue.
    pub unanswered: BTreeMap<u64, Unanswered>,
    /// Settles under way, by tag. Bounded by the window: each delivery is settled once.
    pub settling: HashMap<u64, Vec<Option<Waiter<()>>>>,
    pub subscribing: HashMap<u64, Subscribing>,
    pub filters: BTreeSet<String>,
    pub window: (u32, u64),
    pub reply_address: Option<Address>,
    /// What the node knows the last connection's session by (QUIC); none before the first.
    pub resume: ResumeKey,
    replies: HashMap<Bytes, oneshot::Sender<Received>>,
}

/// Counters of [`SessionStats`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    sent: AtomicU64,
    resent: AtomicU64,
    answered: AtomicU64,
    dropped: AtomicU64,
    received: AtomicU64,
    received_dropped: AtomicU64,
    reconnects: AtomicU64,
}

impl Counters {
    pub fn sent(&self, messages: usize) {
        self.sent.fetch_add(messages as u64, Relaxed);
    }
    pub fn resent(&self, messages: usize) {
        self.resent.fetch_add(messages as u64, Relaxed);
    }
    pub fn dropped(&self, messages: usize) {
        self.dropped.fetch_add(messages as u64, Relaxed);
    }
    pub fn received(&self, messages: usize) {
        self.received.fetch_add(messages as u64, Relaxed);
    }
    pub fn received_dropped(&self, messages: usize) {
        self.received_dropped.fetch_add(messages as u64, Relaxed);
    }
    pub fn reconnected(&self) {
        self.reconnects.fetch_add(1, Relaxed);
    }
}

/// Both sides' view of a session.
pub(in crate::client) struct Shared {
    agent: AgentId,
    pub(super) options: SessionOptions,
    sends: (flume::Sender<Queued>, flume::Receiver<Queued>),
    /// One for each run in `sends`.
    runs: Arc<Semaphore>,
    controls: (flume::Sender<Control>, flume::Receiver<Control>),
    inner: Mutex<Inner>,
    /// Wakes the writer. Registered under the lock of `inner`, so that an outdated writer never stands in for the current one.
    pub(super) writer: AtomicWaker,
    pub(super) state: watch::Sender<SessionState>,
    pub(super) counters: Counters,
    /// Requests that wait for replies; read for each delivery, so that without any the lock is not taken.
    replies_expected: AtomicUsize,
    /// Set once: nothing more is taken to be sent.
    closing: AtomicBool,
    /// Set once: nothing is written any more.
    closed: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(agent: AgentId, options: SessionOptions) -> Self {
        let window = (options.window_messages, options.window_bytes);
        Self {
            agent,
            options,
            sends: flume::bounded(SEND_QUEUE_MESSAGES),
            runs: Arc::new(Semaphore::new(SEND_QUEUE_RUNS)),
            controls: flume::bounded(CONTROL_QUEUE_ITEMS),
            inner: Mutex::new(Inner {
                next_tag: 1,
                window,
                ..Inner::default()
            }),
            writer: AtomicWaker::new(),
            state: watch::Sender::new(SessionState::Connecting),
            counters: Counters::default(),
            replies_expected: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    pub(in crate::client) fn agent(&self) -> &AgentId {
        &self.agent
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("nothing that holds this lock panics: it only moves values between maps")
    }

    // --- the caller's side -------------------------------------------------------------------------------------------

    pub(super) fn check_open(&self) -> Result<(), Error> {
        if self.closing.load(SeqCst) || self.closed.load(SeqCst) {
            return Err(self.closed_error());
        }
        Ok(())
    }

    pub(super) fn check_attachable(&self) -> Result<(), Error> {
        self.check_open()?;
        match self.options.inbox {
            Inbox::Open | Inbox::Closed => Ok(()),
            Inbox::Unattached => Err(FieldError::new("inbox", "is `Unattached`: this session sends only").into()),
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(*self.state.borrow(), SessionState::Connected { .. })
    }

    /// Waits for room and queues a message. Where the session ends meanwhile, its waiter is told so.
    pub(super) async fn enqueue(&self, queued: Queued) {
        let sent = self.sends.0.send_async(queued).await;
        debug_assert!(sent.is_ok(), "this very struct keeps a receiver");
        if self.closed.load(SeqCst) {
            // The driver is gone and may have emptied the queue before this message came in.
            self.fail_queued();
        }
        self.writer.wake();
    }

    /// [`Shared::enqueue`] for a run.
    pub(super) async fn enqueue_run(&self, run: Run) {
        let room = Arc::clone(&self.runs).acquire_owned().await;
        let _room = room.expect("this very struct keeps the semaphore open");
        self.enqueue(Queued::Run { run, _room }).await;
    }

    pub(super) async fn control(&self, control: Control) -> Result<(), Error> {
        let sent = self.controls.0.send_async(control).await;
        debug_assert!(sent.is_ok(), "this very struct keeps a receiver");
        if self.closed.load(SeqCst) {
            self.fail_queued();
            return Err(self.closed_error());
        }
        self.writer.wake();
        Ok(())
    }

    pub(in crate::client) async fn settle(
        &self,
        epoch: u64,
        id: DeliveryId,
        refusal: Option<Refusal>,
    ) -> Result<(), Error> {
        let (done, outcome) = oneshot::channel();
        let done = Some(done);
        self.control(Control::Settle {
            epoch,
            id,
            refusal,
            done,
        })
        .await?;
        outcome.await.unwrap_or_else(|_| Err(self.lost_error()))
    }

    pub(in crate::client) async fn ack_unconfirmed(&self, epoch: u64, id: DeliveryId) -> Result<(), Error> {
        let ack = Control::Settle {
            epoch,
            id,
            refusal: None,
            done: None,
        };
        self.control(ack).await
    }

    /// Takes a delivery out for the caller: false where it came by a connection that is lost, so that it comes again.
    pub(super) async fn take(&self, delivery: &Delivery) -> bool {
        if self.is_void(delivery) {
            return false;
        }
        if self.options.acks == Acks::Auto {
            // A session that is over has given its deliveries back: the caller has one that comes again.
            let _ = delivery.ack_unconfirmed().await;
        }
        true
    }

    fn is_void(&self, delivery: &Delivery) -> bool {
        match (delivery.delivery_id(), delivery.settler()) {
            (Some(_), Settler::Session { epoch, .. }) => *epoch != self.lock().epoch,
            _ => false,
        }
    }

    pub(super) fn expect_reply(&self, correlation: Bytes) -> Result<oneshot::Receiver<Received>, Error> {
        let mut inner = self.lock();
        if inner.replies.len() >= REQUESTS_MAX {
            let detail = format!("are too many: {REQUESTS_MAX} wait for replies already");
            return Err(FieldError::new("requests", detail).into());
        }
        let (reply, waiting) = oneshot::channel();
        inner.replies.insert(correlation, reply);
        self.replies_expected.store(inner.replies.len(), SeqCst);
        Ok(waiting)
    }

    pub(super) fn forget_reply(&self, correlation: &Bytes) {
        let mut inner = self.lock();
        inner.replies.remove(correlation);
        self.replies_expected.store(inner.replies.len(), SeqCst);
    }

    pub(super) fn begin_close(&self) {
        self.closing.store(true, SeqCst);
        self.writer.wake();
    }

    pub(super) fn stats(&self) -> SessionStats {
        let counters = &self.counters;
        SessionStats {
            sent: counters.sent.load(Relaxed),
            resent: counters.resent.load(Relaxed),
            answered: counters.answered.load(Relaxed),
            dropped: counters.dropped.load(Relaxed),
            received: counters.received.load(Relaxed),
            received_dropped: counters.received_dropped.load(Relaxed),
            reconnects: counters.reconnects.load(Relaxed),
            unanswered: self.lock().unanswered.len(),
        }
    }

    pub(super) fn closed_error(&self) -> Error {
        match &*self.state.borrow() {
            SessionState::Closed { reason } => Error::closed(reason.clone()),
            _ => Error::closed("its owner is closing it"),
        }
    }

    pub(super) fn lost_error(&self) -> Error {
        match &*self.state.borrow() {
            SessionState::Closed { reason } => Error::closed(reason.clone()),
            SessionState::Reconnecting { cause, .. } => Error::Lost { cause: cause.clone() },
            SessionState::Connecting | SessionState::Connected { .. } => Error::Lost {
                cause: "the connection was replaced".into(),
            },
        }
    }

    // --- the driver's side -------------------------------------------------------------------------------------------

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(SeqCst)
    }

    /// Nothing is left to be written or answered.
    pub(super) fn is_drained(&self) -> bool {
        self.sends.1.is_empty() && self.lock().unanswered.is_empty()
    }

    pub(super) fn next_queued(&self) -> Option<Queued> {
        self.sends.1.try_recv().ok()
    }

    pub(super) fn next_control(&self) -> Option<Control> {
        self.controls.1.try_recv().ok()
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.sends.1.is_empty() || !self.controls.1.is_empty()
    }

    /// Acknowledges without waiting: where the control queue is full, the delivery stays unsettled and comes again.
    pub(super) fn try_ack(&self, epoch: u64, id: DeliveryId) {
        let ack = Control::Settle {
            epoch,
            id,
            refusal: None,
            done: None,
        };
        if self.controls.0.try_send(ack).is_ok() {
            self.writer.wake();
        }
    }

    /// The caller who waits for this message as a reply, where one does.
    pub(super) fn reply_waiter(&self, correlation: &[u8]) -> Option<oneshot::Sender<Received>> {
        if self.replies_expected.load(SeqCst) == 0 || correlation.is_empty() {
            return None;
        }
        let mut inner = self.lock();
        let waiter = inner.replies.remove(correlation);
        self.replies_expected.store(inner.replies.len(), SeqCst);
        waiter
    }

    pub(in crate::client) fn answer(&self, receipts: Vec<v1::Receipt>) {
        let mut answered = Vec::with_capacity(receipts.len());
        {
            let mut inner = self.lock();
            for receipt in receipts {
                // A tag that is not waited for: a QoS 0 message that was refused, or an answer that came twice.
                if let Some(unanswered) = inner.unanswered.remove(&receipt.tag) {
                    answered.push((unanswered.waiter, receipt));
                }
            }
        }
        self.counters.answered.fetch_add(answered.len() as u64, Relaxed);
        for (waiter, receipt) in answered {
            if let Some(waiter) = waiter {
                // The caller may have dropped its handle.
                let _ = waiter.send(Accepted::from_receipt(receipt));
            }
        }
        self.writer.wake();
    }

    pub(super) fn settled(&self, settled: v1::Settled) {
        let Some(waiters) = self.lock().settling.remove(&settled.tag) else {
            return;
        };
        let outcomes = outcomes(waiters.len(), settled.failures);
        for (waiter, outcome) in waiters.into_iter().zip(outcomes) {
            if let Some(waiter) = waiter {
                let _ = waiter.send(outcome.into_result());
            }
        }
    }

    pub(super) fn subscribed(&self, tag: u64, problem: Option<v1::Problem>) {
        let mut inner = self.lock();
        let Some(subscribing) = inner.subscribing.remove(&tag) else {
            return;
        };
        let outcome = match problem {
            Some(problem) => Err(problem.into()),
            None => {
                for filter in &subscribing.remove {
                    inner.filters.remove(filter);
                }
                inner.filters.extend(subscribing.add);
                Ok(())
            }
        };
        let _ = subscribing.done.send(outcome);
    }

    /// Begins a connection: outdates the writer of the one before and gives up what only that one could have answered.
    pub(super) fn begin_epoch(&self) -> u64 {
        self.end_epoch();
        let mut inner = self.lock();
        inner.reply_address = None;
        inner.settling.clear();
        inner.subscribing.clear();
        inner.replies.clear();
        self.replies_expected.store(0, SeqCst);
        self.keep_durable(&mut inner);
        inner.epoch
    }

    /// Ends what still writes for the connection before: a stream that is left open keeps its session on the server, which is
    /// delivered to and never reads.
    pub(super) fn end_epoch(&self) {
        self.lock().epoch += 1;
        self.writer.wake();
    }

    /// Moves what is queued behind what is unanswered; QoS 0 is dropped and counted.
    fn keep_durable(&self, inner: &mut Inner) {
        let mut dropped = 0;
        // Bounded by what is there now: callers may go on queueing.
        for _ in 0..self.sends.1.len() {
            let Some(queued) = self.next_queued() else { break };
            match queued {
                Queued::One(one) if is_durable(&one.message) => {
                    let tag = inner.next_tag;
                    inner.next_tag += 1;
                    let unanswered = Unanswered {
                        message: one.message,
                        waiter: one.waiter,
                        first_sent: None,
                    };
                    inner.unanswered.insert(tag, unanswered);
                }
                undurable => dropped += undurable.undurable(),
            }
        }
        self.counters.dropped(dropped);
    }

    /// Gives up messages that were first written too long ago to be sent again without a danger of being taken twice.
    pub(super) fn give_up_old(&self, age_max: std::time::Duration) {
        let now = monotonic();
        let mut inner = self.lock();
        let is_old = |sent: Option<Instant>| sent.is_some_and(|sent| now.saturating_duration_since(sent) > age_max);
        let old: Vec<u64> = inner
            .unanswered
            .iter()
            .filter(|(_, unanswered)| is_old(unanswered.first_sent))
            .map(|(tag, _)| *tag)
            .collect();
        for tag in old {
            if let Some(waiter) = inner.unanswered.remove(&tag).and_then(|unanswered| unanswered.waiter) {
                let _ = waiter.send(Err(self.lost_error()));
            }
        }
    }

    /// Ends the session for everyone who waits on it.
    pub(super) fn finish(&self, reason: &str) {
        self.state.send_if_modified(|state| {
            let open = !matches!(state, SessionState::Closed { .. });
            if open {
                *state = SessionState::Closed { reason: reason.into() };
            }
            open
        });
        self.closed.store(true, SeqCst);
        let mut inner = self.lock();
        inner.reply_address = None;
        inner.unanswered.clear();
        inner.settling.clear();
        inner.subscribing.clear();
        inner.replies.clear();
        drop(inner);
        self.end_epoch();
        self.fail_queued();
    }

    /// Dropping the waiters tells them: the state says why.
    fn fail_queued(&self) {
        let dropped = self.sends.1.drain().map(|queued| queued.undurable()).sum();
        self.counters.dropped(dropped);
        self.controls.1.drain().for_each(drop);
    }
}

impl From<Result<(), Error>> for SettleOutcome {
    fn from(result: Result<(), Error>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(Error::Stale) => Self::Stale,
            Err(error) => Self::Failed(error),
        }
    }
}

/// The settler of deliveries that come by one connection.
pub(super) fn settler(shared: &Arc<Shared>, epoch: u64) -> Settler {
    Settler::Session {
        shared: Arc::clone(shared),
        epoch,
    }
}
