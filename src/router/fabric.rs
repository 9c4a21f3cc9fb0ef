//! The door: every edge speaks to the fabric through [`Fabric`] and through nothing else.
//!
//! Authenticated principal -> authorize -> validate -> stamp -> route, the same for every protocol.
#![allow(clippy::todo, unused_variables, clippy::missing_const_for_fn, missing_docs)]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    config::Config,
    error::FabricError,
    port::{Ports, StoreStats},
    registry::{AgentFilter, AgentRecord, AgentView, GroupRecord, Registered, Registration},
    surface::{
        Accepted, Answer, Attach, ConnectionView, Delivery, DeliveryId, Goodbye, KeptMessage, MessageStatus,
        PassedEnvelope, Principal, Protocol, Refusal, SessionEvent, SessionId, Settled, StatusQuery, Tag, Window,
    },
};
use crate::frame::{Address, AgentId, Draft, Frame, GroupId, MessageId, TopicFilter, TraceContext, TrackingId};

/// The one door. A clone is a reference count.
#[derive(Clone, Debug)]
pub struct Fabric(Arc<()>);

impl Fabric {
    /// Claims the shards, loads what the store holds and starts the workers.
    pub async fn start(ports: Ports, config: Config) -> Result<Self, FabricError> {
        todo!()
    }

    pub fn config(&self) -> &Config {
        todo!()
    }

    /// A fresh UUIDv7 message id.
    pub fn new_message_id(&self) -> MessageId {
        todo!()
    }

    // --- sending -------------------------------------------------------------------------------------------------

    /// Takes one message in and answers once its fate is known: committed (QoS 1, 2), or handed on or dropped (QoS 0).
    /// `trace` is the sender's trace context, where it has one.
    pub async fn send(
        &self,
        principal: &Principal,
        via: Protocol,
        draft: Draft,
        body: Bytes,
        trace: TraceContext,
    ) -> Result<Accepted, FabricError> {
        todo!()
    }

    /// [`Fabric::send`] for a frame that is archived already (native clients): only its stamp is set here.
    pub async fn send_frame(
        &self,
        principal: &Principal,
        via: Protocol,
        frame: Frame,
    ) -> Result<Accepted, FabricError> {
        todo!()
    }

    /// The sending half of a stream: batches in, answers out, without waiting for each.
    pub fn publisher(&self, principal: Principal, via: Protocol) -> (Publisher, Answers) {
        todo!()
    }

    /// Sends with a reply address of its own (`draft.reply_to` is overwritten) and waits for the reply.
    pub async fn request(
        &self,
        principal: &Principal,
        via: Protocol,
        draft: Draft,
        body: Bytes,
        trace: TraceContext,
        timeout: Duration,
    ) -> Result<Frame, FabricError> {
        todo!()
    }

    // --- receiving -----------------------------------------------------------------------------------------------

    /// Attaches an agent. The receiver is the one consumer of the session's lane; the handle may be cloned.
    /// The session ends when the receiver is dropped: what was not settled goes back to its queues.
    pub async fn attach(
        &self,
        principal: &Principal,
        attach: Attach,
    ) -> Result<(SessionHandle, SessionReceiver), FabricError> {
        todo!()
    }

    /// Acknowledges without a session at hand (HTTP): the agent must be the one that the messages were handed to.
    pub async fn ack(
        &self,
        principal: &Principal,
        agent: &AgentId,
        ids: &[DeliveryId],
    ) -> Result<Vec<Settled>, FabricError> {
        todo!()
    }

    /// Refuses without a session at hand (HTTP).
    pub async fn nack(
        &self,
        principal: &Principal,
        agent: &AgentId,
        ids: &[DeliveryId],
        refusal: Refusal,
    ) -> Result<Vec<Settled>, FabricError> {
        todo!()
    }

    /// Subscriptions of an agent's durable session queue, whether attached or not (HTTP's `PUT /subscriptions`): replaces them all.
    pub async fn set_subscriptions(
        &self,
        principal: &Principal,
        agent: &AgentId,
        token: &str,
        filters: Vec<TopicFilter>,
    ) -> Result<(), FabricError> {
        todo!()
    }

    pub fn subscriptions(
        &self,
        principal: &Principal,
        agent: &AgentId,
        token: &str,
    ) -> Result<Vec<TopicFilter>, FabricError> {
        todo!()
    }

    /// Removes a durable session queue with its subscriptions and whatever waits in it.
    pub async fn remove_session_queue(
        &self,
        principal: &Principal,
        agent: &AgentId,
        token: &str,
    ) -> Result<(), FabricError> {
        todo!()
    }

    // --- what became of messages ---------------------------------------------------------------------------------

    pub async fn status(&self, principal: &Principal, query: StatusQuery) -> Result<MessageStatus, FabricError> {
        todo!()
    }

    /// Dead letters of an address, oldest first, after `after`.
    pub async fn dead_letters(
        &self,
        principal: &Principal,
        address: &Address,
        after: Option<TrackingId>,
        limit: usize,
    ) -> Result<Vec<KeptMessage>, FabricError> {
        todo!()
    }

    /// Puts a dead letter back into its queue as new.
    pub async fn replay_dead_letter(
        &self,
        principal: &Principal,
        address: &Address,
        message: &MessageId,
    ) -> Result<TrackingId, FabricError> {
        todo!()
    }

    // --- agents --------------------------------------------------------------------------------------------------

    pub async fn register_agent(
        &self,
        principal: &Principal,
        agent: AgentId,
        registration: Registration,
    ) -> Result<(Arc<AgentRecord>, Registered), FabricError> {
        todo!()
    }

    pub async fn remove_agent(&self, principal: &Principal, agent: &AgentId) -> Result<(), FabricError> {
        todo!()
    }

    /// Notes that an agent is alive; [`FabricError::UnknownAgent`] where it is not known at all.
    pub fn heartbeat(&self, principal: &Principal, agent: &AgentId) -> Result<AgentView, FabricError> {
        todo!()
    }

    pub fn agent(&self, principal: &Principal, agent: &AgentId) -> Result<AgentView, FabricError> {
        todo!()
    }

    pub fn agents(&self, principal: &Principal, filter: &AgentFilter) -> Result<Vec<AgentView>, FabricError> {
        todo!()
    }

    pub fn connections(&self, principal: &Principal) -> Result<Vec<ConnectionView>, FabricError> {
        todo!()
    }

    // --- groups --------------------------------------------------------------------------------------------------

    /// `group.created_at` and, for a proven principal, `group.created_by` are set here.
    pub async fn create_group(
        &self,
        principal: &Principal,
        group: GroupRecord,
    ) -> Result<Arc<GroupRecord>, FabricError> {
        todo!()
    }

    pub fn group(&self, principal: &Principal, group: &GroupId) -> Result<Arc<GroupRecord>, FabricError> {
        todo!()
    }

    /// Groups in order of id, after `after`.
    pub fn groups(
        &self,
        principal: &Principal,
        after: Option<&GroupId>,
        limit: usize,
    ) -> Result<Vec<Arc<GroupRecord>>, FabricError> {
        todo!()
    }

    /// `acting`: who does it, checked against the group's permissions; `None` in development mode where nobody said.
    pub async fn remove_group(
        &self,
        principal: &Principal,
        acting: Option<&AgentId>,
        group: &GroupId,
    ) -> Result<(), FabricError> {
        todo!()
    }

    pub async fn add_members(
        &self,
        principal: &Principal,
        acting: Option<&AgentId>,
        group: &GroupId,
        members: Vec<AgentId>,
    ) -> Result<Arc<GroupRecord>, FabricError> {
        todo!()
    }

    pub async fn remove_member(
        &self,
        principal: &Principal,
        acting: Option<&AgentId>,
        group: &GroupId,
        member: &AgentId,
    ) -> Result<Arc<GroupRecord>, FabricError> {
        todo!()
    }

    /// A group's messages within its retention, oldest first, after `after`.
    pub async fn group_history(
        &self,
        principal: &Principal,
        group: &GroupId,
        after: Option<TrackingId>,
        limit: usize,
    ) -> Result<Vec<KeptMessage>, FabricError> {
        todo!()
    }

    // --- operations ----------------------------------------------------------------------------------------------

    /// The last envelopes that passed, newest first; `agent` limits them to those from or to it.
    pub async fn passed_envelopes(&self, agent: Option<&AgentId>, limit: usize) -> Vec<PassedEnvelope> {
        todo!()
    }

    pub fn store_stats(&self) -> StoreStats {
        todo!()
    }

    /// Agents with an HTTP endpoint whose inbox has messages and no session; the webhook edge takes them from here, one at a time.
    /// An agent is named again only after a session of it ended or a further message came.
    pub async fn unattended(&self) -> AgentId {
        todo!()
    }

    /// `None` while the node takes traffic, else what is missing.
    pub fn not_ready(&self) -> Option<String> {
        todo!()
    }

    /// Refuses new sessions and messages from now on and tells every session goodbye.
    pub fn drain(&self) {
        todo!()
    }

    /// Waits for the sessions to end (at most `patience`), commits what is under way, stops the workers and closes the store.
    pub async fn stop(&self, patience: Duration) -> Result<(), FabricError> {
        todo!()
    }
}

/// The sending half of a stream. Answers come out of its [`Answers`] in any order, each under its tag.
#[derive(Debug)]
pub struct Publisher(());

impl Publisher {
    /// Takes frames in, drained from `batch`. Waits while the node's workers or this stream's unanswered messages are at their
    /// bound: that is the edge's back-pressure. A tag of `None` wants no answer (QoS 0).
    pub async fn publish(&mut self, batch: &mut Vec<(Option<Tag>, Frame)>) {
        todo!()
    }
}

/// The answers to a stream's messages.
#[derive(Debug)]
pub struct Answers(());

impl Answers {
    /// Waits for answers and appends all that are there; false once the publisher is gone and every answer was given.
    pub async fn next(&mut self, into: &mut Vec<Answer>) -> bool {
        todo!()
    }
}

/// What a session may do besides receiving. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SessionHandle(Arc<()>);

impl SessionHandle {
    pub fn id(&self) -> SessionId {
        todo!()
    }

    pub fn agent(&self) -> &AgentId {
        todo!()
    }

    /// `agent:ID#TOKEN`: replies sent here reach this session.
    pub fn reply_address(&self) -> &Address {
        todo!()
    }

    /// Acknowledges; answers once the settles are committed, in the order given.
    pub async fn ack(&self, ids: &[DeliveryId]) -> Vec<Settled> {
        todo!()
    }

    /// Refuses; answers in the order given.
    pub async fn nack(&self, ids: &[DeliveryId], refusal: Refusal) -> Vec<Settled> {
        todo!()
    }

    /// Acknowledges without waiting for the commit: for edges whose protocol has no answer to an acknowledgement.
    pub fn ack_unanswered(&self, ids: Vec<DeliveryId>) {
        todo!()
    }

    /// Grants an absolute window, capped at the node's own limit.
    pub fn set_window(&self, window: Window) {
        todo!()
    }

    /// Handed out and not settled yet.
    pub fn in_flight(&self) -> Window {
        todo!()
    }

    pub async fn subscribe(&self, filters: Vec<TopicFilter>) -> Result<(), FabricError> {
        todo!()
    }

    pub async fn unsubscribe(&self, filters: Vec<TopicFilter>) -> Result<(), FabricError> {
        todo!()
    }

    /// Ends the session from the edge's side, as dropping the receiver does.
    pub fn close(&self) {
        todo!()
    }
}

/// The receiving half of a session.
#[derive(Debug)]
pub struct SessionReceiver(());

impl SessionReceiver {
    /// Waits for deliveries and appends those that are there, at most `max`, higher priorities first. Cancel safe.
    pub async fn next(&mut self, into: &mut Vec<Delivery>, max: usize) -> SessionEvent {
        todo!()
    }

    /// The deliveries that are there already, without waiting; returns how many.
    pub fn try_next(&mut self, into: &mut Vec<Delivery>, max: usize) -> usize {
        todo!()
    }
}

const _: fn(Goodbye) = |_| ();
