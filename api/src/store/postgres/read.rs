//! What the HTTP side asks, each in one snapshot.

use schemas::id::{Kind, Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgRow;

use super::begun::Begun;
use super::{StoreError, days};
use crate::store::statements::{
    self, PROGRESS, STATE, VENUES, found, int, key_of, listed, page_statement, position_statement,
    span_of,
};
use crate::store::{Found, Listed, Page, Range, Recorded, Series};

/// Days that are read at once, whatever they hold.
const FEW: i64 = 4;

/// See [`crate::store::TickStore::page`].
pub(super) async fn page(
    mut snapshot: Begun,
    stream: &str,
    range: &Range,
) -> Result<Page, StoreError> {
    let progress = recorded(&mut snapshot, stream).await?.map(Into::into);
    let mut rows = Vec::new();
    for window in windows(&mut snapshot, range).await? {
        let left = i64::from(range.limit) - i64::try_from(rows.len()).unwrap_or(i64::MAX);
        if left <= 0 {
            break;
        }
        rows.extend(rows_of(&mut snapshot, range, window, left).await?);
    }
    snapshot.commit().await?;
    let rows = rows.iter().map(found).collect::<Result<_, _>>()?;
    Ok(Page { rows, progress })
}

/// The parts of a range, in the order in which they are read. The database plans for each partition
/// that a part touches, and opens it: of a long range only as much is touched as fills the page.
async fn windows(snapshot: &mut Begun, range: &Range) -> Result<Vec<(i64, i64)>, StoreError> {
    let (from, to) = span_of(range);
    let is_long = to.saturating_sub(from) > days::NANOS * FEW;
    if !is_long || matches!(range.series, Series::Bars(..)) {
        return Ok(vec![(from, to)]);
    }
    let ends = days::list(snapshot).await?;
    let mut ends: Vec<i64> = ends.iter().map(|day| day.end().get()).collect();
    let first = ends.first().map(|end| end - days::NANOS);
    ends.extend(first);
    Ok(split(&ends, (from, to), range.descending))
}

/// Parts of a span that end at some of these times: few days first, then more and more.
fn split(ends: &[i64], (from, to): (i64, i64), descending: bool) -> Vec<(i64, i64)> {
    let mut edges: Vec<i64> = ends
        .iter()
        .copied()
        .filter(|end| from < *end && *end < to)
        .collect();
    edges.sort_unstable();
    if descending {
        edges.reverse();
    }
    let (mut begin, last) = if descending { (to, from) } else { (from, to) };
    let (mut parts, mut next, mut step) = (Vec::new(), 0, 1);
    while let Some(edge) = edges.get(next) {
        parts.push((begin.min(*edge), begin.max(*edge)));
        begin = *edge;
        next += step;
        step *= 2;
    }
    parts.push((begin.min(last), begin.max(last)));
    parts
}

async fn rows_of(
    snapshot: &mut Begun,
    range: &Range,
    (from, to): (i64, i64),
    limit: i64,
) -> Result<Vec<PgRow>, StoreError> {
    let (_, _, values) = key_of(&range.series);
    let mut query = sqlx::query(AssertSqlSafe(page_statement(range))).persistent(false);
    for value in values {
        query = query.bind(value);
    }
    query = query.bind(from).bind(to).bind(limit);
    if let Some((at, epoch, seq)) = range.after {
        query = query
            .bind(at.get())
            .bind(epoch.created().get())
            .bind(i64::from(epoch.generation()))
            .bind(int(seq));
    }
    Ok(query.fetch_all(&mut **snapshot).await?)
}

/// How far a stream is recorded.
pub(super) async fn recorded(
    snapshot: &mut Begun,
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
    mut snapshot: Begun,
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
    mut snapshot: Begun,
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
pub(super) async fn dead_letters(mut snapshot: Begun) -> Result<u64, StoreError> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM dead_letters")
        .persistent(false)
        .fetch_one(&mut *snapshot)
        .await?;
    snapshot.commit().await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// See [`crate::store::TickStore::venues`].
pub(super) async fn venues(mut snapshot: Begun) -> Result<Vec<Listed>, StoreError> {
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
    mut snapshot: Begun,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_read_in_parts_that_grow() {
        let ends: Vec<i64> = (1..=9).map(|day| day * 10).collect();
        let forth = split(&ends, (5, 75), false);
        assert_eq!(forth, [(5, 10), (10, 20), (20, 40), (40, 75)]);
        let back = split(&ends, (5, 75), true);
        assert_eq!(back, [(70, 75), (60, 70), (40, 60), (5, 40)]);
        assert_eq!(split(&ends, (-100, 5), true), [(-100, 5)]);
        assert_eq!(split(&[], (0, 9), false), [(0, 9)]);
        for descending in [false, true] {
            let mut parts = split(&ends, (i64::MIN, i64::MAX), descending);
            parts.sort_unstable();
            assert_eq!(parts.first().unwrap().0, i64::MIN);
            assert_eq!(parts.last().unwrap().1, i64::MAX);
            assert!(parts.windows(2).all(|pair| pair[0].1 == pair[1].0));
        }
    }
}
