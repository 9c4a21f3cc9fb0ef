//! A topic's message that has one target goes straight to the target's shard: one commit instead of two.
//!
//! Only while nothing of the topic is on its way through the outbox, which it would overtake. The shard of the topic keeps nothing of it:
//! the receipt is the target's. Start at [`ShardState::send_straight`].

use super::{
    Gate,
    copies::Fate,
    output::{Out, Straight},
    receipts::CopyKey,
    state::{Publish, Route, ShardState},
};
use crate::{frame::Address, time::Timestamp};

impl<A> ShardState<A> {
    /// At the topic's shard.
    pub(super) fn send_straight(&mut self, publish: Publish<A>, now: Timestamp, out: &mut Out<A>, gate: &Gate<'_>) {
        let Route::Straight { hash, target } = &publish.route else {
            unreachable!("only what may go straight is sent so");
        };
        let topic = self.find_queue(*hash, publish.frame.envelope.to());
        let is_under_way = topic.is_some_and(|ix| self.queue(ix).messages > 0);
        let is_known = self.newest.get(&CopyKey::new(publish.key, *hash)).is_some();
        if is_under_way || is_known {
            let route = publish.route.by_outbox();
            return self.handle_publish(Publish { route, ..publish }, now, out, gate);
        }
        let (to, queue) = (target.home_shard(), target.clone());
        let route = Route::Copy { queue };
        let publish = Box::new(Publish { route, ..publish });
        out.straight.push(Straight { to, publish });
    }

    /// At the target's shard.
    pub fn handle_straight(&mut self, publish: Publish<A>, now: Timestamp, out: &mut Out<A>, gate: &Gate<'_>) {
        let Route::Copy { queue } = &publish.route else {
            unreachable!("it was made so");
        };
        let target: Address = queue.clone();
        match self.fate_of_copy(publish.key, &target, publish.frame.encoded_len()) {
            Fate::Taken => self.handle_publish(publish, now, out, gate),
            Fate::Known(seq) => self.answer_duplicate(seq, publish.answer, out),
            Fate::Rejected(reason) => {
                let copy = (publish.key, publish.id_hash, &target);
                self.reject_copy(copy, reason, publish.answer, now, out);
            }
        }
    }
}
