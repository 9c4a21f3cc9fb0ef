//! Where each message stands in the log, and which of the log's bytes still count.
//!
//! In memory, about 60 bytes a message; rebuilt at open. Fed with every record in the order of the log, by the writer
//! as by recovery. Knows nothing of files. Start at [`Index`].

use std::collections::BTreeMap;

use hashbrown::{HashMap, hash_map::Entry};

use super::record::{Change, RECEIPT_RECORD_BYTES, State};
use crate::{
    frame::{
        Seq, ShardId,
        limits::SHARDS,
        record::{Keep, Op, SettleNo},
    },
    time::Timestamp,
};

/// Where a record stands: its segment's generation, the record's offset in it, its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) generation: u64,
    pub(super) offset: u32,
    pub(super) bytes: u32,
}

/// What the index needs of a record.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Message {
        seq: Seq,
        state: State,
    },
    Attempt {
        seq: Seq,
        attempts: u32,
        not_before: Timestamp,
    },
    Settle {
        settle_no: SettleNo,
        seq: Seq,
        keep: Keep,
    },
    Receipt {
        settle_no: SettleNo,
    },
    Forget {
        seq: Seq,
    },
    Floor {
        settle_no: SettleNo,
    },
    Cursor {
        source: ShardId,
        upto: Seq,
    },
}

impl From<&Op> for Step {
    fn from(op: &Op) -> Self {
        match *op {
            Op::Enqueue(ref enqueue) => Self::Message {
                seq: enqueue.seq,
                state: State {
                    attempts: enqueue.frame.stamp.attempt,
                    ..State::FRESH
                },
            },
            Op::Attempt {
                seq,
                attempts,
                not_before,
            } => Self::Attempt {
                seq,
                attempts,
                not_before,
            },
            Op::Settle {
                settle_no,
                ref receipt,
                keep,
            } => Self::Settle {
                settle_no,
                seq: receipt.seq,
                keep,
            },
            Op::Forget { seq } => Self::Forget { seq },
            Op::ReceiptFloor { settle_no } => Self::Floor { settle_no },
            Op::Cursor { source, upto } => Self::Cursor { source, upto },
        }
    }
}

impl From<&Change<'_>> for Step {
    fn from(change: &Change<'_>) -> Self {
        match *change {
            Change::Message(ref message) => Self::Message {
                seq: message.seq,
                state: message.state,
            },
            Change::Attempt {
                seq,
                attempts,
                not_before,
            } => Self::Attempt {
                seq,
                attempts,
                not_before,
            },
            Change::Settle {
                settle_no,
                ref receipt,
                keep,
            } => Self::Settle {
                settle_no,
                seq: receipt.seq,
                keep,
            },
            Change::Receipt { settle_no, .. } => Self::Receipt { settle_no },
            Change::Forget { seq } => Self::Forget { seq },
            Change::Floor { settle_no } => Self::Floor { settle_no },
            Change::Cursor { source, upto } => Self::Cursor { source, upto },
        }
    }
}

/// What is to be done with a record of a segment that is to be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing of it counts any more, or what counts stands elsewhere.
    Drop,
    /// The message still counts: copy it with this state.
    Move(State),
    /// Only the receipt in it still counts.
    MoveReceipt,
    /// Copy it as it is.
    Copy,
}

/// The index of a whole store.
#[derive(Debug)]
pub(super) struct Index {
    shards: Vec<Shard>,
    messages: u64,
    live_bytes: u64,
}

#[derive(Debug, Default)]
struct Shard {
    messages: HashMap<Seq, Location>,
    /// Of messages that are not as they were enqueued: few.
    states: HashMap<Seq, State>,
    receipts: Runs,
    floor: Option<(SettleNo, Location)>,
    cursors: BTreeMap<ShardId, (Seq, Location)>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            messages: 0,
            live_bytes: 0,
        }
    }
}

impl Index {
    /// Messages held.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Bytes of records that count.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Where a message stands.
    pub(super) fn find(&self, shard: ShardId, seq: Seq) -> Option<Location> {
        self.shards[shard.index()].messages.get(&seq).copied()
    }

    /// Takes the next record of the log into account.
    pub(super) fn apply(&mut self, shard: ShardId, step: Step, at: Location) {
        let held = &mut self.shards[shard.index()];
        let (before, messages) = (held.live_bytes_of(&step), held.messages.len());
        held.apply(step, at);
        let (after, messages_now) = (held.live_bytes_of(&step), held.messages.len());
        self.live_bytes = self.live_bytes + after - before;
        self.messages = self.messages + messages_now as u64 - messages as u64;
    }

    /// Takes over the shards that `is_own` names, of which nothing is known here yet.
    pub(super) fn absorb(&mut self, other: Self, is_own: impl Fn(usize) -> bool) {
        for (number, shard) in other.shards.into_iter().enumerate() {
            if is_own(number) {
                self.shards[number] = shard;
            }
        }
        self.messages += other.messages;
        self.live_bytes += other.live_bytes;
    }

    /// What a record that stands at `at` is still worth.
    pub(super) fn fate(&self, shard: ShardId, step: Step, at: Location) -> Fate {
        let held = &self.shards[shard.index()];
        let floor = held.floor_no();
        match step {
            Step::Message { seq, .. } if held.messages.get(&seq) == Some(&at) => {
                Fate::Move(held.states.get(&seq).copied().unwrap_or(State::FRESH))
            }
            Step::Settle { settle_no, .. } | Step::Receipt { settle_no } if settle_no >= floor => Fate::MoveReceipt,
            Step::Floor { .. } if held.floor.is_some_and(|(_, latest)| latest == at) => Fate::Copy,
            Step::Cursor { source, .. } if held.cursors.get(&source).is_some_and(|(_, latest)| *latest == at) => {
                Fate::Copy
            }
            // A failed attempt, and what a settle keeps, ride in the message's record, which stands before them in
            // the log and was moved first.
            _ => Fate::Drop,
        }
    }
}

impl Shard {
    fn floor_no(&self) -> SettleNo {
        self.floor.map_or(SettleNo::default(), |(floor, _)| floor)
    }

    /// Live bytes of all that a step may change.
    fn live_bytes_of(&self, step: &Step) -> u64 {
        let message = |seq: Seq| self.messages.get(&seq).map_or(0, |at| u64::from(at.bytes));
        let receipts = || self.receipts.len() * RECEIPT_RECORD_BYTES as u64;
        match step {
            Step::Message { seq, .. } | Step::Forget { seq } => message(*seq),
            Step::Attempt { .. } => 0,
            Step::Settle { seq, .. } => message(*seq) + receipts(),
            Step::Receipt { .. } => receipts(),
            Step::Floor { .. } => receipts() + self.floor.map_or(0, |(_, at)| u64::from(at.bytes)),
            Step::Cursor { source, .. } => self.cursors.get(source).map_or(0, |(_, at)| u64::from(at.bytes)),
        }
    }

    fn apply(&mut self, step: Step, at: Location) {
        match step {
            Step::Message { seq, state } => {
                self.messages.insert(seq, at);
                self.set_state(seq, state);
            }
            Step::Attempt {
                seq,
                attempts,
                not_before,
            } => self.change_state(seq, |state| {
                state.attempts = attempts;
                state.not_before = not_before;
            }),
            Step::Settle { settle_no, seq, keep } => {
                match keep {
                    Keep::Nothing => self.remove(seq),
                    keep => self.change_state(seq, |state| state.keep = keep),
                }
                self.add_receipt(settle_no);
            }
            Step::Receipt { settle_no } => self.add_receipt(settle_no),
            Step::Forget { seq } => self.remove(seq),
            Step::Floor { settle_no } => {
                if settle_no >= self.floor_no() {
                    self.floor = Some((settle_no, at));
                    self.receipts.remove_below(settle_no.raw());
                }
            }
            Step::Cursor { source, upto } => match self.cursors.get(&source) {
                Some((latest, _)) if *latest > upto => {}
                _ => {
                    self.cursors.insert(source, (upto, at));
                }
            },
        }
    }

    fn add_receipt(&mut self, settle_no: SettleNo) {
        if settle_no >= self.floor_no() {
            self.receipts.insert(settle_no.raw());
        }
    }

    fn remove(&mut self, seq: Seq) {
        self.messages.remove(&seq);
        self.states.remove(&seq);
        // Queues that were once long must not hold their memory for ever.
        if self.messages.capacity() > 1024 && self.messages.len() * 8 < self.messages.capacity() {
            self.messages.shrink_to(self.messages.len() * 2);
        }
    }

    fn set_state(&mut self, seq: Seq, state: State) {
        if state == State::FRESH {
            self.states.remove(&seq);
        } else {
            self.states.insert(seq, state);
        }
    }

    fn change_state(&mut self, seq: Seq, change: impl FnOnce(&mut State)) {
        if !self.messages.contains_key(&seq) {
            return;
        }
        let state = match self.states.entry(seq) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(State::FRESH),
        };
        change(state);
    }
}

/// A set of numbers that mostly follow each other, as runs: first to last.
#[derive(Debug, Default)]
struct Runs {
    runs: BTreeMap<u64, u64>,
    len: u64,
}

impl Runs {
    fn len(&self) -> u64 {
        self.len
    }

    fn insert(&mut self, number: u64) {
        let before = self
            .runs
            .range(..=number)
            .next_back()
            .map(|(first, last)| (*first, *last));
        let first = match before {
            Some((_, last)) if last >= number => return,
            Some((first, last)) if last + 1 == number => first,
            _ => number,
        };
        let last = number
            .checked_add(1)
            .and_then(|next| self.runs.remove(&next))
            .unwrap_or(number);
        self.runs.insert(first, last);
        self.len += 1;
    }

    fn remove_below(&mut self, floor: u64) {
        while let Some(entry) = self.runs.first_entry() {
            let (first, last) = (*entry.key(), *entry.get());
            if first >= floor {
                return;
            }
            entry.remove();
            if last >= floor {
                self.runs.insert(floor, last);
                self.len -= floor - first;
                return;
            }
            self.len -= last - first + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_count_as_a_set_does(steps in proptest::collection::vec((0u64..64, any::<bool>()), 0..200)) {
            let (mut runs, mut set) = (Runs::default(), BTreeSet::new());
            for (number, is_insert) in steps {
                if is_insert {
                    runs.insert(number);
                    set.insert(number);
                } else {
                    runs.remove_below(number / 2);
                    set = set.split_off(&(number / 2));
                }
                prop_assert_eq!(runs.len(), set.len() as u64);
            }
        }
    }

    fn at(offset: u32) -> Location {
        Location {
            generation: 1,
            offset,
            bytes: 100,
        }
    }

    #[test]
    fn only_the_record_that_the_index_points_to_is_moved_and_with_its_state_of_now() {
        let (mut index, shard, seq) = (Index::default(), ShardId::of_hash(7), Seq::from_raw(5));
        let message = Step::Message {
            seq,
            state: State::FRESH,
        };
        index.apply(shard, message, at(10));
        let not_before = Timestamp::from_millis(9);
        let attempt = Step::Attempt {
            seq,
            attempts: 2,
            not_before,
        };
        index.apply(shard, attempt, at(20));
        let state = State {
            attempts: 2,
            not_before,
            keep: Keep::Nothing,
        };
        assert_eq!(index.fate(shard, message, at(10)), Fate::Move(state));
        assert_eq!(index.fate(shard, attempt, at(20)), Fate::Drop);
        index.apply(shard, Step::Message { seq, state }, at(30));
        assert_eq!(index.fate(shard, message, at(10)), Fate::Drop);
        assert_eq!((index.messages(), index.live_bytes()), (1, 100));
        index.apply(shard, Step::Forget { seq }, at(40));
        assert_eq!(index.fate(shard, message, at(30)), Fate::Drop);
        assert_eq!((index.messages(), index.live_bytes()), (0, 0));
    }
}
