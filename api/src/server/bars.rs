//! `/v1/bars`: stored ones page by page as they are, others made of shorter ones.
//!
//! A stored bar is never replaced by one of the instrument's session of the same length: live goes on
//! from a page with the topic that brought the stored ones, and what only they say would be lost.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use schemas::http::{Candle, Item, Page, Position};
use schemas::id::{Interval, Symbol, Venue};
use schemas::time::UnixNanos;
use serde::de::Error as _;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Deserializer};

use super::Api;
use super::answer::{Answer, Format};
use super::history::{PageLimit, Timed, timed};
use super::problem::Problem;
use super::query::{At, Mark, Order};
use super::resource::{About, Call, Ranged, Resources};
use super::walk::Way;
use crate::bars::{Ask, ReadError, Resolution};
use crate::store::{Progress, Range, Series, TickStore};

/// Adds the resource.
pub(super) fn resources<S: TickStore + Clone + 'static>(to: Resources<S>) -> Resources<S> {
    to.history::<_, Page<Bar>, _, _>(
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
    /// Where bars of this length are stored, they come as they were published, counted in UTC: `1d` is
    /// then a UTC day, like the topic `bar.<venue>.<symbol>.1d` that goes on from `pos`. All others are
    /// made of shorter ones by the instrument's session. Its trading days are at `/v1/eod`.
    interval: Option<Resolution>,
    /// From here, inclusive.
    from: Option<At>,
    /// To here, exclusive.
    to: Option<At>,
    /// `next` of an earlier answer.
    cursor: Option<Next>,
    /// The most items. Without it, lines (NDJSON, CSV) come all where bars of this length are stored,
    /// and everything else by the thousand.
    limit: Option<PageLimit>,
    /// Which come first.
    #[serde(default)]
    order: Order,
}

/// Where the next page of what is made begins: behind the bar that begins here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Behind(pub(super) UnixNanos);

/// Where the next page begins.
#[derive(Clone, Copy, Debug)]
enum Next {
    Stored(Mark),
    Made(Behind),
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}", self.0)
    }
}

impl<'de> Deserialize<'de> for Behind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let start = text.strip_prefix('b').and_then(|start| start.parse().ok());
        let start = start.map(|start| Self(UnixNanos::new(start)));
        start.ok_or_else(|| D::Error::custom("must be `next` of an earlier answer"))
    }
}

impl JsonSchema for Behind {
    fn schema_name() -> Cow<'static, str> {
        "BarCursor".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^b(0|-?[1-9][0-9]{0,17}|-?[1-8][0-9]{18})$" })
    }
}

impl<'de> Deserialize<'de> for Next {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let value = StrDeserializer::new(&text);
        if text.starts_with('b') {
            return Behind::deserialize(value).map(Self::Made);
        }
        Mark::deserialize(value).map(Self::Stored)
    }
}

impl JsonSchema for Next {
    fn schema_name() -> Cow<'static, str> {
        "Next".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (stored, made) = (Mark::json_schema(generator), Behind::json_schema(generator));
        json_schema!({ "anyOf": [stored, made] })
    }
}

impl Bars {
    fn resolution(&self) -> Resolution {
        self.interval.unwrap_or_else(|| Interval::Minute1.into())
    }

    /// The series in which bars of this length would be stored.
    fn series(&self) -> Option<Series> {
        let interval = self.resolution().interval()?;
        Some(Series::Bars(
            self.venue.clone(),
            self.symbol.clone(),
            interval,
        ))
    }

    fn timed(self, series: Series) -> Timed {
        let cursor = match self.cursor {
            Some(Next::Stored(mark)) => Some(mark),
            Some(Next::Made(_)) | None => None,
        };
        Timed {
            series,
            span: (self.from, self.to),
            cursor,
            limit: self.limit.unwrap_or_default(),
            order: self.order,
        }
    }
}

impl Ranged for Bars {
    fn has_limit(&self) -> bool {
        self.limit.is_some()
    }

    async fn is_kept<S: TickStore>(&self, api: &Api<S>) -> Result<bool, Problem> {
        match (self.cursor, self.series()) {
            (Some(Next::Stored(_)), Some(_)) => Ok(true),
            (None, Some(series)) => are_stored(api, series).await,
            (Some(Next::Made(_)), _) | (_, None) => Ok(false),
        }
    }

    fn whole(self, _: &str) -> Result<(Way, Option<Mark>), Problem> {
        match self.series() {
            Some(series) => self.timed(series).whole(),
            None => Err(Problem::internal()),
        }
    }
}

async fn bars<S: TickStore>(
    api: Arc<Api<S>>,
    Call { query }: Call<Bars>,
) -> Result<Answer, Problem> {
    match query.series() {
        Some(series) if query.is_kept(&api).await? => timed(api, query.timed(series)).await,
        Some(_) | None => made(&api, query).await,
    }
}

async fn are_stored<S: TickStore>(api: &Api<S>, series: Series) -> Result<bool, Problem> {
    let any = Range {
        series,
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
async fn made<S: TickStore>(api: &Api<S>, query: Bars) -> Result<Answer, Problem> {
    let descending = query.order.is_descending();
    let mut from = query.from.map_or(UnixNanos::new(i64::MIN), |at| at.0);
    let mut to = query.to.map_or(UnixNanos::new(i64::MAX), |at| at.0);
    if from >= to {
        return Err(Problem::parameter("from", "from must lie before to"));
    }
    let newest = query.to.is_none() && query.cursor.is_none();
    match query.cursor {
        None => {}
        Some(Next::Made(Behind(start))) if descending => to = to.min(start),
        Some(Next::Made(Behind(start))) => from = from.max(start.offset(1)),
        Some(Next::Stored(_)) => {
            let detail = "cursor: must be `next` of an earlier answer";
            return Err(Problem::parameter("cursor", detail));
        }
    }
    let ask = Ask {
        resolution: query.resolution(),
        venue: query.venue,
        symbol: query.symbol,
        from,
        to,
        limit: query.limit.unwrap_or_default().get(),
        last: descending,
    };
    let mut found = api.bars.read(&ask).await?;
    if descending {
        found.bars.reverse();
    }
    let last = found.bars.last().filter(|_| found.more);
    let next = last.map(|bar| Behind(bar.start).to_string());
    let newest = newest && (descending || !found.more);
    let position = |Progress { epoch: e, floor: c }| (api.config.stream.clone(), Position { e, c });
    let pos = found.progress.filter(|_| newest).map(position);
    Answer::page(Page {
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
