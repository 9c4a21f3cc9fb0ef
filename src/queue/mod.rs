//! Bounded lock-free priority lanes: many producers, one consumer, with asynchronous wake-up in both directions.
//!
//! It owns the order between priorities, the bounds of what waits, and sleeping and waking; it must never know what
//! an item is beyond its priority and its weight in bytes. Start reading at [`lanes`], then [`Sender::try_push`] and
//! [`Receiver::drain`]; the two sleeping protocols stand alone in `parker` and `space`.
//!
//! loom explores those protocols and the whole queue on top of them (`--cfg loom` breaks tokio, hence the features):
//!
//! ```text
//! LOOM_MAX_PREEMPTIONS=2 RUSTFLAGS="--cfg loom" cargo test --lib --no-default-features --features queue queue::
//! ```

mod admission;
mod parker;
mod receiver;
mod ring;
mod sender;
mod shares;
mod space;
mod sync;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;

use std::{array, fmt, num::NonZeroUsize};

use crossbeam::utils::CachePadded;

use self::{
    admission::{Admission, Charge, Refusal},
    parker::Parker,
    ring::Ring,
    shares::Waiting,
    space::Space,
    sync::{Arc, AtomicUsize},
};
pub use self::{
    receiver::{Readiness, Receiver, thread_waker},
    sender::Sender,
};
use crate::frame::Priority;

/// What an item counts against [`Bounds::bytes_max`]. Asked once, when the item is pushed.
pub trait Weigh {
    /// The memory that the item keeps alive, in bytes.
    fn weight_bytes(&self) -> usize;

    /// How many things the item stands for: a batch is as many as it holds. Counts as 1 at least.
    fn parts(&self) -> usize {
        1
    }
}

/// What a queue holds at most. A push beyond it is refused with [`PushError::Full`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Items in each priority's lane. The slots of a lane are allocated by its first item and stay allocated.
    pub items_per_lane_max: NonZeroUsize,
    /// Bytes over all lanes, below 512 GiB. A single heavier item is still let in, but only while nothing else is queued.
    pub bytes_max: NonZeroUsize,
    /// [`Weigh::parts`] over all lanes, below 4 Mi. A single item of more is still let in, but only while nothing else is queued.
    pub parts_max: NonZeroUsize,
}

/// Which bound a push met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// [`Bounds::items_per_lane_max`] of the pushed priority.
    Items,
    /// [`Bounds::bytes_max`].
    Bytes,
    /// [`Bounds::parts_max`].
    Parts,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Items => "items of this priority",
            Self::Bytes => "bytes over all priorities",
            Self::Parts => "parts over all priorities",
        })
    }
}

/// Why an item was not queued. It holds the item.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError<T> {
    /// Retry once the consumer made room, or tell the sender to.
    #[error("the queue is full: it holds its most {bound}; retry later")]
    Full {
        /// The bound that was met.
        bound: Bound,
        /// What was to be pushed.
        item: T,
    },
    /// Final: a closed queue never opens again.
    #[error("the queue is closed; look the consumer up again")]
    Closed(T),
}

impl<T> PushError<T> {
    /// What was to be pushed.
    pub fn into_item(self) -> T {
        match self {
            Self::Full { item, .. } | Self::Closed(item) => item,
        }
    }
}

/// Why the rest of a batch was not queued. The rest stays in the caller's batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Retry the rest once the consumer made room, or tell the sender to.
    #[error("the queue is full: it holds its most {0}; retry the rest later")]
    Full(Bound),
    /// Final: a closed queue never opens again.
    #[error("the queue is closed; look the consumer up again")]
    Closed,
}

/// How full a queue is: a snapshot for metrics, each number true at its own instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Items, indexed by [`Priority::index`].
    pub items: [usize; Priority::COUNT],
    /// Bytes over all priorities, those of pushes under way included.
    pub bytes: usize,
    /// Parts over all priorities, those of pushes under way included.
    pub parts: usize,
}

/// A new queue within `bounds`. It closes when either end says so, when the receiver is dropped, or when the last
/// sender is: a session's writer ends by itself once nobody can reach it any more.
pub fn lanes<T>(bounds: Bounds) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Lanes::new(bounds));
    (Sender::new(Arc::clone(&shared)), Receiver::new(shared))
}

/// What both ends share.
struct Lanes<T> {
    rings: [Ring<Entry<T>>; Priority::COUNT],
    /// Every push and every drain writes it; padded, so that this does not slow down the reads of what follows.
    admission: CachePadded<Admission>,
    parker: CachePadded<Parker>,
    space: CachePadded<Space>,
    /// Live [`Sender`]s. Written by their clones (Relaxed: the cloned one keeps it above 0) and drops (AcqRel: the
    /// last one closes after all that the others did).
    senders: AtomicUsize,
    /// From here on room is worth a wake-up: half of any bound. Told of every drain of 256 out of 4,096, producers
    /// and consumer would switch to and fro for each; telling them late gave 1.1 to 1.5 times the items a second.
    room_told: Room,
}

/// Items, and what they were charged, that became free.
#[derive(Clone, Copy, Debug)]
struct Room {
    items: usize,
    charge: Charge,
}

/// An item with what it was charged, so that the same is given back however its weight changes meanwhile.
struct Entry<T> {
    charge: Charge,
    item: T,
}

impl<T> Lanes<T> {
    fn new(bounds: Bounds) -> Self {
        Self {
            rings: array::from_fn(|_| Ring::new(bounds.items_per_lane_max)),
            admission: CachePadded::new(Admission::new(bounds.bytes_max, bounds.parts_max)),
            parker: CachePadded::new(Parker::new()),
            space: CachePadded::new(Space::new()),
            senders: AtomicUsize::new(1),
            room_told: Room {
                items: bounds.items_per_lane_max.get() / 2,
                charge: Charge::of(bounds.bytes_max.get() / 2, bounds.parts_max.get() / 2),
            },
        }
    }

    fn ring(&self, priority: Priority) -> &Ring<Entry<T>> {
        &self.rings[priority.index()]
    }

    fn waiting(&self) -> Waiting {
        Waiting::where_not(|priority| self.ring(priority).is_empty())
    }

    fn is_worth_telling(&self, room: Room) -> bool {
        let (free, told) = (room.charge, self.room_told.charge);
        room.items >= self.room_told.items || free.bytes() >= told.bytes() || free.parts() >= told.parts()
    }

    fn close(&self) {
        self.admission.close();
        self.parker.notify();
        self.space.notify();
    }

    /// Gives back the charge of a push that then found its ring full. They may be what another producer waits for,
    /// and on a closed queue what the consumer waits for to call it finished.
    fn abandon(&self, charge: Charge) {
        self.admission.release(charge);
        self.parker.notify();
        self.space.notify();
    }

    fn occupancy(&self) -> Occupancy {
        Occupancy {
            items: array::from_fn(|index| self.rings[index].len()),
            bytes: self.admission.charged().bytes(),
            parts: self.admission.charged().parts(),
        }
    }
}

impl<T> fmt::Debug for Lanes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Occupancy { items, bytes, parts } = self.occupancy();
        f.debug_struct("Lanes")
            .field("items", &items)
            .field("bytes", &bytes)
            .field("parts", &parts)
            .field("closed", &self.admission.is_closed())
            .finish_non_exhaustive()
    }
}
