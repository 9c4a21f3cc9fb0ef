//! What is kept of a session as small records: one for the session itself, and one for each subscription and handshake.
//!
//! A change touches the records that it changes and no others, so that a QoS 2 message costs the same in a session of one
//! subscription and of a thousand. Knows nothing of when they are written. Start at [`change`] and [`Records::read`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    mqtt::{Change, Place, Saved, SavedStage, SavedWill, Subscription},
    time::Timestamp,
};

/// Between a session's address, which has no control characters, and what a record is of it.
const SEPARATOR: char = '\n';

/// A key with its value; `None` deletes.
pub(super) type Write = (String, Option<Vec<u8>>);

/// What became of a session whose connection ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Left {
    /// `None`: never.
    pub expires_at: Option<Timestamp>,
    /// When its will is due; `None`: it has none.
    pub will_at: Option<Timestamp>,
}

/// The session's own record: this as one line of JSON, and behind it the will's frame.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    client_id: String,
    session_expiry_s: u32,
    /// The will, without its frame.
    will: Option<WillHead>,
    /// `None`: it is connected.
    left: Option<Left>,
}

#[derive(Debug, Serialize, Deserialize)]
struct WillHead {
    retain: bool,
    delay_s: u32,
}

fn key(session: &str, what: &str) -> String {
    format!("{session}{SEPARATOR}{what}")
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("numbers and texts become JSON")
}

/// The session's own record.
pub(super) fn head(session: &str, saved: &Saved, left: Option<&Left>) -> Write {
    let head = Head {
        client_id: saved.client_id.clone(),
        session_expiry_s: saved.session_expiry_s,
        will: saved.will.as_ref().map(|will| WillHead {
            retain: will.retain,
            delay_s: will.delay_s,
        }),
        left: left.cloned(),
    };
    let mut value = json(&head);
    value.push(b'\n');
    if let Some(will) = &saved.will {
        value.extend_from_slice(&will.frame);
    }
    (key(session, "head"), Some(value))
}

fn sub(session: &str, text: &str) -> String {
    key(session, &format!("sub {text}"))
}

fn received(session: &str, id: u16) -> String {
    key(session, &format!("in {id}"))
}

fn sending(session: &str, id: u16) -> String {
    key(session, &format!("out {id}"))
}

/// Under which filter retained messages are still to be looked up; the value is the topic behind which they begin.
fn behind(session: &str, text: &str) -> String {
    key(session, &format!("due {text}"))
}

/// A retained message that is owed; the value is the filter, which has no control characters, on a line and the frame behind it.
fn owed(session: &str, number: u64) -> String {
    key(session, &format!("owed {number}"))
}

fn unsettled(session: &str, place: Place) -> String {
    key(session, &format!("had {} {}", place.shard, place.seq))
}

/// Applies a change to what is kept, and appends the records that it changes. `number` grows with each change of the session's life:
/// it keeps the order of handshakes.
pub(super) fn change(session: &str, saved: &mut Saved, change: Change, number: u64, into: &mut Vec<Write>) {
    let stage = |saved: &Saved, id: u16| {
        let found = saved.sending.iter().find(|(known, _)| *known == id);
        found.map(|(_, stage)| (sending(session, id), Some(json(&(number, stage)))))
    };
    match &change {
        Change::CompletedUnsettled { packet_id } => {
            let id = *packet_id;
            let before: BTreeSet<Place> = saved.unsettled.iter().copied().collect();
            saved.apply(change);
            let after: BTreeSet<Place> = saved.unsettled.iter().copied().collect();
            into.push((sending(session, id), None));
            into.extend(
                after
                    .difference(&before)
                    .map(|place| (unsettled(session, *place), Some(json(&number)))),
            );
            into.extend(
                before
                    .difference(&after)
                    .map(|place| (unsettled(session, *place), None)),
            );
            return;
        }
        Change::Subscribed(added) => {
            into.extend(added.iter().map(|added| (sub(session, &added.text), Some(json(added)))));
        }
        Change::Unsubscribed(gone) => {
            into.extend(gone.iter().map(|text| (sub(session, text), None)));
            let is_due = |text: &&String| saved.debt.as_ref().is_some_and(|debt| debt.behind.contains_key(*text));
            into.extend(gone.iter().filter(is_due).map(|text| (behind(session, text), None)));
        }
        Change::Owed {
            filter,
            messages,
            behind: topic,
        } => {
            let value = |frame: &[u8]| [filter.as_bytes(), b"\n", frame].concat();
            let messages = messages.iter();
            into.extend(messages.map(|(number, frame)| (owed(session, *number), Some(value(frame)))));
            into.push((behind(session, filter), topic.clone().map(String::into_bytes)));
        }
        Change::Paid(numbers) => into.extend(numbers.iter().map(|number| (owed(session, *number), None))),
        Change::Received { packet_id, message_id } => {
            into.push((received(session, *packet_id), Some(message_id.as_bytes().to_vec())));
        }
        Change::Forgotten { packet_id } => into.push((received(session, *packet_id), None)),
        Change::Completed { packet_id } => into.push((sending(session, *packet_id), None)),
        Change::Settled { place } => into.push((unsettled(session, *place), None)),
        Change::Sent { packet_id, .. } | Change::Released { packet_id } => {
            let id = *packet_id;
            saved.apply(change);
            into.extend(stage(saved, id));
            return;
        }
        Change::Opened { .. } => {
            saved.apply(change);
            into.push(head(session, saved, None));
            return;
        }
    }
    saved.apply(change);
}

/// The deletion of all records of a session.
pub(super) fn forget(session: &str, saved: &Saved) -> Vec<Write> {
    let mut keys = vec![key(session, "head")];
    keys.extend(saved.subscriptions.iter().map(|known| sub(session, &known.text)));
    keys.extend(saved.received.keys().map(|id| received(session, *id)));
    keys.extend(saved.sending.iter().map(|(id, _)| sending(session, *id)));
    keys.extend(saved.unsettled.iter().map(|place| unsettled(session, *place)));
    if let Some(debt) = &saved.debt {
        keys.extend(debt.behind.keys().map(|text| behind(session, text)));
        keys.extend(debt.messages.keys().map(|number| owed(session, *number)));
    }
    keys.into_iter().map(|key| (key, None)).collect()
}

/// A session as it was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub saved: Saved,
    pub left: Option<Left>,
    has_head: bool,
    sending: BTreeMap<u64, Vec<(u16, SavedStage)>>,
    unsettled: BTreeMap<u64, Vec<Place>>,
}

/// Sessions by address, put together from their records.
#[derive(Debug, Default)]
pub(super) struct Records(BTreeMap<String, Read>);

impl Records {
    /// Takes a record in; false where it cannot be read.
    pub fn read(&mut self, key: &str, value: &[u8]) -> bool {
        let Some((session, what)) = key.split_once(SEPARATOR) else {
            return false;
        };
        let read = self.0.entry(session.to_owned()).or_default();
        read.take(what, value).is_some()
    }

    /// The sessions, and the keys of records without one.
    pub fn sessions(self) -> impl Iterator<Item = (String, Read)> {
        self.0
            .into_iter()
            .filter(|(_, read)| read.has_head)
            .map(|(session, mut read)| {
                read.saved.sending = std::mem::take(&mut read.sending).into_values().flatten().collect();
                read.saved.unsettled = std::mem::take(&mut read.unsettled).into_values().flatten().collect();
                (session, read)
            })
    }
}

impl Read {
    fn take(&mut self, what: &str, value: &[u8]) -> Option<()> {
        let (kind, rest) = what.split_once(' ').unwrap_or((what, ""));
        match kind {
            "head" => {
                let end = value.iter().position(|byte| *byte == b'\n')?;
                let head: Head = serde_json::from_slice(&value[..end]).ok()?;
                self.has_head = true;
                self.left = head.left;
                self.saved.client_id = head.client_id;
                self.saved.session_expiry_s = head.session_expiry_s;
                self.saved.will = head.will.map(|will| SavedWill {
                    frame: value[end + 1..].to_vec(),
                    retain: will.retain,
                    delay_s: will.delay_s,
                });
            }
            "sub" => {
                let subscription: Subscription = serde_json::from_slice(value).ok()?;
                self.saved.subscriptions.push(subscription);
            }
            "in" => {
                let message_id = String::from_utf8(value.to_vec()).ok()?;
                self.saved.received.insert(rest.parse().ok()?, message_id);
            }
            "out" => {
                let (number, stage): (u64, SavedStage) = serde_json::from_slice(value).ok()?;
                self.sending
                    .entry(number)
                    .or_default()
                    .push((rest.parse().ok()?, stage));
            }
            "had" => {
                let number: u64 = serde_json::from_slice(value).ok()?;
                let (shard, seq) = rest.split_once(' ')?;
                let place = Place {
                    shard: shard.parse().ok()?,
                    seq: seq.parse().ok()?,
                };
                self.unsettled.entry(number).or_default().push(place);
            }
            "due" => {
                let topic = String::from_utf8(value.to_vec()).ok()?;
                let debt = self.saved.debt.get_or_insert_default();
                debt.behind.insert(rest.to_owned(), topic);
            }
            "owed" => {
                let end = value.iter().position(|byte| *byte == b'\n')?;
                let filter = String::from_utf8(value[..end].to_vec()).ok()?;
                let frame = value[end + 1..].to_vec();
                let debt = self.saved.debt.get_or_insert_default();
                debt.messages.insert(rest.parse().ok()?, (filter, frame));
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &str = "agent:a#mqtt.c";

    fn place(seq: u64) -> Place {
        Place { shard: 7, seq }
    }

    /// What a store would hold after these writes.
    fn stored(writes: Vec<Write>) -> BTreeMap<String, Vec<u8>> {
        let mut stored = BTreeMap::new();
        for (key, value) in writes {
            match value {
                Some(value) => drop(stored.insert(key, value)),
                None => drop(stored.remove(&key)),
            }
        }
        stored
    }

    fn read(stored: &BTreeMap<String, Vec<u8>>) -> Vec<(String, Read)> {
        let mut records = Records::default();
        for (key, value) in stored {
            assert!(records.read(key, value), "{key:?}");
        }
        records.sessions().collect()
    }

    fn changes() -> Vec<Change> {
        let subscription = |text: &str| Subscription {
            text: text.into(),
            qos: 2,
            no_local: true,
            retain_as_published: false,
            retain_handling: 1,
            id: Some(9),
        };
        vec![
            Change::Opened {
                client_id: "c".into(),
                session_expiry_s: 60,
                will: Some(SavedWill {
                    frame: b"frame\nwith a line".to_vec(),
                    retain: true,
                    delay_s: 3,
                }),
            },
            Change::Subscribed(vec![subscription("a/#"), subscription("$share/g/b c")]),
            Change::Received {
                packet_id: 5,
                message_id: "m-5".into(),
            },
            Change::Sent {
                packet_id: 9,
                place: place(1),
            },
            Change::Sent {
                packet_id: 2,
                place: place(2),
            },
            Change::Sent {
                packet_id: 4,
                place: place(3),
            },
            Change::Released { packet_id: 9 },
            Change::CompletedUnsettled { packet_id: 4 },
            Change::Owed {
                filter: "a/#".into(),
                messages: vec![(7, b"frame\nwith a line".to_vec()), (8, b"frame".to_vec())],
                behind: Some("a/b c".into()),
            },
            Change::Owed {
                filter: "b".into(),
                messages: vec![(9, b"frame".to_vec())],
                behind: None,
            },
            Change::Paid(vec![8]),
            Change::Unsubscribed(vec!["a/#".into()]),
        ]
    }

    #[test]
    fn what_was_kept_comes_back_as_it_was_after_every_change() {
        let (mut saved, mut writes) = (Saved::default(), Vec::new());
        for (number, made) in changes().into_iter().enumerate() {
            change(SESSION, &mut saved, made, number as u64, &mut writes);
            let mut all = read(&stored(writes.clone()));
            let (session, back) = all.pop().unwrap();
            // Subscriptions have no order.
            let mut expected = saved.clone();
            expected.subscriptions.sort_by(|one, other| one.text.cmp(&other.text));
            assert_eq!((session.as_str(), &back.saved), (SESSION, &expected));
            assert_eq!(back.left, None);
        }
    }

    #[test]
    fn a_session_that_is_forgotten_leaves_no_record() {
        let (mut saved, mut writes) = (Saved::default(), Vec::new());
        for (number, made) in changes().into_iter().enumerate() {
            change(SESSION, &mut saved, made, number as u64, &mut writes);
        }
        writes.extend(forget(SESSION, &saved));
        assert_eq!(stored(writes), BTreeMap::new());
    }

    #[test]
    fn when_a_session_was_left_is_kept_with_it() {
        let saved = Saved {
            client_id: "c".into(),
            ..Saved::default()
        };
        let left = Left {
            expires_at: Some(Timestamp::from_millis(5)),
            will_at: None,
        };
        let back = read(&stored(vec![head(SESSION, &saved, Some(&left))]));
        assert_eq!(back[0].1.left.as_ref(), Some(&left));
    }

    #[test]
    fn records_that_cannot_be_read_are_said_to_be() {
        let mut records = Records::default();
        assert!(!records.read("no separator", b""));
        assert!(!records.read("s\nout x", b"[1,2]"));
        assert!(!records.read("s\nelse", b""));
        assert_eq!(records.sessions().count(), 0);
    }
}
