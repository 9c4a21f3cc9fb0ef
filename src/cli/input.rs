//! What arguments mean: addresses, durations, headers and bodies.

use std::{
    fs::File,
    io::{self, Read},
    time::Duration,
};

use crate::{
    frame::{Address, AgentId, limits::BODY_BYTES_MAX},
    node::failure::{Exit, Failure},
};

/// An address, or an agent's id alone.
pub(super) fn address(text: &str) -> Result<Address, String> {
    if text.contains(':') {
        return text.parse().map_err(|error| format!("{error}"));
    }
    let agent = AgentId::new(text).map_err(|error| error.to_string())?;
    Ok(Address::agent(&agent))
}

/// `500ms`, `20s`, `5m`; bare numbers are seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write 500ms, 20s or 5m"))
}

/// `name=value`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

/// A body: the argument itself, `@FILE`, or `-` for standard input.
pub(super) fn body(argument: &str) -> Result<Vec<u8>, Failure> {
    let failed = |error: io::Error| {
        Failure::new(
            Exit::NoInput,
            "cannot read the body",
            format!("{argument}: {error}"),
            "name a file that you may read",
        )
    };
    match argument.strip_prefix('@') {
        _ if argument == "-" => bounded(io::stdin().lock()).map_err(failed),
        Some(file) => File::open(file).and_then(bounded).map_err(failed),
        None => Ok(argument.into()),
    }
}

/// Reads to the end, but never more than a message can carry: the node refuses one byte more.
fn bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a body is where nobody said.
pub(super) fn content_type(body: &[u8]) -> &'static str {
    if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() {
        "application/json"
    } else if std::str::from_utf8(body).is_ok() {
        "text/plain; charset=utf-8"
    } else {
        "application/octet-stream"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_alone_is_an_agent() {
        assert_eq!(address("bob").unwrap().as_str(), "agent:bob");
        assert_eq!(address("topic:a/b").unwrap().as_str(), "topic:a/b");
        assert!(address("what:x").is_err());
        assert!(address("..").is_err());
    }

    #[test]
    fn bare_durations_are_seconds() {
        assert_eq!(duration("1.5").unwrap(), Duration::from_millis(1500));
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert!(duration("-1").is_err());
        assert!(duration("soon").is_err());
    }

    #[test]
    fn bodies_are_labelled_by_what_they_are() {
        assert_eq!(content_type(b"{\"a\": 1}"), "application/json");
        assert_eq!(content_type(b"hello"), "text/plain; charset=utf-8");
        assert_eq!(content_type(b"\xff"), "application/octet-stream");
    }

    #[test]
    fn headers_are_pairs() {
        assert_eq!(pair("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert!(pair("=b").is_err());
        assert!(pair("a").is_err());
    }
}
