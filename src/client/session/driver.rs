//! Keeps a session's stream: connects, reads what comes, reconnects with back-off.

use std::{collections::VecDeque, mem, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tonic::Streaming;
use uuid::Uuid;

use super::{
    Inbox, Reconnect, SessionOptions, SessionState,
    arrivals::{Arrival, Arrivals, RunArrival},
    outbound::{Outbound, RESUBSCRIBE_TAG},
    shared::{Shared, settler},
};
use crate::{
    client::{
        Client, Delivery, Error, Received,
        native::{
            self,
            inbound::{self, Incoming},
        },
        settle::Settler,
    },
    frame::{
        AgentId,
        batch::{self, Part},
    },
    rpc::{
        self, BATCH_MESSAGES, Gatherer, ITEM_MESSAGES_MAX, Parcel,
        v1::{self, ServerFrame, server_frame::Frame},
    },
    time::monotonic,
};

/// How long the server may take to open the stream and to answer the attach.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// QoS 0 deliveries that wait for the caller. Beyond it reading stops, or, while answers are awaited, they are dropped.
const UNSETTLED_DELIVERIES_MAX: usize = 4096;
/// A message unanswered for longer is not sent again: the fabric remembers accepted ones for ten minutes at least.
const RESEND_AGE_MAX: Duration = Duration::from_secs(9 * 60);
/// Batches of deliveries that may overtake the welcome. More are not lost packets any more but a server that sends none.
const EARLY_BATCHES_MAX: usize = 1_024;
/// How often a reader that waits for its caller looks whether answers are awaited by now.
const STALL_CHECK: Duration = Duration::from_millis(20);

/// What a session's caller needs: the shared state, its driver and the deliveries.
pub(super) type Opened = ((Arc<Shared>, JoinHandle<()>), Arc<Arrivals>);

/// Makes the first connection and starts the driver.
pub(super) async fn open(client: Client, agent: AgentId, options: SessionOptions) -> Result<Opened, Error> {
    options.check()?;
    // Acknowledged ones are bounded by the window; twice that, as a reconnect may find the old ones still there.
    let capacity = UNSETTLED_DELIVERIES_MAX + 2 * options.window_messages as usize;
    let arrivals = Arc::new(Arrivals::new(capacity));
    let shared = Arc::new(Shared::new(agent, options));
    let driver = Driver {
        client,
        shared: Arc::clone(&shared),
        arrivals: Arc::clone(&arrivals),
    };
    let connection = driver.connect().await?;
    let task = tokio::spawn(driver.run(connection));
    Ok(((shared, task), arrivals))
}

struct Driver {
    client: Client,
    shared: Arc<Shared>,
    arrivals: Arc<Arrivals>,
}

struct Connection {
    epoch: u64,
    inbound: Inbound,
    /// Deliveries that overtook the welcome; read first.
    early: VecDeque<Incoming>,
}

impl Connection {
    async fn next(&mut self) -> Result<Option<Incoming>, Error> {
        match self.early.pop_front() {
            Some(incoming) => Ok(Some(incoming)),
            None => self.inbound.next().await,
        }
    }
}

/// The server's answer to an attach.
#[derive(Default)]
struct Welcomed {
    node: String,
    early: VecDeque<Incoming>,
}

/// What the connection brings, by whichever protocol.
enum Inbound {
    Grpc(Box<Streaming<ServerFrame>>),
    Quic {
        inbound: Box<inbound::Inbound>,
        _writer: AbortOnDropHandle,
    },
}

/// A task that ends with the connection that it writes.
struct AbortOnDropHandle(JoinHandle<()>);

impl Drop for AbortOnDropHandle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Inbound {
    async fn next(&mut self) -> Result<Option<Incoming>, Error> {
        match self {
            Self::Grpc(stream) => match stream.message().await?.map(|frame| frame.frame) {
                Some(Some(frame)) => Ok(Some(Incoming::Frame(frame))),
                Some(None) => Err(Error::protocol("a frame is empty or of an unknown kind")),
                None => Ok(None),
            },
            Self::Quic { inbound, .. } => inbound.next().await,
        }
    }
}

/// Ends a connection that did not come to be, whether by an error or because nobody waits for it any more.
struct EndEpoch<'a>(&'a Shared);

impl Drop for EndEpoch<'_> {
    fn drop(&mut self) {
        self.0.end_epoch();
    }
}

/// How a connection ended.
enum End {
    /// For good.
    Closed { reason: String },
    /// To be made again, not before the wait.
    Lost { cause: String, wait: Duration },
}

/// Closes the session for its callers however the driver ends: by itself, aborted or by a panic.
struct Finish(Arc<Shared>, Arc<Arrivals>);

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.finish("its owner closed it");
        self.1.close();
    }
}

impl Driver {
    async fn run(self, mut connection: Connection) {
        let finish = Finish(Arc::clone(&self.shared), Arc::clone(&self.arrivals));
        loop {
            let reason = match self.read(&mut connection).await {
                End::Closed { reason } => reason,
                End::Lost { cause, .. } if self.shared.is_closing() && self.shared.is_drained() => cause,
                End::Lost { cause, wait } => match self.reconnect(cause, wait).await {
                    Ok(again) => {
                        connection = again;
                        continue;
                    }
                    Err(error) => error.to_string(),
                },
            };
            finish.0.finish(&reason);
            return;
        }
    }

    // --- connecting --------------------------------------------------------------------------------------------------

    async fn connect(&self) -> Result<Connection, Error> {
        let epoch = self.shared.begin_epoch();
        let unless_opened = EndEpoch(&self.shared);
        self.shared.give_up_old(RESEND_AGE_MAX);
        let opening = async {
            let mut inbound = self.open(epoch).await?;
            let welcomed = match self.shared.options.inbox {
                Inbox::Open | Inbox::Closed => self.welcome(&mut inbound).await?,
                Inbox::Unattached => Welcomed::default(),
            };
            Ok((inbound, welcomed))
        };
        let (inbound, Welcomed { node, early }) = timeout(WELCOME_TIMEOUT, opening)
            .await
            .unwrap_or(Err(Error::Timeout(WELCOME_TIMEOUT)))?;
        mem::forget(unless_opened);
        self.shared.state.send_replace(SessionState::Connected { node });
        Ok(Connection { epoch, inbound, early })
    }

    /// Opens the stream, or the connection, and sets its writer to work.
    async fn open(&self, epoch: u64) -> Result<Inbound, Error> {
        let Some(node) = &self.client.node else {
            let outbound = Outbound::new(&self.shared, epoch, BATCH_MESSAGES);
            let stream = self.client.messaging().session(outbound).await?.into_inner();
            return Ok(Inbound::Grpc(Box::new(stream)));
        };
        let greeted = node.connect().await?;
        let outbound = Outbound::new(&self.shared, epoch, ITEM_MESSAGES_MAX);
        let resume = self.shared.lock().resume;
        let writing = native::outbound::write(outbound, greeted.lanes, resume, self.client.frame_compression());
        let writer = AbortOnDropHandle(tokio::spawn(writing));
        let inbound = inbound::Inbound::new(greeted.connection, greeted.control).await?;
        Ok(Inbound::Quic {
            inbound: Box::new(inbound),
            _writer: writer,
        })
    }

    /// Reads until the attach is answered. What was sent again behind it may be answered before, and over QUIC deliveries come
    /// on streams of their own, which wait for no other.
    async fn welcome(&self, inbound: &mut Inbound) -> Result<Welcomed, Error> {
        let mut early = VecDeque::new();
        loop {
            let frame = match inbound.next().await? {
                Some(Incoming::Frame(frame)) => frame,
                Some(batch @ Incoming::Batch(_)) if early.len() < EARLY_BATCHES_MAX => {
                    early.push_back(batch);
                    continue;
                }
                Some(Incoming::Batch(_)) => return Err(Error::protocol("deliveries come and no welcome")),
                None => {
                    return Err(Error::Lost {
                        cause: "the server ended the stream".into(),
                    });
                }
            };
            match frame {
                Frame::Welcome(welcome) => {
                    let mut shared = self.shared.lock();
                    shared.reply_address = welcome.reply_address.parse().ok();
                    if let Inbound::Quic { inbound, .. } = inbound {
                        shared.resume = inbound.resume;
                    }
                    return Ok(Welcomed {
                        node: welcome.node,
                        early,
                    });
                }
                Frame::Receipts(receipts) => self.shared.answer(receipts.receipts),
                Frame::Goodbye(goodbye) if goodbye.reconnect => return Err(Error::Lost { cause: goodbye.reason }),
                Frame::Goodbye(goodbye) => return Err(Error::closed(goodbye.reason)),
                _ => return Err(Error::protocol("a session begins with something else than a welcome")),
            }
        }
    }

    /// Tries until it succeeds, an error says that it never will, or the patience is over.
    async fn reconnect(&self, mut cause: String, mut least: Duration) -> Result<Connection, Error> {
        let policy = self.shared.options.reconnect;
        let lost_at = monotonic();
        for attempt in 1.. {
            self.shared.state.send_replace(SessionState::Reconnecting {
                attempt,
                cause: cause.clone(),
            });
            sleep(wait_before(attempt, &policy).max(least)).await;
            match self.connect().await {
                Ok(connection) => {
                    self.shared.counters.reconnected();
                    return Ok(connection);
                }
                Err(error) if !error.is_retryable() => return Err(error),
                Err(error) => {
                    least = error.retry_after().unwrap_or_default();
                    cause = error.to_string();
                }
            }
            if policy
                .give_up_after
                .is_some_and(|patience| monotonic().saturating_duration_since(lost_at) > patience)
            {
                break;
            }
        }
        Err(Error::Lost { cause })
    }

    // --- reading -----------------------------------------------------------------------------------------------------

    async fn read(&self, connection: &mut Connection) -> End {
        let settler = settler(&self.shared, connection.epoch);
        loop {
            let incoming = match connection.next().await {
                Ok(Some(incoming)) => incoming,
                Ok(None) if self.shared.is_closing() => {
                    return End::Closed {
                        reason: "its owner closed it".into(),
                    };
                }
                Ok(None) => return lost("the server ended the stream"),
                Err(error) => return end_of(error),
            };
            let end = match incoming {
                Incoming::Frame(frame) => self.handle(frame, &settler, connection.epoch).await,
                Incoming::Batch(batch) => self.unpack(batch, &settler, connection.epoch).await.err(),
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    async fn unpack(&self, mut bytes: Bytes, settler: &Settler, epoch: u64) -> Result<(), End> {
        let mut arrivals = Vec::new();
        let decoded = batch::decode(&mut bytes, |part| {
            arrivals.push(match part {
                Part::Frame(item) => {
                    let delivery = Delivery::of_frame(item.frame, item.mark, item.queue, settler.clone());
                    Arrival::One(Box::new(delivery))
                }
                Part::Run { run, queue } => Arrival::Run(Box::new(RunArrival {
                    run,
                    queue: queue.into(),
                    settler: settler.clone(),
                })),
            });
        });
        let count = decoded.map_err(|error| End::Closed {
            reason: Error::protocol(error.to_string()).to_string(),
        })?;
        self.shared.counters.received(count);
        for arrival in arrivals {
            self.take(arrival, epoch).await;
        }
        Ok(())
    }

    async fn handle(&self, frame: Frame, settler: &Settler, epoch: u64) -> Option<End> {
        match frame {
            Frame::Deliveries(batch) => match batch.into_vec() {
                Ok(deliveries) => self.deliver(deliveries, settler, epoch).await.err(),
                Err(error) => Some(End::Closed {
                    reason: Error::protocol(error.to_string()).to_string(),
                }),
            },
            Frame::Receipts(receipts) => {
                self.shared.answer(receipts.receipts);
                None
            }
            Frame::Settled(settled) => {
                self.shared.settled(settled);
                None
            }
            Frame::Subscribed(v1::Subscribed {
                tag: RESUBSCRIBE_TAG,
                problem,
            }) => problem.map(|problem| end_of(problem.into())),
            Frame::Subscribed(subscribed) => {
                self.shared.subscribed(subscribed.tag, subscribed.problem);
                None
            }
            Frame::Goodbye(goodbye) if goodbye.reconnect => Some(End::Lost {
                cause: goodbye.reason,
                wait: Duration::from_millis(goodbye.reconnect_after_ms),
            }),
            Frame::Goodbye(goodbye) => Some(End::Closed { reason: goodbye.reason }),
            Frame::Welcome(_) => Some(End::Closed {
                reason: "the server sent a frame that this client does not understand; the versions may not fit".into(),
            }),
        }
    }

    async fn deliver(&self, deliveries: Vec<rpc::Delivery>, settler: &Settler, epoch: u64) -> Result<(), End> {
        self.shared.counters.received(deliveries.len());
        let mut unpacking = Unpacking::new(settler, deliveries.len());
        for delivery in deliveries {
            let arrivals = unpacking.add(delivery).map_err(|error| End::Closed {
                reason: error.to_string(),
            })?;
            for arrival in arrivals.into_iter().flatten() {
                self.take(arrival, epoch).await;
            }
        }
        if let Some(run) = unpacking.finish() {
            self.take(run, epoch).await;
        }
        Ok(())
    }

    async fn take(&self, arrival: Arrival, epoch: u64) {
        let waiter = self.shared.reply_waiter(arrival.correlation());
        let (first, rest) = match waiter {
            Some(waiter) => {
                let (first, rest) = arrival.split_first();
                (Some((waiter, first)), rest)
            }
            None => (None, Some(arrival)),
        };
        if let Some((waiter, delivery)) = first {
            if let Some(id) = delivery.delivery_id() {
                self.shared.try_ack(epoch, id);
            }
            // The caller may have run out of patience; then the reply has nobody left.
            let _ = waiter.send(delivery.into_message());
        }
        if let Some(rest) = rest {
            self.hand_over(rest).await;
        }
    }

    /// Waits for room, which holds back the server. Only where answers are awaited too, which come by this same reader, are
    /// QoS 0 deliveries dropped instead: the caller might wait for the answer before it receives again.
    async fn hand_over(&self, arrival: Arrival) {
        let mut arrival = arrival;
        while let Err(refused) = self.arrivals.try_push(arrival) {
            let awaited = !self.shared.is_drained();
            if awaited && refused.is_unsettled() {
                return self.shared.counters.received_dropped(refused.messages());
            }
            arrival = refused;
            // Answers may be awaited by the next look.
            let _ = timeout(STALL_CHECK, self.arrivals.room()).await;
        }
    }
}

/// Deliveries that came one by one on their way into pieces: QoS 0 messages that are alike make runs, as over QUIC.
struct Unpacking<'a> {
    settler: &'a Settler,
    /// All of the open run's deliveries but the messages, which the gatherer has.
    open: Option<rpc::Delivery>,
    gatherer: Gatherer,
    left: usize,
}

impl<'a> Unpacking<'a> {
    fn new(settler: &'a Settler, deliveries: usize) -> Self {
        Self {
            settler,
            open: None,
            gatherer: Gatherer::default(),
            left: deliveries,
        }
    }

    /// Adds a delivery; returns what is complete with that, in order.
    fn add(&mut self, mut delivery: rpc::Delivery) -> Result<[Option<Arrival>; 2], Error> {
        self.left = self.left.saturating_sub(1);
        let bytes = match &delivery.message {
            rpc::Content::Encoded(bytes) if delivery.id.is_none() => bytes.clone(),
            _ => {
                let one = Delivery::new(delivery, self.settler.clone())?;
                return Ok([self.finish(), Some(Arrival::One(Box::new(one)))]);
            }
        };
        delivery.message = rpc::Content::Missing;
        let is_alike = |open: &rpc::Delivery| {
            (open.accepted_at_ms, open.expires_at_ms) == (delivery.accepted_at_ms, delivery.expires_at_ms)
                && (open.attempt, open.redelivered) == (delivery.attempt, delivery.redelivered)
                && open.queue == delivery.queue
        };
        if self.open.as_ref().is_some_and(is_alike) && self.gatherer.add(&bytes) {
            return Ok([None, None]);
        }
        let before = self.finish();
        let received = Received::new(Parcel::Encoded(bytes.clone()))?;
        let frame = received.into_frame(&delivery);
        self.gatherer.begin(bytes, frame, self.left);
        self.open = Some(delivery);
        Ok([before, None])
    }

    /// The open run.
    fn finish(&mut self) -> Option<Arrival> {
        let (run, open) = (self.gatherer.finish()?, self.open.take()?);
        Some(Arrival::Run(Box::new(RunArrival {
            run,
            queue: open.queue,
            settler: self.settler.clone(),
        })))
    }
}

fn lost(cause: &str) -> End {
    End::Lost {
        cause: cause.into(),
        wait: Duration::ZERO,
    }
}

fn end_of(error: Error) -> End {
    if error.is_retryable() {
        End::Lost {
            wait: error.retry_after().unwrap_or_default(),
            cause: error.to_string(),
        }
    } else {
        End::Closed {
            reason: error.to_string(),
        }
    }
}

/// Doubles from the first wait to the longest, with up to a half taken off at random so that many clients that lost one
/// server do not come back as one.
fn wait_before(attempt: u32, policy: &Reconnect) -> Duration {
    let doubled = policy.first.saturating_mul(1 << attempt.saturating_sub(1).min(20));
    let full = doubled.min(policy.max);
    let random = u32::from_le_bytes(
        Uuid::now_v7().as_bytes()[12..]
            .try_into()
            .expect("a UUID has 16 bytes, the last 4 of version 7 random"),
    );
    full - (full / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_lose_at_most_a_half() {
        let policy = Reconnect::default();
        for attempt in [1, 2, 5, 9, 30, u32::MAX] {
            let full = Duration::from_millis(100 << (attempt - 1).min(15)).min(policy.max);
            for _ in 0..100 {
                let wait = wait_before(attempt, &policy);
                assert!(
                    wait <= full && wait >= full / 2,
                    "attempt {attempt}: {wait:?} of {full:?}"
                );
            }
        }
    }
}
