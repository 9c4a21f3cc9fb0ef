//! Who is known and who is attached: agents, groups, capabilities, sessions, topic subscriptions.
//!
//! Publishers read it without a lock (concurrent maps, atomic pointers). Changes of records go through the door, one at a time,
//! and are durable before they show here.

use std::{
    borrow::Borrow,
    cmp,
    collections::BTreeSet,
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;

use super::{
    registry::{AgentFilter, AgentRecord, AgentView, CommunicationMode, GroupRecord},
    session::SessionCore,
    topics::{HashMap, Topics},
};
use crate::{
    delivery::{QueueKind, Selection},
    frame::{Address, AddressKind, AgentId, Capability, GroupId},
    time::Timestamp,
};

/// An agent that is known: registered, or named once.
#[derive(Debug)]
pub(super) struct Agent {
    pub id: AgentId,
    /// `None`: named, but not registered.
    record: ArcSwapOption<AgentRecord>,
    sessions: Mutex<Vec<Arc<SessionCore>>>,
    /// It was only named, and is not in the directory any more. Changed under the lock of its sessions, so that none is listed with it then.
    is_forgotten: AtomicBool,
    /// Groups that it is a member of.
    #[expect(
        clippy::box_collection,
        reason = "of a million agents most are in none, and keep 16 bytes less"
    )]
    groups: Mutex<Option<Box<BTreeSet<GroupId>>>>,
    /// Topic subscriptions over all its sessions.
    pub subscriptions: AtomicUsize,
    /// What these weigh: see [`super::subscriptions::weight_bytes`].
    pub subscription_bytes: AtomicUsize,
    last_seen: AtomicU64,
}

impl Agent {
    fn new(id: AgentId, record: Option<Arc<AgentRecord>>, now: Timestamp) -> Self {
        Self {
            id,
            record: ArcSwapOption::new(record),
            sessions: Mutex::default(),
            is_forgotten: AtomicBool::new(false),
            groups: Mutex::default(),
            subscriptions: AtomicUsize::new(0),
            subscription_bytes: AtomicUsize::new(0),
            last_seen: AtomicU64::new(now.as_millis()),
        }
    }

    pub fn record(&self) -> Option<Arc<AgentRecord>> {
        self.record.load_full()
    }

    pub fn is_registered(&self) -> bool {
        self.record.load().is_some()
    }

    /// True where the fabric pushes to it over HTTP while it has no session.
    pub fn has_webhook(&self) -> bool {
        self.record
            .load()
            .as_ref()
            .is_some_and(|record| record.endpoints.contains_key("http"))
    }

    pub fn sessions(&self) -> MutexGuard<'_, Vec<Arc<SessionCore>>> {
        lock(&self.sessions)
    }

    /// Asked while its sessions are locked: a session listed now would be found by nobody.
    pub fn is_forgotten(&self) -> bool {
        self.is_forgotten.load(Ordering::Acquire)
    }

    pub fn groups(&self) -> Vec<GroupId> {
        lock(&self.groups)
            .iter()
            .flat_map(|groups| groups.iter())
            .cloned()
            .collect()
    }

    pub fn touch(&self, now: Timestamp) {
        self.last_seen.store(now.as_millis(), Ordering::Relaxed);
    }

    pub fn last_seen(&self) -> Timestamp {
        Timestamp::from_millis(self.last_seen.load(Ordering::Relaxed))
    }

    pub fn view(&self) -> AgentView {
        AgentView {
            agent_id: self.id.clone(),
            record: self.record(),
            sessions: self.sessions().len(),
            last_seen: self.last_seen(),
        }
    }
}

/// An agent under its id: a million of them are kept, so that the id stands there once.
#[derive(Clone, Debug)]
struct ById(Arc<Agent>);

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        self.0.id.as_str()
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ById {
    fn cmp(&self, other: &Self) -> cmp::Ordering {
        self.0.id.cmp(&other.0.id)
    }
}

/// As of the text that it is looked up by.
impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.as_str().hash(state);
    }
}

/// A group and what publishers need of it at every message.
#[derive(Debug)]
pub(super) struct Group {
    pub record: Arc<GroupRecord>,
    /// The members' inboxes, in the order of `record.agents`.
    pub inboxes: Vec<Address>,
}

impl Group {
    /// How its queue picks a member, for the modes that pick one from a queue.
    pub fn one_of(&self) -> Option<QueueKind> {
        match self.record.communication_mode {
            CommunicationMode::RoundRobin => Some(QueueKind::OneOf(Selection::RoundRobin)),
            CommunicationMode::LeastLoaded => Some(QueueKind::OneOf(Selection::LeastOutstanding)),
            CommunicationMode::Broadcast | CommunicationMode::Partitioned => None,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Directory {
    agents: HashMap<ById, ()>,
    /// The same agents in order of id, for listings.
    ordered: RwLock<BTreeSet<ById>>,
    unregistered: AtomicUsize,
    groups: HashMap<GroupId, Arc<Group>>,
    /// Registered agents that declare each capability.
    capabilities: HashMap<Capability, usize>,
    pub topics: Topics,
}

impl Directory {
    pub fn agent(&self, id: &str) -> Option<Arc<Agent>> {
        self.agents.pin().get_key_value(id).map(|(agent, ())| agent.0.clone())
    }

    /// True where the agent is known; notes that it is in use.
    pub fn touch(&self, id: &str, now: Timestamp) -> bool {
        let agents = self.agents.pin();
        let agent = agents.get_key_value(id);
        agent.inspect(|(agent, ())| agent.0.touch(now)).is_some()
    }

    /// Makes an agent known by name alone. `Err`: there are as many of those as allowed.
    pub fn name(&self, id: &AgentId, now: Timestamp, unregistered_max: usize) -> Result<Arc<Agent>, usize> {
        match self.agent(id.as_str()) {
            Some(agent) => Ok(agent),
            None => self.name_then(id, now, unregistered_max, Arc::clone),
        }
    }

    /// [`Directory::name`], and does something with the agent before anyone can forget it.
    pub fn name_then<T>(
        &self,
        id: &AgentId,
        now: Timestamp,
        unregistered_max: usize,
        then: impl FnOnce(&Arc<Agent>) -> T,
    ) -> Result<T, usize> {
        let mut ordered = self.ordered.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(ById(agent)) = ordered.get(id.as_str()) {
            return Ok(then(agent));
        }
        if self.unregistered.load(Ordering::Relaxed) >= unregistered_max {
            return Err(unregistered_max);
        }
        self.unregistered.fetch_add(1, Ordering::Relaxed);
        let agent = Arc::new(Agent::new(id.clone(), None, now));
        ordered.insert(ById(agent.clone()));
        self.agents.pin().insert(ById(agent.clone()), ());
        Ok(then(&agent))
    }

    /// Shows a registered agent's record; returns the one that it replaces.
    pub fn put_agent(&self, record: Arc<AgentRecord>, now: Timestamp) -> Option<Arc<AgentRecord>> {
        let id = record.agent_id.clone();
        let mut ordered = self.ordered.write().unwrap_or_else(PoisonError::into_inner);
        let earlier = match ordered.get(id.as_str()) {
            Some(ById(agent)) => {
                let earlier = agent.record.swap(Some(record.clone()));
                if earlier.is_none() {
                    self.unregistered.fetch_sub(1, Ordering::Relaxed);
                }
                earlier
            }
            None => {
                let agent = Arc::new(Agent::new(id, Some(record.clone()), now));
                ordered.insert(ById(agent.clone()));
                self.agents.pin().insert(ById(agent), ());
                None
            }
        };
        self.count_capabilities(&record, earlier.as_deref());
        earlier
    }

    fn count_capabilities(&self, now: &AgentRecord, earlier: Option<&AgentRecord>) {
        let capabilities = self.capabilities.pin();
        for capability in &now.capabilities {
            capabilities.update_or_insert(capability.clone(), |count| count + 1, 1);
        }
        for capability in earlier.iter().flat_map(|earlier| &earlier.capabilities) {
            capabilities.update(capability.clone(), |count| count.saturating_sub(1));
            let _ = capabilities.remove_if(capability, |_, count| *count == 0);
        }
    }

    pub fn remove_agent(&self, id: &AgentId) -> Option<Arc<Agent>> {
        let mut ordered = self.ordered.write().unwrap_or_else(PoisonError::into_inner);
        let ById(agent) = ordered.take(id.as_str())?;
        self.agents.pin().remove(id.as_str());
        match agent.record() {
            Some(record) => {
                let nothing = AgentRecord {
                    capabilities: Vec::new(),
                    ..(*record).clone()
                };
                self.count_capabilities(&nothing, Some(&record));
            }
            None => {
                self.unregistered.fetch_sub(1, Ordering::Relaxed);
            }
        }
        Some(agent)
    }

    /// Forgets an agent that was only named: nothing but its name is lost, and that comes back with whoever names it again.
    pub fn forget_named(&self, id: &AgentId) {
        let mut ordered = self.ordered.write().unwrap_or_else(PoisonError::into_inner);
        let Some(ById(agent)) = ordered.get(id.as_str()) else {
            return;
        };
        let sessions = agent.sessions();
        if agent.is_registered() || !sessions.is_empty() || lock(&agent.groups).is_some() {
            return;
        }
        agent.is_forgotten.store(true, Ordering::Release);
        drop(sessions);
        ordered.remove(id.as_str());
        self.agents.pin().remove(id.as_str());
        self.unregistered.fetch_sub(1, Ordering::Relaxed);
    }

    /// Agents that were named but never registered, have no session, and were last in use before `before`.
    pub fn unused_since(&self, before: Timestamp) -> Vec<AgentId> {
        let ordered = self.ordered.read().unwrap_or_else(PoisonError::into_inner);
        let unused = ordered
            .iter()
            .map(|ById(agent)| agent)
            .filter(|agent| !agent.is_registered() && agent.last_seen() < before && agent.sessions().is_empty());
        unused.map(|agent| agent.id.clone()).collect()
    }

    pub fn has_capability(&self, capability: &str) -> bool {
        self.capabilities.pin().get(capability).is_some_and(|count| *count > 0)
    }

    /// Agents in order of id that pass a filter.
    pub fn list(&self, filter: &AgentFilter, limit: usize) -> Vec<AgentView> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let ordered = self.ordered.read().unwrap_or_else(PoisonError::into_inner);
        let prefix = filter.prefix.as_deref().unwrap_or_default();
        let from = match (&filter.after, filter.prefix.as_deref()) {
            (Some(after), prefix) if prefix.is_none_or(|prefix| after.as_str() >= prefix) => Excluded(after.as_str()),
            (_, Some(prefix)) => Included(prefix),
            _ => Unbounded,
        };
        let range = ordered.range::<str, _>((from, Unbounded));
        let with_prefix = range.take_while(|ById(agent)| agent.id.as_str().starts_with(prefix));
        with_prefix
            .map(|ById(agent)| agent.view())
            .filter(|view| passes(filter, view))
            .take(limit)
            .collect()
    }

    pub fn all_sessions(&self) -> Vec<Arc<SessionCore>> {
        let ordered = self.ordered.read().unwrap_or_else(PoisonError::into_inner);
        ordered
            .iter()
            .flat_map(|ById(agent)| agent.sessions().clone())
            .collect()
    }

    pub fn group(&self, id: &str) -> Option<Arc<Group>> {
        self.groups.pin().get(id).cloned()
    }

    /// What a queue is for and how long its messages stay readable, where more than its address says so.
    pub fn queue_of(&self, address: &Address) -> (QueueKind, Duration) {
        let group = match address.kind() {
            AddressKind::Group => self.group(address.name()),
            _ => None,
        };
        match group {
            Some(group) => (
                group.one_of().unwrap_or(QueueKind::FanOut),
                group.record.policies.retention(),
            ),
            None => (QueueKind::of(address), Duration::ZERO),
        }
    }

    /// Shows a group; its members know of it.
    pub fn put_group(&self, record: Arc<GroupRecord>) {
        if let Some(earlier) = self.group(record.group_id.as_str()) {
            self.forget_members(&earlier.record);
        }
        for member in &record.agents {
            if let Some(agent) = self.agent(member.as_str()) {
                lock(&agent.groups)
                    .get_or_insert_default()
                    .insert(record.group_id.clone());
            }
        }
        let inboxes = record.agents.iter().map(Address::agent).collect();
        self.groups
            .pin()
            .insert(record.group_id.clone(), Arc::new(Group { record, inboxes }));
    }

    pub fn remove_group(&self, id: &GroupId) {
        if let Some(group) = self.groups.pin().remove(id) {
            self.forget_members(&group.record);
        }
    }

    fn forget_members(&self, record: &GroupRecord) {
        for agent in record.agents.iter().filter_map(|member| self.agent(member.as_str())) {
            let mut groups = lock(&agent.groups);
            if let Some(some) = &mut *groups {
                some.remove(&record.group_id);
                if some.is_empty() {
                    *groups = None;
                }
            }
        }
    }

    /// Groups in order of id, after `after`.
    pub fn list_groups(&self, after: Option<&GroupId>, limit: usize) -> Vec<Arc<GroupRecord>> {
        let groups = self.groups.pin();
        let later = groups.iter().filter(|(id, _)| after.is_none_or(|after| *id > after));
        let mut records: Vec<_> = later.map(|(_, group)| group.record.clone()).collect();
        records.sort_unstable_by(|one, other| one.group_id.cmp(&other.group_id));
        records.truncate(limit);
        records
    }
}

fn passes(filter: &AgentFilter, view: &AgentView) -> bool {
    let record = view.record.as_deref();
    let has_capability = |wanted| record.is_some_and(|record| record.capabilities.contains(wanted));
    let has_protocol = |wanted| record.is_some_and(|record| record.protocols.contains(wanted));
    filter.capability.as_ref().is_none_or(has_capability)
        && filter.protocol.as_ref().is_none_or(has_protocol)
        && filter.online.is_none_or(|online| online == (view.sessions > 0))
}

/// Locks guard single collections; a panic while one is held leaves the collection itself whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
