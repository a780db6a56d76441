//! Pages of history: trades, quotes, ticks by position.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use schemas::http::{Item, Page, Position};
use schemas::id::{Kind, Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use schemas::time::{Clock as _, SystemClock, UnixNanos};
use schemas::topic::Topic;
use serde::Deserialize;

use super::Api;
use super::answer::{Answer, Format};
use super::problem::Problem;
use super::query::{At, Limit, Mark, Order};
use super::resource::{About, Call, Ranged, Resources};
use super::walk::Way;
use crate::store::{Found, Progress, RECORDED, Range, Series, TickStore};

/// How many items a page has.
pub(super) type PageLimit = Limit<10_000, 1_000>;

/// How far back what is recorded only changes any more by what comes late, in nanoseconds.
const SETTLING: i64 = 60_000_000_000;

/// Adds the resources.
pub(super) fn resources<S: TickStore + Clone + 'static>(to: Resources<S>) -> Resources<S> {
    let about = |id, summary| About {
        id,
        chapter: "history",
        summary,
        formats: Format::LISTS,
    };
    to.history::<_, Page<Item>, _, _>(
        "/v1/trades",
        about("trades", "Trades of an instrument by event time"),
        async |api,
               Call {
                   query: Trades(events),
               }| timed::<S>(api, events.timed(Kind::Trade)).await,
    )
    .history::<_, Page<Item>, _, _>(
        "/v1/quotes",
        about(
            "quotes",
            "Best bids and asks of an instrument by event time",
        ),
        async |api,
               Call {
                   query: Quotes(events),
               }| timed::<S>(api, events.timed(Kind::Quote)).await,
    )
    .history::<_, Page<Item>, _, _>(
        "/v1/ticks",
        about(
            "ticks",
            "Ticks of a topic by position: what the `fill` of a `gap` points at",
        ),
        ticks::<S>,
    )
}

/// What `/v1/trades` and `/v1/quotes` take.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
struct Events {
    /// The venue.
    venue: Venue,
    /// The symbol.
    symbol: Symbol,
    /// From here, inclusive.
    from: Option<At>,
    /// To here, exclusive.
    to: Option<At>,
    /// `next` of an earlier answer.
    cursor: Option<Mark>,
    /// The most items. Without it, lines (NDJSON, CSV) come all, other forms by the thousand.
    limit: Option<PageLimit>,
    /// Which come first.
    #[serde(default)]
    order: Order,
}

/// What `/v1/ticks` takes.
#[derive(Debug, Deserialize, JsonSchema)]
struct Ticks {
    /// The topic.
    topic: Topic,
    /// The epoch that the positions belong to.
    epoch: Epoch,
    /// Behind this position.
    after: Option<u64>,
    /// Up to this position, inclusive.
    until: Option<u64>,
    /// `next` of an earlier answer.
    cursor: Option<u64>,
    /// The stream; the one that this server serves where nothing is asked.
    stream: Option<String>,
    /// The most items. Without it, lines (NDJSON, CSV) come all, other forms by the thousand.
    limit: Option<PageLimit>,
}

/// What is asked for by time.
pub(super) struct Timed {
    pub(super) series: Series,
    pub(super) span: (Option<At>, Option<At>),
    pub(super) cursor: Option<Mark>,
    pub(super) limit: PageLimit,
    pub(super) order: Order,
}

impl Timed {
    /// The rows that are asked for.
    fn range(self) -> Result<Range, Problem> {
        let (from, to) = self.span;
        let range = Range {
            series: self.series,
            from: from.map_or(UnixNanos::new(i64::MIN), |at| at.0),
            to: to.map_or(UnixNanos::new(i64::MAX), |at| at.0),
            descending: self.order.is_descending(),
            after: self.cursor.map(|mark| mark.place),
            limit: self.limit.get(),
        };
        if range.from >= range.to {
            return Err(Problem::parameter("from", "from must lie before to"));
        }
        Ok(range)
    }

    /// All that is asked for, and where the page before ended.
    ///
    /// # Errors
    ///
    /// A range that ends before it begins.
    pub(super) fn whole(self) -> Result<(Way, Option<Mark>), Problem> {
        let cursor = self.cursor;
        Ok((Way::Time(self.range()?), cursor))
    }
}

impl Events {
    fn timed(self, kind: Kind) -> Timed {
        Timed {
            series: Series::Events(kind, self.venue, self.symbol),
            span: (self.from, self.to),
            cursor: self.cursor,
            limit: self.limit.unwrap_or_default(),
            order: self.order,
        }
    }
}

/// What `/v1/trades` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Trades(Events);

/// What `/v1/quotes` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Quotes(Events);

impl Ranged for Trades {
    fn has_limit(&self) -> bool {
        self.0.limit.is_some()
    }

    fn whole(self, _: &str) -> Result<(Way, Option<Mark>), Problem> {
        self.0.timed(Kind::Trade).whole()
    }
}

impl Ranged for Quotes {
    fn has_limit(&self) -> bool {
        self.0.limit.is_some()
    }

    fn whole(self, _: &str) -> Result<(Way, Option<Mark>), Problem> {
        self.0.timed(Kind::Quote).whole()
    }
}

impl Ranged for Ticks {
    fn has_limit(&self) -> bool {
        self.limit.is_some()
    }

    fn whole(self, stream: &str) -> Result<(Way, Option<Mark>), Problem> {
        let (after, until) = self.span(stream)?;
        let way = Way::Position {
            series: recorded(&self.topic)?,
            epoch: self.epoch,
            after,
            until: self.until.map(|_| until),
        };
        Ok((way, None))
    }
}

impl Ticks {
    /// Behind which position and up to which one.
    fn span(&self, served: &str) -> Result<(StreamSeq, StreamSeq), Problem> {
        let after = self.after.unwrap_or(0).max(self.cursor.unwrap_or(0));
        let until = self.until.unwrap_or(u64::MAX >> 1);
        if let Some(stream) = self.stream.as_deref().filter(|stream| *stream != served) {
            let stream: String = stream.chars().take(64).collect();
            let detail = format!("stream: there is no stream {stream:?}");
            return Err(Problem::parameter("stream", detail));
        }
        if after > until {
            let detail = "after must not lie behind until";
            return Err(Problem::parameter("after", detail));
        }
        Ok((StreamSeq::new(after), StreamSeq::new(until)))
    }
}

/// A page of what is stored.
///
/// # Errors
///
/// [`Problem`].
pub(super) async fn timed<S: TickStore>(api: Arc<Api<S>>, asked: Timed) -> Result<Answer, Problem> {
    let cursor = asked.cursor;
    page(&api, asked.range()?, cursor).await
}

async fn page<S: TickStore>(
    api: &Api<S>,
    mut range: Range,
    cursor: Option<Mark>,
) -> Result<Answer, Problem> {
    let limit = range.limit;
    range.limit = limit + 1;
    let kind = match range.series {
        Series::Events(kind, ..) => kind,
        Series::Bars(..) => Kind::Bar,
    };
    let mut page = api.config.store.page(&api.config.stream, &range).await?;
    let last = cut(&mut page.rows, limit);
    let more = last.is_some();
    let covered = cursor.map_or(page.progress, |mark| mark.covered);
    let next = last.map(|row| {
        let place = (row.at, row.epoch, row.seq);
        Mark { place, covered }.write()
    });
    // Live continues from a page only if nothing newer of the series was left out of it.
    let open = range.to == UnixNanos::new(i64::MAX);
    let newest = open
        && if range.descending {
            cursor.is_none()
        } else {
            !more
        };
    let covered = covered.filter(|_| newest);
    let answer = list(&api.config.stream, &page.rows, next, covered)?;
    let settled = SystemClock.now().get().saturating_sub(SETTLING);
    Ok(answer.of([kind]).closed(range.to.get() <= settled))
}

async fn ticks<S: TickStore>(
    api: Arc<Api<S>>,
    Call { query }: Call<Ticks>,
) -> Result<Answer, Problem> {
    let span = query.span(&api.config.stream)?;
    let series = recorded(&query.topic)?;
    let limit = query.limit.unwrap_or_default().get();
    let store = &api.config.store;
    let mut rows = store
        .by_position(&series, query.epoch, span, limit + 1)
        .await?;
    let next = cut(&mut rows, limit).map(|row| row.seq.to_string());
    let answer = list(&api.config.stream, &rows, next, None)?;
    Ok(answer.of([query.topic.kind()]))
}

/// Where the ticks of a topic are stored.
fn recorded(topic: &Topic) -> Result<Series, Problem> {
    let (venue, symbol) = (topic.venue().clone(), topic.symbol().clone());
    match (topic.kind(), topic.interval()) {
        (Kind::Bar, Some(interval)) => Ok(Series::Bars(venue, symbol, interval)),
        (
            kind @ (Kind::Trade
            | Kind::Quote
            | Kind::Status
            | Kind::Flow
            | Kind::Feed
            | Kind::Index),
            _,
        ) => Ok(Series::Events(kind, venue, symbol)),
        (kind, _) => {
            let why = if RECORDED.contains(&kind) {
                "only the latest of a topic is kept"
            } else {
                "they are not recorded"
            };
            let detail = format!("there is no history of {kind} ticks: {why}");
            Err(Problem::not_found(detail))
        }
    }
}

/// Cuts what was read to make sure that there is more; gives the last row that is left if there is.
pub(super) fn cut(rows: &mut Vec<Found>, limit: u32) -> Option<&Found> {
    let kept = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > kept;
    rows.truncate(kept);
    rows.last().filter(|_| more)
}

fn list(
    stream: &str,
    rows: &[Found],
    next: Option<String>,
    progress: Option<Progress>,
) -> Result<Answer, Problem> {
    let items = rows.iter().map(|row| (row.seq, &*row.payload));
    let position = |Progress { epoch: e, floor: c }| (stream.to_owned(), Position { e, c });
    let pos: BTreeMap<_, _> = progress.map(position).into_iter().collect();
    Answer::ticks(items, next, pos)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;
    use axum::http::header::CONTENT_TYPE;
    use schemas::codec::{from_json, to_msgpack};

    use super::*;
    use crate::server::answer::Form;

    const TRADE: &str =
        r#"{"k":"trade","v":"x","y":"A","tr":"7","i":"1","p":"1.50","z":"2","sd":"buy"}"#;

    #[tokio::test]
    async fn a_list_is_the_contracts_page_without_what_is_damaged() {
        let tick = from_json(TRADE.as_bytes()).unwrap();
        let row = |seq, payload: Vec<u8>| Found {
            at: UnixNanos::new(7),
            epoch: Epoch::new(UnixNanos::new(5), 0),
            seq: StreamSeq::new(seq),
            payload: payload.into(),
        };
        let packed = to_msgpack(&tick).unwrap();
        let rows = [row(3, packed.clone()), row(4, vec![0xC1]), row(9, packed)];
        let progress = Progress {
            epoch: Epoch::new(UnixNanos::new(5), 0),
            floor: "9.000000ff".parse().unwrap(),
        };
        let answer = list("TICKS", &rows, Some("more".to_owned()), Some(progress)).unwrap();
        let media_type = Format::Json.media_type();
        let form = Form {
            format: Format::Json,
            media_type,
        };
        let written = answer.write(Format::Json).unwrap();
        let response = written.respond(form, &"/".parse().unwrap(), &HeaderMap::new());
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let body = axum::body::to_bytes(response.into_body(), 4_096)
            .await
            .unwrap();
        let page: Page<Item> = serde_json::from_slice(&body).unwrap();
        let item = |s| Item {
            s: StreamSeq::new(s),
            tick: tick.clone(),
        };
        let position = Position {
            e: progress.epoch,
            c: progress.floor,
        };
        let expected = Page {
            items: vec![item(3), item(9)],
            next: Some("more".to_owned()),
            pos: [("TICKS".to_owned(), position)].into(),
        };
        assert_eq!(page, expected);
    }
}
