//! What the recorder tells about itself.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    pub(super) rows: Counter,
    pub(super) dead_letters: Counter,
    pub(super) transactions: Counter,
    pub(super) failures: Counter,
    pub(super) floor: Gauge,
    pub(super) pending: Gauge<u64, AtomicU64>,
    pub(super) lag: Gauge<f64, AtomicU64>,
    pub(super) losses: Counter,
    pub(super) lost: Counter,
    pub(super) deleted: Counter,
    pub(super) delete_failures: Counter,
}

impl Metrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("tickwire_recorder");
        let metrics = Self::default();
        registry.register("rows", "Messages stored", metrics.rows.clone());
        registry.register(
            "dead_letters",
            "Messages that are no ticks",
            metrics.dead_letters.clone(),
        );
        registry.register(
            "transactions",
            "Transactions committed",
            metrics.transactions.clone(),
        );
        registry.register(
            "failures",
            "Transactions that failed",
            metrics.failures.clone(),
        );
        registry.register(
            "floor",
            "Everything up to this sequence is stored",
            metrics.floor.clone(),
        );
        registry.register(
            "pending",
            "Messages of the stream that wait to be stored or passed over",
            metrics.pending.clone(),
        );
        registry.register(
            "lag_seconds",
            "How long ago the broker stored what was stored last, while there is more",
            metrics.lag.clone(),
        );
        registry.register(
            "losses",
            "Times that the stream's retention was faster than recording",
            metrics.losses.clone(),
        );
        registry.register(
            "lost",
            "Messages, at the most, that were gone before they were recorded",
            metrics.lost.clone(),
        );
        registry.register(
            "deleted",
            "Rows deleted because they were old",
            metrics.deleted.clone(),
        );
        registry.register(
            "delete_failures",
            "Times that deleting was put off by an error",
            metrics.delete_failures.clone(),
        );
        metrics
    }
}
