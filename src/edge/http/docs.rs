//! The pages for people: the API browser, which works offline, the error codes, and the machine-readable description.

use std::{
    fmt::Write,
    sync::{Arc, LazyLock},
};

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use bytes::Bytes;

use super::{
    App,
    request::{Params, PathIds},
    respond::{self, Answer},
};
use crate::edge::json::{EdgeError, catalogue};

/// Scripts and styles of this node alone; the browser's inline styles are the API browser's own.
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

static BROWSER: LazyLock<Arc<utoipa_swagger_ui::Config<'static>>> =
    LazyLock::new(|| Arc::new(utoipa_swagger_ui::Config::from("/openapi.json").validator_url("none")));

/// `GET /openapi.json`
pub(super) async fn openapi(State(app): State<Arc<App>>, params: Params) -> Answer {
    params.finish()?;
    Ok(respond::json_text(StatusCode::OK, app.openapi.clone()))
}

/// `GET /docs`
pub(super) async fn index() -> Response {
    Redirect::permanent("/docs/index.html").into_response()
}

/// `GET /docs/{file}`
pub(super) async fn file(ids: PathIds) -> Answer {
    let name: String = ids.get("file")?;
    match utoipa_swagger_ui::serve(&name, Arc::clone(&BROWSER)) {
        Ok(Some(file)) => {
            let text = Bytes::from(file.bytes.into_owned());
            let media_type = HeaderValue::from_str(&file.content_type).map_err(|_| EdgeError::Internal)?;
            let mut response = page(media_type, text);
            if file.gzpipped {
                let gzip = HeaderValue::from_static("gzip");
                response.headers_mut().insert(header::CONTENT_ENCODING, gzip);
            }
            Ok(response)
        }
        Ok(None) => Err(EdgeError::NoSuchPath.into()),
        Err(error) => {
            tracing::error!(%error, name, "a page of the API browser was not made");
            Err(EdgeError::Internal.into())
        }
    }
}

/// `GET /docs/errors`: what `type` of every problem points to.
pub(super) async fn errors() -> Response {
    static PAGE: LazyLock<Bytes> = LazyLock::new(|| errors_page().into());
    page(HeaderValue::from_static("text/html; charset=utf-8"), PAGE.clone())
}

fn page(media_type: HeaderValue, text: Bytes) -> Response {
    let mut response = respond::with_body(StatusCode::OK, media_type, text.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// All texts are the program's own, without a sign that HTML knows.
fn errors_page() -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>weft error codes</title>\
         <style>body{font:16px/1.5 sans-serif;max-width:48em;margin:2em auto;padding:0 1em}code{background:#eee}</style>\
         </head><body><h1>Error codes</h1><p>Every error is a problem document (RFC 9457) with one of these codes.</p>\n",
    );
    for entry in catalogue() {
        let number = entry.code.number;
        writeln!(
            page,
            "<h2 id=\"WEFT-{number}\">WEFT-{number} {title}</h2><p>HTTP status {status}, {retryable}.</p><p>{remedy}</p>",
            title = entry.code.title,
            status = entry.status,
            retryable = if entry.code.retryable { "retryable" } else { "not retryable" },
            remedy = entry.remedy,
        )
        .expect("memory takes every write");
    }
    page.push_str("</body></html>\n");
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_anchor_and_no_text_breaks_the_page() {
        let page = errors_page();
        for entry in catalogue() {
            assert!(page.contains(&format!("id=\"WEFT-{}\"", entry.code.number)));
            assert!(!entry.remedy.contains(['<', '>', '&']), "{}", entry.remedy);
        }
    }
}
