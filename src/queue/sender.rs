//! The producers' end.

use std::{collections::VecDeque, future::poll_fn, task::Poll};

use super::{
    BatchError, Bound, Entry, Lanes, Occupancy, PushError, Refusal, Weigh,
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
        let charge = lanes.admission.charge(item.weight_bytes());
        match lanes.admission.reserve(charge) {
            Ok(()) => {}
            Err(Refusal::Closed) => return Err(PushError::Closed(item)),
            Err(Refusal::OutOfBytes) => {
                return Err(PushError::Full {
                    bound: Bound::Bytes,
                    item,
                });
            }
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

    /// Queues as many of `batch`, from its front, as there is room for: one reservation of bytes, one look at the
    /// consumer. What did not fit stays in `batch`, in its order; `Ok` means that all did.
    pub fn try_push_batch(&self, priority: Priority, batch: &mut VecDeque<T>) -> Result<(), BatchError> {
        if batch.is_empty() {
            return Ok(());
        }
        let lanes = &*self.lanes;
        if lanes.space.has_waiters() && lanes.ring(priority).is_full() && !lanes.admission.is_closed() {
            return Err(BatchError::Full(Bound::Items));
        }
        let reserved = match lanes.admission.reserve_with(|room| self.charge_of_front(batch, room)) {
            Ok(reserved) => reserved,
            Err(Refusal::Closed) => return Err(BatchError::Closed),
            Err(Refusal::OutOfBytes) => return Err(BatchError::Full(Bound::Bytes)),
        };
        let unused = self.push_reserved(priority, batch, reserved);
        if unused > 0 {
            // Wakes the consumer too, for what did get in.
            lanes.abandon(unused);
        } else {
            lanes.parker.notify();
        }
        match batch.is_empty() {
            true => Ok(()),
            false if unused > 0 => Err(BatchError::Full(Bound::Items)),
            false => Err(BatchError::Full(Bound::Bytes)),
        }
    }

    /// Queues `item`, waiting for room; fails when the queue closes, or with `Full` where more producers already
    /// wait than a queue lets wait (4,096). Dropping the future before it is done drops the item.
    ///
    /// Waiters are not served in turn: once half a bound is free, or all is drained, all of them try again, along with
    /// everybody else.
    pub async fn push(&self, priority: Priority, item: T) -> Result<(), PushError<T>> {
        match self.try_push(priority, item) {
            Err(PushError::Full { bound, item }) => self.push_when_room(priority, bound, item).await,
            done => done,
        }
    }

    /// The waiting part, apart so that a push that finds room does not move its item through this future.
    async fn push_when_room(&self, priority: Priority, mut bound: Bound, item: T) -> Result<(), PushError<T>> {
        let mut waiter = self.lanes.space.waiter();
        let mut pending = Some(item);
        poll_fn(|context| {
            let item = pending.take().expect("a push is not polled after it is done");
            if waiter.prepare(context.waker()).is_err() {
                return Poll::Ready(Err(PushError::Full { bound, item }));
            }
            match self.try_push(priority, item) {
                Err(PushError::Full { bound: met, item }) => {
                    (bound, pending) = (met, Some(item));
                    Poll::Pending
                }
                done => Poll::Ready(done),
            }
        })
        .await
    }

    /// The charges of as many items from the front as fit into `room` bytes.
    fn charge_of_front(&self, batch: &VecDeque<T>, room: usize) -> usize {
        let mut taken = 0;
        for item in batch {
            let charge = self.lanes.admission.charge(item.weight_bytes());
            if charge > room - taken {
                break;
            }
            taken += charge;
        }
        taken
    }

    /// Moves items into the ring until `reserved` bytes are used or it is full; returns the bytes not used.
    fn push_reserved(&self, priority: Priority, batch: &mut VecDeque<T>, mut reserved: usize) -> usize {
        let ring = self.lanes.ring(priority);
        while reserved > 0 {
            let Some(item) = batch.pop_front() else { break };
            // `min` holds the account together even for an item that grew since it was weighed.
            let charge = self.lanes.admission.charge(item.weight_bytes()).min(reserved);
            if let Err(Entry { item, .. }) = ring.push(Entry { charge, item }) {
                batch.push_front(item);
                break;
            }
            reserved -= charge;
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
