//! One connection: bytes into the machine, its packets back in one write per wake-up, and waiting for whatever comes next.
//!
//! One task, one future. An idle connection owns no buffer: reads go through the thread's own, and what is kept of them is what is not a
//! whole packet yet. Start at [`serve`]; what the machine wants done is in `actions`.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::watch,
    time::{Sleep, sleep, timeout},
};

use super::{Edge, actions::Attached, outcome, sys::Round};
use crate::{
    edge::{counters::Counters, gate::Pass, stream::Stream},
    frame::{Qos, RunBuilder},
    mqtt::{Action, Decoder, Encoder, Goodbye, Limits, Packet, Session},
    router::surface::{Piece, SessionEvent},
    time::{self, Timestamp},
};

/// What one read takes at most, in bytes.
const READ_BYTES_MAX: usize = 64 * 1024;
/// Bytes that wait for the client from which on it gets no more deliveries, and from which on it is not read either.
const OUTPUT_BYTES_FULL: usize = 256 * 1024;
const OUTPUT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A read of no more bytes is one packet or two of a client that sends now and then, for which order among clients is worth a turn.
const FEW_BYTES: usize = 256;
/// Deliveries taken at once.
const TAKEN_MAX: usize = 1_024;
/// Messages of one run, and the largest body that is copied into one, in bytes.
const RUN_FRAMES_MAX: usize = 4_096;
const BODY_TOGETHER_BYTES: usize = 16 * 1024;
/// Room in a packet beside its payload, in bytes: the longest topic and full properties.
const FIELDS_BYTES_MAX: usize = 160 * 1024;
/// How long a client that is let go may take to hear why.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(2);
/// How long a closed connection is drained of what the client still sends, so that a reset does not overtake the last packet, and how
/// much of it, in bytes.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// The longest list that a thread keeps for the next connection: a read is rarely more packets. One action takes about 200 bytes.
const SPARE_ACTIONS_MAX: usize = 2_048;

thread_local! {
    /// An empty list of actions with room: an idle connection has none.
    static SPARE: Cell<Vec<Action>> = const { Cell::new(Vec::new()) };
    /// A task that came first on this thread waits behind the others.
    static HAS_STEPPED_ASIDE: Arc<AtomicBool> = Arc::default();
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice());
}

/// Serves a connection until it ends.
pub(super) fn serve(edge: Arc<Edge>, stream: Stream, peer: SocketAddr, pass: Pass) -> impl Future<Output = ()> + Send {
    // Boxed before it runs: a future keeps what it is given beside what it makes of it, and would hold every connection twice.
    Box::new(Connection::new(edge, stream, peer, pass)).run()
}

/// Lets those go first who were woken before. A worker of the runtime begins with the task that it woke last: of two clients of which
/// one subscribes and the other one publishes right behind it, the second would be served first. Whoever comes first on a thread steps
/// back behind the others, which then go on in their order.
async fn step_aside() {
    /// Resets the mark, also where the task is dropped.
    struct Mark(Arc<AtomicBool>);
    impl Drop for Mark {
        fn drop(&mut self) {
            self.0.store(false, Relaxed);
        }
    }
    let mark = HAS_STEPPED_ASIDE.with(Arc::clone);
    if mark.swap(true, Relaxed) {
        return;
    }
    let _mark = Mark(mark);
    let mut is_behind = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut is_behind, true) {
            return Poll::Ready(());
        }
        // A task that wakes itself while it runs goes to the end of the line.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What woke the connection.
enum Event {
    Read(usize),
    /// There is room again for what goes to the client.
    Written,
    /// The client closed, or the connection broke.
    Lost,
    Answers,
    Session(SessionEvent),
    /// Another connection took the session over.
    Wanted,
    Sys,
    Time,
}

/// The way of bytes, with what waits in either direction.
pub(super) struct Wire {
    stream: Stream,
    input: BytesMut,
    pub output: BytesMut,
    is_unflushed: bool,
    /// Since when the client takes nothing of what waits for it.
    stalled_since: Option<Timestamp>,
    counters: Arc<Counters>,
}

pub(super) struct Connection {
    pub edge: Arc<Edge>,
    pub peer: SocketAddr,
    pub wire: Wire,
    decoder: Decoder,
    pub encoder: Option<Encoder>,
    pub machine: Session,
    pub actions: Vec<Action>,
    pub attached: Option<Box<Attached>>,
    pub is_closing: bool,
    pub sys: Option<watch::Receiver<Round>>,
    timer: Option<(Timestamp, Pin<Box<Sleep>>)>,
    /// Given back last.
    _pass: Pass,
}

impl Connection {
    fn new(edge: Arc<Edge>, stream: Stream, peer: SocketAddr, pass: Pass) -> Self {
        let packet_bytes_max = match edge.config.packet_bytes_max {
            0 => edge.door.fabric.config().message_bytes_max + FIELDS_BYTES_MAX,
            told => told as usize,
        };
        let limits = Limits { packet_bytes_max };
        let spare_id = format!("auto-{}", uuid::Uuid::now_v7().as_simple());
        Self {
            wire: Wire {
                stream,
                input: BytesMut::new(),
                output: BytesMut::new(),
                is_unflushed: false,
                stalled_since: None,
                counters: Arc::clone(&edge.door.counters),
            },
            decoder: Decoder::new(limits),
            encoder: None,
            machine: Session::new(Arc::clone(&edge.machine), spare_id, time::now()),
            actions: Vec::new(),
            attached: None,
            is_closing: false,
            sys: None,
            timer: None,
            peer,
            edge,
            _pass: pass,
        }
    }

    async fn run(mut self: Box<Self>) {
        while !self.is_closing {
            let mut has_waited = false;
            let event = {
                let mut event = std::pin::pin!(self.event());
                let noted = std::future::poll_fn(|cx| {
                    let polled = event.as_mut().poll(cx);
                    has_waited |= polled.is_pending();
                    polled
                });
                noted.await
            };
            if has_waited && matches!(event, Event::Read(bytes) if bytes <= FEW_BYTES) {
                step_aside().await;
            }
            // Boxed: what it needs is needed once a wake-up, and would be there in every idle connection.
            self.actions = SPARE.take();
            Box::pin(self.on(event)).await;
            let mut actions = std::mem::take(&mut self.actions);
            actions.clear();
            if actions.capacity() <= SPARE_ACTIONS_MAX {
                SPARE.set(actions);
            }
        }
        Box::pin(self.part()).await;
    }

    /// The last packets: written, and waited for until the client has them.
    async fn part(mut self: Box<Self>) {
        drop(self.attached.take());
        let Wire { stream, output, .. } = &mut self.wire;
        let bytes = output.len();
        let written = timeout(GOODBYE_PATIENCE, async {
            stream.write_all(output).await?;
            stream.shutdown().await
        });
        if !matches!(written.await, Ok(Ok(()))) {
            return;
        }
        Counters::add(&self.wire.counters.bytes_out, bytes);
        self.wire.input.clear();
        let drained = async {
            let mut drained = 0;
            while drained < LINGER_BYTES_MAX {
                match self.wire.read().await {
                    Ok(0) | Err(_) => return,
                    Ok(bytes) => drained += bytes,
                }
                self.wire.input.clear();
            }
        };
        // One that goes on longer is given up.
        let _late = timeout(LINGER, drained).await;
    }

    /// Waits for whatever comes first. Each branch takes what it takes in one step, so that losing the race loses nothing.
    async fn event(&mut self) -> Event {
        self.set_timer();
        let may_read = !self.machine.is_held_back() && self.wire.output.len() < OUTPUT_BYTES_MAX;
        let may_deliver = self.may_deliver();
        let Self {
            edge,
            wire,
            attached,
            sys,
            timer,
            ..
        } = self;
        let timed = async {
            match timer {
                Some((_, sleep)) => sleep.as_mut().await,
                None => std::future::pending().await,
            }
        };
        let Some(attached) = attached else {
            return tokio::select! {
                biased;
                event = wire.ready(may_read) => event,
                () = timed => Event::Time,
                () = edge.shutdown.cancelled() => Event::Lost,
            };
        };
        let Attached {
            receiver,
            publishing,
            delivered,
            slot,
            ..
        } = &mut **attached;
        let answered = async {
            match publishing {
                Some(publishing) => publishing.answers.next(&mut publishing.answered).await,
                None => std::future::pending().await,
            }
        };
        // A client without room for more must hear all the same that it is to go.
        let fabric = async {
            match may_deliver {
                true => receiver.next_pieces(delivered, TAKEN_MAX).await,
                false => receiver.end().await,
            }
        };
        tokio::select! {
            biased;
            event = wire.ready(may_read) => event,
            _ = answered => Event::Answers,
            event = fabric => Event::Session(event),
            () = slot.wanted() => Event::Wanted,
            () = timed => Event::Time,
            _ = async { match sys {
                Some(sys) => sys.changed().await,
                None => std::future::pending().await,
            } } => Event::Sys,
        }
    }

    async fn on(&mut self, event: Event) {
        let now = time::now();
        match event {
            Event::Read(bytes) => {
                Counters::add(&self.wire.counters.bytes_in, bytes);
                return self.take_packets(now).await;
            }
            Event::Lost => {
                self.machine.handle_lost(now, &mut self.actions);
                self.is_closing = true;
                self.wire.output.clear();
            }
            Event::Written | Event::Answers | Event::Session(SessionEvent::Deliveries) => {}
            Event::Session(SessionEvent::Goodbye(goodbye)) => {
                let goodbye = outcome::goodbye(goodbye);
                if goodbye == Goodbye::Draining {
                    self.hear_out(now).await;
                }
                self.machine.handle_goodbye(goodbye, now, &mut self.actions);
            }
            Event::Wanted => self.machine.handle_goodbye(Goodbye::TakenOver, now, &mut self.actions),
            Event::Sys => self.deliver_sys(now),
            Event::Time => self.on_time(now),
        }
        self.settle_up(now).await;
        // Reading may have been held back.
        if !self.wire.input.is_empty() && !self.is_closing {
            self.take_packets(now).await;
        }
    }

    /// Takes what the client sent before it could know that the node stops, so that what it acknowledged does not come again.
    async fn hear_out(&mut self, now: Timestamp) {
        // The runtime looks at its sockets.
        tokio::task::yield_now().await;
        let read = std::future::poll_fn(|cx| Poll::Ready(self.wire.poll_read(cx))).await;
        if let Poll::Ready(Ok(bytes)) = read {
            Counters::add(&self.wire.counters.bytes_in, bytes);
            self.take_packets(now).await;
        }
    }

    fn on_time(&mut self, now: Timestamp) {
        self.timer = None;
        let patience = self.edge.config.slow_consumer_timeout();
        if self.wire.stalled_since.is_some_and(|since| since + patience <= now) {
            tracing::debug!(peer = %self.peer, "an MQTT client reads nothing and is let go");
            self.machine
                .handle_goodbye(Goodbye::SlowConsumer, now, &mut self.actions);
        }
        self.machine.handle_timeout(now, &mut self.actions);
    }

    /// Reads packets as far as they are whole and wanted.
    async fn take_packets(&mut self, now: Timestamp) {
        let mut is_more = true;
        while is_more && !self.is_closing {
            is_more = false;
            let mut publishes = 0;
            while !self.machine.is_held_back() {
                match self.decoder.next(&mut self.wire.input) {
                    Ok(Some(packet)) => {
                        is_more = true;
                        Counters::add(&self.wire.counters.messages_in, 1);
                        publishes += u64::from(matches!(packet, Packet::Publish(_)));
                        if let Packet::Connect(connect) = &packet {
                            self.encoder = Some(Encoder::new(connect.version, connect.packet_bytes_max));
                        }
                        let before = self.actions.len();
                        self.machine.handle_packet(packet, now, &mut self.actions);
                        publishes += self.take_twins(before);
                    }
                    Ok(None) => break,
                    Err(malformed) => {
                        tracing::debug!(peer = %self.peer, what = malformed.what, "an MQTT client sent what is no packet");
                        Counters::add(&self.wire.counters.errors, 1);
                        self.machine.handle_malformed(&malformed, now, &mut self.actions);
                        self.wire.input.clear();
                        break;
                    }
                }
            }
            self.edge.publishes_in.fetch_add(publishes, Relaxed);
            self.settle_up(now).await;
        }
        self.decoder.rest();
        if self.wire.input.is_empty() {
            self.wire.input = BytesMut::new();
        }
    }

    /// Takes what follows and differs from the last packet in its payload and packet id alone; says how many those are. `before`: how many
    /// actions there were before that packet, which may have been refused: then what follows is refused one by one.
    fn take_twins(&mut self, before: usize) -> u64 {
        if self.actions.len() != before + 1 {
            return 0;
        }
        let Some(mut twin) = self.decoder.twin(&self.wire.input) else {
            return 0;
        };
        let is_one = |action: &mut Action| match action {
            Action::Publish {
                frame, retain: false, ..
            } => frame.envelope.qos() != Qos::ExactlyOnce && frame.body.len() <= BODY_TOGETHER_BYTES,
            _ => false,
        };
        let Some(Action::Publish { ticket, frame, .. }) = self.actions.pop_if(is_one) else {
            return 0;
        };
        let mut run = RunBuilder::new(frame);
        let mut taken = 0;
        while twin.payload.len() <= BODY_TOGETHER_BYTES && run.frames() < RUN_FRAMES_MAX {
            let input = &mut self.wire.input;
            let room = input.len().min(READ_BYTES_MAX);
            let payload = &input[twin.payload.clone()];
            if !self.machine.handle_twin(&mut run, twin.packet_id, payload, room) {
                break;
            }
            input.advance(twin.payload.end);
            taken += 1;
            match self.decoder.twin(input) {
                Some(next) => twin = next,
                None => break,
            }
        }
        let run = run.finish();
        self.actions.push(Action::PublishRun { ticket, run });
        Counters::add(&self.wire.counters.messages_in, taken);
        taken as u64
    }

    /// Gives the machine all that is there for it, and does what it wants done, until neither has more.
    async fn settle_up(&mut self, now: Timestamp) {
        loop {
            self.take_answers(now);
            if self.attached.as_ref().is_some_and(|attached| attached.debt.is_some()) {
                // Before what came of late: it may be older.
                Box::pin(self.feed_retained(now)).await;
            }
            self.take_deliveries(now);
            if self.actions.is_empty() {
                return;
            }
            self.act(now).await;
        }
    }

    fn take_answers(&mut self, now: Timestamp) {
        let publishing = self.attached.as_mut().and_then(|attached| attached.publishing.as_mut());
        let Some(publishing) = publishing else { return };
        publishing.answers.try_next(&mut publishing.answered);
        for (tag, answer) in publishing.answered.drain(..) {
            let outcome = outcome::outcome(&answer);
            self.machine
                .handle_published(crate::mqtt::Ticket(tag), outcome, now, &mut self.actions);
        }
    }

    /// The client has room for more.
    pub(super) fn may_deliver(&self) -> bool {
        self.wire.output.len() < OUTPUT_BYTES_FULL && !self.machine.is_backed_up()
    }

    fn take_deliveries(&mut self, now: Timestamp) {
        let may_deliver = self.may_deliver();
        let Some(attached) = &mut self.attached else { return };
        if may_deliver {
            attached.receiver.try_next_pieces(&mut attached.delivered, TAKEN_MAX);
        }
        for piece in attached.delivered.drain(..) {
            match piece {
                Piece::One(delivery) => {
                    let delivery = super::actions::delivery(delivery);
                    self.machine.handle_delivery(delivery, now, &mut self.actions);
                }
                Piece::Run { run, queue } => self.machine.handle_run(run, &queue, now, &mut self.actions),
            }
        }
    }

    fn set_timer(&mut self) {
        let patience = self.edge.config.slow_consumer_timeout();
        let stalled = self.wire.stalled_since.map(|since| since + patience);
        let next = self.machine.next_deadline().into_iter().chain(stalled).min();
        match (next, &self.timer) {
            (None, _) => self.timer = None,
            // It goes off no later than needed, and looks again then: a deadline moves with every packet.
            (Some(next), Some((at, _))) if *at <= next => {}
            (Some(next), _) => {
                let wait = next.since(time::now()) + Duration::from_millis(1);
                self.timer = Some((next, Box::pin(sleep(wait))));
            }
        }
    }
}

impl Wire {
    /// Writes what waits, and then reads.
    async fn ready(&mut self, may_read: bool) -> Event {
        std::future::poll_fn(|cx| self.poll_ready(cx, may_read)).await
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>, may_read: bool) -> Poll<Event> {
        let was_full = self.output.len() >= OUTPUT_BYTES_FULL;
        if self.poll_write(cx).is_err() {
            return Poll::Ready(Event::Lost);
        }
        // Whoever waits for room is not asked again by itself.
        if was_full && self.output.len() < OUTPUT_BYTES_FULL {
            return Poll::Ready(Event::Written);
        }
        if !may_read {
            return Poll::Pending;
        }
        self.poll_read(cx).map(|read| match read {
            Ok(0) | Err(_) => Event::Lost,
            Ok(bytes) => Event::Read(bytes),
        })
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut written = 0;
        while !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(bytes) => {
                    let bytes = bytes?;
                    written += bytes;
                    self.output.advance(bytes);
                    self.is_unflushed = true;
                }
                Poll::Pending => break,
            }
        }
        if self.is_unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            flushed?;
            self.is_unflushed = false;
        }
        if self.output.is_empty() {
            self.stalled_since = None;
            if self.output.capacity() > 0 {
                self.output = BytesMut::new();
            }
        } else if written > 0 || self.stalled_since.is_none() {
            self.stalled_since = Some(time::now());
        }
        Counters::add(&self.counters.bytes_out, written);
        Ok(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            self.input.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    async fn read(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_read(cx)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        let (whole, machine) = (size_of::<Connection>(), size_of::<Session>());
        assert!(whole < 1_600, "{whole} bytes, {machine} of them the machine");
        let task = of_future(serve);
        assert!(task < 700, "{task} bytes");
    }

    fn of_future<F>(_: fn(Arc<Edge>, Stream, SocketAddr, Pass) -> F) -> usize {
        size_of::<F>()
    }
}
