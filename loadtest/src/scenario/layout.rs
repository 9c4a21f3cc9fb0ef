//! Who sends to whom, scenario by scenario. Pure.

use weft::frame::{Address, AgentId, Capability, GroupId, Priority, TopicName};

use crate::{
    driver::Failure,
    plan::{Load, Plan, Protocol, Scenario},
    traffic::{ConsumerPlan, Counting, EchoPlan, Layout, ProducerPlan, Sharing},
};

/// What a slow consumer takes, in messages a second.
const SLOW_PER_S: f64 = 1_000.0;
/// What it is sent, in messages a second.
const FLOOD_PER_S: f64 = 20_000.0;
/// What the pair beside a slow consumer sends, in messages a second.
const BYSTANDER_PER_S: f64 = 1_000.0;
/// Critical messages among the bulk, a second.
const CRITICAL_PER_S: f64 = 1_000.0;
/// Producers of one in flight each that an HTTP producer is made of, at most.
const HTTP_PRODUCERS_MAX: usize = 64;

/// The layout of a plan.
pub fn of(plan: &Plan) -> Result<Layout, Failure> {
    let mut layout = Layout::new();
    let agents = plan.agents.max(1);
    layout.classes = vec!["all".to_owned()];
    match plan.scenario {
        Scenario::OneToOne | Scenario::Durable => pairs(&mut layout, plan, 1)?,
        Scenario::NToN | Scenario::OfflineDrain => pairs(&mut layout, plan, agents)?,
        Scenario::FanIn => fan_in(&mut layout, plan, agents)?,
        Scenario::FanOut => fan_out(&mut layout, plan, agents)?,
        Scenario::Groups => broadcast(&mut layout, plan, agents)?,
        Scenario::Anycast => anycast(&mut layout, plan, agents)?,
        Scenario::RequestReply => request_reply(&mut layout, plan, agents)?,
        Scenario::SlowConsumer => slow_consumer(&mut layout)?,
        Scenario::Priorities => priorities(&mut layout, plan)?,
        Scenario::ConnectionStorm | Scenario::IdleConnections => {}
    }
    Ok(layout)
}

/// The group that a layout's consumers are members of.
pub fn group(layout: &Layout) -> String {
    format!("loadtest-{:04x}", layout.run)
}

/// The capability that a layout's consumers have.
pub fn capability(layout: &Layout) -> String {
    format!("loadtest-{:04x}", layout.run)
}

fn inbox(agent: &str) -> Result<Address, Failure> {
    let agent = AgentId::new(agent).map_err(|error| error.to_string())?;
    Ok(Address::agent(&agent))
}

impl Layout {
    fn consumer(&mut self, role: &str) -> usize {
        let index = self.consumers.len();
        self.consumers.push(ConsumerPlan {
            agent: self.agent(role, index),
            topics: Vec::new(),
            pace_per_s: None,
            counting: Counting::Counted,
        });
        index
    }

    /// A producer to an address that these consumers get the messages of. Over HTTP, where a connection has one request under
    /// way, it is as many producers as it may have messages under way.
    fn producer(&mut self, plan: &Plan, to: &Address, consumers: Vec<usize>, sharing: Sharing) {
        let lanes = match (plan.protocol, plan.load) {
            (Protocol::Http, Load::Closed { in_flight }) => in_flight.clamp(1, HTTP_PRODUCERS_MAX),
            // What is due must not wait for the answer to what was due before.
            (Protocol::Http, Load::Open { .. }) => HTTP_PRODUCERS_MAX,
            _ => 1,
        };
        for _ in 0..lanes {
            let agent = self.agent("producer", self.producers.len());
            self.producers.push(ProducerPlan {
                agent,
                to: to.clone(),
                class: 0,
                load: plan.load,
                priority: Priority::Normal,
                consumers: consumers.clone(),
                sharing,
            });
        }
    }

    /// Shares an open loop's rate among the producers.
    fn share_rate(&mut self) {
        let of = self.producers.len();
        for producer in &mut self.producers {
            if let Load::Open { rate_per_s } = &mut producer.load {
                *rate_per_s /= f64::from(u32::try_from(of).unwrap_or(u32::MAX));
            }
        }
    }
}

fn pairs(layout: &mut Layout, plan: &Plan, pairs: usize) -> Result<(), Failure> {
    for _ in 0..pairs {
        let consumer = layout.consumer("consumer");
        let to = inbox(&layout.consumers[consumer].agent)?;
        layout.producer(plan, &to, vec![consumer], Sharing::Each);
    }
    layout.share_rate();
    Ok(())
}

fn fan_in(layout: &mut Layout, plan: &Plan, producers: usize) -> Result<(), Failure> {
    let consumer = layout.consumer("consumer");
    let to = inbox(&layout.consumers[consumer].agent)?;
    for _ in 0..producers {
        layout.producer(plan, &to, vec![consumer], Sharing::Each);
    }
    layout.share_rate();
    Ok(())
}

fn fan_out(layout: &mut Layout, plan: &Plan, consumers: usize) -> Result<(), Failure> {
    let topic = format!("loadtest/{:04x}", layout.run);
    let name = TopicName::new(&topic).map_err(|error| error.to_string())?;
    for _ in 0..consumers {
        let consumer = layout.consumer("subscriber");
        layout.consumers[consumer].topics = vec![topic.clone()];
    }
    layout.producer(plan, &Address::topic(&name), (0..consumers).collect(), Sharing::Each);
    layout.share_rate();
    Ok(())
}

fn broadcast(layout: &mut Layout, plan: &Plan, members: usize) -> Result<(), Failure> {
    for _ in 0..members {
        layout.consumer("member");
    }
    let group = GroupId::new(group(layout)).map_err(|error| error.to_string())?;
    layout.producer(plan, &Address::group(&group), (0..members).collect(), Sharing::Each);
    layout.share_rate();
    Ok(())
}

/// To a capability; over MQTT to a topic with a shared subscription, which is how its clients have it.
fn anycast(layout: &mut Layout, plan: &Plan, agents: usize) -> Result<(), Failure> {
    for _ in 0..agents {
        layout.consumer("worker");
    }
    let to = if plan.receive_over == Protocol::Mqtt {
        let topic = format!("loadtest/{:04x}", layout.run);
        for consumer in &mut layout.consumers {
            consumer.topics = vec![format!("$share/workers/{topic}")];
        }
        Address::topic(&TopicName::new(&topic).map_err(|error| error.to_string())?)
    } else {
        let capability = Capability::new(capability(layout)).map_err(|error| error.to_string())?;
        Address::any(&capability)
    };
    layout.producer(plan, &to, (0..agents).collect(), Sharing::OneOf);
    layout.share_rate();
    Ok(())
}

fn request_reply(layout: &mut Layout, plan: &Plan, pairs: usize) -> Result<(), Failure> {
    let mut first = 0;
    for pair in 0..pairs {
        let requester = layout.consumer("requester");
        let responder = layout.agent("responder", pair);
        layout.producer(plan, &inbox(&responder)?, vec![requester], Sharing::Each);
        let home = inbox(&layout.consumers[requester].agent)?;
        // A responder knows whose request it has by the producer's number.
        let mut reply_to = vec![inbox(&responder)?; first];
        reply_to.resize(layout.producers.len(), home);
        first = layout.producers.len();
        layout.echoes.push(EchoPlan {
            agent: responder,
            reply_to,
        });
    }
    layout.share_rate();
    Ok(())
}

fn slow_consumer(layout: &mut Layout) -> Result<(), Failure> {
    layout.classes = vec!["slow".to_owned(), "bystander".to_owned()];
    let slow = layout.consumer("slow");
    layout.consumers[slow].pace_per_s = Some(SLOW_PER_S);
    layout.consumers[slow].counting = Counting::Aside;
    let to = inbox(&layout.consumers[slow].agent)?;
    // It does not wait for its slow consumer.
    layout.open_producer(&to, slow, 0, Priority::Normal, FLOOD_PER_S);
    let bystander = layout.consumer("bystander");
    let to = inbox(&layout.consumers[bystander].agent)?;
    layout.open_producer(&to, bystander, 1, Priority::Normal, BYSTANDER_PER_S);
    Ok(())
}

fn priorities(layout: &mut Layout, plan: &Plan) -> Result<(), Failure> {
    layout.classes = vec!["low".to_owned(), "critical".to_owned()];
    let consumer = layout.consumer("consumer");
    let to = inbox(&layout.consumers[consumer].agent)?;
    layout.producer(plan, &to, vec![consumer], Sharing::Each);
    layout.share_rate();
    for producer in &mut layout.producers {
        producer.priority = Priority::Low;
    }
    layout.open_producer(&to, consumer, 1, Priority::Critical, CRITICAL_PER_S);
    Ok(())
}

impl Layout {
    fn open_producer(&mut self, to: &Address, consumer: usize, class: usize, priority: Priority, rate_per_s: f64) {
        let agent = self.agent("producer", self.producers.len());
        self.producers.push(ProducerPlan {
            agent,
            to: to.clone(),
            class,
            load: Load::Open { rate_per_s },
            priority,
            consumers: vec![consumer],
            sharing: Sharing::Each,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(scenario: Scenario, change: impl FnOnce(&mut Plan)) -> Layout {
        let mut plan = Plan::new(scenario, Protocol::Grpc);
        change(&mut plan);
        of(&plan).expect("ids of one's own are well-formed")
    }

    #[test]
    fn every_pair_has_its_own_consumer() {
        let layout = layout(Scenario::NToN, |plan| plan.agents = 3);
        let consumers: Vec<_> = layout
            .producers
            .iter()
            .map(|producer| producer.consumers.clone())
            .collect();
        assert_eq!(consumers, [[0], [1], [2]]);
        assert_eq!(
            layout.producers[2].to.as_str(),
            format!("agent:{}", layout.consumers[2].agent)
        );
    }

    #[test]
    fn an_open_loops_rate_is_shared_among_its_producers() {
        let layout = layout(Scenario::FanIn, |plan| {
            plan.agents = 4;
            plan.load = Load::Open { rate_per_s: 1_000.0 };
        });
        assert!(
            layout
                .producers
                .iter()
                .all(|producer| producer.load == Load::Open { rate_per_s: 250.0 })
        );
    }

    #[test]
    fn an_http_producer_with_four_in_flight_is_four_connections() {
        let layout = layout(Scenario::OneToOne, |plan| {
            plan.protocol = Protocol::Http;
            plan.load = Load::Closed { in_flight: 4 };
        });
        assert_eq!(layout.producers.len(), 4);
    }

    #[test]
    fn an_open_loop_over_http_has_as_many_connections_as_a_closed_one_that_saturates() {
        let producers = |load| {
            let layout = layout(Scenario::OneToOne, |plan| {
                plan.protocol = Protocol::Http;
                plan.load = load;
            });
            layout.producers.len()
        };
        assert_eq!(
            producers(Load::Open { rate_per_s: 640.0 }),
            producers(Load::Closed { in_flight: 256 })
        );
    }

    #[test]
    fn over_mqtt_one_of_many_is_a_shared_subscription() {
        let layout = layout(Scenario::Anycast, |plan| {
            plan.receive_over = Protocol::Mqtt;
            plan.agents = 2;
        });
        let topic = layout.producers[0].to.as_str().strip_prefix("topic:").expect("a topic");
        let shared = format!("$share/workers/{topic}");
        assert!(
            layout
                .consumers
                .iter()
                .all(|consumer| consumer.topics == [shared.as_str()])
        );
    }

    #[test]
    fn replies_go_home_to_the_requester() {
        let layout = layout(Scenario::RequestReply, |plan| plan.agents = 2);
        for (pair, echo) in layout.echoes.iter().enumerate() {
            assert_eq!(
                echo.reply_to[pair].as_str(),
                format!("agent:{}", layout.consumers[pair].agent)
            );
        }
    }

    #[test]
    fn two_layouts_share_no_agent() {
        let layouts = [(); 2].map(|()| layout(Scenario::OneToOne, |_| {}));
        assert_ne!(layouts[0].run, layouts[1].run);
        assert_ne!(layouts[0].consumers[0].agent, layouts[1].consumers[0].agent);
    }
}
