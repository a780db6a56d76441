//! JetStream to WebSocket clients. Stateless: any replica can continue any client.
//!
//! | module | does |
//! |---|---|
//! | `feeder` | reads the stream once, for all shards |
//! | `store` | last messages and the ring of recent ones |
//! | `shard` | one thread per core: connections and the dispatch of live messages |
//! | `index` | who wants which topic |
//! | `session` | what one connection subscribes to and is still owed; no I/O |
//! | `connection` | one socket: frames in, frames out |
//! | `frame` | RFC 6455 |
//! | `deflate` | RFC 7692 |
//! | `server` | handshakes |
//! | `governor` | what one address and one connection may ask for |
//!
//! A message is encoded once per encoding, and only if somebody here wants it.

mod connection;
mod deflate;
mod feeder;
mod frame;
mod governor;
mod index;
mod metrics;
mod server;
mod session;
mod shard;
mod store;

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::Duration;

use ::governor::clock::DefaultClock;
use anyhow::{Context as _, Result, anyhow};
use bus::reader::{Reader, ReaderConfig, Start};
use schemas::time::{Clock, SystemClock};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

pub use crate::governor::GovernorArgs;

use crate::governor::Governor;
use feeder::Feeder;
use metrics::Metrics;
use server::Door;
use session::Limits;
use shard::{Command, Shared};
use store::Store;

/// How long connections and shards may take beyond the drain's own spread: a last write, the close
/// frame, and a margin.
const FAREWELL: Duration = Duration::from_secs(10);

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

    /// Messages that one connection may have replayed
    #[arg(long, env = "TICKWIRE_RESUME_MESSAGES", default_value = "20000")]
    pub resume_messages: NonZeroUsize,

    /// Connections closed per second when this replica leaves
    #[arg(long, env = "TICKWIRE_DRAIN_RATE", default_value = "500")]
    pub drain_rate: NonZeroUsize,

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

/// What fanout runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The stream.
    pub stream: String,
    /// The replica's name, shown to clients.
    pub node: String,
    /// Limits.
    pub args: Args,
}

/// Serves WebSocket clients on `listener` until `stop`, then drains.
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
    let metrics = cx.register(Metrics::new);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = Arc::new(Store::new(&config.stream, args.ring_bytes.get()));
    let shared = Shared {
        store: Arc::clone(&store),
        metrics: metrics.clone(),
        clock: Arc::clone(&clock),
        limits: limits(args),
        ops: args.governor.ops(),
        node: config.node.as_str().into(),
    };
    let (shards, mut threads) = start_shards(args, &shared)?;
    let reader = Reader::new(
        cx.client.clone(),
        ReaderConfig {
            stream: config.stream.clone(),
            name: "fo".to_owned(),
            filter: "tick.>".to_owned(),
            start: Start::AllWithin {
                bytes: u64::try_from(args.ring_bytes.get() / 2).unwrap_or(u64::MAX),
            },
        },
    );
    let (ready, is_ready) = watch::channel(false);
    let check = cx.health.check("fanout.reader");
    let feeder = Feeder {
        reader,
        store: Arc::clone(&store),
        shards: shards.clone(),
        metrics: metrics.clone(),
        clock,
        check: check.clone(),
        ready,
    };
    show_stats(&cx, &store, &metrics);
    let handshakes = TaskTracker::new();
    // Not `stop` itself: a part that ends because of it must not look like one that failed.
    let leaving = CancellationToken::new();
    let door = Arc::new(Door {
        shards: shards.clone(),
        next: AtomicUsize::new(0),
        origins: args.origins.clone(),
        deflate: args.deflate,
        max_connections: i64::try_from(args.max_connections.get()).unwrap_or(i64::MAX),
        max_handshakes: args.max_handshakes.get(),
        patience: Duration::from_secs(args.handshake_secs.get().into()),
        governor: Governor::new(&args.governor, DefaultClock::default()),
        metrics: metrics.clone(),
        ready: is_ready,
        tasks: handshakes.clone(),
        leaving: leaving.clone(),
    });
    let feeder_stop = CancellationToken::new();
    let mut parts: JoinSet<Result<()>> = JoinSet::new();
    let feeding = feeder.run(feeder_stop.clone());
    parts.spawn(async move {
        feeding.await;
        Ok(())
    });
    parts.spawn(async move {
        server::serve(listener, door).await;
        Ok(())
    });
    let outcome = tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = parts.join_next() => ended.context("nothing runs")?.context("a part panicked")?
            .and_then(|()| Err(anyhow!("a part ended by itself"))),
        ended = threads.join_next() => Err(anyhow!("a shard has ended: {ended:?}")),
    };
    check.down("draining");
    leaving.cancel();
    handshakes.close();
    // Whoever is between the handshake and a shard is closed like everybody else.
    handshakes.wait().await;
    let open = usize::try_from(metrics.connections.get()).unwrap_or(0);
    let spread =
        Duration::from_millis(u64::try_from(open * 1_000 / args.drain_rate.get()).unwrap_or(0));
    info!(
        connections = open,
        spread_ms = spread.as_millis(),
        "draining"
    );
    for shard in &shards {
        // A shard that has ended has nothing to drain.
        let _ended = shard.send(Command::Drain { spread }).await;
    }
    let drained = timeout(spread + FAREWELL, async {
        while threads.join_next().await.is_some() {}
    });
    let drained = drained
        .await
        .map_err(|_| anyhow!("connections were still open {FAREWELL:?} after the drain"));
    feeder_stop.cancel();
    parts.shutdown().await;
    outcome.and(drained)
}

fn limits(args: &Args) -> Limits {
    Limits {
        topics: args.max_topics.get(),
        patterns: args.max_patterns.get(),
        message_bytes: 128 * 1024,
        unsent_bytes: args.max_unsent_bytes.get(),
        unsent_age: Duration::from_secs(args.max_unsent_secs.get().into()),
        resume_messages: args.resume_messages.get(),
    }
}

type Shards = (Vec<mpsc::Sender<Command>>, JoinSet<Result<()>>);

/// Starts one thread per shard; the set resolves as they end.
fn start_shards(args: &Args, shared: &Shared) -> Result<Shards> {
    let count = args
        .shards
        .or_else(|| thread::available_parallelism().ok())
        .map_or(1, NonZeroUsize::get);
    let (mut shards, mut threads) = (Vec::new(), JoinSet::new());
    for number in 0..count {
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

fn show_stats(cx: &daemon::Context, store: &Arc<Store>, metrics: &Metrics) {
    let (store, metrics) = (Arc::clone(store), metrics.clone());
    cx.stats.add("fanout", move || {
        let known = store.read();
        let (messages, bytes) = known.ring_load();
        serde_json::json!({
            "stream": store.stream,
            "epoch": known.epoch,
            "head": known.head,
            "topics": known.topic_count(),
            "ring": { "messages": messages, "bytes": bytes },
            "stale": known.stale,
            "connections": metrics.connections.get(),
            "delivered": metrics.delivered.get(),
        })
    });
}
