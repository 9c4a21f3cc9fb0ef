//! Connecting: URLs, the channel and its settings, and the health check.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::{
    codec::CompressionEncoding,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri},
};
use tower::Service;

use super::{
    Error,
    native::{CallStream, Node, Settings},
    tls::{Pin, Pinned, Trust},
};
use crate::{
    frame::{batch::Compression, limits::BODY_BYTES_MAX},
    native::link::Link,
    rpc::{
        BATCH_BYTES,
        convert::FieldError,
        health,
        v1::{groups_client::GroupsClient, messaging_client::MessagingClient, registry_client::RegistryClient},
    },
};

/// How long connecting may take unless told otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a quiet connection is probed, and how long the answer may take: a peer that vanished is noticed within 20 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// One connection carries much: at 64 KiB, HTTP/2's default, a stream stalls a round trip for every batch.
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// One stream may fill half of its connection's window.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Largest item that is decoded: the largest body, a full batch beside it, and envelopes.
const ITEM_BYTES_MAX: usize = BODY_BYTES_MAX + BATCH_BYTES + 1024 * 1024;

/// A connection to a weft server. A clone shares it. It reconnects by itself; calls fail while it is down, sessions wait.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) url: String,
    pub(super) channel: Channel,
    /// Where sessions have connections of their own (QUIC).
    pub(super) node: Option<Node>,
    compression: Option<CompressionEncoding>,
}

/// Settings of a connection before it is made.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    url: String,
    connect_timeout: Duration,
    trust: Option<Trust>,
    link: Link,
    tls_name: Option<String>,
    compression: Option<CompressionEncoding>,
}

impl ClientBuilder {
    /// How long connecting may take; 5 s unless set.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The certificate authority that must have signed the server's certificate, as PEM; a certificate that a node made for
    /// itself is its own. Encrypted URLs need this or [`ClientBuilder::tls_pin`].
    #[must_use]
    pub fn tls_ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.trust = Some(Trust::Authority(pem.into()));
        self
    }

    /// The one certificate that the server must show, by its fingerprint; its name and dates then do not matter.
    #[must_use]
    pub fn tls_pin(mut self, pin: Pin) -> Self {
        self.trust = Some(Trust::Pinned(pin));
        self
    }

    /// QUIC's windows, MTU, segmentation offload and timeouts, where the defaults do not fit a `weft://` URL; others have no
    /// use for it. An MTU takes effect where the node has it too (`quic.mtu`); one outside 1,200 to 6,500 bytes is refused by
    /// connecting, with [`Error::Invalid`].
    ///
    /// ```no_run
    /// # async fn run(ca: Vec<u8>) -> Result<(), weft::client::Error> {
    /// use weft::client::{Client, Link};
    /// let link = Link { mtu: 6400, ..Link::default() };
    /// let client = Client::builder("weft://127.0.0.1:4433").tls_ca_pem(ca).quic_link(link).connect().await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn quic_link(mut self, link: Link) -> Self {
        self.link = link;
        self
    }

    /// The name that the server's certificate must show, where it is not the URL's host.
    #[must_use]
    pub fn tls_server_name(mut self, name: impl Into<String>) -> Self {
        self.tls_name = Some(name.into());
        self
    }

    /// Compresses what is sent with zstd, item by item. Only for large bodies over slow links: it took a stream of small
    /// messages from 1,880,000 to 22,000 a second.
    #[must_use]
    pub fn zstd(mut self) -> Self {
        self.compression = Some(CompressionEncoding::Zstd);
        self
    }

    /// Connects.
    pub async fn connect(self) -> Result<Client, Error> {
        let (endpoint, node) = (self.endpoint()?, self.node()?);
        let connected = match &node {
            Some(node) => endpoint.connect_with_connector(calls(node.clone())).await,
            None => endpoint.connect().await,
        };
        let channel = connected.map_err(|error| Error::Connect {
            url: self.url.clone(),
            cause: root_cause(&error),
        })?;
        Ok(self.client(channel, node))
    }

    /// A client that connects with its first call or session. Must be called within a tokio runtime.
    pub fn connect_lazy(self) -> Result<Client, Error> {
        let (endpoint, node) = (self.endpoint()?, self.node()?);
        let channel = match &node {
            Some(node) => endpoint.connect_with_connector_lazy(calls(node.clone())),
            None => endpoint.connect_lazy(),
        };
        Ok(self.client(channel, node))
    }

    fn client(self, channel: Channel, node: Option<Node>) -> Client {
        Client {
            url: self.url,
            channel,
            node,
            compression: self.compression,
        }
    }

    /// The node behind a `weft://` URL.
    fn node(&self) -> Result<Option<Node>, Error> {
        let (Scheme::Quic, origin) = split(&self.url)? else {
            return Ok(None);
        };
        let (host, port) = host_and_port(&origin).map_err(|detail| self.refuse(detail))?;
        self.link
            .check()
            .map_err(|error| FieldError::new("quic_link.mtu", error))?;
        let settings = Settings {
            host,
            port,
            name: self.tls_name.clone(),
            trust: self.trust()?.clone(),
            link: self.link.clone(),
            patience: self.connect_timeout,
        };
        Node::new(settings).map(Some).map_err(|detail| self.refuse(detail))
    }

    fn endpoint(&self) -> Result<Endpoint, Error> {
        let (scheme, origin) = split(&self.url)?;
        let endpoint = Endpoint::from_shared(origin).map_err(|error| self.refuse(root_cause(&error)))?;
        let endpoint = endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        match scheme {
            // QUIC encrypts what carries the calls.
            Scheme::Plain | Scheme::Quic => Ok(endpoint),
            Scheme::Tls => self.tls(endpoint),
        }
    }

    fn tls(&self, endpoint: Endpoint) -> Result<Endpoint, Error> {
        let config = match &self.tls_name {
            Some(name) => ClientTlsConfig::new().domain_name(name),
            None => ClientTlsConfig::new(),
        };
        let endpoint = match self.trust()? {
            Trust::Authority(pem) => endpoint.tls_config(config.ca_certificate(Certificate::from_pem(pem))),
            Trust::Pinned(pin) => endpoint.tls_config_with_verifier(config, Pinned::verifier(*pin)),
        };
        endpoint.map_err(|error| self.refuse(root_cause(&error)))
    }

    fn trust(&self) -> Result<&Trust, Error> {
        self.trust.as_ref().ok_or_else(|| {
            self.refuse(
                "is encrypted, but nothing says whom to trust; name the certificate authority with `tls_ca_pem`, or the \
                 server's own certificate with `tls_pin`"
                    .into(),
            )
        })
    }

    fn refuse(&self, detail: String) -> Error {
        Error::Url {
            url: self.url.clone(),
            detail,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Plain,
    Tls,
    Quic,
}

/// The port of a `weft://` URL that names none.
const QUIC_PORT: u16 = 4433;

/// The host, without the brackets of IPv6, and the port.
fn host_and_port(origin: &str) -> Result<(String, u16), String> {
    let authority = origin.rsplit('/').next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse().map_err(|_| "has no port that is one".to_owned())?)
        }
        _ => (authority, QUIC_PORT),
    };
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    Ok((bare.unwrap_or(host).to_owned(), port))
}

/// What gRPC calls go over to a node: each connection of theirs is a stream of a QUIC connection.
fn calls(
    node: Node,
) -> impl Service<Uri, Response = TokioIo<CallStream>, Error = Error, Future: Send> + Send + 'static {
    tower::service_fn(move |_: Uri| {
        let node = node.clone();
        async move { node.calls().await.map(TokioIo::new) }
    })
}

/// The transport that a URL's scheme asks for, and the origin that tonic takes.
fn split(url: &str) -> Result<(Scheme, String), Error> {
    let refuse = |detail: &str| Error::Url {
        url: url.into(),
        detail: detail.into(),
    };
    let (scheme, rest) = url
        .split_once("://")
        .ok_or_else(|| refuse("has no scheme; write it as grpc://HOST:PORT"))?;
    let host = rest.trim_end_matches('/');
    if host.is_empty() || host.contains(['/', '?', '#', '@']) {
        return Err(refuse("is not SCHEME://HOST:PORT with nothing behind the port"));
    }
    match scheme {
        "grpc" | "http" => Ok((Scheme::Plain, format!("http://{host}"))),
        "grpcs" | "https" => Ok((Scheme::Tls, format!("https://{host}"))),
        "weft" => Ok((Scheme::Quic, format!("http://{host}"))),
        _ => Err(refuse(
            "has an unknown scheme; known are weft, grpc, grpcs, http and https",
        )),
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// What a server says of itself or of one of its services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    Serving,
    /// It runs, but takes no new work: it starts up or drains.
    NotServing,
    Unknown,
}

impl Client {
    /// Connects with the default settings to `grpc://HOST:PORT` (or `http://`). The encrypted ones, `grpcs://` (or `https://`)
    /// and `weft://` (QUIC), need to know whom to trust: [`ClientBuilder::tls_ca_pem`] or [`ClientBuilder::tls_pin`].
    pub async fn connect(url: &str) -> Result<Self, Error> {
        Self::builder(url).connect().await
    }

    /// Settings for a connection.
    pub fn builder(url: &str) -> ClientBuilder {
        ClientBuilder {
            url: url.into(),
            connect_timeout: CONNECT_TIMEOUT,
            trust: None,
            link: Link::default(),
            tls_name: None,
            compression: None,
        }
    }

    /// The URL that this client was made with.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Asks for the health of a service (`weft.v1.Messaging`), or, with an empty name, of the server as a whole.
    pub async fn health(&self, service: &str) -> Result<Health, Error> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Error::Lost {
            cause: root_cause(&error),
        })?;
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(health::CHECK_PATH);
        let codec = tonic_prost::ProstCodec::<health::HealthCheckRequest, health::HealthCheckResponse>::default();
        let request = health::HealthCheckRequest {
            service: service.into(),
        };
        let response = grpc.unary(tonic::Request::new(request), path, codec).await?;
        Ok(match response.into_inner().status() {
            health::ServingStatus::Serving => Health::Serving,
            health::ServingStatus::NotServing => Health::NotServing,
            health::ServingStatus::Unknown | health::ServingStatus::ServiceUnknown => Health::Unknown,
        })
    }

    /// Moves the connections of a `weft://` client to another UDP socket, as a change of network would; sessions go on.
    /// False where the client does not speak QUIC.
    pub fn rebind(&self, socket: std::net::UdpSocket) -> std::io::Result<bool> {
        match &self.node {
            Some(node) => node.rebind(socket).map(|()| true),
            None => Ok(false),
        }
    }

    /// How a session's batches are compressed.
    pub(super) const fn frame_compression(&self) -> Compression {
        match self.compression {
            Some(_) => Compression::Zstd,
            None => Compression::None,
        }
    }

    pub(super) fn messaging(&self) -> MessagingClient<Channel> {
        let client = MessagingClient::new(self.channel.clone())
            .max_decoding_message_size(ITEM_BYTES_MAX)
            .accept_compressed(CompressionEncoding::Zstd)
            .accept_compressed(CompressionEncoding::Gzip);
        match self.compression {
            Some(encoding) => client.send_compressed(encoding),
            None => client,
        }
    }

    pub(super) fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel.clone()).max_decoding_message_size(ITEM_BYTES_MAX)
    }

    pub(super) fn groups_service(&self) -> GroupsClient<Channel> {
        GroupsClient::new(self.channel.clone()).max_decoding_message_size(ITEM_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_chooses_the_transport() {
        let plain = Ok((Scheme::Plain, "http://127.0.0.1:1".to_owned()));
        assert_eq!(split("grpc://127.0.0.1:1").map_err(|e| e.to_string()), plain);
        assert_eq!(split("http://127.0.0.1:1/").map_err(|e| e.to_string()), plain);
        assert_eq!(split("https://a:1").unwrap(), (Scheme::Tls, "https://a:1".to_owned()));
        for (bad, why) in [
            ("127.0.0.1:1", "no scheme"),
            ("ftp://a:1", "unknown scheme"),
            ("grpc://", "nothing behind"),
            ("grpc://a:1/path", "nothing behind"),
            ("grpc://user@a:1", "nothing behind"),
        ] {
            let error = split(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn an_encrypted_url_without_anybody_to_trust_says_what_is_missing() {
        for url in ["https://localhost:1", "grpcs://localhost:1", "weft://localhost:1"] {
            let error = Client::builder(url).connect_lazy().unwrap_err();
            assert!(error.to_string().contains("tls_ca_pem"), "{url}: {error}");
        }
    }

    #[test]
    fn a_link_with_an_mtu_that_no_connection_can_have_is_refused_before_anything_is_bound() {
        let connect = |mtu| {
            let link = Link { mtu, ..Link::default() };
            let builder = Client::builder("weft://localhost:1").tls_ca_pem("not looked at yet");
            builder.quic_link(link).connect_lazy().unwrap_err().to_string()
        };
        for mtu in [0, 1199, 6501, u16::MAX] {
            let error = connect(mtu);
            assert_eq!(
                error,
                format!("`quic_link.mtu` is {mtu}, but must be 1200 to 6500 bytes")
            );
        }
        assert!(
            !connect(6500).contains("mtu"),
            "the certificate is what is wrong with this one"
        );
    }

    #[test]
    fn a_weft_url_may_leave_its_port_out() {
        let split = |origin: &str| host_and_port(origin).unwrap();
        assert_eq!(split("http://127.0.0.1:1"), ("127.0.0.1".into(), 1));
        assert_eq!(split("http://node.example"), ("node.example".into(), QUIC_PORT));
        assert_eq!(split("http://[::1]:7"), ("::1".into(), 7));
        assert_eq!(split("http://[::1]"), ("::1".into(), QUIC_PORT));
        assert!(host_and_port("http://a:x").is_err());
    }
}
