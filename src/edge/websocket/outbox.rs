//! A session's sends on their way to the door: taken in order, answered as answers come.
//!
//! The publisher is made with the first send, so that a session which only receives costs nothing here. Knows no socket.
//! Start at [`Outbox::push`] and [`Outbox::progress`].

use std::{collections::HashMap, future, time::Instant};

use futures_util::{FutureExt, future::BoxFuture};

use super::operation::Reference;
use crate::{
    edge::json::{Problem, Receipt, SendRequest, receipt},
    frame::{Frame, Qos},
    router::{
        Answers, Fabric, Publisher,
        error::FabricError,
        surface::{Accepted, Principal, Protocol, Sending, Tag},
    },
    time::monotonic,
};

type Batch = Vec<Sending>;

/// A send whose answer is to come.
#[derive(Debug)]
struct Asked {
    reference: Option<Reference>,
    message_id: String,
    since: Instant,
}

/// The answer to a send.
#[derive(Debug)]
pub(super) struct Answered {
    pub reference: Option<Reference>,
    pub result: Result<Receipt, Problem>,
    pub since: Instant,
}

/// The publisher: none yet, at hand, or inside the future that hands it a batch.
enum Door {
    Unopened,
    Idle(Publisher),
    Busy(BoxFuture<'static, (Publisher, Batch)>),
}

/// A session's sends.
pub(super) struct Outbox {
    fabric: Fabric,
    principal: Principal,
    door: Door,
    answers: Option<Answers>,
    /// Read, and not handed to the door yet.
    waiting: Batch,
    asked: HashMap<Tag, Asked>,
    next_tag: Tag,
}

impl Outbox {
    /// Sends are `principal`'s own.
    pub(super) fn new(fabric: Fabric, principal: Principal) -> Self {
        Self {
            fabric,
            principal,
            door: Door::Unopened,
            answers: None,
            waiting: Vec::new(),
            asked: HashMap::new(),
            next_tag: 0,
        }
    }

    /// Sends that wait for their answer.
    pub(super) fn unanswered(&self) -> usize {
        self.asked.len()
    }

    /// True where everything that was pushed was taken in.
    pub(super) fn is_handed_over(&self) -> bool {
        self.waiting.is_empty() && !matches!(self.door, Door::Busy(_))
    }

    /// Takes a send. At QoS 0 and without a `ref` nobody waits for an answer; every other send gets one.
    pub(super) fn push(&mut self, reference: Option<&Reference>, request: SendRequest) -> Result<(), Problem> {
        let message_id = request.draft.id.to_string();
        let wants_answer = reference.is_some() || request.draft.qos != Qos::AtMostOnce;
        let envelope = request.draft.archive().map_err(FabricError::from)?;
        let body_bytes = request.body.len();
        let mut frame = Frame::new(envelope, request.body).map_err(|_| FabricError::BodyTooLarge {
            bytes: body_bytes,
            max: self.fabric.config().message_bytes_max,
        })?;
        frame.stamp.trace = request.trace;
        let tag = self.next_tag;
        if wants_answer {
            self.next_tag += 1;
            let asked = Asked {
                reference: reference.cloned(),
                message_id,
                since: monotonic(),
            };
            self.asked.insert(tag, asked);
        }
        self.waiting.push(Sending::one(tag, frame, wants_answer));
        Ok(())
    }

    /// Hands on what waits, as far as the door is free.
    fn hand_on(&mut self) {
        if self.waiting.is_empty() || matches!(self.door, Door::Busy(_)) {
            return;
        }
        let mut publisher = match std::mem::replace(&mut self.door, Door::Unopened) {
            Door::Idle(publisher) => publisher,
            Door::Unopened | Door::Busy(_) => {
                let (publisher, answers) = self.fabric.publisher(self.principal.clone(), Protocol::WebSocket);
                self.answers = Some(answers);
                publisher
            }
        };
        let mut batch = std::mem::take(&mut self.waiting);
        // The future owns what it works on: a select that looks elsewhere meanwhile cannot lose a part of the batch.
        self.door = Door::Busy(Box::pin(async move {
            publisher.publish(&mut batch).await;
            (publisher, batch)
        }));
    }

    /// Waits until the door took a batch or gave answers; appends the answers. Cancel safe. Never returns while there is nothing to wait for.
    pub(super) async fn progress(&mut self, into: &mut Vec<Answered>) {
        self.hand_on();
        let mut given = Vec::new();
        tokio::select! {
            (publisher, rest) = taken(&mut self.door) => {
                debug_assert!(rest.is_empty(), "publish drains its batch");
                self.door = Door::Idle(publisher);
                // An idle session keeps no room for a batch.
                if self.waiting.is_empty() {
                    self.waiting = Vec::new();
                }
            }
            is_open = next(&mut self.answers, &mut given) => {
                if !is_open {
                    self.answers = None;
                }
                self.match_up(given, into);
            }
        }
    }

    /// The answers that are there already.
    pub(super) fn ready(&mut self, into: &mut Vec<Answered>) {
        let mut given = Vec::new();
        if next(&mut self.answers, &mut given).now_or_never() == Some(false) {
            self.answers = None;
        }
        self.match_up(given, into);
    }

    fn match_up(&mut self, given: Vec<(Tag, Result<Accepted, FabricError>)>, into: &mut Vec<Answered>) {
        for (tag, result) in given {
            let Some(asked) = self.asked.remove(&tag) else { continue };
            let result = match result {
                Ok(accepted) => Ok(receipt(&accepted, &asked.message_id, &self.fabric.config().node_id)),
                Err(error) => Err(Problem::from(error).with_extension("message_id", quoted(&asked.message_id))),
            };
            into.push(Answered {
                reference: asked.reference,
                result,
                since: asked.since,
            });
        }
        if self.asked.is_empty() {
            self.asked = HashMap::new();
        }
    }
}

fn quoted(text: &str) -> Box<serde_json::value::RawValue> {
    serde_json::value::to_raw_value(text).expect("a text is JSON")
}

async fn taken(door: &mut Door) -> (Publisher, Batch) {
    match door {
        Door::Busy(publishing) => publishing.await,
        Door::Unopened | Door::Idle(_) => future::pending().await,
    }
}

async fn next(answers: &mut Option<Answers>, into: &mut Vec<(Tag, Result<Accepted, FabricError>)>) -> bool {
    match answers {
        Some(answers) => answers.next(into).await,
        None => future::pending().await,
    }
}
