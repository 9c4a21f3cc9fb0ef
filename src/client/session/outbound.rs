//! What a session writes: the stream of frames that the connection polls. Each poll takes what is queued by then, so that
//! batches grow with the load and an idle session sends at once.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio_stream::Stream;

use super::{
    Inbox,
    shared::{Control, Inner, Queued, QueuedMessage, Shared, Subscribing, Unanswered, Waiter},
};
use crate::{
    client::{
        Error, Refusal,
        message::{is_durable, millis},
    },
    frame::Run,
    rpc::{
        BATCH_BYTES, ITEM_MESSAGES_MAX, Parcel, SendFrame,
        convert::priority,
        messages_of,
        v1::{self, client_frame::Frame},
    },
    time::monotonic,
};

/// The tag under which a reconnect subscribes again; callers' tags count up from 1.
pub(super) const RESUBSCRIBE_TAG: u64 = u64::MAX;

/// Envelopes of one frame that is made of a run, in bytes: well below what a node takes as one item.
const FRAME_ENVELOPES_BYTES: usize = 512 * 1024;

/// The writing side of one connection.
#[derive(Debug)]
pub(in crate::client) struct Outbound {
    shared: Arc<Shared>,
    epoch: u64,
    /// Frames that go before all others.
    ready: VecDeque<Frame>,
    /// The next tag to be sent again; everything unanswered from here to `resend_end` is.
    resend_next: u64,
    resend_end: u64,
    /// A control that did not fit the frame before it.
    held: Option<Control>,
    /// Messages that a frame takes.
    batch_messages: usize,
    /// Taken out of the queue and not numbered yet; kept for its memory.
    gathered: Vec<QueuedMessage>,
    /// A run that came behind other messages and goes next.
    held_run: Option<Run>,
}

/// What goes next.
#[derive(Debug)]
pub(in crate::client) enum Next {
    Frame(Frame),
    Run(Run),
}

impl Outbound {
    /// The writer of a new connection: attaches, subscribes again, sends again what is unanswered, then goes on.
    pub(super) fn new(shared: &Arc<Shared>, epoch: u64, batch_messages: usize) -> Self {
        let inner = shared.lock();
        let mut ready = VecDeque::new();
        if let Some(attach) = attach(shared, &inner) {
            ready.push_back(Frame::Attach(attach));
        }
        if !inner.filters.is_empty() {
            ready.push_back(Frame::Subscribe(v1::Subscribe {
                tag: RESUBSCRIBE_TAG,
                filters: inner.filters.iter().cloned().collect(),
            }));
        }
        Self {
            shared: Arc::clone(shared),
            epoch,
            ready,
            resend_next: 0,
            resend_end: inner.next_tag,
            held: None,
            batch_messages,
            gathered: Vec::new(),
            held_run: None,
        }
    }

    fn next(&mut self, inner: &mut Inner) -> Option<Next> {
        if let Some(frame) = self.ready.pop_front() {
            return Some(Next::Frame(frame));
        }
        self.control_frame(inner)
            .or_else(|| self.resend_frame(inner))
            .map(Next::Frame)
            .or_else(|| self.held_run.take().map(Next::Run))
            .or_else(|| self.send(inner))
    }

    // --- controls ----------------------------------------------------------------------------------------------------

    fn next_control(&mut self) -> Option<Control> {
        self.held.take().or_else(|| self.shared.next_control())
    }

    fn control_frame(&mut self, inner: &mut Inner) -> Option<Frame> {
        loop {
            let frame = match self.next_control()? {
                Control::Settle {
                    epoch,
                    id,
                    refusal,
                    done,
                } => {
                    self.held = Some(Control::Settle {
                        epoch,
                        id,
                        refusal,
                        done,
                    });
                    match self.settle_frame(refusal, inner) {
                        Some(frame) => frame,
                        // All of them were outdated.
                        None => continue,
                    }
                }
                Control::Subscribe { filters, done } => {
                    let tag = take_tag(inner);
                    let subscribing = Subscribing {
                        add: filters.clone(),
                        remove: Vec::new(),
                        done,
                    };
                    inner.subscribing.insert(tag, subscribing);
                    Frame::Subscribe(v1::Subscribe { tag, filters })
                }
                Control::Unsubscribe { filters, done } => {
                    let tag = take_tag(inner);
                    let subscribing = Subscribing {
                        add: Vec::new(),
                        remove: filters.clone(),
                        done,
                    };
                    inner.subscribing.insert(tag, subscribing);
                    Frame::Unsubscribe(v1::Unsubscribe { tag, filters })
                }
                Control::Credit { messages, bytes } => Frame::Credit(v1::Credit { messages, bytes }),
            };
            return Some(frame);
        }
    }

    /// Gathers settles of one kind that stand one behind the other.
    fn settle_frame(&mut self, kind: Option<Refusal>, inner: &mut Inner) -> Option<Frame> {
        let (mut ids, mut waiters) = (Vec::new(), Vec::<Option<Waiter<()>>>::new());
        while ids.len() < ITEM_MESSAGES_MAX {
            match self.next_control() {
                Some(Control::Settle {
                    epoch,
                    id,
                    refusal,
                    done,
                }) if refusal == kind => {
                    if epoch == self.epoch {
                        ids.push(id.to_proto());
                        waiters.push(done);
                    } else if let Some(done) = done {
                        let _ = done.send(Err(Error::Stale));
                    }
                }
                Some(other) => {
                    self.held = Some(other);
                    break;
                }
                None => break,
            }
        }
        if ids.is_empty() {
            return None;
        }
        let tag = if waiters.iter().any(Option::is_some) {
            let tag = take_tag(inner);
            inner.settling.insert(tag, waiters);
            tag
        } else {
            0
        };
        Some(match kind {
            None => Frame::Ack(v1::AckFrame { tag, ids }),
            Some(refusal) => Frame::Nack(v1::NackFrame {
                tag,
                ids,
                refusal: Some(refusal.into()),
            }),
        })
    }

    // --- messages ----------------------------------------------------------------------------------------------------

    /// What is unanswered since an earlier connection, in order; a frame ends where the tags have a gap.
    fn resend_frame(&mut self, inner: &mut Inner) -> Option<Frame> {
        let mut batch = Batch::of(self.batch_messages);
        for (tag, unanswered) in inner.unanswered.range_mut(self.resend_next..self.resend_end) {
            if batch.is_full() || batch.next_tag().is_some_and(|next| next != *tag) {
                break;
            }
            if unanswered.first_sent.is_some() {
                self.shared.counters.resent(1);
            } else {
                unanswered.first_sent = Some(monotonic());
            }
            batch.push(*tag, unanswered.message.clone());
            self.resend_next = tag + 1;
        }
        batch.into_frame(&self.shared)
    }

    /// What queued up, numbered by priority: each priority's batch then has tags without gaps. Within one the order stays.
    fn send(&mut self, inner: &mut Inner) -> Option<Next> {
        let (mut bytes, mut durable) = (0, 0);
        while self.gathered.len() < self.batch_messages
            && bytes < BATCH_BYTES
            && inner.unanswered.len() + durable < self.shared.options.unanswered_max
        {
            match self.shared.next_queued() {
                None => break,
                Some(Queued::One(queued)) => {
                    bytes += weight_bytes(&queued.message);
                    durable += usize::from(is_durable(&queued.message));
                    self.gathered.push(*queued);
                }
                Some(Queued::Run { run, .. }) => {
                    self.shared.counters.sent(run.frames());
                    self.held_run = Some(run);
                    break;
                }
            }
        }
        let priority = |queued: &QueuedMessage| priority(queued.message.priority).unwrap_or_default();
        if !self.gathered.is_sorted_by_key(priority) {
            self.gathered.sort_by_key(priority);
        }
        let mut batch = Batch::of(self.gathered.len());
        for queued in self.gathered.drain(..) {
            let tag = take_tag(inner);
            if is_durable(&queued.message) {
                let unanswered = Unanswered {
                    // Kept for a resend: the texts are copied, the body is a reference count.
                    message: queued.message.clone(),
                    waiter: queued.waiter,
                    first_sent: Some(monotonic()),
                };
                inner.unanswered.insert(tag, unanswered);
            }
            batch.push(tag, queued.message);
        }
        let frame = batch.into_frame(&self.shared).map(Next::Frame);
        frame.or_else(|| self.held_run.take().map(Next::Run))
    }

    /// The first messages of a run as a frame, as many as one takes; the rest goes next.
    fn frame_of(&mut self, mut run: Run) -> Frame {
        // A frame says a run's envelope for each of its messages.
        let messages = FRAME_ENVELOPES_BYTES / run.envelope().as_bytes().len();
        let first = run.split_to(self.batch_messages.min(messages));
        let (first, rest) = match first {
            Some(first) => (first, Some(run)),
            None => (run, None),
        };
        self.held_run = rest;
        Frame::Send(SendFrame {
            first_tag: 0,
            messages: messages_of(&first).into_iter().map(Parcel::Encoded).collect(),
            receipts: v1::ReceiptMode::Unspecified.into(),
            from: String::new(),
        })
    }
}

/// Tags of settles, subscriptions and messages come from one counter, so that a batch's are contiguous as long as nothing
/// else is numbered in between: the lock is held for the whole batch.
fn take_tag(inner: &mut Inner) -> u64 {
    let tag = inner.next_tag;
    inner.next_tag += 1;
    tag
}

/// Bytes of a message as a frame's bound counts them: what may be long.
fn weight_bytes(message: &v1::Message) -> usize {
    message.body.len() + message.to.len() + message.reply_to.len()
}

/// Messages that go as one frame.
struct Batch {
    messages_max: usize,
    first_tag: u64,
    messages: Vec<v1::Message>,
    bytes: usize,
}

impl Batch {
    fn of(messages_max: usize) -> Self {
        Self {
            messages_max,
            first_tag: 0,
            messages: Vec::new(),
            bytes: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.messages.len() >= self.messages_max || self.bytes >= BATCH_BYTES
    }

    /// The tag that continues the batch; `None` while it is empty.
    fn next_tag(&self) -> Option<u64> {
        (!self.messages.is_empty()).then(|| self.first_tag + self.messages.len() as u64)
    }

    fn push(&mut self, tag: u64, message: v1::Message) {
        if self.messages.is_empty() {
            self.first_tag = tag;
            self.messages.reserve_exact(self.messages_max);
        }
        self.bytes += weight_bytes(&message);
        self.messages.push(message);
    }

    fn into_frame(self, shared: &Shared) -> Option<Frame> {
        if self.messages.is_empty() {
            return None;
        }
        shared.counters.sent(self.messages.len());
        Some(Frame::Send(SendFrame {
            first_tag: self.first_tag,
            messages: self.messages.into_iter().map(Parcel::Message).collect(),
            receipts: v1::ReceiptMode::Unspecified.into(),
            from: match shared.options.inbox {
                Inbox::Open | Inbox::Closed => String::new(),
                Inbox::Unattached => shared.agent().as_str().into(),
            },
        }))
    }
}

fn attach(shared: &Shared, inner: &Inner) -> Option<v1::Attach> {
    let options = &shared.options;
    let inbox = match options.inbox {
        Inbox::Open => v1::InboxMode::Open,
        Inbox::Closed => v1::InboxMode::Closed,
        Inbox::Unattached => return None,
    };
    Some(v1::Attach {
        agent: shared.agent().as_str().into(),
        inbox: inbox.into(),
        durable_queue: options.durable_queue.clone().unwrap_or_default(),
        window_messages: inner.window.0,
        window_bytes: inner.window.1,
        visibility_timeout_ms: options.visibility_timeout.map_or(0, millis),
        // `Acks::Auto` is done on this side, when a delivery is handed over: later and so safer than the node's way.
        ack_mode: v1::AckMode::Manual.into(),
    })
}

impl Stream for Outbound {
    type Item = v1::ClientFrame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<v1::ClientFrame>> {
        let Some(next) = std::task::ready!(self.poll_next_of_all(cx)) else {
            return Poll::Ready(None);
        };
        let frame = match next {
            Next::Frame(frame) => frame,
            Next::Run(run) => self.frame_of(run),
        };
        Poll::Ready(Some(v1::ClientFrame { frame: Some(frame) }))
    }
}

impl Outbound {
    /// The session that it writes for.
    pub(in crate::client) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What goes next; `None` once all is written, or another connection took over.
    pub(in crate::client) fn poll_next_of_all(&mut self, cx: &mut Context<'_>) -> Poll<Option<Next>> {
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        if inner.epoch != self.epoch {
            return Poll::Ready(None);
        }
        shared.writer.register(cx.waker());
        match self.next(&mut inner) {
            Some(next) => Poll::Ready(Some(next)),
            None if shared.is_closing() && inner.unanswered.is_empty() && !shared.has_queued() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}
