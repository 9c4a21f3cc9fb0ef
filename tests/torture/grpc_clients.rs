//! Producers and consumers over gRPC sessions: many messages under way at once, reconnecting by themselves.
//!
//! Owns how a user's program sends, receives and acknowledges with the client that weft ships; the client sends again what a lost
//! connection left unanswered. What it means is noted in the [`Recorder`] and judged elsewhere.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    sync::{Mutex, mpsc},
    time::timeout,
};
use weft::{
    client::{
        Client, Delivery, Error, Message, Reconnect, Refusal, SendHandle, Session, SessionOptions, SettleOutcome,
    },
    frame::{AgentId, MessageId, Priority, Qos},
};

use super::{
    history::{Event, Message as Recorded, MessageNo, Taken},
    recorder::{Handed, Phase, Recorder, body_of},
};

/// Messages that a producer has under way at once.
const UNDER_WAY: usize = 32;
/// Deliveries that a consumer takes and acknowledges at once.
const BATCH: usize = 20;
/// Chance that a consumer refuses a message once, to have it at once again.
const REFUSE_CHANCE: f64 = 0.02;
/// How long a consumer waits before it looks whether the torture is over.
const LOOK: Duration = Duration::from_millis(200);
/// How long a session may take to have everything answered at its end.
const CLOSE_DEADLINE: Duration = Duration::from_secs(60);

/// A node that was killed is back soon: the first attempts come quickly.
const RECONNECT: Reconnect = Reconnect {
    first: Duration::from_millis(20),
    max: Duration::from_millis(500),
    give_up_after: None,
};

fn agent(name: &str) -> AgentId {
    AgentId::new(name).expect("the torture's names follow the grammar")
}

/// Opens a session, again and again while the node is down.
async fn open(url: &str, name: &str, options: SessionOptions) -> Session {
    let options = SessionOptions {
        reconnect: RECONNECT,
        ..options
    };
    loop {
        let opened = async { Client::connect(url).await?.session(&agent(name), options.clone()).await };
        match opened.await {
            Ok(session) => return session,
            Err(error) => assert!(error.is_retryable(), "{name} can't open a session: {error}"),
        }
        tokio::time::sleep(RECONNECT.first).await;
    }
}

/// A session, and the turn to send on it: what is noted first is sent first.
struct Sender {
    session: Session,
    recorder: Arc<Recorder>,
    turn: Mutex<()>,
}

impl Sender {
    async fn send(&self, number: MessageNo, message: &Recorded) -> SendHandle {
        let _turn = self.turn.lock().await;
        self.recorder.note(Event::Submitted(number));
        self.session
            .send(request_of(message))
            .await
            .expect("the session is open")
    }
}

/// Sends messages until the load ends, many at once.
pub async fn produce(url: String, recorder: Arc<Recorder>, name: String, seed: u64, pause: Duration) {
    let mut rng = StdRng::seed_from_u64(seed);
    let session = open(&url, &name, SessionOptions::send_only()).await;
    let sender = Arc::new(Sender {
        session: session.clone(),
        recorder: recorder.clone(),
        turn: Mutex::default(),
    });
    let (under_way, answers) = mpsc::channel(UNDER_WAY);
    let gatherer = tokio::spawn(gather(sender.clone(), answers));
    while recorder.phase() == Phase::Load {
        let (number, message) = recorder.invent(&name, &mut rng);
        let handle = sender.send(number, &message).await;
        under_way
            .send((number, message, handle))
            .await
            .expect("the gatherer lives as long as the producer");
        tokio::time::sleep(pause).await;
    }
    drop(under_way);
    gatherer.await.expect("the gatherer does not panic");
    session
        .close(CLOSE_DEADLINE)
        .await
        .expect("everything is answered already");
}

/// Takes the answers in the order of the sends; what was refused for now is sent again.
async fn gather(sender: Arc<Sender>, mut answers: mpsc::Receiver<(MessageNo, Recorded, SendHandle)>) {
    let recorder = &sender.recorder;
    while let Some((number, message, mut handle)) = answers.recv().await {
        loop {
            match handle.await {
                Ok(accepted) => {
                    let taken = if accepted.duplicate { Taken::Again } else { Taken::First };
                    let tracking = accepted
                        .tracking_id
                        .expect("QoS 1 and 2 have a tracking id")
                        .to_string();
                    recorder.accepted(number, taken, &tracking);
                    break;
                }
                Err(error) if error.is_retryable() => {
                    tokio::time::sleep(error.retry_after().unwrap_or(RECONNECT.first)).await;
                    handle = sender.send(number, &message).await;
                }
                Err(error) => {
                    recorder.note(Event::Strange(format!("a send was refused: {error}")));
                    break;
                }
            }
        }
    }
}

fn request_of(message: &Recorded) -> Message {
    let priority = match message.priority {
        "low" => Priority::Low,
        "high" => Priority::High,
        "critical" => Priority::Critical,
        _ => Priority::Normal,
    };
    let qos = if message.qos == 2 {
        Qos::ExactlyOnce
    } else {
        Qos::AtLeastOnce
    };
    Message::to_agent(&agent(&message.recipient))
        .id(&MessageId::new(&message.id).expect("the torture's ids follow the grammar"))
        .priority(priority)
        .qos(qos)
        .content_type("application/json")
        .body(Bytes::from(body_of(message).to_string()))
}

/// Receives and acknowledges until everything is drained.
pub async fn consume(url: String, recorder: Arc<Recorder>, name: String, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let session = open(&url, &name, SessionOptions::default()).await;
    let mut batch = Vec::new();
    while recorder.phase() != Phase::Done {
        match timeout(LOOK, session.recv_batch(&mut batch, BATCH)).await {
            Err(_nothing_came) => continue,
            Ok(received) => received.expect("the session reconnects for ever"),
        };
        let mut numbers = Vec::new();
        let mut done = Vec::new();
        for delivery in batch.drain(..) {
            let Some(number) = note_delivery(&recorder, &name, &delivery) else {
                continue;
            };
            if rng.random_bool(REFUSE_CHANCE) {
                // Whether it got there does not matter: the message comes again either way.
                let _ = delivery.nack(Refusal::Release).await;
            } else {
                numbers.push(number);
                done.push(delivery);
            }
        }
        numbers.iter().for_each(|number| recorder.acknowledging(*number));
        let outcomes = session.ack_all(&done).await;
        for (number, outcome) in numbers.iter().zip(outcomes) {
            match outcome {
                SettleOutcome::Done => recorder.note(Event::AckConfirmed(*number)),
                SettleOutcome::Stale | SettleOutcome::Failed(Error::Stale) => {}
                SettleOutcome::Failed(error) => {
                    assert!(error.is_retryable(), "an acknowledgement was refused: {error}")
                }
            }
        }
    }
}

fn note_delivery(recorder: &Recorder, name: &str, delivery: &Delivery) -> Option<MessageNo> {
    let id = delivery.delivery_id().map(|id| id.to_string()).unwrap_or_default();
    recorder.delivered(&Handed {
        consumer: name,
        sender: delivery.from(),
        id: delivery.id(),
        priority: delivery.priority().name(),
        qos: delivery.qos() as u8,
        body: serde_json::from_slice(delivery.body()).unwrap_or_default(),
        delivery_id: &id,
    })
}
