//! The answer to a send.

use serde::Serialize;

use crate::{
    router::surface::{Accepted, Protocol},
    time::Timestamp,
};

/// The last instant that RFC 3339 can write; an estimate beyond it is none.
const RFC3339_LAST: Timestamp = Timestamp::from_millis(253_402_300_799_999);

/// What the sender of a message reads at once.
#[derive(Clone, Debug, Serialize)]
pub struct Receipt {
    pub message_id: String,
    pub status: &'static str,
    /// `None` at QoS 0, which has no receipt to track.
    pub tracking_id: Option<String>,
    pub duplicate: bool,
    /// Queues that the message goes to.
    pub recipients: u32,
    pub routing_info: RoutingInfo,
}

/// Where the message went.
#[derive(Clone, Debug, Serialize)]
pub struct RoutingInfo {
    /// `None` while nobody is attached.
    pub protocol_used: Option<Protocol>,
    /// The node and the shard.
    pub route_taken: [String; 2],
    pub estimated_delivery: Option<String>,
}

/// The answer to a message that node `node` accepted.
pub fn receipt(accepted: &Accepted, message_id: &str, node: &str) -> Receipt {
    Receipt {
        message_id: message_id.into(),
        status: accepted.status.name(),
        tracking_id: accepted.tracking.map(|tracking| tracking.to_string()),
        duplicate: accepted.duplicate,
        recipients: accepted.recipients,
        routing_info: RoutingInfo {
            protocol_used: accepted.protocol,
            route_taken: [node.into(), format!("shard_{}", accepted.shard.get())],
            estimated_delivery: accepted
                .estimated_delivery
                .filter(|time| *time <= RFC3339_LAST)
                .map(|time| time.to_rfc3339()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        frame::{Seq, ShardId, TrackingId, record::Status},
        router::surface::AcceptedStatus,
    };

    #[test]
    fn a_receipt_shows_where_the_message_went() {
        let shard = ShardId::new(17).unwrap();
        let accepted = Accepted {
            status: AcceptedStatus::Is(Status::Sent),
            tracking: Some(TrackingId {
                shard,
                seq: Seq::from_raw(9),
            }),
            duplicate: false,
            recipients: 1,
            shard,
            protocol: Some(Protocol::WebSocket),
            estimated_delivery: Some(Timestamp::from_millis(0)),
        };
        let beyond = Accepted {
            estimated_delivery: Some(Timestamp::MAX),
            ..accepted.clone()
        };
        assert_eq!(receipt(&beyond, "m", "n").routing_info.estimated_delivery, None);
        assert_eq!(
            serde_json::to_value(receipt(&accepted, "msg_789", "node_1")).unwrap(),
            serde_json::json!({
                "message_id": "msg_789", "status": "sent", "tracking_id": "t_011-9", "duplicate": false, "recipients": 1,
                "routing_info": {"protocol_used": "websocket", "route_taken": ["node_1", "shard_17"],
                                 "estimated_delivery": "1970-01-01T00:00:00.000Z"}
            })
        );
    }
}
