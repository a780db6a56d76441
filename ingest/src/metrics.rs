//! Every metric of ingest. Labels are feed names, kinds and reasons; never symbols.

use std::f64::consts::SQRT_2;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use schemas::id::Kind;

use crate::feed::Reason;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFeed {
    feed: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejected {
    feed: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

/// What feeds count.
#[derive(Clone, Debug, Default)]
pub struct FeedMetrics {
    received: Family<OfFeed, Counter>,
    rejected: Family<Rejected, Counter>,
    sessions: Family<OfFeed, Counter>,
    live: Family<OfFeed, Gauge>,
}

impl FeedMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "feed_ticks",
            "Ticks that feeds delivered",
            self.received.clone(),
        );
        registry.register(
            "feed_rejected",
            "Venue messages that were refused",
            self.rejected.clone(),
        );
        registry.register(
            "feed_sessions",
            "Sessions begun with venues",
            self.sessions.clone(),
        );
        registry.register("feed_live", "1 while a feed delivers", self.live.clone());
    }

    pub(crate) fn received(&self, feed: &str, ticks: usize) {
        let of = OfFeed {
            feed: feed.to_owned(),
        };
        self.received
            .get_or_create(&of)
            .inc_by(u64::try_from(ticks).unwrap_or(u64::MAX));
    }

    pub(crate) fn rejected(&self, feed: &str, reason: Reason) {
        let of = Rejected {
            feed: feed.to_owned(),
            reason: reason.as_str(),
        };
        self.rejected.get_or_create(&of).inc();
    }

    pub(crate) fn session(&self, feed: &str) {
        self.sessions
            .get_or_create(&OfFeed {
                feed: feed.to_owned(),
            })
            .inc();
    }

    pub(crate) fn live(&self, feed: &str, live: bool) {
        self.live
            .get_or_create(&OfFeed {
                feed: feed.to_owned(),
            })
            .set(i64::from(live));
    }
}

/// What the line and the publisher count.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// For the feeds.
    pub feeds: FeedMetrics,
    published: Family<OfKind, Counter>,
    pub(crate) duplicates: Counter,
    pub(crate) id_restarts: Counter,
    pub(crate) unchanged: Counter,
    pub(crate) late: Counter,
    pub(crate) too_late: Counter,
    pub(crate) past_session: Counter,
    pub(crate) ahead: Counter,
    pub(crate) overflows: Counter,
    pub(crate) oversized: Counter,
    pub(crate) stored: Counter,
    pub(crate) disturbances: Counter,
    pub(crate) collapsed: Counter,
    pub(crate) waiting_bytes: Gauge,
    pub(crate) in_flight: Gauge,
    pub(crate) store_seconds: Histogram,
}

impl Metrics {
    /// Declares all of them.
    #[expect(clippy::too_many_lines, reason = "one entry per metric")]
    pub fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("tickwire_ingest");
        let metrics = Self {
            feeds: FeedMetrics::default(),
            published: Family::default(),
            duplicates: Counter::default(),
            id_restarts: Counter::default(),
            unchanged: Counter::default(),
            late: Counter::default(),
            too_late: Counter::default(),
            past_session: Counter::default(),
            ahead: Counter::default(),
            overflows: Counter::default(),
            oversized: Counter::default(),
            stored: Counter::default(),
            disturbances: Counter::default(),
            collapsed: Counter::default(),
            waiting_bytes: Gauge::default(),
            in_flight: Gauge::default(),
            store_seconds: Histogram::new(exponential_buckets(0.000_1, SQRT_2, 36)),
        };
        metrics.feeds.register(registry);
        registry.register(
            "published_ticks",
            "Ticks handed to the publisher",
            metrics.published.clone(),
        );
        registry.register(
            "duplicates",
            "Trades that the stream already holds",
            metrics.duplicates.clone(),
        );
        registry.register(
            "trade_id_restarts",
            "Times that a venue began to count an instrument's trades anew",
            metrics.id_restarts.clone(),
        );
        registry.register(
            "unchanged",
            "State values equal to the last",
            metrics.unchanged.clone(),
        );
        registry.register(
            "late_trades",
            "Trades behind a closed bar",
            metrics.late.clone(),
        );
        registry.register(
            "too_late_trades",
            "Late trades whose bar is no longer held",
            metrics.too_late.clone(),
        );
        registry.register(
            "past_session_trades",
            "Trades of a session whose summary is over",
            metrics.past_session.clone(),
        );
        registry.register(
            "oversized",
            "Ticks left out because they are larger than the limit",
            metrics.oversized.clone(),
        );
        registry.register(
            "ahead_trades",
            "Trades dated too far ahead to be in a bar",
            metrics.ahead.clone(),
        );
        registry.register(
            "overflows",
            "Sums beyond the limits",
            metrics.overflows.clone(),
        );
        registry.register(
            "stored_messages",
            "Messages that the stream acknowledged",
            metrics.stored.clone(),
        );
        registry.register(
            "disturbances",
            "Connections given up by the publisher",
            metrics.disturbances.clone(),
        );
        registry.register(
            "collapsed",
            "State values that gave way to later ones",
            metrics.collapsed.clone(),
        );
        registry.register(
            "waiting_bytes",
            "Bytes waiting to be sent",
            metrics.waiting_bytes.clone(),
        );
        registry.register(
            "in_flight",
            "Messages sent and not acknowledged",
            metrics.in_flight.clone(),
        );
        registry.register(
            "store_seconds",
            "From the queue to the acknowledgement",
            metrics.store_seconds.clone(),
        );
        metrics
    }

    pub(crate) fn published(&self, kind: Kind) {
        self.published
            .get_or_create(&OfKind {
                kind: kind.as_str(),
            })
            .inc();
    }
}
