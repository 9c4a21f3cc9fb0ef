//! Fan-out across shards, at the target: copies come in, in the order in which their source sent them.
//!
//! Copies are applied under a cursor (source, sequence), so that a repeat after a crash changes nothing. Of one source only one commit
//! has copies at a time, and what comes meanwhile waits: a cursor in a commit therefore stands above copies of that very commit, which
//! are written all or none, and above such as are confirmed, never above one that may yet fail; and copies that fail are applied again
//! before the next ones, so that their order holds. Start at [`ShardState::handle_copies`].

use std::collections::BTreeMap;

use super::{
    Gate,
    failed::AGAIN_AFTER,
    output::{After, Out},
    queue::QueueKind,
    receipts::CopyKey,
    state::{Publish, Route, ShardState, Timer},
};
use crate::{
    frame::{
        Address, Frame, Seq, ShardId,
        record::{IdHash, MessageKey, Op, Reason},
    },
    time::Timestamp,
};

/// Bytes of copies that one commit of a shard takes, the last copy aside; further ones wait for the next commit. What a shard commits at
/// once is one group in the store's log, which must fit into a segment (32 MiB at least) together with a step's commands (8 MiB).
pub(super) const COPIES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Copies that arrive at a target shard.
#[derive(Clone, Debug)]
pub struct Copies {
    pub source: ShardId,
    pub seq: Seq,
    pub frame: Frame,
    pub key: MessageKey,
    pub id_hash: IdHash,
    pub targets: Vec<Address>,
}

/// What becomes of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Taken,
    /// It is here already, and its queue would take no more.
    Known(Seq),
    Rejected(Reason),
}

/// What of one source is under way here; there is none while everything that came is confirmed.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The highest sequence that came.
    seen: Seq,
    /// The commit that the unconfirmed ones stand in.
    commit: u64,
    pub unconfirmed: usize,
    /// Not applied yet, or only for a part of their targets. As many at most as a source has under way at once
    /// ([`super::relay::RELAYS_MAX`]).
    pub waiting: BTreeMap<Seq, Box<Copies>>,
    pub pace: Pace,
}

/// Whether what waits is applied as soon as it may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pace {
    #[default]
    Flowing,
    /// A commit failed: not before a timer says so.
    Resting,
}

impl Line {
    /// True where nothing of it may be applied now; what ends that calls for what waits.
    fn is_held(&self, commit: u64) -> bool {
        self.pace == Pace::Resting || (self.unconfirmed > 0 && self.commit != commit)
    }
}

impl<A> ShardState<A> {
    /// Copies from another shard (or this one).
    pub fn handle_copies(&mut self, copies: Copies, now: Timestamp, out: &mut Out<A>, gate: &Gate<'_>) {
        let (source, seq) = (copies.source, copies.seq);
        if self.cursors.get(&source).is_some_and(|confirmed| *confirmed >= seq) {
            out.relayed.push((source, seq));
            return;
        }
        let line = self.lines.entry(source).or_default();
        if line.seen >= seq {
            // Under way: one confirmation answers both.
            return;
        }
        line.seen = seq;
        line.waiting.insert(seq, Box::new(copies));
        self.apply_line(source, now, out, gate);
    }

    /// Applies copies whose turn has come since the last pump.
    pub(super) fn apply_due_copies(&mut self, now: Timestamp, out: &mut Out<A>, gate: &Gate<'_>) {
        for source in std::mem::take(&mut self.copies_due) {
            self.apply_line(source, now, out, gate);
        }
    }

    fn apply_line(&mut self, source: ShardId, now: Timestamp, out: &mut Out<A>, gate: &Gate<'_>) {
        while let Some(line) = self.lines.get_mut(&source) {
            if line.is_held(self.commit_no) || line.waiting.is_empty() {
                return;
            }
            if self.copied_bytes >= COPIES_BYTES_MAX {
                // The commit that has those bytes is followed by a pump.
                self.copies_due.push(source);
                return;
            }
            let Some((seq, copies)) = line.waiting.pop_first() else {
                return;
            };
            line.commit = self.commit_no;
            line.unconfirmed += 1;
            self.apply_copies(seq, copies, now, out, gate);
        }
    }

    fn apply_copies(&mut self, seq: Seq, mut copies: Box<Copies>, now: Timestamp, out: &mut Out<A>, gate: &Gate<'_>) {
        let (source, ops_before) = (copies.source, self.ops.len());
        let mut applied = 0;
        while applied < copies.targets.len() && (applied == 0 || self.copied_bytes < COPIES_BYTES_MAX) {
            let ops = self.ops.len();
            self.take_copy(&copies, &copies.targets[applied], now, out, gate);
            if self.ops.len() > ops {
                self.copied_bytes += copies.frame.encoded_len();
            }
            applied += 1;
        }
        let rest = copies.targets.split_off(applied);
        if !rest.is_empty() {
            let rest = Copies {
                targets: rest,
                ..(*copies).clone()
            };
            self.lines
                .entry(source)
                .or_default()
                .waiting
                .insert(seq, Box::new(rest));
        } else if self.ops.len() > ops_before {
            self.ops.push(Op::Cursor { source, upto: seq });
        }
        self.after.push(After::Relayed { source, seq, copies });
    }

    /// The commit that copies stand in is done.
    pub(super) fn copies_committed(&mut self, source: ShardId, seq: Seq, out: &mut Out<A>) {
        let Some(line) = self.lines.get_mut(&source) else {
            return;
        };
        line.unconfirmed -= 1;
        if !line.waiting.contains_key(&seq) {
            self.cursors.insert(source, seq);
            out.relayed.push((source, seq));
        }
        if line.unconfirmed > 0 {
            return;
        }
        if line.waiting.is_empty() {
            self.lines.remove(&source);
        } else if line.pace == Pace::Flowing {
            self.copies_due.push(source);
        }
    }

    /// The commit that copies stand in failed: they stand before everything of their source that is younger, and rest for a while.
    pub(super) fn copies_failed(&mut self, source: ShardId, seq: Seq, mut copies: Box<Copies>) {
        let Some(line) = self.lines.get_mut(&source) else {
            return;
        };
        line.unconfirmed -= 1;
        if let Some(rest) = line.waiting.remove(&seq) {
            copies.targets.extend(rest.targets);
        }
        line.waiting.insert(seq, copies);
        if std::mem::replace(&mut line.pace, Pace::Resting) == Pace::Flowing {
            self.set_timer(self.latest + AGAIN_AFTER, Timer::CopiesAgain(source));
        }
    }

    /// The rest is over: the next pump, which knows who may have the copies, applies them.
    pub(super) fn copies_again(&mut self, source: ShardId) {
        if let Some(line) = self.lines.get_mut(&source) {
            line.pace = Pace::Flowing;
            self.copies_due.push(source);
        }
    }

    fn take_copy(&mut self, copies: &Copies, target: &Address, now: Timestamp, out: &mut Out<A>, gate: &Gate<'_>) {
        match self.fate_of_copy(copies.key, target, copies.frame.encoded_len()) {
            Fate::Taken => {
                let publish = Publish {
                    frame: copies.frame.clone(),
                    key: copies.key,
                    id_hash: copies.id_hash,
                    route: Route::Copy { queue: target.clone() },
                    answer: None,
                };
                self.handle_publish(publish, now, out, gate);
            }
            Fate::Known(_) => {}
            Fate::Rejected(reason) => self.reject_copy((copies.key, copies.id_hash, target), reason, None, now, out),
        }
    }

    /// What becomes of a copy of so many bytes: its queue has no say in whether its source's message is accepted.
    pub(super) fn fate_of_copy(&self, key: MessageKey, target: &Address, bytes: usize) -> Fate {
        let is_session = QueueKind::of(target) == QueueKind::DurableSession;
        let reason = match self.find_queue(target.hash64(), target.as_str()) {
            None if is_session => Reason::Removed,
            Some(ix) if self.full(ix, bytes).is_some() => Reason::QueueFull,
            _ => return Fate::Taken,
        };
        let known = self.newest.get(&CopyKey::new(key, target.hash64()));
        known.map_or(Fate::Rejected(reason), |seq| Fate::Known(*seq))
    }
}
