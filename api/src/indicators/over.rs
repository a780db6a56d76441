//! An indicator over a range of bars of any length, with what it needs of the bars before.

use schemas::http;
use schemas::id::Kind;
use schemas::time::UnixNanos;

use super::{Candle, Indicator};
use crate::bars::{Ask, Candles, MAX_BARS, ReadError, Reader};
use crate::store::{Progress, TickStore};

/// The figures of one bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Start of the bar.
    pub start: UnixNanos,
    /// [`Kind::Form`] while the bar is not over.
    pub kind: Kind,
    /// One per output of the indicator; `None` where it does not exist.
    pub figures: Vec<Option<f64>>,
}

/// The figures of a range of bars.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Over {
    /// One per bar, ascending.
    pub points: Vec<Point>,
    /// How far the stream was recorded at least when the bars were read.
    pub progress: Option<Progress>,
    /// As [`Candles::more`].
    pub more: bool,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum OverError {
    /// The bars cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What comes before the range is too much.
    #[error(
        "resolution {resolution}: {indicator} needs more bars before {start} than may be read for one answer"
    )]
    History {
        /// The length of the bars.
        resolution: crate::bars::Resolution,
        /// The indicator with its parameters.
        indicator: String,
        /// Start of the first bar in nanoseconds since 1970.
        start: UnixNanos,
    },
}

impl OverError {
    /// The parameter at fault, if one is.
    pub const fn parameter(&self) -> Option<&'static str> {
        match self {
            Self::Read(error) => error.parameter(),
            Self::History { .. } => Some("resolution"),
        }
    }
}

/// Values `indicator`, which has taken no bars, over the bars of `ask`, and over `forming` where it
/// is the newest of them.
///
/// # Errors
///
/// [`OverError`].
pub async fn over<S: TickStore>(
    reader: &Reader<S>,
    ask: &Ask,
    mut indicator: Indicator,
    forming: Option<&http::Candle>,
) -> Result<Over, OverError> {
    let Candles {
        mut bars,
        progress,
        more,
    } = reader.read(ask).await?;
    // Behind the last of the first ones there may be others.
    let newest = ask.last || !more;
    if let Some(forming) = forming.filter(|forming| newest && is_next(forming, &bars, ask)) {
        let of_same = |bar: &mut http::Candle| bar.start == forming.start;
        bars.pop_if(of_same);
        bars.push(http::Candle {
            kind: Kind::Form,
            ..forming.clone()
        });
    }
    let Some(first) = bars.first() else {
        return Ok(Over {
            points: Vec::new(),
            progress,
            more,
        });
    };
    for bar in history(reader, ask, &indicator, first.start).await? {
        indicator.next(&Candle::from(&bar));
    }
    let open = bars.pop_if(|bar| bar.kind == Kind::Form);
    let mut points = Vec::with_capacity(bars.len() + 1);
    for bar in &bars {
        let values = indicator.next(&Candle::from(bar));
        points.push(Point::new(bar, &indicator, values));
    }
    if let Some(bar) = &open {
        let values = indicator.peek(&Candle::from(bar));
        points.push(Point::new(bar, &indicator, values));
    }
    Ok(Over {
        points,
        progress,
        more,
    })
}

/// Whether a forming bar lies in the range, and is that of the last bar not yet over or a later one.
fn is_next(forming: &http::Candle, bars: &[http::Candle], ask: &Ask) -> bool {
    let behind = bars.last().is_none_or(|last| {
        last.start < forming.start || (last.start == forming.start && last.kind == Kind::Form)
    });
    behind && (ask.from..ask.to).contains(&forming.start)
}

/// What the indicator has to take before the bar that starts at `start`.
async fn history<S: TickStore>(
    reader: &Reader<S>,
    ask: &Ask,
    indicator: &Indicator,
    start: UnixNanos,
) -> Result<Vec<http::Candle>, OverError> {
    let before = |from: UnixNanos, limit: u32| Ask {
        from,
        to: start,
        limit,
        last: true,
        ..ask.clone()
    };
    let too_much = || OverError::History {
        resolution: ask.resolution,
        indicator: indicator.to_string(),
        start,
    };
    let mut bars = Vec::new();
    let count = indicator.history();
    if count > 0 {
        let limit = u32::try_from(count).map_err(|_| too_much())?;
        if limit > MAX_BARS {
            return Err(too_much());
        }
        let read = reader
            .read(&before(UnixNanos::new(i64::MIN), limit))
            .await?;
        if read.more && read.bars.len() < count {
            return Err(too_much());
        }
        bars = read.bars;
    }
    if let Some(anchor) = indicator.anchor(start).filter(|anchor| *anchor < start)
        && bars.first().is_none_or(|first| first.start > anchor)
    {
        let read = reader.read(&before(anchor, MAX_BARS)).await?;
        if read.more {
            return Err(too_much());
        }
        if read.bars.len() > bars.len() {
            bars = read.bars;
        }
    }
    Ok(bars)
}

impl Point {
    fn new(bar: &http::Candle, indicator: &Indicator, values: Option<super::Values>) -> Self {
        let figures = values.map(|values| values.as_slice().to_vec());
        Self {
            start: bar.start,
            kind: bar.kind,
            figures: figures.unwrap_or_else(|| vec![None; indicator.outputs().len()]),
        }
    }
}

#[cfg(test)]
mod tests;
