//! Single faults, one test each: damage, lost files, torn tails, failed syncs, full disks. On a [`FakeDisk`]; `crash`
//! has the random histories.

use super::{crash::open, fake_disk::FakeDisk, *};
use crate::{
    frame::record::{Keep, Op},
    store::contract::{
        claim_one, commit, commit_at, enqueue, frame, load, millis, read, seq, settle, settle_no, shard, wait,
    },
};

/// Segments that no test fills.
const MANY: u64 = 1000;

fn damage_of(outcome: Result<EmbeddedStore, String>) -> String {
    outcome.expect_err("a damaged store must not open")
}

fn seqs_of(store: &EmbeddedStore) -> Vec<u64> {
    let image = load(store, shard(1));
    image.messages.iter().map(|message| message.seq.raw()).collect()
}

/// A store with three commits of one message each to shard 1, all answered with success; and where their groups stand.
fn three_commits(disk: &FakeDisk) -> (EmbeddedStore, Fence, Vec<usize>) {
    let store = open(disk, MANY).unwrap();
    let fence = claim_one(&store, shard(1));
    let mut starts = Vec::new();
    for number in 1..=3 {
        starts.push(store.shared.log_end() as usize);
        commit(&store, shard(1), fence, vec![enqueue(number, 100)]).unwrap();
    }
    (store, fence, starts)
}

#[test]
fn damage_in_the_middle_is_refused_and_named() {
    let disk = FakeDisk::new(1);
    let (store, _, starts) = three_commits(&disk);
    let disk = disk.after_kill();
    drop(store);
    for start in &starts[..2] {
        for offset in [0, 8, 30, 60, 200] {
            disk.damage(0, start + offset);
            let error = damage_of(open(&disk, MANY));
            assert!(error.contains(&format!("slot 0 at byte {start}")), "{error}");
            disk.damage(0, start + offset);
        }
    }
    assert_eq!(seqs_of(&open(&disk, MANY).unwrap()), [1, 2, 3]);
}

#[test]
fn damage_to_the_last_group_is_refused_once_the_store_was_closed() {
    let disk = FakeDisk::new(1);
    let (store, _, starts) = three_commits(&disk);
    drop(store);
    disk.damage(0, starts[2] + 60);
    let error = damage_of(open(&disk, MANY));
    assert!(error.contains(&format!("slot 0 at byte {}", starts[2])), "{error}");
}

#[test]
fn a_torn_last_group_is_cut() {
    let disk = FakeDisk::new(1);
    let (store, _, starts) = three_commits(&disk);
    let disk = disk.after_kill();
    drop(store);
    disk.damage(0, starts[2] + 60);
    assert_eq!(seqs_of(&open(&disk, MANY).unwrap()), [1, 2]);
}

#[test]
fn what_was_cut_off_a_torn_tail_never_comes_back() {
    // Two groups are written and not synced; the power fails, and the second is on the disk while the first is not.
    // What is then committed has the size of the first, so that the second would follow it exactly.
    let disk = FakeDisk::new(1);
    let store = open(&disk, MANY).unwrap();
    let fence = claim_one(&store, shard(1));
    commit(&store, shard(1), fence, vec![enqueue(1, 100)]).unwrap();
    let first_at = store.shared.log_end() as usize;
    let mut second_at = first_at;
    for number in [2, 5] {
        second_at = store.shared.log_end() as usize;
        let part = ShardCommit {
            shard: shard(1),
            fence,
            ops: vec![enqueue(number, 100)],
        };
        assert_eq!(commit_at(&store, vec![part], Durability::Memory), [Ok(())]);
    }
    let disk = disk.after_kill();
    drop(store);
    disk.damage(0, first_at + 100);
    let second = disk.contents(0)[second_at..second_at + 400].to_vec();
    let store = open(&disk, MANY).unwrap();
    assert_eq!(seqs_of(&store), [1]);
    let fence = claim_one(&store, shard(1));
    commit(&store, shard(1), fence, vec![enqueue(8, 100)]).unwrap();
    assert_eq!(
        store.shared.log_end() as usize,
        second_at,
        "the new group ends where the second begins"
    );
    let disk = disk.after_kill();
    drop(store);
    assert_eq!(
        disk.contents(0)[second_at..second_at + 400],
        second,
        "the second group is still there"
    );
    assert_eq!(seqs_of(&open(&disk, MANY).unwrap()), [1, 8]);
}

#[test]
fn a_damaged_header_of_a_reused_file_is_refused() {
    let disk = FakeDisk::new(1);
    let store = open(&disk, MANY).unwrap();
    let fence = claim_one(&store, shard(1));
    for number in 1..1000 {
        let floor = Op::ReceiptFloor {
            settle_no: settle_no(number),
        };
        let ops = vec![enqueue(number, 200), settle(number, number, Keep::Nothing), floor];
        commit(&store, shard(1), fence, ops).unwrap();
    }
    let newest = store.shared.newest();
    assert!(newest.generation() > 50, "{newest:?}");
    drop(store);
    assert!(disk.files() < 20, "{} files: segments are not reused", disk.files());
    let at = layout::HEADERS_AT[newest.header_no] as usize;
    disk.damage(newest.slot, at + 20);
    let error = damage_of(open(&disk, MANY));
    assert!(error.contains(&format!("slot {} at byte {at}", newest.slot)), "{error}");
    disk.damage(newest.slot, at + 20);
    open(&disk, MANY).unwrap();
}

#[test]
fn a_missing_segment_is_refused() {
    let disk = FakeDisk::new(1);
    let store = open(&disk, MANY).unwrap();
    let fence = claim_one(&store, shard(1));
    for number in 1..60 {
        commit(&store, shard(1), fence, vec![enqueue(number, 500)]).unwrap();
    }
    drop(store);
    disk.lose(1);
    let error = damage_of(open(&disk, MANY));
    assert!(error.contains("generation"), "{error}");
}

#[test]
fn a_damaged_message_is_an_error_and_the_others_are_still_read() {
    let disk = FakeDisk::new(1);
    let (store, _, starts) = three_commits(&disk);
    disk.damage(0, starts[1] + 300);
    let frames = read(&store, shard(1), vec![seq(1), seq(2), seq(3)]);
    assert!(frames[0].is_ok() && frames[2].is_ok());
    assert!(
        matches!(&frames[1], Err(StoreError::Damaged { what }) if what.contains("slot 0")),
        "{frames:?}"
    );
}

#[test]
fn after_a_failed_sync_the_outcome_is_unknown_and_the_store_only_reads() {
    let disk = FakeDisk::new(1);
    let (store, fence, _) = three_commits(&disk);
    disk.fail_sync_after(0);
    let first = commit(&store, shard(1), fence, vec![enqueue(4, 1)]);
    assert!(matches!(first, Err(StoreError::Unknown { .. })), "{first:?}");
    for _ in 0..2 {
        let later = commit(&store, shard(1), fence, vec![enqueue(5, 1)]);
        assert!(matches!(later, Err(StoreError::ReadOnly { .. })), "{later:?}");
    }
    let claim = wait(store.claim(vec![shard(1)]));
    assert!(matches!(claim, Err(StoreError::ReadOnly { .. })), "{claim:?}");
    assert!(read(&store, shard(1), vec![seq(2)])[0].is_ok());
    assert!(store.stats().read_only);
}

#[test]
fn after_a_failed_sync_no_commit_of_either_lane_is_answered_with_success() {
    for seed in 0..40 {
        let disk = FakeDisk::new(seed);
        let store = open(&disk, MANY).unwrap();
        let fence = claim_one(&store, shard(1));
        disk.fail_sync_after(0);
        let (sender, answers) = std::sync::mpsc::channel();
        for number in 1..=6 {
            let sender = sender.clone();
            let part = ShardCommit {
                shard: shard(1),
                fence,
                ops: vec![enqueue(number, 10)],
            };
            let done = move |outcome| drop(sender.send(outcome));
            store.commit(vec![part], Durability::Fsync, Box::new(done));
        }
        drop(sender);
        for outcome in answers.iter().take(6) {
            assert!(outcome[0].is_err(), "seed {seed}");
        }
    }
}

#[test]
fn after_a_failed_write_the_outcome_is_unknown_and_what_was_answered_before_is_found() {
    let disk = FakeDisk::new(1);
    let (store, fence, _) = three_commits(&disk);
    disk.die_after(0);
    let first = commit(&store, shard(1), fence, vec![enqueue(4, 2000)]);
    assert!(matches!(first, Err(StoreError::Unknown { .. })), "{first:?}");
    let later = commit(&store, shard(1), fence, vec![enqueue(5, 1)]);
    assert!(matches!(later, Err(StoreError::ReadOnly { .. })), "{later:?}");
    for seed in 0..16 {
        let store = open(&disk.after_crash(seed), MANY).unwrap();
        // The write that failed may have reached the disk whole.
        assert_eq!(seqs_of(&store)[..3], [1, 2, 3], "seed {seed}");
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = crate::time::monotonic() + std::time::Duration::from_secs(60);
    while !is_so() {
        assert!(crate::time::monotonic() < deadline, "{what}");
        thread::yield_now();
    }
}

#[test]
fn the_log_is_filled_ahead_and_the_next_segment_is_ready_before_it_is_wanted() {
    let disk = FakeDisk::new(1);
    disk.leave_unfilled();
    let (store, fence, _) = three_commits(&disk);
    let whole = super::lock(&store.shared.segments).segment_bytes;
    eventually("filled ahead", || store.shared.newest().file.filled() == whole);
    commit(&store, shard(1), fence, vec![enqueue(4, 1000)]).unwrap();
    let is_next_ready = || {
        let segments = super::lock(&store.shared.segments);
        let next = segments.next_free().map(|next| next.file.filled());
        segments.available() == segments::RESERVE_SEGMENTS + 1 && next == Some(whole)
    };
    eventually("the next segment", is_next_ready);
    assert!(!store.stats().read_only);
}

#[test]
fn a_failed_sync_of_zeros_is_one_of_the_disk() {
    let disk = FakeDisk::new(1);
    disk.leave_unfilled();
    let store = open(&disk, MANY).unwrap();
    let fence = claim_one(&store, shard(1));
    disk.fail_sync_after(0);
    let part = ShardCommit {
        shard: shard(1),
        fence,
        ops: vec![enqueue(1, 1)],
    };
    // Without a sync of its own, so that the one that fails is that of the zeros, before this is answered or after.
    let _either = commit_at(&store, vec![part], Durability::Memory).remove(0);
    eventually("read-only", || store.stats().read_only);
}

/// Fills a store that has room for few segments, settles everything, and fills it again.
fn fill_and_settle(disk: &FakeDisk, segments_max: u64) {
    let store = open(disk, segments_max).unwrap();
    let fence = claim_one(&store, shard(1));
    let (mut number, mut settled) = (0, 0);
    for round in 0..6 {
        let first = number + 1;
        let full = loop {
            match commit(&store, shard(1), fence, vec![enqueue(number + 1, 300)]) {
                Ok(()) => number += 1,
                Err(error) => break error,
            }
            assert!(number < 10_000, "{segments_max} segments took 10,000 messages");
        };
        assert!(matches!(full, StoreError::Full { .. }), "{full:?}");
        assert!(number >= first, "round {round}: no message had room: {full}");
        assert_eq!(seqs_of(&store), (first..=number).collect::<Vec<_>>());
        for settling in first..=number {
            settled += 1;
            let floor = Op::ReceiptFloor {
                settle_no: settle_no(settled),
            };
            let ops = vec![settle(settled, settling, Keep::Nothing), floor];
            commit(&store, shard(1), fence, ops).unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        assert_eq!(seqs_of(&store), [0; 0]);
    }
    drop(store);
    open(disk, segments_max).unwrap();
}

#[test]
fn a_full_store_refuses_messages_still_settles_and_then_has_room_again() {
    for segments_max in [5, 6, 9] {
        let disk = FakeDisk::new(1);
        fill_and_settle(&disk, segments_max);
        assert!(disk.files() as u64 <= segments_max + 1, "the registry is one more");
    }
}

#[test]
fn a_full_disk_refuses_messages_still_settles_and_then_has_room_again() {
    for files_max in [3, 4, 8] {
        let disk = FakeDisk::new(1);
        disk.set_files_max(files_max);
        fill_and_settle(&disk, MANY);
    }
}

#[test]
fn a_full_store_takes_any_number_of_attempts() {
    let disk = FakeDisk::new(1);
    let store = open(&disk, 6).unwrap();
    let fence = claim_one(&store, shard(1));
    let mut number = 0;
    while commit(&store, shard(1), fence, vec![enqueue(number + 1, 300)]).is_ok() {
        number += 1;
    }
    for attempts in 1..2000 {
        let attempt = Op::Attempt {
            seq: seq(1 + u64::from(attempts) % number),
            attempts,
            not_before: millis(1),
        };
        commit(&store, shard(1), fence, vec![attempt]).unwrap_or_else(|error| panic!("attempt {attempts}: {error}"));
    }
    let before = load(&store, shard(1)).messages;
    drop(store);
    let store = open(&disk, 6).unwrap();
    assert_eq!(
        (before.len() as u64, &load(&store, shard(1)).messages),
        (number, &before)
    );
}

#[test]
fn a_disk_without_room_for_the_reserve_takes_no_message() {
    let disk = FakeDisk::new(1);
    disk.set_files_max(2);
    let store = open(&disk, MANY).unwrap();
    let fence = claim_one(&store, shard(1));
    let refused = commit(&store, shard(1), fence, vec![enqueue(1, 1)]);
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    disk.set_files_max(10);
    commit(&store, shard(1), fence, vec![enqueue(1, 1)]).unwrap();
}

#[test]
fn what_a_start_found_survives_a_power_failure_right_after() {
    let disk = FakeDisk::new(1);
    let (store, fence, _) = three_commits(&disk);
    let part = ShardCommit {
        shard: shard(1),
        fence,
        ops: vec![enqueue(4, 3000)],
    };
    assert_eq!(commit_at(&store, vec![part], Durability::Memory), [Ok(())]);
    let disk = disk.after_kill();
    drop(store);
    let store = open(&disk, MANY).unwrap();
    assert_eq!(seqs_of(&store), [1, 2, 3, 4]);
    for seed in 0..16 {
        let disk = disk.after_crash(seed);
        assert_eq!(seqs_of(&open(&disk, MANY).unwrap()), [1, 2, 3, 4], "seed {seed}");
    }
}

#[test]
fn damage_to_what_the_last_start_found_is_refused() {
    let disk = FakeDisk::new(1);
    let (store, fence, starts) = three_commits(&disk);
    let disk = disk.after_kill();
    drop(store);
    let store = open(&disk, MANY).unwrap();
    commit(&store, shard(1), fence, vec![enqueue(4, 100)]).unwrap();
    let disk = disk.after_kill();
    drop(store);
    disk.damage(0, starts[2] + 60);
    let error = damage_of(open(&disk, MANY));
    assert!(error.contains(&format!("slot 0 at byte {}", starts[2])), "{error}");
}

#[test]
fn messages_are_read_while_cleaning_moves_them_and_their_segments_are_reused() {
    const LASTING: u64 = 8;
    let disk = FakeDisk::new(1);
    let store = open(&disk, MANY).unwrap();
    let fence = claim_one(&store, shard(1));
    let lasting = (1..=LASTING).map(|number| enqueue(number, 200)).collect();
    commit(&store, shard(1), fence, lasting).unwrap();
    let first = store.shared.newest().generation();
    thread::scope(|scope| {
        let (is_over, over) = std::sync::mpsc::channel::<()>();
        let reads = scope.spawn(|| {
            let over = over;
            let mut rounds = 0;
            while over.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                let frames = read(&store, shard(1), (1..=LASTING).map(seq).collect());
                for (number, got) in (1..).zip(frames) {
                    assert_eq!(got.unwrap().body, frame(number, 200).body);
                }
                rounds += 1;
            }
            rounds
        });
        for number in LASTING + 1..LASTING + 2000 {
            let ops = vec![enqueue(number, 900), Op::Forget { seq: seq(number) }];
            commit(&store, shard(1), fence, ops).unwrap();
        }
        drop(is_over);
        assert!(reads.join().unwrap() > 0);
    });
    assert!(store.shared.newest().generation() > first + 200);
    assert_eq!(seqs_of(&store), (1..=LASTING).collect::<Vec<_>>());
}
