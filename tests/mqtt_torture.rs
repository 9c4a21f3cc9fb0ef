//! QoS 2 exactly once, from a publisher through the node to a subscriber, in both versions, while the node is killed by `kill -9` and
//! connections are cut at random.
//!
//! `WEFT_MQTT_KILLS` and `WEFT_MQTT_CUTS` say how many; more finds more.

#![cfg(feature = "server")]

mod mqtt_driver;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use mqtt_driver::{Version::*, *};

const KILLS_DEFAULT: u32 = 4;
const CUTS_DEFAULT: u32 = 40;
/// Longest life of a node between two kills, in milliseconds.
const LIFE_MS_MAX: u64 = 700;
/// Packets that a connection of the torture reads before it is cut, at most.
const PACKETS_MAX: u64 = 120;
/// Messages on their way at once.
const WINDOW: usize = 8;
/// How far a producer goes ahead of its consumer, in messages: a session queue that is full refuses more, by its documented bound
/// (`router.session_messages_max`, 1,000), and that is no loss of a handshake.
const AHEAD_MAX: u32 = 400;
/// After so many seconds without any packet nothing comes any more.
const QUIET_MAX: u32 = 40;

/// xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What the torture's threads share.
struct Torture {
    at: std::net::SocketAddr,
    cuts: AtomicU32,
    cuts_wanted: u32,
    killed: AtomicBool,
}

impl Torture {
    fn over(&self) -> bool {
        self.killed.load(Ordering::Relaxed) && self.cuts.load(Ordering::Relaxed) >= self.cuts_wanted
    }

    /// A connection that resumed its session; the node may be away just now.
    fn connect(&self, version: Version, name: &str) -> Client {
        for _ in 0..6_000 {
            if let Ok(stream) = std::net::TcpStream::connect(self.at) {
                let mut client = Client::over(stream, version);
                client.send_whatever(&Connect::lasting(version, name).bytes());
                if let Ok(Some(packet)) = client.try_next() {
                    assert_eq!((packet.first, packet.reason()), (CONNACK, 0), "{packet:02x?}");
                    return client;
                }
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("the node does not come back");
    }

    /// Whether a connection that is still sound is to be cut now, for another `after` packets.
    fn cut(&self, after: &mut u64, random: &mut Random) -> bool {
        *after = after.saturating_sub(1);
        if *after > 0 || self.cuts.load(Ordering::Relaxed) >= self.cuts_wanted {
            return false;
        }
        *after = 1 + random.below(PACKETS_MAX);
        self.cuts.fetch_add(1, Ordering::Relaxed);
        true
    }
}

/// A producer and its consumer.
struct Pair {
    version: Version,
    /// How many messages there are in all, once the producer has ended.
    published: AtomicU32,
    /// How many of them the consumer has.
    taken: AtomicU32,
}

impl Pair {
    const UNKNOWN: u32 = u32::MAX;

    fn new(version: Version) -> Arc<Self> {
        Arc::new(Self {
            version,
            published: AtomicU32::new(Self::UNKNOWN),
            taken: AtomicU32::new(0),
        })
    }

    fn is_ahead(&self, next: u32) -> bool {
        next >= self.taken.load(Ordering::Relaxed) + AHEAD_MAX
    }
}

/// A message on its way: its number, and whether it was received already and is to be released.
struct Open {
    number: u32,
    received: bool,
}

fn message(version: Version, id: u16, number: u32, dup: bool) -> Vec<u8> {
    let mut publish = Publish::new(topic(version), &number.to_string()).qos(2, id);
    publish.dup = dup;
    publish.bytes(version)
}

fn topic(version: Version) -> &'static str {
    if version == V3 { "torture/3" } else { "torture/5" }
}

/// Publishes numbers until the torture is over; returns how many.
fn produce(torture: &Torture, pair: &Pair) -> u32 {
    let version = pair.version;
    let mut random = Random(0xABCD_EF01 + u64::from(version == V5));
    let (mut next, mut next_id, mut cut_after) = (0, 0, 20);
    // By order of their first sending, which is that of their ids as long as these do not wrap: none is sent 60,000 times.
    let mut open: BTreeMap<u32, (u16, Open)> = BTreeMap::new();
    loop {
        let mut client = torture.connect(version, &format!("producer-{version:?}"));
        let mut sound = true;
        for (id, message_open) in open.values() {
            let bytes = if message_open.received {
                packet(PUBREL, &[&id.to_be_bytes()])
            } else {
                message(version, *id, message_open.number, true)
            };
            sound &= client.send_whatever(&bytes);
        }
        while sound {
            while open.len() < WINDOW && !pair.is_ahead(next) && !torture.over() {
                next_id = if next_id == 60_000 { 1 } else { next_id + 1 };
                open.insert(
                    next,
                    (
                        next_id,
                        Open {
                            number: next,
                            received: false,
                        },
                    ),
                );
                sound &= client.send_whatever(&message(version, next_id, next, false));
                next += 1;
            }
            if open.is_empty() {
                if torture.over() {
                    return next;
                }
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            let Ok(Some(packet_in)) = client.try_next() else { break };
            let at = open
                .iter()
                .find(|(_, (id, _))| *id == packet_in.id())
                .map(|(number, _)| *number);
            match packet_in.kind() {
                PUBREC => {
                    assert!(packet_in.reason() < 0x80, "{packet_in:02x?}");
                    if let Some(entry) = at.and_then(|at| open.get_mut(&at)) {
                        entry.1.received = true;
                    }
                    sound = client.send_whatever(&packet(PUBREL, &[&packet_in.id().to_be_bytes()]));
                }
                PUBCOMP => {
                    at.map(|at| open.remove(&at));
                }
                _ => panic!("a producer hears {packet_in:02x?}"),
            }
            if torture.cut(&mut cut_after, &mut random) {
                client.cut();
                break;
            }
        }
    }
}

/// Takes numbers until all that were published are there.
fn consume(torture: &Torture, pair: &Pair) -> Vec<u32> {
    let version = pair.version;
    let mut random = Random(0x1234_5678 + u64::from(version == V5));
    let (mut taken, mut cut_after) = (Vec::new(), 30);
    // Ids that were answered by PUBREC and not released yet: what comes with them is no new message.
    let mut unreleased = HashSet::new();
    // Seconds without any packet, once the producer has ended.
    let mut quiet = 0;
    loop {
        let mut client = torture.connect(version, &format!("consumer-{version:?}"));
        // So that it looks up when nothing comes any more.
        client
            .stream
            .set_read_timeout(Some(Duration::from_secs(1)))
            .expect("above 0");
        loop {
            let published = pair.published.load(Ordering::Relaxed);
            if published != Pair::UNKNOWN {
                let all = u32::try_from(taken.len()).expect("few") >= published;
                if (all && unreleased.is_empty()) || quiet > QUIET_MAX {
                    // What comes yet comes twice.
                    while let Ok(Some(more)) = client.try_next() {
                        if more.kind() == 0x30 {
                            taken.push(more.publish(version).text().parse().expect("a number"));
                        }
                    }
                    return taken;
                }
            }
            let packet_in = match client.try_next() {
                Ok(Some(packet_in)) => packet_in,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    quiet += 1;
                    continue;
                }
                _ => break,
            };
            quiet = 0;
            let sent = match packet_in.kind() {
                0x30 => {
                    let publish = packet_in.publish(version);
                    assert_eq!(publish.qos, 2);
                    if unreleased.insert(publish.id) {
                        taken.push(publish.text().parse().expect("a number"));
                        pair.taken.fetch_add(1, Ordering::Relaxed);
                    }
                    client.send_whatever(&packet(PUBREC, &[&publish.id.to_be_bytes()]))
                }
                0x60 => {
                    unreleased.remove(&packet_in.id());
                    client.send_whatever(&packet(PUBCOMP, &[&packet_in.id().to_be_bytes()]))
                }
                _ => panic!("a consumer hears {packet_in:02x?}"),
            };
            if !sent {
                break;
            }
            if torture.cut(&mut cut_after, &mut random) {
                client.cut();
                break;
            }
        }
    }
}

fn count(name: &str, default: u32) -> u32 {
    std::env::var(name)
        .ok()
        .map_or(default, |count| count.parse().expect("a count"))
}

#[test]
fn qos_2_is_exactly_once_through_kills_and_cuts() {
    let (kills, cuts) = (
        count("WEFT_MQTT_KILLS", KILLS_DEFAULT),
        count("WEFT_MQTT_CUTS", CUTS_DEFAULT),
    );
    let mut broker = Broker::start();
    for version in BOTH {
        let mut client = broker.resume(&Connect::lasting(version, &format!("consumer-{version:?}")), false);
        client.subscribe(topic(version), 2);
        client.disconnect();
    }
    let torture = Arc::new(Torture {
        at: broker.at.mqtt,
        cuts: AtomicU32::new(0),
        cuts_wanted: cuts,
        killed: AtomicBool::new(false),
    });
    let pairs = BOTH.map(|version| {
        let pair = Pair::new(version);
        let (shared, its) = (Arc::clone(&torture), Arc::clone(&pair));
        let consumer = thread::spawn(move || consume(&shared, &its));
        let (shared, its) = (Arc::clone(&torture), Arc::clone(&pair));
        let producer = thread::spawn(move || produce(&shared, &its));
        (pair, producer, consumer)
    });
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for _ in 0..kills {
        thread::sleep(Duration::from_millis(LIFE_MS_MAX / 10 + random.below(LIFE_MS_MAX)));
        broker.kill_and_restart();
    }
    torture.killed.store(true, Ordering::Relaxed);
    for (pair, producer, consumer) in pairs {
        let version = pair.version;
        let sent = producer.join().expect("the producer's assertions hold");
        pair.published.store(sent, Ordering::Relaxed);
        let taken = consumer.join().expect("the consumer's assertions hold");
        eprintln!(
            "{version:?}: {sent} sent, {} taken, {kills} kills, {cuts} cuts",
            taken.len()
        );
        let distinct: HashSet<_> = taken.iter().collect();
        let lost: Vec<_> = (0..sent).filter(|number| !distinct.contains(number)).collect();
        let mut seen = HashSet::new();
        let doubled: Vec<_> = taken.iter().filter(|number| !seen.insert(**number)).collect();
        assert!(
            lost.is_empty() && doubled.is_empty(),
            "{version:?}: lost {lost:?}, doubled {doubled:?}"
        );
        assert!(sent > kills * 5, "{sent} messages are no load to speak of");
    }
}
