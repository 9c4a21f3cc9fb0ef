//! What a peer's raw client must be able to do, so that one engine drives them all.

use std::{io::Result, net::SocketAddr, sync::Arc};

use rustls::ClientConfig;

use super::{mqtt::Mqtt, nats::Nats, redis::Redis};
use crate::{mqtt::Lasting, plan::Quality};

/// Whether a connection is encrypted.
#[derive(Clone, Debug)]
pub enum Security {
    Plain,
    Tls(Arc<ClientConfig>),
}

/// How a peer is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Nats,
    Redis,
    Mqtt,
}

/// A connection to a peer.
#[derive(Debug)]
pub enum Client {
    Nats(Nats),
    Redis(Redis),
    Mqtt(Mqtt),
}

impl Client {
    /// Connects under this name.
    pub fn open(language: Language, server: SocketAddr, security: &Security, name: &str) -> Result<Self> {
        Ok(match language {
            Language::Nats => Self::Nats(Nats::open(server, security)?),
            Language::Redis => Self::Redis(Redis::open(server)?),
            Language::Mqtt => Self::Mqtt(Mqtt::open(server, security, name, Lasting::Clean)?),
        })
    }

    /// Subscribes; returns once that is in effect.
    pub fn subscribe(&mut self, subject: &str) -> Result<()> {
        match self {
            Self::Nats(client) => client.subscribe(subject),
            Self::Redis(client) => client.subscribe(subject),
            Self::Mqtt(client) => client.subscribe(subject, Quality::AtMostOnce),
        }
    }

    /// The bytes that publish one message.
    pub fn publication(&self, subject: &str, body: &[u8]) -> Vec<u8> {
        match self {
            Self::Nats(_) => Nats::publication(subject, None, body),
            Self::Redis(_) => Redis::command(&[b"PUBLISH", subject.as_bytes(), body]),
            Self::Mqtt(_) => Mqtt::publication(subject, body),
        }
    }

    /// Writes publications, of which there are this many.
    pub fn publish(&mut self, bytes: &[u8], messages: u64) -> Result<()> {
        match self {
            Self::Nats(client) => client.wire.write(bytes),
            Self::Redis(client) => client.publish(bytes, messages),
            Self::Mqtt(client) => client.wire.write(bytes),
        }
    }

    /// Waits for messages and takes all that are there; returns how many.
    pub fn messages(&mut self) -> Result<u64> {
        match self {
            Self::Nats(client) => client.messages(),
            Self::Redis(client) => client.messages(),
            Self::Mqtt(client) => client.messages(),
        }
    }
}
