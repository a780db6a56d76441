//! `/udf/marks` and `/udf/timescale_marks`: changes of an instrument's trading state, and holes in what
//! its venue sent.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::http::HeaderMap;
use schemars::JsonSchema;
use schemas::codec;
use schemas::id::Kind;
use schemas::tick::{Feed, Status, Tick};
use schemas::time::UnixNanos;
use serde::Deserialize;
use tracing::error;

use super::super::Api;
use super::super::answer::Format;
use super::super::query::Wrong;
use super::super::resource::{About, Resources};
use super::instruments::{known, resolution};
use super::parameters::{Name, Seconds, Since};
use super::{Answered, Or, respond, written};
use crate::store::{Found, Range, Series, TickStore};
use crate::udf::marks::{Marks, Place, TimescaleMark, of_feed, of_statuses};
use crate::udf::refusal::Refusal;
use crate::udf::ticker::Ticker;

/// The most marks of one answer: of more, the latest.
const MAX_MARKS: u32 = 1_000;
/// Gaps that are read at once.
const PAGE: u32 = 1_000;

/// Adds the resources.
pub(super) fn resources<S: TickStore + Clone + 'static>(to: Resources<S>) -> Resources<S> {
    let about = |id, summary| About {
        id,
        chapter: "udf",
        summary,
        formats: &[Format::Json],
    };
    to.plain::<Asked, Or<Marks>, _, _>(
        "/udf/marks",
        about("udf_marks", "Changes of an instrument's trading state"),
        async |api: Arc<Api<S>>, asked: Result<Asked, Wrong>, headers: HeaderMap| {
            let answered = async { marks(&api, asked?).await };
            respond(answered.await, &headers)
        },
    )
    .plain::<Asked, Or<Vec<TimescaleMark>>, _, _>(
        "/udf/timescale_marks",
        about(
            "udf_timescale_marks",
            "Holes in what an instrument's venue sent",
        ),
        async |api: Arc<Api<S>>, asked: Result<Asked, Wrong>, headers: HeaderMap| {
            let answered = async { timescale_marks(&api, asked?).await };
            respond(answered.await, &headers)
        },
    )
}

/// What both take.
#[derive(Debug, Deserialize, JsonSchema)]
struct Asked {
    /// The instrument's ticker.
    symbol: Name,
    /// From here, inclusive.
    from: Since,
    /// To here, inclusive.
    to: Seconds,
    /// The chart's; marks are the same at all of them.
    resolution: Option<Name>,
}

impl Asked {
    /// Whose marks, and of which range; the end is made exclusive.
    fn checked(self) -> Result<(Ticker, UnixNanos, UnixNanos), Refusal> {
        let ticker = self.symbol.0.parse::<Ticker>();
        let ticker = ticker.map_err(|error| Refusal::Symbol(error.to_string()))?;
        if let Some(Name(text)) = &self.resolution {
            resolution(text)?;
        }
        if self.from.0 > self.to.0 {
            let sentence = "from lies behind to: from must not be the later one";
            return Err(Refusal::Parameter(sentence.to_owned()));
        }
        Ok((ticker, self.from.0, self.to.0.offset(1)))
    }
}

async fn marks<S: TickStore>(api: &Api<S>, asked: Asked) -> Answered {
    let (ticker, from, to) = asked.checked()?;
    let (venue, symbol) = (ticker.venue.clone(), ticker.symbol.clone());
    let rows = latest(api, Series::Events(Kind::Status, venue, symbol), (from, to)).await?;
    if rows.is_empty() {
        known(api, &ticker).await?;
    }
    let statuses = rows.iter().filter_map(|row| match read(row) {
        Some(Tick::Status(status)) => Some(((row.epoch, row.seq), status)),
        _ => None,
    });
    let statuses: Vec<(Place, Status)> = statuses.collect();
    written(&of_statuses(&statuses))
}

/// The latest events of a range, oldest first.
async fn latest<S: TickStore>(
    api: &Api<S>,
    series: Series,
    (from, to): (UnixNanos, UnixNanos),
) -> Result<Vec<Found>, Refusal> {
    let range = Range {
        series,
        from,
        to,
        descending: true,
        after: None,
        limit: MAX_MARKS,
    };
    let mut rows = api
        .config
        .store
        .page(&api.config.stream, &range)
        .await?
        .rows;
    rows.reverse();
    Ok(rows)
}

async fn timescale_marks<S: TickStore>(api: &Api<S>, asked: Asked) -> Answered {
    let (ticker, from, to) = asked.checked()?;
    known(api, &ticker).await?;
    let mut marks: VecDeque<TimescaleMark> = VecDeque::new();
    let mut after = None;
    loop {
        let store = &api.config.store;
        let rows = store.feed_gaps((from, to), after, PAGE).await?;
        after = rows.last().map(|row| (row.at, row.epoch, row.seq));
        let whole = u32::try_from(rows.len()).is_ok_and(|count| count == PAGE);
        let found = rows.iter().filter_map(|row| match read(row) {
            Some(Tick::Feed(feed)) if concerns(&feed, &ticker) => {
                of_feed((row.epoch, row.seq), &feed)
            }
            _ => None,
        });
        marks.extend(found);
        let limit = usize::try_from(MAX_MARKS).unwrap_or(usize::MAX);
        marks.drain(..marks.len().saturating_sub(limit));
        if !whole {
            return written(&marks);
        }
    }
}

/// Whether an instrument may have missed something by it.
fn concerns(feed: &Feed, ticker: &Ticker) -> bool {
    let symbol = feed.gap.as_ref().and_then(|gap| gap.symbol.as_ref());
    feed.head.venue == ticker.venue && symbol.is_none_or(|symbol| *symbol == ticker.symbol)
}

fn read(row: &Found) -> Option<Tick> {
    let tick = codec::from_msgpack(&row.payload);
    let damaged = |problem: &_| {
        error!(%problem, seq = row.seq.get(), "a stored tick is damaged");
    };
    tick.inspect_err(damaged).ok()
}
