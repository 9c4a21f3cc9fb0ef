//! The weft node under load: one that this program starts, or one that runs already.
//!
//! Owns where it listens and which process it is. Start at [`Node::serve`] and [`Node::at`].

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    child::{Folder, Server},
    measure::process::{Pid, Sample},
    plan::Protocol,
};

/// Bounds per address and per node that a load test from one machine would measure instead of the node. The report names them.
const LIFTED: [(&str, &str); 12] = [
    ("WEFT_HTTP__CONNECTIONS_MAX", "200000"),
    ("WEFT_HTTP__CONNECTIONS_PER_ADDRESS_MAX", "200000"),
    ("WEFT_GRPC__CONNECTIONS_MAX", "200000"),
    ("WEFT_GRPC__CONNECTIONS_PER_ADDRESS_MAX", "200000"),
    ("WEFT_QUIC__CONNECTIONS_MAX", "200000"),
    ("WEFT_QUIC__CONNECTIONS_PER_ADDRESS_MAX", "200000"),
    ("WEFT_QUIC__HANDSHAKES_PER_SECOND_MAX", "200000"),
    ("WEFT_QUIC__HANDSHAKES_MAX", "200000"),
    ("WEFT_WEBSOCKET__MAX_CONNECTIONS", "200000"),
    ("WEFT_HTTP__SESSIONS_MAX", "200000"),
    ("WEFT_ROUTER__SESSIONS_MAX", "200000"),
    ("WEFT_REGISTRATION__UNREGISTERED_AGENTS_MAX", "2000000"),
];

/// The same for MQTT; and what waits for a subscriber, as other brokers have no such bound when they are compared.
const LIFTED_MQTT: [(&str, &str); 3] = [
    ("WEFT_ROUTER__SESSION_MESSAGES_MAX", "100000"),
    ("WEFT_MQTT__CONNECTIONS_MAX", "200000"),
    ("WEFT_MQTT__CONNECTIONS_PER_ADDRESS_MAX", "200000"),
];

/// Where a node listens; what is `None` it has not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// URL for the client: `grpc://…` or `grpcs://…`.
    pub grpc: Option<String>,
    /// URL for the client: `weft://…`.
    pub quic: Option<String>,
    /// `host:port` of HTTP and WebSocket.
    pub http: Option<String>,
    /// `host:port` of MQTT.
    pub mqtt: Option<String>,
    /// The authority that signed its certificate, as PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// Largest UDP payload of QUIC that clients try and take, in bytes, where it is not their own default.
    pub quic_mtu: Option<u16>,
}

/// How to start a node.
#[derive(Clone, Debug)]
pub struct Serve {
    pub binary: PathBuf,
    /// Where its data folder is made; it decides what the durable scenarios measure.
    pub data_parent: PathBuf,
    /// Further arguments of `weft serve`.
    pub arguments: Vec<String>,
    /// Further variables of its environment.
    pub variables: Vec<(String, String)>,
    /// Those of them that are off unless asked for are switched on.
    pub protocols: Vec<Protocol>,
    /// Whether gRPC is encrypted, with a certificate that the node makes for itself.
    pub encryption: Encryption,
    /// Largest UDP payload of QUIC on both ends, in bytes, where it is not the default.
    pub quic_mtu: Option<u16>,
}

/// Whether a connection is encrypted, where a protocol leaves the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    Plain,
    Tls,
}

/// A node under load.
#[derive(Debug)]
pub struct Node {
    pub endpoints: Endpoints,
    pid: Option<Pid>,
    server: Option<Server>,
    lifted: Vec<(&'static str, &'static str)>,
}

impl Serve {
    /// A node with this binary, its data in the system's folder for temporary files.
    pub fn new(binary: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            data_parent: std::env::temp_dir(),
            arguments: Vec::new(),
            variables: Vec::new(),
            protocols: Vec::new(),
            encryption: Encryption::Plain,
            quic_mtu: None,
        }
    }
}

impl Node {
    /// Starts a node on free ports of loopback and an empty data folder, and waits until it is ready.
    pub fn serve(how: &Serve) -> Result<Self, String> {
        let folder = Folder::new(&how.data_parent)?;
        let data = folder.path().join("data");
        Self::serve_on(how, &data, folder)
    }

    /// Starts a node on a data folder that may hold something already; `folder` goes when the node does.
    pub fn serve_on(how: &Serve, data: &Path, folder: Folder) -> Result<Self, String> {
        let binary = fs::canonicalize(&how.binary).map_err(|error| format!("{}: {error}", how.binary.display()))?;
        let of_mqtt = how.protocols.contains(&Protocol::Mqtt).then_some(LIFTED_MQTT);
        let lifted: Vec<_> = LIFTED.into_iter().chain(of_mqtt.into_iter().flatten()).collect();
        let mut command = Command::new(binary);
        // Settings of whoever runs this are none of the node's, nor is a `weft.yaml` that lies here.
        let settings = std::env::vars_os().map(|(name, _)| name);
        for name in settings.filter(|name| name.to_string_lossy().starts_with("WEFT_")) {
            command.env_remove(name);
        }
        command
            .current_dir(folder.path())
            .envs(lifted.iter().copied())
            .envs(how.variables.iter().map(|(name, value)| (name, value)))
            .args(["serve", "--http-listen=127.0.0.1:0", "--grpc-listen=127.0.0.1:0"])
            .args(["--log-level=warn", "--data-dir"])
            .arg(data);
        // Not its usual port: several nodes may run at once.
        command.arg(match how.protocols.contains(&Protocol::Quic) {
            true => "--quic-listen=127.0.0.1:0",
            false => "--quic-listen=off",
        });
        if how.protocols.contains(&Protocol::Mqtt) {
            command.arg("--mqtt-listen=127.0.0.1:0");
        }
        if how.encryption == Encryption::Tls {
            command.env("WEFT_GRPC__TLS_LISTEN", "127.0.0.1:0");
        }
        if let Some(mtu) = how.quic_mtu {
            command.env("WEFT_QUIC__MTU", mtu.to_string());
        }
        command.args(&how.arguments);
        let (server, line) = Server::start_until_line(command, "weft ready", Some(folder))?;
        Ok(Self {
            endpoints: Endpoints {
                quic_mtu: how.quic_mtu,
                ..Endpoints::of_ready_line(&line, data)
            },
            pid: Some(server.pid()),
            server: Some(server),
            lifted,
        })
    }

    /// A node that runs already, at these URLs (`grpc://`, `weft://`, `http://`, `mqtt://`), in this process where it is on this machine.
    pub fn at(urls: &[String], ca_pem: Option<Vec<u8>>, pid: Option<u32>) -> Result<Self, String> {
        let mut endpoints = Endpoints {
            ca_pem,
            ..Endpoints::default()
        };
        for url in urls {
            let (scheme, host) = url.split_once("://").ok_or(format!("{url} has no scheme"))?;
            match scheme {
                "grpc" | "grpcs" => endpoints.grpc = Some(url.clone()),
                "weft" => endpoints.quic = Some(url.clone()),
                "http" | "ws" => endpoints.http = Some(host.trim_end_matches('/').to_owned()),
                "mqtt" => endpoints.mqtt = Some(host.trim_end_matches('/').to_owned()),
                _ => return Err(format!("{url}: known schemes are grpc, grpcs, weft, http, ws and mqtt")),
            }
        }
        Ok(Self {
            endpoints,
            pid: pid.map(Pid),
            server: None,
            lifted: Vec::new(),
        })
    }

    /// What its process has used; `None` where that is not known.
    pub fn sample(&self) -> Option<Sample> {
        self.pid?.sample()
    }

    /// Its process, where that is known.
    pub fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// From starting it until it said that it was ready; `None` where this program did not start it.
    pub fn ready_after(&self) -> Option<Duration> {
        self.server.as_ref().map(|server| server.ready_after)
    }

    /// The bounds that were lifted for it; none where it was not started here.
    pub fn lifted(&self) -> Vec<String> {
        let named = self.lifted.iter().map(|(name, value)| format!("{name}={value}"));
        named.collect()
    }
}

impl Endpoints {
    /// The listeners of a line such as `weft ready http=127.0.0.1:8000 grpc=127.0.0.1:50051`.
    fn of_ready_line(line: &str, data: &Path) -> Self {
        let quic = listener(line, "quic").map(|host| format!("weft://{host}"));
        let tls = listener(line, "grpc-tls").map(|host| format!("grpcs://{host}"));
        Self {
            grpc: tls.or_else(|| listener(line, "grpc").map(|host| format!("grpc://{host}"))),
            quic,
            http: listener(line, "http"),
            mqtt: listener(line, "mqtt"),
            // The certificate that a node in development mode makes for itself.
            ca_pem: fs::read(data.join("tls.certificate.pem")).ok(),
            quic_mtu: None,
        }
    }
}

fn listener(line: &str, name: &str) -> Option<String> {
    let values = line.split([' ', ',']).filter_map(|word| word.split_once('='));
    let value = values.filter(|(key, _)| *key == name).map(|(_, value)| value).next()?;
    value.rsplit('/').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_found_in_the_ready_line() {
        let line = "weft ready http=127.0.0.1:8000 grpc=127.0.0.1:50051";
        let endpoints = Endpoints::of_ready_line(line, Path::new("/nowhere"));
        assert_eq!(endpoints.http.as_deref(), Some("127.0.0.1:8000"));
        assert_eq!(endpoints.grpc.as_deref(), Some("grpc://127.0.0.1:50051"));
        assert_eq!(endpoints.quic, None);
        let line =
            format!("{line} grpc-tls=127.0.0.1:50052 quic=127.0.0.1:4433 mqtt=127.0.0.1:1883 certificate=sha256:00");
        let endpoints = Endpoints::of_ready_line(&line, Path::new("/nowhere"));
        assert_eq!(endpoints.grpc.as_deref(), Some("grpcs://127.0.0.1:50052"));
        assert_eq!(endpoints.quic.as_deref(), Some("weft://127.0.0.1:4433"));
        assert_eq!(endpoints.mqtt.as_deref(), Some("127.0.0.1:1883"));
    }

    #[test]
    fn the_scheme_of_a_url_says_which_listener_it_is() {
        let urls = [
            "weft://a:1".to_owned(),
            "grpcs://a:2".to_owned(),
            "http://a:3/".to_owned(),
            "mqtt://a:4".to_owned(),
        ];
        let node = Node::at(&urls, None, None).expect("known schemes");
        assert_eq!(node.endpoints.quic.as_deref(), Some("weft://a:1"));
        assert_eq!(node.endpoints.grpc.as_deref(), Some("grpcs://a:2"));
        assert_eq!(node.endpoints.http.as_deref(), Some("a:3"));
        assert_eq!(node.endpoints.mqtt.as_deref(), Some("a:4"));
        assert!(Node::at(&["ftp://a".to_owned()], None, None).is_err());
    }
}
