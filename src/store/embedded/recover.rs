//! Reading a log back: which files count, every group and record of them, and where the torn tail begins.
//!
//! What is written last may be torn; nothing else may be wrong. A generation's header is written only once all of the
//! generation before is on stable storage, and states where that ended: so every generation but the newest must parse
//! exactly up to there. In the newest, the first group that does not parse ends the log, unless a group behind it
//! says that this spot was on stable storage when it was written: then it is damage, and the store does not open.
//! (Damage to the very last group before a crash cannot be told from a torn write; a store that was closed ends with
//! an empty group that vouches for all others.) Start at [`recover`].

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
};

use thiserror::Error;

use super::{
    disk::{Disk, DiskFile},
    index::{Index, Location, Step},
    layout::{DATA_AT, Fault, GROUP_ALIGN, GROUP_HEAD_BYTES, Group, HEADER_BYTES, HEADERS_AT, Header},
    random_u64,
    record::{Change, Record},
    segments::{FreeFile, LogFile, Segment, Segments, write_header},
};
use crate::{
    frame::{Address, ShardId, limits::SHARDS, record::ShardImage},
    store::book::Book,
};

/// Addresses that a scan shares between messages; beyond it starts anew, so that memory stays bounded.
const ADDRESSES_SHARED_MAX: usize = 65_536;

/// Why a log cannot be read back.
#[derive(Debug, Error)]
pub(super) enum RecoverError {
    #[error("{file}: {error}")]
    Io { file: String, error: io::Error },
    #[error("{file} at byte {offset}: {what}")]
    Damaged { file: String, offset: u64, what: String },
    #[error("the log has no segments")]
    Missing,
}

/// Whether a log must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// A store that is made now, or whose making was cut short.
    MaybeNothing,
    /// A store that was made before.
    Log,
}

/// A log that was read back.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) books: Books,
    pub(super) segments: Segments,
    pub(super) tail: Tail,
}

/// Where the log goes on.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    pub(super) segment: Arc<Segment>,
    pub(super) end: u32,
    pub(super) chain: u64,
}

/// Sizes of a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Of a new log; an existing one keeps its own.
    pub(super) segment_bytes: u32,
    pub(super) max_bytes: u64,
}

impl Sizes {
    fn segments_max(&self, segment_bytes: u32) -> usize {
        usize::try_from(self.max_bytes / u64::from(segment_bytes)).unwrap_or(usize::MAX)
    }
}

/// Reads the whole log and makes it durable as read.
pub(super) fn recover(disk: &dyn Disk, sizes: Sizes, expect: Expect) -> Result<Recovered, RecoverError> {
    let mut survey = Survey::of(disk)?;
    let Some(newest) = survey.held.values().next_back().map(|file| file.header) else {
        return match expect {
            Expect::MaybeNothing => begin(disk, sizes, survey),
            Expect::Log => Err(RecoverError::Missing),
        };
    };
    let counting = survey.held.split_off(&newest.oldest);
    let mut segments = Segments::new(
        newest.segment_bytes,
        sizes.segments_max(newest.segment_bytes),
        survey.next_slot,
    );
    for file in survey.held.into_values() {
        segments.add_free(file.into_free());
    }
    for (slot, file) in survey.blank {
        // A file whose making was cut short may be shorter than it should be.
        match file.bytes() {
            Ok(bytes) if bytes == u64::from(newest.segment_bytes) => segments.add_free(FreeFile {
                file: Arc::new(LogFile::new(slot, file, newest.segment_bytes)),
                next_header: 0,
                held: None,
            }),
            _ => disk.remove(slot).map_err(|error| io_error(disk, slot, error))?,
        }
    }
    let mut replay = Replay::new(Books::all());
    let tail = read_generations(disk, counting, &newest, &mut replay, &mut segments)?;
    let durable = tail.segment.file.own_handle().sync();
    durable.map_err(|error| io_error(disk, tail.segment.slot, error))?;
    tail.segment.reach(tail.end).note_durable();
    Ok(Recovered {
        index: replay.index,
        books: replay.books,
        segments,
        tail,
    })
}

fn io_error(disk: &dyn Disk, slot: u32, error: io::Error) -> RecoverError {
    RecoverError::Io {
        file: disk.name(slot),
        error,
    }
}

fn damaged(disk: &dyn Disk, slot: u32, offset: u64, what: impl Into<String>) -> RecoverError {
    RecoverError::Damaged {
        file: disk.name(slot),
        offset,
        what: what.into(),
    }
}

/// The first generation of a new log. Half-made files of an earlier attempt are dropped.
fn begin(disk: &dyn Disk, sizes: Sizes, survey: Survey) -> Result<Recovered, RecoverError> {
    for (slot, _) in survey.blank {
        disk.remove(slot).map_err(|error| io_error(disk, slot, error))?;
    }
    let segment_bytes = sizes.segment_bytes;
    let mut segments = Segments::new(segment_bytes, sizes.segments_max(segment_bytes), survey.next_slot);
    segments.provide(disk, 1);
    let file = segments.take_free().ok_or_else(|| {
        let error = io::Error::new(io::ErrorKind::StorageFull, segments.shortage());
        io_error(disk, survey.next_slot, error)
    })?;
    let header = Header {
        generation: 1,
        oldest: 1,
        previous_end: 0,
        segment_bytes,
        chain: 0,
        salt: random_u64(),
    };
    let written = write_header(&file, &header).and_then(|()| file.file.own_handle().sync());
    written.map_err(|error| io_error(disk, file.file.slot, error))?;
    let segment = Arc::new(Segment::new(header, file.next_header, file.file));
    segments.add_used(Arc::clone(&segment));
    let tail = Tail {
        segment,
        end: DATA_AT,
        chain: header.first_chain(),
    };
    Ok(Recovered {
        index: Index::default(),
        books: Books::all(),
        segments,
        tail,
    })
}

/// A file with a valid header.
#[derive(Debug)]
struct HeldFile {
    header: Header,
    header_no: usize,
    slot: u32,
    file: Arc<dyn DiskFile>,
}

impl HeldFile {
    fn into_segment(self) -> Segment {
        let file = LogFile::new(self.slot, self.file, self.header.segment_bytes);
        Segment::new(self.header, self.header_no, Arc::new(file))
    }

    fn into_free(self) -> FreeFile {
        let segment = self.into_segment();
        FreeFile {
            next_header: 1 - segment.header_no,
            file: Arc::clone(&segment.file),
            held: Some(Arc::new(segment)),
        }
    }
}

/// Every file of the log, by what its headers say.
#[derive(Debug, Default)]
struct Survey {
    held: BTreeMap<u64, HeldFile>,
    /// Files that never had a whole header.
    blank: Vec<(u32, Arc<dyn DiskFile>)>,
    next_slot: u32,
}

impl Survey {
    fn of(disk: &dyn Disk) -> Result<Self, RecoverError> {
        let mut survey = Self::default();
        let mut slots = disk.slots().map_err(|error| io_error(disk, 0, error))?;
        slots.sort_unstable();
        for slot in slots {
            survey.next_slot = survey.next_slot.max(slot.saturating_add(1));
            let file = disk.open(slot).map_err(|error| io_error(disk, slot, error))?;
            survey.add(disk, slot, file)?;
        }
        Ok(survey)
    }

    fn add(&mut self, disk: &dyn Disk, slot: u32, file: Arc<dyn DiskFile>) -> Result<(), RecoverError> {
        let bytes = file.bytes().map_err(|error| io_error(disk, slot, error))?;
        let mut start = vec![0; DATA_AT as usize + GROUP_HEAD_BYTES];
        let present = usize::try_from(bytes).unwrap_or(usize::MAX).min(start.len());
        file.read_at(&mut start[..present], 0)
            .map_err(|error| io_error(disk, slot, error))?;
        match choose_header(&start).map_err(|(offset, what)| damaged(disk, slot, offset, what))? {
            None => self.blank.push((slot, file)),
            Some(Chosen { header, .. }) if bytes < u64::from(header.segment_bytes) => {
                let what = format!("the file ends here, but its segment has {} bytes", header.segment_bytes);
                return Err(damaged(disk, slot, bytes, what));
            }
            Some(Chosen { header, number, other }) => {
                let held = HeldFile {
                    header,
                    header_no: number,
                    slot,
                    file,
                };
                if other == Other::Damaged {
                    check_first_group(disk, &held)?;
                }
                if let Some(twin) = self.held.insert(header.generation, held) {
                    let what = format!("generation {} is also in {}", header.generation, disk.name(twin.slot));
                    return Err(damaged(disk, slot, 0, what));
                }
            }
        }
        Ok(())
    }
}

/// What the header looks like that does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    OlderOrBlank,
    Damaged,
}

/// The header of a file that counts.
#[derive(Clone, Copy, Debug)]
struct Chosen {
    header: Header,
    number: usize,
    other: Other,
}

/// The header that counts: the valid one of the greater generation. `None` for a file that never had a whole one.
fn choose_header(start: &[u8]) -> Result<Option<Chosen>, (u64, String)> {
    let mut best: Option<(Header, usize)> = None;
    let mut other = Other::OlderOrBlank;
    for (number, at) in HEADERS_AT.into_iter().enumerate() {
        let bytes = &start[at as usize..at as usize + HEADER_BYTES];
        let bytes = bytes.try_into().expect("the slice has a header's length");
        match Header::decode(bytes) {
            Ok(header) if best.is_none_or(|(best, _)| best.generation < header.generation) => {
                best = Some((header, number))
            }
            Ok(_) => {}
            Err(fault @ (Fault::Version(_) | Fault::Key(_))) => return Err((at, fault.to_string())),
            Err(_) if bytes.iter().all(|byte| *byte == 0) => {}
            Err(_) => other = Other::Damaged,
        }
    }
    match best {
        Some((header, number)) => Ok(Some(Chosen { header, number, other })),
        None if start[DATA_AT as usize..].iter().all(|byte| *byte == 0) => Ok(None),
        None => Err((
            0,
            "neither of the segment's headers is whole, but there is data behind them".into(),
        )),
    }
}

/// A damaged second header is that of a generation that was about to begin, or of one that did and lost it. In the
/// first case what the older header speaks of is still there.
fn check_first_group(disk: &dyn Disk, held: &HeldFile) -> Result<(), RecoverError> {
    let mut data = vec![0; (held.header.segment_bytes - DATA_AT) as usize];
    let read = held.file.read_at(&mut data, u64::from(DATA_AT));
    read.map_err(|error| io_error(disk, held.slot, error))?;
    match Group::parse(&data, held.header.generation, held.header.salt) {
        Ok(group) if group.chain == held.header.first_chain() => Ok(()),
        _ => {
            let what = "a header is damaged, and what the other one speaks of was overwritten";
            Err(damaged(disk, held.slot, HEADERS_AT[1 - held.header_no], what))
        }
    }
}

fn read_range(disk: &dyn Disk, segment: &Segment, from: u32, to: u32) -> Result<Vec<u8>, RecoverError> {
    let mut data = vec![0; to.saturating_sub(from) as usize];
    let read = segment.file.read_at(&mut data, u64::from(from));
    read.map_err(|error| io_error(disk, segment.slot, error))?;
    Ok(data)
}

/// Reads `oldest..=newest`, which must all be there, and finds where the log goes on.
fn read_generations(
    disk: &dyn Disk,
    mut counting: BTreeMap<u64, HeldFile>,
    newest: &Header,
    replay: &mut Replay,
    segments: &mut Segments,
) -> Result<Tail, RecoverError> {
    let expected = newest.oldest..=newest.generation;
    if let Some(missing) = expected.clone().find(|generation| !counting.contains_key(generation)) {
        let what = format!("no file holds generation {missing}, which still counts");
        return Err(damaged(disk, 0, 0, what));
    }
    let mut held = counting.remove(&newest.oldest);
    while let Some(file) = held {
        let segment = Arc::new(file.into_segment());
        segments.add_used(Arc::clone(&segment));
        held = counting.pop_first().map(|(_, file)| file);
        match &held {
            None => return read_tail(disk, segment, replay),
            Some(next) => read_whole(disk, &segment, &next.header, replay)?,
        }
    }
    Err(RecoverError::Missing)
}

/// Reads a generation that was complete before the next began.
fn read_whole(disk: &dyn Disk, segment: &Segment, next: &Header, replay: &mut Replay) -> Result<(), RecoverError> {
    let data = read_range(disk, segment, DATA_AT, next.previous_end)?;
    let stop = replay.read(segment, &data);
    if stop.at as usize != data.len() || stop.chain != next.chain {
        let fault = stop.fault.unwrap_or(Fault::Chain);
        let what = format!("a group that was on stable storage cannot be read: {fault}");
        return Err(damaged(disk, segment.slot, u64::from(DATA_AT + stop.at), what));
    }
    segment.set_end(next.previous_end);
    segment.reach(next.previous_end).note_durable();
    Ok(())
}

fn read_tail(disk: &dyn Disk, segment: Arc<Segment>, replay: &mut Replay) -> Result<Tail, RecoverError> {
    let data = read_range(disk, &segment, DATA_AT, segment.header.segment_bytes)?;
    let stop = replay.read(&segment, &data);
    let end = DATA_AT + stop.at;
    let decided = match stop.fault {
        Some(fault) if stop.is_inside_group => Some(fault),
        Some(fault) => vouched_for(&data, stop.at, &segment).then_some(fault),
        None => None,
    };
    if let Some(fault) = decided {
        let what = format!("a group that was on stable storage cannot be read: {fault}");
        return Err(damaged(disk, segment.slot, u64::from(end), what));
    }
    segment.set_end(end);
    Ok(Tail {
        segment,
        end,
        chain: stop.chain,
    })
}

/// True where a group behind the spot says that the spot was on stable storage.
fn vouched_for(data: &[u8], spot: u32, segment: &Segment) -> bool {
    let from = (spot as usize + GROUP_ALIGN).min(data.len());
    (from..data.len()).step_by(GROUP_ALIGN).any(|at| {
        let group = Group::parse(&data[at..], segment.header.generation, segment.header.salt);
        group.is_ok_and(|group| group.durable_upto > DATA_AT + spot)
    })
}

/// Where reading a segment ended.
#[derive(Debug)]
struct Stop {
    /// From the start of the data.
    at: u32,
    /// The checksum of the last group that was read.
    chain: u64,
    fault: Option<Fault>,
    /// The group is whole, but a record in it is not: never the work of a torn write.
    is_inside_group: bool,
}

/// Builds index and books from records.
#[derive(Debug)]
struct Replay {
    index: Index,
    books: Books,
    addresses: HashMap<Box<str>, Address>,
}

impl Replay {
    fn new(books: Books) -> Self {
        Self {
            index: Index::default(),
            books,
            addresses: HashMap::new(),
        }
    }

    /// Reads groups until the data ends or one does not parse.
    fn read(&mut self, segment: &Segment, data: &[u8]) -> Stop {
        let mut stop = Stop {
            at: 0,
            chain: segment.header.first_chain(),
            fault: None,
            is_inside_group: false,
        };
        while (stop.at as usize) < data.len() {
            let group = match next_group(&data[stop.at as usize..], segment, stop.chain) {
                Ok(group) => group,
                Err(fault) => {
                    stop.fault = Some(fault);
                    return stop;
                }
            };
            if let Err(fault) = self.read_group(segment.generation(), DATA_AT + stop.at, &group) {
                stop.fault = Some(fault);
                stop.is_inside_group = true;
                return stop;
            }
            stop.at += u32::try_from(group.bytes).expect("a group lies within a segment, which is below 4 GiB");
            stop.chain = group.checksum;
        }
        stop
    }

    fn read_group(&mut self, generation: u64, at: u32, group: &Group<'_>) -> Result<(), Fault> {
        // Twice over the records: nothing of a group is taken before all of it is understood.
        let count = group
            .records()
            .try_fold(0, |count: u32, record| record.map(|_| count + 1))?;
        if count != group.records {
            return Err(Fault::Length);
        }
        for record in group.records() {
            let (offset, record) = record?;
            let location = locate(generation, at, offset, &record);
            self.index.apply(record.shard, Step::from(&record.change), location);
            self.books.apply(&record, &mut self.addresses);
        }
        Ok(())
    }
}

fn next_group<'a>(data: &'a [u8], segment: &Segment, chain: u64) -> Result<Group<'a>, Fault> {
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
    fn all() -> Self {
        Self((0..SHARDS).map(|_| Some(Book::default())).collect())
    }

    fn only(shard: ShardId) -> Self {
        let mut books = Self((0..SHARDS).map(|_| None).collect());
        books.0[shard.index()] = Some(Book::default());
        books
    }

    /// Hands over a shard's book. `None` once it was handed over, or is out of date.
    pub(super) fn take(&mut self, shard: ShardId) -> Option<Book> {
        self.0[shard.index()].take()
    }

    fn apply(&mut self, record: &Record<'_>, addresses: &mut HashMap<Box<str>, Address>) {
        let Some(book) = &mut self.0[record.shard.index()] else {
            return;
        };
        match record.change {
            Change::Message(ref message) => book.message(message.describe(|text| share(addresses, text))),
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

fn share(addresses: &mut HashMap<Box<str>, Address>, text: &str) -> Address {
    if let Some(address) = addresses.get(text) {
        return address.clone();
    }
    if addresses.len() >= ADDRESSES_SHARED_MAX {
        addresses.clear();
    }
    let address = Address::from_trusted(text);
    addresses.insert(text.into(), address.clone());
    address
}

/// The log as it was at one moment: every generation in use and where it ended. While it is held, none of them is
/// reused.
pub(super) type Snapshot = Vec<(Arc<Segment>, u32)>;

/// Reads one shard's image out of a snapshot.
pub(super) fn load(disk: &dyn Disk, snapshot: &Snapshot, shard: ShardId) -> Result<ShardImage, RecoverError> {
    let mut books = Books::only(shard);
    let mut addresses = HashMap::new();
    for (segment, end) in snapshot {
        let data = read_range(disk, segment, DATA_AT, *end)?;
        let mut at = 0;
        let mut chain = segment.header.first_chain();
        while at < data.len() {
            let fail = |fault: Fault| damaged(disk, segment.slot, u64::from(DATA_AT) + at as u64, fault.to_string());
            let group = next_group(&data[at..], segment, chain).map_err(fail)?;
            for record in group.records() {
                books.apply(&record.map_err(fail)?.1, &mut addresses);
            }
            at += group.bytes;
            chain = group.checksum;
        }
    }
    Ok(books.take(shard).map(Book::into_image).unwrap_or_default())
}
