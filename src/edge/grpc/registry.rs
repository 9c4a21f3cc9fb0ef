//! The `Registry` service: registration, discovery, live sessions, lasting subscriptions.

use serde_json::value::RawValue;
use tonic::{Request, Response, Status};

use super::{
    Edge,
    error::{invalid, status},
    identify::principal,
    show,
};
use crate::{
    frame::{AgentId, Capability, TopicFilter, excerpt},
    router::{
        error::FabricError,
        registry::{AgentFilter, AgentView, Registered, Registration},
        surface::POLL_QUEUE,
    },
    rpc::{
        convert::{FieldError, optional, required},
        v1,
    },
};

#[tonic::async_trait]
impl v1::registry_server::Registry for Edge {
    async fn register_agent(
        &self,
        request: Request<v1::RegisterAgentRequest>,
    ) -> Result<Response<v1::RegisterAgentResponse>, Status> {
        let principal = principal(&request)?;
        let request = request.into_inner();
        let agent = agent_id(&request.agent_id)?;
        let asked = request.protocols.clone();
        let registration = registration(request).map_err(status)?;
        let registered = self
            .door
            .fabric
            .register_agent(&principal, agent.clone(), registration)
            .await;
        let (record, what) = registered.map_err(status)?;
        let view = self.door.fabric.agent(&principal, &agent).unwrap_or(AgentView {
            agent_id: agent,
            last_seen: record.updated_at,
            record: Some(record),
            sessions: 0,
        });
        let served = self.door.protocols.iter().map(|protocol| protocol.name());
        Ok(self.answer(v1::RegisterAgentResponse {
            agent: Some(show::agent(&view)),
            created: match what {
                Registered::New => true,
                Registered::Updated => false,
            },
            protocols_accepted: served
                .filter(|name| asked.is_empty() || asked.iter().any(|asked| asked == name))
                .map(Into::into)
                .collect(),
        }))
    }

    async fn get_agent(&self, request: Request<v1::GetAgentRequest>) -> Result<Response<v1::Agent>, Status> {
        let principal = principal(&request)?;
        let agent = agent_id(&request.get_ref().agent_id)?;
        let view = self.door.fabric.agent(&principal, &agent).map_err(status)?;
        Ok(self.answer(show::agent(&view)))
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let principal = principal(&request)?;
        let filter = filter(request.into_inner()).map_err(|error| status(invalid(error)))?;
        let agents = self.door.fabric.agents(&principal, &filter).map_err(status)?;
        Ok(self.answer(v1::ListAgentsResponse {
            next_page_token: show::next_token(&agents, filter.limit, |last| last.agent_id.to_string()),
            agents: agents.iter().map(show::agent).collect(),
        }))
    }

    async fn remove_agent(
        &self,
        request: Request<v1::RemoveAgentRequest>,
    ) -> Result<Response<v1::RemoveAgentResponse>, Status> {
        let principal = principal(&request)?;
        let agent = agent_id(&request.get_ref().agent_id)?;
        self.door
            .fabric
            .remove_agent(&principal, &agent)
            .await
            .map_err(status)?;
        self.polls.forget(&agent);
        Ok(self.answer(v1::RemoveAgentResponse {}))
    }

    async fn heartbeat(&self, request: Request<v1::HeartbeatRequest>) -> Result<Response<v1::Agent>, Status> {
        let principal = principal(&request)?;
        let agent = agent_id(&request.get_ref().agent_id)?;
        let view = self.door.fabric.heartbeat(&principal, &agent).map_err(status)?;
        Ok(self.answer(show::agent(&view)))
    }

    async fn list_connections(
        &self,
        request: Request<v1::ListConnectionsRequest>,
    ) -> Result<Response<v1::ListConnectionsResponse>, Status> {
        let principal = principal(&request)?;
        let only = optional("agent_id", &request.get_ref().agent_id, |text| AgentId::new(text));
        let only = only.map_err(|error| status(invalid(error)))?;
        let connections = self.door.fabric.connections(&principal).map_err(status)?;
        let node = &self.door.fabric.config().node_id;
        Ok(self.answer(v1::ListConnectionsResponse {
            connections: connections
                .iter()
                .filter(|view| only.as_ref().is_none_or(|only| view.agent == *only))
                .map(|view| show::connection(view, node))
                .collect(),
        }))
    }

    async fn set_subscriptions(
        &self,
        request: Request<v1::SetSubscriptionsRequest>,
    ) -> Result<Response<v1::Subscriptions>, Status> {
        let principal = principal(&request)?;
        let request = request.into_inner();
        let agent = agent_id(&request.agent_id)?;
        let token = token_or_poll(&request.durable_queue);
        let filters = filters(&request.filters).map_err(|error| status(invalid(error)))?;
        let set = self.door.fabric.set_subscriptions(&principal, &agent, token, filters);
        set.await.map_err(status)?;
        // A session without the queue would not see its messages.
        self.polls.forget(&agent);
        Ok(self.answer(v1::Subscriptions {
            filters: request.filters,
        }))
    }

    async fn get_subscriptions(
        &self,
        request: Request<v1::GetSubscriptionsRequest>,
    ) -> Result<Response<v1::Subscriptions>, Status> {
        let principal = principal(&request)?;
        let request = request.get_ref();
        let agent = agent_id(&request.agent_id)?;
        let token = token_or_poll(&request.durable_queue);
        let filters = self.door.fabric.subscriptions(&principal, &agent, token);
        let filters = filters.map_err(status)?;
        Ok(self.answer(v1::Subscriptions {
            filters: filters.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn remove_session_queue(
        &self,
        request: Request<v1::RemoveSessionQueueRequest>,
    ) -> Result<Response<v1::RemoveSessionQueueResponse>, Status> {
        let principal = principal(&request)?;
        let request = request.get_ref();
        let agent = agent_id(&request.agent_id)?;
        let token = token_or_poll(&request.durable_queue);
        let removed = self.door.fabric.remove_session_queue(&principal, &agent, token);
        removed.await.map_err(status)?;
        self.polls.forget(&agent);
        Ok(self.answer(v1::RemoveSessionQueueResponse {}))
    }
}

fn agent_id(text: &str) -> Result<AgentId, Status> {
    required("agent_id", text, |text| AgentId::new(text)).map_err(|error| status(invalid(error)))
}

fn token_or_poll(token: &str) -> &str {
    if token.is_empty() { POLL_QUEUE } else { token }
}

/// Topic filters from outside.
pub fn filters(texts: &[String]) -> Result<Vec<TopicFilter>, FieldError> {
    let read = |text: &String| {
        TopicFilter::new(text)
            .map_err(|error| FieldError::new("filters", format!("has {:?}, which {error}", excerpt(text))))
    };
    texts.iter().map(read).collect()
}

fn registration(request: v1::RegisterAgentRequest) -> Result<Registration, FabricError> {
    let capability = |text: String| {
        Capability::new(&text)
            .map_err(|error| FabricError::invalid("capabilities", format!("has {text:?}, which {error}")))
    };
    let metadata = match request.metadata_json {
        empty if empty.is_empty() => None,
        json => Some(
            RawValue::from_string(json)
                .map_err(|error| FabricError::invalid("metadata_json", format!("is not JSON: {error}")))?,
        ),
    };
    Ok(Registration {
        name: request.name,
        capabilities: request
            .capabilities
            .into_iter()
            .map(capability)
            .collect::<Result<_, _>>()?,
        protocols: request.protocols,
        metadata,
        endpoints: request.endpoints.into_iter().collect(),
    })
}

fn filter(request: v1::ListAgentsRequest) -> Result<AgentFilter, FieldError> {
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(AgentFilter {
        capability: optional("capability", &request.capability, |text| Capability::new(text))?,
        protocol: text(request.protocol),
        online: request.online,
        prefix: text(request.prefix),
        after: optional("page_token", &request.page_token, |text| AgentId::new(text))?,
        limit: show::page_size(request.page_size)?,
    })
}
