//! `recv`: what waits for an agent, once or for as long as it runs. A message is acknowledged once it was printed.

use std::time::Duration;

use clap::Args;
use tokio::signal;

use super::{
    failure::from_client,
    input,
    output::{Printer, Stop},
    shape,
};
use crate::{
    client::{Client, Delivery, Error, ReceiveOptions, Refusal, Session, SessionOptions},
    frame::{AgentId, TopicFilter},
};

/// How long a closing session may take to get its last acknowledgements through.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the bare node keeps a delivery that `--peek` shows.
const PEEK_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft recv bob                            up to 10 messages that wait, then end
  weft recv bob --wait 20s --max 1         the next message
  weft recv bob --follow -o json           a line of JSON for each message, until Ctrl-C
  weft recv bob --follow --topic 'sensors/+'
  weft recv bob --peek                     look, but leave them in the mailbox")]
pub(super) struct RecvArgs {
    /// Whose messages
    agent: AgentId,
    /// Keep receiving until Ctrl-C, or until --max messages came
    #[arg(long, short)]
    follow: bool,
    /// At most this many messages [default: 10, with --follow no end]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max: Option<u32>,
    /// How long to wait for the first message
    #[arg(long, value_name = "SPAN", default_value = "0s", value_parser = input::duration, conflicts_with = "follow")]
    wait: Duration,
    /// Subscribe to a topic for as long as this runs; may be given several times
    #[arg(long = "topic", value_name = "FILTER", requires = "follow")]
    topics: Vec<TopicFilter>,
    /// Do not acknowledge: the messages stay
    #[arg(long, conflicts_with_all = ["follow", "dead_letter"])]
    peek: bool,
    /// Refuse for good: the messages become dead letters
    #[arg(long)]
    dead_letter: bool,
}

/// What happens to a message that was printed.
#[derive(Clone, Copy)]
enum Afterwards {
    Acknowledge,
    Leave,
    DeadLetter,
}

impl RecvArgs {
    const fn afterwards(&self) -> Afterwards {
        match (self.peek, self.dead_letter) {
            (true, _) => Afterwards::Leave,
            (false, true) => Afterwards::DeadLetter,
            (false, false) => Afterwards::Acknowledge,
        }
    }
}

pub(super) async fn recv(client: &Client, args: RecvArgs, printer: &mut Printer) -> Result<(), Stop> {
    if args.follow {
        return follow(client, &args, printer).await;
    }
    /// What one call may bring.
    const CALL_MAX: u32 = 100;
    let mut left = args.max.unwrap_or(10);
    let mut wait = args.wait;
    while left > 0 {
        let options = ReceiveOptions {
            max: left.min(CALL_MAX),
            wait,
            visibility_timeout: if args.peek {
                PEEK_TIMEOUT
            } else {
                ReceiveOptions::default().visibility_timeout
            },
            ..ReceiveOptions::default()
        };
        let deliveries = client.receive(&args.agent, options).await;
        let deliveries = deliveries.map_err(|error| from_client("nothing was received", error))?;
        if deliveries.is_empty() {
            break;
        }
        for delivery in &deliveries {
            print(delivery, args.afterwards(), printer).await?;
        }
        left -= u32::try_from(deliveries.len()).unwrap_or(u32::MAX).min(left);
        wait = Duration::ZERO;
    }
    Ok(())
}

async fn follow(client: &Client, args: &RecvArgs, printer: &mut Printer) -> Result<(), Stop> {
    let failed = |error| from_client("the session ended", error);
    let session = client
        .session(&args.agent, SessionOptions::default())
        .await
        .map_err(failed)?;
    if !args.topics.is_empty() {
        session.subscribe(&args.topics).await.map_err(failed)?;
    }
    let outcome = tokio::select! {
        outcome = take(&session, args, printer) => outcome,
        _ = signal::ctrl_c() => Ok(()),
    };
    // What was printed is acknowledged already; a session that does not end in time is dropped by the node.
    let _late = session.close(CLOSE_PATIENCE).await;
    outcome
}

async fn take(session: &Session, args: &RecvArgs, printer: &mut Printer) -> Result<(), Stop> {
    let mut left = args.max;
    while left != Some(0) {
        let delivery = session
            .recv()
            .await
            .map_err(|error| from_client("the session ended", error))?;
        print(&delivery, args.afterwards(), printer).await?;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// Prints first: a message whose reader is gone stays in the mailbox.
async fn print(delivery: &Delivery, afterwards: Afterwards, printer: &mut Printer) -> Result<(), Stop> {
    printer.answer(&shape::delivery(delivery), || shape::text(delivery.message()))?;
    let settled = match afterwards {
        Afterwards::Acknowledge => delivery.ack().await,
        Afterwards::DeadLetter => delivery.nack(Refusal::DeadLetter).await,
        Afterwards::Leave => Ok(()),
    };
    match settled {
        // It was handed out again meanwhile: whoever got it then settles it. QoS 0 has nothing to settle.
        Ok(()) | Err(Error::Stale | Error::NothingToSettle) => Ok(()),
        Err(error) => Err(from_client("the message was printed, but not settled: it comes again", error).into()),
    }
}
