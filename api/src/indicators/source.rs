//! Which price of a bar an indicator is made from.

use super::Candle;
use super::parameter::{Arguments, Parameter};
use super::registry::IndicatorError;

/// A price of a bar.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Close,
    Open,
    High,
    Low,
    Median,
    Typical,
    Average,
}

impl Source {
    pub(super) const PARAMETER: Parameter = Parameter::choice(
        "source",
        &["close", "open", "high", "low", "hl2", "hlc3", "ohlc4"],
    );

    pub(super) fn parse(arguments: &Arguments<'_>) -> Result<Self, IndicatorError> {
        Ok(match arguments.choice(Self::PARAMETER.name)? {
            "open" => Self::Open,
            "high" => Self::High,
            "low" => Self::Low,
            "hl2" => Self::Median,
            "hlc3" => Self::Typical,
            "ohlc4" => Self::Average,
            _ => Self::Close,
        })
    }

    pub(super) fn of(self, bar: &Candle) -> f64 {
        match self {
            Self::Close => bar.close,
            Self::Open => bar.open,
            Self::High => bar.high,
            Self::Low => bar.low,
            Self::Median => f64::midpoint(bar.high, bar.low),
            Self::Typical => bar.typical(),
            Self::Average => (bar.open + bar.high + bar.low + bar.close) / 4.0,
        }
    }
}
