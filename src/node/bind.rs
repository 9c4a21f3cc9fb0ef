//! Binds every listener, and says what to do where one cannot be had.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use tokio::net::TcpListener;

use super::{
    config::{Config, Listen, Quic},
    failure::{Exit, Failure},
};

/// The listeners that are on.
#[derive(Debug)]
pub(super) struct Sockets {
    pub http: Option<TcpListener>,
    pub grpc: Option<TcpListener>,
    pub grpc_tls: Option<TcpListener>,
    pub quic: Option<UdpSocket>,
    pub mqtt: Option<TcpListener>,
    pub mqtt_tls: Option<TcpListener>,
}

impl Sockets {
    pub async fn bind(config: &Config) -> Result<Self, Failure> {
        let must_be_local = !config.node.insecure;
        Ok(Self {
            http: bind("http", &config.http.listen, must_be_local).await?,
            grpc: bind("grpc", &config.grpc.listen, must_be_local).await?,
            grpc_tls: bind("grpc-tls", &config.grpc.tls_listen, must_be_local).await?,
            quic: bind_quic(&config.quic, must_be_local).await?,
            mqtt: bind("mqtt", &config.mqtt.listen, must_be_local).await?,
            mqtt_tls: bind("mqtts", &config.mqtt.tls_listen, must_be_local).await?,
        })
    }
}

async fn bind(name: &str, listen: &Listen, must_be_local: bool) -> Result<Option<TcpListener>, Failure> {
    let Listen::At { host, port } = listen else {
        return Ok(None);
    };
    let bound = match host.parse::<IpAddr>() {
        Ok(address) => TcpListener::bind(SocketAddr::new(address, *port)).await,
        Err(_) => TcpListener::bind((host.as_str(), *port)).await,
    };
    let listener = bound.map_err(|error| refused(name, listen, &error))?;
    let address = listener.local_addr().map_err(|error| refused(name, listen, &error))?;
    check_local(name, listen, address, must_be_local)?;
    Ok(Some(listener))
}

/// QUIC's UDP socket, with the large buffers that its windows need.
async fn bind_quic(quic: &Quic, must_be_local: bool) -> Result<Option<UdpSocket>, Failure> {
    let (name, listen) = ("quic", &quic.listen);
    let Listen::At { host, port } = listen else {
        return Ok(None);
    };
    let failed = |error: io::Error| refused(name, listen, &error);
    let address = match host.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, *port),
        Err(_) => {
            let mut found = tokio::net::lookup_host((host.as_str(), *port)).await.map_err(failed)?;
            found
                .next()
                .ok_or_else(|| failed(io::ErrorKind::AddrNotAvailable.into()))?
        }
    };
    check_local(name, listen, address, must_be_local)?;
    quic.settings.link.bind(address).map(Some).map_err(failed)
}

/// The settings were checked by name; what the name means is known only now.
fn check_local(name: &str, listen: &Listen, address: SocketAddr, must_be_local: bool) -> Result<(), Failure> {
    if must_be_local && !address.ip().to_canonical().is_loopback() {
        let cause = format!("{listen} is {}, which other machines can reach", address.ip());
        let fix = "listen on 127.0.0.1, or spell out --insecure on a network that you trust";
        let what = format!("cannot listen on {listen} ({name})");
        return Err(Failure::new(Exit::Config, what, cause, fix));
    }
    Ok(())
}

fn refused(name: &str, listen: &Listen, error: &io::Error) -> Failure {
    let (exit, fix) = match error.kind() {
        io::ErrorKind::AddrInUse => (
            Exit::Unavailable,
            format!("stop the process that has it, or choose another with --{name}-listen (port 0 picks a free one)"),
        ),
        io::ErrorKind::PermissionDenied => (
            Exit::NoPerm,
            format!("choose a port above 1023 with --{name}-listen, or grant CAP_NET_BIND_SERVICE"),
        ),
        _ => (
            Exit::Unavailable,
            format!("name an address of this machine with --{name}-listen"),
        ),
    };
    Failure::new(exit, format!("cannot listen on {listen} ({name})"), error, fix)
}
