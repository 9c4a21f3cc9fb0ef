//! The writing side of a stream: deliveries and receipts into items, and the ways a stream ends.

use std::{collections::VecDeque, mem};

use flume::r#async::RecvStream;
use futures_util::{FutureExt, StreamExt, stream};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use super::{Acks, Attached, HandOver};
use crate::{
    edge::{
        counters::Counters,
        grpc::{Door, show},
    },
    frame::{Address, limits::RUN_ENVELOPES_BYTES_MAX},
    router::{
        Answers, SessionHandle, SessionReceiver,
        surface::{Answer, DeliveryId, Goodbye, Piece, SessionEvent, Window},
    },
    rpc::{
        BATCH_BYTES, BATCH_MESSAGES, Deliveries,
        v1::{self, server_frame::Frame},
    },
};

/// How long a client of a draining node should stay away, in milliseconds: a restart takes about that long.
const RECONNECT_AFTER_DRAIN_MS: u64 = 500;
/// How long a client that read too slowly should stay away, in milliseconds.
const RECONNECT_AFTER_SLOW_MS: u64 = 1_000;

/// The frames of a stream. Dropping it stops the reader and ends the session.
pub(super) fn frames(
    door: Door,
    from_reader: RecvStream<'static, HandOver>,
    answers: Answers,
    stop: CancellationToken,
    shutdown: CancellationToken,
) -> impl Stream<Item = Result<v1::ServerFrame, Status>> + Send {
    // Boxed: as the state of a stream it would be there once more in each of its steps.
    let writer = Box::new(Writer {
        door,
        from_reader: Some(from_reader),
        answers: Some(answers),
        session: None,
        answered: Vec::new(),
        ending: None,
        stop: stop.clone(),
        _stop_when_dropped: stop.drop_guard(),
        shutdown,
    });
    stream::unfold(Some(writer), |writer| async {
        let mut writer = writer?;
        match writer.next().await {
            Step::Write(frame) => Some((Ok(v1::ServerFrame { frame: Some(frame) }), Some(writer))),
            Step::Last(frame) => Some((Ok(v1::ServerFrame { frame: Some(frame) }), None)),
            Step::Fail(status) => Some((Err(status), None)),
            Step::End => None,
        }
    })
}

/// A session that is being delivered to.
struct Session {
    handle: SessionHandle,
    receiver: SessionReceiver,
    acks: Acks,
    inbox: Address,
    /// Taken from the receiver and not written yet; at most one batch.
    waiting: VecDeque<Piece>,
    /// Scratch for the receiver.
    taken: Vec<Piece>,
    /// Written, to be acknowledged once the next item is asked for.
    written: Vec<DeliveryId>,
}

struct Writer {
    door: Door,
    /// `None` once the reader and the settles under way are done.
    from_reader: Option<RecvStream<'static, HandOver>>,
    /// `None` once the publisher is gone and everything is answered.
    answers: Option<Answers>,
    session: Option<Session>,
    /// Not written yet.
    answered: Vec<Answer>,
    /// Some: nothing more is delivered, and what is under way is answered; then the stream ends, with this if there is one.
    ending: Option<Option<v1::Goodbye>>,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
    shutdown: CancellationToken,
}

enum Step {
    Write(Frame),
    Last(Frame),
    Fail(Status),
    End,
}

/// What woke the writer.
enum Event {
    Reader(Option<HandOver>),
    Answers { more: bool },
    Session(SessionEvent),
    Shutdown,
}

impl Writer {
    async fn next(&mut self) -> Step {
        loop {
            if self.ending.is_none()
                && let Some((frame, messages)) = self.session.as_mut().and_then(Session::next_frame)
            {
                Counters::add(&self.door.counters.messages_out, messages);
                return Step::Write(Frame::Deliveries(frame));
            }
            if !self.answered.is_empty() {
                let receipts = self.answered.drain(..).map(show::receipt).collect();
                return Step::Write(Frame::Receipts(v1::Receipts { receipts }));
            }
            if self.from_reader.is_none() && self.answers.is_none() && (self.ending.is_some() || self.session.is_none())
            {
                return match self.ending.take().flatten() {
                    Some(goodbye) => Step::Last(Frame::Goodbye(goodbye)),
                    None => Step::End,
                };
            }
            let event = self.event().await;
            if let Some(step) = self.on(event) {
                return step;
            }
        }
    }

    /// Waits for whatever comes first. Each branch takes what it takes in one step, so that losing the race loses nothing.
    async fn event(&mut self) -> Event {
        let ending = self.ending.is_some();
        let Self {
            from_reader,
            answers,
            session,
            answered,
            shutdown,
            ..
        } = self;
        tokio::select! {
            hand_over = async { from_reader.as_mut().expect("guarded").next().await }, if from_reader.is_some() => {
                Event::Reader(hand_over)
            }
            more = async { answers.as_mut().expect("guarded").next(answered).await }, if answers.is_some() => {
                Event::Answers { more }
            }
            event = async { session.as_mut().expect("guarded").receive().await }, if session.is_some() && !ending => {
                Event::Session(event)
            }
            () = shutdown.cancelled(), if !ending => Event::Shutdown,
        }
    }

    fn on(&mut self, event: Event) -> Option<Step> {
        match event {
            Event::Reader(Some(HandOver::Frame(frame))) => return Some(Step::Write(*frame)),
            Event::Reader(Some(HandOver::Attached(attached))) => {
                let welcome = attached.welcome.clone();
                self.session = Some(Session::new(*attached));
                return Some(Step::Write(Frame::Welcome(welcome)));
            }
            Event::Reader(Some(HandOver::Finish(goodbye))) => self.end(goodbye.map(|goodbye| *goodbye)),
            Event::Reader(Some(HandOver::Fail(status))) => return Some(Step::Fail(status)),
            Event::Reader(None) => self.from_reader = None,
            Event::Answers { more } => {
                if !more {
                    self.answers = None;
                }
                // What is answered may have been sent behind an attach: the welcome goes first.
                if self.session.is_none()
                    && let Some(hand_over) = self
                        .from_reader
                        .as_mut()
                        .and_then(|reader| reader.next().now_or_never())
                {
                    return self.on(Event::Reader(hand_over));
                }
            }
            Event::Session(SessionEvent::Deliveries) => {}
            Event::Session(SessionEvent::Goodbye(goodbye)) => self.end(Some(farewell(goodbye))),
            Event::Shutdown => self.end(Some(farewell(Goodbye::Draining))),
        }
        None
    }

    /// Delivers nothing more and stops the reader: what it took before is still answered. The session stays until then, so
    /// that acknowledgements under way find it.
    fn end(&mut self, goodbye: Option<v1::Goodbye>) {
        self.stop.cancel();
        if let Some(session) = &mut self.session {
            session.finish();
        }
        self.ending = Some(goodbye);
    }
}

impl Session {
    fn new(attached: Attached) -> Self {
        Self {
            inbox: Address::agent(attached.handle.agent()),
            handle: attached.handle,
            receiver: attached.receiver,
            acks: attached.acks,
            waiting: VecDeque::new(),
            taken: Vec::new(),
            written: Vec::new(),
        }
    }

    async fn receive(&mut self) -> SessionEvent {
        let event = self.receiver.next_pieces(&mut self.taken, BATCH_MESSAGES).await;
        self.waiting.extend(self.taken.drain(..));
        event
    }

    /// The next item of what waits, a batch or one large delivery, and how many messages it has.
    fn next_frame(&mut self) -> Option<(Deliveries, usize)> {
        self.acknowledge_written();
        if self.waiting.is_empty() && self.receiver.try_next_pieces(&mut self.taken, BATCH_MESSAGES) > 0 {
            self.waiting.extend(self.taken.drain(..));
        }
        let (mut deliveries, mut messages, mut bytes) = (Deliveries::default(), 0, 0);
        let mut envelope_bytes = 0;
        while bytes < BATCH_BYTES
            && envelope_bytes < RUN_ENVELOPES_BYTES_MAX
            && let Some(mut piece) = self.waiting.pop_front()
        {
            // An item says a run's envelope for each of its messages.
            if let Piece::Run { run, queue } = &mut piece {
                if let Some(front) = run.split_to(RUN_ENVELOPES_BYTES_MAX / run.envelope().as_bytes().len()) {
                    let (rest, queue) = (mem::replace(run, front), queue.clone());
                    self.waiting.push_front(Piece::Run { run: rest, queue });
                }
                envelope_bytes += run.envelope_bytes();
            }
            messages += piece.frames();
            bytes += piece.weight_bytes();
            match piece {
                Piece::One(one) => {
                    if self.acks == Acks::Writer {
                        self.written.extend(one.id);
                    }
                    deliveries.push(show::delivery(one, self.inbox.as_str()));
                }
                Piece::Run { run, queue } => {
                    let shown = show::shown(None, &run.stamp, &queue, self.inbox.as_str());
                    deliveries.push_run(&run, &shown);
                }
            }
        }
        (!deliveries.is_empty()).then_some((deliveries, messages))
    }

    /// The transport asks for the next item only after it took the one before.
    fn acknowledge_written(&mut self) {
        if !self.written.is_empty() {
            self.handle.ack_unanswered(mem::take(&mut self.written));
        }
    }

    fn finish(&mut self) {
        self.acknowledge_written();
        self.handle.set_window(Window::CLOSED);
    }
}

/// What the client is told, and whether coming back makes sense.
fn farewell(goodbye: Goodbye) -> v1::Goodbye {
    let (reconnect, reconnect_after_ms) = match goodbye {
        Goodbye::Draining => (true, RECONNECT_AFTER_DRAIN_MS),
        Goodbye::SlowConsumer => (true, RECONNECT_AFTER_SLOW_MS),
        Goodbye::AgentRemoved | Goodbye::Kicked | Goodbye::TakenOver => (false, 0),
    };
    v1::Goodbye {
        reason: goodbye.name().into(),
        reconnect_after_ms,
        reconnect,
    }
}
