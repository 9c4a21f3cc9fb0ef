//! Connections before their first byte: taken, counted, limited, and handed to a task of their own.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::{Edge, Listeners, connection};
use crate::edge::{
    gate::Pass,
    stream::{Calls, Stream},
};

/// How long to wait after a failed accept (no more file descriptors, mostly): connections that end meanwhile free some.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Takes connections from all listeners, for ever.
pub(super) async fn run(listeners: Listeners, edge: &Arc<Edge>, connections: &TaskTracker) {
    let Listeners { plain, tls, carried } = listeners;
    tokio::join!(
        async {
            if let Some(listener) = plain {
                take_plain(&listener, edge, connections).await;
            }
        },
        async {
            if let Some((listener, config)) = tls {
                take_tls(&listener, config, edge, connections).await;
            }
        },
        async {
            if let Some(carried) = carried {
                take_carried(carried, edge, connections).await;
            }
        },
    );
    std::future::pending::<()>().await;
}

async fn accept(listener: &TcpListener, edge: &Edge) -> (TcpStream, SocketAddr, Pass) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(pass) = edge.gate.enter(peer.ip()) else {
                    continue;
                };
                match stream.set_nodelay(true) {
                    Ok(()) => return (stream, peer, pass),
                    // The peer is gone already.
                    Err(error) => tracing::debug!(%peer, %error, "an MQTT connection ended before it began"),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "an MQTT connection was not accepted");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn take_plain(listener: &TcpListener, edge: &Arc<Edge>, connections: &TaskTracker) {
    loop {
        let (stream, peer, pass) = accept(listener, edge).await;
        connections.spawn(connection::serve(Arc::clone(edge), Stream::Tcp(stream), peer, pass));
    }
}

/// Handshakes run beside each other: a slow one holds nobody up. Those under way are bounded by the gate.
async fn take_tls(listener: &TcpListener, config: Arc<ServerConfig>, edge: &Arc<Edge>, connections: &TaskTracker) {
    let acceptor = TlsAcceptor::from(config);
    loop {
        let (stream, peer, pass) = accept(listener, edge).await;
        let (acceptor, edge) = (acceptor.clone(), Arc::clone(edge));
        connections.spawn(async move {
            let patience = edge.config.connect_timeout();
            // Boxed: it is large, and over before the connection begins.
            match Box::pin(timeout(patience, acceptor.accept(stream))).await {
                Ok(Ok(stream)) => connection::serve(edge, Stream::Tls(Box::new(stream)), peer, pass).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                Err(_late) => tracing::debug!(%peer, "a TLS handshake took too long"),
            }
        });
    }
}

async fn take_carried(mut carried: mpsc::Receiver<Calls>, edge: &Arc<Edge>, connections: &TaskTracker) {
    while let Some(Calls { stream, peer }) = carried.recv().await {
        if let Some(pass) = edge.gate.enter(peer.ip()) {
            connections.spawn(connection::serve(Arc::clone(edge), Stream::Carried(stream), peer, pass));
        }
    }
}
