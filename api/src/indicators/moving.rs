//! Moving averages.

use super::parameter::{Arguments, Output, Parameter};
use super::registry::{Description, IndicatorError};
use super::smooth::Smooth;
use super::source::Source;
use super::window::{Fold, Moments, Sum, Weighted, Window, ratio};
use super::{Candle, Study, Values};

const PARAMETERS: &[Parameter] = &[Parameter::period("period", 20), Source::PARAMETER];

const fn average(
    name: &'static str,
    title: &'static str,
    outputs: &'static [Output],
    build: fn(&Arguments<'_>) -> Result<Box<dyn Study>, IndicatorError>,
) -> Description {
    Description {
        name,
        title,
        parameters: PARAMETERS,
        outputs,
        build,
    }
}

pub(super) const ALL: &[Description] = &[
    average("sma", "Simple moving average", &[Output::new("sma")], |a| {
        windowed(a, Moments::of, |window| window.mean)
    }),
    average(
        "wma",
        "Weighted moving average",
        &[Output::new("wma")],
        |a| windowed(a, Weighted::of, Weighted::mean),
    ),
    average(
        "stddev",
        "Standard deviation (of the population)",
        &[Output::new("stddev")],
        |a| windowed(a, Moments::of, Moments::deviation),
    ),
    average(
        "ema",
        "Exponential moving average",
        &[Output::new("ema")],
        |a| smoothed(a, Smooth::exponential, |[once]| once),
    ),
    average(
        "rma",
        "Wilder's moving average",
        &[Output::new("rma")],
        |a| smoothed(a, Smooth::wilder, |[once]| once),
    ),
    average(
        "dema",
        "Double exponential moving average",
        &[Output::new("dema")],
        |a| smoothed(a, Smooth::exponential, |[once, twice]| 2.0 * once - twice),
    ),
    average(
        "tema",
        "Triple exponential moving average",
        &[Output::new("tema")],
        |a| {
            smoothed(a, Smooth::exponential, |[once, twice, thrice]| {
                3.0 * (once - twice) + thrice
            })
        },
    ),
    Description {
        name: "vwma",
        title: "Volume-weighted moving average",
        parameters: PARAMETERS,
        outputs: &[Output::new("vwma")],
        build: |a| {
            Ok(Box::new(VolumeWeighted {
                source: Source::parse(a)?,
                window: Window::new(a.whole("period")?),
            }))
        },
    },
];

/// A figure of the last bars.
#[derive(Clone, Debug)]
struct Windowed<T> {
    source: Source,
    window: Window<T>,
    of: fn(f64) -> T,
    figure: fn(T) -> f64,
}

fn windowed<T>(
    arguments: &Arguments<'_>,
    of: fn(f64) -> T,
    figure: fn(T) -> f64,
) -> Result<Box<dyn Study>, IndicatorError>
where
    T: Fold + std::fmt::Debug + Send + Sync + 'static,
{
    Ok(Box::new(Windowed {
        source: Source::parse(arguments)?,
        window: Window::new(arguments.whole("period")?),
        of,
        figure,
    }))
}

impl<T: Fold + std::fmt::Debug + Send + Sync + 'static> Study for Windowed<T> {
    fn next(&mut self, bar: &Candle) -> Values {
        let full = self.window.push((self.of)(self.source.of(bar)));
        Values::from([full.map(self.figure)])
    }

    fn warm_up(&self) -> usize {
        usize::from(self.window.size()) - 1
    }
}

/// A figure of an exponential average, the average of that, and so on.
#[derive(Clone, Debug)]
struct Smoothed<const N: usize> {
    source: Source,
    stages: [Smooth; N],
    figure: fn([f64; N]) -> f64,
}

fn smoothed<const N: usize>(
    arguments: &Arguments<'_>,
    stage: fn(u16) -> Smooth,
    figure: fn([f64; N]) -> f64,
) -> Result<Box<dyn Study>, IndicatorError> {
    let period = arguments.whole("period")?;
    Ok(Box::new(Smoothed {
        source: Source::parse(arguments)?,
        stages: std::array::from_fn(|_| stage(period)),
        figure,
    }))
}

impl<const N: usize> Smoothed<N> {
    fn averages(&mut self, mut value: f64) -> Option<[f64; N]> {
        let mut averages = [0.0; N];
        for (stage, average) in self.stages.iter_mut().zip(&mut averages) {
            value = stage.push(value)?;
            *average = value;
        }
        Some(averages)
    }
}

impl<const N: usize> Study for Smoothed<N> {
    fn next(&mut self, bar: &Candle) -> Values {
        let averages = self.averages(self.source.of(bar));
        Values::from([averages.map(self.figure)])
    }

    fn warm_up(&self) -> usize {
        self.stages.iter().map(Smooth::warm_up).sum()
    }

    fn history(&self) -> usize {
        self.stages.iter().map(Smooth::history).sum()
    }
}

/// Prices weighted by the volume of their bars; none without volume.
#[derive(Clone, Debug)]
struct VolumeWeighted {
    source: Source,
    window: Window<Sum<2>>,
}

impl Study for VolumeWeighted {
    fn next(&mut self, bar: &Candle) -> Values {
        let paid = self.source.of(bar) * bar.volume;
        let full = self.window.push(Sum([paid, bar.volume]));
        Values::from([full.and_then(|Sum([paid, volume])| ratio(paid, volume))])
    }

    fn warm_up(&self) -> usize {
        usize::from(self.window.size()) - 1
    }
}
