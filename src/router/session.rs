//! A live session: its lane, its credit, its way out.
//!
//! Workers push hand-outs into the lane; the edge's one task drains it. What only costs when used (the lane's rings) is
//! allocated by the first message, so that an idle session stays small.

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use super::{
    config::Config,
    directory::lock,
    surface::{ConnectionView, Goodbye, Piece, Protocol, SessionId, Window},
};
use crate::{
    delivery::{Consumer, ConsumerId, Credit, LaneBounds, QueueKind},
    frame::{
        Address, AgentId, PREFIX_BYTES, Priority, TopicFilter,
        limits::{BODY_BYTES_MAX, ENVELOPE_BYTES_MAX},
    },
    queue::{self, Bounds, PushError, Weigh},
    time::Timestamp,
};

/// What one worker's step hands to one session, of one priority.
#[derive(Debug)]
pub(super) struct Chunk(pub Vec<Piece>);

impl Chunk {
    /// Frames.
    fn frames(&self) -> usize {
        self.0.iter().map(Piece::frames).sum()
    }
}

impl Weigh for Chunk {
    fn weight_bytes(&self) -> usize {
        self.0.iter().map(Piece::weight_bytes).sum()
    }
}

/// Chunks of QoS 0 in a lane: as many single messages as whoever sends them one by one may be ahead. A ring of so many slots and a
/// window's takes 174 KiB, and is allocated by the first message of its priority; one of `lane_frames_max` would take 1.3 MiB.
const LANE_CHUNKS_MAX: usize = 4_096;
/// Room in a lane, in bytes, beyond its bounds for QoS 0 and a session's window: one largest message may pass a window alone.
const LANE_BYTES_SLACK: usize = BODY_BYTES_MAX + ENVELOPE_BYTES_MAX + PREFIX_BYTES;

/// One opening of a queue by a session: a queue that was closed and opened again is another one, so that a late word of the first end
/// does not end the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Opening(u64);

/// Queues and topic subscriptions that a session holds until it ends. Afterwards it takes up nothing more: nobody would let go of it.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    opened: Vec<(Address, Opening)>,
    subscriptions: BTreeSet<TopicFilter>,
    next_opening: Opening,
    has_ended: bool,
}

impl Holdings {
    /// Notes that a queue is open; `None` where it was already, or where the session has ended.
    pub fn open(&mut self, address: &Address) -> Option<Opening> {
        if self.has_ended || self.opened.iter().any(|(known, _)| known == address) {
            return None;
        }
        let opening = self.next_opening;
        self.next_opening = Opening(opening.0 + 1);
        // Most sessions have one or two queues.
        if self.opened.is_empty() {
            self.opened.reserve_exact(1);
        }
        self.opened.push((address.clone(), opening));
        Some(opening)
    }

    /// Notes that a queue is closed; `None` where it was not open.
    pub fn close(&mut self, address: &Address) -> Option<Opening> {
        let at = self.opened.iter().position(|(known, _)| known == address)?;
        Some(self.opened.swap_remove(at).1)
    }

    /// The open queues.
    pub fn opened(&self) -> Vec<Address> {
        self.opened.iter().map(|(address, _)| address.clone()).collect()
    }

    /// Notes a subscription; false where it was there already, or where the session has ended.
    pub fn subscribe(&mut self, filter: &TopicFilter) -> bool {
        !self.has_ended && self.subscriptions.insert(filter.clone())
    }

    /// True where the subscription is there.
    pub fn is_subscribed(&self, filter: &TopicFilter) -> bool {
        self.subscriptions.contains(filter)
    }

    /// Ends a subscription; false where it was not there.
    pub fn unsubscribe(&mut self, filter: &TopicFilter) -> bool {
        self.subscriptions.remove(filter)
    }

    /// Marks the end and gives up the subscriptions.
    pub fn end(&mut self) -> BTreeSet<TopicFilter> {
        self.has_ended = true;
        std::mem::take(&mut self.subscriptions)
    }

    pub fn has_ended(&self) -> bool {
        self.has_ended
    }
}

#[derive(Debug)]
pub(super) struct SessionCore {
    pub id: SessionId,
    pub agent: AgentId,
    pub protocol: Protocol,
    pub since: Timestamp,
    pub credit: Arc<Credit>,
    pub visibility_timeout: Option<std::time::Duration>,
    /// The queue of its own: `agent:ID#TOKEN`.
    pub own_queue: Address,
    pub own_queue_kind: QueueKind,
    /// Its own queue takes QoS 1 as it passes.
    pub passes: bool,
    takes_inbox: AtomicBool,
    lane: queue::Sender<Chunk>,
    holdings: Mutex<Holdings>,
    goodbye: AtomicU8,
}

/// What a new session is made of.
pub(super) struct NewSession {
    pub id: SessionId,
    pub agent: AgentId,
    pub protocol: Protocol,
    pub since: Timestamp,
    pub window: Window,
    pub visibility_timeout: Option<std::time::Duration>,
    pub own_queue: Address,
    pub own_queue_kind: QueueKind,
    pub passes: bool,
    pub takes_inbox: bool,
}

impl SessionCore {
    pub fn new(new: NewSession, config: &Config) -> (Arc<Self>, queue::Receiver<Chunk>) {
        // A chunk holds one frame at least, so that many slots hold all that may be in a lane. A ring is allocated when first used.
        let slots = LANE_CHUNKS_MAX + config.in_flight_messages_max as usize;
        let bytes = config.lane_bytes_max + usize::try_from(config.in_flight_bytes_max).unwrap_or(usize::MAX / 2);
        let (lane, receiver) = queue::lanes(Bounds {
            items_per_lane_max: NonZeroUsize::new(slots).unwrap_or(NonZeroUsize::MIN),
            bytes_max: NonZeroUsize::new(bytes.saturating_add(LANE_BYTES_SLACK)).unwrap_or(NonZeroUsize::MIN),
            parts_max: NonZeroUsize::MAX,
        });
        let bounds = LaneBounds {
            chunks_max: LANE_CHUNKS_MAX,
            frames_max: config.lane_frames_max,
            bytes_max: config.lane_bytes_max,
        };
        let credit = Credit::with_lane(new.window.messages, new.window.bytes, bounds);
        let core = Self {
            id: new.id,
            agent: new.agent,
            protocol: new.protocol,
            since: new.since,
            credit: Arc::new(credit),
            visibility_timeout: new.visibility_timeout,
            own_queue: new.own_queue,
            own_queue_kind: new.own_queue_kind,
            passes: new.passes,
            takes_inbox: AtomicBool::new(new.takes_inbox),
            lane,
            holdings: Mutex::default(),
            goodbye: AtomicU8::new(0),
        };
        (Arc::new(core), receiver)
    }

    /// Whether it takes the agent's inbox, and what comes by its capabilities and one-of groups.
    pub fn takes_inbox(&self) -> bool {
        self.takes_inbox.load(Ordering::Acquire)
    }

    /// Notes a change of that; false where nothing changes.
    pub fn set_takes_inbox(&self, takes: bool) -> bool {
        self.takes_inbox.swap(takes, Ordering::AcqRel) != takes
    }

    pub fn consumer(&self) -> Consumer {
        Consumer {
            id: ConsumerId(self.id.0),
            agent: self.agent.clone(),
            protocol: self.protocol.name(),
            credit: self.credit.clone(),
            session: self.own_queue.hash64(),
            visibility_timeout: self.visibility_timeout,
        }
    }

    /// Pushes a chunk; what a closed lane does not take is gone. It is never full: runs have taken their room before (see
    /// [`Credit::lane_room`]), and beyond that there is room for all that credit can have in flight.
    pub fn push(&self, priority: Priority, chunk: Chunk) {
        // Runs entered when it was decided.
        let entering = |piece: &&Piece| matches!(piece, Piece::One(_));
        let (mut frames, mut bytes) = (0, 0);
        for piece in chunk.0.iter().filter(entering) {
            frames += 1;
            bytes += piece.weight_bytes();
        }
        self.credit.enter_lane(frames, bytes);
        // So did the chunk, where it begins with a run.
        if matches!(chunk.0.first(), Some(Piece::One(_))) {
            self.credit.chunk_entered();
        }
        if let Err(PushError::Full { item, .. } | PushError::Closed(item)) = self.lane.try_push(priority, chunk) {
            self.taken(&item);
        }
    }

    /// The session's writer took a chunk out of the lane.
    pub fn taken(&self, chunk: &Chunk) {
        self.credit.leave_lane(chunk.frames(), chunk.weight_bytes());
        self.credit.chunk_left();
    }

    /// Ends the session from the fabric's side: the receiver drains what is there, then hears why. The first reason stands.
    pub fn say_goodbye(&self, why: Goodbye) {
        let code = 1 + GOODBYES.iter().position(|known| *known == why).unwrap_or_default() as u8;
        let _ = self
            .goodbye
            .compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
        self.lane.close();
    }

    pub fn goodbye(&self) -> Option<Goodbye> {
        let code = usize::from(self.goodbye.load(Ordering::Acquire));
        code.checked_sub(1).and_then(|at| GOODBYES.get(at)).copied()
    }

    pub fn close_lane(&self) {
        self.lane.close();
    }

    /// What the session holds; whoever changes it tells the workers before it lets go, so that they hear of changes in their order.
    pub fn holdings(&self) -> MutexGuard<'_, Holdings> {
        lock(&self.holdings)
    }

    pub fn view(&self) -> ConnectionView {
        let window = |(messages, bytes)| Window { messages, bytes };
        ConnectionView {
            session: self.id,
            agent: self.agent.clone(),
            protocol: self.protocol,
            since: self.since,
            window: window(self.credit.window()),
            in_flight: window(self.credit.taken()),
            queue_depth: self.credit.in_lane(),
            subscriptions: self.holdings().subscriptions.iter().cloned().collect(),
        }
    }
}

const GOODBYES: [Goodbye; 5] = [
    Goodbye::Draining,
    Goodbye::AgentRemoved,
    Goodbye::Kicked,
    Goodbye::SlowConsumer,
    Goodbye::TakenOver,
];
