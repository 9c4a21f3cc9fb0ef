//! `send`, `request` and `status`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{
    failure::from_client,
    input,
    output::{Printer, Stop},
    shape,
};
use crate::{
    client::{Client, Message, StatusQuery},
    frame::{Address, AgentId, MessageId, Priority, Qos},
    node::failure::{Exit, Failure},
};

/// A message as arguments.
#[derive(Debug, Args)]
pub(super) struct MessageArgs {
    /// An agent's id, or an address: agent:ID, group:ID, topic:NAME, any:CAPABILITY
    #[arg(value_name = "TO", value_parser = input::address)]
    to: Address,
    /// The body: text, @FILE, or - for standard input
    #[arg(value_name = "BODY", allow_hyphen_values = true)]
    body: String,
    /// The sender
    #[arg(long, value_name = "AGENT")]
    from: AgentId,
    /// 0: at most once, 1: at least once, 2: exactly once on each hop
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    #[arg(long, value_enum, default_value = "normal")]
    priority: PriorityArg,
    /// How long it may wait: 30s, 5m, 24h [default: the node's, 24h]
    #[arg(long, value_name = "SPAN", value_parser = input::duration)]
    ttl: Option<Duration>,
    /// A header; may be given several times
    #[arg(long = "header", short = 'H', value_name = "NAME=VALUE", value_parser = input::pair)]
    headers: Vec<(String, String)>,
    /// What the body is [default: told from the body]
    #[arg(long, value_name = "MEDIA_TYPE")]
    content_type: Option<String>,
    /// What kind of message it is, such as task_request
    #[arg(long = "type", value_name = "NAME")]
    message_type: Option<String>,
    /// Its id: sending again with the same one is no second message [default: a new one]
    #[arg(long, value_name = "ID")]
    id: Option<MessageId>,
    /// What it belongs to or answers
    #[arg(long, value_name = "TEXT")]
    correlation: Option<String>,
    /// The protocol preferred for the last hop
    #[arg(long, value_name = "NAME")]
    protocol: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PriorityArg {
    Low,
    Normal,
    High,
    Critical,
}

impl From<PriorityArg> for Priority {
    fn from(priority: PriorityArg) -> Self {
        match priority {
            PriorityArg::Low => Self::Low,
            PriorityArg::Normal => Self::Normal,
            PriorityArg::High => Self::High,
            PriorityArg::Critical => Self::Critical,
        }
    }
}

impl MessageArgs {
    fn message(self) -> Result<Message, Failure> {
        let body = input::body(&self.body)?;
        let content_type = self.content_type.unwrap_or_else(|| input::content_type(&body).into());
        let qos = Qos::from_u8(self.qos).unwrap_or_default();
        let mut message = Message::new(&self.to)
            .from(&self.from)
            .qos(qos)
            .priority(self.priority.into())
            .content_type(content_type)
            .body(body);
        for (name, value) in self.headers {
            message = message.header(name, value);
        }
        if let Some(ttl) = self.ttl {
            message = message.ttl(ttl);
        }
        if let Some(id) = &self.id {
            message = message.id(id);
        }
        if let Some(name) = self.message_type {
            message = message.message_type(name);
        }
        if let Some(correlation) = self.correlation {
            message = message.correlation(correlation);
        }
        if let Some(protocol) = self.protocol {
            message = message.prefer_protocol(protocol);
        }
        Ok(message)
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft send --from alice bob 'hello'
  weft send --from alice bob @report.json --priority high --ttl 1h
  echo '{\"task\": \"analyze\"}' | weft send --from alice any:analysis -
  weft send --from alice topic:sensors/berlin '21.5' --qos 0")]
pub(super) struct SendArgs {
    #[command(flatten)]
    message: MessageArgs,
    /// Where replies go
    #[arg(long, value_name = "ADDRESS", value_parser = input::address)]
    reply_to: Option<Address>,
}

pub(super) async fn send(client: &Client, args: SendArgs, printer: &mut Printer) -> Result<(), Stop> {
    let mut message = args.message.message()?;
    if let Some(reply_to) = &args.reply_to {
        message = message.reply_to(reply_to);
    }
    let sent = client
        .send(message)
        .await
        .map_err(|error| from_client("the message was not sent", error))?;
    printer.answer(&shape::sent(&sent), || {
        let accepted = &sent.accepted;
        let tracking = accepted
            .tracking_id
            .map_or_else(String::new, |id| format!("  tracking {id}"));
        let duplicate = if accepted.duplicate {
            "  (sent before: this is its receipt)"
        } else {
            ""
        };
        format!("{}  {}{tracking}{duplicate}", sent.message_id, accepted.status.name())
    })
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  weft request --from alice any:translate '\"good morning\"' --timeout 10s")]
pub(super) struct RequestArgs {
    #[command(flatten)]
    message: MessageArgs,
    /// How long to wait for the reply, at most 5m
    #[arg(long, value_name = "SPAN", default_value = "30s", value_parser = input::duration)]
    timeout: Duration,
}

pub(super) async fn request(client: &Client, args: RequestArgs, printer: &mut Printer) -> Result<(), Stop> {
    let reply = client.request(args.message.message()?, args.timeout).await;
    let reply = reply.map_err(|error| from_client("there is no reply", error))?;
    printer.answer(&shape::received(&reply), || shape::text(&reply))
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft status t_011-3f2a        by tracking id: cheap
  weft status msg_789 --from alice")]
pub(super) struct StatusArgs {
    /// A tracking id, or a message id
    id: String,
    /// The sender, where two senders used one message id
    #[arg(long, value_name = "AGENT")]
    from: Option<AgentId>,
}

pub(super) async fn status(client: &Client, args: StatusArgs, printer: &mut Printer) -> Result<(), Stop> {
    let query = match args.id.parse() {
        Ok(tracking) => StatusQuery::Tracking(tracking),
        Err(_) => StatusQuery::Message {
            id: MessageId::new(&args.id).map_err(|error| {
                Failure::new(
                    Exit::Data,
                    "that is no message id",
                    error,
                    "use what `weft send` printed",
                )
            })?,
            from: args.from,
        },
    };
    let status = client
        .status(query)
        .await
        .map_err(|error| from_client("there is no status", error))?;
    printer.answer(&shape::status(&status), || {
        let mut text = format!("{}  {}", status.tracking_id, status.status.name());
        if !status.reason.is_empty() {
            text.push_str(&format!(" ({})", status.reason));
        }
        let settled = shape::cell(status.settled_at);
        let sent = shape::cell(status.sent_at);
        let accepted = shape::cell(status.accepted_at);
        format!(
            "{text}\n  accepted {accepted}\n  sent     {sent}\n  settled  {settled}\n  attempts {}",
            status.attempts
        )
    })
}
