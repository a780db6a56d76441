//! What a new writer must know of the stream before it goes on: last ids, values, open bars.

mod last;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::Client;
use bus::api::ApiError;
use bus::reader::{Entry, Event, Reader, ReaderConfig, Start, read_range};
use schemas::codec;
use schemas::id::{Interval, Symbol, Venue};
use schemas::position::StreamSeq;
use schemas::tick::{Tick, Trade};
use schemas::time::UnixNanos;
use tracing::{info, warn};

use crate::bars::Series;
use crate::feed;
use crate::line::dedupe::Ids;
use crate::line::is_of_a_second;
use crate::line::plan::Plans;
use crate::stats::Session;
use last::Last;

/// How long the broker may stay silent while it is read.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the stream knows.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Last state values, and when they were stored.
    pub states: Vec<(Tick, UnixNanos)>,
    /// By instrument.
    pub instruments: HashMap<(Venue, Symbol), Restored>,
    /// Bars that were over but not stored when the last writer ended.
    pub unpublished: Vec<Tick>,
}

impl Recovered {
    /// What a source of this venue goes on from.
    pub fn past(&self, venue: &Venue) -> feed::Past {
        let mut past = feed::Past::default();
        for (tick, _) in &self.states {
            let Tick::Quote(quote) = tick else { continue };
            if let (true, Some(bid), Some(ask)) = (quote.head.venue == *venue, quote.bid, quote.ask)
            {
                past.quotes.insert(quote.head.symbol.clone(), (bid, ask));
                past.latest = past.latest.max(quote.head.event.unwrap_or_default());
            }
        }
        let of = self.instruments.iter().filter(|((of, _), _)| of == venue);
        for (id, at) in of.map(|(_, known)| known.ids.highest()) {
            past.last_id = past.last_id.max(id);
            past.latest = past.latest.max(at);
        }
        past
    }
}

/// What the stream knows of one instrument.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Ids of the trades that were read.
    pub(crate) ids: Ids,
    /// Bars, ready to take the next trade.
    pub series: HashMap<Interval, Series>,
    /// The running summary.
    pub session: Session,
    /// Trades were missing in bars or summary: what is published of them is out of date.
    pub replayed: bool,
}

/// Reads the stream up to `until`: last values, and the trades that the bars and summaries of
/// instruments with a home in `plans` lack.
///
/// # Errors
///
/// The broker stayed silent for too long.
pub async fn recover(
    client: &Client,
    stream: &str,
    until: StreamSeq,
    plans: &Plans,
) -> Result<Recovered> {
    let mut past = Past::new(plans);
    for entry in last_values(client, stream).await? {
        match codec::from_msgpack(&entry.payload) {
            Ok(tick) => past.last_value(entry.seq, entry.time, tick),
            Err(error) => {
                warn!(subject = entry.subject.as_str(), seq = entry.seq.get(), %error, "not a tick, passed over");
            }
        }
    }
    let mut replayed: u64 = 0;
    if let Some(after) = past.restore() {
        let config = ReaderConfig {
            stream: stream.to_owned(),
            name: "in".to_owned(),
            filter: "tick.trade.>".to_owned(),
            start: Start::After(after),
        };
        read_range(client.clone(), config, until, PATIENCE, |entry| {
            if let Ok(Tick::Trade(trade)) = codec::from_msgpack(&entry.payload) {
                past.replay(entry.seq, &trade);
                replayed += 1;
            }
        })
        .await
        .context("reading the trades since the last bars")?;
    }
    let recovered = past.finish();
    info!(
        stream,
        instruments = recovered.instruments.len(),
        states = recovered.states.len(),
        replayed,
        "recovered"
    );
    Ok(recovered)
}

/// When the first message was stored that the stream still holds; `None` if it holds none.
///
/// # Errors
///
/// [`ApiError`].
pub async fn retained_since(client: &Client, stream: &str) -> Result<Option<UnixNanos>, ApiError> {
    let state = bus::stream::state(client, stream).await?;
    let first = bus::stream::message_at(client, stream, state.first_seq).await?;
    Ok(first.map(|first| first.time))
}

async fn last_values(client: &Client, stream: &str) -> Result<Vec<Entry>> {
    let config = ReaderConfig {
        stream: stream.to_owned(),
        name: "in".to_owned(),
        filter: "tick.>".to_owned(),
        start: Start::LastPerSubject,
    };
    let mut reader = Reader::new(client.clone(), config);
    let mut entries = Vec::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, reader.next()).await;
        match event.context("reading last values: the broker is silent")? {
            Event::Batch { entries: more, .. } => entries.extend(more),
            Event::CaughtUp => return Ok(entries),
            Event::Boot { .. } | Event::Reset => entries.clear(),
            Event::Stale | Event::Live | Event::Surveyed { .. } | Event::Trimmed { .. } => {}
        }
    }
}

/// What was read so far. Pure: last values in, then the trades that they lack.
struct Past<'a> {
    plans: &'a Plans,
    last: HashMap<(Venue, Symbol), Last>,
    recovered: Recovered,
}

impl<'a> Past<'a> {
    fn new(plans: &'a Plans) -> Self {
        Self {
            plans,
            last: HashMap::new(),
            recovered: Recovered::default(),
        }
    }

    /// Takes in the last message of a subject, stored at `time`.
    fn last_value(&mut self, seq: StreamSeq, time: UnixNanos, tick: Tick) {
        let head = tick.head();
        let of = self
            .last
            .entry((head.venue.clone(), head.symbol.clone()))
            .or_default();
        of.take(seq, time, &tick);
        let is_kept = tick.kind().is_state() || matches!(tick, Tick::Inst(_));
        if is_kept && !is_of_a_second(&tick) {
            self.recovered.states.push((tick, time));
        }
    }

    /// Restores what the last values tell; gives the sequence behind which trades are missing.
    fn restore(&mut self) -> Option<StreamSeq> {
        let mut start: Option<StreamSeq> = None;
        for (key, last) in &mut self.last {
            let Some(mut home) = self.plans.home(&key.0, &key.1) else {
                continue;
            };
            if home.mixed {
                // What was never published is of the other feed.
                home.bars
                    .retain(|interval| last.known_seq(*interval).is_some());
            }
            last.locate(&home.bars);
            let missing = last.incomplete_since(&home.bars);
            start = [start, missing].into_iter().flatten().min();
            let restored = last.restore(&home.bars);
            self.recovered.instruments.insert(key.clone(), restored);
        }
        start
    }

    fn finish(mut self) -> Recovered {
        for (key, restored) in &mut self.recovered.instruments {
            let newest = self.last.get(key).map(|last| last.newest);
            restored.ids.forget_others(newest.unwrap_or_default());
        }
        self.recovered
    }

    /// Takes in a trade that the stream holds, if bars or summary lack it.
    fn replay(&mut self, seq: StreamSeq, trade: &Trade) {
        let key = (trade.head.venue.clone(), trade.head.symbol.clone());
        let restored = self.recovered.instruments.get_mut(&key);
        if let (Some(last), Some(restored)) = (self.last.get(&key), restored) {
            last.replay(seq, trade, restored, &mut self.recovered.unpublished);
        }
    }
}

#[cfg(test)]
mod tests;
