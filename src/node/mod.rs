//! L6: the node, the only place that knows all the others: it configures, binds, wires, announces and drains them.
//!
//! Must never hold what a message is or does; that is below. [`run`] is the story; [`config`] is what can be set.

mod bind;
pub mod config;
mod edges;
pub mod failure;
pub mod policy;
mod protocols;
mod signals;
mod storage;
pub mod telemetry;

use std::{
    io::{self, IsTerminal, Write},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{self, Handle, Runtime};
use tokio_util::sync::CancellationToken;

use crate::edge::mqtt;
use crate::router::{
    Fabric,
    error::FabricError,
    port::{Ports, Store, Table},
};
use bind::Sockets;
use config::{Config, Gathered};
use edges::Edges;
use failure::{Exit, Failure};

/// How long tasks that are left after the drain may hold up the exit; they hold nothing that is not committed.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(1);

/// Runs a node until a signal ends it.
pub fn run(gathered: Gathered) -> Result<(), Failure> {
    let config = &gathered.config;
    telemetry::log::start(&config.log).map_err(|error| Failure::new(Exit::Config, "cannot log", error, ""))?;
    for warning in &gathered.warnings {
        tracing::warn!("{warning}");
    }
    raise_descriptor_limit();
    let quic = runtime("weft-quic", config.node.quic_threads())?;
    let tcp = runtime("weft-tcp", config.node.tcp_threads())?;
    let outcome = tcp.block_on(serve(config, quic.handle()));
    quic.shutdown_timeout(RUNTIME_PATIENCE);
    tcp.shutdown_timeout(RUNTIME_PATIENCE);
    outcome
}

fn runtime(name: &str, threads: usize) -> Result<Runtime, Failure> {
    let built = runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build();
    built.map_err(|error| {
        Failure::new(
            Exit::Io,
            "cannot start",
            error,
            "raise the limits of threads and file descriptors",
        )
    })
}

/// Start to end. A signal ends it wherever it is. `quic` runs what serves QUIC.
async fn serve(config: &Config, quic: &Handle) -> Result<(), Failure> {
    let stop = signals::watch()?;
    let (fabric, mut edges) = tokio::select! {
        started = start(config, quic) => started?,
        () = stop.cancelled() => {
            tracing::info!("stopped before it was ready");
            return Ok(());
        }
    };
    announce(config, &edges);
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        failure = edges.failed() => Err(failure),
    };
    drain(config, fabric, edges).await.and(ended)
}

/// Listeners first: a wrong address is told before a store is recovered.
async fn start(config: &Config, quic: &Handle) -> Result<(Fabric, Edges), Failure> {
    let sockets = Sockets::bind(config).await?;
    let store = storage::open(config).await?;
    let fabric = start_router(config, store).await?;
    let edges = Edges::start(config, &fabric, sockets, quic)?;
    Ok((fabric, edges))
}

async fn start_router(config: &Config, store: Arc<dyn Store>) -> Result<Fabric, Failure> {
    let ports = Ports {
        store,
        policy: config.policy.policy(),
    };
    let started = match ports.store.scan_records(Table::Sessions).await {
        Ok(kept) => Fabric::start_holding(ports, config.router.clone(), &mqtt::held(&kept)).await,
        Err(error) => Err(error.into()),
    };
    started.map_err(|error| fabric_failure("the router cannot start", &error))
}

/// One line for programs, and for a person at a terminal the first things to try.
fn announce(config: &Config, edges: &Edges) {
    let listeners: Vec<_> = edges
        .listeners()
        .map(|(name, address)| format!("{name}={address}"))
        .collect();
    let certificate = edges
        .fingerprint()
        .map(|fingerprint| format!(" certificate={fingerprint}"));
    let line = format!("weft ready {}{}", listeners.join(" "), certificate.unwrap_or_default());
    let mut stdout = io::stdout().lock();
    // Nobody reads it: the node serves regardless.
    let _unread = writeln!(stdout, "{}", line.trim_end()).and_then(|()| stdout.flush());
    tracing::info!(
        node = config.node.id,
        version = env!("CARGO_PKG_VERSION"),
        listeners = listeners.join(" "),
        "ready"
    );
    if config.node.insecure {
        tracing::warn!("--insecure: whoever reaches the listeners can send and receive in any agent's name");
    }
    if io::stderr().is_terminal() {
        let _unread = io::stderr().write_all(edges.first_steps().as_bytes());
    }
}

/// Not ready, goodbye on each protocol, what is under way committed, the store closed: within a bound.
async fn drain(config: &Config, fabric: Fabric, edges: Edges) -> Result<(), Failure> {
    let patience = config.node.drain_timeout();
    tracing::info!(patience_ms = config.node.drain_timeout_ms, "draining");
    fabric.drain();
    edges.stop(patience).await;
    let stopped = fabric.stop(patience).await;
    stopped.map_err(|error| fabric_failure("the node did not stop in order", &error))?;
    tracing::info!("stopped");
    Ok(())
}

fn fabric_failure(what: &str, error: &FabricError) -> Failure {
    let (cause, fix) = error.to_string().split_once("; ").map_or_else(
        || (error.to_string(), String::new()),
        |(cause, fix)| (cause.to_string(), fix.to_string()),
    );
    let code = error.code();
    let exit = if code.retryable { Exit::TempFail } else { Exit::Software };
    Failure {
        code: Some(format!("WEFT-{:04}", code.number)),
        ..Failure::new(exit, what, cause, fix)
    }
}

/// Connections are file descriptors, and most systems start processes with room for 1,024.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of file descriptors stays as it was");
    }
}

/// Ends everything that waits on it.
type Stop = CancellationToken;
