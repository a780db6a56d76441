//! How fast prices move: RSI, MACD, TRIX, rate of change.

use super::parameter::{Output, Parameter};
use super::registry::{Description, IndicatorError};
use super::smooth::Smooth;
use super::source::Source;
use super::window::{Delay, ratio};
use super::{Candle, Study, Values};

pub(super) const ALL: &[Description] = &[
    Description {
        name: "rsi",
        title: "Relative strength index",
        parameters: &[Parameter::period("period", 14), Source::PARAMETER],
        outputs: &[Output::new("rsi")],
        build: |a| {
            let period = a.whole("period")?;
            Ok(Box::new(Strength {
                source: Source::parse(a)?,
                last: None,
                gain: Smooth::wilder(period),
                loss: Smooth::wilder(period),
            }))
        },
    },
    Description {
        name: "macd",
        title: "Moving average convergence/divergence",
        parameters: &[
            Parameter::period("fast", 12),
            Parameter::period("slow", 26),
            Parameter::period("signal", 9),
            Source::PARAMETER,
        ],
        outputs: &[
            Output::new("macd"),
            Output::new("signal"),
            Output::new("histogram"),
        ],
        build: |a| {
            let (fast, slow) = (a.whole("fast")?, a.whole("slow")?);
            if fast >= slow {
                let (lower, upper) = ("fast", "slow");
                return Err(IndicatorError::Order { lower, upper });
            }
            Ok(Box::new(Convergence {
                source: Source::parse(a)?,
                fast: Smooth::exponential(fast),
                slow: Smooth::exponential(slow),
                signal: Smooth::exponential(a.whole("signal")?),
            }))
        },
    },
    Description {
        name: "trix",
        title: "Rate of change of a triple exponential average",
        parameters: &[
            Parameter::period("period", 15),
            Parameter::period("signal", 9),
            Source::PARAMETER,
        ],
        outputs: &[Output::new("trix"), Output::new("signal")],
        build: |a| {
            let period = a.whole("period")?;
            Ok(Box::new(Trix {
                source: Source::parse(a)?,
                stages: std::array::from_fn(|_| Smooth::exponential(period)),
                last: None,
                signal: Smooth::exponential(a.whole("signal")?),
            }))
        },
    },
    Description {
        name: "roc",
        title: "Rate of change",
        parameters: &[Parameter::period("period", 9), Source::PARAMETER],
        outputs: &[Output::new("roc")],
        build: |a| {
            Ok(Box::new(Change {
                source: Source::parse(a)?,
                before: Delay::new(a.whole("period")?),
            }))
        },
    },
];

/// Wilder's averages of gains and losses; none while the price has never moved.
#[derive(Clone, Debug)]
struct Strength {
    source: Source,
    last: Option<f64>,
    gain: Smooth,
    loss: Smooth,
}

impl Study for Strength {
    fn next(&mut self, bar: &Candle) -> Values {
        let price = self.source.of(bar);
        let change = self.last.replace(price).map(|last| price - last);
        let averages = change.and_then(|change| {
            let gain = self.gain.push(change.max(0.0));
            gain.zip(self.loss.push((-change).max(0.0)))
        });
        Values::from([averages.and_then(|(gain, loss)| ratio(100.0 * gain, gain + loss))])
    }

    fn warm_up(&self) -> usize {
        self.gain.warm_up() + 1
    }

    fn history(&self) -> usize {
        self.gain.history() + 1
    }
}

/// The distance of two averages, and the average of that.
#[derive(Clone, Debug)]
struct Convergence {
    source: Source,
    fast: Smooth,
    slow: Smooth,
    signal: Smooth,
}

impl Study for Convergence {
    fn next(&mut self, bar: &Candle) -> Values {
        let price = self.source.of(bar);
        let (fast, slow) = (self.fast.push(price), self.slow.push(price));
        let line = fast.zip(slow).map(|(fast, slow)| fast - slow);
        let signal = line.and_then(|line| self.signal.push(line));
        let distance = line.zip(signal).map(|(line, signal)| line - signal);
        Values::from([line, signal, distance])
    }

    fn warm_up(&self) -> usize {
        self.slow.warm_up() + self.signal.warm_up()
    }

    fn history(&self) -> usize {
        self.slow.history() + self.signal.history()
    }
}

/// Change of the triple average in percent; none where that was zero.
#[derive(Clone, Debug)]
struct Trix {
    source: Source,
    stages: [Smooth; 3],
    last: Option<f64>,
    signal: Smooth,
}

impl Study for Trix {
    fn next(&mut self, bar: &Candle) -> Values {
        let price = Some(self.source.of(bar));
        let average = self
            .stages
            .iter_mut()
            .fold(price, |value, stage| stage.push(value?));
        let line = average.and_then(|average| {
            let last = self.last.replace(average)?;
            ratio(100.0 * (average - last), last)
        });
        Values::from([line, line.and_then(|line| self.signal.push(line))])
    }

    fn warm_up(&self) -> usize {
        self.stages.iter().map(Smooth::warm_up).sum::<usize>() + 1 + self.signal.warm_up()
    }

    fn history(&self) -> usize {
        self.stages.iter().map(Smooth::history).sum::<usize>() + 1 + self.signal.history()
    }
}

/// Change in percent; none from a price of zero.
#[derive(Clone, Debug)]
struct Change {
    source: Source,
    before: Delay,
}

impl Study for Change {
    fn next(&mut self, bar: &Candle) -> Values {
        let price = self.source.of(bar);
        let before = self.before.push(price);
        Values::from([before.and_then(|before| ratio(100.0 * (price - before), before))])
    }

    fn warm_up(&self) -> usize {
        usize::from(self.before.bars())
    }
}
