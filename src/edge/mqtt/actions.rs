//! What the machine wants done, done: in its order, by the router's door.
//!
//! A connection does one thing at a time. What it waits for here (a commit of records, room at a worker) holds up that connection alone,
//! and what comes meanwhile is taken together afterwards. Start at [`Connection::act`].

use std::{mem, sync::atomic::Ordering::Relaxed};

use super::{book::Slot, connection::Connection, outcome, retained::Debt};
use crate::{
    edge::{
        auth::{principal_of_token, proven_agent},
        counters::Counters,
    },
    frame::{Frame, Qos, Run, Seq, ShardId, TopicFilter, TopicName},
    mqtt::{
        self, Action, Change, Delivery, Encoder, End, Key, Packet, PacketId, Place, Publish, Reason, SessionFate,
        Source, Ticket, Wanted, is_nodes_own,
    },
    router::{
        Answers, Fabric, Publisher, SessionHandle, SessionReceiver,
        error::FabricError,
        retained::Recording,
        surface::{
            self, Answer, Attach, DeliveryId, Inbox, Lease, Piece, Principal, Protocol, Refusal, Sending, SessionQueue,
            Window,
        },
    },
    time::Timestamp,
};

/// What a connection has once its client is known.
pub(super) struct Attached {
    /// The receiver is dropped first: whoever takes the session over finds the queue free.
    pub receiver: SessionReceiver,
    pub handle: SessionHandle,
    /// Made when the client first publishes.
    pub publishing: Option<Box<Publishing>>,
    pub delivered: Vec<Piece>,
    principal: Principal,
    /// Retained messages that are still to be sent or settled.
    pub debt: Option<Box<Debt>>,
    pub slot: Slot,
}

/// A client's way into the fabric.
pub(super) struct Publishing {
    publisher: Publisher,
    pub answers: Answers,
    pub answered: Vec<Answer>,
    batch: Vec<Sending>,
}

impl Attached {
    /// Puts a message to those that are handed in together.
    fn push(&mut self, fabric: &Fabric, sending: Sending) {
        let publishing = self.publishing.get_or_insert_with(|| {
            let (publisher, answers) = fabric.publisher(self.principal.clone(), Protocol::Mqtt);
            Box::new(Publishing {
                publisher,
                answers,
                answered: Vec::new(),
                batch: Vec::new(),
            })
        });
        publishing.batch.push(sending);
    }
}

/// What one round gathers, to be done together.
#[derive(Default)]
struct Round {
    /// What is kept with the saves, without an outcome of its own.
    changes: Vec<Change>,
    saves: Vec<(Ticket, Change)>,
    settles: Vec<DeliveryId>,
    releases: Vec<DeliveryId>,
    recordings: Vec<(Option<Ticket>, Recording)>,
}

/// A delivery as the machine takes it.
pub(super) fn delivery(delivery: surface::Delivery) -> Delivery {
    Delivery {
        key: delivery.id.map(|id| Key {
            place: Place {
                shard: id.shard.get(),
                seq: id.seq.raw(),
            },
            lease: id.lease.0,
        }),
        frame: delivery.frame,
        queue: delivery.queue,
        source: Source::Live,
    }
}

/// `None` where it stands in no shard.
fn delivery_id(key: Key) -> Option<DeliveryId> {
    Some(DeliveryId {
        shard: ShardId::new(key.place.shard)?,
        seq: Seq::from_raw(key.place.seq),
        lease: Lease(key.lease),
    })
}

impl Connection {
    /// Carries out the actions that are there; what follows from them is there afterwards.
    pub async fn act(&mut self, now: Timestamp) {
        let mut actions = mem::take(&mut self.actions);
        let mut round = Round::default();
        for action in actions.drain(..) {
            match action {
                Action::Send(packet) => self.send(&packet, now),
                Action::Attach(attach) => {
                    let attached = Box::pin(self.attach(&attach, now)).await;
                    self.machine.handle_attached(attached, now, &mut self.actions);
                }
                Action::Publish { ticket, frame, retain } => self.publish(ticket, frame, retain, now, &mut round),
                Action::PublishRun { ticket, run } => self.publish_run(ticket, run),
                Action::SendRun(publish, run, packet_ids) => self.send_run(&publish, &run, &packet_ids),
                Action::Save { ticket, change } => round.saves.push((ticket, change)),
                Action::Settle(key) => match key.place.owed_number() {
                    Some(number) => self.settle_owed(number),
                    None => round.settles.extend(delivery_id(key)),
                },
                Action::Release(key) => match key.place.owed_number() {
                    Some(number) => self.release_owed(number, now),
                    None => round.releases.extend(delivery_id(key)),
                },
                Action::Subscribe { ticket, wanted } => {
                    self.publish_batch().await;
                    let answers = Box::pin(self.subscribe(wanted)).await;
                    self.machine.handle_subscribed(ticket, &answers, &mut self.actions);
                }
                Action::Unsubscribe { ticket, filters } => {
                    self.publish_batch().await;
                    // What was acknowledged before it does not go to another member of a share.
                    self.settle(&mut round).await;
                    let answer = Box::pin(self.unsubscribe(filters)).await;
                    self.machine.handle_unsubscribed(ticket, answer, now, &mut self.actions);
                }
                Action::SendRetained(filters) => self.begin_retained(filters, now),
                Action::OweRetained(filters) => round.changes.extend(self.owe_retained(filters)),
                Action::Close(reason) => {
                    self.is_closing = true;
                    if reason.is_failure() {
                        Counters::add(&self.edge.door.counters.errors, 1);
                        tracing::debug!(peer = %self.peer, %reason, "an MQTT connection is closed");
                    }
                }
                Action::End(end) => {
                    self.publish_batch().await;
                    self.settle(&mut round).await;
                    self.record(mem::take(&mut round), now).await;
                    Box::pin(self.end(*end)).await;
                }
            }
        }
        // Its room is used again while there is more to do.
        if self.actions.is_empty() {
            self.actions = actions;
        }
        self.publish_batch().await;
        self.settle(&mut round).await;
        self.record(round, now).await;
    }

    fn send(&mut self, packet: &Packet, now: Timestamp) {
        let version = self.machine.version();
        let encoder = self.encoder.get_or_insert_with(|| Encoder::new(version, None));
        match encoder.encode(packet, &mut self.wire.output) {
            Ok(()) => {
                Counters::add(&self.edge.door.counters.messages_out, 1);
                if matches!(packet, Packet::Publish(_)) {
                    self.edge.publishes_out.fetch_add(1, Relaxed);
                }
            }
            Err(error) => {
                tracing::debug!(peer = %self.peer, %error, "a packet was not sent");
                // A message that is too large counts as sent [MQTT-3.1.2-25]; an answer that cannot be given leaves nothing to go on with.
                if !matches!(packet, Packet::Publish(_)) {
                    self.is_closing = true;
                    self.machine.handle_lost(now, &mut self.actions);
                }
            }
        }
    }

    fn send_run(&mut self, publish: &Publish, run: &Run, packet_ids: &[PacketId]) {
        let Some(encoder) = &mut self.encoder else { return };
        match encoder.encode_run(publish, run, packet_ids, &mut self.wire.output) {
            Ok(()) => {
                Counters::add(&self.edge.door.counters.messages_out, run.frames());
                self.edge.publishes_out.fetch_add(run.frames() as u64, Relaxed);
            }
            Err(error) => tracing::debug!(peer = %self.peer, %error, "packets were not sent"),
        }
    }

    // --- attaching ---------------------------------------------------------------------------------------------------

    async fn attach(&mut self, wanted: &mqtt::Attach, now: Timestamp) -> Result<mqtt::Attached, Reason> {
        let refusal = |error: FabricError| {
            tracing::debug!(client = wanted.client_id, %error, "an MQTT client is not let in");
            outcome::refusal(&error)
        };
        // A password that no token can be proves nothing, and where nobody has to prove anything that is enough.
        let password = wanted.password.as_deref().unwrap_or_default();
        let token = std::str::from_utf8(password).unwrap_or_default();
        let authenticator = &*self.edge.door.authenticator;
        let principal = match principal_of_token(authenticator, token) {
            Err(FabricError::Invalid { .. }) => principal_of_token(authenticator, ""),
            proven => proven,
        };
        let principal = principal.map_err(|_| Reason::BAD_CREDENTIALS)?;
        let agent = proven_agent(&principal).unwrap_or(&wanted.anonymous).clone();
        let book = &self.edge.book;
        let slot = book.claim(&agent, &wanted.client_id).await.map_err(refusal)?;
        let kept = book.resume(&slot, wanted.clean_start).await.map_err(refusal)?;
        if kept.is_some() && wanted.session_expiry_s == 0 {
            // It ends with this connection, also where the node does.
            let opened = Change::Opened {
                client_id: wanted.client_id.clone(),
                session_expiry_s: 0,
                will: None,
            };
            book.save(&slot, vec![opened]).await.map_err(refusal)?;
        }
        let has = |wanted: fn(&str) -> bool| {
            let subscriptions = kept.iter().flat_map(|kept| &kept.saved.subscriptions);
            subscriptions.into_iter().any(|known| wanted(&known.text))
        };
        let wish = Attach {
            agent: agent.clone(),
            protocol: Protocol::Mqtt,
            inbox: match has(|text| text == mqtt::INBOX_FILTER) {
                true => Inbox::Open,
                false => Inbox::Closed,
            },
            queue: match kept.is_some() || wanted.session_expiry_s > 0 {
                true => SessionQueue::Durable(slot.token().to_owned()),
                false => SessionQueue::OnDemand,
            },
            window: Window::DEFAULT,
            visibility_timeout: None,
        };
        let fabric = &self.edge.door.fabric;
        let (handle, receiver) = fabric.attach(&principal, wish).await.map_err(refusal)?;
        if has(is_nodes_own) {
            self.sys = Some(self.edge.sys.rounds());
        }
        let debt = kept.as_ref().and_then(|kept| Debt::resumed(kept, fabric, &agent, now));
        self.attached = Some(Box::new(Attached {
            receiver,
            handle,
            publishing: None,
            delivered: Vec::new(),
            principal,
            debt,
            slot,
        }));
        let (saved, in_flight) = kept.map(|kept| (kept.saved, kept.sent.unwrap_or_default())).unzip();
        Ok(mqtt::Attached {
            agent,
            nonce: self.edge.book.number(),
            saved,
            in_flight: in_flight.unwrap_or_default(),
        })
    }

    async fn end(&mut self, end: End) {
        let Some(attached) = self.attached.take() else { return };
        let Attached {
            mut receiver,
            handle,
            mut delivered,
            debt,
            slot,
            ..
        } = *attached;
        self.edge.book.hold(&slot, &end);
        // What the client has not got goes back at once, and not to this session.
        handle.set_window(Window::CLOSED);
        receiver.try_next_pieces(&mut delivered, usize::MAX);
        let taken = delivered.iter().filter_map(|piece| match piece {
            Piece::One(delivery) => delivery.id,
            Piece::Run { .. } => None,
        });
        let handed = end.unsettled.iter().copied().filter_map(delivery_id);
        let unsettled: Vec<_> = handed.chain(taken).collect();
        if !unsettled.is_empty() {
            handle.nack(&unsettled, Refusal::Release).await;
        }
        drop(receiver);
        drop(handle);
        let left = debt.map_or_else(Vec::new, |debt| debt.left());
        if !left.is_empty()
            && end.session != SessionFate::Ends
            && let Err(error) = self.edge.book.save(&slot, left).await
        {
            // After a crash, what is QoS 1 of it comes twice.
            tracing::warn!(peer = %self.peer, %error, "what an MQTT session is owed no more could not be written");
        }
        self.edge.book.end(&slot, end).await;
    }

    // --- publishing --------------------------------------------------------------------------------------------------

    fn publish(&mut self, ticket: Option<Ticket>, frame: Frame, retain: bool, now: Timestamp, round: &mut Round) {
        let Some(attached) = &mut self.attached else { return };
        if retain {
            match self.edge.door.fabric.retain(&attached.principal, &frame) {
                Ok(recording) => round.recordings.push((ticket, recording)),
                // Without its retained copy a message with an answer is not taken; one without is passed on.
                Err(error) => {
                    if let Some(ticket) = ticket {
                        let outcome = outcome::outcome(&Err(error));
                        return self.machine.handle_published(ticket, outcome, now, &mut self.actions);
                    }
                }
            }
        }
        let sending = match (frame.envelope.qos(), ticket) {
            (Qos::AtLeastOnce, Some(ticket)) if !self.machine.names_messages() => {
                Sending::KeepOrPass(ticket.0, Run::one(frame))
            }
            (_, ticket) => Sending::one(ticket.map_or(0, |ticket| ticket.0), frame, ticket.is_some()),
        };
        attached.push(&self.edge.door.fabric, sending);
    }

    fn publish_run(&mut self, ticket: Option<Ticket>, run: Run) {
        let Some(attached) = &mut self.attached else { return };
        let fabric = &self.edge.door.fabric;
        match ticket {
            None => attached.push(fabric, Sending::Pass(None, run)),
            Some(ticket) if self.machine.names_messages() => {
                let tagged = (ticket.0..).zip(run.iter());
                tagged.for_each(|(tag, frame)| attached.push(fabric, Sending::Keep(tag, frame)));
            }
            Some(ticket) => attached.push(fabric, Sending::KeepOrPass(ticket.0, run)),
        }
    }

    async fn publish_batch(&mut self) {
        if let Some(attached) = &mut self.attached
            && let Some(publishing) = &mut attached.publishing
            && !publishing.batch.is_empty()
        {
            publishing.publisher.publish(&mut publishing.batch).await;
        }
    }

    // --- settling and saving -----------------------------------------------------------------------------------------

    async fn settle(&mut self, round: &mut Round) {
        let Some(attached) = &self.attached else { return };
        if !round.releases.is_empty() {
            let releases = mem::take(&mut round.releases);
            attached.handle.nack(&releases, Refusal::Release).await;
        }
        if round.settles.is_empty() {
            return;
        }
        let settles = mem::take(&mut round.settles);
        if self.machine.is_handing_over() && attached.slot.is_kept() {
            // The saves behind them rest on them.
            attached.handle.ack(&settles).await;
        } else {
            attached.handle.ack_unanswered(settles);
        }
    }

    /// Waits for what is to be durable, and tells the machine.
    async fn record(&mut self, round: Round, now: Timestamp) {
        for (ticket, recording) in round.recordings {
            if let (Err(error), Some(ticket)) = (recording.durable().await, ticket) {
                let outcome = outcome::outcome(&Err(error));
                self.machine.handle_published(ticket, outcome, now, &mut self.actions);
            }
        }
        let paid = self.take_paid(!round.saves.is_empty());
        if round.saves.is_empty() && paid.is_none() {
            return;
        }
        let (tickets, saves): (Vec<_>, Vec<_>) = round.saves.into_iter().unzip();
        let changes = paid.into_iter().chain(round.changes).chain(saves).collect();
        let saved = match &self.attached {
            Some(attached) => self.edge.book.save(&attached.slot, changes).await,
            None => Err(FabricError::SessionClosed),
        };
        match saved {
            Ok(()) => tickets
                .into_iter()
                .for_each(|ticket| self.machine.handle_saved(ticket, &mut self.actions)),
            Err(error) => {
                tracing::warn!(peer = %self.peer, %error, "what an MQTT session must keep could not be written");
                tickets
                    .into_iter()
                    .for_each(|ticket| self.machine.handle_save_failed(ticket, now, &mut self.actions));
            }
        }
    }

    // --- subscribing -------------------------------------------------------------------------------------------------

    async fn subscribe(&mut self, wanted: Vec<Wanted>) -> Vec<Result<(), Reason>> {
        if wanted.iter().any(|wanted| is_nodes_own(&wanted.subscription.text)) && self.sys.is_none() {
            self.sys = Some(self.edge.sys.rounds());
        }
        let Some(attached) = &self.attached else {
            return vec![Err(Reason::UNSPECIFIED); wanted.len()];
        };
        let handle = &attached.handle;
        let filters: Vec<_> = wanted.iter().filter_map(|wanted| wanted.filter.clone()).collect();
        let together = match filters.is_empty() {
            true => Ok(()),
            false => handle.subscribe(filters).await,
        };
        let mut answers = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let answer = match (wanted.filter, &together) {
                (None, _) => {
                    handle.set_inbox(Inbox::Open);
                    Ok(())
                }
                (Some(_), Ok(())) => Ok(()),
                // One of them is to blame: each for itself.
                (Some(filter), Err(_)) => handle.subscribe(vec![filter]).await,
            };
            answers.push(answer.map_err(|error| self.denial(outcome::reason(&error))));
        }
        answers
    }

    /// Whether a client hears that policy says no.
    fn denial(&self, reason: Reason) -> Reason {
        match reason {
            Reason::NOT_AUTHORIZED if !self.edge.config.explain_denials => Reason::UNSPECIFIED,
            Reason::TOPIC_NAME_INVALID => Reason::TOPIC_FILTER_INVALID,
            reason => reason,
        }
    }

    async fn unsubscribe(&mut self, filters: Vec<Option<TopicFilter>>) -> Result<(), Reason> {
        let Some(attached) = &mut self.attached else {
            return Err(Reason::UNSPECIFIED);
        };
        if filters.iter().any(Option::is_none) {
            attached.handle.set_inbox(Inbox::Closed);
        }
        let filters: Vec<_> = filters.into_iter().flatten().collect();
        if let Some(debt) = &mut attached.debt {
            filters.iter().for_each(|filter| debt.forget(filter));
        }
        if filters.is_empty() {
            return Ok(());
        }
        let unsubscribed = attached.handle.unsubscribe(filters).await;
        unsubscribed.map_err(|error| outcome::reason(&error))
    }

    // --- `$SYS` --------------------------------------------------------------------------------------------------------

    pub fn deliver_sys(&mut self, now: Timestamp) {
        let Some(sys) = &mut self.sys else { return };
        let round = sys.borrow_and_update().clone();
        self.deliver_round(&round, None, now);
        let is_wanted = self
            .machine
            .subscriptions()
            .iter()
            .any(|known| is_nodes_own(&known.text));
        if !is_wanted {
            self.sys = None;
        }
    }

    pub fn deliver_round(&mut self, round: &[Frame], wanted: Option<(&TopicFilter, Source)>, now: Timestamp) {
        let Some(attached) = &self.attached else { return };
        let queue = attached.handle.reply_address().clone();
        for frame in round {
            let topic = frame.envelope.to().strip_prefix("topic:").unwrap_or_default();
            let fits = |filter: &TopicFilter| TopicName::new(topic).is_ok_and(|topic| filter.matches(&topic));
            let may_have = self.edge.door.fabric.may_receive(attached.handle.agent(), frame);
            if !may_have || wanted.as_ref().is_some_and(|(filter, _)| !fits(filter)) {
                continue;
            }
            let delivery = Delivery {
                key: None,
                frame: frame.clone(),
                queue: queue.clone(),
                source: wanted.as_ref().map_or(Source::Live, |(_, source)| source.clone()),
            };
            self.machine.handle_delivery(delivery, now, &mut self.actions);
        }
    }
}
