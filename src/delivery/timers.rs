//! Everything that happens because time passed.

use std::cmp::Reverse;

use super::{
    copies::Pace,
    message::{Message, State},
    output::Out,
    state::{ShardState, Timer},
};
use crate::time::Timestamp;

/// Timers handled in one call, so that a burst of expiries does not hold up the messages that flow.
const TIMERS_PER_CALL: usize = 4096;

/// Timers of messages that have moved on, beyond as many as four a message, before they are swept.
pub(super) const TIMERS_SLACK: usize = 1024;

impl<A> ShardState<A> {
    /// Sets a timer. Most are never needed (a message settles long before it expires), so that memory follows the messages held and not
    /// their rate: a message has two that count at most, and above four for each the others are swept.
    pub(super) fn set_timer(&mut self, at: Timestamp, timer: Timer) {
        self.timers.push(Reverse((at, timer)));
        self.bound_timers();
    }

    pub(super) fn bound_timers(&mut self) {
        if self.timers.len() <= 4 * (self.messages.len() + self.lines.len()) + TIMERS_SLACK {
            return;
        }
        let (messages, lines) = (&self.messages, &self.lines);
        self.timers.retain(|Reverse((at, timer))| match *timer {
            Timer::Expire(seq) => messages
                .get(&seq)
                .is_some_and(|message| message.expires_at == *at && message.is_unsettled()),
            Timer::BackoffEnds(seq) => messages.get(&seq).is_some_and(|m| m.state == State::Delayed),
            Timer::VisibilityEnds(seq, lease) => messages.get(&seq).is_some_and(|m| m.is_leased_as(lease)),
            Timer::KeptAgesOut(seq) => messages.get(&seq).is_some_and(Message::is_kept),
            Timer::SettleAgain(seq) => messages.get(&seq).is_some_and(Message::is_in_doubt),
            Timer::CopiesAgain(source) => lines.get(&source).is_some_and(|line| line.pace == Pace::Resting),
        });
        self.timers.shrink_to(2 * self.timers.len());
    }

    #[cfg(test)]
    pub(super) fn next_timer(&self) -> Option<Timestamp> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

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
        self.latest = now;
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
                if self
                    .messages
                    .get(&seq)
                    .is_some_and(|message| message.is_leased_as(lease))
                {
                    self.end_attempt(seq, None, now, out);
                }
            }
            Timer::KeptAgesOut(seq) => self.forget_kept(seq),
            Timer::SettleAgain(seq) => self.settle_again(seq, now, out),
            Timer::CopiesAgain(source) => self.copies_again(source),
        }
    }
}
