//! Frames that travel together, on links and to native clients: packed into runs, compressed as one where that pays.
//!
//! ```text
//!  0        4        5      6        8            12            16             20     28            36
//!  | "wftb" | version| flags| zero   | frames     | inflated    | payload      | tag  | xxh3-64 of  | payload …
//!  |        |        |      |        | (count)    | (bytes)     | (bytes)      |      | 0–27        |
//! ```
//!
//! The tag is the sender's number for the first frame; the others' follow by one. Flag 1: the payload is one zstd frame. The inflated size is checked before and while inflating. The payload is runs, one
//! behind the other. A run is frames whose envelopes differ in nothing but the id, and whose stamps do not differ:
//!
//! ```text
//!  0      1      2        4          8            12            20           28
//!  | flags| hops | shard  | frames   | envelope   | accepted_at | expires_at | attempt | [trace] [queue] envelope … entries …
//!  |      |      |        | (count)  | (bytes)    | (ms)        | (ms)       | (u32)   |
//! ```
//!
//! Run flags 1 and 2 are a frame's own (redelivered, retain). Flag 4: 25 bytes of trace context (id 16, span 8, flags 1).
//! Flag 8: the queue's address, two bytes of length before it; 65,535 says that four more bytes have the length. Flag 16: entries carry marks; `shard` is theirs, else zero.
//! An entry is `shared (1) | rest (1) | rest of the id | body's length (varint) | [seq, lease] | body`: its id is the first
//! `shared` bytes of the id before it (of the envelope's own, for the first) and the rest, together as long as the envelope's.
//! Seq and lease are zigzag varints, as differences to those before them. No frame has a checksum of its own: what carries
//! batches is encrypted, and so authenticated. Start at [`Packer`] and [`decode`].

mod packer;
mod unpack;

use bytes::{Buf, BufMut};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

pub use packer::Packer;
pub use unpack::{decode, length};

use super::{
    envelope::EnvelopeError,
    id::{Seq, ShardId},
    limits::{BATCH_BYTES_MAX, BATCH_FRAMES_MAX, BODY_BYTES_MAX},
    run::Run,
    wire::{Flags, Frame},
};

const MAGIC: [u8; 4] = *b"wftb";
const VERSION: u8 = 2;
const FLAG_ZSTD: u8 = 1;
const VERSION_AT: usize = 4;
const FLAGS_AT: usize = VERSION_AT + 1;
const RESERVED_AT: usize = FLAGS_AT + 1;
const COUNT_AT: usize = RESERVED_AT + 2;
const TAG_AT: usize = COUNT_AT + 12;
const CHECKSUM_AT: usize = TAG_AT + 8;
/// Bytes before the payload.
pub const BATCH_HEADER_BYTES: usize = CHECKSUM_AT + 8;
/// Bytes of a run before what its flags add.
const RUN_HEADER_BYTES: usize = 32;
const RUN_COUNT_AT: usize = 4;
const RUN_FLAG_TRACE: u8 = 4;
const RUN_FLAG_QUEUE: u8 = 8;
const RUN_FLAG_MARKS: u8 = 16;
const RUN_FLAGS_KNOWN: u8 = Flags::KNOWN | RUN_FLAG_TRACE | RUN_FLAG_QUEUE | RUN_FLAG_MARKS;
const TRACE_BYTES: usize = 25;
/// A body from this size on is not copied into the batch's buffer but written from where it is. Below, a copy costs less than
/// the transport's bookkeeping for a buffer more.
const BODY_APART_BYTES: usize = 16 * 1024;
/// In place of a queue's length: it follows in four bytes.
const LONG_QUEUE: u16 = u16::MAX;
/// zstd's fastest named level: 0.69 GB/s on JSON, 4.4x smaller.
const ZSTD_LEVEL: i32 = 1;

/// Whether a batch is worth zstd's time; the link measures and decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    #[default]
    None,
    Zstd,
}

/// Why bytes are not a batch. The peer's fault, or damage on the way; never worth a retry with the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    #[error("the bytes end inside a batch: {have} of {need}")]
    Truncated { have: usize, need: usize },
    #[error("the bytes do not start with a batch's magic number")]
    Magic,
    #[error("batch version {0} is not known; this build knows version {VERSION}")]
    Version(u8),
    #[error("a batch flag is not known or a reserved byte is not zero")]
    Flags,
    #[error("the batch header's checksum does not match")]
    Checksum,
    #[error("the batch claims {frames} frames; at most {BATCH_FRAMES_MAX} are allowed")]
    TooManyFrames { frames: usize },
    #[error("the batch claims {bytes} bytes, or would take so many in memory; at most {max} are allowed")]
    TooLarge { bytes: usize, max: usize },
    #[error("the payload does not inflate to the size that the header claims")]
    Inflate,
    #[error("run {index} ends before its frames do")]
    RunTruncated { index: usize },
    #[error("run {index} has a flag that is not known, or no frames")]
    RunFlags { index: usize },
    #[error("run {index}: {error}")]
    Envelope { index: usize, error: EnvelopeError },
    #[error("an id in run {index} is not a message id, or not as long as its envelope's")]
    Id { index: usize },
    #[error("a body in run {index} has {bytes} bytes; at most {BODY_BYTES_MAX} are allowed")]
    BodyTooLarge { index: usize, bytes: usize },
    #[error("the shard or the queue of run {index} is not one")]
    Place { index: usize },
    #[error("the runs have {have} frames, where the header says {said}")]
    Count { have: usize, said: usize },
}

/// By what a delivery is settled. It travels beside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub shard: ShardId,
    pub seq: Seq,
    pub lease: u64,
}

/// A frame of a batch, with what travels beside it.
#[derive(Clone, Debug)]
pub struct Item<'a> {
    /// The sender's own number for it.
    pub tag: u64,
    pub frame: Frame,
    pub mark: Option<Mark>,
    /// The queue that it came from; empty where the batch does not say.
    pub queue: &'a str,
}

/// What a batch has, in order.
#[derive(Clone, Debug)]
pub enum Part<'a> {
    /// QoS 0 and without marks, whole: nobody asks for its frames' tags.
    Run {
        run: Run,
        /// As an item's.
        queue: &'a str,
    },
    Frame(Item<'a>),
}

fn header(flags: u8, sizes: [usize; 3], tag: u64) -> [u8; BATCH_HEADER_BYTES] {
    let mut bytes = [0; BATCH_HEADER_BYTES];
    let mut into = &mut bytes[..];
    into.put_slice(&MAGIC);
    into.put_slice(&[VERSION, flags, 0, 0]);
    for size in sizes {
        into.put_u32_le(u32::try_from(size).expect("the caller finishes a batch far below 4 GiB"));
    }
    into.put_u64_le(tag);
    let checksum = xxh3_64(&bytes[..CHECKSUM_AT]);
    bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn check_size(frames: usize, bytes: usize) -> Result<(), BatchError> {
    match () {
        () if frames > BATCH_FRAMES_MAX => Err(BatchError::TooManyFrames { frames }),
        () if bytes > BATCH_BYTES_MAX => Err(BatchError::TooLarge {
            bytes,
            max: BATCH_BYTES_MAX,
        }),
        () => Ok(()),
    }
}

/// What a header says.
struct Header {
    flags: u8,
    /// Frames, bytes inflated, bytes of the payload.
    sizes: [usize; 3],
    tag: u64,
}

fn check_header(header: &[u8]) -> Result<Header, BatchError> {
    if header[..4] != MAGIC {
        return Err(BatchError::Magic);
    }
    if header[VERSION_AT] != VERSION {
        return Err(BatchError::Version(header[VERSION_AT]));
    }
    let flags = header[FLAGS_AT];
    if flags & !FLAG_ZSTD != 0 || header[RESERVED_AT..COUNT_AT] != [0, 0] {
        return Err(BatchError::Flags);
    }
    let mut rest = &header[COUNT_AT..];
    let sizes = [0; 3].map(|_: u8| rest.get_u32_le() as usize);
    let tag = rest.get_u64_le();
    if rest.get_u64_le() != xxh3_64(&header[..CHECKSUM_AT]) {
        return Err(BatchError::Checksum);
    }
    check_size(sizes[0], sizes[1].max(sizes[2]))?;
    Ok(Header { flags, sizes, tag })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use bytes::Bytes;

    use super::*;
    use crate::frame::{
        Draft,
        limits::{ADDRESS_BYTES_MAX, ENVELOPE_BYTES_MAX, FIELD_BYTES_MAX, HEADERS_BYTES_MAX, TOPIC_BYTES_MAX},
        wire::tests::frame,
    };

    fn pack(frames: &[(Frame, Option<Mark>, String)], compression: Compression) -> Bytes {
        let mut packer = Packer::with_capacity(0);
        for (frame, mark, queue) in frames {
            packer.push(frame, *mark, queue);
        }
        let mut parts = Vec::new();
        packer.finish(7, compression, &mut parts);
        Bytes::from(parts.concat())
    }

    fn plain(bodies: &[&[u8]]) -> Bytes {
        let frames: Vec<_> = bodies.iter().map(|body| (frame(body), None, String::new())).collect();
        pack(&frames, Compression::None)
    }

    fn named(id: &str, to: &str, body: &[u8]) -> Frame {
        let draft = Draft::new(id.parse().unwrap(), "alice".parse().unwrap(), to.parse().unwrap());
        Frame::new(draft.archive().unwrap(), Bytes::copy_from_slice(body)).unwrap()
    }

    fn decoded(bytes: &Bytes) -> Result<Vec<(Frame, Option<Mark>, String)>, BatchError> {
        let (mut bytes, mut items) = (bytes.clone(), Vec::new());
        let count = decode(&mut bytes, |part| match part {
            Part::Frame(item) => {
                assert_eq!(item.tag, 7 + items.len() as u64);
                items.push((item.frame, item.mark, item.queue.to_owned()));
            }
            Part::Run { run, queue } => items.extend(run.iter().map(|frame| (frame, None, queue.to_owned()))),
        })?;
        assert_eq!(count, items.len());
        assert!(bytes.is_empty());
        Ok(items)
    }

    #[test]
    fn twins_share_one_envelope_on_the_wire_and_cost_their_body_and_a_few_bytes_more() {
        let frames: Vec<_> = (0..100)
            .map(|n| {
                (
                    named(&format!("message-{n:08}"), "agent:bob", &[7; 256]),
                    None,
                    String::new(),
                )
            })
            .collect();
        let bytes = pack(&frames, Compression::None);
        let per_message =
            (bytes.len() - BATCH_HEADER_BYTES - RUN_HEADER_BYTES - frames[0].0.envelope.as_bytes().len()) / 100;
        assert!(per_message <= 256 + 6, "{per_message} bytes each");
        let read = decoded(&bytes).unwrap();
        assert_eq!(read.len(), 100);
        for ((read, ..), (written, ..)) in read.iter().zip(&frames) {
            assert_eq!(read.envelope.as_bytes(), written.envelope.as_bytes());
        }
    }

    #[test]
    fn a_body_is_a_slice_of_the_batch_and_a_large_one_is_not_copied_when_written() {
        let large = named("m", "agent:bob", &[1; BODY_APART_BYTES]);
        let mut packer = Packer::with_capacity(0);
        packer.push(&named("a", "agent:bob", b"small"), None, "");
        packer.push(&large, None, "");
        packer.push(&named("b", "agent:bob", b"small"), None, "");
        let mut parts = Vec::new();
        packer.finish(7, Compression::None, &mut parts);
        assert!(parts.iter().any(|part| part.as_ptr() == large.body.as_ptr()));
        let bytes = Bytes::from(parts.concat());
        let read = decoded(&bytes).unwrap();
        assert_eq!(read.len(), 3);
        for (frame, ..) in read {
            assert!(
                bytes.as_ptr_range().contains(&frame.body.as_ptr()),
                "the body was copied"
            );
        }
    }

    #[test]
    fn golden_bytes_of_a_batch() {
        let frame = named("m1", "agent:bob", b"hi");
        let envelope = frame.envelope.as_bytes().clone();
        let mark = Mark {
            shard: ShardId::new(3).unwrap(),
            seq: Seq::from_raw(5),
            lease: 300,
        };
        let bytes = pack(&[(frame, Some(mark), "agent:bob#q".into())], Compression::None);
        let run = &bytes[BATCH_HEADER_BYTES..];
        assert_eq!(&bytes[..8], b"wftb\x02\0\0\0");
        assert_eq!(bytes[20..28], [7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(run[..8], [24, 0, 3, 0, 1, 0, 0, 0]);
        assert_eq!(run[8..12], u32::try_from(envelope.len()).unwrap().to_le_bytes());
        assert_eq!(run[12..32], [0; 20]);
        assert_eq!(&run[32..45], b"\x0b\0agent:bob#q");
        let entry = &run[45 + envelope.len()..];
        // shared 2, rest 0, body 2, seq +5 -> 10, lease +300 -> 600 = 0x58 | 0x80, 0x04.
        assert_eq!(entry, [2, 0, 2, 10, 0xd8, 0x04, b'h', b'i']);
    }

    #[test]
    fn a_bomb_is_stopped_at_the_size_it_claims() {
        let bomb = zstd::bulk::compress(&vec![0; 4 << 20], ZSTD_LEVEL).unwrap();
        let mut bytes = header(FLAG_ZSTD, [1, 1000, bomb.len()], 0).to_vec();
        bytes.extend(bomb);
        assert_eq!(decoded(&Bytes::from(bytes)).unwrap_err(), BatchError::Inflate);
    }

    #[test]
    fn many_frames_of_one_large_envelope_are_refused_before_they_take_the_memory() {
        let mut draft = Draft::new("m".parse().unwrap(), "a".parse().unwrap(), "agent:b".parse().unwrap());
        draft.headers = vec![("k".into(), "v".repeat(16_000))];
        let frame = Frame::new(draft.archive().unwrap(), Bytes::new()).unwrap();
        let mut packer = Packer::with_capacity(0);
        (0..5000).for_each(|_| packer.push(&frame, None, ""));
        let mut parts = Vec::new();
        packer.finish(7, Compression::None, &mut parts);
        assert!(matches!(
            decoded(&Bytes::from(parts.concat())),
            Err(BatchError::TooLarge { .. })
        ));
    }

    #[test]
    fn claims_above_the_limits_are_refused_before_anything_is_read() {
        let claim = |sizes| decoded(&Bytes::from(header(0, sizes, 0).to_vec())).unwrap_err();
        let frames = BATCH_FRAMES_MAX + 1;
        assert_eq!(claim([frames, 1, 1]), BatchError::TooManyFrames { frames });
        assert!(matches!(
            claim([1, BATCH_BYTES_MAX + 1, 1]),
            BatchError::TooLarge { .. }
        ));
        assert!(matches!(
            claim([1, 1, BATCH_BYTES_MAX * 2]),
            BatchError::TooLarge { .. }
        ));
        assert!(matches!(claim([1, 100, 100]), BatchError::Truncated { .. }));
        let claimed = header(FLAG_ZSTD, [1, 5000, 10], 0);
        assert!(matches!(
            length(&claimed, 4096),
            Err(BatchError::TooLarge { max: 4096, .. })
        ));
        assert_eq!(length(&claimed, 8192), Ok(Some(BATCH_HEADER_BYTES + 10)));
        assert_eq!(length(&claimed[..35], 8192), Ok(None));
    }

    #[test]
    fn the_longest_topic_and_the_longest_queue_fit() {
        let topic = "x".repeat(TOPIC_BYTES_MAX);
        let mut draft = Draft::new("m".parse().unwrap(), "a".parse().unwrap(), "agent:b".parse().unwrap());
        draft.to = format!("topic:{topic}").parse().unwrap();
        draft.reply_to = Some(draft.to.clone());
        draft.headers = vec![("k".into(), "v".repeat(HEADERS_BYTES_MAX - 1))];
        draft.correlation = vec![1; FIELD_BYTES_MAX];
        let frame = Frame::new(draft.archive().unwrap(), Bytes::from_static(b"body")).unwrap();
        for queue in [0, 1, 6, 7].map(|less| draft.to.as_str()[..ADDRESS_BYTES_MAX - less].to_owned()) {
            let bytes = pack(&[(frame.clone(), None, queue.clone())], Compression::None);
            let read = decoded(&bytes).unwrap();
            assert_eq!(read[0].0.envelope.as_bytes(), frame.envelope.as_bytes());
            assert_eq!(read[0].2, queue);
        }
        let longer = format!("{}x", draft.to.as_str());
        let bytes = pack(&[(frame, None, longer)], Compression::None);
        assert_eq!(decoded(&bytes).unwrap_err(), BatchError::Place { index: 0 });
    }

    #[test]
    fn what_a_packer_says_its_envelopes_take_is_what_reading_them_is_bounded_by() {
        let to = format!("topic:{}", "x".repeat(60_000));
        let mut packer = Packer::with_capacity(0);
        let mut messages = 0;
        while packer.envelope_bytes() < BATCH_BYTES_MAX - ENVELOPE_BYTES_MAX {
            packer.push(&named(&format!("m-{messages:05}"), &to, b"body"), None, "");
            messages += 1;
        }
        let mut parts = Vec::new();
        packer.finish(7, Compression::None, &mut parts);
        assert_eq!(decoded(&Bytes::from(parts.concat())).unwrap().len(), messages);
    }

    #[test]
    fn damage_is_named() {
        let bytes = plain(&[b"a", b"b"]);
        let with = |at: usize, value: u8| {
            let mut bytes = bytes.to_vec();
            bytes[at] = value;
            decoded(&Bytes::from(bytes)).unwrap_err()
        };
        let run = BATCH_HEADER_BYTES;
        assert_eq!(with(0, 0), BatchError::Magic);
        assert_eq!(with(VERSION_AT, 1), BatchError::Version(1));
        assert_eq!(with(FLAGS_AT, 2), BatchError::Flags);
        assert_eq!(with(COUNT_AT, 9), BatchError::Checksum);
        assert_eq!(with(run, 32), BatchError::RunFlags { index: 0 });
        assert_eq!(with(run + 2, 1), BatchError::Place { index: 0 });
        assert_eq!(with(run + 4, 0), BatchError::RunFlags { index: 0 });
        assert_eq!(with(run + 7, 0xff), BatchError::RunTruncated { index: 0 });
        assert_eq!(with(run + 11, 0xff), BatchError::RunTruncated { index: 0 });
        assert_eq!(with(run + 4, 1), BatchError::RunTruncated { index: 1 });
    }

    #[test]
    fn an_id_of_another_length_or_grammar_is_refused() {
        let bytes = pack(
            &[
                (named("m-1", "agent:bob", b""), None, String::new()),
                (named("m-2", "agent:bob", b""), None, String::new()),
            ],
            Compression::None,
        );
        // The last entry: shared 2, rest 1, "2", body 0.
        let at = bytes.len() - 4;
        assert_eq!(bytes[at..], [2, 1, b'2', 0]);
        let with = |entry: [u8; 4]| decoded(&Bytes::from([&bytes[..at], &entry].concat()));
        assert_eq!(with([1, 1, b'2', 0]).unwrap_err(), BatchError::Id { index: 0 });
        assert_eq!(with([2, 1, b'/', 0]).unwrap_err(), BatchError::Id { index: 0 });
        assert_eq!(with([2, 1, 0xc3, 0]).unwrap_err(), BatchError::Id { index: 0 });
        assert_eq!(with([2, 1, b'3', 0]).unwrap()[1].0.envelope.id(), "m-3");
    }

    proptest! {
        #[test]
        fn batches_round_trip(
            items in proptest::collection::vec(
                ("[a-z]{1,12}", 0u8..3, proptest::collection::vec(any::<u8>(), 0..300), any::<Option<(u64, u64)>>(), "(agent:x)?", 0u32..2, any::<bool>()),
                0..20,
            ),
            zstd in any::<bool>(),
        ) {
            let items: Vec<_> = items.into_iter().map(|(id, to, body, mark, queue, attempt, traced)| {
                let mut frame = named(&id, &format!("topic:t{to}"), &body);
                frame.stamp.attempt = attempt;
                if traced {
                    frame.stamp.trace.trace_id = [9; 16];
                }
                let shard = ShardId::new(7).unwrap();
                let mark = mark.map(|(seq, lease)| Mark { shard, seq: Seq::from_raw(seq), lease });
                (frame, mark, queue)
            }).collect();
            let bytes = pack(&items, if zstd { Compression::Zstd } else { Compression::None });
            if items.is_empty() {
                prop_assert!(bytes.is_empty());
                return Ok(());
            }
            let read = decoded(&bytes).unwrap();
            prop_assert_eq!(read.len(), items.len());
            for (read, written) in read.iter().zip(&items) {
                prop_assert_eq!(read.0.envelope.as_bytes(), written.0.envelope.as_bytes());
                prop_assert_eq!(&read.0.body, &written.0.body);
                prop_assert_eq!(read.0.stamp, written.0.stamp);
                prop_assert_eq!((read.1, &read.2), (written.1, &written.2));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), sizes in [0usize..100, 0..2000, 0..200], flags in 0u8..2) {
            let mut with_header = header(flags, sizes, 0).to_vec();
            with_header.extend(&bytes);
            let _ = decode(&mut Bytes::from(with_header), |_| ());
            let _ = decode(&mut Bytes::from(bytes), |_| ());
        }

        #[test]
        fn a_changed_byte_never_panics_when_read(at in any::<usize>(), value in any::<u8>()) {
            let mut bytes = plain(&[b"one", b"two", b"three"]).to_vec();
            let at = BATCH_HEADER_BYTES + at % (bytes.len() - BATCH_HEADER_BYTES);
            bytes[at] = value;
            let look = |frame: Frame| {
                let envelope = &frame.envelope;
                let _ = (envelope.id(), envelope.from(), envelope.to(), envelope.headers().count());
            };
            let _ = decode(&mut Bytes::from(bytes), |part| match part {
                Part::Frame(item) => look(item.frame),
                Part::Run { run, .. } => run.iter().for_each(look),
            });
        }
    }
}
