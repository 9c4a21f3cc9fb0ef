//! How the one consumer sleeps and producers wake it: no wake-up is lost, and none is paid for while it runs.
//!
//! ```text
//!   producer                          consumer
//!   publish the item                  register the waker
//!   fence(SeqCst)            P        parked = true
//!   parked?  swap it, wake            fence(SeqCst)            C
//!                                     look again: an item? then do not sleep
//! ```
//!
//! The two fences are totally ordered. P before C: the consumer's second look sees the item. C before P: the
//! producer sees `parked`. So at least one of the two notices the other, which is all that is needed.
//! Of several producers that see the flag, the swap picks one; the others pay a load.

use std::task::Waker;

use super::sync::{AtomicBool, AtomicWaker, Ordering, fence};

pub(super) struct Parker {
    /// Written true by the consumer before it sleeps, false by the producer that takes on waking it; read by every
    /// producer. The consumer's Release pairs with the Acquire of the producer's swap: who takes it sees the waker.
    /// The producers' first load is Relaxed, since the fences above order it.
    parked: AtomicBool,
    /// Written by the consumer, taken by the producer that won the swap. It resolves by itself the race of a wake
    /// with a registration: that one wakes at once.
    waker: AtomicWaker,
}

impl Parker {
    pub(super) fn new() -> Self {
        Self {
            parked: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    /// Wakes the consumer if it sleeps. Call it after what the consumer is to see was published.
    pub(super) fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed) && self.parked.swap(false, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Announces that the consumer is about to sleep. It must look for work once more before it does.
    ///
    /// A flag left standing by a consumer that found work, or that gave up waiting, costs one needless wake-up.
    pub(super) fn prepare(&self, waker: &Waker) {
        self.waker.register(waker);
        // A store would do. The swap reads what producers last swapped in, which spells out the flag's modification
        // order: loom does not derive it for a store, and then explores executions that C++11 excludes.
        self.parked.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }
}
