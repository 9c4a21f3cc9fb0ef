//! What a session's connection brings: control frames and batches, whichever come first.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use quinn::Connection;

use super::{ready, words};
use crate::{
    client::Error,
    frame::limits::BATCH_BYTES_MAX,
    native::{
        BATCH_STREAMS_MAX,
        control::{ResumeKey, ToClient},
        priority_of,
        reader::{BatchReader, ControlReader, ReadFailure},
    },
    rpc::v1::server_frame::Frame,
};

/// Something that came.
#[derive(Debug)]
pub(in crate::client) enum Incoming {
    Frame(Frame),
    /// Deliveries, not decoded yet.
    Batch(Bytes),
}

/// The reading side of a session's connection.
#[derive(Debug)]
pub(in crate::client) struct Inbound {
    connection: Connection,
    control: ControlReader,
    batches: Vec<BatchReader>,
    /// From the welcome: names this session when it is gone on with.
    pub resume: ResumeKey,
}

/// What was read first.
enum First {
    Control(Option<ToClient>),
    Batch(usize, Option<Bytes>),
    Stream(quinn::RecvStream),
}

impl Inbound {
    /// Of a connection that was greeted; waits for the answer.
    pub async fn new(connection: Connection, mut control: ControlReader) -> Result<Self, Error> {
        ready(&mut control).await?;
        Ok(Self {
            connection,
            control,
            batches: Vec::new(),
            resume: ResumeKey::default(),
        })
    }

    /// The next frame or batch; `None` once the node has said its last. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Incoming>, Error> {
        loop {
            let (control, batches) = (&mut self.control, &mut self.batches);
            let first = tokio::select! {
                biased;
                first = poll_fn(|context| poll_first(control, batches, context)) => first?,
                stream = self.connection.accept_uni() => First::Stream(stream?),
            };
            match first {
                First::Control(Some(frame)) => {
                    if let ToClient::Welcome(welcome) = &frame {
                        self.resume = welcome.resume;
                    }
                    return words::to_client(frame).map(|frame| Some(Incoming::Frame(frame)));
                }
                First::Control(None) => return Ok(None),
                First::Batch(_, Some(batch)) => return Ok(Some(Incoming::Batch(batch))),
                First::Batch(at, None) => drop(self.batches.swap_remove(at)),
                First::Stream(mut stream) => {
                    let mut first = [0];
                    stream.read_exact(&mut first).await.map_err(|error| Error::Lost {
                        cause: error.to_string(),
                    })?;
                    if priority_of(first[0]).is_none() || self.batches.len() >= BATCH_STREAMS_MAX as usize {
                        return Err(Error::protocol("the server opened a stream of an unknown kind"));
                    }
                    self.batches.push(BatchReader::new(stream, BATCH_BYTES_MAX));
                }
            }
        }
    }
}

/// Control frames first: they are few, and callers wait for them.
fn poll_first(
    control: &mut ControlReader,
    batches: &mut [BatchReader],
    context: &mut Context<'_>,
) -> Poll<Result<First, Error>> {
    if let Poll::Ready(frame) = pin!(control.next()).poll(context) {
        return Poll::Ready(frame.map(First::Control).map_err(Error::from));
    }
    for (at, reader) in batches.iter_mut().enumerate() {
        if let Poll::Ready(batch) = pin!(reader.next()).poll(context) {
            let batch: Result<_, ReadFailure> = batch;
            return Poll::Ready(batch.map(|batch| First::Batch(at, batch)).map_err(Error::from));
        }
    }
    Poll::Pending
}
