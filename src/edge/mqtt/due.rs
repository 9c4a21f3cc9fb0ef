//! When sessions are to be looked at: one time each, the earliest that was asked for.
//!
//! Pure: times come in. What is due of a session, and when it is next, whoever looks says. Start at [`Due::note`].

use std::collections::{BTreeSet, HashMap};

use crate::{frame::Address, time::Timestamp};

/// See the module. As large as there are sessions, however often they come and go.
#[derive(Debug, Default)]
pub(super) struct Due {
    by_time: BTreeSet<(Timestamp, Address)>,
    by_session: HashMap<Address, Timestamp>,
}

impl Due {
    /// Asks for a look at a session. True where nothing was due as early before: whoever sleeps until then is to wake up.
    pub fn note(&mut self, at: Timestamp, session: &Address) -> bool {
        match self.by_session.get(session) {
            // The look then asks for the next.
            Some(earlier) if *earlier <= at => return false,
            Some(later) => drop(self.by_time.remove(&(*later, session.clone()))),
            None => {}
        }
        let is_first = self.next().is_none_or(|first| at < first);
        self.by_session.insert(session.clone(), at);
        self.by_time.insert((at, session.clone()));
        is_first
    }

    /// When the first is due.
    pub fn next(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes one that is due.
    pub fn take(&mut self, now: Timestamp) -> Option<Address> {
        if self.next().is_none_or(|at| now < at) {
            return None;
        }
        let (_, session) = self.by_time.pop_first()?;
        self.by_session.remove(&session);
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn session(name: &str) -> Address {
        format!("agent:{name}#mqtt.c").parse().unwrap()
    }

    #[test]
    fn each_is_due_once_at_the_earliest_time_that_was_asked_for() {
        let mut due = Due::default();
        assert!(due.note(at(9), &session("a")));
        assert!(!due.note(at(9), &session("b")), "not earlier");
        assert!(due.note(at(5), &session("b")));
        assert!(!due.note(at(7), &session("b")), "it is looked at before");
        assert_eq!((due.next(), due.take(at(4))), (Some(at(5)), None));
        assert_eq!(due.take(at(9)), Some(session("b")));
        assert_eq!(due.take(at(9)), Some(session("a")));
        assert_eq!((due.next(), due.take(at(99))), (None, None));
    }

    #[test]
    fn a_session_that_comes_and_goes_takes_one_place() {
        let mut due = Due::default();
        for second in (1..1_000).rev() {
            due.note(at(second), &session("a"));
        }
        assert_eq!((due.by_time.len(), due.by_session.len()), (1, 1));
        assert_eq!(due.take(at(1)), Some(session("a")));
    }
}
