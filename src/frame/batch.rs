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
//! Flag 8: the queue's address, two bytes of length before it. Flag 16: entries carry marks; `shard` is theirs, else zero.
//! An entry is `shared (1) | rest (1) | rest of the id | body's length (varint) | [seq, lease] | body`: its id is the first
//! `shared` bytes of the id before it (of the envelope's own, for the first) and the rest, together as long as the envelope's.
//! Seq and lease are zigzag varints, as differences to those before them. No frame has a checksum of its own: what carries
//! batches is encrypted, and so authenticated. Start at [`Packer`] and [`decode`].

use std::{io::Read, ops::Range};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    envelope::{Envelope, EnvelopeError},
    grammar::is_message_id,
    id::{Seq, ShardId},
    limits::{
        BATCH_BYTES_MAX, BATCH_FRAMES_MAX, BODY_BYTES_MAX, ENVELOPE_BYTES_MAX, MESSAGE_ID_BYTES_MAX, TOPIC_BYTES_MAX,
    },
    wire::{Flags, Frame, Stamp},
};
use crate::time::Timestamp;

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
/// The smallest entry: no rest of an id, an empty body.
const ENTRY_BYTES_MIN: usize = 3;
/// A body from this size on is not copied into the batch's buffer but written from where it is. Below, a copy costs less than
/// the transport's bookkeeping for a buffer more.
const BODY_APART_BYTES: usize = 16 * 1024;
/// Longest address of a queue, in bytes: an agent's with a token, or a shared filter's with its share.
const QUEUE_BYTES_MAX: usize = 2 * TOPIC_BYTES_MAX;
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

// --- writing ---------------------------------------------------------------------------------------------------------

/// Builds a batch frame by frame. Bodies are copied into it, those of 16 KiB and more are not.
#[derive(Debug)]
pub struct Packer {
    /// What is finished before `tail`, because a body apart follows it. The first one begins with the header.
    done: Vec<BytesMut>,
    apart: Vec<Bytes>,
    tail: BytesMut,
    frames: usize,
    bytes_done: usize,
    run: Option<OpenRun>,
}

/// The run that the next frame may belong to. Its header stands in `tail`.
#[derive(Debug)]
struct OpenRun {
    at: usize,
    frames: u32,
    envelope: Envelope,
    id: Range<usize>,
    stamp: Stamp,
    queue: String,
    mark: Option<Mark>,
    /// Where the last frame's id is to be compared with.
    last_id: [u8; MESSAGE_ID_BYTES_MAX],
}

impl Packer {
    /// An empty batch with room for so many bytes before it grows.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut tail = BytesMut::with_capacity(BATCH_HEADER_BYTES + bytes);
        tail.put_bytes(0, BATCH_HEADER_BYTES);
        Self {
            done: Vec::new(),
            apart: Vec::new(),
            tail,
            frames: 0,
            bytes_done: 0,
            run: None,
        }
    }

    /// Frames so far. The caller finishes the batch before there are 65,536.
    pub const fn frames(&self) -> usize {
        self.frames
    }

    /// Bytes so far. The caller finishes the batch before there are 32 MiB.
    pub fn bytes(&self) -> usize {
        self.bytes_done + self.tail.len()
    }

    /// Adds a frame.
    pub fn push(&mut self, frame: &Frame, mark: Option<Mark>, queue: &str) {
        let apart = frame.body.len() >= BODY_APART_BYTES;
        if apart || !self.run.as_ref().is_some_and(|run| run.takes(frame, mark, queue)) {
            self.close_run();
            self.open_run(frame, mark, queue);
        }
        let run = self.run.as_mut().expect("a run was opened above, unless one was open");
        run.put_entry(frame.envelope.id().as_bytes(), frame.body.len(), mark, &mut self.tail);
        self.frames += 1;
        if apart {
            self.close_run();
            self.bytes_done += self.tail.len() + frame.body.len();
            self.done.push(self.tail.split());
            self.apart.push(frame.body.clone());
        } else {
            self.tail.put_slice(&frame.body);
        }
    }

    /// Adds the last frame's twin: a frame that differs from it in nothing but the id and the body. False, and nothing added,
    /// where that cannot be: the batch is empty, carries marks, or the id is none or of another length.
    pub fn push_twin(&mut self, id: &str, body: &Bytes) -> bool {
        let Some(run) = &mut self.run else { return false };
        if run.mark.is_some()
            || body.len() >= BODY_APART_BYTES
            || id.len() != run.id.len()
            || !is_message_id(id.as_bytes())
        {
            return false;
        }
        run.put_entry(id.as_bytes(), body.len(), None, &mut self.tail);
        self.tail.put_slice(body);
        self.frames += 1;
        true
    }

    /// The batch, to be written in order, under its first frame's tag. Nothing where no frame was added.
    pub fn finish(mut self, tag: u64, compression: Compression, into: &mut Vec<Bytes>) {
        if self.frames == 0 {
            return;
        }
        self.close_run();
        let payload = self.bytes() - BATCH_HEADER_BYTES;
        if compression == Compression::Zstd
            && let Some(packed) = self.compressed(tag)
        {
            into.push(packed);
            return;
        }
        let header = header(0, [self.frames, payload, payload], tag);
        self.done.push(self.tail);
        self.done[0][..BATCH_HEADER_BYTES].copy_from_slice(&header);
        let mut apart = self.apart.into_iter();
        for part in self.done {
            into.extend((!part.is_empty()).then(|| part.freeze()));
            into.extend(apart.next());
        }
    }

    /// The whole batch in one buffer, compressed; `None` where that makes it no smaller.
    fn compressed(&self, tag: u64) -> Option<Bytes> {
        let mut plain = Vec::with_capacity(self.bytes());
        for (part, body) in self.done.iter().zip(&self.apart) {
            plain.extend_from_slice(part);
            plain.extend_from_slice(body);
        }
        plain.extend_from_slice(&self.tail);
        let plain = &plain[BATCH_HEADER_BYTES..];
        let packed = zstd::bulk::compress(plain, ZSTD_LEVEL).ok()?;
        if packed.len() >= plain.len() {
            return None;
        }
        let mut batch = BytesMut::with_capacity(BATCH_HEADER_BYTES + packed.len());
        batch.put_slice(&header(FLAG_ZSTD, [self.frames, plain.len(), packed.len()], tag));
        batch.put_slice(&packed);
        Some(batch.freeze())
    }

    fn close_run(&mut self) {
        if let Some(run) = self.run.take() {
            let count = run.at + RUN_COUNT_AT;
            self.tail[count..count + 4].copy_from_slice(&run.frames.to_le_bytes());
        }
    }

    fn open_run(&mut self, frame: &Frame, mark: Option<Mark>, queue: &str) {
        let (stamp, envelope) = (frame.stamp, frame.envelope.as_bytes());
        let has_trace = stamp.trace.trace_id != [0; 16];
        let mut flags = stamp.flags.bits();
        flags |= if has_trace { RUN_FLAG_TRACE } else { 0 };
        flags |= if queue.is_empty() { 0 } else { RUN_FLAG_QUEUE };
        flags |= if mark.is_some() { RUN_FLAG_MARKS } else { 0 };
        let (at, tail) = (self.tail.len(), &mut self.tail);
        tail.put_slice(&[flags, stamp.hops]);
        tail.put_u16_le(mark.map_or(0, |mark| mark.shard.get()));
        tail.put_u32_le(0);
        tail.put_u32_le(u32::try_from(envelope.len()).expect("an envelope's limit was checked when it was made"));
        tail.put_u64_le(stamp.accepted_at.as_millis());
        tail.put_u64_le(stamp.expires_at.as_millis());
        tail.put_u32_le(stamp.attempt);
        if has_trace {
            tail.put_slice(&stamp.trace.trace_id);
            tail.put_slice(&stamp.trace.span_id);
            tail.put_u8(stamp.trace.flags);
        }
        if !queue.is_empty() {
            tail.put_u16_le(u16::try_from(queue.len()).expect("an address is at most some hundred bytes long"));
            tail.put_slice(queue.as_bytes());
        }
        tail.put_slice(envelope);
        let id = frame.envelope.id_span();
        let mut last_id = [0; MESSAGE_ID_BYTES_MAX];
        last_id[..id.len()].copy_from_slice(&envelope[id.clone()]);
        self.run = Some(OpenRun {
            at,
            frames: 0,
            envelope: frame.envelope.clone(),
            id,
            stamp,
            queue: queue.into(),
            mark: mark.map(|mark| Mark {
                seq: Seq::ZERO,
                lease: 0,
                ..mark
            }),
            last_id,
        });
    }
}

impl OpenRun {
    fn takes(&self, frame: &Frame, mark: Option<Mark>, queue: &str) -> bool {
        self.mark.map(|mark| mark.shard) == mark.map(|mark| mark.shard)
            && self.stamp == frame.stamp
            && self.queue == queue
            && frame.envelope.is_twin_of(&self.envelope, &self.id)
    }

    /// All of an entry but the body.
    fn put_entry(&mut self, id: &[u8], body_bytes: usize, mark: Option<Mark>, into: &mut BytesMut) {
        let last = &mut self.last_id[..id.len()];
        let shared = id.iter().zip(&*last).take_while(|(one, other)| one == other).count();
        into.put_slice(&[length_byte(shared), length_byte(id.len() - shared)]);
        into.put_slice(&id[shared..]);
        last[shared..].copy_from_slice(&id[shared..]);
        put_varint(body_bytes as u64, into);
        if let (Some(before), Some(mark)) = (&mut self.mark, mark) {
            put_varint(zigzag(mark.seq.raw().wrapping_sub(before.seq.raw())), into);
            put_varint(zigzag(mark.lease.wrapping_sub(before.lease)), into);
            *before = mark;
        }
        self.frames += 1;
    }
}

fn length_byte(length: usize) -> u8 {
    u8::try_from(length).expect("a message id has at most 128 bytes")
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

/// Small differences of either sign as small numbers.
const fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ (((difference as i64) >> 63) as u64)
}

const fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

/// LEB128: seven bits a byte, lowest first, the eighth where more follow.
fn put_varint(mut number: u64, into: &mut BytesMut) {
    while number >= 0x80 {
        into.put_u8((number as u8) | 0x80);
        number >>= 7;
    }
    into.put_u8(number as u8);
}

// --- reading ---------------------------------------------------------------------------------------------------------

/// How many bytes the batch has that `from` begins with; `None` while its header is not all there. A claim above `bytes_max`,
/// on the wire or inflated, is refused before anything is kept for it.
pub fn length(from: &[u8], bytes_max: usize) -> Result<Option<usize>, BatchError> {
    let Some(header) = from.get(..BATCH_HEADER_BYTES) else {
        return Ok(None);
    };
    let Header {
        sizes: [_, inflated, packed],
        ..
    } = check_header(header)?;
    let bytes = inflated.max(packed) + BATCH_HEADER_BYTES;
    if bytes > bytes_max {
        return Err(BatchError::TooLarge { bytes, max: bytes_max });
    }
    Ok(Some(BATCH_HEADER_BYTES + packed))
}

/// Takes one batch off the front of `from`, hands each frame to `take` and returns how many they were. Bodies are slices of
/// `from` where it is not compressed; the envelopes of a run share one buffer. On an error `from` is unchanged, and frames
/// before the bad one may have been handed over.
pub fn decode(from: &mut Bytes, mut take: impl FnMut(Item<'_>)) -> Result<usize, BatchError> {
    let Some(header) = from.get(..BATCH_HEADER_BYTES) else {
        return Err(BatchError::Truncated {
            have: from.len(),
            need: BATCH_HEADER_BYTES,
        });
    };
    let Header { flags, sizes, tag } = check_header(header)?;
    let [said, inflated, packed] = sizes;
    let end = BATCH_HEADER_BYTES + packed;
    if from.len() < end {
        return Err(BatchError::Truncated {
            have: from.len(),
            need: end,
        });
    }
    let payload = from.slice(BATCH_HEADER_BYTES..end);
    let mut payload = if flags & FLAG_ZSTD == 0 {
        payload
    } else {
        inflate(&payload, inflated)?
    };
    if payload.len() != inflated {
        return Err(BatchError::Inflate);
    }
    let (mut have, mut index, mut envelopes) = (0, 0, 0);
    while payload.has_remaining() {
        let run = Run::decode(&mut payload, index)?;
        have += run.frames;
        // A small run of many frames with a large envelope must not become a large heap.
        envelopes += run.frames * run.envelope.as_bytes().len();
        check_size(have, envelopes)?;
        let mut tag = tag.wrapping_add((have - run.frames) as u64);
        run.entries(&mut payload, |(frame, mark, queue)| {
            take(Item {
                tag,
                frame,
                mark,
                queue,
            });
            tag = tag.wrapping_add(1);
        })?;
        index += 1;
    }
    if have != said {
        return Err(BatchError::Count { have, said });
    }
    from.advance(end);
    Ok(have)
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

/// Inflates at most the claimed size and one byte more, so that a bomb stops at the claim.
fn inflate(packed: &[u8], inflated: usize) -> Result<Bytes, BatchError> {
    let decoder = zstd::stream::read::Decoder::new(packed).map_err(|_| BatchError::Inflate)?;
    let mut plain = Vec::with_capacity(inflated.min(packed.len().saturating_mul(16)));
    let limit = inflated as u64 + 1;
    decoder
        .take(limit)
        .read_to_end(&mut plain)
        .map_err(|_| BatchError::Inflate)?;
    Ok(Bytes::from(plain))
}

/// A run whose entries are not read yet.
struct Run {
    index: usize,
    frames: usize,
    stamp: Stamp,
    shard: Option<ShardId>,
    queue: Bytes,
    envelope: Envelope,
}

/// What an entry says before its body.
struct Entry {
    shared: usize,
    rest: Bytes,
    body: usize,
}

impl Run {
    fn decode(from: &mut Bytes, index: usize) -> Result<Self, BatchError> {
        let truncated = || BatchError::RunTruncated { index };
        if from.len() < RUN_HEADER_BYTES {
            return Err(truncated());
        }
        let (flags, hops, shard) = (from.get_u8(), from.get_u8(), from.get_u16_le());
        let (frames, envelope_bytes) = (from.get_u32_le() as usize, from.get_u32_le() as usize);
        if flags & !RUN_FLAGS_KNOWN != 0 || frames == 0 {
            return Err(BatchError::RunFlags { index });
        }
        let mut stamp = Stamp {
            flags: Flags::from_bits(flags & Flags::KNOWN),
            hops,
            accepted_at: Timestamp::from_millis(from.get_u64_le()),
            expires_at: Timestamp::from_millis(from.get_u64_le()),
            attempt: from.get_u32_le(),
            ..Stamp::default()
        };
        if flags & RUN_FLAG_TRACE != 0 {
            let mut trace = take(from, TRACE_BYTES).ok_or_else(truncated)?;
            trace.copy_to_slice(&mut stamp.trace.trace_id);
            trace.copy_to_slice(&mut stamp.trace.span_id);
            stamp.trace.flags = trace.get_u8();
        }
        let mut queue = Bytes::new();
        if flags & RUN_FLAG_QUEUE != 0 {
            let length = take(from, 2).ok_or_else(truncated)?.get_u16_le();
            queue = take(from, length.into()).ok_or_else(truncated)?;
        }
        let place = BatchError::Place { index };
        if queue.len() > QUEUE_BYTES_MAX || std::str::from_utf8(&queue).is_err() {
            return Err(place);
        }
        let shard = match flags & RUN_FLAG_MARKS {
            0 if shard == 0 => None,
            0 => return Err(place),
            _ => Some(ShardId::new(shard).ok_or(place)?),
        };
        if envelope_bytes > ENVELOPE_BYTES_MAX || frames > from.len() / ENTRY_BYTES_MIN {
            return Err(truncated());
        }
        let envelope = take(from, envelope_bytes).ok_or_else(truncated)?;
        let envelope = Envelope::validate(envelope).map_err(|error| BatchError::Envelope { index, error })?;
        Ok(Self {
            index,
            frames,
            stamp,
            shard,
            queue,
            envelope,
        })
    }

    /// Hands the frames over. All their envelopes are copies of the run's in one buffer, each with its own id.
    fn entries(
        &self,
        from: &mut Bytes,
        mut hand_over: impl FnMut((Frame, Option<Mark>, &str)),
    ) -> Result<(), BatchError> {
        let (template, id) = (self.envelope.as_bytes(), self.envelope.id_span());
        let queue = std::str::from_utf8(&self.queue).expect("it was checked when the run was decoded");
        let mut arena = BytesMut::with_capacity(if self.frames == 1 {
            0
        } else {
            self.frames * template.len()
        });
        let mut last_id = [0; MESSAGE_ID_BYTES_MAX];
        last_id[..id.len()].copy_from_slice(&template[id.clone()]);
        let (mut seq, mut lease) = (0u64, 0u64);
        for _ in 0..self.frames {
            let entry = self.entry(from, id.len())?;
            last_id[entry.shared..id.len()].copy_from_slice(&entry.rest);
            let mark = match self.shard {
                None => None,
                Some(shard) => {
                    seq = seq.wrapping_add(unzigzag(self.varint(from)?));
                    lease = lease.wrapping_add(unzigzag(self.varint(from)?));
                    let seq = Seq::from_raw(seq);
                    Some(Mark { shard, seq, lease })
                }
            };
            let body = take(from, entry.body).ok_or(BatchError::RunTruncated { index: self.index })?;
            let envelope = if entry.rest.is_empty() && self.frames == 1 {
                self.envelope.clone()
            } else {
                arena.put_slice(template);
                arena[id.clone()].copy_from_slice(&last_id[..id.len()]);
                Envelope::from_twin(arena.split().freeze())
            };
            let stamp = self.stamp;
            let frame = Frame { envelope, body, stamp };
            hand_over((frame, mark, queue));
        }
        Ok(())
    }

    fn entry(&self, from: &mut Bytes, id_bytes: usize) -> Result<Entry, BatchError> {
        let truncated = || BatchError::RunTruncated { index: self.index };
        let (shared, rest) = match from.first_chunk::<2>() {
            Some([shared, rest]) => (usize::from(*shared), usize::from(*rest)),
            None => return Err(truncated()),
        };
        from.advance(2);
        let rest = take(from, rest).ok_or_else(truncated)?;
        if shared + rest.len() != id_bytes || (!rest.is_empty() && !is_message_id(&rest)) {
            return Err(BatchError::Id { index: self.index });
        }
        let body = usize::try_from(self.varint(from)?).unwrap_or(usize::MAX);
        if body > BODY_BYTES_MAX {
            return Err(BatchError::BodyTooLarge {
                index: self.index,
                bytes: body,
            });
        }
        Ok(Entry { shared, rest, body })
    }

    fn varint(&self, from: &mut Bytes) -> Result<u64, BatchError> {
        let truncated = BatchError::RunTruncated { index: self.index };
        let (mut number, mut shift) = (0u64, 0);
        for (at, byte) in from.iter().take(10).enumerate() {
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                from.advance(at + 1);
                return Ok(number);
            }
            shift += 7;
        }
        Err(truncated)
    }
}

fn take(from: &mut Bytes, bytes: usize) -> Option<Bytes> {
    (from.len() >= bytes).then(|| from.split_to(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{Draft, wire::tests::frame};

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
        let count = decode(&mut bytes, |item| {
            assert_eq!(item.tag, 7 + items.len() as u64);
            items.push((item.frame, item.mark, item.queue.to_owned()));
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
            let _ = decode(&mut Bytes::from(bytes), |item| {
                let envelope = &item.frame.envelope;
                let _ = (envelope.id(), envelope.from(), envelope.to(), envelope.headers().count());
            });
        }
    }
}
