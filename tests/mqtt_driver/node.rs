//! The broker under test as a process: the `weft` binary, or mosquitto with `WEFT_MQTT_PEER=mosquitto`, which shows that a test
//! itself is right. It is killed for real and started again where it was.

use std::{
    fs::File,
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

/// How long a node may take until it is ready: generous, for a debug build on a busy machine.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// Lines of a node's log that are shown when a test fails.
const LOG_LINES_SHOWN: usize = 30;

/// Where a node listens.
#[derive(Clone, Copy, Debug)]
pub struct Listeners {
    pub mqtt: SocketAddr,
    pub mqtts: SocketAddr,
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub quic: SocketAddr,
}

/// A running broker with a folder of its own. Dropping it kills it and removes the folder.
pub struct Broker {
    child: Child,
    folder: PathBuf,
    settings: Vec<(&'static str, &'static str)>,
    pub at: Listeners,
}

/// Whether the tests run against mosquitto.
pub fn peer() -> bool {
    std::env::var_os("WEFT_MQTT_PEER").is_some_and(|peer| peer == "mosquitto")
}

impl Broker {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With settings, as environment variables (`WEFT_MQTT__RECEIVE_MAX`).
    pub fn with(settings: &[(&'static str, &'static str)]) -> Self {
        static FOLDERS: AtomicU32 = AtomicU32::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("weft-mqtt-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary folder takes folders");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let at = Listeners {
            mqtt: any,
            mqtts: any,
            http: any,
            grpc: any,
            quic: any,
        };
        let (child, at) = start(&folder, settings, at);
        Self {
            child,
            folder,
            settings: settings.to_vec(),
            at,
        }
    }

    /// Ends the process by SIGKILL, at whatever it is doing, and starts it again on the same ports and data.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        (self.child, self.at) = start(&self.folder, &self.settings, self.at);
    }

    /// The same, with these settings from now on.
    pub fn restart_with(&mut self, settings: &[(&'static str, &'static str)]) {
        self.settings = settings.to_vec();
        self.kill_and_restart();
    }

    fn kill(&mut self) {
        // On Unix this is SIGKILL. It fails only where the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Fails where the process has ended by itself.
    pub fn assert_alive(&mut self) {
        let ended = self.child.try_wait().expect("the child can be asked");
        assert!(ended.is_none(), "the node ended: {ended:?}\n{}", self.log());
    }

    /// The authority that signed the node's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("data/tls.certificate.pem")
    }

    pub fn log(&self) -> String {
        log_tail(&self.folder)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("the broker's log:\n{}", self.log());
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn log_tail(folder: &Path) -> String {
    let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

fn start(folder: &Path, settings: &[(&'static str, &'static str)], at: Listeners) -> (Child, Listeners) {
    if peer() {
        start_peer(folder, at)
    } else {
        start_weft(folder, settings, at)
    }
}

fn start_weft(folder: &Path, settings: &[(&'static str, &'static str)], at: Listeners) -> (Child, Listeners) {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .expect("the folder takes a log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    // Settings of the tests, or of whoever runs them, are none of the node's.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WEFT_")) {
        command.env_remove(name);
    }
    let mut child = command
        .arg("serve")
        .arg("--data-dir")
        .arg(folder.join("data"))
        .arg(format!("--http-listen={}", at.http))
        .arg(format!("--grpc-listen={}", at.grpc))
        .arg(format!("--quic-listen={}", at.quic))
        .arg(format!("--mqtt-listen={}", at.mqtt))
        .arg(format!("--mqtts-listen={}", at.mqtts))
        .envs(settings.iter().copied())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("the weft binary was built with this test");
    let stdout = child.stdout.take().expect("stdout was piped");
    let (ready_line, ready) = mpsc::channel();
    // Reads to the end, so that the node never waits for its reader.
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if line.starts_with("weft ready") {
                let _ = ready_line.send(line);
            }
        }
    });
    // A node that fails closes its stdout, which drops the sender and ends the wait.
    let Ok(line) = ready.recv_timeout(READY_DEADLINE) else {
        let _ = child.kill();
        panic!("no `weft ready` line: {:?}\n{}", child.wait(), log_tail(folder));
    };
    let address = |name: &str| -> SocketAddr {
        let mut values = line.split([' ', ',']).filter_map(|word| word.split_once('='));
        let value = values.find(|(key, _)| *key == name).map(|(_, value)| value);
        let value = value.unwrap_or_else(|| panic!("no {name} listener in: {line}"));
        value
            .rsplit('/')
            .next()
            .and_then(|value| value.parse().ok())
            .expect("an address")
    };
    let at = Listeners {
        mqtt: address("mqtt"),
        mqtts: address("mqtts"),
        http: address("http"),
        grpc: address("grpc"),
        quic: address("quic"),
    };
    (child, at)
}

fn start_peer(folder: &Path, mut at: Listeners) -> (Child, Listeners) {
    if at.mqtt.port() == 0 {
        // Free now; mosquitto can't take a port of the system's choice.
        at.mqtt = TcpListener::bind(at.mqtt)
            .and_then(|listener| listener.local_addr())
            .expect("loopback has free ports");
    }
    let configuration = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n",
        at.mqtt.port()
    );
    std::fs::write(folder.join("mosquitto.conf"), configuration).expect("the folder takes a file");
    let log = File::create(folder.join("log")).expect("the folder takes a log");
    let child = Command::new("mosquitto")
        .arg("-c")
        .arg(folder.join("mosquitto.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .or_else(|_| {
            Command::new("/usr/sbin/mosquitto")
                .arg("-c")
                .arg(folder.join("mosquitto.conf"))
                .spawn()
        })
        .expect("mosquitto is installed");
    let listens = (0..6_000).any(|_| {
        thread::sleep(Duration::from_millis(10));
        TcpStream::connect(at.mqtt).is_ok()
    });
    assert!(listens, "mosquitto does not listen");
    (child, at)
}
