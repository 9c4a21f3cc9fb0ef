//! What one side reads: batches off a stream, control frames off the control stream.
//!
//! A batch that came in one piece is handed on as it is; one that came in several is copied together once, into a buffer of its
//! own, so that no batch keeps its neighbours' memory. Start at [`BatchReader`] and [`ControlReader`].

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use quinn::{ReadError, RecvStream};
use thiserror::Error;

use super::{
    Close,
    control::{self, ControlError, Frame},
};
use crate::frame::batch::{self, BATCH_HEADER_BYTES, BatchError};

/// Pieces taken from the transport at once: two batches of 64 KiB in datagrams of 1,452 bytes.
const PIECES: usize = 96;
/// Room made for a batch before its bytes came: a claim alone does not take more.
const CLAIM_BYTES_MAX: usize = 128 * 1024;
/// Bytes of control frames asked for at once.
const CONTROL_READ_BYTES: usize = 16 * 1024;

/// Why reading ended before the stream did.
#[derive(Clone, Debug, Error)]
pub enum ReadFailure {
    #[error("{0}")]
    Stream(#[from] ReadError),
    #[error("{0}")]
    Batch(#[from] BatchError),
    #[error("{0}")]
    Control(#[from] ControlError),
    #[error("the stream ended inside a batch or a control frame")]
    Cut,
}

impl ReadFailure {
    /// How the connection is to be closed; `None` where it is over by itself.
    pub const fn close(&self) -> Option<Close> {
        match self {
            Self::Stream(ReadError::ConnectionLost(_)) => None,
            Self::Batch(BatchError::TooLarge { .. } | BatchError::TooManyFrames { .. })
            | Self::Control(ControlError::TooLarge { .. }) => Some(Close::TooLarge),
            Self::Batch(_) => Some(Close::Batch),
            Self::Control(_) | Self::Stream(_) | Self::Cut => Some(Close::Control),
        }
    }
}

/// Reads batches off one stream.
#[derive(Debug)]
pub struct BatchReader {
    stream: RecvStream,
    bytes_max: usize,
    /// Came and belongs to no batch that was begun.
    pieces: VecDeque<Bytes>,
    pieces_bytes: usize,
    /// A batch that came in part, and its length.
    begun: Option<(BytesMut, usize)>,
}

impl BatchReader {
    /// Of a stream whose first byte was read. A batch may have so many bytes, its header included.
    pub const fn new(stream: RecvStream, bytes_max: usize) -> Self {
        Self {
            stream,
            bytes_max,
            pieces: VecDeque::new(),
            pieces_bytes: 0,
            begun: None,
        }
    }

    /// The next batch; `None` at the stream's end. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ReadFailure> {
        loop {
            if let Some(batch) = self.try_next()? {
                return Ok(Some(batch));
            }
            let mut pieces = [const { Bytes::new() }; PIECES];
            let Some(count) = self.stream.read_chunks(&mut pieces).await? else {
                let between_batches = self.begun.is_none() && self.pieces.is_empty();
                return if between_batches {
                    Ok(None)
                } else {
                    Err(ReadFailure::Cut)
                };
            };
            for piece in pieces.into_iter().take(count) {
                self.pieces_bytes += piece.len();
                self.pieces.push_back(piece);
            }
        }
    }

    /// A batch that came whole already.
    pub fn try_next(&mut self) -> Result<Option<Bytes>, BatchError> {
        if self.begun.is_none() {
            let Some(length) = self.length()? else {
                return Ok(None);
            };
            if let Some(front) = self.pieces.front_mut()
                && front.len() >= length
            {
                let batch = front.split_to(length);
                self.pieces_bytes -= length;
                if front.is_empty() {
                    self.pieces.pop_front();
                }
                return Ok(Some(batch));
            }
            self.begun = Some((BytesMut::with_capacity(length.min(CLAIM_BYTES_MAX)), length));
        }
        let Some((buffer, length)) = &mut self.begun else {
            return Ok(None);
        };
        while buffer.len() < *length
            && let Some(piece) = self.pieces.front_mut()
        {
            let taken = piece.len().min(*length - buffer.len());
            buffer.extend_from_slice(&piece[..taken]);
            piece.advance(taken);
            self.pieces_bytes -= taken;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        match buffer.len() == *length {
            true => Ok(self.begun.take().map(|(buffer, _)| buffer.freeze())),
            false => Ok(None),
        }
    }

    /// The next batch's length, once its header is there.
    fn length(&self) -> Result<Option<usize>, BatchError> {
        let Some(front) = self.pieces.front() else {
            return Ok(None);
        };
        if front.len() >= BATCH_HEADER_BYTES {
            return batch::length(front, self.bytes_max);
        }
        if self.pieces_bytes < BATCH_HEADER_BYTES {
            return Ok(None);
        }
        let mut header = [0; BATCH_HEADER_BYTES];
        let bytes = self.pieces.iter().flat_map(|piece| piece.iter());
        header.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        batch::length(&header, self.bytes_max)
    }
}

/// Reads control frames.
#[derive(Debug)]
pub struct ControlReader {
    stream: RecvStream,
    buffer: BytesMut,
    bytes_max: usize,
}

impl ControlReader {
    /// Of a control stream; a frame may have so many bytes.
    pub fn new(stream: RecvStream, bytes_max: usize) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            bytes_max,
        }
    }

    /// Changes how many bytes a frame may have.
    pub const fn allow(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// The next frame; `None` at the stream's end. Cancel safe.
    pub async fn next<F: Frame>(&mut self) -> Result<Option<F>, ReadFailure> {
        loop {
            if let Some(frame) = control::decode(&mut self.buffer, self.bytes_max)? {
                return Ok(Some(frame));
            }
            if self.buffer.is_empty() {
                // An idle session keeps no buffer.
                self.buffer = BytesMut::new();
            }
            match self.stream.read_chunk(CONTROL_READ_BYTES, true).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(ReadFailure::Cut),
            }
        }
    }
}
