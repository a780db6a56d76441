//! Every metric of fanout. Labels are streams, close codes and reasons; never topics or clients.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};
use schemas::ws::{CloseCode, Encoding, GapReason};

use crate::stats::Load;

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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tier {
    tier: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Form {
    encoding: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Hop {
    hop: &'static str,
}

/// A stream: as many as the replica is configured with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stream {
    stream: String,
}

/// The way of a tick, from each place to the next; sampled where it is frequent.
#[derive(Clone, Debug)]
pub(crate) struct Hops {
    /// From ingest's receiving to the broker's storing.
    pub(crate) stored: Histogram,
    /// From the broker's storing to this replica's reading.
    pub(crate) read: Histogram,
    /// From reading to a shard's dispatching.
    pub(crate) dispatched: Histogram,
    /// From dispatching to the write that took it to a socket: of the oldest message in the write.
    pub(crate) written: Histogram,
}

impl Hops {
    fn new(registry: &mut Registry) -> Self {
        let buckets = || Histogram::new(exponential_buckets(0.000_05, 2.0, 18));
        let hops: Family<Hop, Histogram, fn() -> Histogram> = Family::new_with_constructor(buckets);
        let help = "Seconds between the places that a tick passes, by the place it gets to";
        registry.register("hop_seconds", help, hops.clone());
        let hop = |hop| hops.get_or_create(&Hop { hop }).clone();
        Self {
            stored: hop("stored"),
            read: hop("read"),
            dispatched: hop("dispatched"),
            written: hop("written"),
        }
    }
}

fn declare<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn zero<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    declare(registry, name, help, M::default())
}

fn encodings(registry: &mut Registry) -> [Counter; 2] {
    let encoded: Family<Form, Counter> = zero(
        registry,
        "encoded",
        "Live messages encoded, once for all their subscribers",
    );
    ["json", "msgpack"].map(|encoding| encoded.get_or_create(&Form { encoding }).clone())
}

/// What a replica counts. Clones share it: every connection holds one.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Arc<Counts>);

impl Deref for Metrics {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.0
    }
}

/// All that is counted.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) accepted: Counter,
    refused: Family<Why, Counter>,
    closed: Family<Code, Counter>,
    pub(crate) connections: Gauge,
    pub(crate) delivered: Counter,
    pub(crate) written_bytes: Counter,
    pub(crate) flush_bytes: Histogram,
    pub(crate) compressed: Counter,
    pub(crate) deflate_in_bytes: Counter,
    pub(crate) deflate_out_bytes: Counter,
    pub(crate) skipped: Counter,
    gaps: Family<Why, Counter>,
    pub(crate) resets: Counter,
    pub(crate) repaired: Counter,
    pub(crate) repair_requests: Counter,
    pub(crate) waiting_repairs: Gauge,
    pub(crate) failed_repairs: Counter,
    resumed: Family<Tier, Counter>,
    encoded: [Counter; 2],
    sse: Gauge,
    slow_clients: Gauge,
    queued_bytes: Gauge,
    pub(crate) bad_ops: Counter,
    pub(crate) hasty_ops: Counter,
    pub(crate) unencodable: Counter,
    pub(crate) foreign_subjects: Counter,
    pub(crate) received: Counter,
    pub(crate) hops: Hops,
    streams: Streams,
}

/// What is known of one stream.
#[derive(Clone, Debug)]
pub(crate) struct StreamGauges {
    pub(crate) head: Gauge,
    pub(crate) topics: Gauge,
    pub(crate) ring_bytes: Gauge,
    pub(crate) stale: Gauge,
    pub(crate) lag_seconds: Gauge<f64, AtomicU64>,
}

/// The same of all streams.
#[derive(Debug)]
struct Streams {
    head: Family<Stream, Gauge>,
    topics: Family<Stream, Gauge>,
    ring_bytes: Family<Stream, Gauge>,
    stale: Family<Stream, Gauge>,
    lag_seconds: Family<Stream, Gauge<f64, AtomicU64>>,
}

impl Streams {
    fn new(registry: &mut Registry) -> Self {
        Self {
            head: zero(registry, "head", "Last sequence read from the stream"),
            topics: zero(registry, "topics", "Topics known"),
            ring_bytes: zero(registry, "ring_bytes", "Bytes held for catch-ups"),
            stale: zero(
                registry,
                "stale",
                "1 while nothing is heard from the broker",
            ),
            lag_seconds: zero(
                registry,
                "reader_lag_seconds",
                "Age of the last message when it was read from the stream",
            ),
        }
    }
}

impl Metrics {
    /// Declares all of them.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        Self(Arc::new(Counts::new(registry)))
    }
}

impl Counts {
    fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("tickwire_fanout");
        Self {
            accepted: zero(registry, "accepted", "Connections accepted"),
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
            repaired: zero(
                registry,
                "repaired",
                "Messages older than the ring that were read for clients",
            ),
            repair_requests: zero(
                registry,
                "repair_requests",
                "Requests to the broker for older messages",
            ),
            waiting_repairs: zero(
                registry,
                "waiting_repairs",
                "Pages of older messages that the broker is yet to be asked for",
            ),
            failed_repairs: zero(
                registry,
                "failed_repairs",
                "Waits for older messages that must be repeated",
            ),
            resumed: zero(registry, "resumed_topics", "Topics resumed, by where from"),
            encoded: encodings(registry),
            sse: zero(
                registry,
                "sse_connections",
                "Open connections that read events",
            ),
            slow_clients: zero(
                registry,
                "slow_clients",
                "Clients that use more than half of what they may fall behind",
            ),
            queued_bytes: zero(registry, "queued_bytes", "Bytes that wait for sockets"),
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
                "Messages whose subject is no topic, or of a venue that another stream has",
            ),
            received: zero(registry, "received", "Messages read from streams"),
            hops: Hops::new(registry),
            streams: Streams::new(registry),
        }
    }

    pub(crate) fn refused(&self, why: &'static str) {
        self.refused.get_or_create(&Why { why }).inc();
    }

    pub(crate) fn closed(&self, code: u16) {
        let code = Ending::of(code);
        self.closed.get_or_create(&Code { code }).inc();
    }

    /// A topic was resumed: from the ring, or from where else.
    pub(crate) fn resumed(&self, tier: &'static str) {
        self.resumed.get_or_create(&Tier { tier }).inc();
    }

    /// A message was encoded for all its subscribers.
    pub(crate) fn encoded(&self, encoding: Encoding) {
        let [json, msgpack] = &self.encoded;
        match encoding {
            Encoding::Json => json.inc(),
            Encoding::MessagePack => msgpack.inc(),
        };
    }

    /// What is told of the stream of that name.
    pub(crate) fn stream(&self, name: &str) -> StreamGauges {
        let (of, stream) = (
            &self.streams,
            &Stream {
                stream: name.to_owned(),
            },
        );
        StreamGauges {
            head: of.head.get_or_create(stream).clone(),
            topics: of.topics.get_or_create(stream).clone(),
            ring_bytes: of.ring_bytes.get_or_create(stream).clone(),
            stale: of.stale.get_or_create(stream).clone(),
            lag_seconds: of.lag_seconds.get_or_create(stream).clone(),
        }
    }

    /// The connections of a shard add up to something else than before.
    pub(crate) fn loaded(&self, before: Load, now: Load) {
        let turn = |gauge: &Gauge, before: usize, now: usize| {
            let signed = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
            gauge.inc_by(signed(now) - signed(before));
        };
        turn(&self.sse, before.sse, now.sse);
        turn(&self.slow_clients, before.slow, now.slow);
        turn(&self.queued_bytes, before.queued_bytes, now.queued_bytes);
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
