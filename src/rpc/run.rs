//! Runs as `weft.v1` has them: messages, one by one, that differ in nothing but id and body.
//!
//! Senders mostly send many like messages one behind the other. Their encoded forms are then equal but for two slices, and comparing
//! bytes costs a hundredth of decoding them: [`Gatherer`] makes runs of what came in. [`messages_of`] is the way back, with what all
//! have in common encoded once.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use prost::{
    Message as _,
    encoding::{decode_varint, encode_varint, encoded_len_varint},
};

use super::{
    delivery::{Delivery, put_body, put_id, put_middle, put_trace},
    send::View,
};
use crate::frame::{Frame, Run, RunBuilder};

/// A body of this many bytes is not copied into a run: its message stays by itself.
const BODY_APART_BYTES: usize = 16 * 1024;
/// Bytes that a run's buffer begins with at most; it grows where more messages follow.
const ROOM_BYTES_MAX: usize = 64 * 1024;
/// The key of `Message.body`: field 15, length-delimited.
const BODY_KEY: u8 = 15 << 3 | 2;

/// Gathers messages as they came into runs.
#[derive(Debug, Default)]
pub struct Gatherer {
    open: Option<Open>,
}

/// A run that further messages may belong to.
#[derive(Debug)]
struct Open {
    builder: RunBuilder,
    first: First,
    room_bytes: usize,
}

/// The first message of a run. Where its parts are is found out once another follows.
#[derive(Debug)]
enum First {
    Unread(Bytes),
    Template(Template),
    /// Nothing can be its twin.
    Alone,
}

/// An encoded message that others are compared with.
#[derive(Debug)]
struct Template {
    bytes: Bytes,
    id: Range<usize>,
    body_key: usize,
    body_end: usize,
}

impl Gatherer {
    /// Adds a message, encoded, where it differs from the ones before in nothing but id and body.
    pub fn add(&mut self, bytes: &[u8]) -> bool {
        let Some(open) = &mut self.open else { return false };
        if let First::Unread(first) = &open.first {
            open.first = Template::of(first).map_or(First::Alone, First::Template);
        }
        let First::Template(template) = &open.first else {
            return false;
        };
        match template.twin(bytes) {
            Some((id, body)) if body.len() < BODY_APART_BYTES => open.builder.push(id, body, open.room_bytes),
            _ => false,
        }
    }

    /// Begins a run with a message, both encoded and as a frame; about so many follow. Returns the run before.
    pub fn begin(&mut self, bytes: Bytes, frame: Frame, following: usize) -> Option<Run> {
        let before = self.finish();
        self.open = Some(Open {
            room_bytes: ((following + 1) * bytes.len()).min(ROOM_BYTES_MAX),
            first: if frame.body.len() < BODY_APART_BYTES {
                First::Unread(bytes)
            } else {
                First::Alone
            },
            builder: RunBuilder::new(frame),
        });
        before
    }

    /// Ends the run that was begun.
    pub fn finish(&mut self) -> Option<Run> {
        self.open.take().map(|open| open.builder.finish())
    }
}

impl Template {
    /// Where id and body stand in an encoded message; `None` where it lacks one of them, or has the body's length in more bytes than
    /// it needs.
    fn of(bytes: &Bytes) -> Option<Self> {
        let view = View::read(bytes).ok()?;
        if view.id.is_empty() || view.body.is_empty() {
            return None;
        }
        let place = |part: &[u8]| {
            let start = part.as_ptr() as usize - bytes.as_ptr() as usize;
            start..start + part.len()
        };
        let (id, body) = (place(view.id.as_bytes()), place(view.body));
        let body_key = body.start.checked_sub(1 + encoded_len_varint(view.body.len() as u64))?;
        let has_key =
            bytes[body_key] == BODY_KEY && decode_varint(&mut &bytes[body_key + 1..]) == Ok(view.body.len() as u64);
        (has_key && id.end <= body_key).then(|| Self {
            bytes: bytes.clone(),
            id,
            body_key,
            body_end: body.end,
        })
    }

    /// The id and the body of a message whose other bytes are these. A decoder would find the same fields in both: it takes one step
    /// after the other through equal bytes, and the two slices do not change where a step ends.
    fn twin<'a>(&self, bytes: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let (before, rest) = bytes.split_at_checked(self.id.start)?;
        let (id, rest) = rest.split_at_checked(self.id.len())?;
        let (middle, mut rest) = rest.split_at_checked(self.body_key + 1 - self.id.end)?;
        if middle != &self.bytes[self.id.end..=self.body_key] || before != &self.bytes[..self.id.start] {
            return None;
        }
        let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
        let (body, behind) = rest.split_at_checked(length)?;
        (behind == &self.bytes[self.body_end..] && !body.is_empty()).then_some(())?;
        Some((id, body))
    }
}

/// The messages of a run, each encoded; slices of one buffer.
pub fn messages_of(run: &Run) -> Vec<Bytes> {
    let alike = Alike::of(run);
    let mut buffer = BytesMut::with_capacity(run.body_bytes() + run.frames() * alike.bytes_beside_body_max(run));
    let mut ends = Vec::with_capacity(run.frames());
    run.visit(|id, body| {
        alike.put(id, body, &mut buffer);
        ends.push(buffer.len());
    });
    let (bytes, mut start) = (buffer.freeze(), 0);
    let slice = |end| bytes.slice(std::mem::replace(&mut start, end)..end);
    ends.into_iter().map(slice).collect()
}

/// A run's deliveries as the repeated field of `weft.v1.Deliveries`, appended. `shown`: all of a delivery but its message.
pub(super) fn put_deliveries(run: &Run, shown: &Delivery, into: &mut BytesMut) {
    let (alike, head) = (Alike::of(run), shown.encode_to_vec());
    into.reserve(run.body_bytes() + run.frames() * (head.len() + 2 * KEYS_BYTES + alike.bytes_beside_body_max(run)));
    run.visit(|id, body| {
        let message = alike.encoded_len(id, body);
        let delivery = head.len() + 1 + encoded_len_varint(message as u64) + message;
        into.put_u8(DELIVERIES_KEY);
        encode_varint(delivery as u64, into);
        into.put_slice(&head);
        into.put_u8(MESSAGE_KEY);
        encode_varint(message as u64, into);
        alike.put(id, body, into);
    });
}

/// What the messages of a run have in common, encoded.
struct Alike {
    /// Between id and body.
    middle: Vec<u8>,
    /// Behind the body.
    behind: Vec<u8>,
}

impl Alike {
    fn of(run: &Run) -> Self {
        let (mut middle, mut behind) = (Vec::with_capacity(128), Vec::new());
        put_middle(run.envelope(), &mut middle);
        put_trace(&run.stamp, &mut behind);
        Self { middle, behind }
    }

    fn bytes_beside_body_max(&self, run: &Run) -> usize {
        self.middle.len() + self.behind.len() + run.envelope().id().len() + KEYS_BYTES
    }

    fn encoded_len(&self, id: &str, body: &[u8]) -> usize {
        let slice = |bytes: usize| 1 + encoded_len_varint(bytes as u64) + bytes;
        let body = if body.is_empty() { 0 } else { slice(body.len()) };
        slice(id.len()) + self.middle.len() + body + self.behind.len()
    }

    fn put(&self, id: &str, body: &[u8], into: &mut BytesMut) {
        put_id(id, into);
        into.put_slice(&self.middle);
        put_body(body, into);
        into.put_slice(&self.behind);
    }
}

/// Keys and lengths of id and body, at most.
const KEYS_BYTES: usize = 1 + 2 + 1 + 5;
/// The keys of `Deliveries.deliveries` (1) and `Delivery.message` (7), both length-delimited.
const DELIVERIES_KEY: u8 = 1 << 3 | 2;
const MESSAGE_KEY: u8 = 7 << 3 | 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        frame::MessageId,
        rpc::{Parcel, convert::incoming, v1},
    };
    use proptest::prelude::*;

    fn message(id: &str, body: &[u8]) -> v1::Message {
        v1::Message {
            id: id.into(),
            from: "alice".into(),
            to: "agent:bob".into(),
            qos: v1::Qos::AtMostOnce.into(),
            headers: vec![v1::Header {
                name: "k".into(),
                value: "v".into(),
            }],
            body: Bytes::copy_from_slice(body),
            ..Default::default()
        }
    }

    /// The id of a message whose own was lost to damage.
    fn made_id() -> MessageId {
        MessageId::new("made").unwrap()
    }

    fn frame(bytes: &Bytes) -> Frame {
        incoming(Parcel::Encoded(bytes.clone()), None, made_id).unwrap()
    }

    fn gathered(messages: &[Bytes]) -> Vec<Run> {
        let (mut gatherer, mut runs) = (Gatherer::default(), Vec::new());
        for bytes in messages {
            if !gatherer.add(bytes) {
                runs.extend(gatherer.begin(bytes.clone(), frame(bytes), 3));
            }
        }
        runs.extend(gatherer.finish());
        runs
    }

    fn encoded(message: &v1::Message) -> Bytes {
        message.encode_to_vec().into()
    }

    #[test]
    fn twins_become_one_run_and_others_do_not() {
        let twins: Vec<_> = (0..5)
            .map(|n| encoded(&message(&format!("m-{n}"), &vec![n; 3 + usize::from(n)])))
            .collect();
        let runs = gathered(&twins);
        assert_eq!(runs.iter().map(Run::frames).collect::<Vec<_>>(), [5]);
        let other = v1::Message {
            ttl_ms: 7,
            ..message("m-5", b"x")
        };
        let longer = message("m-10", b"x");
        let no_id = [Bytes::from_static(&[0x0a, 3, b'm', b' ', b'1']), twins[0].slice(5..)].concat();
        for different in [encoded(&other), encoded(&longer), encoded(&message("m-7", b""))] {
            let runs = gathered(&[twins.clone(), vec![different]].concat());
            assert_eq!(runs.iter().map(Run::frames).collect::<Vec<_>>(), [5, 1]);
        }
        let mut gatherer = Gatherer::default();
        assert!(gatherer.begin(twins[0].clone(), frame(&twins[0]), 0).is_none());
        assert!(!gatherer.add(&no_id), "an id with a space");
    }

    #[test]
    fn a_large_body_stays_by_itself() {
        let large = encoded(&message("m-1", &vec![0; BODY_APART_BYTES]));
        let small = encoded(&message("m-2", b"x"));
        assert_eq!(gathered(&[large.clone(), small.clone()]).len(), 2);
        assert_eq!(gathered(&[small, large]).len(), 2);
    }

    #[test]
    fn a_field_that_stands_twice_is_told_from_one_that_does_not() {
        let twice = |first: &str, last: &str| {
            let before = v1::Message {
                id: first.into(),
                ..Default::default()
            };
            Bytes::from([before.encode_to_vec(), message(last, b"x").encode_to_vec()].concat())
        };
        let runs = gathered(&[twice("a", "m-1"), twice("a", "m-2"), twice("b", "m-3")]);
        let ids: Vec<Vec<_>> = runs
            .iter()
            .map(|run| run.iter().map(|f| f.envelope.id().to_owned()).collect())
            .collect();
        assert_eq!(ids, [vec!["m-1".to_owned(), "m-2".into()], vec!["m-3".into()]]);
    }

    proptest! {
        /// Whatever the gatherer takes for a twin is decoded to the frame that the run has of it.
        #[test]
        fn a_run_says_what_its_messages_say(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..12),
            ttls in proptest::collection::vec(0u64..2, 12),
            damage in proptest::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut messages: Vec<Bytes> = bodies.iter().zip(&ttls).enumerate().map(|(n, (body, ttl))| {
                encoded(&v1::Message { ttl_ms: *ttl, ..message(&format!("m-{n:03}"), body) })
            }).collect();
            if let Some((which, at, value)) = damage {
                let which = which.index(messages.len());
                let mut bytes = messages[which].to_vec();
                let at = at.index(bytes.len());
                bytes[at] = value;
                messages[which] = bytes.into();
            }
            // A damaged one that is no message is nobody's twin either.
            let is_message = |bytes: &Bytes| incoming(Parcel::Encoded(bytes.clone()), None, made_id).is_ok();
            let (mut gatherer, mut frames) = (Gatherer::default(), Vec::new());
            let mut expected = Vec::new();
            for bytes in &messages {
                let is_twin = gatherer.add(bytes);
                prop_assert!(!is_twin || is_message(bytes), "taken for a twin: {bytes:?}");
                if !is_message(bytes) {
                    continue;
                }
                expected.push(frame(bytes));
                if !is_twin {
                    frames.extend(gatherer.begin(bytes.clone(), frame(bytes), 1).iter().flat_map(|run| run.iter().collect::<Vec<_>>()));
                }
            }
            frames.extend(gatherer.finish().iter().flat_map(|run| run.iter().collect::<Vec<_>>()));
            prop_assert_eq!(frames.len(), expected.len());
            for (one, other) in frames.iter().zip(&expected) {
                prop_assert_eq!(one.envelope.as_bytes(), other.envelope.as_bytes());
                prop_assert_eq!(&one.body, &other.body);
            }
        }

        #[test]
        fn encoded_messages_are_the_frames(bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..12)) {
            let messages: Vec<_> = bodies.iter().enumerate().map(|(n, body)| encoded(&message(&format!("m-{n:03}"), body))).collect();
            for run in gathered(&messages) {
                for (bytes, frame) in messages_of(&run).iter().zip(run.iter()) {
                    prop_assert_eq!(bytes, &encoded(&crate::rpc::convert::outgoing(&frame)));
                }
            }
        }
    }
}
