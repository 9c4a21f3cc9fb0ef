//! The state of one shard: its queues, its messages, its receipts, and how a message enters.
//!
//! A pure machine: every call takes `now`; operations for the store gather inside until [`ShardState::take_commit`], and everything
//! that the world sees goes to an [`Out`]. `hand_out.rs` has the way to sessions, `settle.rs` the way out, `recover.rs` the start.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use hashbrown::{HashMap, HashTable};

use super::{
    Gate,
    config::Limits,
    copies::Line,
    credit::WorkerMark,
    message::{Lease, Message, State, Stored},
    output::{Acceptance, After, Out, Targets, Verdict},
    parted::Parted,
    queue::{Queue, QueueIx, QueueKind},
    receipts::{CopyKey, Receipts},
};
use crate::{
    frame::{
        Address, Frame, Seq, ShardId,
        record::{Enqueue, IdHash, MessageKey, Op, Reason, SettleNo, Status},
    },
    time::Timestamp,
};

/// A QoS 1 or 2 message at the door of its shard.
#[derive(Debug)]
pub struct Publish<A> {
    pub frame: Frame,
    pub key: MessageKey,
    pub id_hash: IdHash,
    pub route: Route,
    /// Who wants to know; `None`: nobody.
    pub answer: Option<A>,
}

/// Places that are set aside for a commit at most: what a full window of several senders brings. One takes about 400 bytes.
const EXPECTED_MAX: usize = 512;

/// Where in its shard a message goes.
#[derive(Clone, Debug)]
pub enum Route {
    /// To the queue that its own envelope names.
    Envelope {
        hash: u64,
        kind: QueueKind,
        retention: Duration,
    },
    /// To another queue: a copy of a fan-out.
    Copy { queue: Address },
    /// To many queues, by way of this shard's outbox.
    FanOut {
        hash: u64,
        targets: Targets,
        retention: Duration,
    },
    /// To the one queue behind a topic: straight to its shard where nothing of the topic is under way, else as a fan-out.
    Straight { hash: u64, target: Address },
}

impl Route {
    /// Bytes of its targets' names, which are written with the message.
    pub fn targets_bytes(&self) -> usize {
        match self {
            Self::FanOut { targets, .. } => targets.iter().map(|target| target.as_str().len()).sum(),
            Self::Envelope { .. } | Self::Copy { .. } | Self::Straight { .. } => 0,
        }
    }

    /// By way of the outbox, where it would go straight.
    #[must_use]
    pub fn by_outbox(self) -> Self {
        match self {
            Self::Straight { hash, target } => Self::FanOut {
                hash,
                targets: Arc::from([target]),
                retention: Duration::ZERO,
            },
            route => route,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Expire(Seq),
    BackoffEnds(Seq),
    VisibilityEnds(Seq, Lease),
    KeptAgesOut(Seq),
    /// A settle whose commit failed is tried again.
    SettleAgain(Seq),
    /// Copies whose commit failed are applied again.
    CopiesAgain(ShardId),
}

/// Who alone may have a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reserved {
    /// See [`Consumer::session`](super::Consumer::session).
    pub session: u64,
    /// When the message expires for everyone else.
    pub expires_at: Timestamp,
}

/// One shard.
#[derive(Debug)]
pub struct ShardState<A> {
    pub(super) limits: Arc<Limits>,
    pub(super) worker: WorkerMark,
    /// Boxed: room for more of them costs a pointer each.
    pub(super) queues: Vec<Option<Box<Queue>>>,
    pub(super) free_queues: Vec<QueueIx>,
    pub(super) by_address: HashTable<QueueIx>,
    pub(super) messages: Parted<Seq, Message>,
    /// The newest message or receipt with that key at that address.
    pub(super) newest: Parted<CopyKey, Seq>,
    pub(super) by_id: BTreeSet<(IdHash, Seq)>,
    pub(super) receipts: Receipts,
    pub(super) receipt_floor: SettleNo,
    /// Receipts evicted since the store was told.
    pub(super) floor_pending: usize,
    /// Up to where the copies of each source are confirmed, and what of a source is under way.
    pub(super) cursors: HashMap<ShardId, Seq>,
    pub(super) lines: HashMap<ShardId, Line>,
    /// Sources whose copies are to be looked at by the next pump.
    pub(super) copies_due: Vec<ShardId>,
    /// Bytes of copies in the commit that is being gathered, and the number of that commit.
    pub(super) copied_bytes: usize,
    pub(super) commit_no: u64,
    /// Fan-outs that are not relayed yet, oldest first, and how many are under way.
    pub(super) outbox: VecDeque<Seq>,
    pub(super) relaying: usize,
    pub(super) timers: BinaryHeap<Reverse<(Timestamp, Timer)>>,
    pub(super) next_seq: Seq,
    pub(super) next_settle: SettleNo,
    pub(super) next_lease: u64,
    pub(super) ops: Vec<Op>,
    pub(super) after: Vec<After<A>>,
    /// How many of both nobody waits for: settles that are answered to nobody, and receipts that age out.
    pub(super) unhurried: (usize, usize),
    /// How many of both the last commit had: as many places are set aside for the next one at once.
    expected: usize,
    /// Messages of queues that are shared which one session alone may have: it was sent them (see [`ShardState::handle_hold`]).
    pub(super) reserved: HashMap<Seq, Reserved>,
    /// Replays under way: the new message to its dead letter.
    pub(super) replaying: HashMap<Seq, Seq>,
    /// The last time that a pump or a timer ran.
    pub(super) latest: Timestamp,
    pub(super) body_budget: u64,
    pub(super) cached_bytes: u64,
    /// Messages that entered their lanes since the last pump.
    pub(super) fresh: Vec<Seq>,
    /// Queues that may have something to hand out.
    pub(super) dirty: Vec<QueueIx>,
}

impl<A> ShardState<A> {
    /// An empty shard under the claim with this epoch.
    pub fn new(epoch: u64, limits: Arc<Limits>, worker: WorkerMark) -> Self {
        Self {
            limits,
            worker,
            queues: Vec::new(),
            free_queues: Vec::new(),
            by_address: HashTable::new(),
            messages: Parted::default(),
            newest: Parted::default(),
            by_id: BTreeSet::new(),
            receipts: Receipts::default(),
            receipt_floor: SettleNo::default(),
            floor_pending: 0,
            cursors: HashMap::new(),
            lines: HashMap::new(),
            copies_due: Vec::new(),
            copied_bytes: 0,
            commit_no: 0,
            outbox: VecDeque::new(),
            relaying: 0,
            timers: BinaryHeap::new(),
            next_seq: Seq::first_of(epoch),
            next_settle: SettleNo::first_of(epoch),
            next_lease: Seq::first_of(epoch).raw(),
            ops: Vec::new(),
            after: Vec::new(),
            unhurried: (0, 0),
            expected: 0,
            reserved: HashMap::new(),
            replaying: HashMap::new(),
            latest: Timestamp::NEVER,
            body_budget: u64::MAX,
            cached_bytes: 0,
            fresh: Vec::new(),
            dirty: Vec::new(),
        }
    }

    /// The operations since the last call, and what follows once they are committed.
    pub fn take_commit(&mut self) -> (Vec<Op>, Vec<After<A>>) {
        (self.copied_bytes, self.commit_no) = (0, self.commit_no + 1);
        self.expected = self.ops.len().min(EXPECTED_MAX);
        self.unhurried = (0, 0);
        (std::mem::take(&mut self.ops), std::mem::take(&mut self.after))
    }

    /// Sets places aside for a commit like the last one: growing step by step would move each operation twice.
    pub(super) fn expect_ops(&mut self) {
        if self.ops.capacity() == 0 {
            self.ops.reserve_exact(self.expected);
            self.after.reserve_exact(self.expected);
        }
    }

    /// True where somebody waits for what [`ShardState::take_commit`] has.
    pub fn is_hurried(&self) -> bool {
        (self.ops.len(), self.after.len()) != self.unhurried
    }

    /// True where [`ShardState::take_commit`] has something.
    pub fn has_commit(&self) -> bool {
        !self.ops.is_empty() || !self.after.is_empty()
    }

    /// Takes a QoS 1 or 2 message in: it becomes operations, and is answered after the commit. QoS 0 goes another way
    /// ([`ShardState::handle_pass`]).
    pub fn handle_publish(&mut self, publish: Publish<A>, now: Timestamp, out: &mut Out<A>, gate: &Gate<'_>) {
        debug_assert!(publish.frame.envelope.qos().is_durable(), "QoS 0 is passed on");
        if matches!(publish.route, Route::Straight { .. }) {
            return self.send_straight(publish, now, out, gate);
        }
        let Some(queue_ix) = self.queue_of(&publish) else {
            out.answers
                .extend(publish.answer.map(|answer| (answer, Verdict::Unknown)));
            return;
        };
        let address = self.queue(queue_ix).address.hash64();
        let copy = CopyKey::new(publish.key, address);
        if let Some(seq) = self.newest.get(&copy).copied() {
            self.answer_duplicate(seq, publish.answer, out);
            return self.forget_idle_queue(queue_ix);
        }
        if let Some(bound) = self.full(queue_ix, publish.frame.encoded_len()) {
            out.counts.refused_full += 1;
            out.answers
                .extend(publish.answer.map(|answer| (answer, Verdict::QueueFull { bound })));
            return self.forget_idle_queue(queue_ix);
        }
        let seq = self.next_seq;
        self.next_seq = seq.next();
        out.counts.accepted[publish.frame.envelope.qos() as usize] += 1;
        let message = self.new_message(&publish, queue_ix, address);
        let (stored, expires_at) = (message.stored, message.expires_at);
        let queue = self.queue_mut(queue_ix);
        queue.messages += 1;
        queue.bytes += message.weight();
        let queue_address = queue.address.clone();
        self.newest.insert(copy, seq);
        self.by_id.insert((publish.id_hash, seq));
        let targets: Targets = message.targets.clone().unwrap_or_else(|| Arc::from([]));
        let is_to_nobody = message.targets.as_ref().is_some_and(|targets| targets.is_empty());
        self.insert_message(seq, message);
        if !expires_at.is_never() {
            self.set_timer(expires_at, Timer::Expire(seq));
        }
        match stored {
            Stored::Yes | Stored::Committing => {
                self.expect_ops();
                let (key, id_hash, frame) = (publish.key, publish.id_hash, publish.frame);
                self.ops.push(Op::Enqueue(Enqueue {
                    seq,
                    queue: queue_address,
                    key,
                    id_hash,
                    frame,
                    targets,
                }));
                self.after.push(After::Enqueued {
                    seq,
                    answer: publish.answer,
                });
                if is_to_nobody {
                    // In the same commit: what reaches nobody waits for nothing, and a restart finds nothing to relay.
                    self.settle(seq, Status::Rejected, Reason::NobodyThere, None, now, out);
                }
            }
            Stored::InMemory => {
                self.enter_lane(seq, now, out);
                self.pump(now, out, gate);
                self.answer_accepted(seq, publish.answer, out);
            }
        }
    }

    fn new_message(&self, publish: &Publish<A>, queue: QueueIx, address: u64) -> Message {
        let (envelope, stamp) = (&publish.frame.envelope, &publish.frame.stamp);
        let targets = match &publish.route {
            Route::FanOut { targets, .. } => Some(targets.clone()),
            Route::Envelope { .. } | Route::Copy { .. } | Route::Straight { .. } => None,
        };
        let ephemeral = self.queue(queue).kind == QueueKind::Ephemeral;
        Message {
            queue,
            key: publish.key,
            address,
            id_hash: publish.id_hash,
            priority: envelope.priority(),
            stored: if ephemeral {
                Stored::InMemory
            } else {
                Stored::Committing
            },
            state: State::Committing,
            loading: false,
            redelivered: false,
            attempts: 0,
            bytes: count(publish.frame.encoded_len()),
            accepted_at: stamp.accepted_at,
            expires_at: stamp.expires_at,
            sent_at: Timestamp::NEVER,
            frame: Some(Box::new(publish.frame.clone())),
            targets,
        }
    }

    /// Which bound a further message of that size would pass.
    pub(super) fn full(&self, queue: QueueIx, bytes: usize) -> Option<&'static str> {
        let queue = self.queue(queue);
        let (messages_max, bytes_max, names) = match queue.kind {
            QueueKind::Ephemeral | QueueKind::DurableSession => (
                self.limits.session_messages_max,
                self.limits.session_bytes_max,
                ["session_messages_max", "session_bytes_max"],
            ),
            QueueKind::Inbox | QueueKind::OneOf(_) | QueueKind::FanOut => (
                self.limits.inbox_messages_max,
                self.limits.inbox_bytes_max,
                ["inbox_messages_max", "inbox_bytes_max"],
            ),
        };
        match () {
            () if queue.messages >= messages_max => Some(names[0]),
            () if queue.bytes + bytes as u64 > bytes_max => Some(names[1]),
            () => None,
        }
    }

    pub(super) fn answer_duplicate(&mut self, seq: Seq, answer: Option<A>, out: &mut Out<A>) {
        out.counts.duplicates += 1;
        match self.messages.get(&seq).map(|message| message.stored) {
            Some(Stored::Committing) => self.after.push(After::Duplicate { seq, answer }),
            _ => self.answer_known(seq, answer, out),
        }
    }

    /// Answers a duplicate with the first one's receipt.
    pub(super) fn answer_known(&self, seq: Seq, answer: Option<A>, out: &mut Out<A>) {
        let Some(answer) = answer else { return };
        let held = self.messages.get(&seq).filter(|message| !message.is_kept());
        let verdict = match (held, self.receipts.get(seq)) {
            (Some(_), _) => Verdict::Accepted(Acceptance {
                duplicate: true,
                ..self.acceptance_of(seq).expect("it is held")
            }),
            (None, Some(receipt)) => Verdict::Accepted(Acceptance {
                seq: Some(seq),
                status: Some(receipt.status),
                duplicate: true,
                recipients: receipt.recipients,
                consumer: None,
                attended: false,
            }),
            // The commit that the first one stood in failed after the second came.
            (None, None) => Verdict::Failed,
        };
        out.answers.push((answer, verdict));
    }

    pub(super) fn answer_accepted(&self, seq: Seq, answer: Option<A>, out: &mut Out<A>) {
        let Some(answer) = answer else { return };
        let settled = self.receipts.get(seq).map(|receipt| Acceptance {
            seq: Some(seq),
            recipients: receipt.recipients,
            ..acceptance(Some(receipt.status))
        });
        let verdict = settled
            .or_else(|| self.acceptance_of(seq))
            .map_or(Verdict::Failed, Verdict::Accepted);
        out.answers.push((answer, verdict));
    }

    fn acceptance_of(&self, seq: Seq) -> Option<Acceptance> {
        let message = self.messages.get(&seq)?;
        let consumer = match message.state {
            State::Leased { consumer, .. } => Some(consumer),
            _ => None,
        };
        Some(Acceptance {
            seq: Some(seq),
            recipients: message.recipients(),
            consumer,
            attended: !self.queue(message.queue).consumers.is_empty() || message.targets.is_some(),
            ..acceptance(Some(message.status()))
        })
    }

    // --- queues ----------------------------------------------------------------------------------------------------

    /// The queue that a message goes to, made where that is due. `None`: a session's queue that is not there (any more).
    fn queue_of(&mut self, publish: &Publish<A>) -> Option<QueueIx> {
        let (hash, text, kind) = match &publish.route {
            Route::Copy { queue } => (queue.hash64(), queue.as_str(), QueueKind::of(queue)),
            Route::Envelope { hash, kind, .. } => (*hash, publish.frame.envelope.to(), *kind),
            Route::FanOut { hash, .. } | Route::Straight { hash, .. } => {
                (*hash, publish.frame.envelope.to(), QueueKind::FanOut)
            }
        };
        let is_session = matches!(kind, QueueKind::Ephemeral | QueueKind::DurableSession);
        let ix = match self.find_queue(hash, text) {
            Some(found) => found,
            None if is_session => return None,
            None => self.open_queue(&Address::from_trusted(text), kind),
        };
        let queue = self.queue_mut(ix);
        match publish.route {
            Route::Copy { .. } | Route::Straight { .. } => {}
            Route::Envelope { retention, .. } | Route::FanOut { retention, .. } => {
                queue.retention = retention;
                // A group may have changed its mode, and a restart knows no modes.
                if !is_session && queue.kind != QueueKind::Inbox {
                    queue.kind = kind;
                }
            }
        }
        Some(ix)
    }

    /// Tables shrink when most of what they held at their largest is gone.
    pub(super) fn bound_memory(&mut self) {
        self.bound_timers();
        self.messages.bound_memory();
        self.newest.bound_memory();
        self.receipts.bound_memory();
    }

    pub(super) fn find_queue(&self, hash: u64, text: &str) -> Option<QueueIx> {
        self.by_address
            .find(hash, |ix| self.queue(*ix).address.as_str() == text)
            .copied()
    }

    /// The queue of an address, made where there is none.
    pub(super) fn open_queue(&mut self, address: &Address, kind: QueueKind) -> QueueIx {
        if let Some(found) = self.find_queue(address.hash64(), address.as_str()) {
            return found;
        }
        let queue = Box::new(Queue::new(address.clone(), kind));
        let ix = match self.free_queues.pop() {
            Some(free) => {
                self.queues[free as usize] = Some(queue);
                free
            }
            None => {
                self.queues.push(Some(queue));
                count(self.queues.len() - 1)
            }
        };
        let queues = &self.queues;
        let hash_of = |ix: &QueueIx| queues[*ix as usize].as_ref().map_or(0, |queue| queue.address.hash64());
        self.by_address.insert_unique(address.hash64(), ix, hash_of);
        ix
    }

    /// Gives an idle queue's place free. A queue is not idle while any message points to it, settling ones among them.
    pub(super) fn forget_idle_queue(&mut self, ix: QueueIx) {
        let Some(queue) = self.queues[ix as usize].as_ref().filter(|queue| queue.is_idle()) else {
            return;
        };
        let hash = queue.address.hash64();
        if let Ok(entry) = self.by_address.find_entry(hash, |other| *other == ix) {
            entry.remove();
        }
        self.queues[ix as usize] = None;
        self.free_queues.push(ix);
    }

    pub(super) fn queue(&self, ix: QueueIx) -> &Queue {
        self.queues[ix as usize]
            .as_ref()
            .expect("an index is given out only while its queue is there")
    }

    pub(super) fn queue_mut(&mut self, ix: QueueIx) -> &mut Queue {
        self.queues[ix as usize]
            .as_mut()
            .expect("an index is given out only while its queue is there")
    }

    pub(super) fn mark_dirty(&mut self, ix: QueueIx) {
        if let Some(queue) = self.queues[ix as usize].as_mut()
            && !std::mem::replace(&mut queue.dirty, true)
        {
            self.dirty.push(ix);
        }
    }

    /// A message whose commit is done, or that needs none, may now be handed out.
    pub(super) fn enter_lane(&mut self, seq: Seq, now: Timestamp, out: &mut Out<A>) {
        let Some(message) = self.messages.get_mut(&seq) else {
            return;
        };
        if message.stored == Stored::Committing {
            message.stored = Stored::Yes;
        }
        if message.state != State::Committing {
            // Its queue was removed meanwhile: it is on its way out.
            return;
        }
        if message.is_expired(now) {
            // Its timer may have passed while the commit was under way.
            return self.expire(seq, now, out);
        }
        let (ix, priority, is_fan_out) = (message.queue, message.priority, message.targets.is_some());
        self.fresh.push(seq);
        if is_fan_out {
            message.state = State::Relaying { shards_left: 0 };
            self.outbox.push_back(seq);
            return;
        }
        message.state = State::Ready;
        self.queue_mut(ix).push(priority, seq);
        self.mark_dirty(ix);
    }
}

pub(super) fn acceptance(status: Option<Status>) -> Acceptance {
    Acceptance {
        seq: None,
        status,
        duplicate: false,
        recipients: 1,
        consumer: None,
        attended: false,
    }
}

pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
