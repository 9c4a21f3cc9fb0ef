//! The HTTP edge: the REST surface, long polls, event streams and their documentation.
//!
//! Owns routes, HTTP sessions and connections. Must never know a store or another edge; protocols beside it are only shown, through
//! [`Protocols`]. Everything it answers, errors included, is in `/openapi.json`. Start at [`router`]; [`serve()`] runs it.

mod agents;
mod config;
mod connection;
mod docs;
mod groups;
mod layers;
mod messages;
mod openapi;
mod operations;
mod protocols;
mod receive;
mod request;
mod respond;
mod serve;
mod session;

use std::{fmt, sync::Arc};

use axum::{
    Router,
    routing::{delete, get, post, put},
};
use tokio::sync::Semaphore;

pub use self::{
    config::Config,
    openapi::document as openapi_document,
    protocols::{Capabilities, Health, ProtocolView, Protocols},
    request::{BatchBody, Caller, JsonBody, Params, PathIds, header_value},
    respond::{Answer, json, json_text, no_content, with_body},
    serve::serve,
};
use self::{
    openapi::Operations,
    request::request_memory,
    session::{Sessions, Settings, desk::Spans},
};
use crate::{
    edge::{auth::Authenticator, counters::Counters, origin::Origins},
    router::Fabric,
};

/// What the node gives the edge.
#[derive(Clone)]
pub struct Services {
    pub fabric: Fabric,
    pub authenticator: Arc<dyn Authenticator>,
    pub protocols: Arc<dyn Protocols>,
    /// Renders the node's metrics in Prometheus' text format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// This edge's own counters, also read by the node's metrics.
    pub counters: Arc<Counters>,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services")
            .field("protocols", &self.protocols)
            .finish_non_exhaustive()
    }
}

/// Routes of another part of the surface (state, negotiation, WebSocket) that share this edge's listener, layers and document.
#[derive(Clone, Debug, Default)]
pub struct Mount {
    pub routes: Router<Arc<App>>,
    /// OpenAPI `paths` of those routes.
    pub paths: serde_json::Map<String, serde_json::Value>,
    /// OpenAPI `components.schemas` that they name.
    pub schemas: serde_json::Map<String, serde_json::Value>,
}

/// What every handler sees.
pub struct App {
    pub fabric: Fabric,
    pub config: Config,
    pub authenticator: Arc<dyn Authenticator>,
    pub protocols: Arc<dyn Protocols>,
    pub counters: Arc<Counters>,
    pub origins: Origins,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    sessions: Sessions,
    request_memory: Arc<Semaphore>,
    openapi: bytes::Bytes,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Builds the whole surface. `Err` holds a listed origin that is none. Call it inside a Tokio runtime.
pub fn router(services: Services, config: Config, mounts: Vec<Mount>) -> Result<Router, String> {
    let origins = Origins::new(&config.origins)?;
    let mut operations = Operations::of_this_edge(&services.fabric, &config);
    let mut routes = own_routes();
    for mount in mounts {
        routes = routes.merge(mount.routes);
        operations.add(mount.paths, mount.schemas);
    }
    let settings = Settings {
        sessions_max: config.sessions_max,
        spans: Spans {
            keep: config.session_keep(),
            grace: std::time::Duration::from_millis(config.auto_ack_grace_ms),
        },
        heartbeat_interval: std::time::Duration::from_millis(config.heartbeat_interval_ms),
    };
    let app = Arc::new(App {
        sessions: Sessions::new(services.fabric.clone(), settings, Arc::clone(&services.counters)),
        request_memory: request_memory(config.request_memory_bytes_max),
        openapi: operations.into_text(),
        fabric: services.fabric,
        authenticator: services.authenticator,
        protocols: services.protocols,
        counters: services.counters,
        metrics: services.metrics,
        origins,
        config,
    });
    Ok(layers::around(routes, app))
}

fn own_routes() -> Router<Arc<App>> {
    Router::new()
        .merge(agent_routes())
        .merge(message_routes())
        .merge(group_routes())
        .merge(operation_routes())
}

fn agent_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/agents", get(agents::list))
        .route("/agents/register", post(agents::register))
        .route("/agents/connections", get(agents::connections))
        .route("/agents/{agent_id}", get(agents::show).delete(agents::remove))
        .route("/agents/{agent_id}/heartbeat", post(agents::heartbeat))
        .route("/agents/{agent_id}/messages", get(receive::poll))
        .route("/agents/{agent_id}/messages/ack", post(receive::ack))
        .route("/agents/{agent_id}/messages/nack", post(receive::nack))
        .route("/agents/{agent_id}/messages/stream", get(receive::stream))
        .route(
            "/agents/{agent_id}/subscriptions",
            put(receive::put_subscriptions)
                .get(receive::get_subscriptions)
                .delete(receive::delete_subscriptions),
        )
        .route("/agents/{agent_id}/dead-letters", get(receive::dead_letters))
        .route(
            "/agents/{agent_id}/dead-letters/{message_id}/replay",
            post(receive::replay),
        )
}

fn message_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/messages/send", post(messages::send))
        .route("/messages/send/batch", post(messages::send_batch))
        .route("/messages/request", post(messages::request))
        .route("/messages/{message_id}/status", get(messages::status))
}

fn group_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/groups", get(groups::list))
        .route("/groups/create", post(groups::create))
        .route("/groups/{group_id}", get(groups::show).delete(groups::remove))
        .route("/groups/{group_id}/members", post(groups::add_members))
        .route("/groups/{group_id}/members/{agent_id}", delete(groups::remove_member))
        .route("/groups/{group_id}/messages", get(groups::history))
}

fn operation_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/protocols", get(protocols::list))
        .route("/protocols/health", get(protocols::health))
        .route("/protocols/status", get(protocols::status))
        .route("/health", get(operations::health))
        .route("/ready", get(operations::ready))
        .route("/metrics", get(operations::metrics))
        .route("/debug/messages", get(operations::debug_messages))
        .route("/openapi.json", get(docs::openapi))
        .route("/docs", get(docs::index))
        .route("/docs/errors", get(docs::errors))
        .route("/docs/{file}", get(docs::file))
}
