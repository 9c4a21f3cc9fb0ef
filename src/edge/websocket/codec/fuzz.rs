//! Sessions that somebody spoils: flipped, inserted, removed and repeated bytes, cut at any place, with and without compression.
//!
//! Holds against them what must be true of any bytes, and tungstenite alone where nothing is compressed. `PROPTEST_CASES` makes
//! the campaign longer. Start at the properties.

use proptest::prelude::*;

use super::{
    tests::{FIN, MAX, client_frame, decode},
    *,
};

/// A message of a client's, before somebody spoils it.
#[derive(Clone, Debug)]
struct Sent {
    text: String,
    is_deflated: bool,
    /// Where its payload is cut into fragments, in per cent.
    cuts: Vec<usize>,
    /// The first byte and length of a control frame behind its first fragment.
    control: Option<(u8, usize)>,
}

impl Sent {
    fn write(&self, compression: Compression, wire: &mut Vec<u8>) {
        let is_deflated = self.is_deflated && compression == Compression::Deflate;
        let payload = match is_deflated {
            true => deflate::with_deflated(self.text.as_bytes(), <[u8]>::to_vec),
            false => self.text.clone().into_bytes(),
        };
        let mut cuts: Vec<usize> = self.cuts.iter().map(|cut| cut * payload.len() / 100).collect();
        cuts.sort_unstable();
        cuts.push(payload.len());
        let (mut from, last) = (0, cuts.len() - 1);
        for (number, to) in cuts.into_iter().enumerate() {
            let first = match number {
                0 if is_deflated => 0x41,
                0 => 0x01,
                _ => 0x00,
            };
            let fin = if number == last { FIN } else { 0 };
            wire.extend(client_frame(first | fin, &payload[from..to]));
            from = to;
            if let (0, Some((first, bytes))) = (number, self.control) {
                wire.extend(client_frame(first, &vec![b'c'; bytes]));
            }
        }
    }
}

/// What somebody does to the bytes at one place, given in per mille.
#[derive(Clone, Copy, Debug)]
enum Spoil {
    Flip(usize, u8),
    Put(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Cut(usize),
    Repeat(usize, usize),
}

impl Spoil {
    fn spoil(self, wire: &mut Vec<u8>) {
        let place = |at: usize| at * wire.len().saturating_sub(1) / 1000;
        if wire.is_empty() {
            return;
        }
        match self {
            Self::Flip(at, bit) => {
                let at = place(at);
                wire[at] ^= 1 << bit;
            }
            Self::Put(at, byte) => {
                let at = place(at);
                wire[at] = byte;
            }
            Self::Insert(at, byte) => wire.insert(place(at), byte),
            Self::Remove(at) => drop(wire.remove(place(at))),
            Self::Cut(at) => wire.truncate(place(at)),
            Self::Repeat(at, bytes) => {
                let at = place(at);
                let again = wire[at..wire.len().min(at + bytes)].to_vec();
                wire.splice(at..at, again);
            }
        }
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let text = prop_oneof![
        4 => "\\PC{0,60}",
        2 => "[a-f]{0,300}",
        1 => (MAX - 2..MAX + 3).prop_map(|bytes| "x".repeat(bytes)),
        1 => (0_usize..200_000).prop_map(|bytes| " ".repeat(bytes)),
    ];
    let control = prop_oneof![Just(0x89_u8), Just(0x8a), Just(0x88), Just(0xc9), Just(0x09)];
    (
        text,
        any::<bool>(),
        proptest::collection::vec(0_usize..=100, 0..5),
        proptest::option::weighted(0.3, (control, 0_usize..140)),
    )
        .prop_map(|(text, is_deflated, cuts, control)| Sent {
            text,
            is_deflated,
            cuts,
            control,
        })
}

fn spoil() -> impl Strategy<Value = Spoil> {
    let at = 0_usize..=1000;
    prop_oneof![
        3 => (at.clone(), 0_u8..8).prop_map(|(at, bit)| Spoil::Flip(at, bit)),
        2 => (at.clone(), any::<u8>()).prop_map(|(at, byte)| Spoil::Put(at, byte)),
        1 => (at.clone(), any::<u8>()).prop_map(|(at, byte)| Spoil::Insert(at, byte)),
        1 => at.clone().prop_map(Spoil::Remove),
        1 => at.clone().prop_map(Spoil::Cut),
        1 => (at, 1_usize..200).prop_map(|(at, bytes)| Spoil::Repeat(at, bytes)),
    ]
}

/// What tungstenite alone makes of the same bytes.
fn tungstenite_alone(bytes: &[u8]) -> (Vec<Incoming>, bool) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX))
        .max_frame_size(Some(MAX));
    let mut context = WebSocketContext::new(Role::Server, Some(config));
    let (mut messages, mut output) = (Vec::new(), Vec::new());
    let mut pipe = Pipe {
        header: &[],
        payload: bytes,
        output: &mut output,
    };
    loop {
        messages.push(match context.read(&mut pipe) {
            Ok(Message::Text(text)) => Incoming::Text(text.into()),
            Ok(Message::Ping(_)) => Incoming::Ping,
            Ok(Message::Pong(_)) => Incoming::Pong,
            Ok(Message::Close(_)) => Incoming::Close,
            Err(Error::ConnectionClosed) => return (messages, true),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return (messages, true),
            Ok(Message::Binary(_) | Message::Frame(_)) | Err(_) => return (messages, false),
        });
    }
}

/// `PROPTEST_CASES` raises it.
fn campaign() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig {
        cases: usual.cases.max(2_000),
        ..usual
    }
}

proptest! {
    #![proptest_config(campaign())]

    #[test]
    fn spoilt_bytes_never_panic_outgrow_the_limit_or_mean_something_else_when_they_arrive_in_pieces(
        sent in proptest::collection::vec(sent(), 1..5),
        spoils in proptest::collection::vec(spoil(), 0..5),
        reads in proptest::collection::vec(1_usize..300, 1..6),
        deflate in any::<bool>(),
    ) {
        let compression = if deflate { Compression::Deflate } else { Compression::Off };
        let mut wire = Vec::new();
        sent.iter().for_each(|sent| sent.write(compression, &mut wire));
        spoils.iter().for_each(|spoil| spoil.spoil(&mut wire));

        let whole = decode(&[&wire], MAX, compression);
        for message in &whole.messages {
            if let Incoming::Text(text) = message {
                prop_assert!(text.len() <= MAX && std::str::from_utf8(text).is_ok());
            }
        }
        let (mut pieces, mut rest, mut reads) = (Vec::new(), &wire[..], reads.into_iter().cycle());
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(reads.next().unwrap().min(rest.len()));
            pieces.push(piece);
            rest = left;
        }
        prop_assert_eq!(&decode(&pieces, MAX, compression), &whole);

        if !deflate {
            let (alone, is_fine) = tungstenite_alone(&wire);
            prop_assert_eq!(&alone[..whole.messages.len()], &whole.messages[..]);
            prop_assert!(is_fine && alone.len() == whole.messages.len() || whole.end.is_err());
        }
    }

    #[test]
    fn messages_survive_any_fragmentation_and_any_split_of_the_bytes(
        sent in proptest::collection::vec(sent(), 1..5),
        reads in proptest::collection::vec(1_usize..300, 1..6),
        deflate in any::<bool>(),
    ) {
        let compression = if deflate { Compression::Deflate } else { Compression::Off };
        let mut wire = Vec::new();
        let sent: Vec<Sent> = sent.into_iter().map(|sent| Sent { control: None, ..sent }).collect();
        sent.iter().for_each(|sent| sent.write(compression, &mut wire));
        let mut decoder = Decoder::new(200_000, compression);
        let (mut input, mut got, mut rest, mut reads) =
            (BytesMut::new(), Vec::new(), &wire[..], reads.into_iter().cycle());
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(reads.next().unwrap().min(rest.len()));
            input.extend_from_slice(piece);
            rest = left;
            while let Some(incoming) = decoder.next(&mut input, &mut Vec::new()).unwrap() {
                got.push(incoming);
            }
        }
        let expected: Vec<_> = sent.into_iter().map(|sent| Incoming::Text(sent.text.into())).collect();
        prop_assert_eq!(got, expected);
        prop_assert!(!decoder.is_mid_message() && input.is_empty());
    }
}
