//! Small records that are looked up by key, and who owns which shard: a redb file beside the log.
//!
//! One thread owns it. What waits is written in one transaction, so that many registrations share a sync. Knows
//! nothing of messages. Start at [`Registry`].

use flume::Receiver;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction};
use tokio::sync::oneshot;

use super::{random_u64, shared::Shared};
use crate::{
    frame::{ShardId, limits::SHARDS, record::Fence},
    router::port::{RecordOp, StoreError, Table},
};

/// Requests that wait for the registry before callers block.
pub(super) const ASKS_WAITING_MAX: usize = 1024;
/// Requests that share a transaction: bounds its memory and how long the first waits.
const BATCH_MAX: usize = 256;
/// redb's page cache, in bytes: the registry of 50,000 agents fits, and the upper pages of one of millions. The kernel caches the file as
/// well.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const SEED: &str = "seed";
/// Shard to (epoch, nonce) of its newest fence.
const FENCES: TableDefinition<'_, u16, (u64, u64)> = TableDefinition::new("fences");

fn definition(table: Table) -> TableDefinition<'static, &'static str, &'static [u8]> {
    TableDefinition::new(match table {
        Table::Agents => "agents",
        Table::Groups => "groups",
        Table::Subscriptions => "subscriptions",
        Table::Sessions => "sessions",
        Table::Retained => "retained",
    })
}

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the registry is asked.
pub(super) enum Ask {
    Claim {
        shards: Vec<ShardId>,
        reply: Reply<Vec<Fence>>,
    },
    Write {
        ops: Vec<RecordOp>,
        reply: Reply<()>,
    },
    Scan {
        table: Table,
        reply: Reply<Vec<(String, Vec<u8>)>>,
    },
}

/// An open registry.
#[derive(Debug)]
pub(super) struct Registry {
    database: Database,
    seed: u64,
    fences: Vec<Option<Fence>>,
}

impl Registry {
    /// Opens a registry or makes a new one, with a seed of its own. The error is redb's, in words.
    pub(super) fn open(backend: impl StorageBackend) -> Result<Self, String> {
        let database = redb::Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(backend)
            .map_err(|error| error.to_string())?;
        let mut registry = Self {
            database,
            seed: 0,
            fences: vec![None; usize::from(SHARDS)],
        };
        match registry.read_meta().map_err(|error| error.to_string())? {
            Some(seed) => registry.seed = seed,
            None => registry.seed = registry.make_tables().map_err(|error| error.to_string())?,
        }
        Ok(registry)
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn fences(&self) -> Vec<Option<Fence>> {
        self.fences.clone()
    }

    /// Reads seed and fences; `None` where the registry is new.
    fn read_meta(&mut self) -> Result<Option<u64>, redb::Error> {
        let read = self.database.begin_read()?;
        let meta = match read.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(seed) = meta.get(SEED)?.map(|seed| seed.value()) else {
            return Ok(None);
        };
        for row in read.open_table(FENCES)?.iter()? {
            let (shard, fence) = row?;
            let (epoch, nonce) = fence.value();
            if let Some(slot) = self.fences.get_mut(usize::from(shard.value())) {
                *slot = Some(Fence { epoch, nonce });
            }
        }
        Ok(Some(seed))
    }

    fn make_tables(&self) -> Result<u64, redb::Error> {
        let seed = random_u64();
        let write = self.database.begin_write()?;
        write.open_table(META)?.insert(SEED, seed)?;
        write.open_table(FENCES)?;
        for table in Table::ALL {
            write.open_table(definition(table))?;
        }
        write.commit()?;
        Ok(seed)
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self, shared: &Shared, asks: &Receiver<Ask>) {
        while let Ok(first) = asks.recv() {
            let mut batch = vec![first];
            batch.extend(asks.try_iter().take(BATCH_MAX - 1));
            self.serve(shared, batch);
        }
    }

    fn serve(&mut self, shared: &Shared, batch: Vec<Ask>) {
        let mut claimed = match self.write_all(shared, &batch) {
            Ok(claimed) => Ok(claimed.into_iter()),
            Err(error) => Err(error),
        };
        // Whoever asked may have gone away meanwhile: a reply that nobody takes is no error.
        for ask in batch {
            match ask {
                Ask::Claim { shards, reply } => {
                    let fences = match &mut claimed {
                        Ok(claimed) => Ok(claimed.next().expect("each claim of the batch was written")),
                        Err(error) => Err(error.clone()),
                    };
                    if let Ok(fences) = &fences {
                        shared.set_owners(&shards, fences);
                    }
                    let _ = reply.send(fences);
                }
                Ask::Write { reply, .. } => {
                    let _ = reply.send(claimed.as_ref().map(|_| ()).map_err(Clone::clone));
                }
                Ask::Scan { table, reply } => {
                    let rows = self.scan(table);
                    let _ = reply.send(rows.map_err(|error| StoreError::Damaged {
                        what: format!("the registry cannot be read: {error}"),
                    }));
                }
            }
        }
    }

    /// Writes a batch in one transaction; returns the fences of each claim in it.
    fn write_all(&mut self, shared: &Shared, batch: &[Ask]) -> Result<Vec<Vec<Fence>>, StoreError> {
        if batch.iter().all(|ask| matches!(ask, Ask::Scan { .. })) {
            return Ok(Vec::new());
        }
        shared.health.check()?;
        let before = self.fences.clone();
        self.write(batch).map_err(|error| {
            self.fences = before;
            shared.health.fail(format!("a write of the registry failed: {error}"))
        })
    }

    fn write(&mut self, batch: &[Ask]) -> Result<Vec<Vec<Fence>>, redb::Error> {
        let write = self.database.begin_write()?;
        let mut claimed = Vec::new();
        for ask in batch {
            match ask {
                Ask::Claim { shards, .. } => claimed.push(self.claim(&write, shards)?),
                Ask::Write { ops, .. } => apply(&write, ops)?,
                Ask::Scan { .. } => {}
            }
        }
        write.commit()?;
        Ok(claimed)
    }

    fn claim(&mut self, write: &WriteTransaction, shards: &[ShardId]) -> Result<Vec<Fence>, redb::Error> {
        let mut table = write.open_table(FENCES)?;
        let mut fences = Vec::with_capacity(shards.len());
        for shard in shards {
            let newest = &mut self.fences[shard.index()];
            let fence = Fence {
                epoch: newest.map_or(0, |fence| fence.epoch) + 1,
                nonce: random_u64(),
            };
            table.insert(shard.get(), (fence.epoch, fence.nonce))?;
            *newest = Some(fence);
            fences.push(fence);
        }
        Ok(fences)
    }

    fn scan(&self, table: Table) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
        let read = self.database.begin_read()?;
        let mut rows = Vec::new();
        let records = match read.open_table(definition(table)) {
            Ok(records) => records,
            // The registry is older than this table, and nothing was written to it yet.
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(rows),
            Err(error) => return Err(error.into()),
        };
        for row in records.iter()? {
            let (key, value) = row?;
            rows.push((key.value().to_owned(), value.value().to_owned()));
        }
        Ok(rows)
    }
}

fn apply(write: &WriteTransaction, ops: &[RecordOp]) -> Result<(), redb::Error> {
    for op in ops {
        match op {
            RecordOp::Put { table, key, value } => {
                write
                    .open_table(definition(*table))?
                    .insert(key.as_str(), value.as_slice())?;
            }
            RecordOp::Delete { table, key } => {
                write.open_table(definition(*table))?.remove(key.as_str())?;
            }
        }
    }
    Ok(())
}
