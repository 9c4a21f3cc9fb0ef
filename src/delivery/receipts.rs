//! The receipts of a shard, in the order in which they were settled: the order in which they leave. Start at [`Receipts`].

use std::collections::VecDeque;

use super::parted::Parted;
use crate::frame::{
    Seq,
    record::{MessageKey, Receipt, SettleNo},
};

/// A message at an address: its key and the address's hash, mixed. The key is 128 bits that nobody outside can foresee, so that two of
/// them no more meet than two keys do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct CopyKey([u64; 2]);

impl CopyKey {
    pub fn new(key: MessageKey, address: u64) -> Self {
        /// Spreads an address's 64 bits over the key's 128: 2^128 divided by the golden ratio.
        const SPREAD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        let mixed = key.raw() ^ u128::from(address).wrapping_mul(SPREAD);
        Self([mixed as u64, (mixed >> 64) as u64])
    }
}

/// Receipts of a chunk: a shard with few of them keeps little room, and none is moved when others come.
const CHUNK: usize = 64;

/// A receipt in its place; `None`: it was taken out, and its place goes when all before it are gone. The first is never one.
type Entry = (SettleNo, Option<Receipt>);

/// Settled receipts: found by sequence, left by age.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    /// Each but the last has [`CHUNK`] entries.
    chunks: VecDeque<Vec<Entry>>,
    /// Entries of the first chunk that are gone.
    gone: usize,
    /// The place of the first chunk's first entry. Places are counted round: far fewer are in use than there are.
    first: u32,
    places: Parted<Seq, u32>,
}

impl Receipts {
    /// Receipts held.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn get(&self, seq: Seq) -> Option<&Receipt> {
        let (chunk, at) = self.entry_of(*self.places.get(&seq)?);
        self.chunks[chunk][at].1.as_ref()
    }

    /// Adds the receipt that was settled last. A sequence has one receipt: an older one is taken back.
    pub fn push(&mut self, settle_no: SettleNo, receipt: Receipt) {
        self.take_back(receipt.seq);
        if self.chunks.back().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push_back(Vec::new());
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let chunk = self.chunks.back_mut().expect("pushed above where there was none");
        // Within 32 bits: the bounds of a shard are far below.
        let place = self.first.wrapping_add((before + chunk.len()) as u32);
        chunk.push((settle_no, Some(receipt)));
        self.places.insert(receipt.seq, place);
    }

    /// Takes a receipt out, from wherever it stands.
    pub fn take_back(&mut self, seq: Seq) -> Option<Receipt> {
        let place = self.places.remove(&seq)?;
        let (chunk, at) = self.entry_of(place);
        let receipt = self.chunks[chunk][at].1.take();
        self.pass_gone();
        receipt
    }

    /// The receipt that leaves next.
    pub fn oldest(&self) -> Option<(SettleNo, &Receipt)> {
        let (settle_no, receipt) = self.chunks.front()?.get(self.gone)?;
        Some((*settle_no, receipt.as_ref()?))
    }

    /// Gives memory back where most of what was held is gone.
    pub fn bound_memory(&mut self) {
        self.places.bound_memory();
    }

    /// Lets go of the places before the first receipt.
    fn pass_gone(&mut self) {
        while let Some(first) = self.chunks.front()
            && first.get(self.gone).is_some_and(|(_, receipt)| receipt.is_none())
        {
            self.gone += 1;
            if self.gone == CHUNK {
                self.chunks.pop_front();
                (self.gone, self.first) = (0, self.first.wrapping_add(CHUNK as u32));
            }
        }
    }

    /// All of them, the oldest first.
    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = (SettleNo, &Receipt)> {
        let held = self.chunks.iter().flatten().skip(self.gone);
        held.filter_map(|(settle_no, receipt)| Some((*settle_no, receipt.as_ref()?)))
    }

    fn entry_of(&self, place: u32) -> (usize, usize) {
        let at = place.wrapping_sub(self.first) as usize;
        (at / CHUNK, at % CHUNK)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        frame::record::{IdHash, Reason, Status},
        time::Timestamp,
    };

    fn receipt(number: u64) -> Receipt {
        Receipt {
            key: MessageKey::from_raw(u128::from(number)),
            address: 7,
            id_hash: IdHash::from_raw(number),
            seq: Seq::from_raw(number),
            status: Status::Delivered,
            reason: Reason::None,
            attempts: 1,
            recipients: 1,
            accepted_at: Timestamp::NEVER,
            sent_at: Timestamp::NEVER,
            settled_at: Timestamp::NEVER,
        }
    }

    proptest! {
        /// Steps: below 300 a receipt is pushed, else the one that many before the newest is taken back, or the oldest.
        #[test]
        fn they_leave_in_their_order_whatever_was_taken_out(steps in proptest::collection::vec(0..500u64, 0..900)) {
            let (mut receipts, mut model) = (Receipts::default(), Vec::new());
            for (number, step) in (0..).zip(steps) {
                let settle_no = SettleNo::from_raw(number);
                match step {
                    0..300 => {
                        receipts.push(settle_no, receipt(number));
                        model.push((settle_no, number));
                    }
                    300..400 if !model.is_empty() => {
                        let at = (model.len() - 1).saturating_sub(step as usize - 300);
                        let (_, seq) = model.remove(at);
                        prop_assert_eq!(receipts.take_back(Seq::from_raw(seq)), Some(receipt(seq)));
                        prop_assert_eq!(receipts.take_back(Seq::from_raw(seq)), None);
                    }
                    _ if !model.is_empty() => {
                        let (_, seq) = model.remove(0);
                        receipts.take_back(Seq::from_raw(seq));
                    }
                    _ => {}
                }
                let oldest = receipts.oldest().map(|(settle_no, receipt)| (settle_no, receipt.seq.raw()));
                prop_assert_eq!(oldest, model.first().copied());
                prop_assert_eq!(receipts.len(), model.len());
                prop_assert!(receipts.chunks.len() <= number as usize / CHUNK + 1);
            }
            for (_, seq) in model {
                prop_assert_eq!(receipts.get(Seq::from_raw(seq)), Some(&receipt(seq)));
            }
        }
    }

    #[test]
    fn what_left_leaves_no_memory_behind() {
        let mut receipts = Receipts::default();
        for number in 0..10_000 {
            receipts.push(SettleNo::from_raw(number), receipt(number));
            if number >= 100 {
                receipts.take_back(Seq::from_raw(number - 100));
            }
        }
        assert_eq!(receipts.len(), 100);
        assert!(receipts.chunks.len() <= 100 / CHUNK + 2);
    }
}
