//! What the witness tells of messages of which some never arrive.

use std::time::Duration;

use bus::publisher::{Publisher, PublisherConfig};
use daemon::health::Health;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use schemas::id::{Symbol, Venue};
use schemas::tick::{Head, Quote};
use schemas::time::UnixNanos;

use super::*;

/// A witness and an outlet without a broker.
struct Pair {
    registry: Registry,
    health: Health,
    witness: Witness,
    outlet: Outlet,
    publisher: Publisher,
}

impl Pair {
    fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let health = Health::default();
        let check = health.check("ingest.publisher");
        let witness = || {
            let broken = CancellationToken::new();
            Witness::new(metrics.clone(), None, check.clone(), broken)
        };
        let config = PublisherConfig {
            stream: "TICKS".to_owned(),
            token: 1,
            window: 1,
            max_buffer_bytes: 10_000,
            max_payload: 1_000,
            drain: Duration::ZERO,
        };
        let nowhere = Arc::new(|| {
            let connecting = async_nats::connect("nats://127.0.0.1:1");
            Box::pin(connecting) as std::pin::Pin<Box<dyn Future<Output = _> + Send>>
        });
        let (sender, publisher) = Publisher::new(config, nowhere, Box::new(witness()));
        let witness = witness();
        Self {
            registry,
            health,
            outlet: witness.outlet()(sender),
            witness,
            publisher,
        }
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text
    }
}

fn quote(symbol: &str, at: i64) -> Tick {
    let at = UnixNanos::new(at);
    Quote {
        head: Head::new(Venue::new("x").unwrap(), Symbol::new(symbol).unwrap(), at),
        bid: "1".parse().ok(),
        bid_size: None,
        ask: None,
        ask_size: None,
    }
    .into()
}

#[tokio::test(start_paused = true)]
async fn a_message_is_timed_by_its_own_time_whatever_became_of_others() {
    let mut pair = Pair::new();
    // All but a few of these give way to later ones.
    for at in 0..1_000 {
        pair.outlet.send(&quote("A", at)).await.unwrap();
    }
    assert!(pair.outlet.take_collapsed() > 900);
    tokio::time::advance(Duration::from_hours(1)).await;
    let fresh: Vec<Outgoing> = (0..2 * SAMPLE)
        .map(|at| pair.outlet.message(&quote("B", i64::try_from(at).unwrap())))
        .collect::<Result<_>>()
        .unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    pair.witness.stored(&fresh, StreamSeq::new(1_000));
    let metrics = pair.metrics();
    assert!(metrics.contains("store_seconds_count 2\n"), "{metrics}");
    assert!(metrics.contains("store_seconds_sum 2.0\n"), "{metrics}");
    drop(pair.publisher);
}

#[tokio::test]
async fn a_publisher_that_has_recovered_is_well_though_it_has_nothing_to_store() {
    let mut pair = Pair::new();
    pair.witness.disturbed("the broker is away");
    assert!(!pair.health.report().ready);
    pair.witness.recovered();
    assert!(pair.health.report().ready);
}

#[tokio::test]
async fn a_tick_that_is_too_large_is_left_out_and_counted() {
    let mut pair = Pair::new();
    let Tick::Quote(quote) = quote("A", 0) else {
        panic!()
    };
    let status = schemas::tick::Status {
        head: quote.head,
        state: schemas::tick::TradingState::Open,
        reason: Some("x".repeat(2_000)),
    };
    pair.outlet.send(&status.into()).await.unwrap();
    let metrics = pair.metrics();
    assert!(metrics.contains("oversized_total 1\n"), "{metrics}");
    assert!(metrics.contains("overflows_total 0\n"), "{metrics}");
}
