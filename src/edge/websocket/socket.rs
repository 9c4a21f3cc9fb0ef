//! The bytes of one session: reads into a buffer of the thread's, keeps only what is not a whole message yet, and writes
//! whatever was gathered at once. An idle socket owns no buffer.
//!
//! Knows frames, not operations. Start at [`Socket`].

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::timeout,
};

use tungstenite::protocol::frame::coding::CloseCode;

use super::codec::{self, Compression, Decoder, Incoming, Violation};

/// What one read takes at most, in bytes: two per thread amortize a system call over a hundred small messages.
const READ_BYTES_MAX: usize = 16 * 1024;
/// A peer that does take bytes, but fewer than fill one stall limit each, is given this many stall limits for a whole flush.
const STALLS_PER_FLUSH: u32 = 6;
/// How long a closed connection is drained of what the client still sends, so that a reset does not overtake the close frame.
const LINGER: Duration = Duration::from_secs(2);
/// How much is drained meanwhile, in bytes.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

thread_local! {
    static READ_SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice());
}

/// Why a flush did not finish.
#[derive(Debug, Error)]
pub(super) enum FlushError {
    #[error("the client does not read what it is sent")]
    Stalled,
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// One session's connection behind its handshake.
#[derive(Debug)]
pub(super) struct Socket<I> {
    io: I,
    /// What was read and is not a whole message yet.
    input: BytesMut,
    decoder: Decoder,
    /// What is gathered for the next flush; everything before `written` went out already.
    output: Vec<u8>,
    written: usize,
    compression: Compression,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Socket<I> {
    /// `message_bytes_max` bounds one incoming message.
    pub(super) fn new(io: I, message_bytes_max: usize, compression: Compression) -> Self {
        Self {
            io,
            input: BytesMut::new(),
            decoder: Decoder::new(message_bytes_max, compression),
            output: Vec::new(),
            written: 0,
            compression,
        }
    }

    /// Reads what is there; 0 at the end of the stream. Cancel safe.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        READ_SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
            self.input.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    /// The next whole message among what was read. Pings and closes are answered with the next flush.
    pub(super) fn next(&mut self) -> Result<Option<Incoming>, Violation> {
        let next = self.decoder.next(&mut self.input, &mut self.output)?;
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        Ok(next)
    }

    /// True while a message has begun to arrive and is not whole.
    pub(super) fn is_mid_message(&self) -> bool {
        self.decoder.is_mid_message() || !self.input.is_empty()
    }

    /// Bytes gathered for the next flush.
    pub(super) fn gathered(&self) -> usize {
        self.output.len() - self.written
    }

    pub(super) fn text(&mut self, text: &[u8]) {
        codec::encode_text(text, self.compression, &mut self.output);
    }

    pub(super) fn ping(&mut self) {
        codec::encode_ping(&mut self.output);
    }

    pub(super) fn close(&mut self, code: CloseCode, reason: &str) {
        codec::encode_close(code, reason, &mut self.output);
    }

    /// Writes everything gathered; returns the bytes written. A peer that takes nothing for `stall`, or too little for several
    /// of them, is [`FlushError::Stalled`].
    pub(super) async fn flush(&mut self, stall: Duration) -> Result<usize, FlushError> {
        let bytes = self.gathered();
        if bytes == 0 {
            return Ok(0);
        }
        match timeout(stall * STALLS_PER_FLUSH, self.write_all(stall)).await {
            Ok(written) => written?,
            Err(_) => return Err(FlushError::Stalled),
        }
        self.output = Vec::new();
        self.written = 0;
        Ok(bytes)
    }

    async fn write_all(&mut self, stall: Duration) -> Result<(), FlushError> {
        while self.written < self.output.len() {
            match timeout(stall, self.io.write(&self.output[self.written..])).await {
                Err(_) => return Err(FlushError::Stalled),
                Ok(Ok(0)) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(written) => self.written += written?,
            }
        }
        Ok(self.io.flush().await?)
    }

    /// Ends the writing side and drains what the client still sends, for a bounded time and amount.
    pub(super) async fn linger(mut self) {
        let drain = async {
            self.io.shutdown().await?;
            let mut drained = 0;
            while drained < LINGER_BYTES_MAX {
                self.input.clear();
                match self.fill().await? {
                    0 => break,
                    bytes => drained += bytes,
                }
            }
            Ok::<_, io::Error>(())
        };
        // A connection that breaks or goes on here is given up either way.
        let _ = timeout(LINGER, drain).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    const STALL: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn an_idle_socket_owns_no_buffer_after_traffic() {
        let (mut client, server) = duplex(64 * 1024);
        let mut socket = Socket::new(server, 1000, Compression::Off);
        client.write_all(&[0x81, 0x81, 0, 0, 0, 0, b'x']).await.unwrap();
        assert_eq!(socket.fill().await.unwrap(), 7);
        assert_eq!(socket.next(), Ok(Some(Incoming::Text("x".into()))));
        assert_eq!(socket.next(), Ok(None));
        socket.text(b"answer");
        socket.flush(STALL).await.unwrap();
        assert_eq!((socket.input.capacity(), socket.output.capacity()), (0, 0));
        let mut answer = [0; 8];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"\x81\x06answer");
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_stalls_the_flush() {
        let (_client, server) = duplex(16);
        let mut socket = Socket::new(server, 1000, Compression::Off);
        socket.text(&[b'x'; 100]);
        assert!(matches!(socket.flush(STALL).await, Err(FlushError::Stalled)));
        assert!(socket.gathered() > 0, "what was not written is kept");
    }
}
