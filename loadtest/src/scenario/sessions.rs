//! Sessions that move no messages: opened as fast as it goes, or held and doing nothing.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use weft::time::monotonic;

use crate::{
    clock::nanos,
    driver::{Connector, Failure, MqttSocket, Receiver, Receiving, Socket, source_of},
    measure::{latency::Recorder, process::Sample},
    mqtt,
    node::Node,
    plan::{Plan, Protocol, Quality},
    report::{Run, count},
    traffic::Layout,
};

/// Sessions that are opened at once; a node lets one address have 32 connections that have not said who they are.
const OPENING_MAX: usize = 16;
/// Sessions of one agent; a node allows 8. Over MQTT a client has one.
const SESSIONS_PER_AGENT: usize = 8;
/// How long one session may take to open.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);
/// How long the node's memory may settle after the last session was opened.
const SETTLE: Duration = Duration::from_secs(2);

/// A session that is held.
#[derive(Debug)]
enum Held {
    Session(#[expect(dead_code, reason = "held so that the session stays")] Box<Receiver>),
    Socket(Socket),
    Mqtt(MqttSocket),
}

/// Opens sessions as fast as the node takes them, all at once as far as [`OPENING_MAX`] lets them.
pub async fn storm(node: &Node, connector: &Connector, plan: &Plan) -> Result<Run, Failure> {
    let before = node.sample();
    let begun = monotonic();
    let (held, latency, errors) = open_all(connector, plan, plan.agents).await;
    let seconds = (monotonic() - begun).as_secs_f64();
    let after = node.sample();
    let mut run = Run::of_plan(plan);
    run.load = format!("{} sessions, {OPENING_MAX} at once", plan.agents);
    run.seconds = seconds;
    run.latency.insert("attach".to_owned(), latency.summary());
    run.figures
        .insert("sessions/s".to_owned(), count(held.len() as u64) / seconds.max(1e-9));
    run.findings.lost = (plan.agents - held.len()) as u64;
    run.errors = errors;
    if let Some((before, after)) = before.zip(after) {
        let cpu_s = after.cpu_s - before.cpu_s;
        let each = cpu_s / count(plan.agents.max(1) as u64);
        run.figures.insert("server CPU us per session".to_owned(), each * 1e6);
    }
    refuse_partial(run)
}

/// Opens sessions, lets them do nothing, and looks at what they cost the node.
pub async fn idle(node: &Node, connector: &Connector, plan: &Plan) -> Result<Run, Failure> {
    let rss = || node.sample().map(|sample: Sample| sample.rss_bytes);
    // The first session pays for what all of them share.
    let (first, _, mut errors) = open_all(connector, plan, 1).await;
    sleep(SETTLE).await;
    let before = rss().ok_or("memory needs a node that runs on this machine: give --serve or --pid")?;
    let (held, latency, more) = open_all(connector, plan, plan.agents).await;
    errors.extend(more);
    let mut tasks = JoinSet::new();
    let mut sessions = Vec::new();
    let opened = held.len();
    for held in first.into_iter().chain(held) {
        match held {
            Held::Socket(socket) => drop(tasks.spawn(socket.idle())),
            Held::Mqtt(socket) => drop(tasks.spawn(socket.idle())),
            Held::Session(_) => sessions.push(held),
        }
    }
    sleep(SETTLE).await;
    let after = rss().ok_or("the node's process is gone")?;
    let mut lost = plan.agents - opened;
    while tasks.try_join_next().is_some() {
        lost += 1;
    }
    let mut run = Run::of_plan(plan);
    run.load = format!("{} sessions", plan.agents);
    run.latency.insert("attach".to_owned(), latency.summary());
    run.server_rss_bytes_before = Some(before);
    run.server_rss_bytes_peak = Some(after);
    run.figures.insert(
        "server bytes per session".to_owned(),
        count(after.saturating_sub(before)) / count(opened.max(1) as u64),
    );
    run.findings.lost = lost as u64;
    run.errors = errors;
    tasks.shutdown().await;
    drop(sessions);
    refuse_partial(run)
}

/// A figure of fewer sessions than were asked for is worthless.
fn refuse_partial(run: Run) -> Result<Run, Failure> {
    match run.findings.lost {
        0 => Ok(run),
        lost => Err(format!(
            "{lost} of {} sessions did not open or did not last: {}",
            run.plan.agents,
            run.errors.join("; ")
        )),
    }
}

async fn open_all(connector: &Connector, plan: &Plan, sessions: usize) -> (Vec<Held>, Recorder, Vec<String>) {
    let layout = Layout::new();
    let turns = Arc::new(Semaphore::new(OPENING_MAX));
    let mut opening = JoinSet::new();
    for index in 0..sessions {
        let (turns, connector, protocol) = (turns.clone(), connector.clone(), plan.protocol);
        let sessions_per_agent = match protocol {
            Protocol::Mqtt => 1,
            _ => SESSIONS_PER_AGENT,
        };
        let agent = layout.agent("idle", index / sessions_per_agent);
        opening.spawn(async move {
            let _turn = turns.acquire().await.map_err(|error| error.to_string())?;
            let begun = monotonic();
            let open = open_one(&connector, protocol, &agent, index);
            let held = timeout(OPEN_DEADLINE, open).await;
            let held = held.map_err(|_| "no session in time".to_owned())??;
            Ok::<_, Failure>((held, nanos(monotonic() - begun)))
        });
    }
    let (mut held, mut latency, mut errors) = (Vec::with_capacity(sessions), Recorder::default(), Vec::new());
    while let Some(opened) = opening.join_next().await {
        match opened.expect("a task that opens a session does not panic") {
            Ok((session, ns)) => {
                held.push(session);
                latency.record(ns);
            }
            Err(error) if !errors.contains(&error) && errors.len() < 5 => errors.push(error),
            Err(_) => {}
        }
    }
    (held, latency, errors)
}

async fn open_one(connector: &Connector, protocol: Protocol, agent: &str, index: usize) -> Result<Held, Failure> {
    // Source addresses of loopback reach nodes on this machine alone.
    let source = |host: &str| host.starts_with("127.").then(|| source_of(index));
    match protocol {
        Protocol::Http => Err("HTTP has no sessions to hold; websocket, grpc, quic and mqtt have".to_owned()),
        Protocol::Websocket => {
            let host = connector.http()?;
            Socket::open(host, agent, source(host)).await.map(Held::Socket)
        }
        // With its inbox open, as the others have it.
        Protocol::Mqtt => {
            let host = connector.mqtt()?;
            let mut socket = MqttSocket::open(host, agent, source(host)).await?;
            socket.subscribe(mqtt::INBOX, Quality::AtMostOnce).await?;
            Ok(Held::Mqtt(socket))
        }
        Protocol::Grpc | Protocol::Quic => {
            let receiver = connector.receiver(protocol, agent, &Receiving::default()).await?;
            Ok(Held::Session(Box::new(receiver)))
        }
    }
}
