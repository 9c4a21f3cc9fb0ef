//! One client's session as a pure machine, for both versions: decoded packets, outcomes of the fabric and `now` in, actions out.
//!
//! ```text
//!  packets ──► handle_packet        Send(packet) ──► the client, in this order
//!  fabric  ──► handle_attached      Attach, Publish, Subscribe, Unsubscribe, Settle, Release, …Retained ──► the fabric
//!              handle_published, …  Save(change) ──► the store: what must be durable before the handshake goes on
//!  clock   ──► handle_timeout       Close, End ──► the connection's end, and what becomes of will and session
//! ```
//!
//! A machine is one connection. What outlives it is a [`Saved`], kept by whoever carries out [`Action::Save`] and given to the next
//! machine by [`Session::handle_attached`]. Sessions that end with their connection save nothing. Actions are to be carried out in
//! their order; saves come back in their order. Start at [`Session::handle_packet`].

mod connect;
mod inbound;
mod outbound;
mod saved;
mod subscribe;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;

pub use saved::{Change, Place, Saved, SavedDebt, SavedStage, SavedWill};

use self::{inbound::Inbound, outbound::Outbound};
use super::{
    aliases::{AliasesIn, AliasesOut},
    decode::Malformed,
    packet::{Ack, Connack, Connect, Disconnect, Packet, PacketId, Publish, Version},
    reason::Reason,
    subscriptions::{Subscription, Subscriptions},
};
use crate::{
    frame::{Address, AgentId, Frame, Run, TopicFilter},
    time::Timestamp,
};

/// What an operator may change.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long a connection may take to its CONNECT.
    pub connect_timeout: Duration,
    /// QoS 1 and 2 messages that a client may have unanswered; announced as Receive Maximum, held to in MQTT 5.
    pub receive_max: u16,
    /// QoS 1 and 2 messages that are sent to a client and not acknowledged; a smaller Receive Maximum of its own counts instead.
    pub send_max: u16,
    /// Deliveries that wait for room in that window. Above it those that have a queue go back to it, and no others are to be brought
    /// ([`Session::is_backed_up`]).
    pub waiting_max: usize,
    /// Topic aliases that a client may set; announced.
    pub topic_alias_max: u16,
    /// Topic aliases that are set towards a client.
    pub topic_alias_out_max: u16,
    /// Announced as Maximum Packet Size where it is set.
    pub packet_bytes_max: Option<u32>,
    /// Longest keep-alive, in seconds, announced as Server Keep Alive to clients that ask for a longer one or none; `None`: theirs counts.
    pub keep_alive_max_s: Option<u16>,
    /// Longest session expiry, in seconds.
    pub session_expiry_max_s: u32,
    /// Subscriptions of a session.
    pub subscriptions_max: usize,
    /// QoS 2 messages of a client that it did not release yet. Above it the connection ends.
    pub unreleased_max: usize,
    /// Longest message expiry; longer ones are cut to it.
    pub message_expiry_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            receive_max: 20,
            send_max: 20,
            waiting_max: 256,
            topic_alias_max: 10,
            topic_alias_out_max: 10,
            packet_bytes_max: None,
            keep_alive_max_s: None,
            session_expiry_max_s: u32::MAX,
            subscriptions_max: 1_000,
            unreleased_max: 1_000,
            message_expiry_max: Duration::MAX,
        }
    }
}

/// Names one thing that the machine asked for; its outcome comes back under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One hand-out of a message: the place of the message, which stays, and the lease, which is new with each hand-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub place: Place,
    pub lease: u64,
}

/// What a client wants to attach as.
#[derive(Clone, Debug)]
pub struct Attach {
    pub client_id: String,
    /// What the client id makes an agent that nobody authenticated.
    pub anonymous: AgentId,
    pub username: Option<String>,
    pub password: Option<Bytes>,
    /// A session that is there is to be ended first: its queue, subscriptions and handshakes, never the agent's inbox.
    pub clean_start: bool,
    /// Seconds that the session outlives its connection; 0: it does not, `u32::MAX`: for ever.
    pub session_expiry_s: u32,
}

/// Attached: the client is an agent, and the session was found or made.
#[derive(Clone, Debug)]
pub struct Attached {
    pub agent: AgentId,
    /// A number that no other connection of the node's life has; message ids are made with it.
    pub nonce: u64,
    /// What was kept of the session, unless there was none or it was to be clean.
    pub saved: Option<Saved>,
    /// [`End::in_flight`] of the connection before, where the node has lived since.
    pub in_flight: Vec<(u16, Place)>,
}

/// A message for the client.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// `None` where nothing is to be settled.
    pub key: Option<Key>,
    pub frame: Frame,
    /// The queue that it came from.
    pub queue: Address,
    pub source: Source,
}

/// Why a message is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// It was published.
    Live,
    /// It was retained, and this filter was subscribed to.
    Retained(String),
}

/// What became of a message that the client published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is the fabric's, and goes to so many queues.
    Accepted { recipients: u32 },
    /// Policy says no.
    Denied,
    /// Refused for this reason, surely.
    Refused(Reason),
    /// It is not known whether it was taken (G2), for this reason: the client is to ask again, over a new connection.
    Unknown(Reason),
}

/// One filter that the client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `None`: the agent's inbox.
    pub filter: Option<TopicFilter>,
    pub subscription: Subscription,
}

/// Why the fabric ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye {
    Draining,
    AgentRemoved,
    Kicked,
    SlowConsumer,
    TakenOver,
}

impl Goodbye {
    const fn reason(self) -> Reason {
        match self {
            Self::Draining => Reason::SERVER_SHUTTING_DOWN,
            Self::AgentRemoved | Self::Kicked => Reason::ADMINISTRATIVE_ACTION,
            Self::SlowConsumer => Reason::QUOTA_EXCEEDED,
            Self::TakenOver => Reason::SESSION_TAKEN_OVER, // [MQTT-3.1.4-3]
        }
    }
}

/// What becomes of the session after its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionFate {
    /// It ends: queue, subscriptions and handshakes go [MQTT-3.1.2-23].
    Ends,
    /// It ends at this time unless the client is back; `None`: never.
    Lasts(Option<Timestamp>),
}

/// The connection's end, the last action of a machine that was attached.
#[derive(Clone, Debug)]
pub struct End {
    pub session: SessionFate,
    /// The will that is to be published, and when, unless the client is back by then [MQTT-3.1.3-9]. Also when the session ends
    /// earlier (§3.1.3.2.2).
    pub will: Option<(SavedWill, Timestamp)>,
    /// QoS 1 messages that were sent and not acknowledged, by packet id: the next connection sends them under the same ids
    /// [MQTT-4.4.0-1]. In memory only: QoS 1 may come twice, and after a crash it comes under another id.
    pub in_flight: Vec<(u16, Place)>,
    /// QoS 2 messages that were sent and not acknowledged: where the session lasts they wait for its next connection, expired or not
    /// [MQTT-4.3.3-7], and go to no other member of a shared subscription [MQTT-4.8.2-4].
    pub sent_once: Vec<Place>,
    /// What was handed out and is not settled: back to its queues, the attempts do not count.
    pub unsettled: Vec<Key>,
}

/// What is to be done. In the order given.
#[derive(Debug)]
pub enum Action {
    /// Write this packet.
    Send(Packet),
    /// Authenticate and attach; [`Session::handle_attached`] takes the answer.
    Attach(Box<Attach>),
    /// Publish; [`Session::handle_published`] takes the outcome of what has a ticket. QoS 0 has none.
    Publish {
        ticket: Option<Ticket>,
        frame: Frame,
        /// Keep it as its topic's retained message too; with an empty body: forget that one [MQTT-3.3.1-6].
        retain: bool,
    },
    /// Publish messages that differ in id and body alone. QoS 0, or QoS 1: then the first one has this ticket and each other one the
    /// next.
    PublishRun { ticket: Option<Ticket>, run: Run },
    /// Write this packet once for each of these messages, with its body and, at QoS 1, the next of these packet ids.
    SendRun(Box<Publish>, Run, Vec<PacketId>),
    /// Make it durable; [`Session::handle_saved`] says when it is. Not before the settles and saves that came before it are: a
    /// handshake that is forgotten while its settle is lost would send its message once more.
    Save { ticket: Ticket, change: Change },
    /// The client has the message.
    Settle(Key),
    /// The client cannot have it now: back to its queue, the attempt does not count.
    Release(Key),
    /// Subscribe; [`Session::handle_subscribed`] takes the answers.
    Subscribe { ticket: Ticket, wanted: Vec<Wanted> },
    /// End subscriptions, `None`: of the inbox; [`Session::handle_unsubscribed`] takes the answer.
    Unsubscribe {
        ticket: Ticket,
        filters: Vec<Option<TopicFilter>>,
    },
    /// Send what is retained under these filters, as deliveries with [`Source::Retained`] and without a key.
    SendRetained(Vec<TopicFilter>),
    /// The same for a session that outlives its connection: with keys, by what is kept as [`Change::Owed`], the first of it together with
    /// the save behind this. It is sent once that is durable.
    OweRetained(Vec<TopicFilter>),
    /// Close the connection once everything before is written. Nothing that comes in afterwards counts.
    Close(Reason),
    /// Detach.
    End(Box<End>),
}

/// What goes on once a change is durable.
#[derive(Debug)]
enum Then {
    Connack(Box<Connack>),
    /// A QoS 2 message's id is kept: it may be published.
    Publish(Ticket, Frame, Retain),
    /// A refused QoS 2 message's id is forgotten: the refusal may be said.
    Refuse(Ticket, Reason),
    Pubcomp(PacketId),
    /// A QoS 2 message's id is kept: it may be sent.
    Deliver(PacketId, Box<Publish>),
    Pubrel(PacketId, Option<Key>),
    Suback(PacketId, Vec<Reason>, Vec<TopicFilter>),
    Unsuback(PacketId, Vec<Reason>),
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retain {
    No,
    Yes,
}

impl Retain {
    const fn of(flag: bool) -> Self {
        if flag { Self::Yes } else { Self::No }
    }
}

/// What the fabric was asked and has not answered.
#[derive(Debug)]
enum Asked {
    Save(Then),
    Subscribe(subscribe::Pending),
    Unsubscribe(PacketId, Vec<Reason>, Vec<String>),
}

#[derive(Debug)]
enum Phase {
    /// No CONNECT yet.
    Fresh {
        deadline: Timestamp,
    },
    Attaching(Box<Connect>),
    /// The changes of an attach are on their way; then CONNACK goes out.
    Greeting,
    Open,
    Over,
}

/// One connection's machine.
#[derive(Debug)]
pub struct Session {
    config: Arc<Config>,
    /// The id of a client that gave none.
    spare_id: String,
    phase: Phase,
    version: Version,
    agent: Option<AgentId>,
    /// What the ids of messages that it mints start with.
    id_prefix: String,
    /// How much of that any connection of this client has in common: No Local knows its own messages by it.
    own_prefix_bytes: usize,
    /// The last id of a run.
    id_text: String,
    next_message: u64,
    names_messages: bool,
    next_ticket: u64,
    asked: HashMap<Ticket, Asked>,
    keep_alive: Option<Duration>,
    last_heard: Timestamp,
    wants_problems: bool,
    packet_bytes_max: Option<u32>,
    session_expiry_s: u32,
    will: Option<SavedWill>,
    aliases_in: AliasesIn,
    aliases_out: AliasesOut,
    subscriptions: Subscriptions,
    inbound: Inbound,
    outbound: Outbound,
}

impl Session {
    /// A new connection. `spare_id` is the client id of a client that gives none: unique, and nobody's to guess.
    pub fn new(config: Arc<Config>, spare_id: String, now: Timestamp) -> Self {
        Self {
            phase: Phase::Fresh {
                deadline: now + config.connect_timeout,
            },
            outbound: Outbound::new(config.send_max, config.waiting_max),
            config,
            spare_id,
            version: Version::V311,
            agent: None,
            id_prefix: String::new(),
            own_prefix_bytes: 0,
            id_text: String::new(),
            next_message: 0,
            names_messages: false,
            next_ticket: 0,
            asked: HashMap::new(),
            keep_alive: None,
            last_heard: now,
            wants_problems: true,
            packet_bytes_max: None,
            session_expiry_s: 0,
            will: None,
            aliases_in: AliasesIn::default(),
            aliases_out: AliasesOut::default(),
            subscriptions: Subscriptions::default(),
            inbound: Inbound::default(),
        }
    }

    /// Takes a packet from the client.
    pub fn handle_packet(&mut self, packet: Packet, now: Timestamp, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Over => return,
            Phase::Open => {}
            _ => return self.handle_first(packet, now, out),
        }
        self.last_heard = now;
        match packet {
            Packet::Publish(publish) => self.handle_publish(publish, out),
            Packet::Puback(ack) => self.handle_puback(&ack, now, out),
            Packet::Pubrec(ack) => self.handle_pubrec(&ack, now, out),
            Packet::Pubrel(ack) => self.handle_pubrel(&ack, out),
            Packet::Pubcomp(ack) => self.handle_pubcomp(&ack, now, out),
            Packet::Subscribe(subscribe) => self.handle_subscribe(subscribe, out),
            Packet::Unsubscribe(unsubscribe) => self.handle_unsubscribe(unsubscribe, out),
            Packet::Pingreq => out.push(Action::Send(Packet::Pingresp)), // [MQTT-3.12.4-1]
            Packet::Disconnect(disconnect) => self.handle_disconnect(&disconnect, now, out),
            // A second CONNECT [MQTT-3.1.0-2]; and what only servers send.
            Packet::Connect(_) | Packet::Connack(_) | Packet::Suback(..) | Packet::Unsuback(..) | Packet::Pingresp => {
                self.fail(Reason::PROTOCOL_ERROR, now, out)
            }
        }
    }

    /// The bytes that came are no packet.
    pub fn handle_malformed(&mut self, malformed: &Malformed, now: Timestamp, out: &mut Vec<Action>) {
        match &self.phase {
            Phase::Over => {}
            Phase::Fresh { .. } => {
                // Only whoever speaks another version of MQTT is answered [3.1.1 MQTT-3.1.2-2]. Of a CONNECT that cannot be read it is
                // not known what its sender would make of an answer (§4.13.1 leaves it open).
                match malformed
                    .version
                    .filter(|_| malformed.reason == Reason::UNSUPPORTED_VERSION)
                {
                    Some(version) => {
                        self.version = version;
                        self.refuse(malformed.reason, out);
                    }
                    None => self.over(malformed.reason, out),
                }
            }
            _ => self.fail(malformed.reason, now, out),
        }
    }

    /// A change is durable.
    pub fn handle_saved(&mut self, ticket: Ticket, out: &mut Vec<Action>) {
        if let Some(Asked::Save(then)) = self.asked.remove(&ticket)
            && !matches!(self.phase, Phase::Over)
        {
            self.go_on(then, out);
        }
    }

    /// A change could not be made durable, or nobody knows: nothing that rests on it goes out, and the client comes back.
    pub fn handle_save_failed(&mut self, ticket: Ticket, now: Timestamp, out: &mut Vec<Action>) {
        if self.asked.remove(&ticket).is_some() {
            match self.phase {
                Phase::Greeting => self.refuse(Reason::SERVER_UNAVAILABLE, out),
                _ => self.fail(Reason::UNSPECIFIED, now, out),
            }
        }
    }

    /// Retained messages that are owed could not be kept: as above.
    pub fn handle_owing_failed(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        self.fail(Reason::UNSPECIFIED, now, out);
    }

    /// The fabric ends the session.
    pub fn handle_goodbye(&mut self, goodbye: Goodbye, now: Timestamp, out: &mut Vec<Action>) {
        self.fail(goodbye.reason(), now, out);
    }

    /// The connection broke, or the client closed it without a DISCONNECT.
    pub fn handle_lost(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        self.end(now, out);
    }

    /// When [`Session::handle_timeout`] is to be called; `None`: never.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Fresh { deadline } => Some(deadline),
            Phase::Open => self.keep_alive.map(|patience| self.last_heard + patience),
            Phase::Attaching(_) | Phase::Greeting | Phase::Over => None,
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        if self.next_deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        match self.phase {
            Phase::Fresh { .. } => self.over(Reason::PROTOCOL_ERROR, out),
            _ => self.fail(Reason::KEEP_ALIVE_TIMEOUT, now, out), // [MQTT-3.1.2-22]
        }
    }

    /// True while the client's unanswered messages are at their bound: read no further from it.
    pub fn is_held_back(&self) -> bool {
        match self.phase {
            Phase::Attaching(_) | Phase::Greeting => true,
            _ => self.inbound.unanswered() >= self.config.unreleased_max.max(1),
        }
    }

    /// True between CONNACK and the end: then alone deliveries are taken.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Messages that wait for room in the client's window: whoever brings retained ones brings no more while there are some.
    pub fn held_up(&self) -> usize {
        self.outbound.waiting()
    }

    /// True while as many messages wait for the client as may: bring no more.
    pub fn is_backed_up(&self) -> bool {
        self.outbound.is_full()
    }

    /// True while a QoS 2 message is on its way to the client, or may have been settled in vain: then settles are to be durable before
    /// the saves behind them.
    pub fn is_handing_over(&self) -> bool {
        self.outbound.is_handing_over()
    }

    /// The session's subscriptions.
    pub fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }

    /// The version that the client speaks; 3.1.1 before its CONNECT.
    pub fn version(&self) -> Version {
        self.version
    }

    // --- ends --------------------------------------------------------------------------------------------------------

    /// Ends an open connection because of something that went wrong [MQTT-4.13.1-1].
    fn fail(&mut self, reason: Reason, now: Timestamp, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Over => {}
            Phase::Fresh { .. } | Phase::Attaching(_) | Phase::Greeting => self.refuse(reason, out),
            Phase::Open => {
                if self.version == Version::V5 {
                    let disconnect = Disconnect {
                        reason,
                        session_expiry_s: None,
                        reason_string: None,
                    };
                    out.push(Action::Send(Packet::Disconnect(disconnect)));
                }
                out.push(Action::Close(reason));
                self.end(now, out);
            }
        }
    }

    /// Refuses a CONNECT: CONNACK with the reason, where the version has one for it, and the end [MQTT-3.1.4-2].
    fn refuse(&mut self, reason: Reason, out: &mut Vec<Action>) {
        if self.version == Version::V5 || reason.connect_return_code().is_some() {
            out.push(Action::Send(Packet::Connack(Box::new(Connack::refusing(reason)))));
        }
        let was_attached = matches!(self.phase, Phase::Greeting);
        self.over(reason, out);
        if was_attached {
            let session = self.fate(self.last_heard);
            out.push(Action::End(Box::new(End {
                session,
                will: None,
                in_flight: Vec::new(),
                sent_once: Vec::new(),
                unsettled: Vec::new(),
            })));
        }
    }

    fn over(&mut self, reason: Reason, out: &mut Vec<Action>) {
        self.phase = Phase::Over;
        self.asked.clear();
        out.push(Action::Close(reason));
    }

    fn handle_disconnect(&mut self, disconnect: &Disconnect, now: Timestamp, out: &mut Vec<Action>) {
        if let Some(expiry_s) = disconnect.session_expiry_s {
            if self.session_expiry_s == 0 && expiry_s != 0 {
                return self.fail(Reason::PROTOCOL_ERROR, now, out); // §3.14.2.2.2
            }
            self.session_expiry_s = expiry_s.min(self.config.session_expiry_max_s);
        }
        if disconnect.reason != Reason::DISCONNECT_WITH_WILL && !disconnect.reason.is_failure() {
            self.will = None; // [MQTT-3.14.4-3]
        }
        out.push(Action::Close(Reason::SUCCESS));
        self.end(now, out);
    }

    fn fate(&self, now: Timestamp) -> SessionFate {
        match self.session_expiry_s {
            0 => SessionFate::Ends,
            u32::MAX => SessionFate::Lasts(None),
            seconds => SessionFate::Lasts(Some(now + Duration::from_secs(seconds.into()))),
        }
    }

    fn end(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let was_attached = matches!(self.phase, Phase::Open | Phase::Greeting);
        self.phase = Phase::Over;
        self.asked.clear();
        if !was_attached {
            return;
        }
        let expiry = Duration::from_secs(self.session_expiry_s.into());
        let session = self.fate(now);
        let will = self.will.take().map(|will| {
            let delay = Duration::from_secs(will.delay_s.into());
            // The session's end sends it too, whichever is first.
            let at = if self.session_expiry_s == u32::MAX {
                now + delay
            } else {
                now + delay.min(expiry)
            };
            (will, at)
        });
        let in_flight = match self.is_durable() {
            true => self.outbound.left(),
            false => Vec::new(),
        };
        out.push(Action::End(Box::new(End {
            session,
            will,
            in_flight,
            sent_once: self.outbound.sent_once(),
            unsettled: self.outbound.keys(),
        })));
    }

    // --- asking ------------------------------------------------------------------------------------------------------

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// True where the session outlives its connection: then alone there is something to be durable.
    fn is_durable(&self) -> bool {
        self.session_expiry_s > 0
    }

    /// Makes a change durable and goes on then; at once where the session ends with its connection.
    fn save(&mut self, change: Change, then: Then, out: &mut Vec<Action>) {
        if !self.is_durable() {
            return self.go_on(then, out);
        }
        let ticket = self.ticket();
        self.asked.insert(ticket, Asked::Save(then));
        out.push(Action::Save { ticket, change });
    }

    fn go_on(&mut self, then: Then, out: &mut Vec<Action>) {
        if matches!(then, Then::Connack(_) | Then::Suback(..)) {
            // Many clients ask for nothing more, and a table that was used once keeps its room.
            self.asked.shrink_to_fit();
        }
        match then {
            Then::Connack(connack) => self.greet(*connack, out),
            Then::Publish(ticket, frame, retain) => out.push(Action::Publish {
                ticket: Some(ticket),
                frame,
                retain: retain == Retain::Yes,
            }),
            Then::Refuse(ticket, reason) => self.answer(ticket, reason, out),
            Then::Pubcomp(id) => self.complete(id, out),
            Then::Deliver(id, publish) => self.send_kept(id, *publish, out),
            Then::Pubrel(id, key) => self.release(id, key, out),
            Then::Suback(id, codes, retained) => {
                out.push(Action::Send(Packet::Suback(id, codes)));
                if !retained.is_empty() {
                    out.push(Action::SendRetained(retained));
                }
            }
            Then::Unsuback(id, codes) => out.push(Action::Send(Packet::Unsuback(id, codes))),
            Then::Nothing => {}
        }
    }

    /// An acknowledgement with its reason in words, where the client wants them [MQTT-3.1.2-29].
    fn ack(&self, id: PacketId, reason: Reason) -> Ack {
        let said = reason.is_failure() && self.wants_problems && self.version == Version::V5;
        Ack {
            packet_id: id,
            reason,
            reason_string: said.then(|| reason.text().to_owned()),
        }
    }
}
