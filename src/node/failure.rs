//! How a command fails: what happened, why, how to fix it, and the exit code that says so to programs.
//!
//! Exit codes are those of BSD's `sysexits.h`, which init systems and scripts already know. Knows nothing of any
//! particular failure; the code that meets one fills it in.

use std::fmt;

/// An exit code of `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command line is wrong.
    Usage = 64,
    /// The input is wrong, or stored data is damaged.
    Data = 65,
    /// A named agent, group or message does not exist.
    NoInput = 66,
    /// A service cannot be reached, or an address cannot be listened on.
    Unavailable = 69,
    /// A broken promise inside weft.
    Software = 70,
    /// A file or directory cannot be created.
    CantCreate = 73,
    /// Reading or writing failed.
    Io = 74,
    /// The same command may succeed later.
    TempFail = 75,
    /// Not permitted.
    NoPerm = 77,
    /// The configuration is wrong.
    Config = 78,
}

/// Why a command failed, told the way people can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What did not happen.
    pub what: String,
    /// Why; empty where `what` says it all.
    pub cause: String,
    /// What to do about it.
    pub fix: String,
    /// The stable code of the fabric's error (`WEFT-NNNN`), where it came from there.
    pub code: Option<String>,
    pub exit: Exit,
}

impl Failure {
    /// A failure without a fabric code.
    pub fn new(exit: Exit, what: impl Into<String>, cause: impl fmt::Display, fix: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            cause: cause.to_string(),
            fix: fix.into(),
            code: None,
            exit,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        for (name, text) in [
            ("cause", self.cause.as_str()),
            ("fix", self.fix.as_str()),
            ("code", self.code.as_deref().unwrap_or_default()),
        ] {
            if !text.is_empty() {
                write!(f, "\n  {name:>5}: {}", text.replace('\n', "\n         "))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_only_the_lines_that_it_has() {
        let mut failure = Failure::new(Exit::Config, "cannot start", "two\nlines", "");
        assert_eq!(failure.to_string(), "error: cannot start\n  cause: two\n         lines");
        failure.code = Some("WEFT-1000".into());
        assert!(failure.to_string().ends_with("\n   code: WEFT-1000"));
    }
}
