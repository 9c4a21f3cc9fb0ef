//! What a failed commit leaves behind, and how the shard comes out of it.
//!
//! An enqueue that failed is undone. A settle that failed leaves its message in doubt: the store may or may not have it, so that the
//! message is neither gone nor handed out again (G7); it is settled again after a while. Copies that failed are applied again too:
//! their source waits for them, and the cursor must not pass them meanwhile.

use super::{
    message::State,
    output::{After, Out, Verdict},
    receipts::CopyKey,
    state::{ShardState, Timer},
};
use crate::frame::Seq;

/// The wait before what failed is tried again: a full disk has room again once something settles or is cleaned up, within seconds.
pub(super) const AGAIN_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

impl<A> ShardState<A> {
    /// A commit failed: what it would have changed is undone here or tried again later, and the callers learn it. What the store
    /// really holds shows at the next start; until then a failed store takes no writes.
    pub fn handle_failed(&mut self, after: Vec<After<A>>, out: &mut Out<A>) {
        for item in after {
            let answer = match item {
                After::Enqueued { seq, answer } | After::Replayed { seq, answer } => {
                    self.undo_enqueue(seq);
                    answer
                }
                After::Settled { seq, answer, .. } => {
                    self.undo_settle(seq);
                    answer
                }
                After::Duplicate { answer, .. } | After::SettledToo { answer, .. } => answer,
                After::Rejected { seq, answer } => {
                    self.undo_rejection(seq);
                    answer
                }
                After::Relayed { source, seq, copies } => {
                    self.copies_failed(source, seq, copies);
                    None
                }
            };
            out.answers.extend(answer.map(|answer| (answer, Verdict::Failed)));
        }
    }

    fn undo_enqueue(&mut self, seq: Seq) {
        let Some(message) = self.remove_message(seq) else {
            return;
        };
        let copy = CopyKey::new(message.key, message.address);
        let dead = self.replaying.remove(&seq);
        if self.newest.get(&copy) == Some(&seq) {
            match dead.filter(|dead| self.receipts.get(*dead).is_some()) {
                Some(dead) => self.newest.insert(copy, dead),
                None => self.newest.remove(&copy),
            };
        }
        self.by_id.remove(&(message.id_hash, seq));
        let queue = self.queue_mut(message.queue);
        if message.is_unsettled() {
            queue.messages -= 1;
            queue.bytes -= message.weight();
        } else {
            // Settled before its enqueue was committed: that settle is of nothing now.
            queue.settling -= 1;
            self.receipts.take_back(seq);
        }
        self.forget_idle_queue(message.queue);
    }

    /// The copy comes again with the others of its fan-out; were its receipt left, it would be taken for a repeat, and no store would have
    /// the receipt.
    fn undo_rejection(&mut self, seq: Seq) {
        self.evict_receipt(seq);
    }

    fn undo_settle(&mut self, seq: Seq) {
        let receipt = self.receipts.take_back(seq);
        let (Some(message), Some(receipt)) = (self.messages.get_mut(&seq), receipt) else {
            return;
        };
        let State::Settling { consumer, lease } = message.state else {
            return;
        };
        message.state = State::InDoubt {
            consumer,
            lease,
            status: receipt.status,
            reason: receipt.reason,
        };
        let (ix, weight) = (message.queue, message.weight());
        let queue = self.queue_mut(ix);
        queue.messages += 1;
        queue.bytes += weight;
        queue.settling -= 1;
        self.set_timer(self.latest + AGAIN_AFTER, Timer::SettleAgain(seq));
    }
}
