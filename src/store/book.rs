//! What a store holds of one shard, and what each operation does to it.
//!
//! A plain state: no bytes of messages, no files, no fences. Every rule is idempotent and holds when a prefix of the
//! history is missing or a message's record is repeated further on with its state of then, which is what a log that
//! is cleaned from its oldest end replays. Start at [`Book`].

use std::collections::BTreeMap;

use crate::{
    frame::{
        Seq, ShardId,
        record::{Keep, Receipt, SettleNo, ShardImage, StoredMessage},
    },
    time::Timestamp,
};

/// One shard's messages, receipts, cursors and receipt floor.
#[derive(Debug, Default)]
pub(super) struct Book {
    messages: BTreeMap<Seq, StoredMessage>,
    receipts: BTreeMap<SettleNo, Receipt>,
    cursors: BTreeMap<ShardId, Seq>,
    receipt_floor: SettleNo,
}

impl Book {
    /// A message enters, or is repeated with its state of now.
    pub(super) fn message(&mut self, message: StoredMessage) {
        self.messages.insert(message.seq, message);
    }

    /// Records failed deliveries of a message that is still held.
    pub(super) fn attempt(&mut self, seq: Seq, attempts: u32, not_before: Timestamp) {
        if let Some(message) = self.messages.get_mut(&seq) {
            message.attempts = attempts;
            message.not_before = not_before;
        }
    }

    /// A message leaves its queue: kept or gone, its receipt stays.
    pub(super) fn settle(&mut self, settle_no: SettleNo, receipt: Receipt, keep: Keep) {
        match (keep, self.messages.get_mut(&receipt.seq)) {
            (_, None) => {}
            (Keep::Nothing, Some(_)) => {
                self.messages.remove(&receipt.seq);
            }
            (keep, Some(message)) => message.keep = keep,
        }
        self.receipt(settle_no, receipt);
    }

    /// A receipt alone, of a message that left before.
    pub(super) fn receipt(&mut self, settle_no: SettleNo, receipt: Receipt) {
        if settle_no >= self.receipt_floor {
            self.receipts.insert(settle_no, receipt);
        }
    }

    /// A message leaves without a trace. Its receipt, if one stands, stays.
    pub(super) fn forget(&mut self, seq: Seq) {
        self.messages.remove(&seq);
    }

    /// Receipts below `floor` are out of the window. The floor never falls.
    pub(super) fn raise_floor(&mut self, floor: SettleNo) {
        if floor > self.receipt_floor {
            self.receipt_floor = floor;
            self.receipts = self.receipts.split_off(&floor);
        }
    }

    /// What `source` relayed up to `upto` is applied. A cursor never goes back.
    pub(super) fn cursor(&mut self, source: ShardId, upto: Seq) {
        let cursor = self.cursors.entry(source).or_insert(upto);
        *cursor = (*cursor).max(upto);
    }

    /// The message of that sequence, waiting or kept.
    pub(super) fn get(&self, seq: Seq) -> Option<&StoredMessage> {
        self.messages.get(&seq)
    }

    /// Messages held.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// A copy in the port's words.
    pub(super) fn image(&self) -> ShardImage {
        ShardImage {
            messages: self.messages.values().cloned().collect(),
            receipts: self.receipts.iter().map(|(no, receipt)| (*no, *receipt)).collect(),
            cursors: self.cursors.iter().map(|(source, upto)| (*source, *upto)).collect(),
            receipt_floor: self.receipt_floor,
        }
    }

    /// The same in the port's words, without a copy.
    pub(super) fn into_image(self) -> ShardImage {
        ShardImage {
            messages: self.messages.into_values().collect(),
            receipts: self.receipts.into_iter().collect(),
            cursors: self.cursors.into_iter().collect(),
            receipt_floor: self.receipt_floor,
        }
    }
}
