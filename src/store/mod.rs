//! L4: implementations of the router's store port.
//!
//! [`memory`] keeps everything in the process (tests, nodes that carry QoS 0 only); [`embedded`] keeps it in one
//! directory and is the default. Neither knows who commits or why. Both pass the suite in `contract`; `book` is what
//! they agree on: what each operation does to a shard. Start at [`crate::router::port::Store`].

mod book;
#[cfg(test)]
mod contract;
pub mod embedded;
pub mod memory;

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{
    frame::{Seq, ShardId},
    router::port::StoreError,
};

/// Locks, also after another thread panicked: no store mutates under a lock in more than one step that could be seen
/// half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answer to a read of a message that the store does not have.
fn not_held(shard: ShardId, seq: Seq) -> StoreError {
    let what = format!("no message {:x} of {shard} is held", seq.raw());
    StoreError::Damaged { what }
}
