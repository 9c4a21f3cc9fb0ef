//! The log's writing end: fences and room are checked, operations become groups, segments follow each other, old ones
//! are cleaned.
//!
//! One thread owns a [`Log`]; nothing here waits for anything but the disk. What is appended is in a buffer until
//! [`Log::flush`] writes it as one group; it is durable once the segment was synced after that.
//!
//! Cleaning frees segments strictly oldest first, so that no settle is gone before the message that it settles. What
//! still counts of the oldest segment is copied to the end, and the file may be reused once that is durable. A log of
//! more than four times its live bytes is cleaned, so a byte is copied 1.33 times at most on average. Nearly full,
//! cleaning goes on as long as it can win half a segment; messages are refused beyond three quarters of the room, and
//! before the last two free segments are touched: one is for operations that free space, one for cleaning itself.

use std::{io, sync::Arc};

use bytes::BytesMut;
use flume::Sender;

use super::{
    disk::{Disk, DiskFile},
    fill::AHEAD_BYTES,
    index::{Fate, Location, Step},
    layout::{DATA_AT, GROUP_HEAD_BYTES, Group, GroupPlace, Header, claimed_group_bytes, group_bytes, seal_group},
    random_u64,
    record::{Change, encode_moved, encode_op, encode_receipt, record_bytes},
    recover::{Snapshot, Tail},
    replay::locate,
    segments::{RESERVE_SEGMENTS, Reach, Segment, write_header},
    shared::Shared,
    writer::LANES,
};
use crate::{
    frame::{ShardId, record::Op},
    router::port::{ShardCommit, StoreError},
    store::lock,
};

/// A group is written once it has this many bytes, however much more waits: 8 MiB, a few milliseconds of a fast disk.
pub(super) const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Segments that a log may have before it is cleaned, however little of it counts.
const SLACK_SEGMENTS: u64 = 4;
/// The log may be this many times its live bytes.
const LIVE_FACTOR: u64 = 4;
/// Of the room that messages may have, the part they may fill: the rest is what keeps cleaning cheap.
const LIVE_QUARTERS_MAX: u64 = 3;
/// Bytes of the oldest segment that are looked at before commits get their turn; more where commits write more.
const CLEAN_STEP_BYTES: u64 = 1024 * 1024;

/// Bytes between two words to the thread that fills ahead: often enough that it is never overtaken for want of one.
const TELL_BYTES: u32 = AHEAD_BYTES / 8;

/// Why a new segment is wanted, which decides how many free ones must be left over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Messages enter.
    Growing,
    /// Only operations that free space, now or later.
    Freeing,
    Cleaning,
}

impl Purpose {
    fn of(ops: &[Op]) -> Self {
        if ops.iter().any(|op| matches!(op, Op::Enqueue(_))) {
            Self::Growing
        } else {
            Self::Freeing
        }
    }

    /// Free segments that must be left.
    fn reserve(self) -> usize {
        match self {
            Self::Growing => RESERVE_SEGMENTS,
            Self::Freeing => RESERVE_SEGMENTS - 1,
            Self::Cleaning => 0,
        }
    }
}

/// What a step of cleaning came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cleaned {
    /// It went on.
    Some,
    /// There is nothing to do, or no room to do it.
    Nothing,
}

/// The writing end.
#[derive(Debug)]
pub(super) struct Log {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    active: Arc<Segment>,
    /// A handle of the active file for each lane. The system tells each handle of a failed sync once: had the lanes
    /// one in common, one could take the other's error.
    handles: [Arc<dyn DiskFile>; LANES],
    /// Where the next group goes.
    at: u32,
    chain: u64,
    /// The group in the making: room for its head, then records.
    buffer: BytesMut,
    /// What the index is told of the records in the buffer once they are written. Offsets are from the group's start.
    steps: Vec<(ShardId, Step, usize, usize)>,
    cleaner: Option<Cleaner>,
    /// Bytes that commits appended since cleaning last had its turn.
    appended: u64,
    /// Segments that were freed since a commit was appended.
    freed_since_append: u64,
    is_cleaning_broken: bool,
    /// Bytes written since [`Log::take_flushed`].
    flushed: usize,
    /// Tells the filler that the log went on.
    filler: Sender<()>,
    /// Where it is told next.
    told_at: u32,
}

/// How far the oldest segment is cleaned.
#[derive(Debug)]
struct Cleaner {
    segment: Arc<Segment>,
    at: u32,
}

impl Log {
    /// Goes on where recovery found the end. Opens the active file's further handles.
    pub(super) fn new(shared: Arc<Shared>, disk: Arc<dyn Disk>, tail: Tail, filler: Sender<()>) -> io::Result<Self> {
        let mut log = Self {
            handles: open_handles(&*disk, tail.segment.slot)?,
            shared,
            disk,
            active: tail.segment,
            at: tail.end,
            chain: tail.chain,
            buffer: BytesMut::new(),
            steps: Vec::new(),
            cleaner: None,
            appended: 0,
            freed_since_append: 0,
            is_cleaning_broken: false,
            flushed: 0,
            filler,
            told_at: 0,
        };
        log.empty_buffer();
        Ok(log)
    }

    /// A lane's handle of the segment that takes writes.
    pub(super) fn handle(&self, lane: usize) -> Arc<dyn DiskFile> {
        Arc::clone(&self.handles[lane])
    }

    /// Bytes written since this was last asked.
    pub(super) fn take_flushed(&mut self) -> usize {
        std::mem::take(&mut self.flushed)
    }

    /// All that is written of the segment that takes writes.
    pub(super) fn reach(&self) -> Reach {
        self.active.reach(self.at)
    }

    /// Bytes that wait in the buffer.
    pub(super) fn buffered(&self) -> usize {
        self.buffer.len() - GROUP_HEAD_BYTES
    }

    /// Appends the operations of one shard, all or none.
    pub(super) fn append(&mut self, commit: &ShardCommit) -> Result<(), StoreError> {
        let payload: usize = commit.ops.iter().map(record_bytes).sum();
        self.shared.health.check()?;
        self.shared.check_owner(commit.shard, commit.fence)?;
        if payload == 0 {
            return Ok(());
        }
        let purpose = Purpose::of(&commit.ops);
        self.check_room(payload, purpose)?;
        self.make_room(payload, purpose)?;
        for op in &commit.ops {
            let start = self.buffer.len();
            encode_op(op, commit.shard, &mut self.buffer);
            let bytes = self.buffer.len() - start;
            self.steps.push((commit.shard, Step::from(op), start, bytes));
        }
        self.appended += payload as u64;
        self.freed_since_append = 0;
        Ok(())
    }

    fn check_room(&self, payload: usize, purpose: Purpose) -> Result<(), StoreError> {
        let full = |what: String| Err(StoreError::Full { what });
        let room = self.segment_bytes() - DATA_AT as usize;
        if group_bytes(payload) > room {
            return full(format!(
                "one commit of {payload} bytes to a shard exceeds a log segment of {room} bytes"
            ));
        }
        if purpose != Purpose::Growing {
            return Ok(());
        }
        let mut segments = lock(&self.shared.segments);
        if !segments.provide(&*self.disk, RESERVE_SEGMENTS) {
            return full(segments.shortage());
        }
        let capacity = segments.capacity().saturating_sub(RESERVE_SEGMENTS) as u64 * room as u64;
        drop(segments);
        let live = lock(&self.shared.index).live_bytes() + (self.buffered() + payload) as u64;
        if live > capacity / 4 * LIVE_QUARTERS_MAX {
            return full(format!(
                "messages and receipts take {live} bytes of a log that has {capacity}"
            ));
        }
        Ok(())
    }

    fn segment_bytes(&self) -> usize {
        self.active.header.segment_bytes as usize
    }

    /// Sees to it that `payload` more bytes fit into the group in the making.
    fn make_room(&mut self, payload: usize, purpose: Purpose) -> Result<(), StoreError> {
        if self.buffered() + payload > GROUP_BYTES_MAX {
            self.flush()?;
        }
        if self.at as usize + group_bytes(self.buffered() + payload) > self.segment_bytes() {
            self.flush()?;
        }
        if self.at as usize + group_bytes(self.buffered() + payload) > self.segment_bytes() {
            self.roll(purpose)?;
        }
        Ok(())
    }

    /// Writes what is in the buffer as one group, and tells the index.
    pub(super) fn flush(&mut self) -> Result<(), StoreError> {
        if self.steps.is_empty() {
            return Ok(());
        }
        let written = self.write_group();
        if written.is_ok() {
            let generation = self.active.generation();
            let below = "a record lies within a segment, which is below 4 GiB";
            let mut index = lock(&self.shared.index);
            let start = self.at - self.group_written();
            for (shard, step, offset, bytes) in self.steps.drain(..) {
                let location = Location {
                    generation,
                    offset: start + u32::try_from(offset).expect(below),
                    bytes: u32::try_from(bytes).expect(below),
                };
                index.apply(shard, step, location);
            }
        }
        self.empty_buffer();
        written
    }

    fn group_written(&self) -> u32 {
        u32::try_from(self.buffer.len()).expect("a group lies within a segment, which is below 4 GiB")
    }

    fn write_group(&mut self) -> Result<(), StoreError> {
        self.shared.health.check()?;
        let place = GroupPlace {
            generation: self.active.generation(),
            salt: self.active.header.salt,
            chain: self.chain,
            durable_upto: self.active.durable_upto(),
        };
        let records = u32::try_from(self.steps.len()).expect("records of a group, which is below 4 GiB");
        let checksum = seal_group(&mut self.buffer, &place, records);
        if let Err(error) = self.active.file.write_at(&self.buffer, u64::from(self.at)) {
            return Err(self.shared.health.fail(format!(
                "a write to {} failed: {error}",
                self.disk.name(self.active.slot)
            )));
        }
        self.chain = checksum;
        self.at += self.group_written();
        self.active.set_end(self.at);
        self.flushed += self.buffer.len();
        self.shared.counters.written(self.buffer.len());
        if self.at >= self.told_at {
            self.told_at = self.at.saturating_add(TELL_BYTES);
            // Where it is told already, it will see this too.
            let _ = self.filler.try_send(());
        }
        Ok(())
    }

    fn empty_buffer(&mut self) {
        self.steps.clear();
        self.buffer.clear();
        // One oversized commit must not hold its memory for ever.
        if self.buffer.capacity() > 2 * GROUP_BYTES_MAX {
            self.buffer = BytesMut::new();
        }
        self.buffer.resize(GROUP_HEAD_BYTES, 0);
    }

    /// Makes all that was flushed durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let reach = self.active.reach(self.at);
        self.shared.sync(&reach, self.active.file.own_handle(), &*self.disk)
    }

    /// Goes on in a new segment. All of the old one is durable before the new one's header exists.
    fn roll(&mut self, purpose: Purpose) -> Result<(), StoreError> {
        let file = {
            let mut segments = lock(&self.shared.segments);
            if !segments.provide(&*self.disk, purpose.reserve() + 1) && segments.available() <= purpose.reserve() {
                let what = segments.shortage();
                return Err(StoreError::Full { what });
            }
            let what = segments.shortage();
            segments.take_free().ok_or(StoreError::Full { what })?
        };
        let handles = match open_handles(&*self.disk, file.file.slot) {
            Ok(handles) => handles,
            Err(error) => {
                let what = format!("{} cannot be opened: {error}", self.disk.name(file.file.slot));
                lock(&self.shared.segments).add_free(file);
                return Err(StoreError::Full { what });
            }
        };
        self.sync()?;
        let header = Header {
            generation: self.active.generation() + 1,
            oldest: lock(&self.shared.segments)
                .oldest()
                .map_or(self.active.generation(), |oldest| oldest.generation()),
            previous_end: self.at,
            segment_bytes: self.active.header.segment_bytes,
            chain: self.chain,
            salt: random_u64(),
        };
        let written = write_header(&file, &header);
        written.map_err(|error| {
            self.shared
                .health
                .fail(format!("{}: {error}", self.disk.name(file.file.slot)))
        })?;
        let segment = Arc::new(Segment::new(header, file.next_header, file.file));
        let reach = segment.reach(DATA_AT);
        self.shared.sync(&reach, segment.file.own_handle(), &*self.disk)?;
        self.active = Arc::clone(&segment);
        self.handles = handles;
        (self.at, self.told_at) = (DATA_AT, 0);
        self.chain = header.first_chain();
        let mut segments = lock(&self.shared.segments);
        segments.add_used(segment);
        segments.trim(&*self.disk, header.oldest);
        Ok(())
    }

    /// What a scan of the whole log reads, up to everything appended so far.
    pub(super) fn snapshot(&mut self) -> Result<Snapshot, StoreError> {
        self.flush()?;
        let segments = lock(&self.shared.segments);
        Ok(segments
            .used()
            .map(|segment| (Arc::clone(segment), segment.end()))
            .collect())
    }

    /// Ends the log so that the next start can tell damage from a torn write: an empty group says that all before it
    /// is durable.
    pub(super) fn close(&mut self) -> Result<(), StoreError> {
        self.flush()?;
        self.sync()?;
        if self.at as usize + group_bytes(0) <= self.segment_bytes() {
            self.write_group()?;
            self.empty_buffer();
            self.sync()?;
        }
        Ok(())
    }

    /// Whether cleaning has something to do. Between two commits it goes over the log once at most: what that does
    /// not win, the next time would not either.
    pub(super) fn wants_cleaning(&self) -> bool {
        let (used, written, available, can_grow) = {
            let segments = lock(&self.shared.segments);
            let written: u64 = segments.used().map(|segment| u64::from(segment.end() - DATA_AT)).sum();
            (
                segments.used().len() as u64,
                written,
                segments.available(),
                segments.can_grow(),
            )
        };
        if self.is_cleaning_broken || self.freed_since_append > used {
            return false;
        }
        let live = lock(&self.shared.index).live_bytes();
        let segment_bytes = self.segment_bytes() as u64;
        if used * segment_bytes > (SLACK_SEGMENTS * segment_bytes).max(LIVE_FACTOR * live) {
            return true;
        }
        let half = (segment_bytes - u64::from(DATA_AT)) / 2;
        let has_garbage = written.saturating_sub(live) >= half;
        // Where the reserve is not whole no message is taken: then it is worth it to press segments together that are
        // not full.
        let can_press = available < RESERVE_SEGMENTS && used > live.div_ceil(half) + 1;
        !can_grow && available <= RESERVE_SEGMENTS && (has_garbage || can_press)
    }

    /// One turn of cleaning, before commits are taken: at least as fast as commits fill the log, and until the last
    /// segment is not in use where it is. An error is a failed disk.
    pub(super) fn clean(&mut self) -> Result<Cleaned, StoreError> {
        lock(&self.shared.segments).allow_retry();
        let budget = CLEAN_STEP_BYTES.max(2 * std::mem::take(&mut self.appended));
        let mut looked_at = 0;
        while self.cleaner.is_some() || self.wants_cleaning() {
            if looked_at >= budget && lock(&self.shared.segments).available() > 0 {
                return Ok(Cleaned::Some);
            }
            match self.clean_group() {
                Ok(0) => break,
                Ok(bytes) => looked_at += bytes,
                Err(StoreError::Full { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(if looked_at > 0 { Cleaned::Some } else { Cleaned::Nothing })
    }

    /// Copies what counts of the next group of the oldest segment, or frees the segment behind its last group.
    /// Returns the bytes that were looked at, 0 where nothing can be done.
    fn clean_group(&mut self) -> Result<u64, StoreError> {
        let Some((segment, at)) = self.next_to_clean()? else {
            return Ok(0);
        };
        if at >= segment.end() {
            // The copies need not be durable yet: a free file is reused only by a roll, which syncs all that is
            // before it.
            self.flush()?;
            lock(&self.shared.segments).release(segment.generation());
            self.freed_since_append += 1;
            self.cleaner = None;
            return Ok(GROUP_HEAD_BYTES as u64);
        }
        let data = match read_group(&segment, at) {
            Ok(data) => data,
            Err(what) => {
                tracing::error!(
                    file = self.disk.name(segment.slot),
                    offset = at,
                    what,
                    "cleaning met damage and stopped"
                );
                self.is_cleaning_broken = true;
                self.cleaner = None;
                return Ok(0);
            }
        };
        self.move_live(&segment, at, &data)?;
        let bytes = u32::try_from(data.len()).expect("a group lies within a segment, which is below 4 GiB");
        self.cleaner = Some(Cleaner {
            segment,
            at: at + bytes,
        });
        Ok(u64::from(bytes))
    }

    /// The oldest segment, and how far it is cleaned. Where that is the one that takes writes, another takes its place.
    fn next_to_clean(&mut self) -> Result<Option<(Arc<Segment>, u32)>, StoreError> {
        if self.is_cleaning_broken {
            return Ok(None);
        }
        if let Some(cleaner) = &self.cleaner {
            return Ok(Some((Arc::clone(&cleaner.segment), cleaner.at)));
        }
        let oldest = lock(&self.shared.segments).oldest().map(Arc::clone);
        let Some(oldest) = oldest else {
            return Ok(None);
        };
        if oldest.generation() == self.active.generation() {
            self.flush()?;
            self.roll(Purpose::Cleaning)?;
        }
        Ok(Some((oldest, DATA_AT)))
    }

    /// Appends what counts of a group, as one piece: split over groups it could outgrow the segment that it came from.
    fn move_live(&mut self, segment: &Segment, at: u32, data: &[u8]) -> Result<(), StoreError> {
        let group = Group::parse(data, segment.generation(), segment.header.salt);
        let group = group.expect("the group was just parsed");
        let (mut moved, mut steps) = (BytesMut::new(), Vec::new());
        {
            let index = lock(&self.shared.index);
            for record in group.records() {
                let (offset, record) = record.expect("records of a group that parses were encoded by this module");
                let location = locate(segment.generation(), at, offset, &record);
                let mut step = Step::from(&record.change);
                let start = moved.len();
                match (index.fate(record.shard, step, location), &record.change) {
                    (Fate::Drop, _) => continue,
                    (Fate::Move(state), Change::Message(message)) => {
                        encode_moved(record.bytes, &state, &mut moved);
                        step = Step::Message {
                            seq: message.seq,
                            state,
                        };
                    }
                    (
                        Fate::MoveReceipt,
                        Change::Settle { settle_no, receipt, .. } | Change::Receipt { settle_no, receipt },
                    ) => {
                        encode_receipt(record.shard, *settle_no, receipt, &mut moved);
                        step = Step::Receipt { settle_no: *settle_no };
                    }
                    (Fate::Copy | Fate::Move(_) | Fate::MoveReceipt, _) => moved.extend_from_slice(record.bytes),
                }
                steps.push((record.shard, step, start, moved.len() - start));
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        self.make_room(moved.len(), Purpose::Cleaning)?;
        let base = self.buffer.len();
        self.buffer.extend_from_slice(&moved);
        let steps = steps
            .into_iter()
            .map(|(shard, step, start, bytes)| (shard, step, base + start, bytes));
        self.steps.extend(steps);
        Ok(())
    }
}

fn open_handles(disk: &dyn Disk, slot: u32) -> io::Result<[Arc<dyn DiskFile>; LANES]> {
    Ok([disk.open(slot)?, disk.open(slot)?])
}

/// Reads the group at an offset of a segment and checks it.
fn read_group(segment: &Segment, at: u32) -> Result<Vec<u8>, String> {
    let mut head = [0; GROUP_HEAD_BYTES];
    let read = |into: &mut [u8]| {
        segment
            .file
            .read_at(into, u64::from(at))
            .map_err(|error| error.to_string())
    };
    read(&mut head)?;
    let bytes = claimed_group_bytes(&head);
    if at as usize + bytes > segment.end() as usize {
        return Err("a length is impossible".into());
    }
    let mut data = vec![0; bytes];
    read(&mut data)?;
    let group = Group::parse(&data, segment.generation(), segment.header.salt).map_err(|fault| fault.to_string())?;
    match group.records().find_map(Result::err) {
        None => Ok(data),
        Some(fault) => Err(fault.to_string()),
    }
}
