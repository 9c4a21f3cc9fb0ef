//! permessage-deflate (RFC 7692) without context takeover: each message stands alone, so that a session owns no window.
//!
//! Owns the agreement on the extension and the two transformations; the compressor and the inflater are one per thread
//! and never keep anything of a message. The inflated size is limited while inflating. Start at [`agree`].

use std::cell::RefCell;

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};

use super::codec::Violation;

/// Messages below this are sent as they are, in bytes: deflate gains little on them and each costs a pass.
pub(super) const WORTH_BYTES_MIN: usize = 1024;
/// What a sender strips from the end of a deflated message and a receiver puts back (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// Room that inflating starts with, in bytes; it doubles up to the limit as the message proves to be larger.
const FIRST_ROOM_BYTES: usize = 4096;
/// Offers of one handshake that are looked at; a client sends one or two.
const OFFERS_MAX: usize = 8;
/// Scratch that a thread keeps between messages, in bytes; above it the memory is given back.
const SCRATCH_KEPT_BYTES: usize = 256 * 1024;

struct Compressor {
    state: Compress,
    out: Vec<u8>,
}

thread_local! {
    /// A compressor has about 300 KiB of state: one per thread, not per session.
    static COMPRESSOR: RefCell<Compressor> = RefCell::new(Compressor {
        state: Compress::new(flate2::Compression::fast(), false),
        out: Vec::new(),
    });
    static INFLATER: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// The response to the client's `Sec-WebSocket-Extensions`: the first offer that can be met, `None` where none can.
pub(super) fn agree<'a>(offers: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    offers
        .flat_map(|header| header.split(','))
        .take(OFFERS_MAX)
        .find_map(|offer| agree_one(offer.trim()))
}

fn agree_one(offer: &str) -> Option<&'static str> {
    let mut parts = offer.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case("permessage-deflate") {
        return None;
    }
    let (mut seen, mut asks_window) = (Vec::new(), false);
    for parameter in parts {
        let (name, value) = match parameter.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
            None => (parameter, None),
        };
        // A parameter twice, unknown or with a bad value: the offer must be declined (RFC 7692 §7.1).
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
        match (name, value) {
            ("server_no_context_takeover" | "client_no_context_takeover", None) => {}
            ("client_max_window_bits", None) => {}
            ("client_max_window_bits", Some("8" | "9" | "10" | "11" | "12" | "13" | "14" | "15")) => {}
            // Smaller windows of our own are declined: the compressor has one size.
            ("server_max_window_bits", Some("15")) => asks_window = true,
            _ => return None,
        }
    }
    Some(if asks_window {
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15"
    } else {
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    })
}

/// Deflates a message into this thread's scratch and hands it to `use_it`.
pub(super) fn with_deflated<T>(message: &[u8], use_it: impl FnOnce(&[u8]) -> T) -> T {
    COMPRESSOR.with_borrow_mut(|Compressor { state, out }| {
        state.reset();
        out.clear();
        let mut consumed = 0;
        loop {
            out.reserve(FIRST_ROOM_BYTES.max(message.len() / 2));
            state
                .compress_vec(&message[consumed..], out, FlushCompress::Sync)
                .expect("a compressor that was reset takes any bytes");
            consumed = usize::try_from(state.total_in()).expect("at most the message's length");
            // Room left over means that the flush is complete.
            if consumed == message.len() && out.len() < out.capacity() {
                break;
            }
        }
        let deflated = out.strip_suffix(&TAIL).unwrap_or(out);
        let result = use_it(deflated);
        if out.capacity() > SCRATCH_KEPT_BYTES {
            *out = Vec::new();
        }
        result
    })
}

/// Inflates one message; stops at `bytes_max` inflated bytes, however small the message came.
pub(super) fn inflate(message: &[u8], bytes_max: usize) -> Result<Vec<u8>, Violation> {
    INFLATER.with_borrow_mut(|inflater| {
        inflater.reset(false);
        let mut out = Vec::new();
        inflate_part(inflater, message, &mut out, bytes_max)?;
        inflate_part(inflater, &TAIL, &mut out, bytes_max)?;
        Ok(out)
    })
}

fn inflate_part(
    inflater: &mut Decompress,
    mut part: &[u8],
    out: &mut Vec<u8>,
    bytes_max: usize,
) -> Result<(), Violation> {
    const BROKEN: Violation = Violation::Protocol("the compressed data is broken");
    loop {
        if out.len() > bytes_max {
            return Err(Violation::TooLarge);
        }
        if out.len() == out.capacity() {
            // One byte more than is allowed, so that a message that is too large shows itself as such.
            let room = out.len().max(FIRST_ROOM_BYTES).min(bytes_max + 1 - out.len());
            out.reserve_exact(room);
        }
        let (in_before, out_before) = (inflater.total_in(), out.len());
        let status = inflater
            .decompress_vec(part, out, FlushDecompress::Sync)
            .map_err(|_| BROKEN)?;
        let taken = usize::try_from(inflater.total_in() - in_before).expect("at most the part's length");
        part = &part[taken..];
        let stuck = taken == 0 && out.len() == out_before;
        match status {
            // A client may end a block as final and go on behind it (RFC 7692 §7.2.3.4).
            Status::StreamEnd => inflater.reset(false),
            Status::Ok | Status::BufError if part.is_empty() && out.len() < out.capacity() => {}
            Status::Ok | Status::BufError if stuck => return Err(BROKEN),
            Status::Ok | Status::BufError => continue,
        }
        if part.is_empty() {
            return if out.len() > bytes_max {
                Err(Violation::TooLarge)
            } else {
                Ok(())
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn agreed(offer: &str) -> Option<&'static str> {
        agree([offer].into_iter())
    }

    #[test]
    fn what_browsers_offer_is_agreed_on_without_context_takeover() {
        let plain = Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover");
        assert_eq!(agreed("permessage-deflate; client_max_window_bits"), plain);
        assert_eq!(agreed("permessage-deflate"), plain);
        assert_eq!(agreed("x-webkit-deflate-frame, permessage-deflate"), plain);
        assert_eq!(
            agreed("permessage-deflate; server_max_window_bits=10, permessage-deflate"),
            plain,
            "the second offer can be met"
        );
    }

    #[test]
    fn offers_that_cannot_be_met_are_declined() {
        for offer in [
            "",
            "permessage-bzip2",
            "permessage-deflate; server_max_window_bits=10",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
            "permessage-deflate; colour=blue",
        ] {
            assert_eq!(agreed(offer), None, "{offer}");
        }
    }

    #[test]
    fn final_blocks_and_stored_blocks_inflate_as_the_rfc_shows() {
        // RFC 7692 §7.2.3.3 (a stored block), §7.2.3.4 (BFINAL set), §7.2.3.5 (two blocks).
        for example in [
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00][..],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[
                0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
            ],
        ] {
            assert_eq!(inflate(example, 100), Ok(b"Hello".to_vec()));
        }
        assert_eq!(inflate(&[0x00], 100), Ok(Vec::new()), "an empty message");
    }

    #[test]
    fn broken_data_is_a_violation_and_not_an_endless_loop() {
        assert!(matches!(inflate(&[0xff; 20], 100), Err(Violation::Protocol(_))));
        assert_eq!(inflate(&[], 100), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn messages_round_trip_and_the_limit_is_exact(message in proptest::collection::vec(any::<u8>(), 0..20_000)) {
            let deflated = with_deflated(&message, <[u8]>::to_vec);
            prop_assert_eq!(inflate(&deflated, message.len()), Ok(message.clone()));
            if !message.is_empty() {
                prop_assert_eq!(inflate(&deflated, message.len() - 1), Err(Violation::TooLarge));
            }
        }

        #[test]
        fn any_bytes_inflate_to_a_bounded_result(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(out) = inflate(&bytes, 5000) {
                prop_assert!(out.len() <= 5000);
            }
        }
    }
}
