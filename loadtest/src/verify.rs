//! Whether everything that was sent arrived, once and in order.
//!
//! Owns what was seen of one producer's sequence, at a bit a message; knows nothing of who carried it.

use serde::Serialize;

/// What was seen of a sequence that counts from 0, one by one, in the order of arrival.
#[derive(Debug, Default)]
pub struct Verifier {
    /// A bit for each number: seen.
    seen: Vec<u64>,
    distinct: u64,
    /// One above the highest number seen.
    next: u64,
    doubled: u64,
    reordered: u64,
    foreign: u64,
}

/// What is wrong with what arrived; all zero where nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    pub lost: u64,
    pub doubled: u64,
    pub reordered: u64,
    /// Messages that this run did not send.
    pub foreign: u64,
}

impl Findings {
    pub fn is_clean(self) -> bool {
        self == Self::default()
    }
}

impl Verifier {
    /// Notes an arrival; true where it is the first of its number.
    pub fn see(&mut self, number: u64) -> bool {
        let (Ok(word), bit) = (usize::try_from(number / 64), 1_u64 << (number % 64)) else {
            self.foreign += 1;
            return false;
        };
        // A number that no run reaches is not worth the memory of all those below it.
        if number > self.next.saturating_add(1 << 32) {
            self.foreign += 1;
            return false;
        }
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            self.doubled += 1;
            return false;
        }
        self.seen[word] |= bit;
        self.distinct += 1;
        self.reordered += u64::from(number < self.next);
        self.next = self.next.max(number + 1);
        true
    }

    /// Notes an arrival that is no message of this run.
    pub fn foreign(&mut self) {
        self.foreign += 1;
    }

    /// Numbers seen at least once.
    pub fn distinct(&self) -> u64 {
        self.distinct
    }

    /// What is wrong, where this many were sent.
    pub fn findings(&self, sent: u64) -> Findings {
        Findings {
            lost: sent.saturating_sub(self.distinct),
            doubled: self.doubled,
            reordered: self.reordered,
            foreign: self.foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(arrivals: &[u64], sent: u64) -> Findings {
        let mut verifier = Verifier::default();
        for number in arrivals {
            verifier.see(*number);
        }
        verifier.findings(sent)
    }

    #[test]
    fn everything_once_and_in_order_is_clean() {
        let all: Vec<u64> = (0..200).collect();
        assert!(findings(&all, 200).is_clean());
    }

    #[test]
    fn loss_doubles_and_reordering_are_told_apart() {
        let clean = Findings::default();
        assert_eq!(findings(&[0, 2], 3), Findings { lost: 1, ..clean });
        assert_eq!(findings(&[0, 1, 1], 2), Findings { doubled: 1, ..clean });
        assert_eq!(findings(&[1, 0], 2), Findings { reordered: 1, ..clean });
        assert_eq!(findings(&[0, u64::MAX], 1), Findings { foreign: 1, ..clean });
    }
}
