//! Sending as a stream: batches in, answers out, without waiting for each.
//!
//! Owns the bound of what a stream has unanswered, and what it took in and could not hand on yet. What becomes of a message on its way in
//! is in `door.rs`. Start at [`Publisher::publish`].

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::Semaphore;

use super::{
    ask::{AnswerSink, Ask},
    door::Admitted,
    fabric::Fabric,
    surface::{Answer, Principal, Protocol, Tag},
    workers::{Command, Inbound},
};
use crate::{
    frame::{Frame, Priority},
    queue::Weigh,
    time,
};

/// Unanswered messages of one stream; at the bound the stream is not read further.
const STREAM_UNANSWERED_MAX: usize = 4_096;
/// Frames and bytes that one command takes to a worker: a batch of more than a worker's inbox holds would only get in alone.
const COMMAND_FRAMES_MAX: usize = 1_024;
const COMMAND_BYTES_MAX: usize = 1024 * 1024;

impl Fabric {
    /// The two halves of a stream of messages.
    pub fn publisher(&self, principal: Principal, _via: Protocol) -> (Publisher, Answers) {
        let (sink, receiver) = AnswerSink::new(STREAM_UNANSWERED_MAX);
        let answers = Answers {
            receiver,
            permits: sink.permits.clone(),
        };
        let config = self.config();
        let publisher = Publisher {
            fabric: self.clone(),
            principal,
            sink,
            frames_max: COMMAND_FRAMES_MAX.min(config.worker_frames_max).max(1),
            bytes_max: COMMAND_BYTES_MAX.min(config.worker_bytes_max),
            taken: VecDeque::new(),
            gathered: VecDeque::new(),
            leaving: None,
        };
        (publisher, answers)
    }
}

/// The sending half of a stream. Answers come out of its [`Answers`] in any order, each under its tag.
#[derive(Debug)]
pub struct Publisher {
    fabric: Fabric,
    principal: Principal,
    sink: Arc<AnswerSink>,
    frames_max: usize,
    bytes_max: usize,
    /// Taken from the caller, at most one batch of it.
    taken: VecDeque<(Option<Tag>, Frame)>,
    /// Passed the door: commands for the workers, each within the bounds above.
    gathered: VecDeque<Gathered>,
    /// The command that waits for room.
    leaving: Option<(usize, Priority, Option<Command>)>,
}

/// Frames that go to one worker at one priority.
#[derive(Debug)]
struct Gathered {
    worker: usize,
    priority: Priority,
    frames: Vec<Inbound>,
    bytes: usize,
}

impl Publisher {
    /// Another sending half of the same stream: its answers come out with this one's, under the same bound. Order holds within
    /// each half.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            fabric: self.fabric.clone(),
            principal: self.principal.clone(),
            sink: self.sink.clone(),
            frames_max: self.frames_max,
            bytes_max: self.bytes_max,
            taken: VecDeque::new(),
            gathered: VecDeque::new(),
            leaving: None,
        }
    }

    /// Takes frames in, drained from `batch`. Waits while the node's workers or this stream's unanswered messages are at their
    /// bound: that is the edge's back-pressure. A tag of `None` wants no answer (QoS 0).
    ///
    /// Cancel safe: a frame is in `batch` or taken in, never lost between. What a dropped call had taken in goes on with the next one, in
    /// its order and before anything is taken from its batch (an empty batch will do). A publisher that is dropped with such frames drops
    /// them, and their tags are never answered: unknown to their sender.
    pub async fn publish(&mut self, batch: &mut Vec<(Option<Tag>, Frame)>) {
        self.hand_on().await;
        self.taken.extend(batch.drain(..));
        self.hand_on().await;
    }

    /// Hands on all that was taken.
    async fn hand_on(&mut self) {
        let now = time::now();
        while let Some((tag, _)) = self.taken.front() {
            if tag.is_some() {
                if self.sink.permits.available_permits() == 0 {
                    // The messages before this one must be on their way, or their answers would never come.
                    self.push_gathered().await;
                }
                self.take_permit().await;
            }
            // From the permit to here nothing waits: no frame has two of them, none has lost one.
            if let Some((tag, frame)) = self.taken.pop_front() {
                self.take_in(tag, frame, now);
            }
        }
        self.push_gathered().await;
    }

    fn take_in(&mut self, tag: Option<Tag>, frame: Frame, now: time::Timestamp) {
        match (self.fabric.admit(&self.principal, frame, now), tag) {
            (Ok(admitted), tag) => self.gather(tag, admitted),
            (Err(error), Some(tag)) => self.sink.push((tag, Err(error))),
            (Err(_), None) => {}
        }
    }

    /// A permit for one more unanswered message; it comes back when the answer is read.
    async fn take_permit(&self) {
        if let Ok(permit) = self.sink.permits.acquire().await {
            permit.forget();
        }
    }

    fn gather(&mut self, tag: Option<Tag>, admitted: Admitted) {
        let Admitted {
            worker,
            priority,
            mut inbound,
        } = admitted;
        inbound.publish.answer = tag.map(|tag| Ask::Stream {
            sink: self.sink.clone(),
            tag,
        });
        let bytes = inbound.publish.frame.encoded_len();
        // The newest of its kind: order within one is order in the worker's inbox.
        let same = self
            .gathered
            .iter_mut()
            .rev()
            .find(|g| (g.worker, g.priority) == (worker, priority));
        match same {
            Some(gathered) if gathered.frames.len() < self.frames_max && gathered.bytes + bytes <= self.bytes_max => {
                gathered.frames.push(inbound);
                gathered.bytes += bytes;
            }
            _ => {
                // Most batches go to one place whole.
                let mut frames = Vec::with_capacity((self.taken.len() + 1).min(self.frames_max));
                frames.push(inbound);
                self.gathered.push_back(Gathered {
                    worker,
                    priority,
                    frames,
                    bytes,
                });
            }
        }
    }

    async fn push_gathered(&mut self) {
        loop {
            if self.leaving.is_none() {
                self.leaving = self.gathered.pop_front().map(|gathered| {
                    let command = Command::Publish(gathered.frames);
                    debug_assert!(command.parts() <= self.frames_max);
                    (gathered.worker, gathered.priority, Some(command))
                });
            }
            let Some((worker, priority, command)) = &mut self.leaving else {
                return;
            };
            let pushed = self.fabric.0.workers.push(*worker, *priority, command).await;
            let refused = self.leaving.take().and_then(|(_, _, command)| command);
            if let (Err(error), Some(Command::Publish(refused))) = (pushed, refused) {
                let asks = refused.into_iter().filter_map(|inbound| inbound.publish.answer);
                asks.for_each(|ask| ask.fail(error.clone()));
            }
        }
    }
}

/// The answers to a stream's messages.
#[derive(Debug)]
pub struct Answers {
    receiver: flume::Receiver<Answer>,
    permits: Arc<Semaphore>,
}

impl Answers {
    /// Waits for answers and appends all that are there; false once the publisher is gone and every answer was given.
    pub async fn next(&mut self, into: &mut Vec<Answer>) -> bool {
        let Ok(first) = self.receiver.recv_async().await else {
            return false;
        };
        let before = into.len();
        into.push(first);
        into.extend(self.receiver.try_iter());
        self.permits.add_permits(into.len() - before);
        true
    }
}
