//! The thread that prepares what the writer will want next: it writes zeros where a file was never written, and makes
//! the next file.
//!
//! Room that is only set aside (`fallocate`) makes each first write of it a change of the file system's own tables: on
//! ext4 a group then took 0.30 ms to become durable, and 0.15 ms where the file had been written before. Zeros go only
//! where a file reads as zeros already, so filling changes no byte of the log, and no crash can be told from one
//! without it. It works ahead of the writer by a bounded amount and only once something is written: a node that is
//! idle pays nothing, a small one [`AHEAD_BYTES`]. Segments that are reused were written before and need nothing.
//! Knows nothing of groups and records. Start at [`Filler::run`].

use std::{io, sync::Arc, time::Duration};

use flume::{Receiver, RecvTimeoutError};

use super::{
    disk::{Disk, DiskFile},
    segments::{LogFile, RESERVE_SEGMENTS},
    shared::Shared,
};
use crate::store::lock;

/// Zeros written and synced at once, in bytes: a fraction of a millisecond of the disk, which is what a commit that
/// meets it waits longer.
const STEP_BYTES: usize = 512 * 1024;
/// Pause between two steps: with it filling takes at most about a third of a disk that writes 500 MiB/s, and is still
/// faster than any load that was seen fills the log.
const STEP_PAUSE: Duration = Duration::from_millis(2);
/// How far the segment that takes writes is filled beyond its end, in bytes.
pub(super) const AHEAD_BYTES: u32 = 8 * 1024 * 1024;
/// The next segment is made and filled once so much of the one that takes writes is written: one part in so many.
const PREPARE_PART: u32 = 8;
/// Free files that may be made ahead of need, beyond the reserve.
const MADE_AHEAD: usize = 1;

/// The thread's state.
pub(super) struct Filler {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Arc<dyn Disk>,
    /// The writer says that it went on; closed when the store ends.
    pub(super) woken: Receiver<()>,
    /// The file that is being filled, through a handle of its own: an error of a sync is told to each handle once,
    /// and none that a commit needs to hear of may be taken away by this thread.
    handle: Option<(u32, Arc<dyn DiskFile>)>,
    zeros: Vec<u8>,
    /// Filling met an error that costs speed only. It is not tried again before a restart.
    is_given_up: bool,
}

/// The next thing to do.
enum Task {
    Fill { file: Arc<LogFile>, upto: u32 },
    Make { slot: u32 },
}

impl Filler {
    pub(super) fn new(shared: Arc<Shared>, disk: Arc<dyn Disk>, woken: Receiver<()>) -> Self {
        Self {
            shared,
            disk,
            woken,
            handle: None,
            zeros: vec![0; STEP_BYTES],
            is_given_up: false,
        }
    }

    /// Works until the store ends.
    pub(super) fn run(mut self) {
        self.make_reserve();
        while self.woken.recv().is_ok() {
            while let Some(task) = self.next() {
                match task {
                    Task::Fill { file, upto } => self.fill(&file, upto),
                    Task::Make { slot } => self.make(slot),
                }
                match self.woken.recv_timeout(STEP_PAUSE) {
                    Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            self.handle = None;
        }
    }

    /// Sets the reserve aside. Where it fails, messages are refused until the writer succeeds.
    fn make_reserve(&self) {
        loop {
            let slot = {
                let mut segments = lock(&self.shared.segments);
                let is_whole = segments.available() >= RESERVE_SEGMENTS;
                if is_whole { None } else { segments.begin_making() }
            };
            match slot {
                Some(slot) => self.make(slot),
                None => return,
            }
        }
    }

    /// What the writer needs soonest.
    fn next(&self) -> Option<Task> {
        if self.shared.health.check().is_err() {
            return None;
        }
        let mut segments = lock(&self.shared.segments);
        let (whole, active) = (segments.segment_bytes, Arc::clone(segments.used().last()?));
        let ahead = active.end().saturating_add(AHEAD_BYTES).min(whole);
        if !self.is_given_up && active.file.filled() < ahead {
            let file = Arc::clone(&active.file);
            return Some(Task::Fill { file, upto: ahead });
        }
        if active.end() < whole / PREPARE_PART {
            return None;
        }
        if segments.available() < RESERVE_SEGMENTS + MADE_AHEAD
            && let Some(slot) = segments.begin_making()
        {
            return Some(Task::Make { slot });
        }
        let next = segments.next_free()?;
        let is_unfilled = !self.is_given_up && next.file.filled() < whole;
        is_unfilled.then(|| Task::Fill {
            file: Arc::clone(&next.file),
            upto: whole,
        })
    }

    fn make(&self, slot: u32) {
        let segment_bytes = lock(&self.shared.segments).segment_bytes;
        // Not under the lock, which commits take: it waits for the file system's journal.
        let made = self.disk.create(slot, segment_bytes);
        lock(&self.shared.segments).end_making(slot, made);
    }

    /// One step. An error of a write costs speed only; one of a sync is one of the disk, as for a commit.
    fn fill(&mut self, file: &LogFile, upto: u32) {
        let outcome = self.handle_of(file).and_then(|handle| {
            file.fill(upto, &self.zeros)?;
            Ok(handle)
        });
        match outcome {
            Ok(handle) => {
                if let Err(error) = handle.sync() {
                    let name = self.disk.name(file.slot);
                    self.shared.health.fail(format!("a sync of {name} failed: {error}"));
                }
            }
            Err(error) => {
                tracing::warn!(%error, file = self.disk.name(file.slot), "a log segment cannot be filled ahead");
                self.is_given_up = true;
            }
        }
    }

    fn handle_of(&mut self, file: &LogFile) -> io::Result<Arc<dyn DiskFile>> {
        match &self.handle {
            Some((slot, handle)) if *slot == file.slot => Ok(Arc::clone(handle)),
            _ => {
                let handle = self.disk.open(file.slot)?;
                self.handle = Some((file.slot, Arc::clone(&handle)));
                Ok(handle)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::{super::fake_disk::FakeDisk, *};
    use crate::store::embedded::layout::DATA_AT;

    const BYTES: u32 = 16 * 1024;

    proptest! {
        #[test]
        fn filling_beside_a_writer_changes_no_byte(
            writes in proptest::collection::vec(1usize..900, 0..30), step in 1usize..5000,
        ) {
            let disk = FakeDisk::new(1);
            disk.leave_unfilled();
            let file = LogFile::new(0, disk.create(0, BYTES).unwrap(), BYTES);
            let (mut expected, mut at) = (vec![0; BYTES as usize], DATA_AT as usize);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while file.filled() < BYTES {
                        file.fill(BYTES, &vec![0; step]).unwrap();
                    }
                });
                for (number, len) in (1u8..).zip(writes) {
                    let Some(place) = expected.get_mut(at..at + len) else { break };
                    place.fill(number);
                    file.write_at(place, at as u64).unwrap();
                    at += len;
                }
            });
            prop_assert_eq!(disk.contents(0), expected);
        }
    }
}
