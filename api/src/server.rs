//! HTTP: history, latest values, instruments, and the console page.

mod answer;
mod bars;
mod console;
mod dead_letters;
mod directory;
mod eod;
mod gaps;
mod history;
mod latest;
mod openapi;
mod problem;
mod psx;
mod query;
mod registry;
mod resource;
mod udf;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use schemars::JsonSchema;
use schemas::http::Settings;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{Instrument as _, info_span};

use crate::bars::{Calendars, Reader};
use crate::store::TickStore;
use answer::Format;
use directory::Directory;
use latest::Latest;
use problem::Problem;
use query::Wrong;
use resource::{About, Resources};

/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Requests in flight get so long when the server ends.
const FAREWELL: Duration = Duration::from_secs(3);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const SETTINGS: About = About {
    id: "settings",
    chapter: "console",
    summary: "What the console starts from",
    formats: &[Format::Json],
};

/// What the HTTP side runs with.
#[derive(Clone, Debug)]
pub struct Config<S> {
    /// The stream.
    pub stream: String,
    /// Where history is read.
    pub store: S,
    /// The sessions of venues.
    pub calendars: Arc<Calendars>,
    /// Where pages find the WebSocket: `ws://host:port`; a loopback host is replaced by the one that
    /// the page was loaded from.
    pub ws: String,
}

impl<S: TickStore + Clone> Config<S> {
    fn bars(&self) -> Reader<S> {
        let calendars = Arc::clone(&self.calendars);
        Reader::new(self.store.clone(), self.stream.clone(), calendars)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
    status: u16,
}

#[derive(Clone, Debug)]
struct Metrics {
    requests: Family<Route, Counter>,
    seconds: Histogram,
}

impl Metrics {
    fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("tickwire_api");
        let seconds = Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        let metrics = Self {
            requests: Family::default(),
            seconds,
        };
        registry.register(
            "requests",
            "Requests by route and status",
            metrics.requests.clone(),
        );
        registry.register("request_seconds", "Time to answer", metrics.seconds.clone());
        metrics
    }
}

/// What handlers share.
struct Api<S> {
    config: Config<S>,
    bars: Reader<S>,
    directory: Directory,
    latest: Latest,
    metrics: Metrics,
    /// Distinguishes requests of this process from those of others.
    nonce: u64,
    count: std::sync::atomic::AtomicU64,
}

/// Answers requests on `listener` until `stop`.
///
/// # Errors
///
/// The listener failed, or requests did not end in time.
pub async fn run<S: TickStore + Clone + 'static>(
    config: Config<S>,
    listener: TcpListener,
    cx: daemon::Context,
    stop: CancellationToken,
) -> Result<()> {
    let metrics = cx.register(Metrics::new);
    let latest = Latest::new(cx.client.clone(), config.stream.clone());
    let address: SocketAddr = listener.local_addr()?;
    let nonce = u64::from(std::process::id()) << 16 | u64::from(address.port());
    let count = std::sync::atomic::AtomicU64::new(0);
    let bars = config.bars();
    let api = Arc::new(Api {
        config,
        bars,
        directory: Directory::new(),
        latest,
        metrics,
        nonce,
        count,
    });
    let check = cx.health.check("api");
    check.ok();
    let stopping = stop.clone();
    let serving = async move {
        axum::serve(listener, router(api))
            .with_graceful_shutdown(stopping.cancelled_owned())
            .await
    };
    let late = async {
        stop.cancelled().await;
        check.down("draining");
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        served = serving => served.context("answering requests"),
        // Whoever holds a connection open without asking is cut off.
        () = late => Ok(()),
    }
}

fn router<S: TickStore + Clone + 'static>(api: Arc<Api<S>>) -> Router {
    Resources::new()
        .with(history::resources)
        .with(bars::resources)
        .with(eod::resources)
        .with(gaps::resources)
        .with(psx::resources)
        .with(registry::resources)
        .with(latest::resources)
        .with(dead_letters::resources)
        .with(udf::resources)
        .plain::<_, Settings, _, _>("/console.json", SETTINGS, settings::<S>)
        .into_router()
        .fallback(console::asset::<S>)
        .method_not_allowed_fallback(async || Problem::method())
        .layer(CatchPanicLayer::custom(|_| {
            Problem::internal().into_response()
        }))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&api),
            around::<S>,
        ))
        .with_state(api)
}

/// Gives every request an id and a deadline, and counts it.
async fn around<S: TickStore + 'static>(
    State(api): State<Arc<Api<S>>>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<axum::extract::MatchedPath>();
    let route = route.map_or_else(|| "page".to_owned(), |path| path.as_str().to_owned());
    let number = api.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let id = format!("{:x}-{number:x}", api.nonce);
    let span = info_span!("request", id);
    let mut response = match timeout(DEADLINE, next.run(request).instrument(span)).await {
        Ok(response) => response,
        Err(_) => {
            Problem::unavailable(&format!("not answered within {DEADLINE:?}")).into_response()
        }
    };
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let status = response.status().as_u16();
    api.metrics
        .requests
        .get_or_create(&Route { route, status })
        .inc();
    api.metrics.seconds.observe(started.elapsed().as_secs_f64());
    response
}

/// What `/console.json` takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Nothing {}

async fn settings<S: TickStore>(
    api: Arc<Api<S>>,
    asked: Result<Nothing, Wrong>,
    headers: HeaderMap,
) -> Response {
    match asked {
        Ok(Nothing {}) => Json(Settings {
            ws: console::websocket(&api.config.ws, &headers),
            stream: api.config.stream.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
        .into_response(),
        Err(wrong) => Problem::from(wrong).into_response(),
    }
}

#[cfg(test)]
mod tests;
