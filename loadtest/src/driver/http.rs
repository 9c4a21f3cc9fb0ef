//! HTTP/1.1 with one connection kept alive per session, by hand: a client that costs little beside the node.
//!
//! A connection has one request under way, so what a session sends keeps its order.

use std::{fmt::Write as _, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use weft::frame::{AddressKind, Priority, Qos};

use super::{Answer, Arrival, Failure, Outgoing, Receiving};
use crate::head::Head;

/// Longest response, in bytes: a full poll of the largest bodies that a load test sends.
const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Room for what is read at once, in bytes.
const READ_BYTES: usize = 64 * 1024;
/// Messages of one poll.
const POLL_MESSAGES_MAX: usize = 100;
/// How long a response may take: longer than a poll waits.
const RESPONSE_DEADLINE: Duration = Duration::from_secs(30);

/// A connection that is kept alive.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    host: String,
}

impl Connection {
    /// Connects to `host:port`.
    pub async fn open(host: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(host)
            .await
            .map_err(|error| format!("http://{host}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Self {
            stream,
            read: Vec::with_capacity(READ_BYTES),
            host: host.to_owned(),
        })
    }

    /// A request's bytes, with this body where it has one.
    pub fn request(&self, method: &str, path: &str, body: &str) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        )
    }

    /// Sends a request and waits for its response: the status and the body.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<(u16, &[u8]), Failure> {
        let exchange = async {
            self.stream
                .write_all(request)
                .await
                .map_err(|error| error.to_string())?;
            self.read.clear();
            loop {
                if let Some(response) = parse(&self.read)? {
                    return Ok(response);
                }
                if self.read.len() > RESPONSE_BYTES_MAX {
                    return Err("a response above 64 MiB".into());
                }
                let read = self.stream.read_buf(&mut self.read).await;
                if read.map_err(|error| error.to_string())? == 0 {
                    return Err("the node closed the connection".to_owned());
                }
            }
        };
        let outcome = timeout(RESPONSE_DEADLINE, exchange).await;
        let response = outcome.map_err(|_| "no response in time")??;
        Ok((response.status, &self.read[response.body]))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Response {
    status: u16,
    body: std::ops::Range<usize>,
}

/// A whole response at the start of these bytes; `None` while something is missing.
fn parse(read: &[u8]) -> Result<Option<Response>, Failure> {
    let Some(head_end) = memchr::memmem::find(read, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = &read[..head_end];
    let status = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
    let status = status
        .and_then(|digits| digits.parse().ok())
        .ok_or("not an HTTP response")?;
    let length = content_length(head).ok_or("a response without Content-Length")?;
    let body = head_end + 4..head_end + 4 + length;
    Ok((read.len() >= body.end).then_some(Response { status, body }))
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = lines.find(|line| line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME))?;
    std::str::from_utf8(&line[NAME.len()..]).ok()?.trim().parse().ok()
}

/// The path segment of an id.
fn segment(id: &str) -> String {
    id.replace('/', "%2F")
}

/// A send as JSON, the same over HTTP and WebSocket, without its braces. The body is text that needs no escapes.
pub(super) fn write_send(json: &mut String, message: &Outgoing<'_>) {
    let (field, name) = match message.to.kind() {
        AddressKind::Agent | AddressKind::Session => ("to_agent", "agent:"),
        AddressKind::Group => ("to_group", "group:"),
        AddressKind::Topic => ("to_topic", "topic:"),
        AddressKind::Any => ("to_capability", "any:"),
    };
    let to = message.to.as_str();
    let to = to.strip_prefix(name).unwrap_or(to);
    let body = std::str::from_utf8(&message.body).unwrap_or_default();
    let qos = match message.qos {
        Qos::AtMostOnce => 0,
        Qos::AtLeastOnce => 1,
        Qos::ExactlyOnce => 2,
    };
    let priority = match message.priority {
        Priority::Low => "low",
        Priority::Normal => "normal",
        Priority::High => "high",
        Priority::Critical => "critical",
    };
    let written = write!(
        json,
        r#""{field}":"{to}","priority":"{priority}","qos":{qos},"body":"{body}""#
    );
    written.expect("writing to a string does not fail");
}

/// `POST /messages/send`, one after the other.
#[derive(Debug)]
pub struct HttpSender {
    connection: Connection,
    agent: String,
}

impl HttpSender {
    pub async fn open(host: &str, agent: &str) -> Result<Self, Failure> {
        Ok(Self {
            connection: Connection::open(host).await?,
            agent: agent.to_owned(),
        })
    }

    pub async fn send(&mut self, message: Outgoing<'_>) -> Result<Answer, Failure> {
        let mut json = String::with_capacity(message.body.len() + 256);
        let _ = write!(json, r#"{{"from_agent":"{}","#, self.agent);
        write_send(&mut json, &message);
        json.push('}');
        let request = self.connection.request("POST", "/messages/send", &json);
        match self.connection.exchange(request.as_bytes()).await? {
            (200..=299, _) => Ok(Answer::Done),
            (status, body) => Err(format!("{status}: {}", String::from_utf8_lossy(body))),
        }
    }
}

/// Long polls, one after the other.
#[derive(Debug)]
pub struct HttpReceiver {
    connection: Connection,
    agent: String,
    acks: &'static str,
    /// Received and not handed out.
    waiting: Vec<Arrival>,
    /// Received and not acknowledged.
    taken: Vec<String>,
}

#[derive(Deserialize)]
struct Poll<'a> {
    #[serde(borrow)]
    messages: Vec<Polled<'a>>,
}

#[derive(Deserialize)]
struct Polled<'a> {
    #[serde(default)]
    body: Option<&'a str>,
    #[serde(default)]
    delivery_id: Option<&'a str>,
}

impl HttpReceiver {
    pub async fn open(host: &str, agent: &str, receiving: &Receiving) -> Result<Self, Failure> {
        let mut receiver = Self {
            connection: Connection::open(host).await?,
            agent: segment(agent),
            acks: if receiving.qos.is_durable() { "manual" } else { "auto" },
            waiting: Vec::new(),
            taken: Vec::new(),
        };
        if !receiving.topics.is_empty() {
            let topics = serde_json::json!({ "topics": receiving.topics }).to_string();
            let path = format!("/agents/{}/subscriptions", receiver.agent);
            receiver.call("PUT", &path, &topics).await?;
        }
        // The first poll attaches the agent: without it QoS 0 messages are dropped.
        receiver.poll(0, 1).await?;
        Ok(receiver)
    }

    fn poll_path(&self, wait_s: u32, max: usize) -> String {
        format!(
            "/agents/{}/messages?max={max}&wait={wait_s}s&ack={}",
            self.agent, self.acks
        )
    }

    async fn call(&mut self, method: &str, path: &str, body: &str) -> Result<(), Failure> {
        let request = self.connection.request(method, path, body);
        match self.connection.exchange(request.as_bytes()).await? {
            (200..=299, _) => Ok(()),
            (status, body) => Err(format!("{method} {path}: {status} {}", String::from_utf8_lossy(body))),
        }
    }

    pub async fn receive(&mut self, into: &mut Vec<Arrival>, max: usize) -> Result<(), Failure> {
        if self.waiting.is_empty() {
            self.poll(1, max.min(POLL_MESSAGES_MAX)).await?;
        }
        into.append(&mut self.waiting);
        Ok(())
    }

    async fn poll(&mut self, wait_s: u32, max: usize) -> Result<(), Failure> {
        let path = self.poll_path(wait_s, max);
        let request = self.connection.request("GET", &path, "");
        let (status, body) = self.connection.exchange(request.as_bytes()).await?;
        if status != 200 {
            return Err(format!("GET {path}: {status} {}", String::from_utf8_lossy(body)));
        }
        let poll: Poll<'_> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        for polled in poll.messages {
            self.waiting
                .push(polled.body.and_then(|body| Head::read(body.as_bytes())));
            if self.acks == "manual" {
                self.taken.extend(polled.delivery_id.map(str::to_owned));
            }
        }
        Ok(())
    }

    pub async fn settle(&mut self) -> Result<(), Failure> {
        if self.taken.is_empty() {
            return Ok(());
        }
        let ids = serde_json::json!({ "delivery_ids": std::mem::take(&mut self.taken) }).to_string();
        self.call("POST", &format!("/agents/{}/messages/ack", self.agent), &ids)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_whole_once_its_body_is() {
        let text = b"HTTP/1.1 202 Accepted\r\nContent-length: 4\r\nX: y\r\n\r\nbody";
        let whole = Response {
            status: 202,
            body: text.len() - 4..text.len(),
        };
        assert_eq!(parse(text), Ok(Some(whole)));
        assert_eq!(parse(&text[..text.len() - 1]), Ok(None));
        assert_eq!(parse(b"HTTP/1.1 202 Acc"), Ok(None));
        assert!(parse(b"HTTP/1.1 202 Accepted\r\n\r\n").is_err());
        assert!(parse(b"rubbish\r\n\r\n").is_err());
    }

    #[test]
    fn a_send_is_json_that_names_the_kind_of_its_address() {
        let to = "topic:a/b".parse().expect("well-formed");
        let mut json = "{".to_owned();
        write_send(
            &mut json,
            &Outgoing {
                to: &to,
                body: "text".into(),
                qos: Qos::AtLeastOnce,
                priority: Priority::Critical,
            },
        );
        json.push('}');
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(
            value,
            serde_json::json!({"to_topic": "a/b", "priority": "critical", "qos": 1, "body": "text"})
        );
    }
}
