//! One shard, its store and its sessions, driven step by step without a clock.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{invariants, store::ModelStore};
use crate::{
    delivery::{
        Acceptance, After, Consumer, ConsumerId, Copies, Credit, HandOut, Lease, Limits, Nack, Out, Pass, Publish,
        QueueKind, Relay, Route, Selection, ShardState, Targets, Verdict, WorkerMark,
    },
    frame::{
        Address, AgentId, Draft, Envelope, Frame, LastHop, MessageId, Priority, Qos, Run, RunBuilder, Seq, ShardId,
        record::{IdHash, MessageKey, Op, Receipt},
    },
    time::Timestamp,
};

/// What a caller's answer is told apart by.
pub type Tag = u32;

pub const WORKER: WorkerMark = WorkerMark::of(0);

/// The time at which every world starts.
pub const START: Timestamp = Timestamp::from_millis(1_000_000_000);

/// A message in the making, with short defaults.
#[derive(Clone, Debug)]
pub struct Mail {
    pub from: &'static str,
    pub id: String,
    pub to: Address,
    pub priority: Priority,
    pub qos: Qos,
    pub ttl: Option<Duration>,
    pub last_hop: LastHop,
    pub body: usize,
}

/// A message from `alice`, normal priority, at least once, that never expires, of one byte.
pub fn mail(id: &str, to: &str) -> Mail {
    Mail {
        from: "alice",
        id: id.into(),
        to: address(to),
        priority: Priority::Normal,
        qos: Qos::AtLeastOnce,
        ttl: None,
        last_hop: LastHop::Any,
        body: 1,
    }
}

impl Mail {
    pub fn from(self, from: &'static str) -> Self {
        Self { from, ..self }
    }

    pub fn priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    pub fn qos(self, qos: Qos) -> Self {
        Self { qos, ..self }
    }

    pub fn ttl_secs(self, secs: u64) -> Self {
        Self {
            ttl: Some(Duration::from_secs(secs)),
            ..self
        }
    }

    pub fn over(self, last_hop: LastHop) -> Self {
        Self { last_hop, ..self }
    }

    pub fn body(self, body: usize) -> Self {
        Self { body, ..self }
    }

    pub fn key(&self) -> MessageKey {
        MessageKey::new(7, self.from, &self.id)
    }

    pub fn frame(&self, now: Timestamp) -> Frame {
        let mut draft = Draft::new(
            MessageId::new(&self.id).unwrap(),
            AgentId::new(self.from).unwrap(),
            self.to.clone(),
        );
        draft.priority = self.priority;
        draft.qos = self.qos;
        draft.last_hop = self.last_hop.clone();
        let mut frame = Frame::new(draft.archive().unwrap(), Bytes::from(vec![7; self.body])).unwrap();
        frame.stamp.accepted_at = now;
        frame.stamp.expires_at = self.ttl.map_or(Timestamp::NEVER, |ttl| now + ttl);
        frame
    }
}

pub fn address(text: &str) -> Address {
    Address::from_trusted(text)
}

pub fn agent(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

/// What the router says a queue of that address is for.
pub fn kind_of(to: &Address) -> QueueKind {
    match to.token() {
        Some(token) if token.starts_with("mem") => QueueKind::Ephemeral,
        _ if to.as_str() == "group:turns" => QueueKind::OneOf(Selection::RoundRobin),
        _ => QueueKind::of(to),
    }
}

pub struct World {
    pub shard: ShardState<Tag>,
    pub store: ModelStore,
    pub limits: Arc<Limits>,
    pub now: Timestamp,
    pub out: Out<Tag>,
    pub in_flight: VecDeque<(Vec<Op>, Vec<After<Tag>>)>,
    /// Agents that policy lets receive nothing.
    pub denied: BTreeSet<AgentId>,
    pub epoch: u64,
    /// Of every queue after a crash.
    pub retention: Duration,
    /// Looks inside after every call only this often: long runs look seldom.
    pub look_every: u32,
    calls: u32,
    next_tag: Tag,
}

impl World {
    pub fn new() -> Self {
        Self::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Self {
        let limits = Arc::new(limits);
        Self {
            shard: ShardState::new(1, limits.clone(), WORKER),
            store: ModelStore::default(),
            limits,
            now: START,
            out: Out::default(),
            in_flight: VecDeque::new(),
            denied: BTreeSet::new(),
            epoch: 1,
            retention: Duration::ZERO,
            look_every: 1,
            calls: 0,
            next_tag: 0,
        }
    }

    pub fn tag(&mut self) -> Tag {
        self.next_tag += 1;
        self.next_tag
    }

    /// Runs the machine with this world's gate, and looks inside afterwards.
    pub fn run<T>(
        &mut self,
        step: impl FnOnce(&mut ShardState<Tag>, Timestamp, &mut Out<Tag>, &crate::delivery::Gate<'_>) -> T,
    ) -> T {
        let denied = &self.denied;
        let gate = |consumer: &Consumer, _: &Envelope| !denied.contains(&consumer.agent);
        let result = step(&mut self.shard, self.now, &mut self.out, &gate);
        self.calls += 1;
        if self.calls.is_multiple_of(self.look_every) {
            invariants::check(&self.shard);
        }
        result
    }

    // --- in ----------------------------------------------------------------------------------------------------------

    /// Hands the message to the shard; nothing is committed.
    pub fn publish(&mut self, mail: &Mail) -> Tag {
        let route = Route::Envelope {
            hash: mail.to.hash64(),
            kind: kind_of(&mail.to),
            retention: Duration::ZERO,
        };
        self.publish_by(mail, route)
    }

    pub fn publish_by(&mut self, mail: &Mail, route: Route) -> Tag {
        let tag = self.tag();
        if mail.qos == Qos::AtMostOnce {
            let run = Run::one(mail.frame(self.now));
            self.pass(run, route, Some(tag));
            return tag;
        }
        let publish = Publish {
            frame: mail.frame(self.now),
            key: mail.key(),
            id_hash: IdHash::new(&mail.id),
            route,
            answer: Some(tag),
        };
        self.run(|shard, now, out, gate| shard.handle_publish(publish, now, out, gate));
        tag
    }

    /// Hands QoS 0 messages to the shard.
    pub fn pass(&mut self, run: Run, route: Route, answer: Option<Tag>) {
        let pass = Pass { run, route, answer };
        self.run(|shard, now, out, gate| shard.handle_pass(pass, now, out, gate));
    }

    pub fn fan_out(&mut self, mail: &Mail, targets: &[&str], retention: Duration) -> Tag {
        let targets: Targets = targets.iter().copied().map(address).collect();
        let hash = mail.to.hash64();
        self.publish_by(
            mail,
            Route::FanOut {
                hash,
                targets,
                retention,
            },
        )
    }

    /// Publishes, commits and returns what the sender learned.
    pub fn send(&mut self, mail: &Mail) -> Verdict {
        let tag = self.publish(mail);
        self.commit();
        self.answer(tag)
    }

    pub fn copies(&mut self, mail: &Mail, source: ShardId, seq: u64, targets: &[&str]) {
        let copies = Copies {
            source,
            seq: Seq::from_raw(seq),
            frame: mail.frame(self.now),
            key: mail.key(),
            id_hash: IdHash::new(&mail.id),
            targets: targets.iter().copied().map(address).collect(),
        };
        self.run(|shard, now, out, gate| shard.handle_copies(copies, now, out, gate));
    }

    /// A run of so many QoS 0 messages, `m00` and on, that differ from this one in id alone.
    pub fn run_of(&self, mail: &Mail, messages: usize) -> Run {
        let named = |at: usize| Mail {
            id: format!("m{at:02}"),
            ..mail.clone()
        };
        let mut builder = RunBuilder::new(named(0).qos(Qos::AtMostOnce).frame(self.now));
        for at in 1..messages {
            let frame = named(at).frame(self.now);
            assert!(builder.push(frame.envelope.id().as_bytes(), &frame.body, 0));
        }
        builder.finish()
    }

    /// Copies of a QoS 0 fan-out come in.
    pub fn passed_copies(&mut self, mail: &Mail, targets: &[&str]) {
        for target in targets.iter().copied().map(address) {
            let run = Run::one(mail.frame(self.now));
            self.run(|shard, now, out, gate| shard.handle_passed_copy(run, &target, now, out, gate));
        }
    }

    // --- sessions ----------------------------------------------------------------------------------------------------

    pub fn consumer(&self, id: u64, name: &str, window: u32) -> Consumer {
        Consumer {
            id: ConsumerId(id),
            agent: agent(name),
            protocol: "grpc",
            credit: Arc::new(Credit::new(window, 1 << 20)),
            session: id,
            visibility_timeout: None,
        }
    }

    pub fn attach(&mut self, to: &str, id: u64, name: &str, window: u32) -> Arc<Credit> {
        let consumer = self.consumer(id, name, window);
        let credit = consumer.credit.clone();
        self.attach_as(to, consumer);
        credit
    }

    pub fn attach_as(&mut self, to: &str, consumer: Consumer) {
        let to = address(to);
        self.run(|shard, _, _, _| shard.handle_attach(&to, kind_of(&to), consumer));
        self.pump();
    }

    pub fn detach(&mut self, to: &str, id: u64) {
        let to = address(to);
        self.run(|shard, now, out, _| shard.handle_detach(&to, ConsumerId(id), now, out));
    }

    pub fn ack(&mut self, lease: (Seq, Lease), by: &str) -> Tag {
        let (tag, by) = (self.tag(), agent(by));
        self.run(|shard, now, out, _| shard.handle_ack(lease.0, lease.1, &by, Some(tag), now, out));
        tag
    }

    pub fn nack(&mut self, lease: (Seq, Lease), by: &str, nack: Nack) -> Tag {
        let (tag, by) = (self.tag(), agent(by));
        self.run(|shard, now, out, _| shard.handle_nack(lease.0, lease.1, &by, nack, Some(tag), now, out));
        tag
    }

    // --- time and commits --------------------------------------------------------------------------------------------

    pub fn pump(&mut self) {
        self.run(|shard, now, out, gate| shard.pump(now, out, gate));
    }

    /// Lets time pass and the timers that are due go off.
    pub fn wait(&mut self, span: Duration) {
        self.now = self.now + span;
        while self.shard.next_timer().is_some_and(|at| at <= self.now) {
            self.run(|shard, now, out, _| shard.handle_timeout(now, out));
        }
        self.pump();
    }

    pub fn wait_secs(&mut self, secs: u64) {
        self.wait(Duration::from_secs(secs));
    }

    /// Hands what gathered to the store; it is under way.
    pub fn begin_commit(&mut self) {
        if self.shard.has_commit() {
            let commit = self.shard.take_commit();
            self.in_flight.push_back(commit);
        }
    }

    /// The oldest commit under way completes. False: there is none.
    pub fn complete(&mut self) -> bool {
        let Some((ops, after)) = self.in_flight.pop_front() else {
            return false;
        };
        self.store.apply(ops);
        self.run(|shard, now, out, gate| shard.handle_committed(after, now, out, gate));
        true
    }

    /// The oldest commit under way fails, and nothing of it is in the store.
    pub fn fail(&mut self) -> bool {
        let Some((_, after)) = self.in_flight.pop_front() else {
            return false;
        };
        self.run(|shard, _, out, _| shard.handle_failed(after, out));
        true
    }

    /// Commits and reads until nothing is left to do.
    pub fn commit(&mut self) {
        for _ in 0..1000 {
            self.pump();
            self.begin_commit();
            let worked = self.complete();
            if !self.serve_loads() && !worked {
                return;
            }
        }
        panic!("the shard never comes to rest");
    }

    /// Answers the reads that the shard asked for. False: there were none.
    pub fn serve_loads(&mut self) -> bool {
        let loads = std::mem::take(&mut self.out.loads);
        let worked = !loads.is_empty();
        for load in loads {
            let frame = self.store.messages.get(&load.0).map(|(_, frame)| frame.clone());
            self.run(|shard, now, out, _| shard.handle_loaded(load.0, frame, now, out));
        }
        self.pump();
        worked
    }

    /// The process dies, and a new one takes over from what the store has.
    pub fn crash(&mut self) {
        self.epoch += 1;
        self.in_flight.clear();
        self.out = Out::default();
        let retention = self.retention;
        let known = |to: &Address| (kind_of(to), retention);
        self.shard = ShardState::recover(
            self.epoch,
            self.store.image(),
            self.limits.clone(),
            WORKER,
            &known,
            self.now,
        );
        invariants::check(&self.shard);
    }

    // --- out ---------------------------------------------------------------------------------------------------------

    /// The answer to a call, once.
    pub fn answer(&mut self, tag: Tag) -> Verdict {
        self.answered(tag).expect("an answer is there")
    }

    pub fn answered(&mut self, tag: Tag) -> Option<Verdict> {
        let at = self.out.answers.iter().position(|(known, _)| *known == tag)?;
        Some(self.out.answers.remove(at).1)
    }

    pub fn hand_outs(&mut self) -> Vec<HandOut> {
        std::mem::take(&mut self.out.hand_outs)
    }

    /// The ids of what was handed out since the last look.
    pub fn handed_ids(&mut self) -> Vec<String> {
        self.hand_outs()
            .iter()
            .map(|h| h.frame.envelope.id().to_owned())
            .collect()
    }

    /// The QoS 0 messages that were passed on since the last look: to whom, and their ids.
    pub fn passed(&mut self) -> Vec<(u64, Vec<String>)> {
        let ids = |run: &Run| run.iter().map(|frame| frame.envelope.id().to_owned()).collect();
        let passed = std::mem::take(&mut self.out.passed_on);
        passed.iter().map(|one| (one.consumer.0, ids(&one.run))).collect()
    }

    /// The one message that was handed out since the last look.
    pub fn taken(&mut self) -> Taken {
        let mut all = self.hand_outs();
        assert_eq!(all.len(), 1, "one message was handed out");
        Taken(all.remove(0))
    }

    pub fn relays(&mut self) -> Vec<Relay> {
        std::mem::take(&mut self.out.relays)
    }

    pub fn receipt(&self, seq: Seq) -> Receipt {
        self.shard.receipt(seq).expect("a receipt is there")
    }

    pub fn depth(&self, to: &str) -> usize {
        self.shard.depth(&address(to)).0
    }
}

/// A message that a session holds.
pub struct Taken(pub HandOut);

impl Taken {
    pub fn id(&self) -> &str {
        self.0.frame.envelope.id()
    }

    pub fn lease(&self) -> (Seq, Lease) {
        self.0.lease
    }

    pub fn seq(&self) -> Seq {
        self.lease().0
    }

    pub fn is_redelivered(&self) -> bool {
        self.0.frame.stamp.flags.is_redelivered()
    }
}

/// The acceptance in a verdict.
pub fn accepted(verdict: Verdict) -> Acceptance {
    match verdict {
        Verdict::Accepted(acceptance) => acceptance,
        other => panic!("not accepted: {other:?}"),
    }
}
