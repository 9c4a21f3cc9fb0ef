//! The log's layout on disk: segment headers, groups of records, records. Pure bytes, no files.
//!
//! ```text
//! segment   0         64     512       576    1024                                        segment_bytes
//!           | header A | …0  | header B | …0  | group | group | group | stale or zero … |
//!
//! header    0          8        12       16            24        32              36             40
//!           | "weftseg\0"| version| key_id | generation  | oldest  | previous_end  | segment_bytes |
//!           40         48         56           64
//!           | chain    | salt     | checksum   |
//!
//! group     0      4             8            16      24             28        32          40
//!           |"wgrp"| payload_len | generation | chain | durable_upto | records | checksum  | payload … | 0–7 zeros |
//!
//! record    0     4       6      7    8
//!           | len | shard | kind | 0  | body (len bytes) …
//!
//! message   0     8      24        32            40           48           56           64         68
//!  (1)      | seq | key  | id_hash | accepted_at | expires_at | not_before | keep_until | attempts |
//!           68     69         70    71   72          74    76              80
//!           | keep | priority | qos | 0  | queue_len | 0   | targets_count | queue … | (len u16, target …)… | frame … |
//! attempt   (2) seq 8 | not_before 8 | attempts 4
//! settle    (3) settle_no 8 | keep_until 8 | keep 1 | receipt 66
//! receipt   (4) settle_no 8 | receipt 66
//! forget    (5) seq 8
//! floor     (6) settle_no 8
//! cursor    (7) upto 8 | source 2
//! ```
//!
//! Integers are little-endian. A file is reused for generation after generation; its two headers are written in turn, so that a
//! torn header leaves the older one whole, and the greater valid generation counts. `salt` is random and seeds the checksums of
//! the generation's groups: neither a stale group nor a message's body that imitates one ever parses. A group is what one
//! write makes durable, all or none; `chain` is the checksum of the group before it (of the header, for the first), so that what
//! was cut off a torn tail never continues what was written over it. `durable_upto` is the offset up to which the segment was
//! known to be on stable storage when the group was built: it tells a torn tail from a damaged middle. `previous_end` and the
//! header's `chain` fix where the generation before ended and with which checksum. `oldest` is the oldest generation that
//! counts. `key_id` 0 means that bodies are not encrypted; no other is known yet.

use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};
use thiserror::Error;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::{
    frame::{
        Address, Priority, Qos, Seq, ShardId,
        record::{Enqueue, IdHash, Keep, MessageKey, Op, Receipt, SettleNo, StoredMessage},
    },
    time::Timestamp,
};

/// The version of the log's format; also that of the directory (`VERSION`).
pub(super) const VERSION: u32 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"weftseg\0";
const GROUP_MAGIC: [u8; 4] = *b"wgrp";

/// Bytes of a segment's header.
pub(super) const HEADER_BYTES: usize = HEADER_CHECKSUM_AT + 8;
/// Where the two headers stand: in different sectors of the smallest size that disks have, so that no write tears both.
pub(super) const HEADERS_AT: [u64; 2] = [0, 512];
/// Where the first group stands.
pub(super) const DATA_AT: u32 = 1024;

const HEADER_VERSION_AT: usize = SEGMENT_MAGIC.len();
const KEY_ID_AT: usize = HEADER_VERSION_AT + 4;
const GENERATION_AT: usize = KEY_ID_AT + 4;
const OLDEST_AT: usize = GENERATION_AT + 8;
const PREVIOUS_END_AT: usize = OLDEST_AT + 8;
const SEGMENT_BYTES_AT: usize = PREVIOUS_END_AT + 4;
const HEADER_CHAIN_AT: usize = SEGMENT_BYTES_AT + 4;
const SALT_AT: usize = HEADER_CHAIN_AT + 8;
const HEADER_CHECKSUM_AT: usize = SALT_AT + 8;

const PAYLOAD_LEN_AT: usize = GROUP_MAGIC.len();
const GROUP_GENERATION_AT: usize = PAYLOAD_LEN_AT + 4;
const CHAIN_AT: usize = GROUP_GENERATION_AT + 8;
const DURABLE_AT: usize = CHAIN_AT + 8;
const RECORDS_AT: usize = DURABLE_AT + 4;
const GROUP_CHECKSUM_AT: usize = RECORDS_AT + 4;
/// Bytes of a group before its records.
pub(super) const GROUP_HEAD_BYTES: usize = GROUP_CHECKSUM_AT + 8;
/// Groups start at multiples of this, which keeps the search behind a damaged spot short.
pub(super) const GROUP_ALIGN: usize = 8;

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

const _: () = assert!(HEADER_BYTES == 64 && GROUP_HEAD_BYTES == 40 && Receipt::ENCODED_BYTES == 74);
const _: () = assert!(HEADERS_AT[1] as usize + HEADER_BYTES <= DATA_AT as usize);

const KIND_MESSAGE: u8 = 1;
const KIND_ATTEMPT: u8 = 2;
const KIND_SETTLE: u8 = 3;
const KIND_RECEIPT: u8 = 4;
const KIND_FORGET: u8 = 5;
const KIND_FLOOR: u8 = 6;
const KIND_CURSOR: u8 = 7;

const KEEP_NOTHING: u8 = 0;
const KEEP_DEAD_LETTER: u8 = 1;
const KEEP_HISTORY: u8 = 2;

/// Why bytes are not what they should be. Damage, a torn write, or a file of another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Fault {
    #[error("the bytes end too early")]
    Truncated,
    #[error("the magic number is missing")]
    Magic,
    #[error("format version {0} is not known; this build knows version {VERSION}")]
    Version(u32),
    #[error("the bodies are encrypted with key {0}, which this build cannot read")]
    Key(u32),
    #[error("a length is impossible")]
    Length,
    #[error("it is of another generation")]
    Generation,
    #[error("it does not continue what stands before it")]
    Chain,
    #[error("the checksum does not match")]
    Checksum,
    #[error("a reserved byte is not zero")]
    Reserved,
    #[error("the kind of a record is not known")]
    Kind,
    #[error("a field of a record has an impossible value")]
    Field,
}

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) generation: u64,
    pub(super) oldest: u64,
    pub(super) previous_end: u32,
    pub(super) segment_bytes: u32,
    /// The last checksum of the generation before; 0 for the first generation.
    pub(super) chain: u64,
    pub(super) salt: u64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut into = &mut bytes[..];
        into.put_slice(&SEGMENT_MAGIC);
        into.put_u32_le(VERSION);
        into.put_u32_le(0);
        into.put_u64_le(self.generation);
        into.put_u64_le(self.oldest);
        into.put_u32_le(self.previous_end);
        into.put_u32_le(self.segment_bytes);
        into.put_u64_le(self.chain);
        into.put_u64_le(self.salt);
        let checksum = xxh3_64(&bytes[..HEADER_CHECKSUM_AT]);
        bytes[HEADER_CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads what [`Header::encode`] wrote.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Fault> {
        let mut from = &bytes[..];
        if from.copy_to_bytes(SEGMENT_MAGIC.len())[..] != SEGMENT_MAGIC {
            return Err(Fault::Magic);
        }
        // The checksum comes first: a torn header must not look like one of a later version.
        if xxh3_64(&bytes[..HEADER_CHECKSUM_AT]) != u64_at(bytes, HEADER_CHECKSUM_AT) {
            return Err(Fault::Checksum);
        }
        match (from.get_u32_le(), from.get_u32_le()) {
            (VERSION, 0) => {}
            (VERSION, key) => return Err(Fault::Key(key)),
            (version, _) => return Err(Fault::Version(version)),
        }
        Ok(Self {
            generation: from.get_u64_le(),
            oldest: from.get_u64_le(),
            previous_end: from.get_u32_le(),
            segment_bytes: from.get_u32_le(),
            chain: from.get_u64_le(),
            salt: from.get_u64_le(),
        })
    }

    /// The chain that the segment's first group continues.
    pub(super) fn first_chain(&self) -> u64 {
        u64_at(&self.encode(), HEADER_CHECKSUM_AT)
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes[at..at + 8].try_into();
    u64::from_le_bytes(field.expect("eight bytes were sliced"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes[at..at + 4].try_into();
    u32::from_le_bytes(field.expect("four bytes were sliced"))
}

/// Where a group stands in the log's history.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupPlace {
    pub(super) generation: u64,
    pub(super) salt: u64,
    pub(super) chain: u64,
    pub(super) durable_upto: u32,
}

/// Bytes that a group of that much payload takes.
pub(super) const fn group_bytes(payload: usize) -> usize {
    (GROUP_HEAD_BYTES + payload).next_multiple_of(GROUP_ALIGN)
}

/// Makes a group of a buffer that starts with [`GROUP_HEAD_BYTES`] of anything, followed by records. Returns its checksum.
pub(super) fn seal_group(buffer: &mut BytesMut, place: &GroupPlace, records: u32) -> u64 {
    let payload_len =
        u32::try_from(buffer.len() - GROUP_HEAD_BYTES).expect("a group fits a segment, which is below 4 GiB");
    let mut head = &mut buffer[..GROUP_CHECKSUM_AT];
    head.put_slice(&GROUP_MAGIC);
    head.put_u32_le(payload_len);
    head.put_u64_le(place.generation);
    head.put_u64_le(place.chain);
    head.put_u32_le(place.durable_upto);
    head.put_u32_le(records);
    buffer[GROUP_CHECKSUM_AT..GROUP_HEAD_BYTES].fill(0);
    let checksum = group_checksum(buffer, place.salt);
    buffer[GROUP_CHECKSUM_AT..GROUP_HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
    buffer.resize(group_bytes(payload_len as usize), 0);
    checksum
}

/// Of head and payload: the payload's hash, seeded with the salt, seeds that of the head, so that neither is copied.
fn group_checksum(group: &[u8], salt: u64) -> u64 {
    let payload = xxh3_64_with_seed(&group[GROUP_HEAD_BYTES..], salt);
    xxh3_64_with_seed(&group[..GROUP_CHECKSUM_AT], payload)
}

/// A group that was read back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group<'a> {
    pub(super) chain: u64,
    pub(super) durable_upto: u32,
    pub(super) records: u32,
    pub(super) checksum: u64,
    pub(super) payload: &'a [u8],
    /// Bytes that it takes, padding included.
    pub(super) bytes: usize,
}

impl<'a> Group<'a> {
    /// Reads the group at the front of `bytes`, whatever it continues.
    pub(super) fn parse(bytes: &'a [u8], generation: u64, salt: u64) -> Result<Self, Fault> {
        if bytes.len() < GROUP_HEAD_BYTES {
            return Err(Fault::Truncated);
        }
        if bytes[..GROUP_MAGIC.len()] != GROUP_MAGIC {
            return Err(Fault::Magic);
        }
        if u64_at(bytes, GROUP_GENERATION_AT) != generation {
            return Err(Fault::Generation);
        }
        let payload_len = u32_at(bytes, PAYLOAD_LEN_AT) as usize;
        let end = GROUP_HEAD_BYTES + payload_len;
        let whole = group_bytes(payload_len);
        if bytes.len() < whole {
            return Err(Fault::Length);
        }
        let checksum = u64_at(bytes, GROUP_CHECKSUM_AT);
        if group_checksum(&bytes[..end], salt) != checksum {
            return Err(Fault::Checksum);
        }
        if bytes[end..whole].iter().any(|byte| *byte != 0) {
            return Err(Fault::Reserved);
        }
        Ok(Self {
            chain: u64_at(bytes, CHAIN_AT),
            durable_upto: u32_at(bytes, DURABLE_AT),
            records: u32_at(bytes, RECORDS_AT),
            checksum,
            payload: &bytes[GROUP_HEAD_BYTES..end],
            bytes: whole,
        })
    }

    /// Its records in order, each with its offset from the start of the group.
    pub(super) fn records(&self) -> Records<'a> {
        Records {
            rest: self.payload,
            at: GROUP_HEAD_BYTES,
        }
    }
}

/// The length that a group's head claims, for a reader that fetches head and payload apart. Not checked in any way.
pub(super) fn claimed_group_bytes(head: &[u8; GROUP_HEAD_BYTES]) -> usize {
    group_bytes(u32_at(head, PAYLOAD_LEN_AT) as usize)
}

/// Iterates over the records of a group.
#[derive(Clone, Debug)]
pub(super) struct Records<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(usize, Record<'a>), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let at = self.at;
        match Record::split(self.rest) {
            Ok((record, rest)) => {
                self.at += self.rest.len() - rest.len();
                self.rest = rest;
                Some(Ok((at, record)))
            }
            Err(fault) => {
                self.rest = &[];
                Some(Err(fault))
            }
        }
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
        let (head, rest) = bytes.split_at_checked(RECORD_HEAD_BYTES).ok_or(Fault::Truncated)?;
        let (body, rest) = rest
            .split_at_checked(u32_at(head, 0) as usize)
            .ok_or(Fault::Truncated)?;
        let shard = ShardId::new(u16::from_le_bytes([head[4], head[5]])).ok_or(Fault::Field)?;
        if head[7] != 0 {
            return Err(Fault::Reserved);
        }
        let change = Change::decode(head[6], body)?;
        let bytes = &bytes[..RECORD_HEAD_BYTES + body.len()];
        Ok((Self { shard, change, bytes }, rest))
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
    /// In the port's words; `address` makes addresses, which it may share between messages.
    pub(super) fn describe(&self, mut address: impl FnMut(&str) -> Address) -> StoredMessage {
        let targets = self.targets.iter().map(|target| address(target)).collect::<Arc<[_]>>();
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
        let reserved = head.get_u8();
        let queue_len = usize::from(head.get_u16_le());
        if reserved != 0 || head.get_u16_le() != 0 {
            return Err(Fault::Reserved);
        }
        let targets_count = head.get_u32_le();
        let queue = split_text(&mut rest, queue_len)?;
        let mut targets = Vec::new();
        for _ in 0..targets_count {
            let (len, after) = rest.split_at_checked(2).ok_or(Fault::Truncated)?;
            rest = after;
            targets.push(split_text(
                &mut rest,
                usize::from(u16::from_le_bytes([len[0], len[1]])),
            )?);
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
            let targets: usize = enqueue.targets.iter().map(|target| 2 + target.as_str().len()).sum();
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

fn encode_head(body: u32, shard: ShardId, kind: u8, into: &mut BytesMut) {
    into.put_u32_le(body);
    into.put_u16_le(shard.get());
    into.put_slice(&[kind, 0]);
}

fn encode_message(enqueue: &Enqueue, into: &mut BytesMut) {
    let frame = &enqueue.frame;
    let text_len = |address: &Address| {
        u16::try_from(address.as_str().len()).expect("the grammar of addresses keeps them below 1 KiB")
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
    into.put_u16_le(text_len(&enqueue.queue));
    into.put_u16_le(0);
    into.put_u32_le(u32::try_from(enqueue.targets.len()).expect("targets of a message that fits a segment"));
    into.put_slice(enqueue.queue.as_str().as_bytes());
    for target in enqueue.targets.iter() {
        into.put_u16_le(text_len(target));
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
