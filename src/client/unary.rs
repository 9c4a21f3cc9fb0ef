//! Single calls: sending, receiving by long poll, settling, asking what became of a message.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Accepted, Acks, Client, Delivery, DeliveryId, Error, Message, Page, Received, Refusal, Status,
    message::{millis, some_time},
    settle::Settler,
};
use crate::{
    frame::{Address, AgentId, MessageId, TrackingId},
    rpc::{Parcel, v1},
    time::Timestamp,
};

/// How much longer than the server a call waits: the server's own answer then comes first.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// A message that was sent by a single call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub message_id: String,
    pub accepted: Accepted,
    /// The node that took it.
    pub node: String,
}

/// How [`Client::receive`] receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiveOptions {
    /// At most 100.
    pub max: u32,
    /// How long to wait for the first message. At most 60 s.
    pub wait: Duration,
    pub acks: Acks,
    /// How long a delivery may stay unsettled before it comes back.
    pub visibility_timeout: Duration,
    /// The durable queue whose messages come too; empty: the default one.
    pub durable_queue: String,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        Self {
            max: 10,
            wait: Duration::from_secs(20),
            acks: Acks::Manual,
            visibility_timeout: Duration::from_secs(30),
            durable_queue: String::new(),
        }
    }
}

/// What became of one acknowledgement among several.
#[derive(Clone, Debug)]
pub enum SettleOutcome {
    /// Committed.
    Done,
    /// The id was stale: nothing changed.
    Stale,
    /// It is not known, or the store refused: retry where the error says so.
    Failed(Error),
}

impl SettleOutcome {
    pub(super) fn into_result(self) -> Result<(), Error> {
        match self {
            Self::Done => Ok(()),
            Self::Stale => Err(Error::Stale),
            Self::Failed(error) => Err(error),
        }
    }
}

/// Spreads the failures of a settle over all its ids.
pub(super) fn outcomes(count: usize, failures: Vec<v1::SettleFailure>) -> Vec<SettleOutcome> {
    let mut outcomes = vec![SettleOutcome::Done; count];
    for failure in failures {
        let outcome = match failure.result {
            Some(v1::settle_failure::Result::Problem(problem)) => SettleOutcome::Failed(problem.into()),
            Some(v1::settle_failure::Result::Stale(_)) | None => SettleOutcome::Stale,
        };
        if let Some(slot) = usize::try_from(failure.index).ok().and_then(|at| outcomes.get_mut(at)) {
            *slot = outcome;
        }
    }
    outcomes
}

/// Which message a status question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusQuery {
    /// Its shard is in the tracking id: cheap.
    Tracking(TrackingId),
    /// Asks every shard; rate-limited.
    Message { id: MessageId, from: Option<AgentId> },
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MessageStatus {
    pub tracking_id: String,
    pub status: Status,
    /// Why, for the statuses that have a reason; else empty.
    pub reason: String,
    /// Queues that the message went to.
    pub recipients: u32,
    /// How many of them have each status, by its name.
    pub counts: BTreeMap<&'static str, u32>,
    /// Deliveries begun.
    pub attempts: u32,
    pub accepted_at: Option<Timestamp>,
    pub sent_at: Option<Timestamp>,
    pub settled_at: Option<Timestamp>,
}

/// A kept message: a dead letter, or one of a group's history.
#[derive(Clone, Debug)]
pub struct KeptMessage {
    pub tracking_id: String,
    pub message: Received,
    /// Why it was kept.
    pub reason: String,
    /// Deliveries begun.
    pub attempts: u32,
    pub accepted_at: Option<Timestamp>,
    /// `None`: it still waits (history).
    pub settled_at: Option<Timestamp>,
}

impl KeptMessage {
    pub(super) fn from_proto(kept: v1::KeptMessage) -> Result<Self, Error> {
        let message = kept.message.ok_or_else(|| Error::protocol("a kept message is empty"))?;
        Ok(Self {
            tracking_id: kept.tracking_id,
            message: Received::new(Parcel::Message(message))?,
            reason: kept.reason,
            attempts: kept.attempts,
            accepted_at: some_time(kept.accepted_at_ms),
            settled_at: some_time(kept.settled_at_ms),
        })
    }
}

impl Client {
    /// Sends one message; done once it is committed (QoS 1, 2) or handed on or dropped (QoS 0).
    pub async fn send(&self, message: Message) -> Result<Sent, Error> {
        let request = v1::SendRequest {
            message: Some(message.0),
        };
        let answer = self.messaging().send(request).await?.into_inner();
        let accepted = answer
            .accepted
            .ok_or_else(|| Error::protocol("the answer to a send says nothing"))?;
        Ok(Sent {
            message_id: answer.message_id,
            accepted: Accepted::from_proto(accepted)?,
            node: answer.node,
        })
    }

    /// Sends up to 1,000 messages in one call; one answer each, in order.
    pub async fn send_batch(&self, messages: Vec<Message>) -> Result<Vec<Result<Accepted, Error>>, Error> {
        let count = messages.len();
        let request = v1::SendBatchRequest {
            messages: messages.into_iter().map(|message| message.0).collect(),
        };
        let answer = self.messaging().send_batch(request).await?.into_inner();
        if answer.receipts.len() != count {
            return Err(Error::protocol("a batch has another number of answers than messages"));
        }
        Ok(answer.receipts.into_iter().map(Accepted::from_receipt).collect())
    }

    /// Sends a message with a reply address of its own and waits for the reply. At most 5 minutes.
    pub async fn request(&self, message: Message, timeout: Duration) -> Result<Received, Error> {
        let mut request = tonic::Request::new(v1::RequestRequest {
            message: Some(message.0),
            timeout_ms: millis(timeout).max(1),
        });
        request.set_timeout(timeout.saturating_add(ANSWER_MARGIN));
        let answer = self.messaging().request(request).await?.into_inner();
        let reply = answer.reply.map(|reply| Received::new(Parcel::Message(reply)));
        reply.unwrap_or_else(|| Err(Error::protocol("the answer to a request has no reply")))
    }

    /// Waits for messages of an agent (long poll); empty where none came in time. For more than now and then, use
    /// [`Client::session`].
    pub async fn receive(&self, agent: &AgentId, options: ReceiveOptions) -> Result<Vec<Delivery>, Error> {
        let mut request = tonic::Request::new(v1::ReceiveRequest {
            agent: agent.as_str().into(),
            messages_max: options.max,
            wait_ms: millis(options.wait),
            ack_mode: options.acks.to_proto().into(),
            visibility_timeout_ms: millis(options.visibility_timeout),
            durable_queue: options.durable_queue,
        });
        request.set_timeout(options.wait.saturating_add(ANSWER_MARGIN));
        let answer = self.messaging().receive(request).await?.into_inner();
        let settler = Settler::single(self.clone(), agent.clone());
        answer
            .deliveries
            .into_iter()
            .map(|delivery| Delivery::new(delivery, settler.clone()))
            .collect()
    }

    /// Acknowledges deliveries of an agent, without its session; one outcome each, in order. At most 1,000.
    pub async fn ack(&self, agent: &AgentId, ids: &[DeliveryId]) -> Result<Vec<SettleOutcome>, Error> {
        let request = v1::AckRequest {
            agent: agent.as_str().into(),
            ids: ids.iter().map(|id| id.to_proto()).collect(),
        };
        let answer = self.messaging().ack(request).await?.into_inner();
        Ok(outcomes(ids.len(), answer.failures))
    }

    /// Refuses deliveries of an agent, without its session; one outcome each, in order. At most 1,000.
    pub async fn nack(
        &self,
        agent: &AgentId,
        ids: &[DeliveryId],
        refusal: Refusal,
    ) -> Result<Vec<SettleOutcome>, Error> {
        let request = v1::NackRequest {
            agent: agent.as_str().into(),
            ids: ids.iter().map(|id| id.to_proto()).collect(),
            refusal: Some(refusal.into()),
        };
        let answer = self.messaging().nack(request).await?.into_inner();
        Ok(outcomes(ids.len(), answer.failures))
    }

    /// What became of a message.
    pub async fn status(&self, query: StatusQuery) -> Result<MessageStatus, Error> {
        let (query, from) = match query {
            StatusQuery::Tracking(id) => (v1::get_status_request::Query::TrackingId(id.to_string()), None),
            StatusQuery::Message { id, from } => (v1::get_status_request::Query::MessageId(id.to_string()), from),
        };
        let request = v1::GetStatusRequest {
            query: Some(query),
            from: from.map_or_else(String::new, |from| from.to_string()),
        };
        let answer = self.messaging().get_status(request).await?.into_inner();
        let count = |count: v1::StatusCount| Ok((Status::from_proto(count.status)?.name(), count.count));
        Ok(MessageStatus {
            tracking_id: answer.tracking_id,
            status: Status::from_proto(answer.status)?,
            reason: answer.reason,
            recipients: answer.recipients,
            counts: answer.counts.into_iter().map(count).collect::<Result<_, Error>>()?,
            attempts: answer.attempts,
            accepted_at: some_time(answer.accepted_at_ms),
            sent_at: some_time(answer.sent_at_ms),
            settled_at: some_time(answer.settled_at_ms),
        })
    }

    /// Dead letters of an address, oldest first, and the token of the next page: empty after the last.
    pub async fn dead_letters(&self, address: &Address, page: Page) -> Result<(Vec<KeptMessage>, String), Error> {
        let request = v1::ListDeadLettersRequest {
            address: address.as_str().into(),
            page_size: page.size,
            page_token: page.token,
        };
        let answer = self.messaging().list_dead_letters(request).await?.into_inner();
        let letters = answer
            .dead_letters
            .into_iter()
            .map(KeptMessage::from_proto)
            .collect::<Result<_, _>>()?;
        Ok((letters, answer.next_page_token))
    }

    /// Puts a dead letter back into its queue as new.
    pub async fn replay_dead_letter(&self, address: &Address, message: &MessageId) -> Result<TrackingId, Error> {
        let request = v1::ReplayDeadLetterRequest {
            address: address.as_str().into(),
            message_id: message.as_str().into(),
        };
        let answer = self.messaging().replay_dead_letter(request).await?.into_inner();
        answer
            .tracking_id
            .parse()
            .map_err(|()| Error::protocol(format!("{:?} is no tracking id", answer.tracking_id)))
    }
}
