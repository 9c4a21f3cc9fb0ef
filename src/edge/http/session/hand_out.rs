//! Messages on their way to a poll's client: given back where they never reach it, acknowledged once they were written where the
//! poll asked for that.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};

use super::{Sessions, desk::AckMode};
use crate::{
    edge::{counters::Counters, json},
    frame::AgentId,
    router::surface::{Delivery, DeliveryId, Principal, Refusal},
};

/// Messages handed to a poll. Dropped before they were written, they are given back.
pub struct HandOut {
    deliveries: Vec<Delivery>,
    owner: Option<Owner>,
}

/// Who answers for the messages, and what is to become of them at the end.
struct Owner {
    ids: Vec<DeliveryId>,
    ack: AckMode,
    sessions: Sessions,
    principal: Principal,
    agent: AgentId,
}

impl HandOut {
    pub(super) fn new(
        deliveries: Vec<Delivery>,
        ack: AckMode,
        sessions: Sessions,
        (principal, agent): (Principal, AgentId),
    ) -> Self {
        let ids = deliveries.iter().filter_map(|delivery| delivery.id).collect();
        Self {
            deliveries,
            owner: Some(Owner {
                ids,
                ack,
                sessions,
                principal,
                agent,
            }),
        }
    }

    /// The messages themselves, for another to have.
    pub(super) fn take_back(mut self) -> Vec<Delivery> {
        self.owner = None;
        std::mem::take(&mut self.deliveries)
    }

    /// The answer's body, `{"messages": [...]}`.
    pub fn into_body(mut self) -> HandOutBody {
        const FIELDS_BYTES: usize = 512;
        let bytes: usize = self
            .deliveries
            .iter()
            .map(|delivery| delivery.frame.body.len() + FIELDS_BYTES)
            .sum();
        let mut text = Vec::with_capacity(bytes);
        text.extend_from_slice(b"{\"messages\":[");
        for (index, delivery) in self.deliveries.iter().enumerate() {
            if index > 0 {
                text.push(b',');
            }
            json::delivered_message_into(delivery, &mut text);
        }
        text.extend_from_slice(b"]}");
        HandOutBody {
            text: Some(text.into()),
            messages: self.deliveries.len(),
            owner: self.owner.take(),
        }
    }
}

impl Drop for HandOut {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.release();
        }
    }
}

impl std::fmt::Debug for HandOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandOut")
            .field("messages", &self.deliveries.len())
            .finish_non_exhaustive()
    }
}

impl Owner {
    /// The client never saw them.
    fn release(self) {
        if self.ids.is_empty() {
            return;
        }
        self.later(|owner| async move {
            let fabric = &owner.sessions.0.fabric;
            let settled = fabric
                .nack(&owner.principal, &owner.agent, &owner.ids, Refusal::Release)
                .await;
            if let Err(error) = settled {
                tracing::debug!(agent_id = %owner.agent, %error, "unread messages were not given back");
            }
            owner
                .sessions
                .note_settled(&owner.principal, &owner.agent, &owner.ids)
                .await;
        });
    }

    /// They were handed to the connection.
    fn written(self) {
        if self.ack == AckMode::Manual || self.ids.is_empty() {
            return;
        }
        self.later(|owner| async move {
            let settled = owner
                .sessions
                .0
                .fabric
                .ack(&owner.principal, &owner.agent, &owner.ids)
                .await;
            if let Err(error) = settled {
                tracing::debug!(agent_id = %owner.agent, %error, "messages were not acknowledged automatically");
            }
        });
    }

    /// Runs after a drop, which cannot wait. Without a runtime the process is ending, and the session's end gives all back.
    fn later<F>(self, work: impl FnOnce(Self) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(work(self));
        }
    }
}

/// A poll's answer on its way. Its messages count as written once the connection took the text, which hyper does when it copies
/// it into its write buffer; a crash of the client after that loses what `ack=auto` acknowledged.
pub struct HandOutBody {
    text: Option<Bytes>,
    messages: usize,
    owner: Option<Owner>,
}

impl HttpBody for HandOutBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        Poll::Ready(this.text.take().map(|text| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.text.as_ref().map_or(0, |text| text.len() as u64))
    }
}

impl Drop for HandOutBody {
    fn drop(&mut self) {
        let Some(owner) = self.owner.take() else { return };
        if self.text.is_none() {
            let counters: &Arc<Counters> = &owner.sessions.0.counters;
            Counters::add(&counters.messages_out, self.messages);
            owner.written();
        } else {
            owner.release();
        }
    }
}
