//! One stream of batches from a client: decoded once, bodies where they came in, and published batch by batch.

use std::sync::Arc;

use quinn::RecvStream;

use super::{Edge, connection::first_byte};
use crate::{
    edge::counters::Counters,
    frame::{Frame, Stamp, batch},
    native::{
        Close, priority_of,
        reader::{BatchReader, ReadFailure},
    },
    router::{Publisher, surface::Tag},
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
    let mut frames = Vec::new();
    while let Some(mut bytes) = reader.next().await.map_err(|error: ReadFailure| error.close())? {
        Counters::add(&edge.door.counters.bytes_in, bytes.len());
        let decoded = batch::decode(&mut bytes, |item| frames.push(answered(item.tag, item.frame)));
        let count = decoded.map_err(|error| ReadFailure::from(error).close())?;
        Counters::add(&edge.door.counters.messages_in, count);
        publisher.publish(&mut frames).await;
    }
    Ok(())
}

/// A frame with the tag of its answer, where it gets one. Of the stamp only the trace is the sender's to say.
fn answered(tag: Tag, mut frame: Frame) -> (Option<Tag>, Frame) {
    frame.stamp = Stamp {
        trace: frame.stamp.trace,
        ..Stamp::default()
    };
    (frame.envelope.qos().is_durable().then_some(tag), frame)
}
