//! What came for a session and was not received yet: a queue between the driver and its caller, bounded in messages.
//!
//! Runs of QoS 0 messages stay together until they are received, so that the queue costs a run what it costs one message. Start at
//! [`Arrivals`].

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

use tokio::sync::Notify;

use crate::{
    client::{Delivery, settle::Settler},
    frame::Run,
};

/// Messages of a run that are unpacked at once for a caller that takes one after the other.
const UNPACKED_AT_ONCE: usize = 64;

/// What came in one piece.
#[derive(Debug)]
pub(super) enum Arrival {
    One(Box<Delivery>),
    /// QoS 0 messages that are alike.
    Run(Box<RunArrival>),
}

#[derive(Debug)]
pub(super) struct RunArrival {
    pub run: Run,
    /// The queue that they came from; empty: the agent's inbox.
    pub queue: String,
    pub settler: Settler,
}

impl Arrival {
    pub fn messages(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Run(arrival) => arrival.run.frames(),
        }
    }

    /// True where what does not get in is lost, not delivered again.
    pub fn is_unsettled(&self) -> bool {
        match self {
            Self::One(delivery) => delivery.delivery_id().is_none(),
            Self::Run(_) => true,
        }
    }

    /// What the sender set so that a reply finds its request.
    pub fn correlation(&self) -> &[u8] {
        match self {
            Self::One(delivery) => delivery.correlation(),
            Self::Run(arrival) => arrival.run.envelope().correlation(),
        }
    }

    /// The first delivery, and the rest.
    pub fn split_first(mut self) -> (Delivery, Option<Self>) {
        let (first, rest) = match self.split_to(1) {
            Some(first) => (first, Some(self)),
            None => (self, None),
        };
        match first {
            Self::One(delivery) => (*delivery, rest),
            Self::Run(arrival) => {
                let frame = arrival.run.iter().next().expect("a run has a frame");
                (Delivery::of_frame(frame, None, &arrival.queue, arrival.settler), rest)
            }
        }
    }

    fn split_to(&mut self, messages: usize) -> Option<Self> {
        match self {
            Self::One(_) => None,
            Self::Run(arrival) => arrival.run.split_to(messages).map(|run| {
                Self::Run(Box::new(RunArrival {
                    run,
                    queue: arrival.queue.clone(),
                    settler: arrival.settler.clone(),
                }))
            }),
        }
    }

    fn unpack(self, mut each: impl FnMut(Delivery)) {
        match self {
            Self::One(delivery) => each(*delivery),
            Self::Run(arrival) => {
                let RunArrival { run, queue, settler } = &*arrival;
                run.iter()
                    .for_each(|frame| each(Delivery::of_frame(frame, None, queue, settler.clone())));
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Arrival>,
    messages: usize,
    is_closed: bool,
}

/// The queue. The bound holds but for the last piece that gets in.
#[derive(Debug)]
pub(super) struct Arrivals {
    state: Mutex<State>,
    messages_max: usize,
    arrived: Notify,
    has_room: Notify,
}

/// Why nothing was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Empty {
    /// For now.
    Yet,
    /// Nothing comes any more.
    Closed,
}

impl Arrivals {
    pub fn new(messages_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            messages_max,
            arrived: Notify::new(),
            has_room: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing that holds this lock panics: it only moves values in a queue")
    }

    /// Puts a piece in; gives it back where the bound is met.
    pub fn try_push(&self, arrival: Arrival) -> Result<(), Arrival> {
        let mut state = self.lock();
        if state.messages >= self.messages_max {
            return Err(arrival);
        }
        state.messages += arrival.messages();
        state.queue.push_back(arrival);
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits until something was taken out since the call. Woken early now and then.
    pub async fn room(&self) {
        self.has_room.notified().await;
    }

    /// Nothing comes any more.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.arrived.notify_waiters();
    }

    /// Takes what is there, at most `max`, and appends it; returns how many.
    pub fn take(&self, into: &mut Vec<Delivery>, max: usize) -> Result<usize, Empty> {
        let before = into.len();
        while into.len() - before < max {
            let Some(arrival) = self.pop(max - (into.len() - before)) else {
                break;
            };
            arrival.unpack(|delivery| into.push(delivery));
        }
        match into.len() - before {
            0 => Err(self.emptiness()),
            taken => Ok(taken),
        }
    }

    /// Takes one.
    pub fn take_one(&self) -> Result<Delivery, Empty> {
        loop {
            let arrival = self.pop(UNPACKED_AT_ONCE).ok_or_else(|| self.emptiness())?;
            if let Arrival::One(delivery) = arrival {
                return Ok(*delivery);
            }
            let mut unpacked = Vec::with_capacity(UNPACKED_AT_ONCE);
            arrival.unpack(|delivery| unpacked.push(Arrival::One(Box::new(delivery))));
            let mut state = self.lock();
            state.messages += unpacked.len();
            unpacked.into_iter().rev().for_each(|one| state.queue.push_front(one));
            drop(state);
            // Another caller may have found nothing meanwhile.
            self.arrived.notify_one();
        }
    }

    fn emptiness(&self) -> Empty {
        match self.lock().is_closed {
            true => Empty::Closed,
            false => Empty::Yet,
        }
    }

    /// The front piece, or so much of it as is at most so many messages.
    fn pop(&self, messages_max: usize) -> Option<Arrival> {
        let mut state = self.lock();
        let front = state.queue.front_mut()?;
        let popped = if front.messages() <= messages_max {
            state.queue.pop_front()
        } else {
            front.split_to(messages_max)
        }?;
        state.messages -= popped.messages();
        drop(state);
        self.has_room.notify_one();
        Some(popped)
    }

    /// Waits until something may be there, or the end. A caller that leaves what it was woken for to others wakes the next.
    pub async fn wait(&self) {
        let notified = self.arrived.notified();
        let mut notified = std::pin::pin!(notified);
        notified.as_mut().enable();
        if !self.has_something() {
            notified.await;
        }
    }

    fn has_something(&self) -> bool {
        let state = self.lock();
        !state.queue.is_empty() || state.is_closed
    }

    /// Wakes the next caller where something is left.
    pub fn pass_on(&self) {
        if !self.lock().queue.is_empty() {
            self.arrived.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, sync::Arc, task::Context};

    use super::*;
    use crate::{
        client::SessionOptions,
        client::session::shared::{Shared, settler},
        frame::{AgentId, Draft, Frame, Qos, RunBuilder},
    };

    fn frame(number: usize) -> Frame {
        let (from, to) = ("alice".parse().unwrap(), "agent:bob".parse().unwrap());
        let mut draft = Draft::new(format!("m-{number:04}").parse().unwrap(), from, to);
        draft.qos = Qos::AtMostOnce;
        Frame::new(draft.archive().unwrap(), bytes::Bytes::new()).unwrap()
    }

    fn run(range: std::ops::Range<usize>) -> Arrival {
        let shared = Arc::new(Shared::new(AgentId::new("bob").unwrap(), SessionOptions::default()));
        let mut builder = RunBuilder::new(frame(range.start));
        for number in range.skip(1) {
            assert!(builder.push(frame(number).envelope.id().as_bytes(), b"", 0));
        }
        Arrival::Run(Box::new(RunArrival {
            run: builder.finish(),
            queue: String::new(),
            settler: settler(&shared, 1),
        }))
    }

    fn ids(deliveries: &[Delivery]) -> Vec<String> {
        deliveries.iter().map(|one| one.id().to_owned()).collect()
    }

    fn expected(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|number| format!("m-{number:04}")).collect()
    }

    #[test]
    fn one_by_one_and_in_batches_the_order_is_the_arrivals() {
        let arrivals = Arrivals::new(10_000);
        arrivals.try_push(run(0..150)).unwrap();
        arrivals.try_push(run(150..300)).unwrap();
        let mut got = Vec::new();
        while got.len() < 300 {
            if got.len() % 2 == 0 {
                got.push(arrivals.take_one().unwrap());
            } else {
                arrivals.take(&mut got, 7).unwrap();
            }
        }
        assert_eq!(ids(&got), expected(0..300));
        assert_eq!(arrivals.take_one().unwrap_err(), Empty::Yet);
        arrivals.close();
        assert_eq!(arrivals.take(&mut got, 1), Err(Empty::Closed));
    }

    #[test]
    fn the_bound_counts_messages_and_is_passed_by_one_piece_at_most() {
        let arrivals = Arrivals::new(10);
        arrivals.try_push(run(0..9)).unwrap();
        arrivals.try_push(run(9..20)).unwrap();
        let refused = arrivals.try_push(run(20..21)).unwrap_err();
        assert_eq!(refused.messages(), 1);
        let mut got = Vec::new();
        arrivals.take(&mut got, 11).unwrap();
        arrivals.try_push(refused).unwrap();
        arrivals.take(&mut got, 100).unwrap();
        assert_eq!(ids(&got), expected(0..21));
    }

    #[test]
    fn a_waiting_caller_is_woken_by_what_comes_and_by_the_end() {
        let arrivals = Arrivals::new(10);
        let mut context = Context::from_waker(std::task::Waker::noop());
        {
            let mut waiting = pin!(arrivals.wait());
            assert!(waiting.as_mut().poll(&mut context).is_pending());
            arrivals.try_push(run(0..1)).unwrap();
            assert!(waiting.as_mut().poll(&mut context).is_ready());
        }
        assert!(arrivals.take_one().is_ok());
        let mut waiting = pin!(arrivals.wait());
        while waiting.as_mut().poll(&mut context).is_ready() {
            // A permit of what was taken meanwhile.
            waiting.set(arrivals.wait());
        }
        arrivals.close();
        assert!(waiting.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn the_first_of_a_run_is_taken_off_it() {
        let (first, rest) = run(3..6).split_first();
        assert_eq!((first.id(), rest.unwrap().messages()), ("m-0003", 2));
        assert!(run(0..1).split_first().1.is_none());
    }
}
