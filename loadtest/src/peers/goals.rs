//! The goals: what weft must reach beside its peers, in one table. Pure.
//!
//! A goal sets one figure of a case of weft against the same figure of another case, or against a number. Ratios are taken within
//! a round and judged by their median over the rounds.

use super::{
    case::Case,
    figures::Figure,
    mqtt::{Broker, Idle, Pairs, Work},
};

/// A goal.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// Its number in the project's list.
    pub id: &'static str,
    pub ours: Case,
    pub figure: Figure,
    pub bound: Bound,
}

/// What a figure is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// At least so many times the other's.
    AtLeast(f64, Case),
    /// At most so many times the other's.
    AtMost(f64, Case),
    /// At most this number.
    Below(f64),
}

const KIB: f64 = 1024.0;

const fn goal(id: &'static str, ours: Case, figure: Figure, bound: Bound) -> Goal {
    Goal {
        id,
        ours,
        figure,
        bound,
    }
}

/// MQTT of weft at this work against another broker at that.
const fn mqtt_goal(pairs: Pairs, ours: Work, least: f64, broker: Broker, theirs: Work) -> Goal {
    goal(
        "P5",
        Case::Mqtt(Broker::Weft, ours, pairs),
        Figure::PerSecond,
        Bound::AtLeast(least, Case::Mqtt(broker, theirs, pairs)),
    )
}

/// All of them. P9 comes with the cluster.
pub const GOALS: &[Goal] = &[
    goal(
        "P1",
        Case::WeftQuicRaw,
        Figure::PerSecond,
        Bound::AtLeast(1.25, Case::NatsTls),
    ),
    goal(
        "P1",
        Case::WeftQuic,
        Figure::PerSecond,
        Bound::AtLeast(1.25, Case::NatsTls),
    ),
    goal(
        "P1",
        Case::WeftQuicRaw,
        Figure::PerSecond,
        Bound::AtLeast(0.87, Case::RelayQuic),
    ),
    goal(
        "P1",
        Case::WeftQuic,
        Figure::PerSecond,
        Bound::AtLeast(0.87, Case::RelayQuic),
    ),
    goal(
        "P1",
        Case::WeftQuicRaw,
        Figure::ServerCpu,
        Bound::AtMost(0.55, Case::NatsTls),
    ),
    goal(
        "P1",
        Case::WeftQuic,
        Figure::ServerCpu,
        Bound::AtMost(0.55, Case::NatsTls),
    ),
    goal(
        "P2",
        Case::WeftQuic6400Raw,
        Figure::PerSecond,
        Bound::AtLeast(2.1, Case::NatsTls),
    ),
    goal(
        "P2",
        Case::WeftQuic6400,
        Figure::PerSecond,
        Bound::AtLeast(2.1, Case::NatsTls),
    ),
    goal(
        "P2",
        Case::WeftQuic6400Raw,
        Figure::PerSecond,
        Bound::AtLeast(0.85, Case::RelayQuic6400),
    ),
    goal(
        "P2",
        Case::WeftQuic6400,
        Figure::PerSecond,
        Bound::AtLeast(0.85, Case::RelayQuic6400),
    ),
    goal(
        "P3",
        Case::WeftGrpcTlsRaw,
        Figure::PerSecond,
        Bound::AtLeast(1.0, Case::NatsTls),
    ),
    goal(
        "P3",
        Case::WeftGrpcTls,
        Figure::PerSecond,
        Bound::AtLeast(1.0, Case::NatsTls),
    ),
    goal(
        "P3",
        Case::WeftGrpcTlsRaw,
        Figure::PerSecond,
        Bound::AtLeast(0.9, Case::RelayGrpc),
    ),
    goal(
        "P3",
        Case::WeftGrpcTls,
        Figure::PerSecond,
        Bound::AtLeast(0.9, Case::RelayGrpc),
    ),
    goal(
        "P3",
        Case::WeftGrpcTlsRaw,
        Figure::PerSecond,
        Bound::AtLeast(14.0, Case::Slim),
    ),
    goal(
        "P3",
        Case::WeftGrpcTls,
        Figure::PerSecond,
        Bound::AtLeast(14.0, Case::Slim),
    ),
    goal(
        "P4",
        Case::WeftDurableRaw,
        Figure::PerSecond,
        Bound::AtLeast(3.0, Case::RedisStream),
    ),
    goal(
        "P4",
        Case::WeftDurable,
        Figure::PerSecond,
        Bound::AtLeast(3.0, Case::RedisStream),
    ),
    goal(
        "P4",
        Case::WeftDurableRaw,
        Figure::PerSecond,
        Bound::AtLeast(50.0, Case::JetStreamAlways),
    ),
    goal(
        "P4",
        Case::WeftDurable,
        Figure::PerSecond,
        Bound::AtLeast(50.0, Case::JetStreamAlways),
    ),
    goal(
        "P4",
        Case::WeftDurable1Raw,
        Figure::PerSecond,
        Bound::AtLeast(0.45, Case::Fdatasync),
    ),
    goal(
        "P4",
        Case::WeftDurable1,
        Figure::PerSecond,
        Bound::AtLeast(0.45, Case::Fdatasync),
    ),
    mqtt_goal(Pairs::One, Work::Qos0, 1.6, Broker::Rumqttd, Work::Qos0),
    mqtt_goal(Pairs::Four, Work::Qos0, 1.6, Broker::Rumqttd, Work::Qos0),
    mqtt_goal(Pairs::One, Work::Qos1, 1.0, Broker::Rumqttd, Work::Qos1),
    mqtt_goal(Pairs::Four, Work::Qos1, 1.0, Broker::Rumqttd, Work::Qos1),
    mqtt_goal(Pairs::One, Work::Qos1Durable, 3.0, Broker::Mosquitto, Work::Qos1),
    mqtt_goal(Pairs::Four, Work::Qos1Durable, 3.0, Broker::Mosquitto, Work::Qos1),
    goal(
        "P6",
        Case::WeftHttpRaw,
        Figure::PerSecond,
        Bound::AtLeast(0.8, Case::BareAxum),
    ),
    goal(
        "P6",
        Case::WeftHttp,
        Figure::PerSecond,
        Bound::AtLeast(0.8, Case::BareAxum),
    ),
    goal(
        "P7",
        Case::WeftRequestGrpcRaw,
        Figure::P50,
        Bound::AtMost(1.0, Case::NatsTlsRequest),
    ),
    goal(
        "P7",
        Case::WeftRequestGrpcRaw,
        Figure::P99,
        Bound::AtMost(0.8, Case::NatsTlsRequest),
    ),
    goal(
        "P7",
        Case::WeftRequestGrpc,
        Figure::P50,
        Bound::AtMost(1.0, Case::NatsTlsRequest),
    ),
    goal(
        "P7",
        Case::WeftRequestGrpc,
        Figure::P99,
        Bound::AtMost(0.8, Case::NatsTlsRequest),
    ),
    goal(
        "P7",
        Case::WeftRequestQuic,
        Figure::P50,
        Bound::AtMost(1.0, Case::NatsTlsRequest),
    ),
    goal(
        "P7",
        Case::WeftRequestQuic,
        Figure::P99,
        Bound::AtMost(0.8, Case::NatsTlsRequest),
    ),
    goal(
        "P7",
        Case::WeftRequestHalfLoad,
        Figure::P99,
        Bound::AtMost(2.0, Case::WeftRequestGrpc),
    ),
    goal("P7", Case::WeftCritical, Figure::P99, Bound::Below(2_000.0)),
    goal(
        "P8",
        Case::WeftFanOutRaw,
        Figure::PerSecond,
        Bound::AtLeast(1.2, Case::NatsTlsFanOut),
    ),
    goal(
        "P8",
        Case::WeftFanOut,
        Figure::PerSecond,
        Bound::AtLeast(1.2, Case::NatsTlsFanOut),
    ),
    goal(
        "P8",
        Case::WeftFanInRaw,
        Figure::PerSecond,
        Bound::AtLeast(1.2, Case::NatsTlsFanIn),
    ),
    goal(
        "P8",
        Case::WeftFanIn,
        Figure::PerSecond,
        Bound::AtLeast(1.2, Case::NatsTlsFanIn),
    ),
    goal(
        "P10",
        Case::WeftManyMailboxes,
        Figure::PerSecond,
        Bound::AtLeast(0.85, Case::WeftGrpc),
    ),
    goal("P10", Case::WeftManyAgents, Figure::BytesEach, Bound::Below(512.0)),
    goal("P10", Case::WeftStartFull, Figure::ReadyMillis, Bound::Below(5_000.0)),
    goal(
        "P11",
        Case::WeftIdleWebsocket,
        Figure::BytesEach,
        Bound::Below(12.0 * KIB),
    ),
    goal(
        "P11",
        Case::MqttIdle(Broker::Weft, Idle::Connected),
        Figure::BytesEach,
        Bound::Below(6.0 * KIB),
    ),
    goal("P11", Case::WeftIdleGrpc, Figure::BytesEach, Bound::Below(40.0 * KIB)),
    goal("P11", Case::WeftIdleQuic, Figure::BytesEach, Bound::Below(40.0 * KIB)),
    goal("P12", Case::WeftStart, Figure::ReadyMillis, Bound::Below(150.0)),
    goal(
        "P12",
        Case::WeftStart,
        Figure::BinaryBytes,
        Bound::Below(30.0 * KIB * KIB),
    ),
];

/// Cases that stand beside these goals for comparison alone.
pub const BESIDE: &[(&[&str], &[Case])] = &[
    (
        &["P1", "P2", "P3"],
        &[
            Case::WeftGrpc,
            Case::WeftGrpcRaw,
            Case::Nats,
            Case::RedisPubSub,
            Case::Mosquitto,
            Case::Rumqttd,
        ],
    ),
    (
        &["P5"],
        &[
            Case::Mqtt(Broker::Mosquitto, Work::Qos0, Pairs::One),
            Case::Mqtt(Broker::Mosquitto, Work::Qos0, Pairs::Four),
        ],
    ),
    (
        &["P11"],
        &[
            Case::MqttIdle(Broker::Weft, Idle::Subscribed),
            Case::MqttIdle(Broker::Mosquitto, Idle::Connected),
            Case::MqttIdle(Broker::Mosquitto, Idle::Subscribed),
            Case::MqttIdle(Broker::Rumqttd, Idle::Connected),
            Case::MqttIdle(Broker::Rumqttd, Idle::Subscribed),
        ],
    ),
];

impl Bound {
    /// The case that it is held against.
    pub const fn other(self) -> Option<Case> {
        match self {
            Self::AtLeast(_, case) | Self::AtMost(_, case) => Some(case),
            Self::Below(_) => None,
        }
    }

    /// Whether a ratio, or a figure where there is no other case, is good enough.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least, _) => value >= least,
            Self::AtMost(most, _) => value <= most,
            Self::Below(most) => value <= most,
        }
    }

    /// As it is shown.
    pub fn text(self) -> String {
        match self {
            Self::AtLeast(least, case) => format!(">= {least}x {}", case.name()),
            Self::AtMost(most, case) => format!("<= {most}x {}", case.name()),
            Self::Below(most) => format!("<= {}", crate::report::text::short(most)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_goal_that_this_version_can_have_is_in_the_table() {
        for id in ["P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P10", "P11", "P12"] {
            assert!(GOALS.iter().any(|goal| goal.id == id), "{id}");
        }
    }

    #[test]
    fn bounds_hold_from_their_edge_on() {
        assert!(Bound::AtLeast(1.25, Case::NatsTls).holds(1.25));
        assert!(!Bound::AtLeast(1.25, Case::NatsTls).holds(1.24));
        assert!(Bound::AtMost(0.55, Case::NatsTls).holds(0.55));
        assert!(!Bound::Below(512.0).holds(513.0));
    }
}
