//! A disk for tests: it remembers what was synced and what was only written, dies after a number of operations, fails
//! syncs and runs out of room on demand, and can be looked at as it would be after a power failure.
//!
//! After a crash each write that was not synced may be there, or not, or in part (any of its 512-byte sectors, or a
//! prefix), whatever happened to writes before and after it. A failed sync loses writes for good although later ones
//! succeed; each handle that was open hears of it once. Both is what Linux does. Start at [`FakeDisk`].

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use redb::StorageBackend;

use super::disk::{Disk, DiskFile};
use crate::store::lock;

/// The registry's file among the slots.
const REGISTRY: u32 = u32::MAX;
const SECTOR_BYTES: usize = 512;

/// Small, seeded, good enough to tear writes with (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

#[derive(Clone, Debug, Default)]
struct Contents {
    /// What a reader sees.
    live: Vec<u8>,
    /// What is on stable storage.
    durable: Vec<u8>,
    /// What was written since the last sync.
    pending: Vec<(usize, Vec<u8>)>,
    /// Bytes up to here were written once.
    filled: usize,
    /// Syncs that failed; each handle is told of the latest once.
    failures: u64,
}

impl Contents {
    fn write(&mut self, bytes: &[u8], offset: usize) -> io::Result<()> {
        let end = offset + bytes.len();
        let room = self.live.get_mut(offset..end).ok_or(io::ErrorKind::StorageFull)?;
        room.copy_from_slice(bytes);
        self.pending.push((offset, bytes.to_vec()));
        self.filled = self.filled.max(end);
        Ok(())
    }

    fn sync(&mut self) {
        for (offset, bytes) in self.pending.drain(..) {
            self.durable[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
    }

    fn set_len(&mut self, len: usize) {
        self.live.resize(len, 0);
        self.durable.resize(len, 0);
        self.pending.retain(|(offset, bytes)| offset + bytes.len() <= len);
    }

    /// Only some of what was not synced reaches the disk.
    fn tear(&mut self, dice: &mut Dice) {
        for (offset, bytes) in self.pending.drain(..) {
            let target = &mut self.durable[offset..offset + bytes.len()];
            match dice.roll(4) {
                0 => {}
                1 => target.copy_from_slice(&bytes),
                2 => {
                    let kept = dice.roll(bytes.len() as u64 + 1) as usize;
                    target[..kept].copy_from_slice(&bytes[..kept]);
                }
                _ => {
                    for (target, bytes) in target.chunks_mut(SECTOR_BYTES).zip(bytes.chunks(SECTOR_BYTES)) {
                        if dice.roll(2) == 0 {
                            target.copy_from_slice(bytes);
                        }
                    }
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
struct World {
    files: BTreeMap<u32, Contents>,
    /// Operations until the disk dies.
    operations_left: u64,
    /// Syncs of segments until one fails.
    syncs_left: u64,
    files_max: usize,
    is_registry_kept: bool,
    is_left_unfilled: bool,
    dice: Dice,
}

impl World {
    fn operate(&mut self) -> io::Result<()> {
        match self.operations_left.checked_sub(1) {
            Some(left) => {
                self.operations_left = left;
                Ok(())
            }
            None => Err(io::Error::other("the disk died")),
        }
    }

    fn file(&mut self, slot: u32) -> io::Result<&mut Contents> {
        self.files.get_mut(&slot).ok_or(io::ErrorKind::NotFound.into())
    }

    /// `told`: the failures that the handle in use was told of.
    fn sync(&mut self, slot: u32, told: &mut u64) -> io::Result<()> {
        self.operate()?;
        if slot != REGISTRY {
            match self.syncs_left.checked_sub(1) {
                Some(left) => self.syncs_left = left,
                None => {
                    self.syncs_left = u64::MAX;
                    let mut dice = self.dice.clone();
                    self.file(slot)?.tear(&mut dice);
                    self.file(slot)?.failures += 1;
                }
            }
        }
        let file = self.file(slot)?;
        if *told < file.failures {
            *told = file.failures;
            return Err(io::Error::other("the sync failed"));
        }
        file.sync();
        Ok(())
    }
}

/// A disk that fails on purpose. A clone is the same disk.
#[derive(Clone, Debug)]
pub(super) struct FakeDisk(Arc<Mutex<World>>);

impl FakeDisk {
    /// An empty disk that works.
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(World {
            files: BTreeMap::new(),
            operations_left: u64::MAX,
            syncs_left: u64::MAX,
            files_max: usize::MAX,
            is_registry_kept: false,
            is_left_unfilled: false,
            dice: Dice(seed),
        })))
    }

    /// Lets that many more operations through.
    pub(super) fn die_after(&self, operations: u64) {
        lock(&self.0).operations_left = operations;
    }

    /// Lets that many more syncs of segments through, then fails one.
    pub(super) fn fail_sync_after(&self, syncs: u64) {
        lock(&self.0).syncs_left = syncs;
    }

    /// Has room for that many segments.
    pub(super) fn set_files_max(&self, files_max: usize) {
        lock(&self.0).files_max = files_max;
    }

    /// Says of its files from now on how far they were written, and not that filling them is of no use.
    pub(super) fn leave_unfilled(&self) {
        lock(&self.0).is_left_unfilled = true;
    }

    pub(super) fn files(&self) -> usize {
        lock(&self.0).files.len()
    }

    /// The disk as it is found after a power failure: another one, which works. A process that still has this one
    /// cannot touch it.
    pub(super) fn after_crash(&self, seed: u64) -> Self {
        let mut world = lock(&self.0).clone();
        let mut dice = Dice(seed);
        for contents in world.files.values_mut() {
            contents.tear(&mut dice);
            contents.live.clone_from(&contents.durable);
        }
        (world.operations_left, world.syncs_left, world.dice) = (u64::MAX, u64::MAX, dice);
        Self(Arc::new(Mutex::new(world)))
    }

    /// The disk as it is found after the process was killed: all that was written is there, but what was not synced
    /// still is not.
    pub(super) fn after_kill(&self) -> Self {
        let mut world = lock(&self.0).clone();
        (world.operations_left, world.syncs_left) = (u64::MAX, u64::MAX);
        Self(Arc::new(Mutex::new(world)))
    }

    /// Operations that were let through since [`FakeDisk::die_after`] was called with the greatest number there is.
    pub(super) fn operations(&self) -> u64 {
        u64::MAX - lock(&self.0).operations_left
    }

    /// Changes a byte for good.
    pub(super) fn damage(&self, slot: u32, offset: usize) {
        let mut world = lock(&self.0);
        let contents = world.file(slot).unwrap();
        contents.live[offset] ^= 0x40;
        contents.durable[offset] ^= 0x40;
    }

    /// A file's bytes as readers see them.
    pub(super) fn contents(&self, slot: u32) -> Vec<u8> {
        lock(&self.0).file(slot).unwrap().live.clone()
    }

    /// Takes a file away.
    pub(super) fn lose(&self, slot: u32) {
        lock(&self.0).files.remove(&slot);
    }

    /// The file of the registry on this disk; an empty one until it was once kept, as the real one has another name
    /// till then.
    pub(super) fn registry(&self) -> FakeFile {
        let mut world = lock(&self.0);
        if !world.is_registry_kept {
            world.files.remove(&REGISTRY);
        }
        world.files.entry(REGISTRY).or_default();
        drop(world);
        FakeFile::new(&self.0, REGISTRY)
    }

    /// Gives the registry its name, for good.
    pub(super) fn keep_registry(&self) -> io::Result<()> {
        let mut world = lock(&self.0);
        world.operate()?;
        world.is_registry_kept = true;
        Ok(())
    }

    fn handle(&self, slot: u32) -> Arc<dyn DiskFile> {
        Arc::new(FakeFile::new(&self.0, slot))
    }
}

impl Disk for FakeDisk {
    fn slots(&self) -> io::Result<Vec<u32>> {
        let world = lock(&self.0);
        Ok(world.files.keys().copied().filter(|slot| *slot != REGISTRY).collect())
    }

    fn open(&self, slot: u32) -> io::Result<Arc<dyn DiskFile>> {
        lock(&self.0).file(slot)?;
        Ok(self.handle(slot))
    }

    fn create(&self, slot: u32, bytes: u32) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = lock(&self.0);
        if world.files.len() > world.files_max
        /* and the registry */
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let died = world.operate();
        let mut contents = Contents::default();
        // A file whose making is cut short may stay behind, short.
        let present = if died.is_ok() {
            u64::from(bytes)
        } else {
            world.dice.roll(u64::from(bytes))
        };
        contents.set_len(present as usize);
        if died.is_ok() || world.dice.roll(2) == 0 {
            world.files.insert(slot, contents);
        }
        drop(world);
        died.map(|()| self.handle(slot))
    }

    fn remove(&self, slot: u32) -> io::Result<()> {
        let mut world = lock(&self.0);
        world.operate()?;
        // It may be that the removal is never durable.
        if world.dice.roll(2) == 0 {
            world.files.remove(&slot);
        }
        Ok(())
    }

    fn name(&self, slot: u32) -> String {
        format!("slot {slot}")
    }
}

/// A file of a [`FakeDisk`], opened once.
#[derive(Debug)]
pub(super) struct FakeFile {
    world: Arc<Mutex<World>>,
    slot: u32,
    told: Mutex<u64>,
}

impl FakeFile {
    fn new(world: &Arc<Mutex<World>>, slot: u32) -> Self {
        let told = lock(world).file(slot).map_or(0, |file| file.failures);
        Self {
            world: Arc::clone(world),
            slot,
            told: Mutex::new(told),
        }
    }
}

impl DiskFile for FakeFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(lock(&self.world).file(self.slot)?.live.len() as u64)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let mut world = lock(&self.world);
        let live = &world.file(self.slot)?.live;
        let range = offset as usize..offset as usize + into.len();
        into.copy_from_slice(live.get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut world = lock(&self.world);
        // The write at which the disk dies may still reach it in part.
        let outcome = world.operate();
        if outcome.is_ok() || world.operations_left == 0 {
            world.file(self.slot)?.write(bytes, offset as usize)?;
        }
        outcome
    }

    fn sync(&self) -> io::Result<()> {
        lock(&self.world).sync(self.slot, &mut lock(&self.told))
    }

    fn filled(&self) -> u64 {
        let mut world = lock(&self.world);
        match world.is_left_unfilled {
            true => world.file(self.slot).map_or(0, |file| file.filled as u64),
            false => u64::MAX,
        }
    }
}

impl StorageBackend for FakeFile {
    fn len(&self) -> io::Result<u64> {
        self.bytes()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = lock(&self.world);
        world.operate()?;
        world.file(self.slot)?.set_len(len as usize);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_at(data, offset)
    }
}
