//! Who runs a shard worker's steps: its own thread, or whoever brings the first command, or a small commit's completion, to a worker
//! that sleeps.
//!
//! Owns the lock around a worker's state and the worker's sleep. It must never know what a step does; that is `worker.rs`. A command
//! that meets a sleeping worker is run where it is, which saves a wake-up and a switch between threads each way; one that meets a
//! running worker goes into its inbox. Callers may hold a session's or an agent's lock meanwhile, so a step takes none of those.
//! Start at [`Runner::run`], [`WorkerHandle::run_here`] and [`WorkerHandle::control_here`].

use std::{
    sync::{PoisonError, TryLockError, atomic::Ordering},
    task::{Context, Poll},
    thread,
    time::Duration,
};

use super::{
    worker::{STEP_BUDGET, Shards, take_in},
    workers::{Command, Control, WorkerHandle},
};
use crate::{
    queue::{self, thread_waker},
    time::{self, Timestamp},
};

/// Steps that a caller runs for its one command: what the first one leads to at once (a commit of the memory store, copies between
/// shards of one worker) is done as well, and a caller is never kept for long.
const STEPS_HERE_MAX: usize = 4;

/// A worker's state and what it takes from.
pub(super) struct Runner {
    shards: Shards,
    inbox: queue::Receiver<Command>,
    /// Taken out of the inbox and not run yet.
    commands: Vec<Command>,
    /// When the worker's thread wakes by itself, where it sleeps.
    sleeps_until: Timestamp,
    /// The inbox wakes the sleeping thread; where there was no room for a further commit it does not, and the next completion must.
    listens: bool,
}

/// What a thread that ran a step does next.
enum Next {
    Run,
    Sleep(Duration),
    End,
}

impl Runner {
    pub fn new(shards: Shards, inbox: queue::Receiver<Command>) -> Self {
        Self {
            shards,
            inbox,
            commands: Vec::with_capacity(STEP_BUDGET),
            sleeps_until: Timestamp::default(),
            listens: false,
        }
    }

    /// Runs a worker until it is told to stop: the body of its thread.
    pub fn run(self, handle: &WorkerHandle) {
        let waker = thread_waker();
        let mut context = Context::from_waker(&waker);
        *handle.runner.lock().unwrap_or_else(PoisonError::into_inner) = Some(self);
        loop {
            // A step that panicked elsewhere ends the worker as one of its own would: its shards are in no known state.
            let mut guard = handle.runner.lock().expect("no step panicked");
            let runner = guard.as_mut().expect("taken out by this thread alone");
            handle.busy.store(true, Ordering::SeqCst);
            match runner.turn(handle, &mut context) {
                Next::Run => {}
                Next::End => {
                    *guard = None;
                    return;
                }
                Next::Sleep(patience) => {
                    drop(guard);
                    thread::park_timeout(patience);
                }
            }
        }
    }

    fn turn(&mut self, handle: &WorkerHandle, context: &mut Context<'_>) -> Next {
        if self.commands.is_empty() && self.shards.has_room() {
            take_in(&mut self.inbox, &mut self.commands);
            self.shards.note_controls_ahead();
        }
        let now = time::now();
        if self.shards.step(&mut self.commands, now) {
            return Next::Run;
        }
        if self.shards.is_done() {
            return Next::End;
        }
        // Without room the inbox is not looked at until a commit completes, which wakes the thread.
        self.listens = self.shards.has_room();
        if self.listens && matches!(self.inbox.poll_ready(context), Poll::Ready(_)) {
            return Next::Run;
        }
        if !handle.leave() {
            return Next::Run;
        }
        let patience = self.shards.patience(now);
        self.sleeps_until = now + patience;
        Next::Sleep(patience)
    }

    /// Runs a command of the calling thread's, and what it leads to at once; returns as [`Runner::run_some`] does.
    fn run_one(&mut self, command: Command, handle: &WorkerHandle) -> bool {
        self.commands.push(command);
        self.shards.note_controls_ahead();
        self.run_some(handle)
    }

    /// Runs what is there on the calling thread, and what it leads to at once. True: more is to be done, or sooner than the sleeping
    /// thread would wake.
    fn run_some(&mut self, handle: &WorkerHandle) -> bool {
        handle.busy.store(true, Ordering::SeqCst);
        for _ in 0..STEPS_HERE_MAX {
            self.shards.step(&mut self.commands, time::now());
            if self.commands.is_empty() && handle.control.is_empty() && !self.shards.is_active() {
                break;
            }
        }
        let is_quiet = handle.leave() && self.commands.is_empty() && !self.shards.is_active();
        !is_quiet || self.shards.wakes_at() < self.sleeps_until
    }

    /// Nothing that came before waits, and the worker's bound on commits lets more in.
    fn is_idle(&self) -> bool {
        self.commands.is_empty() && self.shards.has_room() && self.inbox.is_empty()
    }
}

impl WorkerHandle {
    /// Runs a command on the calling thread where the worker sleeps and nothing waits before it; gives it back where it does not.
    pub fn run_here(&self, command: Command) -> Option<Command> {
        let mut guard = match self.runner.try_lock() {
            Ok(guard) => guard,
            // Busy, or ended by a panic: its inbox has the bound that senders meet then.
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => return Some(command),
        };
        let Some(runner) = guard.as_mut().filter(|runner| runner.is_idle()) else {
            return Some(command);
        };
        let is_thread_needed = runner.run_one(command, self);
        drop(guard);
        if is_thread_needed {
            self.wake();
        }
        None
    }

    /// Sends a control message that the calling thread may act on itself: where the worker sleeps, its step runs here. For those who
    /// have nothing better to do, such as a store's thread that made a commit durable.
    pub fn control_here(&self, control: Control) {
        if !self.send(control) {
            return;
        }
        let is_thread_needed = match self.runner.try_lock() {
            Ok(mut guard) => match guard.as_mut().filter(|runner| runner.listens) {
                Some(runner) => runner.run_some(self),
                None => true,
            },
            // Whoever runs it may be past its last look; a panic is the thread's to find.
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => true,
        };
        if is_thread_needed {
            self.wake();
        }
    }

    /// Ends a turn; false where control messages came in meanwhile, whose senders relied on this turn to see them.
    ///
    /// The senders' half is in [`WorkerHandle::send`]: each side writes, then reads what the other wrote, sequentially consistent,
    /// so that one of the two sees the other.
    fn leave(&self) -> bool {
        self.busy.store(false, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
        self.control.is_empty()
    }

    pub fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}
