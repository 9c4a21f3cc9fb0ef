//! The layouts of control frames. Every number from outside is checked here: an unknown one is refused, never guessed.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::control::{
    Accepted, Attach, DeliveryId, Frame, ITEMS_MAX, PROTOCOLS, Problem, Receipt, Refusal, ResumeKey, SettleFailure,
    Status, Switch, ToClient, ToNode, Welcome,
};
use crate::frame::{Seq, ShardId};

/// Longest text of a frame, in bytes: what two bytes of length can say. Longer ones are cut where this side writes them.
const TEXT_BYTES_MAX: usize = u16::MAX as usize;
/// Bytes of a delivery id: shard 2, seq 8, lease 8.
const DELIVERY_ID_BYTES: usize = 18;

/// Why bytes are not a control frame. The peer's fault; the connection ends.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ControlError {
    #[error("a control frame has {bytes} bytes; at most {max} are allowed")]
    TooLarge { bytes: usize, max: usize },
    #[error("control frame kind {0} is not known")]
    Kind(u8),
    #[error("control frame kind {kind} ends inside a field")]
    Truncated { kind: u8 },
    #[error("control frame kind {kind} goes on behind its last field")]
    Trailing { kind: u8 },
    #[error("control frame kind {kind}: `{field}` has a value that is not known")]
    Value { kind: u8, field: &'static str },
    #[error("control frame kind {kind} has more than {ITEMS_MAX} items")]
    Items { kind: u8 },
}

mod kind {
    pub const HELLO: u8 = 1;
    pub const ATTACH: u8 = 2;
    pub const ACK: u8 = 3;
    pub const NACK: u8 = 4;
    pub const CREDIT: u8 = 5;
    pub const SUBSCRIBE: u8 = 6;
    pub const UNSUBSCRIBE: u8 = 7;
    pub const DETACH: u8 = 8;
    pub const READY: u8 = 64;
    pub const WELCOME: u8 = 65;
    pub const REFUSED: u8 = 66;
    pub const RECEIPTS: u8 = 67;
    pub const SETTLED: u8 = 68;
    pub const SUBSCRIBED: u8 = 69;
    pub const GOODBYE: u8 = 70;
}

// --- from a client ---------------------------------------------------------------------------------------------------

impl Frame for ToNode {
    fn put(&self, into: &mut BytesMut) {
        match self {
            Self::Hello { token, program } => {
                into.put_u8(kind::HELLO);
                put_text(token, into);
                put_text(program, into);
            }
            Self::Attach(attach) => put_attach(attach, into),
            Self::Ack { tag, ids } => {
                into.put_u8(kind::ACK);
                into.put_u64_le(*tag);
                put_ids(ids, into);
            }
            Self::Nack { tag, refusal, ids } => {
                let (number, after) = match refusal {
                    Refusal::Retry => (0, 0),
                    Refusal::RetryAfter { ms } => (1, *ms),
                    Refusal::Release => (2, 0),
                    Refusal::DeadLetter => (3, 0),
                };
                into.put_u8(kind::NACK);
                into.put_u64_le(*tag);
                into.put_u8(number);
                into.put_u64_le(after);
                put_ids(ids, into);
            }
            Self::Credit { messages, bytes } => {
                into.put_u8(kind::CREDIT);
                into.put_u32_le(*messages);
                into.put_u64_le(*bytes);
            }
            Self::Subscribe { tag, filters } => put_filters(kind::SUBSCRIBE, *tag, filters, into),
            Self::Unsubscribe { tag, filters } => put_filters(kind::UNSUBSCRIBE, *tag, filters, into),
            Self::Detach { streams } => into.put_slice(&[kind::DETACH, *streams]),
        }
    }

    fn read(from: Bytes) -> Result<Self, ControlError> {
        let mut fields = Fields::new(from)?;
        let frame = match fields.kind {
            kind::HELLO => Self::Hello {
                token: fields.text("token")?,
                program: fields.text("program")?,
            },
            kind::ATTACH => Self::Attach(read_attach(&mut fields)?),
            kind::ACK => Self::Ack {
                tag: fields.u64()?,
                ids: fields.ids()?,
            },
            kind::NACK => {
                let tag = fields.u64()?;
                let refusal = match (fields.u8()?, fields.u64()?) {
                    (0, 0) => Refusal::Retry,
                    (1, ms) => Refusal::RetryAfter { ms },
                    (2, 0) => Refusal::Release,
                    (3, 0) => Refusal::DeadLetter,
                    _ => return Err(fields.wrong("refusal")),
                };
                Self::Nack {
                    tag,
                    refusal,
                    ids: fields.ids()?,
                }
            }
            kind::CREDIT => Self::Credit {
                messages: fields.u32()?,
                bytes: fields.u64()?,
            },
            kind::SUBSCRIBE => Self::Subscribe {
                tag: fields.u64()?,
                filters: fields.texts("filters")?,
            },
            kind::UNSUBSCRIBE => Self::Unsubscribe {
                tag: fields.u64()?,
                filters: fields.texts("filters")?,
            },
            kind::DETACH => Self::Detach { streams: fields.u8()? },
            kind => return Err(ControlError::Kind(kind)),
        };
        fields.end()?;
        Ok(frame)
    }
}

fn put_attach(attach: &Attach, into: &mut BytesMut) {
    into.put_u8(kind::ATTACH);
    put_switch(attach.takes_inbox, into);
    into.put_u32_le(attach.window_messages);
    into.put_u64_le(attach.window_bytes);
    into.put_u64_le(attach.visibility_timeout_ms);
    into.put_slice(&attach.resume.0);
    put_text(&attach.agent, into);
    put_text(&attach.durable_queue, into);
}

fn read_attach(fields: &mut Fields) -> Result<Attach, ControlError> {
    Ok(Attach {
        takes_inbox: fields.switch("takes_inbox")?,
        window_messages: fields.u32()?,
        window_bytes: fields.u64()?,
        visibility_timeout_ms: fields.u64()?,
        resume: ResumeKey(fields.array()?),
        agent: fields.text("agent")?,
        durable_queue: fields.text("durable_queue")?,
    })
}

fn put_ids(ids: &[DeliveryId], into: &mut BytesMut) {
    into.reserve(ids.len() * DELIVERY_ID_BYTES);
    for id in ids {
        into.put_u16_le(id.shard.get());
        into.put_u64_le(id.seq.raw());
        into.put_u64_le(id.lease);
    }
}

fn put_filters(kind: u8, tag: u64, filters: &[String], into: &mut BytesMut) {
    into.put_u8(kind);
    into.put_u64_le(tag);
    filters.iter().for_each(|filter| put_text(filter, into));
}

// --- from a node -----------------------------------------------------------------------------------------------------

impl Frame for ToClient {
    fn put(&self, into: &mut BytesMut) {
        match self {
            Self::Ready {
                node,
                message_bytes_max,
            } => {
                into.put_u8(kind::READY);
                into.put_u64_le(*message_bytes_max);
                put_text(node, into);
            }
            Self::Welcome(welcome) => {
                into.put_u8(kind::WELCOME);
                into.put_u32_le(welcome.window_messages);
                into.put_u64_le(welcome.window_bytes);
                into.put_slice(&welcome.resume.0);
                put_text(&welcome.node, into);
                put_text(&welcome.reply_address, into);
            }
            Self::Refused(problem) => {
                into.put_u8(kind::REFUSED);
                put_problem(problem, into);
            }
            Self::Receipts(receipts) => {
                into.put_u8(kind::RECEIPTS);
                receipts.iter().for_each(|receipt| put_receipt(receipt, into));
            }
            Self::Settled { tag, failures } => {
                into.put_u8(kind::SETTLED);
                into.put_u64_le(*tag);
                for failure in failures {
                    into.put_u32_le(failure.index);
                    put_outcome(failure.problem.as_ref(), into);
                }
            }
            Self::Subscribed { tag, problem } => {
                into.put_u8(kind::SUBSCRIBED);
                into.put_u64_le(*tag);
                put_outcome(problem.as_ref(), into);
            }
            Self::Goodbye {
                reason,
                reconnect,
                reconnect_after_ms,
            } => {
                into.put_u8(kind::GOODBYE);
                put_switch(*reconnect, into);
                into.put_u32_le(*reconnect_after_ms);
                put_text(reason, into);
            }
        }
    }

    fn read(from: Bytes) -> Result<Self, ControlError> {
        let mut fields = Fields::new(from)?;
        let frame = match fields.kind {
            kind::READY => Self::Ready {
                message_bytes_max: fields.u64()?,
                node: fields.text("node")?,
            },
            kind::WELCOME => Self::Welcome(Welcome {
                window_messages: fields.u32()?,
                window_bytes: fields.u64()?,
                resume: ResumeKey(fields.array()?),
                node: fields.text("node")?,
                reply_address: fields.text("reply_address")?,
            }),
            kind::REFUSED => Self::Refused(fields.problem()?),
            kind::RECEIPTS => Self::Receipts(fields.items(Fields::receipt)?),
            kind::SETTLED => Self::Settled {
                tag: fields.u64()?,
                failures: fields.items(|fields| {
                    let (index, problem) = (fields.u32()?, fields.outcome()?);
                    Ok(SettleFailure { index, problem })
                })?,
            },
            kind::SUBSCRIBED => Self::Subscribed {
                tag: fields.u64()?,
                problem: fields.outcome()?,
            },
            kind::GOODBYE => Self::Goodbye {
                reconnect: fields.switch("reconnect")?,
                reconnect_after_ms: fields.u32()?,
                reason: fields.text("reason")?,
            },
            kind => return Err(ControlError::Kind(kind)),
        };
        fields.end()?;
        Ok(frame)
    }
}

fn put_receipt((tag, receipt): &(u64, Receipt), into: &mut BytesMut) {
    into.put_u64_le(*tag);
    match receipt {
        Receipt::Accepted(accepted) => {
            into.put_u8(accepted.status as u8);
            put_switch(accepted.duplicate, into);
            into.put_u16_le(accepted.shard.get());
            into.put_u64_le(accepted.seq.raw());
            into.put_u32_le(accepted.recipients);
            into.put_u8(accepted.protocol);
            into.put_u64_le(accepted.estimated_delivery_at_ms);
        }
        Receipt::Refused(problem) => {
            into.put_u8(0);
            put_problem(problem, into);
        }
    }
}

fn put_outcome(problem: Option<&Problem>, into: &mut BytesMut) {
    put_switch(Switch::of(problem.is_some()), into);
    if let Some(problem) = problem {
        put_problem(problem, into);
    }
}

fn put_problem(problem: &Problem, into: &mut BytesMut) {
    into.put_u16_le(problem.number);
    into.put_u8(problem.status);
    put_switch(problem.retryable, into);
    into.put_u64_le(problem.retry_after_ms);
    put_text(&problem.title, into);
    put_text(&problem.detail, into);
    put_text(&problem.field, into);
}

fn put_switch(switch: Switch, into: &mut BytesMut) {
    into.put_u8(switch.is_on().into());
}

/// Cut, at a character's end, where it is longer than its length can say: only texts for people are.
fn put_text(text: &str, into: &mut BytesMut) {
    let end = (0..=text.len().min(TEXT_BYTES_MAX))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    let text = &text[..end.unwrap_or_default()];
    into.put_u16_le(u16::try_from(text.len()).unwrap_or(u16::MAX));
    into.put_slice(text.as_bytes());
}

// --- fields ----------------------------------------------------------------------------------------------------------

/// What is left of a frame.
struct Fields {
    kind: u8,
    rest: Bytes,
}

impl Fields {
    fn new(mut from: Bytes) -> Result<Self, ControlError> {
        if from.is_empty() {
            return Err(ControlError::Truncated { kind: 0 });
        }
        let kind = from.get_u8();
        Ok(Self { kind, rest: from })
    }

    fn wrong(&self, field: &'static str) -> ControlError {
        ControlError::Value { kind: self.kind, field }
    }

    fn end(&self) -> Result<(), ControlError> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => Err(ControlError::Trailing { kind: self.kind }),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ControlError> {
        let array = *self
            .rest
            .first_chunk::<N>()
            .ok_or(ControlError::Truncated { kind: self.kind })?;
        self.rest.advance(N);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, ControlError> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, ControlError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, ControlError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, ControlError> {
        self.array().map(u64::from_le_bytes)
    }

    fn switch(&mut self, field: &'static str) -> Result<Switch, ControlError> {
        match self.u8()? {
            0 => Ok(Switch::Off),
            1 => Ok(Switch::On),
            _ => Err(self.wrong(field)),
        }
    }

    fn text(&mut self, field: &'static str) -> Result<String, ControlError> {
        let length = usize::from(self.u16()?);
        if self.rest.len() < length {
            return Err(ControlError::Truncated { kind: self.kind });
        }
        let text = self.rest.split_to(length);
        std::str::from_utf8(&text)
            .map(str::to_owned)
            .map_err(|_| self.wrong(field))
    }

    fn texts(&mut self, field: &'static str) -> Result<Vec<String>, ControlError> {
        self.items(|fields| fields.text(field))
    }

    /// Items up to the frame's end.
    fn items<T>(&mut self, read: impl Fn(&mut Self) -> Result<T, ControlError>) -> Result<Vec<T>, ControlError> {
        let mut items = Vec::new();
        while !self.rest.is_empty() {
            if items.len() == ITEMS_MAX {
                return Err(ControlError::Items { kind: self.kind });
            }
            items.push(read(self)?);
        }
        Ok(items)
    }

    fn shard(&mut self) -> Result<ShardId, ControlError> {
        let number = self.u16()?;
        ShardId::new(number).ok_or(self.wrong("shard"))
    }

    fn ids(&mut self) -> Result<Vec<DeliveryId>, ControlError> {
        self.items(|fields| {
            Ok(DeliveryId {
                shard: fields.shard()?,
                seq: Seq::from_raw(fields.u64()?),
                lease: fields.u64()?,
            })
        })
    }

    fn receipt(&mut self) -> Result<(u64, Receipt), ControlError> {
        let (tag, number) = (self.u64()?, self.u8()?);
        if number == 0 {
            return Ok((tag, Receipt::Refused(self.problem()?)));
        }
        let status = Status::ALL.into_iter().find(|status| *status as u8 == number);
        let accepted = Accepted {
            status: status.ok_or(self.wrong("status"))?,
            duplicate: self.switch("duplicate")?,
            shard: self.shard()?,
            seq: Seq::from_raw(self.u64()?),
            recipients: self.u32()?,
            protocol: self.u8()?,
            estimated_delivery_at_ms: self.u64()?,
        };
        if usize::from(accepted.protocol) > PROTOCOLS.len() {
            return Err(self.wrong("protocol"));
        }
        Ok((tag, Receipt::Accepted(accepted)))
    }

    fn outcome(&mut self) -> Result<Option<Problem>, ControlError> {
        match self.switch("refused")? {
            Switch::Off => Ok(None),
            Switch::On => self.problem().map(Some),
        }
    }

    fn problem(&mut self) -> Result<Problem, ControlError> {
        Ok(Problem {
            number: self.u16()?,
            status: self.u8()?,
            retryable: self.switch("retryable")?,
            retry_after_ms: self.u64()?,
            title: self.text("title")?,
            detail: self.text("detail")?,
            field: self.text("field")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::native::control::{FRAME_BYTES_MAX, decode, encode};

    fn id(number: u16) -> DeliveryId {
        DeliveryId {
            shard: ShardId::new(number).unwrap(),
            seq: Seq::from_raw(u64::from(number) << 40),
            lease: u64::MAX,
        }
    }

    fn problem() -> Problem {
        Problem {
            number: 1200,
            status: 5,
            retryable: Switch::On,
            retry_after_ms: 250,
            title: "Unknown agent".into(),
            detail: "agent x is not registered; register it first".into(),
            field: "to".into(),
        }
    }

    fn to_node() -> Vec<ToNode> {
        vec![
            ToNode::Hello {
                token: "t".into(),
                program: "weft 0.1".into(),
            },
            ToNode::Attach(Attach {
                agent: "acme/bob".into(),
                takes_inbox: Switch::On,
                durable_queue: "q".into(),
                window_messages: 7,
                window_bytes: 8,
                visibility_timeout_ms: 9,
                resume: ResumeKey([3; 16]),
            }),
            ToNode::Ack {
                tag: 1,
                ids: vec![id(0), id(1023)],
            },
            ToNode::Nack {
                tag: 0,
                refusal: Refusal::RetryAfter { ms: 5 },
                ids: vec![id(9)],
            },
            ToNode::Nack {
                tag: 2,
                refusal: Refusal::DeadLetter,
                ids: vec![],
            },
            ToNode::Credit { messages: 1, bytes: 2 },
            ToNode::Subscribe {
                tag: 3,
                filters: vec!["a/+".into(), "$share/g/#".into()],
            },
            ToNode::Unsubscribe {
                tag: 4,
                filters: vec!["a/+".into()],
            },
            ToNode::Detach { streams: 4 },
        ]
    }

    fn to_client() -> Vec<ToClient> {
        let accepted = Accepted {
            status: Status::Sent,
            duplicate: Switch::On,
            shard: ShardId::new(5).unwrap(),
            seq: Seq::from_raw(6),
            recipients: 7,
            protocol: 4,
            estimated_delivery_at_ms: 8,
        };
        vec![
            ToClient::Ready {
                node: "node_1".into(),
                message_bytes_max: 1 << 20,
            },
            ToClient::Welcome(Welcome {
                node: "node_1".into(),
                reply_address: "agent:bob#s".into(),
                window_messages: 1,
                window_bytes: 2,
                resume: ResumeKey([9; 16]),
            }),
            ToClient::Refused(problem()),
            ToClient::Receipts(vec![
                (1, Receipt::Accepted(accepted)),
                (u64::MAX, Receipt::Refused(problem())),
            ]),
            ToClient::Settled {
                tag: 1,
                failures: vec![
                    SettleFailure {
                        index: 0,
                        problem: None,
                    },
                    SettleFailure {
                        index: 1,
                        problem: Some(problem()),
                    },
                ],
            },
            ToClient::Subscribed { tag: 1, problem: None },
            ToClient::Goodbye {
                reason: "draining".into(),
                reconnect: Switch::On,
                reconnect_after_ms: 500,
            },
        ]
    }

    fn round_trip<F: Frame + PartialEq + std::fmt::Debug>(frames: &[F]) {
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| encode(frame, &mut bytes));
        for frame in frames {
            assert_eq!(decode::<F>(&mut bytes, FRAME_BYTES_MAX).unwrap().as_ref(), Some(frame));
        }
        assert_eq!(decode::<F>(&mut bytes, FRAME_BYTES_MAX), Ok(None));
    }

    #[test]
    fn every_frame_reads_back_as_written() {
        round_trip(&to_node());
        round_trip(&to_client());
    }

    #[test]
    fn golden_bytes_of_an_acknowledgement() {
        let mut bytes = BytesMut::new();
        let ids = vec![DeliveryId {
            shard: ShardId::new(0x102).unwrap(),
            seq: Seq::from_raw(3),
            lease: 4,
        }];
        encode(&ToNode::Ack { tag: 7, ids }, &mut bytes);
        let expected = [
            27, 0, 0, 0, 3, 7, 0, 0, 0, 0, 0, 0, 0, 2, 1, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(bytes[..], expected);
    }

    #[test]
    fn no_cut_frame_is_read_and_none_with_more_behind_it() {
        for frame in to_node() {
            let mut bytes = BytesMut::new();
            frame.put(&mut bytes);
            for end in 0..bytes.len() {
                let cut = bytes.clone().freeze().slice(..end);
                // A list may end earlier and still be one, never the same.
                assert_ne!(ToNode::read(cut), Ok(frame.clone()));
            }
            bytes.put_u8(0);
            assert_ne!(ToNode::read(bytes.freeze()), Ok(frame));
        }
    }

    #[test]
    fn wrong_numbers_are_refused_by_name() {
        let read = |bytes: &[u8]| ToNode::read(Bytes::copy_from_slice(bytes)).unwrap_err();
        assert_eq!(read(&[]), ControlError::Truncated { kind: 0 });
        assert_eq!(read(&[99]), ControlError::Kind(99));
        assert_eq!(read(&[8, 1, 1]), ControlError::Trailing { kind: 8 });
        let nack = [&[4][..], &[0; 8], &[9], &[0; 8]].concat();
        let field = |kind, field| ControlError::Value { kind, field };
        assert_eq!(read(&nack), field(4, "refusal"));
        let ack = [&[3][..], &[0; 8], &1024u16.to_le_bytes(), &[0; 16]].concat();
        assert_eq!(read(&ack), field(3, "shard"));
        let many = [&[3][..], &[0; 8], &vec![0; DELIVERY_ID_BYTES * (ITEMS_MAX + 1)]].concat();
        assert_eq!(read(&many), ControlError::Items { kind: 3 });
        assert_eq!(read(&[1, 1, 0, 0xff, 0, 0]), field(1, "token"));
    }

    #[test]
    fn a_claimed_length_above_the_limit_is_refused_at_once() {
        let mut bytes = BytesMut::from(&[0xff, 0xff, 0xff, 0x7f][..]);
        assert!(matches!(
            decode::<ToNode>(&mut bytes, 1024),
            Err(ControlError::TooLarge { max: 1024, .. })
        ));
    }

    #[test]
    fn a_text_too_long_for_its_length_is_cut_at_a_character() {
        let mut bytes = BytesMut::new();
        put_text(&"ä".repeat(40_000), &mut bytes);
        let mut fields = Fields {
            kind: 1,
            rest: bytes.freeze(),
        };
        let text = fields.text("x").unwrap();
        assert_eq!(text.len(), 65_534);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(kind in 0u8..80, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from([&[kind][..], &bytes].concat());
            if let Ok(frame) = ToNode::read(bytes.clone()) {
                let mut again = BytesMut::new();
                frame.put(&mut again);
                prop_assert_eq!(&again.freeze(), &bytes, "one value, one form");
            }
            let _ = ToClient::read(bytes);
        }
    }
}
