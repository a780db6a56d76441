//! Bars from trades: closed, forming, corrected. Pure; times are event times in UTC.
//!
//! A bar closes when a trade of a later interval arrives or when the caller's clock passes its end.
//! A late trade corrects the bar that it belongs to, which is then sent again. Where there was no
//! trade there is no bar.

use std::collections::VecDeque;

use rust_decimal::Decimal;
use schemas::decimal::{Price, Size};
use schemas::id::Interval;
use schemas::tick::{Bar, Flag, Form, Head, Trade};
use schemas::time::UnixNanos;

/// How far a trade may be dated ahead of its receipt, in nanoseconds: clocks differ, but a bar of
/// another year would never close, and every trade after it would come late.
pub const MAX_AHEAD: i64 = 60_000_000_000;
/// Closed bars that can still be corrected, per interval.
const KEPT: usize = 8;

/// One interval of one instrument.
#[derive(Clone, Debug)]
pub struct Series {
    interval: Interval,
    open: Option<Candle>,
    /// Closed bars, oldest first.
    closed: VecDeque<Candle>,
    /// Bars that start here or before are no longer known.
    floor: Option<UnixNanos>,
}

/// The figures of one bar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candle {
    /// Start of the interval.
    pub start: UnixNanos,
    first_at: UnixNanos,
    last_at: UnixNanos,
    open: Price,
    high: Price,
    low: Price,
    close: Price,
    volume: Size,
    trades: u64,
}

/// What a trade did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent findings about one trade"
)]
pub struct Applied {
    /// Bars to publish, in order: closed ones and corrected ones.
    pub bars: Vec<(Candle, bool)>,
    /// A new bar was opened: its end should be watched for.
    pub opened: bool,
    /// The trade belongs to a bar that is closed.
    pub late: bool,
    /// Its bar is not known any more: no bar holds this trade.
    pub too_late: bool,
    /// A sum went beyond the limits, and the trade was left out of it.
    pub overflow: bool,
    /// It is dated too far ahead to be in any bar.
    pub ahead: bool,
}

impl Candle {
    fn new(start: UnixNanos, at: UnixNanos, trade: &Trade) -> Self {
        let (price, volume) = (trade.price, trade.size);
        Self {
            start,
            first_at: at,
            last_at: at,
            open: price,
            high: price,
            low: price,
            close: price,
            volume,
            trades: 1,
        }
    }

    /// Takes a trade in; `false` if a sum would go beyond its limits.
    fn add(&mut self, at: UnixNanos, trade: &Trade) -> bool {
        let sum = self
            .volume
            .get()
            .checked_add(trade.size.get())
            .map(Size::new);
        let Some(Ok(volume)) = sum else { return false };
        self.volume = volume;
        self.trades = self.trades.saturating_add(1);
        self.high = self.high.max(trade.price);
        self.low = self.low.min(trade.price);
        if at < self.first_at {
            (self.first_at, self.open) = (at, trade.price);
        }
        if at >= self.last_at {
            (self.last_at, self.close) = (at, trade.price);
        }
        true
    }

    /// The bar as a tick.
    pub fn bar(&self, mut head: Head, interval: Interval, corrected: bool) -> Bar {
        head.event = Some(self.last_at);
        if corrected {
            head.flags.push(Flag::Late);
        }
        let Self {
            start,
            open,
            high,
            low,
            close,
            volume,
            trades,
            ..
        } = *self;
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

    /// The forming bar as a tick.
    pub fn form(&self, head: Head, interval: Interval) -> Form {
        self.bar(head, interval, false).into()
    }

    /// Figures read back from a bar or forming bar.
    fn restored(bar: &Bar) -> Self {
        let at = bar.head.event.unwrap_or(bar.start);
        Self {
            start: bar.start,
            first_at: bar.start,
            last_at: at,
            open: bar.open,
            high: bar.high,
            low: bar.low,
            close: bar.close,
            volume: bar.volume,
            trades: bar.trades,
        }
    }
}

/// When an interval that contains `at` begins.
pub fn start_of(interval: Interval, at: UnixNanos) -> UnixNanos {
    let length = interval.nanos();
    UnixNanos::new(at.get().div_euclid(length).saturating_mul(length))
}

/// A trade's place in time: the venue's, or the receive time where the venue gives none.
pub fn time_of(trade: &Trade) -> UnixNanos {
    trade.head.event.unwrap_or(trade.head.received)
}

/// A trade's place in time among those of its venue: its receipt where it is dated too far ahead.
pub fn credible_time_of(trade: &Trade) -> UnixNanos {
    if is_ahead(trade) {
        trade.head.received
    } else {
        time_of(trade)
    }
}

/// Whether a trade is dated further ahead of its receipt than [`MAX_AHEAD`].
pub fn is_ahead(trade: &Trade) -> bool {
    time_of(trade) > trade.head.received.offset(MAX_AHEAD)
}

impl Series {
    /// An interval without bars so far.
    pub const fn new(interval: Interval) -> Self {
        Self {
            interval,
            open: None,
            closed: VecDeque::new(),
            floor: None,
        }
    }

    /// Goes on behind what was published: the last closed bar, and the forming one if it is later.
    /// Behind a corrected bar there may have been others: they are no longer known.
    pub fn restored(interval: Interval, bar: Option<&Bar>, form: Option<&Bar>) -> Self {
        let closed = bar.map(Candle::restored);
        let after = closed.as_ref().map(|bar| bar.start);
        let open = form
            .map(Candle::restored)
            .filter(|form| after.is_none_or(|bar| form.start > bar));
        let corrected = bar.is_some_and(|bar| bar.head.flags.contains(&Flag::Late));
        let known = if corrected {
            [&open, &closed]
        } else {
            [&closed, &open]
        };
        let known = known.into_iter().flatten().next();
        let floor = known.map(|bar| bar.start.offset(-1));
        Self {
            interval,
            open,
            closed: closed.into_iter().collect(),
            floor,
        }
    }

    /// The interval.
    pub const fn interval(&self) -> Interval {
        self.interval
    }

    /// The forming bar.
    pub const fn forming(&self) -> Option<&Candle> {
        self.open.as_ref()
    }

    /// The newest bar: the forming one, or the last that was closed.
    pub fn newest(&self) -> Option<&Candle> {
        self.open.as_ref().or(self.closed.back())
    }

    /// Takes a trade in.
    pub fn apply(&mut self, trade: &Trade) -> Applied {
        let at = time_of(trade);
        let start = start_of(self.interval, at);
        let mut applied = Applied::default();
        if is_ahead(trade) {
            applied.ahead = true;
            return applied;
        }
        let newest = self.newest().map(|bar| bar.start);
        match &mut self.open {
            Some(open) if open.start == start => applied.overflow = !open.add(at, trade),
            _ if newest.is_none_or(|newest| newest < start) => {
                applied.bars.extend(self.close().map(|bar| (bar, false)));
                self.open = Some(Candle::new(start, at, trade));
                applied.opened = true;
            }
            _ => self.correct(start, at, trade, &mut applied),
        }
        applied
    }

    /// Closes the forming bar if its end is not behind `now`.
    pub fn close_by(&mut self, now: UnixNanos) -> Option<Candle> {
        let end = self.open.as_ref()?.start.offset(self.interval.nanos());
        if end > now { None } else { self.close() }
    }

    fn close(&mut self) -> Option<Candle> {
        let bar = self.open.take()?;
        self.keep(bar.clone());
        Some(bar)
    }

    fn keep(&mut self, bar: Candle) {
        let at = self.closed.partition_point(|kept| kept.start < bar.start);
        self.closed.insert(at, bar);
        if self.closed.len() > KEPT
            && let Some(dropped) = self.closed.pop_front()
        {
            self.floor = Some(dropped.start);
        }
    }

    fn correct(&mut self, start: UnixNanos, at: UnixNanos, trade: &Trade, applied: &mut Applied) {
        applied.late = true;
        if let Some(bar) = self.closed.iter_mut().find(|bar| bar.start == start) {
            applied.overflow = !bar.add(at, trade);
            applied.bars.push((bar.clone(), true));
        } else if self.floor.is_some_and(|floor| start <= floor) {
            applied.too_late = true;
        } else {
            let bar = Candle::new(start, at, trade);
            self.keep(bar.clone());
            applied.bars.push((bar, true));
        }
    }
}

/// Adds a trade's value to a sum, if it stays within the limits.
pub(crate) fn add_value(sum: Decimal, trade: &Trade) -> Option<Decimal> {
    trade
        .price
        .get()
        .checked_mul(trade.size.get())
        .and_then(|value| sum.checked_add(value))
}

#[cfg(test)]
mod tests;
