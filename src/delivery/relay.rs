//! Fan-out across shards, at the source: the outbox.
//!
//! The source commits the message with its targets, relays in order of sequence and settles once every shard has applied its
//! copies. `copies.rs` has the other end.

use super::{
    hand_out::{READ_AHEAD, READ_AHEAD_BYTES},
    message::{Message, State},
    output::{Out, Relay},
    state::ShardState,
};
use crate::{
    frame::{
        Address, Seq, ShardId,
        record::{Reason, Status},
    },
    time::Timestamp,
};

/// Most fan-outs whose copies one shard has under way at once; the next ones wait in its outbox.
pub(super) const RELAYS_MAX: usize = 256;

impl<A> ShardState<A> {
    /// Relays what waits in the outbox, oldest first, a bounded number at once.
    pub(super) fn pump_outbox(&mut self, now: Timestamp, out: &mut Out<A>) {
        while self.relaying < RELAYS_MAX {
            let Some(seq) = self.outbox.front().copied() else {
                return;
            };
            let waits = |message: &&Message| matches!(message.state, State::Relaying { shards_left: 0 });
            let Some(message) = self.messages.get(&seq).filter(waits) else {
                // Settled since: its group was removed.
                self.outbox.pop_front();
                continue;
            };
            if message.is_expired(now) {
                self.outbox.pop_front();
                self.expire(seq, now, out);
                continue;
            }
            let shards = by_shard(message.targets.as_deref().unwrap_or_default());
            debug_assert!(!shards.is_empty(), "what goes to nobody never enters the outbox");
            // The store has the body; the copies carry their own reference to it.
            let Some(frame) = self.take_frame(seq) else {
                return self.read_outbox_ahead(out);
            };
            self.outbox.pop_front();
            self.relaying += 1;
            if let Some(message) = self.messages.get_mut(&seq) {
                message.state = State::Relaying {
                    shards_left: u32::try_from(shards.len()).unwrap_or(u32::MAX),
                };
            }
            for (to, targets) in shards {
                out.relays.push(Relay {
                    seq,
                    to,
                    frame: frame.clone(),
                    targets,
                });
            }
        }
    }

    fn read_outbox_ahead(&mut self, out: &mut Out<A>) {
        let mut bytes = 0;
        let ahead: Vec<Seq> = (self.outbox.iter().copied().take(READ_AHEAD).enumerate())
            .take_while(|(at, seq)| {
                bytes += self.messages.get(seq).map_or(0, Message::weight);
                *at == 0 || bytes <= READ_AHEAD_BYTES
            })
            .map(|(_, seq)| seq)
            .collect();
        ahead.into_iter().for_each(|seq| self.load(seq, out));
    }

    /// A target shard has applied its copies of a fan-out.
    pub fn handle_relay_done(&mut self, seq: Seq, now: Timestamp, out: &mut Out<A>) {
        let Some(message) = self.messages.get_mut(&seq) else {
            return;
        };
        let State::Relaying { shards_left } = &mut message.state else {
            return;
        };
        match shards_left {
            0 => return,
            1 => {}
            _ => {
                *shards_left -= 1;
                return;
            }
        }
        self.settle(seq, Status::Delivered, Reason::FannedOut, None, now, out);
    }
}

/// Targets gathered by their home shard, in order of shard.
fn by_shard(targets: &[Address]) -> Vec<(ShardId, Vec<Address>)> {
    let mut sorted: Vec<_> = targets
        .iter()
        .map(|target| (target.home_shard(), target.clone()))
        .collect();
    sorted.sort_by_key(|(shard, _)| *shard);
    let mut gathered: Vec<(ShardId, Vec<Address>)> = Vec::new();
    for (shard, target) in sorted {
        match gathered.last_mut() {
            Some((last, targets)) if *last == shard => targets.push(target),
            _ => gathered.push((shard, vec![target])),
        }
    }
    gathered
}
