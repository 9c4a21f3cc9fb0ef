//! A session stream of `weft.v1` without the client library: bytes go out as they were prepared, and what comes is counted where
//! it lies in the read buffer.

use std::{sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use futures_util::{Stream, StreamExt, stream};
use tokio::time::timeout;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use weft::rpc::v1::InboxMode;

use super::{
    flow::Flow,
    frames::{self, FRAME_MESSAGES, Said, Template, Told},
};
use crate::node::Endpoints;

const SESSION: &str = "/weft.v1.Messaging/Session";
/// As the client library has them.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// How long the node may take to answer an attach, a subscription or, through another agent, a request.
pub(super) const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// What goes to the node.
#[derive(Debug)]
pub enum Outgoing {
    Frame(Bytes),
    Messages { template: Arc<Template>, first: u64 },
}

/// Frames as they were prepared; of what comes, what this reads in it.
#[derive(Debug)]
pub struct Raw<T>(pub fn(&[u8]) -> Option<T>);

impl<T: Send + 'static> Codec for Raw<T> {
    type Encode = Outgoing;
    type Decode = T;
    type Encoder = Prepared;
    type Decoder = Self;

    fn encoder(&mut self) -> Prepared {
        Prepared
    }

    fn decoder(&mut self) -> Self {
        Self(self.0)
    }
}

/// Writes frames as they were prepared.
#[derive(Debug)]
pub struct Prepared;

impl Encoder for Prepared {
    type Item = Outgoing;
    type Error = Status;

    fn encode(&mut self, item: Outgoing, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        match item {
            Outgoing::Frame(frame) => out.put(frame),
            Outgoing::Messages { template, first } => {
                out.reserve(template.bytes());
                template.write(first, out);
            }
        }
        Ok(())
    }
}

/// As [`Raw`], with all that a frame says.
#[derive(Debug, Default)]
pub struct Whole;

impl Codec for Whole {
    type Encode = Outgoing;
    type Decode = Told;
    type Encoder = Prepared;
    type Decoder = Self;

    fn encoder(&mut self) -> Prepared {
        Prepared
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Decoder for Whole {
    type Item = Told;
    type Error = Status;

    fn decode(&mut self, frame: &mut DecodeBuf<'_>) -> Result<Option<Told>, Status> {
        let told = frames::told(&frame.copy_to_bytes(frame.remaining()));
        told.map(Some).ok_or_else(no_frame)
    }
}

impl<T> Decoder for Raw<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, frame: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let read = match frame.chunk().len() == frame.remaining() {
            true => (self.0)(frame.chunk()),
            false => (self.0)(&frame.copy_to_bytes(frame.remaining())),
        };
        frame.advance(frame.remaining());
        read.map(Some).ok_or_else(no_frame)
    }
}

fn no_frame() -> Status {
    Status::internal("the node sent what is no frame")
}

/// What a session brings.
#[derive(Debug)]
pub struct Session<T = Said>(Streaming<T>);

impl<T: Send + Sync + 'static> Session<T> {
    /// A session stream that sends these. The call stays open for as long as what it sends does.
    pub async fn open(
        endpoints: &Endpoints,
        outgoing: impl Stream<Item = Outgoing> + Send + 'static,
        codec: impl Codec<Encode = Outgoing, Decode = T> + Send + 'static,
    ) -> Result<Self, String> {
        let mut grpc = Grpc::new(connect(endpoints).await?);
        grpc.ready().await.map_err(|error| error.to_string())?;
        let opened = grpc.streaming(Request::new(outgoing), PathAndQuery::from_static(SESSION), codec);
        let opened = opened.await.map_err(|status| status.to_string())?;
        Ok(Self(opened.into_inner()))
    }

    /// Waits for what the node sends next.
    pub async fn next(&mut self) -> Result<T, String> {
        let said = self.0.message().await.map_err(|status| status.to_string())?;
        said.ok_or_else(|| "the node ended the session".to_owned())
    }
}

impl Session {
    /// Opens an agent's inbox, or subscribes it to a topic; returns once that is in effect.
    pub async fn subscriber(endpoints: &Endpoints, agent: &str, topic: Option<&str>) -> Result<Self, String> {
        let inbox = topic.map_or(InboxMode::Open, |_| InboxMode::Closed);
        let asked = [Some(frames::attach(agent, inbox)), topic.map(frames::subscribe)];
        let asked = stream::iter(asked.into_iter().flatten().map(Outgoing::Frame));
        let mut session = Self::open(endpoints, asked.chain(stream::pending()), Raw(frames::said)).await?;
        session.expect(Said::Welcome).await?;
        if topic.is_some() {
            session.expect(Said::Subscribed).await?;
        }
        Ok(session)
    }

    /// Sends frames of messages whenever the flow has room, until it is stopped. The session ends when it is dropped.
    pub async fn publisher(endpoints: &Endpoints, template: Template, flow: Arc<Flow>) -> Result<Self, String> {
        let template = Arc::new(template);
        let frame = move |flow: Arc<Flow>| {
            let template = template.clone();
            async move {
                let first = flow.send(FRAME_MESSAGES as u32).await?;
                Some((Outgoing::Messages { template, first }, flow))
            }
        };
        let outgoing = stream::unfold(flow, frame).chain(stream::pending());
        Self::open(endpoints, outgoing, Raw(frames::said)).await
    }

    async fn expect(&mut self, wanted: Said) -> Result<(), String> {
        match timeout(ANSWER_DEADLINE, self.next()).await {
            Ok(Ok(said)) if said == wanted => Ok(()),
            Ok(Ok(said)) => Err(format!("the node said {said:?}, not {wanted:?}")),
            Ok(Err(error)) => Err(error),
            Err(_late) => Err(format!("the node did not say {wanted:?} in time")),
        }
    }
}

async fn connect(endpoints: &Endpoints) -> Result<Channel, String> {
    let url = endpoints.grpc.as_deref().ok_or("the node has no gRPC listener")?;
    let (scheme, host) = url.split_once("://").ok_or("a URL without a scheme")?;
    let encrypted = scheme == "grpcs";
    let endpoint = Endpoint::from_shared(format!("{}://{host}", if encrypted { "https" } else { "http" }))
        .map_err(|error| error.to_string())?
        .tcp_nodelay(true)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES);
    let endpoint = match &endpoints.ca_pem {
        Some(pem) if encrypted => {
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
            endpoint.tls_config(tls).map_err(|error| error.to_string())?
        }
        _ => endpoint,
    };
    endpoint.connect().await.map_err(|error| format!("{url}: {error}"))
}
