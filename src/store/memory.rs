//! A store in the process's memory: for tests and for nodes that carry QoS 0 only.
//!
//! Keeps the whole contract but survival: one lock, applied at once, completions on the caller's thread. Also the
//! reference that [`super::embedded`] is compared with. Start at [`MemoryStore`].

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use futures_util::future::{BoxFuture, FutureExt, ready};

use super::{book::Book, lock, not_held};
use crate::{
    frame::{
        Frame, Seq, ShardId,
        record::{Enqueue, Fence, Keep, Op, ShardImage, StoredMessage},
    },
    router::port::{
        CommitDone, CommitOutcome, Durability, ReadDone, RecordOp, ShardCommit, Store, StoreError, StoreStats, Table,
    },
    time::Timestamp,
};

/// Bytes of frames that a store holds before it refuses more: what a small node can spare.
pub const BYTES_MAX_DEFAULT: u64 = 1024 * 1024 * 1024;

/// A store whose contents end with the process.
#[derive(Debug)]
pub struct MemoryStore {
    seed: u64,
    bytes_max: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    shards: BTreeMap<ShardId, Shard>,
    records: BTreeMap<(u8, String), Vec<u8>>,
    live_bytes: u64,
    commits: u64,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Shard {
    fence: Option<Fence>,
    book: Book,
    frames: BTreeMap<Seq, Frame>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(0, BYTES_MAX_DEFAULT)
    }
}

impl MemoryStore {
    /// An empty store with the given seed, which refuses messages beyond `bytes_max` bytes of frames.
    pub fn new(seed: u64, bytes_max: u64) -> Self {
        Self {
            seed,
            bytes_max,
            inner: Mutex::default(),
        }
    }

    fn apply(inner: &mut Inner, commit: ShardCommit, bytes_max: u64) -> Result<(), StoreError> {
        if inner.is_closed {
            return Err(StoreError::Closed);
        }
        let ShardCommit { shard, fence, ops } = commit;
        let entering: u64 = ops.iter().map(entering_bytes).sum();
        let state = inner.shards.entry(shard).or_default();
        if state.fence != Some(fence) {
            return Err(StoreError::Fenced { shard });
        }
        if entering > 0 && inner.live_bytes + entering > bytes_max {
            let what = format!("{bytes_max} bytes of memory are for messages");
            return Err(StoreError::Full { what });
        }
        inner.live_bytes += entering;
        for op in ops {
            inner.live_bytes -= state.apply(op);
        }
        Ok(())
    }
}

fn entering_bytes(op: &Op) -> u64 {
    match op {
        Op::Enqueue(enqueue) => enqueue.frame.encoded_len() as u64,
        _ => 0,
    }
}

impl Shard {
    /// Applies one operation; returns the bytes of the frame that left.
    fn apply(&mut self, op: Op) -> u64 {
        match op {
            Op::Enqueue(enqueue) => {
                self.book.message(describe(&enqueue));
                // A frame that waits must not pin the read buffer that it came in.
                let replaced = self.frames.insert(enqueue.seq, enqueue.frame.compact());
                return replaced.map_or(0, |frame| frame.encoded_len() as u64);
            }
            Op::Attempt {
                seq,
                attempts,
                not_before,
            } => self.book.attempt(seq, attempts, not_before),
            Op::Settle {
                settle_no,
                receipt,
                keep,
            } => {
                self.book.settle(settle_no, receipt, keep);
                return self.drop_frame(receipt.seq);
            }
            Op::Forget { seq } => {
                self.book.forget(seq);
                return self.drop_frame(seq);
            }
            Op::ReceiptFloor { settle_no } => self.book.raise_floor(settle_no),
            Op::Cursor { source, upto } => self.book.cursor(source, upto),
        }
        0
    }

    fn drop_frame(&mut self, seq: Seq) -> u64 {
        match self.book.get(seq) {
            Some(_) => 0,
            None => self.frames.remove(&seq).map_or(0, |frame| frame.encoded_len() as u64),
        }
    }
}

/// A message as it stands right after it was enqueued.
fn describe(enqueue: &Enqueue) -> StoredMessage {
    let Enqueue {
        seq,
        queue,
        key,
        id_hash,
        frame,
        targets,
    } = enqueue;
    StoredMessage {
        seq: *seq,
        queue: queue.clone(),
        key: *key,
        id_hash: *id_hash,
        priority: frame.envelope.priority(),
        qos: frame.envelope.qos(),
        accepted_at: frame.stamp.accepted_at,
        expires_at: frame.stamp.expires_at,
        bytes: u32::try_from(frame.encoded_len()).expect("envelope and body limits keep frames far below 4 GiB"),
        attempts: frame.stamp.attempt,
        not_before: Timestamp::NEVER,
        keep: Keep::Nothing,
        targets: Arc::clone(targets),
    }
}

fn table_number(table: Table) -> u8 {
    match table {
        Table::Agents => 0,
        Table::Groups => 1,
        Table::Subscriptions => 2,
        Table::Sessions => 3,
        Table::Retained => 4,
    }
}

impl Store for MemoryStore {
    fn seed(&self) -> u64 {
        self.seed
    }

    fn claim(&self, shards: Vec<ShardId>) -> BoxFuture<'static, Result<Vec<Fence>, StoreError>> {
        let mut inner = lock(&self.inner);
        if inner.is_closed {
            return ready(Err(StoreError::Closed)).boxed();
        }
        let claim = |shard| {
            let state: &mut Shard = inner.shards.entry(shard).or_default();
            let epoch = state.fence.map_or(0, |fence| fence.epoch) + 1;
            // In one process the epoch alone tells claims apart; the nonce is for stores that several nodes share.
            let fence = Fence { epoch, nonce: epoch };
            state.fence = Some(fence);
            fence
        };
        let fences = shards.into_iter().map(claim).collect();
        ready(Ok(fences)).boxed()
    }

    fn load(&self, shard: ShardId) -> BoxFuture<'static, Result<ShardImage, StoreError>> {
        let inner = lock(&self.inner);
        let image = inner.shards.get(&shard).map(|state| state.book.image());
        ready(Ok(image.unwrap_or_default())).boxed()
    }

    fn commit(&self, commits: Vec<ShardCommit>, _level: Durability, done: CommitDone) {
        let outcome: CommitOutcome = {
            let mut inner = lock(&self.inner);
            inner.commits += 1;
            let apply = |commit| Self::apply(&mut inner, commit, self.bytes_max);
            commits.into_iter().map(apply).collect()
        };
        done(outcome);
    }

    fn read(&self, shard: ShardId, seqs: Vec<Seq>, done: ReadDone) {
        let frames = {
            let inner = lock(&self.inner);
            let state = inner.shards.get(&shard);
            let find = |seq: Seq| {
                let frame = state.and_then(|state| state.frames.get(&seq)).cloned();
                frame.ok_or_else(|| not_held(shard, seq))
            };
            seqs.into_iter().map(find).collect()
        };
        done(frames);
    }

    fn write_records(&self, ops: Vec<RecordOp>) -> BoxFuture<'static, Result<(), StoreError>> {
        let mut inner = lock(&self.inner);
        if inner.is_closed {
            return ready(Err(StoreError::Closed)).boxed();
        }
        for op in ops {
            match op {
                RecordOp::Put { table, key, value } => {
                    inner.records.insert((table_number(table), key), value);
                }
                RecordOp::Delete { table, key } => {
                    inner.records.remove(&(table_number(table), key));
                }
            }
        }
        ready(Ok(())).boxed()
    }

    fn scan_records(&self, table: Table) -> BoxFuture<'static, Result<Vec<(String, Vec<u8>)>, StoreError>> {
        let number = table_number(table);
        let inner = lock(&self.inner);
        let of_table = inner.records.iter().filter(|((table, _), _)| *table == number);
        let rows = of_table.map(|((_, key), value)| (key.clone(), value.clone())).collect();
        ready(Ok(rows)).boxed()
    }

    fn stats(&self) -> StoreStats {
        let inner = lock(&self.inner);
        StoreStats {
            messages: inner.shards.values().map(|state| state.book.len() as u64).sum(),
            live_bytes: inner.live_bytes,
            commits: inner.commits,
            ..StoreStats::default()
        }
    }

    fn close(&self) -> BoxFuture<'static, Result<(), StoreError>> {
        lock(&self.inner).is_closed = true;
        ready(Ok(())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract::{Subject, contract_suite};

    struct InMemory(Arc<MemoryStore>);

    /// Less than the body that the suite calls too large.
    const BYTES_MAX: u64 = 256 * 1024;

    impl Subject for InMemory {
        fn new() -> Self {
            Self(Arc::new(MemoryStore::new(5, BYTES_MAX)))
        }

        fn store(&self) -> Arc<dyn Store> {
            Arc::clone(&self.0) as Arc<dyn Store>
        }

        fn reopen(&mut self) {}

        fn body_too_large(&self) -> usize {
            usize::try_from(BYTES_MAX).unwrap()
        }
    }

    contract_suite!(InMemory);
}
