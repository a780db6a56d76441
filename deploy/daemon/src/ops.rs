//! The operations server: liveness, readiness, metrics and statistics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::health::{Health, Report};
use crate::nats;

/// How long a request may still take once the server is told to stop.
const LAST_REQUESTS: Duration = Duration::from_secs(1);

/// What a process shows of itself. Clones share it.
#[derive(Clone)]
pub struct Surface {
    /// Metrics.
    pub registry: Arc<Mutex<Registry>>,
    /// Checks.
    pub health: Health,
    /// Statistics.
    pub stats: Stats,
    /// What happens on connections to the broker.
    pub nats: nats::Metrics,
}

impl Surface {
    /// Shows the connections to the broker, and nothing else yet.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let nats = nats::Metrics::register(&mut registry);
        Self {
            registry: Arc::new(Mutex::new(registry)),
            health: Health::default(),
            stats: Stats::default(),
            nats,
        }
    }
}

impl Default for Surface {
    fn default() -> Self {
        Self::new()
    }
}

type Probe = Box<dyn Fn(&Asked) -> Value + Send>;

/// What was asked for beyond the path: the parameters of the query.
pub type Asked = BTreeMap<String, String>;

/// Named statistics, read when somebody asks. Clones share them.
#[derive(Clone, Default)]
pub struct Stats {
    probes: Arc<Mutex<BTreeMap<String, Probe>>>,
}

impl Stats {
    /// Shows what `probe` gives under `name`; a later one of the same name takes its place.
    pub fn add(&self, name: &str, probe: impl Fn() -> Value + Send + 'static) {
        self.add_asked(name, move |_| probe());
    }

    /// Shows what `probe` gives for what was asked.
    pub fn add_asked(&self, name: &str, probe: impl Fn(&Asked) -> Value + Send + 'static) {
        lock(&self.probes).insert(name.to_owned(), Box::new(probe));
    }

    /// All statistics, as one object.
    pub fn read(&self, asked: &Asked) -> Value {
        lock(&self.probes)
            .iter()
            .map(|(name, probe)| (name.clone(), probe(asked)))
            .collect()
    }
}

/// Serves `surface` until `stop`.
///
/// # Errors
///
/// The listener fails.
pub async fn serve(listener: TcpListener, surface: Surface, stop: CancellationToken) -> Result<()> {
    let app = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route(
            "/health",
            get(|State(surface): State<Surface>| async move { Json(surface.health.report()) }),
        )
        .route("/metrics", get(metrics))
        .route("/stats", get(stats))
        .with_state(surface);
    let serving = axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        served = serving.into_future() => served.context("the operations server failed"),
        () = async { stop.cancelled().await; tokio::time::sleep(LAST_REQUESTS).await } => Ok(()),
    }
}

async fn stats(State(surface): State<Surface>, Query(asked): Query<Asked>) -> Json<Value> {
    Json(surface.stats.read(&asked))
}

async fn readyz(State(surface): State<Surface>) -> (StatusCode, String) {
    let report = surface.health.report();
    if report.ready {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons(&report))
}

fn reasons(report: &Report) -> String {
    let draining = report.draining.then(|| "draining\n".to_owned());
    let down = report
        .checks
        .iter()
        .filter(|(_, finding)| !finding.ok)
        .map(|(name, finding)| {
            format!(
                "{name}: {}\n",
                finding.reason.as_deref().unwrap_or_default()
            )
        });
    draining.into_iter().chain(down).collect()
}

async fn metrics(State(surface): State<Surface>) -> Response {
    let mut text = String::new();
    let encoded = {
        let registry = lock(&surface.registry);
        prometheus_client::encoding::text::encode(&mut text, &registry)
    };
    match encoded {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
