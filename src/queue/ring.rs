//! One priority's ring: bounded, FIFO, many producers.
//!
//! It is crossbeam's `ArrayQueue`, allocated by the first push: most queues only ever see one priority, and an
//! unused one must cost neither its slots nor its padded ends. Under loom a locked deque stands in for it.

#[cfg(not(all(test, loom)))]
pub(super) use self::real::Ring;

#[cfg(all(test, loom))]
pub(super) use self::modelled::Ring;

#[cfg(not(all(test, loom)))]
mod real {
    use std::{num::NonZeroUsize, sync::OnceLock};

    use crossbeam::queue::ArrayQueue;

    pub(in crate::queue) struct Ring<T> {
        /// Boxed: its two ends are padded to 128 bytes each, beside every priority that is never used.
        slots: OnceLock<Box<ArrayQueue<T>>>,
        capacity: NonZeroUsize,
    }

    impl<T> Ring<T> {
        pub(in crate::queue) const fn new(capacity: NonZeroUsize) -> Self {
            Self {
                slots: OnceLock::new(),
                capacity,
            }
        }

        /// Appends `item`, or gives it back where the ring is full.
        pub(in crate::queue) fn push(&self, item: T) -> Result<(), T> {
            self.slots
                .get_or_init(|| Box::new(ArrayQueue::new(self.capacity.get())))
                .push(item)
        }

        pub(in crate::queue) fn pop(&self) -> Option<T> {
            self.slots.get()?.pop()
        }

        pub(in crate::queue) fn is_empty(&self) -> bool {
            self.slots.get().is_none_or(|slots| slots.is_empty())
        }

        pub(in crate::queue) fn is_full(&self) -> bool {
            self.slots.get().is_some_and(|slots| slots.is_full())
        }

        pub(in crate::queue) fn len(&self) -> usize {
            self.slots.get().map_or(0, |slots| slots.len())
        }
    }
}

#[cfg(all(test, loom))]
mod modelled {
    use std::{collections::VecDeque, num::NonZeroUsize};

    use super::super::sync::{AtomicUsize, Mutex, Ordering};

    /// A locked deque with a lock-free count beside it. `is_empty` and `is_full` read the count alone: a lock there
    /// would order the consumer's last look after every push, and hide a missing fence from loom.
    pub(in crate::queue) struct Ring<T> {
        slots: Mutex<VecDeque<T>>,
        count: AtomicUsize,
        capacity: NonZeroUsize,
    }

    impl<T> Ring<T> {
        pub(in crate::queue) fn new(capacity: NonZeroUsize) -> Self {
            Self {
                slots: Mutex::new(VecDeque::new()),
                count: AtomicUsize::new(0),
                capacity,
            }
        }

        pub(in crate::queue) fn push(&self, item: T) -> Result<(), T> {
            let mut slots = self.slots.lock().expect("no holder of this lock panics");
            if slots.len() == self.capacity.get() {
                return Err(item);
            }
            slots.push_back(item);
            self.count.fetch_add(1, Ordering::Release);
            Ok(())
        }

        pub(in crate::queue) fn pop(&self) -> Option<T> {
            let mut slots = self.slots.lock().expect("no holder of this lock panics");
            let item = slots.pop_front()?;
            self.count.fetch_sub(1, Ordering::Release);
            Some(item)
        }

        pub(in crate::queue) fn is_empty(&self) -> bool {
            self.len() == 0
        }

        pub(in crate::queue) fn is_full(&self) -> bool {
            self.len() == self.capacity.get()
        }

        pub(in crate::queue) fn len(&self) -> usize {
            self.count.load(Ordering::Acquire)
        }
    }
}
