//! The answer to `/udf/history`: closed bars of the database, and the forming one behind them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write as _;

use rust_decimal::Decimal;
use schemas::decimal::Price;
use schemas::http::{Candle, Position};
use schemas::id::Interval;
use schemas::tick::Form;
use schemas::time::UnixNanos;

use super::times::Times;
/// The most bars of one answer: of more, the latest.
pub(crate) const MAX_BARS: u32 = 10_000;

/// A bar as UDF gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ohlc {
    /// Start.
    pub(crate) start: UnixNanos,
    /// First price.
    pub(crate) open: Decimal,
    /// Highest price.
    pub(crate) high: Decimal,
    /// Lowest price.
    pub(crate) low: Decimal,
    /// Last price.
    pub(crate) close: Decimal,
    /// Traded quantity.
    pub(crate) volume: Decimal,
}

impl From<&Candle> for Ohlc {
    fn from(candle: &Candle) -> Self {
        let [open, high, low, close] =
            [candle.open, candle.high, candle.low, candle.close].map(Price::get);
        Self {
            start: candle.start,
            open,
            high,
            low,
            close,
            volume: candle.volume.get(),
        }
    }
}

impl From<&Form> for Ohlc {
    fn from(form: &Form) -> Self {
        let [open, high, low, close] = [form.open, form.high, form.low, form.close].map(Price::get);
        Self {
            start: form.start,
            open,
            high,
            low,
            close,
            volume: form.volume.get(),
        }
    }
}

/// An answer that is ready to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Bars, oldest first.
    pub(crate) bars: Vec<Ohlc>,
    /// Whether the last one is still forming.
    pub(crate) forming: bool,
    /// The interval under which live messages bring these very bars, if they do.
    pub(crate) published: Option<Interval>,
    /// Where there are none: the start of the latest bar before the range.
    pub(crate) earlier: Option<UnixNanos>,
    /// From where live messages continue the answer, where it reaches the newest bar.
    pub(crate) pos: BTreeMap<String, Position>,
}

impl Answer {
    /// Adds the forming bar of a range, in place of what is recorded of it so far, and keeps the latest
    /// `limit` bars.
    pub(crate) fn push(&mut self, form: &Form, range: (UnixNanos, UnixNanos), limit: usize) {
        let (from, to) = range;
        if form.start < from || form.start >= to {
            return;
        }
        match self.bars.last() {
            Some(newest) if form.start < newest.start => return,
            Some(newest) if form.start == newest.start => {
                // Volumes only grow: the larger one is the later one.
                if !self.forming || newest.volume > form.volume.get() {
                    return;
                }
                self.bars.pop();
            }
            Some(_) | None => {}
        }
        self.bars.push(form.into());
        self.forming = true;
        let surplus = self.bars.len().saturating_sub(limit);
        self.bars.drain(..surplus);
    }

    /// Writes the answer. `forming`, `live` and `pos` are ours: a client that does not know them
    /// ignores them.
    pub(crate) fn write(&self, times: &Times<'_>) -> Vec<u8> {
        let mut body = Vec::with_capacity(64 * (self.bars.len() + 4));
        let state = if self.bars.is_empty() {
            "no_data"
        } else {
            "ok"
        };
        put(&mut body, format_args!("{{\"s\":\"{state}\""));
        if self.bars.is_empty() {
            if let Some(earlier) = self.earlier {
                let time = times.of(earlier).seconds();
                put(&mut body, format_args!(",\"nextTime\":{time}"));
            }
        } else {
            self.column(&mut body, 't', |bar| times.of(bar.start).seconds());
            self.column(&mut body, 'o', |bar| bar.open);
            self.column(&mut body, 'h', |bar| bar.high);
            self.column(&mut body, 'l', |bar| bar.low);
            self.column(&mut body, 'c', |bar| bar.close);
            self.column(&mut body, 'v', |bar| bar.volume);
        }
        if self.forming {
            put(&mut body, ",\"forming\":true");
        }
        if let Some(interval) = self.published {
            put(&mut body, format_args!(",\"live\":\"{interval}\""));
        }
        if !self.pos.is_empty()
            && let Ok(pos) = serde_json::to_string(&self.pos)
        {
            put(&mut body, format_args!(",\"pos\":{pos}"));
        }
        put(&mut body, '}');
        body
    }

    fn column<T: Display>(&self, body: &mut Vec<u8>, name: char, of: impl Fn(&Ohlc) -> T) {
        put(body, format_args!(",\"{name}\":"));
        let mut before = '[';
        for bar in &self.bars {
            put(body, format_args!("{before}{}", of(bar)));
            before = ',';
        }
        put(body, ']');
    }
}

fn put(body: &mut Vec<u8>, text: impl Display) {
    // Writing into a Vec cannot fail.
    let _infallible = write!(body, "{text}");
}

#[cfg(test)]
mod tests {
    use schemas::position::{Cursor, Epoch, StreamSeq};
    use serde_json::{Value, json};

    use super::*;
    use crate::bars::Calendar;
    use crate::store::Progress;

    const SECOND: i64 = 1_000_000_000;

    fn form(start: i64) -> Form {
        let start = start * SECOND;
        serde_json::from_value(json!({
            "v": "x", "y": "A", "tr": "1", "iv": "1m", "t0": start.to_string(),
            "o": "1.0", "h": "3", "l": "0.5", "c": "2.50", "vo": "10", "n": 4,
        }))
        .unwrap()
    }

    fn recorded(floor: u64) -> Progress {
        let floor = Cursor::new(StreamSeq::new(floor), UnixNanos::new(7));
        let epoch = Epoch::new(UnixNanos::new(5), 0);
        Progress { epoch, floor }
    }

    fn at(start: i64) -> Ohlc {
        Ohlc::from(&form(start))
    }

    fn range(from: i64, to: i64) -> (UnixNanos, UnixNanos) {
        (UnixNanos::new(from * SECOND), UnixNanos::new(to * SECOND))
    }

    fn written(answer: &Answer) -> Vec<u8> {
        let calendar = Calendar::default();
        answer.write(&Times::new(&calendar, "1m".parse().unwrap()))
    }

    fn json(answer: &Answer) -> Value {
        serde_json::from_slice(&written(answer)).unwrap()
    }

    #[test]
    fn the_forming_bar_is_the_last_of_the_range() {
        let mut answer = Answer {
            bars: vec![at(0), at(60)],
            ..Answer::default()
        };
        for outside in [range(0, 120), range(121, 300)] {
            answer.push(&form(120), outside, 5);
            assert!(!answer.forming, "{outside:?}");
        }
        answer.push(&form(60), range(0, 300), 5);
        assert!(!answer.forming, "the closed one is there");
        answer.forming = true;
        answer.bars[1].close = Decimal::ONE;
        answer.push(&form(0), range(0, 300), 5);
        assert_eq!(answer.bars.len(), 2, "long closed");
        answer.push(&form(60), range(0, 300), 5);
        assert_eq!(answer.bars, [at(0), at(60)], "more is known of it");
        answer.bars[1].volume = Decimal::ONE_HUNDRED;
        answer.push(&form(60), range(0, 300), 5);
        assert_eq!(answer.bars[1].volume, Decimal::ONE_HUNDRED, "less is");
        answer.bars[1] = at(60);
        answer.forming = false;
        answer.push(&form(120), range(0, 300), 2);
        assert!(answer.forming);
        assert_eq!(answer.bars, [at(60), at(120)], "the latest two");
    }

    #[test]
    fn bars_are_written_as_columns_of_numbers() {
        let pos = Position {
            e: recorded(9).epoch,
            c: recorded(9).floor,
        };
        let answer = Answer {
            bars: vec![at(-60), at(0)],
            forming: true,
            published: Some(Interval::Minute1),
            pos: [("TICKS".to_owned(), pos)].into(),
            ..Answer::default()
        };
        let text = String::from_utf8(written(&answer)).unwrap();
        assert!(text.contains("\"c\":[2.50,2.50]"), "{text}");
        let expected = json!({
            "s": "ok", "t": [-60, 0], "o": [1.0, 1.0], "h": [3, 3], "l": [0.5, 0.5], "c": [2.5, 2.5],
            "v": [10, 10], "forming": true, "live": "1m", "pos": { "TICKS": pos },
        });
        assert_eq!(json(&answer), expected);
    }

    #[test]
    fn where_there_is_nothing_it_says_where_there_is_something() {
        let mut answer = Answer::default();
        assert_eq!(json(&answer), json!({ "s": "no_data" }));
        answer.earlier = Some(UnixNanos::new(60 * SECOND));
        assert_eq!(json(&answer), json!({ "s": "no_data", "nextTime": 60 }));
    }
}
