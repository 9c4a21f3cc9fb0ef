//! The files of the log, as a seam: the real ones, and in tests ones that tear writes and fail on purpose.
//!
//! A slot is a file; its number says nothing of its contents. Start at [`Disk`].

use std::{
    fmt,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

/// A directory of segment files.
pub(super) trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Numbers of the files that exist, in no order.
    fn slots(&self) -> io::Result<Vec<u32>>;

    /// Opens a file that exists.
    fn open(&self, slot: u32) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes a file of zeros with room for all its bytes, durable in the directory. Leaves none behind on an error.
    fn create(&self, slot: u32, bytes: u32) -> io::Result<Arc<dyn DiskFile>>;

    /// Removes a file. It may come back after a crash.
    fn remove(&self, slot: u32) -> io::Result<()>;

    /// What errors call a file.
    fn name(&self, slot: u32) -> String;
}

/// One segment file.
pub(super) trait DiskFile: Send + Sync + fmt::Debug + 'static {
    fn bytes(&self) -> io::Result<u64>;

    /// Bytes from the start up to which all were written once; what is behind reads as zeros, and to write it first
    /// is slow. More than there are where the file system does not say.
    fn filled(&self) -> u64;

    /// Fills `into`, or fails.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes`, or fails. Not durable before [`DiskFile::sync`].
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes all that was written durable. After an error nothing is known of what was written since the last success.
    fn sync(&self) -> io::Result<()>;
}

/// Files in a directory of the operating system.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Uses a directory, made if it is missing.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Ok(Self { path: path.into() })
    }

    fn path_of(&self, slot: u32) -> PathBuf {
        self.path.join(format!("{slot:06}.seg"))
    }

    fn create_at(&self, path: &Path, bytes: u32) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        fallocate(&file, FallocateFlags::empty(), 0, u64::from(bytes))?;
        file.sync_all()?;
        sync_directory(&self.path)?;
        Ok(file)
    }
}

/// Makes names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Disk for Directory {
    fn slots(&self) -> io::Result<Vec<u32>> {
        let mut slots = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let slot: Option<u32> = name
                .to_str()
                .and_then(|name| name.strip_suffix(".seg"))
                .and_then(|slot| slot.parse().ok());
            slots.extend(slot);
        }
        Ok(slots)
    }

    fn open(&self, slot: u32) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path_of(slot))?;
        Ok(Arc::new(file))
    }

    fn create(&self, slot: u32, bytes: u32) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path_of(slot);
        match self.create_at(&path, bytes) {
            Ok(file) => Ok(Arc::new(file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            Err(error) => {
                // A file without its room is of no use; recovery would remove it as well.
                let _ = std::fs::remove_file(&path);
                Err(error)
            }
        }
    }

    fn remove(&self, slot: u32) -> io::Result<()> {
        std::fs::remove_file(self.path_of(slot))
    }

    fn name(&self, slot: u32) -> String {
        self.path_of(slot).display().to_string()
    }
}

impl DiskFile for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn filled(&self) -> u64 {
        // Room that was only set aside is a hole to those who read.
        seek(self, SeekFrom::Hole(0)).unwrap_or(u64::MAX)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_once_counts_as_filled() {
        const BYTES: u32 = 256 * 1024;
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(folder.path()).unwrap();
        let file = directory.create(0, BYTES).unwrap();
        assert_eq!(file.bytes().unwrap(), u64::from(BYTES));
        // How far a new file is filled differs between file systems; none may say too little of what was written.
        for upto in [64 * 1024, 128 * 1024, BYTES as usize] {
            file.write_at(&vec![0; upto], 0).unwrap();
            file.sync().unwrap();
            assert!(file.filled() >= upto as u64, "{} of {upto}", file.filled());
            let other = directory.open(0).unwrap();
            assert!(other.filled() >= upto as u64, "{} of {upto}", other.filled());
        }
    }
}
