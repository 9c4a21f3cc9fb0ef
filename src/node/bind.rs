//! Binds every listener, and says what to do where one cannot be had.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tokio::net::TcpListener;

use super::{
    config::{Config, Listen},
    failure::{Exit, Failure},
};

/// The listeners that are on.
#[derive(Debug)]
pub(super) struct Sockets {
    pub http: Option<TcpListener>,
    pub grpc: Option<TcpListener>,
}

impl Sockets {
    pub async fn bind(config: &Config) -> Result<Self, Failure> {
        let must_be_local = !config.node.insecure;
        Ok(Self {
            http: bind("http", &config.http.listen, must_be_local).await?,
            grpc: bind("grpc", &config.grpc.listen, must_be_local).await?,
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
    // The settings were checked by name; what the name means is known only now.
    if must_be_local && !address.ip().to_canonical().is_loopback() {
        let cause = format!("{host} is {}, which other machines can reach", address.ip());
        let fix = "listen on 127.0.0.1, or spell out --insecure on a network that you trust";
        return Err(Failure::new(
            Exit::Config,
            format!("cannot listen on {listen} ({name})"),
            cause,
            fix,
        ));
    }
    Ok(Some(listener))
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
