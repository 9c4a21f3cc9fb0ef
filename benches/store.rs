//! The embedded store on this machine's disk: commits of one and of 100 messages of 256 bytes, each synced, up to
//! four in flight; and how long 1,000,000 stored messages take to open.
//!
//! `cargo bench --profile ci --bench store`. `TMPDIR` chooses the disk.

use std::{
    hint::black_box,
    path::Path,
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weft::{
    frame::{
        AgentId, Draft, Frame, MessageId, Seq, ShardId,
        record::{Enqueue, Fence, IdHash, Keep, MessageKey, Op, Reason, Receipt, SettleNo, Status},
    },
    router::port::{CommitOutcome, Durability, ShardCommit, Store},
    store::embedded::{Config, EmbeddedStore},
    time::{Timestamp, monotonic},
};

const MESSAGES_PER_COMMIT: u64 = 100;
const BODY_BYTES: usize = 256;
const RECOVERED_MESSAGES: u64 = 1_000_000;
/// Mailboxes that commits go to in turn.
const MAILBOXES: u16 = 1000;

/// A mailbox, with its next message.
struct Mailbox {
    shard: ShardId,
    fence: Fence,
    frame: Frame,
}

/// A caller that keeps a number of commits in flight, to mailboxes in turn.
struct Caller<'a> {
    store: &'a EmbeddedStore,
    mailboxes: Vec<Mailbox>,
    next: u64,
    messages_per_commit: u64,
    answered: (Sender<CommitOutcome>, Receiver<CommitOutcome>),
}

impl<'a> Caller<'a> {
    fn new(store: &'a EmbeddedStore, messages_per_commit: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let shards: Vec<ShardId> = ShardId::all().collect();
        let fences = runtime.block_on(store.claim(shards)).unwrap();
        let mailbox = |number| {
            let draft = Draft::new(
                MessageId::new("0190b0a0-7d7b-7cc3-9c1b-000000000000").unwrap(),
                AgentId::new("acme/planner").unwrap(),
                format!("agent:acme/worker-{number}").parse().unwrap(),
            );
            let frame = Frame::new(draft.archive().unwrap(), Bytes::from(vec![7; BODY_BYTES])).unwrap();
            let shard = frame.envelope.address().home_shard();
            let fence = fences[shard.index()];
            Mailbox { shard, fence, frame }
        };
        Self {
            store,
            mailboxes: (0..MAILBOXES).map(mailbox).collect(),
            next: 0,
            messages_per_commit,
            answered: mpsc::channel(),
        }
    }

    fn enqueue(frame: &Frame, number: u64) -> Op {
        Op::Enqueue(Enqueue {
            seq: Seq::from_raw(number),
            queue: frame.envelope.address(),
            key: MessageKey::from_raw(u128::from(number)),
            id_hash: IdHash::from_raw(number),
            frame: frame.clone(),
            targets: [].into(),
        })
    }

    /// A commit of messages to one shard, which also settles as many of the commit before and forgets their receipts.
    fn commit(&mut self, is_settling: IsSettling) {
        let turn = self.next / self.messages_per_commit;
        let Mailbox { shard, fence, frame } = &self.mailboxes[(turn % u64::from(MAILBOXES)) as usize];
        let numbers = self.next + 1..=self.next + self.messages_per_commit;
        let mut ops: Vec<Op> = numbers.clone().map(|number| Self::enqueue(frame, number)).collect();
        if is_settling == IsSettling::Yes {
            ops.extend(numbers.map(settle));
            ops.push(Op::ReceiptFloor {
                settle_no: SettleNo::from_raw(self.next),
            });
        }
        self.next += self.messages_per_commit;
        let answered = self.answered.0.clone();
        let done = move |outcome| drop(answered.send(outcome));
        let (shard, fence) = (*shard, *fence);
        let part = ShardCommit { shard, fence, ops };
        self.store.commit(vec![part], Durability::Fsync, Box::new(done));
    }

    fn run(&mut self, commits: u64, in_flight: u64, is_settling: IsSettling) {
        for number in 0..commits {
            if number >= in_flight {
                self.wait();
            }
            self.commit(is_settling);
        }
        for _ in 0..commits.min(in_flight) {
            self.wait();
        }
    }

    fn wait(&self) {
        let outcome = self.answered.1.recv().unwrap();
        assert!(black_box(outcome).iter().all(Result::is_ok));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IsSettling {
    Yes,
    No,
}

fn settle(number: u64) -> Op {
    Op::Settle {
        settle_no: SettleNo::from_raw(number),
        receipt: Receipt {
            key: MessageKey::from_raw(u128::from(number)),
            address: 1,
            id_hash: IdHash::from_raw(number),
            seq: Seq::from_raw(number),
            status: Status::Delivered,
            reason: Reason::None,
            attempts: 1,
            recipients: 1,
            accepted_at: Timestamp::from_millis(1),
            sent_at: Timestamp::from_millis(2),
            settled_at: Timestamp::from_millis(3),
        },
        keep: Keep::Nothing,
    }
}

fn open(path: &Path) -> EmbeddedStore {
    EmbeddedStore::open(path, &Config::default()).unwrap()
}

fn commits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("commit_256B_fsync");
    group.sample_size(10).measurement_time(Duration::from_secs(6));
    for (name, messages, in_flight, is_settling) in [
        ("1_message_1_in_flight", 1, 1, IsSettling::No),
        ("1_message_2_in_flight", 1, 2, IsSettling::No),
        ("100_messages_1_in_flight", MESSAGES_PER_COMMIT, 1, IsSettling::No),
        ("100_messages_4_in_flight", MESSAGES_PER_COMMIT, 4, IsSettling::No),
        (
            "100_messages_and_settles_4_in_flight",
            MESSAGES_PER_COMMIT,
            4,
            IsSettling::Yes,
        ),
    ] {
        group.throughput(Throughput::Elements(messages));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|commits| {
                let directory = tempfile::tempdir().unwrap();
                let store = open(directory.path());
                let mut caller = Caller::new(&store, messages);
                let start = monotonic();
                caller.run(commits, in_flight, is_settling);
                start.elapsed()
            });
        });
    }
    group.finish();
}

fn recovery(_: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let start = monotonic();
    let store = open(directory.path());
    eprintln!("a new store opens in {:?}", start.elapsed());
    let mut caller = Caller::new(&store, MESSAGES_PER_COMMIT);
    let start = monotonic();
    caller.run(RECOVERED_MESSAGES / MESSAGES_PER_COMMIT, 4, IsSettling::No);
    eprintln!(
        "{RECOVERED_MESSAGES} messages are committed in {:?}: {:?}",
        start.elapsed(),
        store.stats()
    );
    drop(store);
    let start = monotonic();
    let store = open(directory.path());
    eprintln!("{RECOVERED_MESSAGES} stored messages open in {:?}", start.elapsed());
    assert_eq!(store.stats().messages, RECOVERED_MESSAGES);
}

criterion_group!(benches, commits, recovery);
criterion_main!(benches);
