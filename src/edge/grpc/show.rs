//! What the door answers, as `weft.v1` messages; and the small readings that several services share.

use super::error;
use crate::{
    frame::{Address, AgentId, Frame, Seq, ShardId, Stamp, TrackingId, record::Status},
    router::{
        error::FabricError,
        registry::{AgentView, CommunicationMode, GroupPolicies, GroupRecord, MemberPermissions},
        surface::{
            Accepted, AcceptedStatus, Answer, ConnectionView, Delivery, DeliveryId, KeptMessage, Lease, MessageStatus,
            Refusal, Settled,
        },
    },
    rpc::{
        self, ITEM_MESSAGES_MAX,
        convert::{FieldError, known, outgoing},
        v1,
    },
    time::Timestamp,
};

/// Entries of a page where the caller names no size.
const PAGE_DEFAULT: usize = 100;
/// Most entries of a page.
pub const PAGE_MAX: usize = 1_000;
/// Longest wait that a receiver may ask for before a redelivery, in milliseconds: 12 h.
const RETRY_AFTER_MS_MAX: u64 = 12 * 3600 * 1000;

// --- messages --------------------------------------------------------------------------------------------------------

pub fn accepted(accepted: &Accepted) -> v1::Accepted {
    v1::Accepted {
        status: match accepted.status {
            AcceptedStatus::Is(status) => v1::Status::from(status),
            AcceptedStatus::Dropped => v1::Status::Dropped,
        }
        .into(),
        shard: accepted.shard.get().into(),
        seq: accepted.tracking.map_or(0, |tracking| tracking.seq.raw()),
        duplicate: accepted.duplicate,
        recipients: accepted.recipients,
        protocol: accepted
            .protocol
            .map_or_else(String::new, |protocol| protocol.name().into()),
        estimated_delivery_at_ms: accepted.estimated_delivery.map_or(0, Timestamp::as_millis),
    }
}

pub fn receipt((tag, outcome): Answer) -> v1::Receipt {
    v1::Receipt {
        tag,
        result: Some(match outcome {
            Ok(taken) => v1::receipt::Result::Accepted(accepted(&taken)),
            Err(refusal) => v1::receipt::Result::Problem(error::problem(&refusal)),
        }),
    }
}

/// A delivery from a queue; `inbox` is the receiving agent's own. Nothing of the message is copied here.
pub fn delivery(delivery: Delivery, inbox: &str) -> rpc::Delivery {
    let shown = shown(delivery.id, &delivery.frame.stamp, &delivery.queue, inbox);
    shown.with_frame(delivery.frame)
}

/// All of a delivery but the message.
pub fn shown(id: Option<DeliveryId>, stamp: &Stamp, queue: &Address, inbox: &str) -> rpc::Delivery {
    rpc::Delivery {
        id: id.map(delivery_id),
        attempt: stamp.attempt.saturating_add(1),
        redelivered: stamp.flags.is_redelivered(),
        accepted_at_ms: stamp.accepted_at.as_millis(),
        expires_at_ms: stamp.expires_at.as_millis(),
        queue: match queue.as_str() {
            own if own == inbox => String::new(),
            other => other.into(),
        },
        ..Default::default()
    }
}

fn delivery_id(id: DeliveryId) -> v1::DeliveryId {
    v1::DeliveryId {
        shard: id.shard.get().into(),
        seq: id.seq.raw(),
        lease: id.lease.0,
    }
}

/// Delivery ids from outside. All of them, or the first that is none.
pub fn delivery_ids(ids: Vec<v1::DeliveryId>) -> Result<Vec<DeliveryId>, FieldError> {
    if ids.len() > ITEM_MESSAGES_MAX {
        let detail = format!("has {} entries; at most {ITEM_MESSAGES_MAX} are allowed", ids.len());
        return Err(FieldError::new("ids", detail));
    }
    let wrong = |shard| FieldError::new("ids", format!("has the shard {shard}, which is none"));
    ids.into_iter()
        .map(|id| own_id(id).ok_or_else(|| wrong(id.shard)))
        .collect()
}

/// A delivery id as the fabric has it; `None` where its shard is none.
fn own_id(id: v1::DeliveryId) -> Option<DeliveryId> {
    Some(DeliveryId {
        shard: u16::try_from(id.shard).ok().and_then(ShardId::new)?,
        seq: Seq::from_raw(id.seq),
        lease: Lease(id.lease),
    })
}

/// A refusal from outside; absent is a retry after the usual back-off.
pub fn refusal(refusal: Option<v1::Refusal>) -> Result<Refusal, FieldError> {
    let refusal = refusal.unwrap_or_default();
    let kind = known("refusal.kind", refusal.kind)?;
    match (kind, refusal.retry_after_ms) {
        (v1::RefusalKind::Unspecified | v1::RefusalKind::Retry, wait) => match wait {
            Some(wait) if wait > RETRY_AFTER_MS_MAX => Err(FieldError::new(
                "refusal.retry_after_ms",
                format!("is {wait}; at most {RETRY_AFTER_MS_MAX} (12 h) are allowed"),
            )),
            wait => Ok(Refusal::Retry(wait.map(std::time::Duration::from_millis))),
        },
        (v1::RefusalKind::Release, None) => Ok(Refusal::Release),
        (v1::RefusalKind::DeadLetter, None) => Ok(Refusal::DeadLetter),
        (v1::RefusalKind::Release | v1::RefusalKind::DeadLetter, Some(_)) => Err(FieldError::new(
            "refusal.retry_after_ms",
            "goes with the kind RETRY only",
        )),
    }
}

/// Those that did not settle.
pub fn failures(outcomes: Vec<Settled>) -> Vec<v1::SettleFailure> {
    let failure = |(index, outcome): (usize, Settled)| {
        let result = match outcome {
            Settled::Done => return None,
            Settled::Stale => v1::settle_failure::Result::Stale(true),
            Settled::Failed(error) => v1::settle_failure::Result::Problem(error::problem(&error)),
        };
        Some(v1::SettleFailure {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            result: Some(result),
        })
    };
    outcomes.into_iter().enumerate().filter_map(failure).collect()
}

pub fn kept(kept: &KeptMessage) -> v1::KeptMessage {
    v1::KeptMessage {
        tracking_id: kept.tracking.to_string(),
        message: Some(outgoing(&kept.frame)),
        reason: kept.reason.name().into(),
        attempts: kept.attempts,
        accepted_at_ms: kept.frame.stamp.accepted_at.as_millis(),
        settled_at_ms: kept.settled_at.as_millis(),
    }
}

pub fn message_status(status: &MessageStatus) -> v1::GetStatusResponse {
    let count = |status_counted: &Status, count: &u32| v1::StatusCount {
        status: v1::Status::from(*status_counted).into(),
        count: *count,
    };
    v1::GetStatusResponse {
        tracking_id: status.tracking.to_string(),
        status: v1::Status::from(status.status).into(),
        reason: status.reason.name().into(),
        recipients: status.recipients,
        counts: Status::ALL
            .iter()
            .zip(&status.counts)
            .filter(|(_, counted)| **counted > 0)
            .map(|(which, counted)| count(which, counted))
            .collect(),
        attempts: status.attempts,
        accepted_at_ms: status.accepted_at.as_millis(),
        sent_at_ms: status.sent_at.as_millis(),
        settled_at_ms: status.settled_at.as_millis(),
    }
}

pub fn reply(frame: &Frame) -> v1::RequestResponse {
    v1::RequestResponse {
        reply: Some(outgoing(frame)),
    }
}

// --- pages -----------------------------------------------------------------------------------------------------------

/// The size of a page: the default for 0, refused above the largest.
pub fn page_size(asked: u32) -> Result<usize, FieldError> {
    match usize::try_from(asked).unwrap_or(usize::MAX) {
        0 => Ok(PAGE_DEFAULT),
        size if size > PAGE_MAX => {
            let detail = format!("is {size}; at most {PAGE_MAX} are allowed");
            Err(FieldError::new("page_size", detail))
        }
        size => Ok(size),
    }
}

/// A page token that is a tracking id.
pub fn tracking(text: &str) -> Result<TrackingId, &'static str> {
    text.parse().map_err(|()| "is not a tracking id such as t_011-1f")
}

/// The token that continues behind the last entry; none where the page was not full.
pub fn next_token<T>(entries: &[T], size: usize, token: impl FnOnce(&T) -> String) -> String {
    match entries.last() {
        Some(last) if entries.len() >= size => token(last),
        _ => String::new(),
    }
}

// --- agents and groups -----------------------------------------------------------------------------------------------

pub fn agent(view: &AgentView) -> v1::Agent {
    let unregistered = v1::Agent {
        agent_id: view.agent_id.to_string(),
        sessions: u32::try_from(view.sessions).unwrap_or(u32::MAX),
        last_seen_at_ms: view.last_seen.as_millis(),
        ..Default::default()
    };
    let Some(record) = &view.record else {
        return unregistered;
    };
    v1::Agent {
        registered: true,
        registration_id: record.registration_id.to_string(),
        name: record.name.clone(),
        capabilities: record.capabilities.iter().map(ToString::to_string).collect(),
        protocols: record.protocols.clone(),
        metadata_json: record
            .metadata
            .as_ref()
            .map_or_else(String::new, |json| json.get().into()),
        endpoints: record.endpoints.clone().into_iter().collect(),
        registered_at_ms: record.registered_at.as_millis(),
        updated_at_ms: record.updated_at.as_millis(),
        ..unregistered
    }
}

pub fn connection(view: &ConnectionView, node: &str) -> v1::Connection {
    v1::Connection {
        session: view.session.0,
        agent_id: view.agent.to_string(),
        protocol: view.protocol.name().into(),
        node: node.into(),
        since_ms: view.since.as_millis(),
        window_messages: view.window.messages,
        window_bytes: view.window.bytes,
        in_flight_messages: view.in_flight.messages,
        in_flight_bytes: view.in_flight.bytes,
        queue_depth: view.queue_depth as u64,
        subscriptions: view.subscriptions.iter().map(ToString::to_string).collect(),
    }
}

pub fn group(record: &GroupRecord) -> v1::Group {
    let policies = &record.policies;
    v1::Group {
        group_id: record.group_id.to_string(),
        name: record.name.clone(),
        agents: record.agents.iter().map(ToString::to_string).collect(),
        communication_mode: match record.communication_mode {
            CommunicationMode::Broadcast => v1::CommunicationMode::Broadcast,
            CommunicationMode::RoundRobin => v1::CommunicationMode::RoundRobin,
            CommunicationMode::LeastLoaded => v1::CommunicationMode::LeastLoaded,
            CommunicationMode::Partitioned => v1::CommunicationMode::Partitioned,
        }
        .into(),
        partition_key: record.partition_key.clone().into(),
        protocols: record.protocols.clone(),
        policies: Some(v1::GroupPolicies {
            message_bytes_max: policies.max_message_size,
            message_retention_s: policies.message_retention,
            member_permissions: Some(v1::MemberPermissions {
                send_messages: Some(policies.member_permissions.send_messages),
                invite_members: policies.member_permissions.invite_members,
                moderate: policies.member_permissions.moderate,
            }),
        }),
        created_by: record.created_by.as_ref().map_or_else(String::new, AgentId::to_string),
        created_at_ms: record.created_at.as_millis(),
    }
}

/// A group's rules from outside.
pub fn policies(policies: Option<v1::GroupPolicies>) -> GroupPolicies {
    let policies = policies.unwrap_or_default();
    let permissions = policies.member_permissions.unwrap_or_default();
    GroupPolicies {
        max_message_size: policies.message_bytes_max,
        message_retention: policies.message_retention_s,
        member_permissions: MemberPermissions {
            send_messages: permissions.send_messages.unwrap_or(true),
            invite_members: permissions.invite_members,
            moderate: permissions.moderate,
        },
    }
}

pub fn mode(number: i32) -> Result<CommunicationMode, FieldError> {
    Ok(match known("communication_mode", number)? {
        v1::CommunicationMode::Unspecified | v1::CommunicationMode::Broadcast => CommunicationMode::Broadcast,
        v1::CommunicationMode::RoundRobin => CommunicationMode::RoundRobin,
        v1::CommunicationMode::LeastLoaded => CommunicationMode::LeastLoaded,
        v1::CommunicationMode::Partitioned => CommunicationMode::Partitioned,
    })
}

/// Ids of one kind; `field` is named where one is wrong.
pub fn agents(field: &'static str, texts: Vec<String>) -> Result<Vec<AgentId>, FabricError> {
    let read = |text: String| {
        AgentId::new(&text).map_err(|error| FabricError::invalid(field, format!("has {text:?}, which {error}")))
    };
    texts.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ids_beyond_the_shards_or_the_limit_are_refused() {
        let id = |shard| v1::DeliveryId {
            shard,
            seq: 1,
            lease: 1,
        };
        assert_eq!(delivery_ids(vec![id(1023)]).unwrap().len(), 1);
        assert!(delivery_ids(vec![id(1024)]).is_err());
        assert!(delivery_ids(vec![id(70_000)]).is_err());
        assert!(delivery_ids(vec![id(0); ITEM_MESSAGES_MAX + 1]).is_err());
    }

    #[test]
    fn a_refusal_takes_a_wait_only_where_one_makes_sense() {
        let read = |kind, retry_after_ms| refusal(Some(v1::Refusal { kind, retry_after_ms }));
        assert_eq!(refusal(None), Ok(Refusal::Retry(None)));
        assert_eq!(read(1, Some(0)), Ok(Refusal::Retry(Some(Duration::ZERO))));
        assert_eq!(read(3, None), Ok(Refusal::DeadLetter));
        assert!(read(3, Some(1)).is_err());
        assert!(read(1, Some(u64::MAX)).is_err());
        assert!(read(9, None).is_err());
    }

    #[test]
    fn pages_are_bounded_and_a_short_page_is_the_last() {
        assert_eq!(page_size(0), Ok(PAGE_DEFAULT));
        assert!(page_size(1_001).is_err());
        assert!(page_size(u32::MAX).is_err());
        assert_eq!(next_token(&[1, 2], 2, ToString::to_string), "2");
        assert_eq!(next_token(&[1], 2, ToString::to_string), "");
    }
}
