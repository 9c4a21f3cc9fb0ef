//! A fabric in a few lines that crashes at random, faithful or with one flaw: the checker's own examiner.
//!
//! Owns the planted faults. A faithful fabric's history must have no fault under any seed, a flawed one's must show its flaw
//! whenever the flaw took effect. Knows nothing of the real fabric.

use std::collections::HashSet;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{
    checker::{Fault, faults},
    history::{Event, History, Message, MessageNo, Taken, Verdict},
};

const PRODUCERS: usize = 3;
const RECIPIENTS: usize = 2;
const MESSAGES: usize = 300;
/// Messages that a producer has unanswered, or a consumer unacknowledged, at most.
const BATCH: usize = 5;

/// What is wrong with a fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// A crash loses a message that was acknowledged.
    LosesOnCrash,
    /// A crash forgets a settled message's settling.
    ForgetsSettling,
    /// A repeated id is taken as new.
    ForgetsIds,
    /// Now and then two neighbours are handed out the wrong way round.
    Swaps,
    /// A receipt says expired.
    SaysExpired,
}

/// Whether the fabric lives through what it is doing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Power {
    Stays,
    Fails,
}

struct Stored {
    message: MessageNo,
    settled: bool,
    acknowledged: bool,
}

struct Fabric {
    flaw: Flaw,
    /// How often the flaw changed what happened.
    flawed: usize,
    rng: StdRng,
    stored: Vec<Stored>,
    history: History,
}

impl Fabric {
    fn commit(&mut self, message: MessageNo) -> Taken {
        let known = self.stored.iter().any(|stored| stored.message == message);
        if known && self.flaw != Flaw::ForgetsIds {
            return Taken::Again;
        }
        self.flawed += usize::from(known);
        self.stored.push(Stored {
            message,
            settled: false,
            acknowledged: false,
        });
        Taken::First
    }

    /// One producer sends a batch; a crash in it cuts the commits, and the answers to what was committed.
    fn produce(&mut self, unanswered: &mut Vec<MessageNo>, power: Power) {
        for message in unanswered.iter() {
            self.history.events.push(Event::Submitted(*message));
        }
        let committed = self.cut(unanswered.len(), power);
        let answered = self.cut(committed, power);
        for (index, message) in unanswered[..committed].iter().enumerate() {
            let taken = self.commit(*message);
            if index < answered {
                self.history.events.push(Event::Accepted(*message, taken));
                self.stored
                    .iter_mut()
                    .filter(|stored| stored.message == *message)
                    .for_each(|stored| stored.acknowledged = true);
            }
        }
        unanswered.drain(..answered);
        self.crash(power);
    }

    /// A recipient is handed a batch and acknowledges it; a crash cuts the settles, and the answers to them.
    fn consume(&mut self, recipient: usize, power: Power) -> usize {
        let name = format!("consumer-{recipient}");
        let waits = |stored: &Stored| !stored.settled && self.history.message(stored.message).recipient == name;
        let mut batch: Vec<usize> = (0..self.stored.len())
            .filter(|place| waits(&self.stored[*place]))
            .collect();
        batch.sort_by_key(|place| self.history.message(self.stored[*place].message).priority == "normal");
        batch.truncate(BATCH);
        if self.flaw == Flaw::Swaps && self.rng.random_bool(0.2) {
            self.swap(&mut batch);
        }
        for &place in &batch {
            let message = self.stored[place].message;
            let place = format!("{place}");
            self.history.events.push(Event::Delivered { message, place });
        }
        let settled = self.cut(batch.len(), power);
        let confirmed = self.cut(settled, power);
        for (index, &place) in batch.iter().enumerate() {
            let message = self.stored[place].message;
            self.history.events.push(Event::AckSent(message));
            self.stored[place].settled = index < settled;
            if index < confirmed {
                self.history.events.push(Event::AckConfirmed(message));
            }
        }
        self.crash(power);
        batch.len()
    }

    /// Swaps two neighbours of one lane that nobody was handed before, both of them acknowledged and neither sent again.
    fn swap(&mut self, batch: &mut [usize]) {
        let lane = |place: usize| {
            let message = self.history.message(self.stored[place].message);
            (message.sender.clone(), message.priority)
        };
        let untouched = |place: usize| {
            let number = self.stored[place].message;
            let times =
                |wanted: &dyn Fn(&Event) -> bool| self.history.events.iter().filter(|event| wanted(event)).count();
            let submits = times(&|event| *event == Event::Submitted(number));
            let deliveries = times(&|event| matches!(event, Event::Delivered { message, .. } if *message == number));
            submits == 1 && deliveries == 0 && self.stored[place].acknowledged
        };
        let fits = |index: &usize| {
            let (first, second) = (batch[*index], batch[*index + 1]);
            lane(first) == lane(second) && untouched(first) && untouched(second)
        };
        if let Some(index) = (0..batch.len().saturating_sub(1)).find(fits) {
            batch.swap(index, index + 1);
            self.flawed += 1;
        }
    }

    fn cut(&mut self, whole: usize, power: Power) -> usize {
        match power {
            Power::Stays => whole,
            Power::Fails => self.rng.random_range(0..=whole),
        }
    }

    fn crash(&mut self, power: Power) {
        if power == Power::Stays {
            return;
        }
        self.history.events.push(Event::Killed);
        let delivered: HashSet<MessageNo> = self.delivered();
        let confirmed: HashSet<MessageNo> = self.confirmed();
        let mut places: Vec<usize> = (0..self.stored.len()).collect();
        places.shuffle(&mut self.rng);
        let found =
            |wanted: &dyn Fn(&Stored) -> bool| places.iter().copied().find(|place| wanted(&self.stored[*place]));
        match self.flaw {
            Flaw::LosesOnCrash => {
                if let Some(place) = found(&|stored| stored.acknowledged && !delivered.contains(&stored.message)) {
                    // Its place stays taken, so that places keep their names.
                    self.stored[place].settled = true;
                    self.flawed += 1;
                }
            }
            Flaw::ForgetsSettling => {
                if let Some(place) = found(&|stored| stored.settled && confirmed.contains(&stored.message)) {
                    self.stored[place].settled = false;
                    self.flawed += 1;
                }
            }
            _ => {}
        }
    }

    fn delivered(&self) -> HashSet<MessageNo> {
        let events = self.history.events.iter();
        events
            .filter_map(|event| match event {
                Event::Delivered { message, .. } => Some(*message),
                _ => None,
            })
            .collect()
    }

    fn confirmed(&self) -> HashSet<MessageNo> {
        let events = self.history.events.iter();
        events
            .filter_map(|event| match event {
                Event::AckConfirmed(message) => Some(*message),
                _ => None,
            })
            .collect()
    }

    fn judge(&mut self) {
        let delivered = self.delivered();
        for number in (0..self.history.messages.len()).map(MessageNo) {
            let mut verdict = match self.stored.iter().find(|stored| stored.message == number) {
                Some(stored) if stored.settled && delivered.contains(&number) => Verdict::Delivered,
                Some(_) => Verdict::Waiting,
                None => Verdict::Unknown,
            };
            if self.flaw == Flaw::SaysExpired && verdict == Verdict::Delivered && self.rng.random_bool(0.01) {
                verdict = Verdict::Expired;
                self.flawed += 1;
            }
            self.history.events.push(Event::Judged(number, verdict));
        }
    }
}

/// Producers and consumers work on a fabric that crashes now and then, until everything is sent and drained.
fn run(flaw: Flaw, seed: u64) -> Fabric {
    let mut fabric = Fabric {
        flaw,
        flawed: 0,
        rng: StdRng::seed_from_u64(seed),
        stored: Vec::new(),
        history: History::default(),
    };
    let mut unanswered: Vec<Vec<MessageNo>> = vec![Vec::new(); PRODUCERS];
    while fabric.history.messages.len() < MESSAGES {
        let power = if fabric.rng.random_bool(0.1) {
            Power::Fails
        } else {
            Power::Stays
        };
        if fabric.rng.random_bool(0.5) {
            let producer = fabric.rng.random_range(0..PRODUCERS);
            while unanswered[producer].len() < BATCH {
                let message = invent(&mut fabric, producer);
                unanswered[producer].push(message);
            }
            fabric.produce(&mut unanswered[producer], power);
        } else {
            let recipient = fabric.rng.random_range(0..RECIPIENTS);
            fabric.consume(recipient, power);
        }
    }
    for pending in &mut unanswered {
        fabric.produce(pending, Power::Stays);
    }
    (0..RECIPIENTS).for_each(|recipient| while fabric.consume(recipient, Power::Stays) > 0 {});
    fabric.judge();
    fabric
}

fn invent(fabric: &mut Fabric, producer: usize) -> MessageNo {
    let number = fabric.history.messages.len();
    fabric.history.messages.push(Message {
        sender: format!("producer-{producer}"),
        id: format!("m{number}"),
        recipient: format!("consumer-{}", fabric.rng.random_range(0..RECIPIENTS)),
        priority: if fabric.rng.random_bool(0.3) {
            "critical"
        } else {
            "normal"
        },
        qos: fabric.rng.random_range(1..=2),
    });
    MessageNo(number)
}

#[test]
fn a_faithful_fabric_that_crashes_shows_no_fault() {
    for seed in 0..200 {
        let found = faults(&run(Flaw::None, seed).history);
        assert_eq!(found, [], "seed {seed}");
    }
}

#[track_caller]
fn assert_always_caught(flaw: Flaw, is_it: impl Fn(&Fault) -> bool) {
    let mut took_effect = 0;
    for seed in 0..100 {
        let fabric = run(flaw, seed);
        if fabric.flawed == 0 {
            continue;
        }
        took_effect += 1;
        let found = faults(&fabric.history);
        assert!(
            found.iter().any(&is_it),
            "{flaw:?}, seed {seed}: {} times, found {found:?}",
            fabric.flawed
        );
    }
    assert!(
        took_effect > 50,
        "{flaw:?} took effect under {took_effect} of 100 seeds only"
    );
}

#[test]
fn a_fabric_that_loses_messages_in_a_crash_is_caught() {
    assert_always_caught(Flaw::LosesOnCrash, |fault| matches!(fault, Fault::Lost(_)));
}

#[test]
fn a_fabric_that_forgets_acknowledgements_in_a_crash_is_caught() {
    assert_always_caught(Flaw::ForgetsSettling, |fault| matches!(fault, Fault::Resurrected(_)));
}

#[test]
fn a_fabric_that_takes_an_id_twice_is_caught() {
    assert_always_caught(Flaw::ForgetsIds, |fault| {
        matches!(fault, Fault::StoredTwice(_) | Fault::TakenTwice(_))
    });
}

#[test]
fn a_fabric_that_hands_out_in_the_wrong_order_is_caught() {
    assert_always_caught(Flaw::Swaps, |fault| matches!(fault, Fault::OutOfOrder { .. }));
}

#[test]
fn a_fabric_whose_receipts_lie_is_caught() {
    assert_always_caught(Flaw::SaysExpired, |fault| matches!(fault, Fault::FalseVerdict(..)));
}
