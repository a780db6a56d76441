//! HTTP: history, latest values, instruments, TradingView's UDF, and the pages.
//!
//! An endpoint is a function `resources` in a file of its own and a line in `router`; its query is a
//! struct, and both its route and its description come of it.
//!
//! | file | does |
//! |---|---|
//! | `listen`, `around`, `origins` | connections and their limits; what happens to every request; pages of others |
//! | `resource`, `query`, `openapi` | the table of endpoints: routes, parameters, description |
//! | `answer`, `cache`, `walk`, `problem` | answers in every form, kept for a moment, or streamed; errors |
//! | `history`, `bars`, `eod`, `indicators`, `gaps` | what was |
//! | `latest`, `newest` | what is |
//! | `registry`, `directory` | venues and instruments; how they are found |
//! | `udf`, `psx` | the same in the words of others |
//! | `dead_letters`, `metrics` | for operators |
//! | `console`, `asyncapi` | pages, and the description of the WebSocket |

mod answer;
mod around;
mod asyncapi;
mod bars;
mod cache;
mod console;
mod dead_letters;
mod directory;
mod eod;
mod gaps;
mod history;
mod indicators;
mod latest;
mod listen;
mod metrics;
mod newest;
mod openapi;
mod origins;
mod problem;
mod psx;
mod query;
mod registry;
mod resource;
mod udf;
mod walk;

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Result;
use axum::http::HeaderMap;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use schemars::JsonSchema;
use schemas::http::Settings;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate as _, SizeAbove};

pub use listen::ConnectionArgs;
pub use origins::Origin;

use crate::bars::{Calendars, Reader};
use crate::store::TickStore;
use answer::Format;
use cache::Answers;
use directory::Directory;
use latest::Latest;
use metrics::Metrics;
use problem::Problem;
use query::Wrong;
use resource::{About, Resources};
use walk::Walks;

/// Requests in flight get so long when the server ends.
const FAREWELL: Duration = Duration::from_secs(3);
/// Answers of fewer bytes are not compressed: they fit into a packet as they are.
const SMALL: u64 = 1_024;

const SETTINGS: About = About {
    id: "settings",
    chapter: "console",
    summary: "What the console starts from",
    formats: &[Format::Json],
};

/// Arguments of the HTTP side.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Bytes of answers that are kept for a moment, for whoever asks the same
    #[arg(long, env = "TICKWIRE_HTTP_CACHE_BYTES", default_value = "67108864")]
    pub http_cache_bytes: u64,

    /// Whole ranges that may be sent at once, as NDJSON or CSV
    #[arg(long, env = "TICKWIRE_EXPORTS", default_value = "16")]
    pub exports: NonZeroUsize,

    /// Seconds that sending a whole range may take
    #[arg(long, env = "TICKWIRE_EXPORT_SECS", default_value = "3600")]
    pub export_secs: NonZeroU32,

    /// Origins whose pages may read the answers, comma-separated; `*` is any. Programs need none, nor do
    /// pages of this very address
    #[arg(long, env = "TICKWIRE_HTTP_ORIGINS", value_delimiter = ',', value_parser = Origin::new)]
    pub http_origins: Vec<Origin>,

    /// Connections
    #[command(flatten)]
    pub connections: ConnectionArgs,
}

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
    /// Limits.
    pub args: Args,
}

impl<S: TickStore + Clone> Config<S> {
    fn bars(&self) -> Reader<S> {
        let calendars = Arc::clone(&self.calendars);
        Reader::new(self.store.clone(), self.stream.clone(), calendars)
    }
}

/// What handlers share.
struct Api<S> {
    config: Config<S>,
    bars: Reader<S>,
    directory: Directory,
    latest: Latest,
    answers: Answers,
    walks: Walks,
    metrics: Metrics,
    /// Distinguishes requests of this process from those of others.
    nonce: u64,
    count: AtomicU64,
}

impl<S: TickStore + Clone> Api<S> {
    fn new(config: Config<S>, latest: Latest, metrics: Metrics, nonce: u64) -> Self {
        let args = &config.args;
        let patience = Duration::from_secs(args.export_secs.get().into());
        Self {
            bars: config.bars(),
            directory: Directory::new(),
            latest,
            answers: Answers::new(args.http_cache_bytes, metrics.clone()),
            walks: Walks::new(args.exports.get(), patience),
            metrics,
            nonce,
            count: AtomicU64::new(0),
            config,
        }
    }
}

/// Answers requests on `listener` until `stop`.
///
/// # Errors
///
/// The listener has no address.
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
    let connections = config.args.connections.clone();
    let api = Arc::new(Api::new(config, latest, metrics.clone(), nonce));
    let check = cx.health.check("api");
    check.ok();
    let serving = listen::serve(listener, router(api), connections, metrics, stop.clone());
    let late = async {
        stop.cancelled().await;
        check.down("draining");
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        () = serving => {}
        // Whoever has not taken his answer by now is cut off.
        () = late => {}
    }
    Ok(())
}

fn router<S: TickStore + Clone + 'static>(api: Arc<Api<S>>) -> Router {
    let worthwhile = SizeAbove::new(SMALL)
        .and(NotForContentType::SSE)
        .and(NotForContentType::IMAGES);
    let compression = CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(worthwhile);
    let origins = origins::layer(&api.config.args.http_origins);
    let router = Resources::new()
        .with(history::resources)
        .with(bars::resources)
        .with(eod::resources)
        .with(gaps::resources)
        .with(indicators::resources)
        .with(psx::resources)
        .with(registry::resources)
        .with(latest::resources)
        .with(dead_letters::resources)
        .with(udf::resources)
        .plain::<_, Settings, _, _>("/console.json", SETTINGS, settings::<S>)
        .into_router()
        .route("/v1/indicators/{name}", get(indicators::unknown))
        .route("/asyncapi.json", get(asyncapi::describe::<S>))
        .fallback(console::asset::<S>)
        .method_not_allowed_fallback(async || Problem::method())
        .layer(CatchPanicLayer::custom(|_| {
            Problem::internal().into_response()
        }))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&api),
            around::around::<S>,
        ))
        .layer(compression)
        .with_state(api);
    match origins {
        Some(origins) => router.layer(origins),
        None => router,
    }
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
