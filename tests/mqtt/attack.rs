//! Clients that mean harm or know no better: the node lives on, and says why it ended them.

use std::{io::Write, time::Duration};

use crate::mqtt_driver::{Version::*, *};

/// How many random connections the fuzz makes; `WEFT_MQTT_FUZZ` asks for more.
const FUZZ_DEFAULT: u32 = 300;

#[test]
fn more_than_16_kib_before_connect_ends_it() {
    let mut broker = Broker::start();
    for version in BOTH {
        let mut connect = Connect::new(version, "big").will("t", "", 0, false);
        connect.will.as_mut().expect("it has one").payload = vec![b'x'; 60_000];
        let mut client = broker.raw(version);
        let taken = client.send_whatever(&connect.bytes());
        if !peer() {
            let answer = if taken { client.next() } else { None };
            assert!(answer.is_none_or(|packet| packet.kind() == CONNACK && packet.body[1] > 0));
        }
        // A length that promises 256 MiB, and nothing behind it.
        let mut client = broker.raw(version);
        client.send(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F]);
        if !peer() {
            while let Some(packet) = client.next() {
                assert!(packet.kind() == CONNACK && packet.body[1] > 0);
            }
        }
        broker.client(version, "other").alive();
    }
    broker.assert_alive();
}

#[test]
fn silence_and_a_slow_drip_before_connect_end_it() {
    if peer() {
        return; // mosquitto waits for longer
    }
    let broker = Broker::with(&[("WEFT_MQTT__CONNECT_TIMEOUT_MS", "1000")]);
    let mut silent = broker.raw(V5);
    assert!(silent.next().is_none());
    let mut drips = broker.raw(V5);
    let connect = Connect::new(V5, "a-client-that-drips-its-connect-by-single-bytes").bytes();
    // Slower than the bound, faster than any silence.
    for piece in connect.chunks(1) {
        if drips.stream.write_all(piece).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(drips.next().is_none(), "the bound is on the whole CONNECT");
}

#[test]
fn oversized_packets_are_refused_with_0x95() {
    let mut broker = Broker::with(&[("WEFT_ROUTER__MESSAGE_BYTES_MAX", "65536")]);
    for version in BOTH {
        let mut client = broker.client(version, "big");
        client.send_whatever(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F, 0, 1, b'a', 0]);
        if peer() {
            continue;
        }
        let reason = client.closed();
        if version == V5 {
            assert_eq!(reason, Some(0x95));
        }
        broker.assert_alive();
    }
}

#[test]
fn qos_2_ids_are_bounded() {
    if peer() {
        return; // mosquitto has other bounds
    }
    let mut broker = Broker::start();
    let mut client = broker.client(V3, "ids");
    let mut answered = 0;
    'all: for id in 1..=3000 {
        if !client.send_whatever(&Publish::new("ids", "x").qos(2, id).bytes(V3)) {
            break;
        }
        match client.next() {
            Some(packet) if packet.kind() == PUBREC => answered += 1,
            _ => break 'all,
        }
    }
    assert!((1000..3000).contains(&answered), "{answered} open ids were taken");
    broker.assert_alive();
    broker.client(V3, "other").alive();
}

#[test]
fn random_bytes_do_no_harm() {
    let mut broker = Broker::start();
    let count = std::env::var("WEFT_MQTT_FUZZ")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(FUZZ_DEFAULT);
    // xorshift: the same bytes each time.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below).expect("small")
    };
    for round in 0..count {
        let version = BOTH[random(2)];
        let mut bytes = match random(4) {
            0 => (0..random(200)).map(|_| random(256) as u8).collect(),
            1 => Connect::new(version, "fuzz")
                .will("w", "x", 1, true)
                .with(user("a", "b"))
                .bytes(),
            2 => [
                Connect::new(version, "fuzz").bytes(),
                subscribe(version, 1, &[("fuzz/#", 2), ("+", 1)], &[]),
            ]
            .concat(),
            _ => [
                Connect::new(version, "fuzz").bytes(),
                Publish::new("fuzz/x", "payload")
                    .qos(2, 7)
                    .with(user("a", "b"))
                    .bytes(version),
                packet(PUBREL, &[&[0, 7]]),
            ]
            .concat(),
        };
        for _ in 0..random(4) {
            if !bytes.is_empty() {
                let at = random(bytes.len() as u64);
                bytes[at] = random(256) as u8;
            }
        }
        let mut client = broker.raw(version);
        client.send_whatever(&bytes);
        client.cut();
        if round % 50 == 0 {
            broker.client(V5, "sane").alive();
        }
    }
    broker.client(V3, "sane").alive();
    broker.assert_alive();
}

#[test]
fn an_end_says_why_in_the_log_or_the_reason() {
    let broker = Broker::start();
    for (bytes, reason) in [
        (vec![0x00, 0], 0x81),
        (Connect::new(V5, "x").bytes(), 0x82),
        (Publish::new("a/+", "").bytes(V5), 0x90),
    ] {
        let mut client = broker.client(V5, "why");
        client.send(&bytes);
        let told = client.closed();
        if peer() {
            continue;
        }
        // A malformed packet may be called a protocol error too.
        assert!(
            told.is_some_and(|told| told == reason || matches!(told, 0x81 | 0x82)),
            "{told:02x?} for {bytes:02x?}"
        );
    }
}
