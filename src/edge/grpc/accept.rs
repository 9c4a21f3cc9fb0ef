//! Connections before HTTP/2: taken, counted, limited and held to a time for the first bytes.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep},
};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::Config;
use crate::edge::counters::Counters;

/// HTTP/2's connection preface (RFC 9113 §3.4) and the head of the SETTINGS frame behind it.
const PREFACE_BYTES: usize = 24 + 9;
/// How long to wait after a failed accept (no more file descriptors, mostly): connections that end meanwhile free some.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The connections of a listener.
pub fn incoming(
    listener: TcpListener,
    config: &Config,
    counters: Arc<Counters>,
) -> impl Stream<Item = io::Result<Connection>> + use<> {
    let gate = Arc::new(Gate {
        max: config.connections_max,
        per_address_max: config.connections_per_address_max,
        open: Mutex::default(),
        counters,
    });
    let patience = config.handshake_timeout();
    stream::unfold((listener, gate), move |(listener, gate)| async move {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    if let Some(connection) = Connection::new(stream, peer, &gate, patience) {
                        return Some((Ok(connection), (listener, gate)));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a gRPC connection was not accepted");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    })
}

/// Who is in, by address.
#[derive(Debug)]
struct Gate {
    max: usize,
    per_address_max: usize,
    open: Mutex<(usize, HashMap<IpAddr, usize>)>,
    counters: Arc<Counters>,
}

impl Gate {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Pass> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = open.1.get(&address).copied().unwrap_or(0);
        if open.0 >= self.max || of_address >= self.per_address_max {
            Counters::add(&self.counters.connections_refused, 1);
            return None;
        }
        open.0 += 1;
        open.1.insert(address, of_address + 1);
        Counters::add(&self.counters.connections, 1);
        Counters::add(&self.counters.connections_total, 1);
        Some(Pass {
            gate: Arc::clone(self),
            address,
        })
    }

    fn leave(&self, address: IpAddr) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.0 -= 1;
        if let Some(of_address) = open.1.get_mut(&address) {
            *of_address -= 1;
            if *of_address == 0 {
                open.1.remove(&address);
            }
        }
        self.counters
            .connections
            .fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// A connection's place behind the gate; leaves it when dropped.
#[derive(Debug)]
struct Pass {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.leave(self.address);
    }
}

/// A TCP connection that must say its preface in time.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    pass: Pass,
    /// Until the preface was read: how many of its bytes were, and the end of the patience.
    handshake: Option<(usize, Pin<Box<Sleep>>)>,
}

impl Connection {
    fn new(stream: TcpStream, peer: SocketAddr, gate: &Arc<Gate>, patience: Duration) -> Option<Self> {
        let pass = gate.enter(peer.ip())?;
        if let Err(error) = stream.set_nodelay(true) {
            // The peer is gone already.
            tracing::debug!(%peer, %error, "a gRPC connection ended before it began");
            return None;
        }
        Some(Self {
            stream,
            peer,
            pass,
            handshake: Some((0, Box::pin(sleep(patience)))),
        })
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
        Counters::add(&this.pass.gate.counters.bytes_in, bytes);
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
            Counters::add(&self.pass.gate.counters.bytes_out, *bytes);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_closes_at_either_bound_and_opens_when_one_leaves() {
        let counters = Arc::new(Counters::default());
        let gate = Arc::new(Gate {
            max: 3,
            per_address_max: 2,
            open: Mutex::default(),
            counters: Arc::clone(&counters),
        });
        let (here, there) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = gate.enter(here).unwrap();
        let _second = gate.enter(here).unwrap();
        assert!(gate.enter(here).is_none(), "two of one address are in");
        let _third = gate.enter(there).unwrap();
        assert!(gate.enter(there).is_none(), "three are in");
        drop(first);
        assert!(gate.enter(here).is_some());
        assert_eq!(counters.snapshot().connections, 2);
        assert_eq!(counters.snapshot().connections_refused, 2);
    }
}
