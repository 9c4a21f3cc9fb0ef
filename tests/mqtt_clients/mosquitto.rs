//! mosquitto_pub and mosquitto_sub, driven through the same checks as the other clients. Each `mosquitto_sub` also subscribes to a
//! retained message, so that it has said something once it is subscribed; it ends by itself when nothing comes any more.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use weft::time::monotonic;

use super::{Running, ends_well, mqtt_driver::*};

/// For one message: only a hang meets it.
const PATIENCE: Duration = Duration::from_secs(30);
/// After which a `mosquitto_sub` ends by itself, in seconds.
const SUBSCRIBER_PATIENCE: &str = "90";
const LEVELS: [u8; 3] = [0, 1, 2];
/// Topic, QoS, retain flag, payload.
const FORMAT: &str = "%t %q %r %p";
const READY: &str = "mosquitto/ready";

#[derive(Clone, Copy, Debug)]
pub enum Transport {
    Tcp,
    Tls,
}

/// All checks of a version over a transport.
pub fn everything(broker: &Broker, version: Version, transport: Transport) {
    let place = |check| Place {
        broker,
        version,
        transport,
        base: format!("mosquitto/{version:?}/{transport:?}/{check}"),
    };
    place("ready").publish(READY, 1, &["-r", "-m", "ready"]);
    qos(&place("qos"));
    retained(&place("retained"));
    will(&place("will"));
    shared(&place("shared"));
    resume(&place("resume"));
    addresses(&place("addresses"));
    if version == Version::V5 {
        will_delay(&place("will_delay"));
        properties(&place("properties"));
    }
}

/// A version and a transport, with names of its own.
struct Place<'a> {
    broker: &'a Broker,
    version: Version,
    transport: Transport,
    base: String,
}

impl Place<'_> {
    fn topic(&self, name: &str) -> String {
        format!("{}/{name}", self.base)
    }

    fn client_id(&self, name: &str) -> String {
        self.topic(name).replace('/', "-")
    }

    fn command(&self, program: &str) -> Command {
        let version = match self.version {
            Version::V3 => "mqttv311",
            Version::V5 => "mqttv5",
        };
        let at = self.broker.at;
        let certificate = self.broker.certificate();
        let mut command = Command::new(program);
        // It reads options from files at home.
        command
            .env("HOME", certificate.parent().expect("a folder"))
            .args(["-h", "localhost", "-V", version, "-p"]);
        match self.transport {
            Transport::Tcp => command.arg(at.mqtt.port().to_string()),
            Transport::Tls => command
                .arg(at.mqtts.port().to_string())
                .arg("--cafile")
                .arg(certificate),
        };
        command
    }

    #[track_caller]
    fn publish(&self, topic: &str, qos: u8, more: &[&str]) {
        let mut command = self.command("mosquitto_pub");
        ends_well(command.args(["-t", topic, "-q", &qos.to_string()]).args(more));
    }

    /// Publishes what it reads: a whole with `-s`, each line with `-l`.
    #[track_caller]
    fn publish_input(&self, topic: &str, qos: u8, how: &str, input: &[u8]) {
        let mut command = self.command("mosquitto_pub");
        command.args(["-t", topic, "-q", &qos.to_string(), how]);
        let child = command.stdin(Stdio::piped()).spawn();
        let mut child = Running(child.expect("mosquitto_pub: run `./check tools`"));
        let mut stdin = child.0.stdin.take().expect("piped");
        stdin.write_all(input).expect("it reads");
        drop(stdin);
        assert!(child.0.wait().expect("it ends").success(), "{command:?}");
    }

    /// Subscribes and ends, with a DISCONNECT.
    #[track_caller]
    fn subscribe_and_leave(&self, name: &str, qos: u8, topic: &str, more: &[&str]) {
        let mut command = self.command("mosquitto_sub");
        command.args(["-i", &self.client_id(name), "-q", &qos.to_string(), "-t", topic]);
        ends_well(command.args(more).args(["-E", "-W", SUBSCRIBER_PATIENCE]));
    }

    /// A subscriber that is subscribed.
    #[track_caller]
    fn subscribe(&self, name: &str, qos: u8, topics: &[&str], more: &[&str]) -> Subscriber {
        let subscriber = self.start(name, qos, topics, &[&["-F", FORMAT], more].concat());
        assert_eq!(subscriber.line(), ready());
        subscriber
    }

    /// A subscriber that has yet to connect: [`READY`] is among its first messages.
    fn start(&self, name: &str, qos: u8, topics: &[&str], more: &[&str]) -> Subscriber {
        let mut command = self.command("mosquitto_sub");
        command
            .args(["-i", &self.client_id(name), "-q", &qos.to_string()])
            .args(["-W", SUBSCRIBER_PATIENCE])
            .args(topics.iter().flat_map(|topic| ["-t", topic]))
            .args(["-t", READY])
            .args(more);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut running = Running(child.expect("mosquitto_sub: run `./check tools`"));
        let out = BufReader::new(running.0.stdout.take().expect("piped"));
        let (say, lines) = channel();
        thread::spawn(move || {
            // Until either of both has ended.
            let mut out = out.lines().map_while(Result::ok);
            while out.next().is_some_and(|line| say.send(line).is_ok()) {}
        });
        Subscriber { running, lines }
    }

    /// What keeps a session.
    fn lasting(&self) -> &'static [&'static str] {
        match self.version {
            Version::V3 => &["-c"],
            Version::V5 => &["-c", "-x", "3600"],
        }
    }
}

/// A `mosquitto_sub` that is subscribed. Dropping it kills it.
struct Subscriber {
    running: Running,
    lines: Receiver<String>,
}

impl Subscriber {
    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a message")
    }

    /// The next lines in the order of their text: what is retained comes in any.
    #[track_caller]
    fn sorted(&self, count: usize) -> Vec<String> {
        let mut came: Vec<String> = (0..count).map(|_| self.line()).collect();
        came.sort_unstable();
        came
    }

    /// The numbers that are the next payloads.
    #[track_caller]
    fn numbers(&self, count: usize) -> Vec<i32> {
        (0..count).map(|_| number(&self.line())).collect()
    }

    /// By SIGKILL.
    fn cut(self) {
        drop(self.running);
    }
}

/// What the retained message at [`READY`] is in [`FORMAT`].
fn ready() -> String {
    format!("{READY} 1 1 ready")
}

fn number(line: &str) -> i32 {
    let payload = line.rsplit(' ').next();
    payload.and_then(|payload| payload.parse().ok()).expect("a number")
}

fn in_order(mut numbers: Vec<i32>) -> Vec<i32> {
    numbers.sort_unstable();
    numbers
}

/// Each number a line.
fn lines(numbers: std::ops::Range<i32>) -> Vec<u8> {
    numbers.map(|number| format!("{number}\n")).collect::<String>().into()
}

/// QoS 0, 1, 2 both ways: empty, small and 1 MiB; and the lower of two QoS.
fn qos(place: &Place<'_>) {
    let (topic, low) = (place.topic("t"), place.topic("low"));
    let subscriber = place.subscribe("s", 2, &[&topic], &[]);
    for level in LEVELS {
        for payload in [String::new(), "small".into(), "0123456789abcdef".repeat(1 << 16)] {
            match payload.is_empty() {
                true => place.publish(&topic, level, &["-n"]),
                false => place.publish_input(&topic, level, "-s", payload.as_bytes()),
            }
            let line = subscriber.line();
            assert!(line == format!("{topic} {level} 0 {payload}"), "{} bytes", line.len());
        }
    }
    let subscriber = place.subscribe("low", 1, &[&low], &[]);
    place.publish(&low, 2, &["-m", "x"]);
    assert_eq!(subscriber.line(), format!("{low} 1 0 x"));
}

/// Set, live, read by wildcard, replaced, cleared.
fn retained(place: &Place<'_>) {
    let topic = |level: u8| place.topic(&format!("kept/{level}"));
    let live = place.subscribe("live", 2, &[&topic(1)], &[]);
    for level in LEVELS {
        place.publish(&topic(level), level, &["-r", "-m", "old"]);
    }
    place.publish(&topic(1), 1, &["-r", "-m", "new"]);
    for payload in ["old", "new"] {
        assert_eq!(live.line(), format!("{} 1 0 {payload}", topic(1)));
    }
    let reader = place.start("reader", 2, &[&place.topic("kept/+")], &["-F", FORMAT]);
    let mut expected: Vec<String> = LEVELS
        .map(|level| format!("{} {level} 1 {}", topic(level), if level == 1 { "new" } else { "old" }))
        .into();
    expected.push(ready());
    expected.sort_unstable();
    assert_eq!(reader.sorted(4), expected);
    for level in LEVELS {
        place.publish(&topic(level), level, &["-r", "-n"]);
    }
    let reader = place.subscribe("reader", 2, &[&place.topic("kept/#")], &[]);
    place.publish(&place.topic("kept/fence"), 2, &["-m", "fence"]);
    assert_eq!(reader.line(), format!("{} 2 0 fence", place.topic("kept/fence")));
}

/// Of a killed client, at each QoS, one of them retained; none behind a DISCONNECT.
fn will(place: &Place<'_>) {
    let topic = place.topic("will");
    let options = |qos: &'static str| ["--will-payload", "gone", "--will-qos", qos, "--will-topic"];
    let witness = place.subscribe("witness", 2, &[&topic], &[]);
    for (level, name) in [(0, "0"), (1, "1"), (2, "2")] {
        let will = [&options(name)[..], &[&topic]].concat();
        let will = [&will[..], if level == 2 { &["--will-retain"] } else { &[] }].concat();
        place.subscribe("dies", 1, &[], &will).cut();
        assert_eq!(witness.line(), format!("{topic} {level} 0 gone"));
    }
    let late = place.start("late", 2, &[&topic], &["-F", FORMAT]).sorted(2);
    assert!(late.contains(&format!("{topic} 2 1 gone")), "{late:?}");
    let will = [&options("2")[..], &[&topic]].concat();
    place.subscribe_and_leave("leaves", 1, &place.topic("any"), &will);
    place.publish(&topic, 2, &["-m", "fence"]);
    assert_eq!(witness.line(), format!("{topic} 2 0 fence"));
}

/// It comes no sooner than its delay, and never where its client is back before.
fn will_delay(place: &Place<'_>) {
    let topic = place.topic("will");
    let killed = |name: &str, delay: &str| {
        let will = ["--will-qos", "1", "--will-payload", "gone", "--will-topic", &topic];
        let delayed = ["-D", "will", "will-delay-interval", delay];
        place.subscribe(name, 1, &[], &[place.lasting(), &will, &delayed].concat())
    };
    let witness = place.subscribe("witness", 1, &[&topic], &[]);
    let dies = killed("dies", "1");
    let cut_at = monotonic();
    dies.cut();
    assert_eq!(witness.line(), format!("{topic} 1 0 gone"));
    assert!(
        cut_at.elapsed() >= Duration::from_millis(900),
        "sooner than its delay of a second"
    );
    killed("back", "600").cut();
    place.subscribe_and_leave("back", 1, &place.topic("any"), place.lasting());
    place.publish(&topic, 1, &["-m", "fence"]);
    assert_eq!(witness.line(), format!("{topic} 1 0 fence"));
}

/// Each message goes to one member; what a member that dies had not acknowledged goes to another.
fn shared(place: &Place<'_>) {
    let topic = place.topic("once");
    let group = format!("$share/group/{topic}");
    let members = [0, 1].map(|number| place.subscribe(&format!("m{number}"), 2, &[&group], &[]));
    for level in LEVELS {
        let first = i32::from(level) * 10;
        place.publish_input(&topic, level, "-l", &lines(first..first + 10));
    }
    let mut came = Vec::new();
    let mut each = [0, 0];
    let started = monotonic();
    while came.len() < 30 {
        assert!(started.elapsed() < PATIENCE, "only {came:?}");
        for (member, count) in members.iter().zip(&mut each) {
            if let Ok(line) = member.lines.recv_timeout(Duration::from_millis(10)) {
                came.push(number(&line));
                *count += 1;
            }
        }
    }
    assert_eq!(in_order(came), (0..30).collect::<Vec<_>>());
    assert!(each.iter().all(|count| *count > 0), "{each:?}");
    drop(members);
    for level in [1, 2] {
        handed_on(place, level);
    }
}

fn handed_on(place: &Place<'_>, level: u8) {
    let (topic, fence) = (
        place.topic(&format!("again/{level}")),
        place.topic(&format!("fence/{level}")),
    );
    let group = format!("$share/group/{topic}");
    let dies = place.subscribe(&format!("d{level}"), level, &[&group], &[]);
    let stays = place.subscribe(&format!("s{level}"), level, &[&group, &fence], &[]);
    // It reads no more, so that it acknowledges nothing.
    let process = i32::try_from(dies.running.0.id()).ok().and_then(Pid::from_raw);
    kill_process(process.expect("a process id"), Signal::STOP).expect("it runs");
    place.publish_input(&topic, level, "-l", &lines(0..10));
    place.publish(&fence, level, &["-m", "-1"]);
    let mut came = Vec::new();
    while !came.contains(&-1) {
        came.extend(stays.numbers(1));
    }
    assert!(came.len() < 11, "the member that died had got nothing");
    dies.cut();
    came.extend(stays.numbers(11 - came.len()));
    assert_eq!(in_order(came), (-1..10).collect::<Vec<_>>());
}

/// What is queued while a client is away comes when it is back, in order, whether it left or was killed.
fn resume(place: &Place<'_>) {
    for level in [1, 2] {
        let topic = place.topic(&level.to_string());
        let name = format!("a{level}");
        place.subscribe_and_leave(&name, level, &topic, place.lasting());
        place.publish_input(&topic, level, "-l", &lines(0..5));
        let back = |expected: &[i32]| {
            let more = [&["-F", FORMAT], place.lasting()].concat();
            let away = place.start(&name, level, &[&topic], &more);
            let mut came: Vec<String> = (0..=expected.len()).map(|_| away.line()).collect();
            came.retain(|line| *line != ready());
            assert_eq!(came.iter().map(|line| number(line)).collect::<Vec<_>>(), expected);
            away
        };
        back(&[0, 1, 2, 3, 4]).cut();
        place.publish_input(&topic, level, "-l", &lines(5..10));
        back(&[5, 6, 7, 8, 9]).cut();
    }
}

/// An agent's inbox by its name.
fn addresses(place: &Place<'_>) {
    let bob = place.subscribe("bob", 2, &["$weft/inbox"], &[]);
    for level in LEVELS {
        let to = format!("$weft/agent/{}", place.client_id("bob"));
        place.publish(&to, level, &["-m", "hello"]);
        assert_eq!(bob.line(), format!("$weft/inbox {level} 0 hello"));
    }
}

/// Each property of a PUBLISH as it was sent.
fn properties(place: &Place<'_>) {
    let topic = place.topic("t");
    let reader = place.start("reader", 1, &[&topic], &["-F", "%p|%P|%R|%D|%C|%F"]);
    assert!(reader.line().starts_with("ready|"));
    let sent = [
        ["user-property", "a", "1"],
        ["user-property", "b", "x"],
        ["user-property", "a", "2"],
    ];
    let mut options: Vec<&str> = sent
        .iter()
        .flat_map(|pair| [&["-D", "publish"][..], pair].concat())
        .collect();
    for property in [
        ["response-topic", "answers"],
        ["correlation-data", "7"],
        ["content-type", "text/x"],
        ["message-expiry-interval", "600"],
        ["payload-format-indicator", "1"],
    ] {
        options.extend([&["-D", "publish"][..], &property].concat());
    }
    place.publish(&topic, 1, &[&options[..], &["-m", "hello"]].concat());
    assert_eq!(reader.line(), "hello|a:1 b:x a:2|answers|7|text/x|1");
}
