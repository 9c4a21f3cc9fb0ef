//! `dlq`: messages that were given up, and how to put them back.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    failure::from_client,
    input,
    output::{Printer, Stop},
    shape,
};
use crate::{
    client::{Client, KeptMessage, Page},
    frame::{Address, MessageId},
    node::failure::{Exit, Failure},
};

#[derive(Debug, Subcommand)]
pub(super) enum DlqCommand {
    /// List the dead letters of an address, oldest first
    #[command(after_help = "Examples:\n  weft dlq ls bob\n  weft dlq ls any:analysis -o json")]
    Ls {
        /// An agent's id, or an address
        #[arg(value_parser = input::address)]
        address: Address,
    },
    /// Put dead letters back into their queue as new
    #[command(after_help = "Examples:\n  weft dlq replay bob msg_789\n  weft dlq replay bob --all")]
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// An agent's id, or an address
    #[arg(value_parser = input::address)]
    address: Address,
    /// Which messages
    #[arg(required_unless_present = "all", value_name = "MESSAGE_ID")]
    messages: Vec<MessageId>,
    /// All that there are now
    #[arg(long, conflicts_with = "messages")]
    all: bool,
}

pub(super) async fn run(client: &Client, command: DlqCommand, printer: &mut Printer) -> Result<(), Stop> {
    match command {
        DlqCommand::Ls { address } => {
            let letters = all(client, &address).await?;
            let heads = ["message", "from", "reason", "attempts", "given up", "bytes"];
            printer.listing(&heads, &letters, shape::kept, |letter| {
                vec![
                    letter.message.id().into(),
                    letter.message.from().into(),
                    letter.reason.clone(),
                    letter.attempts.to_string(),
                    shape::cell(letter.settled_at),
                    letter.message.body().len().to_string(),
                ]
            })
        }
        DlqCommand::Replay(args) => replay(client, args, printer).await,
    }
}

async fn all(client: &Client, address: &Address) -> Result<Vec<KeptMessage>, Failure> {
    let (mut letters, mut page) = (Vec::new(), Page::default());
    loop {
        let answer = client.dead_letters(address, page.clone()).await;
        let (more, token) = answer.map_err(|error| from_client("the dead letters cannot be listed", error))?;
        letters.extend(more);
        if token.is_empty() {
            return Ok(letters);
        }
        page.token = token;
    }
}

async fn replay(client: &Client, args: ReplayArgs, printer: &mut Printer) -> Result<(), Stop> {
    let mut ids = args.messages;
    if args.all {
        for letter in all(client, &args.address).await? {
            let id = MessageId::new(letter.message.id());
            ids.push(
                id.map_err(|error| Failure::new(Exit::Software, "the node named an impossible message", error, ""))?,
            );
        }
    }
    for id in &ids {
        let tracking = client.replay_dead_letter(&args.address, id).await;
        let tracking = tracking.map_err(|error| from_client(&format!("{id} was not replayed"), error))?;
        let value = json!({"message_id": id.as_str(), "status": "queued", "tracking_id": tracking.to_string()});
        printer.answer(&value, || format!("{id}  queued  tracking {tracking}"))?;
    }
    Ok(())
}
