//! What the HTTP side asks, each in one snapshot.

use schemas::id::{Kind, Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use sqlx::{AssertSqlSafe, Postgres, Transaction};

use super::StoreError;
use crate::store::statements::{
    self, PROGRESS, STATE, VENUES, found, int, key_of, listed, page_statement, position_statement,
    span_of,
};
use crate::store::{Found, Listed, Page, Range, Recorded, Series};

pub(super) type Snapshot = Transaction<'static, Postgres>;

/// See [`crate::store::TickStore::page`].
pub(super) async fn page(
    mut snapshot: Snapshot,
    stream: &str,
    range: &Range,
) -> Result<Page, StoreError> {
    let progress = recorded(&mut snapshot, stream).await?.map(Into::into);
    let (_, _, values) = key_of(&range.series);
    let (from, to) = span_of(range);
    let mut query = sqlx::query(AssertSqlSafe(page_statement(range))).persistent(false);
    for value in values {
        query = query.bind(value);
    }
    query = query.bind(from).bind(to).bind(i64::from(range.limit));
    if let Some((at, epoch, seq)) = range.after {
        query = query
            .bind(at.get())
            .bind(epoch.created().get())
            .bind(i64::from(epoch.generation()))
            .bind(int(seq));
    }
    let rows = query.fetch_all(&mut *snapshot).await?;
    snapshot.commit().await?;
    let rows = rows.iter().map(found).collect::<Result<_, _>>()?;
    Ok(Page { rows, progress })
}

/// How far a stream is recorded.
pub(super) async fn recorded(
    snapshot: &mut Snapshot,
    stream: &str,
) -> Result<Option<Recorded>, StoreError> {
    let row = sqlx::query(PROGRESS)
        .persistent(false)
        .bind(stream)
        .fetch_optional(&mut **snapshot)
        .await?;
    row.as_ref().map(statements::recorded).transpose()
}

/// See [`crate::store::TickStore::by_position`].
pub(super) async fn by_position(
    mut snapshot: Snapshot,
    series: &Series,
    (epoch, (after, until)): (Epoch, (StreamSeq, StreamSeq)),
    limit: u32,
) -> Result<Vec<Found>, StoreError> {
    let (_, _, values) = key_of(series);
    let mut query = sqlx::query(AssertSqlSafe(position_statement(series))).persistent(false);
    for value in values {
        query = query.bind(value);
    }
    let rows = query
        .bind(epoch.created().get())
        .bind(i64::from(epoch.generation()))
        .bind(int(after))
        .bind(int(until))
        .bind(i64::from(limit))
        .fetch_all(&mut *snapshot)
        .await?;
    snapshot.commit().await?;
    rows.iter().map(found).collect()
}

/// See [`crate::store::TickStore::instruments`].
pub(super) async fn instruments(
    mut snapshot: Snapshot,
    (venue, search): (Option<&Venue>, &str),
    after: Option<(&str, &str)>,
    limit: u32,
) -> Result<Vec<Found>, StoreError> {
    // No symbol has a NUL in it, and no text of the database may.
    if search.contains('\0') {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(
        "SELECT 0::bigint AS at, created, gen, s, payload FROM states
         WHERE kind = $1 AND ($2::text IS NULL OR venue = $2)
           AND position(lower($3::text COLLATE \"C\") IN lower(symbol)) > 0
           AND ($4::text IS NULL OR (venue, symbol) > ($4, $5))
         ORDER BY venue, symbol LIMIT $6",
    )
    .persistent(false)
    .bind(Kind::Inst.as_str())
    .bind(venue.map(Venue::as_str))
    .bind(search)
    .bind(after.map(|(venue, _)| venue))
    .bind(after.map(|(_, symbol)| symbol))
    .bind(i64::from(limit))
    .fetch_all(&mut *snapshot)
    .await?;
    snapshot.commit().await?;
    rows.iter().map(found).collect()
}

/// See [`crate::store::TickStore::dead_letters`].
pub(super) async fn dead_letters(mut snapshot: Snapshot) -> Result<u64, StoreError> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM dead_letters")
        .persistent(false)
        .fetch_one(&mut *snapshot)
        .await?;
    snapshot.commit().await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// See [`crate::store::TickStore::venues`].
pub(super) async fn venues(mut snapshot: Snapshot) -> Result<Vec<Listed>, StoreError> {
    let rows = sqlx::query(VENUES)
        .persistent(false)
        .bind(Kind::Inst.as_str())
        .fetch_all(&mut *snapshot)
        .await?;
    snapshot.commit().await?;
    rows.iter().map(listed).collect()
}

/// See [`crate::store::TickStore::state`].
pub(super) async fn state(
    mut snapshot: Snapshot,
    kind: Kind,
    venue: &Venue,
    symbol: &Symbol,
) -> Result<Option<Found>, StoreError> {
    let row = sqlx::query(STATE)
        .persistent(false)
        .bind(kind.as_str())
        .bind(venue.as_str())
        .bind(symbol.as_str())
        .fetch_optional(&mut *snapshot)
        .await?;
    snapshot.commit().await?;
    row.as_ref().map(found).transpose()
}
