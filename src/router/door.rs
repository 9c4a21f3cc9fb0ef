//! Sending: what every message goes through before a shard has it, and the ways to send one. `publisher.rs` sends streams.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::oneshot;
use uuid::ContextV7;

use super::{
    ask::Ask,
    directory::Agent,
    error::FabricError,
    fabric::Fabric,
    port::Action,
    registry::{CommunicationMode, GroupRecord, PartitionKey},
    surface::{Accepted, AcceptedStatus, Attach, Inbox, Principal, Protocol, SessionEvent, SessionQueue, Window},
    workers::{Command, Inbound, Intake},
};
use crate::{
    delivery::{Pass, Publish, QueueKind, Route, Selection},
    frame::{
        Address, AgentId, Capability, Draft, Envelope, Frame, GroupId, MessageId, Priority, Qos, Run, ShardId,
        TopicName, TraceContext, excerpt, hash_address,
        limits::BODY_BYTES_MAX,
        record::{IdHash, MessageKey},
    },
    time::{self, Timestamp},
};

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
pub(super) struct Admitted {
    pub worker: usize,
    pub priority: Priority,
    pub inbound: Inbound,
}

/// QoS 1 messages that passed the door, and what becomes of them.
pub(super) struct Split {
    /// To the queues that take messages as they pass.
    pub passed: Option<Admitted>,
    /// To those that last, message by message.
    pub kept: Vec<Admitted>,
}

/// What the door looks at of the bodies that come with an envelope.
#[derive(Clone, Copy)]
struct Bodies<'a> {
    bytes_max: usize,
    /// Of a run where bodies decide, the only one.
    first: &'a [u8],
}

impl<'a> Bodies<'a> {
    fn of(frame: &'a Frame) -> Self {
        Self {
            bytes_max: frame.body.len(),
            first: &frame.body,
        }
    }

    fn of_run(run: &'a Run) -> Self {
        Self {
            bytes_max: run.body_bytes_max(),
            first: run.first_body(),
        }
    }
}

/// Where a message goes, decided from its address.
struct Destination {
    shard: ShardId,
    route: Route,
    /// How many of the targets take messages as they pass: the last ones.
    passing: usize,
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
        let frame = self.archived(&draft, body, trace)?;
        self.send_frame(principal, via, frame).await
    }

    fn archived(&self, draft: &Draft, body: Bytes, trace: TraceContext) -> Result<Frame, FabricError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(FabricError::BodyTooLarge {
                bytes: body.len(),
                max: self.config().message_bytes_max,
            });
        }
        let mut frame = Frame::new(draft.archive()?, body).expect("the body's size was checked");
        frame.stamp.trace = trace;
        Ok(frame)
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
        let mut admitted = match qos {
            Qos::AtMostOnce => self.admit_run(principal, Run::one(frame), time::now())?,
            Qos::AtLeastOnce | Qos::ExactlyOnce => self.admit(principal, frame, time::now())?,
        };
        let shard = admitted.inbound.shard;
        admitted.inbound.intake.set_answer(Ask::Send(sender));
        let command = Command::Publish(vec![admitted.inbound]);
        match self.0.workers.try_push(admitted.worker, admitted.priority, command) {
            Ok(()) => receiver.await.map_err(|_| outcome_unknown())?,
            Err((_, FabricError::Overloaded { .. })) if qos == Qos::AtMostOnce => Ok(dropped(shard)),
            Err((_, error)) => Err(error),
        }
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
        let frame = self.archived(&draft, body, trace)?;
        self.request_frame(principal, via, frame, timeout).await
    }

    /// [`Fabric::request`] for a frame that is archived already.
    pub async fn request_frame(
        &self,
        principal: &Principal,
        via: Protocol,
        mut frame: Frame,
        timeout: Duration,
    ) -> Result<Frame, FabricError> {
        let attach = Attach {
            agent: agent_id(frame.envelope.from()),
            protocol: via,
            inbox: Inbox::Closed,
            queue: SessionQueue::Ephemeral,
            window: Window::DEFAULT,
            visibility_timeout: None,
        };
        let (session, mut replies) = self.attach_hidden(principal, attach, REQUESTS_MAX)?;
        frame.envelope = frame.envelope.replying_to(session.reply_address())?;
        self.send_frame(principal, via, frame).await?;
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

    /// Authorizes, validates, stamps and routes one QoS 1 or 2 message.
    pub(super) fn admit(
        &self,
        principal: &Principal,
        mut frame: Frame,
        now: Timestamp,
    ) -> Result<Admitted, FabricError> {
        frame.stamp.accepted_at = now;
        let (destination, expires_at) = self.pass_door(principal, &frame.envelope, Bodies::of(&frame), now)?;
        frame.stamp.expires_at = expires_at;
        Ok(self.kept(frame, destination.shard, destination.route))
    }

    fn kept(&self, frame: Frame, shard: ShardId, route: Route) -> Admitted {
        let envelope = &frame.envelope;
        let priority = envelope.priority();
        let publish = Publish {
            key: MessageKey::new(self.0.store.seed(), envelope.from(), envelope.id()),
            id_hash: IdHash::new(envelope.id()),
            route,
            answer: None,
            frame,
        };
        self.admitted(shard, priority, Intake::Keep(Box::new(publish)))
    }

    /// Authorizes, validates, stamps and routes QoS 0 messages: what holds for one of them holds for all, except where their bodies
    /// decide ([`Fabric::routes_by_body`]).
    pub(super) fn admit_run(
        &self,
        principal: &Principal,
        mut run: Run,
        now: Timestamp,
    ) -> Result<Admitted, FabricError> {
        run.stamp.accepted_at = now;
        let (destination, expires_at) = self.pass_door(principal, run.envelope(), Bodies::of_run(&run), now)?;
        run.stamp.expires_at = expires_at;
        Ok(self.passed(run, destination.shard, destination.route))
    }

    fn passed(&self, run: Run, shard: ShardId, route: Route) -> Admitted {
        let priority = run.envelope().priority();
        let answer = None;
        self.admitted(shard, priority, Intake::Pass(Pass { run, route, answer }))
    }

    /// Authorizes, validates, stamps and routes QoS 1 messages of which some queues need nothing kept. A queue that takes them as they
    /// pass takes all of a sender's so, whatever else they go to: so their order holds.
    pub(super) fn admit_split(
        &self,
        principal: &Principal,
        mut run: Run,
        now: Timestamp,
    ) -> Result<Split, FabricError> {
        if !run.envelope().to().starts_with("topic:") {
            let kept = run.iter().map(|frame| self.admit(principal, frame, now));
            return Ok(Split {
                passed: None,
                kept: kept.collect::<Result<_, _>>()?,
            });
        }
        run.stamp.accepted_at = now;
        let (destination, expires_at) = self.pass_door(principal, run.envelope(), Bodies::of_run(&run), now)?;
        run.stamp.expires_at = expires_at;
        let Destination { shard, route, passing } = destination;
        let Route::FanOut {
            hash,
            targets,
            retention,
        } = route
        else {
            unreachable!("a topic fans out");
        };
        let part = |targets: &[Address]| Route::FanOut {
            hash,
            targets: targets.into(),
            retention,
        };
        let (lasting, passing) = targets.split_at(targets.len() - passing);
        let route = match lasting {
            [] => None,
            [target] => Some(Route::Straight {
                hash,
                target: target.clone(),
            }),
            _ => Some(part(lasting)),
        };
        let keep = |route: Route| run.iter().map(move |frame| self.kept(frame, shard, route.clone()));
        let kept: Vec<_> = route.map(keep).into_iter().flatten().collect();
        // Also where nobody is there at all: nothing is kept for nobody.
        let passed = (kept.is_empty() || !passing.is_empty()).then(|| self.passed(run, shard, part(passing)));
        Ok(Split { passed, kept })
    }

    fn admitted(&self, shard: ShardId, priority: Priority, intake: Intake) -> Admitted {
        Admitted {
            worker: self.0.workers.index_of(shard),
            priority,
            inbound: Inbound { shard, intake },
        }
    }

    /// True where messages go to one member or another by what their bodies say.
    pub(super) fn routes_by_body(&self, to: &str) -> bool {
        let group = to.strip_prefix("group:").and_then(|name| self.0.directory.group(name));
        group.is_some_and(|group| {
            group.record.communication_mode == CommunicationMode::Partitioned
                && matches!(group.record.partition_key, PartitionKey::BodyPointer(_))
        })
    }

    /// Whether a frame would get in, and when it would expire: what is asked of one that is to be retained.
    pub(super) fn judge(&self, principal: &Principal, frame: &Frame, now: Timestamp) -> Result<Timestamp, FabricError> {
        let judged = self.pass_door(principal, &frame.envelope, Bodies::of(frame), now);
        judged.map(|(_, expires_at)| expires_at)
    }

    /// Decides whether messages of one envelope get in, where they go and when they expire.
    fn pass_door(
        &self,
        principal: &Principal,
        envelope: &Envelope,
        bodies: Bodies<'_>,
        now: Timestamp,
    ) -> Result<(Destination, Timestamp), FabricError> {
        if self.is_draining() {
            return Err(FabricError::Draining);
        }
        let config = self.config();
        self.check_sender(principal, envelope.from(), envelope.to(), now)?;
        if bodies.bytes_max > config.message_bytes_max {
            return Err(FabricError::BodyTooLarge {
                bytes: bodies.bytes_max,
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
        let destination = self.route(envelope, bodies, now)?;
        Ok((destination, now + Duration::from_millis(ttl_ms)))
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
                action: format!("send to {}", excerpt(to)),
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
        self.name(&id, now, |_| ())
    }

    /// Makes an agent known by being named, where registration is not required, and does something with it before anyone can forget it.
    pub(super) fn name<T>(
        &self,
        agent: &AgentId,
        now: Timestamp,
        then: impl FnOnce(&Arc<Agent>) -> T,
    ) -> Result<T, FabricError> {
        let config = self.config();
        if config.registration_required {
            return Err(FabricError::UnknownAgent(agent.clone()));
        }
        let named = self
            .0
            .directory
            .name_then(agent, now, config.unregistered_agents_max, then);
        named.map_err(|max| FabricError::TooMany {
            what: "agents that are named but not registered",
            max,
        })
    }

    fn route(&self, envelope: &Envelope, bodies: Bodies<'_>, now: Timestamp) -> Result<Destination, FabricError> {
        let to = envelope.to();
        let hash = hash_address(to);
        let shard = ShardId::of_hash(hash);
        let (kind, name) = to.split_once(':').unwrap_or_default();
        let one_queue = |kind| Route::Envelope {
            hash,
            kind,
            retention: Duration::ZERO,
        };
        let route = match kind {
            "agent" if name.contains('#') => one_queue(QueueKind::Ephemeral),
            "agent" => {
                self.know(name, "to_agent", now)?;
                one_queue(QueueKind::Inbox)
            }
            "any" => match self.0.directory.has_capability(name) {
                true => one_queue(QueueKind::OneOf(Selection::LeastOutstanding)),
                false => return Err(FabricError::UnknownCapability(capability(name))),
            },
            "group" => self.route_to_group(envelope, bodies, hash, name)?,
            "topic" => return self.route_to_topic(envelope.to(), shard, hash, name),
            _ => unreachable!("an envelope's address was checked when it was validated"),
        };
        Ok(Destination {
            shard,
            route,
            passing: 0,
        })
    }

    fn route_to_topic(&self, to: &str, shard: ShardId, hash: u64, name: &str) -> Result<Destination, FabricError> {
        let topic = TopicName::new(name).map_err(|error| FabricError::invalid("to_topic", error.to_string()))?;
        if is_reserved(name) {
            return Err(FabricError::invalid(
                "to_topic",
                "stands below `$SYS`, `$share` or `$weft`: those topics are the fabric's own",
            ));
        }
        // Copies that no consumer may have would wait in their queues, and fill them.
        let found = match self.0.policy.is_closed(to) {
            true => Vec::new(),
            false => self.0.directory.topics.matching(&topic),
        };
        let passing = found.iter().filter(|subscriber| subscriber.passes).count();
        let targets = found.into_iter().map(|subscriber| subscriber.queue).collect();
        let route = Route::FanOut {
            hash,
            targets,
            retention: Duration::ZERO,
        };
        Ok(Destination { shard, route, passing })
    }

    fn route_to_group(
        &self,
        envelope: &Envelope,
        bodies: Bodies<'_>,
        hash: u64,
        name: &str,
    ) -> Result<Route, FabricError> {
        let unknown = || GroupId::new(name).map_or(FabricError::SessionClosed, FabricError::UnknownGroup);
        let group = self.0.directory.group(name).ok_or_else(unknown)?;
        let record = &group.record;
        check_group_permission(record, envelope.from(), bodies.bytes_max)?;
        let retention = record.policies.retention();
        if let Some(kind) = group.one_of() {
            return Ok(Route::Envelope { hash, kind, retention });
        }
        let sender = envelope.from();
        let others = || group.inboxes.iter().filter(|inbox| inbox.name() != sender);
        let targets: Arc<[Address]> = match record.communication_mode {
            CommunicationMode::Partitioned => {
                let key = partition_key(&record.partition_key, envelope, bodies.first);
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

/// Topics that nobody publishes to.
pub(super) fn is_reserved(topic: &str) -> bool {
    matches!(topic.split('/').next(), Some("$SYS" | "$share" | "$weft"))
}

/// Equal keys go to one member, in order. A message without the key that the group names falls back on its sender.
fn partition_key(key: &PartitionKey, envelope: &Envelope, body: &[u8]) -> Vec<u8> {
    let found = match key {
        PartitionKey::Sender => None,
        PartitionKey::Header(name) => envelope.header(name).map(|value| value.as_bytes().to_vec()),
        PartitionKey::BodyPointer(pointer) => serde_json::from_slice::<serde_json::Value>(body)
            .ok()
            .and_then(|body| body.pointer(pointer).map(|value| value.to_string().into_bytes())),
    };
    found.unwrap_or_else(|| envelope.from().as_bytes().to_vec())
}

fn check_group_permission(record: &GroupRecord, sender: &str, body_bytes: usize) -> Result<(), FabricError> {
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
    match body_bytes {
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
