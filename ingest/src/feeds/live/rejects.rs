//! What venues send and ingest refuses: counted, and logged at a bearable rate.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::feed::Reject;
use crate::metrics::FeedMetrics;

/// Counts what is refused, and logs it at a bearable rate.
#[derive(Clone)]
pub struct Rejects {
    feed: String,
    metrics: FeedMetrics,
    logged: Option<Instant>,
    silent: u64,
}

impl Rejects {
    /// Of the feed with this name.
    pub fn new(feed: &str, metrics: FeedMetrics) -> Self {
        Self {
            feed: feed.to_owned(),
            metrics,
            logged: None,
            silent: 0,
        }
    }

    /// Counts one, and logs it unless another one was logged within the last second.
    pub fn note(&mut self, reject: &Reject) {
        self.metrics.rejected(&self.feed, reject.reason);
        if self
            .logged
            .is_some_and(|at| at.elapsed() < Duration::from_secs(1))
        {
            self.silent += 1;
            return;
        }
        let unlogged = std::mem::take(&mut self.silent);
        warn!(
            feed = self.feed,
            reason = reject.reason.as_str(),
            unlogged,
            "rejected: {reject}"
        );
        self.logged = Some(Instant::now());
    }

    /// Counts a connection.
    pub(super) fn connected(&self) {
        self.metrics.session(&self.feed);
    }

    /// The feed's name.
    pub(super) fn feed(&self) -> &str {
        &self.feed
    }
}
