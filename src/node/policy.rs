//! What the configuration lets nobody do: topics that are closed to publishers or to subscribers, over every protocol alike.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    frame::{TopicFilter, TopicName},
    router::port::{Action, AllowAll, Decision, Policy},
};

/// Topics that are closed to everyone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Topic filters: nobody may publish to a topic that one of them matches.
    pub deny_publish: Vec<TopicFilter>,
    /// Topic filters: nobody may subscribe to one of them or to a part of what it matches, and wider subscriptions get nothing of it.
    pub deny_subscribe: Vec<TopicFilter>,
}

impl Config {
    /// The policy that it describes.
    pub fn policy(&self) -> Arc<dyn Policy> {
        match *self == Self::default() {
            true => Arc::new(AllowAll),
            false => Arc::new(ClosedTopics(self.clone())),
        }
    }
}

#[derive(Debug)]
struct ClosedTopics(Config);

impl Policy for ClosedTopics {
    fn decide(&self, _agent: &str, action: Action<'_>) -> Decision {
        let is_closed = match action {
            Action::Send { to } => matches(&self.0.deny_publish, to),
            Action::Receive { to } => matches(&self.0.deny_subscribe, to),
            Action::Subscribe { filter } => TopicFilter::new(filter)
                .is_ok_and(|asked| self.0.deny_subscribe.iter().any(|denied| denied.covers(&asked))),
            Action::ManageAgent { .. } | Action::ManageGroup { .. } | Action::Inspect => false,
        };
        match is_closed {
            true => Decision::Deny,
            false => Decision::Allow,
        }
    }

    fn is_closed(&self, to: &str) -> bool {
        matches(&self.0.deny_subscribe, to)
    }
}

/// Whether an address is a topic under one of the filters.
fn matches(filters: &[TopicFilter], address: &str) -> bool {
    let topic = address.strip_prefix("topic:").filter(|_| !filters.is_empty());
    topic
        .and_then(|topic| TopicName::new(topic).ok())
        .is_some_and(|topic| filters.iter().any(|filter| filter.matches(&topic)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed() -> Arc<dyn Policy> {
        let filters = |texts: &[&str]| texts.iter().map(|text| TopicFilter::new(text).unwrap()).collect();
        Config {
            deny_publish: filters(&["alarms/#"]),
            deny_subscribe: filters(&["test/nosubscribe", "secret/+/keys"]),
        }
        .policy()
    }

    #[test]
    fn what_is_closed_is_denied_and_nothing_else() {
        let policy = closed();
        let decide = |action| policy.decide("a", action);
        for to in ["topic:alarms", "topic:alarms/fire"] {
            assert_eq!(decide(Action::Send { to }), Decision::Deny, "{to}");
        }
        for to in ["topic:alarm", "agent:alarms", "topic:test/nosubscribe"] {
            assert_eq!(decide(Action::Send { to }), Decision::Allow, "{to}");
        }
        for filter in [
            "test/nosubscribe",
            "secret/a/keys",
            "secret/+/keys",
            "$share/g/test/nosubscribe",
        ] {
            assert_eq!(decide(Action::Subscribe { filter }), Decision::Deny, "{filter}");
        }
        for filter in ["test/+", "#", "secret/+", "secret/#", "alarms/#"] {
            assert_eq!(decide(Action::Subscribe { filter }), Decision::Allow, "{filter}");
        }
        assert_eq!(
            decide(Action::Receive {
                to: "topic:secret/x/keys"
            }),
            Decision::Deny
        );
        assert_eq!(decide(Action::Receive { to: "topic:secret/x" }), Decision::Allow);
    }
}
