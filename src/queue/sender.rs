//! The producers' end.

use std::{cell::Cell, collections::VecDeque, future::poll_fn, task::Poll};

use super::{
    BatchError, Bound, Entry, Lanes, Occupancy, PushError, Refusal, Weigh,
    admission::Charge,
    sync::{Arc, Ordering},
};
use crate::frame::Priority;

/// The producers' end of [`lanes`](super::lanes). A clone is a reference count; the last one dropped closes.
#[derive(Debug)]
pub struct Sender<T> {
    lanes: Arc<Lanes<T>>,
}

impl<T> Sender<T> {
    pub(super) const fn new(lanes: Arc<Lanes<T>>) -> Self {
        Self { lanes }
    }

    /// Refuses every later push. What is queued stays for the consumer, which then sees the end.
    pub fn close(&self) {
        self.lanes.close();
    }

    /// True once either end closed the queue.
    pub fn is_closed(&self) -> bool {
        self.lanes.admission.is_closed()
    }

    /// How full the queue is.
    pub fn occupancy(&self) -> Occupancy {
        self.lanes.occupancy()
    }
}

impl<T: Weigh> Sender<T> {
    /// Queues `item` behind those of its priority, and wakes the consumer if it sleeps. Never waits.
    pub fn try_push(&self, priority: Priority, item: T) -> Result<(), PushError<T>> {
        let lanes = &*self.lanes;
        // While somebody waits for room, look before reserving: a reservation that then meets a full ring wakes
        // those who wait, and two of them would keep each other awake for nothing.
        if lanes.space.has_waiters() && lanes.ring(priority).is_full() && !lanes.admission.is_closed() {
            return Err(PushError::Full {
                bound: Bound::Items,
                item,
            });
        }
        let charge = lanes.admission.charge(item.weight_bytes(), item.parts());
        match lanes.admission.reserve(charge) {
            Ok(()) => {}
            Err(Refusal::Closed) => return Err(PushError::Closed(item)),
            Err(Refusal::Full(bound)) => return Err(PushError::Full { bound, item }),
        }
        match lanes.ring(priority).push(Entry { charge, item }) {
            Ok(()) => {
                lanes.parker.notify();
                Ok(())
            }
            Err(Entry { charge, item }) => {
                lanes.abandon(charge);
                Err(PushError::Full {
                    bound: Bound::Items,
                    item,
                })
            }
        }
    }

    /// Queues as many of `batch`, from its front, as there is room for: one reservation, one look at the
    /// consumer. What did not fit stays in `batch`, in its order; `Ok` means that all did.
    pub fn try_push_batch(&self, priority: Priority, batch: &mut VecDeque<T>) -> Result<(), BatchError> {
        if batch.is_empty() {
            return Ok(());
        }
        let lanes = &*self.lanes;
        if lanes.space.has_waiters() && lanes.ring(priority).is_full() && !lanes.admission.is_closed() {
            return Err(BatchError::Full(Bound::Items));
        }
        let met = Cell::new(Bound::Bytes);
        let reserved = match lanes
            .admission
            .reserve_with(|charged| self.charge_of_front(batch, charged, &met))
        {
            Ok(reserved) => reserved,
            Err(Refusal::Closed) => return Err(BatchError::Closed),
            Err(Refusal::Full(bound)) => return Err(BatchError::Full(bound)),
        };
        let unused = self.push_reserved(priority, batch, reserved);
        if unused.is_nothing() {
            lanes.parker.notify();
        } else {
            // Wakes the consumer too, for what did get in.
            lanes.abandon(unused);
        }
        match (batch.is_empty(), unused.is_nothing()) {
            (true, _) => Ok(()),
            (false, true) => Err(BatchError::Full(met.get())),
            (false, false) => Err(BatchError::Full(Bound::Items)),
        }
    }

    /// Queues `item`, waiting for room; fails when the queue closes, or with `Full` where more producers already
    /// wait than a queue lets wait (4,096). Dropping the future before it is done drops the item; where that must not be,
    /// [`Sender::push_from`].
    ///
    /// Waiters are not served in turn: once half a bound is free, or all is drained, all of them try again, along with
    /// everybody else.
    pub async fn push(&self, priority: Priority, item: T) -> Result<(), PushError<T>> {
        match self.try_push(priority, item) {
            Err(PushError::Full { item, .. }) => {
                let mut slot = Some(item);
                self.push_when_room(priority, &mut slot).await.map_err(|error| {
                    let item = slot.take().expect("what is not queued stays in its slot");
                    match error {
                        BatchError::Full(bound) => PushError::Full { bound, item },
                        BatchError::Closed => PushError::Closed(item),
                    }
                })
            }
            done => done,
        }
    }

    /// [`Sender::push`] out of a slot, which is empty once the item is queued. Cancel safe: until then the item stays in its slot, also
    /// where the future is dropped or fails. An empty slot is no error.
    pub async fn push_from(&self, priority: Priority, slot: &mut Option<T>) -> Result<(), BatchError> {
        match self.try_push_from(priority, slot) {
            Err(BatchError::Full(_)) => self.push_when_room(priority, slot).await,
            done => done,
        }
    }

    fn try_push_from(&self, priority: Priority, slot: &mut Option<T>) -> Result<(), BatchError> {
        let Some(item) = slot.take() else { return Ok(()) };
        let (error, item) = match self.try_push(priority, item) {
            Ok(()) => return Ok(()),
            Err(PushError::Full { bound, item }) => (BatchError::Full(bound), item),
            Err(PushError::Closed(item)) => (BatchError::Closed, item),
        };
        *slot = Some(item);
        Err(error)
    }

    /// The waiting part, apart so that a push that finds room does not move its item through this future.
    async fn push_when_room(&self, priority: Priority, slot: &mut Option<T>) -> Result<(), BatchError> {
        let mut waiter = self.lanes.space.waiter();
        poll_fn(|context| {
            let may_wait = waiter.prepare(context.waker()).is_ok();
            match self.try_push_from(priority, slot) {
                Err(BatchError::Full(_)) if may_wait => Poll::Pending,
                done => Poll::Ready(done),
            }
        })
        .await
    }

    /// The charges of as many items from the front as fit beside what is charged already; `met` learns what bound stopped it.
    fn charge_of_front(&self, batch: &VecDeque<T>, charged: Charge, met: &Cell<Bound>) -> Result<Charge, Bound> {
        let admission = &self.lanes.admission;
        let mut taken = Charge::default();
        for item in batch {
            let charge = admission.charge(item.weight_bytes(), item.parts());
            if let Some(bound) = charged.plus(taken).bound_passed(charge, admission.max()) {
                met.set(bound);
                if taken.is_nothing() {
                    return Err(bound);
                }
                break;
            }
            taken = taken.plus(charge);
        }
        Ok(taken)
    }

    /// Moves items into the ring until `reserved` is used or it is full; returns what was not used.
    fn push_reserved(&self, priority: Priority, batch: &mut VecDeque<T>, mut reserved: Charge) -> Charge {
        let (ring, admission) = (self.lanes.ring(priority), &self.lanes.admission);
        while !reserved.is_nothing() {
            let Some(item) = batch.pop_front() else { break };
            // `min` holds the account together even for an item that grew since it was weighed.
            let charge = admission.charge(item.weight_bytes(), item.parts()).min(reserved);
            if let Err(Entry { item, .. }) = ring.push(Entry { charge, item }) {
                batch.push_front(item);
                break;
            }
            reserved = reserved.minus(charge);
        }
        reserved
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.lanes.senders.fetch_add(1, Ordering::Relaxed);
        Self {
            lanes: Arc::clone(&self.lanes),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.lanes.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.lanes.close();
        }
    }
}
