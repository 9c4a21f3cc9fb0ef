//! `weft.v1.Deliveries`, by hand: a run's deliveries are encoded all at once, from what they have in common.
//!
//! A `Delivery` for each of them would be built, measured several times and encoded field by field. The wire form is the generated
//! one's, held to it by a property test.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::{
    DecodeError, Message as _,
    encoding::{self, DecodeContext, WireType, decode_varint},
};

use super::{Delivery, run::put_deliveries};
use crate::frame::Run;

/// The tag of the repeated field.
const DELIVERIES: u32 = 1;

/// Deliveries of one item. See the proto file for its field.
#[derive(Clone, Debug, Default)]
pub struct Deliveries {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    One(Delivery),
    /// Many, encoded as the repeated field is.
    Encoded(Bytes),
}

impl Deliveries {
    /// Adds one.
    pub fn push(&mut self, delivery: Delivery) {
        self.parts.push(Part::One(delivery));
    }

    /// Adds a run's; `shown` is all of them but their messages.
    pub fn push_run(&mut self, run: &Run, shown: &Delivery) {
        let mut encoded = BytesMut::new();
        put_deliveries(run, shown, &mut encoded);
        self.parts.push(Part::Encoded(encoded.freeze()));
    }

    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// All of them, in order; what was encoded is decoded.
    pub fn into_vec(self) -> Result<Vec<Delivery>, DecodeError> {
        let mut all = Vec::with_capacity(self.parts.len());
        for part in self.parts {
            match part {
                Part::One(delivery) => all.push(delivery),
                Part::Encoded(mut bytes) => {
                    while bytes.has_remaining() {
                        bytes.advance(1);
                        let length = usize::try_from(decode_varint(&mut bytes)?).unwrap_or(usize::MAX);
                        all.push(Delivery::decode(bytes.split_to(length.min(bytes.len())))?);
                    }
                }
            }
        }
        Ok(all)
    }
}

impl FromIterator<Delivery> for Deliveries {
    fn from_iter<T: IntoIterator<Item = Delivery>>(deliveries: T) -> Self {
        Self {
            parts: deliveries.into_iter().map(Part::One).collect(),
        }
    }
}

impl PartialEq for Deliveries {
    fn eq(&self, other: &Self) -> bool {
        self.encode_to_vec() == other.encode_to_vec()
    }
}

impl prost::Message for Deliveries {
    fn encode_raw(&self, into: &mut impl BufMut) {
        for part in &self.parts {
            match part {
                Part::One(delivery) => encoding::message::encode(DELIVERIES, delivery, into),
                Part::Encoded(bytes) => into.put_slice(bytes),
            }
        }
    }

    fn encoded_len(&self) -> usize {
        let length = |part: &Part| match part {
            Part::One(delivery) => encoding::message::encoded_len(DELIVERIES, delivery),
            Part::Encoded(bytes) => bytes.len(),
        };
        self.parts.iter().map(length).sum()
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        from: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            DELIVERIES => {
                let mut delivery = Delivery::default();
                encoding::message::merge(wire_type, &mut delivery, from, context)?;
                self.push(delivery);
                Ok(())
            }
            _ => encoding::skip_field(wire_type, tag, from, context),
        }
    }

    fn clear(&mut self) {
        self.parts.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        frame::{Draft, Frame, Qos, RunBuilder, TraceContext},
        rpc::v1,
    };

    /// What the proto file's compiler would have made of `Deliveries`.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Generated {
        #[prost(message, repeated, tag = "1")]
        deliveries: Vec<Delivery>,
    }

    fn frame(number: usize, body: &[u8], traced: bool) -> Frame {
        let (from, to) = ("alice".parse().unwrap(), "agent:bob".parse().unwrap());
        let mut draft = Draft::new(format!("m-{number:03}").parse().unwrap(), from, to);
        draft.qos = Qos::AtMostOnce;
        draft.headers = vec![("k".into(), "v".into())];
        let mut frame = Frame::new(draft.archive().unwrap(), Bytes::copy_from_slice(body)).unwrap();
        if traced {
            frame.stamp.trace = TraceContext {
                trace_id: [3; 16],
                span_id: [7; 8],
                flags: 1,
            };
        }
        frame
    }

    proptest! {
        #[test]
        fn runs_are_encoded_as_each_of_their_messages_would_be(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..12),
            shown in any::<(u32, bool, u64, u64)>(),
            queue in "[a-z:]{0,12}",
            traced in any::<bool>(),
        ) {
            let frames: Vec<_> = bodies.iter().enumerate().map(|(n, body)| frame(n, body, traced)).collect();
            let mut builder = RunBuilder::new(frames[0].clone());
            for frame in &frames[1..] {
                prop_assert!(builder.push(frame.envelope.id().as_bytes(), &frame.body, 0));
            }
            let shown = Delivery {
                attempt: shown.0,
                redelivered: shown.1,
                accepted_at_ms: shown.2,
                expires_at_ms: shown.3,
                queue,
                ..Delivery::default()
            };
            let one = Delivery { id: Some(v1::DeliveryId::default()), ..shown.clone() }.with_frame(frames[0].clone());
            let mut by_hand = Deliveries::default();
            by_hand.push(one.clone());
            by_hand.push_run(&builder.finish(), &shown);
            let generated = Generated {
                deliveries: std::iter::once(one)
                    .chain(frames.iter().map(|frame| shown.clone().with_frame(frame.clone())))
                    .collect(),
            };
            let bytes = by_hand.encode_to_vec();
            prop_assert_eq!(bytes.len(), by_hand.encoded_len());
            prop_assert_eq!(&bytes, &generated.encode_to_vec());
            prop_assert_eq!(by_hand.into_vec().unwrap(), generated.deliveries.clone());
            prop_assert_eq!(Deliveries::decode(&bytes[..]).unwrap().into_vec().unwrap(), generated.deliveries);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(read) = Deliveries::decode(&bytes[..]) {
                let _ = read.into_vec();
            }
        }
    }
}
