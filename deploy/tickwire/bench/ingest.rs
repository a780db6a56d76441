//! `tickwire bench ingest`: what one ingest on a core of its own stores, from a simulated venue to the
//! acknowledgement, strictly in order and fenced as always; the broker has the other cores.
//!
//! Time runs from the publisher's queue to the acknowledgement, as ingest itself counts it: a figure is
//! the bound of the histogram's bucket, so it is at most that.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use schemas::id::Kind;
use serde::Serialize;
use tokio::time::sleep;

use super::cores::Cores;
use super::ground::{Ground, loopback};
use super::server::{Door, Metrics};
use crate::broker::binary::{Binary, Places, Search};

/// Before it counts.
const WARM: Duration = Duration::from_secs(2);

/// Arguments of `tickwire bench ingest`.
#[derive(Debug, clap::Args)]
pub(crate) struct IngestArgs {
    /// Ticks per second; the first that is not reached is the last that is tried
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "5000,20000,40000,60000,80000,100000,120000",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    rates: Vec<u32>,

    /// How long each rate is counted
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,

    #[command(flatten)]
    nats_server: Search,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Report {
    machine: String,
    /// Whether ingest had a core to itself.
    pinned: bool,
    loads: Vec<Load>,
    /// Ticks per second; 0 if none was reached.
    highest: u32,
}

/// One rate, and what became of it.
#[derive(Debug, Serialize)]
struct Load {
    ticks_per_second: u32,
    seconds: u64,
    /// Trades and quotes.
    stored: u64,
    /// Whatever else ingest makes of them: bars and states.
    others: u64,
    /// Processors used, of one.
    ingest_cpu: f64,
    broker_cpu: f64,
    /// From the queue to the acknowledgement; absent if it is longer than any bound.
    ack_p50_ms: Option<f64>,
    ack_p99_ms: Option<f64>,
    /// Connections that the publisher gave up.
    disturbances: u64,
}

impl Load {
    fn is_reached(&self) -> bool {
        super::is_reached(self.stored, self.ticks_per_second, self.seconds)
    }
}

/// Measures and prints; the last line is JSON.
///
/// # Errors
///
/// Something does not start, or ends.
pub(crate) async fn run(args: IngestArgs) -> Result<()> {
    let places = Places::new(&args.nats_server, Path::new("data"));
    let nats_server = places.find().await?;
    let cores = Cores::divide()?;
    let mut report = Report {
        machine: super::machine(),
        pinned: cores.is_divided(),
        loads: Vec::new(),
        highest: 0,
    };
    cores.settle()?;
    let pinned = if report.pinned {
        "ingest alone on one core, the broker on the rest"
    } else {
        "everything on one core"
    };
    crate::say(&format!("machine: {}; {pinned}", report.machine))?;
    for rate in args.rates {
        let load = measure(&nats_server, &cores, rate, args.seconds).await?;
        let reached = load.is_reached();
        crate::say(&line(&load))?;
        report.loads.push(load);
        if !reached {
            break;
        }
        report.highest = report.highest.max(rate);
    }
    crate::say(&format!("highest rate reached: {} ticks/s", report.highest))?;
    crate::say(&serde_json::to_string(&report)?)
}

fn line(load: &Load) -> String {
    let millis = |figure: Option<f64>| {
        figure.map_or_else(
            || "more than can be told".to_owned(),
            |figure| format!("{figure:.1} ms"),
        )
    };
    let verdict = if load.is_reached() {
        "reached"
    } else {
        "not reached"
    };
    format!(
        "rate {} ticks/s for {} s: {} stored, and {} others; processors: ingest {:.2}, broker {:.2}; \
         acknowledged after at most: p50 {}, p99 {}; {} disturbances: {verdict}",
        load.ticks_per_second,
        load.seconds,
        load.stored,
        load.others,
        load.ingest_cpu,
        load.broker_cpu,
        millis(load.ack_p50_ms),
        millis(load.ack_p99_ms),
        load.disturbances
    )
}

async fn measure(nats_server: &Binary, cores: &Cores, rate: u32, seconds: u64) -> Result<Load> {
    let ground = Ground::lay(nats_server).await?;
    let feeds = ground.dir().join("feeds.toml");
    std::fs::write(&feeds, super::simulator(rate))?;
    let ops = loopback()?;
    let mut command = ground.role("ingest", ops)?;
    command.arg("--feeds").arg(feeds);
    let mut ingest = ground
        .launch(cores, ("ingest", command), Door::Ready(ops))
        .await?;
    let probe = ingest.probe();
    sleep(WARM).await;
    let before = (probe.metrics().await?, probe.usage()?, ground.usage()?);
    sleep(Duration::from_secs(seconds)).await;
    let after = (probe.metrics().await?, probe.usage()?, ground.usage()?);
    ingest.check()?;
    ingest.end().await?;
    ground.clear().await?;

    let since = Since {
        before: &before.0,
        after: &after.0,
    };
    let share = |before: Duration, after: Duration| {
        let span = Duration::from_secs(seconds);
        after.saturating_sub(before).as_secs_f64() / span.as_secs_f64()
    };
    let others = since.others();
    let acks = since.acks();
    Ok(Load {
        ticks_per_second: rate,
        seconds,
        stored: since
            .value("tickwire_ingest_stored_messages_total")
            .saturating_sub(others),
        others,
        ingest_cpu: share(before.1.cpu, after.1.cpu),
        broker_cpu: share(before.2.cpu, after.2.cpu),
        ack_p50_ms: bound(&acks, 50),
        ack_p99_ms: bound(&acks, 99),
        disturbances: since.value("tickwire_ingest_disturbances_total"),
    })
}

/// What ingest counted between two looks.
struct Since<'a> {
    before: &'a Metrics,
    after: &'a Metrics,
}

impl Since<'_> {
    fn value(&self, series: &str) -> u64 {
        let before = self.before.value(series);
        self.after.value(series).saturating_sub(before)
    }

    /// What is made of trades and quotes, and is neither.
    fn others(&self) -> u64 {
        let kinds = Kind::ALL
            .iter()
            .filter(|kind| !matches!(kind, Kind::Trade | Kind::Quote));
        let counts = kinds.map(|kind| {
            self.value(&format!(
                "tickwire_ingest_published_ticks_total{{kind=\"{kind}\"}}"
            ))
        });
        counts.sum()
    }

    /// Bounds in seconds, and how many acknowledgements came within each.
    fn acks(&self) -> Vec<(f64, u64)> {
        let name = "tickwire_ingest_store_seconds";
        let before = self.before.buckets(name);
        let mut acks = self.after.buckets(name);
        for ((_, count), (_, before)) in acks.iter_mut().zip(before) {
            *count = count.saturating_sub(before);
        }
        acks
    }
}

/// The bound in milliseconds within which so many of a hundred lie; none if only infinity is one, or if
/// there are none.
fn bound(acks: &[(f64, u64)], percent: u64) -> Option<f64> {
    let (_, all) = acks.last()?;
    let (bound, count) = acks
        .iter()
        .find(|(_, count)| count * 100 >= all * percent)?;
    (*count > 0 && bound.is_finite()).then_some(bound * 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::bound;

    #[test]
    fn the_bound_is_that_of_the_bucket() {
        let acks = [(0.001, 10), (0.002, 98), (0.004, 99), (f64::INFINITY, 100)];
        assert_eq!(bound(&acks, 50), Some(2.0));
        assert_eq!(bound(&acks, 99), Some(4.0));
        assert_eq!(bound(&acks, 100), None);
        assert_eq!(bound(&[(0.001, 0), (f64::INFINITY, 0)], 50), None);
    }
}
