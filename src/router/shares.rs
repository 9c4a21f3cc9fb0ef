//! Shared subscriptions: who is behind each, and what becomes of its one-of queue when nobody is.
//!
//! A session is a member while it lasts, a durable session queue from its subscription to its end, attached or not: while there is one,
//! what comes is kept. Owns the count of both, and that the workers hear of a queue's end and of its next member in that order.
//! Start at [`Fabric::join_share`].

use std::{collections::HashMap, sync::Mutex};

use super::{directory::lock, fabric::Fabric, workers::Control};
use crate::frame::{Address, TopicFilter};

/// Who takes part in a shared subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// A live session; one that took up a durable queue is a member beside it.
    Session,
    /// A durable session queue, attached or not.
    Lasting,
}

/// What a share is once a member has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Others are there.
    Members,
    /// Nobody is, and nothing was kept for anybody: what came back from the last session waits for whoever subscribes next.
    Nobody,
    /// Nobody is any more for whom it was kept.
    Leavings,
}

/// The members of one share.
#[derive(Debug, Default)]
struct Share {
    sessions: usize,
    lasting: usize,
    /// A durable queue was among them.
    keeps: bool,
}

impl Share {
    fn count(&mut self, member: Member) -> &mut usize {
        match member {
            Member::Session => &mut self.sessions,
            Member::Lasting => &mut self.lasting,
        }
    }

    fn join(&mut self, member: Member) {
        *self.count(member) += 1;
        self.keeps |= member == Member::Lasting;
    }

    fn leave(&mut self, member: Member) -> Left {
        let count = self.count(member);
        debug_assert!(*count > 0, "only a member leaves");
        *count = count.saturating_sub(1);
        match (self.sessions + self.lasting, self.keeps) {
            (1.., _) => Left::Members,
            (0, true) => Left::Leavings,
            (0, false) => Left::Nobody,
        }
    }
}

/// The shared subscriptions that have members: as many at most as their members' subscriptions, which are bounded.
#[derive(Debug, Default)]
pub(super) struct Shares(Mutex<HashMap<Address, Share>>);

impl Fabric {
    /// A member more: what is published under the filter goes to the share's queue, if it did not before.
    pub(super) fn join_share(&self, filter: &TopicFilter, member: Member) {
        let shared = Address::shared(filter);
        let mut shares = lock(&self.0.shares.0);
        self.0.directory.topics.insert(filter, &shared);
        shares.entry(shared).or_default().join(member);
    }

    /// A member less. The last one takes the share with it, and where it kept for members who were away, what waits in its queue is
    /// rejected and counted. Its queue's end goes to the workers under the lock: a next member's opening comes behind it.
    pub(super) fn leave_share(&self, filter: &TopicFilter, member: Member) {
        let shared = Address::shared(filter);
        let mut shares = lock(&self.0.shares.0);
        let left = shares
            .get_mut(&shared)
            .map_or(Left::Members, |share| share.leave(member));
        if left == Left::Members {
            return;
        }
        shares.remove(&shared);
        self.0.directory.topics.remove(filter, &shared);
        if left == Left::Leavings {
            // Nobody waits for it.
            let (done, _) = tokio::sync::oneshot::channel();
            let worker = self.0.workers.of(shared.home_shard());
            worker.control(Control::RemoveQueue { queue: shared, done });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Member::*, *};

    fn left(members: &[Member], leaving: &[Member]) -> Left {
        let mut share = Share::default();
        members.iter().for_each(|member| share.join(*member));
        leaving
            .iter()
            .map(|member| share.leave(*member))
            .last()
            .expect("somebody leaves")
    }

    #[test]
    fn a_share_is_there_until_its_last_member_has_left() {
        assert_eq!(left(&[Session, Session], &[Session]), Left::Members);
        assert_eq!(left(&[Lasting, Session], &[Session]), Left::Members);
        assert_eq!(left(&[Lasting, Session], &[Lasting]), Left::Members);
        assert_eq!(left(&[Lasting, Lasting, Session], &[Session, Lasting]), Left::Members);
    }

    #[test]
    fn what_is_kept_goes_with_the_last_member_whoever_it_is() {
        assert_eq!(left(&[Lasting], &[Lasting]), Left::Leavings);
        assert_eq!(left(&[Lasting, Session], &[Session, Lasting]), Left::Leavings);
        assert_eq!(left(&[Lasting, Session], &[Lasting, Session]), Left::Leavings);
    }

    #[test]
    fn a_share_of_sessions_alone_leaves_its_queue_as_it_is() {
        assert_eq!(left(&[Session], &[Session]), Left::Nobody);
        assert_eq!(left(&[Session, Session], &[Session, Session]), Left::Nobody);
    }
}
