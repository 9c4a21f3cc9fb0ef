//! What a session may have in flight, shared by every queue that hands it messages.
//!
//! The queues of one session live in shards of several workers, so the window is a pair of atomics: workers take, whoever
//! settles gives back. A worker that found the window closed leaves its mark and is told when credit comes back.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Most workers whose marks fit [`Credit`]; a node never starts more.
pub const WORKERS_MAX: usize = 64;

/// A worker's bit in the set of those that wait for credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerMark(u64);

impl WorkerMark {
    /// The mark of the worker with this index, below [`WORKERS_MAX`].
    pub const fn of(worker: usize) -> Self {
        Self(1 << (worker % WORKERS_MAX))
    }
}

/// A session's credit: an absolute window and what of it is taken.
///
/// Each counter is exact by itself; window and use are read apart, so two workers that take at the same instant may pass the
/// window by one message each. No other memory is published through these atomics. Marks, window and use are `SeqCst` (free on
/// x86): a taker sets its mark and then looks at the use again, a giver lowers the use and then looks at the marks; with anything
/// weaker each may read the other's old value, and the worker would never be told. The lane's counters wake nobody: `Relaxed`.
#[derive(Debug, Default)]
pub struct Credit {
    window_messages: AtomicU32,
    window_bytes: AtomicU64,
    taken_messages: AtomicU32,
    taken_bytes: AtomicU64,
    /// Workers that found the window closed.
    waiting: AtomicU64,
    lane_chunks: AtomicUsize,
    lane_frames: AtomicUsize,
    lane_bytes: AtomicUsize,
    lane: LaneBounds,
}

/// What is left of a lane's bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneRoom {
    pub frames: usize,
    pub bytes: usize,
}

impl LaneRoom {
    /// True where there is room for so many frames and bytes.
    pub const fn takes(self, frames: usize, bytes: usize) -> bool {
        frames <= self.frames && bytes <= self.bytes
    }
}

/// What a session's lane takes of QoS 0.
#[derive(Clone, Copy, Debug)]
pub struct LaneBounds {
    /// Hand-outs of one worker's step, however many frames each has.
    pub chunks_max: usize,
    pub frames_max: usize,
    pub bytes_max: usize,
}

impl Default for LaneBounds {
    /// No bounds.
    fn default() -> Self {
        Self {
            chunks_max: usize::MAX,
            frames_max: usize::MAX,
            bytes_max: usize::MAX,
        }
    }
}

impl Credit {
    /// A window of so many messages and bytes, and a lane without bounds.
    pub fn new(messages: u32, bytes: u64) -> Self {
        Self::with_lane(messages, bytes, LaneBounds::default())
    }

    /// A window of so many messages and bytes, and a lane that takes QoS 0 messages up to its own bounds.
    pub fn with_lane(messages: u32, bytes: u64, lane: LaneBounds) -> Self {
        let credit = Self {
            lane,
            ..Self::default()
        };
        let nobody_waits_yet = credit.set_window(messages, bytes);
        debug_assert!(nobody_waits_yet.is_empty());
        credit
    }

    /// Changes the window; returns the workers to be told (see [`Credit::give_back`]).
    pub fn set_window(&self, messages: u32, bytes: u64) -> WaitingWorkers {
        self.window_messages.store(messages, Ordering::SeqCst);
        self.window_bytes.store(bytes, Ordering::SeqCst);
        self.take_waiting()
    }

    /// The window: messages and bytes.
    pub fn window(&self) -> (u32, u64) {
        (
            self.window_messages.load(Ordering::SeqCst),
            self.window_bytes.load(Ordering::SeqCst),
        )
    }

    /// Taken and not given back: messages and bytes.
    pub fn taken(&self) -> (u32, u64) {
        (
            self.taken_messages.load(Ordering::SeqCst),
            self.taken_bytes.load(Ordering::SeqCst),
        )
    }

    /// What the session's lane takes of QoS 0, which needs no credit. Two workers that look at the same instant may pass the bounds
    /// by what each puts in.
    pub fn lane_room(&self) -> LaneRoom {
        if self.lane_chunks.load(Ordering::Relaxed) >= self.lane.chunks_max {
            return LaneRoom::default();
        }
        let left = |max: usize, used: &AtomicUsize| max.saturating_sub(used.load(Ordering::Relaxed));
        LaneRoom {
            frames: left(self.lane.frames_max, &self.lane_frames),
            bytes: left(self.lane.bytes_max, &self.lane_bytes),
        }
    }

    /// Frames are on their way into the session's lane: from when that is decided, so that what one step decides stays within the
    /// bounds.
    pub fn enter_lane(&self, frames: usize, bytes: usize) {
        self.lane_frames.fetch_add(frames, Ordering::Relaxed);
        self.lane_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A chunk is on its way into the lane, as its frames are.
    pub fn chunk_entered(&self) {
        self.lane_chunks.fetch_add(1, Ordering::Relaxed);
    }

    /// The session's writer took a chunk out of the lane.
    pub fn chunk_left(&self) {
        self.lane_chunks.fetch_sub(1, Ordering::Relaxed);
    }

    /// Frames left the lane, or never got in.
    pub fn leave_lane(&self, frames: usize, bytes: usize) {
        self.lane_frames.fetch_sub(frames, Ordering::Relaxed);
        self.lane_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Frames that wait in the session's lane.
    pub fn in_lane(&self) -> usize {
        self.lane_frames.load(Ordering::Relaxed)
    }

    /// True where a message of that size may be handed out now. A message larger than the whole window passes alone.
    pub fn has_room(&self, bytes: u64) -> bool {
        let ((window_messages, window_bytes), (messages, taken_bytes)) = (self.window(), self.taken());
        messages < window_messages && (messages == 0 || taken_bytes + bytes <= window_bytes)
    }

    /// Takes credit for one message, or leaves the worker's mark and returns false.
    pub fn try_take(&self, bytes: u64, worker: WorkerMark) -> bool {
        if !self.has_room_or_marks(bytes, worker) {
            return false;
        }
        self.taken_messages.fetch_add(1, Ordering::SeqCst);
        self.taken_bytes.fetch_add(bytes, Ordering::SeqCst);
        true
    }

    /// [`Credit::has_room`]; where there is none the worker's mark stays, so that it is told when there is.
    pub fn has_room_or_marks(&self, bytes: u64, worker: WorkerMark) -> bool {
        if self.has_room(bytes) {
            return true;
        }
        self.waiting.fetch_or(worker.0, Ordering::SeqCst);
        // Second look: credit given back before the mark was set would otherwise wake nobody.
        self.has_room(bytes)
    }

    /// Gives back what messages of so many bytes had taken; returns the workers that wait for credit and are to be told.
    pub fn give_back(&self, messages: u32, bytes: u64) -> WaitingWorkers {
        self.taken_messages.fetch_sub(messages, Ordering::SeqCst);
        self.taken_bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.take_waiting()
    }

    fn take_waiting(&self) -> WaitingWorkers {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return WaitingWorkers(0);
        }
        WaitingWorkers(self.waiting.swap(0, Ordering::SeqCst))
    }
}

/// Workers to be told that a session has credit again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "workers that wait for credit are told by whoever gave it back"]
pub struct WaitingWorkers(u64);

impl WaitingWorkers {
    /// True where nobody waits.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their indices.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..WORKERS_MAX).filter(move |worker| self.0 & (1 << worker) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_closes_by_count_and_by_bytes_and_names_who_waits() {
        let (credit, worker) = (Credit::new(2, 100), WorkerMark::of(3));
        assert!(credit.try_take(60, worker));
        assert!(!credit.try_take(60, worker), "bytes");
        assert!(credit.try_take(40, worker));
        assert!(!credit.try_take(0, worker), "count");
        assert_eq!(credit.give_back(1, 60).iter().collect::<Vec<_>>(), [3]);
        assert!(credit.give_back(1, 40).is_empty());
        assert_eq!(credit.taken(), (0, 0));
    }

    #[test]
    fn a_message_larger_than_the_window_passes_alone() {
        let (credit, worker) = (Credit::new(2, 100), WorkerMark::of(0));
        assert!(credit.try_take(1000, worker));
        assert!(!credit.try_take(1, worker));
    }

    #[test]
    fn a_closed_window_hands_out_nothing_until_it_opens() {
        let (credit, worker) = (Credit::new(0, 0), WorkerMark::of(1));
        assert!(!credit.try_take(1, worker));
        assert_eq!(credit.set_window(1, 1).iter().collect::<Vec<_>>(), [1]);
        assert!(credit.try_take(1, worker));
    }
}
