//! Messages as users write them and deliveries as they read them: thin covers of the generated messages, so that nothing is
//! copied between a user and the wire.

use std::{
    fmt,
    str::FromStr,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use super::{Error, settle::Settler};
use crate::{
    frame::{
        Address, AgentId, Capability, Frame, GroupId, MessageId, Priority, Qos, Seq, ShardId, TopicName, TrackingId,
        batch::Mark,
    },
    rpc::{
        self, Parcel,
        convert::{self, FieldError},
        v1,
    },
    time::Timestamp,
};

/// A message in the making. Unless said otherwise: a fresh id, normal priority, at least once, the node's default
/// time to live (24 h), an empty body.
#[derive(Clone, Debug, PartialEq)]
pub struct Message(pub(super) v1::Message);

impl Message {
    /// A message to an address.
    pub fn new(to: &Address) -> Self {
        Self(v1::Message {
            id: fresh_id(),
            to: to.as_str().into(),
            ..Default::default()
        })
    }

    /// A message to an agent's inbox.
    pub fn to_agent(agent: &AgentId) -> Self {
        Self::new(&Address::agent(agent))
    }

    /// A message to a group.
    pub fn to_group(group: &GroupId) -> Self {
        Self::new(&Address::group(group))
    }

    /// A message to a topic.
    pub fn to_topic(topic: &TopicName) -> Self {
        Self::new(&Address::topic(topic))
    }

    /// A message to any agent that has a capability.
    pub fn to_capability(capability: &Capability) -> Self {
        Self::new(&Address::any(capability))
    }

    /// The sender. Without it a session's agent stands in; unary calls need it where nobody proved an identity.
    #[must_use]
    pub fn from(mut self, agent: &AgentId) -> Self {
        self.0.from = agent.as_str().into();
        self
    }

    /// An id of one's own, unique per sender. A retry keeps it.
    #[must_use]
    pub fn id(mut self, id: &MessageId) -> Self {
        self.0.id = id.as_str().into();
        self
    }

    /// How urgent it is.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.0.priority = v1::Priority::from(priority).into();
        self
    }

    /// Its quality of service.
    #[must_use]
    pub fn qos(mut self, qos: Qos) -> Self {
        self.0.qos = v1::Qos::from(qos).into();
        self
    }

    /// How long it is good for, in whole milliseconds from when it is accepted; zero is the node's default.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.0.ttl_ms = millis(ttl);
        self
    }

    /// Where replies go.
    #[must_use]
    pub fn reply_to(mut self, address: &Address) -> Self {
        self.0.reply_to = address.as_str().into();
        self
    }

    /// What ties a reply to its request. At most 1,024 bytes.
    #[must_use]
    pub fn correlation(mut self, correlation: impl Into<Bytes>) -> Self {
        self.0.correlation = correlation.into();
        self
    }

    /// What kind of message it is to its receiver, such as `task_request`. At most 1,024 bytes.
    #[must_use]
    pub fn message_type(mut self, name: impl Into<String>) -> Self {
        self.0.message_type = name.into();
        self
    }

    /// The body's media type. At most 1,024 bytes.
    #[must_use]
    pub fn content_type(mut self, media_type: impl Into<String>) -> Self {
        self.0.content_type = media_type.into();
        self
    }

    /// The protocol that the last hop should use where the receiver has it.
    #[must_use]
    pub fn prefer_protocol(mut self, protocol: impl Into<String>) -> Self {
        self.0.protocol = protocol.into();
        self.0.protocol_required = false;
        self
    }

    /// The protocol that the last hop must use: the message waits until the receiver has it.
    #[must_use]
    pub fn require_protocol(mut self, protocol: impl Into<String>) -> Self {
        self.0.protocol = protocol.into();
        self.0.protocol_required = true;
        self
    }

    /// Adds a header. At most 64 of them, 16 KiB together.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.headers.push(v1::Header {
            name: name.into(),
            value: value.into(),
        });
        self
    }

    /// The sender's W3C trace context.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.0.traceparent = traceparent.into();
        self
    }

    /// The body, not copied. At most the node's limit (1 MiB by default).
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.0.body = body.into();
        self
    }

    /// A text body, with its media type.
    #[must_use]
    pub fn text(self, text: impl Into<String>) -> Self {
        self.content_type("text/plain; charset=utf-8").body(text.into())
    }

    /// A JSON body, with its media type. Fails where the value is not one that JSON can show.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<Self, Error> {
        let body =
            serde_json::to_vec(value).map_err(|error| FieldError::new("body", format!("is not JSON: {error}")))?;
        Ok(self.content_type("application/json").body(body))
    }

    /// Its id as it will be sent.
    pub fn message_id(&self) -> &str {
        &self.0.id
    }

    /// Its address as it will be sent.
    pub fn to(&self) -> &str {
        &self.0.to
    }

    pub(super) fn is_durable(&self) -> bool {
        is_durable(&self.0)
    }
}

pub(super) fn is_durable(message: &v1::Message) -> bool {
    message.qos != v1::Qos::AtMostOnce as i32
}

/// This process's part of its messages' ids: when it began, and enough at random that no two are the same.
static PROCESS: LazyLock<[u8; PROCESS_ID_BYTES]> = LazyLock::new(|| {
    let uuid = Uuid::now_v7();
    let mut text = [b'-'; PROCESS_ID_BYTES];
    uuid.as_simple().encode_lower(&mut text[..PROCESS_ID_BYTES - 1]);
    text
});
static MESSAGES: AtomicU64 = AtomicU64::new(0);
/// A UUIDv7's 32 digits and a dash.
const PROCESS_ID_BYTES: usize = 33;
/// Digits of a message's number: 2^44 messages a process.
const NUMBER_DIGITS: usize = 11;

/// The process and the message's number in it. Neighbours differ in their last digit, which is what they cost in a batch; a
/// UUID for each would cost a lock, 16 random bytes and their digits.
fn fresh_id() -> String {
    FreshId::new().next().to_owned()
}

/// Where fresh ids are written, one after the other. All have one length.
pub(super) struct FreshId([u8; PROCESS_ID_BYTES + NUMBER_DIGITS]);

impl FreshId {
    pub fn new() -> Self {
        let mut text = [0; PROCESS_ID_BYTES + NUMBER_DIGITS];
        text[..PROCESS_ID_BYTES].copy_from_slice(&*PROCESS);
        Self(text)
    }

    pub fn next(&mut self) -> &str {
        let number = MESSAGES.fetch_add(1, Relaxed);
        for (at, digit) in self.0[PROCESS_ID_BYTES..].iter_mut().rev().enumerate() {
            *digit = b"0123456789abcdef"[(number >> (4 * at)) as usize & 15];
        }
        str::from_utf8(&self.0).expect("hexadecimal digits and a dash")
    }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A message that was received. The body is a slice of the buffer that it came in: keep a copy instead where it is to outlive its
/// neighbours by long.
#[derive(Clone, Debug)]
pub struct Received(Frame);

impl Received {
    /// Of a message that came by gRPC.
    pub(super) fn new(parcel: Parcel) -> Result<Self, Error> {
        let mut has_id = true;
        let made = || {
            has_id = false;
            MessageId::new("none").expect("it is within the grammar of message ids")
        };
        let frame = convert::incoming(parcel, None, made).map_err(|error| Error::protocol(error.to_string()))?;
        match has_id {
            true => Ok(Self(frame)),
            false => Err(Error::protocol("a message has no id")),
        }
    }

    /// The frame, stamped as the delivery says that it came with.
    pub(super) fn into_frame(self, delivery: &rpc::Delivery) -> Frame {
        let mut frame = self.0;
        frame.stamp.accepted_at = Timestamp::from_millis(delivery.accepted_at_ms);
        frame.stamp.expires_at = Timestamp::from_millis(delivery.expires_at_ms);
        frame.stamp.attempt = delivery.attempt.saturating_sub(1);
        if delivery.redelivered {
            frame.stamp.flags = frame.stamp.flags.with_redelivered();
        }
        frame
    }

    /// The message's id.
    pub fn id(&self) -> &str {
        self.0.envelope.id()
    }

    /// The sender, as the fabric proved it.
    pub fn from(&self) -> &str {
        self.0.envelope.from()
    }

    /// The address that it was sent to.
    pub fn to(&self) -> &str {
        self.0.envelope.to()
    }

    /// How urgent it is.
    pub fn priority(&self) -> Priority {
        self.0.envelope.priority()
    }

    /// Its quality of service.
    pub fn qos(&self) -> Qos {
        self.0.envelope.qos()
    }

    /// How long it was good for from when it was accepted; zero: the node's default.
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.0.envelope.ttl_ms())
    }

    /// Where a reply should go; `None` where the sender wants none.
    pub fn reply_to(&self) -> Option<&str> {
        self.0.envelope.reply_to()
    }

    /// What ties it to another message; may be empty.
    pub fn correlation(&self) -> &[u8] {
        self.0.envelope.correlation()
    }

    /// What kind of message it is; may be empty.
    pub fn message_type(&self) -> &str {
        self.0.envelope.message_type()
    }

    /// The body's media type; may be empty.
    pub fn content_type(&self) -> &str {
        self.0.envelope.content_type()
    }

    /// Names and values in the sender's order; a name may stand more than once.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.envelope.headers()
    }

    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.envelope.header(name)
    }

    /// The W3C trace context; may be empty.
    pub fn traceparent(&self) -> String {
        self.0.stamp.trace.to_traceparent().unwrap_or_default()
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.0.body
    }

    /// A message to where this one's sender wants replies, with its correlation. `None` where it wants none.
    pub fn reply(&self) -> Option<Message> {
        let to = self.reply_to()?.parse().ok()?;
        let correlation = Bytes::copy_from_slice(self.0.envelope.correlation());
        Some(Message::new(&to).correlation(correlation))
    }
}

/// One hand-out of one message; stale once the message was handed out again or settled. As text `d_SSS-Q-L`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    pub shard: ShardId,
    pub seq: Seq,
    pub lease: u64,
}

impl DeliveryId {
    pub(super) fn to_proto(self) -> v1::DeliveryId {
        v1::DeliveryId {
            shard: self.shard.get().into(),
            seq: self.seq.raw(),
            lease: self.lease,
        }
    }

    fn from_proto(id: v1::DeliveryId) -> Option<Self> {
        Some(Self {
            shard: u16::try_from(id.shard).ok().and_then(ShardId::new)?,
            seq: Seq::from_raw(id.seq),
            lease: id.lease,
        })
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d_{:03x}-{:x}-{:x}", self.shard.get(), self.seq.raw(), self.lease)
    }
}

impl FromStr for DeliveryId {
    type Err = FieldError;

    fn from_str(text: &str) -> Result<Self, FieldError> {
        let parse = || {
            let mut parts = text.strip_prefix("d_")?.splitn(3, '-');
            let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
            Some(Self {
                shard: ShardId::new(u16::try_from(number()?).ok()?)?,
                seq: Seq::from_raw(number()?),
                lease: number()?,
            })
        };
        parse().ok_or_else(|| FieldError::new("delivery_id", format!("is {text:?}, which is not a delivery id")))
    }
}

impl Serialize for DeliveryId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A message handed to this client, to be acknowledged or refused unless that is automatic.
#[derive(Clone, Debug)]
pub struct Delivery {
    id: Option<DeliveryId>,
    attempt: u32,
    redelivered: bool,
    accepted_at: Timestamp,
    expires_at: Timestamp,
    queue: String,
    message: Received,
    settler: Settler,
}

impl Delivery {
    pub(super) fn new(mut delivery: rpc::Delivery, settler: Settler) -> Result<Self, Error> {
        let id = match delivery.id {
            Some(id) => Some(DeliveryId::from_proto(id).ok_or_else(|| Error::protocol("a delivery id has no shard"))?),
            None => None,
        };
        Ok(Self {
            id,
            attempt: delivery.attempt,
            redelivered: delivery.redelivered,
            accepted_at: Timestamp::from_millis(delivery.accepted_at_ms),
            expires_at: Timestamp::from_millis(delivery.expires_at_ms),
            queue: std::mem::take(&mut delivery.queue),
            message: match delivery.message {
                rpc::Content::Encoded(bytes) => Received::new(Parcel::Encoded(bytes))?,
                rpc::Content::Frame(frame, _) => Received(frame),
                rpc::Content::Missing => return Err(Error::protocol("a delivery has no message")),
            },
            settler,
        })
    }

    /// From a batch, nothing of it copied.
    pub(super) fn of_frame(frame: Frame, mark: Option<Mark>, queue: &str, settler: Settler) -> Self {
        let stamp = frame.stamp;
        let id = |mark: Mark| DeliveryId {
            shard: mark.shard,
            seq: mark.seq,
            lease: mark.lease,
        };
        Self {
            id: mark.map(id),
            attempt: stamp.attempt.saturating_add(1),
            redelivered: stamp.flags.is_redelivered(),
            accepted_at: stamp.accepted_at,
            expires_at: stamp.expires_at,
            queue: queue.into(),
            message: Received(frame),
            settler,
        }
    }

    /// `None` where nothing is to be settled (QoS 0).
    pub fn delivery_id(&self) -> Option<DeliveryId> {
        self.id
    }

    /// Which attempt this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// True where it may have been delivered before.
    pub fn is_redelivered(&self) -> bool {
        self.redelivered
    }

    /// When the fabric took it.
    pub fn accepted_at(&self) -> Timestamp {
        self.accepted_at
    }

    /// No delivery starts after this.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// The queue that it came from; empty: the agent's own inbox.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    pub(super) fn settler(&self) -> &Settler {
        &self.settler
    }

    /// The message.
    pub fn message(&self) -> &Received {
        &self.message
    }

    /// The message alone.
    pub fn into_message(self) -> Received {
        self.message
    }

    /// Acknowledges; done once that is committed. A QoS 0 delivery has nothing to acknowledge and is done at once.
    pub async fn ack(&self) -> Result<(), Error> {
        match self.id {
            Some(id) => self.settler.ack(id).await,
            None => Ok(()),
        }
    }

    /// Acknowledges without waiting for the commit: done once it is on its way. Where the connection is lost before, the
    /// message comes again.
    pub async fn ack_unconfirmed(&self) -> Result<(), Error> {
        match self.id {
            Some(id) => self.settler.ack_unconfirmed(id).await,
            None => Ok(()),
        }
    }

    /// Refuses; done once that is committed.
    pub async fn nack(&self, refusal: Refusal) -> Result<(), Error> {
        match self.id {
            Some(id) => self.settler.nack(id, refusal).await,
            None => Err(Error::NothingToSettle),
        }
    }
}

impl std::ops::Deref for Delivery {
    type Target = Received;
    fn deref(&self) -> &Received {
        &self.message
    }
}

/// What a receiver says of a message that it did not process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Hand it out again after the usual back-off (1 s doubling to 5 min).
    Retry,
    /// Hand it out again after this long.
    RetryAfter(Duration),
    /// Hand it out again at once, to anyone; the attempt does not count.
    Release,
    /// Not again: to the dead letters.
    DeadLetter,
}

impl From<Refusal> for v1::Refusal {
    fn from(refusal: Refusal) -> Self {
        let (kind, retry_after_ms) = match refusal {
            Refusal::Retry => (v1::RefusalKind::Retry, None),
            Refusal::RetryAfter(wait) => (v1::RefusalKind::Retry, Some(millis(wait))),
            Refusal::Release => (v1::RefusalKind::Release, None),
            Refusal::DeadLetter => (v1::RefusalKind::DeadLetter, None),
        };
        Self {
            kind: kind.into(),
            retry_after_ms,
        }
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Committed, not handed out yet.
    Queued,
    /// Handed to a session, not confirmed.
    Sent,
    /// The recipient acknowledged it, or, at QoS 0, a session took it.
    Delivered,
    Expired,
    DeadLettered,
    Rejected,
    /// QoS 0: nobody was there or there was no room.
    Dropped,
    /// QoS 0 on a session stream: written to the connection; the fabric gives no receipt.
    Unconfirmed,
}

impl Status {
    /// The name that users read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Expired => "expired",
            Self::DeadLettered => "dead_lettered",
            Self::Rejected => "rejected",
            Self::Dropped => "dropped",
            Self::Unconfirmed => "unconfirmed",
        }
    }

    pub(super) fn from_proto(number: i32) -> Result<Self, Error> {
        Ok(match v1::Status::try_from(number) {
            Ok(v1::Status::Queued) => Self::Queued,
            Ok(v1::Status::Sent) => Self::Sent,
            Ok(v1::Status::Delivered) => Self::Delivered,
            Ok(v1::Status::Expired) => Self::Expired,
            Ok(v1::Status::DeadLettered) => Self::DeadLettered,
            Ok(v1::Status::Rejected) => Self::Rejected,
            Ok(v1::Status::Dropped) => Self::Dropped,
            Ok(v1::Status::Unspecified) | Err(_) => {
                return Err(Error::protocol(format!("{number} is no message status")));
            }
        })
    }
}

/// The answer to a message that was taken in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Accepted {
    pub status: Status,
    /// Where its receipt is; `None` at QoS 0. Serialized as text.
    #[serde(serialize_with = "as_text")]
    pub tracking_id: Option<TrackingId>,
    /// True where the same message was accepted before; the rest is then the first one's receipt.
    pub duplicate: bool,
    /// Queues that the message goes to.
    pub recipients: u32,
    /// The address's home shard.
    pub shard: u32,
    /// The protocol of the session that it was handed to; empty: none yet.
    pub protocol: String,
    /// Now plus the measured median, where somebody is attached.
    pub estimated_delivery_at: Option<Timestamp>,
}

fn as_text<T: fmt::Display, S: serde::Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

impl Accepted {
    /// What a session says of a QoS 0 message that was written.
    pub(super) fn unconfirmed() -> Self {
        Self {
            status: Status::Unconfirmed,
            tracking_id: None,
            duplicate: false,
            recipients: 0,
            shard: 0,
            protocol: String::new(),
            estimated_delivery_at: None,
        }
    }

    pub(super) fn from_proto(accepted: v1::Accepted) -> Result<Self, Error> {
        let shard = u16::try_from(accepted.shard)
            .ok()
            .and_then(ShardId::new)
            .ok_or_else(|| Error::protocol(format!("{} is no shard", accepted.shard)))?;
        Ok(Self {
            status: Status::from_proto(accepted.status)?,
            tracking_id: (accepted.seq != 0).then(|| TrackingId {
                shard,
                seq: Seq::from_raw(accepted.seq),
            }),
            duplicate: accepted.duplicate,
            recipients: accepted.recipients,
            shard: accepted.shard,
            protocol: accepted.protocol,
            estimated_delivery_at: some_time(accepted.estimated_delivery_at_ms),
        })
    }

    pub(super) fn from_receipt(receipt: v1::Receipt) -> Result<Self, Error> {
        match receipt.result {
            Some(v1::receipt::Result::Accepted(accepted)) => Self::from_proto(accepted),
            Some(v1::receipt::Result::Problem(problem)) => Err(problem.into()),
            None => Err(Error::protocol("a receipt says nothing")),
        }
    }
}

pub(super) fn some_time(millis: u64) -> Option<Timestamp> {
    Some(Timestamp::from_millis(millis)).filter(|time| !time.is_never())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_ids_round_trip_as_text_and_as_numbers() {
        let id = DeliveryId {
            shard: ShardId::new(1023).unwrap(),
            seq: Seq::first_of(3).next(),
            lease: u64::MAX,
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(DeliveryId::from_proto(id.to_proto()), Some(id));
        for bad in [
            "",
            "d_",
            "d_1-2",
            "d_400-1-1",
            "t_1-1-1",
            "d_1-1-g",
            "d_1-1-1-1",
            "d_10001-1-1",
        ] {
            assert!(bad.parse::<DeliveryId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reply_goes_where_the_sender_asked_with_its_correlation() {
        let received = |message| Received::new(Parcel::Message(message));
        let plain = v1::Message {
            id: "m".into(),
            from: "alice".into(),
            to: "agent:bob".into(),
            ..Default::default()
        };
        let request = v1::Message {
            reply_to: "agent:alice#r1".into(),
            correlation: Bytes::from_static(b"7"),
            ..plain.clone()
        };
        let reply = received(request).unwrap().reply().unwrap();
        assert_eq!((reply.to(), &reply.0.correlation[..]), ("agent:alice#r1", &b"7"[..]));
        assert!(received(plain).unwrap().reply().is_none());
        assert!(received(v1::Message::default()).is_err(), "no id");
    }

    #[test]
    fn two_messages_never_share_an_id_unless_told_to() {
        let bob = AgentId::new("bob").unwrap();
        assert_ne!(
            Message::to_agent(&bob).message_id(),
            Message::to_agent(&bob).message_id()
        );
        let id = MessageId::new("mine").unwrap();
        assert_eq!(Message::to_agent(&bob).id(&id).message_id(), "mine");
    }
}
