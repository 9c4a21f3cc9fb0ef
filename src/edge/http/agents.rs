//! Agents: registration, discovery, heartbeats and live sessions.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use axum::{
    extract::State,
    http::{StatusCode, Uri},
};
use serde::{Serialize, Serializer, ser::SerializeStruct};
use serde_json::value::RawValue;

use super::{
    App,
    messages::within,
    request::{Caller, JsonBody, Params, PathIds},
    respond::{self, Answer},
};
use crate::{
    edge::json::{self, Errors, Field, Problem},
    frame::{AgentId, Capability, TopicFilter},
    router::{
        registry::{
            AgentFilter, AgentView, CAPABILITIES_MAX, METADATA_BYTES_MAX, PROTOCOLS_MAX, Registered, Registration,
            RegistrationId, TEXT_BYTES_MAX,
        },
        surface::{ConnectionView, Protocol, SessionId, Window},
    },
    time::Timestamp,
};

/// Items of a page where the request does not say.
pub(super) const PAGE_SIZE_DEFAULT: usize = 100;
/// Most items of a page.
pub(super) const PAGE_SIZE_MAX: usize = 500;

/// `page_size` and `page_token`.
pub(super) fn page_of<T: FromStr<Err: fmt::Display>>(params: &mut Params) -> (usize, Option<T>) {
    let size = params.count("page_size", PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX);
    (size, params.parsed("page_token"))
}

/// A time as users read it; `None` where it is unset.
pub(super) fn shown_time(time: Timestamp) -> Option<String> {
    (!time.is_never()).then(|| time.to_rfc3339())
}

#[derive(Serialize)]
struct RegistrationAnswer<'a> {
    agent_id: &'a AgentId,
    registration_id: RegistrationId,
    status: &'static str,
    protocols_accepted: Vec<String>,
    registered_at: String,
}

/// `POST /agents/register`
pub(super) async fn register(State(app): State<Arc<App>>, caller: Caller, params: Params, body: JsonBody) -> Answer {
    params.finish()?;
    let (agent, registration) = read_registration(&caller, &body.text)?;
    let registering = app.fabric.register_agent(&caller.principal, agent, registration);
    let (record, registered) = within(&app, registering).await?;
    let status = match registered {
        Registered::New => StatusCode::CREATED,
        Registered::Updated => StatusCode::OK,
    };
    let answer = RegistrationAnswer {
        agent_id: &record.agent_id,
        registration_id: record.registration_id,
        status: "registered",
        protocols_accepted: accepted_protocols(&app, &record.protocols),
        registered_at: record.registered_at.to_rfc3339(),
    };
    let location = format!("/agents/{}", respond::segment(record.agent_id.as_str()));
    Ok(respond::located(respond::json(status, &answer), &location))
}

/// Those of the asked that this node serves and that are healthy; all that it serves when none was asked.
fn accepted_protocols(app: &App, asked: &[String]) -> Vec<String> {
    let mut healthy: Vec<_> = app
        .protocols
        .list()
        .into_iter()
        .filter(|protocol| protocol.is_serving())
        .collect();
    if asked.is_empty() {
        return healthy.into_iter().map(|protocol| protocol.name).collect();
    }
    healthy.retain(|protocol| asked.contains(&protocol.name));
    let served = |name: &&String| healthy.iter().any(|protocol| protocol.name == **name);
    asked.iter().filter(served).cloned().collect()
}

fn read_registration(caller: &Caller, text: &[u8]) -> Result<(AgentId, Registration), Problem> {
    let mut errors = Errors::default();
    let mut object = json::read_object(text)?;
    let agent = match (object.take("agent_id"), caller.agent()) {
        (Some(field), _) => field.parsed(&mut errors),
        (None, Some(proven)) => Some(proven.clone()),
        (None, None) => {
            errors.at("/agent_id", "is missing");
            None
        }
    };
    let errors_mut = &mut errors;
    let registration = Registration {
        name: read_name(&mut object, errors_mut),
        capabilities: object
            .take("capabilities")
            .and_then(|field| field.parsed_set::<Capability>(CAPABILITIES_MAX, errors_mut))
            .unwrap_or_default(),
        protocols: read_protocols(&mut object, errors_mut),
        metadata: object
            .take("metadata")
            .and_then(|field| read_metadata(&field, errors_mut)),
        endpoints: object
            .take("endpoints")
            .and_then(|field| read_endpoints(&field, errors_mut))
            .unwrap_or_default(),
    };
    object.finish("; keys of your own go into `metadata`", &mut errors);
    errors.finish(agent.map(|agent| (agent, registration)))
}

/// `name`: a text for people.
pub(super) fn read_name(object: &mut json::Object<'_>, errors: &mut Errors) -> String {
    let name = object
        .take("name")
        .and_then(|field| field.bounded_string(TEXT_BYTES_MAX, errors));
    name.map_or_else(String::new, Into::into)
}

/// `protocols`: names, each once.
pub(super) fn read_protocols(object: &mut json::Object<'_>, errors: &mut Errors) -> Vec<String> {
    let Some(items) = object
        .take("protocols")
        .and_then(|field| field.array(PROTOCOLS_MAX, errors))
    else {
        return Vec::new();
    };
    let mut names: Vec<String> = Vec::with_capacity(items.len());
    for item in items.into_items() {
        match json::protocol_name(&item, errors) {
            Some(name) if names.contains(&name) => errors.at(item.pointer(), "stands twice in its list"),
            Some(name) => names.push(name),
            None => {}
        }
    }
    names
}

fn read_metadata(field: &Field<'_>, errors: &mut Errors) -> Option<Box<RawValue>> {
    field.object(errors)?;
    let bytes = field.raw().get().len();
    if bytes > METADATA_BYTES_MAX {
        errors.at(
            field.pointer(),
            format!("has {bytes} bytes; at most {METADATA_BYTES_MAX} are allowed"),
        );
        return None;
    }
    Some(field.raw().to_owned())
}

fn read_endpoints(field: &Field<'_>, errors: &mut Errors) -> Option<BTreeMap<String, String>> {
    let object = field.object(errors)?;
    if object.names().len() > PROTOCOLS_MAX {
        let detail = format!(
            "has {} entries; at most {PROTOCOLS_MAX} are allowed",
            object.names().len()
        );
        errors.at(field.pointer(), detail);
        return None;
    }
    let mut endpoints = BTreeMap::new();
    for (protocol, field) in object.into_fields() {
        if !json::is_protocol_name(&protocol) {
            errors.at(field.pointer(), "stands under a name that is no protocol's");
        }
        let Some(url) = field.bounded_string(TEXT_BYTES_MAX, errors) else {
            continue;
        };
        if protocol == "http"
            && let Err(detail) = check_push_url(&url)
        {
            errors.at(field.pointer(), detail);
        } else if is_url(&url) {
            endpoints.insert(protocol.into_owned(), url.into_owned());
        } else {
            errors.at(field.pointer(), "is not a URL such as http://127.0.0.1:8080/api");
        }
    }
    Some(endpoints)
}

/// The URL that messages are pushed to. Whether its address may be called is checked at each push; what could never be called is
/// refused here, where its agent still learns of it.
fn check_push_url(text: &str) -> Result<(), &'static str> {
    const SHAPE: &str = "is not an http:// or https:// URL such as http://127.0.0.1:8080/api";
    let uri: Uri = text.parse().map_err(|_| SHAPE)?;
    let authority = uri.authority().filter(|authority| !authority.host().is_empty());
    let authority = authority.ok_or(SHAPE)?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(SHAPE);
    }
    if authority.as_str().contains('@') {
        return Err("has credentials in it; pushes are signed instead");
    }
    if authority.port().is_none() && authority.as_str().len() > authority.host().len() {
        return Err("has a port that is none");
    }
    Ok(())
}

/// `scheme://rest` in visible ASCII; what more a scheme demands is its user's to check.
fn is_url(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b))
            && !rest.is_empty()
            && rest.bytes().all(|b| b.is_ascii_graphic())
    })
}

/// An agent as discovery shows it. Written field by field: a flattened struct would take `metadata` apart, and its numbers and
/// the order of its keys are the agent's own.
struct ShownAgent<'a>(&'a AgentView);

impl Serialize for ShownAgent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let view = self.0;
        let status = match view.record {
            Some(_) => "registered",
            None => "unregistered",
        };
        let mut shown = serializer.serialize_struct("Agent", 13)?;
        shown.serialize_field("agent_id", &view.agent_id)?;
        shown.serialize_field("status", status)?;
        shown.serialize_field("online", &(view.sessions > 0))?;
        shown.serialize_field("sessions", &view.sessions)?;
        shown.serialize_field("last_seen", &shown_time(view.last_seen))?;
        if let Some(record) = &view.record {
            shown.serialize_field("registration_id", &record.registration_id)?;
            shown.serialize_field("name", &record.name)?;
            shown.serialize_field("capabilities", &record.capabilities)?;
            shown.serialize_field("protocols", &record.protocols)?;
            shown.serialize_field("metadata", &record.metadata)?;
            shown.serialize_field("endpoints", &record.endpoints)?;
            shown.serialize_field("registered_at", &record.registered_at.to_rfc3339())?;
            shown.serialize_field("updated_at", &record.updated_at.to_rfc3339())?;
        }
        shown.end()
    }
}

#[derive(Serialize)]
struct AgentPage<'a> {
    agents: Vec<ShownAgent<'a>>,
    next_page_token: Option<AgentId>,
}

/// `GET /agents`
pub(super) async fn list(State(app): State<Arc<App>>, caller: Caller, mut params: Params) -> Answer {
    let (size, after) = page_of::<AgentId>(&mut params);
    let filter = AgentFilter {
        capability: params.parsed("capability"),
        protocol: params.text("protocol"),
        online: params.flag("online"),
        prefix: params.text("prefix"),
        after,
        limit: size + 1,
    };
    params.finish()?;
    let mut agents = app.fabric.agents(&caller.principal, &filter)?;
    let more = agents.len() > size;
    agents.truncate(size);
    let page = AgentPage {
        next_page_token: agents.last().filter(|_| more).map(|view| view.agent_id.clone()),
        agents: agents.iter().map(ShownAgent).collect(),
    };
    Ok(respond::json(StatusCode::OK, &page))
}

/// `GET /agents/{agent_id}`
pub(super) async fn show(State(app): State<Arc<App>>, caller: Caller, ids: PathIds, params: Params) -> Answer {
    params.finish()?;
    let agent: AgentId = ids.get("agent_id")?;
    let view = app.fabric.agent(&caller.principal, &agent)?;
    Ok(respond::json(StatusCode::OK, &ShownAgent(&view)))
}

/// `DELETE /agents/{agent_id}`
pub(super) async fn remove(State(app): State<Arc<App>>, caller: Caller, ids: PathIds, params: Params) -> Answer {
    params.finish()?;
    let agent: AgentId = ids.get("agent_id")?;
    within(&app, app.fabric.remove_agent(&caller.principal, &agent)).await?;
    Ok(respond::no_content())
}

/// `POST /agents/{agent_id}/heartbeat`
pub(super) async fn heartbeat(State(app): State<Arc<App>>, caller: Caller, ids: PathIds, params: Params) -> Answer {
    params.finish()?;
    let agent: AgentId = ids.get("agent_id")?;
    let view = app.fabric.heartbeat(&caller.principal, &agent)?;
    Ok(respond::json(StatusCode::OK, &ShownAgent(&view)))
}

#[derive(Serialize)]
struct ShownConnection<'a> {
    session_id: String,
    agent_id: &'a AgentId,
    protocol: Protocol,
    node: &'a str,
    since: String,
    credit: ShownWindow,
    in_flight: ShownWindow,
    queue_depth: usize,
    subscriptions: &'a [TopicFilter],
}

#[derive(Serialize)]
struct ShownWindow {
    messages: u32,
    bytes: u64,
}

impl From<Window> for ShownWindow {
    fn from(window: Window) -> Self {
        Self {
            messages: window.messages,
            bytes: window.bytes,
        }
    }
}

#[derive(Serialize)]
struct ConnectionPage<'a> {
    connections: Vec<ShownConnection<'a>>,
    next_page_token: Option<String>,
}

/// A page token that is a session's number.
struct SessionToken(SessionId);

impl FromStr for SessionToken {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let digits = text
            .strip_prefix("s_")
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        let number = digits.and_then(|digits| digits.parse().ok());
        number
            .map(|number| Self(SessionId(number)))
            .ok_or("is not a page token; take `next_page_token` of the page before")
    }
}

/// `GET /agents/connections`
pub(super) async fn connections(State(app): State<Arc<App>>, caller: Caller, mut params: Params) -> Answer {
    let (size, after) = page_of::<SessionToken>(&mut params);
    params.finish()?;
    let mut all = app.fabric.connections(&caller.principal)?;
    all.retain(|view| after.as_ref().is_none_or(|after| view.session > after.0));
    all.sort_by_key(|view| view.session);
    let more = all.len() > size;
    all.truncate(size);
    let node = app.fabric.config().node_id.as_str();
    let page = ConnectionPage {
        next_page_token: all.last().filter(|_| more).map(|view| format!("s_{}", view.session.0)),
        connections: all.iter().map(|view| shown_connection(view, node)).collect(),
    };
    Ok(respond::json(StatusCode::OK, &page))
}

fn shown_connection<'a>(view: &'a ConnectionView, node: &'a str) -> ShownConnection<'a> {
    ShownConnection {
        session_id: format!("s_{}", view.session.0),
        agent_id: &view.agent,
        protocol: view.protocol,
        node,
        since: view.since.to_rfc3339(),
        credit: view.window.into(),
        in_flight: view.in_flight.into(),
        queue_depth: view.queue_depth,
        subscriptions: &view.subscriptions,
    }
}
