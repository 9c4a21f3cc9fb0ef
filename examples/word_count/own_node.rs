//! A node of the example's own: a child process on free ports and an empty folder, gone at the end.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{Failure, workers::Server};

/// A running node. Dropping it ends it and removes its folder.
#[derive(Debug)]
pub struct OwnNode {
    child: Child,
    folder: PathBuf,
    pub server: Server,
}

impl OwnNode {
    /// Starts `PROGRAM serve` and waits until it says that it is ready.
    pub fn start(program: &Path) -> Result<Self, Failure> {
        let folder = std::env::temp_dir().join(format!("weft-word-count-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let mut child = Command::new(program)
            .args([
                "serve",
                "--http-listen=127.0.0.1:0",
                "--grpc-listen=127.0.0.1:0",
                "--quic-listen=127.0.0.1:0",
                "--log-level=warn",
                "--data-dir",
            ])
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the node has no output")?;
        let mut node = Self {
            child,
            folder,
            server: Server {
                http: String::new(),
                grpc: String::new(),
            },
        };
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        // A node that fails says why on standard error, and ends.
        let ready = lines
            .into_iter()
            .find(|line| line.starts_with("weft ready"))
            .ok_or("the node did not start")?;
        for (name, address) in ready.split(' ').filter_map(|word| word.split_once('=')) {
            match name {
                "http" => address.clone_into(&mut node.server.http),
                "grpc" => address.clone_into(&mut node.server.grpc),
                _ => {}
            }
        }
        Ok(node)
    }
}

impl Drop for OwnNode {
    fn drop(&mut self) {
        // Killed rather than asked: its folder goes too.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
