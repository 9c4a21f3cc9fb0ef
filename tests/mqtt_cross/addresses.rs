//! Addresses that are no topics: agents, groups and capabilities, from MQTT to agents of every protocol and back.

use super::*;

/// An agent, a group's member and a worker of each protocol.
struct Agents<'a> {
    broker: &'a Broker,
    grpc: Session,
    mqtt: Client,
}

impl<'a> Agents<'a> {
    /// `grpc` and `mqtt` are attached, `web` polls.
    async fn of(broker: &'a Broker, version: Version) -> Self {
        let mut mqtt = broker.client(version, "mqtt");
        mqtt.subscribe("$weft/inbox", 2);
        Self {
            broker,
            grpc: grpc(broker, "grpc").await,
            mqtt,
        }
    }

    /// What each of the three gets next: address or topic, and body.
    async fn each(&mut self) -> [(String, String); 3] {
        let came = receive(&self.grpc).await;
        let text = String::from_utf8(came.body().to_vec()).expect("UTF-8");
        came.ack().await.expect("it is acknowledged");
        let web = poll(self.broker, "web", 1).await;
        let publish = self.mqtt.take();
        [
            (came.to().to_owned(), text),
            (string_of(&web[0]["to"]), text_of(&web[0])),
            (publish.topic().to_owned(), publish.text().to_owned()),
        ]
    }
}

async fn register(broker: &Broker, agent: &str, capability: &str) {
    let registration = json!({"agent_id": agent, "capabilities": [capability]});
    call(broker, "/agents/register", registration).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_reaches_an_agent_of_each_protocol_by_its_id() {
    let broker = Broker::start();
    for version in BOTH {
        let mut agents = Agents::of(&broker, version).await;
        let mut alice = broker.client(version, "alice");
        for qos in 1..3 {
            for agent in ["grpc", "web", "mqtt"] {
                alice.publish(Publish::new(&format!("$weft/agent/{agent}"), "hi").qos(qos, 0));
            }
            let [came, web, mqtt] = agents.each().await;
            assert_eq!(came, ("agent:grpc".into(), "hi".into()));
            assert_eq!(web, ("agent:web".into(), "hi".into()));
            assert_eq!(mqtt, ("$weft/inbox".into(), "hi".into()));
        }
        // QoS 0 reaches who is attached.
        alice.publish(Publish::new("$weft/agent/grpc", "now"));
        alice.publish(Publish::new("$weft/agent/mqtt", "now"));
        assert_eq!(&receive(&agents.grpc).await.body()[..], b"now");
        assert_eq!(agents.mqtt.take().text(), "now");
        // An id of several segments, and an agent that is away: its mailbox keeps the message.
        alice.publish(Publish::new("$weft/agent/acme/planner", "later").qos(1, 0));
        assert_eq!(text_of(&poll(&broker, "acme%2Fplanner", 1).await[0]), "later");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_one_in_mqtt_grpc_and_http() {
    let broker = Broker::start();
    let members = ["grpc", "web", "mqtt", "alice"];
    call(
        &broker,
        "/groups/create",
        json!({"group_id": "team", "agents": members, "communication_mode": "broadcast"}),
    )
    .await;
    for version in BOTH {
        let mut agents = Agents::of(&broker, version).await;
        let mut alice = broker.client(version, "alice");
        for qos in 1..3 {
            alice.publish(Publish::new("$weft/group/team", "all").qos(qos, 0));
            let [came, web, mqtt] = agents.each().await;
            assert_eq!(came, ("group:team".into(), "all".into()));
            assert_eq!(web, ("group:team".into(), "all".into()));
            assert_eq!(mqtt, ("$weft/inbox".into(), "all".into()));
        }
        // From another protocol, to the MQTT members among the rest.
        alice.subscribe("$weft/inbox", 1);
        post(
            &broker,
            json!({"from_agent": "web", "to_group": "team", "body": "back", "headers": {"k": "v"}}),
        )
        .await;
        let came = receive(&agents.grpc).await;
        assert_eq!(came.header("k"), Some("v"));
        came.ack().await.expect("it is acknowledged");
        for client in [&mut alice, &mut agents.mqtt] {
            let came = client.take();
            assert_eq!(came.text(), "\"back\"");
            assert!(version == V3 || has(&came, "k", "v") && has(&came, "weft-from", "web"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_those_with_a_capability_takes_what_mqtt_publishes() {
    const JOBS: usize = 30;
    let broker = Broker::start();
    for version in BOTH {
        let mut agents = Agents::of(&broker, version).await;
        for agent in ["grpc", "web", "mqtt"] {
            register(&broker, agent, "translate").await;
        }
        let mut alice = broker.client(version, "alice");
        for number in 0..JOBS {
            let qos = if number % 2 == 0 { 1 } else { 2 };
            alice.publish(Publish::new("$weft/any/translate", &number.to_string()).qos(qos, 0));
        }
        let mut jobs: Vec<usize> = payloads(&agents.mqtt.until_fence(&broker))
            .iter()
            .map(|job| job.parse().expect("a number"))
            .collect();
        let of_mqtt = jobs.len();
        let mut of_web = 0;
        while jobs.len() < JOBS {
            let mut came = Vec::new();
            if let Ok(taken) =
                tokio::time::timeout(Duration::from_millis(100), agents.grpc.recv_batch(&mut came, JOBS)).await
            {
                taken.expect("the session stands");
                for one in &came {
                    assert_eq!(one.to(), "any:translate");
                    jobs.push(
                        std::str::from_utf8(one.body())
                            .expect("UTF-8")
                            .parse()
                            .expect("a number"),
                    );
                }
                agents.grpc.ack_all(&came).await;
                continue;
            }
            for one in poll(&broker, "web", 1).await {
                jobs.push(text_of(&one).parse().expect("a number"));
                of_web += 1;
            }
        }
        jobs.sort_unstable();
        assert_eq!(jobs, (0..JOBS).collect::<Vec<_>>(), "each to one");
        assert!(
            of_mqtt > 0 && of_mqtt + of_web < JOBS,
            "{of_mqtt} of {JOBS} to MQTT, {of_web} to HTTP"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mqtt_agent_has_a_capability_for_others() {
    let broker = Broker::start();
    let bob = grpc(&broker, "bob").await;
    register(&broker, "worker", "sum").await;
    for version in BOTH {
        let mut worker = broker.client(version, "worker");
        worker.subscribe("$weft/inbox", 2);
        let sum = "sum".parse().expect("well-formed");
        let sent = bob.send(Message::to_capability(&sum).header("k", "v").text("1 2"));
        within(async { sent.await?.await }).await.expect("taken");
        let came = worker.take();
        assert_eq!((came.topic(), came.text()), ("$weft/inbox", "1 2"));
        assert!(version == V3 || has(&came, "k", "v") && has(&came, "weft-from", "bob"));
        post(&broker, json!({"from_agent": "web", "to_capability": "sum", "body": 3})).await;
        assert_eq!(worker.take().text(), "3");
    }
}

#[test]
fn mqtt_is_told_that_nothing_is_behind_an_address() {
    let broker = Broker::start();
    let mut alice = broker.client(V5, "alice");
    for topic in [
        "$weft/any/nobody",
        "$weft/group/none",
        "$weft/nothing/x",
        "$weft/agent/",
        "$weft/inbox",
        "$weft/any/a b",
    ] {
        for (qos, answer) in [(1, PUBACK), (2, PUBREC)] {
            alice.send(&Publish::new(topic, "x").qos(qos, 7).bytes(V5));
            let came = alice.packet();
            assert_eq!((came.kind(), came.id(), came.reason()), (answer, 7, 0x90), "{topic}");
        }
        // 3.1.1 has no refusal.
        let mut old = broker.client(V3, "old");
        old.send(&Publish::new(topic, "x").qos(1, 7).bytes(V3));
        old.closed();
    }
    alice.alive();
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_and_grpc_feed_one_shared_subscription_and_a_dead_member_loses_nothing() {
    const JOBS: usize = 20;
    let broker = Broker::start();
    for version in BOTH {
        let filter = format!("$share/workers-{version:?}/jobs/#");
        let bob = grpc(&broker, &format!("bob-{version:?}")).await;
        bob.subscribe(&[TopicFilter::new(&filter).expect("well-formed")])
            .await
            .expect("subscribed");
        let mut dies = broker.client(version, "dies");
        dies.subscribe(&filter, 2);
        let messages: Vec<Value> = (0..JOBS)
            .map(|number| json!({"from_agent": "web", "to_topic": "jobs/x", "qos": 1 + number % 2, "body": number, "headers": {"n": number.to_string()}}))
            .collect();
        call(&broker, "/messages/send/batch", json!({"messages": messages})).await;
        // It acknowledges its first, and dies with the rest.
        let first = dies.hear();
        match first.qos {
            1 => dies.acknowledge(PUBACK, first.id),
            _ => dies.acknowledge(PUBREC, first.id),
        }
        dies.send(&PINGREQ);
        while dies.packet().kind() != PINGRESP[0] {}
        dies.cut();
        let mut jobs = vec![first.text().to_owned()];
        while jobs.len() < JOBS {
            let came = receive(&bob).await;
            let body = std::str::from_utf8(came.body()).expect("UTF-8").to_owned();
            assert_eq!(came.header("n"), Some(&body[..]));
            jobs.push(body);
            came.ack().await.expect("it is acknowledged");
        }
        let mut jobs: Vec<usize> = jobs.iter().map(|job| job.parse().expect("a number")).collect();
        jobs.sort_unstable();
        assert_eq!(jobs, (0..JOBS).collect::<Vec<_>>());
    }
}
