//! The handles of the shard workers: how everyone else reaches a shard.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence},
    },
    thread::Thread,
};

use crossbeam::queue::SegQueue;
use tokio::sync::oneshot;

use super::{
    ask::{Ask, SharedAnswer},
    counters::{CountersSnapshot, WorkerCounters},
    error::FabricError,
    holds,
    port::{CommitOutcome, StoreError},
    runner::Runner,
    session::{Opening, SessionCore},
    surface::SessionId,
    worker::Shards,
};
use crate::{
    delivery::{Copies, Lease, Nack, Pass, Publish, QueueKind, Straight, Targets},
    frame::{Address, AgentId, Envelope, Frame, Priority, Run, Seq, ShardId},
    queue::{self, BatchError, PushError, Weigh},
};

/// Control messages that wait for a worker before copies of QoS 0 fan-outs are dropped: what one worker may owe another. Those of QoS 1 are
/// bounded by what their senders may have unanswered.
pub(super) const PASSED_RELAYS_MAX: usize = 4_096;

/// Bytes of topics' messages that go straight to a worker and are in no commit yet, beyond which further ones go by their topic's
/// outbox. Together with what else a step commits they fit into a segment of the store's log.
pub(super) const STRAIGHT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What comes through a worker's inbox: bounded, by priority.
#[derive(Debug)]
pub(super) enum Command {
    Publish(Vec<Inbound>),
    Settle(Vec<SettleCommand>),
    /// Through the inbox, so that acknowledgements that the session sent before are heard first.
    Detach {
        session: Arc<SessionCore>,
        queue: Address,
        opening: Opening,
    },
}

/// Messages for a shard of the worker.
#[derive(Debug)]
pub(super) struct Inbound {
    pub shard: ShardId,
    pub intake: Intake,
}

/// What a shard takes in.
#[derive(Debug)]
pub(super) enum Intake {
    /// QoS 1 and 2. Boxed: a batch is moved several times on its way, and this is a few hundred bytes.
    Keep(Box<Publish<Ask>>),
    /// QoS 0, and QoS 1 to queues that end with their session.
    Pass(Pass<Ask>),
}

impl Intake {
    pub fn set_answer(&mut self, ask: Ask) {
        match self {
            Self::Keep(publish) => publish.answer = Some(ask),
            Self::Pass(pass) => pass.answer = Some(ask),
        }
    }

    pub fn into_answer(self) -> Option<Ask> {
        match self {
            Self::Keep(publish) => publish.answer,
            Self::Pass(pass) => pass.answer,
        }
    }

    pub fn envelope(&self) -> &Envelope {
        match self {
            Self::Keep(publish) => &publish.frame.envelope,
            Self::Pass(pass) => pass.run.envelope(),
        }
    }

    pub fn body_bytes(&self) -> usize {
        match self {
            Self::Keep(publish) => publish.frame.body.len(),
            Self::Pass(pass) => pass.run.body_bytes(),
        }
    }

    pub fn frames(&self) -> usize {
        match self {
            Self::Keep(_) => 1,
            Self::Pass(pass) => pass.run.frames(),
        }
    }

    pub fn weight_bytes(&self) -> usize {
        match self {
            Self::Keep(publish) => publish.frame.encoded_len() + publish.route.targets_bytes(),
            Self::Pass(pass) => pass.run.weight_bytes(),
        }
    }
}

/// An acknowledgement (`nack` is `None`) or a refusal.
#[derive(Debug)]
pub(super) struct SettleCommand {
    pub shard: ShardId,
    pub seq: Seq,
    pub lease: Lease,
    pub agent: AgentId,
    pub nack: Option<Nack>,
    pub ask: Option<Ask>,
}

impl Weigh for Command {
    fn weight_bytes(&self) -> usize {
        match self {
            Self::Publish(batch) => batch.iter().map(|inbound| inbound.intake.weight_bytes()).sum(),
            Self::Settle(batch) => batch.len() * size_of::<SettleCommand>(),
            Self::Detach { .. } => 0,
        }
    }

    /// Frames, and what is as many words to a shard.
    fn parts(&self) -> usize {
        match self {
            Self::Publish(batch) => batch.iter().map(|inbound| inbound.intake.frames()).sum(),
            Self::Settle(batch) => batch.len(),
            Self::Detach { .. } => 1,
        }
    }
}

/// What comes beside the inbox. Each kind is bounded by what causes it: sessions and their queues, commits and reads in flight, the relay
/// window, questions that callers wait for.
pub(super) enum Control {
    Attach {
        session: Arc<SessionCore>,
        queue: Address,
        kind: QueueKind,
        opening: Opening,
    },
    /// What the inbox had no room for.
    Settle(Vec<SettleCommand>),
    Detach {
        session: Arc<SessionCore>,
        queue: Address,
        opening: Opening,
    },
    Credit {
        session: SessionId,
    },
    OpenDurable {
        queue: Address,
    },
    /// Bounded by what sessions had under way when they ended.
    Hold(holds::Change),
    RemoveQueue {
        queue: Address,
        done: oneshot::Sender<()>,
    },
    Committed {
        commit: u64,
        outcome: CommitOutcome,
    },
    Loaded {
        shard: ShardId,
        frames: Vec<(Seq, Result<Frame, StoreError>)>,
    },
    Copies {
        shard: ShardId,
        copies: Box<Copies>,
    },
    PassedCopies(Box<PassedCopies>),
    /// Topics' messages that go straight to their one target; bounded by [`STRAIGHT_BYTES_MAX`].
    Straight(Vec<Straight<Ask>>),
    RelayDone {
        shard: ShardId,
        seq: Seq,
    },
    Replay {
        shard: ShardId,
        seq: Seq,
        frame: Box<Frame>,
        ask: Ask,
    },
    /// A question, run on the worker's state.
    Inspect(Box<dyn FnOnce(&mut Shards) + Send>),
    /// Finish what is under way and end the thread.
    Stop,
}

/// Copies that are not kept, for the targets that live in a worker; beyond [`PASSED_RELAYS_MAX`] control messages those of QoS 0 are dropped.
#[derive(Clone, Debug)]
pub(super) struct PassedCopies {
    pub run: Run,
    pub targets: Targets,
    /// QoS 1: answered when all workers are done.
    pub answer: Option<Arc<SharedAnswer>>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}

/// One worker, from outside.
pub(super) struct WorkerHandle {
    /// `None` before its thread runs and after it ended.
    pub runner: Mutex<Option<Runner>>,
    /// Someone runs a step and looks at the control messages once more before it is done.
    pub busy: AtomicBool,
    pub inbox: queue::Sender<Command>,
    pub control: Arc<SegQueue<Control>>,
    pub thread: OnceLock<Thread>,
    pub counters: Arc<WorkerCounters>,
    /// Bytes on their way here as [`Control::Straight`], up to the commit that they stand in.
    pub straight_bytes: AtomicUsize,
    /// Median from acceptance to hand-out, in microseconds; 0: nothing measured yet.
    pub median_us: AtomicU64,
}

impl WorkerHandle {
    /// Sends a control message and wakes the worker. Before its thread runs the message waits.
    pub fn control(&self, control: Control) {
        if self.send(control) {
            self.wake();
        }
    }

    /// Sends a control message; false where whoever runs the worker is bound to see it.
    pub fn send(&self, control: Control) -> bool {
        self.control.push(control);
        fence(Ordering::SeqCst);
        !self.busy.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerHandle")
            .field("inbox", &self.inbox)
            .finish_non_exhaustive()
    }
}

/// All workers of the node.
#[derive(Debug)]
pub(super) struct Workers {
    pub handles: Vec<Arc<WorkerHandle>>,
}

impl Workers {
    /// The worker that runs a shard.
    pub fn index_of(&self, shard: ShardId) -> usize {
        shard.index() % self.handles.len()
    }

    pub fn of(&self, shard: ShardId) -> &Arc<WorkerHandle> {
        &self.handles[self.index_of(shard)]
    }

    /// Runs a command where its worker sleeps, else pushes it without waiting; a full or closed inbox gives it back with the reason.
    pub fn try_push(&self, worker: usize, priority: Priority, command: Command) -> Result<(), (Command, FabricError)> {
        let handle = &self.handles[worker];
        match handle.run_here(command) {
            None => Ok(()),
            Some(command) => handle.inbox.try_push(priority, command).map_err(refused),
        }
    }

    /// [`Workers::try_push`] out of a slot, waiting for room. Cancel safe: what is not pushed stays there, also where it is refused.
    pub async fn push(&self, worker: usize, priority: Priority, slot: &mut Option<Command>) -> Result<(), FabricError> {
        *slot = slot.take().and_then(|command| self.handles[worker].run_here(command));
        if slot.is_none() {
            return Ok(());
        }
        let pushed = self.handles[worker].inbox.push_from(priority, slot).await;
        pushed.map_err(|error| match error {
            BatchError::Full(_) => overloaded(),
            BatchError::Closed => FabricError::Draining,
        })
    }

    /// Asks one worker a question about its shards.
    pub async fn inspect<R: Send + 'static>(
        &self,
        shard: ShardId,
        question: impl FnOnce(&mut Shards) -> R + Send + 'static,
    ) -> Result<R, FabricError> {
        self.inspect_worker(self.index_of(shard), question).await
    }

    /// Asks a worker, by its index.
    pub async fn inspect_worker<R: Send + 'static>(
        &self,
        worker: usize,
        question: impl FnOnce(&mut Shards) -> R + Send + 'static,
    ) -> Result<R, FabricError> {
        let (sender, receiver) = oneshot::channel();
        let inspect = move |shards: &mut Shards| drop(sender.send(question(shards)));
        self.handles[worker].control(Control::Inspect(Box::new(inspect)));
        receiver.await.map_err(|_| FabricError::Draining)
    }

    pub fn counters(&self) -> CountersSnapshot {
        let mut snapshot = CountersSnapshot::default();
        for handle in &self.handles {
            handle.counters.add_to(&mut snapshot);
            snapshot.inbox_depth += handle.inbox.occupancy().items.iter().sum::<usize>() as u64;
        }
        let held = |handle: &Arc<WorkerHandle>| handle.counters.receipt_window_held_ms.load(Ordering::Relaxed);
        snapshot.receipt_window_held_ms = self.handles.iter().map(held).max().unwrap_or_default();
        snapshot
    }
}

fn refused(error: PushError<Command>) -> (Command, FabricError) {
    match error {
        PushError::Full { item, .. } => (item, overloaded()),
        PushError::Closed(item) => (item, FabricError::Draining),
    }
}

fn overloaded() -> FabricError {
    FabricError::Overloaded {
        what: "worker inbox",
        retry_after: std::time::Duration::from_millis(50),
    }
}
