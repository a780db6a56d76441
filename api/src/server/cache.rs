//! Answers that are kept for a moment, so that any number of equal requests asks the database once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;

use super::answer::{Format, Written};
use super::metrics::Metrics;
use super::problem::Problem;

/// How long an answer is kept that may be different the next moment.
const OPEN: Duration = Duration::from_millis(100);
/// How long an answer is kept that only changes any more by what comes late.
const CLOSED: Duration = Duration::from_secs(3);
/// What an answer takes besides its body, in bytes.
const BESIDES: usize = 512;

/// Which answer: equal requests have equal keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The path.
    pub(super) path: Arc<str>,
    /// The query, its parameters in order.
    pub(super) query: String,
    /// The form.
    pub(super) format: Format,
}

struct Age;

impl Expiry<Key, Arc<Written>> for Age {
    fn expire_after_create(&self, _: &Key, answer: &Arc<Written>, _: Instant) -> Option<Duration> {
        Some(if answer.is_closed { CLOSED } else { OPEN })
    }
}

/// The answers that are kept.
pub(super) struct Answers {
    cache: Cache<Key, Arc<Written>>,
    metrics: Metrics,
}

impl Answers {
    /// Keeps answers of so many bytes.
    pub(super) fn new(bytes: u64, metrics: Metrics) -> Self {
        let weigh = |key: &Key, answer: &Arc<Written>| {
            let bytes = answer.size() + key.query.len() + BESIDES;
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder()
            .max_capacity(bytes)
            .weigher(weigh)
            .expire_after(Age)
            .build();
        Self { cache, metrics }
    }

    /// The answer to a request; of all who ask for the same meanwhile one makes it. A refusal is told
    /// to those who waited for it, and not kept.
    ///
    /// # Errors
    ///
    /// Whatever making it says.
    pub(super) async fn get(
        &self,
        key: Key,
        make: impl Future<Output = Result<Written, Problem>>,
    ) -> Result<Arc<Written>, Problem> {
        let missed = AtomicBool::new(false);
        let making = async {
            missed.store(true, Ordering::Relaxed);
            make.await.map(Arc::new)
        };
        let answer = self.cache.try_get_with(key, making).await;
        if missed.load(Ordering::Relaxed) {
            self.metrics.cache_misses.inc();
        } else {
            self.metrics.cache_hits.inc();
        }
        let bytes = i64::try_from(self.cache.weighted_size()).unwrap_or(i64::MAX);
        self.metrics.cache_bytes.set(bytes);
        answer.map_err(|problem| Problem::clone(&problem))
    }
}
