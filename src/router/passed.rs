//! The last envelopes that passed a worker, for debugging; never bodies.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::{
    surface::PassedEnvelope,
    workers::{Inbound, Intake},
};
use crate::frame::{Envelope, Stamp};

/// Envelopes copied out of one batch: a loaded worker notes the last few of each batch, an idle one notes them all.
const PER_BATCH_MAX: usize = 8;
/// Bytes of envelopes that a batch's buffer begins with at most; it grows where they are larger.
const NOTED_BYTES_MAX: usize = 8 * 1024;
/// Bytes of envelopes that a worker notes, above which the oldest go: a thousand of usual size, and about thirty of the longest topics.
const RING_BYTES_MAX: usize = 2 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct PassedRing {
    envelopes: VecDeque<PassedEnvelope>,
    envelopes_max: usize,
    bytes: usize,
}

impl PassedRing {
    pub fn new(envelopes_max: usize) -> Self {
        Self {
            envelopes: VecDeque::new(),
            envelopes_max,
            bytes: 0,
        }
    }

    /// Notes what passed: of one batch the last few, of a run among them the first few.
    pub fn note(&mut self, batch: &[Inbound]) {
        let mut left = PER_BATCH_MAX.min(self.envelopes_max);
        // Copies, so that the ring does not pin network buffers; all of a batch in one buffer.
        let bytes = |inbound: &Inbound| inbound.intake.envelope().as_bytes().len() * inbound.intake.frames().min(left);
        let noted = batch.len().saturating_sub(left);
        let mut buffer = BytesMut::with_capacity(batch[noted..].iter().map(bytes).sum::<usize>().min(NOTED_BYTES_MAX));
        let mut newest = Vec::with_capacity(left);
        for inbound in batch.iter().rev() {
            if left == 0 {
                break;
            }
            let mut note = |envelope: &Envelope, stamp: Stamp, body_bytes: usize| {
                newest.push(PassedEnvelope {
                    envelope: envelope.compact_into(&mut buffer),
                    stamp,
                    body_bytes,
                    shard: inbound.shard,
                });
            };
            match &inbound.intake {
                Intake::Keep(publish) => {
                    note(&publish.frame.envelope, publish.frame.stamp, publish.frame.body.len());
                    left -= 1;
                }
                Intake::Pass(pass) => {
                    let frames: Vec<_> = pass.run.iter().take(left).collect();
                    left -= frames.len();
                    let backwards = frames.iter().rev();
                    backwards.for_each(|frame| note(&frame.envelope, frame.stamp, frame.body.len()));
                }
            }
        }
        for passed in newest.into_iter().rev() {
            self.bytes += passed.envelope.as_bytes().len();
            self.envelopes.push_back(passed);
            while self.envelopes.len() > self.envelopes_max || self.bytes > RING_BYTES_MAX {
                let oldest = self.envelopes.pop_front();
                self.bytes -= oldest.map_or(self.bytes, |oldest| oldest.envelope.as_bytes().len());
            }
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
