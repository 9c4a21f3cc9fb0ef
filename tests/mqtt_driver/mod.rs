//! Drives a broker by raw MQTT bytes over sockets, both versions. It waits with bounds and judges nothing by time.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

pub mod node;
pub mod wire;

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

#[allow(unused_imports, reason = "as above")]
pub use node::{Broker, peer};
pub use wire::*;

/// Far longer than anything here takes; only a hang meets it.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// What [`Client::until_fence`] ends at stands below this, numbered: an older fence is none.
const FENCES: &str = "fences/of/tests/";
/// Its packet id, which no test uses.
const FENCE_ID: u16 = 65_000;

/// A connection to a broker.
pub struct Client {
    pub stream: TcpStream,
    pub version: Version,
    next_id: u16,
    /// Came ahead of a PINGRESP that was waited for.
    held: VecDeque<Packet>,
}

impl Client {
    /// A connection that has sent nothing yet.
    pub fn raw(at: SocketAddr, version: Version) -> Self {
        Self::over(TcpStream::connect(at).expect("the broker listens"), version)
    }

    pub fn over(stream: TcpStream, version: Version) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above 0");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout above 0");
        // A broker that dies just now is met by the next read.
        let _ = stream.set_nodelay(true);
        Self {
            stream,
            version,
            next_id: 0,
            held: VecDeque::new(),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the broker reads");
    }

    /// Sends as much as the broker takes: it may have closed the connection.
    pub fn send_whatever(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next packet; `None` where the connection has ended.
    pub fn next(&mut self) -> Option<Packet> {
        self.try_next().unwrap_or_else(|error| match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => None,
            _ => panic!("neither a packet nor an end: {error}"),
        })
    }

    pub fn try_next(&mut self) -> std::io::Result<Option<Packet>> {
        match self.held.pop_front() {
            Some(packet) => Ok(Some(packet)),
            None => self.read_packet(),
        }
    }

    fn read_packet(&mut self) -> std::io::Result<Option<Packet>> {
        let mut one = [0];
        if self.stream.read(&mut one)? == 0 {
            return Ok(None);
        }
        let first = one[0];
        let (mut length, mut shift) = (0, 0);
        loop {
            self.stream.read_exact(&mut one)?;
            length |= usize::from(one[0] & 0x7F) << shift;
            shift += 7;
            if one[0] & 0x80 == 0 {
                break;
            }
            assert!(shift < 28, "a length of more than four bytes");
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Some(Packet { first, body }))
    }

    #[track_caller]
    pub fn packet(&mut self) -> Packet {
        self.next().expect("a packet and no end")
    }

    /// The next packet is exactly these bytes.
    #[track_caller]
    pub fn expect(&mut self, bytes: &[u8]) {
        let packet = self.next();
        let came = packet.map(|packet| packet.bytes());
        assert_eq!(came.as_deref(), Some(bytes), "came {came:02x?}, expected {bytes:02x?}");
    }

    /// The connection ends, in version 5 perhaps behind a DISCONNECT whose reason it returns.
    #[track_caller]
    pub fn closed(&mut self) -> Option<u8> {
        let mut reason = None;
        while let Some(packet) = self.next() {
            assert_eq!(packet.kind(), DISCONNECT, "an end was expected: {packet:02x?}");
            assert_eq!(self.version, Version::V5, "3.1.1 has no DISCONNECT from a server");
            assert!(reason.is_none(), "two DISCONNECTs");
            let properties = packet.properties(1);
            assert!(properties.iter().all(|(id, _)| *id != id::SESSION_EXPIRY));
            reason = Some(packet.reason());
        }
        reason
    }

    /// It ends; where it says why, for one of these reasons.
    #[track_caller]
    pub fn closed_for(&mut self, reasons: &[u8]) {
        if let Some(reason) = self.closed() {
            assert!(
                reasons.contains(&reason),
                "reason {reason:02x}, expected {reasons:02x?}"
            );
        }
    }

    /// The broker answers, and has nothing else to say.
    #[track_caller]
    pub fn alive(&mut self) {
        self.send(&PINGREQ);
        self.expect(&PINGRESP);
    }

    /// Subscribes to one filter with these options and compares the SUBACK.
    #[track_caller]
    pub fn subscribe(&mut self, filter: &str, options: u8) {
        self.subscribe_as(&[(filter, options)], &[], &[options & 3]);
    }

    #[track_caller]
    pub fn subscribe_as(&mut self, filters: &[(&str, u8)], list: &[u8], reasons: &[u8]) {
        let id = self.id();
        self.send(&subscribe(self.version, id, filters, list));
        let empty = properties(self.version, &[]);
        self.expect(&packet(SUBACK, &[&id.to_be_bytes(), &empty, reasons]));
    }

    #[track_caller]
    pub fn unsubscribe(&mut self, filters: &[&str], reasons: &[u8]) {
        let id = self.id();
        self.send(&unsubscribe(self.version, id, filters));
        self.expect(&unsuback(self.version, id, reasons));
    }

    /// Publishes and goes through its handshake; at QoS 0 until the broker has read it, so that what another connection does next is
    /// behind it.
    #[track_caller]
    pub fn publish(&mut self, mut publish: Publish) {
        if publish.qos > 0 && publish.id == 0 {
            publish.id = self.id();
        }
        self.send(&publish.bytes(self.version));
        match publish.qos {
            0 => self.until_read(),
            1 => self.answered(PUBACK, publish.id),
            _ => {
                self.answered(PUBREC, publish.id);
                self.acknowledge(PUBREL, publish.id);
                self.expect(&packet(PUBCOMP, &[&publish.id.to_be_bytes()]));
            }
        }
    }

    /// Waits until the broker has read all that was sent, or has closed the connection; what comes meanwhile is kept for [`Self::next`].
    fn until_read(&mut self) {
        if !self.send_whatever(&PINGREQ) {
            return;
        }
        while let Ok(Some(packet)) = self.read_packet() {
            if packet.bytes() == PINGRESP {
                return;
            }
            self.held.push_back(packet);
        }
    }

    /// A positive acknowledgement, with or without "no matching subscribers".
    #[track_caller]
    pub fn answered(&mut self, kind: u8, id: u16) {
        let answer = self.packet();
        assert_eq!((answer.first, answer.id()), (kind, id), "{answer:02x?}");
        assert!(matches!(answer.reason(), 0 | 0x10), "{answer:02x?}");
        assert!(
            answer.body.len() <= if self.version == Version::V5 { 3 } else { 2 },
            "{answer:02x?}"
        );
    }

    pub fn acknowledge(&mut self, kind: u8, id: u16) {
        self.send(&packet(kind, &[&id.to_be_bytes()]));
    }

    /// The next packet, a PUBLISH, unanswered.
    #[track_caller]
    pub fn hear(&mut self) -> Publish {
        let version = self.version;
        self.packet().publish(version)
    }

    /// The next packet, a PUBLISH, through its handshake.
    #[track_caller]
    pub fn take(&mut self) -> Publish {
        let publish = self.hear();
        self.answer(&publish);
        publish
    }

    /// Goes through a message's handshake; nothing else comes meanwhile.
    #[track_caller]
    pub fn answer(&mut self, publish: &Publish) {
        match publish.qos {
            0 => {}
            1 => self.acknowledge(PUBACK, publish.id),
            _ => {
                self.acknowledge(PUBREC, publish.id);
                self.expect(&packet(PUBREL, &[&publish.id.to_be_bytes()]));
                self.acknowledge(PUBCOMP, publish.id);
            }
        }
    }

    /// The next message of a topic, others let by.
    #[track_caller]
    pub fn take_of(&mut self, topic: &str) -> Publish {
        loop {
            let publish = self.take();
            if publish.topic == topic.as_bytes() {
                return publish;
            }
        }
    }

    /// All messages up to now, through their handshakes: a fence is published behind them, so that nothing is waited for by time.
    #[track_caller]
    pub fn until_fence(&mut self, broker: &Broker) -> Vec<Publish> {
        static NUMBERS: AtomicU32 = AtomicU32::new(0);
        let fence = format!("{FENCES}{}", NUMBERS.fetch_add(1, Ordering::Relaxed));
        self.send(&subscribe(self.version, FENCE_ID, &[(&fence, 2)], &[]));
        // One for each QoS, since order is promised for one QoS only.
        let (mut missing, mut unreleased) = (3, 0);
        let mut heard = Vec::new();
        while missing > 0 || unreleased > 0 {
            let packet = self.packet();
            match packet.kind() {
                // Of a subscription that the test did not wait for.
                SUBACK if packet.id() != FENCE_ID => {}
                SUBACK => {
                    let mut other = broker.client(self.version, "fence");
                    for qos in 0..3 {
                        other.publish(Publish::new(&fence, "fence").qos(qos, 0));
                    }
                }
                0x60 => {
                    unreleased -= i32::from(unreleased > 0);
                    self.acknowledge(PUBCOMP, packet.id());
                }
                PUBACK | PUBREC | PUBCOMP => {}
                _ => {
                    let publish = packet.publish(self.version);
                    match publish.qos {
                        0 => {}
                        1 => self.acknowledge(PUBACK, publish.id),
                        _ => {
                            unreleased += 1;
                            self.acknowledge(PUBREC, publish.id);
                        }
                    }
                    if publish.topic == fence.as_bytes() {
                        missing -= 1;
                    } else if !publish.topic.starts_with(FENCES.as_bytes()) {
                        heard.push(publish);
                    }
                }
            }
        }
        heard
    }

    pub fn id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    pub fn disconnect(mut self) {
        self.send(&[DISCONNECT, 0]);
        let _ = self.stream.shutdown(Shutdown::Write);
        assert!(self.next().is_none(), "nothing comes behind a DISCONNECT");
    }

    /// Ends the connection without a DISCONNECT.
    pub fn cut(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Broker {
    pub fn raw(&self, version: Version) -> Client {
        Client::raw(self.at.mqtt, version)
    }

    /// A client with a clean session.
    #[track_caller]
    pub fn client(&self, version: Version, id: &str) -> Client {
        self.connect(&Connect::new(version, id)).0
    }

    /// Connects; the CONNACK says yes.
    #[track_caller]
    pub fn connect(&self, connect: &Connect) -> (Client, Packet) {
        let mut client = self.raw(connect.version);
        client.send(&connect.bytes());
        let packet = client.packet();
        assert_eq!((packet.first, packet.reason()), (CONNACK, 0), "{packet:02x?}");
        (client, packet)
    }

    /// Connects and compares session present.
    #[track_caller]
    pub fn resume(&self, connect: &Connect, present: bool) -> Client {
        let (client, packet) = self.connect(connect);
        assert_eq!(packet.body[0], u8::from(present), "session present");
        client
    }
}

pub fn subscribe(version: Version, id: u16, filters: &[(&str, u8)], list: &[u8]) -> Vec<u8> {
    let filters: Vec<u8> = filters
        .iter()
        .flat_map(|(filter, options)| [text(filter), vec![*options]].concat())
        .collect();
    packet(SUBSCRIBE, &[&id.to_be_bytes(), &properties(version, list), &filters])
}

pub fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let filters: Vec<u8> = filters.iter().flat_map(text).collect();
    packet(UNSUBSCRIBE, &[&id.to_be_bytes(), &properties(version, &[]), &filters])
}

pub fn unsuback(version: Version, id: u16, reasons: &[u8]) -> Vec<u8> {
    let reasons = if version == Version::V5 { reasons } else { &[] };
    packet(UNSUBACK, &[&id.to_be_bytes(), &properties(version, &[]), reasons])
}

/// The payloads of messages.
pub fn payloads(messages: &[Publish]) -> Vec<&str> {
    messages.iter().map(Publish::text).collect()
}
