//! How a delivery reaches the place that settles it: its session, or a single call.

use std::sync::Arc;

use super::{Client, DeliveryId, Error, Refusal, session::Shared};
use crate::frame::AgentId;

/// Where a delivery is settled.
#[derive(Clone, Debug)]
pub(super) enum Settler {
    /// Over the stream that it came by, as long as that lasts.
    Session {
        shared: Arc<Shared>,
        /// The connection that it came by: its deliveries are void once it is lost.
        epoch: u64,
    },
    /// By a call of its own.
    Single(Arc<(Client, AgentId)>),
}

impl Settler {
    pub(super) fn single(client: Client, agent: AgentId) -> Self {
        Self::Single(Arc::new((client, agent)))
    }

    pub(super) async fn ack(&self, id: DeliveryId) -> Result<(), Error> {
        match self {
            Self::Session { shared, epoch } => shared.settle(*epoch, id, None).await,
            Self::Single(single) => only(single.0.ack(&single.1, &[id]).await?),
        }
    }

    pub(super) async fn ack_unconfirmed(&self, id: DeliveryId) -> Result<(), Error> {
        match self {
            Self::Session { shared, epoch } => shared.ack_unconfirmed(*epoch, id).await,
            Self::Single(_) => self.ack(id).await,
        }
    }

    pub(super) async fn nack(&self, id: DeliveryId, refusal: Refusal) -> Result<(), Error> {
        match self {
            Self::Session { shared, epoch } => shared.settle(*epoch, id, Some(refusal)).await,
            Self::Single(single) => only(single.0.nack(&single.1, &[id], refusal).await?),
        }
    }
}

fn only(outcomes: Vec<super::SettleOutcome>) -> Result<(), Error> {
    match outcomes.into_iter().next() {
        Some(outcome) => outcome.into_result(),
        None => Err(Error::protocol("a settle has no outcome")),
    }
}
