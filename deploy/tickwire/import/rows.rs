//! Storing what a file holds and the database does not: batch after batch, each noted when it is
//! stored.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result};
use api::store::{Content, Range, Row, Series, TickStore};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ingest::backfill::{Backfill, Plan};
use schemas::codec;
use schemas::id::{Kind, Symbol, Venue};
use schemas::position::Epoch;
use schemas::tick::Tick;
use schemas::time::UnixNanos;
use tokio::sync::mpsc;

use super::note::patiently;
use super::place::{self, Identity};
use super::source::Source;

/// Rows that are read at a time.
const PAGE: u32 = 5_000;
/// What is looked for at the same time.
const AT_ONCE: usize = 4;
/// Times of a batch that lie further apart are looked for one by one, in nanoseconds.
const APART: i64 = 3_600_000_000_000;

/// Ticks of some lines.
pub(super) struct Batch {
    /// Each with its line.
    pub(super) ticks: Vec<(u64, Tick)>,
    /// The last line that it covers.
    pub(super) through: u64,
}

/// What came of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    /// Events that were not there.
    pub(super) new: u64,
    /// Events that were there.
    pub(super) known: u64,
}

/// Which lines are read, and how many ticks make a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Behind this line.
    pub(super) after: u64,
    /// Up to this one.
    pub(super) through: u64,
    /// Ticks of a batch.
    pub(super) batch: usize,
}

/// Reads a file, as far ahead as there is room for batches. What comes before the span is read as
/// well: what follows depends on it.
///
/// # Errors
///
/// The file cannot be read.
pub(super) fn read(
    source: &Source,
    plan: &Plan,
    span: Span,
    batches: &mpsc::Sender<Batch>,
) -> Result<()> {
    let mut backfill = Backfill::new(source.lines()?, plan)?;
    let mut ticks = Vec::new();
    let mut read = 0;
    while read < span.through {
        let entry = backfill.next_entry().with_context(|| source.unreadable())?;
        let entry = entry.with_context(|| format!("{} was cut off meanwhile", source.name))?;
        read = entry.line;
        if entry.line <= span.after {
            continue;
        }
        ticks.extend(entry.ticks.into_iter().map(|tick| (entry.line, tick)));
        if ticks.len() >= span.batch || read == span.through {
            let ticks = std::mem::take(&mut ticks);
            let through = read;
            if batches.blocking_send(Batch { ticks, through }).is_err() {
                // Nobody wants more.
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Events of one topic.
type Topic = (Kind, Venue, Symbol);
/// What makes an event of a topic the same as another one.
type Key = (UnixNanos, Identity);

/// A batch that is about to be stored.
#[derive(Default)]
struct Candidates {
    /// By the epoch that they are stored in.
    rows: BTreeMap<Epoch, Vec<Option<Row>>>,
    /// Where each event is.
    events: HashMap<Topic, HashMap<Key, (Epoch, usize)>>,
    /// Events that were in the batch before.
    repeated: u64,
}

impl Candidates {
    fn add(&mut self, tick: &Tick, (epoch, row): (Epoch, Row)) -> Result<()> {
        let rows = self.rows.entry(epoch).or_default();
        if let Content::Event {
            kind,
            venue,
            symbol,
            at,
        } = &row.content
        {
            let topic = (*kind, venue.clone(), symbol.clone());
            let key = (*at, Identity::of(tick)?);
            let events = self.events.entry(topic).or_default();
            if events.contains_key(&key) {
                self.repeated += 1;
                return Ok(());
            }
            events.insert(key, (epoch, rows.len()));
        }
        rows.push(Some(row));
        Ok(())
    }

    /// Leaves out an event.
    fn drop(&mut self, (epoch, index): (Epoch, usize)) {
        let rows = self.rows.get_mut(&epoch);
        if let Some(row) = rows.and_then(|rows| rows.get_mut(index)) {
            *row = None;
        }
    }
}

/// Stores what of a batch is not stored yet, by whomever it was.
///
/// # Errors
///
/// The database does not take it; it may have taken a part.
pub(super) async fn store<S: TickStore>(store: &S, batch: &Batch, file: Epoch) -> Result<Stored> {
    let mut candidates = Candidates::default();
    for (line, tick) in &batch.ticks {
        candidates.add(tick, row(tick, file, *line)?)?;
    }
    let spans = candidates.events.iter().flat_map(|(topic, events)| {
        let mut times: Vec<UnixNanos> = events.keys().map(|(at, _)| *at).collect();
        times.sort_unstable();
        let spans = spans(&times);
        spans.into_iter().map(move |span| (topic, events, span))
    });
    let known: Vec<Vec<(Epoch, usize)>> = stream::iter(spans)
        .map(|(topic, events, span)| Box::pin(known(store, topic, events, span)))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let events: usize = candidates.events.values().map(HashMap::len).sum();
    let mut stored = Stored {
        new: u64::try_from(events)?,
        known: candidates.repeated,
    };
    let mut known: Vec<(Epoch, usize)> = known.into_iter().flatten().collect();
    known.sort_unstable();
    // It may be there from a stream and from a file.
    known.dedup();
    for place in known {
        candidates.drop(place);
        stored.new -= 1;
        stored.known += 1;
    }
    for (epoch, rows) in candidates.rows {
        let rows: Vec<Row> = rows.into_iter().flatten().collect();
        if !rows.is_empty() {
            patiently(async || store.record(epoch, &rows).await).await?;
        }
    }
    Ok(stored)
}

/// The row of a tick, and the epoch that it is stored in.
fn row(tick: &Tick, file: Epoch, line: u64) -> Result<(Epoch, Row)> {
    let (epoch, seq) = place::of_tick(tick, file, line);
    let head = tick.head();
    let (kind, venue, symbol) = (tick.kind(), head.venue.clone(), head.symbol.clone());
    let content = if matches!(tick, Tick::Inst(_)) {
        Content::State {
            kind,
            venue,
            symbol,
        }
    } else {
        Content::Event {
            kind,
            venue,
            symbol,
            at: head.event.unwrap_or(head.received),
        }
    };
    let payload = codec::to_msgpack(tick)?.into();
    let row = Row {
        seq,
        content,
        payload,
    };
    Ok((epoch, row))
}

/// The spans of time, ends exclusive, that hold these times, and little else.
fn spans(times: &[UnixNanos]) -> Vec<(UnixNanos, UnixNanos)> {
    let apart = |a: &UnixNanos, b: &UnixNanos| b.get().saturating_sub(a.get()) <= APART;
    let chunks = times.chunk_by(apart);
    let span = |chunk: &[UnixNanos]| Some((*chunk.first()?, chunk.last()?.offset(1)));
    chunks.filter_map(span).collect()
}

/// Where those of the events are that are stored in a span.
async fn known<S: TickStore>(
    store: &S,
    (kind, venue, symbol): &Topic,
    events: &HashMap<Key, (Epoch, usize)>,
    (from, to): (UnixNanos, UnixNanos),
) -> Result<Vec<(Epoch, usize)>> {
    let mut range = Range {
        series: Series::Events(*kind, venue.clone(), symbol.clone()),
        from,
        to,
        descending: false,
        after: None,
        limit: PAGE,
    };
    let mut known = Vec::new();
    loop {
        let page = patiently(async || store.page("", &range).await).await?;
        for found in &page.rows {
            let tick = codec::from_msgpack(&found.payload);
            let tick = tick.with_context(|| format!("a stored {kind} of {symbol}"))?;
            known.extend(events.get(&(found.at, Identity::of(&tick)?)).copied());
        }
        let last = page.rows.last();
        range.after = last.map(|last| (last.at, last.epoch, last.seq));
        if page.rows.len() < usize::try_from(PAGE)? {
            return Ok(known);
        }
    }
}

#[cfg(test)]
mod tests;
