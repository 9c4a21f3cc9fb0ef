//! A run: frames that differ in nothing but their ids and bodies, kept as they travel.
//!
//! One envelope stands for all of them, and behind it their entries as a batch has them, checked and still encoded. What is
//! done once for a run (the door, a queue's choice, a lane) costs its messages next to nothing, and a run goes from one
//! connection to another without its bodies being touched. At QoS 0 the fabric moves runs; [`Run::iter`] makes frames of one
//! where each has a fate of its own.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    entry::{Entry, EntryError, EntryReader, EntryWriter, LastId},
    envelope::Envelope,
    limits::RUN_ENVELOPES_BYTES_MAX,
    wire::{Frame, PREFIX_BYTES, Stamp},
};

/// Bytes of envelopes that are made at once where a run becomes frames: an allocation for many, and never a large one.
const ENVELOPES_BYTES: usize = 16 * 1024;

/// Frames whose envelopes differ in nothing but the id, and whose stamps do not differ. At least one. A clone is a few
/// reference counts.
#[derive(Clone, Debug)]
pub struct Run {
    /// What all the frames' envelopes say; the id is the frame's own only where there is one frame.
    envelope: Envelope,
    pub stamp: Stamp,
    entries: Entries,
}

/// The ids and bodies of a run.
#[derive(Clone, Debug)]
pub(super) enum Entries {
    /// One frame: its body. The envelope is its own.
    One(Bytes),
    Packed(Packed),
}

/// Entries, encoded; each was checked.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    pub bytes: Bytes,
    pub frames: usize,
    body_bytes: usize,
    body_bytes_max: usize,
}

impl Run {
    /// Of one frame. Its body is not copied.
    pub fn one(frame: Frame) -> Self {
        Self {
            envelope: frame.envelope,
            stamp: frame.stamp,
            entries: Entries::One(frame.body),
        }
    }

    /// Takes so many entries off the front of `from`, at least one, and checks each. On an error `from` is unchanged.
    pub(super) fn unpack(
        envelope: Envelope,
        stamp: Stamp,
        frames: usize,
        from: &mut Bytes,
    ) -> Result<Self, EntryError> {
        let mut reader = EntryReader::new(from, envelope.id_span().len());
        let (mut body_bytes, mut body_bytes_max) = (0, 0);
        for _ in 0..frames {
            let bytes = reader.entry()?.body.len();
            body_bytes += bytes;
            body_bytes_max = body_bytes_max.max(bytes);
        }
        let end = reader.at;
        let packed = Packed {
            bytes: from.split_to(end),
            frames,
            body_bytes,
            body_bytes_max,
        };
        Ok(Self {
            envelope,
            stamp,
            entries: Entries::Packed(packed),
        })
    }

    /// What all the frames' envelopes say but for the id.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    pub(super) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// How many frames; at least one.
    pub fn frames(&self) -> usize {
        match &self.entries {
            Entries::One(_) => 1,
            Entries::Packed(packed) => packed.frames,
        }
    }

    /// Bytes that its frames' envelopes have, each counted whole.
    pub fn envelope_bytes(&self) -> usize {
        self.frames() * self.envelope.as_bytes().len()
    }

    /// Bytes of all bodies.
    pub fn body_bytes(&self) -> usize {
        match &self.entries {
            Entries::One(body) => body.len(),
            Entries::Packed(packed) => packed.body_bytes,
        }
    }

    /// Bytes of the largest body.
    pub fn body_bytes_max(&self) -> usize {
        match &self.entries {
            Entries::One(body) => body.len(),
            Entries::Packed(packed) => packed.body_bytes_max,
        }
    }

    /// The first frame's body.
    pub fn first_body(&self) -> &[u8] {
        match &self.entries {
            Entries::One(body) => body,
            Entries::Packed(packed) => next(&mut EntryReader::new(&packed.bytes, self.envelope.id_span().len())).body,
        }
    }

    /// Bytes that the run takes up, as bounds count them.
    pub fn weight_bytes(&self) -> usize {
        let entries = match &self.entries {
            Entries::One(body) => body.len(),
            Entries::Packed(packed) => packed.bytes.len(),
        };
        PREFIX_BYTES + self.envelope.as_bytes().len() + entries
    }

    /// Takes frames off the front; `None`, and nothing changed, where none would be taken or none left.
    pub fn split_to(&mut self, frames: usize) -> Option<Self> {
        let Entries::Packed(packed) = &mut self.entries else {
            return None;
        };
        if frames == 0 || frames >= packed.frames {
            return None;
        }
        let id = self.envelope.id_span();
        let mut last_id = LastId::new(&self.envelope.as_bytes()[id.clone()]);
        let mut reader = EntryReader::new(&packed.bytes, id.len());
        let (mut body_bytes, mut body_bytes_max) = (0, 0);
        for _ in 0..frames {
            let entry = next(&mut reader);
            last_id.follow(&entry);
            body_bytes += entry.body.len();
            body_bytes_max = body_bytes_max.max(entry.body.len());
        }
        let end = reader.at;
        let front = Packed {
            bytes: packed.bytes.split_to(end),
            frames,
            body_bytes,
            body_bytes_max,
        };
        packed.frames -= frames;
        packed.body_bytes -= body_bytes;
        let envelope = self.envelope.clone();
        // What is left begins with an id that is told from the last one taken.
        let mut bytes = BytesMut::from(&envelope.as_bytes()[..]);
        bytes[id].copy_from_slice(last_id.as_bytes());
        self.envelope = Envelope::from_twin(bytes.freeze());
        Some(Self {
            envelope,
            stamp: self.stamp,
            entries: Entries::Packed(front),
        })
    }

    /// The ids and bodies, in order.
    pub fn visit(&self, mut each: impl FnMut(&str, &[u8])) {
        match &self.entries {
            Entries::One(body) => each(self.envelope.id(), body),
            Entries::Packed(packed) => {
                let mut last_id = LastId::new(self.envelope.id().as_bytes());
                let mut reader = EntryReader::new(&packed.bytes, last_id.as_bytes().len());
                for _ in 0..packed.frames {
                    let entry = next(&mut reader);
                    last_id.follow(&entry);
                    let id = str::from_utf8(last_id.as_bytes()).expect("a message id is ASCII; it was checked");
                    each(id, entry.body);
                }
            }
        }
    }

    /// The frames, in order. Bodies are slices of what the run holds, envelopes are made many at a time.
    pub fn iter(&self) -> Frames<'_> {
        let id = self.envelope.id().as_bytes();
        let packed: &[u8] = match &self.entries {
            Entries::One(_) => &[],
            Entries::Packed(packed) => &packed.bytes,
        };
        Frames {
            run: self,
            reader: EntryReader::new(packed, id.len()),
            last_id: LastId::new(id),
            left: self.frames(),
            envelopes: BytesMut::new(),
        }
    }
}

impl<'a> IntoIterator for &'a Run {
    type Item = Frame;
    type IntoIter = Frames<'a>;

    fn into_iter(self) -> Frames<'a> {
        self.iter()
    }
}

/// The next entry of a run.
fn next<'a>(reader: &mut EntryReader<'a>) -> Entry<'a> {
    reader.entry().expect("a run's entries were checked when it was made")
}

/// A run's frames; see [`Run::iter`].
pub struct Frames<'a> {
    run: &'a Run,
    reader: EntryReader<'a>,
    last_id: LastId,
    left: usize,
    envelopes: BytesMut,
}

impl Iterator for Frames<'_> {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        self.left = self.left.checked_sub(1)?;
        let stamp = self.run.stamp;
        let packed = match &self.run.entries {
            Entries::One(body) => {
                return Some(Frame {
                    envelope: self.run.envelope.clone(),
                    body: body.clone(),
                    stamp,
                });
            }
            Entries::Packed(packed) => packed,
        };
        let entry = next(&mut self.reader);
        self.last_id.follow(&entry);
        let template = self.run.envelope.as_bytes();
        if self.envelopes.capacity() < template.len() {
            let at_once = (ENVELOPES_BYTES / template.len()).clamp(1, self.left + 1);
            self.envelopes = BytesMut::with_capacity(at_once * template.len());
        }
        self.envelopes.put_slice(template);
        self.envelopes[self.run.envelope.id_span()].copy_from_slice(self.last_id.as_bytes());
        Some(Frame {
            envelope: Envelope::from_twin(self.envelopes.split().freeze()),
            body: packed.bytes.slice_ref(entry.body),
            stamp,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Frames<'_> {}

/// Gathers a run, frame by frame, of which the first one's envelope is good for all.
#[derive(Debug)]
pub struct RunBuilder {
    first: Frame,
    writer: EntryWriter,
    bytes: BytesMut,
    frames: usize,
    /// As many as stand for [`RUN_ENVELOPES_BYTES_MAX`].
    frames_max: usize,
    body_bytes: usize,
    body_bytes_max: usize,
}

impl RunBuilder {
    /// A run that begins with this frame. Its body is not copied before another follows.
    pub fn new(first: Frame) -> Self {
        Self {
            writer: EntryWriter::new(first.envelope.id().as_bytes()),
            bytes: BytesMut::new(),
            frames: 1,
            frames_max: RUN_ENVELOPES_BYTES_MAX / first.envelope.as_bytes().len(),
            body_bytes: first.body.len(),
            body_bytes_max: first.body.len(),
            first,
        }
    }

    /// Frames so far.
    pub const fn frames(&self) -> usize {
        self.frames
    }

    /// Adds a frame that differs from the first one in nothing but the id and the body, which is copied. False, and nothing
    /// added, where the id is none or of another length, or the frames' envelopes would be more than 4 MiB. `room`: bytes that the run's buffer begins with.
    pub fn push(&mut self, id: &[u8], body: &[u8], room: usize) -> bool {
        let Some(shared) = self.writer.shared(id).filter(|_| self.frames < self.frames_max) else {
            return false;
        };
        if self.frames == 1 {
            self.bytes.reserve(room);
            let first = &self.first;
            let first_id = first.envelope.id().as_bytes();
            self.writer
                .put_shared(first_id, first_id.len(), first.body.len(), &mut self.bytes);
            self.bytes.put_slice(&first.body);
        }
        self.writer.put_shared(id, shared, body.len(), &mut self.bytes);
        self.bytes.put_slice(body);
        self.frames += 1;
        self.body_bytes += body.len();
        self.body_bytes_max = self.body_bytes_max.max(body.len());
        true
    }

    /// The run.
    pub fn finish(self) -> Run {
        if self.frames == 1 {
            return Run::one(self.first);
        }
        Run {
            envelope: self.first.envelope,
            stamp: self.first.stamp,
            entries: Entries::Packed(Packed {
                bytes: self.bytes.freeze(),
                frames: self.frames,
                body_bytes: self.body_bytes,
                body_bytes_max: self.body_bytes_max,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::Draft;

    fn frame(id: &str, body: &[u8]) -> Frame {
        let draft = Draft::new(
            id.parse().unwrap(),
            "alice".parse().unwrap(),
            "agent:bob".parse().unwrap(),
        );
        Frame::new(draft.archive().unwrap(), Bytes::copy_from_slice(body)).unwrap()
    }

    fn built(ids: &[String], bodies: &[Vec<u8>]) -> Run {
        let mut builder = RunBuilder::new(frame(&ids[0], &bodies[0]));
        for (id, body) in ids.iter().zip(bodies).skip(1) {
            assert!(builder.push(id.as_bytes(), body, 100));
        }
        builder.finish()
    }

    fn read(run: &Run) -> Vec<(String, Vec<u8>)> {
        let mut visited = Vec::new();
        run.visit(|id, body| visited.push((id.to_owned(), body.to_vec())));
        let frames: Vec<_> = run
            .iter()
            .map(|frame| (frame.envelope.id().to_owned(), frame.body.to_vec()))
            .collect();
        assert_eq!(visited, frames);
        visited
    }

    #[test]
    fn a_run_of_one_frame_is_that_frame() {
        let only = frame("m-1", b"body");
        let run = Run::one(only.clone());
        assert_eq!((run.frames(), run.body_bytes(), run.body_bytes_max()), (1, 4, 4));
        let back = run.iter().next().unwrap();
        assert_eq!(back.envelope.as_bytes(), only.envelope.as_bytes());
        assert_eq!(back.body.as_ptr(), only.body.as_ptr(), "the body was copied");
        assert!(run.clone().split_to(1).is_none() && run.clone().split_to(0).is_none());
        assert_eq!(run.weight_bytes(), only.encoded_len());
    }

    #[test]
    fn only_twins_are_added() {
        let mut builder = RunBuilder::new(frame("m-1", b""));
        assert!(!builder.push(b"m-10", b"", 0), "another length");
        assert!(!builder.push(b"m 1", b"", 0), "no message id");
        assert!(builder.push(b"m-2", b"", 0));
        assert_eq!(builder.finish().frames(), 2);
    }

    #[test]
    fn a_run_to_a_long_topic_is_short() {
        let to = |topic: &str| {
            let draft = Draft::new("m-0".parse().unwrap(), "a".parse().unwrap(), topic.parse().unwrap());
            Frame::new(draft.archive().unwrap(), Bytes::new()).unwrap()
        };
        let mut builder = RunBuilder::new(to(&format!("topic:{}", "x".repeat(60_000))));
        while builder.push(b"m-1", b"", 0) {}
        let run = builder.finish();
        assert!((2..100).contains(&run.frames()));
        assert!(run.envelope_bytes() <= RUN_ENVELOPES_BYTES_MAX);
    }

    #[test]
    fn envelopes_of_a_large_run_differ_in_the_id_alone() {
        let ids: Vec<_> = (0..2_000).map(|n| format!("m-{n:05}")).collect();
        let bodies = vec![vec![1; 3]; ids.len()];
        let run = built(&ids, &bodies);
        for (made, id) in run.iter().zip(&ids) {
            assert_eq!(made.envelope.as_bytes(), frame(id, b"").envelope.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn what_is_split_off_and_what_is_left_are_the_whole(
            entries in proptest::collection::vec(("[a-c]{3}", proptest::collection::vec(any::<u8>(), 0..200)), 1..20),
            cuts in proptest::collection::vec(0usize..25, 0..4),
        ) {
            let (ids, bodies): (Vec<_>, Vec<_>) = entries.iter().cloned().unzip();
            let mut rest = built(&ids, &bodies);
            let mut parts = Vec::new();
            for cut in cuts {
                let before = rest.frames();
                match rest.split_to(cut) {
                    Some(front) => {
                        prop_assert_eq!((front.frames(), rest.frames()), (cut, before - cut));
                        parts.push(front);
                    }
                    None => prop_assert!(cut == 0 || cut >= before),
                }
            }
            parts.push(rest);
            let read: Vec<_> = parts.iter().flat_map(read).collect();
            prop_assert_eq!(&read, &entries);
            for part in &parts {
                prop_assert_eq!(part.body_bytes(), part.iter().map(|frame| frame.body.len()).sum::<usize>());
                prop_assert!(part.iter().all(|frame| frame.body.len() <= part.body_bytes_max()));
                prop_assert!(part.iter().all(|frame| frame.envelope.from() == "alice" && frame.envelope.to() == "agent:bob"));
            }
        }
    }
}
