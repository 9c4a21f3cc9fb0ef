//! What every store must do, as one suite of tests that runs against each of them, and the tools that other tests
//! share.
//!
//! A [`Subject`] is a store that can be reopened; [`Driver`] makes plausible operations out of random acts. The
//! in-memory store is the reference for random histories. Start at `contract_suite!`.

use std::sync::{Arc, mpsc};

use bytes::Bytes;
use proptest::prelude::*;

use crate::{
    frame::{
        AgentId, Draft, Frame, MessageId, Priority, Qos, Seq, ShardId,
        record::{
            Enqueue, Fence, IdHash, Keep, MessageKey, Op, Reason, Receipt, SettleNo, ShardImage, Status, StoredMessage,
        },
    },
    router::port::{CommitOutcome, Durability, RecordOp, ShardCommit, Store, StoreError, Table},
    time::Timestamp,
};

/// A store under test.
pub(super) trait Subject {
    fn new() -> Self;
    fn store(&self) -> Arc<dyn Store>;
    /// Closes and opens again where the store outlives its process.
    fn reopen(&mut self);
    /// Bytes of a body that a single commit cannot have.
    fn body_too_large(&self) -> usize;
}

pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

pub(super) fn shard(number: u16) -> ShardId {
    ShardId::new(number).unwrap()
}

pub(super) fn seq(raw: u64) -> Seq {
    Seq::from_raw(raw)
}

pub(super) fn settle_no(raw: u64) -> SettleNo {
    SettleNo::from_raw(raw)
}

pub(super) fn millis(raw: u64) -> Timestamp {
    Timestamp::from_millis(raw)
}

pub(super) fn frame(number: u64, body_bytes: usize) -> Frame {
    let id = MessageId::new(format!("m{number}")).unwrap();
    let mut draft = Draft::new(id, AgentId::new("alice").unwrap(), "agent:bob".parse().unwrap());
    draft.priority = Priority::from_u8((number % 4) as u8).unwrap();
    draft.qos = if number.is_multiple_of(2) {
        Qos::AtLeastOnce
    } else {
        Qos::ExactlyOnce
    };
    let body: Vec<u8> = (0..body_bytes).map(|at| (at as u64 * 7 + number) as u8).collect();
    let mut frame = Frame::new(draft.archive().unwrap(), Bytes::from(body)).unwrap();
    frame.stamp.accepted_at = millis(1_000 + number);
    frame.stamp.expires_at = millis(9_000 + number);
    frame
}

pub(super) fn enqueue(number: u64, body_bytes: usize) -> Op {
    let targets: Vec<_> = (0..number % 3)
        .map(|target| format!("agent:t{target}").parse().unwrap())
        .collect();
    Op::Enqueue(Enqueue {
        seq: seq(number),
        queue: format!("agent:bob{}", number % 5).parse().unwrap(),
        key: MessageKey::new(1, "alice", &format!("m{number}")),
        id_hash: IdHash::new(&format!("m{number}")),
        frame: frame(number, body_bytes),
        targets: targets.into(),
    })
}

pub(super) fn receipt(number: u64) -> Receipt {
    Receipt {
        key: MessageKey::new(1, "alice", &format!("m{number}")),
        address: number,
        id_hash: IdHash::new(&format!("m{number}")),
        seq: seq(number),
        status: Status::Delivered,
        reason: Reason::None,
        attempts: 1,
        recipients: 1,
        accepted_at: millis(1_000 + number),
        sent_at: millis(2_000),
        settled_at: millis(3_000),
    }
}

pub(super) fn settle(no: u64, number: u64, keep: Keep) -> Op {
    Op::Settle {
        settle_no: settle_no(no),
        receipt: receipt(number),
        keep,
    }
}

pub(super) fn claim_one(store: &dyn Store, shard: ShardId) -> Fence {
    wait(store.claim(vec![shard])).unwrap()[0]
}

pub(super) fn load(store: &dyn Store, shard: ShardId) -> ShardImage {
    wait(store.load(shard)).unwrap()
}

pub(super) fn commit_at(store: &dyn Store, commits: Vec<ShardCommit>, level: Durability) -> CommitOutcome {
    let (sender, outcome) = mpsc::channel();
    store.commit(commits, level, Box::new(move |outcome| sender.send(outcome).unwrap()));
    outcome.recv().unwrap()
}

pub(super) fn commit(store: &dyn Store, shard: ShardId, fence: Fence, ops: Vec<Op>) -> Result<(), StoreError> {
    commit_at(store, vec![ShardCommit { shard, fence, ops }], Durability::Fsync).remove(0)
}

pub(super) fn read(store: &dyn Store, shard: ShardId, seqs: Vec<Seq>) -> Vec<Result<Frame, StoreError>> {
    let (sender, frames) = mpsc::channel();
    store.read(shard, seqs, Box::new(move |frames| sender.send(frames).unwrap()));
    frames.recv().unwrap()
}

pub(super) fn same_image(left: &ShardImage, right: &ShardImage) -> bool {
    left.messages == right.messages
        && left.receipts == right.receipts
        && left.cursors == right.cursors
        && left.receipt_floor == right.receipt_floor
}

fn seqs_of(image: &ShardImage) -> Vec<u64> {
    image.messages.iter().map(|message| message.seq.raw()).collect()
}

/// One thing that an owner of a shard may do; numbers pick among what there is.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Enqueue { body_bytes: usize },
    Attempt { pick: usize },
    Settle { pick: usize, keep: u8 },
    Forget { pick: usize },
    Floor { back: u64 },
    Cursor { source: u16 },
}

pub(super) fn act(body_bytes_max: usize) -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (0..=body_bytes_max).prop_map(|body_bytes| Act::Enqueue { body_bytes }),
        2 => any::<usize>().prop_map(|pick| Act::Attempt { pick }),
        4 => (any::<usize>(), 0u8..4).prop_map(|(pick, keep)| Act::Settle { pick, keep }),
        1 => any::<usize>().prop_map(|pick| Act::Forget { pick }),
        1 => (0u64..6).prop_map(|back| Act::Floor { back }),
        1 => (0u16..3).prop_map(|source| Act::Cursor { source }),
    ]
}

/// Turns acts into operations with sequences and settle numbers that never repeat, as a shard does.
#[derive(Debug, Default)]
pub(super) struct Driver {
    next: u64,
    settled: u64,
    waiting: Vec<u64>,
    kept: Vec<u64>,
}

impl Driver {
    pub(super) fn op(&mut self, act: &Act) -> Op {
        match *act {
            Act::Enqueue { body_bytes } => self.enqueue(body_bytes),
            Act::Attempt { pick } => match self.waiting.get(pick % self.waiting.len().max(1)) {
                Some(&number) => Op::Attempt {
                    seq: seq(number),
                    attempts: 1 + (pick % 9) as u32,
                    not_before: millis(pick as u64 % 1000),
                },
                None => self.enqueue(10),
            },
            Act::Settle { pick, keep } => match self.waiting.len() {
                0 => self.enqueue(20),
                len => {
                    let number = self.waiting.swap_remove(pick % len);
                    self.settled += 1;
                    let keep = match keep {
                        0 | 1 => Keep::Nothing,
                        2 => Keep::DeadLetter(millis(77)),
                        _ => Keep::History(millis(88)),
                    };
                    if keep != Keep::Nothing {
                        self.kept.push(number);
                    }
                    settle(self.settled, number, keep)
                }
            },
            Act::Forget { pick } => match self.kept.len() {
                0 => self.enqueue(30),
                len => Op::Forget {
                    seq: seq(self.kept.swap_remove(pick % len)),
                },
            },
            Act::Floor { back } => Op::ReceiptFloor {
                settle_no: settle_no(self.settled.saturating_sub(back)),
            },
            Act::Cursor { source } => Op::Cursor {
                source: shard(source),
                upto: seq(self.next),
            },
        }
    }

    fn enqueue(&mut self, body_bytes: usize) -> Op {
        self.next += 1;
        self.waiting.push(self.next);
        enqueue(self.next, body_bytes)
    }
}

pub(super) fn what_was_committed_is_loaded_and_read<S: Subject>() {
    let mut subject = S::new();
    let (store, at) = (subject.store(), shard(7));
    let fence = claim_one(&*store, at);
    commit(&*store, at, fence, vec![enqueue(1, 100), enqueue(2, 0)]).unwrap();
    commit(&*store, at, fence, vec![enqueue(3, 5000)]).unwrap();
    let Op::Enqueue(first) = enqueue(2, 0) else {
        unreachable!()
    };
    let expected = StoredMessage {
        seq: seq(2),
        queue: first.queue.clone(),
        key: first.key,
        id_hash: first.id_hash,
        priority: Priority::High,
        qos: Qos::AtLeastOnce,
        accepted_at: millis(1_002),
        expires_at: millis(9_002),
        bytes: first.frame.encoded_len() as u32,
        attempts: 0,
        not_before: Timestamp::NEVER,
        keep: Keep::Nothing,
        targets: Arc::clone(&first.targets),
    };
    assert_eq!(load(&*store, at).messages[1], expected);
    drop(store);
    subject.reopen();
    let store = subject.store();
    let image = load(&*store, at);
    assert_eq!((seqs_of(&image), &image.messages[1]), (vec![1, 2, 3], &expected));
    let frames = read(&*store, at, vec![seq(3), seq(1), seq(2)]);
    for (got, number, body_bytes) in [(&frames[0], 3, 5000), (&frames[1], 1, 100), (&frames[2], 2, 0)] {
        let (got, sent) = (got.as_ref().unwrap(), frame(number, body_bytes));
        assert_eq!((&got.body, got.stamp), (&sent.body, sent.stamp));
        assert_eq!(got.envelope.as_bytes(), sent.envelope.as_bytes());
    }
}

pub(super) fn a_read_names_what_is_missing_and_gives_the_rest<S: Subject>() {
    let subject = S::new();
    let (store, at) = (subject.store(), shard(0));
    let fence = claim_one(&*store, at);
    commit(&*store, at, fence, vec![enqueue(1, 1)]).unwrap();
    let frames = read(&*store, at, vec![seq(9), seq(1)]);
    assert!(matches!(frames[0], Err(StoreError::Damaged { .. })), "{frames:?}");
    assert_eq!(frames[1].as_ref().unwrap().envelope.id(), "m1");
    assert!(
        read(&*store, shard(1), vec![seq(1)])[0].is_err(),
        "another shard's sequence"
    );
}

pub(super) fn a_stale_fence_writes_nothing_and_hinders_no_other_shard<S: Subject>() {
    let subject = S::new();
    let store = subject.store();
    let (old, other) = (claim_one(&*store, shard(1)), claim_one(&*store, shard(2)));
    let new = claim_one(&*store, shard(1));
    assert_eq!(new.epoch, old.epoch + 1);
    let part = |at, fence, number| ShardCommit {
        shard: shard(at),
        fence,
        ops: vec![enqueue(number, 1)],
    };
    let commits = vec![part(1, old, 1), part(2, other, 2), part(3, other, 3)];
    let outcome = commit_at(&*store, commits, Durability::Fsync);
    let fenced = |at| Err(StoreError::Fenced { shard: shard(at) });
    assert_eq!(outcome, [fenced(1), Ok(()), fenced(3)]);
    assert_eq!(seqs_of(&load(&*store, shard(1))), [0; 0]);
    assert_eq!(seqs_of(&load(&*store, shard(2))), [2]);
    assert_eq!(seqs_of(&load(&*store, shard(3))), [0; 0]);
    commit(&*store, shard(1), new, vec![enqueue(4, 1)]).unwrap();
}

pub(super) fn epochs_grow_over_reopening_and_older_fences_stay_refused<S: Subject>() {
    let mut subject = S::new();
    let first = wait(subject.store().claim(vec![shard(5), shard(6)])).unwrap();
    subject.reopen();
    let second = wait(subject.store().claim(vec![shard(6), shard(5)])).unwrap();
    assert_eq!(
        (second[0].epoch, second[1].epoch),
        (first[1].epoch + 1, first[0].epoch + 1)
    );
    let refused = commit(&*subject.store(), shard(5), first[0], vec![enqueue(1, 1)]);
    assert_eq!(refused, Err(StoreError::Fenced { shard: shard(5) }));
    commit(&*subject.store(), shard(5), second[1], vec![enqueue(1, 1)]).unwrap();
}

pub(super) fn two_claims_at_once_leave_one_owner<S: Subject>() {
    let subject = S::new();
    let store = subject.store();
    let claims: Vec<_> = (0..8).map(|_| store.claim(vec![shard(3)])).collect();
    let fences: Vec<_> = claims.into_iter().map(|claim| wait(claim).unwrap()[0]).collect();
    let accepted = |fence: &&Fence| commit(&*store, shard(3), **fence, vec![enqueue(fence.epoch, 1)]).is_ok();
    assert_eq!(fences.iter().filter(accepted).count(), 1, "{fences:?}");
}

pub(super) fn a_part_that_does_not_fit_is_refused_whole<S: Subject>() {
    let subject = S::new();
    let (store, at) = (subject.store(), shard(1));
    let (fence, other) = (claim_one(&*store, at), claim_one(&*store, shard(2)));
    let commits = vec![
        ShardCommit {
            shard: at,
            fence,
            ops: vec![enqueue(1, 1), enqueue(2, subject.body_too_large())],
        },
        ShardCommit {
            shard: shard(2),
            fence: other,
            ops: vec![enqueue(3, 1)],
        },
    ];
    let outcome = commit_at(&*store, commits, Durability::Fsync);
    assert!(matches!(outcome[0], Err(StoreError::Full { .. })), "{outcome:?}");
    assert_eq!(outcome[1], Ok(()));
    assert_eq!(seqs_of(&load(&*store, at)), [0; 0]);
    commit(&*store, at, fence, vec![enqueue(1, 1)]).unwrap();
}

pub(super) fn what_becomes_of_a_message_shows_when_its_shard_is_loaded<S: Subject>() {
    let mut subject = S::new();
    let (store, at) = (subject.store(), shard(9));
    let fence = claim_one(&*store, at);
    let messages = (1..=5).map(|number| enqueue(number, 40)).collect();
    commit(&*store, at, fence, messages).unwrap();
    let ops = vec![
        Op::Attempt {
            seq: seq(1),
            attempts: 3,
            not_before: millis(500),
        },
        settle(1, 2, Keep::Nothing),
        settle(2, 3, Keep::DeadLetter(millis(70))),
        settle(3, 4, Keep::History(millis(80))),
        Op::Forget { seq: seq(5) },
        Op::Cursor {
            source: shard(3),
            upto: seq(11),
        },
        Op::Cursor {
            source: shard(3),
            upto: seq(10),
        },
        settle(4, 99, Keep::Nothing),
        Op::ReceiptFloor {
            settle_no: settle_no(2),
        },
    ];
    commit(&*store, at, fence, ops).unwrap();
    let check = |store: &dyn Store| {
        let image = load(store, at);
        assert_eq!(seqs_of(&image), [1, 3, 4]);
        let states: Vec<_> = image
            .messages
            .iter()
            .map(|m| (m.attempts, m.not_before, m.keep))
            .collect();
        let never = Timestamp::NEVER;
        assert_eq!(states[0], (3, millis(500), Keep::Nothing));
        assert_eq!(states[1], (0, never, Keep::DeadLetter(millis(70))));
        assert_eq!(states[2], (0, never, Keep::History(millis(80))));
        let receipts = [
            (settle_no(2), receipt(3)),
            (settle_no(3), receipt(4)),
            (settle_no(4), receipt(99)),
        ];
        assert_eq!(image.receipts, receipts);
        assert_eq!(
            (image.receipt_floor, &image.cursors[..]),
            (settle_no(2), &[(shard(3), seq(11))][..])
        );
        assert!(read(store, at, vec![seq(3)])[0].is_ok());
        assert!(read(store, at, vec![seq(2)])[0].is_err());
    };
    check(&*store);
    drop(store);
    subject.reopen();
    check(&*subject.store());
    let ops = vec![
        Op::Forget { seq: seq(3) },
        Op::ReceiptFloor {
            settle_no: settle_no(1),
        },
    ];
    commit(&*subject.store(), at, fence, ops).unwrap();
    let image = load(&*subject.store(), at);
    assert_eq!(
        (seqs_of(&image), image.receipt_floor, image.receipts.len()),
        (vec![1, 4], settle_no(2), 3)
    );
}

pub(super) fn completions_come_in_the_order_of_commits<S: Subject>() {
    let subject = S::new();
    let (store, at) = (subject.store(), shard(4));
    let fence = claim_one(&*store, at);
    let (sender, done) = mpsc::channel();
    for number in 1..=200 {
        let sender = sender.clone();
        let level = if number % 3 == 0 {
            Durability::Memory
        } else {
            Durability::Fsync
        };
        let ops = vec![enqueue(number, 10)];
        let part = ShardCommit { shard: at, fence, ops };
        store.commit(
            vec![part],
            level,
            Box::new(move |outcome| sender.send((number, outcome)).unwrap()),
        );
    }
    let order: Vec<_> = done.iter().take(200).collect();
    let expected: Vec<_> = (1..=200).map(|number| (number, vec![Ok(())])).collect();
    assert_eq!(order, expected);
    assert_eq!(seqs_of(&load(&*store, at)), (1..=200).collect::<Vec<_>>());
    let stats = store.stats();
    assert_eq!((stats.messages, stats.commits, stats.read_only), (200, 200, false));
}

/// A router runs what follows from a commit in its completion.
pub(super) fn a_completion_may_commit_again<S: Subject>() {
    fn go_on(store: Arc<dyn Store>, at: ShardId, fence: Fence, number: u64, done: mpsc::Sender<CommitOutcome>) {
        let ops = vec![enqueue(number, 10)];
        let part = ShardCommit { shard: at, fence, ops };
        let again = store.clone();
        let next = move |outcome| match number {
            1..50 => go_on(again, at, fence, number + 1, done),
            _ => done.send(outcome).unwrap(),
        };
        store.commit(vec![part], Durability::Fsync, Box::new(next));
    }
    let subject = S::new();
    let at = shard(4);
    let fence = claim_one(&*subject.store(), at);
    let (sender, done) = mpsc::channel();
    go_on(subject.store(), at, fence, 1, sender);
    assert_eq!(done.recv().unwrap(), vec![Ok(())]);
    assert_eq!(seqs_of(&load(&*subject.store(), at)), (1..=50).collect::<Vec<_>>());
}

pub(super) fn records_are_kept_by_table_and_scanned_in_order<S: Subject>() {
    let mut subject = S::new();
    let store = subject.store();
    let put = |table, key: &str, value: &[u8]| RecordOp::Put {
        table,
        key: key.into(),
        value: value.into(),
    };
    let ops = vec![
        put(Table::Agents, "b", b"1"),
        put(Table::Agents, "a", b"2"),
        put(Table::Groups, "a", b"3"),
        put(Table::Sessions, "a", b"4"),
        put(Table::Retained, "a", b"5"),
    ];
    wait(store.write_records(ops)).unwrap();
    let delete = RecordOp::Delete {
        table: Table::Agents,
        key: "b".into(),
    };
    let absent = RecordOp::Delete {
        table: Table::Subscriptions,
        key: "none".into(),
    };
    wait(store.write_records(vec![put(Table::Agents, "c", b""), delete, absent])).unwrap();
    let check = |store: &dyn Store| {
        let row = |key: &str, value: &[u8]| (key.to_owned(), value.to_vec());
        assert_eq!(
            wait(store.scan_records(Table::Agents)),
            Ok(vec![row("a", b"2"), row("c", b"")])
        );
        assert_eq!(wait(store.scan_records(Table::Groups)), Ok(vec![row("a", b"3")]));
        assert_eq!(wait(store.scan_records(Table::Subscriptions)), Ok(vec![]));
        assert_eq!(wait(store.scan_records(Table::Sessions)), Ok(vec![row("a", b"4")]));
        assert_eq!(wait(store.scan_records(Table::Retained)), Ok(vec![row("a", b"5")]));
    };
    check(&*store);
    drop(store);
    subject.reopen();
    check(&*subject.store());
}

pub(super) fn a_closed_store_says_so_and_a_second_close_is_no_error<S: Subject>() {
    let subject = S::new();
    let (store, at) = (subject.store(), shard(4));
    let fence = claim_one(&*store, at);
    wait(store.close()).unwrap();
    assert_eq!(commit(&*store, at, fence, vec![enqueue(1, 1)]), Err(StoreError::Closed));
    assert_eq!(wait(store.claim(vec![at])), Err(StoreError::Closed));
    assert_eq!(wait(store.write_records(vec![])), Err(StoreError::Closed));
    wait(store.close()).unwrap();
}

pub(super) fn the_seed_stays<S: Subject>() {
    let mut subject = S::new();
    let seed = subject.store().seed();
    subject.reopen();
    assert_eq!(subject.store().seed(), seed);
}

macro_rules! contract_suite {
    ($subject:ty: $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::store::contract::$name::<$subject>();
            }
        )*
    };
    ($subject:ty) => {
        $crate::store::contract::contract_suite! {
            $subject:
            what_was_committed_is_loaded_and_read
            a_read_names_what_is_missing_and_gives_the_rest
            a_stale_fence_writes_nothing_and_hinders_no_other_shard
            epochs_grow_over_reopening_and_older_fences_stay_refused
            two_claims_at_once_leave_one_owner
            a_part_that_does_not_fit_is_refused_whole
            what_becomes_of_a_message_shows_when_its_shard_is_loaded
            completions_come_in_the_order_of_commits
            a_completion_may_commit_again
            records_are_kept_by_table_and_scanned_in_order
            a_closed_store_says_so_and_a_second_close_is_no_error
            the_seed_stays
        }
    };
}
pub(super) use contract_suite;
