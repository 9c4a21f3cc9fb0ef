//! The last envelopes that passed a worker, for debugging; never bodies.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::{surface::PassedEnvelope, workers::Inbound};

/// Envelopes copied out of one batch: a loaded worker notes the last few of each batch, an idle one notes them all.
const PER_BATCH_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct PassedRing {
    envelopes: VecDeque<PassedEnvelope>,
    envelopes_max: usize,
}

impl PassedRing {
    pub fn new(envelopes_max: usize) -> Self {
        Self {
            envelopes: VecDeque::new(),
            envelopes_max,
        }
    }

    pub fn note(&mut self, batch: &[Inbound]) {
        let noted = PER_BATCH_MAX.min(self.envelopes_max);
        let noted = &batch[batch.len().saturating_sub(noted)..];
        // Copies, so that the ring does not pin network buffers; all of a batch in one buffer.
        let bytes = |inbound: &Inbound| inbound.publish.frame.envelope.as_bytes().len();
        let mut buffer = BytesMut::with_capacity(noted.iter().map(bytes).sum());
        for inbound in noted {
            if self.envelopes.len() >= self.envelopes_max {
                self.envelopes.pop_front();
            }
            let frame = &inbound.publish.frame;
            self.envelopes.push_back(PassedEnvelope {
                envelope: frame.envelope.compact_into(&mut buffer),
                stamp: frame.stamp,
                body_bytes: frame.body.len(),
                shard: inbound.shard,
            });
        }
    }

    /// The newest first.
    pub fn newest(&self, limit: usize, wanted: impl Fn(&PassedEnvelope) -> bool) -> Vec<PassedEnvelope> {
        self.envelopes
            .iter()
            .rev()
            .filter(|passed| wanted(passed))
            .take(limit)
            .cloned()
            .collect()
    }
}
