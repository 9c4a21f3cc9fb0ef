//! The ports: what the router needs of the world, as traits. Stores and policies implement them; the node wires them.
//!
//! Start at [`Store`]. No implementation is named here.

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use thiserror::Error;

use crate::frame::{
    Frame, Seq, ShardId,
    record::{Fence, Op, ShardImage},
};

/// How safe a commit is before it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Taken by the store's process; a crash of the node may lose it.
    Memory,
    /// On stable storage of this node (`fdatasync` returned).
    #[default]
    Fsync,
}

/// Why a store did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Another owner claimed the shard. Nothing was written.
    #[error("{shard} belongs to another owner now; nothing was written")]
    Fenced { shard: ShardId },
    /// No room: refused before anything was written. Worth a retry later.
    #[error("the store is full ({what}); nothing was written")]
    Full { what: String },
    /// It is not known whether the write survives (a failed fsync). The store is read-only until the node restarts.
    #[error("the outcome is unknown: {what}; the store is read-only until the node restarts")]
    Unknown { what: String },
    /// The store takes no writes, after an error of the kind above. Nothing was written.
    #[error("the store is read-only since an earlier error: {what}")]
    ReadOnly { what: String },
    /// A message that should be there is damaged or gone.
    #[error("stored data is damaged: {what}")]
    Damaged { what: String },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// The operations of one shard, under its fence. Applied all or none, in order.
#[derive(Debug)]
pub struct ShardCommit {
    pub shard: ShardId,
    pub fence: Fence,
    pub ops: Vec<Op>,
}

/// What became of a commit, shard by shard, in the order given.
pub type CommitOutcome = Vec<Result<(), StoreError>>;

/// Called once with the outcome, from any thread; must not block. It may commit again, so a store holds no lock of its own meanwhile.
pub type CommitDone = Box<dyn FnOnce(CommitOutcome) + Send>;

/// Called once with the frames, in the order asked, from any thread; must not block.
pub type ReadDone = Box<dyn FnOnce(Vec<Result<Frame, StoreError>>) + Send>;

/// A family of small records that are looked up by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// Registered agents by id.
    Agents,
    /// Groups by id.
    Groups,
    /// Durable topic subscriptions by session address and filter.
    Subscriptions,
    /// What edges keep of sessions that outlive their connections; a key begins with the session's address.
    Sessions,
    /// Retained messages by topic.
    Retained,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Agents,
        Self::Groups,
        Self::Subscriptions,
        Self::Sessions,
        Self::Retained,
    ];
}

/// Keys and values of a table.
pub type Records = Vec<(String, Vec<u8>)>;

/// A change of a small record.
#[derive(Clone, Debug)]
pub enum RecordOp {
    Put { table: Table, key: String, value: Vec<u8> },
    Delete { table: Table, key: String },
}

/// Sizes and counts that operators watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Messages held, waiting and kept.
    pub messages: u64,
    /// Bytes of records that still count.
    pub live_bytes: u64,
    /// Bytes that the store takes on disk.
    pub disk_bytes: u64,
    /// Commits that completed.
    pub commits: u64,
    /// Calls that made data stable (`fdatasync`).
    pub syncs: u64,
    /// Bytes written to the log.
    pub written_bytes: u64,
    /// True once the store takes no more writes.
    pub read_only: bool,
}

/// Where what must survive is kept. Built for batches and fences; every implementation passes one contract suite.
///
/// Commits of one caller are applied in the order given, and their completions are called in that order.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// A number chosen once for this store's life, which keys [`crate::frame::record::MessageKey`].
    fn seed(&self) -> u64;

    /// Takes ownership of shards: the new fences are durable before this completes, and every older fence is refused from then on.
    fn claim(&self, shards: Vec<ShardId>) -> BoxFuture<'static, Result<Vec<Fence>, StoreError>>;

    /// All that is held of a shard, without the messages' bytes.
    fn load(&self, shard: ShardId) -> BoxFuture<'static, Result<ShardImage, StoreError>>;

    /// Applies operations, shard by shard all or none, and calls `done` once they are as safe as `level` says. Never blocks for long:
    /// the caller keeps a bounded number of commits in flight.
    fn commit(&self, commits: Vec<ShardCommit>, level: Durability, done: CommitDone);

    /// Reads messages of a shard by sequence.
    fn read(&self, shard: ShardId, seqs: Vec<Seq>, done: ReadDone);

    /// Changes small records, all or none, durable before this completes.
    fn write_records(&self, ops: Vec<RecordOp>) -> BoxFuture<'static, Result<(), StoreError>>;

    /// All records of a table, in order of key.
    fn scan_records(&self, table: Table) -> BoxFuture<'static, Result<Records, StoreError>>;

    /// Sizes and counts now.
    fn stats(&self) -> StoreStats;

    /// Makes everything stable and takes no more work.
    fn close(&self) -> BoxFuture<'static, Result<(), StoreError>>;
}

/// What an agent wants to do, to be allowed or denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Send to an address, given as text.
    Send { to: &'a str },
    /// Receive a message that was sent to an address.
    Receive { to: &'a str },
    /// Subscribe to a filter, given as text.
    Subscribe { filter: &'a str },
    /// Register, change or remove an agent.
    ManageAgent { agent: &'a str },
    /// Create, change or remove a group.
    ManageGroup { group: &'a str },
    /// Read another agent's state, receipts, dead letters or sessions.
    Inspect,
}

/// Whether an agent may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny,
}

/// Who may do what. Asked at the door and again at delivery; must answer from memory.
pub trait Policy: Send + Sync + fmt::Debug + 'static {
    /// Decides for an agent, given by its id.
    fn decide(&self, agent: &str, action: Action<'_>) -> Decision;

    /// Nobody at all may receive what is sent to an address: nothing of it is kept for those who subscribed to more.
    fn is_closed(&self, _to: &str) -> bool {
        false
    }
}

/// Development mode: everyone may do everything. The node refuses it on any but a loopback address.
#[derive(Clone, Copy, Debug)]
pub struct AllowAll;

impl Policy for AllowAll {
    fn decide(&self, _agent: &str, _action: Action<'_>) -> Decision {
        Decision::Allow
    }
}

/// The ports that a router stands on.
#[derive(Clone, Debug)]
pub struct Ports {
    pub store: Arc<dyn Store>,
    pub policy: Arc<dyn Policy>,
}
