//! `agent`: registration and discovery.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    failure::from_client,
    input,
    output::{Printer, Stop},
    shape,
};
use crate::{
    client::{Agent, AgentFilter, Client, Page, Registration},
    frame::AgentId,
    node::failure::Failure,
};

#[derive(Debug, Subcommand)]
pub(super) enum AgentCommand {
    /// List agents
    #[command(after_help = "Example:\n  weft agent ls --capability analysis --online")]
    Ls(ListArgs),
    /// Show an agent and its live sessions
    Inspect { agent: AgentId },
    /// Register an agent, or change its registration
    #[command(after_help = "Example:
  weft agent register planner --name 'Planner' --capability planning --metadata '{\"owner\": \"data_team\"}'")]
    Register(RegisterArgs),
    /// Remove an agent with its mailbox and whatever waits in it
    Rm { agent: AgentId },
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only those with this capability
    #[arg(long)]
    capability: Option<String>,
    /// Only those that speak this protocol
    #[arg(long)]
    protocol: Option<String>,
    /// Only those whose id starts so
    #[arg(long)]
    prefix: Option<String>,
    /// Only those that are attached
    #[arg(long)]
    online: bool,
}

#[derive(Debug, Args)]
pub(super) struct RegisterArgs {
    agent: AgentId,
    #[arg(long, default_value = "")]
    name: String,
    /// A capability; may be given several times
    #[arg(long = "capability", value_name = "NAME")]
    capabilities: Vec<String>,
    /// A protocol that it speaks; may be given several times
    #[arg(long = "protocol", value_name = "NAME")]
    protocols: Vec<String>,
    /// A JSON object
    #[arg(long, value_name = "JSON", default_value = "")]
    metadata: String,
    /// Where it is reached; may be given several times
    #[arg(long = "endpoint", value_name = "PROTOCOL=URL", value_parser = input::pair)]
    endpoints: Vec<(String, String)>,
}

pub(super) async fn run(client: &Client, command: AgentCommand, printer: &mut Printer) -> Result<(), Stop> {
    match command {
        AgentCommand::Ls(args) => list(client, args, printer).await,
        AgentCommand::Inspect { agent } => inspect(client, &agent, printer).await,
        AgentCommand::Register(args) => register(client, args, printer).await,
        AgentCommand::Rm { agent } => remove(client, &agent, printer).await,
    }
}

async fn list(client: &Client, args: ListArgs, printer: &mut Printer) -> Result<(), Stop> {
    let filter = AgentFilter {
        capability: args.capability,
        protocol: args.protocol,
        prefix: args.prefix,
        online: args.online.then_some(true),
    };
    let agents = all(client, filter).await?;
    printer.listing(
        &["agent", "status", "sessions", "capabilities", "name", "last seen"],
        &agents,
        shape::agent,
        |agent| {
            vec![
                agent.agent_id.clone(),
                if agent.registered { "registered" } else { "unregistered" }.into(),
                agent.sessions.to_string(),
                agent.capabilities.join(","),
                agent.name.clone(),
                shape::cell(agent.last_seen_at),
            ]
        },
    )
}

/// All pages. The node bounds how many agents there are.
async fn all(client: &Client, filter: AgentFilter) -> Result<Vec<Agent>, Failure> {
    let (mut agents, mut page) = (Vec::new(), Page::default());
    loop {
        let answer = client.agents(filter.clone(), page.clone()).await;
        let (more, token) = answer.map_err(|error| from_client("the agents cannot be listed", error))?;
        agents.extend(more);
        if token.is_empty() {
            return Ok(agents);
        }
        page.token = token;
    }
}

async fn inspect(client: &Client, agent: &AgentId, printer: &mut Printer) -> Result<(), Stop> {
    let failed = |error| from_client("the agent cannot be shown", error);
    let view = client.agent(agent).await.map_err(failed)?;
    let connections = client.connections(Some(agent)).await.map_err(failed)?;
    let mut value = shape::agent(&view);
    value["connections"] = connections.iter().map(shape::connection).collect();
    printer.answer(&value, || {
        let mut text = format!(
            "{}  {}\n  name          {}\n  capabilities  {}\n  protocols     {}\n  registered    {}\n  last seen     {}",
            view.agent_id,
            if view.registered { "registered" } else { "unregistered" },
            view.name,
            view.capabilities.join(", "),
            view.protocols.join(", "),
            shape::cell(view.registered_at),
            shape::cell(view.last_seen_at),
        );
        for connection in &connections {
            text.push_str(&format!(
                "\n  session {}  {} on {} since {}  in flight {} of {}  queued {}",
                connection.session,
                connection.protocol,
                connection.node,
                connection.since,
                connection.in_flight_messages,
                connection.window_messages,
                connection.queue_depth,
            ));
        }
        text
    })
}

async fn register(client: &Client, args: RegisterArgs, printer: &mut Printer) -> Result<(), Stop> {
    let registration = Registration {
        name: args.name,
        capabilities: args.capabilities,
        protocols: args.protocols,
        metadata_json: args.metadata,
        endpoints: args.endpoints.into_iter().collect(),
    };
    let registered = client.register_agent(&args.agent, registration).await;
    let registered = registered.map_err(|error| from_client("the agent was not registered", error))?;
    let mut value = shape::agent(&registered.agent);
    value["created"] = registered.created.into();
    value["protocols_accepted"] = json!(registered.protocols_accepted);
    printer.answer(&value, || {
        let what = if registered.created { "registered" } else { "updated" };
        format!(
            "{}  {what}  {}",
            registered.agent.agent_id, registered.agent.registration_id
        )
    })
}

async fn remove(client: &Client, agent: &AgentId, printer: &mut Printer) -> Result<(), Stop> {
    let removed = client.remove_agent(agent).await;
    removed.map_err(|error| from_client("the agent was not removed", error))?;
    let value = json!({"agent_id": agent.as_str(), "status": "removed"});
    printer.answer(&value, || format!("{agent}  removed"))
}
