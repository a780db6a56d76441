//! What is older than the ring, read from the broker: pages of one topic, shared by whoever needs
//! them, bounded in number, bytes and requests.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use bus::api::ApiError;
use bus::get::{Following, following};
use moka::future::Cache;
use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use tokio::sync::Semaphore;

use crate::metrics::Metrics;
use crate::store::{Message, TopicId, TopicInfo};

/// Messages per request.
const LIMIT: usize = 256;
/// Requests of this replica that may be under way at once.
const REQUESTS: usize = 64;
/// Bytes of pages that are kept for others who come back.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// How long a page is kept: clients that lost the same replica come back together.
const CACHE_AGE: Duration = Duration::from_secs(5);
/// What a page costs beyond its payloads, per message.
const OVERHEAD: usize = 128;

/// A part of a topic's history, without a hole.
#[derive(Debug)]
pub(crate) struct Page {
    /// Retention has removed whatever there was up to here.
    pub(crate) trimmed: Option<StreamSeq>,
    /// In order.
    messages: Vec<Arc<Message>>,
    /// The topic has nothing up to here that is neither trimmed nor in this page.
    pub(crate) end: StreamSeq,
}

impl Page {
    /// Makes a page of what was found; `is_full` if there was more than was asked for.
    ///
    /// A full page ends at the roundest number within it, so that clients who came back to
    /// different positions ask for the same pages from then on.
    pub(crate) fn new(
        topic: &Arc<TopicInfo>,
        after: StreamSeq,
        trimmed: Option<StreamSeq>,
        found: impl IntoIterator<Item = (StreamSeq, UnixNanos, bytes::Bytes)>,
        is_full: bool,
    ) -> Self {
        let mut prev = after.max(trimmed.unwrap_or_default());
        let mut messages = Vec::new();
        for (seq, time, payload) in found {
            if seq <= prev {
                continue;
            }
            messages.push(Arc::new(Message {
                topic: Arc::clone(topic),
                seq,
                prev,
                time,
                payload,
            }));
            prev = seq;
        }
        let ends = messages.first().zip(messages.last());
        let mut end = prev;
        if let Some((first, last)) = ends.filter(|(first, last)| is_full && first.seq < last.seq) {
            end = roundest(first.seq, last.seq);
        }
        messages.retain(|message| message.seq <= end);
        Self {
            trimmed,
            messages,
            end,
        }
    }

    /// The first message behind a position.
    pub(crate) fn next(&self, pos: StreamSeq) -> Option<&Arc<Message>> {
        let at = self.messages.partition_point(|message| message.seq <= pos);
        self.messages.get(at)
    }

    fn cost(&self) -> usize {
        let payloads = self.messages.iter().map(|message| message.payload.len());
        payloads.sum::<usize>() + (self.messages.len() + 1) * OVERHEAD
    }
}

/// The number with the most trailing zero bits above `low`, up to `high`.
const fn roundest(low: StreamSeq, high: StreamSeq) -> StreamSeq {
    let differing = low.get() ^ high.get();
    let bits = u64::BITS - 1 - (differing | 1).leading_zeros();
    StreamSeq::new(high.get() >> bits << bits)
}

/// Why there is no page.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum RepairError {
    /// The broker did not answer as it should.
    #[error("the broker cannot be asked: {0}")]
    Broker(Arc<ApiError>),
    /// The replica of the stream that answered has less than is known to be there.
    #[error("a lagging replica answered")]
    Lagging,
    /// The replica is ending.
    #[error("nothing is asked any more")]
    Ending,
}

/// Which page.
type Key = (Epoch, TopicId, StreamSeq);

/// Reads pages.
pub(crate) struct Repairs {
    client: Client,
    stream: String,
    pages: Cache<Key, Arc<Page>>,
    requests: Arc<Semaphore>,
    metrics: Metrics,
}

impl Repairs {
    /// Of each stream; the bounds are for all of them together.
    pub(crate) fn all(client: &Client, streams: &[String], metrics: &Metrics) -> Arc<[Self]> {
        let first = Self::new(client.clone(), "", metrics.clone());
        let of = |stream: &String| Self {
            client: client.clone(),
            stream: stream.clone(),
            pages: first.pages.clone(),
            requests: Arc::clone(&first.requests),
            metrics: metrics.clone(),
        };
        streams.iter().map(of).collect()
    }

    fn new(client: Client, stream: &str, metrics: Metrics) -> Self {
        let cost = |_: &Key, page: &Arc<Page>| u32::try_from(page.cost()).unwrap_or(u32::MAX);
        Self {
            client,
            stream: stream.to_owned(),
            pages: Cache::builder()
                .max_capacity(CACHE_BYTES)
                .weigher(cost)
                .time_to_live(CACHE_AGE)
                .build(),
            requests: Arc::new(Semaphore::new(REQUESTS)),
            metrics,
        }
    }

    /// Reads what follows a position of a topic that is known to have something there.
    ///
    /// # Errors
    ///
    /// [`RepairError`]; the same may succeed later.
    pub(crate) async fn page(
        &self,
        epoch: Epoch,
        topic: &Arc<TopicInfo>,
        after: StreamSeq,
    ) -> Result<Arc<Page>, RepairError> {
        let page = self
            .pages
            .try_get_with((epoch, topic.id, after), self.read(topic, after));
        page.await.map_err(|error| (*error).clone())
    }

    async fn read(
        &self,
        topic: &Arc<TopicInfo>,
        after: StreamSeq,
    ) -> Result<Arc<Page>, RepairError> {
        let _permit = self
            .requests
            .acquire()
            .await
            .map_err(|_| RepairError::Ending)?;
        self.metrics.repair_requests.inc();
        let answer = following(&self.client, &self.stream, &topic.subject, after, LIMIT).await;
        let Following { trimmed, found } =
            answer.map_err(|error| RepairError::Broker(Arc::new(error)))?;
        let is_full = found.len() >= LIMIT;
        let found = found
            .into_iter()
            .map(|found| (found.seq, found.time, found.payload));
        let page = Page::new(topic, after, trimmed, found, is_full);
        if page.end == after {
            return Err(RepairError::Lagging);
        }
        Ok(Arc::new(page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Repairs {
        /// For replicas whose ring has everything: nobody is asked.
        pub(crate) async fn nowhere(stream: &str, metrics: Metrics) -> Self {
            let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
            let client = options.connect("127.0.0.1:9").await.unwrap();
            Self::new(client, stream, metrics)
        }
    }

    #[test]
    fn a_full_page_ends_at_a_round_number() {
        let cases = [
            (1, 2, 2),
            (100, 356, 256),
            (120, 376, 256),
            (257, 300, 288),
            (5, 7, 6),
            (4, 7, 6),
            (7, 8, 8),
        ];
        for (low, high, expected) in cases {
            let end = roundest(StreamSeq::new(low), StreamSeq::new(high));
            assert_eq!(end, StreamSeq::new(expected), "{low} {high}");
        }
    }
}
