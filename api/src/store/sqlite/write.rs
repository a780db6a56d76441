//! Storing a batch: events many at a time, the rest one by one.

use schemas::position::Epoch;
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::ledger;
use crate::store::statements::{gap_of, int};
use crate::store::{Content, Row};

/// Events of a statement: each statement is a way to the driver's thread and back.
const ROWS: usize = 100;

/// Stores a batch.
pub(super) async fn record(
    connection: &mut SqliteConnection,
    epoch: Epoch,
    rows: &[Row],
) -> Result<(), sqlx::Error> {
    let is_event = |row: &&Row| matches!(row.content, Content::Event { .. });
    let (mut events, others): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(is_event);
    // Neighbours of the table one behind the other: its pages are visited once.
    events.sort_by(|a, b| place(a).cmp(&place(b)));
    let mut whole = events.chunks_exact(ROWS);
    for part in whole.by_ref() {
        insert_events(connection, epoch, part).await?;
    }
    for row in whole.remainder().iter().copied().chain(others) {
        insert(connection, epoch, row).await?;
    }
    for row in events {
        if let Some(began) = gap_of(&row.content, &row.payload) {
            ledger::insert_gap(connection, epoch, row, began).await?;
        }
    }
    Ok(())
}

/// Where an event lies in the table.
fn place(row: &Row) -> Option<(&str, &str, &str, i64, u64)> {
    let Content::Event {
        kind,
        venue,
        symbol,
        at,
    } = &row.content
    else {
        return None;
    };
    let (venue, symbol) = (venue.as_str(), symbol.as_str());
    Some((kind.as_str(), venue, symbol, at.get(), row.seq.get()))
}

async fn insert_events(
    connection: &mut SqliteConnection,
    epoch: Epoch,
    rows: &[&Row],
) -> Result<(), sqlx::Error> {
    let values = vec!["(?, ?, ?, ?, ?, ?, ?, ?)"; rows.len()].join(", ");
    let sql = format!(
        "INSERT INTO events (kind, venue, symbol, at, created, gen, s, payload)
         VALUES {values} ON CONFLICT DO NOTHING"
    );
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for row in rows {
        let Some((kind, venue, symbol, at, _)) = place(row) else {
            continue;
        };
        query = query
            .bind(kind)
            .bind(venue)
            .bind(symbol)
            .bind(at)
            .bind(epoch.created().get())
            .bind(i64::from(epoch.generation()))
            .bind(int(row.seq))
            .bind(row.payload.as_ref());
    }
    query.execute(connection).await?;
    Ok(())
}

async fn insert(
    connection: &mut SqliteConnection,
    epoch: Epoch,
    row: &Row,
) -> Result<(), sqlx::Error> {
    let (created, generation) = (epoch.created().get(), i64::from(epoch.generation()));
    let query = match &row.content {
        Content::Event { .. } => return insert_events(connection, epoch, &[row]).await,
        Content::Bar { venue, symbol, interval, at } => sqlx::query(
            "INSERT INTO bars (venue, symbol, iv, at, created, gen, s, payload)
             VALUES (?4, ?5, ?6, ?7, ?1, ?2, ?3, ?8)
             ON CONFLICT DO UPDATE SET created = ?1, gen = ?2, s = ?3, payload = ?8
             WHERE (excluded.created, excluded.gen, excluded.s) > (bars.created, bars.gen, bars.s)",
        )
        .bind(created)
        .bind(generation)
        .bind(int(row.seq))
        .bind(venue.as_str())
        .bind(symbol.as_str())
        .bind(interval.as_str())
        .bind(at.get()),
        Content::State { kind, venue, symbol } => sqlx::query(
            "INSERT INTO states (kind, venue, symbol, created, gen, s, payload)
             VALUES (?4, ?5, ?6, ?1, ?2, ?3, ?7)
             ON CONFLICT DO UPDATE SET created = ?1, gen = ?2, s = ?3, payload = ?7
             WHERE (excluded.created, excluded.gen, excluded.s) > (states.created, states.gen, states.s)",
        )
        .bind(created)
        .bind(generation)
        .bind(int(row.seq))
        .bind(kind.as_str())
        .bind(venue.as_str())
        .bind(symbol.as_str()),
        Content::DeadLetter { subject, problem } => sqlx::query(
            "INSERT INTO dead_letters (created, gen, s, subject, problem, payload)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
        )
        .bind(created)
        .bind(generation)
        .bind(int(row.seq))
        .bind(subject)
        .bind(problem),
    };
    query.bind(row.payload.as_ref()).execute(connection).await?;
    Ok(())
}
