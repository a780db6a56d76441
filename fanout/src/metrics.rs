//! Every metric of fanout. Labels are close codes and reasons; never topics or clients.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use schemas::ws::{CloseCode, GapReason};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: Ending,
}

/// A close code as a label. A client may send thousands of codes: those that mean nothing here are
/// one label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Ending {
    Known(u16),
    Other,
}

impl Ending {
    fn of(code: u16) -> Self {
        let registered = matches!(code, 1000..=1003 | 1006..=1014);
        if registered || CloseCode::ALL.iter().any(|known| known.code() == code) {
            return Self::Known(code);
        }
        Self::Other
    }
}

impl EncodeLabelValue for Ending {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        match self {
            Self::Known(code) => code.encode(encoder),
            Self::Other => "other".encode(encoder),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    why: &'static str,
}

/// What a replica counts.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) accepted: Counter,
    refused: Family<Why, Counter>,
    closed: Family<Code, Counter>,
    pub(crate) connections: Gauge,
    pub(crate) delivered: Counter,
    pub(crate) written_bytes: Counter,
    pub(crate) flush_bytes: Histogram,
    pub(crate) skipped: Counter,
    gaps: Family<Why, Counter>,
    pub(crate) resets: Counter,
    pub(crate) resumed: Counter,
    pub(crate) bad_ops: Counter,
    pub(crate) unencodable: Counter,
    pub(crate) foreign_subjects: Counter,
    pub(crate) received: Counter,
    pub(crate) head: Gauge,
    pub(crate) topics: Gauge,
    pub(crate) ring_bytes: Gauge,
    pub(crate) stale: Gauge,
    pub(crate) hop_seconds: Histogram,
}

impl Metrics {
    /// Declares all of them.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("tickwire_fanout");
        let metrics = Self {
            accepted: Counter::default(),
            refused: Family::default(),
            closed: Family::default(),
            connections: Gauge::default(),
            delivered: Counter::default(),
            written_bytes: Counter::default(),
            flush_bytes: Histogram::new(exponential_buckets(64.0, 4.0, 8)),
            skipped: Counter::default(),
            gaps: Family::default(),
            resets: Counter::default(),
            resumed: Counter::default(),
            bad_ops: Counter::default(),
            unencodable: Counter::default(),
            foreign_subjects: Counter::default(),
            received: Counter::default(),
            head: Gauge::default(),
            topics: Gauge::default(),
            ring_bytes: Gauge::default(),
            stale: Gauge::default(),
            hop_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 18)),
        };
        let m = &metrics;
        registry.register(
            "accepted",
            "WebSocket connections accepted",
            m.accepted.clone(),
        );
        registry.register("refused", "Handshakes refused", m.refused.clone());
        registry.register(
            "closed",
            "Connections closed, by close code",
            m.closed.clone(),
        );
        registry.register("connections", "Open connections", m.connections.clone());
        registry.register(
            "delivered",
            "Messages written to clients",
            m.delivered.clone(),
        );
        registry.register(
            "written_bytes",
            "Bytes written to clients",
            m.written_bytes.clone(),
        );
        registry.register("flush_bytes", "Bytes per write", m.flush_bytes.clone());
        registry.register(
            "skipped",
            "State values left out on purpose",
            m.skipped.clone(),
        );
        registry.register("gaps", "Gaps declared", m.gaps.clone());
        registry.register("resets", "Positions declared void", m.resets.clone());
        registry.register(
            "resumed_topics",
            "Topics resumed from the ring",
            m.resumed.clone(),
        );
        registry.register(
            "bad_ops",
            "Client messages or ops that were refused",
            m.bad_ops.clone(),
        );
        registry.register(
            "unencodable",
            "Messages that cannot be encoded for a client",
            m.unencodable.clone(),
        );
        registry.register(
            "foreign_subjects",
            "Messages whose subject is no topic",
            m.foreign_subjects.clone(),
        );
        registry.register(
            "received",
            "Messages read from the stream",
            m.received.clone(),
        );
        registry.register("head", "Last sequence read from the stream", m.head.clone());
        registry.register("topics", "Topics known", m.topics.clone());
        registry.register(
            "ring_bytes",
            "Bytes held for catch-ups",
            m.ring_bytes.clone(),
        );
        registry.register(
            "stale",
            "1 while nothing is heard from the broker",
            m.stale.clone(),
        );
        registry.register(
            "hop_seconds",
            "From the broker's storing to this replica's applying",
            m.hop_seconds.clone(),
        );
        metrics
    }

    pub(crate) fn refused(&self, why: &'static str) {
        self.refused.get_or_create(&Why { why }).inc();
    }

    pub(crate) fn closed(&self, code: u16) {
        let code = Ending::of(code);
        self.closed.get_or_create(&Code { code }).inc();
    }

    pub(crate) fn gap(&self, why: GapReason) {
        let why = match why {
            GapReason::Retention => "retention",
            GapReason::Budget => "budget",
        };
        self.gaps.get_or_create(&Why { why }).inc();
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn close_codes_of_a_client_are_no_labels_of_their_own() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        for code in 0..=u16::MAX {
            metrics.closed(code);
        }
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let labels: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("tickwire_fanout_closed_total{code=\""))
            .filter_map(|line| line.split('"').next())
            .collect();
        for code in CloseCode::ALL {
            assert!(
                labels.contains(&code.code().to_string().as_str()),
                "{code:?}"
            );
        }
        for code in ["1000", "1006", "1007", "1011", "other"] {
            assert!(labels.contains(&code), "{code}");
        }
        assert!(labels.len() < 32, "{labels:?}");
    }
}
