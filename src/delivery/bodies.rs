//! Which messages have their bytes in memory.
//!
//! Owns the count of cached bytes; every frame enters and leaves a message here. What waits is compacted once, so that it does not pin
//! the read buffer that it came in; above the budget the stored ones that begin to wait let go of their bytes, which are read again when
//! they come near the head of their lane. What is handed out keeps nothing: a second delivery reads it again.

use super::{
    message::{Message, Stored},
    state::ShardState,
};
use crate::frame::{Frame, Seq};

impl<A> ShardState<A> {
    /// Bytes of messages that the shard may keep in memory beside the store, a soft bound: what committing messages, in-memory queues
    /// and reads near the head of a lane need is beyond it. Counts for messages that begin to wait from now on; zero keeps none.
    pub fn set_body_budget(&mut self, bytes: u64) {
        self.body_budget = bytes;
    }

    /// Bytes of messages in memory now, each counted at its encoded size.
    pub fn cached_bytes(&self) -> u64 {
        self.cached_bytes
    }

    pub(super) fn insert_message(&mut self, seq: Seq, message: Message) {
        if message.frame.is_some() {
            self.cached_bytes += message.weight();
        }
        let replaced = self.messages.insert(seq, message);
        debug_assert!(replaced.is_none(), "a sequence is given once");
    }

    pub(super) fn remove_message(&mut self, seq: Seq) -> Option<Message> {
        self.drop_frame(seq);
        self.messages.remove(&seq)
    }

    pub(super) fn cache_frame(&mut self, seq: Seq, frame: Frame) {
        self.drop_frame(seq);
        if let Some(message) = self.messages.get_mut(&seq) {
            message.frame = Some(Box::new(frame));
            self.cached_bytes += message.weight();
        }
    }

    /// The frame leaves its message; what is in no store leaves a copy, two reference counts.
    pub(super) fn take_frame(&mut self, seq: Seq) -> Option<Frame> {
        let message = self.messages.get_mut(&seq)?;
        if message.stored == Stored::InMemory {
            return message.frame.as_deref().cloned();
        }
        let frame = message.frame.take()?;
        self.cached_bytes -= message.weight();
        Some(*frame)
    }

    pub(super) fn drop_frame(&mut self, seq: Seq) {
        if let Some(message) = self.messages.get_mut(&seq)
            && message.frame.take().is_some()
        {
            self.cached_bytes -= message.weight();
        }
    }

    /// Messages that came in and were not handed out at once: from here on they wait.
    pub(super) fn settle_down(&mut self) {
        while let Some(seq) = self.fresh.pop() {
            self.drop_frame_above_budget(seq);
            let frame = self.messages.get_mut(&seq).and_then(|message| message.frame.as_mut());
            if let Some(frame) = frame {
                **frame = frame.compact();
            }
        }
    }

    /// Above the budget a stored message lets go of its frame.
    pub(super) fn drop_frame_above_budget(&mut self, seq: Seq) {
        let is_stored = |message: &Message| message.stored == Stored::Yes;
        if self.cached_bytes > self.body_budget && self.messages.get(&seq).is_some_and(is_stored) {
            self.drop_frame(seq);
        }
    }
}
