//! Feeds to normalized ticks to JetStream.
//!
//! | module | does |
//! |---|---|
//! | [`config`] | reads `feeds.toml` |
//! | [`feed`] | the seam between venues and the rest |
//! | [`feeds`] | one module per source of ticks |
//! | [`berth`] | refuses a stream that does not take a feed's venue |
//! | [`supervisor`] | keeps every feed running, each on its own |
//! | [`standing`] | the state that every feed is in, and whether that is healthy |
//! | [`mod@line`] | the single ordered path: no doubles, state on change, bars, summaries |
//! | [`bars`], [`stats`] | pure figures from trades |
//! | [`backfill`] | files read for history's sake, past the stream |
//! | [`recovery`] | what a new writer reads from the stream before it goes on |
//! | [`publish`] | ticks to messages, and the witness of what was stored |
//! | [`ack_log`] | the record of acknowledgements, for audits |
//!
//! Ticks go one way: feed → line → publisher. After a restart the line goes on exactly where the
//! stream ends.

pub mod ack_log;
pub mod backfill;
pub mod bars;
pub mod berth;
pub mod config;
pub mod feed;
pub mod feeds;
pub mod line;
pub mod metrics;
pub mod publish;
pub mod recovery;
pub mod standing;
pub mod stats;
pub mod supervisor;

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use async_nats::Client;
use bus::lease::{Lease, LeaseConfig};
use bus::publisher::{Publisher, PublisherConfig};
use schemas::id::Venue;
use schemas::time::{SystemClock, UnixNanos};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use config::{FeedConfig, FeedsConfig};
use feed::{Batch, Past};
use line::Line;
use line::plan::{Plan, Plans};
use metrics::Metrics;
use publish::{Outlet, Witness};
use standing::Standings;
use supervisor::FeedsContext;

/// Unacknowledged messages: what PUBLISHING was measured with, and what every fence covers.
const WINDOW: usize = 512;
/// Batches between feeds and the line; a full channel holds the feeds back.
const INLET: usize = 64;
/// The largest payload, below the stream's own limit by what headers take.
const MAX_PAYLOAD: usize = 250_000;

/// How often the stream is asked how far back it goes.
const RETENTION: Duration = Duration::from_secs(30);

/// How often bars are closed by the clock, and forming ones sent.
const PULSE: Duration = Duration::from_millis(20);

/// Arguments of the ingest role.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// The most bytes of ticks that wait while the broker is away
    #[arg(
        long,
        env = "TICKWIRE_INGEST_BUFFER_BYTES",
        default_value = "268435456"
    )]
    pub buffer_bytes: NonZeroU64,

    /// A file that records every acknowledged message: sequence, subject, id
    #[arg(long, env = "TICKWIRE_ACK_LOG")]
    pub ack_log: Option<PathBuf>,
}

/// What ingest runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The feeds.
    pub feeds: FeedsConfig,
    /// The stream.
    pub stream: String,
    /// How long the stream keeps messages: state is refreshed at half of it.
    pub retention: Duration,
    /// Who runs: the next process under the same name takes over at once.
    pub node: String,
    /// Limits and records.
    pub args: Args,
}

/// Runs ingest until `stop`, then drains.
///
/// # Errors
///
/// Another writer has taken over, or what is queued could not be stored in time.
pub async fn run(config: Config, cx: daemon::Context, stop: CancellationToken) -> Result<()> {
    let metrics = cx.register(Metrics::new);
    let (publisher_check, feeds_check) = (
        cx.health.check("ingest.publisher"),
        cx.health.check("ingest.feeds"),
    );
    feeds_check.down("asking what the stream takes");
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        checked = berth::check(&cx.client, &config.stream, &config.feeds) => checked?,
    }
    feeds_check.down("waiting for the lease");
    let lease = LeaseConfig {
        name: config.stream.clone(),
        node: config.node.clone(),
        term: Duration::from_secs(10),
    };
    let lease = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        lease = Lease::acquire(&cx.client, lease) => lease,
    };
    let log = config
        .args
        .ack_log
        .as_deref()
        .map(ack_log::AckLog::open)
        .transpose()?;
    let broken = CancellationToken::new();
    let witness = Witness::new(
        metrics.clone(),
        log,
        publisher_check.clone(),
        broken.clone(),
    );
    let outlet = witness.outlet();
    let publishing = PublisherConfig {
        stream: config.stream.clone(),
        token: lease.token(),
        window: WINDOW,
        max_buffer_bytes: usize::try_from(config.args.buffer_bytes.get()).unwrap_or(usize::MAX),
        max_payload: MAX_PAYLOAD,
        drain: Duration::from_secs(20),
    };
    let (sender, mut publisher) =
        Publisher::new(publishing, cx.connector.clone(), Box::new(witness));
    let mut outlet = outlet(sender);
    let (lease_stop, publish_stop) = (CancellationToken::new(), CancellationToken::new());
    let mut parts: JoinSet<Result<()>> = JoinSet::new();
    // From now on: reading what is there may take longer than the lease's term.
    let (client, keep) = (cx.client.clone(), lease_stop.clone());
    parts.spawn(async move { Ok(lease.keep(&client, keep).await?) });
    let ready = tokio::select! {
        () = stop.cancelled() => Ok(None),
        ready = prepare(&config, &cx, &mut publisher, metrics.clone()) => ready.map(Some),
        ended = parts.join_next() => joined(ended).map(|()| None),
    };
    let Prepared { line, past, last } = match ready {
        Ok(Some(prepared)) => prepared,
        Ok(None) => return wind_down(parts, &lease_stop, Ok(())).await,
        Err(problem) => return wind_down(parts, &lease_stop, Err(problem)).await,
    };
    publisher_check.ok();
    info!(
        stream = config.stream,
        from = last,
        feeds = config.feeds.feeds.len(),
        "publishing"
    );

    let feeds = FeedsContext {
        clock: Arc::new(SystemClock),
        metrics: metrics.feeds,
        standings: Arc::new(Standings::new(&config.feeds, feeds_check)),
        past: Arc::new(past),
    };
    let publishing = publish_stop.clone();
    parts.spawn(async move { Ok(publisher.run(publishing).await?) });
    let (first, retained) = watch::channel(None);
    // Dropped, and so ended, with this function.
    let mut watcher = JoinSet::new();
    watcher.spawn(watch_retention(
        cx.client.clone(),
        config.stream.clone(),
        first,
    ));
    let line = (line, retained);
    let outcome = tokio::select! {
        outcome = feed_line(&config.feeds, line, &mut outlet, &feeds, &stop) => outcome,
        () = broken.cancelled() => Err(anyhow::anyhow!("--ack-log can no longer be written")),
        ended = parts.join_next() => joined(ended),
    };
    publish_stop.cancel();
    wind_down(parts, &lease_stop, outcome).await
}

/// What a part ended with.
fn joined(ended: Option<Result<Result<()>, JoinError>>) -> Result<()> {
    ended.context("nothing runs")?.context("a part panicked")?
}

/// Waits for the parts: what was queued is stored before the lease is given up.
async fn wind_down(
    mut parts: JoinSet<Result<()>>,
    lease_stop: &CancellationToken,
    outcome: Result<()>,
) -> Result<()> {
    let mut outcome = outcome;
    while parts.len() > 1 {
        outcome = outcome.and(joined(parts.join_next().await));
    }
    lease_stop.cancel();
    while !parts.is_empty() {
        outcome = outcome.and(joined(parts.join_next().await));
    }
    outcome
}

/// What the stream holds, ready to go on from.
struct Prepared {
    line: Line,
    past: HashMap<Venue, Past>,
    /// The last sequence.
    last: u64,
}

/// Fences former writers out, then reads what they left.
async fn prepare(
    config: &Config,
    cx: &daemon::Context,
    publisher: &mut Publisher,
    metrics: Metrics,
) -> Result<Prepared> {
    let last = publisher.take_over().await?;
    let plans = Plans::new(config.feeds.feeds.iter().map(Plan::of).collect());
    let recovered = recovery::recover(&cx.client, &config.stream, last, &plans).await?;
    let simulated = config.feeds.feeds.iter().filter_map(FeedConfig::simulated);
    let past = simulated.map(|venue| (venue.clone(), recovered.past(venue)));
    let past = past.collect();
    let refresh = i64::try_from(config.retention.as_nanos() / 2).unwrap_or(i64::MAX);
    Ok(Prepared {
        line: Line::new(plans, recovered, refresh, metrics),
        past,
        last: last.get(),
    })
}

/// Tells from time to time when the first message was stored that the stream still holds.
async fn watch_retention(client: Client, stream: String, first: watch::Sender<Option<UnixNanos>>) {
    loop {
        tokio::time::sleep(RETENTION).await;
        match recovery::retained_since(&client, &stream).await {
            Ok(Some(time)) => {
                first.send_replace(Some(time));
            }
            // Nothing is stored, or it was trimmed meanwhile.
            Ok(None) => {}
            Err(error) => debug!(stream, %error, "how far back the stream goes is not known"),
        }
    }
}

/// Passes ticks from feeds to the publisher until `stop`.
async fn feed_line(
    config: &FeedsConfig,
    (mut line, retained): (Line, watch::Receiver<Option<UnixNanos>>),
    outlet: &mut Outlet,
    cx: &FeedsContext,
    stop: &CancellationToken,
) -> Result<()> {
    let clock = &*cx.clock;
    let (inlet, mut batches) = mpsc::channel::<Batch>(INLET);
    let mut feeds = supervisor::start(config, &inlet, cx, stop);
    drop(inlet);
    let [mut pulse, mut seconds] = [PULSE, Duration::from_secs(1)].map(interval);
    for timer in [&mut pulse, &mut seconds] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let mut out = line.take_unpublished();
    loop {
        for tick in out.drain(..) {
            outlet.send(&tick).await?;
        }
        tokio::select! {
            batch = batches.recv() => match batch {
                Some(Batch { feed, ticks }) => {
                    let now = clock.now();
                    for tick in ticks {
                        line.take(feed, tick, now, &mut out);
                    }
                }
                // Every feed has ended; bars still close and state is still refreshed.
                None if stop.is_cancelled() => break,
                None => {
                    tokio::select! {
                        () = stop.cancelled() => break,
                        _ = pulse.tick() => line.flush(clock.now(), &mut out),
                    }
                }
            },
            _ = pulse.tick() => line.flush(clock.now(), &mut out),
            _ = seconds.tick() => {
                let collapsed = outlet.take_collapsed();
                out.extend(supervisor::collapse_report(config, collapsed, cx));
                if let Some(first) = *retained.borrow() {
                    line.retained_since(first);
                }
            }
        }
    }
    line.flush(clock.now(), &mut out);
    for tick in &out {
        outlet.send(tick).await?;
    }
    while let Some(ended) = feeds.join_next().await {
        if ended.is_err() {
            bail!("the supervisor of a feed panicked");
        }
    }
    Ok(())
}
