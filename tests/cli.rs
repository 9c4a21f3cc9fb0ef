//! The command line against a real node: what people read, what programs read, and the exit codes.

#[path = "real_node/mod.rs"]
mod real_node;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use real_node::{Listeners, RealNode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use weft::time::monotonic;

/// Longer than any drain and any answer on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

fn weft() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command
        .env_remove("WEFT_SERVER")
        .env_remove("WEFT_CONFIG")
        .stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the command line prints UTF-8")
}

fn exit_code(output: &Output) -> Option<i32> {
    output.status.code()
}

/// A node and the commands that talk to it.
struct Bench {
    node: RealNode,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let node = RealNode::start(&folder.path().join("data"), Listeners::free());
        Self { node, folder }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = weft();
        command.arg("--server").arg(self.node.grpc_url()).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// The lines of JSON that a command prints; it must succeed.
    fn json(&self, args: &[&str]) -> Vec<Value> {
        let output = self.run(&[args, &["-o", "json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// Waits for a process to end; kills and fails it where it does not.
fn ended(mut child: Child) -> Output {
    let start = monotonic();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > DEADLINE {
            child.kill().unwrap();
            panic!("the process did not end: {:?}", child.wait_with_output());
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn serve(data: &Path) -> Command {
    let mut command = weft();
    command
        .args([
            "serve",
            "--http-listen=127.0.0.1:0",
            "--grpc-listen=127.0.0.1:0",
            "--quic-listen=127.0.0.1:0",
            "--data-dir",
        ])
        .arg(data);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts a node and waits for its first line.
fn serving(mut command: Command) -> (Child, String) {
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    (child, line)
}

#[test]
fn ready_is_one_line_that_names_every_listener() {
    let folder = TempDir::new().unwrap();
    let (child, line) = serving(serve(folder.path()));
    signal(&child, Signal::TERM);
    assert!(line.starts_with("weft ready http=127.0.0.1:"), "{line}");
    assert!(line.contains(" grpc=127.0.0.1:"), "{line}");
    assert!(!line.contains(":0 ") && !line.trim_end().ends_with(":0"), "{line}");
    assert_eq!(exit_code(&ended(child)), Some(0));
}

#[test]
fn sigterm_says_goodbye_to_a_receiver_and_ends_with_0() {
    let folder = TempDir::new().unwrap();
    let (node, line) = serving(serve(folder.path()));
    let grpc = line.split_once("grpc=").unwrap().1.split_whitespace().next().unwrap();
    let mut receiver = weft();
    receiver.args(["--server", &format!("grpc://{grpc}"), "recv", "bob", "--follow"]);
    let receiver = receiver.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let server = format!("grpc://{grpc}");
    poll(|| {
        let listed = weft()
            .args(["--server", &server, "agent", "inspect", "bob", "-o", "json"])
            .output()
            .unwrap();
        let agent: Value = serde_json::from_slice(&listed.stdout).ok()?;
        (agent["sessions"] == 1).then_some(())
    });
    signal(&node, Signal::TERM);
    let output = ended(node);
    assert_eq!(exit_code(&output), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("\"stopped\""), "{}", text(&output.stderr));
    signal(&receiver, Signal::INT);
    assert_eq!(exit_code(&ended(receiver)), Some(0));
}

#[test]
fn a_second_signal_ends_a_drain_at_once() {
    let folder = TempDir::new().unwrap();
    let mut command = serve(folder.path());
    command.env("WEFT_NODE__DRAIN_TIMEOUT_MS", "1h");
    let (mut node, line) = serving(command);
    let http = line.split("http=").nth(1).unwrap().split_whitespace().next().unwrap();
    // A request whose body does not come holds the drain up.
    let mut stalled = TcpStream::connect(http).unwrap();
    stalled
        .write_all(
            b"POST /messages/send HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
        )
        .unwrap();
    let mut log = BufReader::new(node.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    signal(&node, Signal::TERM);
    assert!(log.any(|line| line.contains("draining")));
    signal(&node, Signal::TERM);
    assert_eq!(exit_code(&ended(node)), Some(128 + 15));
}

#[test]
fn a_second_node_on_the_same_data_is_told_who_has_it() {
    let bench = Bench::new();
    let data = bench.folder.path().join("data");
    let output = serve(&data).output().unwrap();
    let error = text(&output.stderr);
    assert_eq!(exit_code(&output), Some(75), "{error}");
    assert!(error.contains("the store does not open"), "{error}");
    assert!(
        error.contains(&bench.node.pid().to_string()) && error.contains("another data directory"),
        "{error}"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn a_taken_address_is_told_with_the_flag_that_changes_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = weft()
        .args(["serve", "--memory", "--http-listen", &address])
        .output()
        .unwrap();
    let error = text(&output.stderr);
    assert_eq!(exit_code(&output), Some(69), "{error}");
    assert!(error.contains(&address) && error.contains("--http-listen"), "{error}");
}

#[test]
fn mistakes_have_exit_codes_of_their_own() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("weft.yaml");
    fs::write(&file, "htpp: {listen: '127.0.0.1:0'}\n").unwrap();
    let file = file.to_str().unwrap();
    for (args, code, told) in [
        (vec!["frobnicate"], 64, "unrecognized"),
        (vec!["send", "--from", "..", "bob", "x"], 64, ".."),
        (vec!["serve", "--config", file], 78, "did you mean `http`?"),
        (vec!["config", "check", file], 78, "did you mean `http`?"),
        (
            vec!["serve", "--config", "/nowhere/weft.yaml"],
            66,
            "/nowhere/weft.yaml",
        ),
        (vec!["serve", "--http-listen", "0.0.0.0:0"], 78, "--insecure"),
        (vec!["serve", "--mqtt-listen", "0.0.0.0:0"], 78, "--insecure"),
        (vec!["serve", "--memory", "--grpc-listen", "nonsense"], 78, "host:port"),
        (vec!["health", "--server", "grpc://127.0.0.1:1"], 69, "127.0.0.1:1"),
        (vec!["health", "--server", "127.0.0.1:1"], 64, "scheme"),
    ] {
        let output = weft().args(&args).output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(exit_code(&output), Some(code), "{args:?}: {error}");
        assert!(error.contains(told), "{args:?}: {error}");
    }
}

#[test]
fn a_data_directory_that_cannot_be_made_is_told() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let output = serve(&file.join("data")).output().unwrap();
    let error = text(&output.stderr);
    assert_eq!(exit_code(&output), Some(73), "{error}");
    assert!(error.contains("the store does not open"), "{error}");
}

#[test]
fn config_show_tells_where_each_value_comes_from() {
    let folder = TempDir::new().unwrap();
    fs::write(
        folder.path().join("weft.yaml"),
        "node: {id: from_file}\nwebhook: {failures_max: 3}\n",
    )
    .unwrap();
    fs::write(folder.path().join(".env"), "LOG_LEVEL=DEBUG\n").unwrap();
    let mut command = weft();
    command.current_dir(folder.path()).env("WEFT_ROUTER__MAX_DELIVER", "5");
    command.env("WEFT_WEBHOOK__SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let output = command
        .args(["config", "show", "--data-dir", "/srv/weft", "-o", "json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let page = text(&output.stdout);
    let rows: Vec<Value> = page.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let row = |key: &str| {
        let row = rows.iter().find(|row| row["key"] == key).unwrap();
        format!("{} {} {}", row["value"], row["source"]["kind"], row["source"]["name"])
    };
    assert_eq!(row("node.id"), r#""from_file" "file" "weft.yaml""#);
    assert_eq!(row("log.level"), r#""debug" ".env" "LOG_LEVEL""#);
    assert_eq!(row("router.max_deliver"), r#"5 "env" "WEFT_ROUTER__MAX_DELIVER""#);
    assert_eq!(row("node.data_dir"), r#""/srv/weft" "flag" "--data-dir""#);
    assert_eq!(row("http.listen"), r#""127.0.0.1:8000" "default" null"#);
    assert_eq!(row("webhook.secret"), r#""(secret)" "env" "WEFT_WEBHOOK__SECRET""#);
    assert!(!page.contains("MfKQ9r8"), "a secret was shown");
}

#[test]
fn output_that_nobody_reads_is_no_error() {
    let mut child = weft()
        .args(["config", "show"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = ended(child);
    assert_eq!((exit_code(&output), text(&output.stderr)), (Some(0), String::new()));
}

#[test]
fn completions_name_the_commands() {
    let output = weft().args(["completions", "bash"]).output().unwrap();
    assert!(output.status.success() && text(&output.stdout).contains("replay"));
}

#[test]
fn a_message_goes_from_send_to_recv_and_its_status_says_so() {
    let bench = Bench::new();
    let sent = &bench.json(&[
        "send",
        "--from",
        "alice",
        "bob",
        r#"{"task":"x","n":1}"#,
        "--id",
        "m-1",
        "-H",
        "a=b",
    ])[0];
    assert_eq!(
        (&sent["message_id"], &sent["status"], &sent["duplicate"]),
        (&"m-1".into(), &"queued".into(), &false.into())
    );
    let again = &bench.json(&["send", "--from", "alice", "bob", r#"{"task":"x","n":1}"#, "--id", "m-1"])[0];
    assert_eq!(again["duplicate"], true);

    let peeked = poll(|| bench.json(&["recv", "bob", "--peek"]).pop());
    assert_eq!(peeked["message_id"], "m-1");
    let received = poll(|| bench.json(&["recv", "bob", "--wait", "2s"]).pop());
    assert_eq!(
        (&received["message_id"], &received["from_agent"]),
        (&"m-1".into(), &"alice".into())
    );
    assert_eq!(received["body"], serde_json::json!({"task": "x", "n": 1}));
    assert_eq!(received["headers"]["a"], "b");
    assert!(bench.json(&["recv", "bob"]).is_empty());

    let tracking = sent["tracking_id"].as_str().unwrap();
    assert_eq!(bench.json(&["status", tracking])[0]["status"], "delivered");
    assert_eq!(
        bench.json(&["status", "m-1", "--from", "alice"])[0]["status"],
        "delivered"
    );
    let unknown = bench.run(&["status", "nothing-such"]);
    assert_eq!(exit_code(&unknown), Some(66), "{}", text(&unknown.stderr));
    assert!(
        text(&unknown.stderr).contains("code: WEFT-1203"),
        "{}",
        text(&unknown.stderr)
    );
}

#[test]
fn bodies_come_from_files_and_standard_input() {
    let bench = Bench::new();
    let file = bench.folder.path().join("body.bin");
    fs::write(&file, [0xff, 0x00, 0x01]).unwrap();
    bench.json(&["send", "--from", "alice", "bob", &format!("@{}", file.display())]);
    assert_eq!(bench.json(&["recv", "bob", "--wait", "5s"])[0]["body_base64"], "/wAB");

    let mut child = bench
        .command(&["send", "--from", "alice", "bob", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    assert!(ended(child).status.success());
    assert_eq!(bench.json(&["recv", "bob", "--wait", "5s"])[0]["body"], "from a pipe");
    assert_eq!(
        exit_code(&bench.run(&["send", "--from", "alice", "bob", "@/nowhere"])),
        Some(66)
    );
}

#[test]
fn a_request_gets_its_reply() {
    let bench = Bench::new();
    let mut asking = bench.command(&[
        "request",
        "--from",
        "alice",
        "bob",
        "ping",
        "--timeout",
        "20s",
        "-o",
        "json",
    ]);
    let asking = asking.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let question = poll(|| bench.json(&["recv", "bob", "--wait", "2s"]).pop());
    let reply_to = question["reply_to"].as_str().unwrap();
    bench.json(&["send", "--from", "bob", reply_to, "pong"]);
    let output = ended(asking);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&reply["body"], &reply["from_agent"]), (&"pong".into(), &"bob".into()));
}

#[test]
fn a_request_that_nobody_answers_says_to_try_again() {
    let bench = Bench::new();
    let output = bench.run(&["request", "--from", "alice", "bob", "ping", "--timeout", "200ms"]);
    assert_eq!(exit_code(&output), Some(75), "{}", text(&output.stderr));
}

#[test]
fn a_dead_letter_is_listed_and_replayed() {
    let bench = Bench::new();
    bench.json(&["send", "--from", "alice", "bob", "broken", "--id", "m-9"]);
    assert_eq!(bench.json(&["recv", "bob", "--wait", "5s", "--dead-letter"]).len(), 1);
    let letters = bench.json(&["dlq", "ls", "bob"]);
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (&letters[0]["message_id"], &letters[0]["body"]),
        (&"m-9".into(), &"broken".into())
    );
    assert_eq!(bench.json(&["dlq", "replay", "bob", "m-9"])[0]["status"], "queued");
    assert_eq!(bench.json(&["recv", "bob", "--wait", "5s"])[0]["message_id"], "m-9");
    assert!(bench.json(&["dlq", "ls", "bob"]).is_empty());
    let table = text(&bench.run(&["dlq", "ls", "bob"]).stdout);
    assert_eq!(table, "(none)\n");
}

#[test]
fn agents_are_registered_listed_inspected_and_removed() {
    let bench = Bench::new();
    let metadata = r#"{"owner": "data_team"}"#;
    let args = [
        "agent",
        "register",
        "planner",
        "--name",
        "Plan\u{1b}[31mner",
        "--capability",
        "planning",
        "--metadata",
        metadata,
    ];
    let registered = &bench.json(&args)[0];
    assert_eq!(
        (&registered["agent_id"], &registered["created"]),
        (&"planner".into(), &true.into())
    );
    assert_eq!(bench.json(&args)[0]["created"], false);
    let listed = bench.json(&["agent", "ls", "--capability", "planning"]);
    assert_eq!(
        (listed.len(), &listed[0]["metadata"]["owner"]),
        (1, &"data_team".into())
    );
    let table = text(&bench.run(&["agent", "ls"]).stdout);
    assert!(table.starts_with("AGENT") && table.contains("planner"), "{table}");
    assert!(!table.contains('\u{1b}'), "a name steers the terminal: {table:?}");
    assert_eq!(
        bench.json(&["agent", "inspect", "planner"])[0]["connections"],
        serde_json::json!([])
    );
    assert_eq!(bench.json(&["agent", "rm", "planner"])[0]["status"], "removed");
    let gone = bench.run(&["agent", "inspect", "planner", "-o", "json"]);
    assert_eq!(exit_code(&gone), Some(66));
    let error: Value = serde_json::from_slice(&gone.stderr).unwrap();
    assert_eq!(
        (&error["error"]["code"], &error["error"]["exit"]),
        (&"WEFT-1200".into(), &66.into())
    );
}

#[test]
fn a_group_is_made_changed_and_deleted() {
    let bench = Bench::new();
    bench.json(&["group", "create", "team", "--member", "a", "--member", "b"]);
    assert_eq!(
        bench.json(&["group", "add", "team", "c"])[0]["agents"],
        serde_json::json!(["a", "b", "c"])
    );
    assert_eq!(
        bench.json(&["group", "rm", "team", "b"])[0]["agents"],
        serde_json::json!(["a", "c"])
    );
    assert_eq!(bench.json(&["group", "ls"])[0]["communication_mode"], "broadcast");
    bench.json(&["send", "--from", "a", "group:team", "all hands"]);
    assert_eq!(bench.json(&["recv", "c", "--wait", "5s"])[0]["body"], "all hands");
    assert_eq!(exit_code(&bench.run(&["group", "create", "team"])), Some(73));
    assert_eq!(bench.json(&["group", "delete", "team"])[0]["status"], "deleted");
    assert_eq!(exit_code(&bench.run(&["group", "inspect", "team"])), Some(66));
}

#[test]
fn a_follower_gets_topics_and_ends_after_as_many_as_asked() {
    let bench = Bench::new();
    let args = [
        "recv",
        "bob",
        "--follow",
        "--topic",
        "sensors/+",
        "--max",
        "1",
        "-o",
        "json",
    ];
    let follower = bench.command(&args).stdout(Stdio::piped()).spawn().unwrap();
    poll(|| {
        let agent = bench.json(&["agent", "ls", "--online"]).pop()?;
        let shown = bench.json(&["agent", "inspect", agent["agent_id"].as_str()?]).pop()?;
        (shown["connections"][0]["subscriptions"] == serde_json::json!(["sensors/+"])).then_some(())
    });
    bench.json(&["send", "--from", "alice", "topic:sensors/berlin", "21.5"]);
    let output = ended(follower);
    assert!(output.status.success());
    let received: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(received["body"], 21.5);
}

#[test]
fn health_tells_serving_from_not_there() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["health"])[0]["status"], "serving");
    let output = weft()
        .env("WEFT_SERVER", bench.node.grpc_url())
        .arg("health")
        .output()
        .unwrap();
    assert!(output.status.success() && text(&output.stdout).ends_with("serving\n"));
}

#[test]
fn quic_is_spoken_to_whom_the_command_trusts_and_to_nobody_else() {
    let bench = Bench::new();
    let url = format!("weft://{}", bench.node.listeners.quic);
    let certificate = bench.folder.path().join("data/tls.certificate.pem");
    let run = |trust: &[&str], args: &[&str]| {
        let mut command = weft();
        command.env_remove("WEFT_TLS_CA").env_remove("WEFT_TLS_PIN");
        command
            .args(["--server", &url])
            .args(trust)
            .args(args)
            .output()
            .unwrap()
    };
    let trusted = ["--tls-ca", certificate.to_str().unwrap()];
    let sent = run(&trusted, &["send", "--from", "alice", "bob", "over QUIC"]);
    assert!(sent.status.success(), "{}", text(&sent.stderr));
    let received = run(&trusted, &["recv", "bob", "--wait", "5s"]);
    assert!(
        text(&received.stdout).contains("over QUIC"),
        "{}",
        text(&received.stderr)
    );
    let nobody = run(&[], &["health"]);
    assert_eq!(exit_code(&nobody), Some(64), "{}", text(&nobody.stderr));
    let other = format!("sha256:{}", "00".repeat(32));
    let wrong = run(&["--tls-pin", &other], &["health"]);
    assert_eq!(exit_code(&wrong), Some(69), "{}", text(&wrong.stderr));
}

#[test]
fn metrics_count_what_happened() {
    let bench = Bench::new();
    bench.json(&["send", "--from", "alice", "bob", "hello"]);
    bench.json(&["recv", "bob", "--wait", "5s"]);
    let mut stream = TcpStream::connect(bench.node.listeners.http).unwrap();
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    for line in [
        "weft_ready 1",
        "weft_messages_accepted_total{qos=\"1\"} 1",
        "weft_messages_acknowledged_total 1",
    ] {
        assert!(page.lines().any(|found| found == line), "no {line} in {page}");
    }
    assert!(
        !page.contains("alice") && !page.contains("bob"),
        "an agent's id is in the metrics"
    );
}

/// Asks until there is an answer.
fn poll<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let start = monotonic();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "it did not happen in {DEADLINE:?}");
        thread::sleep(Duration::from_millis(50));
    }
}
