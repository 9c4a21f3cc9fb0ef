//! `group`: named sets of agents.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{
    failure::from_client,
    input,
    output::{Printer, Stop},
    shape,
};
use crate::{
    client::{Client, CommunicationMode, Group, GroupDraft, MemberPermissions, Page},
    frame::{AgentId, GroupId},
};

#[derive(Debug, Subcommand)]
pub(super) enum GroupCommand {
    /// Create a group
    #[command(after_help = "Examples:
  weft group create analysis_team --member alice --member bob
  weft group create workers --mode least-loaded --member w1 --member w2")]
    Create(CreateArgs),
    /// List groups
    Ls,
    /// Show a group
    Inspect { group: GroupId },
    /// Add members
    Add(MembersArgs),
    /// Remove members
    Rm(MembersArgs),
    /// Delete a group
    Delete {
        group: GroupId,
        #[command(flatten)]
        acting: Acting,
    },
}

#[derive(Debug, Args)]
pub(super) struct Acting {
    /// Who does it, where the group's permissions ask
    #[arg(long = "as", value_name = "AGENT")]
    acting: Option<AgentId>,
}

#[derive(Debug, Args)]
pub(super) struct MembersArgs {
    group: GroupId,
    #[arg(required = true, value_name = "AGENT")]
    agents: Vec<AgentId>,
    #[command(flatten)]
    acting: Acting,
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    group: GroupId,
    #[arg(long, default_value = "")]
    name: String,
    /// A member; may be given several times
    #[arg(long = "member", value_name = "AGENT")]
    members: Vec<AgentId>,
    /// Which members get a message
    #[arg(long, value_enum, default_value = "broadcast")]
    mode: Mode,
    /// With --mode partitioned: sender, header:NAME, or a JSON pointer into the body
    #[arg(long, value_name = "KEY", default_value = "")]
    partition_key: String,
    /// How long messages stay readable as history
    #[arg(long, value_name = "SPAN", default_value = "0s", value_parser = input::duration)]
    retention: Duration,
    /// Largest body in bytes, 0 for the node's limit
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    message_bytes_max: u64,
    #[command(flatten)]
    acting: Acting,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// Every member but the sender
    Broadcast,
    /// One member after the other
    RoundRobin,
    /// The attached member with the fewest messages outstanding
    LeastLoaded,
    /// The member that the message's key falls to
    Partitioned,
}

impl From<Mode> for CommunicationMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Broadcast => Self::Broadcast,
            Mode::RoundRobin => Self::RoundRobin,
            Mode::LeastLoaded => Self::LeastLoaded,
            Mode::Partitioned => Self::Partitioned,
        }
    }
}

pub(super) async fn run(client: &Client, command: GroupCommand, printer: &mut Printer) -> Result<(), Stop> {
    match command {
        GroupCommand::Create(args) => create(client, args, printer).await,
        GroupCommand::Ls => list(client, printer).await,
        GroupCommand::Inspect { group } => {
            let shown = client.group(&group).await;
            let shown = shown.map_err(|error| from_client("the group cannot be shown", error))?;
            show(&shown, printer)
        }
        GroupCommand::Add(args) => {
            let changed = client
                .add_members(&args.group, &args.agents, args.acting.acting.as_ref())
                .await;
            let changed = changed.map_err(|error| from_client("the members were not added", error))?;
            show(&changed, printer)
        }
        GroupCommand::Rm(args) => remove_members(client, &args, printer).await,
        GroupCommand::Delete { group, acting } => {
            let deleted = client.delete_group(&group, acting.acting.as_ref()).await;
            deleted.map_err(|error| from_client("the group was not deleted", error))?;
            let value = json!({"group_id": group.as_str(), "status": "deleted"});
            printer.answer(&value, || format!("{group}  deleted"))
        }
    }
}

async fn create(client: &Client, args: CreateArgs, printer: &mut Printer) -> Result<(), Stop> {
    let draft = GroupDraft {
        name: args.name,
        agents: args.members,
        communication_mode: args.mode.into(),
        partition_key: args.partition_key,
        protocols: Vec::new(),
        message_bytes_max: args.message_bytes_max,
        message_retention: args.retention,
        member_permissions: MemberPermissions::default(),
        created_by: args.acting.acting,
    };
    let created = client.create_group(&args.group, draft).await;
    let created = created.map_err(|error| from_client("the group was not created", error))?;
    show(&created, printer)
}

async fn remove_members(client: &Client, args: &MembersArgs, printer: &mut Printer) -> Result<(), Stop> {
    let mut group = None;
    for agent in &args.agents {
        let changed = client
            .remove_member(&args.group, agent, args.acting.acting.as_ref())
            .await;
        group = Some(changed.map_err(|error| from_client(&format!("{agent} was not removed"), error))?);
    }
    group.map_or(Ok(()), |group| show(&group, printer))
}

async fn list(client: &Client, printer: &mut Printer) -> Result<(), Stop> {
    let (mut groups, mut page) = (Vec::new(), Page::default());
    loop {
        let answer = client.groups(page.clone()).await;
        let (more, token) = answer.map_err(|error| from_client("the groups cannot be listed", error))?;
        groups.extend(more);
        if token.is_empty() {
            break;
        }
        page.token = token;
    }
    printer.listing(
        &["group", "mode", "members", "name", "created"],
        &groups,
        shape::group,
        |group| {
            vec![
                group.group_id.clone(),
                mode_name(group),
                group.agents.len().to_string(),
                group.name.clone(),
                shape::cell(group.created_at),
            ]
        },
    )
}

fn show(group: &Group, printer: &mut Printer) -> Result<(), Stop> {
    printer.answer(&shape::group(group), || {
        let members = group.agents.join(", ");
        format!("{}  {}\n  members  {members}", group.group_id, mode_name(group))
    })
}

/// The name that users read and write.
fn mode_name(group: &Group) -> String {
    match group.communication_mode {
        CommunicationMode::Broadcast => "broadcast",
        CommunicationMode::RoundRobin => "round_robin",
        CommunicationMode::LeastLoaded => "least_loaded",
        CommunicationMode::Partitioned => "partitioned",
    }
    .into()
}
