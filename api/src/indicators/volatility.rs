//! How far prices move: average true range and bands around an average.

use super::parameter::{Output, Parameter};
use super::registry::Description;
use super::smooth::Smooth;
use super::source::Source;
use super::window::{Moments, Range, Window};
use super::{Candle, Study, Values};

const BANDS: &[Output] = &[
    Output::new("upper"),
    Output::new("middle"),
    Output::new("lower"),
];

pub(super) const ALL: &[Description] = &[
    Description {
        name: "atr",
        title: "Average true range",
        parameters: &[Parameter::period("period", 14)],
        outputs: &[Output::new("atr")],
        build: |a| {
            let range = TrueRange::default();
            let average = Smooth::wilder(a.whole("period")?);
            Ok(Box::new(AverageRange { range, average }))
        },
    },
    Description {
        name: "bbands",
        title: "Bollinger bands",
        parameters: &[
            Parameter::period("period", 20),
            Parameter::number("deviations", 2.0, 0.001, 50.0),
            Source::PARAMETER,
        ],
        outputs: BANDS,
        build: |a| {
            Ok(Box::new(Bollinger {
                source: Source::parse(a)?,
                window: Window::new(a.whole("period")?),
                deviations: a.number("deviations")?,
            }))
        },
    },
    Description {
        name: "donchian",
        title: "Donchian channel",
        parameters: &[Parameter::period("period", 20)],
        outputs: BANDS,
        build: |a| {
            let range = Window::new(a.whole("period")?);
            Ok(Box::new(Donchian { range }))
        },
    },
    Description {
        name: "keltner",
        title: "Keltner channel",
        parameters: &[
            Parameter::period("period", 20),
            Parameter::period("atr", 10),
            Parameter::number("multiplier", 2.0, 0.001, 50.0),
            Source::PARAMETER,
        ],
        outputs: BANDS,
        build: |a| {
            Ok(Box::new(Keltner {
                source: Source::parse(a)?,
                middle: Smooth::exponential(a.whole("period")?),
                range: TrueRange::default(),
                average: Smooth::wilder(a.whole("atr")?),
                multiplier: a.number("multiplier")?,
            }))
        },
    },
];

/// The distance that the price went since the last close.
#[derive(Clone, Debug, Default)]
pub(super) struct TrueRange {
    close: Option<f64>,
}

impl TrueRange {
    /// The range of the bar alone where there is no close before it.
    pub(super) fn push(&mut self, bar: &Candle) -> f64 {
        let last = self.close.replace(bar.close);
        let (low, high) = last.map_or((bar.low, bar.high), |last| {
            (bar.low.min(last), bar.high.max(last))
        });
        high - low
    }
}

/// Wilder's average of true ranges.
#[derive(Clone, Debug)]
struct AverageRange {
    range: TrueRange,
    average: Smooth,
}

impl Study for AverageRange {
    fn next(&mut self, bar: &Candle) -> Values {
        Values::from([self.average.push(self.range.push(bar))])
    }

    fn warm_up(&self) -> usize {
        self.average.warm_up()
    }

    fn history(&self) -> usize {
        self.average.history()
    }
}

/// A plain average, and bands some standard deviations (of the population) away from it.
#[derive(Clone, Debug)]
struct Bollinger {
    source: Source,
    window: Window<Moments>,
    deviations: f64,
}

impl Study for Bollinger {
    fn next(&mut self, bar: &Candle) -> Values {
        let full = self.window.push(Moments::of(self.source.of(bar)));
        bands(full.map(|window| (window.mean, self.deviations * window.deviation())))
    }

    fn warm_up(&self) -> usize {
        usize::from(self.window.size()) - 1
    }
}

fn bands(middle_and_width: Option<(f64, f64)>) -> Values {
    let middle = middle_and_width.map(|(middle, _)| middle);
    let upper = middle_and_width.map(|(middle, width)| middle + width);
    let lower = middle_and_width.map(|(middle, width)| middle - width);
    Values::from([upper, middle, lower])
}

/// Highest high and lowest low.
#[derive(Clone, Debug)]
struct Donchian {
    range: Window<Range>,
}

impl Study for Donchian {
    fn next(&mut self, bar: &Candle) -> Values {
        let range = self.range.push(Range::of(bar));
        Values::from([
            range.map(|range| range.high),
            range.map(Range::middle),
            range.map(|range| range.low),
        ])
    }

    fn warm_up(&self) -> usize {
        usize::from(self.range.size()) - 1
    }
}

/// An exponential average, and bands some average true ranges away from it.
#[derive(Clone, Debug)]
struct Keltner {
    source: Source,
    middle: Smooth,
    range: TrueRange,
    average: Smooth,
    multiplier: f64,
}

impl Study for Keltner {
    fn next(&mut self, bar: &Candle) -> Values {
        let middle = self.middle.push(self.source.of(bar));
        let width = self.average.push(self.range.push(bar));
        bands(middle.zip(width.map(|width| self.multiplier * width)))
    }

    fn warm_up(&self) -> usize {
        self.middle.warm_up().max(self.average.warm_up())
    }

    fn history(&self) -> usize {
        self.middle.history().max(self.average.history())
    }
}
