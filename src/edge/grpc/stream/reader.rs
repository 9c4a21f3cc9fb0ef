//! The reading side of a stream: what each client frame does, and what breaks the rules.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{Acks, Attached, HandOver};
use crate::{
    edge::{
        auth::proven_agent,
        counters::Counters,
        grpc::{
            Door,
            error::{invalid, precondition, problem, status},
            messaging::{check_count, frame},
            registry::filters,
            show,
        },
    },
    frame::{AgentId, Frame, Qos},
    router::{
        Publisher, SessionHandle,
        error::FabricError,
        surface::{Attach, DeliveryId, Inbox, Principal, Protocol, Refusal, Sending, SessionQueue, Tag, Window},
    },
    rpc::{
        Gatherer, Parcel, SendFrame,
        convert::{FieldError, known, optional, required},
        v1::{self, client_frame, server_frame},
    },
};

/// Settles of a stream that wait for their turn; beyond it the reader waits.
const SETTLES_MAX: usize = 64;
/// Settles of a stream whose commits are under way at once: one at a time would hold acknowledgements to one frame a commit.
const SETTLES_AT_ONCE: usize = 16;
/// Why the client's own end of a session is called so.
const DETACHED: &str = "detached";

/// Ids to be settled, and under which tag to answer; 0: no answer.
struct Settle {
    tag: Tag,
    ids: Vec<DeliveryId>,
    refusal: Option<Refusal>,
}

/// A session's reading side.
struct Session {
    handle: SessionHandle,
    acks: Acks,
    /// Begun by the first settle that is answered: most sessions never ask for one, and an idle one stays small.
    settles: Option<mpsc::Sender<Settle>>,
}

/// How reading goes on after a frame.
enum Next {
    Read,
    Finish(Option<Box<v1::Goodbye>>),
}

pub(super) struct Reader {
    inbound: Streaming<v1::ClientFrame>,
    door: Door,
    principal: Principal,
    publisher: Publisher,
    hand_over: mpsc::Sender<HandOver>,
    session: Option<Session>,
    /// Frames on their way to the publisher; kept for its memory.
    batch: Vec<Sending>,
}

impl Reader {
    pub(super) fn new(
        inbound: Streaming<v1::ClientFrame>,
        door: Door,
        principal: Principal,
        publisher: Publisher,
        hand_over: mpsc::Sender<HandOver>,
    ) -> Box<Self> {
        // Boxed: as an argument of its future it would be there twice.
        Box::new(Self {
            inbound,
            door,
            principal,
            publisher,
            hand_over,
            session: None,
            batch: Vec::new(),
        })
    }

    /// Reads until the client or the writer ends the stream. Dropping the publisher then lets the answers run out.
    pub(super) async fn run(mut self: Box<Self>, stop: CancellationToken) {
        loop {
            let item = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                item = self.inbound.message() => item,
            };
            let end = match item {
                Ok(Some(frame)) => match self.handle(frame.frame).await {
                    Ok(Next::Read) => continue,
                    Ok(Next::Finish(goodbye)) => HandOver::Finish(goodbye),
                    Err(status) => HandOver::Fail(status),
                },
                Ok(None) if self.delivers_on() => return,
                Ok(None) => HandOver::Finish(None),
                Err(status) => HandOver::Fail(too_large_by_its_name(status)),
            };
            // The writer is gone where the connection is.
            let _ = self.hand_over.send(end).await;
            return;
        }
    }

    /// The client closed its half, but nothing more is needed of it.
    fn delivers_on(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.acks == Acks::Writer)
    }

    async fn handle(&mut self, frame: Option<client_frame::Frame>) -> Result<Next, Status> {
        match frame {
            Some(client_frame::Frame::Send(send)) => self.send(send).await?,
            // Boxed: once in a session, and larger than the rest of it.
            Some(client_frame::Frame::Attach(attach)) => Box::pin(self.attach(attach)).await?,
            Some(client_frame::Frame::Ack(ack)) => self.settle(ack.tag, ack.ids, None).await?,
            Some(client_frame::Frame::Nack(nack)) => {
                let refusal = show::refusal(nack.refusal).map_err(wrong)?;
                self.settle(nack.tag, nack.ids, Some(refusal)).await?;
            }
            Some(client_frame::Frame::Credit(credit)) => {
                let window = Window {
                    messages: credit.messages,
                    bytes: credit.bytes,
                };
                self.attached()?.handle.set_window(window);
            }
            Some(client_frame::Frame::Subscribe(subscribe)) => {
                let handle = self.attached()?.handle.clone();
                let outcome = match filters(&subscribe.filters) {
                    Ok(filters) => handle.subscribe(filters).await,
                    Err(error) => Err(invalid(error)),
                };
                self.subscribed(subscribe.tag, outcome).await;
            }
            Some(client_frame::Frame::Unsubscribe(unsubscribe)) => {
                let handle = self.attached()?.handle.clone();
                let outcome = match filters(&unsubscribe.filters) {
                    Ok(filters) => handle.unsubscribe(filters).await,
                    Err(error) => Err(invalid(error)),
                };
                self.subscribed(unsubscribe.tag, outcome).await;
            }
            Some(client_frame::Frame::Detach(v1::Detach {})) => {
                self.attached()?;
                return Ok(Next::Finish(Some(Box::new(v1::Goodbye {
                    reason: DETACHED.into(),
                    reconnect_after_ms: 0,
                    reconnect: false,
                }))));
            }
            None => {
                return Err(wrong(FieldError::new(
                    "frame",
                    "is empty or of a kind that this version does not know",
                )));
            }
        }
        Ok(Next::Read)
    }

    async fn hand_over(&self, frame: server_frame::Frame) {
        // The writer is gone where the connection is; the next read notices.
        let _ = self.hand_over.send(HandOver::Frame(Box::new(frame))).await;
    }

    // --- sending -----------------------------------------------------------------------------------------------------

    async fn send(&mut self, send: SendFrame) -> Result<(), Status> {
        check_count("send.messages", send.messages.len()).map_err(wrong)?;
        let mode: v1::ReceiptMode = known("send.receipts", send.receipts).map_err(wrong)?;
        let sender = optional("send.from", &send.from, |text| AgentId::new(text)).map_err(wrong)?;
        Counters::add(&self.door.counters.messages_in, send.messages.len());
        let mut refused = Vec::new();
        let answers_all = mode == v1::ReceiptMode::All;
        let (mut gatherer, count) = (Gatherer::default(), send.messages.len());
        for (index, parcel) in send.messages.into_iter().enumerate() {
            let tag = send.first_tag.wrapping_add(index as Tag);
            if let Parcel::Encoded(bytes) = &parcel
                && gatherer.add(bytes)
            {
                continue;
            }
            let gathered = |run| Sending::Pass(None, run);
            match self.frame(parcel.clone(), sender.as_ref()) {
                Ok(frame) => match parcel {
                    Parcel::Encoded(bytes) if !answers_all && frame.envelope.qos() == Qos::AtMostOnce => {
                        self.batch
                            .extend(gatherer.begin(bytes, frame, count - index).map(gathered));
                    }
                    _ => {
                        self.batch.extend(gatherer.finish().map(gathered));
                        self.batch.push(Sending::one(tag, frame, answers_all));
                    }
                },
                Err(refusal) => refused.push(show::receipt((tag, Err(refusal)))),
            }
        }
        self.batch.extend(gatherer.finish().map(|run| Sending::Pass(None, run)));
        if !refused.is_empty() {
            Counters::add(&self.door.counters.errors, refused.len());
            self.hand_over(server_frame::Frame::Receipts(v1::Receipts { receipts: refused }))
                .await;
        }
        self.publisher.publish(&mut self.batch).await;
        Ok(())
    }

    fn frame(&self, parcel: Parcel, sender: Option<&AgentId>) -> Result<Frame, FabricError> {
        let attached = self.session.as_ref().map(|session| session.handle.agent());
        let sender = sender.or(attached).or_else(|| proven_agent(&self.principal));
        frame(&self.door.fabric, parcel, sender)
    }

    // --- receiving ---------------------------------------------------------------------------------------------------

    fn attached(&self) -> Result<&Session, Status> {
        self.session.as_ref().ok_or_else(unattached)
    }

    async fn attach(&mut self, attach: v1::Attach) -> Result<(), Status> {
        if self.session.is_some() {
            return Err(precondition(
                "the stream is attached already; open another stream for another session",
            ));
        }
        let acks = match known("attach.ack_mode", attach.ack_mode).map_err(wrong)? {
            v1::AckMode::Unspecified | v1::AckMode::Manual => Acks::Client,
            v1::AckMode::Auto => Acks::Writer,
        };
        let wish = wish(attach).map_err(wrong)?;
        let window = wish.window;
        let (handle, receiver) = self.door.fabric.attach(&self.principal, wish).await.map_err(status)?;
        let attached = Attached {
            welcome: self.welcome(&handle, window),
            handle: handle.clone(),
            receiver,
            acks,
        };
        // The writer is gone where the connection is; the next read notices.
        let _ = self.hand_over.send(HandOver::Attached(Box::new(attached))).await;
        self.session = Some(Session {
            handle,
            acks,
            settles: None,
        });
        Ok(())
    }

    fn welcome(&self, handle: &SessionHandle, window: Window) -> v1::Welcome {
        let config = self.door.fabric.config();
        v1::Welcome {
            agent: handle.agent().to_string(),
            node: config.node_id.clone(),
            reply_address: handle.reply_address().to_string(),
            window_messages: window.messages.min(config.in_flight_messages_max),
            window_bytes: window.bytes.min(config.in_flight_bytes_max),
            message_bytes_max: config.message_bytes_max as u64,
        }
    }

    async fn subscribed(&self, tag: Tag, outcome: Result<(), FabricError>) {
        let problem = outcome.err().map(|error| problem(&error));
        if tag != 0 || problem.is_some() {
            self.hand_over(server_frame::Frame::Subscribed(v1::Subscribed { tag, problem }))
                .await;
        }
    }

    // --- settling ----------------------------------------------------------------------------------------------------

    async fn settle(&mut self, tag: Tag, ids: Vec<v1::DeliveryId>, refusal: Option<Refusal>) -> Result<(), Status> {
        let Some(session) = &mut self.session else {
            return Err(unattached());
        };
        let ids = show::delivery_ids(ids).map_err(wrong)?;
        if tag == 0 && refusal.is_none() {
            session.handle.ack_unanswered(ids);
            return Ok(());
        }
        let begin = || start_settling(session.handle.clone(), self.hand_over.clone());
        let settles = session.settles.get_or_insert_with(begin);
        // The task ends only after this sender is gone.
        let _ = settles.send(Settle { tag, ids, refusal }).await;
        Ok(())
    }
}

/// A task of its own, so that waiting for a commit holds back neither reading nor other settles. Answers in order.
fn start_settling(handle: SessionHandle, hand_over: mpsc::Sender<HandOver>) -> mpsc::Sender<Settle> {
    let (settles, queue) = mpsc::channel(SETTLES_MAX);
    tokio::spawn(async move {
        let mut settled = ReceiverStream::new(queue)
            .map(|settle| settle_one(handle.clone(), settle))
            .buffered(SETTLES_AT_ONCE);
        while let Some(answer) = settled.next().await {
            if answer.tag != 0 {
                let frame = HandOver::Frame(Box::new(server_frame::Frame::Settled(answer)));
                // The writer is gone where the connection is; what is queued is settled all the same.
                let _ = hand_over.send(frame).await;
            }
        }
    });
    settles
}

async fn settle_one(handle: SessionHandle, settle: Settle) -> v1::Settled {
    let outcomes = match settle.refusal {
        None => handle.ack(&settle.ids).await,
        Some(refusal) => handle.nack(&settle.ids, refusal).await,
    };
    v1::Settled {
        tag: settle.tag,
        failures: show::failures(outcomes),
    }
}

fn unattached() -> Status {
    precondition("the stream is not attached; attach before anything but sending")
}

fn wish(attach: v1::Attach) -> Result<Attach, FieldError> {
    let inbox = match known("attach.inbox", attach.inbox)? {
        v1::InboxMode::Unspecified | v1::InboxMode::Open => Inbox::Open,
        v1::InboxMode::Closed => Inbox::Closed,
    };
    Ok(Attach {
        agent: required("attach.agent", &attach.agent, |text| AgentId::new(text))?,
        protocol: Protocol::Grpc,
        inbox,
        queue: match attach.durable_queue {
            none if none.is_empty() => SessionQueue::Ephemeral,
            token => SessionQueue::Durable(token),
        },
        window: Window {
            messages: match attach.window_messages {
                0 => Window::DEFAULT.messages,
                messages => messages,
            },
            bytes: match attach.window_bytes {
                0 => Window::DEFAULT.bytes,
                bytes => bytes,
            },
        },
        visibility_timeout: (attach.visibility_timeout_ms > 0)
            .then(|| Duration::from_millis(attach.visibility_timeout_ms)),
    })
}

fn wrong(error: FieldError) -> Status {
    status(invalid(error))
}

/// As `identify` does for single calls.
fn too_large_by_its_name(status: Status) -> Status {
    match status.code() {
        tonic::Code::OutOfRange => Status::resource_exhausted(status.message()),
        _ => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_wish_takes_the_defaults_and_an_unknown_number_none() {
        let attach = || v1::Attach {
            agent: "a".into(),
            ..Default::default()
        };
        let wished = wish(attach()).unwrap();
        assert_eq!((wished.inbox, wished.window), (Inbox::Open, Window::DEFAULT));
        assert_eq!(
            (wished.queue, wished.visibility_timeout),
            (SessionQueue::Ephemeral, None)
        );
        let unknown = v1::Attach { inbox: 3, ..attach() };
        assert_eq!(wish(unknown).unwrap_err().field, "attach.inbox");
        assert_eq!(wish(v1::Attach::default()).unwrap_err().field, "attach.agent");
    }
}
