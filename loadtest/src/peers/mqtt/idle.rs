//! Connections that do nothing: what each costs the broker in memory.

use std::time::Duration;

use tokio::{task::JoinSet, time::sleep};

use super::Idle;
use crate::{
    driver::{MqttSocket, source_of},
    measure::process::Pid,
    peers::figures::{Figure, Figures},
    plan::Quality,
    report::count,
};

/// Connections that are counted.
const CONNECTIONS: usize = 10_000;
/// Connections that are opened before anything is counted: the first few pay for what all share.
const FIRST: usize = 16;
/// Opened at once; a node lets one address have 32 connections that have not said who they are.
const OPENING_MAX: usize = 16;
/// How long the broker's memory may settle.
const SETTLE: Duration = Duration::from_secs(2);

/// Bytes of a broker for each of 10,000 connections.
pub async fn run(host: &str, pid: Pid, idle: Idle) -> Result<Figures, String> {
    let rss = || pid.sample().map(|sample| sample.rss_bytes).ok_or("the broker is gone");
    let mut held = JoinSet::new();
    open(host, idle, 0..FIRST, &mut held).await?;
    sleep(SETTLE).await;
    let before = rss()?;
    open(host, idle, FIRST..FIRST + CONNECTIONS, &mut held).await?;
    sleep(SETTLE).await;
    let grown = rss()?.saturating_sub(before);
    if held.try_join_next().is_some() {
        return Err("the broker ended a connection that did nothing".into());
    }
    held.shutdown().await;
    let mut figures = Figures::default();
    figures.set(Figure::BytesEach, count(grown) / count(CONNECTIONS as u64));
    Ok(figures)
}

/// Opens the connections of these numbers, and has them do nothing.
async fn open(host: &str, idle: Idle, numbers: std::ops::Range<usize>, held: &mut JoinSet<()>) -> Result<(), String> {
    let mut opening = JoinSet::new();
    let opened = |socket: Option<Result<Result<MqttSocket, String>, _>>, held: &mut JoinSet<()>| match socket {
        Some(Ok(Ok(socket))) => {
            held.spawn(socket.idle());
            Ok(())
        }
        Some(Ok(Err(error))) => Err(error),
        Some(Err(error)) => Err(tokio::task::JoinError::to_string(&error)),
        None => Ok(()),
    };
    for number in numbers {
        if opening.len() == OPENING_MAX {
            opened(opening.join_next().await, held)?;
        }
        opening.spawn(one(host.to_owned(), idle, number));
    }
    while !opening.is_empty() {
        opened(opening.join_next().await, held)?;
    }
    Ok(())
}

async fn one(host: String, idle: Idle, number: usize) -> Result<MqttSocket, String> {
    let mut socket = MqttSocket::open(&host, &format!("idle-{number}"), Some(source_of(number))).await?;
    if idle == Idle::Subscribed {
        let topic = format!("idle/{number}");
        socket.subscribe(&topic, Quality::AtMostOnce).await?;
    }
    Ok(socket)
}
