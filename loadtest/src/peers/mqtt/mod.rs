//! MQTT 3.1.1 beside other brokers: a blocking client, and the work that all of them are given.
//!
//! [`Mqtt`] is the connection, [`pairs()`] publishers and subscribers at work, [`idle()`] connections that do nothing. The packets
//! are in [`crate::mqtt`].

mod idle;
mod pairs;

use std::{
    io::{Error, Result},
    net::SocketAddr,
};

pub use idle::run as idle;
pub use pairs::run as pairs;

use super::{client::Security, wire::Wire};
use crate::{
    mqtt::{self, Lasting, Packet},
    plan::Quality,
};

/// Who is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Broker {
    Weft,
    Rumqttd,
    Mosquitto,
}

/// What is asked of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// At most once.
    Qos0,
    /// At least once, both sides, in sessions that end with their connection.
    Qos1,
    /// The same to sessions that outlive their connection, so that every message is on stable storage before the publisher has its
    /// answer: what goes to a session that ends with its connection need not be written.
    Qos1Durable,
}

/// How many publishers there are, each with a topic and a subscriber of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pairs {
    One = 1,
    Four = 4,
}

/// What a connection that does nothing has done before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Idle {
    Connected,
    /// To one topic of its own.
    Subscribed,
}

/// The name of a case in tables.
pub const fn name(broker: Broker, work: Work, pairs: Pairs) -> &'static str {
    use {Broker as B, Pairs as P, Work as W};
    match (broker, work, pairs) {
        (B::Weft, W::Qos0, P::One) => "weft MQTT QoS 0",
        (B::Weft, W::Qos0, P::Four) => "weft MQTT QoS 0, 4 pairs",
        (B::Weft, W::Qos1, P::One) => "weft MQTT QoS 1 in memory",
        (B::Weft, W::Qos1, P::Four) => "weft MQTT QoS 1 in memory, 4 pairs",
        (B::Weft, W::Qos1Durable, P::One) => "weft MQTT QoS 1 kept with fsync",
        (B::Weft, W::Qos1Durable, P::Four) => "weft MQTT QoS 1 kept with fsync, 4 pairs",
        (B::Rumqttd, W::Qos0, P::One) => "rumqttd QoS 0, 1 pair",
        (B::Rumqttd, W::Qos0, P::Four) => "rumqttd QoS 0, 4 pairs",
        (B::Rumqttd, _, P::One) => "rumqttd QoS 1",
        (B::Rumqttd, _, P::Four) => "rumqttd QoS 1, 4 pairs",
        (B::Mosquitto, W::Qos0, P::One) => "mosquitto QoS 0, 1 pair",
        (B::Mosquitto, W::Qos0, P::Four) => "mosquitto QoS 0, 4 pairs",
        (B::Mosquitto, _, P::One) => "mosquitto QoS 1 in memory",
        (B::Mosquitto, _, P::Four) => "mosquitto QoS 1 in memory, 4 pairs",
    }
}

/// The name of a case of idle connections in tables.
pub const fn idle_name(broker: Broker, idle: Idle) -> &'static str {
    match (broker, idle) {
        (Broker::Weft, Idle::Connected) => "weft idle MQTT",
        (Broker::Weft, Idle::Subscribed) => "weft idle MQTT, subscribed",
        (Broker::Rumqttd, Idle::Connected) => "rumqttd idle",
        (Broker::Rumqttd, Idle::Subscribed) => "rumqttd idle, subscribed",
        (Broker::Mosquitto, Idle::Connected) => "mosquitto idle",
        (Broker::Mosquitto, Idle::Subscribed) => "mosquitto idle, subscribed",
    }
}

impl Work {
    const fn quality(self) -> Quality {
        match self {
            Self::Qos0 => Quality::AtMostOnce,
            Self::Qos1 | Self::Qos1Durable => Quality::AtLeastOnce,
        }
    }

    const fn lasting(self) -> Lasting {
        match self {
            Self::Qos0 | Self::Qos1 => Lasting::Clean,
            Self::Qos1Durable => Lasting::Kept,
        }
    }
}

/// A connection.
#[derive(Debug)]
pub struct Mqtt {
    pub wire: Wire,
}

impl Mqtt {
    /// Connects under a client id.
    pub fn open(server: SocketAddr, security: &Security, name: &str, lasting: Lasting) -> Result<Self> {
        let mut wire = Wire::open(server)?;
        if let Security::Tls(authority) = security {
            wire = wire.encrypt(authority.clone())?;
        }
        let mut client = Self { wire };
        client.wire.write(&mqtt::connect(name, lasting))?;
        match client.next(|packet| packet == Packet::Connack(0))? {
            true => Ok(client),
            false => Err(Error::other("was not welcomed")),
        }
    }

    /// Subscribes; an error where the broker grants less.
    pub fn subscribe(&mut self, subject: &str, quality: Quality) -> Result<()> {
        self.wire.write(&mqtt::subscribe(subject, quality))?;
        let granted = Packet::Suback(mqtt::level(quality));
        match self.next(|packet| packet == granted)? {
            true => Ok(()),
            false => Err(Error::other("the subscription was not granted")),
        }
    }

    /// The bytes that publish one message at QoS 0.
    pub fn publication(subject: &str, body: &[u8]) -> Vec<u8> {
        let mut publication = Vec::new();
        mqtt::publish(subject, Quality::AtMostOnce, 0, body, &mut publication);
        publication
    }

    /// Waits for a packet and takes it.
    fn next<T>(&mut self, look: impl Fn(Packet<'_>) -> T) -> Result<T> {
        loop {
            if let Some((packet, bytes)) = mqtt::read(self.wire.buffered()).map_err(Error::other)? {
                let seen = look(packet);
                self.wire.take(bytes);
                return Ok(seen);
            }
            self.wire.fill()?;
        }
    }

    /// Hands over every whole packet that is there, and takes them.
    fn each(&mut self, mut look: impl FnMut(Packet<'_>) -> Result<()>) -> Result<()> {
        let mut taken = 0;
        while let Some((packet, bytes)) = mqtt::read(&self.wire.buffered()[taken..]).map_err(Error::other)? {
            look(packet)?;
            taken += bytes;
        }
        self.wire.take(taken);
        Ok(())
    }

    /// Waits for messages and counts those that are there.
    pub fn messages(&mut self) -> Result<u64> {
        let mut count = 0;
        loop {
            self.each(|packet| {
                count += u64::from(matches!(packet, Packet::Publish { .. }));
                Ok(())
            })?;
            if count > 0 {
                return Ok(count);
            }
            self.wire.fill()?;
        }
    }
}
