//! Who may come in: the bounds over all lanes and the closed mark, in one atomic word.
//!
//! ```text
//!   bit  63      62 ..= 40      39 ..= 0
//!       closed     parts         bytes
//! ```
//!
//! A push reserves its charge before it touches a ring and keeps it until the item was taken out. Since the mark
//! stands in the same word, `closed and nothing charged` proves that nothing is queued, that no push is still on its
//! way, and that none can start: an accepted item is never left behind by a consumer that saw the end. Since both
//! counts do, a push is refused for either in one step and needs no second account to be put right.

use std::num::NonZeroUsize;

use super::{
    Bound,
    sync::{AtomicUsize, Ordering},
};

const _: () = assert!(usize::BITS == 64, "the word has room for its fields");

/// The word's top bit; the parts below never reach it.
const CLOSED: usize = 1 << 63;
const PARTS_SHIFT: u32 = 40;
const BYTES_MASK: usize = (1 << PARTS_SHIFT) - 1;
const PARTS_MASK: usize = (CLOSED >> PARTS_SHIFT) - 1;
/// Largest bounds: half of what the fields hold, so that the consumer can add up two bounds' worth of what it freed.
const BYTES_MAX: usize = BYTES_MASK >> 1;
const PARTS_MAX: usize = PARTS_MASK >> 1;

/// What an item, or several, take of the bounds. Charges add up as the words that they are: neither field overflows, since what is
/// admitted together stays within bounds that fit them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Charge(usize);

impl Charge {
    /// Both clamped to the largest bounds.
    pub(super) const fn of(bytes: usize, parts: usize) -> Self {
        let bytes = if bytes > BYTES_MAX { BYTES_MAX } else { bytes };
        let parts = if parts > PARTS_MAX { PARTS_MAX } else { parts };
        Self(parts << PARTS_SHIFT | bytes)
    }

    pub(super) const fn bytes(self) -> usize {
        self.0 & BYTES_MASK
    }

    pub(super) const fn parts(self) -> usize {
        self.0 >> PARTS_SHIFT & PARTS_MASK
    }

    pub(super) const fn is_nothing(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    pub(super) const fn minus(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }

    /// Each field at most that of `other`.
    pub(super) fn min(self, other: Self) -> Self {
        Self::of(self.bytes().min(other.bytes()), self.parts().min(other.parts()))
    }

    /// Which bound `more` would pass beside this, of `max`.
    pub(super) const fn bound_passed(self, more: Self, max: Self) -> Option<Bound> {
        if self.bytes() + more.bytes() > max.bytes() {
            Some(Bound::Bytes)
        } else if self.parts() + more.parts() > max.parts() {
            Some(Bound::Parts)
        } else {
            None
        }
    }
}

pub(super) struct Admission {
    /// What is queued or on its way in, and [`CLOSED`]. Producers add (compare-and-swap, so that no bound is ever
    /// overshot and nobody is refused for what another is about to give back), the consumer and aborted pushes
    /// subtract, anyone sets the mark; nobody clears it.
    /// Relaxed but for the mark: the word only counts, the rings hand over the items, and those who sleep on a
    /// change of it are ordered by the fences of `parker` and `space`. The mark is set with Release and the end is
    /// read with Acquire, so the consumer sees what its closer did before.
    word: AtomicUsize,
    max: Charge,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Full(Bound),
    Closed,
}

impl Admission {
    pub(super) fn new(bytes_max: NonZeroUsize, parts_max: NonZeroUsize) -> Self {
        Self {
            word: AtomicUsize::new(0),
            max: Charge::of(bytes_max.get(), parts_max.get()),
        }
    }

    /// What an item is charged: at least 1 of each, so that no push is invisible to [`Self::is_finished`]; at most the
    /// whole bound, so that an item beyond it comes in alone instead of never.
    pub(super) fn charge(&self, bytes: usize, parts: usize) -> Charge {
        Charge::of(bytes.clamp(1, self.max.bytes()), parts.clamp(1, self.max.parts()))
    }

    pub(super) fn reserve(&self, charge: Charge) -> Result<(), Refusal> {
        self.reserve_with(|charged| match charged.bound_passed(charge, self.max) {
            Some(bound) => Err(bound),
            None => Ok(charge),
        })
        .map(drop)
    }

    /// Reserves what `fit` takes beside what is charged already, or says which bound leaves no room for anything.
    pub(super) fn reserve_with(&self, fit: impl Fn(Charge) -> Result<Charge, Bound>) -> Result<Charge, Refusal> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & CLOSED != 0 {
                return Err(Refusal::Closed);
            }
            let taken = fit(Charge(word)).map_err(Refusal::Full)?;
            let swapped = self
                .word
                .compare_exchange_weak(word, word + taken.0, Ordering::Relaxed, Ordering::Relaxed);
            match swapped {
                Ok(_) => return Ok(taken),
                Err(now) => word = now,
            }
        }
    }

    /// Gives back what a reservation took.
    pub(super) fn release(&self, charge: Charge) {
        let before = self.word.fetch_sub(charge.0, Ordering::Relaxed);
        debug_assert!(
            Charge(before).bytes() >= charge.bytes() && Charge(before).parts() >= charge.parts(),
            "released more than was reserved"
        );
    }

    /// The bounds.
    pub(super) const fn max(&self) -> Charge {
        self.max
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

    pub(super) fn charged(&self) -> Charge {
        Charge(self.word.load(Ordering::Relaxed) & !CLOSED)
    }
}
