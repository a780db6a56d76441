//! An indicator over a range of bars of any length, with what it needs of the bars before.

mod past;

use schemas::id::Kind;
use schemas::time::UnixNanos;

use super::{Candle, Indicator};
use crate::bars::{Ask, Candles, Newest, ReadError, Reader, Resolution};
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
    /// As [`Candles::more`]; the forming bar counts.
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
    /// What the stream says last of bars of this length, read before.
    pub newest: Newest,
}

/// Values `indicator`, which has taken no bars, over the bars of `question`, and over the forming one
/// if it is the next of them.
///
/// # Errors
///
/// [`OverError`].
pub async fn over<S: TickStore>(
    reader: &Reader<S>,
    question: &Question,
    indicator: Indicator,
) -> Result<Over, OverError> {
    over_within(reader, question, indicator, MAX_PAST).await
}

async fn over_within<S: TickStore>(
    reader: &Reader<S>,
    question: &Question,
    mut indicator: Indicator,
    most: u32,
) -> Result<Over, OverError> {
    let mut found = reader.read(&question.ask).await?;
    let open = open(&mut found, question);
    let Candles {
        bars,
        progress,
        more,
        ..
    } = found;
    let first = bars.first().map(|bar| bar.start);
    let mut points = Vec::with_capacity(bars.len() + 1);
    if let Some(start) = first.or(open.map(|bar| bar.start)) {
        past::take(reader, question, &mut indicator, (start, most)).await?;
    }
    for bar in &bars {
        let values = indicator.next(&Candle::from(bar));
        points.push(Point::new((bar.start, bar.kind), &indicator, values));
    }
    if let Some(bar) = open {
        let values = indicator.peek(&bar);
        points.push(Point::new((bar.start, Kind::Form), &indicator, values));
    }
    Ok(Over {
        points,
        progress,
        more,
    })
}

/// Takes out the bar that is not over yet, or the one that the stream has in its place or behind all
/// others, so that there are as many as were asked for.
fn open(found: &mut Candles, question: &Question) -> Option<Candle> {
    let Question { ask, newest, .. } = question;
    let stored = found.bars.pop_if(|bar| bar.kind == Kind::Form);
    // Behind the last of the first ones there are others.
    let is_newest = ask.last || !found.more;
    let told = newest
        .forming(found.progress)
        .filter(|form| is_newest && (ask.from..ask.to).contains(&form.start));
    let open = match (stored, told) {
        // Volumes only grow: the larger one is the later one.
        (Some(stored), Some(form))
            if form.start == stored.start && form.volume.get() >= stored.volume.get() =>
        {
            Candle::from(form)
        }
        (Some(stored), _) => Candle::from(&stored),
        (None, Some(form)) => {
            let last = found.bars.last().map(|last| last.start);
            last.is_none_or(|last| last < form.start)
                .then(|| Candle::from(form))?
        }
        (None, None) => return None,
    };
    let limit = usize::try_from(ask.limit).unwrap_or(usize::MAX);
    if found.bars.len() < limit {
        return Some(open);
    }
    found.more = true;
    if !ask.last {
        return None;
    }
    found.bars.drain(..=found.bars.len() - limit);
    Some(open)
}

impl Point {
    fn new(
        (start, kind): (UnixNanos, Kind),
        indicator: &Indicator,
        values: Option<super::Values>,
    ) -> Self {
        let figures = values.map(|values| values.as_slice().to_vec());
        Self {
            start,
            kind,
            figures: figures.unwrap_or_else(|| vec![None; indicator.outputs().len()]),
        }
    }
}

#[cfg(test)]
mod tests;
