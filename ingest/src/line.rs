//! The single ordered path from feeds to the publisher: no doubles, state only on change, bars,
//! summaries. Pure: ticks and times in, ticks out.

mod dedupe;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use schemas::id::{Interval, Symbol, Venue};
use schemas::tick::{Flag, Head, Tick, Trade};
use schemas::time::UnixNanos;
use schemas::topic::Topic;

use crate::bars::{Applied, Series, is_ahead, time_of};
use crate::metrics::Metrics;
use crate::recovery::{Recovered, Restored};
use crate::stats::Session;
use dedupe::Ids;

/// How long a live bar waits for trades that are on their way when its time is over.
const GRACE: i64 = 500_000_000;

/// The least time between two forming bars or summaries of an instrument.
const FORMING_EVERY: i64 = 1_000_000_000;
/// So many flushes share the forming bars and summaries of all instruments: sent at once, they would
/// hold up the ticks behind them.
const SHARES: usize = 40;

/// What the line must know of a feed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The bars that are built from its trades.
    pub bars: Vec<Interval>,
    /// Whether its own event times, not the wall clock, tell when bars are over.
    pub recorded: bool,
}

struct FeedState {
    plan: Plan,
    /// The latest event time of a recording.
    clock: UnixNanos,
    /// Ends of open bars: instrument and position of its series.
    ends: BinaryHeap<Reverse<(UnixNanos, usize, usize)>>,
}

struct Instrument {
    venue: Venue,
    symbol: Symbol,
    ids: Ids,
    series: Vec<Series>,
    session: Session,
    /// Something changed since forming bars and summaries were last sent.
    dirty: bool,
    /// When they may be sent again.
    due: UnixNanos,
}

struct State {
    tick: Tick,
    published: UnixNanos,
}

/// All state that ingest keeps of one stream.
pub struct Line {
    feeds: Vec<FeedState>,
    instruments: Vec<Instrument>,
    index: HashMap<(Venue, Symbol), usize>,
    states: HashMap<Topic, State>,
    restored: HashMap<(Venue, Symbol), Restored>,
    unpublished: Vec<Tick>,
    /// Instruments that changed, by when they are due.
    dirty: BinaryHeap<Reverse<(UnixNanos, usize)>>,
    refresh_after: i64,
    refreshed: UnixNanos,
    flushed: UnixNanos,
    metrics: Metrics,
}

impl Line {
    /// Goes on behind what the stream holds. State values older than `refresh_after` nanoseconds
    /// are sent again.
    pub fn new(
        plans: Vec<Plan>,
        recovered: Recovered,
        refresh_after: i64,
        metrics: Metrics,
    ) -> Self {
        let feeds = plans.into_iter().map(|plan| FeedState {
            plan,
            clock: UnixNanos::EPOCH,
            ends: BinaryHeap::new(),
        });
        let states = recovered
            .states
            .into_iter()
            .map(|(tick, published)| (tick.topic(), State { tick, published }));
        Self {
            feeds: feeds.collect(),
            instruments: Vec::new(),
            index: HashMap::new(),
            states: states.collect(),
            restored: recovered.instruments,
            unpublished: recovered.unpublished,
            dirty: BinaryHeap::new(),
            refresh_after,
            refreshed: UnixNanos::EPOCH,
            flushed: UnixNanos::EPOCH,
            metrics,
        }
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
        let topic = tick.topic();
        if let Some(state) = self.states.get(&topic) {
            // Equal but for times, sequence and flags.
            let head = std::mem::replace(tick.head_mut(), state.tick.head().clone());
            let same = tick == state.tick;
            *tick.head_mut() = head;
            if same {
                self.metrics.unchanged.inc();
                return;
            }
        }
        out.push(tick.clone());
        self.states.insert(
            topic,
            State {
                tick,
                published: now,
            },
        );
    }

    fn trade(&mut self, feed: usize, mut trade: Trade, out: &mut Vec<Tick>) {
        let at = time_of(&trade);
        let index = self.instrument(feed, &trade.head);
        let (Some(instrument), Some(state)) =
            (self.instruments.get_mut(index), self.feeds.get_mut(feed))
        else {
            return;
        };
        if !instrument.ids.is_new(&trade.id) {
            self.metrics.duplicates.inc();
            return;
        }
        let ahead = is_ahead(&trade);
        if ahead {
            self.metrics.ahead.inc();
        } else {
            state.clock = state.clock.max(at);
        }
        let mut corrections = Vec::new();
        let mut late = false;
        for (place, series) in instrument.series.iter_mut().enumerate() {
            let applied = series.apply(&trade);
            late |= applied.late;
            count(&self.metrics, &applied);
            if applied.opened {
                let end = series
                    .forming()
                    .map(|bar| bar.start.offset(series.interval().nanos()));
                state
                    .ends
                    .extend(end.map(|end| Reverse((end, index, place))));
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

    fn instrument(&mut self, feed: usize, head: &Head) -> usize {
        let key = (head.venue.clone(), head.symbol.clone());
        if let Some(index) = self.index.get(&key) {
            return *index;
        }
        let index = self.instruments.len();
        let restored = self.restored.remove(&key).unwrap_or_default();
        let intervals = self
            .feeds
            .get(feed)
            .map(|feed| feed.plan.bars.clone())
            .unwrap_or_default();
        let mut instrument = Instrument {
            venue: key.0.clone(),
            symbol: key.1.clone(),
            ids: Ids::after(restored.last_trade),
            series: Vec::with_capacity(intervals.len()),
            session: restored.session,
            dirty: false,
            due: UnixNanos::EPOCH,
        };
        for interval in intervals {
            let series = restored.series.get(&interval).cloned();
            instrument
                .series
                .push(series.unwrap_or_else(|| Series::new(interval)));
        }
        if let Some(feed) = self.feeds.get_mut(feed) {
            for (place, series) in instrument.series.iter().enumerate() {
                let end = series
                    .forming()
                    .map(|bar| bar.start.offset(series.interval().nanos()));
                feed.ends
                    .extend(end.map(|end| Reverse((end, index, place))));
            }
        }
        self.instruments.push(instrument);
        self.index.insert(key, index);
        index
    }

    /// Takes up instruments that the stream knows, so that bars that were open are closed in time
    /// even if nothing is traded any more. `feed_of` tells which feed carries a venue.
    pub fn adopt(&mut self, feed_of: impl Fn(&Venue) -> Option<usize>) {
        let known: Vec<(Venue, Symbol)> = self.restored.keys().cloned().collect();
        for (venue, symbol) in known {
            if let Some(feed) = feed_of(&venue) {
                self.instrument(feed, &Head::new(venue, symbol, UnixNanos::EPOCH));
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
        self.refresh(now, out);
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
        for feed in &mut self.feeds {
            let clock = if feed.plan.recorded {
                feed.clock
            } else {
                now.offset(-GRACE)
            };
            while let Some(Reverse((end, index, place))) = feed.ends.peek().copied() {
                if end > clock {
                    break;
                }
                feed.ends.pop();
                let Some(instrument) = self.instruments.get_mut(index) else {
                    continue;
                };
                let head = Head::new(instrument.venue.clone(), instrument.symbol.clone(), now);
                let Some(series) = instrument.series.get_mut(place) else {
                    continue;
                };
                let closed = series.close_by(clock);
                out.extend(closed.map(|bar| Tick::from(bar.bar(head, series.interval(), false))));
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

    fn refresh(&mut self, now: UnixNanos, out: &mut Vec<Tick>) {
        // A pass over all state is due seldom against the time that values may grow old.
        if now.get() - self.refreshed.get() < self.refresh_after / 20 {
            return;
        }
        self.refreshed = now;
        for state in self.states.values_mut() {
            if now.get() - state.published.get() > self.refresh_after {
                state.published = now;
                let mut tick = state.tick.clone();
                tick.head_mut().flags.push(Flag::Refresh);
                out.push(tick);
            }
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
