//! One change of an agent's records at a time, and to its end.
//!
//! A change is read, decided, committed and shown; two that overlap could each undo the other. Owns the locks that keep them apart,
//! and knows nothing of what a change is.

use tokio::sync::{Mutex, MutexGuard};

use super::error::FabricError;
use crate::frame::{Address, AgentId};

/// Locks that agents share by the hash of their id. Few enough to cost an idle node nothing (10 KiB), many enough that changes of
/// different agents are committed together and seldom wait for each other.
const LOCKS: usize = 256;

/// Whoever holds an agent's lock may change its registration and its durable subscriptions. Taken before the registry's lock, where both
/// are; held across a commit.
#[derive(Debug)]
pub(super) struct Changes(Vec<Mutex<()>>);

impl Default for Changes {
    fn default() -> Self {
        Self((0..LOCKS).map(|_| Mutex::default()).collect())
    }
}

impl Changes {
    /// Waits for its turn. Cancel safe.
    pub async fn of(&self, agent: &AgentId) -> MutexGuard<'_, ()> {
        let at = Address::agent(agent).hash64() % LOCKS as u64;
        self.0[at as usize].lock().await
    }
}

/// Runs a change to its end even where its caller goes away (a client that closes its connection): what is committed must also show.
pub(super) async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, FabricError>> + Send + 'static,
) -> Result<T, FabricError> {
    let unknown = |_| FabricError::OutcomeUnknown {
        what: "the node stopped before it answered".into(),
    };
    tokio::spawn(change).await.map_err(unknown)?
}
