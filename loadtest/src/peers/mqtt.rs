//! MQTT 3.1.1 by hand: publishing and subscribing at QoS 0.

use std::{
    io::{Error, Result},
    net::SocketAddr,
};

use super::{client::Security, wire::Wire};

const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const SUBACK: u8 = 9;

/// A connection.
#[derive(Debug)]
pub struct Mqtt {
    pub wire: Wire,
}

impl Mqtt {
    /// Connects under a client id.
    pub fn open(server: SocketAddr, security: &Security, name: &str) -> Result<Self> {
        let mut wire = Wire::open(server)?;
        if let Security::Tls(authority) = security {
            wire = wire.encrypt(authority.clone())?;
        }
        let mut client = Self { wire };
        let mut connect = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60];
        connect.extend(text(name));
        client.wire.write(&packet(0x10, &connect))?;
        client.expect(CONNACK)?;
        Ok(client)
    }

    /// Subscribes at QoS 0.
    pub fn subscribe(&mut self, subject: &str) -> Result<()> {
        let mut subscribe = vec![0, 1];
        subscribe.extend(text(subject));
        subscribe.push(0);
        self.wire.write(&packet(0x82, &subscribe))?;
        self.expect(SUBACK)
    }

    /// The bytes that publish one message at QoS 0.
    pub fn publication(subject: &str, body: &[u8]) -> Vec<u8> {
        packet(0x30, &[&text(subject), body].concat())
    }

    fn expect(&mut self, kind: u8) -> Result<()> {
        loop {
            if let Some((found, bytes)) = whole(self.wire.buffered()) {
                self.wire.take(bytes);
                if found == kind {
                    return Ok(());
                }
                return Err(Error::other(format!("packet {found} instead of {kind}")));
            }
            self.wire.fill()?;
        }
    }

    /// Waits for messages and counts those that are there.
    pub fn messages(&mut self) -> Result<u64> {
        let mut count = 0;
        loop {
            while let Some((kind, bytes)) = whole(self.wire.buffered()) {
                self.wire.take(bytes);
                count += u64::from(kind == PUBLISH);
            }
            if count > 0 {
                return Ok(count);
            }
            self.wire.fill()?;
        }
    }
}

/// A text with its length. Names and subjects of a load test are short.
fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

fn packet(first: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = rest.len();
    loop {
        let low = u8::try_from(length % 128).unwrap_or_default();
        length /= 128;
        packet.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    packet.extend_from_slice(rest);
    packet
}

/// Kind and length of the packet at the start of these bytes; `None` while it is not whole.
fn whole(bytes: &[u8]) -> Option<(u8, usize)> {
    let mut length = 0;
    for (place, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let all = 2 + place + length;
            return (bytes.len() >= all).then_some((bytes[0] >> 4, all));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_whole_once_its_last_byte_is_there() {
        for body in [0, 1, 120, 200, 20_000] {
            let publication = Mqtt::publication("a/b", &vec![b'x'; body]);
            assert_eq!(whole(&publication), Some((PUBLISH, publication.len())));
            assert_eq!(whole(&publication[..publication.len() - 1]), None);
        }
        assert_eq!(whole(&[]), None);
    }
}
