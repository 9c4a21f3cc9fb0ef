//! What one side writes: the control stream and one stream of batches for each priority, all without waiting for each other.
//!
//! A lane keeps what was packed and not yet taken by the transport; [`Lanes::flush`] offers every lane's bytes at once, so that
//! a full low lane never holds up a critical one. QUIC sends the more urgent stream's bytes first. Start at [`Lanes`].

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use quinn::{Connection, ConnectionError, SendStream, VarInt, WriteError};
use thiserror::Error;

use super::{
    Close,
    control::{self, Frame},
    stream_of,
};
use crate::frame::Priority;

/// Bytes that lanes hold before their owner stops packing more: enough for the transport never to run dry between two wake-ups.
pub const LANES_BYTES_MAX: usize = 1024 * 1024;
/// The control stream goes before every batch.
const CONTROL_PRIORITY: i32 = 8;

/// Why nothing more can be written. The connection is over, or the peer gave a stream up.
#[derive(Clone, Debug, Error)]
pub enum LaneError {
    #[error("{0}")]
    Connection(#[from] ConnectionError),
    #[error("the peer stopped a stream with code {0}")]
    Stopped(VarInt),
    #[error("a stream is closed")]
    Closed,
}

impl From<WriteError> for LaneError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => Self::Connection(error),
            WriteError::Stopped(code) => Self::Stopped(code),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::Closed,
        }
    }
}

/// A stream that is being opened: the peer may not allow it yet.
type Opening = Pin<Box<dyn Future<Output = Result<SendStream, ConnectionError>> + Send>>;

/// One stream and what waits to be written to it.
#[derive(Default)]
struct Lane {
    stream: Option<SendStream>,
    opening: Option<Opening>,
    waiting: Vec<Bytes>,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane")
            .field("stream", &self.stream)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

/// The streams that one side of a connection writes.
#[derive(Debug)]
pub struct Lanes {
    connection: Connection,
    control: Lane,
    /// By [`Priority::index`]; opened when first needed.
    batches: [Lane; Priority::COUNT],
    frames: BytesMut,
    waiting_bytes: usize,
    /// Bytes of batches that the transport took.
    taken_bytes: u64,
}

impl Lanes {
    /// Over a connection whose control stream is open.
    pub fn new(connection: Connection, control: SendStream) -> Self {
        // A stream that is closed has no priority; the next write says so.
        let _closed = control.set_priority(CONTROL_PRIORITY);
        Self {
            connection,
            control: Lane {
                stream: Some(control),
                ..Lane::default()
            },
            batches: Default::default(),
            frames: BytesMut::new(),
            waiting_bytes: 0,
            taken_bytes: 0,
        }
    }

    /// Queues a control frame.
    pub fn control(&mut self, frame: &impl Frame) {
        control::encode(frame, &mut self.frames);
    }

    /// Queues bytes of whole control frames, or what stands before the first one.
    pub fn control_bytes(&mut self, bytes: &[u8]) {
        self.frames.extend_from_slice(bytes);
    }

    /// Queues a batch, drained from `parts`.
    pub fn batch(&mut self, priority: Priority, parts: &mut Vec<Bytes>) {
        self.waiting_bytes += parts.iter().map(Bytes::len).sum::<usize>();
        self.batches[priority.index()].waiting.append(parts);
    }

    /// True while nothing waits.
    pub fn is_flushed(&self) -> bool {
        self.frames.is_empty() && self.control.waiting.is_empty() && self.waiting_bytes == 0
    }

    /// True while it makes sense to pack more.
    pub const fn has_room(&self) -> bool {
        self.waiting_bytes < LANES_BYTES_MAX
    }

    /// Bytes of batches that the transport took so far: while some wait and this stands still, the peer does not read.
    pub const fn taken_bytes(&self) -> u64 {
        self.taken_bytes
    }

    /// Gives up every batch that waits, and its stream.
    pub fn abandon_batches(&mut self) {
        for lane in &mut self.batches {
            lane.waiting.clear();
            if let Some(stream) = &mut lane.stream {
                // It was closed already.
                let _closed = stream.reset(Close::Ended.code());
            }
        }
        self.waiting_bytes = 0;
    }

    /// Streams of batches that were opened.
    pub fn streams(&self) -> u8 {
        self.batches.iter().map(|lane| u8::from(lane.stream.is_some())).sum()
    }

    /// Waits until the transport has taken everything. Cancel safe: what was taken is gone from its lane.
    pub async fn flush(&mut self) -> Result<(), LaneError> {
        poll_fn(|context| self.poll_flush(context)).await
    }

    /// Offers every lane's bytes to the transport once.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LaneError>> {
        if !self.frames.is_empty() {
            self.control.waiting.push(self.frames.split().freeze());
        }
        self.control.poll(context)?;
        for priority in Priority::DESCENDING {
            let lane = &mut self.batches[priority.index()];
            if lane.waiting.is_empty() {
                continue;
            }
            if lane.stream.is_none() {
                let connection = &self.connection;
                let opening = lane.opening.get_or_insert_with(|| {
                    let connection = connection.clone();
                    Box::pin(async move { connection.open_uni().await })
                });
                let Poll::Ready(opened) = opening.as_mut().poll(context) else {
                    continue;
                };
                lane.open(opened?, priority);
                self.waiting_bytes += 1;
            }
            let taken = lane.poll(context)?;
            self.waiting_bytes -= taken;
            self.taken_bytes += taken as u64;
        }
        match self.is_flushed() {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    /// Says that no batch follows on any stream.
    pub fn finish_batches(&mut self) {
        self.batches.iter_mut().for_each(Lane::finish);
    }

    /// Says that nothing follows on the control stream.
    pub fn finish_control(&mut self) {
        self.control.finish();
    }

    /// Waits until the peer has all of the control stream, or the connection is over.
    pub async fn control_taken(&mut self) {
        if let Some(stream) = &self.control.stream {
            // However it ended: nothing more can be done for it.
            let _over = stream.stopped().await;
        }
    }
}

impl Lane {
    fn open(&mut self, stream: SendStream, priority: Priority) {
        // As in `new`: the next write says so.
        let _closed = stream.set_priority(i32::from(priority as u8));
        self.stream = Some(stream);
        self.opening = None;
        self.waiting.insert(0, Bytes::copy_from_slice(&[stream_of(priority)]));
    }

    /// Writes as much as the transport takes; returns how many bytes that were.
    fn poll(&mut self, context: &mut Context<'_>) -> Result<usize, LaneError> {
        let (mut bytes, mut parts) = (0, 0);
        while parts < self.waiting.len() {
            let Some(stream) = &mut self.stream else {
                return Err(LaneError::Closed);
            };
            let written = match pin!(stream.write_chunks(&mut self.waiting[parts..])).poll(context) {
                Poll::Ready(written) => written?,
                Poll::Pending => break,
            };
            bytes += written.bytes;
            parts += written.chunks;
        }
        self.waiting.drain(..parts);
        Ok(bytes)
    }

    fn finish(&mut self) {
        if let Some(stream) = &mut self.stream {
            // It was closed already.
            let _closed = stream.finish();
        }
    }
}
