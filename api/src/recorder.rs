//! From JetStream to the database: every recorded tick once, in transactions, at any pace.
//!
//! Live delivery never waits for this. If the database fails, nothing is fetched any more; the
//! stream keeps what is not acknowledged, and delivers it again.

mod metrics;
mod sweeper;

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::{self, AckKind, Message};
use bus::epoch;
use bus::stream::{self, StreamState};
use futures_util::StreamExt;
use schemas::codec;
use schemas::position::{Epoch, StreamSeq};
use schemas::time::{Clock as _, SystemClock, UnixNanos};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::store::content;
use crate::store::{Content, Row, TickStore};
use metrics::Metrics;
use sweeper::Sweeper;

/// The durable consumer that all recorders share.
const CONSUMER: &str = "recorder";
/// The most messages of one transaction.
const BATCH: usize = 2_000;
/// How long a batch is gathered.
const GATHER: Duration = Duration::from_millis(250);
/// How often progress is noted.
const PROGRESS: Duration = Duration::from_millis(250);
const DAY: Duration = Duration::from_hours(24);
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
    noted: Option<Noted>,
    sweeper: Sweeper,
    /// The last message of a batch that could not be stored, until everything up to it is.
    failed: Option<(Epoch, StreamSeq)>,
}

/// Progress as it was noted last: a position of this history that can be looked at again.
#[derive(Clone, Copy, Debug)]
struct Noted {
    epoch: Epoch,
    floor: StreamSeq,
    at: UnixNanos,
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
        failed: None,
    };
    let mut failures: u32 = 0;
    loop {
        let session = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            session = recorder.session(&mut failures) => session,
        };
        let Err(problem) = session else {
            continue;
        };
        failures = failures.saturating_add(1);
        let pause = (Duration::from_millis(200) * (1 << failures.min(6))).min(LONGEST_PAUSE);
        warn!(
            problem = format!("{problem:#}"),
            pause_ms = pause.as_millis(),
            "recording waits"
        );
        recorder.check.down(format!("{problem:#}"));
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = sleep(pause) => {}
        }
    }
}

impl<S: TickStore> Recorder<S> {
    /// Records until the stream's history is another one, or something fails.
    async fn session(&mut self, failures: &mut u32) -> Result<()> {
        let name = self.config.stream.clone();
        let context = jetstream::new(self.cx.client.clone());
        let state = stream::state(&self.cx.client, &name).await?;
        let epoch = self.epoch(&state).await?;
        let consumer: PullConsumer = context
            .get_consumer_from_stream(CONSUMER, &name)
            .await
            .map_err(|error| anyhow::anyhow!("{error}"))
            .context("the durable consumer cannot be read")?;
        info!(stream = name, %epoch, "recording");
        let mut noted_at = Instant::now();
        loop {
            // First, so that a full database has room again.
            self.sweeper
                .step(&self.config.store, &name, SystemClock.now())
                .await;
            let messages = fetch(&consumer).await?;
            if !messages.is_empty() {
                self.take(epoch, messages).await?;
            }
            if noted_at.elapsed() >= PROGRESS {
                noted_at = Instant::now();
                let state = stream::state(&self.cx.client, &name).await?;
                let now = self.epoch(&state).await?;
                if now != epoch {
                    info!(stream = name, %epoch, %now, "the stream has another history");
                    return Ok(());
                }
                self.note_progress(&consumer, epoch, &state).await?;
            }
            // Nothing to fetch says nothing while what failed is on its way back.
            if self.failed.is_none() {
                *failures = 0;
                self.check.ok();
            }
        }
    }

    /// The epoch of the stream, which is another one if what was noted is no longer true.
    async fn epoch(&self, state: &StreamState) -> Result<Epoch> {
        let (client, name) = (&self.cx.client, &self.config.stream);
        Ok(match self.noted {
            None => epoch::current(client, name, state.created).await?,
            Some(Noted { epoch, floor, at }) => {
                epoch::verify(client, name, state, epoch, (floor, at)).await?
            }
        })
    }

    /// Stores a batch, or gives it back to the broker, which delivers it again at once.
    async fn take(&mut self, epoch: Epoch, messages: Vec<Message>) -> Result<()> {
        let Err(problem) = self.store(epoch, &messages).await else {
            for message in messages {
                message
                    .ack()
                    .await
                    .map_err(|error| anyhow::anyhow!("{error}"))
                    .context("acknowledging")?;
            }
            return Ok(());
        };
        self.metrics.failures.inc();
        let last = messages.iter().filter_map(|message| message.info().ok());
        let last = last.map(|info| StreamSeq::new(info.stream_sequence)).max();
        self.failed = last.map(|last| (epoch, last)).max(self.failed);
        for message in messages {
            if let Err(error) = message.ack_with(AckKind::Nak(None)).await {
                debug!(%error, "not given back: it comes again by itself, later");
                break;
            }
        }
        Err(problem)
    }

    async fn store(&self, epoch: Epoch, messages: &[Message]) -> Result<()> {
        let mut rows = Vec::with_capacity(messages.len());
        for message in messages {
            let info = message.info().map_err(|error| anyhow::anyhow!("{error}"))?;
            let seq = StreamSeq::new(info.stream_sequence);
            let refreshed = |tick: &schemas::tick::Tick| {
                tick.head().flags.contains(&schemas::tick::Flag::Refresh)
            };
            let content = match codec::from_msgpack(&message.payload) {
                Ok(tick) if refreshed(&tick) => continue,
                Ok(tick) => content(&tick),
                Err(problem) => {
                    self.metrics.dead_letters.inc();
                    let subject = message.subject.to_string();
                    warn!(subject, seq = seq.get(), %problem, "not a tick: kept as a dead letter");
                    Content::DeadLetter {
                        subject,
                        problem: problem.to_string(),
                    }
                }
            };
            rows.push(Row {
                seq,
                content,
                payload: message.payload.clone(),
            });
        }
        let recorded = self.config.store.record(epoch, &rows).await;
        recorded.context("nothing is lost, the stream keeps it")?;
        self.metrics
            .rows
            .inc_by(u64::try_from(rows.len()).unwrap_or(0));
        self.metrics.transactions.inc();
        Ok(())
    }

    /// Notes everything up to which all recorded kinds are stored. `state` was read before: whatever
    /// the stream held then is pending at the consumer now, or done.
    async fn note_progress(
        &mut self,
        consumer: &PullConsumer,
        epoch: Epoch,
        state: &StreamState,
    ) -> Result<()> {
        let info = consumer
            .get_info()
            .await
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        self.metrics
            .pending
            .set(info.num_pending + u64::try_from(info.num_ack_pending).unwrap_or(0));
        let idle = info.num_pending == 0 && info.num_ack_pending == 0;
        let floor = if idle {
            state.last_seq
        } else {
            StreamSeq::new(info.ack_floor.stream_sequence)
        };
        if self.failed.is_some_and(|failed| failed <= (epoch, floor)) {
            self.failed = None;
        }
        let behind = self
            .noted
            .is_some_and(|noted| noted.epoch == epoch && noted.floor >= floor);
        if behind || floor == StreamSeq::ZERO {
            return Ok(());
        }
        let at = stream::message_at(&self.cx.client, &self.config.stream, floor).await?;
        let at = at.map_or(UnixNanos::EPOCH, |stored| stored.time);
        self.config
            .store
            .advance(&self.config.stream, epoch, floor, at)
            .await?;
        self.noted = Some(Noted { epoch, floor, at });
        self.metrics
            .floor
            .set(i64::try_from(floor.get()).unwrap_or(i64::MAX));
        debug!(floor = floor.get(), "progress");
        Ok(())
    }
}

async fn fetch(consumer: &PullConsumer) -> Result<Vec<Message>> {
    let mut batch: pull::Batch = consumer
        .fetch()
        .max_messages(BATCH)
        .expires(GATHER)
        .messages()
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))
        .context("fetching")?;
    let mut messages = Vec::new();
    loop {
        let problem = match timeout(GATHER * 8, batch.next()).await {
            Ok(Some(Ok(message))) => {
                messages.push(message);
                continue;
            }
            Ok(None) => return Ok(messages),
            Ok(Some(Err(error))) => anyhow::anyhow!("{error}").context("fetching"),
            Err(_) => anyhow::anyhow!("the broker does not answer a fetch"),
        };
        // What came before the trouble is good.
        return if messages.is_empty() {
            Err(problem)
        } else {
            Ok(messages)
        };
    }
}

#[cfg(test)]
mod tests;
