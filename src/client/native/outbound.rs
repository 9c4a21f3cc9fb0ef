//! What a session writes over QUIC: its frames as control frames and batches, everything that queued up in one go.

use std::{
    future::poll_fn,
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;

use super::words;
use crate::{
    client::{
        problem::{wrong, wrong_field},
        session::{Next, Outbound, Shared},
    },
    frame::{
        AgentId, Frame, Priority, Run,
        batch::{Compression, Packer},
        limits::RUN_ENVELOPES_BYTES_MAX,
    },
    native::{
        control::{ResumeKey, ToNode},
        lanes::{LaneError, Lanes},
    },
    rpc::{
        BATCH_BYTES, Parcel, SendFrame, convert,
        v1::{self, client_frame},
    },
};

/// Bytes of a batch beside bodies, for each frame and for its first envelope: what its buffer is sized by.
const FRAME_OVERHEAD_BYTES: usize = 24;
const BATCH_OVERHEAD_BYTES: usize = 512;

/// What the buffer of a batch begins with whose run's entries stand apart, in bytes.
const RUN_ALONE_BYTES: usize = 512;

/// Writes until the session is closed and everything is written, the connection is over, or another took over.
pub(in crate::client) async fn write(outbound: Outbound, lanes: Lanes, resume: ResumeKey, compression: Compression) {
    let mut writer = Writer {
        shared: Arc::clone(outbound.shared()),
        packing: Packing::new(outbound.shared().agent().clone(), compression),
        outbound,
        lanes,
        resume,
    };
    // The reading side sees a lost connection too, and says why.
    let Ok(()) = poll_fn(|context| writer.poll(context)).await else {
        return;
    };
    writer.finish().await;
    // The streams stay open until the reading side has heard the node's last word and drops the connection.
    std::future::pending::<()>().await;
}

struct Writer {
    shared: Arc<Shared>,
    outbound: Outbound,
    packing: Packing,
    lanes: Lanes,
    resume: ResumeKey,
}

/// Why gathering stopped.
#[derive(PartialEq, Eq)]
enum Gathered {
    /// Nothing is left for now.
    All,
    /// The lanes are full.
    Enough,
    /// Nothing comes any more.
    Last,
}

impl Writer {
    /// Ready once nothing is left and nothing comes.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LaneError>> {
        loop {
            let gathered = self.gather(context);
            std::task::ready!(self.lanes.poll_flush(context))?;
            match gathered {
                Gathered::All => return Poll::Pending,
                Gathered::Enough => {}
                Gathered::Last => return Poll::Ready(Ok(())),
            }
        }
    }

    fn gather(&mut self, context: &mut Context<'_>) -> Gathered {
        while self.lanes.has_room() {
            match self.outbound.poll_next_of_all(context) {
                Poll::Pending => return Gathered::All,
                Poll::Ready(None) => return Gathered::Last,
                Poll::Ready(Some(Next::Run(run))) => self.packing.pack_run(&run, &mut self.lanes),
                Poll::Ready(Some(Next::Frame(client_frame::Frame::Send(send)))) => {
                    let refused = self.packing.pack(send, &mut self.lanes);
                    if !refused.is_empty() {
                        self.shared.answer(refused);
                    }
                }
                Poll::Ready(Some(Next::Frame(other))) => {
                    if let Some(frame) = words::to_node(other, self.resume) {
                        self.lanes.control(&frame);
                    }
                }
            }
        }
        Gathered::Enough
    }

    /// The last frame, behind every batch.
    async fn finish(&mut self) {
        self.lanes.finish_batches();
        let streams = self.lanes.streams();
        self.lanes.control(&ToNode::Detach { streams });
        if self.lanes.flush().await.is_ok() {
            self.lanes.finish_control();
        }
    }
}

/// Messages on their way into batches, one for each priority.
struct Packing {
    agent: AgentId,
    compression: Compression,
    /// By [`Priority::index`].
    lanes: [PackingLane; Priority::COUNT],
    parts: Vec<Bytes>,
}

#[derive(Default)]
struct PackingLane {
    packer: Option<Packer>,
    first_tag: u64,
    /// The last message but for its id and body: its twins need no envelope.
    last: Option<v1::Message>,
}

impl PackingLane {
    /// True where the batch goes on with this tag.
    fn takes(&self, tag: u64) -> bool {
        let goes_on = |packer: &Packer| self.first_tag.wrapping_add(packer.frames() as u64) == tag;
        self.packer.as_ref().is_some_and(goes_on)
    }
}

impl Packing {
    fn new(agent: AgentId, compression: Compression) -> Self {
        Self {
            agent,
            compression,
            lanes: Default::default(),
            parts: Vec::new(),
        }
    }

    /// Packs a frame's messages; returns the answers to those that cannot be sent.
    fn pack(&mut self, send: SendFrame, lanes: &mut Lanes) -> Vec<v1::Receipt> {
        let bytes = |parcel: &Parcel| parcel.body_len() + FRAME_OVERHEAD_BYTES;
        let capacity = send.messages.iter().map(bytes).sum::<usize>().min(BATCH_BYTES) + BATCH_OVERHEAD_BYTES;
        let mut refused = Vec::new();
        for (index, parcel) in send.messages.into_iter().enumerate() {
            let tag = send.first_tag.wrapping_add(index as u64);
            let added = parcel
                .into_message()
                .map_err(|error| wrong(error.into()))
                .and_then(|message| self.add(tag, message, capacity, lanes));
            if let Err(problem) = added {
                refused.push(v1::Receipt {
                    tag,
                    result: Some(v1::receipt::Result::Problem(problem)),
                });
            }
        }
        for priority in Priority::DESCENDING {
            self.close(priority, lanes);
        }
        refused
    }

    /// Packs a run: as a batch of its own, which is as long as batches get.
    fn pack_run(&mut self, run: &Run, lanes: &mut Lanes) {
        let mut packer = Packer::with_capacity(RUN_ALONE_BYTES);
        packer.push_run(run, "");
        packer.finish(0, self.compression, &mut self.parts);
        lanes.batch(run.envelope().priority(), &mut self.parts);
    }

    fn add(&mut self, tag: u64, message: v1::Message, capacity: usize, lanes: &mut Lanes) -> Result<(), v1::Problem> {
        let priority = convert::priority(message.priority).map_err(wrong_field)?;
        if !self.lanes[priority.index()].takes(tag) {
            self.close(priority, lanes);
            let lane = &mut self.lanes[priority.index()];
            lane.packer = Some(Packer::with_capacity(capacity));
            lane.first_tag = tag;
        }
        let lane = &mut self.lanes[priority.index()];
        let packer = lane.packer.as_mut().expect("it was made above, unless it was there");
        let is_twin = lane.last.as_ref().is_some_and(|last| are_twins(last, &message));
        if !(is_twin && packer.push_twin(&message.id, &message.body)) {
            let (frame, message) = frame(message, &self.agent)?;
            packer.push(&frame, None, "");
            lane.last = Some(message);
        }
        if packer.bytes() >= BATCH_BYTES || packer.envelope_bytes() >= RUN_ENVELOPES_BYTES_MAX {
            self.close(priority, lanes);
        }
        Ok(())
    }

    fn close(&mut self, priority: Priority, lanes: &mut Lanes) {
        let lane = &mut self.lanes[priority.index()];
        if let Some(packer) = mem::take(&mut lane.packer) {
            packer.finish(lane.first_tag, self.compression, &mut self.parts);
            lanes.batch(priority, &mut self.parts);
        }
    }
}

/// True where two messages differ in nothing but id and body.
fn are_twins(one: &v1::Message, other: &v1::Message) -> bool {
    one.qos == other.qos
        && one.priority == other.priority
        && one.ttl_ms == other.ttl_ms
        && one.protocol_required == other.protocol_required
        && is_same(one.to.as_bytes(), other.to.as_bytes())
        && is_same(one.from.as_bytes(), other.from.as_bytes())
        && is_same(one.reply_to.as_bytes(), other.reply_to.as_bytes())
        && is_same(&one.correlation, &other.correlation)
        && is_same(one.message_type.as_bytes(), other.message_type.as_bytes())
        && is_same(one.content_type.as_bytes(), other.content_type.as_bytes())
        && is_same(one.protocol.as_bytes(), other.protocol.as_bytes())
        && is_same(one.traceparent.as_bytes(), other.traceparent.as_bytes())
        && one.headers.len() == other.headers.len()
        && (one.headers.is_empty() || one.headers == other.headers)
}

/// Most of these are empty, and glibc's AVX-512 `memcmp` takes some hundred cycles to compare nothing at the address that empty
/// texts have: a load that is masked out altogether, from a page that does not exist.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && (one.is_empty() || one == other)
}

/// The message as a frame, and all of it but id and body.
fn frame(message: v1::Message, agent: &AgentId) -> Result<(Frame, v1::Message), v1::Problem> {
    let template = v1::Message {
        id: String::new(),
        body: Bytes::new(),
        ..message.clone()
    };
    let made = || unreachable!("every message of this client has an id");
    let frame = convert::incoming(Parcel::Message(message), Some(agent), made).map_err(wrong)?;
    Ok((frame, template))
}
