//! What is run: scenario, protocol, load and bounds, as they were asked for.

use std::{fmt, time::Duration};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use weft::frame::Qos;

/// What the agents do. A further one is a line here and a layout in `scenario`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// One producer, one consumer.
    OneToOne,
    /// Pairs of producer and consumer, side by side.
    NToN,
    /// One producer, a topic, every consumer subscribed to it.
    FanOut,
    /// Many producers, one consumer.
    FanIn,
    /// One producer, a group that broadcasts to its members.
    Groups,
    /// One producer, a capability, each message to one of the agents that have it.
    Anycast,
    /// Requests to agents that send each back; latency is the round trip.
    RequestReply,
    /// One producer, one consumer, QoS 1: on stable storage before the answer, acknowledged by the consumer.
    Durable,
    /// QoS 1 to inboxes that nobody has open; then their agents come and take everything.
    OfflineDrain,
    /// A consumer that takes 1,000 messages a second from a producer at full speed, beside a pair that must not notice.
    SlowConsumer,
    /// Bulk at low priority, and a message at critical priority every millisecond: latency of each.
    Priorities,
    /// Sessions opened as fast as the node takes them.
    ConnectionStorm,
    /// Sessions that do nothing: memory each.
    IdleConnections,
}

/// What carries the messages. A further one is a line here and a module in `driver`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    Grpc,
    Quic,
    Http,
    Websocket,
    Mqtt,
}

/// How much is asked of the system.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Load {
    /// As fast as it goes, with at most so many messages of a producer under way.
    Closed { in_flight: usize },
    /// So many messages a second of all producers together, whatever becomes of them.
    Open { rate_per_s: f64 },
}

/// When a run ends, whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// Not measured.
    pub warm_up: Duration,
    /// Measured.
    pub time: Duration,
    /// Messages sent by all producers together, the warm-up's included.
    pub messages: u64,
}

/// Whether what arrives is checked message by message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verification {
    On,
    Off,
}

/// A quality of service by its number.
#[allow(clippy::enum_variant_names, reason = "the names that the guarantees have")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
pub enum Quality {
    #[value(name = "0")]
    AtMostOnce,
    #[value(name = "1")]
    AtLeastOnce,
    #[value(name = "2")]
    ExactlyOnce,
}

impl From<Qos> for Quality {
    fn from(qos: Qos) -> Self {
        match qos {
            Qos::AtMostOnce => Self::AtMostOnce,
            Qos::AtLeastOnce => Self::AtLeastOnce,
            Qos::ExactlyOnce => Self::ExactlyOnce,
        }
    }
}

impl From<Quality> for Qos {
    fn from(quality: Quality) -> Self {
        match quality {
            Quality::AtMostOnce => Self::AtMostOnce,
            Quality::AtLeastOnce => Self::AtLeastOnce,
            Quality::ExactlyOnce => Self::ExactlyOnce,
        }
    }
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub scenario: Scenario,
    pub protocol: Protocol,
    /// What carries messages to consumers, where it is another protocol than producers use.
    pub receive_over: Protocol,
    pub load: Load,
    pub bounds: Bounds,
    pub quality: Quality,
    pub body_bytes: usize,
    /// Pairs, consumers, producers, members or sessions, as the scenario has them.
    pub agents: usize,
    /// Sessions of the client library that share a connection.
    pub sessions_per_connection: usize,
    pub verification: Verification,
}

impl Plan {
    /// A scenario as it is run where nothing else is asked for: bounded to seconds.
    pub fn new(scenario: Scenario, protocol: Protocol) -> Self {
        let quality = match scenario {
            Scenario::Durable | Scenario::OfflineDrain => Quality::AtLeastOnce,
            _ => Quality::AtMostOnce,
        };
        Self {
            scenario,
            protocol,
            receive_over: protocol,
            load: Load::Closed {
                in_flight: scenario.in_flight_default(quality),
            },
            bounds: Bounds {
                warm_up: Duration::from_secs(2),
                time: Duration::from_secs(10),
                messages: 50_000_000,
            },
            quality,
            body_bytes: 256,
            agents: scenario.agents_default(),
            sessions_per_connection: 1,
            verification: Verification::On,
        }
    }

    /// A name for tables: scenario, protocol, quality.
    pub fn title(&self) -> String {
        let over = if self.receive_over == self.protocol {
            String::new()
        } else {
            format!("→{}", self.receive_over)
        };
        format!("{} {}{over} qos{}", self.scenario, self.protocol, self.quality)
    }
}

impl Scenario {
    /// Agents where nothing else is asked for.
    pub const fn agents_default(self) -> usize {
        match self {
            Self::OneToOne | Self::Durable | Self::RequestReply | Self::Priorities | Self::SlowConsumer => 1,
            Self::NToN | Self::Groups | Self::Anycast | Self::OfflineDrain => 8,
            Self::FanOut | Self::FanIn => 100,
            Self::ConnectionStorm | Self::IdleConnections => 1_000,
        }
    }

    /// Messages of a producer under way where nothing else is asked for: what keeps a pair busy without filling a lane
    /// (4,096 frames), shared by those who send into the same one.
    pub const fn in_flight_default(self, quality: Quality) -> usize {
        match (self, quality) {
            (Self::RequestReply, _) => 1,
            (Self::FanIn, _) => 20,
            (Self::OneToOne | Self::Priorities | Self::SlowConsumer, Quality::AtMostOnce) => 2_048,
            (_, Quality::AtMostOnce) => 256,
            _ => 128,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_value(*self, f)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_value(*self, f)
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_value(*self, f)
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { in_flight } => write!(f, "closed, {in_flight} in flight"),
            Self::Open { rate_per_s } => write!(f, "open, {rate_per_s:.0}/s"),
        }
    }
}

/// A value as it is written on the command line.
fn show_value<T: ValueEnum>(value: T, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let named = value.to_possible_value();
    f.pad(named.as_ref().map_or("", |named| named.get_name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        assert_eq!(
            Plan::new(Scenario::NToN, Protocol::Websocket).title(),
            "n-to-n websocket qos0"
        );
        assert_eq!(
            Plan::new(Scenario::Durable, Protocol::Grpc).title(),
            "durable grpc qos1"
        );
    }
}
