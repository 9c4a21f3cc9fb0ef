//! The consumer's end.

use std::{
    future::poll_fn,
    sync::Arc as StdArc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread, ThreadId},
    time::Duration,
};

use super::{Entry, Lanes, Occupancy, Room, admission::Charge, shares::Shares, sync::Arc};
use crate::frame::Priority;

/// The consumer's end of [`lanes`](super::lanes). There is one; dropping it closes the queue and drops what is left.
#[derive(Debug)]
pub struct Receiver<T> {
    lanes: Arc<Lanes<T>>,
    shares: Shares,
    /// Drained since the producers that wait were last told.
    untold: Room,
    /// The waker of the thread that last parked here, kept so that parking does not allocate each time.
    parked: Option<(ThreadId, Waker)>,
}

/// What a consumer that waited finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// [`Receiver::drain`] has at least one item.
    Items,
    /// Closed, and all that was accepted has been drained: nothing comes any more.
    Closed,
}

impl<T> Receiver<T> {
    pub(super) const fn new(lanes: Arc<Lanes<T>>) -> Self {
        Self {
            lanes,
            shares: Shares::new(),
            untold: Room {
                items: 0,
                charge: Charge::of(0, 0),
            },
            parked: None,
        }
    }

    /// Moves up to `budget` items to the end of `out` and says how many; 0 means that nothing is queued. Never waits.
    ///
    /// While several priorities wait they share in rounds of [`Priority::WEIGHTS`], the most urgent first in each;
    /// a round goes on in the next drain where the budget cut it off. What one does not need goes to the others. A
    /// priority that is found empty is not looked at again in this drain: what comes in meanwhile waits for the next.
    ///
    /// Producers that wait are woken once half a bound is free again, or all is drained. A consumer that stops in
    /// between, and waits for one of them before it goes on, waits for ever.
    pub fn drain(&mut self, budget: usize, out: &mut Vec<T>) -> usize {
        let (mut left, mut freed) = (budget, Charge::default());
        let mut waiting = self.lanes.waiting();
        while left > 0 && !waiting.is_empty() {
            for priority in Priority::DESCENDING {
                if !waiting.contains(priority) {
                    continue;
                }
                // Alone it competes with nobody: no rounds then, and the round that was cut off stays as it is.
                let alone = waiting.is_single();
                let share = if alone {
                    left
                } else {
                    self.shares.left(priority).min(left)
                };
                let (items, charge) = self.take(priority, share, out);
                left -= items;
                freed = freed.plus(charge);
                if !alone {
                    self.shares.spend(priority, items);
                }
                if items < share {
                    waiting.remove(priority);
                }
            }
            // Budget left over: whoever still waits has had its share.
            if left > 0 {
                self.shares.renew();
            }
        }
        let items = budget - left;
        self.make_room(Room { items, charge: freed });
        items
    }

    /// Waits until there are items or the end. Cancel-safe; it takes nothing out.
    ///
    /// Ready at once while items wait, without giving way to other tasks: a loop that awaits nothing else must yield.
    pub async fn ready(&mut self) -> Readiness {
        poll_fn(|context| self.poll_ready(context)).await
    }

    /// [`Receiver::ready`] for hand-written futures; the waker of the last call is the one that is woken.
    pub fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Readiness> {
        if let Some(readiness) = self.readiness() {
            return Poll::Ready(readiness);
        }
        self.lanes.parker.prepare(context.waker());
        self.readiness().map_or(Poll::Pending, Poll::Ready)
    }

    /// Waits until the queue is closed, whatever is in it. Each push meanwhile wakes the caller once, in vain.
    pub async fn closed(&mut self) {
        poll_fn(|context| {
            if !self.lanes.admission.is_closed() {
                self.lanes.parker.prepare(context.waker());
            }
            match self.lanes.admission.is_closed() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    /// [`Receiver::ready`] for a consumer that is a thread: parks it for `timeout` at most. `None` when that is over,
    /// and also when somebody else unparked the thread ([`thread_waker`]), or nobody did: keep deadlines elsewhere.
    pub fn park_timeout(&mut self, timeout: Duration) -> Option<Readiness> {
        let waker = self.waker_of_this_thread();
        let mut context = Context::from_waker(&waker);
        if let Poll::Ready(readiness) = self.poll_ready(&mut context) {
            return Some(readiness);
        }
        thread::park_timeout(timeout);
        self.readiness()
    }

    /// Refuses every later push. What is queued can still be drained.
    pub fn close(&mut self) {
        self.lanes.close();
    }

    /// Nothing can be drained now.
    pub fn is_empty(&self) -> bool {
        self.lanes.waiting().is_empty()
    }

    /// How full the queue is.
    pub fn occupancy(&self) -> Occupancy {
        self.lanes.occupancy()
    }

    fn readiness(&self) -> Option<Readiness> {
        if !self.lanes.waiting().is_empty() {
            return Some(Readiness::Items);
        }
        self.lanes.admission.is_finished().then_some(Readiness::Closed)
    }

    /// Gives back what was drained. Room that the waiting producers are not told of leaves items behind, so the drain
    /// that tells them comes without anybody's wake-up.
    fn make_room(&mut self, room: Room) {
        if room.items == 0 {
            return;
        }
        self.lanes.admission.release(room.charge);
        self.untold.items += room.items;
        // Never more than two bounds' worth: it is told at half of one, and a drain frees one at most.
        self.untold.charge = self.untold.charge.plus(room.charge);
        if self.lanes.is_worth_telling(self.untold) || self.lanes.waiting().is_empty() {
            self.untold = Room {
                items: 0,
                charge: Charge::default(),
            };
            self.lanes.space.notify();
        }
    }

    /// Moves up to `share` items of one priority; returns how many, and what they were charged.
    fn take(&self, priority: Priority, share: usize, out: &mut Vec<T>) -> (usize, Charge) {
        let (mut items, mut freed) = (0, Charge::default());
        while items < share {
            let Some(Entry { charge, item }) = self.lanes.ring(priority).pop() else {
                break;
            };
            out.push(item);
            items += 1;
            freed = freed.plus(charge);
        }
        (items, freed)
    }

    fn waker_of_this_thread(&mut self) -> Waker {
        let this = thread::current().id();
        match &self.parked {
            Some((thread, waker)) if *thread == this => waker.clone(),
            _ => {
                let waker = thread_waker();
                self.parked = Some((this, waker.clone()));
                waker
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.lanes.close();
        // The senders may live long, and what is queued would live as long as they do.
        for priority in Priority::DESCENDING {
            while let Some(entry) = self.lanes.ring(priority).pop() {
                self.lanes.admission.release(entry.charge);
            }
        }
    }
}

/// A waker that unparks the calling thread: what a thread hands to all the sources that it waits for at once.
pub fn thread_waker() -> Waker {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: StdArc<Self>) {
            self.wake_by_ref();
        }

        fn wake_by_ref(self: &StdArc<Self>) {
            self.0.unpark();
        }
    }

    Waker::from(StdArc::new(Unpark(thread::current())))
}
