//! What operators see of a replica: each shard reports once a second, `/stats` adds it up.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::metrics::Metrics;
use crate::store::{Known, Store};

/// How often a shard reports.
pub(crate) const EVERY: Duration = Duration::from_secs(1);
/// How many topics are listed.
const TOP: usize = 20;
/// One of so many writes is timed.
const SAMPLE: u64 = 16;

/// What a shard has written. It lives on the shard's thread, so that counting costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Written {
    messages: Cell<u64>,
    bytes: Cell<u64>,
    writes: Cell<u64>,
}

impl Written {
    /// Counts messages that were put into a write.
    pub(crate) fn messages(&self, count: usize) {
        add(&self.messages, count);
    }

    /// Counts a write.
    pub(crate) fn write(&self, bytes: usize) {
        add(&self.writes, 1);
        add(&self.bytes, bytes);
    }

    /// Whether the next write is one of those that are timed.
    pub(crate) fn is_sampled(&self) -> bool {
        self.writes.get().is_multiple_of(SAMPLE)
    }

    const fn total(&self) -> Flow {
        Flow {
            messages: self.messages.get(),
            bytes: self.bytes.get(),
            writes: self.writes.get(),
        }
    }
}

fn add(count: &Cell<u64>, more: usize) {
    let more = u64::try_from(more).unwrap_or(u64::MAX);
    count.set(count.get().saturating_add(more));
}

/// What was written: in all, or per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Flow {
    messages: u64,
    bytes: u64,
    writes: u64,
}

impl Flow {
    /// What came to it, per second.
    fn rate(self, before: Self, over: Duration) -> Self {
        let millis = over.as_millis().max(1);
        let rate = |now: u64, before: u64| {
            let per_second = u128::from(now.saturating_sub(before)) * 1_000 / millis;
            u64::try_from(per_second).unwrap_or(u64::MAX)
        };
        Self {
            messages: rate(self.messages, before.messages),
            bytes: rate(self.bytes, before.bytes),
            writes: rate(self.writes, before.writes),
        }
    }

    const fn and(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_add(other.messages),
            bytes: self.bytes.saturating_add(other.bytes),
            writes: self.writes.saturating_add(other.writes),
        }
    }

    fn show(self) -> Value {
        json!({ "messages": self.messages, "bytes": self.bytes, "writes": self.writes })
    }
}

/// What the connections of a shard add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    /// Those that read events.
    pub(crate) sse: usize,
    /// Those that use more than half of what they may fall behind.
    pub(crate) slow: usize,
    /// Unsent answers and live messages.
    pub(crate) queued_bytes: usize,
}

impl Load {
    const fn and(self, other: Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            sse: self.sse + other.sse,
            slow: self.slow + other.slow,
            queued_bytes: self.queued_bytes + other.queued_bytes,
        }
    }
}

/// How a shard was doing when it last looked.
#[derive(Debug, Default)]
struct Report {
    load: Load,
    /// Messages that were read from the stream and not dispatched yet.
    behind: u64,
    /// How long live messages are held back.
    held_back: Duration,
    per_second: Flow,
    /// By stream, and there by topic in order of birth.
    subscribers: Vec<Vec<u32>>,
}

impl Report {
    fn show(&self) -> Value {
        let mut shown = show(self.load, self.per_second);
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("behind".to_owned(), self.behind.into());
            let millis = self.held_back.as_secs_f64() * 1_000.0;
            fields.insert("held_back_ms".to_owned(), millis.into());
        }
        shown
    }
}

fn show(load: Load, per_second: Flow) -> Value {
    json!({
        "connections": load.connections,
        "sse": load.sse,
        "slow": load.slow,
        "queued_bytes": load.queued_bytes,
        "per_second": per_second.show(),
    })
}

/// Where shards report. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board(Arc<Mutex<Vec<Arc<Mutex<Report>>>>>);

/// Where one shard reports.
#[derive(Debug)]
pub(crate) struct Reporter {
    report: Arc<Mutex<Report>>,
    metrics: Metrics,
    at: Instant,
    before: Flow,
    load: Load,
}

impl Reporter {
    /// Reports; `count` writes down how many subscribers each topic of each stream has.
    pub(crate) fn report(
        &mut self,
        now: Instant,
        written: &Written,
        (load, behind, held_back): (Load, u64, Duration),
        count: impl FnOnce(&mut Vec<Vec<u32>>),
    ) {
        let total = written.total();
        let over = now.saturating_duration_since(self.at);
        let per_second = total.rate(self.before, over);
        self.metrics.loaded(self.load, load);
        (self.at, self.before, self.load) = (now, total, load);
        let mut report = lock(&self.report);
        (report.load, report.per_second) = (load, per_second);
        (report.behind, report.held_back) = (behind, held_back);
        count(&mut report.subscribers);
    }
}

impl Board {
    /// A place for one more shard.
    pub(crate) fn open(&self, metrics: Metrics, now: Instant) -> Reporter {
        let report = Arc::new(Mutex::new(Report::default()));
        lock(&self.0).push(Arc::clone(&report));
        Reporter {
            report,
            metrics,
            at: now,
            before: Flow::default(),
            load: Load::default(),
        }
    }

    /// What `/stats` shows; of one topic more, if it is asked for.
    pub(crate) fn show(
        &self,
        stores: &[Arc<Store>],
        metrics: &Metrics,
        asked: &BTreeMap<String, String>,
    ) -> Value {
        let (mut load, mut flow) = (Load::default(), Flow::default());
        let (mut shards, mut subscribers) = (Vec::new(), Vec::new());
        for report in lock(&self.0).iter() {
            let report = lock(report);
            (load, flow) = (load.and(report.load), flow.and(report.per_second));
            shards.push(report.show());
            sum(&mut subscribers, &report.subscribers);
        }
        subscribers.resize_with(stores.len(), Vec::new);
        let known: Vec<_> = stores.iter().map(|store| store.read()).collect();
        let parts: Vec<Part<'_>> = known.iter().map(|of| &**of).zip(&subscribers).collect();
        let mut shown = show(load, flow);
        let topic = asked.get("topic").map(|text| one(&parts, text));
        let more = json!({
            "streams": known.iter().map(|known| stream(known)).collect::<Vec<_>>(),
            "connections": metrics.connections.get(),
            "delivered": metrics.delivered.get(),
            "top": top(&parts),
            "topic": topic,
            "shards": shards,
        });
        if let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) {
            shown.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
        }
        shown
    }
}

/// A stream, and how many subscribers each of its topics has.
type Part<'a> = (&'a Known, &'a Vec<u32>);

/// How far a stream is read, and what is held of it.
fn stream(known: &Known) -> Value {
    let (messages, bytes) = known.ring_load();
    json!({
        "stream": &*known.stream,
        "epoch": known.epoch,
        "head": known.head,
        "topics": known.topic_count(),
        "ring": { "messages": messages, "bytes": bytes },
        "stale": known.stale,
    })
}

/// Adds counts by stream and topic.
fn sum(all: &mut Vec<Vec<u32>>, more: &[Vec<u32>]) {
    all.resize_with(all.len().max(more.len()), Vec::new);
    for (all, more) in all.iter_mut().zip(more) {
        all.resize(all.len().max(more.len()), 0);
        for (all, more) in all.iter_mut().zip(more) {
            *all = all.saturating_add(*more);
        }
    }
}

/// The topics that most connections receive, most first.
fn top(parts: &[Part<'_>]) -> Value {
    let counts = parts
        .iter()
        .enumerate()
        .flat_map(|(stream, (_, subscribers))| {
            let counts = subscribers.iter().copied().enumerate();
            counts.map(move |(topic, count)| (stream, topic, count))
        });
    let mut counts: Vec<_> = counts.filter(|(.., count)| *count > 0).collect();
    let rank =
        |(stream, topic, count): &(usize, usize, u32)| (std::cmp::Reverse(*count), *stream, *topic);
    if counts.len() > TOP {
        counts.select_nth_unstable_by_key(TOP, rank);
        counts.truncate(TOP);
    }
    counts.sort_unstable_by_key(rank);
    let items = counts.into_iter().filter_map(|(stream, topic, count)| {
        let info = parts.get(stream)?.0.topics().nth(topic)?;
        Some(json!({ "topic": info.text, "subscribers": count }))
    });
    items.collect()
}

/// What is known of one topic.
fn one(parts: &[Part<'_>], text: &str) -> Value {
    let found = parts
        .iter()
        .find_map(|part| part.0.topic(text).map(|info| (part, info)));
    let Some(((known, subscribers), info)) = found else {
        return json!({ "topic": text, "known": false });
    };
    let last = known.last(info.id);
    json!({
        "topic": text,
        "known": true,
        "stream": &*known.stream,
        "subscribers": subscribers.get(info.id.index()).copied().unwrap_or(0),
        "last": last.map(|last| last.seq),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;
    use schemas::position::{Epoch, StreamSeq};
    use schemas::time::UnixNanos;

    use super::*;
    use crate::store::StreamNo;

    fn store(topics: u64) -> Arc<Store> {
        let store = Arc::new(Store::new("TICKS", StreamNo::FIRST, 1 << 20));
        let epoch = Epoch::new(UnixNanos::new(1), 0);
        let mut known = store.write();
        known.begin(epoch, StreamSeq::new(1), StreamSeq::ZERO);
        for number in 0..topics {
            let (subject, seq) = (
                format!("tick.trade.x.S{number}"),
                StreamSeq::new(number + 1),
            );
            known.apply(&subject, seq, UnixNanos::new(1), b"\x80");
        }
        drop(known);
        store
    }

    #[test]
    fn shards_add_up() {
        let (stores, mut registry) = ([store(3)], Registry::default());
        let metrics = Metrics::new(&mut registry);
        let (board, begin) = (Board::default(), Instant::now());
        let load = Load {
            connections: 2,
            sse: 1,
            slow: 1,
            queued_bytes: 700,
        };
        for shard in 0..2 {
            let mut reporter = board.open(metrics.clone(), begin);
            let written = Written::default();
            let counts = [5, shard, 0];
            written.messages(100);
            written.write(5_000);
            let half = begin + Duration::from_millis(500);
            reporter.report(half, &written, (Load::default(), 9, Duration::ZERO), |_| ());
            written.messages(60);
            written.write(1_000);
            written.write(2_000);
            let end = half + Duration::from_secs(2);
            let state = (load, 7, Duration::from_micros(2_500));
            reporter.report(end, &written, state, |out| out.push(counts.into()));
        }
        let asked = BTreeMap::from([("topic".to_owned(), "trade.x.S1".to_owned())]);
        let shown = board.show(&stores, &metrics, &asked);
        let per_second = json!({ "messages": 60, "bytes": 3_000, "writes": 2 });
        assert_eq!(shown["per_second"], per_second);
        assert_eq!((&shown["sse"], &shown["slow"]), (&json!(2), &json!(2)));
        assert_eq!(shown["queued_bytes"], 1_400);
        let top = json!([
            { "topic": "trade.x.S0", "subscribers": 10 },
            { "topic": "trade.x.S1", "subscribers": 1 },
        ]);
        assert_eq!(shown["top"], top);
        let topic = json!({
            "topic": "trade.x.S1", "known": true, "stream": "TICKS", "subscribers": 1, "last": 2,
        });
        assert_eq!(shown["topic"], topic);
        let shards = shown["shards"].as_array().unwrap();
        assert_eq!((shards.len(), &shards[1]["behind"]), (2, &json!(7)));
        assert_eq!(shards[0]["held_back_ms"], 2.5);
        let nobody = BTreeMap::from([("topic".to_owned(), "trade.x.S9".to_owned())]);
        let shown = board.show(&stores, &metrics, &nobody);
        assert_eq!(shown["topic"]["known"], false);
        assert_eq!(
            board.show(&stores, &metrics, &BTreeMap::new()).get("topic"),
            None
        );
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(
            text.contains("tickwire_fanout_queued_bytes 1400\n"),
            "{text}"
        );
        assert!(text.contains("tickwire_fanout_slow_clients 2\n"), "{text}");
    }

    #[test]
    fn the_list_of_topics_is_bounded_and_has_the_most_wanted() {
        let store = store(1_000);
        let counts: Vec<u32> = (0..1_000).map(|number| number * 7 % 1_000).collect();
        let shown = top(&[(&store.read(), &counts)]);
        let items = shown.as_array().unwrap();
        let found: Vec<u64> = items
            .iter()
            .map(|item| item["subscribers"].as_u64().unwrap())
            .collect();
        assert_eq!(found, (980..1_000).rev().collect::<Vec<u64>>());
        assert_eq!(items[0]["topic"], "trade.x.S857");
    }
}
