//! A consumer: takes what comes, checks it, measures it, acknowledges it. And the agents that send back what they get.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use weft::frame::{Priority, Qos};

use super::{Counting, Layout, Shared};
use crate::{
    driver::{Arrival, Connector, Failure, Outgoing, Receiver, Receiving, Sender},
    head::Head,
    plan::{Plan, Verification},
    verify::Seen,
};
use std::sync::atomic::Ordering;

/// Messages taken at once.
const BATCH_MAX: usize = 256;
/// Messages that a slow consumer takes at once.
const SLOW_BATCH_MAX: usize = 16;
/// Replies of one agent that are unanswered at once.
const REPLIES_UNANSWERED_MAX: usize = 1_024;

/// What a consumer saw.
#[derive(Debug)]
pub struct Consumed {
    pub index: usize,
    /// By producer.
    pub streams: HashMap<usize, Stream>,
    pub foreign: u64,
    pub unsettled: u64,
}

/// What a consumer saw of one producer.
#[derive(Debug)]
pub struct Stream {
    pub seen: Seen,
    /// Deliveries of the measured time.
    pub measured: u64,
    /// The consumer's place among the producer's consumers.
    place: usize,
    class: usize,
    /// Of the batch in hand.
    highest: u64,
    fresh: u64,
}

/// Opens the sessions of all consumers.
pub async fn open(connector: &Connector, plan: &Plan, layout: &Layout) -> Result<Vec<Receiver>, Failure> {
    let mut receivers = Vec::with_capacity(layout.consumers.len());
    for consumer in &layout.consumers {
        let receiving = Receiving {
            topics: consumer.topics.clone(),
            qos: plan.quality.into(),
        };
        let receiver = connector.receiver(plan.receive_over, &consumer.agent, &receiving);
        receivers.push(receiver.await?);
    }
    Ok(receivers)
}

/// Opens both sessions of all agents that send back.
pub async fn open_echoes(
    connector: &Connector,
    plan: &Plan,
    layout: &Layout,
) -> Result<Vec<(Receiver, Sender)>, Failure> {
    let mut echoes = Vec::with_capacity(layout.echoes.len());
    let receiving = Receiving {
        topics: Vec::new(),
        qos: plan.quality.into(),
    };
    for echo in &layout.echoes {
        let receiver = connector.receiver(plan.receive_over, &echo.agent, &receiving).await?;
        // As an agent of its own: where a session can't send without opening its inbox, it would take requests from the other.
        let replier = format!("{}-replies", echo.agent);
        let sender = connector.sender(plan.protocol, &replier, REPLIES_UNANSWERED_MAX);
        echoes.push((receiver, sender.await?));
    }
    Ok(echoes)
}

/// Takes messages until the run is over.
pub async fn consume(
    shared: Arc<Shared>,
    index: usize,
    mut receiver: Receiver,
    mut over: watch::Receiver<bool>,
) -> Consumed {
    let plan = shared.layout.consumers[index].clone();
    let max = plan.pace_per_s.map_or(BATCH_MAX, |_| SLOW_BATCH_MAX);
    let mut consumer = Consumer::new(shared.clone(), index);
    let mut batch = Vec::with_capacity(max);
    loop {
        let received = tokio::select! {
            biased;
            _ = over.changed() => break,
            received = receiver.receive(&mut batch, max) => received,
        };
        if let Err(error) = received {
            shared.fail(error);
            break;
        }
        let taken = batch.len();
        consumer.take(&mut batch);
        if let Err(error) = receiver.settle().await {
            shared.fail(error);
            break;
        }
        if let Some(pace) = plan.pace_per_s {
            let taken = u32::try_from(taken).map_or(f64::MAX, f64::from);
            sleep(Duration::from_secs_f64((taken / pace).min(1.0))).await;
        }
    }
    let mut consumed = consumer.consumed;
    consumed.unsettled = receiver.finish().await;
    consumed
}

struct Consumer {
    shared: Arc<Shared>,
    consumed: Consumed,
    /// Producers with messages in the batch in hand.
    touched: Vec<usize>,
}

impl Consumer {
    fn new(shared: Arc<Shared>, index: usize) -> Self {
        let producers = shared.layout.producers.iter().enumerate();
        let streams = producers.filter_map(|(number, producer)| {
            let place = producer.consumers.iter().position(|consumer| *consumer == index)?;
            Some((
                number,
                Stream {
                    seen: Seen::default(),
                    measured: 0,
                    place,
                    class: producer.class,
                    highest: 0,
                    fresh: 0,
                },
            ))
        });
        Self {
            consumed: Consumed {
                index,
                streams: streams.collect(),
                foreign: 0,
                unsettled: 0,
            },
            shared,
            touched: Vec::new(),
        }
    }

    /// Checks and measures a batch, and gives its producers their room back.
    fn take(&mut self, batch: &mut Vec<Arrival>) {
        let shared = self.shared.clone();
        let now = shared.clock.now_ns();
        let is_measured = (shared.measure_ns..=shared.end_ns).contains(&now);
        let mut fresh = 0;
        {
            let counting = shared.layout.consumers[self.consumed.index].counting;
            let mut recorders = shared.recorders();
            for arrival in batch.drain(..) {
                let Some((head, stream)) = self.known(arrival) else {
                    continue;
                };
                let (class, is_measured) = (stream.class, is_measured);
                stream.measured += u64::from(is_measured);
                fresh += 1;
                if counting == Counting::Counted {
                    let latency = now.saturating_sub(head.intended_ns);
                    recorders.timeline.record(now, latency);
                    if head.intended_ns >= shared.measure_ns {
                        recorders.classes[class].record(latency);
                    }
                }
            }
            if counting == Counting::Counted {
                shared.delivered.fetch_add(fresh, Ordering::Relaxed);
                if is_measured {
                    shared.delivered_measured.fetch_add(fresh, Ordering::Relaxed);
                }
            }
        }
        shared.last_delivery_ns.fetch_max(now, Ordering::Relaxed);
        for producer in self.touched.drain(..) {
            let stream = self.consumed.streams.get_mut(&producer);
            let stream = stream.expect("only known streams are touched");
            shared.gates[producer].reached(stream.place, stream.highest, std::mem::take(&mut stream.fresh));
        }
    }

    /// The stream that an arrival belongs to, where it is the first of its number.
    fn known(&mut self, arrival: Arrival) -> Option<(Head, &mut Stream)> {
        let ours = arrival.filter(|head| head.run == self.shared.layout.run);
        let producer = ours.and_then(|head| usize::try_from(head.producer).ok());
        let stream = producer.and_then(|producer| self.consumed.streams.get_mut(&producer));
        let (Some(head), Some(producer), Some(stream)) = (ours, producer, stream) else {
            self.consumed.foreign += 1;
            return None;
        };
        if self.shared.plan.verification == Verification::On && !stream.seen.see(head.number) {
            return None;
        }
        if stream.fresh == 0 {
            self.touched.push(producer);
        }
        stream.fresh += 1;
        stream.highest = stream.highest.max(head.number);
        Some((head, stream))
    }
}

/// Sends back what comes, until it is stopped.
pub async fn echo(shared: Arc<Shared>, index: usize, mut receiver: Receiver, mut sender: Sender) {
    let plan = &shared.layout.echoes[index];
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while receiver.receive(&mut batch, BATCH_MAX).await.is_ok() {
        for head in batch.drain(..).flatten() {
            let producer = usize::try_from(head.producer).unwrap_or(usize::MAX);
            let Some(to) = plan.reply_to.get(producer) else {
                continue;
            };
            let reply = Outgoing {
                to,
                body: head.body(shared.plan.body_bytes),
                qos: shared.plan.quality.into(),
                priority: Priority::Normal,
            };
            match sender.send(reply).await {
                // The requester measures; the answer to a reply is nobody's to wait for.
                Ok(_) => {}
                Err(error) => shared.fail(error),
            }
        }
        let settled = match Qos::from(shared.plan.quality) {
            Qos::AtMostOnce => Ok(()),
            Qos::AtLeastOnce | Qos::ExactlyOnce => receiver.settle().await,
        };
        if let Err(error) = sender.flush().await.and(settled) {
            shared.fail(error);
            return;
        }
    }
}
