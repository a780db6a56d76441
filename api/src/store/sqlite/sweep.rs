//! Deleting what is old, a little at a time, so that recording never waits for long.

use schemas::id::{Interval, Kind};
use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::Sqlite;
use crate::store::statements::{damaged, epoch_of, instrument, int, seq_of};
use crate::store::{Series, StoreError, Swept};

/// Series that are looked through at a time.
const SERIES: usize = 100;
/// Of longer bars there are few, and they are kept.
const SHORT: Interval = Interval::Second1;

pub(super) const NEXT_EVENTS: &str = "SELECT kind, venue, symbol FROM events
     WHERE (kind, venue, symbol) > (?1, ?2, ?3) ORDER BY kind, venue, symbol LIMIT 1";
pub(super) const NEXT_BARS: &str = "SELECT venue, symbol FROM bars
     WHERE (venue, symbol) > (?1, ?2) ORDER BY venue, symbol LIMIT 1";
pub(super) const DELETE_EVENTS: &str = "DELETE FROM events
     WHERE (kind, venue, symbol, at, created, gen, s) IN (
         SELECT kind, venue, symbol, at, created, gen, s FROM events
         WHERE kind = ?1 AND venue = ?2 AND symbol = ?3 AND created = ?4 AND gen = ?5 AND s <= ?6
         ORDER BY s LIMIT ?7)";
pub(super) const DELETE_BARS: &str = "DELETE FROM bars
     WHERE (venue, symbol, iv, at) IN (
         SELECT venue, symbol, iv, at FROM bars
         WHERE venue = ?1 AND symbol = ?2 AND iv = ?3 AND created = ?4 AND gen = ?5 AND s <= ?6
         ORDER BY s LIMIT ?7)";

/// See [`crate::store::TickStore::stood`].
pub(super) async fn stood(
    store: &Sqlite,
    stream: &str,
    (now, before): (UnixNanos, UnixNanos),
) -> Result<Vec<(Epoch, StreamSeq)>, StoreError> {
    let noted = sqlx::query(
        "INSERT INTO marks (stream, created, gen, floor, at)
         SELECT stream, created, gen, floor, ?2 FROM progress WHERE stream = ?1
         ON CONFLICT DO NOTHING",
    )
    .bind(stream)
    .bind(now.get())
    .execute(&store.writer)
    .await;
    // Of each epoch the latest one that is old enough tells everything.
    sqlx::query(
        "DELETE FROM marks WHERE stream = ?1 AND at < ?2 AND floor < (
             SELECT max(floor) FROM marks AS other
             WHERE other.stream = ?1 AND other.created = marks.created AND other.gen = marks.gen
               AND other.at < ?2)",
    )
    .bind(stream)
    .bind(before.get())
    .execute(&store.writer)
    .await?;
    let rows = sqlx::query(
        "SELECT created, gen, floor FROM marks WHERE stream = ?1 AND at < ?2 ORDER BY created, gen",
    )
    .bind(stream)
    .bind(before.get())
    .fetch_all(&store.writer)
    .await?;
    let mark = |row: &SqliteRow| Ok((epoch_of(row)?, seq_of(row, "floor")?));
    let mut marks = rows
        .iter()
        .map(mark)
        .collect::<Result<Vec<_>, StoreError>>()?;
    // A full database takes no note, and that is when deleting matters most.
    if marks.is_empty() {
        noted?;
    }
    // Whatever was recorded in an epoch was recorded before the next one.
    if let Some((_, earlier)) = marks.split_last_mut() {
        for (_, floor) in earlier {
            *floor = StreamSeq::new(u64::MAX);
        }
    }
    Ok(marks)
}

/// See [`crate::store::TickStore::sweep`].
pub(super) async fn sweep(
    store: &Sqlite,
    until: &[(Epoch, StreamSeq)],
    mut behind: Option<Series>,
    limit: u64,
) -> Result<Swept, StoreError> {
    let mut rows = 0;
    for _ in 0..SERIES {
        let Some(series) = next(store, behind.as_ref()).await? else {
            let done = true;
            return Ok(Swept { rows, behind, done });
        };
        for (epoch, floor) in until {
            let left = limit.saturating_sub(rows);
            rows += delete(store, &series, (*epoch, *floor), left).await?;
        }
        if rows >= limit {
            // There may be more of this series.
            break;
        }
        behind = Some(series);
    }
    let done = false;
    Ok(Swept { rows, behind, done })
}

/// The series after this one: events, then bars.
async fn next(store: &Sqlite, series: Option<&Series>) -> Result<Option<Series>, StoreError> {
    let (kind, venue, symbol) = match series {
        None => ("", "", ""),
        Some(Series::Events(kind, venue, symbol)) => {
            (kind.as_str(), venue.as_str(), symbol.as_str())
        }
        Some(Series::Bars(venue, symbol, _)) => {
            return bars_behind(store, venue.as_str(), symbol.as_str()).await;
        }
    };
    let found = sqlx::query(NEXT_EVENTS)
        .bind(kind)
        .bind(venue)
        .bind(symbol)
        .fetch_optional(&store.readers)
        .await?;
    let Some(row) = found else {
        return bars_behind(store, "", "").await;
    };
    let (venue, symbol) = instrument(&row)?;
    let kind: String = row.try_get("kind")?;
    let kind: Kind = kind.parse().map_err(|_| damaged("kind", &kind))?;
    Ok(Some(Series::Events(kind, venue, symbol)))
}

async fn bars_behind(
    store: &Sqlite,
    venue: &str,
    symbol: &str,
) -> Result<Option<Series>, StoreError> {
    let found = sqlx::query(NEXT_BARS)
        .bind(venue)
        .bind(symbol)
        .fetch_optional(&store.readers)
        .await?;
    let bars = |row: SqliteRow| {
        let (venue, symbol) = instrument(&row)?;
        Ok(Series::Bars(venue, symbol, SHORT))
    };
    found.map(bars).transpose()
}

async fn delete(
    store: &Sqlite,
    series: &Series,
    (epoch, floor): (Epoch, StreamSeq),
    limit: u64,
) -> Result<u64, StoreError> {
    let (statement, key) = match series {
        Series::Events(kind, venue, symbol) => (
            DELETE_EVENTS,
            [kind.as_str(), venue.as_str(), symbol.as_str()],
        ),
        Series::Bars(venue, symbol, interval) => (
            DELETE_BARS,
            [venue.as_str(), symbol.as_str(), interval.as_str()],
        ),
    };
    let mut query = sqlx::query(statement);
    for value in key {
        query = query.bind(value);
    }
    let deleted = query
        .bind(epoch.created().get())
        .bind(i64::from(epoch.generation()))
        .bind(int(floor))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .execute(&store.writer)
        .await?;
    Ok(deleted.rows_affected())
}
