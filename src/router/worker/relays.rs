//! Fan-outs on their way from a source shard to the shards of their targets.

use std::sync::atomic::Ordering;

use super::{Shards, Timestamp};
use crate::{
    delivery::{Copies, PassedRelay, Publish, Relay, Route, Straight, WORKERS_MAX},
    frame::{
        Qos, ShardId,
        record::{IdHash, MessageKey},
    },
    router::{
        ask::{Ask, SharedAnswer},
        workers::{Control, PASSED_RELAYS_MAX, PassedCopies, STRAIGHT_BYTES_MAX},
    },
};

impl Shards {
    /// A topic's message may go straight while the target's worker is not behind with such.
    pub(super) fn choose_way(&self, publish: &mut Publish<Ask>) {
        if let Route::Straight { target, .. } = &publish.route {
            let under_way = &self.context.workers.of(target.home_shard()).straight_bytes;
            if under_way.load(Ordering::Relaxed) + publish.frame.encoded_len() > STRAIGHT_BYTES_MAX {
                publish.route = publish.route.clone().by_outbox();
            }
        }
    }

    /// Counts what the last message added to what goes straight, where it does.
    pub(super) fn count_straight(&self, before: usize) {
        if let Some(Straight { to, publish }) = self.out.straight.get(before) {
            let under_way = &self.context.workers.of(*to).straight_bytes;
            under_way.fetch_add(publish.frame.encoded_len(), Ordering::Relaxed);
        }
    }

    /// Sends what goes straight, to each worker together.
    pub(super) fn send_straight(&mut self) {
        if self.out.straight.is_empty() {
            return;
        }
        let workers = &self.context.workers;
        let mut together: Vec<Vec<Straight<Ask>>> = workers.handles.iter().map(|_| Vec::new()).collect();
        for straight in self.out.straight.drain(..) {
            together[workers.index_of(straight.to)].push(straight);
        }
        for (handle, messages) in workers
            .handles
            .iter()
            .zip(together)
            .filter(|(_, messages)| !messages.is_empty())
        {
            handle.control(Control::Straight(messages));
        }
    }

    /// Messages of topics whose one target lives here.
    pub(super) fn straight(&mut self, messages: Vec<Straight<Ask>>, now: Timestamp) {
        for Straight { to, publish } in messages {
            self.straight_bytes += publish.frame.encoded_len();
            self.run_shard(self.local(to), |state, out, gate| {
                state.handle_straight(*publish, now, out, gate);
            });
        }
    }

    pub(super) fn relay(&self, source: ShardId, relay: Relay) {
        let envelope = &relay.frame.envelope;
        let copies = Copies {
            source,
            seq: relay.seq,
            key: MessageKey::new(self.context.store.seed(), envelope.from(), envelope.id()),
            id_hash: IdHash::new(envelope.id()),
            frame: relay.frame,
            targets: relay.targets,
        };
        let control = Control::Copies {
            shard: relay.to,
            copies: Box::new(copies),
        };
        self.context.workers.of(relay.to).control(control);
    }

    /// A fan-out of what is not kept goes once to each worker that has targets, this one among them.
    pub(super) fn relay_passed(&self, source: ShardId, relay: PassedRelay<Ask>) {
        let workers = &self.context.workers;
        let PassedRelay { run, targets, answer } = relay;
        let mut counts = [0; WORKERS_MAX];
        for target in targets.iter() {
            counts[workers.index_of(target.home_shard())] += 1;
        }
        let involved = counts.iter().filter(|count| **count > 0).count();
        let answer = answer.map(|(ask, taken)| SharedAnswer::new(ask, self.accepted(source, &taken), involved));
        // Where nobody waits for an answer nothing else bounds what is under way.
        let may_be_dropped = answer.is_none();
        let qos = run.envelope().qos();
        let copies = PassedCopies { run, targets, answer };
        for (handle, count) in workers.handles.iter().zip(counts).filter(|(_, count)| *count > 0) {
            if !may_be_dropped || handle.control.len() < PASSED_RELAYS_MAX {
                handle.control(Control::PassedCopies(Box::new(copies.clone())));
            } else {
                let dropped = copies.run.frames() as u64 * count;
                let counter = match qos {
                    Qos::AtMostOnce => &self.counters.dropped,
                    Qos::AtLeastOnce | Qos::ExactlyOnce => &self.counters.rejected,
                };
                counter.fetch_add(dropped, Ordering::Relaxed);
            }
        }
    }

    /// The targets of such a fan-out that live here get their copies.
    pub(super) fn passed_copies(&mut self, copies: &PassedCopies, now: Timestamp) {
        for target in copies.targets.iter() {
            let shard = target.home_shard();
            if self.context.workers.index_of(shard) == self.context.index {
                let run = copies.run.clone();
                self.pass(shard, |state, out, gate| {
                    state.handle_passed_copy(run, target, now, out, gate);
                });
            }
        }
        copies.answer.iter().for_each(|answer| answer.done());
    }
}
