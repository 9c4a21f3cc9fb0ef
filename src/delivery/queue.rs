//! One queue: four lanes of messages that wait, and the sessions that compete for them.
//!
//! Owns order, weights and the choice of a consumer; the messages themselves stand in the shard's table. A lane may name a
//! message that has left since (expired, purged): whoever pops looks it up and skips it. At most half of a lane is such.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use hashbrown::HashSet;

use super::{
    credit::{Credit, WorkerMark},
    message::ConsumerId,
};
use crate::frame::{Address, AddressKind, AgentId, Priority, Seq};

/// Entries of messages that have left, above half of a lane, before the lane is swept.
const STALE_SLACK: usize = 64;

/// A queue's place in its shard's table.
pub(super) type QueueIx = u32;

/// How a queue with several consumers picks one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The one with the fewest messages outstanding.
    LeastOutstanding,
    /// One after the other.
    RoundRobin,
}

/// What a queue is for, which decides its bounds and whether the store has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    Inbox,
    /// A session's own, in memory.
    Ephemeral,
    /// A session's own, in the store.
    DurableSession,
    /// `any:`, one-of groups and shared subscriptions.
    OneOf(Selection),
    /// Groups and topics: messages stay only until their copies are made, or as history.
    FanOut,
}

impl QueueKind {
    /// What an address is for where nobody said more: after a restart, before its sessions come back.
    pub fn of(address: &Address) -> Self {
        match address.kind() {
            AddressKind::Agent => Self::Inbox,
            AddressKind::Session => Self::DurableSession,
            AddressKind::Any => Self::OneOf(Selection::LeastOutstanding),
            AddressKind::Group => Self::FanOut,
            AddressKind::Topic if address.name().starts_with("$share/") => Self::OneOf(Selection::RoundRobin),
            AddressKind::Topic => Self::FanOut,
        }
    }
}

/// A session that takes messages from a queue.
#[derive(Clone, Debug)]
pub struct Consumer {
    pub id: ConsumerId,
    pub agent: AgentId,
    /// The protocol's name, for messages that prefer or demand one.
    pub protocol: &'static str,
    pub credit: Arc<Credit>,
    /// Which session it is, also over its connections: the hash of its own queue.
    pub session: u64,
    /// How long a hand-out may stay unsettled; `None`: as long as the session lasts.
    pub visibility_timeout: Option<Duration>,
}

/// What a message asks of the session that gets it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wish<'a> {
    /// Empty: none.
    pub protocol: &'a str,
    pub required: bool,
}

impl Wish<'_> {
    fn is_met_by(&self, consumer: &Consumer) -> bool {
        self.protocol.is_empty() || consumer.protocol == self.protocol
    }

    fn allows(&self, consumer: &Consumer) -> bool {
        !self.required || self.is_met_by(consumer)
    }

    /// The lowest goes first: the preferred protocol, then the least outstanding where the queue asks for that, then whose turn it is.
    fn rank(&self, kind: QueueKind, consumer: &Consumer, turns: usize) -> (bool, u32, usize) {
        let outstanding = match kind {
            QueueKind::OneOf(Selection::RoundRobin) => 0,
            _ => consumer.credit.taken().0,
        };
        (!self.is_met_by(consumer), outstanding, turns)
    }
}

/// How many turns after the one at `rotation` the consumer at `at` comes.
fn turns_from(rotation: usize, at: usize, count: usize) -> usize {
    (at + count - rotation % count) % count
}

/// Why no consumer could be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoConsumer {
    /// Some would do, but none has credit: wait.
    NoCredit,
    /// None here would do.
    NoneFits,
}

#[derive(Debug)]
pub(super) struct Queue {
    pub address: Address,
    pub kind: QueueKind,
    /// How long a group's messages stay readable; zero: no history.
    pub retention: Duration,
    lanes: [VecDeque<Seq>; Priority::COUNT],
    /// Handed out before and come back: they stand before everything in their lane that is younger.
    returned: [BTreeSet<Seq>; Priority::COUNT],
    /// Entries of each lane whose messages have left from behind its head.
    stale: [usize; Priority::COUNT],
    pub parked: BTreeSet<Seq>,
    /// What is left of each priority's share in this round.
    shares: [usize; Priority::COUNT],
    /// Messages and bytes that count against the bounds: everything that is not settled.
    pub messages: usize,
    pub bytes: u64,
    pub consumers: Vec<Consumer>,
    next_consumer: usize,
    pub leased: HashSet<Seq>,
    /// Messages whose settle is not committed yet: they still point here.
    pub settling: usize,
    /// Its agent, group or session is gone: no address leads here any more.
    pub removed: bool,
    /// Listed for the next pump.
    pub dirty: bool,
    pub dead_letters: BTreeSet<Seq>,
    pub history: BTreeSet<Seq>,
}

impl Queue {
    pub fn new(address: Address, kind: QueueKind) -> Self {
        Self {
            address,
            kind,
            retention: Duration::ZERO,
            lanes: Default::default(),
            returned: Default::default(),
            stale: [0; Priority::COUNT],
            parked: BTreeSet::new(),
            shares: Priority::WEIGHTS,
            messages: 0,
            bytes: 0,
            consumers: Vec::new(),
            next_consumer: 0,
            leased: HashSet::new(),
            settling: 0,
            removed: false,
            dirty: false,
            dead_letters: BTreeSet::new(),
            history: BTreeSet::new(),
        }
    }

    /// True where nothing would be lost by forgetting the queue. A durable session's queue stays until it is removed.
    pub fn is_idle(&self) -> bool {
        (self.kind != QueueKind::DurableSession || self.removed)
            && self.messages == 0
            && self.settling == 0
            && self.consumers.is_empty()
            && self.dead_letters.is_empty()
            && self.history.is_empty()
    }

    pub fn push(&mut self, priority: Priority, seq: Seq) {
        self.lanes[priority.index()].push_back(seq);
    }

    pub fn push_returned(&mut self, priority: Priority, seq: Seq) {
        self.returned[priority.index()].insert(seq);
    }

    /// True where a message is ready to be handed out, or waits for a consumer that fits it.
    pub fn has_waiting(&self) -> bool {
        Priority::DESCENDING.into_iter().any(|p| self.front(p).is_some()) || !self.parked.is_empty()
    }

    /// The next message of one priority; it stays.
    pub fn front(&self, priority: Priority) -> Option<Seq> {
        let (returned, fresh) = (
            self.returned[priority.index()].first(),
            self.lanes[priority.index()].front(),
        );
        match (returned, fresh) {
            (Some(returned), Some(fresh)) => Some(*returned.min(fresh)),
            (one, other) => one.or(other).copied(),
        }
    }

    /// Removes what [`Queue::front`] showed.
    pub fn pop(&mut self, priority: Priority) -> Option<Seq> {
        let seq = self.front(priority)?;
        if !self.returned[priority.index()].remove(&seq) {
            self.lanes[priority.index()].pop_front();
        }
        Some(seq)
    }

    /// Removes what [`Queue::front`] showed, whose message has left.
    pub fn pop_stale(&mut self, priority: Priority) {
        self.pop(priority);
        let stale = &mut self.stale[priority.index()];
        *stale = stale.saturating_sub(1);
    }

    /// A message leaves from wherever in its lane it stands. `is_ready` tells which messages of the lane still do.
    pub fn withdraw(&mut self, priority: Priority, seq: Seq, is_ready: impl Fn(Seq) -> bool) {
        let at = priority.index();
        if self.returned[at].remove(&seq) || self.parked.remove(&seq) {
            return;
        }
        let lane = &mut self.lanes[at];
        if lane.front() == Some(&seq) {
            lane.pop_front();
            return;
        }
        self.stale[at] += 1;
        if self.stale[at] * 2 > lane.len() + STALE_SLACK {
            lane.retain(|seq| is_ready(*seq));
            lane.shrink_to(2 * lane.len());
            self.stale[at] = 0;
        }
    }

    /// Every message that is in a lane, parked or handed out; some may have left.
    pub fn listed(&self) -> impl Iterator<Item = Seq> {
        let lanes = self.lanes.iter().flatten().chain(self.returned.iter().flatten());
        lanes.chain(&self.parked).chain(&self.leased).copied()
    }

    /// The messages of one priority in the order in which they will be popped, for reading ahead.
    pub fn in_order(&self, priority: Priority) -> impl Iterator<Item = Seq> {
        let mut returned = self.returned[priority.index()].iter().copied().peekable();
        let mut fresh = self.lanes[priority.index()].iter().copied().peekable();
        std::iter::from_fn(move || match (returned.peek(), fresh.peek()) {
            (Some(first), Some(second)) if first > second => fresh.next(),
            (Some(_), _) => returned.next(),
            (None, _) => fresh.next(),
        })
    }

    /// Picks the priority whose turn it is among those of `open` that have messages: 8:4:2:1, shares that nobody uses pass on (G6).
    pub fn turn(&mut self, open: [bool; Priority::COUNT]) -> Option<Priority> {
        let mut waiting = Priority::DESCENDING
            .into_iter()
            .filter(|p| open[p.index()] && self.front(*p).is_some());
        let first = waiting.next()?;
        let with_share = std::iter::once(first)
            .chain(waiting)
            .find(|p| self.shares[p.index()] > 0);
        Some(with_share.unwrap_or_else(|| {
            self.shares = Priority::WEIGHTS;
            first
        }))
    }

    /// A message of that priority was handed out. A turn that came to nothing costs no share: otherwise a queue that waits for credit
    /// would use up the shares of its lowest priorities without a message.
    pub fn spend(&mut self, priority: Priority) {
        let share = &mut self.shares[priority.index()];
        *share = share.saturating_sub(1);
    }

    /// Picks a consumer that fits the message, may have it, has credit and is not held back, and takes the credit.
    pub fn pick(
        &mut self,
        wish: Wish<'_>,
        bytes: u64,
        worker: WorkerMark,
        held_back: &[ConsumerId],
        may_have: impl Fn(&Consumer) -> bool,
    ) -> Result<&Consumer, NoConsumer> {
        let (rotation, count, kind) = (self.next_consumer, self.consumers.len(), self.kind);
        let fits = |consumer: &Consumer| wish.allows(consumer) && may_have(consumer);
        let rank = |(at, consumer): &(usize, &Consumer)| wish.rank(kind, consumer, turns_from(rotation, *at, count));
        let fitting = || self.consumers.iter().enumerate().filter(|(_, consumer)| fits(consumer));
        let going_on = || fitting().filter(|(_, consumer)| !held_back.contains(&consumer.id));
        let best = going_on()
            .filter(|(_, consumer)| consumer.credit.has_room(bytes))
            .min_by_key(rank);
        // The others are asked too where the best one lost its room meanwhile: each that refuses keeps this worker's mark.
        let picked = best
            .into_iter()
            .chain(going_on())
            .find(|(_, consumer)| consumer.credit.try_take(bytes, worker));
        match picked {
            Some((at, _)) => {
                self.next_consumer = (at + 1) % count;
                Ok(&self.consumers[at])
            }
            None if fitting().next().is_none() => Err(NoConsumer::NoneFits),
            None => Err(NoConsumer::NoCredit),
        }
    }

    /// True where some consumer that is not held back has credit for so many bytes; each that has none keeps this worker's mark.
    pub fn has_credit(&self, bytes: u64, worker: WorkerMark, held_back: &[ConsumerId]) -> bool {
        // Every one is asked: a mark is what brings the worker back.
        let going_on = self.consumers.iter().filter(|c| !held_back.contains(&c.id));
        going_on.filter(|c| c.credit.has_room_or_marks(bytes, worker)).count() > 0
    }

    /// Lists every consumer that a message waits for.
    pub fn hold_back(&self, wish: Wish<'_>, may_have: impl Fn(&Consumer) -> bool, held_back: &mut Vec<ConsumerId>) {
        for consumer in self
            .consumers
            .iter()
            .filter(|consumer| wish.allows(consumer) && may_have(consumer))
        {
            if !held_back.contains(&consumer.id) {
                held_back.push(consumer.id);
            }
        }
    }

    /// Any consumer for a QoS 0 message, chosen by the same rank; no credit is taken.
    pub fn pick_uncredited(&mut self, wish: Wish<'_>, may_have: impl Fn(&Consumer) -> bool) -> Option<&Consumer> {
        let (rotation, count, kind) = (self.next_consumer, self.consumers.len(), self.kind);
        let (at, _) = (self.consumers.iter().enumerate())
            .filter(|(_, consumer)| wish.allows(consumer) && may_have(consumer))
            .min_by_key(|(at, consumer)| {
                // Who closed its window is there for something else, or will read later: only where nobody else takes it.
                let is_closed = consumer.credit.window().0 == 0;
                (is_closed, wish.rank(kind, consumer, turns_from(rotation, *at, count)))
            })?;
        self.next_consumer = (at + 1) % count;
        Some(&self.consumers[at])
    }

    /// Parked messages go back to their lanes: a consumer came that may fit them.
    pub fn unpark(&mut self) -> BTreeSet<Seq> {
        std::mem::take(&mut self.parked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue {
        Queue::new("agent:a".parse().unwrap(), QueueKind::Inbox)
    }

    #[test]
    fn full_lanes_share_8_4_2_1_and_unused_shares_pass_on() {
        let mut queue = queue();
        for seq in 0..200 {
            Priority::DESCENDING
                .into_iter()
                .for_each(|p| queue.push(p, Seq::from_raw(seq)));
        }
        let mut taken = [0; 4];
        for _ in 0..150 {
            let turn = queue.turn([true; 4]).unwrap();
            queue.pop(turn).unwrap();
            queue.spend(turn);
            taken[turn.index()] += 1;
        }
        assert_eq!(taken, [10, 20, 40, 80]);
        let mut only_low = super::tests::queue();
        (0..20).for_each(|seq| only_low.push(Priority::Low, Seq::from_raw(seq)));
        for _ in 0..20 {
            let turn = only_low.turn([true; 4]).unwrap();
            only_low.pop(turn).unwrap();
            only_low.spend(turn);
        }
    }

    #[test]
    fn what_comes_back_stands_before_what_is_younger() {
        let mut queue = queue();
        [5, 6, 7]
            .into_iter()
            .for_each(|seq| queue.push(Priority::Normal, Seq::from_raw(seq)));
        let first = queue.pop(Priority::Normal).unwrap();
        queue.push_returned(Priority::Normal, first);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(Priority::Normal))
            .map(Seq::raw)
            .collect();
        assert_eq!(order, [5, 6, 7]);
    }

    #[test]
    fn round_robin_goes_around_and_skips_who_has_no_credit() {
        let mut queue = Queue::new("group:g".parse().unwrap(), QueueKind::OneOf(Selection::RoundRobin));
        for (id, window) in [(1, 10), (2, 0), (3, 10)] {
            queue.consumers.push(Consumer {
                id: ConsumerId(id),
                agent: AgentId::new("a").unwrap(),
                protocol: "grpc",
                credit: Arc::new(Credit::new(window, 1000)),
                session: id,
                visibility_timeout: None,
            });
        }
        let picks: Vec<_> = (0..4)
            .map(|_| {
                queue
                    .pick(Wish::default(), 1, WorkerMark::of(0), &[], |_| true)
                    .unwrap()
                    .id
                    .0
            })
            .collect();
        assert_eq!(picks, [1, 3, 1, 3]);
    }
}
