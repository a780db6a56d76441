//! What happens to every request: it has an id and a deadline, it is counted, and what took long is
//! told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::time::{Instant, timeout};
use tracing::{Instrument as _, info_span, warn};

use super::Api;
use super::metrics::Route;
use super::problem::Problem;
use crate::store::TickStore;

/// How long a request may take until its answer begins.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// What takes longer is logged.
const SLOW: Duration = Duration::from_secs(1);
/// The most bytes of a request's body: nothing is done with one.
const MAX_BODY: u64 = 64 * 1024;
/// The most bytes of a request's id.
const MAX_ID: usize = 64;
/// The id of a request.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Answers a request, whatever becomes of it.
pub(super) async fn around<S: TickStore + 'static>(
    State(api): State<Arc<Api<S>>>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or_else(|| "page".to_owned(), |path| path.as_str().to_owned());
    let id = sent_id(request.headers()).unwrap_or_else(|| {
        let number = api.count.fetch_add(1, Ordering::Relaxed);
        format!("{:x}-{number:x}", api.nonce)
    });
    let span = info_span!("request", id);
    let uri = request.uri().clone();
    let response = if let Some(problem) = too_large(request.headers()) {
        problem.into_response()
    } else {
        let answering = next.run(request).instrument(span.clone());
        let late = |_| Problem::unavailable(format!("not answered within {DEADLINE:?}"));
        let answered = timeout(DEADLINE, answering).await;
        answered.unwrap_or_else(|elapsed| late(elapsed).into_response())
    };
    let mut response = Problem::with_request(response, &id);
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let status = response.status().as_u16();
    let took = started.elapsed();
    if took > SLOW {
        let parameters = names(&uri);
        let took_ms = took.as_millis();
        span.in_scope(|| warn!(route, parameters, status, took_ms, "a request took long"));
    }
    let route = Route { route, status };
    api.metrics.requests.get_or_create(&route).inc();
    api.metrics.seconds.observe(took.as_secs_f64());
    response
}

/// The id that a client, or a proxy before it, gave its request, if it is fit to be logged.
fn sent_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let is_visible = id.bytes().all(|byte| byte.is_ascii_graphic());
    (is_visible && !id.is_empty() && id.len() <= MAX_ID).then(|| id.to_owned())
}

fn too_large(headers: &HeaderMap) -> Option<Problem> {
    let length = headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>();
    let is_over = length.is_ok_and(|length| length > MAX_BODY);
    is_over.then(|| Problem::too_large(format!("a body may have {MAX_BODY} bytes")))
}

/// The names of a query's parameters: their values are nobody's business.
fn names(uri: &Uri) -> String {
    let pairs = uri.query().unwrap_or_default().split('&').take(16);
    let names = pairs.map(|pair| pair.split('=').next().unwrap_or_default());
    let names: Vec<&str> = names
        .filter_map(|name| name.get(..name.len().min(32)))
        .collect();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_over_if_it_can_be_logged() {
        for (sent, taken) in [
            ("a", true),
            ("0af7651916cd43dd8448eb211c80319c", true),
            ("", false),
            ("two words", false),
            ("tab\there", false),
            ("x".repeat(64).as_str(), true),
            ("x".repeat(65).as_str(), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(sent).unwrap());
            assert_eq!(sent_id(&headers).is_some(), taken, "{sent:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_bytes(b"\xFF").unwrap());
        assert_eq!(sent_id(&headers), None);
    }

    #[test]
    fn only_names_are_told() {
        let uri = "/x?key=secret&limit=1&=b".parse().unwrap();
        assert_eq!(names(&uri), "key,limit,");
    }
}
