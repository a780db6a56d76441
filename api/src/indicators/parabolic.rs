//! Parabolic SAR.

use super::parameter::{Output, Parameter};
use super::registry::{Description, IndicatorError};
use super::{Candle, Study, Values};

pub(super) const ALL: &[Description] = &[Description {
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
}];

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
