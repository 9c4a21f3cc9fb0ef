//! What surrounds every route: panics become problems, foreign pages are refused, bodies are inflated and answers compressed,
//! requests are counted.

use std::{any::Any, convert::Infallible, future::ready, panic::AssertUnwindSafe, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderName, HeaderValue, Method, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_http::{
    CompressionLevel,
    compression::{
        CompressionLayer,
        predicate::{Predicate, SizeAbove},
    },
    cors::{AllowOrigin, CorsLayer},
    decompression::RequestDecompressionLayer,
};

use super::{App, head::check_head};
use crate::{
    edge::{
        counters::Counters,
        json::{EdgeError, Problem},
        origin::OriginCheck,
    },
    time,
};

/// Answers below this many bytes gain nothing from compression.
const COMPRESSED_BYTES_MIN: u64 = 1024;
/// How long a browser may keep the answer to a preflight.
const PREFLIGHT_MAX_AGE: std::time::Duration = std::time::Duration::from_secs(600);

/// The routes with all that surrounds them, outermost first: counting, panics, heads, origins, compression, cross-origin headers,
/// content encodings.
///
/// One function does what every request needs. What few need (inflating a body, compressing a large answer) is a layer of its own that
/// only they go through: each layer costs every request a boxed future and a wrapped body.
pub(super) fn around(routes: Router<Arc<App>>, app: Arc<App>) -> Router {
    let routes = routes
        .fallback(no_such_path)
        .method_not_allowed_fallback(method_not_allowed);
    let inflating = ServiceBuilder::new()
        .layer(cors(&app))
        .layer(middleware::from_fn(check_content_encoding))
        .layer(RequestDecompressionLayer::new());
    let surrounded = Arc::new(Surrounded {
        encoded: routes.clone().layer(inflating).with_state(Arc::clone(&app)),
        plain: routes.layer(cors(&app)).with_state(Arc::clone(&app)),
        app,
    });
    Router::new().fallback(move |request| async move { surrounded.answer(request).await })
}

/// The routes as requests meet them.
struct Surrounded {
    app: Arc<App>,
    /// For requests whose body is as it was sent.
    plain: Router,
    /// For those with a content encoding.
    encoded: Router,
}

impl Surrounded {
    /// Counts requests, errors and how long answers took. A long poll's wait is not a latency; streams end long after this.
    async fn answer(&self, request: Request) -> Response {
        let counters = &self.app.counters;
        let waits = is_waiting(&request);
        let began = time::monotonic();
        let answered = AssertUnwindSafe(self.checked(request)).catch_unwind().await;
        let mut response = answered.unwrap_or_else(answer_panic);
        if response.status().is_client_error() || response.status().is_server_error() {
            Counters::add(&counters.errors, 1);
        }
        if !waits {
            counters.latencies.record(time::monotonic() - began);
        }
        let headers = response.headers_mut();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }

    async fn checked(&self, request: Request) -> Response {
        let checked = check_head(&self.app, &request).and_then(|()| check_origin(&self.app, &request));
        if let Err(error) = checked {
            return Problem::from(error).into_response();
        }
        let accepted: Vec<_> = request
            .headers()
            .get_all(header::ACCEPT_ENCODING)
            .iter()
            .cloned()
            .collect();
        let routes = match request.headers().contains_key(header::CONTENT_ENCODING) {
            true => &self.encoded,
            false => &self.plain,
        };
        let answered = routes.clone().oneshot(request).await;
        compressed(answered.unwrap_or_else(|never| match never {}), accepted).await
    }
}

/// The answer, in the best encoding that was asked for where it is large enough to gain by it.
async fn compressed(response: Response, accepted: Vec<HeaderValue>) -> Response {
    if !(SizeAbove::new(COMPRESSED_BYTES_MIN).should_compress(&response) && JsonOnly.should_compress(&response)) {
        return response;
    }
    let mut asked = Request::default();
    for encoding in accepted {
        asked.headers_mut().append(header::ACCEPT_ENCODING, encoding);
    }
    let compression = CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(JsonOnly);
    let mut response = Some(response);
    let given = service_fn(move |_: Request| ready(Ok::<_, Infallible>(response.take().expect("it is asked once"))));
    let answered = compression.layer(given).oneshot(asked).await;
    answered.unwrap_or_else(|never| match never {}).map(Body::new)
}

async fn no_such_path() -> Problem {
    EdgeError::NoSuchPath.into()
}

/// The router adds `Allow` to the answer.
async fn method_not_allowed(method: Method) -> Problem {
    EdgeError::MethodNotAllowed {
        method: method.to_string(),
        allowed: "the methods in `Allow`".into(),
    }
    .into()
}

fn answer_panic(panic: Box<dyn Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(panic = text, "a request handler panicked");
    Problem::from(EdgeError::Internal).into_response()
}

/// Requests whose answer waits for somebody else.
fn is_waiting(request: &Request) -> bool {
    let path = request.uri().path();
    path.ends_with("/messages") || path.ends_with("/stream") || path.ends_with("/watch") || path == "/messages/request"
}

/// Refuses requests that a foreign page makes its visitor's browser send: development mode asks for no credentials, and a poll
/// takes messages away.
fn check_origin(app: &App, request: &Request) -> Result<(), EdgeError> {
    let headers = request.headers();
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    let check = app.origins.check(headers, host);
    let foreign = match check {
        OriginCheck::Foreign => true,
        OriginCheck::Absent => is_cross_site(request),
        OriginCheck::Same | OriginCheck::Listed => false,
    };
    if foreign {
        let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
        let origin = origin.unwrap_or("(not told)").into();
        return Err(EdgeError::OriginDenied { origin });
    }
    Ok(())
}

/// A browser's request on behalf of another site that carries no `Origin`: an image, a script. Following a link is not meant.
fn is_cross_site(request: &Request) -> bool {
    let is = |name: HeaderName, value: &str| request.headers().get(name).is_some_and(|given| given == value);
    is(HeaderName::from_static("sec-fetch-site"), "cross-site")
        && !is(HeaderName::from_static("sec-fetch-mode"), "navigate")
}

/// Without listed origins there are no cross-origin headers at all: browsers then keep to the same origin.
fn cors(app: &App) -> tower::util::Either<CorsLayer, tower::layer::util::Identity> {
    let listed = app.origins.listed();
    if listed.is_empty() {
        return tower::util::Either::Right(tower::layer::util::Identity::new());
    }
    let request_headers = [
        "authorization",
        "content-type",
        "idempotency-key",
        "last-event-id",
        "traceparent",
    ];
    tower::util::Either::Left(
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(listed.iter().cloned()))
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
            .allow_headers(request_headers.map(HeaderName::from_static))
            .expose_headers([header::ETAG, header::RETRY_AFTER])
            .max_age(PREFLIGHT_MAX_AGE),
    )
}

/// One encoding that the next layer inflates, or none. It has no problem document of its own.
async fn check_content_encoding(request: Request, next: Next) -> Response {
    let mut given = request.headers().get_all(header::CONTENT_ENCODING).iter();
    let is_known = |value: &HeaderValue| {
        let known = [&b"gzip"[..], b"zstd", b"identity"];
        known.iter().any(|known| value.as_bytes().eq_ignore_ascii_case(known))
    };
    match (given.next(), given.next()) {
        (None, _) => {}
        (Some(only), None) if is_known(only) => {}
        (Some(first), _) => {
            let given = String::from_utf8_lossy(first.as_bytes()).into_owned();
            return Problem::from(EdgeError::ContentEncoding { given }).into_response();
        }
    }
    next.run(request).await
}

/// JSON and problems; event streams must not wait in a compressor's buffer, and the pages come compressed.
#[derive(Clone, Copy, Debug)]
struct JsonOnly;

impl Predicate for JsonOnly {
    fn should_compress<B: axum::body::HttpBody>(&self, response: &axum::http::Response<B>) -> bool {
        let media_type = response.headers().get(header::CONTENT_TYPE);
        let is_json = media_type.is_some_and(|value| {
            let value = value.as_bytes();
            value.starts_with(b"application/json") || value.starts_with(Problem::MEDIA_TYPE.as_bytes())
        });
        is_json && !response.headers().contains_key(header::CONTENT_ENCODING)
    }
}
