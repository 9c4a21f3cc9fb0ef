//! A server under load that this program started: a process, its folder, its end.
//!
//! Owns starting, waiting until it is there, and ending it (SIGTERM, then SIGKILL after a deadline); knows nothing of protocols.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use weft::time::monotonic;

use crate::measure::process::Pid;

/// How long a server may take until it is there: its recovery of a large store included.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How long it may take to end by itself.
const END_DEADLINE: Duration = Duration::from_secs(20);
/// Between two looks at either.
const LOOK: Duration = Duration::from_millis(10);

/// A folder of its own, removed with everything in it when this is dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes a new folder inside this one.
    pub fn new(parent: &Path) -> Result<Self, String> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("weft-loadtest-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).map_err(|error| format!("can't make {}: {error}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running process; ended when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// From starting it until it was there.
    pub ready_after: Duration,
    /// Dropped after the process has ended.
    _folder: Option<Folder>,
}

impl Server {
    /// Starts a server that says on its output when it is ready, in a line with this start, and returns the line.
    pub fn start_until_line(
        mut command: Command,
        start: &str,
        folder: Option<Folder>,
    ) -> Result<(Self, String), String> {
        let begun = monotonic();
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| format!("can't start {name}: {error}"))?;
        let stdout = child.stdout.take().ok_or("a piped output is there")?;
        let mut server = Self {
            child,
            ready_after: Duration::ZERO,
            _folder: folder,
        };
        let (ready_line, ready) = mpsc::channel();
        let start_owned = start.to_owned();
        // Reads to the end, so that the server never waits for its reader.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.starts_with(&start_owned) {
                    let _ = ready_line.send(line);
                }
            }
        });
        let line = ready.recv_timeout(READY_DEADLINE);
        let line = line.map_err(|_| format!("{name} did not say `{start}`"))?;
        server.ready_after = monotonic() - begun;
        Ok((server, line))
    }

    /// Starts a server that is there once it takes connections at this address.
    pub fn start_until_open(mut command: Command, address: SocketAddr, folder: Option<Folder>) -> Result<Self, String> {
        let begun = monotonic();
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("can't start {name}: {error}"))?;
        let mut server = Self {
            child,
            ready_after: Duration::ZERO,
            _folder: folder,
        };
        while TcpStream::connect_timeout(&address, LOOK * 20).is_err() {
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(format!("{name} ended at its start: {status}"));
            }
            if monotonic() - begun > READY_DEADLINE {
                return Err(format!("{name} took no connection at {address}"));
            }
            thread::sleep(LOOK);
        }
        server.ready_after = monotonic() - begun;
        Ok(server)
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM lets it end in order; std can only kill, so the system's own `kill` says it.
        let asked = Command::new("kill").arg(self.child.id().to_string()).status();
        let begun = monotonic();
        while asked.is_ok() && monotonic() - begun < END_DEADLINE {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(LOOK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of loopback that is free now.
pub fn free_port() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind(("127.0.0.1", 0));
    let address = listener.and_then(|listener| listener.local_addr());
    address.map_err(|error| format!("no free port on loopback: {error}"))
}

/// A program on the path.
pub fn find_program(name: &str) -> Option<PathBuf> {
    // Debian keeps servers where only root's path leads.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ended_and_its_folder_goes_with_it() {
        let folder = Folder::new(&std::env::temp_dir()).expect("a temporary folder");
        let path = folder.path().to_owned();
        let mut command = Command::new("sh");
        command.args(["-c", "echo noise; echo ready now; exec sleep 60"]);
        let (server, line) = Server::start_until_line(command, "ready", Some(folder)).expect("it starts");
        assert_eq!(line, "ready now");
        let pid = server.pid();
        assert!(pid.sample().is_some() && path.is_dir());
        drop(server);
        assert!(pid.sample().is_none() && !path.exists());
    }

    #[test]
    fn a_server_that_ends_at_once_is_an_error_that_names_it() {
        let address = free_port().expect("a port");
        let error = Server::start_until_open(Command::new("false"), address, None).expect_err("it ended");
        assert!(error.contains("false ended at its start"), "{error}");
    }
}
