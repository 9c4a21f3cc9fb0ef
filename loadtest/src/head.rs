//! What every body of a load test starts with: which run, which producer, which number, and when it was meant to be sent.
//!
//! 32 hexadecimal digits, so that one form goes through binary and JSON protocols alike without being escaped:
//!
//! ```text
//!  0     4         10             20                32
//!  +-----+---------+--------------+------------------+ - - - - - -
//!  | run | producer| number       | intended send ns | padding
//!  | 16b | 24 bits | 40 bits      | 48 bits          |
//!  +-----+---------+--------------+------------------+ - - - - - -
//! ```

use bytes::Bytes;

/// Bytes of the head; no body is shorter.
pub const HEAD_BYTES: usize = 32;
/// Producers that one run can tell apart.
pub const PRODUCERS_MAX: usize = 1 << 24;
/// Messages of one producer that one run can tell apart.
pub const NUMBERS_MAX: u64 = 1 << 40;

const RUN_DIGITS: usize = 4;
const PRODUCER_DIGITS: usize = 6;
const NUMBER_DIGITS: usize = 10;
const PADDING: u8 = b'.';

/// A message of a load test, as its body says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub run: u16,
    pub producer: u32,
    /// Counts from 0 in the order of the producer's sends.
    pub number: u64,
    /// Nanoseconds on the run's clock at which it was meant to be sent. They wrap after 78 hours.
    pub intended_ns: u64,
}

impl Head {
    /// A body of this many bytes (at least the head's) that starts with this head.
    pub fn body(self, body_bytes: usize) -> Bytes {
        let mut body = vec![PADDING; body_bytes.max(HEAD_BYTES)];
        self.write(&mut body);
        body.into()
    }

    /// Writes the head over the first 32 bytes.
    pub fn write(self, body: &mut [u8]) {
        let (run, rest) = body[..HEAD_BYTES].split_at_mut(RUN_DIGITS);
        let (producer, rest) = rest.split_at_mut(PRODUCER_DIGITS);
        let (number, intended) = rest.split_at_mut(NUMBER_DIGITS);
        write_hex(run, u64::from(self.run));
        write_hex(producer, u64::from(self.producer));
        write_hex(number, self.number);
        write_hex(intended, self.intended_ns);
    }

    /// The head of a body; `None` where it has none. What was sent as JSON arrives as JSON where bodies are bytes: in quotes.
    pub fn read(body: &[u8]) -> Option<Self> {
        let head = body.strip_prefix(b"\"").unwrap_or(body).get(..HEAD_BYTES)?;
        let (run, rest) = head.split_at(RUN_DIGITS);
        let (producer, rest) = rest.split_at(PRODUCER_DIGITS);
        let (number, intended) = rest.split_at(NUMBER_DIGITS);
        Some(Self {
            run: u16::try_from(read_hex(run)?).ok()?,
            producer: u32::try_from(read_hex(producer)?).ok()?,
            number: read_hex(number)?,
            intended_ns: read_hex(intended)?,
        })
    }
}

/// The lowest digits of a number.
fn write_hex(digits: &mut [u8], mut value: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 0xf) as usize];
        value >>= 4;
    }
}

fn read_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(nibble))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head {
        run: 0xbeef,
        producer: 0x01_02_03,
        number: 0x12_3456_789a,
        intended_ns: 0x0123_4567_89ab,
    };

    #[test]
    fn a_head_comes_back_from_the_body_that_it_was_written_to() {
        let body = HEAD.body(64);
        assert_eq!(body.len(), 64);
        assert_eq!(&body[..HEAD_BYTES], b"beef010203123456789a0123456789ab");
        assert_eq!(Head::read(&body), Some(HEAD));
        let quoted = [b"\"", &body[..], b"\""].concat();
        assert_eq!(Head::read(&quoted), Some(HEAD), "a body that is JSON");
        assert_eq!(HEAD.body(1).len(), HEAD_BYTES, "a body is never shorter than its head");
    }

    #[test]
    fn what_is_not_a_head_is_none() {
        assert_eq!(Head::read(b"beef"), None);
        assert_eq!(Head::read(&[b'x'; 40]), None);
        assert_eq!(Head::read(b"BEEF010203123456789a0123456789ab"), None);
    }
}
