//! Connections before HTTP/2: taken, counted, limited and held to a time for the first bytes.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::transport::server::Connected;

use super::Config;
use crate::edge::{
    counters::Counters,
    gate::{Gate, Pass},
    stream::{self as transport, Calls},
};

/// HTTP/2's connection preface (RFC 9113 §3.4) and the head of the SETTINGS frame behind it.
const PREFACE_BYTES: usize = 24 + 9;
/// How long to wait after a failed accept (no more file descriptors, mostly): connections that end meanwhile free some.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Connections that finished their TLS handshake and were not taken yet: beyond it they wait.
const HANDSHAKEN_MAX: usize = 64;

/// Where connections come from. Whatever is `None` is off.
#[derive(Debug, Default)]
pub struct Listeners {
    pub plain: Option<TcpListener>,
    pub tls: Option<(TcpListener, Arc<ServerConfig>)>,
    /// Streams of other protocols' connections that carry calls.
    pub carried: Option<mpsc::Receiver<Calls>>,
}

/// The connections of all listeners.
pub fn incoming(
    listeners: Listeners,
    config: &Config,
    counters: Arc<Counters>,
) -> impl Stream<Item = io::Result<Connection>> + use<> {
    let gate = Arc::new(Gate::new(
        config.connections_max,
        config.connections_per_address_max,
        Arc::clone(&counters),
    ));
    let patience = config.handshake_timeout();
    let plain = listeners
        .plain
        .map(|listener| tcp(listener, Arc::clone(&gate), patience).boxed());
    let tls = listeners
        .tls
        .map(|(listener, config)| tls(listener, config, gate, patience).boxed());
    let carried = listeners.carried.map(|calls| {
        let connection = move |calls: Calls| Ok(Connection::carried(calls, Arc::clone(&counters), patience));
        ReceiverStream::new(calls).map(connection).boxed()
    });
    // A source that is over must not end the others, nor the server with the last of them.
    let sources = [plain, tls, carried]
        .into_iter()
        .flatten()
        .chain([stream::pending().boxed()]);
    stream::select_all(sources)
}

/// The connections of a TCP listener, as they come.
async fn accept(listener: &TcpListener, gate: &Arc<Gate>) -> (TcpStream, SocketAddr, Pass) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(pass) = gate.enter(peer.ip()) else { continue };
                match stream.set_nodelay(true) {
                    Ok(()) => return (stream, peer, pass),
                    // The peer is gone already.
                    Err(error) => tracing::debug!(%peer, %error, "a gRPC connection ended before it began"),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a gRPC connection was not accepted");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

fn tcp(listener: TcpListener, gate: Arc<Gate>, patience: Duration) -> impl Stream<Item = io::Result<Connection>> {
    stream::unfold((listener, gate), move |(listener, gate)| async move {
        let (stream, peer, pass) = accept(&listener, &gate).await;
        let connection = Connection::new(transport::Stream::Tcp(stream), peer, Held::Pass(pass), patience);
        Some((Ok(connection), (listener, gate)))
    })
}

/// Handshakes run beside each other: a slow one holds nobody up. Those under way are bounded by the gate.
fn tls(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    gate: Arc<Gate>,
    patience: Duration,
) -> impl Stream<Item = io::Result<Connection>> {
    let acceptor = TlsAcceptor::from(config);
    let (ready, connections) = mpsc::channel(HANDSHAKEN_MAX);
    tokio::spawn(async move {
        let mut handshakes = JoinSet::new();
        loop {
            let (stream, peer, pass) = tokio::select! {
                accepted = accept(&listener, &gate) => accepted,
                () = ready.closed() => return,
                Some(_ended) = handshakes.join_next() => continue,
            };
            let (acceptor, ready) = (acceptor.clone(), ready.clone());
            handshakes.spawn(async move {
                match timeout(patience, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let stream = transport::Stream::Tls(Box::new(stream));
                        let connection = Connection::new(stream, peer, Held::Pass(pass), patience);
                        // The server is gone: it takes no more.
                        let _ = ready.send(Ok(connection)).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                    Err(_late) => tracing::debug!(%peer, "a TLS handshake took too long"),
                }
            });
        }
    });
    ReceiverStream::new(connections)
}

/// What a connection holds as long as it lives.
#[derive(Debug)]
enum Held {
    Pass(Pass),
    /// Another edge let it in, and counted it.
    Counters(Arc<Counters>),
}

impl Held {
    fn counters(&self) -> &Counters {
        match self {
            Self::Pass(pass) => pass.counters(),
            Self::Counters(counters) => counters,
        }
    }
}

/// A connection that must say its preface in time.
#[derive(Debug)]
pub struct Connection {
    stream: transport::Stream,
    peer: SocketAddr,
    held: Held,
    /// Until the preface was read: how many of its bytes were, and the end of the patience.
    handshake: Option<(usize, Pin<Box<Sleep>>)>,
}

impl Connection {
    fn new(stream: transport::Stream, peer: SocketAddr, held: Held, patience: Duration) -> Self {
        Self {
            stream,
            peer,
            held,
            handshake: Some((0, Box::pin(sleep(patience)))),
        }
    }

    fn carried(calls: Calls, counters: Arc<Counters>, patience: Duration) -> Self {
        let stream = transport::Stream::Carried(calls.stream);
        Self::new(stream, calls.peer, Held::Counters(counters), patience)
    }
}

/// What requests of a connection know of it.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer(self.peer)
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        Counters::add(&this.held.counters().bytes_in, bytes);
        if let Some((so_far, patience)) = &mut this.handshake {
            *so_far += bytes;
            if *so_far >= PREFACE_BYTES {
                this.handshake = None;
            } else if patience.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "no HTTP/2 preface in time",
                )));
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connection {
    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            Counters::add(&self.held.counters().bytes_out, *bytes);
        }
        written
    }
}
