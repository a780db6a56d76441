//! Every metric of fanout. Labels are close codes and reasons; never topics or clients.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};
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

fn declare<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn zero<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    declare(registry, name, help, M::default())
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
    pub(crate) encoded: Counter,
    pub(crate) compressed: Counter,
    pub(crate) deflate_in_bytes: Counter,
    pub(crate) deflate_out_bytes: Counter,
    pub(crate) skipped: Counter,
    gaps: Family<Why, Counter>,
    pub(crate) resets: Counter,
    pub(crate) resumed: Counter,
    pub(crate) bad_ops: Counter,
    pub(crate) hasty_ops: Counter,
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
        Self {
            accepted: zero(registry, "accepted", "WebSocket connections accepted"),
            refused: zero(registry, "refused", "Handshakes refused"),
            closed: zero(registry, "closed", "Connections closed, by close code"),
            connections: zero(registry, "connections", "Open connections"),
            delivered: zero(registry, "delivered", "Messages written to clients"),
            written_bytes: zero(registry, "written_bytes", "Bytes written to clients"),
            flush_bytes: declare(
                registry,
                "flush_bytes",
                "Bytes per write",
                Histogram::new(exponential_buckets(64.0, 4.0, 8)),
            ),
            encoded: zero(
                registry,
                "encoded",
                "Live messages encoded, once per encoding for all clients",
            ),
            compressed: zero(
                registry,
                "compressed",
                "Live messages compressed, at most once per encoding and place for all clients",
            ),
            deflate_in_bytes: zero(
                registry,
                "deflate_in_bytes",
                "Bytes of WebSocket messages that were sent compressed, before",
            ),
            deflate_out_bytes: zero(
                registry,
                "deflate_out_bytes",
                "Bytes of WebSocket messages that were sent compressed, after",
            ),
            skipped: zero(registry, "skipped", "State values left out on purpose"),
            gaps: zero(registry, "gaps", "Gaps declared"),
            resets: zero(registry, "resets", "Positions declared void"),
            resumed: zero(registry, "resumed_topics", "Topics resumed from the ring"),
            bad_ops: zero(
                registry,
                "bad_ops",
                "Client messages or ops that were refused",
            ),
            hasty_ops: zero(
                registry,
                "hasty_ops",
                "Ops refused because their connection asked too often",
            ),
            unencodable: zero(
                registry,
                "unencodable",
                "Messages that cannot be encoded for a client",
            ),
            foreign_subjects: zero(
                registry,
                "foreign_subjects",
                "Messages whose subject is no topic",
            ),
            received: zero(registry, "received", "Messages read from the stream"),
            head: zero(registry, "head", "Last sequence read from the stream"),
            topics: zero(registry, "topics", "Topics known"),
            ring_bytes: zero(registry, "ring_bytes", "Bytes held for catch-ups"),
            stale: zero(
                registry,
                "stale",
                "1 while nothing is heard from the broker",
            ),
            hop_seconds: declare(
                registry,
                "hop_seconds",
                "From the broker's storing to this replica's applying",
                Histogram::new(exponential_buckets(0.000_05, 2.0, 18)),
            ),
        }
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
