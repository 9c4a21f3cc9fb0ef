//! A bare HTTP server: axum reads the JSON of a send and answers with a receipt's shape, and nothing else happens.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Json, Router, http::StatusCode, routing::post, serve::ListenerExt};
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::sleep};

use super::super::ours::HTTP_CONNECTIONS;
use crate::driver::Connection;

/// How long a connection waits that must not post yet.
const LOOK: Duration = Duration::from_millis(1);

#[derive(Deserialize)]
struct Posted {
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

async fn take(Json(posted): Json<Posted>) -> (StatusCode, Json<Receipt>) {
    let receipt = Receipt {
        message_id: posted.from_agent,
        status: if posted.qos == 0 { "sent" } else { "queued" },
        recipients: usize::from(!posted.to_agent.is_empty() && !posted.body.is_empty()),
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
pub struct Clients {
    posting: JoinSet<Result<(), String>>,
    stop: Arc<AtomicBool>,
}

impl Clients {
    /// Starts them, from one agent to another; answers are counted, and nothing is posted while `is_full`.
    pub async fn start(
        server: SocketAddr,
        (from, to): (&str, &str),
        body_bytes: usize,
        answered: &Arc<AtomicU64>,
        is_full: impl Fn() -> bool + Clone + Send + 'static,
    ) -> Result<Self, String> {
        let json = format!(
            r#"{{"from_agent":"{from}","to_agent":"{to}","priority":"normal","qos":0,"body":"{}"}}"#,
            ".".repeat(body_bytes)
        );
        let stop = Arc::new(AtomicBool::new(false));
        let mut posting = JoinSet::new();
        for _ in 0..HTTP_CONNECTIONS {
            let mut connection = Connection::open(&server.to_string()).await?;
            let request = connection.request("POST", "/messages/send", &json);
            let (answered, stop, is_full) = (answered.clone(), stop.clone(), is_full.clone());
            posting.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    if is_full() {
                        sleep(LOOK).await;
                        continue;
                    }
                    match connection.exchange(request.as_bytes()).await? {
                        (202, _) => answered.fetch_add(1, Ordering::Relaxed),
                        (status, body) => {
                            return Err(format!("answered {status}: {}", String::from_utf8_lossy(body)));
                        }
                    };
                }
                Ok(())
            });
        }
        Ok(Self { posting, stop })
    }

    /// Lets each have its last answer; an error where one was not as it should be.
    pub async fn finish(mut self) -> Result<(), String> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(done) = self.posting.join_next().await {
            done.map_err(|error| error.to_string())??;
        }
        Ok(())
    }
}
