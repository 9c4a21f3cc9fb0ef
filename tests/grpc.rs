//! The gRPC edge and the client, over real sockets against a fabric on the memory store.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_types::StatusExt;
use weft::{
    client::{
        self, Accepted, Acks, AgentFilter, Client, CommunicationMode, Error, GroupDraft, Health, Inbox, Message, Page,
        ReceiveOptions, Refusal, Registration, Session, SessionOptions, SessionState, SettleOutcome, Status,
        StatusQuery,
    },
    edge::{
        auth::DevelopmentMode,
        counters::Counters,
        grpc::{self, Door},
    },
    frame::{Address, AgentId, GroupId, MessageId, Qos, TopicFilter, TopicName},
    router::{
        Fabric,
        config::Config,
        port::{AllowAll, Ports, Store},
        surface::Protocol,
    },
    rpc::{
        Parcel, SendFrame,
        v1::{self, client_frame, messaging_client::MessagingClient, server_frame},
    },
    store::memory::MemoryStore,
};

/// Far longer than anything here takes; only a hang meets it.
const PATIENCE: Duration = Duration::from_secs(30);

struct Server {
    address: SocketAddr,
    fabric: Fabric,
    counters: Arc<Counters>,
    shutdown: CancellationToken,
    served: JoinHandle<Result<(), grpc::ServeError>>,
}

impl Server {
    async fn start() -> Self {
        Self::with(Config::default(), grpc::Config::default()).await
    }

    async fn with(config: Config, edge: grpc::Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, Arc::new(MemoryStore::new(7, 1 << 30)), config, edge).await
    }

    async fn on(listener: TcpListener, store: Arc<dyn Store>, config: Config, edge: grpc::Config) -> Self {
        let ports = Ports {
            store,
            policy: Arc::new(AllowAll),
        };
        let fabric = Fabric::start(ports, Config { workers: 2, ..config }).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, counters) = (CancellationToken::new(), Arc::new(Counters::default()));
        let door = Door {
            fabric: fabric.clone(),
            authenticator: Arc::new(DevelopmentMode),
            counters: Arc::clone(&counters),
            protocols: Arc::from([Protocol::Grpc, Protocol::Http]),
        };
        let served = tokio::spawn(grpc::serve(listener, door, edge, shutdown.clone(), PATIENCE));
        Self {
            address,
            fabric,
            counters,
            shutdown,
            served,
        }
    }

    fn url(&self) -> String {
        format!("grpc://{}", self.address)
    }

    async fn client(&self) -> Client {
        Client::connect(&self.url()).await.unwrap()
    }

    async fn raw(&self) -> MessagingClient<tonic::transport::Channel> {
        MessagingClient::connect(format!("http://{}", self.address))
            .await
            .unwrap()
    }

    /// A planned end: drains, says goodbye, waits for streams and calls.
    async fn stop(self) {
        self.fabric.drain();
        self.shutdown.cancel();
        within(self.served).await.unwrap().unwrap();
        self.fabric.stop(PATIENCE).await.unwrap();
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it took far too long")
}

async fn until<T, F: Future<Output = Option<T>>>(mut probe: impl FnMut() -> F) -> T {
    for _ in 0..4000 {
        if let Some(found) = probe().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not happen in time");
}

fn id(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

fn to(agent: &str) -> Message {
    Message::to_agent(&id(agent))
}

async fn session(client: &Client, agent: &str) -> Session {
    client.session(&id(agent), SessionOptions::default()).await.unwrap()
}

async fn sender(client: &Client, agent: &str) -> Session {
    client.session(&id(agent), SessionOptions::send_only()).await.unwrap()
}

fn text(delivery: &client::Delivery) -> String {
    String::from_utf8(delivery.body().to_vec()).unwrap()
}

async fn send(session: &Session, message: Message) -> Result<Accepted, Error> {
    within(async { session.send(message).await?.await }).await
}

// --- the stream ------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_carries_messages_receipts_and_acknowledgements() {
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
        within(bob.recv_batch(&mut received, 100)).await.unwrap();
        let outcomes = within(bob.ack_all(&received[received.len().saturating_sub(100)..])).await;
        assert_eq!(outcomes.len(), received.len().min(100));
    }
    let bodies: Vec<_> = received.iter().map(text).collect();
    assert_eq!(
        bodies,
        (0..500).map(|n| format!("message {n}")).collect::<Vec<_>>(),
        "G5: in order"
    );
    assert!(received.iter().all(|one| one.from() == "alice" && one.attempt() == 1));
    for handle in handles {
        let accepted = within(handle).await.unwrap();
        assert!(accepted.tracking_id.is_some() && !accepted.duplicate);
        let query = StatusQuery::Tracking(accepted.tracking_id.unwrap());
        let status = client.status(query).await.unwrap();
        assert_eq!(status.status, Status::Delivered);
    }
    assert_eq!(alice.stats().answered, 500);
    within(alice.close(PATIENCE)).await.unwrap();
    within(bob.close(PATIENCE)).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_message_gets_its_own_answer_and_disturbs_no_other() {
    let server = Server::with(
        Config {
            registration_required: true,
            ..Config::default()
        },
        grpc::Config::default(),
    )
    .await;
    let client = server.client().await;
    for agent in ["alice", "bob"] {
        client
            .register_agent(&id(agent), Registration::default())
            .await
            .unwrap();
    }
    let alice = sender(&client, "alice").await;
    let before = alice.send(to("bob").text("1")).await.unwrap();
    let unknown = alice.send(to("nobody")).await.unwrap();
    let reserved = alice.send(to("bob").header("weft-from", "eve")).await.unwrap();
    let after = alice.send(to("bob").text("2")).await.unwrap();
    within(before).await.unwrap();
    let unknown = within(unknown).await.unwrap_err();
    assert_eq!((unknown.code(), unknown.is_retryable()), (Some("WEFT-1200"), false));
    let reserved = within(reserved).await.unwrap_err();
    assert_eq!(reserved.code(), Some("WEFT-1001"));
    assert_eq!(reserved.refused().unwrap().fields[0].0, "headers");
    within(after).await.unwrap();
    server.stop().await;
}

/// Opens a stream by hand: what the client never does, it cannot test.
async fn frames_of(
    server: &Server,
    frames: Vec<client_frame::Frame>,
) -> (Vec<server_frame::Frame>, Result<(), tonic::Status>) {
    let frames = frames.into_iter().map(|frame| v1::ClientFrame { frame: Some(frame) });
    let outbound = tokio_stream::StreamExt::chain(tokio_stream::iter(frames), tokio_stream::pending());
    let mut inbound = server.raw().await.session(outbound).await.unwrap().into_inner();
    let mut seen = Vec::new();
    loop {
        match within(inbound.message()).await {
            Ok(Some(frame)) => seen.push(frame.frame.unwrap()),
            Ok(None) => return (seen, Ok(())),
            Err(status) => return (seen, Err(status)),
        }
    }
}

fn attach(agent: &str) -> client_frame::Frame {
    client_frame::Frame::Attach(v1::Attach {
        agent: agent.into(),
        ..Default::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_use_of_a_stream_ends_it_with_the_reason() {
    let server = Server::start().await;
    let early_ack = client_frame::Frame::Ack(v1::AckFrame { tag: 1, ids: vec![] });
    let (_, end) = frames_of(&server, vec![early_ack]).await;
    assert_eq!(end.unwrap_err().code(), Code::FailedPrecondition);

    let (seen, end) = frames_of(&server, vec![attach("bob"), attach("bob")]).await;
    assert!(matches!(&seen[0], server_frame::Frame::Welcome(welcome) if welcome.agent == "bob"));
    assert_eq!(end.unwrap_err().code(), Code::FailedPrecondition);

    let unknown_number = client_frame::Frame::Attach(v1::Attach {
        agent: "bob".into(),
        ack_mode: 9,
        ..Default::default()
    });
    let (_, end) = frames_of(&server, vec![unknown_number]).await;
    let end = end.unwrap_err();
    assert_eq!(end.code(), Code::InvalidArgument);
    let violations = end.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "attach.ack_mode");

    let too_many = client_frame::Frame::Send(SendFrame {
        messages: vec![Parcel::Message(v1::Message::default()); 1001],
        ..Default::default()
    });
    let (_, end) = frames_of(&server, vec![too_many]).await;
    assert_eq!(end.unwrap_err().code(), Code::InvalidArgument);

    let detach = client_frame::Frame::Detach(v1::Detach {});
    let (seen, end) = frames_of(&server, vec![attach("bob"), detach]).await;
    end.unwrap();
    assert!(matches!(&seen[1], server_frame::Frame::Goodbye(goodbye) if goodbye.reason == "detached"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_welcome_comes_before_answers_to_what_was_sent_behind_the_attach() {
    let server = Server::start().await;
    for _ in 0..300 {
        let send = client_frame::Frame::Send(SendFrame {
            first_tag: 1,
            messages: vec![Parcel::Message(v1::Message {
                to: "agent:carol".into(),
                qos: v1::Qos::AtMostOnce.into(),
                ..Default::default()
            })],
            receipts: v1::ReceiptMode::All.into(),
            ..Default::default()
        });
        let detach = client_frame::Frame::Detach(v1::Detach {});
        let (seen, end) = frames_of(&server, vec![attach("bob"), send, detach]).await;
        end.unwrap();
        assert!(
            matches!(
                &seen[..],
                [
                    server_frame::Frame::Welcome(_),
                    server_frame::Frame::Receipts(_),
                    server_frame::Frame::Goodbye(_)
                ]
            ),
            "{seen:?}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_enum_number_in_a_message_is_refused_under_its_tag() {
    let server = Server::start().await;
    let message = |priority| {
        Parcel::Message(v1::Message {
            to: "agent:bob".into(),
            priority,
            ..Default::default()
        })
    };
    let send = client_frame::Frame::Send(SendFrame {
        first_tag: 40,
        messages: vec![message(0), message(77)],
        from: "alice".into(),
        ..Default::default()
    });
    let outbound = tokio_stream::iter([v1::ClientFrame { frame: Some(send) }]);
    let mut inbound = server.raw().await.session(outbound).await.unwrap().into_inner();
    let mut receipts = Vec::new();
    // The client closed its half: the node answers both and ends the stream.
    while let Some(frame) = within(inbound.message()).await.unwrap() {
        match frame.frame.unwrap() {
            server_frame::Frame::Receipts(batch) => receipts.extend(batch.receipts),
            other => panic!("{other:?}"),
        }
    }
    receipts.sort_by_key(|receipt| receipt.tag);
    assert!(matches!(receipts[0].result, Some(v1::receipt::Result::Accepted(_))));
    match &receipts[1].result {
        Some(v1::receipt::Result::Problem(problem)) => {
            assert_eq!(
                (problem.code.as_str(), problem.field.as_str()),
                ("WEFT-1000", "priority")
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((receipts[0].tag, receipts[1].tag), (40, 41));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_acknowledges_what_it_wrote_where_the_stream_asks_for_it() {
    let server = Server::start().await;
    let client = server.client().await;
    let accepted = client
        .send(to("bob").from(&id("alice")).text("hi"))
        .await
        .unwrap()
        .accepted;
    let auto = v1::ClientFrame {
        frame: Some(client_frame::Frame::Attach(v1::Attach {
            agent: "bob".into(),
            ack_mode: v1::AckMode::Auto.into(),
            ..Default::default()
        })),
    };
    // The half is closed at once: with automatic acknowledgements the stream delivers on.
    let mut inbound = server
        .raw()
        .await
        .session(tokio_stream::iter([auto]))
        .await
        .unwrap()
        .into_inner();
    let mut bodies = Vec::new();
    while bodies.len() < 2 {
        match within(inbound.message()).await.unwrap().unwrap().frame.unwrap() {
            server_frame::Frame::Welcome(_) => {}
            server_frame::Frame::Deliveries(batch) => {
                bodies.extend(
                    batch
                        .into_vec()
                        .unwrap()
                        .into_iter()
                        .map(|one| one.into_message().unwrap().unwrap().body),
                );
                if bodies.len() == 1 {
                    client.send(to("bob").from(&id("alice")).text("again")).await.unwrap();
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bodies, [Bytes::from("hi"), Bytes::from("again")]);
    let query = || StatusQuery::Tracking(accepted.tracking_id.unwrap());
    until(|| async {
        let status = client.status(query()).await.unwrap().status;
        (status == Status::Delivered).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_deliveries_come_again_or_become_dead_letters_that_can_be_replayed() {
    let server = Server::start().await;
    let client = server.client().await;
    let bob = session(&client, "bob").await;
    client.send(to("bob").from(&id("alice")).text("work")).await.unwrap();
    let first = within(bob.recv()).await.unwrap();
    within(first.nack(Refusal::Release)).await.unwrap();
    let second = within(bob.recv()).await.unwrap();
    assert!(second.is_redelivered());
    assert!(
        matches!(within(first.ack()).await, Err(Error::Stale)),
        "the first hand-out is void"
    );
    within(second.nack(Refusal::DeadLetter)).await.unwrap();
    let address = Address::agent(&id("bob"));
    let (letters, next) = client.dead_letters(&address, Page::default()).await.unwrap();
    assert_eq!(
        (letters.len(), next.as_str(), letters[0].reason.as_str()),
        (1, "", "refused")
    );
    let message = MessageId::new(letters[0].message.id()).unwrap();
    client.replay_dead_letter(&address, &message).await.unwrap();
    let third = within(bob.recv()).await.unwrap();
    assert_eq!(text(&third), "work");
    within(third.ack()).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_reach_subscribed_sessions_and_requests_their_answers() {
    let server = Server::start().await;
    let client = server.client().await;
    let (alice, bob) = (session(&client, "alice").await, session(&client, "bob").await);
    within(bob.subscribe(&[TopicFilter::new("news/+").unwrap()]))
        .await
        .unwrap();
    let topic = TopicName::new("news/today").unwrap();
    send(&alice, Message::to_topic(&topic).text("rain")).await.unwrap();
    let news = within(bob.recv()).await.unwrap();
    assert_eq!((text(&news).as_str(), news.to()), ("rain", "topic:news/today"));
    within(news.ack()).await.unwrap();
    within(bob.unsubscribe(&[TopicFilter::new("news/+").unwrap()]))
        .await
        .unwrap();

    let answering = tokio::spawn(async move {
        for _ in 0..2 {
            let question = within(bob.recv()).await.unwrap();
            assert_eq!(text(&question), "6 x 7?");
            send(&bob, question.reply().unwrap().text("42")).await.unwrap();
            within(question.ack()).await.unwrap();
        }
    });
    let answer = within(alice.request(to("bob").text("6 x 7?"), PATIENCE)).await.unwrap();
    assert_eq!(&answer.body()[..], b"42");
    let answer = within(client.request(to("bob").from(&id("carol")).text("6 x 7?"), PATIENCE))
        .await
        .unwrap();
    assert_eq!((&answer.body()[..], answer.from()), (&b"42"[..], "bob"));
    answering.await.unwrap();
    let silence = alice.request(to("bob"), Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(silence, Error::Timeout(_)), "{silence}");
    let silence = client
        .request(to("dave").from(&id("carol")), Duration::from_millis(20))
        .await
        .unwrap_err();
    assert_eq!(silence.code(), Some("WEFT-1401"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_one_mebibyte_arrives_byte_for_byte_and_a_larger_one_is_refused() {
    let server = Server::start().await;
    let client = server.client().await;
    let (alice, bob) = (sender(&client, "alice").await, session(&client, "bob").await);
    let body: Bytes = (0..1024 * 1024).map(|n: u32| (n % 251) as u8).collect();
    for _ in 0..3 {
        send(&alice, to("bob").body(body.clone())).await.unwrap();
        let delivery = within(bob.recv()).await.unwrap();
        assert!(delivery.body() == &body, "the body was changed on its way");
        within(delivery.ack()).await.unwrap();
    }
    let larger = vec![0; body.len() + 1];
    let error = send(&alice, to("bob").body(larger.clone())).await.unwrap_err();
    assert_eq!(error.code(), Some("WEFT-1300"));
    // Far too large for an item: the call ends before it is read.
    let giant = to("bob").from(&id("alice")).body(vec![0; 5 << 20]);
    let error = client.send(giant).await.unwrap_err();
    assert_eq!(error.refused().unwrap().grpc_status, "RESOURCE_EXHAUSTED");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overfull_mailbox_is_resource_exhausted_with_a_time_to_retry() {
    let config = Config {
        inbox_messages_max: 10,
        ..Config::default()
    };
    let server = Server::with(config, grpc::Config::default()).await;
    let client = server.client().await;
    for _ in 0..10 {
        client.send(to("bob").from(&id("alice"))).await.unwrap();
    }
    let message = v1::Message {
        from: "alice".into(),
        to: "agent:bob".into(),
        ..Default::default()
    };
    let request = v1::SendRequest { message: Some(message) };
    let status = server.raw().await.send(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("WEFT-1302", "weft"));
    assert_eq!(info.metadata["retryable"], "true");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    assert_eq!(status.get_details_resource_info().unwrap().resource_name, "agent:bob");
    let error = send(&sender(&client, "alice").await, to("bob")).await.unwrap_err();
    assert!(error.is_retryable() && error.retry_after().is_some(), "{error}");
    server.stop().await;
}

// --- losing the connection -------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_the_server_and_every_message_arrives_once_and_in_order() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(7, 1 << 30));
    let (config, edge) = (Config::default(), grpc::Config::default());
    // A runtime of its own, so that all of the server can go at one instant.
    let doomed = tokio::runtime::Runtime::new().unwrap();
    let server = doomed.spawn({
        let (store, config, edge) = (Arc::clone(&store), config.clone(), edge.clone());
        async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            Server::on(listener, store, config, edge).await
        }
    });
    let server = server.await.unwrap();
    let address = server.address;
    let client = server.client().await;
    let options = SessionOptions {
        durable_queue: Some("lasting".into()),
        ..SessionOptions::default()
    };
    let (alice, bob) = (
        sender(&client, "alice").await,
        client.session(&id("bob"), options).await.unwrap(),
    );
    within(bob.subscribe(&[TopicFilter::new("a/b").unwrap()]))
        .await
        .unwrap();
    send(&alice, to("bob").text("0")).await.unwrap();
    let unsettled = within(bob.recv()).await.unwrap();
    let mut states = alice.states();

    // The server goes without a word: its sockets close with what was written on them unanswered.
    doomed.shutdown_background();
    let early = tokio::spawn({
        let alice = alice.clone();
        async move {
            let mut handles = Vec::new();
            for n in 1..300 {
                handles.push(alice.send(to("bob").text(n.to_string())).await.unwrap());
            }
            handles
        }
    });
    let lost = |state: &SessionState| matches!(state, SessionState::Reconnecting { .. });
    within(states.wait_for(lost)).await.unwrap();
    let dropped = alice.send(to("bob").qos(Qos::AtMostOnce)).await.unwrap();
    assert!(
        matches!(within(dropped).await, Err(Error::Dropped)),
        "QoS 0 is not kept"
    );

    let listener = until(|| async { TcpListener::bind(address).await.ok() }).await;
    let server = Server::on(listener, store, config, edge).await;
    let handles = within(early).await.unwrap();
    for handle in handles {
        within(handle).await.unwrap();
    }
    assert!(
        matches!(within(unsettled.ack()).await, Err(Error::Stale)),
        "it comes again"
    );
    let mut seen = Vec::new();
    while seen.len() < 300 {
        let delivery = within(bob.recv()).await.unwrap();
        within(delivery.ack()).await.unwrap();
        seen.push(text(&delivery));
    }
    assert_eq!(seen, (0..300).map(|n: u32| n.to_string()).collect::<Vec<_>>());
    let topic = Message::to_topic(&TopicName::new("a/b").unwrap()).text("still subscribed");
    send(&alice, topic).await.unwrap();
    assert_eq!(text(&within(bob.recv()).await.unwrap()), "still subscribed");
    assert_eq!((alice.stats().reconnects, alice.stats().dropped), (1, 1));
    server.stop().await;
}

/// A relay that swallows what the server says after a number of bytes, then cuts: answers are lost, messages are not.
async fn forgetful_relay(server: SocketAddr, answers_bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut first = true;
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let up = TcpStream::connect(server).await.unwrap();
            let (mut client_read, mut client_write) = client.into_split();
            let (mut up_read, mut up_write) = up.into_split();
            let onward = tokio::spawn(async move { tokio::io::copy(&mut client_read, &mut up_write).await });
            if first {
                first = false;
                let mut limited = (&mut up_read).take(answers_bytes as u64);
                let _ = tokio::io::copy(&mut limited, &mut client_write).await;
                // Whatever follows is read and never passed on: the node took those messages, and nobody was told.
                let mut swallowed = [0; 4096];
                for _ in 0..3 {
                    let _ = tokio::time::timeout(Duration::from_millis(200), up_read.read(&mut swallowed)).await;
                }
                onward.abort();
            } else {
                tokio::spawn(async move { tokio::io::copy(&mut up_read, &mut client_write).await });
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_answer_was_lost_is_sent_again_and_taken_once() {
    let server = Server::start().await;
    let relay = forgetful_relay(server.address, 600).await;
    let client = Client::connect(&format!("grpc://{relay}")).await.unwrap();
    let alice = sender(&client, "alice").await;
    let mut handles = Vec::new();
    for n in 0..200 {
        handles.push(within(alice.send(to("bob").text(n.to_string()))).await.unwrap());
        if n % 10 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut duplicates = 0;
    for handle in handles {
        duplicates += usize::from(within(handle).await.unwrap().duplicate);
    }
    assert!(duplicates > 0, "no answer was lost, so that nothing was tested");
    assert!(alice.stats().resent > 0);
    let direct = server.client().await;
    let bob = session(&direct, "bob").await;
    for n in 0..200 {
        let delivery = within(bob.recv()).await.unwrap();
        assert_eq!(text(&delivery), n.to_string(), "G4 and G5: once and in order");
        within(delivery.ack()).await.unwrap();
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_session_leaves_none_behind_on_the_node() {
    let server = Server::start().await;
    let client = server.client().await;
    let bob = session(&client, "bob").await;
    let sessions = || async { client.connections(Some(&id("bob"))).await.unwrap().len() };
    assert_eq!(sessions().await, 1);
    drop(bob);
    // The client's connection stays, and with it whatever stream was left open.
    until(|| async { (sessions().await == 0).then_some(()) }).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_the_reason_where_coming_back_makes_no_sense() {
    let server = Server::start().await;
    let client = server.client().await;
    client
        .register_agent(&id("bob"), Registration::default())
        .await
        .unwrap();
    let bob = session(&client, "bob").await;
    client.remove_agent(&id("bob")).await.unwrap();
    let ended = within(bob.recv()).await.unwrap_err();
    assert!(
        matches!(&ended, Error::Closed { reason } if reason == "agent_removed"),
        "{ended}"
    );
    let late = bob.send(to("alice")).await.unwrap_err();
    assert!(matches!(late, Error::Closed { .. }), "{late}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_a_session_flushes_what_was_queued() {
    let server = Server::start().await;
    let client = server.client().await;
    let alice = sender(&client, "alice").await;
    let mut handles = Vec::new();
    for n in 0..100 {
        handles.push(alice.send(to("bob").text(n.to_string())).await.unwrap());
    }
    within(alice.close(PATIENCE)).await.unwrap();
    for handle in handles {
        within(handle).await.unwrap();
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn automatic_acknowledgement_settles_what_recv_handed_over() {
    let server = Server::start().await;
    let client = server.client().await;
    let options = SessionOptions {
        acks: Acks::Auto,
        ..SessionOptions::default()
    };
    let bob = client.session(&id("bob"), options).await.unwrap();
    let sent = client.send(to("bob").from(&id("alice"))).await.unwrap();
    within(bob.recv()).await.unwrap();
    until(|| async {
        let query = StatusQuery::Tracking(sent.accepted.tracking_id.unwrap());
        (client.status(query).await.unwrap().status == Status::Delivered).then_some(())
    })
    .await;
    server.stop().await;
}

// --- single calls ----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn single_calls_send_receive_and_settle() {
    let server = Server::start().await;
    let client = server.client().await;
    let alice = id("alice");
    let bad = Message::new(&Address::agent(&id("bob")))
        .from(&alice)
        .header("weft-x", "y");
    let batch = vec![to("bob").from(&alice).text("1"), bad, to("bob").from(&alice).text("2")];
    let answers = client.send_batch(batch).await.unwrap();
    assert!(answers[0].is_ok() && answers[2].is_ok());
    assert_eq!(answers[1].as_ref().unwrap_err().code(), Some("WEFT-1001"));

    let once = MessageId::new("once").unwrap();
    let first = client.send(to("bob").from(&alice).id(&once).text("3")).await.unwrap();
    let again = client.send(to("bob").from(&alice).id(&once).text("3")).await.unwrap();
    assert!(!first.accepted.duplicate && again.accepted.duplicate);
    assert_eq!(first.accepted.tracking_id, again.accepted.tracking_id);

    let mut received = Vec::new();
    while received.len() < 3 {
        received.extend(
            within(client.receive(&id("bob"), ReceiveOptions::default()))
                .await
                .unwrap(),
        );
    }
    assert_eq!(received.iter().map(text).collect::<Vec<_>>(), ["1", "2", "3"]);
    let ids: Vec<_> = received.iter().filter_map(client::Delivery::delivery_id).collect();
    let acked = client.ack(&id("bob"), &ids[..2]).await.unwrap();
    assert!(acked.iter().all(|outcome| matches!(outcome, SettleOutcome::Done)));
    let stale = client.ack(&id("bob"), &ids[..1]).await.unwrap();
    assert!(matches!(stale[0], SettleOutcome::Stale));
    let released = client.nack(&id("bob"), &ids[2..], Refusal::Release).await.unwrap();
    assert!(matches!(released[0], SettleOutcome::Done));
    let again = within(client.receive(&id("bob"), ReceiveOptions::default()))
        .await
        .unwrap();
    assert_eq!((again.len(), again[0].is_redelivered()), (1, true));
    within(again[0].ack()).await.unwrap();
    let query = StatusQuery::Message {
        id: once,
        from: Some(alice),
    };
    assert_eq!(client.status(query).await.unwrap().status, Status::Delivered);
    let nothing = ReceiveOptions {
        wait: Duration::from_millis(1),
        ..ReceiveOptions::default()
    };
    assert!(client.receive(&id("bob"), nothing).await.unwrap().is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_poll_waits_for_stays_in_its_queue() {
    let server = Server::start().await;
    let client = server.client().await;
    let poll = |wait| ReceiveOptions {
        wait,
        max: 1,
        ..ReceiveOptions::default()
    };
    client.send(to("bob").from(&id("alice")).text("1")).await.unwrap();
    let first = within(client.receive(&id("bob"), poll(PATIENCE))).await.unwrap();
    let sent = client.send(to("bob").from(&id("alice")).text("2")).await.unwrap();
    // Another session of the agent takes it: the poll session, which is still there, holds nothing back.
    let other = session(&client, "bob").await;
    let second = within(other.recv()).await.unwrap();
    assert_eq!(text(&second), "2");
    within(second.ack()).await.unwrap();
    within(first[0].ack()).await.unwrap();
    let query = StatusQuery::Tracking(sent.accepted.tracking_id.unwrap());
    assert_eq!(client.status(query).await.unwrap().attempts, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_registered_found_and_removed() {
    let server = Server::start().await;
    let client = server.client().await;
    let registration = || Registration {
        name: "Planner".into(),
        capabilities: vec!["plan".into()],
        protocols: vec!["grpc".into(), "mqtt".into()],
        metadata_json: r#"{"version": "1.0"}"#.into(),
        endpoints: [("http".to_owned(), "http://127.0.0.1:1/x".to_owned())].into(),
    };
    let planner = id("acme/planner");
    let registered = client.register_agent(&planner, registration()).await.unwrap();
    assert!(registered.created);
    assert_eq!(registered.protocols_accepted, ["grpc"]);
    assert_eq!(registered.agent.metadata.unwrap()["version"], "1.0");
    let again = client.register_agent(&planner, registration()).await.unwrap();
    assert!(!again.created);
    assert_eq!(again.agent.registration_id, registered.agent.registration_id);
    for n in 0..3 {
        client
            .register_agent(&id(&format!("acme/worker-{n}")), Registration::default())
            .await
            .unwrap();
    }
    let by_capability = AgentFilter {
        capability: Some("plan".into()),
        ..AgentFilter::default()
    };
    let (found, _) = client.agents(by_capability, Page::default()).await.unwrap();
    assert_eq!((found.len(), found[0].name.as_str()), (1, "Planner"));
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = Page { size: 2, token };
        let (agents, next) = client.agents(AgentFilter::default(), page).await.unwrap();
        seen.extend(agents.into_iter().map(|agent| agent.agent_id));
        token = next;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(
        seen,
        ["acme/planner", "acme/worker-0", "acme/worker-1", "acme/worker-2"]
    );
    assert!(client.heartbeat(&planner).await.unwrap().last_seen_at.is_some());
    let attached = session(&client, "acme/planner").await;
    let connections = client.connections(Some(&planner)).await.unwrap();
    assert_eq!((connections.len(), connections[0].protocol.as_str()), (1, "grpc"));
    drop(attached);
    client.remove_agent(&planner).await.unwrap();
    let gone = client.agent(&planner).await.unwrap_err();
    assert_eq!(gone.code(), Some("WEFT-1200"));
    assert_eq!(gone.refused().unwrap().grpc_status, "NOT_FOUND");
    let wrong = Registration {
        metadata_json: "{".into(),
        ..Registration::default()
    };
    let wrong = client.register_agent(&planner, wrong).await.unwrap_err();
    assert_eq!(wrong.refused().unwrap().fields[0].0, "metadata_json");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_of_a_polling_agent_are_kept_and_bring_its_topics() {
    let server = Server::start().await;
    let client = server.client().await;
    let bob = id("bob");
    let filters = [TopicFilter::new("jobs/#").unwrap()];
    client.set_subscriptions(&bob, "", &filters).await.unwrap();
    assert_eq!(client.subscriptions(&bob, "").await.unwrap(), ["jobs/#"]);
    let topic = TopicName::new("jobs/1").unwrap();
    client
        .send(Message::to_topic(&topic).from(&id("alice")).text("go"))
        .await
        .unwrap();
    let jobs = within(client.receive(&bob, ReceiveOptions::default())).await.unwrap();
    assert_eq!(text(&jobs[0]), "go");
    within(jobs[0].ack()).await.unwrap();
    client.remove_session_queue(&bob, "").await.unwrap();
    assert!(client.subscriptions(&bob, "").await.unwrap().is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_made_used_and_removed() {
    let server = Server::start().await;
    let client = server.client().await;
    let (team, alice) = (GroupId::new("team").unwrap(), id("alice"));
    let draft = || GroupDraft {
        agents: vec![id("bob")],
        communication_mode: CommunicationMode::RoundRobin,
        message_retention: Duration::from_secs(60),
        created_by: Some(id("alice")),
        ..GroupDraft::default()
    };
    let group = client.create_group(&team, draft()).await.unwrap();
    assert_eq!(group.communication_mode, CommunicationMode::RoundRobin);
    assert_eq!(group.created_by.as_deref(), Some("alice"));
    let twice = client.create_group(&team, draft()).await.unwrap_err();
    assert_eq!(
        (twice.code(), twice.refused().unwrap().grpc_status),
        (Some("WEFT-1205"), "ALREADY_EXISTS")
    );
    let grown = client.add_members(&team, &[id("carol")], Some(&alice)).await.unwrap();
    assert_eq!(grown.agents, ["bob", "carol"]);
    let shrunk = client.remove_member(&team, &id("carol"), Some(&alice)).await.unwrap();
    assert_eq!(shrunk.agents, ["bob"]);
    let (groups, _) = client.groups(Page::default()).await.unwrap();
    assert_eq!(groups.len(), 1);
    let bob = session(&client, "bob").await;
    client
        .send(Message::to_group(&team).from(&alice).text("hello, team"))
        .await
        .unwrap();
    let delivery = within(bob.recv()).await.unwrap();
    assert_eq!((delivery.to(), text(&delivery).as_str()), ("group:team", "hello, team"));
    within(delivery.ack()).await.unwrap();
    let (history, _) = client.group_history(&team, Page::default()).await.unwrap();
    assert_eq!(
        (history.len(), &history[0].message.body()[..]),
        (1, &b"hello, team"[..])
    );
    client.delete_group(&team, Some(&alice)).await.unwrap();
    assert_eq!(client.group(&team).await.unwrap_err().code(), Some("WEFT-1201"));
    server.stop().await;
}

// --- what every gRPC server has --------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_per_service_and_turns_when_the_node_drains() {
    let server = Server::start().await;
    let client = server.client().await;
    for service in ["", "weft.v1.Messaging", "weft.v1.Registry", "weft.v1.Groups"] {
        let serving = || async { (client.health(service).await.ok()? == Health::Serving).then_some(()) };
        until(serving).await;
    }
    let channel = tonic::transport::Endpoint::new(format!("http://{}", server.address)).unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.connect().await.unwrap());
    let watched = tonic_health::pb::HealthCheckRequest {
        service: "weft.v1.Messaging".into(),
    };
    let mut watch = health.watch(watched).await.unwrap().into_inner();
    let serving = within(watch.message()).await.unwrap().unwrap();
    assert_eq!(
        serving.status(),
        tonic_health::pb::health_check_response::ServingStatus::Serving
    );
    server.fabric.drain();
    let draining = within(watch.message()).await.unwrap().unwrap();
    assert_eq!(
        draining.status(),
        tonic_health::pb::health_check_response::ServingStatus::NotServing
    );
    assert_eq!(client.health("").await.unwrap(), Health::NotServing);
    // The watch is open still: it must not hold up the end.
    server.stop().await;
}

/// Asks by one version of reflection for the services and for one file; both versions have the same shapes.
macro_rules! ask_by_reflection {
    ($version:ident, $server:expr) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let channel = tonic::transport::Endpoint::new(format!("http://{}", $server.address)).unwrap();
        let mut reflection = ServerReflectionClient::new(channel.connect().await.unwrap());
        let asks = [
            MessageRequest::ListServices(String::new()),
            MessageRequest::FileContainingSymbol("weft.v1.Messaging".into()),
        ]
        .map(|what| ServerReflectionRequest {
            host: String::new(),
            message_request: Some(what),
        });
        let answers = reflection.server_reflection_info(tokio_stream::iter(asks)).await;
        let mut answers = answers.unwrap().into_inner();
        let mut next = async || within(answers.message()).await.unwrap().unwrap().message_response;
        let (listed, file) = (next().await, next().await);
        let Some(MessageResponse::ListServicesResponse(services)) = listed else {
            panic!("{listed:?}");
        };
        let Some(MessageResponse::FileDescriptorResponse(file)) = file else {
            panic!("{file:?}");
        };
        assert!(!file.file_descriptor_proto.is_empty());
        services
            .service
            .into_iter()
            .map(|service| service.name)
            .collect::<Vec<_>>()
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_reflection_list_every_service() {
    let server = Server::start().await;
    let answers = [ask_by_reflection!(v1, server), ask_by_reflection!(v1alpha, server)];
    for names in answers {
        for name in [
            "weft.v1.Messaging",
            "weft.v1.Registry",
            "weft.v1.Groups",
            "grpc.health.v1.Health",
        ] {
            assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_requests_are_taken_and_a_bomb_stops_at_the_limit() {
    use tonic::codec::CompressionEncoding;
    let server = Server::start().await;
    let message = |body: Vec<u8>| v1::SendRequest {
        message: Some(v1::Message {
            from: "alice".into(),
            to: "agent:bob".into(),
            body: body.into(),
            ..Default::default()
        }),
    };
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut raw = server
            .raw()
            .await
            .send_compressed(encoding)
            .max_encoding_message_size(1 << 30);
        raw.send(message(b"text".repeat(1000))).await.unwrap();
        let bomb = raw.send(message(vec![0; 64 << 20])).await.unwrap_err();
        assert_eq!(bomb.code(), Code::ResourceExhausted, "{bomb:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_is_closed() {
    let edge = grpc::Config {
        handshake_timeout_ms: 20,
        ..grpc::Config::default()
    };
    let server = Server::with(Config::default(), edge).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    // The server's own SETTINGS may come, then the end.
    let _ = within(silent.read_to_end(&mut Vec::new())).await;
    until(|| async { (server.counters.snapshot().connections == 0).then_some(()) }).await;
    assert_eq!(server.counters.snapshot().connections_total, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_of_an_address_are_not_taken() {
    let edge = grpc::Config {
        connections_per_address_max: 2,
        ..grpc::Config::default()
    };
    let server = Server::with(Config::default(), edge).await;
    let (one, _two) = (server.client().await, server.client().await);
    let mut third = TcpStream::connect(server.address).await.unwrap();
    let ended = within(third.read(&mut [0; 64])).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    assert_eq!(server.counters.snapshot().connections_refused, 1);
    drop(one);
    until(|| async { Client::connect(&server.url()).await.ok()?.health("").await.ok() }).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_end_says_goodbye_and_answers_what_it_took() {
    let server = Server::start().await;
    let client = server.client().await;
    let (alice, bob) = (sender(&client, "alice").await, session(&client, "bob").await);
    send(&alice, to("bob")).await.unwrap();
    let mut states = bob.states();
    server.stop().await;
    let state = within(states.wait_for(|state| matches!(state, SessionState::Reconnecting { .. })))
        .await
        .unwrap()
        .clone();
    let SessionState::Reconnecting { cause, .. } = state else {
        unreachable!("just matched")
    };
    assert_eq!(cause, "draining");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_a_clear_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Client::connect(&format!("grpc://{address}")).await.unwrap_err();
    assert!(
        error.is_retryable() && error.to_string().contains("check that the server runs"),
        "{error}"
    );
    let unattached = SessionOptions {
        inbox: Inbox::Unattached,
        ..SessionOptions::default()
    };
    assert_eq!(unattached, SessionOptions::send_only());
}
