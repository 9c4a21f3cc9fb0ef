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
//!           68     69         70    71   72                76              80
//!           | keep | priority | qos | 0  | queue_len       | targets_count | queue… | (len 2, target…)… | frame… |
//! attempt   (2) seq 8 | not_before 8 | attempts 4
//! settle    (3) settle_no 8 | keep_until 8 | keep 1 | receipt 66
//! receipt   (4) settle_no 8 | receipt 66
//! forget    (5) seq 8
//! floor     (6) settle_no 8
//! cursor    (7) upto 8 | source 2
//! ```
//!
//! A target of 65,535 bytes and more has `len` 65,535 and four bytes of length behind it.
//!
//! Integers are little-endian. A file is reused for generation after generation; its two headers are written in turn,
//! so that a torn header leaves the older one whole, and the greater valid generation counts. `salt` is random and
//! seeds the checksums of the generation's groups: neither a stale group nor a message's body that imitates one ever
//! parses. A group is what one write makes durable, all or none; `chain` is the checksum of the group before it (of
//! the header, for the first), so that what was cut off a torn tail never continues what was written over it.
//! `durable_upto` is the offset up to which the segment was known to be on stable storage when the group was built:
//! it tells a torn tail from a damaged middle. `previous_end` and the header's `chain` fix where the generation
//! before ended and with which checksum. `oldest` is the oldest generation that counts. `key_id` 0 means that bodies
//! are not encrypted; no other is known yet.

use bytes::{Buf, BufMut, BytesMut};
use thiserror::Error;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::record::Records;

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

const _: () = assert!(HEADER_BYTES == 64 && GROUP_HEAD_BYTES == 40);
const _: () = assert!(HEADERS_AT[1] as usize + HEADER_BYTES <= DATA_AT as usize);

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

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
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

/// Makes a group of a buffer that starts with [`GROUP_HEAD_BYTES`] of anything, followed by records. Returns its
/// checksum.
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
        Records::of(self.payload)
    }
}

/// The length that a group's head claims, for a reader that fetches head and payload apart. Not checked in any way.
pub(super) fn claimed_group_bytes(head: &[u8; GROUP_HEAD_BYTES]) -> usize {
    group_bytes(u32_at(head, PAYLOAD_LEN_AT) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            generation: 9,
            oldest: 4,
            previous_end: 0x1234,
            segment_bytes: 0x0400_0000,
            chain: 0x1122_3344_5566_7788,
            salt: 0xaabb_ccdd_eeff_0011,
        }
    }

    const PLACE: GroupPlace = GroupPlace {
        generation: 9,
        salt: 77,
        chain: 0x0102_0304_0506_0708,
        durable_upto: 2048,
    };

    fn group(payload: &[u8]) -> Vec<u8> {
        let mut buffer = BytesMut::zeroed(GROUP_HEAD_BYTES);
        buffer.extend_from_slice(payload);
        seal_group(&mut buffer, &PLACE, 3);
        buffer.to_vec()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_golden_bytes_of_a_header_and_a_group_never_change() {
        let golden = "7765667473656700010000000000000009000000000000000400000000000000\
                      341200000000000488776655443322111100ffeeddccbbaae537067c302e7a68";
        assert_eq!(hex(&header().encode()), golden);
        let golden = "7767727015000000090000000000000008070605040302010008000003000000\
                      4b999ed78eb6e6537061796c6f6164206f662032312062797465732e2e000000";
        assert_eq!(hex(&group(b"payload of 21 bytes..")), golden);
    }

    #[test]
    fn a_header_round_trips_and_each_of_its_fields_is_checked() {
        let good = header().encode();
        assert_eq!(Header::decode(&good), Ok(header()));
        for at in 0..HEADER_BYTES {
            let mut bytes = good;
            bytes[at] ^= 1;
            let fault = if at < SEGMENT_MAGIC.len() {
                Fault::Magic
            } else {
                Fault::Checksum
            };
            assert_eq!(Header::decode(&bytes), Err(fault), "byte {at}");
        }
        let with = |at: usize, value: u32| {
            let mut bytes = good;
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let checksum = xxh3_64(&bytes[..HEADER_CHECKSUM_AT]);
            bytes[HEADER_CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
            Header::decode(&bytes)
        };
        assert_eq!(with(HEADER_VERSION_AT, 2), Err(Fault::Version(2)));
        assert_eq!(with(KEY_ID_AT, 5), Err(Fault::Key(5)));
        assert_eq!(with(PREVIOUS_END_AT, 8).map(|header| header.previous_end), Ok(8));
    }

    #[test]
    fn a_group_round_trips_and_each_of_its_bytes_is_checked() {
        let good = group(b"payload of 21 bytes..");
        let read = Group::parse(&good, 9, 77).unwrap();
        assert_eq!((read.chain, read.durable_upto, read.records), (PLACE.chain, 2048, 3));
        assert_eq!((read.payload, read.bytes), (&b"payload of 21 bytes.."[..], 64));
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x81;
            let fault = match at {
                0..4 => Fault::Magic,
                // The length may also become one that still lies within the bytes.
                4..8 => {
                    let fault = Group::parse(&bytes, 9, 77).unwrap_err();
                    assert!(matches!(fault, Fault::Length | Fault::Checksum), "{fault}");
                    continue;
                }
                8..16 => Fault::Generation,
                16..61 => Fault::Checksum,
                _ => Fault::Reserved,
            };
            assert_eq!(Group::parse(&bytes, 9, 77).unwrap_err(), fault, "byte {at}");
        }
        assert_eq!(Group::parse(&good[..39], 9, 77).unwrap_err(), Fault::Truncated);
        assert_eq!(Group::parse(&good[..63], 9, 77).unwrap_err(), Fault::Length);
    }

    #[test]
    fn a_group_of_another_generation_or_another_salt_never_parses() {
        let good = group(b"x");
        assert_eq!(Group::parse(&good, 8, 77).unwrap_err(), Fault::Generation);
        assert_eq!(Group::parse(&good, 9, 78).unwrap_err(), Fault::Checksum);
    }

    #[test]
    fn zeros_are_neither_a_header_nor_a_group() {
        assert_eq!(Header::decode(&[0; HEADER_BYTES]), Err(Fault::Magic));
        assert_eq!(Group::parse(&[0; 4096], 0, 0).unwrap_err(), Fault::Magic);
    }
}
