//! Sending as a stream: batches in, answers out, without waiting for each.
//!
//! Owns the bound of what a stream has unanswered, and what it took in and could not hand on yet. What becomes of a message on its way in
//! is in `door.rs`. Start at [`Publisher::publish`].

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::Semaphore;

use super::{
    ask::{AnswerSink, Ask},
    config::Config,
    door::{Admitted, Split},
    fabric::Fabric,
    surface::{Answer, Principal, Protocol, Sending, Tag},
    workers::{Command, Inbound},
};
use crate::{
    frame::{Priority, Run},
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
        let publisher = Publisher {
            fabric: self.clone(),
            principal,
            sink,
            work: Box::default(),
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
    /// Boxed: a session keeps its publisher while it is idle.
    work: Box<Work>,
}

/// What a publisher took in and has not handed on yet.
#[derive(Debug, Default)]
struct Work {
    /// Taken from the caller, at most one batch of it.
    taken: VecDeque<Sending>,
    /// Passed the door: commands for the workers, each within the bounds above. The first may be waiting for room.
    gathered: VecDeque<Gathered>,
}

/// Frames that go to one worker at one priority.
#[derive(Debug)]
struct Gathered {
    worker: usize,
    priority: Priority,
    frames: usize,
    bytes: usize,
    /// [`Command::Publish`]; gone once it is in the worker's inbox.
    command: Option<Command>,
}

impl Gathered {
    /// The messages, where there is room for so many frames and bytes more.
    fn with_room(&mut self, frames: usize, bytes: usize, config: &Config) -> Option<&mut Vec<Inbound>> {
        let frames_max = COMMAND_FRAMES_MAX.min(config.worker_frames_max);
        let bytes_max = COMMAND_BYTES_MAX.min(config.worker_bytes_max);
        match &mut self.command {
            Some(Command::Publish(together))
                if self.frames + frames <= frames_max && self.bytes + bytes <= bytes_max =>
            {
                self.frames += frames;
                self.bytes += bytes;
                Some(together)
            }
            _ => None,
        }
    }
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
            work: Box::default(),
        }
    }

    /// Takes messages in, drained from `batch`. Waits while the node's workers or this stream's unanswered messages are at their
    /// bound: that is the edge's back-pressure.
    ///
    /// Cancel safe: a frame is in `batch` or taken in, never lost between. What a dropped call had taken in goes on with the next one, in
    /// its order and before anything is taken from its batch (an empty batch will do). A publisher that is dropped with such frames drops
    /// them, and their tags are never answered: unknown to their sender.
    pub async fn publish(&mut self, batch: &mut Vec<Sending>) {
        self.hand_on().await;
        for sending in batch.drain(..) {
            take(sending, &mut self.work.taken);
        }
        self.hand_on().await;
    }

    /// Hands on all that was taken.
    async fn hand_on(&mut self) {
        let now = time::now();
        while let Some(next) = self.work.taken.front() {
            let answers = next.answers();
            if answers > 0 {
                if self.sink.permits.available_permits() < answers as usize {
                    // The messages before this one must be on their way, or their answers would never come.
                    self.push_gathered().await;
                }
                self.take_permits(answers).await;
            }
            // From the permits to here nothing waits: no message has two of them, none has lost one.
            if let Some(next) = self.work.taken.pop_front() {
                self.take_in(next, now);
            }
        }
        self.push_gathered().await;
    }

    fn take_in(&mut self, sending: Sending, now: time::Timestamp) {
        let (tag, answers) = (sending.tag(), sending.answers());
        let admitted = match sending {
            Sending::Keep(_, frame) => self.fabric.admit(&self.principal, frame, now),
            Sending::Pass(_, run) if run.frames() > 1 && self.fabric.routes_by_body(run.envelope().to()) => {
                let (frames, mut left) = (run.iter(), run.frames());
                // One answer for all of them: the last one's.
                return frames.for_each(|frame| {
                    left -= 1;
                    let tag = tag.filter(|_| left == 0);
                    self.take_in(Sending::Pass(tag, Run::one(frame)), now);
                });
            }
            Sending::Pass(_, run) => self.fabric.admit_run(&self.principal, run, now),
            Sending::KeepOrPass(first, run) => match self.fabric.admit_split(&self.principal, run, now) {
                Ok(Split { passed, kept }) => {
                    // Where some of it is kept, that is what is answered.
                    let answers = if kept.is_empty() { answers } else { 0 };
                    let passed = passed.into_iter();
                    passed.for_each(|passed| self.gather(Some(first), answers, passed, 0));
                    let mut following = kept.len();
                    return (first..).zip(kept).for_each(|(tag, kept)| {
                        following -= 1;
                        self.gather(Some(tag), 1, kept, following);
                    });
                }
                Err(error) => Err(error),
            },
        };
        match (admitted, tag) {
            (Ok(admitted), tag) => self.gather(tag, answers, admitted, 0),
            (Err(error), Some(tag)) => self.sink.push_all(tag, answers, Err(error)),
            (Err(_), None) => {}
        }
    }

    /// A permit for each of so many unanswered messages; they come back when the answers are read.
    async fn take_permits(&self, messages: u32) {
        if let Ok(permits) = self.sink.permits.acquire_many(messages).await {
            permits.forget();
        }
    }

    /// `answers`: how many messages it answers, under the tag and those that follow it. `following`: how many others of the same kind
    /// come next.
    fn gather(&mut self, tag: Option<Tag>, answers: u32, admitted: Admitted, following: usize) {
        let Admitted {
            worker,
            priority,
            mut inbound,
        } = admitted;
        if let Some(tag) = tag.filter(|_| answers > 0) {
            let (sink, messages) = (self.sink.clone(), answers);
            inbound.intake.set_answer(Ask::Stream { sink, tag, messages });
        }
        let (frames, bytes) = (inbound.intake.frames(), inbound.intake.weight_bytes());
        let config = &self.fabric.0.config;
        let gathered = &mut self.work.gathered;
        // The newest of its kind: order within one is order in the worker's inbox.
        let same = gathered
            .iter_mut()
            .rev()
            .find(|g| (g.worker, g.priority) == (worker, priority));
        match same.and_then(|same| same.with_room(frames, bytes, config)) {
            Some(together) => together.push(inbound),
            None => {
                // Most batches go to one place whole.
                let mut together = Vec::with_capacity((self.work.taken.len() + 1 + following).min(COMMAND_FRAMES_MAX));
                together.push(inbound);
                gathered.push_back(Gathered {
                    worker,
                    priority,
                    frames,
                    bytes,
                    command: Some(Command::Publish(together)),
                });
            }
        }
    }

    async fn push_gathered(&mut self) {
        while let Some(oldest) = self.work.gathered.front_mut() {
            let workers = &self.fabric.0.workers;
            let pushed = workers.push(oldest.worker, oldest.priority, &mut oldest.command).await;
            let refused = self.work.gathered.pop_front().and_then(|oldest| oldest.command);
            if let (Err(error), Some(Command::Publish(refused))) = (pushed, refused) {
                let asks = refused.into_iter().filter_map(|inbound| inbound.intake.into_answer());
                asks.for_each(|ask| ask.fail(error.clone()));
            }
        }
    }
}

/// Takes in what is to be sent, in parts that a stream's permits allow.
fn take(mut sending: Sending, taken: &mut VecDeque<Sending>) {
    if let Sending::KeepOrPass(tag, run) = &mut sending {
        while let Some(front) = (run.frames() > COMMAND_FRAMES_MAX)
            .then(|| run.split_to(COMMAND_FRAMES_MAX))
            .flatten()
        {
            let next = *tag + front.frames() as u64;
            taken.push_back(Sending::KeepOrPass(std::mem::replace(tag, next), front));
        }
    }
    taken.push_back(sending);
}

/// The answers to a stream's messages.
#[derive(Debug)]
pub struct Answers {
    receiver: flume::Receiver<Answer>,
    permits: Arc<Semaphore>,
}

impl Answers {
    /// Appends the answers that are there, without waiting.
    pub fn try_next(&mut self, into: &mut Vec<Answer>) {
        let before = into.len();
        into.extend(self.receiver.try_iter());
        if into.len() > before {
            self.permits.add_permits(into.len() - before);
        }
    }

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
