//! The scenarios: from a plan to a run's result.
//!
//! Owns who sends to whom in each of them; [`crate::traffic`] moves the messages, [`sessions`] opens sessions that move none.
//! Start at [`run`].

mod layout;
mod sessions;

use std::time::Duration;

use weft::{
    client::{CommunicationMode, GroupDraft, Registration},
    frame::{AgentId, GroupId},
};

use crate::{
    driver::{Connector, Failure},
    node::Node,
    plan::{Plan, Protocol, Scenario},
    progress::Progress,
    report::Run,
    traffic::{self, Layout},
};

/// Messages of each agent in an offline drain: an inbox holds 100,000 by default.
const OFFLINE_MESSAGES_MAX: u64 = 80_000;

/// Runs a plan against a node.
pub async fn run(node: &Node, plan: &Plan, progress: &Progress) -> Result<Run, Failure> {
    check(plan)?;
    let connector = Connector::new(node.endpoints.clone(), plan.sessions_per_connection);
    let run = match plan.scenario {
        Scenario::ConnectionStorm => sessions::storm(node, &connector, plan).await,
        Scenario::IdleConnections => sessions::idle(node, &connector, plan).await,
        Scenario::OfflineDrain => offline_drain(node, &connector, plan, progress).await,
        _ => {
            let layout = prepared(&connector, plan).await?;
            let outcome = traffic::run(node, &connector, plan, layout, progress).await?;
            Ok(Run::of_outcome(plan, outcome))
        }
    };
    progress.end();
    run
}

/// Bodies sent as bytes are base64 in JSON, which would be measured as well, and is not read here. MQTT 3.1.1 has no priorities.
fn check(plan: &Plan) -> Result<(), Failure> {
    if plan.scenario == Scenario::Priorities && plan.protocol == Protocol::Mqtt {
        return Err("a message has no priority in MQTT 3.1.1: priorities needs another --protocol".into());
    }
    let is_json = |protocol| matches!(protocol, Protocol::Http | Protocol::Websocket);
    if is_json(plan.receive_over) && !is_json(plan.protocol) {
        return Err(format!(
            "consumers over {} need producers over http or websocket",
            plan.receive_over
        ));
    }
    Ok(())
}

/// The layout of a scenario, with the groups and registrations that it needs.
async fn prepared(connector: &Connector, plan: &Plan) -> Result<Layout, Failure> {
    let layout = layout::of(plan)?;
    match plan.scenario {
        Scenario::Groups => make_group(connector, &layout).await?,
        // Members of a shared subscription need no capability.
        Scenario::Anycast if plan.receive_over != Protocol::Mqtt => register(connector, &layout).await?,
        _ => {}
    }
    Ok(layout)
}

async fn make_group(connector: &Connector, layout: &Layout) -> Result<(), Failure> {
    let client = connector.control().await?;
    let agents = layout.consumers.iter().map(|consumer| agent_id(&consumer.agent));
    let draft = GroupDraft {
        agents: agents.collect::<Result<_, _>>()?,
        communication_mode: CommunicationMode::Broadcast,
        ..GroupDraft::default()
    };
    let group = GroupId::new(layout::group(layout)).map_err(|error| error.to_string())?;
    let made = client.create_group(&group, draft).await;
    made.map(|_| ()).map_err(|error| error.to_string())
}

async fn register(connector: &Connector, layout: &Layout) -> Result<(), Failure> {
    let client = connector.control().await?;
    for consumer in &layout.consumers {
        let registration = Registration {
            capabilities: vec![layout::capability(layout)],
            ..Registration::default()
        };
        let registered = client.register_agent(&agent_id(&consumer.agent)?, registration).await;
        registered.map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn agent_id(agent: &str) -> Result<AgentId, Failure> {
    AgentId::new(agent).map_err(|error| error.to_string())
}

/// Fills inboxes that nobody has open, then opens them and takes everything.
async fn offline_drain(node: &Node, connector: &Connector, plan: &Plan, progress: &Progress) -> Result<Run, Failure> {
    let mut plan = plan.clone();
    plan.bounds.warm_up = Duration::ZERO;
    let most = OFFLINE_MESSAGES_MAX.saturating_mul(plan.agents as u64);
    plan.bounds.messages = plan.bounds.messages.min(most);
    let whole = layout::of(&plan)?;
    let mut fill = whole.clone();
    fill.consumers.clear();
    fill.producers
        .iter_mut()
        .for_each(|producer| producer.consumers.clear());
    let begun = weft::time::monotonic();
    let filled = traffic::run(node, connector, &plan, fill, progress).await?;
    let fill_seconds = (weft::time::monotonic() - begun).as_secs_f64();

    let mut drain = whole;
    drain.already_sent = filled.sent_by.clone();
    let mut draining = plan.clone();
    draining.bounds.time = Duration::from_secs(600);
    let drained = traffic::run(node, connector, &draining, drain, progress).await?;
    let figures = [
        (
            "fill messages/s".to_owned(),
            per_second(filled.sent - filled.refused, fill_seconds),
        ),
        (
            "drain deliveries/s".to_owned(),
            per_second(drained.delivered, drained.seconds),
        ),
    ];
    let mut run = Run::of_outcome(&plan, drained);
    run.load = format!("{} messages waiting", run.sent);
    run.answer = filled.answer.map(|answer| answer.summary());
    run.refused = filled.refused;
    run.errors.extend(filled.errors);
    run.figures = figures.into();
    // From the send to a delivery lies the time offline, which says nothing.
    run.latency.clear();
    Ok(run)
}

fn per_second(number: u64, seconds: f64) -> f64 {
    crate::report::count(number) / seconds.max(1e-9)
}
