//! The statements that databases have in common, and how their rows are read.

use schemas::codec;
use schemas::id::{Kind, Symbol, Venue};
use schemas::position::{Epoch, StreamSeq};
use schemas::tick::{FeedState, Tick};
use schemas::time::UnixNanos;
use sqlx::{ColumnIndex, Database, Decode, Row, Type};

use super::{Content, DeadLetter, Found, Listed, Loss, Place, Range, Recorded, Series, StoreError};

/// How far a stream is recorded.
pub(super) const PROGRESS: &str = "SELECT created, gen, floor, at FROM progress WHERE stream = $1";
/// Dead letters behind a position.
pub(super) const DEAD_LETTERS: &str =
    "SELECT created, gen, s, subject, problem, payload FROM dead_letters
     WHERE (created, gen, s) > ($1, $2, $3) ORDER BY created, gen, s LIMIT $4";
/// Venues with how many instruments they have.
pub(super) const VENUES: &str = "SELECT venue, count(*) AS instruments FROM states
     WHERE kind = $1 GROUP BY venue ORDER BY venue";
/// The latest of a topic.
pub(super) const STATE: &str =
    "SELECT CAST(0 AS BIGINT) AS at, created, gen, s, payload FROM states
     WHERE kind = $1 AND venue = $2 AND symbol = $3";
/// Holes that feeds told of, behind a place.
pub(super) const GAPS: &str = "SELECT at, created, gen, s, payload FROM gaps
     WHERE at >= $1 AND began < $2 AND (at, created, gen, s) > ($3, $4, $5, $6)
     ORDER BY at, created, gen, s LIMIT $7";
/// What was lost of a stream, behind a place.
pub(super) const LOSSES: &str = "SELECT stream, at, created, gen, s, until, began, why FROM losses
     WHERE stream = $1 AND at >= $2 AND began < $3 AND (at, created, gen, s) > ($4, $5, $6, $7)
     ORDER BY at, created, gen, s LIMIT $8";
/// Adds a loss.
pub(super) const ADD_LOSS: &str =
    "INSERT INTO losses (stream, at, created, gen, s, until, began, why)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
/// Moves progress on without asking whether it goes back.
pub(super) const SET_PROGRESS: &str =
    "INSERT INTO progress (stream, created, gen, floor, at) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (stream) DO UPDATE SET created = $2, gen = $3, floor = $4, at = $5";
/// Notes where recording stood in an epoch, before progress goes on in a later one: else nobody would
/// know how old that epoch's rows are.
pub(super) const KEEP_MARK: &str = "INSERT INTO marks (stream, created, gen, floor, at)
     SELECT stream, created, gen, floor, $4 FROM progress
     WHERE stream = $1 AND (created, gen) < ($2, $3) ON CONFLICT DO NOTHING";
/// Why a part of a stream was lost.
const TRIMMED: &str = "the stream's retention removed it before it was recorded";

/// Before the first place of all: of no row of any table.
pub(super) const BEGINNING: Place = (
    UnixNanos::new(i64::MIN),
    Epoch::new(UnixNanos::new(i64::MIN), 0),
    StreamSeq::ZERO,
);

/// What is lost of a stream that begins at `first`, when this much of it is recorded. What was
/// recorded of a stream that another one replaced says nothing about this one.
pub(super) fn loss(
    stream: &str,
    recorded: Option<Recorded>,
    (epoch, first): (Epoch, StreamSeq),
    noticed: UnixNanos,
) -> Option<Loss> {
    if recorded.is_some_and(|recorded| recorded.epoch > epoch) {
        return None;
    }
    let known = recorded.filter(|recorded| recorded.epoch.created() == epoch.created());
    let from = known.map_or(StreamSeq::new(1), |recorded| recorded.floor.next());
    (from < first).then(|| Loss {
        stream: stream.to_owned(),
        epoch,
        from,
        to: first.prev(),
        began: known.map_or(UnixNanos::EPOCH, |recorded| recorded.at),
        noticed,
        why: TRIMMED.to_owned(),
    })
}

/// Since when a feed's tick says that there was a hole, if it says so.
pub(super) fn gap_of(content: &Content, payload: &[u8]) -> Option<UnixNanos> {
    let Content::Event {
        kind: Kind::Feed,
        at,
        ..
    } = content
    else {
        return None;
    };
    let Ok(Tick::Feed(feed)) = codec::from_msgpack(payload) else {
        return None;
    };
    let from = feed.gap.and_then(|gap| gap.from);
    (feed.state == FeedState::Gap).then(|| from.map_or(*at, |from| from.min(*at)))
}

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

/// Which instrument a row is of.
pub(super) fn instrument<R: Row>(row: &R) -> Result<(Venue, Symbol), StoreError>
where
    for<'r> String: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r str: ColumnIndex<R>,
{
    let (venue, symbol): (String, String) = (row.try_get("venue")?, row.try_get("symbol")?);
    Ok((
        Venue::new(&venue).map_err(|_| damaged("venue", &venue))?,
        Symbol::new(&symbol).map_err(|_| damaged("symbol", &symbol))?,
    ))
}

/// How far a stream is recorded.
pub(super) fn recorded<R: Row>(row: &R) -> Result<Recorded, StoreError>
where
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r str: ColumnIndex<R>,
{
    Ok(Recorded {
        epoch: epoch_of(row)?,
        floor: seq_of(row, "floor")?,
        at: UnixNanos::new(row.try_get("at")?),
    })
}

/// A dead letter.
pub(super) fn dead_letter<R: Row>(row: &R) -> Result<DeadLetter, StoreError>
where
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> String: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r str: ColumnIndex<R>,
{
    let payload: Vec<u8> = row.try_get("payload")?;
    Ok(DeadLetter {
        epoch: epoch_of(row)?,
        seq: seq_of(row, "s")?,
        subject: row.try_get("subject")?,
        problem: row.try_get("problem")?,
        payload: payload.into(),
    })
}

/// A venue and how many instruments it has.
pub(super) fn listed<R: Row>(row: &R) -> Result<Listed, StoreError>
where
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> String: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r str: ColumnIndex<R>,
{
    let venue: String = row.try_get("venue")?;
    let instruments: i64 = row.try_get("instruments")?;
    Ok(Listed {
        venue: Venue::new(&venue).map_err(|_| damaged("venue", &venue))?,
        instruments: u64::try_from(instruments).unwrap_or(0),
    })
}

/// What was lost.
pub(super) fn lost<R: Row>(row: &R) -> Result<Loss, StoreError>
where
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> String: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r str: ColumnIndex<R>,
{
    Ok(Loss {
        stream: row.try_get("stream")?,
        epoch: epoch_of(row)?,
        from: seq_of(row, "s")?,
        to: seq_of(row, "until")?,
        began: UnixNanos::new(row.try_get("began")?),
        noticed: UnixNanos::new(row.try_get("at")?),
        why: row.try_get("why")?,
    })
}
