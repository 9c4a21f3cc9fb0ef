//! How the frames of a run stand behind its one envelope: `shared (1) | rest (1) | rest of the id | body's length (varint) |
//! marks | body`. The batch's docs have the whole format. Start at [`EntryReader`] and [`EntryWriter`].

use bytes::{BufMut, BytesMut};

use super::{
    grammar::is_message_id,
    limits::{BODY_BYTES_MAX, MESSAGE_ID_BYTES_MAX},
};

/// The smallest entry: no rest of an id, an empty body.
pub(super) const ENTRY_BYTES_MIN: usize = 3;
/// Longest varint, in bytes: 64 bits in groups of seven.
const VARINT_BYTES_MAX: usize = 10;

/// Why bytes are not an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryError {
    Truncated,
    /// No message id, or not as long as the envelope's.
    Id,
    BodyTooLarge {
        bytes: usize,
    },
}

/// The id of the entry before, which the next one's is told from.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastId {
    bytes: [u8; MESSAGE_ID_BYTES_MAX],
    length: usize,
}

impl LastId {
    /// Of a message id, at most 128 bytes.
    pub fn new(id: &[u8]) -> Self {
        let mut bytes = [0; MESSAGE_ID_BYTES_MAX];
        bytes[..id.len()].copy_from_slice(id);
        Self {
            bytes,
            length: id.len(),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Becomes the id of the next entry.
    pub fn follow(&mut self, entry: &Entry<'_>) {
        self.advance(entry.shared, entry.rest);
    }

    /// The id whose rest, from `shared` on, is another.
    pub fn advance(&mut self, shared: usize, rest: &[u8]) {
        self.bytes[shared..self.length].copy_from_slice(rest);
    }
}

/// An entry without marks.
pub(super) struct Entry<'a> {
    /// How much of the id before is this one's.
    shared: usize,
    rest: &'a [u8],
    pub body: &'a [u8],
}

/// Where reading stands within a run's entries. Nothing is taken out, so that a field costs no reference count.
pub(super) struct EntryReader<'a> {
    bytes: &'a [u8],
    pub at: usize,
    id_bytes: usize,
}

impl<'a> EntryReader<'a> {
    /// Of entries whose ids have that length.
    pub const fn new(bytes: &'a [u8], id_bytes: usize) -> Self {
        Self { bytes, at: 0, id_bytes }
    }

    pub fn take(&mut self, bytes: usize) -> Result<&'a [u8], EntryError> {
        let end = self.at.checked_add(bytes).ok_or(EntryError::Truncated)?;
        let taken = self.bytes.get(self.at..end).ok_or(EntryError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    /// How much of the id before is this one's, and the rest of it, within the grammar.
    pub fn id(&mut self) -> Result<(usize, &'a [u8]), EntryError> {
        let [shared, rest] = *self.take(2)? else {
            return Err(EntryError::Truncated);
        };
        let (shared, rest) = (usize::from(shared), self.take(rest.into())?);
        if shared + rest.len() != self.id_bytes || (!rest.is_empty() && !is_message_id(rest)) {
            return Err(EntryError::Id);
        }
        Ok((shared, rest))
    }

    /// The next entry, of a run without marks.
    pub fn entry(&mut self) -> Result<Entry<'a>, EntryError> {
        let (shared, rest) = self.id()?;
        let bytes = self.body_bytes()?;
        let body = self.take(bytes)?;
        Ok(Entry { shared, rest, body })
    }

    pub fn body_bytes(&mut self) -> Result<usize, EntryError> {
        let bytes = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        match bytes > BODY_BYTES_MAX {
            true => Err(EntryError::BodyTooLarge { bytes }),
            false => Ok(bytes),
        }
    }

    pub fn varint(&mut self) -> Result<u64, EntryError> {
        let (mut number, mut shift) = (0u64, 0);
        for (at, byte) in self.bytes[self.at..].iter().take(VARINT_BYTES_MAX).enumerate() {
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                self.at += at + 1;
                return Ok(number);
            }
            shift += 7;
        }
        Err(EntryError::Truncated)
    }

    /// A difference to the number before it.
    pub fn difference(&mut self) -> Result<u64, EntryError> {
        self.varint().map(unzigzag)
    }
}

/// Writes entries, one behind the other.
#[derive(Clone, Debug)]
pub(super) struct EntryWriter {
    last_id: LastId,
}

impl EntryWriter {
    /// Behind an envelope with that id.
    pub fn new(id: &[u8]) -> Self {
        Self {
            last_id: LastId::new(id),
        }
    }

    /// How much of an id is the last one's, where the whole is an id of the same length.
    pub fn shared(&self, id: &[u8]) -> Option<usize> {
        let last = self.last_id.as_bytes();
        if id.len() != last.len() {
            return None;
        }
        let shared = shared_prefix(id, last);
        // What is shared was checked when it stood in the last one.
        (shared == id.len() || is_message_id(&id[shared..])).then_some(shared)
    }

    /// An id of the same length, and the length of the body. Marks and the body follow.
    pub fn put(&mut self, id: &[u8], body_bytes: usize, into: &mut BytesMut) {
        self.put_shared(id, shared_prefix(id, self.last_id.as_bytes()), body_bytes, into);
    }

    /// [`EntryWriter::put`] where it is known how much the id shares with the last one.
    pub fn put_shared(&mut self, id: &[u8], shared: usize, body_bytes: usize, into: &mut BytesMut) {
        into.put_slice(&[length_byte(shared), length_byte(id.len() - shared)]);
        into.put_slice(&id[shared..]);
        self.last_id.advance(shared, &id[shared..]);
        put_varint(body_bytes as u64, into);
    }
}

/// How many bytes two ids begin with alike, eight at a time.
fn shared_prefix(one: &[u8], other: &[u8]) -> usize {
    const WORD_BYTES: usize = size_of::<u64>();
    let words = one.chunks_exact(WORD_BYTES).zip(other.chunks_exact(WORD_BYTES));
    let mut shared = 0;
    for (one, other) in words {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("chunks are of this size"));
        let differing = word(one) ^ word(other);
        if differing != 0 {
            return shared + differing.trailing_zeros() as usize / u8::BITS as usize;
        }
        shared += WORD_BYTES;
    }
    let rest = one[shared..].iter().zip(&other[shared..]);
    shared + rest.take_while(|(one, other)| one == other).count()
}

/// The difference of two numbers, small where it is.
pub(super) fn put_difference(number: u64, before: u64, into: &mut BytesMut) {
    put_varint(zigzag(number.wrapping_sub(before)), into);
}

fn length_byte(length: usize) -> u8 {
    u8::try_from(length).expect("a message id has at most 128 bytes")
}

/// Small differences of either sign as small numbers.
const fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ (((difference as i64) >> 63) as u64)
}

const fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

/// LEB128: seven bits a byte, lowest first, the eighth where more follow.
fn put_varint(mut number: u64, into: &mut BytesMut) {
    while number >= 0x80 {
        into.put_u8((number as u8) | 0x80);
        number >>= 7;
    }
    into.put_u8(number as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_shared_prefix_is_as_long_as_byte_by_byte(
            one in proptest::collection::vec(0u8..3, 0..40),
            other in proptest::collection::vec(0u8..3, 0..40),
            common in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let (one, other) = ([&common[..], &one].concat(), [&common[..], &other].concat());
            let by_byte = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
            prop_assert_eq!(shared_prefix(&one, &other), by_byte);
        }
    }
}
