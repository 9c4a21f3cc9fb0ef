//! The records of the log: what each operation looks like in bytes. `layout` draws them.
//!
//! A message's record has what a shard's owner needs to know of it in front of the frame, so that recovery need not
//! open frames, and the state that changes while it is held in fixed places, so that cleaning can copy it with its
//! state of now. Start at [`Record`] and [`encode_op`].

use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};

use super::layout::{Fault, GROUP_HEAD_BYTES, u32_at};
use crate::{
    frame::{
        Address, Priority, Qos, Seq, ShardId,
        record::{Enqueue, IdHash, Keep, MessageKey, Op, Receipt, SettleNo, StoredMessage},
    },
    time::Timestamp,
};

/// Bytes of a record before its body.
pub(super) const RECORD_HEAD_BYTES: usize = 8;
const NOT_BEFORE_AT: usize = 48;
const KEEP_UNTIL_AT: usize = NOT_BEFORE_AT + 8;
const ATTEMPTS_AT: usize = KEEP_UNTIL_AT + 8;
const KEEP_AT: usize = ATTEMPTS_AT + 4;
const MESSAGE_HEAD_BYTES: usize = 80;
const ATTEMPT_BYTES: usize = 20;
const SETTLE_BYTES: usize = 17 + Receipt::ENCODED_BYTES;
const RECEIPT_BYTES: usize = 8 + Receipt::ENCODED_BYTES;
const CURSOR_BYTES: usize = 10;
/// Bytes of a whole receipt record: what each settled receipt costs once its message is gone.
pub(super) const RECEIPT_RECORD_BYTES: usize = RECORD_HEAD_BYTES + RECEIPT_BYTES;

const _: () = assert!(Receipt::ENCODED_BYTES == 74);

const KIND_MESSAGE: u8 = 1;
const KIND_ATTEMPT: u8 = 2;
const KIND_SETTLE: u8 = 3;
const KIND_RECEIPT: u8 = 4;
const KIND_FORGET: u8 = 5;
const KIND_FLOOR: u8 = 6;
const KIND_CURSOR: u8 = 7;

/// In place of a target's length: it follows in four bytes.
const LONG_TARGET: u16 = u16::MAX;

const KEEP_NOTHING: u8 = 0;
const KEEP_DEAD_LETTER: u8 = 1;
const KEEP_HISTORY: u8 = 2;

/// Iterates over the records of a group without looking into them: the offset of each from the start of the group, its
/// shard, its bytes.
#[derive(Clone, Debug)]
pub(super) struct RawRecords<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> RawRecords<'a> {
    /// Of a group's payload.
    pub(super) fn of(payload: &'a [u8]) -> Self {
        Self {
            rest: payload,
            at: GROUP_HEAD_BYTES,
        }
    }
}

impl<'a> Iterator for RawRecords<'a> {
    type Item = Result<(usize, ShardId, &'a [u8]), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let at = self.at;
        match Record::cut(self.rest) {
            Ok((shard, record, rest)) => {
                self.at += record.len();
                self.rest = rest;
                Some(Ok((at, shard, record)))
            }
            Err(fault) => {
                self.rest = &[];
                Some(Err(fault))
            }
        }
    }
}

/// Iterates over the records of a group, each with its offset from the start of the group.
#[derive(Clone, Debug)]
pub(super) struct Records<'a>(RawRecords<'a>);

impl<'a> Records<'a> {
    /// Of a group's payload.
    pub(super) fn of(payload: &'a [u8]) -> Self {
        Self(RawRecords::of(payload))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(usize, Record<'a>), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = |(at, _, bytes)| Record::split(bytes).map(|(record, _)| (at, record));
        self.0.next().map(|raw| raw.and_then(read))
    }
}

/// A record that was read back.
#[derive(Clone, Debug)]
pub(super) struct Record<'a> {
    pub(super) shard: ShardId,
    pub(super) change: Change<'a>,
    /// Head and body.
    pub(super) bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// Takes one record off the front.
    pub(super) fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Fault> {
        let (shard, bytes, rest) = Self::cut(bytes)?;
        let (head, body) = bytes.split_at(RECORD_HEAD_BYTES);
        if head[7] != 0 {
            return Err(Fault::Reserved);
        }
        let change = Change::decode(head[6], body)?;
        Ok((Self { shard, change, bytes }, rest))
    }

    /// Shard and bytes of the record at the front, and what follows it.
    fn cut(bytes: &'a [u8]) -> Result<(ShardId, &'a [u8], &'a [u8]), Fault> {
        let head = bytes.get(..RECORD_HEAD_BYTES).ok_or(Fault::Truncated)?;
        let whole = RECORD_HEAD_BYTES.saturating_add(u32_at(head, 0) as usize);
        let (record, rest) = bytes.split_at_checked(whole).ok_or(Fault::Truncated)?;
        let shard = ShardId::new(u16::from_le_bytes([head[4], head[5]])).ok_or(Fault::Field)?;
        Ok((shard, record, rest))
    }
}

/// What may change of a message while it is held. Rides in its record when that is copied forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) attempts: u32,
    pub(super) not_before: Timestamp,
    pub(super) keep: Keep,
}

impl State {
    /// Of a message that was never tried.
    pub(super) const FRESH: Self = Self {
        attempts: 0,
        not_before: Timestamp::NEVER,
        keep: Keep::Nothing,
    };
}

/// One change of a shard, as it stands in the log. [`Op`] and what cleaning writes.
#[derive(Clone, Debug)]
pub(super) enum Change<'a> {
    Message(Message<'a>),
    Attempt {
        seq: Seq,
        attempts: u32,
        not_before: Timestamp,
    },
    Settle {
        settle_no: SettleNo,
        receipt: Receipt,
        keep: Keep,
    },
    Receipt {
        settle_no: SettleNo,
        receipt: Receipt,
    },
    Forget {
        seq: Seq,
    },
    Floor {
        settle_no: SettleNo,
    },
    Cursor {
        source: ShardId,
        upto: Seq,
    },
}

/// A message's record.
#[derive(Clone, Debug)]
pub(super) struct Message<'a> {
    pub(super) seq: Seq,
    pub(super) state: State,
    key: MessageKey,
    id_hash: IdHash,
    accepted_at: Timestamp,
    expires_at: Timestamp,
    priority: Priority,
    qos: Qos,
    queue: &'a str,
    targets: Vec<&'a str>,
    pub(super) frame: &'a [u8],
}

impl Message<'_> {
    /// In the port's words; `address` makes addresses, which it may share between messages, as they may share
    /// `no_targets`.
    pub(super) fn describe(
        &self,
        mut address: impl FnMut(&str) -> Address,
        no_targets: Arc<[Address]>,
    ) -> StoredMessage {
        let targets = match &self.targets[..] {
            [] => no_targets,
            targets => targets.iter().map(|target| address(target)).collect(),
        };
        StoredMessage {
            seq: self.seq,
            queue: address(self.queue),
            key: self.key,
            id_hash: self.id_hash,
            priority: self.priority,
            qos: self.qos,
            accepted_at: self.accepted_at,
            expires_at: self.expires_at,
            bytes: u32::try_from(self.frame.len()).expect("a record is shorter than 4 GiB"),
            attempts: self.state.attempts,
            not_before: self.state.not_before,
            keep: self.state.keep,
            targets,
        }
    }

    fn decode(body: &[u8]) -> Result<Message<'_>, Fault> {
        let (mut head, mut rest) = body.split_at_checked(MESSAGE_HEAD_BYTES).ok_or(Fault::Truncated)?;
        let (seq, key) = (
            Seq::from_raw(head.get_u64_le()),
            MessageKey::from_raw(head.get_u128_le()),
        );
        let id_hash = IdHash::from_raw(head.get_u64_le());
        let (accepted_at, expires_at) = (get_time(&mut head), get_time(&mut head));
        let (not_before, keep_until) = (get_time(&mut head), get_time(&mut head));
        let attempts = head.get_u32_le();
        let keep = decode_keep(head.get_u8(), keep_until)?;
        let priority = Priority::from_u8(head.get_u8()).ok_or(Fault::Field)?;
        let qos = Qos::from_u8(head.get_u8()).ok_or(Fault::Field)?;
        if head.get_u8() != 0 {
            return Err(Fault::Reserved);
        }
        let queue_len = head.get_u32_le() as usize;
        let targets_count = head.get_u32_le();
        let queue = split_text(&mut rest, queue_len)?;
        let mut targets = Vec::new();
        for _ in 0..targets_count {
            let len = split_len(&mut rest)?;
            targets.push(split_text(&mut rest, len)?);
        }
        Ok(Message {
            seq,
            state: State {
                attempts,
                not_before,
                keep,
            },
            key,
            id_hash,
            accepted_at,
            expires_at,
            priority,
            qos,
            queue,
            targets,
            frame: rest,
        })
    }
}

/// The length of a target: two bytes, or, where it does not fit in them, these marked as full and four more.
fn split_len(rest: &mut &[u8]) -> Result<usize, Fault> {
    match rest.try_get_u16_le() {
        Ok(LONG_TARGET) => rest
            .try_get_u32_le()
            .map(|len| len as usize)
            .map_err(|_| Fault::Truncated),
        Ok(len) => Ok(len.into()),
        Err(_) => Err(Fault::Truncated),
    }
}

fn split_text<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a str, Fault> {
    let (text, after) = rest.split_at_checked(len).ok_or(Fault::Truncated)?;
    *rest = after;
    std::str::from_utf8(text).map_err(|_| Fault::Field)
}

fn get_time(from: &mut &[u8]) -> Timestamp {
    Timestamp::from_millis(from.get_u64_le())
}

impl<'a> Change<'a> {
    fn decode(kind: u8, mut body: &'a [u8]) -> Result<Self, Fault> {
        let exact = |bytes: usize| {
            if body.len() == bytes {
                Ok(())
            } else {
                Err(Fault::Length)
            }
        };
        match kind {
            KIND_MESSAGE => return Ok(Self::Message(Message::decode(body)?)),
            KIND_ATTEMPT => exact(ATTEMPT_BYTES)?,
            KIND_SETTLE => exact(SETTLE_BYTES)?,
            KIND_RECEIPT => exact(RECEIPT_BYTES)?,
            KIND_FORGET | KIND_FLOOR => exact(8)?,
            KIND_CURSOR => exact(CURSOR_BYTES)?,
            _ => return Err(Fault::Kind),
        }
        let first = body.get_u64_le();
        let (seq, settle_no) = (Seq::from_raw(first), SettleNo::from_raw(first));
        Ok(match kind {
            KIND_ATTEMPT => Self::Attempt {
                seq,
                not_before: get_time(&mut body),
                attempts: body.get_u32_le(),
            },
            KIND_SETTLE => {
                let until = get_time(&mut body);
                let keep = decode_keep(body.get_u8(), until)?;
                let receipt = Receipt::decode(&mut body).ok_or(Fault::Field)?;
                Self::Settle {
                    settle_no,
                    receipt,
                    keep,
                }
            }
            KIND_RECEIPT => Self::Receipt {
                settle_no,
                receipt: Receipt::decode(&mut body).ok_or(Fault::Field)?,
            },
            KIND_FORGET => Self::Forget { seq },
            KIND_FLOOR => Self::Floor { settle_no },
            _ => Self::Cursor {
                source: ShardId::new(body.get_u16_le()).ok_or(Fault::Field)?,
                upto: seq,
            },
        })
    }
}

fn encode_keep(keep: Keep) -> (u8, Timestamp) {
    match keep {
        Keep::Nothing => (KEEP_NOTHING, Timestamp::NEVER),
        Keep::DeadLetter(until) => (KEEP_DEAD_LETTER, until),
        Keep::History(until) => (KEEP_HISTORY, until),
    }
}

fn decode_keep(number: u8, until: Timestamp) -> Result<Keep, Fault> {
    match number {
        KEEP_NOTHING => Ok(Keep::Nothing),
        KEEP_DEAD_LETTER => Ok(Keep::DeadLetter(until)),
        KEEP_HISTORY => Ok(Keep::History(until)),
        _ => Err(Fault::Field),
    }
}

/// Bytes of an operation's record, head included.
pub(super) fn record_bytes(op: &Op) -> usize {
    let body = match op {
        Op::Enqueue(enqueue) => {
            let targets: usize = enqueue.targets.iter().map(target_bytes).sum();
            MESSAGE_HEAD_BYTES + enqueue.queue.as_str().len() + targets + enqueue.frame.encoded_len()
        }
        Op::Attempt { .. } => ATTEMPT_BYTES,
        Op::Settle { .. } => SETTLE_BYTES,
        Op::Forget { .. } | Op::ReceiptFloor { .. } => 8,
        Op::Cursor { .. } => CURSOR_BYTES,
    };
    RECORD_HEAD_BYTES + body
}

/// Appends an operation's record: exactly [`record_bytes`].
pub(super) fn encode_op(op: &Op, shard: ShardId, into: &mut BytesMut) {
    let body =
        u32::try_from(record_bytes(op) - RECORD_HEAD_BYTES).expect("a record fits a segment, which is below 4 GiB");
    match op {
        Op::Enqueue(enqueue) => {
            encode_head(body, shard, KIND_MESSAGE, into);
            encode_message(enqueue, into);
        }
        Op::Attempt {
            seq,
            attempts,
            not_before,
        } => {
            encode_head(body, shard, KIND_ATTEMPT, into);
            into.put_u64_le(seq.raw());
            into.put_u64_le(not_before.as_millis());
            into.put_u32_le(*attempts);
        }
        Op::Settle {
            settle_no,
            receipt,
            keep,
        } => {
            let (keep, until) = encode_keep(*keep);
            encode_head(body, shard, KIND_SETTLE, into);
            into.put_u64_le(settle_no.raw());
            into.put_u64_le(until.as_millis());
            into.put_u8(keep);
            receipt.encode(into);
        }
        Op::Forget { seq } => {
            encode_head(body, shard, KIND_FORGET, into);
            into.put_u64_le(seq.raw());
        }
        Op::ReceiptFloor { settle_no } => {
            encode_head(body, shard, KIND_FLOOR, into);
            into.put_u64_le(settle_no.raw());
        }
        Op::Cursor { source, upto } => {
            encode_head(body, shard, KIND_CURSOR, into);
            into.put_u64_le(upto.raw());
            into.put_u16_le(source.get());
        }
    }
}

fn target_bytes(target: &Address) -> usize {
    let len = target.as_str().len();
    len + if is_long(len) { 6 } else { 2 }
}

const fn is_long(len: usize) -> bool {
    len >= LONG_TARGET as usize
}

fn encode_head(body: u32, shard: ShardId, kind: u8, into: &mut BytesMut) {
    into.put_u32_le(body);
    into.put_u16_le(shard.get());
    into.put_slice(&[kind, 0]);
}

fn encode_message(enqueue: &Enqueue, into: &mut BytesMut) {
    let frame = &enqueue.frame;
    let text_len = |address: &Address| {
        u32::try_from(address.as_str().len()).expect("the grammar of addresses keeps them below 1 MiB")
    };
    into.put_u64_le(enqueue.seq.raw());
    into.put_u128_le(enqueue.key.raw());
    into.put_u64_le(enqueue.id_hash.raw());
    into.put_u64_le(frame.stamp.accepted_at.as_millis());
    into.put_u64_le(frame.stamp.expires_at.as_millis());
    into.put_u64_le(Timestamp::NEVER.as_millis());
    into.put_u64_le(Timestamp::NEVER.as_millis());
    into.put_u32_le(frame.stamp.attempt);
    into.put_u8(KEEP_NOTHING);
    into.put_u8(frame.envelope.priority() as u8);
    into.put_u8(frame.envelope.qos() as u8);
    into.put_u8(0);
    into.put_u32_le(text_len(&enqueue.queue));
    into.put_u32_le(u32::try_from(enqueue.targets.len()).expect("targets of a message that fits a segment"));
    into.put_slice(enqueue.queue.as_str().as_bytes());
    for target in enqueue.targets.iter() {
        match u16::try_from(text_len(target)) {
            Ok(len) if len != LONG_TARGET => into.put_u16_le(len),
            _ => {
                into.put_u16_le(LONG_TARGET);
                into.put_u32_le(text_len(target));
            }
        }
        into.put_slice(target.as_str().as_bytes());
    }
    frame.encode(into);
}

/// Appends a message's record as it was, with its state of now.
pub(super) fn encode_moved(record: &[u8], state: &State, into: &mut BytesMut) {
    let start = into.len();
    into.put_slice(record);
    let body = &mut into[start + RECORD_HEAD_BYTES..];
    let (keep, until) = encode_keep(state.keep);
    body[NOT_BEFORE_AT..KEEP_UNTIL_AT].copy_from_slice(&state.not_before.as_millis().to_le_bytes());
    body[KEEP_UNTIL_AT..ATTEMPTS_AT].copy_from_slice(&until.as_millis().to_le_bytes());
    body[ATTEMPTS_AT..KEEP_AT].copy_from_slice(&state.attempts.to_le_bytes());
    body[KEEP_AT] = keep;
}

/// Appends a receipt's record, for a receipt whose settle record is to go.
pub(super) fn encode_receipt(shard: ShardId, settle_no: SettleNo, receipt: &Receipt, into: &mut BytesMut) {
    encode_head(RECEIPT_BYTES as u32, shard, KIND_RECEIPT, into);
    into.put_u64_le(settle_no.raw());
    receipt.encode(into);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::limits::ADDRESS_BYTES_MAX;
    use crate::store::contract::{act, enqueue, millis, settle, settle_no, shard};

    fn encoded(op: &Op) -> BytesMut {
        let mut bytes = BytesMut::new();
        encode_op(op, shard(5), &mut bytes);
        bytes
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn fault(bytes: &[u8]) -> Option<Fault> {
        Record::split(bytes).err()
    }

    #[test]
    fn the_golden_bytes_of_every_kind_never_change() {
        let attempt = Op::Attempt {
            seq: Seq::from_raw(1),
            attempts: 2,
            not_before: millis(3),
        };
        let floor = Op::ReceiptFloor {
            settle_no: settle_no(6),
        };
        let cursor = Op::Cursor {
            source: shard(7),
            upto: Seq::from_raw(8),
        };
        let forget = Op::Forget { seq: Seq::from_raw(9) };
        let dead = settle(4, 5, Keep::DeadLetter(millis(6)));
        let ops = [enqueue(2, 5), attempt, dead, forget, floor, cursor];
        let mut lines: Vec<String> = ops.iter().map(|op| hex(&encoded(op))).collect();
        let mut receipt = BytesMut::new();
        encode_receipt(
            shard(5),
            settle_no(4),
            &crate::store::contract::receipt(5),
            &mut receipt,
        );
        lines.push(hex(&receipt));
        let golden: Vec<&str> = include_str!("golden_records_v1.hex").lines().collect();
        assert_eq!(lines, golden);
    }

    #[test]
    fn each_field_of_a_message_record_is_checked() {
        let good = encoded(&enqueue(2, 5));
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            fault(&bytes)
        };
        assert_eq!(fault(&good), None);
        assert_eq!(with(3, 1), Some(Fault::Truncated), "length");
        assert_eq!(with(5, 4), Some(Fault::Field), "shard 1024 and above");
        assert_eq!(with(6, 99), Some(Fault::Kind));
        assert_eq!(with(7, 1), Some(Fault::Reserved));
        let body = RECORD_HEAD_BYTES;
        assert_eq!(with(body + KEEP_AT, 3), Some(Fault::Field));
        assert_eq!(with(body + KEEP_AT + 1, 4), Some(Fault::Field), "priority");
        assert_eq!(with(body + KEEP_AT + 2, 3), Some(Fault::Field), "quality of service");
        assert_eq!(with(body + KEEP_AT + 3, 1), Some(Fault::Reserved));
        assert_eq!(with(body + 73, 0xff), Some(Fault::Truncated), "queue length");
        assert_eq!(with(body + 74, 1), Some(Fault::Truncated), "queue length");
        assert_eq!(with(body + 79, 1), Some(Fault::Truncated), "count of targets");
        assert_eq!(with(body + MESSAGE_HEAD_BYTES, 0xff), Some(Fault::Field), "text");
        assert_eq!(fault(&good[..4]), Some(Fault::Truncated));
    }

    #[test]
    fn the_longest_addresses_come_back() {
        let name = |bytes: usize| Address::from_trusted(&format!("topic:{}", "x".repeat(bytes - "topic:".len())));
        let Op::Enqueue(mut enqueue) = enqueue(2, 5) else {
            unreachable!("it was made as one")
        };
        enqueue.queue = name(ADDRESS_BYTES_MAX);
        let targets = [20, 65_534, 65_535, 65_536, ADDRESS_BYTES_MAX];
        enqueue.targets = targets.into_iter().map(name).collect();
        let op = Op::Enqueue(enqueue.clone());
        let bytes = encoded(&op);
        assert_eq!(bytes.len(), record_bytes(&op));
        let Change::Message(message) = Record::split(&bytes).unwrap().0.change else {
            panic!("another change")
        };
        let read = message.describe(Address::from_trusted, Arc::default());
        assert_eq!((read.queue, read.targets), (enqueue.queue, enqueue.targets));
        assert_eq!(read.bytes as usize, enqueue.frame.encoded_len());
    }

    #[test]
    fn records_of_a_fixed_size_are_refused_at_any_other() {
        let forget = Op::Forget { seq: Seq::from_raw(9) };
        for op in [forget, settle(4, 5, Keep::Nothing)] {
            let mut bytes = encoded(&op);
            bytes[0] += 1;
            bytes.put_u8(0);
            assert_eq!(fault(&bytes), Some(Fault::Length), "{op:?}");
        }
        let mut settled = encoded(&settle(4, 5, Keep::Nothing));
        settled[RECORD_HEAD_BYTES + 16] = 9;
        assert_eq!(fault(&settled), Some(Fault::Field), "keep");
        let mut cursor = encoded(&Op::Cursor {
            source: shard(7),
            upto: Seq::from_raw(8),
        });
        cursor[RECORD_HEAD_BYTES + 9] = 4;
        assert_eq!(fault(&cursor), Some(Fault::Field), "source");
    }

    #[test]
    fn a_moved_message_differs_in_its_state_alone() {
        let original = encoded(&enqueue(2, 5));
        let state = State {
            attempts: 3,
            not_before: millis(9),
            keep: Keep::History(millis(11)),
        };
        let mut moved = BytesMut::new();
        encode_moved(&original, &state, &mut moved);
        let describe = |bytes: &[u8]| match Record::split(bytes).unwrap().0.change {
            Change::Message(message) => (message.state, message.describe(Address::from_trusted, Arc::default())),
            other => panic!("{other:?}"),
        };
        let ((_, before), (state_after, after)) = (describe(&original), describe(&moved));
        assert_eq!(state_after, state);
        let expected = StoredMessage {
            attempts: 3,
            not_before: millis(9),
            keep: Keep::History(millis(11)),
            ..before
        };
        assert_eq!(after, expected);
    }

    proptest! {
        #[test]
        fn a_record_has_the_size_that_was_announced(acts in proptest::collection::vec(act(300), 1..20)) {
            let mut driver = crate::store::contract::Driver::default();
            for act in &acts {
                let op = driver.op(act);
                let bytes = encoded(&op);
                prop_assert_eq!(bytes.len(), record_bytes(&op));
                let (record, rest) = Record::split(&bytes).unwrap();
                prop_assert_eq!((record.bytes.len(), rest.len()), (bytes.len(), 0));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 1u8..8) {
            let mut bytes = bytes;
            if bytes.len() >= RECORD_HEAD_BYTES {
                let len = (bytes.len() - RECORD_HEAD_BYTES) as u32;
                bytes[..4].copy_from_slice(&len.to_le_bytes());
                bytes[4..8].copy_from_slice(&[1, 0, kind, 0]);
            }
            let _ = Record::split(&bytes);
        }
    }
}
