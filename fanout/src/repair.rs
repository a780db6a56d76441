//! What is older than the ring, read from the broker: pages of one topic, or of a whole stream, shared by
//! whoever needs them, bounded in number, bytes and requests.
//!
//! While the broker looks for the next message of a topic, whoever publishes to the stream waits. So whoever
//! lacks many topics, or little of each, or would keep others waiting, reads the stream as it is, in pages
//! that everybody else reads too.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use bus::api::ApiError;
use bus::get::{Following, Found, following};
use bytes::Bytes;
use moka::future::Cache;
use prometheus_client::metrics::gauge::Gauge;
use rustc_hash::FxHashMap;
use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use tokio::sync::Semaphore;

use crate::metrics::Metrics;
use crate::store::{Message, StreamNo, TopicId, TopicInfo};

/// Messages, and bytes, of one topic per request.
const OF_TOPIC: (usize, u64) = (256, 262_144);
/// The same, of all topics of a stream.
const OF_STREAM: (usize, u64) = (1_024, 1_048_576);
/// Requests of this replica that may be under way at once: the broker answers those of a connection one by
/// one, and nothing else of it meanwhile, so that more would only lie there until they are too late.
const REQUESTS: usize = 2;
/// Bytes of pages that are kept for others who come back.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// How long a page is kept: clients that lost the same replica come back together.
const CACHE_AGE: Duration = Duration::from_secs(5);
/// What a page costs beyond its payloads, per message.
const OVERHEAD: usize = 128;

/// A part of the history of a topic, or of all topics of a stream, without a hole.
#[derive(Debug)]
pub(crate) struct Page {
    /// The position behind which it begins.
    pub(crate) after: StreamSeq,
    /// Retention has removed whatever there was up to here.
    pub(crate) trimmed: Option<StreamSeq>,
    /// By subject, in order.
    messages: FxHashMap<String, Vec<Old>>,
    /// There is nothing up to here that is neither trimmed nor in this page.
    pub(crate) end: StreamSeq,
}

#[derive(Debug)]
struct Old {
    seq: StreamSeq,
    prev: StreamSeq,
    time: UnixNanos,
    payload: Bytes,
}

impl Page {
    /// Makes a page of what was found, in order; `is_full` if as much was found as was asked for.
    ///
    /// A full page ends at the roundest number within it, so that clients who came back to
    /// different positions ask for the same pages from then on.
    pub(crate) fn new(
        after: StreamSeq,
        trimmed: Option<StreamSeq>,
        mut found: Vec<Found>,
        is_full: bool,
    ) -> Self {
        let begin = after.max(trimmed.unwrap_or_default());
        found.retain(|found| found.seq > begin);
        let mut end = found.last().map_or(begin, |last| last.seq);
        if let Some(first) = found.first().filter(|first| is_full && first.seq < end) {
            end = roundest(first.seq, end);
        }
        let mut messages: FxHashMap<String, Vec<Old>> = FxHashMap::default();
        for found in found.into_iter().take_while(|found| found.seq <= end) {
            let of_subject = messages.entry(found.subject).or_default();
            of_subject.push(Old {
                seq: found.seq,
                prev: of_subject.last().map_or(begin, |before| before.seq),
                time: found.time,
                // Not a part of the broker's answer, which it would keep in memory.
                payload: Bytes::copy_from_slice(&found.payload),
            });
        }
        Self {
            after,
            trimmed,
            messages,
            end,
        }
    }

    /// The first message of a topic behind a position.
    pub(crate) fn next(&self, topic: &Arc<TopicInfo>, pos: StreamSeq) -> Option<Message> {
        let of_topic = self.messages.get(&*topic.subject)?;
        let at = of_topic.partition_point(|old| old.seq <= pos);
        let old = of_topic.get(at)?;
        Some(Message {
            topic: Arc::clone(topic),
            seq: old.seq,
            prev: old.prev,
            time: old.time,
            payload: old.payload.clone(),
        })
    }

    /// Whether it has anything to say of a topic to whoever has everything up to a position.
    pub(crate) fn concerns(&self, topic: &TopicInfo, pos: StreamSeq) -> bool {
        let last = self
            .messages
            .get(&*topic.subject)
            .and_then(|old| old.last());
        self.trimmed.is_some_and(|trimmed| pos < trimmed) || last.is_some_and(|old| pos < old.seq)
    }

    fn cost(&self) -> usize {
        let of_topic = |(subject, old): (&String, &Vec<Old>)| {
            let payloads = old.iter().map(|old| old.payload.len());
            subject.len() + payloads.sum::<usize>() + (old.len() + 1) * OVERHEAD
        };
        self.messages.iter().map(of_topic).sum::<usize>() + OVERHEAD
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

/// What a page is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// A topic.
    Topic(TopicId),
    /// All topics of a stream.
    Stream(StreamNo),
}

impl Scope {
    /// The stream that is read.
    pub(crate) fn stream(self) -> StreamNo {
        match self {
            Self::Topic(topic) => topic.stream(),
            Self::Stream(stream) => stream,
        }
    }
}

/// Which page.
type Key = (Epoch, Scope, StreamSeq);

/// Reads pages.
pub(crate) struct Repairs {
    client: Client,
    stream: String,
    pages: Cache<Key, Arc<Page>>,
    requests: Arc<Semaphore>,
    metrics: Metrics,
}

/// One that waits until it may be asked for, counted as long as this lives.
struct Waiting<'a>(&'a Gauge);

impl<'a> Waiting<'a> {
    fn among(all: &'a Gauge) -> Self {
        all.inc();
        Self(all)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
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
    pub(crate) async fn of_topic(
        &self,
        epoch: Epoch,
        topic: &TopicInfo,
        after: StreamSeq,
    ) -> Result<Arc<Page>, RepairError> {
        let key = (epoch, Scope::Topic(topic.id), after);
        self.page(key, &topic.subject, OF_TOPIC).await
    }

    /// Reads what follows a position of a stream that is known to have something there: the page begins
    /// there or before.
    ///
    /// # Errors
    ///
    /// [`RepairError`]; the same may succeed later.
    pub(crate) async fn of_stream(
        &self,
        epoch: Epoch,
        stream: StreamNo,
        after: StreamSeq,
    ) -> Result<Arc<Page>, RepairError> {
        let whole = |after| self.page((epoch, Scope::Stream(stream), after), ">", OF_STREAM);
        let (size, _) = OF_STREAM;
        let size = u64::try_from(size).unwrap_or(u64::MAX);
        let page = whole(StreamSeq::new(after.get() / size * size)).await?;
        if page.end > after {
            return Ok(page);
        }
        // There was no more then, or no more room in it: what follows has a page of its own.
        whole(after).await
    }

    async fn page(
        &self,
        key: Key,
        subject: &str,
        most: (usize, u64),
    ) -> Result<Arc<Page>, RepairError> {
        let (.., after) = key;
        let page = self
            .pages
            .try_get_with(key, self.read(subject, after, most));
        page.await.map_err(|error| (*error).clone())
    }

    async fn read(
        &self,
        subject: &str,
        after: StreamSeq,
        most: (usize, u64),
    ) -> Result<Arc<Page>, RepairError> {
        let waiting = Waiting::among(&self.metrics.waiting_repairs);
        let permit = self.requests.acquire().await;
        let _permit = permit.map_err(|_| RepairError::Ending)?;
        drop(waiting);
        self.metrics.repair_requests.inc();
        let answer = following(&self.client, &self.stream, subject, after, most).await;
        let Following { trimmed, found } =
            answer.map_err(|error| RepairError::Broker(Arc::new(error)))?;
        let (limit, _) = most;
        let is_full = found.len() >= limit;
        let page = Page::new(after, trimmed, found, is_full);
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
