//! Where a bar begins and ends: trading days in a time zone, and what is counted from them. Pure.

mod dates;
mod session;

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use schemas::id::Interval;
use schemas::time::UnixNanos;

use super::resolution::{DAY, Length, Resolution};

use dates::{FIRST_DAY, days_of, months_of, moved, weeks_of};
pub use session::SessionError;
pub(super) use session::{Session, Weekdays, clock};

const SECOND: i64 = 1_000_000_000;
const MINUTE: u32 = 60;
/// The most holidays in a row that belong to the day after them.
const MAX_MERGED: usize = 31;
/// Offsets of a time zone count from here on, and so many changes of it.
const OFFSETS_FROM: Timestamp = Timestamp::constant(946_684_800, 0);
const MAX_CHANGES: usize = 256;

/// The days and hours of a venue or an instrument.
#[derive(Clone, Debug)]
pub struct Calendar {
    zone: TimeZone,
    session: Session,
    closed: Closed,
    /// Of what in seconds every beginning of a day is a multiple, in UTC.
    day_grain: u32,
    /// The same of every opening and close.
    grain: u32,
}

/// When there is no trade although the weekday says so.
#[derive(Clone, Debug, Default)]
pub(super) struct Closed {
    /// Whole days.
    pub(super) holidays: BTreeSet<Date>,
    /// Minutes of the day at which trade ends early.
    pub(super) early: BTreeMap<Date, i32>,
}

/// The time of one bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its beginning.
    pub start: UnixNanos,
    /// The beginning of the next one.
    pub end: UnixNanos,
    /// The trading day that it lies in, or its first calendar day if it is longer.
    pub date: Date,
}

/// One trading day.
#[derive(Clone, Debug)]
struct Day {
    date: Date,
    start: i64,
    end: i64,
    /// Openings and closes within, ascending.
    marks: Vec<i64>,
}

/// Periods of one calendar and length, quick where times lie close together.
#[derive(Clone, Debug)]
pub(super) struct Grid<'a> {
    calendar: &'a Calendar,
    resolution: Resolution,
    day: Option<Day>,
    period: Option<Period>,
}

impl Default for Calendar {
    /// 24x7 in UTC.
    fn default() -> Self {
        Self::new(TimeZone::UTC, Session::default(), Closed::default())
    }
}

impl Calendar {
    pub(super) fn new(zone: TimeZone, session: Session, closed: Closed) -> Self {
        let day_grain = offsets(&zone).fold(DAY, gcd);
        let day_grain = gcd(day_grain, seconds(session.begin()));
        let spans = session.spans().iter();
        let marks = spans.flat_map(|span| [span.open, span.close]);
        let marks = marks.chain(closed.early.values().copied());
        let grain = marks.fold(day_grain, |grain, mark| gcd(grain, seconds(mark)));
        Self {
            zone,
            session,
            closed,
            day_grain,
            grain,
        }
    }

    /// The period that contains `at`.
    pub fn period(&self, resolution: Resolution, at: UnixNanos) -> Period {
        Grid::new(self, resolution).period(at)
    }

    /// The trading day that a date belongs to.
    pub fn day_of(&self, date: Date) -> Period {
        let date = self.trading(date);
        self.long((date, moved(date, 1)))
    }

    /// Whether bars of `resolution` can be made of stored bars of `interval`.
    pub fn serves(&self, interval: Interval, resolution: Resolution) -> bool {
        let part = u32::try_from(interval.nanos() / SECOND).unwrap_or(u32::MAX);
        match resolution.length() {
            Length::Seconds(seconds) => {
                seconds.is_multiple_of(part) && self.grain.is_multiple_of(part)
            }
            Length::Days(_) | Length::Weeks(_) | Length::Months(_) => {
                self.day_grain.is_multiple_of(part)
            }
        }
    }

    /// Whether there is trade on a day at all.
    pub fn is_open(&self, date: Date) -> bool {
        self.session.weekdays().contains(date) && !self.closed.holidays.contains(&date)
    }

    /// IANA name of the time zone.
    pub fn zone(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// Trading hours as TradingView writes them.
    pub fn session(&self) -> String {
        self.session.to_string()
    }

    /// Days without trade, ascending.
    pub fn holidays(&self) -> impl Iterator<Item = Date> {
        self.closed.holidays.iter().copied()
    }

    /// Days on which trade ends early, ascending, with their hours as TradingView writes them.
    pub fn early_closes(&self) -> impl Iterator<Item = (Date, String)> {
        let early = self.closed.early.iter();
        let open = early.filter(|(date, _)| self.is_open(**date));
        open.filter_map(|(date, minute)| Some((*date, self.session.until(*minute)?)))
    }

    /// When a calendar day begins, whichever trading day it belongs to.
    fn begin(&self, date: Date) -> i64 {
        self.at(date, self.session.begin())
    }

    /// A minute of a day, which may be one of the day before.
    fn at(&self, date: Date, minute: i32) -> i64 {
        let minutes = SignedDuration::from_mins(minute.into());
        let local = DateTime::from(date).saturating_add(minutes);
        let at = self.zone.to_timestamp(local).map(Timestamp::as_nanosecond);
        let end = if date < FIRST_DAY { i64::MIN } else { i64::MAX };
        at.ok().and_then(|at| i64::try_from(at).ok()).unwrap_or(end)
    }

    /// The trading day that a calendar day belongs to: it never goes back.
    fn trading(&self, date: Date) -> Date {
        if self.session.begin() == 0 || !self.session.weekdays().contains(date) {
            return date;
        }
        let mut day = date;
        for _ in 0..=MAX_MERGED {
            if self.is_open(day) {
                return day;
            }
            if !self.session.weekdays().contains(day) {
                break;
            }
            day = moved(day, 1);
        }
        date
    }

    /// Where the trading days from `date` on begin.
    fn boundary(&self, date: Date) -> i64 {
        let mut first = date;
        for _ in 0..=MAX_MERGED {
            let before = moved(first, -1);
            if self.trading(before) < date {
                break;
            }
            first = before;
        }
        self.begin(first)
    }

    fn day(&self, at: UnixNanos) -> Day {
        let nanos = at.get();
        let local = Timestamp::from_nanosecond(nanos.into()).map(|at| self.zone.to_datetime(at));
        let mut date = local.map_or(FIRST_DAY, DateTime::date);
        // A clock that is put back over midnight has this date twice.
        if nanos < self.begin(date) {
            date = moved(date, -1);
        } else if nanos >= self.begin(moved(date, 1)) {
            date = moved(date, 1);
        }
        let date = self.trading(date);
        let (start, end) = (self.boundary(date), self.boundary(moved(date, 1)));
        Day {
            date,
            start,
            end,
            marks: self.marks(date, start, end),
        }
    }

    fn marks(&self, date: Date, start: i64, end: i64) -> Vec<i64> {
        if !self.is_open(date) {
            return Vec::new();
        }
        let early = self.closed.early.get(&date).copied().unwrap_or(i32::MAX);
        let spans = self.session.spans().iter();
        spans
            .filter(|span| span.open < early)
            .flat_map(|span| [span.open, span.close.min(early)])
            .map(|minute| self.at(date, minute))
            .filter(|mark| (start..end).contains(mark))
            .collect()
    }

    /// The period of the trading days from the first to the one before the next.
    fn long(&self, (date, next): (Date, Date)) -> Period {
        let nanos = |date| UnixNanos::new(self.boundary(date));
        Period {
            start: nanos(date),
            end: nanos(next),
            date,
        }
    }
}

impl<'a> Grid<'a> {
    pub(super) const fn new(calendar: &'a Calendar, resolution: Resolution) -> Self {
        Self {
            calendar,
            resolution,
            day: None,
            period: None,
        }
    }

    /// The period that contains `at`.
    pub(super) fn period(&mut self, at: UnixNanos) -> Period {
        if let Some(period) = self.period.filter(|period| period.contains(at)) {
            return period;
        }
        let nanos = at.get();
        let known = self.day.take();
        let day = known
            .filter(|day| (day.start..day.end).contains(&nanos))
            .unwrap_or_else(|| self.calendar.day(at));
        let period = match self.resolution.length() {
            Length::Seconds(seconds) => day.part(nanos, seconds),
            Length::Days(days) => self.calendar.long(days_of(day.date, days)),
            Length::Weeks(weeks) => self.calendar.long(weeks_of(day.date, weeks)),
            Length::Months(months) => self.calendar.long(months_of(day.date, months)),
        };
        self.day = Some(day);
        *self.period.insert(period)
    }
}

impl Period {
    fn contains(&self, at: UnixNanos) -> bool {
        (self.start..self.end).contains(&at)
    }
}

impl Day {
    fn part(&self, at: i64, seconds: u32) -> Period {
        let behind = self.marks.partition_point(|mark| *mark <= at);
        let first = behind
            .checked_sub(1)
            .and_then(|before| self.marks.get(before));
        let from = first.copied().unwrap_or(self.start);
        let to = self.marks.get(behind).copied().unwrap_or(self.end);
        let length = i64::from(seconds) * SECOND;
        let start = from.saturating_add((at.saturating_sub(from)) / length * length);
        Period {
            start: UnixNanos::new(start),
            end: UnixNanos::new(start.saturating_add(length).min(to)),
            date: self.date,
        }
    }
}

/// Offsets from UTC in seconds.
fn offsets(zone: &TimeZone) -> impl Iterator<Item = u32> {
    let first = zone.to_offset(OFFSETS_FROM);
    let later = zone.following(OFFSETS_FROM).take(MAX_CHANGES);
    std::iter::once(first)
        .chain(later.map(|change| change.offset()))
        .map(|offset| offset.seconds().unsigned_abs())
}

const fn seconds(minute: i32) -> u32 {
    minute.unsigned_abs().saturating_mul(MINUTE)
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests;
