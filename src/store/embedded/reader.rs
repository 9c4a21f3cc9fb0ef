//! The threads that read: messages by sequence, and whole shards out of a snapshot of the log.
//!
//! A segment may be reused between the look-up and the read. Sequences never repeat, so a record that names the shard
//! and the sequence asked for is the right one; any other means that the message has moved, and the look-up is
//! repeated. Start at [`Reader::run`].

use std::sync::Arc;

use bytes::Bytes;
use flume::Receiver;
use tokio::sync::oneshot;

use super::{
    disk::Disk,
    index::Location,
    record::{Change, Record},
    recover::{self, Snapshot},
    shared::Shared,
};
use crate::{
    frame::{Frame, Seq, ShardId, record::ShardImage},
    router::port::{ReadDone, StoreError},
    store::{lock, not_held},
};

/// Look-ups of one message: each further one needs that the message was moved, and its old segment reused, in between.
const LOOKUPS_MAX: usize = 16;

/// Frames that are owed to a caller. Given exactly once, also where a thread ends early.
pub(super) struct Owed {
    done: Option<ReadDone>,
    count: usize,
}

impl Owed {
    pub(super) fn new(count: usize, done: ReadDone) -> Self {
        Self {
            done: Some(done),
            count,
        }
    }

    fn give(mut self, frames: Vec<Result<Frame, StoreError>>) {
        if let Some(done) = self.done.take() {
            done(frames);
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done((0..self.count).map(|_| Err(StoreError::Closed)).collect());
        }
    }
}

/// What a reader is asked.
pub(super) enum Ask {
    Read {
        shard: ShardId,
        seqs: Vec<Seq>,
        owed: Owed,
    },
    Load {
        shard: ShardId,
        snapshot: Receiver<Result<Snapshot, StoreError>>,
        reply: oneshot::Sender<Result<ShardImage, StoreError>>,
    },
}

/// A reader's thread.
pub(super) struct Reader {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) asks: Receiver<Ask>,
}

impl Reader {
    /// Works until nobody can ask any more.
    pub(super) fn run(self) {
        while let Ok(ask) = self.asks.recv() {
            match ask {
                Ask::Read { shard, seqs, owed } => {
                    owed.give(seqs.into_iter().map(|seq| self.read(shard, seq)).collect());
                }
                Ask::Load { shard, snapshot, reply } => {
                    // Who asked may have gone away meanwhile.
                    let _ = reply.send(self.load(shard, &snapshot));
                }
            }
        }
    }

    fn load(
        &self,
        shard: ShardId,
        snapshot: &Receiver<Result<Snapshot, StoreError>>,
    ) -> Result<ShardImage, StoreError> {
        let snapshot = snapshot.recv().unwrap_or(Err(StoreError::Closed))?;
        recover::load(&*self.disk, &snapshot, shard).map_err(|error| StoreError::Damaged {
            what: error.to_string(),
        })
    }

    fn read(&self, shard: ShardId, seq: Seq) -> Result<Frame, StoreError> {
        let mut failure = not_held(shard, seq);
        let mut tried = None;
        for _ in 0..LOOKUPS_MAX {
            let Some(location) = lock(&self.shared.index).find(shard, seq) else {
                return Err(not_held(shard, seq));
            };
            if tried == Some(location) {
                break;
            }
            match self.read_at(shard, seq, location) {
                Ok(frame) => return Ok(frame),
                Err(what) => failure = StoreError::Damaged { what },
            }
            tried = Some(location);
        }
        Err(failure)
    }

    fn read_at(&self, shard: ShardId, seq: Seq, location: Location) -> Result<Frame, String> {
        let segment = lock(&self.shared.segments).get(location.generation).map(Arc::clone);
        let segment = segment.ok_or("its segment was freed")?;
        let damage = |what: &dyn std::fmt::Display| {
            format!(
                "message {:x} of {shard}: {} at byte {}: {what}",
                seq.raw(),
                self.disk.name(segment.slot),
                location.offset
            )
        };
        // A buffer of its own for each message: what one session is slow to take must not pin the others.
        let mut bytes = vec![0; location.bytes as usize];
        let read = segment.file.read_at(&mut bytes, u64::from(location.offset));
        read.map_err(|error| damage(&error))?;
        let bytes = Bytes::from(bytes);
        let (record, _) = Record::split(&bytes).map_err(|fault| damage(&fault))?;
        match record.change {
            Change::Message(message) if record.shard == shard && message.seq == seq => {
                let mut frame = bytes.slice_ref(message.frame);
                Frame::decode_stored(&mut frame).map_err(|error| damage(&error))
            }
            _ => Err(damage(&"another record stands there")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        contract::{claim_one, commit, enqueue, seq, shard},
        embedded::{crash::open, fake_disk::FakeDisk},
    };

    #[test]
    fn a_record_that_is_not_the_one_asked_for_is_never_given() {
        let disk = FakeDisk::new(1);
        let store = open(&disk, 1000).unwrap();
        let fence = claim_one(&store, shard(1));
        commit(&store, shard(1), fence, vec![enqueue(1, 10), enqueue(2, 10)]).unwrap();
        let reader = Reader {
            shared: Arc::clone(&store.shared),
            disk: Arc::new(disk),
            asks: flume::bounded(1).1,
        };
        let location = lock(&store.shared.index).find(shard(1), seq(2)).unwrap();
        assert!(reader.read_at(shard(1), seq(2), location).is_ok());
        for (other_shard, other_seq) in [(shard(1), seq(1)), (shard(2), seq(2))] {
            let error = reader.read_at(other_shard, other_seq, location).unwrap_err();
            assert!(error.contains("another record"), "{error}");
        }
    }
}
