//! Topic names and filters, MQTT-style (MQTT 5.0 §4.7): levels separated by `/`, `+` for one level, `#` for the rest,
//! names that start with `$` hidden from wildcards at their first level. Shared filters are `$share/<name>/<filter>` (§4.8.2).

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use super::{
    grammar::excerpt,
    limits::{TOPIC_BYTES_MAX, TOPIC_LEVELS_MAX},
};

/// Why a text is not a topic name or filter. Always the caller's fault; never worth a retry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopicError {
    #[error("is empty")]
    Empty,
    #[error("has {bytes} bytes; at most {TOPIC_BYTES_MAX} are allowed")]
    TooLong { bytes: usize },
    #[error("has {levels} levels; at most {TOPIC_LEVELS_MAX} are allowed")]
    TooDeep { levels: usize },
    #[error("has the control character {0:?}")]
    Control(char),
    #[error("has the wildcard {0:?}; wildcards are for filters only")]
    WildcardInName(char),
    #[error("has a wildcard that shares its level with other characters; `+` and `#` stand alone in their level")]
    WildcardNotAlone,
    #[error("has `#` before its last level")]
    HashNotLast,
    #[error("is a shared filter without a name or a filter; write `$share/<name>/<filter>`")]
    Share,
}

fn check_common(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong { bytes: text.len() });
    }
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        return Err(TopicError::Control(control));
    }
    match text.split('/').count() {
        levels if levels > TOPIC_LEVELS_MAX => Err(TopicError::TooDeep { levels }),
        _ => Ok(()),
    }
}

fn check_filter_levels(text: &str) -> Result<(), TopicError> {
    let mut levels = text.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains(['+', '#']) && level.len() > 1 {
            return Err(TopicError::WildcardNotAlone);
        }
        if level == "#" && levels.peek().is_some() {
            return Err(TopicError::HashNotLast);
        }
    }
    Ok(())
}

/// A topic that messages are published to: no wildcards.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks the text: 1–65,535 bytes, at most 256 levels, no control characters, no wildcards.
    pub fn new(text: impl AsRef<str>) -> Result<Self, TopicError> {
        let text = text.as_ref();
        Self::check(text)?;
        Ok(Self(text.into()))
    }

    /// [`TopicName::new`] without keeping the name.
    pub(super) fn check(text: &str) -> Result<(), TopicError> {
        check_common(text)?;
        match text.bytes().find(|byte| matches!(byte, b'+' | b'#')) {
            Some(wildcard) => Err(TopicError::WildcardInName(wildcard.into())),
            None => Ok(()),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a subscriber asks for: a filter, perhaps shared between the sessions that name the same share.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter {
    text: Arc<str>,
    /// Where the filter itself starts in `text`: behind `$share/<name>/`, else 0.
    filter_start: u16,
}

impl TopicFilter {
    /// Checks the text: the limits of [`TopicName::new`], `+` and `#` only as whole levels, `#` only at the end.
    pub fn new(text: impl AsRef<str>) -> Result<Self, TopicError> {
        let text = text.as_ref();
        check_common(text)?;
        let filter_start = match text.strip_prefix("$share/") {
            None => 0,
            Some(rest) => {
                let (name, filter) = rest.split_once('/').ok_or(TopicError::Share)?;
                if name.is_empty() || filter.is_empty() || name.contains(['+', '#']) {
                    return Err(TopicError::Share);
                }
                text.len() - filter.len()
            }
        };
        check_filter_levels(&text[filter_start..])?;
        let filter_start = u16::try_from(filter_start).expect("below TOPIC_BYTES_MAX, checked above");
        Ok(Self {
            text: text.into(),
            filter_start,
        })
    }

    /// The whole text, `$share/<name>/` included.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The filter without `$share/<name>/`.
    pub fn filter(&self) -> &str {
        &self.text[usize::from(self.filter_start)..]
    }

    /// The share's name, where the filter is shared.
    pub fn share(&self) -> Option<&str> {
        (self.filter_start > 0).then(|| &self.text["$share/".len()..usize::from(self.filter_start) - 1])
    }

    /// True where a message to `name` is for this filter.
    pub fn matches(&self, name: &TopicName) -> bool {
        let (filter, name) = (self.filter(), name.as_str());
        if name.starts_with('$') && filter.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = name.split('/');
        for wanted in filter.split('/') {
            match (wanted, levels.next()) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (wanted, Some(level)) if wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }

    /// True where this filter matches every name that the other one matches.
    pub fn covers(&self, other: &Self) -> bool {
        let (wide, narrow) = (self.filter(), other.filter());
        if narrow.starts_with('$') && wide.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = narrow.split('/');
        for wanted in wide.split('/') {
            match (wanted, levels.next()) {
                ("#", _) => return true,
                ("+", Some(level)) if level != "#" => {}
                (wanted, Some(level)) if wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

macro_rules! topic_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = TopicError;
            fn from_str(text: &str) -> Result<Self, TopicError> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(&text).map_err(|error| serde::de::Error::custom(format!("{:?} {error}", excerpt(&text))))
            }
        }
    };
}

topic_text!(TopicName);
topic_text!(TopicFilter);

impl Serialize for TopicFilter {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filter: &str, name: &str) -> bool {
        TopicFilter::new(filter)
            .expect(filter)
            .matches(&TopicName::new(name).expect(name))
    }

    #[test]
    fn a_filter_covers_what_matches_nothing_else() {
        let covers = |wide: &str, narrow: &str| {
            TopicFilter::new(wide)
                .unwrap()
                .covers(&TopicFilter::new(narrow).unwrap())
        };
        for (wide, narrow) in [
            ("a/b", "a/b"),
            ("a/+", "a/b"),
            ("a/+", "a/+"),
            ("a/#", "a"),
            ("a/#", "a/+/c/#"),
            ("#", "#"),
        ] {
            assert!(covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [
            ("a/b", "a/+"),
            ("a/+", "a/#"),
            ("+", "a/b"),
            ("a/b", "a"),
            ("a", "a/b"),
            ("#", "$SYS/#"),
        ] {
            assert!(!covers(wide, narrow), "{wide} {narrow}");
        }
    }

    #[test]
    fn wildcards_match_as_mqtt_says() {
        for (filter, name) in [
            ("a/b", "a/b"),
            ("a/+", "a/b"),
            ("a/#", "a"),
            ("a/#", "a/b/c"),
            ("#", "a/b"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("+", "a"),
            ("$SYS/#", "$SYS/x"),
            ("$share/g/a/+", "a/b"),
            ("a/+/c", "a//c"),
        ] {
            assert!(matches(filter, name), "{filter} {name}");
        }
        for (filter, name) in [
            ("a/b", "a/b/c"),
            ("a/+", "a"),
            ("a/+", "a/b/c"),
            ("+", "/finance"),
            ("#", "$SYS/x"),
            ("+/x", "$SYS/x"),
            ("a", "A"),
            ("a/b/#", "a"),
        ] {
            assert!(!matches(filter, name), "{filter} {name}");
        }
    }

    #[test]
    fn malformed_filters_are_refused_with_the_reason() {
        for (filter, error) in [
            ("", TopicError::Empty),
            ("a/b#", TopicError::WildcardNotAlone),
            ("a+/b", TopicError::WildcardNotAlone),
            ("a/#/b", TopicError::HashNotLast),
            ("$share/g", TopicError::Share),
            ("$share//a", TopicError::Share),
            ("$share/g/", TopicError::Share),
            ("$share/g+/a", TopicError::Share),
            ("a\0b", TopicError::Control('\0')),
        ] {
            assert_eq!(TopicFilter::new(filter), Err(error), "{filter:?}");
        }
        assert_eq!(TopicName::new("a/+"), Err(TopicError::WildcardInName('+')));
    }

    #[test]
    fn names_and_filters_are_as_long_as_mqtts_and_256_levels_deep() {
        let long = "x".repeat(TOPIC_BYTES_MAX);
        assert!(TopicName::new(&long).is_ok() && TopicFilter::new(&long).is_ok());
        let shared = format!("$share/g/{}", &long["$share/g/".len()..]);
        assert_eq!(TopicFilter::new(&shared).unwrap().share(), Some("g"));
        let share = format!("$share/{}/x", &long["$share//x".len()..]);
        assert_eq!(TopicFilter::new(&share).unwrap().filter(), "x");
        let longer = Err(TopicError::TooLong {
            bytes: TOPIC_BYTES_MAX + 1,
        });
        assert_eq!(TopicName::new(format!("{long}x")), longer);
        for deep in [
            "/".repeat(255),
            format!("{}d", "abc/".repeat(255)),
            format!("{}#", "+/".repeat(255)),
        ] {
            assert!(TopicFilter::new(&deep).is_ok());
            let deeper = Err(TopicError::TooDeep { levels: 257 });
            assert_eq!(TopicFilter::new(format!("/{deep}")), deeper);
        }
    }

    #[test]
    fn a_shared_filter_knows_its_parts() {
        let filter = TopicFilter::new("$share/pool/a/+/c").unwrap();
        assert_eq!((filter.share(), filter.filter()), (Some("pool"), "a/+/c"));
        assert_eq!(TopicFilter::new("a/+").unwrap().share(), None);
    }
}
