//! What is checked; each panics where it does not hold.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::unbounded_channel;

use crate::client::{Client, Message, Options, Place, PublishProperties, Will, take};

const LEVELS: [u8; 3] = [0, 1, 2];

fn numbers<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Vec<i32> {
    messages.into_iter().map(Message::number).collect()
}

fn in_order(mut numbers: Vec<i32>) -> Vec<i32> {
    numbers.sort_unstable();
    numbers
}

/// QoS 0, 1, 2 both ways: empty, small and 1 MiB; and the lower of two QoS.
pub async fn qos(place: Place) {
    let mut client = place.connect("c").await;
    let topic = place.topic("t");
    client.subscribe(&topic, 2).await;
    for level in LEVELS {
        for payload in [Vec::new(), b"small".to_vec(), b"0123456789abcdef".repeat(1 << 16)] {
            client.publish(&topic, payload.clone(), level).await;
            let came = client.take().await;
            assert_eq!((&came.topic, came.qos, came.retain), (&topic, level, false));
            assert!(
                came.payload == payload,
                "{} bytes became {}",
                payload.len(),
                came.payload.len()
            );
        }
    }
    client.subscribe(&place.topic("low"), 1).await;
    client.publish(&place.topic("low"), "x", 2).await;
    assert_eq!(client.take().await.qos, 1);
    client.end().await;
}

/// Set, live, read by wildcard, replaced, cleared.
pub async fn retained(place: Place) {
    let topic = |level: u8| place.topic(&format!("kept/{level}"));
    let mut client = place.connect("c").await;
    client.subscribe(&topic(1), 1).await;
    for level in LEVELS {
        client.retain(&topic(level), "old", level).await;
    }
    client.retain(&topic(1), "new", 1).await;
    for payload in ["old", "new"] {
        let came = client.take().await;
        assert_eq!((came.text(), came.retain), (payload, false));
    }
    let mut reader = place.connect("r").await;
    reader.subscribe(&place.topic("kept/+"), 2).await;
    let mut came = reader.take_all(3).await;
    came.make_contiguous().sort_by_key(|message| message.qos);
    for (message, level) in came.iter().zip(LEVELS) {
        let payload = if level == 1 { "new" } else { "old" };
        assert_eq!(
            (&message.topic, message.text(), message.qos, message.retain),
            (&topic(level), payload, level, true)
        );
    }
    reader.end().await;
    for level in LEVELS {
        client.retain(&topic(level), "", level).await;
    }
    let mut reader = place.connect("r").await;
    reader.subscribe(&place.topic("kept/#"), 2).await;
    client.publish(&place.topic("kept/fence"), "fence", 2).await;
    let came = reader.take().await;
    assert_eq!((came.text(), came.retain), ("fence", false));
    reader.end().await;
    client.end().await;
}

async fn with_will(place: &Place, name: &str, lasting: bool, will: Will) -> Client {
    let options = Options {
        lasting,
        will: Some(will),
        ..Options::default()
    };
    place.connect_as(name, options).await
}

/// Of a cut connection, at each QoS, one of them retained; none behind a DISCONNECT.
pub async fn will(place: Place) {
    let topic = place.topic("will");
    let will = |qos, retain| Will {
        topic: place.topic("will"),
        qos,
        retain,
        delay_s: None,
    };
    let mut witness = place.connect("w").await;
    witness.subscribe(&topic, 2).await;
    for level in LEVELS {
        with_will(&place, "dies", false, will(level, level == 2))
            .await
            .cut()
            .await;
        let came = witness.take().await;
        assert_eq!(
            (&came.topic, came.text(), came.qos, came.retain),
            (&topic, "gone", level, false)
        );
    }
    let mut late = place.connect("late").await;
    late.subscribe(&topic, 2).await;
    assert!(late.take().await.retain);
    late.end().await;
    with_will(&place, "leaves", false, will(2, false)).await.end().await;
    witness.publish(&topic, "fence", 2).await;
    assert_eq!(witness.take().await.text(), "fence");
    witness.end().await;
}

/// It comes no sooner than its delay, and never where its client is back before.
pub async fn will_delay(place: Place) {
    let topic = place.topic("will");
    let will = |delay_s| Will {
        topic: place.topic("will"),
        qos: 1,
        retain: false,
        delay_s: Some(delay_s),
    };
    let mut witness = place.connect("w").await;
    witness.subscribe(&topic, 1).await;
    let dies = with_will(&place, "dies", true, will(1)).await;
    #[allow(
        clippy::disallowed_methods,
        reason = "the rule is of the workspace around this package"
    )]
    let cut_at = Instant::now();
    dies.cut().await;
    assert_eq!(witness.take().await.text(), "gone");
    assert!(
        cut_at.elapsed() >= Duration::from_millis(900),
        "sooner than its delay of a second"
    );
    with_will(&place, "back", true, will(600)).await.cut().await;
    let mut back = place
        .connect_as(
            "back",
            Options {
                lasting: true,
                ..Options::default()
            },
        )
        .await;
    assert!(back.present);
    back.publish(&topic, "fence", 1).await;
    assert_eq!(witness.take().await.text(), "fence");
    back.end().await;
    witness.end().await;
}

/// Each message goes to one member; what a member that dies had not acknowledged goes to another.
pub async fn shared(place: Place) {
    let mut publisher = place.connect("p").await;
    let (together, mut heard) = unbounded_channel();
    let mut members = Vec::new();
    for name in ["m0", "m1"] {
        let options = Options {
            together: Some(together.clone()),
            ..Options::default()
        };
        let mut member = place.connect_as(name, options).await;
        member
            .subscribe(&format!("$share/group/{}", place.topic("once")), 2)
            .await;
        members.push(member);
    }
    for number in 0..30_u8 {
        publisher
            .publish(&place.topic("once"), number.to_string(), number % 3)
            .await;
    }
    let mut once = Vec::new();
    for _ in 0..30 {
        once.push(take(&mut heard).await);
    }
    assert_eq!(in_order(numbers(&once)), (0..30).collect::<Vec<_>>());
    for member in members {
        member.end().await;
    }
    assert!(heard.try_recv().is_err(), "a message came twice");
    for level in [1, 2] {
        handed_on(&place, &mut publisher, level).await;
    }
    publisher.end().await;
}

async fn handed_on(place: &Place, publisher: &mut Client, level: u8) {
    let topic = place.topic(&format!("again/{level}"));
    let holds = Options {
        holds: true,
        ..Options::default()
    };
    let mut dies = place.connect_as(&format!("d{level}"), holds).await;
    let mut stays = place.connect(&format!("s{level}")).await;
    for member in [&mut dies, &mut stays] {
        member.subscribe(&format!("$share/group/{topic}"), level).await;
    }
    let fence = format!("{topic}/fence");
    stays.subscribe(&fence, level).await;
    for number in 0..10 {
        publisher.publish(&topic, number.to_string(), level).await;
    }
    dies.take().await;
    publisher.publish(&fence, "-1", level).await;
    let mut came = Vec::new();
    while !numbers(&came).contains(&-1) {
        came.push(stays.take().await);
    }
    assert!(came.len() < 11, "the member that died had got nothing");
    dies.cut().await;
    while came.len() < 11 {
        came.push(stays.take().await);
    }
    assert_eq!(in_order(numbers(&came)), (-1..10).collect::<Vec<_>>());
    stays.end().await;
}

/// What is queued while a client is away comes when it is back, in order, also what it had not acknowledged.
pub async fn resume(place: Place) {
    let mut publisher = place.connect("p").await;
    for level in [1, 2] {
        let topic = place.topic(&level.to_string());
        let name = format!("a{level}");
        let lasting = |holds| Options {
            lasting: true,
            holds,
            ..Options::default()
        };
        let mut away = place.connect_as(&name, lasting(false)).await;
        assert!(!away.present);
        away.subscribe(&topic, level).await;
        away.end().await;
        for number in 0..5 {
            publisher.publish(&topic, number.to_string(), level).await;
        }
        let mut away = place.connect_as(&name, lasting(true)).await;
        assert!(away.present);
        assert_eq!(numbers(&away.take_all(5).await), [0, 1, 2, 3, 4]);
        away.cut().await;
        publisher.publish(&topic, "5", level).await;
        let mut away = place.connect_as(&name, lasting(false)).await;
        assert!(away.present);
        let again = away.take_all(6).await;
        assert_eq!(numbers(&again), [0, 1, 2, 3, 4, 5]);
        assert!(again.iter().all(|message| message.dup == (message.number() < 5)));
        away.end().await;
        let fresh = place.connect(&name).await;
        assert!(!fresh.present);
        fresh.end().await;
    }
    publisher.end().await;
}

/// An agent's inbox by its name, and a reply by way of it.
pub async fn addresses(place: Place) {
    let mut alice = place.connect("alice").await;
    let mut bob = place.connect("bob").await;
    for client in [&mut alice, &mut bob] {
        client.subscribe("$weft/inbox", 1).await;
    }
    let agent = |name| format!("$weft/agent/{}", place.client_id(name));
    alice.publish(&agent("bob"), "question", 1).await;
    let came = bob.take().await;
    assert_eq!((&came.topic[..], came.text()), ("$weft/inbox", "question"));
    bob.publish(&agent("alice"), "answer", 2).await;
    assert_eq!(alice.take().await.text(), "answer");
    alice.end().await;
    bob.end().await;
}

/// Each property of a PUBLISH as it was sent; a reply to its response topic.
pub async fn properties(place: Place) {
    let mut reader = place.connect("r").await;
    let mut writer = place.connect("w").await;
    let (topic, answers) = (place.topic("t"), place.topic("answers"));
    reader.subscribe(&topic, 1).await;
    writer.subscribe(&answers, 1).await;
    let pairs = [("a", "1"), ("b", ""), ("a", "2")];
    let sent = PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(600),
        response_topic: Some(answers),
        correlation_data: Some([0, 1].to_vec().into()),
        user_properties: pairs.map(|(name, value)| (name.into(), value.into())).to_vec(),
        content_type: Some("text/plain".into()),
        ..PublishProperties::default()
    };
    writer
        .publish_as(&topic, b"x".to_vec(), 1, false, Some(sent.clone()))
        .await;
    let mut came = reader.take().await.properties;
    let left = came.message_expiry_interval.replace(600);
    assert!(left.is_some_and(|left| (1..=600).contains(&left)), "expiry {left:?}");
    assert_eq!(came, sent);
    let answer = PublishProperties {
        correlation_data: came.correlation_data,
        ..PublishProperties::default()
    };
    let to = came.response_topic.expect("compared above");
    reader.publish_as(&to, b"answer".to_vec(), 1, false, Some(answer)).await;
    let came = writer.take().await;
    assert_eq!(
        (came.text(), &came.properties.correlation_data),
        ("answer", &sent.correlation_data)
    );
    reader.end().await;
    writer.end().await;
}
