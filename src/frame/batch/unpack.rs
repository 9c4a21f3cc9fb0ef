//! Reading a batch: every claim is checked before it is believed, every id before it stands in an envelope. Start at [`decode`].

use std::io::Read;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    BATCH_HEADER_BYTES, BatchError, FLAG_ZSTD, Header, Item, LONG_QUEUE, Mark, Part, RUN_FLAG_MARKS, RUN_FLAG_QUEUE,
    RUN_FLAG_TRACE, RUN_FLAGS_KNOWN, RUN_HEADER_BYTES, TRACE_BYTES, check_header, check_size,
};
use crate::{
    frame::{
        Frame, Qos, Run, Seq, ShardId, Stamp,
        entry::{ENTRY_BYTES_MIN, EntryError, EntryReader, LastId},
        envelope::Envelope,
        limits::{ADDRESS_BYTES_MAX, ENVELOPE_BYTES_MAX},
        wire::Flags,
    },
    time::Timestamp,
};

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

/// Takes one batch off the front of `from`, hands each part to `take` and returns how many frames they were. Bodies are slices
/// of `from` where it is not compressed; the envelopes of frames of a run share one buffer. On an error `from` is unchanged, and
/// parts before the bad one may have been handed over.
pub fn decode(from: &mut Bytes, mut take: impl FnMut(Part<'_>)) -> Result<usize, BatchError> {
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
        let section = Section::decode(&mut payload, index)?;
        let first = tag.wrapping_add(have as u64);
        have += section.frames;
        // A small run of many frames with a large envelope must not become a large heap.
        envelopes += section.frames * section.envelope.as_bytes().len();
        check_size(have, envelopes)?;
        section.entries(&mut payload, first, &mut take)?;
        index += 1;
    }
    if have != said {
        return Err(BatchError::Count { have, said });
    }
    from.advance(end);
    Ok(have)
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
struct Section {
    index: usize,
    frames: usize,
    stamp: Stamp,
    shard: Option<ShardId>,
    queue: Bytes,
    envelope: Envelope,
}

impl Section {
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
            let length = match take(from, 2).ok_or_else(truncated)?.get_u16_le() {
                LONG_QUEUE => take(from, 4).ok_or_else(truncated)?.get_u32_le() as usize,
                length => length.into(),
            };
            queue = take(from, length).ok_or_else(truncated)?;
        }
        let place = BatchError::Place { index };
        if queue.len() > ADDRESS_BYTES_MAX || std::str::from_utf8(&queue).is_err() {
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

    /// Hands the entries over: whole, or frame by frame.
    fn entries(self, from: &mut Bytes, tag: u64, take: impl FnMut(Part<'_>)) -> Result<(), BatchError> {
        let index = self.index;
        let is_whole = self.shard.is_none() && self.envelope.qos() == Qos::AtMostOnce;
        let taken = if is_whole {
            self.whole(from, take)
        } else {
            self.each(from, tag, take)
        };
        taken.map_err(|error| match error {
            EntryError::Truncated => BatchError::RunTruncated { index },
            EntryError::Id => BatchError::Id { index },
            EntryError::BodyTooLarge { bytes } => BatchError::BodyTooLarge { index, bytes },
        })
    }

    fn whole(self, from: &mut Bytes, mut take: impl FnMut(Part<'_>)) -> Result<(), EntryError> {
        let run = Run::unpack(self.envelope, self.stamp, self.frames, from)?;
        let queue = queue_text(&self.queue);
        take(Part::Run { run, queue });
        Ok(())
    }

    /// All the envelopes are copies of the run's in one buffer, each with its own id.
    fn each(self, from: &mut Bytes, mut tag: u64, mut take: impl FnMut(Part<'_>)) -> Result<(), EntryError> {
        let (template, id) = (self.envelope.as_bytes(), self.envelope.id_span());
        let queue = queue_text(&self.queue);
        let mut envelopes = BytesMut::with_capacity(self.frames * template.len());
        // The claimed number was held against the bytes that are there.
        let mut bodies = Vec::with_capacity(self.frames);
        let mut reader = EntryReader::new(from, id.len());
        let mut last_id = LastId::new(&template[id.clone()]);
        let mut mark = self.shard.map(|shard| Mark {
            shard,
            seq: Seq::ZERO,
            lease: 0,
        });
        for _ in 0..self.frames {
            let (shared, rest) = reader.id()?;
            last_id.advance(shared, rest);
            let body_bytes = reader.body_bytes()?;
            if let Some(mark) = &mut mark {
                mark.seq = Seq::from_raw(mark.seq.raw().wrapping_add(reader.difference()?));
                mark.lease = mark.lease.wrapping_add(reader.difference()?);
            }
            let start = reader.at;
            reader.take(body_bytes)?;
            bodies.push((start..reader.at, mark));
            let envelope = envelopes.len();
            envelopes.put_slice(template);
            envelopes[envelope + id.start..envelope + id.end].copy_from_slice(last_id.as_bytes());
        }
        let (end, envelopes) = (reader.at, envelopes.freeze());
        for (at, (body, mark)) in bodies.into_iter().enumerate() {
            let envelope = envelopes.slice(at * template.len()..(at + 1) * template.len());
            let frame = Frame {
                envelope: Envelope::from_twin(envelope),
                body: from.slice(body),
                stamp: self.stamp,
            };
            take(Part::Frame(Item {
                tag,
                frame,
                mark,
                queue,
            }));
            tag = tag.wrapping_add(1);
        }
        from.advance(end);
        Ok(())
    }
}

fn queue_text(queue: &Bytes) -> &str {
    str::from_utf8(queue).expect("it was checked when the run's header was read")
}

fn take(from: &mut Bytes, bytes: usize) -> Option<Bytes> {
    (from.len() >= bytes).then(|| from.split_to(bytes))
}
