//! The least that a store is: operations applied in order, and an image of the result.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    frame::{
        Frame, Seq, ShardId,
        record::{Enqueue, Keep, Op, Receipt, SettleNo, ShardImage, StoredMessage},
    },
    time::Timestamp,
};

#[derive(Debug, Default)]
pub struct ModelStore {
    pub messages: BTreeMap<Seq, (StoredMessage, Frame)>,
    pub receipts: BTreeMap<SettleNo, Receipt>,
    pub cursors: BTreeMap<ShardId, Seq>,
    pub receipt_floor: SettleNo,
    /// Every sequence that was ever enqueued, and every one that was ever settled.
    pub enqueued: BTreeSet<Seq>,
    pub settled: BTreeSet<Seq>,
}

impl ModelStore {
    pub fn apply(&mut self, ops: Vec<Op>) {
        for op in ops {
            self.apply_one(op);
        }
    }

    fn apply_one(&mut self, op: Op) {
        match op {
            Op::Enqueue(enqueue) => self.enqueue(enqueue),
            Op::Attempt {
                seq,
                attempts,
                not_before,
            } => {
                if let Some((message, _)) = self.messages.get_mut(&seq) {
                    message.attempts = attempts;
                    message.not_before = not_before;
                }
            }
            Op::Settle {
                settle_no,
                receipt,
                keep,
            } => {
                assert!(self.settled.insert(receipt.seq), "{:?} is settled once", receipt.seq);
                self.receipts.insert(settle_no, receipt);
                match keep {
                    Keep::Nothing => drop(self.messages.remove(&receipt.seq)),
                    keep => {
                        self.messages
                            .get_mut(&receipt.seq)
                            .expect("what is kept was enqueued")
                            .0
                            .keep = keep
                    }
                }
            }
            Op::Forget { seq } => drop(self.messages.remove(&seq)),
            Op::ReceiptFloor { settle_no } => {
                assert!(settle_no >= self.receipt_floor, "the floor never falls");
                self.receipt_floor = settle_no;
                self.receipts = self.receipts.split_off(&settle_no);
            }
            Op::Cursor { source, upto } => {
                let cursor = self.cursors.entry(source).or_default();
                *cursor = upto.max(*cursor);
            }
        }
    }

    fn enqueue(&mut self, enqueue: Enqueue) {
        assert!(self.enqueued.insert(enqueue.seq), "{:?} is enqueued once", enqueue.seq);
        let (stamp, envelope) = (&enqueue.frame.stamp, &enqueue.frame.envelope);
        let message = StoredMessage {
            seq: enqueue.seq,
            queue: enqueue.queue,
            key: enqueue.key,
            id_hash: enqueue.id_hash,
            priority: envelope.priority(),
            qos: envelope.qos(),
            accepted_at: stamp.accepted_at,
            expires_at: stamp.expires_at,
            bytes: u32::try_from(enqueue.frame.encoded_len()).unwrap(),
            attempts: 0,
            not_before: Timestamp::NEVER,
            keep: Keep::Nothing,
            targets: enqueue.targets,
        };
        self.messages.insert(enqueue.seq, (message, enqueue.frame));
    }

    pub fn holds(&self, seq: Seq) -> bool {
        self.messages.contains_key(&seq)
    }

    pub fn has_receipt(&self, seq: Seq) -> bool {
        self.receipts.values().any(|receipt| receipt.seq == seq)
    }

    pub fn image(&self) -> ShardImage {
        ShardImage {
            messages: self.messages.values().map(|(message, _)| message.clone()).collect(),
            receipts: self.receipts.iter().map(|(no, receipt)| (*no, *receipt)).collect(),
            cursors: self.cursors.iter().map(|(source, upto)| (*source, *upto)).collect(),
            receipt_floor: self.receipt_floor,
        }
    }
}
