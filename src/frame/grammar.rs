//! What ids and tokens are made of: checks that keep nothing, in one pass over the bytes.
//!
//! Every message's ids go through here at least once, so a check is a table look-up a byte and allocates nothing.
//! Knows no types; [`super::id`] and [`super::address`] wrap what passed.

use super::{
    id::IdError,
    limits::{ID_BYTES_MAX, ID_SEGMENT_BYTES_MAX, MESSAGE_ID_BYTES_MAX, TOKEN_BYTES_MAX},
};

/// Ids that stand for a collection's own pages (`/agents/register`) and so cannot name an agent or a group.
const RESERVED: [&str; 5] = ["register", "connections", "create", "send", "batch"];

/// `A-Z a-z 0-9 . _ ~ -`: segments and tokens.
const SEGMENT: u8 = 1;
/// Those and `:`.
const MESSAGE: u8 = 2;

/// The classes of each byte.
static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < classes.len() {
        let is_plain = (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b'.' | b'_' | b'~' | b'-');
        if is_plain {
            classes[byte] = SEGMENT | MESSAGE;
        }
        byte += 1;
    }
    classes[b':' as usize] = MESSAGE;
    classes
}

fn is_in(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// Agents, groups and capabilities: segments of 1 to 64 bytes joined by `/`, none of them `.` or `..`.
pub(super) fn check_segmented(text: &str) -> Result<(), IdError> {
    check_length(text, ID_BYTES_MAX)?;
    if RESERVED.contains(&text) {
        return Err(IdError::Reserved);
    }
    let mut start = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte == b'/' {
            check_segment(&text[start..at])?;
            start = at + 1;
        } else if !is_in(byte, SEGMENT) {
            return Err(IdError::Character(character(text, at)));
        }
    }
    check_segment(&text[start..])
}

/// Its length and that it is no dot segment; its characters were seen.
fn check_segment(segment: &str) -> Result<(), IdError> {
    match segment {
        "" => Err(IdError::EmptySegment),
        "." | ".." => Err(IdError::DotSegment),
        _ if segment.len() > ID_SEGMENT_BYTES_MAX => Err(IdError::SegmentTooLong { bytes: segment.len() }),
        _ => Ok(()),
    }
}

/// A message's id.
pub(super) fn check_message_id(text: &str) -> Result<(), IdError> {
    check_length(text, MESSAGE_ID_BYTES_MAX)?;
    match text.bytes().position(|byte| !is_in(byte, MESSAGE)) {
        Some(at) => Err(IdError::MessageCharacter(character(text, at))),
        None => Ok(()),
    }
}

/// True for the text of a message id; for a hot path that has bytes and needs no error.
pub(super) fn is_message_id(text: &[u8]) -> bool {
    (1..=MESSAGE_ID_BYTES_MAX).contains(&text.len()) && text.iter().fold(true, |all, byte| all & is_in(*byte, MESSAGE))
}

/// The token of a session's own queue.
pub(super) fn is_token(text: &str) -> bool {
    (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| is_in(byte, SEGMENT))
}

fn check_length(text: &str, max: usize) -> Result<(), IdError> {
    match text.len() {
        0 => Err(IdError::Empty),
        bytes if bytes > max => Err(IdError::TooLong { bytes, max }),
        _ => Ok(()),
    }
}

/// As much of a text from outside as an error or a line of a log repeats: names of topics have 64 KiB.
pub(crate) fn excerpt(text: &str) -> &str {
    const EXCERPT_BYTES_MAX: usize = 128;
    &text[..text.floor_char_boundary(EXCERPT_BYTES_MAX)]
}

/// The character at the first byte that is in no class. All before it are ASCII, so a character begins there.
fn character(text: &str, at: usize) -> char {
    text.get(at..)
        .and_then(|rest| rest.chars().next())
        .unwrap_or(char::REPLACEMENT_CHARACTER)
}
