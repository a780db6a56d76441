//! Groups of calendar days: days, weeks and months from where they are counted.

use jiff::SignedDuration;
use jiff::civil::{Date, date};

/// From where days are counted: a Thursday.
pub(super) const FIRST_DAY: Date = date(1970, 1, 1);
/// The Monday before it.
const FIRST_MONDAY: Date = date(1969, 12, 29);

/// A day some days later, or earlier.
pub(super) fn moved(date: Date, days: i64) -> Date {
    date.saturating_add(SignedDuration::from_hours(24 * days))
}

/// The first of the `of` days that `day` is one of, and the first day behind them.
pub(super) fn days_of(day: Date, of: u32) -> (Date, Date) {
    group(FIRST_DAY, day, of)
}

/// The same of weeks.
pub(super) fn weeks_of(day: Date, of: u32) -> (Date, Date) {
    group(FIRST_MONDAY, day, of.saturating_mul(7))
}

/// The same of months.
pub(super) fn months_of(day: Date, of: u32) -> (Date, Date) {
    let of = i32::try_from(of).unwrap_or(i32::MAX);
    let month = i32::from(day.year()) * 12 + i32::from(day.month()) - 1;
    let start = month.div_euclid(of).saturating_mul(of);
    let first_of = |month: i32| {
        let year = i16::try_from(month.div_euclid(12)).ok()?;
        let month = i8::try_from(month.rem_euclid(12) + 1).ok()?;
        Date::new(year, month, 1).ok()
    };
    let first = first_of(start).unwrap_or(Date::MIN);
    let next = first_of(start.saturating_add(of)).unwrap_or(Date::MAX);
    (first, next)
}

fn group(first: Date, day: Date, of: u32) -> (Date, Date) {
    let of = i64::from(of);
    let days = day.duration_since(first).as_hours() / 24;
    let start = days.div_euclid(of).saturating_mul(of);
    (moved(first, start), moved(first, start.saturating_add(of)))
}
