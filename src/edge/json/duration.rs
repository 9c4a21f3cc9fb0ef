//! Durations as users write them: `500ms`, `20s`, `5m`, `2h`; a bare number is seconds.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// Longest number in a duration, in digits: far above every bound, and far from an overflow.
const DIGITS_MAX: usize = 12;

/// A span of time that was read from a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub std::time::Duration);

/// Why a text is not a duration. The caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "is not a duration; write a whole number with ms, s, m or h behind it, such as 500ms, 20s or 5m (without: seconds)"
)]
pub struct DurationError;

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() || number.len() > DIGITS_MAX {
            return Err(DurationError);
        }
        let number: u64 = number.parse().map_err(|_| DurationError)?;
        let millis = match unit {
            "ms" => number,
            "" | "s" => number * 1000,
            "m" => number * 60_000,
            "h" => number * 3_600_000,
            _ => return Err(DurationError),
        };
        Ok(Self(std::time::Duration::from_millis(millis)))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            millis if millis % 1000 == 0 => write!(f, "{}s", millis / 1000),
            millis => write!(f, "{millis}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_and_without_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("20s", 20_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("20", 20_000),
            ("0", 0),
        ] {
            assert_eq!(
                text.parse(),
                Ok(Duration(std::time::Duration::from_millis(millis))),
                "{text}"
            );
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "s",
            "-1",
            "+1",
            "1.5s",
            "1 s",
            "1d",
            "1e3",
            "ms",
            "9999999999999",
            "1S",
            "٣s",
        ] {
            assert_eq!(text.parse::<Duration>(), Err(DurationError), "{text}");
        }
        assert!(
            "999999999999h".parse::<Duration>().is_ok(),
            "the longest number overflows nothing"
        );
    }
}
