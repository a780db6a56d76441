//! Deleting what is old: whole days where everything is, single rows elsewhere.

use std::time::Duration;

use schemas::id::{Interval, Kind};
use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::Instant;
use tracing::{debug, info};

use super::begun::Begun;
use super::days::{self, Partition};
use super::{Postgres, StoreError};
use crate::store::statements::{damaged, epoch_of, instrument, int, key_of, seq_of};
use crate::store::{Series, Swept};

/// Series that are looked through at a time.
const SERIES: usize = 100;
/// For how long: recording waits for it.
const LONGEST: Duration = Duration::from_secs(5);
/// Of longer bars there are few, and they are kept.
const SHORT: Interval = Interval::Second1;

/// See [`crate::store::TickStore::stood`].
pub(super) async fn stood(
    store: &Postgres,
    stream: &str,
    (now, before): (UnixNanos, UnixNanos),
) -> Result<Vec<(Epoch, StreamSeq)>, StoreError> {
    let noted = note(store, stream, now).await;
    let mut transaction = store.writing().await?;
    // Of each epoch the latest one that is old enough tells everything.
    sqlx::query(
        "DELETE FROM marks WHERE stream = $1 AND at < $2 AND floor < (
             SELECT max(floor) FROM marks AS other
             WHERE other.stream = $1 AND other.created = marks.created AND other.gen = marks.gen
               AND other.at < $2)",
    )
    .persistent(false)
    .bind(stream)
    .bind(before.get())
    .execute(&mut *transaction)
    .await?;
    let rows = sqlx::query(
        "SELECT created, gen, floor FROM marks WHERE stream = $1 AND at < $2 ORDER BY created, gen",
    )
    .persistent(false)
    .bind(stream)
    .bind(before.get())
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let mark = |row: &PgRow| Ok((epoch_of(row)?, seq_of(row, "floor")?));
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

async fn note(store: &Postgres, stream: &str, now: UnixNanos) -> Result<(), StoreError> {
    let mut transaction = store.writing().await?;
    sqlx::query(
        "INSERT INTO marks (stream, created, gen, floor, at)
         SELECT stream, created, gen, floor, $2 FROM progress WHERE stream = $1
         ON CONFLICT DO NOTHING",
    )
    .persistent(false)
    .bind(stream)
    .bind(now.get())
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}

/// See [`crate::store::TickStore::sweep`]. Of days that are dropped whole, as many rows are counted as
/// the database believes they had.
pub(super) async fn sweep(
    store: &Postgres,
    until: &[(Epoch, StreamSeq)],
    mut behind: Option<Series>,
    limit: u64,
) -> Result<Swept, StoreError> {
    let mut rows = 0;
    if behind.is_none() {
        rows += drop_days(store, until).await?;
    }
    let mut deleted = 0;
    let mut done = false;
    let begun = Instant::now();
    for _ in 0..SERIES {
        if begun.elapsed() >= LONGEST {
            break;
        }
        let mut transaction = store.writing().await?;
        let Some(series) = next(&mut transaction, behind.as_ref()).await? else {
            done = true;
            transaction.rollback().await?;
            break;
        };
        for mark in until {
            let left = limit.saturating_sub(deleted);
            deleted += delete(&mut transaction, &series, *mark, left).await?;
        }
        transaction.commit().await?;
        if deleted >= limit {
            // There may be more of this series.
            break;
        }
        behind = Some(series);
    }
    rows += deleted;
    Ok(Swept { rows, behind, done })
}

/// Drops the days that were over when these positions were reached, if nothing came later for them.
async fn drop_days(store: &Postgres, until: &[(Epoch, StreamSeq)]) -> Result<u64, StoreError> {
    let Some((epoch, floor)) = until.last() else {
        return Ok(0);
    };
    let mut transaction = store.writing().await?;
    let reached: Option<i64> = sqlx::query_scalar(
        "SELECT max(at) FROM marks WHERE created = $1 AND gen = $2 AND floor = $3",
    )
    .persistent(false)
    .bind(epoch.created().get())
    .bind(i64::from(epoch.generation()))
    .bind(int(*floor))
    .fetch_one(&mut *transaction)
    .await?;
    let days = days::list(&mut transaction).await?;
    let mut old = Vec::new();
    for day in days {
        let is_old = reached.is_some_and(|reached| day.end().get() <= reached);
        if is_old && !holds_more(&mut transaction, &day, until).await? {
            old.push(day);
        }
    }
    transaction.commit().await?;
    let mut rows = 0;
    let begun = Instant::now();
    for day in old {
        if begun.elapsed() >= LONGEST {
            break;
        }
        match drop_day(store, &day, until).await {
            Ok(dropped) => rows += dropped,
            // Somebody reads or writes it for long: another time.
            Err(problem) if problem.retry_after().is_some() && !problem.is_away() => {
                debug!(partition = day.name, %problem, "not dropped now");
                break;
            }
            Err(problem) => return Err(problem),
        }
    }
    Ok(rows)
}

/// Whether a day has a row behind these positions. Of each series and epoch only the last is looked at.
async fn holds_more(
    transaction: &mut Begun,
    day: &Partition,
    until: &[(Epoch, StreamSeq)],
) -> Result<bool, StoreError> {
    const LAST: &str =
        "ORDER BY kind DESC, venue DESC, symbol DESC, created DESC, gen DESC, s DESC";
    let name = &day.name;
    let sql = format!(
        "WITH RECURSIVE last AS (
             (SELECT kind, venue, symbol, created, gen, s FROM {name} {LAST} LIMIT 1)
             UNION ALL
             SELECT next.* FROM last, LATERAL (
                 SELECT kind, venue, symbol, created, gen, s FROM {name} AS other
                 WHERE (other.kind, other.venue, other.symbol, other.created, other.gen)
                     < (last.kind, last.venue, last.symbol, last.created, last.gen)
                 {LAST} LIMIT 1) AS next)
         SELECT EXISTS (SELECT FROM last WHERE NOT EXISTS (
             SELECT FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS mark (created, gen, s)
             WHERE mark.created = last.created AND mark.gen = last.gen AND last.s <= mark.s))"
    );
    let created: Vec<i64> = until
        .iter()
        .map(|(epoch, _)| epoch.created().get())
        .collect();
    let generations = until.iter().map(|(epoch, _)| i64::from(epoch.generation()));
    let generations: Vec<i64> = generations.collect();
    let floors: Vec<i64> = until.iter().map(|(_, floor)| int(*floor)).collect();
    Ok(sqlx::query_scalar(AssertSqlSafe(sql))
        .persistent(false)
        .bind(created)
        .bind(generations)
        .bind(floors)
        .fetch_one(&mut **transaction)
        .await?)
}

/// Drops a day unless something came for it meanwhile; how many rows it had.
async fn drop_day(
    store: &Postgres,
    day: &Partition,
    until: &[(Epoch, StreamSeq)],
) -> Result<u64, StoreError> {
    let mut transaction = store.writing().await?;
    // Nobody adds anything between the look and the deed.
    let alone = "SET LOCAL lock_timeout = 2000; LOCK TABLE ONLY events IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(alone).execute(&mut *transaction).await?;
    if !days::list(&mut transaction).await?.contains(day)
        || holds_more(&mut transaction, day, until).await?
    {
        transaction.rollback().await?;
        return Ok(0);
    }
    let rows: f32 = sqlx::query_scalar("SELECT reltuples FROM pg_class WHERE oid = $1::regclass")
        .persistent(false)
        .bind(&day.name)
        .fetch_one(&mut *transaction)
        .await?;
    let sql = format!("DROP TABLE {}", day.name);
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    info!(
        partition = day.name,
        "dropped a day that was recorded long ago"
    );
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate, and the cast keeps within bounds"
    )]
    Ok(rows.max(0.0) as u64)
}

/// The series after this one: events, then bars.
async fn next(
    transaction: &mut Begun,
    series: Option<&Series>,
) -> Result<Option<Series>, StoreError> {
    let (kind, venue, symbol) = match series {
        None => ("", "", ""),
        Some(Series::Events(kind, venue, symbol)) => {
            (kind.as_str(), venue.as_str(), symbol.as_str())
        }
        Some(Series::Bars(venue, symbol, _)) => {
            return bars_behind(transaction, venue.as_str(), symbol.as_str()).await;
        }
    };
    let found = sqlx::query(
        "SELECT kind, venue, symbol FROM events
         WHERE (kind, venue, symbol) > ($1, $2, $3) ORDER BY kind, venue, symbol LIMIT 1",
    )
    .persistent(false)
    .bind(kind)
    .bind(venue)
    .bind(symbol)
    .fetch_optional(&mut **transaction)
    .await?;
    let Some(row) = found else {
        return bars_behind(transaction, "", "").await;
    };
    let (venue, symbol) = instrument(&row)?;
    let kind: String = row.try_get("kind")?;
    let kind: Kind = kind.parse().map_err(|_| damaged("kind", &kind))?;
    Ok(Some(Series::Events(kind, venue, symbol)))
}

async fn bars_behind(
    transaction: &mut Begun,
    venue: &str,
    symbol: &str,
) -> Result<Option<Series>, StoreError> {
    let found = sqlx::query(
        "SELECT venue, symbol FROM bars
         WHERE (venue, symbol) > ($1, $2) ORDER BY venue, symbol LIMIT 1",
    )
    .persistent(false)
    .bind(venue)
    .bind(symbol)
    .fetch_optional(&mut **transaction)
    .await?;
    let bars = |row: PgRow| {
        let (venue, symbol) = instrument(&row)?;
        Ok(Series::Bars(venue, symbol, SHORT))
    };
    found.map(bars).transpose()
}

async fn delete(
    transaction: &mut Begun,
    series: &Series,
    (epoch, floor): (Epoch, StreamSeq),
    limit: u64,
) -> Result<u64, StoreError> {
    let (table, key, values) = key_of(series);
    // Sequences of a series are its own, so that the last of so many bounds them.
    let these = format!("{key} AND created = $4 AND gen = $5 AND s <=");
    let sql = format!(
        "DELETE FROM {table} WHERE {these} (
             SELECT max(s) FROM (SELECT s FROM {table} WHERE {these} $6 ORDER BY s LIMIT $7) AS few)"
    );
    let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
    for value in values {
        query = query.bind(value);
    }
    let deleted = query
        .bind(epoch.created().get())
        .bind(i64::from(epoch.generation()))
        .bind(int(floor))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .execute(&mut **transaction)
        .await?;
    Ok(deleted.rows_affected())
}
