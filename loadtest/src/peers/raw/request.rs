//! Round trips as the peers' are driven: two sessions over gRPC, each on a thread of its own that sleeps until something comes.
//!
//! A request carries its number and its reply carries it back: a reply to anything but the one request under way fails the run,
//! as does one that does not come in time, or a responder that ends.

use std::{convert::Infallible, future::pending, sync::Arc, thread};

use futures_util::{StreamExt, stream};
use tokio::{
    runtime,
    sync::{mpsc, oneshot},
    time::timeout,
};
use weft::{rpc::v1::InboxMode, time::monotonic};

use super::{
    CONSUMER, PRODUCER,
    durable::of,
    frames::{self, Heard, Template},
    grpc::{ANSWER_DEADLINE, Outgoing, Raw, Session},
};
use crate::{
    clock::nanos,
    measure::latency::{Latency, Recorder},
    node::{Endpoints, Node},
    peers::{figures::Figures, workload::Extent},
};

/// How long a request and its reply take, one at a time: QoS 0 from inbox to inbox and back.
pub async fn run(node: Node, extent: Extent) -> Result<Figures, String> {
    let (asking, answering) = (format!("{PRODUCER}-0"), format!("{CONSUMER}-0"));
    let peer = |agent: &str, to: &str| Peer::open(node.endpoints.clone(), agent.into(), to.into(), extent.body_bytes);
    let (ready, is_ready) = oneshot::channel();
    let responding = on_a_thread(respond(peer(&answering, &asking), ready))?;
    let asking = ask(peer(&asking, &answering), extent);
    let asked = async {
        if is_ready.await.is_err() {
            // Why it is not tells the responder's own end.
            pending::<()>().await;
        }
        ended(on_a_thread(asking)?).await
    };
    tokio::select! {
        biased;
        failed = ended(responding) => match failed {
            Err(error) => Err(format!("the responder: {error}")),
        },
        asked = asked => match asked {
            Ok(latency) => Ok(Figures::of_latency(&latency)),
            Err(error) => Err(format!("the requester: {error}")),
        },
    }
}

/// Sends every request back.
async fn respond(
    opening: impl Future<Output = Result<Peer, String>>,
    ready: oneshot::Sender<()>,
) -> Result<Infallible, String> {
    let mut peer = opening.await?;
    // Nobody waits for it any more where the other side has failed.
    let _ = ready.send(());
    loop {
        for request in peer.delivered().await? {
            peer.send(request.ok_or("a request without its number")?);
        }
    }
}

/// One request after the other, until the time is over.
async fn ask(opening: impl Future<Output = Result<Peer, String>>, extent: Extent) -> Result<Latency, String> {
    let mut peer = opening.await?;
    let (begun, mut recorder) = (monotonic(), Recorder::default());
    for number in 0.. {
        let at = monotonic();
        if at - begun > extent.warm_up + extent.time {
            break;
        }
        peer.send(number);
        let replies = timeout(ANSWER_DEADLINE, peer.delivered()).await;
        let replies = replies.map_err(|_late| format!("no reply to request {number} in time"))??;
        if replies != [Some(number)] {
            return Err(format!("request {number} was answered by replies to {replies:?}"));
        }
        if at - begun > extent.warm_up {
            recorder.record(nanos(monotonic() - at));
        }
    }
    Ok(recorder.summary())
}

/// Does this on a thread of its own, until nobody waits for it any more.
fn on_a_thread<T: Send + 'static>(
    work: impl Future<Output = Result<T, String>> + Send + 'static,
) -> Result<oneshot::Receiver<Result<T, String>>, String> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let (mut done, outcome) = oneshot::channel();
    thread::spawn(move || {
        runtime.block_on(async {
            let ended = tokio::select! {
                ended = work => ended,
                () = done.closed() => return,
            };
            // Whoever stopped waiting needs no outcome.
            let _ = done.send(ended);
        });
    });
    Ok(outcome)
}

async fn ended<T>(outcome: oneshot::Receiver<Result<T, String>>) -> Result<T, String> {
    outcome.await.unwrap_or_else(|_gone| Err("its thread panicked".into()))
}

/// One side.
struct Peer {
    session: Session<Heard>,
    frames: mpsc::UnboundedSender<Outgoing>,
    template: Arc<Template>,
}

impl Peer {
    async fn open(endpoints: Endpoints, agent: String, to: String, body_bytes: usize) -> Result<Self, String> {
        // Bounded by the one message that is under way.
        let (frames, queued) = mpsc::unbounded_channel();
        let attach = stream::iter([Outgoing::Frame(frames::attach(&agent, InboxMode::Open))]);
        let opening = async {
            let mut session = Session::open(&endpoints, attach.chain(of(queued)), Raw(frames::heard)).await?;
            match session.next().await? {
                Heard::Welcome => Ok(session),
                heard => Err(format!("{agent} was told {heard:?}")),
            }
        };
        let session = timeout(ANSWER_DEADLINE, opening).await;
        Ok(Self {
            session: session.map_err(|_late| format!("{agent} was not welcomed in time"))??,
            frames,
            template: Template::request(&agent, &format!("agent:{to}"), body_bytes).into(),
        })
    }

    fn send(&self, number: u64) {
        let template = self.template.clone();
        // Where the stream is gone, the next read says why.
        let _gone = self.frames.send(Outgoing::Messages {
            template,
            first: number,
        });
    }

    /// Waits for messages; their numbers.
    async fn delivered(&mut self) -> Result<Vec<Option<u64>>, String> {
        match self.session.next().await? {
            Heard::Correlations(numbers) => Ok(numbers),
            heard => Err(format!("was told {heard:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_ends_when_nobody_waits_for_it_and_tells_its_outcome_to_who_does() {
        let told = on_a_thread(async { Err::<(), _>("why".to_owned()) }).expect("a thread");
        assert_eq!(ended(told).await, Err("why".to_owned()));
        let (held, is_gone) = oneshot::channel::<()>();
        let endless = on_a_thread(async move {
            let _held = held;
            pending::<Result<(), String>>().await
        });
        drop(endless);
        assert!(is_gone.await.is_err(), "what the thread held went with it");
    }

    #[tokio::test]
    async fn a_thread_that_panics_is_an_error() {
        let panics = on_a_thread(async { panic!("on purpose") as Result<(), String> }).expect("a thread");
        assert_eq!(ended(panics).await, Err("its thread panicked".to_owned()));
    }
}
