//! How producers wait for room, and how the consumer tells them: for one load a drain while nobody waits.
//!
//! ```text
//!   producer                          who makes room (consumer, closer, a producer that gives back)
//!   list the waker, waiting = n       free the slots and bytes
//!   fence(SeqCst)            P        fence(SeqCst)            C
//!   try again; full? then sleep       waiting > 0?  take the list, wake all of it
//! ```
//!
//! The same argument as in [`parker`](super::parker): P before C, and the list is seen; C before P, and the room is.
//! All are woken, not as many as fit: which of them fits depends on its priority and its weight, and one that was
//! chosen may have been cancelled, which would leave the others asleep beside free room.

use std::task::Waker;

use super::sync::{AtomicUsize, Mutex, Ordering, fence};

/// Producers that may wait on one queue at a time. A waiter costs a list entry of 24 bytes and a wake-up for each
/// drain; one more is told that the queue is full, as if it had not asked to wait.
pub(super) const WAITERS_MAX: usize = 4_096;

pub(super) struct Space {
    /// Length of the list, written only under its lock. Read without it, Relaxed, after a fence (see above), and
    /// as a mere hint by [`Space::has_waiters`].
    waiting: AtomicUsize,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    ticket_next: u64,
    wakers: Vec<(Ticket, Waker)>,
}

/// One waiting producer's name in the list.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ticket(u64);

impl Space {
    pub(super) fn new() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            list: Mutex::new(List::default()),
        }
    }

    /// Wakes every producer that waits. Call it after room was made, or the queue closed.
    pub(super) fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let wakers = self.with_list(|list| std::mem::take(&mut list.wakers));
        // Outside the lock: a woken producer may run here and now and come back for it.
        for (_, waker) in wakers {
            waker.wake();
        }
    }

    /// Whether somebody waits, as far as this thread has heard.
    pub(super) fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// A place to wait in, left when it is dropped.
    pub(super) const fn waiter(&self) -> Waiter<'_> {
        Waiter {
            space: self,
            ticket: None,
        }
    }

    fn with_list<R>(&self, change: impl FnOnce(&mut List) -> R) -> R {
        let mut list = self
            .list
            .lock()
            .expect("no holder of this lock panics: it only moves wakers");
        let result = change(&mut list);
        self.waiting.store(list.wakers.len(), Ordering::Relaxed);
        result
    }
}

pub(super) struct Waiter<'a> {
    space: &'a Space,
    ticket: Option<Ticket>,
}

/// The list already holds [`WAITERS_MAX`] entries.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooManyWaiters;

impl Waiter<'_> {
    /// Lists `waker`. The caller must try once more before it sleeps.
    pub(super) fn prepare(&mut self, waker: &Waker) -> Result<(), TooManyWaiters> {
        let ticket = &mut self.ticket;
        self.space.with_list(|list| list.enter(ticket, waker))?;
        fence(Ordering::SeqCst);
        Ok(())
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.space
                .with_list(|list| list.wakers.retain(|(listed, _)| *listed != ticket));
        }
    }
}

impl List {
    fn enter(&mut self, ticket: &mut Option<Ticket>, waker: &Waker) -> Result<(), TooManyWaiters> {
        let listed = ticket.and_then(|ticket| self.wakers.iter_mut().find(|(other, _)| *other == ticket));
        if let Some((_, old)) = listed {
            old.clone_from(waker);
            return Ok(());
        }
        if self.wakers.len() >= WAITERS_MAX {
            return Err(TooManyWaiters);
        }
        let mine = *ticket.get_or_insert_with(|| {
            self.ticket_next += 1;
            Ticket(self.ticket_next)
        });
        self.wakers.push((mine, waker.clone()));
        Ok(())
    }
}
