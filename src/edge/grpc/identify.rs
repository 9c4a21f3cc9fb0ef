//! Around every call: who is asking, proven before its body is read; what came of it, counted.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tonic::{
    Code, Request, Status,
    body::Body,
    codegen::{
        Service,
        http::{self, HeaderValue},
    },
};
use tower::Layer;

use super::{accept::Peer, error};
use crate::{
    edge::{auth::Authenticator, counters::Counters},
    router::surface::Principal,
    time::monotonic,
};

/// Calls that wait by design: their durations would say nothing of the node.
const WAITING: [&str; 3] = [
    "/weft.v1.Messaging/Session",
    "/weft.v1.Messaging/Receive",
    "/weft.v1.Messaging/Request",
];

/// Adds [`Identify`] to a service.
#[derive(Clone, Debug)]
pub struct IdentifyLayer {
    pub authenticator: Arc<dyn Authenticator>,
    pub counters: Arc<Counters>,
}

impl<S> Layer<S> for IdentifyLayer {
    type Service = Identify<S>;

    fn layer(&self, inner: S) -> Identify<S> {
        Identify {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service whose requests carry their proven [`Principal`].
#[derive(Clone, Debug)]
pub struct Identify<S> {
    inner: S,
    layer: IdentifyLayer,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send>>;

impl<S> Service<http::Request<Body>> for Identify<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer<S::Error> {
        let counters = Arc::clone(&self.layer.counters);
        let (mut parts, body) = request.into_parts();
        match self.layer.authenticator.principal(&parts) {
            Ok(principal) => parts.extensions.insert(principal),
            Err(refusal) => {
                Counters::add(&counters.errors, 1);
                let peer = parts.extensions.get::<Peer>().map(|peer| peer.0);
                tracing::debug!(?peer, %refusal, "a gRPC call was refused before it began");
                return Box::pin(async move { Ok(error::status(refusal).into_http()) });
            }
        };
        let measured = !WAITING.contains(&parts.uri.path());
        let began = monotonic();
        let answer = self.inner.call(http::Request::from_parts(parts, body));
        Box::pin(async move {
            let mut response = answer.await?;
            if measured {
                counters.latencies.record(monotonic().saturating_duration_since(began));
            }
            if let Some(status) = response.headers_mut().get_mut(Status::GRPC_STATUS) {
                Counters::add(&counters.errors, usize::from(status != "0"));
                name_too_large(status);
            }
            Ok(response)
        })
    }
}

/// tonic calls an item above the limit OUT_OF_RANGE; every other gRPC server, and this edge's documents, RESOURCE_EXHAUSTED.
/// No call of this edge ends with OUT_OF_RANGE by itself.
fn name_too_large(status: &mut HeaderValue) {
    if *status == HeaderValue::from(Code::OutOfRange as u16) {
        *status = HeaderValue::from(Code::ResourceExhausted as u16);
    }
}

/// Who is behind a request.
pub fn principal<T>(request: &Request<T>) -> Result<Principal, Status> {
    let principal = request.extensions().get::<Principal>();
    principal
        .cloned()
        .ok_or_else(|| Status::unauthenticated("nobody stands behind this call"))
}
