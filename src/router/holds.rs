//! Messages that an agent was sent and may have: their handshake goes on past their expiry (MQTT's QoS 2, [MQTT-4.3.3-7]).

use std::collections::HashMap;

use super::{Fabric, workers::Control};
use crate::{
    frame::{AddressKind, Seq, ShardId, record::ShardImage},
    time::Timestamp,
};

/// A message that does not expire before a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Its place.
    pub shard: ShardId,
    /// See `shard`.
    pub seq: Seq,
    /// [`Timestamp::NEVER`]: it does not expire at all.
    pub until: Timestamp,
}

impl Fabric {
    /// Holds messages that were handed out, before what their session does next. It lasts until the node ends: see
    /// [`Fabric::start_holding`]. Those that are not there any more are left alone.
    pub fn hold(&self, holds: impl IntoIterator<Item = Hold>) {
        for hold in holds {
            self.0.workers.of(hold.shard).control(Control::Hold(hold));
        }
    }
}

/// Before shards are recovered, so that no message expires that is held.
pub(super) fn apply(holds: &[Hold], shard: ShardId, image: &mut ShardImage) {
    let of_shard = holds.iter().filter(|hold| hold.shard == shard);
    let by_seq: HashMap<Seq, &Hold> = of_shard.map(|hold| (hold.seq, hold)).collect();
    if by_seq.is_empty() {
        return;
    }
    for message in &mut image.messages {
        let is_held = matches!(message.queue.kind(), AddressKind::Agent | AddressKind::Session);
        if let Some(hold) = by_seq.get(&message.seq).filter(|_| is_held) {
            message.expires_at = message.expires_at.later(hold.until);
        }
    }
}
