//! Direction of prices: ADX, Aroon, Ichimoku.

use std::collections::VecDeque;

use super::parameter::{Output, Parameter};
use super::registry::Description;
use super::smooth::Smooth;
use super::volatility::TrueRange;
use super::window::{Range, Window, ratio};
use super::{Candle, Study, Values};

pub(super) const ALL: &[Description] = &[
    Description {
        name: "adx",
        title: "Average directional index",
        parameters: &[
            Parameter::period("period", 14),
            Parameter::period("smooth", 14),
        ],
        outputs: &[
            Output::new("adx"),
            Output::new("plus_di"),
            Output::new("minus_di"),
        ],
        build: |a| {
            let period = a.whole("period")?;
            Ok(Box::new(Directional {
                last: None,
                range: TrueRange::default(),
                ranges: Smooth::wilder(period),
                plus: Smooth::wilder(period),
                minus: Smooth::wilder(period),
                index: Smooth::wilder(a.whole("smooth")?),
            }))
        },
    },
    Description {
        name: "aroon",
        title: "Aroon",
        parameters: &[Parameter::period("period", 14)],
        outputs: &[
            Output::new("up"),
            Output::new("down"),
            Output::new("oscillator"),
        ],
        build: |a| {
            let period = a.whole("period")?;
            Ok(Box::new(Aroon {
                period,
                bar: 0,
                highs: VecDeque::new(),
                lows: VecDeque::new(),
            }))
        },
    },
    Description {
        name: "ichimoku",
        title: "Ichimoku cloud",
        parameters: &[
            Parameter::period("conversion", 9),
            Parameter::period("base", 26),
            Parameter::period("span", 52),
        ],
        outputs: &[
            Output::new("conversion"),
            Output::new("base"),
            Output::shifted("span_a", 25),
            Output::shifted("span_b", 25),
            Output::shifted("lagging", -25),
        ],
        build: |a| {
            Ok(Box::new(Ichimoku {
                conversion: Window::new(a.whole("conversion")?),
                base: Window::new(a.whole("base")?),
                span: Window::new(a.whole("span")?),
            }))
        },
    },
];

/// Wilder's directional movement. A bar without direction at all adds nothing to the index.
#[derive(Clone, Debug)]
struct Directional {
    last: Option<Candle>,
    range: TrueRange,
    ranges: Smooth,
    plus: Smooth,
    minus: Smooth,
    index: Smooth,
}

impl Directional {
    /// Movement up and down as shares of the true range.
    fn directions(&mut self, bar: &Candle) -> Option<(f64, f64)> {
        let range = self.range.push(bar);
        let last = self.last.replace(*bar)?;
        let (up, down) = (bar.high - last.high, last.low - bar.low);
        let plus = self.plus.push(if up > down { up.max(0.0) } else { 0.0 });
        let minus = self.minus.push(if down > up { down.max(0.0) } else { 0.0 });
        let range = self.ranges.push(range)?;
        ratio(plus?, range).zip(ratio(minus?, range))
    }
}

impl Study for Directional {
    fn next(&mut self, bar: &Candle) -> Values {
        let directions = self.directions(bar);
        let index = directions
            .and_then(|(plus, minus)| ratio((plus - minus).abs(), plus + minus))
            .and_then(|index| self.index.push(index));
        Values::from([
            index.map(|index| 100.0 * index),
            directions.map(|(plus, _)| 100.0 * plus),
            directions.map(|(_, minus)| 100.0 * minus),
        ])
    }

    fn warm_up(&self) -> usize {
        1 + self.ranges.warm_up() + self.index.warm_up()
    }

    fn history(&self) -> usize {
        1 + self.ranges.history() + self.index.history()
    }
}

/// How long ago the highest high and the lowest low were, of equal ones the latest, in percent:
/// 100 is this bar, 0 is `period` bars ago.
#[derive(Clone, Debug)]
struct Aroon {
    period: u16,
    bar: u64,
    /// Bars that could still become the highest, falling.
    highs: VecDeque<(u64, f64)>,
    /// Bars that could still become the lowest, rising.
    lows: VecDeque<(u64, f64)>,
}

impl Aroon {
    /// Bars since the front of `queue`, which `value` joins after all that it beats are gone.
    fn age(
        queue: &mut VecDeque<(u64, f64)>,
        newest: (u64, f64),
        period: u16,
        beats: fn(f64, f64) -> bool,
    ) -> Option<u16> {
        while queue.back().is_some_and(|last| beats(newest.1, last.1)) {
            queue.pop_back();
        }
        queue.push_back(newest);
        let age = |first: &(u64, f64)| newest.0 - first.0;
        while queue
            .front()
            .map(age)
            .is_some_and(|age| age > u64::from(period))
        {
            queue.pop_front();
        }
        queue
            .front()
            .map(age)
            .and_then(|age| u16::try_from(age).ok())
    }
}

impl Study for Aroon {
    fn next(&mut self, bar: &Candle) -> Values {
        let up = Self::age(
            &mut self.highs,
            (self.bar, bar.high),
            self.period,
            |a, b| a >= b,
        );
        let down = Self::age(&mut self.lows, (self.bar, bar.low), self.period, |a, b| {
            a <= b
        });
        let full = self.bar >= u64::from(self.period);
        self.bar += 1;
        let percent = |age: u16| 100.0 * f64::from(self.period - age) / f64::from(self.period);
        let (up, down) = (
            up.filter(|_| full).map(percent),
            down.filter(|_| full).map(percent),
        );
        Values::from([up, down, up.zip(down).map(|(up, down)| up - down)])
    }

    fn warm_up(&self) -> usize {
        usize::from(self.period)
    }
}

/// Middles of three ranges, and the close. All are given with the bar that they are made of.
#[derive(Clone, Debug)]
struct Ichimoku {
    conversion: Window<Range>,
    base: Window<Range>,
    span: Window<Range>,
}

impl Study for Ichimoku {
    fn next(&mut self, bar: &Candle) -> Values {
        let range = Range::of(bar);
        let conversion = self.conversion.push(range).map(Range::middle);
        let base = self.base.push(range).map(Range::middle);
        let span = self.span.push(range).map(Range::middle);
        let lead = conversion.zip(base).map(|(a, b)| f64::midpoint(a, b));
        Values::from([conversion, base, lead, span, Some(bar.close)])
    }

    fn warm_up(&self) -> usize {
        let sizes = [&self.conversion, &self.base, &self.span].map(Window::size);
        usize::from(sizes.into_iter().max().unwrap_or(1)) - 1
    }
}
