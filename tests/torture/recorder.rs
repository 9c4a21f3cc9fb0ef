//! One history written by many clients at once, and what they agree on: message texts, and when the load ends.
//!
//! Owns the lock around the history. A client notes what it is about to do before it does it, and what it learned right after;
//! the lock makes one order of it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rand::{Rng, rngs::StdRng};
use serde_json::{Value, json};

use super::history::{Event, History, Message, MessageNo, Taken};

/// How many agents receive.
pub const RECIPIENTS: usize = 4;
/// Lowest first.
pub const PRIORITIES: [&str; 4] = ["low", "normal", "high", "critical"];

/// The agent id of a recipient.
pub fn consumer(index: usize) -> String {
    format!("consumer-{index}")
}

/// How far the torture has come; clients look at it between two actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Producers send new messages, consumers receive, the node is killed.
    #[default]
    Load,
    /// Producers send what is unanswered again and end; consumers go on.
    Finish,
    /// Everything is drained: consumers end.
    Done,
}

#[derive(Debug, Default)]
struct Written {
    history: History,
    /// (sender, message id) to its number.
    numbers: HashMap<(String, String), MessageNo>,
    /// Where receipts are, as the fabric told the sender.
    tracking: HashMap<MessageNo, String>,
    /// Accepted, and no consumer has acknowledged it yet.
    unacknowledged: HashSet<MessageNo>,
    acknowledged: HashSet<MessageNo>,
    phase: Phase,
}

/// How far everything has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub events: usize,
    /// Accepted messages that no consumer has acknowledged yet.
    pub unacknowledged: usize,
}

#[derive(Debug, Default)]
pub struct Recorder(Mutex<Written>);

impl Recorder {
    fn written(&self) -> MutexGuard<'_, Written> {
        // A client that panicked has failed the test already; the others may end in peace.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new message of a sender, to a random recipient at a random priority and QoS.
    pub fn invent(&self, sender: &str, rng: &mut StdRng) -> (MessageNo, Message) {
        let recipient = rng.random_range(0..RECIPIENTS);
        let priority = PRIORITIES[rng.random_range(0..PRIORITIES.len())];
        self.write_down(sender, recipient, priority, rng.random_range(1..=2))
    }

    /// A new message of a sender to this recipient.
    pub fn write_down(&self, sender: &str, recipient: usize, priority: &'static str, qos: u8) -> (MessageNo, Message) {
        let mut written = self.written();
        let number = MessageNo(written.history.messages.len());
        let message = Message {
            sender: sender.to_owned(),
            id: format!("m{}", number.0),
            recipient: consumer(recipient),
            priority,
            qos,
        };
        written.history.messages.push(message.clone());
        written
            .numbers
            .insert((message.sender.clone(), message.id.clone()), number);
        (number, message)
    }

    pub fn note(&self, event: Event) {
        self.written().history.events.push(event);
    }

    /// A positive answer to a send.
    pub fn accepted(&self, message: MessageNo, taken: Taken, tracking: &str) {
        let mut written = self.written();
        written.tracking.insert(message, tracking.to_owned());
        if !written.acknowledged.contains(&message) {
            written.unacknowledged.insert(message);
        }
        written.history.events.push(Event::Accepted(message, taken));
    }

    /// A message in a consumer's hands: which one it is, or `None` where it is none that was sent there like this.
    pub fn delivered(&self, delivery: &Handed<'_>) -> Option<MessageNo> {
        let mut written = self.written();
        let key = (delivery.sender.to_owned(), delivery.id.to_owned());
        let number = written.numbers.get(&key).copied();
        let known = number.map(|number| (number, written.history.message(number)));
        let event = match known {
            Some((message, sent)) if delivery.is(sent) => Event::Delivered {
                message,
                place: delivery.place().to_owned(),
            },
            _ => Event::Strange(format!("{delivery:?}")),
        };
        let strange = matches!(event, Event::Strange(_));
        written.history.events.push(event);
        number.filter(|_| !strange)
    }

    /// A consumer is about to acknowledge it.
    pub fn acknowledging(&self, message: MessageNo) {
        let mut written = self.written();
        written.unacknowledged.remove(&message);
        written.acknowledged.insert(message);
        written.history.events.push(Event::AckSent(message));
    }

    pub fn phase(&self) -> Phase {
        self.written().phase
    }

    pub fn enter(&self, phase: Phase) {
        self.written().phase = phase;
    }

    pub fn progress(&self) -> Progress {
        let written = self.written();
        Progress {
            events: written.history.events.len(),
            unacknowledged: written.unacknowledged.len(),
        }
    }

    /// Every message that was accepted, with its tracking id.
    pub fn tracked(&self) -> Vec<(MessageNo, String)> {
        let written = self.written();
        let mut all: Vec<_> = written
            .tracking
            .iter()
            .map(|(number, id)| (*number, id.clone()))
            .collect();
        all.sort_unstable();
        all
    }

    pub fn history(&self) -> History {
        self.written().history.clone()
    }
}

/// A message as a consumer was handed it.
#[derive(Debug)]
pub struct Handed<'a> {
    pub consumer: &'a str,
    pub sender: &'a str,
    pub id: &'a str,
    pub priority: &'a str,
    pub qos: u8,
    pub body: Value,
    /// `d_SHARD-SEQ-LEASE`.
    pub delivery_id: &'a str,
}

impl Handed<'_> {
    fn is(&self, sent: &Message) -> bool {
        self.consumer == sent.recipient
            && self.priority == sent.priority
            && self.qos == sent.qos
            && self.body == body_of(sent)
    }

    /// The delivery id without its lease: where the message is stored.
    fn place(&self) -> &str {
        self.delivery_id
            .rsplit_once('-')
            .map_or(self.delivery_id, |(place, _)| place)
    }
}

/// The body of a message says which one it is, so that a mixed-up one is seen.
pub fn body_of(message: &Message) -> Value {
    json!({"sender": message.sender, "id": message.id, "padding": "x".repeat(200)})
}
