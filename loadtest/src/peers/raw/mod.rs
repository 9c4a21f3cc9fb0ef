//! weft driven as its peers are: prepared bytes, counting, nothing else, so that what is compared is the servers.
//!
//! Every message is valid and has an id of its own; the loop is closed over deliveries; a run in which one message was lost or
//! doubled is no figure. [`frames`] has the bytes of gRPC, [`flow`] what is under way, [`grpc`] and [`quic`] the
//! sessions, [`durable()`] what is answered and acknowledged, [`request()`] round trips. Start at [`publish_subscribe`].

mod durable;
mod flow;
mod frames;
mod grpc;
mod quic;
mod request;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::task::JoinSet;

use self::{
    flow::{Flow, settled},
    frames::{FRAME_MESSAGES, Quality, Said, Template},
    grpc::Session,
};
pub use durable::run as durable;
pub use request::run as request;

use super::{
    figures::Figures,
    limits::{self, HttpClients},
    workload::{Extent, Shape},
};
use crate::node::{Endpoints, Node};

/// Messages under way to one agent, as the peers' publishers have it: half of what its lane holds (32,768), as nothing may be dropped
/// for want of room.
const UNDER_WAY_MAX: usize = 16_384;
/// Bytes of bodies under way to one agent: half of what its lane holds (8 MiB).
const UNDER_WAY_BYTES_MAX: usize = 4 << 20;
/// Of all pairs together, as the peers' publishers have it, but two frames of each pair at least.
const UNDER_WAY_ALL_MAX: usize = 16_384;
const UNDER_WAY_MIN: usize = 2 * FRAME_MESSAGES as usize;
/// Answered messages that are not delivered: a lane holds 4,096 hand-outs, and a `POST` is one by itself.
const HTTP_AHEAD_MAX: u64 = 2_048;
const TOPIC: &str = "load/raw";
const CONSUMER: &str = "loadtest/raw/consumer";
const PRODUCER: &str = "loadtest/raw/producer";

/// What carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    Grpc,
    Quic,
}

/// Deliveries a second over sessions, in this shape, with the node's processor time.
pub async fn publish_subscribe(node: &Node, carrier: Carrier, shape: Shape, extent: Extent) -> Result<Figures, String> {
    let (subjects, publishers, subscribers) = match shape {
        Shape::Pairs(pairs) => (pairs, 1, 1),
        Shape::FanOut(subscribers) => (1, 1, subscribers),
        Shape::FanIn(publishers) => (1, publishers, 1),
    };
    let topic = matches!(shape, Shape::FanOut(_)).then_some(TOPIC);
    let under_way = (UNDER_WAY_ALL_MAX / subjects)
        .min(UNDER_WAY_BYTES_MAX / extent.body_bytes.max(1))
        .clamp(UNDER_WAY_MIN, UNDER_WAY_MAX);
    let mut sessions = Sessions::new(&node.endpoints, carrier);
    for subject in 0..subjects {
        let flow = Arc::new(Flow::new(subscribers, under_way));
        for index in 0..subscribers {
            let agent = format!("{CONSUMER}-{subject}-{index}");
            sessions.subscribe(&agent, topic, &flow, index).await?;
        }
        sessions.flows.push(flow);
    }
    for (subject, flow) in sessions.flows.clone().into_iter().enumerate() {
        let inbox = format!("agent:{CONSUMER}-{subject}-0");
        let to = topic.map_or(inbox, |topic| format!("topic:{topic}"));
        for index in 0..publishers {
            let from = format!("{PRODUCER}-{subject}-{index}");
            let what = (from.as_str(), to.as_str(), extent.body_bytes);
            sessions.publish(what, under_way, flow.clone()).await?;
        }
    }
    sessions.measure(node, extent).await
}

/// `POST`s a second over as many connections as a bare server gets, each delivered to one agent that counts.
pub async fn http(node: &Node, extent: Extent) -> Result<Figures, String> {
    let host = node.endpoints.http.as_deref().ok_or("the node has no HTTP listener")?;
    let address = host.parse().map_err(|error| format!("{host}: {error}"))?;
    let agent = format!("{CONSUMER}-0");
    // Answers bound what is under way, and how far they are ahead of deliveries; the flow only counts.
    let flow = Arc::new(Flow::new(1, 0));
    let mut sessions = Sessions::new(&node.endpoints, Carrier::Grpc);
    sessions.subscribe(&agent, None, &flow, 0).await?;
    let answered = Arc::new(AtomicU64::new(0));
    let producer = format!("{PRODUCER}-0");
    let is_full = {
        let (flow, answered) = (flow.clone(), answered.clone());
        move || answered.load(Ordering::Relaxed) > flow.delivered() + HTTP_AHEAD_MAX
    };
    let clients = HttpClients::start(address, (&producer, &agent), extent.body_bytes, &answered, is_full).await?;
    let moved = || answered.load(Ordering::Relaxed);
    let figures = sessions
        .unless_failed(limits::measure(node.pid(), moved, extent))
        .await?;
    clients.finish().await?;
    sessions.unless_failed(settled(|| flow.delivered(), moved)).await?;
    Ok(figures)
}

/// Sessions at work, and what they move.
#[derive(Debug)]
struct Sessions<'a> {
    endpoints: &'a Endpoints,
    carrier: Carrier,
    flows: Vec<Arc<Flow>>,
    /// Each ends with a failure alone, which it returns.
    tasks: JoinSet<String>,
}

impl<'a> Sessions<'a> {
    fn new(endpoints: &'a Endpoints, carrier: Carrier) -> Self {
        Self {
            endpoints,
            carrier,
            flows: Vec::new(),
            tasks: JoinSet::new(),
        }
    }

    async fn subscribe(
        &mut self,
        agent: &str,
        topic: Option<&str>,
        flow: &Arc<Flow>,
        index: usize,
    ) -> Result<(), String> {
        let flow = flow.clone();
        if self.carrier == Carrier::Quic {
            let mut session = quic::Session::open(self.endpoints).await?;
            session.subscribe(agent, topic).await?;
            self.tasks
                .spawn(async move { format!("a subscriber: {}", session.count(&flow, index).await) });
            return Ok(());
        }
        let mut session = Session::subscriber(self.endpoints, agent, topic).await?;
        self.tasks.spawn(async move {
            loop {
                match session.next().await {
                    Ok(Said::Deliveries(number)) => flow.got(index, number),
                    Ok(said) => return format!("a subscriber was told {said:?}"),
                    Err(error) => return format!("a subscriber: {error}"),
                }
            }
        });
        Ok(())
    }

    /// From an agent to an address, in bodies of so many bytes.
    async fn publish(
        &mut self,
        (from, to, body_bytes): (&str, &str, usize),
        under_way_max: usize,
        flow: Arc<Flow>,
    ) -> Result<(), String> {
        if self.carrier == Carrier::Quic {
            let template = quic::Template::new(from, to, body_bytes, under_way_max)?;
            let session = quic::Session::open(self.endpoints).await?;
            self.tasks
                .spawn(async move { format!("a publisher: {}", session.send(&template, &flow).await) });
            return Ok(());
        }
        let template = Template::new(from, to, body_bytes, FRAME_MESSAGES, Quality::AtMostOnce);
        let mut session = Session::publisher(self.endpoints, template, flow).await?;
        self.tasks.spawn(async move {
            match session.next().await {
                // QoS 0 has no receipts but for what is refused.
                Ok(said) => format!("a publisher was told {said:?}"),
                Err(error) => format!("a publisher: {error}"),
            }
        });
        Ok(())
    }

    async fn measure(mut self, node: &Node, extent: Extent) -> Result<Figures, String> {
        let flows = self.flows.clone();
        let delivered = || flows.iter().map(|flow| flow.delivered()).sum();
        let figures = limits::measure(node.pid(), delivered, extent);
        let figures = self.unless_failed(figures).await?;
        flows.iter().for_each(|flow| flow.stop());
        let expected = || flows.iter().map(|flow| flow.expected()).sum();
        self.unless_failed(settled(delivered, expected)).await?;
        Ok(figures)
    }

    /// Does this, unless a session fails before it is done.
    async fn unless_failed<T>(&mut self, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        tokio::select! {
            done = work => done,
            Some(failed) = self.tasks.join_next() => Err(failed.unwrap_or_else(|error| error.to_string())),
        }
    }
}
