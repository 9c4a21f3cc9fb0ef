//! Messages that differ in nothing but their bodies, gathered into runs as they are queued. Start at [`Runs`].

use crate::{
    client::{Error, Message, message::FreshId},
    frame::{AgentId, Frame, Run, RunBuilder},
    rpc::{BATCH_BYTES, ITEM_MESSAGES_MAX, Parcel, convert},
};

/// What an entry of a run has beside its body, in bytes, about: what its buffer is sized by.
const ENTRY_OVERHEAD_BYTES: usize = 8;

/// Gathers runs of 64 KiB.
pub(super) struct Runs<'a> {
    template: Message,
    agent: &'a AgentId,
    id: FreshId,
    open: Option<RunBuilder>,
    bytes: usize,
}

impl<'a> Runs<'a> {
    /// Of messages that say what this one does; the agent stands in where it names no sender.
    pub fn new(template: Message, agent: &'a AgentId) -> Self {
        Self {
            template,
            agent,
            id: FreshId::new(),
            open: None,
            bytes: 0,
        }
    }

    /// Messages of the open run.
    pub fn gathered(&self) -> usize {
        self.open.as_ref().map_or(0, RunBuilder::frames)
    }

    /// Adds a message; returns the run that it completes.
    pub fn add(&mut self, body: &[u8]) -> Result<Option<Run>, Error> {
        let id = self.id.next();
        let room = BATCH_BYTES.min(ITEM_MESSAGES_MAX * (body.len() + ENTRY_OVERHEAD_BYTES));
        let mut full = None;
        if !self
            .open
            .as_mut()
            .is_some_and(|builder| builder.push(id.as_bytes(), body, room))
        {
            // None is open, or its envelopes are enough: fresh ids have one length.
            full = self.open.take().map(RunBuilder::finish);
            self.bytes = 0;
            self.open = Some(RunBuilder::new(first(&self.template, id, body, self.agent)?));
        }
        self.bytes += body.len();
        let is_full = self.bytes >= BATCH_BYTES || self.gathered() >= ITEM_MESSAGES_MAX;
        Ok(full.or_else(|| is_full.then(|| self.finish()).flatten()))
    }

    /// The run that is not complete.
    pub fn finish(&mut self) -> Option<Run> {
        self.bytes = 0;
        self.open.take().map(RunBuilder::finish)
    }
}

fn first(template: &Message, id: &str, body: &[u8], agent: &AgentId) -> Result<Frame, Error> {
    let mut message = template.0.clone();
    message.id = id.into();
    message.body = bytes::Bytes::copy_from_slice(body);
    let made = || unreachable!("the message has an id");
    let frame = convert::incoming(Parcel::Message(message), Some(agent), made);
    frame.map_err(|error| Error::from(crate::client::problem::wrong(error)))
}
