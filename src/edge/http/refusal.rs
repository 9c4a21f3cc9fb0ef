//! What hyper refuses by itself, told as every other error is: with a problem document.
//!
//! A head that hyper cannot parse, or that is larger than its buffer, reaches no service; hyper answers it with a status and an
//! empty body and ends the connection. It has no hook for that answer, so the connection exchanges it on its way out. Start at
//! [`Refusal::in_place_of`]. `tests/http.rs` notices where another version of hyper writes it differently.

use super::head::HeadLimits;
use crate::edge::json::{EdgeError, Problem};

/// An answer that is written in place of hyper's.
#[derive(Debug)]
pub(super) struct Refusal {
    text: Vec<u8>,
    written: usize,
}

impl Refusal {
    /// The answer with its problem, where `bytes` are a refusal of hyper's own: a whole answer of a client's error, with no body
    /// and no media type. The edge itself never answers so; a body that is cut at such a place cannot look so, for JSON has its
    /// line breaks escaped.
    pub fn in_place_of(bytes: &[u8], limits: HeadLimits) -> Option<Self> {
        let head = bytes.strip_prefix(b"HTTP/1.1 4")?.strip_suffix(b"\r\n\r\n")?;
        let head = std::str::from_utf8(head).ok()?;
        let (status, headers) = head.split_once("\r\n")?;
        let is_bare = headers.contains("content-length: 0") && !headers.contains("content-type");
        if !is_bare || headers.contains("\r\n\r\n") {
            return None;
        }
        let error = match status.get(..2)? {
            "00" => EdgeError::MalformedHead {
                detail: "it is not HTTP/1.1 as RFC 9112 has it".into(),
            },
            "14" | "31" => limits.exceeded(),
            _ => return None,
        };
        Some(Self::of(&error.into(), headers))
    }

    fn of(problem: &Problem, headers: &str) -> Self {
        let body = problem.to_json();
        let phrase = axum::http::StatusCode::from_u16(problem.status).ok();
        let phrase = phrase.and_then(|status| status.canonical_reason()).unwrap_or_default();
        let kept = headers.replace("content-length: 0", &format!("content-length: {}", body.len()));
        let mut text = format!(
            "HTTP/1.1 {} {phrase}\r\ncontent-type: {}\r\ncache-control: no-store\r\n\
             x-content-type-options: nosniff\r\n{kept}\r\n\r\n",
            problem.status,
            Problem::MEDIA_TYPE,
        )
        .into_bytes();
        text.extend_from_slice(&body);
        Self { text, written: 0 }
    }

    /// What is still to be written.
    pub fn left(&self) -> &[u8] {
        &self.text[self.written..]
    }

    /// Notes that so many of [`Refusal::left`] were written.
    pub fn advance(&mut self, written: usize) {
        self.written = (self.written + written).min(self.text.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        bytes_max: 16384,
        headers_max: 64,
    };

    #[test]
    fn a_bare_refusal_gets_its_problem_and_keeps_its_headers() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\
                     date: Sun, 22 Nov 2026 18:50:13 GMT\r\n\r\n";
        let refusal = Refusal::in_place_of(bare, LIMITS).unwrap();
        let text = std::str::from_utf8(refusal.left()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with(
                "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/problem+json\r\n"
            )
        );
        assert!(head.contains("\r\nconnection: close\r\n") && head.ends_with("18:50:13 GMT"));
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())));
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (&problem["code"], &problem["status"]),
            (&"WEFT-2014".into(), &431.into())
        );
    }

    #[test]
    fn everything_else_passes_as_it_is() {
        for bytes in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 5\r\n\r\nhello",
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 4\r\n\r\n",
            b"HTTP/1.1 4",
            b"",
            b"\x82\x7e",
        ] {
            assert!(Refusal::in_place_of(bytes, LIMITS).is_none(), "{bytes:?}");
        }
    }
}
