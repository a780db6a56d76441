//! JetStream to WebSocket and SSE clients. Stateless: any replica can continue any client.
//!
//! | module | does |
//! |---|---|
//! | `reading` | the thread that reads the streams, for all shards |
//! | `feeder` | from one stream to its store and the shards |
//! | `intake` | what its events mean to the store and the shards; no I/O |
//! | `store` | of each stream the last messages and the ring of recent ones |
//! | `repair` | older messages, read from the broker |
//! | `shard` | one thread per core: connections and the dispatch of live messages |
//! | `index` | who wants which topic |
//! | `session` | what one connection subscribes to and is still owed; no I/O |
//! | `connection` | one socket: frames in, frames out |
//! | `frame` | RFC 6455 |
//! | `sse` | server-sent events |
//! | `channels` | named sets of topics |
//! | `stats` | what operators see |
//! | `deflate` | RFC 7692 |
//! | `server` | handshakes |
//! | `departure` | the order and the rate in which connections are closed at the end |
//! | `governor` | what one address and one connection may ask for |
//!
//! A message is encoded once per encoding, and only if somebody here wants it.

mod channels;
mod connection;
mod deflate;
mod departure;
mod feeder;
mod frame;
mod governor;
mod index;
mod intake;
mod metrics;
mod reading;
mod repair;
mod server;
mod session;
mod shard;
mod sse;
mod stats;
mod store;

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::{Duration, Instant};

use ::governor::clock::DefaultClock;
use anyhow::{Context as _, Result, anyhow, ensure};
use async_nats::Client;
use bus::reader::{Reader, ReaderConfig, Start};
use schemas::time::SystemClock;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

pub use crate::channels::ChannelsError;
pub use crate::governor::GovernorArgs;

use crate::channels::Channels;
use crate::governor::Governor;
use daemon::health::Check;
use departure::Departure;
use feeder::{Feeder, Missing};
use intake::Intake;
use metrics::Metrics;
use reading::Hurry;
use repair::Repairs;
use server::{Door, Offer};
use session::{Crowd, Limits};
use shard::{Command, Shared};
use stats::Board;
use store::{Store, StreamNo};

/// How long connections and shards may take beyond the drain's own spread: a last write, the close
/// frame, and a margin.
const FAREWELL: Duration = Duration::from_secs(10);

/// How long load balancers may take to notice that a replica leaves: an endpoint's way through
/// Kubernetes to the last proxy.
const NOTICE_SECS: u32 = 10;

/// Arguments of the fanout role.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Bytes of recent messages held for clients that come back
    #[arg(long, env = "TICKWIRE_RING_BYTES", default_value = "268435456")]
    pub ring_bytes: NonZeroUsize,

    /// Threads that serve connections; one per core by default
    #[arg(long, env = "TICKWIRE_SHARDS")]
    pub shards: Option<NonZeroUsize>,

    /// Origins whose pages may connect, comma-separated; `*` is any. Programs need none, nor do pages
    /// of this very address; pages of a name do, or any name could be pointed here
    #[arg(long, env = "TICKWIRE_ORIGINS", value_delimiter = ',')]
    pub origins: Vec<String>,

    /// The channels of /ws/{channel} and /v1/sse: a TOML file; the usual four by default
    #[arg(long, env = "TICKWIRE_CHANNELS")]
    pub channels: Option<PathBuf>,

    /// Connections that this replica accepts
    #[arg(long, env = "TICKWIRE_MAX_CONNECTIONS", default_value = "50000")]
    pub max_connections: NonZeroUsize,

    /// Topics that one connection may hold
    #[arg(long, env = "TICKWIRE_MAX_TOPICS", default_value = "1024")]
    pub max_topics: NonZeroUsize,

    /// Patterns that one connection may hold
    #[arg(long, env = "TICKWIRE_MAX_PATTERNS", default_value = "16")]
    pub max_patterns: NonZeroUsize,

    /// Unsent bytes that a client may accumulate before it is closed as slow
    #[arg(long, env = "TICKWIRE_MAX_UNSENT_BYTES", default_value = "1048576")]
    pub max_unsent_bytes: NonZeroUsize,

    /// Seconds that a message may wait for a client before the client is closed as slow
    #[arg(long, env = "TICKWIRE_MAX_UNSENT_SECS", default_value = "5")]
    pub max_unsent_secs: NonZeroU32,

    /// Milliseconds for which a busy shard holds back what a client gets, so that more of it goes out
    /// in one write; 0 for never
    #[arg(long, env = "TICKWIRE_HOLD_BACK_MS", default_value = "6", value_parser = clap::value_parser!(u64).range(..=10))]
    pub hold_back_ms: u64,

    /// Messages that one connection may have replayed at once, and again in the course of a minute
    #[arg(long, env = "TICKWIRE_RESUME_MESSAGES", default_value = "20000")]
    pub resume_messages: NonZeroUsize,

    /// The most connections closed in a second when this replica leaves
    #[arg(long, env = "TICKWIRE_DRAIN_RATE", default_value = "500")]
    pub drain_rate: NonZeroU32,

    /// Seconds for which this replica still accepts connections when it leaves, until load balancers
    /// have noticed; 10 by default, and 0 with `up`
    #[arg(long, env = "TICKWIRE_DRAIN_ACCEPT_SECS")]
    pub drain_accept_secs: Option<u32>,

    /// Seconds that a handshake may take
    #[arg(long, env = "TICKWIRE_HANDSHAKE_SECS", default_value = "5")]
    pub handshake_secs: NonZeroU32,

    /// Connections that may be in their handshake at once; beyond them the slowest are closed
    #[arg(long, env = "TICKWIRE_MAX_HANDSHAKES", default_value = "1024")]
    pub max_handshakes: NonZeroUsize,

    /// Compress for no client, whatever it offers; as a variable, `false`
    #[arg(long = "no-deflate", env = "TICKWIRE_DEFLATE", action = clap::ArgAction::SetFalse)]
    pub deflate: bool,

    /// What one address and one connection may ask for
    #[command(flatten)]
    pub governor: GovernorArgs,
}

impl Args {
    /// How long it takes to leave with so many connections: until load balancers have noticed, until
    /// the last one is closed at the set rate, and a margin for the farewell.
    pub fn grace(&self, connections: u32) -> Duration {
        self.notice().saturating_add(self.patience(connections))
    }

    /// How long closing so many connections may take: half as long again as planned where cores are
    /// short, and a margin for the farewell.
    fn patience(&self, connections: u32) -> Duration {
        let spread = departure::spread(connections, self.drain_rate);
        spread.saturating_add(spread / 2) + FAREWELL
    }

    fn shard_count(&self) -> usize {
        self.shards
            .or_else(|| thread::available_parallelism().ok())
            .map_or(1, NonZeroUsize::get)
    }

    fn notice(&self) -> Duration {
        Duration::from_secs(self.drain_accept_secs.unwrap_or(NOTICE_SECS).into())
    }
}

/// What fanout runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The streams, each named once.
    pub streams: Vec<String>,
    /// The replica's name, shown to clients.
    pub node: String,
    /// Limits.
    pub args: Args,
}

impl Config {
    /// What each stream has of the ring, in bytes.
    fn ring_bytes(&self) -> usize {
        self.args.ring_bytes.get() / self.streams.len().max(1)
    }
}

/// Serves WebSocket and SSE clients on `listener` until `stop`, then drains.
///
/// # Errors
///
/// A part failed or did not end in time.
pub async fn run(
    config: Config,
    listener: TcpListener,
    cx: daemon::Context,
    stop: CancellationToken,
) -> Result<()> {
    let args = &config.args;
    check_streams(&config.streams)?;
    let offer = offer(&config)?;
    let metrics = cx.register(Metrics::new);
    let shared = share(&config, &cx.client, &metrics);
    let (shards, threads) = start_shards(args, &shared)?;
    let streams = StreamNo::all(config.streams.len());
    let (missing, is_missing) = watch::channel(streams.collect());
    let (checks, feeders) = feeders(&config, &cx, &shared, &shards, missing);
    show_stats(&cx, args, &shared);
    let handshakes = TaskTracker::new();
    // Not `stop` itself: a part that ends because of it must not look like one that failed.
    let leaving = CancellationToken::new();
    let door = Arc::new(Door {
        shards: shards.clone(),
        next: AtomicUsize::new(0),
        origins: args.origins.clone(),
        is_local: listener.local_addr()?.ip().is_loopback(),
        deflate: args.deflate,
        max_connections: i64::try_from(args.max_connections.get()).unwrap_or(i64::MAX),
        max_handshakes: args.max_handshakes.get(),
        patience: Duration::from_secs(args.handshake_secs.get().into()),
        governor: Governor::new(&args.governor, DefaultClock::default()),
        offer,
        metrics: metrics.clone(),
        missing: is_missing,
        tasks: handshakes.clone(),
        leaving: leaving.clone(),
    });
    let feeder_stop = CancellationToken::new();
    let (mut reader, mut server) = (JoinSet::new(), JoinSet::new());
    let (hurry, reading) = (shared.hurry.clone(), feeder_stop.clone());
    reader.spawn(reading::run(cx.connector.clone(), hurry, feeders, reading));
    server.spawn(server::serve(listener, door));
    let mut parts = Parts {
        reader,
        server,
        threads,
    };
    let most = bounded(args.max_connections.get());
    info!(
        secs = args.grace(most).as_secs(),
        connections = most,
        "the grace period that leaving may need"
    );
    let outcome = tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = parts.end() => ended,
    };
    for check in checks {
        check.down("draining");
    }
    let outcome = match outcome {
        // Load balancers still send clients here.
        Ok(()) => tokio::select! {
            () = sleep(args.notice()) => Ok(()),
            ended = parts.end() => ended,
        },
        failed => failed,
    };
    leaving.cancel();
    handshakes.close();
    // Whoever is between the handshake and a shard is closed like everybody else.
    handshakes.wait().await;
    let drained = drain(args, &shards, &metrics, &mut parts.threads).await;
    parts.server.shutdown().await;
    feeder_stop.cancel();
    // Whoever did not drain may keep it.
    let read = timeout(FAREWELL, parts.reader.join_next()).await;
    let read = match read {
        Ok(Some(ended)) => ended.context("the reader panicked").flatten(),
        Ok(None) => Ok(()),
        Err(_) => Err(anyhow!("the reader did not end")),
    };
    outcome.and(drained).and(read)
}

fn share(config: &Config, client: &async_nats::Client, metrics: &Metrics) -> Shared {
    let (args, streams) = (&config.args, &config.streams);
    let ring = config.ring_bytes();
    let numbered = StreamNo::all(streams.len()).zip(streams);
    let stores = numbered.map(|(number, name)| Arc::new(Store::new(name, number, ring)));
    Shared {
        stores: stores.collect(),
        repairs: Repairs::all(client, streams, metrics),
        metrics: metrics.clone(),
        clock: Arc::new(SystemClock),
        limits: Arc::new(limits(args)),
        ops: args.governor.ops(),
        node: config.node.as_str().into(),
        board: Board::default(),
        hold_back: Duration::from_millis(args.hold_back_ms),
        hurry: Hurry::of(args.shard_count()),
    }
}

/// One reader for each stream, as soon as there is a connection for them; and their checks.
fn feeders(
    config: &Config,
    cx: &daemon::Context,
    shared: &Shared,
    shards: &[mpsc::Sender<Command>],
    missing: Missing,
) -> (
    Vec<Check>,
    impl FnOnce(&Client) -> Vec<Feeder> + Send + 'static,
) {
    let streams = config.streams.clone();
    let check = |stream: &String| match streams.len() {
        1 => cx.health.check("fanout.reader"),
        _ => cx.health.check(&format!("fanout.reader.{stream}")),
    };
    let checks: Vec<Check> = streams.iter().map(check).collect();
    for check in &checks {
        check.down("connecting to the broker");
    }
    let bytes = u64::try_from(config.ring_bytes() / 2).unwrap_or(u64::MAX);
    let (missing, shared, shards) = (Arc::new(missing), shared.clone(), shards.to_vec());
    let made = checks.clone();
    let make = move |client: &Client| {
        let numbered = StreamNo::all(streams.len()).zip(&streams).zip(made);
        let feeder = |((number, stream), check): ((StreamNo, &String), Check)| {
            let reader = ReaderConfig {
                stream: stream.clone(),
                name: "fo".to_owned(),
                filter: "tick.>".to_owned(),
                start: Start::AllWithin { bytes },
            };
            Some(Feeder {
                client: client.clone(),
                reader: Reader::new(client.clone(), reader),
                number,
                intake: Intake::new(Arc::clone(shared.stores.get(number.index())?)),
                shards: shards.clone(),
                metrics: shared.metrics.clone(),
                gauges: shared.metrics.stream(stream),
                clock: Arc::clone(&shared.clock),
                check,
                missing: Arc::clone(&missing),
            })
        };
        numbered.filter_map(feeder).collect()
    };
    (checks, make)
}

/// What runs until the end.
struct Parts {
    reader: JoinSet<Result<()>>,
    server: JoinSet<()>,
    /// Shards.
    threads: JoinSet<Result<()>>,
}

impl Parts {
    /// The first of them to end though nobody asked it to.
    async fn end(&mut self) -> Result<()> {
        tokio::select! {
            Some(ended) = self.reader.join_next() => ended.context("the reader panicked")?
                .and_then(|()| Err(anyhow!("the reader ended by itself"))),
            Some(ended) = self.server.join_next() => Err(anyhow!("the server has ended: {ended:?}")),
            ended = self.threads.join_next() => Err(anyhow!("a shard has ended: {ended:?}")),
        }
    }
}

/// Closes every connection, and waits until the shards have ended.
async fn drain(
    args: &Args,
    shards: &[mpsc::Sender<Command>],
    metrics: &Metrics,
    threads: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let open = bounded(usize::try_from(metrics.connections.get()).unwrap_or(0));
    let spread = departure::spread(open, args.drain_rate);
    let begun = Instant::now();
    let departure = Arc::new(Departure::new(open, args.drain_rate, begun));
    info!(
        connections = open,
        spread_ms = spread.as_millis(),
        "draining"
    );
    for shard in shards {
        // A shard that has ended has nothing to drain.
        let _ended = shard.send(Command::Drain(Arc::clone(&departure))).await;
    }
    let patience = args.patience(open);
    let drained = timeout(patience, async {
        while threads.join_next().await.is_some() {}
    });
    drained
        .await
        .map_err(|_| anyhow!("connections were still open after {patience:?} of draining"))?;
    info!(
        connections = open,
        took_ms = begun.elapsed().as_millis(),
        "drained"
    );
    Ok(())
}

fn bounded(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// What clients are told names streams by their place.
fn check_streams(streams: &[String]) -> Result<()> {
    let most = StreamNo::MAX;
    ensure!(
        (1..=most).contains(&streams.len()),
        "--stream must name 1 to {most} streams, and names {}",
        streams.len()
    );
    let named: BTreeSet<&String> = streams.iter().collect();
    ensure!(
        named.len() == streams.len(),
        "--stream names a stream twice"
    );
    Ok(())
}

fn offer(config: &Config) -> Result<Offer, ChannelsError> {
    let limits = limits(&config.args);
    let channels = Channels::load(config.args.channels.as_deref(), &limits)?;
    Ok(Offer { channels, limits })
}

/// So many topics cost the broker more one by one than the stream does that they are in, and while it looks
/// for one of them the writers of the stream wait. Where others read the stream too, it takes fewer.
const CROWD: Crowd = Crowd {
    most: 16,
    stretch: 8_192,
};

fn limits(args: &Args) -> Limits {
    Limits {
        topics: args.max_topics.get(),
        patterns: args.max_patterns.get(),
        message_bytes: 128 * 1024,
        unsent_bytes: args.max_unsent_bytes.get(),
        unsent_age: Duration::from_secs(args.max_unsent_secs.get().into()),
        resume_messages: args.resume_messages.get(),
        crowd: CROWD,
    }
}

type Shards = (Vec<mpsc::Sender<Command>>, JoinSet<Result<()>>);

/// Starts one thread per shard; the set resolves as they end.
fn start_shards(args: &Args, shared: &Shared) -> Result<Shards> {
    let (mut shards, mut threads) = (Vec::new(), JoinSet::new());
    for number in 0..args.shard_count() {
        let (commands, inlet) = mpsc::channel(shard::INLET);
        let (ended, end) = oneshot::channel();
        let shared = shared.clone();
        thread::Builder::new()
            .name(format!("shard-{number}"))
            .spawn(move || {
                // Whoever waited is gone only when the process ends.
                let _unheard = ended.send(shard::run(shared, inlet));
            })?;
        shards.push(commands);
        threads.spawn(async move { Ok(end.await.context("a shard panicked")??) });
    }
    Ok((shards, threads))
}

fn show_stats(cx: &daemon::Context, args: &Args, shared: &Shared) {
    let (args, board) = (args.clone(), shared.board.clone());
    let (stores, metrics) = (Arc::clone(&shared.stores), shared.metrics.clone());
    cx.stats.add_asked("fanout", move |asked| {
        let mut shown = board.show(&stores, &metrics, asked);
        let open = usize::try_from(metrics.connections.get()).unwrap_or(0);
        let drain = serde_json::json!({
            "accept_secs": args.notice().as_secs(),
            "rate": args.drain_rate,
            "grace_secs": args.grace(bounded(open)).as_secs_f64().ceil(),
        });
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("drain".to_owned(), drain);
        }
        shown
    });
}
