//! Retained messages: the last one of each topic that its sender wanted kept, for whoever subscribes later.
//!
//! Owns them in memory, with their bounds, and has them written before their senders are answered. Must never know which protocols
//! have them. Start at [`Fabric::retain`].

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{PoisonError, RwLock},
};

use bytes::{Bytes, BytesMut};

pub use super::records::Recording;
use super::{
    error::FabricError,
    fabric::Fabric,
    port::{Action, Decision, RecordOp, Store, Table},
    surface::Principal,
};
use crate::{
    frame::{AgentId, Frame, TopicFilter, TopicName, excerpt},
    time::{self, Timestamp},
};

/// What is kept, by topic.
#[derive(Debug, Default)]
pub(super) struct Retained(RwLock<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_topic: BTreeMap<TopicName, Frame>,
    bytes: u64,
}

/// Bytes that a retained message counts: its topic is there as the key too.
fn weight(topic: &TopicName, frame: &Frame) -> u64 {
    (topic.as_str().len() + frame.encoded_len()) as u64
}

impl Kept {
    fn put(&mut self, topic: TopicName, frame: Frame) {
        self.remove(&topic);
        self.bytes += weight(&topic, &frame);
        self.by_topic.insert(topic, frame);
    }

    fn remove(&mut self, topic: &TopicName) -> bool {
        let removed = self.by_topic.remove(topic);
        self.bytes -= removed.as_ref().map_or(0, |frame| weight(topic, frame));
        removed.is_some()
    }
}

fn is_expired(frame: &Frame, now: Timestamp) -> bool {
    !frame.stamp.expires_at.is_never() && frame.stamp.expires_at <= now
}

impl Retained {
    /// What the store holds.
    pub async fn load(store: &dyn Store) -> Result<Self, FabricError> {
        let mut kept = Kept::default();
        for (key, value) in store.scan_records(Table::Retained).await? {
            let damaged = || FabricError::StoreFailed {
                what: format!("the retained message of topic {:?} cannot be read", excerpt(&key)),
            };
            let topic = TopicName::new(&key).map_err(|_| damaged())?;
            let frame = Frame::decode(&mut Bytes::from(value)).map_err(|_| damaged())?;
            kept.put(topic, frame);
        }
        Ok(Self(RwLock::new(kept)))
    }
}

fn delete(topic: &TopicName) -> RecordOp {
    RecordOp::Delete {
        table: Table::Retained,
        key: topic.as_str().to_owned(),
    }
}

impl Fabric {
    /// Retains a message to a topic in place of the topic's last one, or, where its body is empty, forgets that one. It shows at
    /// once and is durable once what is returned says so. The message itself is sent separately.
    ///
    /// Refused for what refuses the message itself, and where as many are retained as may be.
    pub fn retain(&self, principal: &Principal, frame: &Frame) -> Result<Recording, FabricError> {
        let now = time::now();
        let expires_at = self.judge(principal, frame, now)?;
        let not_a_topic = || FabricError::invalid("to", "is no topic: only messages to topics are retained");
        let name = frame.envelope.to().strip_prefix("topic:").ok_or_else(not_a_topic)?;
        let topic = TopicName::new(name).map_err(|error| FabricError::invalid("to_topic", error.to_string()))?;
        let mut kept = self.0.retained.0.write().unwrap_or_else(PoisonError::into_inner);
        // Handed to the writer under the lock: what is written last is what shows.
        if frame.body.is_empty() {
            let recording = self.0.records.try_write(vec![delete(&topic)])?;
            kept.remove(&topic);
            return Ok(recording);
        }
        let mut frame = frame.compact();
        frame.stamp.accepted_at = now;
        // The node's own time to live is for messages that wait for somebody; a retained one stays until it is replaced.
        frame.stamp.expires_at = match frame.envelope.ttl_ms() {
            0 => Timestamp::NEVER,
            _ => expires_at,
        };
        self.check_retained(&kept, &topic, &frame)?;
        let mut value = BytesMut::with_capacity(frame.encoded_len());
        frame.encode(&mut value);
        let put = RecordOp::Put {
            table: Table::Retained,
            key: topic.as_str().to_owned(),
            value: value.into(),
        };
        let recording = self.0.records.try_write(vec![put])?;
        kept.put(topic, frame);
        Ok(recording)
    }

    fn check_retained(&self, kept: &Kept, topic: &TopicName, frame: &Frame) -> Result<(), FabricError> {
        let config = self.config();
        let earlier = kept.by_topic.get(topic);
        let count = kept.by_topic.len() + usize::from(earlier.is_none());
        let freed = earlier.map_or(0, |earlier| weight(topic, earlier));
        let bytes = kept.bytes + weight(topic, frame) - freed;
        if count > config.retained_messages_max {
            return Err(FabricError::TooMany {
                what: "retained messages",
                max: config.retained_messages_max,
            });
        }
        if bytes > config.retained_bytes_max {
            return Err(FabricError::TooMany {
                what: "bytes of retained messages",
                max: usize::try_from(config.retained_bytes_max).unwrap_or(usize::MAX),
            });
        }
        Ok(())
    }

    /// Retained messages under a filter that an agent may receive, in order of topic behind `after`, at most `limit`.
    pub fn retained(
        &self,
        agent: &AgentId,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        limit: usize,
    ) -> Vec<(TopicName, Frame)> {
        let (now, kept) = (
            time::now(),
            self.0.retained.0.read().unwrap_or_else(PoisonError::into_inner),
        );
        let text = filter.filter();
        let may_see = |(topic, frame): &(&TopicName, &Frame)| {
            filter.matches(topic) && !is_expired(frame, now) && self.may_receive(agent, frame)
        };
        let Some(wildcard) = text.find(['+', '#']) else {
            let one = TopicName::new(text).ok().filter(|_| after.is_none() && limit > 0);
            let found = one.as_ref().and_then(|topic| kept.by_topic.get_key_value(topic));
            let found = found
                .filter(may_see)
                .map(|(topic, frame)| (topic.clone(), frame.clone()));
            return found.into_iter().collect();
        };
        // Everything that matches begins with what stands before the first wildcard's level.
        let prefix = text[..wildcard].strip_suffix('/').unwrap_or(&text[..wildcard]);
        let begin = match after {
            Some(after) => Bound::Excluded(after.clone()),
            None => TopicName::new(prefix).map_or(Bound::Unbounded, Bound::Included),
        };
        let range = kept.by_topic.range((begin, Bound::Unbounded));
        range
            .take_while(|(topic, _)| topic.as_str().starts_with(prefix))
            .filter(may_see)
            .take(limit)
            .map(|(topic, frame)| (topic.clone(), frame.clone()))
            .collect()
    }

    /// Whether policy lets an agent have a message.
    pub fn may_receive(&self, agent: &AgentId, frame: &Frame) -> bool {
        let to = frame.envelope.to();
        self.0.policy.decide(agent.as_str(), Action::Receive { to }) == Decision::Allow
    }

    /// How many messages are retained.
    pub fn retained_count(&self) -> usize {
        self.0
            .retained
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .by_topic
            .len()
    }

    /// Forgets what has expired; it is not handed out meanwhile either.
    pub(super) fn forget_expired_retained(&self) {
        let now = time::now();
        let mut kept = self.0.retained.0.write().unwrap_or_else(PoisonError::into_inner);
        let expired: Vec<_> = kept
            .by_topic
            .iter()
            .filter(|(_, frame)| is_expired(frame, now))
            .map(|(topic, _)| topic.clone())
            .collect();
        for topic in expired {
            // Refused: the next round forgets it.
            if self.0.records.try_write(vec![delete(&topic)]).is_ok() {
                kept.remove(&topic);
            }
        }
    }
}
