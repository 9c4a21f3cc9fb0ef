//! Two agents on one server: `ping` asks, `pong` answers, over streams.
//!
//! Start a server (`cargo run -- serve`), then:
//!
//! ```sh
//! cargo run --no-default-features --features client --example ping -- grpc://127.0.0.1:50051
//! ```
#![allow(clippy::print_stdout, reason = "an example speaks to its reader")]

use std::{env, error::Error, time::Duration};

use weft::{
    client::{Client, Message, SessionOptions},
    frame::AgentId,
    time::monotonic,
};

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::args().nth(1).unwrap_or_else(|| "grpc://127.0.0.1:50051".into());
    let client = Client::connect(&url).await?;
    let (ping, pong) = (AgentId::new("ping")?, AgentId::new("pong")?);

    let answering = client.session(&pong, SessionOptions::default()).await?;
    let answers = tokio::spawn(async move {
        // Until the session is closed from the other side or the program ends.
        while let Ok(question) = answering.recv().await {
            if let Some(reply) = question.reply() {
                answering.send(reply.body(question.body().clone())).await?.await?;
            }
            question.ack().await?;
        }
        Ok::<(), weft::client::Error>(())
    });

    let asking = client.session(&ping, SessionOptions::default()).await?;
    for n in 1..=5 {
        let began = monotonic();
        let question = Message::to_agent(&pong).text(format!("ping {n}"));
        let answer = asking.request(question, PATIENCE).await?;
        println!(
            "{} answered {:?} in {:?}",
            answer.from(),
            answer.body(),
            began.elapsed()
        );
    }
    answers.abort();
    asking.close(PATIENCE).await?;
    Ok(())
}
