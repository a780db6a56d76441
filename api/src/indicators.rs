//! Technical indicators: pure functions over bars, one bar at a time.
//!
//! Own code, because no crate was right: `ta` and `yata` give values from the first bar on (their
//! averages start from one price, not from an average), and `kand` leaves windows and seeds to its
//! caller and takes differences of running sums.
//!
//! [`parse`] makes an [`Indicator`] from a name and parameters. [`Indicator::next`] takes a closed
//! bar, [`Indicator::peek`] values the forming one without taking it; both give `None` while there
//! is nothing to give. Figures are `f64` within: prices are exact elsewhere, an indicator is an
//! estimate. A figure that does not exist (no trades to weigh by, no range to divide by) is `None`,
//! never zero or NaN, and an average of such figures passes over it. Memory is bounded by the
//! periods, and so is the work of a bar, which mostly does not depend on them at all.
//!
//! | module | does |
//! |---|---|
//! | `registry`, `parameter` | names, parameters with limits, descriptions |
//! | [`over`] | the figures of a range of stored bars |
//! | `window`, `smooth`, `source` | what the indicators are made of |
//! | `moving`, `momentum`, `place`, `volatility`, `volume`, `trend`, `parabolic` | the indicators |

use std::fmt;

use schemas::tick::{Bar, Form};
use schemas::time::UnixNanos;

mod momentum;
mod moving;
pub mod over;
mod parabolic;
mod parameter;
mod place;
mod registry;
mod smooth;
mod source;
mod trend;
mod volatility;
mod volume;
mod window;

#[cfg(test)]
mod tests;

pub use parameter::{Limits, Output, Parameter};
pub use registry::{Description, IndicatorError, describe, parse};

/// The most outputs that an indicator has.
const MAX_OUTPUTS: usize = 5;

/// [`schemas::decimal::LIMIT`], the largest price and quantity.
const MAX_FIGURE: f64 = 1e18;

/// What indicators read of a bar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candle {
    /// Start of the interval.
    pub start: UnixNanos,
    /// First price.
    pub open: f64,
    /// Highest price.
    pub high: f64,
    /// Lowest price.
    pub low: f64,
    /// Last price.
    pub close: f64,
    /// Traded quantity.
    pub volume: f64,
}

impl Candle {
    /// Whether the figures are numbers within the limits of prices, so that no product of them
    /// goes beyond the range of `f64`.
    fn is_sound(&self) -> bool {
        [self.open, self.high, self.low, self.close, self.volume]
            .iter()
            .all(|figure| figure.abs() <= MAX_FIGURE)
    }

    /// The mean of high, low and close.
    fn typical(&self) -> f64 {
        (self.high + self.low + self.close) / 3.0
    }
}

macro_rules! candle {
    ($($tick:ty),*) => {$(
        impl From<&$tick> for Candle {
            fn from(bar: &$tick) -> Self {
                // A decimal that had no float would be NaN here, and no indicator takes that.
                Self {
                    start: bar.start,
                    open: bar.open.get().try_into().unwrap_or(f64::NAN),
                    high: bar.high.get().try_into().unwrap_or(f64::NAN),
                    low: bar.low.get().try_into().unwrap_or(f64::NAN),
                    close: bar.close.get().try_into().unwrap_or(f64::NAN),
                    volume: bar.volume.get().try_into().unwrap_or(f64::NAN),
                }
            }
        }
    )*};
}

candle!(Bar, Form, schemas::http::Candle);

/// The figures of one bar, in the order of [`Indicator::outputs`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Values {
    figures: [Option<f64>; MAX_OUTPUTS],
    count: usize,
}

impl Values {
    /// One figure per output; `None` where it does not exist.
    pub fn as_slice(&self) -> &[Option<f64>] {
        self.figures.get(..self.count).unwrap_or_default()
    }
}

impl<const N: usize> From<[Option<f64>; N]> for Values {
    fn from(from: [Option<f64>; N]) -> Self {
        let mut figures = [None; MAX_OUTPUTS];
        for (to, figure) in figures.iter_mut().zip(from) {
            *to = figure.filter(|figure| figure.is_finite());
        }
        Self {
            figures,
            count: N.min(MAX_OUTPUTS),
        }
    }
}

/// The state of one indicator.
trait Study: Copied + fmt::Debug + Send + Sync {
    /// Takes a bar whose figures are numbers.
    fn next(&mut self, bar: &Candle) -> Values;

    /// See [`Indicator::warm_up`].
    fn warm_up(&self) -> usize;

    /// See [`Indicator::history`].
    fn history(&self) -> usize {
        self.warm_up()
    }

    /// See [`Indicator::is_total`].
    fn is_total(&self) -> bool {
        false
    }

    /// See [`Indicator::anchor`].
    fn anchor(&self, _at: UnixNanos) -> Option<UnixNanos> {
        None
    }
}

/// `Clone` for a boxed study.
trait Copied {
    fn copied(&self) -> Box<dyn Study>;
}

impl<T: Study + Clone + 'static> Copied for T {
    fn copied(&self) -> Box<dyn Study> {
        Box::new(self.clone())
    }
}

/// An indicator with what it remembers of the bars so far.
#[derive(Debug)]
pub struct Indicator {
    description: &'static Description,
    label: String,
    study: Box<dyn Study>,
}

impl Clone for Indicator {
    fn clone(&self) -> Self {
        Self {
            description: self.description,
            label: self.label.clone(),
            study: self.study.copied(),
        }
    }
}

/// Name and all parameters, as in `macd(12,26,9,close)`: the same for the same indicator.
impl fmt::Display for Indicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl Indicator {
    fn new(description: &'static Description, label: String, study: Box<dyn Study>) -> Self {
        Self {
            description,
            label,
            study,
        }
    }

    /// Name, parameters and outputs of its sort.
    pub fn description(&self) -> &'static Description {
        self.description
    }

    /// What the figures of [`Values`] are.
    pub fn outputs(&self) -> &'static [Output] {
        self.description.outputs
    }

    /// Bars before the first one that can have every figure.
    pub fn warm_up(&self) -> usize {
        self.study.warm_up()
    }

    /// Bars to take before the first one that is shown, so that it does not matter (to about a
    /// millionth) that the series did not begin earlier; [`warm_up`](Self::warm_up) where nothing
    /// older than the window counts. What has a beginning needs them before it, and all bars since.
    pub fn history(&self) -> usize {
        self.study.history()
    }

    /// Whether every bar since the beginning counts for good, as in a running total. Where that is has
    /// to be said: such figures matter by their changes only, and begin at zero.
    pub fn is_total(&self) -> bool {
        self.study.is_total()
    }

    /// Where the indicator starts afresh at times of day, the last such time at or before `at`:
    /// figures of `at` need all bars from there on.
    pub fn anchor(&self, at: UnixNanos) -> Option<UnixNanos> {
        self.study.anchor(at)
    }

    /// Takes the next bar; `None` while no figure exists. A bar with figures that are no numbers,
    /// or beyond the limits of prices, is passed over.
    pub fn next(&mut self, bar: &Candle) -> Option<Values> {
        next(self.study.as_mut(), bar)
    }

    /// What [`next`](Self::next) would give, without taking the bar: for the one still forming.
    /// Works on a copy of the state, so it costs memory in the order of the periods for a moment.
    pub fn peek(&self, bar: &Candle) -> Option<Values> {
        next(self.study.copied().as_mut(), bar)
    }
}

fn next(study: &mut dyn Study, bar: &Candle) -> Option<Values> {
    if !bar.is_sound() {
        return None;
    }
    let values = study.next(bar);
    let exists = values.as_slice().iter().any(Option::is_some);
    exists.then_some(values)
}
