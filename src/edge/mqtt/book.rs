//! Which sessions there are: those with a connection, so that a second one takes over; those that outlive theirs, with what is kept of
//! them; and what is due of them when nobody comes back (wills, and the session's end).
//!
//! The key of a session is its address, (agent, client id). Whoever holds a [`Slot`] is alone with its session. What is kept is in
//! memory as it stands in the store, for the next connection to go on with. Start at [`Book::claim`].

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, Semaphore},
    time::{sleep, timeout},
};

use super::{
    due::Due,
    record::{self, Left, Read, Records, Write},
};
use crate::{
    frame::{Address, AgentId, Frame, Seq, ShardId, excerpt},
    mqtt::{Change, End, Place, Saved, SavedStage, SavedWill, SessionFate, queue_token},
    router::{
        Fabric, Hold,
        error::FabricError,
        port,
        surface::{Principal, Protocol},
    },
    time::{self, Timestamp},
};

/// How long a new connection waits for the one that it takes over from; then the client is told to come back.
const TAKEOVER_PATIENCE: Duration = Duration::from_secs(5);
/// How long until a will that the fabric did not take, or a session whose records could not be deleted, is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Bytes of retained messages that all sessions together are owed, which are in memory and in the store: what a node retains by default.
/// Beyond, a session is sent what is retained but not once more where it does not acknowledge it.
const OWED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Longest sleep between two looks at what is due: the wall clock may be set meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// All sessions.
#[derive(Debug)]
pub(super) struct Book {
    fabric: Fabric,
    entries: Mutex<HashMap<Address, Entry>>,
    due: Mutex<Due>,
    /// Something may be due earlier than before.
    earlier: Notify,
    /// Grows, also over restarts: it begins with the time.
    numbers: AtomicU64,
    /// Bytes of retained messages that sessions are owed.
    owed_bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct Entry {
    live: Option<Arc<Live>>,
    kept: Option<Box<Kept>>,
}

/// A connection that has a session.
#[derive(Debug)]
struct Live {
    /// Another connection wants the session.
    wanted: Notify,
    /// Closed once this one has let go.
    ended: Semaphore,
}

/// A session that outlives its connection.
#[derive(Debug)]
struct Kept {
    agent: AgentId,
    saved: Saved,
    /// See [`Resumed::sent`].
    sent: Option<Vec<(u16, Place)>>,
    /// `None` while it is connected.
    left: Option<Left>,
}

/// What a new connection goes on with.
#[derive(Debug)]
pub(super) struct Resumed {
    pub saved: Saved,
    /// QoS 1 messages that the connection before sent, by packet id; `None` where nobody knows, after a crash.
    pub sent: Option<Vec<(u16, Place)>>,
}

/// A session that its holder is alone with. Lets go when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    book: Arc<Book>,
    session: Address,
    agent: AgentId,
    live: Arc<Live>,
}

impl Slot {
    /// Waits until another connection wants the session.
    pub async fn wanted(&self) {
        self.live.wanted.notified().await;
    }

    /// The session's queue, by its token.
    pub fn token(&self) -> &str {
        self.session.token().unwrap_or_default()
    }

    /// Whether something of it is kept.
    pub fn is_kept(&self) -> bool {
        self.book
            .lock()
            .get(&self.session)
            .is_some_and(|entry| entry.kept.is_some())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut entries = self.book.lock();
        if let Some(entry) = entries.get_mut(&self.session) {
            entry.live = None;
            match &mut entry.kept {
                // A connection that was refused after it had resumed: the session's time runs again.
                Some(kept) if kept.left.is_none() => {
                    let left = kept.left.insert(left_of(&kept.saved, time::now()));
                    self.book.note_due(left, &self.session);
                }
                Some(_) => {}
                None => {
                    entries.remove(&self.session);
                    drop(entries);
                    // Nothing is left of a client that nobody registered.
                    self.book.fabric.forget_named(&self.agent);
                }
            }
        }
        self.live.ended.close();
    }
}

impl Book {
    /// The book as it was kept. Sessions that were connected when the node ended are left from now on.
    pub async fn open(fabric: Fabric) -> Result<Self, FabricError> {
        let mut records = Records::default();
        for (key, value) in fabric.kept_of_sessions().await? {
            if !records.read(&key, &value) {
                tracing::warn!(
                    key = excerpt(&key),
                    "a record of an MQTT session cannot be read and is left out"
                );
            }
        }
        let book = Self {
            fabric,
            entries: Mutex::default(),
            due: Mutex::default(),
            earlier: Notify::new(),
            numbers: AtomicU64::new(time::now().as_millis() << 20),
            owed_bytes: AtomicUsize::new(0),
        };
        let mut writes = Vec::new();
        for (session, read) in records.sessions() {
            writes.extend(book.take_up(&session, read));
        }
        book.fabric.keep_of_sessions(writes).await?;
        Ok(book)
    }

    fn take_up(&self, session: &str, read: Read) -> Option<Write> {
        let address: Address = session.parse().ok()?;
        let agent = AgentId::new(address.agent_id()?).ok()?;
        let Read { saved, left, .. } = read;
        let is_known = left.is_some();
        let left = left.unwrap_or_else(|| left_of(&saved, time::now()));
        self.note_due(&left, &address);
        self.count_owed(0, owed_bytes(&saved));
        let write = (!is_known).then(|| record::head(session, &saved, Some(&left)));
        let kept = Kept {
            agent,
            saved,
            sent: None,
            left: Some(left),
        };
        self.lock().entry(address).or_default().kept = Some(Box::new(kept));
        write
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Address, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// More may be owed; sessions that are away keep theirs as long as they last.
    pub fn may_owe(&self) -> bool {
        self.owed_bytes.load(Relaxed) < OWED_BYTES_MAX
    }

    fn count_owed(&self, before: usize, after: usize) {
        // Under the lock of the entries, but at the start.
        let bytes = self.owed_bytes.load(Relaxed);
        self.owed_bytes.store((bytes + after).saturating_sub(before), Relaxed);
    }

    /// A number that is never given twice.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Relaxed)
    }

    /// Sessions that outlive their connection, and those of them that have none now.
    pub fn count(&self) -> (usize, usize) {
        let entries = self.lock();
        let kept = entries.values().filter(|entry| entry.kept.is_some());
        let left = kept.clone().filter(|entry| entry.live.is_none());
        (kept.count(), left.count())
    }

    /// Takes a session for a connection: whoever has it is told to go, and waited for.
    pub async fn claim(self: &Arc<Self>, agent: &AgentId, client_id: &str) -> Result<Slot, FabricError> {
        let session = Address::session(agent, &queue_token(client_id))
            .map_err(|error| FabricError::invalid("client_id", error.to_string()))?;
        let claimed = async {
            loop {
                match self.try_claim(&session, agent) {
                    Ok(slot) => return slot,
                    Err(earlier) => {
                        earlier.wanted.notify_one();
                        // Ends by being closed.
                        let _closed = earlier.ended.acquire().await;
                    }
                }
            }
        };
        timeout(TAKEOVER_PATIENCE, claimed)
            .await
            .map_err(|_late| FabricError::Overloaded {
                what: "a session whose earlier connection has not ended yet",
                retry_after: TAKEOVER_PATIENCE,
            })
    }

    fn try_claim(self: &Arc<Self>, session: &Address, agent: &AgentId) -> Result<Slot, Arc<Live>> {
        let mut entries = self.lock();
        let entry = entries.entry(session.clone()).or_default();
        if let Some(earlier) = &entry.live {
            return Err(Arc::clone(earlier));
        }
        let live = Arc::new(Live {
            wanted: Notify::new(),
            ended: Semaphore::new(0),
        });
        entry.live = Some(Arc::clone(&live));
        Ok(Slot {
            book: Arc::clone(self),
            session: session.clone(),
            agent: agent.clone(),
            live,
        })
    }

    /// What a new connection goes on with. A session that is to be clean, or whose time is over, is ended first.
    pub async fn resume(&self, slot: &Slot, clean_start: bool) -> Result<Option<Resumed>, FabricError> {
        let (is_over, will_at) = {
            let entries = self.lock();
            let kept = entries.get(&slot.session).and_then(|entry| entry.kept.as_ref());
            let Some(kept) = kept else { return Ok(None) };
            let left = kept.left.clone().unwrap_or_default();
            let now = time::now();
            (left.expires_at.is_some_and(|at| at <= now), left.will_at)
        };
        if clean_start || is_over {
            self.end_session(&slot.session).await?;
            return Ok(None);
        }
        if will_at.is_some_and(|at| at <= time::now()) {
            self.publish_will(&slot.session).await;
        }
        let mut entries = self.lock();
        let kept = entries.get_mut(&slot.session).and_then(|entry| entry.kept.as_mut());
        Ok(kept.map(|kept| {
            // Back in time: its will is not sent [MQTT-3.1.3-9].
            kept.left = None;
            kept.saved.will = None;
            Resumed {
                saved: kept.saved.clone(),
                sent: kept.sent.clone(),
            }
        }))
    }

    /// Makes changes durable, in their order.
    pub async fn save(&self, slot: &Slot, changes: Vec<Change>) -> Result<(), FabricError> {
        let mut writes = Vec::with_capacity(changes.len());
        {
            let mut entries = self.lock();
            let entry = entries.entry(slot.session.clone()).or_default();
            let kept = entry.kept.get_or_insert_with(|| {
                Box::new(Kept {
                    agent: slot.agent.clone(),
                    saved: Saved::default(),
                    sent: None,
                    left: None,
                })
            });
            let before = owed_bytes(&kept.saved);
            for change in changes {
                record::change(
                    slot.session.as_str(),
                    &mut kept.saved,
                    change,
                    self.number(),
                    &mut writes,
                );
            }
            self.count_owed(before, owed_bytes(&kept.saved));
        }
        self.fabric.keep_of_sessions(writes).await
    }

    /// Messages that the client was sent and has not answered come again with its session, expired or not [MQTT-4.4.0-1]; those of QoS 2
    /// go to nobody else meanwhile. Called before they go back to their queues.
    pub fn hold(&self, slot: &Slot, end: &End) {
        let SessionFate::Lasts(until) = end.session else { return };
        let sent: Vec<Place> = end.in_flight.iter().map(|(_, place)| *place).collect();
        let sent = holds(&slot.session, &sent, until).map(|hold| Hold { session: None, ..hold });
        self.fabric
            .hold(sent.chain(holds(&slot.session, &end.sent_once, until)));
    }

    /// A connection has ended: what becomes of its will and of the session.
    pub async fn end(&self, slot: &Slot, end: End) {
        let End {
            session,
            will,
            in_flight,
            ..
        } = end;
        let expires_at = match session {
            SessionFate::Ends => return self.end_with(slot, will).await,
            SessionFate::Lasts(at) => at,
        };
        let left = Left {
            expires_at,
            will_at: will.as_ref().map(|(_, at)| *at),
        };
        let write = {
            let mut entries = self.lock();
            let kept = entries.get_mut(&slot.session).and_then(|entry| entry.kept.as_mut());
            kept.map(|kept| {
                kept.saved.will = will.map(|(will, _)| will);
                kept.sent = Some(in_flight);
                kept.left = Some(left.clone());
                record::head(slot.session.as_str(), &kept.saved, Some(&left))
            })
        };
        if let Err(error) = self.fabric.keep_of_sessions(write.into_iter().collect()).await {
            tracing::warn!(session = %slot.session, %error, "when an MQTT session was left could not be written");
        }
        match left.will_at {
            Some(at) if at <= time::now() => self.publish_will(&slot.session).await,
            _ => {}
        }
        self.note_due(&left, &slot.session);
    }

    /// The session ends with its connection.
    async fn end_with(&self, slot: &Slot, will: Option<(SavedWill, Timestamp)>) {
        if let Some(entry) = self.lock().get_mut(&slot.session)
            && let Some(kept) = &mut entry.kept
        {
            // Sent below, once.
            kept.saved.will = None;
        }
        if let Some((will, _)) = will
            && let Err(error) = self.send_will(&slot.agent, &will).await
        {
            tracing::warn!(session = %slot.session, %error, "a will was not taken and is lost with its session");
        }
        if let Err(error) = self.end_session(&slot.session).await {
            tracing::warn!(session = %slot.session, %error, "an MQTT session could not be ended; it is tried again");
            self.note(time::now() + RETRY, &slot.session);
        }
    }

    /// Ends a session that is kept, if there is one: its will is sent, its queue and records go; the agent's inbox stays.
    async fn end_session(&self, session: &Address) -> Result<(), FabricError> {
        let (agent, forgotten, sent) = {
            let mut entries = self.lock();
            let Some(kept) = entries.get_mut(session).and_then(|entry| entry.kept.as_mut()) else {
                return Ok(());
            };
            // Whatever fails below, it is over.
            kept.left.get_or_insert_default().expires_at = Some(time::now());
            let forgotten = record::forget(session.as_str(), &kept.saved);
            (kept.agent.clone(), forgotten, sent_of(&kept.saved))
        };
        self.fabric.let_go(sent.iter().filter_map(in_shard));
        self.publish_will(session).await;
        let token = session.token().unwrap_or_default();
        self.fabric
            .remove_session_queue(&Principal::Agent(agent.clone()), &agent, token)
            .await?;
        self.fabric.keep_of_sessions(forgotten).await?;
        if let Some(kept) = self.lock().get_mut(session).and_then(|entry| entry.kept.take()) {
            self.count_owed(owed_bytes(&kept.saved), 0);
        }
        Ok(())
    }

    /// Sends the will of a session that was left, and notes that it was sent. One that is refused for good is gone.
    async fn publish_will(&self, session: &Address) {
        let (agent, will) = {
            let entries = self.lock();
            let Some(kept) = entries.get(session).and_then(|entry| entry.kept.as_ref()) else {
                return;
            };
            match (&kept.left, &kept.saved.will) {
                (Some(Left { will_at: Some(_), .. }), Some(will)) => (kept.agent.clone(), will.clone()),
                _ => return,
            }
        };
        if let Err(error) = self.send_will(&agent, &will).await {
            if error.code().retryable {
                return self.note(time::now() + RETRY, session);
            }
            tracing::warn!(%session, %error, "a will was refused");
        }
        let write = {
            let mut entries = self.lock();
            let kept = entries.get_mut(session).and_then(|entry| entry.kept.as_mut());
            kept.map(|kept| {
                kept.saved.will = None;
                let left = kept.left.get_or_insert_default();
                left.will_at = None;
                record::head(session.as_str(), &kept.saved, Some(left))
            })
        };
        if let Err(error) = self.fabric.keep_of_sessions(write.into_iter().collect()).await {
            // It may be sent once more after a crash: under the same id, which the fabric answers from its receipt.
            tracing::warn!(%session, %error, "that a will was sent could not be written");
        }
    }

    async fn send_will(&self, agent: &AgentId, will: &SavedWill) -> Result<(), FabricError> {
        let frame = Frame::decode(&mut Bytes::copy_from_slice(&will.frame))
            .map_err(|error| FabricError::invalid("will", error.to_string()))?;
        let principal = Principal::Agent(agent.clone());
        if will.retain {
            self.fabric.retain(&principal, &frame)?.durable().await?;
        }
        self.fabric
            .send_frame(&principal, Protocol::Mqtt, frame)
            .await
            .map(|_| ())
    }

    // --- what is due -----------------------------------------------------------------------------------------------------

    fn note_due(&self, left: &Left, session: &Address) {
        if let Some(at) = left.will_at.into_iter().chain(left.expires_at).min() {
            self.note(at, session);
        }
    }

    fn note(&self, at: Timestamp, session: &Address) {
        if self.due().note(at, session) {
            self.earlier.notify_one();
        }
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is due when it is, for ever.
    pub async fn keep_time(self: &Arc<Self>) {
        loop {
            loop {
                let Some(session) = self.due().take(time::now()) else {
                    break;
                };
                self.do_due(&session).await;
            }
            let wait = self.due().next().map_or(LOOK_EVERY, |at| at.since(time::now()));
            tokio::select! {
                () = sleep(wait.min(LOOK_EVERY)) => {}
                () = self.earlier.notified() => {}
            }
        }
    }

    async fn do_due(self: &Arc<Self>, session: &Address) {
        let Some(agent) = session.agent_id().and_then(|agent| AgentId::new(agent).ok()) else {
            return;
        };
        // Whoever is connected has no need of it; whoever comes meanwhile waits.
        let Ok(slot) = self.try_claim(session, &agent) else {
            return;
        };
        let left = {
            let entries = self.lock();
            let kept = entries.get(session).and_then(|entry| entry.kept.as_ref());
            kept.and_then(|kept| kept.left.clone())
        };
        let Some(mut left) = left else { return };
        let now = time::now();
        if left.expires_at.is_some_and(|at| at <= now) {
            if let Err(error) = self.end_session(session).await {
                tracing::warn!(%session, %error, "an MQTT session that has expired could not be ended; it is tried again");
                self.note(now + RETRY, session);
            }
        } else {
            if left.will_at.is_some_and(|at| at <= now) {
                self.publish_will(session).await;
                left.will_at = None;
            }
            self.note_due(&left, session);
        }
        drop(slot);
    }
}

/// The messages that sessions had been sent when the node ended: they come again, expired or not.
pub(super) fn held(kept: &port::Records, now: Timestamp) -> Vec<Hold> {
    let mut records = Records::default();
    for (key, value) in kept {
        // What cannot be read is told of where the book is opened.
        let _is_read = records.read(key, value);
    }
    let of_session = |(session, read): (String, Read)| {
        let left = read.left.unwrap_or_else(|| left_of(&read.saved, now));
        let session: Option<Address> = session.parse().ok();
        let held = |session| holds(&session, &sent_of(&read.saved), left.expires_at).collect();
        session.map_or_else(Vec::new, held)
    };
    records.sessions().flat_map(of_session).collect()
}

fn owed_bytes(saved: &Saved) -> usize {
    let messages = saved.debt.iter().flat_map(|debt| debt.messages.values());
    messages.map(|(filter, frame)| filter.len() + frame.len()).sum()
}

/// QoS 2 messages that were sent, or are just about to be, and not answered.
fn sent_of(saved: &Saved) -> Vec<Place> {
    let sent = saved.sending.iter().filter_map(|(_, stage)| match stage {
        SavedStage::Sent(place) => Some(*place),
        SavedStage::Released(_) => None,
    });
    sent.collect()
}

/// For a session, up to its end.
fn holds(session: &Address, places: &[Place], until: Option<Timestamp>) -> impl Iterator<Item = Hold> {
    let (session, until) = (Hold::session(session), until.unwrap_or(Timestamp::NEVER));
    places.iter().filter_map(in_shard).map(move |(shard, seq)| Hold {
        shard,
        seq,
        until,
        session: Some(session),
    })
}

/// `None` for what stands in no queue.
fn in_shard(place: &Place) -> Option<(ShardId, Seq)> {
    Some((ShardId::new(place.shard)?, Seq::from_raw(place.seq)))
}

/// Of a session that was connected when the node ended.
fn left_of(saved: &Saved, now: Timestamp) -> Left {
    let seconds = |seconds: u32| now + Duration::from_secs(seconds.into());
    let expires_at = (saved.session_expiry_s < u32::MAX).then(|| seconds(saved.session_expiry_s));
    let will_at = saved
        .will
        .as_ref()
        .map(|will| seconds(will.delay_s.min(saved.session_expiry_s)));
    Left { expires_at, will_at }
}
