//! The HTTP side: from the handshake to a connection of a shard or to an event stream.
//!
//! Whoever connects has a bounded time to get through; of too many who dawdle the first ones go.

mod checks;
mod events;
mod extensions;
mod lent;
mod query;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::header::{
    CONNECTION, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use schemas::ws::{Encoding, Subscribe};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::connection::Wire;
use crate::frame::accept_key;
use crate::governor::{Governor, Guest, millis_up};
use crate::metrics::Metrics;
use crate::shard::{Arrival, Command};
use crate::store::StreamNo;
use checks::{
    Refusal, check_credentials, check_origin, check_request, check_subprotocol, check_upgrade,
    refuse,
};
use lent::Lent;
pub(crate) use query::Offer;

/// The kernel's own buffer per socket, which it doubles: what a slow client may hold beyond its
/// session's bound.
const SEND_BUFFER: usize = 64 * 1024;
/// The longest request head.
const MAX_HEAD: usize = 16 * 1024;
/// How often the governor forgets who was quiet.
const SWEEP: Duration = Duration::from_secs(1);
/// How long to wait for a file descriptor.
const PAUSE: Duration = Duration::from_millis(100);

/// What handshakes need.
pub(crate) struct Door {
    pub(crate) shards: Vec<mpsc::Sender<Command>>,
    pub(crate) next: AtomicUsize,
    pub(crate) origins: Vec<String>,
    /// Only this machine reaches it.
    pub(crate) is_local: bool,
    /// Whether clients may have compression.
    pub(crate) deflate: bool,
    pub(crate) max_connections: i64,
    /// How many may be in their handshake at once.
    pub(crate) max_handshakes: usize,
    /// How long a handshake may take.
    pub(crate) patience: Duration,
    pub(crate) governor: Governor,
    /// What may be subscribed on connect.
    pub(crate) offer: Offer,
    pub(crate) metrics: Metrics,
    /// Streams that were not joined yet.
    pub(crate) missing: watch::Receiver<BTreeSet<StreamNo>>,
    pub(crate) tasks: TaskTracker,
    /// The replica lets nobody in any more.
    pub(crate) leaving: CancellationToken,
}

type Routes = TowerToHyperService<Router>;

/// Accepts connections until the replica leaves; those in their handshake by then are answered.
pub(crate) async fn serve(listener: TcpListener, door: Arc<Door>) {
    let routes = TowerToHyperService::new(router(Arc::clone(&door)));
    let mut tasks = JoinSet::new();
    let mut waiting: BTreeMap<u64, AbortHandle> = BTreeMap::new();
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turn = 0;
    loop {
        tokio::select! {
            () = door.leaving.cancelled() => break,
            accepted = listener.accept() => {
                let Some((stream, guest)) = admit(&door, accepted).await else {
                    continue;
                };
                if waiting.len() >= door.max_handshakes
                    && let Some((_, longest)) = waiting.pop_first()
                {
                    longest.abort();
                    door.metrics.refused("too_many_handshakes");
                }
                turn += 1;
                let (number, greeting) = (turn, greet(Arc::clone(&door), routes.clone(), stream, guest));
                let task = tasks.spawn(async move {
                    greeting.await;
                    number
                });
                waiting.insert(number, task);
            }
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                // Whoever was sent away is not waiting any more.
                if let Ok(number) = ended {
                    waiting.remove(&number);
                }
            }
            _ = sweep.tick() => door.governor.forget_idle(),
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

/// Counts a connection in, or closes it.
async fn admit(
    door: &Door,
    accepted: io::Result<(TcpStream, SocketAddr)>,
) -> Option<(TcpStream, Guest)> {
    match accepted {
        Ok((stream, peer)) => {
            let guest = door.governor.enter(peer.ip());
            if guest.is_none() {
                door.metrics.refused("flood_per_ip");
            }
            Some((stream, guest?))
        }
        Err(error) => {
            let is_of_the_peer = matches!(
                error.kind(),
                io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
            );
            if !is_of_the_peer {
                warn!(%error, "a connection cannot be accepted");
                sleep(PAUSE).await;
            }
            None
        }
    }
}

/// Sees one connection through its handshake.
async fn greet(door: Arc<Door>, routes: Routes, stream: TcpStream, guest: Guest) {
    let guest = Arc::new(guest);
    let stream = Lent::new(stream);
    let lent = stream.clone();
    let service = service_fn(move |mut request: axum::http::Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&guest));
        request.extensions_mut().insert(lent.clone());
        let answer = routes.call(request);
        async move {
            let mut response = answer.await?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream.clone()), service)
        .with_upgrades();
    match timeout(door.patience, connection).await {
        Ok(Ok(())) => {}
        // Answered by other means.
        Ok(Err(_)) if stream.is_taken() => {}
        Ok(Err(error)) if error.is_parse() => door.metrics.refused("not_http"),
        Ok(Err(error)) => debug!(%error, "a connection ended before its handshake"),
        Err(_) => door.metrics.refused("handshake_timeout"),
    }
}

/// The routes.
fn router(door: Arc<Door>) -> Router {
    Router::new()
        .route("/v1/stream", get(stream))
        .route("/ws", get(everything))
        .route("/ws/{channel}", get(channel))
        .route("/v1/sse", get(events::open).options(events::preflight))
        .fallback(not_found)
        .with_state(door)
}

async fn not_found() -> Response {
    let paths = "clients connect to /v1/stream, /ws, /ws/{channel} and /v1/sse";
    Refusal::nothing(paths).into_response()
}

type Cx = (State<Arc<Door>>, Extension<Arc<Guest>>);

async fn stream((State(door), Extension(guest)): Cx, mut request: Request) -> Response {
    let answer = handshake(&door, guest, &mut request, None);
    door.answer(answer)
}

async fn everything((State(door), Extension(guest)): Cx, mut request: Request) -> Response {
    let answer = query::channel(&door.offer, None, &request)
        .and_then(|first| handshake(&door, guest, &mut request, Some(first)));
    door.answer(answer)
}

async fn channel(
    (State(door), Extension(guest)): Cx,
    Path(name): Path<String>,
    mut request: Request,
) -> Response {
    let answer = query::channel(&door.offer, Some(&name), &request)
        .and_then(|first| handshake(&door, guest, &mut request, Some(first)));
    door.answer(answer)
}

impl Door {
    fn answer(&self, answer: Result<Response, Refusal>) -> Response {
        answer.unwrap_or_else(|refusal| {
            self.metrics.refused(refusal.why);
            refusal.into_response()
        })
    }
}

fn handshake(
    door: &Arc<Door>,
    guest: Arc<Guest>,
    request: &mut Request,
    first: Option<Subscribe>,
) -> Result<Response, Refusal> {
    check_room(door, &guest)?;
    check_request(request)?;
    let headers = request.headers();
    let key = check_upgrade(headers)?;
    let (encoding, chosen) = check_subprotocol(headers)?;
    check_origin(&door.origins, headers)?;
    let extensions = extensions::negotiate(headers, door.deflate)?;
    check_credentials(request)?;
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
    let deflate = extensions.is_some();
    door.tasks.spawn(async move {
        let terms = (encoding, deflate, first);
        if let Err(why) = hand_over(&owner, upgrade, terms, guest).await {
            debug!(why, "a connection was lost at its handshake");
        }
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let fields = response.headers_mut();
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(extensions) = extensions {
        fields.insert(SEC_WEBSOCKET_EXTENSIONS, extensions);
    }
    if chosen {
        fields.insert(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(encoding.subprotocol()),
        );
    }
    Ok(response)
}

/// Whether one more connection may come in, and from there.
fn check_room(door: &Door, guest: &Guest) -> Result<(), Refusal> {
    if let Some(excess) = guest.excess() {
        let seconds = millis_up(excess.retry_after).div_ceil(1_000).max(1);
        return Err(
            refuse(excess.why, StatusCode::TOO_MANY_REQUESTS, excess.detail)
                .hint(RETRY_AFTER, seconds),
        );
    }
    let (why, detail, seconds) = if door.leaving.is_cancelled() {
        ("draining", "this replica is leaving", 1_u64)
    } else if !door.missing.borrow().is_empty() {
        ("not_ready", "this replica has not caught up yet", 1)
    } else if door.metrics.connections.get() >= door.max_connections {
        ("full", "this replica has as many connections as it may", 5)
    } else {
        return Ok(());
    };
    Err(refuse(why, StatusCode::SERVICE_UNAVAILABLE, detail).hint(RETRY_AFTER, seconds))
}

async fn hand_over(
    door: &Door,
    upgrade: OnUpgrade,
    (encoding, deflate, first): (Encoding, bool, Option<Subscribe>),
    guest: Arc<Guest>,
) -> Result<(), &'static str> {
    let upgraded: Upgraded = upgrade.await.map_err(|_| "the client went away")?;
    let parts = upgraded
        .downcast::<TokioIo<Lent>>()
        .map_err(|_| "not a TCP connection")?;
    let stream = parts.io.into_inner().take().ok_or("the socket is gone")?;
    let early = parts.read_buf.to_vec();
    let seated = door.seat(stream, |stream| Arrival {
        stream,
        early,
        encoding,
        deflate,
        wire: Wire::WebSocket,
        head: Vec::new(),
        first,
        guest,
    });
    seated.await
}

impl Door {
    /// Gives a connection to the shard whose turn it is.
    async fn seat(
        &self,
        stream: TcpStream,
        arrival: impl FnOnce(std::net::TcpStream) -> Arrival,
    ) -> Result<(), &'static str> {
        let socket = socket2::SockRef::from(&stream);
        let _best_effort = socket.set_send_buffer_size(SEND_BUFFER);
        stream.set_nodelay(true).map_err(|_| "the socket is gone")?;
        let stream = stream.into_std().map_err(|_| "the socket is gone")?;
        self.metrics.accepted.inc();
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let shard = self.shards.get(turn % self.shards.len().max(1));
        let shard = shard.ok_or("there is no shard")?;
        let accepting = shard.send(Command::Accept(arrival(stream)));
        accepting.await.map_err(|_| "the shard has ended")
    }
}

#[cfg(test)]
mod tests;
