//! The single ordered path from feeds to the publisher: no doubles, state only on change, bars,
//! summaries. Pure: ticks and times in, ticks out.

pub(crate) mod dedupe;
mod instrument;
pub mod plan;
pub(crate) mod states;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use schemas::id::{Interval, Symbol, Venue};
use schemas::tick::{Flag, Head, Tick, Trade};
use schemas::time::UnixNanos;

use crate::bars::{credible_time_of, is_ahead};
use crate::metrics::Metrics;
use crate::recovery::{Recovered, Restored};
use crate::stats::Taken;
use dedupe::Verdict;
use instrument::Instrument;
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
    /// Closes open bars in time.
    fn watch(&mut self, index: usize, ends: impl IntoIterator<Item = (UnixNanos, Interval)>) {
        let ends = ends.into_iter();
        self.ends
            .extend(ends.map(|(end, interval)| Reverse((end, index, interval))));
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
            Tick::Trade(trade) => self.trade(feed, trade, now, out),
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

    fn trade(&mut self, feed: usize, mut trade: Trade, now: UnixNanos, out: &mut Vec<Tick>) {
        let at = credible_time_of(&trade);
        let index = self.instrument(feed, &trade.head);
        let Some(instrument) = self.instruments.get_mut(index) else {
            return;
        };
        match instrument.ids.judge(&trade.id, at) {
            Verdict::Duplicate => {
                self.metrics.duplicates.inc();
                return;
            }
            Verdict::Restart => {
                self.metrics.id_restarts.inc();
            }
            Verdict::New => {}
        }
        let ahead = is_ahead(&trade);
        if ahead {
            self.metrics.ahead.inc();
        } else if let Some(state) = self.feeds.get_mut(feed) {
            state.clock = state.clock.max(at);
        }
        let built = instrument.apply(&trade, now, &self.metrics);
        if let Some(home) = self.feeds.get_mut(instrument.feed) {
            home.watch(index, built.ends);
        }
        match instrument.sum_up(&trade) {
            Taken::In | Taken::Ahead => {}
            Taken::Past => _ = self.metrics.past_session.inc(),
            Taken::Overflow => _ = self.metrics.overflows.inc(),
        }
        if built.late {
            self.metrics.late.inc();
            trade.head.flags.push(Flag::Late);
        }
        if !std::mem::replace(&mut instrument.dirty, true) {
            self.dirty.push(Reverse((instrument.due, index)));
        }
        out.extend(built.closed);
        self.send_state(built.forms, now, out);
        out.push(trade.into());
        out.extend(built.corrected);
    }

    /// Publishes state values whether or not they changed: where they stand counts. Bars of a second
    /// go on too fast for a forming one to be worth keeping.
    fn send_state(&mut self, ticks: Vec<Tick>, now: UnixNanos, out: &mut Vec<Tick>) {
        for tick in ticks {
            if !is_of_a_second(&tick) {
                self.states.put(tick.clone(), now);
            }
            out.push(tick);
        }
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
        let mut instrument = Instrument::new(key.clone(), home.feed, &home.bars, restored);
        instrument.settled = home.listed;
        if let Some(home) = self.feeds.get_mut(home.feed) {
            home.watch(index, instrument.ends());
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
        instrument.rearrange(&self.plans.bars(feed));
        if let Some(home) = self.feeds.get_mut(feed) {
            home.watch(index, instrument.ends());
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
        let (index, instruments) = (&self.index, &self.instruments);
        // Where a forming bar or a summary stands says which trades it holds: all before it.
        let outdated = |tick: &Tick| {
            let head = tick.head();
            let key = (head.venue.clone(), head.symbol.clone());
            let of = index.get(&key).and_then(|index| instruments.get(*index));
            matches!(tick, Tick::Form(_) | Tick::Stat(_)) && of.is_some_and(|of| of.dirty)
        };
        self.states.refresh(now, outdated, out);
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
                if let Some(instrument) = instrument.filter(|of| of.feed == number) {
                    out.extend(instrument.close(interval, clock, now));
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
        let ticks = instrument.forming(now);
        self.send_state(ticks, now, out);
    }

    /// Bars that were over but not stored when the last writer ended; to be published first.
    pub fn take_unpublished(&mut self) -> Vec<Tick> {
        std::mem::take(&mut self.unpublished)
    }
}

pub(crate) fn is_of_a_second(tick: &Tick) -> bool {
    matches!(tick, Tick::Form(form) if form.interval == Interval::Second1)
}

#[cfg(test)]
mod tests;
