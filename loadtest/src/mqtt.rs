//! MQTT 3.1.1 as bytes: what a client writes, and what it reads. Pure.
//!
//! Written by hand, so that a client of a load test costs little beside the node and writes and reads many packets at once.
//! Start at [`read`]; the numbers are those of the specification (OASIS MQTT 3.1.1, chapters 2 and 3).

use crate::plan::Quality;

/// Where an agent's own messages arrive, once it has subscribed to it.
pub const INBOX: &str = "$weft/inbox";
/// Packet identifiers are 1 to this.
const IDS: u64 = 65_535;
/// Bytes of a packet's remaining length, at most.
const LENGTH_BYTES_MAX: usize = 4;

const CONNECT: u8 = 0x10;
const SUBSCRIBE: u8 = 0x82;
const PUBLISH: u8 = 0x30;

/// Whether a session outlives its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// It starts empty and ends with its connection.
    Clean,
    /// What it subscribed to, and what waits for it, stays.
    Kept,
}

/// An answer to a PUBLISH or to another answer: the first byte of its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Answer {
    Puback = 0x40,
    Pubrec = 0x50,
    Pubrel = 0x62,
    Pubcomp = 0x70,
}

/// A packet that a server sent, as far as a load test reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// The return code; 0 is welcome.
    Connack(u8),
    Publish {
        quality: Quality,
        /// 0 at QoS 0.
        id: u16,
        body: &'a [u8],
    },
    Answer(Answer, u16),
    /// The quality granted to the one filter, or 0x80.
    Suback(u8),
    Pong,
}

/// The identifier of a producer's packet, by how many it sent before.
pub fn id_of(number: u64) -> u16 {
    u16::try_from(number % IDS + 1).unwrap_or(u16::MAX)
}

/// A CONNECT with the longest keep-alive, 18 hours: a load test sends no pings, and some brokers refuse to do without.
pub fn connect(client: &str, lasting: Lasting) -> Vec<u8> {
    const PROTOCOL: &[u8] = b"\0\x04MQTT\x04";
    let flags = match lasting {
        Lasting::Clean => 0x02,
        Lasting::Kept => 0x00,
    };
    packet(
        CONNECT,
        &[PROTOCOL, &[flags, 0xff, 0xff], &length_of(client), client.as_bytes()],
    )
}

/// A SUBSCRIBE to one filter.
pub fn subscribe(filter: &str, quality: Quality) -> Vec<u8> {
    packet(
        SUBSCRIBE,
        &[&[0, 1], &length_of(filter), filter.as_bytes(), &[level(quality)]],
    )
}

/// Adds a PUBLISH to what is to be written; its identifier counts above QoS 0 alone.
pub fn publish(topic: &str, quality: Quality, id: u16, body: &[u8], out: &mut Vec<u8>) {
    let id = id.to_be_bytes();
    let id = match quality {
        Quality::AtMostOnce => &[][..],
        _ => &id[..],
    };
    let parts = [&length_of(topic)[..], topic.as_bytes(), id, body];
    write(PUBLISH | level(quality) << 1, &parts, out);
}

/// The packet that ends a session in order.
pub const DISCONNECT: [u8; 2] = [0xe0, 0];

/// Adds an answer to what is to be written.
pub fn answer(answer: Answer, id: u16, out: &mut Vec<u8>) {
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[answer as u8, 2, high, low]);
}

/// The topic that reaches an address: `topic:a/b` is `a/b`, `agent:id` is `$weft/agent/id`.
pub fn topic_of(address: &str) -> Option<String> {
    match address.split_once(':')? {
        ("topic", topic) => Some(topic.to_owned()),
        (kind @ ("agent" | "group" | "any"), name) => Some(format!("$weft/{kind}/{name}")),
        _ => None,
    }
}

/// A quality of service by its number.
pub const fn level(quality: Quality) -> u8 {
    match quality {
        Quality::AtMostOnce => 0,
        Quality::AtLeastOnce => 1,
        Quality::ExactlyOnce => 2,
    }
}

/// What stands before a text. Names and topics of a load test are short.
fn length_of(text: &str) -> [u8; 2] {
    u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes()
}

fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut packet = Vec::new();
    write(first, parts, &mut packet);
    packet
}

fn write(first: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    out.push(first);
    let mut length: usize = parts.iter().map(|part| part.len()).sum();
    loop {
        let low = u8::try_from(length % 128).unwrap_or_default();
        length /= 128;
        out.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// The packet at the start of these bytes, and its length; `None` while it is not whole, an error where it is none that a
/// load test is sent.
pub fn read(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, String> {
    let Some((head, length)) = length(bytes)? else {
        return Ok(None);
    };
    let Some(rest) = bytes.get(head..head + length) else {
        return Ok(None);
    };
    let packet = inside(bytes[0], rest).ok_or_else(|| format!("a packet {:#04x} of {length} bytes", bytes[0]))?;
    Ok(Some((packet, head + length)))
}

/// Bytes of the fixed header, and of what follows it; `None` while the header is not whole.
fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let mut length = 0;
    for (place, byte) in bytes.iter().skip(1).take(LENGTH_BYTES_MAX).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Some((2 + place, length)));
        }
    }
    match bytes.len() > LENGTH_BYTES_MAX {
        true => Err("a packet's length that does not end".into()),
        false => Ok(None),
    }
}

fn inside(first: u8, rest: &[u8]) -> Option<Packet<'_>> {
    let id = |at: usize| Some(u16::from_be_bytes(rest.get(at..at + 2)?.try_into().ok()?));
    Some(match first {
        0x20 => Packet::Connack(*rest.get(1)?),
        0x90 => Packet::Suback(*rest.get(2)?),
        0xd0 => Packet::Pong,
        0x40 => Packet::Answer(Answer::Puback, id(0)?),
        0x50 => Packet::Answer(Answer::Pubrec, id(0)?),
        0x62 => Packet::Answer(Answer::Pubrel, id(0)?),
        0x70 => Packet::Answer(Answer::Pubcomp, id(0)?),
        0x30..0x40 => {
            let topic = 2 + usize::from(id(0)?);
            let (quality, body) = match first >> 1 & 3 {
                0 => (Quality::AtMostOnce, topic),
                1 => (Quality::AtLeastOnce, topic + 2),
                2 => (Quality::ExactlyOnce, topic + 2),
                _ => return None,
            };
            Packet::Publish {
                quality,
                id: if body > topic { id(topic)? } else { 0 },
                body: rest.get(body..)?,
            }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_whole_once_its_last_byte_is_there() {
        for quality in [Quality::AtMostOnce, Quality::AtLeastOnce, Quality::ExactlyOnce] {
            for body in [0, 1, 120, 200, 20_000] {
                let body = vec![b'x'; body];
                let mut publication = Vec::new();
                publish("a/b", quality, 0x1234, &body, &mut publication);
                let expected = Packet::Publish {
                    quality,
                    id: if quality == Quality::AtMostOnce { 0 } else { 0x1234 },
                    body: &body,
                };
                assert_eq!(read(&publication), Ok(Some((expected, publication.len()))));
                assert_eq!(read(&publication[..publication.len() - 1]), Ok(None));
            }
        }
        assert_eq!(read(&[]), Ok(None));
    }

    #[test]
    fn what_a_client_says_is_what_the_specification_has() {
        assert_eq!(
            connect("a", Lasting::Clean),
            b"\x10\x0d\0\x04MQTT\x04\x02\xff\xff\0\x01a"
        );
        assert_eq!(connect("a", Lasting::Kept)[9], 0);
        assert_eq!(subscribe("a/#", Quality::AtLeastOnce), b"\x82\x08\0\x01\0\x03a/#\x01");
        let mut answers = Vec::new();
        answer(Answer::Puback, 0x0102, &mut answers);
        answer(Answer::Pubrel, 3, &mut answers);
        assert_eq!(answers, b"\x40\x02\x01\x02\x62\x02\0\x03");
    }

    #[test]
    fn what_a_server_says_is_told_apart_and_the_rest_refused() {
        let packet = |bytes| read(bytes).map(|read| read.map(|(packet, _)| packet));
        assert_eq!(packet(b"\x20\x02\0\x05"), Ok(Some(Packet::Connack(5))));
        assert_eq!(packet(b"\x90\x03\0\x01\x80"), Ok(Some(Packet::Suback(0x80))));
        assert_eq!(packet(b"\x40\x02\0\x07"), Ok(Some(Packet::Answer(Answer::Puback, 7))));
        assert_eq!(packet(b"\xd0\0"), Ok(Some(Packet::Pong)));
        assert!(packet(b"\x10\0").is_err(), "a CONNECT");
        assert!(packet(b"\x36\x02\0\0").is_err(), "QoS 3");
        assert!(packet(b"\x32\x02\0\0").is_err(), "QoS 1 without an identifier");
        assert!(packet(b"\x30\xff\xff\xff\xff").is_err(), "a length without an end");
    }

    #[test]
    fn identifiers_are_never_zero_and_topics_reach_addresses() {
        assert_eq!((id_of(0), id_of(65_534), id_of(65_535)), (1, 65_535, 1));
        assert_eq!(topic_of("topic:a/b").as_deref(), Some("a/b"));
        assert_eq!(topic_of("agent:a/b").as_deref(), Some("$weft/agent/a/b"));
        assert_eq!(topic_of("system:a"), None);
    }
}
