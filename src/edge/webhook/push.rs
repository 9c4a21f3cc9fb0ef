//! One push: a delivered message as a signed POST, and what its answer means.
//!
//! Start at [`Pusher::push`].

use std::{error::Error, time::Duration};

use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::timeout;

use super::{connector::Connector, signature::Secret};
use crate::{edge::json::delivered_message, router::surface::Delivery, time};

/// How much of an answer's body is read, in bytes: only so that its connection can be used again.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// How long that may take.
const ANSWER_DRAIN: Duration = Duration::from_secs(1);
/// Largest head of an answer, in bytes.
const ANSWER_HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long a connection is kept for the next push.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// Connections kept for one host.
const POOL_IDLE_PER_HOST_MAX: usize = 16;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What became of one push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// 2xx: the endpoint has the message.
    Taken,
    /// 410: the endpoint wants no more pushes.
    Gone,
    /// It answered with something else, or not in time: the message is to be tried again.
    Refused(String),
    /// No request reached it: says nothing of the message.
    Unreachable(String),
}

/// Makes pushes over pooled connections.
#[derive(Clone, Debug)]
pub(super) struct Pusher {
    client: Client<Connector, Full<Bytes>>,
    secret: Secret,
    limit: Duration,
}

impl Pusher {
    /// `limit` bounds one push up to its answer's head.
    pub(super) fn new(connector: Connector, secret: Secret, limit: Duration) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_IDLE_PER_HOST_MAX)
            .http1_max_buf_size(ANSWER_HEAD_BYTES_MAX)
            .build(connector);
        Self { client, secret, limit }
    }

    /// Pushes one message and waits for the verdict. Follows no redirect.
    pub(super) async fn push(&self, endpoint: Uri, delivery: &Delivery) -> Pushed {
        let request = self.request(endpoint, delivery);
        match timeout(self.limit, self.client.request(request)).await {
            Err(_) => Pushed::Refused(format!("it did not answer within {:?}", self.limit)),
            Ok(Err(error)) if error.is_connect() => Pushed::Unreachable(causes(&error)),
            Ok(Err(error)) => Pushed::Refused(causes(&error)),
            Ok(Ok(response)) => {
                let status = response.status();
                drain(response.into_body()).await;
                verdict(status)
            }
        }
    }

    fn request(&self, endpoint: Uri, delivery: &Delivery) -> Request<Full<Bytes>> {
        let body = delivered_message(delivery);
        let id = delivery.frame.envelope.id();
        let timestamp = time::now().as_millis() / 1000;
        let signature = self.secret.sign(id, timestamp, &body);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = endpoint;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("weft/", env!("CARGO_PKG_VERSION"))),
        );
        // A message id, a number and base64 are visible ASCII.
        let text = |text: &str| HeaderValue::from_str(text).expect("visible ASCII by its grammar");
        headers.insert(WEBHOOK_ID, text(id));
        headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(timestamp));
        headers.insert(WEBHOOK_SIGNATURE, text(&signature));
        if let Some(traceparent) = delivery.frame.stamp.trace.to_traceparent() {
            headers.insert(TRACEPARENT, text(&traceparent));
        }
        request
    }
}

/// Reads what little of the answer's body is worth a reused connection; the rest closes it.
async fn drain(mut body: Incoming) {
    let read = async {
        let mut bytes = 0;
        while bytes < ANSWER_BYTES_MAX {
            match body.frame().await {
                Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) | None => return,
            }
        }
    };
    // An answer that goes on is cut off either way.
    let _ = timeout(ANSWER_DRAIN, read).await;
}

fn verdict(status: StatusCode) -> Pushed {
    match status {
        status if status.is_success() => Pushed::Taken,
        StatusCode::GONE => Pushed::Gone,
        status if status.is_redirection() => {
            Pushed::Refused(format!("it answered {status}; redirects are not followed"))
        }
        status => Pushed::Refused(format!("it answered {status}")),
    }
}

/// An error with what caused it, on one line.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
