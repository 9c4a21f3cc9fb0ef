//! The words that edges speak to the door in: principals, answers, deliveries, sessions' wishes and what may be asked.

use std::{fmt, str::FromStr, time::Duration};

use serde::Serialize;

use super::error::FabricError;
pub use crate::delivery::Lease;
use crate::{
    frame::{Address, AgentId, Envelope, Frame, MessageId, Run, Seq, ShardId, Stamp, TopicFilter, TrackingId, record},
    time::Timestamp,
};

/// Token of the durable queue that an agent's topic subscriptions fill where it receives by single calls, whatever their protocol.
pub const POLL_QUEUE: &str = "poll";

/// Who is speaking, as the edge proved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Development mode: nobody was asked to prove anything, so every claim stands.
    Anyone,
    /// This agent and nobody else.
    Agent(AgentId),
}

/// A protocol that sessions use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Http,
    WebSocket,
    Grpc,
    Quic,
    Mqtt,
    /// The fabric's own pushes to an agent's HTTP endpoint.
    Webhook,
}

impl Protocol {
    /// How many there are.
    pub const COUNT: usize = 6;
    /// All of them.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Http,
        Self::WebSocket,
        Self::Grpc,
        Self::Quic,
        Self::Mqtt,
        Self::Webhook,
    ];

    /// The name that users read and write.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::WebSocket => "websocket",
            Self::Grpc => "grpc",
            Self::Quic => "quic",
            Self::Mqtt => "mqtt",
            Self::Webhook => "webhook",
        }
    }

    /// As an array index.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the sender of a message learns at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub status: AcceptedStatus,
    /// Where its receipt is; `None` at QoS 0, which has none.
    pub tracking: Option<TrackingId>,
    /// True where the same message was accepted before; the rest of the answer is then the first one's receipt.
    pub duplicate: bool,
    /// Queues that the message goes to.
    pub recipients: u32,
    /// The address's home shard.
    pub shard: ShardId,
    /// The protocol of the session that it was handed to, where it was.
    pub protocol: Option<Protocol>,
    /// Now plus the measured median, where a session is attached.
    pub estimated_delivery: Option<Timestamp>,
}

/// A message's status in the answer to its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptedStatus {
    Is(record::Status),
    /// QoS 0 and nobody there, or no room: gone, and counted.
    Dropped,
}

impl AcceptedStatus {
    /// The name that users read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Is(status) => status.name(),
            Self::Dropped => "dropped",
        }
    }
}

/// A caller's own number for a message in a batch; it comes back with the answer.
pub type Tag = u64;

/// The answer to one message of a batch.
pub type Answer = (Tag, Result<Accepted, FabricError>);

/// One hand-out of one message, to be acknowledged by this id. Stale once the message was handed out again or settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    pub shard: ShardId,
    pub seq: Seq,
    pub lease: Lease,
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d_{:03x}-{:x}-{:x}", self.shard.get(), self.seq.raw(), self.lease.0)
    }
}

impl FromStr for DeliveryId {
    type Err = FabricError;

    fn from_str(text: &str) -> Result<Self, FabricError> {
        let parse = || {
            let mut parts = text.strip_prefix("d_")?.splitn(3, '-');
            let shard = u16::from_str_radix(parts.next()?, 16).ok().and_then(ShardId::new)?;
            let seq = u64::from_str_radix(parts.next()?, 16).ok()?;
            let lease = u64::from_str_radix(parts.next()?, 16).ok()?;
            Some(Self {
                shard,
                seq: Seq::from_raw(seq),
                lease: Lease(lease),
            })
        };
        parse().ok_or_else(|| FabricError::invalid("delivery_ids", format!("has {text:?}, which is not a delivery id")))
    }
}

/// A message handed to a session.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// `None` where nothing is to be acknowledged (QoS 0).
    pub id: Option<DeliveryId>,
    /// `stamp.attempt` counts earlier attempts, `stamp.flags` says whether it may have been delivered before.
    pub frame: Frame,
    /// The queue that it came from.
    pub queue: Address,
}

/// What a session gets in one piece.
#[derive(Clone, Debug)]
pub enum Piece {
    One(Delivery),
    /// Messages that came together and differ in nothing but their ids and bodies: QoS 0, or QoS 1 that nobody keeps
    /// ([`SessionQueue::OnDemand`]).
    Run {
        run: Run,
        /// The queue that they came from.
        queue: Address,
    },
}

impl Piece {
    /// How many deliveries it is.
    pub fn frames(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Run { run, .. } => run.frames(),
        }
    }

    /// Bytes that it takes up, as bounds count them.
    pub fn weight_bytes(&self) -> usize {
        match self {
            Self::One(delivery) => delivery.frame.encoded_len(),
            Self::Run { run, .. } => run.weight_bytes(),
        }
    }

    /// Takes deliveries off the front; `None`, and nothing changed, where none would be left.
    pub(super) fn split_to(&mut self, frames: usize) -> Option<Self> {
        match self {
            Self::One(_) => None,
            Self::Run { run, queue } => run.split_to(frames).map(|run| Self::Run {
                run,
                queue: queue.clone(),
            }),
        }
    }

    /// The deliveries, appended.
    pub fn unpack(self, into: &mut Vec<Delivery>) {
        match self {
            Self::One(delivery) => into.push(delivery),
            Self::Run { run, queue } => into.extend(run.iter().map(|frame| Delivery {
                id: None,
                frame,
                queue: queue.clone(),
            })),
        }
    }
}

/// A message on its way into a stream ([`super::Publisher`]).
#[derive(Clone, Debug)]
pub enum Sending {
    /// QoS 1 or 2: answered under its tag.
    Keep(Tag, Frame),
    /// QoS 0: answered where there is a tag, once for all of the run.
    Pass(Option<Tag>, Run),
    /// QoS 1, kept for the queues that last and passed on to those that take messages as they pass ([`SessionQueue::OnDemand`]). Each
    /// is answered, under this tag and those that follow it.
    KeepOrPass(Tag, Run),
}

impl Sending {
    /// Of one frame. What QoS 1 and 2 always get, an answer, QoS 0 gets where `answered`.
    pub fn one(tag: Tag, frame: Frame, answered: bool) -> Self {
        match frame.envelope.qos().is_durable() {
            true => Self::Keep(tag, frame),
            false => Self::Pass(answered.then_some(tag), Run::one(frame)),
        }
    }

    /// The tag of its answer, where it gets one.
    pub fn tag(&self) -> Option<Tag> {
        match self {
            Self::Keep(tag, _) => Some(*tag),
            Self::Pass(tag, _) => *tag,
            Self::KeepOrPass(tag, _) => Some(*tag),
        }
    }

    /// How many answers it gets.
    pub(super) fn answers(&self) -> u32 {
        match self {
            Self::Keep(..) | Self::Pass(Some(_), _) => 1,
            Self::Pass(None, _) => 0,
            Self::KeepOrPass(_, run) => u32::try_from(run.frames()).unwrap_or(u32::MAX),
        }
    }
}

/// What an acknowledgement did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Committed.
    Done,
    /// The delivery id was stale: nothing changed.
    Stale,
    /// It is not known (G2), or the store refused: retry.
    Failed(FabricError),
}

/// What a receiver says of a message that it did not process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Hand it out again: after this long, or after the usual back-off.
    Retry(Option<Duration>),
    /// Hand it out again at once, to anyone; the attempt does not count.
    Release,
    /// Not again: to the dead letters.
    DeadLetter,
}

/// How a session wants to receive.
#[derive(Clone, Debug)]
pub struct Attach {
    pub agent: AgentId,
    pub protocol: Protocol,
    pub inbox: Inbox,
    pub queue: SessionQueue,
    /// Messages and bytes that may be handed out and not yet settled.
    pub window: Window,
    /// How long a hand-out may stay unsettled before it comes back; `None`: as long as the session lasts.
    pub visibility_timeout: Option<Duration>,
}

/// Whether a session takes the agent's inbox messages (and those of its capabilities and one-of groups).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbox {
    Open,
    Closed,
}

/// The queue that a session has of its own, for topic subscriptions and replies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionQueue {
    /// In memory, under a fresh token; gone with the session.
    Ephemeral,
    /// The same, opened by the first subscription: until then it takes up no room, and no reply reaches it. QoS 1 that is sent as
    /// [`Sending::KeepOrPass`] reaches it without delivery ids: its edge sees to the rest of the way.
    OnDemand,
    /// Durable, under this token, with its subscriptions; stays until [`super::Fabric::remove_session_queue`].
    Durable(String),
}

/// An absolute window of credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub messages: u32,
    pub bytes: u64,
}

impl Window {
    /// What a session may have in flight unless configured otherwise: 256 messages or 1 MiB.
    pub const DEFAULT: Self = Self {
        messages: 256,
        bytes: 1024 * 1024,
    };
    /// Nothing.
    pub const CLOSED: Self = Self { messages: 0, bytes: 0 };
}

/// What comes out of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// Deliveries were appended.
    Deliveries,
    /// The fabric ends the session: say goodbye and close.
    Goodbye(Goodbye),
}

/// Why the fabric ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// The node shuts down.
    Draining,
    /// The agent was removed.
    AgentRemoved,
    /// An operator ended it.
    Kicked,
    /// It did not read what it had asked for.
    SlowConsumer,
    /// Another session took over its durable queue.
    TakenOver,
}

impl Goodbye {
    /// The name that users read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::AgentRemoved => "agent_removed",
            Self::Kicked => "kicked",
            Self::SlowConsumer => "slow_consumer",
            Self::TakenOver => "taken_over",
        }
    }
}

/// A session's number on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A live session as operators see it.
#[derive(Clone, Debug)]
pub struct ConnectionView {
    pub session: SessionId,
    pub agent: AgentId,
    pub protocol: Protocol,
    pub since: Timestamp,
    pub window: Window,
    pub in_flight: Window,
    /// Messages handed out that the session's writer has not taken yet.
    pub queue_depth: usize,
    pub subscriptions: Vec<TopicFilter>,
}

/// Which message a status question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusQuery {
    /// Its shard is in the tracking id: cheap.
    Tracking(TrackingId),
    /// Asks every shard; rate-limited.
    Message { id: MessageId, from: Option<AgentId> },
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageStatus {
    pub tracking: TrackingId,
    pub status: record::Status,
    pub reason: record::Reason,
    /// Queues that the message went to.
    pub recipients: u32,
    /// How many of them have each status, indexed by [`record::Status`]'s number.
    pub counts: [u32; record::Status::COUNT],
    /// Deliveries begun.
    pub attempts: u32,
    pub accepted_at: Timestamp,
    pub sent_at: Timestamp,
    pub settled_at: Timestamp,
}

/// A kept message: a dead letter, or one of a group's history.
#[derive(Clone, Debug)]
pub struct KeptMessage {
    pub tracking: TrackingId,
    pub frame: Frame,
    pub reason: record::Reason,
    pub attempts: u32,
    /// When it was settled; [`Timestamp::NEVER`] for history that still waits.
    pub settled_at: Timestamp,
}

/// An envelope that passed, for debugging; never its body.
#[derive(Clone, Debug)]
pub struct PassedEnvelope {
    pub envelope: Envelope,
    pub stamp: Stamp,
    pub body_bytes: usize,
    pub shard: ShardId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_ids_round_trip_and_refuse_anything_else() {
        let id = DeliveryId {
            shard: ShardId::new(17).unwrap(),
            seq: Seq::first_of(3).next(),
            lease: Lease(0xabc),
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "d_", "d_1-2", "d_400-1-1", "x_1-1-1", "d_1-1-g", "d_1-1-1-1"] {
            assert!(bad.parse::<DeliveryId>().is_err(), "{bad}");
        }
    }
}
