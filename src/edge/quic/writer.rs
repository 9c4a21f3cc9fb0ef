//! The writing side of a connection: deliveries into batches, receipts into control frames, and the ways a connection ends.
//!
//! Each wake-up drains what is there, packs one batch for each priority and offers all of it to the transport at once.

use std::{mem, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use flume::r#async::RecvStream;
use futures_util::StreamExt;
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Edge, connection::refuse, problem::receipt, resume::Entry};
use crate::{
    edge::counters::Counters,
    frame::{
        Address, Priority,
        batch::{Compression, Mark, Packer},
        limits::{BATCH_BYTES_MAX, BATCH_FRAMES_MAX},
    },
    native::{
        Close,
        control::{Problem, Switch, ToClient, Welcome},
        lanes::Lanes,
    },
    router::{
        Answers, SessionHandle, SessionReceiver,
        surface::{Answer, Goodbye, Piece, SessionEvent, Window},
    },
};

/// Deliveries taken out of the session's lane in one go.
const TAKEN_MAX: usize = 1_024;
/// Bytes at which a batch is closed: larger ones gained nothing.
const BATCH_BYTES: usize = 64 * 1024;
/// Bytes of a batch beside bodies, for each frame and for its first envelope: what its buffer is sized by.
const FRAME_OVERHEAD_BYTES: usize = 24;
const BATCH_OVERHEAD_BYTES: usize = 512;
/// Receipts of one frame: with the longest refusals they stay below a frame's limit.
const RECEIPTS_MAX: usize = 256;
/// How long a client that is let go may take to hear why.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a client of a draining node should stay away, in milliseconds: a restart takes about that long.
const RECONNECT_AFTER_DRAIN_MS: u32 = 500;
/// How long a client that read too slowly should stay away, in milliseconds.
const RECONNECT_AFTER_SLOW_MS: u32 = 1_000;

/// What the reader tells the writer.
pub(super) enum HandOver {
    Frame(Box<ToClient>),
    /// The session began: welcome it and deliver.
    Attached(Box<Attached>),
    /// The attach is refused: say so and end.
    Refuse(Box<Problem>),
    /// The client is done: deliver nothing more, end once everything is answered.
    Finish,
}

/// A session's sending side.
pub(super) struct Attached {
    pub welcome: Welcome,
    pub handle: SessionHandle,
    pub receiver: SessionReceiver,
    pub entry: Entry,
}

/// A session that is being delivered to. The receiver goes first, then the entry: whoever resumes it waits for that.
struct Session {
    receiver: SessionReceiver,
    handle: SessionHandle,
    inbox: Address,
    _entry: Entry,
}

/// The last words and the code after them.
struct Farewell {
    close: Close,
    goodbye: ToClient,
}

pub(super) struct Writer {
    counters: Arc<Counters>,
    shutdown: CancellationToken,
    /// Stops the reader.
    stop: CancellationToken,
    lanes: Lanes,
    /// `None` once the reader and the settles under way are done.
    from_reader: Option<RecvStream<'static, HandOver>>,
    /// `None` once every publisher is gone and everything is answered.
    answers: Option<Answers>,
    answered: Vec<Answer>,
    session: Option<Session>,
    taken: Vec<Piece>,
    packing: Packing,
    patience: Duration,
    /// While something waits to be written: how much was taken when this began, and until when more must be.
    stall: Option<(u64, Pin<Box<Sleep>>)>,
    /// Some: nothing more is delivered, and what is under way is answered; then these are the last words.
    ending: Option<Farewell>,
}

/// What woke the writer.
enum Event {
    Flushed,
    /// For so long nothing that waits was taken.
    Stalled,
    Reader(Option<HandOver>),
    Answers {
        more: bool,
    },
    Session(SessionEvent),
    Shutdown,
}

/// How writing goes on after an event.
enum Next {
    Write,
    /// The attach is refused for this.
    Refuse(Problem),
    /// The client does not read.
    GiveUp,
}

impl Writer {
    pub fn new(
        edge: &Edge,
        lanes: Lanes,
        from_reader: RecvStream<'static, HandOver>,
        answers: Answers,
        stop: CancellationToken,
    ) -> Box<Self> {
        // Boxed: as an argument of futures within futures it would be there once for each of them.
        Box::new(Self {
            counters: Arc::clone(&edge.door.counters),
            shutdown: edge.shutdown.clone(),
            stop,
            lanes,
            from_reader: Some(from_reader),
            answers: Some(answers),
            answered: Vec::new(),
            session: None,
            taken: Vec::new(),
            packing: Packing::default(),
            patience: edge.config.slow_consumer_timeout(),
            stall: None,
            ending: None,
        })
    }

    /// Writes until the connection is over or everything is said; says how it is to be closed.
    pub async fn run(mut self: Box<Self>) -> Result<(), Close> {
        loop {
            if self.from_reader.is_none() && self.answers.is_none() {
                // Boxed, as what follows a refusal: a session lives without it.
                return Box::pin(self.part()).await;
            }
            let Some(event) = self.event().await else {
                // The connection is over by itself.
                return Ok(());
            };
            match self.on(event) {
                Next::Write => {}
                Next::Refuse(problem) => {
                    self.lanes.control(&ToClient::Refused(problem));
                    return Err(Box::pin(refuse(&mut self.lanes)).await);
                }
                Next::GiveUp => return Err(Box::pin(self.give_up()).await),
            }
        }
    }

    /// The last words: written, and waited for until the client has them.
    async fn part(mut self: Box<Self>) -> Result<(), Close> {
        let farewell = self.ending.take().unwrap_or_else(detached);
        self.lanes.control(&farewell.goodbye);
        if self.lanes.flush().await.is_err() {
            return Ok(());
        }
        self.lanes.finish_batches();
        self.lanes.finish_control();
        self.lanes.control_taken().await;
        // What was not settled goes back to its queues only now: an acknowledgement that was under way has found the session.
        drop(self.session.take());
        match farewell.close {
            Close::Done => Ok(()),
            close => Err(close),
        }
    }

    /// The client reads nothing: it is told so, if it reads that, and let go.
    async fn give_up(mut self: Box<Self>) -> Close {
        let Farewell { close, goodbye } = farewell(Goodbye::SlowConsumer);
        self.lanes.abandon_batches();
        self.lanes.control(&goodbye);
        let told = async {
            if self.lanes.flush().await.is_ok() {
                self.lanes.finish_control();
                self.lanes.control_taken().await;
            }
        };
        // It does not even take that.
        let _late = timeout(GOODBYE_PATIENCE, told).await;
        close
    }

    /// Begins or ends watching whether the client takes what is written.
    fn watch_stall(&mut self) {
        if self.lanes.is_flushed() {
            self.stall = None;
        } else if self.stall.is_none() {
            self.stall = Some((self.lanes.taken_bytes(), Box::pin(sleep(self.patience))));
        }
    }

    /// Waits for whatever comes first. Each branch takes what it takes in one step, so that losing the race loses nothing.
    /// `None`: nothing can be written any more.
    async fn event(&mut self) -> Option<Event> {
        self.watch_stall();
        let delivers = self.ending.is_none() && self.lanes.has_room();
        let ending = self.ending.is_some();
        let Self {
            from_reader,
            answers,
            session,
            answered,
            taken,
            shutdown,
            lanes,
            stall,
            ..
        } = self;
        let event = tokio::select! {
            biased;
            flushed = lanes.flush(), if !lanes.is_flushed() => match flushed {
                Ok(()) => Event::Flushed,
                Err(_over) => return None,
            },
            () = async { stall.as_mut().expect("guarded").1.as_mut().await }, if stall.is_some() => Event::Stalled,
            () = shutdown.cancelled(), if !ending => Event::Shutdown,
            hand_over = async { from_reader.as_mut().expect("guarded").next().await }, if from_reader.is_some() => {
                Event::Reader(hand_over)
            }
            more = async { answers.as_mut().expect("guarded").next(answered).await }, if answers.is_some() => {
                Event::Answers { more }
            }
            event = async { session.as_mut().expect("guarded").receiver.next_pieces(taken, TAKEN_MAX).await },
                if session.is_some() && delivers => Event::Session(event),
        };
        Some(event)
    }

    fn on(&mut self, event: Event) -> Next {
        match event {
            Event::Flushed => {}
            Event::Stalled => {
                let before = self.stall.take().map(|(before, _)| before);
                if before == Some(self.lanes.taken_bytes()) {
                    return Next::GiveUp;
                }
            }
            Event::Reader(Some(HandOver::Frame(frame))) => self.lanes.control(&*frame),
            Event::Reader(Some(HandOver::Attached(attached))) => self.begin(*attached),
            Event::Reader(Some(HandOver::Refuse(problem))) => return Next::Refuse(*problem),
            Event::Reader(Some(HandOver::Finish)) => self.end(detached()),
            Event::Reader(None) => self.from_reader = None,
            Event::Answers { more } => {
                if !more {
                    self.answers = None;
                }
                self.write_receipts();
            }
            Event::Session(SessionEvent::Deliveries) => self.write_deliveries(),
            Event::Session(SessionEvent::Goodbye(goodbye)) => {
                self.stop.cancel();
                self.end(farewell(goodbye));
            }
            Event::Shutdown => {
                self.stop.cancel();
                self.end(farewell(Goodbye::Draining));
            }
        }
        Next::Write
    }

    fn begin(&mut self, attached: Attached) {
        let Attached {
            welcome,
            handle,
            receiver,
            entry,
        } = attached;
        self.lanes.control(&ToClient::Welcome(welcome));
        self.session = Some(Session {
            inbox: Address::agent(handle.agent()),
            receiver,
            handle,
            _entry: entry,
        });
    }

    /// Delivers nothing more. The session stays until the end, so that acknowledgements under way find it.
    fn end(&mut self, farewell: Farewell) {
        if let Some(session) = &self.session {
            session.handle.set_window(Window::CLOSED);
        }
        self.ending.get_or_insert(farewell);
    }

    fn write_receipts(&mut self) {
        let mut answered = mem::take(&mut self.answered);
        while !answered.is_empty() {
            let some = answered
                .drain(..answered.len().min(RECEIPTS_MAX))
                .map(receipt)
                .collect();
            self.lanes.control(&ToClient::Receipts(some));
        }
        self.answered = answered;
    }

    fn write_deliveries(&mut self) {
        let Some(session) = &self.session else { return };
        Counters::add(&self.counters.messages_out, self.taken.iter().map(Piece::frames).sum());
        self.packing.expect(&self.taken);
        for piece in self.taken.drain(..) {
            self.packing.add(&piece, &session.inbox, &mut self.lanes);
        }
        let bytes = self.packing.finish(&mut self.lanes);
        Counters::add(&self.counters.bytes_out, bytes);
    }
}

/// Deliveries on their way into batches.
#[derive(Default)]
struct Packing {
    /// By [`Priority::index`]. Boxed: an idle session keeps none.
    packers: [Option<Box<Packer>>; Priority::COUNT],
    parts: Vec<Bytes>,
    bytes: usize,
    /// What a batch's buffer begins with.
    capacity: usize,
}

impl Packing {
    /// Sizes the buffers for these deliveries: full ones under load, small ones for one message.
    fn expect(&mut self, pieces: &[Piece]) {
        let bytes = |piece: &Piece| match piece {
            Piece::One(one) => one.frame.body.len() + FRAME_OVERHEAD_BYTES,
            Piece::Run { run, .. } => run.weight_bytes(),
        };
        let all: usize = pieces.iter().map(bytes).sum();
        self.capacity = all.min(BATCH_BYTES) + BATCH_OVERHEAD_BYTES;
    }

    fn add(&mut self, piece: &Piece, inbox: &Address, lanes: &mut Lanes) {
        let (envelope, queue) = match piece {
            Piece::One(one) => (&one.frame.envelope, &one.queue),
            Piece::Run { run, queue } => (run.envelope(), queue),
        };
        let priority = envelope.priority();
        let queue = if queue == inbox { "" } else { queue.as_str() };
        let envelope_bytes = piece.frames() * envelope.as_bytes().len();
        let (open, open_bytes) = self.packers[priority.index()]
            .as_ref()
            .map_or((0, 0), |packer| (packer.frames(), packer.envelope_bytes()));
        if open + piece.frames() > BATCH_FRAMES_MAX || open_bytes + envelope_bytes > BATCH_BYTES_MAX {
            self.close(priority, lanes);
        }
        let packer =
            self.packers[priority.index()].get_or_insert_with(|| Box::new(Packer::with_capacity(self.capacity)));
        match piece {
            Piece::One(one) => {
                let mark = one.id.map(|id| Mark {
                    shard: id.shard,
                    seq: id.seq,
                    lease: id.lease.0,
                });
                packer.push(&one.frame, mark, queue);
            }
            Piece::Run { run, .. } => packer.push_run(run, queue),
        }
        if packer.bytes() >= BATCH_BYTES {
            self.close(priority, lanes);
        }
    }

    fn close(&mut self, priority: Priority, lanes: &mut Lanes) {
        if let Some(packer) = self.packers[priority.index()].take() {
            self.bytes += packer.bytes();
            packer.finish(0, Compression::None, &mut self.parts);
            lanes.batch(priority, &mut self.parts);
        }
    }

    /// Closes every batch; says how many bytes they had since the last time.
    fn finish(&mut self, lanes: &mut Lanes) -> usize {
        for priority in Priority::DESCENDING {
            self.close(priority, lanes);
        }
        mem::take(&mut self.bytes)
    }
}

fn detached() -> Farewell {
    Farewell {
        close: Close::Done,
        goodbye: ToClient::Goodbye {
            reason: "detached".into(),
            reconnect: Switch::Off,
            reconnect_after_ms: 0,
        },
    }
}

/// What the client is told, and whether coming back makes sense.
fn farewell(goodbye: Goodbye) -> Farewell {
    let (close, reconnect, reconnect_after_ms) = match goodbye {
        Goodbye::Draining => (Close::Draining, Switch::On, RECONNECT_AFTER_DRAIN_MS),
        Goodbye::SlowConsumer => (Close::Ended, Switch::On, RECONNECT_AFTER_SLOW_MS),
        Goodbye::AgentRemoved | Goodbye::Kicked | Goodbye::TakenOver => (Close::Ended, Switch::Off, 0),
    };
    let goodbye = ToClient::Goodbye {
        reason: goodbye.name().into(),
        reconnect,
        reconnect_after_ms,
    };
    Farewell { close, goodbye }
}
