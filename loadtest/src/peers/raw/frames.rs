//! Frames of `weft.v1` as bytes: sends that are encoded once and only get new message ids, and deliveries that are counted by
//! walking over them. Pure; what a frame holds is in `proto/weft/v1`.

use bytes::{BufMut, Bytes, BytesMut};
use prost::{Message as _, encoding};
use weft::rpc::v1;

/// Messages of one frame: what the node and its clients use.
pub const FRAME_MESSAGES: u64 = 32;
/// Digits of a message's id, which counts its publisher's messages.
pub const ID_DIGITS: usize = 16;
const PRIORITY_NORMAL: i32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "3")]
    to: String,
    #[prost(int32, tag = "4")]
    priority: i32,
    #[prost(int32, tag = "5")]
    qos: i32,
    #[prost(bytes = "bytes", tag = "8")]
    correlation: Bytes,
    #[prost(bytes = "bytes", tag = "15")]
    body: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Send {
    #[prost(uint64, tag = "1")]
    first_tag: u64,
    #[prost(message, repeated, tag = "2")]
    messages: Vec<Message>,
    #[prost(string, tag = "4")]
    from: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ClientFrame {
    #[prost(message, optional, tag = "2")]
    send: Option<Send>,
}

/// The quality of service of what is sent, as `weft.v1` numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quality {
    AtMostOnce = 1,
    AtLeastOnce = 2,
}

/// Whether messages carry something by which a reply finds its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correlation {
    None,
    /// The message's own number: a reply has the number of its request.
    Number,
}

/// A frame of messages from one agent to one address, encoded but for the ids: what lies before each of them, and
/// behind the last. A message that is correlated has its number twice.
#[derive(Debug)]
pub struct Template {
    before_ids: Vec<Bytes>,
    ids_per_message: usize,
    behind: Bytes,
    bytes: usize,
}

impl Template {
    /// Encodes the frame.
    pub fn new(from: &str, to: &str, body_bytes: usize, messages: u64, quality: Quality) -> Self {
        Self::correlated(from, to, body_bytes, messages, quality, Correlation::None)
    }

    /// Encodes a frame of one message at QoS 0 that a reply finds its request by, or is one.
    pub fn request(from: &str, to: &str, body_bytes: usize) -> Self {
        Self::correlated(from, to, body_bytes, 1, Quality::AtMostOnce, Correlation::Number)
    }

    fn correlated(
        from: &str,
        to: &str,
        body_bytes: usize,
        messages: u64,
        quality: Quality,
        correlation: Correlation,
    ) -> Self {
        // Found again below: nothing else in the frame has a NUL byte this often in a row.
        let number = "\0".repeat(ID_DIGITS);
        let message = Message {
            id: number.clone(),
            to: to.to_owned(),
            priority: PRIORITY_NORMAL,
            qos: quality as i32,
            correlation: match correlation {
                Correlation::None => Bytes::new(),
                Correlation::Number => number.into(),
            },
            body: vec![b'.'; body_bytes].into(),
        };
        let frame = ClientFrame {
            send: Some(Send {
                // Nothing is answered at QoS 0, and answers to the others are only counted.
                first_tag: 1,
                messages: vec![message; messages as usize],
                from: from.to_owned(),
            }),
        };
        let encoded = Bytes::from(frame.encode_to_vec());
        let mut before_ids = Vec::new();
        let mut start = 0;
        for at in memchr::memmem::find_iter(&encoded, &[0; ID_DIGITS]) {
            before_ids.push(encoded.slice(start..at));
            start = at + ID_DIGITS;
        }
        Self {
            ids_per_message: before_ids.len() / messages.max(1) as usize,
            before_ids,
            behind: encoded.slice(start..),
            bytes: encoded.len(),
        }
    }

    /// Writes the frame whose first message has this number.
    pub fn write(&self, first: u64, out: &mut impl BufMut) {
        for (number, before) in (first..).zip(self.before_ids.chunks(self.ids_per_message)) {
            for before in before {
                out.put_slice(before);
                out.put_slice(&digits(number));
            }
        }
        out.put_slice(&self.behind);
    }

    /// Bytes of a frame.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A number in hexadecimal, all digits of it.
pub fn digits(number: u64) -> [u8; ID_DIGITS] {
    let mut digits = [0; ID_DIGITS];
    for (digit, shift) in digits.iter_mut().zip((0..16).rev()) {
        *digit = b"0123456789abcdef"[((number >> (4 * shift)) & 0xf) as usize];
    }
    digits
}

/// The frame that opens an agent's inbox with as large a window as the node gives, or only attaches it.
pub fn attach(agent: &str, inbox: v1::InboxMode) -> Bytes {
    let attach = v1::Attach {
        agent: agent.to_owned(),
        inbox: inbox.into(),
        window_messages: u32::MAX,
        window_bytes: u64::MAX,
        ..v1::Attach::default()
    };
    encode(v1::client_frame::Frame::Attach(attach))
}

/// The frame that subscribes to a topic.
pub fn subscribe(topic: &str) -> Bytes {
    let subscribe = v1::Subscribe {
        tag: 1,
        filters: vec![topic.to_owned()],
    };
    encode(v1::client_frame::Frame::Subscribe(subscribe))
}

fn encode(frame: v1::client_frame::Frame) -> Bytes {
    v1::ClientFrame { frame: Some(frame) }.encode_to_vec().into()
}

/// The frame that acknowledges deliveries, and asks for a confirmation.
pub fn acknowledge(ids: &[Bytes]) -> Bytes {
    /// `ClientFrame.ack`, `AckFrame.tag` with its value 1, and `AckFrame.ids`.
    const ACK: u8 = 3 << 3 | 2;
    const TAG: [u8; 2] = [1 << 3, 1];
    const IDS: u8 = 2 << 3 | 2;
    let id_bytes = |id: &Bytes| 1 + encoding::encoded_len_varint(id.len() as u64) + id.len();
    let inside = TAG.len() + ids.iter().map(id_bytes).sum::<usize>();
    let mut frame = BytesMut::with_capacity(1 + 10 + inside);
    frame.put_u8(ACK);
    encoding::encode_varint(inside as u64, &mut frame);
    frame.put_slice(&TAG);
    for id in ids {
        frame.put_u8(IDS);
        encoding::encode_varint(id.len() as u64, &mut frame);
        frame.put_slice(id);
    }
    frame.freeze()
}

/// What the node sent to whoever acknowledges or waits for answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    Welcome,
    /// The encoded ids of deliveries.
    Deliveries(Vec<Bytes>),
    /// So many messages were accepted, and none refused.
    Receipts(u64),
    /// All of an acknowledgement settled.
    Settled,
    /// A refusal, a goodbye, or what nobody asked for; the number of its field in `ServerFrame`.
    Other(u64),
}

/// Looks into a `ServerFrame`; `None` where the bytes are none.
pub fn told(frame: &Bytes) -> Option<Told> {
    /// Fields of `ServerFrame`, of `Delivery`, of `Receipt` and of `Settled`.
    const WELCOME: u64 = 1;
    const DELIVERIES: u64 = 2;
    const RECEIPTS: u64 = 3;
    const SETTLED: u64 = 4;
    const ID: u64 = 1;
    const PROBLEM: u64 = 3;
    const FAILURES: u64 = 2;
    let ((number, inside), _) = field(frame)?;
    let is_refused = |receipt: &[u8]| fields(receipt).any(|(field, _)| field == PROBLEM);
    Some(match number {
        WELCOME => Told::Welcome,
        DELIVERIES => {
            let id_of = |(_, delivery)| fields(delivery).find(|(field, _)| *field == ID);
            let ids = fields(inside).map(|delivery| id_of(delivery).map(|(_, id)| frame.slice_ref(id)));
            Told::Deliveries(ids.collect::<Option<_>>()?)
        }
        RECEIPTS if !fields(inside).any(|(_, receipt)| is_refused(receipt)) => {
            Told::Receipts(fields(inside).count() as u64)
        }
        SETTLED if fields(inside).all(|(field, _)| field != FAILURES) => Told::Settled,
        _ => Told::Other(number),
    })
}

/// What the node sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Welcome,
    /// So many deliveries.
    Deliveries(u64),
    /// Done as asked.
    Subscribed,
    /// A refusal, a goodbye, or what nobody asked for; the number of its field in `ServerFrame`.
    Other(u64),
}

/// Looks into a `ServerFrame`; `None` where the bytes are none.
pub fn said(frame: &[u8]) -> Option<Said> {
    /// Fields of `ServerFrame`, and of `Subscribed` that says what went wrong.
    const WELCOME: u64 = 1;
    const DELIVERIES: u64 = 2;
    const SUBSCRIBED: u64 = 5;
    const PROBLEM: u64 = 2;
    let ((field, inside), _) = field(frame)?;
    Some(match field {
        WELCOME => Said::Welcome,
        DELIVERIES => Said::Deliveries(fields(inside).count() as u64),
        SUBSCRIBED if fields(inside).all(|(field, _)| field != PROBLEM) => Said::Subscribed,
        _ => Said::Other(field),
    })
}

/// What the node sent to whoever asks and answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Welcome,
    /// The numbers that the delivered messages are correlated by; `None` where one is by no number.
    Correlations(Vec<Option<u64>>),
    /// A refusal, a goodbye, or what nobody asked for; the number of its field in `ServerFrame`.
    Other(u64),
}

/// Looks into a `ServerFrame`; `None` where the bytes are none.
pub fn heard(frame: &[u8]) -> Option<Heard> {
    /// Fields of `ServerFrame`, of `Delivery` and of `Message`.
    const WELCOME: u64 = 1;
    const DELIVERIES: u64 = 2;
    const MESSAGE: u64 = 7;
    const CORRELATION: u64 = 8;
    let inside_of = |bytes, wanted| {
        fields(bytes)
            .find(|(field, _)| *field == wanted)
            .map(|(_, inside)| inside)
    };
    let ((number, inside), _) = field(frame)?;
    Some(match number {
        WELCOME => Heard::Welcome,
        DELIVERIES => {
            let correlation = |(_, delivery)| number_of(inside_of(inside_of(delivery, MESSAGE)?, CORRELATION)?);
            Heard::Correlations(fields(inside).map(correlation).collect())
        }
        _ => Heard::Other(number),
    })
}

/// The number that [`digits`] wrote.
fn number_of(digits: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

/// The fields of a message, with what is inside those that have a length. Ends at what is no field.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        let (found, rest) = field(bytes)?;
        bytes = rest;
        Some(found)
    })
}

/// A field: its number and what is inside it, and what comes after it.
type Field<'a> = ((u64, &'a [u8]), &'a [u8]);

fn field(bytes: &[u8]) -> Option<Field<'_>> {
    const VARINT: u64 = 0;
    const LENGTH: u64 = 2;
    let (key, rest) = varint(bytes)?;
    match key & 7 {
        VARINT => Some(((key >> 3, &[]), varint(rest)?.1)),
        LENGTH => {
            let (length, rest) = varint(rest)?;
            let (inside, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            Some(((key >> 3, inside), rest))
        }
        _ => None,
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (place, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[place + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_its_messages_with_ids_that_count_on() {
        for body_bytes in [1, 64, 256, 4096] {
            let template = Template::new("a/b", "agent:c", body_bytes, FRAME_MESSAGES, Quality::AtMostOnce);
            let mut bytes = Vec::new();
            template.write(0x1f, &mut bytes);
            assert_eq!(bytes.len(), template.bytes());
            let send = ClientFrame::decode(&bytes[..]).expect("a frame").send.expect("a send");
            assert_eq!((send.from.as_str(), send.messages.len()), ("a/b", 32));
            assert_eq!(send.messages[0].id, "000000000000001f");
            assert_eq!(send.messages[31].id, "000000000000003e");
            assert!(send.messages.iter().all(|message| message.body.len() == body_bytes));
            assert!(send.messages.iter().all(|message| message.to == "agent:c"));
        }
    }

    #[test]
    fn a_reply_is_known_by_the_number_of_its_request() {
        let mut bytes = Vec::new();
        Template::request("a/b", "agent:c", 64).write(0x1f, &mut bytes);
        let send = ClientFrame::decode(&bytes[..]).expect("a frame").send.expect("a send");
        assert_eq!(send.messages[0].id, "000000000000001f");
        assert_eq!(send.messages[0].correlation, "000000000000001f".as_bytes());
        // `Deliveries` of two: `Message` is field 7 of each.
        let delivery = |correlation: &'static [u8]| {
            let message = Message {
                correlation: correlation.into(),
                ..send.messages[0].clone()
            };
            let message = message.encode_to_vec();
            let delivery = [&[0x10, 1, 0x3a, message.len() as u8][..], &message].concat();
            [
                &[0x0a, delivery.len() as u8 | 0x80, (delivery.len() >> 7) as u8][..],
                &delivery,
            ]
            .concat()
        };
        let two = [delivery(b"00000000000000ff"), delivery(b"another's")].concat();
        let frame = [&[0x12, two.len() as u8 | 0x80, (two.len() >> 7) as u8][..], &two].concat();
        assert_eq!(heard(&frame), Some(Heard::Correlations(vec![Some(0xff), None])));
        assert_eq!(heard(&frame[..20]), None, "cut off");
    }

    #[test]
    fn what_is_answered_or_acknowledged_is_read_and_written_as_the_node_has_it() {
        use v1::server_frame::Frame;
        let told = |frame| told(&v1::ServerFrame { frame: Some(frame) }.encode_to_vec().into());
        let ids = [(3, 70_000, 1), (0, 1, 200)].map(|(shard, seq, lease)| v1::DeliveryId { shard, seq, lease });
        // `Deliveries` of two, with nothing but an id and an attempt: fields 1 and 2.
        let delivery = |id: &v1::DeliveryId| {
            let id = id.encode_to_vec();
            [&[0x0a, id.len() as u8 + 4, 0x0a, id.len() as u8][..], &id, &[0x10, 1]].concat()
        };
        let inside = ids.iter().flat_map(delivery).collect::<Vec<u8>>();
        let frame = Bytes::from([&[0x12, inside.len() as u8][..], &inside].concat());
        let Some(Told::Deliveries(encoded)) = super::told(&frame) else {
            panic!("no deliveries")
        };
        let ack = v1::ClientFrame::decode(acknowledge(&encoded)).unwrap();
        let expected = v1::AckFrame {
            tag: 1,
            ids: ids.to_vec(),
        };
        assert_eq!(ack.frame, Some(v1::client_frame::Frame::Ack(expected)));
        let receipt = |result| v1::Receipt {
            tag: 300,
            result: Some(result),
        };
        let accepted = receipt(v1::receipt::Result::Accepted(v1::Accepted::default()));
        let refused = receipt(v1::receipt::Result::Problem(v1::Problem::default()));
        let receipts = |receipts| Frame::Receipts(v1::Receipts { receipts });
        assert_eq!(told(receipts(vec![accepted.clone(); 2])), Some(Told::Receipts(2)));
        assert_eq!(told(receipts(vec![accepted, refused])), Some(Told::Other(3)));
        let settled = |failures| Frame::Settled(v1::Settled { tag: 1, failures });
        assert_eq!(told(settled(vec![])), Some(Told::Settled));
        assert_eq!(told(settled(vec![v1::SettleFailure::default()])), Some(Told::Other(4)));
    }

    #[test]
    fn deliveries_are_counted_without_being_decoded() {
        use v1::server_frame::Frame;
        let said = |frame| said(&v1::ServerFrame { frame: Some(frame) }.encode_to_vec());
        let welcome = v1::Welcome {
            agent: "a".into(),
            ..v1::Welcome::default()
        };
        assert_eq!(said(Frame::Welcome(welcome)), Some(Said::Welcome));
        let subscribed = |problem| Frame::Subscribed(v1::Subscribed { tag: 300, problem });
        assert_eq!(said(subscribed(None)), Some(Said::Subscribed));
        assert_eq!(said(subscribed(Some(v1::Problem::default()))), Some(Said::Other(5)));
        let goodbye = v1::Goodbye::default();
        assert_eq!(said(Frame::Goodbye(goodbye)), Some(Said::Other(6)));
        // `Deliveries` with three of them, of 2, 0 and 200 bytes.
        let large = [&[0x0a, 200, 1][..], &[0; 200]].concat();
        let three = [&[0x0a, 2, 8, 1, 0x0a, 0][..], &large].concat();
        let frame = [&[0x12, u8::try_from(three.len() & 0x7f).unwrap() | 0x80, 1][..], &three].concat();
        assert_eq!(super::said(&frame), Some(Said::Deliveries(3)));
        assert_eq!(super::said(&frame[..20]), None, "cut off");
        assert_eq!(super::said(&[]), None);
    }
}
