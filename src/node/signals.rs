//! SIGTERM and SIGINT: the first asks the node to drain, a second one ends the process at once.

use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    Stop,
    failure::{Exit, Failure},
};

/// Exit code of a process that a second signal ended: 128 and the signal's number, as shells have it.
const SIGNALLED: i32 = 128;

/// A token that the first signal cancels.
pub(super) fn watch() -> Result<Stop, Failure> {
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stop = Stop::new();
    let token = stop.clone();
    tokio::spawn(async move {
        let first = either(&mut terminate, &mut interrupt).await;
        tracing::info!(
            signal = first.as_raw_value(),
            "asked to stop; a second signal ends at once"
        );
        token.cancel();
        let second = either(&mut terminate, &mut interrupt).await;
        process::exit(SIGNALLED + second.as_raw_value());
    });
    Ok(stop)
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(Exit::Io, "cannot listen for signals", error, ""))
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> SignalKind {
    tokio::select! {
        _ = terminate.recv() => SignalKind::terminate(),
        _ = interrupt.recv() => SignalKind::interrupt(),
    }
}
