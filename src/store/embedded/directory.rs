//! A store's directory: its version, its lock, where registry and log stand in it.
//!
//! ```text
//! VERSION        the format's version, one number; written last when a store is made
//! LOCK           locked by the process that has the store open, and holds its number
//! registry.redb  small records and fences
//! log/NNNNNN.seg segments
//! ```
//!
//! Start at [`StoreDirectory::open`].

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use redb::backends::FileBackend;
use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

use super::{
    disk::{Directory, sync_directory},
    layout::VERSION,
    recover::Expect,
    registry::Registry,
};

/// Why a store does not open. Says what to do; nothing was changed on disk but what making a new store had begun.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The configuration's fault.
    #[error("store configuration: {what}")]
    Config { what: String },
    /// The operating system's. Worth a retry once its cause is gone.
    #[error("{path}: {error}; check that the directory is writable and its disk has room")]
    Io { path: String, error: io::Error },
    /// Another process has the store.
    #[error("{path} is in use by {}; stop that process or choose another data directory", holder(*.pid))]
    Locked { path: String, pid: Option<u32> },
    /// Another version of weft made the store.
    #[error(
        "{path} has store format {found}; this build knows format {known}: start the version of weft \
         that wrote it, or choose another data directory"
    )]
    Version { path: String, found: String, known: u32 },
    /// Bytes that were on stable storage are wrong. Nothing is skipped silently.
    #[error(
        "{file} is damaged at byte {offset}: {what}; restore the data directory from a copy, or move it \
         away to start empty"
    )]
    Damaged { file: String, offset: u64, what: String },
    /// The log is gone while the rest of the store is there.
    #[error(
        "{path} has no log segments, though the store was in use before; restore the directory `log`, \
         or move the data directory away to start empty"
    )]
    LogMissing { path: String },
    /// The file of small records does not open.
    #[error("{path}: the registry does not open: {what}; restore it from a copy of the data directory")]
    Registry { path: String, what: String },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
}

/// A locked directory of a version that this build knows.
#[derive(Debug)]
pub(super) struct StoreDirectory {
    path: PathBuf,
    /// Locked for as long as it is open.
    pub(super) lock: File,
    pub(super) expect: Expect,
}

impl StoreDirectory {
    /// Locks a directory, made if it is missing, and checks its version.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        std::fs::create_dir_all(path).map_err(|error| io_error(path, error))?;
        let lock = take_lock(&path.join("LOCK"))?;
        let expect = read_version(&path.join("VERSION"))?;
        Ok(Self {
            path: path.into(),
            lock,
            expect,
        })
    }

    pub(super) fn log(&self) -> Result<Directory, OpenError> {
        let path = self.path.join("log");
        Directory::open(&path).map_err(|error| io_error(&path, error))
    }

    /// Opens the registry. A new one is made under another name first: a file whose making was cut short does not open.
    pub(super) fn registry(&self) -> Result<Registry, OpenError> {
        let path = self.path.join("registry.redb");
        match path.try_exists() {
            Ok(true) => open_registry(&path),
            Ok(false) => self.make_registry(&path),
            Err(error) => Err(io_error(&path, error)),
        }
    }

    fn make_registry(&self, path: &Path) -> Result<Registry, OpenError> {
        let temporary = self.path.join("registry.new");
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&temporary, error)),
            _ => {}
        }
        let registry = open_registry(&temporary)?;
        let renamed = std::fs::rename(&temporary, path).and_then(|()| sync_directory(&self.path));
        renamed.map_err(|error| io_error(path, error))?;
        Ok(registry)
    }

    /// Marks a new store as made: registry and log are on stable storage.
    pub(super) fn finish(&self) -> Result<(), OpenError> {
        match self.expect {
            Expect::Log => Ok(()),
            Expect::MaybeNothing => write_version(&self.path).map_err(|error| io_error(&self.path, error)),
        }
    }
}

/// The directory's lock already keeps other processes out.
fn open_registry(path: &Path) -> Result<Registry, OpenError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    let file = file.map_err(|error| io_error(path, error))?;
    let backend = FileBackend::new(file).map_err(|error| error.to_string());
    backend.and_then(Registry::open).map_err(|what| OpenError::Registry {
        path: path.display().to_string(),
        what,
    })
}

pub(super) fn io_error(path: &Path, error: io::Error) -> OpenError {
    OpenError::Io {
        path: path.display().to_string(),
        error,
    }
}

fn take_lock(path: &Path) -> Result<File, OpenError> {
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    let mut file = open.map_err(|error| io_error(path, error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            // Best effort: the number only makes the message better.
            let _ = file.read_to_string(&mut text);
            return Err(OpenError::Locked {
                path: path.display().to_string(),
                pid: text.trim().parse().ok(),
            });
        }
        Err(error) => return Err(io_error(path, error.into())),
    }
    let write_pid = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write_pid(&mut file).map_err(|error| io_error(path, error))?;
    Ok(file)
}

fn read_version(path: &Path) -> Result<Expect, OpenError> {
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Expect::MaybeNothing),
        Err(error) => return Err(io_error(path, error)),
    };
    if text == VERSION.to_string() {
        return Ok(Expect::Log);
    }
    Err(OpenError::Version {
        path: path.display().to_string(),
        found: text.chars().take(32).collect(),
        known: VERSION,
    })
}

fn write_version(path: &Path) -> io::Result<()> {
    let (temporary, version) = (path.join("VERSION.new"), path.join("VERSION"));
    let mut file = File::create(&temporary)?;
    writeln!(file, "{VERSION}")?;
    file.sync_all()?;
    std::fs::rename(&temporary, &version)?;
    sync_directory(path)
}
