//! The embedded store against the contract, against the in-memory store, and against what may be found on disk.

use tempfile::TempDir;

use super::*;
use crate::store::contract::{Subject, contract_suite};

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
