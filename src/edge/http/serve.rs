//! The listener: takes connections within their limits, serves HTTP/1.1 and HTTP/2 on each, and ends them in order.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, body::Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
};
use tokio::net::{TcpListener, TcpStream};
use tower::{Service, ServiceExt};

use super::{config::Config, connection::Connection, head::HeadLimits};
use crate::edge::counters::Counters;

/// How long the listener rests after `accept` failed, such as for want of file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// HTTP/2 pings an idle connection this often, and closes one that does not answer within the same time.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Most data that one HTTP/2 connection may have under way to this node: 128 streams would hold 128 MiB otherwise.
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Most data that one HTTP/2 stream may have under way: a message.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;

/// HTTP/2 takes heads so many times the limit, so that the edge refuses them with a problem; the codec's own refusal has no body.
const HTTP2_HEADER_SLACK: usize = 2;

/// Serves until `shutdown` completes, then lets requests under way finish for at most `patience`.
///
/// Long polls and streams end with their sessions, which the router's drain tells goodbye: drain it before `shutdown`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    config: Config,
    counters: Arc<Counters>,
    shutdown: impl Future<Output = ()>,
    patience: Duration,
) {
    let gate = Arc::new(Gate::new(&config, counters));
    let server = Server {
        builder: builder(&config),
        graceful: GracefulShutdown::new(),
        router,
        limits: HeadLimits::of(&config),
        config,
    };
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Some(pass) = Gate::enter(&gate, peer.ip()) {
                    server.take(stream, peer, pass);
                }
            }
            Err(error) => rest(&error).await,
        }
    }
    drop(listener);
    // What is still open then is cut off with the runtime.
    let _ = tokio::time::timeout(patience, server.graceful.shutdown()).await;
}

/// A peer that is gone already is no reason to rest.
async fn rest(error: &io::Error) {
    let peer_gone = matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    );
    if !peer_gone {
        tracing::warn!(%error, "a connection was not accepted");
        tokio::time::sleep(ACCEPT_REST).await;
    }
}

fn builder(config: &Config) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    let header_bytes = config.header_bytes_max;
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(config.header_timeout_ms))
        .max_headers(config.headers_max)
        // hyper's least is 8 KiB.
        .max_buf_size(header_bytes.max(8 * 1024));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.streams_per_connection_max)
        .max_header_list_size(u32::try_from(header_bytes * HTTP2_HEADER_SLACK).unwrap_or(u32::MAX))
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL);
    builder
}

/// What every connection is served with.
struct Server {
    builder: Builder<TokioExecutor>,
    graceful: GracefulShutdown,
    router: Router,
    config: Config,
    limits: HeadLimits,
}

impl Server {
    fn take(&self, stream: TcpStream, peer: SocketAddr, pass: Pass) {
        // Without it an answer waits for the peer's acknowledgement of the one before; a socket that refuses still works.
        let _ = stream.set_nodelay(true);
        let connection = Connection::new(
            stream,
            Arc::clone(&pass.gate.counters),
            Duration::from_millis(self.config.header_timeout_ms),
            Duration::from_millis(self.config.write_timeout_ms),
            self.limits,
        );
        let router = self.router.clone();
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            let mut router = router.clone();
            async move {
                let ready = ServiceExt::<Request<Body>>::ready(&mut router).await;
                let router = ready.unwrap_or_else(|never: Infallible| match never {});
                router.call(request.map(Body::new)).await
            }
        });
        let serving = self
            .builder
            .serve_connection_with_upgrades(TokioIo::new(connection), service);
        let serving = self.graceful.watch(serving.into_owned());
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%peer, error, "a connection ended early");
            }
            drop(pass);
        });
    }
}

/// Counts connections, in all and by address.
struct Gate {
    connections_max: usize,
    per_address_max: usize,
    counters: Arc<Counters>,
    /// Addresses with a connection: at most as many as there may be connections.
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// The right to one connection, given back when dropped.
struct Pass {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Gate {
    fn new(config: &Config, counters: Arc<Counters>) -> Self {
        Self {
            connections_max: config.connections_max,
            per_address_max: config.connections_per_address_max,
            counters,
            open: Mutex::default(),
        }
    }

    fn enter(gate: &Arc<Self>, address: IpAddr) -> Option<Pass> {
        let mut open = gate.lock();
        let here = open.by_address.get(&address).copied().unwrap_or_default();
        if open.all >= gate.connections_max || here >= gate.per_address_max {
            Counters::add(&gate.counters.connections_refused, 1);
            return None;
        }
        open.all += 1;
        open.by_address.insert(address, here + 1);
        Counters::add(&gate.counters.connections, 1);
        Counters::add(&gate.counters.connections_total, 1);
        Some(Pass {
            gate: Arc::clone(gate),
            address,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        // Nothing panics while the lock is held.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut open = self.gate.lock();
        open.all -= 1;
        if let Some(here) = open.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                open.by_address.remove(&self.address);
            }
        }
        self.gate.counters.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_bounds_connections_in_all_and_by_address() {
        let config = Config {
            connections_max: 3,
            connections_per_address_max: 2,
            ..Config::default()
        };
        let gate = Arc::new(Gate::new(&config, Arc::default()));
        let address = |last| IpAddr::from([127, 0, 0, last]);
        let first = Gate::enter(&gate, address(1));
        let _second = Gate::enter(&gate, address(1)).unwrap();
        assert!(first.is_some() && Gate::enter(&gate, address(1)).is_none());
        let _third = Gate::enter(&gate, address(2)).unwrap();
        assert!(Gate::enter(&gate, address(3)).is_none());
        drop(first);
        assert!(Gate::enter(&gate, address(1)).is_some());
        assert_eq!(gate.counters.snapshot().connections_refused, 2);
        assert_eq!(gate.lock().all, 2);
    }
}
