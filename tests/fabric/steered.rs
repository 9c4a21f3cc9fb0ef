//! A store and a policy that tests steer: commits are held back or fail, and agents are forbidden to receive.
//!
//! The store outlives its fabric, so that a second one started on it is what comes after a crash.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt, ready};
use weft::{
    frame::{
        Seq, ShardId,
        record::{Fence, ShardImage},
    },
    router::port::{
        Action, CommitDone, Decision, Durability, Policy, ReadDone, RecordOp, Records, ShardCommit, Store, StoreError,
        StoreStats, Table,
    },
    store::memory::MemoryStore,
};

/// How long the reading of a table takes.
const SCAN: Duration = Duration::from_millis(20);

/// What becomes of commits.
#[derive(Clone, Debug)]
pub enum Mode {
    Pass,
    /// They wait until they are let go.
    Hold,
    /// They are not written, and this is said of them.
    Fail(StoreError),
    /// They are written, and this is said of them all the same.
    WriteAndFail(StoreError),
}

type Held = (Vec<ShardCommit>, Durability, CommitDone);

pub struct SteeredStore {
    inner: MemoryStore,
    state: Mutex<State>,
}

/// Held while commits are handed on, so that they are completed in their order.
struct State {
    mode: Mode,
    held: VecDeque<Held>,
}

impl fmt::Debug for SteeredStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SteeredStore")
    }
}

impl SteeredStore {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(7, 1 << 30),
            state: Mutex::new(State {
                mode: Mode::Pass,
                held: VecDeque::new(),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn set(&self, mode: Mode) {
        self.state().mode = mode;
    }

    pub fn held(&self) -> usize {
        self.state().held.len()
    }

    /// Lets the oldest commit that waits go. False: there is none.
    pub fn let_one_go(&self) -> bool {
        // Without the lock: a completion may commit again.
        let oldest = self.state().held.pop_front();
        oldest.is_some_and(|(commits, level, done)| {
            self.inner.commit(commits, level, done);
            true
        })
    }

    /// Lets everything go, now and from now on.
    pub fn let_go(&self) {
        loop {
            while self.let_one_go() {}
            let mut state = self.state();
            // Not before the last was handed on, so that nothing new passes it.
            if state.held.is_empty() {
                state.mode = Mode::Pass;
                return;
            }
        }
    }

    /// The process that used it is dead: what it had not committed is gone, and the store takes a new owner's commits.
    pub fn crash(&self) {
        let mut state = self.state();
        state.held.clear();
        state.mode = Mode::Pass;
    }
}

impl Store for SteeredStore {
    fn seed(&self) -> u64 {
        self.inner.seed()
    }

    fn claim(&self, shards: Vec<ShardId>) -> BoxFuture<'static, Result<Vec<Fence>, StoreError>> {
        self.inner.claim(shards)
    }

    fn load(&self, shard: ShardId) -> BoxFuture<'static, Result<ShardImage, StoreError>> {
        self.inner.load(shard)
    }

    fn commit(&self, commits: Vec<ShardCommit>, level: Durability, done: CommitDone) {
        let (mut state, count) = (self.state(), commits.len());
        match state.mode.clone() {
            Mode::Pass => self.inner.commit(commits, level, done),
            Mode::Hold => state.held.push_back((commits, level, done)),
            Mode::Fail(error) => done(vec![Err(error); count]),
            Mode::WriteAndFail(error) => {
                self.inner
                    .commit(commits, level, Box::new(move |_| done(vec![Err(error); count])));
            }
        }
    }

    fn read(&self, shard: ShardId, seqs: Vec<Seq>, done: ReadDone) {
        self.inner.read(shard, seqs, done);
    }

    /// Slow for some and quick for others, so that changes overtake each other wherever they may.
    fn write_records(&self, ops: Vec<RecordOp>) -> BoxFuture<'static, Result<(), StoreError>> {
        let written = self.inner.write_records(ops);
        async move {
            let outcome = written.await;
            for _ in 0..rand::random_range(0..20) {
                tokio::task::yield_now().await;
            }
            outcome
        }
        .boxed()
    }

    /// Slow, so that whatever should wait for it and does not is seen.
    fn scan_records(&self, table: Table) -> BoxFuture<'static, Result<Records, StoreError>> {
        let scanned = self.inner.scan_records(table);
        async move {
            tokio::time::sleep(SCAN).await;
            scanned.await
        }
        .boxed()
    }

    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }

    /// Stays open: the next fabric finds what was committed.
    fn close(&self) -> BoxFuture<'static, Result<(), StoreError>> {
        ready(Ok(())).boxed()
    }
}

/// Lets everyone do everything, but for receiving by those who are named.
#[derive(Debug, Default)]
pub struct Censor(Mutex<HashSet<&'static str>>);

impl Censor {
    pub fn forbid(&self, agent: &'static str) {
        self.0.lock().unwrap().insert(agent);
    }
}

impl Policy for Censor {
    fn decide(&self, agent: &str, action: Action<'_>) -> Decision {
        let receives = matches!(action, Action::Receive { .. });
        match receives && self.0.lock().unwrap().contains(agent) {
            true => Decision::Deny,
            false => Decision::Allow,
        }
    }
}
