//! What the client publishes: aliases, windows, the handshakes of QoS 1 and 2 as their receiver, and answers in the order of the questions.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write,
};

use super::{Action, Asked, Change, Outcome, Retain, Session, Then, Ticket};
use crate::{
    frame::{AgentId, Frame, Qos, RunBuilder},
    mqtt::{
        mapping::{Sender, to_frame},
        packet::{Ack, Packet, PacketId, Publish, Version},
        reason::Reason,
    },
    time::Timestamp,
};

/// A PUBLISH that waits for its PUBACK or PUBREC.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    id: PacketId,
    qos: Qos,
    answer: Option<Reason>,
}

/// How far a QoS 2 message from the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// An earlier connection took it; whether it was published is not known here. Counts in no window.
    Restored,
    Publishing,
    /// PUBREC went out.
    Answered,
    /// PUBREL came; its id is being forgotten.
    Releasing,
}

#[derive(Debug)]
struct Received {
    message_id: String,
    stage: Stage,
}

/// The client's messages that are under way.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// In the order of their PUBLISH, which is the order of their answers [MQTT-4.6.0-2], [MQTT-4.6.0-3].
    waiting: VecDeque<Waiting>,
    received: BTreeMap<u16, Received>,
}

impl Inbound {
    pub fn unanswered(&self) -> usize {
        self.waiting.len()
    }

    pub fn restore(&mut self, received: BTreeMap<u16, String>) {
        let restored = |(id, message_id)| {
            let stage = Stage::Restored;
            (id, Received { message_id, stage })
        };
        self.received = received.into_iter().map(restored).collect();
    }

    /// Messages that count against Receive Maximum: from PUBLISH to PUBACK or PUBCOMP.
    fn in_window(&self) -> usize {
        let counts = |received: &&Received| matches!(received.stage, Stage::Answered | Stage::Releasing);
        self.waiting.len() + self.received.values().filter(counts).count()
    }
}

impl Session {
    pub(super) fn handle_publish(&mut self, mut publish: Publish, out: &mut Vec<Action>) {
        let now = self.last_heard;
        let alias = publish
            .properties
            .as_mut()
            .and_then(|properties| properties.topic_alias.take());
        publish.topic = match self.aliases_in.resolve(alias, std::mem::take(&mut publish.topic)) {
            Ok(topic) => topic,
            Err(reason) => return self.fail(reason, now, out),
        };
        match publish.packet_id {
            None => self.publish_unanswered(&publish, out),
            Some(id) => self.publish_answered(id, &publish, now, out),
        }
    }

    /// QoS 0. What is refused is gone: there is no answer to say so in.
    fn publish_unanswered(&mut self, publish: &Publish, out: &mut Vec<Action>) {
        if let Ok(frame) = self.frame_of(publish, None) {
            out.push(Action::Publish {
                ticket: None,
                frame,
                retain: publish.retain,
            });
        }
    }

    fn publish_answered(&mut self, id: PacketId, publish: &Publish, now: Timestamp, out: &mut Vec<Action>) {
        let known = self.inbound.received.get(&id.get()).map(|received| received.stage);
        match (publish.qos, known) {
            // Again, over the same connection: PUBREC may have been lost on the way, the message is not taken twice [MQTT-4.3.3-10].
            (Qos::ExactlyOnce, Some(Stage::Answered)) => {
                return out.push(Action::Send(Packet::Pubrec(self.ack(id, Reason::SUCCESS))));
            }
            (Qos::ExactlyOnce, Some(Stage::Publishing)) => return,
            (_, Some(Stage::Publishing | Stage::Answered | Stage::Releasing)) => {
                return self.fail(Reason::PROTOCOL_ERROR, now, out);
            }
            (_, Some(Stage::Restored) | None) => {}
        }
        if let Err(reason) = self.has_room() {
            return self.fail(reason, now, out);
        }
        let ticket = self.ticket();
        self.inbound.waiting.push_back(Waiting {
            ticket,
            id,
            qos: publish.qos,
            answer: None,
        });
        let retain = Retain::of(publish.retain);
        let kept = self
            .inbound
            .received
            .get(&id.get())
            .map(|received| received.message_id.clone());
        match (self.frame_of(publish, kept.as_deref()), publish.qos) {
            (Err(reason), _) => self.refused(ticket, id, reason, now, out),
            (Ok(frame), Qos::ExactlyOnce) => self.publish_once(ticket, id, (frame, retain), out),
            (Ok(frame), _) => out.push(Action::Publish {
                ticket: Some(ticket),
                frame,
                retain: publish.retain,
            }),
        }
    }

    fn has_room(&self) -> Result<(), Reason> {
        if self.version == Version::V5 && self.inbound.in_window() >= usize::from(self.config.receive_max) {
            return Err(Reason::RECEIVE_MAXIMUM_EXCEEDED); // [MQTT-3.3.4-9]
        }
        match self.inbound.received.len() >= self.config.unreleased_max {
            true => Err(Reason::QUOTA_EXCEEDED),
            false => Ok(()),
        }
    }

    /// The packet id with the message id is durable before the message is published: a repetition, also after a crash, goes under
    /// the same message id, and the fabric answers it from its receipt (G4).
    fn publish_once(&mut self, ticket: Ticket, id: PacketId, (frame, retain): (Frame, Retain), out: &mut Vec<Action>) {
        let message_id = frame.envelope.id().to_owned();
        let received = Received {
            message_id: message_id.clone(),
            stage: Stage::Publishing,
        };
        let then = Then::Publish(ticket, frame, retain);
        match self.inbound.received.insert(id.get(), received) {
            Some(_) => self.go_on(then, out),
            None => {
                let packet_id = id.get();
                self.save(Change::Received { packet_id, message_id }, then, out);
            }
        }
    }

    /// What became of a message that was published with a ticket.
    pub fn handle_published(&mut self, ticket: Ticket, outcome: Outcome, now: Timestamp, out: &mut Vec<Action>) {
        let Some(waiting) = self.waiting(ticket) else { return };
        let (id, qos) = (waiting.id, waiting.qos);
        match (outcome, self.version) {
            // PUBREC says nothing of it: other brokers' do not, and clients compare.
            (Outcome::Accepted { recipients: 0 }, Version::V5) if qos == Qos::AtLeastOnce => {
                self.answer(ticket, Reason::NO_MATCHING_SUBSCRIBERS, out);
            }
            (Outcome::Accepted { .. }, _) => self.answer(ticket, Reason::SUCCESS, out),
            // 3.1.1 cannot say so: the message is gone, and acknowledged as the specification demands [3.1.1 MQTT-3.3.5-2].
            (Outcome::Denied, Version::V311) => self.answer(ticket, Reason::SUCCESS, out),
            (Outcome::Denied, Version::V5) => self.refused(ticket, id, Reason::NOT_AUTHORIZED, now, out),
            (Outcome::Refused(reason), _) => self.refused(ticket, id, reason, now, out),
            (Outcome::Unknown(reason), _) => self.fail(reason, now, out),
        }
    }

    fn waiting(&mut self, ticket: Ticket) -> Option<&mut Waiting> {
        // Tickets grow, so the queue is sorted.
        let waiting = &mut self.inbound.waiting;
        let at = waiting.partition_point(|waiting| waiting.ticket < ticket);
        waiting.get_mut(at).filter(|waiting| waiting.ticket == ticket)
    }

    /// 3.1.1 has no refusal of a PUBLISH: an acknowledgement would lie, so the connection ends.
    fn refused(&mut self, ticket: Ticket, id: PacketId, reason: Reason, now: Timestamp, out: &mut Vec<Action>) {
        if self.version == Version::V311 {
            return self.fail(reason, now, out);
        }
        match self.inbound.received.remove(&id.get()) {
            // The client may use the id again once it reads the refusal: it is forgotten before.
            Some(_) => {
                let forgotten = Change::Forgotten { packet_id: id.get() };
                self.save(forgotten, Then::Refuse(ticket, reason), out);
            }
            None => self.answer(ticket, reason, out),
        }
    }

    /// Notes an answer, and sends all that no earlier one holds back.
    pub(super) fn answer(&mut self, ticket: Ticket, reason: Reason, out: &mut Vec<Action>) {
        if let Some(waiting) = self.waiting(ticket) {
            waiting.answer = Some(reason);
        }
        while let Some((Waiting { id, qos, .. }, reason)) = self.next_answer() {
            let ack = self.ack(id, reason);
            if qos != Qos::ExactlyOnce {
                out.push(Action::Send(Packet::Puback(ack)));
                continue;
            }
            if let Some(received) = self.inbound.received.get_mut(&id.get()) {
                received.stage = Stage::Answered;
            }
            out.push(Action::Send(Packet::Pubrec(ack)));
        }
    }

    fn next_answer(&mut self) -> Option<(Waiting, Reason)> {
        let reason = self.inbound.waiting.front()?.answer?;
        self.inbound.waiting.pop_front().map(|waiting| (waiting, reason))
    }

    pub(super) fn handle_pubrel(&mut self, ack: &Ack, out: &mut Vec<Action>) {
        let id = ack.packet_id;
        match self.inbound.received.get_mut(&id.get()) {
            Some(received) if received.stage == Stage::Releasing => {}
            Some(received) => {
                received.stage = Stage::Releasing;
                let forgotten = Change::Forgotten { packet_id: id.get() };
                self.save(forgotten, Then::Pubcomp(id), out); // [MQTT-4.3.3-11]
            }
            None => {
                let reason = match self.version {
                    Version::V5 => Reason::PACKET_ID_NOT_FOUND,
                    Version::V311 => Reason::SUCCESS,
                };
                let asked = self.asked.values();
                let is_on_its_way = asked
                    .into_iter()
                    .any(|asked| matches!(asked, Asked::Save(Then::Pubcomp(other)) if *other == id));
                if !is_on_its_way {
                    out.push(Action::Send(Packet::Pubcomp(Ack::new(id, reason))));
                }
            }
        }
    }

    /// The id is forgotten, durably.
    pub(super) fn complete(&mut self, id: PacketId, out: &mut Vec<Action>) {
        self.inbound.received.remove(&id.get());
        out.push(Action::Send(Packet::Pubcomp(Ack::new(id, Reason::SUCCESS))));
    }

    fn frame_of(&mut self, publish: &Publish, kept: Option<&str>) -> Result<Frame, Reason> {
        let (agent, minted) = self.sender();
        let message_id = kept.unwrap_or(&minted);
        let sender = Sender {
            agent: &agent,
            message_id,
            expiry_max: self.config.message_expiry_max,
        };
        let frame = to_frame(publish, sender)?;
        self.names_messages |= frame.envelope.id() != message_id;
        Ok(frame)
    }

    /// True once the client gave a message an id of its own, by which a repetition is known: then all of its messages are to be kept, so
    /// that none overtakes one of those.
    pub fn names_messages(&self) -> bool {
        self.names_messages
    }

    /// A fresh message id. They all have one length, as those of a run must.
    pub fn mint(&mut self) -> String {
        self.next_message += 1;
        format!("{}{:010x}", self.id_prefix, self.next_message)
    }

    /// Adds a PUBLISH that is as the last packet was but for its payload and, at QoS 1, its packet id to the run that began with that
    /// one. False, and not added, where it does not fit in there or is not as plain as it looks.
    pub fn handle_twin(
        &mut self,
        run: &mut RunBuilder,
        packet_id: Option<PacketId>,
        payload: &[u8],
        room: usize,
    ) -> bool {
        if packet_id.is_some_and(|id| !self.is_plain(id)) {
            return false;
        }
        self.next_message += 1;
        self.id_text.clear();
        self.id_text.push_str(&self.id_prefix);
        write!(self.id_text, "{:010x}", self.next_message).expect("a string takes every write");
        if !run.push(self.id_text.as_bytes(), payload, room) {
            return false;
        }
        if let Some(id) = packet_id {
            let ticket = self.ticket();
            self.inbound.waiting.push_back(Waiting {
                ticket,
                id,
                qos: Qos::AtLeastOnce,
                answer: None,
            });
        }
        true
    }

    /// Nothing stands in the way of a QoS 1 message under this packet id.
    fn is_plain(&self, id: PacketId) -> bool {
        !self.is_held_back() && self.has_room().is_ok() && !self.inbound.received.contains_key(&id.get())
    }

    /// Who sends, and a fresh message id.
    pub(super) fn sender(&mut self) -> (AgentId, String) {
        let id = self.mint();
        let agent = self
            .agent
            .clone()
            .expect("set when the client was attached, before it may send");
        (agent, id)
    }
}
