//! A bare HTTP server: axum reads the JSON of a send and answers with a receipt's shape, and nothing else happens.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{Json, Router, http::StatusCode, routing::post, serve::ListenerExt};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::super::ours::HTTP_CONNECTIONS;
use crate::driver::Connection;

#[derive(Deserialize)]
struct Send {
    from_agent: String,
    to_agent: String,
    qos: u8,
    body: String,
}

#[derive(Serialize)]
struct Receipt {
    message_id: String,
    status: &'static str,
    recipients: usize,
}

async fn take(Json(send): Json<Send>) -> (StatusCode, Json<Receipt>) {
    let receipt = Receipt {
        message_id: send.from_agent,
        status: if send.qos == 0 { "sent" } else { "queued" },
        recipients: usize::from(!send.to_agent.is_empty() && !send.body.is_empty()),
    };
    (StatusCode::ACCEPTED, Json(receipt))
}

/// Serves until the process is ended.
pub async fn serve() -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
    super::say_ready(listener.local_addr().map_err(failed)?);
    let listener = listener.tap_io(|stream| {
        // Without it answers wait; a connection that is gone needs none.
        let _ = stream.set_nodelay(true);
    });
    let application = Router::new().route("/messages/send", post(take));
    axum::serve(listener, application).await.map_err(failed)
}

/// Connections that post one after the other.
#[derive(Debug)]
pub struct Clients(JoinSet<Result<(), String>>);

impl Clients {
    /// Starts them; answers are counted.
    pub async fn start(server: SocketAddr, body_bytes: usize, answered: &Arc<AtomicU64>) -> Result<Self, String> {
        let json = format!(
            r#"{{"from_agent":"loadtest/0000/producer-0","to_agent":"loadtest/0000/consumer-0","priority":"normal","qos":0,"body":"{}"}}"#,
            ".".repeat(body_bytes)
        );
        let mut clients = JoinSet::new();
        for _ in 0..HTTP_CONNECTIONS {
            let mut connection = Connection::open(&server.to_string()).await?;
            let request = connection.request("POST", "/messages/send", &json);
            let answered = answered.clone();
            clients.spawn(async move {
                loop {
                    match connection.exchange(request.as_bytes()).await? {
                        (202, _) => answered.fetch_add(1, Ordering::Relaxed),
                        (status, _) => return Err(format!("answered {status}")),
                    };
                }
            });
        }
        Ok(Self(clients))
    }

    /// Stops them.
    pub fn stop(mut self) {
        self.0.abort_all();
    }
}
