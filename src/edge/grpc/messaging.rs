//! The `Messaging` service: the single calls, and the door to the stream.

use std::{mem, time::Duration};

use tonic::{Request, Response, Status, Streaming};

use super::{
    Edge,
    error::{invalid, problem, status},
    identify::principal,
    poll::Ask,
    show, stream,
};
use crate::{
    edge::{auth::proven_agent, counters::Counters},
    frame::{Address, AgentId, Frame, MessageId},
    router::{
        Fabric,
        error::FabricError,
        surface::{Answer, POLL_QUEUE, Principal, Protocol, Sending, StatusQuery, Tag},
    },
    rpc::{
        ITEM_MESSAGES_MAX, Parcel,
        convert::{FieldError, IncomingError, incoming, known, optional, required},
        v1,
    },
};

/// Deliveries of one Receive where the caller names no number, and at most.
const RECEIVE_DEFAULT: u32 = 10;
const RECEIVE_MAX: u32 = 100;
/// Longest wait of a Receive.
const RECEIVE_WAIT_MAX: Duration = Duration::from_secs(60);
/// Visibility timeout where the caller names none, and at most.
const VISIBILITY_DEFAULT: Duration = Duration::from_secs(30);
const VISIBILITY_MAX: Duration = Duration::from_secs(12 * 3600);
/// How long a Request waits for its reply where the caller does not say, and at most.
const REQUEST_DEFAULT: Duration = Duration::from_secs(30);
const REQUEST_MAX: Duration = Duration::from_secs(300);

#[tonic::async_trait]
impl v1::messaging_server::Messaging for Edge {
    type SessionStream = stream::ServerFrames;

    async fn session(
        &self,
        request: Request<Streaming<v1::ClientFrame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let principal = principal(&request)?;
        let frames = stream::open(&self.door, principal, request.into_inner(), self.shutdown.clone());
        let mut response = Response::new(frames);
        // Item by item it costs far more than it saves: see `Config::compress_answers`.
        response.disable_compression();
        Ok(response)
    }

    async fn send(&self, request: Request<v1::SendRequest>) -> Result<Response<v1::SendResponse>, Status> {
        let principal = principal(&request)?;
        let message = request.into_inner().message;
        let frame = self.incoming(&principal, message).map_err(status)?;
        let message_id = frame.envelope.id().to_owned();
        Counters::add(&self.door.counters.messages_in, 1);
        let sent = self.door.fabric.send_frame(&principal, Protocol::Grpc, frame);
        let accepted = sent.await.map_err(status)?;
        Ok(self.answer(v1::SendResponse {
            message_id,
            tracking_id: accepted
                .tracking
                .map_or_else(String::new, |tracking| tracking.to_string()),
            accepted: Some(show::accepted(&accepted)),
            node: self.door.fabric.config().node_id.clone(),
        }))
    }

    async fn send_batch(
        &self,
        request: Request<v1::SendBatchRequest>,
    ) -> Result<Response<v1::SendBatchResponse>, Status> {
        let principal = principal(&request)?;
        let messages = request.into_inner().messages;
        check_count("messages", messages.len()).map_err(wrong)?;
        Counters::add(&self.door.counters.messages_in, messages.len());
        let (message_ids, receipts) = self.send_all(principal, messages).await;
        Ok(self.answer(v1::SendBatchResponse { receipts, message_ids }))
    }

    async fn receive(&self, request: Request<v1::ReceiveRequest>) -> Result<Response<v1::ReceiveResponse>, Status> {
        let principal = principal(&request)?;
        let request = request.into_inner();
        let (agent, acks, ask) = ask(request).map_err(wrong)?;
        let (handle, deliveries) = self.polls.receive(&principal, &agent, ask).await.map_err(status)?;
        Counters::add(&self.door.counters.messages_out, deliveries.len());
        let ids = deliveries.iter().filter_map(|one| one.id).collect();
        let inbox = Address::agent(&agent);
        let answer = v1::ReceiveResponse {
            deliveries: deliveries
                .into_iter()
                .map(|one| show::delivery(one, inbox.as_str()))
                .collect(),
        };
        match acks {
            v1::AckMode::Unspecified | v1::AckMode::Manual => {}
            v1::AckMode::Auto => handle.ack_unanswered(ids),
        }
        Ok(self.answer(answer))
    }

    async fn ack(&self, request: Request<v1::AckRequest>) -> Result<Response<v1::SettleResponse>, Status> {
        let principal = principal(&request)?;
        let request = request.into_inner();
        let agent = agent_id(&request.agent).map_err(wrong)?;
        let ids = show::delivery_ids(request.ids).map_err(wrong)?;
        let settled = self.door.fabric.ack(&principal, &agent, &ids).await.map_err(status)?;
        Ok(self.answer(v1::SettleResponse {
            failures: show::failures(settled),
        }))
    }

    async fn nack(&self, request: Request<v1::NackRequest>) -> Result<Response<v1::SettleResponse>, Status> {
        let principal = principal(&request)?;
        let request = request.into_inner();
        let agent = agent_id(&request.agent).map_err(wrong)?;
        let ids = show::delivery_ids(request.ids).map_err(wrong)?;
        let refusal = show::refusal(request.refusal).map_err(wrong)?;
        let settled = self.door.fabric.nack(&principal, &agent, &ids, refusal).await;
        Ok(self.answer(v1::SettleResponse {
            failures: show::failures(settled.map_err(status)?),
        }))
    }

    async fn request(&self, request: Request<v1::RequestRequest>) -> Result<Response<v1::RequestResponse>, Status> {
        let principal = principal(&request)?;
        let request = request.into_inner();
        let patience = span("timeout_ms", request.timeout_ms, REQUEST_DEFAULT, REQUEST_MAX).map_err(wrong)?;
        let frame = self.incoming(&principal, request.message).map_err(status)?;
        Counters::add(&self.door.counters.messages_in, 1);
        let reply = self
            .door
            .fabric
            .request_frame(&principal, Protocol::Grpc, frame, patience);
        let reply = reply.await.map_err(status)?;
        Counters::add(&self.door.counters.messages_out, 1);
        Ok(self.answer(show::reply(&reply)))
    }

    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let principal = principal(&request)?;
        let query = query(request.into_inner()).map_err(wrong)?;
        let found = self.door.fabric.status(&principal, query).await.map_err(status)?;
        Ok(self.answer(show::message_status(&found)))
    }

    async fn list_dead_letters(
        &self,
        request: Request<v1::ListDeadLettersRequest>,
    ) -> Result<Response<v1::ListDeadLettersResponse>, Status> {
        let principal = principal(&request)?;
        let request = request.get_ref();
        let address = address(&request.address).map_err(wrong)?;
        let size = show::page_size(request.page_size).map_err(wrong)?;
        let after = optional("page_token", &request.page_token, show::tracking).map_err(wrong)?;
        let letters = self.door.fabric.dead_letters(&principal, &address, after, size);
        let letters = letters.await.map_err(status)?;
        Ok(self.answer(v1::ListDeadLettersResponse {
            next_page_token: show::next_token(&letters, size, |last| last.tracking.to_string()),
            dead_letters: letters.iter().map(show::kept).collect(),
        }))
    }

    async fn replay_dead_letter(
        &self,
        request: Request<v1::ReplayDeadLetterRequest>,
    ) -> Result<Response<v1::ReplayDeadLetterResponse>, Status> {
        let principal = principal(&request)?;
        let request = request.get_ref();
        let address = address(&request.address).map_err(wrong)?;
        let message = required("message_id", &request.message_id, |text| MessageId::new(text)).map_err(wrong)?;
        let replayed = self.door.fabric.replay_dead_letter(&principal, &address, &message);
        Ok(self.answer(v1::ReplayDeadLetterResponse {
            tracking_id: replayed.await.map_err(status)?.to_string(),
        }))
    }
}

impl Edge {
    fn incoming(&self, principal: &Principal, message: Option<v1::Message>) -> Result<Frame, FabricError> {
        let message = message.ok_or_else(|| FabricError::invalid("message", "is missing"))?;
        frame(&self.door.fabric, Parcel::Message(message), proven_agent(principal))
    }

    /// Sends many and answers each: those whose form is wrong at once, the others as the fabric answers.
    async fn send_all(&self, principal: Principal, messages: Vec<v1::Message>) -> (Vec<String>, Vec<v1::Receipt>) {
        let sender = proven_agent(&principal).cloned();
        let (mut publisher, mut answers) = self.door.fabric.publisher(principal, Protocol::Grpc);
        let mut ids = vec![String::new(); messages.len()];
        let mut given = Vec::with_capacity(messages.len());
        let mut batch = Vec::with_capacity(messages.len());
        for (index, message) in messages.into_iter().enumerate() {
            let tag = index as Tag;
            match frame(&self.door.fabric, Parcel::Message(message), sender.as_ref()) {
                Ok(frame) => {
                    ids[index] = frame.envelope.id().into();
                    batch.push(Sending::one(tag, frame, true));
                }
                Err(refusal) => given.push((tag, Err(refusal))),
            }
        }
        // Side by side: the publisher waits where too much is unanswered, and the answers end once it is gone.
        let publishing = async move { publisher.publish(&mut batch).await };
        let answering = async { while answers.next(&mut given).await {} };
        tokio::join!(publishing, answering);
        let receipts = receipts(given, ids.len());
        (ids, receipts)
    }
}

/// One receipt a message, in order; a message that the fabric never answered is of unknown outcome.
fn receipts(given: Vec<Answer>, count: usize) -> Vec<v1::Receipt> {
    let unknown = |tag: usize| v1::Receipt {
        tag: tag as Tag,
        result: Some(v1::receipt::Result::Problem(problem(&FabricError::OutcomeUnknown {
            what: "the node gave no answer".into(),
        }))),
    };
    let mut receipts: Vec<_> = (0..count).map(unknown).collect();
    for answer in given {
        let place = usize::try_from(answer.0).ok().and_then(|tag| receipts.get_mut(tag));
        if let Some(place) = place {
            let _unknown = mem::replace(place, show::receipt(answer));
        }
    }
    receipts
}

/// A message as a checked frame.
pub fn frame(fabric: &Fabric, parcel: Parcel, sender: Option<&AgentId>) -> Result<Frame, FabricError> {
    incoming(parcel, sender, || fabric.new_message_id()).map_err(|error| match error {
        IncomingError::Field(error) => invalid(error),
        IncomingError::Envelope(error) => error.into(),
        IncomingError::Malformed(_) => FabricError::invalid("message", error.to_string()),
        IncomingError::BodyTooLarge { bytes } => FabricError::BodyTooLarge {
            bytes,
            max: fabric.config().message_bytes_max,
        },
    })
}

fn wrong(error: FieldError) -> Status {
    status(invalid(error))
}

fn agent_id(text: &str) -> Result<AgentId, FieldError> {
    required("agent", text, |text| AgentId::new(text))
}

fn address(text: &str) -> Result<Address, FieldError> {
    required("address", text, str::parse)
}

/// Refuses more than one item may hold.
pub fn check_count(field: &'static str, count: usize) -> Result<(), FieldError> {
    if count > ITEM_MESSAGES_MAX {
        let detail = format!("has {count} entries; at most {ITEM_MESSAGES_MAX} are allowed");
        return Err(FieldError::new(field, detail));
    }
    Ok(())
}

/// A span in milliseconds: the default for 0, refused above the longest.
fn span(field: &'static str, millis: u64, default: Duration, max: Duration) -> Result<Duration, FieldError> {
    match Duration::from_millis(millis) {
        Duration::ZERO => Ok(default),
        span if span > max => {
            let detail = format!("is {millis}; at most {} are allowed", max.as_millis());
            Err(FieldError::new(field, detail))
        }
        span => Ok(span),
    }
}

fn ask(request: v1::ReceiveRequest) -> Result<(AgentId, v1::AckMode, Ask), FieldError> {
    let max = match request.messages_max {
        0 => RECEIVE_DEFAULT,
        max if max > RECEIVE_MAX => {
            let detail = format!("is {max}; at most {RECEIVE_MAX} are allowed");
            return Err(FieldError::new("messages_max", detail));
        }
        max => max,
    };
    let ask = Ask {
        max: max as usize,
        wait: span("wait_ms", request.wait_ms, Duration::ZERO, RECEIVE_WAIT_MAX)?,
        visibility_timeout: span(
            "visibility_timeout_ms",
            request.visibility_timeout_ms,
            VISIBILITY_DEFAULT,
            VISIBILITY_MAX,
        )?,
        durable_queue: match request.durable_queue {
            unnamed if unnamed.is_empty() => POLL_QUEUE.into(),
            token => token,
        },
    };
    Ok((agent_id(&request.agent)?, known("ack_mode", request.ack_mode)?, ask))
}

fn query(request: v1::GetStatusRequest) -> Result<StatusQuery, FieldError> {
    let from = optional("from", &request.from, |text| AgentId::new(text))?;
    match request.query {
        Some(v1::get_status_request::Query::TrackingId(text)) => {
            Ok(StatusQuery::Tracking(required("tracking_id", &text, show::tracking)?))
        }
        Some(v1::get_status_request::Query::MessageId(text)) => Ok(StatusQuery::Message {
            id: required("message_id", &text, |text| MessageId::new(text))?,
            from,
        }),
        None => Err(FieldError::new(
            "query",
            "is missing: name a tracking_id or a message_id",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_beyond_a_bound_is_refused_by_name() {
        let request = || v1::ReceiveRequest {
            agent: "a".into(),
            ..Default::default()
        };
        let (_, acks, defaults) = ask(request()).unwrap();
        assert_eq!(
            (acks, defaults.max, defaults.wait),
            (v1::AckMode::Unspecified, 10, Duration::ZERO)
        );
        assert_eq!(defaults.visibility_timeout, VISIBILITY_DEFAULT);
        let refuse = |change: fn(&mut v1::ReceiveRequest)| {
            let mut request = request();
            change(&mut request);
            ask(request).unwrap_err().field
        };
        assert_eq!(refuse(|r| r.messages_max = 101), "messages_max");
        assert_eq!(refuse(|r| r.wait_ms = 60_001), "wait_ms");
        assert_eq!(refuse(|r| r.visibility_timeout_ms = u64::MAX), "visibility_timeout_ms");
        assert_eq!(refuse(|r| r.ack_mode = 7), "ack_mode");
        assert_eq!(refuse(|r| r.agent = String::new()), "agent");
    }

    #[test]
    fn every_message_of_a_batch_has_one_receipt_in_order_even_without_an_answer() {
        let refused = |tag| (tag, Err(FabricError::SessionClosed));
        let receipts = receipts(vec![refused(2), refused(0)], 3);
        assert_eq!(
            receipts.iter().map(|receipt| receipt.tag).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        let codes: Vec<_> = receipts
            .iter()
            .map(|receipt| match &receipt.result {
                Some(v1::receipt::Result::Problem(problem)) => problem.code.as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(codes, ["WEFT-1402", "WEFT-1500", "WEFT-1402"]);
    }
}
