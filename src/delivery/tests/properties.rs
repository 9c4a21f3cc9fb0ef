//! Random runs: whatever is sent, settled, refused, lost and restarted, the guarantees hold.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::world::{World, mail};
use crate::{
    delivery::{Lease, Nack, Verdict},
    frame::{LastHop, Priority, Seq},
};

const INBOX: &str = "agent:bob";
const SENDERS: [&str; 2] = ["alice", "carol"];
/// Rounds in which everything must be settled at the end; each settles at least one message of at most 40.
const DRAIN_ROUNDS_MAX: usize = 400;

#[derive(Clone, Debug)]
enum Step {
    Send { sender: usize, number: u8, priority: u8 },
    BeginCommit,
    Complete,
    Attach(u64),
    Detach(u64),
    Ack(usize),
    Nack(usize, Nack),
    WaitSecs(u64),
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..2usize, 0..20u8, 0..4u8).prop_map(|(sender, number, priority)| Step::Send { sender, number, priority }),
        4 => Just(Step::BeginCommit),
        4 => Just(Step::Complete),
        2 => (1..4u64).prop_map(Step::Attach),
        1 => (1..4u64).prop_map(Step::Detach),
        5 => any::<usize>().prop_map(Step::Ack),
        1 => any::<usize>().prop_map(|at| Step::Nack(at, Nack::Retry(None))),
        1 => any::<usize>().prop_map(|at| Step::Nack(at, Nack::Release)),
        1 => any::<usize>().prop_map(|at| Step::Nack(at, Nack::DeadLetter)),
        1 => (1..4u64).prop_map(Step::WaitSecs),
        1 => Just(Step::Crash),
    ]
}

/// What callers know, and nothing that the machine alone knows.
#[derive(Default)]
struct Callers {
    /// (sender, id) of each send that is not answered yet.
    sends: BTreeMap<u32, (usize, u8)>,
    acks: BTreeMap<u32, Seq>,
    /// (sender, id) that was accepted as new, with its place.
    accepted: BTreeMap<(usize, u8), Seq>,
    settled: BTreeSet<Seq>,
    held: Vec<(Seq, Lease)>,
    attached: BTreeSet<u64>,
    /// The newest first delivery of each (sender, priority).
    newest: BTreeMap<(String, Priority), Seq>,
}

impl Callers {
    fn listen(&mut self, world: &mut World) {
        for hand_out in world.hand_outs() {
            let (seq, lease) = hand_out.lease;
            assert!(!self.settled.contains(&seq), "G7: {seq:?} was settled and came again");
            assert!(
                world.store.holds(seq),
                "G1: {seq:?} is handed out before it is committed"
            );
            let envelope = &hand_out.frame.envelope;
            if !hand_out.frame.stamp.flags.is_redelivered() {
                let line = (envelope.from().to_owned(), envelope.priority());
                let before = self.newest.insert(line, seq);
                assert!(before < Some(seq), "G5: {seq:?} is first delivered after {before:?}");
            }
            self.held.retain(|(held, _)| *held != seq);
            self.held.push((seq, lease));
        }
        for (tag, verdict) in std::mem::take(&mut world.out.answers) {
            self.hear(world, tag, verdict);
        }
    }

    fn hear(&mut self, world: &World, tag: u32, verdict: Verdict) {
        match verdict {
            Verdict::Accepted(acceptance) => {
                let Some(sent) = self.sends.remove(&tag) else { return };
                let seq = acceptance.seq.expect("QoS 1 has a place");
                assert!(
                    world.store.holds(seq) || world.store.has_receipt(seq),
                    "G1: acknowledged, not committed"
                );
                if !acceptance.duplicate {
                    let earlier = self.accepted.insert(sent, seq);
                    assert_eq!(earlier, None, "G4: {sent:?} was accepted twice");
                }
            }
            Verdict::Settled => {
                if let Some(seq) = self.acks.remove(&tag) {
                    assert!(
                        world.store.has_receipt(seq),
                        "an acknowledgement counts when its settle is committed"
                    );
                    self.settled.insert(seq);
                }
            }
            Verdict::Stale => {
                self.acks.remove(&tag);
            }
            other => panic!("nothing here is answered by {other:?}"),
        }
    }

    fn ack(&mut self, world: &mut World, at: usize) {
        if !self.held.is_empty() {
            let lease = self.held.swap_remove(at % self.held.len());
            let tag = world.ack(lease, "bob");
            self.acks.insert(tag, lease.0);
        }
    }
}

fn take(world: &mut World, callers: &mut Callers, step: &Step) {
    match *step {
        Step::Send {
            sender,
            number,
            priority,
        } => {
            let priority = Priority::from_u8(priority).expect("below 4");
            let mail = mail(&format!("m{number}"), INBOX)
                .from(SENDERS[sender])
                .priority(priority);
            let tag = world.publish(&mail);
            callers.sends.insert(tag, (sender, number));
        }
        Step::BeginCommit => {
            world.pump();
            world.begin_commit();
        }
        Step::Complete => {
            world.complete();
        }
        Step::Attach(id) => {
            if callers.attached.insert(id) {
                world.attach(INBOX, id, "bob", 3);
            }
        }
        Step::Detach(id) => {
            callers.attached.remove(&id);
            world.detach(INBOX, id);
        }
        Step::Ack(at) => callers.ack(world, at),
        Step::Nack(at, nack) => {
            if !callers.held.is_empty() {
                let lease = callers.held.swap_remove(at % callers.held.len());
                world.nack(lease, "bob", nack);
            }
        }
        Step::WaitSecs(secs) => world.wait_secs(secs),
        Step::Crash => {
            world.crash();
            callers.sends.clear();
            callers.acks.clear();
            callers.held.clear();
            callers.attached.clear();
        }
    }
    world.serve_loads();
    callers.listen(world);
}

/// Settles everything that is left and returns the sessions' credit.
fn drain(world: &mut World, callers: &mut Callers) -> std::sync::Arc<crate::delivery::Credit> {
    (1..4).for_each(|id| world.detach(INBOX, id));
    let credit = world.attach(INBOX, 9, "bob", 1000);
    for _ in 0..DRAIN_ROUNDS_MAX {
        world.commit();
        callers.listen(world);
        if world.depth(INBOX) == 0 {
            break;
        }
        world.wait_secs(10);
        while !callers.held.is_empty() {
            callers.ack(world, 0);
        }
    }
    world.commit();
    callers.listen(world);
    credit
}

proptest! {
    #[test]
    fn whatever_happens_the_guarantees_hold(steps in proptest::collection::vec(step(), 1..80)) {
        let (mut world, mut callers) = (World::new(), Callers::default());
        for step in &steps {
            take(&mut world, &mut callers, step);
        }
        let credit = drain(&mut world, &mut callers);
        prop_assert_eq!(world.depth(INBOX), 0, "everything is settled in the end");
        prop_assert_eq!(credit.taken(), (0, 0), "all credit came back");
        for (sent, seq) in &callers.accepted {
            let receipt = world.shard.receipt(*seq);
            prop_assert!(receipt.is_some_and(|receipt| receipt.status.is_settled()), "G13: {sent:?} was lost");
        }
    }
}

/// What happens to an inbox with two sessions, of which each message demands one, or neither.
#[derive(Clone, Debug)]
enum Turn {
    Send { priority: u8, demands: Option<usize> },
    Ack(usize),
    Release(usize),
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        5 => (0..4u8, proptest::option::of(0..2usize)).prop_map(|(priority, demands)| Turn::Send { priority, demands }),
        3 => any::<usize>().prop_map(Turn::Ack),
        1 => any::<usize>().prop_map(Turn::Release),
    ]
}

const PROTOCOLS: [&str; 2] = ["grpc", "mqtt"];

proptest! {
    #[test]
    fn each_session_gets_what_it_may_have_in_order_and_waits_for_no_other(
        turns in proptest::collection::vec(turn(), 1..60),
        windows in (0..4u32, 0..4u32),
    ) {
        let mut world = World::new();
        let windows = [windows.0, windows.1];
        for at in 0..2 {
            let mut consumer = world.consumer(at as u64, "bob", windows[at]);
            consumer.protocol = PROTOCOLS[at];
            world.attach_as(INBOX, consumer);
        }
        let mut waiting: BTreeMap<String, Option<usize>> = BTreeMap::new();
        let mut held: Vec<(usize, Seq, Lease, Option<usize>, String)> = Vec::new();
        let mut demanded: BTreeMap<String, Option<usize>> = BTreeMap::new();
        let mut newest: BTreeMap<(usize, Priority), Seq> = BTreeMap::new();
        for (number, turn) in turns.iter().enumerate() {
            match *turn {
                Turn::Send { priority, demands } => {
                    let id = format!("m{number}");
                    let mail = mail(&id, INBOX).priority(Priority::from_u8(priority).expect("below 4"));
                    let mail = match demands {
                        Some(at) => mail.over(LastHop::Required(PROTOCOLS[at].into())),
                        None => mail,
                    };
                    world.publish(&mail);
                    waiting.insert(id.clone(), demands);
                    demanded.insert(id, demands);
                }
                Turn::Ack(at) if !held.is_empty() => {
                    let (_, seq, lease, ..) = held.swap_remove(at % held.len());
                    world.ack((seq, lease), "bob");
                }
                Turn::Release(at) if !held.is_empty() => {
                    let (_, seq, lease, demands, id) = held.swap_remove(at % held.len());
                    world.nack((seq, lease), "bob", Nack::Release);
                    waiting.insert(id, demands);
                }
                Turn::Ack(_) | Turn::Release(_) => {}
            }
            world.commit();
            for hand_out in world.hand_outs() {
                let (at, (seq, lease)) = (hand_out.consumer.0 as usize, hand_out.lease);
                let envelope = &hand_out.frame.envelope;
                let demands = demanded[envelope.id()];
                prop_assert!(demands.is_none_or(|wanted| wanted == at));
                if !hand_out.frame.stamp.flags.is_redelivered() {
                    let before = newest.insert((at, envelope.priority()), seq);
                    prop_assert!(before < Some(seq), "G5: session {at} got {seq:?} after {before:?}");
                }
                waiting.remove(envelope.id());
                held.push((at, seq, lease, demands, envelope.id().to_owned()));
            }
            for (at, window) in windows.into_iter().enumerate() {
                let outstanding = held.iter().filter(|(by, ..)| *by == at).count();
                let is_idle = outstanding < window as usize;
                let could = waiting.iter().find(|(_, demands)| demands.is_none_or(|wanted| wanted == at));
                prop_assert!(!is_idle || could.is_none(), "session {at} has credit while {could:?} waits");
            }
        }
    }
}
