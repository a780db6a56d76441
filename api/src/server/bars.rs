//! `/v1/bars`: stored ones page by page as they are, others made of shorter ones.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use schemas::http::{Candle, Item, Page, Position};
use schemas::id::{Interval, Symbol, Venue};
use schemas::time::UnixNanos;
use serde::{Deserialize, Deserializer};

use super::Api;
use super::answer::{Answer, Format};
use super::history::{PageLimit, page};
use super::problem::Problem;
use super::query::{At, Mark, Order};
use super::resource::{About, Call, Resources};
use crate::bars::{Ask, ReadError, Resolution};
use crate::store::{Progress, Range, Series, TickStore};

/// Adds the resource.
pub(super) fn resources<S: TickStore + Clone + 'static>(to: Resources<S>) -> Resources<S> {
    to.get::<_, Page<Bar>, _, _>(
        "/v1/bars",
        About {
            id: "bars",
            chapter: "history",
            summary: "Bars of an instrument by start: stored ones, or made of shorter ones by its session",
            formats: Format::LISTS,
        },
        bars::<S>,
    )
}

/// What is answered: a tick, where bars of this length are stored.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes what is written from other types")]
enum Bar {
    Stored(Item),
    Made(Candle),
}

/// What `/v1/bars` takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Bars {
    /// The venue.
    venue: Venue,
    /// The symbol.
    symbol: Symbol,
    /// How long a bar is, as `1s`, `5m`, `4h`, `1d`, `1w`, `1M` or `1y`; a minute where nothing is asked.
    interval: Option<Resolution>,
    /// From here, inclusive.
    from: Option<At>,
    /// To here, exclusive.
    to: Option<At>,
    /// `next` of an earlier answer.
    cursor: Option<Next>,
    /// The most items.
    #[serde(default)]
    limit: PageLimit,
    /// Which come first.
    #[serde(default)]
    order: Order,
}

/// Where the next page begins.
#[derive(Clone, Copy, Debug)]
enum Next {
    Stored(Mark),
    /// Behind the bar that begins here.
    Made(UnixNanos),
}

impl<'de> Deserialize<'de> for Next {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        if let Some(start) = text.strip_prefix('b').and_then(|start| start.parse().ok()) {
            return Ok(Self::Made(UnixNanos::new(start)));
        }
        let text = serde::de::value::StrDeserializer::new(&text);
        Mark::deserialize(text).map(Self::Stored)
    }
}

impl JsonSchema for Next {
    fn schema_name() -> Cow<'static, str> {
        "BarCursor".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let stored = Mark::json_schema(generator);
        json_schema!({ "anyOf": [stored, { "type": "string", "pattern": "^b(0|[1-9][0-9]{0,17})$" }] })
    }
}

async fn bars<S: TickStore>(
    api: Arc<Api<S>>,
    Call { query }: Call<Bars>,
) -> Result<Answer, Problem> {
    let resolution = query.interval.unwrap_or(Interval::Minute1.into());
    let from = query.from.map_or(UnixNanos::new(i64::MIN), |at| at.0);
    let to = query.to.map_or(UnixNanos::new(i64::MAX), |at| at.0);
    if from >= to {
        return Err(Problem::parameter("from", "from must lie before to"));
    }
    let mark = match query.cursor {
        None => None,
        Some(Next::Stored(mark)) => Some(mark),
        Some(Next::Made(behind)) => return made(&api, &query, resolution, Some(behind)).await,
    };
    let Some(interval) = resolution.interval() else {
        return made(&api, &query, resolution, None).await;
    };
    let series = Series::Bars(query.venue.clone(), query.symbol.clone(), interval);
    if mark.is_none() && !are_stored(&api, &series).await? {
        return made(&api, &query, resolution, None).await;
    }
    let range = Range {
        series,
        from,
        to,
        descending: query.order.is_descending(),
        after: mark.map(|mark| mark.place),
        limit: query.limit.get(),
    };
    page(&api, range, mark).await
}

async fn are_stored<S: TickStore>(api: &Api<S>, series: &Series) -> Result<bool, Problem> {
    let any = Range {
        series: series.clone(),
        from: UnixNanos::new(i64::MIN),
        to: UnixNanos::new(i64::MAX),
        descending: false,
        after: None,
        limit: 1,
    };
    let page = api.config.store.page(&api.config.stream, &any).await?;
    Ok(!page.rows.is_empty())
}

/// Bars that are made of shorter ones. Live goes on from them if nothing newer was left out.
async fn made<S: TickStore>(
    api: &Api<S>,
    query: &Bars,
    resolution: Resolution,
    behind: Option<UnixNanos>,
) -> Result<Answer, Problem> {
    let descending = query.order.is_descending();
    let from = query.from.map_or(UnixNanos::new(i64::MIN), |at| at.0);
    let to = query.to.map_or(UnixNanos::new(i64::MAX), |at| at.0);
    let ask = Ask {
        venue: query.venue.clone(),
        symbol: query.symbol.clone(),
        resolution,
        from: behind
            .filter(|_| !descending)
            .map_or(from, |behind| from.max(behind.offset(1))),
        to: behind
            .filter(|_| descending)
            .map_or(to, |behind| to.min(behind)),
        limit: query.limit.get(),
        last: descending,
    };
    let mut found = api.bars.read(&ask).await?;
    if descending {
        found.bars.reverse();
    }
    let last = found.bars.last().filter(|_| found.more);
    let next = last.map(|bar| format!("b{}", bar.start));
    let open = to == UnixNanos::new(i64::MAX);
    let newest = open
        && if descending {
            behind.is_none()
        } else {
            !found.more
        };
    let position = |Progress { epoch: e, floor: c }| (api.config.stream.clone(), Position { e, c });
    let pos = found
        .progress
        .filter(|_| newest && behind.is_none())
        .map(position);
    Answer::page(&Page {
        items: found.bars,
        next,
        pos: pos.into_iter().collect::<BTreeMap<_, _>>(),
    })
}

impl From<ReadError> for Problem {
    fn from(problem: ReadError) -> Self {
        match problem {
            ReadError::Store(error) => Self::from(error),
            ReadError::Limit(_) => Self::parameter("limit", problem.to_string()),
            ReadError::Parts { .. } | ReadError::Volume { .. } => {
                Self::parameter("interval", problem.to_string())
            }
        }
    }
}
