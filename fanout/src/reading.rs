//! The thread that reads the streams, on a connection of its own: what is live does not wait behind
//! what is fetched once more. Where all shards hold messages back for long enough, it lets some gather
//! before it looks, because to be woken costs it more than to read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use async_nats::Client;
use daemon::nats::Connector;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::feeder::Feeder;

/// How long messages gather where nobody is in a hurry. Shards hold back by less what came late: as long
/// as they hold back for longer than this and their own rest, messages go out no later for it.
pub(crate) const REST: Duration = Duration::from_millis(2);
/// How long to wait before the broker is tried again.
const PAUSE: Duration = Duration::from_millis(250);

/// How many shards are in a hurry: have no time to rest, or do not hold back for long enough that it
/// would not matter when a message is read. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Hurry(Arc<AtomicUsize>);

impl Hurry {
    /// All of so many shards are.
    pub(crate) fn of(shards: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(shards)))
    }

    /// One shard is not any more.
    pub(crate) fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// It is again.
    pub(crate) fn enter(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// Starts the thread, and runs until `stop`: `feeders` are made for the connection.
///
/// # Errors
///
/// The thread cannot be started, or a feeder ended by itself.
pub(crate) async fn run(
    connector: Connector,
    hurry: Hurry,
    feeders: impl FnOnce(&Client) -> Vec<Feeder> + Send + 'static,
    stop: CancellationToken,
) -> Result<()> {
    let (ended, end) = oneshot::channel();
    let thread = thread::Builder::new().name("reader".to_owned());
    thread.spawn(move || {
        // Whoever waited is gone only when the process ends.
        let _unheard = ended.send(read(&connector, hurry, feeders, &stop));
    })?;
    end.await.context("the reader panicked")?
}

fn read(
    connector: &Connector,
    hurry: Hurry,
    feeders: impl FnOnce(&Client) -> Vec<Feeder>,
    stop: &CancellationToken,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(move || {
            if hurry.is_over() {
                thread::sleep(REST);
            }
        })
        .build()?;
    runtime.block_on(async {
        let Some(client) = stop.run_until_cancelled(connect(connector)).await else {
            return Ok(());
        };
        let mut running = JoinSet::new();
        for feeder in feeders(&client) {
            running.spawn(feeder.run(stop.clone()));
        }
        while let Some(ended) = running.join_next().await {
            ended.context("a feeder panicked")?;
            if !stop.is_cancelled() {
                return Err(anyhow!("a feeder ended by itself"));
            }
        }
        Ok(())
    })
}

async fn connect(connector: &Connector) -> Client {
    loop {
        match connector().await {
            Ok(client) => return client,
            Err(error) => debug!(%error, "there is no connection to read from yet"),
        }
        sleep(PAUSE).await;
    }
}
