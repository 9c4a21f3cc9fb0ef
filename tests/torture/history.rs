//! What clients of a fabric saw, in the order in which they saw it.
//!
//! Owns the words that producers and consumers write down and nothing of what they mean: `checker.rs` judges. An event that
//! starts something (a send, an acknowledgement) is written down before it starts, one that ends something after its answer came.

/// A message's number in [`History::messages`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageNo(pub usize);

/// What a producer sends, again and again under the same id until it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub sender: String,
    pub id: String,
    pub recipient: String,
    pub priority: &'static str,
    pub qos: u8,
}

/// Whether the fabric says that it took a message for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    First,
    /// A duplicate of what it took before.
    Again,
}

/// What the fabric says of a message in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Waiting,
    Delivered,
    Expired,
    DeadLettered,
    Rejected,
    /// No receipt (any more).
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A producer is about to send it, for the first time or again.
    Submitted(MessageNo),
    /// A positive answer came.
    Accepted(MessageNo, Taken),
    /// A consumer was handed it; `place` is where it is stored, as the delivery id says.
    Delivered { message: MessageNo, place: String },
    /// A consumer is about to acknowledge it.
    AckSent(MessageNo),
    /// The fabric said that the acknowledgement is committed.
    AckConfirmed(MessageNo),
    /// A consumer was handed something that nobody sent there, or whose body was not what was sent.
    Strange(String),
    /// The node was killed and started again. Only for the reader: no rule leans on it.
    Killed,
    /// What the fabric says of it after everything was drained.
    Judged(MessageNo, Verdict),
}

/// Everything that was seen. The order of events is the order of time for each producer, and for each recipient's consumer.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub messages: Vec<Message>,
    pub events: Vec<Event>,
}

impl History {
    pub fn message(&self, number: MessageNo) -> &Message {
        &self.messages[number.0]
    }
}
