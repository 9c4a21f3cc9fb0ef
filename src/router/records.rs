//! Small records that change often: what edges keep of their sessions, and retained messages.
//!
//! One task writes them. What waits goes into one write, so that many sessions share a commit; order is that of the asking. Start at
//! [`Recorder`].

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{
    error::FabricError,
    fabric::Fabric,
    port::{RecordOp, Records, Store, StoreError, Table},
};

/// Changes that wait for the writer; beyond it whoever may wait does, and who may not is refused.
const WAITING_MAX: usize = 16 * 1024;
/// Changes of one write: bounds its memory, and how long the first of them waits.
const TOGETHER_MAX: usize = 1024;

/// One change, and who waits for it.
#[derive(Debug)]
struct Change {
    ops: Vec<RecordOp>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// Where changes are handed in.
#[derive(Debug)]
pub(super) struct Recorder(mpsc::Sender<Change>);

/// A change on its way: durable once it is awaited.
#[derive(Debug)]
pub struct Recording(oneshot::Receiver<Result<(), StoreError>>);

impl Recording {
    /// Waits until the change is durable.
    pub async fn durable(self) -> Result<(), FabricError> {
        match self.0.await {
            Ok(written) => Ok(written?),
            Err(_) => Err(FabricError::OutcomeUnknown {
                what: "the node stopped before a record was written".into(),
            }),
        }
    }
}

impl Recorder {
    /// Starts the writer. It ends with the last of its recorders.
    pub fn start(store: Arc<dyn Store>) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        tokio::spawn(write(store, receiver));
        Self(sender)
    }

    /// Hands in a change and waits until it is durable.
    pub async fn write(&self, ops: Vec<RecordOp>) -> Result<(), FabricError> {
        if ops.is_empty() {
            return Ok(());
        }
        let (done, written) = oneshot::channel();
        let change = Change { ops, done };
        self.0.send(change).await.map_err(|_| FabricError::Draining)?;
        Recording(written).durable().await
    }

    /// Hands in a change without waiting; refused where as many wait as may.
    pub fn try_write(&self, ops: Vec<RecordOp>) -> Result<Recording, FabricError> {
        let (done, written) = oneshot::channel();
        match self.0.try_send(Change { ops, done }) {
            Ok(()) => Ok(Recording(written)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(FabricError::Overloaded {
                what: "records that wait to be written",
                retry_after: std::time::Duration::from_secs(1),
            }),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(FabricError::Draining),
        }
    }
}

async fn write(store: Arc<dyn Store>, mut changes: mpsc::Receiver<Change>) {
    let mut together = Vec::new();
    while changes.recv_many(&mut together, TOGETHER_MAX).await > 0 {
        let (ops, waiting): (Vec<_>, Vec<_>) = together.drain(..).map(|change| (change.ops, change.done)).unzip();
        let written = store.write_records(ops.into_iter().flatten().collect()).await;
        for done in waiting {
            // Whoever asked may have gone away.
            let _ = done.send(written.clone());
        }
    }
}

impl Fabric {
    /// Changes what an edge keeps of its sessions, all or none, durable when this returns: `None` deletes. A key begins with the
    /// session's address. Changes of many sessions share a commit.
    pub async fn keep_of_sessions(&self, changes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), FabricError> {
        let op = |(key, value)| match value {
            Some(value) => RecordOp::Put {
                table: Table::Sessions,
                key,
                value,
            },
            None => RecordOp::Delete {
                table: Table::Sessions,
                key,
            },
        };
        self.0.records.write(changes.into_iter().map(op).collect()).await
    }

    /// All that edges kept of sessions, in order of key.
    pub async fn kept_of_sessions(&self) -> Result<Records, FabricError> {
        Ok(self.0.store.scan_records(Table::Sessions).await?)
    }
}
