//! NATS by hand: publishing, subscribing, requests, and JetStream's acknowledged publishing.

use std::{
    io::{Error, Result},
    net::SocketAddr,
};

use super::{client::Security, wire::Wire};

const CONNECT: &[u8] = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"loadtest\",\"version\":\"1\",\
\"protocol\":1,\"headers\":true,\"no_responders\":true}\r\nPING\r\n";

/// A connection.
#[derive(Debug)]
pub struct Nats {
    pub wire: Wire,
}

/// What the server said.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// A message of so many bytes in all, the reply subject where it has one.
    Message {
        bytes: usize,
        reply: Option<String>,
        head: usize,
    },
    Ping,
    Pong,
    Other,
}

impl Nats {
    /// Connects; goes on encrypted where that is asked for.
    pub fn open(server: SocketAddr, security: &Security) -> Result<Self> {
        let mut wire = Wire::open(server)?;
        wire.line()?;
        if let Security::Tls(authority) = security {
            wire = wire.encrypt(authority.clone())?;
        }
        let mut client = Self { wire };
        client.wire.write(CONNECT)?;
        client.pong()?;
        Ok(client)
    }

    /// Subscribes.
    pub fn subscribe(&mut self, subject: &str) -> Result<()> {
        self.wire.write(format!("SUB {subject} 1\r\nPING\r\n").as_bytes())?;
        self.pong()
    }

    /// The bytes that publish one message.
    pub fn publication(subject: &str, reply: Option<&str>, body: &[u8]) -> Vec<u8> {
        let reply = reply.map(|reply| format!("{reply} ")).unwrap_or_default();
        let head = format!("PUB {subject} {reply}{}\r\n", body.len());
        [head.as_bytes(), body, b"\r\n"].concat()
    }

    fn pong(&mut self) -> Result<()> {
        loop {
            match said(&self.wire.line()?)? {
                Said::Pong => return Ok(()),
                Said::Ping => self.wire.write(b"PONG\r\n")?,
                Said::Message { bytes, .. } => self.wire.skip(bytes + 2)?,
                Said::Other => {}
            }
        }
    }

    /// Waits for messages and counts those that are there.
    pub fn messages(&mut self) -> Result<u64> {
        let mut count = 0;
        loop {
            while let Some(at) = memchr::memchr(b'\n', self.wire.buffered()) {
                match said(self.wire.buffered()[..at].trim_ascii_end())? {
                    Said::Message { bytes, .. } => {
                        let whole = at + 1 + bytes + 2;
                        if self.wire.buffered().len() < whole {
                            break;
                        }
                        self.wire.take(whole);
                        count += 1;
                    }
                    Said::Ping => {
                        self.wire.take(at + 1);
                        self.wire.write(b"PONG\r\n")?;
                    }
                    Said::Pong | Said::Other => self.wire.take(at + 1),
                }
            }
            if count > 0 {
                return Ok(count);
            }
            self.wire.fill()?;
        }
    }

    /// Waits for one message; returns its reply subject and body.
    pub fn message(&mut self) -> Result<(Option<String>, Vec<u8>)> {
        loop {
            match said(&self.wire.line()?)? {
                Said::Message { bytes, reply, head } => {
                    while self.wire.buffered().len() < bytes + 2 {
                        self.wire.fill()?;
                    }
                    let body = self.wire.buffered()[head..bytes].to_vec();
                    self.wire.take(bytes + 2);
                    return Ok((reply, body));
                }
                Said::Ping => self.wire.write(b"PONG\r\n")?,
                Said::Pong | Said::Other => {}
            }
        }
    }

    /// Asks the server's own API and returns its answer.
    pub fn ask(&mut self, subject: &str, inbox: &str, request: &str) -> Result<String> {
        let request = Self::publication(subject, Some(inbox), request.as_bytes());
        self.wire.write(&request)?;
        let (_, body) = self.message()?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

/// What a line says: `MSG subject sid [reply] bytes`, `HMSG subject sid [reply] head bytes`.
fn said(line: &[u8]) -> Result<Said> {
    let message = |words: &[&str], heads: usize| {
        let number = |from_end: usize| {
            let word = words.len().checked_sub(from_end).and_then(|at| words.get(at));
            word.and_then(|word| word.parse().ok())
                .ok_or_else(|| Error::other(format!("not NATS: {}", words.join(" "))))
        };
        Ok(Said::Message {
            bytes: number(1)?,
            head: if heads == 1 { number(2)? } else { 0 },
            reply: (words.len() == 5 + heads).then(|| words[3].to_owned()),
        })
    };
    match line.first() {
        Some(b'M' | b'H') => {
            let text = std::str::from_utf8(line).map_err(Error::other)?;
            let words: Vec<&str> = text.split_ascii_whitespace().collect();
            message(&words, usize::from(line[0] == b'H'))
        }
        Some(b'P') => Ok(if line.starts_with(b"PING") {
            Said::Ping
        } else {
            Said::Pong
        }),
        Some(b'-') => Err(Error::other(String::from_utf8_lossy(line).into_owned())),
        _ => Ok(Said::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_protocol_are_told_apart() {
        let message = |bytes, reply: Option<&str>, head| Said::Message {
            bytes,
            reply: reply.map(str::to_owned),
            head,
        };
        let said = |line: &[u8]| said(line).map_err(|error| error.to_string());
        assert_eq!(said(b"MSG a 1 5"), Ok(message(5, None, 0)));
        assert_eq!(said(b"MSG a 1 _INBOX.b 5"), Ok(message(5, Some("_INBOX.b"), 0)));
        assert_eq!(said(b"HMSG a 1 12 17"), Ok(message(17, None, 12)));
        assert_eq!(said(b"PING"), Ok(Said::Ping));
        assert_eq!(said(b"-ERR 'Slow Consumer'"), Err("-ERR 'Slow Consumer'".to_owned()));
    }

    #[test]
    fn a_publication_says_how_long_its_body_is() {
        assert_eq!(Nats::publication("a", None, b"xy"), b"PUB a 2\r\nxy\r\n");
        assert_eq!(Nats::publication("a", Some("b"), b""), b"PUB a b 0\r\n\r\n");
    }
}
