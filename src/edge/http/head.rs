//! The head of a request: what is checked of it before any route sees it.
//!
//! hyper parses it and bounds it (see [`super::refusal`]); here stand the rules that hyper leaves to its user, and HTTP/2's limits.
//! Start at [`check_head`].

use axum::{
    extract::Request,
    http::{Version, header, uri::Authority},
};

use super::{App, config::Config};
use crate::edge::json::EdgeError;

/// Bytes that stand around a header besides its name and value: `: ` and the line's end.
const HEADER_LINE_BYTES: usize = 4;

/// How large a request's line and headers may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadLimits {
    pub bytes_max: usize,
    pub headers_max: usize,
}

impl HeadLimits {
    pub fn of(config: &Config) -> Self {
        Self {
            bytes_max: config.header_bytes_max,
            headers_max: config.headers_max,
        }
    }

    /// The refusal of a larger head.
    pub fn exceeded(self) -> EdgeError {
        EdgeError::HeadTooLarge {
            bytes_max: self.bytes_max,
            headers_max: self.headers_max,
        }
    }
}

/// Refuses heads that are too large, that name no host or several, or that another reader might frame otherwise.
pub(super) fn check_head(app: &App, request: &Request) -> Result<(), EdgeError> {
    check_size(request, HeadLimits::of(&app.config))?;
    check_host(request, &app.config.hosts)?;
    check_coding(request)
}

fn check_size(request: &Request, limits: HeadLimits) -> Result<(), EdgeError> {
    let headers = request.headers();
    let lines: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + HEADER_LINE_BYTES)
        .sum();
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if lines + target > limits.bytes_max || headers.len() > limits.headers_max {
        return Err(limits.exceeded());
    }
    Ok(())
}

/// RFC 9112 section 3.2: exactly one `Host`, and a well-formed one. HTTP/2 has `:authority` in its place, HTTP/1.0 may have none.
fn check_host(request: &Request, listed: &[String]) -> Result<(), EdgeError> {
    let malformed = |detail: &str| Err(EdgeError::MalformedHead { detail: detail.into() });
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let authority = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return malformed("`Host` stands twice"),
        (Some(host), None) => match host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) {
            Some(authority) if !authority.as_str().contains('@') => authority,
            _ => return malformed("`Host` is not a host with a port behind it"),
        },
        (None, _) => match request.uri().authority() {
            Some(authority) => authority.clone(),
            None if request.version() == Version::HTTP_11 => return malformed("`Host` is missing"),
            None => return Ok(()),
        },
    };
    if is_known_host(authority.host(), listed) {
        return Ok(());
    }
    Err(EdgeError::UnknownHost {
        host: authority.host().into(),
    })
}

/// Whether a browser that asks for this host is on a page of this node. A foreign page's name can be made to point here (DNS
/// rebinding), and counts as the same origin then; an address cannot, and neither can `localhost`.
fn is_known_host(host: &str, listed: &[String]) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<std::net::IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || listed
            .iter()
            .any(|known| known == "*" || known.eq_ignore_ascii_case(host))
}

/// Another coding beside `chunked` is one that this node does not undo, although the body would be taken for plain.
fn check_coding(request: &Request) -> Result<(), EdgeError> {
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    if codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Ok(());
    }
    Err(EdgeError::MalformedHead {
        detail: "`Transfer-Encoding` is not `chunked` alone; compress with `Content-Encoding`".into(),
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = axum::http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    fn status(host: &str, listed: &[&str]) -> Option<u16> {
        let listed: Vec<_> = listed.iter().map(ToString::to_string).collect();
        let checked = check_host(&request("/", &[("host", host)]), &listed);
        checked.err().map(|error| error.status())
    }

    #[test]
    fn addresses_localhost_and_listed_names_are_known_and_others_are_not() {
        for known in ["127.0.0.1:8000", "[::1]:8000", "localhost", "LocalHost:1", "10.0.0.7"] {
            assert_eq!(status(known, &[]), None, "{known}");
        }
        for foreign in ["evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io"] {
            assert_eq!(status(foreign, &[]), Some(421), "{foreign}");
        }
        assert_eq!(status("Weft.internal:80", &["weft.internal"]), None);
        assert_eq!(status("anything", &["*"]), None);
    }

    #[test]
    fn a_host_that_is_missing_doubled_or_malformed_is_refused() {
        for bad in ["a b", "", "u@127.0.0.1", "127.0.0.1/x"] {
            assert_eq!(status(bad, &["*"]), Some(400), "{bad:?}");
        }
        assert!(check_host(&request("/", &[]), &[]).is_err());
        let twice = request("/", &[("host", "localhost"), ("host", "localhost")]);
        assert!(check_host(&twice, &[]).is_err());
        let mut old = request("/", &[]);
        *old.version_mut() = Version::HTTP_10;
        assert!(check_host(&old, &[]).is_ok());
        let mut newer = request("http://evil.example/", &[]);
        *newer.version_mut() = Version::HTTP_2;
        assert_eq!(check_host(&newer, &[]).unwrap_err().status(), 421);
    }

    #[test]
    fn a_head_is_bounded_in_bytes_and_headers() {
        let limits = HeadLimits {
            bytes_max: 40,
            headers_max: 2,
        };
        assert!(check_size(&request("/", &[("a", "1"), ("b", "2")]), limits).is_ok());
        let bad = [
            request("/", &[("a", "1"), ("b", "2"), ("c", "3")]),
            request("/", &[("a", &"x".repeat(40))]),
            request(&format!("/{}", "x".repeat(40)), &[]),
        ];
        assert!(bad.iter().all(|bad| check_size(bad, limits).is_err()));
    }

    #[test]
    fn a_transfer_coding_beside_chunked_is_refused() {
        for (coding, taken) in [
            ("chunked", true),
            ("Chunked", true),
            ("gzip, chunked", false),
            ("gzip", false),
        ] {
            let checked = check_coding(&request("/", &[("transfer-encoding", coding)]));
            assert_eq!(checked.is_ok(), taken, "{coding}");
        }
    }
}
