//! Storing a batch: events by COPY, and where some are stored already, by a statement that skips
//! them; keyed kinds by upserts.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use schemas::position::{Epoch, StreamSeq};
use sqlx::raw_sql;

use super::StoreError;
use super::begun::Begun;
use super::copy::{self, Encoder};
use super::ledger;
use crate::store::statements::{KEEP_MARK, int};
use crate::store::{Content, Recorded, Row};

/// What is given to the socket at a time.
const CHUNK: usize = 1 << 16;

/// Stores a batch.
pub(super) async fn record(
    transaction: &mut Begun,
    epoch: Epoch,
    rows: &[Row],
) -> Result<(), StoreError> {
    let is_event = |row: &&Row| matches!(row.content, Content::Event { .. });
    let mut events: Vec<&Row> = rows.iter().filter(is_event).collect();
    // Whoever stores the same events does it in the same order, and waits at most for one.
    events.sort_by_key(|row| row.seq);
    if !events.is_empty() && !copied(transaction, epoch, &events).await? {
        merge_events(transaction, epoch, &events).await?;
    }
    ledger::insert_gaps(transaction, epoch, &events).await?;
    upsert_bars(transaction, epoch, rows).await?;
    upsert_states(transaction, epoch, rows).await?;
    dead_letters(transaction, epoch, rows).await
}

/// Copies events; `false` if one of them is there already, and then nothing happened.
async fn copied(
    transaction: &mut Begun,
    epoch: Epoch,
    events: &[&Row],
) -> Result<bool, StoreError> {
    let mut encoder = Encoder::new(epoch);
    raw_sql("SAVEPOINT copying")
        .execute(&mut **transaction)
        .await?;
    let mut copying = transaction.copy_in_raw(copy::EVENTS).await?;
    // The database works on one part while the next is written.
    for row in events {
        encoder.push(row)?;
        if encoder.pending().len() >= CHUNK {
            copying.send(encoder.pending()).await?;
            encoder.sent();
        }
    }
    encoder.end();
    copying.send(encoder.pending()).await?;
    match copying.finish().await {
        Ok(_) => {
            let release = raw_sql("RELEASE SAVEPOINT copying");
            release.execute(&mut **transaction).await?;
        }
        Err(sqlx::Error::Database(refused)) if refused.is_unique_violation() => {
            let undo = raw_sql("ROLLBACK TO SAVEPOINT copying");
            undo.execute(&mut **transaction).await?;
            return Ok(false);
        }
        Err(problem) => return Err(problem.into()),
    }
    Ok(true)
}

/// Columns of rows, as arrays.
#[derive(Default)]
struct Columns<'r> {
    at: Vec<i64>,
    s: Vec<i64>,
    first: Vec<&'r str>,
    second: Vec<&'r str>,
    third: Vec<&'r str>,
    payload: Vec<&'r [u8]>,
}

impl<'r> Columns<'r> {
    fn push(&mut self, key: [&'r str; 3], at: i64, row: &'r Row) {
        let [first, second, third] = key;
        self.first.push(first);
        self.second.push(second);
        self.third.push(third);
        self.at.push(at);
        self.s.push(int(row.seq));
        self.payload.push(&row.payload);
    }
}

async fn merge_events(
    transaction: &mut Begun,
    epoch: Epoch,
    events: &[&Row],
) -> Result<(), StoreError> {
    let mut columns = Columns::default();
    let mut figures: [Vec<Option<Decimal>>; 6] = Default::default();
    for row in events {
        let Content::Event {
            kind,
            venue,
            symbol,
            at,
        } = &row.content
        else {
            continue;
        };
        let key = [kind.as_str(), venue.as_str(), symbol.as_str()];
        columns.push(key, at.get(), row);
        for (column, figure) in figures.iter_mut().zip(copy::figures(row)) {
            column.push(figure);
        }
    }
    let mut query = sqlx::query(
        "INSERT INTO events (created, gen, at, s, kind, venue, symbol, payload,
                             price, size, bid, bid_size, ask, ask_size)
         SELECT $1, $2, * FROM unnest($3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[],
             $8::bytea[], $9::numeric[], $10::numeric[], $11::numeric[], $12::numeric[],
             $13::numeric[], $14::numeric[])
         ON CONFLICT DO NOTHING",
    )
    .persistent(false)
    .bind(epoch.created().get())
    .bind(i64::from(epoch.generation()))
    .bind(columns.at)
    .bind(columns.s)
    .bind(columns.first)
    .bind(columns.second)
    .bind(columns.third)
    .bind(columns.payload);
    for column in figures {
        query = query.bind(column);
    }
    query.execute(&mut **transaction).await?;
    Ok(())
}

/// The latest row of each key. A statement cannot change a row twice, and in one order for everybody
/// no two of them wait for each other.
fn latest<'r, K: Ord>(
    rows: &'r [Row],
    key: impl Fn(&'r Content) -> Option<K>,
) -> BTreeMap<K, &'r Row> {
    let mut latest: BTreeMap<K, &Row> = BTreeMap::new();
    for row in rows {
        let Some(key) = key(&row.content) else {
            continue;
        };
        let seq = latest.get(&key).map_or(StreamSeq::ZERO, |row| row.seq);
        if row.seq >= seq {
            latest.insert(key, row);
        }
    }
    latest
}

async fn upsert_bars(
    transaction: &mut Begun,
    epoch: Epoch,
    rows: &[Row],
) -> Result<(), StoreError> {
    let bars = latest(rows, |content| match content {
        Content::Bar {
            venue,
            symbol,
            interval,
            at,
        } => Some(([venue.as_str(), symbol.as_str(), interval.as_str()], *at)),
        Content::Event { .. } | Content::State { .. } | Content::DeadLetter { .. } => None,
    });
    if bars.is_empty() {
        return Ok(());
    }
    let mut columns = Columns::default();
    let mut figures: [Vec<Option<Decimal>>; 5] = Default::default();
    for ((key, at), row) in bars {
        columns.push(key, at.get(), row);
        for (column, figure) in figures.iter_mut().zip(copy::candle(&row.payload)) {
            column.push(figure);
        }
    }
    let mut query = sqlx::query(
        "INSERT INTO bars (created, gen, at, s, venue, symbol, iv, payload,
                           open, high, low, close, volume)
         SELECT $1, $2, * FROM unnest($3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[],
             $8::bytea[], $9::numeric[], $10::numeric[], $11::numeric[], $12::numeric[],
             $13::numeric[])
         ON CONFLICT (venue, symbol, iv, at) DO UPDATE SET
             created = excluded.created, gen = excluded.gen, s = excluded.s,
             payload = excluded.payload, open = excluded.open, high = excluded.high,
             low = excluded.low, close = excluded.close, volume = excluded.volume
         WHERE (excluded.created, excluded.gen, excluded.s) > (bars.created, bars.gen, bars.s)",
    )
    .persistent(false)
    .bind(epoch.created().get())
    .bind(i64::from(epoch.generation()))
    .bind(columns.at)
    .bind(columns.s)
    .bind(columns.first)
    .bind(columns.second)
    .bind(columns.third)
    .bind(columns.payload);
    for column in figures {
        query = query.bind(column);
    }
    query.execute(&mut **transaction).await?;
    Ok(())
}

async fn upsert_states(
    transaction: &mut Begun,
    epoch: Epoch,
    rows: &[Row],
) -> Result<(), StoreError> {
    let states = latest(rows, |content| match content {
        Content::State {
            kind,
            venue,
            symbol,
        } => Some([kind.as_str(), venue.as_str(), symbol.as_str()]),
        Content::Event { .. } | Content::Bar { .. } | Content::DeadLetter { .. } => None,
    });
    if states.is_empty() {
        return Ok(());
    }
    let mut columns = Columns::default();
    for (key, row) in states {
        columns.push(key, 0, row);
    }
    sqlx::query(
        "INSERT INTO states (created, gen, s, kind, venue, symbol, payload)
         SELECT $1, $2, * FROM unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::bytea[])
         ON CONFLICT (kind, venue, symbol) DO UPDATE SET
             created = excluded.created, gen = excluded.gen, s = excluded.s,
             payload = excluded.payload
         WHERE (excluded.created, excluded.gen, excluded.s) > (states.created, states.gen, states.s)",
    )
    .persistent(false)
    .bind(epoch.created().get())
    .bind(i64::from(epoch.generation()))
    .bind(columns.s)
    .bind(columns.first)
    .bind(columns.second)
    .bind(columns.third)
    .bind(columns.payload)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

async fn dead_letters(
    transaction: &mut Begun,
    epoch: Epoch,
    rows: &[Row],
) -> Result<(), StoreError> {
    let mut dead: Vec<_> = rows.iter().filter_map(of_dead_letter).collect();
    if dead.is_empty() {
        return Ok(());
    }
    // In one order for everybody, so that no two of them wait for each other.
    dead.sort_by_key(|(s, ..)| *s);
    let s: Vec<i64> = dead.iter().map(|(s, ..)| *s).collect();
    let payload: Vec<&[u8]> = dead.iter().map(|(.., payload)| *payload).collect();
    let texts = dead
        .into_iter()
        .map(|(_, subject, problem, _)| (subject, problem));
    let (subject, problem): (Vec<String>, Vec<String>) = texts.unzip();
    sqlx::query(
        "INSERT INTO dead_letters (created, gen, s, subject, problem, payload)
         SELECT $1, $2, * FROM unnest($3::bigint[], $4::text[], $5::text[], $6::bytea[])
         ON CONFLICT DO NOTHING",
    )
    .persistent(false)
    .bind(epoch.created().get())
    .bind(i64::from(epoch.generation()))
    .bind(s)
    .bind(subject)
    .bind(problem)
    .bind(payload)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

fn of_dead_letter(row: &Row) -> Option<(i64, String, String, &[u8])> {
    let Content::DeadLetter { subject, problem } = &row.content else {
        return None;
    };
    let (subject, problem) = (printable(subject), printable(problem));
    Some((int(row.seq), subject, problem, &row.payload))
}

/// The database has no text with a NUL in it.
fn printable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// See [`crate::store::TickStore::advance`].
pub(super) async fn advance(
    mut transaction: Begun,
    stream: &str,
    recorded: Recorded,
) -> Result<(), StoreError> {
    sqlx::query(KEEP_MARK)
        .persistent(false)
        .bind(stream)
        .bind(recorded.epoch.created().get())
        .bind(i64::from(recorded.epoch.generation()))
        .bind(recorded.at.get())
        .execute(&mut *transaction)
        .await?;
    sqlx::query(
        "INSERT INTO progress (stream, created, gen, floor, at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (stream) DO UPDATE
             SET created = $2, gen = $3, floor = $4, at = $5
         WHERE (excluded.created, excluded.gen, excluded.floor)
             > (progress.created, progress.gen, progress.floor)",
    )
    .persistent(false)
    .bind(stream)
    .bind(recorded.epoch.created().get())
    .bind(i64::from(recorded.epoch.generation()))
    .bind(int(recorded.floor))
    .bind(recorded.at.get())
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}
