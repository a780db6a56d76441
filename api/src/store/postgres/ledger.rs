//! What is missing, and what was no tick.

use schemas::position::{Epoch, StreamSeq};
use schemas::time::UnixNanos;
use sqlx::AssertSqlSafe;

use super::StoreError;
use super::begun::Begun;
use crate::store::statements::{
    ADD_LOSS, BEGINNING, DEAD_LETTERS, GAPS, KEEP_MARK, LOSSES, PROGRESS, SET_PROGRESS,
    dead_letter, found, gap_of, int, loss, lost, recorded,
};
use crate::store::{Content, DeadLetter, Found, Loss, Place, Row};

/// See [`crate::store::TickStore::dead_letters_page`].
pub(super) async fn dead_letters(
    mut snapshot: Begun,
    after: Option<(Epoch, StreamSeq)>,
    limit: u32,
) -> Result<Vec<DeadLetter>, StoreError> {
    let (_, epoch, seq) = BEGINNING;
    let (epoch, seq) = after.unwrap_or((epoch, seq));
    let rows = sqlx::query(DEAD_LETTERS)
        .persistent(false)
        .bind(epoch.created().get())
        .bind(i64::from(epoch.generation()))
        .bind(int(seq))
        .bind(i64::from(limit))
        .fetch_all(&mut *snapshot)
        .await?;
    snapshot.commit().await?;
    rows.iter().map(dead_letter).collect()
}

/// See [`crate::store::TickStore::feed_gaps`].
pub(super) async fn gaps(
    mut snapshot: Begun,
    (from, to): (UnixNanos, UnixNanos),
    after: Option<Place>,
    limit: u32,
) -> Result<Vec<Found>, StoreError> {
    let (at, epoch, seq) = after.unwrap_or(BEGINNING);
    let rows = sqlx::query(GAPS)
        .persistent(false)
        .bind(from.max(at).get())
        .bind(to.get())
        .bind(at.get())
        .bind(epoch.created().get())
        .bind(i64::from(epoch.generation()))
        .bind(int(seq))
        .bind(i64::from(limit))
        .fetch_all(&mut *snapshot)
        .await?;
    snapshot.commit().await?;
    rows.iter().map(found).collect()
}

/// See [`crate::store::TickStore::losses_page`].
pub(super) async fn losses(
    mut snapshot: Begun,
    (stream, (from, to)): (&str, (UnixNanos, UnixNanos)),
    after: Option<Place>,
    limit: u32,
) -> Result<Vec<Loss>, StoreError> {
    let (at, epoch, seq) = after.unwrap_or(BEGINNING);
    let rows = sqlx::query(LOSSES)
        .persistent(false)
        .bind(stream)
        .bind(from.max(at).get())
        .bind(to.get())
        .bind(at.get())
        .bind(epoch.created().get())
        .bind(i64::from(epoch.generation()))
        .bind(int(seq))
        .bind(i64::from(limit))
        .fetch_all(&mut *snapshot)
        .await?;
    snapshot.commit().await?;
    rows.iter().map(lost).collect()
}

/// See [`crate::store::TickStore::trimmed`].
pub(super) async fn trimmed(
    mut transaction: Begun,
    stream: &str,
    (epoch, first): (Epoch, StreamSeq),
    now: UnixNanos,
) -> Result<Option<Loss>, StoreError> {
    // Where there is no row yet, whoever is first makes it, and the others wait for that.
    let (created, generation) = (epoch.created().get(), i64::from(epoch.generation()));
    let begin = "INSERT INTO progress (stream, created, gen, floor, at) VALUES ($1, $2, $3, 0, 0)
                 ON CONFLICT (stream) DO NOTHING";
    sqlx::query(begin)
        .persistent(false)
        .bind(stream)
        .bind(created)
        .bind(generation)
        .execute(&mut *transaction)
        .await?;
    let row = sqlx::query(AssertSqlSafe(format!("{PROGRESS} FOR UPDATE")))
        .persistent(false)
        .bind(stream)
        .fetch_optional(&mut *transaction)
        .await?;
    let known = row.as_ref().map(recorded).transpose()?;
    let Some(loss) = loss(stream, known, (epoch, first), now) else {
        transaction.rollback().await?;
        return Ok(None);
    };
    sqlx::query(ADD_LOSS)
        .persistent(false)
        .bind(stream)
        .bind(now.get())
        .bind(created)
        .bind(generation)
        .bind(int(loss.from))
        .bind(int(loss.to))
        .bind(loss.began.get())
        .bind(&loss.why)
        .execute(&mut *transaction)
        .await?;
    sqlx::query(KEEP_MARK)
        .persistent(false)
        .bind(stream)
        .bind(created)
        .bind(generation)
        .bind(now.get())
        .execute(&mut *transaction)
        .await?;
    sqlx::query(SET_PROGRESS)
        .persistent(false)
        .bind(stream)
        .bind(created)
        .bind(generation)
        .bind(int(loss.to))
        .bind(UnixNanos::EPOCH.get())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Some(loss))
}

/// Adds what feeds' ticks tell of holes.
pub(super) async fn insert_gaps(
    transaction: &mut sqlx::PgConnection,
    epoch: Epoch,
    events: &[&Row],
) -> Result<(), StoreError> {
    for row in events {
        let Content::Event { at, .. } = row.content else {
            continue;
        };
        let Some(began) = gap_of(&row.content, &row.payload) else {
            continue;
        };
        sqlx::query(
            "INSERT INTO gaps (at, created, gen, s, began, payload) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT DO NOTHING",
        )
        .persistent(false)
        .bind(at.get())
        .bind(epoch.created().get())
        .bind(i64::from(epoch.generation()))
        .bind(int(row.seq))
        .bind(began.get())
        .bind(row.payload.as_ref())
        .execute(&mut *transaction)
        .await?;
    }
    Ok(())
}
