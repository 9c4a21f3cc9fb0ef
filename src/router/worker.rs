//! A shard worker: many shards over one inbox.
//!
//! [`Shards::step`] is the plain function in the middle: it takes what came in, runs the shards' machines and hands on what they want
//! done. Who calls it, and when, is `runner.rs`. A commit takes the operations of all shards at once and completes asynchronously; the
//! next batch is taken in meanwhile.

mod relays;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use hashbrown::HashMap;

use super::{
    ask::Ask,
    chunks::{Chunks, delivery},
    config::Config,
    counters::{CountersSnapshot, WorkerCounters},
    directory::Directory,
    error::FabricError,
    passed::PassedRing,
    port::{Action, CommitOutcome, Decision, Policy, ShardCommit, Store, StoreError},
    session::{Opening, SessionCore},
    surface::{Accepted, AcceptedStatus, Piece, SessionId, Settled},
    workers::{Command, Control, Inbound, Intake, SettleCommand, WorkerHandle, Workers},
};
use crate::{
    delivery::{
        Acceptance, After, Consumer, ConsumerId, Gate, GivenUp, Held, Limits, Out, PassedOn, Publish, QueueKind,
        ShardState, Verdict, WorkerMark,
    },
    frame::{
        Address, AgentId, Envelope, Frame, Seq, ShardId, Stamp, TrackingId,
        limits::SHARDS,
        record::{Fence, ShardImage, Status},
    },
    queue::{self, Weigh},
    time::{self, Timestamp},
};

/// What a sender is told to wait when a mailbox is full: long enough for a receiver to make room.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Commands taken from the inbox in one step: large enough to amortize a commit, small enough to keep a step below a millisecond.
pub(super) const STEP_BUDGET: usize = 512;
/// Bytes of commands taken in one step, after which it takes no more: a step's operations of one shard are one group in the store's
/// log, which must fit into a segment (32 MiB at least) together with what copies and settles add.
const STEP_BYTES: usize = 8 * 1024 * 1024;
/// Commands taken from the inbox at once, between two looks at [`STEP_BYTES`].
const TAKE: usize = 4;
/// Control messages taken in one step.
const CONTROL_BUDGET: usize = 4096;
/// Commits that one worker has under way: one that syncs, one that is written, and one that is gathered.
const COMMITS_MAX: usize = 3;
/// Operations of a commit whose completion is run on the store's thread where the worker sleeps: a message or a few, which a wake-up
/// costs most. Behind more the store's thread has the next group to write: without a bound, 128 messages in flight gained nothing and
/// went from 86 to 70 thousand a second in one comparison.
const COMPLETED_THERE_MAX: usize = 8;
/// What one stored message takes in memory apart from its body, in bytes: its entry here (160 and table overhead), its place in a lane
/// and in the timers, its keys, and its entry in the store's index.
const INDEX_ENTRY_BYTES: u64 = 400;
/// How often deadlines of shards are looked at, in milliseconds: the resolution of expiry, back-off and visibility.
const TICK_MS: u64 = 5;
/// Longest sleep of an idle worker.
const PARK_MAX: Duration = Duration::from_millis(500);

/// What a commit under way will be followed by.
#[derive(Debug)]
struct InFlight {
    commit: u64,
    started: Instant,
    shards: Vec<(usize, Vec<After<Ask>>)>,
}

/// A shard and its fence.
#[derive(Debug)]
pub(super) struct Owned {
    pub id: ShardId,
    pub fence: Fence,
    pub state: ShardState<Ask>,
    is_active: bool,
}

/// What a worker knows of the world.
pub(super) struct WorkerContext {
    pub index: usize,
    pub workers: Arc<Workers>,
    pub store: Arc<dyn Store>,
    pub policy: Arc<dyn Policy>,
    pub directory: Arc<Directory>,
    pub config: Arc<Config>,
    pub unattended: flume::Sender<AgentId>,
}

/// The shards of one worker: its whole state.
pub(super) struct Shards {
    context: WorkerContext,
    handle: Arc<WorkerHandle>,
    counters: Arc<WorkerCounters>,
    shards: Vec<Owned>,
    active: Vec<usize>,
    /// What is active has nothing to do before a commit that is under way completes.
    waits_for_commit: bool,
    sessions: HashMap<ConsumerId, Attached>,
    in_flight: VecDeque<InFlight>,
    next_commit: u64,
    out: Out<Ask>,
    next_tick: Timestamp,
    /// Control messages that came before the commands at hand and are not done yet.
    controls_ahead: usize,
    receipts_max: usize,
    /// The node's bound on its index of stored messages is met: further ones are refused until some are settled.
    index_is_full: bool,
    /// Bytes that came straight and are in no commit yet.
    straight_bytes: usize,
    pub passed: PassedRing,
    stopping: bool,
}

/// A session that has queues open here.
struct Attached {
    core: Arc<SessionCore>,
    queues: Vec<(Address, Opening)>,
}

impl Shards {
    /// The worker's shards from what the store holds of them, with the durable session queues that live there.
    pub fn new(
        context: WorkerContext,
        limits: &Arc<Limits>,
        images: Vec<(ShardId, Fence, ShardImage)>,
        durable: &[Address],
    ) -> Self {
        let (now, mark) = (time::now(), WorkerMark::of(context.index));
        // A fair share to begin with; each tick gives what is free to whoever needs it.
        let body_budget = context.config.body_cache_bytes_max / u64::from(SHARDS);
        let recover = |(id, fence, image): (ShardId, Fence, ShardImage)| {
            let known = |queue: &Address| context.directory.queue_of(queue);
            let mut state = ShardState::recover(fence.epoch, image, limits.clone(), mark, &known, now);
            state.set_body_budget(body_budget);
            Owned {
                id,
                fence,
                state,
                is_active: false,
            }
        };
        let shards: Vec<Owned> = images.into_iter().map(recover).collect();
        let handle = context.workers.handles[context.index].clone();
        let receipts_max = (context.config.receipts_max / context.workers.handles.len()).max(1);
        let mut this = Self {
            counters: handle.counters.clone(),
            handle,
            passed: PassedRing::new(context.config.debug_envelopes),
            context,
            shards,
            active: Vec::new(),
            waits_for_commit: false,
            sessions: HashMap::new(),
            in_flight: VecDeque::new(),
            next_commit: 0,
            out: Out::default(),
            next_tick: now,
            controls_ahead: 0,
            receipts_max,
            index_is_full: false,
            straight_bytes: 0,
            stopping: false,
        };
        for queue in durable {
            let local = this.local(queue.home_shard());
            this.shards[local].state.handle_open_durable(queue);
        }
        // What was under way before a restart goes on at once: fan-outs that were not marked done.
        (0..this.shards.len()).for_each(|local| this.mark_active(local));
        this
    }

    /// How long there is nothing to do, if nothing comes in.
    pub fn patience(&self, now: Timestamp) -> Duration {
        self.next_tick.since(now).clamp(Duration::from_millis(1), PARK_MAX)
    }

    /// When time alone asks for a step.
    pub fn wakes_at(&self) -> Timestamp {
        self.next_tick
    }

    /// Told to stop, and nothing is under way. Asked after a step that had nothing to do.
    pub fn is_done(&self) -> bool {
        self.stopping && self.in_flight.is_empty() && self.active.is_empty()
    }

    /// Some shards have more to do at once.
    pub fn is_active(&self) -> bool {
        !self.active.is_empty() && !self.waits_for_commit
    }

    /// Says that commands were taken in: they wait for the control messages that are there now.
    pub fn note_controls_ahead(&mut self) {
        self.controls_ahead = self.handle.control.len();
    }

    /// True while another batch may be taken in: otherwise the inbox fills up, and its bound is what senders meet.
    pub fn has_room(&self) -> bool {
        self.in_flight.len() < COMMITS_MAX
    }

    /// Does what the control messages, the commands and the time ask for. False: there was nothing to do.
    ///
    /// Control first: what was in the control queue when a command came in may be what the command relies on (a reply's session, the
    /// attach before a detach). Where that is more than one step does, the commands wait for a next one.
    pub fn step(&mut self, commands: &mut Vec<Command>, now: Timestamp) -> bool {
        let controls = self.handle.control.len().min(CONTROL_BUDGET);
        self.controls_ahead = self.controls_ahead.saturating_sub(controls);
        let worked = controls > 0 || !commands.is_empty() || self.is_active();
        for _ in 0..controls {
            if let Some(control) = self.handle.control.pop() {
                self.control(control, now);
            }
        }
        let commands_due = if self.controls_ahead == 0 { commands.len() } else { 0 };
        for command in commands.drain(..commands_due) {
            match command {
                Command::Publish(batch) => self.publish(batch, now),
                Command::Settle(batch) => batch.into_iter().for_each(|settle| self.settle(settle, now)),
                Command::Detach {
                    session,
                    queue,
                    opening,
                } => self.detach(&session, &queue, opening, now),
            }
        }
        if worked {
            self.next_tick = self.next_tick.min(now + Duration::from_millis(TICK_MS));
        }
        // The second condition holds after the wall clock was set back.
        if now >= self.next_tick || self.next_tick > now + PARK_MAX {
            self.tick(now);
        }
        self.flush(now);
        worked
    }

    fn local(&self, shard: ShardId) -> usize {
        shard.index() / self.context.workers.handles.len()
    }

    fn mark_active(&mut self, local: usize) {
        let owned = &mut self.shards[local];
        if !owned.is_active {
            owned.is_active = true;
            self.active.push(local);
        }
    }

    /// A shard's state, for questions.
    pub fn state(&self, shard: ShardId) -> &ShardState<Ask> {
        &self.shards[self.local(shard)].state
    }

    /// All shards of this worker.
    pub fn all(&self) -> impl Iterator<Item = &Owned> {
        self.shards.iter()
    }

    /// Runs a shard's machine and hands on what it wants done.
    fn run_shard(&mut self, local: usize, run: impl FnOnce(&mut ShardState<Ask>, &mut Out<Ask>, &Gate<'_>)) {
        self.mark_active(local);
        {
            let gate = may_receive(&*self.context.policy);
            run(&mut self.shards[local].state, &mut self.out, &gate);
        }
        self.hand_on(local, None);
    }

    /// Runs a shard's machine for QoS 0, which leaves nothing to commit or to pump.
    fn pass(&mut self, shard: ShardId, run: impl FnOnce(&mut ShardState<Ask>, &mut Out<Ask>, &Gate<'_>)) {
        let local = self.local(shard);
        {
            let gate = may_receive(&*self.context.policy);
            run(&mut self.shards[local].state, &mut self.out, &gate);
        }
        if !self.out.answers.is_empty() || !self.out.passed_relays.is_empty() {
            self.hand_on(local, None);
        }
    }

    fn publish(&mut self, batch: Vec<Inbound>, now: Timestamp) {
        let bytes: usize = batch.iter().map(|inbound| inbound.intake.body_bytes()).sum();
        self.counters.body_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.passed.note(&batch);
        for Inbound { shard, intake } in batch {
            match intake {
                Intake::Keep(publish) => self.keep(shard, *publish, now),
                Intake::Pass(pass) => self.pass(shard, |state, out, gate| state.handle_pass(pass, now, out, gate)),
            }
        }
    }

    fn keep(&mut self, shard: ShardId, mut publish: Publish<Ask>, now: Timestamp) {
        if self.index_is_full {
            self.counters.refused_full.fetch_add(1, Ordering::Relaxed);
            let (what, retry_after) = ("index_bytes_max", FULL_RETRY_AFTER);
            let answer = publish.answer.into_iter();
            return answer.for_each(|ask| ask.fail(FabricError::Overloaded { what, retry_after }));
        }
        self.choose_way(&mut publish);
        let before = self.out.straight.len();
        let envelope = publish.answer.is_some().then(|| publish.frame.envelope.clone());
        self.run_shard(self.local(shard), |state, out, gate| {
            state.handle_publish(publish, now, out, gate);
            // Only a refusal is answered at once, and only it has to name the address.
            let refused = |verdict: &Verdict| matches!(verdict, Verdict::QueueFull { .. } | Verdict::Unknown);
            if let (Some(envelope), Some((ask, verdict))) =
                (envelope, out.answers.pop_if(|(_, verdict)| refused(verdict)))
            {
                ask.fail(refusal(&verdict, envelope.address()));
            }
        });
        self.count_straight(before);
    }

    fn settle(&mut self, settle: SettleCommand, now: Timestamp) {
        let SettleCommand {
            shard,
            seq,
            lease,
            agent,
            nack,
            ask,
        } = settle;
        self.run_shard(self.local(shard), |state, out, _| match nack {
            None => state.handle_ack(seq, lease, &agent, ask, now, out),
            Some(nack) => state.handle_nack(seq, lease, &agent, nack, ask, now, out),
        });
    }

    fn control(&mut self, control: Control, now: Timestamp) {
        match control {
            Control::Attach {
                session,
                queue,
                kind,
                opening,
            } => self.attach(&session, &queue, kind, opening),
            Control::Settle(batch) => batch.into_iter().for_each(|settle| self.settle(settle, now)),
            Control::Detach {
                session,
                queue,
                opening,
            } => self.detach(&session, &queue, opening, now),
            Control::Credit { session } => self.credit(session),
            Control::OpenDurable { queue } => {
                let local = self.local(queue.home_shard());
                self.run_shard(local, |state, _, _| state.handle_open_durable(&queue));
            }
            Control::Hold(change) => {
                self.run_shard(self.local(change.shard()), |state, out, _| {
                    change.apply(state, now, out)
                });
            }
            Control::RemoveQueue { queue, done } => {
                let local = self.local(queue.home_shard());
                self.run_shard(local, |state, out, _| state.handle_remove_queue(&queue, now, out));
                // The caller went away: the queue is removed all the same.
                let _ = done.send(());
            }
            Control::Committed { commit, outcome } => self.committed(commit, outcome, now),
            Control::Loaded { shard, frames } => self.loaded(shard, frames, now),
            Control::Copies { shard, copies } => {
                self.run_shard(self.local(shard), |state, out, gate| {
                    state.handle_copies(*copies, now, out, gate)
                });
            }
            Control::Straight(messages) => self.straight(messages, now),
            Control::PassedCopies(copies) => self.passed_copies(&copies, now),
            Control::RelayDone { shard, seq } => {
                self.run_shard(self.local(shard), |state, out, _| {
                    state.handle_relay_done(seq, now, out)
                });
            }
            Control::Replay { shard, seq, frame, ask } => {
                let local = self.local(shard);
                self.run_shard(local, |state, out, _| {
                    state.handle_replay(seq, *frame, Some(ask), now, out)
                });
            }
            Control::Inspect(question) => question(self),
            Control::Stop => self.stopping = true,
        }
    }

    fn attach(&mut self, session: &Arc<SessionCore>, queue: &Address, kind: QueueKind, opening: Opening) {
        let consumer = session.consumer();
        let attached = self.sessions.entry(consumer.id);
        let attached = attached.or_insert_with(|| Attached {
            core: session.clone(),
            queues: Vec::new(),
        });
        match attached.queues.iter_mut().find(|(known, _)| known == queue) {
            Some((_, earlier)) => *earlier = opening,
            None => {
                // Most sessions have one queue in a worker.
                if attached.queues.is_empty() {
                    attached.queues.reserve_exact(1);
                }
                attached.queues.push((queue.clone(), opening));
            }
        }
        let local = self.local(queue.home_shard());
        self.run_shard(local, |state, _, _| state.handle_attach(queue, kind, consumer));
    }

    /// Ends one opening of a queue. It comes through the inbox, so that the session's acknowledgements are heard before; a later opening,
    /// which did not, may have overtaken it, and stays.
    fn detach(&mut self, session: &Arc<SessionCore>, queue: &Address, opening: Opening, now: Timestamp) {
        let (local, id) = (self.local(queue.home_shard()), ConsumerId(session.id.0));
        let Some(attached) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some(at) = attached
            .queues
            .iter()
            .position(|(known, of)| known == queue && *of == opening)
        else {
            return;
        };
        attached.queues.swap_remove(at);
        if attached.queues.is_empty() {
            self.sessions.remove(&id);
        }
        self.run_shard(local, |state, out, _| state.handle_detach(queue, id, now, out));
    }

    fn credit(&mut self, session: SessionId) {
        let Some(attached) = self.sessions.get(&ConsumerId(session.0)) else {
            return;
        };
        for (queue, _) in attached.queues.clone() {
            let local = self.local(queue.home_shard());
            self.run_shard(local, |state, _, _| state.handle_credit(&queue));
        }
    }

    fn loaded(&mut self, shard: ShardId, frames: Vec<(Seq, Result<Frame, StoreError>)>, now: Timestamp) {
        for (seq, frame) in frames {
            if let Err(error) = &frame {
                tracing::error!(%shard, seq = seq.raw(), %error, "a stored message cannot be read");
            }
            self.run_shard(self.local(shard), |state, out, _| {
                state.handle_loaded(seq, frame.ok(), now, out)
            });
        }
    }

    fn tick(&mut self, now: Timestamp) {
        let mut next = now + PARK_MAX;
        let (mut held, mut oldest) = (Held::default(), now);
        for local in 0..self.shards.len() {
            let state = &mut self.shards[local].state;
            let shard = state.held();
            held.messages += shard.messages;
            held.receipts += shard.receipts;
            held.queues += shard.queues;
            held.cached_bytes += shard.cached_bytes;
            oldest = oldest.min(state.oldest_receipt().unwrap_or(now));
            let deadline = state.next_deadline().unwrap_or(next);
            if deadline <= now {
                self.run_shard(local, |state, out, _| state.handle_timeout(now, out));
            }
            next = next.min(deadline);
        }
        let workers = self.context.workers.handles.len() as u64;
        let index_bytes = held.messages as u64 * INDEX_ENTRY_BYTES * workers;
        self.index_is_full = index_bytes >= self.context.config.index_bytes_max;
        self.next_tick = next.max(now + Duration::from_millis(TICK_MS));
        let free_bytes = (self.context.config.body_cache_bytes_max / workers).saturating_sub(held.cached_bytes);
        for local in 0..self.shards.len() {
            let state = &mut self.shards[local].state;
            state.set_body_budget(state.cached_bytes() + free_bytes);
            // A worker over its bound cuts every shard by the same fraction; one below it cuts by age alone.
            let keep = match held.receipts {
                receipts if receipts > self.receipts_max => state.receipts_held() * self.receipts_max / receipts,
                _ => usize::MAX,
            };
            state.evict_receipts(now, keep, &mut self.out);
            if state.has_commit() {
                self.mark_active(local);
            }
        }
        let window_ms = now.since(oldest).as_millis() as u64;
        for (counter, value) in [
            (&self.counters.messages_held, held.messages as u64),
            (&self.counters.receipts_held, held.receipts as u64),
            (&self.counters.queues_held, held.queues as u64),
            (&self.counters.receipt_window_held_ms, window_ms),
        ] {
            counter.store(value, Ordering::Relaxed);
        }
        let mut latency = CountersSnapshot::default();
        self.counters.add_to(&mut latency);
        let median_us = latency.delivery_latency.quantile_us(0.5).unwrap_or(0);
        self.handle.median_us.store(median_us, Ordering::Relaxed);
    }

    /// Pumps what changed, commits, and hands the sessions what came out of all of it.
    fn flush(&mut self, now: Timestamp) {
        for at in 0..self.active.len() {
            self.run_shard(self.active[at], |state, out, gate| state.pump(now, out, gate));
        }
        self.send_straight();
        self.commit(now);
        self.hand_out(now);
    }

    /// What nobody waits for (most acknowledgements) goes with the next commit, as long as there will be one: while another is under way,
    /// a commit of its own would cost two switches of threads and a write to the disk, and hasten nothing.
    fn may_commit(&self) -> bool {
        let is_hurried = |local: &usize| self.shards[*local].state.is_hurried();
        match self.in_flight.len() {
            0 => true,
            COMMITS_MAX.. => false,
            _ => self.active.iter().any(is_hurried),
        }
    }

    fn commit(&mut self, now: Timestamp) {
        self.waits_for_commit = !self.may_commit();
        if self.waits_for_commit {
            return;
        }
        let straight_bytes = std::mem::take(&mut self.straight_bytes);
        self.handle.straight_bytes.fetch_sub(straight_bytes, Ordering::Relaxed);
        let (mut commits, mut followed) = (Vec::new(), Vec::new());
        for local in std::mem::take(&mut self.active) {
            self.shards[local].is_active = false;
            let owned = &mut self.shards[local];
            let (ops, after) = owned.state.take_commit();
            if ops.is_empty() {
                self.follow(local, after, now);
                continue;
            }
            commits.push(ShardCommit {
                shard: owned.id,
                fence: owned.fence,
                ops,
            });
            followed.push((local, after));
        }
        if commits.is_empty() {
            return;
        }
        let commit = self.next_commit;
        self.next_commit += 1;
        self.in_flight.push_back(InFlight {
            commit,
            started: time::monotonic(),
            shards: followed,
        });
        let handle = self.handle.clone();
        let is_small = commits.iter().map(|commit| commit.ops.len()).sum::<usize>() <= COMPLETED_THERE_MAX;
        let done = Box::new(move |outcome| {
            let committed = Control::Committed { commit, outcome };
            match is_small {
                true => handle.control_here(committed),
                false => handle.control(committed),
            }
        });
        let level = self.context.config.durability();
        self.context.store.commit(commits, level, done);
    }

    /// What follows without operations of its own follows the last commit of its shard that is under way, or happens now.
    fn follow(&mut self, local: usize, after: Vec<After<Ask>>, now: Timestamp) {
        if after.is_empty() {
            return;
        }
        let under_way = self.in_flight.iter_mut().rev().flat_map(|commit| &mut commit.shards);
        match under_way.into_iter().find(|(shard, _)| *shard == local) {
            Some((_, followed)) => followed.extend(after),
            None => self.run_shard(local, |state, out, gate| state.handle_committed(after, now, out, gate)),
        }
    }

    fn committed(&mut self, commit: u64, outcome: CommitOutcome, now: Timestamp) {
        let Some(done) = self.in_flight.pop_front() else { return };
        assert_eq!(
            done.commit, commit,
            "a store completes the commits of one caller in order"
        );
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from((time::monotonic() - done.started).as_micros()).unwrap_or(u64::MAX);
        self.counters.commit_latency.record(micros, 1);
        for ((local, after), result) in done.shards.into_iter().zip(outcome) {
            match result {
                Ok(()) => self.run_shard(local, |state, out, gate| state.handle_committed(after, now, out, gate)),
                Err(error) => self.failed(local, after, &error),
            }
        }
    }

    fn failed(&mut self, local: usize, after: Vec<After<Ask>>, error: &StoreError) {
        self.counters.commits_failed.fetch_add(1, Ordering::Relaxed);
        tracing::error!(shard = %self.shards[local].id, %error, "a commit failed");
        self.mark_active(local);
        self.shards[local].state.handle_failed(after, &mut self.out);
        self.hand_on(local, Some(error));
    }

    /// Hands on what one shard wants done elsewhere. `failure`: why the verdicts that say so failed.
    fn hand_on(&mut self, local: usize, failure: Option<&StoreError>) {
        let shard = self.shards[local].id;
        // Taken and given back with their memory: this runs for every message.
        let mut answers = std::mem::take(&mut self.out.answers);
        for (ask, verdict) in answers.drain(..) {
            self.answer(shard, ask, verdict, failure);
        }
        self.out.answers = answers;
        if !self.out.loads.is_empty() {
            let seqs: Vec<Seq> = self.out.loads.drain(..).map(|load| load.0).collect();
            self.load(shard, seqs);
        }
        let mut relays = std::mem::take(&mut self.out.relays);
        for relay in relays.drain(..) {
            self.relay(shard, relay);
        }
        self.out.relays = relays;
        let mut passed_relays = std::mem::take(&mut self.out.passed_relays);
        passed_relays
            .drain(..)
            .for_each(|relay| self.relay_passed(shard, relay));
        self.out.passed_relays = passed_relays;
        for given_up in self.out.given_up.drain(..) {
            log_given_up(shard, &given_up);
        }
        for (source, seq) in self.out.relayed.drain(..) {
            self.context
                .workers
                .of(source)
                .control(Control::RelayDone { shard: source, seq });
        }
    }

    fn load(&self, shard: ShardId, seqs: Vec<Seq>) {
        let (handle, asked) = (self.handle.clone(), seqs.clone());
        let done = Box::new(move |frames: Vec<_>| {
            let frames = asked.into_iter().zip(frames).collect();
            handle.control(Control::Loaded { shard, frames });
        });
        self.context.store.read(shard, seqs, done);
    }

    fn answer(&self, shard: ShardId, ask: Ask, verdict: Verdict, failure: Option<&StoreError>) {
        match (verdict, ask) {
            (Verdict::Accepted(acceptance), ask) => ask.answer_send(Ok(self.accepted(shard, &acceptance))),
            (Verdict::Settled, ask) => ask.answer_settle(Settled::Done),
            (Verdict::Stale, ask) => ask.answer_settle(Settled::Stale),
            (Verdict::Replayed { seq }, Ask::Replay(caller)) => drop(caller.send(Ok(seq))),
            (Verdict::Replayed { .. }, _) => unreachable!("only a replay is answered so"),
            (Verdict::QueueFull { bound }, ask) => {
                let (what, retry_after) = (bound, FULL_RETRY_AFTER);
                ask.fail(FabricError::Overloaded { what, retry_after });
            }
            (Verdict::Unknown, ask) => {
                ask.fail(FabricError::UnknownMessage("of that id among the dead letters".into()));
            }
            (Verdict::Failed, ask) => {
                let error = failure.cloned().unwrap_or(StoreError::Closed);
                ask.fail(error.into());
            }
        }
    }

    fn accepted(&self, shard: ShardId, acceptance: &Acceptance) -> Accepted {
        let session = acceptance.consumer.and_then(|consumer| self.sessions.get(&consumer));
        let median_us = self.handle.median_us.load(Ordering::Relaxed);
        let estimate = || time::now() + Duration::from_micros(median_us);
        Accepted {
            status: acceptance.status.map_or(AcceptedStatus::Dropped, AcceptedStatus::Is),
            tracking: acceptance.seq.map(|seq| TrackingId { shard, seq }),
            duplicate: acceptance.duplicate,
            recipients: acceptance.recipients,
            shard,
            protocol: session.map(|attached| attached.core.protocol),
            estimated_delivery: (acceptance.attended && median_us > 0).then(estimate),
        }
    }

    /// Hands the sessions their messages: one chunk for what stands one behind the other of one session and one priority.
    fn hand_out(&mut self, now: Timestamp) {
        self.counters.add(&std::mem::take(&mut self.out.counts));
        let waited = |stamp: &Stamp| u64::try_from(now.since(stamp.accepted_at).as_micros()).unwrap_or(u64::MAX);
        // The chunk goes even where its session does not: it detached in this very step, which brought back what was leased to it, and
        // the next session must not get it. A closed lane takes nothing either: its session is about to detach.
        let mut chunks = Chunks::new(|consumer, priority, chunk| {
            if let Some(attached) = self.sessions.get(&consumer) {
                attached.core.push(priority, chunk);
            }
        });
        // A sender's messages that pass were sent before those that are kept: it turns to keeping for good.
        for passed in self.out.passed_on.drain(..) {
            let PassedOn {
                consumer,
                credit,
                run,
                queue,
            } = passed;
            if !self.sessions.contains_key(&consumer) {
                // It left this worker's queues in this very step, and may have others.
                credit.leave_lane(run.frames(), run.weight_bytes());
                credit.chunk_left();
                continue;
            }
            let to = (consumer, run.envelope().priority());
            self.counters
                .delivery_latency
                .record(waited(&run.stamp), run.frames() as u64);
            // Each was counted as a chunk when it was decided.
            if chunks.add(to, Piece::Run { run, queue }) {
                credit.chunk_left();
            }
        }
        for hand_out in self.out.hand_outs.drain(..) {
            let to = (hand_out.consumer, hand_out.frame.envelope.priority());
            self.counters.delivery_latency.record(waited(&hand_out.frame.stamp), 1);
            chunks.add(to, delivery(hand_out));
        }
        chunks.finish();
        for (consumer, waiting) in self.out.credited.drain(..) {
            let session = SessionId(consumer.0);
            let waiting = waiting
                .iter()
                .filter_map(|worker| self.context.workers.handles.get(worker));
            waiting.for_each(|handle| handle.control(Control::Credit { session }));
        }
        for address in self.out.unattended.drain(..) {
            let agent = address.agent_id().and_then(|id| self.context.directory.agent(id));
            if let Some(agent) = agent.filter(|agent| agent.has_webhook()) {
                // A full list is no loss: the agent is named again with its next message.
                drop(self.context.unattended.try_send(agent.id.clone()));
            }
        }
    }
}

/// Takes commands out of the inbox, up to the bounds of a step.
pub(super) fn take_in(inbox: &mut queue::Receiver<Command>, commands: &mut Vec<Command>) {
    let mut bytes = 0;
    while commands.len() < STEP_BUDGET && bytes < STEP_BYTES {
        let before = commands.len();
        if inbox.drain(TAKE, commands) == 0 {
            return;
        }
        bytes += commands[before..].iter().map(Weigh::weight_bytes).sum::<usize>();
    }
}

/// Somebody may look for the message: its ids are in the log, as far as the step still has them.
fn log_given_up(shard: ShardId, given_up: &GivenUp) {
    let message_id = given_up.message_id.as_deref();
    let agent_id = given_up.queue.agent_id();
    let reason = given_up.reason.name();
    let tracking_id = TrackingId {
        shard,
        seq: given_up.seq,
    };
    match given_up.status {
        Status::DeadLettered => {
            tracing::info!(message_id, agent_id, %tracking_id, reason, "a message became a dead letter");
        }
        Status::Expired => tracing::debug!(message_id, agent_id, %tracking_id, "a message expired"),
        _ => tracing::debug!(message_id, agent_id, %tracking_id, reason, "a message was rejected"),
    }
}

/// Why a message was refused at its queue.
fn refusal(verdict: &Verdict, address: Address) -> FabricError {
    match verdict {
        Verdict::QueueFull { bound } => FabricError::QueueFull {
            address,
            bound,
            retry_after: FULL_RETRY_AFTER,
        },
        _ => FabricError::ReplyAddressGone(address),
    }
}

/// Policy at delivery: whether a session's agent may receive what was sent to an address (G10).
fn may_receive(policy: &dyn Policy) -> impl Fn(&Consumer, &Envelope) -> bool + '_ {
    |consumer, envelope| {
        let action = Action::Receive { to: envelope.to() };
        policy.decide(consumer.agent.as_str(), action) == Decision::Allow
    }
}
