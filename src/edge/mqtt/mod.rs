//! The MQTT edge: 3.1.1 and 5 over TCP, TLS and, handed on by the WebSocket edge, WebSocket.
//!
//! Moves bytes and carries out what the pure machine of `crate::mqtt` decides: its actions go to the router's door, its records to the
//! store by the same door. Owns connections' limits and which sessions there are ([`book`]). Must never know a store or another
//! edge. Start at [`serve`]; `connection` is the way of one connection.

mod accept;
mod actions;
mod book;
mod config;
mod connection;
mod due;
mod outcome;
mod record;
mod retained;
mod sys;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use config::Config;

use self::{book::Book, sys::Sys};
use super::{auth::Authenticator, counters::Counters, gate::Gate, stream::Calls};
use crate::{
    mqtt,
    router::{Fabric, Hold, error::FabricError, port::Records},
    time,
};

/// What the edge stands on.
#[derive(Clone, Debug)]
pub struct Door {
    pub fabric: Fabric,
    pub authenticator: Arc<dyn Authenticator>,
    pub counters: Arc<Counters>,
}

/// Where connections come from. Whatever is `None` is off.
#[derive(Debug, Default)]
pub struct Listeners {
    pub plain: Option<TcpListener>,
    pub tls: Option<(TcpListener, Arc<ServerConfig>)>,
    /// Byte streams of WebSocket connections.
    pub carried: Option<mpsc::Receiver<Calls>>,
}

/// What all connections share.
#[derive(Debug)]
struct Edge {
    door: Door,
    config: Config,
    machine: Arc<mqtt::Config>,
    book: Arc<Book>,
    gate: Arc<Gate>,
    sys: Sys,
    shutdown: CancellationToken,
    /// Packets in and out, by what `$SYS` says of them.
    publishes_in: AtomicU64,
    publishes_out: AtomicU64,
}

/// The messages that sessions had been sent and not answered, out of all that was kept of sessions: for [`Fabric::start_holding`].
pub fn held(kept: &Records) -> Vec<Hold> {
    book::held(kept, time::now())
}

/// Serves until `shutdown`; then says goodbye on every connection, lets them end for as long as `patience` and returns.
///
/// Fails where the sessions that were kept cannot be read.
pub async fn serve(
    listeners: Listeners,
    door: Door,
    config: Config,
    shutdown: CancellationToken,
    patience: Duration,
) -> Result<(), FabricError> {
    let book = Arc::new(Book::open(door.fabric.clone()).await?);
    let gate = Gate::new(
        config.connections_max,
        config.connections_per_address_max,
        Arc::clone(&door.counters),
    );
    let expiry_max = Duration::from_millis(door.fabric.config().ttl_max_ms);
    let edge = Arc::new(Edge {
        machine: Arc::new(config.of_sessions(expiry_max)),
        book: Arc::clone(&book),
        gate: Arc::new(gate),
        sys: Sys::new(),
        shutdown: shutdown.clone(),
        publishes_in: AtomicU64::new(0),
        publishes_out: AtomicU64::new(0),
        door,
        config,
    });
    let connections = TaskTracker::new();
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = accept::run(listeners, &edge, &connections) => {}
        () = book.keep_time() => {}
        () = sys::publish(&edge) => {}
    }
    connections.close();
    // The fabric said goodbye to each session, and whoever has none is closed.
    if tokio::time::timeout(patience, connections.wait()).await.is_err() {
        tracing::warn!("MQTT connections were cut: they did not end in time");
    }
    Ok(())
}
