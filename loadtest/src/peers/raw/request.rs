//! Round trips as the peers' are driven: two sessions over gRPC, each on a thread of its own that sleeps until something comes.

use std::thread;

use futures_util::{StreamExt, stream};
use tokio::{runtime, sync::mpsc};
use weft::{rpc::v1::InboxMode, time::monotonic};

use super::{
    CONSUMER, PRODUCER,
    durable::of,
    frames::{self, Quality, Said, Template},
    grpc::{Outgoing, Raw, Session},
};
use crate::{
    measure::latency::Recorder,
    node::{Endpoints, Node},
    peers::{figures::Figures, workload::Extent},
};

/// How long a request and its reply take, one at a time: QoS 0 from inbox to inbox and back.
pub async fn run(node: Node, extent: Extent) -> Result<Figures, String> {
    let (asking, answering) = (format!("{PRODUCER}-0"), format!("{CONSUMER}-0"));
    let endpoints = node.endpoints.clone();
    let echo = {
        let (endpoints, asking, answering) = (endpoints.clone(), asking.clone(), answering.clone());
        let (ready, is_ready) = std::sync::mpsc::channel();
        let echo = on_a_thread(async move {
            let mut session = Peer::open(&endpoints, &answering, &asking, extent.body_bytes).await?;
            // Nobody waits for it any more: the other side failed.
            let _ = ready.send(());
            loop {
                let requests = session.delivered().await?;
                (0..requests).for_each(|_| session.send());
            }
        })?;
        let waiting = tokio::task::spawn_blocking(move || is_ready.recv());
        match waiting.await {
            Ok(Ok(())) => echo,
            _ => return Err(failure(echo)),
        }
    };
    let asked = on_a_thread(async move {
        let mut session = Peer::open(&endpoints, &asking, &answering, extent.body_bytes).await?;
        let (begun, mut recorder) = (monotonic(), Recorder::default());
        loop {
            let at = monotonic();
            if at - begun > extent.warm_up + extent.time {
                return Ok(recorder.summary());
            }
            session.send();
            match session.delivered().await? {
                1 => {}
                replies => return Err(format!("{replies} replies to one request")),
            }
            if at - begun > extent.warm_up {
                recorder.record(u64::try_from((monotonic() - at).as_nanos()).unwrap_or(u64::MAX));
            }
        }
    })?;
    let asked = tokio::task::spawn_blocking(move || asked.join()).await;
    drop(node);
    let _ended: Result<Result<(), String>, _> = echo.join();
    match asked {
        Ok(Ok(summary)) => summary.map(|latency| Figures::of_latency(&latency)),
        _ => Err("the requester's thread panicked".into()),
    }
}

fn on_a_thread<T: Send + 'static>(
    work: impl Future<Output = Result<T, String>> + Send + 'static,
) -> Result<thread::JoinHandle<Result<T, String>>, String> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    Ok(thread::spawn(move || runtime.block_on(work)))
}

fn failure(thread: thread::JoinHandle<Result<(), String>>) -> String {
    match thread.join() {
        Ok(Err(error)) => format!("the responder: {error}"),
        _ => "the responder ended early".into(),
    }
}

/// One side.
struct Peer {
    session: Session,
    frames: mpsc::UnboundedSender<Outgoing>,
    template: std::sync::Arc<Template>,
    sent: u64,
}

impl Peer {
    async fn open(endpoints: &Endpoints, agent: &str, to: &str, body_bytes: usize) -> Result<Self, String> {
        // Bounded by the one message that is under way.
        let (frames, queued) = mpsc::unbounded_channel();
        let attach = stream::iter([Outgoing::Frame(frames::attach(agent, InboxMode::Open))]);
        let mut session = Session::open(endpoints, attach.chain(of(queued)), Raw).await?;
        match session.next().await? {
            Said::Welcome => {}
            said => return Err(format!("{agent} was told {said:?}")),
        }
        let template = Template::new(agent, &format!("agent:{to}"), body_bytes, 1, Quality::AtMostOnce);
        Ok(Self {
            session,
            frames,
            template: template.into(),
            sent: 0,
        })
    }

    fn send(&mut self) {
        let (template, first) = (self.template.clone(), self.sent);
        self.sent += 1;
        // Where the stream is gone, the next read says why.
        let _gone = self.frames.send(Outgoing::Messages { template, first });
    }

    async fn delivered(&mut self) -> Result<u64, String> {
        match self.session.next().await? {
            Said::Deliveries(messages) => Ok(messages),
            said => Err(format!("was told {said:?}")),
        }
    }
}
