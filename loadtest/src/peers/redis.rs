//! Redis by hand: publish and subscribe, and streams with a consumer group.

use std::{
    io::{Error, Result},
    net::SocketAddr,
};

use super::wire::Wire;

/// A connection.
#[derive(Debug)]
pub struct Redis {
    pub wire: Wire,
    /// Answers that are still to come.
    unanswered: u64,
    /// Bytes of one pushed message, once it is known: all of a subject's messages have the same size here.
    message_bytes: Option<usize>,
    subject: String,
}

impl Redis {
    /// Connects.
    pub fn open(server: SocketAddr) -> Result<Self> {
        Ok(Self {
            wire: Wire::open(server)?,
            unanswered: 0,
            message_bytes: None,
            subject: String::new(),
        })
    }

    /// A command as the protocol writes it.
    pub fn command(parts: &[&[u8]]) -> Vec<u8> {
        let mut command = format!("*{}\r\n", parts.len()).into_bytes();
        for part in parts {
            command.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            command.extend_from_slice(part);
            command.extend_from_slice(b"\r\n");
        }
        command
    }

    /// A line of an answer; an error where it is one.
    pub fn answer(&mut self) -> Result<Vec<u8>> {
        let line = self.wire.line()?;
        if line.first() == Some(&b'-') {
            return Err(Error::other(String::from_utf8_lossy(&line).into_owned()));
        }
        Ok(line)
    }

    /// Subscribes.
    pub fn subscribe(&mut self, subject: &str) -> Result<()> {
        self.subject = subject.to_owned();
        self.wire.write(&Self::command(&[b"SUBSCRIBE", subject.as_bytes()]))?;
        // *3, $9, subscribe, $n, subject, :1
        for _ in 0..6 {
            self.answer()?;
        }
        Ok(())
    }

    /// Writes publications, then reads the answers to those before: one write is always under way.
    pub fn publish(&mut self, bytes: &[u8], messages: u64) -> Result<()> {
        self.wire.write(bytes)?;
        for _ in 0..std::mem::replace(&mut self.unanswered, messages) {
            self.answer()?;
        }
        Ok(())
    }

    /// Waits for messages and counts those that are there.
    pub fn messages(&mut self) -> Result<u64> {
        let bytes = match self.message_bytes {
            Some(bytes) => bytes,
            None => self.measure()?,
        };
        while self.wire.buffered().len() < bytes {
            self.wire.fill()?;
        }
        let count = self.wire.buffered().len() / bytes;
        self.wire.take(count * bytes);
        Ok(count as u64)
    }

    /// `*3 $7 message $n subject $m body`: how long all that is.
    fn measure(&mut self) -> Result<usize> {
        let head = format!(
            "*3\r\n$7\r\nmessage\r\n${}\r\n{}\r\n$",
            self.subject.len(),
            self.subject
        );
        loop {
            let there = self.wire.buffered();
            if let Some(end) = memchr::memmem::find(there.get(head.len()..).unwrap_or_default(), b"\r\n") {
                let digits = &there[head.len()..head.len() + end];
                let body = std::str::from_utf8(digits)
                    .ok()
                    .and_then(|digits| digits.parse::<usize>().ok());
                let body = body.filter(|_| there.starts_with(head.as_bytes()));
                let body = body.ok_or_else(|| Error::other("not a pushed message"))?;
                let bytes = head.len() + end + 2 + body + 2;
                self.message_bytes = Some(bytes);
                return Ok(bytes);
            }
            self.wire.fill()?;
        }
    }

    /// The number of a line such as `:3`, `$12` or `*2`.
    pub fn number(line: &[u8]) -> i64 {
        let digits = line.get(1..).and_then(|digits| std::str::from_utf8(digits).ok());
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(-1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_names_the_length_of_its_parts() {
        assert_eq!(Redis::command(&[b"DEL", b"ab"]), b"*2\r\n$3\r\nDEL\r\n$2\r\nab\r\n");
        assert_eq!(Redis::number(b"*12"), 12);
        assert_eq!(Redis::number(b"$-1"), -1);
    }
}
