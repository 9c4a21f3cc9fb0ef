//! `health`: is the node serving? The exit code says so to a container runtime.

use serde_json::json;

use super::{
    failure::from_client,
    output::{Printer, Stop},
};
use crate::{
    client::{Client, Health},
    node::failure::{Exit, Failure},
};

pub(super) const EXAMPLES: &str = "Examples:
  weft health                                    exit code 0: serving, 69: not
  weft health --server grpc://10.0.0.7:50051 -o json";

pub(super) async fn run(client: &Client, printer: &mut Printer) -> Result<(), Stop> {
    let health = client
        .health("")
        .await
        .map_err(|error| from_client("the node does not answer", error))?;
    printer.answer(&json!({"status": health, "server": client.url()}), || {
        let name = match health {
            Health::Serving => "serving",
            Health::NotServing => "not serving",
            Health::Unknown => "unknown",
        };
        format!("{}  {name}", client.url())
    })?;
    match health {
        Health::Serving => Ok(()),
        Health::NotServing | Health::Unknown => {
            let cause = "it starts up or drains";
            Err(Failure::new(Exit::Unavailable, "the node is not serving", cause, "ask again shortly").into())
        }
    }
}
