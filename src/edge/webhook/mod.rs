//! The webhook edge: pushes messages to the `endpoints.http` of agents that have no session.
//!
//! Owns the attached turns, the signed requests, the check of every resolved address and the circuits of endpoints that fail.
//! Must never know another edge or a store. What it does not push, the mailbox keeps. Start at [`run`], then [`turn`].

mod circuits;
mod connector;
mod guard;
mod push;
mod signature;
mod turn;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

pub use self::signature::{Secret, SecretError};
use self::{
    circuits::Circuits,
    connector::{Connector, SystemResolver, tls_config},
    guard::{Guard, Loopback},
    push::Pusher,
    turn::{Ended, Shared, Turn},
};
use super::counters::Counters;
use crate::{
    frame::AgentId,
    router::{Fabric, surface::Principal},
    time::monotonic,
};

/// Settings of the webhook edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `whsec_` and the base64 of 24 to 64 bytes. Where it is not set, `secret_file` is used.
    pub secret: Option<Secret>,
    /// A file that holds the secret; made with a new one where it does not exist. Where neither is set, a secret is made that
    /// nobody learns, so that receivers cannot verify pushes.
    pub secret_file: Option<PathBuf>,
    /// Networks that may be pushed to although they are not public.
    pub allowed_networks: Vec<IpNet>,
    /// Whether this machine's own loopback addresses may be pushed to; the node sets it in development mode.
    pub allow_loopback: bool,
    /// Milliseconds for one push, from resolving the name to the answer's head; above it the message is tried again later.
    pub timeout_ms: u64,
    /// Agents whose messages are pushed at once; others wait for their turn.
    pub agents_max: usize,
    /// Pushes to one agent at once; messages of one sender, priority and QoS go one after the other regardless.
    pub pushes_per_agent_max: usize,
    /// Pushes in a row that may fail; then the endpoint is left alone: for 1 s, doubling to 5 min while it goes on failing.
    pub failures_max: u32,
    /// Milliseconds without a message after which the edge's session of an agent ends.
    pub idle_ms: u64,
    /// Milliseconds after which an agent's turn ends though messages are left, so that others have theirs.
    pub turn_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            secret: None,
            secret_file: None,
            allowed_networks: Vec::new(),
            allow_loopback: false,
            timeout_ms: 10_000,
            agents_max: 64,
            pushes_per_agent_max: 16,
            failures_max: 5,
            idle_ms: 5_000,
            turn_ms: 60_000,
        }
    }
}

impl Config {
    const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    const fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }

    const fn turn(&self) -> Duration {
        Duration::from_millis(self.turn_ms)
    }

    fn secret(&self) -> Result<Secret, SecretError> {
        match (&self.secret, &self.secret_file) {
            (Some(secret), _) => Ok(secret.clone()),
            (None, Some(path)) => Secret::load_or_create(path),
            (None, None) => Secret::generate(),
        }
    }

    const fn loopback(&self) -> Loopback {
        match self.allow_loopback {
            true => Loopback::Allowed,
            false => Loopback::Refused,
        }
    }
}

/// Pushes until `shutdown`, then settles what is on its way and returns. Fails at once where there is no usable secret.
pub async fn run(
    fabric: Fabric,
    config: Config,
    counters: Arc<Counters>,
    shutdown: CancellationToken,
) -> Result<(), SecretError> {
    let guard = Guard::new(config.loopback(), config.allowed_networks.clone());
    let connector = Connector::new(guard, Arc::new(SystemResolver), tls_config(), config.timeout());
    let pusher = Pusher::new(connector, config.secret()?, config.timeout());
    let shared = Shared {
        fabric,
        config,
        pusher,
        counters,
        shutdown,
    };
    Dispatcher::new(shared).run().await;
    Ok(())
}

/// Gives agents their turns.
struct Dispatcher {
    shared: Arc<Shared>,
    circuits: Circuits,
    turns: JoinSet<Ended>,
    /// Whose turn each task is.
    agents: HashMap<Id, AgentId>,
    attended: HashSet<AgentId>,
}

impl Dispatcher {
    fn new(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
            circuits: Circuits::default(),
            turns: JoinSet::new(),
            agents: HashMap::new(),
            attended: HashSet::new(),
        }
    }

    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let has_room = self.turns.len() < shared.config.agents_max;
            let pause = self.circuits.next_deadline();
            tokio::select! {
                agent = shared.fabric.unattended(), if has_room => self.attend(agent),
                () = until(pause), if has_room && pause.is_some() => self.probe_due(),
                Some(ended) = self.turns.join_next_with_id(), if !self.turns.is_empty() => self.note(ended),
                () = shared.shutdown.cancelled() => break,
            }
        }
        while let Some(ended) = self.turns.join_next_with_id().await {
            self.note(ended);
        }
    }

    fn probe_due(&mut self) {
        if let Some(agent) = self.circuits.take_due(monotonic()) {
            self.attend(agent);
        }
    }

    /// Begins an agent's turn, unless it has one or its endpoint is left alone.
    fn attend(&mut self, agent: AgentId) {
        if self.attended.contains(&agent) {
            return;
        }
        let view = self.shared.fabric.agent(&Principal::Agent(agent.clone()), &agent);
        let Some(record) = view.ok().and_then(|view| view.record) else {
            return;
        };
        let kind = match self.circuits.turn(&agent, record.updated_at) {
            circuits::Turn::Skip => return,
            kind @ (circuits::Turn::Full | circuits::Turn::Probe) => kind,
        };
        let turn = Turn::run(Arc::clone(&self.shared), agent.clone(), kind);
        let id = self.turns.spawn(turn).id();
        self.agents.insert(id, agent.clone());
        self.attended.insert(agent);
    }

    fn note(&mut self, ended: Result<(Id, Ended), JoinError>) {
        let (id, ended) = match ended {
            Ok((id, ended)) => (id, ended),
            Err(error) => {
                tracing::error!(%error, "a webhook turn failed");
                (error.id(), Ended::Failing)
            }
        };
        let agent = self
            .agents
            .remove(&id)
            .expect("every turn was entered when it was spawned");
        self.attended.remove(&agent);
        match ended {
            Ended::Untried => {}
            Ended::Well => self.circuits.succeeded(&agent),
            Ended::Failing => drop(self.circuits.failed(agent, monotonic())),
            Ended::Gone(registered) => {
                tracing::info!(agent_id = %agent, "an agent's endpoint wants no more pushes until it registers again");
                self.circuits.gone(agent, registered);
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    let Some(at) = at else {
        return std::future::pending().await;
    };
    sleep(at.saturating_duration_since(monotonic())).await;
}
