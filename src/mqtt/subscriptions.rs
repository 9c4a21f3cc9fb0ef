//! A session's subscriptions with MQTT's options, and what a message that matches several of them is sent as.
//!
//! The fabric knows the filters and brings one copy of a message for all of them; the options stay here. Start at
//! [`Subscriptions::grant`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    names::{INBOX_FILTER, filter_of},
    packet::{Filter, RetainHandling},
};
use crate::frame::{Qos, TopicFilter, TopicName};

/// One subscription, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// The filter as the client wrote it, `$share/<name>/` included.
    pub text: String,
    /// Largest QoS that messages are sent with: MQTT's number.
    pub qos: u8,
    pub no_local: bool,
    pub retain_as_published: bool,
    /// MQTT's number, see [`RetainHandling`].
    pub retain_handling: u8,
    /// Sent along with what matches.
    pub id: Option<u32>,
}

impl Subscription {
    /// As the client asked for it.
    pub fn new(filter: &Filter, id: Option<u32>) -> Self {
        Self {
            text: filter.text.clone(),
            qos: filter.qos as u8,
            no_local: filter.no_local,
            retain_as_published: filter.retain_as_published,
            retain_handling: filter.retain_handling as u8,
            id,
        }
    }

    /// Whether retained messages are sent for it (§3.3.1.3, [MQTT-3.3.1-9] to [MQTT-3.3.1-11]).
    pub(super) fn wants_retained(&self, is_new: Freshness) -> bool {
        let is_shared = self.text.starts_with("$share/");
        let handling = self.retain_handling;
        !is_shared
            && (handling == RetainHandling::Always as u8
                || (handling == RetainHandling::IfNew as u8 && is_new == Freshness::New))
    }
}

/// Whether a subscription was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    New,
    Replaced,
}

/// Who sent a message, as far as No Local asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// This very client.
    Own,
    Other,
}

/// How a message is sent to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// The largest QoS among the subscriptions that match [MQTT-3.3.4-2].
    pub qos: Qos,
    /// The identifiers of all that match [MQTT-3.3.4-3], [MQTT-3.3.4-4].
    pub ids: Vec<u32>,
    pub retain_as_published: bool,
}

/// Boxed where it is kept: a map has room for eleven at once, and most sessions have one or two.
#[derive(Clone, Debug)]
struct Entry {
    /// `None` for the inbox.
    filter: Option<TopicFilter>,
    subscription: Subscription,
}

/// A session's subscriptions, each filter once [MQTT-3.8.4-3].
#[derive(Clone, Debug, Default)]
pub struct Subscriptions(BTreeMap<String, Box<Entry>>);

impl Subscriptions {
    /// From what was kept; what is no filter any more is left out.
    pub fn restored(kept: &[Subscription]) -> Self {
        let mut subscriptions = Self::default();
        for subscription in kept {
            if let Ok(filter) = filter_of(&subscription.text) {
                subscriptions.insert(filter, subscription.clone());
            }
        }
        subscriptions
    }

    /// Adds one, and gives back the one that it replaces.
    pub(super) fn insert(&mut self, filter: Option<TopicFilter>, subscription: Subscription) -> Option<Subscription> {
        let entry = Box::new(Entry { filter, subscription });
        let earlier = self.0.insert(entry.subscription.text.clone(), entry);
        earlier.map(|entry| entry.subscription)
    }

    /// Removes one.
    pub(super) fn remove(&mut self, text: &str) -> Option<Subscription> {
        self.0.remove(text).map(|entry| entry.subscription)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True where the client asked for its inbox.
    pub fn has_inbox(&self) -> bool {
        self.0.contains_key(INBOX_FILTER)
    }

    /// True where there is one of this very text.
    pub(super) fn has(&self, text: &str) -> bool {
        self.0.contains_key(text)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.0.values().map(|entry| &entry.subscription)
    }

    /// What the unshared subscriptions that match make of a message; `None` where none does, or only such as want none of the
    /// client's own [MQTT-3.8.3-3].
    pub(super) fn grant(&self, topic: &str, origin: Origin) -> Option<Grant> {
        if topic == INBOX_FILTER {
            return self.0.get(INBOX_FILTER).map(|entry| grant_of(&entry.subscription));
        }
        let name = TopicName::new(topic).ok()?;
        let matches = |entry: &&Entry| {
            let filter = entry.filter.as_ref();
            filter.is_some_and(|filter| filter.share().is_none() && filter.matches(&name))
                && !(entry.subscription.no_local && origin == Origin::Own)
        };
        let all = self
            .0
            .values()
            .map(|entry| &**entry)
            .filter(matches)
            .map(|entry| grant_of(&entry.subscription));
        all.reduce(|mut merged, next| {
            merged.qos = if next.qos as u8 > merged.qos as u8 {
                next.qos
            } else {
                merged.qos
            };
            merged.ids.extend(next.ids);
            merged.retain_as_published |= next.retain_as_published;
            merged
        })
    }

    /// What one subscription makes of a message that came for it alone: by its share's queue, or because it was retained.
    pub(super) fn grant_under(&self, text: &str) -> Option<Grant> {
        self.0.get(text).map(|entry| grant_of(&entry.subscription))
    }
}

fn grant_of(subscription: &Subscription) -> Grant {
    Grant {
        qos: Qos::from_u8(subscription.qos).unwrap_or_default(),
        ids: subscription.id.into_iter().collect(),
        retain_as_published: subscription.retain_as_published,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(all: &[(&str, u8, bool, Option<u32>)]) -> Subscriptions {
        let subscription = |(text, qos, no_local, id): &(&str, u8, bool, Option<u32>)| Subscription {
            text: (*text).into(),
            qos: *qos,
            no_local: *no_local,
            retain_as_published: false,
            retain_handling: 0,
            id: *id,
        };
        Subscriptions::restored(&all.iter().map(subscription).collect::<Vec<_>>())
    }

    #[test]
    fn mqtt_3_3_4_2_to_4_overlapping_subscriptions_make_one_copy_with_the_largest_qos_and_all_identifiers() {
        let subscriptions = with(&[
            ("a/+", 0, false, Some(3)),
            ("a/b", 2, false, Some(1)),
            ("#", 1, false, None),
            ("x", 2, false, Some(9)),
        ]);
        let grant = subscriptions.grant("a/b", Origin::Other).unwrap();
        let mut ids = grant.ids.clone();
        ids.sort_unstable();
        assert_eq!((grant.qos, ids), (Qos::ExactlyOnce, vec![1, 3]));
    }

    #[test]
    fn mqtt_3_8_3_3_no_local_keeps_a_clients_own_messages_from_it() {
        let subscriptions = with(&[("a", 1, true, Some(1)), ("#", 0, false, Some(2))]);
        assert_eq!(subscriptions.grant("a", Origin::Own).unwrap().ids, [2]);
        assert_eq!(with(&[("a", 1, true, None)]).grant("a", Origin::Own), None);
        assert!(with(&[("a", 1, true, None)]).grant("a", Origin::Other).is_some());
    }

    #[test]
    fn mqtt_4_7_2_1_wildcards_do_not_see_topics_that_start_with_a_dollar() {
        let subscriptions = with(&[("#", 1, false, None), ("+/x", 1, false, None)]);
        assert_eq!(subscriptions.grant("$SYS/x", Origin::Other), None);
        assert_eq!(subscriptions.grant(INBOX_FILTER, Origin::Other), None);
    }

    #[test]
    fn shared_subscriptions_count_only_for_what_came_by_their_queue() {
        let subscriptions = with(&[("$share/g/a", 1, false, Some(5))]);
        assert_eq!(subscriptions.grant("a", Origin::Other), None);
        assert_eq!(subscriptions.grant_under("$share/g/a").unwrap().ids, [5]);
    }

    #[test]
    fn mqtt_3_3_1_9_to_11_retain_handling_says_when_retained_messages_are_sent() {
        let subscription = |handling| Subscription {
            text: "a".into(),
            qos: 0,
            no_local: false,
            retain_as_published: false,
            retain_handling: handling,
            id: None,
        };
        let wanted = |handling, freshness| subscription(handling).wants_retained(freshness);
        assert!(wanted(0, Freshness::New) && wanted(0, Freshness::Replaced));
        assert!(wanted(1, Freshness::New) && !wanted(1, Freshness::Replaced));
        assert!(!wanted(2, Freshness::New));
        let shared = Subscription {
            text: "$share/g/a".into(),
            ..subscription(0)
        };
        assert!(!shared.wants_retained(Freshness::New));
    }
}
