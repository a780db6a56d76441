//! Recordings read for history's sake: past the stream, at full speed, every line accounted for.
//!
//! Decoders, the rule that a state is told when it changed, and bars are those of live ticks. Doubles
//! are left to the database, which remembers every trade: [`crate::line`] remembers the latest.

use std::collections::HashSet;
use std::io::{self, BufRead};

use schemas::id::{FeedName, IdError, Interval, Symbol, Venue};
use schemas::tick::{Bar, Flag, Head, Tick, Trade};
use schemas::time::UnixNanos;

use crate::bars::{MAX_AHEAD, Series};
use crate::config::Format;
use crate::feed::{Reason, Reject};
use crate::feeds::replay::recording::{Content, next_line};
use crate::line::states::States;

/// What a recording is, and what is taken of it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What its lines are.
    pub format: Format,
    /// Where it was recorded.
    pub venue: Venue,
    /// Of these instruments alone; of all if there are none.
    pub symbols: Vec<Symbol>,
    /// When it is read: nothing in it can be later.
    pub now: UnixNanos,
}

/// Reads a recording.
pub struct Backfill {
    lines: Box<dyn BufRead + Send>,
    content: Content,
    states: States,
    symbols: HashSet<Symbol>,
    latest: UnixNanos,
    number: u64,
}

/// What became of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1.
    pub line: u64,
    /// What is worth storing: events, and instruments before the first of theirs.
    pub ticks: Vec<Tick>,
    /// What is wrong with it.
    pub reject: Option<Reject>,
}

impl Backfill {
    /// Reads `lines` from the beginning.
    ///
    /// # Errors
    ///
    /// None for any venue there is.
    pub fn new(lines: Box<dyn BufRead + Send>, plan: &Plan) -> Result<Self, IdError> {
        let feed = FeedName::new(plan.venue.as_str())?;
        Ok(Self {
            lines,
            content: Content::of(plan.format, plan.venue.clone(), feed),
            states: States::new(Vec::new(), i64::MAX),
            symbols: plan.symbols.iter().cloned().collect(),
            latest: plan.now.offset(MAX_AHEAD),
            number: 0,
        })
    }

    /// Reads the next line; `None` behind the last.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let Some(line) = next_line(&mut self.lines)? else {
            return Ok(None);
        };
        self.number += 1;
        let mut ticks = Vec::new();
        let read = line.and_then(|line| self.read(&line, &mut ticks));
        ticks.retain_mut(|tick| self.is_wanted(tick));
        Ok(Some(Entry {
            line: self.number,
            ticks,
            reject: read.err(),
        }))
    }

    fn read(&mut self, line: &str, ticks: &mut Vec<Tick>) -> Result<(), Reject> {
        let Some(line) = self.content.parse(line)? else {
            return Ok(());
        };
        if line.due > self.latest {
            let message = "time: lies in the future";
            return Err(Reject::new(Reason::Range, message));
        }
        self.content.decode(line, ticks)
    }

    /// Whether a tick is kept. What a feed says of itself was true of another one; of books and
    /// summaries there is no history.
    fn is_wanted(&mut self, tick: &mut Tick) -> bool {
        let head = tick.head();
        if !self.symbols.is_empty() && !self.symbols.contains(&head.symbol) {
            return false;
        }
        let received = head.received;
        let wanted = match tick {
            Tick::Inst(_) => return true,
            Tick::Trade(_) | Tick::Status(_) => true,
            Tick::Quote(_) | Tick::Index(_) | Tick::Flow(_) => self.states.is_news(tick, received),
            Tick::Book(_) | Tick::Stat(_) | Tick::Bar(_) | Tick::Form(_) | Tick::Feed(_) => false,
        };
        if wanted {
            tick.head_mut().flags.push(Flag::Backfill);
        }
        wanted
    }
}

/// The bars of one instrument, from its trades in order of time.
#[derive(Clone, Debug)]
pub struct Bars {
    venue: Venue,
    symbol: Symbol,
    /// Each with when the last trade of the open bar was received.
    series: Vec<(Series, UnixNanos)>,
    left_out: u64,
}

impl Bars {
    /// Bars of these lengths, before the first trade.
    pub fn new(venue: Venue, symbol: Symbol, intervals: &[Interval]) -> Self {
        let series = |interval: &Interval| (Series::new(*interval), UnixNanos::EPOCH);
        Self {
            venue,
            symbol,
            series: intervals.iter().map(series).collect(),
            left_out: 0,
        }
    }

    /// Takes in a trade; appends the bars that were over before it.
    pub fn take(&mut self, trade: &Trade, out: &mut Vec<Bar>) {
        for (series, received) in &mut self.series {
            let interval = series.interval();
            let applied = series.apply(trade);
            let is_lost = applied.overflow || applied.too_late || applied.ahead;
            self.left_out += u64::from(is_lost);
            for (candle, corrected) in applied.bars {
                let head = head(&self.venue, &self.symbol, *received);
                out.push(candle.bar(head, interval, corrected));
            }
            *received = trade.head.received;
        }
    }

    /// Appends the last bars, if they are over at `now`; how often a trade was in none because a sum
    /// would have gone beyond its limits.
    pub fn finish(mut self, now: UnixNanos, out: &mut Vec<Bar>) -> u64 {
        for (series, received) in &mut self.series {
            let interval = series.interval();
            let closed = series.close_by(now);
            let head = head(&self.venue, &self.symbol, *received);
            out.extend(closed.map(|candle| candle.bar(head, interval, false)));
        }
        self.left_out
    }
}

fn head(venue: &Venue, symbol: &Symbol, received: UnixNanos) -> Head {
    let mut head = Head::new(venue.clone(), symbol.clone(), received);
    head.flags.push(Flag::Backfill);
    head
}

#[cfg(test)]
mod tests;
