//! What the system says of a process: processor time and memory, from `/proc`.

use std::fs;

use serde::{Deserialize, Serialize};

/// Linux counts processor time in hundredths of a second, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pid(pub u32);

/// What a process has used and holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// User and system time since its start, in seconds.
    pub cpu_s: f64,
    pub rss_bytes: u64,
}

impl Pid {
    /// This process.
    pub fn own() -> Self {
        Self(std::process::id())
    }

    /// What it has used; `None` where it is gone or not to be seen.
    pub fn sample(self) -> Option<Sample> {
        let read = |file| fs::read_to_string(format!("/proc/{}/{file}", self.0)).ok();
        Some(Sample {
            cpu_s: cpu_seconds_in(&read("stat")?)?,
            rss_bytes: rss_bytes_in(&read("status")?)?,
        })
    }
}

/// User and system time of a line of `/proc/PID/stat`. The name in parentheses may itself hold spaces and parentheses.
fn cpu_seconds_in(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok().map(f64::from);
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

fn rss_bytes_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_a_name_with_spaces_and_parentheses() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 3 0 100 1000 10";
        assert_eq!(cpu_seconds_in(stat), Some(4.0));
        assert_eq!(cpu_seconds_in("42 (weft) S 1"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(
            rss_bytes_in("Name:\tweft\nVmRSS:\t    2048 kB\nThreads:\t3\n"),
            Some(2 * 1024 * 1024)
        );
        assert_eq!(rss_bytes_in("Name:\tweft\n"), None);
    }

    #[test]
    fn this_process_is_seen() {
        assert!(Pid::own().sample().is_some_and(|sample| sample.rss_bytes > 0));
    }
}
