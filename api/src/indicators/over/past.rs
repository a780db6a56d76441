//! What an indicator has to take before the first bar of a range, page by page.

use schemas::time::UnixNanos;

use super::{Candle, OverError, Question};
use crate::bars::{Ask, MAX_PARTS, Reader};
use crate::indicators::Indicator;
use crate::store::TickStore;

/// The most stored bars that are read for what began before a range: a week of seconds, and some.
pub const MAX_PAST: u32 = 700_000;
/// How many bars are held at a time.
const PAGE: u32 = 10_000;

/// Gives the indicator what it needs of the bars before the one that starts at `start`; for what it
/// has to take from a beginning on, at most so many stored bars are read.
///
/// # Errors
///
/// [`OverError`].
pub(super) async fn take<S: TickStore>(
    reader: &Reader<S>,
    question: &Question,
    indicator: &mut Indicator,
    (start, most): (UnixNanos, u32),
) -> Result<(), OverError> {
    let since = if indicator.is_total() {
        question.since
    } else {
        indicator.anchor(start).unwrap_or(start)
    };
    let since = since.min(start);
    few(reader, &question.ask, indicator, since).await?;
    let mut left = most;
    let mut ask = Ask {
        from: since,
        to: start,
        limit: PAGE,
        last: false,
        ..question.ask.clone()
    };
    while ask.from < start {
        let read = reader.read(&ask).await?;
        left = left
            .checked_sub(read.parts)
            .ok_or_else(|| too_much(question, indicator, (since, start), most))?;
        for bar in &read.bars {
            indicator.next(&Candle::from(bar));
        }
        match read.bars.last() {
            Some(last) if read.more => ask.from = last.start.offset(1),
            Some(_) | None => break,
        }
    }
    Ok(())
}

/// The last bars before `to`, as many as the indicator says.
async fn few<S: TickStore>(
    reader: &Reader<S>,
    ask: &Ask,
    indicator: &mut Indicator,
    to: UnixNanos,
) -> Result<(), OverError> {
    let from = UnixNanos::new(i64::MIN);
    let count = indicator.history();
    if count == 0 || to == from {
        return Ok(());
    }
    let ask = Ask {
        from,
        to,
        limit: u32::try_from(count).unwrap_or(u32::MAX),
        last: true,
        ..ask.clone()
    };
    let read = reader.read(&ask).await?;
    if read.more && read.bars.len() < count {
        return Err(OverError::Count {
            resolution: ask.resolution,
            indicator: indicator.to_string(),
            count,
            start: to,
            limit: MAX_PARTS,
        });
    }
    for bar in &read.bars {
        indicator.next(&Candle::from(bar));
    }
    Ok(())
}

fn too_much(
    question: &Question,
    indicator: &Indicator,
    (since, start): (UnixNanos, UnixNanos),
    limit: u32,
) -> OverError {
    let resolution = question.ask.resolution;
    let total = indicator.is_total();
    let indicator = indicator.to_string();
    if total {
        return OverError::Total {
            indicator,
            start,
            limit,
        };
    }
    OverError::Anchor {
        resolution,
        indicator,
        since,
        start,
        limit,
    }
}
