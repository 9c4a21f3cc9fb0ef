//! What of a session must survive its connection and the node: changes, one by one, and what they add up to.
//!
//! Knows nothing of where it is kept. Start at [`Saved::apply`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Key;
use crate::mqtt::subscriptions::Subscription;

/// Places that are kept of messages whose settle may be lost. Beyond it the oldest goes: as many settles would have to be lost to
/// crashes, and none of their messages handed out since.
const UNSETTLED_MAX: usize = 1_000;

/// A will as it is kept: the frame in its wire form, ready to be published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedWill {
    pub frame: Vec<u8>,
    /// It is to be retained too.
    pub retain: bool,
    /// Seconds between the connection's end and the will.
    pub delay_s: u32,
}

/// No shard's number: of messages that stand in no queue of the fabric's, but among what is kept of the session.
const OWN_SHARD: u16 = u16::MAX;

/// Where a message stands: its shard and its sequence there, which no redelivery changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub shard: u16,
    pub seq: u64,
}

impl Place {
    /// That of a retained message which is kept with the session, by its number ([`Change::Owed`]).
    pub const fn owed(number: u64) -> Self {
        Self {
            shard: OWN_SHARD,
            seq: number,
        }
    }

    /// The number of such a message; `None` where it stands in a shard.
    pub const fn owed_number(self) -> Option<u64> {
        if self.shard == OWN_SHARD { Some(self.seq) } else { None }
    }
}

impl From<Key> for Place {
    fn from(key: Key) -> Self {
        key.place
    }
}

/// One change of what is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A connection opened it: how long it lasts beyond, in seconds, and the will.
    Opened {
        client_id: String,
        session_expiry_s: u32,
        will: Option<SavedWill>,
    },
    Subscribed(Vec<Subscription>),
    Unsubscribed(Vec<String>),
    /// A QoS 2 message came under this packet id and is being published under this message id.
    Received {
        packet_id: u16,
        message_id: String,
    },
    /// The client released it, or it was refused: the id is free.
    Forgotten {
        packet_id: u16,
    },
    /// A QoS 2 message is about to be sent under this packet id.
    Sent {
        packet_id: u16,
        place: Place,
    },
    /// The client has it and will not see it again: it is settled, also when its queue hands it out once more; PUBREL is due.
    Released {
        packet_id: u16,
    },
    /// The handshake is over. Durable only after every settle before it: until then the place is needed.
    Completed {
        packet_id: u16,
    },
    /// The handshake is over, and an earlier connection's settle may be lost: the place is kept, for its queue may hand it out again.
    CompletedUnsettled {
        packet_id: u16,
    },
    /// What an earlier change kept the place of is settled. Durable only after that settle.
    Settled {
        place: Place,
    },
    /// These retained messages are owed to a subscription, and those behind a topic still are to be looked up.
    Owed {
        filter: String,
        /// By number, which no other message of the session ever has; the frames in their wire form.
        messages: Vec<(u64, Vec<u8>)>,
        /// The topic; empty: all of them, `None`: there are no more.
        behind: Option<String>,
    },
    /// Owed messages that the client has, or that nobody wants any more.
    Paid(Vec<u64>),
}

/// Retained messages that the session's subscriptions are owed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedDebt {
    /// Filters under which there are more, and the topic behind which those begin; empty: at the first one.
    pub behind: BTreeMap<String, String>,
    /// By number: what was looked up, the filter and the frame in its wire form.
    pub messages: BTreeMap<u64, (String, Vec<u8>)>,
}

/// How far a QoS 2 message on its way to the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedStage {
    Sent(Place),
    Released(Place),
}

/// A session as it is kept. Bounded by the windows and by the subscriptions of a session, and by how much retained is looked up at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    pub client_id: String,
    pub session_expiry_s: u32,
    pub will: Option<SavedWill>,
    pub subscriptions: Vec<Subscription>,
    /// Message ids of QoS 2 messages that the client did not release, by packet id.
    pub received: BTreeMap<u16, String>,
    /// QoS 2 messages on their way to the client, oldest first: PUBRELs are sent again in that order [MQTT-4.6.0-4].
    pub sending: Vec<(u16, SavedStage)>,
    /// Places of messages that the client has and that may be handed out again, oldest first.
    pub unsettled: Vec<Place>,
    /// Boxed: few sessions have one.
    pub debt: Option<Box<SavedDebt>>,
}

impl Saved {
    /// Applies a change that was made durable.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Opened {
                client_id,
                session_expiry_s,
                will,
            } => {
                self.client_id = client_id;
                self.session_expiry_s = session_expiry_s;
                self.will = will;
            }
            Change::Subscribed(added) => {
                self.subscriptions
                    .retain(|known| added.iter().all(|new| new.text != known.text));
                self.subscriptions.extend(added);
            }
            Change::Unsubscribed(gone) => {
                self.subscriptions.retain(|known| !gone.contains(&known.text));
                self.change_debt(|debt| debt.behind.retain(|filter, _| !gone.contains(filter)));
            }
            Change::Received { packet_id, message_id } => {
                self.received.insert(packet_id, message_id);
            }
            Change::Forgotten { packet_id } => {
                self.received.remove(&packet_id);
            }
            Change::Sent { packet_id, place } => {
                self.sending.retain(|(id, _)| *id != packet_id);
                self.sending.push((packet_id, SavedStage::Sent(place)));
            }
            Change::Released { packet_id } => {
                let at = self.sending.iter().position(|(id, _)| *id == packet_id);
                if let Some((id, SavedStage::Sent(place) | SavedStage::Released(place))) =
                    at.map(|at| self.sending.remove(at))
                {
                    self.sending.push((id, SavedStage::Released(place)));
                }
            }
            Change::Completed { packet_id } => self.sending.retain(|(id, _)| *id != packet_id),
            Change::CompletedUnsettled { packet_id } => {
                let at = self.sending.iter().position(|(id, _)| *id == packet_id);
                if let Some((_, SavedStage::Sent(place) | SavedStage::Released(place))) =
                    at.map(|at| self.sending.remove(at))
                {
                    self.unsettled.push(place);
                }
                let beyond = self.unsettled.len().saturating_sub(UNSETTLED_MAX);
                self.unsettled.drain(..beyond);
            }
            Change::Settled { place } => self.unsettled.retain(|known| *known != place),
            Change::Owed {
                filter,
                messages,
                behind,
            } => self.change_debt(|debt| {
                let messages = messages.into_iter();
                let under = messages.map(|(number, frame)| (number, (filter.clone(), frame)));
                debt.messages.extend(under);
                match behind {
                    Some(behind) => drop(debt.behind.insert(filter, behind)),
                    None => drop(debt.behind.remove(&filter)),
                }
            }),
            Change::Paid(numbers) => {
                self.change_debt(|debt| debt.messages.retain(|number, _| !numbers.contains(number)))
            }
        }
    }

    fn change_debt(&mut self, change: impl FnOnce(&mut SavedDebt)) {
        let mut debt = self.debt.take().unwrap_or_default();
        change(&mut debt);
        let is_open = !debt.behind.is_empty() || !debt.messages.is_empty();
        self.debt = is_open.then_some(debt);
    }
}
