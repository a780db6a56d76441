//! Storing a batch: each kind of row in statements of many rows.

use schemas::position::Epoch;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Sqlite, SqliteConnection};

use super::ledger;
use crate::store::statements::{gap_of, int};
use crate::store::{Content, Row};

/// Rows of a statement: each statement is a way to the driver's thread and back.
const ROWS: usize = 500;
/// What a later message of the same key replaces.
const REPLACE: &str = "ON CONFLICT DO UPDATE SET
     created = excluded.created, gen = excluded.gen, s = excluded.s, payload = excluded.payload
     WHERE (excluded.created, excluded.gen, excluded.s) > (created, gen, s)";

type Bound<'r> = Query<'r, Sqlite, SqliteArguments>;

/// Stores a batch.
pub(super) async fn record(
    connection: &mut SqliteConnection,
    epoch: Epoch,
    rows: &[Row],
) -> Result<(), sqlx::Error> {
    let mut tables: [Vec<&Row>; 4] = Default::default();
    let [events, bars, states, dead_letters] = &mut tables;
    for row in rows {
        match &row.content {
            Content::Event { .. } => events.push(row),
            Content::Bar { .. } => bars.push(row),
            Content::State { .. } => states.push(row),
            Content::DeadLetter { .. } => dead_letters.push(row),
        }
    }
    for rows in &mut tables {
        // Neighbours of the table one behind the other: its pages are visited once.
        rows.sort_by(|a, b| place(a).cmp(&place(b)));
        for part in rows.chunks(ROWS) {
            insert(connection, epoch, part).await?;
        }
    }
    for row in &tables[0] {
        if let Some(began) = gap_of(&row.content, &row.payload) {
            ledger::insert_gap(connection, epoch, row, began).await?;
        }
    }
    Ok(())
}

/// Where a row lies in its table.
fn place(row: &Row) -> ([&str; 3], i64, u64) {
    let (names, at) = match &row.content {
        Content::Event {
            kind,
            venue,
            symbol,
            at,
        } => ([kind.as_str(), venue.as_str(), symbol.as_str()], at.get()),
        Content::Bar {
            venue,
            symbol,
            interval,
            at,
        } => (
            [venue.as_str(), symbol.as_str(), interval.as_str()],
            at.get(),
        ),
        Content::State {
            kind,
            venue,
            symbol,
        } => ([kind.as_str(), venue.as_str(), symbol.as_str()], 0),
        Content::DeadLetter { .. } => ([""; 3], 0),
    };
    (names, at, row.seq.get())
}

/// Inserts rows of one table.
async fn insert(
    connection: &mut SqliteConnection,
    epoch: Epoch,
    rows: &[&Row],
) -> Result<(), sqlx::Error> {
    let Some(first) = rows.first() else {
        return Ok(());
    };
    let (into, own, otherwise) = match &first.content {
        Content::Event { .. } => (
            "events (created, gen, s, payload, kind, venue, symbol, at",
            4,
            "ON CONFLICT DO NOTHING",
        ),
        Content::Bar { .. } => (
            "bars (created, gen, s, payload, venue, symbol, iv, at",
            4,
            REPLACE,
        ),
        Content::State { .. } => (
            "states (created, gen, s, payload, kind, venue, symbol",
            3,
            REPLACE,
        ),
        Content::DeadLetter { .. } => (
            "dead_letters (created, gen, s, payload, subject, problem",
            2,
            "ON CONFLICT DO NOTHING",
        ),
    };
    let one = format!("(?, ?, ?, ?{})", ", ?".repeat(own));
    let values = vec![one; rows.len()].join(", ");
    let sql = format!("INSERT INTO {into}) VALUES {values} {otherwise}");
    // Of each table one statement is kept ready.
    let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(rows.len() == ROWS);
    for row in rows {
        query = query
            .bind(epoch.created().get())
            .bind(i64::from(epoch.generation()))
            .bind(int(row.seq))
            .bind(row.payload.as_ref());
        query = bind(query, row);
    }
    query.execute(connection).await?;
    Ok(())
}

/// Binds what the row's table has of its own.
fn bind<'r>(query: Bound<'r>, row: &'r Row) -> Bound<'r> {
    let (names, at, _) = place(row);
    match &row.content {
        Content::Event { .. } | Content::Bar { .. } => {
            names.iter().fold(query, |q, name| q.bind(*name)).bind(at)
        }
        Content::State { .. } => names.iter().fold(query, |q, name| q.bind(*name)),
        Content::DeadLetter { subject, problem } => query.bind(subject).bind(problem),
    }
}
