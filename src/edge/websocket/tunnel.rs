//! WebSocket as a mere carrier of another protocol's bytes, in binary messages: MQTT's way (MQTT 5.0 §6).
//!
//! Owns the upgrade and the frames; whoever takes the byte streams knows what they say. Where messages begin and end means nothing
//! [MQTT-6.0.0-2]. An idle stream owns no buffer. Start at [`tunnel`].

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    extract::{ConnectInfo, Request, State},
    http,
    response::Response,
    routing::get,
};
use bytes::{Buf, Bytes, BytesMut};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    time::timeout,
};
use tungstenite::protocol::frame::coding::CloseCode;

use super::{
    codec::{self, Decoder, Incoming},
    handshake::{self, refused},
};
use crate::edge::{json::Problem, origin::Origins, stream::Calls};

/// Longest message, all its fragments together, in bytes. Packets may span messages, so that none need be as long as the largest packet.
const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What one read takes at most, in bytes.
const READ_BYTES_MAX: usize = 64 * 1024;
/// Framed bytes that wait for the client from which on no more are taken.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;
/// How long an upgrade may take once it was answered, and then until somebody takes the stream.
const PATIENCE: Duration = Duration::from_secs(5);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice());
}

struct Mouth {
    subprotocol: &'static str,
    streams: mpsc::Sender<Calls>,
    origins: Arc<Origins>,
}

/// The route at `path`, for clients that offer `subprotocol`; what they upgrade to goes to `streams`. Its server must allow upgrades.
pub fn tunnel(path: &str, subprotocol: &'static str, streams: mpsc::Sender<Calls>, origins: Arc<Origins>) -> Router {
    let mouth = Mouth {
        subprotocol,
        streams,
        origins,
    };
    let upgrade = |State(mouth): State<Arc<Mouth>>, request: Request| async move {
        accept(&mouth, request).unwrap_or_else(|problem| refused(&problem))
    };
    Router::new().route(path, get(upgrade)).with_state(Arc::new(mouth))
}

fn accept(mouth: &Mouth, request: Request) -> Result<Response, Problem> {
    let (parts, _body) = request.into_parts();
    handshake::check_origin(&mouth.origins, &parts)?;
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    let peer = parts
        .extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(unknown, |info| info.0);
    let mut request = http::Request::from_parts(parts, ());
    let (response, on_upgrade) = handshake::shake(&mut request, mouth.subprotocol, handshake::Offer::Required)?;
    let streams = mouth.streams.clone();
    tokio::spawn(async move {
        match timeout(PATIENCE, on_upgrade).await {
            Ok(Ok(upgraded)) => {
                let stream = Box::new(Tunnel::new(TokioIo::new(upgraded)));
                // Nobody takes it: the node is overloaded or shutting down, and the client comes back.
                let _ = streams.send_timeout(Calls { stream, peer }, PATIENCE).await;
            }
            Ok(Err(error)) => tracing::debug!(%peer, %error, "a WebSocket upgrade failed"),
            Err(_) => tracing::debug!(%peer, "a WebSocket upgrade took too long"),
        }
    });
    Ok(response)
}

/// What binary messages carry, as a stream of bytes.
struct Tunnel<I> {
    io: I,
    decoder: Decoder,
    input: BytesMut,
    /// Of the last message, what was not read yet.
    unread: Bytes,
    /// Frames on their way out, and how far they are.
    output: Vec<u8>,
    written: usize,
    has_ended: bool,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Tunnel<I> {
    fn new(io: I) -> Self {
        Self {
            io,
            decoder: Decoder::binary(MESSAGE_BYTES_MAX),
            input: BytesMut::new(),
            unread: Bytes::new(),
            output: Vec::new(),
            written: 0,
            has_ended: false,
        }
    }

    fn waiting(&self) -> usize {
        self.output.len() - self.written
    }

    /// Writes what waits.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.waiting() > 0 {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.output[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.output = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// The next message into `unread`; false at the end.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            match self.decoder.next(&mut self.input, &mut self.output) {
                Ok(Some(Incoming::Binary(message))) => {
                    self.unread = message;
                    return Poll::Ready(Ok(true));
                }
                Ok(Some(Incoming::Close)) => {
                    self.has_ended = true;
                    // Its answer goes out as far as it does at once.
                    let _ = self.poll_output(cx)?;
                    return Poll::Ready(Ok(false));
                }
                Ok(Some(Incoming::Text(_) | Incoming::Ping | Incoming::Pong)) => {
                    let _ = self.poll_output(cx)?;
                    continue;
                }
                Ok(None) => {}
                Err(violation) => {
                    // [MQTT-6.0.0-1]
                    codec::encode_close(violation.close_code(), violation.detail(), &mut self.output);
                    self.has_ended = true;
                    let _ = self.poll_output(cx)?;
                    return Poll::Ready(Ok(false));
                }
            }
            if self.input.is_empty() {
                self.input = BytesMut::new();
            }
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
                self.input.extend_from_slice(buffer.filled());
                Poll::Ready(io::Result::Ok(buffer.filled().len()))
            });
            if ready!(read)? == 0 {
                return Poll::Ready(Ok(false));
            }
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            if self.has_ended || !ready!(self.poll_message(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
        let bytes = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..bytes]);
        self.unread.advance(bytes);
        if self.unread.is_empty() {
            self.unread = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.waiting() >= OUTPUT_BYTES_MAX {
            ready!(self.poll_output(cx))?;
        }
        codec::encode_binary(bytes, &mut self.output);
        if let Poll::Ready(written) = self.poll_output(cx) {
            written?;
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_output(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_ended {
            self.has_ended = true;
            codec::encode_close(CloseCode::Normal, "", &mut self.output);
        }
        ready!(self.poll_output(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// A masked frame of a client, with a mask of zeros.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
    }

    #[tokio::test]
    async fn messages_become_one_stream_and_what_is_written_binary_frames() {
        let (mut client, server) = duplex(1024);
        let mut tunnel = Tunnel::new(server);
        client.write_all(&frame(0x82, b"ab")).await.unwrap();
        client.write_all(&frame(0x89, b"?")).await.unwrap();
        client.write_all(&frame(0x82, b"cde")).await.unwrap();
        let mut read = [0; 5];
        tunnel.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"abcde");
        tunnel.write_all(b"xyz").await.unwrap();
        tunnel.flush().await.unwrap();
        let mut answer = [0; 8];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"\x8a\x01?\x82\x03xyz");
        assert_eq!((tunnel.input.capacity(), tunnel.output.capacity()), (0, 0));
    }

    #[tokio::test]
    async fn mqtt_6_0_0_1_text_ends_the_stream() {
        let (mut client, server) = duplex(1024);
        let mut tunnel = Tunnel::new(server);
        client.write_all(&frame(0x81, b"text")).await.unwrap();
        assert_eq!(tunnel.read(&mut [0; 8]).await.unwrap(), 0);
        let mut close = [0; 4];
        client.read_exact(&mut close).await.unwrap();
        assert_eq!((close[0], u16::from_be_bytes([close[2], close[3]])), (0x88, 1003));
    }
}
