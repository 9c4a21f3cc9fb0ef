//! Long and deep topics: names and filters of 65,535 bytes and of 256 levels, by every way that a message takes.

use crate::mqtt_driver::{Version::*, *};

/// As long as a string of MQTT gets.
fn longest(begin: &str) -> String {
    format!("{begin}{}", "x".repeat(65_535 - begin.len()))
}

#[test]
fn deep_topics_reach_who_subscribed_to_them() {
    let broker = Broker::start();
    let deep = [
        "/".repeat(199),
        "/".repeat(200),
        format!("{}d", "abc/".repeat(199)),
        format!("{}d", "abc/".repeat(200)),
        "/".repeat(255),
    ];
    for version in BOTH {
        for topic in &deep {
            let levels = topic.split('/').count();
            let half = topic[..topic.len() / 2].rfind('/').expect("it has many");
            let wild = [vec!["+"; levels].join("/"), format!("{}/#", &topic[..half])];
            for filter in wild.iter().chain([topic]) {
                let mut client = broker.client(version, "deep");
                client.subscribe(filter, 2);
                let mut other = broker.client(version, "pub");
                for qos in 0..3 {
                    other.publish(Publish::new(topic, "m").qos(qos, 0));
                    let heard = client.take();
                    assert_eq!((heard.topic(), heard.qos), (topic.as_str(), qos));
                }
                other.disconnect();
                client.disconnect();
            }
        }
    }
}

#[test]
fn deeper_topics_are_refused() {
    let broker = Broker::start();
    let deeper = "/".repeat(256);
    for version in BOTH {
        let mut client = broker.client(version, "deeper");
        let code = if version == V5 { 0x8F } else { 0x80 };
        client.subscribe_as(&[(&deeper, 1), ("fine", 1)], &[], &[code, 1]);
        client.send(&Publish::new(&deeper, "x").qos(1, 9).bytes(version));
        match version {
            V5 => assert_eq!(client.packet().reason(), 0x90),
            V3 => assert_eq!(client.closed(), None),
        }
    }
}

#[test]
fn the_longest_topics_go_by_every_quality_of_service() {
    let broker = Broker::start();
    for version in BOTH {
        let topic = longest("long/\"\\é~%$/");
        for filter in [topic.as_str(), "long/#"] {
            let mut client = broker.client(version, "long");
            client.subscribe(filter, 2);
            let mut other = broker.client(version, "pub");
            for qos in 0..3 {
                other.publish(Publish::new(&topic, "m").qos(qos, 0));
                let heard = client.take();
                assert_eq!((heard.topic() == topic, heard.text(), heard.qos), (true, "m", qos));
            }
            client.unsubscribe(&[filter], &[0]);
        }
        let shared = longest("$share/g/long/");
        let mut member = broker.client(version, "member");
        member.subscribe(&shared, 2);
        let mut other = broker.client(version, "pub");
        for qos in 1..3 {
            other.publish(Publish::new(&shared["$share/g/".len()..], "s").qos(qos, 0));
            assert_eq!(member.take().text(), "s");
        }
    }
}

#[test]
fn the_longest_topics_are_retained_over_a_crash() {
    let mut broker = Broker::start();
    for version in BOTH {
        let topic = longest(&format!("kept/{version:?}/"));
        let mut keeper = broker.client(version, "keeper");
        for qos in 0..3 {
            keeper.publish(Publish::new(&topic, &qos.to_string()).qos(qos, 0).retained());
        }
        keeper.disconnect();
        broker.kill_and_restart();
        let mut late = broker.client(version, "late");
        late.subscribe(&topic, 1);
        let heard = late.take();
        assert_eq!((heard.topic() == topic, heard.text(), heard.retain), (true, "2", true));
        late.publish(Publish::new(&topic, "").qos(1, 0).retained());
    }
}

#[test]
fn a_will_may_go_to_the_longest_topic_that_fits_in_a_connect() {
    let broker = Broker::start();
    for version in BOTH {
        let topic = longest("will/")[..16_000].to_owned();
        let mut witness = broker.client(version, "witness");
        witness.subscribe("will/#", 2);
        for qos in 0..3 {
            let connect = Connect::lasting(version, "dies").will(&topic, "gone", qos, false);
            broker.connect(&connect).0.cut();
            // That of a session that is kept is sent when it ends, in version 5.
            broker.resume(&Connect::new(version, "dies"), false).disconnect();
            let heard = witness.take();
            assert_eq!((heard.topic() == topic, heard.text(), heard.qos), (true, "gone", qos));
        }
    }
}

#[test]
fn sessions_keep_long_and_deep_subscriptions_and_their_messages_over_a_crash() {
    let mut broker = Broker::start();
    for version in BOTH {
        let topics = [longest("away/"), "/".repeat(200), format!("{}d", "abc/".repeat(199))];
        let lasting = Connect::lasting(version, "away");
        let mut client = broker.resume(&lasting, false);
        for topic in &topics {
            client.subscribe(topic, 2);
        }
        client.disconnect();
        let mut other = broker.client(version, "pub");
        for qos in 1..3 {
            for (at, topic) in topics.iter().enumerate() {
                other.publish(Publish::new(topic, &format!("{qos}-{at}")).qos(qos, 0));
            }
        }
        other.disconnect();
        broker.kill_and_restart();
        let mut client = broker.resume(&lasting, true);
        let mut heard = client.until_fence(&broker);
        assert_eq!(heard.len(), 6);
        heard.sort_by_key(|publish| publish.payload.clone());
        for (at, publish) in heard.iter().enumerate() {
            assert_eq!(publish.text(), format!("{}-{}", 1 + at / 3, at % 3));
            assert!(publish.topic() == topics[at % 3]);
        }
        // The subscriptions themselves are there too.
        let mut other = broker.client(version, "pub");
        other.publish(Publish::new(&topics[0], "after").qos(1, 0));
        assert_eq!(client.take().text(), "after");
        client.disconnect();
        broker.resume(&Connect::new(version, "away"), false).disconnect();
    }
}

#[test]
fn a_response_topic_and_an_alias_may_be_of_the_longest() {
    let broker = Broker::start();
    let (topic, answers) = (longest("ask/"), longest("answer/"));
    let mut client = broker.connect(&Connect::new(V5, "asked").with(two(id::ALIAS_MAX, 4))).0;
    client.subscribe("ask/#", 1);
    let mut other = broker.client(V5, "asks");
    let alias = |topic: &str, payload: &str| {
        let list = [two(id::ALIAS, 3), string(id::RESPONSE_TOPIC, &answers)].concat();
        Publish::new(topic, payload).qos(1, 0).with(list)
    };
    other.publish(alias(&topic, "0"));
    let heard = client.take();
    assert!(heard.topic() == topic && heard.property(id::RESPONSE_TOPIC) == [answers.as_bytes()]);
    for number in 1..=100 {
        other.publish(alias("", &number.to_string()));
        let heard = client.take();
        assert_eq!(
            (heard.text(), heard.topic.len()),
            (number.to_string().as_str(), 0),
            "by its alias"
        );
        assert!(heard.property(id::RESPONSE_TOPIC) == [answers.as_bytes()]);
    }
}

#[test]
fn many_small_messages_under_the_alias_of_a_long_topic_all_arrive() {
    let broker = Broker::start();
    let topic = longest("run/");
    for qos in 0..2 {
        let mut client = broker.client(V5, "heard");
        client.subscribe("run/#", qos);
        let mut other = broker.client(V5, "runs");
        let alias = |topic: &str, number: u16| {
            let id = if qos > 0 { 1 + number } else { 0 };
            Publish::new(topic, &format!("{number:03}"))
                .qos(qos, id)
                .with(two(id::ALIAS, 1))
                .bytes(V5)
        };
        // Below Receive Maximum, and fewer bytes than a session's lane takes once each stands with its topic.
        let count = if qos > 0 { 19 } else { 90 };
        let mut all = alias(&topic, 0);
        (1..count).for_each(|number| all.extend(alias("", number)));
        other.send(&all);
        let heard: Vec<_> = (0..count).map(|_| client.take()).collect();
        assert!(heard.iter().all(|publish| publish.topic() == topic));
        let expected: Vec<_> = (0..count).map(|number| format!("{number:03}")).collect();
        assert_eq!(payloads(&heard), expected);
    }
}

#[test]
fn an_agents_filters_are_bounded_in_bytes() {
    let mut broker = Broker::start();
    for version in BOTH {
        let code = if version == V5 { 0x97 } else { 0x80 };
        for connect in [Connect::new(version, "greedy"), Connect::lasting(version, "greedy")] {
            let mut client = broker.connect(&connect).0;
            let filter = |number: usize| longest(&format!("{number}/"));
            for number in 0..15 {
                client.subscribe(&filter(number), 1);
            }
            client.subscribe(&filter(0), 1);
            client.subscribe_as(&[(&filter(15), 1), ("short", 1)], &[], &[code, 1]);
            client.unsubscribe(&[&filter(3)], &[0]);
            client.subscribe(&filter(16), 1);
            client.disconnect();
            broker.resume(&Connect::new(version, "greedy"), false).disconnect();
        }
    }
    broker.assert_alive();
}
