//! The protocol by hand: what the client never does, it cannot test.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quinn::{ApplicationClose, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use weft::{
    frame::{
        AgentId, Draft, Frame,
        batch::{self, Part},
        limits::BATCH_BYTES_MAX,
    },
    native::{
        Close, STREAM_CONTROL,
        control::{self, Attach, FRAME_BYTES_MAX, ResumeKey, Switch, ToClient, ToNode, Welcome},
        link::Link,
        reader::{BatchReader, ControlReader},
    },
};

use super::{Server, within};

/// A connection that was greeted.
pub struct Raw {
    pub connection: Connection,
    control: SendStream,
    answers: ControlReader,
    deliveries: Option<BatchReader>,
    _endpoint: Endpoint,
}

/// How a connection looks that the server closed.
pub fn closed_with(close: Close) -> ConnectionError {
    ConnectionError::ApplicationClosed(ApplicationClose {
        error_code: close.code(),
        reason: Bytes::from_static(close.reason().as_bytes()),
    })
}

fn endpoint(server: &Server, alpn: &[u8]) -> Endpoint {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.material.certificate().to_vec().into()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = if alpn.is_empty() { vec![] } else { vec![alpn.to_vec()] };
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Link::default().client_transport());
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(config);
    endpoint
}

pub async fn connect(server: &Server, alpn: &[u8]) -> Result<Connection, ConnectionError> {
    within(endpoint(server, alpn).connect(server.quic, "localhost").unwrap()).await
}

/// A frame without a stamp.
pub fn frame(from: &str, to: &str, body: &[u8]) -> Frame {
    let to = format!("agent:{to}").parse().unwrap();
    let draft = Draft::new("m-1".parse().unwrap(), AgentId::new(from).unwrap(), to);
    Frame::new(draft.archive().unwrap(), Bytes::copy_from_slice(body)).unwrap()
}

pub fn attach(agent: &str, resume: ResumeKey) -> Attach {
    Attach {
        agent: agent.into(),
        takes_inbox: Switch::On,
        durable_queue: String::new(),
        window_messages: 16,
        window_bytes: 1 << 20,
        visibility_timeout_ms: 0,
        resume,
    }
}

impl Raw {
    pub async fn greeted(server: &Server) -> Self {
        let endpoint = endpoint(server, b"weft/1");
        let connecting = endpoint.connect(server.quic, "localhost").unwrap();
        let connection = within(connecting).await.unwrap();
        let (mut control, answers) = connection.open_bi().await.unwrap();
        control.write_all(&[STREAM_CONTROL]).await.unwrap();
        let mut raw = Self {
            connection,
            control,
            answers: ControlReader::new(answers, FRAME_BYTES_MAX),
            deliveries: None,
            _endpoint: endpoint,
        };
        let hello = ToNode::Hello {
            token: String::new(),
            program: "raw".into(),
        };
        raw.say(&hello).await;
        assert!(matches!(raw.hear().await, ToClient::Ready { .. }));
        raw
    }

    pub async fn say(&mut self, frame: &ToNode) {
        let mut bytes = BytesMut::new();
        control::encode(frame, &mut bytes);
        self.send_bytes(&bytes).await;
    }

    pub async fn hear(&mut self) -> ToClient {
        within(self.answers.next()).await.unwrap().unwrap()
    }

    /// Bytes on the control stream. The server may have closed the connection already.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        let _closed = self.control.write_all(bytes).await;
    }

    /// A one-way stream of these bytes, finished.
    pub async fn stream(&self, bytes: &[u8]) {
        if let Ok(mut stream) = within(self.connection.open_uni()).await {
            let _closed = stream.write_all(bytes).await;
            let _closed = stream.finish();
            let _closed = within(stream.stopped()).await;
        }
    }

    pub async fn attach(&mut self, agent: &str, resume: ResumeKey) -> Welcome {
        self.say(&ToNode::Attach(attach(agent, resume))).await;
        match self.hear().await {
            ToClient::Welcome(welcome) => welcome,
            other => panic!("no welcome: {other:?}"),
        }
    }

    /// The bodies of the next batch, with their marks.
    pub async fn deliveries(&mut self) -> Vec<(Bytes, Option<batch::Mark>)> {
        if self.deliveries.is_none() {
            let mut stream: RecvStream = within(self.connection.accept_uni()).await.unwrap();
            stream.read_exact(&mut [0]).await.unwrap();
            self.deliveries = Some(BatchReader::new(stream, BATCH_BYTES_MAX));
        }
        let reader = self.deliveries.as_mut().expect("it was opened above");
        let mut batch = within(reader.next()).await.unwrap().unwrap();
        let mut bodies = Vec::new();
        batch::decode(&mut batch, |part| match part {
            Part::Frame(item) => bodies.push((item.frame.body, item.mark)),
            Part::Run { run, .. } => bodies.extend(run.iter().map(|frame| (frame.body, None))),
        })
        .unwrap();
        bodies
    }
}
