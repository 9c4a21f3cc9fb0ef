//! The two threads behind a commit: each turns what waits into a group, writes it, makes it durable and answers.
//!
//! They are alike and take turns at the log's end (the one that writes is the only one that has the [`Log`]), so that a
//! commit has one wake-up in front of its sync. While one batch is being synced the next is built, written and, where
//! both are small, synced beside it: two syncs at once are done in 1.4 to 1.9 times the rate of one, which is what
//! single messages gain from. Under load what comes in meanwhile waits and shares the next sync: batches grow with the
//! load and with the slowness of the disk. Answers are given in the order of the commits. Start at [`Lane::run`].

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use flume::Sender;

use super::{
    disk::{Disk, DiskFile},
    log::{Cleaned, GROUP_BYTES_MAX, Log},
    recover::Snapshot,
    segments::Reach,
    shared::Shared,
};
use crate::{
    router::port::{CommitDone, CommitOutcome, Durability, ShardCommit, StoreError},
    store::lock,
};

/// Threads that write and sync, and so batches under way: one that is synced and one that is written, or two that are
/// synced. Each has its own handle of the segment.
pub(super) const LANES: usize = 2;
/// Commits that wait before [`crate::router::port::Store::commit`] blocks: far above what callers, who keep a handful
/// each in flight, ever have, so that a completion may commit again without waiting for itself.
pub(super) const REQUESTS_WAITING_MAX: usize = 1024;
/// Commits of one batch: bounds how long the first of them waits for the last to be encoded.
const BATCH_COMMITS_MAX: usize = 1024;
/// The next batch starts while one is being synced only if that one has at most so many bytes. Behind a larger one
/// what comes in gathers: a processor that is busy gains more from fewer syncs than the disk from two at once.
const OVERLAP_BYTES_MAX: usize = 4 * 1024;

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
    Close(Closing),
}

/// Where the outcome of closing goes.
type Closing = Sender<Result<(), StoreError>>;

/// A commit and what became of it so far.
type Decided = (Answer, Durability, CommitOutcome);

/// A batch whose group is written.
struct Written {
    /// Its place in the order of answers.
    ticket: u64,
    reach: Reach,
    /// The lane's own handle of the segment.
    handle: Arc<dyn DiskFile>,
    commits: Vec<Decided>,
}

/// What the lanes and those who ask share.
#[derive(Default)]
struct State {
    requests: VecDeque<Request>,
    /// A lane has the log's end.
    is_writing: bool,
    /// Batches that are being synced, and the bytes of the one that was written last.
    syncing: usize,
    syncing_bytes: usize,
    /// Lanes that wait for work, and callers that wait for room.
    idle: usize,
    blocked: usize,
    next_ticket: u64,
    answered: u64,
    /// The log may be cleaned where nothing else is to be done.
    is_cleaning_due: bool,
    /// Nothing more is taken: the store closes, or a lane ended early.
    is_over: bool,
    /// A lane ended early: answers whose turn never comes are dropped.
    is_broken: bool,
}

impl State {
    /// Whether a lane that is free may take the log's end.
    fn has_work(&self) -> bool {
        let is_overlapping = self.syncing == 0 || self.syncing_bytes <= OVERLAP_BYTES_MAX;
        !self.is_writing && is_overlapping && (!self.requests.is_empty() || self.is_cleaning_due)
    }
}

/// The way in, and what the lanes wait on.
pub(super) struct Pipeline {
    state: Mutex<State>,
    /// There may be work for a lane.
    work: Condvar,
    /// The next answers may be given.
    turn: Condvar,
    /// Requests may be taken again.
    room: Condvar,
    log: Mutex<Log>,
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
}

impl Pipeline {
    pub(super) fn new(log: Log, shared: &Arc<Shared>, disk: Arc<dyn Disk>) -> Arc<Self> {
        let state = State {
            // A start may have found a log that wants cleaning.
            is_cleaning_due: true,
            ..State::default()
        };
        Arc::new(Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            turn: Condvar::new(),
            room: Condvar::new(),
            log: Mutex::new(log),
            shared: Arc::clone(shared),
            disk,
        })
    }

    /// Hands in a request; gives it back where the store is closed. Blocks while too many wait.
    pub(super) fn push(&self, request: Request) -> Result<(), Request> {
        let mut state = lock(&self.state);
        while state.requests.len() >= REQUESTS_WAITING_MAX && !state.is_over {
            state.blocked += 1;
            state = wait(&self.room, state);
            state.blocked -= 1;
        }
        if state.is_over {
            return Err(request);
        }
        state.requests.push_back(request);
        self.wake_lane(state);
        Ok(())
    }

    /// Takes no more requests; what waits is answered as closed. Where nobody closed the store properly.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.is_over = true;
        let refused = std::mem::take(&mut state.requests);
        self.work.notify_all();
        self.room.notify_all();
        drop(state);
        drop(refused);
    }

    fn wake_lane(&self, state: MutexGuard<'_, State>) {
        let is_wanted = state.idle > 0 && state.has_work();
        drop(state);
        if is_wanted {
            self.work.notify_one();
        }
    }
}

fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// One of the threads.
pub(super) struct Lane {
    pipeline: Arc<Pipeline>,
    number: usize,
}

/// What a lane's turn at the log's end came to.
enum Turn {
    Batch(Written),
    Last(Written, Closing),
    /// Nothing was written.
    Nothing,
}

impl Lane {
    /// The lane of that number, below [`LANES`]; each number is used once.
    pub(super) fn new(pipeline: &Arc<Pipeline>, number: usize) -> Self {
        Self {
            pipeline: Arc::clone(pipeline),
            number,
        }
    }

    /// Works until the store closes.
    pub(super) fn run(self) {
        // Also where this lane panics: nobody may wait for it then.
        let _ended = Ended(&self.pipeline);
        while self.take_log() {
            match self.write() {
                Turn::Batch(written) => self.finish(written),
                Turn::Nothing => {}
                Turn::Last(written, reply) => {
                    self.finish(written);
                    let outcome = lock(&self.pipeline.log).close();
                    // Nobody may wait for the answer any more.
                    let _ = reply.send(outcome);
                }
            }
        }
    }

    /// Waits until the log's end is this lane's; false: the store closes.
    fn take_log(&self) -> bool {
        let mut state = lock(&self.pipeline.state);
        loop {
            if state.is_over {
                return false;
            }
            if state.has_work() {
                state.is_writing = true;
                return true;
            }
            state.idle += 1;
            state = wait(&self.pipeline.work, state);
            state.idle -= 1;
        }
    }

    /// Takes all that waits and writes it, or cleans where nothing waits; then lets go of the log's end.
    fn write(&self) -> Turn {
        let pipeline = &*self.pipeline;
        let mut log = lock(&pipeline.log);
        // An error is kept in the store's health, where the commits of this batch meet it.
        let cleaned = log.clean();
        let (mut commits, closing) = self.gather(&mut log);
        let _ = log.flush();
        if let Some(unknown) = pipeline.shared.health.unknown() {
            for (_, _, outcome) in &mut commits {
                make_unknown(outcome, &unknown);
            }
        }
        let reach = log.reach();
        let handle = log.handle(self.number);
        // Where only cleaning was tried and won nothing, it waits for the next commit.
        let may_win = !commits.is_empty() || matches!(cleaned, Ok(Cleaned::Some));
        let is_cleaning_due = may_win && log.wants_cleaning();
        let bytes = log.take_flushed();
        drop(log);
        let mut state = lock(&pipeline.state);
        state.is_cleaning_due = is_cleaning_due;
        // The last batch keeps the log's end: nothing is written after it.
        state.is_writing = closing.is_some();
        state.is_over |= closing.is_some();
        if commits.is_empty() && closing.is_none() {
            pipeline.wake_lane(state);
            return Turn::Nothing;
        }
        let written = Written {
            ticket: state.next_ticket,
            reach,
            handle,
            commits,
        };
        state.next_ticket += 1;
        state.syncing += 1;
        state.syncing_bytes = bytes;
        pipeline.wake_lane(state);
        match closing {
            None => Turn::Batch(written),
            Some(reply) => {
                pipeline.end();
                Turn::Last(written, reply)
            }
        }
    }

    /// Appends the commits that wait. Returns them with what became of each so far, and who asked to close.
    fn gather(&self, log: &mut Log) -> (Vec<Decided>, Option<Closing>) {
        let mut commits = Vec::new();
        while commits.len() < BATCH_COMMITS_MAX && log.buffered() < GROUP_BYTES_MAX {
            match self.next_request() {
                Some(Request::Commit {
                    commits: parts,
                    level,
                    mut answer,
                }) => {
                    answer.otherwise = StoreError::Unknown {
                        what: "the store's writer ended".into(),
                    };
                    let outcome = parts.iter().map(|part| log.append(part)).collect();
                    commits.push((answer, level, outcome));
                }
                Some(Request::Snapshot(reply)) => {
                    let _ = reply.send(log.snapshot());
                }
                Some(Request::Close(reply)) => return (commits, Some(reply)),
                None => break,
            }
        }
        (commits, None)
    }

    fn next_request(&self) -> Option<Request> {
        let mut state = lock(&self.pipeline.state);
        let request = state.requests.pop_front();
        let is_room_wanted = state.blocked > 0;
        drop(state);
        if is_room_wanted {
            self.pipeline.room.notify_one();
        }
        request
    }

    /// Makes a batch durable and answers, once all before it was answered.
    fn finish(&self, written: Written) {
        let pipeline = &*self.pipeline;
        let asks_for_sync =
            |(_, level, outcome): &Decided| *level == Durability::Fsync && outcome.iter().any(Result::is_ok);
        if written.commits.iter().any(asks_for_sync) {
            // Groups in an older segment were synced before this one began. An error is kept in the store's health.
            let _ = pipeline.shared.sync(&written.reach, &*written.handle, &*pipeline.disk);
        }
        let Written { ticket, commits, .. } = written;
        let mut state = lock(&pipeline.state);
        state.syncing -= 1;
        if state.idle > 0 && state.has_work() {
            pipeline.work.notify_one();
        }
        while state.answered != ticket && !state.is_broken {
            state = wait(&pipeline.turn, state);
        }
        if state.is_broken {
            return;
        }
        drop(state);
        // Of an error of the other lane's sync, too: what one handle is told of, another may hear of later.
        let unknown = pipeline.shared.health.unknown();
        for (answer, level, mut outcome) in commits {
            if let (Some(unknown), Durability::Fsync) = (&unknown, level) {
                make_unknown(&mut outcome, unknown);
            }
            pipeline.shared.counters.commits.fetch_add(1, Ordering::Relaxed);
            answer.give(outcome);
        }
        lock(&pipeline.state).answered += 1;
        pipeline.turn.notify_one();
    }
}

fn make_unknown(outcome: &mut CommitOutcome, unknown: &StoreError) {
    for part in outcome.iter_mut().filter(|part| part.is_ok()) {
        *part = Err(unknown.clone());
    }
}

/// Sees to it that nobody waits for a lane that ended.
struct Ended<'a>(&'a Pipeline);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.0.state).is_broken = true;
        }
        self.0.end();
        self.0.turn.notify_all();
    }
}
