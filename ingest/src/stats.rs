//! Session summaries from trades. Pure; a session is a UTC day.

use rust_decimal::Decimal;
use schemas::decimal::{Price, Size, Value};
use schemas::id::Interval;
use schemas::tick::{Head, Stat, Trade};
use schemas::time::UnixNanos;

use crate::bars::{add_value, is_ahead, start_of, time_of};

/// Digits behind the point of computed averages and percentages.
const DIGITS: u32 = 8;

/// What became of a trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is in the summary.
    In,
    /// It belongs to a day before, whose summary is over.
    Past,
    /// It is dated too far ahead.
    Ahead,
    /// A sum would go beyond its limits.
    Overflow,
}

/// The running summary of one instrument.
#[derive(Clone, Debug, Default)]
pub struct Session {
    day: Option<UnixNanos>,
    figures: Option<Figures>,
    previous_close: Option<Price>,
}

#[derive(Clone, Debug)]
struct Figures {
    open: Price,
    high: Price,
    low: Price,
    last: Price,
    last_at: UnixNanos,
    volume: Size,
    turnover: Decimal,
}

impl Session {
    /// Goes on behind what was published.
    pub fn restored(stat: &Stat) -> Self {
        let at = stat.head.event.unwrap_or(stat.head.received);
        let figures = || {
            Some(Figures {
                open: stat.open?,
                high: stat.high?,
                low: stat.low?,
                last: stat.last?,
                last_at: at,
                volume: stat.volume?,
                turnover: stat.turnover?.get(),
            })
        };
        Self {
            day: Some(start_of(Interval::Day1, at)),
            figures: figures(),
            previous_close: stat.previous_close,
        }
    }

    /// Takes a trade in, if it is of this day or a later one, and not dated too far ahead.
    pub fn apply(&mut self, trade: &Trade) -> Taken {
        if is_ahead(trade) {
            return Taken::Ahead;
        }
        let at = time_of(trade);
        let day = start_of(Interval::Day1, at);
        if self.day.is_some_and(|current| day < current) {
            return Taken::Past;
        }
        if self.day != Some(day) {
            self.previous_close = self
                .figures
                .take()
                .map(|figures| figures.last)
                .or(self.previous_close);
            self.day = Some(day);
        }
        let Some(figures) = &mut self.figures else {
            let Some(turnover) = add_value(Decimal::ZERO, trade) else {
                return Taken::Overflow;
            };
            let (price, volume) = (trade.price, trade.size);
            self.figures = Some(Figures {
                open: price,
                high: price,
                low: price,
                last: price,
                last_at: at,
                volume,
                turnover,
            });
            return Taken::In;
        };
        let volume = figures
            .volume
            .get()
            .checked_add(trade.size.get())
            .map(Size::new);
        let (Some(Ok(volume)), Some(turnover)) = (volume, add_value(figures.turnover, trade))
        else {
            return Taken::Overflow;
        };
        (figures.volume, figures.turnover) = (volume, turnover);
        figures.high = figures.high.max(trade.price);
        figures.low = figures.low.min(trade.price);
        if at >= figures.last_at {
            (figures.last_at, figures.last) = (at, trade.price);
        }
        Taken::In
    }

    /// The summary as a tick; `None` before the first trade of a session.
    pub fn stat(&self, mut head: Head) -> Option<Stat> {
        let figures = self.figures.as_ref()?;
        head.event = Some(figures.last_at);
        let reference = self.previous_close.unwrap_or(figures.open).get();
        let change = figures.last.get() - reference;
        let percent = (change * Decimal::ONE_HUNDRED).checked_div(reference);
        let vwap = figures.turnover.checked_div(figures.volume.get());
        let rounded = |value: Decimal| value.round_dp(DIGITS).normalize();
        Some(Stat {
            head,
            open: Some(figures.open),
            high: Some(figures.high),
            low: Some(figures.low),
            last: Some(figures.last),
            previous_close: self.previous_close,
            volume: Some(figures.volume),
            turnover: Value::new(figures.turnover).ok(),
            vwap: vwap.and_then(|vwap| Price::new(rounded(vwap)).ok()),
            open_interest: None,
            change: Value::new(change).ok(),
            change_percent: percent.and_then(|percent| Value::new(rounded(percent)).ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use schemas::id::{Symbol, Venue};
    use schemas::tick::Side;

    use super::*;

    fn trade(at_hours: i64, price: &str, size: &str) -> Trade {
        let at = UnixNanos::new(at_hours * 3_600_000_000_000);
        Trade {
            head: Head::new(Venue::new("x").unwrap(), Symbol::new("A").unwrap(), at),
            id: "1".to_owned(),
            price: price.parse().unwrap(),
            size: size.parse().unwrap(),
            side: Side::Unknown,
            conditions: None,
        }
    }

    #[test]
    fn a_new_day_starts_from_the_last_close() {
        let mut session = Session::default();
        assert_eq!(session.apply(&trade(1, "10", "2")), Taken::In);
        assert_eq!(session.apply(&trade(2, "12", "2")), Taken::In);
        let first = session.stat(trade(2, "1", "1").head).unwrap();
        let shown = [
            first.vwap.unwrap().to_string(),
            first.change_percent.unwrap().to_string(),
        ];
        assert_eq!(shown, ["11", "20"]);
        assert_eq!(session.apply(&trade(25, "15", "1")), Taken::In);
        let second = session.stat(trade(25, "1", "1").head).unwrap();
        assert_eq!(
            second.previous_close.map(|p| p.to_string()).as_deref(),
            Some("12")
        );
        assert_eq!(second.change.map(|c| c.to_string()).as_deref(), Some("3"));
        assert_eq!(second.volume.map(|v| v.to_string()).as_deref(), Some("1"));
        assert_eq!(session.apply(&trade(3, "99", "1")), Taken::Past);
        assert_eq!(
            session.stat(trade(25, "1", "1").head).unwrap(),
            second,
            "a trade of yesterday changes nothing"
        );
    }

    #[test]
    fn a_restart_changes_nothing() {
        let mut whole = Session::default();
        let trades: Vec<Trade> = (1..20)
            .map(|n| trade(n * 3, &n.to_string(), "1.5"))
            .collect();
        let mut cut = Session::default();
        for trade in &trades {
            whole.apply(trade);
            let stat = cut.stat(trade.head.clone());
            cut = stat.map_or(cut, |stat| Session::restored(&stat));
            cut.apply(trade);
        }
        let head = trades[0].head.clone();
        assert_eq!(whole.stat(head.clone()), cut.stat(head));
    }
}
