//! One way to send and to receive, whatever the protocol.
//!
//! Owns the seam between what is measured and what carries it: a [`Sender`] and a [`Receiver`] per session, as an enum of drivers
//! (a further protocol is a variant and a module). Drivers count nothing and look at no clock.

mod client;
mod http;
mod mqtt;
mod websocket;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::oneshot,
};
use weft::{
    client::SendHandle,
    frame::{Address, Priority, Qos},
};

use crate::{head::Head, node::Endpoints, plan::Protocol};

pub use client::Connections;
pub use http::Connection;
pub use mqtt::Socket as MqttSocket;
pub use websocket::Socket;

/// What went wrong with a session or one of its messages, for whoever reads the report.
pub type Failure = String;

/// Opens sessions at a node.
#[derive(Clone, Debug)]
pub struct Connector {
    endpoints: Arc<Endpoints>,
    connections: Arc<Connections>,
}

/// A message to be sent.
#[derive(Debug)]
pub struct Outgoing<'a> {
    pub to: &'a Address,
    pub body: Bytes,
    pub qos: Qos,
    pub priority: Priority,
}

/// What is to be told of a message that was sent.
#[derive(Debug)]
pub enum Answer {
    /// Nothing will be said (QoS 0), or it was said already.
    Done,
    Client(SendHandle),
    Receipt(oneshot::Receiver<Result<(), Failure>>),
}

impl Answer {
    /// Waits until the fabric has answered.
    pub async fn settled(self) -> Result<(), Failure> {
        match self {
            Self::Done => Ok(()),
            Self::Client(handle) => handle.await.map(|_| ()).map_err(|error| error.to_string()),
            Self::Receipt(receipt) => receipt
                .await
                .unwrap_or_else(|_| Err("the session ended before the answer".into())),
        }
    }
}

/// How a session receives.
#[derive(Clone, Debug, Default)]
pub struct Receiving {
    /// Topic filters; empty: the agent's inbox alone.
    pub topics: Vec<String>,
    pub qos: Qos,
}

/// What arrived; `None` where a body was not this program's.
pub type Arrival = Option<Head>;

/// A session that sends.
#[derive(Debug)]
pub enum Sender {
    Client(client::ClientSender),
    Websocket(websocket::SocketSender),
    Mqtt(mqtt::MqttSender),
    Http(http::HttpSender),
}

/// A session that receives.
#[derive(Debug)]
pub enum Receiver {
    Client(client::ClientReceiver),
    Websocket(websocket::SocketReceiver),
    Mqtt(mqtt::MqttReceiver),
    Http(http::HttpReceiver),
}

impl Connector {
    /// Sessions at these endpoints; so many of the client library's share a connection.
    pub fn new(endpoints: Endpoints, sessions_per_connection: usize) -> Self {
        Self {
            connections: Arc::new(Connections::new(sessions_per_connection)),
            endpoints: Arc::new(endpoints),
        }
    }

    /// What the node offers to the client library, for setting up agents and groups.
    pub async fn control(&self) -> Result<weft::client::Client, Failure> {
        let protocol = if self.endpoints.grpc.is_some() {
            Protocol::Grpc
        } else {
            Protocol::Quic
        };
        self.connections.fresh(&self.endpoints, protocol).await
    }

    /// A session that sends as this agent, with at most so many messages unanswered.
    pub async fn sender(&self, protocol: Protocol, agent: &str, unanswered_max: usize) -> Result<Sender, Failure> {
        match protocol {
            Protocol::Grpc | Protocol::Quic => {
                let client = self.connections.client(&self.endpoints, protocol).await?;
                let sender = client::ClientSender::open(&client, agent, unanswered_max).await;
                sender.map(Sender::Client)
            }
            Protocol::Websocket => websocket::SocketSender::open(self.http()?, agent)
                .await
                .map(Sender::Websocket),
            Protocol::Mqtt => mqtt::MqttSender::open(self.mqtt()?, agent).await.map(Sender::Mqtt),
            Protocol::Http => http::HttpSender::open(self.http()?, agent).await.map(Sender::Http),
        }
    }

    /// A session that receives as this agent.
    pub async fn receiver(&self, protocol: Protocol, agent: &str, receiving: &Receiving) -> Result<Receiver, Failure> {
        match protocol {
            Protocol::Grpc | Protocol::Quic => {
                let client = self.connections.client(&self.endpoints, protocol).await?;
                let receiver = client::ClientReceiver::open(&client, agent, receiving).await;
                receiver.map(Receiver::Client)
            }
            Protocol::Websocket => websocket::SocketReceiver::open(self.http()?, agent, receiving)
                .await
                .map(Receiver::Websocket),
            Protocol::Mqtt => mqtt::MqttReceiver::open(self.mqtt()?, agent, receiving)
                .await
                .map(Receiver::Mqtt),
            Protocol::Http => http::HttpReceiver::open(self.http()?, agent, receiving)
                .await
                .map(Receiver::Http),
        }
    }

    /// `host:port` of HTTP and WebSocket.
    pub fn http(&self) -> Result<&str, Failure> {
        self.endpoints
            .http
            .as_deref()
            .ok_or_else(|| "the node has no HTTP listener; name it with --url http://HOST:PORT".into())
    }

    /// `host:port` of MQTT.
    pub fn mqtt(&self) -> Result<&str, Failure> {
        self.endpoints
            .mqtt
            .as_deref()
            .ok_or_else(|| "the node has no MQTT listener; name it with --url mqtt://HOST:PORT".into())
    }
}

impl Sender {
    /// Messages that can be unanswered at once.
    pub fn in_flight_max(&self) -> usize {
        match self {
            Self::Http(_) => 1,
            Self::Client(_) | Self::Websocket(_) | Self::Mqtt(_) => usize::MAX,
        }
    }

    /// Sends a message, or queues it until [`Self::flush`].
    pub async fn send(&mut self, message: Outgoing<'_>) -> Result<Answer, Failure> {
        match self {
            Self::Client(sender) => sender.send(message).await,
            Self::Websocket(sender) => sender.send(message).await,
            Self::Mqtt(sender) => sender.send(message).await,
            Self::Http(sender) => sender.send(message).await,
        }
    }

    /// True where many messages at once cost less than as many one by one.
    pub fn sends_runs(&self) -> bool {
        matches!(self, Self::Client(_))
    }

    /// Sends QoS 0 messages that differ in nothing but their bodies.
    pub async fn send_run(
        &mut self,
        message: Outgoing<'_>,
        bodies: impl Iterator<Item = &[u8]>,
    ) -> Result<(), Failure> {
        match self {
            Self::Client(sender) => sender.send_run(message, bodies).await,
            Self::Websocket(_) | Self::Mqtt(_) | Self::Http(_) => {
                for body in bodies {
                    let body = Bytes::copy_from_slice(body);
                    self.send(Outgoing { body, ..message }).await?;
                }
                Ok(())
            }
        }
    }

    /// Writes what is queued.
    pub async fn flush(&mut self) -> Result<(), Failure> {
        match self {
            Self::Client(_) | Self::Http(_) => Ok(()),
            Self::Websocket(sender) => sender.flush().await,
            Self::Mqtt(sender) => sender.flush().await,
        }
    }

    /// Writes what is queued and ends the session once it is answered, but waits no longer than this.
    pub async fn close(self, patience: Duration) {
        match self {
            Self::Client(sender) => sender.close(patience).await,
            Self::Websocket(mut sender) => drop(sender.flush().await),
            Self::Mqtt(sender) => sender.close().await,
            Self::Http(_) => {}
        }
    }
}

impl Receiver {
    /// Waits for messages and adds what is there, at most so many. Dropping the future loses nothing that is not settled.
    pub async fn receive(&mut self, into: &mut Vec<Arrival>, max: usize) -> Result<(), Failure> {
        match self {
            Self::Client(receiver) => receiver.receive(into, max).await,
            Self::Websocket(receiver) => receiver.receive(into, max).await,
            Self::Mqtt(receiver) => receiver.receive(into, max).await,
            Self::Http(receiver) => receiver.receive(into, max).await,
        }
    }

    /// Acknowledges everything received so far, where there is something to acknowledge. May go on in the background.
    pub async fn settle(&mut self) -> Result<(), Failure> {
        match self {
            Self::Client(receiver) => receiver.settle().await,
            Self::Websocket(receiver) => receiver.settle().await,
            Self::Mqtt(receiver) => receiver.settle().await,
            Self::Http(receiver) => receiver.settle().await,
        }
    }

    /// Waits for acknowledgements under way; returns how many did not settle.
    pub async fn finish(self) -> u64 {
        match self {
            Self::Client(receiver) => receiver.finish().await,
            Self::Websocket(_) | Self::Mqtt(_) | Self::Http(_) => 0,
        }
    }
}

/// A connection that sends at once; from this address where one is given.
async fn connect(host: &str, source: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let stream = match source {
        None => TcpStream::connect(host).await?,
        Some(source) => {
            let server: SocketAddr = host.parse().map_err(std::io::Error::other)?;
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::new(source, 0))?;
            socket.connect(server).await?
        }
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A fresh Internet address of loopback for a session, so that no address has more sessions than a node allows or ports has.
pub(crate) fn source_of(index: usize) -> IpAddr {
    use std::net::Ipv4Addr;
    /// Well below what one address has of ephemeral ports.
    const SESSIONS_PER_ADDRESS: usize = 200;
    let number = u32::try_from(index / SESSIONS_PER_ADDRESS).unwrap_or(u32::MAX);
    let host = Ipv4Addr::new(127, 1, 0, 1).to_bits().saturating_add(number);
    Ipv4Addr::from_bits(host).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_change_before_an_address_has_too_many() {
        assert_eq!(source_of(0), source_of(199));
        assert_eq!(source_of(200).to_string(), "127.1.0.2");
        assert_eq!(source_of(200 * 255).to_string(), "127.1.1.0");
    }
}
