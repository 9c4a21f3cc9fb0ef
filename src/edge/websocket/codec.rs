//! RFC 6455's framing for a server: bytes in, whole messages out, and back. No I/O, no clock, no buffer while idle.
//!
//! It is ours because a server must judge a frame by its header alone (attacks: a length of 2^63, an oversized control
//! frame, fragments without end), before it waits for a payload or reserves room for one, and because an idle session
//! must own no buffer: measured libraries allocate what a header claims and keep 4 KiB or more each way. Start at [`Decoder`].
//!
//! ```text
//!  byte 0          byte 1          then
//! +-+-+-+-+-------+-+-------------+----------------+---------+---------+
//! |F|R|R|R| opcode|M| length      | 16 or 64 bits  | mask    | payload |
//! |I|S|S|S| (4)   |A| (7)         | of length when | 4 bytes |         |
//! |N|V|V|V|       |S|             | 7 bits say 126 | from a  |         |
//! | |1|2|3|       |K|             | or 127         | client  |         |
//! +-+-+-+-+-------+-+-------------+----------------+---------+---------+
//! ```

use bytes::{Buf, Bytes, BytesMut};

use super::deflate;

/// Most fragments of one message: a client that streams a 1 MiB message in 1 KiB pieces passes, one that never ends does not.
const FRAGMENTS_MAX: u32 = 4096;
/// Longest payload of a control frame (RFC 6455 §5.5), in bytes.
pub(super) const CONTROL_BYTES_MAX: usize = 125;
/// A client's frame header at its longest: two bytes, a 64-bit length, the mask.
const HEADER_BYTES_MAX: usize = 2 + 8 + 4;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2_AND_3: u8 = 0x30;
const MASKED: u8 = 0x80;

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A whole text message, inflated and known to be UTF-8.
    Text(Bytes),
    /// To be answered with a pong of the same payload.
    Ping(Bytes),
    Pong,
    /// The client closes; to be answered with a close frame.
    Close,
}

/// Why the connection must be closed. The client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// Not RFC 6455 (close code 1002).
    Protocol(&'static str),
    /// A binary message (1003): the subprotocol is JSON in text frames.
    Binary,
    /// Text that is not UTF-8 (1007).
    NotUtf8,
    /// A message over the limit (1009).
    TooLarge,
}

/// Why a connection is closed, as RFC 6455 §7.4.1 numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum CloseCode {
    Normal = 1000,
    Protocol = 1002,
    Unsupported = 1003,
    NotUtf8 = 1007,
    Policy = 1008,
    TooLarge = 1009,
    ServiceRestart = 1012,
}

impl Violation {
    pub(super) const fn close_code(self) -> CloseCode {
        match self {
            Self::Protocol(_) => CloseCode::Protocol,
            Self::Binary => CloseCode::Unsupported,
            Self::NotUtf8 => CloseCode::NotUtf8,
            Self::TooLarge => CloseCode::TooLarge,
        }
    }

    /// What went wrong, for the goodbye and the close frame; at most 123 bytes.
    pub(super) const fn detail(self) -> &'static str {
        match self {
            Self::Protocol(detail) => detail,
            Self::Binary => "binary messages are not part of weft.v1.json; send text",
            Self::NotUtf8 => "the text is not UTF-8",
            Self::TooLarge => "the message is larger than this node takes",
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xa,
}

impl Opcode {
    const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0x0 => Some(Self::Continuation),
            0x1 => Some(Self::Text),
            0x2 => Some(Self::Binary),
            0x8 => Some(Self::Close),
            0x9 => Some(Self::Ping),
            0xa => Some(Self::Pong),
            _ => None,
        }
    }

    const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A frame's header, judged as far as it can be without its payload.
#[derive(Clone, Copy, Debug)]
struct Header {
    opcode: Opcode,
    is_final: bool,
    is_deflated: bool,
    mask: [u8; 4],
    header_bytes: usize,
    payload_bytes: usize,
}

/// A message whose last fragment is still to come.
#[derive(Debug)]
struct Partial {
    payload: BytesMut,
    fragments: u32,
    is_deflated: bool,
}

/// Turns a client's bytes into messages.
#[derive(Debug)]
pub(super) struct Decoder {
    message_bytes_max: usize,
    compression: Compression,
    partial: Option<Partial>,
}

impl Decoder {
    /// `message_bytes_max` bounds one message, inflated and as sent.
    pub(super) const fn new(message_bytes_max: usize, compression: Compression) -> Self {
        Self {
            message_bytes_max,
            compression,
            partial: None,
        }
    }

    /// True between a message's first fragment and its last.
    pub(super) const fn is_mid_message(&self) -> bool {
        self.partial.is_some()
    }

    /// Takes the next message out of `input`; `None` where more bytes are needed. After a violation nothing more can be read.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, Violation> {
        while let Some(header) = self.header(input)? {
            if input.len() - header.header_bytes < header.payload_bytes {
                return Ok(None);
            }
            input.advance(header.header_bytes);
            let mut payload = input.split_to(header.payload_bytes);
            unmask(&mut payload, header.mask);
            if let Some(incoming) = self.frame(&header, payload)? {
                return Ok(Some(incoming));
            }
        }
        Ok(None)
    }

    /// Reads and judges the header at the front of `input`, as early as its bytes allow.
    fn header(&self, input: &[u8]) -> Result<Option<Header>, Violation> {
        let Some(&first) = input.first() else { return Ok(None) };
        let opcode = self.judge_first_byte(first)?;
        let Some(&second) = input.get(1) else { return Ok(None) };
        if second & MASKED == 0 {
            return Err(Violation::Protocol("a client's frames must be masked"));
        }
        let short_length = second & !MASKED;
        if opcode.is_control() && usize::from(short_length) > CONTROL_BYTES_MAX {
            return Err(Violation::Protocol("a control frame carries at most 125 bytes"));
        }
        let Some((payload_bytes, length_bytes)) = length(short_length, &input[2..])? else {
            return Ok(None);
        };
        self.judge_length(opcode, payload_bytes)?;
        let mask_at = 2 + length_bytes;
        let Some(mask) = input.get(mask_at..mask_at + 4) else {
            return Ok(None);
        };
        Ok(Some(Header {
            opcode,
            is_final: first & FIN != 0,
            is_deflated: first & RSV1 != 0,
            mask: mask.try_into().expect("a slice of four bytes"),
            header_bytes: mask_at + 4,
            payload_bytes: usize::try_from(payload_bytes).expect("at most the message limit, judged above"),
        }))
    }

    fn judge_first_byte(&self, first: u8) -> Result<Opcode, Violation> {
        let opcode = Opcode::from_bits(first & 0x0f).ok_or(Violation::Protocol("the opcode is reserved"))?;
        if first & RSV2_AND_3 != 0 {
            return Err(Violation::Protocol("a reserved bit is set"));
        }
        let starts_message = matches!(opcode, Opcode::Text | Opcode::Binary);
        if first & RSV1 != 0 && (self.compression == Compression::Off || !starts_message) {
            return Err(Violation::Protocol("the compression bit is set where it may not be"));
        }
        if opcode.is_control() && first & FIN == 0 {
            return Err(Violation::Protocol("a control frame must not be fragmented"));
        }
        match opcode {
            Opcode::Continuation if self.partial.is_none() => {
                Err(Violation::Protocol("a continuation without a message to continue"))
            }
            Opcode::Text | Opcode::Binary if self.partial.is_some() => {
                Err(Violation::Protocol("a new message inside a fragmented one"))
            }
            Opcode::Binary => Err(Violation::Binary),
            other => Ok(other),
        }
    }

    fn judge_length(&self, opcode: Opcode, payload_bytes: u64) -> Result<(), Violation> {
        if opcode.is_control() {
            return Ok(());
        }
        let held = self.partial.as_ref().map_or(0, |partial| partial.payload.len()) as u64;
        if held + payload_bytes > self.message_bytes_max as u64 {
            return Err(Violation::TooLarge);
        }
        Ok(())
    }

    fn frame(&mut self, header: &Header, payload: BytesMut) -> Result<Option<Incoming>, Violation> {
        match header.opcode {
            Opcode::Ping => Ok(Some(Incoming::Ping(payload.freeze()))),
            Opcode::Pong => Ok(Some(Incoming::Pong)),
            Opcode::Close => judge_close(&payload).map(|()| Some(Incoming::Close)),
            Opcode::Text | Opcode::Continuation => self.fragment(header, payload),
            Opcode::Binary => Err(Violation::Binary),
        }
    }

    fn fragment(&mut self, header: &Header, payload: BytesMut) -> Result<Option<Incoming>, Violation> {
        let mut message = match self.partial.take() {
            None => Partial {
                payload,
                fragments: 0,
                is_deflated: header.is_deflated,
            },
            Some(mut partial) => {
                partial.payload.extend_from_slice(&payload);
                partial
            }
        };
        message.fragments += 1;
        if header.is_final {
            return self.complete(message).map(Some);
        }
        if message.fragments >= FRAGMENTS_MAX {
            return Err(Violation::Protocol("the message has too many fragments"));
        }
        self.partial = Some(message);
        Ok(None)
    }

    fn complete(&self, message: Partial) -> Result<Incoming, Violation> {
        let text = if message.is_deflated {
            deflate::inflate(&message.payload, self.message_bytes_max)?.into()
        } else {
            message.payload.freeze()
        };
        match std::str::from_utf8(&text) {
            Ok(_) => Ok(Incoming::Text(text)),
            Err(_) => Err(Violation::NotUtf8),
        }
    }
}

/// The payload's length and how many bytes said it beyond the first two; `None` where they are not there yet.
fn length(short: u8, rest: &[u8]) -> Result<Option<(u64, usize)>, Violation> {
    const NOT_MINIMAL: Violation = Violation::Protocol("a length must use as few bytes as it can");
    match short {
        126 => match rest.first_chunk::<2>() {
            None => Ok(None),
            Some(bytes) => match u16::from_be_bytes(*bytes) {
                0..=125 => Err(NOT_MINIMAL),
                length => Ok(Some((u64::from(length), 2))),
            },
        },
        127 => match rest.first_chunk::<8>() {
            None => Ok(None),
            Some(bytes) => match u64::from_be_bytes(*bytes) {
                0..=0xffff => Err(NOT_MINIMAL),
                length if length >> 63 != 0 => Err(Violation::Protocol("a length must be below 2^63")),
                length => Ok(Some((length, 8))),
            },
        },
        short => Ok(Some((u64::from(short), 0))),
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let (words, tail) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// A close frame's payload: nothing, or a code that may stand on the wire (RFC 6455 §7.4) and a reason in UTF-8.
fn judge_close(payload: &[u8]) -> Result<(), Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return match payload.len() {
            0 => Ok(()),
            _ => Err(Violation::Protocol("a close frame's code has two bytes")),
        };
    };
    match u16::from_be_bytes(*code) {
        1000..=1003 | 1007..=1014 | 3000..=4999 => {}
        _ => return Err(Violation::Protocol("the close code may not be sent")),
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(()),
        Err(_) => Err(Violation::NotUtf8),
    }
}

/// Appends a text message in one frame, deflated where that was agreed on and pays.
pub(super) fn encode_text(text: &[u8], compression: Compression, into: &mut Vec<u8>) {
    if compression == Compression::Deflate && text.len() >= deflate::WORTH_BYTES_MIN {
        let done = deflate::with_deflated(text, |deflated| {
            if deflated.len() < text.len() {
                encode_frame(FIN | RSV1 | Opcode::Text as u8, deflated, into);
                return true;
            }
            false
        });
        if done {
            return;
        }
    }
    encode_frame(FIN | Opcode::Text as u8, text, into);
}

pub(super) fn encode_ping(into: &mut Vec<u8>) {
    encode_frame(FIN | Opcode::Ping as u8, &[], into);
}

/// `payload` is a ping's: at most [`CONTROL_BYTES_MAX`] bytes.
pub(super) fn encode_pong(payload: &[u8], into: &mut Vec<u8>) {
    debug_assert!(
        payload.len() <= CONTROL_BYTES_MAX,
        "the decoder lets no longer ping through"
    );
    encode_frame(FIN | Opcode::Pong as u8, payload, into);
}

/// Appends a close frame; the reason is cut to what a control frame carries.
pub(super) fn encode_close(code: CloseCode, reason: &str, into: &mut Vec<u8>) {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_BYTES_MAX - 2)];
    let mut payload = Vec::with_capacity(2 + reason.len());
    payload.extend_from_slice(&(code as u16).to_be_bytes());
    payload.extend_from_slice(reason.as_bytes());
    encode_frame(FIN | Opcode::Close as u8, &payload, into);
}

fn encode_frame(first: u8, payload: &[u8], into: &mut Vec<u8>) {
    into.reserve(HEADER_BYTES_MAX + payload.len());
    into.push(first);
    match payload.len() {
        short @ 0..=125 => into.push(short as u8),
        medium @ 126..=0xffff => {
            into.push(126);
            into.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            into.push(127);
            into.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    into.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::{
        Message,
        protocol::{Role, WebSocketContext},
    };

    use super::*;

    const MAX: usize = 1000;
    const MASK: [u8; 4] = [1, 2, 3, 4];

    fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        encode_frame(first, payload, &mut frame);
        frame[1] |= MASKED;
        let at = frame.len() - payload.len();
        unmask(&mut frame[at..], MASK);
        frame.splice(at..at, MASK);
        frame
    }

    fn decode_all(bytes: &[u8], compression: Compression) -> Result<Vec<Incoming>, Violation> {
        let (mut decoder, mut input) = (Decoder::new(MAX, compression), BytesMut::from(bytes));
        let mut messages = Vec::new();
        while let Some(incoming) = decoder.next(&mut input)? {
            messages.push(incoming);
        }
        Ok(messages)
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
        assert_eq!(
            decode_all(&ping, Compression::Off),
            Ok(vec![Incoming::Ping("Hello".into())])
        );
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
        encode_pong(b"x", &mut out);
        encode_close(CloseCode::Policy, "no", &mut out);
        let golden: &[u8] = b"\x81\x05Hello\x89\x00\x8a\x01x\x88\x04\x03\xf0no";
        assert_eq!(out, golden);
    }

    #[test]
    fn fragments_join_and_control_frames_may_stand_between_them() {
        let mut bytes = client_frame(0x01, b"Hel");
        bytes.extend(client_frame(0x89, b"p"));
        bytes.extend(client_frame(0x00, b""));
        bytes.extend(client_frame(0x80, b"lo"));
        let expected = vec![Incoming::Ping("p".into()), Incoming::Text("Hello".into())];
        assert_eq!(decode_all(&bytes, Compression::Off), Ok(expected));
    }

    #[test]
    fn a_header_alone_is_enough_to_refuse_a_frame() {
        // No payload follows in any of these: waiting for it would be the attack's success.
        let two_to_63 = [0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(violation(&two_to_63), CloseCode::Protocol);
        let far_too_large = [0x81, 0xff, 0, 0, 1, 0, 0, 0, 0, 0];
        assert_eq!(violation(&far_too_large), CloseCode::TooLarge);
        for (case, header) in [
            ("unmasked", [0x81, 0x05]),
            ("oversized ping", [0x89, 0xfe]),
            ("fragmented ping", [0x09, 0x80]),
            ("reserved data opcode", [0x83, 0x80]),
            ("reserved control opcode", [0x8b, 0x80]),
            ("compressed without agreement", [0xc1, 0x80]),
            ("second reserved bit", [0xa1, 0x80]),
            ("continuation of nothing", [0x80, 0x80]),
        ] {
            assert_eq!(violation(&header), CloseCode::Protocol, "{case}");
        }
        assert_eq!(violation(&[0x82]), CloseCode::Unsupported, "binary");
        assert_eq!(
            violation(&[0x81, 0xfe, 0, 5]),
            CloseCode::Protocol,
            "length not minimal"
        );
        assert_eq!(
            violation(&[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
            CloseCode::Protocol
        );
    }

    #[test]
    fn the_message_limit_counts_all_fragments_together() {
        let mut bytes = client_frame(0x01, &[b'a'; 600]);
        bytes.extend(client_frame(0x80, &[b'a'; 400]));
        assert_eq!(decode_all(&bytes, Compression::Off).map(|all| all.len()), Ok(1));
        let mut bytes = client_frame(0x01, &[b'a'; 600]);
        bytes.extend(client_frame(0x80, &[b'a'; 401]));
        assert_eq!(violation(&bytes), CloseCode::TooLarge);
    }

    #[test]
    fn fragments_without_end_are_refused_though_they_are_empty() {
        let mut bytes = client_frame(0x01, b"");
        (0..FRAGMENTS_MAX).for_each(|_| bytes.extend(client_frame(0x00, b"")));
        assert_eq!(violation(&bytes), CloseCode::Protocol);
    }

    #[test]
    fn text_and_close_reasons_must_be_utf8_and_codes_sendable() {
        assert_eq!(violation(&client_frame(0x81, &[0xff])), CloseCode::NotUtf8);
        assert_eq!(violation(&client_frame(0x88, &[0x03, 0xe8, 0xff])), CloseCode::NotUtf8);
        for code in [0_u16, 999, 1004, 1005, 1006, 1015, 2000, 5000] {
            assert_eq!(
                violation(&client_frame(0x88, &code.to_be_bytes())),
                CloseCode::Protocol,
                "{code}"
            );
        }
        assert_eq!(violation(&client_frame(0x88, &[3])), CloseCode::Protocol);
        assert_eq!(
            decode_all(&client_frame(0x88, b""), Compression::Off),
            Ok(vec![Incoming::Close])
        );
    }

    #[test]
    fn a_deflate_bomb_stops_at_the_limit() {
        deflate::with_deflated(&vec![b' '; 2_000_000], |bomb| {
            assert!(bomb.len() < 32 * 1024, "below the limit as sent");
            let mut decoder = Decoder::new(64 * 1024, Compression::Deflate);
            let mut input = BytesMut::from(&client_frame(0xc1, bomb)[..]);
            assert_eq!(decoder.next(&mut input), Err(Violation::TooLarge));
        });
    }

    #[test]
    fn a_long_close_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        encode_close(CloseCode::Policy, &"é".repeat(100), &mut out);
        assert_eq!(out[1], 124, "two bytes of code and 61 whole characters");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic_or_hold_more_than_the_limit(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), deflate in any::<bool>(),
        ) {
            let compression = if deflate { Compression::Deflate } else { Compression::Off };
            if let Ok(messages) = decode_all(&bytes, compression) {
                for message in messages {
                    if let Incoming::Text(text) = message {
                        prop_assert!(text.len() <= MAX);
                    }
                }
            }
        }

        #[test]
        fn messages_survive_any_fragmentation_and_any_split_of_the_bytes(
            texts in proptest::collection::vec("\\PC{0,60}", 1..6),
            cuts in proptest::collection::vec(1_usize..40, 1..8),
            reads in proptest::collection::vec(1_usize..50, 1..8),
            deflate in any::<bool>(),
        ) {
            let compression = if deflate { Compression::Deflate } else { Compression::Off };
            let mut wire = Vec::new();
            let mut cuts = cuts.into_iter().cycle();
            for text in &texts {
                let payload = if deflate {
                    deflate::with_deflated(text.as_bytes(), <[u8]>::to_vec)
                } else {
                    text.clone().into_bytes()
                };
                let mut rest = payload.as_slice();
                let mut first = if deflate { 0x41 } else { 0x01 };
                loop {
                    let (piece, left) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                    rest = left;
                    wire.extend(client_frame(first | if rest.is_empty() { FIN } else { 0 }, piece));
                    first = 0x00;
                    if rest.is_empty() { break }
                }
            }
            let mut decoder = Decoder::new(MAX, compression);
            let (mut input, mut got, mut at) = (BytesMut::new(), Vec::new(), 0);
            for read in reads.into_iter().cycle() {
                if at == wire.len() { break }
                let end = wire.len().min(at + read);
                input.extend_from_slice(&wire[at..end]);
                at = end;
                while let Some(incoming) = decoder.next(&mut input).unwrap() {
                    got.push(incoming);
                }
            }
            let expected: Vec<_> = texts.into_iter().map(|text| Incoming::Text(text.into())).collect();
            prop_assert_eq!(got, expected);
            prop_assert!(!decoder.is_mid_message() && input.is_empty());
        }

        /// Another implementation of the same RFC reads what we write and writes what we read.
        #[test]
        fn tungstenite_understands_the_server_and_the_server_understands_tungstenite(
            text in "\\PC{0,200}", long in 0_usize..70_000,
        ) {
            let text = text + &"x".repeat(long);
            let mut out = Vec::new();
            encode_text(text.as_bytes(), Compression::Off, &mut out);
            let mut client = WebSocketContext::new(Role::Client, None);
            let mut stream = std::io::Cursor::new(out);
            prop_assert_eq!(client.read(&mut stream).unwrap(), Message::text(text.clone()));

            let mut stream = std::io::Cursor::new(Vec::new());
            client.write(&mut stream, Message::text(text.clone())).unwrap();
            client.flush(&mut stream).unwrap();
            let mut decoder = Decoder::new(100_000, Compression::Off);
            let mut input = BytesMut::from(&stream.into_inner()[..]);
            prop_assert_eq!(decoder.next(&mut input), Ok(Some(Incoming::Text(text.into()))));
        }
    }
}
