//! Settling: acknowledgements and refusals on their way to the shards, with a session at hand or without.
//!
//! Owns the bound of one request and which worker hears what; whether a delivery id still counts, the shard knows. Start at
//! [`Fabric::ack`].

use std::sync::Arc;

use super::{
    ask::{Ask, SettleBatch},
    error::FabricError,
    fabric::Fabric,
    surface::{DeliveryId, Principal, Refusal, Settled},
    workers::{Command, SettleCommand},
};
use crate::{
    delivery::Nack,
    frame::{AgentId, Priority},
};

/// Delivery ids in one acknowledgement.
const SETTLES_MAX: usize = 10_000;

impl Fabric {
    /// Acknowledges without a session at hand (HTTP): the agent must be the one that the messages were handed to.
    pub async fn ack(
        &self,
        principal: &Principal,
        agent: &AgentId,
        ids: &[DeliveryId],
    ) -> Result<Vec<Settled>, FabricError> {
        self.speaks_for(principal, agent)?;
        self.settle(agent, ids, None).await
    }

    /// Refuses without a session at hand (HTTP).
    pub async fn nack(
        &self,
        principal: &Principal,
        agent: &AgentId,
        ids: &[DeliveryId],
        refusal: Refusal,
    ) -> Result<Vec<Settled>, FabricError> {
        self.speaks_for(principal, agent)?;
        self.settle(agent, ids, Some(nack_of(refusal))).await
    }

    pub(super) async fn settle(
        &self,
        agent: &AgentId,
        ids: &[DeliveryId],
        nack: Option<Nack>,
    ) -> Result<Vec<Settled>, FabricError> {
        if ids.len() > SETTLES_MAX {
            return Err(FabricError::TooMany {
                what: "delivery ids in one request",
                max: SETTLES_MAX,
            });
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (batch, answer) = SettleBatch::new(ids.len());
        for (worker, commands) in self.settles_by_worker(agent, ids, nack, Some(&batch)) {
            let mut command = Some(Command::Settle(commands));
            let pushed = self.0.workers.push(worker, Priority::Critical, &mut command).await;
            if let (Err(error), Some(Command::Settle(refused))) = (pushed, command) {
                refused
                    .into_iter()
                    .filter_map(|settle| settle.ask)
                    .for_each(|ask| ask.fail(error.clone()));
            }
        }
        let stopped = || FabricError::OutcomeUnknown {
            what: "the node stopped before it answered".into(),
        };
        answer.await.map_err(|_| stopped())
    }

    pub(super) fn settles_by_worker(
        &self,
        agent: &AgentId,
        ids: &[DeliveryId],
        nack: Option<Nack>,
        batch: Option<&Arc<SettleBatch>>,
    ) -> Vec<(usize, Vec<SettleCommand>)> {
        let mut by_worker: Vec<(usize, Vec<SettleCommand>)> = Vec::new();
        for (index, id) in ids.iter().enumerate() {
            let settle = SettleCommand {
                shard: id.shard,
                seq: id.seq,
                lease: id.lease,
                agent: agent.clone(),
                nack,
                ask: batch.map(|batch| Ask::Settle {
                    batch: batch.clone(),
                    index,
                }),
            };
            let worker = self.0.workers.index_of(id.shard);
            match by_worker.iter_mut().find(|(known, _)| *known == worker) {
                Some((_, commands)) => commands.push(settle),
                None => by_worker.push((worker, vec![settle])),
            }
        }
        by_worker
    }
}

pub(super) fn nack_of(refusal: Refusal) -> Nack {
    match refusal {
        Refusal::Retry(after) => Nack::Retry(after),
        Refusal::Release => Nack::Release,
        Refusal::DeadLetter => Nack::DeadLetter,
    }
}
