//! A greeted connection: what each control frame does, streams as they are opened, and the end.
//!
//! One task reads the control stream and runs the writer; each stream of batches has one of its own, which waits while the
//! fabric takes no more, and holds back that stream alone. Start at [`serve`].

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use quinn::Connection;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{
    Edge,
    connection::carry,
    problem::{failures, problem},
    publish,
    writer::{Attached, HandOver, Writer},
};
use crate::{
    frame::{AgentId, TopicFilter, excerpt},
    native::{
        BATCH_STREAMS_MAX, Close,
        control::{self, ToClient, ToNode, Welcome},
        lanes::Lanes,
        reader::{ControlReader, ReadFailure},
    },
    router::{
        Publisher, SessionHandle,
        error::FabricError,
        surface::{Attach, DeliveryId, Inbox, Lease, Principal, Protocol, Refusal, SessionQueue, Tag, Window},
    },
};

/// Frames for the writer that it has not taken: beyond it reading waits, and with it the client.
const HAND_OVERS_MAX: usize = 32;
/// Settles of a session that wait for their turn; beyond it reading waits.
const SETTLES_MAX: usize = 64;
/// Settles of a session whose commits are under way at once: one at a time would hold acknowledgements to one frame a commit.
const SETTLES_AT_ONCE: usize = 16;
/// Longest wait that a receiver may ask for before a redelivery, in milliseconds: 12 h. A longer one is taken as this.
const RETRY_AFTER_MS_MAX: u64 = 12 * 3600 * 1000;

/// A connection whose client is known.
#[derive(Debug)]
pub(super) struct Greeted {
    pub principal: Principal,
    pub control: ControlReader,
    pub lanes: Lanes,
}

/// Ids to be settled, and under which tag to answer.
struct Settle {
    tag: Tag,
    ids: Vec<DeliveryId>,
    refusal: Option<Refusal>,
}

/// Serves a greeted connection until it ends.
pub(super) async fn serve(edge: &Arc<Edge>, connection: &Connection, greeted: Box<Greeted>) -> Result<(), Close> {
    let Greeted {
        principal,
        control,
        lanes,
    } = *greeted;
    // flume: an idle session keeps no room for what it does not hand over.
    let (hand_over, from_reader) = flume::bounded(HAND_OVERS_MAX);
    let from_reader = from_reader.into_stream();
    let (publisher, answers) = edge.door.fabric.publisher(principal.clone(), Protocol::Quic);
    let stop = CancellationToken::new();
    let writer = Writer::new(edge, lanes, from_reader, answers, stop.clone());
    // Boxed, as the writer is.
    let reader = Box::new(Reader {
        edge: Arc::clone(edge),
        connection: connection.clone(),
        control,
        principal,
        publisher,
        hand_over,
        session: None,
        settles: None,
        streams: JoinSet::new(),
        streams_taken: 0,
    });
    let mut writing = std::pin::pin!(writer.run());
    let mut reading = std::pin::pin!(reader.run(stop));
    tokio::select! {
        biased;
        written = &mut writing => return written,
        read = &mut reading => match read {
            // The client said its last, or the writer asked to stop: what is under way is answered yet.
            Ok(()) => {}
            Err(Some(close)) => return Err(close),
            Err(None) => return Ok(()),
        },
    }
    writing.await
}

/// The reading side.
struct Reader {
    edge: Arc<Edge>,
    connection: Connection,
    control: ControlReader,
    principal: Principal,
    publisher: Publisher,
    hand_over: flume::Sender<HandOver>,
    session: Option<SessionHandle>,
    settles: Option<mpsc::Sender<Settle>>,
    streams: JoinSet<Result<(), Option<Close>>>,
    streams_taken: u32,
}

/// How reading goes on after a frame.
enum Next {
    Read,
    /// The client opened so many streams of batches; once all are read, the end.
    Finish {
        streams: u32,
    },
}

impl Reader {
    /// Reads until the client has said its last, or `stop`. `Err(None)`: the connection is over by itself.
    async fn run(mut self: Box<Self>, stop: CancellationToken) -> Result<(), Option<Close>> {
        let mut finish = None;
        loop {
            if finish.is_some_and(|opened| self.streams_taken >= opened) && self.streams.is_empty() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                frame = self.control.next(), if finish.is_none() => {
                    let frame = frame.map_err(|error: ReadFailure| error.close())?;
                    // The client is done without saying so: what it sent so far is answered.
                    let frame = frame.unwrap_or(ToNode::Detach { streams: u8::try_from(self.streams_taken).unwrap_or(u8::MAX) });
                    if let Next::Finish { streams } = self.handle(frame).await? {
                        finish = Some(streams);
                        self.hand_over(HandOver::Finish).await;
                    }
                }
                stream = self.connection.accept_uni(), if self.streams_taken < BATCH_STREAMS_MAX => {
                    let stream = stream.map_err(|_| None)?;
                    self.streams_taken += 1;
                    self.streams.spawn(publish::read(Arc::clone(&self.edge), stream, self.publisher.fork()));
                }
                calls = self.connection.accept_bi() => {
                    let (send, receive) = calls.map_err(|_| None)?;
                    tokio::spawn(carry(Arc::clone(&self.edge), self.connection.remote_address(), send, receive));
                }
                Some(read) = self.streams.join_next() => match read {
                    Ok(read) => read?,
                    Err(panic) => {
                        tracing::error!(%panic, "a stream of batches ended by a fault of the node");
                        return Err(Some(Close::Batch));
                    }
                },
            }
        }
    }

    async fn hand_over(&self, hand_over: HandOver) {
        // The writer is gone where the connection is; the next read notices.
        let _ = self.hand_over.send_async(hand_over).await;
    }

    async fn say(&self, frame: ToClient) {
        self.hand_over(HandOver::Frame(Box::new(frame))).await;
    }

    fn attached(&self) -> Result<&SessionHandle, Option<Close>> {
        self.session.as_ref().ok_or(Some(Close::Control))
    }

    async fn handle(&mut self, frame: ToNode) -> Result<Next, Option<Close>> {
        match frame {
            ToNode::Hello { .. } => return Err(Some(Close::Control)),
            // Boxed: once in a session, and larger than the rest of it.
            ToNode::Attach(attach) => Box::pin(self.attach(attach)).await?,
            ToNode::Ack { tag, ids } => self.settle(tag, ids, None).await?,
            ToNode::Nack { tag, refusal, ids } => self.settle(tag, ids, Some(refusal_of(refusal))).await?,
            ToNode::Credit { messages, bytes } => self.attached()?.set_window(Window { messages, bytes }),
            ToNode::Subscribe { tag, filters } => {
                let session = self.attached()?;
                let outcome = match parse(&filters) {
                    Ok(filters) => session.subscribe(filters).await,
                    Err(error) => Err(error),
                };
                self.subscribed(tag, outcome).await;
            }
            ToNode::Unsubscribe { tag, filters } => {
                let session = self.attached()?;
                let outcome = match parse(&filters) {
                    Ok(filters) => session.unsubscribe(filters).await,
                    Err(error) => Err(error),
                };
                self.subscribed(tag, outcome).await;
            }
            ToNode::Detach { streams } if u32::from(streams) > BATCH_STREAMS_MAX => return Err(Some(Close::Control)),
            ToNode::Detach { streams } => {
                return Ok(Next::Finish {
                    streams: streams.into(),
                });
            }
        }
        Ok(Next::Read)
    }

    // --- attaching ---------------------------------------------------------------------------------------------------

    async fn attach(&mut self, attach: control::Attach) -> Result<(), Option<Close>> {
        if self.session.is_some() {
            return Err(Some(Close::Control));
        }
        if !attach.resume.is_none() {
            self.edge.sessions.end(attach.resume).await;
        }
        let attached = match wish(attach) {
            Ok(wish) => {
                let window = wish.window;
                let attached = self.edge.door.fabric.attach(&self.principal, wish).await;
                attached.map(|session| (session, window))
            }
            Err(error) => Err(error),
        };
        match attached {
            Ok(((handle, receiver), window)) => {
                let entry = self.edge.sessions.enter(self.connection.clone());
                let config = self.edge.door.fabric.config();
                let welcome = Welcome {
                    node: config.node_id.clone(),
                    reply_address: handle.reply_address().to_string(),
                    window_messages: window.messages.min(config.in_flight_messages_max),
                    window_bytes: window.bytes.min(config.in_flight_bytes_max),
                    resume: entry.key,
                };
                self.session = Some(handle.clone());
                let attached = Attached {
                    welcome,
                    handle,
                    receiver,
                    entry,
                };
                self.hand_over(HandOver::Attached(Box::new(attached))).await;
            }
            Err(error) => self.hand_over(HandOver::Refuse(Box::new(problem(&error)))).await,
        }
        Ok(())
    }

    async fn subscribed(&self, tag: Tag, outcome: Result<(), FabricError>) {
        let problem = outcome.err().map(|error| problem(&error));
        if tag != 0 || problem.is_some() {
            self.say(ToClient::Subscribed { tag, problem }).await;
        }
    }

    // --- settling ----------------------------------------------------------------------------------------------------

    async fn settle(
        &mut self,
        tag: Tag,
        ids: Vec<control::DeliveryId>,
        refusal: Option<Refusal>,
    ) -> Result<(), Option<Close>> {
        let handle = self.attached()?.clone();
        let id = |id: control::DeliveryId| DeliveryId {
            shard: id.shard,
            seq: id.seq,
            lease: Lease(id.lease),
        };
        let ids = ids.into_iter().map(id).collect();
        if tag == 0 && refusal.is_none() {
            handle.ack_unanswered(ids);
            return Ok(());
        }
        let settles = match &self.settles {
            Some(settles) => settles,
            None => &*self.settles.insert(start_settling(handle, self.hand_over.clone())),
        };
        // The task ends only after this sender is gone.
        let _ = settles.send(Settle { tag, ids, refusal }).await;
        Ok(())
    }
}

/// A task of its own, so that waiting for a commit holds back neither reading nor other settles. Answers in order.
fn start_settling(handle: SessionHandle, hand_over: flume::Sender<HandOver>) -> mpsc::Sender<Settle> {
    let (settles, queue) = mpsc::channel(SETTLES_MAX);
    tokio::spawn(async move {
        let mut settled = ReceiverStream::new(queue)
            .map(|settle| settle_one(handle.clone(), settle))
            .buffered(SETTLES_AT_ONCE);
        while let Some((tag, failures)) = settled.next().await {
            if tag != 0 {
                let frame = HandOver::Frame(Box::new(ToClient::Settled { tag, failures }));
                // The writer is gone where the connection is; what is queued is settled all the same.
                let _ = hand_over.send_async(frame).await;
            }
        }
    });
    settles
}

async fn settle_one(handle: SessionHandle, settle: Settle) -> (Tag, Vec<control::SettleFailure>) {
    let outcomes = match settle.refusal {
        None => handle.ack(&settle.ids).await,
        Some(refusal) => handle.nack(&settle.ids, refusal).await,
    };
    (settle.tag, failures(outcomes))
}

fn refusal_of(refusal: control::Refusal) -> Refusal {
    match refusal {
        control::Refusal::Retry => Refusal::Retry(None),
        control::Refusal::RetryAfter { ms } => Refusal::Retry(Some(Duration::from_millis(ms.min(RETRY_AFTER_MS_MAX)))),
        control::Refusal::Release => Refusal::Release,
        control::Refusal::DeadLetter => Refusal::DeadLetter,
    }
}

fn parse(filters: &[String]) -> Result<Vec<TopicFilter>, FabricError> {
    let read = |text: &String| {
        TopicFilter::new(text)
            .map_err(|error| FabricError::invalid("filters", format!("has {:?}, which {error}", excerpt(text))))
    };
    filters.iter().map(read).collect()
}

fn wish(attach: control::Attach) -> Result<Attach, FabricError> {
    let agent = AgentId::new(&attach.agent).map_err(|error| FabricError::invalid("agent", error.to_string()))?;
    Ok(Attach {
        agent,
        protocol: Protocol::Quic,
        inbox: match attach.takes_inbox.is_on() {
            true => Inbox::Open,
            false => Inbox::Closed,
        },
        queue: match attach.durable_queue {
            none if none.is_empty() => SessionQueue::Ephemeral,
            token => SessionQueue::Durable(token),
        },
        window: Window {
            messages: attach.window_messages,
            bytes: attach.window_bytes,
        },
        visibility_timeout: (attach.visibility_timeout_ms > 0)
            .then(|| Duration::from_millis(attach.visibility_timeout_ms)),
    })
}
