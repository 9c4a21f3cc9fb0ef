//! From CONNECT to CONNACK: what a client may ask for, what it is granted, and what of an earlier connection goes on.

use std::{num::NonZeroU16, time::Duration};

use bytes::BytesMut;

use super::{Action, Attach, Attached, Change, Phase, Place, Saved, SavedWill, Session, Then};
use crate::{
    mqtt::{
        aliases::{AliasesIn, AliasesOut},
        mapping::{Sender, to_frame},
        names::{agent_of_client, queue_token},
        packet::{Connack, Connect, Packet, Publish, Version, Will},
        reason::Reason,
        subscriptions::Subscriptions,
    },
    time::Timestamp,
};

/// Receive Maximum where a packet has none: it need not be said.
const RECEIVE_MAX_DEFAULT: u16 = 65_535;

impl Session {
    /// The first packet; anything that comes before the answer to CONNECT ends the connection.
    pub(super) fn handle_first(&mut self, packet: Packet, now: Timestamp, out: &mut Vec<Action>) {
        match (packet, &self.phase) {
            (Packet::Connect(connect), Phase::Fresh { .. }) => self.handle_connect(connect, out),
            (_, Phase::Fresh { .. }) => self.over(Reason::PROTOCOL_ERROR, out), // [MQTT-3.1.0-1]
            _ => self.fail(Reason::PROTOCOL_ERROR, now, out),
        }
    }

    fn handle_connect(&mut self, mut connect: Box<Connect>, out: &mut Vec<Action>) {
        self.version = connect.version;
        self.wants_problems = connect.wants_problems;
        if connect.auth_method.is_some() {
            return self.refuse(Reason::BAD_AUTHENTICATION_METHOD, out); // [MQTT-4.12.0-1]
        }
        if connect.client_id.is_empty() {
            // [3.1.1 MQTT-3.1.3-8]: without an id there is no session to come back to.
            if connect.version == Version::V311 && !connect.clean_start {
                return self.refuse(Reason::CLIENT_ID_NOT_VALID, out);
            }
            connect.client_id.clone_from(&self.spare_id); // [MQTT-3.1.3-6]
        } else {
            self.spare_id = String::new();
        }
        let Ok(anonymous) = agent_of_client(&connect.client_id) else {
            return self.refuse(Reason::CLIENT_ID_NOT_VALID, out);
        };
        let asked_s = match connect.version {
            Version::V311 if connect.clean_start => 0,
            Version::V311 => u32::MAX,
            Version::V5 => connect.session_expiry_s,
        };
        self.session_expiry_s = asked_s.min(self.config.session_expiry_max_s);
        out.push(Action::Attach(Box::new(Attach {
            client_id: connect.client_id.clone(),
            anonymous,
            username: connect.username.clone(),
            password: connect.password.clone(),
            clean_start: connect.clean_start,
            session_expiry_s: self.session_expiry_s,
        })));
        self.phase = Phase::Attaching(connect);
    }

    /// The fabric's answer to [`Action::Attach`].
    pub fn handle_attached(&mut self, attached: Result<Attached, Reason>, now: Timestamp, out: &mut Vec<Action>) {
        let Phase::Attaching(connect) = std::mem::replace(&mut self.phase, Phase::Over) else {
            return;
        };
        let attached = match attached {
            Ok(attached) => attached,
            Err(reason) => return self.refuse(reason, out),
        };
        self.id_prefix = format!("{}:{:x}-", queue_token(&connect.client_id), attached.nonce);
        self.own_prefix_bytes = queue_token(&connect.client_id).len() + 1;
        self.agent = Some(attached.agent);
        self.phase = Phase::Greeting;
        self.will = match connect.will.as_ref().map(|will| self.will_of(will)).transpose() {
            Ok(will) => will,
            Err(reason) => return self.refuse(reason, out),
        };
        self.last_heard = now;
        // [MQTT-3.1.4-4], [MQTT-3.2.2-2], [MQTT-3.2.2-3]
        let saved = attached.saved.filter(|_| !connect.clean_start);
        let connack = self.granted(&connect, saved.as_ref());
        self.restore(&connect, saved, attached.in_flight);
        let opened = Change::Opened {
            client_id: connect.client_id,
            session_expiry_s: self.session_expiry_s,
            will: self.will.clone(),
        };
        self.save(opened, Then::Connack(Box::new(connack)), out);
    }

    fn will_of(&mut self, will: &Will) -> Result<SavedWill, Reason> {
        let publish = Publish {
            dup: false,
            retain: will.retain,
            qos: will.qos,
            topic: will.topic.clone(),
            packet_id: None,
            properties: will.properties.clone(),
            payload: will.payload.clone(),
        };
        let (agent, message_id) = self.sender();
        let sender = Sender {
            agent: &agent,
            message_id: &message_id,
            expiry_max: self.config.message_expiry_max,
        };
        let mut frame = BytesMut::new();
        to_frame(&publish, sender)?.encode(&mut frame);
        Ok(SavedWill {
            frame: frame.to_vec(),
            retain: will.retain,
            delay_s: will.delay_s,
        })
    }

    /// CONNACK: what was not asked for and is not needed stays out. Aliases come first and Receive Maximum last on the wire.
    fn granted(&mut self, connect: &Connect, saved: Option<&Saved>) -> Connack {
        let asked_s = connect.keep_alive_s;
        let max_s = self.config.keep_alive_max_s.filter(|_| connect.version == Version::V5);
        let server_s = max_s.filter(|max| asked_s == 0 || asked_s > *max); // [MQTT-3.1.2-21]
        let keep_alive_s = server_s.unwrap_or(asked_s);
        // One and a half times the interval [MQTT-3.1.2-22].
        self.keep_alive = (keep_alive_s > 0).then(|| Duration::from_millis(u64::from(keep_alive_s) * 1_500));
        let above_zero = |max: u16| (max > 0).then_some(max);
        Connack {
            session_present: saved.is_some(),
            reason: Reason::SUCCESS,
            topic_alias_max: above_zero(self.config.topic_alias_max),
            assigned_client_id: (!self.spare_id.is_empty()).then(|| self.spare_id.clone()), // [MQTT-3.2.2-16]
            server_keep_alive_s: server_s,
            session_expiry_s: (connect.session_expiry_s > self.session_expiry_s).then_some(self.session_expiry_s),
            packet_bytes_max: self.config.packet_bytes_max,
            receive_max: Some(self.config.receive_max).filter(|max| *max < RECEIVE_MAX_DEFAULT),
            reason_string: None,
        }
    }

    fn restore(&mut self, connect: &Connect, saved: Option<Saved>, in_flight: Vec<(u16, Place)>) {
        self.packet_bytes_max = connect.packet_bytes_max;
        self.aliases_in = AliasesIn::new(self.config.topic_alias_max);
        self.aliases_out = AliasesOut::new(connect.topic_alias_max, self.config.topic_alias_out_max);
        self.outbound.set_window(connect.receive_max);
        if let Some(saved) = saved {
            self.subscriptions = Subscriptions::restored(&saved.subscriptions);
            self.inbound.restore(saved.received);
            self.outbound.restore(saved.sending, saved.unsettled);
            self.outbound.restore_answered(in_flight);
        }
    }

    /// CONNACK goes out, and behind it what an earlier connection left open [MQTT-4.4.0-1]. Messages that were sent and not
    /// acknowledged come again from their queues.
    pub(super) fn greet(&mut self, connack: Connack, out: &mut Vec<Action>) {
        self.phase = Phase::Open;
        out.push(Action::Send(Packet::Connack(Box::new(connack))));
        for id in self.outbound.released().into_iter().filter_map(NonZeroU16::new) {
            out.push(Action::Send(Packet::Pubrel(self.ack(id, Reason::SUCCESS))));
        }
    }
}
