//! A topic's message with one target, straight to the target's shard.

use std::{collections::VecDeque, time::Duration};

use proptest::prelude::*;

use super::world::{Mail, Tag, World, accepted, address, mail};
use crate::{
    delivery::{Limits, Relay, Route, Straight, Verdict},
    frame::{
        Qos, ShardId,
        record::{Reason, Status},
    },
};

const SOURCE: ShardId = ShardId::of_hash(5);
const TARGET: &str = "agent:x#lasting";

impl World {
    /// Sends to a topic that has one subscriber.
    fn send_to_one(&mut self, mail: &Mail) -> Tag {
        let route = Route::Straight {
            hash: mail.to.hash64(),
            target: address(TARGET),
        };
        self.publish_by(mail, route)
    }

    fn straights(&mut self) -> Vec<Straight<Tag>> {
        std::mem::take(&mut self.out.straight)
    }

    fn straight_comes(&mut self, straight: Straight<Tag>) {
        self.run(|shard, now, out, gate| shard.handle_straight(*straight.publish, now, out, gate));
    }

    fn relay_is_done(&mut self, relay: &Relay) {
        let seq = relay.seq;
        self.run(|shard, now, out, _| shard.handle_relay_done(seq, now, out));
    }

    fn open_target(&mut self) {
        let target = address(TARGET);
        self.run(|shard, _, _, _| shard.handle_open_durable(&target));
    }
}

fn world() -> World {
    World::with(Limits {
        inbox_messages_max: 1000,
        session_messages_max: 1000,
        ..Limits::default()
    })
}

#[test]
fn nothing_is_kept_at_the_topic_and_the_target_answers_once_it_is_committed() {
    let (mut source, mut target) = (world(), world());
    target.open_target();
    let tag = source.send_to_one(&mail("m1", "topic:t"));
    assert!(!source.shard.has_commit() && source.out.answers.is_empty());
    assert_eq!(source.shard.held().queues, 0);
    let straight = source.straights().remove(0);
    assert_eq!(straight.to, address(TARGET).home_shard());
    target.straight_comes(straight);
    target.pump();
    assert!(target.out.answers.is_empty(), "G1");
    target.commit();
    let acceptance = accepted(target.answer(tag));
    assert_eq!((acceptance.recipients, acceptance.duplicate), (1, false));
    target.attach(TARGET, 1, "x", 10);
    target.commit();
    assert_eq!(target.hand_outs().len(), 1);
}

#[test]
fn g4_a_message_that_was_taken_comes_back_as_a_duplicate_whichever_way_it_came() {
    let (mut source, mut target) = (world(), world());
    target.open_target();
    for again in [false, true] {
        let tag = source.send_to_one(&mail("m1", "topic:t"));
        let straight = source.straights().remove(0);
        target.straight_comes(straight);
        target.commit();
        assert_eq!(accepted(target.answer(tag)).duplicate, again);
    }
    // The first one by the outbox: its receipt is the topic's.
    let tag = source.fan_out(&mail("m2", "topic:t"), &[TARGET], Duration::ZERO);
    source.commit();
    assert!(!accepted(source.answer(tag)).duplicate);
    let relay = source.relays().remove(0);
    source.relay_is_done(&relay);
    source.commit();
    let tag = source.send_to_one(&mail("m2", "topic:t"));
    assert!(accepted(source.answer(tag)).duplicate && source.straights().is_empty());
}

#[test]
fn a_copy_that_its_queue_does_not_take_is_accepted_and_its_receipt_says_so() {
    let mut source = world();
    for (is_open, reason) in [(false, Reason::Removed), (true, Reason::QueueFull)] {
        let mut target = World::with(Limits {
            session_messages_max: 0,
            ..Limits::default()
        });
        if is_open {
            target.open_target();
        }
        let tag = source.send_to_one(&mail("m1", "topic:t"));
        let straight = source.straights().remove(0);
        target.straight_comes(straight);
        assert!(target.out.answers.is_empty(), "not before the receipt is committed");
        target.commit();
        let acceptance = accepted(target.answer(tag));
        assert_eq!((acceptance.status, acceptance.recipients), (Some(Status::Rejected), 1));
        assert_eq!(target.receipt(acceptance.seq.unwrap()).reason, reason);
    }
}

#[test]
fn g2_a_commit_that_fails_is_said_to_have_failed() {
    for messages_max in [0, 10] {
        let (mut source, mut target) = (
            world(),
            World::with(Limits {
                session_messages_max: messages_max,
                ..Limits::default()
            }),
        );
        target.open_target();
        let tag = source.send_to_one(&mail("m1", "topic:t"));
        let straight = source.straights().remove(0);
        target.straight_comes(straight);
        target.begin_commit();
        target.fail();
        assert_eq!(target.answer(tag), Verdict::Failed);
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// To the one subscriber, or to two.
    Send {
        to_one: bool,
    },
    SourceCommits,
    TargetCommits,
    /// The next word gets from the source to the target.
    Comes,
    /// The target's next confirmation gets to the source.
    Confirmed,
}

enum Word {
    Straight(Straight<Tag>),
    Relay(Box<(Relay, Mail)>),
}

/// A topic's shard and its subscriber's, and what is on its way between them.
struct Pair {
    source: World,
    target: World,
    there: VecDeque<Word>,
    back: VecDeque<Relay>,
    sent: Vec<Mail>,
    straight: usize,
}

impl Pair {
    fn new() -> Self {
        let mut target = world();
        target.open_target();
        target.attach(TARGET, 1, "x", 1000);
        Self {
            source: world(),
            target,
            there: VecDeque::new(),
            back: VecDeque::new(),
            sent: Vec::new(),
            straight: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send { to_one } => {
                let mail = mail(&format!("m{:03}", self.sent.len()), "topic:t").qos(Qos::AtLeastOnce);
                match to_one {
                    true => self.source.send_to_one(&mail),
                    false => self.source.fan_out(&mail, &[TARGET, "agent:y"], Duration::ZERO),
                };
                self.sent.push(mail);
            }
            Step::SourceCommits => {
                self.source.pump();
                self.source.begin_commit();
                self.source.complete();
            }
            Step::TargetCommits => {
                self.target.pump();
                self.target.begin_commit();
                self.target.complete();
            }
            Step::Comes => match self.there.pop_front() {
                Some(Word::Straight(straight)) => self.target.straight_comes(straight),
                Some(Word::Relay(relay)) => {
                    let (relay, mail) = *relay;
                    self.target.copies(&mail, SOURCE, relay.seq.raw(), &[TARGET]);
                    self.back.push_back(relay);
                }
                None => {}
            },
            Step::Confirmed => {
                let confirmed = self.target.out.relayed.first().map(|(_, seq)| *seq);
                if let Some(seq) = confirmed {
                    self.target.out.relayed.remove(0);
                    let at = self.back.iter().position(|relay| relay.seq == seq).unwrap();
                    let relay = self.back.remove(at).unwrap();
                    self.source.relay_is_done(&relay);
                }
            }
        }
        let straights = self.source.straights();
        self.straight += straights.len();
        self.there.extend(straights.into_iter().map(Word::Straight));
        for relay in self.source.relays() {
            if relay.targets == [address(TARGET)] {
                let named = |mail: &&Mail| mail.id == relay.frame.envelope.id();
                let mail = self.sent.iter().find(named).unwrap().clone();
                self.there.push_back(Word::Relay(Box::new((relay, mail))));
            } else {
                // The other subscriber's shard is done at once.
                self.source.relay_is_done(&relay);
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Send { to_one: true }),
        2 => Just(Step::Send { to_one: false }),
        4 => Just(Step::SourceCommits),
        4 => Just(Step::TargetCommits),
        6 => Just(Step::Comes),
        4 => Just(Step::Confirmed),
    ]
}

proptest! {
    #[test]
    fn g5_a_subscriber_that_others_join_and_leave_gets_everything_once_and_in_order(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut pair = Pair::new();
        steps.into_iter().for_each(|step| pair.step(step));
        for _ in 0..400 {
            if pair.there.is_empty() && pair.source.shard.held().messages == 0 {
                break;
            }
            for step in [Step::SourceCommits, Step::Comes, Step::TargetCommits, Step::Confirmed] {
                pair.step(step);
            }
        }
        pair.target.commit();
        let got: Vec<_> = pair
            .target
            .hand_outs()
            .into_iter()
            .map(|hand_out| hand_out.frame.envelope.id().to_owned())
            .collect();
        let sent: Vec<_> = pair.sent.iter().map(|mail| mail.id.clone()).collect();
        prop_assert_eq!(got, sent);
        prop_assert_eq!(pair.source.shard.held().messages, 0);
    }
}

#[test]
fn the_straight_way_is_taken_again_once_the_outbox_is_done() {
    let mut pair = Pair::new();
    let mut sends = |to_one, rounds: usize| {
        pair.step(Step::Send { to_one });
        for _ in 0..rounds {
            for step in [Step::SourceCommits, Step::Comes, Step::TargetCommits, Step::Confirmed] {
                pair.step(step);
            }
        }
        pair.straight
    };
    assert_eq!(sends(true, 0), 1);
    assert_eq!(sends(false, 0), 1);
    assert_eq!(sends(true, 0), 1, "one is under way by the outbox");
    assert_eq!(sends(true, 20), 1);
    assert_eq!(sends(true, 0), 2);
}
