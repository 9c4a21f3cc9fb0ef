//! How a push reaches its endpoint: the name is resolved here, every address is checked, and the connection goes to exactly
//! the address that was checked. A name that resolves otherwise a moment later changes nothing.
//!
//! Start at [`Connector`].

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::http::Uri;
use futures_util::future::BoxFuture;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::guard::Guard;

/// Addresses of one name that are tried in turn.
const ADDRESSES_TRIED_MAX: usize = 4;

/// Why an endpoint was not reached. Says nothing of the message.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    #[error("the endpoint's URL has no host")]
    NoHost,
    #[error("the endpoint's URL has a port that is none")]
    Port,
    #[error("the endpoint's URL starts with neither http:// nor https://")]
    Scheme,
    #[error("{host} cannot be resolved: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("{host} resolves to no address")]
    NoAddress { host: String },
    #[error(
        "{host} resolves to {address}, a {kind} address; pushes go to public addresses and to those in `webhook.allowed_networks`"
    )]
    Refused {
        host: String,
        address: IpAddr,
        kind: &'static str,
    },
    #[error("{address} cannot be connected to: {source}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("{host} did not answer within {limit:?}")]
    Timeout { host: String, limit: Duration },
    #[error("TLS with {host} failed: {source}")]
    Tls { host: String, source: io::Error },
}

/// Turns a name into addresses: the system's resolver, or a test's.
pub(super) trait Resolve: fmt::Debug + Send + Sync + 'static {
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The system's resolver.
#[derive(Debug)]
pub(super) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(lookup_host((host, port)).await?.collect()) })
    }
}

/// Opens connections for the HTTP client's pool.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    guard: Arc<Guard>,
    resolver: Arc<dyn Resolve>,
    tls: Arc<ClientConfig>,
    limit: Duration,
}

impl Connector {
    /// `limit` bounds resolving, connecting and the TLS handshake together.
    pub(super) fn new(guard: Guard, resolver: Arc<dyn Resolve>, tls: Arc<ClientConfig>, limit: Duration) -> Self {
        Self {
            guard: Arc::new(guard),
            resolver,
            tls,
            limit,
        }
    }

    async fn connect(self, uri: Uri) -> Result<TokioIo<Stream>, ConnectError> {
        let (scheme, host, port) = target(&uri)?;
        let limit = self.limit;
        match timeout(limit, self.connect_to(scheme, host.clone(), port)).await {
            Ok(connected) => connected.map(TokioIo::new),
            Err(_) => Err(ConnectError::Timeout { host, limit }),
        }
    }

    async fn connect_to(self, scheme: Scheme, host: String, port: u16) -> Result<Stream, ConnectError> {
        let addresses = self.addresses(&host, port).await?;
        let tcp = connect_first(&addresses).await?;
        // Small bodies in one write each: waiting for more to fill a segment only delays.
        let _ = tcp.set_nodelay(true);
        match scheme {
            Scheme::Http => Ok(Stream::Plain(tcp)),
            Scheme::Https => {
                let failed = |source| ConnectError::Tls {
                    host: host.clone(),
                    source,
                };
                let name = ServerName::try_from(host.clone()).map_err(|error| failed(io::Error::other(error)))?;
                let tls = TlsConnector::from(self.tls).connect(name, tcp).await.map_err(failed)?;
                Ok(Stream::Tls(Box::new(tls)))
            }
        }
    }

    /// All addresses of the host; one that may not be called spoils them all.
    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => {
                let resolved = self.resolver.resolve(host.into(), port).await;
                resolved.map_err(|source| ConnectError::Resolve {
                    host: host.into(),
                    source,
                })?
            }
        };
        for address in &addresses {
            self.guard.check(address.ip()).map_err(|kind| ConnectError::Refused {
                host: host.into(),
                address: address.ip(),
                kind,
            })?;
        }
        Ok(addresses)
    }
}

async fn connect_first(addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
    let mut failure = ConnectError::NoAddress {
        host: "the endpoint's host".into(),
    };
    for &address in addresses.iter().take(ADDRESSES_TRIED_MAX) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(source) => failure = ConnectError::Connect { address, source },
        }
    }
    Err(failure)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

/// Scheme, host without the brackets of an IPv6 literal, and port.
fn target(uri: &Uri) -> Result<(Scheme, String, u16), ConnectError> {
    let (scheme, default_port) = match uri.scheme_str() {
        Some("http") => (Scheme::Http, 80),
        Some("https") => (Scheme::Https, 443),
        _ => return Err(ConnectError::Scheme),
    };
    let host = uri.host().filter(|host| !host.is_empty()).ok_or(ConnectError::NoHost)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = match uri.port_u16() {
        Some(port) => port,
        // `host:99999` parses as a URL; the default port in its place would be somebody else's.
        None if has_port_part(uri) => return Err(ConnectError::Port),
        None => default_port,
    };
    Ok((scheme, host.into(), port))
}

/// True where something stands behind the host, a port or not.
fn has_port_part(uri: &Uri) -> bool {
    let Some(authority) = uri.authority() else { return false };
    let host_and_port = authority.as_str().rsplit('@').next().unwrap_or_default();
    host_and_port.len() > authority.host().len()
}

/// Reads an agent's endpoint. `Err` says what is wrong with it.
pub(super) fn endpoint(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("is not a URL: {error}"))?;
    target(&uri).map_err(|error| error.to_string())?;
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            Err("has credentials in it; pushes are signed instead".into())
        }
        _ => Ok(uri),
    }
}

/// TLS as browsers trust it, on this build's one provider; HTTP/1.1 alone is offered.
pub(super) fn tls_config() -> Arc<ClientConfig> {
    let roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    tls_config_with(roots)
}

fn tls_config_with(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<TokioIo<Stream>, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// A connection to an endpoint.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    use super::{super::guard::Loopback, *};

    /// A resolver that gives its answers one after the other: DNS that changes between check and use.
    #[derive(Debug, Default)]
    struct Scripted {
        answers: Mutex<Vec<Vec<SocketAddr>>>,
        asked: AtomicUsize,
    }

    impl Scripted {
        fn new(answers: &[&[&str]]) -> Arc<Self> {
            let parse = |addresses: &&[&str]| addresses.iter().map(|text| text.parse().expect(text)).collect();
            Arc::new(Self {
                answers: Mutex::new(answers.iter().rev().map(parse).collect()),
                asked: AtomicUsize::new(0),
            })
        }
    }

    impl Resolve for Scripted {
        fn resolve(&self, _host: String, _port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
            self.asked.fetch_add(1, Relaxed);
            let answer = self.answers.lock().unwrap().pop().unwrap_or_default();
            Box::pin(async move { Ok(answer) })
        }
    }

    fn connector(resolver: Arc<dyn Resolve>, loopback: Loopback) -> Connector {
        Connector::new(
            Guard::new(loopback, Vec::new()),
            resolver,
            tls_config(),
            Duration::from_secs(5),
        )
    }

    async fn refusal(resolver: Arc<dyn Resolve>, uri: &str) -> ConnectError {
        let connected = connector(resolver, Loopback::Refused)
            .connect(uri.parse().unwrap())
            .await;
        connected.expect_err("must be refused")
    }

    #[tokio::test]
    async fn one_private_address_among_public_ones_refuses_the_name() {
        let resolver = Scripted::new(&[&["1.1.1.1:80", "10.0.0.1:80"]]);
        let error = refusal(resolver, "http://mixed.example/").await;
        assert!(
            matches!(error, ConnectError::Refused { kind: "private", .. }),
            "{error}"
        );
    }

    #[tokio::test]
    async fn literals_are_checked_like_names() {
        for uri in [
            "http://127.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://169.254.169.254/latest/meta-data",
        ] {
            let error = refusal(Scripted::new(&[]), uri).await;
            assert!(matches!(error, ConnectError::Refused { .. }), "{uri}: {error}");
        }
    }

    #[tokio::test]
    async fn numbers_that_resolvers_read_as_addresses_are_checked_after_resolving() {
        for host in ["2130706433", "0x7f000001", "127.1", "localhost"] {
            let error = refusal(Arc::new(SystemResolver), &format!("http://{host}/")).await;
            let is_kept_out = matches!(error, ConnectError::Refused { .. } | ConnectError::Resolve { .. });
            assert!(is_kept_out, "{host}: {error}");
        }
    }

    #[tokio::test]
    async fn the_connection_goes_to_the_address_that_was_checked_and_the_name_is_asked_once() {
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = good.local_addr().unwrap().to_string();
        // A second look-up would answer with an address that must never be called.
        let resolver = Scripted::new(&[&[&address], &["10.0.0.1:80"]]);
        let connector = connector(resolver.clone(), Loopback::Allowed);
        let stream = connector
            .connect("http://rebinding.example/".parse().unwrap())
            .await
            .unwrap();
        let Stream::Plain(stream) = stream.into_inner() else {
            panic!("http is plain")
        };
        assert_eq!(stream.peer_addr().unwrap().to_string(), address);
        assert_eq!(resolver.asked.load(Relaxed), 1);
    }

    /// A certificate for `agent.example` under a root of its own, both good from 2020 to 2120, and the key that nobody else uses.
    const ROOT: &str = include_str!("testdata/root.pem");
    const LEAF: &str = include_str!("testdata/agent.example.pem");
    const LEAF_KEY: &str = include_str!("testdata/agent.example.key");

    fn test_roots() -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(ROOT.as_bytes()).unwrap())
            .unwrap();
        roots
    }

    /// Accepts TLS connections as `agent.example`; each is told the name that the client asked for.
    async fn tls_server() -> SocketAddr {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = vec![CertificateDer::from_pem_slice(LEAF.as_bytes()).unwrap()];
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(LEAF_KEY.as_bytes()).unwrap())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                if let Ok(mut tls) = acceptor.accept(tcp).await {
                    let asked = tls.get_ref().1.server_name().unwrap_or_default().to_owned();
                    let _ = tls.write_all(asked.as_bytes()).await;
                    let _ = tls.shutdown().await;
                }
            }
        });
        address
    }

    async fn over_tls(host: &str, roots: RootCertStore) -> Result<String, ConnectError> {
        let server = tls_server().await.to_string();
        let guard = Guard::new(Loopback::Allowed, Vec::new());
        let resolver = Scripted::new(&[&[&server]]);
        let connector = Connector::new(guard, resolver, tls_config_with(roots), Duration::from_secs(5));
        let stream = connector.connect(format!("https://{host}/").parse().unwrap()).await?;
        let mut asked = String::new();
        stream.into_inner().read_to_string(&mut asked).await.unwrap();
        Ok(asked)
    }

    #[tokio::test]
    async fn tls_is_verified_against_the_name_and_not_the_address() {
        assert_eq!(over_tls("agent.example", test_roots()).await.unwrap(), "agent.example");
        for (host, roots) in [
            ("other.example", test_roots()),
            (
                "agent.example",
                RootCertStore {
                    roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
                },
            ),
        ] {
            let error = over_tls(host, roots).await.expect_err(host);
            assert!(matches!(error, ConnectError::Tls { .. }), "{error}");
        }
    }

    #[test]
    fn endpoints_are_http_urls_without_credentials() {
        assert!(endpoint("http://127.0.0.1:8080/api").is_ok());
        assert!(endpoint("https://agent.example").is_ok());
        for text in [
            "",
            "/api",
            "ftp://a/",
            "file:///etc/passwd",
            "http://user:word@a/",
            "http:///x",
            "agent.example",
        ] {
            assert!(endpoint(text).is_err(), "{text}");
        }
    }
}
