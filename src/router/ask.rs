//! Who waits for an answer: callers of single operations, streams of sends, batches of settles.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Semaphore, oneshot};

use super::{
    directory::lock,
    error::FabricError,
    surface::{Accepted, Answer, Settled, Tag},
};
use crate::frame::Seq;

/// An answer that a shard owes.
#[derive(Debug)]
pub(super) enum Ask {
    Send(oneshot::Sender<Result<Accepted, FabricError>>),
    /// Of so many messages, under this tag and those that follow it.
    Stream {
        sink: Arc<AnswerSink>,
        tag: Tag,
        messages: u32,
    },
    Settle {
        batch: Arc<SettleBatch>,
        index: usize,
    },
    Replay(oneshot::Sender<Result<Seq, FabricError>>),
}

impl Ask {
    /// Answers a message. A caller that went away is no error: its message is taken in all the same.
    pub fn answer_send(self, answer: Result<Accepted, FabricError>) {
        match self {
            Self::Send(caller) => drop(caller.send(answer)),
            Self::Stream { sink, tag, messages } => sink.push_all(tag, messages, answer),
            Self::Settle { .. } | Self::Replay(_) => unreachable!("only sends are answered so"),
        }
    }

    /// Answers a settle.
    pub fn answer_settle(self, answer: Settled) {
        match self {
            Self::Settle { batch, index } => batch.answer(index, answer),
            Self::Send(_) | Self::Stream { .. } | Self::Replay(_) => unreachable!("only settles are answered so"),
        }
    }

    /// Answers whatever it was that could not be done.
    pub fn fail(self, error: FabricError) {
        match self {
            Self::Send(_) | Self::Stream { .. } => self.answer_send(Err(error)),
            Self::Settle { .. } => self.answer_settle(Settled::Failed(error)),
            Self::Replay(caller) => drop(caller.send(Err(error))),
        }
    }
}

/// Where a stream's answers gather. Bounded by the stream's permits: a message without a permit is not sent.
#[derive(Debug)]
pub(super) struct AnswerSink {
    answers: flume::Sender<Answer>,
    pub permits: Arc<Semaphore>,
}

impl AnswerSink {
    pub fn new(outstanding_max: usize) -> (Arc<Self>, flume::Receiver<Answer>) {
        let (answers, receiver) = flume::unbounded();
        (
            Arc::new(Self {
                answers,
                permits: Arc::new(Semaphore::new(outstanding_max)),
            }),
            receiver,
        )
    }

    /// One answer for so many messages, under this tag and those that follow it.
    pub fn push_all(&self, first: Tag, messages: u32, answer: Result<Accepted, FabricError>) {
        let last = first + u64::from(messages) - 1;
        (first..last).for_each(|tag| self.push((tag, answer.clone())));
        self.push((last, answer));
    }

    pub fn push(&self, answer: Answer) {
        // Nobody reads answers any more: the stream is gone, its messages are not.
        drop(self.answers.send(answer));
    }
}

/// An answer that several workers owe together: whoever is last gives it.
#[derive(Debug)]
pub(super) struct SharedAnswer {
    left: AtomicUsize,
    answer: Mutex<Option<(Ask, Accepted)>>,
}

impl SharedAnswer {
    pub fn new(ask: Ask, accepted: Accepted, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(workers),
            answer: Mutex::new(Some((ask, accepted))),
        })
    }

    /// One of the workers did its part.
    pub fn done(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some((ask, accepted)) = lock(&self.answer).take()
        {
            ask.answer_send(Ok(accepted));
        }
    }
}

/// Settles that are answered together, once all of them are known.
#[derive(Debug)]
pub(super) struct SettleBatch {
    answers: Mutex<Vec<Settled>>,
    left: AtomicUsize,
    caller: Mutex<Option<oneshot::Sender<Vec<Settled>>>>,
}

impl SettleBatch {
    pub fn new(count: usize) -> (Arc<Self>, oneshot::Receiver<Vec<Settled>>) {
        let (caller, answer) = oneshot::channel();
        let batch = Self {
            answers: Mutex::new(vec![Settled::Stale; count]),
            left: AtomicUsize::new(count),
            caller: Mutex::new(Some(caller)),
        };
        (Arc::new(batch), answer)
    }

    fn answer(&self, index: usize, answer: Settled) {
        lock(&self.answers)[index] = answer;
        // The last one sends; AcqRel, so that it sees what the others wrote.
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let answers = std::mem::take(&mut *lock(&self.answers));
            if let Some(caller) = lock(&self.caller).take() {
                drop(caller.send(answers));
            }
        }
    }
}
