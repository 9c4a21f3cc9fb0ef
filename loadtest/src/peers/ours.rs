//! weft's side of the comparison: the scenarios of this program in the shapes that the goals are set in.

use std::{collections::VecDeque, fs, path::Path, process::Command, time::Duration};

use weft::{
    client::{Client, Message, Registration, SessionOptions},
    frame::{AgentId, Qos},
};

use super::{
    case::{Absent, Case, Setting, of_start},
    figures::{Figure, Figures},
    limits,
    mqtt::{self, Broker, Idle, Pairs, Work},
    raw,
    workload::Shape,
};
use crate::{
    child::Folder,
    driver::{Connector, Receiving},
    node::{Encryption, Node, Serve},
    plan::{Load, Plan, Protocol, Scenario},
    progress::Progress,
    report::{Run, Verdict, count},
    scenario,
};

/// Idle sessions that are counted.
const IDLE_SESSIONS: usize = 2_000;
/// Registrations that are under way at once.
const REGISTERING_MAX: usize = 64;
/// HTTP requests under way at once, each on a connection of its own: as the bare server is asked.
pub const HTTP_CONNECTIONS: usize = 64;

/// Runs weft's cases.
#[derive(Clone, Copy, Debug)]
pub struct Ours<'a>(pub &'a Setting);

impl Ours<'_> {
    /// Runs one of them.
    pub async fn run(self, case: Case) -> Result<Figures, Absent> {
        let figures = match case {
            Case::WeftQuic => self.pairs(Protocol::Quic, |_| {}).await,
            Case::WeftQuic6400 => {
                self.pairs(Protocol::Quic, |serve| serve.quic_mtu = Some(limits::MTU_LOOPBACK))
                    .await
            }
            Case::WeftQuicRaw => self.quic_raw(None).await,
            Case::WeftQuic6400Raw => self.quic_raw(Some(limits::MTU_LOOPBACK)).await,
            Case::WeftGrpcRaw => self.raw(Shape::Pairs(self.0.pairs), Encryption::Plain).await,
            Case::WeftGrpcTlsRaw => self.raw(Shape::Pairs(self.0.pairs), Encryption::Tls).await,
            Case::WeftFanOutRaw => self.raw(Shape::FanOut(self.0.fan), Encryption::Tls).await,
            Case::WeftFanInRaw => self.raw(Shape::FanIn(self.0.fan), Encryption::Tls).await,
            Case::WeftHttpRaw => self.http_raw().await,
            Case::WeftGrpc => self.pairs(Protocol::Grpc, |_| {}).await,
            Case::WeftGrpcTls => {
                self.pairs(Protocol::Grpc, |serve| serve.encryption = Encryption::Tls)
                    .await
            }
            Case::WeftDurable => self.durable(128).await,
            Case::WeftDurable1 => self.durable(1).await,
            Case::WeftDurableRaw => self.durable_raw(128).await,
            Case::WeftDurable1Raw => self.durable_raw(1).await,
            Case::WeftHttp => self.http().await,
            Case::WeftRequestGrpcRaw => self.request_raw().await,
            Case::WeftRequestGrpc => self.request(Protocol::Grpc, Encryption::Tls).await,
            Case::WeftRequestQuic => self.request(Protocol::Quic, Encryption::Plain).await,
            Case::WeftRequestHalfLoad => self.request_at_half_load().await,
            Case::WeftCritical => self.simple(Scenario::Priorities, 1, Encryption::Plain).await,
            Case::WeftFanOut => self.simple(Scenario::FanOut, self.0.fan, Encryption::Tls).await,
            Case::WeftFanIn => self.simple(Scenario::FanIn, self.0.fan, Encryption::Tls).await,
            Case::WeftManyMailboxes => self.many_mailboxes().await,
            Case::WeftManyAgents => self.many_agents().await,
            Case::WeftStartFull => self.start_full().await,
            Case::WeftIdleWebsocket => self.idle(Protocol::Websocket).await,
            Case::WeftIdleGrpc => self.idle(Protocol::Grpc).await,
            Case::WeftIdleQuic => self.idle(Protocol::Quic).await,
            Case::WeftStart => self.start(),
            Case::Mqtt(Broker::Weft, work, pairs) => self.mqtt(work, pairs).await,
            Case::MqttIdle(Broker::Weft, idle) => self.mqtt_idle(idle).await,
            _ => Err(format!("{} is not weft's", case.name())),
        };
        figures.map_err(Absent::Failed)
    }

    fn serve(self) -> Serve {
        Serve {
            data_parent: self.0.data_parent.clone(),
            ..Serve::new(&self.0.weft)
        }
    }

    fn plan(self, scenario: Scenario, protocol: Protocol, agents: usize) -> Plan {
        let mut plan = Plan::new(scenario, protocol);
        plan.bounds.warm_up = self.0.extent.warm_up;
        plan.bounds.time = self.0.extent.time;
        plan.body_bytes = self.0.extent.body_bytes;
        plan.agents = agents;
        plan
    }

    async fn measure(self, serve: &Serve, plan: &Plan) -> Result<Figures, String> {
        let node = Node::serve(serve)?;
        checked(scenario::run(&node, plan, &Progress::new(&plan.title())).await?).map(|run| Figures::of_run(&run))
    }

    async fn durable_raw(self, in_flight: u64) -> Result<Figures, String> {
        raw::durable(&Node::serve(&self.serve())?, in_flight, self.0.extent).await
    }

    async fn pairs(self, protocol: Protocol, change: impl FnOnce(&mut Serve)) -> Result<Figures, String> {
        let mut serve = self.serve();
        serve.protocols = vec![protocol];
        change(&mut serve);
        self.measure(&serve, &self.pairs_plan(protocol)).await
    }

    async fn raw(self, shape: Shape, encryption: Encryption) -> Result<Figures, String> {
        let node = Node::serve(&Serve {
            encryption,
            ..self.serve()
        })?;
        raw::publish_subscribe(&node, raw::Carrier::Grpc, shape, self.0.extent).await
    }

    async fn quic_raw(self, mtu: Option<u16>) -> Result<Figures, String> {
        let node = Node::serve(&Serve {
            protocols: vec![Protocol::Quic],
            quic_mtu: mtu,
            ..self.serve()
        })?;
        raw::publish_subscribe(&node, raw::Carrier::Quic, Shape::Pairs(self.0.pairs), self.0.extent).await
    }

    async fn http_raw(self) -> Result<Figures, String> {
        raw::http(&Node::serve(&self.serve())?, self.0.extent).await
    }

    fn pairs_plan(self, protocol: Protocol) -> Plan {
        let scenario = if self.0.pairs == 1 {
            Scenario::OneToOne
        } else {
            Scenario::NToN
        };
        let mut plan = self.plan(scenario, protocol, self.0.pairs);
        // A thousand agents with a small window each are as many messages under way as one pair with a large one.
        if let Load::Closed { in_flight } = &mut plan.load {
            *in_flight = (16_384 / self.0.pairs).clamp(16, 16_384);
        }
        plan
    }

    async fn durable(self, in_flight: usize) -> Result<Figures, String> {
        let mut plan = self.plan(Scenario::Durable, Protocol::Grpc, 1);
        plan.load = Load::Closed { in_flight };
        self.measure(&self.serve(), &plan).await
    }

    /// Producers over HTTP, one consumer that costs the node as little as one can.
    async fn http(self) -> Result<Figures, String> {
        let mut plan = self.plan(Scenario::OneToOne, Protocol::Http, 1);
        plan.receive_over = Protocol::Grpc;
        plan.load = Load::Closed {
            in_flight: HTTP_CONNECTIONS,
        };
        self.measure(&self.serve(), &plan).await
    }

    async fn request_raw(self) -> Result<Figures, String> {
        let serve = Serve {
            encryption: Encryption::Tls,
            ..self.serve()
        };
        raw::request(Node::serve(&serve)?, self.0.extent).await
    }

    /// QUIC is always encrypted; this says whether gRPC is.
    async fn request(self, protocol: Protocol, encryption: Encryption) -> Result<Figures, String> {
        let serve = Serve {
            protocols: vec![protocol],
            encryption,
            ..self.serve()
        };
        self.measure(&serve, &self.plan(Scenario::RequestReply, protocol, 1))
            .await
    }

    /// Round trips while other agents send half of what the node can carry.
    async fn request_at_half_load(self) -> Result<Figures, String> {
        let serve = Serve {
            encryption: Encryption::Tls,
            ..self.serve()
        };
        let node = Node::serve(&serve)?;
        let mut bulk = self.plan(Scenario::OneToOne, Protocol::Grpc, 1);
        let saturation = checked(scenario::run(&node, &bulk, &Progress::silent()).await?)?;
        bulk.load = Load::Open {
            rate_per_s: saturation.deliveries_per_s / 2.0,
        };
        let request = self.plan(Scenario::RequestReply, Protocol::Grpc, 1);
        let silent = Progress::silent();
        let (bulk, request) = tokio::join!(
            scenario::run(&node, &bulk, &silent),
            scenario::run(&node, &request, &silent)
        );
        bulk?;
        checked(request?).map(|run| Figures::of_run(&run))
    }

    async fn simple(self, scenario: Scenario, agents: usize, encryption: Encryption) -> Result<Figures, String> {
        let serve = Serve {
            encryption,
            ..self.serve()
        };
        self.measure(&serve, &self.plan(scenario, Protocol::Grpc, agents)).await
    }

    async fn idle(self, protocol: Protocol) -> Result<Figures, String> {
        let mut serve = self.serve();
        serve.protocols = vec![protocol];
        self.measure(&serve, &self.plan(Scenario::IdleConnections, protocol, IDLE_SESSIONS))
            .await
    }

    /// What lasts is on disk, everything else in a node without one.
    async fn mqtt(self, work: Work, pairs: Pairs) -> Result<Figures, String> {
        let mut serve = self.serve();
        serve.protocols = vec![Protocol::Mqtt];
        if work != Work::Qos1Durable {
            serve.arguments.push("--memory".to_owned());
        }
        let node = Node::serve(&serve)?;
        let host = node.endpoints.mqtt.as_deref().ok_or("the node has no MQTT listener")?;
        let address = host.parse().map_err(|error| format!("{host}: {error}"))?;
        mqtt::pairs(address, node.pid(), work, pairs, self.0.mqtt_extent()).await
    }

    async fn mqtt_idle(self, idle: Idle) -> Result<Figures, String> {
        let mut serve = self.serve();
        serve.protocols = vec![Protocol::Mqtt];
        let node = Node::serve(&serve)?;
        let host = node.endpoints.mqtt.as_deref().ok_or("the node has no MQTT listener")?;
        mqtt::idle(host, node.pid().ok_or("started here")?, idle).await
    }

    fn start(self) -> Result<Figures, String> {
        let node = Node::serve(&self.serve())?;
        let ready = node.ready_after().ok_or("started here")?;
        let mut figures = of_start(ready);
        figures.set(Figure::BinaryBytes, stripped_bytes(&self.0.weft, &self.0.data_parent)?);
        Ok(figures)
    }

    /// One pair beside many mailboxes, some of them with a session.
    async fn many_mailboxes(self) -> Result<Figures, String> {
        let growth = self.0.growth;
        let node = Node::serve(&self.serve())?;
        register(&node, growth.mailboxes).await?;
        let connector = Connector::new(node.endpoints.clone(), 100);
        let mut sessions = Vec::with_capacity(growth.attached);
        for index in 0..growth.attached {
            let (agent, receiving) = (registered(index), Receiving::default());
            sessions.push(connector.receiver(Protocol::Grpc, &agent, &receiving).await?);
        }
        let run = scenario::run(
            &node,
            &self.pairs_plan(Protocol::Grpc),
            &Progress::new("many mailboxes"),
        )
        .await;
        drop(sessions);
        checked(run?).map(|run| Figures::of_run(&run))
    }

    /// Memory of a registered agent that nobody has attached to.
    async fn many_agents(self) -> Result<Figures, String> {
        let agents = self.0.growth.agents;
        let node = Node::serve(&self.serve())?;
        // The first few pay for what all of them share.
        register(&node, 1_000).await?;
        let rss = || node.sample().map(|sample| sample.rss_bytes).ok_or("the node is gone");
        let before = rss()?;
        register(&node, agents).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut figures = Figures::default();
        let grown = rss()?.saturating_sub(before);
        figures.set(
            Figure::BytesEach,
            count(grown) / count(agents.saturating_sub(1_000).max(1) as u64),
        );
        Ok(figures)
    }

    /// How long a node takes to be ready on a store with many waiting messages.
    async fn start_full(self) -> Result<Figures, String> {
        /// Below what an inbox holds.
        const EACH: u64 = 50_000;
        const UNANSWERED_MAX: usize = 1_000;
        let kept = Folder::new(&self.0.data_parent)?;
        let data = kept.path().join("data");
        let node = Node::serve_on(&self.serve(), &data, Folder::new(&self.0.data_parent)?)?;
        let client = client_of(&node).await?;
        let from = agent("loadtest/filler")?;
        let session = client.session(&from, SessionOptions::send_only()).await;
        let session = session.map_err(|error| error.to_string())?;
        let body = bytes::Bytes::from(vec![b'.'; self.0.extent.body_bytes]);
        let mut unanswered = VecDeque::with_capacity(UNANSWERED_MAX);
        for number in 0..self.0.growth.messages {
            let to = agent(&format!("loadtest/full-{}", number / EACH))?;
            let message = Message::to_agent(&to).qos(Qos::AtLeastOnce).body(body.clone());
            unanswered.push_back(session.send(message).await.map_err(|error| error.to_string())?);
            if unanswered.len() == UNANSWERED_MAX
                && let Some(oldest) = unanswered.pop_front()
            {
                oldest.await.map_err(|error| error.to_string())?;
            }
        }
        for handle in unanswered {
            handle.await.map_err(|error| error.to_string())?;
        }
        drop(session);
        drop(client);
        drop(node);
        let node = Node::serve_on(&self.serve(), &data, Folder::new(&self.0.data_parent)?)?;
        Ok(of_start(node.ready_after().ok_or("started here")?))
    }
}

/// A run that broke a promise is no figure.
fn checked(run: Run) -> Result<Run, String> {
    match run.verdict() {
        Verdict::Clean => Ok(run),
        Verdict::Faulty => Err(format!(
            "not what was promised: {:?}, {} unsettled; {}",
            run.findings,
            run.unsettled,
            run.errors.join("; ")
        )),
    }
}

fn agent(id: &str) -> Result<AgentId, String> {
    AgentId::new(id).map_err(|error| error.to_string())
}

fn registered(index: usize) -> String {
    format!("fleet/agent-{index}")
}

async fn client_of(node: &Node) -> Result<Client, String> {
    Connector::new(node.endpoints.clone(), 1).control().await
}

/// Registers the agents from 0 to below this number; again is an update.
async fn register(node: &Node, agents: usize) -> Result<(), String> {
    let client = client_of(node).await?;
    let turns = std::sync::Arc::new(tokio::sync::Semaphore::new(REGISTERING_MAX));
    let mut calls = tokio::task::JoinSet::new();
    for index in 0..agents {
        let turn = turns.clone().acquire_owned().await.map_err(|error| error.to_string())?;
        let client = client.clone();
        calls.spawn(async move {
            let agent = agent(&registered(index))?;
            let answer = client.register_agent(&agent, Registration::default()).await;
            drop(turn);
            answer.map(|_| ()).map_err(|error| error.to_string())
        });
        while let Some(done) = calls.try_join_next() {
            done.map_err(|error| error.to_string())??;
        }
    }
    while let Some(done) = calls.join_next().await {
        done.map_err(|error| error.to_string())??;
    }
    Ok(())
}

/// How large the program is without what debuggers need.
fn stripped_bytes(binary: &Path, parent: &Path) -> Result<f64, String> {
    let folder = Folder::new(parent)?;
    let stripped = folder.path().join("weft");
    let status = Command::new("strip").arg("-o").arg(&stripped).arg(binary).status();
    let status = status.map_err(|error| format!("strip: {error} (apt-get install binutils)"))?;
    if !status.success() {
        return Err(format!("strip: {status}"));
    }
    let file = fs::metadata(&stripped).map_err(|error| error.to_string())?;
    Ok(count(file.len()))
}
