//! What a new writer must know of the stream before it goes on: last ids, values, open bars.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::Client;
use bus::api::ApiError;
use bus::reader::{Entry, Event, Reader, ReaderConfig, Start, read_range};
use schemas::codec;
use schemas::id::{Interval, Symbol, Venue};
use schemas::position::StreamSeq;
use schemas::tick::{Bar, Flag, Form, Head, Tick, Trade};
use schemas::time::UnixNanos;
use tracing::{info, warn};

use crate::bars::{MAX_AHEAD, Series, credible_time_of, start_of, time_of};
use crate::line::dedupe::Ids;
use crate::line::is_of_a_second;
use crate::line::plan::Plans;
use crate::stats::Session;

/// How long the broker may stay silent while it is read.
const PATIENCE: Duration = Duration::from_secs(30);
/// An instrument that was first heard of so short a time before its last trade may have bars that
/// were never published.
const YOUNG: Duration = Duration::from_mins(1);

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

/// Last messages of one instrument, each with its sequence.
#[derive(Default)]
struct Last {
    /// When it was first heard of, unless that was long ago.
    born: Option<(StreamSeq, UnixNanos)>,
    trade: Option<(StreamSeq, UnixNanos, Trade)>,
    bars: HashMap<Interval, (StreamSeq, Bar)>,
    forms: HashMap<Interval, (StreamSeq, Bar)>,
    stat: Option<(StreamSeq, Session)>,
    /// The latest event time of any trade, as far as bars and summary tell.
    newest: UnixNanos,
    /// Where intervals begin that have neither bar nor forming bar, and a missing summary.
    fallback: StreamSeq,
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
            Event::Stale | Event::Live | Event::Trimmed { .. } => {}
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
        match &tick {
            Tick::Trade(trade) => of.trade = Some((seq, time, trade.clone())),
            // What was dated too far ahead would never end: it is as if it were not there.
            Tick::Bar(bar) if !is_beyond(&bar.head, bar.start) => {
                of.bars.insert(bar.interval, (seq, bar.clone()));
            }
            Tick::Form(form) if !is_beyond(&form.head, form.start) => {
                of.forms.insert(form.interval, (seq, as_bar(form)));
            }
            Tick::Stat(stat) if !is_beyond(head, head.event.unwrap_or(head.received)) => {
                of.newest = of.newest.max(head.event.unwrap_or(head.received));
                of.stat = Some((seq, Session::restored(stat)));
            }
            Tick::Inst(_) if !head.flags.contains(&Flag::Refresh) => of.born = Some((seq, time)),
            Tick::Bar(_)
            | Tick::Form(_)
            | Tick::Stat(_)
            | Tick::Quote(_)
            | Tick::Book(_)
            | Tick::Index(_)
            | Tick::Flow(_)
            | Tick::Status(_)
            | Tick::Feed(_)
            | Tick::Inst(_) => {}
        }
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

/// Whether a time lies further ahead of the receipt than any trade may.
fn is_beyond(head: &Head, at: UnixNanos) -> bool {
    at > head.received.offset(MAX_AHEAD)
}

fn as_bar(form: &Form) -> Bar {
    let Form {
        head,
        interval,
        start,
        open,
        high,
        low,
        close,
        volume,
        trades,
    } = form.clone();
    Bar {
        head,
        interval,
        start,
        open,
        high,
        low,
        close,
        volume,
        trades,
    }
}

impl Last {
    /// Finds where intervals begin that the stream knows nothing of: with an instrument that is
    /// new, or else, being new themselves, with the other intervals.
    fn locate(&mut self, intervals: &[Interval]) {
        let Some((trade, traded, _)) = &self.trade else {
            return;
        };
        let young = self.born.filter(|(_, at)| traded.since(*at) < YOUNG);
        let known = intervals.iter().filter_map(|of| self.known_seq(*of));
        let stat = self.stat.as_ref().map(|(seq, _)| *seq);
        let before = StreamSeq::new(trade.get().saturating_sub(1));
        let all = known.chain(stat).chain(young.map(|(seq, _)| seq));
        self.fallback = all.min().unwrap_or(before);
    }

    fn known_seq(&self, interval: Interval) -> Option<StreamSeq> {
        let bar = self.bars.get(&interval).map(|(seq, _)| *seq);
        let form = self.forms.get(&interval).map(|(seq, _)| *seq);
        bar.max(form)
    }

    /// Everything up to here is in the bars of this interval, as far as they do not start behind
    /// its last bar.
    fn bar_seq(&self, interval: Interval) -> StreamSeq {
        self.known_seq(interval).unwrap_or(self.fallback)
    }

    /// Everything up to here that belongs behind the last bar of this interval is in the forming
    /// bar: a corrected bar says nothing of later ones, a forming bar does.
    fn later_seq(&self, interval: Interval) -> StreamSeq {
        match self.bars.get(&interval) {
            Some((_, bar)) if bar.head.flags.contains(&Flag::Late) => self
                .forms
                .get(&interval)
                .map_or(self.fallback, |(seq, _)| *seq),
            _ => self.bar_seq(interval),
        }
    }

    /// Whether the bars of this interval lack a trade.
    fn lacks(&self, interval: Interval, seq: StreamSeq, trade: &Trade) -> bool {
        let last = self.bars.get(&interval);
        let later = last.is_some_and(|(_, bar)| start_of(interval, time_of(trade)) > bar.start);
        seq > if later {
            self.later_seq(interval)
        } else {
            self.bar_seq(interval)
        }
    }

    fn stat_seq(&self) -> StreamSeq {
        self.stat.as_ref().map_or(self.fallback, |(seq, _)| *seq)
    }

    /// The sequence behind which trades are missing in bars or summary; `None` if none are.
    fn incomplete_since(&self, intervals: &[Interval]) -> Option<StreamSeq> {
        let (trade, ..) = self.trade.as_ref()?;
        let bars = intervals.iter().map(|interval| self.later_seq(*interval));
        bars.chain([self.stat_seq()])
            .filter(|seq| seq < trade)
            .min()
    }

    fn restore(&self, intervals: &[Interval]) -> Restored {
        let series = intervals.iter().map(|interval| {
            let bar = self.bars.get(interval).map(|(_, bar)| bar);
            let form = self.forms.get(interval).map(|(_, form)| form);
            (*interval, Series::restored(*interval, bar, form))
        });
        Restored {
            ids: self.ids(),
            replayed: false,
            series: series.collect(),
            session: self
                .stat
                .as_ref()
                .map(|(_, session)| session.clone())
                .unwrap_or_default(),
        }
    }

    fn ids(&self) -> Ids {
        let mut ids = Ids::default();
        if let Some((.., trade)) = &self.trade {
            ids.restore(&trade.id, credible_time_of(trade));
        }
        ids
    }

    /// Takes in a trade that the stream holds but the last bars or summary do not.
    fn replay(&self, seq: StreamSeq, trade: &Trade, restored: &mut Restored, bars: &mut Vec<Tick>) {
        restored.ids.restore(&trade.id, credible_time_of(trade));
        for (interval, series) in &mut restored.series {
            if self.lacks(*interval, seq, trade) {
                restored.replayed = true;
                let head = || {
                    let Head {
                        venue,
                        symbol,
                        received,
                        ..
                    } = trade.head.clone();
                    Head::new(venue, symbol, received)
                };
                let applied = series.apply(trade).bars.into_iter();
                bars.extend(
                    applied.map(|(bar, late)| Tick::from(bar.bar(head(), *interval, late))),
                );
            }
        }
        if seq > self.stat_seq() {
            restored.replayed = true;
            restored.session.apply(trade);
        }
    }
}

#[cfg(test)]
mod tests;
