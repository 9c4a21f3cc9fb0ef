//! Many WebSocket sessions that do nothing: what does each of them cost the node?
//!
//! Owns a WebSocket client of a few lines (a handshake, a reader that answers pings) so that the clients cost little beside the
//! node. Sessions come from several loopback addresses: one address has ports and, on the node, connections for few.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use crate::process::Node;

/// Sessions from one source address; the node allows 256 connections an address.
const SESSIONS_PER_ADDRESS: usize = 200;
/// Sessions of one agent; the node allows 8.
const SESSIONS_PER_AGENT: usize = 8;
/// Handshakes at once; the node allows 32 connections an address before they have said who they are.
const HANDSHAKES_AT_ONCE: usize = 16;
/// How long one session may take until its welcome.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// How long the node's memory may settle after the last session was opened.
const SETTLE: Duration = Duration::from_secs(2);
/// Longest frame that the idle client reads, in bytes: a welcome with its limits.
const FRAME_BYTES_MAX: usize = 16 * 1024;

/// What the sessions cost.
#[derive(Debug, Serialize)]
pub struct Idle {
    pub sessions: usize,
    pub rss_bytes_before: u64,
    pub rss_bytes_after: u64,
    pub bytes_per_session: f64,
    /// Sessions that ended while the memory settled; any makes the figure worthless.
    pub lost: usize,
}

/// Opens the sessions, holds them and looks at the node's memory.
pub async fn run(node: &Node, sessions: usize) -> Result<Idle, String> {
    let http = node.http.as_deref().ok_or("the node has no HTTP listener")?;
    let server: SocketAddr = http.parse().map_err(|error| format!("{http}: {error}"))?;
    // The first session pays for what all of them share.
    let mut held = JoinSet::new();
    let open = Arc::new(AtomicUsize::new(0));
    hold(&mut held, &open, open_session(server, 0).await?);
    tokio::time::sleep(SETTLE).await;
    let rss_bytes_before = node.rss_bytes().ok_or("the node's process is not known")?;

    let at_once = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
    let mut opening = JoinSet::new();
    for index in 1..=sessions {
        let at_once = at_once.clone();
        opening.spawn(async move {
            let _turn = at_once.acquire().await.map_err(|error| error.to_string())?;
            open_session(server, index).await
        });
    }
    while let Some(opened) = opening.join_next().await {
        let socket = opened.map_err(|error| error.to_string())??;
        hold(&mut held, &open, socket);
    }
    tokio::time::sleep(SETTLE).await;
    let rss_bytes_after = node.rss_bytes().ok_or("the node's process is gone")?;
    let lost = sessions + 1 - open.load(Ordering::Relaxed);
    held.abort_all();
    let grown = rss_bytes_after.saturating_sub(rss_bytes_before);
    Ok(Idle {
        sessions,
        rss_bytes_before,
        rss_bytes_after,
        bytes_per_session: as_f64(grown) / as_f64(sessions as u64),
        lost,
    })
}

#[allow(clippy::cast_precision_loss, reason = "sizes far below 2^52 bytes")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

/// Answers the node's pings until the session ends.
fn hold(held: &mut JoinSet<()>, open: &Arc<AtomicUsize>, mut socket: BufReader<TcpStream>) {
    open.fetch_add(1, Ordering::Relaxed);
    let open = open.clone();
    held.spawn(async move {
        while let Ok(frame) = read_frame(&mut socket).await {
            match frame {
                Frame::Ping(payload) if socket.write_all(&masked_pong(&payload)).await.is_err() => break,
                Frame::Close => break,
                Frame::Ping(_) | Frame::Other => {}
            }
        }
        open.fetch_sub(1, Ordering::Relaxed);
    });
}

/// The source address of a session: 127.1.0.1 and on.
fn source(index: usize) -> IpAddr {
    let number = u32::try_from(index / SESSIONS_PER_ADDRESS).unwrap_or(u32::MAX);
    let host = Ipv4Addr::new(127, 1, 0, 1).to_bits().saturating_add(number);
    IpAddr::V4(Ipv4Addr::from_bits(host))
}

async fn open_session(server: SocketAddr, index: usize) -> Result<BufReader<TcpStream>, String> {
    let open = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(source(index), 0))?;
        let mut stream = socket.connect(server).await?;
        let agent = format!("idle-{}", index / SESSIONS_PER_AGENT);
        // The key is any 16 bytes; this client trusts the node that it measures and does not check the answer to it.
        let request = format!(
            "GET /ws?agent_id={agent} HTTP/1.1\r\nHost: {server}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Sec-WebSocket-Protocol: weft.v1.json\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut reader = BufReader::with_capacity(512, stream);
        let head = read_head(&mut reader).await?;
        if !head.starts_with("HTTP/1.1 101") {
            return Err(std::io::Error::other(head));
        }
        // The welcome.
        read_frame(&mut reader).await?;
        Ok(reader)
    };
    let late = |_| Err(std::io::Error::other("no welcome in time"));
    let opened = tokio::time::timeout(OPEN_DEADLINE, open).await.unwrap_or_else(late);
    opened.map_err(|error| format!("session {index}: {error} (is `ulimit -n` above the number of sessions?)"))
}

async fn read_head(reader: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < FRAME_BYTES_MAX {
        head.push(reader.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[derive(Debug)]
enum Frame {
    Ping(Vec<u8>),
    Close,
    Other,
}

/// One frame from the node, whose frames are not masked (RFC 6455, section 5.2).
async fn read_frame(reader: &mut BufReader<TcpStream>) -> std::io::Result<Frame> {
    let first = reader.read_u8().await?;
    let length = match reader.read_u8().await? & 0x7f {
        126 => usize::from(reader.read_u16().await?),
        127 => usize::try_from(reader.read_u64().await?).unwrap_or(usize::MAX),
        short => usize::from(short),
    };
    if length > FRAME_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "a frame of {length} bytes on an idle session"
        )));
    }
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await?;
    Ok(match first & 0x0f {
        0x9 => Frame::Ping(payload),
        0x8 => Frame::Close,
        _ => Frame::Other,
    })
}

/// A client's frames are masked; a mask of zeros leaves the payload as it is. Control frames have at most 125 bytes.
fn masked_pong(payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(125)];
    let length = u8::try_from(payload.len()).unwrap_or(125);
    [&[0x8a, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_change_before_an_address_has_too_many() {
        assert_eq!(source(0), source(SESSIONS_PER_ADDRESS - 1));
        assert_eq!(source(SESSIONS_PER_ADDRESS).to_string(), "127.1.0.2");
        assert_eq!(source(SESSIONS_PER_ADDRESS * 255).to_string(), "127.1.1.0");
    }

    #[test]
    fn a_pong_is_masked_and_carries_the_ping_back() {
        assert_eq!(masked_pong(b"hi"), [0x8a, 0x82, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(masked_pong(&[7; 200]).len(), 6 + 125);
    }
}
