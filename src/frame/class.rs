//! Priority and quality of service: the two small classes that every stage of a message's way branches on.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How urgent a message is. A higher one goes first; a lower one keeps a bounded share (see [`Priority::WEIGHTS`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Priority {
    Low = 0,
    #[default]
    Normal = 1,
    High = 2,
    Critical = 3,
}

impl Priority {
    /// How many there are.
    pub const COUNT: usize = 4;
    /// From the most urgent to the least.
    pub const DESCENDING: [Self; Self::COUNT] = [Self::Critical, Self::High, Self::Normal, Self::Low];
    /// Shares of a batch when all priorities wait, indexed by [`Priority::index`]: critical 8, high 4, normal 2, low 1.
    pub const WEIGHTS: [usize; Self::COUNT] = [1, 2, 4, 8];

    /// As an array index, low first.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// From the number that stands in frames and records.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Low),
            1 => Some(Self::Normal),
            2 => Some(Self::High),
            3 => Some(Self::Critical),
            _ => None,
        }
    }

    /// The name that users read and write.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Priority {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::DESCENDING.into_iter().find(|p| p.name() == text).ok_or(())
    }
}

/// Quality of service, with MQTT's numbers and names.
#[allow(clippy::enum_variant_names, reason = "the specification's own names")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Qos {
    /// At most once: never stored, no receipt.
    AtMostOnce = 0,
    /// At least once: stored before it is acknowledged, redelivered until it is settled.
    #[default]
    AtLeastOnce = 1,
    /// Exactly once on each hop: [`Qos::AtLeastOnce`] with the receiver's settle confirmed by delivery id.
    ExactlyOnce = 2,
}

impl Qos {
    /// From MQTT's number.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// True where the message is stored and acknowledged.
    pub const fn is_durable(self) -> bool {
        !matches!(self, Self::AtMostOnce)
    }
}
