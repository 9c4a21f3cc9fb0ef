//! Sending: what every message goes through before a shard has it, and the two ways to send, one by one and as a stream.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use uuid::ContextV7;

use super::{
    ask::{AnswerSink, Ask},
    error::FabricError,
    fabric::Fabric,
    port::Action,
    registry::{CommunicationMode, GroupRecord, PartitionKey},
    surface::{
        Accepted, AcceptedStatus, Answer, Attach, Inbox, Principal, Protocol, SessionEvent, SessionQueue, Tag, Window,
    },
    workers::{Command, Inbound},
};
use crate::{
    delivery::{Publish, QueueKind, Route, Selection},
    frame::{
        Address, AgentId, Capability, Draft, Frame, GroupId, MessageId, Priority, Qos, ShardId, TopicName,
        TraceContext, hash_address,
        limits::BODY_BYTES_MAX,
        record::{IdHash, MessageKey},
    },
    time::{self, Timestamp},
};

/// Unanswered messages of one stream; at the bound the stream is not read further.
const STREAM_UNANSWERED_MAX: usize = 4_096;
/// Requests that wait for their reply on one node; at the bound further ones are refused (429).
const REQUESTS_MAX: usize = 10_000;

thread_local! {
    /// The clock sequence of UUIDv7 ids: one a thread, where the default one is a lock that all threads share.
    static ID_CONTEXT: ContextV7 = const { ContextV7::new() };
}

pub(super) fn new_message_id() -> MessageId {
    let id = ID_CONTEXT.with(|context| uuid::Uuid::new_v7(uuid::Timestamp::now(context)));
    MessageId::new(id.as_hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()))
        .expect("a hyphenated UUID is within the grammar of message ids")
}

/// A message that passed the door, and where it goes.
struct Admitted {
    worker: usize,
    priority: Priority,
    inbound: Inbound,
}

/// Where a message goes, decided from its address.
struct Destination {
    shard: ShardId,
    route: Route,
}

impl Fabric {
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
        if body.len() > BODY_BYTES_MAX {
            return Err(FabricError::BodyTooLarge {
                bytes: body.len(),
                max: self.config().message_bytes_max,
            });
        }
        let mut frame = Frame::new(draft.archive()?, body).expect("the body's size was checked");
        frame.stamp.trace = trace;
        self.send_frame(principal, via, frame).await
    }

    /// [`Fabric::send`] for a frame that is archived already (native clients): only its stamp is set here.
    pub async fn send_frame(
        &self,
        principal: &Principal,
        _via: Protocol,
        frame: Frame,
    ) -> Result<Accepted, FabricError> {
        let (sender, receiver) = oneshot::channel();
        let qos = frame.envelope.qos();
        let mut admitted = self.admit(principal, frame, time::now())?;
        let shard = admitted.inbound.shard;
        admitted.inbound.publish.answer = Some(Ask::Send(sender));
        let command = Command::Publish(vec![admitted.inbound]);
        match self.0.workers.try_push(admitted.worker, admitted.priority, command) {
            Ok(()) => receiver.await.map_err(|_| outcome_unknown())?,
            Err((_, FabricError::Overloaded { .. })) if qos == Qos::AtMostOnce => Ok(dropped(shard)),
            Err((_, error)) => Err(error),
        }
    }

    /// The sending half of a stream: batches in, answers out, without waiting for each.
    pub fn publisher(&self, principal: Principal, _via: Protocol) -> (Publisher, Answers) {
        let (sink, receiver) = AnswerSink::new(STREAM_UNANSWERED_MAX);
        let answers = Answers {
            receiver,
            permits: sink.permits.clone(),
        };
        (
            Publisher {
                fabric: self.clone(),
                principal,
                sink,
                batches: Vec::new(),
            },
            answers,
        )
    }

    /// Sends with a reply address of its own (`draft.reply_to` is overwritten) and waits for the reply.
    pub async fn request(
        &self,
        principal: &Principal,
        via: Protocol,
        mut draft: Draft,
        body: Bytes,
        trace: TraceContext,
        timeout: Duration,
    ) -> Result<Frame, FabricError> {
        let attach = Attach {
            agent: draft.from.clone(),
            protocol: via,
            inbox: Inbox::Closed,
            queue: SessionQueue::Ephemeral,
            window: Window::DEFAULT,
            visibility_timeout: None,
        };
        let (session, mut replies) = self.attach_hidden(principal, attach, REQUESTS_MAX)?;
        draft.reply_to = Some(session.reply_address().clone());
        self.send(principal, via, draft, body, trace).await?;
        let mut deliveries = Vec::with_capacity(1);
        let reply = tokio::time::timeout(timeout, replies.next(&mut deliveries, 1)).await;
        match reply {
            Err(_) => Err(FabricError::ReplyTimeout(timeout)),
            Ok(SessionEvent::Goodbye(_)) => Err(FabricError::Draining),
            Ok(SessionEvent::Deliveries) => {
                let reply = deliveries.pop().ok_or(FabricError::SessionClosed)?;
                session.ack_unanswered(reply.id.into_iter().collect());
                Ok(reply.frame)
            }
        }
    }

    /// Authorizes, validates, stamps and routes one message.
    fn admit(&self, principal: &Principal, mut frame: Frame, now: Timestamp) -> Result<Admitted, FabricError> {
        if self.is_draining() {
            return Err(FabricError::Draining);
        }
        let config = self.config();
        let envelope = &frame.envelope;
        self.check_sender(principal, envelope.from(), envelope.to(), now)?;
        if frame.body.len() > config.message_bytes_max {
            return Err(FabricError::BodyTooLarge {
                bytes: frame.body.len(),
                max: config.message_bytes_max,
            });
        }
        let ttl_ms = match envelope.ttl_ms() {
            0 => config.ttl_default_ms,
            ttl_ms if ttl_ms > config.ttl_max_ms => {
                let detail = format!("is {ttl_ms} ms; at most {} ms are allowed", config.ttl_max_ms);
                return Err(FabricError::invalid("ttl", detail));
            }
            ttl_ms => ttl_ms,
        };
        frame.stamp.accepted_at = now;
        frame.stamp.expires_at = now + Duration::from_millis(ttl_ms);
        let destination = self.route(&frame, now)?;
        let envelope = &frame.envelope;
        let (key, id_hash) = match envelope.qos() {
            // Nothing looks for duplicates of these.
            Qos::AtMostOnce => (MessageKey::from_raw(0), IdHash::from_raw(0)),
            Qos::AtLeastOnce | Qos::ExactlyOnce => {
                let key = MessageKey::new(self.0.store.seed(), envelope.from(), envelope.id());
                (key, IdHash::new(envelope.id()))
            }
        };
        let Destination { shard, route } = destination;
        Ok(Admitted {
            worker: self.0.workers.index_of(shard),
            priority: envelope.priority(),
            inbound: Inbound {
                shard,
                publish: Publish {
                    key,
                    id_hash,
                    route,
                    answer: None,
                    frame,
                },
            },
        })
    }

    /// The sender is the principal and nobody else, is known, and may send there.
    fn check_sender(&self, principal: &Principal, from: &str, to: &str, now: Timestamp) -> Result<(), FabricError> {
        if let Principal::Agent(own) = principal
            && own.as_str() != from
        {
            return Err(FabricError::NotYourself {
                principal: own.clone(),
                claimed: agent_id(from),
            });
        }
        self.know(from, "from_agent", now)?;
        match self.0.policy.decide(from, Action::Send { to }) {
            super::port::Decision::Allow => Ok(()),
            super::port::Decision::Deny => Err(FabricError::Denied {
                agent: agent_id(from),
                action: format!("send to {to}"),
            }),
        }
    }

    /// The agent is known, or becomes so by being named where registration is not required.
    pub(super) fn know(&self, agent: &str, field: &'static str, now: Timestamp) -> Result<(), FabricError> {
        let directory = &self.0.directory;
        let config = self.config();
        if directory.touch(agent, now) {
            let is_enough =
                !config.registration_required || directory.agent(agent).is_some_and(|agent| agent.is_registered());
            return if is_enough {
                Ok(())
            } else {
                Err(FabricError::UnknownAgent(agent_id(agent)))
            };
        }
        if config.registration_required {
            return Err(FabricError::UnknownAgent(agent_id(agent)));
        }
        let id = AgentId::new(agent).map_err(|error| FabricError::invalid(field, error.to_string()))?;
        match directory.name(&id, now, config.unregistered_agents_max) {
            Ok(_) => Ok(()),
            Err(max) => Err(FabricError::TooMany {
                what: "agents that are named but not registered",
                max,
            }),
        }
    }

    fn route(&self, frame: &Frame, now: Timestamp) -> Result<Destination, FabricError> {
        let to = frame.envelope.to();
        let hash = hash_address(to);
        let shard = ShardId::of_hash(hash);
        let (kind, name) = to.split_once(':').unwrap_or_default();
        let envelope = |kind| Route::Envelope {
            hash,
            kind,
            retention: Duration::ZERO,
        };
        let route = match kind {
            "agent" if name.contains('#') => envelope(QueueKind::Ephemeral),
            "agent" => {
                self.know(name, "to_agent", now)?;
                envelope(QueueKind::Inbox)
            }
            "any" => match self.0.directory.has_capability(name) {
                true => envelope(QueueKind::OneOf(Selection::LeastOutstanding)),
                false => return Err(FabricError::UnknownCapability(capability(name))),
            },
            "group" => self.route_to_group(frame, hash, name)?,
            "topic" => self.route_to_topic(hash, name)?,
            _ => unreachable!("an envelope's address was checked when it was validated"),
        };
        Ok(Destination { shard, route })
    }

    fn route_to_topic(&self, hash: u64, name: &str) -> Result<Route, FabricError> {
        let topic = TopicName::new(name).map_err(|error| FabricError::invalid("to_topic", error.to_string()))?;
        if name.starts_with('$') {
            return Err(FabricError::invalid(
                "to_topic",
                "starts with `$`: those topics are the fabric's own",
            ));
        }
        let targets = self.0.directory.topics.matching(&topic).into();
        Ok(Route::FanOut {
            hash,
            targets,
            retention: Duration::ZERO,
        })
    }

    fn route_to_group(&self, frame: &Frame, hash: u64, name: &str) -> Result<Route, FabricError> {
        let unknown = || GroupId::new(name).map_or(FabricError::SessionClosed, FabricError::UnknownGroup);
        let group = self.0.directory.group(name).ok_or_else(unknown)?;
        let record = &group.record;
        check_group_permission(record, frame)?;
        let retention = record.policies.retention();
        if let Some(kind) = group.one_of() {
            return Ok(Route::Envelope { hash, kind, retention });
        }
        let sender = frame.envelope.from();
        let others = || group.inboxes.iter().filter(|inbox| inbox.name() != sender);
        let targets: Arc<[Address]> = match record.communication_mode {
            CommunicationMode::Partitioned => {
                let key = partition_key(&record.partition_key, frame);
                // Rendezvous hashing: a member that comes or goes moves only its own keys.
                let weight = |inbox: &&Address| xxhash_rust::xxh3::xxh3_64_with_seed(&key, inbox.hash64());
                group.inboxes.iter().max_by_key(weight).cloned().into_iter().collect()
            }
            _ => others().cloned().collect(),
        };
        Ok(Route::FanOut {
            hash,
            targets,
            retention,
        })
    }
}

/// Equal keys go to one member, in order. A message without the key that the group names falls back on its sender.
fn partition_key(key: &PartitionKey, frame: &Frame) -> Vec<u8> {
    let found = match key {
        PartitionKey::Sender => None,
        PartitionKey::Header(name) => frame.envelope.header(name).map(|value| value.as_bytes().to_vec()),
        PartitionKey::BodyPointer(pointer) => serde_json::from_slice::<serde_json::Value>(&frame.body)
            .ok()
            .and_then(|body| body.pointer(pointer).map(|value| value.to_string().into_bytes())),
    };
    found.unwrap_or_else(|| frame.envelope.from().as_bytes().to_vec())
}

fn check_group_permission(record: &GroupRecord, frame: &Frame) -> Result<(), FabricError> {
    let sender = frame.envelope.from();
    let is_member = record.agents.iter().any(|member| member.as_str() == sender);
    let is_moderator = record
        .created_by
        .as_ref()
        .is_some_and(|creator| creator.as_str() == sender);
    let permissions = record.policies.member_permissions;
    if is_member && !is_moderator && !permissions.send_messages {
        let action = format!("send to group {}, whose members may not send", record.group_id);
        return Err(FabricError::Denied {
            agent: agent_id(sender),
            action,
        });
    }
    let max = usize::try_from(record.policies.max_message_size).unwrap_or(usize::MAX);
    match frame.body.len() {
        bytes if max > 0 && bytes > max => Err(FabricError::BodyTooLarge { bytes, max }),
        _ => Ok(()),
    }
}

fn agent_id(text: &str) -> AgentId {
    AgentId::new(text).expect("an envelope's ids were checked when it was validated")
}

fn capability(text: &str) -> Capability {
    Capability::new(text).expect("an envelope's address was checked when it was validated")
}

fn dropped(shard: ShardId) -> Accepted {
    Accepted {
        status: AcceptedStatus::Dropped,
        tracking: None,
        duplicate: false,
        recipients: 0,
        shard,
        protocol: None,
        estimated_delivery: None,
    }
}

fn outcome_unknown() -> FabricError {
    FabricError::OutcomeUnknown {
        what: "the node stopped before it answered".into(),
    }
}

/// The sending half of a stream. Answers come out of its [`Answers`] in any order, each under its tag.
#[derive(Debug)]
pub struct Publisher {
    fabric: Fabric,
    principal: Principal,
    sink: Arc<AnswerSink>,
    /// Scratch: what goes to each worker at each priority.
    batches: Vec<(usize, Priority, Vec<Inbound>)>,
}

impl Publisher {
    /// Another sending half of the same stream: its answers come out with this one's, under the same bound. Order holds within
    /// each half.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            fabric: self.fabric.clone(),
            principal: self.principal.clone(),
            sink: self.sink.clone(),
            batches: Vec::new(),
        }
    }

    /// Takes frames in, drained from `batch`. Waits while the node's workers or this stream's unanswered messages are at their
    /// bound: that is the edge's back-pressure. A tag of `None` wants no answer (QoS 0).
    pub async fn publish(&mut self, batch: &mut Vec<(Option<Tag>, Frame)>) {
        let now = time::now();
        for (tag, frame) in batch.drain(..) {
            if tag.is_some() {
                if self.sink.permits.available_permits() == 0 {
                    // The messages before this one must be on their way, or their answers would never come.
                    self.push_batches().await;
                }
                self.take_permit().await;
            }
            match self.fabric.admit(&self.principal, frame, now) {
                Ok(admitted) => self.gather(tag, admitted),
                Err(error) => {
                    if let Some(tag) = tag {
                        self.sink.push((tag, Err(error)));
                    }
                }
            }
        }
        self.push_batches().await;
    }

    /// A permit for one more unanswered message; it comes back when the answer is read.
    async fn take_permit(&self) {
        if let Ok(permit) = self.sink.permits.acquire().await {
            permit.forget();
        }
    }

    fn gather(&mut self, tag: Option<Tag>, admitted: Admitted) {
        let Admitted {
            worker,
            priority,
            mut inbound,
        } = admitted;
        inbound.publish.answer = tag.map(|tag| Ask::Stream {
            sink: self.sink.clone(),
            tag,
        });
        let same = |(w, p, _): &&mut (usize, Priority, Vec<Inbound>)| (*w, *p) == (worker, priority);
        match self.batches.iter_mut().find(same) {
            Some((_, _, gathered)) => gathered.push(inbound),
            None => self.batches.push((worker, priority, vec![inbound])),
        }
    }

    async fn push_batches(&mut self) {
        for (worker, priority, gathered) in std::mem::take(&mut self.batches) {
            let command = Command::Publish(gathered);
            if let Err((Command::Publish(refused), error)) = self.fabric.0.workers.push(worker, priority, command).await
            {
                let asks = refused.into_iter().filter_map(|inbound| inbound.publish.answer);
                asks.for_each(|ask| ask.fail(error.clone()));
            }
        }
    }
}

/// The answers to a stream's messages.
#[derive(Debug)]
pub struct Answers {
    receiver: flume::Receiver<Answer>,
    permits: Arc<Semaphore>,
}

impl Answers {
    /// Waits for answers and appends all that are there; false once the publisher is gone and every answer was given.
    pub async fn next(&mut self, into: &mut Vec<Answer>) -> bool {
        let Ok(first) = self.receiver.recv_async().await else {
            return false;
        };
        let before = into.len();
        into.push(first);
        into.extend(self.receiver.try_iter());
        self.permits.add_permits(into.len() - before);
        true
    }
}
