//! Retained messages on their way to a client that subscribed: looked up piece by piece, as the client takes them.
//!
//! What goes out at QoS 1 or 2 to a session that outlives its connection is owed: it is kept with the session until it is settled, with
//! its place as if it stood in a queue, and how far the subscription's are looked up is kept too. So whoever comes back gets the same
//! messages under the same packet ids, and then the rest. Everything else is looked up and sent. Start at [`Connection::owe_retained`] and
//! [`Connection::feed_retained`].

use std::{
    collections::{HashMap, HashSet, VecDeque},
    mem,
};

use bytes::{Bytes, BytesMut};

use super::{book::Resumed, connection::Connection, sys};
use crate::{
    frame::{AgentId, Frame, Qos, TopicFilter, TopicName},
    mqtt::{self, Change, Delivery, Key, Place, SavedStage, Source},
    router::Fabric,
    time::Timestamp,
};

/// Retained messages that are looked up at once, and above which nothing more is owed.
const PIECE_MAX: usize = 64;
/// The same in bytes: as much as a session has in flight. The last message may be above it.
const PIECE_BYTES_MAX: usize = 1024 * 1024;

/// Retained messages that a session is to be sent: less than two pieces, and the subscriptions that have more.
#[derive(Debug, Default)]
pub(super) struct Debt {
    due: VecDeque<Due>,
    /// Looked up, in order.
    ready: VecDeque<Message>,
    /// Owed and given to the machine, by number.
    handed: HashMap<u64, Message>,
    /// Settled, and still among what is kept: forgotten with the next save, or with the debt.
    paid: Vec<u64>,
}

/// Under this filter, those behind this topic are still to be looked up.
#[derive(Debug)]
struct Due {
    filter: TopicFilter,
    behind: Option<TopicName>,
    keeping: Keeping,
}

/// Whether what is looked up is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeping {
    Yes,
    No,
}

#[derive(Debug)]
struct Message {
    /// `None` where it is not owed.
    number: Option<u64>,
    filter: String,
    frame: Frame,
}

impl Debt {
    /// What an earlier connection left.
    pub fn resumed(resumed: &Resumed, fabric: &Fabric, agent: &AgentId, now: Timestamp) -> Option<Box<Self>> {
        let saved = &resumed.saved;
        let kept = saved.debt.as_deref()?;
        let due = kept.behind.iter().filter_map(|(filter, behind)| {
            Some(Due {
                filter: TopicFilter::new(filter).ok()?,
                behind: TopicName::new(behind).ok(),
                keeping: Keeping::Yes,
            })
        });
        let mut debt = Self {
            due: due.collect(),
            ..Self::default()
        };
        let sent: HashSet<Place> = resumed.sent.iter().flatten().map(|(_, place)| *place).collect();
        let is_sent = |place| {
            sent.contains(&place)
                || saved.sending.iter().any(|(_, stage)| match stage {
                    SavedStage::Sent(sent) | SavedStage::Released(sent) => *sent == place,
                })
        };
        for (number, (filter, frame)) in &kept.messages {
            let frame = Frame::decode(&mut Bytes::copy_from_slice(frame)).ok();
            let mut message = frame.map(|frame| Message {
                number: Some(*number),
                filter: filter.clone(),
                frame,
            });
            message = message.filter(|message| fabric.may_receive(agent, &message.frame));
            if !is_sent(Place::owed(*number)) {
                message = match resumed.sent {
                    Some(_) => message.and_then(|message| message.still(fabric, agent)),
                    // After a crash nobody knows of QoS 1 whether it was sent.
                    None => message.filter(|message| !is_expired(&message.frame, now)),
                };
            }
            if message.as_ref().is_none_or(|message| message.number.is_none()) {
                debt.paid.push(*number);
            }
            debt.ready.extend(message);
        }
        Some(Box::new(debt))
    }

    /// Nothing is to be sent, nothing to be settled.
    fn is_over(&self) -> bool {
        self.due.is_empty() && self.ready.is_empty() && self.handed.is_empty()
    }

    /// As much is owed as may be.
    fn is_full(&self) -> bool {
        let open = || self.ready.iter().chain(self.handed.values());
        let bytes = || open().map(Message::weight_bytes).sum::<usize>();
        open().count() >= PIECE_MAX || bytes() >= PIECE_BYTES_MAX
    }

    /// No more is looked up under a filter.
    pub fn forget(&mut self, filter: &TopicFilter) {
        self.due.retain(|due| due.filter != *filter);
    }

    /// The next piece: what is found goes behind what is ready. Says what is to be kept before any of it is sent.
    /// With `may_owe` false it is sent like QoS 0: not once more by the next connection.
    fn look_up(
        &mut self,
        due: Due,
        may_owe: bool,
        fabric: &Fabric,
        agent: &AgentId,
        number: impl Fn() -> u64,
    ) -> Option<Change> {
        let Due {
            filter,
            behind,
            keeping,
        } = due;
        let room = match keeping {
            Keeping::Yes if self.is_full() => 0,
            _ => PIECE_MAX,
        };
        let mut found = fabric.retained(agent, &filter, behind.as_ref(), room);
        let mut bytes = 0;
        let fitting = found.iter().take_while(|(_, frame)| {
            let fits = bytes < PIECE_BYTES_MAX;
            bytes += frame.encoded_len() + filter.as_str().len();
            fits
        });
        let fitting = fitting.count();
        let is_last = fitting < PIECE_MAX && fitting == found.len() && room > 0;
        found.truncate(fitting);
        let behind = found.last().map(|(topic, _)| topic.clone()).or(behind);
        let mut messages = Vec::new();
        let is_kept = keeping == Keeping::Yes && may_owe;
        for (_, frame) in found {
            let number = (is_kept && frame.envelope.qos() != Qos::AtMostOnce).then(&number);
            if let Some(number) = number {
                let mut wire = BytesMut::with_capacity(frame.encoded_len());
                frame.encode(&mut wire);
                messages.push((number, wire.to_vec()));
            }
            self.ready.push_back(Message {
                number,
                filter: filter.as_str().to_owned(),
                frame,
            });
        }
        let rest = (!is_last).then(|| position(behind.as_ref()));
        let text = filter.as_str().to_owned();
        if !is_last {
            self.due.push_front(Due {
                filter,
                behind,
                keeping,
            });
        }
        (keeping == Keeping::Yes).then_some(Change::Owed {
            filter: text,
            messages,
            behind: rest,
        })
    }

    /// Where a look-up could not be kept: the next connection begins where it began.
    fn begin_again(&mut self, (filter, behind): (TopicFilter, Option<TopicName>)) {
        self.due.retain(|due| due.filter != filter);
        self.due.push_front(Due {
            filter,
            behind,
            keeping: Keeping::Yes,
        });
    }

    /// What is paid, once: to be saved before whatever rests on it.
    fn take_paid(&mut self) -> Option<Change> {
        let paid = mem::take(&mut self.paid);
        (!paid.is_empty()).then_some(Change::Paid(paid))
    }

    /// What the next connection is to know.
    pub fn left(mut self) -> Vec<Change> {
        let paid = self.take_paid();
        let due = self.due.into_iter().filter(|due| due.keeping == Keeping::Yes);
        let behind = due.map(|due| Change::Owed {
            filter: due.filter.as_str().to_owned(),
            messages: Vec::new(),
            behind: Some(position(due.behind.as_ref())),
        });
        paid.into_iter().chain(behind).collect()
    }
}

/// See [`Change::Owed`].
fn position(behind: Option<&TopicName>) -> String {
    behind.map_or_else(String::new, |topic| topic.as_str().to_owned())
}

fn is_expired(frame: &Frame, now: Timestamp) -> bool {
    !frame.stamp.expires_at.is_never() && frame.stamp.expires_at <= now
}

impl Message {
    fn weight_bytes(&self) -> usize {
        self.frame.encoded_len() + self.filter.len()
    }

    /// One that was never sent, as it is by now: unless it was replaced or forgotten. What took its place came to the session's queue
    /// as well, but for QoS 0.
    fn still(self, fabric: &Fabric, agent: &AgentId) -> Option<Self> {
        let topic = self.frame.envelope.to().strip_prefix("topic:")?;
        let (_, now) = fabric.retained(agent, &TopicFilter::new(topic).ok()?, None, 1).pop()?;
        if now.envelope.id() == self.frame.envelope.id() && now.envelope.from() == self.frame.envelope.from() {
            return Some(self);
        }
        (now.envelope.qos() == Qos::AtMostOnce).then_some(Self {
            number: None,
            frame: now,
            ..self
        })
    }
}

impl Connection {
    /// Looks up the first messages under these filters. They are kept together with the subscriptions, and sent behind SUBACK.
    pub fn owe_retained(&mut self, filters: Vec<TopicFilter>) -> Vec<Change> {
        let Some(attached) = &mut self.attached else {
            return Vec::new();
        };
        let (fabric, book, agent) = (&self.edge.door.fabric, &self.edge.book, attached.handle.agent());
        let debt = attached.debt.get_or_insert_default();
        let mut changes = Vec::with_capacity(filters.len());
        for filter in filters {
            let was_due = debt.due.iter().any(|due| due.filter == filter);
            // Subscribed once more before they were sent: they are sent once. So no more wait than there are subscriptions.
            debt.forget(&filter);
            let due = Due {
                filter,
                behind: None,
                keeping: Keeping::Yes,
            };
            let change = debt.look_up(due, book.may_owe(), fabric, agent, || book.number());
            let is_any = |change: &Change| {
                was_due || !matches!(change, Change::Owed { messages, behind: None, .. } if messages.is_empty())
            };
            changes.extend(change.filter(is_any));
        }
        changes
    }

    pub fn begin_retained(&mut self, filters: Vec<TopicFilter>, now: Timestamp) {
        for filter in filters {
            if mqtt::is_nodes_own(filter.as_str()) {
                let source = Source::Retained(filter.as_str().to_owned());
                self.deliver_round(&sys::values(&self.edge), Some((&filter, source)), now);
            } else if let Some(attached) = &mut self.attached {
                let debt = attached.debt.get_or_insert_default();
                debt.forget(&filter);
                debt.due.push_back(Due {
                    filter,
                    behind: None,
                    keeping: Keeping::No,
                });
            }
        }
    }

    /// Sends retained messages that are due, as many as the client's window has room for.
    pub async fn feed_retained(&mut self, now: Timestamp) {
        if self.machine.held_up() > 0 || !self.machine.is_open() || !self.may_deliver() {
            return;
        }
        self.hand_retained(now);
        let Some(attached) = &mut self.attached else { return };
        let Some(debt) = &mut attached.debt else { return };
        if debt.due.is_empty() {
            return;
        }
        let may_owe = !debt.is_full();
        let next = debt.due.iter().position(|due| may_owe || due.keeping == Keeping::No);
        let is_held_up = self.machine.held_up() > 0 || !debt.ready.is_empty();
        let Some(due) = next.filter(|_| !is_held_up).and_then(|next| debt.due.remove(next)) else {
            return;
        };
        let (fabric, book, agent) = (&self.edge.door.fabric, &self.edge.book, attached.handle.agent());
        let before = (due.filter.clone(), due.behind.clone());
        let owed = debt.look_up(due, book.may_owe(), fabric, agent, || book.number());
        // That no more than QoS 0 was found need not be known after a crash, and is saved with what follows or with the connection's end.
        let is_kept =
            |change: &Change| !matches!(change, Change::Owed { messages, behind: Some(_), .. } if messages.is_empty());
        if let Some(owed) = owed.filter(is_kept) {
            let changes = debt.take_paid().into_iter().chain([owed]).collect();
            if let Err(error) = book.save(&attached.slot, changes).await {
                tracing::warn!(peer = %self.peer, %error, "retained messages that an MQTT session is owed could not be written");
                debt.begin_again(before);
                return self.machine.handle_owing_failed(now, &mut self.actions);
            }
        }
        self.hand_retained(now);
    }

    fn hand_retained(&mut self, now: Timestamp) {
        let Some(attached) = &mut self.attached else { return };
        let Some(debt) = &mut attached.debt else { return };
        let queue = attached.handle.reply_address();
        for message in mem::take(&mut debt.ready) {
            let delivery = Delivery {
                key: message.number.map(|number| Key {
                    place: Place::owed(number),
                    lease: 0,
                }),
                frame: message.frame.clone(),
                queue: queue.clone(),
                source: Source::Retained(message.filter.clone()),
            };
            if let Some(number) = message.number {
                debt.handed.insert(number, message);
            }
            self.machine.handle_delivery(delivery, now, &mut self.actions);
        }
        if debt.is_over() && debt.paid.is_empty() {
            attached.debt = None;
        }
    }

    /// The client has an owed message, or is not to have it.
    pub fn settle_owed(&mut self, number: u64) {
        if let Some(debt) = self.attached.as_mut().and_then(|attached| attached.debt.as_mut())
            && debt.handed.remove(&number).is_some()
        {
            debt.paid.push(number);
        }
    }

    /// The client cannot have it now, or no more since it expired.
    pub fn release_owed(&mut self, number: u64, now: Timestamp) {
        let Some(debt) = self.attached.as_mut().and_then(|attached| attached.debt.as_mut()) else {
            return;
        };
        let Some(message) = debt.handed.remove(&number) else {
            return;
        };
        match is_expired(&message.frame, now) {
            true => debt.paid.push(number),
            false => debt.ready.push_back(message),
        }
    }

    /// What is paid and is to be saved now: before other saves, and when nothing is owed any more.
    pub fn take_paid(&mut self, has_saves: bool) -> Option<Change> {
        let attached = self.attached.as_mut()?;
        let debt = attached.debt.as_mut()?;
        let paid = (has_saves || debt.is_over()).then(|| debt.take_paid()).flatten();
        if debt.is_over() && debt.paid.is_empty() {
            attached.debt = None;
        }
        paid
    }
}
