//! Where the primitives come from: the standard library and crossbeam, or loom's models of them under `--cfg loom`.
//!
//! The rest of `queue` names only what stands here, so the code that loom explores is the code that runs.

#[cfg(not(all(test, loom)))]
pub(super) use self::real::*;

#[cfg(all(test, loom))]
pub(super) use self::modelled::*;

#[cfg(not(all(test, loom)))]
mod real {
    pub(in crate::queue) use std::sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    };

    pub(in crate::queue) use atomic_waker::AtomicWaker;
}

#[cfg(all(test, loom))]
mod modelled {
    pub(in crate::queue) use loom::sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    };

    /// loom's waker cell behind the signature of the `atomic_waker` crate.
    #[derive(Debug)]
    pub(in crate::queue) struct AtomicWaker(loom::future::AtomicWaker);

    impl AtomicWaker {
        pub(in crate::queue) fn new() -> Self {
            Self(loom::future::AtomicWaker::new())
        }

        pub(in crate::queue) fn register(&self, waker: &std::task::Waker) {
            self.0.register_by_ref(waker);
        }

        pub(in crate::queue) fn wake(&self) {
            self.0.wake();
        }
    }
}
