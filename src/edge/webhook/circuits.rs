//! Which agents' endpoints are left alone for now: a circuit that opens when an endpoint fails, and is tried again later.
//!
//! Pure: `now` comes in, due agents come out. Start at [`Circuits`].

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use crate::{frame::AgentId, time::Timestamp};

/// First pause after an endpoint failed; it doubles with every failed try.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Endpoints remembered at once; above it the one that is due first is forgotten, and named again by its next message.
const CIRCUITS_MAX: usize = 10_000;

/// What is known of an endpoint that is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Circuit {
    /// Failed this many times in a row; tried again then.
    Open { failures: u32, until: Instant },
    /// Under test after a pause: closed by a success, opened longer by a failure.
    Probing { failures: u32 },
    /// Gave itself up (410) as it was registered then; no pushes until it registers again.
    Gone { registered: Timestamp },
}

/// How an agent's turn is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// In full.
    Full,
    /// One message first: the endpoint failed before.
    Probe,
    /// Not now.
    Skip,
}

/// The circuits that are not closed.
#[derive(Debug, Default)]
pub(super) struct Circuits {
    circuits: HashMap<AgentId, Circuit>,
    due: BTreeSet<(Instant, AgentId)>,
}

impl Circuits {
    /// What to do for an agent that has messages. `registered` is when its record was last changed.
    pub(super) fn turn(&self, agent: &AgentId, registered: Timestamp) -> Turn {
        match self.circuits.get(agent) {
            None => Turn::Full,
            Some(Circuit::Probing { .. }) => Turn::Probe,
            Some(Circuit::Gone { registered: then }) if *then != registered => Turn::Full,
            Some(Circuit::Open { .. } | Circuit::Gone { .. }) => Turn::Skip,
        }
    }

    /// When the next pause is over.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The next agent whose pause is over at `now`; it may be probed.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<AgentId> {
        if self.next_deadline()? > now {
            return None;
        }
        let (_, agent) = self.due.pop_first()?;
        if let Some(circuit @ Circuit::Open { .. }) = self.circuits.get_mut(&agent) {
            let Circuit::Open { failures, .. } = *circuit else {
                unreachable!("matched just now")
            };
            *circuit = Circuit::Probing { failures };
        }
        Some(agent)
    }

    /// The endpoint answered well.
    pub(super) fn succeeded(&mut self, agent: &AgentId) {
        self.forget(agent);
    }

    /// The endpoint failed: leaves it alone for a while; returns for how long.
    pub(super) fn failed(&mut self, agent: AgentId, now: Instant) -> Duration {
        let failures = match self.forget(&agent) {
            Some(Circuit::Open { failures, .. } | Circuit::Probing { failures }) => failures.saturating_add(1),
            Some(Circuit::Gone { .. }) | None => 1,
        };
        let pause = PAUSE_MAX.min(PAUSE_FIRST.saturating_mul(1 << (failures - 1).min(16)));
        self.make_room();
        let until = now + pause;
        self.due.insert((until, agent.clone()));
        self.circuits.insert(agent, Circuit::Open { failures, until });
        pause
    }

    /// The endpoint gave itself up.
    pub(super) fn gone(&mut self, agent: AgentId, registered: Timestamp) {
        self.forget(&agent);
        self.make_room();
        self.circuits.insert(agent, Circuit::Gone { registered });
    }

    fn forget(&mut self, agent: &AgentId) -> Option<Circuit> {
        let circuit = self.circuits.remove(agent)?;
        if let Circuit::Open { until, .. } = circuit {
            self.due.remove(&(until, agent.clone()));
        }
        Some(circuit)
    }

    fn make_room(&mut self) {
        if self.circuits.len() < CIRCUITS_MAX {
            return;
        }
        let first = self.due.first().map(|(_, agent)| agent.clone());
        if let Some(agent) = first.or_else(|| self.circuits.keys().next().cloned()) {
            self.forget(&agent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::monotonic;

    fn agent(name: &str) -> AgentId {
        AgentId::new(name).unwrap()
    }

    const REGISTERED: Timestamp = Timestamp::from_millis(1);

    #[test]
    fn pauses_double_up_to_their_limit_and_end_with_a_success() {
        let (mut circuits, mut now) = (Circuits::default(), monotonic());
        let mut pauses = Vec::new();
        for _ in 0..12 {
            pauses.push(circuits.failed(agent("a"), now).as_secs());
            assert_eq!(circuits.turn(&agent("a"), REGISTERED), Turn::Skip);
            assert_eq!(circuits.take_due(now), None, "not before its time");
            now = circuits.next_deadline().unwrap();
            assert_eq!(circuits.take_due(now), Some(agent("a")));
            assert_eq!(circuits.turn(&agent("a"), REGISTERED), Turn::Probe);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        circuits.succeeded(&agent("a"));
        assert_eq!(circuits.turn(&agent("a"), REGISTERED), Turn::Full);
        assert_eq!(circuits.failed(agent("a"), now).as_secs(), 1, "a success forgets");
    }

    #[test]
    fn an_endpoint_that_is_gone_comes_back_with_a_new_registration() {
        let mut circuits = Circuits::default();
        circuits.gone(agent("a"), REGISTERED);
        assert_eq!(circuits.turn(&agent("a"), REGISTERED), Turn::Skip);
        assert_eq!(circuits.next_deadline(), None);
        assert_eq!(circuits.turn(&agent("a"), Timestamp::from_millis(2)), Turn::Full);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut circuits, now) = (Circuits::default(), monotonic());
        for number in 0..CIRCUITS_MAX + 5 {
            circuits.failed(agent(&format!("a{number}")), now + Duration::from_millis(number as u64));
        }
        assert_eq!(
            (circuits.circuits.len(), circuits.due.len()),
            (CIRCUITS_MAX, CIRCUITS_MAX)
        );
        assert_eq!(
            circuits.turn(&agent("a0"), REGISTERED),
            Turn::Full,
            "the earliest was forgotten"
        );
    }
}
