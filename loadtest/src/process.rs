//! The node under load: a process that this program started, or one that it only looks at.
//!
//! Owns starting and ending it and what the system says of it (processor time, memory). Knows nothing of what is sent.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// How long a node may take until it is ready.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// How long a node may take to drain before it is killed.
const END_DEADLINE: Duration = Duration::from_secs(20);
/// Linux counts processor time in hundredths of a second, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Where the node under load is, and the process to look at where it is known.
#[derive(Debug)]
pub struct Node {
    /// `host:port` of its gRPC listener, where it has one.
    pub grpc: Option<String>,
    /// `host:port` of its HTTP listener, where it has one.
    pub http: Option<String>,
    pub pid: Option<u32>,
    /// Held until this is dropped, which ends it.
    _spawned: Option<Spawned>,
}

#[derive(Debug)]
struct Spawned {
    child: Child,
    folder: PathBuf,
}

impl Node {
    /// A node that runs already.
    pub fn running(grpc: Option<String>, http: Option<String>, pid: Option<u32>) -> Self {
        Self {
            grpc,
            http,
            pid,
            _spawned: None,
        }
    }

    /// Starts a node on an empty data folder and free ports, with these further arguments, and waits until it is ready.
    pub fn spawn(binary: &Path, data_parent: &Path, arguments: &[String]) -> Result<Self, String> {
        let folder = data_parent.join(format!("weft-loadtest-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|error| format!("can't make {}: {error}", folder.display()))?;
        let mut child = Command::new(binary)
            .args([
                "serve",
                "--http-listen=127.0.0.1:0",
                "--grpc-listen=127.0.0.1:0",
                "--quic-listen=127.0.0.1:0",
                "--log-level=warn",
                "--data-dir",
            ])
            .arg(folder.join("data"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| format!("can't start {}: {error}", binary.display()))?;
        let stdout = child.stdout.take().ok_or("the node has no output")?;
        let (ready_line, ready) = mpsc::channel();
        // Reads to the end, so that the node never waits for its reader.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.starts_with("weft ready") {
                    let _ = ready_line.send(line);
                }
            }
        });
        let spawned = Spawned { child, folder };
        let line = ready
            .recv_timeout(READY_DEADLINE)
            .map_err(|_| format!("{} did not say `weft ready`", binary.display()))?;
        Ok(Self {
            grpc: listener(&line, "grpc"),
            http: listener(&line, "http"),
            pid: Some(spawned.child.id()),
            _spawned: Some(spawned),
        })
    }

    /// Processor time that the node has used, in seconds; `None` where its process is not known.
    pub fn cpu_seconds(&self) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid?)).ok()?;
        cpu_seconds_in(&stat)
    }

    /// Memory that the node holds, in bytes.
    pub fn rss_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid?)).ok()?;
        rss_bytes_in(&status)
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // SIGTERM drains; std can only kill, so the system's own `kill` says it.
        let asked = Command::new("kill").arg(self.child.id().to_string()).status();
        let steps = END_DEADLINE.as_millis() / 50;
        for _ in 0..if asked.is_ok() { steps } else { 0 } {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The address of a listener in a line such as `weft ready http=127.0.0.1:8000 grpc=127.0.0.1:50051`.
fn listener(line: &str, name: &str) -> Option<String> {
    let values = line.split([' ', ',']).filter_map(|word| word.split_once('='));
    let value = values.filter(|(key, _)| *key == name).map(|(_, value)| value).next()?;
    value.rsplit('/').next().map(str::to_owned)
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
    fn listeners_are_found_in_the_ready_line() {
        let line = "weft ready http=127.0.0.1:8000 grpc=grpc://127.0.0.1:50051";
        assert_eq!(listener(line, "http").as_deref(), Some("127.0.0.1:8000"));
        assert_eq!(listener(line, "grpc").as_deref(), Some("127.0.0.1:50051"));
        assert_eq!(listener(line, "quic"), None);
    }
}
