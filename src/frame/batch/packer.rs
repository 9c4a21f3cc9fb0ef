//! Writing a batch: frames into runs, runs into as few buffers as there are large bodies. Start at [`Packer`].

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    BATCH_HEADER_BYTES, BODY_APART_BYTES, Compression, FLAG_ZSTD, LONG_QUEUE, Mark, RUN_COUNT_AT, RUN_FLAG_MARKS,
    RUN_FLAG_QUEUE, RUN_FLAG_TRACE, ZSTD_LEVEL, header,
};
use crate::frame::{
    Frame, Run, Seq, Stamp,
    entry::{EntryWriter, put_difference},
    envelope::Envelope,
    grammar::is_message_id,
    run::Entries,
};

/// Builds a batch frame by frame. Bodies are copied into it, those of 16 KiB and more are not.
#[derive(Debug)]
pub struct Packer {
    /// What is finished before `tail`, because a body apart follows it. The first one begins with the header.
    done: Vec<BytesMut>,
    apart: Vec<Bytes>,
    tail: BytesMut,
    frames: usize,
    envelope_bytes: usize,
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
    writer: EntryWriter,
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
            envelope_bytes: 0,
            bytes_done: 0,
            run: None,
        }
    }

    /// Frames so far. The caller finishes the batch before there are 65,536.
    pub const fn frames(&self) -> usize {
        self.frames
    }

    /// Bytes that the frames' envelopes have, each counted whole: what reading them may take. The caller finishes the batch before they
    /// are 32 MiB, which matters where many frames go to one long topic.
    pub const fn envelope_bytes(&self) -> usize {
        self.envelope_bytes
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
        self.envelope_bytes += frame.envelope.as_bytes().len();
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
        self.envelope_bytes += run.envelope.as_bytes().len();
        true
    }

    /// Adds a run as it is. Its entries are copied in one piece, or, where they are 16 KiB and more, not at all.
    pub fn push_run(&mut self, run: &Run, queue: &str) {
        let packed = match run.entries() {
            Entries::One(_) => return run.iter().for_each(|frame| self.push(&frame, None, queue)),
            Entries::Packed(packed) => packed,
        };
        self.close_run();
        self.put_run_header(run.envelope(), run.stamp, None, queue, count_word(packed.frames));
        self.frames += packed.frames;
        self.envelope_bytes += run.envelope_bytes();
        if packed.bytes.len() < BODY_APART_BYTES {
            self.tail.put_slice(&packed.bytes);
        } else {
            self.bytes_done += self.tail.len() + packed.bytes.len();
            self.done.push(self.tail.split());
            self.apart.push(packed.bytes.clone());
        }
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
        let at = self.tail.len();
        self.put_run_header(&frame.envelope, frame.stamp, mark, queue, 0);
        self.run = Some(OpenRun {
            at,
            frames: 0,
            envelope: frame.envelope.clone(),
            id: frame.envelope.id_span(),
            stamp: frame.stamp,
            queue: queue.into(),
            mark: mark.map(|mark| Mark {
                seq: Seq::ZERO,
                lease: 0,
                ..mark
            }),
            writer: EntryWriter::new(frame.envelope.id().as_bytes()),
        });
    }

    fn put_run_header(&mut self, envelope: &Envelope, stamp: Stamp, mark: Option<Mark>, queue: &str, frames: u32) {
        let envelope = envelope.as_bytes();
        let has_trace = stamp.trace.trace_id != [0; 16];
        let mut flags = stamp.flags.bits();
        flags |= if has_trace { RUN_FLAG_TRACE } else { 0 };
        flags |= if queue.is_empty() { 0 } else { RUN_FLAG_QUEUE };
        flags |= if mark.is_some() { RUN_FLAG_MARKS } else { 0 };
        let tail = &mut self.tail;
        tail.put_slice(&[flags, stamp.hops]);
        tail.put_u16_le(mark.map_or(0, |mark| mark.shard.get()));
        tail.put_u32_le(frames);
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
            match u16::try_from(queue.len()) {
                Ok(length) if length != LONG_QUEUE => tail.put_u16_le(length),
                _ => {
                    tail.put_u16_le(LONG_QUEUE);
                    tail.put_u32_le(u32::try_from(queue.len()).expect("an address is below 1 MiB"));
                }
            }
            tail.put_slice(queue.as_bytes());
        }
        tail.put_slice(envelope);
    }
}

impl OpenRun {
    fn takes(&self, frame: &Frame, mark: Option<Mark>, queue: &str) -> bool {
        self.mark.map(|mark| mark.shard) == mark.map(|mark| mark.shard)
            && self.stamp == frame.stamp
            // Both mostly empty: comparing nothing at an empty text's address is slow in glibc (a masked load of no page).
            && self.queue.len() == queue.len()
            && (queue.is_empty() || self.queue == queue)
            && frame.envelope.is_twin_of(&self.envelope, &self.id)
    }

    /// All of an entry but the body.
    fn put_entry(&mut self, id: &[u8], body_bytes: usize, mark: Option<Mark>, into: &mut BytesMut) {
        self.writer.put(id, body_bytes, into);
        if let (Some(before), Some(mark)) = (&mut self.mark, mark) {
            put_difference(mark.seq.raw(), before.seq.raw(), into);
            put_difference(mark.lease, before.lease, into);
            *before = mark;
        }
        self.frames += 1;
    }
}

fn count_word(frames: usize) -> u32 {
    u32::try_from(frames).expect("a run has at most as many frames as a batch")
}
