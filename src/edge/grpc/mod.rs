//! The gRPC edge: `weft.v1` over HTTP/2, with health, reflection and google.rpc error details.
//!
//! Owns connections' limits and the mapping of calls and streams to the door. Must never know a store or another edge.
//! Start at [`serve`]; `stream` is the long-lived session, `messaging`, `registry` and `groups` are the single calls.

mod accept;
mod config;
pub mod error;
mod groups;
mod identify;
mod messaging;
mod poll;
mod registry;
mod show;
mod stream;

use std::{sync::Arc, time::Duration};

use prost::Message;
use thiserror::Error;
use tokio::{net::TcpListener, time};
use tokio_util::sync::CancellationToken;
use tonic::{Response, codec::CompressionEncoding, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

pub use accept::Listeners;
pub use config::Config;

use self::{identify::IdentifyLayer, poll::Polls};
use super::{auth::Authenticator, counters::Counters};
use crate::{
    router::{Fabric, surface::Protocol},
    rpc::{
        FILE_DESCRIPTOR_SET,
        v1::{groups_server::GroupsServer, messaging_server::MessagingServer, registry_server::RegistryServer},
    },
};

/// What an item may hold beside one largest body: envelopes, and small messages around it.
const ITEM_OVERHEAD_BYTES: usize = 1024 * 1024;
/// Largest header list of a call: attacks.md's 16 KiB.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Streams that a peer reset before they were taken (CVE-2023-44487): beyond it the connection ends.
const PENDING_RESETS_MAX: usize = 20;
/// Streams that this side reset for the peer's errors (CVE-2025-8671): beyond it the connection ends.
const LOCAL_RESETS_MAX: usize = 256;
/// Answers below this are not worth compressing: the encoder's own cost is above what it saves.
const COMPRESS_ABOVE_BYTES: usize = 4 * 1024;
/// How often the health service asks the node whether it takes traffic.
const HEALTH_INTERVAL: Duration = Duration::from_millis(250);
/// The services whose health is told; the empty name is the server as a whole.
const SERVICES: [&str; 4] = ["", "weft.v1.Messaging", "weft.v1.Registry", "weft.v1.Groups"];

/// What the edge stands on.
#[derive(Clone, Debug)]
pub struct Door {
    pub fabric: Fabric,
    pub authenticator: Arc<dyn Authenticator>,
    pub counters: Arc<Counters>,
    /// Protocols that this node serves, for registrations' answers.
    pub protocols: Arc<[Protocol]>,
}

/// Why the edge could not serve. The node's or the operator's matter.
#[derive(Debug, Error)]
pub enum ServeError {
    #[error("the gRPC server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("the proto files could not be served by reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The services' common ground.
#[derive(Clone, Debug)]
struct Edge {
    door: Door,
    polls: Arc<Polls>,
    shutdown: CancellationToken,
}

impl Edge {
    /// An answer, compressed only where that may pay.
    fn answer<T: Message>(&self, answer: T) -> Response<T> {
        let small = answer.encoded_len() < COMPRESS_ABOVE_BYTES;
        let mut response = Response::new(answer);
        if small {
            response.disable_compression();
        }
        response
    }
}

/// [`serve_on`] a listener without TLS.
pub async fn serve(
    listener: TcpListener,
    door: Door,
    config: Config,
    shutdown: CancellationToken,
    patience: Duration,
) -> Result<(), ServeError> {
    let listeners = Listeners {
        plain: Some(listener),
        ..Listeners::default()
    };
    serve_on(listeners, door, config, shutdown, patience).await
}

/// Serves until `shutdown`; then says goodbye on every stream, lets calls end for as long as `patience` and returns.
pub async fn serve_on(
    listeners: Listeners,
    door: Door,
    config: Config,
    shutdown: CancellationToken,
    patience: Duration,
) -> Result<(), ServeError> {
    let idle = Duration::from_millis(config.poll_session_idle_ms);
    let polls = Arc::new(Polls::new(door.fabric.clone(), config.poll_sessions_max, idle));
    let edge = Edge {
        door: door.clone(),
        polls: Arc::clone(&polls),
        shutdown: shutdown.clone(),
    };
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = config.reflection.then(|| described().build_v1()).transpose()?;
    // Debian's grpcurl and the Python client still ask in the older version.
    let reflection_alpha = config.reflection.then(|| described().build_v1alpha()).transpose()?;
    let item_bytes_max = door.fabric.config().message_bytes_max + ITEM_OVERHEAD_BYTES;
    /// Sets what all services have in common.
    macro_rules! service {
        ($server:ident) => {{
            let service = $server::new(edge.clone())
                .max_decoding_message_size(item_bytes_max)
                .max_encoding_message_size(usize::MAX)
                .accept_compressed(CompressionEncoding::Zstd)
                .accept_compressed(CompressionEncoding::Gzip);
            if config.compress_answers {
                service
                    .send_compressed(CompressionEncoding::Zstd)
                    .send_compressed(CompressionEncoding::Gzip)
            } else {
                service
            }
        }};
    }
    let server = builder(&config)
        .layer(IdentifyLayer {
            authenticator: Arc::clone(&door.authenticator),
            counters: Arc::clone(&door.counters),
        })
        .add_service(service!(MessagingServer))
        .add_service(service!(RegistryServer))
        .add_service(service!(GroupsServer))
        .add_service(health)
        .add_optional_service(reflection)
        .add_optional_service(reflection_alpha)
        .serve_with_incoming_shutdown(
            accept::incoming(listeners, &config, Arc::clone(&door.counters)),
            shutdown.clone().cancelled_owned(),
        );
    let cut = async {
        shutdown.cancelled().await;
        time::sleep(patience).await;
    };
    let beside = async {
        tokio::join!(
            polls.sweep(shutdown.clone()),
            tell_health(&door.fabric, reporter, &shutdown)
        );
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = server => Ok(served?),
        () = cut => {
            tracing::warn!("gRPC calls were cut: they did not end in time");
            Ok(())
        }
        () = beside => unreachable!("it waits for ever behind its two loops"),
    }
}

fn builder(config: &Config) -> Server {
    Server::builder()
        .initial_connection_window_size(config.connection_window_bytes)
        .initial_stream_window_size(config.stream_window_bytes)
        .max_concurrent_streams(config.streams_per_connection_max)
        .concurrency_limit_per_connection(config.streams_per_connection_max as usize)
        .http2_keepalive_interval(Some(Duration::from_millis(config.keepalive_interval_ms)))
        .http2_keepalive_timeout(Some(Duration::from_millis(config.keepalive_timeout_ms)))
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(LOCAL_RESETS_MAX))
        .timeout(Duration::from_millis(config.call_timeout_ms))
}

/// Everything that reflection tells, in whichever of its versions.
fn described() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Tells the health of every service as the node sees it; at the end ends the watches, which would outlast every patience.
async fn tell_health(fabric: &Fabric, mut reporter: HealthReporter, shutdown: &CancellationToken) {
    let mut ticks = time::interval(HEALTH_INTERVAL);
    let mut told = None;
    while !shutdown.is_cancelled() {
        let status = match fabric.not_ready() {
            None => ServingStatus::Serving,
            Some(_) => ServingStatus::NotServing,
        };
        if told != Some(status) {
            tell(&reporter, status).await;
            told = Some(status);
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = ticks.tick() => {}
        }
    }
    tell(&reporter, ServingStatus::NotServing).await;
    for service in SERVICES {
        reporter.clear_service_status(service).await;
    }
}

async fn tell(reporter: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}
