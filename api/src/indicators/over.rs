//! An indicator over a range of bars of any length, with what it needs of the bars before.

mod past;

use schemas::http;
use schemas::id::Kind;
use schemas::time::UnixNanos;

use super::{Candle, Indicator};
use crate::bars::{Ask, Candles, ReadError, Reader, Resolution};
use crate::store::{Progress, TickStore};

pub use past::MAX_PAST;

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
    /// So many bars before the range are made of too many.
    #[error(
        "resolution {resolution} is too long for what is stored: {indicator} needs {count} bars before {start}, and at most {limit} stored bars are read for them"
    )]
    Count {
        /// The length of the bars.
        resolution: Resolution,
        /// The indicator with its parameters.
        indicator: String,
        /// How many it needs.
        count: usize,
        /// Start of the first bar of the range in nanoseconds since 1970.
        start: UnixNanos,
        /// How many stored bars may be read for them.
        limit: u32,
    },
    /// There is too much since the time at which the indicator started afresh.
    #[error(
        "resolution {resolution} is too short for {indicator}: it needs every bar between {since} and {start}, and at most {limit} stored bars are read for them"
    )]
    Anchor {
        /// The length of the bars.
        resolution: Resolution,
        /// The indicator with its parameters.
        indicator: String,
        /// When it started afresh, in nanoseconds since 1970.
        since: UnixNanos,
        /// Start of the first bar of the range.
        start: UnixNanos,
        /// [`MAX_PAST`].
        limit: u32,
    },
    /// There is too much since a running total began.
    #[error(
        "from lies too far before the bar at {start}, or is missing: {indicator} adds up every bar from there on, without it from the first stored one, and at most {limit} stored bars are read for that"
    )]
    Total {
        /// The indicator with its parameters.
        indicator: String,
        /// Start of the first bar of the range in nanoseconds since 1970.
        start: UnixNanos,
        /// [`MAX_PAST`].
        limit: u32,
    },
}

impl OverError {
    /// The parameter at fault, if one is.
    pub const fn parameter(&self) -> Option<&'static str> {
        match self {
            Self::Read(error) => error.parameter(),
            Self::Count { .. } | Self::Anchor { .. } => Some("resolution"),
            Self::Total { .. } => Some("from"),
        }
    }
}

/// The bars that an indicator is to be valued over.
#[derive(Clone, Debug)]
pub struct Question {
    /// Which ones.
    pub ask: Ask,
    /// Where running totals begin: the `from` of the first of several pages, which is not moved from
    /// one to the next.
    pub since: UnixNanos,
}

/// Values `indicator`, which has taken no bars, over the bars of `question`, and over `forming` where
/// it is the newest of them.
///
/// # Errors
///
/// [`OverError`].
pub async fn over<S: TickStore>(
    reader: &Reader<S>,
    question: &Question,
    indicator: Indicator,
    forming: Option<&http::Candle>,
) -> Result<Over, OverError> {
    over_with(reader, question, indicator, (forming, MAX_PAST)).await
}

async fn over_with<S: TickStore>(
    reader: &Reader<S>,
    question: &Question,
    mut indicator: Indicator,
    (forming, most): (Option<&http::Candle>, u32),
) -> Result<Over, OverError> {
    let ask = &question.ask;
    let Candles {
        mut bars,
        progress,
        more,
        ..
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
    past::take(reader, question, &mut indicator, (first.start, most)).await?;
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
