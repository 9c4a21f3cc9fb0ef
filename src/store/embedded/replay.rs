//! What a log's groups say, taken into an index and books: recovery's work on bytes that were read.
//!
//! A segment's groups are first checked in order, checksum and chain; then their records are applied, by several
//! threads at once, each for shards of its own: records of different shards do not know of each other. Knows nothing
//! of files. Start at [`Replay::read`].

use std::{io, num::NonZero, sync::Arc, thread};

use hashbrown::HashMap;

use super::{
    index::{Index, Location, Step},
    layout::{DATA_AT, Fault, Group},
    record::{Change, RawRecords, Record},
    segments::Segment,
};
use crate::{
    frame::{Address, ShardId, limits::SHARDS},
    store::book::Book,
};

/// Threads that apply records, at most; there are no more than processors.
const PARTS_MAX: usize = 8;
/// Below so many bytes of groups one thread applies them: to start another takes as long.
const PARALLEL_BYTES_MIN: usize = 256 * 1024;
/// Addresses that a thread shares between messages; beyond it starts anew, so that memory stays bounded.
const ADDRESSES_SHARED_MAX: usize = 65_536;

/// Where reading a segment ended.
#[derive(Debug)]
pub(super) struct Stop {
    /// From the start of the data.
    pub(super) at: u32,
    /// The checksum of the last group that was read.
    pub(super) chain: u64,
    pub(super) fault: Option<Fault>,
    /// The group is whole, but a record in it is not: never the work of a torn write.
    pub(super) is_inside_group: bool,
}

/// Builds index and books from records.
#[derive(Debug)]
pub(super) struct Replay {
    parts: Vec<Part>,
}

/// The shards of one thread: one in so many.
#[derive(Debug)]
struct Part {
    number: usize,
    of: usize,
    index: Index,
    books: Books,
    shared: Shared,
}

/// What messages have in common, so that none has a copy.
#[derive(Debug, Default)]
pub(super) struct Shared {
    addresses: HashMap<Box<str>, Address>,
    no_targets: Arc<[Address]>,
}

/// A fault inside the group that starts there.
type Inside = (u32, Fault);

impl Replay {
    pub(super) fn new() -> Self {
        let of = thread::available_parallelism().map_or(1, NonZero::get).min(PARTS_MAX);
        let part = |number| Part {
            number,
            of,
            index: Index::default(),
            books: Books::all(),
            shared: Shared::default(),
        };
        Self {
            parts: (0..of).map(part).collect(),
        }
    }

    /// Reads groups until the data ends or one does not parse. An error is that a thread could not be started.
    pub(super) fn read(&mut self, segment: &Segment, data: &[u8]) -> io::Result<Stop> {
        let (groups, mut stop) = check(segment, data);
        if let Err((at, fault)) = self.apply(segment.generation(), &groups)? {
            stop.at = at - DATA_AT;
            stop.fault = Some(fault);
            stop.is_inside_group = true;
        }
        Ok(stop)
    }

    fn apply(&mut self, generation: u64, groups: &[(u32, Group<'_>)]) -> io::Result<Result<(), Inside>> {
        let bytes: usize = groups.iter().map(|(_, group)| group.bytes).sum();
        if bytes < PARALLEL_BYTES_MIN {
            let outcomes = self.parts.iter_mut().map(|part| part.apply(generation, groups));
            return Ok(first_fault(outcomes.collect()));
        }
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for part in &mut self.parts {
                let apply = move || part.apply(generation, groups);
                threads.push(
                    thread::Builder::new()
                        .name("weft-log-open".into())
                        .spawn_scoped(scope, apply)?,
                );
            }
            let joined = threads.into_iter().map(|thread| match thread.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            Ok(first_fault(joined.collect()))
        })
    }

    /// All that was read.
    pub(super) fn into_parts(self) -> (Index, Books) {
        let (mut index, mut books) = (Index::default(), Books::all());
        for part in self.parts {
            let is_own = |shard: usize| shard % part.of == part.number;
            index.absorb(part.index, is_own);
            for (shard, book) in part.books.0.into_iter().enumerate() {
                if is_own(shard) {
                    books.0[shard] = book;
                }
            }
        }
        (index, books)
    }
}

fn first_fault(outcomes: Vec<Result<(), Inside>>) -> Result<(), Inside> {
    let faults = outcomes.into_iter().filter_map(Result::err);
    faults.min_by_key(|(at, _)| *at).map_or(Ok(()), Err)
}

/// The groups that continue each other from the start, each with its offset in the file.
fn check<'a>(segment: &Segment, data: &'a [u8]) -> (Vec<(u32, Group<'a>)>, Stop) {
    let mut groups = Vec::new();
    let mut stop = Stop {
        at: 0,
        chain: segment.header.first_chain(),
        fault: None,
        is_inside_group: false,
    };
    while (stop.at as usize) < data.len() {
        match next_group(&data[stop.at as usize..], segment, stop.chain) {
            Ok(group) => {
                groups.push((DATA_AT + stop.at, group));
                stop.at += u32::try_from(group.bytes).expect("a group lies within a segment, which is below 4 GiB");
                stop.chain = group.checksum;
            }
            Err(fault) => {
                stop.fault = Some(fault);
                break;
            }
        }
    }
    (groups, stop)
}

impl Part {
    /// Applies the records of its own shards. What a thread has applied when it meets a fault is never used.
    fn apply(&mut self, generation: u64, groups: &[(u32, Group<'_>)]) -> Result<(), Inside> {
        for (at, group) in groups {
            self.apply_group(generation, *at, group).map_err(|fault| (*at, fault))?;
        }
        Ok(())
    }

    fn apply_group(&mut self, generation: u64, at: u32, group: &Group<'_>) -> Result<(), Fault> {
        let mut count = 0;
        for raw in RawRecords::of(group.payload) {
            let (offset, shard, bytes) = raw?;
            count += 1;
            if shard.index() % self.of != self.number {
                continue;
            }
            let (record, _) = Record::split(bytes)?;
            let location = locate(generation, at, offset, &record);
            self.index.apply(shard, Step::from(&record.change), location);
            self.books.apply(&record, &mut self.shared);
        }
        if count == group.records {
            Ok(())
        } else {
            Err(Fault::Length)
        }
    }
}

/// The group at the front, which must continue the chain.
pub(super) fn next_group<'a>(data: &'a [u8], segment: &Segment, chain: u64) -> Result<Group<'a>, Fault> {
    let group = Group::parse(data, segment.header.generation, segment.header.salt)?;
    if group.chain == chain {
        Ok(group)
    } else {
        Err(Fault::Chain)
    }
}

/// Where a record stands that is `offset` bytes into the group at `at`.
pub(super) fn locate(generation: u64, at: u32, offset: usize, record: &Record<'_>) -> Location {
    let below = "a record lies within a segment, which is below 4 GiB";
    Location {
        generation,
        offset: at + u32::try_from(offset).expect(below),
        bytes: u32::try_from(record.bytes.len()).expect(below),
    }
}

/// What recovery knows of the shards until their owners ask for it.
#[derive(Debug)]
pub(super) struct Books(Vec<Option<Book>>);

impl Books {
    pub(super) fn all() -> Self {
        Self((0..SHARDS).map(|_| Some(Book::default())).collect())
    }

    pub(super) fn only(shard: ShardId) -> Self {
        let mut books = Self((0..SHARDS).map(|_| None).collect());
        books.0[shard.index()] = Some(Book::default());
        books
    }

    /// Hands over a shard's book. `None` once it was handed over, or is out of date.
    pub(super) fn take(&mut self, shard: ShardId) -> Option<Book> {
        self.0[shard.index()].take()
    }

    pub(super) fn apply(&mut self, record: &Record<'_>, shared: &mut Shared) {
        let Some(book) = &mut self.0[record.shard.index()] else {
            return;
        };
        match record.change {
            Change::Message(ref message) => {
                let no_targets = Arc::clone(&shared.no_targets);
                book.message(message.describe(|text| shared.address(text), no_targets));
            }
            Change::Attempt {
                seq,
                attempts,
                not_before,
            } => book.attempt(seq, attempts, not_before),
            Change::Settle {
                settle_no,
                receipt,
                keep,
            } => book.settle(settle_no, receipt, keep),
            Change::Receipt { settle_no, receipt } => book.receipt(settle_no, receipt),
            Change::Forget { seq } => book.forget(seq),
            Change::Floor { settle_no } => book.raise_floor(settle_no),
            Change::Cursor { source, upto } => book.cursor(source, upto),
        }
    }
}

impl Shared {
    fn address(&mut self, text: &str) -> Address {
        if let Some(address) = self.addresses.get(text) {
            return address.clone();
        }
        if self.addresses.len() >= ADDRESSES_SHARED_MAX {
            self.addresses.clear();
        }
        let address = Address::from_trusted(text);
        self.addresses.insert(text.into(), address.clone());
        address
    }
}
