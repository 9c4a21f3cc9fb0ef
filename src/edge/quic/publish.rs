//! One stream of batches from a client: decoded once, bodies where they came in, and published batch by batch.

use std::sync::Arc;

use quinn::RecvStream;

use super::{Edge, connection::first_byte};
use crate::{
    edge::counters::Counters,
    frame::{
        Stamp,
        batch::{self, Item, Part},
    },
    native::{
        Close, priority_of,
        reader::{BatchReader, ReadFailure},
    },
    router::{Publisher, surface::Sending},
};

/// What a batch may have beside one largest body: envelopes, and small messages around it.
const BATCH_OVERHEAD_BYTES: usize = 1024 * 1024;

/// Reads the stream to its end. `Err(None)`: the connection is over by itself.
pub(super) async fn read(
    edge: Arc<Edge>,
    mut stream: RecvStream,
    mut publisher: Publisher,
) -> Result<(), Option<Close>> {
    if priority_of(first_byte(&mut stream).await?).is_none() {
        return Err(Some(Close::Control));
    }
    let bytes_max = edge.door.fabric.config().message_bytes_max + BATCH_OVERHEAD_BYTES;
    let mut reader = BatchReader::new(stream, bytes_max);
    // Kept for its memory.
    let mut messages = Vec::new();
    while let Some(mut bytes) = reader.next().await.map_err(|error: ReadFailure| error.close())? {
        Counters::add(&edge.door.counters.bytes_in, bytes.len());
        let decoded = batch::decode(&mut bytes, |part| messages.push(sending(part)));
        let count = decoded.map_err(|error| ReadFailure::from(error).close())?;
        Counters::add(&edge.door.counters.messages_in, count);
        publisher.publish(&mut messages).await;
    }
    Ok(())
}

/// Of the stamp only the trace is the sender's to say.
fn sending(part: Part<'_>) -> Sending {
    let stamp = |given: Stamp| Stamp {
        trace: given.trace,
        ..Stamp::default()
    };
    match part {
        Part::Run { mut run, .. } => {
            run.stamp = stamp(run.stamp);
            Sending::Pass(None, run)
        }
        Part::Frame(Item { tag, mut frame, .. }) => {
            frame.stamp = stamp(frame.stamp);
            Sending::one(tag, frame, false)
        }
    }
}
