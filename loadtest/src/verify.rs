//! Whether everything that was sent arrived, once and in order.
//!
//! Owns what one consumer saw of one producer's numbers, at a bit a message, and what is wrong when all is over; knows nothing of
//! who carried it. Start at [`Seen::see`] and [`Findings`].

use serde::{Deserialize, Serialize};

/// How far ahead of what was seen a number may be and still be believed: no run has more under way, and a wrong number must
/// not cost the memory of all those below it.
const AHEAD_MAX: u64 = 1 << 30;

/// What was seen of a producer's messages, which count from 0, in the order of arrival.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// A bit for each number.
    bits: Vec<u64>,
    distinct: u64,
    /// One above the highest number seen.
    next: u64,
    doubled: u64,
    reordered: u64,
    foreign: u64,
}

/// What is wrong with what arrived; all zero where nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    pub lost: u64,
    pub doubled: u64,
    pub reordered: u64,
    /// Messages that this run did not send.
    pub foreign: u64,
}

impl Findings {
    /// Nothing is wrong.
    pub fn is_clean(self) -> bool {
        self == Self::default()
    }

    /// Adds what is wrong elsewhere.
    pub fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.foreign += other.foreign;
    }
}

impl Seen {
    /// Notes an arrival; true where it is the first of its number.
    pub fn see(&mut self, number: u64) -> bool {
        let (Ok(word), bit) = (usize::try_from(number / 64), 1_u64 << (number % 64)) else {
            self.foreign += 1;
            return false;
        };
        if number > self.next.saturating_add(AHEAD_MAX) {
            self.foreign += 1;
            return false;
        }
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] & bit != 0 {
            self.doubled += 1;
            return false;
        }
        self.bits[word] |= bit;
        self.distinct += 1;
        self.reordered += u64::from(number < self.next);
        self.next = self.next.max(number + 1);
        true
    }

    /// Numbers seen at least once.
    pub fn distinct(&self) -> u64 {
        self.distinct
    }

    /// What is wrong, where this many were accepted for this consumer.
    pub fn findings(&self, accepted: u64) -> Findings {
        Findings {
            lost: accepted.saturating_sub(self.distinct),
            doubled: self.doubled,
            reordered: self.reordered,
            foreign: self.foreign,
        }
    }

    /// What is wrong with messages of which each was for one of several consumers: a number that two of them saw is doubled,
    /// and no order is promised between them.
    pub fn findings_of_shared<'a>(parts: impl Iterator<Item = &'a Self>, accepted: u64) -> Findings {
        let (mut union, mut arrivals, mut findings) = (Vec::new(), 0, Findings::default());
        for part in parts {
            if union.len() < part.bits.len() {
                union.resize(part.bits.len(), 0);
            }
            for (all, seen) in union.iter_mut().zip(&part.bits) {
                *all |= seen;
            }
            arrivals += part.distinct;
            findings.doubled += part.doubled;
            findings.foreign += part.foreign;
        }
        let distinct: u64 = union.iter().map(|word| u64::from(word.count_ones())).sum();
        findings.doubled += arrivals - distinct;
        findings.lost = accepted.saturating_sub(distinct);
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(arrivals: &[u64]) -> Seen {
        let mut seen = Seen::default();
        for number in arrivals {
            seen.see(*number);
        }
        seen
    }

    const CLEAN: Findings = Findings {
        lost: 0,
        doubled: 0,
        reordered: 0,
        foreign: 0,
    };

    #[test]
    fn everything_once_and_in_order_is_clean() {
        let all: Vec<u64> = (0..200).collect();
        assert!(seen(&all).findings(200).is_clean());
    }

    #[test]
    fn planted_loss_doubles_disorder_and_strangers_are_told_apart() {
        assert_eq!(seen(&[0, 2]).findings(3), Findings { lost: 1, ..CLEAN });
        assert_eq!(seen(&[0, 1, 1]).findings(2), Findings { doubled: 1, ..CLEAN });
        assert_eq!(seen(&[1, 0]).findings(2), Findings { reordered: 1, ..CLEAN });
        assert_eq!(seen(&[0, u64::MAX]).findings(1), Findings { foreign: 1, ..CLEAN });
    }

    #[test]
    fn a_message_for_one_of_several_that_two_saw_is_doubled_and_order_does_not_count() {
        let (left, right) = (seen(&[2, 0]), seen(&[1, 3]));
        assert_eq!(Seen::findings_of_shared([&left, &right].into_iter(), 4), CLEAN);
        let again = seen(&[3]);
        let found = Seen::findings_of_shared([&left, &right, &again].into_iter(), 5);
        assert_eq!(
            found,
            Findings {
                lost: 1,
                doubled: 1,
                ..CLEAN
            }
        );
    }
}
