//! How far recording is: everything up to there is stored, or in the ledger of what was lost.

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream::consumer::{Info, PullConsumer};
use bus::stream::{self, StreamState};
use schemas::position::{Epoch, StreamSeq};
use schemas::time::{Clock as _, SystemClock, UnixNanos};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Recorder;
use crate::store::{Recorded, TickStore};

/// A database that has nothing to store is asked so often, so that readiness is true.
const ASK: Duration = Duration::from_secs(5);

impl<S: TickStore> Recorder<S> {
    /// Asks the database how far it is, and so whether it answers.
    pub(super) async fn ask(&mut self) -> Result<()> {
        let recorded = self.config.store.recorded(&self.config.stream).await;
        self.noted = recorded.context("nothing is lost, the stream keeps it")?;
        self.asked = Instant::now();
        Ok(())
    }

    /// Asks the broker how much there is to record.
    pub(super) async fn look(&self) -> Result<()> {
        let consumer = self.consumer().await?;
        self.tell(consumer.cached_info());
        Ok(())
    }

    fn tell(&self, info: &Info) {
        let pending = info.num_pending + u64::try_from(info.num_ack_pending).unwrap_or(0);
        self.metrics.pending.set(pending);
        let since = self.noted.map(|noted| noted.at);
        let known = since.filter(|at| pending > 0 && *at > UnixNanos::EPOCH);
        let lag = known.map_or(Duration::ZERO, |at| SystemClock.now().since(at));
        self.metrics.lag.set(lag.as_secs_f64());
    }

    /// Puts into the ledger what the stream does not hold any more, if it was not stored before.
    pub(super) async fn look_back(&mut self, epoch: Epoch, state: &StreamState) -> Result<()> {
        let noted = self.noted.filter(|noted| noted.epoch == epoch);
        let floor = noted.map_or(StreamSeq::ZERO, |noted| noted.floor);
        if state.first_seq <= floor.next() {
            return Ok(());
        }
        let (store, name) = (&self.config.store, &self.config.stream);
        let now = SystemClock.now();
        let loss = store.trimmed(name, epoch, state.first_seq, now).await?;
        if let Some(loss) = loss {
            let (from, to) = (loss.from.get(), loss.to.get());
            self.metrics.losses.inc();
            self.metrics.lost.inc_by(to.saturating_sub(from) + 1);
            let why = loss.why;
            warn!(stream = name, %epoch, from, to, why, "a part of the stream may be missing in history");
        }
        self.ask().await
    }

    /// Notes up to where everything is acknowledged; `false` if the stream has another history by now.
    ///
    /// The stream is looked at behind the consumer: what retention takes away while it is pending
    /// counts as acknowledged there, and is found missing here.
    pub(super) async fn note_progress(
        &mut self,
        consumer: &PullConsumer,
        epoch: Epoch,
    ) -> Result<bool> {
        let info = consumer.get_info().await;
        let info = info.map_err(|error| anyhow::anyhow!("{error}"))?;
        let name = self.config.stream.clone();
        let state = stream::state(&self.cx.client, &name).await?;
        let now = self.epoch(&state).await?;
        if now != epoch {
            tracing::info!(stream = name, %epoch, %now, "the stream has another history");
            return Ok(false);
        }
        self.look_back(epoch, &state).await?;
        let floor = StreamSeq::new(info.ack_floor.stream_sequence);
        self.tell(&info);
        if self.failed.is_some_and(|failed| failed <= (epoch, floor)) {
            self.failed = None;
        }
        let behind = self
            .noted
            .is_some_and(|noted| noted.epoch == epoch && noted.floor >= floor);
        if behind || floor == StreamSeq::ZERO {
            if self.asked.elapsed() >= ASK {
                self.ask().await?;
            }
            return Ok(true);
        }
        let at = stream::message_at(&self.cx.client, &name, floor).await?;
        let at = at.map_or(UnixNanos::EPOCH, |stored| stored.time);
        self.config.store.advance(&name, epoch, floor, at).await?;
        self.noted = Some(Recorded { epoch, floor, at });
        self.asked = Instant::now();
        self.tell(&info);
        self.metrics
            .floor
            .set(i64::try_from(floor.get()).unwrap_or(i64::MAX));
        debug!(floor = floor.get(), "progress");
        Ok(true)
    }
}
