//! What the HTTP side counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// A kind of request and how it was answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Route {
    /// The path as it is registered.
    pub(super) route: String,
    /// The status.
    pub(super) status: u16,
}

/// Why a connection was ended or not begun.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Reason {
    /// Why.
    pub(super) reason: &'static str,
}

/// The families.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    pub(super) requests: Family<Route, Counter>,
    pub(super) seconds: Histogram,
    pub(super) connections: Gauge,
    pub(super) cut: Family<Reason, Counter>,
    pub(super) exports: Gauge,
    pub(super) cache_hits: Counter,
    pub(super) cache_misses: Counter,
    pub(super) cache_bytes: Gauge,
}

impl Metrics {
    /// Registers them.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("tickwire_api");
        let metrics = Self {
            requests: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 16)),
            connections: Gauge::default(),
            cut: Family::default(),
            exports: Gauge::default(),
            cache_hits: Counter::default(),
            cache_misses: Counter::default(),
            cache_bytes: Gauge::default(),
        };
        let Self {
            requests,
            seconds,
            connections,
            cut,
            exports,
            cache_hits,
            cache_misses,
            cache_bytes,
        } = metrics.clone();
        registry.register("requests", "Requests by route and status", requests);
        registry.register("request_seconds", "Time to the head of an answer", seconds);
        registry.register("connections", "Open connections", connections);
        registry.register(
            "connections_cut",
            "Connections that were refused or cut, by reason",
            cut,
        );
        registry.register("exports", "Whole ranges that are being sent", exports);
        registry.register(
            "cache_hits",
            "Requests that were answered with what another one made",
            cache_hits,
        );
        registry.register(
            "cache_misses",
            "Requests whose answer had to be made",
            cache_misses,
        );
        registry.register("cache_bytes", "What kept answers take", cache_bytes);
        metrics
    }

    /// Counts a connection that was refused or cut.
    pub(super) fn cut(&self, reason: &'static str) {
        self.cut.get_or_create(&Reason { reason }).inc();
    }
}
