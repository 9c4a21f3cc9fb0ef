//! The client's side of QUIC: connections to a node, their greeting, and streams that carry calls.
//!
//! A session has a connection of its own; calls (gRPC over a stream) share another. All are on one UDP socket. Must never know
//! what a session keeps over reconnects. Start at [`Node::connect`]; [`inbound`] reads, [`outbound`] writes, [`words`] turns
//! one side's words into the other's.

pub(super) mod inbound;
pub(super) mod outbound;
mod words;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use quinn::{Connection, ConnectionError, Endpoint, TokioRuntime, crypto::rustls::QuicClientConfig};
use tokio::{
    io::{AsyncRead, AsyncWrite, Join, ReadBuf, join},
    net::lookup_host,
    time::timeout,
};

use self::words::refused;
use super::{Error, tls::Trust};
use crate::native::{
    ALPN, STREAM_CALLS, STREAM_CONTROL,
    control::{FRAME_BYTES_MAX, ToClient, ToNode},
    lanes::{LaneError, Lanes},
    link::Link,
    reader::{ControlReader, ReadFailure},
};

/// What this program calls itself in a node's logs.
const PROGRAM: &str = concat!("weft-client/", env!("CARGO_PKG_VERSION"));

/// A node that connections can be made to.
#[derive(Clone, Debug)]
pub(super) struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoint: Endpoint,
    config: quinn::ClientConfig,
    host: String,
    port: u16,
    /// The name that the certificate must show.
    name: String,
    patience: Duration,
}

/// What a connection to a node is like.
#[derive(Debug)]
pub(super) struct Settings {
    pub host: String,
    pub port: u16,
    pub name: Option<String>,
    pub trust: Trust,
    pub link: Link,
    pub patience: Duration,
}

/// A connection whose greeting was sent; the node's answer is the first thing to be read.
#[derive(Debug)]
pub(super) struct Greeted {
    pub connection: Connection,
    pub control: ControlReader,
    pub lanes: Lanes,
}

impl Node {
    /// Binds the socket; nothing is sent yet. Must be called within a tokio runtime.
    pub fn new(settings: Settings) -> Result<Self, String> {
        let mut tls = settings.trust.config()?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(settings.link.client_transport());
        let any: IpAddr = match settings.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(_)) => IpAddr::from([0u16; 8]),
            _ => IpAddr::from([0u8; 4]),
        };
        let socket = settings.link.bind(SocketAddr::new(any, 0));
        let endpoint =
            socket.and_then(|socket| Endpoint::new(settings.link.endpoint(), None, socket, Arc::new(TokioRuntime)));
        Ok(Self(Arc::new(Inner {
            endpoint: endpoint.map_err(|error| format!("needs a UDP socket: {error}"))?,
            config,
            name: settings.name.unwrap_or_else(|| settings.host.clone()),
            host: settings.host,
            port: settings.port,
            patience: settings.patience,
        })))
    }

    /// Connects and sends the greeting.
    pub async fn connect(&self) -> Result<Greeted, Error> {
        let lost = |cause: String| Error::Connect {
            url: format!("weft://{}:{}", self.0.host, self.0.port),
            cause,
        };
        let connecting = async {
            let address = self.address().await.map_err(|error| error.to_string())?;
            let connecting = self
                .0
                .endpoint
                .connect_with(self.0.config.clone(), address, &self.0.name);
            let connection = connecting.map_err(|error| error.to_string())?.await;
            let connection = connection.map_err(|error| error.to_string())?;
            let (send, receive) = connection.open_bi().await.map_err(|error| error.to_string())?;
            Ok::<_, String>((connection, send, receive))
        };
        let (connection, send, receive) = timeout(self.0.patience, connecting)
            .await
            .map_err(|_late| lost(format!("no answer within {:?}", self.0.patience)))?
            .map_err(lost)?;
        let mut lanes = Lanes::new(connection.clone(), send);
        lanes.control_bytes(&[STREAM_CONTROL]);
        lanes.control(&ToNode::Hello {
            token: String::new(),
            program: PROGRAM.into(),
        });
        Ok(Greeted {
            connection,
            control: ControlReader::new(receive, FRAME_BYTES_MAX),
            lanes,
        })
    }

    /// The first of the host's addresses that the socket can reach.
    async fn address(&self) -> io::Result<SocketAddr> {
        let is_v6 = self.0.endpoint.local_addr()?.is_ipv6();
        let found = lookup_host((self.0.host.as_str(), self.0.port)).await?;
        let mut of_family = found.filter(|address| address.is_ipv6() == is_v6);
        of_family.next().ok_or(io::ErrorKind::AddrNotAvailable.into())
    }

    /// A connection for calls: as long as it lasts, one stream that speaks HTTP/2.
    pub async fn calls(&self) -> Result<CallStream, Error> {
        let Greeted {
            connection,
            mut control,
            mut lanes,
        } = self.connect().await?;
        lanes.flush().await?;
        ready(&mut control).await?;
        let (mut send, receive) = connection.open_bi().await?;
        send.write_all(&[STREAM_CALLS]).await.map_err(LaneError::from)?;
        Ok(CallStream {
            io: join(receive, send),
            _control: control,
            _lanes: lanes,
        })
    }

    /// Moves all connections to another socket: what happens when a device changes its network.
    pub fn rebind(&self, socket: std::net::UdpSocket) -> io::Result<()> {
        self.0.endpoint.rebind(socket)
    }
}

/// The answer to the greeting.
pub(super) async fn ready(control: &mut ControlReader) -> Result<(), Error> {
    match control.next::<ToClient>().await? {
        Some(ToClient::Ready { .. }) => Ok(()),
        Some(ToClient::Refused(problem)) => Err(refused(problem)),
        Some(_) => Err(Error::protocol(
            "the answer to a greeting is neither ready nor a refusal",
        )),
        None => Err(Error::Lost {
            cause: "the server ended the connection".into(),
        }),
    }
}

/// A stream of calls. The control stream lives beside it: closing that would end the connection.
#[derive(Debug)]
pub(super) struct CallStream {
    io: Join<quinn::RecvStream, quinn::SendStream>,
    _control: ControlReader,
    _lanes: Lanes,
}

impl AsyncRead for CallStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for CallStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.io), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl From<ConnectionError> for Error {
    fn from(error: ConnectionError) -> Self {
        Self::Lost {
            cause: error.to_string(),
        }
    }
}

impl From<LaneError> for Error {
    fn from(error: LaneError) -> Self {
        Self::Lost {
            cause: error.to_string(),
        }
    }
}

impl From<ReadFailure> for Error {
    fn from(error: ReadFailure) -> Self {
        match error {
            ReadFailure::Stream(error) => Self::Lost {
                cause: error.to_string(),
            },
            ReadFailure::Batch(_) | ReadFailure::Control(_) | ReadFailure::Cut => Self::protocol(error.to_string()),
        }
    }
}
