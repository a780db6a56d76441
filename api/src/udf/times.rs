//! The time of a bar in UDF: its start, but 00:00 UTC of its trading day if it is a day or longer.
//!
//! TradingView adds the hours of the session itself, so a day that opens on the evening before in UTC
//! still has its own date. Of weeks and months the first trading day counts. What a client asks for by
//! these times is a range of starts again, so that its next page begins where the last one ended.

use jiff::civil::{Date, date};
use jiff::{SignedDuration, ToSpan as _};
use schemas::time::UnixNanos;

use crate::bars::{Calendar, Period, Resolution};

const FIRST_DAY: Date = date(1970, 1, 1);
const DAY: i64 = 86_400_000_000_000;
/// The most days in a row without trade that are looked through for the first trading day.
const MAX_CLOSED: usize = 31;

/// Starts of an instrument's bars, and their times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times<'a> {
    calendar: &'a Calendar,
    resolution: Resolution,
}

impl<'a> Times<'a> {
    /// Of bars of this length.
    pub(crate) const fn new(calendar: &'a Calendar, resolution: Resolution) -> Self {
        Self {
            calendar,
            resolution,
        }
    }

    /// The time of the bar that starts here.
    pub(crate) fn of(&self, start: UnixNanos) -> UnixNanos {
        if self.resolution.is_intraday() {
            return start;
        }
        let period = self.calendar.period(self.resolution, start);
        midnight(self.first_day(&period))
    }

    /// The start of the first bar whose time is `from` or later.
    pub(crate) fn start_from(&self, from: UnixNanos) -> UnixNanos {
        if self.resolution.is_intraday() {
            return from;
        }
        let days = from.get().div_euclid(DAY) + i64::from(!is_midnight(from));
        let first = FIRST_DAY.saturating_add(SignedDuration::from_hours(24 * days));
        let day = self.calendar.day_of(first);
        let period = self.calendar.period(self.resolution, day.start);
        if self.first_day(&period) < first {
            period.end
        } else {
            period.start
        }
    }

    /// Behind the starts of all bars whose times are before `to`.
    ///
    /// A `to` within a day is no bar's time but the client's clock: whatever has begun by then is
    /// before it too, although its date is tomorrow's in UTC.
    pub(crate) fn start_to(&self, to: UnixNanos) -> UnixNanos {
        let end = self.start_from(to);
        if is_midnight(to) { end } else { end.max(to) }
    }

    /// The first day of a period on which there is trade; its first day if there is none.
    fn first_day(&self, period: &Period) -> Date {
        if self.calendar.is_open(period.date) {
            return period.date;
        }
        let later = period.date.series(1.day()).skip(1).take(MAX_CLOSED);
        let mut within = later.take_while(|day| self.calendar.day_of(*day).start < period.end);
        let open = within.find(|day| self.calendar.is_open(*day));
        open.unwrap_or(period.date)
    }
}

fn is_midnight(at: UnixNanos) -> bool {
    at.get() % DAY == 0
}

fn midnight(day: Date) -> UnixNanos {
    let days = day.duration_since(FIRST_DAY).as_hours() / 24;
    UnixNanos::new(days.saturating_mul(DAY))
}

#[cfg(test)]
mod tests;
