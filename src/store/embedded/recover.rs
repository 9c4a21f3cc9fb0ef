//! Reading a log back: which files count, every group and record of them, and where the torn tail begins.
//!
//! What is written last may be torn; nothing else may be wrong. A generation's header is written only once all of the
//! generation before is on stable storage, and states where that ended: so every generation but the newest must parse
//! exactly up to there. In the newest, the first group that does not parse ends the log, unless a group behind it
//! says that this spot was on stable storage when it was written: then it is damage, and the store does not open.
//! (Damage to the very last group before a crash cannot be told from a torn write; a store that was closed ends with
//! an empty group that vouches for all others.)
//!
//! Each segment in use is read once, one ahead of the one that is applied, which bounds memory; cleaning bounds how
//! many there are: 4, or those of 4 times the bytes that still count. Start at [`recover`].

use std::{collections::BTreeMap, io, sync::Arc, thread};

use flume::{Receiver, Sender};
use thiserror::Error;

use super::{
    disk::{Disk, DiskFile},
    index::Index,
    layout::{DATA_AT, Fault, GROUP_ALIGN, GROUP_HEAD_BYTES, Group, HEADER_BYTES, HEADERS_AT, Header},
    random_u64,
    replay::{Books, Replay, Shared, next_group},
    segments::{FreeFile, LogFile, Segment, Segments, write_header},
};
use crate::{
    frame::{ShardId, record::ShardImage},
    store::book::Book,
};

/// Segments that recovery holds in memory: the one that is applied, and the one that is read meanwhile.
const BUFFERS: usize = 2;

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
    let mut replay = Replay::new();
    let tail = read_generations(disk, counting, &newest, &mut replay, &mut segments)?;
    let durable = tail.segment.file.own_handle().sync();
    durable.map_err(|error| io_error(disk, tail.segment.slot, error))?;
    tail.segment.reach(tail.end).note_durable();
    let (index, books) = replay.into_parts();
    Ok(Recovered {
        index,
        books,
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

/// Reads from the first group up to an offset. A buffer that is used again costs no new memory: to have the system
/// clear 64 MiB takes longer than to read them.
fn read_groups(disk: &dyn Disk, segment: &Segment, upto: u32, buffer: &mut Vec<u8>) -> Result<(), RecoverError> {
    buffer.resize(upto.saturating_sub(DATA_AT) as usize, 0);
    let read = segment.file.read_at(buffer, u64::from(DATA_AT));
    read.map_err(|error| io_error(disk, segment.slot, error))
}

/// A generation and how far it is read.
type Range = (Arc<Segment>, u32);

/// Reads `oldest..=newest`, which must all be there, and finds where the log goes on.
fn read_generations(
    disk: &dyn Disk,
    counting: BTreeMap<u64, HeldFile>,
    newest: &Header,
    replay: &mut Replay,
    segments: &mut Segments,
) -> Result<Tail, RecoverError> {
    let mut expected = newest.oldest..=newest.generation;
    if let Some(missing) = expected.find(|generation| !counting.contains_key(generation)) {
        let what = format!("no file holds generation {missing}, which still counts");
        return Err(damaged(disk, 0, 0, what));
    }
    let held: Vec<Arc<Segment>> = counting
        .into_values()
        .map(|file| Arc::new(file.into_segment()))
        .collect();
    held.iter().for_each(|segment| segments.add_used(Arc::clone(segment)));
    let ends = held.iter().skip(1).map(|next| next.header.previous_end);
    let ranges: Vec<Range> = held.iter().cloned().zip(ends.chain([newest.segment_bytes])).collect();
    thread::scope(|scope| {
        let (empty_in, empty) = flume::bounded(BUFFERS);
        let (full_in, full) = flume::bounded(0);
        for _ in 0..BUFFERS {
            let _ = empty_in.send(Vec::new());
        }
        let ranges = &ranges;
        // Ends once this side does not want more.
        let read = move || read_ahead(disk, ranges, &empty, &full_in);
        let reader = thread::Builder::new()
            .name("weft-log-open".into())
            .spawn_scoped(scope, read);
        reader.map_err(thread_error)?;
        for next in &held[1..] {
            let (segment, data) = full.recv().unwrap_or(Err(RecoverError::Missing))?;
            read_whole(disk, &segment, &data, &next.header, replay)?;
            let _ = empty_in.send(data);
        }
        let (segment, data) = full.recv().unwrap_or(Err(RecoverError::Missing))?;
        read_tail(disk, segment, &data, replay)
    })
}

fn thread_error(error: io::Error) -> RecoverError {
    let file = "a thread that reads the log".into();
    RecoverError::Io { file, error }
}

type Filled = Result<(Arc<Segment>, Vec<u8>), RecoverError>;

fn read_ahead(disk: &dyn Disk, ranges: &[Range], empty: &Receiver<Vec<u8>>, full: &Sender<Filled>) {
    for (segment, upto) in ranges {
        let Ok(mut buffer) = empty.recv() else { return };
        let read = read_groups(disk, segment, *upto, &mut buffer);
        if full.send(read.map(|()| (Arc::clone(segment), buffer))).is_err() {
            return;
        }
    }
}

/// Takes in a generation that was complete before the next began.
fn read_whole(
    disk: &dyn Disk,
    segment: &Segment,
    data: &[u8],
    next: &Header,
    replay: &mut Replay,
) -> Result<(), RecoverError> {
    let stop = replay.read(segment, data).map_err(thread_error)?;
    if stop.at as usize != data.len() || stop.is_inside_group || stop.chain != next.chain {
        let fault = stop.fault.unwrap_or(Fault::Chain);
        let what = format!("a group that was on stable storage cannot be read: {fault}");
        return Err(damaged(disk, segment.slot, u64::from(DATA_AT + stop.at), what));
    }
    segment.set_end(next.previous_end);
    segment.reach(next.previous_end).note_durable();
    Ok(())
}

fn read_tail(disk: &dyn Disk, segment: Arc<Segment>, data: &[u8], replay: &mut Replay) -> Result<Tail, RecoverError> {
    let stop = replay.read(&segment, data).map_err(thread_error)?;
    let end = DATA_AT + stop.at;
    let decided = match stop.fault {
        Some(fault) if stop.is_inside_group => Some(fault),
        Some(fault) => vouched_for(data, stop.at, &segment).then_some(fault),
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

/// The log as it was at one moment: every generation in use and where it ended. While it is held, none of them is
/// reused.
pub(super) type Snapshot = Vec<(Arc<Segment>, u32)>;

/// Reads one shard's image out of a snapshot.
pub(super) fn load(disk: &dyn Disk, snapshot: &Snapshot, shard: ShardId) -> Result<ShardImage, RecoverError> {
    let mut books = Books::only(shard);
    let (mut shared, mut data) = (Shared::default(), Vec::new());
    for (segment, end) in snapshot {
        read_groups(disk, segment, *end, &mut data)?;
        let mut at = 0;
        let mut chain = segment.header.first_chain();
        while at < data.len() {
            let fail = |fault: Fault| damaged(disk, segment.slot, u64::from(DATA_AT) + at as u64, fault.to_string());
            let group = next_group(&data[at..], segment, chain).map_err(fail)?;
            for record in group.records() {
                books.apply(&record.map_err(fail)?.1, &mut shared);
            }
            at += group.bytes;
            chain = group.checksum;
        }
    }
    Ok(books.take(shard).map(Book::into_image).unwrap_or_default())
}
