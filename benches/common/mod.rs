//! What several benches need: messages, and one shard with sessions that take whatever comes.
#![allow(dead_code, reason = "each bench uses its own part of it")]

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use weft::{
    delivery::{
        Consumer, ConsumerId, Credit, HandOut, Limits, Out, Pass, Publish, QueueKind, Route, ShardState, WorkerMark,
    },
    frame::{
        Address, AgentId, Draft, Frame, MessageId, Qos, Run,
        batch::{self, Compression, Packer, Part},
        record::{IdHash, MessageKey},
    },
    router::surface::Sending,
    time::Timestamp,
};

/// The body of a message, in bytes.
pub const BODY_BYTES: usize = 256;
/// When everything in a bench happens.
pub const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// An agent that receives.
pub fn receiver(index: usize) -> AgentId {
    AgentId::new(format!("acme/worker-{index}")).expect("well-formed")
}

/// A message's parts before they are archived.
pub fn draft(number: u64, to: &Address, qos: Qos) -> Draft {
    let id = MessageId::new(format!("0190b0a0-7d7b-7cc3-9c1b-{number:012x}")).expect("well-formed");
    let mut draft = Draft::new(id, AgentId::new("acme/planner").expect("well-formed"), to.clone());
    draft.qos = qos;
    draft
}

/// A message, stamped.
pub fn frame(number: u64, to: &Address, qos: Qos, body: &Bytes) -> Frame {
    let archived = draft(number, to, qos).archive().expect("within the limits");
    let mut frame = Frame::new(archived, body.clone()).expect("within the limits");
    frame.stamp.accepted_at = NOW;
    frame
}

/// A body of the usual size.
pub fn body() -> Bytes {
    Bytes::from(vec![7; BODY_BYTES])
}

/// Frames as the native protocol's batch, appended.
pub fn encode_batch(frames: &[Frame], into: &mut BytesMut) {
    let mut packer = Packer::with_capacity(frames.iter().map(Frame::encoded_len).sum());
    frames.iter().for_each(|frame| packer.push(frame, None, ""));
    let mut parts = Vec::new();
    packer.finish(0, Compression::None, &mut parts);
    parts.iter().for_each(|part| into.extend_from_slice(part));
}

/// The parts of such a batch as messages to be published, appended.
pub fn decode_batch(mut encoded: Bytes, into: &mut Vec<Sending>) {
    let sending = |part: Part<'_>| match part {
        Part::Run { run, .. } => Sending::Pass(None, run),
        Part::Frame(item) => Sending::one(item.tag, item.frame, false),
    };
    batch::decode(&mut encoded, |part| into.push(sending(part))).expect("a batch");
}

/// One shard with an inbox and a session for each of many agents.
pub struct Shard {
    pub state: ShardState<()>,
    pub inboxes: Vec<Address>,
    agents: Vec<AgentId>,
    out: Out<()>,
    handed_out: Vec<HandOut>,
}

impl Shard {
    /// A shard whose mailboxes are all attached.
    pub fn new(mailboxes: usize) -> Self {
        let limits = Limits {
            inbox_messages_max: 100_000,
            inbox_bytes_max: 256 << 20,
            session_messages_max: 1_000,
            session_bytes_max: 8 << 20,
            max_deliver: 16,
            backoff_first: Duration::from_secs(1),
            backoff_max: Duration::from_secs(300),
            // Settled receipts age out at once, so that every measured message finds the same shard.
            receipt_window: Duration::ZERO,
            dead_letters_max: 10_000,
            dead_letter_retention: Duration::from_secs(3_600),
            history_messages_max: 10_000,
        };
        let mut state = ShardState::new(1, Arc::new(limits), WorkerMark::of(0));
        let agents: Vec<AgentId> = (0..mailboxes).map(receiver).collect();
        let inboxes: Vec<Address> = agents.iter().map(Address::agent).collect();
        for (index, (agent, inbox)) in agents.iter().zip(&inboxes).enumerate() {
            let consumer = Consumer {
                id: ConsumerId(index as u64),
                agent: agent.clone(),
                protocol: "grpc",
                credit: Arc::new(Credit::new(256, 1 << 20)),
                session: index as u64,
                visibility_timeout: None,
            };
            state.handle_attach(inbox, QueueKind::Inbox, consumer);
        }
        let mut out = Out::default();
        state.pump(NOW, &mut out, &|_, _| true);
        Self {
            state,
            inboxes,
            agents,
            out,
            handed_out: Vec::new(),
        }
    }

    /// Takes a message in; at QoS 0 it is handed out with that.
    pub fn publish(&mut self, frame: Frame) {
        if !frame.envelope.qos().is_durable() {
            return self.pass(Run::one(frame));
        }
        let key = MessageKey::new(7, frame.envelope.from(), frame.envelope.id());
        let publish = Publish {
            key,
            id_hash: IdHash::new(frame.envelope.id()),
            route: Route::Envelope {
                hash: frame.envelope.address().hash64(),
                kind: QueueKind::Inbox,
                retention: Duration::ZERO,
            },
            frame,
            answer: Some(()),
        };
        self.state.handle_publish(publish, NOW, &mut self.out, &|_, _| true);
    }

    /// Hands QoS 0 messages out.
    pub fn pass(&mut self, run: Run) {
        let pass = Pass {
            route: Route::Envelope {
                hash: run.envelope().address().hash64(),
                kind: QueueKind::Inbox,
                retention: Duration::ZERO,
            },
            run,
            answer: None,
        };
        self.state.handle_pass(pass, NOW, &mut self.out, &|_, _| true);
    }

    /// Commits what there is, as a store that answers at once.
    pub fn commit(&mut self) {
        let (ops, after) = self.state.take_commit();
        drop(ops);
        self.state.handle_committed(after, NOW, &mut self.out, &|_, _| true);
    }

    /// Acknowledges everything that was handed out; returns how much that was.
    pub fn acknowledge(&mut self) -> usize {
        std::mem::swap(&mut self.handed_out, &mut self.out.hand_outs);
        let count = self.handed_out.len();
        for handed_out in self.handed_out.drain(..) {
            let (seq, lease) = handed_out.lease;
            let agent = usize::try_from(handed_out.consumer.0).expect("an index of ours");
            let agent = &self.agents[agent];
            self.state.handle_ack(seq, lease, agent, Some(()), NOW, &mut self.out);
        }
        count
    }

    /// Forgets answers and whatever else came out.
    pub fn clear(&mut self) {
        self.out.answers.clear();
        self.out.hand_outs.clear();
        self.out.passed_on.clear();
        self.out.credited.clear();
        self.out.loads.clear();
        self.out.unattended.clear();
    }

    /// A whole life of a batch of messages at QoS 1: taken in, committed, handed out, acknowledged, settled.
    pub fn pass_durable(&mut self, frames: impl Iterator<Item = Frame>) -> usize {
        frames.for_each(|frame| self.publish(frame));
        self.commit();
        let count = self.acknowledge();
        self.commit();
        self.clear();
        count
    }

    /// A whole life of messages at QoS 0.
    pub fn pass_at_once(&mut self, runs: impl Iterator<Item = Run>) -> usize {
        runs.for_each(|run| self.pass(run));
        let count = self.out.passed_on.iter().map(|one| one.run.frames()).sum();
        self.clear();
        count
    }
}
