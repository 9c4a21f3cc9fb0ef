//! weft's own protocol over QUIC without the client library: batches go out as they were prepared but for one id, and what comes is
//! counted by its runs, which stay packed.
//!
//! Every session has a socket of its own, as if it were a program of its own. Start at [`Session`].

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use quinn::{Connection, Endpoint, SendStream, TokioRuntime, crypto::rustls::QuicClientConfig};
use tokio::time::timeout;
use weft::{
    frame::{
        Address, Draft, Frame, Priority, Qos, RunBuilder,
        batch::{self, Compression, Packer, Part},
        limits::BATCH_BYTES_MAX,
    },
    native::{
        ALPN, STREAM_CONTROL,
        control::{self, Attach, FRAME_BYTES_MAX, ResumeKey, Switch, ToClient, ToNode},
        link::Link,
        reader::{BatchReader, ControlReader},
        stream_of,
    },
};

use super::{
    flow::Flow,
    frames::{ID_DIGITS, digits},
};
use crate::{node::Endpoints, peers::wire};

/// How long the node may take to answer a greeting, an attach or a subscription.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of a batch's bodies, about: what the node and its clients use.
const BATCH_BODIES_BYTES: usize = 64 << 10;
/// Messages of a batch: powers of the digits' base, so that all ids of a batch differ from the next one's in the same place.
const BATCH_MESSAGES: u16 = 256;
const BATCH_MESSAGES_SMALL: u16 = 16;

/// A batch of messages of QoS 0 from one agent to one address, encoded but for the first id: every other id is told from the one
/// before it, by digits that all batches have in common.
#[derive(Debug)]
pub struct Template {
    messages: u16,
    before_id: Bytes,
    behind_id: Bytes,
}

impl Template {
    /// Encodes the batch. At most a fourth of what may be under way is sent at once.
    pub fn new(from: &str, to: &str, body_bytes: usize, under_way_max: usize) -> Result<Self, String> {
        let fits = |messages: u16| {
            let messages = usize::from(messages);
            messages * body_bytes <= BATCH_BODIES_BYTES && messages * 4 <= under_way_max
        };
        let messages = match fits(BATCH_MESSAGES) {
            true => BATCH_MESSAGES,
            false => BATCH_MESSAGES_SMALL,
        };
        let ids: Vec<[u8; ID_DIGITS]> = (0..messages).map(|number| digits(number.into())).collect();
        let ids: Vec<&str> = ids.iter().filter_map(|id| str::from_utf8(id).ok()).collect();
        let body = Bytes::from(vec![b'.'; body_bytes]);
        let mut builder = RunBuilder::new(frame(ids[0], from, to, &body)?);
        let added = ids[1..].iter().all(|id| builder.push(id.as_bytes(), &body, 0));
        let mut packer = Packer::with_capacity(0);
        packer.push_run(&builder.finish(), "");
        let mut parts = Vec::new();
        packer.finish(0, Compression::None, &mut parts);
        let encoded = Bytes::from(parts.concat());
        // Once, in the envelope: entries have the digits that change.
        let at = memchr::memmem::find(&encoded, ids[0].as_bytes());
        let at = at.filter(|_| added).ok_or("a batch without its ids")?;
        Ok(Self {
            messages,
            before_id: encoded.slice(..at),
            behind_id: encoded.slice(at + ID_DIGITS..),
        })
    }

    /// The batch whose first message has this number, a multiple of how many a batch has.
    fn parts(&self, first: u64) -> [Bytes; 2] {
        let mut front = BytesMut::with_capacity(self.before_id.len() + ID_DIGITS);
        front.extend_from_slice(&self.before_id);
        front.extend_from_slice(&digits(first));
        [front.freeze(), self.behind_id.clone()]
    }
}

fn frame(id: &str, from: &str, to: &str, body: &Bytes) -> Result<Frame, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let id = id.parse().map_err(|error| text(&error))?;
    let from = from.parse().map_err(|error| text(&error))?;
    let to: Address = to.parse().map_err(|error| text(&error))?;
    let mut draft = Draft::new(id, from, to);
    draft.qos = Qos::AtMostOnce;
    let envelope = draft.archive().map_err(|error| text(&error))?;
    Frame::new(envelope, body.clone()).map_err(|error| text(&error))
}

/// A connection that was greeted.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    control: SendStream,
    answers: ControlReader,
    /// Goes last: its socket is the connection's.
    _endpoint: Endpoint,
}

impl Session {
    /// Connects and greets; returns once the node is ready for messages.
    pub async fn open(endpoints: &Endpoints) -> Result<Self, String> {
        let (endpoint, connection) = timeout(ANSWER_DEADLINE, connect(endpoints))
            .await
            .map_err(|_late| "no QUIC connection in time")??;
        let opened = connection.open_bi().await;
        let (mut control, answers) = opened.map_err(|error| error.to_string())?;
        let written = control.write_all(&[STREAM_CONTROL]).await;
        written.map_err(|error| error.to_string())?;
        let mut session = Self {
            connection,
            control,
            answers: ControlReader::new(answers, FRAME_BYTES_MAX),
            _endpoint: endpoint,
        };
        let hello = ToNode::Hello {
            token: String::new(),
            program: "loadtest".into(),
        };
        match session.ask(&hello).await? {
            ToClient::Ready { .. } => Ok(session),
            other => Err(format!("the node greets with {other:?}")),
        }
    }

    /// Opens an agent's inbox with as large a window as the node gives, or subscribes it to a topic; returns once that is in effect.
    pub async fn subscribe(&mut self, agent: &str, topic: Option<&str>) -> Result<(), String> {
        let attach = ToNode::Attach(Attach {
            agent: agent.to_owned(),
            takes_inbox: Switch::of(topic.is_none()),
            durable_queue: String::new(),
            window_messages: u32::MAX,
            window_bytes: u64::MAX,
            visibility_timeout_ms: 0,
            resume: ResumeKey::default(),
        });
        match self.ask(&attach).await? {
            ToClient::Welcome(_) => {}
            other => return Err(format!("the answer to an attach is {other:?}")),
        }
        let Some(topic) = topic else { return Ok(()) };
        let subscribe = ToNode::Subscribe {
            tag: 1,
            filters: vec![topic.to_owned()],
        };
        match self.ask(&subscribe).await? {
            ToClient::Subscribed { problem: None, .. } => Ok(()),
            other => Err(format!("the answer to a subscription is {other:?}")),
        }
    }

    async fn ask(&mut self, frame: &ToNode) -> Result<ToClient, String> {
        let mut bytes = BytesMut::new();
        control::encode(frame, &mut bytes);
        let written = self.control.write_all(&bytes).await;
        written.map_err(|error| error.to_string())?;
        let heard = timeout(ANSWER_DEADLINE, self.answers.next()).await;
        let heard = heard.map_err(|_late| "the node did not answer in time")?;
        said(heard.map_err(|error| error.to_string())?)
    }

    /// Counts what is delivered, until that fails.
    pub async fn count(mut self, flow: &Flow, index: usize) -> String {
        let counted = count(&self.connection, flow, index);
        unless_told(&mut self.answers, counted).await
    }

    /// Sends batches whenever the flow has room, until it is stopped; stays until that fails.
    pub async fn send(mut self, template: &Template, flow: &Flow) -> String {
        let sent = send(&self.connection, template, flow);
        unless_told(&mut self.answers, sent).await
    }
}

/// Does this until it fails. At QoS 0 the node says nothing by itself but what went wrong.
async fn unless_told(answers: &mut ControlReader, work: impl Future<Output = Result<(), String>>) -> String {
    let failed = tokio::select! {
        failed = work => failed.err(),
        heard = answers.next() => match heard {
            Ok(heard) => said(heard).map_or_else(Some, |said| Some(format!("the node said {said:?}"))),
            Err(error) => Some(error.to_string()),
        },
    };
    failed.unwrap_or_else(|| "the node ended a stream".to_owned())
}

fn said(heard: Option<ToClient>) -> Result<ToClient, String> {
    heard.ok_or_else(|| "the node ended the session".to_owned())
}

/// `Ok` where the node ends the stream.
async fn count(connection: &Connection, flow: &Flow, index: usize) -> Result<(), String> {
    let stream = connection.accept_uni().await;
    let mut stream = stream.map_err(|error| error.to_string())?;
    let mut first = [0];
    let read = stream.read_exact(&mut first).await;
    read.map_err(|error| error.to_string())?;
    if first != [stream_of(Priority::Normal)] {
        return Err(format!("the node opened a stream of kind {}", first[0]));
    }
    let mut batches = BatchReader::new(stream, BATCH_BYTES_MAX);
    while let Some(mut batch) = batches.next().await.map_err(|error| error.to_string())? {
        let mut messages = 0;
        let decoded = batch::decode(&mut batch, |part| {
            messages += match part {
                Part::Run { run, .. } => run.frames() as u64,
                Part::Frame(_) => 1,
            };
        });
        decoded.map_err(|error| error.to_string())?;
        flow.got(index, messages);
    }
    Ok(())
}

async fn send(connection: &Connection, template: &Template, flow: &Flow) -> Result<(), String> {
    let stream = connection.open_uni().await;
    let mut stream = stream.map_err(|error| error.to_string())?;
    let written = stream.write_all(&[stream_of(Priority::Normal)]).await;
    written.map_err(|error| error.to_string())?;
    while let Some(first) = flow.send(template.messages.into()).await {
        let written = stream.write_all_chunks(&mut template.parts(first)).await;
        written.map_err(|error| error.to_string())?;
    }
    // What was written last is still on its way.
    std::future::pending().await
}

async fn connect(endpoints: &Endpoints) -> Result<(Endpoint, Connection), String> {
    let url = endpoints.quic.as_deref().ok_or("the node has no QUIC listener")?;
    let (_, host) = url.split_once("://").ok_or("a URL without a scheme")?;
    let address: std::net::SocketAddr = host.parse().map_err(|error| format!("{host}: {error}"))?;
    let pem = endpoints.ca_pem.as_deref().ok_or("the node's authority is not known")?;
    let pem = str::from_utf8(pem).map_err(|error| error.to_string())?;
    let mut tls = (*wire::trusting(pem)?).clone();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
    let mut link = Link::default();
    link.mtu = endpoints.quic_mtu.unwrap_or(link.mtu);
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(link.client_transport());
    let socket = link.bind((Ipv4Addr::LOCALHOST, 0).into());
    let endpoint = socket.and_then(|socket| Endpoint::new(link.endpoint(), None, socket, Arc::new(TokioRuntime)));
    let endpoint = endpoint.map_err(|error| format!("needs a UDP socket: {error}"))?;
    let connecting = endpoint.connect_with(config, address, &address.ip().to_string());
    let connection = connecting.map_err(|error| error.to_string())?.await;
    let connection = connection.map_err(|error| format!("{url}: {error}"))?;
    Ok((endpoint, connection))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNDER_WAY_MAX: usize = 16_384;

    fn ids(template: &Template, first: u64) -> Vec<String> {
        let mut batch = Bytes::from(template.parts(first).concat());
        let mut ids = Vec::new();
        let decoded = batch::decode(&mut batch, |part| match part {
            Part::Run { run, .. } => run.visit(|id, body| {
                assert_eq!(body, [b'.'; 8]);
                ids.push(id.to_owned());
            }),
            Part::Frame(item) => panic!("a frame apart: {item:?}"),
        });
        assert_eq!(decoded, Ok(usize::from(template.messages)));
        ids
    }

    #[test]
    fn every_message_of_every_batch_has_an_id_of_its_own() {
        for under_way_max in [64, UNDER_WAY_MAX] {
            let template = Template::new("load/a", "agent:load/b", 8, under_way_max).expect("valid names");
            let batch = u64::from(template.messages);
            let sent: Vec<String> = [0, 1, 0x1_0000]
                .iter()
                .flat_map(|nth| ids(&template, nth * batch))
                .collect();
            let numbers = [0, 1, 0x1_0000].iter().flat_map(|nth| nth * batch..(nth + 1) * batch);
            let expected: Vec<String> = numbers.map(|number| format!("{number:016x}")).collect();
            assert_eq!(sent, expected);
        }
    }

    #[test]
    fn large_bodies_and_little_room_make_small_batches() {
        let messages = |body_bytes, under_way_max| {
            let template = Template::new("load/a", "agent:load/b", body_bytes, under_way_max);
            template.map(|template| template.messages)
        };
        assert_eq!(messages(256, UNDER_WAY_MAX), Ok(BATCH_MESSAGES));
        assert_eq!(messages(256, 64), Ok(BATCH_MESSAGES_SMALL));
        assert_eq!(messages(4_096, UNDER_WAY_MAX), Ok(BATCH_MESSAGES_SMALL));
    }
}
