//! The embedded store against the contract, against the in-memory store, and against what may be found on disk.

use std::sync::mpsc;

use tempfile::TempDir;

use super::*;
use crate::store::contract::{Subject, claim_one, commit, contract_suite, enqueue, load, shard, wait};

/// Small enough that a short test fills several.
const SEGMENT_BYTES: u32 = 64 * 1024;

fn sizes() -> Sizes {
    Sizes {
        segment_bytes: SEGMENT_BYTES,
        max_bytes: 1024 * u64::from(SEGMENT_BYTES),
    }
}

struct OnDisk {
    directory: TempDir,
    store: Option<Arc<EmbeddedStore>>,
}

impl Subject for OnDisk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open_sized(directory.path(), sizes()).unwrap();
        Self {
            directory,
            store: Some(Arc::new(store)),
        }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(self.store.as_ref().unwrap()) as Arc<dyn Store>
    }

    fn reopen(&mut self) {
        drop(self.store.take());
        let store = EmbeddedStore::open_sized(self.directory.path(), sizes()).unwrap();
        self.store = Some(Arc::new(store));
    }

    fn body_too_large(&self) -> usize {
        SEGMENT_BYTES as usize
    }
}

contract_suite!(OnDisk);

fn open(directory: &TempDir) -> Result<EmbeddedStore, OpenError> {
    EmbeddedStore::open_sized(directory.path(), sizes())
}

#[test]
fn a_second_process_is_told_who_has_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).unwrap();
    let error = open(&directory).unwrap_err();
    assert!(
        matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    assert!(
        error.to_string().contains(&format!("process {}", std::process::id())),
        "{error}"
    );
    wait(store.close()).unwrap();
    open(&directory).unwrap();
}

#[test]
fn another_format_version_is_refused_with_both_versions_named() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(&directory).unwrap());
    std::fs::write(directory.path().join("VERSION"), "7\n").unwrap();
    let error = open(&directory).unwrap_err().to_string();
    assert!(
        error.contains("format 7") && error.contains("knows format 1"),
        "{error}"
    );
}

#[test]
fn a_store_without_its_log_does_not_start_empty() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(&directory).unwrap());
    std::fs::remove_dir_all(directory.path().join("log")).unwrap();
    let error = open(&directory).unwrap_err();
    assert!(matches!(error, OpenError::LogMissing { .. }), "{error}");
}

#[test]
fn making_a_store_that_was_cut_short_is_begun_again() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("log")).unwrap();
    std::fs::write(directory.path().join("log/000000.seg"), [0; 100]).unwrap();
    let store = open(&directory).unwrap();
    let fence = claim_one(&store, shard(1));
    commit(&store, shard(1), fence, vec![enqueue(1, 1)]).unwrap();
}

#[test]
fn a_damaged_file_is_named_with_the_place_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).unwrap();
    let fence = claim_one(&store, shard(1));
    commit(&store, shard(1), fence, vec![enqueue(1, 100)]).unwrap();
    wait(store.close()).unwrap();
    let path = directory.path().join("log/000000.seg");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[layout::DATA_AT as usize + 100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = open(&directory).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, OpenError::Damaged { offset: 1024, .. }), "{text}");
    assert!(text.contains("000000.seg") && text.contains("restore"), "{text}");
}

#[test]
fn a_damaged_registry_is_named() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(&directory).unwrap());
    std::fs::write(directory.path().join("registry.redb"), "not a database").unwrap();
    let error = open(&directory).unwrap_err();
    assert!(matches!(error, OpenError::Registry { .. }), "{error}");
}

#[test]
fn configurations_that_cannot_work_are_refused_with_the_limits() {
    let directory = tempfile::tempdir().unwrap();
    let config = |segment: u64, max: u64| Config {
        segment_bytes: ByteSize::b(segment),
        max_bytes: ByteSize::b(max),
    };
    let mib = 1024 * 1024;
    for (segment, max) in [
        (mib, 1024 * mib),
        (64 * mib + 1, 1024 * mib),
        (64 * mib, 4 * 64 * mib),
        (2048 * mib, 1 << 40),
    ] {
        let error = EmbeddedStore::open(directory.path(), &config(segment, max)).unwrap_err();
        assert!(matches!(error, OpenError::Config { .. }), "{error}");
    }
    assert!(EmbeddedStore::open(directory.path(), &config(32 * mib, 5 * 32 * mib)).is_ok());
}

#[test]
fn a_store_keeps_the_segment_size_that_it_was_made_with() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(&directory).unwrap());
    let larger = Sizes {
        segment_bytes: 2 * SEGMENT_BYTES,
        ..sizes()
    };
    let store = EmbeddedStore::open_sized(directory.path(), larger).unwrap();
    let fence = claim_one(&store, shard(1));
    let refused = commit(&store, shard(1), fence, vec![enqueue(1, SEGMENT_BYTES as usize)]);
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
}

#[test]
fn a_completion_may_drop_the_last_reference() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&directory).unwrap());
    let fence = claim_one(&*store, shard(1));
    let (sender, dropped) = mpsc::channel();
    let last = Arc::clone(&store);
    let (hand_over, handed_over) = mpsc::channel::<Arc<EmbeddedStore>>();
    let part = ShardCommit {
        shard: shard(1),
        fence,
        ops: vec![enqueue(1, 1)],
    };
    let done = move |_| {
        drop(handed_over.recv());
        sender.send(()).unwrap();
    };
    last.commit(vec![part], Durability::Fsync, Box::new(done));
    drop(last);
    hand_over.send(store).unwrap();
    dropped.recv().unwrap();
    let deadline = crate::time::monotonic() + std::time::Duration::from_secs(60);
    let reopened = loop {
        match open(&directory) {
            Ok(store) => break store,
            Err(error @ OpenError::Locked { .. }) => assert!(crate::time::monotonic() < deadline, "{error}"),
            Err(error) => panic!("{error}"),
        }
        thread::yield_now();
    };
    assert_eq!(load(&reopened, shard(1)).messages.len(), 1);
}
