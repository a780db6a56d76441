//! From JetStream to the database: every recorded tick once, in transactions, at any pace.
//!
//! Live delivery never waits for this. If the database fails, nothing is fetched any more; the
//! stream keeps what is not acknowledged, and delivers it again.
//!
//! Any number of replicas share one durable consumer, each with the batches that it fetched; what one
//! of them leaves behind is delivered to another. Progress is the consumer's, so it does not matter
//! who stored what.

mod intake;
mod metrics;
mod progress;
mod sweeper;

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use async_nats::jetstream::consumer::PullConsumer;
use bus::epoch;
use bus::stream::{self, StreamState};
use schemas::position::{Epoch, StreamSeq};
use schemas::time::{Clock as _, SystemClock};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store::{Recorded, TickStore};
pub use intake::BATCH;
use intake::Batch;
use metrics::Metrics;
use sweeper::Sweeper;

/// The durable consumer that all recorders share.
const CONSUMER: &str = "recorder";
/// How often progress is noted.
const PROGRESS: Duration = Duration::from_millis(250);
const DAY: Duration = Duration::from_hours(24);
/// How long a batch that is being stored may take when the recorder is to stop.
const GRACE: Duration = Duration::from_secs(5);
/// How long the broker may take to say how much there is to record.
const LOOK: Duration = Duration::from_secs(2);
/// The longest pause between two tries on a failing database or broker.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Settings of the recorder.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// For how many days ticks and bars of one second are kept once they were recorded, 0 for ever;
    /// longer bars and instruments are kept for ever
    #[arg(long, env = "TICKWIRE_HISTORY_DAYS", default_value = "30")]
    pub history_days: u16,
}

/// What the recorder runs with.
#[derive(Clone, Debug)]
pub struct Config<S> {
    /// The stream.
    pub stream: String,
    /// Where ticks go.
    pub store: S,
    /// The rest.
    pub args: Args,
}

struct Recorder<S> {
    config: Config<S>,
    cx: daemon::Context,
    metrics: Metrics,
    check: daemon::health::Check,
    /// Progress as the database had it when it was asked last, and when that was.
    noted: Option<Recorded>,
    asked: Instant,
    sweeper: Sweeper,
    /// The last message of a batch that could not be stored, until everything up to it is.
    failed: Option<(Epoch, StreamSeq)>,
}

/// Records until `stop`.
///
/// # Errors
///
/// Nothing that may pass by itself: trouble with broker or database is waited out.
pub async fn run<S: TickStore>(
    config: Config<S>,
    cx: daemon::Context,
    stop: CancellationToken,
) -> Result<()> {
    let metrics = cx.register(Metrics::new);
    let check = cx.health.check("recorder");
    check.down("starting");
    let days = Some(config.args.history_days).filter(|days| *days > 0);
    let keep = days.map(|days| DAY * u32::from(days));
    let mut recorder = Recorder {
        sweeper: Sweeper::new(keep, metrics.clone()),
        config,
        cx,
        metrics,
        check,
        noted: None,
        asked: Instant::now(),
        failed: None,
    };
    let too_long = async {
        stop.cancelled().await;
        sleep(GRACE).await;
    };
    tokio::select! {
        () = too_long => warn!("left with a batch that was being stored: it is delivered again"),
        () = recorder.live(&stop) => {}
    }
    Ok(())
}

impl<S: TickStore> Recorder<S> {
    async fn live(&mut self, stop: &CancellationToken) {
        let mut failures: u32 = 0;
        while !stop.is_cancelled() {
            let Err(problem) = self.session(&mut failures, stop).await else {
                continue;
            };
            failures = failures.saturating_add(1);
            let pause = (Duration::from_millis(200) * (1 << failures.min(6))).min(LONGEST_PAUSE);
            warn!(
                problem = format!("{problem:#}"),
                pause_ms = pause.as_millis(),
                "recording waits"
            );
            self.check.down(format!("{problem:#}"));
            // What waits is told all the same.
            if let Ok(Err(problem)) = timeout(LOOK, self.look()).await {
                warn!(%problem, "nobody knows how much there is to record");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Records until the stream's history is another one, something fails, or `stop`.
    async fn session(&mut self, failures: &mut u32, stop: &CancellationToken) -> Result<()> {
        let name = self.config.stream.clone();
        let state = stream::state(&self.cx.client, &name).await?;
        // Nothing is fetched from the broker that could not be stored.
        self.ask().await?;
        let epoch = self.epoch(&state).await?;
        self.look_back(epoch, &state).await?;
        let consumer = self.consumer().await?;
        info!(stream = name, %epoch, "recording");
        let mut noted_at = Instant::now();
        let mut held = Batch::default();
        loop {
            // First, so that a full database has room again.
            self.sweeper
                .step(&self.config.store, &name, SystemClock.now())
                .await;
            // One batch is fetched while the one before is stored.
            let (taken, fetched) = tokio::join!(self.take(epoch, held), intake::fetch(&consumer));
            if taken.is_err() {
                fetched.unwrap_or_default().give_back().await;
                return taken;
            }
            held = fetched?;
            if stop.is_cancelled() {
                self.take(epoch, held).await?;
                return self.finish(&consumer, epoch).await;
            }
            if noted_at.elapsed() >= PROGRESS {
                noted_at = Instant::now();
                let noted = self.note_progress(&consumer, epoch).await;
                if !matches!(noted, Ok(true)) {
                    // Of another history, or with nowhere to go.
                    held.give_back().await;
                    return noted.map(|_| ());
                }
            }
            // Nothing to fetch says nothing while what failed is on its way back.
            if self.failed.is_none() {
                *failures = 0;
                self.check.ok();
            }
        }
    }

    async fn consumer(&self) -> Result<PullConsumer> {
        let context = jetstream::new(self.cx.client.clone());
        context
            .get_consumer_from_stream(CONSUMER, &self.config.stream)
            .await
            .map_err(|error| anyhow::anyhow!("{error}"))
            .context(
                "the durable consumer cannot be read; `tickwire provision` makes it if it is gone",
            )
    }

    /// Notes what was acknowledged last, if the broker has heard of it.
    async fn finish(&mut self, consumer: &PullConsumer, epoch: Epoch) -> Result<()> {
        self.cx.client.flush().await?;
        self.note_progress(consumer, epoch).await?;
        Ok(())
    }

    /// The epoch of the stream, which is another one if what was noted is no longer true.
    async fn epoch(&self, state: &StreamState) -> Result<Epoch> {
        let (client, name) = (&self.cx.client, &self.config.stream);
        Ok(match self.noted {
            None => epoch::current(client, name, state.created).await?,
            Some(Recorded { epoch, floor, at }) => {
                epoch::verify(client, name, state, epoch, (floor, at)).await?
            }
        })
    }
}

#[cfg(test)]
mod tests;
