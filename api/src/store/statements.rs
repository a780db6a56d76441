//! The statements that databases have in common, and how their rows are read.

use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use sqlx::{ColumnIndex, Database, Decode, Row, Type};

use super::{Found, Range, Series, StoreError};

/// A sequence as databases have it.
pub(super) fn int(seq: StreamSeq) -> i64 {
    i64::try_from(seq.get()).unwrap_or(i64::MAX)
}

/// Table, conditions on the key, and the values for them.
pub(super) fn key_of(series: &Series) -> (&'static str, &'static str, [&str; 3]) {
    match series {
        Series::Events(kind, venue, symbol) => (
            "events",
            "kind = $1 AND venue = $2 AND symbol = $3",
            [kind.as_str(), venue.as_str(), symbol.as_str()],
        ),
        Series::Bars(venue, symbol, interval) => (
            "bars",
            "venue = $1 AND symbol = $2 AND iv = $3",
            [venue.as_str(), symbol.as_str(), interval.as_str()],
        ),
    }
}

/// The statement of a page; a cursor's row is bound as $7 to $10.
pub(super) fn page_statement(range: &Range) -> String {
    let (table, key, _) = key_of(&range.series);
    let (order, beyond) = if range.descending {
        ("DESC", "<")
    } else {
        ("ASC", ">")
    };
    let behind = range.after.map_or(String::new(), |_| {
        format!(" AND (at, created, gen, s) {beyond} ($7, $8, $9, $10)")
    });
    // Of bars there is one at a time: its index has no more, and more would have to be sorted.
    let order = match range.series {
        Series::Events(..) => format!("at {order}, created {order}, gen {order}, s {order}"),
        Series::Bars(..) => format!("at {order}"),
    };
    format!(
        "SELECT at, created, gen, s, payload FROM {table}
         WHERE {key} AND at >= $4 AND at < $5{behind} ORDER BY {order} LIMIT $6"
    )
}

/// From when to when rows can lie on a page: nothing on the far side of the cursor's time is read.
pub(super) fn span_of(range: &Range) -> (i64, i64) {
    let (from, to) = (range.from.get(), range.to.get());
    match range.after {
        None => (from, to),
        Some((at, _, _)) if range.descending => (from, to.min(at.get().saturating_add(1))),
        Some((at, _, _)) => (from.max(at.get()), to),
    }
}

/// The statement for ticks by position.
pub(super) fn position_statement(series: &Series) -> String {
    let (table, key, _) = key_of(series);
    format!(
        "SELECT at, created, gen, s, payload FROM {table}
         WHERE {key} AND created = $4 AND gen = $5 AND s > $6 AND s <= $7 ORDER BY s LIMIT $8"
    )
}

/// A stored value is not what was written.
pub(super) fn damaged(field: &'static str, value: &impl ToString) -> StoreError {
    StoreError::Damaged {
        field,
        value: value.to_string(),
    }
}

/// The epoch of a row.
pub(super) fn epoch_of<R: Row>(row: &R) -> Result<Epoch, StoreError>
where
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r str: ColumnIndex<R>,
{
    let generation: i64 = row.try_get("gen")?;
    let generation = u32::try_from(generation).map_err(|_| damaged("gen", &generation))?;
    let created = UnixNanos::new(row.try_get("created")?);
    Ok(Epoch::new(created, generation))
}

/// A sequence of a row.
pub(super) fn seq_of<R: Row>(row: &R, field: &'static str) -> Result<StreamSeq, StoreError>
where
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r str: ColumnIndex<R>,
{
    let seq: i64 = row.try_get(field)?;
    let seq = u64::try_from(seq).map_err(|_| damaged(field, &seq))?;
    Ok(StreamSeq::new(seq))
}

/// A stored message.
pub(super) fn found<R: Row>(row: &R) -> Result<Found, StoreError>
where
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r str: ColumnIndex<R>,
    R::Database: Database,
{
    let payload: Vec<u8> = row.try_get("payload")?;
    Ok(Found {
        at: UnixNanos::new(row.try_get("at")?),
        epoch: epoch_of(row)?,
        seq: seq_of(row, "s")?,
        payload: payload.into(),
    })
}
