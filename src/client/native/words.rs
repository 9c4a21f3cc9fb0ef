//! A session's words (those of `weft.v1`) as control frames, and control frames as a session's words.

use crate::{
    client::Error,
    frame::{Seq, ShardId},
    native::control::{
        Accepted, Attach, DeliveryId, PROTOCOLS, Problem, Receipt, Refusal, ResumeKey, Status, Switch, ToClient, ToNode,
    },
    rpc::v1::{self, client_frame::Frame as ClientFrame, server_frame::Frame as ServerFrame},
};

/// A refusal as the client's error.
pub(super) fn refused(problem: Problem) -> Error {
    self::problem(problem).into()
}

// --- to the node -----------------------------------------------------------------------------------------------------

/// A frame of a session, all but messages; `resume` goes with an attach. `None` for messages and for what has no twin here.
pub(super) fn to_node(frame: ClientFrame, resume: ResumeKey) -> Option<ToNode> {
    Some(match frame {
        ClientFrame::Attach(attach) => ToNode::Attach(Attach {
            takes_inbox: Switch::of(attach.inbox != i32::from(v1::InboxMode::Closed)),
            agent: attach.agent,
            durable_queue: attach.durable_queue,
            window_messages: attach.window_messages,
            window_bytes: attach.window_bytes,
            visibility_timeout_ms: attach.visibility_timeout_ms,
            resume,
        }),
        ClientFrame::Ack(ack) => ToNode::Ack {
            tag: ack.tag,
            ids: ids(ack.ids),
        },
        ClientFrame::Nack(nack) => ToNode::Nack {
            tag: nack.tag,
            refusal: refusal(nack.refusal.unwrap_or_default()),
            ids: ids(nack.ids),
        },
        ClientFrame::Credit(credit) => ToNode::Credit {
            messages: credit.messages,
            bytes: credit.bytes,
        },
        ClientFrame::Subscribe(subscribe) => ToNode::Subscribe {
            tag: subscribe.tag,
            filters: subscribe.filters,
        },
        ClientFrame::Unsubscribe(unsubscribe) => ToNode::Unsubscribe {
            tag: unsubscribe.tag,
            filters: unsubscribe.filters,
        },
        ClientFrame::Send(_) | ClientFrame::Detach(_) => return None,
    })
}

fn ids(ids: Vec<v1::DeliveryId>) -> Vec<DeliveryId> {
    let id = |id: v1::DeliveryId| {
        let shard = u16::try_from(id.shard).ok().and_then(ShardId::new)?;
        Some(DeliveryId {
            shard,
            seq: Seq::from_raw(id.seq),
            lease: id.lease,
        })
    };
    ids.into_iter().filter_map(id).collect()
}

fn refusal(refusal: v1::Refusal) -> Refusal {
    match (refusal.kind(), refusal.retry_after_ms) {
        (v1::RefusalKind::Unspecified | v1::RefusalKind::Retry, None) => Refusal::Retry,
        (v1::RefusalKind::Unspecified | v1::RefusalKind::Retry, Some(ms)) => Refusal::RetryAfter { ms },
        (v1::RefusalKind::Release, _) => Refusal::Release,
        (v1::RefusalKind::DeadLetter, _) => Refusal::DeadLetter,
    }
}

// --- from the node ---------------------------------------------------------------------------------------------------

/// A control frame as a session reads it; an error where it ends the session, or does not belong here.
pub(super) fn to_client(frame: ToClient) -> Result<ServerFrame, Error> {
    Ok(match frame {
        ToClient::Welcome(welcome) => ServerFrame::Welcome(v1::Welcome {
            node: welcome.node,
            reply_address: welcome.reply_address,
            window_messages: welcome.window_messages,
            window_bytes: welcome.window_bytes,
            ..Default::default()
        }),
        ToClient::Receipts(receipts) => ServerFrame::Receipts(v1::Receipts {
            receipts: receipts.into_iter().map(receipt).collect(),
        }),
        ToClient::Settled { tag, failures } => {
            let failures = failures.into_iter().map(|failure| v1::SettleFailure {
                index: failure.index,
                result: Some(match failure.problem {
                    None => v1::settle_failure::Result::Stale(true),
                    Some(refused) => v1::settle_failure::Result::Problem(problem(refused)),
                }),
            });
            ServerFrame::Settled(v1::Settled {
                tag,
                failures: failures.collect(),
            })
        }
        ToClient::Subscribed { tag, problem: refused } => ServerFrame::Subscribed(v1::Subscribed {
            tag,
            problem: refused.map(problem),
        }),
        ToClient::Goodbye {
            reason,
            reconnect,
            reconnect_after_ms,
        } => ServerFrame::Goodbye(v1::Goodbye {
            reason,
            reconnect_after_ms: reconnect_after_ms.into(),
            reconnect: reconnect.is_on(),
        }),
        ToClient::Refused(problem) => return Err(refused(problem)),
        ToClient::Ready { .. } => return Err(Error::protocol("the server is ready a second time")),
    })
}

fn receipt((tag, receipt): (u64, Receipt)) -> v1::Receipt {
    v1::Receipt {
        tag,
        result: Some(match receipt {
            Receipt::Accepted(taken) => v1::receipt::Result::Accepted(accepted(&taken)),
            Receipt::Refused(refused) => v1::receipt::Result::Problem(problem(refused)),
        }),
    }
}

fn accepted(accepted: &Accepted) -> v1::Accepted {
    let status = match accepted.status {
        Status::Queued => v1::Status::Queued,
        Status::Sent => v1::Status::Sent,
        Status::Delivered => v1::Status::Delivered,
        Status::Expired => v1::Status::Expired,
        Status::DeadLettered => v1::Status::DeadLettered,
        Status::Rejected => v1::Status::Rejected,
        Status::Dropped => v1::Status::Dropped,
    };
    let protocol = usize::from(accepted.protocol)
        .checked_sub(1)
        .and_then(|at| PROTOCOLS.get(at));
    v1::Accepted {
        status: status.into(),
        shard: accepted.shard.get().into(),
        seq: accepted.seq.raw(),
        duplicate: accepted.duplicate.is_on(),
        recipients: accepted.recipients,
        protocol: protocol.map_or_else(String::new, |name| (*name).into()),
        estimated_delivery_at_ms: accepted.estimated_delivery_at_ms,
    }
}

fn problem(problem: Problem) -> v1::Problem {
    v1::Problem {
        code: format!("WEFT-{:04}", problem.number),
        title: problem.title,
        detail: problem.detail,
        retryable: problem.retryable.is_on(),
        retry_after_ms: problem.retry_after_ms,
        field: problem.field,
        grpc_code: problem.status.into(),
    }
}
