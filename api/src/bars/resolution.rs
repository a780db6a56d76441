//! How long the bars are that somebody asks for: whole seconds to years, in our spelling and in UDF's.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use schemas::id::Interval;
use serde::{Deserialize, Serialize};

/// Seconds of a minute, an hour and a day.
const MINUTE: u32 = 60;
const HOUR: u32 = 3_600;
pub(super) const DAY: u32 = 86_400;
/// The longest in days, in weeks and in months.
const MAX_DAYS: u32 = 365;
const MAX_WEEKS: u32 = 52;
const MAX_MONTHS: u32 = 120;

/// The length of bars: `1s`, `5m`, `4h`, `1d`, `1w`, `1M` (months; minutes are `m`), `1y`.
///
/// Equal lengths are equal and written with the largest unit: `60s` is `1m`, `12M` is `1y`. A week is
/// not seven days, as weeks begin on Monday.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Resolution(Length);

/// A number of what clocks or calendars count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Length {
    /// Less than a day.
    Seconds(u32),
    Days(u32),
    Weeks(u32),
    Months(u32),
}

/// Why a text is no resolution.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolutionError {
    /// Not a number and a unit.
    #[error(
        "resolution {0:?} is not a number and one of s, m (minutes), h, d, w, M (months) and y, such as 5m"
    )]
    Malformed(String),
    /// Not what UDF writes.
    #[error(
        "resolution {0:?} is not minutes as a number, nor a number and one of S, D, W and M, such as 1D"
    )]
    NotUdf(String),
    /// Too short or too long.
    #[error(
        "resolution {0:?} must be at least 1 and at most 86399s, 1439m, 23h, {MAX_DAYS}d, {MAX_WEEKS}w, {MAX_MONTHS}M or 10y"
    )]
    Limit(String),
}

impl Resolution {
    /// One day.
    pub const DAY: Self = Self(Length::Days(1));

    /// Reads what UDF writes: `1` is a minute, `60` an hour, `1S` a second, `D` and `1D` a day, and so
    /// are weeks `W` and months `M`.
    ///
    /// # Errors
    ///
    /// [`ResolutionError`] names what it may be.
    pub fn from_udf(text: &str) -> Result<Self, ResolutionError> {
        let malformed = || ResolutionError::NotUdf(start_of(text));
        let (count, unit) = match text.strip_suffix(['S', 'D', 'W', 'M']) {
            None => (text, 'm'),
            Some(count) => {
                let unit = text.chars().last().ok_or_else(malformed)?;
                let unit = if unit == 'M' {
                    unit
                } else {
                    unit.to_ascii_lowercase()
                };
                (count, unit)
            }
        };
        let count = match count {
            "" if unit != 'm' => "1",
            count => count,
        };
        Self::of(count, unit, malformed, text)
    }

    /// As UDF writes it.
    pub fn to_udf(self) -> String {
        match self.0 {
            Length::Seconds(seconds) if seconds % MINUTE == 0 => (seconds / MINUTE).to_string(),
            Length::Seconds(seconds) => format!("{seconds}S"),
            Length::Days(days) => format!("{days}D"),
            Length::Weeks(weeks) => format!("{weeks}W"),
            Length::Months(months) => format!("{months}M"),
        }
    }

    /// Whether it is shorter than a day.
    pub const fn is_intraday(self) -> bool {
        matches!(self.0, Length::Seconds(_))
    }

    /// The interval of ticks that is as long, if there is one.
    pub fn interval(self) -> Option<Interval> {
        let of = |interval: &&Interval| Self::from(**interval) == self;
        Interval::ALL.iter().find(of).copied()
    }

    pub(super) const fn length(self) -> Length {
        self.0
    }

    fn of(
        count: &str,
        unit: char,
        malformed: impl Fn() -> ResolutionError,
        text: &str,
    ) -> Result<Self, ResolutionError> {
        if count.is_empty() || !count.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(malformed());
        }
        let limit = || ResolutionError::Limit(start_of(text));
        let count: u32 = count.parse().map_err(|_| limit())?;
        let times = |unit: u32| count.checked_mul(unit).ok_or_else(limit);
        let (length, size, max) = match unit {
            's' => (Length::Seconds(count), count, DAY - 1),
            'm' => (Length::Seconds(times(MINUTE)?), times(MINUTE)?, DAY - 1),
            'h' => (Length::Seconds(times(HOUR)?), times(HOUR)?, DAY - 1),
            'd' => (Length::Days(count), count, MAX_DAYS),
            'w' => (Length::Weeks(count), count, MAX_WEEKS),
            'M' => (Length::Months(count), count, MAX_MONTHS),
            'y' => (Length::Months(times(12)?), times(12)?, MAX_MONTHS),
            _ => return Err(malformed()),
        };
        if size == 0 || size > max {
            return Err(limit());
        }
        Ok(Self(length))
    }
}

impl From<Interval> for Resolution {
    fn from(interval: Interval) -> Self {
        Self(match interval {
            Interval::Second1 => Length::Seconds(1),
            Interval::Minute1 => Length::Seconds(MINUTE),
            Interval::Minute5 => Length::Seconds(5 * MINUTE),
            Interval::Minute15 => Length::Seconds(15 * MINUTE),
            Interval::Hour1 => Length::Seconds(HOUR),
            Interval::Day1 => Length::Days(1),
        })
    }
}

impl FromStr for Resolution {
    type Err = ResolutionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ResolutionError::Malformed(start_of(text));
        let unit = text.chars().last().ok_or_else(malformed)?;
        let count = text.strip_suffix(unit).unwrap_or_default();
        Self::of(count, unit, malformed, text)
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Length::Seconds(seconds) if seconds % HOUR == 0 => write!(f, "{}h", seconds / HOUR),
            Length::Seconds(seconds) if seconds % MINUTE == 0 => {
                write!(f, "{}m", seconds / MINUTE)
            }
            Length::Seconds(seconds) => write!(f, "{seconds}s"),
            Length::Days(days) => write!(f, "{days}d"),
            Length::Weeks(weeks) => write!(f, "{weeks}w"),
            Length::Months(months) if months % 12 == 0 => write!(f, "{}y", months / 12),
            Length::Months(months) => write!(f, "{months}M"),
        }
    }
}

impl TryFrom<String> for Resolution {
    type Error = ResolutionError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Resolution> for String {
    fn from(resolution: Resolution) -> Self {
        resolution.to_string()
    }
}

impl JsonSchema for Resolution {
    fn schema_name() -> Cow<'static, str> {
        "Resolution".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^0*[1-9][0-9]{0,4}[smhdwMy]$" })
    }
}

fn start_of(text: &str) -> String {
    text.chars().take(16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_and_written_with_the_largest_unit() {
        for (text, written, udf) in [
            ("1s", "1s", "1S"),
            ("5s", "5s", "5S"),
            ("90s", "90s", "90S"),
            ("60s", "1m", "1"),
            ("3m", "3m", "3"),
            ("90m", "90m", "90"),
            ("60m", "1h", "60"),
            ("4h", "4h", "240"),
            ("23h", "23h", "1380"),
            ("1d", "1d", "1D"),
            ("7d", "7d", "7D"),
            ("1w", "1w", "1W"),
            ("1M", "1M", "1M"),
            ("12M", "1y", "12M"),
            ("1y", "1y", "12M"),
            ("10y", "10y", "120M"),
        ] {
            let resolution: Resolution = text.parse().unwrap();
            assert_eq!(resolution.to_string(), written, "{text}");
            assert_eq!(written.parse(), Ok(resolution), "{text}");
            assert_eq!(resolution.to_udf(), udf, "{text}");
            assert_eq!(Resolution::from_udf(udf), Ok(resolution), "{text}");
            let json = serde_json::to_string(&resolution).unwrap();
            assert_eq!(json, format!("\"{written}\""));
            assert_eq!(
                serde_json::from_str::<Resolution>(&json).unwrap(),
                resolution
            );
        }
    }

    #[test]
    fn udf_may_leave_out_the_one() {
        for (short, long) in [("S", "1S"), ("D", "1D"), ("W", "1W"), ("M", "1M")] {
            assert_eq!(Resolution::from_udf(short), Resolution::from_udf(long));
        }
        assert_eq!(Resolution::from_udf("M").unwrap().to_string(), "1M");
        assert_eq!(Resolution::from_udf("1").unwrap().to_string(), "1m");
    }

    #[test]
    fn nonsense_and_excess_are_refused_by_name() {
        for text in [
            "", "m", "5", "1D", "1H", "-1m", "+1m", "1.5h", " 1m", "1m ", "1µ", "١m", "1ms",
        ] {
            let refused = text.parse::<Resolution>().unwrap_err();
            assert!(
                matches!(refused, ResolutionError::Malformed(_)),
                "{text}: {refused}"
            );
        }
        for text in ["", "m", "1m", "1H", "1h", "-1", "1DD", "1y", "D1"] {
            let refused = Resolution::from_udf(text).unwrap_err();
            assert!(
                matches!(refused, ResolutionError::NotUdf(_)),
                "{text}: {refused}"
            );
        }
        for text in [
            "0s",
            "0M",
            "24h",
            "1440m",
            "86400s",
            "366d",
            "53w",
            "121M",
            "11y",
            "99999999999999m",
            "4294967295h",
        ] {
            let refused = text.parse::<Resolution>().unwrap_err();
            assert!(
                matches!(refused, ResolutionError::Limit(_)),
                "{text}: {refused}"
            );
        }
        for text in ["0", "1440", "0D", "121M"] {
            let refused = Resolution::from_udf(text).unwrap_err();
            assert!(
                matches!(refused, ResolutionError::Limit(_)),
                "{text}: {refused}"
            );
        }
    }

    #[test]
    fn intervals_of_ticks_are_resolutions() {
        for &interval in Interval::ALL {
            let resolution = Resolution::from(interval);
            assert_eq!(resolution.to_string(), interval.as_str());
            assert_eq!(resolution.interval(), Some(interval));
        }
        assert_eq!("3m".parse::<Resolution>().unwrap().interval(), None);
    }
}
