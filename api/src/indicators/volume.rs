//! Price and quantity together: on-balance volume, accumulation, money flow, VWAP.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use schemas::time::UnixNanos;

use super::parameter::{Output, Parameter};
use super::registry::Description;
use super::smooth::Total;
use super::window::{Sum, Window, ratio};
use super::{Candle, Study, Values};

pub(super) const ALL: &[Description] = &[
    Description {
        name: "obv",
        title: "On-balance volume",
        parameters: &[],
        outputs: &[Output::new("obv")],
        build: |_| Ok(Box::new(Balance::default())),
    },
    Description {
        name: "adl",
        title: "Accumulation/distribution line",
        parameters: &[],
        outputs: &[Output::new("adl")],
        build: |_| Ok(Box::new(Accumulation::default())),
    },
    Description {
        name: "cmf",
        title: "Chaikin money flow",
        parameters: &[Parameter::period("period", 20)],
        outputs: &[Output::new("cmf")],
        build: |a| {
            let window = Window::new(a.whole("period")?);
            Ok(Box::new(Chaikin { window }))
        },
    },
    Description {
        name: "mfi",
        title: "Money flow index",
        parameters: &[Parameter::period("period", 14)],
        outputs: &[Output::new("mfi")],
        build: |a| {
            let flows = Window::new(a.whole("period")?);
            Ok(Box::new(MoneyFlow { last: None, flows }))
        },
    },
    Description {
        name: "vwap",
        title: "Volume-weighted average price",
        parameters: &[
            Parameter::choice("anchor", &["day", "week", "month", "none"]),
            Parameter::zone("zone"),
        ],
        outputs: &[Output::new("vwap")],
        build: |a| {
            Ok(Box::new(Average {
                anchor: match a.choice("anchor")? {
                    "week" => Anchor::Week,
                    "month" => Anchor::Month,
                    "none" => Anchor::None,
                    _ => Anchor::Day,
                },
                zone: a.zone("zone")?,
                period: None,
                paid: Total::default(),
                volume: Total::default(),
            }))
        },
    },
];

/// Volume counted up where the close rose, down where it fell; begins at zero.
#[derive(Clone, Debug, Default)]
struct Balance {
    close: Option<f64>,
    balance: Total,
}

impl Study for Balance {
    fn next(&mut self, bar: &Candle) -> Values {
        let last = self.close.replace(bar.close).unwrap_or(bar.close);
        let signed = if bar.close > last {
            bar.volume
        } else if bar.close < last {
            -bar.volume
        } else {
            0.0
        };
        Values::from([Some(self.balance.add(signed))])
    }

    fn warm_up(&self) -> usize {
        0
    }

    fn history(&self) -> usize {
        1
    }

    fn is_total(&self) -> bool {
        true
    }
}

/// Volume, counted from -1 (closed at the low) to 1 (at the high) of it; zero without a range.
fn accumulated(bar: &Candle) -> f64 {
    let place = ratio(
        (bar.close - bar.low) - (bar.high - bar.close),
        bar.high - bar.low,
    );
    place.unwrap_or_default() * bar.volume
}

/// The running total of that; begins at zero.
#[derive(Clone, Debug, Default)]
struct Accumulation {
    line: Total,
}

impl Study for Accumulation {
    fn next(&mut self, bar: &Candle) -> Values {
        Values::from([Some(self.line.add(accumulated(bar)))])
    }

    fn warm_up(&self) -> usize {
        0
    }

    fn is_total(&self) -> bool {
        true
    }
}

/// The same as a share of the volume of the last bars; none without volume.
#[derive(Clone, Debug)]
struct Chaikin {
    window: Window<Sum<2>>,
}

impl Study for Chaikin {
    fn next(&mut self, bar: &Candle) -> Values {
        let full = self.window.push(Sum([accumulated(bar), bar.volume]));
        Values::from([full.and_then(|Sum([flow, volume])| ratio(flow, volume))])
    }

    fn warm_up(&self) -> usize {
        usize::from(self.window.size()) - 1
    }
}

/// Share of the money that was traded at rising typical prices; none if none was traded at moving
/// ones.
#[derive(Clone, Debug)]
struct MoneyFlow {
    last: Option<f64>,
    flows: Window<Sum<2>>,
}

impl Study for MoneyFlow {
    fn next(&mut self, bar: &Candle) -> Values {
        let price = bar.typical();
        let money = price * bar.volume;
        let full = self.last.replace(price).and_then(|last| {
            let rising = if price > last { money } else { 0.0 };
            let falling = if price < last { money } else { 0.0 };
            self.flows.push(Sum([rising, falling]))
        });
        Values::from([
            full.and_then(|Sum([rising, falling])| ratio(100.0 * rising, rising + falling))
        ])
    }

    fn warm_up(&self) -> usize {
        usize::from(self.flows.size())
    }
}

/// When a VWAP starts afresh.
#[derive(Clone, Copy, Debug)]
enum Anchor {
    Day,
    Week,
    Month,
    None,
}

/// Typical prices weighted by volume since the anchor; none before the first volume.
#[derive(Clone, Debug)]
struct Average {
    anchor: Anchor,
    zone: TimeZone,
    /// First day of the running period.
    period: Option<Date>,
    paid: Total,
    volume: Total,
}

impl Average {
    fn period(&self, at: UnixNanos) -> Option<Date> {
        let time = Timestamp::from_nanosecond(i128::from(at.get())).ok()?;
        let day = self.zone.to_datetime(time).date();
        match self.anchor {
            Anchor::Day => Some(day),
            Anchor::Week => {
                let past = day.weekday().to_monday_zero_offset();
                day.checked_sub(i64::from(past).days()).ok()
            }
            Anchor::Month => Some(day.first_of_month()),
            Anchor::None => None,
        }
    }
}

impl Study for Average {
    fn next(&mut self, bar: &Candle) -> Values {
        let period = self.period(bar.start);
        if period != self.period {
            self.period = period;
            (self.paid, self.volume) = (Total::default(), Total::default());
        }
        let paid = self.paid.add(bar.typical() * bar.volume);
        let volume = self.volume.add(bar.volume);
        Values::from([ratio(paid, volume)])
    }

    fn warm_up(&self) -> usize {
        0
    }

    fn is_total(&self) -> bool {
        matches!(self.anchor, Anchor::None)
    }

    fn anchor(&self, at: UnixNanos) -> Option<UnixNanos> {
        let first = self.period(at)?.to_zoned(self.zone.clone()).ok()?;
        let nanos = first.timestamp().as_nanosecond();
        i64::try_from(nanos).ok().map(UnixNanos::new)
    }
}
