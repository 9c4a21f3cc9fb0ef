//! The QUIC edge and the client, over real sockets against a fabric on the memory store.

mod quic_node;

use quic_node::{PATIENCE, Server, until, within};
use weft::{
    client::{self, Accepted, Client, Error, Message, Session, SessionOptions, Status, StatusQuery},
    frame::{AgentId, Qos},
};

fn id(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

fn to(agent: &str) -> Message {
    Message::to_agent(&id(agent))
}

async fn session(client: &Client, agent: &str) -> Session {
    within(client.session(&id(agent), SessionOptions::default()))
        .await
        .unwrap()
}

async fn sender(client: &Client, agent: &str) -> Session {
    within(client.session(&id(agent), SessionOptions::send_only()))
        .await
        .unwrap()
}

fn text(delivery: &client::Delivery) -> String {
    String::from_utf8(delivery.body().to_vec()).unwrap()
}

async fn send(session: &Session, message: Message) -> Result<Accepted, Error> {
    within(async { session.send(message).await?.await }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_carries_messages_receipts_and_acknowledgements() {
    let server = Server::start().await;
    let client = server.client().await;
    let (alice, bob) = (sender(&client, "alice").await, session(&client, "bob").await);
    let mut handles = Vec::new();
    for n in 0..500 {
        let message = to("bob").header("n", n.to_string()).text(format!("message {n}"));
        handles.push(within(alice.send(message)).await.unwrap());
    }
    let mut received = Vec::new();
    while received.len() < 500 {
        let before = received.len();
        within(bob.recv_batch(&mut received, 100)).await.unwrap();
        let outcomes = within(bob.ack_all(&received[before..])).await;
        assert!(
            outcomes.iter().all(|one| matches!(one, client::SettleOutcome::Done)),
            "{outcomes:?}"
        );
    }
    let bodies: Vec<_> = received.iter().map(text).collect();
    let sent: Vec<_> = (0..500).map(|n| format!("message {n}")).collect();
    assert_eq!(bodies, sent, "G5: in order");
    assert!(received.iter().all(|one| one.from() == "alice" && one.attempt() == 1));
    assert_eq!(received[7].header("n"), Some("7"));
    for handle in handles {
        let accepted = within(handle).await.unwrap();
        assert!(accepted.tracking_id.is_some() && !accepted.duplicate);
        // A call, carried by QUIC too.
        let status = client
            .status(StatusQuery::Tracking(accepted.tracking_id.unwrap()))
            .await;
        assert_eq!(status.unwrap().status, Status::Delivered);
    }
    assert_eq!(alice.stats().answered, 500);
    within(alice.close(PATIENCE)).await.unwrap();
    within(bob.close(PATIENCE)).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_0_passes_in_both_directions_without_receipts() {
    let server = Server::start().await;
    let client = server.client().await;
    let (alice, bob) = (session(&client, "alice").await, session(&client, "bob").await);
    for (from, other, name) in [(&alice, &bob, "bob"), (&bob, &alice, "alice")] {
        for n in 0..200 {
            let message = to(name).qos(Qos::AtMostOnce).text(format!("{n}"));
            assert_eq!(send(from, message).await.unwrap().status, Status::Unconfirmed);
        }
        for n in 0..200 {
            let delivery = within(other.recv()).await.unwrap();
            assert_eq!((text(&delivery), delivery.delivery_id()), (format!("{n}"), None));
        }
    }
    server.stop().await;
}
