//! Pages of history: trades, quotes, bars, ticks by position, instruments.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use schemas::codec::transcode;
use schemas::http::Position;
use schemas::id::{Interval, Kind, Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use schemas::topic::Topic;
use serde_json::json;
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

/// Writes rows as a list: the ticks as they are on the WebSocket, each with its sequence.
fn list(
    stream: &str,
    rows: &[Found],
    next: Option<String>,
    progress: Option<Progress>,
) -> Response {
    let mut body = b"{\"items\":[".to_vec();
    for row in rows {
        push_item(&mut body, row.seq, &row.payload);
    }
    if body.last() == Some(&b',') {
        body.pop();
    }
    body.push(b']');
    if let Some(next) = next {
        body.extend_from_slice(format!(",\"next\":{}", json!(next)).as_bytes());
    }
    if let Some(Progress { epoch, floor }) = progress {
        let pos = json!({ stream: Position { e: epoch, c: floor } });
        body.extend_from_slice(format!(",\"pos\":{pos}").as_bytes());
    }
    body.push(b'}');
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

/// Appends one tick and a comma; a payload that cannot be written is left out, and logged.
pub(super) fn push_item(body: &mut Vec<u8>, seq: StreamSeq, payload: &[u8]) {
    let start = body.len();
    let mut tick = Vec::with_capacity(payload.len() * 2);
    if let Err(problem) = transcode(payload, &mut tick) {
        error!(%problem, seq = seq.get(), "a stored tick is damaged");
        return;
    }
    let Some((b'{', fields)) = tick.split_first() else {
        body.truncate(start);
        return;
    };
    body.extend_from_slice(format!("{{\"s\":{seq},").as_bytes());
    body.extend_from_slice(fields);
    body.push(b',');
}
