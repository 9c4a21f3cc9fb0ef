//! The default store: one directory, no server.
//!
//! Messages live in a segmented log, which is the only truth about them (`layout` and `record` draw it, `log` writes
//! it, `recover` reads it back, `index` knows where each message stands); small records and fences in a redb file
//! (`registry`). A commit goes to one of two threads, which writes all that waits as one group, syncs once for all of
//! it and answers (`writer`); another prepares files ahead of them (`fill`). Reads and loads have threads of their own
//! (`reader`). Start at [`EmbeddedStore::open`].

#[cfg(test)]
mod crash;
mod directory;
mod disk;
#[cfg(test)]
mod fake_disk;
#[cfg(test)]
mod faults;
mod fill;
mod index;
mod layout;
mod log;
mod reader;
mod record;
mod recover;
mod registry;
mod replay;
mod segments;
mod shared;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fmt, io,
    path::Path,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use bytesize::ByteSize;
use flume::Sender;
use futures_util::future::{BoxFuture, FutureExt, ready};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub use self::directory::OpenError;
use self::{
    directory::StoreDirectory,
    disk::Disk,
    fill::Filler,
    log::Log,
    reader::{Ask, Owed, Reader},
    recover::{Expect, RecoverError, Sizes, Tail},
    registry::Registry,
    shared::Shared,
    writer::{Answer, LANES, Lane, Pipeline, Request},
};
use super::lock;
use crate::{
    frame::{
        Seq, ShardId,
        limits::BODY_BYTES_MAX,
        record::{Fence, ShardImage},
    },
    router::port::{CommitDone, Durability, ReadDone, RecordOp, ShardCommit, Store, StoreError, StoreStats, Table},
};

/// Threads that read: enough to keep a disk's queue from running dry while one of them scans for a load.
const READERS: usize = 2;
/// Reads that wait before [`Store::read`] blocks: callers keep a handful each in flight.
const READS_WAITING_MAX: usize = 1024;
/// Segments are a multiple of this, in bytes: a page.
const SEGMENT_BYTES_UNIT: u64 = 4096;
/// Smallest segment, in bytes: the largest frame with its envelope, and as much again.
const SEGMENT_BYTES_MIN: u64 = 2 * BODY_BYTES_MAX as u64;
/// Largest segment, in bytes: offsets have 32 bits, and recovery holds two segments in memory.
const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Fewest segments of a log: one that is written, one that is cleaned, the two of the reserve, and one for messages.
const SEGMENTS_MIN: u64 = 5;

/// How a store uses its disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes of a log segment: 32 MiB to 1 GiB, a multiple of 4 KiB. Of a new store; an existing one keeps its own.
    pub segment_bytes: ByteSize,
    /// Bytes that the log may take on disk, at least five segments. Messages are refused beyond about three quarters
    /// of it.
    pub max_bytes: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            segment_bytes: ByteSize::mib(64),
            max_bytes: ByteSize::gib(64),
        }
    }
}

impl Config {
    fn sizes(&self) -> Result<Sizes, OpenError> {
        let (segment, max) = (self.segment_bytes.as_u64(), self.max_bytes.as_u64());
        let config = |what: String| Err(OpenError::Config { what });
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment) || !segment.is_multiple_of(SEGMENT_BYTES_UNIT) {
            return config(format!(
                "`segment_bytes` is {segment}; it is {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}, a multiple \
                 of {SEGMENT_BYTES_UNIT}"
            ));
        }
        if max / segment < SEGMENTS_MIN {
            return config(format!(
                "`max_bytes` is {max}; it must hold {SEGMENTS_MIN} segments of {segment} bytes"
            ));
        }
        Ok(Sizes {
            segment_bytes: u32::try_from(segment).expect("the largest segment has fewer than 32 bits"),
            max_bytes: max,
        })
    }
}

/// A store in one directory. Dropping it makes everything durable and ends its threads, as [`Store::close`] does.
pub struct EmbeddedStore {
    seed: u64,
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
}

/// What ends when the store is closed.
struct Running {
    pipeline: Arc<Pipeline>,
    asks: Sender<Ask>,
    registry: Sender<registry::Ask>,
    threads: Vec<JoinHandle<()>>,
    /// The directory's lock. `None` for a store that has no directory.
    lock: Option<std::fs::File>,
}

impl EmbeddedStore {
    /// Opens the store in a directory, or makes one there. Blocks while the log is read back, all segments in use: at
    /// most `max_bytes`, and while it was cleaned in time four segments or four times the bytes that still count.
    /// 1,000,000 messages of 256 bytes cost 0.95 s of processor, shared by up to eight threads (`replay`), and two
    /// segments of memory beside what is kept.
    pub fn open(path: &Path, config: &Config) -> Result<Self, OpenError> {
        Self::open_sized(path, config.sizes()?)
    }

    /// Opens with sizes that may be smaller than any that a node may have.
    fn open_sized(path: &Path, sizes: Sizes) -> Result<Self, OpenError> {
        let directory = StoreDirectory::open(path)?;
        let log = directory.log()?;
        let store = Self::open_on(Arc::new(log), directory.registry()?, sizes, directory.expect);
        let store = store.map_err(|error| match error {
            OpenOnError::Recover(error) => open_error(path, error),
            OpenOnError::Start(error) => directory::io_error(path, error),
        })?;
        directory.finish()?;
        if let Some(running) = &mut *lock(&store.running) {
            running.lock = Some(directory.lock);
        }
        Ok(store)
    }

    fn open_on(disk: Arc<dyn Disk>, registry: Registry, sizes: Sizes, expect: Expect) -> Result<Self, OpenOnError> {
        let recovered = recover::recover(&*disk, sizes, expect).map_err(OpenOnError::Recover)?;
        let seed = registry.seed();
        let shared = Shared::new(recovered.index, recovered.segments, registry.fences(), recovered.books);
        let running = start(recovered.tail, registry, &shared, &disk).map_err(OpenOnError::Start)?;
        Ok(Self {
            seed,
            shared,
            running: Mutex::new(Some(running)),
        })
    }

    /// Hands in a request. Where the store is closed, dropping it answers.
    fn request(&self, request: Request) {
        let pipeline = lock(&self.running)
            .as_ref()
            .map(|running| Arc::clone(&running.pipeline));
        if let Some(pipeline) = pipeline {
            drop(pipeline.push(request));
        }
    }

    /// Sends a request unless the store is closed; gives the request back then.
    fn send<T>(&self, to: impl FnOnce(&Running) -> Sender<T>, request: T) -> Result<(), T> {
        // The sender is cloned so that the lock is not held where a full queue blocks.
        let sender = lock(&self.running).as_ref().map(to);
        match sender {
            Some(sender) => sender.send(request).map_err(|flume::SendError(request)| request),
            None => Err(request),
        }
    }

    fn ask_registry<T: Send + 'static>(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> registry::Ask,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let (reply, answer) = oneshot::channel();
        // Where it cannot be sent, the reply is dropped, which the answer tells.
        let _ = self.send(|running| running.registry.clone(), ask(reply));
        async move { answer.await.unwrap_or(Err(StoreError::Closed)) }.boxed()
    }
}

/// What a thread does.
type Work = Box<dyn FnOnce() + Send>;

enum OpenOnError {
    Recover(RecoverError),
    /// Of a thread, or of a further handle of the newest segment.
    Start(io::Error),
}

fn open_error(path: &Path, error: RecoverError) -> OpenError {
    match error {
        RecoverError::Io { file, error } => OpenError::Io { path: file, error },
        RecoverError::Damaged { file, offset, what } => OpenError::Damaged { file, offset, what },
        RecoverError::Missing => OpenError::LogMissing {
            path: path.display().to_string(),
        },
    }
}

fn start(tail: Tail, registry: Registry, shared: &Arc<Shared>, disk: &Arc<dyn Disk>) -> io::Result<Running> {
    let (filler_in, woken) = flume::bounded(1);
    let log = Log::new(Arc::clone(shared), Arc::clone(disk), tail, filler_in)?;
    let (registry_in, registry_asks) = flume::bounded(registry::ASKS_WAITING_MAX);
    let (asks_in, asks) = flume::bounded(READS_WAITING_MAX);
    let mut running = Running {
        pipeline: Pipeline::new(log, shared, Arc::clone(disk)),
        asks: asks_in,
        registry: registry_in,
        threads: Vec::new(),
        lock: None,
    };
    let mut work: Vec<(&str, Work)> = Vec::new();
    for number in 0..LANES {
        let lane = Lane::new(&running.pipeline, number);
        work.push(("weft-log", Box::new(move || lane.run())));
    }
    let filler = Filler::new(Arc::clone(shared), Arc::clone(disk), woken);
    work.push(("weft-log-fill", Box::new(move || filler.run())));
    let registry_shared = Arc::clone(shared);
    let serve_registry = move || registry.run(&registry_shared, &registry_asks);
    work.push(("weft-registry", Box::new(serve_registry)));
    for _ in 0..READERS {
        let reader = Reader {
            shared: Arc::clone(shared),
            disk: Arc::clone(disk),
            asks: asks.clone(),
        };
        work.push(("weft-log-read", Box::new(move || reader.run())));
    }
    for (name, work) in work {
        match spawn(name, work) {
            Ok(handle) => running.threads.push(handle),
            Err(error) => {
                // Those that run end by it, and by what is dropped here.
                running.pipeline.end();
                return Err(error);
            }
        }
    }
    Ok(running)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.into()).spawn(work)
}

impl Running {
    /// Ends all threads, the log durable, and only then gives up the directory.
    fn end(self) -> Result<(), StoreError> {
        let Self {
            pipeline,
            asks,
            registry,
            threads,
            lock,
        } = self;
        drop((asks, registry));
        let (reply, closed) = flume::bounded(1);
        // Where a lane ended early nobody takes it, which the outcome tells.
        drop(pipeline.push(Request::Close(reply)));
        drop(pipeline);
        let outcome = closed.recv().unwrap_or(Err(StoreError::Closed));
        for handle in threads {
            if handle.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
        drop(lock);
        outcome
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        let Some(running) = lock(&self.running).take() else {
            return;
        };
        let this = thread::current().id();
        let is_own_thread = running.threads.iter().any(|handle| handle.thread().id() == this);
        let end = move || {
            if let Err(error) = running.end() {
                tracing::error!(%error, "the store was dropped and could not be closed");
            }
        };
        // A completion may drop the store's last reference on one of its own threads, which cannot wait for itself.
        match is_own_thread {
            false => end(),
            true => {
                if let Err(error) = spawn("weft-store-end", end) {
                    tracing::error!(%error, "no thread could be started to close the dropped store");
                }
            }
        }
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore")
            .field("stats", &self.shared.stats())
            .finish_non_exhaustive()
    }
}

impl Store for EmbeddedStore {
    fn seed(&self) -> u64 {
        self.seed
    }

    fn claim(&self, shards: Vec<ShardId>) -> BoxFuture<'static, Result<Vec<Fence>, StoreError>> {
        self.ask_registry(|reply| registry::Ask::Claim { shards, reply })
    }

    fn load(&self, shard: ShardId) -> BoxFuture<'static, Result<ShardImage, StoreError>> {
        if let Some(image) = self.shared.take_image(shard) {
            return ready(Ok(image)).boxed();
        }
        let (reply, answer) = oneshot::channel();
        let (snapshot_in, snapshot) = flume::bounded(1);
        // Where one cannot be sent, its reply is dropped, which the answer tells.
        self.request(Request::Snapshot(snapshot_in));
        let load = Ask::Load { shard, snapshot, reply };
        let _ = self.send(|running| running.asks.clone(), load);
        async move { answer.await.unwrap_or(Err(StoreError::Closed)) }.boxed()
    }

    fn commit(&self, commits: Vec<ShardCommit>, level: Durability, done: CommitDone) {
        let answer = Answer::new(commits.len(), done);
        self.request(Request::Commit { commits, level, answer });
    }

    fn read(&self, shard: ShardId, seqs: Vec<Seq>, done: ReadDone) {
        let owed = Owed::new(seqs.len(), done);
        let _ = self.send(|running| running.asks.clone(), Ask::Read { shard, seqs, owed });
    }

    fn write_records(&self, ops: Vec<RecordOp>) -> BoxFuture<'static, Result<(), StoreError>> {
        self.ask_registry(|reply| registry::Ask::Write { ops, reply })
    }

    fn scan_records(&self, table: Table) -> BoxFuture<'static, Result<Vec<(String, Vec<u8>)>, StoreError>> {
        self.ask_registry(|reply| registry::Ask::Scan { table, reply })
    }

    fn stats(&self) -> StoreStats {
        self.shared.stats()
    }

    fn close(&self) -> BoxFuture<'static, Result<(), StoreError>> {
        let Some(running) = lock(&self.running).take() else {
            return ready(Ok(())).boxed();
        };
        let (reply, ended) = oneshot::channel();
        // Joining blocks, and the caller may be on a runtime's thread.
        let spawned = spawn("weft-store-end", move || {
            let _ = reply.send(running.end());
        });
        let failed = |error: io::Error| StoreError::Unknown {
            what: format!("no thread could be started to close the store: {error}"),
        };
        async move {
            spawned.map_err(failed)?;
            ended.await.unwrap_or(Err(StoreError::Closed))
        }
        .boxed()
    }
}

/// A number that nobody can guess.
fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes, or nothing here is safe");
    u64::from_le_bytes(bytes)
}
