//! What is sent to the client: which subscriptions it is for, windows, packet ids, and the handshakes of QoS 1 and 2 as their sender.

use std::{
    collections::VecDeque,
    num::NonZeroU16,
    ops::{Add, Sub},
};

use bytes::Bytes;

use super::{
    Action, Change, Delivery, Key, Session, Source, Then,
    saved::{Place, SavedStage},
};
use crate::{
    frame::{Address, Frame, Qos, Run},
    mqtt::{
        aliases::Naming,
        encode::publish_bytes,
        mapping::{left_s, to_publish, was_retained},
        names::{arrival_topic, shared_filter},
        packet::{Ack, Packet, PacketId, Publish, PublishProperties, Version},
        reason::Reason,
        subscriptions::{Grant, Origin},
    },
    time::Timestamp,
};

/// Bytes of payloads and topics that wait for room in the window, from which on no more is to be brought: as much as a session has in flight.
const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// Keys are the node's own numbers: nobody chooses them to collide.
type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
type HashSet<K> = std::collections::HashSet<K, foldhash::fast::RandomState>;

/// What an alias adds to a packet, at most, in bytes: the property, and a longer length of the properties.
const ALIAS_BYTES: usize = 3 + 1;

/// How far a message to the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Sent over an earlier connection and not acknowledged; its queue brings it again. Counts in no window.
    Restored,
    /// Its packet id is being made durable.
    Keeping,
    Sent,
    /// PUBREC came; that is being made durable.
    Releasing,
    /// PUBREL is due or sent.
    Released,
}

#[derive(Debug)]
struct Flight {
    qos: Qos,
    stage: Stage,
    place: Option<Place>,
    key: Option<Key>,
    /// It was sent, or came again, over this connection.
    in_window: bool,
    settled: Settled,
}

/// Whether the fabric was told over this connection that the client has the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Yes,
    No,
}

/// What waits for room in the window.
#[derive(Debug)]
enum Waiting {
    One(Prepared),
    /// Messages that no queue keeps, and their packet but for what each has of its own.
    Run(Box<Publish>, Run),
}

#[derive(Debug)]
struct Prepared {
    key: Option<Key>,
    publish: Publish,
    expires_at: Timestamp,
}

/// Messages on their way to the client.
#[derive(Debug)]
pub(super) struct Outbound {
    window: usize,
    waiting_max: usize,
    flights: HashMap<u16, Flight>,
    /// Ids of QoS 1 messages that no queue keeps: sent, not acknowledged.
    passing: HashSet<u16>,
    /// Ids of messages whose place in a queue is known.
    places: HashMap<Place, u16>,
    in_window: usize,
    last_id: u16,
    /// Places of messages that the client has and whose settle may be lost.
    unsettled: HashSet<Place>,
    /// Ids of restored PUBRELs in their order.
    released: Vec<u16>,
    waiting: VecDeque<Waiting>,
    /// Messages in there, and the bytes of their payloads and topics.
    waiting_messages: usize,
    waiting_bytes: usize,
}

impl Outbound {
    pub fn new(window: u16, waiting_max: usize) -> Self {
        Self {
            window: usize::from(window),
            waiting_max,
            flights: HashMap::default(),
            passing: HashSet::default(),
            places: HashMap::default(),
            in_window: 0,
            last_id: 0,
            unsettled: HashSet::default(),
            released: Vec::new(),
            waiting: VecDeque::new(),
            waiting_messages: 0,
            waiting_bytes: 0,
        }
    }

    /// The client's Receive Maximum, where it is the smaller one.
    pub fn set_window(&mut self, receive_max: u16) {
        self.window = self.window.min(usize::from(receive_max));
    }

    pub fn restore(&mut self, sending: Vec<(u16, SavedStage)>, unsettled: Vec<Place>) {
        self.unsettled = unsettled.into_iter().collect();
        for (id, stage) in sending {
            let (stage, place) = match stage {
                SavedStage::Sent(place) => (Stage::Restored, place),
                SavedStage::Released(place) => {
                    self.released.push(id);
                    (Stage::Released, place)
                }
            };
            self.put_restored(id, Qos::ExactlyOnce, stage, place);
        }
    }

    /// QoS 1 messages of the connection before.
    pub fn restore_answered(&mut self, in_flight: Vec<(u16, Place)>) {
        for (id, place) in in_flight {
            if !self.flights.contains_key(&id) {
                self.put_restored(id, Qos::AtLeastOnce, Stage::Restored, place);
            }
        }
    }

    fn put_restored(&mut self, id: u16, qos: Qos, stage: Stage, place: Place) {
        self.places.insert(place, id);
        let flight = Flight {
            qos,
            stage,
            place: Some(place),
            key: None,
            in_window: false,
            settled: Settled::No,
        };
        self.flights.insert(id, flight);
    }

    /// QoS 1 messages that were sent and not acknowledged. What came from an earlier connection and was not handed out again is
    /// gone from its queue by now.
    pub fn left(&self) -> Vec<(u16, Place)> {
        let sent = self
            .flights
            .iter()
            .filter(|(_, flight)| flight.qos == Qos::AtLeastOnce && flight.in_window);
        let mut left: Vec<_> = sent.filter_map(|(id, flight)| Some((*id, flight.place?))).collect();
        left.sort_unstable_by_key(|(id, _)| *id);
        left
    }

    /// QoS 2 messages in queues that were sent, perhaps by an earlier connection, and not acknowledged.
    pub fn sent_once(&self) -> Vec<Place> {
        let is_sent = |flight: &&Flight| {
            flight.qos == Qos::ExactlyOnce && matches!(flight.stage, Stage::Restored | Stage::Keeping | Stage::Sent)
        };
        let places = self.flights.values().filter(is_sent).filter_map(|flight| flight.place);
        places.filter(|place| place.owed_number().is_none()).collect()
    }

    /// What was handed out and is not settled.
    pub fn keys(&self) -> Vec<Key> {
        let sent = self.flights.values().filter_map(|flight| flight.key);
        let waiting = self.waiting.iter().filter_map(|waiting| match waiting {
            Waiting::One(prepared) => prepared.key,
            Waiting::Run(..) => None,
        });
        sent.chain(waiting).collect()
    }

    pub fn waiting(&self) -> usize {
        self.waiting_messages
    }

    /// As much waits as may.
    pub fn is_full(&self) -> bool {
        self.waiting_messages >= self.waiting_max || self.waiting_bytes >= WAITING_BYTES_MAX
    }

    pub fn is_handing_over(&self) -> bool {
        !self.unsettled.is_empty() || self.flights.values().any(|flight| flight.qos == Qos::ExactlyOnce)
    }

    /// Restored PUBRELs, once.
    pub fn released(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.released)
    }

    fn has_room(&self) -> bool {
        self.in_window < self.window
    }

    /// The next free id, `None` where there is none [MQTT-2.2.1-4].
    fn free_id(&mut self) -> Option<PacketId> {
        for _ in 0..=u16::MAX {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = NonZeroU16::new(self.last_id)
                && !self.flights.contains_key(&self.last_id)
                && !self.passing.contains(&self.last_id)
            {
                return Some(id);
            }
        }
        None
    }

    fn take_off(&mut self, id: PacketId, key: Option<Key>, qos: Qos, stage: Stage) {
        let place = key.map(Place::from);
        self.places.extend(place.map(|place| (place, id.get())));
        self.in_window += 1;
        let flight = Flight {
            qos,
            stage,
            place,
            key,
            in_window: true,
            settled: Settled::No,
        };
        self.flights.insert(id.get(), flight);
    }

    /// Packet ids for so many messages that no queue keeps, as far as the window has room.
    fn take_off_passing(&mut self, messages: usize) -> Vec<PacketId> {
        let room = self.window.saturating_sub(self.in_window).min(messages);
        let mut ids = Vec::with_capacity(room);
        while ids.len() < room
            && let Some(id) = self.free_id()
        {
            self.passing.insert(id.get());
            ids.push(id);
        }
        self.in_window += ids.len();
        ids
    }

    fn land_passing(&mut self, id: PacketId) -> bool {
        let landed = self.passing.remove(&id.get());
        self.in_window -= usize::from(landed);
        landed
    }

    fn put_off(&mut self, waiting: Waiting) {
        self.count(&waiting, Add::add);
        self.waiting.push_back(waiting);
    }

    fn take_next(&mut self) -> Option<Waiting> {
        let next = self.waiting.pop_front()?;
        self.count(&next, Sub::sub);
        Some(next)
    }

    fn put_back(&mut self, waiting: Waiting) {
        self.count(&waiting, Add::add);
        self.waiting.push_front(waiting);
    }

    fn count(&mut self, waiting: &Waiting, change: fn(usize, usize) -> usize) {
        let (messages, bytes) = match waiting {
            Waiting::One(prepared) => (1, prepared.publish.payload.len() + prepared.publish.topic.len()),
            Waiting::Run(_, run) => (run.frames(), run.body_bytes() + run.envelope().to().len()),
        };
        self.waiting_messages = change(self.waiting_messages, messages);
        self.waiting_bytes = change(self.waiting_bytes, bytes);
    }

    fn land(&mut self, id: PacketId) -> Option<Flight> {
        let flight = self.flights.remove(&id.get())?;
        self.in_window -= usize::from(flight.in_window);
        if let Some(place) = flight.place {
            self.places.remove(&place);
        }
        Some(flight)
    }

    /// A message of this QoS was sent under the id over this connection and its answer is not there: an answer of the other QoS is
    /// out of place [MQTT-4.3.2-2], [MQTT-4.3.3-3].
    fn is_awaiting(&self, id: PacketId, qos: Qos) -> bool {
        let flight = self.flights.get(&id.get());
        flight.is_some_and(|flight| flight.qos == qos && flight.in_window)
            || (qos == Qos::AtLeastOnce && self.passing.contains(&id.get()))
    }

    fn flight(&mut self, id: PacketId, qos: Qos) -> Option<&mut Flight> {
        self.flights.get_mut(&id.get()).filter(|flight| flight.qos == qos)
    }
}

impl Session {
    /// A message from one of the session's queues.
    pub fn handle_delivery(&mut self, delivery: Delivery, now: Timestamp, out: &mut Vec<Action>) {
        let Delivery {
            key,
            frame,
            queue,
            source,
        } = delivery;
        if !matches!(self.phase, super::Phase::Open) {
            return out.extend(key.map(Action::Release));
        }
        if self.comes_again(key, &frame, &source, now, out) {
            return;
        }
        let topic = arrival_topic(frame.envelope.to());
        let grant = match (&source, shared_filter(&queue)) {
            (Source::Retained(filter), _) => self.subscriptions.grant_under(filter),
            (Source::Live, Some(filter)) => self.subscriptions.grant_under(filter),
            (Source::Live, None) => self.subscriptions.grant(topic, self.origin(&frame)),
        };
        // Nobody asked for it any more, or only for others' messages [MQTT-3.10.4-2]: it is done with.
        let Some(grant) = grant else {
            return out.extend(key.map(Action::Settle));
        };
        let publish = self.prepare(&frame, grant, &source, now);
        if !self.fits(&publish, 0) {
            return out.extend(key.map(Action::Settle)); // [MQTT-3.1.2-25]
        }
        if publish.qos == Qos::AtMostOnce {
            self.send(publish, out);
            return out.extend(key.map(Action::Settle));
        }
        let expires_at = frame.stamp.expires_at;
        self.send_or_wait(
            Prepared {
                key,
                publish,
                expires_at,
            },
            out,
        );
    }

    /// Messages that no queue keeps and that differ in id and body alone: what holds for the first one holds for all.
    pub fn handle_run(&mut self, run: Run, queue: &Address, now: Timestamp, out: &mut Vec<Action>) {
        let Some(first) = run.iter().next() else { return };
        let grant = match shared_filter(queue) {
            Some(filter) => self.subscriptions.grant_under(filter),
            None => self
                .subscriptions
                .grant(arrival_topic(first.envelope.to()), self.origin(&first)),
        };
        let Some(grant) = grant.filter(|_| matches!(self.phase, super::Phase::Open)) else {
            return;
        };
        let mut publish = self.prepare(&first, grant, &Source::Live, now);
        publish.payload = Bytes::new();
        if !self.fits(&publish, run.body_bytes_max()) {
            // [MQTT-3.1.2-25]: one by one where the packet is too large for some of them.
            let is_one = run.frames() == 1;
            let one_by_one = run.iter().map(Run::one).filter(|_| !is_one);
            return one_by_one.for_each(|run| self.handle_run(run, queue, now, out));
        }
        match publish.qos {
            Qos::AtMostOnce => self.send_run(publish, run, Vec::new(), out),
            Qos::AtLeastOnce | Qos::ExactlyOnce => {
                self.outbound.put_off(Waiting::Run(Box::new(publish), run));
                self.send_waiting(now, out);
            }
        }
    }

    /// Sends a run, by an alias where the client takes them: then the first packet alone says which.
    fn send_run(&mut self, publish: Publish, mut run: Run, mut ids: Vec<PacketId>, out: &mut Vec<Action>) {
        let is_new_alias =
            self.version == Version::V5 && matches!(self.aliases_out.naming(&publish.topic), Naming::Set(_));
        if is_new_alias && let Some(first) = run.split_to(1) {
            let rest = ids.split_off(ids.len().min(1));
            let named = self.named(publish.clone(), first.body_bytes_max());
            out.push(Action::SendRun(Box::new(named), first, ids));
            ids = rest;
        }
        let named = self.named(publish, run.body_bytes_max());
        out.push(Action::SendRun(Box::new(named), run, ids));
    }

    /// A message that an earlier connection, or an earlier lease, sent under an id already. True where that is all there is to do.
    fn comes_again(
        &mut self,
        key: Option<Key>,
        frame: &Frame,
        source: &Source,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(key) = key else { return false };
        if self.outbound.unsettled.remove(&key.into()) {
            out.push(Action::Settle(key));
            self.save(Change::Settled { place: key.into() }, Then::Nothing, out);
            return true;
        }
        let Some(&id) = self.outbound.places.get(&Place::from(key)) else {
            return false;
        };
        let (Some(flight), Some(id)) = (self.outbound.flights.get_mut(&id), NonZeroU16::new(id)) else {
            return false;
        };
        match flight.stage {
            Stage::Restored => {}
            // The client has it: its settle was lost (G7).
            Stage::Released => {
                flight.settled = Settled::Yes;
                out.push(Action::Settle(key));
                return true;
            }
            Stage::Keeping | Stage::Sent | Stage::Releasing => {
                flight.key = Some(key);
                return true;
            }
        }
        flight.key = Some(key);
        flight.stage = Stage::Sent;
        flight.in_window = true;
        let qos = flight.qos;
        self.outbound.in_window += 1;
        let grant = Grant {
            qos,
            ids: Vec::new(),
            retain_as_published: false,
        };
        let topic = arrival_topic(frame.envelope.to());
        let granted = match source {
            Source::Live => self.subscriptions.grant(topic, Origin::Other),
            Source::Retained(filter) => self.subscriptions.grant_under(filter),
        };
        let mut publish = self.prepare(frame, granted.unwrap_or(grant), source, now);
        publish.qos = qos;
        publish.dup = true; // [MQTT-3.3.1-1]
        publish.packet_id = Some(id);
        self.send(publish, out);
        true
    }

    fn origin(&self, frame: &Frame) -> Origin {
        let is_own = self
            .agent
            .as_ref()
            .is_some_and(|agent| agent.as_str() == frame.envelope.from())
            && frame
                .envelope
                .id()
                .starts_with(&self.id_prefix[..self.own_prefix_bytes]);
        if is_own { Origin::Own } else { Origin::Other }
    }

    fn prepare(&self, frame: &Frame, grant: Grant, source: &Source, now: Timestamp) -> Publish {
        let mut publish = to_publish(frame, self.version, now);
        if (grant.qos as u8) < publish.qos as u8 {
            publish.qos = grant.qos; // [MQTT-3.8.4-8]
        }
        // [MQTT-3.3.1-8], [MQTT-3.3.1-12], [MQTT-3.3.1-13]
        publish.retain = match source {
            Source::Retained(_) => true,
            Source::Live => grant.retain_as_published && was_retained(frame),
        };
        if self.version == Version::V5 && !grant.ids.is_empty() {
            let properties = publish.properties.get_or_insert_with(Box::<PublishProperties>::default);
            properties.subscription_ids = grant.ids;
        }
        publish
    }

    fn send_or_wait(&mut self, prepared: Prepared, out: &mut Vec<Action>) {
        if self.outbound.has_room() && self.outbound.waiting.is_empty() {
            return self.send_answered(prepared, out);
        }
        match prepared.key {
            Some(key) if self.outbound.waiting() >= self.outbound.waiting_max => out.push(Action::Release(key)),
            _ => self.outbound.put_off(Waiting::One(prepared)),
        }
    }

    /// QoS 1 goes out at once. A QoS 2 message's id is durable before, so that it goes out under the same one for ever.
    fn send_answered(&mut self, prepared: Prepared, out: &mut Vec<Action>) {
        let Prepared { key, mut publish, .. } = prepared;
        let Some(id) = self.outbound.free_id() else {
            return out.extend(key.map(Action::Release));
        };
        publish.packet_id = Some(id);
        match (publish.qos, key) {
            (Qos::ExactlyOnce, Some(kept)) => {
                self.outbound.take_off(id, key, Qos::ExactlyOnce, Stage::Keeping);
                let sent = Change::Sent {
                    packet_id: id.get(),
                    place: kept.into(),
                };
                self.save(sent, Then::Deliver(id, Box::new(publish)), out);
            }
            (qos, _) => {
                self.outbound.take_off(id, key, qos, Stage::Sent);
                self.send(publish, out);
            }
        }
    }

    pub(super) fn send_kept(&mut self, id: PacketId, publish: Publish, out: &mut Vec<Action>) {
        if let Some(flight) = self.outbound.flight(id, Qos::ExactlyOnce) {
            flight.stage = Stage::Sent;
            self.send(publish, out);
        }
    }

    /// Sends a PUBLISH, by an alias where the client takes them.
    fn send(&mut self, publish: Publish, out: &mut Vec<Action>) {
        let publish = self.named(publish, 0);
        out.push(Action::Send(Packet::Publish(publish)));
    }

    /// Whether the client takes it [MQTT-3.1.2-24], with so many bytes beside its own payload.
    fn fits(&self, publish: &Publish, more: usize) -> bool {
        let fits = |max: u32| publish_bytes(self.version, publish, more) <= max as usize;
        self.packet_bytes_max.is_none_or(fits)
    }

    fn named(&mut self, mut publish: Publish, payload_bytes_max: usize) -> Publish {
        let naming = match self.version {
            Version::V5 => self.aliases_out.naming(&publish.topic),
            Version::V311 => Naming::Name,
        };
        let naming = match naming {
            Naming::Set(_) | Naming::Alias(_) if !self.fits(&publish, payload_bytes_max + ALIAS_BYTES) => Naming::Name,
            naming => naming,
        };
        self.aliases_out.sent(&publish.topic, naming);
        if let Naming::Set(alias) | Naming::Alias(alias) = naming {
            publish.properties.get_or_insert_default().topic_alias = Some(alias);
        }
        if let Naming::Alias(_) = naming {
            publish.topic.clear();
        }
        publish
    }

    // --- acknowledgements --------------------------------------------------------------------------------------------

    pub(super) fn handle_puback(&mut self, ack: &Ack, now: Timestamp, out: &mut Vec<Action>) {
        if self.outbound.is_awaiting(ack.packet_id, Qos::ExactlyOnce) {
            self.fail(Reason::PROTOCOL_ERROR, now, out);
        } else if self.outbound.land_passing(ack.packet_id) {
            self.send_waiting(now, out);
        } else if self.outbound.flight(ack.packet_id, Qos::AtLeastOnce).is_some() {
            // A refusal settles too: the message is not sent again (§4.3.2).
            let flight = self.outbound.land(ack.packet_id);
            out.extend(flight.and_then(|flight| flight.key).map(Action::Settle));
            self.send_waiting(now, out);
        }
    }

    pub(super) fn handle_pubrec(&mut self, ack: &Ack, now: Timestamp, out: &mut Vec<Action>) {
        let id = ack.packet_id;
        if self.outbound.is_awaiting(id, Qos::AtLeastOnce) {
            return self.fail(Reason::PROTOCOL_ERROR, now, out);
        }
        let Some(flight) = self.outbound.flight(id, Qos::ExactlyOnce) else {
            if ack.reason.is_failure() {
                return; // The handshake is over, on both sides.
            }
            let reason = match self.version {
                Version::V5 => Reason::PACKET_ID_NOT_FOUND,
                Version::V311 => Reason::SUCCESS,
            };
            return out.push(Action::Send(Packet::Pubrel(Ack::new(id, reason))));
        };
        match flight.stage {
            Stage::Keeping | Stage::Releasing => {}
            Stage::Released => out.push(Action::Send(Packet::Pubrel(Ack::new(id, Reason::SUCCESS)))),
            Stage::Restored | Stage::Sent if ack.reason.is_failure() => {
                // [MQTT-4.3.3-4] does not hold: the handshake ends here.
                if let Some(key) = flight.key.take() {
                    flight.settled = Settled::Yes;
                    out.push(Action::Settle(key));
                }
                self.complete_sent(id, now, out);
            }
            Stage::Restored | Stage::Sent => {
                flight.stage = Stage::Releasing;
                let key = flight.key.take();
                // Durable before the message leaves its queue: from here on PUBREL goes out, never the message again.
                let released = Change::Released { packet_id: id.get() };
                self.save(released, Then::Pubrel(id, key), out);
            }
        }
    }

    pub(super) fn release(&mut self, id: PacketId, key: Option<Key>, out: &mut Vec<Action>) {
        if let Some(flight) = self.outbound.flight(id, Qos::ExactlyOnce) {
            flight.stage = Stage::Released;
            // The lease may be a later one by now.
            if let Some(key) = flight.key.take().or(key) {
                flight.settled = Settled::Yes;
                out.push(Action::Settle(key));
            }
            out.push(Action::Send(Packet::Pubrel(Ack::new(id, Reason::SUCCESS)))); // [MQTT-4.3.3-4]
        }
    }

    pub(super) fn handle_pubcomp(&mut self, ack: &Ack, now: Timestamp, out: &mut Vec<Action>) {
        let id = ack.packet_id;
        let stage = self.outbound.flight(id, Qos::ExactlyOnce).map(|flight| flight.stage);
        match stage {
            Some(Stage::Released) => self.complete_sent(id, now, out),
            // Before its PUBREL.
            Some(Stage::Sent) => self.fail(Reason::PROTOCOL_ERROR, now, out),
            None if self.outbound.is_awaiting(id, Qos::AtLeastOnce) => self.fail(Reason::PROTOCOL_ERROR, now, out),
            _ => {}
        }
    }

    /// A QoS 2 handshake is over. Nothing waits for that to be durable: lost, it means one PUBREL more.
    fn complete_sent(&mut self, id: PacketId, now: Timestamp, out: &mut Vec<Action>) {
        let Some(flight) = self.outbound.land(id) else { return };
        let packet_id = id.get();
        let change = match (flight.settled, flight.place) {
            // What is kept with the session is settled with this very save.
            (Settled::No, Some(place)) if place.owed_number().is_none() => {
                self.outbound.unsettled.insert(place);
                Change::CompletedUnsettled { packet_id }
            }
            _ => Change::Completed { packet_id },
        };
        self.save(change, Then::Nothing, out);
        self.send_waiting(now, out);
    }

    fn send_waiting(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        while self.outbound.has_room()
            && let Some(waiting) = self.outbound.take_next()
        {
            // No delivery starts after expiry (G9): its queue, where it has one, does what is to be done.
            let is_late = |expires_at: Timestamp| !expires_at.is_never() && expires_at <= now;
            match waiting {
                Waiting::One(prepared) if is_late(prepared.expires_at) => out.extend(prepared.key.map(Action::Release)),
                Waiting::One(mut prepared) => {
                    say_what_is_left(&mut prepared.publish, prepared.expires_at, now);
                    self.send_answered(prepared, out);
                }
                Waiting::Run(_, run) if is_late(run.stamp.expires_at) => {}
                Waiting::Run(mut publish, mut run) => {
                    let ids = self.outbound.take_off_passing(run.frames());
                    say_what_is_left(&mut publish, run.stamp.expires_at, now);
                    match run.split_to(ids.len()) {
                        Some(front) => {
                            self.outbound.put_back(Waiting::Run(publish.clone(), run));
                            self.send_run(*publish, front, ids, out);
                        }
                        None if ids.is_empty() => return self.outbound.put_back(Waiting::Run(publish, run)),
                        None => self.send_run(*publish, run, ids, out),
                    }
                }
            }
        }
    }
}

/// Brings the expiry that a packet says up to date.
fn say_what_is_left(publish: &mut Publish, expires_at: Timestamp, now: Timestamp) {
    let properties = publish.properties.as_mut();
    if let Some(expiry_s) = properties.and_then(|properties| properties.message_expiry_s.as_mut()) {
        *expiry_s = left_s(expires_at, now);
    }
}
