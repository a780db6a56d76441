//! The single ordered path from feeds to the publisher: no doubles, state only on change, bars,
//! summaries. Pure: ticks and times in, ticks out.

mod dedupe;
pub mod plan;
mod states;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use schemas::id::{Interval, Symbol, Venue};
use schemas::tick::{Flag, Head, Tick, Trade};
use schemas::time::UnixNanos;

use crate::bars::{Applied, Series, is_ahead, time_of};
use crate::metrics::Metrics;
use crate::recovery::{Recovered, Restored};
use crate::stats::Session;
use dedupe::Ids;
use plan::{Home, Plans};
use states::States;

/// How long a live bar waits for trades that are on their way when its time is over.
const GRACE: i64 = 500_000_000;

/// The least time between two forming bars or summaries of an instrument.
const FORMING_EVERY: i64 = 1_000_000_000;
/// So many flushes share the forming bars and summaries of all instruments: sent at once, they would
/// hold up the ticks behind them.
const SHARES: usize = 40;

#[derive(Default)]
struct FeedState {
    /// The latest event time of a recording.
    clock: UnixNanos,
    /// Ends of open bars of its instruments.
    ends: BinaryHeap<Reverse<(UnixNanos, usize, Interval)>>,
}

struct Instrument {
    venue: Venue,
    symbol: Symbol,
    /// The feed whose bars it has and whose clock closes them.
    feed: usize,
    /// Whether that is known, and not only likely.
    settled: bool,
    ids: Ids,
    series: Vec<Series>,
    session: Session,
    /// Something changed since forming bars and summaries were last sent.
    dirty: bool,
    /// When they may be sent again.
    due: UnixNanos,
}

/// All state that ingest keeps of one stream.
pub struct Line {
    plans: Plans,
    feeds: Vec<FeedState>,
    instruments: Vec<Instrument>,
    index: HashMap<(Venue, Symbol), usize>,
    states: States,
    unpublished: Vec<Tick>,
    /// Instruments that changed, by when they are due.
    dirty: BinaryHeap<Reverse<(UnixNanos, usize)>>,
    flushed: UnixNanos,
    metrics: Metrics,
}

impl FeedState {
    /// Closes the open bar of a series in time.
    fn watch(&mut self, index: usize, series: &Series) {
        let interval = series.interval();
        let end = series
            .forming()
            .map(|bar| bar.start.offset(interval.nanos()));
        self.ends
            .extend(end.map(|end| Reverse((end, index, interval))));
    }
}

impl Line {
    /// Goes on behind what the stream holds; bars that were open are closed in time even if nothing
    /// is traded any more. State values older than `refresh_after` nanoseconds are sent again.
    pub fn new(plans: Plans, recovered: Recovered, refresh_after: i64, metrics: Metrics) -> Self {
        let mut feeds = Vec::new();
        feeds.resize_with(plans.len(), FeedState::default);
        let mut line = Self {
            plans,
            feeds,
            instruments: Vec::new(),
            index: HashMap::new(),
            states: States::new(recovered.states, refresh_after),
            unpublished: recovered.unpublished,
            dirty: BinaryHeap::new(),
            flushed: UnixNanos::EPOCH,
            metrics,
        };
        for ((venue, symbol), restored) in recovered.instruments {
            if let Some(home) = line.plans.home(&venue, &symbol) {
                line.add((venue, symbol), &home, restored);
            }
        }
        line
    }

    /// Takes a tick of a feed; appends what is to be published.
    pub fn take(&mut self, feed: usize, tick: Tick, now: UnixNanos, out: &mut Vec<Tick>) {
        match tick {
            Tick::Trade(trade) => self.trade(feed, trade, out),
            Tick::Quote(_)
            | Tick::Book(_)
            | Tick::Stat(_)
            | Tick::Form(_)
            | Tick::Index(_)
            | Tick::Flow(_)
            | Tick::Inst(_) => self.state(tick, now, out),
            Tick::Bar(_) | Tick::Status(_) | Tick::Feed(_) => out.push(tick),
        }
    }

    /// Publishes a state value unless it equals the last one.
    fn state(&mut self, mut tick: Tick, now: UnixNanos, out: &mut Vec<Tick>) {
        if self.states.is_news(&mut tick, now) {
            out.push(tick);
        } else {
            self.metrics.unchanged.inc();
        }
    }

    /// To be called from time to time: when the first message was stored that the stream holds.
    pub const fn retained_since(&mut self, first: UnixNanos) {
        self.states.retained_since(first);
    }

    fn trade(&mut self, feed: usize, mut trade: Trade, out: &mut Vec<Tick>) {
        let at = time_of(&trade);
        let index = self.instrument(feed, &trade.head);
        let Some(instrument) = self.instruments.get_mut(index) else {
            return;
        };
        if !instrument.ids.is_new(&trade.id) {
            self.metrics.duplicates.inc();
            return;
        }
        let ahead = is_ahead(&trade);
        if ahead {
            self.metrics.ahead.inc();
        } else if let Some(state) = self.feeds.get_mut(feed) {
            state.clock = state.clock.max(at);
        }
        let mut corrections = Vec::new();
        let mut late = false;
        for series in &mut instrument.series {
            let applied = series.apply(&trade);
            late |= applied.late;
            count(&self.metrics, &applied);
            if applied.opened
                && let Some(home) = self.feeds.get_mut(instrument.feed)
            {
                home.watch(index, series);
            }
            let interval = series.interval();
            for (bar, corrected) in applied.bars {
                let head = Head::new(
                    trade.head.venue.clone(),
                    trade.head.symbol.clone(),
                    trade.head.received,
                );
                // A bar stands behind every trade that it holds and before every other one, so
                // that recovery can tell from sequences which trades a bar lacks.
                let bar = Tick::from(bar.bar(head, interval, corrected));
                if corrected {
                    corrections.push(bar);
                } else {
                    out.push(bar);
                }
            }
        }
        if !instrument.session.apply(&trade) && !ahead {
            self.metrics.overflows.inc();
        }
        if late {
            self.metrics.late.inc();
            trade.head.flags.push(Flag::Late);
        }
        if !std::mem::replace(&mut instrument.dirty, true) {
            self.dirty.push(Reverse((instrument.due, index)));
        }
        out.push(trade.into());
        out.extend(corrections);
    }

    /// The instrument of a trade that `feed` delivered.
    fn instrument(&mut self, feed: usize, head: &Head) -> usize {
        let key = (head.venue.clone(), head.symbol.clone());
        if let Some(index) = self.index.get(&key).copied() {
            self.settle(index, feed);
            return index;
        }
        let home = self.plans.home(&key.0, &key.1).filter(|home| home.listed);
        let home = home.unwrap_or_else(|| Home {
            feed,
            bars: self.plans.bars(feed),
            listed: true,
            mixed: false,
        });
        self.add(key, &home, Restored::default())
    }

    fn add(&mut self, key: (Venue, Symbol), home: &Home, restored: Restored) -> usize {
        let index = self.instruments.len();
        let mut instrument = Instrument {
            venue: key.0.clone(),
            symbol: key.1.clone(),
            feed: home.feed,
            settled: home.listed,
            ids: Ids::after(restored.last_trade),
            series: Vec::with_capacity(home.bars.len()),
            session: restored.session,
            dirty: restored.replayed,
            due: UnixNanos::EPOCH,
        };
        for interval in &home.bars {
            let series = restored.series.get(interval).cloned();
            let series = series.unwrap_or_else(|| Series::new(*interval));
            if let Some(home) = self.feeds.get_mut(home.feed) {
                home.watch(index, &series);
            }
            instrument.series.push(series);
        }
        if instrument.dirty {
            self.dirty.push(Reverse((instrument.due, index)));
        }
        self.instruments.push(instrument);
        self.index.insert(key, index);
        index
    }

    /// The first trade tells which feed of the venue an instrument belongs to.
    fn settle(&mut self, index: usize, feed: usize) {
        let Some(instrument) = self.instruments.get_mut(index) else {
            return;
        };
        if std::mem::replace(&mut instrument.settled, true) {
            return;
        }
        instrument.feed = feed;
        let bars = self.plans.bars(feed);
        instrument
            .series
            .retain(|series| bars.contains(&series.interval()));
        for interval in bars {
            let mut known = instrument.series.iter();
            if known.all(|series| series.interval() != interval) {
                instrument.series.push(Series::new(interval));
            }
        }
        if let Some(home) = self.feeds.get_mut(feed) {
            for series in &instrument.series {
                home.watch(index, series);
            }
        }
    }

    /// To be called many times a second: closes bars by the clock, sends a share of the forming
    /// bars and summaries that changed, and refreshes old state.
    pub fn flush(&mut self, now: UnixNanos, out: &mut Vec<Tick>) {
        self.close_bars(now, out);
        if now < self.flushed {
            self.turn_back(now);
        }
        self.flushed = now;
        for _ in 0..self.instruments.len().div_ceil(SHARES) {
            let Some(Reverse((due, index))) = self.dirty.peek().copied() else {
                break;
            };
            if due > now {
                break;
            }
            self.dirty.pop();
            self.send_forming(index, now, out);
        }
        self.states.refresh(now, out);
    }

    /// The clock went back: nothing waits for the time that it showed before.
    fn turn_back(&mut self, now: UnixNanos) {
        for instrument in &mut self.instruments {
            instrument.due = now;
        }
        let dirty = std::mem::take(&mut self.dirty).into_iter();
        self.dirty = dirty
            .map(|Reverse((_, index))| Reverse((now, index)))
            .collect();
    }

    fn close_bars(&mut self, now: UnixNanos, out: &mut Vec<Tick>) {
        for (number, feed) in self.feeds.iter_mut().enumerate() {
            let recorded = self.plans.get(number).is_some_and(|plan| plan.recorded);
            let clock = if recorded {
                feed.clock
            } else {
                now.offset(-GRACE)
            };
            while let Some(Reverse((end, index, interval))) = feed.ends.peek().copied() {
                if end > clock {
                    break;
                }
                feed.ends.pop();
                let instrument = self.instruments.get_mut(index);
                let Some(instrument) = instrument.filter(|of| of.feed == number) else {
                    continue;
                };
                let head = Head::new(instrument.venue.clone(), instrument.symbol.clone(), now);
                let mut series = instrument.series.iter_mut();
                if let Some(series) = series.find(|series| series.interval() == interval) {
                    let closed = series.close_by(clock);
                    out.extend(closed.map(|bar| Tick::from(bar.bar(head, interval, false))));
                }
            }
        }
    }

    fn send_forming(&mut self, index: usize, now: UnixNanos, out: &mut Vec<Tick>) {
        let Some(instrument) = self.instruments.get_mut(index) else {
            return;
        };
        instrument.dirty = false;
        instrument.due = now.offset(FORMING_EVERY);
        let head = || Head::new(instrument.venue.clone(), instrument.symbol.clone(), now);
        let mut ticks: Vec<Tick> = Vec::new();
        for series in &instrument.series {
            if series.interval() != Interval::Second1
                && let Some(bar) = series.forming()
            {
                ticks.push(bar.form(head(), series.interval()).into());
            }
        }
        ticks.extend(instrument.session.stat(head()).map(Tick::from));
        for tick in ticks {
            self.state(tick, now, out);
        }
    }

    /// Bars that were over but not stored when the last writer ended; to be published first.
    pub fn take_unpublished(&mut self) -> Vec<Tick> {
        std::mem::take(&mut self.unpublished)
    }
}

fn count(metrics: &Metrics, applied: &Applied) {
    if applied.too_late {
        metrics.too_late.inc();
    }
    if applied.overflow {
        metrics.overflows.inc();
    }
}

#[cfg(test)]
mod tests;
