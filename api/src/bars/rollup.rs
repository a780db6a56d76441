//! Makes one bar of many: first open, highest high, lowest low, last close, sums. Pure and exact.

use schemas::decimal::{Price, Size};
use schemas::http::Candle;
use schemas::id::{Kind, Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use schemas::tick::{Bar, Flag};
use schemas::time::UnixNanos;

use super::calendar::{Grid, Period};

/// A bar that others are made of, or what was made of some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    start: UnixNanos,
    end: UnixNanos,
    position: (Epoch, StreamSeq),
    open: Price,
    high: Price,
    low: Price,
    close: Price,
    volume: Size,
    trades: u64,
    /// Ascending, each once.
    flags: Vec<Flag>,
}

/// The sum of volumes went beyond the limit of quantities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overflow {
    /// Start of the bar that would have it.
    pub(super) start: UnixNanos,
}

/// What one period is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) period: Period,
    part: Part,
}

/// Takes parts in order of time, or all in reverse, and gives wholes in the same order.
#[derive(Debug)]
pub(super) struct Roller<'a> {
    grid: Grid<'a>,
    reverse: bool,
    pending: Option<Whole>,
}

impl Part {
    pub(super) fn new(bar: Bar, epoch: Epoch, seq: StreamSeq) -> Self {
        let mut flags = bar.head.flags;
        flags.sort_unstable();
        flags.dedup();
        Self {
            start: bar.start,
            end: bar.start.offset(bar.interval.nanos()),
            position: (epoch, seq),
            open: bar.open,
            high: bar.high,
            low: bar.low,
            close: bar.close,
            volume: bar.volume,
            trades: bar.trades,
            flags,
        }
    }

    /// This part and a later one.
    fn join(mut self, later: Self) -> Option<Self> {
        let volume = self.volume.get().checked_add(later.volume.get())?;
        for flag in later.flags {
            if let Err(at) = self.flags.binary_search(&flag) {
                self.flags.insert(at, flag);
            }
        }
        Some(Self {
            start: self.start,
            end: later.end,
            position: self.position.max(later.position),
            open: self.open,
            high: self.high.max(later.high),
            low: self.low.min(later.low),
            close: later.close,
            volume: Size::new(volume).ok()?,
            trades: self.trades.saturating_add(later.trades),
            flags: self.flags,
        })
    }
}

impl Whole {
    /// Whether nothing can be missing: its last part is there, or its time was over before `settled`.
    pub(super) fn is_closed(&self, settled: UnixNanos) -> bool {
        self.part.end >= self.period.end || self.period.end <= settled
    }

    /// As HTTP gives it.
    pub(super) fn candle(self, venue: &Venue, symbol: &Symbol, length: &str) -> Candle {
        let (_, seq) = self.part.position;
        Candle {
            seq,
            kind: Kind::Bar,
            venue: venue.clone(),
            symbol: symbol.clone(),
            flags: self.part.flags,
            length: length.to_owned(),
            start: self.period.start,
            open: self.part.open,
            high: self.part.high,
            low: self.part.low,
            close: self.part.close,
            volume: self.part.volume,
            trades: self.part.trades,
        }
    }
}

impl<'a> Roller<'a> {
    pub(super) const fn new(grid: Grid<'a>, reverse: bool) -> Self {
        Self {
            grid,
            reverse,
            pending: None,
        }
    }

    /// Takes the next part; gives the whole that is complete with it, as the part belongs to another.
    pub(super) fn push(&mut self, part: Part) -> Result<Option<Whole>, Overflow> {
        let period = self.grid.period(part.start);
        let Some(pending) = self.pending.take() else {
            self.pending = Some(Whole { period, part });
            return Ok(None);
        };
        if pending.period != period {
            self.pending = Some(Whole { period, part });
            return Ok(Some(pending));
        }
        let (earlier, later) = if self.reverse {
            (part, pending.part)
        } else {
            (pending.part, part)
        };
        let start = period.start;
        let part = earlier.join(later).ok_or(Overflow { start })?;
        self.pending = Some(Whole { period, part });
        Ok(None)
    }

    /// The last whole; nothing more of it may be missing.
    pub(super) fn finish(self) -> Option<Whole> {
        self.pending
    }
}

#[cfg(test)]
mod tests;
