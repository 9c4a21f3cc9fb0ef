//! An agent's messages as Server-Sent Events, on the connection's side.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior},
};

use super::Command;
use crate::{
    edge::{counters::Counters, json},
    router::surface::Delivery,
};

/// Events written as one chunk.
const EVENTS_AT_ONCE: usize = 64;
/// What every stream begins with: a comment that proves the connection, and how long a client waits before it reconnects.
const PREAMBLE: &[u8] = b": connected\nretry: 1000\n\n";
const HEARTBEAT: &[u8] = b": heartbeat\n\n";

/// The events of one connection. Ends when the session does; dropped with the connection, it tells the session.
pub struct EventSource {
    queued: mpsc::Receiver<Delivery>,
    /// Events taken by the connection; written here, read by the session.
    written: Arc<AtomicU64>,
    session: mpsc::WeakSender<Command>,
    counters: Arc<Counters>,
    heartbeat: Interval,
    began: bool,
}

impl EventSource {
    pub(super) fn new(
        queued: mpsc::Receiver<Delivery>,
        written: Arc<AtomicU64>,
        session: mpsc::WeakSender<Command>,
        counters: Arc<Counters>,
        heartbeat_interval: Duration,
    ) -> Self {
        let mut heartbeat = tokio::time::interval(heartbeat_interval.max(Duration::from_millis(1)));
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.reset();
        Self {
            queued,
            written,
            session,
            counters,
            heartbeat,
            began: false,
        }
    }
}

impl Stream for EventSource {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if !this.began {
            this.began = true;
            return Poll::Ready(Some(Ok(Bytes::from_static(PREAMBLE))));
        }
        let mut chunk = Vec::new();
        let mut events = 0;
        while events < EVENTS_AT_ONCE {
            match this.queued.poll_recv(cx) {
                Poll::Ready(Some(delivery)) => {
                    append_event(&delivery, &mut chunk);
                    events += 1;
                }
                Poll::Ready(None) if events == 0 => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if events > 0 {
            this.written.fetch_add(events as u64, Ordering::Relaxed);
            Counters::add(&this.counters.messages_out, events);
            this.heartbeat.reset();
            return Poll::Ready(Some(Ok(chunk.into())));
        }
        ready!(this.heartbeat.poll_tick(cx));
        Poll::Ready(Some(Ok(Bytes::from_static(HEARTBEAT))))
    }
}

impl Drop for EventSource {
    fn drop(&mut self) {
        self.queued.close();
        if let Some(session) = self.session.upgrade() {
            // A full channel wakes the session anyway, and its next look finds the closed stream.
            let _ = session.try_send(Command::Look);
        }
    }
}

/// `event: message`, the delivery id as the event's, and the message; a line break in it starts another `data:` line, which a
/// client joins again. A carriage return can stand in JSON only between tokens, where a line feed means the same.
fn append_event(delivery: &Delivery, into: &mut Vec<u8>) {
    into.extend_from_slice(b"event: message\n");
    if let Some(id) = delivery.id {
        into.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    let text = json::delivered_message(delivery);
    for line in text.split(|byte| matches!(byte, b'\n' | b'\r')) {
        into.extend_from_slice(b"data: ");
        into.extend_from_slice(line);
        into.push(b'\n');
    }
    into.push(b'\n');
}
