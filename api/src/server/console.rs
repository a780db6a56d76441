//! The console's files, embedded in the program.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use super::Api;
use super::problem::Problem;
use crate::store::TickStore;

#[derive(rust_embed::RustEmbed)]
#[folder = "console/"]
struct Files;

/// Pages that are not called like their files.
const PAGES: [(&str, &str); 3] = [
    ("", "index.html"),
    ("chart", "chart.html"),
    ("docs", "docs.html"),
];

/// Answers with a file of the console, or that there is none.
pub(super) async fn asset<S: TickStore>(
    State(api): State<Arc<Api<S>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let path = uri.path().trim_start_matches('/');
    let page = PAGES.iter().find(|(page, _)| *page == path);
    let path = page.map_or(path, |(_, file)| file);
    let Some(file) = Files::get(path) else {
        return Problem::not_found("there is no such path").into_response();
    };
    if method != Method::GET && method != Method::HEAD {
        return Problem::method().into_response();
    }
    let digest = file
        .metadata
        .sha256_hash()
        .iter()
        .take(8)
        .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let tag = format!("\"{digest:x}\"");
    let known = headers
        .get(IF_NONE_MATCH)
        .is_some_and(|seen| seen.as_bytes() == tag.as_bytes());
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        file.data.into_owned().into_response()
    };
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind_of(path)));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    fields.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        fields.insert(ETAG, tag);
    }
    // The chart library styles its own elements.
    let policy = format!(
        "default-src 'self'; connect-src 'self' {}; style-src 'self' 'unsafe-inline'; \
         img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        websocket(&api.config.ws, &headers)
    );
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        fields.insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Where a page finds the WebSocket. Loopback means the page's own host, by the name that the page
/// was loaded under: browsers do not take `localhost` and `127.0.0.1` for the same.
pub(super) fn websocket(ws: &str, headers: &HeaderMap) -> String {
    let replaced = || {
        let ws: Uri = ws.parse().ok()?;
        let own = headers.get(HOST)?.to_str().ok()?;
        let own: Authority = own.parse().ok()?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        let (scheme, port) = (ws.scheme_str()?, ws.port_u16());
        (is_loopback(ws.host()?) && own.host().bytes().all(plain)).then(|| {
            let port = port.map_or(String::new(), |port| format!(":{port}"));
            let path = ws.path().trim_end_matches('/');
            format!("{scheme}://{}{port}{path}", own.host())
        })
    };
    replaced().unwrap_or_else(|| ws.to_owned())
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let local = |address: IpAddr| address.is_loopback() || address.is_unspecified();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(local)
}

fn kind_of(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        _ => "text/plain; charset=utf-8",
    }
}
