//! Who is served next: a round gives each priority its weight, the most urgent first.
//!
//! Pure bookkeeping. A round outlives a drain, so shares hold for budgets smaller than a round too.

use crate::frame::Priority;

/// What each priority may still take in this round, in items.
#[derive(Debug)]
pub(super) struct Shares {
    left: [usize; Priority::COUNT],
}

impl Shares {
    pub(super) const fn new() -> Self {
        Self {
            left: Priority::WEIGHTS,
        }
    }

    pub(super) const fn left(&self, priority: Priority) -> usize {
        self.left[priority.index()]
    }

    pub(super) const fn spend(&mut self, priority: Priority, items: usize) {
        self.left[priority.index()] -= items;
    }

    /// The next round. What was not used is forfeited: a lane that was empty must not save up and then flood.
    pub(super) const fn renew(&mut self) {
        self.left = Priority::WEIGHTS;
    }
}

/// The priorities that had items when a drain last looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting(u8);

impl Waiting {
    pub(super) fn where_not(is_empty: impl Fn(Priority) -> bool) -> Self {
        let waiting = Priority::DESCENDING.into_iter().filter(|priority| !is_empty(*priority));
        Self(waiting.fold(0, |set, priority| set | 1 << priority.index()))
    }

    pub(super) const fn contains(self, priority: Priority) -> bool {
        self.0 & (1 << priority.index()) != 0
    }

    pub(super) const fn remove(&mut self, priority: Priority) {
        self.0 &= !(1 << priority.index());
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether exactly one is left, which then competes with nobody.
    pub(super) const fn is_single(self) -> bool {
        self.0.is_power_of_two()
    }
}
