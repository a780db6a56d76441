//! Publishes at appointed times, whatever happened before: a late tick counts as late.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use async_nats::{Client, Subject};
use bytes::Bytes;
use schemas::codec;
use schemas::time::{Clock, SystemClock, UnixNanos};
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::ticks::{self, Maker};
use super::zipf::Zipf;
use crate::bench::ground::STREAM;

/// The shortest pause: at high rates several ticks leave together, so that pauses do not eat the
/// processor that everybody else needs.
const LEAST_PAUSE: Duration = Duration::from_micros(300);
const SECOND: u128 = 1_000_000_000;
/// How long the broker may take to store what it was given, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);
/// How many messages a broker surely takes in without having stored any.
const AT_ONCE: u64 = 2_000;

/// Where ticks are published.
#[derive(Clone, Debug)]
pub(super) enum Outlet {
    /// A broker that stores them: in MessagePack, as ingest writes them.
    Stream(Client),
    /// A server that hands on what it gets: in JSON, as our clients receive them.
    Plain(Client),
}

impl Outlet {
    const fn client(&self) -> &Client {
        match self {
            Self::Stream(client) | Self::Plain(client) => client,
        }
    }

    fn form(&self, tick: Bytes) -> Result<Bytes> {
        match self {
            Self::Stream(_) => Ok(tick),
            Self::Plain(_) => {
                let mut json = Vec::with_capacity(tick.len() * 2);
                codec::transcode(&tick, &mut json)?;
                Ok(json.into())
            }
        }
    }

    /// How many messages are stored; none is where nothing is.
    async fn stored(&self) -> Result<Option<u64>> {
        match self {
            Self::Stream(client) => {
                let state = bus::stream::state(client, STREAM).await?;
                Ok(Some(state.last_seq.get()))
            }
            Self::Plain(_) => Ok(None),
        }
    }

    /// Publishes a tick of each of these topics, in this order; returns once the broker has them.
    ///
    /// # Errors
    ///
    /// The broker is gone, or did not store all of them.
    pub(super) async fn fill(&self, topics: impl IntoIterator<Item = usize>) -> Result<()> {
        let mut maker = Maker::new();
        let mut stored = self.stored().await?.unwrap_or_default();
        for topic in topics {
            let tick = self.form(maker.tick(topic, SystemClock.now())?)?;
            self.client().publish(ticks::subject(topic), tick).await?;
            stored += 1;
            if stored.is_multiple_of(AT_ONCE) {
                self.settle(stored).await?;
            }
        }
        self.settle(stored).await
    }

    /// Waits until the broker has so many messages.
    async fn settle(&self, count: u64) -> Result<()> {
        self.client().flush().await?;
        let deadline = Instant::now() + PATIENCE;
        // Nobody else writes this stream, and nothing tells a publisher of what is not stored.
        while let Some(stored) = self.stored().await?
            && stored < count
        {
            if Instant::now() > deadline {
                bail!("the broker stored {stored} of {count} ticks: its log says why");
            }
            sleep(LOOK).await;
        }
        Ok(())
    }
}

/// When ticks are to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    pub(super) start: UnixNanos,
    /// Ticks per second.
    pub(super) rate: u32,
    pub(super) count: u64,
}

impl Schedule {
    /// So many seconds at a rate.
    pub(super) fn new(start: UnixNanos, rate: u32, span: Duration) -> Self {
        let count = u128::from(rate) * span.as_nanos() / SECOND;
        Self {
            start,
            rate,
            count: u64::try_from(count).unwrap_or(u64::MAX),
        }
    }

    /// When the tick of this number is due.
    pub(super) fn due(&self, number: u64) -> UnixNanos {
        let after = u128::from(number) * SECOND / u128::from(self.rate.max(1));
        self.start.offset(i64::try_from(after).unwrap_or(i64::MAX))
    }
}

/// What was published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Published {
    /// Ticks, by topic.
    pub(super) by_topic: Vec<u64>,
    /// Bytes of all payloads.
    pub(super) bytes: u64,
    /// How late the latest one left.
    pub(super) behind: Duration,
}

/// Publishes a schedule; blocks until the server has it all, and has stored it if it stores.
///
/// # Errors
///
/// The broker is gone, or did not store all of it.
pub(super) fn publish(
    outlet: &Outlet,
    runtime: &Handle,
    topics: usize,
    schedule: Schedule,
) -> Result<Published> {
    let subjects: Vec<Subject> = (0..topics).map(|n| ticks::subject(n).into()).collect();
    let (mut maker, mut zipf) = (Maker::new(), Zipf::new(topics));
    let mut published = Published {
        by_topic: vec![0; topics],
        bytes: 0,
        behind: Duration::ZERO,
    };
    let before = runtime.block_on(outlet.stored())?;
    for number in 0..schedule.count {
        let due = schedule.due(number);
        let wait = due.since(SystemClock.now());
        if !wait.is_zero() {
            thread::sleep(wait.max(LEAST_PAUSE));
        }
        let topic = zipf.draw();
        let payload = outlet.form(maker.tick(topic, due)?)?;
        published.bytes += u64::try_from(payload.len())?;
        let subject = subjects.get(topic).context("a topic")?.clone();
        published.behind = published.behind.max(SystemClock.now().since(due));
        runtime.block_on(outlet.client().publish(subject, payload))?;
        if let Some(count) = published.by_topic.get_mut(topic) {
            *count += 1;
        }
    }
    let all = before.unwrap_or_default().saturating_add(schedule.count);
    runtime.block_on(outlet.settle(all))?;
    Ok(published)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use schemas::time::UnixNanos;

    use super::Schedule;

    #[test]
    fn ticks_are_due_at_even_distances_from_the_start() {
        let start = UnixNanos::new(1_000);
        let schedule = Schedule::new(start, 3, Duration::from_secs(2));
        assert_eq!(schedule.count, 6);
        let due: Vec<i64> = (0..4).map(|number| schedule.due(number).get()).collect();
        assert_eq!(due, [1_000, 333_334_333, 666_667_666, 1_000_001_000]);
        let hour = Schedule::new(start, 4_000_000, Duration::from_hours(1));
        assert_eq!(hour.due(hour.count).since(start), Duration::from_hours(1));
    }
}
