//! Keeps history from growing without end: what was recorded long ago is deleted, between
//! transactions.

use std::time::Duration;

use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use tracing::{info, warn};

use super::metrics::Metrics;
use crate::store::{Series, StoreError, TickStore};

/// How often there is something to delete.
const EVERY: Duration = Duration::from_hours(1);
/// The most rows deleted between two transactions: more than one stores, so that recording at full
/// speed does not outgrow it.
const ROWS: u64 = 4_000;

/// One way through all series.
#[derive(Debug)]
struct Way {
    until: Vec<(Epoch, StreamSeq)>,
    behind: Option<Series>,
    rows: u64,
}

/// Deletes what was recorded longer ago than `keep`.
#[derive(Debug)]
pub(super) struct Sweeper {
    keep: Option<Duration>,
    metrics: Metrics,
    begun: Option<UnixNanos>,
    way: Option<Way>,
}

impl Sweeper {
    /// A sweeper that keeps everything if there is no `keep`.
    pub(super) fn new(keep: Option<Duration>, metrics: Metrics) -> Self {
        Self {
            keep,
            metrics,
            begun: None,
            way: None,
        }
    }

    /// Deletes a little if there is anything to delete. Trouble puts it off: recording goes on.
    pub(super) async fn step(&mut self, store: &impl TickStore, stream: &str, now: UnixNanos) {
        let Some(keep) = self.keep else { return };
        if let Err(problem) = self.try_step(store, stream, (now, keep)).await {
            self.metrics.delete_failures.inc();
            self.way = None;
            warn!(%problem, "old history is not deleted now");
        }
    }

    async fn try_step(
        &mut self,
        store: &impl TickStore,
        stream: &str,
        (now, keep): (UnixNanos, Duration),
    ) -> Result<(), StoreError> {
        let Some(way) = &mut self.way else {
            // A clock that was set back does not put it off.
            let due = |begun| now.since(begun) >= EVERY || now < begun;
            if self.begun.is_none_or(due) {
                self.begun = Some(now);
                let keep = i64::try_from(keep.as_nanos()).unwrap_or(i64::MAX);
                let until = store.stood(stream, now, now.offset(-keep)).await?;
                let way = Way {
                    until,
                    behind: None,
                    rows: 0,
                };
                self.way = Some(way).filter(|way| !way.until.is_empty());
            }
            return Ok(());
        };
        let swept = store.sweep(&way.until, way.behind.take(), ROWS).await?;
        self.metrics.deleted.inc_by(swept.rows);
        way.rows += swept.rows;
        way.behind = swept.behind;
        if !swept.done {
            return Ok(());
        }
        if way.rows > 0 {
            let days = keep.as_secs() / 86_400;
            info!(rows = way.rows, days, "deleted what was recorded long ago");
        }
        self.way = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
