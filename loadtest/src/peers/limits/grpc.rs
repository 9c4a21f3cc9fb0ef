//! A bare gRPC relay: one publisher's batches are decoded, each message is looked up in a table, and encoded again for one
//! subscriber, on tonic alone. Batches of 32 messages are what tonic carries fastest.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinHandle,
};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    client::Grpc as GrpcClient,
    codegen::{BoxFuture, Service, http, http::uri::PathAndQuery},
    server::{ClientStreamingService, Grpc, NamedService, ServerStreamingService},
    transport::{Channel, Endpoint, Server},
};
use tonic_prost::ProstCodec;

const PUBLISH: &str = "/loadtest.Relay/Publish";
const SUBSCRIBE: &str = "/loadtest.Relay/Subscribe";
const BATCH_MESSAGES: usize = 32;
/// Batches between reading and writing.
const BATCHES_WAITING_MAX: usize = 64;
/// One connection carries much: HTTP/2's default stalls a round trip for every batch.
const WINDOW_BYTES: u32 = 8 << 20;
/// Addresses in the table.
const ROUTES: usize = 1_000;

/// A message with what a fabric needs to see of it.
#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    to: String,
    #[prost(uint64, tag = "3")]
    at: u64,
    #[prost(uint32, tag = "4")]
    priority: u32,
    #[prost(bytes = "bytes", tag = "5")]
    body: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Batch {
    #[prost(message, repeated, tag = "1")]
    messages: Vec<Message>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

#[derive(Clone)]
struct Relay {
    routes: Arc<HashMap<String, usize>>,
    batches: mpsc::Sender<Batch>,
    waiting: Arc<Mutex<mpsc::Receiver<Batch>>>,
}

impl NamedService for Relay {
    const NAME: &'static str = "loadtest.Relay";
}

impl Service<http::Request<Body>> for Relay {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let relay = self.clone();
        Box::pin(async move {
            Ok(if request.uri().path() == PUBLISH {
                let mut grpc = Grpc::new(ProstCodec::<Nothing, Batch>::default());
                grpc.client_streaming(Publish(relay), request).await
            } else {
                let mut grpc = Grpc::new(ProstCodec::<Batch, Nothing>::default());
                grpc.server_streaming(Subscribe(relay), request).await
            })
        })
    }
}

struct Publish(Relay);

impl ClientStreamingService<Batch> for Publish {
    type Response = Nothing;
    type Future = BoxFuture<Response<Nothing>, Status>;

    fn call(&mut self, request: Request<Streaming<Batch>>) -> Self::Future {
        let relay = self.0.clone();
        Box::pin(async move {
            let mut incoming = request.into_inner();
            while let Some(batch) = incoming.message().await? {
                let known = batch
                    .messages
                    .iter()
                    .filter(|message| relay.routes.contains_key(&message.to));
                std::hint::black_box(known.count());
                let sent = relay.batches.send(batch).await;
                sent.map_err(|_| Status::unavailable("nobody subscribes any more"))?;
            }
            Ok(Response::new(Nothing {}))
        })
    }
}

struct Subscribe(Relay);

impl ServerStreamingService<Nothing> for Subscribe {
    type Response = Batch;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Batch, Status>> + Send>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, _: Request<Nothing>) -> Self::Future {
        let waiting = self.0.waiting.clone();
        Box::pin(async move {
            let batches = stream::unfold(waiting, |waiting| async move {
                let batch = waiting.lock().await.recv().await?;
                Some((Ok(batch), waiting))
            });
            let batches: Self::ResponseStream = Box::pin(batches);
            Ok(Response::new(batches))
        })
    }
}

/// Serves until the process is ended.
pub async fn serve() -> Result<(), String> {
    let (batches, waiting) = mpsc::channel(BATCHES_WAITING_MAX);
    let relay = Relay {
        routes: Arc::new((0..ROUTES).map(|index| (to(index), index)).collect()),
        batches,
        waiting: Arc::new(Mutex::new(waiting)),
    };
    let address = crate::child::free_port()?;
    let server = Server::builder()
        .tcp_nodelay(true)
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .add_service(relay)
        .serve(address);
    // It binds with the first poll; whoever is early connects again.
    super::say_ready(address);
    server.await.map_err(|error| error.to_string())
}

fn to(index: usize) -> String {
    format!("agent:acme/worker-{index}")
}

/// A publisher that sends what the connection takes, and a subscriber that counts.
#[derive(Debug)]
pub struct Clients([JoinHandle<Result<(), Status>>; 2]);

impl Clients {
    /// Starts both.
    pub async fn start(server: SocketAddr, body_bytes: usize, delivered: Arc<AtomicU64>) -> Result<Self, String> {
        let subscriber = connect(server).await?;
        let counting = tokio::spawn(async move {
            let mut grpc = client(subscriber).await?;
            let codec = ProstCodec::<Nothing, Batch>::default();
            let path = PathAndQuery::from_static(SUBSCRIBE);
            let answer = grpc.server_streaming(Request::new(Nothing {}), path, codec).await?;
            let mut batches = answer.into_inner();
            while let Some(batch) = batches.message().await? {
                delivered.fetch_add(batch.messages.len() as u64, Ordering::Relaxed);
            }
            Ok(())
        });
        let publisher = connect(server).await?;
        let publishing = tokio::spawn(async move {
            let mut grpc = client(publisher).await?;
            let body = Bytes::from(vec![b'.'; body_bytes]);
            let batches = stream::iter(0_u64..).map(move |number| batch(number, &body));
            let codec = ProstCodec::<Batch, Nothing>::default();
            let path = PathAndQuery::from_static(PUBLISH);
            let answer = grpc.client_streaming(Request::new(batches), path, codec).await;
            answer.map(|_| ())
        });
        Ok(Self([counting, publishing]))
    }

    /// Stops both.
    pub fn stop(self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

fn batch(number: u64, body: &Bytes) -> Batch {
    let message = |at: usize| Message {
        id: format!("{number:016x}{at:016x}"),
        to: to(at),
        at: number,
        priority: 1,
        body: body.clone(),
    };
    Batch {
        messages: (0..BATCH_MESSAGES).map(message).collect(),
    }
}

async fn connect(server: SocketAddr) -> Result<Channel, String> {
    /// The server may not have bound yet.
    const ATTEMPTS_MAX: usize = 100;
    let endpoint = Endpoint::from_shared(format!("http://{server}"))
        .map_err(|error| error.to_string())?
        .tcp_nodelay(true)
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_stream_window_size(WINDOW_BYTES);
    for _ in 0..ATTEMPTS_MAX {
        if let Ok(channel) = endpoint.connect().await {
            return Ok(channel);
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Err(format!("the relay at {server} takes no connection"))
}

async fn client(channel: Channel) -> Result<GrpcClient<Channel>, Status> {
    let mut grpc = GrpcClient::new(channel);
    let ready = grpc.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(grpc)
}
