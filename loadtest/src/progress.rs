//! What a run says of itself while it runs: one line that is rewritten, on a terminal only.

use std::io::{IsTerminal, Write};

/// Says how far a run is, where somebody watches.
#[derive(Clone, Debug)]
pub struct Progress {
    title: String,
    watched: Watched,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    Yes,
    No,
}

impl Progress {
    /// Progress of a run with this title, on standard error where that is a terminal.
    pub fn new(title: &str) -> Self {
        let watched = if std::io::stderr().is_terminal() {
            Watched::Yes
        } else {
            Watched::No
        };
        Self {
            title: title.to_owned(),
            watched,
        }
    }

    /// Shows nothing.
    pub fn silent() -> Self {
        Self {
            title: String::new(),
            watched: Watched::No,
        }
    }

    /// So much of the time is over and so many deliveries were made.
    pub fn show(&self, now_ns: u64, delivered: u64, end_ns: u64) {
        if self.watched == Watched::Yes {
            let percent = (now_ns.saturating_mul(100) / end_ns.max(1)).min(100);
            let mut stderr = std::io::stderr().lock();
            // A terminal that is gone needs no progress.
            let _ = write!(stderr, "\r{} {percent:>3} %  {delivered} deliveries\x1b[K", self.title);
            let _ = stderr.flush();
        }
    }

    /// Clears the line.
    pub fn end(&self) {
        if self.watched == Watched::Yes {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}
