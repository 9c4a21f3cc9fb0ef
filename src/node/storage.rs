//! Opens the store that the configuration names.

use std::{io, sync::Arc};

use tokio::task;
use uuid::Uuid;

use super::{
    config::Config,
    failure::{Exit, Failure},
};
use crate::{
    router::port::Store,
    store::{
        embedded::{EmbeddedStore, OpenError},
        memory::MemoryStore,
    },
};

pub(super) async fn open(config: &Config) -> Result<Arc<dyn Store>, Failure> {
    if config.node.memory {
        tracing::warn!("nothing is written to disk: a restart loses every message");
        // Half of a UUIDv7 is random, which is all that a seed must be.
        let (_, seed) = Uuid::now_v7().as_u64_pair();
        return Ok(Arc::new(MemoryStore::new(seed, config.node.memory_bytes_max)));
    }
    let (path, settings) = (config.node.data_dir.clone(), config.store.clone());
    tracing::info!(data_dir = %path.display(), "opening the store");
    // It reads the log back, which blocks.
    let opened = task::spawn_blocking(move || EmbeddedStore::open(&path, &settings)).await;
    let opened =
        opened.map_err(|error| Failure::new(Exit::Software, "the store panicked while it opened", error, ""))?;
    Ok(Arc::new(opened.map_err(|error| failure(&error))?))
}

fn failure(error: &OpenError) -> Failure {
    let exit = match error {
        OpenError::Config { .. } => Exit::Config,
        OpenError::Io { error, .. } => match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::NoPerm,
            io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => Exit::CantCreate,
            _ => Exit::Io,
        },
        OpenError::Locked { .. } => Exit::TempFail,
        OpenError::Version { .. }
        | OpenError::Damaged { .. }
        | OpenError::LogMissing { .. }
        | OpenError::Registry { .. } => Exit::Data,
    };
    let text = error.to_string();
    let (cause, fix) = text.split_once("; ").unwrap_or((&text, ""));
    Failure::new(exit, "the store does not open", cause, fix)
}
