//! Pages of history: trades, quotes, ticks by position.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use schemas::http::{Item, Page, Position};
use schemas::id::{Kind, Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use schemas::topic::Topic;
use serde::Deserialize;

use super::Api;
use super::answer::{Answer, Format};
use super::problem::Problem;
use super::query::{At, Limit, Mark, Order};
use super::resource::{About, Call, Resources};
use crate::store::{Found, Progress, RECORDED, Range, Series, TickStore};

/// How many items a page has.
pub(super) type PageLimit = Limit<10_000, 1_000>;

/// Adds the resources.
pub(super) fn resources<S: TickStore + Clone + 'static>(to: Resources<S>) -> Resources<S> {
    let about = |id, summary| About {
        id,
        chapter: "history",
        summary,
        formats: Format::LISTS,
    };
    to.get::<_, Page<Item>, _, _>(
        "/v1/trades",
        about("trades", "Trades of an instrument by event time"),
        async |api: Arc<Api<S>>, call: Call<Events>| events(&api, Kind::Trade, call).await,
    )
    .get::<_, Page<Item>, _, _>(
        "/v1/quotes",
        about(
            "quotes",
            "Best bids and asks of an instrument by event time",
        ),
        async |api: Arc<Api<S>>, call: Call<Events>| events(&api, Kind::Quote, call).await,
    )
    .get::<_, Page<Item>, _, _>(
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
pub(super) struct Events {
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
    /// The most items.
    #[serde(default)]
    limit: PageLimit,
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
    /// The most items.
    #[serde(default)]
    limit: PageLimit,
}

async fn events<S: TickStore>(
    api: &Api<S>,
    kind: Kind,
    Call { query }: Call<Events>,
) -> Result<Answer, Problem> {
    let range = Range {
        series: Series::Events(kind, query.venue, query.symbol),
        from: query.from.map_or(UnixNanos::new(i64::MIN), |at| at.0),
        to: query.to.map_or(UnixNanos::new(i64::MAX), |at| at.0),
        descending: query.order.is_descending(),
        after: query.cursor.map(|mark| mark.place),
        limit: query.limit.get(),
    };
    page(api, range, query.cursor).await
}

/// A page of what is stored.
///
/// # Errors
///
/// [`Problem`].
pub(super) async fn page<S: TickStore>(
    api: &Api<S>,
    mut range: Range,
    cursor: Option<Mark>,
) -> Result<Answer, Problem> {
    if range.from >= range.to {
        return Err(Problem::parameter("from", "from must lie before to"));
    }
    let limit = range.limit;
    range.limit = limit + 1;
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
    list(
        &api.config.stream,
        &page.rows,
        next,
        covered.filter(|_| newest),
    )
}

async fn ticks<S: TickStore>(
    api: Arc<Api<S>>,
    Call { query }: Call<Ticks>,
) -> Result<Answer, Problem> {
    let after = query.after.unwrap_or(0).max(query.cursor.unwrap_or(0));
    let until = query.until.unwrap_or(u64::MAX >> 1);
    let stream = query.stream.unwrap_or_else(|| api.config.stream.clone());
    if stream != api.config.stream {
        let stream: String = stream.chars().take(64).collect();
        let detail = format!("stream: there is no stream {stream:?}");
        return Err(Problem::parameter("stream", detail));
    }
    if after > until {
        return Err(Problem::parameter(
            "after",
            "after must not lie behind until",
        ));
    }
    let series = recorded(&query.topic)?;
    let limit = query.limit.get();
    let span = (StreamSeq::new(after), StreamSeq::new(until));
    let store = &api.config.store;
    let mut rows = store
        .by_position(&series, query.epoch, span, limit + 1)
        .await?;
    let next = cut(&mut rows, limit).map(|row| row.seq.to_string());
    list(&stream, &rows, next, None)
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
        let response = answer.into_response(Format::Json, &HeaderMap::new());
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
