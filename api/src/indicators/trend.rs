//! Direction of prices: ADX, Aroon, Ichimoku, parabolic SAR.

use std::collections::VecDeque;

use super::registry::{Description, IndicatorError, Output, Parameter};
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
    Description {
        name: "psar",
        title: "Parabolic stop and reverse",
        parameters: &[
            Parameter::number("start", 0.02, 0.0001, 1.0),
            Parameter::number("step", 0.02, 0.0001, 1.0),
            Parameter::number("max", 0.2, 0.0001, 1.0),
        ],
        outputs: &[Output::new("psar")],
        build: |a| {
            let pace = Pace {
                start: a.number("start")?,
                step: a.number("step")?,
                max: a.number("max")?,
            };
            if pace.start > pace.max {
                let (lower, upper) = ("start", "max");
                return Err(IndicatorError::Order { lower, upper });
            }
            Ok(Box::new(Parabolic {
                pace,
                last: [None; 2],
                stop: None,
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

/// How fast a stop follows the price.
#[derive(Clone, Copy, Debug)]
struct Pace {
    start: f64,
    step: f64,
    max: f64,
}

/// Wilder's stop, which follows the price ever faster and changes sides when it is touched.
///
/// Begins at the second bar, as a long position if that closed higher than the first one.
#[derive(Clone, Debug)]
struct Parabolic {
    pace: Pace,
    /// The last bar and the one before it.
    last: [Option<Candle>; 2],
    stop: Option<Stop>,
}

#[derive(Clone, Copy, Debug)]
struct Stop {
    long: bool,
    /// The stop of the next bar, before that of the last two bars holds it back.
    level: f64,
    /// The best price since the position was taken.
    best: f64,
    factor: f64,
}

impl Stop {
    /// A stop must not stand within the range of `bar`.
    fn held(self, bar: &Candle) -> Self {
        let level = if self.long {
            self.level.min(bar.low)
        } else {
            self.level.max(bar.high)
        };
        Self { level, ..self }
    }

    fn turned(self, bar: &Candle, pace: Pace) -> Self {
        let long = !self.long;
        Self {
            long,
            level: self.best,
            best: if long { bar.high } else { bar.low },
            factor: pace.start,
        }
    }

    fn followed(mut self, bar: &Candle, pace: Pace) -> Self {
        let best = if self.long {
            self.best.max(bar.high)
        } else {
            self.best.min(bar.low)
        };
        let better = if self.long {
            best > self.best
        } else {
            best < self.best
        };
        if better {
            self.best = best;
            self.factor = (self.factor + pace.step).min(pace.max);
        }
        self
    }
}

impl Parabolic {
    fn first(&self, bar: &Candle, last: &Candle) -> Stop {
        let long = bar.close > last.close;
        Stop {
            long,
            level: if long { last.low } else { last.high },
            best: if long { bar.high } else { bar.low },
            factor: self.pace.start,
        }
    }
}

impl Study for Parabolic {
    fn next(&mut self, bar: &Candle) -> Values {
        let [last, before] = self.last;
        self.last = [Some(*bar), last];
        let Some(last) = last else {
            return Values::from([None]);
        };
        let stop = self.stop.unwrap_or_else(|| self.first(bar, &last));
        let stop = before.iter().fold(stop.held(&last), Stop::held);
        let touched = if stop.long {
            bar.low <= stop.level
        } else {
            bar.high >= stop.level
        };
        let now = if touched {
            // The position was left at the stop at the latest, so the new one is beyond this bar.
            stop.turned(bar, self.pace).held(bar).held(&last)
        } else {
            stop.followed(bar, self.pace)
        };
        let level = now.level + now.factor * (now.best - now.level);
        self.stop = Some(Stop { level, ..now });
        Values::from([Some(now.level)])
    }

    fn warm_up(&self) -> usize {
        1
    }

    /// Wherever it began, it is the same after both sides have changed places a few times.
    fn history(&self) -> usize {
        250
    }
}
