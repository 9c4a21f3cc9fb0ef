//! Names that users choose and numbers that the fabric gives: agent, group, capability and message ids,
//! shard ids and sequences. Each is a type of its own, checked where it is made.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use super::{
    grammar::{check_message_id, check_segmented},
    limits::{ID_SEGMENT_BYTES_MAX, SHARDS},
};

/// Why a text is not an id. Always the caller's fault; never worth a retry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdError {
    #[error("is empty")]
    Empty,
    #[error("has {bytes} bytes; at most {max} are allowed")]
    TooLong { bytes: usize, max: usize },
    #[error("has an empty segment; segments are separated by single slashes")]
    EmptySegment,
    #[error("has a segment of {bytes} bytes; at most {ID_SEGMENT_BYTES_MAX} are allowed")]
    SegmentTooLong { bytes: usize },
    #[error("has the segment `.` or `..`, which is not allowed")]
    DotSegment,
    #[error("has the character {0:?}; allowed are A-Z a-z 0-9 . _ ~ - and / between segments")]
    Character(char),
    #[error("has the character {0:?}; allowed are A-Z a-z 0-9 . _ ~ : -")]
    MessageCharacter(char),
    #[error("is reserved")]
    Reserved,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the text against the grammar.
            pub fn new(text: impl AsRef<str>) -> Result<Self, IdError> {
                let text = text.as_ref();
                $check(text)?;
                Ok(Self(text.into()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(&text).map_err(|error| serde::de::Error::custom(format!("{text:?} {error}")))
            }
        }
    };
}

text_id!(
    /// An agent's id: segments `[A-Za-z0-9._~-]{1,64}` joined by `/`, 255 bytes at most.
    AgentId,
    check_segmented
);
text_id!(
    /// A group's id; the grammar of [`AgentId`].
    GroupId,
    check_segmented
);
text_id!(
    /// A capability that agents declare; the grammar of [`AgentId`].
    Capability,
    check_segmented
);
text_id!(
    /// A message's id, unique per sender: `[A-Za-z0-9._~:-]{1,128}`.
    MessageId,
    check_message_id
);

/// One of the [`SHARDS`] shards of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(u16);

impl ShardId {
    /// `None` where the number is not below [`SHARDS`].
    pub const fn new(number: u16) -> Option<Self> {
        if number < SHARDS { Some(Self(number)) } else { None }
    }

    /// The home shard of a 64-bit address hash.
    pub const fn of_hash(hash: u64) -> Self {
        Self((hash % SHARDS as u64) as u16)
    }

    /// Every shard, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SHARDS).map(Self)
    }

    /// The shard's number, below [`SHARDS`].
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The shard's number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard_{}", self.0)
    }
}

/// Bits of a [`Seq`] that count within one claim of a shard; the claim's epoch stands above them.
const SEQ_COUNTER_BITS: u32 = 40;

/// A message's place in its shard. It grows for ever: the epoch of the shard's claim stands in the upper 24 bits,
/// so that no restart or failover gives a number twice even when every record of an earlier claim is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(u64);

impl Seq {
    /// The sequence before every other.
    pub const ZERO: Self = Self(0);

    /// From its number, as it stands in records and delivery ids.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The first sequence of a claim.
    pub const fn first_of(epoch: u64) -> Self {
        Self(epoch << SEQ_COUNTER_BITS)
    }

    /// The number that stands in records and delivery ids.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The one after.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Where a message is kept: its shard and its place there. Shown to users as the tracking id `t_SSS-NNNN…` (hexadecimal).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackingId {
    pub shard: ShardId,
    pub seq: Seq,
}

impl fmt::Display for TrackingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t_{:03x}-{:x}", self.shard.0, self.seq.0)
    }
}

impl FromStr for TrackingId {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (shard, seq) = text
            .strip_prefix("t_")
            .and_then(|rest| rest.split_once('-'))
            .ok_or(())?;
        let shard = u16::from_str_radix(shard, 16).ok().and_then(ShardId::new).ok_or(())?;
        let seq = u64::from_str_radix(seq, 16).map_err(|_| ())?;
        Ok(Self { shard, seq: Seq(seq) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::grammar::is_message_id;

    #[test]
    fn agent_ids_follow_the_grammar() {
        for good in ["a", "acme/planner", "acme/worker-7", "A.b_c~d-9", &"x".repeat(64)] {
            assert!(AgentId::new(good).is_ok(), "{good}");
        }
        let long_segment = "x".repeat(65);
        let too_long = vec!["x".repeat(64); 4].join("/");
        let cases = [
            ("", IdError::Empty),
            ("a//b", IdError::EmptySegment),
            ("/a", IdError::EmptySegment),
            ("a/", IdError::EmptySegment),
            ("a/../b", IdError::DotSegment),
            (".", IdError::DotSegment),
            ("a b", IdError::Character(' ')),
            ("a+", IdError::Character('+')),
            ("a\0", IdError::Character('\0')),
            ("ä", IdError::Character('ä')),
            ("register", IdError::Reserved),
            (long_segment.as_str(), IdError::SegmentTooLong { bytes: 65 }),
            (too_long.as_str(), IdError::TooLong { bytes: 259, max: 255 }),
        ];
        for (bad, error) in cases {
            assert_eq!(AgentId::new(bad), Err(error), "{bad:?}");
        }
    }

    #[test]
    fn message_ids_allow_colons_but_no_slash() {
        assert!(MessageId::new("msg:1").is_ok());
        assert_eq!(MessageId::new("a/b"), Err(IdError::MessageCharacter('/')));
        assert!(matches!(MessageId::new("x".repeat(129)), Err(IdError::TooLong { .. })));
    }

    #[test]
    fn both_checks_of_message_ids_agree_on_every_byte() {
        for byte in 0..=u8::MAX {
            let text = [b'a', byte];
            let known = std::str::from_utf8(&text).is_ok_and(|text| MessageId::new(text).is_ok());
            assert_eq!(is_message_id(&text), known, "{byte:#04x}");
        }
        assert!(!is_message_id(b"") && !is_message_id(&[b'a'; 129]) && is_message_id(&[b'a'; 128]));
    }

    #[test]
    fn tracking_ids_round_trip_and_refuse_unknown_shards() {
        let id = TrackingId {
            shard: ShardId(1023),
            seq: Seq::first_of(7),
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("t_400-1".parse::<TrackingId>(), Err(()));
        assert_eq!("msg_1".parse::<TrackingId>(), Err(()));
    }

    #[test]
    fn a_later_claim_starts_above_every_earlier_sequence() {
        let mut last = Seq::first_of(3);
        (0..1000).for_each(|_| last = last.next());
        assert!(Seq::first_of(4) > last);
    }
}
