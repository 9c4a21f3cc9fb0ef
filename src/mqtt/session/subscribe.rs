//! SUBSCRIBE and UNSUBSCRIBE: what is asked of the fabric, and the codes that answer.

use super::{Action, Asked, Change, Session, Then, Ticket, Wanted};
use crate::{
    mqtt::{
        names::{filter_of, is_nodes_own},
        packet::{Filter, PacketId, Subscribe, Unsubscribe},
        reason::Reason,
        subscriptions::{Freshness, Subscription},
    },
    time::Timestamp,
};

/// A SUBSCRIBE that the fabric has not answered.
#[derive(Debug)]
pub(super) struct Pending {
    packet_id: PacketId,
    /// A code for each filter; `None` where the fabric is asked.
    codes: Vec<Option<Reason>>,
    /// What the fabric is asked, in the order of the open codes, and what each of them replaces.
    asked: Vec<(Wanted, Option<Subscription>)>,
}

impl Session {
    pub(super) fn handle_subscribe(&mut self, subscribe: Subscribe, out: &mut Vec<Action>) {
        let now = self.last_heard;
        let is_shared_no_local = |filter: &Filter| filter.no_local && filter.text.starts_with("$share/");
        if subscribe.filters.iter().any(is_shared_no_local) {
            return self.fail(Reason::PROTOCOL_ERROR, now, out); // [MQTT-3.8.3-4]
        }
        let mut pending = Pending {
            packet_id: subscribe.packet_id,
            codes: Vec::with_capacity(subscribe.filters.len()),
            asked: Vec::new(),
        };
        for filter in &subscribe.filters {
            let wanted = self.wanted(filter, subscribe.subscription_id);
            pending.codes.push(wanted.as_ref().err().copied());
            if let Ok(wanted) = wanted {
                // In force at once: the fabric may deliver before it answers.
                let earlier = self
                    .subscriptions
                    .insert(wanted.filter.clone(), wanted.subscription.clone());
                pending.asked.push((wanted, earlier));
            }
        }
        let ticket = self.ticket();
        let wanted: Vec<_> = pending.asked.iter().map(|(wanted, _)| wanted.clone()).collect();
        self.asked.insert(ticket, Asked::Subscribe(pending));
        match wanted.is_empty() {
            true => self.handle_subscribed(ticket, &[], out),
            false => out.push(Action::Subscribe { ticket, wanted }),
        }
    }

    fn wanted(&self, filter: &Filter, id: Option<u32>) -> Result<Wanted, Reason> {
        let parsed = filter_of(&filter.text).map_err(|_| Reason::TOPIC_FILTER_INVALID)?;
        if self.subscriptions.len() >= self.config.subscriptions_max && !self.subscriptions.has(&filter.text) {
            return Err(Reason::QUOTA_EXCEEDED);
        }
        Ok(Wanted {
            filter: parsed,
            subscription: Subscription::new(filter, id),
        })
    }

    /// The fabric's answers to [`Action::Subscribe`], one for each filter in their order: `Ok`, or why not
    /// ([`Reason::NOT_AUTHORIZED`] where policy says no).
    pub fn handle_subscribed(&mut self, ticket: Ticket, answers: &[Result<(), Reason>], out: &mut Vec<Action>) {
        let Some(Asked::Subscribe(mut pending)) = self.asked.remove(&ticket) else {
            return;
        };
        let mut open = pending.codes.iter_mut().filter(|code| code.is_none());
        let (mut kept, mut retained, mut owed) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (wanted, earlier)) in pending.asked.into_iter().enumerate() {
            let answer = answers.get(at).copied().unwrap_or(Err(Reason::UNSPECIFIED));
            let code = answer.err().unwrap_or(Reason(wanted.subscription.qos)); // [MQTT-3.8.4-7]
            if let Some(open) = open.next() {
                *open = Some(code);
            }
            if answer.is_err() {
                self.subscriptions.remove(&wanted.subscription.text);
                if let Some(earlier) = earlier {
                    self.subscriptions.insert(wanted.filter, earlier);
                }
                continue;
            }
            let freshness = if earlier.is_some() {
                Freshness::Replaced
            } else {
                Freshness::New
            };
            if wanted.subscription.wants_retained(freshness) {
                // One that is replaced may be owed some.
                let may_owe = wanted.subscription.qos > 0 || earlier.is_some();
                let is_owed = self.is_durable() && may_owe && !is_nodes_own(&wanted.subscription.text);
                let due = if is_owed { &mut owed } else { &mut retained };
                due.extend(wanted.filter);
            }
            kept.push(wanted.subscription);
        }
        let codes: Vec<_> = pending.codes.into_iter().flatten().collect();
        if !owed.is_empty() {
            out.push(Action::OweRetained(owed));
        }
        let then = Then::Suback(pending.packet_id, codes, retained);
        match kept.is_empty() {
            true => self.go_on(then, out),
            false => self.save(Change::Subscribed(kept), then, out),
        }
    }

    pub(super) fn handle_unsubscribe(&mut self, unsubscribe: Unsubscribe, out: &mut Vec<Action>) {
        let (mut codes, mut gone, mut filters) = (Vec::new(), Vec::new(), Vec::new());
        for text in unsubscribe.filters {
            let code = match filter_of(&text) {
                Err(_) => Reason::TOPIC_FILTER_INVALID,
                Ok(_) if self.subscriptions.remove(&text).is_none() => Reason::NO_SUBSCRIPTION_EXISTED,
                Ok(filter) => {
                    filters.push(filter);
                    gone.push(text);
                    Reason::SUCCESS
                }
            };
            codes.push(code);
        }
        let ticket = self.ticket();
        self.asked
            .insert(ticket, Asked::Unsubscribe(unsubscribe.packet_id, codes, gone));
        match filters.is_empty() {
            true => self.handle_unsubscribed(ticket, Ok(()), self.last_heard, out),
            false => out.push(Action::Unsubscribe { ticket, filters }),
        }
    }

    /// The fabric's answer to [`Action::Unsubscribe`].
    pub fn handle_unsubscribed(
        &mut self,
        ticket: Ticket,
        answer: Result<(), Reason>,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let Some(Asked::Unsubscribe(id, codes, gone)) = self.asked.remove(&ticket) else {
            return;
        };
        let then = match answer {
            Ok(()) => Then::Unsuback(id, codes),
            // It is not known which of them the fabric still has: the client asks again.
            Err(reason) => return self.fail(reason, now, out),
        };
        match gone.is_empty() {
            true => self.go_on(then, out),
            false => self.save(Change::Unsubscribed(gone), then, out),
        }
    }
}
