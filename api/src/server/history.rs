//! Pages of history: trades, quotes, bars, ticks by position, instruments.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use schemas::http::{JSON, PageWriter, Position};
use schemas::id::{Interval, Kind, Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use schemas::topic::Topic;
use tracing::error;

use super::Api;
use super::problem::Problem;
use super::query::{Mark, Parameters};
use crate::store::{Found, Progress, RECORDED, Range, Series, TickStore};

type Pairs = Query<Vec<(String, String)>>;
type Answer = Result<Response, Problem>;

pub(super) async fn trades<S: TickStore>(
    State(api): State<Arc<Api<S>>>,
    Query(pairs): Pairs,
) -> Answer {
    events(&api, Kind::Trade, Parameters::new(pairs)?).await
}

pub(super) async fn quotes<S: TickStore>(
    State(api): State<Arc<Api<S>>>,
    Query(pairs): Pairs,
) -> Answer {
    events(&api, Kind::Quote, Parameters::new(pairs)?).await
}

async fn events<S: TickStore>(api: &Api<S>, kind: Kind, mut parameters: Parameters) -> Answer {
    let (venue, symbol): (Venue, Symbol) = (
        parameters.required("venue")?,
        parameters.required("symbol")?,
    );
    page(api, Series::Events(kind, venue, symbol), parameters).await
}

pub(super) async fn bars<S: TickStore>(
    State(api): State<Arc<Api<S>>>,
    Query(pairs): Pairs,
) -> Answer {
    let mut parameters = Parameters::new(pairs)?;
    let (venue, symbol): (Venue, Symbol) = (
        parameters.required("venue")?,
        parameters.required("symbol")?,
    );
    let interval: Option<Interval> = parameters.optional("interval")?;
    page(
        &api,
        Series::Bars(venue, symbol, interval.unwrap_or(Interval::Minute1)),
        parameters,
    )
    .await
}

async fn page<S: TickStore>(api: &Api<S>, series: Series, mut parameters: Parameters) -> Answer {
    let (from, to) = (parameters.time("from")?, parameters.time("to")?);
    let after = parameters.cursor()?;
    let limit = parameters.limit()?;
    let descending = parameters.descending()?;
    parameters.finish()?;
    if let (Some(from), Some(to)) = (from, to)
        && from >= to
    {
        return Err(Problem::parameter("from", "from must lie before to"));
    }
    let range = Range {
        series,
        from: from.unwrap_or(UnixNanos::new(i64::MIN)),
        to: to.unwrap_or(UnixNanos::new(i64::MAX)),
        descending,
        after: after.map(|mark| mark.place),
        limit: limit + 1,
    };
    let mut page = api.config.store.page(&api.config.stream, &range).await?;
    let kept = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = page.rows.len() > kept;
    page.rows.truncate(kept);
    let covered = after.map_or(page.progress, |mark| mark.covered);
    let next = page.rows.last().filter(|_| more).map(|row| {
        let place = (row.at, row.epoch, row.seq);
        Mark { place, covered }.write()
    });
    // Live continues from a page only if nothing newer of the series was left out of it.
    let newest = to.is_none() && if descending { after.is_none() } else { !more };
    Ok(list(
        &api.config.stream,
        &page.rows,
        next,
        covered.filter(|_| newest),
    ))
}

/// What `gap.fill` points at: a topic's ticks by position.
pub(super) async fn ticks<S: TickStore>(
    State(api): State<Arc<Api<S>>>,
    Query(pairs): Pairs,
) -> Answer {
    let mut parameters = Parameters::new(pairs)?;
    let topic: Topic = parameters.required("topic")?;
    let epoch: Epoch = parameters.required("epoch")?;
    let sequence = |text: Option<u64>, default| StreamSeq::new(text.unwrap_or(default));
    let after = sequence(parameters.optional("after")?, 0);
    let until = sequence(parameters.optional("until")?, u64::MAX >> 1);
    let after = after.max(sequence(parameters.optional("cursor")?, 0));
    let stream = parameters
        .text("stream")
        .unwrap_or_else(|| api.config.stream.clone());
    if stream != api.config.stream {
        return Err(Problem::parameter(
            "stream",
            format!("there is no stream {stream:?}"),
        ));
    }
    let limit = parameters.limit()?;
    parameters.finish()?;
    if after > until {
        return Err(Problem::parameter(
            "after",
            "after must not lie behind until",
        ));
    }
    let (venue, symbol) = (topic.venue().clone(), topic.symbol().clone());
    let series = match (topic.kind(), topic.interval()) {
        (Kind::Bar, Some(interval)) => Series::Bars(venue, symbol, interval),
        (
            kind @ (Kind::Trade
            | Kind::Quote
            | Kind::Status
            | Kind::Flow
            | Kind::Feed
            | Kind::Index),
            _,
        ) => Series::Events(kind, venue, symbol),
        (kind, _) => {
            let why = if RECORDED.contains(&kind) {
                "only the latest of a topic is kept"
            } else {
                "they are not recorded"
            };
            let detail = format!("there is no history of {kind} ticks: {why}");
            return Err(Problem::not_found(detail));
        }
    };
    let mut rows = api
        .config
        .store
        .by_position(&series, epoch, (after, until), limit + 1)
        .await?;
    let kept = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > kept;
    rows.truncate(kept);
    let next = rows.last().filter(|_| more).map(|row| row.seq.to_string());
    Ok(list(&stream, &rows, next, None))
}

pub(super) async fn instruments<S: TickStore>(
    State(api): State<Arc<Api<S>>>,
    Query(pairs): Pairs,
) -> Answer {
    let mut parameters = Parameters::new(pairs)?;
    let venue: Option<Venue> = parameters.optional("venue")?;
    let search = parameters.text("q").unwrap_or_default();
    if search.len() > 64 {
        return Err(Problem::parameter("q", "q must have at most 64 bytes"));
    }
    let cursor = parameters.text("cursor");
    let after = match &cursor {
        None => None,
        Some(text) => Some(text.split_once(' ').ok_or_else(|| {
            Problem::parameter("cursor", "cursor must be `next` of an earlier answer")
        })?),
    };
    let limit = parameters.limit()?;
    parameters.finish()?;
    let mut rows = api
        .config
        .store
        .instruments(venue.as_ref(), &search, after, limit + 1)
        .await?;
    let kept = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > kept;
    rows.truncate(kept);
    let last = rows
        .last()
        .filter(|_| more)
        .and_then(|row| schemas::codec::from_msgpack(&row.payload).ok());
    let next = last.map(|tick| format!("{} {}", tick.head().venue, tick.head().symbol));
    Ok(list(&api.config.stream, &rows, next, None))
}

fn list(
    stream: &str,
    rows: &[Found],
    next: Option<String>,
    progress: Option<Progress>,
) -> Response {
    let items = rows.iter().map(|row| (row.seq, &*row.payload));
    let position = |Progress { epoch: e, floor: c }| (stream.to_owned(), Position { e, c });
    respond(items, next, progress.map(position).into_iter().collect())
}

/// Answers with stored ticks; one that cannot be written is left out, and logged.
pub(super) fn respond<'a>(
    items: impl Iterator<Item = (StreamSeq, &'a [u8])>,
    next: Option<String>,
    pos: BTreeMap<String, Position>,
) -> Response {
    let mut page = PageWriter::new();
    for (seq, payload) in items {
        if let Err(problem) = page.push(seq, payload) {
            error!(%problem, seq = seq.get(), "a stored tick is damaged");
        }
    }
    match page.finish(next, pos) {
        Ok(body) => ([(CONTENT_TYPE, JSON)], body).into_response(),
        Err(problem) => {
            error!(%problem, "a page cannot be written");
            Problem::internal().into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::codec::{from_json, to_msgpack};
    use schemas::http::{Item, Page};

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
        let response = list("TICKS", &rows, Some("more".to_owned()), Some(progress));
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
