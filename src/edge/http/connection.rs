//! A connection's bytes: counted, and cut off where its peer neither speaks nor listens.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

use super::{head::HeadLimits, refusal::Refusal};
use crate::edge::counters::Counters;

/// Bytes of HTTP/2's preface. Until so many were read hyper waits, without a limit of its own, to learn which version it is.
const PREFACE_BYTES: usize = 24;

/// At the end of a connection so much that its peer is still sending is read and thrown away: closing over unread bytes would
/// reset the connection, and the peer might lose the answer that says why its request was refused.
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long that may take.
const LINGER: Duration = Duration::from_secs(2);
/// What is thrown away at once.
const LINGER_CHUNK_BYTES: usize = 16 * 1024;

/// A TCP stream with the two limits that hyper does not have: until it knows the version, and while it cannot write.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    counters: Arc<Counters>,
    /// Runs until enough was read or anything was written.
    first_bytes: Option<Pin<Box<Sleep>>>,
    read: usize,
    write_timeout: Duration,
    /// Runs while a write waits for the peer.
    stalled: Option<Pin<Box<Sleep>>>,
    limits: HeadLimits,
    /// What is written in place of hyper's own refusal.
    refusal: Option<Refusal>,
    end: End,
}

/// How far the end of a connection has come.
#[derive(Debug)]
enum End {
    Open,
    /// Nothing more is written; what the peer still sends is thrown away.
    Lingering {
        until: Pin<Box<Sleep>>,
        bytes: usize,
    },
    Closed,
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        counters: Arc<Counters>,
        first_bytes_timeout: Duration,
        write_timeout: Duration,
        limits: HeadLimits,
    ) -> Self {
        Self {
            stream,
            counters,
            first_bytes: Some(Box::pin(tokio::time::sleep(first_bytes_timeout))),
            read: 0,
            write_timeout,
            stalled: None,
            limits,
            refusal: None,
            end: End::Open,
        }
    }

    /// Writes a refusal of hyper's own with the problem that it lacks; `None` where the bytes are anything else.
    fn write_refusal(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Option<Poll<io::Result<usize>>> {
        if self.refusal.is_none() {
            self.refusal = Refusal::in_place_of(bytes, self.limits);
        }
        let refusal = self.refusal.as_mut()?;
        while !refusal.left().is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, refusal.left()) {
                Poll::Ready(Ok(written)) => {
                    Counters::add(&self.counters.bytes_out, written);
                    refusal.advance(written);
                }
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                // Its few bytes fit into an empty buffer; a peer that reads nothing meets the write timeout.
                Poll::Pending => return Some(self.settle_write(cx, Poll::Pending)),
            }
        }
        self.refusal = None;
        Counters::add(&self.counters.errors, 1);
        self.stalled = None;
        Some(Poll::Ready(Ok(bytes.len())))
    }

    /// Throws away what the peer still sends, within bounds.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut chunk = [0; LINGER_CHUNK_BYTES];
        loop {
            let End::Lingering { until, bytes } = &mut self.end else {
                return Poll::Ready(Ok(()));
            };
            let mut buffer = ReadBuf::new(&mut chunk);
            let read = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
            let taken = buffer.filled().len();
            match read {
                Poll::Ready(Ok(())) if taken > 0 && *bytes + taken <= LINGER_BYTES_MAX => {
                    *bytes += taken;
                    Counters::add(&self.counters.bytes_in, taken);
                }
                // A peer that had sent all it wanted is not waited for.
                Poll::Pending if *bytes > 0 && until.as_mut().poll(cx).is_pending() => return Poll::Pending,
                _ => self.end = End::Closed,
            }
        }
    }

    fn settle_write(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(bytes)) => {
                self.stalled = None;
                self.first_bytes = None;
                Counters::add(&self.counters.bytes_out, bytes);
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let timeout = self.write_timeout;
                let stalled = self
                    .stalled
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
                match stalled.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buffer);
        match result {
            Poll::Ready(Ok(())) => {
                let bytes = buffer.filled().len() - before;
                Counters::add(&this.counters.bytes_in, bytes);
                this.read = this.read.saturating_add(bytes);
                if this.read >= PREFACE_BYTES {
                    this.first_bytes = None;
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => match this.first_bytes.as_mut().map(|first| first.as_mut().poll(cx)) {
                Some(Poll::Ready(())) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                Some(Poll::Pending) | None => Poll::Pending,
            },
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(refused) = this.write_refusal(cx, bytes) {
            return refused;
        }
        let result = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.settle_write(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let [only] = slices
            && let Some(refused) = this.write_refusal(cx, only)
        {
            return refused;
        }
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.settle_write(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.end, End::Open) {
            std::task::ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.end = End::Lingering {
                until: Box::pin(tokio::time::sleep(LINGER)),
                bytes: 0,
            };
        }
        this.linger(cx)
    }
}
