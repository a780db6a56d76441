//! `/v1/sse`: the socket is taken from HTTP, so that its shard writes to it directly, as to that of
//! any other client.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, CONTENT_TYPE, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use schemas::ws::Encoding;
use tracing::debug;

use super::checks::{Refusal, check_credentials, check_host, check_origin, lists, refuse};
use super::lent::Lent;
use super::{Cx, Door, check_room, query};
use crate::connection::Wire;
use crate::governor::Guest;
use crate::shard::Arrival;
use crate::sse;

/// How long a host may leave what was sent to it unacknowledged: one that only reads events has no
/// other way to show that it is there.
const VANISHED: Duration = Duration::from_mins(1);

/// `/v1/sse`.
pub(super) async fn open(
    (State(door), Extension(guest)): Cx,
    Extension(lent): Extension<Lent>,
    request: Request,
) -> Response {
    let is_welcome = check_origin(&door.origins, request.headers())
        .and_then(|()| check_host(&door, request.headers()));
    let allowed = match is_welcome {
        Ok(()) => cross_origin(request.headers()),
        Err(refusal) => return door.answer(Err(refusal)),
    };
    let answer = take_seat(&door, guest, &lent, &request, &allowed);
    let mut response = door.answer(answer.or_else(|refusal| put_off(&door, &request, refusal)));
    response.headers_mut().extend(allowed);
    response
}

fn take_seat(
    door: &Arc<Door>,
    guest: Arc<Guest>,
    lent: &Lent,
    request: &Request,
    allowed: &HeaderMap,
) -> Result<Response, Refusal> {
    check_room(door, &guest)?;
    check_credentials(request)?;
    let first = query::events(&door.offer, request)?;
    if request.method() == Method::HEAD {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        return Err(refuse("method", status, "this path takes GET"));
    }
    let stream = lent.take().ok_or_else(|| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        refuse("no_socket", status, "the connection was given away")
    })?;
    let fields = allowed.iter().filter_map(|(name, value)| {
        let value = value.to_str().ok()?;
        Some(format!("{name}: {value}\r\n"))
    });
    let _best_effort = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(VANISHED));
    let head = sse::head(&fields.collect::<String>());
    let owner = Arc::clone(door);
    door.tasks.spawn(async move {
        let seated = owner.seat(stream, |stream| Arrival {
            stream,
            early: Vec::new(),
            deflate: false,
            encoding: Encoding::Json,
            wire: Wire::Events(sse::Events::default()),
            head,
            first: Some(first),
            guest,
        });
        if let Err(why) = seated.await {
            debug!(why, "a connection was lost at its handshake");
        }
    });
    // Nobody hears this: the socket is not here any more.
    Ok(StatusCode::OK.into_response())
}

/// Browsers never come back from any status but 200: whoever may try again later is told so in an
/// event.
fn put_off(door: &Door, request: &Request, refusal: Refusal) -> Result<Response, Refusal> {
    let is_browser = lists(request.headers(), &ACCEPT, sse::MEDIA_TYPE);
    let Some(seconds) = refusal.retry_after().filter(|_| is_browser) else {
        return Err(refusal);
    };
    door.metrics.refused(refusal.why);
    let mut response = sse::sorry(seconds, refusal.detail()).into_response();
    let kind = HeaderValue::from_static(sse::MEDIA_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// What lets a page of another origin read the answer, if it may.
fn cross_origin(headers: &HeaderMap) -> HeaderMap {
    let mut fields = HeaderMap::new();
    if let Some(origin) = headers.get(ORIGIN) {
        fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        fields.insert(VARY, HeaderValue::from_static("origin"));
    }
    fields
}

/// Browsers ask first where a page sets `Last-Event-ID` itself.
pub(super) async fn preflight(State(door): State<Arc<Door>>, request: Request) -> Response {
    if let Err(refusal) = check_origin(&door.origins, request.headers()) {
        return door.answer(Err(refusal));
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    let fields = response.headers_mut();
    fields.extend(cross_origin(request.headers()));
    fields.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET"),
    );
    let names = HeaderValue::from_static("last-event-id, cache-control");
    fields.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
    fields.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}
