//! Where a listener binds (`host:port` or `off`), and the rule that keeps an open node off the network.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// `host:port`, or `off`. Port 0 picks a free one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Listen {
    /// Nothing is bound.
    Off,
    /// A name or IP address (without the brackets of IPv6), and a port.
    At { host: String, port: u16 },
}

impl Listen {
    /// `127.0.0.1` and this port.
    pub fn loopback(port: u16) -> Self {
        Self::At {
            host: "127.0.0.1".into(),
            port,
        }
    }

    /// True where only this machine can connect. A name other than `localhost` counts as reachable: what it means may change.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Off => true,
            Self::At { host, .. } if host.eq_ignore_ascii_case("localhost") => true,
            Self::At { host, .. } => host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.to_canonical().is_loopback()),
        }
    }

    /// With another host; a listener that was off keeps `port`.
    #[must_use]
    pub fn with_host(&self, host: &str, port_default: u16) -> Self {
        let port = match self {
            Self::At { port, .. } => *port,
            Self::Off => port_default,
        };
        Self::At {
            host: bare(host).into(),
            port,
        }
    }

    /// With another port; a listener that was off gets `127.0.0.1`.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        match self {
            Self::At { host, .. } => Self::At {
                host: host.clone(),
                port,
            },
            Self::Off => Self::loopback(port),
        }
    }
}

/// An IPv6 address without its brackets.
fn bare(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host)
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::At { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self::Off);
        }
        let wrong =
            || format!("{text:?} is not `host:port` (such as 127.0.0.1:8000, port 0 picks a free one) or `off`");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || host.contains(char::is_whitespace) || (host.contains(':') && !bracketed) {
            return Err(wrong());
        }
        Ok(Self::At {
            host: bare(host).into(),
            port,
        })
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.to_string()
    }
}

impl TryFrom<String> for Listen {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_round_trip_as_they_are_written() {
        for text in ["off", "127.0.0.1:8000", "[::1]:0", "localhost:1", "weft.internal:8000"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused_with_an_example() {
        for text in [
            "",
            "8000",
            "127.0.0.1",
            ":8000",
            "127.0.0.1:65536",
            "::1:8000",
            "a b:1",
            "127.0.0.1:x",
        ] {
            let error = text.parse::<Listen>().unwrap_err();
            assert!(error.contains("host:port"), "{text}: {error}");
        }
    }

    #[test]
    fn only_loopback_counts_as_local() {
        for text in [
            "off",
            "127.0.0.1:1",
            "127.9.9.9:1",
            "[::1]:1",
            "LOCALHOST:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(text.parse::<Listen>().unwrap().is_local(), "{text}");
        }
        for text in [
            "0.0.0.0:1",
            "[::]:1",
            "10.0.0.1:1",
            "weft.internal:1",
            "localhost.example.com:1",
        ] {
            assert!(!text.parse::<Listen>().unwrap().is_local(), "{text}");
        }
    }

    #[test]
    fn half_an_address_replaces_only_that_half() {
        let listen = Listen::loopback(8000);
        assert_eq!(listen.with_host("[::1]", 9).to_string(), "[::1]:8000");
        assert_eq!(listen.with_port(9).to_string(), "127.0.0.1:9");
        assert_eq!(Listen::Off.with_host("0.0.0.0", 8000).to_string(), "0.0.0.0:8000");
    }
}
