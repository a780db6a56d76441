//! Where a price stands among the last ones: stochastic, Williams %R, CCI.

use std::collections::VecDeque;

use super::parameter::{Output, Parameter};
use super::registry::Description;
use super::window::{Fold, Moments, Range, Window, ratio};
use super::{Candle, Study, Values};

pub(super) const ALL: &[Description] = &[
    Description {
        name: "stoch",
        title: "Stochastic oscillator",
        parameters: &[
            Parameter::period("period", 14),
            Parameter::period("smooth", 1),
            Parameter::period("signal", 3),
        ],
        outputs: &[Output::new("k"), Output::new("d")],
        build: |a| {
            Ok(Box::new(Stochastic {
                range: Window::new(a.whole("period")?),
                smooth: Window::new(a.whole("smooth")?),
                signal: Window::new(a.whole("signal")?),
            }))
        },
    },
    Description {
        name: "williams_r",
        title: "Williams %R",
        parameters: &[Parameter::period("period", 14)],
        outputs: &[Output::new("williams_r")],
        build: |a| {
            let range = Window::new(a.whole("period")?);
            Ok(Box::new(Williams { range }))
        },
    },
    Description {
        name: "cci",
        title: "Commodity channel index",
        parameters: &[Parameter::count("period", 20, 2)],
        outputs: &[Output::new("cci")],
        build: |a| {
            Ok(Box::new(Channel {
                window: Window::new(a.whole("period")?),
                prices: VecDeque::new(),
            }))
        },
    },
];

/// Where the close stands in the range of the last bars; none while they are all one price.
#[derive(Clone, Debug)]
struct Stochastic {
    range: Window<Range>,
    smooth: Window<Moments>,
    signal: Window<Moments>,
}

impl Study for Stochastic {
    fn next(&mut self, bar: &Candle) -> Values {
        let range = self.range.push(Range::of(bar));
        let place = range.and_then(|range| range.place(bar.close));
        let k = place
            .and_then(|place| self.smooth.push(Moments::of(100.0 * place)))
            .map(|smooth| smooth.mean);
        let d = k
            .and_then(|k| self.signal.push(Moments::of(k)))
            .map(|signal| signal.mean);
        Values::from([k, d])
    }

    fn warm_up(&self) -> usize {
        let ranges = usize::from(self.range.size()) - 1;
        ranges + usize::from(self.smooth.size()) - 1 + usize::from(self.signal.size()) - 1
    }
}

/// The same seen from the top, from 0 down to -100.
#[derive(Clone, Debug)]
struct Williams {
    range: Window<Range>,
}

impl Study for Williams {
    fn next(&mut self, bar: &Candle) -> Values {
        let range = self.range.push(Range::of(bar));
        let drop = range.and_then(|Range { low, high }| ratio(bar.close - high, high - low));
        Values::from([drop.map(|drop| 100.0 * drop)])
    }

    fn warm_up(&self) -> usize {
        usize::from(self.range.size()) - 1
    }
}

/// Distance from the average in mean deviations; none while the price has not moved in the window.
///
/// The mean deviation needs every price of the window again, as its centre moves.
#[derive(Clone, Debug)]
struct Channel {
    window: Window<Level>,
    prices: VecDeque<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    moments: Moments,
    range: Range,
}

impl Fold for Level {
    fn join(self, newer: Self) -> Self {
        Self {
            moments: self.moments.join(newer.moments),
            range: self.range.join(newer.range),
        }
    }
}

impl Study for Channel {
    fn next(&mut self, bar: &Candle) -> Values {
        const SCALE: f64 = 0.015;
        let price = bar.typical();
        let (low, high) = (price, price);
        let level = self.window.push(Level {
            moments: Moments::of(price),
            range: Range { low, high },
        });
        if self.prices.len() == usize::from(self.window.size()) {
            self.prices.pop_front();
        }
        self.prices.push_back(price);
        let moved = level.filter(|level| level.range.low < level.range.high);
        Values::from([moved.and_then(|Level { moments, .. }| {
            let distances = self.prices.iter().map(|price| (price - moments.mean).abs());
            let deviation = distances.sum::<f64>() / f64::from(self.window.size());
            ratio(price - moments.mean, SCALE * deviation)
        })])
    }

    fn warm_up(&self) -> usize {
        usize::from(self.window.size()) - 1
    }
}
