//! A producer: sends as its load says until the run's time or count is over.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::mpsc;
use weft::frame::Qos;

use super::{Layout, ProducerPlan, Shared, gate::Until};
use crate::{
    driver::{Answer, Connector, Failure, Outgoing, Sender},
    head::Head,
    measure::latency,
    plan::{Load, Plan},
    schedule::Schedule,
};

/// Sends between two looks at the gate, at most.
const BATCH_MAX: u64 = 256;
/// Unanswered messages of an open loop, at most; beyond it the producer waits, and its messages' latencies say so.
const OPEN_UNANSWERED_MAX: usize = 8_192;
/// How long the last messages may take to be written and answered.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// What a producer did.
#[derive(Debug)]
pub struct Produced {
    pub index: usize,
    pub sent: u64,
    pub refused: u64,
    pub answers: latency::Recorder,
}

/// Opens the sessions of all producers; none where nothing is to be sent.
pub async fn open(connector: &Connector, plan: &Plan, layout: &Layout) -> Result<Vec<Option<Sender>>, Failure> {
    let mut senders = Vec::with_capacity(layout.producers.len());
    for producer in &layout.producers {
        let unanswered_max = match producer.load {
            Load::Closed { in_flight } => in_flight,
            Load::Open { .. } => OPEN_UNANSWERED_MAX,
        };
        senders.push(if layout.already_sent.is_empty() {
            let sender = connector.sender(plan.protocol, &producer.agent, unanswered_max);
            Some(sender.await?)
        } else {
            None
        });
    }
    Ok(senders)
}

/// The schedule of a producer with an open loop. Rates count for all producers together.
pub fn schedule(shared: &Shared, producer: &ProducerPlan, index: usize) -> Option<Schedule> {
    let Load::Open { rate_per_s } = producer.load else {
        return None;
    };
    let of = shared.layout.producers.len();
    Some(Schedule::new(rate_per_s, index, of))
}

/// Sends until the end.
pub async fn produce(shared: Arc<Shared>, index: usize, sender: Option<Sender>) -> Produced {
    let Some(sender) = sender else {
        let sent = shared.layout.already_sent.get(index).copied().unwrap_or_default();
        return Produced {
            index,
            sent,
            refused: 0,
            answers: latency::Recorder::default(),
        };
    };
    let (answers, asked) = mpsc::channel(OPEN_UNANSWERED_MAX);
    let gathering = tokio::spawn(gather(shared.clone(), index, asked));
    let mut producer = Producer {
        index,
        sent: 0,
        refused: 0,
        answers,
        sender,
        bodies: Vec::new(),
        body: vec![b'.'; shared.plan.body_bytes.max(crate::head::HEAD_BYTES)],
        shared: shared.clone(),
    };
    match producer.plan().load {
        Load::Closed { in_flight } => producer.closed(in_flight).await,
        Load::Open { .. } => producer.open().await,
    }
    let Producer {
        sent,
        refused,
        answers,
        sender,
        ..
    } = producer;
    drop(answers);
    let (answers, failed) = gathering.await.expect("the task of answers does not panic");
    sender.close(CLOSE_PATIENCE).await;
    Produced {
        index,
        sent,
        refused: refused + failed,
        answers,
    }
}

struct Producer {
    shared: Arc<Shared>,
    index: usize,
    sender: Sender,
    body: Vec<u8>,
    /// Those of a run, one behind the other; kept for its memory.
    bodies: Vec<u8>,
    sent: u64,
    refused: u64,
    answers: mpsc::Sender<(u64, Answer)>,
}

/// Whether a producer goes on.
enum Next {
    Go,
    /// The run's time or count is over, or the session is.
    End,
}

impl Producer {
    fn plan(&self) -> &ProducerPlan {
        &self.shared.layout.producers[self.index]
    }

    async fn closed(&mut self, in_flight: usize) {
        let shared = self.shared.clone();
        let gate = &shared.gates[self.index];
        let until = match Qos::from(shared.plan.quality) {
            Qos::AtMostOnce => Until::Delivered,
            Qos::AtLeastOnce | Qos::ExactlyOnce => Until::Answered,
        };
        let in_flight = in_flight.clamp(1, self.sender.in_flight_max()) as u64;
        while shared.clock.now_ns() < shared.end_ns {
            let room = gate.room(until, self.sent, in_flight).min(BATCH_MAX);
            if room == 0 {
                gate.wait(until, self.sent).await;
                continue;
            }
            let claimed = shared.claim(room);
            if matches!(self.send_all(claimed, |_| shared.clock.now_ns()).await, Next::End) {
                return;
            }
            if claimed == 0 || self.sender.flush().await.is_err() {
                return;
            }
        }
    }

    async fn open(&mut self) {
        let shared = self.shared.clone();
        let Some(schedule) = schedule(&shared, self.plan(), self.index) else {
            return;
        };
        let wake = shared.gates[self.index].wake();
        loop {
            let now = shared.clock.now_ns();
            // What was due before the end is sent, late or not: leaving it out would flatter whoever was slow.
            let due = schedule.due_by(now.min(shared.end_ns));
            let claimed = shared.claim(due.saturating_sub(self.sent));
            if self.sent + claimed < due {
                return;
            }
            if matches!(
                self.send_all(claimed, |number| schedule.due_at(number)).await,
                Next::End
            ) {
                return;
            }
            if self.sender.flush().await.is_err() || now >= shared.end_ns {
                return;
            }
            wake.notified().await;
        }
    }

    /// Sends so many messages, each intended for a time of its own.
    async fn send_all(&mut self, messages: u64, intended_ns: impl Fn(u64) -> u64) -> Next {
        if self.sender.sends_runs() && !Qos::from(self.shared.plan.quality).is_durable() {
            let mut left = messages;
            while left > 0 {
                let some = left.min(BATCH_MAX);
                if matches!(self.send_run(some, &intended_ns).await, Next::End) {
                    return Next::End;
                }
                left -= some;
            }
            return Next::Go;
        }
        for _ in 0..messages {
            if matches!(self.send(intended_ns(self.sent)).await, Next::End) {
                return Next::End;
            }
        }
        Next::Go
    }

    async fn send_run(&mut self, messages: u64, intended_ns: impl Fn(u64) -> u64) -> Next {
        let shared = self.shared.clone();
        let plan = &shared.layout.producers[self.index];
        self.bodies.clear();
        for _ in 0..messages {
            self.write_body(intended_ns(self.sent));
            self.bodies.extend_from_slice(&self.body);
            self.sent += 1;
        }
        let outgoing = Outgoing {
            to: &plan.to,
            body: Bytes::new(),
            qos: shared.plan.quality.into(),
            priority: plan.priority,
        };
        let bodies = self.bodies.chunks(self.body.len());
        match self.sender.send_run(outgoing, bodies).await {
            Ok(()) => Next::Go,
            Err(error) => self.refuse(messages, error),
        }
    }

    fn write_body(&mut self, intended_ns: u64) {
        let head = Head {
            run: self.shared.layout.run,
            producer: u32::try_from(self.index).unwrap_or(u32::MAX),
            number: self.sent,
            intended_ns,
        };
        head.write(&mut self.body);
    }

    fn refuse(&mut self, messages: u64, error: Failure) -> Next {
        self.refused += messages;
        self.shared.fail(error);
        (0..messages).for_each(|_| self.shared.gates[self.index].answered());
        // A session that is over refuses everything; the stall of a closed loop ends it as well.
        if self.refused > BATCH_MAX && self.refused == self.sent {
            Next::End
        } else {
            Next::Go
        }
    }

    async fn send(&mut self, intended_ns: u64) -> Next {
        let shared = self.shared.clone();
        let plan = &shared.layout.producers[self.index];
        self.write_body(intended_ns);
        let outgoing = Outgoing {
            to: &plan.to,
            body: self.body.clone().into(),
            qos: shared.plan.quality.into(),
            priority: plan.priority,
        };
        self.sent += 1;
        match self.sender.send(outgoing).await {
            Ok(Answer::Done) => {
                // Over HTTP the answer has come with the call.
                if Qos::from(shared.plan.quality).is_durable() {
                    return self.ask(intended_ns, Answer::Done).await;
                }
                Next::Go
            }
            Ok(answer) => self.ask(intended_ns, answer).await,
            Err(error) => self.refuse(1, error),
        }
    }

    async fn ask(&self, intended_ns: u64, answer: Answer) -> Next {
        match self.answers.send((intended_ns, answer)).await {
            Ok(()) => Next::Go,
            Err(_) => Next::End,
        }
    }
}

/// Waits for the answers in the order of the sends, which is the order in which one shard gives them.
async fn gather(
    shared: Arc<Shared>,
    index: usize,
    mut asked: mpsc::Receiver<(u64, Answer)>,
) -> (latency::Recorder, u64) {
    let (mut answers, mut failed) = (latency::Recorder::default(), 0);
    while let Some((intended_ns, answer)) = asked.recv().await {
        match answer.settled().await {
            Ok(()) if intended_ns >= shared.measure_ns => {
                answers.record(shared.clock.now_ns().saturating_sub(intended_ns));
            }
            Ok(()) => {}
            Err(error) => {
                failed += 1;
                shared.fail(error);
            }
        }
        shared.gates[index].answered();
    }
    (answers, failed)
}
