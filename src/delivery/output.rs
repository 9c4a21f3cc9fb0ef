//! What a shard's state machine wants done: answers, hand-outs, reads, relays, and counts of what happened.

use std::sync::Arc;

use super::{
    copies::Copies,
    credit::{Credit, WaitingWorkers},
    message::{ConsumerId, Lease},
    state::Publish,
};
use crate::frame::{
    Address, Frame, Run, Seq, ShardId,
    record::{Keep, Reason, Status},
};

/// What a caller learns of what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A message was taken in, now or before.
    Accepted(Acceptance),
    /// The queue is full: nothing was taken in.
    QueueFull { bound: &'static str },
    /// A settle is committed.
    Settled,
    /// The delivery id was stale: nothing changed.
    Stale,
    /// There is no such message here.
    Unknown,
    /// A dead letter went back into its queue.
    Replayed { seq: Seq },
    /// The commit failed; the caller of [`super::ShardState::handle_failed`] knows why.
    Failed,
}

/// How a message was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// `None` at QoS 0.
    pub seq: Option<Seq>,
    /// `None`: dropped (QoS 0).
    pub status: Option<Status>,
    pub duplicate: bool,
    pub recipients: u32,
    /// The session that it was handed to.
    pub consumer: Option<ConsumerId>,
    /// True where a session is attached that may get it.
    pub attended: bool,
}

/// One message for one session, to be settled.
#[derive(Clone, Debug)]
pub struct HandOut {
    pub consumer: ConsumerId,
    pub lease: (Seq, Lease),
    pub frame: Frame,
    pub queue: Address,
}

/// Messages that are not kept for one session, whose lane has room for them.
#[derive(Clone, Debug)]
pub struct PassedOn {
    pub consumer: ConsumerId,
    /// The session's, of which they have taken room in the lane: whoever cannot push them gives it back.
    pub credit: Arc<Credit>,
    pub run: Run,
    pub queue: Address,
}

/// Copies of a fan-out that go to one shard.
#[derive(Clone, Debug)]
pub struct Relay {
    pub seq: Seq,
    pub to: ShardId,
    pub frame: Frame,
    pub targets: Vec<Address>,
}

/// A fan-out of what is not kept: a copy for each target, in whichever shards they live. No cursor, nothing to confirm.
#[derive(Clone, Debug)]
pub struct PassedRelay<A> {
    pub run: Run,
    pub targets: Targets,
    /// QoS 1: what its sender is told, once each target's shard has looked at its copy.
    pub answer: Option<(A, Acceptance)>,
}

/// A topic's message with one target, for the target's shard ([`super::ShardState::handle_straight`]). Nothing of it was kept yet.
#[derive(Debug)]
pub struct Straight<A> {
    pub to: ShardId,
    pub publish: Box<Publish<A>>,
}

/// A stored message to be read: its frame is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load(pub Seq);

/// A message that will reach nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    pub seq: Seq,
    /// `None` where its frame is in the store alone.
    pub message_id: Option<String>,
    pub queue: Address,
    pub status: Status,
    pub reason: Reason,
}

/// One count for each quality of service, indexed by it.
pub type ByQos = [u64; 3];

/// What happened, for metrics. Each is a sum since the last time that the caller took it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub accepted: ByQos,
    pub duplicates: u64,
    pub refused_full: u64,
    pub dropped: u64,
    pub handed_out: ByQos,
    pub redelivered: u64,
    pub acknowledged: u64,
    pub expired: u64,
    pub dead_lettered: u64,
    pub rejected: u64,
    pub receipts_evicted_early: u64,
    pub dead_letters_evicted: u64,
}

/// Outputs of one or many calls; the caller drains them.
#[derive(Debug)]
pub struct Out<A> {
    pub answers: Vec<(A, Verdict)>,
    pub hand_outs: Vec<HandOut>,
    pub passed_on: Vec<PassedOn>,
    pub loads: Vec<Load>,
    pub relays: Vec<Relay>,
    pub passed_relays: Vec<PassedRelay<A>>,
    pub straight: Vec<Straight<A>>,
    /// Relays of another shard that are applied here: (source, its sequence).
    pub relayed: Vec<(ShardId, Seq)>,
    /// Sessions that got credit back, with the workers that wait for it.
    pub credited: Vec<(ConsumerId, WaitingWorkers)>,
    /// Inboxes that got a message while nobody is attached.
    pub unattended: Vec<Address>,
    /// For the log: whoever misses a message finds it there.
    pub given_up: Vec<GivenUp>,
    pub counts: Counts,
}

impl<A> Default for Out<A> {
    fn default() -> Self {
        Self {
            answers: Vec::new(),
            hand_outs: Vec::new(),
            passed_on: Vec::new(),
            loads: Vec::new(),
            relays: Vec::new(),
            passed_relays: Vec::new(),
            straight: Vec::new(),
            relayed: Vec::new(),
            credited: Vec::new(),
            unattended: Vec::new(),
            given_up: Vec::new(),
            counts: Counts::default(),
        }
    }
}

/// What follows a commit.
#[derive(Debug)]
pub enum After<A> {
    /// A message was enqueued.
    Enqueued { seq: Seq, answer: Option<A> },
    /// A duplicate came while the first one's commit was under way.
    Duplicate { seq: Seq, answer: Option<A> },
    /// A message was settled, with its receipt in the same commit.
    Settled { seq: Seq, keep: Keep, answer: Option<A> },
    /// A second acknowledgement came while the first one's commit was under way.
    SettledToo { seq: Seq, answer: Option<A> },
    /// Copies that shard `source` relayed under a sequence are in. They come along in case that the commit fails.
    Relayed {
        source: ShardId,
        seq: Seq,
        copies: Box<Copies>,
    },
    /// A copy was rejected: its receipt, and nothing else, is in.
    Rejected { seq: Seq, answer: Option<A> },
    /// A dead letter was replayed.
    Replayed { seq: Seq, answer: Option<A> },
}

/// A list that many stored messages share.
pub type Targets = Arc<[Address]>;
