//! What survives when the disk dies, fails a sync or fills up: random histories on a [`FakeDisk`].
//!
//! The promise under test: after any crash the store opens; each shard is as it was after some number of its commits,
//! none of them in part, and that number covers everything that was answered with success at [`Durability::Fsync`].

use std::{collections::BTreeMap, sync::mpsc};

use proptest::prelude::*;

use super::{fake_disk::FakeDisk, *};
use crate::{
    frame::record::{Keep, Op},
    router::port::CommitOutcome,
    store::{
        contract::{Act, Driver, act, claim_one, commit, enqueue, frame, load, read, same_image, settle, shard},
        memory::MemoryStore,
    },
};

const SEGMENT_BYTES: u32 = 8 * 1024;
const SHARDS: u16 = 3;
const BODY_BYTES_MAX: usize = 700;

fn sizes(segments_max: u64) -> Sizes {
    Sizes {
        segment_bytes: SEGMENT_BYTES,
        max_bytes: segments_max * u64::from(SEGMENT_BYTES),
    }
}

pub(super) fn open(disk: &FakeDisk, segments_max: u64) -> Result<EmbeddedStore, String> {
    let registry = Registry::open(disk.registry())?;
    disk.keep_registry().map_err(|error| error.to_string())?;
    let disk = Arc::new(disk.clone());
    let store = EmbeddedStore::open_on(disk, registry, sizes(segments_max), Expect::MaybeNothing);
    store.map_err(|error| match error {
        OpenOnError::Recover(error) => error.to_string(),
        OpenOnError::Start(error) => error.to_string(),
    })
}

/// An empty disk; `is_filled`: its new files need no filling.
fn disk(seed: u64, is_filled: bool) -> FakeDisk {
    let disk = FakeDisk::new(seed);
    if !is_filled {
        disk.leave_unfilled();
    }
    disk
}

/// What one commit did to one shard, as far as the test knows.
#[derive(Clone, Debug)]
struct Step {
    ops: Vec<Op>,
    /// It was answered with success at [`Durability::Fsync`].
    is_promised: bool,
}

/// A shard's history and what makes it.
#[derive(Debug, Default)]
struct Model {
    driver: Driver,
    steps: Vec<Step>,
}

impl Model {
    /// The number of commits after which the shard was as it is found now. It covers every promise.
    fn find(&self, at: ShardId, found: &ShardImage) -> Option<usize> {
        let promised = self
            .steps
            .iter()
            .rposition(|step| step.is_promised)
            .map_or(0, |last| last + 1);
        let reference = MemoryStore::default();
        let fence = claim_one(&reference, at);
        for count in 0..=self.steps.len() {
            if count >= promised && same_image(&load(&reference, at), found) {
                return Some(count);
            }
            if let Some(step) = self.steps.get(count) {
                commit(&reference, at, fence, step.ops.clone()).unwrap();
            }
        }
        None
    }
}

/// What is done between two crashes.
#[derive(Clone, Debug)]
struct Round {
    /// (shard, operations, wait for the answer, durable)
    commits: Vec<(u16, Vec<Act>, bool, bool)>,
    crash: Crash,
    seed: u64,
}

#[derive(Clone, Debug)]
enum Crash {
    /// The disk dies at an operation of its own choice.
    AtOperation(u64),
    /// A sync fails; the process goes on for a while before the power fails.
    AfterFailedSync(u64),
    /// The store is closed, and the power fails.
    AfterClose,
    /// The process is killed while everything works; the power stays on.
    Kill,
    /// The power fails while everything works.
    AtTheEnd,
}

fn round() -> impl Strategy<Value = Round> {
    let acts = proptest::collection::vec(act(BODY_BYTES_MAX), 1..5);
    let one = (0..SHARDS, acts, prop::bool::weighted(0.3), prop::bool::weighted(0.8));
    let crash = prop_oneof![
        6 => (0u64..150).prop_map(Crash::AtOperation),
        3 => (0u64..40).prop_map(Crash::AfterFailedSync),
        1 => Just(Crash::AfterClose),
        2 => Just(Crash::Kill),
        2 => Just(Crash::AtTheEnd),
    ];
    (proptest::collection::vec(one, 0..60), crash, any::<u64>()).prop_map(|(commits, crash, seed)| Round {
        commits,
        crash,
        seed,
    })
}

/// Runs one round on an open store; returns the disk as the crash leaves it.
fn run(store: EmbeddedStore, disk: &FakeDisk, models: &mut BTreeMap<u16, Model>, round: &Round) -> FakeDisk {
    let fences = wait_claim(&store);
    match round.crash {
        Crash::AtOperation(operations) => disk.die_after(operations),
        Crash::AfterFailedSync(syncs) => disk.fail_sync_after(syncs),
        Crash::AfterClose | Crash::Kill | Crash::AtTheEnd => {}
    }
    let (sender, answers) = mpsc::channel();
    let mut sent = Vec::new();
    let mut outcomes: BTreeMap<usize, CommitOutcome> = BTreeMap::new();
    for (number, (at, acts, is_waited_for, is_durable)) in round.commits.iter().enumerate() {
        let model = models.entry(*at).or_default();
        let ops: Vec<Op> = acts.iter().map(|act| model.driver.op(act)).collect();
        let level = if *is_durable {
            Durability::Fsync
        } else {
            Durability::Memory
        };
        let part = ShardCommit {
            shard: shard(*at),
            fence: fences[usize::from(*at)],
            ops: ops.clone(),
        };
        let sender = sender.clone();
        let done = move |outcome| drop(sender.send((number, outcome)));
        store.commit(vec![part], level, Box::new(done));
        sent.push((*at, ops, level));
        while *is_waited_for && !outcomes.contains_key(&number) {
            outcomes.extend(answers.recv());
        }
    }
    drop(sender);
    // Answers that come after the disk died or was copied can only be refusals.
    let crashed = match round.crash {
        Crash::Kill => {
            outcomes.extend(answers.try_iter());
            disk.after_kill()
        }
        Crash::AtTheEnd => {
            outcomes.extend(answers.try_iter());
            disk.after_crash(round.seed)
        }
        Crash::AtOperation(_) | Crash::AfterFailedSync(_) | Crash::AfterClose => {
            drop(store);
            outcomes.extend(answers.iter());
            disk.after_crash(round.seed)
        }
    };
    for (number, (at, ops, level)) in sent.into_iter().enumerate() {
        let outcome = outcomes.get(&number).map(|outcome| &outcome[0]);
        let may_be_there = match outcome {
            Some(Ok(())) | Some(Err(StoreError::Unknown { .. })) | None => true,
            Some(Err(StoreError::ReadOnly { .. } | StoreError::Full { .. })) => false,
            other => panic!("{other:?}"),
        };
        if may_be_there {
            let is_promised = outcome == Some(&Ok(())) && level == Durability::Fsync;
            models.get_mut(&at).unwrap().steps.push(Step { ops, is_promised });
        }
    }
    crashed
}

fn wait_claim(store: &EmbeddedStore) -> Vec<Fence> {
    (0..SHARDS).map(|at| claim_one(store, shard(at))).collect()
}

/// Compares what is found with what may be, and goes on from what is.
fn check(store: &EmbeddedStore, models: &mut BTreeMap<u16, Model>) -> Result<(), TestCaseError> {
    for (at, model) in models {
        let at = shard(*at);
        let found = load(store, at);
        let Some(count) = model.find(at, &found) else {
            return Err(TestCaseError::fail(format!(
                "{at} is as it never was: {found:?}\n{:#?}",
                model.steps
            )));
        };
        model.steps.truncate(count);
        for step in &mut model.steps {
            step.is_promised = true;
        }
        prop_assert!(same_image(&load(store, at), &found), "a second load differs");
        let seqs = found.messages.iter().map(|message| message.seq).collect();
        for (message, got) in found.messages.iter().zip(read(store, at, seqs)) {
            let got = got.map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(got.encoded_len() as u32, message.bytes);
            prop_assert_eq!(got.body, frame(message.seq.raw(), got_body_bytes(message)).body);
        }
    }
    Ok(())
}

fn got_body_bytes(message: &crate::frame::record::StoredMessage) -> usize {
    message.bytes as usize - frame(message.seq.raw(), 0).encoded_len()
}

/// Every case is a few dozen threads and a thousand writes.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: default.cases.div_ceil(4),
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn after_any_crash_the_store_opens_with_all_that_was_promised(
        rounds in proptest::collection::vec(round(), 1..5),
        segments_max in prop_oneof![Just(1000u64), Just(8)],
        is_filled in any::<bool>(),
    ) {
        let mut disk = disk(1, is_filled);
        let mut models = BTreeMap::new();
        for round in &rounds {
            let store = open(&disk, segments_max).map_err(TestCaseError::fail)?;
            check(&store, &mut models)?;
            disk = run(store, &disk, &mut models, round);
        }
        let store = open(&disk, segments_max).map_err(TestCaseError::fail)?;
        check(&store, &mut models)?;
        // It is as good as new.
        let fence = claim_one(&store, shard(9));
        for number in 1..40 {
            let ops = vec![enqueue(number, 300), settle(number, number, Keep::Nothing)];
            match commit(&store, shard(9), fence, ops) {
                Ok(()) => {}
                Err(error) => prop_assert!(matches!(error, StoreError::Full { .. }) && segments_max == 8, "{error}"),
            }
        }
    }

    #[test]
    fn random_histories_read_as_in_the_reference(
        commits in proptest::collection::vec(
            (0..SHARDS, proptest::collection::vec(act(BODY_BYTES_MAX), 1..6), 0u8..40), 1..250,
        ),
        segments_max in prop_oneof![Just(1000u64), Just(8)],
        is_filled in any::<bool>(),
    ) {
        let disk = disk(2, is_filled);
        let mut store = open(&disk, segments_max).unwrap();
        let mut fences = wait_claim(&store);
        let mut models: BTreeMap<u16, Model> = BTreeMap::new();
        for (at, acts, then) in commits {
            let model = models.entry(at).or_default();
            let ops: Vec<Op> = acts.iter().map(|act| model.driver.op(act)).collect();
            match commit(&store, shard(at), fences[usize::from(at)], ops.clone()) {
                Ok(()) => model.steps.push(Step { ops, is_promised: true }),
                Err(error) => prop_assert!(matches!(error, StoreError::Full { .. }) && segments_max < 1000, "{error}"),
            }
            if then < 2 {
                check(&store, &mut models)?;
            }
            if then == 2 {
                wait_close(store);
                store = open(&disk, segments_max).map_err(TestCaseError::fail)?;
                fences = wait_claim(&store);
            }
        }
        check(&store, &mut models)?;
        let stats = store.stats();
        let bound = (4 * stats.live_bytes).max(4 * u64::from(SEGMENT_BYTES)) + 8 * u64::from(SEGMENT_BYTES);
        prop_assert!(stats.disk_bytes <= bound, "{stats:?}");
    }
}

fn wait_close(store: EmbeddedStore) {
    crate::store::contract::wait(store.close()).unwrap();
}

/// A history that reuses segments all the time: messages that are settled at once, and one in eight that stays.
fn short_history(store: &EmbeddedStore, upto: u64) -> u64 {
    let Ok(fences) = crate::store::contract::wait(store.claim(vec![shard(1)])) else {
        return 0;
    };
    for number in 1..=upto {
        let mut ops = vec![enqueue(number, 1500)];
        if !number.is_multiple_of(8) {
            ops.push(settle(number, number, Keep::Nothing));
        }
        if commit(store, shard(1), fences[0], ops).is_err() {
            return number - 1;
        }
    }
    upto
}

#[test]
fn every_operation_of_a_short_history_may_be_the_last() {
    const COMMITS: u64 = 60;
    let whole = disk(1, false);
    whole.die_after(u64::MAX);
    assert_eq!(short_history(&open(&whole, 1000).unwrap(), COMMITS), COMMITS);
    for operations in 0..whole.operations() {
        for seed in 0..2 {
            let disk = disk(seed, seed == 0);
            disk.die_after(operations);
            let promised = match open(&disk, 1000) {
                Ok(store) => short_history(&store, COMMITS),
                Err(_) => 0,
            };
            let disk = disk.after_crash(seed + operations);
            let store =
                open(&disk, 1000).unwrap_or_else(|error| panic!("operation {operations}, seed {seed}: {error}"));
            let image = load(&store, shard(1));
            let last = image.receipts.last().map_or(0, |(no, _)| no.raw());
            let last = last.max(image.messages.last().map_or(0, |message| message.seq.raw()));
            assert!(
                last == promised || last == promised + 1,
                "operation {operations}, seed {seed}: {last}, {promised}"
            );
            let kept: Vec<u64> = image.messages.iter().map(|message| message.seq.raw()).collect();
            let expected: Vec<u64> = (1..=last).filter(|number| number.is_multiple_of(8)).collect();
            assert_eq!(kept, expected, "operation {operations}, seed {seed}");
            let fence = claim_one(&store, shard(2));
            for number in 1..20 {
                let ops = vec![enqueue(number, 1500), settle(number, number, Keep::Nothing)];
                commit(&store, shard(2), fence, ops).unwrap();
            }
        }
    }
}
