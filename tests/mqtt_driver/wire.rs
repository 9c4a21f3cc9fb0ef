//! MQTT packets as bytes: built by hand, so that they can be wrong on purpose, and read strictly.

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V3,
    V5,
}

pub const BOTH: [Version; 2] = [Version::V3, Version::V5];

pub const CONNACK: u8 = 0x20;
pub const PUBACK: u8 = 0x40;
pub const PUBREC: u8 = 0x50;
/// With the flags that the specifications fix.
pub const PUBREL: u8 = 0x62;
pub const PUBCOMP: u8 = 0x70;
pub const SUBSCRIBE: u8 = 0x82;
pub const SUBACK: u8 = 0x90;
pub const UNSUBSCRIBE: u8 = 0xA2;
pub const UNSUBACK: u8 = 0xB0;
pub const PINGREQ: [u8; 2] = [0xC0, 0];
pub const PINGRESP: [u8; 2] = [0xD0, 0];
pub const DISCONNECT: u8 = 0xE0;
pub const AUTH: u8 = 0xF0;

/// Identifiers of properties.
pub mod id {
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION: u8 = 0x09;
    pub const SUBSCRIPTION: u8 = 0x0B;
    pub const SESSION_EXPIRY: u8 = 0x11;
    pub const ASSIGNED_ID: u8 = 0x12;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const AUTH_METHOD: u8 = 0x15;
    pub const AUTH_DATA: u8 = 0x16;
    pub const REQUEST_PROBLEM: u8 = 0x17;
    pub const WILL_DELAY: u8 = 0x18;
    pub const REQUEST_RESPONSE: u8 = 0x19;
    pub const RESPONSE_INFORMATION: u8 = 0x1A;
    pub const REASON: u8 = 0x1F;
    pub const RECEIVE_MAX: u8 = 0x21;
    pub const ALIAS_MAX: u8 = 0x22;
    pub const ALIAS: u8 = 0x23;
    pub const USER: u8 = 0x26;
    pub const PACKET_MAX: u8 = 0x27;
}

/// Bytes behind their length of two bytes; any bytes, also where a string stands.
pub fn text(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let length = u16::try_from(bytes.len()).expect("a field of MQTT is below 64 KiB");
    [&length.to_be_bytes()[..], bytes].concat()
}

pub fn variable(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value % 128).expect("below 128");
        value /= 128;
        bytes.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return bytes;
        }
    }
}

/// A packet: its first byte, its length, its parts.
pub fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&[first][..], &variable(body.len()), &body].concat()
}

pub fn byte(id: u8, value: u8) -> Vec<u8> {
    vec![id, value]
}

pub fn two(id: u8, value: u16) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}

pub fn four(id: u8, value: u32) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}

pub fn string(id: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&[id][..], &text(value)].concat()
}

pub fn user(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&[id::USER][..], &text(name), &text(value)].concat()
}

/// Properties behind their length, in version 5; nothing in 3.1.1.
pub fn properties(version: Version, list: &[u8]) -> Vec<u8> {
    match version {
        Version::V3 => Vec::new(),
        Version::V5 => [&variable(list.len())[..], list].concat(),
    }
}

#[derive(Clone, Debug, Default)]
pub struct Will {
    pub topic: Vec<u8>,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub properties: Vec<u8>,
}

/// A CONNECT to be. What is `None` or empty is not there.
#[derive(Clone, Debug)]
pub struct Connect {
    pub version: Version,
    pub client: Vec<u8>,
    pub clean: bool,
    pub keep_alive: u16,
    pub properties: Vec<u8>,
    pub will: Option<Will>,
    pub user: Option<Vec<u8>>,
    pub password: Option<Vec<u8>>,
}

impl Connect {
    pub fn new(version: Version, client: &str) -> Self {
        Self {
            version,
            client: client.into(),
            clean: true,
            keep_alive: 60,
            properties: Vec::new(),
            will: None,
            user: None,
            password: None,
        }
    }

    /// A session that outlives its connection: clean session 0, or an expiry of an hour.
    pub fn lasting(version: Version, client: &str) -> Self {
        let mut connect = Self::new(version, client);
        connect.clean = false;
        if version == Version::V5 {
            connect.properties = four(id::SESSION_EXPIRY, 3600);
        }
        connect
    }

    pub fn with(mut self, property: Vec<u8>) -> Self {
        self.properties.extend(property);
        self
    }

    pub fn will(mut self, topic: &str, payload: &str, qos: u8, retain: bool) -> Self {
        self.will = Some(Will {
            topic: topic.into(),
            payload: payload.into(),
            qos,
            retain,
            properties: Vec::new(),
        });
        self
    }

    pub fn flags(&self) -> u8 {
        let will = self
            .will
            .as_ref()
            .map_or(0, |will| 0x04 | will.qos << 3 | u8::from(will.retain) << 5);
        u8::from(self.clean) << 1 | will | u8::from(self.user.is_some()) << 7 | u8::from(self.password.is_some()) << 6
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_with(b"MQTT", if self.version == Version::V5 { 5 } else { 4 }, self.flags())
    }

    /// With a protocol name, level and flags of the caller's.
    pub fn bytes_with(&self, name: &[u8], level: u8, flags: u8) -> Vec<u8> {
        let mut payload = text(&self.client);
        if let Some(will) = &self.will {
            payload.extend(properties(self.version, &will.properties));
            payload.extend(text(&will.topic));
            payload.extend(text(&will.payload));
        }
        for field in [&self.user, &self.password].into_iter().flatten() {
            payload.extend(text(field));
        }
        let head = [&text(name)[..], &[level, flags], &self.keep_alive.to_be_bytes()].concat();
        packet(0x10, &[&head, &properties(self.version, &self.properties), &payload])
    }
}

/// A PUBLISH, built or read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish {
    pub topic: Vec<u8>,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    /// 0 where there is none.
    pub id: u16,
    pub properties: Vec<u8>,
}

impl Publish {
    pub fn new(topic: &str, payload: &str) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            ..Self::default()
        }
    }

    pub fn qos(mut self, qos: u8, id: u16) -> Self {
        (self.qos, self.id) = (qos, id);
        self
    }

    pub fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    pub fn with(mut self, property: Vec<u8>) -> Self {
        self.properties.extend(property);
        self
    }

    pub fn bytes(&self, version: Version) -> Vec<u8> {
        let first = 0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let id = if self.qos > 0 {
            self.id.to_be_bytes().to_vec()
        } else {
            Vec::new()
        };
        packet(
            first,
            &[
                &text(&self.topic),
                &id,
                &properties(version, &self.properties),
                &self.payload,
            ],
        )
    }

    pub fn topic(&self) -> &str {
        std::str::from_utf8(&self.topic).expect("a topic is UTF-8")
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("a payload of the tests is UTF-8")
    }

    /// The values of a property, in their order.
    pub fn property(&self, wanted: u8) -> Vec<Vec<u8>> {
        let all = read_properties(&self.properties);
        all.into_iter()
            .filter(|(id, _)| *id == wanted)
            .map(|(_, value)| value)
            .collect()
    }
}

/// A packet that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub first: u8,
    pub body: Vec<u8>,
}

impl Packet {
    pub fn kind(&self) -> u8 {
        self.first & 0xF0
    }

    pub fn bytes(&self) -> Vec<u8> {
        packet(self.first, &[&self.body])
    }

    /// The id that an acknowledgement begins with.
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }

    /// Its reason code as version 5 has it: left out means 0.
    pub fn reason(&self) -> u8 {
        let at = match self.kind() {
            CONNACK => 1,
            DISCONNECT | AUTH => 0,
            _ => 2,
        };
        self.body.get(at).copied().unwrap_or(0)
    }

    /// The properties behind the first `skipped` bytes.
    pub fn properties(&self, skipped: usize) -> Vec<(u8, Vec<u8>)> {
        if self.body.len() <= skipped {
            return Vec::new();
        }
        let (length, taken) = read_variable(&self.body[skipped..]);
        read_properties(&self.body[skipped + taken..skipped + taken + length])
    }

    pub fn publish(&self, version: Version) -> Publish {
        assert_eq!(self.kind(), 0x30, "a PUBLISH was expected: {self:02x?}");
        let qos = self.first >> 1 & 3;
        assert!(qos < 3, "both QoS bits: {self:02x?}");
        let length = usize::from(self.id());
        let (topic, mut rest) = self.body[2..].split_at(length);
        let mut id = 0;
        if qos > 0 {
            id = u16::from_be_bytes([rest[0], rest[1]]);
            assert_ne!(id, 0, "packet id 0");
            rest = &rest[2..];
        }
        let mut properties = Vec::new();
        if version == Version::V5 {
            let (length, taken) = read_variable(rest);
            properties = rest[taken..taken + length].to_vec();
            rest = &rest[taken + length..];
        }
        Publish {
            topic: topic.to_vec(),
            payload: rest.to_vec(),
            qos,
            retain: self.first & 1 == 1,
            dup: self.first & 8 == 8,
            id,
            properties,
        }
    }
}

fn read_variable(bytes: &[u8]) -> (usize, usize) {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(4) {
        value |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return (value, at + 1);
        }
    }
    panic!("a length of more than four bytes: {bytes:02x?}");
}

/// Properties with their values: numbers as they stand, strings without their length, pairs with both lengths.
pub fn read_properties(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let string = |bytes: &[u8]| 2 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    let mut found = Vec::new();
    while let Some((&id, rest)) = bytes.split_first() {
        let (skipped, length) = match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => (0, 1),
            0x13 | 0x21 | 0x22 | 0x23 => (0, 2),
            0x02 | 0x11 | 0x18 | 0x27 => (0, 4),
            0x0B => (0, read_variable(rest).1),
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => (2, string(rest)),
            0x26 => {
                let name = string(rest);
                (0, name + string(&rest[name..]))
            }
            _ => panic!("no property {id:02x}: {bytes:02x?}"),
        };
        found.push((id, rest[skipped..length].to_vec()));
        bytes = &rest[length..];
    }
    found
}
