//! The two threads behind a commit: the writer turns what waits into groups, the syncer makes them durable and answers.
//!
//! While one batch is being synced the next is built and written, and what comes in meanwhile is the one after:
//! batches grow with the load and with the slowness of the disk (with four commits of 100 messages in flight 1.3 to
//! 1.5 times the throughput of one thread that writes and syncs in turn), and an idle store has the latency of one
//! sync. Answers are given in the order of the commits, by the syncer alone. Start at [`Writer::run`].

use std::sync::{Arc, atomic::Ordering};

use flume::{Receiver, Sender, TryRecvError};

use super::{
    disk::Disk,
    log::{Cleaned, GROUP_BYTES_MAX, Log},
    recover::Snapshot,
    segments::Segment,
    shared::Shared,
};
use crate::router::port::{CommitDone, CommitOutcome, Durability, ShardCommit, StoreError};

/// Commits that wait for the writer before [`crate::router::port::Store::commit`] blocks: far above what callers, who
/// keep a handful each in flight, ever have, so that a completion may commit again without waiting for itself.
pub(super) const REQUESTS_WAITING_MAX: usize = 1024;
/// Written batches that wait for the syncer: one is being synced, one waits, the next gathers.
const BATCHES_WAITING_MAX: usize = 1;
/// Commits of one batch: bounds how long the first of them waits for the last to be encoded.
const BATCH_COMMITS_MAX: usize = 1024;

/// A commit's answer. Given exactly once, also where a thread ends early.
pub(super) struct Answer {
    done: Option<CommitDone>,
    /// The answer to each shard's part if nobody gives another.
    otherwise: StoreError,
    parts: usize,
}

impl Answer {
    pub(super) fn new(parts: usize, done: CommitDone) -> Self {
        Self {
            done: Some(done),
            otherwise: StoreError::Closed,
            parts,
        }
    }

    fn give(mut self, outcome: CommitOutcome) {
        if let Some(done) = self.done.take() {
            done(outcome);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(vec![Err(self.otherwise.clone()); self.parts]);
        }
    }
}

/// What the writer is asked.
pub(super) enum Request {
    Commit {
        commits: Vec<ShardCommit>,
        level: Durability,
        answer: Answer,
    },
    Snapshot(Sender<Result<Snapshot, StoreError>>),
    /// Make everything durable and end.
    Close(Sender<Result<(), StoreError>>),
}

/// Commits whose groups are written.
struct Written {
    segment: Arc<Segment>,
    upto: u32,
    commits: Vec<(Answer, Durability, CommitOutcome)>,
}

/// The writer's thread.
pub(super) struct Writer {
    log: Log,
    shared: Arc<Shared>,
    requests: Receiver<Request>,
    written: Sender<Written>,
}

/// The syncer's thread.
pub(super) struct Syncer {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    written: Receiver<Written>,
}

/// Both threads' work, and where to send requests.
pub(super) fn pipeline(log: Log, shared: &Arc<Shared>, disk: Arc<dyn Disk>) -> (Writer, Syncer, Sender<Request>) {
    let (requests_in, requests) = flume::bounded(REQUESTS_WAITING_MAX);
    let (written_in, written) = flume::bounded(BATCHES_WAITING_MAX);
    let writer = Writer {
        log,
        shared: Arc::clone(shared),
        requests,
        written: written_in,
    };
    let syncer = Syncer {
        shared: Arc::clone(shared),
        disk,
        written,
    };
    (writer, syncer, requests_in)
}

impl Writer {
    /// Works until asked to close, or until nobody can ask any more.
    pub(super) fn run(mut self) {
        self.log.provide_reserve();
        let mut is_idle = false;
        loop {
            match self.next(is_idle) {
                Ok(Some(request)) => {
                    is_idle = false;
                    if let Some(reply) = self.batch(request) {
                        let outcome = self.log.close();
                        // Nobody may wait for the answer any more.
                        let _ = reply.send(outcome);
                        return;
                    }
                }
                Ok(None) => is_idle = !matches!(self.log.clean(), Ok(Cleaned::Some)),
                Err(()) => {
                    if let Err(error) = self.log.close() {
                        tracing::error!(%error, "the store was dropped and could not be closed");
                    }
                    return;
                }
            }
        }
    }

    /// The next request; `None` where there is none yet and the log may be cleaned meanwhile.
    fn next(&self, is_idle: bool) -> Result<Option<Request>, ()> {
        if is_idle || !self.log.wants_cleaning() {
            return self.requests.recv().map(Some).map_err(|_| ());
        }
        match self.requests.try_recv() {
            Ok(request) => Ok(Some(request)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(()),
        }
    }

    /// Takes all that waits, writes it and hands it to the syncer. Returns who asked to close.
    fn batch(&mut self, first: Request) -> Option<Sender<Result<(), StoreError>>> {
        let mut commits = Vec::new();
        let mut closing = None;
        let mut request = Some(first);
        // An error is kept in the store's health, where the commits of this batch meet it.
        let _ = self.log.clean();
        while let Some(taken) = request {
            match taken {
                Request::Commit {
                    commits: parts,
                    level,
                    mut answer,
                } => {
                    answer.otherwise = StoreError::Unknown {
                        what: "the store's writer ended".into(),
                    };
                    let outcome = parts.iter().map(|part| self.log.append(part)).collect();
                    commits.push((answer, level, outcome));
                }
                Request::Snapshot(reply) => {
                    let _ = reply.send(self.log.snapshot());
                }
                Request::Close(reply) => {
                    closing = Some(reply);
                    break;
                }
            }
            if commits.len() >= BATCH_COMMITS_MAX || self.log.buffered() >= GROUP_BYTES_MAX {
                break;
            }
            request = self.requests.try_recv().ok();
        }
        let _ = self.log.flush();
        self.hand_over(commits);
        closing
    }

    fn hand_over(&mut self, mut commits: Vec<(Answer, Durability, CommitOutcome)>) {
        if let Some(unknown) = self.shared.health.unknown() {
            for (_, _, outcome) in &mut commits {
                make_unknown(outcome, &unknown);
            }
        }
        let (segment, upto) = self.log.position();
        if !commits.is_empty() {
            let written = Written { segment, upto, commits };
            // The syncer outlives the writer; should it not, the answers say so when they are dropped.
            let _ = self.written.send(written);
        }
    }
}

fn make_unknown(outcome: &mut CommitOutcome, unknown: &StoreError) {
    for part in outcome.iter_mut().filter(|part| part.is_ok()) {
        *part = Err(unknown.clone());
    }
}

impl Syncer {
    /// Works until the writer ends.
    pub(super) fn run(self) {
        while let Ok(first) = self.written.recv() {
            let mut batch = vec![first];
            batch.extend(self.written.try_iter());
            self.finish(batch);
        }
    }

    fn finish(&self, mut batch: Vec<Written>) {
        let asks_for_sync = |(_, level, outcome): &(Answer, Durability, CommitOutcome)| {
            *level == Durability::Fsync && outcome.iter().any(Result::is_ok)
        };
        let failure = match batch.last() {
            Some(last) if batch.iter().any(|written| written.commits.iter().any(asks_for_sync)) => {
                // Groups in an older segment were synced before the last one began.
                self.shared.sync(&last.segment, last.upto, &*self.disk).err()
            }
            _ => None,
        };
        let unknown = failure.and_then(|_| self.shared.health.unknown());
        for (answer, level, mut outcome) in batch.drain(..).flat_map(|written| written.commits) {
            if let (Some(unknown), Durability::Fsync) = (&unknown, level) {
                make_unknown(&mut outcome, unknown);
            }
            self.shared.counters.commits.fetch_add(1, Ordering::Relaxed);
            answer.give(outcome);
        }
    }
}
