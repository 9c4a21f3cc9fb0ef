//! The QUIC edge: the native protocol `weft/1` for agents, with calls (gRPC) beside it on the same connection.
//!
//! Owns connections' limits and the mapping of control frames and batches to the door; the bytes are `native`'s. Must never
//! know a store or another edge. Start at [`serve`]; `connection` is the way of one connection, `session` its frames,
//! `writer` what goes out.

mod accept;
mod config;
mod connection;
mod problem;
mod publish;
mod resume;
mod session;
mod writer;

use std::{sync::Arc, time::Duration};

use quinn::{Endpoint, ServerConfig, TokioRuntime, VarInt, crypto::rustls::QuicServerConfig};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use config::Config;

use self::{accept::Doorman, resume::Sessions};
use super::{auth::Authenticator, counters::Counters, stream::Calls};
use crate::{
    native::{ALPN, Close},
    router::Fabric,
};

/// Bytes that a connection may have under way unread before its greeting: attacks.md's 16 KiB.
const UNREAD_BEFORE_GREETING_BYTES_MAX: u32 = 16 * 1024;
/// Bytes of packets kept for a connection that was not looked at yet, and for all of those together.
const INCOMING_BYTES_MAX: u64 = 16 * 1024;
const INCOMING_BYTES_TOTAL_MAX: u64 = 4 * 1024 * 1024;
/// How long the last packets may take after every connection was closed.
const CLOSE_PATIENCE: Duration = Duration::from_millis(200);

/// What the edge stands on.
#[derive(Clone, Debug)]
pub struct Door {
    pub fabric: Fabric,
    pub authenticator: Arc<dyn Authenticator>,
    pub counters: Arc<Counters>,
    /// Takes streams that carry calls; `None` where nobody serves them.
    pub calls: Option<mpsc::Sender<Calls>>,
}

/// Why the edge could not serve. The node's or the operator's matter.
#[derive(Debug, Error)]
pub enum ServeError {
    #[error("the certificate or key cannot be used for QUIC: {0}")]
    Tls(String),
    #[error("the QUIC socket failed: {0}")]
    Socket(#[from] std::io::Error),
}

/// What all connections share.
#[derive(Debug)]
struct Edge {
    door: Door,
    config: Config,
    sessions: Sessions,
    shutdown: CancellationToken,
}

/// Serves until `shutdown`; then says goodbye on every connection, lets them end for as long as `patience` and returns.
/// `tls` has the node's certificate; its ALPN list is replaced.
pub async fn serve(
    socket: std::net::UdpSocket,
    tls: Arc<rustls::ServerConfig>,
    door: Door,
    config: Config,
    shutdown: CancellationToken,
    patience: Duration,
) -> Result<(), ServeError> {
    let endpoint = endpoint(socket, tls, &config)?;
    let mut doorman = Doorman::new(&config, Arc::clone(&door.counters));
    let edge = Arc::new(Edge {
        door,
        config,
        sessions: Sessions::default(),
        shutdown: shutdown.clone(),
    });
    let connections = TaskTracker::new();
    loop {
        let incoming = tokio::select! {
            () = shutdown.cancelled() => break,
            incoming = endpoint.accept() => incoming,
        };
        // `None`: the endpoint was closed, which only happens below.
        let Some(incoming) = incoming else { break };
        if let Some(guest) = doorman.judge(incoming) {
            connections.spawn(connection::serve(Arc::clone(&edge), Box::new(guest)));
        }
    }
    endpoint.set_server_config(None);
    connections.close();
    if tokio::time::timeout(patience, connections.wait()).await.is_err() {
        tracing::warn!("QUIC connections were cut: they did not end in time");
    }
    endpoint.close(Close::Draining.code(), Close::Draining.reason().as_bytes());
    // The peers that did not confirm by then notice by their idle timeout.
    let _late = tokio::time::timeout(CLOSE_PATIENCE, endpoint.wait_idle()).await;
    Ok(())
}

fn endpoint(
    socket: std::net::UdpSocket,
    tls: Arc<rustls::ServerConfig>,
    config: &Config,
) -> Result<Endpoint, ServeError> {
    let mut tls = (*tls).clone();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    // What is sent before the handshake is done can be sent again by anybody: no 0-RTT.
    tls.max_early_data_size = 0;
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| ServeError::Tls(error.to_string()))?;
    let mut transport = config.link.transport(UNREAD_BEFORE_GREETING_BYTES_MAX, 0);
    transport.max_concurrent_bidi_streams(VarInt::from_u32(1));
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(Arc::new(transport))
        .max_incoming(config.handshakes_max)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL_MAX)
        .migration(true);
    Ok(Endpoint::new(
        config.link.endpoint(),
        Some(server),
        socket,
        Arc::new(TokioRuntime),
    )?)
}
