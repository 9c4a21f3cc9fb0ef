//! Everything that happens because time passed.

use std::cmp::Reverse;

use super::{
    message::State,
    output::Out,
    state::{ShardState, Timer},
};
use crate::time::Timestamp;

/// Timers handled in one call, so that a burst of expiries does not hold up the messages that flow.
const TIMERS_PER_CALL: usize = 4096;

impl<A> ShardState<A> {
    /// When [`ShardState::handle_timeout`] has something to do next.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let receipt = self
            .oldest_receipt()
            .map(|settled_at| settled_at + self.limits.receipt_window);
        match (timer, receipt) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Expires, ends back-offs and visibility timeouts, and lets kept messages age out; a bounded number in one call.
    pub fn handle_timeout(&mut self, now: Timestamp, out: &mut Out<A>) {
        for _ in 0..TIMERS_PER_CALL {
            match self.timers.peek() {
                Some(Reverse((at, timer))) if *at <= now => {
                    let timer = *timer;
                    self.timers.pop();
                    self.handle_timer(timer, now, out);
                }
                _ => return,
            }
        }
    }

    /// A timer whose message has moved on since it was set does nothing.
    fn handle_timer(&mut self, timer: Timer, now: Timestamp, out: &mut Out<A>) {
        match timer {
            Timer::Expire(seq) => {
                let waits = self.messages.get(&seq).is_some_and(|message| {
                    matches!(message.state, State::Ready | State::Delayed | State::Parked) && message.is_expired(now)
                });
                if waits {
                    self.expire(seq, now, out);
                }
            }
            Timer::BackoffEnds(seq) => {
                if self
                    .messages
                    .get(&seq)
                    .is_some_and(|message| message.state == State::Delayed)
                {
                    self.return_to_lane(seq);
                }
            }
            Timer::VisibilityEnds(seq, lease) => {
                let held = |state| matches!(state, State::Leased { lease: held, .. } if held == lease);
                if self.messages.get(&seq).is_some_and(|message| held(message.state)) {
                    self.end_attempt(seq, None, now, out);
                }
            }
            Timer::KeptAgesOut(seq) => self.forget_kept(seq),
        }
    }
}
