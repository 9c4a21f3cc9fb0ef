//! Random runs of a fan-out's target: copies come, commits succeed and fail, the node dies and starts again; nothing that a cursor
//! vouches for is missing, and every copy is there once and in order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::world::{World, mail};
use crate::{
    delivery::Limits,
    frame::{Seq, ShardId, record::MessageKey},
};

const SOURCES: [ShardId; 2] = [ShardId::of_hash(5), ShardId::of_hash(6)];
const TARGETS: [&str; 3] = ["agent:x", "agent:y", "agent:z"];
/// Rounds in which everything must be confirmed at the end: each waits out a rest after a failed commit.
const END_ROUNDS_MAX: usize = 50;

#[derive(Clone, Debug)]
enum Step {
    /// The source relays its next fan-out, to the targets of this mask.
    Relay {
        source: usize,
        mask: usize,
    },
    BeginCommit,
    Complete,
    Fail,
    WaitSecs(u64),
    /// Both ends lose what is not committed; the source relays again what it has not settled.
    Crash,
    /// The source's settle of what was confirmed is committed.
    SourceSettles(usize),
    /// Something else is sent here, so that commits have more than copies.
    Send(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..2usize, 1..8usize).prop_map(|(source, mask)| Step::Relay { source, mask }),
        6 => Just(Step::BeginCommit),
        5 => Just(Step::Complete),
        3 => Just(Step::Fail),
        1 => (1..3u64).prop_map(Step::WaitSecs),
        1 => Just(Step::Crash),
        1 => (0..2usize).prop_map(Step::SourceSettles),
        2 => any::<u8>().prop_map(Step::Send),
    ]
}

/// What a source has in its outbox: sequence to targets.
#[derive(Default)]
struct Source {
    last: u64,
    unsettled: BTreeMap<u64, Vec<&'static str>>,
    confirmed: BTreeSet<u64>,
}

struct Run {
    world: World,
    sources: [Source; 2],
    /// Every copy that was ever to be made.
    relayed: Vec<(ShardId, u64, Vec<&'static str>)>,
}

fn message(source: usize, seq: u64) -> super::world::Mail {
    mail(&format!("s{source}m{seq}"), "group:g")
}

impl Run {
    fn new() -> Self {
        let limits = Limits {
            inbox_messages_max: 10_000,
            ..Limits::default()
        };
        Self {
            world: World::with(limits),
            sources: Default::default(),
            relayed: Vec::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Relay { source, mask } => self.relay(source, mask),
            Step::BeginCommit => {
                self.world.pump();
                self.world.begin_commit();
            }
            Step::Complete => {
                self.world.complete();
            }
            Step::Fail => {
                self.world.fail();
            }
            Step::WaitSecs(secs) => self.world.wait_secs(secs),
            Step::Crash => self.crash(),
            Step::SourceSettles(source) => {
                let source = &mut self.sources[source];
                source.unsettled.retain(|seq, _| !source.confirmed.contains(seq));
            }
            Step::Send(number) => drop(
                self.world
                    .publish(&mail(&format!("d{number}"), "agent:x").from("carol")),
            ),
        }
        self.hear();
        self.check_cursors();
    }

    fn relay(&mut self, source: usize, mask: usize) {
        let targets: Vec<_> = (0..3)
            .filter(|at| mask & (1 << at) != 0)
            .map(|at| TARGETS[at])
            .collect();
        let of = &mut self.sources[source];
        of.last += 1;
        of.unsettled.insert(of.last, targets.clone());
        self.relayed.push((SOURCES[source], of.last, targets.clone()));
        let seq = of.last;
        self.world.copies(&message(source, seq), SOURCES[source], seq, &targets);
    }

    fn crash(&mut self) {
        self.world.crash();
        for (source, from) in SOURCES.into_iter().enumerate() {
            self.sources[source].confirmed.clear();
            for (seq, targets) in self.sources[source].unsettled.clone() {
                self.world.copies(&message(source, seq), from, seq, &targets);
            }
        }
    }

    fn hear(&mut self) {
        for (source, seq) in std::mem::take(&mut self.world.out.relayed) {
            let at = SOURCES.iter().position(|known| *known == source).unwrap();
            let is_first = self.sources[at].confirmed.insert(seq.raw());
            assert!(
                is_first,
                "what is confirmed twice would count for two shards at its source"
            );
            self.assert_is_there(source, seq, "confirmed");
        }
    }

    fn check_cursors(&self) {
        for (source, upto) in &self.world.store.cursors {
            self.assert_is_there(*source, *upto, "below the cursor");
        }
    }

    /// The store has, or had, every copy of a source up to a sequence, each once.
    fn assert_is_there(&self, source: ShardId, upto: Seq, why: &str) {
        for (of, seq, targets) in &self.relayed {
            if *of == source && *seq <= upto.raw() {
                for target in targets {
                    let key = self.key(source, *seq);
                    let count = self
                        .world
                        .store
                        .messages
                        .values()
                        .filter(|(m, _)| m.key == key && m.queue.as_str() == *target);
                    assert_eq!(count.count(), 1, "G13: {source} {seq} to {target} is {why}");
                }
            }
        }
    }

    fn key(&self, source: ShardId, seq: u64) -> MessageKey {
        let at = SOURCES.iter().position(|known| *known == source).unwrap();
        message(at, seq).key()
    }

    fn end(&mut self) {
        for _ in 0..END_ROUNDS_MAX {
            self.world.commit();
            self.hear();
            self.check_cursors();
            if self
                .sources
                .iter()
                .all(|source| source.unsettled.keys().all(|seq| source.confirmed.contains(seq)))
            {
                return;
            }
            self.world.wait_secs(1);
        }
        panic!("some source waits for ever");
    }

    /// G5: each target has the copies of one source in the order of their sequences.
    fn check_order(&self) {
        for (at, source) in SOURCES.iter().enumerate() {
            for target in TARGETS {
                let seqs: BTreeMap<MessageKey, u64> = (1..=self.sources[at].last)
                    .map(|seq| (self.key(*source, seq), seq))
                    .collect();
                let here = self
                    .world
                    .store
                    .messages
                    .values()
                    .filter(|(m, _)| m.queue.as_str() == target);
                let order: Vec<u64> = here.filter_map(|(m, _)| seqs.get(&m.key).copied()).collect();
                assert!(order.is_sorted(), "G5: {target} has {order:?} of {source}");
            }
        }
    }
}

proptest! {
    #[test]
    fn no_cursor_stands_above_a_copy_that_is_not_there_and_every_copy_is_there_once_and_in_order(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut run = Run::new();
        steps.iter().for_each(|step| run.take(step));
        run.end();
        for (source, seq, _) in run.relayed.clone() {
            run.assert_is_there(source, Seq::from_raw(seq), "relayed");
        }
        run.check_order();
    }
}
