//! Topic aliases, both ways (§3.3.2.3.4): what the client set, and what the server sets towards it.
//!
//! Both tables are bounded by what their receiver announced, and end with the connection [MQTT-3.3.2-7]. Start at [`AliasesIn`].

use std::collections::HashMap;

use super::reason::Reason;

/// Bytes of the names that a client's aliases stand for: sixteen of the longest. Beyond, the client is disconnected (0x97).
const NAMES_IN_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the names that aliases towards a client stand for. Beyond, further topics go by their names.
const NAMES_OUT_BYTES_MAX: usize = 128 * 1024;

/// Aliases that the client uses.
#[derive(Clone, Debug, Default)]
pub(super) struct AliasesIn {
    max: u16,
    topics: HashMap<u16, String>,
    bytes: usize,
}

impl AliasesIn {
    /// As many as the server announced.
    pub fn new(max: u16) -> Self {
        Self {
            max,
            topics: HashMap::new(),
            bytes: 0,
        }
    }

    /// The topic of a PUBLISH: sets the alias where there is a name, looks it up where there is none.
    pub fn resolve(&mut self, alias: Option<u16>, topic: String) -> Result<String, Reason> {
        let Some(alias) = alias else { return Ok(topic) };
        if alias == 0 || alias > self.max {
            return Err(Reason::TOPIC_ALIAS_INVALID); // [MQTT-3.3.2-9]
        }
        if topic.is_empty() {
            return self.topics.get(&alias).cloned().ok_or(Reason::PROTOCOL_ERROR);
        }
        let earlier = self.topics.get(&alias).map_or(0, String::len);
        let bytes = self.bytes - earlier + topic.len();
        if bytes > NAMES_IN_BYTES_MAX {
            return Err(Reason::QUOTA_EXCEEDED);
        }
        self.bytes = bytes;
        self.topics.insert(alias, topic.clone());
        Ok(topic)
    }
}

/// Aliases that the server uses: first come, first served, never given to another topic.
#[derive(Clone, Debug, Default)]
pub(super) struct AliasesOut {
    max: u16,
    aliases: HashMap<String, u16>,
    bytes: usize,
}

/// How a topic goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// By its name alone.
    Name,
    /// By its name, which sets the alias.
    Set(u16),
    /// By its alias alone.
    Alias(u16),
}

impl AliasesOut {
    /// As many as the client takes [MQTT-3.1.2-26], and as many as the node gives.
    pub fn new(client_max: u16, own_max: u16) -> Self {
        Self {
            max: client_max.min(own_max),
            aliases: HashMap::new(),
            bytes: 0,
        }
    }

    /// What a PUBLISH on this topic would carry. Nothing is remembered until it was sent: see [`AliasesOut::sent`].
    pub fn naming(&self, topic: &str) -> Naming {
        if self.max == 0 {
            return Naming::Name;
        }
        match self.aliases.get(topic) {
            Some(alias) => Naming::Alias(*alias),
            None if self.has_room(topic) => Naming::Set(self.aliases.len() as u16 + 1),
            None => Naming::Name,
        }
    }

    fn has_room(&self, topic: &str) -> bool {
        self.aliases.len() < usize::from(self.max) && self.bytes + topic.len() <= NAMES_OUT_BYTES_MAX
    }

    /// The PUBLISH went out.
    pub fn sent(&mut self, topic: &str, naming: Naming) {
        if let Naming::Set(alias) = naming {
            self.bytes += topic.len();
            self.aliases.insert(topic.to_owned(), alias);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mqtt_3_3_2_8_to_10_an_alias_stands_for_the_last_topic_it_was_set_to() {
        let mut aliases = AliasesIn::new(2);
        assert_eq!(aliases.resolve(None, "x".into()), Ok("x".into()));
        assert_eq!(aliases.resolve(Some(2), String::new()), Err(Reason::PROTOCOL_ERROR));
        assert_eq!(aliases.resolve(Some(2), "a".into()), Ok("a".into()));
        assert_eq!(aliases.resolve(Some(2), String::new()), Ok("a".into()));
        assert_eq!(aliases.resolve(Some(2), "b".into()), Ok("b".into()));
        assert_eq!(aliases.resolve(Some(2), String::new()), Ok("b".into()));
        assert_eq!(aliases.resolve(Some(3), "c".into()), Err(Reason::TOPIC_ALIAS_INVALID));
        assert_eq!(aliases.resolve(Some(0), "c".into()), Err(Reason::TOPIC_ALIAS_INVALID));
    }

    #[test]
    fn aliases_of_long_names_are_bounded_by_their_bytes() {
        let long = |n: usize| format!("{n:05}{}", "x".repeat(65_530));
        let mut aliases = AliasesIn::new(100);
        for n in 1..=16 {
            assert_eq!(aliases.resolve(Some(n), long(n.into())), Ok(long(n.into())));
        }
        assert_eq!(aliases.resolve(Some(17), long(17)), Err(Reason::QUOTA_EXCEEDED));
        assert_eq!(aliases.resolve(Some(16), "a".into()), Ok("a".into()));
        assert_eq!(aliases.resolve(Some(17), long(17)), Ok(long(17)));

        let mut aliases = AliasesOut::new(100, 100);
        for n in 1..=2 {
            assert_eq!(aliases.naming(&long(n)), Naming::Set(n as u16));
            aliases.sent(&long(n), Naming::Set(n as u16));
        }
        assert_eq!(aliases.naming(&long(3)), Naming::Name);
        assert_eq!(aliases.naming("a"), Naming::Set(3));
        assert_eq!(aliases.naming(&long(1)), Naming::Alias(1));
    }

    #[test]
    fn mqtt_3_1_2_26_and_27_a_client_gets_no_alias_above_its_maximum() {
        assert_eq!(AliasesOut::new(0, 10).naming("a"), Naming::Name);
        let mut aliases = AliasesOut::new(1, 10);
        assert_eq!(aliases.naming("a"), Naming::Set(1));
        aliases.sent("a", Naming::Set(1));
        assert_eq!(aliases.naming("a"), Naming::Alias(1));
        assert_eq!(aliases.naming("b"), Naming::Name);
    }
}
