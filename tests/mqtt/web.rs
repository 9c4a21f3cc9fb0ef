//! MQTT over WebSocket, by bytes.

use std::io::{Read, Write};

use crate::mqtt_driver::*;

/// An upgraded connection, with the head of the answer.
fn upgraded(broker: &Broker, version: Version, subprotocols: &str) -> (Client, String) {
    let mut client = Client::raw(broker.at.http, version);
    let head = format!(
        "GET /mqtt HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {subprotocols}\r\n\r\n",
        broker.at.http
    );
    client.send(head.as_bytes());
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut one = [0];
        client.stream.read_exact(&mut one).expect("an answer's head");
        answer.push(one[0]);
    }
    (client, String::from_utf8_lossy(&answer).to_lowercase())
}

/// A masked frame of a client: its first byte and its content.
fn frame(first: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).expect("a small frame");
    assert!(length < 126);
    [&[first, 0x80 | length, 0, 0, 0, 0][..], content].concat()
}

/// The content of the next frame, which is binary; `None` at the end or a close.
fn content(client: &mut Client) -> Option<Vec<u8>> {
    let mut head = [0; 2];
    client.stream.read_exact(&mut head).ok()?;
    if head[0] & 0x0F == 8 {
        return None;
    }
    assert_eq!(head[0], 0x82, "MQTT comes in binary frames");
    let mut content = vec![0; usize::from(head[1])];
    client.stream.read_exact(&mut content).ok()?;
    Some(content)
}

#[test]
fn mqtt_is_the_subprotocol_and_packets_come_in_binary_frames_of_any_cut() {
    if peer() {
        return; // not built in, or on another listener
    }
    let broker = Broker::start();
    for version in BOTH {
        let (mut client, head) = upgraded(&broker, version, "other, mqtt");
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(head.contains("sec-websocket-protocol: mqtt\r\n"), "{head}");
        let bytes = [Connect::new(version, "web").bytes(), PINGREQ.to_vec(), PINGREQ.to_vec()].concat();
        for piece in bytes.chunks(5) {
            client.stream.write_all(&frame(0x82, piece)).expect("the node reads");
        }
        let mut heard = Vec::new();
        while heard.len() < 2 || !heard.ends_with(&[PINGRESP, PINGRESP].concat()) {
            heard.extend(content(&mut client).expect("answers"));
        }
        assert_eq!(heard[0], CONNACK);
    }
}

#[test]
fn text_frames_end_it() {
    if peer() {
        return; // as above
    }
    let broker = Broker::start();
    for version in BOTH {
        let (mut client, _) = upgraded(&broker, version, "mqtt");
        client
            .stream
            .write_all(&frame(0x82, &Connect::new(version, "web").bytes()))
            .expect("the node reads");
        assert_eq!(content(&mut client).expect("a CONNACK")[0], CONNACK);
        client.stream.write_all(&frame(0x81, b"text")).expect("the node reads");
        while let Some(more) = content(&mut client) {
            assert_eq!(more[0], DISCONNECT, "{more:02x?}");
        }
    }
}
