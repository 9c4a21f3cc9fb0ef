//! Who may come in: the bytes bound over all lanes and the closed mark, in one atomic word.
//!
//! A push reserves its bytes before it touches a ring and keeps them until the item was taken out. Since the mark
//! stands in the same word, `closed and 0 bytes` proves that nothing is queued, that no push is still on its way,
//! and that none can start: an accepted item is never left behind by a consumer that saw the end.

use std::num::NonZeroUsize;

use super::sync::{AtomicUsize, Ordering};

/// The word's top bit; the bytes below never reach it.
const CLOSED: usize = 1 << (usize::BITS - 1);

pub(super) struct Admission {
    /// Bytes queued or on their way in, and [`CLOSED`]. Producers add (compare-and-swap, so that the bound is never
    /// overshot and nobody is refused for bytes that another is about to give back), the consumer and aborted pushes
    /// subtract, anyone sets the mark; nobody clears it.
    /// Relaxed but for the mark: the word only counts, the rings hand over the items, and those who sleep on a
    /// change of it are ordered by the fences of `parker` and `space`. The mark is set with Release and the end is
    /// read with Acquire, so the consumer sees what its closer did before.
    word: AtomicUsize,
    bytes_max: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    OutOfBytes,
    Closed,
}

impl Admission {
    pub(super) fn new(bytes_max: NonZeroUsize) -> Self {
        Self {
            word: AtomicUsize::new(0),
            bytes_max: bytes_max.get().min(CLOSED - 1),
        }
    }

    /// What an item of `weight` bytes is charged: at least 1, so that no push is invisible to [`Self::is_finished`];
    /// at most the whole bound, so that an item heavier than it comes in alone instead of never.
    pub(super) fn charge(&self, weight: usize) -> usize {
        weight.clamp(1, self.bytes_max)
    }

    pub(super) fn reserve(&self, charge: usize) -> Result<(), Refusal> {
        self.reserve_with(|room| if charge <= room { charge } else { 0 })
            .map(|_| ())
    }

    /// Reserves what `fit` takes of the room it is told, which must be more than nothing to succeed.
    pub(super) fn reserve_with(&self, fit: impl Fn(usize) -> usize) -> Result<usize, Refusal> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & CLOSED != 0 {
                return Err(Refusal::Closed);
            }
            let taken = fit(self.bytes_max - word);
            if taken == 0 {
                return Err(Refusal::OutOfBytes);
            }
            let swapped = self
                .word
                .compare_exchange_weak(word, word + taken, Ordering::Relaxed, Ordering::Relaxed);
            match swapped {
                Ok(_) => return Ok(taken),
                Err(now) => word = now,
            }
        }
    }

    /// Gives back what a reservation took.
    pub(super) fn release(&self, charge: usize) {
        let before = self.word.fetch_sub(charge, Ordering::Relaxed);
        debug_assert!(before & !CLOSED >= charge, "released more bytes than were reserved");
    }

    pub(super) fn close(&self) {
        self.word.fetch_or(CLOSED, Ordering::Release);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.word.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// Closed, and everything that was accepted has been taken out.
    pub(super) fn is_finished(&self) -> bool {
        self.word.load(Ordering::Acquire) == CLOSED
    }

    pub(super) fn bytes(&self) -> usize {
        self.word.load(Ordering::Relaxed) & !CLOSED
    }
}
