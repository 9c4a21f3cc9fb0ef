//! Frames that travel together, on links and to native clients, compressed as one where that pays.
//!
//! ```text
//!  0        4        5      6        8            12            16             20            28
//!  | "wftb" | version| flags| zero   | frames     | inflated    | payload      | xxh3-64 of   | payload …
//!  |        |        |      |        | (count)    | (bytes)     | (bytes)      | 0–19         |
//! ```
//!
//! The payload is the frames' wire forms one after another, each under a checksum of its own; the batch's checksum covers its
//! header alone. Flag 1: the payload is one zstd frame. The inflated size is checked before and while inflating.

use std::io::Read;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    limits::{BATCH_BYTES_MAX, BATCH_FRAMES_MAX},
    wire::{Frame, WireError},
};

const MAGIC: [u8; 4] = *b"wftb";
const VERSION: u8 = 1;
const FLAG_ZSTD: u8 = 1;
const VERSION_AT: usize = 4;
const FLAGS_AT: usize = VERSION_AT + 1;
const RESERVED_AT: usize = FLAGS_AT + 1;
const COUNT_AT: usize = RESERVED_AT + 2;
const CHECKSUM_AT: usize = COUNT_AT + 12;
/// Bytes before the payload.
pub const BATCH_HEADER_BYTES: usize = CHECKSUM_AT + 8;
/// zstd's fastest named level: 0.69 GB/s on JSON, 4.4x smaller.
const ZSTD_LEVEL: i32 = 1;

/// Whether a batch is worth zstd's time; the link measures and decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Zstd,
}

/// Why bytes are not a batch. The peer's fault, or damage on the way; never worth a retry with the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    #[error("the bytes end inside a batch: {have} of {need}")]
    Truncated { have: usize, need: usize },
    #[error("the bytes do not start with a batch's magic number")]
    Magic,
    #[error("batch version {0} is not known; this build knows version {VERSION}")]
    Version(u8),
    #[error("a batch flag is not known or a reserved byte is not zero")]
    Flags,
    #[error("the batch header's checksum does not match")]
    Checksum,
    #[error("the batch claims {frames} frames; at most {BATCH_FRAMES_MAX} are allowed")]
    TooManyFrames { frames: usize },
    #[error("the batch claims {bytes} bytes; at most {BATCH_BYTES_MAX} are allowed")]
    TooLarge { bytes: usize },
    #[error("the payload does not inflate to the size that the header claims")]
    Inflate,
    #[error("frame {index}: {error}")]
    Frame { index: usize, error: WireError },
    #[error("{bytes} bytes are left behind the last frame")]
    Trailing { bytes: usize },
}

/// Appends a batch of `frames`. At most 65,536 frames and 32 MiB: the caller splits before that.
pub fn encode(frames: &[Frame], compression: Compression, into: &mut BytesMut) -> Result<(), BatchError> {
    let inflated = frames.iter().map(Frame::encoded_len).sum::<usize>();
    check_size(frames.len(), inflated)?;
    match compression {
        Compression::None => {
            put_header(0, [frames.len(), inflated, inflated], into);
            frames.iter().for_each(|frame| frame.encode(into));
        }
        Compression::Zstd => {
            let mut plain = BytesMut::with_capacity(inflated);
            frames.iter().for_each(|frame| frame.encode(&mut plain));
            let packed = zstd::bulk::compress(&plain, ZSTD_LEVEL).map_err(|_| BatchError::Inflate)?;
            put_header(FLAG_ZSTD, [frames.len(), inflated, packed.len()], into);
            into.put_slice(&packed);
        }
    }
    Ok(())
}

/// Takes one batch off the front of `from`, appends its frames and returns how many they were. Frames of an uncompressed
/// batch are slices of `from`. On an error `from` is unchanged and `into` may hold the frames before the bad one.
pub fn decode(from: &mut Bytes, into: &mut Vec<Frame>) -> Result<usize, BatchError> {
    let Some(header) = from.get(..BATCH_HEADER_BYTES) else {
        return Err(BatchError::Truncated {
            have: from.len(),
            need: BATCH_HEADER_BYTES,
        });
    };
    let (flags, [count, inflated, packed]) = check_header(header)?;
    let end = BATCH_HEADER_BYTES + packed;
    if from.len() < end {
        return Err(BatchError::Truncated {
            have: from.len(),
            need: end,
        });
    }
    let payload = from.slice(BATCH_HEADER_BYTES..end);
    let mut payload = if flags & FLAG_ZSTD == 0 {
        payload
    } else {
        inflate(&payload, inflated)?
    };
    if payload.len() != inflated {
        return Err(BatchError::Inflate);
    }
    for index in 0..count {
        into.push(Frame::decode(&mut payload).map_err(|error| BatchError::Frame { index, error })?);
    }
    if payload.has_remaining() {
        return Err(BatchError::Trailing { bytes: payload.len() });
    }
    from.advance(end);
    Ok(count)
}

fn check_size(frames: usize, bytes: usize) -> Result<(), BatchError> {
    match () {
        () if frames > BATCH_FRAMES_MAX => Err(BatchError::TooManyFrames { frames }),
        () if bytes > BATCH_BYTES_MAX => Err(BatchError::TooLarge { bytes }),
        () => Ok(()),
    }
}

fn put_header(flags: u8, sizes: [usize; 3], into: &mut BytesMut) {
    let start = into.len();
    into.put_slice(&MAGIC);
    into.put_slice(&[VERSION, flags, 0, 0]);
    for size in sizes {
        into.put_u32_le(u32::try_from(size).expect("zstd grows a checked size by far less than a factor of 100"));
    }
    let checksum = xxh3_64(&into[start..]);
    into.put_u64_le(checksum);
}

fn check_header(header: &[u8]) -> Result<(u8, [usize; 3]), BatchError> {
    if header[..4] != MAGIC {
        return Err(BatchError::Magic);
    }
    if header[VERSION_AT] != VERSION {
        return Err(BatchError::Version(header[VERSION_AT]));
    }
    let flags = header[FLAGS_AT];
    if flags & !FLAG_ZSTD != 0 || header[RESERVED_AT..COUNT_AT] != [0, 0] {
        return Err(BatchError::Flags);
    }
    let mut rest = &header[COUNT_AT..];
    let sizes = [0; 3].map(|_: u8| rest.get_u32_le() as usize);
    if rest.get_u64_le() != xxh3_64(&header[..CHECKSUM_AT]) {
        return Err(BatchError::Checksum);
    }
    check_size(sizes[0], sizes[1].max(sizes[2].saturating_sub(zstd_slack(sizes[1]))))?;
    Ok((flags, sizes))
}

/// How much larger than its input zstd's output may be (ZSTD_compressBound).
fn zstd_slack(inflated: usize) -> usize {
    inflated / 256 + 64
}

/// Inflates at most the claimed size and one byte more, so that a bomb stops at the claim.
fn inflate(packed: &[u8], inflated: usize) -> Result<Bytes, BatchError> {
    let decoder = zstd::stream::read::Decoder::new(packed).map_err(|_| BatchError::Inflate)?;
    let mut plain = Vec::with_capacity(inflated.min(packed.len().saturating_mul(16)));
    let limit = inflated as u64 + 1;
    decoder
        .take(limit)
        .read_to_end(&mut plain)
        .map_err(|_| BatchError::Inflate)?;
    Ok(Bytes::from(plain))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::wire::tests::frame;

    fn round_trip(bodies: &[Vec<u8>], compression: Compression) -> Vec<Frame> {
        let frames: Vec<_> = bodies.iter().map(|body| frame(body)).collect();
        let mut bytes = BytesMut::new();
        encode(&frames, compression, &mut bytes).unwrap();
        let (mut bytes, mut decoded) = (bytes.freeze(), Vec::new());
        assert_eq!(decode(&mut bytes, &mut decoded).unwrap(), frames.len());
        assert!(bytes.is_empty());
        decoded
    }

    #[test]
    fn a_bomb_is_stopped_at_the_size_it_claims() {
        let bomb = zstd::bulk::compress(&vec![0; 4 << 20], ZSTD_LEVEL).unwrap();
        let mut bytes = BytesMut::new();
        put_header(FLAG_ZSTD, [1, 1000, bomb.len()], &mut bytes);
        bytes.put_slice(&bomb);
        assert_eq!(decode(&mut bytes.freeze(), &mut Vec::new()), Err(BatchError::Inflate));
    }

    #[test]
    fn claims_above_the_limits_are_refused_before_anything_is_read() {
        let header = |sizes| {
            let mut bytes = BytesMut::new();
            put_header(0, sizes, &mut bytes);
            decode(&mut bytes.freeze(), &mut Vec::new()).unwrap_err()
        };
        assert_eq!(
            header([BATCH_FRAMES_MAX + 1, 1, 1]),
            BatchError::TooManyFrames {
                frames: BATCH_FRAMES_MAX + 1
            }
        );
        assert!(matches!(
            header([1, BATCH_BYTES_MAX + 1, 1]),
            BatchError::TooLarge { .. }
        ));
        assert!(matches!(
            header([1, 1, BATCH_BYTES_MAX * 2]),
            BatchError::TooLarge { .. }
        ));
        assert!(matches!(header([1, 100, 100]), BatchError::Truncated { .. }));
    }

    #[test]
    fn a_damaged_header_or_frame_is_named() {
        let mut bytes = BytesMut::new();
        encode(&[frame(b"a"), frame(b"b")], Compression::None, &mut bytes).unwrap();
        let with = |at: usize| {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 0x40;
            decode(&mut Bytes::from(bytes), &mut Vec::new()).unwrap_err()
        };
        assert_eq!(with(0), BatchError::Magic);
        assert_eq!(with(VERSION_AT), BatchError::Version(0x41));
        assert_eq!(with(FLAGS_AT), BatchError::Flags);
        assert_eq!(with(COUNT_AT), BatchError::Checksum);
        assert_eq!(
            with(bytes.len() - 1),
            BatchError::Frame {
                index: 1,
                error: WireError::Checksum
            }
        );
    }

    proptest! {
        #[test]
        fn batches_round_trip(bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20), zstd in any::<bool>()) {
            let compression = if zstd { Compression::Zstd } else { Compression::None };
            let decoded = round_trip(&bodies, compression);
            prop_assert!(decoded.iter().map(|frame| frame.body.to_vec()).eq(bodies));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), sizes in [0usize..100, 0..2000, 0..200], flags in 0u8..2) {
            let mut with_header = BytesMut::new();
            put_header(flags, sizes, &mut with_header);
            with_header.put_slice(&bytes);
            let _ = decode(&mut with_header.freeze(), &mut Vec::new());
            let _ = decode(&mut Bytes::from(bytes), &mut Vec::new());
        }
    }
}
