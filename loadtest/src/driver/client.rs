//! Sessions of weft's own client library: gRPC and QUIC, by URL.

use std::{mem, time::Duration};

use tokio::{sync::Mutex, task::JoinSet};
use weft::{
    client::{Client, Delivery, Inbox, Link, Message, Session, SessionOptions, SettleOutcome},
    frame::{AgentId, TopicFilter},
};

use super::{Answer, Arrival, Failure, Outgoing, Receiving};
use crate::{head::Head, node::Endpoints, plan::Protocol};

/// Batches of acknowledgements under way at once.
const SETTLING_MAX: usize = 4;
/// Streams that a node lets one connection have; some are left for single calls.
const SESSIONS_PER_CONNECTION_MAX: usize = 100;

/// Connections of the client library, each shared by so many sessions.
#[derive(Debug)]
pub struct Connections {
    sessions_per_connection: usize,
    /// The connection that has room, with the sessions that it has.
    open: Mutex<Option<(Protocol, Client, usize)>>,
}

impl Connections {
    /// None yet.
    pub fn new(sessions_per_connection: usize) -> Self {
        Self {
            sessions_per_connection: sessions_per_connection.clamp(1, SESSIONS_PER_CONNECTION_MAX),
            open: Mutex::new(None),
        }
    }

    /// A connection with room for a session.
    pub async fn client(&self, endpoints: &Endpoints, protocol: Protocol) -> Result<Client, Failure> {
        if self.sessions_per_connection == 1 {
            return self.fresh(endpoints, protocol).await;
        }
        let mut open = self.open.lock().await;
        if let Some((carried, client, sessions)) = open.as_mut()
            && *carried == protocol
            && *sessions < self.sessions_per_connection
        {
            *sessions += 1;
            return Ok(client.clone());
        }
        let client = self.fresh(endpoints, protocol).await?;
        *open = Some((protocol, client.clone(), 1));
        Ok(client)
    }

    /// A connection of its own.
    pub async fn fresh(&self, endpoints: &Endpoints, protocol: Protocol) -> Result<Client, Failure> {
        let url = match protocol {
            Protocol::Quic => endpoints.quic.as_ref(),
            _ => endpoints.grpc.as_ref(),
        };
        let url = url.ok_or_else(|| format!("the node has no {protocol} listener"))?;
        let mut builder = Client::builder(url);
        if let Some(pem) = &endpoints.ca_pem {
            builder = builder.tls_ca_pem(pem.clone());
        }
        if let Some(mtu) = endpoints.quic_mtu {
            builder = builder.quic_link(Link { mtu, ..Link::default() });
        }
        let client = match protocol {
            // A session has a connection of its own; the one for calls is made with the first call, which is not what is measured.
            Protocol::Quic => builder.connect_lazy(),
            _ => builder.connect().await,
        };
        client.map_err(|error| error.to_string())
    }
}

fn agent_id(agent: &str) -> Result<AgentId, Failure> {
    AgentId::new(agent).map_err(|error| error.to_string())
}

/// A session that sends only.
#[derive(Debug)]
pub struct ClientSender(Session);

impl ClientSender {
    pub async fn open(client: &Client, agent: &str, unanswered_max: usize) -> Result<Self, Failure> {
        let options = SessionOptions {
            unanswered_max: unanswered_max.max(1),
            ..SessionOptions::send_only()
        };
        let session = client.session(&agent_id(agent)?, options).await;
        session.map(Self).map_err(|error| error.to_string())
    }

    pub async fn send(&mut self, message: Outgoing<'_>) -> Result<Answer, Failure> {
        let qos = message.qos;
        let message = Message::new(message.to)
            .qos(qos)
            .priority(message.priority)
            .body(message.body);
        let handle = self.0.send(message).await.map_err(|error| error.to_string())?;
        if qos.is_durable() {
            return Ok(Answer::Client(handle));
        }
        // At QoS 0 the handle is ready and tells whether the message was dropped for want of a connection.
        handle.await.map(|_| Answer::Done).map_err(|error| error.to_string())
    }

    pub async fn send_run(
        &mut self,
        message: Outgoing<'_>,
        bodies: impl Iterator<Item = &[u8]>,
    ) -> Result<(), Failure> {
        let template = Message::new(message.to).qos(message.qos).priority(message.priority);
        let sent = self.0.send_run(template, bodies).await;
        sent.map_err(|error| error.to_string())
    }

    pub async fn close(self, patience: Duration) {
        // What is unanswered after this long shows as lost.
        let _ = self.0.close(patience).await;
    }
}

/// A session that has the agent's inbox open, or is subscribed to topics.
#[derive(Debug)]
pub struct ClientReceiver {
    session: Session,
    /// Received and not acknowledged.
    taken: Vec<Delivery>,
    settling: JoinSet<u64>,
    unsettled: u64,
    acknowledges: bool,
}

impl ClientReceiver {
    pub async fn open(client: &Client, agent: &str, receiving: &Receiving) -> Result<Self, Failure> {
        let options = SessionOptions {
            inbox: if receiving.topics.is_empty() {
                Inbox::Open
            } else {
                Inbox::Closed
            },
            window_messages: u32::MAX,
            window_bytes: u64::MAX,
            ..SessionOptions::default()
        };
        let session = client.session(&agent_id(agent)?, options).await;
        let session = session.map_err(|error| error.to_string())?;
        if !receiving.topics.is_empty() {
            let filters: Result<Vec<TopicFilter>, _> = receiving.topics.iter().map(|topic| topic.parse()).collect();
            let filters = filters.map_err(|error| format!("{error}"))?;
            session.subscribe(&filters).await.map_err(|error| error.to_string())?;
        }
        Ok(Self {
            session,
            taken: Vec::new(),
            settling: JoinSet::new(),
            unsettled: 0,
            acknowledges: receiving.qos.is_durable(),
        })
    }

    pub async fn receive(&mut self, into: &mut Vec<Arrival>, max: usize) -> Result<(), Failure> {
        let before = self.taken.len();
        let received = self.session.recv_batch(&mut self.taken, max).await;
        received.map_err(|error| error.to_string())?;
        into.extend(self.taken[before..].iter().map(|delivery| Head::read(delivery.body())));
        if !self.acknowledges {
            self.taken.clear();
        }
        Ok(())
    }

    pub async fn settle(&mut self) -> Result<(), Failure> {
        if self.taken.is_empty() {
            return Ok(());
        }
        let (session, batch) = (self.session.clone(), mem::take(&mut self.taken));
        self.settling.spawn(async move {
            let outcomes = session.ack_all(&batch).await;
            let open = outcomes
                .iter()
                .filter(|outcome| !matches!(outcome, SettleOutcome::Done));
            open.count() as u64
        });
        while self.settling.len() > SETTLING_MAX {
            self.settled_one().await;
        }
        Ok(())
    }

    async fn settled_one(&mut self) {
        match self.settling.join_next().await {
            Some(Ok(open)) => self.unsettled += open,
            Some(Err(_)) => self.unsettled += 1,
            None => {}
        }
    }

    pub async fn finish(mut self) -> u64 {
        while !self.settling.is_empty() {
            self.settled_one().await;
        }
        self.unsettled
    }
}
