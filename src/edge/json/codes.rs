//! The stable error codes: those that edges add to the router's, the HTTP status of each, and the page that explains them.
//!
//! Start at [`EdgeError`] and [`catalogue`].

use std::{fmt::Write, time::Duration};

use thiserror::Error;

use crate::{
    frame::{AgentId, Capability, EnvelopeError, GroupId, record::Reason},
    router::error::{Code, FabricError, Fault},
};

/// What an edge refuses by itself, before anything reaches the door.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EdgeError {
    #[error("the body is not JSON: {detail}")]
    Malformed { detail: String },
    #[error("nothing is served at this path; /docs lists what is")]
    NoSuchPath,
    #[error("this path does not take {method}; it takes {allowed}")]
    MethodNotAllowed { method: String, allowed: String },
    #[error("the body's media type is {given:?}; send `Content-Type: application/json`")]
    MediaType { given: String },
    #[error("the body's content encoding is {given:?}; gzip and zstd are understood, one at a time")]
    ContentEncoding { given: String },
    #[error("the request's body is larger than {max} bytes, which is the most that is taken here")]
    RequestTooLarge { max: usize },
    #[error("the request's body did not arrive within {0:?}")]
    RequestTimeout(Duration),
    #[error("pages of the origin {origin:?} may not call this node; list it in `http.origins`")]
    OriginDenied { origin: String },
    #[error("this path is a WebSocket; connect with a WebSocket client (HTTP/1.1, `Upgrade: websocket`)")]
    UpgradeRequired,
    #[error("the request's line or headers are malformed: {detail}")]
    MalformedHead { detail: String },
    #[error(
        "the request's line and headers are too large; at most {bytes_max} bytes and {headers_max} headers are taken"
    )]
    HeadTooLarge { bytes_max: usize, headers_max: usize },
    #[error(
        "this node is not known as {host:?}; call it by its address or as localhost, or list the name in `http.hosts`"
    )]
    UnknownHost { host: String },
    #[error("the node has all of its {max} WebSocket connections open; connect to another node, or retry later")]
    TooManyConnections { max: usize },
    #[error("an internal error; the node's log has it under this request's time")]
    Internal,
    #[error("the document's version is not the one that the change was made for; merge with the current one and retry")]
    VersionConflict,
    #[error("no protocol meets what was asked; `reasons` says why for each")]
    NoCommonProtocol,
}

impl EdgeError {
    /// The stable code.
    pub const fn code(&self) -> Code {
        let (number, title, fault, retryable) = match self {
            Self::Malformed { .. } => (2000, "Malformed JSON", Fault::Caller, false),
            Self::NoSuchPath => (2001, "No such path", Fault::Caller, false),
            Self::MethodNotAllowed { .. } => (2002, "Method not allowed", Fault::Caller, false),
            Self::MediaType { .. } => (2003, "Unsupported media type", Fault::Caller, false),
            Self::ContentEncoding { .. } => (2004, "Unsupported content encoding", Fault::Caller, false),
            Self::RequestTooLarge { .. } => (2005, "Request too large", Fault::Caller, false),
            Self::RequestTimeout(_) => (2006, "Request timed out", Fault::Caller, true),
            Self::OriginDenied { .. } => (2007, "Origin not allowed", Fault::Caller, false),
            Self::Internal => (2008, "Internal error", Fault::Node, true),
            Self::VersionConflict => (2009, "Version conflict", Fault::Caller, false),
            Self::NoCommonProtocol => (2010, "No common protocol", Fault::Caller, false),
            Self::UpgradeRequired => (2011, "Upgrade required", Fault::Caller, false),
            Self::TooManyConnections { .. } => (2012, "Too many connections", Fault::Node, true),
            Self::MalformedHead { .. } => (2013, "Malformed request", Fault::Caller, false),
            Self::HeadTooLarge { .. } => (2014, "Request head too large", Fault::Caller, false),
            Self::UnknownHost { .. } => (2015, "Unknown host", Fault::Caller, false),
        };
        Code {
            number,
            title,
            fault,
            retryable,
        }
    }

    /// The HTTP status.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Malformed { .. } | Self::MalformedHead { .. } => 400,
            Self::NoSuchPath => 404,
            Self::MethodNotAllowed { .. } => 405,
            Self::MediaType { .. } | Self::ContentEncoding { .. } => 415,
            Self::RequestTooLarge { .. } => 413,
            Self::RequestTimeout(_) => 408,
            Self::UnknownHost { .. } => 421,
            Self::UpgradeRequired => 426,
            Self::HeadTooLarge { .. } => 431,
            Self::TooManyConnections { .. } => 503,
            Self::OriginDenied { .. } => 403,
            Self::Internal => 500,
            Self::VersionConflict | Self::NoCommonProtocol => 409,
        }
    }
}

/// The HTTP status of a refusal of the door.
pub const fn status_of(error: &FabricError) -> u16 {
    match error {
        FabricError::Invalid { .. } | FabricError::Envelope(_) => 400,
        FabricError::NotYourself { .. } | FabricError::Denied { .. } => 403,
        FabricError::UnknownAgent(_)
        | FabricError::UnknownGroup(_)
        | FabricError::UnknownCapability(_)
        | FabricError::UnknownMessage(_) => 404,
        FabricError::GroupExists(_) | FabricError::SessionClosed => 409,
        FabricError::ReplyAddressGone(_) => 410,
        FabricError::BodyTooLarge { .. } => 413,
        FabricError::Rejected { .. } => 422,
        FabricError::TooMany { .. }
        | FabricError::QueueFull { .. }
        | FabricError::Overloaded { .. }
        | FabricError::RateLimited { .. } => 429,
        FabricError::OutcomeUnknown { .. }
        | FabricError::StoreFull { .. }
        | FabricError::StoreFailed { .. }
        | FabricError::NotOwner
        | FabricError::Draining => 503,
        FabricError::ReplyTimeout(_) => 504,
    }
}

/// What to do about a refusal of the door. A `match` without `_`: a new error does not compile before it is explained here.
const fn remedy(error: &FabricError) -> &'static str {
    match error {
        FabricError::Invalid { .. } => {
            "A field, parameter or header of the request breaks its rule. `errors` names each one; correct them and send again."
        }
        FabricError::Envelope(_) => {
            "The message as a whole breaks a limit: an id, an address, the number or size of its headers. The detail names it."
        }
        FabricError::NotYourself { .. } => {
            "The request names a sender or receiver that is not the identity you proved. Leave it out, or use your own."
        }
        FabricError::Denied { .. } => "Policy does not allow it. Ask an operator for the permission.",
        FabricError::UnknownAgent(_) => {
            "The agent is not registered, and this node requires it, or there is nothing to show of it. Register it first."
        }
        FabricError::UnknownGroup(_) => "The group does not exist. Create it, or check its id.",
        FabricError::UnknownCapability(_) => {
            "No registered agent declares the capability. Register one, or check its name."
        }
        FabricError::UnknownMessage(_) => {
            "No message of that id is known: it was never accepted, was sent at QoS 0, or its receipt has aged out (10 minutes after it was settled)."
        }
        FabricError::ReplyAddressGone(_) => {
            "The session that waited for the reply has ended. Send to the agent itself where the answer still matters."
        }
        FabricError::GroupExists(_) => "A group of that id exists. Change its members, or delete it first.",
        FabricError::BodyTooLarge { .. } => {
            "The body is above the limit of the node or of the group. Send a reference to the data instead of the data."
        }
        FabricError::TooMany { .. } => {
            "A limit on how many of something may exist is reached. Close or remove some, then retry."
        }
        FabricError::QueueFull { .. } => {
            "The addressee's mailbox holds all that it may. Retry after `Retry-After`, once its receiver has caught up."
        }
        FabricError::Overloaded { .. } => "The node has more work waiting than it takes. Retry after `Retry-After`.",
        FabricError::RateLimited { .. } => {
            "Requests of this kind come faster than allowed. Retry after `Retry-After`, and slow down."
        }
        FabricError::Rejected { .. } => {
            "The message was accepted by nobody; the detail says why. Sending it again will not help."
        }
        FabricError::ReplyTimeout(_) => {
            "Nobody answered in time. The request itself was delivered or is still queued: an answer may yet have had effects."
        }
        FabricError::SessionClosed => "The session ended while the request was under way. Poll or attach again.",
        FabricError::OutcomeUnknown { .. } => {
            "It is not known whether the message was stored. Retry with the same `message_id`: it is then accepted once at most."
        }
        FabricError::StoreFull { .. } => {
            "The store takes no more messages. Free space, or raise its limit. Nothing was accepted."
        }
        FabricError::StoreFailed { .. } => {
            "The store failed and may be read-only until the node restarts. An operator has to look; the node's log says more."
        }
        FabricError::NotOwner => "Another node owns the address now. Retry; the request finds its way there.",
        FabricError::Draining => "The node shuts down. Connect to another one, or retry after its restart.",
    }
}

const fn edge_remedy(error: &EdgeError) -> &'static str {
    match error {
        EdgeError::Malformed { .. } => {
            "The body does not parse as JSON (UTF-8, no key twice in an object, at most 64 levels deep). The detail says where."
        }
        EdgeError::NoSuchPath => {
            "Check the path; `/docs` and `/openapi.json` list all of them. A `/` inside an id is written `%2F`."
        }
        EdgeError::MethodNotAllowed { .. } => "Use one of the methods in the `Allow` header.",
        EdgeError::MediaType { .. } => "Send `Content-Type: application/json`.",
        EdgeError::ContentEncoding { .. } => "Send the body plain, or with `Content-Encoding: gzip` or `zstd`.",
        EdgeError::RequestTooLarge { .. } => {
            "The body, inflated where it was compressed, is above the limit. Send less in one request, or a reference to the data."
        }
        EdgeError::RequestTimeout(_) => {
            "The body arrived too slowly. Retry on a better connection, or send less at once."
        }
        EdgeError::OriginDenied { .. } => {
            "The page's origin is not the node's own and is not listed. List it in `http.origins`."
        }
        EdgeError::Internal => "A fault of the node. Retry; where it persists, report it with the node's log.",
        EdgeError::VersionConflict => {
            "The document changed since the version that the request names. `current` holds it; apply the change to that and retry."
        }
        EdgeError::UpgradeRequired => {
            "Connect to `/ws` with a WebSocket client over HTTP/1.1; proxies must pass `Upgrade` and `Connection` on."
        }
        EdgeError::TooManyConnections { .. } => {
            "The node has as many WebSocket connections as `websocket.max_connections` allows. Use another node, or retry later."
        }
        EdgeError::MalformedHead { .. } => {
            "Send one `Host` header, and a request line and headers as RFC 9112 has them. Over HTTP/2 such a stream is reset instead."
        }
        EdgeError::HeadTooLarge { .. } => {
            "Send fewer or shorter headers, or a shorter query; `http.header_bytes_max` and `http.headers_max` are the limits."
        }
        EdgeError::UnknownHost { .. } => {
            "Call the node by an IP address, as `localhost`, or by a name in `http.hosts`: a web page that made its own name point here could read messages otherwise."
        }
        EdgeError::NoCommonProtocol => {
            "Ask for less, or make the agents speak a protocol that has it. `reasons` lists each protocol's."
        }
    }
}

/// One error code with its explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeEntry {
    pub code: Code,
    pub status: u16,
    pub remedy: &'static str,
}

/// Every error code, by number.
pub fn catalogue() -> Vec<CodeEntry> {
    let fabric = samples().into_iter().map(|error| CodeEntry {
        code: error.code(),
        status: status_of(&error),
        remedy: remedy(&error),
    });
    let edge = edge_samples().into_iter().map(|error| CodeEntry {
        code: error.code(),
        status: error.status(),
        remedy: edge_remedy(&error),
    });
    let mut entries: Vec<_> = fabric.chain(edge).collect();
    entries.sort_by_key(|entry| entry.code.number);
    entries
}

/// The page `docs/errors.md`.
pub fn errors_markdown() -> String {
    let mut page = String::from(
        "# Error codes\n\n\
         Every error is a problem document (RFC 9457) with one of these codes in `code`; `type` points here. A code never changes\n\
         its meaning. Retryable means that the very same request may succeed later.\n\n\
         This page is generated from the code: `WEFT_REGENERATE=1 cargo test --lib edge::json::codes`.\n",
    );
    for entry in catalogue() {
        let number = entry.code.number;
        write!(
            page,
            "\n## <a id=\"WEFT-{number}\"></a>WEFT-{number} {title}\n\nHTTP status {status}, {retryable}.\n\n{remedy}\n",
            title = entry.code.title,
            status = entry.status,
            retryable = if entry.code.retryable { "retryable" } else { "not retryable" },
            remedy = entry.remedy,
        )
        .expect("memory takes every write");
    }
    page
}

/// One of each refusal of the door.
fn samples() -> Vec<FabricError> {
    let agent = || AgentId::new("agent_1").expect("well-formed");
    let retry_after = Duration::from_secs(1);
    let text = || String::from("example");
    vec![
        FabricError::invalid("field", "is wrong"),
        FabricError::Envelope(EnvelopeError::HeaderName),
        FabricError::NotYourself {
            principal: agent(),
            claimed: agent(),
        },
        FabricError::Denied {
            agent: agent(),
            action: text(),
        },
        FabricError::UnknownAgent(agent()),
        FabricError::UnknownGroup(GroupId::new("team").expect("well-formed")),
        FabricError::UnknownCapability(Capability::new("analysis").expect("well-formed")),
        FabricError::UnknownMessage(text()),
        FabricError::ReplyAddressGone(crate::frame::Address::agent(&agent())),
        FabricError::GroupExists(GroupId::new("team").expect("well-formed")),
        FabricError::BodyTooLarge { bytes: 1, max: 0 },
        FabricError::TooMany {
            what: "sessions",
            max: 8,
        },
        FabricError::QueueFull {
            address: crate::frame::Address::agent(&agent()),
            bound: "messages",
            retry_after,
        },
        FabricError::Overloaded {
            what: "frames",
            retry_after,
        },
        FabricError::RateLimited {
            what: "messages",
            retry_after,
        },
        FabricError::Rejected { reason: Reason::Denied },
        FabricError::ReplyTimeout(retry_after),
        FabricError::OutcomeUnknown { what: text() },
        FabricError::StoreFull { what: text() },
        FabricError::StoreFailed { what: text() },
        FabricError::NotOwner,
        FabricError::SessionClosed,
        FabricError::Draining,
    ]
}

fn edge_samples() -> Vec<EdgeError> {
    let text = || String::from("example");
    vec![
        EdgeError::Malformed { detail: text() },
        EdgeError::NoSuchPath,
        EdgeError::MethodNotAllowed {
            method: text(),
            allowed: text(),
        },
        EdgeError::MediaType { given: text() },
        EdgeError::ContentEncoding { given: text() },
        EdgeError::RequestTooLarge { max: 0 },
        EdgeError::RequestTimeout(Duration::ZERO),
        EdgeError::OriginDenied { origin: text() },
        EdgeError::MalformedHead { detail: text() },
        EdgeError::HeadTooLarge {
            bytes_max: 0,
            headers_max: 0,
        },
        EdgeError::UnknownHost { host: text() },
        EdgeError::Internal,
        EdgeError::VersionConflict,
        EdgeError::UpgradeRequired,
        EdgeError::TooManyConnections { max: 0 },
        EdgeError::NoCommonProtocol,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_given_twice_and_statuses_fit_the_fault() {
        let entries = catalogue();
        for pair in entries.windows(2) {
            assert!(pair[0].code.number < pair[1].code.number, "{pair:?}");
        }
        for entry in entries {
            let fits = match entry.code.fault {
                Fault::Caller => (400..500).contains(&entry.status),
                Fault::Load => entry.status == 429 || entry.status == 504,
                Fault::Node => entry.status >= 500,
            };
            assert!(fits, "{entry:?}");
        }
    }

    #[test]
    fn every_variant_of_both_errors_is_in_the_catalogue() {
        // The sources are counted, because nothing else can list an enum's variants.
        let codes = |source: &str, error: &str| {
            let from = source.split_once(error).expect("the codes' match").1;
            let until = from.split_once("};").expect("its end").0;
            until.matches("Fault::").count()
        };
        let fabric = codes(
            include_str!("../../router/error.rs"),
            "let (number, title, fault, retryable) = match self {",
        );
        let edge = codes(
            include_str!("codes.rs"),
            "let (number, title, fault, retryable) = match self {",
        );
        assert_eq!((samples().len(), edge_samples().len()), (fabric, edge));
    }

    #[test]
    fn the_errors_page_is_what_the_code_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md");
        let wanted = errors_markdown();
        if std::env::var_os("WEFT_REGENERATE").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
            std::fs::write(path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == wanted,
            "docs/errors.md differs from the codes; regenerate it: WEFT_REGENERATE=1 cargo test --lib edge::json::codes"
        );
    }
}
