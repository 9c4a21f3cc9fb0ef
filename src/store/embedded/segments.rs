//! The log's segments: which files hold which generations, which are free, and how one becomes the next.
//!
//! A [`Segment`] is one generation in one file; reusing the file makes a new one. Knows nothing of records. Start at
//! [`Segments`].

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{
    disk::{Disk, DiskFile},
    layout::{DATA_AT, HEADERS_AT, Header},
};
use crate::store::lock;

/// Free segments that messages may not use up, so that a full store can still settle (one) and clean (one).
pub(super) const RESERVE_SEGMENTS: usize = 2;
/// Free segments kept for reuse beyond half of those in use; more are given back to the disk.
const SPARE_SEGMENTS: usize = RESERVE_SEGMENTS + 2;
/// Files given back at once: each costs a journal commit while a writer waits.
const REMOVALS_MAX: usize = 4;

/// A file of the log, whichever generation uses it.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) slot: u32,
    file: Arc<dyn DiskFile>,
    /// Bytes up to here were written once, or are claimed by a write; what is behind reads as zeros. Held while zeros
    /// are written there, so that none lands on a group.
    filled: Mutex<u32>,
}

impl LogFile {
    pub(super) fn new(slot: u32, file: Arc<dyn DiskFile>, segment_bytes: u32) -> Self {
        let filled = u32::try_from(file.filled()).unwrap_or(u32::MAX);
        Self {
            slot,
            file,
            // The headers are not filled: who takes the file writes them.
            filled: Mutex::new(filled.clamp(DATA_AT, segment_bytes.max(DATA_AT))),
        }
    }

    /// Bytes from the start that were written once.
    pub(super) fn filled(&self) -> u32 {
        *lock(&self.filled)
    }

    /// Writes zeros where nothing was written yet, below `upto`, as many as are given.
    pub(super) fn fill(&self, upto: u32, zeros: &[u8]) -> io::Result<()> {
        let mut filled = lock(&self.filled);
        let zeros = &zeros[..zeros.len().min(upto.saturating_sub(*filled) as usize)];
        self.file.write_at(zeros, u64::from(*filled))?;
        *filled += u32::try_from(zeros.len()).expect("a step lies within a segment, which is below 4 GiB");
        Ok(())
    }

    pub(super) fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(into, offset)
    }

    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        {
            let mut filled = lock(&self.filled);
            *filled = (*filled).max(u32::try_from(end).expect("a write ends within a segment, which is below 4 GiB"));
        }
        self.file.write_at(bytes, offset)
    }

    /// The handle that the log's end itself syncs with.
    pub(super) fn own_handle(&self) -> &dyn DiskFile {
        &*self.file
    }
}

/// One generation of the log in one file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: Header,
    pub(super) slot: u32,
    /// Which of the file's two headers is this generation's.
    pub(super) header_no: usize,
    pub(super) file: Arc<LogFile>,
    /// Bytes up to here are known to be on stable storage. Raised by who synced; read by the writer into the next
    /// group. Relaxed is enough: an older value only makes the evidence in the group weaker.
    durable: Arc<AtomicU32>,
    /// Bytes up to here are written. Written by the writer, read by who holds a segment that takes no more.
    end: AtomicU32,
}

impl Segment {
    pub(super) fn new(header: Header, header_no: usize, file: Arc<LogFile>) -> Self {
        Self {
            header,
            slot: file.slot,
            header_no,
            file,
            durable: Arc::new(AtomicU32::new(DATA_AT)),
            end: AtomicU32::new(DATA_AT),
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.header.generation
    }

    pub(super) fn durable_upto(&self) -> u32 {
        self.durable.load(Ordering::Relaxed)
    }

    /// What is to become durable: all that is written up to an offset.
    pub(super) fn reach(&self, upto: u32) -> Reach {
        Reach {
            slot: self.slot,
            durable: Arc::clone(&self.durable),
            upto,
        }
    }

    pub(super) fn end(&self) -> u32 {
        self.end.load(Ordering::Acquire)
    }

    /// Pairs with [`Segment::end`]: who sees the new end also sees what was written before it (the file's own page
    /// cache does too).
    pub(super) fn set_end(&self, end: u32) {
        self.end.store(end, Ordering::Release);
    }
}

/// A part of a generation that a sync makes durable. Does not keep its file from being reused: to sync that once more
/// harms nothing.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) slot: u32,
    durable: Arc<AtomicU32>,
    upto: u32,
}

impl Reach {
    /// To be called once it was synced.
    pub(super) fn note_durable(&self) {
        self.durable.fetch_max(self.upto, Ordering::Relaxed);
    }
}

/// A file that no generation uses any more, or none yet.
#[derive(Debug)]
pub(super) struct FreeFile {
    pub(super) file: Arc<LogFile>,
    pub(super) next_header: usize,
    /// The generation that it held; `None` for a new file. A scan that still reads it holds a second reference.
    pub(super) held: Option<Arc<Segment>>,
}

impl FreeFile {
    fn is_usable(&self) -> bool {
        self.held.as_ref().is_none_or(|segment| Arc::strong_count(segment) == 1)
    }

    fn generation(&self) -> u64 {
        self.held.as_ref().map_or(0, |segment| segment.generation())
    }
}

/// All files of a log.
#[derive(Debug)]
pub(super) struct Segments {
    pub(super) segment_bytes: u32,
    pub(super) segments_max: usize,
    used: BTreeMap<u64, Arc<Segment>>,
    free: Vec<FreeFile>,
    next_slot: u32,
    /// Files that are being made outside the lock.
    making: usize,
    /// Files that were taken and are not in use yet.
    taken: usize,
    /// Why the last attempt to make a file failed; forgotten when one succeeds.
    creation_error: Option<String>,
    /// After a failure, one more attempt is made for each batch of commits, not for each commit.
    may_retry: bool,
}

impl Segments {
    pub(super) fn new(segment_bytes: u32, segments_max: usize, next_slot: u32) -> Self {
        Self {
            segment_bytes,
            segments_max,
            used: BTreeMap::new(),
            free: Vec::new(),
            next_slot,
            making: 0,
            taken: 0,
            creation_error: None,
            may_retry: true,
        }
    }

    /// Allows another attempt to make files, should the last have failed.
    pub(super) fn allow_retry(&mut self) {
        self.may_retry = true;
    }

    pub(super) fn get(&self, generation: u64) -> Option<&Arc<Segment>> {
        self.used.get(&generation)
    }

    /// Generations in use, oldest first.
    pub(super) fn used(&self) -> impl ExactSizeIterator<Item = &Arc<Segment>> {
        self.used.values()
    }

    pub(super) fn oldest(&self) -> Option<&Arc<Segment>> {
        self.used.values().next()
    }

    pub(super) fn add_used(&mut self, segment: Arc<Segment>) {
        // The first ones of a start were not taken.
        self.taken = self.taken.saturating_sub(1);
        self.used.insert(segment.generation(), segment);
    }

    pub(super) fn add_free(&mut self, file: FreeFile) {
        self.taken = self.taken.saturating_sub(1);
        self.free.push(file);
    }

    /// Files that can be used at once.
    pub(super) fn available(&self) -> usize {
        self.free.iter().filter(|file| file.is_usable()).count()
    }

    /// Files in all, also those that are being made and those between free and used.
    pub(super) fn files(&self) -> usize {
        self.used.len() + self.free.len() + self.making + self.taken
    }

    /// True while, as far as is known, another file may be made.
    pub(super) fn can_grow(&self) -> bool {
        self.files() < self.segments_max && self.creation_error.is_none()
    }

    /// Segments that the store can have as things stand.
    pub(super) fn capacity(&self) -> usize {
        match self.creation_error {
            Some(_) => self.files(),
            None => self.segments_max,
        }
    }

    /// Why no file can be had.
    pub(super) fn shortage(&self) -> String {
        match &self.creation_error {
            Some(error) => format!("no room for another log segment: {error}"),
            None => format!(
                "all {} log segments that `max_bytes` allows are in use",
                self.segments_max
            ),
        }
    }

    /// Makes files until `wanted` can be used at once; tells whether they can.
    pub(super) fn provide(&mut self, disk: &dyn Disk, wanted: usize) -> bool {
        while self.available() < wanted {
            if self.files() >= self.segments_max || !self.may_retry {
                return false;
            }
            self.making += 1;
            let slot = self.take_slot();
            let made = disk.create(slot, self.segment_bytes);
            self.end_making(slot, made);
        }
        true
    }

    /// The slot of a file that the caller makes now, outside the lock; `None` where no more may be made. To be
    /// followed by [`Segments::end_making`].
    pub(super) fn begin_making(&mut self) -> Option<u32> {
        if !self.can_grow() {
            return None;
        }
        self.making += 1;
        Some(self.take_slot())
    }

    fn take_slot(&mut self) -> u32 {
        self.next_slot += 1;
        self.next_slot - 1
    }

    /// Takes a file in that was made, or notes why it was not.
    pub(super) fn end_making(&mut self, slot: u32, made: io::Result<Arc<dyn DiskFile>>) {
        self.making -= 1;
        match made {
            Ok(file) => {
                self.creation_error = None;
                self.free.push(FreeFile {
                    file: Arc::new(LogFile::new(slot, file, self.segment_bytes)),
                    next_header: 0,
                    held: None,
                });
            }
            Err(error) => {
                self.creation_error = Some(error.to_string());
                self.may_retry = false;
            }
        }
    }

    /// The free file that is taken next: one that needs no filling, else the one that has been free longest.
    pub(super) fn next_free(&self) -> Option<&FreeFile> {
        self.free.get(self.position_of_next()?)
    }

    fn position_of_next(&self) -> Option<usize> {
        let is_ready = |file: &FreeFile| file.is_usable() && file.file.filled() >= self.segment_bytes;
        let ready = self.free.iter().position(is_ready);
        ready.or_else(|| self.free.iter().position(FreeFile::is_usable))
    }

    /// Takes [`Segments::next_free`].
    pub(super) fn take_free(&mut self) -> Option<FreeFile> {
        let position = self.position_of_next()?;
        self.taken += 1;
        Some(self.free.remove(position))
    }

    /// Frees a generation: nothing of it counts any more, and that is durable.
    pub(super) fn release(&mut self, generation: u64) {
        if let Some(segment) = self.used.remove(&generation) {
            self.free.push(FreeFile {
                file: Arc::clone(&segment.file),
                next_header: 1 - segment.header_no,
                held: Some(segment),
            });
        }
    }

    /// Gives files back to the disk that are far more than needed. Only generations below `oldest`, which a durable
    /// header already leaves out: recovery insists on finding all others.
    pub(super) fn trim(&mut self, disk: &dyn Disk, oldest: u64) {
        let keep = SPARE_SEGMENTS.max(self.used.len() / 2);
        for _ in 0..REMOVALS_MAX {
            let surplus = self
                .free
                .iter()
                .position(|file| file.is_usable() && file.generation() < oldest);
            match surplus {
                Some(position) if self.free.len() > keep => {
                    let file = self.free.remove(position);
                    if let Err(error) = disk.remove(file.file.slot) {
                        tracing::warn!(%error, file = disk.name(file.file.slot), "a free log segment could not be removed");
                    }
                }
                _ => return,
            }
        }
    }
}

/// Writes a generation's header into a free file. Durable only once the file is synced.
pub(super) fn write_header(file: &FreeFile, header: &Header) -> io::Result<()> {
    file.file.write_at(&header.encode(), HEADERS_AT[file.next_header])
}
