//! Connections: a bounded number, none of which may dawdle with a request or with taking its answer.

mod socket;

use std::error::Error as _;
use std::io;
use std::num::{NonZeroU32, NonZeroUsize};
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use schemas::http::{NO_PAGE, PROBLEM_JSON, Problem};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::metrics::Metrics;
use socket::Socket;

/// The longest head of a request: the longest query, and as much again for its headers.
const MAX_HEAD: usize = 64 * 1024;
/// How long to wait for a file descriptor.
const PAUSE: Duration = Duration::from_millis(100);
/// How many are told at once that there is no room.
const REFUSALS: usize = 64;
/// How long telling them may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Arguments of the HTTP side's connections.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct ConnectionArgs {
    /// HTTP connections that may be open at once; further ones are refused
    #[arg(long, env = "TICKWIRE_HTTP_CONNECTIONS", default_value = "1024")]
    pub http_connections: NonZeroUsize,

    /// Seconds that an HTTP client may take for the head of a request, and be silent between two
    #[arg(long, env = "TICKWIRE_HTTP_HEAD_SECS", default_value = "30")]
    pub http_head_secs: NonZeroU32,

    /// Seconds that an HTTP client may take for 64 KiB of an answer that waits for it
    #[arg(long, env = "TICKWIRE_HTTP_STALL_SECS", default_value = "30")]
    pub http_stall_secs: NonZeroU32,
}

impl ConnectionArgs {
    fn head(&self) -> Duration {
        Duration::from_secs(self.http_head_secs.get().into())
    }

    fn stall(&self) -> Duration {
        Duration::from_secs(self.http_stall_secs.get().into())
    }
}

type Routes = TowerToHyperService<Router>;

/// What every connection needs.
struct Hall {
    args: ConnectionArgs,
    metrics: Metrics,
    stop: CancellationToken,
}

/// Accepts connections until `stop`, then sees the requests in flight through.
pub(super) async fn serve(
    listener: TcpListener,
    routes: Router,
    args: ConnectionArgs,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let routes = TowerToHyperService::new(routes);
    let most = args.http_connections.get();
    let hall = std::sync::Arc::new(Hall {
        args,
        metrics,
        stop,
    });
    let (mut guests, mut refusals) = (JoinSet::new(), JoinSet::new());
    loop {
        tokio::select! {
            () = hall.stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if guests.len() < most => {
                    let (hall, routes) = (std::sync::Arc::clone(&hall), routes.clone());
                    guests.spawn(async move { attend(&hall, routes, stream).await });
                }
                Ok((stream, _)) => {
                    hall.metrics.cut("too_many");
                    if refusals.len() < REFUSALS {
                        refusals.spawn(refuse(stream));
                    }
                }
                Err(error) => excuse(&error).await,
            },
            Some(_) = guests.join_next(), if !guests.is_empty() => {}
            Some(_) = refusals.join_next(), if !refusals.is_empty() => {}
        }
    }
    drop(listener);
    while guests.join_next().await.is_some() {}
}

async fn excuse(error: &io::Error) {
    let is_of_the_peer = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    );
    if !is_of_the_peer {
        warn!(%error, "a connection cannot be accepted");
        sleep(PAUSE).await;
    }
}

/// Tells a client that there is no room for it.
async fn refuse(mut stream: TcpStream) {
    let problem = Problem {
        page: NO_PAGE.to_owned(),
        title: "try again later".to_owned(),
        status: 503,
        detail: "as many connections are open as may be".to_owned(),
        parameter: None,
        request: None,
    };
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: {PROBLEM_JSON}\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let telling = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // What was not read would reset the connection, and take the answer with it.
        let mut request = [0; 4_096];
        while stream.read(&mut request).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    match timeout(FAREWELL, telling).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => debug!(%error, "a client was gone before it was refused"),
    }
}

/// Counts a connection as long as it is open.
struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Answers the requests of one connection, one after the other.
async fn attend(hall: &Hall, routes: Routes, stream: TcpStream) {
    hall.metrics.connections.inc();
    let _open = Open(hall.metrics.connections.clone());
    let _best_effort = stream.set_nodelay(true);
    let socket = Socket::new(stream, hall.args.stall());
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(hall.args.head())
        .max_buf_size(MAX_HEAD)
        .max_header_size(MAX_HEAD)
        .serve_connection(TokioIo::new(socket), routes);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = hall.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        if let Some(why) = why(&error) {
            hall.metrics.cut(why);
        } else {
            debug!(%error, "a connection ended early");
        }
    }
}

/// Why a connection was cut, if it was.
fn why(error: &hyper::Error) -> Option<&'static str> {
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    if error.is_parse_too_large() {
        Some("too_large")
    } else if error.is_parse() {
        Some("not_http")
    } else if cause.is_some_and(|cause: &io::Error| cause.kind() == io::ErrorKind::TimedOut) {
        Some("stalled")
    } else if error.is_timeout() {
        Some("silent")
    } else {
        None
    }
}
