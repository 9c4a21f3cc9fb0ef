//! Retained messages.

use std::collections::BTreeSet;

use crate::mqtt_driver::{Version::*, *};

#[test]
fn the_last_retained_message_of_each_topic_is_sent_to_a_new_subscription() {
    let broker = Broker::start();
    for version in BOTH {
        for qos in 0..3 {
            let mut client = broker.client(version, "keeper");
            for (topic, payload) in [("r/a", "old"), ("r/a", "a"), ("r/b", "b")] {
                client.publish(Publish::new(topic, payload).qos(qos, 0).retained());
            }
            // Not retained: neither stored nor a replacement.
            client.publish(Publish::new("r/a", "passing").qos(qos, 0));
            client.alive();
            let mut subscriber = broker.client(version, "late");
            subscriber.subscribe("r/+", 2);
            let mut heard = subscriber.until_fence(&broker);
            heard.sort_by_key(|publish| publish.topic.clone());
            assert_eq!(payloads(&heard), ["a", "b"]);
            assert!(
                heard
                    .iter()
                    .all(|publish| publish.retain && !publish.dup && publish.qos == qos),
                "{heard:?}"
            );
        }
    }
}

#[test]
fn an_empty_retained_message_removes_and_is_passed_on() {
    let broker = Broker::start();
    for version in BOTH {
        let mut present = broker.client(version, "present");
        present.subscribe("gone", 1);
        let mut client = broker.client(version, "keeper");
        client.publish(Publish::new("gone", "x").qos(1, 0).retained());
        client.publish(Publish::new("gone", "").qos(1, 0).retained());
        let heard = present.until_fence(&broker);
        assert_eq!(payloads(&heard), ["x", ""]);
        assert!(
            heard.iter().all(|publish| !publish.retain),
            "an established subscription sees no flag: {heard:?}"
        );
        let mut late = broker.client(version, "late");
        late.subscribe("gone", 1);
        assert!(late.until_fence(&broker).is_empty());
    }
}

#[test]
fn retained_messages_outlive_sessions_and_kills() {
    let mut broker = Broker::start();
    if peer() {
        return; // mosquitto writes to disk only when it ends in order
    }
    for version in BOTH {
        let mut client = broker.client(version, "keeper");
        for qos in [1, 2] {
            client.publish(Publish::new(&format!("kept/{qos}"), "x").qos(qos, 0).retained());
        }
        client.disconnect();
    }
    broker.kill_and_restart();
    for version in BOTH {
        let mut late = broker.client(version, "late");
        late.subscribe("kept/#", 2);
        assert_eq!(late.until_fence(&broker).len(), 2);
    }
}

#[test]
fn a_subscription_made_again_sends_retained_messages_again() {
    let broker = Broker::start();
    for version in BOTH {
        broker
            .client(version, "keeper")
            .publish(Publish::new("again", "x").qos(1, 0).retained());
        let mut client = broker.client(version, "twice");
        for options in [0, 1] {
            client.subscribe("again", options);
            let heard = client.take();
            assert_eq!((heard.text(), heard.retain, heard.qos), ("x", true, options));
        }
    }
}

#[test]
fn retain_handling_decides_on_retained_messages() {
    let broker = Broker::start();
    broker
        .client(V5, "keeper")
        .publish(Publish::new("handling", "x").qos(1, 0).retained());
    // Options, and how many retained messages come at the first and the second subscription.
    for (options, first, second) in [(0x01, 1, 1), (0x11, 1, 0), (0x21, 0, 0)] {
        let mut client = broker.client(V5, "handles");
        client.subscribe("handling", options);
        assert_eq!(client.until_fence(&broker).len(), first, "{options:02x}");
        client.subscribe("handling", options);
        assert_eq!(client.until_fence(&broker).len(), second, "{options:02x}");
    }
}

#[test]
fn retain_as_published_keeps_the_flag() {
    let broker = Broker::start();
    let mut keeps = broker.client(V5, "keeps");
    keeps.subscribe("flag", 0x08 | 1);
    let mut clears = broker.client(V5, "clears");
    clears.subscribe("flag", 1);
    let mut client = broker.client(V5, "pub");
    client.publish(Publish::new("flag", "1").qos(1, 0).retained());
    client.publish(Publish::new("flag", "0").qos(1, 0));
    assert_eq!([keeps.take().retain, keeps.take().retain], [true, false]);
    assert_eq!([clears.take().retain, clears.take().retain], [false, false]);
    // Sent for a new subscription, the flag is set in any case.
    let mut late = broker.client(V5, "late");
    late.subscribe("flag", 1);
    assert!(late.take().retain);
}

#[test]
fn retained_messages_keep_their_properties_and_expire() {
    let broker = Broker::start();
    let mut client = broker.client(V5, "keeper");
    let list = [
        string(id::CONTENT_TYPE, "text/x"),
        user("k", "1"),
        user("k", "2"),
        string(id::CORRELATION, [9, 0]),
    ]
    .concat();
    client.publish(
        Publish::new("kept", "x")
            .qos(1, 0)
            .retained()
            .with(list)
            .with(four(id::MESSAGE_EXPIRY, 3600)),
    );
    client.publish(
        Publish::new("expires", "x")
            .qos(1, 0)
            .retained()
            .with(four(id::MESSAGE_EXPIRY, 1)),
    );
    // The only wait for a time: two seconds, beyond the one that the message lives.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let mut late = broker.client(V5, "late");
    late.subscribe("expires", 1);
    late.subscribe("kept", 1);
    let heard = late.take();
    assert_eq!(heard.topic(), "kept");
    assert_eq!(heard.property(id::CONTENT_TYPE), [b"text/x"]);
    assert_eq!(heard.property(id::CORRELATION), [[9, 0]]);
    assert_eq!(heard.property(id::USER).len(), 2);
    let left = u32::from_be_bytes(
        heard.property(id::MESSAGE_EXPIRY)[0]
            .clone()
            .try_into()
            .expect("four bytes"),
    );
    assert!((3000..3600).contains(&left), "{left} s of 3600 are left after two");
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Cut,
    /// And the node with it.
    Killed,
}

const LOSSES: &[Loss] = &[Loss::Cut, Loss::Killed];

/// Both kinds of loss, but for mosquitto, which writes to disk only when it ends in order.
fn losses() -> &'static [Loss] {
    if peer() { &LOSSES[..1] } else { LOSSES }
}

/// Loses a client's connection.
fn lose(loss: Loss, broker: &mut Broker, client: Client) {
    match loss {
        Loss::Cut => client.cut(),
        Loss::Killed => broker.kill_and_restart(),
    }
}

/// Retains a message of this QoS for each of these topics, which is its payload.
fn retain(broker: &Broker, qos: u8, topics: &[String]) {
    let mut keeper = broker.client(V5, "keeper");
    for topic in topics {
        keeper.publish(Publish::new(topic, topic).qos(qos, 0).retained());
    }
    keeper.disconnect();
}

/// A receiver of retained messages that answers, at QoS 2 exactly once.
#[derive(Default)]
struct Heard {
    topics: BTreeSet<String>,
    /// Messages of topics that were heard already.
    twice: usize,
    /// QoS 2 that was not released.
    open: BTreeSet<u16>,
}

impl Heard {
    /// Answers until there are so many topics and, where those are all, nothing is open. The broker has read the answers then.
    #[track_caller]
    fn take(&mut self, client: &mut Client, topics: usize) {
        let is_all = topics == ALL;
        while self.topics.len() < topics || (is_all && !self.open.is_empty()) {
            let packet = client.packet();
            if packet.kind() == PUBREL & 0xF0 {
                self.open.remove(&packet.id());
                client.acknowledge(PUBCOMP, packet.id());
                continue;
            }
            let publish = packet.publish(client.version);
            assert!(publish.retain, "{publish:?}");
            client.acknowledge(if publish.qos == 1 { PUBACK } else { PUBREC }, publish.id);
            // Sent again under an id that is not released, it is the same one.
            if publish.qos == 1 || self.open.insert(publish.id) {
                let is_new = self.topics.insert(publish.topic().to_owned());
                self.twice += usize::from(!is_new);
            }
        }
        client.send(&PINGREQ);
        while client.packet().kind() != PINGRESP[0] {}
    }
}

/// Retained messages of one test: more than two pieces of those that are looked up at once.
const ALL: usize = 140;

fn topics(below: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("{below}/{number:03}")).collect()
}

#[test]
fn retained_messages_that_were_not_acknowledged_are_sent_again() {
    let mut broker = Broker::start();
    for version in BOTH {
        for (qos, loss) in [1, 2]
            .into_iter()
            .flat_map(|qos| losses().iter().map(move |loss| (qos, *loss)))
        {
            let name = format!("unanswered-{version:?}-{qos}-{loss:?}");
            retain(&broker, qos, &topics(&name, 0..4));
            let lasting = Connect::lasting(version, &name);
            let mut client = broker.resume(&lasting, false);
            let list = if version == V5 {
                vec![id::SUBSCRIPTION, 7]
            } else {
                Vec::new()
            };
            client.subscribe_as(&[(&format!("{name}/#"), qos)], &list, &[qos]);
            let done = client.hear();
            let first: Vec<Publish> = (0..3).map(|_| client.hear()).collect();
            client.answer(&done);
            client.alive();
            lose(loss, &mut broker, client);
            let mut client = broker.resume(&lasting, true);
            // Acknowledged just before a kill, at QoS 1 it may come once more.
            let mut second: Vec<Publish> = (0..3).map(|_| client.hear()).collect();
            if second[0].text() == format!("{name}/000") {
                assert_eq!((qos, loss), (1, Loss::Killed));
                client.acknowledge(PUBACK, second.remove(0).id);
                second.push(client.hear());
            }
            assert_eq!(payloads(&first), payloads(&second));
            for (before, after) in first.iter().zip(&second) {
                assert!(before.retain && after.retain && !before.dup, "{before:?}, {after:?}");
                assert_eq!(before.property(id::SUBSCRIPTION), after.property(id::SUBSCRIPTION));
                // Packet ids of QoS 1 are not written to disk.
                if (qos, loss) != (1, Loss::Killed) {
                    assert_eq!((after.id, after.dup), (before.id, true));
                }
            }
            second.iter().for_each(|heard| client.answer(heard));
            client.alive();
            client.disconnect();
            let mut client = broker.resume(&lasting, true);
            assert!(client.until_fence(&broker).is_empty());
            client.disconnect();
        }
    }
}

#[test]
fn a_pubrel_of_a_retained_message_is_sent_again_and_not_the_message() {
    let mut broker = Broker::start();
    for version in BOTH {
        for loss in losses() {
            let name = format!("released-{version:?}-{loss:?}");
            retain(&broker, 2, &topics(&name, 0..1));
            let lasting = Connect::lasting(version, &name);
            let mut client = broker.resume(&lasting, false);
            client.subscribe(&format!("{name}/+"), 2);
            let heard = client.hear();
            let release = packet(PUBREL, &[&heard.id.to_be_bytes()]);
            client.acknowledge(PUBREC, heard.id);
            client.expect(&release);
            lose(*loss, &mut broker, client);
            let mut client = broker.resume(&lasting, true);
            client.expect(&release);
            client.acknowledge(PUBCOMP, heard.id);
            client.alive();
            client.disconnect();
            let mut client = broker.resume(&lasting, true);
            assert!(client.until_fence(&broker).is_empty());
            client.disconnect();
        }
    }
}

#[test]
fn retained_messages_that_were_still_to_be_sent_follow_when_the_session_goes_on() {
    let mut broker = Broker::with(&[("WEFT_MQTT__SEND_MAX", "5")]);
    let taken = 7;
    for version in BOTH {
        for (qos, loss) in [1, 2]
            .into_iter()
            .flat_map(|qos| losses().iter().map(move |loss| (qos, *loss)))
        {
            let name = format!("rest-{version:?}-{qos}-{loss:?}");
            let topics = topics(&name, 0..ALL);
            retain(&broker, qos, &topics);
            let lasting = Connect::lasting(version, &name);
            let mut client = broker.resume(&lasting, false);
            client.send(&subscribe(version, 1, &[(&format!("{name}/#"), qos)], &[]));
            assert_eq!(client.packet().kind(), SUBACK, "SUBACK comes before what is retained");
            let mut heard = Heard::default();
            heard.take(&mut client, taken);
            lose(loss, &mut broker, client);
            let mut client = broker.resume(&lasting, true);
            heard.take(&mut client, topics.len());
            assert!(heard.topics.iter().eq(&topics), "{:?}", heard.topics);
            // QoS 1 may come twice, after a kill.
            assert!(heard.twice == 0 || (qos, loss) == (1, Loss::Killed), "{}", heard.twice);
            client.disconnect();
            let mut client = broker.resume(&lasting, true);
            assert!(client.until_fence(&broker).is_empty());
            client.disconnect();
        }
    }
}

#[test]
fn what_was_never_sent_is_not_sent_stale() {
    if peer() {
        return; // it queues all of them
    }
    let broker = Broker::with(&[("WEFT_MQTT__SEND_MAX", "1")]);
    for version in BOTH {
        let name = format!("stale-{version:?}");
        let topics = topics(&name, 0..4);
        retain(&broker, 1, &topics);
        let lasting = Connect::lasting(version, &name);
        let mut client = broker.resume(&lasting, false);
        client.subscribe(&format!("{name}/#"), 1);
        let sent = client.hear();
        client.cut();
        // Sent, and then replaced; removed; replaced; as it was.
        let mut keeper = broker.client(version, "keeper");
        keeper.publish(Publish::new(&topics[0], "new 0").qos(1, 0).retained());
        keeper.publish(Publish::new(&topics[1], "").qos(1, 0).retained());
        keeper.publish(Publish::new(&topics[2], "new 2").retained());
        keeper.alive();
        let mut client = broker.resume(&lasting, true);
        let mut heard = client.until_fence(&broker);
        assert_eq!(
            (heard[0].id, heard[0].dup, heard[0].text()),
            (sent.id, true, &*topics[0])
        );
        let retained: Vec<_> = heard.extract_if(.., |publish| publish.retain).collect();
        assert_eq!(payloads(&retained), [&*topics[0], "new 2", &topics[3]]);
        assert_eq!(payloads(&heard), ["new 0", ""], "published while it was away");
        client.disconnect();
    }
}

#[test]
fn an_unsubscribe_or_a_clean_start_ends_what_was_still_to_be_sent() {
    if peer() {
        return; // as above: of what is killed nothing is left
    }
    let mut broker = Broker::with(&[("WEFT_MQTT__SEND_MAX", "1")]);
    for version in BOTH {
        let name = format!("ended-{version:?}");
        retain(&broker, 1, &topics(&name, 0..100));
        let lasting = Connect::lasting(version, &name);
        let mut client = broker.resume(&lasting, false);
        let filter = format!("{name}/#");
        client.subscribe(&filter, 1);
        client.hear();
        client.cut();
        broker.resume(&Connect::new(version, &name), false).disconnect();
        let mut client = broker.resume(&lasting, false);
        assert!(client.until_fence(&broker).is_empty());
        client.subscribe(&filter, 1);
        client.hear();
        client.unsubscribe(&[&filter], &[0]);
        client.cut();
        broker.kill_and_restart();
        let mut client = broker.resume(&lasting, true);
        let heard = client.until_fence(&broker);
        assert!(heard.len() <= 1, "only what was under way: {:?}", payloads(&heard));
        client.disconnect();
    }
}
