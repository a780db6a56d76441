//! The ledger of what is missing: what feeds did not receive, and what was lost before it was recorded.

use std::sync::Arc;

use schemars::JsonSchema;
use schemas::codec::from_msgpack;
use schemas::http::{Hole, Lost, Page};
use schemas::id::{Symbol, Venue};
use schemas::tick::{Feed, Tick};
use schemas::time::UnixNanos;
use serde::Deserialize;
use tracing::error;

use super::Api;
use super::answer::{Answer, Format};
use super::history::PageLimit;
use super::problem::Problem;
use super::query::{At, Mark};
use super::resource::{About, Call, Resources};
use crate::store::{Found, Loss, Place, StoreError, TickStore};

/// How many entries are looked through for one page, in parts: a page may end before it is full.
const PART: u32 = 1_000;
const PARTS: usize = 20;

/// Adds the resource.
pub(super) fn resources<S: TickStore + Clone + 'static>(to: Resources<S>) -> Resources<S> {
    to.get::<_, Page<Hole>, _, _>(
        "/v1/gaps",
        About {
            id: "gaps",
            chapter: "history",
            summary: "What is missing, or was until it was filled, by the time at which that was noticed",
            formats: Format::LISTS,
        },
        gaps::<S>,
    )
}

/// What `/v1/gaps` takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Gaps {
    /// What feeds of this venue did not receive; what the recorder lost concerns every venue of its
    /// stream, and is there too.
    venue: Option<Venue>,
    /// What concerns this instrument.
    symbol: Option<Symbol>,
    /// Of what was missing from here on, inclusive.
    from: Option<At>,
    /// To here, exclusive.
    to: Option<At>,
    /// `next` of an earlier answer.
    cursor: Option<Mark>,
    /// The most entries.
    #[serde(default)]
    limit: PageLimit,
}

impl Gaps {
    fn span(&self) -> Result<(UnixNanos, UnixNanos), Problem> {
        let from = self.from.map_or(UnixNanos::new(i64::MIN), |at| at.0);
        let to = self.to.map_or(UnixNanos::new(i64::MAX), |at| at.0);
        if from < to {
            Ok((from, to))
        } else {
            Err(Problem::parameter("from", "from must lie before to"))
        }
    }

    fn concerns(&self, hole: &Hole) -> bool {
        let is = |wanted: &Option<Symbol>| match (wanted, &hole.symbol) {
            (Some(wanted), Some(symbol)) => wanted == symbol,
            (None, _) | (_, None) => true,
        };
        let venue = |wanted: &Venue| hole.venue.as_ref().is_none_or(|venue| venue == wanted);
        self.venue.as_ref().is_none_or(venue) && is(&self.symbol)
    }
}

/// Entries of one ledger, and up to where it was looked through if not to its end.
type Read = (Vec<(Place, Hole)>, Option<Place>);

async fn gaps<S: TickStore>(
    api: Arc<Api<S>>,
    Call { query }: Call<Gaps>,
) -> Result<Answer, Problem> {
    let span = query.span()?;
    let after = query.cursor.map(|mark| mark.place);
    let (store, stream) = (&api.config.store, &api.config.stream);
    let limit = usize::try_from(query.limit.get()).unwrap_or(usize::MAX);
    let (mut holes, fed) = feeds(store, &query, span, after).await?;
    let (losses, recorded) = losses((store, stream), span, after).await?;
    holes.extend(losses);
    holes.sort_by_key(|(place, _)| *place);
    // What lies behind the end of one reading may have others of the other ledger before it.
    let end = [fed, recorded].into_iter().flatten().min();
    if let Some(end) = end {
        holes.retain(|(place, _)| *place <= end);
    }
    let more = holes.len() > limit;
    holes.truncate(limit);
    let last = if more {
        holes.last().map(|(place, _)| *place)
    } else {
        end
    };
    let next = last.map(|place| {
        let covered = None;
        Mark { place, covered }.write()
    });
    Answer::list(holes.into_iter().map(|(_, hole)| hole).collect(), next)
}

async fn feeds<S: TickStore>(
    store: &S,
    query: &Gaps,
    span: (UnixNanos, UnixNanos),
    mut after: Option<Place>,
) -> Result<Read, StoreError> {
    let limit = usize::try_from(query.limit.get()).unwrap_or(usize::MAX);
    let mut holes = Vec::new();
    for _ in 0..PARTS {
        let rows = store.feed_gaps(span, after, PART).await?;
        let whole = u32::try_from(rows.len()).is_ok_and(|count| count == PART);
        for row in &rows {
            after = Some((row.at, row.epoch, row.seq));
            let hole = told(row).filter(|hole| query.concerns(hole));
            holes.extend(hole.map(|hole| ((row.at, row.epoch, row.seq), hole)));
        }
        if !whole {
            return Ok((holes, None));
        }
        if holes.len() > limit {
            break;
        }
    }
    Ok((holes, after))
}

async fn losses<S: TickStore>(
    (store, stream): (&S, &str),
    span: (UnixNanos, UnixNanos),
    after: Option<Place>,
) -> Result<Read, StoreError> {
    let limit = PART.saturating_mul(10);
    let losses = store.losses_page(stream, span, after, limit).await?;
    let whole = u32::try_from(losses.len()).is_ok_and(|count| count == limit);
    let end = losses.last().filter(|_| whole).map(Loss::place);
    let holes = losses.into_iter().map(|loss| (loss.place(), lost(loss)));
    Ok((holes.collect(), end))
}

/// What a feed's tick tells; a damaged one is logged.
fn told(row: &Found) -> Option<Hole> {
    let Ok(Tick::Feed(feed)) = from_msgpack(&row.payload) else {
        error!(seq = row.seq.get(), "a stored tick is damaged");
        return None;
    };
    let Feed {
        head, detail, gap, ..
    } = feed;
    let gap = gap?;
    Some(Hole {
        lost: Lost::Feed,
        at: row.at,
        venue: Some(head.venue),
        feed: Some(head.symbol),
        symbol: gap.symbol,
        after_id: gap.after_id,
        until_id: gap.until_id,
        from: gap.from,
        to: gap.to,
        filled: gap.filled,
        stream: None,
        epoch: None,
        first: None,
        last: None,
        why: detail,
    })
}

fn lost(loss: Loss) -> Hole {
    let known = loss.began != UnixNanos::new(0);
    Hole {
        lost: Lost::Recorder,
        at: loss.noticed,
        venue: None,
        feed: None,
        symbol: None,
        after_id: None,
        until_id: None,
        from: known.then_some(loss.began),
        to: Some(loss.noticed),
        filled: false,
        stream: Some(loss.stream),
        epoch: Some(loss.epoch),
        first: Some(loss.from),
        last: Some(loss.to),
        why: Some(loss.why),
    }
}
