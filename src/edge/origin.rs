//! Which web pages may speak to this node: the same-origin rule, and the origins that the configuration lists.
//!
//! Browsers send `Origin` with WebSocket upgrades and cross-site requests; programs do not, and pass. Start at [`Origins`].

use axum::http::{HeaderMap, HeaderValue, header};

/// The origins that are let in besides the node's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<HeaderValue>);

/// Whether a request's `Origin` is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginCheck {
    /// The request names no origin: not a browser's cross-site request.
    Absent,
    /// The page comes from this node itself.
    Same,
    /// The configuration lists the page's origin.
    Listed,
    /// Neither.
    Foreign,
}

impl Origins {
    /// From texts such as `https://console.example`; `Err` holds the first that is not `scheme://host[:port]`.
    pub fn new(listed: &[String]) -> Result<Self, String> {
        let parse = |text: &String| {
            let well_formed = text
                .split_once("://")
                .is_some_and(|(scheme, host)| !scheme.is_empty() && !host.is_empty() && !host.contains('/'));
            match HeaderValue::from_str(text) {
                Ok(value) if well_formed => Ok(value),
                _ => Err(text.clone()),
            }
        };
        listed.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// The listed origins.
    pub fn listed(&self) -> &[HeaderValue] {
        &self.0
    }

    /// Compares a request's `Origin` with the host that it was sent to and with the list.
    ///
    /// `host` is the `Host` header's value or HTTP/2's `:authority`. The scheme is not compared: a node behind a proxy that
    /// ends TLS does not know its own.
    pub fn check(&self, headers: &HeaderMap, host: Option<&str>) -> OriginCheck {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else {
            return OriginCheck::Absent;
        };
        // No browser sends two: whoever does hopes that only one of them is looked at.
        if origins.next().is_some() {
            return OriginCheck::Foreign;
        }
        if self.0.contains(origin) {
            return OriginCheck::Listed;
        }
        let origin_host = origin
            .to_str()
            .ok()
            .and_then(|text| text.split_once("://"))
            .map(|(_, host)| host);
        match (origin_host, host) {
            (Some(origin), Some(host)) if origin.eq_ignore_ascii_case(host) => OriginCheck::Same,
            _ => OriginCheck::Foreign,
        }
    }
}

impl OriginCheck {
    /// True where the request may go on.
    pub const fn is_allowed(self) -> bool {
        !matches!(self, Self::Foreign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(listed: &[&str], origin: Option<&str>, host: Option<&str>) -> OriginCheck {
        let listed: Vec<_> = listed.iter().map(ToString::to_string).collect();
        let mut headers = HeaderMap::new();
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        Origins::new(&listed).unwrap().check(&headers, host)
    }

    #[test]
    fn programs_and_own_pages_pass_and_foreign_pages_do_not() {
        let host = Some("127.0.0.1:8000");
        assert_eq!(check(&[], None, host), OriginCheck::Absent);
        assert_eq!(check(&[], Some("http://127.0.0.1:8000"), host), OriginCheck::Same);
        assert_eq!(check(&[], Some("http://127.0.0.1:8001"), host), OriginCheck::Foreign);
        assert_eq!(check(&[], Some("null"), host), OriginCheck::Foreign);
        assert_eq!(check(&[], Some("http://evil.example"), None), OriginCheck::Foreign);
        assert_eq!(
            check(&["https://console.example"], Some("https://console.example"), host),
            OriginCheck::Listed
        );
    }

    #[test]
    fn a_request_with_two_origins_is_foreign_though_one_of_them_is_its_own() {
        let mut headers = HeaderMap::new();
        for origin in ["http://127.0.0.1:8000", "http://evil.example"] {
            headers.append(header::ORIGIN, HeaderValue::from_static(origin));
        }
        let checked = Origins::default().check(&headers, Some("127.0.0.1:8000"));
        assert_eq!(checked, OriginCheck::Foreign);
    }

    #[test]
    fn a_listed_origin_with_a_path_or_without_a_scheme_is_refused() {
        for bad in ["console.example", "https://a/b", "https://", "*"] {
            assert_eq!(Origins::new(&[bad.into()]), Err(bad.to_string()));
        }
    }
}
