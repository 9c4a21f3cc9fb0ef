//! Fan-out across shards: the outbox of the source and the cursor of the target.
//!
//! The source commits the message with its targets, relays in order of sequence and settles once every shard has applied its
//! copies. The target applies copies under a cursor (source, sequence), so that a repeat after a crash changes nothing.

use super::{
    Gate,
    hand_out::{READ_AHEAD, READ_AHEAD_BYTES},
    message::{Message, State},
    output::{After, Out, Relay, Targets},
    queue::QueueKind,
    settle::RejectedCopy,
    state::{Publish, Route, ShardState},
};
use crate::{
    frame::{
        Address, Frame, Qos, Seq, ShardId,
        record::{IdHash, MessageKey, Op, Reason, Status},
    },
    time::Timestamp,
};

/// Most fan-outs whose copies one shard has under way at once; the next ones wait in its outbox.
pub(super) const RELAYS_MAX: usize = 256;

/// Copies that arrive at a target shard.
#[derive(Clone, Debug)]
pub struct Copies {
    pub source: ShardId,
    /// `None` at QoS 0.
    pub seq: Option<Seq>,
    pub frame: Frame,
    pub key: MessageKey,
    pub id_hash: IdHash,
    pub targets: Vec<Address>,
}

impl<A> ShardState<A> {
    pub(super) fn relay_at_once(&self, frame: &Frame, targets: &Targets, out: &mut Out<A>) {
        for (to, targets) in by_shard(targets) {
            out.relays.push(Relay {
                seq: None,
                to,
                frame: frame.clone(),
                targets,
            });
        }
    }

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
                    seq: Some(seq),
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

    /// Copies from another shard (or this one).
    pub fn handle_copies(&mut self, copies: Copies, now: Timestamp, out: &mut Out<A>, gate: &Gate<'_>) {
        if let Some(seq) = copies.seq {
            let applied = self.cursors.entry(copies.source).or_default();
            if *applied >= seq {
                self.after.push(After::Relayed {
                    source: copies.source,
                    seq,
                    copies: None,
                });
                return;
            }
            *applied = seq;
        }
        self.apply_copies(copies, now, out, gate);
    }

    pub(super) fn apply_copies(&mut self, copies: Copies, now: Timestamp, out: &mut Out<A>, gate: &Gate<'_>) {
        let ops_before = self.ops.len();
        for target in &copies.targets {
            self.take_copy(&copies, target, now, out, gate);
        }
        if let Some(seq) = copies.seq {
            let source = copies.source;
            if self.ops.len() > ops_before {
                let upto = self.cursor_of(source);
                self.ops.push(Op::Cursor { source, upto });
            }
            let copies = Some(Box::new(copies));
            self.after.push(After::Relayed { source, seq, copies });
        }
    }

    /// What the store may hold as applied: nothing at or above copies that failed and are to be applied again, or a restart in between
    /// would drop them as repeats.
    fn cursor_of(&self, source: ShardId) -> Seq {
        let applied = self.cursors.get(&source).copied().unwrap_or_default();
        let failed = self.failed_copies.range((source, Seq::ZERO)..).next();
        match failed {
            Some(((of, seq), _)) if *of == source => applied.min(Seq::from_raw(seq.raw().saturating_sub(1))),
            _ => applied,
        }
    }

    fn take_copy(&mut self, copies: &Copies, target: &Address, now: Timestamp, out: &mut Out<A>, gate: &Gate<'_>) {
        let rejected = |reason| RejectedCopy {
            key: copies.key,
            id_hash: copies.id_hash,
            address: target.clone(),
            reason,
        };
        let is_durable = copies.frame.envelope.qos() != Qos::AtMostOnce;
        let found = self.find_queue(target.hash64(), target.as_str());
        let is_session = QueueKind::of(target) == QueueKind::DurableSession;
        let is_known = || self.keys.contains_key(&(copies.key, target.hash64()));
        match found {
            None if is_session && is_durable && is_known() => return,
            None if is_session && is_durable => return self.reject_copy(&rejected(Reason::Removed), now, out),
            Some(ix) if is_durable && self.full(ix, copies.frame.encoded_len()).is_some() => {
                if !is_known() {
                    self.reject_copy(&rejected(Reason::QueueFull), now, out);
                }
                return;
            }
            _ => {}
        }
        let publish = Publish {
            frame: copies.frame.clone(),
            key: copies.key,
            id_hash: copies.id_hash,
            route: Route::Copy { queue: target.clone() },
            answer: None,
        };
        self.handle_publish(publish, now, out, gate);
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
