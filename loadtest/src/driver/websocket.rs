//! WebSocket by hand (RFC 6455, subprotocol `weft.v1.json`): a client that costs little beside the node.
//!
//! [`Socket`] is a session's connection; what it queues is written with the next flush, so many operations go as one write. The
//! node that is measured is trusted: its answer to the handshake's key is not checked, and frames are masked with zeros.

use std::{
    collections::HashMap,
    fmt::Write as _,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

use super::{Answer, Arrival, Failure, Outgoing, Receiving, connect, http::write_send};
use crate::head::Head;

/// How long a session may take until its welcome.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// Longest frame that is read, in bytes.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Queued bytes above which a send writes by itself.
const QUEUED_BYTES_MAX: usize = 64 * 1024;

const TEXT: u8 = 0x81;
const PONG: u8 = 0x8a;
const MASKED: u8 = 0x80;

/// A session's connection.
#[derive(Debug)]
pub struct Socket {
    reader: Reader,
    writer: Writer,
}

#[derive(Debug)]
struct Reader {
    half: OwnedReadHalf,
    read: Vec<u8>,
    /// Up to where `read` has been handed out.
    taken: usize,
}

#[derive(Debug)]
struct Writer {
    half: OwnedWriteHalf,
    queued: Vec<u8>,
}

/// What the node sent.
#[derive(Debug)]
enum Frame {
    /// Where its text is in what was read.
    Text(std::ops::Range<usize>),
    Ping(std::ops::Range<usize>),
    Close,
    Other,
}

impl Socket {
    /// Attaches as an agent and waits for the welcome; from this address of loopback where one is given.
    pub async fn open(host: &str, agent: &str, source: Option<IpAddr>) -> Result<Self, Failure> {
        let late = |_| Err("no welcome in time".to_owned());
        let opened = timeout(OPEN_DEADLINE, Self::handshake(host, agent, source)).await;
        let opened = opened.unwrap_or_else(late);
        opened.map_err(|error| format!("ws://{host}/ws as {agent}: {error} (is `ulimit -n` high enough?)"))
    }

    async fn handshake(host: &str, agent: &str, source: Option<IpAddr>) -> Result<Self, Failure> {
        let stream = connect(host, source).await.map_err(|error| error.to_string())?;
        let (reader, writer) = stream.into_split();
        let mut socket = Self {
            reader: Reader {
                half: reader,
                read: Vec::new(),
                taken: 0,
            },
            writer: Writer {
                half: writer,
                queued: Vec::new(),
            },
        };
        let request = format!(
            "GET /ws?agent_id={} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Sec-WebSocket-Protocol: weft.v1.json\r\n\r\n",
            agent.replace('/', "%2F")
        );
        socket.writer.queued.extend_from_slice(request.as_bytes());
        socket.writer.flush().await?;
        let head = socket.reader.head().await?;
        if !head.starts_with("HTTP/1.1 101") {
            return Err(head);
        }
        // The welcome.
        socket.reader.next().await?;
        Ok(socket)
    }

    /// Answers the node's pings and throws the rest away until the session ends.
    pub async fn idle(mut self) {
        loop {
            match self.reader.next().await {
                Ok(Frame::Ping(payload)) => {
                    self.writer.queue(PONG, &self.reader.read[payload]);
                    if self.writer.flush().await.is_err() {
                        return;
                    }
                }
                Ok(Frame::Text(_) | Frame::Other) => {}
                Ok(Frame::Close) | Err(_) => return,
            }
            self.reader.forget();
        }
    }
}

impl Reader {
    /// The handshake's answer.
    async fn head(&mut self) -> Result<String, Failure> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.read, b"\r\n\r\n") {
                self.taken = end + 4;
                return Ok(String::from_utf8_lossy(&self.read[..end]).into_owned());
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<(), Failure> {
        let read = self.half.read_buf(&mut self.read).await;
        match read.map_err(|error| error.to_string())? {
            0 => Err("the node closed the connection".into()),
            _ => Ok(()),
        }
    }

    /// The next frame, waiting for it.
    async fn next(&mut self) -> Result<Frame, Failure> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            self.forget();
            self.more().await?;
        }
    }

    /// The next frame where it is there. The node's frames are not masked (RFC 6455, section 5.1).
    fn buffered(&mut self) -> Result<Option<Frame>, Failure> {
        let rest = &self.read[self.taken..];
        let Some((head_bytes, length)) = header(rest) else {
            return Ok(None);
        };
        if length > FRAME_BYTES_MAX {
            return Err(format!("a frame of {length} bytes"));
        }
        if rest.len() < head_bytes + length {
            return Ok(None);
        }
        let start = self.taken + head_bytes;
        let (opcode, payload) = (rest[0] & 0x0f, start..start + length);
        self.taken = payload.end;
        Ok(Some(match opcode {
            0x1 => Frame::Text(payload),
            0x9 => Frame::Ping(payload),
            0x8 => Frame::Close,
            _ => Frame::Other,
        }))
    }

    /// Drops what was handed out; ranges from before no longer hold.
    fn forget(&mut self) {
        self.read.drain(..self.taken);
        self.taken = 0;
        if self.read.is_empty() && self.read.capacity() > QUEUED_BYTES_MAX * 4 {
            self.read = Vec::new();
        }
    }
}

/// Length of a frame's header and of its payload; `None` while the header is not whole.
fn header(bytes: &[u8]) -> Option<(usize, usize)> {
    let wide = |range: std::ops::Range<usize>| {
        let digits = bytes.get(range)?;
        Some(digits.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    match bytes.get(1)? & 0x7f {
        126 => Some((4, wide(2..4)?)),
        127 => Some((10, wide(2..10)?)),
        short => Some((2, usize::from(short))),
    }
}

impl Writer {
    /// A client's frames are masked; a mask of zeros leaves the payload as it is.
    fn queue(&mut self, first: u8, payload: &[u8]) {
        self.queued.push(first);
        match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
            (Ok(short @ 0..=125), _) => self.queued.push(MASKED | short),
            (_, Ok(wide)) => {
                self.queued.push(MASKED | 126);
                self.queued.extend_from_slice(&wide.to_be_bytes());
            }
            _ => {
                self.queued.push(MASKED | 127);
                self.queued.extend_from_slice(&(payload.len() as u64).to_be_bytes());
            }
        }
        self.queued.extend_from_slice(&[0; 4]);
        self.queued.extend_from_slice(payload);
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        let written = self.half.write_all(&self.queued).await;
        self.queued.clear();
        written.map_err(|error| error.to_string())
    }
}

/// An operation of the node, as far as a load test reads it.
#[derive(Deserialize)]
struct Operation<'a> {
    op: &'a str,
    #[serde(rename = "ref", default)]
    reference: Option<&'a str>,
    #[serde(default)]
    body: Option<&'a str>,
    #[serde(default)]
    delivery_id: Option<&'a str>,
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<(), Failure>>>>>;

fn lock(waiting: &Waiting) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<(), Failure>>>> {
    waiting
        .lock()
        .expect("nothing panics while it holds the answers that are waited for")
}

/// A session that sends; a task of its own reads the answers.
#[derive(Debug)]
pub struct SocketSender {
    writer: Writer,
    waiting: Waiting,
    next_reference: u64,
    reading: JoinHandle<()>,
    text: String,
}

impl SocketSender {
    pub async fn open(host: &str, agent: &str) -> Result<Self, Failure> {
        let Socket { reader, mut writer } = Socket::open(host, agent, None).await?;
        let waiting = Waiting::default();
        // Sends only: its inbox is not wanted.
        writer.queue(TEXT, br#"{"op":"credit","messages":0}"#);
        writer.flush().await?;
        Ok(Self {
            writer,
            reading: tokio::spawn(read_answers(reader, waiting.clone())),
            waiting,
            next_reference: 0,
            text: String::new(),
        })
    }

    pub async fn send(&mut self, message: Outgoing<'_>) -> Result<Answer, Failure> {
        self.text.clear();
        self.text.push_str(r#"{"op":"send","#);
        let answer = if message.qos.is_durable() {
            let reference = self.next_reference;
            self.next_reference += 1;
            let _ = write!(self.text, r#""ref":"{reference}","#);
            let (answered, answer) = oneshot::channel();
            lock(&self.waiting).insert(reference, answered);
            Answer::Receipt(answer)
        } else {
            Answer::Done
        };
        write_send(&mut self.text, &message);
        self.text.push('}');
        self.writer.queue(TEXT, self.text.as_bytes());
        if self.writer.queued.len() > QUEUED_BYTES_MAX {
            self.flush().await?;
        }
        Ok(answer)
    }

    pub async fn flush(&mut self) -> Result<(), Failure> {
        self.writer.flush().await
    }
}

impl Drop for SocketSender {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// Hands answers to those who wait. Pings stay unanswered: a run that sends nothing for a minute is not one of these.
async fn read_answers(mut reader: Reader, waiting: Waiting) {
    while let Ok(frame) = reader.next().await {
        match frame {
            Frame::Text(text) => answer(&reader.read[text], &waiting),
            Frame::Close => break,
            Frame::Ping(_) | Frame::Other => {}
        }
    }
    lock(&waiting).clear();
}

fn answer(text: &[u8], waiting: &Waiting) {
    let Ok(operation) = serde_json::from_slice::<Operation<'_>>(text) else {
        return;
    };
    let Some(reference) = operation.reference.and_then(|reference| reference.parse().ok()) else {
        return;
    };
    let outcome = match operation.op {
        "receipt" => Ok(()),
        _ => Err(String::from_utf8_lossy(text).into_owned()),
    };
    if let Some(answered) = lock(waiting).remove(&reference) {
        // Whoever no longer waits needs no answer.
        let _ = answered.send(outcome);
    }
}

/// A session that receives.
#[derive(Debug)]
pub struct SocketReceiver {
    socket: Socket,
    acknowledges: bool,
    /// Received and not acknowledged.
    taken: Vec<String>,
}

impl SocketReceiver {
    pub async fn open(host: &str, agent: &str, receiving: &Receiving) -> Result<Self, Failure> {
        let mut socket = Socket::open(host, agent, None).await?;
        socket.writer.queue(TEXT, br#"{"op":"credit","messages":4294967295}"#);
        if !receiving.topics.is_empty() {
            let topics = serde_json::json!({"op": "subscribe", "topics": receiving.topics, "ref": "s"});
            socket.writer.queue(TEXT, topics.to_string().as_bytes());
        }
        socket.writer.flush().await?;
        if !receiving.topics.is_empty() {
            socket.subscribed().await?;
        }
        Ok(Self {
            socket,
            acknowledges: receiving.qos.is_durable(),
            taken: Vec::new(),
        })
    }

    pub async fn receive(&mut self, into: &mut Vec<Arrival>, max: usize) -> Result<(), Failure> {
        let before = into.len();
        let frame = self.socket.reader.next().await?;
        self.take(frame, into).await?;
        while into.len() - before < max
            && let Some(frame) = self.socket.reader.buffered()?
        {
            self.take(frame, into).await?;
        }
        Ok(())
    }

    async fn take(&mut self, frame: Frame, into: &mut Vec<Arrival>) -> Result<(), Failure> {
        match frame {
            Frame::Text(text) => {
                let text = &self.socket.reader.read[text];
                let operation: Operation<'_> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
                if operation.op == "message" {
                    into.push(operation.body.and_then(|body| Head::read(body.as_bytes())));
                    if self.acknowledges {
                        self.taken.extend(operation.delivery_id.map(str::to_owned));
                    }
                } else if operation.op != "receipt" {
                    return Err(String::from_utf8_lossy(text).into_owned());
                }
            }
            Frame::Ping(payload) => {
                self.socket.writer.queue(PONG, &self.socket.reader.read[payload]);
                self.socket.writer.flush().await?;
            }
            Frame::Close => return Err("the node closed the session".into()),
            Frame::Other => {}
        }
        Ok(())
    }

    pub async fn settle(&mut self) -> Result<(), Failure> {
        if self.taken.is_empty() {
            return Ok(());
        }
        let acks = serde_json::json!({ "op": "ack", "delivery_ids": std::mem::take(&mut self.taken) });
        self.socket.writer.queue(TEXT, acks.to_string().as_bytes());
        self.socket.writer.flush().await
    }
}

impl Socket {
    /// Waits for the answer to the subscription.
    async fn subscribed(&mut self) -> Result<(), Failure> {
        loop {
            if let Frame::Text(text) = self.reader.next().await? {
                let text = &self.reader.read[text];
                let operation: Operation<'_> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
                match (operation.op, operation.reference) {
                    ("receipt", Some("s")) => return Ok(()),
                    ("error", _) => return Err(String::from_utf8_lossy(text).into_owned()),
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_once_it_is_whole() {
        assert_eq!(header(&[0x81]), None);
        assert_eq!(header(&[0x81, 5]), Some((2, 5)));
        assert_eq!(header(&[0x81, 126, 1]), None);
        assert_eq!(header(&[0x81, 126, 1, 2]), Some((4, 258)));
        assert_eq!(header(&[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]), Some((10, 65_536)));
    }
}
