//! Messages that a session was sent and may have: their handshake goes on when it is back, past their expiry (MQTT's QoS 2, [MQTT-4.3.3-7])
//! and with nobody else (shared subscriptions, [MQTT-4.8.2-4]).

use std::collections::HashMap;

use super::{
    Fabric,
    workers::{Control, Workers},
};
use crate::{
    delivery::{Out, QueueKind, ShardState},
    frame::{Address, Seq, ShardId, record::ShardImage},
    time::Timestamp,
};

/// A message that waits for its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Its place.
    pub shard: ShardId,
    /// See `shard`.
    pub seq: Seq,
    /// It does not expire before; [`Timestamp::NEVER`]: not at all.
    pub until: Timestamp,
    /// Also where others take from the same queue no other session gets it: [`Hold::session`]. `None`: there it is not held.
    pub session: Option<u64>,
}

impl Hold {
    /// What a session is known by, from its own queue.
    pub fn session(own_queue: &Address) -> u64 {
        own_queue.hash64()
    }
}

/// What a shard is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Hold(Hold),
    /// The session will not be back.
    LetGo(ShardId, Seq),
}

impl Change {
    pub fn shard(&self) -> ShardId {
        match self {
            Self::Hold(hold) => hold.shard,
            Self::LetGo(shard, _) => *shard,
        }
    }

    pub fn apply<A>(self, state: &mut ShardState<A>, now: Timestamp, out: &mut Out<A>) {
        match self {
            Self::Hold(hold) => state.handle_hold(hold.seq, hold.until, hold.session),
            Self::LetGo(_, seq) => state.handle_let_go(seq, now, out),
        }
    }
}

impl Fabric {
    /// Holds messages that were handed out, before what their session does next. It lasts until the node ends: see
    /// [`Fabric::start_holding`]. Those that are not there any more are left alone.
    pub fn hold(&self, holds: impl IntoIterator<Item = Hold>) {
        tell(&self.0.workers, holds.into_iter().map(Change::Hold));
    }

    /// The session of these messages will not be back: those that were held for it alone go to the others.
    pub fn let_go(&self, places: impl IntoIterator<Item = (ShardId, Seq)>) {
        let changes = places.into_iter().map(|(shard, seq)| Change::LetGo(shard, seq));
        tell(&self.0.workers, changes);
    }
}

/// Tells the shards; before their workers run, it is the first that they hear.
pub(super) fn tell(workers: &Workers, changes: impl Iterator<Item = Change>) {
    for change in changes {
        workers.of(change.shard()).control(Control::Hold(change));
    }
}

/// Before a shard is recovered, so that nothing that is held expires with the first look at the time.
pub(super) fn extend(holds: &[Hold], shard: ShardId, image: &mut ShardImage) {
    let of_shard = holds.iter().filter(|hold| hold.shard == shard);
    let by_seq: HashMap<Seq, &Hold> = of_shard.map(|hold| (hold.seq, hold)).collect();
    if by_seq.is_empty() {
        return;
    }
    for message in &mut image.messages {
        let Some(hold) = by_seq.get(&message.seq) else { continue };
        let is_held = match QueueKind::of(&message.queue) {
            QueueKind::Inbox | QueueKind::DurableSession => true,
            QueueKind::OneOf(_) => hold.session.is_some(),
            QueueKind::Ephemeral | QueueKind::FanOut => false,
        };
        if is_held {
            message.expires_at = message.expires_at.later(hold.until);
        }
    }
}
