//! Trading hours as TradingView writes them: `24x7`, `0930-1600`, `0930-1200,1300-1500`, `1800-1700`.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, Weekday};

/// Minutes of a day.
const DAY: i32 = 1_440;
const ALWAYS: &str = "24x7";
const WHOLE_DAY: &str = "0000-0000";
/// The most parts of a session.
const MAX_SPANS: usize = 8;

/// Why a text is no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Not hours.
    #[error(
        "session {0:?} is neither 24x7 nor 1 to {MAX_SPANS} spans such as 0930-1600, joined by commas, with the days behind a colon if need be (1 is Sunday)"
    )]
    Malformed(String),
    /// Parts that overlap, or more than a day.
    #[error("session {0:?} has spans that overlap or that together last longer than a day")]
    Overlap(String),
    /// Not a time zone.
    #[error("time zone {0:?} is not in the IANA database, such as UTC or Asia/Karachi")]
    Zone(String),
}

/// Hours of trade, and on which days of the week.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::bars) struct Session {
    /// Ascending; none is around the clock.
    spans: Vec<Span>,
    weekdays: Weekdays,
    /// Whether the text names the days.
    named: bool,
}

/// Hours without a break, in minutes of the day on which they end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bars) struct Span {
    /// Below zero where it is on the day before.
    pub(in crate::bars) open: i32,
    pub(in crate::bars) close: i32,
}

/// Days of the week, from Monday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bars) struct Weekdays([bool; 7]);

impl Default for Weekdays {
    fn default() -> Self {
        Self([true; 7])
    }
}

impl Weekdays {
    const WORKING: Self = Self([true, true, true, true, true, false, false]);

    pub(in crate::bars) fn contains(self, date: Date) -> bool {
        let at = date.weekday().to_monday_zero_offset();
        let day = usize::try_from(at).ok().and_then(|at| self.0.get(at));
        day.copied().unwrap_or(false)
    }
}

impl FromIterator<Weekday> for Weekdays {
    fn from_iter<T: IntoIterator<Item = Weekday>>(days: T) -> Self {
        let mut of = [false; 7];
        for day in days {
            let at = usize::try_from(day.to_monday_zero_offset()).unwrap_or(0);
            if let Some(open) = of.get_mut(at) {
                *open = true;
            }
        }
        Self(of)
    }
}

impl Session {
    pub(in crate::bars) fn spans(&self) -> &[Span] {
        &self.spans
    }

    pub(in crate::bars) const fn weekdays(&self) -> Weekdays {
        self.weekdays
    }

    /// The minute at which a day begins: below zero where it opens on the day before.
    pub(in crate::bars) fn begin(&self) -> i32 {
        self.spans.first().map_or(0, |span| span.open.min(0))
    }

    /// The hours of a day that ends at this minute, as TradingView writes them; `None` if none are left,
    /// or none are missing.
    pub(in crate::bars) fn until(&self, minute: i32) -> Option<String> {
        let left = self.spans.iter().filter(|span| span.open < minute);
        let cut = left.map(|span| Span {
            close: span.close.min(minute),
            ..*span
        });
        let cut: Vec<Span> = cut.collect();
        (!cut.is_empty() && cut != self.spans).then(|| hours(&cut))
    }

    /// The same hours on other days, unless the text named its own.
    pub(in crate::bars) fn on(self, weekdays: Option<Weekdays>) -> Self {
        match weekdays {
            Some(weekdays) if !self.named => Self { weekdays, ..self },
            Some(_) | None => self,
        }
    }
}

impl FromStr for Session {
    type Err = SessionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let quoted = || text.chars().take(64).collect::<String>();
        let malformed = || SessionError::Malformed(quoted());
        let (hours, days) = match text.split_once(':') {
            None => (text, None),
            Some((hours, days)) => (hours, Some(weekdays(days).ok_or_else(malformed)?)),
        };
        let mut spans = Vec::new();
        let mut usual = Weekdays::default();
        if hours != ALWAYS {
            usual = Weekdays::WORKING;
            for part in hours.split(',').take(MAX_SPANS + 1) {
                spans.push(span(part).ok_or_else(malformed)?);
            }
        }
        if spans.len() > MAX_SPANS {
            return Err(malformed());
        }
        spans.sort_by_key(|span| span.open);
        let apart = spans.is_sorted_by(|one, next| one.close <= next.open);
        let ends = spans.first().zip(spans.last());
        if !apart || ends.is_some_and(|(first, last)| last.close - first.open > DAY) {
            return Err(SessionError::Overlap(quoted()));
        }
        Ok(Self {
            spans,
            weekdays: days.unwrap_or(usual),
            named: days.is_some(),
        })
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.spans.as_slice() {
            // It knows no days: around the clock on some of them is written as hours.
            [] if self.weekdays == Weekdays::default() => return f.write_str(ALWAYS),
            [] => f.write_str(WHOLE_DAY)?,
            spans => f.write_str(&hours(spans))?,
        }
        if !self.spans.is_empty() && self.weekdays == Weekdays::WORKING {
            return Ok(());
        }
        f.write_str(":")?;
        let days = (1..).zip(Weekday::Sunday.cycle_forward().take(7));
        for (number, day) in days {
            let at = usize::try_from(day.to_monday_zero_offset()).unwrap_or(0);
            if self.weekdays.0.get(at) == Some(&true) {
                write!(f, "{number}")?;
            }
        }
        Ok(())
    }
}

/// Spans as TradingView writes them.
fn hours(spans: &[Span]) -> String {
    let clock = |minute: i32| {
        let minute = minute.rem_euclid(DAY);
        format!("{:02}{:02}", minute / 60, minute % 60)
    };
    let span = |span: &Span| format!("{}-{}", clock(span.open), clock(span.close));
    spans.iter().map(span).collect::<Vec<_>>().join(",")
}

/// Minutes of the day of `0930`; up to 2400.
pub(in crate::bars) fn clock(text: &str) -> Option<i32> {
    let digits = text.len() == 4 && text.bytes().all(|digit| digit.is_ascii_digit());
    let (hours, minutes) = digits.then(|| text.split_at_checked(2)).flatten()?;
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY).then_some(minute)
}

fn span(text: &str) -> Option<Span> {
    let (open, close) = text.split_once('-')?;
    let (open, close) = (clock(open)?, clock(close)?);
    let close = if close == 0 { DAY } else { close };
    let open = if open < close { open } else { open - DAY };
    (open < DAY).then_some(Span { open, close })
}

/// Days as digits, 1 is Sunday.
fn weekdays(text: &str) -> Option<Weekdays> {
    if text.is_empty() || text.len() > 7 {
        return None;
    }
    let day = |digit: char| {
        let number = digit.to_digit(10).and_then(|n| i8::try_from(n).ok())?;
        Weekday::from_sunday_one_offset(number).ok()
    };
    text.chars().map(day).collect()
}
