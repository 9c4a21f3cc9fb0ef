//! What the store's threads share: the index, the segments, who owns which shard, and whether the disk still works.
//!
//! Locks are taken one at a time, for a lookup or a batch. None is held over a read, a write or a sync; that of the
//! segments may be while a file is made that was not made ahead. Start at [`Shared`].

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use super::{
    disk::{Disk, DiskFile},
    index::Index,
    replay::Books,
    segments::{Reach, Segments},
};
use crate::{
    frame::{
        ShardId,
        record::{Fence, ShardImage},
    },
    router::port::{StoreError, StoreStats},
    store::{book::Book, lock},
};

/// State of a store that several threads use.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) index: Mutex<Index>,
    pub(super) segments: Mutex<Segments>,
    owners: Mutex<Owners>,
    pub(super) health: Health,
    pub(super) counters: Counters,
}

/// The newest fence of each shard, and what recovery found until someone takes it. Under one lock, so that no commit
/// slips in between a claim and the load that follows it.
#[derive(Debug)]
struct Owners {
    fences: Vec<Option<Fence>>,
    books: Books,
}

impl Shared {
    pub(super) fn new(index: Index, segments: Segments, fences: Vec<Option<Fence>>, books: Books) -> Arc<Self> {
        Arc::new(Self {
            index: Mutex::new(index),
            segments: Mutex::new(segments),
            owners: Mutex::new(Owners { fences, books }),
            health: Health::default(),
            counters: Counters::default(),
        })
    }

    /// Lets a write through that carries the newest fence. What recovery knew of the shard is then out of date.
    pub(super) fn check_owner(&self, shard: ShardId, fence: Fence) -> Result<(), StoreError> {
        let mut owners = lock(&self.owners);
        if owners.fences[shard.index()] != Some(fence) {
            return Err(StoreError::Fenced { shard });
        }
        drop(owners.books.take(shard));
        Ok(())
    }

    /// Makes fences the newest that are durable already.
    pub(super) fn set_owners(&self, shards: &[ShardId], fences: &[Fence]) {
        let mut owners = lock(&self.owners);
        for (shard, fence) in shards.iter().zip(fences) {
            owners.fences[shard.index()] = Some(*fence);
        }
    }

    /// The image that recovery made of a shard, once, and only while nothing was written to the shard.
    pub(super) fn take_image(&self, shard: ShardId) -> Option<ShardImage> {
        let book = lock(&self.owners).books.take(shard);
        book.map(Book::into_image)
    }

    /// Makes a part of a segment durable, by a handle that no other thread syncs with meanwhile and that was open
    /// before anything of it was written. The only way to sync groups.
    pub(super) fn sync(&self, reach: &Reach, handle: &dyn DiskFile, disk: &dyn Disk) -> Result<(), StoreError> {
        self.health.check()?;
        match handle.sync() {
            Ok(()) => {
                reach.note_durable();
                self.counters.syncs.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(self
                .health
                .fail(format!("a sync of {} failed: {error}", disk.name(reach.slot)))),
        }
    }

    pub(super) fn stats(&self) -> StoreStats {
        let (messages, live_bytes) = {
            let index = lock(&self.index);
            (index.messages(), index.live_bytes())
        };
        let disk_bytes = {
            let segments = lock(&self.segments);
            segments.files() as u64 * u64::from(segments.segment_bytes)
        };
        StoreStats {
            messages,
            live_bytes,
            disk_bytes,
            commits: self.counters.commits.load(Ordering::Relaxed),
            syncs: self.counters.syncs.load(Ordering::Relaxed),
            written_bytes: self.counters.written_bytes.load(Ordering::Relaxed),
            read_only: self.health.check().is_err(),
        }
    }
}

/// Whether the store still takes writes. Once it does not, it never does again.
#[derive(Debug, Default)]
pub(super) struct Health {
    failure: OnceLock<String>,
}

impl Health {
    /// An error where the store is read-only.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.failure.get() {
            None => Ok(()),
            Some(what) => Err(StoreError::ReadOnly { what: what.clone() }),
        }
    }

    /// Makes the store read-only; returns the error for those whose write this befell.
    pub(super) fn fail(&self, what: String) -> StoreError {
        tracing::error!(what, "the store is read-only from now on");
        let _ = self.failure.set(what.clone());
        StoreError::Unknown { what }
    }

    /// The error for a write whose fate is not known, where there is one.
    pub(super) fn unknown(&self) -> Option<StoreError> {
        self.failure
            .get()
            .map(|what| StoreError::Unknown { what: what.clone() })
    }
}

/// Plain counters; read for metrics, so relaxed.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) commits: AtomicU64,
    syncs: AtomicU64,
    written_bytes: AtomicU64,
}

impl Counters {
    pub(super) fn written(&self, bytes: usize) {
        self.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
impl Shared {
    /// Where the log's next group goes.
    pub(super) fn log_end(&self) -> u32 {
        self.newest().end()
    }

    /// The newest segment.
    pub(super) fn newest(&self) -> Arc<super::segments::Segment> {
        let segments = lock(&self.segments);
        segments.used().last().map(Arc::clone).expect("a log has a segment")
    }
}
