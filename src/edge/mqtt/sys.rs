//! `$SYS`: what operators of MQTT brokers look at, published at an interval to those who subscribed to it.
//!
//! These messages never enter the fabric: nobody else publishes below `$SYS`, and each connection takes them from here. Start at
//! [`publish`].

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::watch, time::interval};

use super::Edge;
use crate::{
    frame::{Address, AgentId, Draft, Frame, MessageId, Qos, TopicName},
    time::{self, Timestamp},
};

/// Where all of them stand.
const PREFIX: &str = "$SYS";
/// Who publishes them.
const SENDER: &str = "weft";

/// Messages of one round.
pub(super) type Round = Arc<[Frame]>;

/// The rounds, and when the edge began.
#[derive(Debug)]
pub(super) struct Sys {
    since: Timestamp,
    rounds: watch::Sender<Round>,
}

impl Sys {
    pub fn new() -> Self {
        Self {
            since: time::now(),
            rounds: watch::Sender::new(Arc::new([])),
        }
    }

    /// The rounds from now on.
    pub fn rounds(&self) -> watch::Receiver<Round> {
        self.rounds.subscribe()
    }
}

/// Publishes a round at each interval that somebody wants it, for ever.
pub(super) async fn publish(edge: &Edge) {
    if edge.config.sys_interval_ms == 0 {
        return std::future::pending().await;
    }
    let mut ticks = interval(Duration::from_millis(edge.config.sys_interval_ms));
    loop {
        ticks.tick().await;
        if edge.sys.rounds.receiver_count() > 0 {
            edge.sys.rounds.send_replace(values(edge));
        }
    }
}

/// What there is to say now, one message a topic.
pub(super) fn values(edge: &Edge) -> Round {
    let (counters, router) = (edge.door.counters.snapshot(), edge.door.fabric.counters());
    let (kept, left) = edge.book.count();
    let uptime = time::now().since(edge.sys.since).as_secs();
    let connected = counters.connections;
    let texts = [
        ("broker/version", format!("weft version {}", env!("CARGO_PKG_VERSION"))),
        ("broker/uptime", format!("{uptime} seconds")),
        ("broker/clients/connected", connected.to_string()),
        ("broker/clients/active", connected.to_string()),
        ("broker/clients/disconnected", left.to_string()),
        ("broker/clients/inactive", left.to_string()),
        ("broker/clients/total", (connected + left as u64).to_string()),
        ("broker/clients/persistent", kept.to_string()),
        ("broker/connections/total", counters.connections_total.to_string()),
        ("broker/connections/refused", counters.connections_refused.to_string()),
        ("broker/bytes/received", counters.bytes_in.to_string()),
        ("broker/bytes/sent", counters.bytes_out.to_string()),
        ("broker/messages/received", counters.messages_in.to_string()),
        ("broker/messages/sent", counters.messages_out.to_string()),
        (
            "broker/publish/messages/received",
            edge.publishes_in.load(Relaxed).to_string(),
        ),
        (
            "broker/publish/messages/sent",
            edge.publishes_out.load(Relaxed).to_string(),
        ),
        (
            "broker/messages/stored",
            edge.door.fabric.store_stats().messages.to_string(),
        ),
        (
            "broker/retained messages/count",
            edge.door.fabric.retained_count().to_string(),
        ),
        (
            "broker/sessions/fabric",
            router.sessions.iter().sum::<u64>().to_string(),
        ),
    ];
    texts
        .into_iter()
        .filter_map(|(topic, text)| frame(topic, text))
        .collect()
}

fn frame(topic: &str, text: String) -> Option<Frame> {
    let topic = TopicName::new(format!("{PREFIX}/{topic}")).ok()?;
    let id = MessageId::new(format!("sys-{}", time::now().as_millis())).ok()?;
    let mut draft = Draft::new(id, AgentId::new(SENDER).ok()?, Address::topic(&topic));
    draft.qos = Qos::AtMostOnce;
    Frame::new(draft.archive().ok()?, Bytes::from(text)).ok()
}
