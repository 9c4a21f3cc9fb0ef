//! Everything that rumqttc does with a broker: `rumqttc-client MQTT MQTTS HTTP CERTIFICATE` (ports, and a file).
//!
//! Each check runs in 3.1.1 and 5 over TCP, TLS and WebSocket, and says `ok` when it held. The first that does not is named and ends
//! it all.

mod checks;
mod client;

use std::{future::Future, process::ExitCode, time::Duration};

use client::{Broker, Place, Transport, Version};

/// For one check: only a hang meets it.
const CHECK_PATIENCE: Duration = Duration::from_secs(90);

#[tokio::main]
async fn main() -> ExitCode {
    let broker: &'static Broker = Box::leak(Box::new(Broker::from_arguments()));
    for version in [Version::V4, Version::V5] {
        for transport in [Transport::Tcp, Transport::Tls, Transport::Ws] {
            if let Err(named) = run(broker, version, transport).await {
                eprintln!("FAILED {named}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

async fn run(broker: &'static Broker, version: Version, transport: Transport) -> Result<(), String> {
    let place = |check| Place::new(broker, version, transport, check);
    held(place("qos"), checks::qos).await?;
    held(place("retained"), checks::retained).await?;
    held(place("will"), checks::will).await?;
    held(place("shared"), checks::shared).await?;
    held(place("resume"), checks::resume).await?;
    held(place("addresses"), checks::addresses).await?;
    if version == Version::V5 {
        held(place("will_delay"), checks::will_delay).await?;
        held(place("properties"), checks::properties).await?;
    }
    Ok(())
}

/// Runs a check, which panics where it does not hold.
async fn held<F: Future<Output = ()> + Send + 'static>(
    place: Place,
    check: impl FnOnce(Place) -> F,
) -> Result<(), String> {
    let named = place.to_string();
    let running = tokio::spawn(check(place));
    match tokio::time::timeout(CHECK_PATIENCE, running).await {
        Ok(Ok(())) => println!("ok {named}"),
        Ok(Err(error)) => return Err(format!("{named}: {error}")),
        Err(_) => return Err(format!("{named}: still running after {CHECK_PATIENCE:?}")),
    }
    Ok(())
}
