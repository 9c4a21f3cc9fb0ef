//! Bare limits: what the same work costs on this machine with nothing of a fabric in between.
//!
//! Their servers are this program started again with the hidden command `limit`, so that their processor time is their own.
//! Start at [`relay_quic`], [`relay_grpc`], [`bare_http`]
//! and [`fdatasync`].

mod grpc;
mod http;
mod relay;

use std::{
    fs::OpenOptions,
    net::SocketAddr,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use clap::{Args, ValueEnum};
use weft::time::monotonic;

pub use http::Clients as HttpClients;

use super::{
    figures::{Figure, Figures},
    wire::Certificate,
    workload::Extent,
};
use crate::{
    child::{Folder, Server},
    measure::process::Pid,
    report::count,
};

/// What fits the Internet, and what loopback takes with ten datagrams a system call.
pub const MTU_INTERNET: u16 = 1_452;
pub const MTU_LOOPBACK: u16 = 6_400;
/// What a limit's server says once it is there.
const READY: &str = "limit ready ";
/// Space that is written before it is measured, and the size of a write, in bytes: a small commit of a store.
const PREALLOCATED_BYTES: u64 = 256 << 20;
const WRITE_BYTES: usize = 4 << 10;

/// Which server to be.
#[derive(Debug, Args)]
pub struct Arguments {
    kind: Kind,
    #[arg(long, default_value_t = MTU_INTERNET)]
    mtu: u16,
    #[arg(long)]
    certificate: Option<PathBuf>,
    #[arg(long)]
    key: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    RelayQuic,
    RelayGrpc,
    Http,
}

/// Serves until the process is ended.
pub async fn serve(arguments: &Arguments) -> Result<ExitCode, String> {
    match arguments.kind {
        Kind::Http => http::serve().await?,
        Kind::RelayGrpc => grpc::serve().await?,
        Kind::RelayQuic => {
            let files = arguments.certificate.as_deref().zip(arguments.key.as_deref());
            let (certificate, key) = files.ok_or("a relay needs --certificate and --key")?;
            relay::serve(arguments.mtu, certificate, key).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "the line that whoever started it waits for")]
fn say_ready(address: SocketAddr) {
    println!("{READY}{address}");
}

/// Starts this program as a limit's server.
fn start(arguments: &[&str], folder: Option<Folder>) -> Result<(Server, SocketAddr), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.arg("limit").args(arguments);
    let (server, line) = Server::start_until_line(command, READY, folder)?;
    let address = line.trim_start_matches(READY).parse();
    let address = address.map_err(|error| format!("{line}: {error}"))?;
    Ok((server, address))
}

fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()))
}

/// Publisher, relay, subscriber over QUIC: every message is parsed, routed by a table and packed again, and that is all.
pub async fn relay_quic(extent: Extent, mtu: u16) -> Result<Figures, String> {
    let certificate = Certificate::new()?;
    let folder = Folder::new(&std::env::temp_dir())?;
    let put = |name: &str, pem: &str| {
        let file = folder.path().join(name);
        let written = std::fs::write(&file, pem).map(|()| file);
        written.map_err(|error| format!("can't write {name}: {error}"))
    };
    let (public, private) = (
        put("certificate.pem", &certificate.pem)?,
        put("key.pem", &certificate.key_pem)?,
    );
    let files = [text(&public)?, text(&private)?].map(str::to_owned);
    let mtu_text = mtu.to_string();
    let arguments = [
        "relay-quic",
        "--mtu",
        &mtu_text,
        "--certificate",
        &files[0],
        "--key",
        &files[1],
    ];
    let (server, address) = start(&arguments, Some(folder))?;
    let delivered = Arc::new(AtomicU64::new(0));
    let clients = relay::Clients::start(address, mtu, &certificate.pem, extent.body_bytes, delivered.clone()).await?;
    let figures = measure(Some(server.pid()), || delivered.load(Ordering::Relaxed), extent).await;
    clients.stop();
    figures
}

/// The same over gRPC, in batches of 32, unencrypted.
pub async fn relay_grpc(extent: Extent) -> Result<Figures, String> {
    let (server, address) = start(&["relay-grpc"], None)?;
    let delivered = Arc::new(AtomicU64::new(0));
    let clients = grpc::Clients::start(address, extent.body_bytes, delivered.clone()).await?;
    let figures = measure(Some(server.pid()), || delivered.load(Ordering::Relaxed), extent).await;
    clients.stop();
    figures
}

/// `POST` of the same JSON to axum alone, over as many connections as weft gets.
pub async fn bare_http(extent: Extent) -> Result<Figures, String> {
    let (server, address) = start(&["http"], None)?;
    let answered = Arc::new(AtomicU64::new(0));
    let agents = ("bare/producer", "bare/consumer");
    let clients = HttpClients::start(address, agents, extent.body_bytes, &answered, || false).await?;
    let figures = measure(Some(server.pid()), || answered.load(Ordering::Relaxed), extent).await;
    clients.finish().await?;
    figures
}

/// How much moves a second once it is warm, and what of processor time the server takes for it.
pub async fn measure(server: Option<Pid>, moved: impl Fn() -> u64, extent: Extent) -> Result<Figures, String> {
    let look = || (monotonic(), moved(), server.and_then(Pid::sample));
    tokio::time::sleep(extent.warm_up).await;
    let before = look();
    tokio::time::sleep(extent.time).await;
    let after = look();
    let number = after.1 - before.1;
    if number == 0 {
        return Err("nothing moved".into());
    }
    let mut figures = Figures::default();
    figures.set(Figure::PerSecond, count(number) / (after.0 - before.0).as_secs_f64());
    if let Some((before, after)) = before.2.zip(after.2) {
        figures.set(Figure::ServerCpu, (after.cpu_s - before.cpu_s) * 1e6 / count(number));
    }
    Ok(figures)
}

/// Writes of 4 KiB onto space that is there already, each made stable before the next.
pub fn fdatasync(folder: &Folder, extent: Extent) -> Result<Figures, String> {
    let failed = |error: std::io::Error| error.to_string();
    let path = folder.path().join("sync");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path);
    let file = file.map_err(failed)?;
    let zeros = vec![0; 1 << 20];
    for offset in (0..PREALLOCATED_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset).map_err(failed)?;
    }
    file.sync_all().map_err(failed)?;
    let block = vec![3; WRITE_BYTES];
    let (begun, mut offset, mut syncs) = (monotonic(), 0, 0);
    while monotonic() - begun < extent.time {
        file.write_all_at(&block, offset).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        offset = (offset + WRITE_BYTES as u64) % PREALLOCATED_BYTES;
        syncs += 1;
    }
    let mut figures = Figures::default();
    figures.set(Figure::PerSecond, count(syncs) / (monotonic() - begun).as_secs_f64());
    Ok(figures)
}
