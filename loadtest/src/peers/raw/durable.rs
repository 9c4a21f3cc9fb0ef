//! QoS 1 as the peers' streams are driven: a producer that has so many messages unanswered, and a consumer that acknowledges. A message
//! counts once its acknowledgement is confirmed.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures_util::{Stream, StreamExt, stream};
use tokio::{sync::mpsc, task::JoinSet};
use weft::rpc::v1::InboxMode;

use super::{
    CONSUMER, PRODUCER,
    flow::settled,
    frames::{self, FRAME_MESSAGES, Quality, Template, Told},
    grpc::{Outgoing, Session, Whole},
};
use crate::{
    node::{Endpoints, Node},
    peers::{figures::Figures, limits, workload::Extent},
};

/// What both sides count. Relaxed everywhere: nothing else is published by them.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    confirmed: AtomicU64,
    stop: AtomicBool,
}

/// Messages a second from a producer with so many unanswered to a consumer's confirmed acknowledgements.
pub async fn run(node: &Node, in_flight: u64, extent: Extent) -> Result<Figures, String> {
    let agent = format!("{CONSUMER}-0");
    let counts = Arc::new(Counts::default());
    let consumer = Consumer::open(&node.endpoints, &agent, counts.clone()).await?;
    let producer = Producer::open(&node.endpoints, &agent, extent.body_bytes, counts.clone()).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { format!("the consumer: {}", consumer.run().await) });
    tasks.spawn(async move { format!("the producer: {}", producer.run(in_flight).await) });
    let confirmed = || counts.confirmed.load(Ordering::Relaxed);
    let work = async {
        let figures = limits::measure(node.pid(), confirmed, extent).await?;
        counts.stop.store(true, Ordering::Relaxed);
        settled(confirmed, || counts.sent.load(Ordering::Relaxed)).await?;
        Ok(figures)
    };
    tokio::select! {
        done = work => done,
        Some(failed) = tasks.join_next() => Err(failed.unwrap_or_else(|error| error.to_string())),
    }
}

/// What is queued, as a stream.
pub(super) fn of(mut queued: mpsc::UnboundedReceiver<Outgoing>) -> impl Stream<Item = Outgoing> + Send {
    stream::poll_fn(move |context| queued.poll_recv(context))
}

struct Producer {
    session: Session<Told>,
    frames: mpsc::UnboundedSender<Outgoing>,
    /// Of one message, of two, ... of a full frame.
    templates: Vec<Arc<Template>>,
    counts: Arc<Counts>,
}

impl Producer {
    async fn open(endpoints: &Endpoints, to: &str, body_bytes: usize, counts: Arc<Counts>) -> Result<Self, String> {
        let (from, to) = (format!("{PRODUCER}-0"), format!("agent:{to}"));
        let template = |messages| Template::new(&from, &to, body_bytes, messages, Quality::AtLeastOnce);
        // Bounded by the window: a frame is queued only when an answer came.
        let (frames, queued) = mpsc::unbounded_channel();
        Ok(Self {
            session: Session::open(endpoints, of(queued), Whole).await?,
            frames,
            templates: (1..=FRAME_MESSAGES).map(template).map(Arc::new).collect(),
            counts,
        })
    }

    /// Returns what went wrong.
    async fn run(mut self, in_flight: u64) -> String {
        let mut free = in_flight;
        loop {
            if !self.counts.stop.load(Ordering::Relaxed) {
                self.send(free);
            }
            free = match self.session.next().await {
                Ok(Told::Receipts(accepted)) => accepted,
                Ok(told) => return format!("was told {told:?}"),
                Err(error) => return error,
            };
        }
    }

    fn send(&self, mut messages: u64) {
        while messages > 0 {
            let some = messages.min(FRAME_MESSAGES);
            let template = self.templates[some as usize - 1].clone();
            let first = self.counts.sent.fetch_add(some, Ordering::Relaxed);
            // Where the stream is gone, the next read says why.
            let _gone = self.frames.send(Outgoing::Messages { template, first });
            messages -= some;
        }
    }
}

struct Consumer {
    session: Session<Told>,
    frames: mpsc::UnboundedSender<Outgoing>,
    /// Acknowledgements that are not confirmed: how many messages each is of.
    unconfirmed: VecDeque<u64>,
    counts: Arc<Counts>,
}

impl Consumer {
    async fn open(endpoints: &Endpoints, agent: &str, counts: Arc<Counts>) -> Result<Self, String> {
        // Bounded by the producer's window.
        let (frames, queued) = mpsc::unbounded_channel();
        let attach = stream::iter([Outgoing::Frame(frames::attach(agent, InboxMode::Open))]);
        let outgoing = attach.chain(of(queued));
        let mut session = Session::open(endpoints, outgoing, Whole).await?;
        match session.next().await? {
            Told::Welcome => {}
            told => return Err(format!("the consumer was told {told:?}")),
        }
        Ok(Self {
            session,
            frames,
            unconfirmed: VecDeque::new(),
            counts,
        })
    }

    /// Returns what went wrong.
    async fn run(mut self) -> String {
        loop {
            match self.session.next().await {
                Ok(Told::Deliveries(ids)) => {
                    self.unconfirmed.push_back(ids.len() as u64);
                    // Where the stream is gone, the next read says why.
                    let _gone = self.frames.send(Outgoing::Frame(frames::acknowledge(&ids)));
                }
                Ok(Told::Settled) => {
                    let confirmed = self.unconfirmed.pop_front().unwrap_or_default();
                    self.counts.confirmed.fetch_add(confirmed, Ordering::Relaxed);
                }
                Ok(told) => return format!("was told {told:?}"),
                Err(error) => return error,
            }
        }
    }
}
