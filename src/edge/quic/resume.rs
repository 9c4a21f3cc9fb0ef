//! Sessions that can be gone on with: a client whose connection was lost names the old one, which then ends at once instead of
//! holding its deliveries until its idle timeout. Start at [`Sessions`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use quinn::Connection;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::native::{Close, control::ResumeKey};

/// How long the old session may take to end before the new one goes ahead without.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// The live sessions by their keys. Bounded by the connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(Arc<Mutex<HashMap<ResumeKey, Live>>>);

#[derive(Debug)]
struct Live {
    connection: Connection,
    ended: CancellationToken,
}

/// A session's entry: dropping it, after the session itself, tells whoever resumes it.
#[derive(Debug)]
pub(super) struct Entry {
    pub key: ResumeKey,
    sessions: Sessions,
    _ended: DropGuard,
}

impl Sessions {
    /// Enters a session under a fresh key.
    pub fn enter(&self, connection: Connection) -> Entry {
        let mut key = ResumeKey::default();
        aws_lc_rs::rand::fill(&mut key.0).expect("the provider's generator is seeded when the process starts");
        let ended = CancellationToken::new();
        let live = Live {
            connection,
            ended: ended.clone(),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, live);
        Entry {
            key,
            sessions: self.clone(),
            _ended: ended.drop_guard(),
        }
    }

    /// Ends the session with this key, where it lives, and waits until its deliveries went back.
    pub async fn end(&self, key: ResumeKey) {
        let live = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        if let Some(Live { connection, ended }) = live {
            connection.close(Close::Resumed.code(), Close::Resumed.reason().as_bytes());
            // Late: it ends all the same, and its deliveries come when it has.
            let _late = timeout(END_PATIENCE, ended.cancelled()).await;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.sessions
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}
