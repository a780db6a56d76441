//! The HTTP side: handshakes, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{Request, State};
use axum::http::header::{
    CONNECTION, CONTENT_TYPE, HOST, ORIGIN, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use schemas::http::{NO_PAGE, PROBLEM_JSON, Problem};
use schemas::ws::Encoding;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::frame::accept_key;
use crate::metrics::Metrics;
use crate::shard::Command;

/// The kernel's own buffer per socket: what a slow client may hold beyond its session's bound.
const SEND_BUFFER: usize = 128 * 1024;

/// What handshakes need.
pub(crate) struct Door {
    pub(crate) shards: Vec<mpsc::Sender<Command>>,
    pub(crate) next: AtomicUsize,
    pub(crate) origins: Vec<String>,
    pub(crate) max_connections: i64,
    pub(crate) metrics: Metrics,
    pub(crate) ready: watch::Receiver<bool>,
    pub(crate) tasks: TaskTracker,
}

/// The routes.
pub(crate) fn router(door: Arc<Door>) -> Router {
    Router::new()
        .route("/v1/stream", get(stream))
        .fallback(not_found)
        .with_state(door)
}

fn problem(status: StatusCode, title: &str, detail: &str) -> Response {
    let body = Problem {
        page: NO_PAGE.to_owned(),
        title: title.to_owned(),
        status: status.as_u16(),
        detail: detail.to_owned(),
        parameter: None,
    };
    let mut response = (status, Json(body)).into_response();
    let kind = HeaderValue::from_static(PROBLEM_JSON);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

async fn not_found() -> Response {
    problem(
        StatusCode::NOT_FOUND,
        "no such resource",
        "WebSocket clients connect to /v1/stream",
    )
}

/// Why a handshake is refused.
struct Refusal {
    /// For counting.
    why: &'static str,
    status: StatusCode,
    detail: String,
    /// What the client should know besides.
    hint: Option<(HeaderName, &'static str)>,
}

impl Refusal {
    fn hint(mut self, name: HeaderName, value: &'static str) -> Self {
        self.hint = Some((name, value));
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let title = "the WebSocket handshake was refused";
        let mut response = problem(self.status, title, &self.detail);
        if let Some((name, value)) = self.hint {
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

fn refuse(why: &'static str, status: StatusCode, detail: &str) -> Refusal {
    Refusal {
        why,
        status,
        detail: detail.to_owned(),
        hint: None,
    }
}

async fn stream(State(door): State<Arc<Door>>, mut request: Request) -> Response {
    match handshake(&door, &mut request) {
        Ok(response) => response,
        Err(refusal) => {
            door.metrics.refused(refusal.why);
            refusal.into_response()
        }
    }
}

fn handshake(door: &Arc<Door>, request: &mut Request) -> Result<Response, Refusal> {
    let headers = request.headers();
    let key = check_upgrade(headers)?;
    let (encoding, chosen) = check_subprotocol(headers)?;
    check_origin(door, headers)?;
    check_credentials(request)?;
    if !*door.ready.borrow() {
        return Err(refuse(
            "not_ready",
            StatusCode::SERVICE_UNAVAILABLE,
            "this replica has not caught up yet",
        )
        .hint(RETRY_AFTER, "1"));
    }
    if door.metrics.connections.get() >= door.max_connections {
        return Err(refuse(
            "full",
            StatusCode::SERVICE_UNAVAILABLE,
            "this replica has as many connections as it may",
        )
        .hint(RETRY_AFTER, "5"));
    }
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return Err(refuse(
            "not_http1",
            StatusCode::BAD_REQUEST,
            "the connection cannot be upgraded: use HTTP/1.1",
        ));
    };
    let accept = HeaderValue::from_str(&accept_key(&key)).map_err(|_| {
        refuse(
            "key",
            StatusCode::BAD_REQUEST,
            "Sec-WebSocket-Key is malformed",
        )
    })?;
    let owner = Arc::clone(door);
    door.tasks.spawn(async move {
        if let Err(why) = hand_over(&owner, upgrade, encoding).await {
            debug!(why, "a connection was lost at its handshake");
        }
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let fields = response.headers_mut();
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if chosen {
        fields.insert(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(encoding.subprotocol()),
        );
    }
    Ok(response)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(wanted))
}

fn check_upgrade(headers: &HeaderMap) -> Result<String, Refusal> {
    if !lists(headers, &CONNECTION, "upgrade") || !lists(headers, &UPGRADE, "websocket") {
        return Err(refuse(
            "no_upgrade",
            StatusCode::UPGRADE_REQUIRED,
            "Connection: Upgrade and Upgrade: websocket are needed",
        )
        .hint(UPGRADE, "websocket"));
    }
    if text(headers, &SEC_WEBSOCKET_VERSION) != "13" {
        return Err(refuse(
            "version",
            StatusCode::UPGRADE_REQUIRED,
            "Sec-WebSocket-Version must be 13",
        )
        .hint(SEC_WEBSOCKET_VERSION, "13"));
    }
    let key = text(headers, &SEC_WEBSOCKET_KEY);
    let decoded = data_encoding::BASE64.decode(key.as_bytes());
    if decoded.is_ok_and(|bytes| bytes.len() == 16) {
        return Ok(key.to_owned());
    }
    Err(refuse(
        "key",
        StatusCode::BAD_REQUEST,
        "Sec-WebSocket-Key must be 16 bytes in base64",
    ))
}

/// The encoding, and whether the client asked for it.
fn check_subprotocol(headers: &HeaderMap) -> Result<(Encoding, bool), Refusal> {
    if !headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        return Ok((Encoding::Json, false));
    }
    let offered =
        |encoding: &Encoding| lists(headers, &SEC_WEBSOCKET_PROTOCOL, encoding.subprotocol());
    Encoding::ALL
        .into_iter()
        .find(offered)
        .map(|encoding| (encoding, true))
        .ok_or_else(|| {
            let known = Encoding::ALL.map(Encoding::subprotocol).join(" and ");
            refuse(
                "subprotocol",
                StatusCode::BAD_REQUEST,
                &format!("the subprotocols are {known}"),
            )
        })
}

/// Browsers say where a page comes from; programs say nothing.
fn check_origin(door: &Door, headers: &HeaderMap) -> Result<(), Refusal> {
    let origin = text(headers, &ORIGIN);
    let same = origin
        .split_once("://")
        .is_some_and(|(_, host)| host == text(headers, &HOST));
    let listed = |allowed: &String| allowed == "*" || allowed.eq_ignore_ascii_case(origin);
    if !headers.contains_key(ORIGIN) || same || door.origins.iter().any(listed) {
        return Ok(());
    }
    Err(refuse(
        "origin",
        StatusCode::FORBIDDEN,
        "pages of this origin may not connect: see --origins",
    ))
}

/// A key in a URL ends up in logs.
fn check_credentials(request: &Request) -> Result<(), Refusal> {
    let query = request.uri().query().unwrap_or_default();
    let names = query.split('&').filter_map(|pair| pair.split('=').next());
    let secret = ["key", "api_key", "apikey", "token", "jwt", "access_token"];
    if names.into_iter().any(|name| {
        secret
            .iter()
            .any(|secret| name.eq_ignore_ascii_case(secret))
    }) {
        return Err(refuse(
            "secret_in_url",
            StatusCode::BAD_REQUEST,
            "credentials do not belong into a URL",
        ));
    }
    Ok(())
}

async fn hand_over(
    door: &Door,
    upgrade: OnUpgrade,
    encoding: Encoding,
) -> Result<(), &'static str> {
    let upgraded: Upgraded = upgrade.await.map_err(|_| "the client went away")?;
    let parts = downcast::<TokioIo<TcpStream>>(upgraded).map_err(|_| "not a TCP connection")?;
    let stream = parts.io.into_inner();
    let early = parts.read_buf.to_vec();
    let _best_effort = socket2::SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
    stream.set_nodelay(true).map_err(|_| "the socket is gone")?;
    let stream = stream.into_std().map_err(|_| "the socket is gone")?;
    door.metrics.accepted.inc();
    let turn = door.next.fetch_add(1, Ordering::Relaxed);
    let shard = door
        .shards
        .get(turn % door.shards.len().max(1))
        .ok_or("there is no shard")?;
    shard
        .send(Command::Accept {
            stream,
            early,
            encoding,
        })
        .await
        .map_err(|_| "the shard has ended")
}
