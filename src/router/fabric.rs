//! The door: every edge speaks to the fabric through [`Fabric`] and through nothing else.
//!
//! Authenticated principal -> authorize -> validate -> stamp -> route, the same for every protocol. Here are the start, the stop and
//! the questions; sending is in `door.rs`, receiving in `attach.rs`, agents and groups in `members.rs`.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crossbeam::queue::SegQueue;

use super::{
    config::Config,
    counters::CountersSnapshot,
    directory::{Directory, lock},
    error::FabricError,
    holds::{self, Hold},
    port::{Action, Decision, Policy, Ports, Store, StoreError, StoreStats, Table},
    registry::{AgentRecord, GroupRecord},
    runner::Runner,
    surface::{Goodbye, KeptMessage, MessageStatus, PassedEnvelope, Principal, StatusQuery},
    worker::{Shards, WorkerContext},
    workers::{Command, Control, WorkerHandle, Workers},
};
use crate::{
    delivery::{Limits, Listed, WORKERS_MAX},
    frame::{
        Address, AddressKind, AgentId, Frame, MessageId, Seq, ShardId, TopicFilter, TrackingId, excerpt,
        limits::SHARDS,
        record::{Fence, IdHash, MessageKey, Reason, Receipt, ShardImage, Status},
    },
    queue::{self, Bounds},
    time,
};

/// Agents named as unattended that nobody has taken up yet; beyond it an agent is named again with its next message.
const UNATTENDED_MAX: usize = 65_536;
/// How often agents that were named but never registered are looked through, and how long they may be unused.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
const UNREGISTERED_UNUSED: Duration = Duration::from_secs(24 * 3600);
/// Most items of one listing.
pub(super) const LIST_MAX: usize = 1_000;

/// The one door. A clone is a reference count.
#[derive(Clone, Debug)]
pub struct Fabric(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub config: Arc<Config>,
    pub store: Arc<dyn Store>,
    pub policy: Arc<dyn Policy>,
    pub directory: Arc<Directory>,
    pub workers: Arc<Workers>,
    pub next_session: AtomicU64,
    pub sessions: super::attach::SessionCounts,
    /// One change of a group or of who is known at a time: durable first, then shown.
    pub registry: tokio::sync::Mutex<()>,
    /// One change of an agent's own records at a time.
    pub changes: super::changes::Changes,
    pub durable_queues: super::subscriptions::DurableQueues,
    pub shares: super::shares::Shares,
    pub records: super::records::Recorder,
    pub retained: super::retained::Retained,
    draining: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    unattended: flume::Receiver<AgentId>,
    scans: Mutex<ScanBudget>,
}

/// Status questions that ask every shard, in the second that is under way.
#[derive(Debug)]
struct ScanBudget {
    second: u64,
    left: u32,
}

impl Fabric {
    /// Claims the shards, loads what the store holds and starts the workers.
    pub async fn start(ports: Ports, config: Config) -> Result<Self, FabricError> {
        Self::start_holding(ports, config, &[]).await
    }

    /// [`Fabric::start`], with messages that wait for their sessions.
    pub async fn start_holding(ports: Ports, config: Config, holds: &[Hold]) -> Result<Self, FabricError> {
        let config = Arc::new(config);
        let directory = Arc::new(Directory::default());
        let (store, policy) = (ports.store, ports.policy);
        load_registry(&*store, &directory).await?;
        let (unattended_sender, unattended) = flume::bounded(UNATTENDED_MAX);
        let (workers, inboxes) = new_workers(&config);
        let images = load_shards(&*store).await?;
        let subscriptions = super::subscriptions::load_subscriptions(&*store).await?;
        let limits = Arc::new(limits(&config));
        let mut threads = Vec::new();
        let mut images_of: Vec<Vec<(ShardId, Fence, ShardImage)>> = inboxes.iter().map(|_| Vec::new()).collect();
        holds::tell(&workers, holds.iter().copied().map(holds::Change::Hold));
        for mut image in images {
            holds::extend(holds, image.0, &mut image.2);
            images_of[workers.index_of(image.0)].push(image);
        }
        for ((index, inbox), images) in inboxes.into_iter().enumerate().zip(images_of) {
            let context = WorkerContext {
                index,
                workers: workers.clone(),
                store: store.clone(),
                policy: policy.clone(),
                directory: directory.clone(),
                config: config.clone(),
                unattended: unattended_sender.clone(),
            };
            // Open before anything is relayed: a copy whose session's queue is not there is rejected.
            let lives_here = |queue: &&Address| workers.index_of(queue.home_shard()) == index;
            let durable = subscriptions.iter().map(|(queue, _)| queue).filter(lives_here);
            let durable = durable.cloned().collect();
            threads.push(spawn_worker(context, limits.clone(), images, durable, inbox)?);
        }
        let records = super::records::Recorder::start(store.clone());
        let retained = super::retained::Retained::load(&*store).await?;
        let inner = Inner {
            config,
            store,
            policy,
            directory,
            workers,
            next_session: AtomicU64::new(1),
            sessions: Default::default(),
            registry: Default::default(),
            changes: Default::default(),
            durable_queues: Default::default(),
            shares: Default::default(),
            records,
            retained,
            draining: AtomicBool::new(false),
            threads: Mutex::new(threads),
            unattended,
            scans: Mutex::new(ScanBudget { second: 0, left: 0 }),
        };
        let fabric = Self(Arc::new(inner));
        fabric.restore_subscriptions(subscriptions)?;
        tokio::spawn(sweep(Arc::downgrade(&fabric.0)));
        Ok(fabric)
    }

    /// The settings that it was started with.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// A fresh UUIDv7 message id.
    pub fn new_message_id(&self) -> MessageId {
        super::door::new_message_id()
    }

    pub(super) fn authorize(&self, agent: &AgentId, action: Action<'_>) -> Result<(), FabricError> {
        match self.0.policy.decide(agent.as_str(), action) {
            Decision::Allow => Ok(()),
            Decision::Deny => Err(FabricError::Denied {
                agent: agent.clone(),
                action: excerpt(&format!("{action:?}")).to_owned(),
            }),
        }
    }

    /// The principal may act as this agent: it is that agent, or nobody has to prove anything.
    pub(super) fn speaks_for(&self, principal: &Principal, agent: &AgentId) -> Result<(), FabricError> {
        match principal {
            Principal::Anyone => Ok(()),
            Principal::Agent(own) if own == agent => Ok(()),
            Principal::Agent(own) => Err(FabricError::NotYourself {
                principal: own.clone(),
                claimed: agent.clone(),
            }),
        }
    }

    /// The principal may look at what belongs to this agent.
    pub(super) fn may_inspect(&self, principal: &Principal, agent: &AgentId) -> Result<(), FabricError> {
        match principal {
            Principal::Anyone => Ok(()),
            Principal::Agent(own) if own == agent => Ok(()),
            Principal::Agent(own) => self.authorize(own, Action::Inspect),
        }
    }

    // --- what became of messages ---------------------------------------------------------------------------------

    /// What became of a message. By tracking id it asks one shard; by message id it asks every shard and is rate-limited.
    pub async fn status(&self, principal: &Principal, query: StatusQuery) -> Result<MessageStatus, FabricError> {
        if let Principal::Agent(own) = principal {
            let own_message = matches!(&query, StatusQuery::Message { from: Some(from), .. } if from == own);
            if !own_message {
                self.authorize(own, Action::Inspect)?;
            }
        }
        match query {
            StatusQuery::Tracking(tracking) => {
                let receipt = self.0.workers.inspect(tracking.shard, move |shards| {
                    shards.state(tracking.shard).receipt(tracking.seq)
                });
                let unknown = || FabricError::UnknownMessage(tracking.to_string());
                let receipt = receipt.await?.ok_or_else(unknown)?;
                match receipt.reason {
                    Reason::FannedOut => self.fan_out_status((tracking.shard, receipt)).await,
                    _ => Ok(status_of(&[(tracking.shard, receipt)], None)),
                }
            }
            StatusQuery::Message { id, from } => self.scan_status(&id, from.as_ref()).await,
        }
    }

    async fn fan_out_status(&self, source: (ShardId, Receipt)) -> Result<MessageStatus, FabricError> {
        let copies = self.receipts(source.1.id_hash, Some(source.1.key)).await?;
        let copies: Vec<_> = copies
            .into_iter()
            .filter(|(_, copy)| copy.address != source.1.address)
            .collect();
        Ok(status_of(&copies, Some(source)))
    }

    async fn scan_status(&self, id: &MessageId, from: Option<&AgentId>) -> Result<MessageStatus, FabricError> {
        self.spend_scan()?;
        let key = from.map(|from| MessageKey::new(self.0.store.seed(), from.as_str(), id.as_str()));
        let found = self.receipts(IdHash::new(id.as_str()), key).await?;
        // Where several senders used one id, the newest message is meant.
        let newest = found
            .iter()
            .max_by_key(|(_, receipt)| (receipt.accepted_at, receipt.seq));
        let newest_key = newest.map(|(_, receipt)| receipt.key);
        let of_newest: Vec<_> = found
            .into_iter()
            .filter(|(_, receipt)| Some(receipt.key) == newest_key)
            .collect();
        match of_newest
            .iter()
            .copied()
            .find(|(_, receipt)| receipt.reason == Reason::FannedOut)
        {
            Some(source) => {
                let is_copy = |(_, receipt): &(ShardId, Receipt)| receipt.address != source.1.address;
                let copies: Vec<_> = of_newest.into_iter().filter(is_copy).collect();
                Ok(status_of(&copies, Some(source)))
            }
            None if of_newest.is_empty() => Err(FabricError::UnknownMessage(id.to_string())),
            None => Ok(status_of(&of_newest, None)),
        }
    }

    fn spend_scan(&self) -> Result<(), FabricError> {
        let second = time::now().as_millis() / 1000;
        let mut budget = lock(&self.0.scans);
        if budget.second != second {
            *budget = ScanBudget {
                second,
                left: self.0.config.status_scans_per_second,
            };
        }
        match budget.left.checked_sub(1) {
            Some(left) => {
                budget.left = left;
                Ok(())
            }
            None => Err(FabricError::RateLimited {
                what: "status by message id; ask by tracking id",
                retry_after: Duration::from_secs(1),
            }),
        }
    }

    async fn receipts(&self, id: IdHash, key: Option<MessageKey>) -> Result<Vec<(ShardId, Receipt)>, FabricError> {
        let mut found = Vec::new();
        for worker in 0..self.0.workers.handles.len() {
            let of_worker = self.0.workers.inspect_worker(worker, move |shards| {
                let of_shard = |owned: &super::worker::Owned| {
                    let receipts = owned.state.receipts_of_id(id).into_iter();
                    let wanted = receipts.filter(|receipt| key.is_none_or(|key| receipt.key == key));
                    wanted.map(|receipt| (owned.id, receipt)).collect::<Vec<_>>()
                };
                shards.all().flat_map(of_shard).collect::<Vec<_>>()
            });
            found.extend(of_worker.await?);
        }
        Ok(found)
    }

    /// Dead letters of an address, oldest first, after `after`.
    pub async fn dead_letters(
        &self,
        principal: &Principal,
        address: &Address,
        after: Option<TrackingId>,
        limit: usize,
    ) -> Result<Vec<KeptMessage>, FabricError> {
        self.may_inspect_address(principal, address)?;
        let (shard, after, limit) = (address.home_shard(), seq_of(after), limit.min(LIST_MAX));
        let wanted = address.clone();
        let listed = self.0.workers.inspect(shard, move |shards| {
            shards.state(shard).dead_letters(&wanted, after, limit)
        });
        self.read_listed(shard, listed.await?).await
    }

    /// Puts a dead letter back into its queue as new.
    pub async fn replay_dead_letter(
        &self,
        principal: &Principal,
        address: &Address,
        message: &MessageId,
    ) -> Result<TrackingId, FabricError> {
        self.may_inspect_address(principal, address)?;
        let (shard, id, wanted) = (address.home_shard(), IdHash::new(message.as_str()), address.clone());
        let found = self
            .0
            .workers
            .inspect(shard, move |shards| shards.state(shard).find_dead_letter(&wanted, id));
        let unknown = || {
            let address = excerpt(address.as_str());
            FabricError::UnknownMessage(format!("{message} among the dead letters of {address}"))
        };
        let seq = found.await?.ok_or_else(unknown)?;
        let frame = self.read(shard, vec![seq]).await?.pop().ok_or_else(unknown)??;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let ask = super::ask::Ask::Replay(sender);
        self.0.workers.of(shard).control(Control::Replay {
            shard,
            seq,
            frame: Box::new(frame),
            ask,
        });
        let seq = receiver.await.map_err(|_| FabricError::Draining)??;
        Ok(TrackingId { shard, seq })
    }

    fn may_inspect_address(&self, principal: &Principal, address: &Address) -> Result<(), FabricError> {
        match (principal, address.kind(), address.agent_id()) {
            (Principal::Agent(own), AddressKind::Agent | AddressKind::Session, Some(agent))
                if own.as_str() == agent =>
            {
                Ok(())
            }
            (Principal::Agent(own), ..) => self.authorize(own, Action::Inspect),
            (Principal::Anyone, ..) => Ok(()),
        }
    }

    pub(super) async fn read_listed(
        &self,
        shard: ShardId,
        listed: Vec<Listed>,
    ) -> Result<Vec<KeptMessage>, FabricError> {
        let frames = self.read(shard, listed.iter().map(|item| item.seq).collect()).await?;
        let mut messages = Vec::with_capacity(frames.len());
        for (item, frame) in listed.into_iter().zip(frames) {
            match frame {
                Ok(frame) => messages.push(KeptMessage {
                    tracking: TrackingId { shard, seq: item.seq },
                    frame,
                    reason: item.reason,
                    attempts: item.attempts,
                    settled_at: item.settled_at,
                }),
                // It left between the listing and the read: it is not there any more.
                Err(StoreError::Damaged { what }) => tracing::warn!(%shard, what, "a listed message cannot be read"),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(messages)
    }

    async fn read(&self, shard: ShardId, seqs: Vec<Seq>) -> Result<Vec<Result<Frame, StoreError>>, FabricError> {
        if seqs.is_empty() {
            return Ok(Vec::new());
        }
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.0
            .store
            .read(shard, seqs, Box::new(move |frames| drop(sender.send(frames))));
        receiver.await.map_err(|_| FabricError::Draining)
    }

    // --- operations ----------------------------------------------------------------------------------------------

    /// The last envelopes that passed, newest first; `agent` limits them to those from or to it.
    pub async fn passed_envelopes(&self, agent: Option<&AgentId>, limit: usize) -> Vec<PassedEnvelope> {
        let wanted_to = agent.map(|agent| Address::agent(agent).as_str().to_owned());
        let mut passed = Vec::new();
        for worker in 0..self.0.workers.handles.len() {
            let (agent, to) = (agent.cloned(), wanted_to.clone());
            let of_worker = self.0.workers.inspect_worker(worker, move |shards| {
                shards.passed.newest(limit, |passed| {
                    agent
                        .as_ref()
                        .is_none_or(|agent| passed.envelope.from() == agent.as_str())
                        || to.as_deref() == Some(passed.envelope.to())
                })
            });
            passed.extend(of_worker.await.unwrap_or_default());
        }
        passed.sort_by_key(|passed| std::cmp::Reverse(passed.stamp.accepted_at));
        passed.truncate(limit);
        passed
    }

    /// Counters and histograms now.
    pub fn counters(&self) -> CountersSnapshot {
        let mut snapshot = self.0.workers.counters();
        snapshot.sessions = self.0.sessions.by_protocol();
        snapshot
    }

    /// The store's sizes and counts now.
    pub fn store_stats(&self) -> StoreStats {
        self.0.store.stats()
    }

    /// Messages and bytes that wait in an address's queue.
    pub async fn depth(&self, principal: &Principal, address: &Address) -> Result<(usize, u64), FabricError> {
        self.may_inspect_address(principal, address)?;
        let (shard, wanted) = (address.home_shard(), address.clone());
        self.0
            .workers
            .inspect(shard, move |shards| shards.state(shard).depth(&wanted))
            .await
    }

    /// Agents with an HTTP endpoint whose inbox has messages and no session; the webhook edge takes them from here, one at a time.
    /// An agent is named again only after a session of it ended or a further message came.
    pub async fn unattended(&self) -> AgentId {
        match self.0.unattended.recv_async().await {
            Ok(agent) => agent,
            // The workers are gone: nobody is named any more.
            Err(_) => std::future::pending().await,
        }
    }

    /// `None` while the node takes traffic, else what is missing.
    pub fn not_ready(&self) -> Option<String> {
        if self.is_draining() {
            return Some("the node is shutting down".into());
        }
        self.0
            .store
            .stats()
            .read_only
            .then(|| "the store is read-only after an error; see the log, then restart".into())
    }

    pub(super) fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Refuses new sessions and messages from now on and tells every session goodbye.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
        for session in self.0.directory.all_sessions() {
            session.say_goodbye(Goodbye::Draining);
        }
    }

    /// Waits for the sessions to end (at most `patience`), commits what is under way, stops the workers and closes the store.
    pub async fn stop(&self, patience: Duration) -> Result<(), FabricError> {
        self.drain();
        let deadline = time::monotonic() + patience;
        while self.0.sessions.total() > 0 && time::monotonic() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for handle in &self.0.workers.handles {
            handle.control(Control::Stop);
        }
        let threads = std::mem::take(&mut *lock(&self.0.threads));
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().map(JoinHandle::join).all(|r| r.is_ok()));
        if !joined.await.unwrap_or(false) {
            tracing::error!("a shard worker ended with a panic");
        }
        Ok(self.0.store.close().await?)
    }
}

fn new_workers(config: &Config) -> (Arc<Workers>, Vec<queue::Receiver<Command>>) {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let count = if config.workers == 0 { cores } else { config.workers }.clamp(1, WORKERS_MAX);
    let frames_max = NonZeroUsize::new(config.worker_frames_max).unwrap_or(NonZeroUsize::MIN);
    let bounds = Bounds {
        // A command has one frame at least, so that the frames are what a queue fills up with.
        items_per_lane_max: frames_max,
        parts_max: frames_max,
        bytes_max: NonZeroUsize::new(config.worker_bytes_max).unwrap_or(NonZeroUsize::MIN),
    };
    let (handles, inboxes) = (0..count)
        .map(|_| {
            let (inbox, receiver) = queue::lanes(bounds);
            let handle = WorkerHandle {
                runner: Mutex::new(None),
                busy: AtomicBool::new(false),
                inbox,
                control: Arc::new(SegQueue::new()),
                thread: OnceLock::new(),
                counters: Arc::default(),
                straight_bytes: AtomicUsize::new(0),
                median_us: AtomicU64::new(0),
            };
            (Arc::new(handle), receiver)
        })
        .unzip();
    (Arc::new(Workers { handles }), inboxes)
}

fn spawn_worker(
    context: WorkerContext,
    limits: Arc<Limits>,
    images: Vec<(ShardId, Fence, ShardImage)>,
    durable: Vec<Address>,
    inbox: queue::Receiver<Command>,
) -> Result<JoinHandle<()>, FabricError> {
    let (index, handle) = (context.index, context.workers.handles[context.index].clone());
    let thread = std::thread::Builder::new()
        .name(format!("weft-shards-{index}"))
        .spawn({
            let handle = handle.clone();
            move || Runner::new(Shards::new(context, &limits, images, &durable), inbox).run(&handle)
        })
        .map_err(|error| FabricError::StoreFailed {
            what: format!("cannot start a shard worker: {error}"),
        })?;
    handle
        .thread
        .set(thread.thread().clone())
        .expect("each worker is started once");
    // Whatever came before the thread was known waits for it.
    thread.thread().unpark();
    Ok(thread)
}

async fn load_shards(store: &dyn Store) -> Result<Vec<(ShardId, Fence, ShardImage)>, FabricError> {
    let shards: Vec<ShardId> = ShardId::all().collect();
    let fences = store.claim(shards.clone()).await?;
    let mut images = Vec::with_capacity(usize::from(SHARDS));
    for (shard, fence) in shards.into_iter().zip(fences) {
        images.push((shard, fence, store.load(shard).await?));
    }
    Ok(images)
}

async fn load_registry(store: &dyn Store, directory: &Directory) -> Result<(), FabricError> {
    let now = time::now();
    for (key, value) in store.scan_records(Table::Agents).await? {
        let record: AgentRecord = serde_json::from_slice(&value).map_err(|error| damaged("agent", &key, &error))?;
        directory.put_agent(Arc::new(record), now);
    }
    for (key, value) in store.scan_records(Table::Groups).await? {
        let record: GroupRecord = serde_json::from_slice(&value).map_err(|error| damaged("group", &key, &error))?;
        for member in &record.agents {
            // A member that is not registered is known by name while the group lasts.
            drop(directory.name(member, now, usize::MAX));
        }
        directory.put_group(Arc::new(record));
    }
    Ok(())
}

pub(super) fn damaged(what: &str, key: &str, error: &serde_json::Error) -> FabricError {
    FabricError::StoreFailed {
        what: format!("the stored record of {what} {key} cannot be read: {error}"),
    }
}

pub(super) fn decode_filters(key: &str, value: &[u8]) -> Result<Vec<TopicFilter>, FabricError> {
    serde_json::from_slice(value).map_err(|error| damaged("subscriptions", key, &error))
}

fn limits(config: &Config) -> Limits {
    Limits {
        inbox_messages_max: config.inbox_messages_max,
        inbox_bytes_max: config.inbox_bytes_max,
        session_messages_max: config.session_messages_max,
        session_bytes_max: config.session_bytes_max,
        max_deliver: config.max_deliver.max(1),
        backoff_first: Duration::from_millis(config.backoff_first_ms),
        backoff_max: Duration::from_millis(config.backoff_max_ms),
        receipt_window: config.receipt_window(),
        dead_letters_max: config.dead_letters_max,
        dead_letter_retention: Duration::from_millis(config.dead_letter_retention_ms),
        history_messages_max: config.history_messages_max,
    }
}

pub(super) fn seq_of(after: Option<TrackingId>) -> Seq {
    after.map_or(Seq::ZERO, |tracking| tracking.seq)
}

/// One answer from the receipts of all copies. While any copy waits, so does the message; once all are settled, it is delivered where
/// all were, else what went wrong.
fn status_of(copies: &[(ShardId, Receipt)], source: Option<(ShardId, Receipt)>) -> MessageStatus {
    let mut counts = [0u32; Status::COUNT];
    copies.iter().for_each(|(_, copy)| counts[copy.status as usize] += 1);
    let (shard, first) = source
        .or_else(|| copies.first().copied())
        .expect("callers have one receipt at least");
    let recipients = source.map_or(copies.len() as u32, |(_, source)| source.recipients);
    let precedence = [
        Status::Queued,
        Status::Sent,
        Status::DeadLettered,
        Status::Rejected,
        Status::Expired,
        Status::Delivered,
    ];
    let worst = precedence.into_iter().find(|status| counts[*status as usize] > 0);
    let status = match (source, worst) {
        (Some((_, source)), _) if !source.status.is_settled() => source.status,
        (Some((_, source)), None) => source.status,
        (_, Some(worst)) => worst,
        (None, None) => first.status,
    };
    let reason = copies
        .iter()
        .find(|(_, copy)| copy.status == status)
        .map_or(first.reason, |(_, copy)| copy.reason);
    let sent_at = copies
        .iter()
        .map(|(_, copy)| copy.sent_at)
        .filter(|at| !at.is_never())
        .min();
    let settled_at = match status.is_settled() {
        true => copies
            .iter()
            .map(|(_, copy)| copy.settled_at)
            .max()
            .unwrap_or(first.settled_at),
        false => time::Timestamp::NEVER,
    };
    MessageStatus {
        tracking: TrackingId { shard, seq: first.seq },
        status,
        reason,
        recipients,
        counts,
        attempts: copies
            .iter()
            .map(|(_, copy)| copy.attempts)
            .max()
            .unwrap_or(first.attempts),
        accepted_at: first.accepted_at,
        sent_at: sent_at.unwrap_or(time::Timestamp::NEVER),
        settled_at,
    }
}

/// Forgets agents that were named but never registered once nobody has used them for a day.
async fn sweep(inner: std::sync::Weak<Inner>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        let fabric = Fabric(inner);
        fabric.forget_expired_retained();
        for agent in fabric.0.directory.unused_since(time::now() - UNREGISTERED_UNUSED) {
            if let Err(error) = fabric.remove_agent(&Principal::Anyone, &agent).await {
                tracing::warn!(%agent, %error, "an unused agent could not be removed");
            }
        }
    }
}
