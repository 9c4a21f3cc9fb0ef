//! The HTTP edge: the REST surface, long polls, event streams and their documentation.
//!
//! Owns routes, HTTP sessions and connections. Must never know a store or another edge; protocols beside it are only shown, through
//! [`Protocols`]. Everything it answers, errors included, is in `/openapi.json`. Start at [`router`]; [`serve()`] runs it.

mod agents;
mod config;
mod connection;
mod docs;
mod groups;
mod head;
mod layers;
mod messages;
mod openapi;
mod operations;
mod protocols;
mod receive;
mod refusal;
mod request;
mod respond;
mod serve;
mod session;

use std::{fmt, sync::Arc};

use axum::{
    Router,
    routing::{MethodRouter, delete, get, post, put},
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

/// Paths and what answers them: a list, so that a test can hold it against the description.
type Routes = Vec<(&'static str, MethodRouter<Arc<App>>)>;

fn own_routes() -> Router<Arc<App>> {
    let all = described_routes().into_iter().chain(page_routes());
    all.fold(Router::new(), |router, (path, methods)| router.route(path, methods))
}

/// Every route that `/openapi.json` describes.
fn described_routes() -> Routes {
    [agent_routes(), message_routes(), group_routes(), operation_routes()].concat()
}

fn agent_routes() -> Routes {
    vec![
        ("/agents", get(agents::list)),
        ("/agents/register", post(agents::register)),
        ("/agents/connections", get(agents::connections)),
        ("/agents/{agent_id}", get(agents::show).delete(agents::remove)),
        ("/agents/{agent_id}/heartbeat", post(agents::heartbeat)),
        ("/agents/{agent_id}/messages", get(receive::poll)),
        ("/agents/{agent_id}/messages/ack", post(receive::ack)),
        ("/agents/{agent_id}/messages/nack", post(receive::nack)),
        ("/agents/{agent_id}/messages/stream", get(receive::stream)),
        (
            "/agents/{agent_id}/subscriptions",
            put(receive::put_subscriptions)
                .get(receive::get_subscriptions)
                .delete(receive::delete_subscriptions),
        ),
        ("/agents/{agent_id}/dead-letters", get(receive::dead_letters)),
        (
            "/agents/{agent_id}/dead-letters/{message_id}/replay",
            post(receive::replay),
        ),
    ]
}

fn message_routes() -> Routes {
    vec![
        ("/messages/send", post(messages::send)),
        ("/messages/send/batch", post(messages::send_batch)),
        ("/messages/request", post(messages::request)),
        ("/messages/{message_id}/status", get(messages::status)),
    ]
}

fn group_routes() -> Routes {
    vec![
        ("/groups", get(groups::list)),
        ("/groups/create", post(groups::create)),
        ("/groups/{group_id}", get(groups::show).delete(groups::remove)),
        ("/groups/{group_id}/members", post(groups::add_members)),
        ("/groups/{group_id}/members/{agent_id}", delete(groups::remove_member)),
        ("/groups/{group_id}/messages", get(groups::history)),
    ]
}

fn operation_routes() -> Routes {
    vec![
        ("/protocols", get(protocols::list)),
        ("/protocols/health", get(protocols::health)),
        ("/protocols/status", get(protocols::status)),
        ("/health", get(operations::health)),
        ("/ready", get(operations::ready)),
        ("/metrics", get(operations::metrics)),
        ("/debug/messages", get(operations::debug_messages)),
    ]
}

/// The description itself, and pages for people.
fn page_routes() -> Routes {
    vec![
        ("/openapi.json", get(docs::openapi)),
        ("/docs", get(docs::index)),
        ("/docs/errors", get(docs::errors)),
        ("/docs/{file}", get(docs::file)),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_described_and_everything_described_is_a_route() {
        let document = openapi_document();
        let described: BTreeSet<_> = document["paths"].as_object().unwrap().keys().cloned().collect();
        let served: BTreeSet<_> = described_routes()
            .into_iter()
            .map(|(path, _)| path.to_string())
            .collect();
        assert_eq!(described, served);
    }
}
