//! SLIM by its own load tool, `slimctl bench`: what its clients must do (names, sessions, MLS) is no work of a few lines.
//!
//! Owns a run of its publishers and subscribers and reads their report. Messages are counted, not timed: their number is what
//! SLIM manages in the time asked for, so a run takes about that long.

use std::{
    io::{BufRead, BufReader, Lines},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
};

use super::{
    figures::{Figure, Figures},
    workload::Extent,
};
use crate::{child::Server, report::count};

/// Messages of a second's run: what it carried on two cores of a shared machine, rounded down.
const MESSAGES_PER_SECOND: f64 = 50_000.0;
const READY: &str = "] ready at ";
const RESULT: &str = "Sub stats: ";

/// `slimctl` with what clients of this server need.
#[derive(Debug)]
pub struct Slim {
    pub server: Server,
    pub address: SocketAddr,
    pub program: std::path::PathBuf,
}

impl Slim {
    /// Deliveries a second of so many pairs, and the server's processor time; an error where a message was lost.
    pub fn publish_subscribe(self, pairs: usize, extent: Extent) -> Result<Figures, String> {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "seconds of a load test, and positive"
        )]
        let messages = (extent.time.as_secs_f64() * MESSAGES_PER_SECOND).max(1.0) as u64;
        let mut subscribers = Subscribers::start(self.bench("sub", pairs, messages, extent), pairs)?;
        let before = self.server.pid().sample();
        let published = self.bench("pub", pairs, messages, extent).output();
        let published = published.map_err(|error| error.to_string())?;
        if !published.status.success() {
            return Err(String::from_utf8_lossy(&published.stderr).into_owned());
        }
        let (per_second, arrived) = subscribers.result()?;
        let after = self.server.pid().sample();
        if arrived != messages {
            return Err(format!("{arrived} of {messages} messages arrived"));
        }
        let mut figures = Figures::default();
        figures.set(Figure::PerSecond, per_second);
        if let Some((before, after)) = before.zip(after) {
            figures.set(Figure::ServerCpu, (after.cpu_s - before.cpu_s) * 1e6 / count(messages));
        }
        Ok(figures)
    }

    fn bench(&self, side: &str, pairs: usize, messages: u64, extent: Extent) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["bench", "--log-level", "error", side, "--count", &pairs.to_string()])
            .args(["-n", &messages.to_string(), "--size", &extent.body_bytes.to_string()])
            .args(["--server", &format!("http://{}", self.address)]);
        command
    }
}

/// The subscribers' process; ended when this is dropped.
#[derive(Debug)]
struct Subscribers {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Subscribers {
    /// Starts them and waits until each says that it is there.
    fn start(mut command: Command, pairs: usize) -> Result<Self, String> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| error.to_string())?;
        let stdout = child.stdout.take().ok_or("a piped output is there")?;
        let mut subscribers = Self {
            child,
            lines: BufReader::new(stdout).lines(),
        };
        for _ in 0..pairs {
            subscribers.line_with(READY)?;
        }
        Ok(subscribers)
    }

    /// The next line that has this in it. A subscriber without messages for 30 s ends by itself.
    fn line_with(&mut self, part: &str) -> Result<String, String> {
        let found = self
            .lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.contains(part));
        found.ok_or_else(|| format!("slimctl ended before it said `{}`", part.trim()))
    }

    fn result(&mut self) -> Result<(f64, u64), String> {
        let line = self.line_with(RESULT)?;
        result(&line).ok_or(line)
    }
}

impl Drop for Subscribers {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Messages a second, and how many, of `Sub stats: 72,345 msgs/sec ~ 17.66 MiB/sec (100,000 msgs)`; of lost ones the report
/// says `(99,000/100,000 msgs, 1,000 dropped)`.
fn result(line: &str) -> Option<(f64, u64)> {
    let (rate, rest) = line.strip_prefix(RESULT)?.split_once(" msgs/sec")?;
    let arrived = rest.rsplit_once('(')?.1.split(['/', ' ']).next()?;
    Some((
        rate.replace(',', "").parse().ok()?,
        arrived.replace(',', "").parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_report_says_how_fast_and_how_many() {
        let whole = "Sub stats: 72,345 msgs/sec ~ 17.66 MiB/sec (100,000 msgs)";
        assert_eq!(result(whole), Some((72_345.0, 100_000)));
        let lossy = "Sub stats: 900 msgs/sec ~ 1 KiB/sec (99,000/100,000 msgs, 1,000 dropped)";
        assert_eq!(result(lossy), Some((900.0, 99_000)));
        assert_eq!(result("No samples collected."), None);
    }
}
