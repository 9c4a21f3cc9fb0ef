//! Three workers that do the same over three protocols: take a task, count, answer, acknowledge the task once the answer was taken.
//!
//! Each lives on when the node goes away: it connects again and the tasks that it had not acknowledged come again, to it or another.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::{
    client::legacy::{Client as Connections, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Message as Text};
use weft::{
    client::{Client, Delivery, Message, Registration, Session, SessionOptions},
    frame::{AgentId, MessageId},
};

use crate::{Failure, coordinator::COORDINATOR, corpus};

/// What the workers can do; tasks are sent to whoever can.
pub const CAPABILITY: &str = "word_count";
/// Pause before a worker connects again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Where the node listens.
#[derive(Clone, Debug)]
pub struct Server {
    pub http: String,
    pub grpc: String,
}

/// Registers the workers and starts them; they end when this is dropped.
pub async fn start(server: &Server) -> Result<JoinSet<()>, Failure> {
    let client = Client::connect(&format!("grpc://{}", server.grpc)).await?;
    for name in ["grpc", "websocket", "http"] {
        let registration = Registration {
            capabilities: vec![CAPABILITY.to_owned()],
            ..Registration::default()
        };
        client.register_agent(&AgentId::new(id_of(name))?, registration).await?;
    }
    let mut workers = JoinSet::new();
    let grpc = server.clone();
    workers.spawn(again(move || over_grpc(grpc.clone())));
    let websocket = server.clone();
    workers.spawn(again(move || over_websocket(websocket.clone())));
    let http = server.clone();
    workers.spawn(again(move || over_http(http.clone())));
    Ok(workers)
}

fn id_of(name: &str) -> String {
    format!("word-count/worker-{name}")
}

/// Works until an error, and then again, for ever.
async fn again<F: Future<Output = Result<(), Failure>>>(work: impl Fn() -> F) {
    loop {
        if let Err(error) = work().await {
            eprintln!("  a worker starts again: {error}");
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// The answer to a task: who repeats it repeats its id too, so that the fabric takes it once.
fn answer_to(task_id: &str, task: &Value) -> (String, Value) {
    let counts = corpus::count(task["text"].as_str().unwrap_or_default());
    (format!("answer:{task_id}"), json!({"task": task_id, "counts": counts}))
}

// --- gRPC, with the client that weft ships ----------------------------------------------------------------------------

async fn over_grpc(server: Server) -> Result<(), Failure> {
    let client = Client::connect(&format!("grpc://{}", server.grpc)).await?;
    let session = client
        .session(&AgentId::new(id_of("grpc"))?, SessionOptions::default())
        .await?;
    loop {
        let task = session.recv().await?;
        answer(&session, &task).await?;
        // An acknowledgement that got lost brings the task again, and its answer is then known as a repeated one.
        let _ = task.ack().await;
    }
}

async fn answer(session: &Session, task: &Delivery) -> Result<(), Failure> {
    let (id, body) = answer_to(task.id(), &serde_json::from_slice(task.body())?);
    let answer = Message::to_agent(&AgentId::new(COORDINATOR)?)
        .id(&MessageId::new(&id)?)
        .json(&body)?;
    session.send(answer).await?.await?;
    Ok(())
}

// --- WebSocket, as any program in any language would ------------------------------------------------------------------

async fn over_websocket(server: Server) -> Result<(), Failure> {
    let url = format!(
        "ws://{}/ws?agent_id={}",
        server.http,
        id_of("websocket").replace('/', "%2F")
    );
    let request = ClientRequestBuilder::new(url.parse()?).with_sub_protocol("weft.v1.json");
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await?;
    while let Some(frame) = socket.next().await {
        let Text::Text(text) = frame? else { continue };
        let event: Value = serde_json::from_str(&text)?;
        let reply = match event["op"].as_str() {
            Some("message") => {
                let (id, body) = answer_to(event["message_id"].as_str().unwrap_or_default(), &event["body"]);
                // The delivery id as `ref` comes back with the receipt: no table of what is under way is needed.
                json!({"op": "send", "ref": event["delivery_id"], "message_id": id, "to_agent": COORDINATOR, "body": body})
            }
            // A receipt of an acknowledgement has none of its own: only sends are acknowledged here.
            Some("receipt") if event["ref"].is_string() => json!({"op": "ack", "delivery_ids": [event["ref"]]}),
            Some("error") => return Err(event.to_string().into()),
            _ => continue,
        };
        socket.send(Text::text(reply.to_string())).await?;
    }
    Ok(())
}

// --- HTTP long poll ---------------------------------------------------------------------------------------------------

async fn over_http(server: Server) -> Result<(), Failure> {
    let connections = Connections::builder(TokioExecutor::new()).build_http();
    let me = id_of("http");
    let inbox = format!("http://{}/agents/{}/messages", server.http, me.replace('/', "%2F"));
    loop {
        let poll = Request::get(format!("{inbox}?max=5&wait=5s")).body(Full::default())?;
        let polled = call(&connections, poll).await?;
        let mut done = Vec::new();
        for task in polled["messages"].as_array().into_iter().flatten() {
            let (id, body) = answer_to(task["message_id"].as_str().unwrap_or_default(), &task["body"]);
            let send = json!({"message_id": id, "from_agent": me, "to_agent": COORDINATOR, "body": body});
            call(
                &connections,
                post(&format!("http://{}/messages/send", server.http), &send)?,
            )
            .await?;
            done.push(task["delivery_id"].clone());
        }
        if !done.is_empty() {
            call(
                &connections,
                post(&format!("{inbox}/ack"), &json!({"delivery_ids": done}))?,
            )
            .await?;
        }
    }
}

fn post(url: &str, body: &Value) -> Result<Request<Full<Bytes>>, Failure> {
    let request = Request::post(url).header("content-type", "application/json");
    Ok(request.body(Full::from(body.to_string()))?)
}

async fn call(
    connections: &Connections<HttpConnector, Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Value, Failure> {
    let response = connections.request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into());
    }
    Ok(serde_json::from_slice(&body)?)
}
