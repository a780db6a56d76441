//! What is missing, and what was no tick.

use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use sqlx::{Connection as _, SqliteConnection};

use super::Sqlite;
use crate::store::statements::{
    ADD_LOSS, BEGINNING, DEAD_LETTERS, GAPS, KEEP_MARK, LOSSES, PROGRESS, SET_PROGRESS,
    dead_letter, found, int, loss, lost, recorded,
};
use crate::store::{Content, DeadLetter, Found, Loss, Place, Row, StoreError};

/// See [`crate::store::TickStore::dead_letters_page`].
pub(super) async fn dead_letters(
    store: &Sqlite,
    after: Option<(Epoch, StreamSeq)>,
    limit: u32,
) -> Result<Vec<DeadLetter>, StoreError> {
    let (_, epoch, seq) = BEGINNING;
    let (epoch, seq) = after.unwrap_or((epoch, seq));
    let rows = sqlx::query(DEAD_LETTERS)
        .bind(epoch.created().get())
        .bind(i64::from(epoch.generation()))
        .bind(int(seq))
        .bind(i64::from(limit))
        .fetch_all(&store.readers)
        .await?;
    rows.iter().map(dead_letter).collect()
}

/// See [`crate::store::TickStore::feed_gaps`].
pub(super) async fn gaps(
    store: &Sqlite,
    (from, to): (UnixNanos, UnixNanos),
    after: Option<Place>,
    limit: u32,
) -> Result<Vec<Found>, StoreError> {
    let (at, epoch, seq) = after.unwrap_or(BEGINNING);
    let rows = sqlx::query(GAPS)
        .bind(from.max(at).get())
        .bind(to.get())
        .bind(at.get())
        .bind(epoch.created().get())
        .bind(i64::from(epoch.generation()))
        .bind(int(seq))
        .bind(i64::from(limit))
        .fetch_all(&store.readers)
        .await?;
    rows.iter().map(found).collect()
}

/// See [`crate::store::TickStore::losses_page`].
pub(super) async fn losses(
    store: &Sqlite,
    (stream, (from, to)): (&str, (UnixNanos, UnixNanos)),
    after: Option<Place>,
    limit: u32,
) -> Result<Vec<Loss>, StoreError> {
    let (at, epoch, seq) = after.unwrap_or(BEGINNING);
    let rows = sqlx::query(LOSSES)
        .bind(stream)
        .bind(from.max(at).get())
        .bind(to.get())
        .bind(at.get())
        .bind(epoch.created().get())
        .bind(i64::from(epoch.generation()))
        .bind(int(seq))
        .bind(i64::from(limit))
        .fetch_all(&store.readers)
        .await?;
    rows.iter().map(lost).collect()
}

/// See [`crate::store::TickStore::trimmed`].
pub(super) async fn trimmed(
    store: &Sqlite,
    stream: &str,
    (epoch, first): (Epoch, StreamSeq),
    now: UnixNanos,
) -> Result<Option<Loss>, StoreError> {
    let mut connection = store.writer.acquire().await?;
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let row = sqlx::query(PROGRESS)
        .bind(stream)
        .fetch_optional(&mut *transaction)
        .await?;
    let known = row.as_ref().map(recorded).transpose()?;
    let Some(loss) = loss(stream, known, (epoch, first), now) else {
        return Ok(None);
    };
    sqlx::query(ADD_LOSS)
        .bind(stream)
        .bind(now.get())
        .bind(epoch.created().get())
        .bind(i64::from(epoch.generation()))
        .bind(int(loss.from))
        .bind(int(loss.to))
        .bind(loss.began.get())
        .bind(&loss.why)
        .execute(&mut *transaction)
        .await?;
    sqlx::query(KEEP_MARK)
        .bind(stream)
        .bind(epoch.created().get())
        .bind(i64::from(epoch.generation()))
        .bind(now.get())
        .execute(&mut *transaction)
        .await?;
    sqlx::query(SET_PROGRESS)
        .bind(stream)
        .bind(epoch.created().get())
        .bind(i64::from(epoch.generation()))
        .bind(int(loss.to))
        .bind(UnixNanos::EPOCH.get())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Some(loss))
}

/// Adds what a feed's tick tells of a hole.
pub(super) async fn insert_gap(
    connection: &mut SqliteConnection,
    epoch: Epoch,
    row: &Row,
    began: UnixNanos,
) -> Result<(), sqlx::Error> {
    let Content::Event { at, .. } = row.content else {
        return Ok(());
    };
    sqlx::query(
        "INSERT INTO gaps (at, created, gen, s, began, payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO NOTHING",
    )
    .bind(at.get())
    .bind(epoch.created().get())
    .bind(i64::from(epoch.generation()))
    .bind(int(row.seq))
    .bind(began.get())
    .bind(row.payload.as_ref())
    .execute(connection)
    .await?;
    Ok(())
}
