//! From hand-outs to chunks: one for what stands one behind the other of one session and one priority. Start at [`Chunks`].

use super::{
    session::Chunk,
    surface::{Delivery, DeliveryId, Piece},
};
use crate::{
    delivery::{ConsumerId, HandOut},
    frame::Priority,
};

/// A hand-out as its session gets it.
pub(super) fn delivery(hand_out: HandOut) -> Piece {
    let HandOut {
        lease: (seq, lease),
        frame,
        queue,
        ..
    } = hand_out;
    let shard = queue.home_shard();
    Piece::One(Delivery {
        id: Some(DeliveryId { shard, seq, lease }),
        frame,
        queue,
    })
}

/// Gathers what goes into lanes; whoever pushes a chunk finds its session.
pub(super) struct Chunks<F: FnMut(ConsumerId, Priority, Chunk)> {
    push: F,
    to: Option<(ConsumerId, Priority)>,
    pieces: Vec<Piece>,
}

impl<F: FnMut(ConsumerId, Priority, Chunk)> Chunks<F> {
    pub fn new(push: F) -> Self {
        Self {
            push,
            to: None,
            pieces: Vec::new(),
        }
    }

    /// Adds what one session gets at one priority; true where it goes with what came before it for the same.
    pub fn add(&mut self, to: (ConsumerId, Priority), piece: Piece) -> bool {
        let goes_with = self.to == Some(to);
        if !goes_with {
            self.finish();
            self.to = Some(to);
        }
        self.pieces.push(piece);
        goes_with
    }

    /// Pushes the last chunk.
    pub fn finish(&mut self) {
        let chunk = Chunk(std::mem::take(&mut self.pieces));
        if let Some((consumer, priority)) = self.to.take() {
            (self.push)(consumer, priority, chunk);
        }
    }
}
