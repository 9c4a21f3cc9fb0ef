//! A client and a fabric around one machine: time is a number, saves and commits happen when the test says so.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use crate::{
    frame::{Address, AgentId, Draft, Frame, MessageId, Qos},
    mqtt::{
        Ack, Action, Attached, Change, Config, Connack, Connect, Delivery, Filter, Key, Outcome, Packet, PacketId,
        Place, Publish, PublishProperties, Reason, RetainHandling, Saved, Session, Source, Subscribe, Ticket, Version,
    },
    time::Timestamp,
};

/// No two connections have one.
static NONCES: AtomicU64 = AtomicU64::new(1);

pub(super) const START: Timestamp = Timestamp::from_millis(1_000_000);

pub(super) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(START.as_millis() + seconds * 1000)
}

pub(super) fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

/// A machine, what it said, and what was kept of it.
pub(super) struct World {
    pub session: Session,
    pub out: Vec<Action>,
    pub now: Timestamp,
    pub saved: Saved,
    /// Given to the next attach.
    pub in_flight: Vec<(u16, Place)>,
}

impl World {
    pub fn fresh(config: Config) -> Self {
        Self {
            session: Session::new(Arc::new(config), "auto-1".into(), START),
            out: Vec::new(),
            now: START,
            saved: Saved::default(),
            in_flight: Vec::new(),
        }
    }

    /// Connected; CONNACK was taken.
    pub fn connected(connect: Connect) -> Self {
        Self::connected_with(Config::default(), connect, None)
    }

    pub fn connected_with(config: Config, connect: Connect, saved: Option<Saved>) -> Self {
        let mut world = Self::fresh(config);
        world.connect(connect, saved);
        let sent = world.sent();
        assert!(
            matches!(&sent[0], Packet::Connack(connack) if connack.reason == Reason::SUCCESS),
            "{sent:?}"
        );
        world
    }

    /// CONNECT and the fabric's yes; CONNACK is among what was sent.
    pub fn connect(&mut self, connect: Connect, saved: Option<Saved>) {
        self.packet(Packet::Connect(Box::new(connect)));
        let attach = self.out.iter().position(|action| matches!(action, Action::Attach(_)));
        self.out.remove(attach.expect("a CONNECT that is taken attaches"));
        self.saved = saved.clone().unwrap_or_default();
        let attached = Attached {
            agent: AgentId::new("me").unwrap(),
            nonce: NONCES.fetch_add(1, Ordering::Relaxed),
            saved,
            in_flight: std::mem::take(&mut self.in_flight),
        };
        self.session.handle_attached(Ok(attached), self.now, &mut self.out);
        self.save_all();
    }

    pub fn packet(&mut self, packet: Packet) {
        self.session.handle_packet(packet, self.now, &mut self.out);
    }

    /// Carries out every save, in order, and those that follow from them.
    pub fn save_all(&mut self) {
        while let Some((ticket, change)) = self.take_save() {
            self.saved.apply(change);
            self.session.handle_saved(ticket, &mut self.out);
        }
    }

    pub fn take_save(&mut self) -> Option<(Ticket, Change)> {
        let at = self
            .out
            .iter()
            .position(|action| matches!(action, Action::Save { .. }))?;
        match self.out.remove(at) {
            Action::Save { ticket, change } => Some((ticket, change)),
            _ => unreachable!(),
        }
    }

    /// The packets that were sent since the last question.
    pub fn sent(&mut self) -> Vec<Packet> {
        let (sent, rest) = std::mem::take(&mut self.out)
            .into_iter()
            .partition::<Vec<_>, _>(|action| matches!(action, Action::Send(_) | Action::SendRun(..)));
        self.out = rest;
        let packets = |action| match action {
            Action::Send(packet) => vec![packet],
            Action::SendRun(like, run, packet_ids) => {
                let publish = |(at, frame): (usize, Frame)| Publish {
                    packet_id: packet_ids.get(at).copied(),
                    payload: frame.body,
                    ..(*like).clone()
                };
                run.iter().enumerate().map(publish).map(Packet::Publish).collect()
            }
            _ => unreachable!(),
        };
        sent.into_iter().flat_map(packets).collect()
    }

    /// What was published since the last question.
    pub fn published(&mut self) -> Vec<(Option<Ticket>, Frame)> {
        let (published, rest) = std::mem::take(&mut self.out)
            .into_iter()
            .partition::<Vec<_>, _>(|action| matches!(action, Action::Publish { .. }));
        self.out = rest;
        let frame = |action| match action {
            Action::Publish { ticket, frame, .. } => (ticket, frame),
            _ => unreachable!(),
        };
        published.into_iter().map(frame).collect()
    }

    /// The fabric's yes, and nothing else.
    pub fn accept_only(&mut self, ticket: Option<Ticket>) {
        let outcome = Outcome::Accepted { recipients: 1 };
        self.session
            .handle_published(ticket.unwrap(), outcome, self.now, &mut self.out);
    }

    pub fn accept(&mut self, ticket: Option<Ticket>) {
        self.accept_only(ticket);
        self.save_all();
    }

    pub fn closed_with(&mut self) -> Option<Reason> {
        let closed = self.out.iter().find_map(|action| match action {
            Action::Close(reason) => Some(*reason),
            _ => None,
        });
        self.out.retain(|action| !matches!(action, Action::Close(_)));
        closed
    }

    pub fn settled(&mut self) -> Vec<Key> {
        let keys = self.out.iter().filter_map(|action| match action {
            Action::Settle(key) => Some(*key),
            _ => None,
        });
        let keys = keys.collect();
        self.out.retain(|action| !matches!(action, Action::Settle(_)));
        keys
    }

    pub fn released(&self) -> usize {
        self.out
            .iter()
            .filter(|action| matches!(action, Action::Release(_)))
            .count()
    }

    /// Subscribes, with the fabric's yes, and forgets SUBACK.
    pub fn subscribe(&mut self, filters: &[Filter], subscription_id: Option<u32>) {
        let subscribe = Subscribe {
            packet_id: id(9_999),
            subscription_id,
            filters: filters.to_vec(),
        };
        self.packet(Packet::Subscribe(subscribe));
        let wanted = self.out.pop();
        let Some(Action::Subscribe { ticket, wanted }) = wanted else {
            panic!("{wanted:?}");
        };
        let answers = vec![Ok(()); wanted.len()];
        self.session.handle_subscribed(ticket, &answers, &mut self.out);
        self.save_all();
        self.sent();
        self.out
            .retain(|action| !matches!(action, Action::SendRetained(_) | Action::OweRetained(_)));
    }

    pub fn deliver(&mut self, seq: u64, lease: u64, topic: &str, qos: Qos) {
        let delivery = delivery(seq, lease, topic, qos);
        self.session.handle_delivery(delivery, self.now, &mut self.out);
    }

    /// Only the PUBLISHes among what was sent.
    pub fn publishes(&mut self) -> Vec<Publish> {
        let publish = |packet| match packet {
            Packet::Publish(publish) => Some(publish),
            _ => None,
        };
        self.sent().into_iter().filter_map(publish).collect()
    }
}

pub(super) fn connect(version: Version) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 0,
        client_id: "c1".into(),
        username: None,
        password: None,
        will: None,
        session_expiry_s: 0,
        receive_max: 65_535,
        packet_bytes_max: None,
        topic_alias_max: 0,
        wants_problems: true,
        auth_method: None,
        user_properties: Vec::new(),
    }
}

/// A CONNECT whose session outlives it.
pub(super) fn lasting(version: Version) -> Connect {
    Connect {
        clean_start: false,
        session_expiry_s: 3600,
        ..connect(version)
    }
}

pub(super) fn publish(topic: &str, qos: Qos, packet_id: u16) -> Publish {
    Publish {
        dup: false,
        retain: false,
        qos,
        topic: topic.into(),
        packet_id: PacketId::new(packet_id),
        properties: None,
        payload: Bytes::from_static(b"hello"),
    }
}

pub(super) fn with_alias(mut publish: Publish, alias: u16) -> Publish {
    let properties = PublishProperties {
        topic_alias: Some(alias),
        ..PublishProperties::default()
    };
    publish.properties = Some(Box::new(properties));
    publish
}

pub(super) fn filter(text: &str, qos: Qos) -> Filter {
    Filter {
        text: text.into(),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Always,
    }
}

pub(super) fn key(seq: u64, lease: u64) -> Key {
    Key {
        place: Place { shard: 3, seq },
        lease,
    }
}

pub(super) fn frame(to: &str, qos: Qos) -> Frame {
    let from = AgentId::new("sender").unwrap();
    let mut draft = Draft::new(MessageId::new("m-1").unwrap(), from, to.parse().unwrap());
    draft.qos = qos;
    Frame::new(draft.archive().unwrap(), Bytes::from_static(b"hello")).unwrap()
}

pub(super) fn delivery(seq: u64, lease: u64, topic: &str, qos: Qos) -> Delivery {
    let queue: Address = "agent:me#mqtt.c1".parse().unwrap();
    Delivery {
        key: qos.is_durable().then(|| key(seq, lease)),
        frame: frame(&format!("topic:{topic}"), qos),
        queue,
        source: Source::Live,
    }
}

pub(super) fn ack(number: u16) -> Ack {
    Ack::new(id(number), Reason::SUCCESS)
}

pub(super) fn connack_of(packet: &Packet) -> &Connack {
    match packet {
        Packet::Connack(connack) => connack,
        other => panic!("{other:?}"),
    }
}
