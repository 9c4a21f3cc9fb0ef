//! What holds inside a shard after every call.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    delivery::{
        ShardState,
        copies::Pace,
        message::{Message, State, Stored},
        queue::Queue,
        receipts::CopyKey,
        timers::TIMERS_SLACK,
    },
    frame::{Priority, Seq, record::Receipt},
};

/// Panics where the shard contradicts itself.
pub fn check<A>(shard: &ShardState<A>) {
    check_tables(shard);
    check_outbox(shard);
    check_lines(shard);
    let mut by_queue: BTreeMap<u32, Vec<(Seq, &Message)>> = BTreeMap::new();
    for (seq, message) in shard.messages.iter() {
        by_queue.entry(message.queue).or_default().push((*seq, message));
    }
    for (at, queue) in shard.queues.iter().enumerate() {
        let ix = u32::try_from(at).unwrap();
        let held = by_queue.remove(&ix).unwrap_or_default();
        match queue {
            Some(queue) => {
                check_queue(queue, &held);
                let is_linked = shard.find_queue(queue.address.hash64(), queue.address.as_str()) == Some(ix);
                assert_eq!(is_linked, !queue.removed, "{}", queue.address.as_str());
                assert_eq!(queue.dirty, shard.dirty.contains(&ix), "dirty queues are listed");
                assert!(
                    !queue.is_idle() || queue.dirty,
                    "{} is idle and nothing will forget it",
                    queue.address.as_str()
                );
            }
            None => assert!(held.is_empty() && shard.free_queues.contains(&ix), "{held:?}"),
        }
    }
    assert!(by_queue.is_empty(), "messages of no queue: {by_queue:?}");
}

fn check_tables<A>(shard: &ShardState<A>) {
    let cached = shard
        .messages
        .iter()
        .map(|(_, message)| message)
        .filter(|message| message.frame.is_some());
    assert_eq!(cached.map(Message::weight).sum::<u64>(), shard.cached_bytes());
    let settled: Vec<_> = shard.receipts.iter().collect();
    assert!(
        settled.iter().map(|(settle_no, _)| settle_no).is_sorted(),
        "receipts are in their order"
    );
    assert_eq!(settled.len(), shard.receipts.len());
    let is_found = |receipt: &Receipt| shard.receipts.get(receipt.seq) == Some(receipt);
    assert!(settled.iter().all(|(_, receipt)| is_found(receipt)));
    let is_known = |seq: &Seq| shard.messages.get(seq).is_some() || shard.receipts.get(*seq).is_some();
    assert!(
        shard.newest.iter().all(|(_, seq)| is_known(seq)),
        "a key leads to a message or a receipt"
    );
    assert!(
        shard.by_id.iter().all(|(_, seq)| is_known(seq)),
        "an id leads to a message or a receipt"
    );
    for (seq, message) in shard.messages.iter() {
        if message.is_unsettled() {
            let newest = shard.newest.get(&CopyKey::new(message.key, message.address));
            assert!(newest >= Some(seq), "an unsettled message is found by its key");
            assert!(shard.by_id.contains(&(message.id_hash, *seq)));
        }
        if message.state == State::Ready && message.stored == Stored::InMemory {
            assert!(message.frame.is_some(), "what is in no store is in memory");
        }
        assert!(*seq < shard.next_seq);
    }
    let timers_max = 4 * (shard.messages.len() + shard.lines.len()) + TIMERS_SLACK + 4;
    // Swept when a timer is set or a commit completes; the messages of one call may leave in between.
    assert!(shard.timers.len() <= timers_max + 4096, "{} timers", shard.timers.len());
}

fn check_outbox<A>(shard: &ShardState<A>) {
    let relaying = |wanted: fn(u32) -> bool| {
        let left = shard
            .messages
            .iter()
            .filter_map(move |(seq, message)| match message.state {
                State::Relaying { shards_left } if wanted(shards_left) => Some(*seq),
                _ => None,
            });
        left.collect::<BTreeSet<Seq>>()
    };
    assert_eq!(
        relaying(|left| left > 0).len(),
        shard.relaying,
        "relays under way are counted"
    );
    let outbox: BTreeSet<Seq> = shard.outbox.iter().copied().collect();
    assert!(
        relaying(|left| left == 0).is_subset(&outbox),
        "what is to be relayed is in the outbox"
    );
}

fn check_lines<A>(shard: &ShardState<A>) {
    for (source, line) in &shard.lines {
        let confirmed = shard.cursors.get(source).copied().unwrap_or_default();
        let mut waiting = line.waiting.keys();
        assert!(waiting.all(|seq| *seq > confirmed), "what waits is not confirmed");
        let is_called_for = line.pace == Pace::Resting || shard.copies_due.contains(source);
        match (line.unconfirmed, line.waiting.len()) {
            (0, 0) => panic!("a line in which nothing is under way is kept"),
            (0, _) => assert!(is_called_for, "what waits is applied some time"),
            _ => {}
        }
    }
}

fn check_queue(queue: &Queue, held: &[(Seq, &Message)]) {
    let of = |wanted: &dyn Fn(&Message) -> bool| {
        let of = held.iter().filter(|(_, message)| wanted(message));
        of.map(|(seq, _)| *seq).collect::<BTreeSet<Seq>>()
    };
    let name = queue.address.as_str();
    assert!(
        held.iter()
            .all(|(_, message)| message.address == queue.address.hash64()),
        "{name}"
    );
    let unsettled = held.iter().filter(|(_, message)| message.is_unsettled());
    assert_eq!(unsettled.clone().count(), queue.messages, "{name}");
    assert_eq!(
        unsettled.map(|(_, message)| message.weight()).sum::<u64>(),
        queue.bytes,
        "{name}"
    );
    let is_settling = |m: &Message| matches!(m.state, State::Settling { .. });
    assert_eq!(of(&is_settling).len(), queue.settling, "{name}");
    let is_leased = |m: &Message| matches!(m.state, State::Leased { .. });
    assert_eq!(of(&is_leased), queue.leased.iter().copied().collect(), "{name}");
    assert_eq!(of(&|m| m.state == State::Parked), queue.parked, "{name}");
    assert_eq!(of(&Message::is_kept), &queue.dead_letters | &queue.history, "{name}");
    for priority in Priority::DESCENDING {
        let ready = of(&|m| m.state == State::Ready && m.priority == priority);
        let lane: Vec<Seq> = queue.in_order(priority).collect();
        assert!(lane.is_sorted(), "{name}: a lane is in order of sequence");
        let live: Vec<Seq> = lane.iter().copied().filter(|seq| ready.contains(seq)).collect();
        assert_eq!(
            live,
            ready.iter().copied().collect::<Vec<_>>(),
            "{name}: a ready message is in its lane once"
        );
        assert!(
            lane.len() <= 2 * live.len() + 65,
            "{name}: {} of {} are stale",
            lane.len() - live.len(),
            lane.len()
        );
    }
    let held_by = |m: &Message| match m.state {
        State::Leased { consumer, .. } => queue.consumers.iter().any(|known| known.id == consumer),
        _ => true,
    };
    assert!(
        held.iter().all(|(_, message)| held_by(message)),
        "{name}: a lease is held by someone who is here"
    );
}
