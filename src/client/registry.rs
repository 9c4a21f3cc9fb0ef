//! Registration, discovery, live sessions and lasting subscriptions.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Client, Error, message::some_time};
use crate::{
    frame::{AgentId, TopicFilter},
    rpc::v1,
    time::Timestamp,
};

/// What an agent says of itself when it registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    pub name: String,
    /// At most 128, each in the grammar of agent ids.
    pub capabilities: Vec<String>,
    /// Protocols that the agent speaks.
    pub protocols: Vec<String>,
    /// A JSON object; empty: none. At most 16 KiB.
    pub metadata_json: String,
    /// Protocol name to URL.
    pub endpoints: BTreeMap<String, String>,
}

/// The answer to a registration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Registered {
    pub agent: Agent,
    /// False: it was an update.
    pub created: bool,
    pub protocols_accepted: Vec<String>,
}

/// An agent as discovery shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agent {
    pub agent_id: String,
    /// False: it was named in a message but never registered.
    pub registered: bool,
    pub registration_id: String,
    pub name: String,
    pub capabilities: Vec<String>,
    pub protocols: Vec<String>,
    /// As it was registered; `None` where there is none.
    pub metadata: Option<serde_json::Value>,
    pub endpoints: BTreeMap<String, String>,
    pub registered_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
    /// Sessions attached now.
    pub sessions: u32,
    pub last_seen_at: Option<Timestamp>,
}

impl From<v1::Agent> for Agent {
    fn from(agent: v1::Agent) -> Self {
        Self {
            agent_id: agent.agent_id,
            registered: agent.registered,
            registration_id: agent.registration_id,
            name: agent.name,
            capabilities: agent.capabilities,
            protocols: agent.protocols,
            metadata: serde_json::from_str(&agent.metadata_json).ok(),
            endpoints: agent.endpoints.into_iter().collect(),
            registered_at: some_time(agent.registered_at_ms),
            updated_at: some_time(agent.updated_at_ms),
            sessions: agent.sessions,
            last_seen_at: some_time(agent.last_seen_at_ms),
        }
    }
}

/// Which agents a listing shows; all conditions hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentFilter {
    pub capability: Option<String>,
    pub protocol: Option<String>,
    pub online: Option<bool>,
    pub prefix: Option<String>,
}

/// A part of a listing. Default: the first 100.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// 0: 100. At most 1,000.
    pub size: u32,
    /// From the answer before; empty: from the beginning.
    pub token: String,
}

/// A live session as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Connection {
    /// The session's number on its node.
    pub session: u64,
    pub agent_id: String,
    pub protocol: String,
    pub node: String,
    pub since: Timestamp,
    pub window_messages: u32,
    pub window_bytes: u64,
    pub in_flight_messages: u32,
    pub in_flight_bytes: u64,
    /// Messages handed out that the session's writer has not taken yet.
    pub queue_depth: u64,
    pub subscriptions: Vec<String>,
}

impl From<v1::Connection> for Connection {
    fn from(connection: v1::Connection) -> Self {
        Self {
            session: connection.session,
            agent_id: connection.agent_id,
            protocol: connection.protocol,
            node: connection.node,
            since: Timestamp::from_millis(connection.since_ms),
            window_messages: connection.window_messages,
            window_bytes: connection.window_bytes,
            in_flight_messages: connection.in_flight_messages,
            in_flight_bytes: connection.in_flight_bytes,
            queue_depth: connection.queue_depth,
            subscriptions: connection.subscriptions,
        }
    }
}

impl Client {
    /// Registers an agent; again is an update.
    pub async fn register_agent(&self, agent: &AgentId, registration: Registration) -> Result<Registered, Error> {
        let request = v1::RegisterAgentRequest {
            agent_id: agent.as_str().into(),
            name: registration.name,
            capabilities: registration.capabilities,
            protocols: registration.protocols,
            metadata_json: registration.metadata_json,
            endpoints: registration.endpoints.into_iter().collect(),
        };
        let answer = self.registry().register_agent(request).await?.into_inner();
        let agent = answer
            .agent
            .ok_or_else(|| Error::protocol("a registration shows no agent"))?;
        Ok(Registered {
            agent: agent.into(),
            created: answer.created,
            protocols_accepted: answer.protocols_accepted,
        })
    }

    /// One agent.
    pub async fn agent(&self, agent: &AgentId) -> Result<Agent, Error> {
        let request = v1::GetAgentRequest {
            agent_id: agent.as_str().into(),
        };
        Ok(self.registry().get_agent(request).await?.into_inner().into())
    }

    /// Agents in order of id, and the token of the next page: empty after the last.
    pub async fn agents(&self, filter: AgentFilter, page: Page) -> Result<(Vec<Agent>, String), Error> {
        let request = v1::ListAgentsRequest {
            capability: filter.capability.unwrap_or_default(),
            protocol: filter.protocol.unwrap_or_default(),
            online: filter.online,
            prefix: filter.prefix.unwrap_or_default(),
            page_size: page.size,
            page_token: page.token,
        };
        let answer = self.registry().list_agents(request).await?.into_inner();
        let agents = answer.agents.into_iter().map(Agent::from).collect();
        Ok((agents, answer.next_page_token))
    }

    /// Removes an agent with its inbox and whatever waits in it.
    pub async fn remove_agent(&self, agent: &AgentId) -> Result<(), Error> {
        let request = v1::RemoveAgentRequest {
            agent_id: agent.as_str().into(),
        };
        self.registry().remove_agent(request).await?;
        Ok(())
    }

    /// Notes that an agent is alive.
    pub async fn heartbeat(&self, agent: &AgentId) -> Result<Agent, Error> {
        let request = v1::HeartbeatRequest {
            agent_id: agent.as_str().into(),
        };
        Ok(self.registry().heartbeat(request).await?.into_inner().into())
    }

    /// The live sessions of the node, or of one agent there.
    pub async fn connections(&self, agent: Option<&AgentId>) -> Result<Vec<Connection>, Error> {
        let request = v1::ListConnectionsRequest {
            agent_id: agent.map_or_else(String::new, |agent| agent.as_str().into()),
        };
        let answer = self.registry().list_connections(request).await?.into_inner();
        Ok(answer.connections.into_iter().map(Connection::from).collect())
    }

    /// Replaces the subscriptions of an agent's durable queue. An empty token is the queue that [`Client::receive`] takes
    /// from unless told otherwise.
    pub async fn set_subscriptions(
        &self,
        agent: &AgentId,
        durable_queue: &str,
        filters: &[TopicFilter],
    ) -> Result<Vec<String>, Error> {
        let request = v1::SetSubscriptionsRequest {
            agent_id: agent.as_str().into(),
            durable_queue: durable_queue.into(),
            filters: filters.iter().map(ToString::to_string).collect(),
        };
        Ok(self.registry().set_subscriptions(request).await?.into_inner().filters)
    }

    /// The subscriptions of an agent's durable queue.
    pub async fn subscriptions(&self, agent: &AgentId, durable_queue: &str) -> Result<Vec<String>, Error> {
        let request = v1::GetSubscriptionsRequest {
            agent_id: agent.as_str().into(),
            durable_queue: durable_queue.into(),
        };
        Ok(self.registry().get_subscriptions(request).await?.into_inner().filters)
    }

    /// Removes a durable queue with its subscriptions and whatever waits in it.
    pub async fn remove_session_queue(&self, agent: &AgentId, durable_queue: &str) -> Result<(), Error> {
        let request = v1::RemoveSessionQueueRequest {
            agent_id: agent.as_str().into(),
            durable_queue: durable_queue.into(),
        };
        self.registry().remove_session_queue(request).await?;
        Ok(())
    }
}
