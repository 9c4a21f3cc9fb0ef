//! RFC 6455 for a server: bytes in, whole messages out, and back. No I/O, no clock, no buffer while idle.
//!
//! tungstenite speaks the protocol: it unmasks, joins fragments, checks UTF-8 and the rules, answers pings and closes. In
//! front of it each frame is judged by its header, because tungstenite looks at some of them only behind the payload, which an
//! attacker need not send, and counts no fragments. permessage-deflate, which tungstenite has not, is put around it. A message
//! gets a context of its own, so that neither an idle session nor a waiting message holds a buffer of the library's.
//! Start at [`Decoder`].

use std::io::{self, Cursor, Read, Write};

use bytes::{Buf, Bytes, BytesMut};
use tungstenite::{
    Error, Message,
    protocol::{
        Role, WebSocketConfig, WebSocketContext,
        frame::{
            CloseFrame, Frame, FrameHeader,
            coding::{CloseCode, Control, Data, OpCode},
        },
    },
};

use super::deflate;

/// Most fragments of one message: a client that streams a 1 MiB message in 1 KiB pieces passes, one that never ends does not.
const FRAGMENTS_MAX: u32 = 4096;
/// Longest payload of a control frame (RFC 6455 §5.5), in bytes.
const CONTROL_BYTES_MAX: usize = 125;
/// What a close frame's reason may take beside its code, in bytes.
const REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;
/// Turns the first byte of a deflated text into that of a binary message (RSV1 off, opcode 1 to 2): tungstenite knows no
/// extension and would look for UTF-8 in what is not inflated yet.
const DEFLATED_TEXT_TO_BINARY: u8 = 0x40 | 0x01 | 0x02;

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A whole text message, inflated and known to be UTF-8.
    Text(Bytes),
    /// A whole binary message, of a decoder that takes those.
    Binary(Bytes),
    /// Answered already.
    Ping,
    Pong,
    /// The client closes. Answered already: nothing may be written behind it.
    Close,
}

/// Why the connection must be closed. The client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// Not RFC 6455 (close code 1002).
    Protocol(&'static str),
    /// A binary message where the subprotocol has text, or the other way (1003).
    WrongKind,
    /// Text that is not UTF-8 (1007).
    NotUtf8,
    /// A message over the limit (1009).
    TooLarge,
}

impl Violation {
    pub(super) const fn close_code(self) -> CloseCode {
        match self {
            Self::Protocol(_) => CloseCode::Protocol,
            Self::WrongKind => CloseCode::Unsupported,
            Self::NotUtf8 => CloseCode::Invalid,
            Self::TooLarge => CloseCode::Size,
        }
    }

    /// What went wrong, for the goodbye and the close frame; at most 123 bytes.
    pub(super) const fn detail(self) -> &'static str {
        match self {
            Self::Protocol(detail) => detail,
            Self::WrongKind => "the subprotocol has text or binary messages, and this was one of the other kind",
            Self::NotUtf8 => "the text is not UTF-8",
            Self::TooLarge => "the message is larger than this node takes",
        }
    }
}

impl From<Error> for Violation {
    fn from(error: Error) -> Self {
        use tungstenite::error::ProtocolError as Broken;
        match error {
            Error::Capacity(_) => Self::TooLarge,
            Error::Utf8(_) => Self::NotUtf8,
            Error::Protocol(broken) => Self::Protocol(match broken {
                Broken::NonZeroReservedBits => "a reserved bit is set",
                Broken::FragmentedControlFrame => "a control frame must not be fragmented",
                Broken::UnexpectedContinueFrame => "a continuation without a message to continue",
                Broken::ExpectedFragment(_) => "a new message inside a fragmented one",
                Broken::InvalidOpcode(_) => "the opcode is reserved",
                Broken::InvalidCloseSequence => "a close frame's code has two bytes",
                _ => "the frame is not one of RFC 6455",
            }),
            _ => Self::Protocol("the frame cannot be read"),
        }
    }
}

/// Whether permessage-deflate was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Off,
    /// Without context takeover, both ways.
    Deflate,
}

/// A frame whose header passed, whether its payload is there or not.
struct Judged {
    header: FrameHeader,
    header_bytes: usize,
    payload_bytes: usize,
}

/// A message whose last fragment is still to come.
#[derive(Debug)]
struct Partial {
    /// Holds the fragments. Boxed, so that a session that is not within a message is small.
    context: Box<WebSocketContext>,
    fragments: u32,
    /// Of all fragments, as sent.
    payload_bytes: usize,
    is_deflated: bool,
}

/// Turns a client's bytes into messages.
#[derive(Debug)]
pub(super) struct Decoder {
    message_bytes_max: usize,
    compression: Compression,
    takes: Kind,
    partial: Option<Partial>,
}

/// What kind of messages a subprotocol has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
}

impl Decoder {
    /// `message_bytes_max` bounds one message, inflated and as sent.
    pub(super) const fn new(message_bytes_max: usize, compression: Compression) -> Self {
        Self {
            message_bytes_max,
            compression,
            takes: Kind::Text,
            partial: None,
        }
    }

    /// One that takes binary messages, as they were sent.
    pub(super) fn binary(message_bytes_max: usize) -> Self {
        Self {
            takes: Kind::Binary,
            ..Self::new(message_bytes_max, Compression::Off)
        }
    }

    /// True between a message's first fragment and its last.
    pub(super) const fn is_mid_message(&self) -> bool {
        self.partial.is_some()
    }

    /// Takes the next message out of `input` and appends what the protocol answers by itself to `output`; `None` where more
    /// bytes are needed. After a violation or a close nothing more can be read.
    pub(super) fn next(&mut self, input: &mut BytesMut, output: &mut Vec<u8>) -> Result<Option<Incoming>, Violation> {
        while let Some(judged) = self.judge(input)? {
            if input.len() - judged.header_bytes < judged.payload_bytes {
                return Ok(None);
            }
            let frame_bytes = judged.header_bytes + judged.payload_bytes;
            let taken = self.take(&judged, &mut input[..frame_bytes], output)?;
            input.advance(frame_bytes);
            if taken.is_some() {
                return Ok(taken);
            }
        }
        Ok(None)
    }

    /// Reads the header at the front of `input` and refuses what must not be waited for; `None` where it is not whole.
    fn judge(&self, input: &[u8]) -> Result<Option<Judged>, Violation> {
        let mut cursor = Cursor::new(input);
        let Some((header, payload_bytes)) = FrameHeader::parse(&mut cursor)? else {
            return Ok(None);
        };
        if header.mask.is_none() {
            return Err(Violation::Protocol("a client's frames must be masked"));
        }
        if payload_bytes >> 63 != 0 {
            return Err(Violation::Protocol("a length must be below 2^63"));
        }
        let payload_bytes = usize::try_from(payload_bytes).map_err(|_| Violation::TooLarge)?;
        match header.opcode {
            OpCode::Control(_) if payload_bytes > CONTROL_BYTES_MAX => {
                return Err(Violation::Protocol("a control frame carries at most 125 bytes"));
            }
            OpCode::Control(_) => {}
            OpCode::Data(Data::Binary) if self.takes == Kind::Text => return Err(Violation::WrongKind),
            OpCode::Data(Data::Text) if self.takes == Kind::Binary => return Err(Violation::WrongKind),
            OpCode::Data(_) => self.judge_fragment(payload_bytes)?,
        }
        let may_be_deflated = self.compression == Compression::Deflate && header.opcode == OpCode::Data(Data::Text);
        if header.rsv1 && !may_be_deflated {
            return Err(Violation::Protocol("the compression bit is set where it may not be"));
        }
        Ok(Some(Judged {
            header,
            header_bytes: usize::try_from(cursor.position()).expect("a header has at most 14 bytes"),
            payload_bytes,
        }))
    }

    fn judge_fragment(&self, payload_bytes: usize) -> Result<(), Violation> {
        let (fragments, held) = self
            .partial
            .as_ref()
            .map_or((0, 0), |partial| (partial.fragments, partial.payload_bytes));
        if payload_bytes > self.message_bytes_max.saturating_sub(held) {
            return Err(Violation::TooLarge);
        }
        if fragments >= FRAGMENTS_MAX {
            return Err(Violation::Protocol("the message has too many fragments"));
        }
        Ok(())
    }

    /// Hands one whole frame to tungstenite.
    fn take(&mut self, judged: &Judged, frame: &mut [u8], output: &mut Vec<u8>) -> Result<Option<Incoming>, Violation> {
        if judged.header.rsv1 {
            frame[0] ^= DEFLATED_TEXT_TO_BINARY;
        }
        let is_data = matches!(judged.header.opcode, OpCode::Data(_));
        let mut partial = self.partial.take().unwrap_or_else(|| Partial {
            context: Box::new(self.context(frame.len())),
            fragments: 0,
            payload_bytes: 0,
            is_deflated: judged.header.rsv1,
        });
        let (header, payload) = frame.split_at(judged.header_bytes);
        let mut pipe = Pipe {
            header,
            payload,
            output,
        };
        let message = match partial.context.read(&mut pipe) {
            Ok(message) => message,
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                partial.fragments += 1;
                partial.payload_bytes += judged.payload_bytes;
                self.partial = Some(partial);
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let incoming = match message {
            Message::Text(text) if self.takes == Kind::Text => Incoming::Text(text.into()),
            Message::Binary(deflated) if partial.is_deflated => self.inflated(&deflated)?,
            Message::Binary(bytes) if self.takes == Kind::Binary => Incoming::Binary(bytes),
            Message::Text(_) | Message::Binary(_) | Message::Frame(_) => return Err(Violation::WrongKind),
            Message::Pong(_) => Incoming::Pong,
            Message::Ping(_) => {
                partial.context.flush(&mut pipe)?;
                Incoming::Ping
            }
            Message::Close(_) => {
                // Writes the answer, then calls the connection closed: that is no error here.
                match partial.context.flush(&mut pipe) {
                    Ok(()) | Err(Error::ConnectionClosed) => Incoming::Close,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        if !is_data && partial.fragments > 0 {
            self.partial = Some(partial);
        }
        Ok(Some(incoming))
    }

    /// A context whose buffer is as large as its first frame: the message's body may keep it for as long as it waits in a queue.
    fn context(&self, frame_bytes: usize) -> WebSocketContext {
        let config = WebSocketConfig::default()
            .read_buffer_size(frame_bytes)
            .write_buffer_size(0)
            .max_message_size(Some(self.message_bytes_max))
            .max_frame_size(Some(self.message_bytes_max.max(CONTROL_BYTES_MAX)));
        WebSocketContext::new(Role::Server, Some(config))
    }

    fn inflated(&self, deflated: &[u8]) -> Result<Incoming, Violation> {
        let text = deflate::inflate(deflated, self.message_bytes_max)?;
        match std::str::from_utf8(&text) {
            Ok(_) => Ok(Incoming::Text(text.into())),
            Err(_) => Err(Violation::NotUtf8),
        }
    }
}

/// The connection as tungstenite sees it: one frame to read, and memory to write to.
struct Pipe<'a> {
    /// Read alone: tungstenite makes room for a payload beside as much of it as came with the header.
    header: &'a [u8],
    payload: &'a [u8],
    output: &'a mut Vec<u8>,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match (self.header, self.payload) {
            // The end of the frame is not the end of the connection.
            ([], []) => Err(io::ErrorKind::WouldBlock.into()),
            ([], _) => self.payload.read(buffer),
            _ => self.header.read(buffer),
        }
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Appends a text message in one frame, deflated where that was agreed on and pays.
pub(super) fn encode_text(text: &[u8], compression: Compression, into: &mut Vec<u8>) {
    let mut header = FrameHeader {
        opcode: OpCode::Data(Data::Text),
        ..FrameHeader::default()
    };
    if compression == Compression::Deflate && text.len() >= deflate::WORTH_BYTES_MIN {
        header.rsv1 = deflate::with_deflated(text, |deflated| {
            let pays = deflated.len() < text.len();
            if pays {
                let header = FrameHeader {
                    rsv1: true,
                    ..header.clone()
                };
                encode_frame(&header, deflated, into);
            }
            pays
        });
    }
    if !header.rsv1 {
        encode_frame(&header, text, into);
    }
}

/// Appends a binary message in one frame.
pub(super) fn encode_binary(bytes: &[u8], into: &mut Vec<u8>) {
    let header = FrameHeader {
        opcode: OpCode::Data(Data::Binary),
        ..FrameHeader::default()
    };
    encode_frame(&header, bytes, into);
}

pub(super) fn encode_ping(into: &mut Vec<u8>) {
    let header = FrameHeader {
        opcode: OpCode::Control(Control::Ping),
        ..FrameHeader::default()
    };
    encode_frame(&header, &[], into);
}

/// Appends a close frame; the reason is cut to what a control frame carries.
pub(super) fn encode_close(code: CloseCode, reason: &str, into: &mut Vec<u8>) {
    let reason = reason[..reason.floor_char_boundary(REASON_BYTES_MAX)].to_owned();
    let close = CloseFrame {
        code,
        reason: reason.into(),
    };
    Frame::close(Some(close))
        .format(into)
        .expect("memory takes every write");
}

fn encode_frame(header: &FrameHeader, payload: &[u8], into: &mut Vec<u8>) {
    let payload_bytes = payload.len() as u64;
    into.reserve(header.len(payload_bytes) + payload.len());
    header.format(payload_bytes, into).expect("memory takes every write");
    into.extend_from_slice(payload);
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const MAX: usize = 1000;
    pub(super) const MASK: [u8; 4] = [1, 2, 3, 4];
    pub(super) const FIN: u8 = 0x80;

    pub(super) fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader {
            is_final: first & FIN != 0,
            rsv1: first & 0x40 != 0,
            rsv2: first & 0x20 != 0,
            rsv3: first & 0x10 != 0,
            opcode: OpCode::from(first & 0x0f),
            mask: Some(MASK),
        };
        let mut frame = Vec::new();
        Frame::from_payload(header, Bytes::copy_from_slice(payload))
            .format(&mut frame)
            .unwrap();
        frame
    }

    /// What came of a client's bytes: the messages, how it ended, and what was answered.
    #[derive(Debug, PartialEq)]
    pub(super) struct Decoded {
        pub messages: Vec<Incoming>,
        pub end: Result<(), Violation>,
        pub answers: Vec<u8>,
    }

    pub(super) fn decode(reads: &[&[u8]], max: usize, compression: Compression) -> Decoded {
        let (mut decoder, mut input) = (Decoder::new(max, compression), BytesMut::new());
        let (mut messages, mut answers) = (Vec::new(), Vec::new());
        for read in reads {
            input.extend_from_slice(read);
            loop {
                let end = match decoder.next(&mut input, &mut answers) {
                    Ok(None) => break,
                    Ok(Some(incoming)) => {
                        messages.push(incoming);
                        (messages.last() == Some(&Incoming::Close)).then_some(Ok(()))
                    }
                    Err(violation) => Some(Err(violation)),
                };
                if let Some(end) = end {
                    return Decoded { messages, end, answers };
                }
            }
        }
        let end = Ok(());
        Decoded { messages, end, answers }
    }

    fn decode_all(bytes: &[u8], compression: Compression) -> Result<Vec<Incoming>, Violation> {
        let decoded = decode(&[bytes], MAX, compression);
        decoded.end.map(|()| decoded.messages)
    }

    fn violation(bytes: &[u8]) -> CloseCode {
        decode_all(bytes, Compression::Off)
            .expect_err("must be refused")
            .close_code()
    }

    #[test]
    fn the_rfcs_own_examples_decode() {
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(
            decode_all(&hello, Compression::Off),
            Ok(vec![Incoming::Text("Hello".into())])
        );
        let ping = [0x89, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let decoded = decode(&[&ping], MAX, Compression::Off);
        assert_eq!(decoded.messages, [Incoming::Ping]);
        assert_eq!(decoded.answers, b"\x8a\x05Hello");
        // RFC 7692 §7.2.3.1: "Hello" deflated, masked here.
        let deflated = client_frame(0xc1, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
        assert_eq!(
            decode_all(&deflated, Compression::Deflate),
            Ok(vec![Incoming::Text("Hello".into())])
        );
    }

    #[test]
    fn golden_bytes_of_what_the_server_writes() {
        let mut out = Vec::new();
        encode_text(b"Hello", Compression::Deflate, &mut out);
        encode_ping(&mut out);
        encode_close(CloseCode::Policy, "no", &mut out);
        let golden: &[u8] = b"\x81\x05Hello\x89\x00\x88\x04\x03\xf0no";
        assert_eq!(out, golden);
    }

    #[test]
    fn fragments_join_and_control_frames_may_stand_between_them() {
        let mut bytes = client_frame(0x01, b"Hel");
        bytes.extend(client_frame(0x89, b"p"));
        bytes.extend(client_frame(0x00, b""));
        bytes.extend(client_frame(0x8a, b""));
        bytes.extend(client_frame(0x80, b"lo"));
        let decoded = decode(&[&bytes], MAX, Compression::Off);
        let expected = [Incoming::Ping, Incoming::Pong, Incoming::Text("Hello".into())];
        assert_eq!(decoded.messages, expected);
        assert_eq!(decoded.answers, b"\x8a\x01p");
    }

    #[test]
    fn a_header_alone_is_enough_to_refuse_a_frame() {
        // No payload follows in any of these: waiting for it would be the attack's success.
        let long = |first: u8, bytes: u64| [&[first, 0xff][..], &bytes.to_be_bytes(), &MASK].concat();
        for (case, header, code) in [
            ("2^63", long(0x81, 1 << 63), CloseCode::Protocol),
            ("far too large", long(0x81, 1 << 40), CloseCode::Size),
            ("unmasked", vec![0x81, 0x05], CloseCode::Protocol),
            ("oversized ping", long(0x89, 70_000), CloseCode::Protocol),
            ("oversized pong", long(0x8a, 126), CloseCode::Protocol),
            ("oversized close", long(0x88, 126), CloseCode::Protocol),
            ("compressed unasked", vec![0xc1, 0x85, 1, 2, 3, 4], CloseCode::Protocol),
            ("compressed ping", vec![0xc9, 0x85, 1, 2, 3, 4], CloseCode::Protocol),
            ("reserved opcode", vec![0x83, 0x85, 1, 2, 3, 4], CloseCode::Protocol),
            ("binary", vec![0x82, 0x85, 1, 2, 3, 4], CloseCode::Unsupported),
        ] {
            assert_eq!(violation(&header), code, "{case}");
        }
    }

    #[test]
    fn frames_that_break_the_rules_are_refused() {
        for (case, first) in [
            ("fragmented ping", 0x09),
            ("reserved control opcode", 0x8b),
            ("second reserved bit", 0xa1),
            ("third reserved bit", 0x91),
            ("continuation of nothing", 0x80),
        ] {
            assert_eq!(violation(&client_frame(first, b"")), CloseCode::Protocol, "{case}");
        }
        let mut nested = client_frame(0x01, b"one");
        nested.extend(client_frame(0x81, b"two"));
        assert_eq!(violation(&nested), CloseCode::Protocol);
        let mut nested = client_frame(0x41, b"one");
        nested.extend(client_frame(0xc0, b"two"));
        let refused = decode_all(&nested, Compression::Deflate).unwrap_err();
        assert_eq!(refused.close_code(), CloseCode::Protocol, "the bit on a continuation");
    }

    #[test]
    fn the_message_limit_counts_all_fragments_together() {
        let mut bytes = client_frame(0x01, &[b'a'; 600]);
        bytes.extend(client_frame(0x80, &[b'a'; 400]));
        assert_eq!(decode_all(&bytes, Compression::Off).map(|all| all.len()), Ok(1));
        let mut bytes = client_frame(0x01, &[b'a'; 600]);
        bytes.extend(&client_frame(0x80, &[b'a'; 401])[..8]);
        assert_eq!(violation(&bytes), CloseCode::Size);
    }

    #[test]
    fn fragments_without_end_are_refused_though_they_are_empty_and_pings_stand_between() {
        let mut bytes = client_frame(0x01, b"");
        for _ in 0..FRAGMENTS_MAX {
            bytes.extend(client_frame(0x89, b""));
            bytes.extend(client_frame(0x00, b""));
        }
        assert_eq!(violation(&bytes), CloseCode::Protocol);
    }

    #[test]
    fn text_and_close_reasons_must_be_utf8() {
        assert_eq!(violation(&client_frame(0x81, &[0xff])), CloseCode::Invalid);
        assert_eq!(violation(&client_frame(0x88, &[0x03, 0xe8, 0xff])), CloseCode::Invalid);
        assert_eq!(violation(&client_frame(0x88, &[3])), CloseCode::Protocol);
        let mut cut = client_frame(0x01, &[0xc3]);
        cut.extend(client_frame(0x80, &[0xa9]));
        assert_eq!(
            decode_all(&cut, Compression::Off),
            Ok(vec![Incoming::Text("é".into())]),
            "a character may be cut by fragments"
        );
        let deflated = deflate::with_deflated(&[0xff], <[u8]>::to_vec);
        let refused = decode_all(&client_frame(0xc1, &deflated), Compression::Deflate);
        assert_eq!(refused, Err(Violation::NotUtf8));
    }

    #[test]
    fn a_close_is_answered_with_its_own_code_and_a_code_that_may_not_be_sent_with_1002() {
        let answer = |payload: &[u8]| {
            let decoded = decode(&[&client_frame(0x88, payload)], MAX, Compression::Off);
            assert_eq!((decoded.messages, decoded.end), (vec![Incoming::Close], Ok(())));
            decoded.answers
        };
        assert_eq!(answer(b""), b"\x88\x00");
        for code in [1000_u16, 1001, 1003, 1011, 3000, 4999] {
            let payload = [&code.to_be_bytes()[..], b"bye"].concat();
            assert_eq!(answer(&payload), [&[0x88, 5][..], &payload].concat(), "{code}");
        }
        for code in [0_u16, 999, 1004, 1005, 1006, 1015, 2000, 5000] {
            let answer = answer(&code.to_be_bytes());
            assert_eq!(answer[2..4], 1002_u16.to_be_bytes(), "{code}");
        }
    }

    #[test]
    fn a_deflate_bomb_stops_at_the_limit_in_one_frame_and_in_many() {
        let bomb = deflate::with_deflated(&vec![b' '; 2_000_000], <[u8]>::to_vec);
        assert!(bomb.len() < 32 * 1024, "below the limit as sent");
        let whole = client_frame(0xc1, &bomb);
        let (head, tail) = bomb.split_at(bomb.len() / 2);
        let fragmented = [client_frame(0x41, head), client_frame(0x80, tail)].concat();
        for bytes in [whole, fragmented] {
            let decoded = decode(&[&bytes], 64 * 1024, Compression::Deflate);
            assert_eq!(decoded.end, Err(Violation::TooLarge));
        }
    }

    #[test]
    fn a_message_holds_no_more_memory_than_it_has_bytes_of() {
        let mut input = BytesMut::from(&client_frame(0x81, &[b'a'; 100])[..]);
        input.extend(client_frame(0x81, b"next"));
        let mut decoder = Decoder::new(MAX, Compression::Off);
        let Ok(Some(Incoming::Text(text))) = decoder.next(&mut input, &mut Vec::new()) else {
            panic!("a whole message")
        };
        let held = text.try_into_mut().expect("nobody else holds the message's buffer");
        assert!(held.capacity() <= 128, "{} bytes", held.capacity());
        assert!(!decoder.is_mid_message());
    }

    #[test]
    fn a_long_close_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        encode_close(CloseCode::Policy, &"é".repeat(100), &mut out);
        assert_eq!(out[1], 124, "two bytes of code and 61 whole characters");
    }
}
